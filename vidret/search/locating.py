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
from vidret.channels.picture.evidence import FrameScorer
from vidret.channels.picture.ranking import FrameRanker
from vidret.channels.picture.segments import Searcher
from vidret.encode.encoder import has_frame_vectors
from vidret.errors import StoreError
from vidret.ground.curve import find_moments, mean_inside
from vidret.ground.postprocess import weigh_by_similarity
from vidret.ground.spans import Span, drop_overlapping
from vidret.search.heads.base import GroundedVideo, MomentHead
from vidret.store.lookup import look_up_video
from vidret.store.records import FOLLOW_SHOTS, SAMPLING, SEGMENTS
from vidret.store.store import Store
from vidret.text import absolute_path, as_path, strip_query
from vidret.types import Curve, Moment, Segment
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
        score: Its score in a search; 0 if it was not searched for.
        probability: How likely it answers the query; None if nothing tells.
        weak: Whether nothing that scores no higher is said to match well.
    """

    video_id: int
    path: str
    score: float = 0.0
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
def _note_coarse(name: str) -> None:
    """Log, once for each encoder, that moments are as coarse as segments."""
    logger.warning("moments begin and end with segments: %s has one vector a segment", name)


class Locator:
    """An index open for reading, with a trained grounding head or without."""

    def __init__(self, searcher: Searcher, grounder: MomentHead | None) -> None:
        self._searcher, self._grounder = searcher, grounder

    def locate(
        self,
        query: EncodedQuery,
        videos: Sequence[RankedVideo],
        k: int,
        *,
        overlapping: bool,
        weak: bool,
        snap: bool = True,
    ) -> list[Moment]:
        """Return the k best moments in some videos.

        The head locates text queries; without a head, and for images and vectors, the curve does. For ``overlapping``,
        ``weak`` and ``snap`` see ``Engine.locate``.
        """
        if self._grounder is not None and query.is_text:
            moments = self._locate_with_head(self._grounder, query, videos, overlapping=overlapping, weak=weak)
        else:
            moments = self._locate_with_curve(query, videos, k, overlapping=overlapping, weak=weak, snap=snap)
        return sorted(moments, key=lambda moment: -moment.score)[:k]

    def _locate_with_curve(
        self,
        query: EncodedQuery,
        videos: Sequence[RankedVideo],
        k: int,
        *,
        overlapping: bool,
        weak: bool,
        snap: bool,
    ) -> list[Moment]:
        if not has_frame_vectors(self._searcher.encoder):
            _note_coarse(self._searcher.encoder.name)
        moments = []
        for video in videos:
            curve = self.curve(query, video.video_id)
            if curve is None:
                continue
            spans = find_moments(curve, k=k, overlapping=overlapping, weak=weak, snap=snap)
            best = mean_inside(curve, spans[0])
            moments += [
                Moment(
                    video.video_id,
                    video.path,
                    span.start,
                    span.end,
                    best - (spans[0].score - span.score),
                    video.weak,
                    similarity=mean_inside(curve, span),
                    probability=video.probability,
                )
                for span in spans
            ]
        return moments

    def _locate_with_head(
        self,
        grounder: MomentHead,
        query: EncodedQuery,
        videos: Sequence[RankedVideo],
        *,
        overlapping: bool,
        weak: bool,
    ) -> list[Moment]:
        """Return the moments that the head finds.

        Its scores are probabilities within a video. Each is multiplied by the probability of its video, a softmax over
        the scores of the videos, so that an unlikely video's best moments do not outrank those of a certain one.
        Negative terms affect the choice of videos, and the spans only if the head's card weighs them by similarity.
        """
        logits = np.array([video.score for video in videos])
        exponentials = np.exp(logits - logits.max(initial=-np.inf))
        answers = answer_videos(self._searcher, grounder, query, videos)
        moments = []
        for video, share, spans in zip(videos, (exponentials / exponentials.sum()).tolist(), answers, strict=True):
            moments += [
                Moment(
                    video.video_id,
                    video.path,
                    span.start,
                    span.end,
                    share * span.score,
                    video.weak,
                    "head",
                    probability=video.probability,
                )
                for span in choose_spans(spans, overlapping=overlapping, weak=weak)
            ]
        return moments

    def rate(
        self, query: EncodedQuery, video: RankedVideo, times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, " time"]:
        """Return the saliency of a video for a query at some times in seconds, by the head or else by the curve.

        Raises:
            DecodeError: The head has not processed the video yet, and it cannot be read.
            StoreError: Nothing of the video is stored.
        """
        if self._grounder is not None and query.is_text:
            grounded = describe_video(self._searcher, video.video_id, video.path)
            words = self._grounder.read(query.positive.text)
            scores = self._grounder.rate_frames(words, grounded)
            frame_times = grounded.start + (np.arange(len(scores)) + 0.5) / self._grounder.fps
        else:
            curve = self.curve(query, video.video_id)
            if curve is None:
                raise StoreError(f"{strip_query(video.path)}: nothing of it is stored yet")
            scores, frame_times = curve.scores, curve.times
        saliency: Float[np.ndarray, " time"] = np.interp(times, frame_times, scores)
        return saliency

    def curve(self, query: EncodedQuery, video_id: int) -> Curve | None:
        """Return the scores of all stored frames of one video; None if nothing of it is stored yet."""
        read = read_curve(self._searcher, query, video_id)
        return None if read is None else read[0]


def read_curve(searcher: Searcher, query: EncodedQuery, video_id: int) -> tuple[Curve, FrameScorer] | None:
    """Return the scores of all stored frames of one video, and what scores others; None if nothing is stored yet."""
    ids = searcher.store.segments.ids_of_video(video_id)
    stored = searcher.reranker.read_again(FrameRanker(), ids)
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
        typical=searcher.typical_score() if query.is_text else None,
        gaps=gaps_between(segments),
        cuts=find_cuts(searcher.store, video_id),
    )
    return curve, scorer


def answer_videos(
    searcher: Searcher, grounder: MomentHead, query: EncodedQuery, videos: Sequence[RankedVideo]
) -> list[list[Span]]:
    """Return the spans of a query in each video, best first; none for a video that cannot be read, which is logged."""
    words, weight = grounder.read(query.positive.text), grounder.card.similarity_weight
    described = {}
    for video in videos:
        try:
            described[video.video_id] = describe_video(searcher, video.video_id, video.path)
        except StoreError as error:  # another process may have pruned it meanwhile
            logger.warning("the head left out: %s", error)
    found = dict(zip(described, grounder.answer_many(words, list(described.values())), strict=True))
    answers = []
    for video in videos:
        spans = found.get(video.video_id) or []
        read = read_curve(searcher, query, video.video_id) if spans and weight else None
        answers.append(spans if read is None else weigh_by_similarity(spans, read[0], weight))
    return answers


def describe_video(searcher: Searcher, video_id: int, path: str) -> GroundedVideo:
    """Return a video of an index for a grounding head.

    Raises:
        StoreError: The index does not have it.
    """
    store = searcher.store
    record = store.videos.get(video_id)
    return GroundedVideo(
        path=path,
        content=record.fingerprint,
        duration=record.duration,
        start=record.start,
        shot_sampling=choose_mode(store.metadata.get(SAMPLING))
        if store.metadata.get(SEGMENTS) == FOLLOW_SHOTS
        else None,
        read=lambda: searcher.reranker.read(FrameRanker(), store.segments.ids_of_video(video_id)),
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
