"""GLSCL, the fast aligner: frames pooled as a sentence weighs them, and concepts that texts and videos share.

All that one side knows by itself is computed once: ``prepare`` for videos, ``read`` for texts. ``score`` is left with a
few matrix products over all pairs. Features are the encoder's as they come, not of unit length: the softmax over
frames (temperature 3) was trained with their norms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from vidret.errors import VidretError
from vidret.layers import Block

NORM_EPS = 1e-12

# Our names to those of the published code. CLIP is the encoder's business; with shared queries ``noun_queries`` is idle.
GLSCL: Mapping[str, str] = {
    "temporal.positions": "frame_position_embeddings.weight",
    "temporal.blocks.": "transformerClip.resblocks.",
    "seeds": "spatial_queries",
    "decoder.": "transformer_decoder_noun.layers.",
}
LEFT = ("clip.", "noun_queries")


@dataclass(frozen=True, slots=True, eq=False)
class PreparedVideos:
    """What the aligner keeps of videos; ``grams`` are the products among a video's frames, and follow from them."""

    frames: Float[Tensor, "video frame dim"]
    mask: Bool[Tensor, "video frame"]
    concepts: Float[Tensor, "video concept dim"]
    grams: Float[Tensor, "video frame frame"]

    @classmethod
    def build(cls, frames: Tensor, mask: Tensor, concepts: Tensor) -> "PreparedVideos":
        """Add what follows from the rest, and need not be stored."""
        return cls(frames, mask, concepts, frames @ frames.mT)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedTexts:
    """What the aligner needs of texts; sentences are of unit length times ``norms``."""

    sentences: Float[Tensor, "text dim"]
    concepts: Float[Tensor, "text concept dim"]


@dataclass(frozen=True, slots=True, eq=False)
class ConceptScores:
    """Scores of all pairs, ``total = pooled + share * shared``; ``best`` is the index of the heaviest frame."""

    total: Float[Tensor, "text video"]
    pooled: Float[Tensor, "text video"]
    shared: Float[Tensor, "text video"]
    best: Int[Tensor, "text video"]


class FrameContext(nn.Module):
    """Let the frames of a video see each other; what they were is added again."""

    def __init__(self, dim: int, layers: int, max_frames: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(max_frames, dim) * 0.01)
        self.blocks = nn.ModuleList(Block(dim, max(1, dim // 64), quick_gelu=True) for _ in range(layers))
        for norm in (module for module in self.modules() if isinstance(module, nn.LayerNorm)):
            norm.eps = NORM_EPS

    def forward(
        self, frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"]
    ) -> Float[Tensor, "video frame dim"]:
        """Give each frame what the real ones show."""
        if frames.shape[1] > len(self.positions):
            raise ValueError(f"frames must be at most {len(self.positions)} a video, got {frames.shape[1]}")
        x, bias = frames + self.positions[: frames.shape[1]], rearrange(_bias(frames, mask), "b n -> b 1 1 n")
        for block in self.blocks:
            x = block(x, bias=bias)
        return x + frames


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
        max_frames: int = 77,
        temperature: float = 3.0,
        share: float = 0.5,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__()
        self.temperature, self.share = temperature, share
        self.temporal = FrameContext(dim, temporal_layers, max_frames)
        self.seeds = nn.Parameter(torch.rand(num_concepts, dim))
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(dim, heads, hidden, dropout=0.1, batch_first=True) for _ in range(layers)
        )

    def prepare(
        self, frames: Float[Tensor, "video frame dim"], mask: Bool[Tensor, "video frame"] | None = None
    ) -> PreparedVideos:
        """Compute all about videos that no text changes.

        Raises:
            ValueError: There are more frames than positions, or the mask does not fit.
        """
        mask = _check(frames, mask)
        frames = self.temporal(frames.masked_fill(~mask[..., None], 0), mask)
        return PreparedVideos.build(frames, mask, self.find_concepts(frames, mask))

    def read(
        self,
        sentences: Float[Tensor, "text dim"],
        words: Float[Tensor, "text word dim"],
        mask: Bool[Tensor, "text word"] | None = None,
    ) -> PreparedTexts:
        """Compute all about texts that no video changes.

        Raises:
            ValueError: The mask does not fit.
        """
        return PreparedTexts(sentences, self.find_concepts(words, _check(words, mask)))

    def find_concepts(
        self, memory: Float[Tensor, "batch token dim"], mask: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch concept dim"]:
        """Give the concepts of frames or of words, of unit length; zeros where nothing is real."""
        memory = memory.masked_fill(~mask[..., None], 0)
        x, bias = self.seeds.expand(len(memory), -1, -1), _bias(memory, mask)
        for layer in self.decoder:
            x = layer(x, memory, memory_key_padding_mask=bias)
        return functional.normalize(x, dim=-1) * mask.any(dim=1)[:, None, None]

    def score(self, texts: PreparedTexts, videos: PreparedVideos) -> ConceptScores:
        """Score every text against every video.

        With w the frames' weights and l their products with the sentence c, the pooled frame g = sum_f w_f v_f is
        never built: c.g = sum_f w_f l_f, and |g|^2 = w^T (v v^T) w. That the mask is put on after the softmax without
        a new division, as in the published code, does not show in a cosine.
        """
        products = einsum(texts.sentences, videos.frames, "t d, v f d -> v t f")
        logits = products / self.temperature + _bias(videos.frames, videos.mask)[:, None]
        weights = logits.softmax(dim=-1) * videos.mask[:, None]
        squares = ((weights @ videos.grams) * weights).sum(dim=-1).clamp_min(NORM_EPS)
        lengths = squares.sqrt() * texts.sentences.norm(dim=-1).clamp_min(NORM_EPS)
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
    return (hinges * apart).sum() / (num * (num - 1))


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
        VidretError: Lists the weights that are missing, unknown or of another shape, by their published names.
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
        max_frames=len(positions),
        temperature=temperature,
    )
    own = aligner.state_dict()
    names = {theirs + name.removeprefix(ours): name for ours, theirs in GLSCL.items() for name in own if name.startswith(ours)}
    _refuse("missing", names.keys() - weights.keys())
    _refuse("unknown", [name for name in weights.keys() - names.keys() if not name.startswith(LEFT)])
    _refuse("of another shape", [theirs for theirs, name in names.items() if weights[theirs].shape != own[name].shape])
    aligner.load_state_dict({name: weights[theirs].float() for theirs, name in names.items()})
    return aligner.eval()
