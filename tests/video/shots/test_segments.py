"""One pass over a video: segments that follow its shots, with the frames that reading them by time would give."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import write_pictures
from tests.noting import note_calls
from tests.video.conftest import Film
from tests.video.films import write_scenes
from vidret.types import Resize, Sampling
from vidret.video.container import decode_packets
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode
from vidret.video.decoders.pyav import PyavDecoder
from vidret.video.probe import probe
from vidret.video.reader import open_reader, read_frames
from vidret.video.sampling import cut_segments
from vidret.video.shots.segments import WARM_UP_S, DecodedSegment, SegmentReader
from vidret.video.workers.messages import Finished, OpenedVideo, ReadPlan
from vidret.video.workers.pool import DecodePool

CUTS = (40, 57, 130)  # frames
RATE = 25


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four shots of 40, 17, 73 and 370 frames, with a keyframe every two seconds and at no cut."""
    path = tmp_path_factory.mktemp("films") / "shots.mp4"
    return write_scenes(path, np.diff([0, *CUTS, 500]).tolist(), options={"g": "50", "sc_threshold": "0", "bf": "2"})


def read(path: Path, *, start_s: float = 0.0, number: int = 0, mode: SamplingMode = "exact") -> list[DecodedSegment]:
    info = probe(path)
    with open_reader(info, mode=mode, for_streaming=True) as reader:
        first = int(np.searchsorted(info.times, start_s - WARM_UP_S))
        segments = SegmentReader(info, Sampling(), Resize(32, 32), start_s=start_s, first_number=number)
        return list(segments.read(reader.stream(first)))


def check_equal(ones: Sequence[DecodedSegment], others: Sequence[DecodedSegment]) -> None:
    """Check that segments are the same to the last pixel."""
    for one, other in zip(ones, others, strict=True):
        assert (one.number, one.start, one.end) == (other.number, other.start, other.end)
        assert one.frames.times.tolist() == other.frames.times.tolist()
        assert one.frames.rows.tolist() == other.frames.rows.tolist()
        assert (one.frames.pictures.pixels == other.frames.pictures.pixels).all()


def test_segments_follow_shots(film: Path) -> None:
    segments = read(film)
    assert [round(segment.start * RATE) for segment in segments] == [0, *CUTS, 130 + 300]
    assert [segment.number for segment in segments] == list(range(5))
    assert [(round(s.start * RATE), s.kind) for segment in segments for s in segment.shots] == [
        (cut, "cut") for cut in CUTS
    ]
    assert segments[-1].end == pytest.approx(20.0)


@pytest.mark.parametrize(("num_last", "num_segments"), [(220, 1), (232, 1), (233, 3)])
def test_a_video_no_longer_than_a_segment_is_one(tmp_path: Path, num_last: int, num_segments: int) -> None:
    """It is sampled as if it had no cuts, which are found all the same."""
    path = write_scenes(tmp_path / "short.mp4", [30, 50, num_last])
    segments = read(path)
    assert len(segments) == num_segments
    assert [round(shot.start * RATE) for segment in segments for shot in segment.shots] == [30, 80]
    if num_segments == 1:
        (cut,) = cut_segments((80 + num_last) / RATE, np.arange(80 + num_last) / RATE)
        expected = read_frames(str(path), times=cut.times, decoder="pyav")
        assert segments[0].frames.times.tolist() == expected.times.tolist()


def test_samples_are_the_frames_that_reading_by_time_gives(film: Path) -> None:
    for segment in read(film):
        num_steps = max(1, round(segment.end - segment.start))
        wanted = segment.start + 0.5 + np.arange(num_steps)
        expected = read_frames(str(film), times=wanted[wanted < segment.end], resize=Resize(32, 32), decoder="pyav")
        assert segment.frames.times.tolist() == expected.times.tolist()
        repeated = segment.frames.repeat().pixels.astype(np.int16)
        assert np.abs(repeated - expected.pixels).mean() < 2  # of those that hardly differ, one is shown


def test_segments_do_not_depend_on_the_threads_that_decode_and_resize(film: Path) -> None:
    with DecodePool(1, resize=Resize(32, 32), shot_sampling="exact") as pool:
        one, several = (
            [segment for segment in pool.stream(film, num_threads=num_threads) if isinstance(segment, DecodedSegment)]
            for num_threads in (1, 3)
        )
    assert [segment.shots for segment in one] == [segment.shots for segment in several]
    check_equal(one, several)


def test_few_full_size_images_wait_to_be_resized(film: Path) -> None:
    """However slow resizing is: here nothing is resized before its result is asked for."""

    class Lazy(Future[Any]):
        run: Callable[[], Any]

        def result(self, timeout: float | None = None) -> Any:
            if not self.done():
                waiting.remove(self)
                self.set_result(self.run())
            return super().result(timeout)

    class Last(Executor):
        def submit(self, run: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
            future = Lazy()
            future.run = partial(run, *arguments, **options)
            waiting.append(future)
            counts.append(len(waiting))
            return future

    waiting, counts = list[Future[Any]](), list[int]()
    info = probe(film)
    with open_reader(info, for_streaming=True) as reader:
        lazy = SegmentReader(info, Sampling(), Resize(32, 32), start_s=0.0, executor=Last())
        segments = list(lazy.read(reader.stream()))
    assert max(counts) == 4
    check_equal(segments, read(film))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_interrupted_video_continues_as_it_would_have(film: Path, number: int) -> None:
    whole = read(film)
    rest = read(film, start_s=whole[number - 1].end, number=number)
    check_equal(rest, whole[number:])
    assert {shot for segment in rest for shot in segment.shots} <= {shot for segment in whole for shot in segment.shots}


@pytest.mark.parametrize("mode", ["balanced", "fast"])
def test_other_modes_decode_fewer_frames_and_cover_the_video(film: Path, mode: SamplingMode) -> None:
    info = probe(film)
    with open_reader(info, for_streaming=True, mode=mode) as reader:
        assert not reader.reads_all
        indices = [frame.index for frame in reader.stream()]
    assert len(indices) < info.num_frames
    assert indices == sorted(set(indices))
    if mode == "fast":
        assert indices == np.flatnonzero(info.keyframes).tolist()
    segments = read(film, mode=mode)
    assert segments[0].start == 0.0
    assert segments[-1].end == pytest.approx(20.0)
    assert all(one.end == other.start for one, other in pairwise(segments))


def write_slides(path: Path) -> Path:
    """Write slides that stand still for 6 s each, of which the second fades to dark by a level a frame at its end."""
    pictures = []
    for slide in range(4):
        blocks = np.random.default_rng(slide).integers(60, 200, (15, 20, 1), dtype=np.uint8)
        picture = np.kron(blocks, np.ones((16, 16, 3), np.uint8))
        pictures += [picture - (max(index - 110, 0) if slide == 1 else 0) for index in range(150)]
    return write_pictures(path, pictures, RATE, preset="veryfast", g="50")


@pytest.mark.parametrize("mode", ["exact", "balanced"])
def test_what_stands_still_is_not_decoded_and_reads_as_if_it_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: SamplingMode
) -> None:
    path = write_slides(tmp_path / "slides.mp4")
    num_decoded = 0

    def count(stream: Any, packets: Iterable[Any], **options: bool) -> Iterator[Any]:
        nonlocal num_decoded
        for frame in decode_packets(stream, packets, **options):
            num_decoded += 1
            yield frame

    monkeypatch.setattr("vidret.video.decoders.pyav.decode_packets", count)
    converted = note_calls(monkeypatch, PyavDecoder, "_convert", lambda *_: 1)
    segments = read(path, mode=mode)
    num_converted = len(converted)
    num_some, num_decoded = num_decoded, 0
    info = probe(path)
    every = replace(info, still=np.zeros_like(info.still))
    with open_reader(every, mode=mode, for_streaming=True) as reader:
        expected = list(SegmentReader(every, Sampling(), Resize(32, 32), start_s=0.0).read(reader.stream()))
    assert num_some < 0.7 * num_decoded
    assert num_converted < 0.6 * (len(converted) - num_converted), "of four slides, one of which fades"
    assert [(segment.start, segment.end, segment.shots) for segment in segments] == [
        (segment.start, segment.end, segment.shots) for segment in expected
    ]
    for one, other in zip(segments, expected, strict=True):
        if mode == "exact":  # otherwise the nearest frame that others refer to
            assert one.frames.times.tolist() == other.frames.times.tolist()
            difference = one.frames.repeat().pixels.astype(np.int16) - other.frames.repeat().pixels
            assert np.abs(difference).mean(axis=(1, 2, 3)).max() < 1


def test_modes_agree_on_a_film_of_keyframes(tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "intra.mp4", [160, 180], options={"g": "1"})
    exact, *others = ([(s.start, s.end, s.frames.times.tolist()) for s in read(path, mode=m)] for m in SAMPLING_MODES)
    assert len(exact) == 2
    assert all(other == exact for other in others)


def test_keyframes_more_than_ten_seconds_apart_are_not_read_alone(tmp_path: Path) -> None:
    path = write_scenes(tmp_path / "long.mp4", [300], options={"g": "999", "sc_threshold": "0"})
    with open_reader(probe(path), for_streaming=True, mode="fast") as reader:
        times = [frame.time_s for frame in reader.stream()]
    assert max(np.diff(times)) < 0.5


@pytest.mark.parametrize(("num_keyframes", "is_alone"), [(5, False), (6, True)])
def test_few_keyframes_of_a_short_clip_are_not_read_alone(tmp_path: Path, num_keyframes: int, is_alone: bool) -> None:
    path = write_scenes(tmp_path / "clip.mp4", [20 * num_keyframes], options={"g": "20", "sc_threshold": "0"})
    with open_reader(probe(path), for_streaming=True, mode="fast") as reader:
        num_frames = len(list(reader.stream()))
    assert (num_frames == num_keyframes) == is_alone


def stream(path: Path, **options: object) -> Iterator[object]:
    with DecodePool(1, resize=Resize(32, 32), shot_sampling="exact") as pool:
        yield from pool.stream(path, **options)  # type: ignore[arg-type]


def test_the_pool_sends_what_is_read_from_where_it_is_told(film: Path) -> None:
    opened, *segments, finished = stream(film)
    assert isinstance(opened, OpenedVideo)
    assert (opened.cuts, opened.num_expected, opened.decoder) == ([], 2, "pyav")
    assert finished == Finished("")
    sent, whole = [segment for segment in segments if isinstance(segment, DecodedSegment)], read(film)
    check_equal(sent, whole)
    assert [list(segment.shots) for segment in sent] == [segment.shots for segment in whole]
    _, *segments, _ = stream(film, plan=lambda _: ReadPlan(start=(3, whole[2].end)))
    assert [segment.number for segment in segments if isinstance(segment, DecodedSegment)] == [3, 4]
    _, *none = stream(film, plan=lambda _: ReadPlan())
    assert none == [Finished("")]


@pytest.mark.parametrize("first", [0, 37])
@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "h264.ts", "mpeg4.avi", "mpeg2.mpg", "h264.flv"])
def test_a_reader_streams_a_second_time_from_where_it_is_told(films: dict[str, Film], name: str, first: int) -> None:
    info = probe(films[name].path)
    with open_reader(info, for_streaming=True) as reader:
        for _ in range(2):
            assert [frame.index for frame in reader.stream(first)] == list(range(first, info.num_frames))


@pytest.mark.parametrize("first", [0, 5, 60])
def test_frames_that_a_stream_left_out_are_there_for_the_next_one(tmp_path: Path, first: int) -> None:
    info = probe(write_slides(tmp_path / "slides.mp4"))
    assert info.still.any()
    with open_reader(info, for_streaming=True) as reader:
        next(islice(reader.stream(), 5, None))
        assert [frame.index for frame in reader.stream(first)] == list(range(first, info.num_frames))
        still = int(np.flatnonzero(info.still)[-1])
        assert reader.read([still]).times.tolist() == [info.times[still]]


def test_a_film_that_cuts_all_the_time_is_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_scenes(tmp_path / "strobe.mp4", [6] * 150)
    opened, *segments, finished = stream(path)
    assert isinstance(opened, OpenedVideo)
    assert finished == Finished("")
    assert 1 <= len(segments) <= 72
    assert caplog.messages == [f"{path}: it cuts more than 120 times a minute: further cuts there are left out"]
