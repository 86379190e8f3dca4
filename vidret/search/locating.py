"""Location of moments in chosen videos: by a trained grounding head if there is one, else by the score curve."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from vidret.align.similarity import score_top_frames
from vidret.channels.base import EncodedQuery
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.picture.evidence import FrameScorer
from vidret.channels.picture.ranking import FrameRanker
from vidret.errors import StoreError
from vidret.ground.postprocess import weigh_by_similarity
from vidret.ground.spans import Span, drop_overlapping
from vidret.search.heads.base import GroundedVideo, MomentHead
from vidret.store.lookup import look_up_video
from vidret.store.records import FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store
from vidret.text import absolute_path, as_path, strip_query
from vidret.types import Curve, Segment
from vidret.video.decoders.base import choose_mode
from vidret.video.files import may_exist
from vidret.video.timeline import LONGEST_STILL_S

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.5  # of the probability of a video's best span


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedVideo:
    """A video to locate moments in.

    Attributes:
        video_id: Id of the video.
        path: Path of its file.
        probability: How likely it answers the query; None if nothing tells.
        weak: Whether nothing that scores no higher is said to match well.
    """

    video_id: int
    path: str
    probability: float | None = None
    weak: bool = False


def choose_video(store: Store, video: str | os.PathLike[str] | int) -> RankedVideo:
    """Return a video that was not searched for, by its id, its path, which stays as it is, or the ending of its path.

    Raises:
        StoreError: The index does not have it, or all of its files are missing.
    """
    video_id = look_up_video(store, video)
    if isinstance(video, int) or store.files.get(absolute_path(video)) is None:
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
    return next((path for path in paths if may_exist(path)), paths[0])


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
    rows = np.concatenate(frames)
    scorer = FrameScorer.fit(query, rows)
    curve = Curve(
        scores=scorer.score(rows),
        times=np.concatenate(stored.times),
        start=segments[0].start,
        end=segments[-1].end,
        best=float(score_top_frames(query.positive.sentence, frames)[0].max()),
        typical=pictures.typical_score() if query.is_text else None,
        gaps=gaps_between(segments),
        cuts=find_cuts(pictures.store, video_id),
    )
    return curve, scorer


def answer_videos(
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


def gaps_between(segments: Sequence[Segment]) -> tuple[tuple[float, float], ...]:
    """Return start and end in seconds of the gaps between a video's segments that are too long for a still frame."""
    return tuple(
        (before.end, after.start) for before, after in pairwise(segments) if after.start - before.end > LONGEST_STILL_S
    )


def find_cuts(store: Store, video_id: int) -> tuple[float, ...]:
    """Return the times in seconds at which a new shot begins, rising; in the middle of gradual changes."""
    return tuple((change.start + change.end) / 2 for change in store.shots.of_video(video_id))


def choose_spans(spans: Sequence[Span], *, overlapping: bool, weak: bool) -> list[Span]:
    """Return the spans of a head to show, best first."""
    kept = list(spans) if overlapping else drop_overlapping(spans)
    return kept if weak else [span for span in kept if span.score >= LEAST_SHARE * kept[0].score]
