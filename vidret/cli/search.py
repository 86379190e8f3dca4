"""The command ``vidret search``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import iterate_queries, read_filters, read_image_file, read_sources
from vidret.cli.opening import open_engine_or_client
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    QUERY_HELP,
    SCOPE,
    AfterOption,
    BeforeOption,
    DeviceOption,
    FolderOption,
    IndexOption,
    JsonOption,
    MaxSecondsOption,
    MinSecondsOption,
    PrecisionOption,
    RerankOption,
    ServerOption,
    SheetOption,
    SourcesOption,
    TokenOption,
)
from vidret.cli.sheets import write_hit_sheet
from vidret.present.show import result_to_dict, show_hits

ImageOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Image to search with, in place of a text query.", rich_help_panel=SCOPE),
]
QueriesOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='Many queries: one JSON object with "query" per line (.jsonl), or - for stdin. Prints one line of '
        "JSON per query.",
        rich_help_panel=SCOPE,
    ),
]
ExplainOption = Annotated[bool, typer.Option("--explain", help="Show the parts of each score.", rich_help_panel=OUTPUT)]


@app.command("search")
def search_command(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help=QUERY_HELP)] = None,
    image: ImageOption = None,
    queries: QueriesOption = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    sources: SourcesOption = None,
    folder: FolderOption = None,
    min_seconds: MinSecondsOption = None,
    max_seconds: MaxSecondsOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Number of videos.", rich_help_panel=OUTPUT)] = 10,
    explain: ExplainOption = False,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    rerank: RerankOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Find the videos that match a query."""
    if sum(each is not None for each in (query, image, queries)) != 1:
        raise typer.BadParameter("give either a query, --image FILE or --queries FILE", param_hint="QUERY")
    filters, chosen = read_filters(folder, min_seconds, max_seconds, after, before), read_sources(sources)
    search_for = query if image is None else read_image_file(image)
    engine = open_engine_or_client(context, server, token, index, device, precision)
    if queries is not None:
        for row in iterate_queries(queries):
            hits = engine.search(row["query"], k, rerank=rerank, filters=filters, sources=chosen)
            answers = [result_to_dict(hit) for hit in hits]
            print(json.dumps({**row, "hits": answers}, ensure_ascii=False), flush=True)
        return
    assert search_for is not None
    hits = engine.search(search_for, k, rerank=rerank, filters=filters, sources=chosen)
    if as_json:
        print(json.dumps([result_to_dict(hit) for hit in hits], indent=2))
    else:
        show_hits(hits, explain=explain)
    if sheet is not None:
        write_hit_sheet(hits, query or f"like {image}", sheet)
