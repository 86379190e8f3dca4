"""GLSCL, the fast aligner: frames pooled as a sentence weighs them, and concepts that texts and videos share.

All that one side knows by itself is computed once: ``prepare`` for videos, ``read`` for texts. ``score`` is left with a
few matrix products over all pairs. A trained head reads features as they come, not of unit length: its softmax over
frames (temperature 3) was trained with their norms. Without one, frames of unit length are pooled, and that is all.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.packing import pack_arrays, stack_rows, unpack_stacked
from vidret.align.ucofia_temporal import TemporalTransformer

EPS = 1e-12
UNIT_TEMPERATURE = 0.03  # of cosines: what 3 is to products of CLIP's raw vectors, whose lengths are about 10
TEXTS, VIDEOS = 64, 256  # of a block, whose frame weights fit a core's cache


class ConceptVideos(NamedTuple):
    """What the aligner keeps of videos.

    ``grams`` are the products among a video's frames. They follow from them, and are None where few texts ask.
    """

    frames: Float[Tensor, "video frame dim"]
    mask: Bool[Tensor, "video frame"]
    concepts: Float[Tensor, "video concept dim"]
    grams: Float[Tensor, "video frame frame"] | None = None

    @classmethod
    def build(cls, frames: Tensor, mask: Tensor, concepts: Tensor) -> "ConceptVideos":
        """Add what follows from the rest, and need not be stored."""
        return cls(frames, mask, concepts, frames @ frames.mT)

    def take(self, rows: Tensor | slice) -> "ConceptVideos":
        """Give some of the videos: candidates, in the order asked for."""
        return ConceptVideos(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]

    def pack(self) -> bytes:
        """Write the only video there is as float16: its real frames, and its concepts."""
        return pack_arrays([self.frames[0, self.mask[0]].half().numpy(), self.concepts[0].half().numpy()])

    @classmethod
    def unpack(
        cls, packed: Sequence[bytes | memoryview], frames: Sequence[Float[np.ndarray, "frame dim"]] = ()
    ) -> "ConceptVideos":
        """Put stored videos together again; where nothing was packed, ``frames`` are all that there is."""
        if any(map(len, packed)):
            (rows, mask), (concepts, _) = unpack_stacked(packed)
        else:
            rows, mask = stack_rows(frames)
            concepts = rows[:, :0]
        mask = torch.ones(rows.shape[:2], dtype=torch.bool) if mask is None else mask
        return cls(rows.float(), mask, concepts.float())


class ConceptTexts(NamedTuple):
    """What the aligner needs of texts: the sentences as the encoder gave them, and the concepts among their words."""

    sentences: Float[Tensor, "text dim"]
    concepts: Float[Tensor, "text concept dim"]


class ConceptScores(NamedTuple):
    """The scores of texts against videos, ``total = pooled + share * shared``, and each video's heaviest frame."""

    total: Float[Tensor, "text video"]
    pooled: Float[Tensor, "text video"]
    shared: Float[Tensor, "text video"]
    best_frame: Int[Tensor, "text video"]


class ConceptFinder(nn.Module):
    """Find a few concepts among frames or among words: a decoder whose seeds ask for one each."""

    def __init__(self, dim: int, *, num_concepts: int = 8, layers: int = 3, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.rand(num_concepts, dim))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, hidden, dropout=0.1, batch_first=True) for _ in range(layers)
        )

    def forward(
        self, memory: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch concept dim"]:
        """Give the concepts of frames or of words, of unit length; zeros where nothing is real."""
        memory = memory.masked_fill(~mask[..., None], 0)
        x, bias = self.seeds.expand(len(memory), -1, -1), _bias(memory, mask)
        for layer in self.decoder:
            x = layer(x, memory, memory_key_padding_mask=bias)
        return functional.normalize(x, dim=-1) * mask.any(dim=1)[:, None, None]


class ConceptAligner(nn.Module):
    """Score texts against videos: a frame pooling that the text steers, and concepts found on both sides alike.

    Training-free as it is, which leaves the pooling, over vectors of unit length; the parts of a trained head are
    passed in, and then all vectors must come as the encoder gave them.

    Reference: GLSCL (Zhang et al. 2025), global interaction and local interaction with shared queries and decoder.
    """

    kind: ClassVar[str] = "glscl"

    def __init__(
        self,
        *,
        temporal: TemporalTransformer | None = None,
        finder: ConceptFinder | None = None,
        word_finder: ConceptFinder | None = None,
        temperature: float = UNIT_TEMPERATURE,
        share: float = 0.5,
    ) -> None:
        """Compose an aligner.

        Args:
            temporal: Lets frames see each other first.
            finder: Finds concepts among frames, and among words, too, unless these have a finder of their own.
            word_finder: Finds concepts among words.
            temperature: Of the softmax over frames; 3 for the published heads.
            share: Weight of the shared concepts in the score.

        Raises:
            ValueError: The temperature is not positive, or the finders have different numbers of concepts.
        """
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if word_finder is not None and (finder is None or finder.seeds.shape != word_finder.seeds.shape):
            raise ValueError(
                f"finder must have seeds of shape {tuple(word_finder.seeds.shape)} as word_finder has, "
                f"got {None if finder is None else tuple(finder.seeds.shape)}"
            )
        super().__init__()
        self.temporal, self.finder, self.word_finder = temporal, finder, word_finder
        self.temperature, self.share = temperature, share

    @property
    def trained(self) -> bool:
        """Say whether there is a trained head, which reads raw vectors."""
        return self.finder is not None

    def describe(self) -> dict[str, Any]:
        """Return the settings that no weight tells.

        Raises:
            ValueError: There is no trained head.
        """
        if self.finder is None:
            raise ValueError("aligner must be trained to be saved, got one without a head")
        heads = cast(nn.TransformerDecoderLayer, self.finder.decoder[0]).self_attn.num_heads
        return {"temperature": self.temperature, "heads": heads, "share": self.share}

    def prepare(self, videos: VideoBatch) -> ConceptVideos:
        """Compute all about videos that no text changes; their tokens are not looked at.

        Raises:
            ValueError: The mask does not fit.
        """
        mask = _check(videos.frames, videos.frame_mask)
        frames = videos.frames.masked_fill(~mask[..., None], 0)
        frames = frames if self.temporal is None else self.temporal(frames, mask)
        return ConceptVideos.build(frames, mask, self.find_concepts(frames, mask))

    def read(self, texts: TextBatch) -> ConceptTexts:
        """Compute all about texts that no video changes.

        Raises:
            ValueError: The mask does not fit.
        """
        mask = _check(texts.words, texts.mask)
        return ConceptTexts(texts.sentences, self.find_concepts(texts.words, mask, of_words=True))

    def find_concepts(
        self, memory: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"], *, of_words: bool = False
    ) -> Float[Tensor, "batch concept dim"]:
        """Return the concepts of frames or of words; none without a trained head."""
        finder = self.word_finder if of_words and self.word_finder is not None else self.finder
        if finder is None:
            return memory.new_zeros(len(memory), 0, memory.shape[-1])
        concepts: Tensor = finder(memory, mask)
        return concepts

    @torch.no_grad()
    def score(self, texts: TextBatch | ConceptTexts, videos: ConceptVideos) -> ConceptScores:
        """Score every text against every video, block by block: the working memory does not grow with their numbers."""
        queries = self.read(texts) if isinstance(texts, TextBatch) else texts
        if videos.grams is None and len(queries.sentences) >= videos.frames.shape[1]:
            videos = ConceptVideos.build(videos.frames, videos.mask, videos.concepts)
        shape = len(queries.sentences), len(videos.frames)
        total, pooled, shared = (videos.frames.new_empty(shape) for _ in range(3))
        found = ConceptScores(total, pooled, shared, total.new_empty(shape, dtype=torch.long))
        for column in range(0, shape[1], VIDEOS):
            columns = slice(column, column + VIDEOS)
            block = videos.take(columns)
            for row in range(0, shape[0], TEXTS):
                rows = slice(row, row + TEXTS)
                part = self(ConceptTexts(queries.sentences[rows], queries.concepts[rows]), block)
                for whole, scores in zip(found, part, strict=True):
                    whole[rows, columns] = scores
        return found

    def forward(self, texts: ConceptTexts, videos: ConceptVideos) -> ConceptScores:
        """Score every text against every video at once, with gradients.

        With w the frames' weights and l their products with the sentence c, the pooled frame g = sum_f w_f v_f is
        not built where there are grams: c.g = sum_f w_f l_f, and |g|^2 = w^T (v v^T) w. They pay off from as many
        texts on as a video has frames. The published code masks after the softmax and does not divide anew; a cosine
        does not see that.
        """
        products = einsum(texts.sentences, videos.frames, "t d, v f d -> v t f")
        logits = products / self.temperature + _bias(videos.frames, videos.mask)[:, None]
        weights = logits.softmax(dim=-1) * videos.mask[:, None]
        if videos.grams is None:
            squares = (weights @ videos.frames).square().sum(dim=-1)
        else:
            squares = ((weights @ videos.grams) * weights).sum(dim=-1)
        lengths = squares.clamp_min(EPS).sqrt() * texts.sentences.norm(dim=-1).clamp_min(EPS)
        pooled = ((weights * products).sum(dim=-1) / lengths).mT
        shared = texts.concepts.flatten(1) @ videos.concepts.flatten(1).mT / max(1, texts.concepts.shape[1])
        return ConceptScores(pooled + self.share * shared, pooled, shared, weights.argmax(dim=-1).mT)


def diversity_loss(concepts: Float[Tensor, "video concept dim"], *, margin: float = 0.1) -> Float[Tensor, ""]:
    """Keep a video's concepts apart: hinge of their mean products against the diagonal, by rows and by columns.

    The published weight of this term is 1e-4. Reference: GLSCL, intra-diversity loss.
    """
    gram = (concepts @ concepts.mT).mean(dim=0)
    own, num = gram.diagonal(), len(gram)
    apart = ~torch.eye(num, dtype=torch.bool, device=gram.device)
    hinges = (margin + gram - own[:, None]).clamp_min(0) + (margin + gram - own).clamp_min(0)
    return (hinges * apart).sum() / max(1, num * (num - 1))


def consistency_loss(
    texts: Float[Tensor, "pair concept dim"],
    videos: Float[Tensor, "pair concept dim"],
    *,
    beta: float = 0.005,
    target: float = 0.75,
) -> Float[Tensor, ""]:
    """Let a concept mean the same on both sides: equal means, and products near ``target``.

    The products are summed over pairs and divided by the number of concepts, as published: ``beta`` belongs to a batch
    size. Reference: GLSCL, inter-consistency loss.
    """
    products = (texts * videos).sum(dim=(0, 2)) / texts.shape[1]
    return functional.mse_loss(videos.mean(dim=0), texts.mean(dim=0)) + beta * (products - target).square().sum()


def _check(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Give the mask, all true unless there is one."""
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise ValueError(f"mask must be bool {tuple(tokens.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    return mask


def _bias(tokens: Tensor, mask: Tensor) -> Tensor:
    """Give what hides padding from a softmax; finite, so that a row of nothing but padding has no NaN."""
    return torch.zeros_like(mask, dtype=tokens.dtype).masked_fill(~mask, torch.finfo(tokens.dtype).min / 2)
