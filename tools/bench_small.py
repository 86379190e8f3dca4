"""Measure what small towers cost on one thread, those of tools/learn.py; print one JSON object of ratios.

    python tools/bench_small.py [--repeats 20]

``attention``: forwards and backwards through 768 sequences of 19 tokens, plain products against PyTorch's fused kernel.
``step``: the joint model and TempMe in bfloat16, against float32. ``encoding``: videos by the joint model against
TempMe, and with what reranking stores. Everything takes turns in one process; times are of the CPU, medians count.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

import torch
from learn import FPS, FRAMES, SETTINGS, SIZE, TEXT, VISION
from torch.nn import functional

from vidret.align.ucofia import Aligner
from vidret.data.dataset import RetrievalBatch
from vidret.layers import attend
from vidret.train.retrieval import RetrievalModule

BATCH, NUM_SEQUENCES, NUM_TOKENS, HEADS, CHANNELS, NUM_WORDS = 64, 768, 19, 3, 32, 18
METHODS = ("tempme", "joint")


def time_in_turns(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median CPU time of each run in ms, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            started = time.process_time()
            run()
            taken[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def run_attention(parts: torch.Tensor, *, fused: bool) -> None:
    """Go forwards and backwards through attention."""
    query, key, value = parts.unbind(0)
    kernel = functional.scaled_dot_product_attention if fused else attend
    torch.autograd.backward(kernel(query, key, value).sum())


def draw_batch() -> RetrievalBatch:
    """Return random frames and texts."""
    ids = torch.randint(1, 40_000, (BATCH, NUM_WORDS))
    ids[:, 0], ids[:, -1] = 49406, 49407
    pixels = torch.randint(0, 256, (BATCH, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8)
    numbers = torch.arange(BATCH)
    return RetrievalBatch(pixels, torch.ones(BATCH, FRAMES, dtype=torch.bool), ids, numbers, numbers, numbers)


def run_losses(module: RetrievalModule, batch: RetrievalBatch, *, half: bool) -> None:
    """Go forwards and backwards through a training step, without the optimiser's part."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = module.method.losses(module.model.train(), batch, torch.Generator())
    torch.autograd.backward(torch.stack(list(terms.values())).sum())


@torch.inference_mode()
def encode(module: RetrievalModule, batch: RetrievalBatch, *, packs: bool) -> None:
    """Encode videos, and prepare them for the aligner."""
    videos = module.model.eval().encode_videos(batch.pixels, batch.frame_mask)
    if packs:
        cast(Aligner, module.model.aligner).prepare(videos)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure small towers on one thread.")
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    ratios: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        parts = torch.randn(3, NUM_SEQUENCES, HEADS, NUM_TOKENS, CHANNELS).to(dtype).requires_grad_()
        runs = {kind: partial(run_attention, parts, fused=kind == "fused") for kind in ("fused", "plain")}
        found = time_in_turns(runs, repeats)
        ratios[f"attention, {name}: plain / fused"] = found["plain"] / found["fused"]
    batch = draw_batch()
    modules = {
        method: RetrievalModule(
            num_frames=FRAMES, fps=FPS, train_all=True, vision=VISION, text=TEXT, **SETTINGS[method].extra
        )
        for method in METHODS
    }
    for method, module in modules.items():
        steps = {kind: partial(run_losses, module, batch, half=kind == "bf16") for kind in ("fp32", "bf16")}
        found = time_in_turns(steps, max(1, repeats // 4))
        ratios[f"step of {method}: bf16 / fp32"] = found["bf16"] / found["fp32"]
    encodings = {method: partial(encode, module, batch, packs=False) for method, module in modules.items()}
    encodings["packed"] = partial(encode, modules["joint"], batch, packs=True)
    found = time_in_turns(encodings, repeats)
    ratios["encoding: joint / tempme"] = found["joint"] / found["tempme"]
    ratios["encoding: joint, prepared for reranking / tempme"] = found["packed"] / found["tempme"]
    print(json.dumps({name: round(value, 2) for name, value in ratios.items()}, indent=1))


if __name__ == "__main__":
    main()
