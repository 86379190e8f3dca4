"""Search for the footage of a clip in the videos of an index."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from vidret.copies.alignment import Alignment, align_repeatedly, bound_gain
from vidret.copies.candidates import Whitening, read_frame_table, whiten_index
from vidret.copies.checking import NUM_WORKERS, FootageReader
from vidret.copies.pairs import LEAST_SHARE, confirm_alignment, is_worth_decoding
from vidret.errors import DecodeError
from vidret.store.records import Extent, StoredVideo
from vidret.store.store import Store
from vidret.text import strip_query
from vidret.types import ALL_VIDEOS, Filters, SharedFootage
from vidret.video.files import choose_existing, may_exist

logger = logging.getLogger(__name__)

NEAREST = 100  # segments of each clip frame that are searched at once
MAX_VIDEOS = 60  # with which the clip is aligned
MAX_CHECKED = 24  # alignments that are checked on decoded frames
STRETCHES = 5  # of one video, at most


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """A clip to look for: frame vectors and times of a file from ``start`` to ``end`` seconds.

    ``video`` is the id of the file in the index, None if it is not part of it.
    """

    path: str
    start: float
    end: float
    vectors: Float[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]
    video: int | None = None


class ClipFinder:
    """Finds clips in the videos of an index; the whitening of frames is fitted once.

    The processes that decode frames stay as long as the finder, since starting them takes longer than a search.
    """

    def __init__(self, store: Store) -> None:
        self.store, self._reader = store, FootageReader()
        self._fitted: tuple[int, Whitening] | None = None  # with the generation for which it is valid

    def find(
        self, clip: Clip, k: int, *, video: int | None = None, filters: Filters = ALL_VIDEOS, repeated: bool = False
    ) -> list[SharedFootage]:
        """Return the ``k`` best stretches that show the footage of a clip, checked on decoded frames, best first.

        ``video`` is the id of the only video to look in. All stretches of a video are returned if ``repeated``, else
        the best one. Raise DecodeError if the clip, such as a video whose file is gone, has to be read and cannot be.
        """
        videos = {
            stored.id: stored for stored in self.store.videos.find(filters, ids=None if video is None else [video])
        }
        guesses = self._align(clip, self._find_videos(clip, videos, filters), videos, repeated=repeated)
        found: list[SharedFootage] = []
        try:
            for footage in self._check(clip, guesses[:MAX_CHECKED], videos):
                known: list[SharedFootage | Clip] = [*found, clip]  # the clip itself is not a result
                same = (other for other in known if other.video == footage.video)
                # Alignments a few seconds apart may become the same stretch.
                if not any(footage.start < other.end and other.start < footage.end for other in same):
                    found.append(footage)
                if len(found) == k:
                    break
        finally:
            self._reader.forget()
        return found

    def _check(
        self, clip: Clip, guesses: Sequence[tuple[int, Alignment]], videos: dict[int, StoredVideo]
    ) -> Iterator[SharedFootage]:
        """Yield the guesses that decoded frames confirm, in order; each decoding process checks one at a time."""
        with ThreadPoolExecutor(NUM_WORKERS) as threads:
            for first in range(0, len(guesses), NUM_WORKERS):
                batch = guesses[first : first + NUM_WORKERS]
                checked = threads.map(
                    lambda guess: check_footage(clip, videos[guess[0]], guess[1], self._reader), batch
                )
                yield from (footage for footage in checked if footage is not None)

    def _find_videos(self, clip: Clip, videos: dict[int, StoredVideo], filters: Filters) -> list[int]:
        """Return the ids of the videos with the nearest segments, all of them if they are few."""
        if len(videos) <= MAX_VIDEOS:
            return list(videos)
        vectors, owners, best = clip.vectors.astype(np.float32), set[int](), dict[int, float]()
        chosen = list[int]()
        while len(vectors):
            scores, ids = self.store.search(vectors, NEAREST, self.store.select(filters, owners))
            found = zip(scores[ids >= 0].tolist(), self.store.owners(ids[ids >= 0]).tolist(), strict=True)
            new = {owner: score for score, owner in sorted(found) if owner not in owners}
            best |= {owner: score for owner, score in new.items() if owner in videos}
            owners |= new.keys()
            chosen = sorted(best, key=lambda owner: -best[owner])[:MAX_VIDEOS]
            # All nearest segments of a frame may be of one video, such as a still one, which would hide the others.
            least = best[chosen[-1]] if len(chosen) == MAX_VIDEOS else -np.inf
            vectors = vectors[scores[:, -1] > least] if new else vectors[:0]
        return chosen

    def _align(
        self, clip: Clip, chosen: Sequence[int], videos: dict[int, StoredVideo], *, repeated: bool
    ) -> list[tuple[int, Alignment]]:
        """Return the alignments of a clip with some videos, most alike first."""
        generation, fitted = self.store.generation, self._fitted
        if fitted is None or fitted[0] != generation:
            self._fitted = fitted = generation, whiten_index(self.store)
        whitening, table = fitted[1], read_frame_table(self.store, chosen)
        clip_vectors = whitening.apply(clip.vectors)
        alignments: list[tuple[int, Alignment]] = []
        for index, key in enumerate(table.video_ids.tolist()):
            vectors, times = table.read(index)
            scores = clip_vectors @ whitening.apply(vectors).T - whitening.level
            if clip.video == key:
                scores[:, (times >= clip.start - 1.0) & (times <= clip.end + 1.0)] = -1.0
            shorter = min(len(clip.times), len(times))
            can_gain = is_worth_decoding(bound_gain(scores), shorter)
            if can_gain and any(may_exist(path) for path in videos[key].paths):
                aligned = align_repeatedly(scores, clip.times, times, max_num=STRETCHES if repeated else 1)
                alignments += [(key, alignment) for alignment in aligned if is_worth_decoding(alignment.gain, shorter)]
        return sorted(alignments, key=lambda item: -item[1].gain)


def check_footage(clip: Clip, video: StoredVideo, alignment: Alignment, reader: FootageReader) -> SharedFootage | None:
    """Return the footage of a clip that a video shows, by decoded frames; None without, or if it cannot be read.

    Raise DecodeError if the clip cannot be read.
    """
    paths = [path for path in video.paths if may_exist(path)] or list(video.paths)  # to say that they cannot be read
    extents = Extent(clip.start, clip.end), video.extent
    try:
        verdict = confirm_alignment(alignment, clip.times.tolist(), (clip.path, paths[0]), extents, reader)
    except DecodeError as error:
        if error.path == clip.path:
            raise
        logger.warning("left out: %s: %s", strip_query(error.path), error.reason)
        return None
    if verdict is None or not verdict.moves:  # parts of still footage cannot be told apart
        return None
    if verdict.end - verdict.start < LEAST_SHARE * min(extents[0].length, extents[1].length / verdict.speed):
        return None
    return SharedFootage(
        video=video.id,
        path=paths[0],
        start=verdict.speed * verdict.start + verdict.offset,
        end=verdict.speed * verdict.end + verdict.offset,
        clip_start=verdict.start,
        clip_end=verdict.end,
        speed=verdict.speed,
        similarity=alignment.score,
        agreement=verdict.agreement,
        mirrored=verdict.placement.mirrored,
        copies=tuple(paths[1:]),
    )


def read_stored_clip(store: Store, video: StoredVideo, start: float | None, end: float | None) -> Clip:
    """Return a stretch of a video of the index as a clip, from its stored frame vectors."""
    extent, table = video.extent, read_frame_table(store, [video.id])
    begin, stop = extent.start if start is None else start, extent.end if end is None else end
    kept = (table.times >= begin) & (table.times <= stop)
    return Clip(
        path=choose_existing(video.paths),
        start=begin,
        end=min(stop, extent.end),
        vectors=table.vectors[kept].astype(np.float32),
        times=table.times[kept],
        video=video.id,
    )
