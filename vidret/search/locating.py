"""Location of moments in chosen videos: by a trained grounding head if there is one, else by the score curve."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.channel import PictureChannel
from vidret.encode.encoder import has_frame_vectors
from vidret.errors import StoreError
from vidret.ground.postprocess import weigh_by_similarity
from vidret.ground.spans import Span, drop_overlapping
from vidret.search.curves import RankedVideo, choose_video, describe_video, read_curve
from vidret.search.fused_moments import FusedSpan, find_similarity
from vidret.search.fusion import Question, complete_texts, count_compared, find_incomplete, make_question, score_video
from vidret.search.heads.base import MomentHead
from vidret.search.hits import find_best_videos, keep_probable, make_evidence
from vidret.search.open_index import OpenIndex
from vidret.search.placed_moments import find_query_spans, list_events
from vidret.search.probability import ScoreStandard, load_probabilities
from vidret.search.query.clauses import QueryStructure
from vidret.search.query.planning import plan
from vidret.search.video_scores import VideoScores
from vidret.store.lookup import find_cuts
from vidret.types import LocateOptions, Moment, Query, SearchOptions, VideoName

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.5  # share of the probability of a video's best span
STANDS_OUT = 2.0  # nats by which another moment may score below the best one
MAX_TOGETHER = 16  # queries that are run on a video at a time


def locate(
    index: OpenIndex,
    query: Query,
    options: LocateOptions,
    *,
    video: VideoName | None,
    grounder: MomentHead | None,
    fold: Callable[[list[Moment]], list[Moment]],
) -> list[Moment]:
    """Return the best moments in one video, or in the best videos of a search, of which ``fold`` drops copies."""
    planned = plan(index, query, sources=options.sources, person=options.person)
    asked = SearchOptions(k=options.videos, filters=options.filters, sources=options.sources)
    if video is None:
        question, found = find_best_videos(index, planned, asked)
        videos = [RankedVideo(video_id=one.scores.video_id, path=one.paths[0], standard=one.standard) for one in found]
        incomplete = find_incomplete(question, [one.video_id for one in videos])
        question = complete_texts(index, question, incomplete)
    else:
        videos = [choose_video(index.store, video)]
        question = make_question(index, planned, asked, video_ids=[videos[0].video_id])
    scored = _score_videos(index, question, videos, options, grounder)
    wanted = k = options.k + options.offset
    while True:  # folded copies must be replaced; after an improbable moment, none is likelier
        moments = _choose_moments(index, question, scored, replace(options, k=k))
        unique = fold(moments) if video is None and options.copies == "fold" else moments
        kept = keep_probable(unique, options.at_least)
        if len(kept) >= wanted or len(kept) < len(unique) or len(moments) < k:
            return kept[options.offset : wanted]
        k *= 4


def locate_many(
    index: OpenIndex,
    queries: Sequence[Query],
    videos: Sequence[int],
    options: LocateOptions,
    *,
    grounder: MomentHead | None,
    among_all: bool,
) -> list[list[list[Moment]]]:
    """Return the best moments of each query in each of some videos, given by their ids; see ``Engine.locate_many``.

    The frames of a video are read once for up to ``MAX_TOGETHER`` queries.
    """
    found: list[list[list[Moment]]] = []
    unpaged = replace(options, k=options.k + options.offset)
    asked = SearchOptions(sources=options.sources, filters=options.filters)
    for first in range(0, len(queries), MAX_TOGETHER):
        together = queries[first : first + MAX_TOGETHER]
        batch = [plan(index, query, sources=options.sources, person=options.person) for query in together]
        found += [[] for _ in batch]
        for video in videos:
            chosen = [choose_video(index.store, video)]
            for query_index, query in enumerate(batch, start=first):
                question = make_question(index, query, asked, video_ids=[video])
                scored = _score_videos(index, question, chosen, options, grounder, among_all=among_all)
                moments = _choose_moments(index, question, scored, unpaged)
                found[query_index].append(keep_probable(moments, options.at_least)[options.offset :])
    return found


def _score_videos(
    index: OpenIndex,
    question: Question,
    videos: Sequence[RankedVideo],
    options: LocateOptions,
    grounder: MomentHead | None,
    *,
    among_all: bool = False,
) -> list[tuple[RankedVideo, VideoScores]]:
    """Return the scores of some videos over time; a grounding head, if there is one, finds the spans of pictures.

    A video that was not searched for is rated by itself, or with ``among_all`` against the whole index.
    """
    query, has_pictures = question.query, "picture" in question.asked.sources
    if not has_pictures or not query.is_text or query.has_mentions:
        grounder = None  # a head reads text
    if grounder is None and has_pictures and not has_frame_vectors(index.encoder):
        note_coarse(index.encoder.name)
    scored, model = [], load_probabilities(index.store, question.asked.sources)
    typical = index.pictures.typical_score() if query.is_text else None
    num_compared = count_compared(index, question.asked) if among_all else None
    for video in videos:
        scores = score_video(index, question, video.video_id)
        if scores is None:
            continue
        scores.cuts = find_cuts(index.store, video.video_id)
        scores.length_s = index.store.read_sizes([video.video_id])[video.video_id].seconds
        if typical is not None and scores.line is not None:  # as evidence in this video
            scores.typical = scores.line[0] + scores.line[1] * typical
        size = len(scores.segments) + max(map(len, scores.texts)) if num_compared is None else num_compared
        standard = video.standard or ScoreStandard(
            size=size if query.is_text else 0, num_events=len(query.structure.steps), model=model
        )
        scored.append((replace(video, standard=standard), scores))
    if grounder is not None:
        _ask_head(index.pictures, grounder, question, scored, options)
    return scored


def _choose_moments(
    index: OpenIndex, question: Question, scored: Sequence[tuple[RankedVideo, VideoScores]], options: LocateOptions
) -> list[Moment]:
    """Return the best moments of videos with their scores."""
    chosen = choose_best_spans([scores for _, scores in scored], question.query.structure, options)
    moments = [_make_moment(index, question, *scored[one.index], one) for one in chosen]
    return _refine(index, question.query.encoded, moments) if options.refine_edges else moments


def _refine(index: OpenIndex, clauses: Sequence[EncodedQuery], moments: Sequence[Moment]) -> list[Moment]:
    """Return moments with precise edges; those of a query of several events stay as they are."""
    if len(clauses) > 1:
        logger.warning("edges are not refined: the query has several events")
        return list(moments)
    curves = {}
    for video_id in {moment.video for moment in moments if moment.by == "curve"}:
        read = read_curve(index.pictures, clauses[0], video_id)
        if read is not None:
            curves[video_id] = read
    records = [index.store.files.get(path) for path in {moment.path for moment in moments}]
    sizes = {record.path: record.num_bytes for record in records if record and record.num_bytes is not None}
    return index.refiner.refine(moments, curves, sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSpan:
    """A span of the video at ``index`` of a list, and its score among the spans of all videos."""

    score: float
    index: int
    span: FusedSpan


def choose_best_spans(
    videos: Sequence[VideoScores], structure: QueryStructure, options: LocateOptions
) -> list[ScoredSpan]:
    """Return the best spans of all videos, best first, those of equal scores in the order of the videos.

    No span scores higher than its video, so videos are skipped that score lower than enough spans found so far.
    """
    best_spans: list[ScoredSpan] = []
    for index in sorted(range(len(videos)), key=lambda index: -videos[index].score):
        scores = videos[index]
        if len(best_spans) == options.k and scores.score < best_spans[-1].score:
            break
        spans = find_query_spans(scores, structure, options)
        if not options.weak:
            spans = [span for span in spans if span.score >= spans[0].score - STANDS_OUT]
        best_spans += [
            ScoredSpan(score=scores.score - (spans[0].score - span.score), index=index, span=span) for span in spans
        ]
        best_spans = sorted(best_spans, key=lambda one: (-one.score, one.index))[: options.k]
    return best_spans


def _make_moment(
    index: OpenIndex, question: Question, video: RankedVideo, scores: VideoScores, found: ScoredSpan
) -> Moment:
    span, standard = found.span, video.standard or ScoreStandard()
    by = "words" if span.parts[0].source != "picture" else "curve" if scores.picture_spans is None else "head"
    return Moment(
        video=video.video_id,
        path=video.path,
        start=span.start,
        end=span.end,
        score=found.score,
        probability=standard.rate(found.score),
        weak=standard.is_weak(found.score),
        by=by,
        similarity=find_similarity(scores, span) if by == "curve" else None,
        evidence=question.add_persons(make_evidence(span.parts, index.texts), video.video_id, [(span.start, span.end)]),
        events=list_events(span, question.query.structure),
    )


def _ask_head(
    pictures: PictureChannel,
    grounder: MomentHead,
    question: Question,
    scored: Sequence[tuple[RankedVideo, VideoScores]],
    options: LocateOptions,
) -> None:
    """Set the spans that the head finds in the pictures of each video, for each clause."""
    videos = [video for video, _ in scored]
    answers = [_answer_videos(pictures, grounder, clause, videos) for clause in question.asked.encoded]
    overlapping = options.overlapping and not question.query.structure.is_joint
    for (_, scores), spans in zip(scored, zip(*answers, strict=True), strict=True):
        scores.picture_spans = [
            _choose_spans(clause_spans, overlapping=overlapping, weak=options.weak) if clause_spans else []
            for clause_spans in spans
        ]


def _answer_videos(
    pictures: PictureChannel, grounder: MomentHead, query: EncodedQuery, videos: Sequence[RankedVideo]
) -> list[list[Span]]:
    """Return the spans of a query in each video, best first; none for a video that cannot be read, which is logged."""
    words, weight = grounder.read(query.positive.text), grounder.similarity_weight
    described = {}
    for video in videos:
        try:
            described[video.video_id] = describe_video(pictures, video.video_id, video.path)
        except StoreError as error:  # another process may have just pruned it
            logger.warning("the head left out: %s", error)
    spans_by_video = dict(zip(described, grounder.answer_many(words, list(described.values())), strict=True))
    answers = []
    for video in videos:
        spans = spans_by_video.get(video.video_id) or []
        read = read_curve(pictures, query, video.video_id) if spans and weight else None
        answers.append(spans if read is None else weigh_by_similarity(spans, read[0], weight))
    return answers


def _choose_spans(spans: Sequence[Span], *, overlapping: bool, weak: bool) -> list[Span]:
    """Return the spans of a head to show, best first."""
    kept = list(spans) if overlapping else drop_overlapping(spans)
    return kept if weak else [span for span in kept if span.score >= LEAST_SHARE * kept[0].score]


@lru_cache(maxsize=16)
def note_coarse(name: str) -> None:
    """Log, once per encoder, that its moments are as coarse as segments."""
    logger.warning("moments begin and end with segments: %s has one vector per segment", name)
