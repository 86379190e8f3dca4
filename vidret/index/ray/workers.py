"""What runs on the workers: name contents, decode them, encode segments. Nothing here writes an index.

A worker answers for its own machine only: a file that cannot be read is a row, what ends the run is a row. So Ray sees
no exception of ours, and runs a task again for one reason alone, that the process or the node it ran on is gone.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import ray

from vidret.errors import DecodeError, VidretError
from vidret.index.ray.rows import (
    Broken,
    Bytes,
    Content,
    Decoded,
    Encoded,
    Ended,
    Failed,
    Named,
    SegmentInfo,
    read_rows,
    to_table,
)
from vidret.index.run_state import Pack, encode_segments, open_decoders
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding
from vidret.video.decode import Decoder
from vidret.video.identity import Identity, check_unchanged, identify
from vidret.video.pool import DecodedSegment, DecodePool, Finished, OpenedVideo

Row = tuple[object, Bytes]


class StopFlag:
    """An actor that workers ask whether to go on: it keeps new work from being begun after an interrupt."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Let nothing be begun any more."""
        self._is_set = True

    def is_set(self) -> bool:
        """Say whether that was asked."""
        return self._is_set


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to decode: what an encoder looks at, and the choices of the run."""

    resize: Resize
    sampling: Sampling
    decoder: Decoder
    timeout: float


def name_contents(table: Any, *, stop_flag: Any) -> Any:
    """Take the fingerprint of every file; none once the stop flag is set."""
    rows: list[Row] = []
    stopped = _ask(stop_flag)
    for look, _ in read_rows(table):
        if stopped():
            break
        try:
            rows.append((Named(look.file, identify(look.path)), b""))
        except DecodeError as error:
            rows.append((Named(look.file, None, error), b""))
    return to_table(rows)


def decode_contents(table: Any, *, decoding: Decoding, stop_flag: Any) -> Iterator[Any]:
    """Decode contents one after the other; each segment leaves as it comes."""
    for content, _ in read_rows(table):
        for row in _decode_content(content, _decoders(decoding), _ask(stop_flag)):
            yield to_table([row])


@cache
def _decoders(decoding: Decoding) -> DecodePool:
    """Keep this worker's decoding process from task to task; it ends when the worker does."""
    return open_decoders(
        1,
        decoding.resize,
        decoding.sampling,
        decoder=decoding.decoder,
        device="cpu",
        timeout=decoding.timeout,
    )


def _ask(stop_flag: Any) -> Callable[[], bool]:
    return lambda: bool(ray.get(stop_flag.is_set.remote()))


def _decode_content(content: Content, pool: DecodePool, stopped: Callable[[], bool]) -> Iterator[Row]:
    """Decode the first file of a content that can be read."""
    sent: set[int] = set()

    def skip(opened: OpenedVideo) -> set[int]:
        same_cuts = len(opened.cuts) == content.num_segments
        return sent | content.stored if same_cuts else sent

    for (file, path), stamp in zip(content.files, content.stamps, strict=True):
        try:
            seen = Identity(content.fingerprint, stamp)
            opened, since = None, time.monotonic()
            for message in pool.stream(path, skip=skip):
                if stopped():
                    return
                seen = check_unchanged(path, seen)
                match message:
                    case OpenedVideo():
                        opened = message
                    case DecodedSegment():
                        assert opened is not None
                        seconds = time.monotonic() - since
                        part = SegmentInfo(
                            content.number, file, opened, message.number, message.start, message.end, seconds
                        )
                        sent.add(message.number)
                        yield Decoded.of(part, message.frames)
                        since = time.monotonic()
                    case Finished():
                        assert opened is not None
                        yield Ended(content.number, file, opened, message.salvaged, len(sent)), b""
                        return
        except DecodeError as error:
            yield Failed(content.number, file, error), b""
        except VidretError as error:
            yield Broken(f"{socket.gethostname()}: {error}"), b""
            return


class EncodeStage:
    """An actor's model, and what it makes of segments, whichever videos they are of."""

    def __init__(
        self, name: str, fingerprint: str, *, device: str, precision: str, pack: Pack | None, tokens: bool
    ) -> None:
        """Load the encoder; that it cannot be had or is another one is told with the first segment."""
        import torch

        from vidret.encode.load import load_encoder

        torch.set_num_threads(1)  # actors share a node's cores: threads within would fight over them
        self._pack, self._tokens, self._together, self._broken = pack, tokens, device != "cpu", ""
        host = socket.gethostname()
        try:
            self._encoder = load_encoder(name, device=device, precision=precision)
        except VidretError as error:
            self._broken = f"{host}: {error}; every node must reach the model's files under the same name"
            return
        if self._encoder.fingerprint != fingerprint:
            found = f"got {self._encoder.fingerprint} on {host}; every node must have the same model's files"
            self._broken = f"{name} must have the fingerprint {fingerprint}, {found}"

    def __call__(self, table: Any) -> Any:
        """Encode a table's segments, together on a GPU; its other rows pass."""
        if self._broken:
            return to_table([(Broken(self._broken), b"")])
        rows: list[Row] = []
        segments: list[tuple[SegmentInfo, Frames]] = []
        for about, pixels in read_rows(table):
            if isinstance(about, Decoded):
                segments.append((about.part, about.frames(pixels)))
            else:
                rows.append((about, b""))
        try:
            size = len(segments) if self._together else 1
            for start in range(0, len(segments), size or 1):
                rows += self._encode(segments[start : start + size])
        except Exception as error:  # out of memory, a broken model: no other segment would fare better
            reason = f"{socket.gethostname()}: the encoder broke: {type(error).__name__}: {error}".splitlines()[0]
            rows.append((Broken(reason), b""))
        return to_table(rows)

    def _encode(self, segments: Sequence[tuple[SegmentInfo, Frames]]) -> Iterator[Row]:
        since = time.monotonic()
        frames = [frames for _, frames in segments]
        embeddings = encode_segments(self._encoder, frames, pack=self._pack, tokens=self._tokens)
        encoded = [(each, b"" if self._pack is None else self._pack(each)) for each in embeddings]
        seconds = (time.monotonic() - since) / len(segments)
        for (part, _), (embedding, packed) in zip(segments, encoded, strict=True):
            yield Encoded(part, _as_stored(embedding), seconds), packed


def _as_stored(embedding: SegmentEmbedding) -> SegmentEmbedding:
    """Keep what is stored, in the half floats that it is stored in: less travels."""
    with np.errstate(over="ignore"):  # the store says what does not fit
        video, frames = embedding.video.astype(np.float16), embedding.frames.astype(np.float16)
    return SegmentEmbedding(video, frames, embedding.times)
