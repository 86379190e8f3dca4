"""Proof for vidret/video/probe.py: facts of films whose making is known."""

import json
import os
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import av
import numpy as np
import pytest
from PIL import Image

from tests.video.conftest import KINDS, NAMES, NUM_FRAMES, Film
from tests.video.films import draw, read_number, read_numbers, write_audio, write_cover, write_video
from vidret.errors import DecodeError
from vidret.video.identity import fingerprint
from vidret.video.probe import probe
from vidret.video.reader import open_reader, read_frames


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_is_counted_and_timed(films: dict[str, Film], name: str) -> None:
    signs = list[int]()
    info = probe(films[name].path, heartbeat=lambda: signs.append(1))
    assert signs, "long work shows signs of life"
    pts = KINDS.get(name, {}).get("pts", range(info.num_frames))
    assert info.num_frames == films[name].num_frames
    np.testing.assert_allclose(info.times, np.array(pts) / 25, atol=0.0011)
    assert info.duration == pytest.approx(info.times[-1] + 0.04, abs=0.011)
    assert info.damage == ""
    assert info.start == 0.0 or name == "edit_list.mp4"
    facts = info.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert not {"times", "pts", "keyframes"} & set(facts)
    if name.startswith("turned"):  # FFmpeg's angles go anticlockwise
        turn = int(name.removeprefix("turned_").removesuffix(".mp4"))
        assert (info.rotation, info.width, info.height) == (-turn % 360, *((64, 48) if turn == 180 else (48, 64)))


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts"])
@pytest.mark.parametrize("reordered", [False, True])
def test_times_count_from_the_earliest_stream(tmp_path: Path, suffix: str, *, reordered: bool) -> None:
    options = {"bf": "2" if reordered else "0"}
    info = probe(write_video(tmp_path / f"late.{suffix}", range(75), options=options, shift=125, audio=True))
    assert info.start == pytest.approx(5.0, abs=0.07)  # silence may come a packet before the sound
    np.testing.assert_allclose(info.times, info.start + np.arange(75) / 25, atol=0.0011)
    assert info.duration == pytest.approx(info.start + 3.0, abs=0.011)
    assert info.shown_seconds == pytest.approx(3.0, abs=0.011)
    assert info.facts()["start"] == info.start


@pytest.mark.parametrize("num_reordered", [0, 2])
def test_frames_that_an_avi_leaves_out_move_no_other(tmp_path: Path, num_reordered: int) -> None:
    pts = [*range(10), *range(40, 60)]
    film = write_video(tmp_path / "dropped.avi", range(30), options={"bf": str(num_reordered)}, pts=pts)
    # Where frames are reordered, as many of them are written before the gap.
    early = range(10, 10 + num_reordered)
    np.testing.assert_allclose(probe(film).times * 25, [*pts[:10], *early, *pts[10 + num_reordered :]])


def test_what_is_special_about_a_file_is_seen(films: dict[str, Film]) -> None:
    infos = {name: probe(film.path) for name, film in films.items()}
    assert {name for name, info in infos.items() if info.variable_rate} == {"h264_uneven.mp4", "h264_uneven.mkv"}
    assert {name for name, info in infos.items() if info.edit_list} == {"edit_list.mp4"}
    assert {name for name, info in infos.items() if info.by_order} == {"h264.avi", "mpeg4.avi"}
    assert {"h264_open.mp4", "hevc.mp4"} <= {name for name, info in infos.items() if info.open_gop}
    assert not infos["h264.mp4"].open_gop
    assert {info.codec for name, info in infos.items() if name.startswith("av1")} == {"av1"}
    assert {name for name, info in infos.items() if info.has_audio} == {"h264_sound.mp4"}
    assert {info.timecode for info in infos.values()} == {""}
    assert {info.average_rate for name, info in infos.items() if "uneven" not in name} == {25.0}


def test_the_rate_of_a_raw_camcorder_tape_is_that_of_its_frames(tmp_path: Path) -> None:
    assert probe(write_video(tmp_path / "tape.dv", range(10), codec="dvvideo", size=(720, 576))).average_rate == 25.0


@pytest.mark.parametrize("name", ["a.mov", "a.mp4", "a.mkv"])
@pytest.mark.parametrize(("rate", "timecode"), [(Fraction(30000, 1001), "00:59:59;28"), (25, "10:00:00:00")])
def test_a_timecode_is_read(tmp_path: Path, name: str, rate: Fraction, timecode: str) -> None:
    info = probe(write_video(tmp_path / name, range(10), rate=rate, timecode=timecode))
    assert (info.timecode, info.num_frames) == (timecode, 10)


def test_links_are_followed(films: dict[str, Film], tmp_path: Path) -> None:
    link = tmp_path / "a:b link.mp4"
    link.symlink_to(films["h264.mp4"].path)
    linked, direct = probe(link).facts(), probe(films["h264.mp4"].path).facts()
    assert linked == direct | {"path": str(link)}
    assert fingerprint(link) == fingerprint(films["h264.mp4"].path)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(5000)
    (tmp_path / "text.mp4").write_text("no video\n" * 100)
    (tmp_path / "text.txt").write_text("no video\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(noise)
    (tmp_path / "zeros.mp4").write_bytes(bytes(5000))
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n")
    for kind in ("png", "jpeg", "webp", "gif"):
        Image.fromarray(draw(3)).save(tmp_path / f"{kind}.mp4", kind)
    write_audio(tmp_path / "sound.mp4")
    write_cover(tmp_path / "cover.mp4")
    reasons = {
        "text.mp4": "is not a video",
        "text.txt": "",
        "noise.mp4": "",
        "zeros.mp4": "",
        "list.m3u8": "",
        "png.mp4": "is a picture, not a video",
        "jpeg.mp4": "is a picture, not a video",
        "webp.mp4": "is a picture, not a video",
        "gif.mp4": "is a picture, not a video",
        "sound.mp4": "holds no video",
        "cover.mp4": "holds only a cover picture, no video",
    }
    for name, reason in reasons.items():
        with pytest.raises(DecodeError) as caught:
            probe(tmp_path / name)
        assert caught.value.reason == reason or not reason, name
        assert "Errno" not in caught.value.reason


PLAYLISTS = {
    "segment.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "segment.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n",
    "key.ts": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n',
    "concat.mp4": "ffconcat version 1.0\nfile {}\n",
    "dash.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT10S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("segment", ["pipe.ts", "film.ts"])
def test_a_playlist_is_refused_not_opened(films: dict[str, Film], tmp_path: Path, name: str, segment: str) -> None:
    os.mkfifo(tmp_path / "pipe.ts")  # who opens it waits for ever
    (tmp_path / "film.ts").symlink_to(films["h264.ts"].path)
    (tmp_path / name).write_text(PLAYLISTS[name].replace("{}", segment))
    reasons: list[str] = []

    def look() -> None:
        with pytest.raises(DecodeError) as caught:
            probe(tmp_path / name)
        reasons.append(caught.value.reason)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(5)
    assert reasons == ["is a playlist, not a video"]


def test_a_lack_of_memory_is_no_fault_of_the_file(films: dict[str, Film], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "open", Mock(side_effect=av.error.MemoryError(12, "Cannot allocate memory")))
    with pytest.raises(MemoryError):
        probe(films["h264.mp4"].path)


def test_no_option_goes_to_codecs(films: dict[str, Film], monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV before 18 frees such options twice, and crashes a few files later."""
    given: list[str] = []
    open_file = av.open

    def note(file: object, **options: object) -> object:
        given.extend(options)
        return open_file(file, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(av, "open", note)
    probe(films["h264.mp4"].path)
    assert "container_options" in given
    assert "options" not in given


def test_an_unknown_codec_is_named(films: dict[str, Film], tmp_path: Path) -> None:
    for name, codec, unknown in (("h264.mp4", b"avc1", b"avc5"), ("h264.mkv", b"ISO/AVC", b"ISO/XXX")):
        damaged = tmp_path / name
        damaged.write_bytes(films[name].path.read_bytes().replace(codec, unknown))
        with pytest.raises(DecodeError) as caught:
            probe(damaged)
        assert caught.value.reason == "its video codec is unknown"


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    shorter = path.with_stem(f"{path.stem}_{share}")
    shorter.write_bytes(data[: int(len(data) * share)])
    return shorter


def test_a_truncated_file_says_so(films: dict[str, Film], tmp_path: Path) -> None:
    fast = write_video(tmp_path / "fast.mp4", range(NUM_FRAMES), container_options={"movflags": "faststart"})
    info = probe(cut(fast, 0.9))
    assert 2 < info.num_frames < NUM_FRAMES
    assert info.damage == f"{info.num_frames} of 100 frames could be read: truncated"
    with av.open(str(fast)) as container:
        ends = [(packet.pos or 0) + packet.size for packet in container.demux(video=0) if packet.size]
    data = fast.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: ends[79]])  # between two frames
    assert probe(tmp_path / "cut.mp4").damage == "80 of 100 frames could be read: truncated"
    for name in ("h264.mkv", "vp9.webm", "h264_fragments.mp4"):
        info = probe(cut(films[name].path, 0.6))
        assert info.damage == f"only the first {info.num_frames} frames could be read: truncated"
    data = films["mjpeg.avi"].path.read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: data.rfind(b"00dc", 0, len(data) // 2)])  # between two frames
    info = probe(tmp_path / "cut.avi")
    assert info.damage == f"{info.num_frames} of 100 frames could be read: truncated"


@pytest.mark.parametrize("name", ["h264.ts", "h264_open.ts"])
@pytest.mark.parametrize("share", [0.1, 0.33, 0.47, 0.6, 0.77, 0.9])
def test_a_broken_transport_stream_says_so_without_half_frames(films: dict[str, Film], name: str, share: float) -> None:
    info = probe(cut(films[name].path, share))
    assert info.num_frames < 100 * share + 20
    assert info.damage == f"only the first {info.num_frames} frames could be read: truncated"
    frames = read_frames(info.path, indices=range(info.num_frames))
    assert read_numbers(frames.pixels) == np.round(frames.times * 25).tolist()


def test_a_transport_stream_cut_between_packets_is_taken_as_it_is(films: dict[str, Film], tmp_path: Path) -> None:
    (tmp_path / "cut.ts").write_bytes(films["h264.ts"].path.read_bytes()[: 100 * 188])
    assert probe(tmp_path / "cut.ts").damage == ""


def test_gaps_are_noted_and_stills_are_not(tmp_path: Path) -> None:
    slides = probe(write_video(tmp_path / "slides.mkv", range(4), rate=1, pts=[0, 300, 900, 1000]))
    assert slides.damage == ""
    assert slides.unbroken_seconds == slides.shown_seconds
    gaps = probe(write_video(tmp_path / "gaps.mkv", range(5), rate=1, pts=[0, 1, 1000, 1001, 3000]))
    assert gaps.damage == "shows no new frame from 1 s to 1000 s, and in 1 other gap"
    assert gaps.unbroken_seconds == 1
    assert read_numbers(read_frames(gaps.path, indices=range(5)).pixels) == list(range(5))


@pytest.mark.parametrize("name", ["h264.ts", "h264.mkv", "h264.mp4"])
@pytest.mark.parametrize("at", [20, 31])  # a keyframe is moved, and another frame
def test_a_damaged_timestamp_costs_one_frame(films: dict[str, Film], tmp_path: Path, name: str, at: int) -> None:
    path, intact = tmp_path / name, probe(films[name].path)
    with av.open(str(films[name].path)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets: list[Any] = [packet for packet in source.demux(video=0) if packet.size]
        for index, packet in enumerate(packets):
            if index == at:
                lost = int(np.searchsorted(intact.pts, packet.pts))
                packet.pts += round(3600 / packet.time_base)
            packet.stream = stream
            target.mux(packet)
    info = probe(path)
    assert info.damage.endswith("1 frame has a damaged timestamp")  # the muxer wrote the time of it as the end
    assert info.edit_list == intact.edit_list
    np.testing.assert_allclose(info.times, np.delete(intact.times, lost), atol=0.001)
    with open_reader(info, decoder="pyav") as reader:
        images = [frame.read_image() for frame in reader.stream()]
        numbers = [read_number(image) for image in images if image is not None]
        assert numbers == np.delete(range(NUM_FRAMES), lost).tolist()
        assert read_numbers(reader.read([lost, 70]).pixels) == [lost + 1, 71]


def test_a_file_cut_before_its_frames_is_refused(films: dict[str, Film], tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="its index is missing"):
        probe(cut(films["h264.mp4"].path, 0.6))
    fast = write_video(tmp_path / "fast.mp4", range(NUM_FRAMES), container_options={"movflags": "faststart"})
    with pytest.raises(DecodeError, match="no frame could be decoded"):
        probe(cut(fast, (fast.read_bytes().index(b"mdat") + 20) / fast.stat().st_size))
