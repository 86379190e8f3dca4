"""Train every method on the synthetic world, from random towers, and print one table of what each has learned.

    python tools/learn.py WORLD [--methods clip tempme promptswitch ucofia glscl all joint r2 ...] [--train 24000] ...

WORLD is made if it is not there. Retrieval is measured on combinations that training never showed: recall in a gallery
of 200, and on pairs of videos that differ in only one respect, how often a caption prefers its own video (50 is
chance). In training the two videos of a pair come in one batch, each other's hardest negatives. ``clip`` is mean
pooling: it cannot know an order of frames. ``ucofia`` goes on from its towers; ``all`` does so with Prompt Switch and
TempMe in them. ``joint`` trains the three from the start, with the captioner. ``r2`` grounds moments in long held-out
films, on the frozen towers of ``--towers``, beside the training-free curve; ``weighed`` is the same head with
``similarity_weight`` 1, and ``--motion`` the frames of its convolution over time.

``coarse`` is TempMe on frames of half the size, and ``sharp`` mean pooling of three whole ones. ``pair`` searches all
test videos for all their captions, by each of the two and by both in one index; ties share a hit, and the standard
error is that over videos. ``sorted`` is the rank correlation of the number of objects in a video and of its place
between "five" and "one", in ``vidret search --sort-by five/one``.

The table is of the test split. A line of JSON a method has val too, on which settings are chosen. ``seconds`` are a
method's own, and ``waiting`` is the share of them in which a step waited for its data, in percent.
"""

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pytorch_lightning as lightning
import torch
from bench_train import read_synthetic
from harness import make_parser, percent, print_rows, tell
from make_synthetic import CaptionPair, read_pairs, write_grounding_world, write_retrieval_world
from pytorch_lightning.callbacks import Timer
from scipy.stats import spearmanr

from vidret import Engine
from vidret.channels.picture.ranking import MEAN
from vidret.channels.picture.reranking import TOTAL
from vidret.data.benchmarks.splits import read_split
from vidret.data.module import GroundingData, RetrievalData
from vidret.data.records import LabelledQuery
from vidret.encode.precision import choose_precision
from vidret.evaluate.retrieval import score_texts
from vidret.ground.spans import overlap
from vidret.metrics.ranks import rank_matrix
from vidret.search.sorting import fit_attribute
from vidret.train.grounding import GroundingModule
from vidret.train.retrieval import RetrievalModule

Split = Literal["val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
GALLERY = 200
SIZE, FRAMES, FPS = 64, 6, 2  # every frame is looked at: mean pooling then cannot tell an order, bit for bit


class Setting(NamedTuple):
    """How a method is trained: as many steps, of as many videos, as two cores make in 20 minutes.

    ``config`` is the method in ``configs/synthetic_CONFIG.yaml``, and ``parts`` are others whose merging or prompts it
    has too. ``on_clip`` starts from the towers that ``clip`` left, whose training counts: what UCoFiA aligns in detail,
    its paper takes from towers that agree as a whole already. From nothing it learns half as much in that time.
    ``half`` trains in bfloat16 where the CPU has it. ``size`` and ``frames`` are what a tower sees of a video.
    """

    batch: int
    steps: int
    config: str
    parts: tuple[str, ...] = ()
    on_clip: bool = False
    half: bool = False
    size: int = SIZE
    frames: int = FRAMES

    @property
    def precision(self) -> str:
        """Return the precision of the trainer."""
        return "bf16-mixed" if self.half and choose_precision("auto", torch.device("cpu")) == "bf16" else "32-true"

    def make_module(self, towers: Path) -> RetrievalModule:
        """Return an untrained module, or one on towers."""
        arguments = read_synthetic(self.config)
        for part in self.parts:
            arguments |= {name: value for name, value in read_synthetic(part).items() if name in ("merging", "prompts")}
        arguments |= {
            "vision": replace(arguments["vision"], image_size=self.size),
            "num_frames": self.frames,
            "out": None,
        }
        if self.on_clip:
            arguments |= {"weights": str(towers), "vision": None, "text": None}
        return RetrievalModule(**arguments)


SETTINGS = {
    "clip": Setting(128, 1700, "clip"),
    "tempme": Setting(128, 2600, "tempme"),
    "promptswitch": Setting(128, 1500, "promptswitch"),
    "ucofia": Setting(64, 750, "ucofia", on_clip=True),
    "glscl": Setting(128, 1600, "glscl"),
    "all": Setting(64, 750, "ucofia", ("tempme", "promptswitch"), on_clip=True),
    "joint": Setting(64, 6500, "joint", half=True),  # a quarter more videos than TempMe sees
    "coarse": Setting(64, 4000, "tempme", half=True, size=SIZE // 2),
    "sharp": Setting(64, 1500, "clip", half=True, frames=FRAMES // 2),
}
PAIR = ("coarse", "sharp")
TOLD_STEPS = 50


class Clock(Timer):
    """Count how long a run takes, and how long it waits for data, and print where it is."""

    def on_train_start(self, *arguments: Any) -> None:
        """Count from here on."""
        super().on_train_start(*arguments)
        self._waited_s, self._ended_s = 0.0, time.monotonic()

    def on_train_batch_start(self, *_: Any) -> None:
        """Count what passed between two steps."""
        self._waited_s += time.monotonic() - self._ended_s

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Wait for data from here on."""
        self._ended_s = time.monotonic()
        if trainer.global_step % TOLD_STEPS == 0:
            loss = float(trainer.callback_metrics.get("loss", float("nan")))
            tell(f"step {trainer.global_step}/{trainer.estimated_stepping_batches}, loss {loss:.3f}")


def fit(module: Any, data: Any, folder: Path, precision: Any = "32-true", **length: int) -> dict[str, Any]:
    """Train on the CPU, keep nothing but the weights, and return the seconds and the share spent waiting."""
    clock, off = Clock(), ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings: dict[str, Any] = {**dict.fromkeys(off, False), "num_sanity_val_steps": 0, "limit_val_batches": 0}
    settings |= {"accelerator": "cpu", "gradient_clip_val": 1.0, "default_root_dir": folder, **length}
    lightning.Trainer(**settings, precision=precision, callbacks=[clock]).fit(module, datamodule=data)
    elapsed_s = clock.time_elapsed("train")
    return {"seconds": round(elapsed_s), "waiting": round(100 * clock._waited_s / elapsed_s, 1)}


def learn_retrieval(method: str, world: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train one method and measure it."""
    setting, towers = SETTINGS[method], given.models / f"{method}.safetensors"
    steps, batch = given.steps or setting.steps, given.batch or setting.batch
    module = setting.make_module(given.models / "clip.safetensors")
    data = open_data(world, setting, batch)
    cost = fit(module, data, world, given.precision or setting.precision, max_steps=steps)
    module.export(towers)
    report = {"trained": sum(weight.numel() for weight in module.parameters() if weight.requires_grad), **cost}
    for split in SPLITS:
        scores, names = score_split(module, open_data(world, setting, batch, split))
        report[split] = measure(scores, names, read_pairs(world, split))
    report["test"]["sorted"] = rank_numbers(towers, world)
    return report


def open_data(world: Path, setting: Setting, batch_size: int, split: Split | None = None) -> RetrievalData:
    """Return the world's short videos; nothing is held out of training, for nothing is chosen."""
    seen: dict[str, Any] = {"sampling": "tempme", "num_frames": setting.frames, "image_size": setting.size}
    loading: dict[str, Any] = {"neighbours": 2, "eval_batch_size": 50, "num_workers": 0, "cache": str(world / "cache")}
    splits: dict[str, Any] = {"train_split": "train", "test_split": split, "val_share": 0.0}
    return RetrievalData("msrvtt-full", str(world), str(world), batch_size=batch_size, **seen, **loading, **splits)


@torch.no_grad()
def score_split(module: RetrievalModule, data: RetrievalData) -> tuple[np.ndarray, list[str]]:
    """Score each video's first caption against each video; rows and columns in the order of the videos."""
    data.prepare_data()
    data.setup("test")
    module.eval()
    for batch_index, batch in enumerate(data.test_dataloader()):
        module.validation_step(batch, batch_index)
    parts, module._evaluated = module._evaluated, []
    scores, truth = module.score(parts)
    order = np.argsort(truth, kind="stable")
    videos = torch.cat([part["videos"] for part in parts]).tolist()
    names = [data.test.videos[video_index] for video_index in videos]
    first = {int(truth[row]): row for row in reversed(order)}  # one caption a video
    return scores[[first[video_index] for video_index in range(len(names))]], names


def measure(scores: np.ndarray, names: Sequence[str], pairs: Sequence[CaptionPair]) -> dict[str, Any]:
    """Return recall in a gallery, and the share of captions that prefer their video in each kind of pair."""
    gallery = scores[:GALLERY, :GALLERY]
    ranks = 1 + (gallery > gallery.diagonal()[:, None]).sum(axis=1)
    place = {name: index for index, name in enumerate(names)}
    right: defaultdict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        a, b = (place[video] for video in pair.videos)
        for row, other in ((a, b), (b, a)):
            gap = scores[row, row] - scores[row, other]
            right[pair.kind].append(1.0 if gap > 1e-5 else 0.5 if gap > -1e-5 else 0.0)
    kinds = {kind: percent(values) for kind, values in sorted(right.items())}
    return {"R@1": percent(ranks == 1), "R@5": percent(ranks <= 5), **kinds}


def rank_numbers(towers: Path, world: Path) -> float:
    """Return the rank correlation of the number of objects and of sorting by "five/one", in pairs by count."""
    pairs = [pair for pair in read_pairs(world, "test") if pair.kind == "count"]
    counted = {"two": 2, "three": 3, "four": 4, "five": 5}
    numbers = {
        video: max(counted.get(word, 1) for word in caption.split())
        for pair in pairs
        for video, caption in zip(pair.videos, pair.captions, strict=True)
    }
    with tempfile.TemporaryDirectory() as index, Engine.open(index, encoder=str(towers)) as engine:
        engine.index([world / "videos" / f"{video}.mp4" for video in numbers], words=False)
        rows = engine.embeddings("segment")
        values = fit_attribute("five/one", engine._index.encoder).rate(rows.vectors)
    return round(float(spearmanr(values, [numbers[Path(path).stem] for path in rows.paths]).statistic), 2)


def measure_pair(world: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return R@1 of each tower of the pair, of both in one index, and the gain over the better one with its error."""
    models = {name: str(given.models / f"{name}.safetensors") for name in PAIR}
    models["both"] = " + ".join(models.values())
    report: dict[str, Any] = {}
    for name in SPLITS:
        split, hits = read_split(f"msrvtt-full-{name}", world), {}
        files = [world / "videos" / f"{video}.mp4" for video in split.videos]
        truth = np.array([split.videos.index(caption.video) for caption in split.captions])
        for kind, model in models.items():
            with tempfile.TemporaryDirectory() as index, Engine.open(index, encoder=f"{model}#whole") as engine:
                engine.index(files, words=False)
                scores = score_texts(engine, [caption.text for caption in split.captions], files, MEAN)[TOTAL]
            ranks = rank_matrix(scores, truth).t2v
            hits[kind] = np.bincount(truth, (ranks.higher == 0) / (1 + ranks.equal)) / np.bincount(truth)
        gains = hits["both"] - max((hits[kind] for kind in PAIR), key=lambda rates: float(rates.mean()))
        report[name] = {f"R@1 of {kind}": percent(rates) for kind, rates in hits.items()}
        report[name] |= {"gain": percent(gains), "error": round(100 * float(gains.std() / len(gains) ** 0.5), 1)}
    return report


def learn_grounding(world: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train the R2 head on the towers that retrieval left, and measure it and the curve in held-out films."""
    towers, shapes, films = str(given.models / f"{given.towers}.safetensors"), read_synthetic("clip"), world / "videos"
    sizes: dict[str, Any] = {"width": shapes["vision"].width, "text_width": shapes["text"].width, "dim": 128}
    schedule: dict[str, Any] = {"drop_at": 3 * given.head_epochs // 4, "warm_up": 50, "lr": shapes["lr"]}
    chosen: dict[str, Any] = {"dropout": 0.1, "motion": given.motion, "seed": given.seed, "num_layers": 3}
    module = GroundingModule(backbone=towers, recipe="qvhighlights", **sizes, **schedule, **chosen)
    loading: dict[str, Any] = {"num_layers": 3, "fps": module.fps, "val_share": 0.0, "batch_size": 32, "num_workers": 0}
    data = GroundingData("qvhighlights", str(world), str(films), str(world / "cache"), encoder=towers, **loading)
    report: dict[str, Any] = fit(module, data, world, max_epochs=given.head_epochs)
    heads = {"curve": "none"}
    for name, weight in (("head", 0.0), ("weighed", 1.0)):
        module.card = replace(module.card, similarity_weight=weight)
        heads[name] = str(given.models / f"r2-{name}.safetensors")
        module.export(Path(heads[name]))
    for split, name in zip(SPLITS, ("qvhighlights-val", "moments"), strict=True):
        asked, report[split] = read_split(name, world), {}
        for method, head in heads.items():
            with Engine.open(given.models / f"films-{split}-{given.towers}", encoder=towers, head=head) as engine:
                engine.index([films / f"{video}.mp4" for video in asked.videos], words=False)
                best = [find_overlap(engine, films / f"{query.video}.mp4", query) for query in asked.queries]
            report[split] |= {f"{method} R1@{limit}": percent(np.array(best) >= limit) for limit in (0.5, 0.7)}
    return report


def find_overlap(engine: Engine, film: Path, query: LabelledQuery) -> float:
    """Return how far the best moment of a query overlaps the best true span, from 0 to 1."""
    starts, ends = np.array(query.spans).T
    moments = engine.locate(query.text, 1, video=film, overlapping=True, weak=True)
    return max((float(overlap(starts, ends, moment.start, moment.end).max()) for moment in moments), default=0.0)


def show_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line for each method, of what was measured of it on the test split."""
    table = {method: {**found, **found["test"]} for method, found in results.items()}
    columns = list(dict.fromkeys(name for found in table.values() for name in found if name not in SPLITS))
    rows = ([method, *(found.get(name, "") for name in columns)] for method, found in table.items())
    print_rows(["", *columns], rows)


def main() -> None:
    """Make the world, train, print; without --steps, --batch and --precision, each method has its own."""
    counts = {"seed": 0, "train": 24_000, "films": 2000, "steps": 0, "batch": 0, "precision": ""}
    parser = make_parser(__doc__, "world", towers=("clip", "joint"), head_epochs=10, motion=0, **counts)
    methods = [*SETTINGS, "pair", "r2"]
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods)
    given = parser.parse_args()
    given.models = given.world / "models"
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    short, long = given.world / "msrvtt", given.world / "qvhighlights"
    seen: dict[str, int] = {"size": SIZE, "num_frames": FRAMES, "fps": FPS}
    write_retrieval_world(short, num_train=given.train, num_val=400, num_captions=6, **seen)
    write_grounding_world(long, num_train=given.films, num_val=100, num_test=100, size=SIZE)
    table, others = {}, {"r2": partial(learn_grounding, long), "pair": partial(measure_pair, short)}
    for method in given.methods:
        lightning.seed_everything(given.seed, verbose=False)
        table[method] = others.get(method, partial(learn_retrieval, method, short))(given)
        print(json.dumps({method: table[method]}), flush=True)
    show_table(table)


if __name__ == "__main__":
    main()
