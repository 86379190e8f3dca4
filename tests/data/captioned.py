"""Test data: small videos whose frames show their own numbers, with captions or labelled queries."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.video.films import write_video
from vidret.types import Resize

RESIZE = Resize(32, 32)
RATE = 5
FAST = {"preset": "ultrafast", "g": "5"}


def write_numbered(path: Path, num_frames: int, *, first: int = 0, rate: int = RATE) -> Path:
    """Write a square video of numbered frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame_numbers = [(first + frame) % 256 for frame in range(num_frames)]
    return write_video(path, frame_numbers, size=(48, 48), rate=rate, options=FAST)


def write_captioned(folder: Path, captions: Sequence[int], *, num_frames: int = 15) -> Path:
    """Write videos v0, v1, ... with the given numbers of captions, and ``captions.jsonl``, into a folder."""
    lines = []
    for video, count in enumerate(captions):
        write_numbered(folder / "videos" / f"v{video}.mp4", num_frames + video, first=10 * video)
        lines.append({"video": f"v{video}", "captions": [f"caption {index} of {video}" for index in range(count)]})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def write_moments(folder: Path, queries: Sequence[int], *, num_frames: int = 40) -> Path:
    """Write videos v0, v1, ... with the given numbers of queries, and ``moments.jsonl``, into a folder."""
    lines = []
    for video, count in enumerate(queries):
        video_frames = num_frames + 10 * video
        write_numbered(folder / "videos" / f"v{video}.mp4", video_frames, first=10 * video)
        labels = {"relevant_windows": [[2, 6]], "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 2, 3], [1, 0, 2]]}
        for index in range(count):
            query = {"qid": 10 * video + index, "query": f"query {index}", "vid": f"v{video}"}
            lines.append(query | labels | {"duration": video_frames / RATE})
    (folder / "moments.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder
