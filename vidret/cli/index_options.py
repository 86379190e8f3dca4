"""The options of the command ``vidret index``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vidret.cli.language_model import LANGUAGE_MODEL, LlmModelOption
from vidret.cli.options import (
    ADVANCED,
    DEFAULT_INDEX,
    MODEL,
    OUTPUT,
    DeviceOption,
    HeadOption,
    JsonOption,
    MergeOption,
    ModelOption,
    PrecisionOption,
    WorkersOption,
    argument,
    index_option,
    option_field,
)
from vidret.video.decoders.registry import DECODERS

SOURCES, STORAGE = "What to index", "Storage"
PATHS = argument(
    "Files, folders, glob patterns, manifests (.jsonl or .csv with a path column) or URLs (s3://, gs://, https://).",
    "PATH",
)


def _switch(text: str) -> Any:
    """Return an on/off option of an index; without it, the index keeps its setting."""
    return option_field(text, SOURCES, "auto|on|off", default="auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChoices:
    """The arguments and options of ``vidret index``, in the order of its help."""

    paths: Annotated[list[str], PATHS]
    index: Annotated[Path, index_option(SOURCES, text="Index folder, new or not.")] = DEFAULT_INDEX
    prune: bool = option_field(
        "Remove missing files of these folders from the index. A folder without any video is skipped: its drive may be "
        "disconnected.",
        SOURCES,
        default=False,
    )
    exclude: list[str] | None = option_field(
        "Leave out files and folders whose name, or path below PATH, matches this shell pattern, such as proxies or "
        "'*_draft.mp4'. Repeatable. Folders of thumbnails or deleted files, and those with a .nomedia file, are always "
        "left out, unless they are named as PATH.",
        SOURCES,
        "GLOB",
    )
    retry_failed: bool = option_field("Try failed files again, even unchanged ones.", SOURCES, default=False)
    watch: bool = option_field(
        "Keep running until Ctrl-C, and index again whenever files in the folders change (extra watch).",
        SOURCES,
        default=False,
    )
    words: str = option_field(
        "Words to read besides the pictures: speech, screen (text in the picture), subtitles, or several of them "
        "separated by commas. auto keeps the setting of the index; for a new index it is on if the extra words is "
        "installed.",
        SOURCES,
        "auto|on|off|LIST",
        default="auto",
        envvar="VIDRET_WORDS",
    )
    people: str = _switch(
        "Find and follow faces, to search for people (extra people). Faces are biometric data. auto keeps the setting "
        "of the index; for a new index it is off."
    )
    speakers: str = _switch(
        "Find who speaks when, by voice (extra speakers). Voices are biometric data. auto keeps the setting of the "
        "index; for a new index it is off."
    )
    sounds: str = _switch(
        "Read sounds: silence, loud noise, music, speech, and captions in subtitles such as (applause). auto keeps the "
        "setting of the index; for a new index it is on if words are read."
    )
    shots: str = _switch(
        "Cut videos into segments at shots (on) or every 12 s (off). auto keeps the setting of the index; for a new "
        "index it is on."
    )
    sampling: str = option_field(
        "Frames to decode: all (exact), those that other frames refer to (balanced, about twice as fast), or only "
        "keyframes (fast; if a video has six or more). auto keeps the setting of the index; for a new index it is "
        "exact.",
        SOURCES,
        "auto|exact|balanced|fast",
        default="auto",
    )
    model: ModelOption = None
    merge: MergeOption = None
    rerank: str = option_field(
        "Reranker that a new index is prepared for: none, ucofia, glscl, the file of a trained aligner, or "
        "auto (the aligner in or beside the model file; ucofia for the starter; otherwise none).",
        MODEL,
        "NAME|FILE",
        default="auto",
    )
    tokens: str = option_field("Storage format of the tokens for reranking.", MODEL, "int8|float16", default="int8")
    head: HeadOption = "auto"
    prepare_moments: bool = option_field(
        "Prepare videos that were indexed without the grounding head for it now, in one more pass, not at the first "
        "query.",
        MODEL,
        default=False,
    )
    speech_model: str | None = option_field(
        "Whisper model for speech, such as base, small or large-v3; default: tiny.en (English), which is "
        "installed. The index remembers it.",
        MODEL,
        "NAME|FOLDER",
    )
    sound_model: str | None = option_field(
        "Model of sounds: a CLAP or PE-A-Frame, such as hf:laion/clap-htsat-unfused, finds any sound by name; an AST "
        "tags sounds with a fixed list of names. The index remembers it.",
        MODEL,
        "NAME|FOLDER",
    )
    sentence_model: str | None = option_field(
        "Model of sentence-transformers (extra st) that matches words by meaning, for other languages or better "
        "matches; default: all-MiniLM-L6-v2 (English), which is installed. The index remembers it.",
        MODEL,
        "NAME|FOLDER",
    )
    face_model: str | None = option_field(
        "Model for faces: mtcnn+dlib, which the extra people installs, or package.module:Class. The index "
        "remembers it.",
        MODEL,
        "NAME",
    )
    speaker_model: str | None = option_field(
        "Model for voices: campplus, which the extra speakers installs, a file with weights of CAM++, or "
        "package.module:Class. The index remembers it.",
        MODEL,
        "NAME|FILE",
    )
    describe: str | None = option_field(
        "Chat endpoint of a vision model, in OpenAI's style. It gets 3 frames of each segment that it has not "
        "described yet; its descriptions are searched as the source generated. Its key is read from VIDRET_LLM_KEY.",
        LANGUAGE_MODEL,
        "URL",
    )
    describe_model: LlmModelOption = None
    max_calls: int = option_field(
        "Maximum number of requests to the endpoint; the next run continues from there.",
        LANGUAGE_MODEL,
        "N",
        default=500,
        min=1,
    )
    describe_choices: int = option_field(
        "Number of descriptions to request for each segment, in different words; the one that fits it better than "
        "other segments is kept.",
        LANGUAGE_MODEL,
        "N",
        default=1,
        min=1,
        max=3,
    )
    device: DeviceOption = "auto"
    precision: PrecisionOption = "auto"
    store: str | None = option_field(
        "Vector store of a new index: faiss, milvus:// (milvus-lite in the index folder), milvus://FILE.db "
        "(milvus-lite elsewhere), milvus://HOST:PORT or milvus://https://HOST:PORT/DATABASE. MILVUS_TOKEN holds "
        "the token of a server. The index remembers the store; vidret store move changes it.",
        STORAGE,
        "STORE",
    )
    memory: str | None = option_field(
        "Memory limit of the vectors, such as 8GB or 512MiB; none removes it. From 200,000 segments on, the "
        "most precise vector format that fits is chosen. The index remembers the limit.",
        STORAGE,
        "SIZE",
    )
    as_json: JsonOption = False
    progress_json: bool = option_field(
        "Print progress to stderr, as one line of JSON per second.", OUTPUT, default=False
    )
    fail_on_error: bool = option_field("Exit with code 1 if any file failed.", OUTPUT, default=False)
    webhook: str | None = option_field(
        "Post new matches of the watches to this URL as JSON; redirects are refused.", OUTPUT, "URL"
    )
    exit_code: bool = option_field("Exit with code 3 if a new video matches a watch.", OUTPUT, default=False)
    workers: WorkersOption = None
    decoder: str = option_field(
        "Video decoder; auto is Decord where it is exact, otherwise PyAV; on an NVIDIA GPU torchcodec or Decord.",
        ADVANCED,
        "|".join(DECODERS),
        default="auto",
    )
    timeout: float = option_field(
        "Time after which a decoder without progress is stopped.", ADVANCED, "SECONDS", default=120.0, min=1
    )
    runner: str = option_field(
        "Where the work runs: on this machine or on a Ray cluster.", ADVANCED, "local|ray", default="local"
    )
    address: str | None = option_field(
        "Ray cluster for --runner ray: auto or HOST:PORT; default: a new one on this machine.", ADVANCED, "ADDRESS"
    )
    num_gpus_per_worker: float | None = option_field(
        "GPUs per encoding worker for --runner ray, such as 1 or 0.5; 0 encodes on CPUs. Default: 1 if "
        "--device is CUDA and Ray has a GPU.",
        ADVANCED,
        "N",
        min=0,
    )
