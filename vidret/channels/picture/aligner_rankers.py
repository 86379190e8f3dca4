"""Rankers that compute with torch: the mean of all frames, and the aligners, trained or training-free."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vidret.align.batches import collate_segments, collate_texts, move_batch, stack_rows
from vidret.align.glscl import ConceptAligner, ConceptVideos
from vidret.align.prepared import pack_video, unpack_videos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import score_frames
from vidret.channels.picture.ranking import (
    MEAN,
    UCOFIA_WEIGHTS,
    UNTRAINED_TEMPERATURE,
    FrameRanker,
    FrameRows,
    Levels,
    Packed,
)
from vidret.devices import CPU
from vidret.errors import AlignerError
from vidret.layers import pool_frames
from vidret.types import SegmentEmbedding, TextEmbedding


class MeanRanker(FrameRanker):
    """The mean of all frames: the mean pooling baseline of papers."""

    name = MEAN
    weights: Mapping[str, float] = {"segment": 1.0}

    def score(self, texts: Sequence[TextEmbedding], packed: Packed, frames: FrameRows) -> Levels:
        """Score texts against the mean of each segment's frames."""
        rows, mask = stack_rows(frames)
        sentences = torch.from_numpy(np.stack([text.sentence for text in texts])).float()
        best = score_frames(sentences, rows, mask=mask)[1]
        return Levels({"segment": (sentences @ pool_frames(rows, mask).T).numpy()}, best.numpy())


class UcofiaRanker:
    """UCoFiA, trained or training-free: levels for the segment, its frames, and its tokens with the words.

    Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval".
    """

    weights = UCOFIA_WEIGHTS
    wants_tokens = True

    def __init__(self, name: str, aligner: Aligner, *, tokens: str = "int8", device: str = CPU) -> None:
        """Set the aligner, the format of stored tokens, int8 or float16, and the device to compute on."""
        self.name, self._dtype, self._device = name, getattr(torch, tokens), device
        self._aligner = aligner.to(device).eval()
        self.fingerprint = _digest(aligner)
        # Trained: one unit of its logits, as published.
        self.temperature = 1 / float(aligner.logit_scale.detach().exp()) if aligner.trained else UNTRAINED_TEMPERATURE

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

    A trained model may have another pooling instead. Reference: Zhang et al. 2025, "Text-Video Retrieval with
    Global-Local Semantic Consistent Learning".
    """

    wants_tokens = False
    temperature = 0.05

    def __init__(self, name: str, aligner: ConceptAligner, *, device: str = CPU) -> None:
        self.name, self._aligner, self._device = name, aligner.to(device).eval(), device
        self.fingerprint = _digest(aligner)
        self.weights: Mapping[str, float] = {"pooled": 1.0}
        if aligner.finder is not None:
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
