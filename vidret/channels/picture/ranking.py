"""Rankers: score segments for reranking, by levels, and pack at indexing what that needs of a segment."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError

from vidret.align.batches import collate_segments, collate_texts, move_batch
from vidret.align.files import load_aligner
from vidret.align.glscl import ConceptAligner, ConceptVideos
from vidret.align.packing import pack_video, stack_rows, unpack_videos
from vidret.align.similarity import score_top_frames
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import score_frames
from vidret.align.ucofia_selection import PatchSelector
from vidret.align.ucofia_temporal import pool_frames
from vidret.devices import CPU, cuda_index
from vidret.encode.encoder import Encoder, has_frame_vectors
from vidret.encode.names import STARTER, parse_model_name
from vidret.errors import AlignerError
from vidret.model_files import ALIGNER, read_part_cards
from vidret.types import Frames, SegmentEmbedding, TextEmbedding

NONE = "none"
MEAN = "mean"
AUTO = "auto"
ALIGNER_SUFFIX = ".aligner.safetensors"  # of the aligner that belongs to a model file of the same name
TOKENS = {"int8": torch.int8, "float16": torch.float16}

Packed = Sequence[bytes | memoryview]
FrameRows = Sequence[Float[np.ndarray, "_frame dim"]]


class Levels(NamedTuple):
    """Scores of texts against segments by level, coarse to fine, and the index of each text's best frame in each."""

    scores: dict[str, Float[np.ndarray, "text segment"]]
    best: Int[np.ndarray, "text segment"]


class Ranker(Protocol):
    """Scores segments for texts.

    Attributes:
        name: Argument of ``load_ranker`` that loads it again.
        fingerprint: Hash of the model that packs segments; empty if nothing is packed.
        weights: Mixing weights of the levels.
        temperature: Temperature of SK-norm, in the unit of the levels, about that of cosines.
        wants_tokens: Whether ``pack`` needs the tokens of a segment.
    """

    name: str
    fingerprint: str
    weights: Mapping[str, float]
    temperature: float
    wants_tokens: bool

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return what is stored with a segment for scoring; empty if nothing is."""
        ...

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments, given what was packed and their frame vectors."""
        ...


class FrameRanker:
    """The mean of the best frames. Stores nothing, training-free."""

    name, fingerprint = NONE, ""
    weights: Mapping[str, float] = {"frames": 1.0}
    temperature = 0.05
    wants_tokens = False

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return nothing to store."""
        return b""

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against the best frames of each segment."""
        scores, best = zip(*(score_top_frames(text.sentence, frames) for text in texts), strict=True)
        return Levels({"frames": np.stack(scores)}, np.array(best))


class MeanRanker(FrameRanker):
    """The mean of all frames: the mean pooling baseline of papers."""

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
    """UCoFiA, trained or training-free: levels for the segment, its frames, and its tokens with the words.

    Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval".
    """

    weights: Mapping[str, float] = {"segment": 1 / 3, "frames": 1 / 3, "words": 1 / 3}
    wants_tokens = True

    def __init__(self, name: str, aligner: Aligner, *, tokens: str = "int8", device: str = CPU) -> None:
        """Set the aligner, the format of stored tokens, int8 or float16, and the device to compute on."""
        self.name, self._dtype, self._device = name, TOKENS[tokens], device
        self._aligner = aligner.to(device).eval()
        self.fingerprint = _digest(aligner)
        # Trained: one unit of its logits, as published. Training-free: measured, since cosines spread wider.
        self.temperature = 1 / float(aligner.logit_scale.detach().exp()) if aligner.trained else 0.05

    @torch.no_grad()
    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return the selected tokens and, for a trained aligner, the vector of the segment."""
        segments = collate_segments([embedding], raw=self._aligner.trained)
        prepared = move_batch(self._aligner.prepare(move_batch(segments, self._device)), CPU)
        return pack_video(prepared.packed(self._dtype), whole=self._aligner.trained)

    @torch.no_grad()
    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments; a training-free aligner uses the frames of a segment that has no tokens.

        Raises:
            AlignerError: The aligner is trained, and a segment was not packed with it.
        """
        if self._aligner.trained:
            _check_packed(self.name, packed)
        queries, videos = collate_texts(texts, raw=self._aligner.trained), unpack_videos(packed, frames)
        levels = self._aligner.score(move_batch(queries, self._device), move_batch(videos, self._device))
        levels = move_batch(levels, CPU)
        scale = float(self._aligner.logit_scale.exp())
        scores = {name: (level / scale).numpy() for name, level in zip(self.weights, levels, strict=False)}
        return Levels(scores, levels.best_frame.numpy())


class GlsclRanker:
    """GLSCL, trained or training-free: frames pooled with the sentence as query and, if trained, shared concepts.

    Reference: Zhang et al. 2025, "Text-Video Retrieval with Global-Local Semantic Consistent Learning".
    """

    wants_tokens = False
    temperature = 0.05

    def __init__(self, name: str, aligner: ConceptAligner, *, device: str = CPU) -> None:
        self.name, self._aligner, self._device = name, aligner.to(device).eval(), device
        self.fingerprint = _digest(aligner)
        self.weights: Mapping[str, float] = {"pooled": 1.0}
        if aligner.trained:
            self.weights = {"pooled": 1.0, "concepts": aligner.share}

    @torch.no_grad()
    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return the contextual frames and the concepts of a trained aligner; nothing for a training-free one."""
        if not self._aligner.trained:
            return b""
        segments = move_batch(collate_segments([embedding], raw=True), self._device)
        return move_batch(self._aligner.prepare(segments), CPU).pack()

    @torch.no_grad()
    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments.

        Raises:
            AlignerError: The aligner is trained, and a segment was not packed with it.
        """
        if self._aligner.trained:
            _check_packed(self.name, packed)
        queries, videos = collate_texts(texts, raw=self._aligner.trained), ConceptVideos.unpack(packed, frames)
        output = self._aligner.score(move_batch(queries, self._device), move_batch(videos, self._device))
        output = move_batch(output, CPU)
        scores = dict(zip(self.weights, (output.pooled.numpy(), output.shared.numpy()), strict=False))
        return Levels(scores, output.best_frame.numpy())


def _make_training_free_ucofia(encoder: Encoder, tokens: str) -> Ranker:
    """Return the training-free UCoFiA.

    It selects the starter's regions that differ most from each other, since they are pooled like its frames. CLIP's
    patches are not trained to be compared with text, so it selects those most similar to the class token.
    """
    selector = PatchSelector(apart=parse_model_name(encoder.name).base == STARTER)
    return UcofiaRanker(Aligner.kind, Aligner(selector=selector), tokens=tokens, device=find_device(encoder))


def find_device(encoder: Encoder) -> str:
    """Return where aligners of an encoder compute: on its GPU, where large banks are scored in a fraction of the time.

    Else it is the CPU.
    """
    device = str(getattr(encoder, "device", CPU))
    return CPU if cuda_index(device) is None else device


# Training-free rankers by name, and rankers of trained aligners by the kind of the aligner.
UNTRAINED: Mapping[str, Callable[[Encoder, str], Ranker]] = {
    NONE: lambda encoder, tokens: FrameRanker(),
    MEAN: lambda encoder, tokens: MeanRanker(),
    Aligner.kind: _make_training_free_ucofia,
    ConceptAligner.kind: lambda encoder, tokens: GlsclRanker(
        ConceptAligner.kind, ConceptAligner(), device=find_device(encoder)
    ),
}
TRAINED: Mapping[str, Callable[[str, Any, str, str], Ranker]] = {
    Aligner.kind: lambda name, aligner, tokens, device: UcofiaRanker(name, aligner, tokens=tokens, device=device),
    ConceptAligner.kind: lambda name, aligner, tokens, device: GlsclRanker(name, aligner, device=device),
}


def choose_ranker(encoder: Encoder) -> str:
    """Return the name of the default ranker of a new index: the model's aligner, else the one that measured best."""
    aligner = find_aligner(encoder.name)
    if aligner is not None:
        return str(aligner)
    return Aligner.kind if parse_model_name(encoder.name).base == STARTER else NONE


def find_aligner(name: str) -> Path | None:
    """Return the file of the trained aligner that belongs to a model file: itself, or the one beside it; None if none.

    Raises:
        AlignerError: The file cannot be read.
    """
    path = Path(parse_model_name(name).base)
    if path.suffix != ".safetensors":
        return None
    try:
        if path.is_file() and ALIGNER in read_part_cards(path):
            return path
    except (SafetensorError, OSError) as error:
        raise AlignerError(f"{path}: {error}") from error
    aligner = path.with_suffix(ALIGNER_SUFFIX)
    return aligner if aligner.is_file() else None


def load_ranker(name: str, encoder: Encoder, *, tokens: str = "int8") -> Ranker:
    """Load a ranker.

    Args:
        name: ``none`` (the best frames), ``mean`` (the mean of all frames), ``ucofia`` or ``glscl`` (training-free),
            ``auto`` (see ``choose_ranker``), or the path of a trained aligner.
        encoder: The encoder of the segments.
        tokens: Format of stored tokens of UCoFiA, ``int8`` or ``float16``.

    Raises:
        AlignerError: The name is unknown, the file cannot be read, it is for an encoder of another dimension, or it
            reads vectors of frames, which the encoder does not have.
    """
    if tokens not in TOKENS:
        raise AlignerError(f"tokens must be {' or '.join(TOKENS)}, got {tokens}")
    if name == AUTO:
        name = choose_ranker(encoder)
    if not has_frame_vectors(encoder) and name not in (NONE, MEAN):
        raise AlignerError(
            f"rerank must be none or mean for {encoder.name}, which has one vector a segment, got {name}"
        )
    if name in UNTRAINED:
        return UNTRAINED[name](encoder, tokens)
    path = Path(name)
    if not path.is_file():
        raise AlignerError(f"rerank must be {', '.join((AUTO, *UNTRAINED))} or the file of an aligner, got {name}")
    aligner = load_aligner(path)
    if aligner.temporal is not None and (dim := aligner.temporal.positions.shape[1]) != encoder.dim:
        raise AlignerError(f"{path}: the encoder must have {dim} dimensions, got {encoder.name} of {encoder.dim}")
    return TRAINED[aligner.kind](str(path.absolute()), aligner, tokens, find_device(encoder))


def check_ranker(ranker: Ranker, encoder: Encoder) -> None:
    """Check that a trained aligner can read the embeddings of an encoder, by packing and scoring one black frame.

    Raises:
        AlignerError: It needs raw features that the encoder does not provide.
    """
    if not ranker.fingerprint:
        return
    side = encoder.resize.crop
    frames = Frames(np.zeros((1, side, side, 3), np.uint8), np.zeros(1))
    embedding = encoder.encode_frames([frames], tokens=ranker.wants_tokens)[0]
    ranker.score(encoder.encode_text([""]), [ranker.pack(embedding)], [embedding.frames])


def _check_packed(name: str, packed: Packed) -> None:
    if not all(map(len, packed)):
        raise AlignerError(f"{name}: the index must be made with this aligner, got one without its tokens")


def _digest(aligner: Aligner | ConceptAligner) -> str:
    """Return a hash of the kind and the weights of an aligner."""
    digest = hashlib.blake2b(aligner.kind.encode(), digest_size=16)
    for name, weight in aligner.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
