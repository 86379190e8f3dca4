"""The stages on Ray workers: fingerprint files, decode contents, encode segments and texts. They never write an index.

Failures are rows: of a file that cannot be read, or of the whole run. So Ray sees no exception of this code, and runs a
task again only if the process or node that ran it is lost.
"""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import ray

from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.reading import READER
from vidret.devices import CPU
from vidret.errors import ChangedError, DecodeError, UnreachableError, VidretError
from vidret.index.options import Pack
from vidret.index.ray.rows import (
    Bytes,
    ContentFinished,
    ContentTask,
    DecodedRow,
    EncodedRow,
    FileFailed,
    Fingerprinted,
    Row,
    RunFailed,
    SegmentInfo,
    TextPosition,
    TextsRow,
    read_rows,
    to_table,
)
from vidret.index.stages import encode_segments, find_fault, open_decoders
from vidret.types import Resize, Sampling, SegmentEmbedding, TextSource
from vidret.video.decoders.base import SamplingMode
from vidret.video.decoders.registry import Decoder
from vidret.video.identity import Identity, check_unchanged, identify
from vidret.video.sampling import SampledFrames
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, FinishedTexts, OpenedVideo, ReadTexts, SegmentStart, WordsRequest
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
        devices=[CPU],
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


class ContentReader:
    """Reads one content, and remembers what was sent of it, so that nothing is sent twice when a file fails."""

    def __init__(self, content: ContentTask, pool: DecodePool, should_stop: Callable[[], bool]) -> None:
        """Read nothing yet; ``should_stop`` is called before each message is sent."""
        self._content, self._pool, self._should_stop = content, pool, should_stop
        self._sent: set[int] = set()
        self._sent_until: SegmentStart | None = None
        self._has_pictures = content.has_pictures
        self._has_begun_words = self._is_decoding = False  # of the file that is being read
        request: WordsRequest = {} if content.words is None else content.words.request
        self._options: dict[TextSource, Mapping[str, Any]] = dict(request)  # of the sources that are not finished
        self._positions = {source: TextPosition(float(options["start_s"])) for source, options in request.items()}
        self._duration_s = 0.0

    def read(self) -> Iterator[Row]:
        """Yield the rows of the content until it is complete, all its files have failed, or the run stops."""
        for (job_index, path), stamp in zip(self._content.files, self._content.stamps, strict=True):
            identity, self._has_begun_words = Identity(self._content.fingerprint, stamp), False
            while True:
                try:
                    yield from self._read_file(job_index, path, identity)
                    return
                except DecodeError as error:
                    source = self._find_fault(error)
                    if source is None:
                        yield FileFailed(self._content.content_index, job_index, error, self._spares(error)), b""
                        break
                    yield self._pack_texts(FinishedTexts(source, error.reason))
                    if self._has_pictures and not self._options:
                        return

    def _find_fault(self, error: DecodeError) -> TextSource | None:
        """Return the source of words to give up, so that the file can be read without it; None if the file fails."""
        if isinstance(error, (ChangedError, UnreachableError)) or not self._has_begun_words:
            return None
        return find_fault(self._options, is_decoding=self._is_decoding)

    def _spares(self, error: DecodeError) -> bool:
        """Return whether the pictures of a file that failed are stored all the same."""
        return self._content.has_pictures or (self._has_pictures and not isinstance(error, ChangedError))

    def _read_file(self, job_index: int, path: str, identity: Identity) -> Iterator[Row]:
        """Yield the rows of one file that are still missing."""
        opened, since = None, time.monotonic()
        self._is_decoding = True
        for message in self._pool.stream(
            path, skip=self._skip, start=self._start, words=self._begin_words, words_reader=READER
        ):
            if self._should_stop():
                return
            identity = check_unchanged(path, identity)
            match message:
                case OpenedVideo():
                    opened, self._duration_s = message, message.duration
                case DecodedSegment():
                    assert opened is not None
                    yield self._pack_segment(job_index, opened, message, time.monotonic() - since)
                    since = time.monotonic()
                case Finished():
                    assert opened is not None
                    self._is_decoding = False
                    if not self._has_pictures:
                        self._has_pictures = True
                        yield self._finish(job_index, opened, message.salvaged)
                case ReadTexts() | FinishedTexts():
                    yield self._pack_texts(message)
                    since = time.monotonic()

    def _skip(self, opened: OpenedVideo) -> set[int]:
        """Return the segments of an opened file that need not be decoded."""
        if self._has_pictures:
            return {number for number, _, _ in opened.cuts}
        has_same_segments = len(opened.cuts) == self._content.num_segments
        return self._sent | self._content.stored if has_same_segments else self._sent

    def _start(self, opened: OpenedVideo) -> SegmentStart | None:
        """Return the number and the start of the first segment to decode; None if the pictures are complete."""
        return None if self._has_pictures else self._sent_until or self._content.start or (0, opened.start)

    def _begin_words(self, _opened: OpenedVideo) -> WordsRequest:
        """Return the words to read of an opened file: a copy, since sources finish while it is read."""
        self._has_begun_words = True
        return dict(self._options)

    def _pack_segment(self, job_index: int, opened: OpenedVideo, decoded: DecodedSegment, seconds: float) -> Row:
        segment = SegmentInfo(
            content_index=self._content.content_index,
            job_index=job_index,
            opened=opened,
            number=decoded.number,
            start=decoded.start,
            end=decoded.end,
            shots=decoded.shots,
            seconds=seconds,
        )
        self._sent.add(decoded.number)
        self._sent_until = decoded.number + 1, decoded.end
        return DecodedRow.pack(segment, decoded.frames)

    def _finish(self, job_index: int, opened: OpenedVideo, salvaged: str) -> Row:
        return ContentFinished(self._content.content_index, job_index, opened, salvaged, len(self._sent)), b""

    def _pack_texts(self, message: ReadTexts | FinishedTexts) -> Row:
        source = message.source
        row = TextsRow(self._content.content_index, self._positions[source], message, self._duration_s)
        if isinstance(message, ReadTexts):
            self._positions[source] = self._positions[source].advance(message.until_s)
            self._options[source] = {**self._options[source], "start_s": self._positions[source].until_s}
        else:
            del self._options[source]
        return row, b""
