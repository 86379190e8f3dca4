"""The shared options and steps of the evaluation commands: read annotations, index, run queries, write the report."""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer

from vidret.cli.evaluate.scores import print_tables, read_data
from vidret.cli.opening import choose_model, open_engine
from vidret.cli.options import (
    ADVANCED,
    MODEL,
    OUTPUT,
    DeviceOption,
    Loading,
    PrecisionOption,
    WorkersOption,
    option,
    option_field,
)
from vidret.cli.values import read_texts
from vidret.errors import VidretError
from vidret.present.progress import show_count, show_progress
from vidret.present.terminal import print_message
from vidret.text import format_count

if TYPE_CHECKING:
    from vidret.channels.texts.options import WordsOptions
    from vidret.data.records import Split
    from vidret.engine import Engine
    from vidret.evaluate.report import Gallery, Report
    from vidret.evaluate.retrieval import Bank
    from vidret.metrics.predictions import Prediction

OWN = ("captions", "moments")  # names of your own data, whose annotations are in the folder of the videos
QUERIES = "queries"  # annotations there, too, with a kind and a file for each query
DATA = "Data"
AnnotationsOption = Annotated[
    Path | None,
    option(
        "Folder of the annotation files, or the first of them. Default: for benchmarks the folder that the "
        "environment variable VIDRET_DATA names, otherwise the folder of the videos.",
        DATA,
        "PATH",
    ),
]
VideosOption = Annotated[Path, option("Folder of the videos; subfolders are searched.", DATA, "DIR")]
ProtocolOption = Annotated[
    str,
    option(
        "Rows, frames, instruction of queries and main score: classic (the model's frames, R@1), also called 1k-a on "
        "MSR-VTT; mmeb-v2 (64 frames, R@1) or mteb (2 a second, at most 64, nDCG@10).",
        MODEL,
        "classic|1k-a|mmeb-v2|mteb",
    ),
]
RowsOption = Annotated[
    Path | None,
    option("Ids of the queries to evaluate, or of their videos, one a line, such as MTEB's own list.", DATA, "FILE"),
]
OutOption = Annotated[
    Path | None,
    option(
        "Folder for the index and any report or predictions; default: eval/COMMAND-DATA-MODEL, with the name of the "
        "folder of your own videos before DATA.",
        OUTPUT,
        "DIR",
    ),
]
EvalRerankOption = Annotated[
    str,
    option(
        "Score: mean (over all frames), none (the best frames), ucofia, glscl, the file of an aligner, or auto.",
        MODEL,
        "NAME|FILE",
    ),
]
EvalModelOption = Annotated[
    str | None, option("Encoder of a new index, as for vidret index; default: starter.", MODEL, "NAME|FILE")
]


def read_calibration(name: str, data: str, annotations: Path) -> "Bank":
    """Return a bank of queries: those of a file, or the captions of a split."""
    from vidret.evaluate.retrieval import Bank

    if Path(name).is_file():
        return Bank(Path(name).name, read_texts(Path(name)))
    try:
        split = read_data(data, annotations, name)
    except VidretError as error:
        rule = "must be a file of queries or a split"
        raise typer.BadParameter(f"{rule}, got {name}: {error}", param_hint="--calibrate") from error
    return Bank(split.name, [caption.text for caption in split.captions])


def default_out(data: str, model: str | None) -> Path:
    """Return the default output folder of an evaluation."""
    name = (choose_model(model) or "starter")[-150:]  # the end of a long path: names of folders have at most 255 bytes
    return Path("eval") / re.sub(r"[^A-Za-z0-9.]+", "-", f"{data}-{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRun:
    """The options of a command that evaluates a model on annotated videos, and the steps that need only them."""

    videos: VideosOption
    data: str = option_field(
        "Benchmark, with its split if that is not the usual one: msrvtt-1k-a, qvhighlights-val, charades-sta; "
        "captions or moments for your own files. An unknown name lists all of them.",
        DATA,
        "NAME",
        default="captions",
    )
    annotations: AnnotationsOption = None
    model: EvalModelOption = None
    frames: int | None = option_field(
        "Frames of a video, 64 in papers on paragraphs; default: the model's own.", MODEL, "N", min=1
    )
    words: int | None = option_field(
        "Tokens that texts are cut to, 32 in most papers and 64 for paragraphs; default: long texts are split into "
        "clauses.",
        MODEL,
        "N",
        min=3,
    )
    device: DeviceOption = "auto"
    precision: PrecisionOption = "auto"
    out: OutOption = None
    index: Path | None = option_field("Index to use or create; default: OUT/index.", ADVANCED, "DIR")
    workers: WorkersOption = None

    @property
    def source(self) -> Path:
        """The annotations: the given ones, VIDRET_DATA for benchmarks, or the folder of the videos."""
        shared = os.environ.get("VIDRET_DATA") if self.data not in OWN else None
        return self.annotations or (Path(shared) if shared else self.videos)

    @property
    def target(self) -> Path:
        """The folder of the report."""
        prefix = f"{self.videos.absolute().name}-" if self.data in (*OWN, QUERIES) else ""
        return self.out or default_out(prefix + self.data, self.model)

    def named(self, command: str) -> Self:
        """Return the run with a default folder of its command's own: no report takes the place of another command's."""
        return replace(self, out=self.out or self.target.with_name(f"{command}-{self.target.name}"))

    def read_split(self) -> "Split":
        """Return the split of the benchmark."""
        return read_data(self.data, self.source)

    def open_index(
        self,
        split: "Split",
        *,
        whole: bool = False,
        rerank: str = "auto",
        head: str = "auto",
        protocol: str = "classic",
    ) -> "Engine":
        """Open the index, or prepare a new one for the model, a reranker and a head.

        With ``whole``, each video of a new index is one segment, up to ``find_end``. The sampling rate is that of the
        head or its benchmark's recipe; a protocol may set the number of frames and the rate.
        """
        from vidret.encode.names import STARTER, parse_model_name
        from vidret.evaluate.published import PROTOCOLS
        from vidret.store.store import Store

        path = self.index or self.target / "index"
        exists = Store.exists(path)
        model = choose_model(self.model, path)
        name, chosen = None, PROTOCOLS[protocol]
        frames = self.frames or chosen.frames
        if not exists or model is not None:
            named = replace(parse_model_name(model or STARTER), whole=whole, frames=frames, words=self.words)
            until_s, fps = find_end(split) if whole else None, self.find_rate(head) or chosen.fps
            name = str(replace(named, until_s=until_s, fps=fps or named.fps, rule=chosen.rule))
        prepared_for = "auto" if exists or rerank in ("none", "mean") else rerank
        loading = Loading(device=self.device, precision=self.precision)
        engine = open_engine(path, loading, model=name, rerank=prepared_for, head=head, may_be_new=True)
        made = parse_model_name(engine.encoder.name)
        checks = (("frames", frames, made.frames), ("words", self.words, made.words), ("rule", chosen.rule, made.rule))
        for option_name, wanted, index_value in checks:
            if wanted not in (None, index_value):
                raise VidretError(f"{path}: {option_name} must be those of the index, {index_value}, got {wanted}")
        return engine

    def find_rate(self, head: str) -> float | None:
        """Return the frames per second of a head, from its file or the benchmark's recipe; None without one."""
        from vidret.channels.picture.query_bank import find_model_parts
        from vidret.data.benchmarks.registry import DATASETS, RECIPES
        from vidret.data.benchmarks.splits import resolve_split
        from vidret.ground.checkpoint import read_head_card
        from vidret.ground.universalvtg import is_universal
        from vidret.model_files import HEAD

        model = choose_model(self.model)
        has_head = head not in ("auto", "none") or (
            head == "auto" and model is not None and HEAD in find_model_parts(model)[1]
        )
        recipe = None
        if has_head and self.data != QUERIES:
            recipe = RECIPES.get(DATASETS[resolve_split(self.data)[0]].recipe)
        file = find_model_parts(str(model))[0] if head == "auto" else Path(head)
        if recipe is None or not file.is_file():
            return None if recipe is None else recipe.get("fps")
        if is_universal(file):
            return None  # it decodes frames itself
        return read_head_card(file).fps or recipe.get("fps")

    def fill_index(
        self, engine: "Engine", split: "Split", words: "WordsOptions | Literal[False]" = False, *, head: str = "none"
    ) -> "tuple[Gallery, float]":
        """Index the videos of a split; return the gallery and the duration in seconds.

        For a head with a recipe, the segments of a new index ignore shots, as published; an old index keeps its rule.
        """
        from vidret.evaluate.gallery import index_gallery
        from vidret.store.store import Store

        is_new = not Store.exists(engine.path)
        shots = False if is_new and self.find_rate(head) is not None else None
        with show_progress() as on_progress:
            return index_gallery(
                engine, split, self.videos, workers=self.workers, words=words, shots=shots, on_progress=on_progress
            )

    def fill_bank(self, engine: "Engine", folder: Path) -> "tuple[Bank, float]":
        """Index the videos of a bank, printing unreadable ones; return the bank and the duration in seconds."""
        from vidret.evaluate.gallery import index_readable
        from vidret.evaluate.retrieval import Bank
        from vidret.video.scan import scan

        started, files = time.monotonic(), scan([str(folder.absolute())])
        with show_progress() as on_progress:
            failed = index_readable(engine, files, workers=self.workers, on_progress=on_progress)
        if failed:
            unreadable = format_count(len(failed), "video")
            print_message(f"{folder}: {unreadable} unreadable, omitted from the bank: {', '.join(failed)}")
        readable = [Path(file) for file in files if file not in failed]
        return Bank(str(folder), readable, "video"), time.monotonic() - started

    def evaluate(
        self,
        measure: "Callable[..., Report | tuple[Report, Sequence[Prediction]]]",
        doing: str,
        *,
        split: "Split | None" = None,
        words: "WordsOptions | Literal[False]" = False,
        head: str | None = None,
        html: bool = False,
    ) -> None:
        """Index the videos of a split, None for that of the benchmark, measure, and write the report.

        ``measure`` returns the report of an ``Evaluation``, with predictions if it has any; ``doing`` is the verb of
        the status line. ``head`` is None if the evaluation has no option for one.
        """
        from vidret.evaluate.gallery import Evaluation

        split = split or self.read_split()
        engine = self.open_index(split, head=head or "auto")
        gallery, indexing_s = self.fill_index(engine, split, words, head=head or "none")
        with show_count(doing, "queries") as on_count:
            measured = measure(Evaluation(engine, split, gallery, on_count))
        report, predictions = measured if isinstance(measured, tuple) else (measured, None)
        finish(report, self.target, indexing_s, predictions, html=html)


def find_end(split: "Split") -> float | None:
    """Return the end in seconds that all captions of a split share if they start at 0, as in DiDeMo; else None."""
    parts = {(caption.start or 0.0, caption.end) for caption in split.captions}
    start, end = parts.pop() if len(parts) == 1 else (0.0, None)
    return end if start == 0 else None


def finish(
    report: "Report",
    out: Path,
    indexing_s: float,
    predictions: "Sequence[Prediction] | None" = None,
    *,
    html: bool = False,
) -> None:
    """Print a report, and write it to ``out`` with its predictions and, if ``html`` is set, its page."""
    from vidret.evaluate.tables import describe_report
    from vidret.metrics.predictions import write_predictions

    report = replace(report, seconds={"indexing": indexing_s, **report.seconds})
    facts = report.to_dict()
    for line in describe_report(facts):
        print_message(line)
    print_tables(facts)
    written = ["report.json"]
    report.save(out / "report.json")
    if predictions is not None:
        predicted = {prediction.id for prediction in predictions}
        queries = [query for query in report.split.queries if query.id in predicted]
        write_predictions(out / "predictions.jsonl", queries, predictions)
        written.append("predictions.jsonl")
    if html:
        from vidret.evaluate.page import write_page

        write_page(report, out / "report.html")
        written.append("report.html")
    print_message(f"written to {out}: {', '.join(written)}")
