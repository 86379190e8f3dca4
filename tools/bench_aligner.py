"""Measure UCoFiA and a trained grounding head: whole matrices, reranking from disk, queries of the head.

    python tools/bench_aligner.py [--only matrix rerank head corpus] [--pairs 128 256 512 1000] [--segments 5000]

All on one thread, with random weights: speed does not depend on them. One JSON object is printed. UCoFiA is measured
with a head as trained ones are shaped and without: 512 dimensions, 12 frames of 49 patches, 32 words of a caption, 12
of a query. The grounding head is that published over CLIP ViT-B/32, asked with 14 tokens:

- ``head``: a video of 75 and of 600 clips, whose projected tokens exist, window by window.
- ``corpus``: ``locate`` over an index of made vectors and kept tokens of videos of 150 s, ten of them asked.
"""

import argparse
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from harness import (
    BACKBONE,
    HEAD_DIM,
    HEAD_LAYERS,
    TEXT_WIDTH,
    make_head,
    make_parser,
    run_parts,
    take_turns,
    time_queries,
)
from made_index import (
    REGIONS,
    SEGMENT_S,
    MadeVideo,
    add_videos,
    build_index,
    describe_encoder,
    make_segment,
    unit,
)

from vidret.align.batches import TextBatch
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.channels.picture.aligner_rankers import UcofiaRanker
from vidret.channels.picture.query_bank import UNRELATED
from vidret.channels.picture.ranking import Ranker
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.ground.checkpoint import HeadCard, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.pieces import save_projected
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, cut_windows, join_results
from vidret.search.heads.layers import Grounder
from vidret.store.records import HEAD
from vidret.store.store import Store
from vidret.types import TextEmbedding

DIM, FRAMES, WORDS, QUERY_WORDS = 512, 12, 32, 12
KEPT = 4 * FRAMES
CANDIDATES = 200
NUM_TOKENS, CLIPS, NUM_WORDS, FPS = REGIONS + 1, 75, 14, 0.5  # of a clip, of a window, of a query of the head


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


# Whole matrices


def make_matrix(num: int) -> tuple[TextBatch, PreparedVideos]:
    """Make texts and prepared videos; speed depends only on their numbers."""
    torch.manual_seed(0)
    frames = torch.nn.functional.normalize(torch.randn(num, FRAMES, DIM), dim=-1)
    tokens = torch.nn.functional.normalize(torch.randn(num, KEPT, DIM), dim=-1)
    return TextBatch(torch.randn(num, DIM), torch.randn(num, WORDS, DIM)), PreparedVideos(frames[:, 0], frames, tokens)


def measure_matrix(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Score as many texts as videos, all with all; return microseconds of CPU a pair by their number."""
    report: dict[str, Any] = {"words": WORDS}
    aligners = {kind: build_aligner(trained=kind == "trained") for kind in ("trained", "training-free")}
    for num in given.pairs:
        texts, videos = make_matrix(num)
        costs = take_turns({kind: partial(own.score, texts, videos) for kind, own in aligners.items()}, given.repeats)
        report[num] = {kind: round(1e6 * cost.cpu_s / num**2, 1) for kind, cost in costs.items()}
    return report


# Reranking


def rerank(store: Store, ranker: Ranker, query: tuple[TextEmbedding, np.ndarray]) -> None:
    """Read the candidates of a text and score them, as the engine does."""
    text, ids = query
    frames = [rows for rows, _ in store.features.read_frames(ids)]
    ranker.score([text], store.features.read_tokens(ids), frames)


def make_text(random: np.random.Generator) -> TextEmbedding:
    """Draw the states of a text, which has a start and an end token."""
    states = random.standard_normal((QUERY_WORDS + 2, DIM), np.float32)
    return TextEmbedding("made", unit(states[-1]), unit(states[1:-1]), states)


def measure_rerank(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rerank candidates drawn at random, from stored tokens in int8."""
    random, encoder = np.random.default_rng(0), SimpleNamespace(name="made", fingerprint="made", dim=DIM)
    report: dict[str, Any] = {"candidates": CANDIDATES, "words": QUERY_WORDS, "segments": given.segments}
    for kind in ("trained", "training-free"):
        ranker = UcofiaRanker("made", build_aligner(trained=kind == "trained"))
        build_index(folder / kind, encoder, given.segments, FRAMES, ranker=ranker)
        with Store.open(folder / kind) as store:
            ids = store.searchable()
            queries = [
                (make_text(random), random.choice(ids, min(CANDIDATES, len(ids)), replace=False))
                for _ in range(given.queries)
            ]
            report[kind] = time_queries(partial(rerank, store, ranker), queries)
    return report


# A grounding head


def make_projected(window: Window, seed: int = 0) -> ProjectedVideos:
    """Draw the projected tokens of a window's clips."""
    generator = torch.Generator().manual_seed(seed)
    shape, layers = (1, window.last - window.first, NUM_TOKENS), range(HEAD_LAYERS)
    drawn = [torch.randint(-127, 128, (*shape, HEAD_DIM), generator=generator, dtype=torch.int8) for _ in layers]
    scales = [torch.rand(shape, generator=generator) / 100 for _ in layers]
    return ProjectedVideos(tuple(drawn), tuple(scales), (None,) * HEAD_LAYERS)


@torch.inference_mode()
def ask(head: GroundingHead, card: HeadCard, parts: Any, num_clips: int) -> int:
    """Answer a query from windows and their tokens; return the number of spans."""
    query = torch.randn(1, HEAD_LAYERS, NUM_WORDS, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    windows, answers = [], []
    for window, projected in parts:
        windows.append(window)
        answers += head.decode(head(projected, query), fps=FPS)
    return len(postprocess_spans(join_results(windows, answers, fps=FPS), card, duration=num_clips / FPS))


def measure_head(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Time a query with its tokens at hand, by number of clips."""
    head, card = make_head()
    runs = {}
    for num_clips in (CLIPS, 8 * CLIPS):
        parts = [(window, make_projected(window, seed)) for seed, window in enumerate(cut_windows(num_clips))]
        runs[f"{num_clips} clips"] = partial(ask, head, card, parts, num_clips)
    return {name: cost.to_dict() for name, cost in take_turns(runs, given.repeats).items()}


def build_grounded(path: Path, encoder: Encoder, num_videos: int) -> None:
    """Store made vectors of videos of 150 s, and keep made tokens for its head."""
    head, card = make_head()
    with Store.create(path, **describe_encoder(encoder)) as store:
        save_head(head, card, path / "head.safetensors")
        store.metadata.set(HEAD, str((path / "head.safetensors").absolute()))
    with Engine(path, encoder) as engine:
        grounder = engine.grounder
        assert isinstance(grounder, Grounder)
        places = [grounder.files.locate(f"made-{number}", keep=True) for number in range(num_videos)]
    random, centre = np.random.default_rng(0), np.zeros(encoder.dim, np.float32)
    edges = [*np.arange(0.0, CLIPS / FPS - SEGMENT_S, SEGMENT_S), CLIPS / FPS]
    with Store.open(path, write=True) as store:
        for number, place in enumerate(places):
            vectors = [make_segment(centre, int(SEGMENT_S), random, start=start) for start in edges[:-1]]
            add_videos(store, [MadeVideo(place.stem, path / "files" / f"{number}.mp4", edges, vectors)])
            save_projected(place, [(Window(0, CLIPS), make_projected(Window(0, CLIPS), number))])
        store.upkeep.save_vectors()


def measure_corpus(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Locate in all of an index by the head."""
    encoder, index = load_encoder(BACKBONE, device="cpu", precision="fp32"), scratch / "corpus"
    build_grounded(index, encoder, given.videos)
    with Engine(index, encoder) as engine:
        locate = partial(engine.locate, k=5, overlapping=True, weak=True)
        assert {moment.by for moment in locate("a warm start")} == {"head"}
        return {"videos": given.videos, "locate": time_queries(locate, UNRELATED[: given.located])}


def main() -> None:
    """Measure and print."""
    pairs = [128, 256, 512, 1000]
    parser = make_parser(__doc__, pairs=pairs, repeats=3, segments=5000, queries=100, videos=300, located=20)
    parts = {"matrix": measure_matrix, "rerank": measure_rerank, "head": measure_head, "corpus": measure_corpus}
    run_parts(parser, parts)


if __name__ == "__main__":
    main()
