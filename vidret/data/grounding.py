"""Labelled queries into long videos -> batches for a grounding head: layers of a frozen encoder, spans and saliency.

Frame t of a video stands for the seconds from t / fps to (t + 1) / fps, and was looked at in the middle of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.utils.data import Dataset

from vidret.data.cache.layers import LayersCache, VideoLayers
from vidret.data.records import LabelledQuery, Split
from vidret.data.sampler import Key
from vidret.errors import VidretError


class GroundingBatch(NamedTuple):
    """Queries, each with its video, as ``GroundingHead`` takes them, and what people say answers them.

    ``queries`` are the numbers of rows in the split's own ``queries``. Layers and words are float16, earliest layer
    first. Padding comes last, and is zeros and False. ``token_masks`` and ``sizes`` are None unless the encoder merges
    tokens. Spans and durations are in seconds; saliency is in 0..1.
    """

    layers: tuple[Float[Tensor, "sample frame token width"], ...]
    frame_mask: Bool[Tensor, "sample frame"]
    token_masks: tuple[Bool[Tensor, "sample frame token"], ...] | None
    sizes: tuple[Float[Tensor, "sample frame token"], ...] | None
    words: Float[Tensor, "sample layer word width"]
    word_mask: Bool[Tensor, "sample word"]
    spans: Float[Tensor, "sample span 2"]
    span_mask: Bool[Tensor, "sample span"]
    saliency: Float[Tensor, "sample frame"]
    durations: Float[Tensor, " sample"]
    queries: Int[Tensor, " sample"]


class GroundingSample(NamedTuple):
    """One query with its video."""

    query: int
    video: VideoLayers
    words: Float[np.ndarray, "layer word width"]
    spans: Float32[np.ndarray, "span 2"]
    saliency: Float32[np.ndarray, " frame"]


class LabelledVideos(Dataset[GroundingSample]):
    """A query with its video, by number; in training by epoch and number, though nothing here is left to chance."""

    def __init__(
        self,
        split: Split,
        cache: LayersCache,
        keys: Mapping[str, str],
        *,
        fps: float,
        saliency_range: tuple[float, float],
    ) -> None:
        """Take a split of which every video and every text is in the cache; ``keys`` are those of its videos."""
        self._split, self._cache, self._keys, self._fps, self._range = split, cache, keys, fps, saliency_range

    def __len__(self) -> int:
        """Count the queries."""
        return len(self._split.queries)

    def __getitem__(self, key: int | Key) -> GroundingSample:
        """Read a query's layers, and its video's."""
        number = key if isinstance(key, int) else key[1]
        query = self._split.queries[number]
        video = self._cache.video(self._keys[query.video])
        saliency = label_frames(query, len(video.layers[0]), self._fps, *self._range)
        spans = np.array(query.spans, dtype=np.float32).reshape(-1, 2)
        return GroundingSample(number, video, self._cache.words(query.text), spans, saliency)


def label_frames(
    query: LabelledQuery, num_frames: int, fps: float, low: float, high: float
) -> Float32[np.ndarray, " frame"]:
    """Give the saliency of each frame: what people marked, or else 1 in the spans that they gave.

    A mark becomes (mark - low) / (high - low), and a frame the mean over people and over the clips that its middle lies
    in; 0 where nothing was marked. Of a span, frames from ceil(start * fps) to ceil(end * fps), excluded, are salient.

    Args:
        query: Its labels.
        num_frames: How many frames its video has.
        fps: Frames a second.
        low: The least mark that could be given.
        high: The greatest.

    Raises:
        VidretError: A mark lies outside.
    """
    total, num_marks = np.zeros(num_frames), np.zeros(num_frames)
    if not query.saliency:
        for start, end in query.spans:
            total[min(math.ceil(start * fps), num_frames) : math.ceil(end * fps)] = 1
        return total.astype(np.float32)
    middles = (np.arange(num_frames) + 0.5) / fps
    for (start, end), marks in zip(query.clip_times, query.saliency, strict=True):
        if not low <= min(marks) <= max(marks) <= high:
            raise VidretError(f"query {query.id}: saliency must be in {low:g}..{high:g} (saliency_range), got {marks}")
        seen = (start <= middles) & (middles < end)
        total[seen] += (np.mean(marks) - low) / (high - low)
        num_marks[seen] += 1
    return (total / np.maximum(num_marks, 1)).astype(np.float32)


def collate(samples: Sequence[GroundingSample]) -> GroundingBatch:
    """Make a batch of samples, padded to the longest."""
    videos = [sample.video for sample in samples]
    num_layers = len(videos[0].layers)
    layers = tuple(_pad([video.layers[layer] for video in videos]) for layer in range(num_layers))
    words = [sample.words.swapaxes(0, 1) for sample in samples]
    return GroundingBatch(
        layers=layers,
        frame_mask=_mask([len(video.layers[0]) for video in videos]),
        token_masks=_mask_tokens(videos),
        sizes=_pad_each([video.sizes for video in videos if video.sizes is not None], num_layers),
        words=_pad(words).transpose(1, 2),
        word_mask=_mask([len(word) for word in words]),
        spans=_pad([sample.spans for sample in samples]),
        span_mask=_mask([len(sample.spans) for sample in samples]),
        saliency=_pad([sample.saliency for sample in samples]),
        durations=torch.tensor([video.duration for video in videos]),
        queries=torch.tensor([sample.query for sample in samples]),
    )


def _mask_tokens(videos: Sequence[VideoLayers]) -> tuple[Bool[Tensor, "sample frame token"], ...] | None:
    """Mask tokens where some are padding, or where videos have different numbers of them."""
    num_layers = len(videos[0].layers)
    has_masks = any(video.masks is not None for video in videos)
    if not has_masks and all(len({video.layers[n].shape[1] for video in videos}) == 1 for n in range(num_layers)):
        return None
    masks = [video.masks or tuple(np.ones(layer.shape[:2], bool) for layer in video.layers) for video in videos]
    return _pad_each(masks, num_layers)


def _pad_each(parts: Sequence[Sequence[np.ndarray]], num_layers: int) -> tuple[Tensor, ...] | None:
    """Pad each layer of all videos; None where there is nothing."""
    return tuple(_pad([part[layer] for part in parts]) for layer in range(num_layers)) if parts else None


def _pad(arrays: Sequence[np.ndarray]) -> Tensor:
    """Stack arrays, filled up with zeros to the greatest of each of their sizes."""
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for row, array in enumerate(arrays):
        padded[row][tuple(slice(size) for size in array.shape)] = array
    return torch.from_numpy(padded)


def _mask(lengths: Sequence[int]) -> Bool[Tensor, "sample place"]:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
