"""Measure the video encoders against plain CLIP; print one table, or JSON with --json.

    python tools/bench_encoder.py [--backbone ViT-B-32 --backbone ViT-B-16] [--repeats 5] [--frames 12]

All variants of a backbone run by turns in one process on one thread, with random weights (speed does not depend on
them): open_clip itself, our plain tower, TempMe at several schedules (the last found by ``MergeSchedule.for_budget``
for 49 % of the multiply-adds), Prompt Switch, both, both as the method joint trains them, and bfloat16 weights. CPU
seconds are medians; the ratios are the seconds of open_clip's plain CLIP, and of our own (whose last layer computes
class tokens alone), to the variant's. Memory is how far the peak rises while a variant first runs, in a process of its
own.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import torch
from rich.console import Console
from rich.table import Table

from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergePlan, MergeSchedule, plan_merge
from vidret.encode.clip.weights import from_open_clip
from vidret.encode.families.clip import derive_card

BUDGET = 0.49


@dataclass(frozen=True)
class Row:
    """One variant's numbers; the ratios are open_clip's and our plain CLIP's CPU seconds to its own."""

    backbone: str
    variant: str
    tokens: int
    gmacs: float
    cpu_seconds: float
    against_open_clip: float
    against_plain: float
    macs_ratio: float
    peak_mb: float


def variants(card: Card, num_frames: int) -> dict[str, Card]:
    """Name the cards to measure; the budget is of all layers' multiply-adds, as the papers count."""
    size: dict[str, Any] = {
        "width": card.vision.width,
        "num_patches": card.vision.num_patches,
        "num_layers": card.vision.layers,
    }
    budget = MergeSchedule.for_budget(BUDGET, num_frames=num_frames, **size)
    prompts = PromptShape()
    found = {"plain": card, "TempMe r=2": replace(card, merging=MergeSchedule())}
    if card.vision.num_patches > 60:
        found["TempMe r=10"] = replace(card, merging=MergeSchedule(r=10))
    found[f"TempMe r={budget.r} (budget {BUDGET:.0%})"] = replace(card, merging=budget)
    found["Prompt Switch"] = replace(card, prompts=prompts)
    found["TempMe r=2 and Prompt Switch"] = replace(card, merging=MergeSchedule(), prompts=prompts)
    joint = PromptShape(num_prompts=3, num_frames=num_frames, spread=True)
    found["joint: TempMe r=3 and 3 prompts"] = replace(card, merging=MergeSchedule(r=3), prompts=joint)
    return found


def count_macs(card: Card, num_frames: int, *, whole: bool = False) -> float:
    """Count the multiply-adds of a video as they are run: our last layer drops the patches unless ``whole``."""
    vision = card.vision
    schedule = card.merging or MergeSchedule(layers=(), factors=(), r=0)
    num_prompts = card.prompts.num_prompts if card.prompts else 0
    width = vision.width
    total = float(num_frames * vision.num_patches * width * 3 * vision.patch**2)
    steps = schedule.steps(num_frames, vision.num_patches, vision.layers, num_prompts=num_prompts)
    for number, step in enumerate(steps):
        queries, changed = step.attended, step.left
        if number == len(steps) - 1 and not whole:
            queries = changed = step.front * (1 + num_prompts)
        attention = 2 * (queries + step.attended) * width**2 + 2 * queries * step.attended * width
        total += step.clips * (attention + 8 * changed * width**2)
    return total


def count_tokens(card: Card, num_frames: int) -> int:
    """Count what is left of a video after the last layer."""
    schedule = card.merging or MergeSchedule(layers=(), factors=(), r=0)
    num_prompts = card.prompts.num_prompts if card.prompts else 0
    last = schedule.steps(num_frames, card.vision.num_patches, card.vision.layers, num_prompts=num_prompts)[-1]
    return last.clips * last.left


def fill(card: Card, state: dict[str, torch.Tensor]) -> ClipModel:
    """Give a card the backbone's weights; what a method adds starts as it does in training."""
    model = ClipModel(card)
    model.load_state_dict(state, strict=False)
    return model.eval()


def measure_peak(card: Card, num_frames: int, queue: Any) -> None:
    """Send how much the peak memory grows while a variant runs for the first time."""
    torch.set_num_threads(1)
    model = ClipModel(card).eval()
    pictures = torch.randn(num_frames, 3, card.vision.image_size, card.vision.image_size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = resident_mb("VmRSS")
    with torch.inference_mode():
        model.vision(pictures, num_frames=num_frames)
    queue.put(resident_mb("VmHWM") - before)


def resident_mb(field: str) -> float:
    """Read one of this process's memory figures (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_memory(card: Card, num_frames: int) -> float:
    """Measure a variant's peak in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure_peak, args=(card, num_frames, queue))
    process.start()
    peak = float(queue.get())
    process.join()
    return peak


def bench(backbone: str, num_frames: int, repeats: int, num_videos: int) -> list[Row]:
    """Time all variants of a backbone, by turns."""
    torch.manual_seed(0)
    other: Any = open_clip.create_model(backbone, pretrained=None).eval()
    card = derive_card(other, backbone)
    if card is None:
        raise SystemExit(f"{backbone}: not a ViT of CLIP's block shape")
    state = from_open_clip(other.state_dict(), card).state_dict()
    cards = variants(card, num_frames)
    models = {name: fill(each, state) for name, each in cards.items()}
    models["plain bf16"], cards["plain bf16"] = fill(card, state).bfloat16(), card
    models["TempMe r=2 bf16"] = fill(cards["TempMe r=2"], state).bfloat16()
    cards["TempMe r=2 bf16"] = cards["TempMe r=2"]
    pictures = torch.randn(num_videos * num_frames, 3, card.vision.image_size, card.vision.image_size)
    runs: dict[str, Any] = {"open_clip": lambda: other.encode_image(pictures)}
    for name, model in models.items():
        look = pictures.bfloat16() if name.endswith("bf16") else pictures
        runs[name] = lambda model=model, look=look: model.vision(look, num_frames=num_frames)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, run in runs.items():
                started = time.process_time()
                run()
                if turn:
                    seconds[name].append(time.process_time() - started)
    cards["open_clip"] = card
    plain_macs = count_macs(card, num_frames, whole=True)
    theirs, plain = statistics.median(seconds["open_clip"]), statistics.median(seconds["plain"])
    rows = []
    for name in runs:
        cpu, macs = statistics.median(seconds[name]), count_macs(cards[name], num_frames, whole=name == "open_clip")
        peak = float("nan") if name == "open_clip" or name.endswith("bf16") else peak_memory(cards[name], num_frames)
        tokens = count_tokens(cards[name], num_frames)
        rows.append(Row(backbone, name, tokens, macs / 1e9, cpu, theirs / cpu, plain / cpu, plain_macs / macs, peak))
    return rows


def agreement(backbone: str, num_frames: int) -> float:
    """Give the share of tokens that bfloat16 weights merge as float32 ones do, each layer given the same tokens."""
    torch.manual_seed(0)
    other: Any = open_clip.create_model(backbone, pretrained=None).eval()
    card = derive_card(other, backbone)
    assert card is not None
    state = from_open_clip(other.state_dict(), card).state_dict()
    exact, rough = (fill(replace(card, merging=MergeSchedule()), state).vision for _ in range(2))
    rough.bfloat16()
    plans: list[MergePlan] = []

    def record(*arguments: Any, **options: Any) -> MergePlan:
        plans.append(plan_merge(*arguments, **options))
        return plans[-1]

    with torch.inference_mode(), mock.patch("vidret.encode.clip.outputs.plan_merge", record):
        trunk = exact._embed(
            smooth_pictures(num_frames, card.vision.image_size), num_frames, num_frames, None, trace=False
        )
        same = total = 0
        for layer, step in enumerate(exact.plan(num_frames)):
            plans.clear()
            rough._layer(layer, step, trunk._replace(x=trunk.x.bfloat16()), num_frames)
            num_plans = len(plans)
            trunk = exact._layer(layer, step, trunk, num_frames)
            for ours, theirs in zip(plans[:num_plans], plans[num_plans:], strict=True):
                same += int((partners(ours) == partners(theirs)).sum())
                total += partners(ours).numel()
    return same / total


def partners(plan: MergePlan) -> torch.Tensor:
    """Give, for each token, the position of the token that it merges into, or its own."""
    _, src, _ = plan.positions()
    own = torch.arange(plan.length).repeat(len(src), 1)
    return own.scatter(1, src, plan.starts[1] + 2 * plan.dst)


def smooth_pictures(num_frames: int, side: int) -> torch.Tensor:
    """Make pictures with large shapes that move, since noise has no neighbours to merge with."""
    coarse = torch.randn(1, 3, 8, 8 + num_frames)
    windows = [coarse[..., frame : frame + 8] for frame in range(num_frames)]
    return torch.nn.functional.interpolate(torch.cat(windows), size=(side, side), mode="bicubic")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the video encoders against plain CLIP.")
    parser.add_argument("--backbone", action="append", default=None)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--videos", type=int, default=1, help="how many at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, kept = [], {}
    for backbone in arguments.backbone or ["ViT-B-32", "ViT-B-16"]:
        rows += bench(backbone, arguments.frames, arguments.repeats, arguments.videos)
        kept[backbone] = agreement(backbone, arguments.frames)
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "bf16_keeps_decisions": kept}, indent=2))
        return
    columns = ("tokens", "GMACs", "CPU s", "x open_clip", "x plain", "x fewer MACs", "peak MB")
    table = Table("backbone", "variant", *columns)
    for row in rows:
        speeds = (f"{row.cpu_seconds:.2f}", f"{row.against_open_clip:.2f}", f"{row.against_plain:.2f}")
        peak = "" if row.peak_mb != row.peak_mb else f"{row.peak_mb:.0f}"
        table.add_row(
            row.backbone, row.variant, str(row.tokens), f"{row.gmacs:.1f}", *speeds, f"{row.macs_ratio:.2f}", peak
        )
    console = Console(width=130)
    console.print(table)
    for backbone, share in kept.items():
        console.print(f"{backbone}: bfloat16 weights keep {share:.2%} of the merge decisions", highlight=False)


if __name__ == "__main__":
    main()
