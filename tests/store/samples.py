"""Made-up videos for the store's tests; run as a script it is the writer that gets killed."""

import os
import sqlite3
import sys
from pathlib import Path

import numpy as np

from vidret.store import Store
from vidret.store.schema import COLUMNS, COPY
from vidret.types import SegmentEmbedding

DIM = 8
NUM_SEGMENTS = 4


def embedding(seed: int, *, dim: int = DIM, num_frames: int | None = None) -> SegmentEmbedding:
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((num_frames or 1 + seed % 4, dim)).astype(np.float32)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    video = frames.mean(axis=0)
    return SegmentEmbedding(video / np.linalg.norm(video), frames, np.arange(len(frames), dtype=np.float64) + seed)


def tokens(seed: int) -> bytes:
    """Make what an aligner could have packed: of any length, and nothing for one segment in seven."""
    return np.random.default_rng(seed).bytes(seed % 7 * 13)


def create(path: Path, *, fingerprint: str = "tower-1") -> Store:
    return Store.create(path, encoder_name="tower", encoder_fingerprint=fingerprint, dim=DIM)


def add_video(store: Store, name: str, *, seed: int, path: str | None = None, num_segments: int = NUM_SEGMENTS) -> int:
    """Index one video as an engine would; what is stored already is skipped. Its content is its seed."""
    video = store.begin_video(name, duration=10.0 * num_segments, facts={"codec": "grey"}, num_segments=num_segments)
    store.set_file(path or f"/videos/{name}.mp4", state="running", video=video, num_bytes=seed, mtime_ns=seed)
    for number in sorted(set(range(num_segments)) - store.stored_segments(video)):
        start, content = 10.0 * number, 100 * seed + number
        store.add_segment(video, number, start, start + 10, embedding(content), tokens=tokens(content))
    store.finish_video(video)
    store.set_file(path or f"/videos/{name}.mp4", state="done")
    return video


def seeds(store: Store) -> list[int]:
    """Say, by brute force, which contents a search can return: the seed of each searchable segment, sorted."""
    _, ids = store.search(np.zeros((1, DIM), np.float32), max(1, len(store)))
    found = [int(key) for key in ids[0] if key >= 0]
    names = {video: store.video(video).fingerprint for video in {s.video for s in store.segments(found)}}
    return sorted(100 * int(names[s.video].lstrip("v")) + s.number for s in store.segments(found))


def index_all(store: Store, num_videos: int) -> None:
    for seed in range(num_videos):
        add_video(store, f"v{seed}", seed=seed)
    store.save_vectors()


def damage(path: Path, offset: int, *, bits: int = 1) -> None:
    """Flip bits of one byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= bits
    path.write_bytes(data)


def to_format_1(index: Path) -> None:
    """Write a catalog as versions without checksums did."""
    with sqlite3.connect(index / "catalog.sqlite") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(f"DELETE FROM meta WHERE key = 'schema' OR key LIKE '{COPY}%'")
        connection.execute("UPDATE meta SET value = 1 WHERE key = 'format'")
        connection.execute("UPDATE meta SET value = json_remove(value, '$[3]') WHERE key = 'tail'")
        for table in COLUMNS:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
    connection.close()


def environment() -> dict[str, str]:
    """Let a child process import what this one can, wherever it is started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


if __name__ == "__main__":
    with create(Path(sys.argv[1])) as opened:
        print("ready", flush=True)
        index_all(opened, int(sys.argv[2]))
