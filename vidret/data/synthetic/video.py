"""Encoding of scenes as small mp4 files, each with a signature of its scene, so that none is rendered twice."""

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

RENDER_VERSION = 1  # part of the signature; increment it when rendering or encoding changes
# All frames are intra-coded with equal quality, so that none shows traces of the frame before it. The bytes are
# reproducible: x264's macroblock tree, which needs several frames, gave different bytes in 1 to 25 of 100 runs.
_ENCODER_OPTIONS = {"preset": "veryfast", "qp": "20", "g": "1", "threads": "1", "x264-params": "cpu-independent=1"}

Progress = Callable[[int, int], None]


def write_scenes(videos: Sequence[tuple[Path, Scene]], *, size: int, fps: int, progress: Progress | None = None) -> int:
    """Write the video of each scene that does not exist yet, and return the number of videos written.

    Files are written atomically, so an interrupted call can be repeated.

    Args:
        videos: Path and scene of each video.
        size: Height and width in pixels.
        fps: Frames per second.
        progress: Called after each video with the number of finished videos and their total.

    Raises:
        VidretError: A file cannot be written.
    """
    num_written = 0
    for num_done, (path, scene) in enumerate(videos, start=1):
        signature = scene_signature(scene, size=size, fps=fps)
        if read_signature(path) != signature:
            partial = path.with_name(path.name + ".part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_frames(partial, render(scene, size), fps=fps, signature=signature)
                partial.replace(path)
            except (av.FFmpegError, OSError) as error:
                raise VidretError(f"{path}: cannot be written: {error.strerror}") from error
            num_written += 1
        if progress is not None:
            progress(num_done, len(videos))
    return num_written


def scene_signature(scene: Scene, *, size: int, fps: int) -> str:
    """Return a hash of everything that a scene's video depends on."""
    options = sorted(_ENCODER_OPTIONS.items())
    return hashlib.sha256(repr((RENDER_VERSION, options, size, fps, astuple(scene))).encode()).hexdigest()[:32]


def read_signature(path: Path) -> str | None:
    """Return the signature stored in a video; None if the file does not exist or has none."""
    if not path.is_file():
        return None
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment")
    except (av.FFmpegError, OSError, ValueError):
        return None


def write_frames(path: Path, frames: UInt8[np.ndarray, "frame size size 3"], *, fps: int, signature: str) -> None:
    """Encode frames as H.264 in mp4. Equal frames give equal bytes with the same build of libx264."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = signature
        stream = cast(Any, container.add_stream("libx264", rate=fps, options=_ENCODER_OPTIONS))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
