"""Hits and moments of a search, with what speaks for them and how likely they are."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from typing import Any, TypeVar

import numpy as np

from vidret.channels.picture.channel import PictureChannel
from vidret.channels.sounds.channel import SoundChannel
from vidret.channels.texts.channel import TextChannel
from vidret.encode.encoder import has_frame_vectors
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.found_videos import NO_STANDARD, FoundVideo, ScoreStandard
from vidret.search.fused_moments import FusedSpan, SpanPart, find_fused_spans, find_similarity
from vidret.search.fusion import Fusion, Question
from vidret.search.heads.base import MomentHead
from vidret.search.judging import EvidenceJudge, load_judge
from vidret.search.locating import RankedVideo, answer_videos, choose_spans, find_cuts, note_coarse
from vidret.search.people import KnownPersons, Presence
from vidret.search.placed_moments import find_placed_spans
from vidret.search.query.clauses import AnalysedQuery, QueryStructure
from vidret.search.query.grammar import Interpretation
from vidret.search.query.planning import HoldsText, interpret_for, plan
from vidret.search.video_scores import ABSENT, TOLERANCE_S, VideoScores
from vidret.text import display_path, strip_query
from vidret.types import (
    ALL_VIDEOS,
    SOURCES,
    TEXT_SOURCES,
    UNLIKELY,
    CurveText,
    EventSpan,
    Evidence,
    Hit,
    LocateOptions,
    Moment,
    Query,
    SearchOptions,
    Segment,
    Source,
    TimePoint,
)
from vidret.types import Sequence as EventSequence
from vidret.video.files import may_exist

MAX_EVIDENCE = 4
MAX_CURVE_TEXTS = 100
POOL = 200  # best videos of which the kinds are shown
SEEN = 20  # best videos of a query that were seen before one was liked, unless others were
MIN_SHARE = 0.05
STANDS_OUT = 2.0  # nats below the best moment that another one may score
MAX_LISTED = 2  # missing files that one warning lists

logger = logging.getLogger(__name__)

T = TypeVar("T")


class FusedResults:
    """Answers queries from the pictures of one index, and from its words if it has any."""

    def __init__(
        self,
        pictures: PictureChannel,
        texts: TextChannel | None,
        encoder: ConceptEncoder,
        people: KnownPersons,
        sounds: SoundChannel | None = None,
    ) -> None:
        """Set the channels, None for an index without texts or sounds, what encodes queries, and the persons."""
        self._pictures, self._texts, self._encoder, self._people = pictures, texts, encoder, people
        self._fusion = Fusion(pictures, texts, people, sounds)
        self._missing: set[str] = set()

    def close(self) -> None:
        """Close the texts and the sounds."""
        if self._texts is not None:
            self._texts.texts.close()
        if self._fusion.sounds is not None:
            self._fusion.sounds.close()

    def analyse(self, query: Query, sources: Sequence[Source] | None, person: str | None = None) -> AnalysedQuery:
        """Return a query with its structure and vectors, to ask it of several videos; see ``plan``."""
        people = self._people
        named, persons = people.name_handles(query), people.read_names(person)
        return plan(
            named,
            self._encoder,
            sources,
            self._holds,
            people=people.find_handles(named),
            persons=persons,
            has_sounds=self._has_sounds,
        )

    def _has_sounds(self) -> bool:
        return self._texts is not None and "sound" in self._texts.sources

    @property
    def _holds(self) -> HoldsText | None:
        return None if self._texts is None else self._texts.holds

    def search(self, query: Query, options: SearchOptions) -> list[Hit]:
        """Return the best videos of a query, or the best of each kind."""
        analysed = self.analyse(query, options.sources, options.person)
        if options.display == "best":
            return self._find(analysed, options, self._make_hit)
        hits = self._find(analysed, replace(options, k=max(POOL, options.k)), self._make_hit)
        times = [(hit.video, hit.time) for hit in hits]
        return [hits[index] for index in self._fusion.segments.pick_kinds(times, options.k)]

    def complete(self, query: Query, options: SearchOptions) -> tuple[Query, SearchOptions]:
        """Return what to ask: instead of an empty query, what was liked, which was then not chosen among others."""
        if isinstance(query, str) and not query.strip() and options.like:
            feedback = self._fusion.segments.read_feedback(options.like, (), ())
            assert feedback is not None
            return feedback.liked.mean(axis=0), replace(options, seen=options.seen or ())
        return query, options

    def rank_videos(self, query: AnalysedQuery, options: SearchOptions) -> list[RankedVideo]:
        """Return the best videos of a query to locate moments in, without what shows why they match."""
        return self._find(query, options, _rank_video)

    def find(self, query: Query, options: SearchOptions) -> list[FoundVideo]:
        """Return the best videos of a query with all that their probabilities are computed from."""
        return self._find(self.analyse(query, options.sources, options.person), options, lambda found: found)

    def _find(self, query: AnalysedQuery, options: SearchOptions, make: Callable[[FoundVideo], T]) -> list[T]:
        """Return what is made of the best videos of a query and their existing paths.

        Where the nearest segments belong to too few videos, further ones are looked for and follow: those found first
        stay first, so that pages of results neither repeat nor lose a video.
        """
        if options.seen is None and (options.like or options.unlike):
            plain = self._find(query, replace(options, k=SEEN, like=(), unlike=()), _tell_time)
            options = replace(options, seen=tuple(plain))
        question = self._fusion.ask(query, options)
        found: list[T] = []
        missing: list[str] = []
        seen: set[int] = set()
        depth: int | None = options.candidates
        standard: ScoreStandard | None = None
        while depth is not None:
            ranked = self._fusion.rank(question, depth)
            ranked.drop(seen)
            videos = iter(ranked)
            best = list(islice(videos, 1))
            standard = standard or self._judge(question, best, options)
            for video in self._list_existing(chain(best, videos), options, seen, missing):
                found.append(make(replace(video, question=question, standard=standard)))
                if len(found) == options.k:
                    break
            asked = replace(question.asked, depth=depth)
            depth = self._pictures.deepen(asked, len(ranked)) if len(found) < options.k else None
        self._warn_missing(missing)
        return found

    def _judge(self, question: Question, best: Sequence[VideoScores], options: SearchOptions) -> ScoreStandard:
        """Return what the scores of a query mean, given the best; those of images are compared with nothing."""
        if not best or not question.query.is_text:
            return NO_STANDARD
        store = self._pictures.store
        size, share = self._fusion.count(question.sources), 1.0
        if options.filters != ALL_VIDEOS:
            share = store.count_videos(options.filters) / max(store.count_videos(), 1)
        return ScoreStandard(best=best[0].score, size=max(round(share * size), 1), judge=load_judge(store))

    def _list_existing(
        self, ranked: Iterable[VideoScores], options: SearchOptions, seen: set[int], missing: list[str]
    ) -> Iterator[FoundVideo]:
        """Yield each video with a file that exists and passes the filters, best first, those of one score by path.

        Paths of missing files are added to ``missing``, and videos to ``seen``.
        """
        groups = (list(group) for _, group in groupby(ranked, key=lambda each: each.score))
        while batch := list(islice(groups, options.k)):  # whose paths are read together
            paths = self._pictures.store.files.paths_of(
                [video.video_id for group in batch for video in group], options.filters
            )
            for group in batch:
                seen.update(video.video_id for video in group)
                for video in sorted(group, key=lambda each: paths[each.video_id]):
                    existing = tuple(path for path in paths[video.video_id] if may_exist(path))
                    if existing:
                        yield FoundVideo(scores=video, paths=existing)
                    else:
                        missing += paths[video.video_id]

    def locate(
        self, query: AnalysedQuery, videos: Sequence[RankedVideo], options: LocateOptions, grounder: MomentHead | None
    ) -> list[Moment]:
        """Return the best moments of some videos; a grounding head bounds what is seen, if there is one."""
        asked = SearchOptions(sources=options.sources, filters=options.filters)
        only = videos[0].video_id if len(videos) == 1 else None
        question = self._fusion.ask(query, asked, video_id=only)
        has_pictures = "picture" in question.sources
        if not has_pictures or not query.is_text:
            grounder = None  # a head reads text
        if grounder is None and has_pictures and not has_frame_vectors(self._encoder):
            note_coarse(self._encoder.name)
        scored, judge = [], load_judge(self._pictures.store)
        typical = self._pictures.typical_score() if query.is_text else None
        for video in videos:
            scores = self._fusion.score_video(question, video.video_id)
            if scores is not None:
                scores.cuts = find_cuts(self._pictures.store, video.video_id)
                if typical is not None and scores.line is not None:  # as evidence in this video
                    scores.typical = scores.line[0] + scores.line[1] * typical
                scored.append((video, scores))
        if grounder is not None:
            self._ask_head(grounder, question, scored, options)
        moments: list[Moment] = []
        for video, scores in scored:
            if video.probability is None and query.is_text:
                video = judge_alone(video, scores, judge)
            spans = find_query_spans(
                scores,
                question.structure,
                k=options.k,
                overlapping=options.overlapping,
                weak=options.weak,
                snap=options.snap,
            )
            best = spans[0].score if spans else ABSENT
            kept = [span for span in spans if options.weak or span.score >= best - STANDS_OUT]
            moments += [self._make_moment(video, scores, question, span, best, grounder) for span in kept]
        return sorted(moments, key=lambda moment: -moment.score)[: options.k]

    def list_curve_texts(self, query: AnalysedQuery, video_id: int) -> tuple[CurveText, ...]:
        """Return the words of a video that speak for a query, by time, at their height in its curve."""
        question = self._fusion.ask(query, SearchOptions(), video_id=video_id)
        scores = self._fusion.score_video(question, video_id)
        if self._texts is None or scores is None or scores.line is None:
            return ()
        offset, slope = scores.line
        telling = [match for clause in scores.texts for match in clause if not match.is_silent]
        best = sorted(telling, key=lambda match: -match.evidence)[:MAX_CURVE_TEXTS]
        return tuple(
            CurveText(
                source=match.source,
                start=match.start,
                end=match.end,
                score=(match.evidence - offset) / slope,
                text=match.text,
                matches=self._texts.mark(match),
            )
            for match in sorted(best, key=lambda match: (match.start, match.end))
        )

    def _make_moment(
        self,
        video: RankedVideo,
        scores: VideoScores,
        question: Question,
        span: FusedSpan,
        best: float,
        grounder: MomentHead | None,
    ) -> Moment:
        by_words, by_picture = span.parts[0].match is not None, "curve" if grounder is None else "head"
        return Moment(
            video=video.video_id,
            path=video.path,
            start=span.start,
            end=span.end,
            score=scores.score - (best - span.score),
            probability=video.probability,
            weak=video.weak,
            by="words" if by_words else by_picture,
            similarity=None if by_words or grounder is not None else find_similarity(scores, span),
            evidence=make_evidence(span.parts, self._texts)
            + tell_persons(question.presence, video.video_id, [(span.start, span.end)]),
            events=list_events(span, question.structure),
        )

    def interpret(self, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
        """Return how a query is understood."""
        named: Any = self._people.name_handles(query)
        return interpret_for(named, sources, self._holds)

    def _ask_head(
        self,
        grounder: MomentHead,
        question: Question,
        scored: Sequence[tuple[RankedVideo, VideoScores]],
        options: LocateOptions,
    ) -> None:
        """Set the spans that the head finds in the pictures of each video, for each clause."""
        videos = [video for video, _ in scored]
        answers = [answer_videos(self._pictures, grounder, clause, videos) for clause in question.encoded]
        for (_, scores), spans in zip(scored, zip(*answers, strict=True), strict=True):
            overlapping = options.overlapping and not question.structure.is_joint
            scores.picture_spans = [
                choose_spans(own, overlapping=overlapping, weak=options.weak) if own else [] for own in spans
            ]

    def _make_hit(self, found: FoundVideo) -> Hit:
        video, structure, question = found.scores, found.structure, found.question
        assert question is not None
        parts = [part for clause in range(len(structure.clauses)) for part in find_parts(video, clause)]
        evidence = make_evidence(parts, self._texts) if found.is_text else ()
        is_word = bool(evidence) and evidence[0].source != "picture"
        time_s = evidence[0].start if is_word and len(structure.clauses) == 1 else video.time_s[0]
        best: dict[Source, float] = {}
        for clause in range(len(structure.clauses)):
            for source, score in video.source_scores(clause).items():
                best[source] = max(best.get(source, ABSENT), score)
        why: dict[str, float] = {source: best[source] for source in SOURCES if best.get(source, ABSENT) > ABSENT}
        return Hit(
            video=video.video_id,
            path=found.paths[0],
            segment=self._find_segment(video, time_s),
            time=time_s,
            score=video.score,
            probability=found.probability,
            weak=found.is_weak,
            copies=found.paths[1:],
            why=why | dict(video.levels) if set(why) == {"picture"} else why,
            evidence=evidence
            + tell_persons(
                question.presence, video.video_id, [(time, time) for time in sorted({*video.time_s, time_s})]
            ),
            events=self._place_events(video, structure),
        )

    def _warn_missing(self, missing: Sequence[str]) -> None:
        """Log one warning about missing files, each file only the first time."""
        new = [path for path in dict.fromkeys(missing) if path not in self._missing]
        self._missing.update(new)
        names = ", ".join(display_path(strip_query(path)) for path in new[:MAX_LISTED])
        if len(new) == 1:
            logger.warning("left out, its file is gone: %s", names)
        elif new:
            rest = f" and {len(new) - MAX_LISTED} more" if len(new) > MAX_LISTED else ""
            logger.warning("left out, %d files are gone: %s%s", len(new), names, rest)

    def _place_events(self, video: VideoScores, structure: QueryStructure) -> tuple[EventSpan, ...]:
        if not structure.is_joint:
            return ()
        video.cuts = find_cuts(self._pictures.store, video.video_id)
        spans = find_placed_spans(video, structure, k=1, overlapping=False)
        return list_events(spans[0], structure) if spans else ()

    def _find_segment(self, video: VideoScores, time_s: float) -> Segment:
        """Return the segment that holds a time, or the nearest one."""
        segments = video.segments
        if not any(segment.start <= time_s <= segment.end for segment in segments):
            ids = self._pictures.store.segments.ids_of_video(video.video_id)
            segments = list(self._pictures.store.segments.intact(ids).values())
        if not segments:
            return Segment(video.video_id, 0, time_s, time_s)
        return min(segments, key=lambda each: max(each.start - time_s, time_s - each.end, 0.0))


def judge_alone(video: RankedVideo, scores: VideoScores, judge: EvidenceJudge) -> RankedVideo:
    """Return a video with the probability that it answers a query by itself."""
    probability = judge.index(scores.score, len(scores.segments) + max(map(len, scores.texts)))
    return replace(video, probability=probability, weak=probability < UNLIKELY)


def _tell_time(found: FoundVideo) -> TimePoint:
    return found.scores.video_id, found.scores.time_s[0]


def _rank_video(found: FoundVideo) -> RankedVideo:
    return RankedVideo(
        video_id=found.scores.video_id,
        path=found.paths[0],
        probability=found.probability,
        weak=found.is_weak,
    )


def find_query_spans(
    scores: VideoScores, structure: QueryStructure, *, k: int, overlapping: bool, weak: bool = True, snap: bool = True
) -> list[FusedSpan]:
    """Return the spans of a video that match a query, best first; with ``snap``, pictures begin and end at cuts."""
    if structure.is_joint:
        return find_placed_spans(scores, structure, k=k, overlapping=overlapping, snap=snap)
    expects_words = structure.clauses[0].source is not None
    return find_fused_spans(scores, expects_words=expects_words, k=k, overlapping=overlapping, weak=weak, snap=snap)


def list_events(span: FusedSpan, structure: QueryStructure) -> tuple[EventSpan, ...]:
    """Return where each clause of a query was placed; empty for one clause."""
    return tuple(
        EventSpan(text=clause.shown or clause.text, start=event.start, end=event.end, score=event.score)
        for clause, event in zip(structure.clauses, span.events, strict=False)
    )


def find_parts(video: VideoScores, clause: int) -> list[SpanPart]:
    """Return the best match of each source for a clause: for several clauses, at the time at which it was placed."""
    parts = []
    is_local = len(video.time_s) > 1
    time_s = video.time_s[min(clause, len(video.time_s) - 1)]
    for source in TEXT_SOURCES:
        own = [
            match
            for match in video.texts[clause]
            if match.source == source and (not is_local or _holds(match.start, match.end, time_s))
        ]
        if own:
            best = max(own, key=lambda match: match.evidence)
            parts.append(SpanPart(source=source, start=best.start, end=best.end, score=best.evidence, match=best))
    pictures = video.pictures[clause]
    point = int(np.abs(video.times - time_s).argmin()) if is_local else int(pictures.argmax())
    if pictures[point] > ABSENT:
        seen = float(video.times[point])
        parts.append(SpanPart(source="picture", start=seen, end=seen, score=float(pictures[point])))
    return parts


def tell_persons(
    presence: Presence | None, video_id: int, spans: Sequence[tuple[float, float]]
) -> tuple[Evidence, ...]:
    """Return where the persons of a query are seen or heard in spans of a video, each once."""
    found = () if presence is None else (piece for span in spans for piece in presence.tell(video_id, *span))
    return tuple(dict.fromkeys(found))


def _holds(start_s: float, end_s: float, time_s: float) -> bool:
    return start_s - TOLERANCE_S <= time_s <= end_s + TOLERANCE_S


def make_evidence(parts: Sequence[SpanPart], texts: TextChannel | None) -> tuple[Evidence, ...]:
    """Return the evidence of some matches, best first, with each one's share of the score; none without words."""
    if not parts or texts is None:
        return ()
    weights = np.exp([part.score - max(each.score for each in parts) for part in parts])
    shares = weights / weights.sum()
    evidence: list[Evidence] = []
    for index in np.argsort(-shares, kind="stable")[:MAX_EVIDENCE]:
        part = parts[index]
        if shares[index] < MIN_SHARE and evidence:
            continue
        text = "" if part.match is None else part.match.text
        marks = () if part.match is None else texts.mark(part.match)
        evidence.append(
            Evidence(
                source=part.source, start=part.start, end=part.end, share=float(shares[index]), text=text, matches=marks
            )
        )
    return tuple(evidence)
