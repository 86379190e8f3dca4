"""Collections that an index keeps for its users: saved searches, lists of moments, and watches.

Moments are stored by the content of their videos, so moved files are found. A watch is a query that reports matches
among the videos that are completed after it was stored.
"""

import logging
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vidret.errors import ConflictError, OptionError, VidretError, check_list
from vidret.search.concepts.storage import check_mentions
from vidret.search.people import KnownPersons
from vidret.search.query.marks import find_mentions
from vidret.search.query.planning import check_query
from vidret.store.rows_file import COLLECTIONS, WATCHES, Watch
from vidret.store.store import Store
from vidret.text import MARKS
from vidret.types import OPTIONS, Hit, ListedMoment, Moment, SavedCollection, check_options, list_options

logger = logging.getLogger(__name__)

LocateMany = Callable[[Sequence[str], Sequence[int]], Sequence[Sequence[Sequence[Moment]]]]

MAX_MOMENTS = 2000  # of a list
MAX_NOTE = 2000  # characters
ROUNDING_S = 1.0  # by which a moment may be longer than its video, whose length a player rounds up
FEEDBACK = ("like", "unlike", "seen")
MIN_PROBABILITY = 0.5  # of the moments that a watch reports
_NAME = re.compile(rf"\w(?:[\w{MARKS} .-]{{0,62}}[\w{MARKS}.-])?")
_WATCH_NAME = re.compile(rf"\w[\w{MARKS}.-]{{0,63}}")


def list_collections(store: Store, index: Path) -> list[SavedCollection]:
    """Return the collections of an index by name, with the current ids and paths of videos."""
    kept = sorted(COLLECTIONS.read(index), key=lambda row: row.name.casefold())
    contents = store.find_contents({moment.content for row in kept for moment in row.moments})
    paths = {video.id: video.paths[0] for video in store.videos.find(ids=list(contents.values()))} if contents else {}

    def look_up(moment: ListedMoment) -> ListedMoment:
        video = contents.get(moment.content)
        return replace(moment, video=video, path=paths[video]) if video in paths else moment

    return [replace(row, moments=tuple(map(look_up, row.moments))) for row in kept]


def store_collection(store: Store, index: Path, collection: SavedCollection) -> None:
    """Store a collection in place of its previous revision; see ``Engine.save_collection``."""
    check_collection(store, collection)
    with COLLECTIONS.change(index) as rows:
        at, current = _find(rows, collection.name)
        if current.revision != collection.revision:
            if not collection.revision:
                raise ConflictError(f"name must be new, got {current.name}, which is a collection already")
            raise ConflictError(
                f"{current.name} was changed meanwhile: revision must be {current.revision}, "
                f"got {collection.revision}; read it again"
            )
        kept = {moment.content: moment for moment in current.moments}
        moments = tuple(_keep_moment(store, moment, kept) for moment in collection.moments)
        rows[at : at + 1] = [replace(collection, moments=moments, revision=current.revision + 1)]


def extend_list(store: Store, index: Path, name: str, results: Sequence[Hit | Moment]) -> None:
    """Append moments to a list, which is created if needed; see ``Engine.add_to_list``."""
    check_list("results", results)
    added = [ListedMoment.of_result(result) for result in results]
    with COLLECTIONS.change(index) as rows:
        at, current = _find(rows, name)
        if current.finds:
            raise VidretError(f"name must be that of a list, got {name}, which is a saved search")
        check_collection(store, replace(current, moments=(*current.moments, *added)))
        moments = (*current.moments, *(_keep_moment(store, moment, {}) for moment in added))
        rows[at : at + 1] = [replace(current, moments=moments, revision=current.revision + 1)]


def check_collection(store: Store, collection: SavedCollection) -> None:
    """Check a collection, except for the videos of its moments."""
    if not _NAME.fullmatch(collection.name):
        rule = "name must be up to 64 letters, digits, spaces, dots, dashes and underscores"
        raise OptionError(f"{rule}, got {collection.name!r}")
    if len(collection.moments) > MAX_MOMENTS:
        raise VidretError(f"a list must have at most {MAX_MOMENTS} moments, got {len(collection.moments)}")
    for moment in collection.moments:
        if not (0 <= moment.start < moment.end < math.inf):
            raise OptionError(f"moments must have 0 <= start < end, got {moment.start:g} and {moment.end:g}")
        if len(moment.note) > MAX_NOTE:
            raise OptionError(f"note must have at most {MAX_NOTE} characters, got {len(moment.note)}")
    if not collection.finds:
        return
    if collection.finds not in OPTIONS:
        raise OptionError(f"finds must be {' or '.join(OPTIONS)}, or empty for a list, got {collection.finds}")
    check_kept_query(store, collection.query)
    option_names = {option.name for option in list_options(OPTIONS[collection.finds])}
    for name in collection.options:
        if name in FEEDBACK:
            raise VidretError(f"options must not contain judged results, got {name}; teach a concept from them")
        if name not in option_names:
            raise VidretError(f"options must be those of a search for {collection.finds}, got {name}")
    check_options(collection.read_options(), OptionError)


def _find(rows: Sequence[SavedCollection], name: str) -> tuple[int, SavedCollection]:
    """Return the index and the collection of a name; an empty collection after the last one if there is none."""
    return next(((at, row) for at, row in enumerate(rows) if row.name == name), (len(rows), SavedCollection(name=name)))


def _keep_moment(store: Store, moment: ListedMoment, known: Mapping[str, ListedMoment]) -> ListedMoment:
    """Return a moment as it is stored, by the content of its video; that of a removed video must be in ``known``."""
    if moment.video is not None:
        video = store.videos.get(moment.video)
        if video.complete and moment.end > video.duration + ROUNDING_S:
            span = f"{moment.start:g} to {moment.end:g} s"
            raise VidretError(f"moments must be within their video, which ends at {video.duration:.1f} s, got {span}")
        return replace(moment, content=video.fingerprint, video=None)
    if moment.content not in known:
        raise VidretError(f"moments must be of videos of the index, got one of {moment.path}")
    return replace(moment, path=known[moment.content].path)


# Watches


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchMatch:
    """The best moment of a new video that matches a watch."""

    watch: Watch
    moment: Moment


def add_watch(store: Store, name: str, query: str) -> Watch:
    """Store a watch for videos that are added later, and return it.

    Raises:
        VidretError: The name is taken or invalid, or the query is, or mentions an unknown concept.
    """
    if not _WATCH_NAME.fullmatch(name):
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
    """Check a query before an index stores it.

    Raises:
        VidretError: As ``check_query``, or it mentions an unknown concept.
    """
    check_query(query)
    people = KnownPersons(store)
    check_mentions(store, people.name_handles(query), people.find_handles(query))


def find_new_matches(watches: Sequence[Watch], complete: Collection[int], locate: LocateMany) -> list[WatchMatch]:
    """Return the matches among the complete videos that a watch has not reported; see ``mark_reported``.

    ``locate`` returns the best moments of each query in each video by its id, of ``MIN_PROBABILITY`` or more.
    """
    watches_of = defaultdict[tuple[int, tuple[int, ...]], list[Watch]](list)  # by the videos they have seen
    for watch in watches:
        watches_of[watch.last_video, watch.unreported].append(watch)
    matches = []
    for asked in watches_of.values():
        new = sorted(filter(asked[0].is_new, complete))
        moments_by_watch = locate([watch.query for watch in asked], new) if new else []
        for watch, by_video in zip(asked, moments_by_watch, strict=False):
            matches += [WatchMatch(watch=watch, moment=moments[0]) for moments in by_video if moments]
    return matches


def leave_unknown_out(watches: Sequence[Watch], concepts: Collection[str]) -> list[Watch]:
    """Return the watches that mention only known concepts; the others are named in a warning."""
    kept = []
    for watch in watches:
        unknown = [f"@{name}" for name in find_mentions(watch.query) if name not in concepts]
        if unknown:
            logger.warning("the watch %s is left out: %s is not a taught concept", watch.name, ", ".join(unknown))
        else:
            kept.append(watch)
    return kept


def mark_reported(
    index: Path, known: Collection[int], reported: Collection[int], *, left_out: Collection[str] = ()
) -> None:
    """Store which known videos all watches have reported, except for the watches that are ``left_out`` by name."""
    with WATCHES.change(index) as watches:
        for position, watch in enumerate(watches):
            if watch.name not in left_out:
                unreported = tuple(sorted(video for video in known if watch.is_new(video) and video not in reported))
                watches[position] = replace(watch, last_video=max(known, default=0), unreported=unreported)
