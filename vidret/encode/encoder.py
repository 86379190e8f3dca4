"""The encoder protocol, and checks that hold for every encoder."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from vidret.errors import EncoderError
from vidret.types import Frames, LayerTokens, LayerWords, Resize, Sampling, SegmentEmbedding, TextEmbedding

STARTER = "starter"
WHOLE = "#whole"


class Encoder(Protocol):
    """Turn frames and text into vectors of one space, in which a dot product is a similarity.

    ``name`` loads the same encoder again; ``fingerprint`` names its weights, preprocessing and sampling: vectors of two
    encoders can be compared exactly when their fingerprints are equal. ``resize`` and ``sampling`` say what the frames
    given to it must look like.
    """

    name: str
    dim: int
    fingerprint: str
    resize: Resize
    sampling: Sampling

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each of several stretches of video as one segment; with ``tokens`` also the parts of its frames."""
        ...

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each of several texts."""
        ...


@runtime_checkable
class LayeredEncoder(Encoder, Protocol):
    """An encoder that can also give what its last layers hold, as a grounding head reads it."""

    def encode_layers(self, frames: Frames, num_layers: int) -> LayerTokens:
        """Give the last ``num_layers`` layers of a video's frames, which are seen ``sampling.num_frames`` at a time."""
        ...

    def encode_text_layers(self, texts: Sequence[str], num_layers: int) -> list[LayerWords]:
        """Give the last ``num_layers`` layers of each of several texts."""
        ...


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Resolve ``auto``: bfloat16 where the device computes in it (twice as fast, cosine 0.999), else float32.

    A GPU that only emulates bfloat16, as NVIDIA's before compute capability 8.0 do, is slower in it.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if device.type == "cuda":
        native = bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float32
    if device.type == "xpu":
        native = getattr(torch.xpu.get_device_properties(device), "has_bfloat16_conversions", False)
        return torch.bfloat16 if native else torch.float32
    if device.type == "mps":  # Apple's first chips only emulate it
        return torch.float32
    supports = (getattr(torch.cpu, probe, None) for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(probe() for probe in supports if probe is not None) else torch.float32


def check_encoder(encoder: Encoder) -> None:
    """Refuse an encoder that gives one vector to two different pictures: broken weights fail so, without a word.

    Raises:
        EncoderError: The vectors are equal, not finite, not of unit length, or not of the stated dimension.
    """
    side = encoder.resize.crop
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    pictures = np.stack([np.broadcast_to(ramp[:, None, None], (side, side, 3)), np.zeros((side, side, 3), np.uint8)])
    pictures[1, :: max(side // 8, 1), :, 0] = 255
    embeddings = encoder.encode_frames([Frames(picture[None], np.zeros(1)) for picture in pictures])
    first, second = (embedding.video for embedding in embeddings)
    if not first.shape == second.shape == (encoder.dim,):
        raise EncoderError(f"{encoder.name} must give vectors of dimension {encoder.dim}, got shape {first.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise EncoderError(f"{encoder.name} must give finite vectors, got NaN or infinity: its weights are damaged")
    for length in (float(np.linalg.norm(first)), float(np.linalg.norm(second))):
        if abs(length - 1) > 1e-3:
            raise EncoderError(f"{encoder.name} must give vectors of length 1, got {length:.4g}")
    if float(first @ second) > 0.9999:
        raise EncoderError(f"{encoder.name} must tell two pictures apart, got the same vector: its weights are damaged")


def digest_weights(named: Iterable[tuple[str, torch.Tensor]], *facts: object) -> str:
    """Hash names, shapes and an even sample of the values of every weight, with whatever else decides the vectors.

    A sample, not all: any training step moves nearly every value, and a model should open in moments.
    """
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    for name, weight in named:
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 1024)].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def normalise_pixels(
    pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype
) -> torch.Tensor:
    """Turn uint8 (frame, height, width, 3) into standardised (frame, 3, height, width) of ``dtype``.

    ``mean`` and ``std`` are on the scale 0..1.
    """
    centre, spread = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (mean, std))
    pictures = pixels.permute(0, 3, 1, 2).contiguous().float()  # planes first: rows of three channels are slow
    return pictures.mul_(1 / (255 * spread)).add_(-centre / spread).to(dtype)
