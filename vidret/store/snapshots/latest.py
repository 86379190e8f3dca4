"""The latest snapshot of a catalog, extended by new and changed rows when the catalog has changed."""

import contextlib
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from vidret.store.catalog.database import Database
from vidret.store.catalog.facts import FACT_ROW, FACT_VALUES, stack_facts
from vidret.store.catalog.schema import IN_IDS, SEGMENT_ROW, SNAPSHOT, CheckedTables, ids_to_json
from vidret.store.records import FILE_STATES, IMPORTED
from vidret.store.snapshots.bitmap import Ids, add_ids, are_ids, make_bitmap
from vidret.store.snapshots.changes import Changes, Position, TrimmedLogError, read_changes, read_position, trim_log
from vidret.store.snapshots.columns import KEY, Columns, Saved, load_columns, save_columns
from vidret.store.snapshots.snapshot import (
    LIVE_STATES,
    UNREADABLE,
    FileColumns,
    PathNames,
    SegmentColumns,
    Selection,
    Snapshot,
    VideoColumns,
    find_rows,
)

NOTHING_READ = Position(-1, -1, 0)
MIN_TAIL, TAIL_SHARE = 1000, 0.5  # unsorted files at the end: above both limits, all files are sorted


def read_dtypes(columns_type: type[SegmentColumns | VideoColumns | FileColumns]) -> dict[str, Any]:
    """Return the dtypes of the arrays among the fields of a class, by name."""
    kinds: dict[str, Any] = {field.name: getattr(field.type, "dtypes", ()) for field in fields(columns_type)}
    return {name: FACT_ROW if name == "facts" else kind[0] for name, kind in kinds.items() if kind or name == "facts"}


SEGMENTS, VIDEOS, FILES = map(read_dtypes, (SegmentColumns, VideoColumns, FileColumns))
FRAMES = {"times": np.float64}
TABLES = {"segments": SEGMENTS, "videos": VIDEOS, "files": FILES, "frames": FRAMES}
# In the order of ``SEGMENT_ROW``; wide, since rows of a foreign index may have any number.
WHOLE = "ids videos numbers rows frame_rows num_frames token_bytes num_bytes row_sums frame_sums token_sums is_blob"
SEGMENT_VALUES = np.dtype([*((name, np.int64) for name in WHOLE.split()), ("starts", np.float64), ("ends", np.float64)])
SEGMENT_NAMES = [name for name in SEGMENT_VALUES.names or () if name in SEGMENTS]  # the other columns are computed
VIDEO_NAMES = "ids", "durations", "complete", "imported", "stored", "facts"
VIDEO_ROW = np.dtype([(name, VIDEOS[name]) for name in VIDEO_NAMES])
TEXTS = ("fingerprints", "paths")  # each is a column of bytes, and a column of the ends of texts
SAVED = {
    **{f"{table}.{name}": dtype for table, columns in TABLES.items() for name, dtype in columns.items()},
    **dict.fromkeys(("bits", *TEXTS), np.uint8),
    **{f"{name}.ends": np.int64 for name in TEXTS},
}
DEAD_SHARE = 0.25  # of deleted segments, above which all rows are read again before columns are saved
# Casts, since a damaged row may have values of another type.
DAMAGED_SEGMENT = (
    "id, ifnull(CAST(video AS INTEGER), -1), ifnull(CAST(number AS INTEGER) & 2147483647, 0),"
    f" ifnull(CAST(row AS INTEGER), -1), {UNREADABLE}, 0, 0, ifnull(CAST(num_bytes AS INTEGER) > 0, 0),"
    " ifnull(CAST(row_sum AS INTEGER) & 4294967295, 0), 0, 0, 0,"
    ' ifnull(CAST(start AS REAL), 0), ifnull(CAST("end" AS REAL), 0)'
)
VIDEO_VALUES = (
    "id, ifnull(CAST(duration AS REAL), 0), ifnull(CAST(complete AS INTEGER) <> 0, 0),"
    f" ifnull(instr(facts, '\"{IMPORTED}\": true') > 0, 0), 1"
)
FINGERPRINT = "ifnull(CAST(fingerprint AS BLOB), x'')"
STATE = f"CASE state {' '.join(f'WHEN {s!r} THEN {i}' for i, s in enumerate(FILE_STATES))} ELSE {len(FILE_STATES)} END"
FILE_VALUES = f"CAST(path AS BLOB), {STATE}, ifnull(CAST(video AS INTEGER), -1), ifnull(CAST(mtime_ns AS INTEGER), ?1)"
UNKNOWN_NS = -(2**63)


class Snapshots:
    """The snapshots of one catalog."""

    def __init__(self, tables: CheckedTables) -> None:
        self._tables, self._database = tables, tables.database
        self._lock = threading.Lock()
        self._builder = SnapshotBuilder()
        self._latest: Snapshot | None = None

    def current(self) -> Snapshot:
        """Return the latest snapshot of the catalog, or the one to which this thread is pinned.

        All its rows are committed. It may have rows beyond its position if a writer commits in between; the next call
        reads those again.
        """
        held = self._tables.held
        if held is None:
            return self._find_current()
        if SNAPSHOT not in held:
            held[SNAPSHOT] = self._find_current()
        snapshot: Snapshot = held[SNAPSHOT]
        return snapshot

    def _find_current(self) -> Snapshot:
        latest = self._latest
        if latest is not None and latest.position == read_position(self._database):
            return latest
        while True:
            with (
                contextlib.suppress(TrimmedLogError),  # if the log is trimmed after the position was read
                self._database.access(),
                self._lock,  # in this order: a thread may have begun a transaction
            ):
                position = read_position(self._database)
                if self._database.in_transaction:
                    return SnapshotBuilder().advance(self._database, position)  # the transaction may be rolled back
                if self._latest is None or self._latest.position != position:
                    self._latest = self._read(position)
                return self._latest

    def _read(self, position: Position) -> Snapshot:
        old = self._builder.position
        if not position.start <= old.last <= position.last or old.segment > position.segment:  # also after a repair
            saved = self._load(position)
            self._builder = SnapshotBuilder() if saved is None else SnapshotBuilder.restore(*saved)
        try:
            return self._builder.advance(self._database, position)
        except BaseException:
            self._builder, self._latest = SnapshotBuilder(), None  # the builder may be half changed
            raise

    def save(self) -> None:
        """Write the columns to a file, for processes that open the index; then trim the log."""
        position = self.current().position
        known = self._load(position)
        if known is not None and known[1][1:] == position[1:]:
            return
        with self._database.access(), self._lock:
            if self._builder.dead_share > DEAD_SHARE:
                self._builder, self._latest = SnapshotBuilder(), None
                self._builder.advance(self._database, position)
            position, columns = self._builder.position, self._builder.pack()
        listed = save_columns(self._folder, columns, position)
        with self._database.transaction(durable=True):
            self._tables.set_meta(KEY, listed)
            trim_log(self._database, position.last)

    def _load(self, position: Position) -> tuple[Saved, Position] | None:
        """Return the saved columns and their position if the log has all changes since; else None."""
        listed = self._tables.derived(KEY)[0]
        saved = None if not listed else load_columns(self._folder, listed, SAVED)
        if saved is None or not (position.start <= saved[1].last <= position.last):
            return None
        return saved if saved[1].segment <= position.segment and are_valid(*saved) else None

    @property
    def _folder(self) -> Path:
        return self._database.path.parent


class SnapshotBuilder:
    """Builds snapshots from columns that grow with a catalog; returned snapshots never change."""

    def __init__(self) -> None:
        self.position = NOTHING_READ
        self._segments, self._videos, self._files = Columns(SEGMENTS), Columns(VIDEOS), Columns(FILES)
        self._frames = Columns(FRAMES)
        self._fingerprints: list[bytes] = []
        self._rows: dict[bytes, int] = {}
        self._paths: list[bytes] = []
        self._names = PathNames()
        self._num_sorted = 0
        self._tail: dict[bytes, int] = {}  # the rows of the paths that are not sorted
        self._bits, self._num_searchable = np.zeros(0, np.uint8), 0

    @classmethod
    def restore(cls, saved: Saved, position: Position) -> "SnapshotBuilder":
        """Return a builder that continues from valid saved columns."""
        builder = cls()
        builder.position = position
        builder._segments, builder._videos, builder._files, builder._frames = (
            Columns(dtypes, {name: saved[f"{table}.{name}"] for name in dtypes}) for table, dtypes in TABLES.items()
        )
        builder._fingerprints, builder._paths = (split_texts(saved[name], saved[f"{name}.ends"]) for name in TEXTS)
        builder._rows = dict(zip(builder._fingerprints, range(len(builder._fingerprints)), strict=True))
        builder._num_sorted = len(builder._paths)
        builder._bits = saved["bits"]
        builder._num_searchable = int(np.count_nonzero(saved["segments.searchable"]))
        return builder

    def pack(self) -> Saved:
        """Return all columns by the names in ``SAVED``."""
        self._sort_files()
        tables = zip(TABLES, (self._segments, self._videos, self._files, self._frames), strict=True)
        saved = {f"{table}.{name}": column for table, columns in tables for name, column in dict(columns).items()}
        saved["bits"] = self._bits
        for name, texts in zip(TEXTS, (self._fingerprints, self._paths), strict=True):
            saved[name] = np.frombuffer(b"".join(texts), np.uint8)
            saved[f"{name}.ends"] = np.cumsum([len(text) for text in texts], dtype=np.int64)
        return saved

    @property
    def dead_share(self) -> float:
        """The share of the segments that are deleted."""
        return 1 - np.count_nonzero(self._segments["stored"]) / max(len(self._segments), 1)

    def advance(self, database: Database, position: Position) -> Snapshot:
        """Read all changes up to a position, and return the snapshot."""
        is_first = self.position is NOTHING_READ
        changes = Changes([], [], []) if is_first else read_changes(database, self.position)
        was_live = self._videos["num_paths"] > 0
        first_new = len(self._segments)
        segments = read_segment_rows(database, self.position.segment, position)
        self._add_videos(*read_video_rows(database, None if is_first else changes.videos), changes.videos)
        self._add_segments(*segments)
        shortened = self._drop_segments(database, changes.shortened)
        self._add_files(read_file_rows(database, None if is_first else changes.paths), changes.paths)
        self._refresh_searchable(was_live, first_new, is_changed=shortened)
        self.position = position
        return self._take()

    # Videos

    def _add_videos(self, rows: np.ndarray, fingerprints: Sequence[bytes], asked: Sequence[int]) -> None:
        """Update known videos and append new ones; those in ``asked`` without a row are deleted."""
        gone = sorted(set(asked) - set(rows["ids"].tolist()))
        if gone:
            missing = np.zeros(len(gone), VIDEO_ROW)
            missing["ids"] = gone
            rows, fingerprints = np.concatenate([rows, missing]), [*fingerprints, *[b""] * len(gone)]
        order = np.argsort(rows["ids"])
        known_rows = find_rows(self._videos["ids"], rows["ids"][order])
        for name in VIDEO_NAMES[1:]:
            self._videos.update(name, known_rows[known_rows >= 0], rows[name][order][known_rows >= 0])
        fresh = order[known_rows < 0]
        num_fresh = len(fresh)
        zeros = np.zeros(num_fresh, np.int64)
        columns = {name: rows[name][fresh] for name in VIDEO_NAMES}
        columns |= {"num_paths": zeros, "num_segments": zeros, "first_segments": zeros, "last_segments": zeros - 1}
        new = [fingerprints[index] for index in fresh.tolist()]
        self._rows.update(zip(new, range(len(self._fingerprints), len(self._fingerprints) + num_fresh), strict=True))
        self._fingerprints += new
        self._videos.append(columns, num_fresh)

    # Segments

    def _add_segments(self, rows: np.ndarray, times: np.ndarray) -> None:
        """Append segments, except those of unknown videos, which are deleted or have damaged rows."""
        first_frames = len(self._frames) + np.cumsum(rows["num_frames"]) - rows["num_frames"]
        self._frames.append({"times": times}, len(times))
        video_rows = find_rows(self._videos["ids"], rows["videos"])
        kept = video_rows >= 0
        rows, video_rows, first_frames = rows[kept], video_rows[kept], first_frames[kept]
        first, num_new = len(self._segments), len(video_rows)
        columns = {name: rows[name] for name in SEGMENT_NAMES}
        columns |= {"stored": np.ones(num_new, bool), "searchable": np.zeros(num_new, bool)}
        columns |= {"video_rows": video_rows, "first_frames": first_frames}
        self._segments.append(columns, num_new)
        if not num_new:
            return
        counts = np.bincount(video_rows, minlength=len(self._videos))
        videos = np.flatnonzero(counts)
        numbers = np.arange(first, first + num_new)
        firsts, lasts = np.zeros((2, len(self._videos)), np.int64)
        firsts[video_rows[::-1]], lasts[video_rows] = numbers[::-1], numbers
        before = self._videos["last_segments"][videos] >= 0
        self._videos.update("first_segments", videos[~before], firsts[videos[~before]])
        self._videos.update("last_segments", videos, lasts[videos])
        self._videos.update("num_segments", videos, self._videos["num_segments"][videos] + counts[videos])

    def _drop_segments(self, database: Database, video_ids: Sequence[int]) -> bool:
        """Mark deleted segments of some videos; return whether there are any."""
        videos = find_rows(self._videos["ids"], np.array(video_ids, np.int64))
        flags = np.zeros(len(self._videos), bool)
        flags[videos[videos >= 0]] = True
        if not flags.any():
            return False
        segment_rows = np.flatnonzero(flags[self._segments["video_rows"]] & self._segments["stored"])
        sql = f"SELECT id FROM segments WHERE video IN {IN_IDS}"
        kept = np.array([row[0] for row in database.rows(sql, ids_to_json(video_ids))], np.int64)
        gone = segment_rows[~np.isin(self._segments["ids"][segment_rows], kept)]
        self._segments.update("stored", gone, False)
        lost, counts = np.unique(self._segments["video_rows"][gone], return_counts=True)
        self._videos.update("num_segments", lost, self._videos["num_segments"][lost] - counts)
        return len(gone) > 0

    def _refresh_searchable(self, was_live: np.ndarray, first_new: int, *, is_changed: bool) -> None:
        """Set the searchable flags of new segments, or of all if those of old ones have changed."""
        is_live = self._videos["num_paths"] > 0
        flipped = was_live != is_live[: len(was_live)]
        has_segments = self._videos["last_segments"][: len(was_live)] >= 0
        if is_changed or (flipped & has_segments).any():
            first_new = 0
        video_rows, stored = self._segments["video_rows"][first_new:], self._segments["stored"][first_new:]
        searchable = is_live[video_rows] & stored
        self._segments.set_last("searchable", searchable, is_new=first_new > 0)
        num_searchable = int(np.count_nonzero(searchable))
        if first_new:
            self._bits = add_ids(self._bits, self._segments["ids"][first_new:][searchable])
            num_searchable += self._num_searchable
        else:
            self._bits = make_bitmap(self._segments["ids"], searchable)
        self._num_searchable = num_searchable

    # Files

    def _add_files(self, rows: Sequence[tuple[bytes, int, int, int]], asked: Sequence[bytes]) -> None:
        """Append rows of files, replacing their old ones; files in ``asked`` without a row are deleted."""
        paths = dict.fromkeys([*(row[0] for row in rows), *asked]) if self._paths else {}
        file_rows = map(self._find_file, paths)
        old = np.array([row for row in file_rows if row is not None], np.int64)
        self._count_paths(old, -1)
        self._files.update("current", old, False)
        first, num_new = len(self._files), len(rows)
        names, states, videos, times = zip(*rows, strict=True) if rows else ((), (), (), ())
        columns = {
            "video_rows": find_rows(self._videos["ids"], np.array(videos, np.int64)),
            "mtimes_ns": np.array(times, np.int64),
            "states": np.array(states, np.uint8),
            "current": np.ones(num_new, bool),
        }
        self._files.append(columns, num_new)
        self._paths += names
        self._tail.update(zip(names, range(first, first + num_new), strict=True))
        self._count_paths(np.arange(first, first + num_new), 1)
        if len(self._paths) - self._num_sorted > max(MIN_TAIL, TAIL_SHARE * self._num_sorted) or not first:
            self._sort_files()

    def _find_file(self, path: bytes) -> int | None:
        """Return the current row of a path."""
        if (row := self._tail.get(path)) is None:
            row = bisect_left(self._paths, path, hi=self._num_sorted)
            if row == self._num_sorted or self._paths[row] != path:
                return None
        return row if self._files["current"][row] else None

    def _count_paths(self, rows: Ids, sign: int) -> None:
        """Add ``sign`` to the number of paths of a video for each of its live files among some rows."""
        videos = self._files["video_rows"][rows]
        videos = videos[LIVE_STATES[self._files["states"][rows]] & (videos >= 0)]
        if len(videos):
            counts = np.bincount(videos, minlength=len(self._videos)).astype(np.int32)
            changed = np.flatnonzero(counts)
            self._videos.update("num_paths", changed, self._videos["num_paths"][changed] + sign * counts[changed])

    def _sort_files(self) -> None:
        """Put all current files in the order of their paths."""
        rows = sorted(np.flatnonzero(self._files["current"]).tolist(), key=self._paths.__getitem__)
        kept = {name: self._files[name][rows] for name in FILES}
        self._files = Columns(FILES)
        self._files.append(kept, len(rows))
        self._paths, self._names = [self._paths[row] for row in rows], PathNames()
        self._num_sorted, self._tail = len(rows), {}

    def _take(self) -> Snapshot:
        segments, videos, files = (dict(columns) for columns in (self._segments, self._videos, self._files))
        is_live = videos["num_paths"] > 0
        return Snapshot(
            position=self.position,
            segments=SegmentColumns(**segments),
            videos=VideoColumns(**videos, fingerprints=self._fingerprints, rows=self._rows),
            files=FileColumns(**files, paths=self._paths, names=self._names, num_sorted=self._num_sorted),
            frame_times=self._frames["times"],
            everything=Selection(
                bits=self._bits,
                num_segments=self._num_searchable,
                videos=is_live,
                num_videos=int(np.count_nonzero(is_live & (videos["num_segments"] > 0))),
                narrow=False,
            ),
        )


def are_valid(saved: Saved, position: Position) -> bool:
    """Return whether saved columns are consistent; those of a foreign index may have any values."""
    lengths = {table: {len(saved[f"{table}.{name}"]) for name in dtypes} for table, dtypes in TABLES.items()}
    lengths["videos"].add(len(saved["fingerprints.ends"]))
    lengths["files"].add(len(saved["paths.ends"]))
    ids, num_videos = saved["segments.ids"], len(saved["videos.ids"])
    owners = saved["segments.video_rows"], saved["files.video_rows"]
    frames = saved["segments.first_frames"], saved["segments.num_frames"]
    if not any(column.strides[0] for column in frames):  # of texts: all rows are the same zero
        frames = frames[0][:1], frames[1][:1]
    firsts, counts = frames
    return (
        all(len(sizes) == 1 for sizes in lengths.values())
        and are_ids(ids)
        and (not len(ids) or ids[-1] <= position.segment)
        and bool((saved["videos.ids"][1:] > saved["videos.ids"][:-1]).all())
        and all(not len(rows) or -1 <= rows.min() <= rows.max() < num_videos for rows in owners)
        and (not len(ids) or owners[0].min() >= 0)
        and (not len(ids) or min(firsts.min(), counts.min()) >= 0)
        and (not len(ids) or (firsts + counts).max() <= len(saved["frames.times"]))
        and bool((saved["files.states"] <= len(FILE_STATES)).all())
        and len(saved["bits"]) <= (ids[-1] // 8 + 1 if len(ids) else 0)
    )


def split_texts(data: np.ndarray, ends: np.ndarray) -> list[bytes]:
    """Return the texts in concatenated bytes, given the end of each."""
    buffer, stops = data.tobytes(), ends.tolist()
    return [buffer[start:end] for start, end in zip([0, *stops], stops, strict=False)]


def read_segment_rows(
    database: Database, after: int, position: Position
) -> tuple[np.ndarray, Float64[np.ndarray, " frame"]]:
    """Return the rows of the segments after an id, up to a position, and the frame times of the intact ones."""
    times = bytearray()

    def pick(row: tuple[Any, ...]) -> tuple[Any, ...]:
        if not SEGMENT_ROW.is_intact(row) or len(row[14]) != 8 * row[5] or row[4] < 0:
            return tuple(database.rows(f"SELECT {DAMAGED_SEGMENT} FROM segments WHERE id = ?", row[0])[0])
        times.extend(row[14])
        return row[:14]

    def read(cursor: Iterable[tuple[Any, ...]]) -> np.ndarray:
        times.clear()  # the query may run again
        return np.fromiter(map(pick, cursor), SEGMENT_VALUES)

    sql = f"SELECT {SEGMENT_ROW.columns} FROM segments WHERE id > ? AND id <= ? ORDER BY id"
    rows = database.read(read, sql, after, position.segment)
    return rows, np.frombuffer(times, np.float64)


def read_video_rows(database: Database, ids: Sequence[int] | None) -> tuple[np.ndarray, list[bytes]]:
    """Return the rows and fingerprints of all videos, or of the existing ones among ``ids``."""
    if ids is not None and not ids:
        return np.zeros(0, VIDEO_ROW), []
    where, values = ("", ()) if ids is None else (f" WHERE id IN {IN_IDS}", (ids_to_json(ids),))
    records = database.rows(f"SELECT {VIDEO_VALUES}, {FACT_VALUES}, {FINGERPRINT} FROM videos{where}", *values)
    rows, columns, num_values = (
        np.zeros(len(records), VIDEO_ROW),
        list(zip(*records, strict=True)),
        len(VIDEO_NAMES) - 1,
    )
    for name, column in zip(VIDEO_NAMES[:num_values], columns, strict=False):
        rows[name] = column
    rows["facts"] = stack_facts([row[num_values:-1] for row in records])
    return rows, list(columns[-1]) if records else []


def read_file_rows(database: Database, paths: Sequence[bytes] | None) -> list[tuple[bytes, int, int, int]]:
    """Return path, state, video and modification time of all files by path, or of the existing ones among ``paths``."""
    sql = f"SELECT {FILE_VALUES} FROM files"
    if paths is None:
        return database.rows(f"{sql} ORDER BY path", UNKNOWN_NS)
    return [row for path in paths for row in database.rows(f"{sql} WHERE path = ?2", UNKNOWN_NS, path)]
