"""The two stages of an indexing run, decoding and encoding, for threads and for Ray."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from vidret.index.options import Pack
from vidret.types import Resize, Sampling, SegmentEmbedding, TextSource
from vidret.video.decode import Decoder
from vidret.video.pool import DecodePool
from vidret.video.sampled_frames import SampledFrames
from vidret.video.streaming import SamplingMode

if TYPE_CHECKING:  # so that decoding processes do not import torch
    from vidret.encode.encoder import Encoder

SEGMENTS_AT_ONCE = 32  # in a batch on an accelerator; on a CPU core, single segments are as fast


def open_decoders(
    num_workers: int,
    resize: Resize,
    sampling: Sampling,
    *,
    decoder: Decoder,
    device: str,
    timeout: float,
    shot_sampling: SamplingMode | None,
    num_threads: int = 1,
) -> DecodePool:
    """Return a pool of processes that decode frames for an encoder with this resizing and sampling."""
    return DecodePool(
        num_workers,
        decoder=decoder,
        device=device,
        resize=resize,
        num_frames=sampling.num_frames,
        fps=sampling.fps,
        whole=sampling.whole,
        shot_sampling=shot_sampling,
        num_threads=num_threads,
        timeout=timeout,
    )


def find_fault(remaining: Iterable[TextSource], *, is_decoding: bool) -> TextSource | None:
    """Return the source of words that was being read when a decoding process failed, None if it read pictures alone.

    Args:
        remaining: The sources that are not finished, in the order in which they are read.
        is_decoding: Whether frames were being decoded, from which on-screen text is read too.
    """
    return next((source for source in remaining if (source == "screen") == is_decoding), None)


def encode_segments(
    encoder: "Encoder", segments: Sequence[SampledFrames], *, pack: Pack | None, tokens: bool, num_layers: int = 0
) -> list[SegmentEmbedding]:
    """Return the embeddings of segments, with token embeddings only if ``pack`` needs them.

    Where the encoder encodes each frame on its own, a picture that several samples share is encoded once. Outputs of
    the last ``num_layers`` layers come from the same pass.
    """
    options: dict[str, Any] = {"tokens": tokens and pack is not None}
    if num_layers:  # only a ``LayeredEncoder`` knows it
        options["num_layers"] = num_layers
    if not getattr(encoder, "encodes_frames_alone", False):
        return encoder.encode_frames([segment.repeat() for segment in segments], **options)
    embeddings = encoder.encode_frames([segment.pictures for segment in segments], **options)
    return [
        embedding if len(segment) == len(segment.pictures) else repeat_frames(embedding, segment.rows, segment.times)
        for embedding, segment in zip(embeddings, segments, strict=True)
    ]


def repeat_frames(
    embedding: SegmentEmbedding, rows: Int64[np.ndarray, " sample"], times: Float64[np.ndarray, " sample"]
) -> SegmentEmbedding:
    """Return the embedding of samples, given that of their different pictures and which of those each sample shows."""

    def repeat(values: np.ndarray | None) -> np.ndarray | None:
        """Repeat the part of each frame."""
        if values is None:
            return None
        by_frame = values.reshape(len(embedding.times), -1, *values.shape[1:])
        repeated: np.ndarray = by_frame[rows].reshape(-1, *values.shape[1:])
        return repeated

    frames = embedding.frames[rows]
    video = frames.mean(axis=0)
    return SegmentEmbedding(
        video=video / np.linalg.norm(video),
        frames=frames,
        times=times,
        tokens=repeat(embedding.tokens),
        sizes=repeat(embedding.sizes),
        frame_lengths=repeat(embedding.frame_lengths),
        token_lengths=repeat(embedding.token_lengths),
        layers=None if embedding.layers is None else replace(embedding.layers.take(rows), times=times),
    )
