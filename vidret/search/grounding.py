"""A grounding head over the videos of an index: a cache of projected videos on disk, and answers to queries."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vidret.devices import choose_device
from vidret.encode.encoder import WHOLE, Encoder, LayeredEncoder
from vidret.errors import StoreError, VidretError
from vidret.ground.checkpoint import load_head
from vidret.ground.head import GroundingResult
from vidret.ground.postprocess import choose_decay, find_highlights, postprocess_spans
from vidret.ground.projected_files import load_projected, save_projected
from vidret.ground.spans import Span
from vidret.ground.windows import join_results
from vidret.search.projecting import Projector
from vidret.search.ranking import TOKENS
from vidret.store.records import KEPT, PROJECTED
from vidret.types import LayerWords

logger = logging.getLogger(__name__)

FPS = 0.5  # for a head whose card has no rate
LIMIT = 2 << 30  # bytes of cached files; files that were requested at indexing are never dropped
ABANDONED = 3600.0  # seconds after which a partial file that is not written to is left over from a killed run
CACHE = "cache"


class Grounder:
    """A grounding head, the encoder whose layers it reads, and a folder for the projected tokens of videos.

    Each video is one file, named by its content, so that a moved video is found again; heads do not share files. Files
    that were requested are kept. Others are a cache of at most ``limit`` bytes, least recently used dropped first.
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
        self._encoder, self._limit = encoder, limit
        self._device = torch.device(choose_device(device))
        self._head.to(self._device)
        self.fps = self.card.fps or FPS
        try:
            choose_decay(self.card)  # fail now, not after the first video
        except ValueError as error:
            raise VidretError(f"{head}: {error}") from error
        self._projector = Projector(
            self._head, encoder, path=self.path, fps=self.fps, dtype=TOKENS[tokens], device=self._device
        )
        if self.card.backbone != encoder.name.removesuffix(WHOLE):
            logger.warning("%s: was made for %s, and reads %s", head, self.card.backbone, encoder.name)
        self.fingerprint = hashlib.blake2b(
            head.read_bytes() + f"{encoder.fingerprint} {tokens}".encode(), digest_size=16
        ).hexdigest()
        self._folder = folder / self.fingerprint

    # Projected videos

    def locate_file(self, content: str, *, keep: bool) -> Path:
        """Return where the projected tokens of a content are stored, whether they exist or not."""
        return self._folder / (KEPT if keep else CACHE) / f"{content}{PROJECTED}"

    def prepare(self, path: str, content: str, *, keep: bool = False, timeout: float = 120.0) -> Path:
        """Return the file of a video's projected tokens, computed if it does not exist.

        Memory does not grow with the length of the video.

        Args:
            path: The video.
            content: Fingerprint of its content.
            keep: Whether to protect the file from being dropped.
            timeout: Seconds that one decoding step may take.

        Raises:
            DecodeError: The video cannot be read, or its content has changed.
            VidretError: The folder cannot be written, or the head does not match the encoder.
        """
        kept, cached = self.locate_file(content, keep=True), self.locate_file(content, keep=False)
        target = kept if keep else cached
        if keep and cached.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has just dropped it
                kept.parent.mkdir(parents=True, exist_ok=True)
                cached.replace(kept)
        for existing in (kept, target):
            if existing.exists():
                with contextlib.suppress(OSError):  # the index may be read-only
                    os.utime(existing)
                return existing
        save_projected(target, self._projector.project(path, content, timeout_s=timeout))
        if not keep:
            self._drop_oldest(target)
        return target

    def _drop_oldest(self, newest: Path) -> None:
        files = []
        for path in newest.parent.glob(f"*{PROJECTED}"):
            with contextlib.suppress(FileNotFoundError):  # another process may have dropped it
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total_bytes = 0
        for _, size_bytes, path in sorted(files, reverse=True):
            total_bytes += size_bytes
            if total_bytes > self._limit and path != newest:
                path.unlink(missing_ok=True)

    # Queries

    def read(self, query: str) -> LayerWords:
        """Return the text layers of a query."""
        return self._encoder.encode_text_layers([query], self._head.block.num_layers)[0]

    @torch.inference_mode()
    def answer(self, text: LayerWords, path: str, content: str, *, duration: float, start: float = 0.0) -> list[Span]:
        """Return the spans of a query in one video, best first, clamped, rounded and suppressed as the card sets.

        A head without boundaries returns spans of high saliency, with the mean saliency of their frames as score.

        Args:
            text: The query.
            path: The video.
            content: Fingerprint of its content.
            duration: End of the video in seconds.
            start: Time of its first frame in seconds.

        Raises:
            DecodeError: The video must be read, and cannot be.
            VidretError: The folder cannot be read or written.
        """
        result = self._query(text, path, content)
        # A remainder of less than half a step has no frame of its own; what is further off lies behind a gap.
        covered_s = min(duration - start, (len(result.saliency) + 0.5) / self.fps)
        if self._head.boundaries is None:
            spans = find_highlights(result.saliency, fps=self.fps, duration=covered_s, limit=self.card.limit)
        else:
            spans = postprocess_spans(result, self.card, duration=covered_s)
        return [Span(start + span.start, start + span.end, span.score) for span in spans]

    @torch.inference_mode()
    def rate_frames(self, text: LayerWords, path: str, content: str) -> Float[np.ndarray, " frame"]:
        """Return the saliency of each frame of a video; frame n is (n + 0.5) / fps seconds after the first.

        Raises:
            DecodeError: The video must be read, and cannot be.
            VidretError: The folder cannot be read or written.
        """
        return self._query(text, path, content).saliency

    def _query(self, text: LayerWords, path: str, content: str) -> GroundingResult:
        projected = self.prepare(path, content)
        try:
            return self._query_file(text, projected)
        except StoreError as error:  # damaged, or dropped by another process
            logger.warning("%s; computed again", error)
            projected.unlink(missing_ok=True)
            return self._query_file(text, self.prepare(path, content, keep=projected.parent.name == KEPT))

    def _query_file(self, text: LayerWords, projected: Path) -> GroundingResult:
        query = torch.from_numpy(text.layers)[None].to(self._device)
        windows, results = [], []
        with one_thread():
            for window, videos in load_projected(projected, device=self._device):
                windows.append(window)
                results += self._head.decode(self._head(videos, query), fps=self.fps)
        return join_results(windows, results, fps=self.fps)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the context.

    The head's many small operations lose more by waiting for threads than they gain: on busy cores ten videos took 17 s
    instead of 0.5 s.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def forget_others(folder: Path, contents: Container[str]) -> None:
    """Delete the files of all heads for other contents than these, and partial files of killed runs."""
    for path in folder.glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):
            if (path.suffix == PROJECTED and path.stem not in contents) or (
                path.suffix == ".part" and path.stat().st_mtime < time.time() - ABANDONED
            ):
                path.unlink()
