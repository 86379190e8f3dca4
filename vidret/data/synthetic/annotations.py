"""Annotation files of synthetic scenes, in the formats of MSR-VTT and QVHighlights."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidret.data.benchmarks.captions import OFFICIAL_SPLITS
from vidret.data.synthetic.captions import write_captions
from vidret.data.synthetic.generation import CLIP_SECONDS, PAIR_KINDS, PairKind, Random, ScenePair
from vidret.data.synthetic.render import compute_poses
from vidret.data.synthetic.scenes import RESTS, SPLITS, Scene, SceneShot, SplitName, Statement
from vidret.errors import VidretError

NUM_ANNOTATORS = 3
QIDS_PER_SPLIT = 100_000_000
QIDS_PER_VIDEO = 1_000

PAIRS_FILES: dict[SplitName, str] = {"val": "pairs_val.jsonl", "test": "pairs.jsonl"}
UNLABELLED_FIELDS = ("qid", "query", "duration", "vid")
CAPTION_STREAM, SALIENCY_STREAM, QUERY_STREAM = 2, 3, 4  # of randomness; scenes use 0 and 1

QueryRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaptionedScene:
    """A short video: its id, its scene, the kind of its pair, and its captions."""

    video: str
    split: SplitName
    kind: PairKind
    scene: Scene
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventLabels:
    """Ground truth of an event: windows in seconds, indices of the clips in them, and saliency per annotator."""

    windows: list[list[float]]
    clips: list[int]
    saliency: list[list[int]]


def caption_pairs(
    split: SplitName, pairs: Sequence[ScenePair], *, seed: int, num_captions: int
) -> list[CaptionedScene]:
    """Return the videos of a split, pair by pair. Captions of a pair have the same wording at the same index."""
    videos = []
    for pair_index, pair in enumerate(pairs):
        key = (seed, CAPTION_STREAM, SPLITS.index(split), pair_index)
        for half, scene in enumerate(pair.scenes):
            videos.append(
                CaptionedScene(
                    video=f"{split}{2 * pair_index + half}",
                    split=split,
                    kind=pair.kind,
                    scene=scene,
                    captions=write_captions(scene.statements, key, num_captions),
                )
            )
    return videos


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
    _write(folder / "MSRVTT_data.json", json.dumps({"videos": video_rows, "sentences": sentences}) + "\n")
    train = [video.video for video in videos if video.split == "train"]
    _write(folder / "MSRVTT_train.9k.csv", "\n".join(["video_id", *train]) + "\n")
    test = [video for video in videos if video.split == "test"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("key", "vid_key", "video_id", "sentence"))
    writer.writerows((f"ret{n}", f"msr{n}", video.video, video.captions[0]) for n, video in enumerate(test))
    _write(folder / "MSRVTT_JSFUSION_test.csv", table.getvalue())
    _write_lines(
        folder / "captions.jsonl",
        [{"video": video.video, "captions": list(video.captions), "kind": video.kind} for video in test],
    )
    for split, file_name in PAIRS_FILES.items():
        in_split = [video for video in videos if video.split == split]
        pairs = [
            {"kind": one.kind, "videos": [one.video, two.video], "captions": [one.captions[0], two.captions[0]]}
            for one, two in zip(in_split[::2], in_split[1::2], strict=True)
        ]
        _write_lines(folder / file_name, pairs)


def label_film(
    film: Scene, video_id: str, *, split: SplitName, seed: int, film_index: int, num_wordings: int, fps: int
) -> list[QueryRow]:
    """Return a query with windows, clips and saliency for each event of a film."""
    split_index = SPLITS.index(split)
    random = np.random.default_rng((seed, SALIENCY_STREAM, split_index, film_index))
    starts = np.cumsum([0, *(shot.num_frames for shot in film.shots)])
    events: dict[Statement, EventLabels] = {}
    for start, shot in zip(starts.tolist(), film.shots, strict=False):
        if shot.statement is None or (shot.action.verb == RESTS and shot.relation is None):
            continue
        labels = events.setdefault(shot.statement, EventLabels(windows=[], clips=[], saliency=[]))
        start_s, end_s = start / fps, (start + shot.num_frames) / fps
        labels.windows.append([start_s, end_s])
        labels.clips.extend(range(int(start_s / CLIP_SECONDS), int(end_s / CLIP_SECONDS)))
        labels.saliency.extend(score_clips(shot, CLIP_SECONDS * fps, random))
    rows: list[QueryRow] = []
    for event_index, (statement, labels) in enumerate(events.items()):
        for text in write_captions(
            (statement,), (seed, QUERY_STREAM, split_index, film_index, event_index), num_wordings
        ):
            rows.append(
                {
                    "qid": split_index * QIDS_PER_SPLIT + film_index * QIDS_PER_VIDEO + len(rows),
                    "query": text,
                    "duration": int(starts[-1]) / fps,
                    "vid": video_id,
                    "relevant_clip_ids": labels.clips,
                    "saliency_scores": labels.saliency,
                    "relevant_windows": labels.windows,
                }
            )
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
        _write_lines(folder / f"highlight_{split}_release.jsonl", public_rows)
    _write_lines(folder / "moments.jsonl", rows["test"])


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """Write a file atomically."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        raise VidretError(f"{path}: cannot be written: {error.strerror}") from error
