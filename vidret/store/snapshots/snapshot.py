"""An immutable view of the catalog at one time: numpy columns of its segments, videos and files.

Queries over all rows use these columns; SQL reads only the few rows that a query returns.
"""

import heapq
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8, UInt32

from vidret.store.catalog.facts import has_fact_filters, match_facts, to_seconds
from vidret.store.catalog.schema import filter_values, has_name
from vidret.store.catalog.videos import rank_path
from vidret.store.records import DEAD_STATES, FILE_STATES
from vidret.store.snapshots.bitmap import Bits, Ids, contains, list_ids, make_bitmap
from vidret.store.snapshots.changes import Position
from vidret.text import compose, strip_query
from vidret.types import ALL_VIDEOS, NO_TIME, Filters, Segment

LIVE_STATES = np.array([state not in DEAD_STATES for state in FILE_STATES] + [True])  # the last is for unknown states
MAX_REMEMBERED = 64  # cached results of filters
UNREADABLE = -1

K = TypeVar("K")
V = TypeVar("V")
Videos = Bool[np.ndarray, " video"]


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The videos that a query may return, and their searchable segments.

    Attributes:
        bits: The ids of the segments as a bitmap.
        num_segments: Their number.
        videos: A mask of the videos by row of the snapshot.
        num_videos: The number of the videos with a stored segment.
        narrow: Whether filters left videos out.
    """

    bits: Bits
    num_segments: int
    videos: Videos
    num_videos: int
    narrow: bool

    def ids(self) -> Ids:
        """Return the ids, ascending."""
        return list_ids(self.bits)

    def among(self, ids: Ids) -> "Selection":
        """Return the selected segments that are also among ascending ids."""
        chosen = ids[contains(self.bits, ids)]
        return replace(self, bits=make_bitmap(chosen), num_segments=len(chosen), narrow=True)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SegmentColumns:
    """The segments in the order of their ids.

    ``video_rows`` are the rows of their videos, ``numbers`` their indices there, ``starts`` and ``ends`` in seconds.
    ``rows``, ``frame_rows`` and ``token_bytes`` locate the vector, the first frame, and the ``num_bytes`` of tokens in
    the feature files, each with checksums; during a compaction, in those of the earlier epoch. ``first_frames`` locate
    the frames in ``frame_times``. A damaged row has the frame row ``UNREADABLE``. Deleted segments are not ``stored``;
    others are ``searchable`` if their video has a live path.
    """

    ids: Ids
    video_rows: Int32[np.ndarray, " segment"]
    numbers: Int32[np.ndarray, " segment"]
    starts: Float64[np.ndarray, " segment"]
    ends: Float64[np.ndarray, " segment"]
    num_frames: Int32[np.ndarray, " segment"]
    rows: Int64[np.ndarray, " segment"]
    row_sums: UInt32[np.ndarray, " segment"]
    frame_rows: Int64[np.ndarray, " segment"]
    frame_sums: UInt32[np.ndarray, " segment"]
    first_frames: Int64[np.ndarray, " segment"]
    token_bytes: Int64[np.ndarray, " segment"]
    num_bytes: Int32[np.ndarray, " segment"]
    token_sums: UInt32[np.ndarray, " segment"]
    stored: Bool[np.ndarray, " segment"]
    searchable: Bool[np.ndarray, " segment"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VideoColumns:
    """The videos in the order of their ids.

    ``fingerprints``, and their ``rows``, may include later videos. ``durations`` are in seconds, ``facts`` of type
    ``FACT_ROW``; deleted videos are not ``stored``. ``num_paths`` counts live paths, ``num_segments`` stored segments,
    which lie between the rows ``first_segments`` and ``last_segments``, perhaps mixed with those of other videos.
    """

    ids: Ids
    fingerprints: Sequence[bytes]
    rows: Mapping[bytes, int]
    durations: Float64[np.ndarray, " video"]
    complete: Videos
    imported: Videos
    stored: Videos
    facts: np.ndarray
    num_paths: Int32[np.ndarray, " video"]
    num_segments: Int32[np.ndarray, " video"]
    first_segments: Int64[np.ndarray, " video"]
    last_segments: Int64[np.ndarray, " video"]


class PathNames:
    """The rows of files by the last part of their paths, filled on the first lookup."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, list[int]] = {}
        self._num_read = 0

    def find(self, paths: Sequence[bytes], num_rows: int, name: str) -> list[int]:
        """Return the rows that have a name, among the first ``num_rows``."""
        with self._lock:
            for row in range(self._num_read, num_rows):
                self._rows.setdefault(_make_name(os.fsdecode(paths[row])), []).append(row)
            self._num_read = max(self._num_read, num_rows)
            return [row for row in self._rows.get(_make_name(name), ()) if row < num_rows]


def _make_name(path: str) -> str:
    """Return the last part of a path, without the query string of a URL, in one Unicode form."""
    return compose(strip_query(path)).rpartition("/")[2]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FileColumns:
    """The files. A file that changes gets a new row, and its old one is no longer ``current``.

    ``paths`` may include later rows; the first ``num_sorted`` are sorted. ``video_rows`` are -1 for no video,
    ``mtimes_ns`` the smallest integer if unknown, ``states`` indices of ``FILE_STATES``.
    """

    paths: Sequence[bytes]
    names: "PathNames"
    num_sorted: int
    video_rows: Int64[np.ndarray, " file"]
    mtimes_ns: Int64[np.ndarray, " file"]
    states: UInt8[np.ndarray, " file"]
    current: Bool[np.ndarray, " file"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Snapshot:
    """A catalog at one time; ``everything`` selects all videos with a live path, ``frame_times`` are in seconds."""

    position: Position
    segments: SegmentColumns
    videos: VideoColumns
    files: FileColumns
    frame_times: Float64[np.ndarray, " frame"]
    everything: Selection
    _selections: dict[tuple[Filters, frozenset[int]], Selection] = field(default_factory=dict)

    # Videos

    def select(self, filters: Filters = ALL_VIDEOS, excluded: Set[int] = frozenset()) -> Selection:
        """Return the videos with a live path that matches, without excluded ones; ``ALL_VIDEOS`` matches any path."""
        if filters == ALL_VIDEOS and not excluded:
            return self.everything

        def find() -> Selection:
            if excluded:
                allowed, rows = self.select(filters).videos.copy(), self.find_videos(sorted(excluded))
                allowed[rows[rows >= 0]] = False
            else:
                allowed = np.zeros(len(self.videos.ids), bool)
                allowed[self.files.video_rows[self._match_files(filters)]] = True
            return self.select_videos(allowed)

        return remember(self._selections, (filters, frozenset(excluded)), find)

    def select_videos(self, allowed: Videos) -> Selection:
        """Return the selection of some videos."""
        chosen = allowed[self.segments.video_rows] & self.segments.searchable
        return Selection(
            bits=make_bitmap(self.segments.ids, chosen),
            num_segments=int(np.count_nonzero(chosen)),
            videos=allowed,
            num_videos=int(np.count_nonzero(allowed & (self.videos.num_segments > 0))),
            narrow=True,
        )

    def _match_files(self, filters: Filters) -> Bool[np.ndarray, " file"]:
        """Return a mask of the files that match and make their video searchable."""
        folder, inside, min_s, max_s, after_ns, before_ns = filter_values(filters)
        files = self.files
        rows: Bool[np.ndarray, " file"] = files.current & LIVE_STATES[files.states] & (files.video_rows >= 0)
        if folder is not None and inside is not None:
            rows &= self._find_in_folder(folder, inside)
        if after_ns is not None:
            rows &= files.mtimes_ns >= after_ns
        if before_ns is not None:
            rows &= (files.mtimes_ns > NO_TIME) & (files.mtimes_ns < before_ns)
        for bound, compare in ((min_s, np.greater_equal), (max_s, np.less_equal)):
            if bound is not None and not np.isnan(bound):  # NaN means no bound, as NULL does in SQLite
                rows[rows] = compare(self.videos.durations[files.video_rows[rows]], bound)
        if filters.name is not None:
            rows[rows] = [has_name(files.paths[row], filters) for row in np.flatnonzero(rows).tolist()]
        if has_fact_filters(filters):
            facts = self.videos.facts[files.video_rows[rows]]
            rows[rows] = match_facts(filters, facts, to_seconds(files.mtimes_ns[rows]))
        return rows

    def _find_in_folder(self, folder: bytes, inside: bytes) -> Bool[np.ndarray, " file"]:
        """Return a mask of the files that are the folder itself or are in it."""
        paths, num_sorted = self.files.paths, self.files.num_sorted
        below = np.zeros(len(self.files.states), bool)
        below[bisect_left(paths, inside, hi=num_sorted) : bisect_left(paths, inside[:-1] + b"0", hi=num_sorted)] = True
        row = bisect_left(paths, folder, hi=num_sorted)
        later = range(num_sorted, len(below))
        for file_row in (*([row] if row < num_sorted else []), *later):
            below[file_row] |= paths[file_row] == folder or paths[file_row].startswith(inside)
        return below

    def first_files(self, filters: Filters) -> Ids:
        """Return the row of the first matching file, as of ``rank_path``, for each matching video, by video."""
        rows = np.flatnonzero(self._match_files(filters))
        is_shared = self.videos.num_paths[self.files.video_rows[rows]] > 1
        shared = sorted(rows[is_shared].tolist(), key=lambda row: rank_path(os.fsdecode(self.files.paths[row])))
        rows = np.concatenate([rows[~is_shared], np.array(shared, np.int64)])
        _, first = np.unique(self.files.video_rows[rows], return_index=True)
        return rows[first]

    def list_videos(self, filters: Filters, after: bytes, limit: int) -> list[tuple[bytes, int]]:
        """Return the first matching path and the id of up to ``limit`` matching videos, by path, after a path."""
        paths, num_sorted = self.files.paths, self.files.num_sorted
        rows = self._match_files(filters)
        rows[self._find_further(rows)] = False
        first = bisect_right(paths, after, hi=num_sorted)
        following = np.flatnonzero(rows[first:num_sorted]) + first
        later = (row for row in (np.flatnonzero(rows[num_sorted:]) + num_sorted).tolist() if paths[row] > after)
        merged = heapq.merge(map(int, following), sorted(later, key=paths.__getitem__), key=paths.__getitem__)
        return [(paths[row], int(self.videos.ids[self.files.video_rows[row]])) for row in islice(merged, limit)]

    def _find_further(self, rows: Bool[np.ndarray, " file"]) -> Int64[np.ndarray, " row"]:
        """Return the rows of the files whose path is not the first one of their video."""
        paths, owners, num_sorted = self.files.paths, self.files.video_rows, self.files.num_sorted
        matching = np.flatnonzero(rows)
        shared = matching[self.videos.num_paths[owners[matching]] > 1]
        in_order, later = np.split(shared, [np.searchsorted(shared, num_sorted)])
        firsts = np.full(len(self.videos.ids), -1)
        firsts[owners[in_order[::-1]]] = in_order[::-1]  # the last assignment wins
        for row in later.tolist():
            if (first := firsts[owners[row]]) < 0 or paths[row] < paths[first]:
                firsts[owners[row]] = row
        further: Int64[np.ndarray, " row"] = shared[firsts[owners[shared]] != shared]
        return further

    def find_named(self, name: str) -> list[int]:
        """Return the ids of the videos with a live path that ends with a file name, in any Unicode form."""
        files = self.files
        rows = np.array(files.names.find(files.paths, len(files.states), name), np.int64)
        rows = rows[files.current[rows] & LIVE_STATES[files.states[rows]] & (files.video_rows[rows] >= 0)]
        return [int(key) for key in np.unique(self.videos.ids[files.video_rows[rows]])]

    def find_videos(self, video_ids: Sequence[int] | Ids) -> Ids:
        """Return the rows of videos, -1 for unknown ones."""
        return find_rows(self.videos.ids, np.asarray(video_ids, np.int64))

    # Segments

    def find_segments(self, ids: Sequence[int] | Ids) -> Ids:
        """Return the rows of segments, -1 for those that are unknown or deleted."""
        rows = find_rows(self.segments.ids, np.asarray(ids, np.int64))
        exists = rows >= 0
        rows[exists] = np.where(self.segments.stored[rows[exists]], rows[exists], -1)
        return rows

    def read_segments(self, ids: Sequence[int] | Ids) -> dict[int, Segment]:
        """Return the segments that exist and are intact, by id."""
        segment_columns, rows = self.segments, self.find_segments(ids)
        rows = rows[(rows >= 0) & (segment_columns.frame_rows[rows] != UNREADABLE)]
        video_ids = self.videos.ids[segment_columns.video_rows[rows]]
        columns = (video_ids, segment_columns.numbers[rows], segment_columns.starts[rows], segment_columns.ends[rows])
        segments = map(Segment, *(column.tolist() for column in columns))
        return dict(zip(segment_columns.ids[rows].tolist(), segments, strict=True))

    def owners(self, ids: Sequence[int] | Ids) -> Ids:
        """Return the id of the video of each segment, -1 for those that do not exist."""
        rows = self.find_segments(ids)
        owners = np.full(len(rows), -1, np.int64)
        owners[rows >= 0] = self.videos.ids[self.segments.video_rows[rows[rows >= 0]]]
        return owners

    def overlapping(self, spans: Iterable[tuple[int, float, float]]) -> list[Ids]:
        """Return the ascending ids of the segments that overlap each span (video, start, end in seconds)."""
        segments, videos = self.segments, self.videos
        asked = list(spans)
        segment_ids = [np.zeros(0, np.int64)] * len(asked)
        pairs = zip(self.find_videos([span[0] for span in asked]).tolist(), asked, strict=True)
        for index, (row, (_, start_s, end_s)) in enumerate(pairs):
            if row >= 0:
                segment_rows = slice(videos.first_segments[row], videos.last_segments[row] + 1)
                chosen = (segments.starts[segment_rows] <= end_s) & (segments.ends[segment_rows] >= start_s)
                if len(chosen) > videos.num_segments[row]:  # some are deleted, or belong to other videos
                    chosen &= (segments.video_rows[segment_rows] == row) & segments.stored[segment_rows]
                segment_ids[index] = segments.ids[segment_rows][chosen]
        return segment_ids

    def find_contents(self, fingerprints: Iterable[str], within: Selection | None = None) -> dict[str, int]:
        """Return the ids of the selected videos, or of all with a live path, by fingerprint, of those given."""
        allowed = (within or self.everything).videos
        rows = {
            fingerprint: self.videos.rows.get(fingerprint.encode("utf-8", "surrogatepass"), -1)
            for fingerprint in fingerprints
        }
        return {
            fingerprint: int(self.videos.ids[row])
            for fingerprint, row in rows.items()
            if 0 <= row < len(allowed) and allowed[row]
        }

    def describe(self) -> dict[str, Any]:
        """Return the counts of ``StoreInfo``: files by state, videos, segments, frames, seconds."""
        files, videos, segments = self.files, self.videos, self.segments
        counts = np.bincount(files.states[files.current], minlength=len(FILE_STATES))
        by_state = {state: int(count) for state, count in zip(FILE_STATES, counts, strict=False) if count}
        return {
            "files": dict(sorted(by_state.items())),
            "videos": int(np.count_nonzero(videos.stored)),
            "complete_videos": int(np.count_nonzero(videos.complete & videos.stored)),
            "seconds": float(videos.durations[videos.stored].sum()),
            "segments": int(np.count_nonzero(segments.stored)),
            "frames": int(segments.num_frames[segments.stored].sum(dtype=np.int64)),
            "with_tokens": int(np.count_nonzero((segments.num_bytes > 0) & segments.stored)),
            "searchable": self.everything.num_segments,
            "imported": int(np.count_nonzero(videos.imported & videos.stored)),
        }


def find_rows(known: Ids, ids: Ids) -> Ids:
    """Return the row of each id among ascending known ids, -1 for unknown ones."""
    if not len(known):
        return np.full(len(ids), -1, np.int64)
    rows: Ids = (ids - known[0]).clip(0, len(known) - 1)  # the rows in an index without deleted ids
    if (known[rows] == ids).all():
        return rows
    rows = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[rows] == ids, rows, -1)


def remember(cache: dict[K, V], key: K, compute: Callable[[], V], limit: int = MAX_REMEMBERED) -> V:
    """Return the cached value of a key, computed if it is missing; the oldest ones are dropped. Thread-safe."""
    value = cache.get(key)
    if value is None:
        value = compute()
        for oldest in list(cache)[: len(cache) + 1 - limit]:
            cache.pop(oldest, None)
        cache[key] = value
    return value
