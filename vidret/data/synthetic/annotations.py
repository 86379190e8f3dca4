"""What is known of synthetic scenes -> annotation files, in the forms of MSR-VTT and of QVHighlights."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidret.data.benchmarks.msrvtt import OFFICIAL_SPLITS
from vidret.data.synthetic.captions import word
from vidret.data.synthetic.generation import CLIP_SECONDS, PAIR_KINDS, PairKind, Random, ScenePair
from vidret.data.synthetic.render import find_poses
from vidret.data.synthetic.scenes import RESTS, SPLITS, Scene, SceneShot, SplitName, Statement
from vidret.errors import VidretError

NUM_ANNOTATORS = 3
QIDS_A_SPLIT = 100_000_000
QIDS_A_VIDEO = 1_000

PAIRS: dict[SplitName, str] = {"val": "pairs_val.jsonl", "test": "pairs.jsonl"}
UNLABELLED = ("qid", "query", "duration", "vid")
WORDS, MARKS, QUESTIONS = 2, 3, 4  # what chance is asked for beside scenes; 0 and 1 are theirs

QueryRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CaptionedScene:
    """A short video: its name, what it shows, of which kind its pair is, and its captions."""

    video: str
    split: SplitName
    kind: PairKind
    scene: Scene
    captions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventLabels:
    """Where in a film something happens: windows in seconds, the clips in them, and each annotator's mark of each."""

    windows: list[list[float]]
    clips: list[int]
    marks: list[list[int]]


def list_entries(split: SplitName, pairs: Sequence[ScenePair], *, seed: int, num_captions: int) -> list[CaptionedScene]:
    """Name and word the videos of a split, those of a pair one after the other and, caption by caption, alike."""
    entries = []
    for number, pair in enumerate(pairs):
        key = (seed, WORDS, SPLITS.index(split), number)
        for half, scene in enumerate(pair.scenes):
            captions = word(scene.statements, key, num_captions)
            entries.append(CaptionedScene(f"{split}{2 * number + half}", split, pair.kind, scene, captions))
    return entries


def write_msrvtt(folder: Path, entries: Sequence[CaptionedScene], *, seconds: float) -> None:
    """Write the files of MSR-VTT, of val and test the pairs, and of test one's own captions."""
    videos = [
        {
            "category": PAIR_KINDS.index(entry.kind),
            "video_id": entry.video,
            "start time": 0.0,
            "end time": seconds,
            "split": OFFICIAL_SPLITS[entry.split],
            "id": number,
        }
        for number, entry in enumerate(entries)
    ]
    said = [(entry.video, caption) for entry in entries for caption in entry.captions]
    sentences = [{"caption": text, "video_id": video, "sen_id": n} for n, (video, text) in enumerate(said)]
    _write(folder / "MSRVTT_data.json", json.dumps({"videos": videos, "sentences": sentences}) + "\n")
    train = [entry.video for entry in entries if entry.split == "train"]
    _write(folder / "MSRVTT_train.9k.csv", "\n".join(["video_id", *train]) + "\n")
    test = [entry for entry in entries if entry.split == "test"]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("key", "vid_key", "video_id", "sentence"))
    writer.writerows((f"ret{n}", f"msr{n}", entry.video, entry.captions[0]) for n, entry in enumerate(test))
    _write(folder / "MSRVTT_JSFUSION_test.csv", table.getvalue())
    _write_lines(
        folder / "captions.jsonl",
        [{"video": each.video, "captions": list(each.captions), "kind": each.kind} for each in test],
    )
    for split, name in PAIRS.items():
        shown = [entry for entry in entries if entry.split == split]
        pairs = [
            {"kind": one.kind, "videos": [one.video, two.video], "captions": [one.captions[0], two.captions[0]]}
            for one, two in zip(shown[::2], shown[1::2], strict=True)
        ]
        _write_lines(folder / name, pairs)


def list_queries(
    film: Scene, video: str, *, split: SplitName, seed: int, number: int, num_wordings: int, fps: int
) -> list[QueryRow]:
    """Ask for each thing that happens in the ``number``-th film of a split: a row has windows, clips and saliency."""
    code = SPLITS.index(split)
    random = np.random.default_rng((seed, MARKS, code, number))
    starts = np.cumsum([0, *(shot.num_frames for shot in film.shots)])
    found: dict[Statement, EventLabels] = {}
    for start, shot in zip(starts.tolist(), film.shots, strict=False):
        if shot.statement is None or (shot.action.verb == RESTS and shot.relation is None):
            continue
        answer = found.setdefault(shot.statement, EventLabels(windows=[], clips=[], marks=[]))
        first, end = start / fps, (start + shot.num_frames) / fps
        answer.windows.append([first, end])
        answer.clips.extend(range(int(first / CLIP_SECONDS), int(end / CLIP_SECONDS)))
        answer.marks.extend(mark_clips(shot, CLIP_SECONDS * fps, random))
    rows: list[QueryRow] = []
    for place, (statement, answer) in enumerate(found.items()):
        for text in word((statement,), (seed, QUESTIONS, code, number, place), num_wordings):
            rows.append(
                {
                    "qid": code * QIDS_A_SPLIT + number * QIDS_A_VIDEO + len(rows),
                    "query": text,
                    "duration": int(starts[-1]) / fps,
                    "vid": video,
                    "relevant_clip_ids": answer.clips,
                    "saliency_scores": answer.marks,
                    "relevant_windows": answer.windows,
                }
            )
    return rows


def mark_clips(shot: SceneShot, frames_per_clip: int, random: Random) -> list[list[int]]:
    """Mark the clips of a shot as annotators might: 4 where most of the things can be seen, then down to 1, or 0.

    What can be seen of things grows with their area and fades with their opacity. The first annotator is exact, the
    others sometimes mark one less.
    """
    poses = find_poses(shot.action, shot.num_frames)
    seen = (poses.scale**2 * poses.opacity).reshape(-1, frames_per_clip).mean(axis=1)
    marks = np.round(1 + 3 * seen).astype(int)
    doubts = random.integers(0, 2, (len(marks), NUM_ANNOTATORS))
    doubts[:, 0] = 0
    table: list[list[int]] = (marks[:, None] - doubts).tolist()
    return table


def write_qvhighlights(folder: Path, rows: Mapping[SplitName, Sequence[QueryRow]]) -> None:
    """Write the files of QVHighlights; the labels of its test split, which it keeps to itself, go to moments.jsonl."""
    for split in SPLITS:
        kept = [{name: row[name] for name in UNLABELLED} for row in rows[split]] if split == "test" else rows[split]
        _write_lines(folder / f"highlight_{split}_release.jsonl", kept)
    _write_lines(folder / "moments.jsonl", rows["test"])


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, "utf-8")
        fresh.replace(path)
    except OSError as error:
        raise VidretError(f"{path}: cannot be written: {error.strerror}") from error
