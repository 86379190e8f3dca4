"""Encoding on an accelerator, where the segments of all workers share batches: same index, same ends of a run."""

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier, Event

import numpy as np
import pytest

from tests.fakes import ColourEncoder, PatchEncoder, write_film, write_mosaic
from tests.index.samples import read_contents, read_states
from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.index.stages import SEGMENTS_AT_ONCE, EncodingThreads, encode_segments
from vidret.types import Frames, SegmentEmbedding
from vidret.video.sampling import SampledFrames
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.pool import DecodePool


class CountingEncoder(PatchEncoder):
    """An encoder that records its batch sizes, except for the start-up check, whose segments have one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        if len(batch[0]) > 1:
            self.sizes.append(len(batch))
        return super().encode_frames(batch, tokens=tokens)


class SlowEncoder(CountingEncoder):
    """An encoder whose first call lasts until more segments wait, as for a busy accelerator."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._submitted: list[SampledFrames] = []
        submit = EncodingThreads.submit

        def count(threads: EncodingThreads, frames: SampledFrames) -> Future[SegmentEmbedding]:
            future = submit(threads, frames)
            self._submitted.append(frames)
            return future

        patch.setattr(EncodingThreads, "submit", count)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        deadline = time.monotonic() + 20
        is_first = len(batch[0]) > 1 and not self.sizes  # and no start-up check
        while is_first and len(self._submitted) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        return super().encode_frames(batch, tokens=tokens)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for seed in range(2):
        write_mosaic(folder / f"{seed}.mp4", 16 + 4 * seed, seed)
    return folder


def on_accelerator(engine: Engine) -> Engine:
    engine.device = "mps"  # only the encoder would run there, and this one does not
    return engine


def test_batches_are_stored_as_single_segments(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(tmp_path / "one", PatchEncoder(), rerank="ucofia").index([films], workers=2, shots=False)
    encoder = SlowEncoder(monkeypatch)  # counts segments from here on, and so waits for those of its own run
    on_accelerator(Engine(tmp_path / "all", encoder, rerank="ucofia")).index([films], workers=2, shots=False)
    assert read_contents(tmp_path / "all") == read_contents(tmp_path / "one")
    assert 1 < max(encoder.sizes) <= SEGMENTS_AT_ONCE


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_failing_encoder_ends_the_run_and_loses_nothing(films: Path, tmp_path: Path, device: str) -> None:
    asked = itertools.count()

    class Broken(PatchEncoder):
        def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
            if max(next(asked) for _ in batch) > 4:  # of which several may come at once
                raise RuntimeError("out of memory")
            return super().encode_frames(batch, tokens=tokens)

    engine = Engine(tmp_path / "index", Broken())
    engine.device = device
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.index([films], workers=2)
    assert set(read_states(tmp_path / "index").values()) <= {"done", "running", "pending"}
    on_accelerator(Engine(tmp_path / "index", CountingEncoder())).index([films], workers=2)
    Engine(tmp_path / "one", PatchEncoder()).index([films])
    assert read_contents(tmp_path / "index") == read_contents(tmp_path / "one")


def test_segments_decoded_before_a_failure_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film, stream = write_film(tmp_path / "films" / "red.mp4", ("red", 40)), DecodePool.stream

    def break_off(self: DecodePool, path: Path, **settings: object) -> Iterator[object]:
        for message in stream(self, path, **settings):  # type: ignore[arg-type]
            yield message
            if isinstance(message, DecodedSegment) and message.number == 5:
                raise DecodeError(str(path), "the decoder crashed")

    monkeypatch.setattr(DecodePool, "stream", break_off)
    report = on_accelerator(Engine(tmp_path / "index", ColourEncoder())).index([film])
    assert report.failed == [(str(film), "the decoder crashed")]
    assert report.num_segments == 6


def encode_counting(sizes: list[int], batch: Sequence[SampledFrames]) -> list[SegmentEmbedding]:
    sizes.append(len(batch))
    return PatchEncoder().encode_frames([frames.pictures for frames in batch])


SEGMENT = SampledFrames(Frames(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1)), np.zeros(1), np.zeros(1, np.int64))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_threads_take_batches_up_to_their_limit_and_end(num_threads: int) -> None:
    sizes: list[int] = []
    waiting = EncodingThreads([partial(encode_counting, sizes)] * num_threads, at_once=4)
    futures = [waiting.submit(SEGMENT) for _ in range(4 * 5 + 3)]
    with waiting:
        for future in futures:
            future.result(timeout=10)
    for thread in waiting._threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert sorted(sizes) == [3, 4, 4, 4, 4, 4]


def test_every_thread_encodes_with_its_own() -> None:
    """As on several devices: each waits for the other here."""
    barrier, used = Barrier(2, timeout=10), list[int]()

    def encode(number: int, batch: Sequence[SampledFrames]) -> list[SegmentEmbedding]:
        barrier.wait()
        used.append(number)
        return encode_counting([], batch)

    with EncodingThreads([partial(encode, 0), partial(encode, 1)], at_once=1) as threads:
        for future in [threads.submit(SEGMENT) for _ in range(6)]:
            future.result(timeout=10)
    assert sorted(used) == [0, 0, 0, 1, 1, 1]


def test_segments_that_wait_at_the_end_are_not_encoded() -> None:
    has_begun, go_on, sizes = Event(), Event(), list[int]()

    def encode(batch: Sequence[SampledFrames]) -> list[SegmentEmbedding]:
        has_begun.set()
        go_on.wait(10)
        return encode_counting(sizes, batch)

    with EncodingThreads([encode], at_once=1) as threads:
        futures = [threads.submit(SEGMENT) for _ in range(3)]
        has_begun.wait(10)
    go_on.set()
    threads.join()
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert sizes == [1]


def test_a_missing_embedding_is_an_error() -> None:
    """Else the run would wait for it without end."""
    with EncodingThreads([lambda _batch: []], at_once=1) as threads, pytest.raises(ValueError, match="shorter"):
        threads.submit(SEGMENT).result(timeout=10)


class AloneColours(ColourEncoder):
    encodes_frames_alone = True


@pytest.mark.parametrize(("encoder", "num_encoded"), [(ColourEncoder(), 3), (AloneColours(), 1)])
def test_a_picture_of_several_samples_is_encoded_once_if_others_do_not_count(
    encoder: ColourEncoder, num_encoded: int
) -> None:
    shared = replace(SEGMENT, times=np.arange(3.0), rows=np.zeros(3, np.int64))
    (embedding,) = encode_segments(encoder, [shared], pack=None, tokens=False)
    assert (encoder.num_frames, len(embedding.frames)) == (num_encoded, 3)


def test_segments_of_one_film_are_encoded_on_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.index.stages.count_cores", lambda: 2)
    barrier = Barrier(2, timeout=30)

    class Meeting(ColourEncoder):
        def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
            if len(batch[0].pixels) > 1:  # not the check before the run
                barrier.wait()
            return super().encode_frames(batch, tokens=tokens)

    film = write_film(tmp_path / "films" / "film.mp4", ("red", 4), ("blue", 4), ("green", 4), ("white", 4))
    with Engine(tmp_path / "index", Meeting()) as engine:
        assert engine.index([film]).num_segments == 4
