"""Predict how fast films are indexed, and what that waits for: a simulation of the stages with their queues.

    python tools/model_throughput.py VIDEOS [--sampling exact] [--hours 10000] [--check]

VIDEOS are a folder or a file like those to be indexed. Stage times are measured on them here, in CPU seconds, so that
a busy machine gives the same; those of a card are published ones, see ``H100``. A run on this machine's cores is
predicted, and with ``--check`` done: wall time then needs a machine without other work. Prints one row for each setup:
utilisation is the share of the time in which a resource works, and the bottleneck is the resource that works most.

As built, a worker reads a file: its process decodes up to ``AHEAD`` segments more than are stored, encoders take the
segments of all workers in batches, and one writer stores them. On a card, ``NUM_PROCESSES`` workers decode on it, and
the other files are decoded by CPU cores. Cards of one run share nothing but the writer, which stores their batches, as
on Ray.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from harness import PREFIX, Cost, measure, print_rows

from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.index.options import FileJob
from vidret.index.run import MAX_PENDING
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

CORES, CARD, NVDEC, WRITER = "cores", "encoder's card", "NVDECs", "writer"
AHEAD = 3 + MAX_PENDING  # segments of a file that are decoded and not stored: in the ring, and waiting to be encoded
NUM_SIMULATED = 150  # segments of each worker, after which the throughput is steady
NUM_GREYS = 512


@dataclass(frozen=True, slots=True)
class Card:
    """Published throughputs of a card.

    Attributes:
        num_decoders: NVDECs.
        pixels_per_s: H.264 pixels that one of them decodes a second.
        frames_per_s: Frames that an encoder encodes a second.
        cores: CPU cores of the machine for each card.
    """

    num_decoders: int
    pixels_per_s: float
    frames_per_s: float
    cores: float


# Decoders: "7 NVDEC, 7 JPEG", NVIDIA H100 datasheet. Together about 2,500 frames a second of 1080p H.264, as others sum
# up NVIDIA's figures for PyNvVideoCodec. Encoder: NVIDIA's NeMo documentation has 1,428 images a second for training
# ViT-g/14 (267 GMACs, three passes' worth) on eight, 286 TFLOPS each; ViT-B/16 has 17.6 GMACs. Cores as in a DGX H100.
H100 = Card(
    num_decoders=7,
    pixels_per_s=2500 / 7 * 1920 * 1080,
    frames_per_s=1428 / 8 * 3 * 267 / 17.6,
    cores=112 / 8,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """CPU seconds here, and what the average segment holds.

    Attributes:
        start_s: Of a decoding process until it is ready.
        open_s: Of a file until its first frame.
        decode_s: Of decoding a segment, finding its shots, and resizing its samples.
        detect_s: The part of finding shots.
        encode_s: Of encoding a segment.
        store_s: Of storing a segment in a transaction of its own.
        batch_s: Of storing one in a transaction of a batch.
        rest_s: Of what else a segment costs the run's threads: packing, messages.
        end_s: Of the main thread, before the first and after the last segment.
        segments_per_file: Segments of a file.
        num_pixels: Decoded pixels of a segment.
        film_s: Length of a segment in seconds.
        num_pictures: Different frames that are encoded of a segment.
    """

    start_s: float
    open_s: float
    decode_s: float
    detect_s: float
    encode_s: float
    store_s: float
    batch_s: float
    rest_s: float
    end_s: float
    segments_per_file: float
    num_pixels: float
    film_s: float
    num_pictures: float


def measure_stages(files: list[str], mode: SamplingMode) -> StageTimes:
    """Measure decoding and encoding apart, storing within a run, and what else a run costs."""
    encoder, segments = load_encoder(), list[DecodedSegment]()
    num_threads = max(1, count_cores() // len(files))

    def decode(chosen: list[str], *, only_open: bool = False) -> float:
        """Return the CPU seconds of a process that decodes files, or opens them."""

        def stream() -> None:
            with DecodePool(1, resize=encoder.resize, shot_sampling=mode) as pool:
                for file in chosen:
                    plan = (lambda _: ReadPlan()) if only_open else None
                    parts = pool.stream(file, plan=plan, num_threads=num_threads)
                    segments.extend(part for part in parts if isinstance(part, DecodedSegment))

        return measure(stream).cpu_s

    start_s = decode(files[:1], only_open=True)
    open_s = max(decode(files[:1] + files, only_open=True) - start_s, 0.0) / len(files)
    start_s = max(start_s - open_s, 0.0)
    decode_s = decode(files) - start_s - len(files) * open_s
    encode = partial(encode_segments, encoder, pack=None, tokens=False)
    encode([segments[0].frames])
    encode_s = measure(lambda: [encode([segment.frames]) for segment in segments]).cpu_s
    whole, stored = run_index(files, mode)
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
        rest_s=max(0.0, whole.cpu_s - known_s - stored.one_by_one_s - stored.main_s) / num,
        end_s=stored.main_s,
        segments_per_file=num / len(files),
        num_pixels=sum(info.num_frames * info.num_pixels for info in infos) / num,
        film_s=sum(info.shown_seconds for info in infos) / num,
        num_pictures=sum(len(segment.frames.pictures) for segment in segments) / num,
    )


@dataclass(frozen=True, slots=True)
class Stored:
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
        again, digest = Path(folder, "again"), encoder.fingerprint
        with Store.create(again, encoder_name=encoder.name, encoder_fingerprint=digest, dim=encoder.dim) as store:
            video_id = store.writer.begin_video("all of them", duration=0.0, facts={}, num_segments=None)
            moved = [replace(segment, video=video_id, number=number) for number, segment in enumerate(segments)]
            started = time.thread_time()
            for start in range(0, len(moved), SEGMENTS_AT_ONCE):
                store.writer.add_segments(moved[start : start + SEGMENTS_AT_ONCE])
            in_batches_s = time.thread_time() - started
    return cost, Stored(main_s, seconds, in_batches_s)


@dataclass(slots=True)
class Task:
    """Work in progress: seconds on each resource, of which so much is done, on at most so many units of each."""

    needs: Mapping[str, float]
    kind: str
    worker: int
    width: float = 1.0
    segments: Sequence[int] = ()
    remaining: float = 1.0


@dataclass(slots=True)
class Setup:
    """A machine: units of each resource, and what a worker's segment needs of them.

    Attributes:
        capacity: Units of each resource; of a writer shared with other cards, a part of one.
        decoding: Of each worker, the seconds that decoding a segment takes on resources.
        width: Threads of a decoder.
        encoding: The seconds that encoding a segment takes.
        num_encoders: Encoders, each with its batch.
        at_once: Segments of a batch.
        storing: The seconds that storing a segment takes.
        opening: The seconds that a file takes before its first segment.
        segments_per_file: Segments of a file.
        num_segments: Segments of each worker.
    """

    capacity: Mapping[str, float]
    decoding: Sequence[Mapping[str, float]]
    width: float
    encoding: Mapping[str, float]
    num_encoders: int
    at_once: int
    storing: Mapping[str, float]
    opening: Mapping[str, float]
    segments_per_file: float
    num_segments: int = NUM_SIMULATED


@dataclass(slots=True)
class Simulation:
    """The state of a run, advanced from one end of a task to the next."""

    setup: Setup
    time_s: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)

    def run(self) -> float:
        """Return when the last segment is stored."""
        setup, num_workers = self.setup, len(self.setup.decoding)
        decoded, stored = [0] * num_workers, [0] * num_workers
        waiting, unwritten = list[int](), list[int]()
        tasks = [Task(setup.opening, "open", worker) for worker in range(num_workers)]
        free, num_encoding = [False] * num_workers, 0
        while True:
            for worker in range(num_workers):
                if free[worker] and decoded[worker] < setup.num_segments and decoded[worker] - stored[worker] < AHEAD:
                    free[worker] = False
                    tasks.append(Task(setup.decoding[worker], "decode", worker, setup.width))
            while waiting and num_encoding < setup.num_encoders:
                batch, waiting = waiting[: setup.at_once], waiting[setup.at_once :]
                needs = {name: seconds * len(batch) for name, seconds in setup.encoding.items()}
                tasks.append(Task(needs, "encode", -1, segments=batch))
                num_encoding += 1
            tasks += [Task(setup.storing, "store", worker) for worker in unwritten]
            unwritten.clear()
            if not tasks:
                return self.time_s
            for task in self._advance(tasks):
                tasks.remove(task)
                match task.kind:
                    case "open":
                        free[task.worker] = True
                    case "decode":
                        decoded[task.worker] += 1
                        waiting.append(task.worker)
                        is_end = decoded[task.worker] % max(1, round(setup.segments_per_file)) == 0
                        if is_end and decoded[task.worker] < setup.num_segments:
                            tasks.append(Task(setup.opening, "open", task.worker))
                        else:
                            free[task.worker] = True
                    case "encode":
                        num_encoding -= 1
                        unwritten.extend(task.segments)
                    case "store":
                        stored[task.worker] += 1

    def _advance(self, tasks: Sequence[Task]) -> list[Task]:
        """Go to the next end of a task; resources are shared equally. Return the tasks that end."""
        widths = {name: sum(task.width for task in tasks if task.needs.get(name)) for name in self.setup.capacity}
        rates = []
        for task in tasks:
            speeds = [
                task.width * min(1.0, self.setup.capacity[name] / widths[name]) / seconds
                for name, seconds in task.needs.items()
                if seconds
            ]
            rates.append(min(speeds, default=1e9))
        step_s = min(task.remaining / rate for task, rate in zip(tasks, rates, strict=True))
        self.time_s += step_s
        ended = []
        for task, rate in zip(tasks, rates, strict=True):
            task.remaining -= rate * step_s
            for name, seconds in task.needs.items():
                self.busy[name] = self.busy.get(name, 0.0) + rate * step_s * seconds
            if task.remaining <= 1e-9:
                ended.append(task)
        return ended


def on_cores(times: StageTimes, num_files: int, num_cores: int) -> Setup:
    """Return a run on CPU cores: a worker for each, and the cores' threads for fewer files."""
    num_workers = min(num_files, num_cores)
    return Setup(
        capacity={CORES: num_cores, WRITER: 1},
        decoding=[{CORES: times.decode_s}] * num_workers,
        width=max(1, num_cores // num_workers),
        encoding={CORES: times.encode_s},
        num_encoders=num_cores,
        at_once=1,
        storing={CORES: times.store_s + times.rest_s, WRITER: times.store_s},
        opening={CORES: times.open_s},
        segments_per_file=times.segments_per_file,
        num_segments=max(1, round(times.segments_per_file * num_files / num_workers)),
    )


def on_card(times: StageTimes, card: Card, num_cards: int, num_gpu_decoders: int) -> Setup:
    """Return the share of one of several cards: its decoders, its part of the cores, and of the writer."""
    on_gpu = {NVDEC: times.num_pixels / card.pixels_per_s, CORES: times.detect_s}
    num_on_cores = max(0, round(card.cores) - num_gpu_decoders)
    return Setup(
        capacity={CORES: card.cores, WRITER: 1 / num_cards, NVDEC: card.num_decoders, CARD: 1},
        decoding=[on_gpu] * num_gpu_decoders + [{CORES: times.decode_s}] * num_on_cores,
        width=1,
        encoding={CARD: times.num_pictures / card.frames_per_s},
        num_encoders=1,
        at_once=SEGMENTS_AT_ONCE,
        storing={CORES: times.batch_s + times.rest_s, WRITER: times.batch_s},
        opening={CORES: times.open_s},
        segments_per_file=times.segments_per_file,
    )


def describe(name: str, simulation: Simulation, film_s: float, hours: float, num_cards: int) -> list[str]:
    """Return a row of the table."""
    setup, time_s = simulation.setup, simulation.time_s
    real_time = num_cards * len(setup.decoding) * setup.num_segments * film_s / time_s
    used = {key: simulation.busy.get(key, 0.0) / units / time_s for key, units in setup.capacity.items()}
    shares = ", ".join(f"{key} {share:.0%}" for key, share in used.items())
    return [name, f"{real_time:,.0f}x", f"{hours / real_time:,.1f} h", max(used, key=lambda key: used[key]), shares]


def main() -> None:
    """Measure, simulate and print."""
    parser = argparse.ArgumentParser(description="Predict the throughput of indexing.")
    parser.add_argument("videos", type=Path)
    parser.add_argument("--sampling", choices=SAMPLING_MODES, default="exact")
    parser.add_argument("--hours", type=float, default=10_000.0)
    parser.add_argument("--check", action="store_true", help="index the videos here, and compare the wall time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = scan([str(arguments.videos)])
    times = measure_stages(files, arguments.sampling)
    print("CPU seconds of a segment here:", {k: round(getattr(times, k), 4) for k in StageTimes.__dataclass_fields__})
    here = Simulation(on_cores(times, len(files), count_cores()))
    predicted_s = times.start_s + here.run() + times.end_s
    rows = [describe(f"{count_cores()} cores", here, times.film_s, arguments.hours, 1)]
    for num_cards in (1, 8, 64):
        for num_decoders in (NUM_PROCESSES, H100.num_decoders):
            simulation = Simulation(on_card(times, H100, num_cards, num_decoders))
            simulation.run()
            name = f"{num_cards} H100, {num_decoders} decoding processes a card"
            rows.append(describe(name, simulation, times.film_s, arguments.hours, num_cards))
    print_rows(["setup", "real time", f"{arguments.hours:,.0f} hours in", "bottleneck", "utilisation"], rows)
    if arguments.check:
        walls = [run_index(files, arguments.sampling)[0].wall_s for _ in range(3)]
        wall_s, load = float(np.median(walls)), os.getloadavg()[0]
        print(f"predicted {predicted_s:.2f} s, run {wall_s:.2f} s: {predicted_s / wall_s - 1:+.0%} (load {load:.1f})")


if __name__ == "__main__":
    main()
