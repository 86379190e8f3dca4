"""Scenes -> small mp4 files, each with a mark that says of which scene, so that none is drawn twice."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from jaxtyping import UInt8

from vidret.data.synthetic.render import render
from vidret.data.synthetic.scenes import Scene
from vidret.errors import VidretError

# Goes into the marks: change it with the drawing or the encoding, and old files will not be taken for new ones.
DRAWING = 1
# Each frame is coded by itself and equally well, so that none tells which came before it: a thing would drag along what
# is left of it where it was. And bytes are always the same: x264's macroblock tree, which needs more frames than one,
# was measured to give others in 1 to 25 of 100 runs.
_CODING = {"preset": "veryfast", "qp": "20", "g": "1", "threads": "1", "x264-params": "cpu-independent=1"}

Progress = Callable[[int, int], None]


def write_scenes(videos: Sequence[tuple[Path, Scene]], *, size: int, fps: int, progress: Progress | None = None) -> int:
    """Write each scene's video where it is not yet; give how many were written.

    A video comes into being whole or not at all: this may be stopped at any time and called again.

    Args:
        videos: Where each is to lie, and what it shows.
        size: Height and width in pixels.
        fps: Frames a second.
        progress: Told how many videos are done, and of how many, after each.

    Raises:
        VidretError: A file cannot be written.
    """
    num_written = 0
    for number, (path, scene) in enumerate(videos, start=1):
        mark = mark_scene(scene, size=size, fps=fps)
        if read_mark(path) != mark:
            fresh = path.with_name(path.name + ".part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_frames(fresh, render(scene, size), fps=fps, mark=mark)
                fresh.replace(path)
            except (av.FFmpegError, OSError) as error:
                raise VidretError(f"{path}: cannot be written: {error.strerror}") from error
            num_written += 1
        if progress is not None:
            progress(number, len(videos))
    return num_written


def mark_scene(scene: Scene, *, size: int, fps: int) -> str:
    """Give the mark of a scene's video."""
    return hashlib.sha256(repr((DRAWING, sorted(_CODING.items()), size, fps, astuple(scene))).encode()).hexdigest()[:32]


def read_mark(path: Path) -> str | None:
    """Read the mark of a video; None where there is no such video, or it has none."""
    if not path.is_file():
        return None
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment")
    except (av.FFmpegError, OSError, ValueError):
        return None


def write_frames(path: Path, frames: UInt8[np.ndarray, "frame size size 3"], *, fps: int, mark: str) -> None:
    """Encode frames as h264 in mp4; the same frames give the same bytes with one build of libx264."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = mark
        stream = cast(Any, container.add_stream("libx264", rate=fps, options=_CODING))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
