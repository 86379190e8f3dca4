"""A grounding head over the videos of an index: a cache of projected videos on disk, and spans for queries."""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from vidret.channels.picture.ranker_loading import TOKENS
from vidret.devices import choose_device
from vidret.disk import DRAFT
from vidret.encode.encoder import Encoder, LayeredEncoder, encode_shared_layers
from vidret.encode.names import drop_sampling
from vidret.errors import DecodeError, StoreError, VidretError
from vidret.ground.checkpoint import load_head
from vidret.ground.head import GroundingResult
from vidret.ground.pieces import find_piece, join_pieces, load_projected, make_piece, save_piece, save_projected
from vidret.ground.projected import ProjectedVideos
from vidret.ground.spans import Span
from vidret.ground.windows import LENGTH, MOST_WINDOWS, Window, choose_frames, ground_windows, join_results, place_steps
from vidret.search.heads.base import FPS, GroundedVideo, one_torch_thread, shape_spans
from vidret.search.heads.prepared import LIMIT, PreparedFiles, decode_segments, read_prepared
from vidret.text import strip_query
from vidret.types import LayerTokens, LayerWords, Sampling, Segment
from vidret.video.workers.messages import OpenedVideo

logger = logging.getLogger(__name__)

Windows = list[tuple[Window, ProjectedVideos]]

MOST_TOGETHER = 2 * LENGTH  # frames of a video that is read as a whole: 5 minutes at 0.5 a second, 8 MB in int8
READING = "frames of the index's segments"  # files depend on this besides head, encoder and format


class Grounder:
    """A grounding head, the encoder whose layers it reads, and a folder for the projected tokens of videos.

    Each video is one file, named by its content, so that a moved video is found again; heads do not share files.
    Requested files are kept. The others are a cache of at most ``limit`` bytes; the least recently used go first.
    """

    def __init__(
        self,
        head: Path,
        encoder: Encoder,
        folder: Path,
        *,
        tokens: str = "int8",
        limit: int = LIMIT,
        device: str = "cpu",
    ) -> None:
        """Load a head.

        Raises:
            VidretError: The head cannot be loaded, or does not match the encoder.
        """
        if tokens not in TOKENS:
            raise VidretError(f"tokens must be {' or '.join(TOKENS)}, got {tokens}")
        self.path = head.absolute()
        self._head, self.card = load_head(head)
        if not isinstance(encoder, LayeredEncoder):
            raise VidretError(f"{head}: must have a CLIP model of ours as encoder, got {encoder.name}")
        self._encoder = encoder
        self.num_layers = self._head.block.num_layers
        self._device = torch.device(choose_device(device))
        self._head.to(self._device)
        self.fps, self.similarity_weight = self.card.fps or FPS, self.card.similarity_weight
        self._dtype = getattr(torch, tokens)
        layers = encoder.encode_text_layers([""], self.num_layers)[0].layers
        self._check_width("text", layers, _count_inputs(self._head.block.query_map))
        if Path(self.card.backbone).absolute() != Path(drop_sampling(encoder.name)).absolute():
            logger.warning("%s: was made for %s, and reads %s", head, self.card.backbone, encoder.name)
        fingerprint = hashlib.blake2b(
            head.read_bytes() + f"{encoder.fingerprint} {tokens} {READING}".encode(), digest_size=16
        ).hexdigest()
        self.files = PreparedFiles(folder / fingerprint, limit)

    # Projected videos

    def prepare(self, video: GroundedVideo, *, keep: bool = False, timeout: float = 120.0) -> Path:
        """Return the file of a video's projected tokens, computed in a separate pass if it does not exist.

        Memory does not grow with the length of the video.
        """

        def make(target: Path) -> None:
            # The name is unique, since another process or thread may prepare the same video.
            folder = self.files.locate_pieces(f"{video.content}.{os.getpid()}-{threading.get_ident()}{DRAFT}")
            try:
                save_projected(target, self._project(video, folder, timeout))
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        return self.files.get(video.content, make, keep=keep)

    @torch.inference_mode()
    def _project(
        self, video: GroundedVideo, folder: Path, timeout_s: float
    ) -> Iterator[tuple[Window, ProjectedVideos]]:
        """Yield the windows of a video with their projected tokens, using an empty folder for pieces.

        The segments and their frames are those of an index.
        """
        sampling = self._encoder.sampling
        segments: list[Segment] = []
        first = 0.0
        for message in decode_segments(
            video.path,
            video.content,
            resize=self._encoder.resize,
            sampling=Sampling(sampling.num_frames, sampling.fps),
            shot_sampling=None if sampling.whole else video.shot_sampling,
            timeout=timeout_s,
        ):
            if isinstance(message, OpenedVideo):
                first = message.start
                continue
            frames, segment = message.frames, Segment(0, message.number, message.start, message.end)
            chosen = choose_frames(frames.times, message.start, message.end, first=first, fps=self.fps)
            layers = encode_shared_layers(
                self._encoder, frames.pictures, frames.times, frames.rows, self.num_layers, chosen=chosen
            )
            self._add(folder, layers, segment, first=first)
            segments.append(segment)
        yield from self._join(video.path, folder, segments, first=first)

    def _add(self, folder: Path, layers: LayerTokens, segment: Segment, *, first: float) -> None:
        """Write the piece of a segment to the folder of its video, which need not exist yet."""
        block = self._head.block
        self._check_width("video", layers.layers[0], _count_inputs(block.video_map) - 2 * block.tef)
        save_piece(folder, make_piece(self._head, layers, segment, first=first, fps=self.fps, device=self._device))

    def _join(
        self, path: str, folder: Path, segments: Sequence[Segment], *, first: float
    ) -> Iterator[tuple[Window, ProjectedVideos]]:
        """Yield the windows of a video whose segments have all been added, with their projected tokens."""
        if place_steps([(segment.start, segment.end) for segment in segments], first=first, fps=self.fps).has_gap:
            logger.warning("%s: the head uses only the part before the first gap without frames", strip_query(path))
        yield from join_pieces(
            self._head,
            folder,
            segments,
            first=first,
            fps=self.fps,
            window_length=self.card.window,
            dtype=self._dtype,
            device=self._device,
        )

    def _check_width(self, tower: str, layers: Float[np.ndarray, "*any width"], expected: int) -> None:
        if layers.shape[-1] != expected:
            name, width = self._encoder.name, layers.shape[-1]
            raise VidretError(f"{self.path}: {tower} layers must be {expected} wide, got {width} of {name}")

    # Indexing

    def record(self, content: str, layers: LayerTokens, segment: Segment, *, first: float) -> None:
        """Store the piece of a segment that is being indexed; see ``MomentRecorder``."""
        if not self.files.is_kept(content):
            self._add(self.files.locate_pieces(content), layers, segment, first=first)

    def finish(self, path: str, content: str, segments: Sequence[Segment], *, first: float) -> None:
        """Join the pieces of all segments of a video into its file, which is kept; see ``MomentRecorder``.

        If a segment was indexed before the index had this head, the video is decoded once more later.
        """
        folder, kept = self.files.locate_pieces(content), self.files.locate(content, keep=True)
        missing = [segment for segment in segments if not find_piece(folder, segment.number).exists()]
        try:
            if missing and not kept.exists():
                raise StoreError(f"{len(missing)} of {len(segments)} segments were indexed without the head")
            if segments and not kept.exists():
                save_projected(kept, self._join(path, folder, segments, first=first))
        except StoreError as error:
            logger.warning("%s: moments take another pass: %s", strip_query(path), error)
        shutil.rmtree(folder, ignore_errors=True)

    # Queries

    def read(self, query: str) -> LayerWords:
        """Return the text layers of a query."""
        return self._encoder.encode_text_layers([query], self.num_layers)[0]

    @torch.inference_mode()
    def answer(self, text: LayerWords, video: GroundedVideo) -> list[Span]:
        """Return the spans of a query in one video; see ``shape_spans``."""
        return shape_spans(self._query(text, video), self.card, video)

    @torch.inference_mode()
    def answer_many(self, text: LayerWords, videos: Sequence[GroundedVideo]) -> list[list[Span] | None]:
        """Return the spans of a query in each video, as ``answer`` does; short videos run through the head together.

        None stands for a video that cannot be read, which is logged.
        """
        cuts = range(0, len(videos), MOST_WINDOWS)
        results = [result for cut in cuts for result in self._query_many(text, videos[cut : cut + MOST_WINDOWS])]
        return [
            None if result is None else shape_spans(result, self.card, video)
            for result, video in zip(results, videos, strict=True)
        ]

    def _query_many(self, text: LayerWords, videos: Sequence[GroundedVideo]) -> list[GroundingResult | None]:
        short: dict[int, Windows] = {}
        results: dict[int, GroundingResult] = {}
        for index, video in enumerate(videos):
            try:
                windows = read_prepared(self, video, self._read_short)
                if windows is None:
                    results[index] = self._query(text, video)
                else:
                    short[index] = windows
            except (DecodeError, StoreError) as error:
                logger.warning("the head left out: %s", error)
        query = torch.from_numpy(text.layers).to(self._device)
        with one_torch_thread():
            parts = [projected for windows in short.values() for _, projected in windows]
            answers = iter(ground_windows(self._head, query, parts, fps=self.fps))
        for index, windows in short.items():
            results[index] = join_results(
                [window for window, _ in windows], islice(answers, len(windows)), fps=self.fps
            )
        return [results.get(index) for index in range(len(videos))]

    def _read_short(self, projected: Path) -> Windows | None:
        """Return the windows of a video; None if they have more than ``MOST_TOGETHER`` frames."""
        windows: Windows = []
        num_frames = 0
        for window, videos in load_projected(projected, device=self._device):
            num_frames += window.last - window.first
            if num_frames > MOST_TOGETHER:
                return None
            windows.append((window, videos))
        return windows

    @torch.inference_mode()
    def rate_frames(self, text: LayerWords, video: GroundedVideo) -> Float[np.ndarray, " frame"]:
        """Return the saliency of each frame of a video; frame n is (n + 0.5) / fps seconds after the first."""
        return self._query(text, video).saliency

    def _query(self, text: LayerWords, video: GroundedVideo) -> GroundingResult:
        return read_prepared(self, video, partial(self._query_file, text))

    def _query_file(self, text: LayerWords, projected: Path) -> GroundingResult:
        query = torch.from_numpy(text.layers)[None].to(self._device)
        windows, results = [], []
        with one_torch_thread():
            for window, videos in load_projected(projected, device=self._device):
                windows.append(window)
                results += self._head.decode(self._head(videos, query), fps=self.fps)
        return join_results(windows, results, fps=self.fps)


def _count_inputs(projection: nn.Sequential) -> int:
    """Return the input width of a projection, which begins with a norm."""
    return next(projection.parameters()).numel()
