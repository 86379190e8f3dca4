"""Rankers by their names: the default of an encoder, the training-free ones, and those of trained aligners."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from vidret.align.ucofia_query import score_queries
from vidret.channels.picture.query_bank import find_model_parts
from vidret.channels.picture.ranking import (
    AUTO,
    MEAN,
    NONE,
    UCOFIA_WEIGHTS,
    UNTRAINED_TEMPERATURE,
    FrameRanker,
    FrameRows,
    Levels,
    Packed,
    Ranker,
)
from vidret.devices import CPU, cuda_index
from vidret.encode.encoder import Encoder, has_frame_vectors
from vidret.encode.names import STARTER, parse_model_name
from vidret.errors import AlignerError
from vidret.model_files import ALIGNER
from vidret.types import RERANKERS, Frames, SegmentEmbedding, TextEmbedding

ALIGNER_SUFFIX = ".aligner.safetensors"  # of the aligner that belongs to a model file of the same name
TOKENS = ("int8", "float16")  # the names of their types in NumPy and in torch
UCOFIA, GLSCL = "ucofia", "glscl"
FEW = 4  # texts, such as a query and its negative terms
UNTRAINED_UCOFIA = "76b32f5a5f75e7c2c064d41366d0376f"  # its fingerprint; the scale is its only weight


class QueryUcofia:
    """The training-free UCoFiA; a few texts, such as those of a search, are scored on the CPU without torch.

    Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval".
    """

    name, fingerprint = UCOFIA, UNTRAINED_UCOFIA
    weights, temperature = UCOFIA_WEIGHTS, UNTRAINED_TEMPERATURE
    wants_tokens = True

    def __init__(self, *, tokens: str, device: str, apart: bool) -> None:
        """Set the format of stored tokens, the device, and whether diverse patches are selected (``apart``)."""
        self._tokens, self._device, self._apart = tokens, device, apart

    @cached_property
    def _on_torch(self) -> Ranker:
        from vidret.align.ucofia import Aligner
        from vidret.align.ucofia_selection import PatchSelector
        from vidret.channels.picture.aligner_rankers import UcofiaRanker

        aligner = Aligner(selector=PatchSelector(apart=self._apart))
        return UcofiaRanker(self.name, aligner, tokens=self._tokens, device=self._device)

    def pack(self, embedding: SegmentEmbedding) -> bytes:
        """Return the selected tokens."""
        return self._on_torch.pack(embedding)

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against segments, of which those without tokens are scored by their frames."""
        if len(texts) > FEW or self._device != CPU:
            return self._on_torch.score(texts, packed, frames)
        *levels, best = map(np.stack, zip(*score_queries(texts, packed, frames), strict=True))
        return Levels(dict(zip(self.weights, levels, strict=True)), best)


def find_device(encoder: Encoder) -> str:
    """Return the device of an encoder's aligners: its GPU, which scores large banks far faster, else the CPU."""
    device = str(getattr(encoder, "device", CPU))
    return CPU if cuda_index(device) is None else device


def make_untrained(name: str, encoder: Encoder, tokens: str) -> Ranker:
    """Return a training-free ranker by its name."""
    if name == NONE:
        return FrameRanker()
    if name == UCOFIA:
        # For the starter, the most diverse regions are selected, since they are pooled like its frames. For CLIP, whose
        # patches are not trained to be compared with text, those most similar to the class token are.
        is_apart = parse_model_name(encoder.name).base == STARTER
        return QueryUcofia(tokens=tokens, device=find_device(encoder), apart=is_apart)
    from vidret.align.glscl import ConceptAligner
    from vidret.channels.picture.aligner_rankers import GlsclRanker, MeanRanker

    assert name in (MEAN, GLSCL), f"there must be a case for {name}, got none"
    return MeanRanker() if name == MEAN else GlsclRanker(GLSCL, ConceptAligner(), device=find_device(encoder))


def load_trained(path: Path, encoder: Encoder, tokens: str) -> Ranker:
    """Load the ranker of a trained aligner; see ``load_ranker``."""
    from vidret.align.files import load_aligner, read_dim
    from vidret.align.ucofia import Aligner
    from vidret.channels.picture.aligner_rankers import GlsclRanker, UcofiaRanker

    aligner, name, device = load_aligner(path), str(path.absolute()), find_device(encoder)
    if (dim := read_dim(aligner.state_dict()) or encoder.dim) != encoder.dim:
        raise AlignerError(f"{path}: the encoder must have {dim} dimensions, got {encoder.name} of {encoder.dim}")
    if isinstance(aligner, Aligner):
        return UcofiaRanker(name, aligner, tokens=tokens, device=device)
    return GlsclRanker(name, aligner, device=device)


def choose_ranker(encoder: Encoder) -> str:
    """Return the name of the default ranker of a new index: the model's aligner, else the best one measured."""
    aligner = find_aligner(encoder.name)
    if aligner is not None:
        return str(aligner)
    return UCOFIA if parse_model_name(encoder.name).base == STARTER else NONE


def find_aligner(name: str) -> Path | None:
    """Return the file of the trained aligner that belongs to a model file: itself, or the one beside it; None if none.

    Raises:
        VidretError: The file cannot be read.
    """
    path, parts = find_model_parts(name)
    if ALIGNER in parts:
        return path
    aligner = path.with_suffix(ALIGNER_SUFFIX)
    return aligner if path.suffix == ".safetensors" and aligner.is_file() else None


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
            f"rerank must be none or mean for {encoder.name}, which has one vector per segment, got {name}"
        )
    if name in RERANKERS:
        return make_untrained(name, encoder, tokens)
    if not isinstance(name, str | os.PathLike) or not Path(name).is_file():
        raise AlignerError(f"rerank must be {', '.join((AUTO, *RERANKERS))} or the file of an aligner, got {name}")
    return load_trained(Path(name), encoder, tokens)


def check_ranker(ranker: Ranker, encoder: Encoder) -> None:
    """Check that a trained aligner can read the embeddings of an encoder, by packing and scoring one black frame.

    Training-free rankers read those of any encoder. The check loads the text encoder, which takes time and memory.

    Raises:
        AlignerError: It needs raw features that the encoder does not provide.
    """
    if ranker.name in RERANKERS:
        return
    side = encoder.resize.crop
    frames = Frames(np.zeros((1, side, side, 3), np.uint8), np.zeros(1))
    embedding = encoder.encode_frames([frames], tokens=ranker.wants_tokens)[0]
    ranker.score(encoder.encode_text([""]), [ranker.pack(embedding)], [embedding.frames])
