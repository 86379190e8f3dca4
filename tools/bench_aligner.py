"""Measure the aligners: whole matrices, and reranking from disk; print one JSON object.

    python tools/bench_aligner.py [--only matrix] [--pairs 128 256 512 1000] [--segments 5000] [--queries 100]

UCoFiA and GLSCL, with heads as trained ones are shaped (random weights: speed does not depend on them) and without:
512 dimensions, 12 frames of 49 patches, 32 words of a caption, 12 of a query. All on one thread. Memory is how far the
peak of a process of its own rises while it scores.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import PREFIX, measure_rise_mb, print_json, run_in_new_process, take_turns, time_queries

from vidret.align.attending import SoftmaxAttention
from vidret.align.batches import TextBatch
from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.channels.picture.aligner_rankers import GlsclRanker, UcofiaRanker
from vidret.channels.picture.ranker_loading import TOKENS
from vidret.channels.picture.ranking import Ranker
from vidret.channels.picture.reranking import widen
from vidret.encode.families.registry import load_encoder
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, TextEmbedding

Pool = list[SegmentEmbedding]

DIM, FRAMES, PATCHES, WORDS, QUERY_WORDS = 512, 12, 49, 32, 12
KEPT = 4 * FRAMES
CANDIDATES = 200
POOL = 256  # different segments that are made; an index repeats them
SEGMENTS_PER_VIDEO = 50


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
    return ConceptAligner(
        temporal=TemporalTransformer(DIM), finder=ConceptFinder(DIM), attention=SoftmaxAttention(3.0)
    ).eval()


def build_rankers() -> dict[str, Ranker]:
    """Return all that is measured by name."""
    rankers: dict[str, Ranker] = {}
    for trained in (True, False):
        kind = " trained" if trained else ""
        for tokens in TOKENS:
            rankers[f"ucofia{kind} {tokens}"] = UcofiaRanker("made", build_aligner(trained=trained), tokens=tokens)
        rankers[f"glscl{kind}"] = GlsclRanker("made", build_concepts(trained=trained))
    return rankers


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


# Whole matrices


def make_matrix(num: int) -> tuple[TextBatch, PreparedVideos]:
    """Make texts and prepared videos; speed depends only on their numbers."""
    torch.manual_seed(0)
    frames = torch.nn.functional.normalize(torch.randn(num, FRAMES, DIM), dim=-1)
    tokens = torch.nn.functional.normalize(torch.randn(num, KEPT, DIM), dim=-1)
    return TextBatch(torch.randn(num, DIM), torch.randn(num, WORDS, DIM)), PreparedVideos(frames[:, 0], frames, tokens)


def find_matrix_peak_mb(trained: bool, num: int) -> float:
    """Return how much memory a matrix takes: to be called in a process of its own."""
    torch.set_num_threads(1)
    aligner, (texts, videos) = build_aligner(trained=trained), make_matrix(num)
    return measure_rise_mb(lambda: aligner.score(texts, videos))


def measure_matrix(sizes: list[int], repeats: int) -> dict[str, Any]:
    """Score as many texts as videos, all with all."""
    report: dict[str, Any] = {"words": WORDS}
    aligners = {trained: build_aligner(trained=trained) for trained in (True, False)}
    for num in sizes:
        texts, videos = make_matrix(num)
        runs = {str(trained): partial(aligner.score, texts, videos) for trained, aligner in aligners.items()}
        costs = take_turns(runs, repeats)
        for trained in aligners:
            report.setdefault("trained" if trained else "training-free", {})[num] = {
                "cpu_us_a_pair": round(1e6 * costs[str(trained)].cpu_s / num**2, 1),
                "peak_mb": round(run_in_new_process(find_matrix_peak_mb, trained, num), 1),
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
            video = store.writer.begin_video(f"made-{first}", duration=count * 12.0, facts={}, num_segments=count)
            numbered = [(number, number * 12.0, (first + number) % len(pool)) for number in range(count)]
            store.writer.add_segments(
                [NewSegment(video, number, start, start + 12.0, pool[at], packed[at]) for number, start, at in numbered]
            )
            store.writer.finish_video(video)
            store.writer.set_file(f"/made/{first}.mp4", state="done", video=video, num_bytes=0, mtime_ns=0)


def rerank(store: Store, ranker: Ranker, text: TextEmbedding, ids: np.ndarray) -> None:
    """Read candidates and score them, as the engine does."""
    frames = widen([rows for rows, _ in store.features.read_frames(ids)])
    ranker.score([text], store.features.read_tokens(ids), frames)


def measure_rerank(folder: Path, rankers: dict[str, Ranker], num_segments: int, num_queries: int) -> dict[str, Any]:
    """Rerank candidates drawn at random; before each query a text is encoded, as in a search."""
    maker, encoder = Maker(), load_encoder()
    pool = [maker.segment() for _ in range(POOL)]
    report: dict[str, Any] = {"candidates": CANDIDATES, "words": QUERY_WORDS, "segments": num_segments}
    for name, ranker in rankers.items():
        fill_store(folder / name, ranker, pool, num_segments)
        with Store.open(folder / name) as store:
            ids = store.searchable()
            queries = []
            for number in range(num_queries):
                chosen = ids[maker.choose(len(ids), min(CANDIDATES, len(ids)))]
                queries.append((maker.text(pool[number % POOL], QUERY_WORDS), chosen))

            def ask(query: tuple[TextEmbedding, np.ndarray], store: Store = store, ranker: Ranker = ranker) -> None:
                rerank(store, ranker, *query)

            encoder.encode_text(["a man plays the guitar"])
            report[name] = time_queries(ask, queries)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the aligners.")
    parser.add_argument("--only", nargs="+", choices=("matrix", "rerank"), default=["matrix", "rerank"])
    parser.add_argument("--pairs", nargs="+", type=int, default=[128, 256, 512, 1000], help="texts, and videos")
    parser.add_argument("--repeats", type=int, default=3, help="of each matrix")
    parser.add_argument("--segments", type=int, default=5000, help="of the index that is made")
    parser.add_argument("--queries", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {"dim": DIM, "frames": FRAMES, "tokens": KEPT}
    if "matrix" in given.only:
        report["matrix"] = measure_matrix(given.pairs, given.repeats)
    if "rerank" in given.only:
        with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
            report["rerank"] = measure_rerank(Path(folder), build_rankers(), given.segments, given.queries)
    print_json(report)


if __name__ == "__main__":
    main()
