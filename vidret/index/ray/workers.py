"""The stages on Ray workers: fingerprint files, decode contents, encode segments and texts. They never write an index.

Failures are rows: of a file that cannot be read, or of the whole run. So Ray sees no exception of this code, and runs a
task again only if the process or node that ran it is lost.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import ray

from vidret.channels.texts.options import WordsOptions
from vidret.errors import DecodeError, VidretError
from vidret.index.options import Pack
from vidret.index.ray.reading import ContentReader
from vidret.index.ray.rows import (
    Bytes,
    DecodedRow,
    EncodedRow,
    Fingerprinted,
    Row,
    RunFailed,
    SegmentInfo,
    TextsRow,
    read_rows,
    to_table,
)
from vidret.index.stages import encode_segments, open_decoders
from vidret.types import Resize, Sampling, SegmentEmbedding
from vidret.video.decoders.base import SamplingMode
from vidret.video.decoders.registry import Decoder
from vidret.video.identity import identify
from vidret.video.sampling import SampledFrames
from vidret.video.workers.messages import ReadTexts
from vidret.video.workers.pool import DecodePool


class StopFlag:
    """An actor that workers ask whether to stop, so that they begin no new work after an interrupt."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        """Set the flag."""
        self._is_set = True

    def is_set(self) -> bool:
        """Return whether workers should stop."""
        return self._is_set


@dataclass(frozen=True, slots=True)
class Decoding:
    """How contents are decoded: the resizing and sampling of the encoder, and the options of the run."""

    resize: Resize
    sampling: Sampling
    decoder: Decoder
    timeout: float
    shot_sampling: SamplingMode | None
    words: WordsOptions | None


def fingerprint_files(table: Any, *, stop_flag: Any) -> Any:
    """Fingerprint the files of a table of ``FingerprintTask`` rows, until the stop flag is set."""
    rows: list[Row] = []
    should_stop = _make_check(stop_flag)
    for task, _ in read_rows(table):
        if should_stop():
            break
        try:
            rows.append((Fingerprinted(task.job_index, identify(task.path)), b""))
        except DecodeError as error:
            rows.append((Fingerprinted(task.job_index, None, error), b""))
    return to_table(rows)


def decode_contents(table: Any, *, decoding: Decoding, stop_flag: Any) -> Iterator[Any]:
    """Decode the contents of a table of ``ContentTask`` rows in turn, and yield each segment or text as it comes."""
    try:
        pool, should_stop = _get_decoders(decoding), _make_check(stop_flag)
        for content, _ in read_rows(table):
            for row in ContentReader(content, pool, should_stop).read():
                yield to_table([row])
    except VidretError as error:
        yield to_table([(RunFailed(f"{socket.gethostname()}: {error}"), b"")])


@cache
def _get_decoders(decoding: Decoding) -> DecodePool:
    """Return the decoding process of this worker, which ends with the worker."""
    if decoding.words is not None:
        decoding.words.check_installed()
        decoding.words.check_models()
    return open_decoders(
        1,
        decoding.resize,
        decoding.sampling,
        decoder=decoding.decoder,
        device="cpu",
        timeout=decoding.timeout,
        shot_sampling=decoding.shot_sampling,
    )


def _make_check(stop_flag: Any) -> Callable[[], bool]:
    return lambda: bool(ray.get(stop_flag.is_set.remote()))


class EncodeStage:
    """An actor with an encoder that encodes segments of any videos."""

    def __init__(
        self, name: str, fingerprint: str, *, device: str, precision: str, pack: Pack | None, tokens: bool
    ) -> None:
        """Load an encoder by name; if that fails, or its fingerprint differs, the first segment returns the error."""
        import torch

        from vidret.encode.families.registry import load_encoder

        torch.set_num_threads(1)  # there is an actor for each core
        self._pack, self._tokens, self._in_batches, self._failure = pack, tokens, device != "cpu", ""
        host = socket.gethostname()
        try:
            self._encoder = load_encoder(name, device=device, precision=precision)
        except VidretError as error:
            self._failure = f"{host}: {error}; every node must reach the model's files under the same name"
            return
        if self._encoder.fingerprint != fingerprint:
            actual = f"got {self._encoder.fingerprint} on {host}; every node must have the same model's files"
            self._failure = f"{name} must have the fingerprint {fingerprint}, {actual}"

    def __call__(self, table: Any) -> Any:
        """Encode the segments of a table, as one batch on a GPU, and its texts; its other rows are passed on."""
        if self._failure:
            return to_table([(RunFailed(self._failure), b"")])
        rows: list[Row] = []
        segments: list[tuple[SegmentInfo, SampledFrames]] = []
        texts: list[tuple[TextsRow, ReadTexts]] = []
        for value, pixels in read_rows(table):
            if isinstance(value, DecodedRow):
                segments.append((value.segment, value.unpack(pixels)))
            elif isinstance(value, TextsRow) and isinstance(value.message, ReadTexts):
                texts.append((value, value.message))
            else:
                rows.append((value, b""))
        try:
            rows += [(row, _embed(message)) for row, message in texts]
            size = len(segments) if self._in_batches else 1
            for start in range(0, len(segments), size or 1):
                rows += self._encode(segments[start : start + size])
        except Exception as error:  # out of memory or a broken model, which other segments would meet as well
            reason = f"{socket.gethostname()}: the encoder broke: {type(error).__name__}: {error}".splitlines()[0]
            rows.append((RunFailed(reason), b""))
        return to_table(rows)

    def _encode(self, segments: Sequence[tuple[SegmentInfo, SampledFrames]]) -> Iterator[Row]:
        since = time.monotonic()
        frames = [frames for _, frames in segments]
        embeddings = encode_segments(self._encoder, frames, pack=self._pack, tokens=self._tokens)
        packed = [b"" if self._pack is None else self._pack(embedding) for embedding in embeddings]
        seconds = (time.monotonic() - since) / len(segments)
        for (segment, _), embedding, tokens in zip(segments, embeddings, packed, strict=True):
            yield EncodedRow(segment, _as_stored(embedding), seconds), tokens


def _embed(message: ReadTexts) -> Bytes:
    """Return the sentence vectors of texts."""
    from vidret.channels.registry import as_sentence
    from vidret.encode.sentences import load_sentence_encoder

    return load_sentence_encoder().encode([as_sentence(text) for text in message.texts]).tobytes()


def _as_stored(embedding: SegmentEmbedding) -> SegmentEmbedding:
    """Return only what is stored, in the half floats in which it is stored, so that less has to be sent."""
    with np.errstate(over="ignore"):  # the store reports values that overflow
        video, frames = embedding.video.astype(np.float16), embedding.frames.astype(np.float16)
    return SegmentEmbedding(video, frames, embedding.times)
