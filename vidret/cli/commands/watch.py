"""The commands ``vidret watch ...``, and the report of their matches after an indexing run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from vidret.cli.app import add_group
from vidret.cli.opening import check_index
from vidret.cli.options import DEFAULT_INDEX, QUERY_HELP, JsonOption, OnlyIndexOption, argument
from vidret.present.show import print_json, result_to_dict, show_interpretation, show_table
from vidret.present.terminal import print_message
from vidret.search.query.grammar import interpret
from vidret.text import display_path, format_time

if TYPE_CHECKING:
    from vidret.engine import Engine
    from vidret.search.collections import WatchMatch

MATCHED = 3  # the exit code of vidret index --exit-code
group = add_group("watch")

NameArgument = Annotated[str, argument("Name of the watch.", "NAME")]


@group.command("add")
def add_command(
    name: NameArgument, query: str = argument(QUERY_HELP, "QUERY"), index: OnlyIndexOption = DEFAULT_INDEX
) -> None:
    """Watch for a query: later runs of vidret index report new videos that probably match it."""
    from vidret.search.collections import add_watch
    from vidret.store.store import Store

    with Store.open(index) as store:
        watch = add_watch(store, name, query)
    show_interpretation(interpret(watch.query))
    print_message(f"vidret index reports new videos that match {name}.")


@group.command("list")
def list_command(index: OnlyIndexOption = DEFAULT_INDEX, as_json: JsonOption = False) -> None:
    """List the watches of an index."""
    from vidret.store.rows_file import WATCHES

    check_index(index)
    watches = WATCHES.read(index)
    if as_json:
        print_json([{"name": watch.name, "query": watch.query} for watch in watches])
    else:
        nothing = "There are no watches. To add one: vidret watch add NAME QUERY"
        show_table(("name", "query"), [(watch.name, watch.query) for watch in watches], nothing)


@group.command("remove")
def remove_command(name: NameArgument, index: OnlyIndexOption = DEFAULT_INDEX) -> None:
    """Stop watching for a query."""
    from vidret.store.rows_file import WATCHES

    check_index(index)
    WATCHES.remove(index, name, "a watch")
    print_message(f"vidret index no longer looks for {name}.")


def report_matches(engine: "Engine", index: Path, *, as_json: bool, webhook: str | None) -> bool:
    """Report which new videos match the watches of an index; return whether any does."""
    from vidret.search.collections import MIN_PROBABILITY, find_new_matches, leave_unknown_out, mark_reported
    from vidret.search.people import KnownPersons
    from vidret.store.rows_file import WATCHES
    from vidret.store.store import Store
    from vidret.types import LocateOptions

    watches = WATCHES.read(index)
    if not watches:
        return False
    with Store.open(index) as store:
        complete = {video.id for video in store.videos.find() if video.complete}
        people = {*KnownPersons(store).find_handles(" ".join(watch.query for watch in watches))}
        known = store.videos.completeness()  # read last: videos that are added later are left for the next report
    asked = leave_unknown_out(watches, people | {concept.name for concept in engine.concepts()})
    best = LocateOptions(k=1, at_least=MIN_PROBABILITY)
    matches = find_new_matches(
        asked, complete, lambda queries, new: engine.locate_many(queries, new, best, among_all=True)
    )
    print_matches(matches, as_json=as_json)
    if webhook is not None and matches:
        from vidret.endpoints.transport import post_json

        post_json(webhook, {"matches": [match_to_dict(match) for match in matches]})
    left_out = {watch.name for watch in watches} - {watch.name for watch in asked}
    mark_reported(index, known, complete, left_out=left_out)
    return bool(matches)


def print_matches(matches: "Sequence[WatchMatch]", *, as_json: bool) -> None:
    """Print one line per match: JSON to stdout, or text to stderr."""
    for match in matches:
        if as_json:
            print(json.dumps(match_to_dict(match)), flush=True)
        else:
            times = f"{format_time(match.moment.start)} to {format_time(match.moment.end)}"
            print_message(f"{match.watch.name}: {display_path(match.moment.path)} {times}")


def match_to_dict(match: "WatchMatch") -> dict[str, Any]:
    """Return a match as a dict that JSON can represent."""
    return {"watch": match.watch.name, "query": match.watch.query, **result_to_dict(match.moment)}
