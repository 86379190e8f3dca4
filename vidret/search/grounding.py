"""Trained moments: a grounding head over an index's videos, what it keeps of each on disk, and what it answers."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn import functional

from vidret.devices import choose_device
from vidret.encode.encoder import WHOLE, Encoder, LayeredEncoder
from vidret.errors import DecodeError, StoreError, VidretError
from vidret.ground.checkpoint import load_head
from vidret.ground.head import GroundingResult
from vidret.ground.postprocess import choose_decay, find_highlights, postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.projected_files import load_projected, save_projected
from vidret.ground.spans import Span
from vidret.ground.windows import Window, cut_windows, join_results
from vidret.search.ranking import TOKENS
from vidret.store.records import KEPT, PROJECTED
from vidret.text import strip_query
from vidret.types import Frames, LayerTokens, LayerWords
from vidret.video.identity import Identity, check_unchanged
from vidret.video.pool import DecodedSegment, DecodePool, Finished, OpenedVideo

logger = logging.getLogger(__name__)

FPS = 0.5  # for a head whose card names no rate
LIMIT = 2 << 30  # bytes of what was computed for queries; what was asked for at indexing is never dropped
ABANDONED = 3600.0  # seconds after which a file that nobody goes on writing is left over from a run that was killed
CACHE = "cache"


class Grounder:
    """A grounding head, the encoder whose layers it reads, and a folder for the projected tokens of videos.

    Projected tokens are one file a video, named by its content: they are found again after a file was moved, and
    two heads never read each other's. Those kept on request stay; others go, the longest unused first, when they take
    more than ``limit`` bytes.
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
            VidretError: The head cannot be read, or is not for this encoder.
        """
        if tokens not in TOKENS:
            raise VidretError(f"tokens must be {' or '.join(TOKENS)}, got {tokens}")
        self.path = head.absolute()
        self._head, self.card = load_head(head)
        if not isinstance(encoder, LayeredEncoder):
            raise VidretError(f"{head}: must have a CLIP model of ours as encoder, got {encoder.name}")
        self._encoder, self._tokens, self._limit = encoder, TOKENS[tokens], limit
        self._device = torch.device(choose_device(device))
        self._head.to(self._device)
        self.fps = self.card.fps or FPS
        try:
            choose_decay(self.card)  # what is wrong is told now, not after the first video
        except ValueError as error:
            raise VidretError(f"{head}: {error}") from error
        self._check_width("text", self.read("").layers, _count_inputs(self._head.block.query_map))
        if self.card.backbone != encoder.name.removesuffix(WHOLE):
            logger.warning("%s: was made for %s, and reads %s", head, self.card.backbone, encoder.name)
        self.fingerprint = hashlib.blake2b(
            head.read_bytes() + f"{encoder.fingerprint} {tokens}".encode(), digest_size=16
        ).hexdigest()
        self._folder = folder / self.fingerprint

    # What is kept of videos

    def place(self, content: str, *, keep: bool) -> Path:
        """Say where a content's projected tokens are, or would be."""
        return self._folder / (KEPT if keep else CACHE) / f"{content}{PROJECTED}"

    def prepare(self, path: str, content: str, *, keep: bool = False, timeout: float = 120.0) -> Path:
        """Compute a video's projected tokens, unless they are there, and keep them; ``keep`` protects them.

        Memory does not grow with the video's length.

        Raises:
            DecodeError: The video cannot be read, or is not the content any more.
            VidretError: The folder cannot be written, or the head is not for this encoder.
        """
        kept, cached = self.place(content, keep=True), self.place(content, keep=False)
        place = kept if keep else cached
        if keep and cached.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has dropped it just now
                kept.parent.mkdir(parents=True, exist_ok=True)
                cached.replace(kept)
        for found in (kept, place):
            if found.exists():
                with contextlib.suppress(OSError):  # who may only read an index does without
                    os.utime(found)
                return found
        save_projected(place, self._map(path, content, timeout))
        if not keep:
            self._drop_oldest(place)
        return place

    def _drop_oldest(self, newest: Path) -> None:
        files = []
        for path in newest.parent.glob(f"*{PROJECTED}"):
            with contextlib.suppress(FileNotFoundError):  # another process drops, too
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = 0
        for _, size, path in sorted(files, reverse=True):
            total += size
            if total > self._limit and path != newest:
                path.unlink(missing_ok=True)

    @torch.inference_mode()
    def _map(self, path: str, content: str, timeout: float) -> Iterator[tuple[Window, ProjectedVideos]]:
        """Decode, encode and map a video, window after window."""
        seen: list[LayerTokens] = []
        first = 0  # the index of the frame that ``seen`` begins with
        windows: list[Window] | None = None
        for item in self._encode(path, content, timeout):
            if isinstance(item, int):
                windows = cut_windows(item)
                continue
            seen.append(item)
            assert windows is not None
            while windows and first + sum(len(part.times) for part in seen) >= windows[0].last:
                window = windows.pop(0)
                yield window, self._map_window(seen, slice(window.first - first, window.last - first))
                while windows and seen and first + len(seen[0].times) <= windows[0].first:
                    first += len(seen.pop(0).times)

    def _map_window(self, parts: list[LayerTokens], frames: slice) -> ProjectedVideos:
        """Map the frames of one window; tokens merge differently from part to part, and are padded to the most."""
        wanted = _count_inputs(self._head.block.video_map) - 2 * self._head.block.tef
        self._check_width("video", parts[0].layers[0], wanted)
        layers, masks, sizes = [], [], []
        for layer in range(self._head.block.num_layers):
            rows = [torch.from_numpy(part.layers[layer]) for part in parts]
            most = max(row.shape[1] for row in rows)
            layers.append(torch.cat([_pad(row, most) for row in rows])[frames][None].to(self._device))
            if parts[0].masks is None or parts[0].sizes is None:
                continue
            reals = [torch.from_numpy(part.masks[layer]) for part in parts if part.masks is not None]
            counts = [torch.from_numpy(part.sizes[layer]) for part in parts if part.sizes is not None]
            masks.append(torch.cat([_pad(row, most) for row in reals])[frames][None].to(self._device))
            sizes.append(torch.cat([_pad(row, most) for row in counts])[frames][None].to(self._device))
        projected = self._head.prepare(layers, token_masks=masks or None, sizes=sizes or None, dtype=self._tokens)
        return ProjectedVideos(*(tuple(None if x is None else x.cpu() for x in part) for part in projected[:3]))  # type: ignore[arg-type]

    def _encode(self, path: str, content: str, timeout: float) -> Iterator[int | LayerTokens]:
        """Give how many frames there are, then their layers, some at a time."""
        changed = "has changed since it was indexed"
        seen = check_unchanged(path, Identity(content), changed)
        at_once = self._encoder.sampling.num_frames
        pictures: list[np.ndarray] = []
        last: np.ndarray | None = None  # what a frame that could not be read looks like: the one before it
        with DecodePool(1, resize=self._encoder.resize, num_frames=1, fps=self.fps, timeout=timeout) as pool:
            total = given = 0
            places: list[int] = []
            for message in pool.stream(path, skip=self._skip_after_gap):
                match message:
                    case OpenedVideo():
                        places, total = place_frames(message.cuts, self.fps)
                        if len(places) < len(message.cuts):
                            logger.warning("%s: the head sees what comes before the first gap", strip_query(path))
                        yield total
                    case DecodedSegment():
                        picture = message.frames.pixels[0]
                        missing = places[message.number] - given - len(pictures)
                        pictures += [picture if last is None else last] * missing + [picture]
                        last = picture
                    case Finished():
                        check_unchanged(path, seen, changed)
                        if message.salvaged:
                            logger.warning("%s: %s", strip_query(path), message.salvaged)
                        if last is None:
                            raise DecodeError(path, "no frame of it can be read")
                        pictures += [last] * (total - given - len(pictures))
                while len(pictures) >= at_once or (pictures and given + len(pictures) >= total):
                    part, pictures = pictures[:at_once], pictures[at_once:]
                    times = (np.arange(given, given + len(part)) + 0.5) / self.fps
                    given += len(part)
                    yield self._encoder.encode_layers(Frames(np.stack(part), times), self._head.block.num_layers)

    def _skip_after_gap(self, opened: OpenedVideo) -> range:
        return range(len(place_frames(opened.cuts, self.fps)[0]), len(opened.cuts))

    # What is asked

    def read(self, query: str) -> LayerWords:
        """Give the text layers of a query."""
        return self._encoder.encode_text_layers([query], self._head.block.num_layers)[0]

    @torch.inference_mode()
    def answer(self, text: LayerWords, path: str, content: str, *, duration: float, start: float = 0.0) -> list[Span]:
        """Find a query's spans in one video, whose frames are shown from ``start`` to ``duration`` seconds, best first.

        They are clamped, rounded and suppressed as the head's card says. Of a head that finds highlights alone they
        are where its saliency stands out, with the mean of their frames' as score.

        Raises:
            DecodeError: The video must be read, and cannot be.
            VidretError: The folder cannot be read or written.
        """
        found = self._ask(text, path, content)
        # A rest of less than half a step has no frame of its own; what is further off lies behind a gap.
        seen = min(duration - start, (len(found.saliency) + 0.5) / self.fps)
        if self._head.boundaries is None:
            spans = find_highlights(found.saliency, fps=self.fps, duration=seen, limit=self.card.limit)
        else:
            spans = postprocess_spans(found, self.card, duration=seen)
        return [Span(start + span.start, start + span.end, span.score) for span in spans]

    @torch.inference_mode()
    def rate_frames(self, text: LayerWords, path: str, content: str) -> Float[np.ndarray, " frame"]:
        """Say how well each frame of a video fits a query; frame n is at (n + 0.5) / fps seconds after the first.

        Raises:
            DecodeError: The video must be read, and cannot be.
            VidretError: The folder cannot be read or written.
        """
        return self._ask(text, path, content).saliency

    def _ask(self, text: LayerWords, path: str, content: str) -> GroundingResult:
        projected = self.prepare(path, content)
        try:
            return self._ask_file(text, projected)
        except StoreError as error:  # damaged, or dropped since by another process
            logger.warning("%s; computed again", error)
            projected.unlink(missing_ok=True)
            return self._ask_file(text, self.prepare(path, content, keep=projected.parent.name == KEPT))

    def _ask_file(self, text: LayerWords, projected: Path) -> GroundingResult:
        query = torch.from_numpy(text.layers)[None].to(self._device)
        windows, answers = [], []
        with one_thread():
            for window, part in load_projected(projected, device=self._device):
                windows.append(window)
                answers += self._head.decode(self._head(part, query), fps=self.fps)
        return join_results(windows, answers, fps=self.fps)

    def _check_width(self, tower: str, layers: Float[np.ndarray, "*any width"], wanted: int) -> None:
        if layers.shape[-1] != wanted:
            name, found = self._encoder.name, layers.shape[-1]
            raise VidretError(f"{self.path}: {tower} layers must be {wanted} wide, got {found} of {name}")


def place_frames(cuts: Sequence[tuple[int, float, float]], fps: float) -> tuple[list[int], int]:
    """Return which frame each segment of one frame is, and how many there are: as many as its time takes at this rate.

    A segment is longer where a frame stands still. After a gap there are no more.

    Args:
        cuts: Numbers, starts and ends in seconds of segments.
        fps: Frames a second.
    """
    begins = cuts[0][1]
    gap = next((i for i in range(1, len(cuts)) if cuts[i][1] - cuts[i - 1][2] > 0.5 / fps), len(cuts))
    places = [round((start - begins) * fps) for _, start, _ in cuts[:gap]]
    return places, max(places[-1] + 1, round((cuts[gap - 1][2] - begins) * fps))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside: the head's many small steps lose more by waiting for threads than they gain.

    Where other work keeps the cores busy, waiting threads made ten videos take 17 s instead of 0.5.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def forget_others(folder: Path, contents: Container[str]) -> None:
    """Drop what any head keeps in a folder of contents that are not among these, and what killed runs left."""
    for path in folder.glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):
            if (path.suffix == PROJECTED and path.stem not in contents) or (
                path.suffix == ".part" and path.stat().st_mtime < time.time() - ABANDONED
            ):
                path.unlink()


def _count_inputs(mapping: nn.Sequential) -> int:
    """Give the width of what a mapping takes: that of its first norm."""
    return next(mapping.parameters()).numel()


def _pad(rows: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Give frames as many tokens as there are places, zeros behind; masks say that these are not real."""
    left = num_tokens - rows.shape[1]
    return functional.pad(rows, (0, 0, 0, left) if rows.ndim == 3 else (0, left))
