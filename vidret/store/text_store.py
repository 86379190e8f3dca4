"""The timed texts of an index: what is said and shown in its videos, with sentence vectors and a full-text index.

Texts lie in a store of their own inside the index, ``words/``, and get every guarantee of a store: commits that survive
a killed writer, checksums, pruning, merging. One text is stored as one segment, with its vector, its times, and the
text itself where a segment has its tokens. A *track* is one source of one content (its speech, its on-screen text, its
subtitles) as one model read it; the store keeps a track as a video, and a path that names it.
"""

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.errors import StoreError
from vidret.store.records import FileRecord, FileState, NewSegment
from vidret.store.store import Store
from vidret.store.text_index import TextIndex
from vidret.store.text_records import (
    MAX_TEXTS,
    StoredText,
    TextTrack,
    embed_text,
    identify_text,
    make_key,
    pack_text,
    text_id,
    track_exists,
    unpack_text,
)
from vidret.types import TextSource, TimedText

logger = logging.getLogger(__name__)

FOLDER = "words"
INDEX = "texts.sqlite"  # the full-text index
BATCH = 5000
DAMAGED: FileState = "pending"  # a repair of the store leaves a track so: it is read again from the start

Ids = Int64[np.ndarray, " _id"]
P = ParamSpec("P")
R = TypeVar("R")


def _locked(method: Callable[Concatenate["TextStore", P], R]) -> Callable[Concatenate["TextStore", P], R]:
    """Let one thread at a time call a method of a store."""

    @functools.wraps(method)
    def call(store: "TextStore", /, *args: P.args, **options: P.kwargs) -> R:
        with store._lock:
            return method(store, *args, **options)

    return call


class TextStore:
    """Timed texts of one index. Any number of readers and one writer, whose threads may share it; a context manager."""

    def __init__(self, store: Store, folder: Path, *, write: bool) -> None:
        """Use an open store; use ``create`` or ``open``."""
        self._store, self._folder, self._write = store, folder, write
        self._index: TextIndex | None = None
        self._lock = threading.RLock()
        self._count: tuple[int, int] | None = None  # generation, and number of texts
        self._fingerprints: dict[int, str] = {}  # of tracks; they never change
        self._written: dict[int, set[tuple[str, int, int]]] = {}  # the texts of tracks that are being written
        if write:
            try:
                self.update_index()
            except BaseException:
                self.close()
                raise

    @property
    def index(self) -> TextIndex:
        """The full-text index; a reader opens it when it is first used."""
        with self._lock:
            if self._index is None:
                self._index = _open_index(self._folder / INDEX, write=self._write)
                if self._index.in_memory:
                    self.update_index()
            return self._index

    @classmethod
    def create(cls, index: str | os.PathLike[str], *, encoder: str, fingerprint: str, dim: int) -> Self:
        """Open the texts of an index for writing; make them if there are none.

        Raises:
            StoreError: Another process writes them, or they have vectors of another encoder.
        """
        folder = Path(index) / FOLDER
        return cls(
            Store.create(folder, encoder_name=encoder, encoder_fingerprint=fingerprint, dim=dim), folder, write=True
        )

    @classmethod
    def open(cls, index: str | os.PathLike[str], *, write: bool = False) -> Self:
        """Open the texts of an index.

        Raises:
            StoreError: There are none, or they cannot be read.
        """
        folder = Path(index) / FOLDER
        return cls(Store.open(folder, write=write), folder, write=write)

    @staticmethod
    def exists(index: str | os.PathLike[str]) -> bool:
        """Return whether an index has texts."""
        return Store.exists(Path(index) / FOLDER)

    def close(self) -> None:
        """Close the store."""
        if self._index is not None:
            self._index.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of texts that a search may find; they are counted once a generation."""
        generation = self._store.generation
        if self._count is None or self._count[0] != generation:
            self._count = generation, len(self._store)
        return self._count[1]

    @property
    def store(self) -> Store:
        """The store that holds the texts, for checks, merging and small derived facts."""
        return self._store

    @property
    def generation(self) -> int:
        """Number of changes so far."""
        return self._store.generation

    # Writing

    @_locked
    def begin(self, fingerprint: str, source: TextSource, model: str, *, duration_s: float) -> TextTrack:
        """Find or add a track. One that replaces a complete track is hidden from searches until it is complete.

        A damaged track starts over.
        """
        key = make_key(fingerprint, source, model)
        record = self._store.file(key)
        if record is None or record.video is None or record.state in ("missing", DAMAGED):
            facts = {"fingerprint": fingerprint, "source": source, "model": model}
            video = self._store.begin_video(key, duration=duration_s, facts=facts, num_segments=MAX_TEXTS)
            others = [track for track in self.tracks(fingerprint) if track.source == source and track.complete]
            state: FileState = "failed" if others else "done"  # what has failed is not searched
            self._store.set_file(key, state=state, reason="not complete" if others else "", video=video, num_bytes=0)
            if record is not None:
                self.index.remove_range(text_id(video, 0), text_id(video + 1, 0))
            if self._store.stored_segments(video):
                self.update_index()
        track = self.find(fingerprint, source, model)
        assert track is not None
        self._written.pop(track.id, None)
        return track

    @_locked
    def add(
        self, track: TextTrack, texts: Sequence[TimedText], vectors: Float[np.ndarray, "text dim"], *, until_s: float
    ) -> None:
        """Store further texts of a track, which was read up to ``until_s``. They can be found at once.

        Texts that are stored already, by an interrupted run, are left out.
        """
        numbers = self._store.stored_segments(track.id)
        if track.id not in self._written:
            self._written[track.id] = (
                {identify_text(each.text) for each in self.transcript(track)} if numbers else set()
            )
        known = self._written[track.id]
        rows = {identify_text(text): row for row, text in reversed(list(enumerate(texts)))}
        kept = sorted(row for identity, row in rows.items() if identity not in known)
        first = 1 + max(numbers, default=-1)
        segments = [
            NewSegment(
                track.id,
                first + offset,
                texts[row].start,
                texts[row].end,
                embed_text(vectors[row]),
                pack_text(texts[row]),
            )
            for offset, row in enumerate(kept)
        ]
        self.index.add(
            (text_id(each.video, each.number), texts[row].text) for each, row in zip(segments, kept, strict=True)
        )
        if segments:
            self._store.add_segments(segments)
        known.update(rows)
        self._set_progress(track, until_s)

    @_locked
    def finish(self, track: TextTrack, *, note: str = "") -> None:
        """Mark a track as complete; it replaces other tracks of the same source."""
        key = make_key(track.fingerprint, track.source, track.model)
        self._written.pop(track.id, None)
        self._store.end_video(track.id, note=note)
        self._store.set_file(key, state="done")
        others = self.tracks(track.fingerprint)
        self._forget([other for other in others if other.source == track.source and other.id != track.id])

    @_locked
    def prune(self, fingerprints: Iterable[str]) -> int:
        """Forget the texts of all contents except these; return how many tracks were forgotten."""
        kept = set(fingerprints)
        gone = [track for track in self.tracks() if track.fingerprint not in kept]
        self.remove(gone)
        return len(gone)

    @_locked
    def remove(self, tracks: Sequence[TextTrack]) -> None:
        """Delete tracks."""
        if tracks:
            self._forget(tracks)
            self._store.prune()

    @_locked
    def save(self) -> None:
        """Save what a search needs, and delete what was replaced: the end of an indexing run."""
        if self._store.files(state="missing"):
            self._store.prune()
        self._store.save_vectors()

    def _set_progress(self, track: TextTrack, until_s: float) -> None:
        key = make_key(track.fingerprint, track.source, track.model)
        record = self._store.file(key)
        assert record is not None
        state: FileState = record.state  # type: ignore[assignment]
        self._store.set_file(key, state=state, reason=record.reason, num_bytes=round(until_s * 1000))

    def _forget(self, tracks: Sequence[TextTrack]) -> None:
        """Remove tracks from searches; ``save`` deletes them."""
        for track in tracks:
            key = make_key(track.fingerprint, track.source, track.model)
            self._store.set_file(key, state="missing", reason="replaced or removed")
            self.index.remove_range(text_id(track.id, 0), text_id(track.id + 1, 0))

    @_locked
    def restart(self, track: TextTrack) -> None:
        """Mark a track for the next run to read from the start. What is stored stays searchable until then."""
        key = make_key(track.fingerprint, track.source, track.model)
        record = self._store.file(key)
        if record is not None:
            state: FileState = "failed" if record.state == "failed" else DAMAGED
            self._store.set_file(key, state=state, reason=record.reason, num_bytes=0)

    def stored_ids(self) -> dict[int, int]:
        """Return the segment of each stored text, by the id that the text has in the full-text index."""
        return {
            text_id(track.id, number): row
            for track in self.tracks()
            for number, row in self._store.numbered_segments(track.id).items()
        }

    def update_index(self) -> None:
        """Make the full-text index hold exactly the stored texts, whatever was interrupted; without damaged ones."""
        stored = self.stored_ids()
        indexed = set(self.index.ids().tolist())
        missing = {stored[each]: each for each in sorted(set(stored) - indexed)}
        rows = list(missing)
        for start in range(0, len(rows), BATCH):
            texts = self.read_segments(rows[start : start + BATCH])
            self.index.add((missing[each.id], each.text.text) for each in texts)
        if self._write:
            self.index.remove(sorted(indexed - set(stored)))

    # Reading

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

    def transcript(self, track: TextTrack) -> list[StoredText]:
        """Return the texts of a track, by time."""
        texts = self.read_segments(self._store.video_segments(track.id))
        return sorted(texts, key=lambda each: (each.text.start, each.text.end))

    def search(self, vectors: Float32[np.ndarray, "query dim"], k: int) -> list[Ids]:
        """Return the segments of the ``k`` texts nearest to each vector, best first."""
        if not len(self):
            return [np.zeros(0, np.int64) for _ in vectors]
        found = self._store.search(vectors, min(k, len(self)))[1]
        return [row[row >= 0] for row in found]

    def find_segments(self, text_ids: Sequence[int] | Ids) -> Ids:
        """Return the segments of texts that the full-text index found, in the same order.

        Lost ones are left out, and those of tracks that are still hidden.
        """
        pairs = [divmod(int(each), MAX_TEXTS) for each in text_ids]
        paths = self._store.paths(sorted({track_id for track_id, _ in pairs}))
        return self._store.find_segments([pair for pair in pairs if paths[pair[0]]])

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


def _open_index(path: Path, *, write: bool) -> TextIndex:
    """Open the full-text index; a reader without an intact one builds its own in memory."""
    if write or path.exists():
        try:
            return TextIndex(path, write=write)
        except StoreError as error:
            if write:
                raise
            logger.warning("texts are searched by an index in memory: %s", error)
    return TextIndex(None, write=True)
