"""Where an index keeps its collections: a file beside the catalog, which names videos by their content."""

import math
from collections.abc import Iterable
from typing import Any

from vidret.errors import VidretError
from vidret.store.rows_file import RowsFile
from vidret.types import OPTIONS, ListedMoment, SavedCollection


def _parse(row: dict[str, Any]) -> SavedCollection:
    """Return a collection from its row; an index from elsewhere may hold anything in its place."""
    listed = [
        {**each, "start": float(each["start"]), "end": float(each["end"]), "video": None} for each in row["moments"]
    ]
    kept = SavedCollection(**{**row, "moments": tuple(ListedMoment(**each) for each in listed)})
    texts = [kept.name, kept.query, *(text for each in kept.moments for text in (each.content, each.path, each.note))]
    spans = all(0 <= each.start < each.end < math.inf for each in kept.moments)
    if not spans or kept.finds not in ("", *OPTIONS) or not all(isinstance(text, str) for text in texts):
        raise ValueError("a row is not that of a collection")
    if kept.finds:
        kept.read_options()
    return kept


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
