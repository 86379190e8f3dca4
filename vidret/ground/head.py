"""The grounding head: from the last CLIP layers of a video and a query to spans and the saliency of frames.

    projected = head.prepare(layers)         # once per video
    output = head(projected, query)          # once per query; with gradients in training
    results = head.decode(output, fps=0.5)   # spans in seconds

Videos are processed in batches with one query each. Padding has no effect: a video gets the same result by itself
and in a padded batch.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding".
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from vidret.ground.projected import ProjectedVideos, find_bias
from vidret.ground.pyramid import Pyramid, RowHead, decode_spans, make_points, reduce_mask, spread_rows
from vidret.ground.r2 import R2Block
from vidret.layers import zero_padding


class HeadOutput(NamedTuple):
    """Predictions of the head, and the features that its training losses compare.

    Attributes:
        logits: Foreground logits of points.
        distances: Distances from each point back to the start and on to the end of its span, in strides; None for a
            head without boundaries.
        points: Position, minimum and maximum reach, and stride of each point, in frames.
        point_mask: False where a point is padding.
        video: Refined frames.
        query: Pooled words.
        layer_videos: Class tokens of frames by layer, CLIP's last layer first.
        layer_queries: Pooled words by layer, CLIP's last layer first.
        frame_mask: False where a frame is padding.
    """

    logits: Float[Tensor, "video point"]
    distances: Float[Tensor, "video point 2"] | None
    points: Float[Tensor, "point 4"]
    point_mask: Bool[Tensor, "video point"]
    video: Float[Tensor, "video frame dim"]
    query: Float[Tensor, "video dim"]
    layer_videos: Float[Tensor, "layer video frame dim"]
    layer_queries: Float[Tensor, "layer video dim"]
    frame_mask: Bool[Tensor, "video frame"]


class GroundingResult(NamedTuple):
    """A query's result in one video: spans (start and end in seconds, score), best first, and saliency of frames.

    Spans are not post-processed: they overlap, and may extend beyond the video.
    """

    spans: Float[np.ndarray, "span 3"]
    saliency: Float[np.ndarray, " frame"]


class WordPooling(nn.Module):
    """Attention pooling: the mean of a query's words, weighted by softmax over a learned score of each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(
        self, words: Float[Tensor, "*batch word dim"], mask: Bool[Tensor, "*#batch word"] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """Return the pooled real words."""
        scores = self.score(words)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], -torch.inf)
        pooled: Tensor = (scores.softmax(dim=-2) * words).sum(dim=-2)
        return pooled


class GroundingHead(nn.Module):
    """R2-Tuning's head. Without ``boundaries`` it predicts highlights only."""

    def __init__(
        self,
        width: int = 768,
        text_width: int = 512,
        dim: int = 256,
        *,
        num_layers: int = 4,
        heads: int = 8,
        strides: Sequence[int] = (1, 2, 4, 8),
        tef: bool = True,
        boundaries: bool = True,
        cosine: bool = True,
        limit: int = 50,
        dropout: float = 0.5,
        drop_path: float = 0.1,
        motion: int = 0,
        as_published: bool = False,
    ) -> None:
        """Build a head with random weights.

        Args:
            width: Width of the vision tower's layers.
            text_width: Width of the text tower's layers.
            dim: Width of the head.
            num_layers: Number of last CLIP layers that the head reads.
            heads: Attention heads of the temporal layers.
            strides: Strides of the pyramid levels, rising powers of 2 from 1.
            tef: Whether tokens include the temporal endpoint feature: start and end of their frame, in video lengths.
            boundaries: Whether to predict spans, not highlights only.
            cosine: Whether to multiply saliency by the cosine of frame and query.
            limit: Maximum number of spans per video.
            dropout: Dropout of the inputs of the projections' linear layers.
            drop_path: Stochastic depth rate of the temporal layers.
            motion: Number of frames, odd, that a convolution over time reads before each step of refinement, to tell
                an action from its opposite; 0 for none, as published.
            as_published: Whether to treat padding as in the published code and the training of its checkpoints: it
                counts towards a video's length, padding words take part, and convolutions read past the end.
        """
        if limit < 1 or not 0 <= dropout < 1 or not 0 <= drop_path < 1 or num_layers < 1:
            raise ValueError(
                f"limit and num_layers must be at least 1, dropout and drop_path in 0..1 (1 excluded), "
                f"got {limit}, {num_layers}, {dropout} and {drop_path}"
            )
        super().__init__()
        self.cosine, self.limit, self.as_published = cosine, limit, as_published
        self.block = R2Block(
            width,
            text_width,
            dim,
            num_layers=num_layers,
            heads=heads,
            tef=tef,
            dropout=dropout,
            drop_path=drop_path,
            motion=motion,
        )
        self.pyramid = Pyramid(dim, strides)
        self.pooling = WordPooling(dim)
        self.classes = RowHead(dim, 1)
        self.boundaries = RowHead(dim, 2) if boundaries else None
        self.reach = nn.Parameter(torch.ones(len(strides))) if boundaries else None

    def prepare(
        self,
        layers: Sequence[Float[Tensor, "video frame _token width"]],
        *,
        mask: Bool[Tensor, "video frame"] | None = None,
        token_masks: Sequence[Bool[Tensor, "video frame _token"] | None] | None = None,
        sizes: Sequence[Float[Tensor, "video frame _token"] | None] | None = None,
    ) -> ProjectedVideos:
        """Project the tokens of videos, which does not depend on a query.

        Layers may have different numbers of tokens, as with an encoder that merges tokens (TempMe). A frame's tokens
        are then those of its sequence, equal for all frames of the sequence except for their own class token. This
        combination is not in a paper: R2-Tuning was published with plain CLIP.

        Args:
            layers: Outputs of the last CLIP layers, earliest first, before any norm or projection; a frame's first
                token is its class token.
            mask: False where a frame is padding, which comes last and may contain any values, even NaN.
            token_masks: For each layer, False where a token is padding; None if there is none.
            sizes: For each layer, the number of patches that each token is the mean of, its weight in the softmax.

        Raises:
            ValueError: Layers differ in number or shape, padding is not last, or a real frame has no class token.
        """
        _check_layers(layers, mask, self.block.num_layers)
        masks, counts = token_masks or [None] * len(layers), sizes or [None] * len(layers)
        biases = [find_bias(layer, mask, real, count) for real, count, layer in zip(masks, counts, layers, strict=True)]
        return self.block.project_videos(layers, mask=mask, biases=biases, padded_lengths=self.as_published)

    def forward(
        self,
        projected: ProjectedVideos,
        query: Float[Tensor, "video layer word width"],
        *,
        word_mask: Bool[Tensor, "video word"] | None = None,
    ) -> HeadOutput:
        """Predict spans and saliency of each video for its query.

        Args:
            projected: The videos, as ``prepare`` returns them.
            query: Outputs of the text tower's last layers, earliest first, from the start token to the end token.
            word_mask: False where a word is padding, which may contain any values, even NaN.

        Raises:
            ValueError: Videos and queries differ in number, or a query has no words.
        """
        if len(query) != len(projected.layers[0]) or query.shape[1] != self.block.num_layers:
            wanted = len(projected.layers[0]), self.block.num_layers
            raise ValueError(f"query must have {wanted[0]} videos and {wanted[1]} layers, got {tuple(query.shape)}")
        if word_mask is not None and not bool(word_mask.any(dim=1).all()):
            raise ValueError(f"word_mask must have a True for each query, got {word_mask.tolist()}")
        refined = self.block(projected, query, word_mask=word_mask, as_published=self.as_published)
        mask = None if self.as_published else projected.mask
        video = zero_padding(refined.video.relu(), mask)
        levels = self.pyramid(video, mask)
        masks = [reduce_mask(mask, stride) for stride in self.pyramid.strides[: len(levels)]]
        with torch.autocast(video.device.type, enabled=False):  # exponential and cosine need full precision
            video, words, *levels = (x.to(self.classes.out.weight) for x in (video, refined.layer_words, *levels))
            layer_queries = self.pooling(words, word_mask)
            return HeadOutput(
                logits=torch.cat([self.classes(*pair) for pair in zip(levels, masks, strict=True)], dim=1).squeeze(-1),
                distances=self._find_distances(levels, masks),
                points=make_points(projected.num_frames, self.pyramid.strides, device=video.device),
                point_mask=self._mask_points(projected, len(levels)),
                video=video,
                query=layer_queries[-1],
                layer_videos=refined.layer_videos,
                layer_queries=layer_queries,
                frame_mask=_all_real(video) if projected.mask is None else projected.mask,
            )

    def _find_distances(
        self, levels: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> Float[Tensor, "video point 2"] | None:
        """Return each point's distances to the start and end of its span, in strides; always positive."""
        if self.boundaries is None or self.reach is None:
            return None
        reaches = [self.boundaries(*pair).exp() for pair in zip(levels, masks, strict=True)]
        return torch.cat([reach * factor for reach, factor in zip(reaches, self.reach, strict=False)], dim=1)

    def _mask_points(self, projected: ProjectedVideos, num_levels: int) -> Bool[Tensor, "video point"]:
        """Return the mask of points; a row that is partly padding is real only in the published code."""
        mask = _all_real(projected.layers[0][..., 0, :]) if projected.mask is None else projected.mask
        masks = [reduce_mask(mask, s, partly=self.as_published) for s in self.pyramid.strides[:num_levels]]
        return torch.cat([level for level in masks if level is not None], dim=1)

    @torch.no_grad()
    def decode(self, output: HeadOutput, *, fps: float) -> list[GroundingResult]:
        """Return the spans in seconds and the saliency of frames of each video.

        Raises:
            ValueError: ``fps`` is not positive.
        """
        if not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        scores = output.logits.sigmoid()
        cosines = functional.cosine_similarity(output.video, output.query[:, None], dim=-1)
        lengths = output.frame_mask.sum(dim=1).tolist()
        results = []
        for row, length in enumerate(lengths):
            saliency = spread_rows(scores[row], output.points, length)
            if self.cosine:
                saliency = saliency * cosines[row, :length]
            real = output.point_mask[row]
            spans = scores.new_zeros(0, 3)
            if output.distances is not None:
                spans = decode_spans(scores[row, real], output.distances[row, real], output.points[real], fps)
            results.append(GroundingResult(spans[: self.limit].cpu().numpy(), saliency.cpu().numpy()))
        return results


def _check_layers(layers: Sequence[Tensor], mask: Tensor | None, num_layers: int) -> None:
    if len(layers) != num_layers or len({layer.shape[:2] for layer in layers}) != 1:
        shapes = [tuple(layer.shape) for layer in layers]
        raise ValueError(f"layers must be {num_layers} with equal videos and frames, got {shapes}")
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != layers[0].shape[:2]:
        wanted = tuple(layers[0].shape[:2])
        raise ValueError(f"mask must be bool of shape {wanted}, got {mask.dtype} {tuple(mask.shape)}")
    if not bool(mask[:, 0].all()) or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError(f"mask must be True up to a video's end and False after it, got {mask.tolist()}")


def _all_real(frames: Shaped[Tensor, "video frame dim"]) -> Bool[Tensor, "video frame"]:
    return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
