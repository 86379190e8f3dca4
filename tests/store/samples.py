"""Synthetic videos for the store's tests, damage, and the end of a process at a given call."""

import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, ShotChange

DIM = 8
NUM_SEGMENTS = 4


@cache
def embedding(seed: int, *, dim: int = DIM, num_frames: int | None = None) -> SegmentEmbedding:
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((num_frames or 1 + seed % 4, dim)).astype(np.float32)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    video = frames.mean(axis=0)
    return SegmentEmbedding(video / np.linalg.norm(video), frames, np.arange(len(frames), dtype=np.float64) + seed)


def tokens(seed: int) -> bytes:
    """Return tokens as an aligner might pack them: of any length, empty for one segment in seven."""
    return np.random.default_rng(seed).bytes(seed % 7 * 13)


def shots(seed: int, start: float) -> list[ShotChange]:
    """Return shot changes in the ten seconds after ``start``: none in one segment in three."""
    dissolve = ShotChange(start + 4 + seed / 1000, start + 5 + seed / 1000, "dissolve")
    return [ShotChange(start, start, "cut"), dissolve][: seed % 3]


def create(path: Path, *, fingerprint: str = "tower-1", dim: int = DIM, vectors: str | None = None) -> Store:
    return Store.create(path, encoder_name="tower", encoder_fingerprint=fingerprint, dim=dim, vectors=vectors)


def add_segment(
    store: Store,
    video: int,
    number: int,
    start: float,
    end: float,
    vectors: SegmentEmbedding,
    *,
    tokens: bytes = b"",
    shots: Sequence[ShotChange] = (),
) -> int:
    """Store one segment and return its id."""
    return store.writer.add_segments([NewSegment(video, number, start, end, vectors, tokens, shots)])[0]


def add_clip(
    store: Store,
    seed: int,
    files: Mapping[str, int | None],
    *,
    seconds: float = 10.0,
    facts: Mapping[str, object] | None = None,
    packed: bytes = b"",
) -> int:
    """Index a video of one segment at some paths, each with its modification time in nanoseconds."""
    video = store.writer.begin_video(f"v{seed}", duration=seconds, facts=facts or {}, num_segments=1)
    for path, mtime_ns in files.items():
        store.writer.set_file(path, state="done", video=video, num_bytes=1, mtime_ns=mtime_ns)
    add_segment(store, video, 0, 0.0, seconds, embedding(seed), tokens=packed)
    store.writer.finish_video(video)
    return video


def add_video(store: Store, name: str, *, seed: int, path: str | None = None, num_segments: int = NUM_SEGMENTS) -> int:
    """Index a video as an engine would, skipping stored segments. Its content depends on the seed only."""
    video = store.writer.begin_video(
        name, duration=10.0 * num_segments, facts={"codec": "grey"}, num_segments=num_segments
    )
    store.writer.set_file(path or f"/videos/{name}.mp4", state="running", video=video, num_bytes=seed, mtime_ns=seed)
    for index in sorted(set(range(num_segments)) - store.segments.stored_indices(video)):
        start, content = 10.0 * index, 100 * seed + index
        changes = shots(content, start)
        add_segment(store, video, index, start, start + 10, embedding(content), tokens=tokens(content), shots=changes)
    store.writer.finish_video(video)
    store.writer.set_file(path or f"/videos/{name}.mp4", state="done")
    return video


def seeds(store: Store) -> list[int]:
    """Return the sorted seeds of all segments that a search returns."""
    _, ids = store.search(np.zeros((1, DIM), np.float32), max(1, len(store)))
    segments = store.segments.get([int(key) for key in ids[0] if key >= 0])
    names = {video: store.videos.get(video).fingerprint for video in {segment.video for segment in segments}}
    return sorted(100 * int(names[segment.video].lstrip("v")) + segment.number for segment in segments)


def of(*videos: int) -> list[int]:
    """Return the seeds of the segments of videos, by the seeds of these."""
    return [100 * video + index for video in videos for index in range(NUM_SEGMENTS)]


def index_all(store: Store, num_videos: int) -> None:
    for seed in range(num_videos):
        add_video(store, f"v{seed}", seed=seed)
    store.upkeep.save_vectors()


def lose(store: Store, *videos: int) -> None:
    """Say that the files of videos are gone, by the seeds of these."""
    for seed in videos:
        store.writer.set_file(f"/videos/v{seed}.mp4", state="missing")


def damage(path: Path, offset: int, *, bits: int = 1) -> None:
    """Flip bits in one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= bits
    path.write_bytes(data)


def read_all_bytes(folder: Path) -> bytes:
    """Return the content of all files below a folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def interrupt(*_: object, **__: object) -> None:
    """Stand for a step that is interrupted."""
    raise KeyboardInterrupt


def kill_at(owner: object, name: str, count: int = 1, *, after: bool = False) -> None:
    """Have this process killed when a function is called for the n-th time, before or ``after`` its work."""
    original, calls = getattr(owner, name), itertools.count(1)

    def call(*arguments: object, **options: object) -> object:
        is_last = next(calls) == count
        result = None if is_last and not after else original(*arguments, **options)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, call)
