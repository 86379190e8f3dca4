"""The scores of one video for the clauses of a query, by channel and over time, and its total score.

The total is the score at the best time for one clause, and that of the best placement for several. A clause can be
placed on a text, or on a frame, which lasts until midway to its neighbours. Clauses that hold at the same time are
placed on one frame, or on a text where there is none. A sum of n scores is divided by the root of n, so that it varies
as much as one of them; clauses that hold at the same time count as one. If events follow one another, evidence of one
beyond ``EVENT_NATS`` counts less: a text that matches word for word does not make up for an event that is missing.
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float64

from vidret.channels.base import Match
from vidret.channels.picture.evidence import VideoPictures
from vidret.channels.picture.ranking import find_first_best
from vidret.ground.spans import Span
from vidret.search.placement import StepSpans, place_in_order
from vidret.search.query.clauses import QueryStructure
from vidret.types import TEXT_SOURCES, Segment, Source

TOLERANCE_S = 0.6  # between a frame and a text that match at the same time; half the distance of two frames
FRAME_S = 0.5  # half the duration of the first and the last frame
MIN_TEXT_S = 0.5  # shortest duration of a text
BLOCK = 12  # videos completed together, however many a caller takes: pages are parts of one order
ABSENT = -1000.0  # the score of something absent, below every other score
EVENT_NATS, EVENT_EXCESS = 8.0, 0.1  # of events in order: evidence that counts in full, and weight of that beyond
ROUNDING = 1e-4  # evidence of equal frames differs by less: as in ``ranking``, times the slope of a scale


@dataclass(slots=True, eq=False)
class VideoScores:
    """The scores of one video for each clause over time.

    Attributes:
        times: Points in time, in seconds, rising.
        pictures: Evidence of the pictures by clause and point.
        texts: The matching texts of each clause, best first.
        segments: The segments of the frames that were compared.
        time_s: Time of the best match, by clause.
        picture_spans: Spans of a grounding head for each clause; None without a head.
        cuts: Times in seconds at which new shots begin, if they were read.
        length_s: Length of the video in seconds, if it was read.
        levels: Levels of the score of the best segment by name, for one clause.
        line: As in ``VideoPictures``.
        typical: Evidence that unrelated queries reach in few segments; None if unknown.
    """

    video_id: int
    times: Float64[np.ndarray, " point"]
    pictures: Float[np.ndarray, "clause point"]
    texts: Sequence[Sequence[Match]]
    segments: Sequence[Segment]
    score: float = ABSENT
    time_s: tuple[float, ...] = ()
    picture_spans: list[list[Span]] | None = None
    cuts: tuple[float, ...] = ()
    length_s: float = math.inf
    levels: Mapping[str, float] = field(default_factory=dict)
    line: tuple[float, float] | None = None
    typical: float | None = None

    @property
    def end_s(self) -> float:
        """The end of the compared frames and texts, which no moment exceeds."""
        ends = [match.end for clause in self.texts for match in clause]
        ends += [span.end for clause in self.picture_spans or () for span in clause]  # also of frames not stored yet
        return max([self.segments[-1].end if self.segments else self.length_s, *ends])

    def source_scores(self, clause: int) -> dict[Source, float]:
        """Return the best evidence of each source for a clause."""
        return find_best(float(self.pictures[clause].max(initial=ABSENT)), self.texts[clause])

    def curve(self, clause: int) -> Float[np.ndarray, " point"]:
        """Return the score of a clause at each point, over all sources."""
        by_source = {match.source: np.full(len(self.times), ABSENT) for match in self.texts[clause]}
        for match in self.texts[clause]:
            first = np.searchsorted(self.times, match.start - TOLERANCE_S)
            last = np.searchsorted(self.times, match.end + TOLERANCE_S, side="right")
            scores = by_source[match.source][first:last]
            np.maximum(scores, match.evidence, out=scores)
        total: Float[np.ndarray, " point"] = np.logaddexp.reduce([self.pictures[clause], *by_source.values()], axis=0)
        return total


def make_video_scores(video_id: int, pictures: VideoPictures, texts: Sequence[Sequence[Match]]) -> VideoScores:
    """Return the scores of a video at the times of its frames, and in the middle of texts without frames.

    There must be a frame or a text.
    """
    extra = [
        (match.start + match.end) / 2
        for clause in texts
        for match in clause
        if not _has_point(pictures.times, match.start, match.end)
    ]
    points = np.concatenate([pictures.times, extra])
    order = np.argsort(points, kind="stable")
    padded = np.concatenate([pictures.scores, np.full((len(pictures.scores), len(extra)), ABSENT)], axis=1)
    scores = VideoScores(video_id, points[order], padded[:, order], texts, pictures.segments)
    scores.levels, scores.line = pictures.levels, pictures.line
    return scores


def find_best(picture: float, matches: Sequence[Match]) -> dict[Source, float]:
    """Return the best evidence of each source."""
    best: dict[Source, float] = {"picture": picture}
    for match in matches:
        best[match.source] = max(best.get(match.source, ABSENT), match.evidence)
    return best


def sum_sources(best: Mapping[Source, float]) -> float:
    """Return the log-sum-exp of the best score of each source."""
    top = max(best.values())
    return top + math.log(sum(math.exp(score - top) for score in best.values()))


def _has_point(times: Float64[np.ndarray, " frame"], start_s: float, end_s: float) -> bool:
    first = int(np.searchsorted(times, start_s - TOLERANCE_S))
    return first < len(times) and bool(times[first] <= end_s + TOLERANCE_S)


def combine_clauses(scores: VideoScores, structure: QueryStructure) -> None:
    """Set the score of a video and the best time of each clause; the score is -inf without a placement."""
    if not structure.is_joint:
        scores.score = sum_sources(scores.source_scores(0))
        scores.time_s = (float(scores.times[find_first_best(scores.curve(0), ROUNDING)]),)
        return
    edges = find_frame_edges(scores.times)
    placed = [
        (_list_event_spans if len(step) == 1 else _list_joint_spans)(scores, structure, step, edges)
        for step in structure.steps
    ]
    placement = place_in_order(limit_evidence([spans for spans, _ in placed]), structure.gaps_s)
    if placement is None:
        scores.score = -math.inf
        return
    scores.score = placement.score / math.sqrt(len(structure.steps))
    scores.time_s = tuple(
        float(times[index])
        for step, (_, times), index in zip(structure.steps, placed, placement.indices, strict=True)
        for _ in step
    )


def limit_evidence(steps: Sequence[StepSpans]) -> Sequence[StepSpans]:
    """Return steps with the scores that count; those of a single one count in full."""
    return steps if len(steps) == 1 else [replace(step, scores=_limit(step.scores)) for step in steps]


def _limit(scores: Float64[np.ndarray, " span"]) -> Float64[np.ndarray, " span"]:
    limited: Float64[np.ndarray, " span"] = np.minimum(scores, EVENT_NATS + EVENT_EXCESS * (scores - EVENT_NATS))
    return limited


def find_frame_edges(times: Float64[np.ndarray, " point"]) -> Float64[np.ndarray, " edge"]:
    """Return the times at which frames start and end."""
    middles = (times[1:] + times[:-1]) / 2
    return np.concatenate([[max(0.0, times[0] - FRAME_S)], middles, [times[-1] + FRAME_S]])


def _list_event_spans(
    scores: VideoScores, structure: QueryStructure, step: tuple[int, ...], edges: Float64[np.ndarray, " edge"]
) -> tuple[StepSpans, Float64[np.ndarray, " span"]]:
    """Return the spans on which one clause can be placed, and the time that stands for each.

    They are the compared frames, unless the clause has phrases, then the texts. The score of a text includes other
    sources at the same time.
    """
    (clause,) = step
    texts = scores.texts[clause]
    starts = np.array([match.start for match in texts], np.float64)
    ends = np.maximum(np.array([match.end for match in texts], np.float64), starts + MIN_TEXT_S)
    values = np.array([match.evidence for match in texts], np.float64)
    if len(texts):
        owners = np.array([TEXT_SOURCES.index(match.source) for match in texts])
        meets = np.minimum(ends[:, None], ends) > np.maximum(starts[:, None], starts)
        terms = [values]
        for source in range(len(TEXT_SOURCES)):
            others = np.where(meets & (owners == source) & (owners[:, None] != source), values, -np.inf)
            terms.append(others.max(axis=1))
        seen = (scores.times >= starts[:, None]) & (scores.times <= ends[:, None])
        terms.append(np.where(seen, scores.pictures[clause], -np.inf).max(axis=1, initial=-np.inf))
        values = np.logaddexp.reduce(terms, axis=0)
    is_place = (scores.pictures[clause] > ABSENT) & (not structure.clauses[clause].phrases)
    frames = np.flatnonzero(is_place)
    spans = StepSpans(
        starts=np.concatenate([edges[:-1][frames], starts]),
        ends=np.concatenate([edges[1:][frames], ends]),
        scores=np.concatenate([scores.pictures[clause][frames], values]).astype(np.float64),
    )
    return spans, np.concatenate([scores.times[frames], (starts + ends) / 2])


def fill_gaps(scores: VideoScores) -> Float[np.ndarray, "clause point"]:
    """Return the evidence of the pictures at all points: at those of texts between frames, that of the nearest one."""
    frames = np.flatnonzero((scores.pictures > ABSENT).any(axis=0))
    if not len(frames):
        return scores.pictures
    times = scores.times[frames]
    return scores.pictures[:, frames[np.searchsorted((times[1:] + times[:-1]) / 2, scores.times)]]


def _holds_text(scores: VideoScores, clause: int) -> Bool[np.ndarray, " point"]:
    """Return a mask of the points at which a text matches a clause."""
    held = np.zeros(len(scores.times), bool)
    for match in scores.texts[clause]:
        held |= (scores.times >= match.start - TOLERANCE_S) & (scores.times <= match.end + TOLERANCE_S)
    return held


def _list_joint_spans(
    scores: VideoScores, structure: QueryStructure, step: tuple[int, ...], edges: Float64[np.ndarray, " edge"]
) -> tuple[StepSpans, Float64[np.ndarray, " span"]]:
    scores = replace(scores, pictures=fill_gaps(scores))
    total = np.sum([scores.curve(clause) for clause in step], axis=0) / math.sqrt(len(step))
    for clause in step:
        is_place = _holds_text(scores, clause)
        if not structure.clauses[clause].phrases:
            is_place |= scores.pictures[clause] > ABSENT
        total = np.where(is_place, total, -np.inf)
    return StepSpans(starts=edges[:-1], ends=edges[1:], scores=total.astype(np.float64)), scores.times


class VideoCandidates:
    """The candidates of one query; iterating over them yields the scores of each video, best first.

    The best scores of the sources give an upper bound of a video's score, and the score itself for a query of one
    clause. Matching moments, which take most of the time, are computed only for the videos that a caller takes.

    Attributes:
        complete: Returns some of the videos with all the evidence that their scores depend on; None if the candidates
            already have it.
    """

    complete: "Callable[[Sequence[int]], VideoCandidates] | None" = None

    def __init__(
        self,
        structure: QueryStructure,
        pictures: Mapping[int, VideoPictures],
        texts: Mapping[int, Sequence[Sequence[Match]]],
    ) -> None:
        """Set the pictures and texts found of each video; with phrases, only videos with texts are candidates."""
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
        """Return the number of videos, including those left out."""
        return len(self._bounds)

    def __iter__(self) -> Iterator[VideoScores]:
        """Yield the scores of each video, best first; of equal ones, those found first come first.

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

    def update(self, others: "VideoCandidates") -> None:
        """Replace what is known of some videos."""
        self._pictures = {**self._pictures, **others._pictures}
        self._texts = {**self._texts, **others._texts}
        self._bounds |= others._bounds

    def drop(self, video_ids: Set[int]) -> None:
        """Leave some videos out of the iteration."""
        self._video_ids = [video_id for video_id in self._video_ids if video_id not in video_ids]

    def list_best(self, limit: int) -> list[int]:
        """Return the ids of the videos with the highest bounds."""
        return heapq.nlargest(limit, self._video_ids, key=self._bounds.__getitem__)

    def find_raised(self, video_ids: Sequence[int], missed: Sequence[float]) -> list[int]:
        """Return the videos whose scores may rise by further texts, of up to so much evidence for each clause.

        Such a text is no better than the best one found of its video, but may be where other clauses match as well.
        """
        raised = list[int]()
        for video_id in video_ids if max(missed) > ABSENT else ():
            texts = self._texts.get(video_id, ())
            best = [self._sum_clause(clause, video_id) for clause in range(len(missed))]
            reached = [
                self._combine([*best[:clause], min(nats, matches[0].evidence), *best[clause + 1 :]])
                for clause, (nats, matches) in enumerate(zip(missed, texts, strict=False))
                if matches and nats > ABSENT
            ]
            if max(reached, default=-math.inf) > self._make(video_id).score + ROUNDING:
                raised.append(video_id)
        return raised

    def _bound(self, video_id: int) -> float:
        """Return an upper bound of a video's score."""
        return self._combine([self._sum_clause(clause, video_id) for clause in range(len(self._structure.clauses))])

    def _combine(self, best: Sequence[float]) -> float:
        """Return the score of several clauses, given the evidence of each."""
        steps = self._structure.steps
        totals = np.array([sum(best[clause] for clause in step) / math.sqrt(len(step)) for step in steps])
        return float((totals if len(steps) == 1 else _limit(totals)).sum()) / math.sqrt(len(steps))

    def _sum_clause(self, clause: int, video_id: int) -> float:
        points, texts = self._pictures.get(video_id), self._texts.get(video_id)
        picture = ABSENT if points is None else max(ABSENT, points.best[clause])
        return picture if texts is None else sum_sources(find_best(picture, texts[clause]))

    def _make(self, video_id: int) -> VideoScores:
        num_clauses = len(self._structure.clauses)
        none = VideoPictures(times=np.zeros(0), scores=np.zeros((num_clauses, 0)), best=[], segments=[])
        pictures = self._pictures.get(video_id, none)
        texts = self._texts.get(video_id, [[] for _ in range(num_clauses)])
        scores = make_video_scores(video_id, pictures, texts)
        combine_clauses(scores, self._structure)
        return scores
