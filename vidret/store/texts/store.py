"""The store of an index's timed texts, with sentence vectors and a full-text index.

Texts are in a separate store inside the index, ``words/``, with every guarantee of a store: commits that survive a
killed writer, checksums, pruning, merging. A *track* is one source of one content (its speech, its on-screen text,
its subtitles) as one model read it. A text is a segment of its track, with its times, its vector and its words; see
``catalog.texts``.
"""

import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from vidret.errors import StoreError
from vidret.store.catalog.texts import DAMAGED, StoredText, TextTrack
from vidret.store.folder import TEXTS
from vidret.store.records import FILE_STATES, FileState, NewSegment
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Selection, Snapshot, find_rows, remember
from vidret.store.store import Store
from vidret.store.texts.index import TextIndex
from vidret.store.texts.owners import TrackOwners
from vidret.store.texts.postings import MAX_TEXTS, spread_over_tracks, text_id
from vidret.types import SOURCES, TEXT_SOURCES, SegmentEmbedding, Source, TextSource, TimedText
from vidret.types.arrays import widen_rows

logger = logging.getLogger(__name__)

FOLDER, INDEX = TEXTS, "texts.sqlite"  # the full-text index
BATCH = 5000
ENGLISH = ("", "en")  # languages of speech; English models report none
P = ParamSpec("P")
R = TypeVar("R")
MISSING = FILE_STATES.index("missing")  # the state of a track that was replaced or removed
MAX_FLAGGED = 4  # selections whose flags are cached
CROWDED, DEEPER = 5, 10  # texts a track from which on a search is repeated, for so many times as many


@dataclass(frozen=True, slots=True)
class TextCounts:
    """Counts of one source of words.

    Attributes:
        source: The source.
        texts: Number of texts.
        videos: Number of videos from which the source was read, at least in part.
        complete: Number of videos from which it was read completely.
    """

    source: TextSource
    texts: int
    videos: int
    complete: int


class FoundText(NamedTuple):
    """A text as read by a query: the id of its segment, its track, times in seconds, words, and their stems.

    ``phonemes`` are those of recognised English speech; empty for other texts.
    """

    id: int
    track: int
    start: float
    end: float
    text: str
    stems: Sequence[str]
    phonemes: str = ""


def _locked(method: Callable[Concatenate["TextStore", P], R]) -> Callable[Concatenate["TextStore", P], R]:
    """Return a method of a store that one thread at a time may call."""

    @functools.wraps(method)
    def call(store: "TextStore", /, *args: P.args, **options: P.kwargs) -> R:
        with store._lock:
            return method(store, *args, **options)

    return call


class TextStore:
    """Timed texts of one index, in ``store``. Any number of readers and one writer, whose threads may share it."""

    def __init__(self, store: Store, folder: Path, *, write: bool) -> None:
        """Use an open store; use ``create`` or ``open``."""
        self.store, self._folder, self._write = store, folder, write
        self._index: TextIndex | None = None
        self._indexed = -1  # the generation of the index in memory
        self._lock = threading.RLock()
        self._owners = TrackOwners()
        self._flags: dict[Selection, bytes] = {}
        # The texts of tracks being written, and the number of the next one.
        self._written: dict[int, tuple[set[tuple[str, int, int]], int]] = {}
        if write:
            try:
                self.update_index()
            except BaseException:
                self.close()
                raise

    @property
    def index(self) -> TextIndex:
        """The full-text index; a reader opens it on first use."""
        with self._lock:
            if self._index is None:
                self._index = _open_index(self._folder / INDEX, write=self._write)
            if self._index.in_memory and self._indexed != self.store.generation:
                self._indexed = self.store.generation
                self.update_index()
            return self._index

    @classmethod
    def create(cls, index: str | os.PathLike[str], *, encoder: str, fingerprint: str, dim: int) -> Self:
        """Open the texts of an index for writing; create them if there are none, with vectors next to the index's.

        Raises:
            StoreError: Another process writes them, or they have vectors of another encoder.
        """
        folder = Path(index) / FOLDER
        vectors = None
        if Store.exists(index) and not Store.exists(folder):
            with Store.open(index) as pictures:
                vectors = pictures.home
        store = Store.create(folder, encoder_name=encoder, encoder_fingerprint=fingerprint, dim=dim, vectors=vectors)
        return cls(store, folder, write=True)

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
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of searchable texts."""
        return len(self.store)

    # Reading

    def select(self, pictures: Store, within: Selection, sources: Sequence[Source] = SOURCES) -> Selection:
        """Return the texts of some sources in the videos of a selection of ``pictures``."""
        text_sources = tuple(source for source in TEXT_SOURCES if source in sources)
        return self._owners.select(self.store.snapshot(), pictures.snapshot(), within, text_sources)

    def list_texts(self, pictures: Store, video_ids: Sequence[int], sources: Sequence[Source] = SOURCES) -> Ids:
        """Return the texts of some sources in some videos of ``pictures``, rising."""
        tracks = self._owners.find_tracks(self.store.snapshot(), pictures.snapshot(), video_ids, sources)
        return self.store.overlapping_segments([(track, -math.inf, math.inf) for track in tracks.tolist()])

    def find_contents(self, tracks: Sequence[int] | Ids) -> set[str]:
        """Return the fingerprints of the contents of tracks that can be searched."""
        videos = self.store.snapshot().videos
        rows = find_rows(videos.ids, np.asarray(tracks, np.int64))
        rows = rows[rows >= 0]
        fingerprints = (videos.fingerprints[row] for row in rows[videos.num_paths[rows] > 0].tolist())
        return {key.partition(b" ")[0].decode("utf-8", "replace") for key in fingerprints}

    def tracks(self, fingerprint: str | None = None) -> list[TextTrack]:
        """Return all tracks, or those of one content, by id."""
        return self.store.texts.tracks(fingerprint)

    def find(self, fingerprint: str, source: TextSource, model: str) -> TextTrack | None:
        """Return one track, None if it does not exist."""
        tracks = self.store.texts.tracks(fingerprint)
        return next((track for track in tracks if (track.source, track.model) == (source, model)), None)

    def count(self) -> list[TextCounts]:
        """Return the counts of each source that has a track."""
        tracks = self.tracks()
        return [
            TextCounts(
                source,
                sum(track.num_texts for track in source_tracks),
                len({track.fingerprint for track in source_tracks}),
                len({track.fingerprint for track in source_tracks if track.complete}),
            )
            for source in TEXT_SOURCES
            if (source_tracks := [track for track in tracks if track.source == source])
        ]

    def transcript(self, track: TextTrack) -> list[StoredText]:
        """Return the texts of a track, by time."""
        texts = self.read_segments(self.store.segments.ids_of_video(track.id))
        return sorted(texts, key=lambda stored: (stored.text.start, stored.text.end))

    def stored_ids(self) -> tuple[Ids, Ids]:
        """Return the ids of all stored texts in the full-text index, and the segment of each."""
        snapshot = self.store.snapshot()
        segments = snapshot.segments
        kept = segments.stored & self._find_tracks(snapshot)[segments.video_rows]
        tracks = snapshot.videos.ids[segments.video_rows[kept]]
        return tracks * MAX_TEXTS + segments.numbers[kept], segments.ids[kept]

    def _find_tracks(self, snapshot: Snapshot) -> Bool[np.ndarray, " track"]:
        """Return a mask by row of the store's videos that are tracks, not replaced or removed ones."""
        files = snapshot.files
        owners = files.video_rows[files.current & (files.states != MISSING)]
        exists = np.zeros(len(snapshot.videos.ids), bool)
        exists[owners[owners >= 0]] = True
        return exists

    def search(self, vectors: Float32[np.ndarray, "query dim"], k: int, within: Selection | None = None) -> list[Ids]:
        """Return the segments of ``k`` texts near to each vector, of all or a selection, best first.

        They are the nearest ones; of few tracks, those of ``DEEPER`` times as many, in turns by track.
        """
        within = within or self.store.select()
        if not within.num_segments or not len(vectors):
            return [np.zeros(0, np.int64) for _ in vectors]

        def search(depth: int) -> list[Ids]:
            rows = self.store.search(vectors, min(depth, within.num_segments), within)[1]
            return [row[row >= 0] for row in rows]

        found = search(k)
        if any(len(ids) == k >= CROWDED * len(np.unique(self.store.owners(ids))) for ids in found):
            found = search(DEEPER * k)
        return [self._take_turns(ids, k) for ids in found]

    def _take_turns(self, ids: Ids, k: int) -> Ids:
        """Return ``k`` of some texts, which are given best first, so that no track hides the others."""
        tracks, ranks = self.store.owners(ids) * MAX_TEXTS, np.arange(len(ids), dtype=np.float64)
        chosen: Ids = ids[spread_over_tracks(tracks, -ranks, k)]
        return chosen

    def search_words(self, terms: Sequence[str], k: int, within: Selection | None = None) -> Ids:
        """Return the segments of the ``k`` texts, of all or a selection, with the best bm25 for any of these stems.

        If the vectors are in Milvus, it searches the words; texts that it lacks are searched here and come last.
        """
        within = within or self.store.select()
        if not terms or not within.num_segments:
            return np.zeros(0, np.int64)
        result = self.store.search_words(terms, DEEPER * k, within)
        if result is None:
            return self.find_segments(self.index.search(terms, k, self._flag(within)))
        found_ids = self._take_turns(result.ids, k)
        if not result.missed:
            return found_ids
        missed_ids = self.find_segments(self.index.search(terms, k, self._flag(within, result.missed)))
        return np.concatenate([found_ids, missed_ids[~np.isin(missed_ids, found_ids)]])

    def find_phrase(self, phrase: str, k: int, within: Selection | None = None) -> Ids:
        """Return the segments of up to ``k`` texts that contain these words next to one another, in this order."""
        return self.find_segments(self.index.find_phrase(phrase, k, self._flag(within or self.store.select())))

    def search_spoken(self, phonemes: str, k: int, within: Selection | None = None) -> Ids:
        """Return the segments of the ``k`` spoken texts, of all or a selection, that share the most with phonemes."""
        return self.find_segments(self.index.spoken.search(phonemes, k, self._flag(within or self.store.select())))

    def _flag(self, within: Selection, among: Sequence[int] | None = None) -> bytes | None:
        """Return a byte per id of a track, 1 for those of a selection, ``among`` some; None for all."""

        def flag() -> bytes:
            tracks = self.store.snapshot().videos.ids[: len(within.videos)][within.videos]
            tracks = tracks if among is None else np.intersect1d(tracks, among)
            flags = np.zeros(int(tracks.max(initial=-1)) + 1, np.uint8)
            flags[tracks] = 1
            return flags.tobytes()

        if among is not None:
            return flag()
        return remember(self._flags, within, flag, MAX_FLAGGED) if within.narrow else None

    def find_segments(self, text_ids: Sequence[int] | Ids) -> Ids:
        """Return the segments of texts that the full-text index found, in the same order.

        Lost texts and those of hidden tracks are left out.
        """
        snapshot = self.store.snapshot()
        videos, segments = snapshot.videos, snapshot.segments
        tracks, numbers = np.divmod(np.asarray(text_ids, np.int64), MAX_TEXTS)
        rows = find_rows(videos.ids, tracks)
        is_shown = (rows >= 0) & (videos.num_paths[rows] > 0) if len(videos.ids) else np.zeros(len(rows), bool)
        tracks, numbers, rows = tracks[is_shown], numbers[is_shown], rows[is_shown]
        places = videos.first_segments[rows] + numbers  # if the texts of a track follow one another
        if (places < len(segments.ids)).all():
            is_own = (segments.video_rows[places] == rows) & (segments.numbers[places] == numbers)
            if (is_own & segments.stored[places]).all():
                segment_ids: Ids = segments.ids[places]
                return segment_ids
        listed = self.store.segments.find_many(zip(tracks.tolist(), numbers.tolist(), strict=True))
        return np.array(list(listed.values()), np.int64)

    def read_segments(self, ids: Sequence[int] | Ids) -> list[StoredText]:
        """Return texts by the ids of their segments, in the given order, without deleted or damaged ones."""
        return self.store.texts.read(ids)

    def read_found(self, ids: Ids) -> tuple[list[FoundText], Float32[np.ndarray, "text dim"]]:
        """Return texts as read by a query, and their vectors, in the order of ids, without deleted or damaged ones."""
        words = self.store.texts.read_words(ids)
        kept, vectors = self.store.features.intact_vectors(np.fromiter(words, np.int64, len(words)))
        snapshot = self.store.snapshot()
        rows, segments = snapshot.find_segments(kept), snapshot.segments
        if (rows < 0).any():  # deleted since
            kept, vectors, rows = kept[rows >= 0], vectors[rows >= 0], rows[rows >= 0]
        tracks, texts = snapshot.videos.ids[segments.video_rows[rows]], [words[key] for key in kept.tolist()]
        text_ids = tracks * MAX_TEXTS + segments.numbers[rows]
        columns = (column.tolist() for column in (kept, tracks, segments.starts[rows], segments.ends[rows]))
        return list(map(FoundText, *columns, texts, *self.index.read(text_ids, texts))), widen_rows(vectors)

    def find_owners(self, pictures: Store, tracks: Ids) -> tuple[Ids, UInt8[np.ndarray, " text"]]:
        """Return the video and the source of tracks; see ``TrackOwners``."""
        return self._owners.find_owners(self.store.snapshot(), pictures.snapshot(), tracks)

    def intact_vectors(self, ids: Sequence[int] | Ids) -> dict[int, Float32[np.ndarray, " dim"]]:
        """Return the sentence vectors of texts by id, without deleted or damaged ones."""
        kept, vectors = self.store.features.intact_vectors(np.asarray(ids, np.int64))
        return dict(zip(kept.tolist(), vectors.astype(np.float32), strict=True))

    # Writing

    @_locked
    def begin(self, fingerprint: str, source: TextSource, model: str, *, duration_s: float) -> TextTrack:
        """Find or add a track. One that replaces a complete track is hidden from searches until it is complete.

        A damaged track starts over.
        """
        track = self.find(fingerprint, source, model)
        record = self.store.files.get(_make_key(fingerprint, source, model))
        if track is None or record is None or record.state == DAMAGED:
            self._start(fingerprint, source, model, duration_s, is_known=record is not None)
            track = self.find(fingerprint, source, model)
        assert track is not None
        self._written.pop(track.id, None)
        return track

    def _start(self, fingerprint: str, source: TextSource, model: str, duration_s: float, *, is_known: bool) -> None:
        """Start a track without texts; stored texts stay until they are read again."""
        key = _make_key(fingerprint, source, model)
        video = self.store.writer.begin_video(key, duration=duration_s, facts={}, num_segments=MAX_TEXTS)
        others = [track for track in self.tracks(fingerprint) if track.source == source and track.complete]
        state: FileState = "failed" if others else "done"  # a failed track is not searched
        self.store.texts.begin_track(video, fingerprint, source, model)
        self.store.writer.set_file(key, state=state, reason="not complete" if others else "", video=video)
        if is_known:
            self.index.remove_track(video)
        if self.store.segments.stored_indices(video):
            self.update_index()

    @_locked
    def add(
        self, track: TextTrack, texts: Sequence[TimedText], vectors: Float[np.ndarray, "text dim"], *, until_s: float
    ) -> int:
        """Store further texts of a track, which was read up to ``until_s``, and return the number of new ones.

        They are searchable at once. Texts already stored by an interrupted run are left out.
        """
        if track.id not in self._written:
            numbers = self.store.segments.stored_indices(track.id)
            stored_keys = {_identify(stored.text) for stored in self.transcript(track)}
            self._written[track.id] = stored_keys, 1 + max(numbers, default=-1)
        known, first = self._written.pop(track.id)  # after an error the entry is read again
        rows = {_identify(text): row for row, text in reversed(list(enumerate(texts)))}
        kept = sorted(row for identity, row in rows.items() if identity not in known)
        segments = [
            NewSegment(
                track.id, first + offset, texts[row].start, texts[row].end, _embed(vectors[row]), text=texts[row]
            )
            for offset, row in enumerate(kept)
        ]
        self._add_to_index(
            (text_id(track.id, segment.number), texts[row]) for segment, row in zip(segments, kept, strict=True)
        )
        if segments:
            self.store.writer.add_segments(segments)
        known.update(rows)
        self._written[track.id] = known, first + len(segments)
        self.store.texts.set_progress(track.id, until_s)
        return len(segments)

    @_locked
    def finish(self, track: TextTrack, *, note: str = "") -> None:
        """Mark a track as complete; it replaces other tracks of the same source."""
        key = _make_key(track.fingerprint, track.source, track.model)
        self._written.pop(track.id, None)
        self.store.writer.set_file(key, state="done")
        others = self.tracks(track.fingerprint)
        self._forget([other for other in others if other.source == track.source and other.id != track.id])
        self.store.writer.end_video(track.id, note=note)  # last: after a kill, the next run finishes it again

    @_locked
    def prune(self, fingerprints: Iterable[str]) -> int:
        """Remove the texts of all contents except these; return the number of removed tracks."""
        kept = set(fingerprints)
        gone = [track for track in self.tracks() if track.fingerprint not in kept]
        self.remove(gone)
        return len(gone)

    @_locked
    def remove(self, tracks: Sequence[TextTrack]) -> None:
        """Delete tracks."""
        if tracks:
            self._forget(tracks)
            self.store.upkeep.prune()

    @_locked
    def save(self) -> None:
        """Save the data that searches need, and delete replaced tracks, at the end of an indexing run."""
        if self.store.files.find(state="missing"):
            self.store.upkeep.prune()
        self.store.upkeep.save_vectors()

    def _forget(self, tracks: Sequence[TextTrack]) -> None:
        """Remove tracks from searches; ``save`` deletes them."""
        for track in tracks:
            key = _make_key(track.fingerprint, track.source, track.model)
            self.store.writer.set_file(key, state="missing", reason="replaced or removed")
            self.index.remove_track(track.id)

    @_locked
    def restart(self, track: TextTrack) -> None:
        """Mark a track for the next run to read from the start; stored texts stay searchable until then."""
        key = _make_key(track.fingerprint, track.source, track.model)
        record = self.store.files.get(key)
        self.store.texts.set_progress(track.id, 0.0)
        if record is not None and record.state != "failed":
            self.store.writer.set_file(key, state=DAMAGED, reason=record.reason)

    def update_index(self) -> None:
        """Make the full-text index match the intact stored texts, after any interruption."""
        (stored, rows), indexed = self.stored_ids(), self.index.ids()
        missing = ~np.isin(stored, indexed)
        ids = dict(zip(rows[missing].tolist(), stored[missing].tolist(), strict=True))
        for batch in np.array_split(rows[missing], -(-len(ids) // BATCH)) if ids else ():
            self._add_to_index((ids[stored.id], stored.text) for stored in self.read_segments(batch))
        if self._write or self.index.in_memory:
            self.index.remove(np.setdiff1d(indexed, stored).tolist())

    def _add_to_index(self, texts: Iterable[tuple[int, TimedText]]) -> None:
        given = list(texts)
        spoken = {key for key, text in given if text.source == "speech" and text.language in ENGLISH}
        self.index.add([(key, text.text) for key, text in given], spoken)


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


def _make_key(fingerprint: str, source: TextSource, model: str) -> str:
    """Return the key of a track, under which the store keeps its state."""
    return f"{fingerprint} {source} {model}"


def _identify(text: TimedText) -> tuple[str, int, int]:
    """Return the identity of a text in its track: its words, and its times in milliseconds."""
    return text.text, round(text.start * 1000), round(text.end * 1000)


def _embed(vector: Float[np.ndarray, " dim"]) -> SegmentEmbedding:
    """Return a text's vector as the embedding of a segment without frames."""
    return SegmentEmbedding(np.asarray(vector), np.zeros((0, len(vector)), np.float32), np.zeros(0))
