"""Trained moments: a grounding head over an index's videos, what it keeps of each on disk, and what it answers."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from vidret.encode.encoder import Encoder, LayeredEncoder
from vidret.errors import DecodeError, VidretError
from vidret.ground.checkpoint import HeadCard, load_head
from vidret.ground.head import Answer
from vidret.ground.mapped import MappedVideos
from vidret.ground.mapped_files import load_mapped, load_windows, save_mapped
from vidret.ground.spans import Span
from vidret.ground.suppression import Fade, gaussian, hard, linear, lower_scores, settle_spans
from vidret.ground.windows import Window, cut_windows, join_answers
from vidret.types import Frames, LayerTokens, LayerWords
from vidret.video.pool import DecodedSegment, DecodePool, Finished, Opened

logger = logging.getLogger(__name__)

FPS = 0.5  # for a head whose card names no rate
LIMIT = 2 << 30  # bytes of what was computed for queries; what was asked for at indexing is never dropped
TOKENS = {"int8": torch.int8, "float16": torch.float16}
FADES: dict[str | None, Fade | None] = {"linear": linear, None: None}


class Grounder:
    """A grounding head, the encoder whose layers it reads, and a folder for the mapped tokens of videos.

    Mapped tokens are one file a video, named by the video's content: they are found again after a file was moved, and
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
        self._device = torch.device("cuda" if device.startswith("cuda") else "cpu")
        self._head.to(self._device)
        self.fps = self.card.fps or FPS
        self.fingerprint = hashlib.blake2b(
            head.read_bytes() + f"{encoder.fingerprint} {tokens}".encode(), digest_size=16
        ).hexdigest()
        self._folder = folder / self.fingerprint

    # What is kept of videos

    def find(self, content: str) -> Path | None:
        """Find the mapped tokens of a content, by its fingerprint."""
        return next((path for path in (self._place(content, keep) for keep in (True, False)) if path.exists()), None)

    def prepare(self, path: str, content: str, *, keep: bool = False, timeout: float = 120.0) -> Path:
        """Compute a video's mapped tokens, unless they are there, and keep them; ``keep`` protects them.

        Memory does not grow with the video's length.

        Raises:
            DecodeError: The video cannot be read.
            VidretError: The folder cannot be written.
        """
        found, place = self.find(content), self._place(content, keep)
        if found is not None and keep and found != place:
            place.parent.mkdir(parents=True, exist_ok=True)
            found.replace(place)
        elif found is not None:
            found.touch()
            return found
        else:
            save_mapped(place, self._map(path, timeout))
        if not keep:
            self._drop_oldest(place)
        return place

    def forget_others(self, contents: set[str]) -> None:
        """Drop what is kept of contents that are not among these."""
        for path in self._folder.glob("*/*.safetensors"):
            if path.stem not in contents:
                path.unlink(missing_ok=True)

    def _place(self, content: str, keep: bool) -> Path:
        return self._folder / ("kept" if keep else "cache") / f"{content}.safetensors"

    def _drop_oldest(self, newest: Path) -> None:
        files = sorted(newest.parent.glob("*.safetensors"), key=lambda path: -path.stat().st_mtime_ns)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > self._limit and path != newest:
                path.unlink(missing_ok=True)

    @torch.inference_mode()
    def _map(self, path: str, timeout: float) -> Iterator[tuple[Window, MappedVideos]]:
        """Decode, encode and map a video, window after window."""
        seen: list[LayerTokens] = []
        first = 0  # the index of the frame that ``seen`` begins with
        windows: list[Window] | None = None
        for item in self._encode(path, timeout):
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

    def _map_window(self, parts: list[LayerTokens], frames: slice) -> MappedVideos:
        """Map the frames of one window; tokens merge differently from part to part, and are padded to the most."""
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
        mapped = self._head.prepare(layers, token_masks=masks or None, sizes=sizes or None, dtype=self._tokens)
        return MappedVideos(*(tuple(None if x is None else x.cpu() for x in part) for part in mapped[:3]))  # type: ignore[arg-type]

    def _encode(self, path: str, timeout: float) -> Iterator[int | LayerTokens]:
        """Give how many frames there are, then their layers, some at a time."""
        at_once = self._encoder.sampling.num_frames
        pictures: list[np.ndarray] = []
        with DecodePool(1, resize=self._encoder.resize, num_frames=1, fps=self.fps, timeout=timeout) as pool:
            total = given = 0
            for message in pool.stream(path):
                match message:
                    case Opened():
                        total = len(message.cuts)
                        yield total
                    case DecodedSegment():
                        # A frame that could not be read looks like the one before it.
                        missing = message.number - given - len(pictures)
                        pictures += [pictures[-1] if pictures else message.frames.pixels[0]] * missing
                        pictures.append(message.frames.pixels[0])
                    case Finished():
                        if message.salvaged:
                            logger.warning("%s: %s", path, message.salvaged)
                        if not given and not pictures:
                            raise DecodeError(path, "no frame of it can be read")
                        last = pictures[-1] if pictures else np.zeros((1, 1, 3), np.uint8)
                        pictures += [last] * (total - given - len(pictures))
                while len(pictures) >= at_once or (pictures and given + len(pictures) >= total):
                    part, pictures = pictures[:at_once], pictures[at_once:]
                    times = (np.arange(given, given + len(part)) + 0.5) / self.fps
                    given += len(part)
                    yield self._encoder.encode_layers(Frames(np.stack(part), times), self._head.block.num_layers)

    # What is asked

    def read(self, query: str) -> LayerWords:
        """Give the text layers of a query."""
        return self._encoder.encode_text_layers([query], self._head.block.num_layers)[0]

    @torch.inference_mode()
    def answer(self, text: LayerWords, mapped: Path, *, duration: float) -> list[Span]:
        """Find a query's spans in one video: clamped, rounded and suppressed as the head's card says, best first.

        Raises:
            VidretError: The file of mapped tokens cannot be read.
        """
        query = torch.from_numpy(text.layers)[None].to(self._device)
        windows = load_windows(mapped)
        parts = load_mapped(mapped, num_layers=self._head.block.num_layers, device=self._device)
        answers = (self._head.decode(self._head(part, query), fps=self.fps)[0] for part in parts)
        return settle(join_answers(windows, answers, fps=self.fps), self.card, duration=duration)


def settle(answer: Answer, card: HeadCard, *, duration: float) -> list[Span]:
    """Clamp, round and suppress a head's spans as its card says; empty and fully suppressed ones are left out."""
    starts, ends, scores = answer.spans.T
    starts, ends = settle_spans(
        starts, ends, duration=duration, unit=card.unit or None, spare_overrun=card.unit is not None
    )
    real = ends > starts
    starts, ends, scores = starts[real], ends[real], scores[real]
    fade = choose_fade(card)
    order = np.arange(len(scores))
    if fade is not None:
        order, scores = lower_scores(starts, ends, scores, fade)
    return [
        Span(float(starts[place]), float(ends[place]), float(score))
        for place, score in zip(order, scores, strict=True)
        if score > 0
    ]


def choose_fade(card: HeadCard) -> Fade | None:
    """Give the suppression that a head's card names.

    Raises:
        VidretError: It names an unknown one.
    """
    if card.suppression == "hard":
        return hard(0.7 if card.threshold is None else card.threshold)
    if card.suppression == "gaussian":
        return gaussian(0.5 if card.threshold is None else card.threshold)
    if card.suppression not in FADES:
        raise VidretError(f"suppression must be hard, linear or gaussian, got {card.suppression}")
    return FADES[card.suppression]


def _pad(rows: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Give frames as many tokens as there are places, zeros behind; masks say that these are not real."""
    left = num_tokens - rows.shape[1]
    return functional.pad(rows, (0, 0, 0, left) if rows.ndim == 3 else (0, left))
