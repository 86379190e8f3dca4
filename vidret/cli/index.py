"""The command ``vidret index``."""

import dataclasses
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vidret.cli.app import app
from vidret.cli.inputs import parse_memory, parse_names
from vidret.cli.opening import open_engine
from vidret.cli.options import (
    ADVANCED,
    DEFAULT_INDEX,
    MODEL,
    OUTPUT,
    DeviceOption,
    HeadOption,
    JsonOption,
    ModelOption,
    PrecisionOption,
    WorkersOption,
    index_option,
)
from vidret.present.progress import show_count, show_progress
from vidret.present.summaries import print_index_summary
from vidret.present.terminal import print_message
from vidret.video.streaming import SAMPLING_MODES

if TYPE_CHECKING:
    from vidret.engine import IndexRunner
    from vidret.timed_text.options import WordsOptions

SOURCES, STORAGE = "What to index", "Storage"
STARTER_NOTE = (
    "Using the built-in starter encoder. For the quality of CLIP, make another index with "
    "--model ViT-B-32/laion2b_s34b_b79k (a download of 600 MB, once)."
)
NEEDS_EXTRA = 'that needs the extra "words": pip install "vidret[words]"'
SHOTS = {"auto": None, "on": True, "off": False}
PathsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Files, folders, glob patterns, manifests (.jsonl or .csv with a path column) or URLs (s3://, gs://, "
        "https://).",
    ),
]
PruneOption = Annotated[
    bool,
    typer.Option(
        "--prune",
        help="Remove missing files of these folders from the index, except where a folder has no video left: its "
        "drive may be disconnected.",
        rich_help_panel=SOURCES,
    ),
]
RetryFailedOption = Annotated[
    bool,
    typer.Option("--retry-failed", help="Try failed files again, even unchanged ones.", rich_help_panel=SOURCES),
]
PreparedRerankOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help="Reranker that a new index is prepared for: none, ucofia, glscl, the file of a trained aligner, or "
        "auto (the aligner beside the model file; ucofia for the starter; otherwise none).",
        rich_help_panel=MODEL,
    ),
]
TokensOption = Annotated[
    str,
    typer.Option(metavar="int8|float16", help="Storage format of the tokens for reranking.", rich_help_panel=MODEL),
]
WordsOption = Annotated[
    str,
    typer.Option(
        "--words",
        metavar="auto|on|off|LIST",
        envvar="VIDRET_WORDS",
        help="Words to read besides the pictures: speech, screen (text in the picture), subtitles, or several of "
        "them separated by commas. auto goes on as the index has it; a new index gets all of them if the extra "
        '"words" is installed.',
        rich_help_panel=SOURCES,
    ),
]
SpeechModelOption = Annotated[
    str | None,
    typer.Option(
        "--speech-model",
        metavar="NAME|FOLDER",
        help="Whisper model for speech, such as base, small or large-v3; default: tiny.en (English), which is "
        "installed. The index remembers it.",
        rich_help_panel=MODEL,
    ),
]
ShotsOption = Annotated[
    str,
    typer.Option(
        "--shots",
        metavar="auto|on|off",
        help="Cut videos into segments at shots (on) or every 12 s (off). auto goes on as the index was made; a new "
        "index follows shots.",
        rich_help_panel=SOURCES,
    ),
]
SamplingOption = Annotated[
    str,
    typer.Option(
        "--sampling",
        metavar="auto|exact|balanced|fast",
        help="Frames to decode: all (exact), those that other frames refer to (balanced, about twice as fast), or "
        "keyframes alone (fast). auto goes on as the index does; a new index is exact.",
        rich_help_panel=SOURCES,
    ),
]
PrepareMomentsOption = Annotated[
    bool,
    typer.Option(
        "--prepare-moments",
        help="Compute what the grounding head needs now, rather than at the first query.",
        rich_help_panel=MODEL,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        metavar="STORE",
        help="Vector store of a new index: faiss, milvus:// (milvus-lite in the index folder), milvus://FILE.db "
        "(milvus-lite elsewhere), milvus://HOST:PORT or milvus://https://HOST:PORT/DATABASE. MILVUS_TOKEN holds "
        "the token of a server. The index remembers the store; vidret store move changes it.",
        rich_help_panel=STORAGE,
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory limit of the vectors, such as 8GB or 512MiB; none removes it. From 200,000 segments on, the "
        "most precise vector format that fits is chosen. The index remembers the limit.",
        rich_help_panel=STORAGE,
    ),
]
ProgressJsonOption = Annotated[
    bool,
    typer.Option(
        "--progress-json", help="Print progress to stderr, as one line of JSON per second.", rich_help_panel=OUTPUT
    ),
]
FailOnErrorOption = Annotated[
    bool, typer.Option("--fail-on-error", help="Exit with code 1 if any file failed.", rich_help_panel=OUTPUT)
]
DecoderOption = Annotated[
    str,
    typer.Option(
        metavar="auto|decord|pyav",
        help="Video decoder; auto is Decord where it is exact, otherwise PyAV.",
        rich_help_panel=ADVANCED,
    ),
]
DecodeTimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=1,
        help="Time after which a decoder that makes no progress is stopped.",
        rich_help_panel=ADVANCED,
    ),
]
RunnerOption = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        help="Where the work runs: on this machine or on a Ray cluster.",
        rich_help_panel=ADVANCED,
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster for --runner ray: auto or HOST:PORT; default: a new one on this machine.",
        rich_help_panel=ADVANCED,
    ),
]
NumGpusOption = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        min=0,
        help="GPUs per encoding worker for --runner ray, such as 1 or 0.5; 0 encodes on CPUs. Default: 1 if "
        "--device is CUDA and Ray has a GPU.",
        rich_help_panel=ADVANCED,
    ),
]


@app.command("index")
def index_command(
    paths: PathsArgument,
    index: Annotated[Path, index_option(SOURCES, text="Index folder, new or not.")] = Path(DEFAULT_INDEX),
    prune: PruneOption = False,
    retry_failed: RetryFailedOption = False,
    words: WordsOption = "auto",
    shots: ShotsOption = "auto",
    sampling: SamplingOption = "auto",
    model: ModelOption = None,
    rerank: PreparedRerankOption = "auto",
    tokens: TokensOption = "int8",
    head: HeadOption = "auto",
    prepare_moments: PrepareMomentsOption = False,
    speech_model: SpeechModelOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    store: StoreOption = None,
    memory: MemoryOption = None,
    as_json: JsonOption = False,
    progress_json: ProgressJsonOption = False,
    fail_on_error: FailOnErrorOption = False,
    workers: WorkersOption = None,
    decoder: DecoderOption = "auto",
    timeout: DecodeTimeoutOption = 120.0,
    runner: RunnerOption = "local",
    address: AddressOption = None,
    num_gpus_per_worker: NumGpusOption = None,
) -> None:
    """Index videos: encode what is new or changed. Safe to interrupt and run again."""
    for option, value, choices in (
        ("--decoder", decoder, ("auto", "decord", "pyav")),
        ("--shots", shots, SHOTS),
        ("--sampling", sampling, ("auto", *SAMPLING_MODES)),
    ):
        if value not in choices:
            raise typer.BadParameter(f"must be {', '.join(choices)}, got {value}", param_hint=option)
    from vidret.store.store import Store

    run = choose_run(runner, address, num_gpus_per_worker, precision)
    memory_bytes = None if memory is None else parse_memory(memory)
    is_new = not Store.exists(index)
    chosen_words = parse_words(words, speech_model, index, is_new=is_new, on_ray=runner == "ray")
    engine = open_engine(index, model, device, precision, rerank=rerank, tokens=tokens, head=head, store=store)
    if prepare_moments and engine.grounder is None:
        raise typer.BadParameter("needs a --head, got none", param_hint="--prepare-moments")
    if is_new and engine.encoder.name == "starter":
        print_message(STARTER_NOTE)
    with show_progress(as_json=progress_json) as on_progress:
        index_paths = partial(
            engine.index,
            workers=workers,
            timeout=timeout,
            prune=prune,
            retry_failed=retry_failed,
            words=chosen_words,
            shots=SHOTS[shots],
        )
        frames = {"decoder": decoder, "sampling": None if sampling == "auto" else sampling}
        # mypy cannot know that these were checked above.
        report = index_paths(paths, **frames, memory=memory_bytes, on_progress=on_progress, run=run)  # type: ignore[arg-type]
    if prepare_moments and not report.interrupted:
        with show_count("preparing moments", "videos") as on_count:
            engine.prepare_moments(timeout=timeout, on_progress=on_count)
    if as_json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        print_index_summary(report, index)
    if report.interrupted or (fail_on_error and report.failed):
        raise typer.Exit(1)


def parse_words(
    text: str, speech_model: str | None, index: Path, *, is_new: bool, on_ray: bool
) -> "WordsOptions | Literal[False]":
    """Return which words to read, given ``--words`` and ``--speech-model``; say so if a new index gets none.

    Raises:
        typer.BadParameter: ``--words`` names no source, or the run is on Ray.
    """
    from vidret.index.words import read_options
    from vidret.timed_text.options import WordsOptions, is_installed
    from vidret.types import TEXT_SOURCES

    known = read_options(index)
    options = known or WordsOptions()
    if text == "off" or (text == "auto" and known is None and not is_new):
        return False
    if text == "auto" and known is None:
        reason = "--runner ray does not read them" if on_ray else "" if is_installed() else NEEDS_EXTRA
        if reason:
            print_message(f"No words (speech, on-screen text, subtitles) are read: {reason}.")
            return False
    elif text not in ("auto", "on"):
        sources = parse_names(text, TEXT_SOURCES, option="--words", rule="must be auto, on, off or some of")
        options = replace(options, sources=sources)
    if on_ray:
        raise typer.BadParameter(f"must be off with the ray runner, got {text}", param_hint="--words")
    return options if speech_model is None else replace(options, speech_model=speech_model)


def choose_run(runner: str, address: str | None, num_gpus_per_worker: float | None, precision: str) -> "IndexRunner":
    """Return the function that indexes files: on threads of this machine, or on Ray."""
    if runner == "ray":
        from vidret.index.ray.run import index_on_ray

        return partial(index_on_ray, address=address, num_gpus_per_worker=num_gpus_per_worker, precision=precision)
    if runner != "local":
        raise typer.BadParameter(f"must be local or ray, got {runner}", param_hint="--runner")
    for hint, value in (("--address", address), ("--num-gpus-per-worker", num_gpus_per_worker)):
        if value is not None:
            raise typer.BadParameter("needs --runner ray, got --runner local", param_hint=hint)
    from vidret.index.run import index_files

    return index_files
