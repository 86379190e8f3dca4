"""Proof for vidret/video/decoders/: every film's frames say themselves whether they are those asked for."""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import av
import numpy as np
import pytest

from tests.video.conftest import KINDS, NAMES, NUM_FRAMES, Film
from tests.video.films import draw, read_numbers, write_scenes, write_video
from vidret.errors import DecodeError, VidretError
from vidret.types import Resize
from vidret.video.container import decode_packets
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode
from vidret.video.decoders.pyav import PyavDecoder
from vidret.video.decoders.registry import EXACT_DECODERS, Decoder, choose_decoder, find_decoder
from vidret.video.geometry import resize_image
from vidret.video.grey import grey_from_luma
from vidret.video.probe import probe
from vidret.video.reader import open_reader, read_frames

BY_DECORD = {"h264.mp4", "h264.mkv", "h264_sound.mp4", "vp9.webm", "ffv1.mkv", "prores.mov", "one.mp4"}
BY_PYAV = {"hevc.mp4", "h264_10bit.mp4", "h264_444_odd.mp4", "h264_open.mp4", "h264_uneven.mkv", "edit_list.mp4"}
BY_PYAV |= {"h264.ts", "mpeg2.mpg", "anim.gif"}


def check_reads(film: Film) -> str:
    """Check frames read in jumps and by chance against those of one pass; return the decoder that was chosen."""
    info = probe(film.path)
    whole = read_frames(str(film.path), indices=range(film.num_frames), decoder="pyav")
    assert read_numbers(whole.pixels) == film.numbers
    assert (whole.times == info.times).all()
    assert whole.pixels.shape[1:] == (info.height, info.width, 3)
    chance = np.random.default_rng(0).integers(0, film.num_frames, (20, 5))
    for decoder in ("pyav", "auto"):
        with open_reader(info, decoder=decoder) as reader:
            # Decord, which jumps by itself, reads more often.
            for indices in ([77], [3], [41], [42], [99], *chance[: 20 if reader.decoder == "decord" else 8]):
                wanted = np.unique(np.array(indices) % film.num_frames)
                frames = reader.read(wanted)
                assert frames.salvaged == ""
                assert (frames.pixels == whole.pixels[wanted]).all()
                assert (frames.times == info.times[wanted]).all()
    return reader.decoder


@pytest.mark.parametrize("name", NAMES)
def test_frames_are_those_asked_for(films: dict[str, Film], name: str) -> None:
    assert check_reads(films[name]) == "decord" or name not in BY_DECORD


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decoder", EXACT_DECODERS)
def test_every_decoder_reads_undoubted_films_as_pyav(films: dict[str, Film], name: str, decoder: Decoder) -> None:
    film, info = films[name], probe(films[name].path)
    if find_decoder(decoder).find_doubt(info):
        return
    try:
        reader = open_reader(info, decoder=decoder)
    except DecodeError:
        raise
    except VidretError as error:  # it, or a library that it needs, is not installed
        pytest.skip(str(error))
    with reader, open_reader(info, decoder="pyav") as other:
        for wanted in np.random.default_rng(0).integers(0, film.num_frames, (12, 5)):
            frames, expected = reader.read(wanted), other.read(wanted)
            assert (frames.pixels == expected.pixels).all()
            assert (frames.times == expected.times).all()
        first = film.num_frames // 2
        streamed, rest = list(reader.stream(first)), other.read(range(first, film.num_frames))
        assert [frame.time_s for frame in streamed] == rest.times.tolist()
        for frame, image in zip(streamed, rest.pixels, strict=True):
            frame_image = frame.read_image()
            assert frame_image is not None
            assert (frame_image == image).all()
            assert (frame.grey == grey_from_luma(image[:, :, 1])).all()
        assert (reader.decoder, reader.fallback) == (decoder, "")


def test_a_lossless_film_is_read_as_it_was_drawn(films: dict[str, Film]) -> None:
    pixels = read_frames(str(films["ffv1.mkv"].path), indices=range(NUM_FRAMES)).pixels
    assert (pixels == np.stack([draw(frame_number) for frame_number in range(NUM_FRAMES)])).all()


def test_writing_the_films_makes_no_process_real_time(films: dict[str, Film]) -> None:
    """As root, SVT-AV1 would starve all other processes of the machine until this one ends."""
    assert "av1.mp4" in films
    if hasattr(os, "sched_getscheduler"):
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_doubtful_files_are_left_to_pyav(films: dict[str, Film]) -> None:
    for name in BY_PYAV:
        decoder, why = choose_decoder(probe(films[name].path))
        assert decoder == "pyav", name
        assert why
    assert choose_decoder(probe(films["hevc.mp4"].path), "decord") == ("decord", "requested")
    with pytest.raises(DecodeError, match="Decord counts"):
        read_frames(str(films["edit_list.mp4"].path), indices=[0], decoder="decord")


def remux(source: Path, path: Path, *, first: int = 0, by_decoding: bool = False) -> Path:
    """Copy the packets of a video of 25 fps from one on, dated by when they are decoded if ``by_decoding``."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        stream = cast(Any, out.add_stream_from_template(given.streams.video[0]))
        for index, packet in enumerate([packet for packet in given.demux(video=0) if packet.size][first:]):
            packet.stream = stream
            if by_decoding:
                packet.pts = packet.dts = round(index / 25 / float(packet.time_base))
            out.mux(packet)
    return path


def test_a_cut_before_a_keyframe_is_left_to_pyav(films: dict[str, Film], tmp_path: Path) -> None:
    """Decord does not count the frames that cannot be decoded, and returned later ones."""
    path = remux(films["vp9.webm"].path, tmp_path / "cut.webm", first=13)
    first_key = int(np.argmax(probe(path).keyframes))
    assert first_key > 0
    frames = read_frames(str(path), indices=range(NUM_FRAMES - 13))
    assert read_numbers(frames.pixels) == list(range(13 + first_key, NUM_FRAMES))
    np.testing.assert_allclose(np.diff(frames.times), 0.04, atol=0.002)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "hevc.mp4"])
def test_frames_that_are_dated_by_when_they_are_decoded_are_shown_in_order(
    films: dict[str, Film], tmp_path: Path, name: str
) -> None:
    path = remux(films[name].path, tmp_path / name, by_decoding=True)
    info = probe(path)
    np.testing.assert_allclose(info.times, np.arange(NUM_FRAMES) / 25, atol=1e-6)
    check_reads(Film(path, 0, NUM_FRAMES))


@pytest.mark.parametrize("turn", [90, 180, 270])
@pytest.mark.parametrize("size", [(48, 64), (128, 192)])
def test_rotation_is_applied_once(tmp_path: Path, turn: int, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "turned.mp4", range(30), rotation=turn, size=size)
    for decoder in ("auto", "decord", "pyav"):
        frames = read_frames(str(path), indices=[4, 29], decoder=decoder)
        assert frames.pixels.shape[1:] == (size[1], size[0], 3)
        assert read_numbers(frames.pixels) == [4, 29]


def test_times_and_indices_agree(films: dict[str, Film]) -> None:
    path = str(films["h264_uneven.mp4"].path)
    pauses = np.array(KINDS["h264_uneven.mp4"]["pts"])[[6, 7]] / 25
    assert read_numbers(read_frames(path, times=[pauses[0] + 0.001, pauses[1] - 0.001]).pixels) == [6, 7]
    with pytest.raises(ValueError, match="times and indices"):
        read_frames(path)
    with pytest.raises(ValueError, match=r"indices must be in 0\.\.99"):
        read_frames(path, indices=[100])


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_resizing_is_that_of_resize(films: dict[str, Film], decoder: Decoder) -> None:
    path, resize = str(films["h264_444_odd.mp4"].path), Resize(32, 24)
    plain = read_frames(path, indices=[5, 60], decoder=decoder)
    small = read_frames(path, indices=[5, 60], decoder=decoder, resize=resize)
    assert (small.pixels == np.stack([resize_image(picture, resize) for picture in plain.pixels])).all()


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_truncated_file_gives_what_it_holds(tmp_path: Path, decoder: Decoder) -> None:
    path = write_video(tmp_path / "cut.mp4", range(NUM_FRAMES), container_options={"movflags": "faststart"})
    os.truncate(path, int(path.stat().st_size * 0.9))
    num_frames = probe(path).num_frames
    frames = read_frames(str(path), indices=range(num_frames), decoder=decoder)
    # The break costs B-frames that were stored late: the times know it.
    assert read_numbers(frames.pixels) == np.round(frames.times * 25).tolist()
    assert num_frames > 50
    assert frames.salvaged == f"{num_frames} of 100 frames could be read: truncated"


def test_a_damaged_middle_costs_its_frames_only(films: dict[str, Film], tmp_path: Path) -> None:
    data = bytearray(films["h264.mp4"].path.read_bytes())
    start = data.index(b"mdat") + 1500
    data[start : start + 200] = bytes(200)
    (tmp_path / "torn.mp4").write_bytes(data)
    frames = read_frames(str(tmp_path / "torn.mp4"), indices=range(NUM_FRAMES))
    assert 50 < len(frames) < NUM_FRAMES
    assert frames.salvaged == f"{len(frames)} of 100 frames could be read: damaged"


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("name", ["h264.ts", "h264_open.ts", "mpeg2.mpg"])
@pytest.mark.parametrize("shift", [0, 25 * 3600])
def test_joined_recordings_are_read_in_turn(films: dict[str, Film], tmp_path: Path, name: str, shift: int) -> None:
    second = write_video(tmp_path / f"second_{name}", range(100, 200), **KINDS[name], shift=shift)
    for first, parts in ((0, (films[name].path, second)), (100, (second, films[name].path))):
        path = join(tmp_path / name, *parts)
        info = probe(path)
        assert info.clock_restarts == 1
        np.testing.assert_allclose(info.times, np.arange(200) / 25, atol=1e-6)
        numbers = read_numbers(read_frames(str(path), indices=range(200)).pixels)
        assert numbers == [(first + index) % 200 for index in range(200)]
        for offset in (0.0, 0.1, 0.3, 0.5):
            times = np.arange(offset, 8, 1.0)
            chosen = read_frames(str(path), times=times)
            assert chosen.salvaged == ""
            np.testing.assert_allclose(chosen.times, times, atol=0.021)
    check_reads(Film(join(tmp_path / f"film_{name}", films[name].path, second), 0, 2 * NUM_FRAMES))


@pytest.mark.parametrize("name", ["h264.ts", "h264_open.ts", "hevc.ts", "h264.flv", "wmv2.wmv", "h264.mp4"])
def test_what_lies_before_the_last_keyframe_is_not_decoded(
    films: dict[str, Film], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    decoded = []

    def count(stream: Any, packets: Iterable[Any], *, skip_damaged: bool) -> Iterator[Any]:
        for frame in decode_packets(stream, packets, skip_damaged=skip_damaged):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr("vidret.video.decoders.pyav.decode_packets", count)
    with open_reader(probe(films[name].path), decoder="pyav") as reader:
        assert read_numbers(reader.read([2, 98]).pixels) == [2, 98]
    assert len(decoded) < 35


def test_decord_on_the_cpu_does_not_load_cuda_libraries() -> None:
    """Where torch was installed with CUDA, decord2 would load its libraries into each worker: 800 MB."""
    script = """
import sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        assert name != "nvidia", "Decord looks for CUDA's libraries"
sys.meta_path.insert(0, Spy())
from vidret.video.decoders.decord import read_version
assert read_version(on_gpu=False)
assert "nvidia" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_decord_with_gpu_code_gets_cuda_libraries_on_the_cpu_too(tmp_path: Path) -> None:
    """Such a build cannot be loaded without them."""
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord" / "__init__.py").write_text(
        "try:\n    import nvidia\nexcept ImportError:\n    raise OSError('libcudart.so')\n"
        "import types\nlogging = types.SimpleNamespace(set_level=print, QUIET=0)\n__version__ = '3.4.0+cu130'\n"
    )
    (tmp_path / "nvidia").mkdir()
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from vidret.video.decoders.decord import read_version
assert read_version(on_gpu=False) == "3.4.0+cu130"
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def read(path: Path, num_threads: int, mode: SamplingMode = "exact", first: int = 0) -> list[tuple[int, bytes, bytes]]:
    """Return the index, the grey picture and the image of every frame."""
    with open_reader(probe(path), for_streaming=True, mode=mode, num_threads=num_threads) as reader:
        images = ((frame, frame.read_image()) for frame in reader.stream(first))
        return [
            (frame.index, frame.grey.tobytes(), b"" if image is None else image.tobytes()) for frame, image in images
        ]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_film_reads_the_same(films: dict[str, Film], name: str) -> None:
    path = films[name].path
    assert read(path, 3) == read(path, 1)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
def test_every_mode_reads_the_same(films: dict[str, Film], mode: SamplingMode) -> None:
    path = films["h264.mp4"].path
    assert read(path, 4, mode, first=37) == read(path, 1, mode, first=37)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
def test_an_intact_film_whose_last_frame_the_mode_leaves_out_is_read_once(tmp_path: Path, mode: SamplingMode) -> None:
    """Every second frame is one that no other refers to, as in recordings of calls."""
    layers = "ts_number_layers=2:ts_target_bitrate=100,200:ts_rate_decimator=2,1:ts_periodicity=2:ts_layer_id=0,1"
    options = {"ts-parameters": f"{layers}:ts_layering_mode=2", "deadline": "realtime", "lag-in-frames": "0"}
    options |= {"error-resilient": "1", "g": "30"}
    path = write_video(tmp_path / "call.webm", range(60), codec="libvpx", options=options)
    decoder = PyavDecoder(probe(path), lambda: None, mode=mode, num_threads=2)
    with closing(decoder), patch.object(PyavDecoder, "_use_one_thread", side_effect=AssertionError):
        assert [frame.index for frame in decoder.stream()][-1] == (59 if mode == "exact" else 58)


def damage(path: Path, seed: int) -> None:
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for position in rng.integers(len(content) // 3, len(content), 12):
        content[position] ^= int(rng.integers(1, 256))
    path.write_bytes(content)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
@pytest.mark.parametrize("seed", [14, 24, 39])  # damage in a later group, in the last frames, and in the container
def test_a_damaged_film_reads_the_same(tmp_path: Path, seed: int, mode: SamplingMode) -> None:
    """What FFmpeg shows in place of what it cannot decode depends on which frames are decoded already."""
    path = write_scenes(tmp_path / "damaged.mp4", [60, 60, 60], options={"g": "30", "bf": "2"})
    sound = read(path, 1, mode)
    damage(path, seed)
    damaged = read(path, 1, mode)
    assert damaged != sound
    for num_threads in (2, 4):
        assert read(path, num_threads, mode) == damaged


def test_threads_do_not_log_to_python(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They would wait for the interpreter while it waits for them: a deadlock, now and then."""
    path = write_scenes(tmp_path / "damaged.mp4", [60, 60, 60], options={"g": "30", "bf": "2"})
    damage(path, 24)
    av.logging.set_level(av.logging.ERROR)  # as torchvision before 0.26 does
    try:
        read(path, 4)
    finally:
        av.logging.set_level(None)
    assert not [record for record in caplog.records if record.name.startswith("libav")]
