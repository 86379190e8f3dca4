"""The command ``vidret models``: what can be loaded here."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import JsonOption
from vidret.present.terminal import write_stdout

if TYPE_CHECKING:
    from vidret.encode.catalog import CatalogEntry

HEADERS = ("model", "here", "dims", "tokens", "languages", "licence", "MSR-VTT R@1")
EveryOption = Annotated[bool, typer.Option("--all", help="List all pretrained models of open_clip.")]


@app.command("models")
def models_command(every: EveryOption = False, as_json: JsonOption = False) -> None:
    """List the models that --model accepts: installed, cached or to download, with what is known of them.

    A dash means that it is not known before the model is loaded.
    """
    from vidret.encode.catalog import list_catalog
    from vidret.encode.recommended import RECOMMENDED

    entries = list(list_catalog(every=every))
    if as_json:
        write_stdout(json.dumps([asdict(entry) for entry in entries], indent=2) + "\n")
        return
    rows = [HEADERS, *(format_entry(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    write_stdout("\n".join(lines) + "\n")
    results = {entry.published.protocol for entry in entries if entry.published is not None}
    write_stdout("".join(f"\nR@1, as published: {protocol}\n" for protocol in sorted(results)))
    write_stdout("\nRecommended, by short names (none was measured by vidret):\n")
    for name, each in RECOMMENDED.items():
        facts = f"{each.model}: {each.purpose}; {each.evidence}; {each.size_bytes / 1e9:.1f} GB, {each.licence}"
        write_stdout(f"  --model {name.ljust(12)}  {facts}\n")


def format_entry(entry: "CatalogEntry") -> tuple[str, ...]:
    """Return the cells of a model, as ``HEADERS`` names them."""
    here: str = entry.state
    if entry.extra:
        here = f"needs extra {entry.extra}" if here == "needs extra" else f"{here}, needs extra {entry.extra}"
    published = entry.published
    return (
        entry.name,
        here,
        str(entry.dim or "-"),
        str(entry.tokens or "-"),
        entry.languages or "-",
        entry.licence or "-",
        "-" if published is None else f"{published.recall_at_1} ({published.source})",
    )
