"""Projection of videos for a grounding head: decode at the head's rate, encode, and project window by window."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from vidret.encode.encoder import LayeredEncoder
from vidret.errors import DecodeError, VidretError
from vidret.ground.head import GroundingHead
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, cut_windows
from vidret.text import strip_query
from vidret.types import Frames, LayerTokens, Picture
from vidret.video.identity import Identity, check_unchanged
from vidret.video.pool import DecodedSegment, DecodePool, Finished, OpenedVideo

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

    @torch.inference_mode()
    def project(self, path: str, content: str, *, timeout_s: float) -> Iterator[tuple[Window, ProjectedVideos]]:
        """Yield the windows of a video with their projected tokens.

        Memory does not grow with the length of the video.

        Raises:
            DecodeError: The video cannot be read, or its content has changed.
            VidretError: The widths of the head and of the encoder's vision layers do not match.
        """
        parts: list[LayerTokens] = []
        first = 0  # index of the first frame in ``parts``
        windows: list[Window] | None = None
        for item in self._encode(path, content, timeout_s):
            if isinstance(item, int):
                windows = cut_windows(item)
                continue
            parts.append(item)
            assert windows is not None
            while windows and first + sum(len(part.times) for part in parts) >= windows[0].last:
                window = windows.pop(0)
                yield window, self._project_window(parts, slice(window.first - first, window.last - first))
                while windows and parts and first + len(parts[0].times) <= windows[0].first:
                    first += len(parts.pop(0).times)

    def _project_window(self, parts: list[LayerTokens], frames: slice) -> ProjectedVideos:
        """Project the frames of one window. Parts with fewer merged tokens are padded to the maximum."""
        self._check_width(
            "video", parts[0].layers[0], _count_inputs(self._head.block.video_map) - 2 * self._head.block.tef
        )
        layers, masks, sizes = [], [], []
        for layer in range(self._head.block.num_layers):
            rows = [torch.from_numpy(part.layers[layer]) for part in parts]
            num_tokens = max(row.shape[1] for row in rows)
            layers.append(self._join(rows, num_tokens, frames))
            if parts[0].masks is None or parts[0].sizes is None:
                continue
            real = [torch.from_numpy(part.masks[layer]) for part in parts if part.masks is not None]
            counts = [torch.from_numpy(part.sizes[layer]) for part in parts if part.sizes is not None]
            masks.append(self._join(real, num_tokens, frames))
            sizes.append(self._join(counts, num_tokens, frames))
        projected = self._head.prepare(layers, token_masks=masks or None, sizes=sizes or None, dtype=self._dtype)
        return ProjectedVideos(*(tuple(None if x is None else x.cpu() for x in part) for part in projected[:3]))  # type: ignore[arg-type]

    def _join(self, rows: Sequence[torch.Tensor], num_tokens: int, frames: slice) -> torch.Tensor:
        return torch.cat([_pad(row, num_tokens) for row in rows])[frames][None].to(self._device)

    def _encode(self, path: str, content: str, timeout_s: float) -> Iterator[int | LayerTokens]:
        """Yield the number of frames, then the layers of some frames at a time.

        A frame that cannot be read is replaced by the one before it.
        """
        identity = check_unchanged(path, Identity(content), CHANGED)
        batch_size = self._encoder.sampling.num_frames
        images: list[Picture] = []
        last: Picture | None = None
        with DecodePool(1, resize=self._encoder.resize, num_frames=1, fps=self._fps, timeout=timeout_s) as pool:
            num_frames = num_encoded = 0
            frame_indices: list[int] = []
            for message in pool.stream(path, skip=self._skip_after_gap):
                match message:
                    case OpenedVideo():
                        frame_indices, num_frames = place_frames(message.cuts, self._fps)
                        if len(frame_indices) < len(message.cuts):
                            logger.warning("%s: the head sees what comes before the first gap", strip_query(path))
                        yield num_frames
                    case DecodedSegment():
                        image = message.frames.pictures.pixels[0]
                        num_missing = frame_indices[message.number] - num_encoded - len(images)
                        images += [image if last is None else last] * num_missing + [image]
                        last = image
                    case Finished():
                        check_unchanged(path, identity, CHANGED)
                        if message.salvaged:
                            logger.warning("%s: %s", strip_query(path), message.salvaged)
                        if last is None:
                            raise DecodeError(path, "no frame of it can be read")
                        images += [last] * (num_frames - num_encoded - len(images))
                while len(images) >= batch_size or (images and num_encoded + len(images) >= num_frames):
                    batch, images = images[:batch_size], images[batch_size:]
                    times = (np.arange(num_encoded, num_encoded + len(batch)) + 0.5) / self._fps
                    num_encoded += len(batch)
                    yield self._encoder.encode_layers(Frames(np.stack(batch), times), self._head.block.num_layers)

    def _skip_after_gap(self, opened: OpenedVideo) -> range:
        return range(len(place_frames(opened.cuts, self._fps)[0]), len(opened.cuts))

    def _check_width(self, tower: str, layers: Float[np.ndarray, "*any width"], expected: int) -> None:
        if layers.shape[-1] != expected:
            name, width = self._encoder.name, layers.shape[-1]
            raise VidretError(f"{self._path}: {tower} layers must be {expected} wide, got {width} of {name}")


def place_frames(cuts: Sequence[tuple[int, float, float]], fps: float) -> tuple[list[int], int]:
    """Return the frame index of each one-frame segment, and the number of frames of the video at this rate.

    A segment is longer where a frame is shown for longer. Segments after the first gap are left out.

    Args:
        cuts: Indices, starts and ends in seconds of segments.
        fps: Frames per second.
    """
    first_start = cuts[0][1]
    gap = next((i for i in range(1, len(cuts)) if cuts[i][1] - cuts[i - 1][2] > 0.5 / fps), len(cuts))
    indices = [round((start - first_start) * fps) for _, start, _ in cuts[:gap]]
    return indices, max(indices[-1] + 1, round((cuts[gap - 1][2] - first_start) * fps))


def _count_inputs(projection: nn.Sequential) -> int:
    """Return the input width of a projection, which begins with a norm."""
    return next(projection.parameters()).numel()


def _pad(rows: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Append zeros to the tokens of each frame; masks mark them as padding."""
    num_missing = num_tokens - rows.shape[1]
    return functional.pad(rows, (0, 0, 0, num_missing) if rows.ndim == 3 else (0, num_missing))
