"""Write the synthetic world: rendered videos with annotation files in the formats of MSR-VTT and QVHighlights.

    python tools/make_synthetic.py OUT [--seed 0] [--short 2000 200 500] [--films 200 40 40] [--size 96 64]

OUT/msrvtt holds short captioned videos, OUT/qvhighlights long ones with moments; the numbers are of train, val and
test, and the sizes are pixels a side. A video carries a signature of its scene, so that none is rendered twice, and an
interrupted call can be repeated. Larger counts in a later call keep the first videos and add more. Equal arguments give
equal annotations and pixels.
"""

import csv
import hashlib
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from harness import make_parser, tell, write_film

from vidret.data.benchmarks.captions import OFFICIAL_SPLITS
from vidret.data.benchmarks.files import read_jsonl
from vidret.data.synthetic.captions import CaptionedScene, caption_pairs, write_captions
from vidret.data.synthetic.generation import (
    PAIR_KINDS,
    Random,
    choose,
    draw_actor,
    draw_appearance,
    draw_pairs,
    draw_relation,
    draw_shot,
)
from vidret.data.synthetic.render import compute_poses, render
from vidret.data.synthetic.scenes import OPPOSITES, RESTS, SPLITS, Scene, SceneShot, SplitName, Statement
from vidret.disk import replacing
from vidret.errors import VidretError

CLIP_SECONDS = 2  # as in QVHighlights
FILM_SECONDS = (40, 90)
NUM_ANNOTATORS = 3
QIDS_PER_SPLIT = 100_000_000
QIDS_PER_VIDEO = 1_000
MIN_SIZE = 32

PAIRS_FILES: dict[SplitName, str] = {"val": "pairs_val.jsonl", "test": "pairs.jsonl"}
UNLABELLED_FIELDS = ("qid", "query", "duration", "vid")
FILM_STREAM, SALIENCY_STREAM, QUERY_STREAM = 1, 3, 4  # of randomness; pairs use 0 and 2

QueryRow = dict[str, Any]

RENDER_VERSION = 1  # part of the signature; increment it when rendering or encoding changes
# All frames are intra-coded with equal quality, so that none shows traces of the frame before it. The bytes are
# reproducible: x264's macroblock tree, which needs several frames, gave different bytes in 1 to 25 of 100 runs.
_ENCODER_OPTIONS = {"preset": "veryfast", "qp": "20", "g": "1", "threads": "1", "x264-params": "cpu-independent=1"}


def write_scenes(videos: Sequence[tuple[Path, Scene]], *, size: int, fps: int) -> int:
    """Write the video of each scene that does not exist yet, and return the number of videos written."""
    num_written = 0
    for num_done, (path, scene) in enumerate(videos, start=1):
        signature = sign_scene(scene, size=size, fps=fps)
        if read_signature(path) != signature:
            with replacing(path) as draft:
                write_film(draft, render(scene, size), fps, _ENCODER_OPTIONS, comment=signature)
            num_written += 1
        if num_done % 100 == 0 or num_done == len(videos):
            print(f"\r{num_done} of {len(videos)}", end="\n" if num_done == len(videos) else "", file=sys.stderr)
    return num_written


def sign_scene(scene: Scene, *, size: int, fps: int) -> str:
    """Return a hash of everything that a scene's video depends on."""
    options = sorted(_ENCODER_OPTIONS.items())
    return hashlib.sha256(repr((RENDER_VERSION, options, size, fps, astuple(scene))).encode()).hexdigest()[:32]


def read_signature(path: Path) -> str | None:
    """Return the signature stored in a video; None if the file does not exist or has none."""
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment")
    except (av.FFmpegError, OSError, ValueError):
        return None


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
) -> int:
    """Write short captioned videos in the format of MSR-VTT, and return the number of videos rendered.

    Every split consists of pairs of videos that differ in exactly one respect: the direction of an action, the order of
    two actions, the relation of two objects, the number of objects, or their appearance. The two videos of a direction
    or order pair have the same frames in a different order. No combination of a shape with a colour or with a kind of
    action is in two splits. In val and test each caption, read as a complete description, matches one video only.

    All numbers of videos are even, and so are the height and width in pixels (``size``) and the number of frames. From
    400 training videos on, every part occurs. A video has ``num_captions``, or fewer if there are not enough wordings.
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
    check_arguments(seed, size, fps)
    videos = list[CaptionedScene]()
    for split, count in counts.items():
        pairs = draw_pairs(split, count // 2, seed=seed, num_frames=num_frames)
        videos += caption_pairs(split, pairs, seed=seed, num_captions=num_captions)
    scenes = [(folder / "videos" / f"{video.video}.mp4", video.scene) for video in videos]
    num_written = write_scenes(scenes, size=size, fps=fps)
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
) -> int:
    """Write long videos with events in the format of QVHighlights, and return the number of videos rendered.

    Videos last 40 to 90 s. Each event is a query, and its windows are exact to the frame and consist of whole 2 s
    clips. An event may recur, and often so does its opposite. Between events there is the background or a resting
    object. Saliency is 0 to 4, highest in the clips where the objects are most visible, and differs between annotators.
    Combinations are reserved for the splits as in ``write_retrieval_world``. The test file has no labels, as in the
    benchmark; moments.jsonl has them.
    """
    folder = Path(folder)
    counts: dict[SplitName, int] = {"train": num_train, "val": num_val, "test": num_test}
    if min(counts.values()) < 1:
        raise VidretError(f"num_train, num_val and num_test must be at least 1, got {(*counts.values(),)}")
    check_arguments(seed, size, fps)
    scenes: list[tuple[Path, Scene]] = []
    rows: dict[SplitName, list[QueryRow]] = {split: [] for split in SPLITS}
    for split, count in counts.items():
        for film_index, film in enumerate(draw_films(split, count, seed=seed, fps=fps)):
            video_id = f"{split}{film_index}"
            scenes.append((folder / "videos" / f"{video_id}.mp4", film))
            rows[split] += label_film(film, video_id, split=split, seed=seed, film_index=film_index, fps=fps)
    num_written = write_scenes(scenes, size=size, fps=fps)
    write_qvhighlights(folder, rows)
    return num_written


def read_pairs(folder: str | Path, split: Literal["val", "test"] = "test") -> list[CaptionPair]:
    """Read the pairs of a split of ``write_retrieval_world``.

    A model is correct on a pair if it scores both captions higher with their own video than with the other one. By
    construction, a model that ignores the order of frames is at chance where ``kind`` is direction or order.
    """
    pairs = []
    for row in read_jsonl(Path(folder) / PAIRS_FILES[split]):
        (one, other), (text, other_text) = row.texts("videos"), row.texts("captions")
        pairs.append(CaptionPair(kind=row.text("kind"), videos=(one, other), captions=(text, other_text)))
    return pairs


def check_arguments(seed: int, size: int, fps: int) -> None:
    """Refuse what cannot be drawn."""
    if seed < 0:
        raise VidretError(f"seed must be at least 0, got {seed}")
    if size < MIN_SIZE or size % 2:
        raise VidretError(f"size must be even and at least {MIN_SIZE}, got {size}")
    if fps < 1:
        raise VidretError(f"fps must be at least 1, got {fps}")


def draw_films(split: SplitName, num_films: int, *, seed: int, fps: int) -> list[Scene]:
    """Draw long videos of whole clips. A larger ``num_films`` only appends films."""
    films = []
    for film_index in range(num_films):
        random = np.random.default_rng((seed, FILM_STREAM, SPLITS.index(split), film_index))
        shortest, longest = (seconds // CLIP_SECONDS for seconds in FILM_SECONDS)
        num_clips = int(random.integers(shortest, longest + 1))
        films.append(draw_film(random, split, frames_per_clip=CLIP_SECONDS * fps, num_clips=num_clips))
    return films


def draw_film(random: Random, split: SplitName, *, frames_per_clip: int, num_clips: int) -> Scene:
    """Draw a long video of ``num_clips`` clips: events of 3 to 7 clips with pauses of 1 to 3 clips between them.

    Half of the later events repeat an earlier one, forwards or backwards. A third of the pauses show a resting object.
    """
    shots: list[SceneShot] = []
    events: list[SceneShot] = []
    num_remaining = num_clips
    while True:
        pause, length = int(random.integers(1, 4)), int(random.integers(3, 8))
        if pause + length >= num_remaining:
            break
        shots.append(draw_pause(random, split, pause * frames_per_clip))
        events.append(draw_event(random, split, length * frames_per_clip, events))
        shots.append(events[-1])
        num_remaining -= pause + length
    shots.append(draw_pause(random, split, num_remaining * frames_per_clip))
    return Scene(tuple(shots), int(random.integers(1 << 32)))


def draw_event(random: Random, split: SplitName, num_frames: int, earlier: list[SceneShot]) -> SceneShot:
    """Draw the next event: a new one, or an earlier one or its opposite at another position."""
    if earlier and random.random() < 0.5:
        repeated = choose(random, earlier)
        verb = repeated.action.verb
        verb = OPPOSITES.get(verb, verb) if random.random() < 0.7 else verb
        if repeated.other is None:
            return draw_shot(random, repeated.objects[0].appearance, verb, len(repeated.objects), num_frames)
    if random.random() < 0.2:
        return draw_relation(random, split, num_frames)[0][0]
    return draw_shot(random, *draw_actor(random, split), int(random.integers(1, 4)), num_frames)


def draw_pause(random: Random, split: SplitName, num_frames: int) -> SceneShot:
    """Draw a shot without an event: the background only, or a resting object."""
    if random.random() < 0.33:
        return draw_shot(random, draw_appearance(random, split), RESTS, 1, num_frames)
    return SceneShot(num_frames)


def write_msrvtt(folder: Path, videos: Sequence[CaptionedScene], *, duration_s: float) -> None:
    """Write the files of MSR-VTT, the pairs of val and test, and the test split as custom captions."""
    video_rows = [
        {
            "category": PAIR_KINDS.index(video.kind),
            "video_id": video.video,
            "start time": 0.0,
            "end time": duration_s,
            "split": OFFICIAL_SPLITS[video.split],
            "id": index,
        }
        for index, video in enumerate(videos)
    ]
    captions = [(video.video, caption) for video in videos for caption in video.captions]
    sentences = [{"caption": text, "video_id": video_id, "sen_id": n} for n, (video_id, text) in enumerate(captions)]
    write_text(folder / "MSRVTT_data.json", json.dumps({"videos": video_rows, "sentences": sentences}) + "\n")
    train = [video.video for video in videos if video.split == "train"]
    write_text(folder / "MSRVTT_train.9k.csv", "\n".join(["video_id", *train]) + "\n")
    test = [video for video in videos if video.split == "test"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("key", "vid_key", "video_id", "sentence"))
    writer.writerows((f"ret{n}", f"msr{n}", video.video, video.captions[0]) for n, video in enumerate(test))
    write_text(folder / "MSRVTT_JSFUSION_test.csv", table.getvalue())
    write_lines(
        folder / "captions.jsonl",
        [{"video": video.video, "captions": list(video.captions), "kind": video.kind} for video in test],
    )
    for split, file_name in PAIRS_FILES.items():
        in_split = [video for video in videos if video.split == split]
        pairs = [
            {"kind": one.kind, "videos": [one.video, two.video], "captions": [one.captions[0], two.captions[0]]}
            for one, two in zip(in_split[::2], in_split[1::2], strict=True)
        ]
        write_lines(folder / file_name, pairs)


def label_film(film: Scene, video_id: str, *, split: SplitName, seed: int, film_index: int, fps: int) -> list[QueryRow]:
    """Return a query with windows, clips and saliency for each event of a film."""
    split_index = SPLITS.index(split)
    random = np.random.default_rng((seed, SALIENCY_STREAM, split_index, film_index))
    starts = np.cumsum([0, *(shot.num_frames for shot in film.shots)])
    events: dict[Statement, QueryRow] = {}
    for start, shot in zip(starts.tolist(), film.shots, strict=False):
        if shot.statement is None or (shot.action.verb == RESTS and shot.relation is None):
            continue
        labels = events.setdefault(
            shot.statement, {"relevant_clip_ids": [], "saliency_scores": [], "relevant_windows": []}
        )
        start_s, end_s = start / fps, (start + shot.num_frames) / fps
        labels["relevant_clip_ids"] += range(int(start_s / CLIP_SECONDS), int(end_s / CLIP_SECONDS))
        labels["saliency_scores"] += score_clips(shot, CLIP_SECONDS * fps, random)
        labels["relevant_windows"].append([start_s, end_s])
    rows: list[QueryRow] = []
    for event_index, (statement, labels) in enumerate(events.items()):
        key = (seed, QUERY_STREAM, split_index, film_index, event_index)
        (text,) = write_captions((statement,), key, 1)
        qid = split_index * QIDS_PER_SPLIT + film_index * QIDS_PER_VIDEO + event_index
        rows.append({"qid": qid, "query": text, "duration": int(starts[-1]) / fps, "vid": video_id, **labels})
    return rows


def score_clips(shot: SceneShot, frames_per_clip: int, random: Random) -> list[list[int]]:
    """Return the saliency of each clip of a shot for each annotator, in 0..4.

    Saliency is 4 where the objects are most visible and falls with their area and opacity. The first annotator is
    exact; the others sometimes score one less.
    """
    poses = compute_poses(shot.action, shot.num_frames)
    visibility = (poses.scale**2 * poses.opacity).reshape(-1, frames_per_clip).mean(axis=1)
    exact = np.round(1 + 3 * visibility).astype(int)
    deductions = random.integers(0, 2, (len(exact), NUM_ANNOTATORS))
    deductions[:, 0] = 0
    scores: list[list[int]] = (exact[:, None] - deductions).tolist()
    return scores


def write_qvhighlights(folder: Path, rows: Mapping[SplitName, Sequence[QueryRow]]) -> None:
    """Write the files of QVHighlights. Its test split has no labels; moments.jsonl has them."""
    for split in SPLITS:
        public_rows = rows[split]
        if split == "test":
            public_rows = [{name: row[name] for name in UNLABELLED_FIELDS} for row in rows[split]]
        write_lines(folder / f"highlight_{split}_release.jsonl", public_rows)
    write_lines(folder / "moments.jsonl", rows["test"])


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a JSONL file."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    with replacing(path) as draft:
        draft.write_text(text, "utf-8")


def main() -> None:
    """Write both worlds."""
    parser = make_parser(__doc__, "out", seed=0)
    for name, counts in (("--short", (2000, 200, 500)), ("--films", (200, 40, 40))):
        parser.add_argument(name, type=int, nargs=3, default=counts, metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--size", type=int, nargs=2, default=(96, 64), metavar=("SHORT", "FILMS"))
    given = parser.parse_args()
    write_short = partial(write_retrieval_world, given.out / "msrvtt", num_frames=6, size=given.size[0])
    write_long = partial(write_grounding_world, given.out / "qvhighlights", size=given.size[1])
    for name, write, counts in (("short videos", write_short, given.short), ("films", write_long, given.films)):
        started, (num_train, num_val, num_test) = time.perf_counter(), counts
        try:
            num_drawn = write(seed=given.seed, num_train=num_train, num_val=num_val, num_test=num_test, fps=2)
        except VidretError as error:
            sys.exit(str(error))
        tell(f"{name}: {sum(counts)}, drawn now {num_drawn} in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
