"""The candidate videos of a query in the order of their scores, each computed in full only once it is asked for."""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial

import numpy as np

from vidret.channels.base import Match
from vidret.channels.picture.evidence import VideoPictures
from vidret.search.query.clauses import QueryStructure
from vidret.search.video_scores import ABSENT, VideoScores, combine_clauses, find_best, make_video_scores, sum_sources

BLOCK = 12  # videos that are completed together, whatever number a caller takes: pages are parts of one order


class VideoCandidates:
    """The candidates of one query; iterating over them yields the scores of each video, best first.

    The best score of each source bounds that of a video, and is it where a query has one clause. Which moments match,
    which takes most of the time, is found only for the videos that a caller takes.

    Attributes:
        complete: Returns some of the videos with all that their scores depend on, where candidates are only a part of
            it; None where they are all.
    """

    complete: "Callable[[Sequence[int]], VideoCandidates] | None" = None

    def __init__(
        self,
        structure: QueryStructure,
        pictures: Mapping[int, VideoPictures],
        texts: Mapping[int, Sequence[Sequence[Match]]],
    ) -> None:
        """Set what was found of each video; of clauses with phrases, only videos with texts are candidates."""
        self._structure, self._pictures, self._texts = structure, pictures, texts
        phrased = [index for index, clause in enumerate(structure.clauses) if clause.phrases]
        self._video_ids = [
            video_id
            for video_id in {**pictures, **texts}
            if not phrased or (video_id in texts and all(texts[video_id][index] for index in phrased))
        ]
        bound = self._bound if structure.is_joint else partial(self._sum_clause, 0)
        self._bounds = {video_id: bound(video_id) for video_id in self._video_ids}

    def __len__(self) -> int:
        """Return the number of videos, with those left out."""
        return len(self._bounds)

    def __iter__(self) -> Iterator[VideoScores]:
        """Yield the scores of each video, best first; of equal ones those first that were found first.

        Videos in which several clauses have no placement are left out.
        """
        heap: list[tuple[float, int, VideoScores | None]] = [
            (-self._bounds[video_id], index, None) for index, video_id in enumerate(self._video_ids)
        ]
        heapq.heapify(heap)
        while heap:
            if self.complete is not None:
                block = [heapq.heappop(heap)[1] for _ in range(min(BLOCK, len(heap)))]
                yield from self.complete([self._video_ids[index] for index in block])
                continue
            _, index, scores = heapq.heappop(heap)
            if scores is not None:
                yield scores
                continue
            scores = self._make(self._video_ids[index])
            if scores.score == -np.inf:
                continue
            heapq.heappush(heap, (-scores.score, index, scores))

    def drop(self, video_ids: Set[int]) -> None:
        """Leave some videos out."""
        self._video_ids = [video_id for video_id in self._video_ids if video_id not in video_ids]

    def replace_pictures(self, pictures: Mapping[int, VideoPictures]) -> "VideoCandidates":
        """Return the same candidates with other frames of some videos."""
        return VideoCandidates(self._structure, {**self._pictures, **pictures}, self._texts)

    def list_best(self, limit: int) -> list[int]:
        """Return the ids of the videos that may score best."""
        return heapq.nlargest(limit, self._video_ids, key=self._bounds.__getitem__)

    def _bound(self, video_id: int) -> float:
        """Return a score that a video cannot exceed."""
        steps = self._structure.steps
        totals = [sum(self._sum_clause(clause, video_id) for clause in step) / math.sqrt(len(step)) for step in steps]
        return sum(totals) / math.sqrt(len(steps))

    def _sum_clause(self, clause: int, video_id: int) -> float:
        picture = max(ABSENT, self._pictures[video_id].best[clause]) if video_id in self._pictures else ABSENT
        return sum_sources(find_best(picture, self._texts[video_id][clause])) if video_id in self._texts else picture

    def _make(self, video_id: int) -> VideoScores:
        num_clauses = len(self._structure.clauses)
        none = VideoPictures(times=np.zeros(0), scores=np.zeros((num_clauses, 0)), best=[], segments=[])
        pictures = self._pictures.get(video_id, none)
        texts = self._texts.get(video_id, [[] for _ in range(num_clauses)])
        scores = make_video_scores(video_id, pictures.times, pictures.scores, texts, pictures.segments)
        scores.levels, scores.line = pictures.levels, pictures.line
        combine_clauses(scores, self._structure)
        return scores
