"""Several indexes that are searched as one, as if they were merged."""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64
from typing_extensions import override

from vidret.errors import StoreError
from vidret.store.joined.ids import STRIDE, JoinedIds, SearchedTogether
from vidret.store.joined.tables import (
    JoinedFeatures,
    JoinedFiles,
    JoinedMetadata,
    JoinedSegments,
    JoinedShots,
    JoinedVideos,
)
from vidret.store.records import StoredVideo
from vidret.store.snapshots.bitmap import Ids
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, Filters


class JoinedStore(SearchedTogether, Store):
    """Several indexes by their numbers, for any number of readers.

    A video that several indexes have is one video with the paths of all.
    """

    def __init__(self, indexes: Mapping[int, Store]) -> None:
        """Use open indexes, which ``close`` closes.

        Raises:
            StoreError: They have different encoders.
        """
        first = next(iter(indexes.values()))
        name, fingerprint, self.dim = first.encoder_name, first.encoder_fingerprint, first.dim
        for other in indexes.values():
            if other.encoder_fingerprint != fingerprint:
                own = f"{other.encoder_name} ({other.encoder_fingerprint})"
                raise StoreError(f"{other.path}: encoder must be {name} ({fingerprint}), as of {first.path}, got {own}")
        self.encoder_name, self.encoder_fingerprint, self.ids = name, fingerprint, JoinedIds(indexes)
        self.files, self.videos = JoinedFiles(self.ids), JoinedVideos(self.ids)
        self.segments, self.shots = JoinedSegments(self.ids), JoinedShots(self.ids)
        self.features, self.metadata = JoinedFeatures(self.ids), JoinedMetadata(self.ids)

    @property
    @override
    def parts(self) -> Mapping[int, Store]:
        return self.ids.indexes

    @override
    def close(self) -> None:
        for index in self.parts.values():
            index.close()

    @override
    def __len__(self) -> int:
        return self.count_segments()

    @property
    @override
    def max_k(self) -> int | None:
        return min((index.max_k for index in self.parts.values() if index.max_k is not None), default=None)

    @property
    @override
    def generation(self) -> int:
        return sum(index.generation for index in self.parts.values())

    @property
    @override
    def home(self) -> str:
        return ", ".join(dict.fromkeys(index.home for index in self.parts.values()))

    # Reading

    @override
    def searchable(self) -> Ids:
        found = [
            index.snapshot().select(ALL_VIDEOS, left_out).ids() + number * STRIDE
            for number, index, left_out in self.ids.select(ALL_VIDEOS, frozenset())
        ]
        return np.concatenate(found)

    @override
    def owners(self, ids: Sequence[int] | Ids) -> dict[int, int]:
        name = self.ids.names()
        return {
            number * STRIDE + segment: name(number, video)
            for number, index, own in self.ids.group(ids)
            for segment, video in index.owners(own).items()
        }

    @override
    def count_segments(self, filters: Filters = ALL_VIDEOS, excluded: Set[int] = frozenset()) -> int:
        return sum(index.count_segments(filters, out) for _, index, out in self.ids.select(filters, excluded))

    @override
    def count_videos(self, filters: Filters = ALL_VIDEOS, excluded: Set[int] = frozenset()) -> int:
        return sum(index.count_videos(filters, out) for _, index, out in self.ids.select(filters, excluded))

    @override
    def find_contents(self, fingerprints: Iterable[str]) -> dict[str, int]:
        wanted, name = list(fingerprints), self.ids.names()
        return {
            fingerprint: name(number, video)
            for number, index in self.parts.items()
            for fingerprint, video in index.find_contents(wanted).items()
        }

    @override
    def find_named(self, path: str | os.PathLike[str]) -> list[StoredVideo]:
        name, indexes = self.ids.names(), self.parts.items()
        return self.videos.find(
            ids=[name(number, video.id) for number, index in indexes for video in index.find_named(path)]
        )

    @override
    def overlapping_segments(self, spans: Iterable[tuple[int, float, float]]) -> Ids:
        own: dict[int, list[tuple[int, float, float]]] = {number: [] for number in self.parts}
        for video, start_s, end_s in spans:
            own[video // STRIDE].append((video % STRIDE, start_s, end_s))
        found = [index.overlapping_segments(own[number]) + number * STRIDE for number, index in self.parts.items()]
        return np.concatenate(found)

    @override
    def search(
        self,
        queries: Float[np.ndarray, "query dim"],
        k: int,
        filters: Filters = ALL_VIDEOS,
        *,
        excluded: Set[int] = frozenset(),
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        found_scores, found_ids = [], []
        for number, index, left_out in self.ids.select(filters, excluded):
            own_scores, own = index.search(queries, k, filters, excluded=left_out)
            found_scores.append(own_scores)
            found_ids.append(np.where(own < 0, own, own + number * STRIDE))
        scores, ids = np.concatenate(found_scores, axis=1), np.concatenate(found_ids, axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)


def open_indexes(paths: Sequence[Path], *, device: str) -> Store:
    """Open an index, or several as one.

    Raises:
        StoreError: There is no index, one cannot be read, or they have different encoders.
    """
    with ExitStack() as stack:
        indexes = [stack.enter_context(Store.open(path, device=device)) for path in paths]
        store = JoinedStore(dict(enumerate(indexes))) if len(indexes) > 1 else indexes[0]
        stack.pop_all()  # it closes them
    return store
