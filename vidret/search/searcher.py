"""Searching one index: the vectors choose candidates, a ranker orders them, and scores are told what they are worth."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Float64, Int64

from vidret.align.baseline import UNRELATED, WEAK, unrelated_share
from vidret.encode.encoder import Encoder
from vidret.search.baselines import Baselines
from vidret.search.calibration import Calibration, find_edition, load_calibration
from vidret.search.queries import Wanted
from vidret.search.ranking import AUTO, NONE, FrameRanker, Levels, Ranker, load_ranker
from vidret.store.store import Store
from vidret.text import display_path, strip_query
from vidret.types import ALL_VIDEOS, Filters, Hit, Segment, TextEmbedding
from vidret.video.files import may_exist

logger = logging.getLogger(__name__)

CANDIDATES = 200  # segments that are looked at again for a query
DEEPER = 4  # times as many segments are asked of the coarse search where its first ones hold too few videos
NAMED_GONE = 2  # files, in a warning of many
PER_VIDEO = 8  # segments that are looked at again of each video found only there
TOGETHER = 16  # searches whose candidates are read at once: about 60 MB
SHARED = 1.5  # a matrix of searches by all candidates of theirs may be this much larger than their own rows together
AT_ONCE = 256  # segments that whole matrices are scored against at a time
TOTAL = "total"
Ids = Int64[np.ndarray, " id"]


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """One search: what for, for how many videos, among which, out of how many candidates, ordered by whom.

    ``depth`` is the number of segments asked of the coarse search. The first ``candidates`` of them are all reranked;
    of those beyond, the best ``PER_VIDEO`` of each further video.
    """

    wanted: Wanted
    k: int
    ranker: Ranker
    candidates: int = CANDIDATES
    filters: Filters = ALL_VIDEOS
    depth: int = 0

    def __post_init__(self) -> None:
        """Ask for all candidates at least."""
        object.__setattr__(self, "depth", max(self.depth, self.candidates))


class Ranked(NamedTuple):
    """Candidates after the second look, best first: scores, the times of their best frames, and what scores are of.

    ``fits`` are the scores of what is wanted alone, before what must not fit was held against it.
    """

    segments: Sequence[Segment]
    scores: Float[np.ndarray, " segment"]
    fits: Float[np.ndarray, " segment"]
    times: Float[np.ndarray, " segment"]
    levels: Mapping[str, Float[np.ndarray, " segment"]]


class Stored(NamedTuple):
    """What is stored of some segments, for a ranker: what it packed, and frames with their times."""

    ids: Ids
    segments: Sequence[Segment]
    packed: Sequence[bytes | memoryview]
    frames: Sequence[Float32[np.ndarray, "frame dim"]]
    times: Sequence[Float64[np.ndarray, " frame"]]

    def take(self, places: Int64[np.ndarray, " place"]) -> "Stored":
        """Give some of them."""
        ids, *parts = self
        return Stored(ids[places], *([part[place] for place in places] for part in parts))


def sum_levels(
    scores: Mapping[str, Float[np.ndarray, "text segment"]], ranker: Ranker
) -> Float[np.ndarray, "text segment"]:
    """Weigh levels to one score."""
    parts = [weight * scores[name] for name, weight in ranker.weights.items()]
    total: Float[np.ndarray, "text segment"] = np.sum(parts, axis=0)
    return total


def widen(rows: Sequence[Float16[np.ndarray, "row dim"]]) -> list[Float32[np.ndarray, "row dim"]]:
    """Turn stored vectors into float32, all at once and by torch, which is ten times faster at it than numpy."""
    if not rows:
        return []
    ends = np.cumsum([len(each) for each in rows])
    return np.split(torch.from_numpy(np.concatenate(rows)).float().numpy(), ends[:-1])


class Searcher:
    """One index open for reading, the encoder it was made with, and the ranker it was made for."""

    def __init__(self, store: Store, encoder: Encoder, ranker: Ranker, *, tokens: str) -> None:
        """Join them; ``tokens`` is how the index stores UCoFiA's."""
        self.store, self.encoder, self.ranker = store, encoder, ranker
        self._tokens = tokens
        self._rankers = {ranker.name: ranker}
        self.baselines = Baselines(self._measure_baseline)
        self._told_gone: set[str] = set()
        self._calibrations: dict[str, tuple[tuple[int, str], Calibration | None]] = {}

    def choose(self, rerank: str | None) -> Ranker:
        """Give a ranker by name, each loaded once."""
        name = NONE if rerank is None else self.ranker.name if rerank == AUTO else rerank
        if name not in self._rankers:
            self._rankers[name] = load_ranker(name, self.encoder, tokens=self._tokens)
        return self._rankers[name]

    def search(self, searches: Sequence[Search]) -> list[list[Hit]]:
        """Find the best videos of each search; the coarse search goes deeper where its segments hold too few videos."""
        found: dict[int, list[Hit]] = {}
        gone: list[str] = []
        left = dict(enumerate(searches))
        while left:
            ranked = dict(zip(left, self.rank(list(left.values())), strict=True))
            for number, candidates in ranked.items():
                search = left.pop(number)
                found[number], missing = self.as_hits(candidates, search)
                gone += missing
                deeper = self._deepen(search, candidates) if len(found[number]) < search.k else None
                if deeper is not None:
                    left[number] = deeper
        self._warn_gone(gone)
        return [found[number] for number in range(len(searches))]

    def _deepen(self, search: Search, ranked: Ranked) -> Search | None:
        """Return a search that goes deeper, None where no further video can be found."""
        num_videos = len({segment.video for segment in ranked.segments})
        if search.depth >= len(self.store) or num_videos >= self.store.count_videos(search.filters):
            return None
        most = self.store.max_k
        if most is not None and search.depth >= most:
            logger.warning(
                "only %d videos are among the %d nearest segments, and no more can be asked of %s, got k = %d",
                num_videos,
                search.depth,
                self.store.home,
                search.k,
            )
            return None
        return replace(search, depth=min(DEEPER * search.depth, most or len(self.store)))

    def is_weak(self, score: float, ranker: Ranker) -> bool:
        """Say whether most unrelated queries score as high in this index."""
        return unrelated_share(self.baselines.scores(self.store, ranker), score) >= WEAK

    def typical_score(self, share: float = 1 - WEAK) -> float | None:
        """Return the score of best frames that only this share of unrelated queries reach; None in an empty index."""
        best = self.baselines.scores(self.store, FrameRanker())
        return float(np.quantile(best, 1 - share)) if best else None

    def rank(self, searches: Sequence[Search]) -> list[Ranked]:
        """Let the vectors choose candidates, and each search's ranker order them."""
        candidates = self._choose_candidates(searches)
        ranked: dict[int, Ranked] = {}
        by_ranker = defaultdict[str, list[int]](list)
        for number, search in enumerate(searches):
            by_ranker[search.ranker.name].append(number)
        for numbers in by_ranker.values():
            for first in range(0, len(numbers), TOGETHER):
                part = numbers[first : first + TOGETHER]
                found = self._look_again([searches[number] for number in part], [candidates[number] for number in part])
                ranked |= zip(part, found, strict=True)
        return [ranked[number] for number in range(len(searches))]

    def _look_again(self, searches: Sequence[Search], candidates: Sequence[Ids]) -> list[Ranked]:
        """Read what is stored of all candidates once, and order each search's by the ranker that they share."""
        ranker = searches[0].ranker
        stored = self.read(ranker, np.unique(np.concatenate(candidates)))
        if not len(stored.ids):
            return [Ranked([], np.empty(0), np.empty(0), np.empty(0), {}) for _ in searches]
        candidates = [ids[np.isin(ids, stored.ids)] for ids in candidates]
        texts = [[search.wanted.text, *search.wanted.unwanted] for search in searches]
        places = [np.searchsorted(stored.ids, ids) for ids in candidates]
        # Where searches have much the same candidates, as in a small index, one matrix is quicker than many rows.
        whole = None
        if len(searches) > 1 and len(stored.ids) * len(searches) <= SHARED * sum(map(len, candidates)):
            whole = ranker.score([text for each in texts for text in each], stored.packed, stored.frames)
        ends = np.cumsum([len(each) for each in texts])
        ranked = []
        for number, (search, own) in enumerate(zip(searches, places, strict=True)):
            taken = stored.take(own)
            if whole is None:
                levels = ranker.score(texts[number], taken.packed, taken.frames) if len(own) else None
            else:
                rows = slice(ends[number] - len(texts[number]), ends[number])
                levels = Levels({name: level[rows, own] for name, level in whole.scores.items()}, whole.best[rows, own])
            ranked.append(self._order(search, taken, levels))
        return ranked

    def _choose_candidates(self, searches: Sequence[Search]) -> list[Ids]:
        """Find the segments nearest what each search wants, among those it is about."""
        chosen: dict[int, Ids] = {}
        by_filters = defaultdict[Filters, list[int]](list)
        for number, search in enumerate(searches):
            by_filters[search.filters].append(number)
        for filters, numbers in by_filters.items():
            sentences = np.stack([searches[number].wanted.text.sentence for number in numbers])
            most = max(searches[number].depth for number in numbers)
            _, found = self.store.search(sentences, most, filters)
            for number, ids in zip(numbers, found, strict=True):
                near = ids[: searches[number].depth]
                chosen[number] = self._thin_out(near[near >= 0], searches[number].candidates)
        return [chosen[number] for number in range(len(searches))]

    def _thin_out(self, ids: Ids, num_whole: int) -> Ids:
        """Keep the first segments, and of each video that comes only later the best few."""
        if len(ids) <= num_whole:
            return ids
        owners = self.store.owners(ids)
        ids = ids[[key in owners for key in ids.tolist()]]  # another process may have pruned some meanwhile
        videos = [owners[key] for key in ids.tolist()]
        counts = Counter(dict.fromkeys(videos[:num_whole], PER_VIDEO))
        kept = list(range(num_whole))
        for place, video in enumerate(videos[num_whole:], start=num_whole):
            if counts[video] < PER_VIDEO:
                counts[video] += 1
                kept.append(place)
        return ids[kept]

    def _order(self, search: Search, stored: Stored, levels: Levels | None) -> Ranked:
        """Order candidates.

        Each thing that must not fit takes away by how much it fits better than it fits the candidates on average.
        """
        ranker, wanted = search.ranker, search.wanted
        if levels is None or not len(stored.ids):
            return Ranked([], np.empty(0), np.empty(0), np.empty(0), {})
        calibration = None if wanted.wordless else self.find_calibration(ranker)
        if calibration is not None:
            levels = calibration.correct(levels, stored.ids)
        fits, *unwanted = sum_levels(levels.scores, ranker)
        penalties = np.sum([np.maximum(0, each - each.mean()) for each in unwanted], axis=0)
        scores = fits - penalties
        told: dict[str, Float[np.ndarray, " segment"]] = {name: level[0] for name, level in levels.scores.items()}
        if unwanted:
            told["unwanted"] = -penalties
        times = np.array([times[best] for times, best in zip(stored.times, levels.best[0], strict=True)])
        order = np.argsort(-scores, kind="stable")
        return Ranked(
            [stored.segments[place] for place in order],
            scores[order],
            fits[order],
            times[order],
            {name: level[order] for name, level in told.items()},
        )

    def score(self, ranker: Ranker, texts: Sequence[TextEmbedding], ids: Ids) -> Levels:
        """Score texts against what is stored of segments; those that are damaged or gone score -inf."""
        stored = self.read(ranker, ids)
        there = np.isin(ids, stored.ids)
        found = {name: np.full((len(texts), len(ids)), -np.inf, np.float32) for name in ranker.weights}
        best = np.zeros((len(texts), len(ids)), np.int64)
        if there.any():
            levels = ranker.score(texts, stored.packed, stored.frames)
            best[:, there] = levels.best
            for name, level in levels.scores.items():
                found[name][:, there] = level
        return Levels(found, best)

    def read(self, ranker: Ranker, ids: Sequence[int] | Ids) -> Stored:
        """Read what is stored of segments for a ranker, of those that are there and whole."""
        # What another aligner packed is not this one's to read.
        own = ranker.fingerprint == self.ranker.fingerprint
        stored = self.store.read(ids, tokens=own and bool(ranker.fingerprint))
        return Stored(stored.ids, stored.segments, stored.tokens, widen(stored.frames), stored.times)

    def score_videos(
        self,
        texts: Sequence[TextEmbedding],
        videos: Sequence[int],
        ranker: Ranker,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Float32[np.ndarray, "text video"]]:
        """Score texts against whole videos, level by level and together under ``TOTAL``, without any correction.

        A video has the score of its best segment, at each level by itself; nothing is left to the coarse search.
        """
        ids = [self.store.video_segments(video) for video in videos]
        owners = np.repeat(np.arange(len(videos)), [len(each) for each in ids])
        flat = np.array([key for each in ids for key in each], dtype=np.int64)
        names = [TOTAL, *ranker.weights]
        scores = {name: np.full((len(texts), len(videos)), -np.inf, np.float32) for name in names}
        for start in range(0, len(flat), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            levels = self.score(ranker, texts, flat[part]).scores
            levels[TOTAL] = sum_levels(levels, ranker)
            for name, whole in scores.items():
                for column, owner in enumerate(owners[part]):
                    np.maximum(whole[:, owner], levels[name][:, column], out=whole[:, owner])
            if on_progress is not None:
                on_progress(min(start + AT_ONCE, len(flat)), len(flat))
        return scores

    def find_calibration(self, ranker: Ranker) -> Calibration | None:
        """Give the index's calibration for a ranker, and say so when the index has grown since it was made."""
        edition = self.store.generation, find_edition(self.store, ranker)
        known = self._calibrations.get(ranker.name)
        if known is None or known[0] != edition:
            found = load_calibration(self.store, ranker)
            if found is not None and (later := found.count_unknown(self.store.searchable())):
                logger.warning(
                    "%d of %d segments came after the calibration and are not corrected: run vidret calibrate again",
                    later,
                    len(self.store),
                )
            known = self._calibrations[ranker.name] = (edition, found)
        return known[1]

    @contextmanager
    def corrected_by(self, ranker: Ranker, calibration: Calibration) -> Iterator[None]:
        """Search with a calibration that is not stored yet."""
        self._calibrations[ranker.name] = (self.store.generation, find_edition(self.store, ranker)), calibration
        try:
            yield
        finally:
            self._calibrations.pop(ranker.name, None)

    def as_hits(self, ranked: Ranked, search: Search) -> tuple[list[Hit], list[str]]:
        """Return each video once, with its best segment, and the paths of those left out since no file is there."""
        # How well a picture fits is no measure for texts, nor theirs for it.
        unrelated = [] if search.wanted.wordless else self.baselines.scores(self.store, search.ranker)
        hits: list[Hit] = []
        gone: list[str] = []
        for place, paths in self._name(ranked, search.filters):
            there = [path for path in paths if may_exist(path)]
            if there:
                segment, time, score = ranked.segments[place], float(ranked.times[place]), float(ranked.scores[place])
                weak = unrelated_share(unrelated, float(ranked.fits[place])) >= WEAK
                why = {name: float(level[place]) for name, level in ranked.levels.items()}
                hits.append(Hit(segment.video, there[0], segment, time, score, weak, tuple(there[1:]), why))
            else:
                gone += paths
            if len(hits) == search.k:
                break
        return hits, gone

    def _name(self, ranked: Ranked, filters: Filters) -> Iterator[tuple[int, list[str]]]:
        """Give the place of each video's best segment, best first, and its paths, read only as far as they are asked.

        Equal scores stand in the order of their names, whichever was indexed first.
        """
        best: dict[int, int] = {}
        for place, segment in enumerate(ranked.segments):
            best.setdefault(segment.video, place)
        for _, equal in groupby(best.items(), key=lambda item: ranked.scores[item[1]]):
            places = dict(equal)
            paths = self.store.paths(list(places), filters)
            yield from sorted(((places[video], paths[video]) for video in places), key=lambda each: each[1])

    def _warn_gone(self, gone: Sequence[str]) -> None:
        """Name files that are gone in one warning, each file once in a searcher's life."""
        new = [path for path in dict.fromkeys(gone) if path not in self._told_gone]
        self._told_gone.update(new)
        names = ", ".join(display_path(strip_query(path)) for path in new[:NAMED_GONE])
        if len(new) == 1:
            logger.warning("left out, its file is gone: %s", names)
        elif new:
            rest = f" and {len(new) - NAMED_GONE} more" if len(new) > NAMED_GONE else ""
            logger.warning("left out, %d files are gone: %s%s", len(new), names, rest)

    def _measure_baseline(self, ranker: Ranker) -> list[float]:
        """Search for what has nothing to do with the index, and give the best scores; none when it is empty."""
        if not len(self.store):
            return []
        searches = [Search(Wanted(text), 1, ranker) for text in self._unrelated]
        return [float(ranked.scores[0]) for ranked in self.rank(searches) if len(ranked.scores)]

    @cached_property
    def _unrelated(self) -> list[TextEmbedding]:
        return self.encoder.encode_text(UNRELATED)
