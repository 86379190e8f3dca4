"""Options that several commands share, and how they open an index."""

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.errors import VidretError
from vidret.present.terminal import console
from vidret.text import absolute_path
from vidret.types import Filters

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.types import Picture

DEFAULT_INDEX = "vidret-index"
# The panels of the help.
SCOPE, FILTERS, OUTPUT, MODEL, ADVANCED = "What to search", "Filters", "Output", "Model", "Advanced"
QUERY_HELP = (
    "Text to search for. A minus excludes a word or a quoted phrase: 'dog -beach -\"hot dog\"'. "
    "A query that starts with a minus goes last, after --: vidret search -- '-beach dog'."
)


def index_option(panel: str | None = None, *, text: str = "Index folder.") -> Any:
    """Return the option ``--index`` for a panel of the help."""
    return typer.Option("--index", metavar="DIR", envvar="VIDRET_INDEX", help=text, rich_help_panel=panel)


IndexOption = Annotated[Path, index_option(SCOPE)]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FILE",
        help="Encoder of a new index: starter (the default), an open_clip name such as ViT-B-32/laion2b_s34b_b79k, "
        "hf-hub:ORG/NAME, or a .safetensors or .pt file. The index remembers it.",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto (the accelerator, if there is one), cpu, cuda, cuda:N, xpu, xpu:N or mps.",
        rich_help_panel=MODEL,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16",
        help="Numerical precision; auto is bf16 for CLIP on hardware that supports it.",
        rich_help_panel=MODEL,
    ),
]
RerankOption = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        help="Reranker of the candidates: ucofia or glscl (both work without training), the file of a trained aligner, "
        "none, or auto (the one that the index was prepared for).",
        rich_help_panel=MODEL,
    ),
]
HeadOption = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Grounding head: the file of a trained head (see vidret convert), none, or auto (the one that the index "
        "was prepared for). Without a head, moments come from the similarity curve.",
        rich_help_panel=MODEL,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]
SheetOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a contact sheet of the results (.jpg or .png).", rich_help_panel=OUTPUT),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Ask a running vidret serve, such as http://127.0.0.1:8000, instead of opening an index.",
        rich_help_panel=SCOPE,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="TOKEN", envvar="VIDRET_TOKEN", help="Access token of the server.", rich_help_panel=SCOPE
    ),
]
FolderOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL", help="Only videos in this folder or below this URL, at any depth.", rich_help_panel=FILTERS
    ),
]
MinSecondsOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Minimum duration of a video.", rich_help_panel=FILTERS),
]
MaxSecondsOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Maximum duration of a video.", rich_help_panel=FILTERS),
]
AfterOption = Annotated[
    datetime | None,
    typer.Option(
        metavar="DATE",
        help="Only files modified at this time or later, such as 2026-01-31 or 2026-01-31T18:30:00.",
        rich_help_panel=FILTERS,
    ),
]
BeforeOption = Annotated[
    datetime | None,
    typer.Option(metavar="DATE", help="Only files modified before this time.", rich_help_panel=FILTERS),
]

# Options that need the index or the videos on this machine.
LOCAL_ONLY = ("index", "device", "precision", "head", "sheet", "export")


def open_engine(
    index: Path,
    model: str | None,
    device: str,
    precision: str,
    *,
    rerank: str = "auto",
    tokens: str = "int8",
    head: str = "auto",
    store: str | None = None,
    must_exist: bool = False,
) -> "Engine":
    """Open an index, with a status line while its encoder loads.

    Raises:
        VidretError: ``must_exist`` is set and there is no index, or it cannot be opened with these settings.
    """
    from vidret.store.store import Store

    if must_exist and not Store.exists(index):
        raise VidretError(f"{index}: there is no index here; make one with: vidret index PATH... --index {index}")
    with console.status("loading the encoder"):
        from vidret.engine import Engine

        return Engine.open(
            index,
            encoder=model,
            rerank=rerank,
            tokens=tokens,
            head=head,
            device=device,
            precision=precision,
            store=store,
        )


def open_engine_or_client(
    context: typer.Context,
    server: str | None,
    token: str | None,
    index: Path,
    device: str,
    precision: str,
    *,
    head: str = "auto",
) -> "Engine | RemoteEngine":
    """Open an index, or a client if ``server`` is given, until the command ends. A client loads no model."""
    if server is None:
        if is_on_command_line(context, "token"):
            raise typer.BadParameter("needs --server URL, got none", param_hint="--token")
        return context.with_resource(open_engine(index, None, device, precision, head=head, must_exist=True))
    for name in LOCAL_ONLY:
        if is_on_command_line(context, name):
            raise typer.BadParameter("needs a local index, got --server URL", param_hint=f"--{name}")
    from vidret.client import RemoteEngine

    return context.with_resource(RemoteEngine(server, token))


def is_on_command_line(context: typer.Context, name: str) -> bool:
    """Return whether an option was given on the command line, rather than by the environment or by default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def read_filters(
    folder: str | None,
    min_seconds: float | None,
    max_seconds: float | None,
    after: datetime | None,
    before: datetime | None,
) -> Filters:
    """Return the filters that the options describe; dates without a time zone are local."""
    return Filters(
        None if folder is None else absolute_path(os.path.expanduser(folder)),  # noqa: PTH111  Path would break a URL
        min_seconds,
        max_seconds,
        None if after is None else after.timestamp(),
        None if before is None else before.timestamp(),
    )


def read_image(path: Path) -> "Picture":
    """Return an image file as uint8 RGB of shape (height, width, 3), rotated as its EXIF data says.

    Raises:
        VidretError: The file cannot be read as an image.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VidretError(f"{path}: cannot be read as an image: {error}") from error


def parse_memory(text: str) -> int:
    """Return a size such as 8GB, 500 MB or 4GiB in bytes, or 0 for ``none``.

    Raises:
        BadParameter: The text is not a positive size.
    """
    if text.strip().lower() == "none":
        return 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b", text.strip(), re.IGNORECASE)
    size_bytes = 0
    if match:
        number, unit, binary = match.groups()
        size_bytes = round(float(number) * (1024 if binary else 1000) ** ("kmgt".index(unit.lower()) + 1))
    if size_bytes < 1:
        rule = "must be a number with KB, MB, GB or TB (or KiB, MiB, GiB, TiB), or none"
        raise typer.BadParameter(f"{rule}, got {text!r}", param_hint="--memory")
    return size_bytes


def parse_json(line: str) -> Any:
    """Return the value of a line of JSON, or None if it is not valid JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_bank(path: Path) -> list[str]:
    """Return the queries of a bank: lines of text, or JSON objects (.jsonl) with "query", "caption" or "captions".

    Raises:
        VidretError: The file cannot be read, or a line of it holds no query.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
        if path.suffix != ".jsonl":
            return [line for _, line in lines]
        queries: list[str] = []
        for number, line in lines:
            row = parse_json(line)
            value = row.get("query") or row.get("caption") or row.get("captions") if isinstance(row, dict) else None
            texts = [value] if isinstance(value, str) else value
            if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
                raise VidretError(f'{path}: line {number} must have "query", "caption" or "captions", got {line:.80}')
            queries += texts
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {error}") from error
    return queries
