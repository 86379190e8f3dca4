"""Watches: queries that an index keeps, to report which videos that are finished later match them."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vidret.errors import OptionError, VidretError
from vidret.search.concepts.storage import check_mentions
from vidret.search.people import KnownPersons
from vidret.search.query.marks import find_mentions
from vidret.search.query.planning import check_query
from vidret.store.rows_file import WATCHES, Watch
from vidret.store.store import Store
from vidret.types import Moment

logger = logging.getLogger(__name__)

LocateMany = Callable[[Sequence[str], Sequence[int]], Sequence[Sequence[Sequence[Moment]]]]
MIN_PROBABILITY = 0.5  # of what is reported
_NAME = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMatch:
    """The best moment of a new video that matches a watch."""

    watch: Watch
    moment: Moment


def add_watch(store: Store, name: str, query: str) -> Watch:
    """Store a watch for what an index holds later, and return it.

    Raises:
        VidretError: The name is taken or invalid, or the query is, or mentions an unknown concept.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(f"name must be up to 64 letters, digits, dots, dashes and underscores, got {name!r}")
    query = KnownPersons(store).name_handles(query)
    check_kept_query(store, query)
    with WATCHES.change(store.path) as watches:
        taken = next((watch for watch in watches if watch.name == name), None)
        if taken is not None:
            raise VidretError(f"name must be new, got {name}, which looks for {taken.query!r}")
        complete = store.videos.completeness()
        unfinished = tuple(video for video, is_complete in complete.items() if not is_complete)
        watch = Watch(name=name, query=query, last_video=max(complete, default=0), unreported=unfinished)
        watches.append(watch)
    return watch


def check_kept_query(store: Store, query: str) -> None:
    """Check a query that an index is to keep.

    Raises:
        VidretError: As ``check_query``, or it mentions an unknown concept.
    """
    check_query(query)
    people = KnownPersons(store)
    check_mentions(store, people.name_handles(query), people.find_handles(query))


def find_new_matches(watches: Sequence[Watch], complete: Collection[int], locate: LocateMany) -> list[WatchMatch]:
    """Return the matches among the complete videos that a watch has not reported; ``mark_reported`` makes them so.

    ``locate`` returns the best moments of each query in each video by its id, of ``MIN_PROBABILITY`` or more.
    """
    watches_of = defaultdict[tuple[int, tuple[int, ...]], list[Watch]](list)  # by what they have seen, which most share
    for watch in watches:
        watches_of[watch.last_video, watch.unreported].append(watch)
    matches = []
    for asked in watches_of.values():
        new = sorted(filter(asked[0].is_new, complete))
        found = locate([watch.query for watch in asked], new) if new else []
        for watch, by_video in zip(asked, found, strict=False):
            matches += [WatchMatch(watch=watch, moment=moments[0]) for moments in by_video if moments]
    return matches


def leave_unknown_out(watches: Sequence[Watch], concepts: Collection[str]) -> list[Watch]:
    """Return the watches that mention known concepts only; others, whose concept was forgotten, are logged."""
    kept = []
    for watch in watches:
        unknown = [f"@{name}" for name in find_mentions(watch.query) if name not in concepts]
        if unknown:
            logger.warning("the watch %s is left out: %s is no taught concept", watch.name, ", ".join(unknown))
        else:
            kept.append(watch)
    return kept


def mark_reported(
    index: Path, known: Collection[int], reported: Collection[int], *, left_out: Collection[str] = ()
) -> None:
    """Remember which known videos need no further report, by all watches but those whose names are left out."""
    with WATCHES.change(index) as watches:
        for position, watch in enumerate(watches):
            if watch.name not in left_out:
                unreported = tuple(sorted(video for video in known if watch.is_new(video) and video not in reported))
                watches[position] = replace(watch, last_video=max(known, default=0), unreported=unreported)
