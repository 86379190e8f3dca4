"""The copies in an index: files that show the same footage."""

from collections.abc import Callable, Collection

from vidret.copies.frames import read_frame_table
from vidret.copies.groups import group_copies
from vidret.copies.pairs import PairFinder
from vidret.copies.reader import FootageReader
from vidret.store.store import Store
from vidret.types import CopyGroup


def find_duplicates(
    store: Store, wanted: Collection[int] | None = None, *, on_progress: Callable[[int, int], None] | None = None
) -> list[CopyGroup]:
    """Return the groups of files of an index that show the same footage.

    Args:
        store: The index, with frame vectors at about one frame per second.
        wanted: Ids of the videos to look for copies of; None for all.
        on_progress: Called with the number of pairs of videos checked and the total.
    """
    videos = {video.id: video for video in store.videos()}
    table = read_frame_table(store)
    pairs = []
    mutual = set()
    reader = FootageReader()
    try:
        if len(table.times) > 1:
            finder = PairFinder(table, videos, reader)
            for pair in finder.find(wanted, on_progress):
                pairs.append(pair)
                if finder.is_mutual(pair):
                    mutual.add((pair.clip, pair.film))
    finally:
        reader.close()
    return group_copies(pairs, mutual, videos, wanted)
