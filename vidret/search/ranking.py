"""The second look at candidates: what orders them, by levels, and what of a segment is stored for it at indexing."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int

from vidret.align.batches import collate_segments, collate_texts
from vidret.align.files import load_aligner
from vidret.align.glscl import ConceptAligner, ConceptVideos
from vidret.align.packing import pack_video, stack_rows, unpack_videos
from vidret.align.similarity import score_top_frames
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import score_frames
from vidret.align.ucofia_selection import PatchSelector
from vidret.align.ucofia_temporal import pool_frames
from vidret.encode.encoder import STARTER, WHOLE, Encoder
from vidret.errors import AlignerError
from vidret.types import Frames, SegmentEmbedding, TextEmbedding

NONE = "none"
MEAN = "mean"
AUTO = "auto"
BESIDE = ".aligner.safetensors"  # what a model's aligner is called that lies beside it
TOKENS = {"int8": torch.int8, "float16": torch.float16}

Packed = Sequence[bytes | memoryview]
FrameRows = Sequence[Float[np.ndarray, "frame dim"]]


class Levels(NamedTuple):
    """Scores of texts against segments, level by level, coarse to fine, and each text's best frame in each segment."""

    scores: dict[str, Float[np.ndarray, "text segment"]]
    best: Int[np.ndarray, "text segment"]


class Ranker(Protocol):
    """Order candidates.

    ``name`` finds it again, ``fingerprint`` says with what a segment's tokens were packed. ``weights`` make the score
    of the levels. ``temperature`` is what SK-norm takes these levels with, in their unit: about cosines.
    """

    name: str
    fingerprint: str
    weights: Mapping[str, float]
    temperature: float
    wants_tokens: bool

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Compute what of a segment does not depend on the query, to be stored with it; empty if there is nothing."""
        ...

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments, of which what was packed and the frames were read back."""
        ...


class FrameRanker:
    """The mean of the frames that fit best; nothing more is stored, nothing is trained."""

    name, fingerprint = NONE, ""
    weights: Mapping[str, float] = {"frames": 1.0}
    temperature = 0.05
    wants_tokens = False

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Store nothing."""
        return b""

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments by their frames."""
        found = [score_top_frames(text.sentence, frames) for text in texts]
        return Levels({"frames": np.stack([scores for scores, _ in found])}, np.array([best for _, best in found]))


class MeanRanker(FrameRanker):
    """The mean of all frames: mean pooling, the baseline of papers."""

    name = MEAN
    weights: Mapping[str, float] = {"segment": 1.0}

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against the mean of each segment's frames."""
        rows, mask = stack_rows(frames)
        rows = rows.float()
        sentences = torch.from_numpy(np.stack([text.sentence for text in texts])).float()
        best = score_frames(sentences, rows, mask=mask)[1]
        return Levels({"segment": (sentences @ pool_frames(rows, mask).T).numpy()}, best.numpy())


class UcofiaRanker:
    """UCoFiA's three levels, trained or not: the whole segment, its frames, its tokens with the words."""

    weights: Mapping[str, float] = {"segment": 1 / 3, "frames": 1 / 3, "words": 1 / 3}
    wants_tokens = True

    def __init__(self, name: str, aligner: Aligner, *, tokens: str = "int8") -> None:
        """Take an aligner; ``tokens`` says how they are stored: int8 or float16."""
        self.name, self._aligner, self._dtype = name, aligner.eval(), TOKENS[tokens]
        self.fingerprint = _digest(aligner)
        # As published for a trained head, whose logits it is 1 of; measured without one, where cosines spread wider.
        self.temperature = 1 / float(aligner.logit_scale.detach().exp()) if aligner.trained else 0.05

    @torch.no_grad()
    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Store the tokens that were chosen and, of a trained head, the vector of the whole segment."""
        prepared = self._aligner.prepare(collate_segments([embedding], raw=self._aligner.trained))
        return pack_video(prepared.packed(self._dtype), whole=self._aligner.trained)

    @torch.no_grad()
    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments; without training, one that has no tokens stored has its frames instead."""
        if self._aligner.trained:
            _refuse_missing(self.name, packed)
        videos = unpack_videos(packed, frames)
        levels = self._aligner.score(collate_texts(texts, raw=self._aligner.trained), videos)
        scale = float(self._aligner.logit_scale.exp())
        scores = {name: (level / scale).numpy() for name, level in zip(self.weights, levels, strict=False)}
        return Levels(scores, levels.best_frame.numpy())


class GlsclRanker:
    """GLSCL, trained or not: frames pooled as the sentence weighs them, and of a trained head, shared concepts."""

    wants_tokens = False
    temperature = 0.05

    def __init__(self, name: str, aligner: ConceptAligner) -> None:
        """Take an aligner."""
        self.name, self._aligner = name, aligner.eval()
        self.fingerprint = _digest(aligner)
        self.weights: Mapping[str, float] = {"pooled": 1.0}
        if aligner.trained:
            self.weights = {"pooled": 1.0, "concepts": aligner.share}

    @torch.no_grad()
    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Store, of a trained head, the frames that have seen each other and the concepts."""
        if not self._aligner.trained:
            return b""
        return self._aligner.prepare(collate_segments([embedding], raw=True)).pack()

    @torch.no_grad()
    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments."""
        if self._aligner.trained:
            _refuse_missing(self.name, packed)
        videos = ConceptVideos.unpack(packed, frames)
        found = self._aligner.score(collate_texts(texts, raw=self._aligner.trained), videos)
        scores = dict(zip(self.weights, (found.pooled.numpy(), found.shared.numpy()), strict=False))
        return Levels(scores, found.best_frame.numpy())


def _compare_tokens(encoder: Encoder, tokens: str) -> Ranker:
    """Return the training-free UCoFiA.

    The starter's regions are mixed as its frames are: the less they repeat each other, the more they say. CLIP's
    patches are not trained to be compared: the nearer to the class token, the more they can be trusted.
    """
    selector = PatchSelector(apart=encoder.name.removesuffix(WHOLE) == STARTER)
    return UcofiaRanker(Aligner.kind, Aligner(selector=selector), tokens=tokens)


# Rankers that need no training by name, and those of trained aligners by the aligner's kind.
UNTRAINED: Mapping[str, Callable[[Encoder, str], Ranker]] = {
    NONE: lambda encoder, tokens: FrameRanker(),
    MEAN: lambda encoder, tokens: MeanRanker(),
    Aligner.kind: _compare_tokens,
    ConceptAligner.kind: lambda encoder, tokens: GlsclRanker(ConceptAligner.kind, ConceptAligner()),
}
TRAINED: Mapping[str, Callable[[str, Any, str], Ranker]] = {
    Aligner.kind: lambda name, aligner, tokens: UcofiaRanker(name, aligner, tokens=tokens),
    ConceptAligner.kind: lambda name, aligner, tokens: GlsclRanker(name, aligner),
}


def choose_ranker(encoder: Encoder) -> str:
    """Name the ranker that a new index gets unless told: a model's own aligner, or what was measured to be better."""
    beside = find_aligner(encoder.name)
    if beside is not None:
        return str(beside)
    return Aligner.kind if encoder.name.removesuffix(WHOLE) == STARTER else NONE


def find_aligner(name: str) -> Path | None:
    """Return the file of the trained aligner that lies beside a model's file; None where there is none."""
    path = Path(name.removesuffix(WHOLE))
    beside = path.with_suffix(BESIDE)
    return beside if path.suffix == ".safetensors" and beside.is_file() else None


def load_ranker(name: str, encoder: Encoder, *, tokens: str = "int8") -> Ranker:
    """Load what orders candidates.

    Args:
        name: ``none`` (the frames that fit best), ``mean`` (of all frames), ``ucofia`` or ``glscl`` (training-free),
            ``auto``, or the file of a trained aligner.
        encoder: Whose embeddings it is for.
        tokens: How UCoFiA's tokens are stored, ``int8`` or ``float16``.

    Raises:
        AlignerError: There is no such aligner, its file cannot be read, or it is for an encoder of another dimension.
    """
    if tokens not in TOKENS:
        raise AlignerError(f"tokens must be {' or '.join(TOKENS)}, got {tokens}")
    if name == AUTO:
        name = choose_ranker(encoder)
    if name in UNTRAINED:
        return UNTRAINED[name](encoder, tokens)
    path = Path(name)
    if not path.is_file():
        raise AlignerError(f"rerank must be {', '.join((AUTO, *UNTRAINED))} or the file of an aligner, got {name}")
    aligner = load_aligner(path)
    if aligner.temporal is not None and (dim := aligner.temporal.positions.shape[1]) != encoder.dim:
        raise AlignerError(f"{path}: the encoder must have {dim} dimensions, got {encoder.name} of {encoder.dim}")
    return TRAINED[aligner.kind](str(path.absolute()), aligner, tokens)


def check_ranker(ranker: Ranker, encoder: Encoder) -> None:
    """Refuse an aligner that cannot read what an encoder gives, before anything is made for the two.

    Raises:
        AlignerError: It was trained, and the encoder does not tell what a trained aligner reads.
    """
    if not ranker.fingerprint:
        return
    side = encoder.resize.crop
    frames = Frames(np.zeros((1, side, side, 3), np.uint8), np.zeros(1))
    embedding = encoder.encode_frames([frames], tokens=ranker.wants_tokens)[0]
    ranker.score(encoder.encode_text([""]), [ranker.pack(embedding)], [embedding.frames])


def _refuse_missing(name: str, packed: Packed) -> None:
    if not all(map(len, packed)):
        raise AlignerError(f"{name}: the index must be made with this aligner, got one that holds none of its tokens")


def _digest(aligner: Aligner | ConceptAligner) -> str:
    """Name what an aligner packs: its kind alone when nothing in it is trained."""
    digest = hashlib.blake2b(aligner.kind.encode(), digest_size=16)
    for name, weight in aligner.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
