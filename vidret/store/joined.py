"""Joined indexes: several indexes that are searched as one, as if they were merged.

The ids of segments and videos have the number of their index in the high bits. A video that several indexes have gets
the id of one of them.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16
from typing_extensions import override

from vidret.errors import StoreError
from vidret.store.catalog.schema import Metadata
from vidret.store.catalog.segments import Segments, ShotChanges
from vidret.store.catalog.videos import Files, Videos, rank_path
from vidret.store.feature_epochs import Epochs
from vidret.store.records import (
    CALIBRATION,
    PROBABILITIES,
    FileRecord,
    StoredSegments,
    StoredVideo,
    VideoRecord,
    VideoSize,
)
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Selection, Snapshot, remember
from vidret.store.store import Store
from vidret.store.vectors.base import SearchResult
from vidret.types import ALL_VIDEOS, Filters, Segment, ShotChange

STRIDE = 1 << 33  # more than the ids of one index
ONE_INDEX = "several indexes are searched as one; open only one of them for anything else"
Copies = Mapping[int, Sequence[int]]  # all ids of a content that several indexes have, by each of these ids


class SearchedTogether:
    """The part of a class that searches use, for several indexes; all other members of the class raise an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise StoreError(ONE_INDEX)


class JoinedIds:
    """Translates the ids of joined indexes to the number of an index and the id there."""

    def __init__(self, indexes: Mapping[int, Store]) -> None:
        self.indexes, self.dim = indexes, next(iter(indexes.values())).dim
        self._known: tuple[object, Copies, dict[object, JoinedSelection]] = None, {}, {}

    def _read(self) -> "tuple[Copies, dict[object, JoinedSelection]]":
        """Return the present copies, and the cache of selections."""
        snapshots = {index_number: index.snapshot() for index_number, index in self.indexes.items()}
        position = tuple(snapshot.position for snapshot in snapshots.values())
        known = self._known
        if known[0] != position:
            self._known = known = position, _find_copies(snapshots), {}
        return known[1:]

    @property
    def copies(self) -> Copies:
        """The ids of contents that several indexes have now; the first id, of a complete video if possible, is used."""
        return self._read()[0]

    def find_index(self, key: int) -> tuple[int, Store, int]:
        """Return the number of the index that has a video or segment, the index, and the id there."""
        index_number, local_id = divmod(int(key), STRIDE)
        if index_number not in self.indexes:
            raise StoreError(f"video must be one of these indexes, got {key}")
        return index_number, self.indexes[index_number], local_id

    def names(self) -> Callable[[int, int], int]:
        """Return a function that maps the number of an index and the id of a video there to its joined id."""
        copies = self.copies

        def name(index_number: int, video: int) -> int:
            key = index_number * STRIDE + video
            return copies.get(key, (key,))[0]

        return name

    def list_copies(self, videos: Iterable[int]) -> dict[int, list[int]]:
        """Return the ids, in each index, of some videos and their copies."""
        local_ids: dict[int, list[int]] = {index_number: [] for index_number in self.indexes}
        copies = self.copies
        for key in (key for video in videos for key in copies.get(video, (video,))):
            index_number, _, local_id = self.find_index(key)
            local_ids[index_number].append(local_id)
        return local_ids

    def group(self, ids: Sequence[int] | Ids) -> Iterator[tuple[int, Store, Ids]]:
        """Yield the number of each index that may have some of the ids, the index, and these ids there."""
        keys = np.asarray(ids, np.int64)
        for index_number in np.unique(keys // STRIDE).tolist():
            if index_number in self.indexes:
                yield index_number, self.indexes[index_number], keys[keys // STRIDE == index_number] % STRIDE

    def select(self, filters: Filters, excluded: Set[int]) -> "JoinedSelection":
        """Return the videos that match by a path in any index and are not excluded; segments are of the first copy."""
        copies, known = self._read()

        def find() -> JoinedSelection:
            left_out, parts = self.list_copies(excluded), dict[int, Selection]()
            snapshots = {index_number: index.snapshot() for index_number, index in self.indexes.items()}
            masks = {
                index_number: snapshot.select(filters, set(left_out[index_number])).videos.copy()
                for index_number, snapshot in snapshots.items()
            }
            keys, firsts = np.array([(key, ids[0]) for key, ids in copies.items()], np.int64).reshape(-1, 2).T
            rows, matches = np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
            for index_number, snapshot in snapshots.items():
                is_here = keys // STRIDE == index_number
                rows[is_here] = snapshot.find_videos(keys[is_here] % STRIDE)
                matches[is_here] = masks[index_number][rows[is_here]]
            matches = np.isin(firsts, firsts[matches])
            for index_number, snapshot in snapshots.items():
                is_here, mask = keys // STRIDE == index_number, masks[index_number]
                mask[rows[is_here]] = matches[is_here]
                shown = mask.copy()
                shown[rows[is_here & (keys != firsts)]] = False
                parts[index_number] = replace(snapshot.select_videos(shown), videos=mask)
            return JoinedSelection.join(parts)

        return remember(known, (filters, frozenset(excluded)), find)


def _find_copies(snapshots: Mapping[int, Snapshot]) -> Copies:
    """Return the ids of the searchable contents that several indexes have, given their snapshots by number."""
    contents, copies = [snapshot.videos.rows.keys() for snapshot in snapshots.values()], dict[int, list[int]]()
    for fingerprint in set[bytes]().union(*(one & other for one, other in combinations(contents, 2))):
        content_copies = []
        for index_number, snapshot in snapshots.items():
            videos, row = snapshot.videos, snapshot.videos.rows.get(fingerprint, -1)
            if 0 <= row < len(videos.ids) and videos.num_paths[row] > 0:
                content_copies.append((not videos.complete[row], index_number * STRIDE + int(videos.ids[row])))
        if len(content_copies) > 1:
            copies |= {key: [copy for _, copy in sorted(content_copies)] for _, key in content_copies}
    return copies


MEASURED = ("scale.", "background", "whitening", f"{CALIBRATION}.", PROBABILITIES)  # on the videos of one index


class JoinedTable(SearchedTogether):
    """A table of several indexes."""

    def __init__(self, ids: JoinedIds) -> None:
        self._ids = ids


class JoinedFiles(JoinedTable, Files):
    """The files of several indexes."""

    @override
    def get(self, path: str) -> FileRecord | None:
        name, records = self._ids.names(), list[FileRecord]()
        for index_number, index in self._ids.indexes.items():
            record = index.files.get(path)
            if record is not None:
                records.append(
                    replace(record, video=None if record.video is None else name(index_number, record.video))
                )
        return max(records, key=lambda record: record.live, default=None)

    @override
    def paths_of(self, videos: Sequence[int], filters: Filters = ALL_VIDEOS) -> dict[int, list[str]]:
        name, paths = self._ids.names(), {int(video): set[str]() for video in videos}
        for index_number, local_ids in self._ids.list_copies(paths).items():
            for video, video_paths in self._ids.indexes[index_number].files.paths_of(local_ids, filters).items():
                paths[name(index_number, video)].update(video_paths)
        return {video: sorted(video_paths, key=rank_path) for video, video_paths in paths.items()}


class JoinedVideos(JoinedTable, Videos):
    """The videos of several indexes."""

    @override
    def get(self, video: int) -> VideoRecord:
        _, index, local_id = self._ids.find_index(video)
        return replace(index.videos.get(local_id), id=int(video))

    @override
    def find(self, filters: Filters = ALL_VIDEOS, *, ids: Sequence[int] | None = None) -> list[StoredVideo]:
        name, videos = self._ids.names(), dict[int, StoredVideo]()
        local_ids = None if ids is None else self._ids.list_copies(ids)
        for index_number, index in self._ids.indexes.items():
            for stored in index.videos.find(filters, ids=None if local_ids is None else local_ids[index_number]):
                key = name(index_number, stored.id)
                known = videos.get(key, stored)
                paths = sorted({*stored.paths, *known.paths}, key=rank_path)
                changed = known.changed if paths[0] in known.paths else stored.changed  # of the first path
                videos[key] = replace(known, id=key, paths=tuple(paths), changed=changed)
        for index_number, index, first_ids in self._ids.group(sorted(videos.keys() & self._ids.copies.keys())):
            for stored in index.videos.find(ids=first_ids.tolist()):
                known = videos[key := index_number * STRIDE + stored.id]
                videos[key] = replace(stored, id=key, paths=known.paths, changed=known.changed)
        return sorted(videos.values(), key=lambda stored: min(map(os.fsencode, stored.paths)))

    @override
    def find_intact(self, ids: Iterable[int]) -> set[int]:
        local_ids, name = self._ids.list_copies(ids), self._ids.names()
        indexes = self._ids.indexes.items()
        return {
            name(index_number, video)
            for index_number, index in indexes
            for video in index.videos.find_intact(local_ids[index_number])
        }


class JoinedSegments(JoinedTable, Segments):
    """The segments of several indexes."""

    @override
    def of_video(self, video: int) -> dict[int, int]:
        index_number, index, local_id = self._ids.find_index(video)
        return {
            segment_index: index_number * STRIDE + segment
            for segment_index, segment in index.segments.of_video(local_id).items()
        }


class JoinedShots(JoinedTable, ShotChanges):
    """The shot changes of several indexes."""

    @override
    def of_video(self, video: int) -> list[ShotChange]:
        _, index, local_id = self._ids.find_index(video)
        return index.shots.of_video(local_id)


class JoinedFeatures(JoinedTable, Epochs):
    """The vectors of several indexes."""

    @override
    def intact_vectors(self, ids: Ids) -> tuple[Ids, Float16[np.ndarray, "row dim"]]:
        keys, vectors = [np.zeros(0, np.int64)], [np.zeros((0, self._ids.dim), np.float16)]
        for index_number, index, local_ids in self._ids.group(ids):
            kept, rows = index.features.intact_vectors(local_ids)
            keys.append(kept + index_number * STRIDE)
            vectors.append(rows)
        return np.concatenate(keys), np.concatenate(vectors)

    @override
    def read(self, ids: Sequence[int] | Ids, *, tokens: bool = True) -> StoredSegments:
        name, rows = self._ids.names(), dict[int, tuple[Any, ...]]()
        for index_number, index, local_ids in self._ids.group(ids):
            stored = index.features.read(local_ids, tokens=tokens)
            segments = [replace(segment, video=name(index_number, segment.video)) for segment in stored.segments]
            columns = zip(segments, stored.frames, stored.times, stored.tokens, strict=True)
            rows.update(zip((stored.ids + index_number * STRIDE).tolist(), columns, strict=True))
        kept = [key for key in np.asarray(ids, np.int64).tolist() if key in rows]
        return StoredSegments(np.array(kept, np.int64), *([rows[key][column] for key in kept] for column in range(4)))


class JoinedMetadata(JoinedTable, Metadata):
    """The metadata of several indexes: each key has the value of the first index that has one."""

    @override
    def get(self, key: str) -> str | bytes | None:
        if key.startswith(MEASURED):
            return None
        values = (index.metadata.get(key) for index in self._ids.indexes.values())
        return next((value for value in values if value), None)

    @override
    def keys(self, prefix: str) -> list[str]:
        return sorted({key for index in self._ids.indexes.values() for key in index.metadata.keys(prefix)})


@dataclass(frozen=True, slots=True, eq=False)
class JoinedSelection(Selection):
    """Videos and segments of several indexes: a selection of each, by its number, in ``parts``.

    The masks of videos have all copies of a content, the segments are those of one.
    """

    parts: Mapping[int, Selection] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Mapping[int, Selection]) -> "JoinedSelection":
        """Return the selections of the indexes as one."""
        return cls(
            bits=np.zeros(0, np.uint8),
            num_segments=sum(part.num_segments for part in parts.values()),
            videos=np.zeros(0, bool),
            num_videos=sum(part.num_videos for part in parts.values()),
            narrow=True,
            parts=parts,
        )

    @override
    def ids(self) -> Ids:
        return np.concatenate([part.ids() + index_number * STRIDE for index_number, part in self.parts.items()])

    @override
    def among(self, ids: Ids) -> Selection:
        index_numbers = ids // STRIDE
        return self.join({key: part.among(ids[index_numbers == key] % STRIDE) for key, part in self.parts.items()})


class JoinedStore(SearchedTogether, Store):
    """Several numbered indexes as one, for any number of readers.

    A video of several indexes is one video with the paths of all.
    """

    def __init__(self, indexes: Mapping[int, Store]) -> None:
        """Use open indexes, which ``close`` closes."""
        first = next(iter(indexes.values()))
        name, fingerprint, self.dim = first.encoder_name, first.encoder_fingerprint, first.dim
        for other in indexes.values():
            if other.encoder_fingerprint != fingerprint:
                other_encoder = f"{other.encoder_name} ({other.encoder_fingerprint})"
                raise StoreError(
                    f"{other.path}: encoder must be {name} ({fingerprint}), as of {first.path}, got {other_encoder}"
                )
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
    @contextmanager
    def hold(self) -> Iterator[None]:
        with ExitStack() as stack:
            for index in self.parts.values():
                stack.enter_context(index.hold())
            yield

    @override
    def is_replaced(self) -> bool:
        return any(index.is_replaced() for index in self.parts.values())

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
    def select(self, filters: Filters = ALL_VIDEOS, excluded: Set[int] = frozenset()) -> Selection:
        return self.ids.select(filters, excluded)

    @override
    def read_segments(self, ids: Sequence[int] | Ids) -> dict[int, Segment]:
        name = self.ids.names()
        return {
            index_number * STRIDE + key: replace(segment, video=name(index_number, segment.video))
            for index_number, index, local_ids in self.ids.group(ids)
            for key, segment in index.read_segments(local_ids).items()
        }

    @override
    def read_sizes(self, video_ids: Iterable[int]) -> dict[int, VideoSize]:
        located = ((video_id, *self.ids.find_index(video_id)[1:]) for video_id in video_ids)
        return {
            video_id: index.read_sizes([local_id])[local_id]._replace(id=video_id)
            for video_id, index, local_id in located
        }

    @override
    def owners(self, ids: Sequence[int] | Ids) -> Ids:
        name, index_numbers = self.ids.names(), np.asarray(ids, np.int64) // STRIDE
        owners = np.full(len(index_numbers), -1, np.int64)
        for index_number, index, local_ids in self.ids.group(ids):
            videos, positions = np.unique(index.owners(local_ids), return_inverse=True)
            named = [name(index_number, video) if video >= 0 else -1 for video in videos.tolist()]
            owners[index_numbers == index_number] = np.array(named, np.int64)[positions]
        return owners

    @override
    def find_contents(self, fingerprints: Iterable[str], within: Selection | None = None) -> dict[str, int]:
        wanted, name = list(fingerprints), self.ids.names()
        parts = within.parts if isinstance(within, JoinedSelection) else dict.fromkeys(self.parts)
        return {
            fingerprint: name(index_number, video)
            for index_number, index in self.parts.items()
            for fingerprint, video in index.find_contents(wanted, parts[index_number]).items()
        }

    @override
    def find_named(self, path: str | os.PathLike[str]) -> list[StoredVideo]:
        name, indexes = self.ids.names(), self.parts.items()
        return self.videos.find(
            ids=[name(index_number, video.id) for index_number, index in indexes for video in index.find_named(path)]
        )

    @override
    def overlapping(self, spans: Iterable[tuple[int, float, float]]) -> list[Ids]:
        asked = list(spans)
        segment_ids = [np.zeros(0, np.int64)] * len(asked)
        for index_number, index in self.parts.items():
            rows = [row for row, (video, *_) in enumerate(asked) if video // STRIDE == index_number]
            span_ids = index.overlapping((asked[row][0] % STRIDE, *asked[row][1:]) for row in rows)
            for row, ids in zip(rows, span_ids, strict=True):
                segment_ids[row] = ids + index_number * STRIDE
        return segment_ids

    @override
    def search(self, queries: Float[np.ndarray, "query dim"], k: int, within: Selection | None = None) -> SearchResult:
        within = within or self.select()
        assert isinstance(within, JoinedSelection)
        found_scores, found_ids = [], []
        for index_number, part in within.parts.items():
            part_scores, part_ids = self.parts[index_number].search(queries, k, part)
            found_scores.append(part_scores)
            found_ids.append(np.where(part_ids < 0, part_ids, part_ids + index_number * STRIDE))
        scores, ids = np.concatenate(found_scores, axis=1), np.concatenate(found_ids, axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return SearchResult(np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1))


def open_indexes(paths: Sequence[Path], *, device: str) -> Store:
    """Open an index, or several as one.

    Raises:
        StoreError: There is no index, one cannot be read, or they have different encoders.
    """
    with ExitStack() as stack:
        indexes = [stack.enter_context(Store.open(path, device=device)) for path in paths]
        store = JoinedStore(dict(enumerate(indexes))) if len(indexes) > 1 else indexes[0]
        stack.pop_all()  # the store closes them
    return store
