"""Location of moments in chosen videos: by a trained grounding head if there is one, else by the score curve."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from jaxtyping import Float

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.picture.evidence import FrameScorer
from vidret.channels.picture.ranking import FrameRanker, score_top_frames
from vidret.encode.encoder import has_frame_vectors
from vidret.errors import StoreError
from vidret.ground.postprocess import weigh_by_similarity
from vidret.ground.spans import Span, drop_overlapping
from vidret.search.fused_moments import FusedSpan, find_similarity, gaps_between
from vidret.search.fusion import Fusion, Question
from vidret.search.heads.base import GroundedVideo, MomentHead
from vidret.search.hits import make_evidence
from vidret.search.placed_moments import find_query_spans, list_events
from vidret.search.probability import ProbabilityModel, ScoreStandard, load_probabilities
from vidret.search.query.clauses import AnalysedQuery, QueryStructure
from vidret.search.video_scores import VideoScores
from vidret.store.lookup import find_cuts, look_up_video
from vidret.store.records import FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store
from vidret.text import absolute_path, as_path, strip_query
from vidret.types import Curve, CurveText, LocateOptions, Moment, SearchOptions, TextSource
from vidret.types.arrays import widen_rows
from vidret.video.decoders.base import choose_mode
from vidret.video.files import choose_existing

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.5  # of the probability of a video's best span
STANDS_OUT = 2.0  # nats below the best moment that another one may score
MAX_CURVE_TEXTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedVideo:
    """A video to locate moments in.

    Attributes:
        standard: What the scores of its moments mean; None for a video that was not searched for.
    """

    video_id: int
    path: str
    standard: ScoreStandard | None = None


def choose_video(store: Store, video: str | os.PathLike[str] | int) -> RankedVideo:
    """Return a video that was not searched for, by its id, its path, which stays as it is, or the ending of its path.

    Raises:
        StoreError: The index does not have it, or all of its files are missing.
    """
    video_id = look_up_video(store, video)
    if isinstance(video, int | np.integer) or store.files.get(absolute_path(video)) is None:
        return RankedVideo(video_id=video_id, path=choose_path(store, video_id))
    return RankedVideo(video_id=video_id, path=as_path(os.fspath(video)))


def choose_path(store: Store, video_id: int) -> str:
    """Return the first existing path of a video, or its first path if none exists, for error messages.

    Raises:
        StoreError: All of its files are missing.
    """
    paths = store.files.paths_of([video_id])[video_id]
    if not paths:
        raise StoreError(f"video must have an existing file, got {video_id}, whose files are all missing")
    return choose_existing(paths)


def locate_moments(
    fusion: Fusion,
    query: AnalysedQuery,
    videos: Sequence[RankedVideo],
    options: LocateOptions,
    grounder: MomentHead | None,
    *,
    among_all: bool = False,
) -> list[Moment]:
    """Return the best moments of some videos; a grounding head bounds what is seen, if there is one.

    A video that was not searched for is judged by itself, or with ``among_all`` as the best one of the index.
    """
    store, asked = fusion.pictures.store, SearchOptions(sources=options.sources, filters=options.filters)
    question = fusion.ask(query, asked, video_id=videos[0].video_id if len(videos) == 1 else None)
    has_pictures = "picture" in question.asked.sources
    if not has_pictures or not query.is_text or query.has_mentions:
        grounder = None  # a head reads text
    if grounder is None and has_pictures and not has_frame_vectors(fusion.encoder):
        note_coarse(fusion.encoder.name)
    scored, model = [], load_probabilities(store, question.asked.sources)
    typical = fusion.pictures.typical_score() if query.is_text else None
    for video in videos:
        scores = fusion.score_video(question, video.video_id)
        if scores is not None:
            scores.cuts = find_cuts(store, video.video_id)
            if typical is not None and scores.line is not None:  # as evidence in this video
                scores.typical = scores.line[0] + scores.line[1] * typical
            scored.append((video, scores))
    if grounder is not None:
        _ask_head(fusion.pictures, grounder, question, scored, options)
    by_picture = "curve" if grounder is None else "head"
    size = fusion.count_compared(question.asked) if among_all else None
    return [
        _make_moment(fusion, question, one, *scored[one.index], model, by_picture, size)
        for one in choose_best_spans([scores for _, scores in scored], query.structure, options)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSpan:
    """A span of one of some videos, of which ``index`` is the place in their list, and its score among all spans."""

    score: float
    index: int
    span: FusedSpan


def choose_best_spans(
    videos: Sequence[VideoScores], structure: QueryStructure, options: LocateOptions
) -> list[ScoredSpan]:
    """Return the best spans of all videos, best first, those of equal scores in the order of the videos.

    No span scores higher than its video, so videos are skipped that score lower than enough spans of others.
    """
    found: list[ScoredSpan] = []
    for index in sorted(range(len(videos)), key=lambda index: -videos[index].score):
        scores = videos[index]
        if len(found) == options.k and scores.score < found[-1].score:
            break
        spans = find_query_spans(scores, structure, options)
        if not options.weak:
            spans = [span for span in spans if span.score >= spans[0].score - STANDS_OUT]
        found += [
            ScoredSpan(score=scores.score - (spans[0].score - span.score), index=index, span=span) for span in spans
        ]
        found = sorted(found, key=lambda one: (-one.score, one.index))[: options.k]
    return found


def _make_moment(
    fusion: Fusion,
    question: Question,
    found: ScoredSpan,
    video: RankedVideo,
    scores: VideoScores,
    model: ProbabilityModel,
    by_picture: str,
    size: int | None,
) -> Moment:
    query, span, standard = question.query, found.span, video.standard
    if standard is None:
        size = len(scores.segments) + max(map(len, scores.texts)) if size is None else size
        standard = ScoreStandard(size=size if query.is_text else 0, num_events=len(query.structure.steps), model=model)
    by = "words" if span.parts[0].source != "picture" else by_picture
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
        evidence=question.add_persons(
            make_evidence(span.parts, fusion.texts), video.video_id, [(span.start, span.end)]
        ),
        events=list_events(span, query.structure),
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
            _choose_spans(own, overlapping=overlapping, weak=options.weak) if own else [] for own in spans
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
        except StoreError as error:  # another process may have pruned it meanwhile
            logger.warning("the head left out: %s", error)
    found = dict(zip(described, grounder.answer_many(words, list(described.values())), strict=True))
    answers = []
    for video in videos:
        spans = found.get(video.video_id) or []
        read = read_curve(pictures, query, video.video_id) if spans and weight else None
        answers.append(spans if read is None else weigh_by_similarity(spans, read[0], weight))
    return answers


def _choose_spans(spans: Sequence[Span], *, overlapping: bool, weak: bool) -> list[Span]:
    """Return the spans of a head to show, best first."""
    kept = list(spans) if overlapping else drop_overlapping(spans)
    return kept if weak else [span for span in kept if span.score >= LEAST_SHARE * kept[0].score]


@lru_cache(maxsize=16)
def note_coarse(name: str) -> None:
    """Log, once for each encoder, that moments are as coarse as segments."""
    logger.warning("moments begin and end with segments: %s has one vector a segment", name)


def rate_video(
    pictures: PictureChannel,
    grounder: MomentHead | None,
    query: EncodedQuery,
    video: RankedVideo,
    times: Float[np.ndarray, " time"],
) -> Float[np.ndarray, " time"]:
    """Return the saliency of a video for a query at some times in seconds, by the head or else by the curve.

    Raises:
        DecodeError: The head has not processed the video yet, and it cannot be read.
        StoreError: Nothing of the video is stored.
    """
    if grounder is not None and query.is_text:
        grounded = describe_video(pictures, video.video_id, video.path)
        scores = grounder.rate_frames(grounder.read(query.positive.text), grounded)
        frame_times = grounded.start + (np.arange(len(scores)) + 0.5) / grounder.fps
    else:
        read = read_curve(pictures, query, video.video_id)
        if read is None:
            raise StoreError(f"{strip_query(video.path)}: nothing of it is stored yet")
        scores, frame_times = read[0].scores, read[0].times
    saliency: Float[np.ndarray, " time"] = np.interp(times, frame_times, scores)
    return saliency


def read_curve(pictures: PictureChannel, query: EncodedQuery, video_id: int) -> tuple[Curve, FrameScorer] | None:
    """Return the scores of all stored frames of one video, and what scores others; None if nothing is stored yet."""
    ids = pictures.store.segments.ids_of_video(video_id)
    stored = pictures.reranker.read_again(FrameRanker(), ids)
    segments, frames = stored.segments, stored.frames
    if not segments:
        return None
    rows = widen_rows(np.concatenate(frames))
    scorer = FrameScorer.fit(query, rows)
    curve = Curve(
        scores=scorer.score(rows),
        times=np.concatenate(stored.times),
        start=segments[0].start,
        end=segments[-1].end,
        best=float(score_top_frames(query.positive.sentence[None], frames)[0].max()),
        typical=pictures.typical_score() if query.is_text else None,
        gaps=gaps_between(segments),
        cuts=find_cuts(pictures.store, video_id),
    )
    return curve, scorer


def list_curve_texts(fusion: Fusion, query: AnalysedQuery, video_id: int) -> tuple[CurveText, ...]:
    """Return the words of a video that speak for a query, by time, at their height in its curve."""
    scores = fusion.score_video(fusion.ask(query, SearchOptions(), video_id=video_id), video_id)
    if fusion.texts is None or scores is None or scores.line is None:
        return ()
    offset, slope = scores.line
    telling = [match for clause in scores.texts for match in clause if not match.is_silent]
    best = sorted(telling, key=lambda match: -match.evidence)[:MAX_CURVE_TEXTS]
    return tuple(
        CurveText(
            source=cast(TextSource, match.source),
            start=match.start,
            end=match.end,
            score=(match.evidence - offset) / slope,
            text=match.text,
            matches=fusion.texts.mark(match),
        )
        for match in sorted(best, key=lambda match: (match.start, match.end))
    )


def describe_video(pictures: PictureChannel, video_id: int, path: str) -> GroundedVideo:
    """Return a video of an index for a grounding head.

    Raises:
        StoreError: The index does not have it.
    """
    store = pictures.store
    record = store.videos.get(video_id)
    return GroundedVideo(
        path=path,
        content=record.fingerprint,
        duration=record.duration,
        start=record.start,
        shot_sampling=choose_mode(store.metadata.get(SAMPLING))
        if store.metadata.get(SEGMENTS) == FOLLOW_SHOTS
        else None,
        read=lambda: pictures.reranker.read(FrameRanker(), store.segments.ids_of_video(video_id)),
    )
