"""``Store``: an index in a folder, made of a catalog, feature files and a vector index.

The catalog is authoritative. Feature rows are on disk before the catalog refers to them, and the vector index is
derived from both. A writer can be killed at any time: the next one continues after the last committed segment.
"""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidret.errors import MissingIndexError, StoreError, VidretError
from vidret.store.catalog.catalog import Catalog, repair_catalog
from vidret.store.catalog.schema import Metadata
from vidret.store.feature_epochs import Epochs
from vidret.store.features import create_features
from vidret.store.folder import CATALOG, FEATURES, WriteAccess, check_entries, check_folder, explain_refusal, read_place
from vidret.store.records import FIXED_GRID, SAMPLING, SEGMENTS, StoredVideo, StoreInfo, VideoSize
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Selection, Snapshot
from vidret.store.upkeep import Upkeep, folder_size
from vidret.store.vectors.base import FoundWords, SearchResult, VectorLocation, VectorOptions
from vidret.store.vectors.current import HOME, CurrentVectors
from vidret.store.vectors.faiss import MEMORY
from vidret.store.vectors.registry import allow_address, check_address, normalise_address
from vidret.store.writing import Writer
from vidret.types import ALL_VIDEOS, Filters, Segment


class Store:
    """An index in a folder, for any number of readers and one writer, in any threads and processes.

    With vectors in a milvus-lite file, only one process at a time can search or write; see ``milvus``. Open it with
    ``Store.create`` or ``Store.open``; it is a context manager.

    Attributes:
        path: Its folder.
        place: Device and inode of its catalog; those of an index that replaces it differ.
        encoder_name, encoder_fingerprint, dim: The encoder of its vectors, and their dimension.
        files, videos, segments, shots, texts: Its tables, to read from.
        features: The vectors, frames and tokens of segments.
        metadata: The metadata of other packages.
        writer: Adds files, videos and segments.
        upkeep: Prunes, saves, moves, verifies.
    """

    def __init__(self, path: Path, access: WriteAccess, *, device: str) -> None:
        """Open the files of an index; use ``create`` or ``open`` instead."""
        self.path = path
        self._access = access
        with ExitStack() as opened:
            opened.callback(access.release)
            self._catalog = catalog = opened.enter_context(closing(Catalog(path / CATALOG, write=access.is_writer)))
            self.encoder_name, self.encoder_fingerprint, self.dim = catalog.tables.encoder()
            try:
                self._epochs = epochs = Epochs(path / FEATURES, self.dim, catalog, write=access.is_writer)
            except OSError as error:
                raise StoreError(f"{error.filename}: {error.strerror}") from error
            self._vectors = vectors = CurrentVectors(
                VectorOptions(folder=path, dim=self.dim, catalog=catalog, epochs=epochs, device=device)
            )
            opened.pop_all()  # ``close`` closes them
        self.place = catalog.place
        self.files, self.videos, self.segments = catalog.files, catalog.videos, catalog.segments
        self.texts = catalog.texts
        self.shots, self.features, self.metadata = (catalog.segments.shots, epochs, Metadata(catalog.tables, access))
        self.writer = Writer(self.dim, catalog, epochs, vectors, access)
        self.upkeep = Upkeep(path, catalog, epochs, vectors, access)

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
        """Create an index, or open an existing one, for writing.

        ``vectors`` is the location of its vectors: ``faiss`` or the address of a Milvus. It defaults to the current one
        of an existing index, and to ``faiss`` for a new one.

        Raises:
            StoreError: The index has another encoder, another process is writing it, it cannot be read, its vectors are
                elsewhere or cannot be reached.
            MissingExtraError: FAISS or pymilvus is not installed.
        """
        folder = check_folder(path)
        address = None if vectors is None else normalise_address(vectors, folder)
        if address is not None:
            allow_address(folder, address)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder}: cannot be created ({error.strerror})") from error
        check_entries(folder)
        access = WriteAccess(folder, write=True)
        try:
            if not Catalog.exists(folder / CATALOG):
                facts: dict[str, str | int] = {
                    "encoder_name": encoder_name,
                    "encoder_fingerprint": encoder_fingerprint,
                    "dim": dim,
                }
                if address is not None:
                    check_address(address, folder, dim)
                    facts[HOME] = VectorLocation.create(address).to_json()
                create_features(folder / FEATURES, dim)
                Catalog.create(folder / CATALOG, facts).close()
        except BaseException:
            access.release()
            raise
        store = cls(folder, access, device="cpu")
        try:
            store.check_encoder(encoder_name, encoder_fingerprint)
            if address not in (None, store.home):
                command = f"vidret store move {store.home} {address} --index {folder}"
                raise StoreError(f"{folder}: store must be {store.home}, got {address}; to move the vectors: {command}")
            store._vectors.index.prepare()
        except VidretError:
            store.close()
            raise
        return store

    @staticmethod
    def exists(path: str | os.PathLike[str]) -> bool:
        """Return whether the folder contains an index; one whose creation was interrupted does not count.

        Raises:
            StoreError: The folder cannot be read; or, beside a catalog, it holds a link or a special file; or its
                catalog is something else.
        """
        folder = check_folder(path)
        with explain_refusal(folder):
            try:
                (folder / CATALOG).lstat()
            except PermissionError:
                raise
            except (OSError, ValueError):  # so that a folder of videos is never an index
                return False
        check_entries(folder)
        return Catalog.exists(folder / CATALOG)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False, device: str = "cpu") -> "Store":
        """Open an index; on the device ``cuda:N`` FAISS searches on that GPU where it can.

        Raises:
            StoreError: There is no index, another process is writing it, or it cannot be read.
        """
        folder = Path(path)
        if not cls.exists(folder):
            raise MissingIndexError(folder)
        return cls(folder, WriteAccess(folder, write=write), device=device)

    def close(self) -> None:
        """Close all files; arrays that were returned stay readable."""
        self._vectors.index.close()
        self._catalog.close()
        self._epochs.close()
        self._access.release()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of searchable segments."""
        return self.select().num_segments

    def hold(self) -> AbstractContextManager[None]:
        """Pin this thread to the current snapshot of the index; later commits stay invisible to it."""
        return self._catalog.tables.hold()

    def is_replaced(self) -> bool:
        """Return whether another index has replaced this one in its folder.

        Raises:
            StoreError: The folder has no index.
        """
        return read_place(self.path) != self.place

    def snapshot(self) -> Snapshot:
        """Return an immutable view of the index as it is now."""
        return self._catalog.snapshots.current()

    # Properties

    @property
    def parts(self) -> "Mapping[int, Store]":
        """The joined indexes by number; only this one, but see ``JoinedStore``."""
        return {0: self}

    @property
    def max_k(self) -> int | None:
        """The maximum ``k`` of ``search``, None for no limit."""
        return self._vectors.reopen().max_k

    @property
    def generation(self) -> int:
        """The number of changes to search results; a fast way to detect changes."""
        return int(self._catalog.tables.fact("generation"))

    def check_encoder(self, name: str, fingerprint: str) -> None:
        """Check that vectors of an encoder are comparable with those of the index.

        Raises:
            StoreError: The index was built with another encoder.
        """
        if fingerprint == self.encoder_fingerprint:
            return
        move = f"vidret reindex --index {self.path} --model {name}"
        if name == self.encoder_name:
            raise StoreError(f"{self.path} was built with other weights of {name}; to encode its videos again: {move}")
        expected = f"{self.encoder_name} ({self.encoder_fingerprint}), which built the index"
        raise StoreError(
            f"{self.path}: encoder must be {expected}, got {name} ({fingerprint}); to move the index to it: {move}"
        )

    @property
    def home(self) -> str:
        """The location of the vectors: ``faiss`` or the address of a Milvus."""
        return self._vectors.address

    def info(self) -> StoreInfo:
        """Return statistics of the index."""
        return StoreInfo(
            path=str(self.path),
            format=self._catalog.format,
            encoder_name=self.encoder_name,
            encoder_fingerprint=self.encoder_fingerprint,
            dim=self.dim,
            generation=self.generation,
            num_bytes=folder_size(self.path),
            vectors=self._vectors.reopen().kind,
            memory=self._catalog.tables.meta(MEMORY) or None,
            store=self.home,
            segment_rule=self._catalog.tables.meta(f"user.{SEGMENTS}") or FIXED_GRID,
            sampling=self._catalog.tables.meta(f"user.{SAMPLING}") or "exact",
            **self.snapshot().describe(),
        )

    @classmethod
    def repair_catalog(cls, path: str | os.PathLike[str]) -> list[str]:
        """Rebuild a damaged catalog from its intact rows; return descriptions of the damage.

        Run it before ``open``, which may fail on a damaged catalog. The next run over the same files restores lost
        rows.

        Raises:
            StoreError: There is no index, another process is writing it, or too much is lost.
        """
        folder = Path(path)
        check_entries(folder)
        if not (folder / CATALOG).is_file():
            raise MissingIndexError(folder)
        access = WriteAccess(folder, write=True)
        try:
            damage = repair_catalog(folder / CATALOG)
        finally:
            access.release()
        if damage:
            with cls.open(folder, write=True) as store:
                store._vectors.reset()
        return damage

    # Reading

    def select(self, filters: Filters = ALL_VIDEOS, excluded: Set[int] = frozenset()) -> Selection:
        """Return the videos that match and are not excluded, with their searchable segments."""
        return self.snapshot().select(filters, excluded)

    def searchable(self) -> Ids:
        """Return the ids of all searchable segments, ascending."""
        return self.select().ids()

    def read_segments(self, ids: Sequence[int] | Ids) -> dict[int, Segment]:
        """Return the segments that exist and are intact, by id."""
        return self.snapshot().read_segments(ids)

    def read_sizes(self, video_ids: Iterable[int]) -> dict[int, VideoSize]:
        """Return the size of the stored part of some videos; 0 for unknown ones."""
        snapshot, ids = self.snapshot(), list(video_ids)
        rows, videos = snapshot.find_videos(ids).tolist(), snapshot.videos
        columns = videos.durations, videos.num_segments, videos.last_segments
        return {
            key: VideoSize(key, *(column[row].item() for column in columns)) if row >= 0 else VideoSize(key, 0.0, 0, -1)
            for key, row in zip(ids, rows, strict=True)
        }

    def owners(self, ids: Sequence[int] | Ids) -> Ids:
        """Return the id of the video of each segment, -1 for those that do not exist."""
        return self.snapshot().owners(ids)

    def find_contents(self, fingerprints: Iterable[str], within: Selection | None = None) -> dict[str, int]:
        """Return the ids of the selected videos, or of all with a live path, by fingerprint, of those given."""
        return self.snapshot().find_contents(fingerprints, within)

    def list_page(self, filters: Filters, after: str, limit: int) -> tuple[list[StoredVideo], str | None]:
        """Return the next matching videos by their first path, after a given path; '' starts at the first.

        Return also the path after which the next page begins, None for the last page. Videos with damaged rows are
        missing.
        """
        page = self.snapshot().list_videos(filters, os.fsencode(after), limit + 1)
        following = os.fsdecode(page[limit - 1][0]) if len(page) > limit else None
        return self.videos.find(filters, ids=[video for _, video in page[:limit]]), following

    def find_named(self, path: str | os.PathLike[str]) -> list[StoredVideo]:
        """Return the videos with a path that ends with the file name of ``path``."""
        return self.videos.find(ids=self.snapshot().find_named(os.fspath(path)))

    def overlapping_segments(self, spans: Iterable[tuple[int, float, float]]) -> Ids:
        """Return the ascending ids of the segments that overlap any of the spans (video, start, end in seconds)."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self.overlapping(spans)]))

    def overlapping(self, spans: Iterable[tuple[int, float, float]]) -> list[Ids]:
        """Return the ascending ids of the segments that overlap each span (video, start, end in seconds)."""
        return self.snapshot().overlapping(spans)

    def search(self, queries: Float[np.ndarray, "query dim"], k: int, within: Selection | None = None) -> SearchResult:
        """Find the k segments nearest to each query, of a selection or of all videos with a live path.

        Returns:
            Inner products, best first, and segment ids; -inf and -1 if there are fewer than k.

        Raises:
            StoreError: The shape of the queries is wrong, or a value is not finite.
            MissingExtraError: FAISS or pymilvus is not installed.
        """
        checked = np.asarray(queries, np.float32)
        if checked.ndim != 2 or checked.shape[1] != self.dim:
            raise StoreError(f"queries must have the shape (query, {self.dim}), got {checked.shape}")
        if not np.isfinite(checked).all():
            raise StoreError(f"queries must be finite, got {checked[~np.isfinite(checked)][0]}")
        if k < 1:
            raise StoreError(f"k must be at least 1, got {k}")
        selection = within or self.select()
        return self._vectors.ask(lambda index: index.search_within(checked, k, selection))

    def search_words(self, terms: Sequence[str], k: int, within: Selection) -> FoundWords | None:
        """Find the k texts of a selection with the best bm25 for any of these stems; None if the store cannot."""
        return self._vectors.ask(lambda index: index.search_words(terms, k, within))
