"""The tables and the vectors of several indexes, as far as searches read them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float16
from typing_extensions import override

from vidret.store.catalog.segments import Segments, ShotChanges
from vidret.store.catalog.tables import Metadata
from vidret.store.catalog.videos import Files, Videos
from vidret.store.epochs import Epochs
from vidret.store.joined.ids import STRIDE, JoinedIds, SearchedTogether
from vidret.store.records import CALIBRATION, JUDGE, FileRecord, StoredSegments, StoredVideo, VideoRecord
from vidret.store.snapshots.bitmap import Ids
from vidret.types import ALL_VIDEOS, Filters, Segment, ShotChange

MEASURED = ("scale.", "background", f"{CALIBRATION}.", JUDGE)  # metadata that hold for the videos of one index


class JoinedTable(SearchedTogether):
    """A table of several indexes."""

    def __init__(self, ids: JoinedIds) -> None:
        """Set the indexes."""
        self._ids = ids


class JoinedFiles(JoinedTable, Files):
    """The files of several indexes."""

    @override
    def get(self, path: str) -> FileRecord | None:
        name, found = self._ids.names(), list[FileRecord]()
        for number, index in self._ids.indexes.items():
            record = index.files.get(path)
            if record is not None:
                found.append(replace(record, video=None if record.video is None else name(number, record.video)))
        return max(found, key=lambda record: record.live, default=None)

    @override
    def paths_of(self, videos: Sequence[int], filters: Filters = ALL_VIDEOS) -> dict[int, list[str]]:
        name, paths = self._ids.names(), {int(video): set[str]() for video in videos}
        for number, own in self._ids.list_copies(paths).items():
            for video, found in self._ids.indexes[number].files.paths_of(own, filters).items():
                paths[name(number, video)].update(found)
        return {video: sorted(found, key=os.fsencode) for video, found in paths.items()}


class JoinedVideos(JoinedTable, Videos):
    """The videos of several indexes."""

    @override
    def get(self, video: int) -> VideoRecord:
        _, index, own = self._ids.find_index(video)
        return replace(index.videos.get(own), id=int(video))

    @override
    def find(
        self, filters: Filters = ALL_VIDEOS, *, video: int | None = None, ids: Sequence[int] | None = None
    ) -> list[StoredVideo]:
        wanted, name, found = ids if video is None else [video], self._ids.names(), dict[int, StoredVideo]()
        own = None if wanted is None else self._ids.list_copies(wanted)
        for number, index in self._ids.indexes.items():
            for stored in index.videos.find(filters, ids=None if own is None else own[number]):
                key = name(number, stored.id)
                paths = {*stored.paths, *(found[key].paths if key in found else ())}
                found[key] = replace(found.get(key, stored), id=key, paths=tuple(sorted(paths, key=os.fsencode)))
        return sorted(found.values(), key=lambda stored: os.fsencode(stored.paths[0]))

    @override
    def contents(self, fingerprints: Iterable[str] | None = None) -> dict[str, int]:
        wanted, name = None if fingerprints is None else list(fingerprints), self._ids.names()
        return {
            fingerprint: name(number, video)
            for number, index in self._ids.indexes.items()
            for fingerprint, video in index.videos.contents(wanted).items()
        }

    @override
    def find_intact(self, ids: Iterable[int]) -> set[int]:
        own, name = self._ids.list_copies(ids), self._ids.names()
        indexes = self._ids.indexes.items()
        return {name(number, video) for number, index in indexes for video in index.videos.find_intact(own[number])}


class JoinedSegments(JoinedTable, Segments):
    """The segments of several indexes."""

    @override
    def of_video(self, video: int) -> dict[int, int]:
        number, index, own = self._ids.find_index(video)
        return {place: number * STRIDE + segment for place, segment in index.segments.of_video(own).items()}

    @override
    def find_many(self, pairs: Sequence[tuple[int, int]]) -> Ids:
        listed = {video: self.of_video(video) for video, _ in pairs}
        return np.array([listed[video][place] for video, place in pairs if place in listed[video]], np.int64)

    @override
    def intact(self, ids: Sequence[int] | Ids) -> dict[int, Segment]:
        name = self._ids.names()
        return {
            number * STRIDE + key: replace(segment, video=name(number, segment.video))
            for number, index, own in self._ids.group(ids)
            for key, segment in index.segments.intact(own).items()
        }


class JoinedShots(JoinedTable, ShotChanges):
    """The shot changes of several indexes."""

    @override
    def of_video(self, video: int) -> list[ShotChange]:
        _, index, own = self._ids.find_index(video)
        return index.shots.of_video(own)


class JoinedFeatures(JoinedTable, Epochs):
    """The vectors of several indexes."""

    @override
    def intact_vectors(self, ids: Ids) -> tuple[Ids, Float16[np.ndarray, "row dim"]]:
        keys, vectors = [np.zeros(0, np.int64)], [np.zeros((0, self._ids.dim), np.float16)]
        for number, index, own in self._ids.group(ids):
            kept, rows = index.features.intact_vectors(own)
            keys.append(kept + number * STRIDE)
            vectors.append(rows)
        return np.concatenate(keys), np.concatenate(vectors)

    @override
    def read(self, ids: Sequence[int] | Ids, *, tokens: bool = True) -> StoredSegments:
        name, rows = self._ids.names(), dict[int, tuple[Any, ...]]()
        for number, index, own in self._ids.group(ids):
            stored = index.features.read(own, tokens=tokens)
            segments = [replace(each, video=name(number, each.video)) for each in stored.segments]
            columns = zip(segments, stored.frames, stored.times, stored.tokens, strict=True)
            rows.update(zip((stored.ids + number * STRIDE).tolist(), columns, strict=True))
        kept = [key for key in np.asarray(ids, np.int64).tolist() if key in rows]
        return StoredSegments(np.array(kept, np.int64), *([rows[key][column] for key in kept] for column in range(4)))


class JoinedMetadata(JoinedTable, Metadata):
    """The metadata of several indexes: of each key, what the first index has that has it."""

    @override
    def get(self, key: str) -> str | bytes | None:
        if key.startswith(MEASURED):
            return None
        values = (index.metadata.get(key) for index in self._ids.indexes.values())
        return next((value for value in values if value), None)

    @override
    def keys(self, prefix: str) -> list[str]:
        return sorted({key for index in self._ids.indexes.values() for key in index.metadata.keys(prefix)})
