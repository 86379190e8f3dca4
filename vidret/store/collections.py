"""Where an index keeps its collections: a file beside the catalog, which names videos by their content."""

from collections.abc import Iterable
from typing import Any

from vidret.errors import VidretError
from vidret.store.rows_file import RowsFile
from vidret.types import Hit, ListedMoment, LocateOptions, Moment, SavedCollection, Searchable


def _parse(row: dict[str, Any]) -> SavedCollection:
    return SavedCollection(**{**row, "moments": tuple(ListedMoment(**moment) for moment in row["moments"])})


COLLECTIONS = RowsFile("collections", _parse)


def pick_collection(collections: Iterable[SavedCollection], name: str) -> SavedCollection:
    """Return the collection of a name.

    Raises:
        VidretError: There is none.
    """
    found = next((each for each in collections if each.name == name), None)
    if found is None:
        raise VidretError(f"name must be that of a collection, got {name}")
    return found


def run_collection(library: Searchable, kept: SavedCollection) -> list[Hit] | list[Moment]:
    """Return what a collection holds now; see ``VideoLibrary.collect``."""
    if not kept.finds:
        return kept.list_moments()
    options = kept.read_options()
    if isinstance(options, LocateOptions):
        return library.locate_with(kept.query, options)
    return library.search_with(kept.query, options)
