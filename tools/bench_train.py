"""Measure a training step of TempMe against full fine-tuning of plain CLIP; print one JSON object.

    python tools/bench_train.py [--batch 4] [--repeats 3] [--device cpu|cuda] [--precision fp32|bf16] [--compile]

ViT-B/32 and its text tower with random weights, 12 frames at 224, 32 words. Steps take turns in one process; the peak
of memory is that of a process of its own for each. On a GPU the peak is what torch allocated. Unproven there.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import time
from typing import Any

import torch

from vidret.align.ucofia_temporal import pool_frames
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.train import optim
from vidret.train.losses import pair_losses
from vidret.train.methods import tempme
from vidret.train.retrieval import RetrievalModule

VISION = VisionShape(image_size=224, patch=32, width=768, layers=12, heads=12, dim=512, quick_gelu=True)
TEXT = TextShape(context=77, vocabulary=49408, width=512, layers=12, heads=8, dim=512, quick_gelu=True)
KINDS: dict[str, dict[str, Any]] = {
    "full": {"method": "clip"},
    "tempme": {"method": "tempme", "merging": MergeSchedule(), "lora_rank": 8},
}


class Step:
    """One kind's model, optimiser and batch."""

    def __init__(self, kind: str, batch: int, device: str, precision: str, compiled: str | None) -> None:
        """Build all of it."""
        torch.manual_seed(0)
        self.device, self.precision = torch.device(device), precision
        module = RetrievalModule(vision=VISION, text=TEXT, compiled=compiled, **KINDS[kind])
        self.model = module.model.to(self.device).train()
        rule: Any = tempme.TempMe.recipe.rule if kind == "tempme" else lambda name: optim.Setting("all", 1e-6, 0.2)
        self.optimizer = torch.optim.AdamW(optim.parameter_groups(self.model, rule))
        self.trained = sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)
        self.pixels = torch.randint(0, 255, (batch, 12, 224, 224, 3), dtype=torch.uint8, device=self.device)
        self.mask = torch.ones(batch, 12, dtype=torch.bool, device=self.device)
        self.ids = torch.randint(1, 40000, (batch, 32), device=self.device)
        self.ids[:, -1] = 49407

    def run(self) -> float:
        """Make one step; give its seconds."""
        started = self._now()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            videos, texts = self.model.encode_videos(self.pixels, self.mask), self.model.encode_texts(self.ids)
            whole = pool_frames(videos.frames.float(), videos.frame_mask)
        losses = pair_losses(texts.sentences.float(), whole, self.model.encoder.logit_scale)
        torch.autograd.backward(losses.total)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure_peak(kind: str, batch: int, device: str, precision: str, compiled: str | None, threads: int) -> float:
    """Give the peak of two steps in MB, above what the process had before: to be called in a process of its own."""
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(kind, batch, device, precision, compiled)
    for _ in range(2):
        step.run()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3


def main() -> None:
    """Measure both, print the numbers and their ratios."""
    parser = argparse.ArgumentParser(description="Measure training steps.")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--compile", action="store_true", help="both, with inductor")
    arguments = parser.parse_args()
    settings = (arguments.batch, arguments.device, arguments.precision, "inductor" if arguments.compile else None)
    peaks = {}
    for kind in KINDS:  # first, while this process is small: a child starts from its parent's peak
        with multiprocessing.get_context("spawn").Pool(1) as pool_of_one:
            peaks[kind] = pool_of_one.apply(measure_peak, (kind, *settings, torch.get_num_threads()))
    steps = {kind: Step(kind, *settings) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(arguments.repeats + 1):
        for kind, step in steps.items():
            taken = step.run()
            if repeat:
                seconds[kind].append(taken)
    trained = {kind: step.trained for kind, step in steps.items()}
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    report = {
        kind: {
            "trained": trained[kind],
            "seconds_a_step": round(medians[kind], 3),
            "videos_a_second": round(arguments.batch / medians[kind], 2),
            "peak_mb": round(peaks[kind]),
        }
        for kind in KINDS
    }
    ratios = {"speed": medians["full"] / medians["tempme"], "memory": peaks["tempme"] / peaks["full"]}
    print(json.dumps({**report, "tempme_against_full": {k: round(v, 3) for k, v in ratios.items()}}, indent=1))


if __name__ == "__main__":
    main()
