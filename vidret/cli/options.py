"""What several commands take, and how they open an index."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.errors import VidretError
from vidret.show import talk

if TYPE_CHECKING:
    from vidret.engine import Engine

DEFAULT_INDEX = "vidret-index"

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
HeadOption = Annotated[
    str,
    typer.Option(
        help="The file of a trained grounding head (see vidret convert), none, or auto: the one that the index was "
        "prepared for. Without one, moments come from the curve of similarity."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SheetOption = Annotated[Path | None, typer.Option(help="Write a contact sheet of the results (.jpg or .png).")]


def open_engine(
    index: Path,
    model: str | None,
    device: str,
    precision: str,
    *,
    rerank: str = "auto",
    tokens: str = "int8",
    head: str = "auto",
    must_exist: bool = False,
) -> "Engine":
    """Open an engine, telling what takes a moment."""
    from vidret.store.store import Store

    if must_exist and not Store.exists(index):
        raise VidretError(f"{index}: there is no index here; make one with: vidret index PATH... --index {index}")
    with talk.status("loading the encoder"):
        from vidret.engine import Engine

        return Engine.open(
            index, encoder=model, rerank=rerank, tokens=tokens, head=head, device=device, precision=precision
        )


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
