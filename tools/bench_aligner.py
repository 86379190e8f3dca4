"""Measure the aligners and a trained grounding head: whole matrices, reranking from disk, queries of the head.

    python tools/bench_aligner.py [--only matrix rerank head corpus] [--pairs 128 256 512 1000] [--segments 5000]

All on one thread, with random weights: speed does not depend on them. One JSON object is printed. Memory is how far the
peak of a process of its own rises. UCoFiA and GLSCL are measured with heads as trained ones are shaped and without: 512
dimensions, 12 frames of 49 patches, 32 words of a caption, 12 of a query. The grounding head is that published over
CLIP ViT-B/32, asked with 14 tokens:

- ``head``: a video of 75 and of 600 clips, whose projected tokens exist, window by window; and the memory of a query
  over ten hours.
- ``corpus``: ``locate`` over an index of made vectors and kept tokens of videos of 150 s, ten of them asked, by the
  head and by the curve. ``--index`` keeps that index (4 MB a video) for the next time.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import PREFIX, make_parser, measure_rise_mb, run_in_new_process, run_parts, take_turns, time_queries
from made_index import SEGMENT_S, MadeVideo, add_videos, describe_encoder, make_segment

from vidret.align.attending import SoftmaxAttention
from vidret.align.batches import TextBatch
from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.align.ucofia_temporal import TemporalTransformer
from vidret.channels.picture.aligner_rankers import GlsclRanker, UcofiaRanker
from vidret.channels.picture.query_bank import UNRELATED
from vidret.channels.picture.ranker_loading import TOKENS
from vidret.channels.picture.ranking import Ranker
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.ground.checkpoint import HeadCard, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.pieces import load_projected, save_projected
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, cut_windows, join_results
from vidret.search.heads.layers import Grounder
from vidret.store.records import HEAD
from vidret.store.store import Store
from vidret.types import SegmentEmbedding, TextEmbedding

Pool = list[SegmentEmbedding]

DIM, FRAMES, PATCHES, WORDS, QUERY_WORDS = 512, 12, 49, 32, 12
KEPT = 4 * FRAMES
CANDIDATES = 200
POOL = 256  # different segments that are made; an index repeats them
SEGMENTS_PER_VIDEO = 50
# Of the published head over CLIP ViT-B/32.
BACKBONE = "ViT-B-32-quickgelu/random"
NUM_LAYERS, NUM_TOKENS, WIDTH, TEXT_WIDTH, HEAD_DIM = 4, 50, 768, 512, 256
FPS, CLIPS, NUM_WORDS = 0.5, 75, 14
TEN_HOURS = 6000 * 3  # clips


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


def measure_matrix(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Score as many texts as videos, all with all."""
    report: dict[str, Any] = {"words": WORDS}
    aligners = {trained: build_aligner(trained=trained) for trained in (True, False)}
    for num in given.pairs:
        texts, videos = make_matrix(num)
        runs = {str(trained): partial(aligner.score, texts, videos) for trained, aligner in aligners.items()}
        costs = take_turns(runs, given.repeats)
        for trained in aligners:
            report.setdefault("trained" if trained else "training-free", {})[num] = {
                "cpu_us_a_pair": round(1e6 * costs[str(trained)].cpu_s / num**2, 1),
                "peak_mb": round(run_in_new_process(find_matrix_peak_mb, trained, num), 1),
                "of_which_scores_mb": round(num**2 * 20 / 2**20, 1),
            }
    return report


# Reranking


def fill_store(path: Path, ranker: Ranker, pool: Pool, num_segments: int) -> None:
    """Store segments with what a ranker wants."""
    packed = [ranker.pack(segment) for segment in pool]
    with Store.create(path, encoder_name="made", encoder_fingerprint="made", dim=DIM) as store:
        for first in range(0, num_segments, SEGMENTS_PER_VIDEO):
            count = min(SEGMENTS_PER_VIDEO, num_segments - first)
            rows = np.arange(first, first + count) % len(pool)
            vectors, tokens = [pool[row] for row in rows], [packed[row] for row in rows]
            edges = SEGMENT_S * np.arange(count + 1)
            add_videos(store, [MadeVideo(f"made-{first}", path / "files" / f"{first}.mp4", edges, vectors, tokens)])


def rerank(store: Store, ranker: Ranker, query: tuple[TextEmbedding, np.ndarray]) -> None:
    """Read the candidates of a text and score them, as the engine does."""
    text, ids = query
    frames = [rows for rows, _ in store.features.read_frames(ids)]
    ranker.score([text], store.features.read_tokens(ids), frames)


def measure_rerank(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rerank candidates drawn at random."""
    maker = Maker()
    pool = [maker.segment() for _ in range(POOL)]
    report: dict[str, Any] = {"candidates": CANDIDATES, "words": QUERY_WORDS, "segments": given.segments}
    for name, ranker in build_rankers().items():
        fill_store(folder / name, ranker, pool, given.segments)
        with Store.open(folder / name) as store:
            ids = store.searchable()
            queries = []
            for number in range(given.queries):
                chosen = ids[maker.choose(len(ids), min(CANDIDATES, len(ids)))]
                queries.append((maker.text(pool[number % POOL], QUERY_WORDS), chosen))
            report[name] = time_queries(partial(rerank, store, ranker), queries)
    return report


# A grounding head


def make_head() -> tuple[GroundingHead, HeadCard]:
    """Return a head whose every part counts, and its card."""
    torch.manual_seed(0)
    head = GroundingHead(WIDTH, TEXT_WIDTH, HEAD_DIM, num_layers=NUM_LAYERS).eval()
    with torch.no_grad():
        head.block.scales.normal_()
        head.block.gates.normal_()
    return head, HeadCard.describe(head, backbone=BACKBONE, **RECIPES["qvhighlights"])


def make_projected(window: Window, seed: int = 0) -> ProjectedVideos:
    """Draw the projected tokens of a window's clips."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, window.last - window.first, NUM_TOKENS)
    drawn = [
        torch.randint(-127, 128, (*shape, HEAD_DIM), generator=generator, dtype=torch.int8) for _ in range(NUM_LAYERS)
    ]
    scales = [torch.rand(shape, generator=generator) / 100 for _ in range(NUM_LAYERS)]
    return ProjectedVideos(tuple(drawn), tuple(scales), (None,) * NUM_LAYERS)


@torch.inference_mode()
def ask(head: GroundingHead, card: HeadCard, parts: Any, num_clips: int) -> int:
    """Answer a query from windows and their tokens; return the number of spans."""
    query = torch.randn(1, NUM_LAYERS, NUM_WORDS, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    windows, answers = [], []
    for window, projected in parts:
        windows.append(window)
        answers += head.decode(head(projected, query), fps=FPS)
    return len(postprocess_spans(join_results(windows, answers, fps=FPS), card, duration=num_clips / FPS))


def measure_head(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Time a query with its tokens at hand, by number of clips, and return the memory of one over ten hours."""
    head, card = make_head()
    runs = {}
    for num_clips in (CLIPS, 8 * CLIPS):
        parts = [(window, make_projected(window, seed)) for seed, window in enumerate(cut_windows(num_clips))]
        runs[f"{num_clips} clips"] = partial(ask, head, card, parts, num_clips)
    report: dict[str, Any] = {name: cost.to_dict() for name, cost in take_turns(runs, given.repeats).items()}
    return report | {"ten_hours_memory_mb": round(run_in_new_process(find_head_peak_mb))}


def find_head_peak_mb() -> float:
    """Return how much memory a query over ten hours takes: to be called in a process of its own."""
    torch.set_num_threads(1)
    head, card = make_head()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        path = Path(folder, "tokens.zip")
        save_projected(path, ((window, make_projected(window)) for window in cut_windows(TEN_HOURS)))
        return measure_rise_mb(lambda: ask(head, card, load_projected(path, device=torch.device("cpu")), TEN_HOURS))


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
    """Locate in all of an index, by the head, and for comparison by the curve."""
    encoder, index = load_encoder(BACKBONE, device="cpu", precision="fp32"), given.index or scratch / "corpus"
    if not Store.exists(index):
        build_grounded(index, encoder, given.videos)
    found: dict[str, Any] = {}
    for name, head in (("head", "auto"), ("curve", "none")):
        with Engine(index, encoder, head=head) as engine:
            locate = partial(engine.locate, k=5, overlapping=True, weak=True)
            assert {moment.by for moment in locate("a warm start")} == {name}
            found[name] = time_queries(locate, UNRELATED[: given.located])
            found["videos"] = engine.info().videos
    return found


def main() -> None:
    """Measure and print."""
    pairs = [128, 256, 512, 1000]
    parser = make_parser(__doc__, pairs=pairs, repeats=3, segments=5000, queries=100, videos=300, located=20)
    parser.add_argument("--index", type=Path, default=None, help="of the corpus, kept for the next time")
    parts = {"matrix": measure_matrix, "rerank": measure_rerank, "head": measure_head, "corpus": measure_corpus}
    run_parts(parser, parts)


if __name__ == "__main__":
    main()
