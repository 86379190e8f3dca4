"""Train every method on the synthetic world, from random towers, and print one table of what each has learned.

    python tools/learn.py WORLD [--methods clip tempme promptswitch ucofia glscl all r2] [--steps 4500] [--out MODELS]

WORLD is made if it is not there. Retrieval is measured on combinations that training never showed: recall in a gallery
of 200, and on pairs of videos that differ in one respect alone, how often a caption prefers its own video (50 is
chance). In training the two videos of a pair come in one batch, each other's hardest negatives. ``clip`` is mean
pooling: it cannot know an order of frames. ``all`` is UCoFiA on towers with Prompt Switch and TempMe. ``r2`` grounds
moments in long held-out films, on the frozen towers of ``clip``, beside the training-free curve.

4500 steps take 20 minutes on two cores for TempMe.
"""

import argparse
import json
import logging
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback

from vidret import Engine
from vidret.data.module import GroundingData, RetrievalData
from vidret.data.splits import read_split
from vidret.data.synthetic import read_pairs, write_grounding_world, write_retrieval_world
from vidret.encode.merging import MergeSchedule
from vidret.encode.prompts import PromptShape
from vidret.encode.text import TextShape
from vidret.encode.vision import VisionShape
from vidret.ground.spans import overlap
from vidret.train.grounding import GroundingModule
from vidret.train.retrieval import RetrievalModule

GALLERY = 200
SIZE, FRAMES = 64, 6
VISION = VisionShape(image_size=SIZE, patch=16, width=96, layers=4, heads=3, dim=128)
TEXT = TextShape(context=32, vocabulary=49408, width=128, layers=3, heads=4, dim=128)
MERGING = MergeSchedule(layers=(1, 2), factors=(2, 3), r=0, cross=0.3, intra=0.1)
PROMPTS = PromptShape(num_prompts=FRAMES, num_frames=FRAMES)
# No captioner: most of a step would be its vocabulary of 49,408.
EXTRA: dict[str, dict[str, Any]] = {
    "clip": {},
    "tempme": {"merging": MERGING},
    "promptswitch": {"prompts": PROMPTS, "captions": False},
    "ucofia": {"num_words": 32},
    "glscl": {},
    "all": {"method": "ucofia", "merging": MERGING, "prompts": PROMPTS, "num_words": 32},
}


class Clock(Callback):
    """Print where a run is, once in a while."""

    def __init__(self, name: str) -> None:
        self._name, self._next = name, 0.0
        self._started = time.monotonic()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Say step, loss and time."""
        elapsed = time.monotonic() - self._started
        if elapsed >= self._next:
            self._next = elapsed + 20
            loss = float(trainer.callback_metrics.get("loss", float("nan")))
            print(
                f"{self._name}: step {trainer.global_step}/{trainer.max_steps}, loss {loss:.3f}, {elapsed:.0f} s",
                flush=True,
            )


def make_trainer(name: str, steps: int, folder: Path, precision: str) -> lightning.Trainer:
    """Give a trainer for the CPU that keeps nothing but what it is asked for."""
    return lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        precision=precision,  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[Clock(name)],
    )


def learn_retrieval(method: str, world: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one method and measure it on the test split."""
    lightning.seed_everything(arguments.seed, verbose=False)
    extra = {"method": method, **EXTRA[method]}
    module = RetrievalModule(
        vision=VISION,
        text=TEXT,
        num_frames=FRAMES,
        fps=1.5,
        train_all=True,
        lr=arguments.lr,
        **extra,
    )
    data = open_data(world, arguments.batch)
    started, spent = time.monotonic(), time.process_time()
    trainer = make_trainer(method, arguments.steps, world, arguments.precision)
    trainer.fit(module, datamodule=data)
    seconds, cpu = time.monotonic() - started, time.process_time() - spent
    scores, names = score_test(module, open_data(world, arguments.batch))
    module.export(arguments.out / f"{method}.safetensors")
    found: dict[str, Any] = {"trained": sum(p.numel() for p in module.parameters() if p.requires_grad)}
    return found | measure(scores, names, world) | {"seconds": round(seconds), "cpu_seconds": round(cpu)}


def open_data(world: Path, batch_size: int) -> RetrievalData:
    """Give the world's short videos; nothing is held out of training, for nothing is chosen."""
    return RetrievalData(
        "msrvtt-1k-a",
        str(world),
        str(world),
        train_split="train-9k",
        test_split="test",
        val_share=0.0,
        cache=str(world / "cache"),
        sampling="tempme",
        num_frames=FRAMES,
        image_size=SIZE,
        batch_size=batch_size,
        neighbours=2,
        eval_batch_size=50,
        num_workers=0,
    )


@torch.no_grad()
def score_test(module: RetrievalModule, data: RetrievalData) -> tuple[np.ndarray, list[str]]:
    """Score each test caption against each test video; rows and columns in the order of the videos."""
    data.prepare_data()
    data.setup("test")
    module.eval()
    for number, batch in enumerate(data.test_dataloader()):
        module.validation_step(batch, number)
    parts, module._seen = module._seen, []
    scores, truth = module.score(parts)
    order = np.argsort(truth, kind="stable")
    videos = torch.cat([part["videos"] for part in parts]).tolist()
    names = [data.test.videos[number] for number in videos]
    first = {int(truth[row]): row for row in reversed(order)}  # one caption a video
    return scores[[first[number] for number in range(len(names))]], names


def measure(scores: np.ndarray, names: list[str], world: Path) -> dict[str, Any]:
    """Give recall in a gallery, and the share of captions that prefer their video in each kind of pair."""
    part = scores[:GALLERY, :GALLERY]
    ranks = 1 + (part > part.diagonal()[:, None]).sum(axis=1)
    place = {name: number for number, name in enumerate(names)}
    right: defaultdict[str, list[float]] = defaultdict(list)
    for pair in read_pairs(world):
        if not all(video in place for video in pair.videos):
            continue
        a, b = (place[video] for video in pair.videos)
        for own, other in ((a, b), (b, a)):
            gap = scores[own, own] - scores[own, other]
            right[pair.kind].append(1.0 if gap > 1e-5 else 0.5 if gap > -1e-5 else 0.0)
    kinds = {kind: round(100 * float(np.mean(values)), 1) for kind, values in sorted(right.items())}
    return {
        "R@1": round(100 * float((ranks == 1).mean()), 1),
        "R@5": round(100 * float((ranks <= 5).mean()), 1),
        **kinds,
    }


def learn_grounding(world: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the R2 head on the towers that retrieval left, and measure it and the curve in held-out films."""
    towers = arguments.out / "clip.safetensors"
    module = GroundingModule(
        backbone=str(towers),
        width=VISION.width,
        text_width=TEXT.width,
        dim=128,
        num_layers=3,
        recipe="qvhighlights",
        fps=1.0,
        lr=1e-3,
        warm_up=50,
        dropout=0.1,
        seed=arguments.seed,
    )
    data = GroundingData(
        "qvhighlights",
        str(world),
        str(world / "videos"),
        str(world / "cache"),
        encoder=str(towers),
        num_layers=3,
        fps=1.0,
        val_share=0.0,
        batch_size=32,
        num_workers=0,
    )
    started = time.monotonic()
    trainer = make_trainer("r2", arguments.head_steps, world, "32-true")
    trainer.fit(module, datamodule=data)
    head = arguments.out / "r2.safetensors"
    module.export(head)
    seconds = time.monotonic() - started
    split = read_split("moments", world)
    found: dict[str, Any] = {"seconds": round(seconds)}
    for name in ("curve", "head"):
        with Engine.open(
            arguments.out / "films", encoder=str(towers), head=str(head) if name == "head" else "none"
        ) as engine:
            engine.index([str(world / "videos" / f"{video}.mp4") for video in split.videos])
            overlaps = np.array([best_overlap(engine, query, world) for query in split.queries])
        for limit in (0.5, 0.7):
            found[f"{name} R1@{limit}"] = round(100 * float((overlaps >= limit).mean()), 1)
    return found


def best_overlap(engine: Engine, query: Any, world: Path) -> float:
    """Give how far the first moment overlaps the best true window."""
    moments = engine.locate(query.text, 1, video=world / "videos" / f"{query.video}.mp4")
    if not moments:
        return 0.0
    starts, ends = np.array(query.spans).T
    return float(overlap(starts, ends, moments[0].start, moments[0].end).max())


def show_table(table: dict[str, dict[str, Any]]) -> None:
    """Print a line for each method, of what was measured of it."""
    columns = list(dict.fromkeys(name for found in table.values() for name in found))
    lines = [
        ["", *columns],
        *([method, *(str(found.get(name, "")) for name in columns)] for method, found in table.items()),
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns) + 1)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> None:
    """Make the world, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("world", type=Path)
    parser.add_argument("--methods", nargs="+", default=[*EXTRA, "r2"], choices=[*EXTRA, "r2"])
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--head-steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=12_000, help="videos to train on")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    arguments.out = arguments.out or arguments.world / "models"
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    short, long = arguments.world / "msrvtt", arguments.world / "qvhighlights"
    write_retrieval_world(short, seed=arguments.seed, num_train=arguments.train, num_captions=6, size=SIZE)
    write_grounding_world(long, seed=arguments.seed, size=SIZE)
    table = {}
    for method in arguments.methods:
        table[method] = (
            learn_grounding(long, arguments) if method == "r2" else learn_retrieval(method, short, arguments)
        )
        print(json.dumps({method: table[method]}), flush=True)
    show_table(table)


if __name__ == "__main__":
    main()
