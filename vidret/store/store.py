"""Store: catalog, feature files and vectors behind one door, with one format number.

The catalog decides what exists. Feature rows are on disk before the catalog names them, and the search's vectors are
derived from both: kill the writer at any moment, and the next one goes on from the last segment that was committed.
"""

import os
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float, Float16, Float32, Float64, Int64

from vidret.errors import StoreError, VidretError
from vidret.store import maintenance, moving
from vidret.store.address import FAISS, settle
from vidret.store.candidates import MEMORY
from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.features import Bytes, Features, Rows, half
from vidret.store.finder import Finder, Home, open_finder
from vidret.store.lock import WriterLock
from vidret.store.matching import in_order
from vidret.store.records import (
    FILE_STATES,
    BadFile,
    BadSegment,
    FileRecord,
    FileState,
    NewSegment,
    Place,
    PruneReport,
    StoredSegments,
    StoredVideo,
    StoreInfo,
    VideoRecord,
)
from vidret.store.repair import repair_catalog
from vidret.types import ALL_VIDEOS, Filters, Segment, SegmentEmbedding

Ids = Int64[np.ndarray, " _id"]
Checked = tuple[Segment, Rows, Rows, Bytes, Float64[np.ndarray, " frame"]]  # a segment's rows, tokens and frame times
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")  # of two slashes a Path keeps one


class Store:
    """One index in one folder; any number of readers and one writer, in any threads and processes.

    With its vectors in a file of milvus-lite one process at a time can search or write it: see ``milvus``.

    Made by ``Store.create`` or ``Store.open``; a context manager.
    """

    def __init__(self, path: Path, *, lock: WriterLock | None, device: str) -> None:
        """Open the parts; ``create`` and ``open`` are the doors."""
        self.path = path
        self._lock = lock
        self._writing = threading.Lock()
        self._catalog = catalog = Catalog(path / "catalog.sqlite", write=lock is not None)
        self.encoder_name, self.encoder_fingerprint, self.dim = catalog.encoder()
        try:
            self._epochs = Epochs(path / "features", self.dim, catalog, write=lock is not None)
        except OSError as error:
            catalog.close()
            raise StoreError(f"{error.filename}: {error.strerror}") from error
        self._device = device
        self._home = Home.read(catalog.meta(moving.HOME))
        self._candidates: Finder = self._open_finder(self._home)
        self._opening = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder_name: str,
        encoder_fingerprint: str,
        dim: int,
        vectors: str | None = None,
    ) -> "Store":
        """Make an index, or go on with the one that is there, for writing.

        ``vectors`` says where its vectors go: ``faiss`` or the address of a Milvus. Unless given that is where the
        index has them, and ``faiss`` for a new one.

        Raises:
            StoreError: another encoder made it, another process writes it, it cannot be read, its vectors are elsewhere
                or cannot be reached.
            MissingExtraError: what finds the vectors is not installed.
        """
        folder = find_folder(path)
        asked = None if vectors is None else settle(vectors, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be made ({error.strerror})") from error
        lock = WriterLock(folder / "writer.lock")
        try:
            if not Catalog.exists(folder / "catalog.sqlite"):
                facts: dict[str, str | int] = {
                    "encoder_name": encoder_name,
                    "encoder_fingerprint": encoder_fingerprint,
                    "dim": dim,
                }
                if asked is not None:
                    moving.check_address(asked, folder, dim)
                    facts[moving.HOME] = Home.new(asked).write()
                Catalog.create(folder / "catalog.sqlite", facts).close()
            store = cls(folder, lock=lock, device="cpu")
        except BaseException:
            lock.release()
            raise
        try:
            store.check_encoder(encoder_name, encoder_fingerprint)
            if asked not in (None, store.home):
                there = f"the vectors are in {store.home}, not in {asked}"
                command = f"vidret store move {store.home} {asked} --index {folder}"
                raise StoreError(f"{folder}: {there}; to move them: {command}")
            store._candidates.prepare()
        except VidretError:
            store.close()
            raise
        return store

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Say whether an index was ever made here; one whose making was killed is none yet."""
        return Catalog.exists(find_folder(path) / "catalog.sqlite")

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False, device: str = "cpu") -> "Store":
        """Open an index; the device ``cuda:N`` has FAISS search on that GPU where it can.

        Raises:
            StoreError: no index is there, another process writes it, or it cannot be read.
        """
        folder = Path(path)
        if not cls.exists(folder):
            raise StoreError(f"{folder}: there is no index here")
        lock = WriterLock(folder / "writer.lock") if write else None
        try:
            return cls(folder, lock=lock, device=device)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def close(self) -> None:
        """Give everything back; arrays handed out stay readable."""
        self._candidates.close()
        self._catalog.close()
        self._epochs.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Count the segments that a search may return."""
        return self._catalog.segments.count()

    # What the index is

    @property
    def max_k(self) -> int | None:
        """The largest ``k`` that ``search`` takes, None for no limit."""
        return self._current().max_k

    def count_videos(self, filters: Filters = ALL_VIDEOS) -> int:
        """Count the videos that match and have a segment that a search may return."""
        return self._catalog.count_videos(filters)

    @property
    def generation(self) -> int:
        """Count the changes of what a search returns; the cheap way to see that something happened."""
        return int(self._catalog.fact("generation"))

    def check_encoder(self, name: str, fingerprint: str) -> None:
        """Refuse vectors of another encoder: they live in another space.

        Raises:
            StoreError: this index was built with another one.
        """
        if fingerprint != self.encoder_fingerprint:
            built = f"built with {self.encoder_name} ({self.encoder_fingerprint})"
            raise StoreError(f"{self.path}: {built}, cannot be used with {name} ({fingerprint})")

    @property
    def home(self) -> str:
        """Say where the vectors are: ``faiss`` or the address of a Milvus."""
        return self._home.address

    def get_meta(self, key: str) -> str | bytes | None:
        """Look up a small derived fact kept beside the index."""
        value: str | bytes | None = self._catalog.meta(f"user.{key}")
        return value

    def set_meta(self, key: str, value: str | bytes) -> None:
        """Keep a small derived fact beside the index."""
        self.set_metas({key: value})

    def set_metas(self, facts: Mapping[str, str | bytes]) -> None:
        """Store several such facts in one transaction: all of them or none."""
        self._writable()
        with self._catalog.transaction():
            for key, value in facts.items():
                self._catalog.set_meta(f"user.{key}", value)

    def meta_keys(self, prefix: str) -> list[str]:
        """List the keys of such facts that begin with a prefix, in order."""
        return self._catalog.meta_keys(f"user.{prefix}", skip=len("user."))

    def info(self) -> StoreInfo:
        """Describe the index in numbers."""
        return StoreInfo(
            path=str(self.path),
            format=self._catalog.format,
            encoder_name=self.encoder_name,
            encoder_fingerprint=self.encoder_fingerprint,
            dim=self.dim,
            generation=self.generation,
            num_bytes=maintenance.folder_size(self.path),
            vectors=self._current().kind,
            memory=self._catalog.meta(MEMORY) or None,
            store=self.home,
            **maintenance.count(self._catalog),
        )

    # Files

    def file(self, path: str) -> FileRecord | None:
        """Look up one path, None when the index never saw it."""
        return self._catalog.file(path)

    def files(self, *, state: FileState | None = None) -> list[FileRecord]:
        """List the paths in order, all or those in one state."""
        return self._catalog.files(state)

    def set_file(
        self,
        path: str,
        *,
        state: FileState,
        reason: str = "",
        video: int | None = None,
        num_bytes: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Set a path's state and reason; what is None stays as it was.

        A path has one video at a time: giving another one is how a changed file is told.
        """
        self._writable()
        if state not in FILE_STATES:
            raise StoreError(f"state must be one of {', '.join(FILE_STATES)}, got {state!r}")
        if video is not None:
            self._catalog.video(video)
        self._catalog.set_file(path, state, reason, video, num_bytes, mtime_ns)
        self._candidates.keep_up()

    def paths(self, videos: Sequence[int], filters: Filters = ALL_VIDEOS) -> dict[int, list[str]]:
        """List the live paths of each video that match, in order: more than one when copies exist."""
        return self._catalog.paths(videos, filters)

    def videos(self, filters: Filters = ALL_VIDEOS, *, video: int | None = None) -> list[StoredVideo]:
        """List contents that have a live path that matches, all or one, in the order of their first paths."""
        return self._catalog.stored_videos(filters, video)

    # Writing videos

    def begin_video(self, fingerprint: str, *, duration: float, facts: Mapping[str, object], num_segments: int) -> int:
        """Find or add a content by its fingerprint; return its id.

        One that was planned with another number of segments was cut differently: it starts over.
        """
        self._writable()
        if not (np.isfinite(duration) and duration >= 0):
            raise StoreError(f"duration must be finite and not negative, got {duration}")
        if num_segments < 1:
            raise StoreError(f"num_segments must be at least 1, got {num_segments}")
        with self._writing:
            return self._catalog.begin_video(fingerprint, float(duration), facts, int(num_segments))

    def is_complete(self, fingerprint: str) -> int | None:
        """Find a content of which everything is stored; return its id, or None."""
        return self._catalog.complete_video(fingerprint)

    def stored_segments(self, video: int) -> set[int]:
        """Say which segments of a video are stored, by number."""
        return set(self._catalog.segments.of_video(video))

    def numbered_segments(self, video: int) -> dict[int, int]:
        """Return the ids of a video's stored segments by their numbers."""
        return self._catalog.segments.of_video(video)

    def find_segments(self, pairs: Sequence[tuple[int, int]]) -> Ids:
        """Return the ids of segments by (video, number), in the same order, without those that are not stored."""
        found = (self._catalog.segments.find(*pair) for pair in pairs)
        return np.array([row for row in found if row is not None], np.int64)

    def add_segment(
        self, video: int, number: int, start: float, end: float, embedding: SegmentEmbedding, *, tokens: bytes = b""
    ) -> int:
        """Store one segment, searchable as soon as this returns; one that is stored already stays as it is.

        ``tokens`` are what an aligner packed for itself; nothing here looks into them.

        Raises:
            StoreError: a vector is of the wrong size or not finite, or the disk refuses.
        """
        return self.add_segments([NewSegment(video, number, start, end, embedding, tokens)])[0]

    def add_segments(self, segments: Sequence[NewSegment]) -> list[int]:
        """Store many segments as ``add_segment`` does, but all or none, with one wait for the disk: the bulk door.

        They may be of several videos, each of which ``begin_video`` knows, in any order, and some may be stored
        already; one that comes twice is stored as it came first. All of them pass through memory at once, so a large
        corpus comes in parts, of thousands.

        Returns:
            Their ids, in the order given.

        Raises:
            StoreError: a vector is of the wrong size or not finite, or the disk refuses; then none is stored.
        """
        self._writable()
        planned = {video: self._catalog.video(video).num_segments for video in {each.video for each in segments}}
        rows: dict[tuple[int, int], Checked] = {}
        for each in segments:
            rows.setdefault((int(each.video), int(each.number)), self._check(each, planned[each.video]))
        with self._writing:
            ids = {key: found for key in rows if (found := self._catalog.segments.find(*key)) is not None}
            new = [key for key in rows if key not in ids]
            places = self._epochs.current().append_all([rows[key][1:4] for key in new])
            stored = [(rows[key][0], place, rows[key][4]) for key, place in zip(new, places, strict=True)]
            ids |= zip(new, self._catalog.segments.add(stored), strict=True)
        self._candidates.keep_up(len(new))
        return [ids[int(each.video), int(each.number)] for each in segments]

    def _check(self, new: NewSegment, planned: int) -> Checked:
        """Turn what came into what is stored, refusing what breaks a rule."""
        if not 0 <= new.number < planned:
            raise StoreError(f"number must be in 0..{planned - 1}, got {new.number}")
        if not (np.isfinite([new.start, new.end]).all() and new.start <= new.end):
            raise StoreError(f"start and end must be finite and in order, got {new.start} and {new.end}")
        row = half("video", new.embedding.video, (self.dim,))[None]
        times = np.ascontiguousarray(new.embedding.times, np.float64)
        frames = half("frames", new.embedding.frames, (len(times), self.dim))
        if not np.isfinite(times).all():
            raise StoreError(f"times must be finite, got {times}")
        segment = Segment(int(new.video), int(new.number), float(new.start), float(new.end))
        return segment, row, frames, np.frombuffer(new.tokens, np.uint8).reshape(-1, 1), times

    def finish_video(self, video: int, *, salvaged: str = "") -> None:
        """Mark a video as stored whole, or, saying in ``salvaged`` what was lost, as far as it could be read."""
        self._writable()
        planned, stored = self._catalog.video(video).num_segments, len(self._catalog.segments.of_video(video))
        if stored < planned and not salvaged:
            raise StoreError(f"salvaged must say what was lost when {stored} of {planned} segments are stored, got ''")
        self._catalog.finish_video(video, salvaged)

    def end_video(self, video: int, *, note: str = "") -> None:
        """Mark a video as complete with the segments that it has; ``note`` says why there are not more."""
        self._writable()
        self._catalog.finish_video(video, note, num_segments=len(self._catalog.segments.of_video(video)))

    def prune(self, files: Collection[str] | None = None) -> PruneReport:
        """Forget files in state missing, and contents no file has any more; give their space back when it is much.

        ``files`` narrows that to these paths; the others in this state stay as they are.
        """
        self._writable()
        with self._writing:
            report = maintenance.prune(self._catalog, files)
            old = self._epochs.current()
            fresh = maintenance.compact(self._catalog, old, self.path / "features")
            if fresh is None:
                return report
            self._epochs.replace(fresh)
            return replace(report, freed_bytes=old.num_bytes - fresh.num_bytes)

    def set_memory(self, num_bytes: int) -> None:
        """Say how many bytes the search's vectors may take from the next ``save_vectors`` on, 0 for no limit.

        Indexes too large for a flat scan then have the finest kind of vectors that fits: float16 values, or 2 or 1 bits
        a value, which a search refines from the feature files.
        """
        self._writable()
        if num_bytes < 0:
            raise StoreError(f"memory must not be negative, got {num_bytes}")
        self._catalog.set_meta(MEMORY, num_bytes)

    def save_vectors(self) -> None:
        """Save the search index, so that the next open need not build it: the end of an indexing run."""
        self._writable()
        self._current().save()

    def move_vectors(self, source: str, target: str, *, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Take the vectors from where they are to ``target``: both ``faiss`` or an address, as in ``create``.

        Killed at any moment, the same call goes on; once the move is done it does nothing. Searches use the old place
        to the last moment, the new one from then on; the old copy is deleted. ``on_progress`` hears of videos done, and
        of all.

        Raises:
            StoreError: they are not in ``source``, or one of both cannot be reached.
        """
        self._writable()

        def open_home(home: Home, told: Callable[[int, int], None] | None = None) -> Finder:
            return open_finder(home, self.path, self.dim, self._catalog, self._epochs, device="cpu", on_progress=told)

        with self._writing:
            self._candidates.close()  # or a file that is deleted would stay open
            moving.move_store(self.path, self._catalog, open_home, source, target, on_progress)
            self._current()

    def verify_vectors(self, *, repair: bool = False) -> list[BadFile]:
        """Read every byte of the saved vectors and list the damaged files; ``repair`` drops them, to be built anew."""
        if repair:
            self._writable()
        return maintenance.find_bad_files(self._catalog, self.path / "vectors", repair=repair)

    @classmethod
    def repair_catalog(cls, path: str | os.PathLike[str]) -> list[str]:
        """Make a damaged catalog anew of the rows that are whole; return what was damaged, in sentences.

        This comes before ``open``, which a damaged catalog may prevent. What was lost the next run over the same files
        finds or encodes again.

        Raises:
            StoreError: No index is there, another process writes it, or too much is lost.
        """
        folder = Path(path)
        if not (folder / "catalog.sqlite").is_file():
            raise StoreError(f"{folder}: there is no index here")
        lock = WriterLock(folder / "writer.lock")
        try:
            found = repair_catalog(folder / "catalog.sqlite")
        finally:
            lock.release()
        if found:
            with cls.open(folder, write=True) as store:
                if store.home != FAISS:  # the tables that followed the collection are gone: it is filled anew
                    store._candidates.drop()
                    store._candidates.prepare()
        return found

    def verify(self, *, repair: bool = False) -> list[BadSegment]:
        """Read all segments and list those whose bytes are damaged; ``repair`` has them encoded again.

        Raises:
            StoreError: the catalog itself is damaged: ``repair_catalog`` comes first.
        """
        if repair:
            self._writable()
        found = maintenance.find_damage(self._catalog, self._epochs)
        if found and repair:
            with self._writing:
                maintenance.drop_segments(self._catalog, [bad.id for bad in found])
        return found

    # Reading

    def search(
        self, queries: Float[np.ndarray, "query dim"], k: int, filters: Filters = ALL_VIDEOS
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Find the k segments nearest each query among videos that have a live path, and one that matches.

        Returns:
            Inner products, best first, and segment ids; -inf and -1 where there are fewer than k.

        Raises:
            StoreError: the queries are of the wrong size or not finite.
            MissingExtraError: what finds the vectors is not installed.
        """
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise StoreError(f"queries must have the shape (query, {self.dim}), got {queries.shape}")
        if not np.isfinite(queries).all():
            raise StoreError(f"queries must be finite, got {queries[~np.isfinite(queries)][0]}")
        if k < 1:
            raise StoreError(f"k must be at least 1, got {k}")
        while True:
            finder, home = self._current(), self._home
            try:
                return finder.search(queries, k, filters)
            except StoreError:
                if Home.read(self._catalog.meta(moving.HOME)) == home:
                    raise  # else the vectors were moved under this search

    def segments(self, ids: Sequence[int] | Ids) -> list[Segment]:
        """Look up segments, in the order asked."""
        return self._catalog.segments.get(ids)

    def read(self, ids: Sequence[int] | Ids, *, tokens: bool = True) -> StoredSegments:
        """Read what is stored of segments, in the order asked, of those that are there and whole.

        What a search found may have been pruned since by another process: that is not there. What is damaged is left
        out, which is said once.
        """
        return self._epochs.read(np.asarray(ids, np.int64), tokens=tokens)

    def owners(self, ids: Sequence[int] | Ids) -> dict[int, int]:
        """Map segments to their videos, as far as they are there."""
        return self._catalog.segments.owners(ids)

    def frames(
        self, ids: Sequence[int] | Ids
    ) -> list[tuple[Float16[np.ndarray, "frame dim"], Float64[np.ndarray, " frame"]]]:
        """Read the frame vectors, as they are stored, and frame times of segments, in the order asked.

        Raises:
            StoreError: a segment is unknown, or its bytes are damaged.
        """
        times = self._catalog.segments.times(ids)
        features, places = self._locate(ids)
        frames = [features.read_frames(place) for place in places]
        return list(zip(frames, times, strict=True))

    def tokens(self, ids: Sequence[int] | Ids) -> list[memoryview]:
        """Read what was stored as segments' tokens, in the order asked; empty for a segment that came without.

        Raises:
            StoreError: a segment is unknown, or its bytes are damaged.
        """
        features, places = self._locate(ids)
        return [features.read_tokens(place) for place in places]

    def vectors(self, ids: Sequence[int] | Ids) -> Float16[np.ndarray, "segment dim"]:
        """Read segments' own vectors, as they are stored, in the order asked.

        Raises:
            StoreError: a segment is unknown, or its bytes are damaged.
        """
        features, places = self._locate(ids)
        return np.concatenate([np.empty((0, self.dim), np.float16), *map(features.read_video, places)])

    def searchable(self) -> Ids:
        """List the ids of the segments a search may return, rising."""
        return self._catalog.segments.searchable()

    def video_segments(self, video: int) -> list[int]:
        """List the ids of a video's segments, in time order."""
        return list(self._catalog.segments.of_video(video).values())

    def video_vectors(self) -> Float16[np.ndarray, "segment dim"]:
        """Give the vectors of all searchable segments in id order, for statistics: not copied where none is dead."""
        features, places = self._epochs.locate(self._catalog.segments.searchable())
        rows = np.fromiter((place.row for place in places.values()), np.int64)
        stored = features.video.view(0, int(rows.max()) + 1 if len(rows) else 0)
        return stored if len(rows) == len(stored) and (np.diff(rows) == 1).all() else stored[rows]

    def contents(self) -> dict[str, int]:
        """Map the fingerprints of the contents that have a live path to their videos' ids, in order of these."""
        return self._catalog.contents()

    def fingerprints(self) -> dict[int, str]:
        """Map the ids of all contents to their fingerprints, also of those whose files are gone or failed."""
        return self._catalog.fingerprints()

    def video(self, video: int) -> VideoRecord:
        """Look up one content."""
        return self._catalog.video(video)

    def _open_finder(self, home: Home) -> Finder:
        return open_finder(home, self.path, self.dim, self._catalog, self._epochs, device=self._device)

    def _current(self) -> Finder:
        """Give what finds the vectors where they are now: another process may have moved them."""
        home = Home.read(self._catalog.meta(moving.HOME))
        with self._opening:
            if home != self._home:
                self._candidates.close()
                self._home, self._candidates = home, self._open_finder(home)
            return self._candidates

    def _locate(self, ids: Sequence[int] | Ids) -> tuple[Features, list[Place]]:
        features, places = self._epochs.locate(ids)
        return features, in_order(places, ids)

    def _writable(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self.path}: opened for reading, cannot be changed")


def find_folder(path: str | os.PathLike[str]) -> Path:
    """Give the folder of an index.

    Raises:
        StoreError: it is an address: SQLite and mapped files need a file system.
    """
    folder = Path(path)
    if ADDRESS.match(str(folder)) and not Path(folder.parts[0]).exists():
        address = ADDRESS.sub(lambda found: found[0].rstrip("/") + "//", str(folder), count=1)
        raise StoreError(
            f"{address}: an index must be a folder of a file system, got an address: only videos may be at one"
        )
    return folder
