"""Hits and moments of searches of pictures and words together, with their evidence."""

import logging
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from vidret.errors import VidretError
from vidret.search.clauses import AnalysedQuery, QueryStructure
from vidret.search.fused_moments import FusedSpan, SpanPart, find_fused_spans
from vidret.search.fusion import WEAK_SCORE, FusedSearcher
from vidret.search.grammar import Interpretation
from vidret.search.grounded import MomentHead
from vidret.search.locating import RankedVideo, answer_videos, choose_spans, find_cuts
from vidret.search.placed_moments import find_placed_spans
from vidret.search.queries import EncodedQuery
from vidret.search.searcher import Searcher
from vidret.search.text_matching import TextMatcher
from vidret.search.video_candidates import VideoCandidates
from vidret.search.video_scores import ABSENT, TOLERANCE_S, VideoScores
from vidret.store.text_store import TextStore
from vidret.types import (
    ALL_VIDEOS,
    SOURCES,
    TEXT_SOURCES,
    EventSpan,
    Evidence,
    Filters,
    Hit,
    Moment,
    SearchOptions,
    Segment,
    Source,
)
from vidret.types import Sequence as EventSequence
from vidret.video.files import may_exist

MAX_EVIDENCE = 4
MIN_SHARE = 0.05
STANDS_OUT = 2.0  # standard deviations below the best moment that another one may score


logger = logging.getLogger(__name__)

T = TypeVar("T")


class FusedResults:
    """Answers text queries from the pictures and the words of one index."""

    def __init__(self, searcher: Searcher, texts: TextStore | None) -> None:
        """Set the pictures and the words; None for an index without words."""
        self._searcher, self._texts = searcher, texts
        self._fused = FusedSearcher(searcher, texts)

    def close(self) -> None:
        """Close the texts."""
        if self._texts is not None:
            self._texts.close()

    def search(self, query: str | EventSequence, options: SearchOptions) -> list[Hit]:
        """Return the best videos of a query."""
        return self._find(query, options, self._make_hit)

    def rank_videos(self, query: str | EventSequence, options: SearchOptions) -> list[RankedVideo]:
        """Return the best videos of a query to locate moments in, without what shows why they match."""
        return self._find(query, options, _rank_video)

    def _find(
        self,
        query: str | EventSequence,
        options: SearchOptions,
        make: Callable[[VideoScores, AnalysedQuery, Sequence[str]], T],
    ) -> list[T]:
        """Return what is made of the best videos of a query and their existing paths."""
        analysed, depth = self._fused.analyse(query, options.sources), options.candidates
        while True:
            ranked = self._fused.rank(analysed, options, depth)
            hits, missing = self._make_hits(ranked, analysed, options, make)
            deeper = None if len(hits) >= options.k else self._fused.deepen(analysed, options, depth, len(ranked))
            if deeper is None:
                self._searcher.warn_missing(missing)
                return hits
            depth = deeper

    def locate(
        self,
        query: str | EventSequence,
        videos: Sequence[RankedVideo],
        k: int,
        *,
        sources: Sequence[Source] | None,
        filters: Filters = ALL_VIDEOS,
        grounder: MomentHead | None,
        overlapping: bool,
        weak: bool,
        snap: bool = True,
    ) -> list[Moment]:
        """Return the best moments of some videos; a grounding head bounds what is seen, if there is one."""
        analysed = self._fused.analyse(query, sources)
        chosen = sources or SOURCES
        only = videos[0].video_id if len(videos) == 1 else None
        matches = self._fused.match_texts(analysed, chosen, filters, video_id=only)
        if "picture" not in chosen:
            grounder = None
        by_picture = "curve" if grounder is None else "head"
        scored = []
        for video in videos:
            scores = self._fused.score_video(analysed, video.video_id, matches, chosen)
            if scores is not None and (weak or scores.score >= WEAK_SCORE):
                scored.append((video, scores))
        if grounder is not None:
            self._ask_head(grounder, analysed, scored)
        moments: list[Moment] = []
        for video, scores in scored:
            scores.cuts = find_cuts(self._searcher.store, video.video_id)
            spans = find_query_spans(scores, analysed.structure, k=k, overlapping=overlapping, snap=snap)
            best = spans[0].score if spans else ABSENT
            moments += [
                Moment(
                    video=video.video_id,
                    path=video.path,
                    start=span.start,
                    end=span.end,
                    score=scores.score - (best - span.score),
                    weak=scores.score < WEAK_SCORE,
                    by="words" if span.parts[0].match is not None else by_picture,
                    evidence=self._make_evidence(span.parts),
                    events=list_events(span, analysed.structure),
                )
                for span in spans
                if weak or span.score >= best - STANDS_OUT
            ]
        return sorted(moments, key=lambda moment: -moment.score)[:k]

    def interpret(self, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
        """Return how a query is understood."""
        return self._fused.interpret(query, sources)

    def encode_clause(self, query: str | EventSequence, sources: Sequence[Source] | None) -> EncodedQuery | None:
        """Return the only clause of a query, as pictures are compared with it; None if there are several."""
        analysed = self._fused.analyse(query, sources)
        if analysed.structure.is_joint:
            return None
        return list_encoded_clauses(analysed)[0]

    def _ask_head(
        self, grounder: MomentHead, query: AnalysedQuery, scored: Sequence[tuple[RankedVideo, VideoScores]]
    ) -> None:
        """Set the spans that the head finds in the pictures of each video, for each clause."""
        videos = [video for video, _ in scored]
        answers = [answer_videos(self._searcher, grounder, clause, videos) for clause in list_encoded_clauses(query)]
        for (_, scores), spans in zip(scored, zip(*answers, strict=True), strict=True):
            scores.picture_spans = [choose_spans(each, overlapping=False, weak=False) for each in spans]

    def _make_hits(
        self,
        ranked: VideoCandidates,
        query: AnalysedQuery,
        options: SearchOptions,
        make: Callable[[VideoScores, AnalysedQuery, Sequence[str]], T],
    ) -> tuple[list[T], list[str]]:
        """Return each video with a file that exists and passes the filters, and the paths of missing ones."""
        hits: list[T] = []
        missing: list[str] = []
        videos = iter(ranked)
        while len(hits) < options.k and (batch := list(islice(videos, options.k - len(hits)))):
            found = self._searcher.store.paths([video.video_id for video in batch], options.filters)
            for video in batch:
                paths = found[video.video_id]
                existing = [path for path in paths if may_exist(path)]
                if existing:
                    hits.append(make(video, query, existing))
                missing += [] if existing else paths
        return hits, missing

    def _make_hit(self, video: VideoScores, query: AnalysedQuery, paths: Sequence[str]) -> Hit:
        parts = [part for clause in range(len(query.structure.clauses)) for part in find_parts(video, clause)]
        evidence = self._make_evidence(parts)
        is_word = bool(evidence) and evidence[0].source != "picture"
        time_s = evidence[0].start if is_word and len(query.structure.clauses) == 1 else video.time_s[0]
        best: dict[Source, float] = {}
        for clause in range(len(query.structure.clauses)):
            for source, score in video.source_scores(clause).items():
                best[source] = max(best.get(source, ABSENT), score)
        return Hit(
            video=video.video_id,
            path=paths[0],
            segment=self._find_segment(video, time_s),
            time=time_s,
            score=video.score,
            weak=video.score < WEAK_SCORE,
            copies=tuple(paths[1:]),
            why={source: best[source] for source in SOURCES if source in best},
            evidence=evidence,
            events=self._place_events(video, query.structure),
        )

    def _place_events(self, video: VideoScores, structure: QueryStructure) -> tuple[EventSpan, ...]:
        if not structure.is_joint:
            return ()
        video.cuts = find_cuts(self._searcher.store, video.video_id)
        spans = find_placed_spans(video, structure, k=1, overlapping=False)
        return list_events(spans[0], structure) if spans else ()

    def _make_evidence(self, parts: Sequence[SpanPart]) -> tuple[Evidence, ...]:
        """Return the evidence of some matches; an index without words has none."""
        return () if self._fused.matcher is None else make_evidence(parts, self._fused.matcher)

    def _find_segment(self, video: VideoScores, time_s: float) -> Segment:
        """Return the segment that holds a time, or the nearest one."""
        segments = video.segments
        if not any(segment.start <= time_s <= segment.end for segment in segments):
            ids = self._searcher.store.video_segments(video.video_id)
            segments = list(self._searcher.store.intact_segments(ids).values())
        if not segments:
            return Segment(video.video_id, 0, time_s, time_s)
        return min(segments, key=lambda each: max(each.start - time_s, time_s - each.end, 0.0))


def _rank_video(video: VideoScores, _query: AnalysedQuery, paths: Sequence[str]) -> RankedVideo:
    return RankedVideo(video_id=video.video_id, path=paths[0], score=video.score, weak=video.score < WEAK_SCORE)


def list_encoded_clauses(query: AnalysedQuery) -> list[EncodedQuery]:
    """Return the clauses of a query, as pictures are compared with them."""
    return [EncodedQuery(positive=text, negatives=tuple(query.negatives)) for text in query.embeddings]


def find_query_spans(
    scores: VideoScores, structure: QueryStructure, *, k: int, overlapping: bool, snap: bool = True
) -> list[FusedSpan]:
    """Return the spans of a video that match a query, best first; with ``snap``, pictures begin and end at cuts."""
    if structure.is_joint:
        return find_placed_spans(scores, structure, k=k, overlapping=overlapping, snap=snap)
    expects_words = structure.clauses[0].source is not None
    return find_fused_spans(scores, expects_words=expects_words, k=k, overlapping=overlapping, snap=snap)


def list_events(span: FusedSpan, structure: QueryStructure) -> tuple[EventSpan, ...]:
    """Return where each clause of a query was placed; empty for one clause."""
    return tuple(
        EventSpan(text=clause.text, start=event.start, end=event.end, score=event.score)
        for clause, event in zip(structure.clauses, span.events, strict=False)
    )


def check_sources(sources: Sequence[str] | None) -> None:
    """Check the names of sources.

    Raises:
        VidretError: One is unknown, or there is none.
    """
    if sources is not None and (not sources or not set(sources) <= set(SOURCES)):
        raise VidretError(f"sources must be some of {', '.join(SOURCES)}, got {', '.join(sources) or 'none'}")


def find_parts(video: VideoScores, clause: int) -> list[SpanPart]:
    """Return the best match of each source for a clause: for several clauses, at the time at which it was placed."""
    parts = []
    is_local = len(video.time_s) > 1
    time_s = video.time_s[min(clause, len(video.time_s) - 1)]
    for source in TEXT_SOURCES:
        own = [
            each
            for each in video.texts[clause]
            if each[0].source == source
            and (not is_local or _holds(each[0].stored.text.start, each[0].stored.text.end, time_s))
        ]
        if own:
            match, score = max(own, key=lambda each: each[1])
            text = match.stored.text
            parts.append(SpanPart(source=source, start=text.start, end=text.end, score=score, match=match))
    pictures = video.pictures[clause]
    point = int(np.abs(video.times - time_s).argmin()) if is_local else int(pictures.argmax())
    if pictures[point] > ABSENT:
        seen = float(video.times[point])
        parts.append(SpanPart(source="picture", start=seen, end=seen, score=float(pictures[point])))
    return parts


def _holds(start_s: float, end_s: float, time_s: float) -> bool:
    return start_s - TOLERANCE_S <= time_s <= end_s + TOLERANCE_S


def make_evidence(parts: Sequence[SpanPart], matcher: TextMatcher) -> tuple[Evidence, ...]:
    """Return the evidence of some matches, best first, with each one's share of the score."""
    if not parts:
        return ()
    weights = np.exp([part.score - max(each.score for each in parts) for part in parts])
    shares = weights / weights.sum()
    evidence: list[Evidence] = []
    for index in np.argsort(-shares, kind="stable")[:MAX_EVIDENCE]:
        part = parts[index]
        if shares[index] < MIN_SHARE and evidence:
            continue
        text = "" if part.match is None else part.match.stored.text.text
        marks = () if part.match is None else matcher.mark(text, part.match.stems)
        evidence.append(
            Evidence(
                source=part.source, start=part.start, end=part.end, share=float(shares[index]), text=text, matches=marks
            )
        )
    return tuple(evidence)
