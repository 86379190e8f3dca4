"""Measure the decoders on the same frames, a frame a second; print one JSON object.

    python tools/bench_decoders.py VIDEOS [--repeats 5] [--max-videos 20]

In one process, interleaved, medians: CPU seconds of this process for opening every video and reading its frames, the
same relative to PyAV, and the greatest difference to PyAV's frames in grey levels. Then what loading torchcodec, and
with it PyTorch, adds to a process of its own: CPU seconds and, on Linux alone, MB of memory. Videos that a decoder
refuses are left out for all. VIDEOS is a folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vidret.errors import DecodeError
from vidret.video.decoders.registry import Decoder
from vidret.video.decoders.torchcodec import load_torchcodec
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import open_reader
from vidret.video.scan import scan

DECODERS: tuple[Decoder, ...] = ("pyav", "decord", "torchcodec")
START = """
import time, {}
print(time.process_time(), next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def read(info: VideoInfo, decoder: Decoder) -> tuple[UInt8[np.ndarray, "frame height width 3"], float]:
    """Return the frames of a video that begin a second apart, and the CPU seconds that they took."""
    num_frames = max(int(info.shown_seconds), 1)
    chosen = np.linspace(0, info.num_frames - 1, num_frames).astype(np.int64)
    since = time.process_time()
    with open_reader(info, decoder=decoder) as reader:
        pixels = reader.read(chosen).pixels
        if reader.decoder != decoder:
            raise DecodeError(info.path, reader.fallback)
    return pixels, time.process_time() - since


def measure(videos: Sequence[VideoInfo], repeats: int) -> dict[str, dict[str, float]]:
    """Return CPU seconds, their ratio and the greatest difference, by decoder."""
    seconds: dict[Decoder, list[float]] = {decoder: [] for decoder in DECODERS}
    differences = dict.fromkeys(DECODERS, 0)
    for _ in range(repeats):
        totals = dict.fromkeys(DECODERS, 0.0)
        for info in videos:
            expected, _ = read(info, "pyav")  # not counted: the file is in memory afterwards
            for decoder in DECODERS:
                pixels, cpu_s = read(info, decoder)
                totals[decoder] += cpu_s
                difference = int(np.abs(pixels.astype(np.int16) - expected).max())
                differences[decoder] = max(differences[decoder], difference)
        for decoder, total in totals.items():
            seconds[decoder].append(total)
    medians = {decoder: statistics.median(seconds[decoder]) for decoder in DECODERS}
    return {
        str(decoder): {
            "cpu_s": round(median, 3),
            "relative": round(median / medians["pyav"], 2),
            "max_difference": differences[decoder],
        }
        for decoder, median in medians.items()
    }


def start(module: str) -> tuple[float, float]:
    """Return the CPU seconds and the MB of memory of a process that imports a module."""
    done = subprocess.run([sys.executable, "-c", START.format(module)], capture_output=True, text=True, check=True)
    cpu_s, kilobytes = done.stdout.split()
    return float(cpu_s), float(kilobytes) / 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", help="A folder.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-videos", type=int, default=20)
    given = parser.parse_args(arguments)
    load_torchcodec()
    taken = []
    for path in scan([given.videos])[: given.max_videos]:
        try:
            info = probe(path)
            for decoder in DECODERS:
                read(info, decoder)
            taken.append(info)
        except DecodeError as error:
            print(error, file=sys.stderr)
    found = measure(taken, given.repeats)
    without, loaded = start("vidret.video.workers.worker"), start("vidret.video.workers.worker, torchcodec.decoders")
    added = {"cpu_s": round(loaded[0] - without[0], 2), "memory_mb": round(loaded[1] - without[1])}
    print(json.dumps({"num_videos": len(taken), "decoders": found, "loading_torchcodec": added}, indent=2))


if __name__ == "__main__":
    main()
