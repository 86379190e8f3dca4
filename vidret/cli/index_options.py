"""Options of the command ``vidret index``."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.language_model import LANGUAGE_MODEL
from vidret.cli.options import ADVANCED, MODEL, OUTPUT, index_option
from vidret.video.decoders.registry import DECODERS

SOURCES, STORAGE = "What to index", "Storage"
NewIndexOption = Annotated[Path, index_option(SOURCES, text="Index folder, new or not.")]
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
        "auto (the aligner in or beside the model file; ucofia for the starter; otherwise none).",
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
        "them separated by commas. auto keeps the setting of the index; a new index gets all of them if the extra "
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
DescribeOption = Annotated[
    str | None,
    typer.Option(
        "--describe",
        metavar="URL",
        help="Chat endpoint in OpenAI's style that sees images: it gets 3 frames of each segment that it has not "
        "described yet, and its descriptions are searched as the source generated. Its key is read from "
        "VIDRET_LLM_KEY.",
        rich_help_panel=LANGUAGE_MODEL,
    ),
]
MaxCallsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Maximum number of requests to the endpoint; the next run goes on from there.",
        rich_help_panel=LANGUAGE_MODEL,
    ),
]
ShotsOption = Annotated[
    str,
    typer.Option(
        "--shots",
        metavar="auto|on|off",
        help="Cut videos into segments at shots (on) or every 12 s (off). auto keeps the setting of the index; a new "
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
        "only keyframes (fast; if a video has six or more). auto keeps the setting of the index; a new one is exact.",
        rich_help_panel=SOURCES,
    ),
]
PrepareMomentsOption = Annotated[
    bool,
    typer.Option(
        "--prepare-moments",
        help="Compute what the grounding head needs of videos that were indexed without it, in one more pass, rather "
        "than at the first query.",
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
WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Keep running until Ctrl-C, and index again whenever files in the folders change (extra watch).",
        rich_help_panel=SOURCES,
    ),
]
WebhookOption = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        metavar="URL",
        help="Post new matches of the watches to this URL as JSON; redirects are refused.",
        rich_help_panel=OUTPUT,
    ),
]
ExitCodeOption = Annotated[
    bool,
    typer.Option("--exit-code", help="Exit with code 3 if a new video matches a watch.", rich_help_panel=OUTPUT),
]
FailOnErrorOption = Annotated[
    bool, typer.Option("--fail-on-error", help="Exit with code 1 if any file failed.", rich_help_panel=OUTPUT)
]
DecoderOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(DECODERS),
        help="Video decoder; auto is Decord where it is exact, otherwise PyAV; on an NVIDIA GPU torchcodec or Decord.",
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
