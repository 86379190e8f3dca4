"""The ids of several indexes: those of segments and videos, with the number of their index in the high bits.

A video that several indexes have is told by the id of one of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import combinations
from typing import Any

import numpy as np

from vidret.errors import StoreError
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Snapshot
from vidret.store.store import Store
from vidret.types import Filters

MAX_REMEMBERED = 64  # filters
STRIDE = 1 << 33  # more than the ids of one index
ONE_INDEX = "several indexes are searched as one; open only one of them for anything else"
Copies = Mapping[int, Sequence[int]]  # of each id of a content that several indexes have: all its ids

Matches = tuple[Mapping[int, frozenset[int]], Mapping[int, frozenset[int]]]


class SearchedTogether:
    """What searches read of several indexes; whatever else a class of one index can do raises an error."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise StoreError(ONE_INDEX)


class JoinedIds:
    """The ids of open indexes, by the numbers of these."""

    def __init__(self, indexes: Mapping[int, Store]) -> None:
        self.indexes, self.dim = indexes, next(iter(indexes.values())).dim
        self._known: tuple[object, Copies] = None, {}
        self._matched: tuple[Copies, dict[Filters, Matches]] = {}, {}

    @property
    def copies(self) -> Copies:
        """The ids of what several indexes have now; the first one, of a complete video if there is one, is told."""
        snapshots = {number: index.snapshot() for number, index in self.indexes.items()}
        position = tuple(snapshot.position for snapshot in snapshots.values())
        known = self._known
        if known[0] != position:
            self._known = known = position, _find_copies(snapshots)
        return known[1]

    def find_index(self, key: int) -> tuple[int, Store, int]:
        """Return the number of the index that has a video or segment, the index, and the id there.

        Raises:
            StoreError: There is no such index.
        """
        number, own = divmod(int(key), STRIDE)
        if number not in self.indexes:
            raise StoreError(f"video must be one of these indexes, got {key}")
        return number, self.indexes[number], own

    def names(self) -> Callable[[int, int], int]:
        """Return what tells the id of a video, given the number of an index and its id there."""
        copies = self.copies

        def name(number: int, video: int) -> int:
            key = number * STRIDE + video
            return copies.get(key, (key,))[0]

        return name

    def list_copies(self, videos: Iterable[int]) -> dict[int, list[int]]:
        """Return the ids of some videos and their copies in each index."""
        own: dict[int, list[int]] = {number: [] for number in self.indexes}
        copies = self.copies
        for key in (key for video in videos for key in copies.get(video, (video,))):
            number, _, own_id = self.find_index(key)
            own[number].append(own_id)
        return own

    def group(self, ids: Sequence[int] | Ids) -> Iterator[tuple[int, Store, Ids]]:
        """Yield the number of each index that has some of these segments, the index, and their ids there."""
        known = np.asarray(ids, np.int64)
        for number in np.unique(known // STRIDE).tolist():
            yield number, self.indexes[number], known[known // STRIDE == number] % STRIDE

    def select(self, filters: Filters, excluded: Set[int]) -> Iterator[tuple[int, Store, Set[int]]]:
        """Yield the number of each index, the index, and what to leave out: also copies that another one finds."""
        repeated, own = self._match(filters)[0], self.list_copies(excluded)
        for number, index in self.indexes.items():
            yield number, index, repeated[number].union(own[number])

    def find_elsewhere(self, filters: Filters) -> Mapping[int, frozenset[int]]:
        """Return the videos of each index that match only by a path in another index."""
        return self._match(filters)[1]

    def _match(self, filters: Filters) -> Matches:
        """Return the copies in each index that another one finds instead, and those that match elsewhere only."""
        copies, (of, known) = self.copies, self._matched
        if of is not copies or (filters not in known and len(known) >= MAX_REMEMBERED):
            self._matched = of, known = copies, {}
        if filters not in known:
            matching, repeated, elsewhere = set[int](), defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
            for number, index, own in self.group(list(copies)):
                snapshot = index.snapshot()
                matches = snapshot.match_videos(filters)[snapshot.find_videos(own)]
                matching.update((own[matches] + number * STRIDE).tolist())
            for key, keys in copies.items():
                found = [copy for copy in keys if copy in matching]
                if key in found[1:]:
                    repeated[key // STRIDE].add(key % STRIDE)
                elif found and key not in found:
                    elsewhere[key // STRIDE].add(key % STRIDE)
            known[filters] = self._freeze(repeated), self._freeze(elsewhere)
        return known[filters]

    def _freeze(self, videos: Mapping[int, Set[int]]) -> Mapping[int, frozenset[int]]:
        return {number: frozenset(videos.get(number, ())) for number in self.indexes}


def _find_copies(snapshots: Mapping[int, Snapshot]) -> Copies:
    """Return the ids of the searchable contents that several indexes have, given their snapshots by number."""
    contents, copies = [snapshot.videos.rows.keys() for snapshot in snapshots.values()], dict[int, list[int]]()
    for fingerprint in set[bytes]().union(*(one & other for one, other in combinations(contents, 2))):
        found = []
        for number, snapshot in snapshots.items():
            videos, row = snapshot.videos, snapshot.videos.rows.get(fingerprint, -1)
            if 0 <= row < len(videos.ids) and videos.num_paths[row] > 0:
                found.append((not videos.complete[row], number * STRIDE + int(videos.ids[row])))
        if len(found) > 1:
            copies |= {key: [copy for _, copy in sorted(found)] for _, key in found}
    return copies
