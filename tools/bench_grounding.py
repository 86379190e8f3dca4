"""Measure a trained grounding head; print one JSON object.

    python tools/bench_grounding.py [--videos 300] [--queries 20] [--repeats 9] [--index DIR]

Sizes are those of the published head over CLIP ViT-B/32, weights and tokens random (speed does not depend on them), and
queries have 14 tokens. Of one video: a query whose projected tokens exist, window by window and in one
piece; reading those tokens, bytes for each 2-second clip; projecting them, once a video. CPU seconds of one thread,
medians. Memory is the peak of a process of its own: all of it, and how far it rises. Of many videos: ``locate`` over an
index of made vectors and kept tokens of videos of 150 s, ten of them asked, the text encoded in between; wall and CPU
seconds on one thread and on all: where other programs keep the cores busy, threads that wait for each other are slower
than one. DIR keeps that index (4 MB a video) for the next time.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidret.align.baseline import UNRELATED
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.encoder import Encoder, LayeredEncoder
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.ground.checkpoint import HeadCard, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.pieces import load_projected, save_projected
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, cut_windows, ground_windows, join_results
from vidret.search.heads.layers import Grounder
from vidret.store.records import HEAD
from vidret.store.store import Store
from vidret.types import Frames, SegmentEmbedding

BACKBONE = "ViT-B-32-quickgelu/random"
NUM_LAYERS, NUM_TOKENS, WIDTH, TEXT_WIDTH, DIM = 4, 50, 768, 512, 256
FPS, CLIPS, NUM_WORDS = 0.5, 75, 14
SEGMENT = 12  # seconds, and frames of it that are stored
TYPES = {"float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
CPU = torch.device("cpu")


def make_head() -> tuple[GroundingHead, HeadCard]:
    """Give a head whose every part counts, and its card."""
    torch.manual_seed(0)
    head = GroundingHead(WIDTH, TEXT_WIDTH, DIM, num_layers=NUM_LAYERS).eval()
    with torch.no_grad():
        head.block.scales.normal_()
        head.block.gates.normal_()
    return head, HeadCard.describe(head, backbone=BACKBONE, **RECIPES["qvhighlights"])


def make_projected(num_clips: int, dtype: torch.dtype, seed: int = 0) -> ProjectedVideos:
    """Draw the projected tokens of clips."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, num_clips, NUM_TOKENS)
    if dtype == torch.int8:
        layers = [torch.randint(-127, 128, (*shape, DIM), generator=generator, dtype=dtype) for _ in range(NUM_LAYERS)]
        scales = [torch.rand(shape, generator=generator) / 100 for _ in range(NUM_LAYERS)]
        return ProjectedVideos(tuple(layers), tuple(scales), (None,) * NUM_LAYERS)
    layers = [torch.randn(*shape, DIM, generator=generator).to(dtype) for _ in range(NUM_LAYERS)]
    return ProjectedVideos(tuple(layers), (None,) * NUM_LAYERS, (None,) * NUM_LAYERS)


def make_parts(windows: list[Window], dtype: torch.dtype) -> list[tuple[Window, ProjectedVideos]]:
    """Draw the projected tokens of each window."""
    return [(window, make_projected(window.last - window.first, dtype, seed)) for seed, window in enumerate(windows)]


@torch.inference_mode()
def ask(head: GroundingHead, card: HeadCard, parts: Any, num_clips: int) -> int:
    """Answer a query from windows and their tokens; give the number of spans."""
    query = torch.randn(1, NUM_LAYERS, NUM_WORDS, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    windows, answers = [], []
    for window, projected in parts:
        windows.append(window)
        answers += head.decode(head(projected, query), fps=FPS)
    return len(postprocess_spans(join_results(windows, answers, fps=FPS), card, duration=num_clips / FPS))


def measure(repeats: int, runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Run each by turns after a first time; give the median CPU seconds of this thread."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            started = time.thread_time()
            run()
            if turn:
                seconds[name].append(time.thread_time() - started)
    return {name: round(statistics.median(each), 4) for name, each in seconds.items()}


def measure_queries(repeats: int) -> dict[str, float]:
    """Time a query with its tokens at hand, by number of clips and type, in windows and in one piece."""
    head, card = make_head()
    runs: dict[str, Callable[[], Any]] = {}
    for num_clips in (CLIPS, 600):
        for name, dtype in TYPES.items():
            parts = make_parts(cut_windows(num_clips), dtype)
            runs[f"{num_clips} clips {name}"] = partial(ask, head, card, parts, num_clips)
    whole = make_parts([Window(0, 600)], torch.int8)
    runs["600 clips int8 in one piece"] = partial(ask, head, card, whole, 600)
    return measure(repeats, runs)


def measure_together(repeats: int) -> dict[str, float]:
    """Time a query in ten videos of int8 tokens, video by video and together, of one length and of several."""
    head, _ = make_head()
    query = torch.randn(NUM_LAYERS, NUM_WORDS, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    runs: dict[str, Callable[[], Any]] = {}
    for name, lengths in (("75 clips", [CLIPS] * 10), ("30 to 75 clips", [*range(30, 80, 5)])):
        videos = [make_projected(length, torch.int8, seed) for seed, length in enumerate(lengths)]
        runs[f"{name}, one by one"] = partial(ask_each, head, query, videos)
        runs[f"{name}, together"] = partial(ground_windows, head, query, videos, fps=FPS)
    return measure(repeats, runs)


def ask_each(head: GroundingHead, query: torch.Tensor, videos: list[ProjectedVideos]) -> None:
    """Answer a query in each video by itself."""
    for video in videos:
        ground_windows(head, query, [video], fps=FPS)


def read_all(path: Path) -> float:
    """Read a file's tokens, touching each byte."""
    return sum(float(layer.sum()) for _, projected in load_projected(path, device=CPU) for layer in projected.layers)


def measure_reading(repeats: int, folder: Path) -> dict[str, dict[str, float]]:
    """Write tokens of 150 s, say what a clip takes, and time reading them."""
    found: dict[str, dict[str, float]] = {}
    runs: dict[str, Callable[[], Any]] = {}
    for name, dtype in TYPES.items():
        path = folder / f"{name}.zip"
        save_projected(path, make_parts([Window(0, CLIPS)], dtype))
        runs[name] = partial(read_all, path)
        found[name] = {"bytes_a_clip": round(path.stat().st_size / CLIPS)}
    for name, seconds in measure(repeats, runs).items():
        found[name]["read_150s_cpu_ms"] = round(1e3 * seconds, 2)
    return found


@torch.inference_mode()
def measure_mapping(repeats: int, encoder: Encoder) -> dict[str, float]:
    """Time what is done once for 150 s of video, decoding apart: the towers, and the mapping of their layers."""
    assert isinstance(encoder, LayeredEncoder)
    head, _ = make_head()
    side = encoder.resize.crop
    pixels = np.random.default_rng(0).integers(0, 256, (12, side, side, 3), dtype=np.uint8)
    layers = [torch.randn(1, CLIPS, NUM_TOKENS, WIDTH) for _ in range(NUM_LAYERS)]
    seconds = measure(
        min(repeats, 3),
        {
            "encode": lambda: encoder.encode_layers(Frames(pixels, np.arange(12) / FPS), NUM_LAYERS),
            "map": lambda: head.prepare(layers, dtype=torch.int8),
        },
    )
    return {"encode_150s": round(seconds["encode"] * CLIPS / 12, 2), "map_150s": seconds["map"]}


def resident_mb(field: str) -> float:
    """Read one of this process's memory figures (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def send_peak(path: Path, num_clips: int, queue: Any) -> None:
    """Answer a query from a file; send the peak of this process, and how far above the start it is."""
    torch.set_num_threads(1)
    head, card = make_head()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = resident_mb("VmRSS")
    ask(head, card, load_projected(path, device=CPU), num_clips)
    queue.put({"peak_mb": round(resident_mb("VmHWM")), "rise_mb": round(resident_mb("VmHWM") - before)})


def measure_memory(folder: Path) -> dict[str, dict[str, float]]:
    """Measure queries over 600 clips and over ten hours, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    found = {}
    cases = {"600 clips": cut_windows(600), "600 clips in one piece": [Window(0, 600)], "6000 clips": cut_windows(6000)}
    for name, windows in cases.items():
        path = folder / "memory.zip"
        save_projected(path, ((window, make_projected(window.last - window.first, torch.int8)) for window in windows))
        queue = context.Queue()
        process = context.Process(target=send_peak, args=(path, windows[-1].last, queue))
        process.start()
        found[name] = queue.get(timeout=600)
        process.join()
    return found


def build(path: Path, encoder: Encoder, num_videos: int) -> None:
    """Store made vectors of videos of 150 s as an index run would, and keep made tokens for its head."""
    head, card = make_head()
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        save_head(head, card, path / "head.safetensors")
        store.set_meta(HEAD, str((path / "head.safetensors").absolute()))
    with Engine(path, encoder) as engine:
        grounder = engine.grounder
        assert isinstance(grounder, Grounder)
        places = [grounder.locate_file(f"made-{number}", keep=True) for number in range(num_videos)]
    random = np.random.default_rng(0)
    bounds = [*np.arange(0.0, CLIPS / FPS - SEGMENT, SEGMENT), CLIPS / FPS]
    with Store.open(path, write=True) as store:
        for number, place in enumerate(places):
            file = path / "files" / f"{number}.mp4"
            file.parent.mkdir(exist_ok=True)
            file.touch()
            video = store.begin_video(place.stem, duration=CLIPS / FPS, facts={}, num_segments=len(bounds) - 1)
            for segment, (start, end) in enumerate(pairwise(bounds)):
                frames = random.standard_normal((SEGMENT, encoder.dim)).astype(np.float32)
                frames /= np.linalg.norm(frames, axis=1, keepdims=True)
                mean = frames.mean(axis=0)
                times = np.linspace(start, end, SEGMENT, endpoint=False)
                embedding = SegmentEmbedding(mean / np.linalg.norm(mean), frames, times)
                store.add_segment(video, segment, float(start), float(end), embedding)
            store.finish_video(video)
            store.set_file(str(file), state="done", video=video, num_bytes=0, mtime_ns=0)
            save_projected(place, [(Window(0, CLIPS), make_projected(CLIPS, torch.int8, number))])
        store.save_vectors()


def measure_corpus(index: Path, encoder: Encoder, num_queries: int) -> dict[str, Any]:
    """Locate in all of an index, by the head, and for comparison by the curve."""
    found: dict[str, Any] = {}
    for name in ("auto", "none"):
        with Engine(index, encoder, head=name) as engine:
            engine.locate("a warm start", weak=True)
            seconds, cpu_seconds = [], []
            for query in UNRELATED[:num_queries]:
                started, cpu_started = time.perf_counter(), time.process_time()
                moments = engine.locate(query, 5, overlapping=True, weak=True)
                seconds.append(time.perf_counter() - started)
                cpu_seconds.append(time.process_time() - cpu_started)
            found["videos"] = engine.info().videos
        assert {moment.by for moment in moments} == {"head" if name == "auto" else "curve"}
        found[moments[0].by] = {
            "p50_s": round(statistics.median(seconds), 3),
            "p95_s": round(float(np.percentile(seconds, 95)), 3),
            "p50_cpu_s": round(statistics.median(cpu_seconds), 3),
        }
    return found


def main() -> None:
    """Measure one video on one thread, then many on all; print."""
    parser = argparse.ArgumentParser(description="Measure a trained grounding head.")
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--index", type=Path, default=None)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vidret-bench-"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report: dict[str, Any] = {
            "query_cpu_seconds": measure_queries(arguments.repeats),
            "ten_videos_cpu_seconds": measure_together(arguments.repeats),
            "tokens": measure_reading(arguments.repeats, folder),
            "memory": measure_memory(folder),
        }
        encoder = load_encoder(BACKBONE, device="cpu", precision="fp32")
        report["once_a_video_cpu_seconds"] = measure_mapping(arguments.repeats, encoder)
        index = arguments.index or folder / "index"
        if not Store.exists(index):
            build(index, encoder, arguments.videos)
        report["corpus"] = {}
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            report["corpus"][f"{count} threads"] = measure_corpus(index, encoder, arguments.queries)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
