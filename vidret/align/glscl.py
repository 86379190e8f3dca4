"""GLSCL, the fast aligner: frames pooled with weights that depend on the text, and concepts shared by both sides.

What depends on one side only is computed once, by ``prepare`` for videos and ``prepare_texts`` for texts. ``score``
then takes a few matrix products over all pairs. A trained head takes features that are not normalized: its softmax over
frames (temperature 3) was trained with their norms. Without a trained head, frames of unit length are pooled and no
concepts are used.

Other kinds of attention can take the place of the softmax: see ``attending``.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.align.attending import FrameAttention, SoftmaxAttention
from vidret.align.batches import TextBatch, VideoBatch, fill_mask, stack_rows, take_rows, unpack_stacked
from vidret.align.prepared import run_tasks
from vidret.align.stacking import pack_arrays
from vidret.layers import TemporalTransformer, mask_bias

MARGIN, TARGET = 0.1, 0.75  # of the losses, as published
TEXTS, VIDEOS = 64, 256  # per block, so that its frame weights fit a core's cache
AT_ONCE = 256  # texts whose concepts are found at a time: each needs a third of a megabyte


class ConceptVideos(NamedTuple):
    """Prepared videos.

    ``grams`` are the Gram matrices of each video's frames; None where there are too few texts for them to pay off.
    ``values`` are the values of X-Pool, whose keys are then the ``frames``; None for other kinds of attention.
    """

    frames: Float[Tensor, "video frame dim"]
    mask: Bool[Tensor, "video frame"]
    concepts: Float[Tensor, "video concept dim"]
    grams: Float[Tensor, "video frame frame"] | None = None
    values: Float[Tensor, "video frame dim"] | None = None

    def with_grams(self) -> "ConceptVideos":
        """Return the videos with their Gram matrices, which need not be stored, unless they have values."""
        return self if self.values is not None else self._replace(grams=self.frames @ self.frames.mT)

    def pack(self) -> bytes:
        """Return the real frames, the concepts and the values, if any, of a single video as float16 bytes."""
        rows = [self.frames[0, self.mask[0]], self.concepts[0]]
        rows += [] if self.values is None else [self.values[0, self.mask[0]]]
        return pack_arrays([row.half().numpy() for row in rows])

    @classmethod
    def unpack(
        cls, packed: Sequence[bytes | memoryview], frames: Sequence[Float[np.ndarray, "_frame dim"]] = ()
    ) -> "ConceptVideos":
        """Return the videos that ``pack`` wrote, as a batch; if all are empty, they have ``frames`` and no concepts."""
        values: list[Tensor] = []
        if any(map(len, packed)):
            (rows, mask), (concepts, _), *others = unpack_stacked(packed)
            values = [other.float() for other, _ in others]
        else:
            rows, mask = stack_rows(frames)
            concepts = rows[:, :0]
        mask = torch.ones(rows.shape[:2], dtype=torch.bool) if mask is None else mask
        return cls(rows.float(), mask, concepts.float(), values=next(iter(values), None))


class ConceptTexts(NamedTuple):
    """Prepared texts: sentence vectors as encoded, and the concepts found among the words."""

    sentences: Float[Tensor, "text dim"]
    concepts: Float[Tensor, "text concept dim"]


class ConceptScores(NamedTuple):
    """Scores, with ``total = pooled + share * shared``, and the index of the frame with the highest weight."""

    total: Float[Tensor, "text video"]
    pooled: Float[Tensor, "text video"]
    shared: Float[Tensor, "text video"]
    best_frame: Int[Tensor, "text video"]


class ConceptFinder(nn.Module):
    """A decoder that finds a few concepts among frames or words, with one learned query (seed) per concept."""

    def __init__(self, dim: int, *, num_concepts: int = 8, layers: int = 3, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.rand(num_concepts, dim))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, hidden, dropout=0.1, batch_first=True) for _ in range(layers)
        )

    def forward(
        self, memory: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch concept dim"]:
        """Return the concepts of frames or words, of unit length; zeros for rows that are all padding."""
        if not len(memory):  # PyTorch's attention refuses it
            return memory.new_zeros(0, *self.seeds.shape)
        memory = memory.masked_fill(~mask[..., None], 0)
        x, bias = self.seeds.expand(len(memory), -1, -1), mask_bias(memory, mask)
        for layer in self.decoder:
            x = layer(x, memory, memory_key_padding_mask=bias)
        return functional.normalize(x, dim=-1) * mask.any(dim=1)[:, None, None]


class ConceptAligner(nn.Module):
    """Scores of texts for videos: text-conditioned frame pooling, plus agreement of concepts found on both sides.

    By default it is training-free and consists of the pooling only, over vectors of unit length. The modules of a
    trained head are passed in; all vectors must then keep the norms that the encoder gave them.

    Reference: GLSCL (Zhang et al. 2025), global interaction and local interaction with shared queries and decoder.
    """

    kind: ClassVar[str] = "glscl"

    def __init__(
        self,
        *,
        temporal: TemporalTransformer | None = None,
        finder: ConceptFinder | None = None,
        word_finder: ConceptFinder | None = None,
        attention: SoftmaxAttention | FrameAttention | None = None,
        share: float = 0.5,
    ) -> None:
        """Compose an aligner of trained parts; ``finder`` is also that of words unless ``word_finder`` is given.

        ``attention`` pools frames, by default a softmax over cosines; ``share`` is the weight of the agreement of
        concepts in the score.

        Raises:
            ValueError: The finders' seeds differ in shape.
        """
        if word_finder is not None and (finder is None or finder.seeds.shape != word_finder.seeds.shape):
            raise ValueError(
                f"finder must have seeds of shape {tuple(word_finder.seeds.shape)} as word_finder has, "
                f"got {None if finder is None else tuple(finder.seeds.shape)}"
            )
        super().__init__()
        self.temporal, self.finder, self.word_finder, self.share = temporal, finder, word_finder, share
        self.attention = attention or SoftmaxAttention()

    @property
    def trained(self) -> bool:
        """Whether there is a trained head, which takes raw vectors."""
        return next(self.parameters(), None) is not None

    def describe(self) -> dict[str, Any]:
        """Return the settings that do not follow from the weights.

        Raises:
            ValueError: There is no trained head.
        """
        settings = self.attention.describe()
        if "top" in settings:
            return settings
        if self.finder is None:
            raise ValueError("aligner must be trained to be saved, got one without a head")
        heads = cast(nn.TransformerDecoderLayer, self.finder.decoder[0]).self_attn.num_heads
        return {**settings, "heads": heads, "share": self.share}

    def prepare(self, videos: VideoBatch) -> ConceptVideos:
        """Compute the part of the score that does not depend on a text. Tokens are not used.

        Raises:
            ValueError: The mask is not bool or has the wrong shape.
        """
        mask = fill_mask(videos.frame_mask, videos.frames)
        frames = videos.frames.masked_fill(~mask[..., None], 0)
        frames = frames if self.temporal is None else self.temporal(frames, mask)
        concepts = self.find_concepts(frames, mask)
        frames, values = self.attention.prepare(frames)
        return ConceptVideos(frames, mask, concepts, values=values).with_grams()

    def prepare_texts(self, texts: TextBatch) -> ConceptTexts:
        """Compute the part of the score that does not depend on a video.

        Raises:
            ValueError: The mask is not bool or has the wrong shape.
        """
        mask = fill_mask(texts.mask, texts.words)
        return ConceptTexts(texts.sentences, self.find_concepts(texts.words, mask, of_words=True))

    def _prepare_all(self, texts: TextBatch) -> ConceptTexts:
        """Prepare texts as ``prepare_texts`` does, some at a time."""
        starts = range(0, max(1, len(texts.sentences)), AT_ONCE)
        parts = [self.prepare_texts(take_rows(texts, slice(start, start + AT_ONCE))) for start in starts]
        return ConceptTexts(texts.sentences, torch.cat([part.concepts for part in parts]))

    def find_concepts(
        self, memory: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"], *, of_words: bool = False
    ) -> Float[Tensor, "batch concept dim"]:
        """Return the concepts of frames or words; zero concepts without a trained head."""
        finder = self.word_finder if of_words and self.word_finder is not None else self.finder
        if finder is None:
            return memory.new_zeros(len(memory), 0, memory.shape[-1])
        concepts: Tensor = finder(memory, mask)
        return concepts

    @torch.no_grad()
    def score(self, texts: TextBatch | ConceptTexts, videos: ConceptVideos) -> ConceptScores:
        """Score every text for every video, block by block: working memory does not grow with their numbers."""
        queries = self._prepare_all(texts) if isinstance(texts, TextBatch) else texts
        if videos.grams is None and len(queries.sentences) >= videos.frames.shape[1]:
            videos = videos.with_grams()
        shape = len(queries.sentences), len(videos.frames)
        total, pooled, shared = (videos.frames.new_empty(shape) for _ in range(3))
        scores = ConceptScores(total, pooled, shared, total.new_empty(shape, dtype=torch.long))

        def score_block(row: int, column: int) -> None:
            rows, columns = slice(row, row + TEXTS), slice(column, column + VIDEOS)
            block = self(take_rows(queries, rows), take_rows(videos, columns))
            for full, values in zip(scores, block, strict=True):
                full[rows, columns] = values

        starts = product(range(0, shape[0], TEXTS), range(0, shape[1], VIDEOS))
        run_tasks([partial(score_block, row, column) for row, column in starts], videos.frames.device)
        return scores

    def forward(self, texts: ConceptTexts, videos: ConceptVideos) -> ConceptScores:
        """Score every text for every video at once, with gradients."""
        pooled, ranked = self.attention(texts.sentences, videos.frames, videos.mask, videos.values, videos.grams)
        shared = texts.concepts.flatten(1) @ videos.concepts.flatten(1).mT / max(1, texts.concepts.shape[1])
        return ConceptScores(pooled.mT + self.share * shared, pooled.mT, shared, ranked.argmax(dim=-1).mT)


def diversity_loss(concepts: Float[Tensor, "video concept dim"]) -> Float[Tensor, ""]:
    """Return the intra-diversity loss, which keeps the concepts of a video apart.

    It is a hinge of the concepts' mean products against the diagonal, by rows and by columns. The published weight of
    this term is 1e-4. Reference: GLSCL, intra-diversity loss.
    """
    gram = (concepts @ concepts.mT).mean(dim=0)
    diagonal, num = gram.diagonal(), len(gram)
    apart = ~torch.eye(num, dtype=torch.bool, device=gram.device)
    hinges = (MARGIN + gram - diagonal[:, None]).clamp_min(0) + (MARGIN + gram - diagonal).clamp_min(0)
    return (hinges * apart).sum() / max(1, num * (num - 1))


def consistency_loss(
    texts: Float[Tensor, "pair concept dim"], videos: Float[Tensor, "pair concept dim"], *, beta: float = 0.005
) -> Float[Tensor, ""]:
    """Return the inter-consistency loss, which gives a concept the same meaning on both sides.

    It asks for equal means and for products near ``TARGET``. As published, products are summed over pairs and divided
    by the number of concepts, so a value of ``beta`` depends on the batch size. Reference: GLSCL, inter-consistency
    loss.
    """
    products = (texts * videos).sum(dim=(0, 2)) / texts.shape[1]
    return functional.mse_loss(videos.mean(dim=0), texts.mean(dim=0)) + beta * (products - TARGET).square().sum()
