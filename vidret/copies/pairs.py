"""Pairs of videos that share footage: candidates by frame vectors, each checked on decoded frames."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from vidret.copies.alignment import STEP_S, Alignment
from vidret.copies.candidates import FrameTable, VideoPair, find_video_pairs
from vidret.copies.checking import NUM_WORKERS, FootageGuess, FootageReader, FootageVerdict, judge_footage
from vidret.errors import DecodeError
from vidret.store.records import Extent, StoredVideo
from vidret.text import strip_query

logger = logging.getLogger(__name__)

LEAST_SCORE = 0.1  # gain of a line above the level of unrelated frames, per frame of the shorter video
LEAST_SHARE = 0.5  # of the shorter video, that the shared footage must fill
LEAST_GUESSED_SHARE = 0.35  # the same, estimated by frame vectors
STILL_DIFFERENCE_S = 0.2  # between the lengths of copies in which nothing moves
CHECKED_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FootagePair:
    """The ids of two videos that show the same footage, which fills most of both in a mutual pair."""

    clip: int
    film: int
    verdict: FootageVerdict
    is_mutual: bool


def is_worth_decoding(gain: float, num_frames: int) -> bool:
    """Return whether a line gains enough to decode frames, given the number of frames of the shorter video.

    Among pairs that pass the other checks of the line, this leaves out a third of the look-alikes.
    """
    return gain >= LEAST_SCORE * num_frames


def extend_alignment(
    alignment: Alignment, clip_times: Sequence[float], clip: Extent, film: Extent, speed: float, offset: float
) -> tuple[float, float]:
    """Return the start and end of shared footage, in seconds of the clip.

    Frame vectors locate them to a step. Footage that comes within a step of the end of either video reaches it.
    """
    start, end = clip_times[alignment.first] - STEP_S / 2, clip_times[alignment.last] + STEP_S / 2
    low = max(clip.start, (film.start - offset) / speed)
    high = min(clip.end, (film.end - offset) / speed)
    start = low if start <= low + STEP_S else start
    end = high if end >= high - STEP_S else end
    return max(start, low), min(end, high)


def confirm_alignment(
    alignment: Alignment,
    times: Sequence[float],
    paths: tuple[str, str],
    extents: tuple[Extent, Extent],
    reader: FootageReader,
) -> FootageVerdict | None:
    """Return the verdict on an alignment by decoded frames, with its extent; None if the footage is not the same.

    Paths and extents are those of the clip and of the film.

    Raises:
        DecodeError: A file cannot be read.
    """
    speed, offset = alignment.speed, alignment.offset
    start, end = extend_alignment(alignment, times, *extents, speed, offset)
    guess = FootageGuess(clip_path=paths[0], film_path=paths[1], start=start, end=end, speed=speed, offset=offset)
    verdict = judge_footage(guess, reader)
    if verdict is None:
        return None
    start, end = extend_alignment(alignment, times, *extents, verdict.speed, verdict.offset)
    return replace(verdict, start=max(start, verdict.start), end=min(end, verdict.end))


class PairFinder:
    """Finds the pairs of videos of an index that share footage."""

    def __init__(self, table: FrameTable, videos: Mapping[int, StoredVideo], reader: FootageReader) -> None:
        self._table, self._reader = table, reader
        self._extents = {key: video.extent for key, video in videos.items()}
        self._paths = {key: video.paths[0] for key, video in videos.items() if video.paths}
        self._unreadable: set[str] = set()

    def find(
        self, wanted: Collection[int] | None, on_progress: Callable[[int, int], None] | None
    ) -> Iterator[FootagePair]:
        """Yield the pairs with at least one of the wanted videos, by id; None for all.

        A pair is not checked if both videos are known to show the same whole footage through others. An exception, such
        as an interruption, closes the reader, which ends the checks in progress.
        """
        candidates = [pair for pair in find_video_pairs(self._table, wanted) if self._is_likely(pair)]
        groups = DisjointSets()
        report = on_progress or (lambda _done, _total: None)
        with ThreadPoolExecutor(NUM_WORKERS) as threads:
            try:
                for first in range(0, len(candidates), CHECKED_AT_ONCE):
                    report(first, len(candidates))
                    batch = candidates[first : first + CHECKED_AT_ONCE]
                    open_pairs = [pair for pair in batch if groups.find(pair.clip) != groups.find(pair.film)]
                    for done, pair in enumerate(threads.map(self._check, open_pairs), start=first + 1):
                        report(done, len(candidates))
                        if pair is not None:
                            if pair.is_mutual:
                                groups.join(pair.clip, pair.film)
                            yield pair
            except BaseException:
                self._reader.close()
                raise
        report(len(candidates), len(candidates))

    def _is_likely(self, candidate: VideoPair) -> bool:
        clip, film, times, alignment = candidate.clip, candidate.film, candidate.times, candidate.alignment
        if clip not in self._paths or film not in self._paths:
            return False
        start, end = extend_alignment(
            alignment, times, self._extents[clip], self._extents[film], alignment.speed, alignment.offset
        )
        fills = self._fill(clip, film, end - start, alignment.speed, LEAST_GUESSED_SHARE)
        return any(fills) and is_worth_decoding(alignment.gain, len(times))

    def _fill(self, clip: int, film: int, shared_s: float, speed: float, share: float) -> tuple[bool, bool]:
        """Return whether shared footage fills a share of the clip, and whether it fills that share of the film."""
        clip_s, film_s = self._extents[clip].length, self._extents[film].length
        return shared_s >= share * clip_s, shared_s * speed >= share * film_s

    def _check(self, candidate: VideoPair) -> FootagePair | None:
        clip, film = candidate.clip, candidate.film
        paths = self._paths[clip], self._paths[film]
        extents = self._extents[clip], self._extents[film]
        if not self._unreadable.isdisjoint(paths):
            return None
        try:
            verdict = confirm_alignment(candidate.alignment, candidate.times, paths, extents, self._reader)
        except DecodeError as error:
            if error.path not in self._unreadable and not self._reader.is_closed:
                self._unreadable.add(error.path)
                logger.warning("left out: %s: %s", strip_query(error.path), error.reason)
            return None
        if verdict is None:
            return None
        fills = self._fill(clip, film, verdict.end - verdict.start, verdict.speed, LEAST_SHARE)
        if not any(fills):
            return None
        # Still footage must last equally long to count as a copy.
        if not verdict.moves and abs(extents[0].length - extents[1].length) > STILL_DIFFERENCE_S:
            return None
        return FootagePair(clip=clip, film=film, verdict=verdict, is_mutual=all(fills))


class DisjointSets:
    """Sets of ids that grow by joining two of them."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def find(self, key: int) -> int:
        """Return the representative of the set of an id."""
        while (parent := self._parents.get(key, key)) != key:
            self._parents[key] = self._parents.get(parent, parent)
            key = parent
        return key

    def join(self, one: int, other: int) -> None:
        """Join the sets of two ids."""
        self._parents[self.find(one)] = self.find(other)
