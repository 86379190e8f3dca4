"""Labelled queries with their videos as batches for a grounding head: encoder layers, spans and saliency.

Frame t of a video covers the seconds from t / fps to (t + 1) / fps and is sampled at their centre.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.utils.data import Dataset

from vidret.data.layers import LayersCache, VideoLayers
from vidret.data.records import LabelledQuery, Split
from vidret.data.sampler import Key
from vidret.errors import VidretError


class GroundingBatch(NamedTuple):
    """Queries with their videos, as ``GroundingHead`` takes them, and their ground truth.

    Padding comes last and is zero, and False in the masks.

    Attributes:
        layers: Visual layers in float16, earliest first.
        frame_mask: False for padding frames.
        token_masks: False for padding tokens; None if no token is padding.
        sizes: Number of patches merged into each token; None unless the encoder merges tokens.
        words: Text layers in float16.
        word_mask: False for padding words.
        spans: Ground-truth (start, end) in seconds.
        span_mask: False for padding spans.
        saliency: Saliency of each frame, in 0..1.
        durations: Durations of the videos in seconds.
        queries: Indices into the split's ``queries``.
    """

    layers: tuple[Float[Tensor, "sample frame _token width"], ...]
    frame_mask: Bool[Tensor, "sample frame"]
    token_masks: tuple[Bool[Tensor, "sample frame _token"], ...] | None
    sizes: tuple[Float[Tensor, "sample frame _token"], ...] | None
    words: Float[Tensor, "sample layer word width"]
    word_mask: Bool[Tensor, "sample word"]
    spans: Float[Tensor, "sample span 2"]
    span_mask: Bool[Tensor, "sample span"]
    saliency: Float[Tensor, "sample frame"]
    durations: Float[Tensor, " sample"]
    queries: Int[Tensor, " sample"]


@dataclass(frozen=True, slots=True, eq=False)
class GroundingSample:
    """One query, by its index in the split, with its video and labels."""

    query: int
    video: VideoLayers
    words: Float[np.ndarray, "layer word width"]
    spans: Float32[np.ndarray, "span 2"]
    saliency: Float32[np.ndarray, " frame"]


class LabelledVideos(Dataset[GroundingSample]):
    """Queries with their videos, indexed by query or, in training, by epoch and query. There is no randomness."""

    def __init__(
        self,
        split: Split,
        cache: LayersCache,
        keys: Mapping[str, str],
        *,
        fps: float,
        saliency_range: tuple[float, float],
    ) -> None:
        """Wrap a split whose videos and texts are all in the cache, with the cache key of each video id."""
        self._split, self._cache, self._keys, self._fps, self._range = split, cache, keys, fps, saliency_range

    def __len__(self) -> int:
        return len(self._split.queries)

    def __getitem__(self, key: int | Key) -> GroundingSample:
        """Return a query with the layers of its text and its video."""
        query_index = key if isinstance(key, int) else key[1]
        labelled = self._split.queries[query_index]
        video = self._cache.read_video(self._keys[labelled.video])
        query = labelled.count_from(video.start)  # as frame times do; in annotations, a file starts at 0
        return GroundingSample(
            query=query_index,
            video=video,
            words=self._cache.read_text(query.text),
            spans=np.array(query.spans, dtype=np.float32).reshape(-1, 2),
            saliency=label_frames(query, len(video.layers[0]), self._fps, *self._range),
        )


def label_frames(
    query: LabelledQuery, num_frames: int, fps: float, low: float, high: float
) -> Float32[np.ndarray, " frame"]:
    """Return the saliency of each frame in 0..1: the annotators' scores, or 1 inside the spans if there are none.

    A score becomes (score - low) / (high - low). A frame has the mean over annotators and over the clips that contain
    its centre, and 0 outside all clips. A span covers the frames from ceil(start * fps) to before ceil(end * fps).

    Raises:
        VidretError: A score is outside low..high.
    """
    total, num_scores = np.zeros(num_frames), np.zeros(num_frames)
    if not query.saliency:
        for span in query.spans:
            first, last = (max(0, math.ceil(time * fps)) for time in span)
            total[first:last] = 1
        return total.astype(np.float32)
    centres_s = (np.arange(num_frames) + 0.5) / fps
    for (start, end), scores in zip(query.clip_times, query.saliency, strict=True):
        if not low <= min(scores) <= max(scores) <= high:
            raise VidretError(f"query {query.id}: saliency must be in {low:g}..{high:g} (saliency_range), got {scores}")
        in_clip = (start <= centres_s) & (centres_s < end)
        total[in_clip] += (np.mean(scores) - low) / (high - low)
        num_scores[in_clip] += 1
    return (total / np.maximum(num_scores, 1)).astype(np.float32)


def collate(samples: Sequence[GroundingSample]) -> GroundingBatch:
    """Return a batch of samples, padded to the longest."""
    videos = [sample.video for sample in samples]
    num_layers = len(videos[0].layers)
    layers = tuple(_pad([video.layers[layer] for video in videos]) for layer in range(num_layers))
    words = [sample.words.swapaxes(0, 1) for sample in samples]
    return GroundingBatch(
        layers=layers,
        frame_mask=_mask([len(video.layers[0]) for video in videos]),
        token_masks=_mask_tokens(videos),
        sizes=_pad_layers([video.sizes for video in videos if video.sizes is not None], num_layers),
        words=_pad(words).transpose(1, 2),
        word_mask=_mask([len(word) for word in words]),
        spans=_pad([sample.spans for sample in samples]),
        span_mask=_mask([len(sample.spans) for sample in samples]),
        saliency=_pad([sample.saliency for sample in samples]),
        durations=torch.tensor([video.duration for video in videos]),
        queries=torch.tensor([sample.query for sample in samples]),
    )


def _mask_tokens(videos: Sequence[VideoLayers]) -> tuple[Bool[Tensor, "sample frame _token"], ...] | None:
    """Return token masks if a video has padding tokens or the videos differ in their number of tokens, else None."""
    num_layers = len(videos[0].layers)
    has_masks = any(video.masks is not None for video in videos)
    if not has_masks and all(len({video.layers[n].shape[1] for video in videos}) == 1 for n in range(num_layers)):
        return None
    masks = [video.masks or tuple(np.ones(layer.shape[:2], bool) for layer in video.layers) for video in videos]
    return _pad_layers(masks, num_layers)


def _pad_layers(videos: Sequence[Sequence[np.ndarray]], num_layers: int) -> tuple[Tensor, ...] | None:
    """Return each layer's arrays of all videos, stacked and padded; None if there are no videos."""
    return tuple(_pad([layers[index] for layers in videos]) for index in range(num_layers)) if videos else None


def _pad(arrays: Sequence[np.ndarray]) -> Tensor:
    """Stack arrays, zero-padded to the largest size of each dimension."""
    shape = np.max([array.shape for array in arrays], axis=0)
    padded = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for row, array in enumerate(arrays):
        padded[row][tuple(slice(size) for size in array.shape)] = array
    return torch.from_numpy(padded)


def _mask(lengths: Sequence[int]) -> Bool[Tensor, "sample position"]:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
