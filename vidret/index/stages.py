"""The stages of an indexing run before results are stored: identifying, decoding and encoding of files."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from vidret.channels.texts.reading import READER
from vidret.channels.texts.sentence_models import SentenceSpace
from vidret.devices import CPU
from vidret.errors import VidretError
from vidret.index.options import IndexOptions, MomentRecorder, Pack
from vidret.store.records import NewSegment
from vidret.types import Resize, Sampling, Segment, SegmentEmbedding
from vidret.video.identity import Identity, check_unchanged, identify
from vidret.video.sampling import SampledFrames
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Message, OpenedVideo, ReadPlan, ReadTexts
from vidret.video.workers.pool import DecodePool

if TYPE_CHECKING:  # decoding processes import this module without torch
    from vidret.encode.encoder import Encoder

SEGMENTS_AT_ONCE = 32  # per batch on an accelerator; on a CPU core, single segments are as fast


def open_decoders(
    num_workers: int, resize: Resize, sampling: Sampling, options: IndexOptions, devices: Sequence[str]
) -> DecodePool:
    """Return a pool of processes that decode frames for an encoder with this resizing and sampling."""
    return DecodePool(
        num_workers,
        decoder=options.decoder,
        devices=devices,
        resize=resize,
        sampling=sampling,
        shot_sampling=options.shot_sampling,
        timeout=options.timeout,
        started=options.started,
    )


class Stages(Protocol):
    """The stages of a run, in this process or on Ray."""

    pack: Pack | None

    def identify(self, path: str, heartbeat: Callable[[], None]) -> Identity:
        """Read a file and return its identity; an exception of ``heartbeat`` ends the reading."""
        ...

    def stream(
        self, path: str, identity: Identity, plan: Callable[[OpenedVideo], ReadPlan], num_threads: int
    ) -> Iterator[Message]:
        """Yield the messages of ``DecodePool.stream``; raise DecodeError if the file cannot be read, or has changed.

        Raise WorkerLostError if the process or machine that reads it is gone.
        """
        ...

    def encode(self, frames: SampledFrames) -> Future[SegmentEmbedding]:
        """Return a future for the embedding of a segment, given the frames of a message."""
        ...

    def embed(self, message: ReadTexts, space: SentenceSpace) -> Float32[np.ndarray, "text dim"] | None:
        """Return the vectors of texts in the space of a sentence model; None to compute them on storing."""
        ...


class WorkerLostError(VidretError):
    """The process or machine that did the work is lost; the work can be repeated elsewhere."""


def stream_unchanged(pool: DecodePool, path: str, identity: Identity, **options: Any) -> Iterator[Message]:
    """Yield the messages of ``DecodePool.stream``; raise ChangedError if the content of the file changes.

    Raise DecodeError if the file cannot be read.
    """
    for message in pool.stream(path, words_reader=READER, **options):
        identity = check_unchanged(path, identity)
        yield message


def encode_segments(
    encoder: "Encoder", segments: Sequence[SampledFrames], *, pack: Pack | None, tokens: bool, num_layers: int = 0
) -> list[SegmentEmbedding]:
    """Return the embeddings of segments, with token embeddings only if ``pack`` needs them.

    If the encoder encodes frames independently, a picture that several samples share is encoded once. Outputs of the
    last ``num_layers`` layers come from the same pass.
    """
    options: dict[str, Any] = {"tokens": tokens and pack is not None}
    if num_layers:  # only a ``LayeredEncoder`` has this argument
        options["num_layers"] = num_layers
    if not getattr(encoder, "encodes_frames_alone", False):
        return encoder.encode_frames([segment.repeat() for segment in segments], **options)
    embeddings = encoder.encode_frames([segment.pictures for segment in segments], **options)
    return [
        embedding if len(segment) == len(segment.pictures) else repeat_frames(embedding, segment.rows, segment.times)
        for embedding, segment in zip(embeddings, segments, strict=True)
    ]


def repeat_frames(
    embedding: SegmentEmbedding, rows: Int64[np.ndarray, " sample"], times: Float64[np.ndarray, " sample"]
) -> SegmentEmbedding:
    """Return the embedding of samples, given that of the distinct pictures and the row of each sample's picture."""

    def repeat(values: np.ndarray | None) -> np.ndarray | None:
        """Repeat the part of each frame."""
        if values is None:
            return None
        by_frame = values.reshape(len(embedding.times), -1, *values.shape[1:])
        repeated: np.ndarray = by_frame[rows].reshape(-1, *values.shape[1:])
        return repeated

    frames = embedding.frames[rows]
    video = frames.mean(axis=0)
    return SegmentEmbedding(
        video=video / np.linalg.norm(video),
        frames=frames,
        times=times,
        tokens=repeat(embedding.tokens),
        sizes=repeat(embedding.sizes),
        frame_lengths=repeat(embedding.frame_lengths),
        token_lengths=repeat(embedding.token_lengths),
        layers=None if embedding.layers is None else replace(embedding.layers.take(rows), times=times),
    )


def make_segment(
    video_id: int,
    decoded: DecodedSegment,
    embedding: SegmentEmbedding,
    *,
    content: str,
    start_s: float,
    pack: Pack | None,
    moments: MomentRecorder | None,
) -> NewSegment:
    """Return a segment to store in a video that starts at ``start_s``; ``moments`` records its layers."""
    if moments is not None and embedding.layers is not None:
        segment = Segment(video_id, decoded.number, decoded.start, decoded.end)
        moments.record(content, embedding.layers, segment, first=start_s)
        embedding = replace(embedding, layers=None)
    packed = b"" if pack is None else pack(embedding)
    return NewSegment(video_id, decoded.number, decoded.start, decoded.end, embedding, packed, decoded.shots)


Encode = Callable[[Sequence[SampledFrames]], list[SegmentEmbedding]]


class EncodingThreads:
    """Threads that encode the waiting segments of all workers in batches. Use them as a context manager."""

    def __init__(self, encoders: Sequence[Encode], *, at_once: int) -> None:
        """Set one thread per encoder, with batches of up to ``at_once`` segments; nothing starts yet."""
        self._at_once = at_once
        self._waiting: queue.SimpleQueue[tuple[SampledFrames, Future[SegmentEmbedding]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, args=(encode,), name="encode", daemon=True) for encode in encoders
        ]

    def submit(self, frames: SampledFrames) -> Future[SegmentEmbedding]:
        """Return a future for the embedding of a segment."""
        future: Future[SegmentEmbedding] = Future()
        self._waiting.put((frames, future))
        return future

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel the segments that still wait, as after an error."""
        with suppress(queue.Empty):
            while segment := self._waiting.get_nowait():
                segment[1].cancel()
        self._waiting.put(None)

    def join(self) -> None:
        """Wait, after the block, until the threads have ended."""
        for thread in self._threads:
            thread.join()

    def _run(self, encode: Encode) -> None:
        import torch  # not above: decoding processes import this module

        torch.set_num_threads(1)
        while batch := self._next_batch():
            try:
                encoded = list(zip(batch, encode([frames for frames, _ in batch]), strict=True))
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), embedding in encoded:
                    future.set_result(embedding)

    def _next_batch(self) -> list[tuple[SampledFrames, Future[SegmentEmbedding]]]:
        """Wait for a segment, and return it with other waiting ones; an empty batch ends the thread."""
        batch: list[tuple[SampledFrames, Future[SegmentEmbedding]]] = []
        while len(batch) < self._at_once:
            try:
                segment = self._waiting.get(block=not batch)
            except queue.Empty:
                break
            if segment is None:
                self._waiting.put(None)  # for the next call, and the other threads
                break
            batch.append(segment)
        return batch


class LocalStages:
    """Stages in this process and its decoding processes. Use them as a context manager."""

    def __init__(self, encoder: "Encoder", options: IndexOptions, num_workers: int) -> None:
        """Set the number of files to decode at once; nothing starts yet."""
        self.pack = options.pack
        num_layers = 0 if options.moments is None else options.moments.num_layers
        encoders: list[Encode] = [
            partial(encode_segments, device_encoder, pack=options.pack, tokens=options.tokens, num_layers=num_layers)
            for device_encoder in (encoder, *(other for _, other in options.others))
        ]
        if options.device == CPU:
            encoders = list(islice(cycle(encoders), max(count_cores(), len(encoders))))
        devices = [options.device, *(device for device, _ in options.others)]
        self._pool = open_decoders(num_workers, encoder.resize, encoder.sampling, options, devices)
        self._encoding = EncodingThreads(encoders, at_once=1 if options.device == CPU else SEGMENTS_AT_ONCE)
        self.encode = self._encoding.submit

    def identify(self, path: str, heartbeat: Callable[[], None]) -> Identity:
        """See ``Stages``."""
        return identify(path, heartbeat=heartbeat)

    def stream(
        self, path: str, identity: Identity, plan: Callable[[OpenedVideo], ReadPlan], num_threads: int
    ) -> Iterator[Message]:
        """See ``Stages``."""
        return stream_unchanged(self._pool, path, identity, plan=plan, num_threads=num_threads)

    def embed(self, message: ReadTexts, space: SentenceSpace) -> None:
        """See ``Stages``."""

    def __enter__(self) -> Self:
        self._pool.start()
        try:
            self._encoding.__enter__()
        except BaseException:
            self._pool.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._encoding.__exit__(*error)
        self._pool.close()
        self._encoding.join()  # Python aborts if it ends while a thread is in PyTorch


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


RATE = 2.0  # frames per second of a clip, twice the rate of an index, so that some are close to its frames
TIMEOUT_S = 60.0


def encode_clip(
    encoder: "Encoder", path: str, start: float | None, end: float | None
) -> tuple[Float[np.ndarray, "frame dim"], Float64[np.ndarray, " frame"], float, float]:
    """Return the frame vectors of a clip with their times, and the start and end of the clip, all in seconds.

    Raise DecodeError if the file cannot be read as video.
    """
    extent = [0.0, 0.0]

    def plan(opened: OpenedVideo) -> ReadPlan:
        """Skip segments outside the clip."""
        extent[0] = opened.start if start is None else max(start, opened.start)
        extent[1] = opened.duration if end is None else min(end, opened.duration)
        return ReadPlan(
            {segment_index for segment_index, first, last in opened.cuts if last < extent[0] or first > extent[1]}
        )

    vectors, times = [np.empty((0, encoder.dim), np.float32)], [np.empty(0, np.float64)]
    sampling = replace(encoder.sampling, fps=RATE, whole=False)
    with DecodePool(1, resize=encoder.resize, sampling=sampling, timeout=TIMEOUT_S) as pool:
        for message in pool.stream(path, plan=plan):
            if isinstance(message, DecodedSegment):
                (embedding,) = encode_segments(encoder, [message.frames], pack=None, tokens=False)
                kept = (embedding.times >= extent[0]) & (embedding.times <= extent[1])
                vectors.append(np.asarray(embedding.frames[kept], np.float32))
                times.append(embedding.times[kept])
    return np.concatenate(vectors), np.concatenate(times), extent[0], extent[1]
