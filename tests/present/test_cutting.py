"""Tests of vidret/present/cutting.py: the frames of test videos show their numbers, which the clips must contain."""

import importlib
import os
import shutil
import socket
import subprocess
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.present.moments import assert_refused, make_moment, read_timed
from tests.video.films import draw, write_audio, write_sound, write_video
from vidret.errors import VidretError
from vidret.present import cutting
from vidret.present.cutting import CutSpan, cut_moments, find_copies
from vidret.present.ffmpeg import find_ffmpeg
from vidret.video.container import ONE_THREAD
from vidret.video.files import LocalFile
from vidret.video.probe import probe
from vidret.video.rendering import is_combed

pytestmark = pytest.mark.usefixtures("ffmpeg")

NUM_FRAMES = 250  # at 25 frames per second; numbers fit in eight bits


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos whose frames show their numbers."""
    folder = tmp_path_factory.mktemp("films")
    reordered = {"g": "30", "bf": "3", "preset": "ultrafast"}
    opened = reordered | {"x264-params": "open-gop=1:scenecut=0"}
    for name in ("plain.mp4", "plain.mkv"):
        write_video(folder / name, range(NUM_FRAMES), options=reordered, audio=True)
    write_video(folder / "odd.mkv", range(NUM_FRAMES), options=reordered, size=(67, 49), pix_fmt="yuv444p")
    write_video(folder / "open.mp4", range(NUM_FRAMES), options=opened)
    write_video(folder / "coarse.avi", range(NUM_FRAMES), codec="mjpeg", pix_fmt="yuvj420p")  # a tick is a frame
    uneven = [k + 3 * (k // 7) for k in range(NUM_FRAMES)]
    write_video(folder / "uneven.mkv", range(NUM_FRAMES), options=reordered, pts=uneven)
    return folder


def read_clip(path: Path) -> list[int]:
    return [frame_number for frame_number, _ in read_timed(path)]


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["plain.mp4", "odd.mkv", "open.mp4", "coarse.avi"])
def test_a_clip_has_exactly_its_frames(name: str, films: Path, tmp_path: Path) -> None:
    cuts = [(0, 12, 0), (37, 58, -0.5), (158, 171, 0), (158, 171, -0.5), (240, 250, -0.25)]
    moments = [make_moment(str(films / name), (first + off) / 25, (last + off) / 25) for first, last, off in cuts]
    for clip, moment, (first, last, _) in zip(cut_moments(moments, tmp_path), moments, cuts, strict=True):
        found = read_timed(clip)
        assert [frame_number for frame_number, _ in found] == list(range(first, last))
        shown = [frame_number / 25 - moment.start for frame_number, _ in found]
        assert [time for _, time in found] == pytest.approx(shown, abs=1e-3)
        with av.open(str(clip)) as container:
            assert [stream.type for stream in container.streams] == ["video"] + ["audio"] * (name == "plain.mp4")
            lengths = [float((stream.duration or 0) * (stream.time_base or 0)) for stream in container.streams]
            packets = [float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None]
        assert lengths == pytest.approx([moment.end - moment.start] * len(lengths), abs=0.08)
        assert min(packets) > -0.2  # no hidden packets from before the clip


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("audio", [False, True])
def test_a_clip_of_a_video_that_starts_late_has_exactly_its_frames(suffix: str, tmp_path: Path, *, audio: bool) -> None:
    check_frames(
        write_video(tmp_path / f"late.{suffix}", range(200), options={"g": "30"}, shift=125, audio=audio), 37, 158
    )


def check_frames(film: Path, first: int, last: int) -> None:
    """Check that the clip between two frames of a film has exactly these."""
    times = probe(film).times
    (clip,) = cut_moments([make_moment(str(film), times[first], times[last])], film.parent / "out")
    assert read_clip(clip) == list(range(first, last))


def test_a_frame_that_ffmpeg_rounds_down_is_kept(tmp_path: Path) -> None:
    # The container starts at 4.9360625 s, which is not a whole number of ticks of the video stream.
    check_frames(write_video(tmp_path / "film.mp4", range(60), shift=125, audio=True, sound_start=80_001), 33, 50)


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_a_clip_of_joined_recordings_has_exactly_its_frames(tmp_path: Path, suffix: str) -> None:
    how: dict[str, Any] = {"rate": 25, "codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}
    numbers = ([first + k // 5 for k in range(200)] for first in (0, 40))
    parts = [write_video(tmp_path / f"{frame_numbers[0]}{suffix}", frame_numbers, **how) for frame_numbers in numbers]
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    (clip,) = cut_moments([make_moment(str(joined), 12, 13)], tmp_path / "out")
    assert read_clip(clip) == [60 + k // 5 for k in range(25)]


def test_a_clip_of_joined_recordings_with_sound_has_nearly_its_frames(ffmpeg: str, tmp_path: Path) -> None:
    """The last sound of the first recording is demultiplexed after the first pictures of the second one."""
    film, part, joined = tmp_path / "film.mkv", tmp_path / "part.ts", tmp_path / "joined.ts"
    write_video(film, range(200), audio=True)
    subprocess.run([ffmpeg, "-i", film, "-c:v", "copy", "-c:a", "ac3", part], check=True, capture_output=True)
    joined.write_bytes(part.read_bytes() * 2)
    (clip,) = cut_moments([make_moment(str(joined), 9, 10)], tmp_path / "out")
    shown = read_clip(clip)
    assert shown == list(range(shown[0], shown[0] + len(shown)))
    assert (shown[0], shown[-1]) == pytest.approx((25, 49), abs=2)


def test_a_clip_after_a_gap_in_reception_has_exactly_its_frames(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{shift}.ts", range(50), shift=shift) for shift in (0, 500)]
    film = tmp_path / "film.ts"
    film.write_bytes(b"".join(part.read_bytes() for part in parts))
    (clip,) = cut_moments([make_moment(str(film), *probe(film).times[[60, 85]])], tmp_path / "out")
    assert read_clip(clip) == list(range(10, 35))


@pytest.mark.parametrize("suffix", [".ts", ".mpg", ".m2v"])
def test_a_clip_far_from_the_only_keyframe_has_exactly_its_frames(tmp_path: Path, suffix: str) -> None:
    options = {"g": "600", "bf": "2", "sc_threshold": "1000000000"}
    numbers = [k // 2 for k in range(300)]
    film = write_video(tmp_path / f"film{suffix}", numbers, codec="mpeg2video", options=options)
    (clip,) = cut_moments([make_moment(str(film), 11, 11.5)], tmp_path / "out")
    assert read_clip(clip) == numbers[275:288]


def test_clips_near_the_start_of_an_flv_have_exactly_their_frames(tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.flv", range(150), options={"g": "30", "bf": "2"})
    moments = [make_moment(str(film), 5.02, 5.6), make_moment(str(film), 0, 1.2)]
    clips = cut_moments(moments, tmp_path / "out", copies=find_copies(moments))
    assert [read_clip(clip) for clip in clips] == [list(range(126, 140)), list(range(30))]


@pytest.mark.parametrize("rate", ["24000/1001", "30000/1001", "60000/1001", "120000/1001"])
def test_frames_of_a_clip_are_exactly_as_far_apart_as_in_the_video(rate: str, tmp_path: Path) -> None:
    """An editing program takes uneven frames for a variable rate."""
    film = write_video(tmp_path / "film.mov", range(60), rate=Fraction(rate))
    (clip,) = cut_moments([make_moment(str(film), *probe(film).times[[3, 50]])], tmp_path / "out")
    with av.open(str(clip)) as container:
        stream: Any = container.streams.video[0]
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
        assert times == [frame_number / Fraction(rate) for frame_number in range(47)]
        assert stream.average_rate == Fraction(rate)


def test_variable_frame_intervals_are_kept(films: Path, tmp_path: Path) -> None:
    times = [(k + 3 * (k // 7)) / 25 for k in range(NUM_FRAMES)]
    (clip,) = cut_moments([make_moment(str(films / "uneven.mkv"), times[60], times[90])], tmp_path)
    found = read_timed(clip)
    assert [frame_number for frame_number, _ in found] == list(range(60, 90))
    assert [time for _, time in found] == pytest.approx([time - times[60] for time in times[60:90]], abs=1e-3)


def test_a_clip_of_slides_shows_from_its_start_what_stands_there(tmp_path: Path) -> None:
    film = tmp_path / "slides.mkv"
    with av.open(str(film), "w") as container:
        picture: Any = container.add_stream("libx264", rate=25)
        sound: Any = container.add_stream("aac", rate=16000, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for frame_number, pts in enumerate((0, 200, 400, 500)):
            frame = av.VideoFrame.from_ndarray(draw(frame_number), format="rgb24")
            frame.pts = pts
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        write_sound(container, sound, seconds=20)
    moments = [make_moment(str(film), *span) for span in ((9, 10), (17, 17.2), (6, 9))]
    shown = [read_clip(clip) for clip in cut_moments(moments, tmp_path / "out")]
    assert shown == [[1] * 60, [2] * 12, [0] * 120 + [1] * 60]


def test_video_and_audio_stay_in_sync(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "flash.mp4"), "w") as container:  # a white frame of a second, a beep at its start
        picture: Any = container.add_stream("libx264", rate=1)
        sound: Any = container.add_stream("aac", rate=16000, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for second in range(10):
            grey = np.full((48, 64, 3), 255 if second == 7 else 0, np.uint8)
            beep = np.full((1, 16000), 0, np.float32)
            beep[0, :800] = np.sin(np.arange(800)) if second == 7 else 0
            container.mux(picture.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            samples = av.AudioFrame.from_ndarray(beep, format="fltp", layout="mono")
            samples.sample_rate = 16000
            container.mux(sound.encode(samples))
        container.mux([*picture.encode(), *sound.encode()])
    (clip,) = cut_moments([make_moment(str(tmp_path / "flash.mp4"), 5.6, 8.5)], tmp_path)
    with av.open(str(clip)) as container:
        white = [frame.time for frame in container.decode(video=0) if frame.to_ndarray(format="gray").mean() > 128]
        container.seek(0)
        loud = [frame.time for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.3]
    assert white == pytest.approx([1.4], abs=1e-3)
    assert loud[0] == pytest.approx(1.4, abs=0.07)  # an audio packet lasts 0.064 s


NAMES = ["-i.mp4", "-y", "http:x.mp4", "concat:a|b.mp4", "%03d.mp4", 'it\'s, "q" [1];\\.mp4', " \u6620\u753b\n.mp4"]
NAMES += ["*?.mp4", os.fsdecode(b"bad\xff.mp4"), "$(touch x).mp4", "x" * 200 + ".mp4", "pipe:0"]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_can_be_cut(name: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(films / "plain.mp4", tmp_path / name)
    (clip,) = cut_moments([make_moment(name, 1, 1.5)], Path("-clips"))
    assert clip.parent == Path("-clips")
    assert all(letter.isalnum() or letter in "-._" for letter in clip.name)
    assert read_clip(tmp_path / clip) == list(range(25, 38))
    assert list_names(tmp_path) == sorted(["-clips", name])


def test_clip_names_sort_by_rank_and_are_unique() -> None:
    moments = [
        make_moment("/films/My trip.mov", 75.25, 80),
        make_moment("/other/My trip.mov", 75.25, 80),
        make_moment("/f/.a.b.c"),
    ]
    names = cutting.name_clips(moments * 40)
    assert names[:3] == ["001_My_trip_75.25-80.00.mp4", "002_My_trip_75.25-80.00.mp4", "003_.a.b_1.00-2.00.mp4"]
    assert names == sorted(set(names))
    marked = "nai\u0308ve_\u0939\u093f\u0928\u094d\u0926\u0940"  # with marks that are no letters of their own
    assert cutting.name_clips([make_moment(f"/f/{marked}.mp4")]) == [f"01_{marked}_1.00-2.00.mp4"]
    longest = cutting.name_clips([make_moment("/f/" + "\U0001d4d0" * 80 + ".mp4", 99999.5, 99999.9)])[0]
    assert len(os.fsencode(longest + ".part")) < 255


def test_existing_files_are_kept_without_overwrite(films: Path, tmp_path: Path) -> None:
    moments = [make_moment(str(films / "plain.mp4"), 1, 1.5), make_moment(str(films / "plain.mp4"), 3, 3.5)]
    existing = tmp_path / "02_plain_3.00-3.50.mp4"
    existing.write_text("a person's own")
    assert_refused(lambda: cut_moments(moments, tmp_path), f"{existing}: exists already")
    assert list_names(tmp_path) == [existing.name]
    assert existing.read_text() == "a person's own"
    assert cut_moments(moments, tmp_path, overwrite=True)[1] == existing
    assert read_clip(existing) == list(range(75, 88))


def test_progress_is_reported_after_each_clip(films: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int, int]] = []
    moments = [make_moment(str(films / "plain.mp4"), start, start + 0.2) for start in (1, 2, 3)]
    clips = cut_moments(
        moments, tmp_path / "new" / "er", on_progress=lambda done, num: reports.append((done, num, len(seen(tmp_path))))
    )
    assert reports == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
    assert clips == seen(tmp_path)
    assert cut_moments([], tmp_path / "none") == []


def seen(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("[!.]*.mp4") if ".cutting-" not in str(path))


def test_uncuttable_moments_are_refused_in_one_sentence(films: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "out", str(films / "plain.mp4")
    (tmp_path / "text.mp4").write_text("no video at all")
    write_audio(tmp_path / "sound.mp4")
    good = make_moment(plain, 1, 1.2)
    cases = [
        (make_moment(str(tmp_path / "gone.mp4")), f"{tmp_path}/gone.mp4: does not exist"),
        (make_moment(str(tmp_path / "text.mp4")), f"{tmp_path}/text.mp4: ffmpeg cannot cut 0:01.0 to 0:02.0: "),
        (make_moment(str(tmp_path / "sound.mp4")), f"{tmp_path}/sound.mp4: ffmpeg cannot cut 0:01.0 to 0:02.0: "),
        (make_moment(plain, 50, 60), f"{plain}: has no frame from 0:50.0 to 1:00.0"),
    ]
    for case_index, (bad, message) in enumerate(cases):
        assert_refused(partial(cut_moments, [good, bad], out / str(case_index)), message)
        assert list_names(out / str(case_index)) == ["01_plain_1.00-1.20.mp4"]  # complete, and nothing of the other
    (tmp_path / "file").write_text("")
    assert_refused(lambda: cut_moments([good], tmp_path / "file"), f"{tmp_path}/file: ")
    remote = make_moment("https://host/My film.mp4?signature=5f")
    message = "https://host/My film.mp4: only local files can be cut"
    assert_refused(lambda: cut_moments([good, remote], tmp_path / "clips"), message)
    assert not (tmp_path / "clips").exists()


def test_the_ffmpeg_of_the_package_is_preferred_or_the_lack_of_any_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert find_ffmpeg() == importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    monkeypatch.setattr(importlib, "import_module", missing)
    assert find_ffmpeg() == "/usr/bin/ffmpeg"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    rule = "needs ffmpeg 5.1 or later: install it, or the Python"
    assert_refused(lambda: cut_moments([make_moment()], tmp_path / "out"), rule)
    assert not (tmp_path / "out").exists()


def test_ffmpeg_gets_absolute_paths_and_exact_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    span = CutSpan.of_moment(make_moment("-i.mp4", 50 / 3, 18), {})
    before, after = cutting.ffmpeg_arguments(span, Path("-out.mp4"))
    assert after[-1] == f"file:{tmp_path}/-out.mp4"
    assert before[before.index("-ss") + 1] == "11000000us"
    assert "trim=start=5666166us:end=6999500us" in after[after.index("-vf") + 1]
    assert "-ss" not in CutSpan.of_moment(make_moment(start=9, end=11), {}).seek


def test_an_interrupt_leaves_no_files(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen.wait

    def interrupt(process: "subprocess.Popen[str]", timeout: float | None = None) -> int:
        code = real(process, timeout)
        if timeout is not None:  # it is not the wait for a process that was killed
            raise KeyboardInterrupt
        return code

    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut_moments([make_moment(str(films / "plain.mp4"))], tmp_path / "out")
    assert list_names(tmp_path / "out") == []


def test_a_clip_of_interlaced_video_does_not_comb(tmp_path: Path) -> None:
    film = tmp_path / "camera.mp4"
    with av.open(str(film), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"x264-params": "tff=1", "crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for frame_index in range(10):
            picture = np.full((96, 96, 3), 48, np.uint8)
            for field in (0, 1):  # a bar that moves on between the fields
                picture[field::2, 16 * frame_index % 64 + 8 * field :][:, :16] = 208
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (clip,) = cut_moments([make_moment(str(film), 0.12, 0.32)], tmp_path / "out")
    with av.open(str(clip)) as container:
        shown = [frame.to_ndarray(format="gray", **ONE_THREAD) for frame in container.decode(video=0)]
    assert [is_combed(picture) for picture in shown] == [False] * 5


@pytest.mark.parametrize("start", [1, 1.1])  # copied, or encoded
def test_a_clip_has_no_timecode_or_chapter_of_its_video(ffmpeg: str, tmp_path: Path, start: float) -> None:
    camera, chapters, film = tmp_path / "camera.mov", tmp_path / "chapters.txt", tmp_path / "film.mov"
    write_video(camera, range(100), options={"g": "25"}, timecode="01:00:00:00")
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=4\ntitle=One\n")
    subprocess.run(
        [ffmpeg, "-i", camera, "-i", chapters, "-map_chapters", "1", "-c", "copy", film],
        check=True,
        capture_output=True,
    )
    moments = [make_moment(str(film), start, 2)]
    (clip,) = cut_moments(moments, tmp_path / "out", copies=find_copies(moments))
    listings = [subprocess.run([ffmpeg, "-i", path], capture_output=True, check=False).stderr for path in (film, clip)]
    assert [b"Chapters:" in listing for listing in listings] == [True, False]
    assert [probe(path).timecode for path in (film, clip)] == ["01:00:00:00", ""]


def test_sound_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    film = tmp_path / "spatial.mov"
    with av.open(str(film), "w") as container:
        picture: Any = container.add_stream("libx264", rate=25)
        sounds: list[Any] = [container.add_stream(name, rate=16000, layout="mono") for name in ("pcm_s16le", "aac")]
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for frame_number in range(50):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(draw(frame_number), format="rgb24")))
        container.mux(picture.encode(None))
        for sound in sounds:
            write_sound(container, sound, seconds=2)
    film.write_bytes(film.read_bytes().replace(b"sowt", b"apac"))
    (clip,) = cut_moments([make_moment(str(film), 0.4, 1)], tmp_path / "out")
    assert read_clip(clip) == list(range(10, 25))
    with av.open(str(clip)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


def test_the_open_file_is_cut_whatever_lies_at_its_path_by_then(ffmpeg: str, films: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    shutil.copy(films / "plain.mp4", film)
    with LocalFile(str(film)) as file:
        film.unlink()
        film.symlink_to(films / "odd.mkv")
        cutting.cut_moment(make_moment(str(film), 1, 1.2), file, tmp_path / "clip.mp4", ffmpeg)
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        assert [stream.type for stream in clip.streams] == ["video", "audio"], "the other one has no sound"


def test_a_file_that_names_another_is_refused(films: Path, tmp_path: Path) -> None:
    private = films / "plain.mp4"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        for name, text in write_playlists(private, f"http://127.0.0.1:{server.getsockname()[1]}/film.mp4").items():
            (tmp_path / "film.mp4").write_text(text)
            with pytest.raises(VidretError, match=r"film\.mp4: ffmpeg cannot cut"):
                cut_moments([make_moment(str(tmp_path / "film.mp4"))], tmp_path / name)
            assert list_names(tmp_path / name) == []
        with pytest.raises(BlockingIOError):
            server.accept()


def write_playlists(private: Path, url: str) -> dict[str, str]:
    """Return files of several formats that name a local film or one at a URL."""
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT10S" minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period duration="PT10S"><AdaptationSet mimeType="video/mp4" contentType="video"><Representation id="1" '
        'bandwidth="1000" width="64" height="64"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    formats = {"dash": dash, "hls": hls, "concat": "ffconcat version 1.0\nfile '{}'\n"}
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45004 RTP/AVP 96\n"
    playlists = {"sdp": f"{sdp}a=rtpmap:96 H264/90000\n"}
    for name, text in formats.items():
        playlists |= {f"{name}-path": text.format(private), f"{name}-url": text.format(url)}
    return playlists


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv"])
def test_pictures_are_copied_where_that_is_exact(films: Path, tmp_path: Path, name: str) -> None:
    """Keyframes are at every 30th frame; frames are stored in another order, so that an end must be before one too."""
    spans = [(30, 90), (37, 60), (210, 250), (60, 75)]
    start = probe(films / name).start
    plain = [make_moment(str(films / name), start + first / 25, start + last / 25) for first, last in spans]
    copies = find_copies(plain)
    assert [frames.count if frames else None for frames in copies] == [60, None, 40, None]
    assert find_copies([make_moment(str(films / "open.mp4"), 1.2, 3.6)]) == [None], "groups of pictures are open"
    for clip, (first, last) in zip(cut_moments(plain, tmp_path, copies=copies), spans, strict=True):
        found = read_timed(clip)
        assert [frame_number for frame_number, _ in found] == list(range(first, last))
        assert [time for _, time in found] == pytest.approx([k / 25 for k in range(last - first)], abs=1e-3)
        with av.open(str(clip)) as container:
            lengths = [float((stream.duration or 0) * (stream.time_base or 0)) for stream in container.streams]
        assert lengths == pytest.approx([(last - first) / 25] * 2, abs=0.08)
    copy_path = min(tmp_path.glob("01_plain_*.mp4"))
    with av.open(str(films / name)) as source, av.open(str(copy_path)) as copy:
        wanted = [bytes(packet) for packet in source.demux(video=0) if packet.size][30:90]
        assert [bytes(packet) for packet in copy.demux(video=0) if packet.size] == wanted
