"""Tests of vidret/present/film.py: the frames of test videos show their numbers, which the film must contain."""

import subprocess
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest

from tests.present.moments import assert_refused, make_moment, read_timed
from tests.video.films import write_video
from vidret.present.cutting import find_copies
from vidret.present.film import cut_film
from vidret.video.probe import probe
from vidret.video.reader import read_frames

pytestmark = pytest.mark.usefixtures("ffmpeg")


def read_film(path: Path) -> tuple[list[int], dict[str, float]]:
    """Return the numbers of the frames, and the lengths of the streams by kind."""
    with av.open(str(path)) as container:
        lengths = {
            str(stream.type): float((stream.duration or 0) * (stream.time_base or 0)) for stream in container.streams
        }
    frames = read_timed(path)
    assert [time for _, time in frames] == pytest.approx([k / 25 for k in range(len(frames))], abs=1e-3)
    return [frame_number for frame_number, _ in frames], lengths


def test_one_video_is_copied_and_others_are_fitted_to_the_first(tmp_path: Path) -> None:
    options = {"g": "30", "bf": "3", "preset": "ultrafast"}
    sounding = str(write_video(tmp_path / "a.mp4", range(250), options=options, audio=True))
    silent = str(write_video(tmp_path / "b.mkv", range(100), options=options, size=(120, 90)))
    copied = [make_moment(sounding, 8.4, 10), make_moment(sounding, 1.2, 3.6)]
    folder = tmp_path / "Ann's \udce4"  # not valid text
    assert cut_film(copied, folder / "copied.mp4", copies=find_copies(copied)) is True
    numbers, lengths = read_film(folder / "copied.mp4")
    assert numbers == [*range(210, 250), *range(30, 90)]
    assert lengths == pytest.approx({"video": 4, "audio": 4}, abs=0.08)
    mixed = [*copied, make_moment(silent, 1, 2), make_moment(sounding, 1.48, 2.4)]
    seen = list[tuple[int, int]]()
    made = cut_film(mixed, tmp_path / "mixed.mp4", copies=find_copies(mixed), on_progress=lambda *at: seen.append(at))
    numbers, lengths = read_film(tmp_path / "mixed.mp4")
    assert (made, seen) == (False, [(1, 4), (2, 4), (3, 4), (4, 4)])
    assert numbers == [*range(210, 250), *range(30, 90), *range(25, 50), *range(37, 60)]
    assert lengths == pytest.approx({"video": 5.92, "audio": 5.92}, abs=0.08)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, "a.mp4", "b.mkv", "mixed.mp4"]
    assert [path.name for path in folder.iterdir()] == ["copied.mp4"]


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    film = str(write_video(tmp_path / "wide.mkv", range(50), pixel_ratio=Fraction(2)))
    cut_film([make_moment(film, 0.4, 1)], tmp_path / "film.mp4")
    assert read_film(tmp_path / "film.mp4")[0] == list(range(10, 25))


SDR = "color_primaries=bt709:color_trc=bt709:colorspace=bt709:range=tv"
HDR = "color_primaries=bt2020:colorspace=bt2020nc:range=tv,format=yuv420p10le"


def test_videos_with_different_colours_keep_them(ffmpeg: str, tmp_path: Path) -> None:
    """A film has one description of its colours, so videos of a high dynamic range, for example, are converted."""
    kinds = {
        "plain": "format=yuv420p",
        "hlg": f"setparams={HDR},setparams=color_trc=arib-std-b67",
        "high": "scale=1280:960,format=yuv420p",
        "pq": f"setparams={HDR},setparams=color_trc=smpte2084",
        "full": f"scale=out_range=pc,format=yuvj420p,setparams={SDR.replace('tv', 'pc')}",
        "tagged": f"format=yuv420p,setparams={SDR}",
    }
    sides = "geq=r='if(lt(X,W/2),180,40)':g='if(lt(X,W/2),70,120)':b='if(lt(X,W/2),50,150)'"
    for name, filters in kinds.items():
        source = ["-f", "lavfi", "-i", "color=s=64x48:d=0.4", "-vf", f"format=gbrp,{sides},{filters}"]
        subprocess.run([ffmpeg, "-v", "error", *source, "-c:v", "libx264", tmp_path / f"{name}.mkv"], check=True)
    paths, film = [str(tmp_path / f"{name}.mkv") for name in kinds], tmp_path / "Ann's, [1]: a;b" / "film.mp4"
    cut_film([make_moment(path, 0, 0.4) for path in paths], film)
    shown = [read_frames(str(film), indices=[10 * k + 5]).pixels[0] for k in range(len(paths))]
    expected = [read_frames(path, indices=[5]).pixels[0] for path in paths]
    for name, *pictures in zip(kinds, shown, expected, strict=True):
        colours = [picture[len(picture) // 2, [picture.shape[1] // 4, -picture.shape[1] // 4]] for picture in pictures]
        np.testing.assert_allclose(colours[0].astype(int), colours[1], atol=5, err_msg=name)
    with av.open(str(film)) as container:
        described = {(frame.colorspace, frame.color_range) for frame in container.decode(video=0)}
        assert (described, container.streams.video[0].codec_context.color_trc) == ({(1, 1)}, 1)


def test_slides_are_shown_while_they_stand(tmp_path: Path) -> None:
    even, slides = str(write_video(tmp_path / "even.mp4", range(50))), tmp_path / "slides.mkv"
    write_video(slides, range(4), pts=[0, 200, 400, 500])
    moments = [make_moment(even, 0, 1), make_moment(str(slides), 6, 9), make_moment(str(slides), 17, 18)]
    cut_film(moments, tmp_path / "film.mp4")
    assert read_film(tmp_path / "film.mp4")[0] == [*range(25), *[0] * 50, *[1] * 25, *[2] * 25]


@pytest.mark.parametrize("start", [0, 0.1])  # copied, or encoded
def test_the_timecode_of_a_camera_is_not_that_of_a_film(tmp_path: Path, start: float) -> None:
    film = str(write_video(tmp_path / "camera.mov", range(50), timecode="01:00:00:00"))
    moments = [make_moment(film, start, 1)]
    cut_film(moments, tmp_path / "film.mp4", copies=find_copies(moments))
    assert probe(tmp_path / "film.mp4").timecode == ""


def test_films_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    film = str(write_video(tmp_path / "a.mp4", range(50)))
    moment = make_moment(film, 0, 1)
    for moments, out, message in (
        ([], tmp_path / "b.mp4", "a film must have a moment, got none"),
        ([moment], tmp_path / "b.mkv", "a film must end in .mp4, got"),
        ([moment], Path(film), "exists already"),
        ([make_moment("s3://a/b.mp4")], tmp_path / "b.mp4", "only local files can be cut"),
        ([make_moment(str(tmp_path / "c.mp4"))], tmp_path / "b.mp4", "does not exist"),
    ):
        assert_refused(partial(cut_film, moments, out), message)
