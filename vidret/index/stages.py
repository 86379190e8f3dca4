"""The two stages of an indexing run, decoding and encoding, for threads and for Ray."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vidret.index.options import Pack
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding
from vidret.video.decode import Decoder
from vidret.video.pool import DecodePool

if TYPE_CHECKING:  # so that decoding processes do not import torch
    from vidret.encode.encoder import Encoder

SEGMENTS_AT_ONCE = 32  # in a batch on an accelerator; on a CPU core, single segments are as fast


def open_decoders(
    num_workers: int, resize: Resize, sampling: Sampling, *, decoder: Decoder, device: str, timeout: float
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
        timeout=timeout,
    )


def encode_segments(
    encoder: "Encoder", segments: Sequence[Frames], *, pack: Pack | None, tokens: bool
) -> list[SegmentEmbedding]:
    """Return the embeddings of segments, with token embeddings only if ``pack`` needs them."""
    return encoder.encode_frames(segments, tokens=tokens and pack is not None)
