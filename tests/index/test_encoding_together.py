"""Encoding on an accelerator, where the segments of all workers share batches: same index, same ends of a run."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import ColourEncoder, PatchEncoder, write_film, write_mosaic
from tests.index.samples import read_contents, read_states, read_tokens
from vidret.engine import Engine
from vidret.errors import DecodeError
from vidret.index.stages import SEGMENTS_AT_ONCE, EncodingThread
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
        submit = EncodingThread.submit

        def count(thread: EncodingThread, frames: SampledFrames) -> Future[SegmentEmbedding]:
            self._submitted.append(frames)
            return submit(thread, frames)

        patch.setattr(EncodingThread, "submit", count)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        deadline = time.monotonic() + 20
        while self._submitted and not self.sizes and len(self._submitted) < 4 and time.monotonic() < deadline:
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


def test_batches_of_segments_are_stored_as_single_ones(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SlowEncoder(monkeypatch)
    Engine(tmp_path / "one", PatchEncoder(), rerank="ucofia").index([films], workers=2, shots=False)
    on_accelerator(Engine(tmp_path / "all", encoder, rerank="ucofia")).index([films], workers=2, shots=False)
    assert read_contents(tmp_path / "all") == read_contents(tmp_path / "one")
    assert read_tokens(tmp_path / "all") == read_tokens(tmp_path / "one")
    assert 1 < max(encoder.sizes) <= SEGMENTS_AT_ONCE


def test_segments_are_encoded_one_by_one_on_a_cpu(films: Path, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    Engine(tmp_path / "index", encoder).index([films], workers=2)
    assert set(encoder.sizes) == {1}


def test_failing_encoder_ends_the_run(films: Path, tmp_path: Path) -> None:
    class Broken(CountingEncoder):
        def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
            if self.sizes:
                raise RuntimeError("out of memory")
            return super().encode_frames(batch, tokens=tokens)

    with pytest.raises(RuntimeError, match="out of memory"):
        on_accelerator(Engine(tmp_path / "index", Broken())).index([films], workers=2)
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


def test_encoding_thread_takes_batches_up_to_its_limit_and_ends() -> None:
    sizes: list[int] = []

    def encode(batch: Sequence[SampledFrames]) -> list[SegmentEmbedding]:
        sizes.append(len(batch))
        return PatchEncoder().encode_frames([frames.pictures for frames in batch])

    with EncodingThread(encode) as thread:
        pass
    thread._thread.join(timeout=5)
    assert not thread._thread.is_alive()
    waiting = EncodingThread(encode)
    segment = SampledFrames.all_different(Frames(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1)))
    futures = [waiting.submit(segment) for _ in range(SEGMENTS_AT_ONCE + 3)]
    with waiting:
        for future in futures:
            future.result(timeout=10)
    assert sizes == [SEGMENTS_AT_ONCE, 3]
