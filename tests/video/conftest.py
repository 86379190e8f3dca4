"""Films: one small video of every kind that is read in its own way, written once per run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest

from tests.video.films import read_numbers, write_video
from vidret.types import Sampling
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Finished, OpenedVideo
from vidret.video.workers.pool import DecodePool

NUM_FRAMES = 100
EVERY_FRAME = Sampling(fps=25.0)
# An odd distance between pauses: no grid fits.
_UNEVEN = [k + 3 * (k // 7) for k in range(NUM_FRAMES)]
_B_FRAMES = {"g": "20", "bf": "3"}
_OPEN = _B_FRAMES | {"x264-params": "open-gop=1:scenecut=0"}
_REFRESH = {"g": "20", "x264-params": "intra-refresh=1:scenecut=0"}
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
_VP9 = {"codec": "libvpx-vp9", "options": {"g": "20", "cpu-used": "8", "deadline": "realtime"}}
_HEVC = {"codec": "libx265", "options": {"x265-params": "keyint=20:log-level=none"}}
# PyAV 14 carries an SVT-AV1 that refuses frames this small, and libaom beside it; later versions carry no libaom.
_HAS_AOM = "libaom-av1" in av.codecs_available
_AV1 = {
    "codec": "libaom-av1" if _HAS_AOM else "libsvtav1",
    "options": {"g": "20", **({"cpu-used": "8"} if _HAS_AOM else {"preset": "12"})},
}

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": _B_FRAMES},
    "h264.mkv": {"options": _B_FRAMES},
    "h264.flv": {"options": _B_FRAMES},
    "h264.avi": {"options": _B_FRAMES},
    "h264.ts": {"options": _B_FRAMES},
    "h264_open.mp4": {"options": _OPEN},
    "h264_open.ts": {"options": _OPEN},
    "h264_refresh.ts": {"options": _REFRESH},
    "hevc.ts": _HEVC,
    "h264_refresh.mp4": {"options": _REFRESH},
    "h264_fragments.mp4": {"options": _B_FRAMES, "container_options": _FRAGMENTS},
    "h264_10bit.mp4": {"pix_fmt": "yuv420p10le"},
    "h264_444_odd.mp4": {"pix_fmt": "yuv444p", "size": (67, 49)},
    "h264_uneven.mp4": {"pts": _UNEVEN},
    "h264_uneven.mkv": {"pts": _UNEVEN},
    "h264_late.mp4": {"options": _B_FRAMES, "shift": 125},
    "h264_sound.mp4": {"audio": True},
    "hevc.mp4": _HEVC,
    "hevc_10bit.mkv": _HEVC | {"pix_fmt": "yuv420p10le"},
    "vp9.webm": _VP9,
    "vp9_alpha.webm": _VP9 | {"pix_fmt": "yuva420p"},
    "vp8.webm": {"codec": "libvpx", "options": {"g": "20", "cpu-used": "8", "deadline": "realtime"}},
    "av1.mp4": _AV1,
    "av1.mkv": _AV1,
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}},
    "wmv2.wmv": {"codec": "wmv2", "options": {"g": "12"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "anim.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "turned_90.mp4": {"rotation": 90, "size": (48, 64)},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mp4": {"rotation": 270, "size": (48, 64)},
}
# A frame before the cut-off time is decoded and not shown.
_EDIT_LIST: dict[str, Any] = {
    "options": _B_FRAMES,
    "shift": -33,
    "container_options": {"avoid_negative_ts": "disabled", "use_editlist": "1"},
}
ONES: dict[str, dict[str, Any]] = {"one.mp4": {}, "one.webm": _VP9}
NAMES = [*KINDS, "edit_list.mp4", *ONES]


@dataclass(frozen=True)
class Film:
    """A written video: frame k of those shown carries the number ``first + k``."""

    path: Path
    first: int
    num_frames: int

    @property
    def numbers(self) -> list[int]:
        return list(range(self.first, self.first + self.num_frames))


def stream_film(pool: DecodePool, path: Path, **options: Any) -> tuple[OpenedVideo, list[DecodedSegment], Finished]:
    """Return what a pool sends of a film."""
    opened, *segments, finished = pool.stream(path, **options)
    assert isinstance(opened, OpenedVideo)
    assert isinstance(finished, Finished)
    return opened, [segment for segment in segments if isinstance(segment, DecodedSegment)], finished


def numbers_of(segments: Sequence[DecodedSegment]) -> list[int]:
    """Return the numbers of all frames of segments."""
    return [frame_number for segment in segments for frame_number in read_numbers(segment.frames.pictures.pixels)]


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Film]:
    os.environ.setdefault("SVT_LOG", "0")
    folder = tmp_path_factory.mktemp("films")
    numbers = range(NUM_FRAMES)
    written = {name: Film(write_video(folder / name, numbers, **how), 0, NUM_FRAMES) for name, how in KINDS.items()}
    cut = write_video(folder / "edit_list.mp4", numbers, **_EDIT_LIST)
    written["edit_list.mp4"] = Film(cut, 33, NUM_FRAMES - 33)
    for name, how in ONES.items():
        written[name] = Film(write_video(folder / name, [5], **how), 5, 1)
    return written


@pytest.fixture(scope="session")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Film:
    """Write a film whose frames are too large for a pipe to swallow a whole segment."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_video(path, range(1000), size=(512, 384), options={"preset": "ultrafast", "g": "50"})
    return Film(path, 0, 1000)
