"""Measure training steps on one thread; print one JSON object.

    python tools/bench_train.py [--only PART ...] [--batch 4] [--repeats 3] [--device cpu|cuda] [--precision fp32|bf16]

``tempme``: a step of TempMe against full fine-tuning of plain CLIP: ViT-B/32 and its text tower with random weights,
12 frames at 224, 32 words; the peak of memory is that of a process of its own for each, on a GPU what torch allocated.
``small``: the small towers of learn.py: a step of the joint model and of TempMe in bfloat16 against float32, and
encoding videos by the joint model against TempMe, and with what reranking stores. Everything takes turns in one
process; medians of CPU time, on a GPU of the clock.
"""

import argparse
from functools import partial
from typing import Any, cast

import torch
from harness import Cost, measure_rise_mb, print_json, run_in_new_process, take_turns
from learn import FPS, FRAMES, SETTINGS, SIZE, TEXT, VISION

from vidret.align.ucofia import Aligner
from vidret.align.ucofia_temporal import pool_frames
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.train import optim
from vidret.train.losses import add_terms, pair_loss
from vidret.train.methods import tempme
from vidret.train.retrieval import RetrievalModule

LARGE_VISION = VisionShape(image_size=224, patch=32, width=768, layers=12, heads=12, dim=512, quick_gelu=True)
LARGE_TEXT = TextShape(context=77, vocabulary=49408, width=512, layers=12, heads=8, dim=512, quick_gelu=True)
KINDS: dict[str, dict[str, Any]] = {
    "full": {"method": "clip"},
    "tempme": {"method": "tempme", "merging": MergeSchedule(), "lora_rank": 8},
}
SMALL_BATCH, NUM_WORDS = 64, 18


class Step:
    """One kind's model, optimiser and batch."""

    def __init__(self, kind: str, batch: int, device: str, precision: str) -> None:
        torch.manual_seed(0)
        self.device, self.precision = torch.device(device), precision
        self.model = RetrievalModule(vision=LARGE_VISION, text=LARGE_TEXT, **KINDS[kind]).model.to(self.device).train()
        rule: Any = tempme.TempMe().recipe.rule if kind == "tempme" else lambda name: optim.Setting("all", 1e-6, 0.2)
        self.optimizer = torch.optim.AdamW(optim.parameter_groups(self.model, rule))
        self.pixels = torch.randint(0, 255, (batch, 12, 224, 224, 3), dtype=torch.uint8, device=self.device)
        self.mask = torch.ones(batch, 12, dtype=torch.bool, device=self.device)
        self.ids = torch.randint(1, 40000, (batch, 32), device=self.device)
        self.ids[:, -1] = 49407

    def run(self) -> None:
        """Make one step."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            videos, texts = self.model.encode_videos(self.pixels, self.mask), self.model.encode_texts(self.ids)
            whole = pool_frames(videos.frames.float(), videos.frame_mask)
        torch.autograd.backward(pair_loss(texts.sentences.float(), whole, self.model.encoder.logit_scale))
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def find_peak_mb(kind: str, batch: int, device: str, precision: str) -> float:
    """Return the peak of two steps: to be called in a process of its own."""
    torch.set_num_threads(1)

    def run_twice() -> None:
        step = Step(kind, batch, device, precision)
        step.run()
        step.run()

    rise_mb = measure_rise_mb(run_twice)
    return torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else rise_mb


def measure_tempme(given: argparse.Namespace) -> dict[str, Any]:
    """Compare a step of TempMe with one of full fine-tuning."""
    settings = (given.batch, given.device, given.precision)
    peaks_mb = {kind: run_in_new_process(find_peak_mb, kind, *settings) for kind in KINDS}
    costs = take_turns({kind: Step(kind, *settings).run for kind in KINDS}, given.repeats)

    def read_s(cost: Cost) -> float:
        return cost.wall_s if given.device == "cuda" else cost.cpu_s

    return {
        "seconds": {kind: cost.to_dict() for kind, cost in costs.items()},
        "peak_mb": {kind: round(peak) for kind, peak in peaks_mb.items()},
        "speed": round(read_s(costs["full"]) / read_s(costs["tempme"]), 3),
        "memory": round(peaks_mb["tempme"] / peaks_mb["full"], 3),
    }


def draw_batch() -> RetrievalBatch:
    """Return random frames and texts."""
    ids = torch.randint(1, 40_000, (SMALL_BATCH, NUM_WORDS))
    ids[:, 0], ids[:, -1] = 49406, 49407
    pixels = torch.randint(0, 256, (SMALL_BATCH, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8)
    numbers = torch.arange(SMALL_BATCH)
    return RetrievalBatch(pixels, torch.ones(SMALL_BATCH, FRAMES, dtype=torch.bool), ids, numbers, numbers, numbers)


def run_losses(module: RetrievalModule, batch: RetrievalBatch, *, half: bool) -> None:
    """Go forwards and backwards through a training step, without the optimiser's part."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = module.train().compute_terms(batch)
    torch.autograd.backward(add_terms(terms))


@torch.inference_mode()
def encode(module: RetrievalModule, batch: RetrievalBatch, *, packs: bool) -> None:
    """Encode videos, and prepare them for the aligner."""
    videos = module.model.eval().encode_videos(batch.pixels, batch.frame_mask)
    if packs:
        cast(Aligner, module.model.aligner).prepare(videos)


def measure_small(given: argparse.Namespace) -> dict[str, Any]:
    """Compare steps and encodings of small towers by CPU time."""
    ratios: dict[str, float] = {}
    shapes: dict[str, Any] = {"num_frames": FRAMES, "fps": FPS, "train_all": True, "vision": VISION, "text": TEXT}
    batch = draw_batch()
    modules = {method: RetrievalModule(**shapes, **SETTINGS[method].extra) for method in ("tempme", "joint")}
    for method, module in modules.items():
        steps = {kind: partial(run_losses, module, batch, half=kind == "bf16") for kind in ("fp32", "bf16")}
        costs = take_turns(steps, given.repeats)
        ratios[f"step of {method}: bf16 / fp32"] = costs["bf16"].cpu_s / costs["fp32"].cpu_s
    encodings = {method: partial(encode, module, batch, packs=False) for method, module in modules.items()}
    encodings["packed"] = partial(encode, modules["joint"], batch, packs=True)
    costs = take_turns(encodings, given.repeats)
    ratios["encoding: joint / tempme"] = costs["joint"].cpu_s / costs["tempme"].cpu_s
    ratios["encoding: joint, prepared for reranking / tempme"] = costs["packed"].cpu_s / costs["tempme"].cpu_s
    return {name: round(value, 2) for name, value in ratios.items()}


def main() -> None:
    """Measure and print."""
    parts = {"tempme": measure_tempme, "small": measure_small}
    parser = argparse.ArgumentParser(description="Measure training steps.")
    parser.add_argument("--only", nargs="+", choices=parts, default=[*parts])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print_json({name: parts[name](given) for name in given.only})


if __name__ == "__main__":
    main()
