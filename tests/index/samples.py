"""The contents of an index, to compare indexing runs; runs that are killed; files that are not good videos."""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from tests.forking import popen_code
from vidret.store.store import Store

Contents = TypeVar("Contents")


def read_contents(index: Path) -> dict[tuple[str, int], tuple[object, ...]]:
    """Return all that is stored of each segment, by the fingerprint of its video and its number."""
    contents: dict[tuple[str, int], tuple[object, ...]] = {}
    with Store.open(index) as store:
        for video, fingerprint in store.videos.fingerprints().items():
            ids = store.segments.ids_of_video(video)
            for segment, *arrays, tokens, shots in zip(
                store.segments.get(ids),
                store.features.read_vectors(ids),
                *zip(*store.features.read_frames(ids), strict=True),
                store.features.read_tokens(ids),
                store.shots.of_segments(ids),
                strict=True,
            ):
                key = (fingerprint, segment.number)
                assert key not in contents, "each segment is stored once"
                contents[key] = (
                    replace(segment, video=0),
                    *(array.tobytes() for array in arrays),
                    bytes(tokens),
                    shots,
                )
    return contents


def read_index(index: Path) -> tuple[dict[object, object], dict[str, object]]:
    """Return the contents and the files of an index: all that is stored but its ids."""
    with Store.open(index) as store:
        names = store.videos.fingerprints()
        contents: dict[object, object] = {name: replace(store.videos.get(video), id=0) for video, name in names.items()}
        files: dict[str, object] = {
            record.path: (replace(record, video=None), record.video and names[record.video])
            for record in store.files.find()
        }
    contents.update(read_contents(index))
    return contents, files


def read_tokens(index: Path) -> dict[tuple[str, int], bytes]:
    """Return the packed tokens of each segment, by the name of its first path and its number."""
    with Store.open(index) as store:
        ids = store.searchable()
        segments = store.segments.get(ids)
        names = [Path(store.files.paths_of([segment.video])[segment.video][0]).name for segment in segments]
        tokens = [bytes(packed) for packed in store.features.read_tokens(ids)]
    return {(name, segment.number): packed for name, segment, packed in zip(names, segments, tokens, strict=True)}


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


def index_under_kills(
    folder: Path, films: Path, script: str, num_kills: int, read: Callable[[Path], Contents]
) -> Contents:
    """Index films in processes that run a script and are killed at any time, into ``index`` of a folder.

    Args:
        folder: For the indexes.
        films: The films.
        script: Python code that indexes; its arguments are the index and the films.
        num_kills: How often a run is killed before its end.
        read: Returns what is compared of an index.

    Returns:
        What an index holds that nobody interrupts.
    """
    started = time.monotonic()
    assert not _index_and_kill(script, folder / "whole", films, 300)
    full_run_s = time.monotonic() - started
    expected, index, rng, kills = read(folder / "whole"), folder / "index", random.Random(7), 0
    while kills < num_kills:
        # Kill at any time of a run. A finished index is deleted and begun again.
        is_new, started = not index.exists(), time.monotonic()
        if _index_and_kill(script, index, films, rng.uniform(0.3, 1.0) * full_run_s):
            kills += 1
        else:
            if is_new:  # or kills would always come too late on a machine that is less busy than at first
                full_run_s = time.monotonic() - started
            assert read(index) == expected
            shutil.rmtree(index)
    return expected


def _index_and_kill(script: str, index: Path, films: Path, delay_s: float) -> bool:
    """Index in a separate process and kill it after a delay; return whether it was still running."""
    process = popen_code(script, index, films, start_new_session=True)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    assert process.returncode == 0
    return False
