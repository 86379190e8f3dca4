"""Predict how fast films are indexed, and what that waits for.

    python tools/model_throughput.py VIDEOS [--sampling exact] [--hours 10000] [--check]

VIDEOS are like those to be indexed. Stage times are measured on them here, in CPU seconds, so that a busy machine gives
the same; those of a card are published ones, see ``H100``. The throughput is the greatest that the units of each
resource allow, in a run so long that its queues do not count: a worker decodes a segment at a time, encoders take the
segments of all workers, and one writer stores them, also those of several cards. On a card, ``NUM_PROCESSES`` workers
decode on it, and the other files are decoded by CPU cores. A run on this machine's cores is predicted, and with
``--check`` done: wall time then needs a machine without other work. Each row is a setup: utilisation is the share of
the time in which a resource works, and the bottleneck is the resource that works most.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from harness import PREFIX, Cost, make_parser, measure, print_rows
from made_index import describe_encoder
from scipy.optimize import linprog

from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.index.options import FileJob
from vidret.index.run_state import RunState
from vidret.index.stages import SEGMENTS_AT_ONCE, count_cores, encode_segments
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode
from vidret.video.grey import GREY_SHAPE
from vidret.video.probe import probe
from vidret.video.scan import scan
from vidret.video.shots.cuts import ShotDetector
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import ReadPlan
from vidret.video.workers.pool import NUM_PROCESSES, DecodePool

CORES, CARD, NVDEC, WRITER, DECODERS = "cores", "encoder's card", "NVDECs", "writer", "decoding processes"
NUM_GREYS = 512


class Card(NamedTuple):
    """Published throughputs of a card."""

    num_decoders: int
    pixels_per_s: float  # of H.264, by one decoder
    frames_per_s: float  # by an encoder
    cores: float  # of the machine for each card


# Decoders: "7 NVDEC, 7 JPEG", NVIDIA H100 datasheet. Together about 2,500 frames a second of 1080p H.264, as others sum
# up NVIDIA's figures for PyNvVideoCodec. Encoder: NVIDIA's NeMo documentation has 1,428 images a second for training
# ViT-g/14 (267 GMACs, three passes' worth) on eight, 286 TFLOPS each; ViT-B/16 has 17.6 GMACs. Cores as in a DGX H100.
H100 = Card(num_decoders=7, pixels_per_s=2500 / 7 * 1920 * 1080, frames_per_s=1428 / 8 * 3 * 267 / 17.6, cores=112 / 8)


class StageTimes(NamedTuple):
    """CPU seconds here, and what the average segment holds."""

    start_s: float  # of a decoding process until it is ready
    open_s: float  # of a file until its first frame
    decode_s: float  # of decoding a segment, finding its shots, and resizing its samples
    detect_s: float  # the part of finding shots
    encode_s: float  # of encoding a segment
    store_s: float  # of storing a segment in a transaction of its own
    batch_s: float  # of storing one in a transaction of a batch
    rest_s: float  # of what else a segment costs the run's threads: packing, messages
    end_s: float  # of the main thread, before the first and after the last segment
    segments_per_file: float
    num_pixels: float  # decoded for a segment
    film_s: float  # length of a segment
    num_pictures: float  # different frames that are encoded of a segment


def measure_stages(files: list[str], mode: SamplingMode) -> StageTimes:
    """Measure decoding and encoding apart, storing within a run, and what else a run costs."""
    encoder, segments = load_encoder(), list[DecodedSegment]()
    num_threads = max(1, count_cores() // len(files))

    def decode(chosen: list[str], plan: Callable[[object], ReadPlan] | None = None) -> float:
        """Return the CPU seconds of a process that decodes files by a plan."""

        def stream() -> None:
            with DecodePool(1, resize=encoder.resize, shot_sampling=mode) as pool:
                for file in chosen:
                    parts = pool.stream(file, plan=plan, num_threads=num_threads)
                    segments.extend(segment for segment in parts if isinstance(segment, DecodedSegment))

        return measure(stream).cpu_s

    def only_open(_: object) -> ReadPlan:
        return ReadPlan()

    start_s = decode(files[:1], only_open)
    open_s = max(decode(files[:1] + files, only_open) - start_s, 0.0) / len(files)
    start_s = max(start_s - open_s, 0.0)
    decode_s = decode(files) - start_s - len(files) * open_s
    encode = partial(encode_segments, encoder, pack=None, tokens=False)
    encode([segments[0].frames])
    encode_s = measure(lambda: [encode([segment.frames]) for segment in segments]).cpu_s
    run_cost, stored = run_index(files, mode)
    infos, num = [probe(file) for file in files], len(segments)
    num_frames = sum(info.num_frames for info in infos)
    greys = np.random.default_rng(0).integers(0, 256, (NUM_GREYS, *GREY_SHAPE), np.uint8)
    detect_s = measure(lambda: list(ShotDetector().add(greys, (np.arange(NUM_GREYS) / 25).tolist()))).cpu_s
    known_s = start_s + len(files) * open_s + decode_s + encode_s
    return StageTimes(
        start_s=start_s,
        open_s=open_s,
        decode_s=decode_s / num,
        detect_s=detect_s / NUM_GREYS * num_frames / num,
        encode_s=encode_s / num,
        store_s=stored.one_by_one_s / num,
        batch_s=stored.in_batches_s / num,
        rest_s=max(0.0, run_cost.cpu_s - known_s - stored.one_by_one_s - stored.main_s) / num,
        end_s=stored.main_s,
        segments_per_file=num / len(files),
        num_pixels=sum(info.num_frames * info.num_pixels for info in infos) / num,
        film_s=sum(info.shown_seconds for info in infos) / num,
        num_pictures=sum(len(segment.frames.pictures) for segment in segments) / num,
    )


class Stored(NamedTuple):
    """CPU seconds of a run's main thread, and of storing its segments, each in a transaction or in batches."""

    main_s: float
    one_by_one_s: float
    in_batches_s: float


def run_index(files: list[str], mode: SamplingMode) -> tuple[Cost, Stored]:
    """Return what a run into a new index costs as a whole, and in its main thread and the writer."""
    segments, seconds, add = list[NewSegment](), 0.0, RunState.add

    def count(run_state: RunState, job: FileJob, segment: NewSegment) -> None:
        nonlocal seconds
        started = time.thread_time()
        add(run_state, job, segment)
        seconds += time.thread_time() - started
        segments.append(segment)

    encoder = load_encoder()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        with Engine(Path(folder, "first"), encoder, head="none") as engine:
            engine.index(files[:1], words=False, sampling="fast")  # what a process and a machine do once
        with patch.object(RunState, "add", count), Engine(Path(folder, "index"), encoder, head="none") as engine:
            main_s = time.thread_time()
            cost = measure(lambda: engine.index(files, words=False, sampling=mode))
            main_s = time.thread_time() - main_s
        with Store.create(Path(folder, "again"), **describe_encoder(encoder)) as store:
            video_id = store.writer.begin_video("all of them", duration=0.0, facts={}, num_segments=None)
            moved = [
                replace(segment, video=video_id, number=segment_index) for segment_index, segment in enumerate(segments)
            ]
            started = time.thread_time()
            for start in range(0, len(moved), SEGMENTS_AT_ONCE):
                store.writer.add_segments(moved[start : start + SEGMENTS_AT_ONCE])
            in_batches_s = time.thread_time() - started
    return cost, Stored(main_s, seconds, in_batches_s)


class Workers(NamedTuple):
    """Decoding workers of one kind, each of which decodes a segment at a time."""

    num: int
    needs: Mapping[str, float]  # seconds of each resource that a segment takes from decoding to storing
    decode_s: float  # that decoding a segment takes a worker, with its part of opening the file


class Throughput(NamedTuple):
    """Segments a second, and the share of the time in which each resource works."""

    segments_per_s: float
    utilisation: Mapping[str, float]

    def describe(self, name: str, film_s: float, hours: float, num_cards: int = 1) -> list[str]:
        """Return a row of the table."""
        used, real_time = self.utilisation, num_cards * self.segments_per_s * film_s
        shares = ", ".join(f"{key} {share:.0%}" for key, share in used.items())
        return [name, f"{real_time:,.0f}x", f"{hours / real_time:,.1f} h", max(used, key=lambda key: used[key]), shares]


def predict(capacity: Mapping[str, float], workers: Sequence[Workers]) -> Throughput:
    """Return the greatest throughput that the units of each resource and the workers' own speed allow."""
    limits = {**capacity, **{f"{DECODERS} {index}": group.num for index, group in enumerate(workers)}}
    needs = [{**group.needs, f"{DECODERS} {index}": group.decode_s} for index, group in enumerate(workers)]
    matrix = np.array([[group_needs.get(name, 0.0) for group_needs in needs] for name in limits])
    solution = linprog(-np.ones(len(workers)), A_ub=matrix, b_ub=list(limits.values()))
    used = dict(zip(limits, (matrix @ solution.x / list(limits.values())).tolist(), strict=True))
    return Throughput(-solution.fun, used)


def on_cores(times: StageTimes, num_files: int, num_cores: int) -> Throughput:
    """Return the throughput of CPU cores: a worker for each, and the cores' threads for fewer files."""
    num_workers = min(num_files, num_cores)
    open_s = times.open_s / times.segments_per_file
    needs = {CORES: open_s + times.decode_s + times.encode_s + times.store_s + times.rest_s, WRITER: times.store_s}
    decode_s = open_s + times.decode_s / max(1, num_cores // num_workers)
    return predict({CORES: num_cores, WRITER: 1}, [Workers(num_workers, needs, decode_s)])


def on_card(times: StageTimes, card: Card, num_cards: int, num_gpu_decoders: int) -> Throughput:
    """Return the throughput of one of several cards: its decoders, its part of the cores, and of the writer."""
    open_s, decode_s = times.open_s / times.segments_per_file, times.num_pixels / card.pixels_per_s
    rest = {CORES: open_s + times.batch_s + times.rest_s, CARD: times.num_pictures / card.frames_per_s}
    rest[WRITER] = times.batch_s
    on_gpu = {**rest, NVDEC: decode_s, CORES: rest[CORES] + times.detect_s}
    here = {**rest, CORES: rest[CORES] + times.decode_s}
    return predict(
        {CORES: card.cores, WRITER: 1 / num_cards, NVDEC: card.num_decoders, CARD: 1},
        [
            Workers(num_gpu_decoders, on_gpu, open_s + max(decode_s, times.detect_s)),
            Workers(max(0, round(card.cores) - num_gpu_decoders), here, open_s + times.decode_s),
        ],
    )


def main() -> None:
    """Measure, predict and print."""
    parser = make_parser(__doc__, "videos", hours=10_000.0, check=False)
    parser.add_argument("--sampling", choices=SAMPLING_MODES, default="exact")
    given = parser.parse_args()
    torch.set_num_threads(1)
    files, num_cores = scan([str(given.videos)]), count_cores()
    times = measure_stages(files, given.sampling)
    print("CPU seconds of a segment here:", {name: round(value, 4) for name, value in times._asdict().items()})
    here = on_cores(times, len(files), num_cores)
    rows = [here.describe(f"{num_cores} cores", times.film_s, given.hours)]
    for num_cards, num_decoders in product((1, 8, 64), (NUM_PROCESSES, H100.num_decoders)):
        name = f"{num_cards} H100, {num_decoders} decoding processes a card"
        card = on_card(times, H100, num_cards, num_decoders)
        rows.append(card.describe(name, times.film_s, given.hours, num_cards))
    print_rows(["setup", "real time", f"{given.hours:,.0f} hours in", "bottleneck", "utilisation"], rows)
    if given.check:
        predicted_s = times.start_s + len(files) * times.segments_per_file / here.segments_per_s + times.end_s
        wall_s = statistics.median(run_index(files, given.sampling)[0].wall_s for _ in range(3))
        change, load = predicted_s / wall_s - 1, os.getloadavg()[0]
        print(f"predicted {predicted_s:.2f} s, run {wall_s:.2f} s: {change:+.0%} (load {load:.1f})")


if __name__ == "__main__":
    main()
