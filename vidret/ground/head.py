"""The grounding head: from CLIP's last layers, of a video and of a query, to spans and a saliency for each frame.

    projected = head.prepare(layers)          # once a video
    output = head(projected, query)           # once a query; with gradients in training
    answer = head.decode(output, fps=0.5)  # seconds

A batch of videos with a query each goes the same way as one video. Padding changes nothing: a video in a padded batch
gets what it gets alone.

Reference: Liu et al. 2024, "R2-Tuning: Efficient Image-to-Video Transfer Learning for Video Temporal Grounding".
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.ground.projected import ProjectedVideos, find_bias
from vidret.ground.pyramid import Pyramid, RowHead, blank, decode_spans, make_points, reduce_mask, spread_rows
from vidret.ground.r2 import R2Block


class HeadOutput(NamedTuple):
    """What the head says of each point, and what its training compares; layers are ordered CLIP's last one first.

    ``distances`` lead from each point back to the start and on to the end of its span, in strides; None where the head
    finds highlights alone. ``points`` are place, lowest and highest reach, and stride, in frames.
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
    """One video's spans (start and end in seconds, score), best first, and how well each frame fits the query.

    Spans are as the head gives them: they overlap, and may reach beyond the video.
    """

    spans: Float[np.ndarray, "span 3"]
    saliency: Float[np.ndarray, " frame"]


class WordPooling(nn.Module):
    """One vector of a query: the mean of its words, weighed by a softmax over a score of each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(
        self, words: Float[Tensor, "*batch word dim"], mask: Bool[Tensor, "*batch word"] | None = None
    ) -> Float[Tensor, "*batch dim"]:
        """Pool real words."""
        scores = self.score(words)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None], -torch.inf)
        pooled: Tensor = (scores.softmax(dim=-2) * words).sum(dim=-2)
        return pooled


class GroundingHead(nn.Module):
    """R2-Tuning's head. With ``boundaries`` False it finds highlights alone."""

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
        as_published: bool = False,
    ) -> None:
        """Build a head with random weights.

        Args:
            width: That of the vision tower's layers.
            text_width: That of the text tower's layers.
            dim: That of the head.
            num_layers: How many of CLIP's last layers it walks.
            heads: Of its attention over time.
            strides: Powers of 2 that rise from 1: the levels at which spans are looked for.
            tef: Tell tokens when their frame is, as a share of the video.
            boundaries: Find spans, not highlights alone.
            cosine: Multiply the saliency by the cosine of frame and query.
            limit: How many spans are given at most.
            dropout: Share of what enters the mapping's linear layers that training leaves out.
            drop_path: Share of the videos for which training skips a part of the layer over time.
            as_published: In a padded batch do as the published code does: a video is as long as its padding, padding
                words take part, convolutions read past the end. Its checkpoints were trained so. Alone, without
                padding, a video gets the same either way.
        """
        if limit < 1 or not 0 <= dropout < 1 or not 0 <= drop_path < 1 or num_layers < 1:
            raise ValueError(
                f"limit and num_layers must be at least 1, dropout and drop_path in 0..1 (1 excluded), "
                f"got {limit}, {num_layers}, {dropout} and {drop_path}"
            )
        super().__init__()
        self.cosine, self.limit, self.as_published = cosine, limit, as_published
        self.block = R2Block(
            width, text_width, dim, num_layers=num_layers, heads=heads, tef=tef, dropout=dropout, drop_path=drop_path
        )
        self.pyramid = Pyramid(dim, strides)
        self.pooling = WordPooling(dim)
        self.classes = RowHead(dim, 1)
        self.boundaries = RowHead(dim, 2) if boundaries else None
        self.reach = nn.Parameter(torch.ones(len(strides))) if boundaries else None

    def prepare(
        self,
        layers: Sequence[Float[Tensor, "video frame token width"]],
        *,
        mask: Bool[Tensor, "video frame"] | None = None,
        token_masks: Sequence[Bool[Tensor, "video frame token"] | None] | None = None,
        sizes: Sequence[Float[Tensor, "video frame token"] | None] | None = None,
        dtype: torch.dtype | None = None,
    ) -> ProjectedVideos:
        """Compute all about videos that no query changes.

        Layers may differ in their number of tokens, as they do where an encoder merges them (TempMe): a frame's tokens
        are then those of the sequence it lies in, the same for each frame of it but for the class token, its own. That
        pairing is ours, no paper's: R2-Tuning was published on plain CLIP.

        Args:
            layers: Outputs of CLIP's last layers, earliest first, before any norm or projection; a frame's class token
                is its first.
            mask: False where a frame is padding, which comes last. What padding holds does not matter, not even NaN.
            token_masks: For each layer, False where a token is padding; None where all are real.
            sizes: For each layer, how many patches each token is the mean of: that many it counts in the softmax.
            dtype: What the projected tokens are kept as: float16, or int8 with a scale for each token; as they are
                computed (float32) unless given.

        Raises:
            ValueError: Numbers or shapes do not fit, padding is not last, or a real frame has no class token.
        """
        _check_layers(layers, mask, self.block.num_layers)
        masks, counts = token_masks or [None] * len(layers), sizes or [None] * len(layers)
        biases = [find_bias(layer, mask, real, count) for real, count, layer in zip(masks, counts, layers, strict=True)]
        return self.block.project_videos(
            layers, mask=mask, biases=biases, padded_lengths=self.as_published, dtype=dtype
        )

    def forward(
        self,
        projected: ProjectedVideos,
        query: Float[Tensor, "video layer word width"],
        *,
        word_mask: Bool[Tensor, "video word"] | None = None,
    ) -> HeadOutput:
        """Hold each video against its query.

        Args:
            projected: What ``prepare`` gives.
            query: Outputs of the text tower's last layers, earliest first, from the start token to the end token.
            word_mask: False where a word is padding. What padding holds does not matter, not even NaN.

        Raises:
            ValueError: Numbers do not fit, or a query has no word.
        """
        if len(query) != len(projected.layers[0]) or query.shape[1] != self.block.num_layers:
            wanted = len(projected.layers[0]), self.block.num_layers
            raise ValueError(f"query must be of {wanted[0]} videos and {wanted[1]} layers, got {tuple(query.shape)}")
        if word_mask is not None and not bool(word_mask.any(dim=1).all()):
            raise ValueError(f"word_mask must have a True for each query, got {word_mask.tolist()}")
        seen = self.block(projected, query, word_mask=word_mask, as_published=self.as_published)
        mask = None if self.as_published else projected.mask
        video = blank(seen.video.relu(), mask)
        levels = self.pyramid(video, mask)
        masks = [reduce_mask(mask, stride) for stride in self.pyramid.strides[: len(levels)]]
        with torch.autocast(video.device.type, enabled=False):  # an exponential and a cosine need all digits
            video, words, *levels = (part.to(self.classes.out.weight) for part in (video, seen.layer_words, *levels))
            layer_queries = self.pooling(words, word_mask)
            return HeadOutput(
                logits=torch.cat([self.classes(*pair) for pair in zip(levels, masks, strict=True)], dim=1).squeeze(-1),
                distances=self._find_distances(levels, masks),
                points=make_points(projected.num_frames, self.pyramid.strides, device=video.device),
                point_mask=self._mask_points(projected, len(levels)),
                video=video,
                query=layer_queries[-1],
                layer_videos=seen.layer_videos,
                layer_queries=layer_queries,
                frame_mask=_all_real(video) if projected.mask is None else projected.mask,
            )

    def _find_distances(
        self, levels: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> Float[Tensor, "video point 2"] | None:
        """Say how far each point's span reaches, in strides: always more than nothing."""
        if self.boundaries is None or self.reach is None:
            return None
        reaches = [self.boundaries(*pair).exp() for pair in zip(levels, masks, strict=True)]
        return torch.cat([each * factor for each, factor in zip(reaches, self.reach, strict=False)], dim=1)

    def _mask_points(self, projected: ProjectedVideos, num_levels: int) -> Bool[Tensor, "video point"]:
        """Say which points are real: of a row that is partly padding only the published code says so."""
        mask = _all_real(projected.layers[0][..., 0, :]) if projected.mask is None else projected.mask
        parts = [reduce_mask(mask, s, partly=self.as_published) for s in self.pyramid.strides[:num_levels]]
        return torch.cat([part for part in parts if part is not None], dim=1)

    @torch.no_grad()
    def decode(self, output: HeadOutput, *, fps: float | Sequence[float] | None = None) -> list[GroundingResult]:
        """Turn what the head says into spans in seconds and the saliency of frames, video by video.

        Args:
            output: What ``forward`` gives.
            fps: Frames a second as the head saw them: of all videos, or of each. A head that finds highlights alone
                needs none.

        Raises:
            ValueError: There are spans and no rate for each video, or a rate is not above 0.
        """
        num_videos = len(output.logits)
        if fps is None and output.distances is None:
            fps = 1.0  # frames have no times without spans
        given = [fps] * num_videos if fps is None or isinstance(fps, int | float) else list(fps)
        rates = [rate for rate in given if rate is not None and rate > 0]
        if not len(given) == len(rates) == num_videos:
            raise ValueError(f"fps must be above 0, one for each of {num_videos} videos, got {fps}")
        scores = output.logits.sigmoid()
        cosines = functional.cosine_similarity(output.video, output.query[:, None], dim=-1)
        lengths = output.frame_mask.sum(dim=1).tolist()
        answers = []
        for row, (rate, length) in enumerate(zip(rates, lengths, strict=True)):
            saliency = spread_rows(scores[row], output.points, length)
            if self.cosine:
                saliency = saliency * cosines[row, :length]
            real = output.point_mask[row]
            spans = scores.new_zeros(0, 3)
            if output.distances is not None:
                spans = decode_spans(scores[row, real], output.distances[row, real], output.points[real], rate)
            answers.append(GroundingResult(spans[: self.limit].cpu().numpy(), saliency.cpu().numpy()))
        return answers


def _check_layers(layers: Sequence[Tensor], mask: Tensor | None, num_layers: int) -> None:
    if len(layers) != num_layers or len({layer.shape[:2] for layer in layers}) != 1:
        shapes = [tuple(layer.shape) for layer in layers]
        raise ValueError(f"layers must be {num_layers}, of the same videos and frames, got {shapes}")
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.shape != layers[0].shape[:2]:
        wanted = tuple(layers[0].shape[:2])
        raise ValueError(f"mask must be bools of shape {wanted}, got {mask.dtype} {tuple(mask.shape)}")
    if not bool(mask[:, 0].all()) or bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError(f"mask must be True up to a video's end and False from there, got {mask.tolist()}")


def _all_real(frames: Float[Tensor, "video frame dim"]) -> Bool[Tensor, "video frame"]:
    return torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
