"""Projection of videos for a grounding head: the frames that an index samples, piece by piece, joined at the end."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from vidret.encode.encoder import LayeredEncoder, encode_shared_layers
from vidret.errors import DecodeError, VidretError
from vidret.ground.head import GroundingHead
from vidret.ground.pieces import join_pieces, make_piece, save_piece
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, choose_frames, place_steps
from vidret.text import strip_query
from vidret.types import LayerTokens, Segment
from vidret.video.decoders.base import SamplingMode
from vidret.video.identity import Identity, check_unchanged
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, OpenedVideo
from vidret.video.workers.pool import DecodePool

logger = logging.getLogger(__name__)

CHANGED = "has changed since it was indexed"


class Projector:
    """A grounding head with the encoder whose layers it reads."""

    def __init__(
        self,
        head: GroundingHead,
        encoder: LayeredEncoder,
        *,
        path: Path,
        fps: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Check that the head can read the text layers of the encoder.

        Args:
            head: The head, which is on ``device``.
            encoder: The encoder.
            path: File of the head, for errors.
            fps: Frames per second that the head reads.
            dtype: dtype of the projected tokens.
            device: Where projections run.

        Raises:
            VidretError: The widths do not match.
        """
        self._head, self._encoder, self._path = head, encoder, path
        self._fps, self._dtype, self._device = fps, dtype, device
        layers = encoder.encode_text_layers([""], head.block.num_layers)[0].layers
        self._check_width("text", layers, _count_inputs(head.block.query_map))

    def add(self, folder: Path, layers: LayerTokens, segment: Segment, *, first: float) -> None:
        """Write what the head needs of a segment to the folder of its video.

        Args:
            folder: The folder; it need not exist yet.
            layers: The layers of the segment's frames.
            segment: The segment.
            first: Start of the video in seconds.

        Raises:
            StoreError: The folder cannot be written.
            VidretError: The widths of the head and of the encoder's vision layers do not match.
        """
        block = self._head.block
        self._check_width("video", layers.layers[0], _count_inputs(block.video_map) - 2 * block.tef)
        save_piece(folder, make_piece(self._head, layers, segment, first=first, fps=self._fps, device=self._device))

    def join(
        self, path: str, folder: Path, segments: Sequence[Segment], *, first: float
    ) -> Iterator[tuple[Window, ProjectedVideos]]:
        """Yield the windows of a video whose segments have all been added, with their projected tokens.

        Raises:
            StoreError: A segment was not added, or its file is damaged.
        """
        if place_steps([(segment.start, segment.end) for segment in segments], first=first, fps=self._fps).has_gap:
            logger.warning("%s: the head sees what comes before the first gap", strip_query(path))
        yield from join_pieces(
            self._head, folder, segments, first=first, fps=self._fps, dtype=self._dtype, device=self._device
        )

    @torch.inference_mode()
    def project(
        self, path: str, content: str, folder: Path, *, shot_sampling: SamplingMode | None, timeout_s: float
    ) -> Iterator[tuple[Window, ProjectedVideos]]:
        """Yield the windows of a video with their projected tokens, decoded and encoded in a pass of its own.

        The segments and their frames are those of an index. Memory does not grow with the length of the video.

        Args:
            path: The video.
            content: Fingerprint of its content.
            folder: An empty folder for pieces.
            shot_sampling: Which frames are decoded to cut segments at shots; None for a grid.
            timeout_s: Seconds that one decoding step may take.

        Raises:
            DecodeError: The video cannot be read, or its content has changed.
            VidretError: The widths of the head and of the encoder's vision layers do not match.
        """
        sampling = self._encoder.sampling
        segments: list[Segment] = []
        first = 0.0
        for message in decode_segments(
            path,
            content,
            resize=self._encoder.resize,
            num_frames=sampling.num_frames,
            fps=sampling.fps,
            shot_sampling=None if sampling.whole else shot_sampling,
            timeout=timeout_s,
        ):
            if isinstance(message, OpenedVideo):
                first = message.start
                continue
            segment = Segment(0, message.number, message.start, message.end)
            self.add(folder, self._encode(message, first), segment, first=first)
            segments.append(segment)
        yield from self.join(path, folder, segments, first=first)

    def _encode(self, decoded: DecodedSegment, first: float) -> LayerTokens:
        """Return the layers of the frames that the head reads of a segment."""
        frames = decoded.frames
        chosen = choose_frames(frames.times, decoded.start, decoded.end, first=first, fps=self._fps)
        num_layers = self._head.block.num_layers
        return encode_shared_layers(
            self._encoder, frames.pictures, frames.times, frames.rows, num_layers, chosen=chosen
        )

    def _check_width(self, tower: str, layers: Float[np.ndarray, "*any width"], expected: int) -> None:
        if layers.shape[-1] != expected:
            name, width = self._encoder.name, layers.shape[-1]
            raise VidretError(f"{self._path}: {tower} layers must be {expected} wide, got {width} of {name}")


def decode_segments(path: str, content: str, **how: Any) -> Iterator[OpenedVideo | DecodedSegment]:
    """Yield a video as it is opened, and then its decoded segments.

    Args:
        path: The video.
        content: Fingerprint of its content.
        **how: What is decoded; see ``DecodePool``.

    Raises:
        DecodeError: The video cannot be read, or its content has changed.
    """
    identity, num_segments = check_unchanged(path, Identity(content), CHANGED), 0
    with DecodePool(1, **how) as pool:
        for message in pool.stream(path):
            match message:
                case OpenedVideo():
                    yield message
                case DecodedSegment():
                    num_segments += 1
                    yield message
                case Finished():
                    check_unchanged(path, identity, CHANGED)
                    if message.salvaged:
                        logger.warning("%s: %s", strip_query(path), message.salvaged)
    if not num_segments:
        raise DecodeError(path, "no frame of it can be read")


def _count_inputs(projection: nn.Sequential) -> int:
    """Return the input width of a projection, which begins with a norm."""
    return next(projection.parameters()).numel()
