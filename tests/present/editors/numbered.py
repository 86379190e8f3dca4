"""Films whose frames show their numbers, at the rates that editors use, and what the frames of a clip show."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av

from tests.present.moments import read_timed
from tests.video.films import write_video
from vidret.present.editors.timeline import Footage, Timeline, plan_timeline, read_footage
from vidret.types import Evidence, Moment

NTSC, FILM = Fraction(30000, 1001), Fraction(24000, 1001)
QUERY = "second coat"
# Name, rate, timecode, options. Numbers fit in eight bits.
FILMS = (
    ("tape.mov", NTSC, "00:59:58;10", True),
    ("film.mp4", FILM, "01:00:00:00", False),
    ("pal.mkv", Fraction(25), "", False),
    ("fast.ts", Fraction(60000, 1001), "", True),
    ("slow.mp4", Fraction(25, 2), "", False),
)
NUM_FRAMES = 200


def write_films(folder: Path) -> dict[str, Path]:
    """Write all of ``FILMS``, with frames that are stored in another order than they are shown in."""
    options = {"g": "30", "bf": "2", "preset": "ultrafast"}
    return {
        name: write_video(folder / name, range(NUM_FRAMES), rate=rate, timecode=timecode, audio=audio, options=options)
        for name, rate, timecode, audio in FILMS
    }


@cache
def read_shown(path: Path) -> list[tuple[int, float]]:
    """Return the number that each frame shows, and its time on a player's clock."""
    with av.open(str(path)) as container:
        zero = (container.start_time or 0) / 1_000_000
    return [(frame_number, time - zero) for frame_number, time in read_timed(path)]


def list_wanted(shown: Sequence[tuple[int, float]], start: float, end: float) -> list[int]:
    """Return the numbers of the frames that a span should have: those that begin in it, give or take half a frame."""
    half = (shown[1][1] - shown[0][1]) / 2
    return [frame_number for frame_number, time in shown if start - half < time <= end - half]


def plan(moments: Sequence[Moment], *, fps: float | None = None, handles_s: float = 0.0) -> Timeline:
    """Return the timeline of moments of files, which are read."""
    footage = {moment.path: read_footage(moment.path) for moment in moments}
    return plan_timeline(moments, footage, query=QUERY, fps=fps, handles_s=handles_s)


def plan_unread(moments: Sequence[Moment], *, fps: float | None = 25, query: str = QUERY, **facts: Any) -> Timeline:
    """Return the timeline of moments of files that do not exist, with the same facts for all of them."""
    footage = {moment.path: Footage(path=moment.path, **facts) for moment in moments}
    return plan_timeline(moments, footage, query=query, fps=fps)


def make_spoken_moment(path: str | Path, start: float, end: float, *, weak: bool = False) -> Moment:
    """Return a moment in which something is said."""
    seen = Evidence(source="picture", start=start, end=end, share=0.25)
    said = Evidence(
        source="speech", start=start, end=end, share=0.75, text='"the second\ncoat" <3 & 车', matches=((5, 11),)
    )
    return Moment(1, str(path), start, end, 0.8126, weak=weak, by="words", evidence=(said, seen))
