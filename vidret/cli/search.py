"""vidret search, vidret calibrate: find videos, and correct the scores of those that answer everything."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from vidret.cli.app import app
from vidret.cli.options import (
    DEFAULT_INDEX,
    QUERY_HELP,
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
    SheetOption,
    TokenOption,
    UrlOption,
    open_asked,
    open_engine,
    parse_json,
    read_bank,
    read_filters,
    read_picture,
)
from vidret.cli.sheets import write_sheet
from vidret.errors import VidretError
from vidret.present.show import as_row, show_count, show_hits
from vidret.present.terminal import say


@app.command()
def search(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help=QUERY_HELP)] = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    k: Annotated[int, typer.Option("-k", min=1, help="How many videos.")] = 10,
    queries: Annotated[
        Path | None, typer.Option(help='A .jsonl file of {"query": ...}, or "-"; answers each in a line of JSON.')
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture in place of words: find videos with a frame like it.")
    ] = None,
    folder: FolderOption = None,
    min_seconds: MinSecondsOption = None,
    max_seconds: MaxSecondsOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    rerank: RerankOption = "auto",
    explain: Annotated[bool, typer.Option("--explain", help="Show what each score is made of.")] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    sheet: SheetOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
) -> None:
    """Find the videos that answer a query."""
    if sum(each is not None for each in (query, image, queries)) != 1:
        raise typer.BadParameter("give either a query, --image FILE or --queries FILE", param_hint="QUERY")
    filters = read_filters(folder, min_seconds, max_seconds, after, before)
    asked = query if image is None else read_picture(image)
    engine = open_asked(context, url, token, index, device, precision)
    if queries is not None:
        for row in read_queries(queries):
            answer = [as_row(hit) for hit in engine.search(row["query"], k, rerank=rerank, filters=filters)]
            print(json.dumps({**row, "hits": answer}, ensure_ascii=False), flush=True)
        return
    assert asked is not None
    hits = engine.search(asked, k, rerank=rerank, filters=filters)
    if as_json:
        print(json.dumps([as_row(hit) for hit in hits], indent=2))
    else:
        show_hits(hits, explain=explain)
    if sheet is not None:
        from vidret.present.sheet import shots_of_hits

        write_sheet(shots_of_hits(hits), query or f"like {image}", sheet)


@app.command()
def calibrate(
    bank: Annotated[
        Path,
        typer.Option(help="Queries such as people ask: a text file, one a line, or .jsonl with query or captions."),
    ],
    index: IndexOption = Path(DEFAULT_INDEX),
    limit: Annotated[int, typer.Option(min=1, help="Queries to take at most, evenly spread.")] = 2000,
    temperature: Annotated[
        float | None, typer.Option(help="The smaller, the stronger the correction; the ranker's own unless given.")
    ] = None,
    rerank: RerankOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Correct searches for videos that answer every query, as learned from a bank of queries (SK-norm)."""
    queries = read_bank(bank)
    taken = queries if len(queries) <= limit else [queries[i * len(queries) // limit] for i in range(limit)]
    engine = open_engine(index, None, device, precision, must_exist=True)
    with show_count("calibrating", "segments") as count:
        found = engine.calibrate(taken, name=bank.name, rerank=rerank, temperature=temperature, on_progress=count)
    left = f" (of {len(queries)}; --limit takes more)" if len(taken) < len(queries) else ""
    say(
        f"{index}: {len(found.ids)} segments calibrated with {found.num_queries} queries{left} of {bank.name}, "
        f"temperature {found.temperature:g}. Segments indexed later are not corrected: run this again."
    )


def read_queries(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a JSONL file, or of standard input for "-"."""
    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = parse_json(line)
                if not (isinstance(row, dict) and isinstance(row.get("query"), str)):
                    raise VidretError(f'{path}: line {number} must be an object with "query", got {line.strip()}')
                yield row
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {error}") from error
