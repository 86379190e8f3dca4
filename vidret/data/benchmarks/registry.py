"""The supported benchmarks: task, splits with their files, and scoring of each; and the recipes of grounding heads.

To add a benchmark, write its reader and add an entry to ``DATASETS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from vidret.data.benchmarks import captions, moments
from vidret.data.records import DEFAULT_SCORING, QVHIGHLIGHTS_LENGTHS, Scoring, Split
from vidret.ground.checkpoint import HeadRecipe
from vidret.ground.windows import WHOLE

Task = Literal["retrieval", "moments", "highlights", "composed", "rated"]
Reader = Callable[..., Split]
Names = tuple[str, ...]


class SplitSource:
    """The reader and the files of a split.

    Attributes:
        read: Reader; called with the split's full name and the paths of ``needed`` and ``extra`` files, in order.
        needed: Required files, each as its possible names, separated by " or ".
        extra: Optional files, likewise; the reader gets None for a file that does not exist.
        notes: Notes that precede those of the reader.
    """

    def __init__(self, read: Reader, *needed: str, extra: Names = (), notes: Names = ()) -> None:
        self.read, self.needed, self.extra, self.notes = read, needed, extra, notes


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark: its task, files and scoring.

    Attributes:
        task: What it measures.
        folders: Possible names of the subfolder with its files.
        splits: Sources by name of the split; results are reported on the first.
        scoring: Scoring rules for predicted spans and saliency.
        recipe: Name of the recipe of grounding heads trained for the benchmark; empty if there is none.
    """

    task: Task
    folders: Names
    splits: Mapping[str, SplitSource]
    scoring: Scoring = DEFAULT_SCORING
    recipe: str = ""

    @property
    def default(self) -> str:
        """Return the name of the split that results are reported on."""
        return next(iter(self.splits))

    @property
    def train_splits(self) -> Names:
        """Return the names of the training splits."""
        return tuple(split for split in self.splits if split.startswith("train"))


def or_jsonl(read: Reader) -> Reader:
    """Return a reader that also accepts .jsonl files in QVHighlights' format, a common way to republish moments."""

    def read_either(name: str, path: Path, *more: Path | None) -> Split:
        if path.suffix != ".jsonl":
            return read(name, path, *more)
        note = (
            f"read from {path.name}: derived by others from the benchmark's own files, windows may have been corrected"
        )
        return moments.read_labelled(name, path, notes=(note,))

    return read_either


def _each(splits: str, read: Reader, *files: str, extra: Names = ()) -> dict[str, SplitSource]:
    """Return the sources of splits whose file names contain the name of the split, {}."""
    return {
        split: SplitSource(
            read, *(name.format(split) for name in files), extra=tuple(name.format(split) for name in extra)
        )
        for split in splits.split()
    }


MSRVTT = ("msrvtt", "MSRVTT", "msrvtt_data")
SENTENCES = "MSRVTT_data.json"
VATEX_ALL = " or vatex_data.json or ref_captions.json"  # all splits in one file, as in public retrieval code
ACTIVITYNET = ("activitynet", "ActivityNet", "activity-net")
VAL_2_NOTES = ("the videos of val_2 are among those of val_1: do not train on one and evaluate on the other",)
read_timed, read_ego4d = or_jsonl(moments.read_timed), or_jsonl(moments.read_ego4d)


def _official(split: str, list_name: str, challenge: str) -> SplitSource:
    read = partial(captions.read_official, split=split)
    return SplitSource(read, f"{SENTENCES} or {challenge}_videodatainfo.json", extra=(list_name,))


DATASETS: Mapping[str, Benchmark] = {
    "msrvtt-1k-a": Benchmark(
        "retrieval",
        MSRVTT,
        {
            "test": SplitSource(captions.read_1k_a, "MSRVTT_JSFUSION_test.csv"),
            "train-9k": SplitSource(
                captions.read_listed,
                SENTENCES,
                "MSRVTT_train.9k.csv",
                notes=("1,990 of these videos are in msrvtt-full-test: do not evaluate there what was trained here",),
            ),
            "train-7k": SplitSource(captions.read_listed, SENTENCES, "MSRVTT_train.7k.csv"),
        },
    ),
    "msrvtt-1k-b": Benchmark(
        "retrieval",
        MSRVTT,
        {
            "test": SplitSource(captions.read_first, SENTENCES, "test_list_1kB_miech.txt or test_list_miech.txt"),
            "train": SplitSource(captions.read_listed, SENTENCES, "train_list_1kB_miech.txt or train_list_miech.txt"),
        },
    ),
    "msrvtt-full": Benchmark(
        "retrieval",
        MSRVTT,
        {
            "test": _official("test", "MSRVTT_test.full.csv", "test"),
            "val": _official("val", "MSRVTT_val.full.csv", "train_val"),
            "train": _official("train", "MSRVTT_train.full.csv", "train_val"),
        },
    ),
    "msvd": Benchmark(
        "retrieval",
        ("msvd", "MSVD", "msvd_data"),
        _each("test val train", captions.read_msvd, "captions_msvd.json or raw-captions.pkl", "{}_list.txt"),
    ),
    "lsmdc": Benchmark(
        "retrieval",
        ("lsmdc", "LSMDC", "lsmdc_data"),
        {
            "test": SplitSource(captions.read_lsmdc, "LSMDC16_challenge_1000_publictect.csv"),
            "val": SplitSource(captions.read_lsmdc, "LSMDC16_annos_val.csv"),
            "train": SplitSource(captions.read_lsmdc, "LSMDC16_annos_training.csv"),
        },
    ),
    "didemo": Benchmark(
        "retrieval",
        ("didemo", "DiDeMo", "didemo_data"),
        _each("test val train", captions.read_didemo, "{}_data.json", "{}_list.txt"),
    ),
    "activitynet": Benchmark(
        "retrieval",
        ACTIVITYNET,
        _each("val_1 val_2 train", captions.read_activitynet, "{}.json", extra=("bad_vids.txt",)),
    ),
    "vatex": Benchmark(
        "retrieval",
        ("vatex", "VATEX", "vatex_data"),
        {
            "test-1500": SplitSource(captions.read_vatex, f"vatex_validation_v1.0.json{VATEX_ALL}", "test_list.txt"),
            "val-1500": SplitSource(captions.read_vatex, f"vatex_validation_v1.0.json{VATEX_ALL}", "val_list.txt"),
            "val": SplitSource(captions.read_vatex, "vatex_validation_v1.0.json"),
            "test": SplitSource(captions.read_vatex, "vatex_public_test_english_v1.1.json"),
            "train": SplitSource(
                captions.read_vatex, f"vatex_training_v1.0.json{VATEX_ALL}", extra=("train_list.txt",)
            ),
        },
    ),
    "webvid-covr": Benchmark(
        "composed",
        ("webvid-covr", "WebVid-CoVR", "webvid_covr"),
        _each("test val", captions.read_composed, "webvid8m-covr_{}.csv")
        | _each("train", captions.read_composed, "webvid2m-covr_{}.csv"),
    ),
    "qvhighlights": Benchmark(
        "moments",
        ("qvhighlights", "qvhighlight", "QVHighlights"),
        _each("val test train", moments.read_labelled, "highlight_{}_release.jsonl"),
        scoring=Scoring(lengths=QVHIGHLIGHTS_LENGTHS),
        recipe="qvhighlights",
    ),
    "qv-m2": Benchmark(
        "moments",
        ("QV-M2", "qv-m2", "qv_m2"),
        _each("val test train", moments.read_labelled, "{}.jsonl"),
        scoring=Scoring(lengths=QVHIGHLIGHTS_LENGTHS),
        recipe="qvhighlights",
    ),
    "tvr-ranking": Benchmark(
        "rated",
        ("TVR_Ranking", "tvr-ranking", "TVR-Ranking"),
        _each("test val", moments.read_rated, "{}.json", extra=("video_corpus.json",)),
    ),
    "charades-sta": Benchmark(
        "moments",
        ("charades_sta", "charades", "Charades-STA"),
        _each(
            "test train",
            or_jsonl(moments.read_charades),
            "charades_sta_{0}.txt or charades_{0}_release.jsonl",
            extra=("Charades_v1_{}.csv",),
        ),
        recipe="charades",
    ),
    "tacos": Benchmark(
        "moments",
        ("tacos", "TACoS"),
        _each("test val train", read_timed, "{0}.json or tacos_{0}_release.jsonl"),
        recipe="tacos",
    ),
    "activitynet-moments": Benchmark(
        "moments",
        ACTIVITYNET,
        {
            "val_1": SplitSource(read_timed, "val_1.json or activitynet_val_release.jsonl", notes=VAL_2_NOTES),
            "val_2": SplitSource(read_timed, "val_2.json or activitynet_test_release.jsonl", notes=VAL_2_NOTES),
            "train": SplitSource(read_timed, "train.json or activitynet_train_release.jsonl"),
        },
    ),
    "ego4d-nlq": Benchmark(
        "moments",
        ("ego4d_nlq", "ego4d-nlq", "ego4d", "annotations"),
        {
            "val": SplitSource(read_ego4d, "nlq_val.json or nlq_val.jsonl"),
            "test": SplitSource(read_ego4d, "nlq_test_unannotated.json"),
            "train": SplitSource(read_ego4d, "nlq_train.json or nlq_train.jsonl"),
        },
        recipe="ego4d",
    ),
    "youtube-highlights": Benchmark(
        "highlights",
        ("youtube_highlights", "youtube_highlight"),
        _each("val train", moments.read_youtube, "youtube_highlight_{}_release.jsonl"),
        scoring=Scoring(saliency="all-clips"),
        recipe="youtube",
    ),
    "tvsum": Benchmark(
        "highlights",
        ("tvsum", "TVSum"),
        _each("val train", moments.read_tvsum, "tvsum_{}_release.jsonl"),
        scoring=Scoring(saliency="top-5"),
        recipe="tvsum",
    ),
    "captions": Benchmark(
        "retrieval", (), {"all": SplitSource(captions.read_captions, "captions.jsonl or captions.csv")}
    ),
    "moments": Benchmark("moments", (), {"all": SplitSource(moments.read_labelled, "moments.jsonl")}),
}

# Frame rate, windows and post-processing of grounding heads that are trained for a benchmark. The published code reads
# each video whole; those of QVHighlights and Charades-STA are hardly longer than a window.
RECIPES: Mapping[str, HeadRecipe] = {
    "qvhighlights": {"fps": 0.5, "suppression": "hard", "threshold": 0.7, "unit": 2.0},
    "charades": {"fps": 1.0, "suppression": "linear", "unit": 0.1},
    "tacos": {"fps": 0.5, "suppression": "linear", "window": WHOLE},
    "ego4d": {"fps": 0.5, "suppression": "linear", "window": WHOLE},
    "youtube": {"fps": None, "window": WHOLE},
    "tvsum": {"fps": 0.5, "window": WHOLE},
}
