"""The video and the source of each track of texts, and the tracks that a query may return."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Selection, Snapshot, find_rows, remember
from vidret.types import TEXT_SOURCES, Source

MAX_REMEMBERED = 16


class TrackOwners:
    """The video and the source of each track, by content, from the snapshots of the texts and of the index."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._video_rows: Int64[np.ndarray, " track"] = np.zeros(0, np.int64)
        self._sources: UInt8[np.ndarray, " track"] = np.zeros(0, np.uint8)
        self._selections: dict[object, Selection] = {}
        self._readings: tuple[Mapping[bytes, int], Mapping[bytes, int]] = {}, {}  # from the snapshots of these rows

    def select(self, texts: Snapshot, pictures: Snapshot, within: Selection, sources: tuple[Source, ...]) -> Selection:
        """Return the tracks of some sources in the videos of a selection, and their searchable texts."""

        def find() -> Selection:
            self._update(texts, pictures)
            allowed, rows = self._find_shown(texts, sources)
            allowed &= (rows >= 0) & (rows < len(within.videos))
            allowed[allowed] = within.videos[rows[allowed]]
            has_texts = texts.videos.num_segments > 0
            return texts.everything if allowed[has_texts].all() else texts.select_videos(allowed)

        with self._lock:
            return remember(self._selections, (texts.position, within, sources), find, MAX_REMEMBERED)

    def find_tracks(
        self, texts: Snapshot, pictures: Snapshot, video_ids: Sequence[int], sources: Sequence[Source]
    ) -> Ids:
        """Return the tracks of some sources in some videos."""
        video_rows = pictures.find_videos(video_ids)
        with self._lock:
            self._update(texts, pictures)
            shown, rows = self._find_shown(texts, sources)
        tracks: Ids = texts.videos.ids[shown & np.isin(rows, video_rows[video_rows >= 0])]
        return tracks

    def _find_shown(
        self, texts: Snapshot, sources: Sequence[Source]
    ) -> tuple[Bool[np.ndarray, " track"], Int64[np.ndarray, " track"]]:
        """Return a mask of the tracks of some sources that can be searched, and the row of each track's video."""
        num_tracks = len(texts.videos.ids)
        codes = [code for code, source in enumerate(TEXT_SOURCES) if source in sources]
        return np.isin(self._sources[:num_tracks], codes) & (texts.videos.num_paths > 0), self._video_rows[:num_tracks]

    def find_owners(self, texts: Snapshot, pictures: Snapshot, tracks: Ids) -> tuple[Ids, UInt8[np.ndarray, " text"]]:
        """Return the id of each track's video, -1 if it has no searchable one, and its source, by ``TEXT_SOURCES``."""
        with self._lock:
            self._update(texts, pictures)
            video_rows, sources = self._video_rows, self._sources
        rows, videos = find_rows(texts.videos.ids, tracks), pictures.videos
        if not len(video_rows):
            return rows, np.zeros(len(rows), np.uint8)
        picture_rows = np.where(rows >= 0, video_rows[rows], -1)
        codes = sources[rows].clip(max=len(TEXT_SOURCES) - 1)
        is_known = (picture_rows >= 0) & (picture_rows < len(videos.ids)) & (sources[rows] == codes)
        is_known[is_known] = videos.num_paths[picture_rows[is_known]] > 0
        video_ids = np.full(len(rows), -1, np.int64)
        video_ids[is_known] = videos.ids[picture_rows[is_known]]
        return video_ids, codes

    def _update(self, texts: Snapshot, pictures: Snapshot) -> None:
        """Add new tracks, and look up the videos of tracks that have none, or a deleted one."""
        readings = texts.videos.rows, pictures.videos.rows
        if any(new is not old for new, old in zip(readings, self._readings, strict=True)):  # rows have other numbers
            self._readings = readings
            self._video_rows, self._sources = np.zeros(0, np.int64), np.zeros(0, np.uint8)
        num_known = len(self._video_rows)
        num_new = max(len(texts.videos.ids) - num_known, 0)
        lost = self._video_rows < 0
        kept = np.flatnonzero(~lost & (self._video_rows < len(pictures.videos.ids)))
        lost[kept] = ~pictures.videos.stored[self._video_rows[kept]]
        rows = np.concatenate([np.flatnonzero(lost), np.arange(num_known, num_known + num_new)])
        self._video_rows = np.append(self._video_rows, np.full(num_new, -1))
        self._sources = np.append(self._sources, np.full(num_new, len(TEXT_SOURCES), np.uint8))
        codes = {source.encode(): code for code, source in enumerate(TEXT_SOURCES)}
        keys = [[*texts.videos.fingerprints[row].split(b" ", 2), b""] for row in rows.tolist()]
        self._video_rows[rows] = [pictures.videos.rows.get(key[0], -1) for key in keys]
        self._sources[rows] = [codes.get(key[1], len(TEXT_SOURCES)) for key in keys]
