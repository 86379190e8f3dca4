"""Measure the aligners: whole matrices, reranking from disk, the loss by packing, calibration; print one JSON object.

    python tools/bench_aligner.py [--only matrix] [--pairs 256] [--segments 5000] [--queries 100] [--bank 500]

UCoFiA and GLSCL, with heads as trained ones are shaped (random weights: speed does not depend on them) and without:
512 dimensions, 12 frames of 49 patches, 32 words of a caption, 12 of a query. All on one thread, by turns in one
process; CPU time beside wall time. Memory is how far the peak of a process of its own rises while it scores.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from vidret.align.batches import TextBatch, collate_segments, collate_texts
from vidret.align.glscl import ConceptAligner, ConceptFinder, ConceptVideos
from vidret.align.packing import unpack_videos
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import MEMORY, Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.channels.picture.calibration import measure_calibration
from vidret.channels.picture.ranking import TOKENS, GlsclRanker, Levels, Packed, Ranker, UcofiaRanker
from vidret.channels.picture.reranking import widen
from vidret.encode.families.registry import load_encoder
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, TextEmbedding

T = TypeVar("T")
Pool = list[SegmentEmbedding]

DIM, FRAMES, PATCHES, WORDS, QUERY_WORDS = 512, 12, 49, 32, 12
KEPT = 4 * FRAMES
CANDIDATES = 200
WARM = 5  # queries before the clock counts
POOL = 256  # different segments that are made; an index repeats them
SEGMENTS_PER_VIDEO = 50
PARTS = ("matrix", "rerank", "packing", "calibration")
CALIBRATED = ("ucofia trained int8", "ucofia int8", "glscl trained")


def build_aligner(*, trained: bool) -> Aligner:
    """Compose UCoFiA, with a head of random weights or without."""
    torch.manual_seed(0)
    if not trained:
        return Aligner(selector=PatchSelector()).eval()
    mixing = Mixing(DIM, num_frames=FRAMES, num_words=WORDS, num_tokens=KEPT)
    for matrix in mixing.parameters():
        matrix.data.add_(0.02 * torch.randn_like(matrix))
    selector = PatchSelector(ScoreNet(DIM))
    return Aligner(temporal=TemporalTransformer(DIM), selector=selector, mixing=mixing, unit_tokens=False).eval()


def build_concepts(*, trained: bool) -> ConceptAligner:
    """Compose GLSCL, with a head of random weights or without."""
    torch.manual_seed(0)
    if not trained:
        return ConceptAligner().eval()
    return ConceptAligner(temporal=TemporalTransformer(DIM), finder=ConceptFinder(DIM), temperature=3.0).eval()


class Kind(NamedTuple):
    """A ranker, and the aligner in it."""

    ranker: Ranker
    aligner: Aligner | ConceptAligner


def build_kinds() -> dict[str, Kind]:
    """Name all that is measured."""
    found = {}
    for trained in (True, False):
        kind = " trained" if trained else ""
        for tokens in TOKENS:
            aligner = build_aligner(trained=trained)
            found[f"ucofia{kind} {tokens}"] = Kind(UcofiaRanker("made", aligner, tokens=tokens), aligner)
        concepts = build_concepts(trained=trained)
        found[f"glscl{kind}"] = Kind(GlsclRanker("made", concepts), concepts)
    return found


class Maker:
    """Make segments around 20 topics, and texts around segments: nearer to their own than to those of its topic."""

    def __init__(self) -> None:
        """Choose the topics."""
        self._random = np.random.default_rng(0)
        self._topics = self._random.standard_normal((20, DIM))

    def segment(self) -> SegmentEmbedding:
        """Make one; frames differ little from it, patches much from their frame."""
        own = self._topics[self._random.integers(len(self._topics))] + self._noise(1)[0]
        frames = own + 0.5 * self._noise(FRAMES)
        tokens = np.repeat(frames, PATCHES, axis=0) + 2 * self._noise(FRAMES * PATCHES)
        (frames, frame_lengths), (tokens, token_lengths) = _units(frames), _units(tokens)
        lengths = 10 * frame_lengths / frame_lengths.mean(), 10 * token_lengths / token_lengths.mean()
        times = np.arange(FRAMES) + 0.5
        return SegmentEmbedding(_units(frames.mean(0))[0], frames, times, tokens, None, *lengths)

    def text(self, segment: SegmentEmbedding, num_words: int) -> TextEmbedding:
        """Make one about a segment; its states have a start and an end token."""
        about = np.sqrt(DIM) * segment.video
        states = about + 2 * self._noise(num_words + 2)
        states[-1] = about + self._noise(1)[0]
        units, lengths = _units(states)
        return TextEmbedding("made", units[-1], units[1:-1], 10 * units * (lengths / lengths.mean())[:, None])

    def choose(self, total: int, count: int) -> np.ndarray:
        """Draw numbers below ``total``, each once."""
        return self._random.choice(total, count, replace=False)

    def _noise(self, rows: int) -> np.ndarray:
        return self._random.standard_normal((rows, DIM))


def _units(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give rows of unit length, and the lengths they had."""
    lengths = np.linalg.norm(rows, axis=-1).astype(np.float32)
    return (rows / lengths[..., None]).astype(np.float32), lengths


def timed(call: Callable[[], T]) -> tuple[T, np.ndarray]:
    """Call; give the result, and the seconds of CPU and of the clock on the wall."""
    before = np.array([time.process_time(), time.perf_counter()])
    result = call()
    return result, np.array([time.process_time(), time.perf_counter()]) - before


def summarise(seconds: list[np.ndarray]) -> dict[str, list[float]]:
    """Give medians and 95th percentiles in milliseconds."""
    p50, p95 = np.round(1e3 * np.percentile(seconds, [50, 95], axis=0), 2).tolist()
    return {"cpu_ms_p50_p95": [p50[0], p95[0]], "wall_ms_p50_p95": [p50[1], p95[1]]}


# Memory


def measure_peak(call: Callable[[], object]) -> float:
    """Give by how many MB the resident peak of this process rises (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = resident_mb("VmRSS")
    call()
    return resident_mb("VmHWM") - before


def resident_mb(field: str) -> float:
    """Read one of this process's memory figures."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def in_fresh_process(target: Callable[..., None], *arguments: object) -> Any:
    """Run what puts its result into a queue, in a process without a past."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=target, args=(*arguments, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


# Whole matrices


def make_matrix(num: int) -> tuple[TextBatch, PreparedVideos]:
    """Make texts and prepared videos; speed depends on their numbers alone."""
    torch.manual_seed(0)
    frames = torch.nn.functional.normalize(torch.randn(num, FRAMES, DIM), dim=-1)
    tokens = torch.nn.functional.normalize(torch.randn(num, KEPT, DIM), dim=-1)
    return TextBatch(torch.randn(num, DIM), torch.randn(num, WORDS, DIM)), PreparedVideos(frames[:, 0], frames, tokens)


def send_matrix_peak(trained: bool, num: int, queue: Any) -> None:
    """Send how much memory a matrix takes."""
    torch.set_num_threads(1)
    aligner, (texts, videos) = build_aligner(trained=trained), make_matrix(num)
    queue.put(measure_peak(lambda: aligner.score(texts, videos)))


def bench_matrix(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Score as many texts as videos, all with all."""
    aligners = {"trained": build_aligner(trained=True), "training-free": build_aligner(trained=False)}
    seconds: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for _ in range(repeats):
        for num in sizes:
            texts, videos = make_matrix(num)
            for name, aligner in aligners.items():
                seconds[name, num].append(timed(partial(aligner.score, texts, videos))[1])
    report: dict[str, Any] = {"words": WORDS, "bound_mb": MEMORY >> 20}
    for (name, num), times in seconds.items():
        cpu, wall = (statistics.median(each) * 1e6 / num**2 for each in np.array(times).T)
        peak = in_fresh_process(send_matrix_peak, name == "trained", num)
        report.setdefault(name, {})[num] = {
            "cpu_us_a_pair": round(cpu, 1),
            "wall_us_a_pair": round(wall, 1),
            "peak_mb": round(peak, 1),
            "of_which_scores_mb": round(num**2 * 20 / 2**20, 1),
        }
    return report


# Reranking


def fill_store(path: Path, ranker: Ranker, pool: Pool, num_segments: int) -> None:
    """Store segments with what a ranker wants, as an index run would."""
    packed = [ranker.pack(segment) for segment in pool]
    with Store.create(path, encoder_name="made", encoder_fingerprint="made", dim=DIM) as store:
        for first in range(0, num_segments, SEGMENTS_PER_VIDEO):
            count = min(SEGMENTS_PER_VIDEO, num_segments - first)
            video = store.begin_video(f"made-{first}", duration=count * 12.0, facts={}, num_segments=count)
            for number in range(count):
                which = (first + number) % len(pool)
                start = number * 12.0
                store.add_segment(video, number, start, start + 12.0, pool[which], tokens=packed[which])
            store.finish_video(video)
            store.set_file(f"/made/{first}.mp4", state="done", video=video, num_bytes=0, mtime_ns=0)


def read_segments(store: Store, ids: np.ndarray) -> tuple[list[np.ndarray], Packed, dict[str, np.ndarray]]:
    """Read candidates as the engine does, and say how long it took."""
    frames, of_frames = timed(lambda: widen([rows for rows, _ in store.frames(ids)]))
    packed, of_tokens = timed(lambda: store.tokens(ids))
    return frames, packed, {"read frames": of_frames, "read tokens": of_tokens}


def rerank(store: Store, kind: Kind, text: TextEmbedding, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Rerank as the engine does."""
    frames, packed, reading = read_segments(store, ids)
    _, scoring = timed(lambda: kind.ranker.score([text], packed, frames))
    return {"all": scoring + sum(reading.values())}


@torch.no_grad()
def rerank_by_parts(store: Store, kind: Kind, text: TextEmbedding, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Take the same steps one by one."""
    aligner = kind.aligner
    frames, packed, seconds = read_segments(store, ids)
    texts = collate_texts([text], raw=aligner.trained)
    if isinstance(aligner, Aligner):
        videos, seconds["unpack"] = timed(lambda: unpack_videos(packed, frames))
        _, seconds["compare"] = timed(lambda: aligner.score(texts, videos))
    else:
        concepts, seconds["unpack"] = timed(lambda: ConceptVideos.unpack(packed, frames))
        query, seconds["concepts of the query"] = timed(lambda: aligner.prepare_texts(texts))
        _, seconds["compare"] = timed(lambda: aligner.score(query, concepts))
    return seconds


def bench_rerank(folder: Path, kinds: dict[str, Kind], maker: Maker, pool: Pool, num_queries: int) -> dict[str, Any]:
    """Rerank candidates drawn at random, by turns; before each query a text is encoded, as in a search."""
    encoder = load_encoder()
    seconds: dict[str, dict[str, list[np.ndarray]]] = {name: defaultdict(list) for name in kinds}
    stores = {name: Store.open(folder / name) for name in kinds}
    ids = {name: store.searchable() for name, store in stores.items()}
    for turn in range(WARM + num_queries):
        text = maker.text(pool[turn % len(pool)], QUERY_WORDS)
        for name, kind in kinds.items():
            for run in (rerank, rerank_by_parts):
                chosen = ids[name][maker.choose(len(ids[name]), min(CANDIDATES, len(ids[name])))]
                encoder.encode_text(["a man plays the guitar"])
                for part, times in run(stores[name], kind, text, chosen).items():
                    if turn >= WARM:
                        seconds[name][part].append(times)
    for store in stores.values():
        store.close()
    report: dict[str, Any] = {"candidates": CANDIDATES, "words": QUERY_WORDS}
    return report | {name: {part: summarise(all_) for part, all_ in parts.items()} for name, parts in seconds.items()}


# What packing loses


@torch.no_grad()
def bench_packing(maker: Maker, pool: Pool) -> dict[str, Any]:
    """Score a text about each segment with packed tokens and with exact ones; scores are about cosines."""
    texts = [maker.text(segment, QUERY_WORDS) for segment in pool]
    report: dict[str, Any] = {"segments": len(pool), "words": QUERY_WORDS}
    for trained in (True, False):
        aligner = build_aligner(trained=trained)
        parts = [aligner.prepare(collate_segments([segment], raw=trained)) for segment in pool]
        whole, frames, tokens = (torch.cat([part[place] for part in parts]) for place in range(3))  # type: ignore[misc]
        videos = PreparedVideos(whole, frames, tokens)
        batch, scale = collate_texts(texts, raw=trained), float(aligner.logit_scale.exp())
        exact = aligner.score(batch, videos).mean / scale
        for name, dtype in TOKENS.items():
            packed = aligner.score(batch, videos.packed(dtype)).mean / scale
            report[f"{'trained' if trained else 'training-free'} {name}"] = compare(packed, exact)
    return report


def compare(scores: torch.Tensor, exact: torch.Tensor, *, k: int = 10) -> dict[str, float]:
    """Say how far scores lie from exact ones, and what becomes of the lists of the k best."""
    off = (scores - exact).abs()
    best, wanted = (each.topk(k, dim=1).indices for each in (scores, exact))
    return {
        "max": float(off.max()),
        "mean": float(off.mean()),
        "spread_of_scores": float(exact.std()),
        "top10_unchanged": float((best == wanted).all(dim=1).float().mean()),
        "top10_same_members": float((best.sort().values == wanted.sort().values).all(dim=1).float().mean()),
    }


# Calibration


def send_calibration(path: Path, name: str, texts: list[TextEmbedding], queue: Any) -> None:
    """Send what it takes to calibrate an index."""
    torch.set_num_threads(1)
    ranker = build_kinds()[name].ranker
    with Store.open(path) as store:

        def read(ids: np.ndarray) -> Levels:
            frames, packed, _ = read_segments(store, ids)
            return ranker.score(texts, packed, frames)

        seconds: list[np.ndarray] = []
        peak = measure_peak(
            lambda: seconds.append(timed(lambda: measure_calibration(store, ranker, texts, bank="made", read=read))[1])
        )
        cpu, wall = seconds[0]
        queue.put({"cpu_s": round(cpu, 1), "wall_s": round(wall, 1), "peak_mb": round(peak, 1)})


def bench_calibration(folder: Path, names: list[str], maker: Maker, pool: Pool, size: int) -> dict[str, Any]:
    """Calibrate each index with a bank of queries, in processes of their own."""
    texts = [maker.text(pool[number % len(pool)], QUERY_WORDS) for number in range(size)]
    report: dict[str, Any] = {"bank": size, "words": QUERY_WORDS}
    return report | {name: in_fresh_process(send_calibration, folder / name, name, texts) for name in names}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the aligners.")
    parser.add_argument("--only", action="append", choices=PARTS, help="of the four, all unless given")
    parser.add_argument("--pairs", action="append", type=int, help="texts and videos of a matrix")
    parser.add_argument("--repeats", type=int, default=3, help="of each matrix")
    parser.add_argument("--segments", type=int, default=5000, help="of the index that is made")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--bank", type=int, default=500, help="queries to calibrate with")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wanted = arguments.only or PARTS
    report: dict[str, Any] = {"dim": DIM, "frames": FRAMES, "tokens": KEPT, "threads": torch.get_num_threads()}
    if "matrix" in wanted:
        report["matrix"] = bench_matrix(arguments.pairs or [128, 256, 512, 1000], arguments.repeats)
    maker = Maker()
    pool = [maker.segment() for _ in range(POOL)] if set(wanted) != {"matrix"} else []
    if "packing" in wanted:
        report["packing"] = bench_packing(maker, pool)
    if "rerank" in wanted or "calibration" in wanted:
        names = build_kinds() if "rerank" in wanted else CALIBRATED
        kinds = {name: kind for name, kind in build_kinds().items() if name in names}
        with tempfile.TemporaryDirectory(prefix="vidret-bench-") as made:
            folder, report["segments"] = Path(made), arguments.segments
            for name, kind in kinds.items():
                fill_store(folder / name, kind.ranker, pool, arguments.segments)
            if "rerank" in wanted:
                report["rerank"] = bench_rerank(folder, kinds, maker, pool, arguments.queries)
            if "calibration" in wanted:
                report["calibration"] = bench_calibration(folder, list(CALIBRATED), maker, pool, arguments.bank)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
