"""One thread that encodes what all workers have ready, for accelerators."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Self

import torch

from vidret.index.stages import SEGMENTS_AT_ONCE
from vidret.types import SegmentEmbedding
from vidret.video.sampled_frames import SampledFrames

Encode = Callable[[Sequence[SampledFrames]], list[SegmentEmbedding]]


class EncodingThread:
    """A thread that encodes the waiting segments of all workers together, up to ``SEGMENTS_AT_ONCE``.

    Use it as a context manager.
    """

    def __init__(self, encode: Encode) -> None:
        """Set the function that encodes a batch."""
        self._encode = encode
        self._waiting: queue.SimpleQueue[tuple[SampledFrames, Future[SegmentEmbedding]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def submit(self, frames: SampledFrames) -> Future[SegmentEmbedding]:
        """Return a future for the embedding of a segment."""
        future: Future[SegmentEmbedding] = Future()
        self._waiting.put((frames, future))
        return future

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.put(None)

    def _run(self) -> None:
        torch.set_num_threads(1)
        while batch := self._next_batch():
            try:
                embeddings = self._encode([frames for frames, _ in batch])
            except BaseException as error:
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), embedding in zip(batch, embeddings, strict=True):
                    future.set_result(embedding)

    def _next_batch(self) -> list[tuple[SampledFrames, Future[SegmentEmbedding]]]:
        """Wait for a segment, and return it with the others that are waiting; an empty batch ends the thread."""
        batch: list[tuple[SampledFrames, Future[SegmentEmbedding]]] = []
        while not batch or (len(batch) < SEGMENTS_AT_ONCE and not self._waiting.empty()):
            segment = self._waiting.get()
            if segment is None:
                if batch:
                    self._waiting.put(None)  # for the next call
                break
            batch.append(segment)
        return batch
