"""Moment retrieval from a corpus: ranks of the correct video and span, recall by kind of query, and nDCG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vidret.data.records import LabelledQuery, RatedQuery
from vidret.metrics.grounding import temporal_iou, true_spans

CORPUS_THRESHOLDS = (0.5, 0.7)
CORPUS_RANKS = (1, 5, 10, 100)
VCMR = tuple(f"VCMR, IoU {threshold}" for threshold in CORPUS_THRESHOLDS)  # names of ranks in reports
PRVR = "PRVR"


class RetrievedMoment(NamedTuple):
    """A span of a video, in seconds; ``video`` is the id that the labelled queries use."""

    video: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class CorpusReport:
    """Ranks of the first correct answer to each query, counted from 1; 0 if no answer is correct.

    Attributes:
        ids: Ids of the queries.
        moments: Video corpus moment retrieval (VCMR): the video is correct and the overlap reaches the threshold.
        spans: Single video moment retrieval (SVMR): the same, with ranks among the moments of the correct video.
        videos: Video retrieval (VR): the video is correct, with ranks over distinct videos by first occurrence.
    """

    ids: tuple[str, ...]
    moments: Int[np.ndarray, "query threshold"]
    spans: Int[np.ndarray, "query threshold"]
    videos: Int[np.ndarray, " query"]

    def to_dict(self) -> dict[str, object]:
        """Return recalls as percentages."""
        columns = {str(threshold): column for column, threshold in enumerate(CORPUS_THRESHOLDS)}
        return {
            "num_queries": len(self.ids),
            "VCMR": {threshold: _recalls(self.moments[:, column]) for threshold, column in columns.items()},
            "SVMR": {threshold: _recalls(self.spans[:, column]) for threshold, column in columns.items()},
            "VR": _recalls(self.videos),
        }


def _recalls(ranks: Int[np.ndarray, " query"]) -> dict[str, float]:
    """Return the percentage of queries with a correct answer at each rank or better."""
    return {f"R{rank}": 100 * float(np.mean((ranks > 0) & (ranks <= rank))) for rank in CORPUS_RANKS}


def score_partially_relevant(ranks: Int[np.ndarray, " query"]) -> dict[str, float]:
    """Return the scores of partially relevant video retrieval (PRVR): recalls, and their sum (SumR), in percent.

    A query describes a moment of its video, and whole videos are ranked.

    Args:
        ranks: Rank of the correct video, counted from 1; 0 if it was not found.

    Reference:
        Dong et al., Partially Relevant Video Retrieval (2022), section 4.1.
    """
    recalls = _recalls(ranks)
    return {**recalls, "SumR": sum(recalls.values())}


def score_corpus(queries: Sequence[LabelledQuery], retrieved: Mapping[str, Sequence[RetrievedMoment]]) -> CorpusReport:
    """Score moments retrieved from a whole corpus, at overlaps of 0.5 and 0.7 and ranks up to 100.

    A span is correct if it overlaps any of the query's true spans enough. All three tasks use the same list, so SVMR
    misses if the list has no correct moment of the right video. To score SVMR by itself, pass lists that were
    retrieved from the right video only.

    Args:
        queries: Queries with their video and true spans.
        retrieved: Moments for each query id, best first; may be an empty list.

    Raises:
        VidretError: A query has no true span.

    Reference:
        Lei et al., TVR: A Large-Scale Dataset for Video-Subtitle Moment Retrieval (2020), section 5.1.
    """
    rows = [_rank(query, retrieved[query.id]) for query in queries]
    moments, spans, videos = (np.array(column) for column in zip(*rows, strict=True))
    return CorpusReport(tuple(query.id for query in queries), moments, spans, videos)


def _rank(query: LabelledQuery, moments: Sequence[RetrievedMoment]) -> tuple[list[int], list[int], int]:
    """Return the ranks of one query's first correct moment and span at each threshold, and of its video."""
    times = np.array([(moment.start, moment.end) for moment in moments], dtype=np.float64).reshape(-1, 2)
    same_video = np.array([moment.video == query.video for moment in moments], dtype=bool)
    overlaps: Float[np.ndarray, " moment"] = temporal_iou(times, true_spans(query)).max(axis=1)
    correct = [same_video & (overlaps >= threshold) for threshold in CORPUS_THRESHOLDS]
    video_ids = list(dict.fromkeys(moment.video for moment in moments))
    video_rank = video_ids.index(query.video) + 1 if query.video in video_ids else 0
    return [_first_rank(hits) for hits in correct], [_first_rank(hits[same_video]) for hits in correct], video_rank


def _first_rank(correct: Bool[np.ndarray, " moment"]) -> int:
    return int(correct.argmax()) + 1 if correct.any() else 0


OVERLAP = 0.5  # the intersection over union of a correct moment


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOutcome:
    """The outcome of one query.

    Attributes:
        kind: Kind of query, to group results by.
        answerable: Whether a video matches the query. If none does, only ``nothing`` and ``score`` have a meaning.
        nothing: Whether the answer is that nothing matches well.
        score: Score of the first video; minus infinity if there is none.
        rank: Rank of the correct video from 1; 0 if it is not among the results.
        overlap: Best intersection over union of the first moment in the correct video and a true window.
        is_first: Whether that moment is the first among those of all videos.
    """

    kind: str
    answerable: bool
    nothing: bool
    score: float
    rank: int = 0
    overlap: float = 0.0
    is_first: bool = False

    def measure(self) -> dict[str, float]:
        """Return the measures of this query by name, each 0 or 1; a query with the answer "nothing" finds nothing."""
        if not self.answerable:
            return {"nothing": float(self.nothing)}
        is_found = not self.nothing
        correct = is_found and self.overlap >= OVERLAP
        return {
            "R@1": float(is_found and self.rank == 1),
            "R@10": float(is_found and 1 <= self.rank <= 10),
            "R1@0.5": float(correct),
            "hit@1": float(correct and self.is_first),
            "nothing": float(self.nothing),
        }


def score_kinds(outcomes: Sequence[QueryOutcome]) -> list[dict[str, Any]]:
    """Return the measures of each kind of answerable query, of all of them, and of each kind of absent query.

    Returns:
        Rows with ``kind`` (None for all answerable queries), ``answerable``, ``num_queries`` and percentages. ``AUC``,
        in 0..1, compares the scores of the row with those of all absent queries; it is None without absent queries.
        Rows of absent queries have only ``nothing``.
    """
    answerable = [outcome for outcome in outcomes if outcome.answerable]
    absent = [outcome for outcome in outcomes if not outcome.answerable]
    absent_scores = np.array([outcome.score for outcome in absent], np.float64)
    groups: list[tuple[str | None, list[QueryOutcome]]] = [*_group(answerable)]
    if answerable:
        groups.append((None, answerable))
    rows = []
    for kind, group in groups:
        scores = np.array([outcome.score for outcome in group], np.float64)
        auc = separate_scores(scores, absent_scores) if absent else None
        rows.append({"kind": kind, "answerable": True, **_average(group), "AUC": auc})
    return rows + [{"kind": kind, "answerable": False, **_average(group)} for kind, group in _group(absent)]


def _group(outcomes: Sequence[QueryOutcome]) -> list[tuple[str, list[QueryOutcome]]]:
    kinds = sorted({outcome.kind for outcome in outcomes})
    return [(kind, [outcome for outcome in outcomes if outcome.kind == kind]) for kind in kinds]


def _average(outcomes: Sequence[QueryOutcome]) -> dict[str, Any]:
    measured = [outcome.measure() for outcome in outcomes]
    means = {name: 100 * float(np.mean([row[name] for row in measured])) for name in measured[0]}
    return {"num_queries": len(outcomes), **means}


def separate_scores(present: Float[np.ndarray, " present"], absent: Float[np.ndarray, " absent"]) -> float:
    """Return the area under the ROC curve (AUC): how often a present query scores above an absent one.

    Ties count half. This is the Mann-Whitney U statistic, divided by the number of pairs.

    Reference:
        Hanley and McNeil, The Meaning and Use of the Area under a ROC Curve (1982).
    """
    ordered = np.sort(absent)
    below, up_to = (np.searchsorted(ordered, present, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(absent))


GAIN_RANKS, GAIN_OVERLAPS = (10, 20, 40), (0.3, 0.5, 0.7)


def score_rated(queries: Sequence[RatedQuery], retrieved: Mapping[str, Sequence[RetrievedMoment]]) -> dict[str, Any]:
    """Return nDCG@K in percent, by minimum overlap.

    Best first, each retrieved moment is matched with the unmatched rated moment of its video that it overlaps most,
    and takes its relevance if the overlap exceeds the minimum, else 0. The gain of a relevance r is 2^r - 1.

    Args:
        queries: Queries with rated moments.
        retrieved: Moments for each query id, best first; may be an empty list.

    Reference:
        Liang et al., Video Moment Retrieval in Practical Setting: A Dataset of Ranked Moments for Imprecise Queries
        (2024), and its evaluation code.
    """
    gains: dict[str, Any] = {}
    for least in GAIN_OVERLAPS:
        achieved = [rate_retrieved(query, retrieved[query.id], least) for query in queries]
        best = [sorted((moment.relevance for moment in query.moments), reverse=True) for query in queries]
        gains[str(least)] = {
            f"nDCG@{k}": 100
            * float(np.mean([_divide(rates[:k], ideal[:k]) for rates, ideal in zip(achieved, best, strict=True)]))
            for k in GAIN_RANKS
        }
    return {"num_queries": len(queries), "nDCG": gains}


def rate_retrieved(query: RatedQuery, retrieved: Sequence[RetrievedMoment], least: float) -> list[float]:
    """Return the relevance of each retrieved moment."""
    free, rates = sorted(query.moments, key=lambda moment: -moment.relevance), []
    for moment in retrieved:
        candidates = [rated for rated in free if rated.video == moment.video]
        rates.append(0.0)
        if candidates:
            spans = np.array([(rated.start, rated.end) for rated in candidates])
            overlaps = temporal_iou(np.array([[moment.start, moment.end]], np.float64), spans)[0]
            best = int(overlaps.argmax())
            if overlaps[best] > least:
                rates[-1] = candidates[best].relevance
                free.remove(candidates[best])
    return rates


def _divide(rates: Sequence[float], ideal: Sequence[float]) -> float:
    """Return the discounted gain of relevances relative to the ideal one; 0 if nothing is relevant."""
    best = _discount(ideal)
    return _discount(rates) / best if best > 0 else 0.0


def _discount(rates: Sequence[float]) -> float:
    return float(np.sum((2.0 ** np.array(rates, np.float64) - 1) / np.log2(np.arange(len(rates)) + 2)))
