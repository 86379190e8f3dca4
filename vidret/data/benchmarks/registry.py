"""Every supported benchmark: its task, its splits with their files, its scoring, and the recipe of its heads.

To add a benchmark, write its reader and add an entry to ``DATASETS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vidret.data.benchmarks import captions, moments, qvhighlights
from vidret.data.records import DEFAULT_SCORING, QVHIGHLIGHTS_LENGTHS, Scoring, Split
from vidret.ground.checkpoint import HeadRecipe

Task = Literal["retrieval", "moments", "highlights", "composed", "rated"]
Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SplitSource:
    """The reader and the files of a split.

    Attributes:
        read: Reader; called with the split's full name and the paths of ``needed`` and ``extra`` files, in order.
        needed: Required files, each as the names it may have.
        extra: Optional files, likewise; the reader gets None for a file that does not exist.
        notes: Notes that precede those of the reader.
    """

    read: Callable[..., Split]
    needed: tuple[Names, ...]
    extra: tuple[Names, ...] = ()
    notes: Names = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        task: What it measures.
        folders: Names that the subfolder with its files may have.
        default: The split that results are reported on.
        splits: Sources by name of the split.
        scoring: Scoring rules for predicted spans and saliency.
        recipe: Frame rate and post-processing of grounding heads trained for the benchmark; None if there is none.
        recipe_name: Name to select the recipe by; empty for the name of the benchmark.
    """

    task: Task
    folders: Names
    default: str
    splits: Mapping[str, SplitSource]
    scoring: Scoring = DEFAULT_SCORING
    recipe: HeadRecipe | None = None
    recipe_name: str = ""

    @property
    def train_splits(self) -> Names:
        """Return the names of the training splits."""
        return tuple(split for split in self.splits if split.startswith("train"))


def or_jsonl(read: Callable[..., Split]) -> Callable[..., Split]:
    """Return a reader that also accepts .jsonl files as those of QVHighlights, a common way to republish moments."""

    def read_either(name: str, path: Path, *more: Path | None) -> Split:
        if path.suffix != ".jsonl":
            return read(name, path, *more)
        note = (
            f"read from {path.name}: derived by others from the benchmark's own files, windows may have been corrected"
        )
        return qvhighlights.read_labelled(name, path, notes=(note,))

    return read_either


MSRVTT = ("msrvtt", "MSRVTT", "msrvtt_data")
SENTENCES = ("MSRVTT_data.json",)
ACTIVITYNET = ("activitynet", "ActivityNet", "activity-net")


def _official(split: str, list_name: str, *, challenge: str) -> SplitSource:
    read = partial(captions.read_official, split=split)
    return SplitSource(read, ((*SENTENCES, f"{challenge}_videodatainfo.json"),), ((list_name,),))


def _msvd(split: str) -> SplitSource:
    return SplitSource(captions.read_msvd, (("captions_msvd.json",), (f"{split}_list.txt",)))


def _didemo(split: str) -> SplitSource:
    return SplitSource(captions.read_didemo, ((f"{split}_data.json",), (f"{split}_list.txt",)))


def _vatex(file_name: str, list_name: str = "") -> SplitSource:
    return SplitSource(captions.read_vatex, ((file_name,), (list_name,)) if list_name else ((file_name,),))


def _qvhighlights(split: str, *notes: str) -> SplitSource:
    return SplitSource(qvhighlights.read_labelled, ((f"highlight_{split}_release.jsonl",),), notes=notes)


def _charades(split: str) -> SplitSource:
    names = (f"charades_sta_{split}.txt", f"charades_{split}_release.jsonl")
    return SplitSource(or_jsonl(moments.read_charades), (names,), ((f"Charades_v1_{split}.csv",),))


def _timed(*names: str, notes: Names = ()) -> SplitSource:
    return SplitSource(or_jsonl(moments.read_timed), (names,), notes=notes)


def _ego4d(*names: str) -> SplitSource:
    return SplitSource(or_jsonl(moments.read_ego4d), (names,))


VAL_2_NOTES = ("the videos of val_2 are among those of val_1: do not train on one and evaluate on the other",)

DATASETS: Mapping[str, Benchmark] = {
    "msrvtt-1k-a": Benchmark(
        "retrieval",
        MSRVTT,
        "test",
        {
            "test": SplitSource(captions.read_1k_a, (("MSRVTT_JSFUSION_test.csv",),)),
            "train-9k": SplitSource(
                captions.read_listed,
                (SENTENCES, ("MSRVTT_train.9k.csv",)),
                notes=("1,990 of these videos are in msrvtt-full-test: do not evaluate there what was trained here",),
            ),
            "train-7k": SplitSource(captions.read_listed, (SENTENCES, ("MSRVTT_train.7k.csv",))),
        },
    ),
    "msrvtt-1k-b": Benchmark(
        "retrieval",
        MSRVTT,
        "test",
        {
            "test": SplitSource(captions.read_first, (SENTENCES, ("test_list_1kB_miech.txt", "test_list_miech.txt"))),
            "train": SplitSource(
                captions.read_listed, (SENTENCES, ("train_list_1kB_miech.txt", "train_list_miech.txt"))
            ),
        },
    ),
    "msrvtt-full": Benchmark(
        "retrieval",
        MSRVTT,
        "test",
        {
            "test": _official("test", "MSRVTT_test.full.csv", challenge="test"),
            "val": _official("val", "MSRVTT_val.full.csv", challenge="train_val"),
            "train": _official("train", "MSRVTT_train.full.csv", challenge="train_val"),
        },
    ),
    "msvd": Benchmark(
        "retrieval",
        ("msvd", "MSVD", "msvd_data"),
        "test",
        {split: _msvd(split) for split in ("test", "val", "train")},
    ),
    "lsmdc": Benchmark(
        "retrieval",
        ("lsmdc", "LSMDC", "lsmdc_data"),
        "test",
        {
            "test": SplitSource(captions.read_lsmdc, (("LSMDC16_challenge_1000_publictect.csv",),)),
            "val": SplitSource(captions.read_lsmdc, (("LSMDC16_annos_val.csv",),)),
            "train": SplitSource(captions.read_lsmdc, (("LSMDC16_annos_training.csv",),)),
        },
    ),
    "didemo": Benchmark(
        "retrieval",
        ("didemo", "DiDeMo", "didemo_data"),
        "test",
        {split: _didemo(split) for split in ("test", "val", "train")},
    ),
    "activitynet": Benchmark(
        "retrieval",
        ACTIVITYNET,
        "val_1",
        {
            split: SplitSource(captions.read_activitynet, ((f"{split}.json",),), (("bad_vids.txt",),))
            for split in ("val_1", "val_2", "train")
        },
    ),
    "vatex": Benchmark(
        "retrieval",
        ("vatex", "VATEX", "vatex_data"),
        "test-1500",
        {
            "test-1500": _vatex("vatex_validation_v1.0.json", "test_list.txt"),
            "val-1500": _vatex("vatex_validation_v1.0.json", "val_list.txt"),
            "val": _vatex("vatex_validation_v1.0.json"),
            "test": _vatex("vatex_public_test_english_v1.1.json"),
            "train": _vatex("vatex_training_v1.0.json"),
        },
    ),
    "webvid-covr": Benchmark(
        "composed",
        ("webvid-covr", "WebVid-CoVR", "webvid_covr"),
        "test",
        {
            split: SplitSource(captions.read_composed, ((f"webvid{size}-covr_{split}.csv",),))
            for split, size in (("test", "8m"), ("val", "8m"), ("train", "2m"))
        },
    ),
    "qvhighlights": Benchmark(
        "moments",
        ("qvhighlights", "qvhighlight", "QVHighlights"),
        "val",
        {
            "val": _qvhighlights("val"),
            "test": _qvhighlights("test", "the labels of the test split are not in this file"),
            "train": _qvhighlights("train"),
        },
        scoring=Scoring(lengths=QVHIGHLIGHTS_LENGTHS),
        recipe={"fps": 0.5, "suppression": "hard", "threshold": 0.7, "unit": 2.0},
    ),
    "qv-m2": Benchmark(
        "moments",
        ("QV-M2", "qv-m2", "qv_m2"),
        "val",
        {split: SplitSource(qvhighlights.read_labelled, ((f"{split}.jsonl",),)) for split in ("val", "test", "train")},
        scoring=Scoring(lengths=QVHIGHLIGHTS_LENGTHS),
        recipe={"fps": 0.5, "suppression": "hard", "threshold": 0.7, "unit": 2.0},
        recipe_name="qvhighlights",
    ),
    "tvr-ranking": Benchmark(
        "rated",
        ("TVR_Ranking", "tvr-ranking", "TVR-Ranking"),
        "test",
        {
            split: SplitSource(moments.read_rated, ((f"{split}.json",),), (("video_corpus.json",),))
            for split in ("test", "val")
        },
    ),
    "charades-sta": Benchmark(
        "moments",
        ("charades_sta", "charades", "Charades-STA"),
        "test",
        {split: _charades(split) for split in ("test", "train")},
        recipe={"fps": 1.0, "suppression": "linear", "unit": 0.1},
        recipe_name="charades",
    ),
    "tacos": Benchmark(
        "moments",
        ("tacos", "TACoS"),
        "test",
        {split: _timed(f"{split}.json", f"tacos_{split}_release.jsonl") for split in ("test", "val", "train")},
        recipe={"fps": 0.5, "suppression": "linear"},
    ),
    "activitynet-moments": Benchmark(
        "moments",
        ACTIVITYNET,
        "val_1",
        {
            "val_1": _timed("val_1.json", "activitynet_val_release.jsonl", notes=VAL_2_NOTES),
            "val_2": _timed("val_2.json", "activitynet_test_release.jsonl", notes=VAL_2_NOTES),
            "train": _timed("train.json", "activitynet_train_release.jsonl"),
        },
    ),
    "ego4d-nlq": Benchmark(
        "moments",
        ("ego4d_nlq", "ego4d-nlq", "ego4d", "annotations"),
        "val",
        {
            "val": _ego4d("nlq_val.json", "nlq_val.jsonl"),
            "test": _ego4d("nlq_test_unannotated.json"),
            "train": _ego4d("nlq_train.json", "nlq_train.jsonl"),
        },
        recipe={"fps": 0.5, "suppression": "linear"},
        recipe_name="ego4d",
    ),
    "youtube-highlights": Benchmark(
        "highlights",
        ("youtube_highlights", "youtube_highlight"),
        "val",
        {
            split: SplitSource(qvhighlights.read_youtube, ((f"youtube_highlight_{split}_release.jsonl",),))
            for split in ("val", "train")
        },
        scoring=Scoring(saliency="all-clips"),
        recipe={"fps": None},
        recipe_name="youtube",
    ),
    "tvsum": Benchmark(
        "highlights",
        ("tvsum", "TVSum"),
        "val",
        {
            split: SplitSource(qvhighlights.read_tvsum, ((f"tvsum_{split}_release.jsonl",),))
            for split in ("val", "train")
        },
        scoring=Scoring(saliency="top-5"),
        recipe={"fps": 0.5},
    ),
    "captions": Benchmark("retrieval", (), "all", {"all": SplitSource(captions.read_captions, (("captions.jsonl",),))}),
    "moments": Benchmark("moments", (), "all", {"all": SplitSource(qvhighlights.read_labelled, (("moments.jsonl",),))}),
}

# Recipes of grounding heads by name.
RECIPES: Mapping[str, HeadRecipe] = {
    benchmark.recipe_name or name: benchmark.recipe
    for name, benchmark in DATASETS.items()
    if benchmark.recipe is not None
}
