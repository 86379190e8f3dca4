"""The feature files that the catalog points into, followed across compactions."""

import logging
import os
import threading
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from vidret.errors import StoreError
from vidret.store.catalog import Catalog
from vidret.store.database import REPAIR
from vidret.store.features import Features, Rows
from vidret.store.records import Place, StoredRow, StoredSegments

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Sized)
Ids = Int64[np.ndarray, " _id"]
NO_FILES = (Path(os.devnull),) * 3


class Epochs:
    """Opens the files of the epoch that the catalog names, and keeps them open until it names another."""

    def __init__(self, folder: Path, dim: int, catalog: Catalog, *, write: bool) -> None:
        """Open the current files; a writer also clears away what an interrupted one left."""
        self._folder = folder
        self._dim = dim
        self._catalog = catalog
        self._lock = threading.Lock()
        self._left_out: set[tuple[int, str]] = set()
        self._features: Features | None = None
        if write:
            folder.mkdir(exist_ok=True)
            self._features = Features(folder, dim, catalog.meta("epoch"), write=True)
            self._features.resume(*catalog.tail())
            self._features.remove_others()
        else:
            self._features = self._open()

    def current(self) -> Features:
        """Give the files the catalog points into now."""
        return self._at(self._catalog.meta("epoch"))

    def locate(self, ids: Sequence[int] | Int64[np.ndarray, " id"] | None = None) -> tuple[Features, dict[int, Place]]:
        """Give segments' places (all by default, in id order), and the files these are places in."""
        return self._follow(lambda: self._catalog.segments.places(ids))

    def vectors(self, ids: Ids) -> tuple[Ids, Rows]:
        """Read segments' own vectors, in id order: of those that the catalog knows and whose bytes are whole.

        A damaged one is left out, which is said once, since one bad row must not end all searching.
        """
        features, table = self._follow(lambda: self._catalog.segments.video_rows(ids))
        rows, whole = features.read_videos(table[:, 1], table[:, 2])
        for key, row in table[~whole, :2].tolist():
            self._leave_out(key, "cannot be searched", f"{features.video.path}: row {row} is damaged")
        return (table[:, 0], rows) if whole.all() else (table[whole, 0], rows[whole])

    def read(self, ids: Ids, *, tokens: bool) -> StoredSegments:
        """Read what is stored of segments, in the order asked: of those that the catalog still knows and are whole.

        A damaged one is left out, which is said once.
        """
        features, rows = self._follow(lambda: self._catalog.segments.read(ids))
        kept: list[tuple[int, StoredRow, Rows, bytes | memoryview]] = []
        for key in np.asarray(ids).tolist():
            if key not in rows:
                continue
            try:
                if (row := rows[key]) is None:
                    raise StoreError(f"its row in {self._catalog.path} is damaged")
                packed = features.read_tokens(row.place) if tokens else b""
                kept.append((key, row, features.read_frames(row.place), packed))
            except StoreError as error:
                self._leave_out(key, "is left out", str(error))
        return StoredSegments(
            np.array([key for key, *_ in kept], np.int64),
            [row.segment for _, row, *_ in kept],
            [frames for *_, frames, _ in kept],
            [row.times for _, row, *_ in kept],
            [packed for *_, packed in kept],
        )

    def _leave_out(self, key: int, what: str, reason: str) -> None:
        if (key, what) not in self._left_out:
            self._left_out.add((key, what))
            logger.warning("segment %d %s: %s; %s", key, what, reason.removesuffix(f"; {REPAIR}"), REPAIR)

    def replace(self, fresh: Features) -> None:
        """Go on with the files a compaction wrote; who still reads the old ones keeps them mapped."""
        with self._lock:
            self._features = fresh

    def close(self) -> None:
        """Give the files back."""
        if self._features is not None:
            self._features.close()

    def _follow(self, ask: Callable[[], tuple[int, T]]) -> tuple[Features, T]:
        """Ask the catalog for something of its epoch, and give that with the epoch's files."""
        for _ in range(2):
            epoch, found = ask()
            try:
                return self._at(epoch), found
            except FileNotFoundError:  # a compaction ended this very moment and deleted them: ask the catalog again
                continue
        if not len(found):  # nothing was stored yet: the writer may have been killed before it made the files
            return Features(self._folder, self._dim, epoch, paths=NO_FILES), found
        raise StoreError(f"{self._folder}: the feature files of epoch {epoch} are missing")

    def _at(self, epoch: int) -> Features:
        with self._lock:
            if self._features is None or self._features.epoch != epoch:
                self._features = Features(self._folder, self._dim, epoch)
            return self._features

    def _open(self) -> Features | None:
        """Open the files of now; None where a writer was killed before it made them, so that nothing is stored."""
        try:
            return Features(self._folder, self._dim, self._catalog.meta("epoch"))
        except FileNotFoundError:
            if self._catalog.tail() == (0, 0, 0):
                return None
            return Features(self._folder, self._dim, self._catalog.meta("epoch"))  # a compaction may have just ended
