"""Tests of vidret/present/editors/edl.py: lists are read back by OpenTimelineIO, and their source times by ffmpeg."""

import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.present.editors.numbered import NTSC, make_spoken_moment, plan, plan_unread
from tests.present.moments import ODD_PATHS, assert_refused, make_moment
from vidret.present.editors.edl import to_edl, to_markers
from vidret.present.editors.timecode import parse_timecode
from vidret.types import Moment


def read_events(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line[:3].isdigit()]


def test_a_list_matches_a_handwritten_one() -> None:
    moments = [
        make_moment("/films/My trip.mov", 75.25, 80.0, 0.8126),
        make_moment("/films/b.mp4", 3599.98, 3600.5, 0.5),
        replace(make_moment("/films/My trip.mov", 0.0, 0.01, 0.25), weak=True, probability=0.1),
    ]
    assert to_edl(plan_unread(moments, query="red car")) == (
        "TITLE: red car\n"
        "FCM: NON-DROP FRAME\n"
        "\n"
        "001  MYTRIP   V     C        00:01:15:06 00:01:20:00 00:00:00:00 00:00:04:19\n"
        "* FROM CLIP NAME: My trip.mov\n"
        "* LOC: 00:00:00:00 GREEN   red car\n"
        "* COMMENT: SCORE 0.813\n"
        "002  B        V     C        01:00:00:00 01:00:00:13 00:00:04:19 00:00:05:07\n"
        "* FROM CLIP NAME: b.mp4\n"
        "* LOC: 00:00:04:19 GREEN   red car\n"
        "* COMMENT: SCORE 0.500\n"
        "003  MYTRIP   V     C        00:00:00:00 00:00:00:01 00:00:05:07 00:00:05:08\n"
        "* FROM CLIP NAME: My trip.mov\n"
        "* LOC: 00:00:05:07 YELLOW  red car\n"
        "* COMMENT: 10 % UNLIKELY, SCORE 0.250\n"
    )


def test_drop_frame_lists_say_so_and_carry_words() -> None:
    text = to_edl(plan_unread([make_spoken_moment("/films/a.mp4", 60.06, 120.12)], fps=29.97, has_audio=True))
    assert text.splitlines()[1:] == [
        "FCM: DROP FRAME",
        "",
        "001  A        B     C        00:01:00;02 00:02:00;04 00:00:00;00 00:01:00;02",
        "* FROM CLIP NAME: a.mp4",
        "* LOC: 00:00:00;00 GREEN   second coat",
        "* COMMENT: SCORE 0.813",
        '* COMMENT: said at 1:00.0: "the second coat" <3 & 车',
    ]


def test_locators_mark_the_moment_inside_its_handles(numbered: dict[str, Path]) -> None:
    moments = [make_moment(str(numbered["pal.mkv"]), 3, 4)] * 2
    text = to_edl(plan(moments, handles_s=0.8))
    assert [event[4:] for event in read_events(text)] == [
        ["00:00:02:05", "00:00:04:20", "00:00:00:00", "00:00:02:15"],
        ["00:00:02:05", "00:00:04:20", "00:00:02:15", "00:00:05:05"],
    ]
    assert [line.split()[2] for line in text.splitlines() if "LOC" in line] == ["00:00:00:20", "00:00:03:10"]


@pytest.mark.parametrize(
    ("fps", "exact"), [(1, Fraction(1)), (23.976, Fraction(24000, 1001)), (25, Fraction(25)), (29.97, NTSC), (100, 100)]
)
def test_times_are_exact_and_the_record_is_contiguous(fps: float, exact: Fraction) -> None:
    rng = random.Random(0)
    starts = [rng.uniform(0, 10000) for _ in range(200)]
    moments = [make_moment(start=start, end=start + rng.uniform(0.001, 200)) for start in starts]
    record = 0
    for event, moment in zip(read_events(to_edl(plan_unread(moments, fps=fps))), moments, strict=True):
        start, end, record_start, record_end = (parse_timecode(code, Fraction(exact))[0] for code in event[4:])
        assert abs(start / exact - Fraction(moment.start)) <= 1 / (2 * exact)
        assert end == start + 1 or abs(end / exact - Fraction(moment.end)) <= 1 / (2 * exact)
        assert end > start
        assert record_start == record
        assert record_end - record_start == end - start
        record = record_end


def test_opentimelineio_reads_the_list(numbered: dict[str, Path]) -> None:
    otio = pytest.importorskip("opentimelineio")
    paths = [str(path) for path in numbered.values()]
    moments = [make_spoken_moment(path, 1 + 0.3 * k, 2.5 + 0.2 * k, weak=k == 1) for k, path in enumerate(paths * 3)]
    for fps in (23.976, 25, 29.97, 60):
        timeline = plan(moments, fps=fps, handles_s=0.2)
        read = otio.adapters.read_from_string(to_edl(timeline), "cmx_3600", rate=float(timeline.rate))
        assert read.name == "second coat"
        picture, sound = read.tracks
        assert picture.kind == "Video"
        assert sound.kind == "Audio"
        clips = list(picture.find_clips())
        assert len(list(sound.find_clips())) == sum(clip.footage.has_audio for clip in timeline.clips)
        for found, clip in zip(clips, timeline.clips, strict=True):
            assert found.name == Path(clip.moment.path).name
            position = found.range_in_parent()
            assert (position.start_time.value, position.duration.value) == pytest.approx(
                (clip.record_start, clip.record_end - clip.record_start)
            )
            if timeline.drop_frame:  # its reader knows no drop-frame timecode in markers
                continue
            (marker,) = found.markers
            assert marker.name == "second coat"
            assert marker.color == ("YELLOW" if clip.moment.weak else "GREEN")
            assert marker.marked_range.start_time.value >= clip.record_start


def test_source_times_of_other_rates_keep_their_seconds(numbered: dict[str, Path]) -> None:
    tape, film, pal, slow = (make_moment(str(numbered[n])) for n in ("tape.mov", "film.mp4", "pal.mkv", "slow.mp4"))
    sources = [event[4] for event in read_events(to_edl(plan([tape, film, pal, slow], fps=29.97)))]
    # A second into each: frame 30 of a tape that starts at 00:59:58;10, frames 24 and 25, and 13 of 12.5 a second.
    assert sources == ["00:59:59;10", "01:00:01;00", "00:00:01;00", "00:00:01;01"]
    sources = [event[4] for event in read_events(to_edl(plan([replace(film, start=1.5), tape, pal], fps=25)))]
    assert sources == ["01:00:01:12", "00:59:59:08", "00:00:01:00"]


@pytest.mark.parametrize(
    ("span", "fps", "facts", "codes"),
    [
        ((60.04, 61), 29.97, {"rate": Fraction(25), "num_frames": 10**6}, ["00:01:00;02"]),
        ((1, 3), 25, {"first_frame": 25 * (24 * 3600 - 2), "has_timecode": True}, ["23:59:59:00", "00:00:01:00"]),
        (
            (0, 1001 / 30),
            29.97,
            {"rate": NTSC, "first_frame": 108000, "has_timecode": True},
            ["01:00:00:00", "01:00:33:10", "00:00:00;00", "00:00:33;10"],
        ),
    ],
    ids=["a skipped label becomes the next one", "a camera's clock starts again at midnight", "no drop-frame is kept"],
)
def test_source_times_have_labels_that_exist(
    span: tuple[float, float], fps: float, facts: dict[str, Any], codes: list[str]
) -> None:
    (event,) = read_events(to_edl(plan_unread([make_moment(start=span[0], end=span[1])], fps=fps, **facts)))
    assert event[4 : 4 + len(codes)] == codes


def test_reel_names_are_short_alphanumeric_and_unique() -> None:
    names = ["holiday-2024-a.mp4", "holiday-2024-b.mp4", "bl.mp4", "ax.mp4", "\u6620\u753b.mp4", "\u8eca.mp4", "h.mp4"]
    names += [f"holiday-2024-{index}.mp4" for index in range(120)]
    moments = [make_moment(f"/films/{name}") for name in names] + [
        make_moment("/elsewhere/h.mp4"),
        make_moment("/films/h.mp4"),
    ]
    reels = [event[1] for event in read_events(to_edl(plan_unread(moments)))]
    assert all(reel.isascii() and reel.isalnum() and len(reel) <= 8 for reel in reels)
    assert len(set(reels)) == len(names) + 1
    assert not {"BL", "AX"} & set(reels)
    assert reels[:7] == ["HOLIDAY2", "HOLIDAY3", "BL2", "AX2", "REEL", "REEL2", "H"]
    assert reels[-2:] == ["H2", "H"]


def test_no_name_breaks_a_line_or_has_a_signature() -> None:
    moments = [replace(make_spoken_moment(path, 1, 2)) for path in ODD_PATHS]
    text = to_edl(plan_unread(moments, query="a\nb" + "c" * 200))
    assert len(text.encode("utf-8").splitlines()) == 3 + 5 * len(ODD_PATHS)
    assert len(text.splitlines()[0]) == len("TITLE: ") + 70
    text = to_edl(plan_unread([make_moment("https://host/My film.mp4?signature=5f")]))
    assert "* FROM CLIP NAME: My film.mp4\n" in text
    assert "MYFILM " in text
    assert "5f" not in text


def test_what_the_format_cannot_represent_is_refused() -> None:
    assert to_edl(plan_unread([], query="car")) == "TITLE: car\nFCM: NON-DROP FRAME\n\n"
    assert_refused(lambda: to_edl(plan_unread([make_moment()] * 1000)), "at most 999 moments, got 1000")
    assert_refused(lambda: to_markers(plan_unread([make_moment()] * 1000)), "at most 999 markers, got 1000")
    day = 24 * 3600
    assert " 23:59:57:00 23:59:59:00 " in to_edl(plan_unread([make_moment(start=day - 3, end=day - 1)]))
    over = make_moment(start=day - 3, end=day)
    assert_refused(lambda: to_edl(plan_unread([over])), "must be below 24 hours, got 24.0 hours")
    long = [make_moment(start=0, end=20000)] * 5
    assert_refused(lambda: to_edl(plan_unread(long)), "must be below 24 hours, got 27.8 hours")


def make_listed(path: str, start: float, end: float, note: str) -> Moment:
    return Moment(1, path, start, end, 0.0, by="list", note=note)


def test_markers_match_those_that_resolve_writes() -> None:
    """In several videos they mark the edit; a note must not begin like an event, nor end where a field begins."""
    moments = [make_listed("/films/a.mp4", 10, 12, "2nd | take"), make_listed("/films/b.mp4", 5, 5.5, "")]
    assert to_markers(plan_unread(moments, query="best|of")) == (
        "TITLE: best|of\n"
        "FCM: NON-DROP FRAME\n"
        "\n"
        "001  001      V     C        00:00:00:00 00:00:00:01 00:00:00:00 00:00:00:01\n"
        "- 2nd / take |C:ResolveColorGreen |M:best/of 1 |D:50\n"
        "\n"
        "002  001      V     C        00:00:02:00 00:00:02:01 00:00:02:00 00:00:02:01\n"
        " |C:ResolveColorGreen |M:best/of 2 |D:13\n"
    )


def test_markers_of_one_video_are_at_its_own_timecodes() -> None:
    weak = replace(make_moment("/films/a.mp4", 60.06, 61.061), weak=True)
    facts: dict[str, Any] = {"first_frame": 107892, "has_timecode": True, "drop_frame": True, "rate": NTSC}
    text = to_markers(plan_unread([weak, weak], fps=29.97, **facts))
    assert text.splitlines()[1] == "FCM: DROP FRAME"
    assert read_events(text)[1][4:] == ["01:01:00;02", "01:01:00;03"] * 2
    assert text.count("score 0.500 |C:ResolveColorYellow |M:") == 2


def test_the_adapter_reads_markers() -> None:
    otio = pytest.importorskip("opentimelineio")
    moments = [make_listed("/films/a.mp4", start, start + 1, "take") for start in (3, 7)]
    text = to_markers(plan_unread(moments, query="best"))
    events = list(otio.adapters.read_from_string(text, "cmx_3600", rate=25).find_clips())
    assert [event.source_range.start_time.to_frames() for event in events] == [75, 175]
    assert [event.source_range.duration.to_frames() for event in events] == [1, 1]
