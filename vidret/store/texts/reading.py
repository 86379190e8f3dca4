"""Reading of the timed texts of an index, and which of them a query may find."""

import threading
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from vidret.errors import StoreError
from vidret.store.records import FILE_STATES, FileRecord, FileState
from vidret.store.snapshots.snapshot import Selection, Snapshot, Videos, find_rows
from vidret.store.store import Store
from vidret.store.texts.records import MAX_TEXTS, StoredText, TextCounts, TextTrack, make_key, track_exists, unpack_text
from vidret.types import ALL_VIDEOS, SOURCES, TEXT_SOURCES, Filters, Source, TextSource

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


DAMAGED: FileState = "pending"  # a repair of the store leaves a track so: it is read again from the start

MISSING = FILE_STATES.index("missing")  # of a track that was replaced or removed
Ids = Int64[np.ndarray, " _id"]


class TextReader:
    """The tracks and texts of a store that holds texts."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fingerprints: dict[int, str] = {}  # of tracks; they never change
        self._owners = TrackOwners()

    def allow(
        self,
        pictures: Snapshot,
        filters: Filters = ALL_VIDEOS,
        excluded: Set[int] = frozenset(),
        sources: Sequence[Source] = SOURCES,
    ) -> AllowedTexts:
        """Return the texts that a query may find: of the videos that match, without some of them, in some sources."""
        own = tuple(source for source in TEXT_SOURCES if source in sources)
        return self._owners.allow(self._store.snapshot(), pictures, filters, excluded, own)

    def find_contents(self, tracks: Sequence[int] | Ids) -> set[str]:
        """Return the fingerprints of the contents of tracks that can be searched."""
        videos = self._store.snapshot().videos
        rows = find_rows(videos.ids, np.asarray(tracks, np.int64))
        rows = rows[rows >= 0]
        found = (videos.fingerprints[row] for row in rows[videos.num_paths[rows] > 0].tolist())
        return {key.partition(b" ")[0].decode("utf-8", "replace") for key in found}

    # Tracks

    def tracks(self, fingerprint: str | None = None) -> list[TextTrack]:
        """Return all tracks, or those of one content, by id."""
        records = self._store.files.find(prefix="" if fingerprint is None else f"{fingerprint} ")
        tracks = [self._as_track(record) for record in records if track_exists(record)]
        return sorted(tracks, key=lambda track: track.id)

    def find(self, fingerprint: str, source: TextSource, model: str) -> TextTrack | None:
        """Return one track, None if it does not exist."""
        record = self._store.files.get(make_key(fingerprint, source, model))
        return self._as_track(record) if record is not None and track_exists(record) else None

    def complete_tracks(self) -> dict[str, str]:
        """Return the notes of all tracks that need not be read again, by ``make_key``; faster than ``tracks``."""
        notes = {video.id: video.salvaged for video in self._store.videos.find() if video.complete}
        return {
            record.path: notes[record.video] for record in self._store.files.find(state="done") if record.video in notes
        }

    def _as_track(self, record: FileRecord) -> TextTrack:
        assert record.video is not None
        video = self._store.videos.get(record.video)
        facts: Any = video.facts
        return TextTrack(
            id=video.id,
            fingerprint=facts["fingerprint"],
            source=facts["source"],
            model=facts["model"],
            complete=video.complete,
            until_s=0.0 if record.state == DAMAGED else (record.num_bytes or 0) / 1000,
            num_texts=video.num_segments if video.complete else len(self._store.segments.stored_indices(video.id)),
            note=video.salvaged,
        )

    # Texts

    def transcript(self, track: TextTrack) -> list[StoredText]:
        """Return the texts of a track, by time."""
        texts = self.read_segments(self._store.segments.ids_of_video(track.id))
        return sorted(texts, key=lambda each: (each.text.start, each.text.end))

    def stored_ids(self) -> tuple[Ids, Ids]:
        """Return the ids that all stored texts have in the full-text index, and the segment of each."""
        snapshot = self._store.snapshot()
        segments = snapshot.segments
        kept = segments.stored & self._find_tracks(snapshot)[segments.video_rows]
        tracks = snapshot.videos.ids[segments.video_rows[kept]]
        return tracks * MAX_TEXTS + segments.numbers[kept], segments.ids[kept]

    def _find_tracks(self, snapshot: Snapshot) -> Bool[np.ndarray, " track"]:
        """Return which videos of the store are tracks, by row: those that were not replaced or removed."""
        files = snapshot.files
        owners = files.video_rows[files.current & (files.states != MISSING)]
        exists = np.zeros(len(snapshot.videos.ids), bool)
        exists[owners[owners >= 0]] = True
        return exists

    def count(self) -> list[TextCounts]:
        """Return the counts of each source that has a track."""
        snapshot = self._store.snapshot()
        videos, exists = snapshot.videos, self._find_tracks(snapshot)
        keys = (videos.fingerprints[row] for row in np.flatnonzero(exists).tolist())
        sources = np.array([key.partition(b" ")[2].partition(b" ")[0].decode("utf-8", "replace") for key in keys])
        texts, complete = videos.num_segments[exists], videos.complete[exists]
        return [
            TextCounts(source, int(texts[own].sum()), int(own.sum()), int(complete[own].sum()))
            for source in TEXT_SOURCES
            if (own := sources == source).any()
        ]

    def search(
        self, vectors: Float32[np.ndarray, "query dim"], k: int, allowed: AllowedTexts | None = None
    ) -> list[Ids]:
        """Return the segments of the ``k`` texts nearest to each vector, among all or those allowed, best first."""
        within = self._store.snapshot().everything if allowed is None else allowed.selection
        if not within.num_segments or not len(vectors):
            return [np.zeros(0, np.int64) for _ in vectors]
        found = self._store.search_within(vectors, min(k, within.num_segments), within)[1]
        return [row[row >= 0] for row in found]

    def find_segments(self, text_ids: Sequence[int] | Ids) -> Ids:
        """Return the segments of texts that the full-text index found, in the same order.

        Lost ones are left out, and those of tracks that are still hidden.
        """
        videos = self._store.snapshot().videos
        ids = np.asarray(text_ids, np.int64)
        rows = find_rows(videos.ids, ids // MAX_TEXTS)
        is_shown = (rows >= 0) & (videos.num_paths[rows] > 0) if len(videos.ids) else np.zeros(len(ids), bool)
        return self._store.segments.find_many([divmod(each, MAX_TEXTS) for each in ids[is_shown].tolist()])

    def read_segments(self, ids: Sequence[int] | Ids) -> list[StoredText]:
        """Return texts by the ids of their segments, in the order given, without those that are gone or damaged."""
        if not len(ids):
            return []  # reading the names takes as long as there are many tracks
        stored = self._store.features.read(ids)
        fingerprints = {video: self._find_fingerprint(video) for video in {each.video for each in stored.segments}}
        return [
            unpack_text(int(row), data, fingerprint)
            for row, segment, data in zip(stored.ids, stored.segments, stored.tokens, strict=True)
            if (fingerprint := fingerprints[segment.video])
        ]

    def vectors(self, ids: Sequence[int] | Ids) -> Float32[np.ndarray, "text dim"]:
        """Return the sentence vectors of texts, in the order given."""
        return self._store.features.read_vectors(ids).astype(np.float32)

    def intact_vectors(self, ids: Sequence[int] | Ids) -> dict[int, Float32[np.ndarray, " dim"]]:
        """Return the sentence vectors of texts by id, without those that are gone or damaged."""
        kept, vectors = self._store.features.intact_vectors(np.asarray(ids, np.int64))
        return dict(zip(kept.tolist(), vectors.astype(np.float32), strict=True))

    def _find_fingerprint(self, track_id: int) -> str:
        """Return the fingerprint of a track's content, '' if the track is gone or damaged."""
        if track_id not in self._fingerprints:
            try:
                self._fingerprints[track_id] = self._store.videos.get(track_id).fingerprint.partition(" ")[0]
            except StoreError:
                return ""
        return self._fingerprints[track_id]
