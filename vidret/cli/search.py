"""The command ``vidret search``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import iterate_queries, read_image_file
from vidret.cli.opening import open_engine_or_client
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    QUERY_HELP,
    SCOPE,
    DeviceOption,
    IndexOption,
    JsonOption,
    PrecisionOption,
    ServerOption,
    SheetOption,
    TokenOption,
)
from vidret.cli.search_options import with_search_options
from vidret.cli.sheets import write_hit_sheet
from vidret.present.show import result_to_dict, show_hits, show_interpretation
from vidret.search.grammar import interpret
from vidret.types import SearchOptions

ImageOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Image to search with, in place of a text query.", rich_help_panel=SCOPE),
]
QueriesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='Many queries: one JSON object per line (.jsonl) with "query", or with "events" in order and a maximum '
        '"gap" in seconds; - for stdin. Prints one line of JSON per query.',
        rich_help_panel=SCOPE,
    ),
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Show the parts of each score.", rich_help_panel=OUTPUT)]


@app.command("search")
@with_search_options
def search_command(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help=QUERY_HELP)] = None,
    image: ImageOption = None,
    queries: QueriesOption = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    *,
    options: SearchOptions,
    explain: ExplainOption = False,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Find the videos that match a query."""
    if sum(each is not None for each in (query, image, queries)) != 1:
        raise typer.BadParameter("give either a query, --image FILE or --queries FILE", param_hint="QUERY")
    search_for = query if image is None else read_image_file(image)
    engine = open_engine_or_client(context, server, token, index, device, precision)
    if queries is not None:
        for row, each in iterate_queries(queries):
            answers = [result_to_dict(hit) for hit in engine.search_with(each, options)]
            text = interpret(each).describe()
            read_as = {"interpretation": text} if text else {}
            print(json.dumps({**row, **read_as, "hits": answers}, ensure_ascii=False), flush=True)
        return
    assert search_for is not None
    if query is not None and options.rerank == "auto":
        show_interpretation(interpret(query))
    hits = engine.search_with(search_for, options)
    if as_json:
        print(json.dumps([result_to_dict(hit) for hit in hits], indent=2))
    else:
        show_hits(hits, explain=explain)
    if sheet is not None:
        write_hit_sheet(hits, query or f"like {image}", sheet)
