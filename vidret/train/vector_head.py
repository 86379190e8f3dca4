"""Training of a grounding head on the frame vectors of an index: no video is decoded, and no encoder trained.

The head sees a video in the windows that it is used with. It trains on windows that show a labelled moment, for a fixed
number of steps: the held-out queries decide whether it is used, and nothing is chosen by them before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from vidret.data.cache.layers import VideoLayers
from vidret.data.grounding import GroundingSample, collate, label_frames
from vidret.data.records import LabelledQuery
from vidret.data.sampler import TrainBatches
from vidret.errors import VidretError
from vidret.ground.head import GroundingHead
from vidret.ground.vectors import make_inputs
from vidret.ground.windows import Window, cut_windows
from vidret.train.grounding_losses import grounding_loss
from vidret.train.optim import r2_optimizer, r2_tuning_rule
from vidret.train.targets import draw_positive, find_targets
from vidret.types import LayerWords

DIM = 128
BATCH_SIZE, LR, WARM_UP, MAX_NORM = 16, 1e-3, 50, 1.0
LEAST_SHARE = 0.5  # of a moment that a window must show


@dataclass(frozen=True, slots=True, eq=False)
class VectorQuery:
    """A labelled query, what the head reads of it, and the vectors of its video, one per step."""

    query: LabelledQuery
    words: LayerWords
    vectors: Float32[np.ndarray, "step dim"]


class _Trained(nn.Module):
    """The head under the name that rules of training expect."""

    def __init__(self, head: GroundingHead) -> None:
        super().__init__()
        self.head = head


def train_vector_head(
    queries: Sequence[VectorQuery],
    *,
    fps: float,
    num_steps: int = 1500,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> GroundingHead:
    """Train a head, and return it in evaluation mode.

    Args:
        queries: The queries, with spans in seconds from the start of their videos.
        fps: Steps per second of the vectors.
        num_steps: Number of training steps.
        seed: Seed of the weights, the batches and dropout.
        on_progress: Called with the number of steps done and of all.

    Raises:
        VidretError: No query has a moment within its video.
    """
    samples = [sample for index, query in enumerate(queries) for sample in make_samples(index, query, fps)]
    if not samples:
        raise VidretError("queries must have moments within their videos, got none")
    videos = {video: index for index, video in enumerate(dict.fromkeys(each.query.video for each in queries))}
    owners = [videos[queries[sample.query].query.video] for sample in samples]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = samples[0].video.layers[0].shape[-1]
        head = GroundingHead(width, samples[0].words.shape[-1], DIM, num_layers=1, dropout=0.3).train()
        optimizer, schedule = r2_optimizer(
            _Trained(head), drop_at=num_steps * 3 // 4, rule=lambda name: r2_tuning_rule(name, lr=LR), warm_up=WARM_UP
        )
        batches = TrainBatches(owners, min(BATCH_SIZE, len(set(owners))), seed=seed)
        generator, step = torch.Generator().manual_seed(seed), 0
        while step < num_steps:
            for keys in batches:
                if step == num_steps:
                    break
                loss = _find_loss(head, [samples[row] for _, row in keys], fps, generator)
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


def _find_loss(
    head: GroundingHead, samples: Sequence[GroundingSample], fps: float, generator: torch.Generator
) -> torch.Tensor:
    batch = collate(samples)
    projected = head.prepare(batch.layers, mask=batch.frame_mask)
    output = head(projected, batch.words, word_mask=batch.word_mask)
    targets = find_targets(output.points, batch.spans, batch.span_mask, batch.frame_mask.sum(dim=1), fps=fps)
    positive = draw_positive(batch.saliency, batch.frame_mask, generator)
    return grounding_loss(output, targets=targets, saliency=batch.saliency, positive=positive).total


def make_samples(index: int, query: VectorQuery, fps: float) -> list[GroundingSample]:
    """Return a sample for each window of a query's video that shows at least half of a moment."""
    inputs = make_inputs(query.vectors, query.words.layers[0, -1])
    samples = []
    for window in cut_windows(len(inputs)):
        spans = _cut_spans(query.query, window, fps)
        if not spans:
            continue
        own = inputs[window.first : window.last, None]
        seconds = len(own) / fps
        shifted = replace(query.query, spans=tuple(spans), clips=(), saliency=(), clip_spans=())
        samples.append(
            GroundingSample(
                query=index,
                video=VideoLayers((own,), seconds),
                words=query.words.layers,
                spans=np.array(spans, np.float32).reshape(-1, 2),
                saliency=label_frames(shifted, len(own), fps, 0.0, 1.0),
            )
        )
    return samples


def _cut_spans(query: LabelledQuery, window: Window, fps: float) -> list[tuple[float, float]]:
    """Return the moments of which a window shows enough, in seconds from its start."""
    first, last = window.first / fps, window.last / fps
    spans = []
    for start, end in query.spans:
        low, high = max(start, first), min(end, last)
        if high > low and high - low >= LEAST_SHARE * (end - start):
            spans.append((low - first, high - first))
    return spans
