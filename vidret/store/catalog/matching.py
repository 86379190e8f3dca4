"""SQL fragments that select many ids, or the videos that match filters."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from vidret.errors import StoreError
from vidret.store.records import DEAD_STATES
from vidret.types import NO_TIME, Filters

T = TypeVar("T")
Ids = Int64[np.ndarray, " _id"]

LIVE = f"state NOT IN {DEAD_STATES}"
# Files that make a video searchable; the parameters are ``filter_values``, of which NULL disables a condition.
MATCHING = f"""
    FROM files JOIN videos ON videos.id = files.video WHERE {LIVE}
    AND (?1 IS NULL OR path = ?1 OR substr(path, 1, length(?2)) = ?2)
    AND (?3 IS NULL OR duration >= ?3) AND (?4 IS NULL OR duration <= ?4)
    AND (?5 IS NULL OR mtime_ns >= ?5) AND (?6 IS NULL OR mtime_ns > {NO_TIME} AND mtime_ns < ?6)"""
IN_IDS = "(SELECT value FROM json_each(?))"  # the same statement for any number of ids


def filter_values(
    filters: Filters,
) -> tuple[bytes | None, bytes | None, float | None, float | None, int | None, int | None]:
    """Return the parameters of ``MATCHING``: times in nanoseconds."""
    folder = None if filters.folder is None else os.fsencode(filters.folder.rstrip("/") or "/")
    inside = None if folder is None else folder.rstrip(b"/") + b"/"
    after, before = (None if each is None else int(each * 1e9) for each in (filters.after, filters.before))
    return folder, inside, filters.min_seconds, filters.max_seconds, after, before


def order_by_ids(values: Mapping[int, T], ids: Sequence[int] | Ids) -> list[T]:
    """Return values of segments in the order of ``ids``.

    Raises:
        StoreError: A segment has no value.
    """
    try:
        return [values[int(segment_id)] for segment_id in ids]
    except KeyError as error:
        raise StoreError(f"segment {error.args[0]} is not in the index") from None


def ids_to_json(ids: Sequence[int] | Ids) -> str:
    """Return ids as JSON, the parameter of ``IN_IDS``."""
    return json.dumps(np.asarray(ids, np.int64).tolist())
