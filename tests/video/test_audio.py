"""Sound of videos: mono samples at a player's times, whatever the codec, the container and the damage."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float32

from tests.video.films import write_video
from vidret.errors import DecodeError
from vidret.video import audio, container
from vidret.video.audio import MAX_SOUND_S, SoundCutter, read_audio
from vidret.video.probe import probe

RATE = 16_000
CHUNK = 1024


def chirp(seconds: float, rate: int = RATE, clicks: Sequence[float] = ()) -> Float32[np.ndarray, " sample"]:
    """Return silence with short loud tones at some times, in seconds."""
    sound = np.zeros(int(seconds * rate), np.float32)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate // 20) / rate).astype(np.float32)
    for time_s in clicks:
        begin = round(time_s * rate)
        sound[begin : begin + len(tone)] = tone[: len(sound) - begin]
    return sound


def write_sound(
    path: Path,
    sound: Float32[np.ndarray, " sample"],
    *,
    codec: str = "aac",
    rate: int = RATE,
    layout: str = "mono",
    start_s: float = 0.0,
    gap: tuple[float, float] = (0.0, 0.0),
    video_s: float = 0.0,
    video_start_s: float = 0.0,
    right_gain: float = 1.0,
) -> Path:
    """Encode a sound, beginning at ``start_s``, without the chunks in ``gap``, beside a video if one is wanted."""
    sample_format = {"pcm_s16le": "s16", "mp2": "s16", "libopus": "flt"}.get(codec, "fltp")
    with av.open(str(path), "w") as out:
        picture = cast(Any, out.add_stream("libx264", rate=10)) if video_s else None
        stream = cast(Any, out.add_stream(codec, rate=rate, layout=layout))
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for index in range(round(video_s * 10)):
                image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                image.pts, image.time_base = index + round(video_start_s * 10), Fraction(1, 10)
                out.mux(picture.encode(image))
            out.mux(picture.encode(None))
        for begin in range(0, len(sound), CHUNK):
            if gap[0] <= begin / rate < gap[1]:
                continue
            chunk = sound[begin : begin + CHUNK]
            frame = make_frame(chunk, sample_format, layout, rate, begin, start_s, right_gain)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def make_frame(
    chunk: Any, sample_format: str, layout: str, rate: int, begin: int, start_s: float, right_gain: float = 1.0
) -> av.AudioFrame:
    """Return an audio frame with the same samples in every channel, but for the gain of the right one."""
    planes = np.stack([chunk, right_gain * chunk] if layout == "stereo" else [chunk])
    if not sample_format.endswith("p"):
        planes = planes.T.reshape(1, -1)
    if sample_format == "s16":
        planes = (planes * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format=sample_format, layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, begin + round(start_s * rate), Fraction(1, rate)
    return frame


def read(path: Path, **options: Any) -> tuple[float, Float32[np.ndarray, " sample"]]:
    """Return when the sound begins, and all of it; its pieces must be consecutive."""
    pieces = list(read_audio(str(path), RATE, **options))
    position = round(pieces[0][0] * RATE)
    for time_s, samples in pieces:
        assert round(time_s * RATE) == position
        assert samples.dtype == np.float32
        position += len(samples)
    return pieces[0][0], np.concatenate([samples for _, samples in pieces])


def clicks(begin_s: float, sound: Float32[np.ndarray, " sample"]) -> list[float]:
    """Return when the tones begin, in seconds."""
    is_loud = np.abs(sound) > 0.2
    loud = np.flatnonzero(is_loud)
    starts = loud[np.diff(loud, prepend=-RATE) > RATE // 10]
    return [float(begin_s + start / RATE) for start in starts]


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "layout"),
    [
        ("mp4", "aac", 16_000, "mono"),
        ("mp4", "aac", 44_100, "stereo"),
        ("mkv", "pcm_s16le", 8_000, "mono"),
        ("mkv", "pcm_s16le", 48_000, "stereo"),
        ("mkv", "libopus", 48_000, "stereo"),
        ("mp4", "libopus", 48_000, "mono"),
    ],
)
def test_codecs_and_containers(tmp_path: Path, suffix: str, codec: str, rate: int, layout: str) -> None:
    times = [0.5, 1.25, 2.75]
    path = write_sound(tmp_path / f"a.{suffix}", chirp(3.0, rate, times), codec=codec, rate=rate, layout=layout)
    begin_s, sound = read(path)
    assert begin_s == pytest.approx(0.0, abs=0.03)
    assert begin_s + len(sound) / RATE == pytest.approx(3.0, abs=0.1)
    assert clicks(begin_s, sound) == pytest.approx(times, abs=0.03)
    assert np.abs(sound).max() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "pcm_s16le"), ("mkv", "libopus")])
def test_channels_in_opposite_phase_do_not_cancel_out(tmp_path: Path, suffix: str, codec: str) -> None:
    times = [0.5, 1.25, 2.75]
    write = partial(write_sound, sound=chirp(3.0, 48_000, times), codec=codec, rate=48_000, layout="stereo")
    begin_s, heard = read(write(tmp_path / f"a.{suffix}", right_gain=-0.95))
    assert clicks(begin_s, heard) == pytest.approx(times, abs=0.03)
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.15)
    _, mixed = read(write(tmp_path / f"b.{suffix}", right_gain=0.0))
    assert np.abs(mixed).max() == pytest.approx(0.25, abs=0.1), "all others are mixed"


@pytest.mark.parametrize(("suffix", "start_s"), [("mp4", 1.5), ("mkv", 1.5), ("ts", 0.0)])
def test_sound_is_on_a_players_clock(tmp_path: Path, suffix: str, start_s: float) -> None:
    """Both tracks of a transport stream begin at 1.4 s: a player's clock begins there."""
    path = write_sound(tmp_path / f"a.{suffix}", chirp(2.0, clicks=[1.0]), start_s=start_s, video_s=4.0)
    begin_s, sound = read(path)
    assert begin_s == pytest.approx(start_s, abs=0.1)  # in a transport stream with the encoder's delay of 64 ms
    assert clicks(begin_s, sound) == pytest.approx([start_s + 1.0], abs=0.1 if suffix == "ts" else 0.03)


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_the_default_track_is_read_if_it_can_be_decoded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as out:
        streams = [cast(Any, out.add_stream("pcm_s16le", rate=RATE, layout="mono")) for _ in range(2)]
        if suffix == "mkv":
            streams[1].disposition = Disposition.default.value
        for stream, time_s in zip(streams, (0.5, 1.0), strict=True):
            out.mux(stream.encode(make_frame(chirp(2.0, clicks=[time_s]), "s16", "mono", RATE, 0, 0.0)))
            out.mux(stream.encode(None))
    if suffix == "mov":  # the codec of its first track becomes an unknown one
        path.write_bytes(path.read_bytes().replace(b"sowt", b"apac", 1))
    assert clicks(*read(path)) == pytest.approx([1.0], abs=0.01)


def test_gaps_are_silence(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", chirp(4.0, clicks=[0.5, 1.5, 3.5]), codec="pcm_s16le", gap=(1.0, 3.0))
    begin_s, sound = read(path)
    assert clicks(begin_s, sound) == pytest.approx([0.5, 3.5], abs=0.01)
    assert not sound[int(1.2 * RATE) : int(2.8 * RATE)].any()


def test_start_s_and_heartbeat(tmp_path: Path) -> None:
    path, beats = write_sound(tmp_path / "a.mp4", chirp(4.0, clicks=[0.5, 3.5])), list[None]()
    begin_s, sound = read(path, start_s=2.0, heartbeat=lambda: beats.append(None))
    assert len(beats) > 10
    assert 2.0 - CHUNK / RATE <= begin_s <= 2.0
    assert clicks(begin_s, sound) == pytest.approx([3.5], abs=0.03)
    assert list(read_audio(str(path), RATE, start_s=60.0)) == []
    with pytest.raises(DecodeError, match="no audio track"):
        list(read_audio(str(write_video(tmp_path / "b.mp4", range(3))), RATE))


def test_damaged_packets_leave_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sound(tmp_path / "a.mp4", chirp(3.0, clicks=[0.5, 1.5, 2.5]))
    original = container._decode

    def decode(stream: Any, packet: Any, **options: bool) -> list[Any]:
        is_damaged = packet is not None and 1.2 < float(packet.pts * packet.time_base) < 2.0
        return [] if is_damaged else original(stream, packet, **options)

    monkeypatch.setattr(container, "_decode", decode)
    begin_s, sound = read(path)
    assert clicks(begin_s, sound) == pytest.approx([0.5, 2.5], abs=0.03)
    monkeypatch.setattr(container, "_decode", lambda _stream, _packet, **_options: [])
    with pytest.raises(DecodeError, match="no sound"):
        read(path)


def test_overwritten_bytes_and_a_cut_off_file(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mkv", chirp(4.0, clicks=[0.5, 3.5]))
    content = path.read_bytes()
    data = bytearray(content)
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) // 4, len(data) // 2, 40):
        data[at] ^= 0xFF
    path.write_bytes(data)
    assert clicks(*read(path))[-1] == pytest.approx(3.5, abs=0.1)
    path.write_bytes(content[: len(content) * 3 // 4])
    begin_s, sound = read(path)
    assert clicks(begin_s, sound)[0] == pytest.approx(0.5, abs=0.03)
    assert len(sound) / RATE < 3.9


def frames(*parts: tuple[str, str, int, float]) -> Iterator[av.AudioFrame]:
    """Yield the frames of parts (format, layout, rate, seconds), each with a tone near its beginning."""
    begin_s = 0.0
    for sample_format, layout, rate, seconds in parts:
        sound = chirp(seconds, rate, [0.1])
        for begin in range(0, len(sound), CHUNK):
            yield make_frame(sound[begin : begin + CHUNK], sample_format, layout, rate, begin, begin_s)
        begin_s += seconds


def test_track_that_changes_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [("fltp", "mono", 16_000, 1.0), ("fltp", "stereo", 48_000, 1.0), ("s16", "mono", 22_050, 1.0)]
    monkeypatch.setattr(audio, "decode_all", lambda *_args: frames(*parts))
    begin_s, sound = read(write_sound(tmp_path / "a.mp4", chirp(1.0)))
    assert clicks(begin_s, sound) == pytest.approx([0.1, 1.1, 2.1], abs=0.01)
    assert len(sound) / RATE == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize(("sample_format", "layout"), [("fltp", "stereo"), ("flt", "stereo"), ("s16", "mono")])
def test_frames_that_are_joined_sound_as_single_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_format: str, layout: str
) -> None:
    """Also where a frame is missing, or has no time."""
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, 50 * CHUNK).astype(np.float32)

    def decode(*_args: object) -> Iterator[av.AudioFrame]:
        for chunk_index, chunk in enumerate(sound.reshape(50, CHUNK)):
            frame = make_frame(chunk, sample_format, layout, 44_100, chunk_index * CHUNK, 0.0)
            if chunk_index == 7:
                frame.pts = None
            if not 20 <= chunk_index < 30:
                yield frame

    path = write_sound(tmp_path / "a.mp4", chirp(0.1))
    monkeypatch.setattr(audio, "decode_all", decode)
    joined = read(path)
    monkeypatch.setattr(audio, "_JOINED", 1)
    single = read(path)
    assert joined[0] == single[0]
    np.testing.assert_array_equal(joined[1], single[1])


def place(
    *chunks: tuple[float | None, int], zero_s: float = 0.0, offsets_s: Sequence[float] = ()
) -> list[tuple[int, int]]:
    """Return the position and length of what chunks of (seconds, samples) become, at 100 samples a second."""
    timed_samples = ((time_s, np.ones(length, np.float32)) for time_s, length in chunks)
    return [(position, len(samples)) for position, samples in audio._place(timed_samples, 100, zero_s, offsets_s)]


@pytest.mark.parametrize(
    ("chunks", "zero_s", "placed"),
    [
        ([(-0.1, 20), (0.1, 20)], 0.0, [(0, 10), (10, 20)]),  # what is before zero or overlaps is cut off
        ([(5.0, 100), (5.5, 100)], 5.0, [(0, 100), (100, 50)]),
        # Jitter is ignored, and a restarted clock continues.
        ([(0.0, 100), (1.05, 100), (1.95, 100), (None, 50)], 0.0, [(0, 100), (100, 100), (200, 100), (300, 50)]),
        (
            [(50.0, 100), (0.0, 100), (1.0, 100), (3.0, 10)],
            50.0,
            [(0, 100), (100, 100), (200, 100), (300, 100), (400, 10)],
        ),
        # Long gaps come in pieces.
        ([(0.0, 100), (20.0, 100)], 0.0, [(0, 100), (100, 1000), (1100, 900), (2000, 100)]),
        ([(0.0, 100), (1e9, 100)], 0.0, [(0, 100), (100, 100)]),
    ],
)
def test_chunks_are_placed(
    chunks: list[tuple[float | None, int]], zero_s: float, placed: list[tuple[int, int]]
) -> None:
    assert place(*chunks, zero_s=zero_s) == placed


@pytest.mark.parametrize(
    ("chunks", "offsets_s", "positions"),
    [
        # The sound of the first section is shorter than its pictures; so is that of the second.
        ([(0.0, 150), (0.0, 150), (0.0, 150)], [0.0, 4.0, 6.0], [0, 150, 400, 550, 600]),
        ([(0.0, 100), (3600.0, 100)], [0.0, -3599.0], [0, 100]),  # the clock is ahead
        ([(1.0, 100), (1.6, 100)], [0.0, 0.4], [100, 200]),  # a short step back
        ([(0.0, 100), (3.0, 100), (0.0, 100)], [0.0, 4.0], [0, 100, 300, 400]),  # a gap is no restart
        ([(0.0, 100), (0.9, 100), (1.9, 100)], [0.0, 500.0], [0, 100, 200]),  # nor is jitter
        ([(0.0, 100), (-50.0, 100)], [0.0, -9.0], [0, 100]),  # no section begins there: the samples continue
    ],
)
def test_sound_stays_in_time_with_the_sections_of_a_video(
    chunks: list[tuple[float | None, int]], offsets_s: list[float], positions: list[int]
) -> None:
    assert [position for position, _ in place(*chunks, offsets_s=offsets_s)] == positions


@pytest.mark.parametrize("shift_s", [0, 3600])
def test_sound_of_joined_recordings_is_in_time_with_their_pictures(tmp_path: Path, shift_s: int) -> None:
    """Also if the sound of the first one ends early, or the clock of the second one is an hour ahead."""
    parts = (
        write_sound(tmp_path / "a.ts", chirp(1.5, clicks=[1.0]), codec="mp2", video_s=4.0),
        write_sound(
            tmp_path / "b.ts",
            chirp(3.0, clicks=[1.0]),
            codec="mp2",
            video_s=4.0,
            start_s=shift_s,
            video_start_s=shift_s,
        ),
    )
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = probe(str(path))
    assert info.clock_restarts == 1
    offsets_s = info.section_offsets_s
    assert clicks(*read(path, section_offsets_s=offsets_s)) == pytest.approx([1.0, 5.0], abs=0.1)
    cutter = SoundCutter(str(path), RATE, lambda: None, offsets_s)
    assert [cutter.cut(second, second + 1.0).any() for second in range(7)] == [second in (1, 5) for second in range(7)]


def test_all_gaps_of_a_file_are_limited_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MAX_GAPS_S", 50.0)
    placed = place(*((21.0 * index, 100) for index in range(6)))
    num_silent = placed[-1][0] + placed[-1][1] - 6 * 100
    assert num_silent == 4000, "two gaps of 20 s; then the samples continue"


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.one_of(st.none(), st.floats(-50, 50), st.just(1e12)), st.integers(0, 300)), max_size=12),
    st.floats(-20, 20),
)
def test_samples_are_always_consecutive(chunks: list[tuple[float | None, int]], start_s: float) -> None:
    timed_samples = [(time_s, np.ones(length, np.int16)) for time_s, length in chunks]
    position: int | None = None
    for time_s, samples in audio._join(iter(timed_samples), 100, 0.0, start_s):
        assert len(samples)
        assert position is None or round(time_s * 100) == position
        assert time_s >= 0
        position = round(time_s * 100) + len(samples)
        assert position > start_s * 100


@pytest.mark.parametrize("start_s", [0.0, 2.0])
def test_segments_get_their_own_sound(tmp_path: Path, start_s: float) -> None:
    """A click is where it was; before the track and after its end there is silence, as where a file has no track."""
    path = write_sound(tmp_path / "a.mkv", chirp(4.0, clicks=[0.5, 2.5]), codec="pcm_s16le", start_s=1.0, video_s=8.0)
    cutter = SoundCutter(str(path), RATE, lambda: None)
    cuts = [(first, first + 2.0) for first in np.arange(start_s, 8.0, 2.0)]
    stretches = [cutter.cut(*cut) for cut in cuts]
    assert [len(stretch) for stretch in stretches] == [2 * RATE] * len(cuts)
    begin_s, samples = read(path)
    padded = np.pad(samples, (round(begin_s * RATE), 8 * RATE))[round(start_s * RATE) : 8 * RATE]
    np.testing.assert_allclose(np.concatenate(stretches) / 32768, padded, atol=1e-6)
    assert [stretch.any() for stretch in stretches][-3:] == [True, False, False]
    assert cutter.fault == ""
    mute = SoundCutter(str(write_video(tmp_path / "b.mp4", range(3))), RATE, lambda: None)
    assert not mute.cut(0.0, 1.0).any()
    assert mute.fault == ""
    assert len(mute.cut(1.0, 100.0)) == MAX_SOUND_S * RATE


def test_sound_of_skipped_segments_is_left_out(tmp_path: Path) -> None:
    path = str(write_sound(tmp_path / "a.mkv", chirp(6.0, clicks=[0.5, 4.5]), codec="pcm_s16le"))
    some, all_of_it = (SoundCutter(path, RATE, lambda: None) for _ in range(2))
    some.cut(0.0, 1.0)
    expected = [all_of_it.cut(second, second + 1.0) for second in range(6)]
    np.testing.assert_array_equal(some.cut(4.0, 5.0), expected[4])
    assert expected[4].any()
