"""Exports: each text read back by a reader that is not ours, timecodes by counting, pieces by the number in a frame."""

import csv
import importlib
import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.video.films import read_number, write_audio, write_video
from vidret.errors import VidretError
from vidret.present import export
from vidret.present.export import cut_moments, find_ffmpeg, to_chapters, to_csv, to_edl, to_json, write_moments
from vidret.types import Moment
from vidret.video.probe import probe

ODD_PATHS = (
    "/films/plain.mp4",
    '/films/a "b", c.mp4',
    "/films/two\nlines.mp4",
    "/films/\u6620\u753b.mp4",
    "-x.mp4",
    os.fsdecode(b"/films/bad\xff\xfe.mp4"),
    "/films/=cmd;#\\.mp4",
)


def moment(path: str = "/films/a.mp4", start: float = 1.0, end: float = 2.0, score: float = 0.5) -> Moment:
    return Moment(1, path, start, end, score)


def refuses(call: Callable[[], object], message: str) -> None:
    with pytest.raises(VidretError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_lies_at_an_address_is_not_cut_but_named(tmp_path: Path) -> None:
    remote = moment("https://host/My film.mp4?signature=5f")
    refuses(
        lambda: cut_moments([moment(), remote], tmp_path / "pieces"), "film.mp4: lies at an address, and only files"
    )
    assert not (tmp_path / "pieces").exists()
    text = to_edl([remote], query="", fps=25)
    assert "* FROM CLIP NAME: My film.mp4\n" in text
    assert "MYFILM " in text


# JSON and CSV


def test_json_gives_everything_back() -> None:
    moments = [moment(path, rank / 3, rank / 3 + 1.5, 0.25 * rank) for rank, path in enumerate(ODD_PATHS)]
    text = to_json(moments, query='a "red"\ncar \u8eca')
    assert text.isascii()
    rows = json.loads(text)
    assert [row["path"] for row in rows] == list(ODD_PATHS)
    assert [row["rank"] for row in rows] == list(range(1, len(ODD_PATHS) + 1))
    assert {row["query"] for row in rows} == {'a "red"\ncar \u8eca'}
    for row, each in zip(rows, moments, strict=True):
        assert list(row) == ["rank", "query", "path", "start", "end", "score", "weak", "by", "similarity"]
        assert (row["start"], row["end"]) == pytest.approx((each.start, each.end), abs=1e-6)
        assert (row["score"], row["weak"]) == (each.score, False)


def test_csv_gives_everything_back() -> None:
    moments = [moment(path, rank / 3, rank / 3 + 1.5, 0.25 * rank) for rank, path in enumerate(ODD_PATHS)]
    text = to_csv(moments, query='a "red"\ncar')
    assert text.startswith("rank,query,path,start,end,score,weak,by,similarity\r\n")
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["path"] for row in rows] == list(ODD_PATHS)
    assert {row["query"] for row in rows} == {'a "red"\ncar'}
    assert [float(row["end"]) for row in rows] == pytest.approx([each.end for each in moments], abs=1e-6)
    assert to_csv([moment()], query="car").splitlines()[1] == "1,car,/films/a.mp4,1.0,2.0,0.5,false,curve,"
    assert to_csv([replace(moment(), similarity=0.25)], query="car").endswith(",curve,0.25\r\n")
    assert to_csv([Moment(1, "/a.mp4", 1, 2, 0.5, weak=True, by="head")], query="car").endswith(",true,head,\r\n")


def test_no_moments_are_an_empty_export() -> None:
    assert json.loads(to_json([], query="car")) == []
    assert to_csv([], query="car") == "rank,query,path,start,end,score,weak,by,similarity\r\n"
    assert to_edl([], query="car", fps=25) == "TITLE: car\nFCM: NON-DROP FRAME\n\n"
    assert to_chapters([], query="car") == ";FFMETADATA1\n"


# Chapters


def read_chapters(text: str, tmp_path: Path) -> list[tuple[float, float, str]]:
    """Let ffmpeg's own library read them."""
    (tmp_path / "chapters").write_text(text, "utf-8")
    with av.open(str(tmp_path / "chapters"), format="ffmetadata") as container:
        chapters: list[Any] = list(container.chapters())
    return [
        (float(each["start"] * each["time_base"]), float(each["end"] * each["time_base"]), each["metadata"]["title"])
        for each in chapters
    ]


@pytest.mark.parametrize("query", ["car", "a=b;c#d\\e", "two\nlines", "#;=", "\\", "\u8eca \u00fc", "[CHAPTER]\nEND=5"])
def test_ffmpeg_reads_the_chapters(query: str, tmp_path: Path) -> None:
    moments = [moment(start=7.2504, end=9.9996), moment(start=0, end=1.5), moment(start=11, end=11.0001)]
    found = read_chapters(to_chapters(moments, query=query), tmp_path)
    titles = [f"{query} ({number})" for number in (1, 2, 3)]
    assert found == [(0, 1.5, titles[0]), (7.25, 10.0, titles[1]), (11, 11.001, titles[2])]
    found = read_chapters(to_chapters(moments[1:2], query=query), tmp_path)
    assert found == [(0, 1.5, query + " " if query.endswith("\\") else query)]  # its reader needs something there


def test_chapters_do_not_overlap() -> None:
    nested = [moment(start=22, end=24), moment(start=0, end=24), moment(start=0, end=4)]
    refuses(lambda: to_chapters(nested, query="car"), "chapters must not overlap, got 0:00.0 to 0:04.0 and 0:00.0 to")
    assert to_chapters([moment(start=0, end=4), moment(start=4, end=9)], query="car").count("[CHAPTER]") == 2


def test_chapters_are_of_one_video() -> None:
    moments = [moment("/films/b.mp4"), moment("/films/a.mp4"), moment("/films/b.mp4")]
    refuses(lambda: to_chapters(moments, query="car"), "of one video, got 2, /films/a.mp4 among them; locate in one")


# The edit decision list


def count_timecode(frame: int, per_second: int) -> str:
    """Count up to a frame, as a clock with a wheel for each place."""
    wheels = [0, 0, 0, 0]
    for _ in range(frame):
        wheels[3] += 1
        for place, size in ((3, per_second), (2, 60), (1, 60)):
            if wheels[place] == size:
                wheels[place] = 0
                wheels[place - 1] += 1
    return ":".join(f"{wheel:02}" for wheel in wheels)


def read_frame(code: str, per_second: int) -> int:
    hours, minutes, seconds, frames = map(int, code.split(":"))
    assert frames < per_second
    return ((hours * 60 + minutes) * 60 + seconds) * per_second + frames


def read_events(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line[:3].isdigit()]


def test_an_edl_by_hand() -> None:
    moments = [
        moment("/films/My trip.mov", 75.25, 80.0, 0.8126),
        moment("/films/b.mp4", 3599.98, 3600.5, 0.5),
        Moment(1, "/films/My trip.mov", 0.0, 0.01, 0.25, weak=True),
    ]
    assert to_edl(moments, query="red car", fps=25) == (
        "TITLE: red car\n"
        "FCM: NON-DROP FRAME\n"
        "\n"
        "001  MYTRIP   V     C        00:01:15:06 00:01:20:00 00:00:00:00 00:00:04:19\n"
        "* FROM CLIP NAME: My trip.mov\n"
        "* COMMENT: SCORE 0.813\n"
        "002  B        V     C        01:00:00:00 01:00:00:13 00:00:04:19 00:00:05:07\n"
        "* FROM CLIP NAME: b.mp4\n"
        "* COMMENT: SCORE 0.500\n"
        "003  MYTRIP   V     C        00:00:00:00 00:00:00:01 00:00:05:07 00:00:05:08\n"
        "* FROM CLIP NAME: My trip.mov\n"
        "* COMMENT: SCORE 0.250, WEAK\n"
    )


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (1, Fraction(1)),
        (23.976, Fraction(24000, 1001)),
        (24, Fraction(24)),
        (24000 / 1001, Fraction(24000, 1001)),
        (25, Fraction(25)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (100, Fraction(100)),
    ],
)
def test_timecodes_are_exact_and_the_record_is_unbroken(fps: float, exact: Fraction) -> None:
    rng = random.Random(0)
    starts = [rng.uniform(0, 10000) for _ in range(200)]
    moments = [moment(start=start, end=start + rng.uniform(0.001, 200)) for start in starts]
    record = 0
    for event, each in zip(read_events(to_edl(moments, query="car", fps=fps)), moments, strict=True):
        start, end, record_start, record_end = (read_frame(code, round(fps)) for code in event[4:])
        assert abs(start / exact - Fraction(each.start)) <= 1 / (2 * exact)
        assert end == start + 1 or abs(end / exact - Fraction(each.end)) <= 1 / (2 * exact)
        assert end > start
        assert record_start == record
        assert record_end - record_start == end - start
        record = record_end


@pytest.mark.parametrize("fps", [1, 24, 29.97, 60])
def test_timecodes_are_counted_ones(fps: float) -> None:
    for frame in (0, 1, 59, 1000, 1799, 1800, 3599 * round(fps), 3661 * round(fps) + round(fps) - 1):
        assert export.timecode(frame, export.find_rate(fps)) == count_timecode(frame, round(fps))


def test_a_frame_that_starts_at_a_boundary_is_that_frame() -> None:
    for rate in (Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60)):
        for frame in range(0, 10**6, 997):
            assert export.nearest_frame(float(frame / rate), rate) == frame


def test_reels_are_short_plain_and_each_videos_own() -> None:
    names = ["holiday-2024-a.mp4", "holiday-2024-b.mp4", "bl.mp4", "ax.mp4", "\u6620\u753b.mp4", "\u8eca.mp4", "h.mp4"]
    names += [f"holiday-2024-{number}.mp4" for number in range(120)]
    moments = [moment(f"/films/{name}") for name in names] + [moment("/elsewhere/h.mp4"), moment("/films/h.mp4")]
    reels = [event[1] for event in read_events(to_edl(moments, query="car", fps=25))]
    assert all(reel.isascii() and reel.isalnum() and len(reel) <= 8 for reel in reels)
    assert len(set(reels)) == len(names) + 1
    assert not {"BL", "AX"} & set(reels)
    assert reels[:7] == ["HOLIDAY2", "HOLIDAY3", "BL2", "AX2", "REEL", "REEL2", "H"]
    assert reels[-2:] == ["H2", "H"]


def test_no_name_breaks_a_line_of_an_edl() -> None:
    text = to_edl([moment(path) for path in ODD_PATHS], query="a\nb" + "c" * 200, fps=25)
    assert len(text.encode("utf-8").splitlines()) == 3 + 3 * len(ODD_PATHS)
    assert len(text.splitlines()[0]) == len("TITLE: ") + 70


def test_what_no_edl_can_hold_is_refused() -> None:
    for fps in (0, -25, 12.5, 29.9, 120, float("nan"), float("inf")):
        refuses(lambda fps=fps: to_edl([moment()], query="car", fps=fps), f"for an EDL, got {fps:g}")  # type: ignore[misc]
    refuses(lambda: to_edl([moment()] * 1000, query="car", fps=25), "at most 999 moments, got 1000")
    day = 24 * 3600
    last = moment(start=day - 3, end=day - 1)
    assert " 23:59:57:00 23:59:59:00 " in to_edl([last], query="car", fps=25)
    over = moment(start=day - 3, end=day)
    refuses(lambda: to_edl([over], query="car", fps=25), "must be below 24 hours, got 24:00:00.0")
    long = [moment(start=0, end=20000)] * 5
    refuses(lambda: to_edl(long, query="car", fps=25), "must be below 24 hours, got 27:46:40.0")


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 2), (-1, 2), (0, float("inf")), (float("nan"), 1)])
def test_what_is_no_stretch_of_time_is_refused(start: float, end: float, tmp_path: Path) -> None:
    wrong = [moment(start=start, end=end)]
    calls: list[Callable[[], object]] = [
        lambda: to_edl(wrong, query="car", fps=25),
        lambda: to_chapters(wrong, query="car"),
        lambda: cut_moments(wrong, tmp_path),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="0 <= start < end"):
            call()


# Files


def test_the_name_decides_the_form(tmp_path: Path) -> None:
    moments = [moment(os.fsdecode(b"/films/bad\xff.mp4"))]
    for name, text in (
        ("a.json", to_json(moments, query="car")),
        ("new/a.CSV", to_csv(moments, query="car")),
        ("a.edl", to_edl(moments, query="car", fps=30)),
        ("a.ffmeta", to_chapters(moments, query="car")),
    ):
        (tmp_path / "a.json").write_text("an older one")
        write_moments(moments, tmp_path / name, query="car", fps=30)
        assert (tmp_path / name).read_bytes() == os.fsencode(text)
    assert b"/films/bad\xff.mp4" in (tmp_path / "new/a.CSV").read_bytes()
    refuses(lambda: write_moments(moments, "a.xml", query="car"), "must end in .json, .csv, .edl or .ffmeta, got a.xml")
    refuses(lambda: write_moments(moments, tmp_path / "a.json/b.csv", query="car"), "a.json/b.csv: cannot be written:")
    assert not Path("a.xml").exists()


# Pieces of video

NUM_FRAMES = 250  # at 25 frames a second: the numbers of eight bits


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write films whose every frame shows its number."""
    folder = tmp_path_factory.mktemp("films")
    reordered = {"g": "30", "bf": "3", "preset": "ultrafast"}
    opened = reordered | {"x264-params": "open-gop=1:scenecut=0"}
    write_video(folder / "plain.mp4", range(NUM_FRAMES), options=reordered, audio=True)
    write_video(folder / "odd.mkv", range(NUM_FRAMES), options=reordered, size=(67, 49), pix_fmt="yuv444p")
    write_video(folder / "open.mp4", range(NUM_FRAMES), options=opened)
    uneven = [k + 3 * (k // 7) for k in range(NUM_FRAMES)]
    write_video(folder / "uneven.mkv", range(NUM_FRAMES), options=reordered, pts=uneven)
    return folder


@pytest.fixture
def ffmpeg() -> str:
    try:
        return find_ffmpeg()
    except VidretError:
        pytest.skip("needs ffmpeg: the machine's, or the package imageio-ffmpeg")


def read_timed(path: Path) -> list[tuple[int, float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [(read_number(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)), frame.time or 0) for frame in frames]


def read_piece(path: Path) -> list[int]:
    return [number for number, _ in read_timed(path)]


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["plain.mp4", "odd.mkv", "open.mp4"])
@pytest.mark.parametrize(
    ("first", "last", "off"), [(0, 12, 0), (37, 58, -0.5), (158, 171, 0), (158, 171, -0.5), (240, 250, -0.25)]
)
def test_a_piece_has_exactly_its_frames(
    name: str, first: int, last: int, off: float, ffmpeg: str, films: Path, tmp_path: Path
) -> None:
    start, end = max(first + off, 0) / 25, (last + off) / 25
    (piece,) = cut_moments([moment(str(films / name), start, end)], tmp_path)
    found = read_timed(piece)
    assert [number for number, _ in found] == list(range(first, last))
    assert [time for _, time in found] == pytest.approx([number / 25 - start for number, _ in found], abs=1e-3)
    with av.open(str(piece)) as container:
        assert [stream.type for stream in container.streams] == ["video"] + ["audio"] * (name == "plain.mp4")
        lengths = [float((stream.duration or 0) * (stream.time_base or 0)) for stream in container.streams]
        packets = [float(each.pts * each.time_base) for each in container.demux() if each.pts is not None]
    assert lengths == pytest.approx([end - start] * len(lengths), abs=0.08)
    assert min(packets) > -0.2  # nothing of what lies before goes along unseen


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("audio", [False, True])
def test_a_piece_of_a_late_start_has_exactly_its_frames(
    suffix: str, ffmpeg: str, tmp_path: Path, *, audio: bool
) -> None:
    film = write_video(tmp_path / f"late.{suffix}", range(200), options={"g": "30"}, shift=125, audio=audio)
    times = probe(film).times
    (piece,) = cut_moments([moment(str(film), times[37], times[158])], tmp_path / "out")
    assert read_piece(piece) == list(range(37, 158))


def test_a_frame_that_ffmpeg_rounds_to_before_its_time_is_not_lost(ffmpeg: str, tmp_path: Path) -> None:
    # The clock starts at 4.9360625 s, which is no whole number of the video's ticks.
    film = write_video(tmp_path / "film.mp4", range(60), shift=125, audio=True, sound_start=80_001)
    times = probe(film).times
    (piece,) = cut_moments([moment(str(film), times[33], times[50])], tmp_path / "out")
    assert read_piece(piece) == list(range(33, 50))


@pytest.mark.parametrize("suffix", [".ts", ".mpg"])
def test_a_piece_of_joined_recordings_has_exactly_its_frames(ffmpeg: str, tmp_path: Path, suffix: str) -> None:
    how: dict[str, Any] = {"rate": 25, "codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}
    parts = [
        write_video(tmp_path / f"{first}{suffix}", [first + k // 5 for k in range(200)], **how) for first in (0, 40)
    ]
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    (piece,) = cut_moments([moment(str(joined), 12, 13)], tmp_path / "out")
    assert read_piece(piece) == [60 + k // 5 for k in range(25)]
    refuses(lambda: cut_moments([moment(str(joined), 12, 13)], tmp_path / "out", copy=True), "joined recordings")


def test_uneven_frames_keep_their_distances(ffmpeg: str, films: Path, tmp_path: Path) -> None:
    times = [(k + 3 * (k // 7)) / 25 for k in range(NUM_FRAMES)]
    (piece,) = cut_moments([moment(str(films / "uneven.mkv"), times[60], times[90])], tmp_path)
    found = read_timed(piece)
    assert [number for number, _ in found] == list(range(60, 90))
    assert [time for _, time in found] == pytest.approx([time - times[60] for time in times[60:90]], abs=1e-3)


def test_picture_and_sound_stay_together(ffmpeg: str, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "flash.mp4"), "w") as container:  # one white frame a second long, a beep as it begins
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
    (piece,) = cut_moments([moment(str(tmp_path / "flash.mp4"), 5.6, 8.5)], tmp_path)
    with av.open(str(piece)) as container:
        white = [frame.time for frame in container.decode(video=0) if frame.to_ndarray(format="gray").mean() > 128]
        container.seek(0)
        loud = [frame.time for frame in container.decode(audio=0) if np.abs(frame.to_ndarray()).max() > 0.3]
    assert white == pytest.approx([1.4], abs=1e-3)
    assert loud[0] == pytest.approx(1.4, abs=0.07)  # a packet of sound is 0.064 s


def test_a_copy_is_not_encoded_again(ffmpeg: str, films: Path, tmp_path: Path) -> None:
    (piece,) = cut_moments([moment(str(films / "odd.mkv"), 4.5, 6)], tmp_path, copy=True)
    numbers = read_piece(piece)
    assert piece.name == "01_odd_4.50-6.00.mkv"
    assert set(range(113, 150)) <= set(numbers)
    assert numbers[0] == 90  # the keyframe before
    with av.open(str(piece)) as container:
        assert container.streams.video[0].width == 67


@pytest.mark.parametrize(
    "name",
    [
        "-i.mp4",
        "-y",
        "http:x.mp4",
        "concat:a|b.mp4",
        "%03d.mp4",
        'it\'s, "q" [1];\\.mp4',
        " \u6620\u753b\n.mp4",
        "*?.mp4",
        os.fsdecode(b"bad\xff.mp4"),
        "$(touch x).mp4",
        "x" * 200 + ".mp4",
        "pipe:0",
    ],
)
def test_any_name_is_cut(name: str, ffmpeg: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(films / "plain.mp4", tmp_path / name)
    (piece,) = cut_moments([moment(name, 1, 1.5)], Path("-pieces"), copy=True)
    assert piece.parent == Path("-pieces")
    assert all(letter.isalnum() or letter in "-._" for letter in piece.name)
    assert set(range(25, 37)) <= set(read_piece(tmp_path / piece))
    assert list_names(tmp_path) == sorted(["-pieces", name])


def test_pieces_are_named_in_order_and_none_is_lost() -> None:
    moments = [moment("/films/My trip.mov", 75.25, 80), moment("/other/My trip.mov", 75.25, 80), moment("/f/.a.b.c")]
    names = export.name_pieces(moments * 40, copy=False)
    assert names[:3] == ["001_My_trip_75.25-80.00.mp4", "002_My_trip_75.25-80.00.mp4", "003_.a.b_1.00-2.00.mp4"]
    assert names == sorted(set(names))
    copies = [moment(f"/f/a{suffix}") for suffix in ("", ".MOV", ".mp4 (1)", ".webm")]
    assert [Path(name).suffix for name in export.name_pieces(copies, copy=True)] == [".mkv", ".MOV", ".mkv", ".webm"]
    longest = export.name_pieces([moment("/f/" + "\U0001d4d0" * 80 + ".mp4", 99999.5, 99999.9)], copy=False)[0]
    assert len(os.fsencode(longest + ".part")) < 255


def test_nothing_is_overwritten_unless_asked(ffmpeg: str, films: Path, tmp_path: Path) -> None:
    moments = [moment(str(films / "plain.mp4"), 1, 1.5), moment(str(films / "plain.mp4"), 3, 3.5)]
    theirs = tmp_path / "02_plain_3.00-3.50.mp4"
    theirs.write_text("a person's own")
    refuses(lambda: cut_moments(moments, tmp_path), f"{theirs}: is there already")
    assert list_names(tmp_path) == [theirs.name]
    assert theirs.read_text() == "a person's own"
    assert cut_moments(moments, tmp_path, overwrite=True)[1] == theirs
    assert read_piece(theirs) == list(range(75, 88))


def test_progress_is_told_after_each(ffmpeg: str, films: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    moments = [moment(str(films / "plain.mp4"), start, start + 0.2) for start in (1, 2, 3)]
    pieces = cut_moments(
        moments, tmp_path / "new" / "er", on_progress=lambda done, num: told.append((done, num, len(seen(tmp_path))))
    )
    assert told == [(1, 3, 1), (2, 3, 2), (3, 3, 3)]
    assert pieces == seen(tmp_path)
    assert cut_moments([], tmp_path / "none") == []


def seen(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("[!.]*.mp4") if ".cutting-" not in str(path))


def test_what_cannot_be_cut_is_told_in_a_sentence(ffmpeg: str, films: Path, tmp_path: Path) -> None:
    out, plain = tmp_path / "out", str(films / "plain.mp4")
    (tmp_path / "text.mp4").write_text("no video at all")
    write_audio(tmp_path / "sound.mp4")
    good = moment(plain, 1, 1.2)
    cases = [
        (moment(str(tmp_path / "gone.mp4")), f"{tmp_path}/gone.mp4: is no longer there"),
        (moment(str(tmp_path / "text.mp4")), f"{tmp_path}/text.mp4: ffmpeg cannot cut 0:01.0 to 0:02.0: "),
        (moment(str(tmp_path / "sound.mp4"), 0, 0.5), f"{tmp_path}/sound.mp4: ffmpeg cannot cut 0:00.0 to 0:00.5: "),
        (moment(plain, 50, 60), f"{plain}: has no frame from 0:50.0 to 1:00.0"),
    ]
    for number, (bad, message) in enumerate(cases):
        for copy in (False, True):
            folder = out / f"{number}{copy}"
            refuses(lambda bad=bad, copy=copy, folder=folder: cut_moments([good, bad], folder, copy=copy), message)  # type: ignore[misc]
            assert list_names(folder) == ["01_plain_1.00-1.20.mp4"]  # whole, and no rest of the other
    (tmp_path / "file").write_text("")
    refuses(lambda: cut_moments([good], tmp_path / "file"), f"{tmp_path}/file: ")


def test_without_ffmpeg_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib, "import_module", missing)
    refuses(lambda: cut_moments([moment()], tmp_path / "out"), "needs ffmpeg 5.1 or later: install it, or the Python")
    assert not (tmp_path / "out").exists()


def test_the_machines_own_ffmpeg_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert find_ffmpeg() == "/usr/bin/ffmpeg"


def test_the_command_line_names_whole_paths_and_exact_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = export.list_arguments(moment("-i.mp4", 20 / 3, 8), Path("-out.mp4"), copy=False)
    assert words[words.index("-i") + 1] == f"file:{tmp_path}/-i.mp4"
    assert words[-1] == f"file:{tmp_path}/-out.mp4"
    assert words[words.index("-ss") + 1] == "1666666us"
    assert "trim=start=4999500us:end=6332834us" in words[words.index("-vf") + 1]
    copied = export.list_arguments(moment("-i.mp4", 20 / 3, 8), Path("-out.mp4"), copy=True)
    assert copied[copied.index("-ss") + 1] == "6666666us"
    assert copied[copied.index("-t") + 1] == "1333334us"
    assert "-ss" not in export.list_arguments(moment(start=4, end=6), Path("out.mp4"), copy=False)


def test_an_interrupt_leaves_no_rest(ffmpeg: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run

    def interrupt(*arguments: Any, **options: Any) -> None:
        real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut_moments([moment(str(films / "plain.mp4"))], tmp_path / "out")
    assert list_names(tmp_path / "out") == []
