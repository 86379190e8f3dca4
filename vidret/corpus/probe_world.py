"""The inputs of an encoder's probes: frames of videos with captions, and minimal pairs about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vidret.corpus.minimal_pairs import MinimalPair, ProbeKind, exchange_colours, make_absence_pair, make_pairs
from vidret.data.benchmarks.splits import read_split
from vidret.data.frames import read_indices
from vidret.data.records import find_videos
from vidret.data.synthetic.captions import CaptionedScene, caption_pairs
from vidret.data.synthetic.generation import PairKind, draw_pairs
from vidret.data.synthetic.render import render
from vidret.data.synthetic.scenes import SHAPES, Scene
from vidret.errors import DecodeError, VidretError
from vidret.text import format_count
from vidret.types import Frames, Resize
from vidret.video.probe import probe

NUM_FRAMES = 8  # of a video
NUM_SYNTHETIC_PAIRS = 100  # of scenes
MAX_VIDEOS = 400
OnProgress = Callable[[int, int], None]
# The difference between the two scenes of a synthetic pair.
SYNTHETIC: Mapping[PairKind, tuple[ProbeKind, str]] = {
    "look": ("attribute swap", "another colour, texture or shape"),
    "relation": ("relation swap", "the two objects exchanged"),
    "count": ("counting", "one more"),
    "direction": ("order in time", "the same action backwards"),
    "order": ("order in time", "the same two actions in the other order"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeWorld:
    """The evenly spaced frames of videos, minimal pairs about them, and notes on omissions.

    The first videos make the gallery, each with its caption.
    """

    name: str
    videos: Sequence[Frames]
    captions: Sequence[str]
    pairs: Sequence[MinimalPair]
    notes: tuple[str, ...] = ()


def draw_probe_world(size: int, *, seed: int = 0) -> ProbeWorld:
    """Return synthetic videos, each with its opposite, in frames of ``size`` pixels.

    Combinations of shapes, colours and actions are those of the test split. Raise VidretError if there are not enough
    different scenes.
    """
    drawn = draw_pairs("test", NUM_SYNTHETIC_PAIRS, seed=seed, num_frames=NUM_FRAMES)
    scenes = caption_pairs("test", drawn, seed=seed, num_captions=1)
    captions = [scene.captions[0] for scene in scenes]
    pairs = [_pair_with_twin(scenes, row) for row in range(len(scenes))]
    for row, (scene, caption) in enumerate(zip(scenes, captions, strict=True)):
        pairs += make_pairs([(row, caption)], ("word order",))
        pairs.append(_make_absence(scene, row))
        if scene.kind == "relation" and (wrong := exchange_colours(caption)) is not None:
            name = "two colours exchanged"
            pairs.append(MinimalPair(kind="attribute swap", rule=name, right=caption, wrong=wrong, video=row))
    swapped: list[Scene] = []
    for row in range(0, len(scenes), 2):
        other = (row + 2) % len(scenes)
        rule = "the background of the video that the wrong text describes"
        pairs.append(
            MinimalPair(
                kind="background swap",
                rule=rule,
                right=captions[row],
                wrong=captions[other],
                video=len(scenes) + len(swapped),
            )
        )
        swapped.append(replace(scenes[row].scene, background=scenes[other].scene.background))
    times = np.arange(NUM_FRAMES, dtype=np.float64) / 2
    videos = [Frames(render(scene, size), times) for scene in (*(scene.scene for scene in scenes), *swapped)]
    return ProbeWorld(name="synthetic", videos=videos, captions=captions, pairs=pairs)


def _pair_with_twin(scenes: Sequence[CaptionedScene], row: int) -> MinimalPair:
    """Return the pair of a scene's own caption and that of the other scene of its pair."""
    kind, rule = SYNTHETIC[scenes[row].kind]
    return MinimalPair(
        kind=kind, rule=rule, right=scenes[row].captions[0], wrong=scenes[row ^ 1].captions[0], video=row
    )


def _make_absence(scene: CaptionedScene, row: int) -> MinimalPair:
    """Return a pair about a shape that a scene shows and one that it does not show."""
    statements = scene.scene.statements
    shown = [statement.appearance.shape for statement in statements]
    shown += [statement.other.shape for statement in statements if statement.other is not None]
    absent = [shape for shape in SHAPES if shape not in shown]
    return make_absence_pair(shown[0], absent[row % len(absent)], row)


def read_probe_world(
    folder: Path, resize: Resize, *, seed: int = 0, on_progress: OnProgress | None = None
) -> ProbeWorld:
    """Return the videos of a folder with captions.jsonl, and the pairs that the rules make from their captions.

    Of more than ``MAX_VIDEOS`` videos some are drawn at random. Raise VidretError if the annotations are invalid, or
    fewer than two of their videos can be read.
    """
    split = read_split("captions", folder)
    files, missing = find_videos(split.videos, folder)
    notes = [f"missing: {format_count(len(missing), 'video')}"] if missing else []
    video_ids = [video_id for video_id in split.videos if video_id in files]
    if len(video_ids) > MAX_VIDEOS:
        drawn = np.random.default_rng(seed).permutation(len(video_ids))[:MAX_VIDEOS]
        notes.append(f"{MAX_VIDEOS} of {len(video_ids)} videos were drawn at random")
        video_ids = [video_ids[row] for row in np.sort(drawn)]
    texts: dict[str, list[str]] = {}
    for caption in split.captions:
        texts.setdefault(caption.video, []).append(caption.text)
    videos: list[Frames] = []
    captions: list[str] = []
    listed: list[tuple[int, str]] = []
    for num_done, video_id in enumerate(video_ids):
        if on_progress is not None:
            on_progress(num_done, len(video_ids))
        if video_id not in texts:
            continue
        try:
            info = probe(str(files[video_id]))
            spread = np.linspace(0, info.num_frames - 1, NUM_FRAMES)  # a short video repeats some
            frames = read_indices(info, spread.round().astype(np.int64), resize)
        except DecodeError as error:
            notes.append(f"{video_id} is unreadable: {error.reason}")
            continue
        captions.append(texts[video_id][0])
        listed += [(len(videos), text) for text in texts[video_id]]
        videos.append(frames)
    if len(videos) < 2:
        raise VidretError(f"{folder}: must have at least 2 readable videos with captions, got {len(videos)}")
    return ProbeWorld(name=str(folder), videos=videos, captions=captions, pairs=make_pairs(listed), notes=tuple(notes))
