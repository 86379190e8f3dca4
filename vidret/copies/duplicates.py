"""Groups of files that show the same footage, each compared with the best file of its group."""

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from vidret.copies.candidates import read_frame_table
from vidret.copies.checking import FootageReader
from vidret.copies.pairs import DisjointSets, FootagePair, PairFinder
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.text import is_url
from vidret.types import CopiedFile, CopyGroup
from vidret.video.files import may_exist, warn_missing

SAME_SIZE = 0.03  # of a picture: a smaller difference is neither a crop nor bars
SAME_SPEED = 0.02
SAME_LENGTH = 0.08  # of a video, or a second: the accuracy of the ends of shared footage
EQUAL_LENGTH = 0.01  # of a video, or a second: a smaller difference makes no file better


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageLink:
    """The mapping of one video's footage to another video: its time = speed * the other's time + offset.

    ``width`` and ``height`` are those of its picture relative to the other's.
    """

    speed: float = 1.0
    offset: float = 0.0
    mirrored: bool = False
    width: float = 1.0
    height: float = 1.0
    agreement: float = 1.0
    moves: bool = True
    start: float = 0.0
    end: float = 0.0

    def then(self, other: "FootageLink") -> "FootageLink":
        """Return the link to a third video, given the third video's link to the second."""
        begin, end = sorted(((other.start - self.offset) / self.speed, (other.end - self.offset) / self.speed))
        return FootageLink(
            speed=self.speed * other.speed,
            offset=other.speed * self.offset + other.offset,
            mirrored=self.mirrored != other.mirrored,
            width=self.width * other.width,
            height=self.height * other.height,
            agreement=min(self.agreement, other.agreement),
            moves=self.moves and other.moves,
            start=max(self.start, begin),
            end=min(self.end, end),
        )


def link_pair(pair: FootagePair) -> tuple[FootageLink, FootageLink]:
    """Return the link from the clip to the film, and the reverse."""
    verdict, placement = pair.verdict, pair.verdict.placement
    forth = FootageLink(
        speed=verdict.speed,
        offset=verdict.offset,
        mirrored=placement.mirrored,
        width=1 / placement.width,
        height=1 / placement.height,
        agreement=verdict.agreement,
        moves=verdict.moves,
        start=verdict.start,
        end=verdict.end,
    )
    back = replace(
        forth,
        speed=1 / verdict.speed,
        offset=-verdict.offset / verdict.speed,
        width=placement.width,
        height=placement.height,
        start=verdict.speed * verdict.start + verdict.offset,
        end=verdict.speed * verdict.end + verdict.offset,
    )
    return forth, back


def group_copies(
    pairs: Iterable[FootagePair], videos: Mapping[int, StoredVideo], wanted: Collection[int] | None
) -> list[CopyGroup]:
    """Return the groups of files that show the same footage, those with most files first.

    Videos that share most of their footage are one group. A longer film is in the group of each footage that it
    contains. A group that is part of another one is left out.
    """
    sets, links = DisjointSets(), defaultdict[int, dict[int, FootageLink]](dict)
    containing = []
    for pair in pairs:
        links[pair.clip][pair.film], links[pair.film][pair.clip] = link_pair(pair)
        if pair.is_mutual:
            sets.join(pair.clip, pair.film)
        else:
            containing.append(pair)
    members = defaultdict[int, set[int]](set)
    for video_id in {*links, *(key for key, video in videos.items() if len(video.paths) > 1)}:
        members[sets.find(video_id)].add(video_id)
    for pair in containing:
        clip_s = videos[pair.clip].extent.length
        is_shorter = clip_s * pair.verdict.speed <= videos[pair.film].extent.length
        shorter, longer = (pair.clip, pair.film) if is_shorter else (pair.film, pair.clip)
        members[sets.find(shorter)].add(longer)
    groups_of = defaultdict[int, list[set[int]]](list)
    for ids in members.values():
        for video_id in ids:
            groups_of[video_id].append(ids)
    groups = []
    for ids in members.values():
        is_part = any(ids < other for other in groups_of[min(ids)])
        num_files = sum(len(videos[video_id].paths) for video_id in ids)
        if num_files > 1 and not is_part and (wanted is None or not ids.isdisjoint(wanted)):
            groups.append(describe_group(ids, links, videos))
    return sorted(groups, key=lambda group: (-len(group.files), group.best.path))


def describe_group(
    ids: Collection[int], links: Mapping[int, Mapping[int, FootageLink]], videos: Mapping[int, StoredVideo]
) -> CopyGroup:
    """Return a group with its best file first, then the others by path."""
    intact = [videos[video_id] for video_id in ids if not videos[video_id].salvaged]
    longest_s = max((video.extent.length for video in intact), default=0.0)
    best = max(ids, key=lambda video_id: (rank_quality(videos[video_id], longest_s), -video_id))
    reached, waiting = {best: FootageLink(start=videos[best].extent.start, end=videos[best].extent.end)}, [best]
    while waiting:
        current = waiting.pop(0)
        for other, link in links.get(current, {}).items():
            if other in ids and other not in reached:
                reached[other] = reached[current].then(link)
                waiting.append(other)
    files = [
        describe_file(videos[video_id], path, link, videos[best], is_copy=path_index > 0)
        for video_id, link in sorted(reached.items(), key=lambda item: (item[0] != best, videos[item[0]].paths))
        for path_index, path in enumerate(videos[video_id].paths)
    ]
    return CopyGroup(tuple(files))


def rank_quality(video: StoredVideo, longest_s: float) -> tuple[bool, bool, int, int, float]:
    """Return the sort key of a file's quality: whole, as long as the longest, pixels, bit rate, length."""
    width, height, bit_rate = read_quality(video)
    length = video.extent.length
    return not video.salvaged, not is_shorter(length, longest_s, EQUAL_LENGTH), width * height, bit_rate, length


def is_shorter(length_s: float, other_s: float, tolerance: float = SAME_LENGTH) -> bool:
    """Return whether a length is less than another one by more than a share of it and more than a second."""
    return length_s < other_s - max(1.0, tolerance * other_s)


def read_quality(video: StoredVideo) -> tuple[int, int, int]:
    """Return the width, the height and the bits per second of a video; 0 for unknown ones."""
    facts = (video.facts.get(name) for name in ("width", "height", "num_bytes"))
    width, height, num_bytes = (int(value) if isinstance(value, int | float) else 0 for value in facts)
    length = video.extent.length
    return width, height, round(8 * num_bytes / length) if length > 0 else 0


def describe_file(video: StoredVideo, path: str, link: FootageLink, best: StoredVideo, *, is_copy: bool) -> CopiedFile:
    """Return a file of a group; ``is_copy`` means that an earlier path has the same content."""
    width, height, bit_rate = read_quality(video)
    return CopiedFile(
        video=video.id,
        path=path,
        width=width,
        height=height,
        bit_rate=bit_rate,
        duration=video.duration,
        start=link.speed * link.start + link.offset,
        end=link.speed * link.end + link.offset,
        best_start=link.start,
        speed=link.speed,
        differs=("same content",) if is_copy else list_differences(video, link, best),
        agreement=link.agreement,
        moves=link.moves,
    )


def list_files(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths of distinct files: a symbolic link to another path's file is not a copy."""
    if len(paths) < 2:
        return paths
    path_of: dict[str, str] = {}
    for path in paths:
        real = path if is_url(path) else os.path.realpath(path)
        if path == real or real not in path_of:
            path_of[real] = path
    return tuple(path_of.values())


def list_differences(video: StoredVideo, link: FootageLink, best: StoredVideo) -> tuple[str, ...]:
    """Return the differences of a video from the best one of its group, in words."""
    shared_s = link.end - link.start
    video_s, best_s = video.extent.length, best.extent.length
    facts = {
        "mirrored": link.mirrored,
        "cropped": min(link.width, link.height) < 1 - SAME_SIZE,
        "bars": max(link.width, link.height) > 1 + SAME_SIZE,
        "faster": link.speed < 1 - SAME_SPEED,
        "slower": link.speed > 1 + SAME_SPEED,
        "part": is_shorter(shared_s, best_s),
        "longer": is_shorter(shared_s * link.speed, video_s),
        "damaged": bool(video.salvaged),
    }
    return tuple(word for word, applies in facts.items() if applies)


def find_duplicates(
    store: Store, wanted: Collection[int] | None = None, *, on_progress: Callable[[int, int], None] | None = None
) -> list[CopyGroup]:
    """Return the groups of files of an index that show the same footage; missing files are named in a warning.

    Args:
        store: The index, with frame vectors at about one frame per second.
        wanted: Ids of the videos to look for copies of; None for all.
        on_progress: Called with the number of pairs of videos checked and the total.
    """
    stored = store.videos.find()
    gone = dict.fromkeys(path for video in stored for path in video.paths if not may_exist(path))
    warn_missing(list(gone))
    existing = ((video, tuple(path for path in video.paths if path not in gone)) for video in stored)
    videos = {video.id: replace(video, paths=list_files(paths)) for video, paths in existing}
    table = read_frame_table(store)
    pairs, reader = list[FootagePair](), FootageReader()
    try:
        if len(table.times) > 1:
            pairs += PairFinder(table, videos, reader).find(wanted, on_progress)
    finally:
        reader.close()
    return group_copies(pairs, videos, wanted)
