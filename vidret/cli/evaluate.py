"""vidret eval: measure a model on a benchmark or on one's own videos, and compare."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.cli.app import app
from vidret.cli.options import DeviceOption, HeadOption, PrecisionOption, open_engine, read_bank
from vidret.cli.scores import compare, print_tables, read_data, score
from vidret.errors import VidretError
from vidret.present.show import show_count, show_progress
from vidret.present.terminal import say

if TYPE_CHECKING:
    from vidret.data.records import Split
    from vidret.engine import Engine
    from vidret.evaluate.report import Gallery, Report
    from vidret.evaluate.retrieval import Bank
    from vidret.metrics.predictions import Prediction

group = typer.Typer(help="Measure a model on a benchmark or on your own videos, and compare reports.")
app.add_typer(group, name="eval")

DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="The benchmark, with its split if it is not the usual one: msrvtt-1k-a, qvhighlights-val, charades-sta; "
        "captions or moments for your own .jsonl. A wrong name lists them all.",
    ),
]
AnnotationsOption = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the annotation files, or the first file. If not given: for benchmarks the folder that the "
        "environment variable VIDRET_DATA names, else the videos' folder.",
    ),
]
VideosOption = Annotated[Path, typer.Option(help="The folder that holds the videos; subfolders are searched.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Where report.json, predictions and the index go; eval/DATA-MODEL unless given.")
]
EvalIndexOption = Annotated[
    Path | None, typer.Option("--index", help="The index to use or make; OUT/index if not given.")
]
EvalModelOption = Annotated[
    str | None, typer.Option("--model", help="The encoder of a new index, as in vidret index; the index remembers it.")
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Files at once; all cores unless given.")]
HtmlOption = Annotated[bool, typer.Option("--html", help="Write OUT/report.html too: curves, and the worst queries.")]
RerankOption = Annotated[
    str,
    typer.Option(help="What scores: mean (of all frames), none (the best frames), ucofia, glscl, an aligner, or auto."),
]
SegmentsOption = Annotated[
    str,
    typer.Option(
        help="whole: each video is one segment, as papers have it; cut: as vidret index has it; auto: as the index has "
        "it, and for a new one whole for benchmarks, cut for your own videos."
    ),
]
SEGMENTS = ("auto", "whole", "cut")
# OpenAI's weights were trained with QuickGELU: under the plain name open_clip takes another activation, and is worse.
ZERO_SHOT = "ViT-B-32-quickgelu/openai"
OWN = ("captions", "moments")  # data of one's own, that lie with their videos


@group.command()
def retrieval(
    videos: VideosOption,
    data: DataOption = "captions",
    annotations: AnnotationsOption = None,
    model: EvalModelOption = None,
    index: EvalIndexOption = None,
    rerank: RerankOption = "auto",
    calibrate: Annotated[
        str | None,
        typer.Option(
            help="A bank of queries (text or .jsonl), or the name of a split such as train-9k; adds SK- and QB-norm."
        ),
    ] = None,
    segments: SegmentsOption = "auto",
    out: OutOption = None,
    html: HtmlOption = False,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Search every caption among all videos, and every video among all captions."""
    from vidret.evaluate.retrieval import evaluate_retrieval

    if segments not in SEGMENTS:
        raise typer.BadParameter(f"must be auto, whole or cut, got {segments}", param_hint="--segments")
    source = find_annotations(data, annotations, videos)
    split = read_data(data, source)
    bank = read_calibration(calibrate, data, source) if calibrate is not None else None
    target = out or default_out(data, model)
    whole = segments == "whole" or (segments == "auto" and data not in OWN)
    engine = open_index(index or target / "index", model, device, precision, whole=whole, rerank=rerank)
    if segments != "auto" and engine.encoder.sampling.whole != (segments == "whole"):
        raise VidretError(f"{engine.path}: made of {describe_segments(engine)}, cannot be used with {segments} ones")
    gallery, seconds = fill_index(engine, split, videos, workers)
    with show_count("scoring", "segments") as count:
        report = evaluate_retrieval(engine, split, gallery, rerank=rerank, bank=bank, on_progress=count)
    finish(report, target, seconds, html=html)


@group.command()
def msrvtt(
    videos: VideosOption,
    model: Annotated[str, typer.Option(help="The encoder, as in vidret index.")] = ZERO_SHOT,
    annotations: AnnotationsOption = None,
    rerank: Annotated[
        str | None,
        typer.Option(
            help="What scores: mean (of all frames), none (the best frames), ucofia, glscl, or an aligner. If not "
            "given, the trained aligner beside the model's file, and mean for a model without one."
        ),
    ] = None,
    out: OutOption = None,
    html: HtmlOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Measure on MSR-VTT 1k-A: the row that every paper has."""
    from vidret.search.ranking import MEAN, find_aligner

    retrieval(
        videos=videos,
        data="msrvtt-1k-a",
        annotations=annotations,
        model=model,
        rerank=rerank or str(find_aligner(model) or MEAN),
        out=out,
        html=html,
        device=device,
        precision=precision,
    )


@group.command()
def moments(
    videos: VideosOption,
    data: DataOption = "moments",
    annotations: AnnotationsOption = None,
    model: EvalModelOption = None,
    index: EvalIndexOption = None,
    head: HeadOption = "auto",
    corpus: Annotated[bool, typer.Option("--corpus", help="Also look for every query in all videos (VCMR).")] = False,
    out: OutOption = None,
    html: HtmlOption = False,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Locate every query in its own video."""
    from vidret.evaluate.moments import evaluate_moments

    split = read_data(data, find_annotations(data, annotations, videos))
    target = out or default_out(data, model)
    engine = open_index(index or target / "index", model, device, precision, head=head)
    gallery, seconds = fill_index(engine, split, videos, workers)
    with show_count("locating", "queries") as count:
        report, predictions = evaluate_moments(engine, split, gallery, corpus=corpus, on_progress=count)
    finish(report, target, seconds, predictions, html=html)


@group.command()
def highlights(
    videos: VideosOption,
    data: DataOption = "qvhighlights-val",
    annotations: AnnotationsOption = None,
    model: EvalModelOption = None,
    index: EvalIndexOption = None,
    head: HeadOption = "auto",
    out: OutOption = None,
    html: HtmlOption = False,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Rate every clip of every video against its query."""
    from vidret.evaluate.moments import evaluate_highlights

    split = read_data(data, find_annotations(data, annotations, videos))
    target = out or default_out(data, model)
    engine = open_index(index or target / "index", model, device, precision, head=head)
    gallery, seconds = fill_index(engine, split, videos, workers)
    with show_count("rating", "queries") as count:
        report, predictions = evaluate_highlights(engine, split, gallery, on_progress=count)
    finish(report, target, seconds, predictions, html=html)


@group.command()
def folder(
    path: Annotated[
        Path, typer.Argument(help="A folder with captions.jsonl (videos under videos/), moments.jsonl, or both.")
    ],
    model: EvalModelOption = None,
    out: OutOption = None,
    html: Annotated[bool, typer.Option(help="Write report.html for each, too.")] = True,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Measure on one's own captioned videos: search, moments, and moments in the whole corpus."""
    target = out or default_out(path.absolute().name, model)
    found = [name for name in OWN if (path / f"{name}.jsonl").is_file()]
    if not found:
        raise VidretError(f"{path}: must hold captions.jsonl or moments.jsonl, got neither")
    for number, name in enumerate(found):
        if number:
            print()
        own: dict[str, Any] = {"annotations": path, "model": model, "out": target / name, "html": html}
        own |= {"device": device, "precision": precision}
        if name == "captions":
            retrieval(path, **own)
        else:
            moments(path, **own, corpus=True)


# What needs files alone.
group.command()(score)
group.command()(compare)


# The parts


def find_annotations(data: str, given: Path | None, videos: Path) -> Path:
    """Say where annotations are: one's own lie with their videos."""
    shared = os.environ.get("VIDRET_DATA") if data not in OWN else None
    return given or (Path(shared) if shared else videos)


def read_calibration(name: str, data: str, annotations: Path) -> "Bank":
    """Read a bank from a file, or take the captions of a split."""
    from vidret.evaluate.retrieval import Bank

    if Path(name).is_file():
        return Bank(Path(name).name, read_bank(Path(name)))
    try:
        split = read_data(data, annotations, name)
    except VidretError as error:
        raise VidretError(f"calibrate must be a file of queries or a split, got {name}: {error}") from error
    return Bank(split.name, [caption.text for caption in split.captions])


def default_out(data: str, model: str | None) -> Path:
    """Name the folder of an evaluation."""
    return Path("eval") / re.sub(r"[^A-Za-z0-9.]+", "-", f"{data}-{Path(model).name if model else 'starter'}")


def open_index(
    path: Path,
    model: str | None,
    device: str,
    precision: str,
    *,
    whole: bool = False,
    rerank: str = "auto",
    head: str = "auto",
) -> "Engine":
    """Open an index, or name one to be made: for this model, and prepared for what will order its hits."""
    from vidret.encode.encoder import STARTER, WHOLE
    from vidret.store.store import Store

    there = Store.exists(path)
    name = None if there and model is None else (model or STARTER) + (WHOLE if whole else "")
    made_for = "auto" if there or rerank in ("none", "mean") else rerank
    return open_engine(path, name, device, precision, rerank=made_for, head=head)


def describe_segments(engine: "Engine") -> str:
    """Say what segments an index has."""
    return "whole videos" if engine.encoder.sampling.whole else "cut segments"


def fill_index(engine: "Engine", split: "Split", videos: Path, workers: int | None) -> "tuple[Gallery, float]":
    """Bring the videos into the index."""
    from vidret.evaluate.gallery import index_gallery

    with show_progress() as advance:
        return index_gallery(engine, split, videos, workers=workers, on_progress=advance)


def finish(
    report: "Report", out: Path, indexing: float, predictions: "Sequence[Prediction] | None" = None, *, html: bool
) -> None:
    """Print a report and write its files."""
    from dataclasses import replace

    from vidret.evaluate.tables import tell_report
    from vidret.metrics.predictions import write_predictions

    report = replace(report, seconds={"indexing": indexing, **report.seconds})
    facts = report.to_dict()
    for line in tell_report(facts):
        say(line)
    print_tables(facts)
    written = ["report.json"]
    report.save(out / "report.json")
    if predictions is not None:
        kept = {each.id for each in predictions}
        queries = [query for query in report.split.queries if query.id in kept]
        write_predictions(out / "predictions.jsonl", queries, predictions)
        written.append("predictions.jsonl")
    if html:
        from vidret.evaluate.page import write_page

        write_page(report, out / "report.html")
        written.append("report.html")
    say(f"written to {out}: {', '.join(written)}")
