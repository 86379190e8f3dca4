"""Measure describing a large index and its diversity; print one JSON object.

    python tools/bench_describe.py [--segments 100000] [--frames 4] [--texts 20000] [--index DIR]

Builds an index of made vectors around 200 centres, in videos of 50 segments, half of them in each of two folders, with
timed texts of made words; or takes the one that an earlier run left in DIR. Then runs the commands as a user would, one
process after another: the overview of a folder with its comparison, a comparison of the folders, and the diversity of
the index. Each runs cold, without the vectors of phrases that an index keeps, and warm, with them. Seconds are of the
clock and of the CPU, from the start of the process to its end; memory is the peak of the process. The commands write no
page, whose frames are decoded.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vidret.corpus.vectors import FOLDER
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.sentences import DIM, FINGERPRINT, NAME
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import SegmentEmbedding, TimedText

SEGMENTS_PER_VIDEO = 50
CENTRES = 200
SEGMENT_S = 12.0
WORDS = [f"{start}{middle}{end}" for start in "bdfgklmnprst" for middle in "aeiou" for end in ("nd", "rt", "sk", "mp")]
WORDS_PER_TEXT = 8


def build(path: Path, encoder: Encoder, num_segments: int, num_frames: int, num_texts: int) -> float:
    """Store made segments and texts as an index run would; return the seconds it took."""
    random, started = np.random.default_rng(0), time.perf_counter()
    centres = random.standard_normal((CENTRES, encoder.dim), dtype=np.float32)
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        for first in range(0, num_segments, SEGMENTS_PER_VIDEO):
            count, folder = min(SEGMENTS_PER_VIDEO, num_segments - first), first // SEGMENTS_PER_VIDEO % 2
            video = store.begin_video(f"made-{first}", duration=count * SEGMENT_S, facts={}, num_segments=count)
            chosen = random.integers(CENTRES // 2, size=count) + folder * CENTRES // 4  # half of the centres are shared
            segments = [
                NewSegment(
                    video, row, SEGMENT_S * row, SEGMENT_S * (row + 1), make_embedding(centre, num_frames, random)
                )
                for row, centre in enumerate(centres[chosen])
            ]
            store.add_segments(segments)
            store.finish_video(video)
            store.set_file(f"/made/{'ab'[folder]}/{first}.mp4", state="done", video=video, num_bytes=0, mtime_ns=0)
        store.save_vectors()
        contents = list(store.contents())
    with TextStore.create(path, encoder=NAME, fingerprint=FINGERPRINT, dim=DIM) as texts:
        for fingerprint, rows in zip(contents, np.array_split(np.arange(num_texts), len(contents)), strict=True):
            track = texts.begin(fingerprint, "speech", "made", duration_s=600.0)
            lines = [" ".join(random.choice(WORDS, WORDS_PER_TEXT)) for _ in rows]
            timed = [TimedText(3.0 * row, 3.0 * row + 3, line, "speech", 1.0, "en") for row, line in enumerate(lines)]
            if timed:
                vectors = scale(random.standard_normal((len(timed), DIM), dtype=np.float32))
                texts.add(track, timed, vectors, until_s=600.0)
            texts.finish(track)
        texts.save()
    return time.perf_counter() - started


def make_embedding(centre: Any, num_frames: int, random: np.random.Generator) -> SegmentEmbedding:
    """Draw a segment's frames around a centre."""
    frames = scale(centre + random.standard_normal((num_frames, len(centre)), dtype=np.float32))
    return SegmentEmbedding(scale(frames.mean(axis=0)), frames, np.arange(num_frames) + 0.5)


def scale(vectors: Any) -> Any:
    """Return vectors of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def measure(*arguments: str) -> dict[str, float]:
    """Run a command of vidret; return the seconds of the clock and of the CPU, and the peak memory in MB."""
    code = "import sys; from vidret.cli import main; sys.argv[0] = 'vidret'; sys.exit(main())"
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"vidret {' '.join(arguments)} ended with {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    """Build an index and measure each command."""
    parser = argparse.ArgumentParser(description="Measure describing a large index and its diversity.")
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--frames", type=int, default=4, help="Frames of a segment.")
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--index", type=Path, default=None, help="Folder of the index; default: a new one.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.index or Path(folder) / "index"
        encoder = load_encoder("starter")
        facts: dict[str, Any] = {"segments": arguments.segments, "texts": arguments.texts}
        if not Store.exists(path):
            facts["build_seconds"] = round(
                build(path, encoder, arguments.segments, arguments.frames, arguments.texts), 1
            )
        index = ("--index", str(path), "--json")
        commands = {
            "overview": ("describe", "/made/a"),
            "against": ("describe", "/made/a", "--against", "/made/b"),
            "diversity": ("info", "--diversity"),
        }
        for name, command in commands.items():
            shutil.rmtree(path / FOLDER, ignore_errors=True)
            facts[name] = {state: measure(*command, *index) for state in ("cold", "warm")}
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
