"""The protocol of grounding heads in searches: the videos they read, and their spans and saliency in seconds."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float

from vidret.errors import DecodeError, StoreError
from vidret.ground.postprocess import find_highlights, postprocess_spans
from vidret.ground.spans import Span
from vidret.store.records import StoredSegments
from vidret.types import LayerWords

if TYPE_CHECKING:
    from vidret.ground.checkpoint import HeadCard
    from vidret.ground.head import GroundingResult
    from vidret.video.decoders.base import SamplingMode

logger = logging.getLogger(__name__)

FPS = 0.5  # for a head whose card has no rate


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedVideo:
    """A video to locate moments in, as an index knows it.

    Attributes:
        content: Fingerprint of its content.
        duration: End of the video in seconds.
        start: Time of its first frame in seconds.
        shot_sampling: The frames that are decoded to cut segments at shots; None if segments are on a grid.
        read: Returns its stored segments with their frame vectors, which some heads read; None if there are none.
    """

    path: str
    content: str
    duration: float
    start: float = 0.0
    shot_sampling: "SamplingMode | None" = None
    read: Callable[[], StoredSegments] | None = None


class MomentHead(Protocol):
    """A grounding head over the videos of an index.

    It reads the layers of a CLIP model, the vectors that the index stores, or frames by an encoder of its own.

    Attributes:
        path: Path of its file.
        fps: Frames per second that it reads.
        similarity_weight: Weight of the encoder's similarity in the scores of spans.
    """

    path: Path
    fps: float
    similarity_weight: float

    def read(self, query: str) -> LayerWords:
        """Return the words of a query as the head reads them."""
        ...

    def answer_many(self, text: LayerWords, videos: Sequence[GroundedVideo]) -> list[list[Span] | None]:
        """Return the spans of a query in each video, best first; None for one that cannot be read, which is logged."""
        ...

    def rate_frames(self, text: LayerWords, video: GroundedVideo) -> Float[np.ndarray, " frame"]:
        """Return the saliency of each frame of a video; frame n is (n + 0.5) / fps seconds after the first.

        Raises:
            DecodeError: The video must be read, and cannot be.
            VidretError: What the head needs of the video is not stored, or cannot be.
        """
        ...


def answer_each(
    answer: Callable[[GroundedVideo], list[Span]], videos: Sequence[GroundedVideo]
) -> list[list[Span] | None]:
    """Return the answer for each video; None for one that cannot be read, which is logged."""
    answers: list[list[Span] | None] = []
    for video in videos:
        try:
            answers.append(answer(video))
        except (DecodeError, StoreError) as error:
            logger.warning("the head left out: %s", error)
            answers.append(None)
    return answers


def shape_spans(result: "GroundingResult", card: "HeadCard", video: GroundedVideo) -> list[Span]:
    """Return the spans of a head's result, post-processed as its card says, in seconds of the video's own time.

    They are best first, clamped, rounded and suppressed. A head without boundaries finds no spans: those of high
    saliency are returned, with the mean saliency of their frames as score.
    """
    fps = card.fps or FPS
    # A remainder of less than half a step has no frame of its own; anything further off is behind a gap.
    covered_s = min(video.duration - video.start, (len(result.saliency) + 0.5) / fps)
    if len(result.spans):
        spans = postprocess_spans(result, card, duration=covered_s)
    else:
        spans = find_highlights(result.saliency, fps=fps, duration=covered_s, limit=card.limit)
    return [Span(video.start + span.start, video.start + span.end, span.score) for span in spans]


_torch_turn, _torch_threads = threading.Lock(), list[int]()  # the previous number, once per thread inside


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Run torch on one thread inside the context; each Python thread inside gets its previous number back.

    The head's many small operations lose more by waiting for threads than they gain: on busy cores ten videos took 17 s
    instead of 0.5 s.
    """
    import torch

    with _torch_turn:  # a thread between these two lines would take another's 1 for the previous number
        _torch_threads.append(_torch_threads[0] if _torch_threads else torch.get_num_threads())
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _torch_turn:
            torch.set_num_threads(_torch_threads.pop())
