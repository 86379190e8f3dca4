"""Tests of vidret/present/editors/timeline.py: facts of films whose making is known."""

from fractions import Fraction
from pathlib import Path

import pytest

from tests.present.editors.numbered import FILMS, NUM_FRAMES
from tests.video.films import write_audio, write_video
from vidret.present.editors.timeline import read_footage


@pytest.mark.parametrize(("name", "rate", "timecode", "audio"), FILMS)
def test_rates_lengths_and_timecodes_are_exact(
    numbered: dict[str, Path], name: str, rate: Fraction, timecode: str, *, audio: bool
) -> None:
    footage = read_footage(str(numbered[name]))
    assert (footage.rate, footage.num_frames, footage.note) == (rate, NUM_FRAMES, "")
    first_frames = {"00:59:58;10": 107892 - 50, "01:00:00:00": 86400, "": 0}
    assert (footage.first_frame, footage.has_timecode) == (first_frames[timecode], bool(timecode))
    assert footage.drop_frame == (";" in timecode)
    assert (footage.width, footage.height, footage.has_audio) == (64, 48, audio)


def test_rounded_timestamps_do_not_change_the_rate(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    footage = read_footage(str(write_video(tmp_path / "a.mkv", range(200), rate=rate)))
    assert (footage.rate, footage.note) == (rate, "")


def test_a_varying_rate_is_assumed_and_said(tmp_path: Path) -> None:
    uneven = [k + 3 * (k // 7) for k in range(70)]
    footage = read_footage(str(write_video(tmp_path / "a.mkv", range(70), pts=uneven, rate=50)))
    assert footage.note == "its frame rate varies; the export assumes 30 fps"  # 7 in 10 of 50 a second
    assert (footage.rate, footage.num_frames) == (Fraction(30), round(97 / 50 * 30))


def test_a_stream_without_timestamps_has_an_assumed_rate(tmp_path: Path) -> None:
    footage = read_footage(str(write_video(tmp_path / "a.h264", range(20))))
    assert (footage.rate, footage.num_frames) == (Fraction(25), 20)
    assert footage.note == "has no timestamps; the export assumes 25 fps"


def test_a_film_of_one_frame_has_the_rate_that_it_states(tmp_path: Path) -> None:
    footage = read_footage(str(write_video(tmp_path / "a.mp4", range(1), rate=Fraction(24000, 1001))))
    assert (footage.rate, footage.num_frames, footage.note) == (Fraction(24000, 1001), 1, "")


def test_an_impossible_timecode_is_ignored_and_said(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", range(20), timecode="00:00:00:29")
    footage = read_footage(str(path))
    assert (footage.first_frame, footage.has_timecode) == (0, False)
    assert footage.note == "its timecode 00:00:00:29 is not one of 25 fps: frames count from 0"


def test_what_cannot_be_read_has_no_facts_but_a_reason(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for path, reason in (
        (tmp_path / "gone.mp4", "does not exist"),
        (tmp_path / "text.mp4", "is not a video"),
        (write_audio(tmp_path / "sound.mp4"), "holds no video"),
    ):
        footage = read_footage(str(path))
        assert (footage.rate, footage.num_frames) == (None, None)
        assert footage.note == reason
    assert read_footage("https://host/a.mp4").note == "is at a URL, where it is not read"
