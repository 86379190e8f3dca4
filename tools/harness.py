"""What the measuring scripts share: parts and options, runs by turns, CPU time and memory, films, and output."""

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
import torch

from vidret.cli.commands.demo import sample_videos
from vidret.data.benchmarks.registry import RECIPES
from vidret.data.dataset import RetrievalBatch
from vidret.encode.encoder import Encoder
from vidret.engine import Engine
from vidret.errors import MissingExtraError
from vidret.ground.checkpoint import HeadCard
from vidret.ground.head import GroundingHead
from vidret.present.ffmpeg import find_ffmpeg
from vidret.video.scan import scan

T = TypeVar("T")
PREFIX = "vidret-bench-"  # of temporary folders
VIDRET = (sys.executable, "-c", "from vidret.cli import main; main()")  # from the environment of this Python
AUDIO_RATE = 16_000
NUM_WARM = 8  # queries before the clock counts
# R2-Tuning's head over CLIP ViT-B/32 as published, and its encoder with random weights.
BACKBONE, HEAD_LAYERS, HEAD_DIM, WIDTH, TEXT_WIDTH = "ViT-B-32-quickgelu/random", 4, 256, 768, 512


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of this process and of its processes that ended, and seconds of the clock."""

    cpu_s: float
    wall_s: float

    def to_dict(self) -> dict[str, float]:
        """Return both, rounded."""
        return {"cpu_s": round(self.cpu_s, 4), "wall_s": round(self.wall_s, 4)}


def count_cpu_s() -> float:
    """Return the CPU seconds of this process and of its processes that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_call(run: Callable[[], T]) -> tuple[T, Cost]:
    """Return the result of a call and what it costs."""
    cpu_s, wall_s = count_cpu_s(), time.perf_counter()
    result = run()
    return result, Cost(count_cpu_s() - cpu_s, time.perf_counter() - wall_s)


def measure(run: Callable[[], object]) -> Cost:
    """Return what a call costs."""
    return measure_call(run)[1]


def take_turns(runs: Mapping[str, Callable[[], object]], repeats: int, *, num_warm: int = 1) -> dict[str, Cost]:
    """Run everything by turns, in changing order; return the median costs by name.

    The first ``num_warm`` turns do not count.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for turn in range(num_warm + repeats):
        for name in list(runs)[:: -1 if turn % 2 else 1]:
            cost = measure(runs[name])
            if turn >= num_warm:
                costs[name].append(cost)
    return {
        name: Cost(
            statistics.median(cost.cpu_s for cost in run_costs), statistics.median(cost.wall_s for cost in run_costs)
        )
        for name, run_costs in costs.items()
    }


def compare(costs: Mapping[str, Cost], base: str) -> dict[str, dict[str, float]]:
    """Return costs with their speed by CPU time against one of them: 2 is twice as fast."""
    return {
        name: {**cost.to_dict(), f"against_{base}": round(costs[base].cpu_s / cost.cpu_s, 3)}
        for name, cost in costs.items()
    }


def time_in_turn(
    asks: Mapping[str, Callable[[T], object]], queries: Sequence[T], *, num_warm: int = NUM_WARM
) -> dict[str, dict[str, float]]:
    """Call functions with every query in turn, after a few to warm up; return milliseconds of the clock and the CPU."""
    costs: dict[str, list[Cost]] = {name: [] for name in asks}
    for query in (*queries[:num_warm], *queries):
        for name, ask in asks.items():
            costs[name].append(measure(lambda ask=ask, query=query: ask(query)))  # type: ignore[misc]
    return {name: describe_ms(query_costs[-len(queries) :]) for name, query_costs in costs.items()}


def describe_ms(costs: Sequence[Cost]) -> dict[str, float]:
    """Return the median and the slowest per cent of calls in milliseconds of the clock, and the median of the CPU."""
    walls = [1e3 * cost.wall_s for cost in costs]
    return {
        "p50_ms": round(statistics.median(walls), 2),
        "p99_ms": round(float(np.percentile(walls, 99, method="nearest")), 2),
        "p50_cpu_ms": round(1e3 * statistics.median(cost.cpu_s for cost in costs), 2),
    }


def time_queries(ask: Callable[[T], object], queries: Sequence[T]) -> dict[str, float]:
    """Time one function; see ``time_in_turn``."""
    return time_in_turn({"it": ask}, queries)["it"]


# Memory, on Linux


def read_memory_mb(field: str) -> float:
    """Return one of this process's memory figures, such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure_rise_mb(run: Callable[[], object]) -> float:
    """Return by how much a call raises the peak of this process's resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = read_memory_mb("VmRSS")
    run()
    return read_memory_mb("VmHWM") - before


def sum_over_processes(read: Callable[[Path], float], pid: int | str = "self") -> float:
    """Return the sum of what is read from /proc/PID of a process and its descendants; those that end count as none."""
    folder = Path("/proc", str(pid))
    try:
        value = read(folder)
        children = [child for task in folder.glob("task/*/children") for child in task.read_text().split()]
    except OSError:
        return 0.0
    return value + sum(sum_over_processes(read, child) for child in children)


def sum_memory_mb() -> float:
    """Return the resident memory of this process and its descendants."""
    page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
    return sum_over_processes(lambda process: int((process / "statm").read_text().split()[1]) * page_mb)


def find_peak_mb(
    run: Callable[[], object], *, step_s: float = 0.1, beside: Callable[[], object] = lambda: None
) -> float:
    """Return the peak of the resident memory of this process and its descendants during a call.

    ``beside`` is called after each look at the memory.
    """
    peak_mb, ended = 0.0, threading.Event()

    def look_on() -> None:
        nonlocal peak_mb
        while not ended.wait(step_s):
            peak_mb = max(peak_mb, sum_memory_mb())
            beside()

    watcher = threading.Thread(target=look_on)
    watcher.start()
    try:
        run()
    finally:
        ended.set()
        watcher.join()
    return peak_mb


def run_in_new_process(function: Callable[..., T], *arguments: object) -> T:
    """Return the result of a function of a module, called in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def run_vidret(*arguments: object) -> dict[str, Any]:
    """Run a command of vidret with ``--json``; return what it prints."""
    command = [*VIDRET, *map(str, arguments), "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def run_ffmpeg(*arguments: str) -> None:
    """Run ffmpeg; its error output is raised."""
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


# Input and output


def make_parser(doc: str | None, *paths: str, **options: Any) -> argparse.ArgumentParser:
    """Return a parser whose help is the description of a script.

    It takes the paths that are named, of which one with a ``?`` at its end may be left out, and options by their
    defaults: a list takes several values, False makes a flag, a tuple has the choices, and a type has the default None.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(name.rstrip("?"), type=Path, nargs="?" if name.endswith("?") else None)
    for name, default in options.items():
        settings: dict[str, Any] = {"type": type(default), "default": default}
        if isinstance(default, list):
            settings |= {"type": type(default[0]), "nargs": "+"}
        elif isinstance(default, tuple):
            settings = {"choices": default, "default": default[0]}
        elif isinstance(default, type):
            settings = {"type": default}
        elif default is False:
            settings = {"action": "store_true"}
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)
    return parser


def run_parts(
    parser: argparse.ArgumentParser,
    measures: Sequence[Callable[[argparse.Namespace, Path], Mapping[str, Any]]],
    default: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the parts that ``--only`` names on one thread of PyTorch; print and return a JSON object.

    ``measure_NAME`` measures the part NAME, with a folder of its own. A part whose extra is not installed says so.
    """
    parts = {measure.__name__.removeprefix("measure_").replace("_", "-"): measure for measure in measures}
    parser.add_argument("--only", nargs="+", choices=parts, default=default or [*parts])
    given, report = parser.parse_args(), dict[str, Any]()
    torch.set_num_threads(1)
    for name in given.only:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            try:
                report[name] = parts[name](given, Path(folder))
            except MissingExtraError as error:
                report[name] = {"not measured": str(error)}
        tell(json.dumps({name: report[name]}, default=Cost.to_dict))  # outlives an interruption
    print_json(report)
    return report


def tell(line: str) -> None:
    """Print progress."""
    print(line, file=sys.stderr, flush=True)


def write_film(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: int,
    options: Mapping[str, str] | None = None,
    *,
    audio: np.ndarray | None = None,
    colorspace: int | None = None,
    comment: str = "",
) -> None:
    """Write a film of frames, (y, x, 3), with options of x264, and with sound at 16 kHz from -1 to 1 if any."""
    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = comment
        video: Any = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", **(options or {})})
        video.pix_fmt = "yuv420p"
        if audio is not None:
            sound: Any = container.add_stream("aac", AUDIO_RATE)
            sound.layout, sound.bit_rate = "mono", 64_000
        for pixels in frames:
            if not video.codec_context.is_open:
                video.height, video.width = pixels.shape[:2]
                if colorspace is not None:
                    video.codec_context.colorspace = colorspace
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            heard = av.AudioFrame.from_ndarray((audio * 32767).astype(np.int16)[None], format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = AUDIO_RATE, 0, Fraction(1, AUDIO_RATE)
            container.mux([*sound.encode(heard), *sound.encode(None)])


def index_run(scratch: Path, encoder: Encoder, files: Sequence[str], **options: Any) -> Callable[[], Path]:
    """Return what indexes files into a new folder, which it returns, without words by default."""
    head = options.pop("head", "none")

    def run() -> Path:
        index = Path(tempfile.mkdtemp(dir=scratch), "index")
        with Engine(index, encoder, head=head) as engine:
            engine.index(files, **{"words": False, **options})
        return index

    return run


def load_tiny_models() -> Any:
    """Return the module of the tests that makes random models of the kinds that transformers runs."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    return importlib.import_module("tests.encode.hf_models")


def make_head() -> tuple[GroundingHead, HeadCard]:
    """Return R2-Tuning's head with random weights, every part of which counts, and its card."""
    torch.manual_seed(0)
    head = GroundingHead(WIDTH, TEXT_WIDTH, HEAD_DIM, num_layers=HEAD_LAYERS).eval()
    with torch.no_grad():
        head.block.scales.normal_()
        head.block.gates.normal_()
    return head, HeadCard.describe(head, backbone=BACKBONE, **RECIPES["qvhighlights"])


def draw_batch(num_pairs: int, num_frames: int, side: int, num_words: int) -> RetrievalBatch:
    """Return random frames and texts to train on, each text as long as it may be."""
    pixels = torch.randint(0, 256, (num_pairs, num_frames, side, side, 3), dtype=torch.uint8)
    mask, indices = torch.ones(num_pairs, num_frames, dtype=torch.bool), torch.arange(num_pairs)
    ids = torch.randint(1, 40_000, (num_pairs, num_words))
    ids[:, 0], ids[:, -1] = 49406, 49407
    return RetrievalBatch(pixels, mask, ids, indices, indices, indices)


def copy_samples(folder: Path, num_copies: int) -> list[str]:
    """Copy the sample videos into a folder, each several times with a byte more, which makes it another content."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in scan([str(sample_videos())]):
        for copy in range(num_copies):
            (folder / f"{copy}-{Path(file).name}").write_bytes(Path(file).read_bytes() + bytes([copy]))
    return scan([str(folder)])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def percent(flags: Sequence[float] | np.ndarray) -> float:
    """Return how many are true, in percent, to a tenth; NaN of none."""
    return round(100 * float(np.mean(flags)), 1) if len(flags) else float("nan")


def print_json(report: Mapping[str, Any]) -> None:
    """Print a report and the load of the machine: above its cores, times of the clock tell little."""
    print(json.dumps({**report, "load": round(os.getloadavg()[0], 1)}, indent=2, default=Cost.to_dict))


def print_rows(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table in columns."""
    lines = [list(map(str, row)) for row in (headings, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip(), flush=True)
