"""Tests of vidret/present/editors/timeline.py: the frames of test films show their numbers."""

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from tests.present.editors.numbered import (
    FILMS,
    NTSC,
    NUM_FRAMES,
    list_wanted,
    make_spoken_moment,
    plan,
    plan_unread,
    read_shown,
)
from tests.present.moments import ODD_PATHS, assert_refused, make_moment
from tests.video.films import write_audio, write_video
from vidret.present.editors.timeline import Footage, list_remarks, media_url, plan_timeline, read_footage


@pytest.mark.parametrize("name", [name for name, *_ in FILMS])
def test_clips_have_the_frames_of_their_moments(numbered: dict[str, Path], name: str) -> None:
    shown, rng = read_shown(numbered[name]), random.Random(name)
    starts = [rng.uniform(0, shown[-1][1] - 1) for _ in range(40)]
    moments = [make_moment(str(numbered[name]), start, start + rng.uniform(0.1, 1)) for start in starts]
    for clip in plan(moments).clips:
        numbers = [frame_number for frame_number, _ in shown[clip.start : clip.end]]
        assert numbers == list_wanted(shown, clip.moment.start, clip.moment.end)
        assert (clip.marked_start, clip.marked_end) == (clip.start, clip.end)


def test_handles_end_where_the_film_does(numbered: dict[str, Path]) -> None:
    path = str(numbered["pal.mkv"])
    early, middle, late = (make_moment(path, start, start + 1) for start in (0.4, 3.0, 6.6))
    clips = plan([middle, early, late], handles_s=0.8).clips
    spans = [(clip.start, clip.marked_start, clip.marked_end, clip.end) for clip in clips]
    assert spans == [(55, 75, 100, 120), (0, 10, 35, 55), (145, 165, 190, NUM_FRAMES)]


def test_clips_follow_each_other_without_gap(numbered: dict[str, Path]) -> None:
    rng = random.Random(0)
    paths = [str(path) for path in numbered.values()]
    starts = [0.1 * k for k in range(40)]
    moments = [make_moment(rng.choice(paths), start, start + rng.uniform(0.01, 2)) for start in starts]
    for fps in (None, 24, 59.94):
        timeline = plan(moments, fps=fps)
        record = 0
        for clip in timeline.clips:
            assert clip.record_start == record < clip.record_end
            length_s, record_s = (clip.end - clip.start) / clip.rate, (clip.record_end - record) / timeline.rate
            left_s = NUM_FRAMES / clip.rate - clip.start / clip.rate
            assert abs(record_s - length_s) <= 1 / (2 * timeline.rate) or left_s - record_s < 1 / timeline.rate
            assert record_s <= left_s, "the film does not end before its clip"
            record = clip.record_end
        assert timeline.num_frames == record


def test_the_timeline_has_the_rate_of_most_clips(numbered: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    tape, film, pal, slow = (make_moment(str(numbered[n])) for n in ("tape.mov", "film.mp4", "pal.mkv", "slow.mp4"))
    assert plan([tape, tape]).rate == NTSC
    assert caplog.messages == []
    assert plan([film, tape, pal, tape]).rate == NTSC
    fitted = "the timeline has 29.97 fps, and clips of 23.976 fps and 25 fps are fitted to its frames"
    assert caplog.messages == [fitted]
    assert plan([pal, tape]).rate == 25, "the better one in a tie"
    caplog.clear()
    assert plan([slow]).rate == 25, "a rate of editing programs"
    assert caplog.messages == ["the timeline has 25 fps, and clips of 12.5 fps are fitted to its frames"]
    assert plan([tape], fps=24).rate == 24
    assert plan([tape]).drop_frame
    assert not plan([film]).drop_frame


def test_unknown_rates_are_assumed_and_said_once(
    numbered: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = make_moment(str(tmp_path / "gone.mp4"), 10, 12)
    timeline = plan([gone, gone, make_moment(str(numbered["film.mp4"]))])
    assert {clip.rate for clip in timeline.clips} == {timeline.rate} == {Fraction(24000, 1001)}
    assert caplog.messages == [f"{gone.path}: does not exist; the export assumes 23.976 fps"]
    assert plan([gone]).rate == 25
    assert [clip.rate for clip in plan([gone], fps=30).clips] == [30]
    caplog.clear()
    plan([make_moment("https://host/a.mp4?signature=5f")])
    assert caplog.messages == ["https://host/a.mp4: is at a URL, where it is not read; the export assumes 25 fps"]


def test_moments_beyond_the_film_are_cut_and_said(numbered: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    path = str(numbered["pal.mkv"])  # 8 s
    moments = [make_moment(path, 7, 8.02), make_moment(path, 6, 11.5), make_moment(path, 20, 21)]
    timeline = plan(moments, handles_s=1)
    assert [(clip.marked_start, clip.marked_end) for clip in timeline.clips] == [(175, 200), (150, 200), (199, 200)]
    assert all(clip.end == NUM_FRAMES for clip in timeline.clips), "nothing is lost"
    assert caplog.messages == [
        f"{path}: ends at 0:08.0; the clip of 0:06.0 to 0:11.5 ends there",
        f"{path}: ends at 0:08.0; the clip of 0:20.0 to 0:21.0 ends there",
    ]


def test_frames_count_from_the_first_picture_where_sound_begins_earlier(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mp4", range(75), shift=50, audio=True)
    shown = read_shown(path)
    assert shown[0][1] == pytest.approx(2, abs=0.07)
    early, inside = plan([make_moment(str(path), 0.5, 2.4), make_moment(str(path), 3, 4)]).clips
    for clip in (early, inside):
        numbers = [frame_number for frame_number, _ in shown[clip.start : clip.end]]
        assert numbers == list_wanted(shown, clip.moment.start, clip.moment.end)


def test_wrong_handles_and_rates_are_refused() -> None:
    footage = {"/films/a.mp4": Footage(path="/films/a.mp4")}
    for handles_s in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="handles_s must be finite and at least 0"):
            plan_timeline([make_moment()], footage, query="", handles_s=handles_s)
    assert_refused(lambda: plan_unread([make_moment()], fps=23.5), "fps must be a whole number in 1..100")


def test_remarks_say_score_and_words_on_one_line_each() -> None:
    moment = make_spoken_moment("/films/a.mp4", 75.25, 80)
    assert list_remarks(moment) == ["score 0.813", 'said at 1:15.2: "the second coat" <3 & 车']
    assert list_remarks(replace(moment, probability=0.75, evidence=())) == ["75 % likely, score 0.813"]


def test_urls_of_files_are_percent_encoded_and_signatures_are_left_out() -> None:
    assert media_url("/films/My trip #1%.mov") == "file:///films/My%20trip%20%231%25.mov"
    assert media_url("https://host/My film.mp4?signature=5f") == "https://host/My film.mp4"
    for path in ODD_PATHS:
        assert media_url(path).isascii()
        assert "\n" not in media_url(path)


# What is read of films whose making is known


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


def test_what_a_film_does_not_state_is_assumed_and_said(tmp_path: Path) -> None:
    uneven = [k + 3 * (k // 7) for k in range(70)]
    for film, facts in (
        (write_video(tmp_path / "a.mkv", range(200), rate=NTSC), (NTSC, 200, "")),  # in rounded timestamps
        (write_video(tmp_path / "a.mp4", range(1), rate=Fraction(24000, 1001)), (Fraction(24000, 1001), 1, "")),
        (
            write_video(tmp_path / "b.mkv", range(70), pts=uneven, rate=50),  # 7 in 10 of 50 a second
            (30, round(97 / 50 * 30), "its frame rate varies; the export assumes 30 fps"),
        ),
        (write_video(tmp_path / "a.h264", range(20)), (25, 20, "has no timestamps; the export assumes 25 fps")),
        (
            write_video(tmp_path / "d.mkv", range(2), pts=[0, 90000], rate=25),  # frames an hour apart
            (Fraction(24000, 1001), 2, "its frame rate is unknown; the export assumes 23.976 fps"),
        ),
        (
            write_video(tmp_path / "c.mkv", range(20), timecode="00:00:00:29"),
            (25, 20, "its timecode 00:00:00:29 is not one of 25 fps: frames count from 0"),
        ),
    ):
        footage = read_footage(str(film))
        assert (footage.rate, footage.num_frames, footage.note) == facts
        assert (footage.first_frame, footage.has_timecode) == (0, False)


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
