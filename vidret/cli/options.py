"""What several commands take, and how they open an index."""

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
QUERY_HELP = (
    "What to look for, in words; -word and -\"some words\" must not fit: 'dog -beach'. "
    "A query that begins with - goes last, after --: vidret search -- '-beach dog'."
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
DeviceOption = Annotated[
    str,
    typer.Option(help="Where to compute: auto (an accelerator if there is one), cpu, cuda, cuda:N, xpu, xpu:N or mps."),
]
PrecisionOption = Annotated[str, typer.Option(help="auto (for CLIP bf16 where the hardware has it), fp32 or bf16.")]
RerankOption = Annotated[
    str,
    typer.Option(
        help="What orders the candidates of a search: none, ucofia or glscl (both need no training), the file of a "
        "trained aligner, or auto: what the index was made for.",
    ),
]
HeadOption = Annotated[
    str,
    typer.Option(
        help="The file of a trained grounding head (see vidret convert), none, or auto: the one that the index was "
        "prepared for. Without one, moments come from the curve of similarity."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SheetOption = Annotated[Path | None, typer.Option(help="Write a contact sheet of the results (.jpg or .png).")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="A running vidret serve to ask instead of an index, such as http://127.0.0.1:8000.",
    ),
]
TokenOption = Annotated[str | None, typer.Option("--token", envvar="VIDRET_TOKEN", help="Token of that server.")]
FolderOption = Annotated[
    str | None, typer.Option(help="Only videos in this folder or below this address, at any depth.")
]
MinSecondsOption = Annotated[float | None, typer.Option(min=0, help="Only videos that last so long or longer.")]
MaxSecondsOption = Annotated[float | None, typer.Option(min=0, help="Only videos that last so long or less.")]
AfterOption = Annotated[
    datetime | None,
    typer.Option(metavar="DATE", help="Only files changed then or later, such as 2026-01-31 or 2026-01-31T18:30:00."),
]
BeforeOption = Annotated[datetime | None, typer.Option(metavar="DATE", help="Only files changed earlier than that.")]

# What an engine elsewhere has settled, or what needs the videos at hand.
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
    """Open an engine, telling what takes a moment."""
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


def open_asked(
    context: typer.Context,
    url: str | None,
    token: str | None,
    index: Path,
    device: str,
    precision: str,
    *,
    head: str = "auto",
) -> "Engine | RemoteEngine":
    """Open an index until the command ends, or where a URL is given a server: then no index, no model is touched."""
    if url is None:
        if is_given(context, "token"):
            raise typer.BadParameter("needs --server URL, got none", param_hint="--token")
        return context.with_resource(open_engine(index, None, device, precision, head=head, must_exist=True))
    for name in LOCAL_ONLY:
        if is_given(context, name):
            raise typer.BadParameter("is for an index of this machine, not for --server URL", param_hint=f"--{name}")
    from vidret.client import RemoteEngine

    return context.with_resource(RemoteEngine(url, token))


def is_given(context: typer.Context, name: str) -> bool:
    """Say whether an option stands in the command line itself; one from the environment may be meant for others."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def read_filters(
    folder: str | None,
    min_seconds: float | None,
    max_seconds: float | None,
    after: datetime | None,
    before: datetime | None,
) -> Filters:
    """Turn options into filters; dates without a zone are local, as people mean them."""
    return Filters(
        None if folder is None else absolute_path(os.path.expanduser(folder)),  # noqa: PTH111  a Path would spoil an address
        min_seconds,
        max_seconds,
        None if after is None else after.timestamp(),
        None if before is None else before.timestamp(),
    )


def read_picture(path: Path) -> "Picture":
    """Read a picture file as RGB, the way up that it says.

    Raises:
        VidretError: It is none.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VidretError(f"{path}: cannot be read as a picture: {error}") from error


def parse_memory(text: str) -> int:
    """Read a size such as 8GB, 500 MB or 4GiB as bytes; 0 of ``none``: no limit."""
    if text.strip().lower() == "none":
        return 0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b", text.strip(), re.IGNORECASE)
    num_bytes = 0
    if found:
        number, unit, binary = found.groups()
        num_bytes = round(float(number) * (1024 if binary else 1000) ** ("kmgt".index(unit.lower()) + 1))
    if num_bytes < 1:
        rule = "must be a number with KB, MB, GB or TB (or KiB, MiB, GiB, TiB), or none"
        raise typer.BadParameter(f"{rule}, got {text!r}", param_hint="--memory")
    return num_bytes


def parse_json(line: str) -> Any:
    """Read a line of JSON; None if it is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def read_bank(path: Path) -> list[str]:
    """Read queries: lines of text, or of JSON objects with "query", "caption" or "captions"."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = [(number, line.strip()) for number, line in enumerate(file, start=1) if line.strip()]
        if path.suffix != ".jsonl":
            return [line for _, line in lines]
        queries: list[str] = []
        for number, line in lines:
            row = parse_json(line)
            found = row.get("query") or row.get("caption") or row.get("captions") if isinstance(row, dict) else None
            texts = [found] if isinstance(found, str) else found
            if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
                raise VidretError(f'{path}: line {number} must have "query", "caption" or "captions", got {line:.80}')
            queries += texts
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {error}") from error
    return queries
