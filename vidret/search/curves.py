"""One video of an index: its similarity curve and saliency for a query, its matching words, and its file."""

import os
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from jaxtyping import Float

from vidret.channels.base import EncodedQuery
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.picture.evidence import FrameScorer
from vidret.channels.picture.ranking import FrameRanker, score_top_frames
from vidret.errors import StoreError
from vidret.search.concepts.storage import check_mentions
from vidret.search.fused_moments import gaps_between
from vidret.search.fusion import make_question, score_video
from vidret.search.heads.base import GroundedVideo, MomentHead
from vidret.search.open_index import OpenIndex
from vidret.search.probability import ScoreStandard
from vidret.search.query.planning import embed_query, plan
from vidret.store.lookup import find_cuts, look_up_video
from vidret.store.records import FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store
from vidret.text import absolute_path, as_path, strip_query
from vidret.types import Curve, CurveText, Query, SearchOptions, TextSource, VideoName
from vidret.types.arrays import widen_rows
from vidret.video.decoders.base import choose_mode
from vidret.video.files import choose_existing

MAX_CURVE_TEXTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedVideo:
    """A video to locate moments in.

    Attributes:
        standard: The standard by which its moments are rated; None for a video that was not searched for.
    """

    video_id: int
    path: str
    standard: ScoreStandard | None = None


def choose_video(store: Store, video: str | os.PathLike[str] | int) -> RankedVideo:
    """Return a video named by its id, its path, which is kept as given, or the ending of its path.

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


def rate_video(
    index: OpenIndex,
    query: Query,
    video_name: VideoName,
    times: Float[np.ndarray, " time"],
    *,
    grounder: MomentHead | None,
) -> Float[np.ndarray, " time"]:
    """Return the saliency of a video for a query at some times in seconds, by the head or else by the curve.

    Raises:
        DecodeError: The head has not processed the video yet, and it cannot be read.
        StoreError: Nothing of the video is stored.
    """
    encoded, video = _encode(index, query), choose_video(index.store, video_name)
    if grounder is not None and encoded.is_text:
        grounded = describe_video(index.pictures, video.video_id, video.path)
        scores = grounder.rate_frames(grounder.read(encoded.positive.text), grounded)
        frame_times = grounded.start + (np.arange(len(scores)) + 0.5) / grounder.fps
    else:
        read = read_curve(index.pictures, encoded, video.video_id)
        if read is None:
            raise StoreError(f"{strip_query(video.path)}: no segment is stored yet; index it again")
        scores, frame_times = read[0].scores, read[0].times
    saliency: Float[np.ndarray, " time"] = np.interp(times, frame_times, scores)
    return saliency


def make_curve(index: OpenIndex, query: Query, video: VideoName) -> Curve:
    """Score a query against every stored frame of one video, and list the words that match it.

    Raises:
        StoreError: The index has nothing of the video.
    """
    video_id = look_up_video(index.store, video)
    read = read_curve(index.pictures, _encode(index, query), video_id)
    if read is None:
        raise StoreError(
            f"{strip_query(choose_video(index.store, video).path)}: no segment is stored yet; index it again"
        )
    return replace(read[0], texts=_list_texts(index, query, video_id))


def _encode(index: OpenIndex, query: Query) -> EncodedQuery:
    query = index.people.name_handles(query)
    handles = index.people.find_handles(query)
    check_mentions(index.store, query, handles)
    return embed_query(query, index.encoder, handles)


def read_curve(pictures: PictureChannel, query: EncodedQuery, video_id: int) -> tuple[Curve, FrameScorer] | None:
    """Return the scores of a video's stored frames, and the scorer of other frames; None if nothing is stored yet."""
    ids = pictures.store.segments.ids_of_video(video_id)
    stored = pictures.read_again(FrameRanker(), ids)
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


def _list_texts(index: OpenIndex, query: Query, video_id: int) -> tuple[CurveText, ...]:
    """Return the words of a video that match a query, by time, with their scores on its curve."""
    texts = index.texts
    if texts is None:
        return ()
    question = make_question(index, plan(index, query), SearchOptions(), video_ids=[video_id])
    scores = score_video(index, question, video_id)
    if scores is None or scores.line is None:
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
            matches=texts.mark(match),
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
        read=lambda: pictures.read(FrameRanker(), store.segments.ids_of_video(video_id)),
    )
