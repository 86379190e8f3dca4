"""The texts that a query may return: searchable ones of the allowed videos and sources."""

import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Selection, Snapshot, Videos, find_rows, remember
from vidret.types import TEXT_SOURCES, Filters, TextSource

MAX_REMEMBERED = 16
Tracks = Bool[np.ndarray, " track"]


@dataclass(frozen=True, slots=True, eq=False)
class AllowedTexts:
    """The texts of some tracks: as segments for vectors and, by the ids of tracks, for the full-text index.

    ``flags`` has a byte per track, 1 for an allowed one; it is None if all texts of the index are allowed.
    """

    selection: Selection
    flags: bytes | None


class TrackOwners:
    """The video and the source of each track, by content, from the snapshots of the texts and of the index."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._video_rows: Int64[np.ndarray, " track"] = np.zeros(0, np.int64)
        self._sources: UInt8[np.ndarray, " track"] = np.zeros(0, np.uint8)
        self._allowed: dict[object, AllowedTexts] = {}
        self._readings: tuple[Mapping[bytes, int], Mapping[bytes, int]] = {}, {}  # from the snapshots of these rows

    def allow(
        self, texts: Snapshot, pictures: Snapshot, filters: Filters, excluded: Set[int], sources: tuple[TextSource, ...]
    ) -> AllowedTexts:
        """Return the texts of some sources, in the videos that match filters and are not excluded."""
        key = texts.position, pictures.position, filters, frozenset(excluded), sources

        def find() -> AllowedTexts:
            videos = pictures.allow_videos(filters, excluded)
            return _select(texts, self._find_allowed(texts, pictures, videos, sources))

        with self._lock:
            return remember(self._allowed, key, find, MAX_REMEMBERED)

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

    def _find_allowed(
        self, texts: Snapshot, pictures: Snapshot, videos: Videos, sources: tuple[TextSource, ...]
    ) -> Tracks:
        """Return a mask by row of the tracks of allowed videos and sources."""
        self._update(texts, pictures)
        num_tracks = len(texts.videos.ids)
        rows, codes = self._video_rows[:num_tracks], self._sources[:num_tracks]
        is_known = (rows >= 0) & (rows < len(videos))
        allowed = np.zeros(num_tracks, bool)
        allowed[is_known] = videos[rows[is_known]]
        return allowed & np.isin(codes, [TEXT_SOURCES.index(source) for source in sources])

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


def _select(texts: Snapshot, allowed: Tracks) -> AllowedTexts:
    tracks = texts.videos
    allowed = allowed & (tracks.num_paths > 0)
    if allowed[tracks.num_segments > 0].all():
        return AllowedTexts(texts.everything, None)
    flags = np.zeros(int(tracks.ids[-1]) + 1, np.uint8)
    flags[tracks.ids[allowed]] = 1
    return AllowedTexts(texts.select_videos(allowed), flags.tobytes())
