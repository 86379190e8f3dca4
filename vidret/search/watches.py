"""Watches: queries that an index keeps, to report which videos added later match them."""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vidret.errors import VidretError
from vidret.search.clauses import check_exclusions, parse_structure
from vidret.search.concepts import load_concept, unknown_concept
from vidret.search.grammar import has_word, split_exclusions
from vidret.search.mentions import find_mentions
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.store.watch_list import Watch, read_watches, write_watches
from vidret.types import Moment

logger = logging.getLogger(__name__)

LocateMany = Callable[[Sequence[str], Sequence[int]], Sequence[Sequence[Sequence[Moment]]]]
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
        raise VidretError(f"name must be up to 64 letters, digits, dots, dashes and underscores, got {name!r}")
    text, excluded = split_exclusions(query)
    if not has_word(text) or not all(excluded):
        raise VidretError(f"query must contain a positive word, and no empty quotes after a minus, got {query!r}")
    check_exclusions(parse_structure(query))
    for mention in find_mentions(query):
        if load_concept(store, mention) is None:
            raise unknown_concept(store, mention)
    watches = read_watches(store.path)
    taken = next((each for each in watches if each.name == name), None)
    if taken is not None:
        raise VidretError(f"name must be new, got {name}, which looks for {taken.query!r}")
    watch = Watch(name=name, query=query, last_video=_find_last(store.videos()))
    write_watches(store.path, [*watches, watch])
    return watch


def remove_watch(index: Path, name: str) -> None:
    """Remove a watch.

    Raises:
        VidretError: There is none of this name.
    """
    watches = read_watches(index)
    kept = [each for each in watches if each.name != name]
    if len(kept) == len(watches):
        raise VidretError(f"name must be that of a watch, got {name}")
    write_watches(index, kept)


def find_new_matches(watches: Sequence[Watch], videos: Sequence[StoredVideo], locate: LocateMany) -> list[WatchMatch]:
    """Return the matches among the videos that no watch has seen; ``mark_reported`` makes them seen.

    Args:
        watches: The watches to ask.
        videos: All videos of the index.
        locate: Returns the best moments of each query in each video by its id, without weak ones.
    """
    watches_of = defaultdict[int, list[Watch]](list)  # by the last video that they have seen, which most share
    for watch in watches:
        watches_of[watch.last_video].append(watch)
    matches = []
    for last, asked in watches_of.items():
        new = sorted(video.id for video in videos if video.id > last)
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


def mark_reported(index: Path, videos: Sequence[StoredVideo], *, left_out: Collection[str] = ()) -> None:
    """Remember that all watches have seen these videos, but for those whose names are left out."""
    watches, last = read_watches(index), _find_last(videos)
    seen = [each if each.name in left_out else replace(each, last_video=max(each.last_video, last)) for each in watches]
    if seen != watches:
        write_watches(index, seen)


def _find_last(videos: Sequence[StoredVideo]) -> int:
    return max((video.id for video in videos), default=0)
