"""A synthetic world: rendered videos and annotation files in the benchmarks' own forms, all of it from one seed.

It asks for what the methods here claim to give: what things look like, how many there are and where, what they do, and
in which order. Its readers are those of MSR-VTT and QVHighlights.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vidret.data.benchmarks.files import read_jsonl
from vidret.data.synthetic.annotations import (
    PAIRS,
    CaptionedScene,
    QueryRow,
    list_entries,
    list_queries,
    write_msrvtt,
    write_qvhighlights,
)
from vidret.data.synthetic.generation import draw_films, draw_pairs
from vidret.data.synthetic.scenes import SPLITS, Scene, SplitName
from vidret.data.synthetic.video import Progress, write_scenes
from vidret.errors import VidretError

SMALLEST_SIZE = 32


@dataclass(frozen=True, slots=True)
class CaptionPair:
    """Two videos that differ in one respect alone, ``kind``, and the caption of each, which differ in it alone too."""

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
    """Write short captioned videos as MSR-VTT has them; ``read_split("msrvtt-1k-a", folder)`` reads the test split.

    Every split is made of pairs of videos that differ in one respect alone: the direction of an action, the order of
    two, how two things stand to each other, how many there are, what they look like. The two videos of a pair of
    direction or of order have the same frames in another order. No combination of a shape with a colour or with a kind
    of action is in two splits. In val and test each caption is true of one video alone, taken to tell all there is.

    Writes videos/, MSRVTT_data.json, MSRVTT_train.9k.csv and MSRVTT_JSFUSION_test.csv, the pairs of val and test (see
    ``read_pairs``), and captions.jsonl (the videos of test with the kinds of their pairs). Videos that are
    there already are not drawn again; a world may be made larger later on, and its first videos stay.

    Args:
        folder: Where to write.
        seed: Decides everything: equal arguments give equal annotations and equal pixels.
        num_train: How many videos to train on; even, as all counts of videos. With 400 or more every part occurs.
        num_val: How many to choose by.
        num_test: How many to measure on; as many queries.
        num_captions: Captions a video, each in other words, if there are so many ways to say it.
        size: Height and width in pixels, even.
        num_frames: Frames a video, even.
        fps: Frames a second.
        progress: Told how many videos are done, and of how many, after each.

    Returns:
        How many videos were drawn now.

    Raises:
        VidretError: A number breaks its rule, there is not so much to say, or a file cannot be written.
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
    _check(seed, size, fps)
    entries: list[CaptionedScene] = []
    for split, count in counts.items():
        pairs = draw_pairs(split, count // 2, seed=seed, num_frames=num_frames)
        entries += list_entries(split, pairs, seed=seed, num_captions=num_captions)
    scenes = [(folder / "videos" / f"{entry.video}.mp4", entry.scene) for entry in entries]
    num_drawn = write_scenes(scenes, size=size, fps=fps, progress=progress)
    write_msrvtt(folder, entries, seconds=num_frames / fps)
    return num_drawn


def write_grounding_world(
    folder: str | Path,
    *,
    seed: int = 0,
    num_train: int = 200,
    num_val: int = 40,
    num_test: int = 40,
    num_wordings: int = 1,
    size: int = 64,
    fps: int = 2,
    progress: Progress | None = None,
) -> int:
    """Write long videos with events as QVHighlights has them; ``read_split("qvhighlights", folder)`` reads val.

    Videos last 40 to 90 s. An event is a query, and its windows are where it happens, exact to the frame, in whole
    clips of 2 s; an event may come again, and often its opposite does too. Between events there is the background, or
    something that rests. The marks of saliency are 0 to 4: the best clips are those in which most of the things can be
    seen, and annotators differ. Combinations are dealt out to the splits as in the retrieval world.

    Writes videos/ and highlight_{train,val,test}_release.jsonl, that of test without the labels, as the benchmark keeps
    them; moments.jsonl has them: ``read_split("moments", folder)``.

    Args:
        folder: Where to write.
        seed: Decides everything: equal arguments give equal annotations and equal pixels.
        num_train: How many videos to train on.
        num_val: How many to choose by.
        num_test: How many to measure on.
        num_wordings: How many queries to make of an event, each in other words, if there are so many ways to say it.
        size: Height and width in pixels, even.
        fps: Frames a second.
        progress: Told how many videos are done, and of how many, after each.

    Returns:
        How many videos were drawn now.

    Raises:
        VidretError: A number breaks its rule, or a file cannot be written.
    """
    folder = Path(folder)
    counts: dict[SplitName, int] = {"train": num_train, "val": num_val, "test": num_test}
    if min(*counts.values(), num_wordings) < 1:
        numbers = (*counts.values(), num_wordings)
        raise VidretError(f"num_train, num_val, num_test and num_wordings must be at least 1, got {numbers}")
    _check(seed, size, fps)
    scenes: list[tuple[Path, Scene]] = []
    rows: dict[SplitName, list[QueryRow]] = {split: [] for split in SPLITS}
    for split, count in counts.items():
        for number, film in enumerate(draw_films(split, count, seed=seed, fps=fps)):
            name = f"{split}{number}"
            scenes.append((folder / "videos" / f"{name}.mp4", film))
            rows[split] += list_queries(
                film, name, split=split, seed=seed, number=number, num_wordings=num_wordings, fps=fps
            )
    num_drawn = write_scenes(scenes, size=size, fps=fps, progress=progress)
    write_qvhighlights(folder, rows)
    return num_drawn


def read_pairs(folder: str | Path, split: Literal["val", "test"] = "test") -> list[CaptionPair]:
    """Read the pairs of a retrieval world's test split, or of val.

    On each pair a model is right that scores both captions higher with their own video than with the other. By
    construction, one that forgets the order of frames cannot do better than chance where ``kind`` is direction or
    order.

    Raises:
        VidretError: The file is not there, or breaks its rule.
    """
    pairs = []
    for row in read_jsonl(Path(folder) / PAIRS[split]):
        videos, captions = row.texts("videos"), row.texts("captions")
        if len(videos) != 2 or len(captions) != 2:
            raise row.error(f"videos and captions must be two each, got {len(videos)} and {len(captions)}")
        pairs.append(CaptionPair(row.text("kind"), (videos[0], videos[1]), (captions[0], captions[1])))
    return pairs


def _check(seed: int, size: int, fps: int) -> None:
    if seed < 0:
        raise VidretError(f"seed must be at least 0, got {seed}")
    if size < SMALLEST_SIZE or size % 2:
        raise VidretError(f"size must be even and at least {SMALLEST_SIZE}, got {size}")
    if fps < 1:
        raise VidretError(f"fps must be at least 1, got {fps}")
