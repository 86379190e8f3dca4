"""Watches: queries that an index keeps, to report which videos added later match them."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vidret.errors import VidretError
from vidret.search.clauses import check_exclusions, parse_structure
from vidret.search.grammar import split_exclusions
from vidret.store.records import StoredVideo
from vidret.store.watch_list import Watch, read_watches, write_watches
from vidret.types import Moment

LocateMany = Callable[[Sequence[str], Sequence[int]], Sequence[Sequence[Sequence[Moment]]]]
_NAME = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMatch:
    """The best moment of a new video that matches a watch."""

    watch: Watch
    moment: Moment


def add_watch(index: Path, name: str, query: str, videos: Sequence[StoredVideo]) -> Watch:
    """Store a watch for what is indexed after these videos, and return it.

    Raises:
        VidretError: The name is taken or invalid, or the query is.
    """
    if not _NAME.fullmatch(name):
        raise VidretError(f"name must be up to 64 letters, digits, dots, dashes and underscores, got {name!r}")
    text, excluded = split_exclusions(query)
    if not text or not all(excluded):
        raise VidretError(f"query must contain a positive word, and no empty quotes after a minus, got {query!r}")
    check_exclusions(parse_structure(query))
    watches = read_watches(index)
    taken = next((each for each in watches if each.name == name), None)
    if taken is not None:
        raise VidretError(f"name must be new, got {name}, which looks for {taken.query!r}")
    watch = Watch(name=name, query=query, last_video=_find_last(videos))
    write_watches(index, [*watches, watch])
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


def find_new_matches(index: Path, videos: Sequence[StoredVideo], locate: LocateMany) -> list[WatchMatch]:
    """Return the matches among the videos that no watch has seen; ``mark_reported`` makes them seen.

    Args:
        index: Folder of the index.
        videos: Its videos.
        locate: Returns the best moments of each query in each video by its id, without weak ones.
    """
    watches_of = defaultdict[int, list[Watch]](list)  # by the last video that they have seen, which most share
    for watch in read_watches(index):
        watches_of[watch.last_video].append(watch)
    matches = []
    for last, watches in watches_of.items():
        new = sorted(video.id for video in videos if video.id > last)
        found = locate([watch.query for watch in watches], new) if new else []
        for watch, by_video in zip(watches, found, strict=False):
            matches += [WatchMatch(watch=watch, moment=moments[0]) for moments in by_video if moments]
    return matches


def mark_reported(index: Path, videos: Sequence[StoredVideo]) -> None:
    """Remember that all watches have seen these videos."""
    watches, last = read_watches(index), _find_last(videos)
    if any(each.last_video < last for each in watches):
        write_watches(index, [replace(each, last_video=max(each.last_video, last)) for each in watches])


def _find_last(videos: Sequence[StoredVideo]) -> int:
    return max((video.id for video in videos), default=0)
