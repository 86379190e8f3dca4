"""The feature files of the catalog's current epoch, reopened after compactions."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float16, Float64

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.catalog.database import REPAIR
from vidret.store.features import Features, Rows
from vidret.store.records import SegmentLocation, StoredRow, StoredSegments
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import find_rows

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Epochs:
    """The feature files of the epoch in the catalog, kept open until the epoch changes."""

    def __init__(self, folder: Path, dim: int, catalog: Catalog, *, write: bool) -> None:
        """Open the current files; a writer also removes leftovers of an interrupted one."""
        self._folder, self._dim, self._catalog, self._lock = folder, dim, catalog, threading.Lock()
        self._fingerprint = catalog.tables.fact("encoder_fingerprint")
        self._warned: set[tuple[int, str]] = set()
        self._features: Features | None = None
        if write:
            folder.mkdir(exist_ok=True)
            self._features = Features(folder, dim, catalog.tables.meta("epoch"), write=True)
            self._features.resume(catalog.tables.tail())
            self._features.remove_others()
        else:
            self._read_epoch(lambda: (catalog.tables.meta("epoch"), None))

    def current(self) -> Features:
        """Return the files of the current epoch."""
        return self._open_epoch(self._catalog.tables.meta("epoch"))

    def locate(self, ids: Sequence[int] | Ids | None = None) -> tuple[Features, dict[int, SegmentLocation]]:
        """Return feature files and the locations of segments in them by id; by default all segments, in id order."""
        return self._read_epoch(lambda: self._catalog.segments.locations(ids))

    def intact_vectors(self, ids: Ids) -> tuple[Ids, Rows]:
        """Read the vectors of segments that exist and are intact; return their ids, ascending, and the vectors.

        A damaged vector is skipped with one warning, so that it does not break every search.
        """
        ids, segments = np.unique(ids), self._catalog.snapshots.current().segments
        places = find_rows(segments.ids, ids)
        if (places >= 0).all() and segments.stored[places].all():
            features, places = self._read_epoch(lambda: (self._catalog.tables.meta("epoch"), places))
            vectors, intact = features.read_videos(segments.rows[places], segments.row_sums[places])
            if intact.all():
                return ids, vectors
        # Some are damaged or deleted, or have just been written or moved by a compaction.
        features, locations = self.locate(ids)
        rows = np.array(
            [(key, location.row, location.row_sum) for key, location in locations.items()], np.int64
        ).reshape(-1, 3)
        vectors, intact = features.read_videos(rows[:, 1], rows[:, 2])
        for key, row in rows[~intact, :2].tolist():
            self._warn_skipped(key, "cannot be searched", f"{features.video.path}: row {row} is damaged")
        return (rows[:, 0], vectors) if intact.all() else (rows[intact, 0], vectors[intact])

    def read(self, ids: Sequence[int] | Ids, *, tokens: bool = True) -> StoredSegments:
        """Read the segments that exist and are intact, in the order of ``ids``.

        Other processes may have deleted segments since a search. A damaged segment is skipped with one warning.
        """
        ids = np.asarray(ids, np.int64)
        if (stored := self._read_known(ids, tokens=tokens)) is not None:
            return stored
        features, rows = self._read_epoch(lambda: self._catalog.segments.read(ids))
        kept: list[tuple[int, StoredRow, Rows, bytes | memoryview]] = []
        for key in ids.tolist():
            if key not in rows:
                continue
            try:
                if (row := rows[key]) is None:
                    raise StoreError(f"its row in {self._catalog.path} is damaged")
                packed = features.read_tokens(row.location) if tokens else b""
                kept.append((key, row, features.read_frames(row.location), packed))
            except StoreError as error:
                self._warn_skipped(key, "is skipped", str(error))
        return StoredSegments(
            ids=np.array([key for key, *_ in kept], np.int64),
            segments=[row.segment for _, row, *_ in kept],
            frames=[frames for *_, frames, _ in kept],
            times=[row.times for _, row, *_ in kept],
            tokens=[packed for *_, packed in kept],
        )

    def _read_known(self, ids: Ids, *, tokens: bool) -> StoredSegments | None:
        """Read segments where the snapshot locates them; None if one is damaged, deleted or moved by a compaction."""
        snapshot = self._catalog.snapshots.current()
        segments = snapshot.read_segments(ids)
        if len(segments) < len(ids):
            return None
        rows, columns = snapshot.find_segments(ids), snapshot.segments
        features, _ = self._read_epoch(lambda: (self._catalog.tables.meta("epoch"), None))
        num_frames, first_times = columns.num_frames[rows], columns.first_frames[rows]
        try:
            frames = features.frames.read_all(columns.frame_rows[rows], num_frames, columns.frame_sums[rows])
            packed: list[bytes | memoryview] = [b""] * len(ids)
            if tokens:
                token_places = (column[rows] for column in (columns.token_bytes, columns.num_bytes, columns.token_sums))
                packed = [part.reshape(-1).data for part in features.tokens.read_all(*token_places)]
        except StoreError:
            return None
        times = zip(first_times.tolist(), (first_times + num_frames).tolist(), strict=True)
        return StoredSegments(
            ids=ids,
            segments=list(segments.values()),
            frames=frames,
            times=[snapshot.frame_times[start:end] for start, end in times],
            tokens=packed,
        )

    def read_frames(
        self, ids: Sequence[int] | Ids
    ) -> list[tuple[Float16[np.ndarray, "_frame dim"], Float64[np.ndarray, " _frame"]]]:
        """Read the frame vectors and frame times in seconds of segments, in the order of ``ids``.

        Raises:
            StoreError: A segment does not exist, or is damaged.
        """
        return self._read_all(ids, lambda features, row: (features.read_frames(row.location), row.times))

    def read_tokens(self, ids: Sequence[int] | Ids) -> list[memoryview]:
        """Read the packed tokens of segments, in the order of ``ids``; empty for one without, errors as above."""
        return self._read_all(ids, lambda features, row: features.read_tokens(row.location))

    def read_vectors(self, ids: Sequence[int] | Ids) -> Float16[np.ndarray, "segment dim"]:
        """Read the vectors of segments, in the order of ``ids``; errors as above."""
        rows = self._read_all(ids, lambda features, row: features.read_video(row.location))
        return np.concatenate([np.empty((0, self._dim), np.float16), *rows])

    def _read_all(self, ids: Sequence[int] | Ids, read: Callable[[Features, StoredRow], T]) -> list[T]:
        features, rows = self._read_epoch(lambda: self._catalog.segments.read_all(ids))
        return [read(features, row) for row in rows]

    def _warn_skipped(self, key: int, what: str, reason: str) -> None:
        if (key, what) not in self._warned:
            self._warned.add((key, what))
            logger.warning("segment %d %s: %s; %s", key, what, reason.removesuffix(f"; {REPAIR}"), REPAIR)

    def replace(self, fresh: Features) -> None:
        """Switch to the files of a compaction; arrays of the old ones stay readable."""
        with self._lock:
            self._features = fresh

    def close(self) -> None:
        """Close the files."""
        if self._features is not None:
            self._features.close()

    def _read_epoch(self, read: Callable[[], tuple[int, T]]) -> tuple[Features, T]:
        """Call ``read``, which returns an epoch and a value; return the files of that epoch and the value."""
        for _ in range(2):
            epoch, value = read()
            try:
                return self._open_epoch(epoch), value
            except FileNotFoundError:  # a compaction has just deleted them: read the catalog again
                self._catalog.tables.forget_held()
        raise StoreError(f"{self._folder}: the feature files of epoch {epoch} are missing")

    def _open_epoch(self, epoch: int) -> Features:
        with self._lock:
            if self._features is None or self._features.epoch != epoch:
                self._catalog.tables.check_fingerprint(self._fingerprint)
                self._features = Features(self._folder, self._dim, epoch)
            return self._features
