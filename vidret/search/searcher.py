"""Search of one index: coarse search, reranking, and the results as videos."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby

import numpy as np
from jaxtyping import Float32

from vidret.align.baseline import UNRELATED, WEAK, unrelated_share
from vidret.encode.encoder import Encoder
from vidret.search.baselines import Baselines
from vidret.search.calibration import Calibrations
from vidret.search.candidates import deepen, find_candidates
from vidret.search.queries import EncodedQuery
from vidret.search.ranking import AUTO, NONE, FrameRanker, Ranker, load_ranker
from vidret.search.refining import refine_ranking
from vidret.search.reranking import RankedSegments, Reranker
from vidret.store.store import Store
from vidret.text import display_path
from vidret.types import Filters, Hit, SearchOptions
from vidret.video.files import may_exist

logger = logging.getLogger(__name__)

MAX_LISTED = 2  # missing files that one warning lists


class Searcher:
    """An index open for reading, with its encoder and the ranker that it was made for."""

    def __init__(self, store: Store, encoder: Encoder, ranker: Ranker, *, tokens: str) -> None:
        """Set the parts; ``tokens`` is the format in which the index stores the tokens of UCoFiA."""
        self.store, self.encoder, self.ranker = store, encoder, ranker
        self.baselines = Baselines(self._measure_baseline)
        self.calibrations = Calibrations(store, encoder.encode_text)
        self.reranker = Reranker(store, ranker, self.calibrations)
        self._tokens = tokens
        self._rankers = {ranker.name: ranker}
        self._missing: set[str] = set()

    def get_ranker(self, rerank: str | None) -> Ranker:
        """Return a ranker by name, loaded once; ``auto`` is the index's own, None the best frames alone."""
        name = NONE if rerank is None else self.ranker.name if rerank == AUTO else rerank
        if name not in self._rankers:
            self._rankers[name] = load_ranker(name, self.encoder, tokens=self._tokens)
        return self._rankers[name]

    def search(self, queries: Sequence[EncodedQuery], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        """Return the best videos of each query.

        Images and vectors are ranked by the best frames, whatever ``rerank`` is. Where the nearest segments belong to
        fewer than ``k`` videos, the coarse search is repeated with more of them.
        """
        hits: list[list[Hit]] = [[] for _ in queries]
        missing: list[str] = []
        depths = {index: each.candidates for index, each in enumerate(options)}
        while depths:
            batch, depths = depths, {}
            own_queries, own_options = [queries[index] for index in batch], [options[index] for index in batch]
            ranked = self.rank(own_queries, own_options, list(batch.values()))
            for (index, depth), segments in zip(batch.items(), ranked, strict=True):
                if options[index].refine:
                    segments = refine_ranking(self.store, queries[index], segments)
                hits[index], own_missing = self._make_hits(segments, queries[index], options[index])
                missing += own_missing
                if len(hits[index]) < options[index].k:
                    num_videos = len({segment.video for segment in segments.segments})
                    deeper = deepen(self.store, options[index], depth, num_videos)
                    if deeper is not None:
                        depths[index] = deeper
        self.warn_missing(missing)
        return hits

    def rank(
        self, queries: Sequence[EncodedQuery], options: Sequence[SearchOptions], depths: Sequence[int]
    ) -> list[RankedSegments]:
        """Return the candidates of each query, best first; for ``depths`` see ``find_candidates``."""
        candidates = find_candidates(self.store, queries, options, depths)
        rankers = [self._choose_ranker(query, each) for query, each in zip(queries, options, strict=True)]
        by_ranker = defaultdict[str, list[int]](list)
        for index, ranker in enumerate(rankers):
            by_ranker[ranker.name].append(index)
        ranked: dict[int, RankedSegments] = {}
        for indices in by_ranker.values():
            own_queries, own_candidates = (
                [queries[index] for index in indices],
                [candidates[index] for index in indices],
            )
            segments = self.reranker.rerank(own_queries, own_candidates, rankers[indices[0]])
            ranked |= zip(indices, segments, strict=True)
        return [ranked[index] for index in range(len(queries))]

    def _choose_ranker(self, query: EncodedQuery, options: SearchOptions) -> Ranker:
        return self.get_ranker(options.rerank if query.is_text else None)

    # Unrelated queries

    def is_weak(self, score: float, ranker: Ranker) -> bool:
        """Whether most unrelated queries score as high in this index."""
        return unrelated_share(self.baselines.scores(self.store, ranker), score) >= WEAK

    def typical_score(self, share: float = 1 - WEAK) -> float | None:
        """Return the best-frame score that only this share of unrelated queries reach; None in an empty index."""
        best = self.baselines.scores(self.store, FrameRanker())
        return float(np.quantile(best, 1 - share)) if best else None

    def _measure_baseline(self, ranker: Ranker) -> list[float]:
        """Return the best score of each unrelated query; empty for an empty index."""
        if not len(self.store):
            return []
        self._rankers.setdefault(ranker.name, ranker)
        options = [SearchOptions(k=1, rerank=ranker.name)] * len(self._unrelated)
        ranked = self.rank(self._unrelated, options, [each.candidates for each in options])
        return [float(each.scores[0]) for each in ranked if len(each.scores)]

    def encode_unrelated(self) -> Float32[np.ndarray, "query dim"]:
        """Return the sentence vectors of the unrelated queries."""
        return np.stack([query.positive.sentence for query in self._unrelated])

    @cached_property
    def _unrelated(self) -> list[EncodedQuery]:
        return [EncodedQuery(positive=text) for text in self.encoder.encode_text(UNRELATED)]

    # Results

    def _make_hits(
        self, ranked: RankedSegments, query: EncodedQuery, options: SearchOptions
    ) -> tuple[list[Hit], list[str]]:
        """Return each video once, with its best segment, and the paths of videos left out because they are missing."""
        # Scores of images and texts are not comparable.
        unrelated = self.baselines.scores(self.store, self._choose_ranker(query, options)) if query.is_text else []
        hits: list[Hit] = []
        missing: list[str] = []
        for index, paths in self._list_videos(ranked, options.filters):
            existing = [path for path in paths if may_exist(path)]
            if not existing:
                missing += paths
                continue
            segment = ranked.segments[index]
            hits.append(
                Hit(
                    video=segment.video,
                    path=existing[0],
                    segment=segment,
                    time=float(ranked.times[index]),
                    score=float(ranked.scores[index]),
                    weak=unrelated_share(unrelated, float(ranked.positive_scores[index])) >= WEAK,
                    copies=tuple(existing[1:]),
                    why={name: float(level[index]) for name, level in ranked.levels.items()},
                )
            )
            if len(hits) == options.k:
                break
        return hits, missing

    def _list_videos(self, ranked: RankedSegments, filters: Filters) -> Iterator[tuple[int, list[str]]]:
        """Yield the index of each video's best segment, best first, and the video's paths, read as late as possible.

        Videos of equal score are ordered by path, whichever was indexed first.
        """
        best: dict[int, int] = {}
        for index, segment in enumerate(ranked.segments):
            best.setdefault(segment.video, index)
        for _, group in groupby(best.items(), key=lambda item: ranked.scores[item[1]]):
            indices = dict(group)
            paths = self.store.paths(list(indices), filters)
            yield from sorted(((indices[key], paths[key]) for key in indices), key=lambda each: each[1])

    def warn_missing(self, missing: Sequence[str]) -> None:
        """Log one warning about missing files, each file only the first time."""
        new = [path for path in dict.fromkeys(missing) if path not in self._missing]
        self._missing.update(new)
        names = ", ".join(display_path(path) for path in new[:MAX_LISTED])
        if len(new) == 1:
            logger.warning("left out, its file is gone: %s", names)
        elif new:
            rest = f" and {len(new) - MAX_LISTED} more" if len(new) > MAX_LISTED else ""
            logger.warning("left out, %d files are gone: %s%s", len(new), names, rest)
