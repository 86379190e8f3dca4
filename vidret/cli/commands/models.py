"""The command ``vidret models``: the models that this machine can load."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from vidret.cli.app import app
from vidret.cli.options import JsonOption, argument, option
from vidret.errors import EncoderError, UnknownEncoderError
from vidret.present.show import print_json, show_table
from vidret.present.terminal import print_message, write_stdout

if TYPE_CHECKING:
    from vidret.encode.encoder import Encoder
    from vidret.encode.model_list import CatalogEntry

HEADERS = ("model", "here", "dims", "tokens", "languages", "licence", "MSR-VTT R@1")
SPEED_HEADERS = ("model", "device", "ms a frame", "ms a query", "MB an hour", "weights")


@app.command("models")
def models_command(
    names: list[str] | None = argument(
        "Models to measure; default: those on this machine.", "MODEL", default=None, show_default=False
    ),
    measure: bool = option(
        "Measure the speed of models on this machine, in CPU time on a CPU. One of open_clip that is not "
        "downloaded is measured with random weights.",
        default=False,
    ),
    every: bool = option("List all pretrained models of open_clip.", default=False, flag="--all"),
    as_json: JsonOption = False,
) -> None:
    """List the models that --model accepts: installed, cached or to download, with what is known about them.

    A dash means that it is not known before the model is loaded.
    """
    from vidret.encode.model_list import list_catalog
    from vidret.encode.names import RECOMMENDED

    if names and not measure:
        raise typer.BadParameter("needs --measure, got none", param_hint="MODEL")
    entries = list(list_catalog(every=every))
    if measure:
        here = [entry.name for entry in entries if entry.state in ("installed", "cached") and not entry.extra]
        show_speeds(names or here, as_json=as_json)
        return
    if as_json:
        print_json(entries)
        return
    rows = [HEADERS, *(format_entry(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    write_stdout("\n".join(lines) + "\n")
    results = {entry.published.protocol for entry in entries if entry.published is not None}
    write_stdout("".join(f"\nR@1, as published: {protocol}\n" for protocol in sorted(results)))
    write_stdout("\nRecommended, by short names (no result was measured by vidret; frames a second on one core):\n")
    for name, model in RECOMMENDED.items():
        speed = "" if model.frames_per_s is None else f", {model.frames_per_s:g} frames/s"
        facts = f"{model.device}{speed}; {model.size_bytes / 1e9:.1f} GB, {model.licence}; {model.evidence}"
        write_stdout(f"  --model {name.ljust(12)}  {model.model}: {model.purpose}; {facts}\n")


def show_speeds(names: list[str], *, as_json: bool) -> None:
    """Measure models one after the other, and print their speeds."""
    from vidret.encode.encoder import measure_speed

    rows = []
    for name in names:
        encoder, weights = load_to_measure(name)
        rows.append({"model": name, **asdict(measure_speed(encoder)), "weights": weights})
    if as_json:
        print_json(rows)
        return
    lines = []
    for row in rows:
        figures = (f"{row[key]:.1f}" for key in ("frame_ms", "query_ms", "mb_per_hour"))
        lines.append((row["model"], row["device"], *figures, row["weights"]))
    show_table(SPEED_HEADERS, lines, empty="no model is on this machine")


def load_to_measure(name: str) -> "tuple[Encoder, str]":
    """Return a loaded encoder and which weights it has: random ones for an open_clip model that is not downloaded."""
    from vidret.encode.families.registry import load_encoder
    from vidret.encode.names import parse_model_name, resolve_name, set_merge

    try:
        return load_encoder(name), "its own"
    except UnknownEncoderError:
        raise
    except EncoderError as error:
        parsed = resolve_name(parse_model_name(name))
        architecture, tag = parsed.architecture, parsed.weights
        if not tag or ":" in architecture:
            raise
        print_message(f"{error}: measured with random weights")
        return load_encoder(set_merge(f"{architecture}/random", parsed.merge)), "random"


def format_entry(entry: "CatalogEntry") -> tuple[str, ...]:
    """Return the cells of a model's row, in the order of ``HEADERS``."""
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
