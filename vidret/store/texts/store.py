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
from typing import Concatenate, ParamSpec, Self, TypeVar

import numpy as np
from jaxtyping import Float

from vidret.errors import StoreError
from vidret.store.records import FileState, NewSegment
from vidret.store.store import Store
from vidret.store.texts.index import TextIndex
from vidret.store.texts.reading import DAMAGED, TextReader
from vidret.store.texts.records import (
    MAX_TEXTS,
    TextTrack,
    embed_text,
    identify_text,
    make_key,
    pack_text,
    text_id,
)
from vidret.types import TextSource, TimedText

logger = logging.getLogger(__name__)

FOLDER = "words"
INDEX = "texts.sqlite"  # the full-text index
BATCH = 5000
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
    """Timed texts of one index. Any number of readers and one writer, whose threads may share it; a context manager.

    The methods that read are those of ``TextReader``, which documents them.
    """

    def __init__(self, store: Store, folder: Path, *, write: bool) -> None:
        """Use an open store; use ``create`` or ``open``."""
        self._store, self._folder, self._write = store, folder, write
        self._index: TextIndex | None = None
        self._indexed = -1  # the generation that an index in memory has
        self._lock = threading.RLock()
        reader = TextReader(store)
        self.tracks, self.find, self.complete_tracks = reader.tracks, reader.find, reader.complete_tracks
        self.transcript, self.read_segments = reader.transcript, reader.read_segments
        self.stored_ids, self.find_segments = reader.stored_ids, reader.find_segments
        self.search, self.vectors, self.intact_vectors = reader.search, reader.vectors, reader.intact_vectors
        self.allow, self.find_contents, self.count = reader.allow, reader.find_contents, reader.count
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
            if self._index.in_memory and self._indexed != self._store.generation:
                self._indexed = self._store.generation
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

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of texts that a search may find."""
        return len(self._store)

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
        record = self._store.files.get(key)
        if record is None or record.video is None or record.state in ("missing", DAMAGED):
            facts = {"fingerprint": fingerprint, "source": source, "model": model}
            video = self._store.writer.begin_video(key, duration=duration_s, facts=facts, num_segments=MAX_TEXTS)
            others = [track for track in self.tracks(fingerprint) if track.source == source and track.complete]
            state: FileState = "failed" if others else "done"  # what has failed is not searched
            self._store.writer.set_file(
                key, state=state, reason="not complete" if others else "", video=video, num_bytes=0
            )
            if record is not None:
                self.index.remove_range(text_id(video, 0), text_id(video + 1, 0))
            if self._store.segments.stored_indices(video):
                self.update_index()
        track = self.find(fingerprint, source, model)
        assert track is not None
        self._written.pop(track.id, None)
        return track

    @_locked
    def add(
        self, track: TextTrack, texts: Sequence[TimedText], vectors: Float[np.ndarray, "text dim"], *, until_s: float
    ) -> int:
        """Store further texts of a track, which was read up to ``until_s``, and return how many are new.

        They can be found at once. Texts that are stored already, by an interrupted run, are left out.
        """
        numbers = self._store.segments.stored_indices(track.id)
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
            self._store.writer.add_segments(segments)
        known.update(rows)
        self._set_progress(track, until_s)
        return len(segments)

    @_locked
    def finish(self, track: TextTrack, *, note: str = "") -> None:
        """Mark a track as complete; it replaces other tracks of the same source."""
        key = make_key(track.fingerprint, track.source, track.model)
        self._written.pop(track.id, None)
        self._store.writer.end_video(track.id, note=note)
        self._store.writer.set_file(key, state="done")
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
            self._store.upkeep.prune()

    @_locked
    def save(self) -> None:
        """Save what a search needs, and delete what was replaced: the end of an indexing run."""
        if self._store.files.find(state="missing"):
            self._store.upkeep.prune()
        self._store.upkeep.save_vectors()

    def _set_progress(self, track: TextTrack, until_s: float) -> None:
        key = make_key(track.fingerprint, track.source, track.model)
        record = self._store.files.get(key)
        assert record is not None
        state: FileState = record.state  # type: ignore[assignment]
        self._store.writer.set_file(key, state=state, reason=record.reason, num_bytes=round(until_s * 1000))

    def _forget(self, tracks: Sequence[TextTrack]) -> None:
        """Remove tracks from searches; ``save`` deletes them."""
        for track in tracks:
            key = make_key(track.fingerprint, track.source, track.model)
            self._store.writer.set_file(key, state="missing", reason="replaced or removed")
            self.index.remove_range(text_id(track.id, 0), text_id(track.id + 1, 0))

    @_locked
    def restart(self, track: TextTrack) -> None:
        """Mark a track for the next run to read from the start. What is stored stays searchable until then."""
        key = make_key(track.fingerprint, track.source, track.model)
        record = self._store.files.get(key)
        if record is not None:
            state: FileState = "failed" if record.state == "failed" else DAMAGED
            self._store.writer.set_file(key, state=state, reason=record.reason, num_bytes=0)

    def update_index(self) -> None:
        """Make the full-text index hold exactly the stored texts, whatever was interrupted; without damaged ones."""
        (stored, rows), indexed = self.stored_ids(), self.index.ids()
        missing = ~np.isin(stored, indexed)
        ids = dict(zip(rows[missing].tolist(), stored[missing].tolist(), strict=True))
        for batch in np.array_split(rows[missing], -(-len(ids) // BATCH)) if ids else ():
            self.index.add((ids[each.id], each.text.text) for each in self.read_segments(batch))
        if self._write or self.index.in_memory:
            self.index.remove(np.setdiff1d(indexed, stored).tolist())


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
