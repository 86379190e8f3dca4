"""Saved searches and lists of moments, and the videos that the moments are of, wherever their files are now."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidret.errors import ConflictError, OptionError, VidretError, check_list
from vidret.search.watches import check_kept_query
from vidret.store.rows_file import COLLECTIONS
from vidret.store.store import Store
from vidret.types import OPTIONS, Hit, ListedMoment, Moment, SavedCollection, check_options, list_options

MAX_MOMENTS = 2000  # of a list
MAX_NOTE = 2000  # characters
ROUNDING_S = 1.0  # by which a moment may be longer than its video, whose length a player rounds up
FEEDBACK = ("like", "unlike", "seen")
_NAME = re.compile(r"\w(?:[\w .-]{0,62}[\w.-])?")


def list_collections(store: Store, index: Path) -> list[SavedCollection]:
    """Return the collections of an index by name, with the ids and the paths that videos have now."""
    kept = sorted(COLLECTIONS.read(index), key=lambda row: row.name.casefold())
    contents = store.find_contents({moment.content for row in kept for moment in row.moments})
    paths = {video.id: video.paths[0] for video in store.videos.find(ids=list(contents.values()))} if contents else {}

    def look_up(moment: ListedMoment) -> ListedMoment:
        video = contents.get(moment.content)
        return replace(moment, video=video, path=paths[video]) if video in paths else moment

    return [replace(row, moments=tuple(map(look_up, row.moments))) for row in kept]


def store_collection(store: Store, index: Path, collection: SavedCollection) -> None:
    """Keep a collection in place of the one whose revision it has; see ``Engine.save_collection``."""
    check_collection(store, collection)
    with COLLECTIONS.change(index) as rows:
        at, known = _find(rows, collection.name)
        if known.revision != collection.revision:
            if not collection.revision:
                raise ConflictError(f"name must be new, got {known.name}, which is a collection already")
            raise ConflictError(
                f"{known.name} was changed meanwhile: revision must be {known.revision}, got {collection.revision}"
            )
        kept = {moment.content: moment for moment in known.moments}
        moments = tuple(_keep_moment(store, moment, kept) for moment in collection.moments)
        rows[at : at + 1] = [replace(collection, moments=moments, revision=known.revision + 1)]


def extend_list(store: Store, index: Path, name: str, results: Sequence[Hit | Moment]) -> None:
    """Add moments to the end of a list, which is made if there is none; see ``Engine.add_to_list``."""
    check_list("results", results)
    added = [ListedMoment.of_result(result) for result in results]
    with COLLECTIONS.change(index) as rows:
        at, known = _find(rows, name)
        if known.finds:
            raise VidretError(f"name must be that of a list, got {name}, which is a saved search")
        check_collection(store, replace(known, moments=(*known.moments, *added)))
        moments = (*known.moments, *(_keep_moment(store, moment, {}) for moment in added))
        rows[at : at + 1] = [replace(known, moments=moments, revision=known.revision + 1)]


def check_collection(store: Store, collection: SavedCollection) -> None:
    """Check all of a collection but the videos of its moments."""
    if not _NAME.fullmatch(collection.name):
        rule = "name must be up to 64 letters, digits, spaces, dots, dashes and underscores"
        raise OptionError(f"{rule}, got {collection.name!r}")
    if len(collection.moments) > MAX_MOMENTS:
        raise VidretError(f"a list must have at most {MAX_MOMENTS} moments, got {len(collection.moments)}")
    for moment in collection.moments:
        if not (0 <= moment.start < moment.end < math.inf):
            raise VidretError(f"moments must have 0 <= start < end, got {moment.start:g} and {moment.end:g}")
        if len(moment.note) > MAX_NOTE:
            raise OptionError(f"note must have at most {MAX_NOTE} characters, got {len(moment.note)}")
    if not collection.finds:
        return
    if collection.finds not in OPTIONS:
        raise OptionError(f"finds must be {' or '.join(OPTIONS)}, or empty for a list, got {collection.finds}")
    check_kept_query(store, collection.query)
    known = {option.name for option in list_options(OPTIONS[collection.finds])}
    for name in collection.options:
        if name in FEEDBACK:
            raise VidretError(f"options must not hold results that were judged, got {name}; teach a concept by them")
        if name not in known:
            raise VidretError(f"options must be those of a search for {collection.finds}, got {name}")
    check_options(collection.read_options(), OptionError)


def _find(rows: Sequence[SavedCollection], name: str) -> tuple[int, SavedCollection]:
    """Return a collection and where it is, or where it will be and an empty one."""
    return next(((at, row) for at, row in enumerate(rows) if row.name == name), (len(rows), SavedCollection(name=name)))


def _keep_moment(store: Store, moment: ListedMoment, known: Mapping[str, ListedMoment]) -> ListedMoment:
    """Return a moment as it is kept: named by its content, which ``known`` has of videos that were removed."""
    if moment.video is not None:
        video = store.videos.get(moment.video)
        if video.complete and moment.end > video.duration + ROUNDING_S:
            span = f"{moment.start:g} to {moment.end:g} s"
            raise VidretError(f"moments must end with their video, at {video.duration:.1f} s, got {span}")
        return replace(moment, content=video.fingerprint, video=None)
    if moment.content not in known:
        raise VidretError(f"moments must be of videos of the index, got one of {moment.path}")
    return replace(moment, path=known[moment.content].path)
