"""Small heads of UniversalVTG with random weights, and inputs."""

import torch

from vidret.ground.universalvtg import UniversalVtg

WIDTH, FRAME_WIDTH, TEXT_WIDTH = 64, 20, 24


def make_head(seed: int = 0) -> UniversalVtg:
    """Return a small head whose residual branches all count."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = UniversalVtg(FRAME_WIDTH, TEXT_WIDTH, WIDTH).double().eval()
        with torch.no_grad():
            for name, weight in head.named_parameters():
                if name.endswith("scale"):
                    weight.uniform_(0.1, 0.6)
                elif weight.ndim < 2 or name.endswith(("norm.weight", "norm.bias")):
                    weight.add_(torch.rand_like(weight), alpha=0.3)
    return head


def make_inputs(num_frames: int, num_words: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    frames = torch.randn(num_frames, FRAME_WIDTH, generator=generator, dtype=torch.float64)
    return frames, torch.randn(num_words, TEXT_WIDTH, generator=generator, dtype=torch.float64)
