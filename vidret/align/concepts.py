"""GLSCL, the fast aligner: frames pooled as a sentence weighs them, and concepts that texts and videos share.

All that one side knows by itself is computed once: ``prepare`` for videos, ``read`` for texts. ``score`` is left with a
few matrix products over all pairs. Features are the encoder's as they come, not of unit length: the softmax over
frames (temperature 3) was trained with their norms.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.temporal import TemporalTransformer
from vidret.errors import AlignerError

EPS = 1e-12
TEXTS, VIDEOS = 64, 256  # of a block, whose frame weights fit a core's cache

# Our names, or how they begin, to the published ones.
GLSCL: Mapping[str, str] = {
    "temporal.positions": "frame_position_embeddings.weight",
    "temporal.blocks.": "transformerClip.resblocks.",
    "seeds": "spatial_queries",
    "decoder.": "transformer_decoder_noun.layers.",
}
LEFT = ("clip.", "noun_queries")  # the encoder's; and what idles where texts and videos share their queries


class ConceptVideos(NamedTuple):
    """What the aligner keeps of videos; ``grams`` are the products among a video's frames, and follow from them."""

    frames: Float[Tensor, "video frame dim"]
    mask: Bool[Tensor, "video frame"]
    concepts: Float[Tensor, "video concept dim"]
    grams: Float[Tensor, "video frame frame"]

    @classmethod
    def build(cls, frames: Tensor, mask: Tensor, concepts: Tensor) -> "ConceptVideos":
        """Add what follows from the rest, and need not be stored."""
        return cls(frames, mask, concepts, frames @ frames.mT)

    def take(self, rows: Tensor | slice) -> "ConceptVideos":
        """Give some of the videos: candidates, in the order asked for."""
        return ConceptVideos(*(part[rows] for part in self))


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


class ConceptAligner(nn.Module):
    """Score texts against videos: a frame pooling that the text steers, and concepts found on both sides alike.

    Reference: GLSCL (Zhang et al. 2025), global interaction and local interaction with shared queries and decoder.
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        num_concepts: int = 8,
        layers: int = 3,
        heads: int = 8,
        hidden: int = 2048,
        temporal_layers: int = 4,
        num_positions: int = 77,
        temperature: float = 3.0,
        share: float = 0.5,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__()
        self.temperature, self.share = temperature, share
        self.temporal = TemporalTransformer(dim, layers=temporal_layers, num_positions=num_positions)
        self.seeds = nn.Parameter(torch.rand(num_concepts, dim))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, hidden, dropout=0.1, batch_first=True) for _ in range(layers)
        )

    def prepare(self, videos: VideoBatch) -> ConceptVideos:
        """Compute all about videos that no text changes; their tokens are not looked at.

        Raises:
            ValueError: The mask does not fit.
        """
        mask = _check(videos.frames, videos.frame_mask)
        frames = self.temporal(videos.frames.masked_fill(~mask[..., None], 0), mask)
        return ConceptVideos.build(frames, mask, self.find_concepts(frames, mask))

    def read(self, texts: TextBatch) -> ConceptTexts:
        """Compute all about texts that no video changes.

        Raises:
            ValueError: The mask does not fit.
        """
        return ConceptTexts(texts.sentences, self.find_concepts(texts.words, _check(texts.words, texts.mask)))

    def find_concepts(
        self, memory: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch concept dim"]:
        """Give the concepts of frames or of words, of unit length; zeros where nothing is real."""
        memory = memory.masked_fill(~mask[..., None], 0)
        x, bias = self.seeds.expand(len(memory), -1, -1), _bias(memory, mask)
        for layer in self.decoder:
            x = layer(x, memory, memory_key_padding_mask=bias)
        return functional.normalize(x, dim=-1) * mask.any(dim=1)[:, None, None]

    @torch.no_grad()
    def score(self, texts: TextBatch | ConceptTexts, videos: ConceptVideos) -> ConceptScores:
        """Score every text against every video, block by block: the working memory does not grow with their numbers."""
        queries = self.read(texts) if isinstance(texts, TextBatch) else texts
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
        never built: c.g = sum_f w_f l_f, and |g|^2 = w^T (v v^T) w. The published code masks after the softmax and
        does not divide anew; a cosine does not see that.
        """
        products = einsum(texts.sentences, videos.frames, "t d, v f d -> v t f")
        logits = products / self.temperature + _bias(videos.frames, videos.mask)[:, None]
        weights = logits.softmax(dim=-1) * videos.mask[:, None]
        squares = ((weights @ videos.grams) * weights).sum(dim=-1).clamp_min(EPS)
        lengths = squares.sqrt() * texts.sentences.norm(dim=-1).clamp_min(EPS)
        pooled = ((weights * products).sum(dim=-1) / lengths).mT
        shared = texts.concepts.flatten(1) @ videos.concepts.flatten(1).mT / len(self.seeds)
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


def convert_concepts(weights: Mapping[str, Tensor], *, temperature: float = 3.0, heads: int = 8) -> ConceptAligner:
    """Build the aligner of a published state dict, whose CLIP part is passed over; shapes are read off the weights.

    Raises:
        AlignerError: Lists the weights that are missing, unknown or of another shape, by their published names.
    """
    tables = ("frame_position_embeddings.weight", "spatial_queries")
    _refuse("missing", [name for name in (*tables, f"{GLSCL['decoder.']}0.linear1.weight") if name not in weights])
    positions, seeds = (weights[name] for name in tables)
    aligner = ConceptAligner(
        seeds.shape[1],
        num_concepts=len(seeds),
        layers=_depth(weights, GLSCL["decoder."]),
        heads=heads,
        hidden=len(weights[f"{GLSCL['decoder.']}0.linear1.weight"]),
        temporal_layers=_depth(weights, GLSCL["temporal.blocks."]),
        num_positions=len(positions),
        temperature=temperature,
    )
    own = aligner.state_dict()
    names = {
        theirs + name.removeprefix(ours): name
        for ours, theirs in GLSCL.items()
        for name in own
        if name.startswith(ours)
    }
    _refuse("missing", names.keys() - weights.keys())
    _refuse("unknown", [name for name in weights.keys() - names.keys() if not name.startswith(LEFT)])
    _refuse("of another shape", [theirs for theirs, name in names.items() if weights[theirs].shape != own[name].shape])
    aligner.load_state_dict({name: weights[theirs].float() for theirs, name in names.items()})
    return aligner.eval()


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


def _depth(weights: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


def _refuse(kind: str, names: Collection[str]) -> None:
    if names:
        raise AlignerError(f"glscl: {len(names)} weights {kind}: {', '.join(sorted(names))}")
