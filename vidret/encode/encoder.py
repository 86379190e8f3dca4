"""The encoder protocol, functions for all encoders (weight digests, pixel normalisation, a check), and their speed."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from einops import rearrange
from jaxtyping import Float32, Float64, Int64

from vidret.devices import CPU
from vidret.errors import EncoderError
from vidret.types import Frames, LayerTokens, LayerWords, Resize, Sampling, SegmentEmbedding, TextEmbedding

if TYPE_CHECKING:
    import torch


class Encoder(Protocol):
    """A model that encodes frames and texts as unit vectors of one space, in which a dot product is a similarity.

    Attributes:
        name: The name that loads the same encoder again.
        dim: The dimension of its vectors.
        fingerprint: A digest of weights, preprocessing and sampling; only vectors of equal fingerprints are comparable.
        resize: The frame size that ``encode_frames`` expects.
        sampling: How frames are chosen from a video.

    An encoder whose frame vectors do not depend on the other frames of a segment may set ``encodes_frames_alone``, so
    that nearly identical frames are encoded once, and results that show the same footage are folded into one. One that
    has a single vector per segment sets ``has_frame_vectors`` to False and repeats it for every frame. ``scale`` is the
    factor of cosines in its training softmax, 100 if not set; a pair of encoders weighs them by it.
    """

    name: str
    dim: int
    fingerprint: str
    resize: Resize
    sampling: Sampling

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each item as one segment; ``tokens`` adds the vectors of image patches."""

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Encode each text."""


@runtime_checkable
class LayeredEncoder(Encoder, Protocol):
    """An encoder that also returns the outputs of its last layers, for a grounding head."""

    def encode_frames(
        self, batch: Sequence[Frames], *, tokens: bool = False, num_layers: int = 0
    ) -> list[SegmentEmbedding]:
        """Encode each item as one segment; ``num_layers`` adds the outputs of this many last layers."""

    def encode_layers(self, frames: Frames, num_layers: int) -> LayerTokens:
        """Return the last ``num_layers`` layers of a video's frames, encoded ``sampling.num_frames`` at a time."""

    def encode_text_layers(self, texts: Sequence[str], num_layers: int) -> list[LayerWords]:
        """Return the last ``num_layers`` layers of each text."""


def encode_shared_layers(
    encoder: LayeredEncoder,
    pictures: Frames,
    times: Float64[np.ndarray, " sample"],
    rows: Int64[np.ndarray, " sample"],
    num_layers: int,
    *,
    chosen: Int64[np.ndarray, " chosen"],
) -> LayerTokens:
    """Return the layers of the ``chosen`` samples of a segment, encoded as in indexing.

    ``rows`` has the index of each sample's picture among the distinct ones. If the encoder encodes frames
    independently, only the pictures of chosen samples are encoded, each once.
    """
    if not getattr(encoder, "encodes_frames_alone", False):
        return encoder.encode_layers(Frames(pictures.pixels[rows], times), num_layers).take(chosen)
    used, index = np.unique(rows[chosen], return_inverse=True)
    layers = encoder.encode_layers(Frames(pictures.pixels[used], pictures.times[used]), num_layers)
    return replace(layers.take(index), times=times[chosen])


def check_encoder(encoder: Encoder) -> None:
    """Check that an encoder returns valid, different vectors for two different images; damaged weights often do not.

    Raise EncoderError if the vectors are equal, not finite, not of unit length, or not of dimension ``dim``.
    """
    side = encoder.resize.crop
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    images = np.stack([np.broadcast_to(ramp[:, None, None], (side, side, 3)), np.zeros((side, side, 3), np.uint8)])
    images[1, :: max(side // 8, 1), :, 0] = 255
    embeddings = encoder.encode_frames([Frames(image[None], np.zeros(1)) for image in images])
    first, second = (embedding.video for embedding in embeddings)
    if not first.shape == second.shape == (encoder.dim,):
        raise EncoderError(f"{encoder.name} must give vectors of dimension {encoder.dim}, got shape {first.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise EncoderError(f"{encoder.name} must give finite vectors, got NaN or infinity: its weights are damaged")
    for length in (float(np.linalg.norm(first)), float(np.linalg.norm(second))):
        if abs(length - 1) > 1e-3:
            raise EncoderError(f"{encoder.name} must give vectors of length 1, got {length:.4g}")
    if float(first @ second) > 0.9999:
        raise EncoderError(
            f"{encoder.name} must give different images different vectors, got the same one: its weights are damaged"
        )


def has_frame_vectors(encoder: Encoder) -> bool:
    """Return whether an encoder has a vector per frame; a video-native one has one per segment."""
    return bool(getattr(encoder, "has_frame_vectors", True))


def encode_each_frame(
    batch: Sequence[Frames], size: int, encode: "Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]"
) -> list[SegmentEmbedding]:
    """Return the embeddings of segments whose frames are encoded independently, in chunks of ``size`` across segments.

    ``encode`` turns pixels (frame, height, width, 3) into unit vectors of frames (frame, dim), and of their patches
    (frame, patch, dim) or None, all on the CPU.
    """
    import torch

    pixels = torch.from_numpy(np.concatenate([frames.pixels for frames in batch]))
    vectors, patches = zip(*map(encode, torch.split(pixels, size)), strict=True)
    rows, tokens = torch.cat(vectors).numpy(), None if patches[0] is None else torch.cat(patches).numpy()
    embeddings, end = [], 0
    for frames in batch:
        frame_rows = slice(end, end := end + len(frames))
        flat = None if tokens is None else rearrange(tokens[frame_rows], "frame patch dim -> (frame patch) dim")
        embeddings.append(SegmentEmbedding(average_units(rows[frame_rows]), rows[frame_rows], frames.times, flat))
    return embeddings


def embed_whole(vector: Float32[np.ndarray, " dim"], times: Float64[np.ndarray, " frame"]) -> SegmentEmbedding:
    """Return the embedding of a segment with only one vector, which is used for each of its frames."""
    return SegmentEmbedding(vector, np.tile(vector, (len(times), 1)), times)


def average_units(units: Float32[np.ndarray, "row dim"]) -> Float32[np.ndarray, " dim"]:
    """Return the mean of vectors, scaled to unit length."""
    mean = units.mean(axis=0)
    unit: Float32[np.ndarray, " dim"] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return unit


def digest_weights(named: "Iterable[tuple[str, torch.Tensor]]", *facts: object) -> str:
    """Return a hex digest of the names, shapes and sampled values of all weights, and of ``facts``.

    An even sample of values keeps this fast; any training step changes nearly every value.
    """
    import torch

    digest = hashlib.blake2b(repr(facts).encode(), digest_size=16)
    for name, weight in named:
        flat = weight.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 1024)].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def normalise_pixels(
    pixels: "torch.Tensor", mean: Sequence[float], std: Sequence[float], dtype: "torch.dtype"
) -> "torch.Tensor":
    """Normalise uint8 pixels (frame, height, width, 3) to (frame, 3, height, width) of ``dtype``.

    ``mean`` and ``std`` are per channel, on the scale 0..1.
    """
    import torch

    centre, spread = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (mean, std))
    images = (
        pixels.permute(0, 3, 1, 2).contiguous().float()
    )  # channels first before the arithmetic, which is slow on rows of three
    return images.mul_(1 / (255 * spread)).add_(-centre / spread).to(dtype)


BYTES_PER_VALUE = 2  # vectors are stored as float16
REPEATS = 3  # runs; the fastest counts
QUERY = "two people walk a dog along a beach at sunset"
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodingSpeed:
    """The speed of an encoder: CPU time of all threads on a CPU, which other load hardly affects, else wall time.

    Attributes:
        frame_ms: Milliseconds to encode a frame, in a batch of one segment.
        query_ms: Milliseconds to encode a query.
        mb_per_hour: Size in MB of the vectors of an hour of video, without tokens, if every frame differs.
        device: The device of the measurement.
    """

    frame_ms: float
    query_ms: float
    mb_per_hour: float
    device: str


def measure_speed(encoder: Encoder) -> EncodingSpeed:
    """Measure an encoder on random frames and queries; the fastest of several runs counts, after a warm-up run.

    Each run has another query, since encoders may cache the last ones.
    """
    sampling, side, random = encoder.sampling, encoder.resize.crop, np.random.default_rng()
    pixels = random.integers(0, 256, (sampling.num_frames, side, side, 3), dtype=np.uint8)
    frames = Frames(pixels, np.arange(sampling.num_frames) / sampling.fps)
    device = str(getattr(encoder, "device", CPU))
    clock = time.process_time if device == CPU else time.perf_counter
    frame_s = _time(lambda: encoder.encode_frames([frames]), clock) / sampling.num_frames
    segments = sampling.fps / sampling.num_frames
    return EncodingSpeed(
        frame_ms=1000 * frame_s,
        query_ms=1000 * _time(lambda: encoder.encode_text([f"{QUERY} {random.integers(10**6)}"]), clock),
        mb_per_hour=SECONDS_PER_HOUR * (sampling.fps + segments) * encoder.dim * BYTES_PER_VALUE / 1e6,
        device=device,
    )


def _time(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest run; encoders return arrays, so that no work is left on a device."""
    run()
    seconds = []
    for _ in range(REPEATS):
        started = clock()
        run()
        seconds.append(clock() - started)
    return min(seconds)
