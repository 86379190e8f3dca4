"""The contents of an index, to compare indexing runs, and files that are not good videos."""

import os
import random
from pathlib import Path

import numpy as np

from vidret.store.store import Store


def read_contents(index: Path) -> dict[tuple[str, int], bytes]:
    """Return the vectors and times of each segment, by the fingerprint of its video and its number."""
    contents: dict[tuple[str, int], bytes] = {}
    with Store.open(index) as store:
        for video_id in sorted({record.video for record in store.files.find() if record.video is not None}):
            fingerprint = store.videos.get(video_id).fingerprint
            ids = store.segments.ids_of_video(video_id)
            for segment, (frames, times) in zip(store.segments.get(ids), store.features.read_frames(ids), strict=True):
                key = (fingerprint, segment.number)
                assert key not in contents, "each segment is stored once"
                contents[key] = frames.tobytes() + times.tobytes() + np.array([segment.start, segment.end]).tobytes()
    return contents


def read_tokens(index: Path) -> dict[tuple[str, int], bytes]:
    """Return the packed tokens of each segment, by the name of its first path and its number."""
    with Store.open(index) as store:
        ids = store.searchable()
        segments = store.segments.get(ids)
        names = [Path(store.files.paths_of([each.video])[each.video][0]).name for each in segments]
        tokens = [bytes(each) for each in store.features.read_tokens(ids)]
    return {(name, each.number): own for name, each, own in zip(names, segments, tokens, strict=True)}


def read_states(index: Path) -> dict[str, str]:
    """Return the state of each file, by its name."""
    with Store.open(index) as store:
        return {Path(record.path).name: record.state for record in store.files.find()}


def make_hostile_files(folder: Path, good: Path) -> dict[str, str]:
    """Fill a folder with files that are not good videos; return a word of the reason expected for each that fails."""
    content = good.read_bytes()
    (folder / "x.mp4").mkdir()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is not a video\n" * 50)
    (folder / "random.mp4").write_bytes(random.Random(0).randbytes(40_000))
    (folder / "header.mp4").write_bytes(content[:40])
    (folder / "half.mp4").write_bytes(content[: len(content) // 2])
    os.mkfifo(folder / "pipe.mp4")
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    (folder / "link-to-folder.mp4").symlink_to(folder, target_is_directory=True)
    return {
        "empty.mp4": "empty",
        "text.mp4": "video",
        "random.mp4": "video",
        "header.mp4": "",
        "half.mp4": "",
        "pipe.mp4": "regular",
        "loop.mp4": "link",
        "dangling.mp4": "exist",
    }
