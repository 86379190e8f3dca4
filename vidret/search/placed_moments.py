"""Moments of several clauses in one video: steps in order and without overlap, the clauses of a step at the same time.

Each clause can be placed on its moments, or on single frames where moments would overlap; a frame then grows to the
free part of its moment. A step of several clauses lasts as long as all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np

from vidret.search.fused_moments import (
    MIN_OVERLAP_S,
    FusedSpan,
    drop_overlapping_spans,
    find_clause_spans,
    find_fused_spans,
)
from vidret.search.placement import Placement, StepSpans, iterate_placements
from vidret.search.query.clauses import QueryStructure
from vidret.search.video_scores import (
    ABSENT,
    VideoScores,
    fill_gaps,
    find_best,
    find_frame_edges,
    limit_evidence,
    sum_sources,
)
from vidret.types import EventSpan, LocateOptions

NUM_SPANS = 10  # of a clause
PLACEMENTS_PER_SPAN = 20  # that are tried: in still scenes, most grow to the same span
NUM_JOINT = 40  # overlaps of clauses that hold at the same time
APART = 1.0  # nats that joint clauses lose if only one of them has a moment there


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCandidates:
    """The places of one step: first the spans of its clauses, then single frames.

    Attributes:
        clauses: Indices of its clauses.
        wholes: The span of each clause, for each place that is not a frame.
        spans: All places, with the frames.
        by_frame: The span of each frame.
    """

    clauses: tuple[int, ...]
    wholes: Sequence[tuple[FusedSpan, ...]]
    spans: StepSpans
    by_frame: Sequence[int]


def find_query_spans(scores: VideoScores, structure: QueryStructure, options: LocateOptions) -> list[FusedSpan]:
    """Return the spans of a video that match a query, best first."""
    if structure.is_joint:
        return find_placed_spans(scores, structure, options)
    return find_fused_spans(scores, options, expects_words=structure.clauses[0].source is not None)


def list_events(span: FusedSpan, structure: QueryStructure) -> tuple[EventSpan, ...]:
    """Return the placed span of each clause of a query; empty for one clause."""
    return tuple(
        EventSpan(text=clause.shown or clause.text, start=event.start, end=event.end, score=event.score)
        for clause, event in zip(structure.clauses, span.events, strict=False)
    )


def find_placed_spans(scores: VideoScores, structure: QueryStructure, options: LocateOptions) -> list[FusedSpan]:
    """Return the spans of a video that match a query of several clauses, best first; none without a placement."""
    of_clause = replace(options, k=NUM_SPANS, overlapping=False, weak=True)
    steps = [_list_candidates(scores, structure, step, of_clause) for step in structure.steps]
    limited = limit_evidence([step.spans for step in steps])
    placements = iterate_placements(limited, structure.gaps_s, overlapping=options.overlapping)
    spans, places, end_s = list[FusedSpan](), set[tuple[tuple[float, float], ...]](), scores.end_s
    for placement in islice(placements, PLACEMENTS_PER_SPAN * options.k):
        span = _make_span(scores, steps, placement, end_s)
        place = tuple((event.start, event.end) for event in span.events)
        if place not in places:  # frames of a scene grow to the same span
            spans.append(span)
        places.add(place)
        if not options.overlapping:
            spans = drop_overlapping_spans(spans)  # grown frames may overlap
        if len(spans) == options.k:
            break
    return spans


def _list_candidates(
    scores: VideoScores, structure: QueryStructure, step: tuple[int, ...], options: LocateOptions
) -> StepCandidates:
    found, is_alone = [], len(step) == 1
    for clause_index in step:
        clause = structure.clauses[clause_index]
        expects_words = clause.source is not None
        spans = find_clause_spans(scores, clause_index, options, expects_words=expects_words, is_alone=is_alone)
        found.append([span for span in spans if not clause.phrases or span.parts[0].source != "picture"])
    wholes = [(span,) for span in found[0]] if is_alone else _join_clauses(scores, structure, step, found)
    frames = []
    if is_alone and not structure.clauses[step[0]].phrases:
        frames = np.flatnonzero(scores.pictures[step[0]] > ABSENT).tolist()
    edges = find_frame_edges(scores.times)
    bounds = [_find_overlap(events) for events in wholes]
    return StepCandidates(
        clauses=step,
        wholes=wholes,
        spans=StepSpans(
            starts=np.array([start for start, _ in bounds] + edges[frames].tolist(), np.float64),
            ends=np.array([end for _, end in bounds] + [edges[frame + 1] for frame in frames], np.float64),
            scores=np.array(
                [sum(span.score for span in events) / math.sqrt(len(events)) for events in wholes]
                + [scores.pictures[step[0], frame] for frame in frames],
                np.float64,
            ),
        ),
        by_frame=frames,
    )


def _join_clauses(
    scores: VideoScores, structure: QueryStructure, step: tuple[int, ...], found: Sequence[Sequence[FusedSpan]]
) -> list[tuple[FusedSpan, ...]]:
    """Return overlapping spans of clauses, and each span with the best scores of the other clauses in it."""
    joined: list[tuple[FusedSpan, ...]] = [(span,) for span in found[0]]
    for others in found[1:]:
        joined = [
            (*events, other)
            for events in joined
            for other in others
            for start, end in [_find_overlap((*events, other))]
            if end - start >= MIN_OVERLAP_S
        ]
        joined = sorted(joined, key=lambda events: -sum(span.score for span in events))[:NUM_JOINT]
    filled = replace(scores, pictures=fill_gaps(scores))  # once for all spans
    for index, spans in enumerate(found):
        for span in spans:
            reached = [_reach(filled, clause, span, on_text=bool(structure.clauses[clause].phrases)) for clause in step]
            if min(reached) > -np.inf:
                loss = APART * math.sqrt(len(step)) / (len(step) - 1)
                events = [
                    FusedSpan.of_pictures(scores.video_id, span.start, span.end, score - loss) for score in reached
                ]
                events[index] = span
                joined.append(tuple(events))
    return joined


def _reach(scores: VideoScores, clause: int, span: FusedSpan, *, on_text: bool) -> float:
    """Return the best score of a clause inside a span, over all sources; -inf if it is absent, or needs a text."""
    inside = (scores.times >= span.start) & (scores.times <= span.end)
    texts = [
        match
        for match in scores.texts[clause]
        if min(match.end, span.end) - max(match.start, span.start) >= MIN_OVERLAP_S
    ]
    best = find_best(float(scores.pictures[clause][inside].max(initial=ABSENT)), texts)
    is_absent = len(best) == 1 and (on_text or best["picture"] <= ABSENT)
    return -np.inf if is_absent else sum_sources(best)


def _find_overlap(events: Sequence[FusedSpan]) -> tuple[float, float]:
    return max(span.start for span in events), min(span.end for span in events)


def _make_span(scores: VideoScores, steps: Sequence[StepCandidates], placement: Placement, end_s: float) -> FusedSpan:
    bounds = [
        (float(step.spans.starts[index]), min(float(step.spans.ends[index]), end_s))
        for step, index in zip(steps, placement.indices, strict=True)
    ]
    placed: list[tuple[float, float]] = []
    events: list[FusedSpan] = []
    limits = pairwise([0.0, *(start for start, _ in bounds[1:]), end_s])
    for (_, latest), (start, end), step, index in zip(limits, bounds, steps, placement.indices, strict=True):
        if index < len(step.wholes):
            earliest, step_bounds = placed[-1][1] if placed else 0.0, (start, end)
            step_events = tuple(
                replace(span, start=max(span.start, earliest), end=min(span.end, latest)) for span in step.wholes[index]
            )
        else:
            frame = step.by_frame[index - len(step.wholes)]
            span = _grow_frame(scores, step, frame, (start, end), placed[-1][1] if placed else 0.0, latest)
            step_events, step_bounds = (span,), (span.start, span.end)
        events += step_events
        placed.append(step_bounds)
    score = placement.score / math.sqrt(len(steps))
    parts = tuple(part for event in events for part in event.parts)
    return FusedSpan(start=placed[0][0], end=placed[-1][1], score=score, parts=parts, events=tuple(events))


def _grow_frame(
    scores: VideoScores, step: StepCandidates, frame: int, bounds: tuple[float, float], earliest: float, latest: float
) -> FusedSpan:
    """Return the span of a frame: the part of the moment around it that lies between two times."""
    time, score = float(scores.times[frame]), float(scores.pictures[step.clauses[0], frame])
    start, end = bounds
    for (whole,) in step.wholes:
        if whole.parts[0].source == "picture" and whole.start <= time <= whole.end:
            start, end = min(start, max(whole.start, earliest)), max(end, min(whole.end, latest))
            break
    return FusedSpan.of_pictures(scores.video_id, start, end, score)
