"""Synthetic benchmarks on disk: rendered videos with annotation files in the formats of MSR-VTT and QVHighlights.

A video carries a signature of its scene, so that none is rendered twice.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from jaxtyping import UInt8

from vidret.data.benchmarks.files import read_jsonl
from vidret.data.synthetic.annotations import (
    PAIRS_FILES,
    CaptionedScene,
    QueryRow,
    caption_pairs,
    label_film,
    write_msrvtt,
    write_qvhighlights,
)
from vidret.data.synthetic.generation import draw_films, draw_pairs
from vidret.data.synthetic.render import render
from vidret.data.synthetic.scenes import SPLITS, Scene, SplitName
from vidret.disk import replacing
from vidret.errors import VidretError

RENDER_VERSION = 1  # part of the signature; increment it when rendering or encoding changes
# All frames are intra-coded with equal quality, so that none shows traces of the frame before it. The bytes are
# reproducible: x264's macroblock tree, which needs several frames, gave different bytes in 1 to 25 of 100 runs.
_ENCODER_OPTIONS = {"preset": "veryfast", "qp": "20", "g": "1", "threads": "1", "x264-params": "cpu-independent=1"}

Progress = Callable[[int, int], None]


def write_scenes(videos: Sequence[tuple[Path, Scene]], *, size: int, fps: int, progress: Progress | None = None) -> int:
    """Write the video of each scene that does not exist yet, and return the number of videos written.

    Files are written atomically, so an interrupted call can be repeated.

    Raises:
        VidretError: A file cannot be written.
    """
    num_written = 0
    for num_done, (path, scene) in enumerate(videos, start=1):
        signature = scene_signature(scene, size=size, fps=fps)
        if read_signature(path) != signature:
            with replacing(path) as draft:
                write_frames(draft, render(scene, size), fps=fps, signature=signature)
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


MIN_SIZE = 32


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """Two videos and their captions, both of which differ in exactly one respect, ``kind``."""

    kind: str
    videos: tuple[str, str]
    captions: tuple[str, str]


def write_retrieval_world(
    folder: str | Path,
    *,
    seed: int = 0,
    num_train: int = 2000,
    num_val: int = 200,
    num_test: int = 500,
    num_captions: int = 4,
    size: int = 96,
    num_frames: int = 12,
    fps: int = 3,
    progress: Progress | None = None,
) -> int:
    """Write short captioned videos in the format of MSR-VTT; ``read_split("msrvtt-1k-a", folder)`` reads the test set.

    Every split consists of pairs of videos that differ in exactly one respect: the direction of an action, the order of
    two actions, the relation of two objects, the number of objects, or their appearance. The two videos of a direction
    or order pair have the same frames in a different order. No combination of a shape with a colour or with a kind of
    action is in two splits. In val and test each caption, read as a complete description, matches one video only.

    Writes videos/, MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv, the pairs of val and test (see
    ``read_pairs``), and captions.jsonl with the test videos and the kinds of their pairs. Existing videos are not
    rendered again. Larger counts in a later call keep the first videos and add more. Equal arguments give equal
    annotations and equal pixels.

    All numbers of videos are even, and so are the height and width in pixels (``size``) and the number of frames. From
    400 training videos on, every part occurs. A video has ``num_captions``, or fewer if there are not enough wordings.
    ``progress`` is called after each video with the number of finished videos and their total.

    Returns:
        The number of videos rendered.

    Raises:
        VidretError: An argument is invalid, there are not enough different scenes, or a file cannot be written.
    """
    folder = Path(folder)
    counts: dict[SplitName, int] = {"train": num_train, "val": num_val, "test": num_test}
    for split, count in counts.items():
        if count < 2 or count % 2:
            raise VidretError(f"num_{split} must be even and at least 2, got {count}")
    if num_captions < 1 or num_frames < 4 or num_frames % 2:
        raise VidretError(
            f"num_captions must be at least 1 and num_frames even and at least 4, got {num_captions} and {num_frames}"
        )
    _check_arguments(seed, size, fps)
    videos: list[CaptionedScene] = []
    for split, count in counts.items():
        pairs = draw_pairs(split, count // 2, seed=seed, num_frames=num_frames)
        videos += caption_pairs(split, pairs, seed=seed, num_captions=num_captions)
    scenes = [(folder / "videos" / f"{video.video}.mp4", video.scene) for video in videos]
    num_written = write_scenes(scenes, size=size, fps=fps, progress=progress)
    write_msrvtt(folder, videos, duration_s=num_frames / fps)
    return num_written


def write_grounding_world(
    folder: str | Path,
    *,
    seed: int = 0,
    num_train: int = 200,
    num_val: int = 40,
    num_test: int = 40,
    size: int = 64,
    fps: int = 2,
    progress: Progress | None = None,
) -> int:
    """Write long videos with events in the format of QVHighlights; ``read_split("qvhighlights", folder)`` reads val.

    Videos last 40 to 90 s. Each event is a query, and its windows are exact to the frame and consist of whole 2 s
    clips. An event may recur, and often so does its opposite. Between events there is the background or a resting
    object. Saliency is 0 to 4, highest in the clips where the objects are most visible, and differs between annotators.
    Combinations are reserved for the splits as in ``write_retrieval_world``.

    Writes videos/ and highlight_{train,val,test}_release.jsonl. The test file has no labels, as in the benchmark;
    moments.jsonl has them: ``read_split("moments", folder)``.

    All else is as in ``write_retrieval_world``.

    Raises:
        VidretError: An argument is invalid, or a file cannot be written.
    """
    folder = Path(folder)
    counts: dict[SplitName, int] = {"train": num_train, "val": num_val, "test": num_test}
    if min(counts.values()) < 1:
        raise VidretError(f"num_train, num_val and num_test must be at least 1, got {(*counts.values(),)}")
    _check_arguments(seed, size, fps)
    scenes: list[tuple[Path, Scene]] = []
    rows: dict[SplitName, list[QueryRow]] = {split: [] for split in SPLITS}
    for split, count in counts.items():
        for film_index, film in enumerate(draw_films(split, count, seed=seed, fps=fps)):
            video_id = f"{split}{film_index}"
            scenes.append((folder / "videos" / f"{video_id}.mp4", film))
            rows[split] += label_film(film, video_id, split=split, seed=seed, film_index=film_index, fps=fps)
    num_written = write_scenes(scenes, size=size, fps=fps, progress=progress)
    write_qvhighlights(folder, rows)
    return num_written


def read_pairs(folder: str | Path, split: Literal["val", "test"] = "test") -> list[CaptionPair]:
    """Read the pairs of a split of ``write_retrieval_world``.

    A model is correct on a pair if it scores both captions higher with their own video than with the other one. By
    construction, a model that ignores the order of frames is at chance where ``kind`` is direction or order.

    Raises:
        VidretError: The file does not exist or is invalid.
    """
    pairs = []
    for row in read_jsonl(Path(folder) / PAIRS_FILES[split]):
        videos, captions = row.texts("videos"), row.texts("captions")
        if len(videos) != 2 or len(captions) != 2:
            raise row.error(f"videos and captions must have two items each, got {len(videos)} and {len(captions)}")
        pair = CaptionPair(kind=row.text("kind"), videos=(videos[0], videos[1]), captions=(captions[0], captions[1]))
        pairs.append(pair)
    return pairs


def _check_arguments(seed: int, size: int, fps: int) -> None:
    if seed < 0:
        raise VidretError(f"seed must be at least 0, got {seed}")
    if size < MIN_SIZE or size % 2:
        raise VidretError(f"size must be even and at least {MIN_SIZE}, got {size}")
    if fps < 1:
        raise VidretError(f"fps must be at least 1, got {fps}")
