"""A grounding head for an index, trained on annotations of its videos and compared with the curve on held-out videos.

It reads the frame vectors of the index: no video is decoded, and no encoder trained.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from vidret.data.benchmarks.splits import hold_out
from vidret.data.grounding import GroundingSample, collate, label_frames
from vidret.data.layers import VideoLayers
from vidret.data.records import LabelledQuery, Split, match_stored
from vidret.data.sampler import TrainBatches
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.ground.checkpoint import VECTORS, HeadCard, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.windows import Window, cut_windows
from vidret.metrics.grounding import MomentMetrics, score_moments
from vidret.metrics.predictions import Prediction
from vidret.search.heads.vectors import make_inputs, place_vectors, stack_words
from vidret.store.store import Store
from vidret.train.grounding_losses import head_losses
from vidret.train.losses import add_terms
from vidret.train.optim import r2_optimizer
from vidret.types import LayerWords

DIM = 128
BATCH_SIZE, LR, WARM_UP, MAX_NORM = 16, 1e-3, 50, 1.0
LEAST_SHARE = 0.5  # share of a moment that a window must show


@dataclass(frozen=True, slots=True, eq=False)
class VectorQuery:
    """A labelled query, its input for the head, and the vectors of its video, one per step."""

    query: LabelledQuery
    words: LayerWords
    vectors: Float32[np.ndarray, "step dim"]


def train_vector_head(
    queries: Sequence[VectorQuery],
    *,
    fps: float,
    num_steps: int = 1500,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> GroundingHead:
    """Train a head, and return it in evaluation mode.

    Vectors have ``fps`` steps per second, and spans count in seconds from the start of their videos. ``on_progress`` is
    called with the number of steps done and the total.

    Raises:
        VidretError: No query has a moment within its video.
    """
    samples = [sample for index, query in enumerate(queries) for sample in make_samples(index, query, fps)]
    if not samples:
        raise VidretError("queries must have moments within their videos, got none")
    videos = {video: index for index, video in enumerate(dict.fromkeys(query.query.video for query in queries))}
    owners = [videos[queries[sample.query].query.video] for sample in samples]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = samples[0].video.layers[0].shape[-1]
        head = GroundingHead(width, samples[0].words.shape[-1], DIM, num_layers=1, dropout=0.3).train()
        optimizer, schedule = r2_optimizer(head, lr=LR, drop_at=num_steps * 3 // 4, warm_up=WARM_UP)
        batches = TrainBatches(owners, min(BATCH_SIZE, len(set(owners))), seed=seed)
        generator, step = torch.Generator().manual_seed(seed), 0
        while step < num_steps:
            for keys in batches:
                if step == num_steps:
                    break
                batch = collate([samples[row] for _, row in keys])
                loss = add_terms(head_losses(head, batch, generator, fps=fps))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
                optimizer.step()
                schedule.step()
                batches.advance()
                step += 1
                if on_progress is not None:
                    on_progress(step, num_steps)
    return head.eval()


def make_samples(index: int, query: VectorQuery, fps: float) -> list[GroundingSample]:
    """Return a sample for each window of a query's video that shows at least half of a moment."""
    inputs = make_inputs(query.vectors, query.words.layers[0, -1])
    samples = []
    for window in cut_windows(len(inputs)):
        spans = _cut_spans(query.query, window, fps)
        if not spans:
            continue
        window_inputs = inputs[window.first : window.last, None]
        seconds = len(window_inputs) / fps
        shifted = replace(query.query, spans=tuple(spans), clips=(), saliency=(), clip_spans=())
        samples.append(
            GroundingSample(
                query=index,
                video=VideoLayers((window_inputs,), seconds),
                words=query.words.layers,
                spans=np.array(spans, np.float32).reshape(-1, 2),
                saliency=label_frames(shifted, len(window_inputs), fps, 0.0, 1.0),
            )
        )
    return samples


def _cut_spans(query: LabelledQuery, window: Window, fps: float) -> list[tuple[float, float]]:
    """Return the moments that a window shows at least half of, in seconds from its start."""
    first, last = window.first / fps, window.last / fps
    spans = []
    for start, end in query.spans:
        low, high = max(start, first), min(end, last)
        if high > low and high - low >= LEAST_SHARE * (end - start):
            spans.append((low - first, high - first))
    return spans


logger = logging.getLogger(__name__)

SUPPRESSION, THRESHOLD = "hard", 0.7  # of QVHighlights' recipe
SIMILARITY_WEIGHT = 1.0  # 0.5 does about as well on the synthetic world


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadTrial:
    """A trained head, and its results and the curve's on held-out queries, of videos that it was not trained on.

    Attributes:
        head: The head.
        card: Its card, with weighing of spans by similarity if that improves their overlap with the labels.
        num_trained: Number of queries that it was trained on.
        num_held_out: Number of held-out queries.
        by_curve: The curve's moments.
        by_head: The head's moments.
        by_weighed: The head's moments with weighing by similarity.
    """

    head: GroundingHead
    card: HeadCard
    num_trained: int
    num_held_out: int
    by_curve: MomentMetrics
    by_head: MomentMetrics
    by_weighed: MomentMetrics

    @property
    def wins(self) -> bool:
        """Return whether the head's moments, weighed or not, overlap the labelled ones more than the curve's."""
        return max(self.by_head.mean_overlap, self.by_weighed.mean_overlap) > self.by_curve.mean_overlap


def try_head(
    engine: Engine,
    split: Split,
    *,
    share: float = 0.2,
    num_steps: int = 1500,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeadTrial:
    """Train a head on the stored vectors of an index, and compare it with the curve on a held-out share of the videos.

    Videos of queries are matched with files of the index by name or stem.

    Raises:
        VidretError: The share is out of range, too few videos are in the index, or a name matches several.
    """
    if not 0 < share < 1:
        raise VidretError(f"the held-out share must be between 0 and 1, got {share}")
    ids = match_videos(engine, split)
    train, held_out = divide(split, set(ids), share, seed)
    fps = engine.encoder.sampling.fps
    queries = read_vector_queries(engine, train.queries, ids, fps)
    head = train_vector_head(queries, fps=fps, num_steps=num_steps, seed=seed, on_progress=on_progress)
    card = HeadCard.describe(
        head, backbone=engine.encoder.name, fps=fps, suppression=SUPPRESSION, threshold=THRESHOLD, reads=VECTORS
    )
    weighed = replace(card, similarity_weight=SIMILARITY_WEIGHT)
    with tempfile.TemporaryDirectory() as folder:
        path, by_card = Path(folder) / "head.safetensors", []
        for tried in (card, weighed):
            save_head(head, tried, path)
            by_card.append(measure(engine, str(path), held_out.queries, ids))
    by_head, by_weighed = by_card
    return HeadTrial(
        head=head,
        card=weighed if by_weighed.mean_overlap > by_head.mean_overlap else card,
        num_trained=len(queries),
        num_held_out=len(held_out.queries),
        by_curve=measure(engine, "none", held_out.queries, ids),
        by_head=by_head,
        by_weighed=by_weighed,
    )


def match_videos(engine: Engine, split: Split) -> dict[str, int]:
    """Return the ids in an index of the videos of a split, by name.

    Raises:
        VidretError: None is in the index, or a name matches several videos.
    """
    ids = match_stored(split.videos, engine.videos())
    if not ids:
        raise VidretError(f"{split.name}: its videos must be in the index, got none of {len(split.videos)}")
    if num_missing := len(split.videos) - len(ids):
        logger.warning("%d of %d annotated videos are not in the index", num_missing, len(split.videos))
    return ids


def divide(split: Split, known: set[str], share: float, seed: int) -> tuple[Split, Split]:
    """Return the labelled queries of known videos in two parts without common videos."""
    queries = tuple(query for query in split.queries if query.video in known and query.spans)
    videos = tuple(dict.fromkeys(query.video for query in queries))
    if len(videos) < 2:
        raise VidretError(f"{split.name} must have moments in at least 2 videos of the index, got {len(videos)}")
    return hold_out(replace(split, queries=queries, videos=videos), share, seed)


def read_vector_queries(
    engine: Engine, queries: Sequence[LabelledQuery], ids: dict[str, int], fps: float
) -> list[VectorQuery]:
    """Return queries with the stored vectors of their videos; spans count from the first frame."""
    texts = engine.encoder.encode_text([query.text for query in queries])
    read: list[VectorQuery] = []
    videos: dict[int, tuple[float, Float32[np.ndarray, "_step dim"]]] = {}  # starts and vectors
    with Store.open(engine.path) as store:
        for query, text in zip(queries, texts, strict=True):
            video_id = ids[query.video]
            if video_id not in videos:
                start = store.videos.get(video_id).start
                stored = store.features.read(store.segments.ids_of_video(video_id))
                vectors = place_vectors(stored.segments, stored.frames, stored.times, first=start, fps=fps)
                videos[video_id] = start, vectors
            start, vectors = videos[video_id]
            read.append(VectorQuery(query.count_from(start), stack_words(text), vectors))
    return read


def measure(engine: Engine, head: str, queries: Sequence[LabelledQuery], ids: dict[str, int]) -> MomentMetrics:
    """Locate each query in its video by pictures only, with a head or ``none``, and score the first moment."""
    predictions = []
    with Engine(engine.path, engine.encoder, head=head) as other:
        for query in queries:
            moments = other.locate(
                query.text, 1, video=ids[query.video], overlapping=True, weak=True, sources=["picture"]
            )
            spans = np.array([(moment.start, moment.end, moment.score) for moment in moments]).reshape(-1, 3)
            predictions.append(Prediction(query.id, spans))
    return score_moments(queries, predictions).full
