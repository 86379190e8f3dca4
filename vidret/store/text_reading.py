"""Reading of the timed texts of an index; see ``text_store``."""

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from vidret.errors import StoreError
from vidret.store.records import FILE_STATES, FileRecord, FileState
from vidret.store.snapshot import Snapshot, find_rows
from vidret.store.store import Store
from vidret.store.text_records import MAX_TEXTS, StoredText, TextCounts, TextTrack, make_key, track_exists, unpack_text
from vidret.store.text_tracks import AllowedTexts, TrackOwners
from vidret.types import ALL_VIDEOS, SOURCES, TEXT_SOURCES, Filters, Source, TextSource

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
        records = self._store.files(prefix="" if fingerprint is None else f"{fingerprint} ")
        tracks = [self._as_track(record) for record in records if track_exists(record)]
        return sorted(tracks, key=lambda track: track.id)

    def find(self, fingerprint: str, source: TextSource, model: str) -> TextTrack | None:
        """Return one track, None if it does not exist."""
        record = self._store.file(make_key(fingerprint, source, model))
        return self._as_track(record) if record is not None and track_exists(record) else None

    def complete_tracks(self) -> dict[str, str]:
        """Return the notes of all tracks that need not be read again, by ``make_key``; faster than ``tracks``."""
        notes = {video.id: video.salvaged for video in self._store.videos() if video.complete}
        return {record.path: notes[record.video] for record in self._store.files(state="done") if record.video in notes}

    def _as_track(self, record: FileRecord) -> TextTrack:
        assert record.video is not None
        video = self._store.video(record.video)
        facts: Any = video.facts
        return TextTrack(
            id=video.id,
            fingerprint=facts["fingerprint"],
            source=facts["source"],
            model=facts["model"],
            complete=video.complete,
            until_s=0.0 if record.state == DAMAGED else (record.num_bytes or 0) / 1000,
            num_texts=video.num_segments if video.complete else len(self._store.stored_segments(video.id)),
            note=video.salvaged,
        )

    # Texts

    def transcript(self, track: TextTrack) -> list[StoredText]:
        """Return the texts of a track, by time."""
        texts = self.read_segments(self._store.video_segments(track.id))
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
        return self._store.find_segments([divmod(each, MAX_TEXTS) for each in ids[is_shown].tolist()])

    def read_segments(self, ids: Sequence[int] | Ids) -> list[StoredText]:
        """Return texts by the ids of their segments, in the order given, without those that are gone or damaged."""
        if not len(ids):
            return []  # reading the names takes as long as there are many tracks
        stored = self._store.read(ids)
        fingerprints = {video: self._find_fingerprint(video) for video in {each.video for each in stored.segments}}
        return [
            unpack_text(int(row), data, fingerprint)
            for row, segment, data in zip(stored.ids, stored.segments, stored.tokens, strict=True)
            if (fingerprint := fingerprints[segment.video])
        ]

    def vectors(self, ids: Sequence[int] | Ids) -> Float32[np.ndarray, "text dim"]:
        """Return the sentence vectors of texts, in the order given."""
        return self._store.vectors(ids).astype(np.float32)

    def intact_vectors(self, ids: Sequence[int] | Ids) -> dict[int, Float32[np.ndarray, " dim"]]:
        """Return the sentence vectors of texts by id, without those that are gone or damaged."""
        kept, vectors = self._store.intact_vectors(np.asarray(ids, np.int64))
        return dict(zip(kept.tolist(), vectors.astype(np.float32), strict=True))

    def _find_fingerprint(self, track_id: int) -> str:
        """Return the fingerprint of a track's content, '' if the track is gone or damaged."""
        if track_id not in self._fingerprints:
            try:
                self._fingerprints[track_id] = self._store.video(track_id).fingerprint.partition(" ")[0]
            except StoreError:
                return ""
        return self._fingerprints[track_id]
