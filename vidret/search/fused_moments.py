"""Moments of a query in one video, from its pictures and its words.

Words last as long as they are said or shown, pictures as long as the curve of their scores stands out. Several clauses
are placed by :mod:`vidret.search.placed_moments`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Self, TypeVar

import numpy as np

from vidret.channels.base import Match
from vidret.channels.registry import KINDS
from vidret.ground.curve import find_moments, lengthen_in_shot, mean_inside, widen_in_shot
from vidret.ground.spans import Span, drop_overlapping, keep_best
from vidret.search.video_scores import ABSENT, VideoScores
from vidret.types import Curve, LocateOptions, Segment, Source
from vidret.video.timeline import LONGEST_STILL_S

JOIN_S = 1.2  # between utterances, or readings of a text, that form one span
EDGE_S = 1e-3  # tolerance for an edge at a cut
MIN_PROBABILITY = 1e-38  # of a span that a head found
MAX_TEXTS, MAX_PASSAGES = 12, 200  # of a video and a clause: texts, and further ones apart from them
MIN_SPANS = 20  # of a video, at least this many are found, whatever ``k`` is: pages are parts of one order
JOIN_PICTURES = 0.3  # nats below a span of pictures, within which frames beside it are added
MIN_OVERLAP_S = 0.5
SHORTEST_S = 1.0  # minimum duration of a moment of pictures, unless its shot is shorter
JOIN_CHANNELS = 1.0  # nats by which a span of another channel may score less and still extend a moment
MIN_COVER = 0.6  # share of a clause that a text must cover if the clause does not hint at words
UNEXPECTED = 1.0  # nats that other texts lose then, compared with pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedSpan:
    """A span of a video that matches a query, or a clause of one, in seconds and nats.

    Attributes:
        parts: The matches; the one that sets the bounds comes first.
        events: The span of each clause, in order, if there are several.
    """

    start: float
    end: float
    score: float
    parts: tuple[Match, ...]
    events: tuple["FusedSpan", ...] = ()

    @classmethod
    def of_pictures(cls, video_id: int, start: float, end: float, score: float) -> Self:
        """Return a span in which only pictures match."""
        return cls(start=start, end=end, score=score, parts=(Match(video_id, "picture", start, end, score),))


AnySpan = TypeVar("AnySpan", Span, FusedSpan)


def find_fused_spans(scores: VideoScores, options: LocateOptions, *, expects_words: bool) -> list[FusedSpan]:
    """Return the spans of a video that match a query of one clause, best first, then by time; see ``find_moments``."""
    wider = replace(options, k=max(options.k, MIN_SPANS))
    pictures, overlapping = _find_picture_spans(scores, 0, wider)
    rank = partial(_rank_spans, scores.texts[0], k=wider.k, expects_words=expects_words)
    best_first = sorted(rank(pictures), key=lambda span: -span.score)
    breaks = [*scores.cuts, *(edge for gap in gaps_between(scores.segments) for edge in gap)]
    spans = _join_channels(best_first, breaks)
    if options.overlapping:
        every = _add_new(spans, rank([*pictures, *overlapping]))
        spans = sorted(every, key=lambda span: -span.score)
    else:
        spans = drop_overlapping_spans(spans)
    end_s = scores.end_s
    best = sorted(spans, key=lambda span: (-span.score, span.start))[: options.k]
    return [replace(span, end=min(span.end, end_s)) for span in best]


def find_clause_spans(
    scores: VideoScores, clause: int, options: LocateOptions, *, expects_words: bool, is_alone: bool
) -> list[FusedSpan]:
    """Return the spans of one clause, best first: those of words, and those of pictures.

    They are the best ``2 * k``, but all if the clause ``is_alone`` in its step: any may be the one beside another step.
    """
    pictures = [span for spans in _find_picture_spans(scores, clause, options) for span in spans]
    k = MAX_PASSAGES if is_alone else options.k
    return _rank_spans(scores.texts[clause], pictures, k=k, expects_words=expects_words)


def _rank_spans(
    matches: Sequence[Match], pictures: Sequence[FusedSpan], *, k: int, expects_words: bool
) -> list[FusedSpan]:
    texts = _find_text_spans(matches)
    if not expects_words:
        texts = [span if _covers(span) else replace(span, score=span.score - UNEXPECTED) for span in texts]
        if pictures:  # a text that matches no better than an unrelated query would is not a moment
            texts = [span for span in texts if span.score >= 0.0 or _covers(span)]
    spans = [*texts, *pictures]
    best = sorted(spans, key=lambda span: -span.score)[: 2 * k]
    return [_add_support(span, spans) for span in best] if texts else best


def find_similarity(scores: VideoScores, span: FusedSpan) -> float | None:
    """Return the mean similarity of the frames inside a span with a query of one clause; None if it has several."""
    seen = scores.pictures[0] > ABSENT
    if scores.line is None or len(scores.pictures) > 1 or not seen.any():
        return None
    times, values = scores.times[seen], scores.pictures[0][seen]
    curve = Curve(scores=values, times=times, start=span.start, end=span.end, best=float(values.max()))
    offset, slope = scores.line
    return (mean_inside(curve, Span(span.start, span.end, span.score)) - offset) / slope


def drop_overlapping_spans(spans: Sequence[FusedSpan]) -> list[FusedSpan]:
    """Return the spans that do not overlap a better one."""
    starts, ends, scores = np.array([(span.start, span.end, span.score) for span in spans]).reshape(-1, 3).T
    return [spans[index] for index in keep_best(starts, ends, scores, limit=len(spans), max_overlap=0.0)]


def _covers(span: FusedSpan) -> bool:
    return any(part.cover >= MIN_COVER for part in span.parts)


def _find_text_spans(matches: Sequence[Match]) -> list[FusedSpan]:
    """Return a span for each text, joined with its neighbours of the same source that also match.

    After the best ``MAX_TEXTS``, which may all be of one passage, texts in a span of better ones are left out.
    """
    spans, joined = list[FusedSpan](), set[int]()
    by_time = sorted(matches, key=lambda match: match.start)
    for best in sorted(matches, key=lambda match: -match.evidence):
        if len(spans) == MAX_PASSAGES:
            break
        if len(spans) >= MAX_TEXTS and id(best) in joined:
            continue
        join_nats = KINDS[best.source].join_nats
        near = [
            match
            for match in by_time
            if match.source == best.source and abs(match.evidence - best.evidence) <= join_nats
        ]
        group = sorted(_chain(near, best), key=lambda match: -match.evidence)
        joined.update(map(id, group))
        start, end = min(match.start for match in group), max(match.end for match in group)
        spans.append(
            FusedSpan(start=start, end=max(end, start + MIN_OVERLAP_S), score=best.evidence, parts=tuple(group))
        )
    return spans


def _chain(near: Sequence[Match], match: Match) -> list[Match]:
    """Return the texts around a match, without a pause longer than ``JOIN_S``."""
    groups: list[list[Match]] = [[text] for text in near[:1]]
    for before, text in pairwise(near):
        if text.start - before.end <= JOIN_S:
            groups[-1].append(text)
        else:
            groups.append([text])
    return next(group for group in groups if any(text is match for text in group))


def _find_picture_spans(
    scores: VideoScores, clause: int, options: LocateOptions
) -> tuple[list[FusedSpan], list[FusedSpan]]:
    """Return the spans of pictures, and spans that overlap them, if the options ask for those.

    The first ones include all of a head's spans, as in its evaluation.
    """
    seen = scores.pictures[clause] > ABSENT
    if not seen.any() or not scores.segments:
        return [], []
    values = scores.pictures[clause][seen]
    curve = Curve(
        scores=values,
        times=scores.times[seen],
        start=scores.segments[0].start,
        end=scores.segments[-1].end,
        best=float(values.max()),
        typical=scores.typical,
        gaps=gaps_between(scores.segments),
        cuts=scores.cuts,
    )
    more: list[Span] = []
    if scores.picture_spans is None:
        spans = _lengthen(_find_wide_spans(curve, replace(options, overlapping=False)), curve)
        if options.overlapping:
            every = _lengthen(_find_curve_spans(curve, options), curve, overlapping=True)
            more = _add_new(spans, every)[len(spans) :]
    else:
        by_head = scores.picture_spans[clause][: options.k]
        # The scores of a head are probabilities.
        logs = [math.log(max(span.score, MIN_PROBABILITY)) for span in by_head]
        spans = [span._replace(score=curve.best + log - max(logs)) for span, log in zip(by_head, logs, strict=True)]
        spans = spans if options.overlapping else _lengthen(spans, curve)
    fused = [FusedSpan.of_pictures(scores.video_id, *span) for span in (*spans, *more)]
    return fused[: len(spans)], fused[len(spans) :]


def _add_new(spans: list[AnySpan], more: Sequence[AnySpan]) -> list[AnySpan]:
    """Return spans, and the further ones that have other bounds."""
    known = {(span.start, span.end) for span in spans}
    return spans + [span for span in more if (span.start, span.end) not in known]


def _find_wide_spans(curve: Curve, options: LocateOptions) -> list[Span]:
    """Return ``k`` spans of a curve with the frames beside them that score about as high, or all if there are fewer."""
    num_found = options.k
    while True:  # spans that grow into better ones are dropped, and must be replaced
        apart = _find_curve_spans(curve, replace(options, k=num_found))
        spans = drop_overlapping([widen_in_shot(curve, span, JOIN_PICTURES) for span in apart])
        if len(spans) >= options.k or len(apart) < num_found:
            return spans
        num_found *= 4


def _find_curve_spans(curve: Curve, options: LocateOptions) -> list[Span]:
    """Return spans of a curve; the best has the score of the best frame, the others keep their distance to it."""
    spans = find_moments(curve, k=options.k, overlapping=options.overlapping, weak=options.weak, snap=options.snap)
    return [span._replace(score=curve.best - (spans[0].score - span.score)) for span in spans]


def _lengthen(spans: Sequence[Span], curve: Curve, *, overlapping: bool = False) -> list[Span]:
    """Return spans that last ``SHORTEST_S``, if their shots leave room, and other spans do unless ``overlapping``."""
    grown = list(spans)
    for index, span in enumerate(grown):
        if span.end - span.start < SHORTEST_S:  # most last longer
            others = () if overlapping else [*grown[:index], *grown[index + 1 :]]
            grown[index] = lengthen_in_shot(curve, span, SHORTEST_S, others)
    return grown


def _join_channels(spans: Sequence[FusedSpan], breaks: Sequence[float]) -> list[FusedSpan]:
    """Return spans, best first, each extended by one of every other channel that scores about as high and continues it.

    ``breaks`` are the times at which the video has a cut, or a gap begins or ends. An event that is first said and then
    seen is thus one moment. A span inside a better one, or around it, does not change the bounds of the better one.
    """
    joined, rest = [], list(spans)
    while rest:
        best = union = rest.pop(0)
        sources = {best.parts[0].source}
        while near := [
            span
            for span in rest
            if span.parts[0].source not in sources
            and span.score >= best.score - JOIN_CHANNELS
            and _continues(union, span, breaks)
        ]:
            rest.remove(near[0])
            sources.add(near[0].parts[0].source)
            union = _unite(union, near[0])
        joined.append(union)
    return joined


def _unite(span: FusedSpan, other: FusedSpan) -> FusedSpan:
    """Return the union of two spans, with the score of the first and the matches of both."""
    parts = tuple({(part.source, part.start, part.end): part for part in (*span.parts, *other.parts)}.values())
    return replace(span, start=min(span.start, other.start), end=max(span.end, other.end), parts=parts)


def _continues(span: FusedSpan, other: FusedSpan, breaks: Sequence[float]) -> bool:
    """Return whether one of two spans begins while the other lasts and ends later, or soon after it without a break."""
    first, second = sorted([span, other], key=lambda one: (one.start, one.end))
    if first.start == second.start or second.end <= first.end:
        return False
    is_broken = any(first.end - EDGE_S <= time_s <= second.start + EDGE_S for time_s in breaks)
    return second.start - first.end <= JOIN_S and not is_broken


def _add_support(span: FusedSpan, others: Sequence[FusedSpan]) -> FusedSpan:
    """Add to the score of a span those of overlapping spans of other sources that score lower.

    The source that matches best thus sets the bounds of a moment, and long spans gain nothing from short, better ones.
    """
    span_source, best = span.parts[0].source, dict[Source, FusedSpan]()
    for other in others:
        source = other.parts[0].source
        if source == span_source or other.score > span.score:  # first, since most spans are of pictures
            continue
        overlaps = min(span.end, other.end) > max(span.start, other.start)
        if overlaps and (source not in best or other.score > best[source].score):
            best[source] = other
    total = float(np.logaddexp.reduce([span.score, *(other.score for other in best.values())]))
    # Rounded, since faint pictures move the scores of equal texts, such as all silences, by a little.
    return replace(span, score=round(total, 3), parts=(*span.parts, *(other.parts[0] for other in best.values())))


def gaps_between(segments: Sequence[Segment]) -> tuple[tuple[float, float], ...]:
    """Return start and end in seconds of the gaps between a video's segments that are too long for a still frame."""
    return tuple(
        (before.end, after.start) for before, after in pairwise(segments) if after.start - before.end > LONGEST_STILL_S
    )
