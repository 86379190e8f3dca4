"""UniversalVTG over the videos of an index: frame vectors of its own encoder, one file per video, and its spans."""

import hashlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vidret.devices import choose_device
from vidret.encode.families.open_clip import PerceptionEncoder
from vidret.errors import VidretError
from vidret.ground.pieces import read_archive, write_archive
from vidret.ground.spans import Span
from vidret.ground.universalvtg import FPS, Level, decode_levels, load_universal
from vidret.ground.windows import choose_frames, place_steps
from vidret.search.heads.base import GroundedVideo, answer_each, one_torch_thread
from vidret.search.heads.prepared import PreparedFiles, decode_segments, read_prepared
from vidret.text import strip_query
from vidret.types import Frames, LayerWords, Sampling
from vidret.video.workers.messages import OpenedVideo

logger = logging.getLogger(__name__)

FRAMES = "frames"
MARK = b"vidret vectors of frames for UniversalVTG, format 1"


class FrameGrounder:
    """UniversalVTG with its own encoder, for an index of any encoder."""

    fps, similarity_weight = FPS, 0.0

    def __init__(self, path: Path, folder: Path, *, device: str = "cpu") -> None:
        """Load the head and its encoder; ``folder`` is for frame vectors, 4 kB per second of video.

        Raises:
            VidretError: The head or its encoder cannot be loaded, or they do not match.
        """
        self.path = path.absolute()
        self._head, backbone = load_universal(path)
        self._device = torch.device(choose_device(device))
        self._head.to(self._device)
        self._encoder = PerceptionEncoder(backbone, self._device)
        size = self._encoder.resize.crop
        blank = Frames(np.zeros((1, size, size, 3), np.uint8), np.zeros(1))
        widths = self._encoder.encode_frames(blank).shape[1], self._encoder.encode_words("a").shape[1]
        if widths != self._head.widths:
            rule = f"frames and words must be {self._head.widths} wide"
            raise VidretError(f"{path}: {rule}, got {widths} of {self._encoder.name}")
        fingerprint = hashlib.blake2b(self._encoder.name.encode(), digest_size=16).hexdigest()
        self.files = PreparedFiles(folder / fingerprint)

    def prepare(self, video: GroundedVideo, *, keep: bool = False, timeout: float = 120.0) -> Path:
        """Return the file of a video's vectors, computed in a separate pass if it does not exist."""

        def make(target: Path) -> None:
            vectors = torch.from_numpy(self._encode_video(video, timeout)).half()
            write_archive(target, MARK, [(FRAMES, {FRAMES: vectors})])

        return self.files.get(video.content, make, keep=keep)

    def _encode_video(self, video: GroundedVideo, timeout_s: float) -> Float[np.ndarray, "frame width"]:
        """Return the vectors of two frames per second."""
        vectors, spans, first = [], list[tuple[float, float]](), 0.0
        how = {"resize": self._encoder.resize, "sampling": Sampling(fps=2 * FPS), "timeout": timeout_s}
        for message in decode_segments(video.path, video.content, **how):
            if isinstance(message, OpenedVideo):
                first = message.start
                continue
            sampled = message.frames
            chosen = choose_frames(sampled.times, message.start, message.end, first=first, fps=FPS)
            used, index = np.unique(sampled.rows[chosen], return_inverse=True)
            pictures = Frames(sampled.pictures.pixels[used], sampled.pictures.times[used])
            vectors.append(self._encoder.encode_frames(pictures)[index])
            spans.append((message.start, message.end))
        steps = place_steps(spans, first=first, fps=FPS)
        if steps.has_gap:
            logger.warning(
                "%s: the head uses only the part before the first gap without frames", strip_query(video.path)
            )
        return np.stack(
            [vectors[segment][offset] for segment, offset in zip(steps.segments, steps.offsets, strict=True)]
        )

    def read(self, query: str) -> LayerWords:
        """Return the vector of a query and the states of its tokens, as one layer."""
        return LayerWords(query, self._encoder.encode_words(query)[None])

    def answer(self, text: LayerWords, video: GroundedVideo) -> list[Span]:
        """Return the spans of a query in one video, best first; at most five."""
        duration_s = video.duration - video.start
        spans = decode_levels(self._query(text, video), duration=duration_s)
        return [Span(video.start + span.start, video.start + span.end, span.score) for span in spans]

    def answer_many(self, text: LayerWords, videos: Sequence[GroundedVideo]) -> list[list[Span] | None]:
        """Return the spans of a query in each video; None for one that cannot be read, which is logged."""
        return answer_each(partial(self.answer, text), videos)

    def rate_frames(self, text: LayerWords, video: GroundedVideo) -> Float[np.ndarray, " frame"]:
        """Return the foreground score of each frame of a video; frame n is (n + 0.5) / 2 seconds after the first."""
        return self._query(text, video)[0].logits.sigmoid().cpu().numpy()

    @torch.inference_mode()
    def _query(self, text: LayerWords, video: GroundedVideo) -> list[Level]:
        frames = read_prepared(self, video, lambda path: next(read_archive(path, MARK))[1][FRAMES])
        words = torch.from_numpy(text.layers[0]).to(self._device)
        with one_torch_thread():
            levels: list[Level] = self._head(frames.to(self._device, torch.float32), words)
        return levels
