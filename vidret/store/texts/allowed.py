"""Which texts a query may find: those of the videos and sources that it allows, as far as they can be searched."""

import threading
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from vidret.store.snapshots.snapshot import Selection, Snapshot, Videos
from vidret.types import TEXT_SOURCES, Filters, TextSource

MAX_REMEMBERED = 16
Tracks = Bool[np.ndarray, " track"]


@dataclass(frozen=True, slots=True, eq=False)
class AllowedTexts:
    """The texts of some tracks: as segments for vectors and, by the ids of tracks, for the full-text index.

    ``flags`` has a byte a track, 1 for an allowed one; it is None where all texts of the index are allowed.
    """

    selection: Selection
    flags: bytes | None


class TrackOwners:
    """The video and the source of each track; both stores have these in their snapshots, by content."""

    def __init__(self) -> None:
        """Start with no tracks."""
        self._lock = threading.Lock()
        self._video_rows: Int64[np.ndarray, " track"] = np.zeros(0, np.int64)
        self._sources: UInt8[np.ndarray, " track"] = np.zeros(0, np.uint8)
        self._allowed: dict[object, AllowedTexts] = {}

    def allow(
        self,
        texts: Snapshot,
        pictures: Snapshot,
        filters: Filters,
        excluded: Set[int],
        sources: tuple[TextSource, ...],
    ) -> AllowedTexts:
        """Return the texts of the videos that match filters, without those of some videos, in some sources."""
        key = texts.position, pictures.position, filters, frozenset(excluded), sources
        with self._lock:
            if key not in self._allowed:
                while len(self._allowed) >= MAX_REMEMBERED:
                    del self._allowed[next(iter(self._allowed))]
                videos = pictures.allow_videos(filters, excluded)
                self._allowed[key] = _select(texts, self._find_allowed(texts, pictures, videos, sources))
            return self._allowed[key]

    def _find_allowed(
        self, texts: Snapshot, pictures: Snapshot, videos: Videos, sources: tuple[TextSource, ...]
    ) -> Tracks:
        """Return which tracks are of allowed videos and sources, by row."""
        self._update(texts, pictures)
        num_tracks = len(texts.videos.ids)
        rows, codes = self._video_rows[:num_tracks], self._sources[:num_tracks]
        known = (rows >= 0) & (rows < len(videos))
        allowed = np.zeros(num_tracks, bool)
        allowed[known] = videos[rows[known]]
        return allowed & np.isin(codes, [TEXT_SOURCES.index(source) for source in sources])

    def _update(self, texts: Snapshot, pictures: Snapshot) -> None:
        """Add new tracks, and look for the videos of those that have none, or one that was deleted."""
        num_known, num_tracks = len(self._video_rows), len(texts.videos.ids)
        lost = self._video_rows < 0
        kept = np.flatnonzero(~lost & (self._video_rows < len(pictures.videos.ids)))
        lost[kept] = ~pictures.videos.stored[self._video_rows[kept]]
        new = range(num_known, num_tracks)
        self._video_rows = np.append(self._video_rows, np.full(len(new), -1))
        self._sources = np.append(self._sources, np.full(len(new), len(TEXT_SOURCES), np.uint8))
        codes = {source.encode(): code for code, source in enumerate(TEXT_SOURCES)}
        for row in [*np.flatnonzero(lost).tolist(), *new]:
            content, _, rest = texts.videos.fingerprints[row].partition(b" ")
            self._video_rows[row] = pictures.videos.rows.get(content, -1)
            self._sources[row] = codes.get(rest.partition(b" ")[0], len(TEXT_SOURCES))


def _select(texts: Snapshot, allowed: Tracks) -> AllowedTexts:
    tracks = texts.videos
    allowed = allowed & (tracks.num_paths > 0)
    if allowed[tracks.num_segments > 0].all():
        return AllowedTexts(texts.everything, None)
    flags = np.zeros(int(tracks.ids[-1]) + 1, np.uint8)
    flags[tracks.ids[allowed]] = 1
    return AllowedTexts(texts.select_videos(allowed), flags.tobytes())
