"""What an encoder makes of frames and texts."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

EmbeddingLevel = Literal["segment", "frame"]
Vector = Float[np.ndarray, " dim"]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Stored vectors of an index, one row each, in the order of paths and times.

    Attributes:
        paths: Path of the video of each row.
        videos: Its id.
        times: Start and end in seconds; equal for a frame.
        vectors: Unit vectors.
    """

    paths: tuple[str, ...]
    videos: Int64[np.ndarray, " row"]
    times: Float64[np.ndarray, "row 2"]
    vectors: Float32[np.ndarray, "row dim"]


@dataclass(frozen=True, slots=True, eq=False)
class LayerTokens:
    """Raw outputs of the last layers of a vision tower for some frames.

    Attributes:
        layers: One array per layer, earliest first. The first token of a frame is its class token; the number of
            tokens may differ between layers.
        times: Times of the frames in seconds.
        sizes: Number of original tokens that each token stands for, where tokens are merged across frames; else None.
        masks: False where a token is padding; None if there is none.
    """

    layers: tuple[Float[np.ndarray, "frame _token width"], ...]
    times: Float64[np.ndarray, " frame"]
    sizes: tuple[Float[np.ndarray, "frame _token"], ...] | None = None
    masks: tuple[Bool[np.ndarray, "frame _token"], ...] | None = None

    def take(self, rows: Int64[np.ndarray, " row"]) -> "LayerTokens":
        """Return some frames, in the order of ``rows``, with copies of their tokens."""
        return LayerTokens(
            tuple(layer[rows] for layer in self.layers),
            self.times[rows],
            None if self.sizes is None else tuple(sizes[rows] for sizes in self.sizes),
            None if self.masks is None else tuple(masks[rows] for masks in self.masks),
        )


@dataclass(frozen=True, slots=True, eq=False)
class SegmentEmbedding:
    """The vectors of one segment, coarse to fine, all of unit length.

    Attributes:
        video: The whole segment.
        frames: Its frames.
        times: Their times in seconds.
        tokens: Its tokens; None unless requested.
        sizes: Number of original tokens that each token is the mean of.
        frame_lengths: Lengths of the frames before normalization, which trained aligners read; None if the encoder
            does not provide them.
        token_lengths: The same for the tokens.
        layers: Outputs of the last layers of the encoder for the same frames; None unless requested.
    """

    video: Float[np.ndarray, " dim"]
    frames: Float[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]
    tokens: Float[np.ndarray, "token dim"] | None = None
    sizes: Float[np.ndarray, " token"] | None = None
    frame_lengths: Float[np.ndarray, " frame"] | None = None
    token_lengths: Float[np.ndarray, " token"] | None = None
    layers: LayerTokens | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """The vectors of one text, of unit length.

    Attributes:
        text: The text.
        sentence: The whole text.
        words: Its words, without padding and special tokens.
        states: All states of the text tower from the start to the end token, which is the sentence; not normalized.
            Trained aligners read them. None if the encoder does not provide them.
        offset: What inner products with ``sentence`` lack on average to those of a plain text; 0 for plain text.
    """

    text: str
    sentence: Float[np.ndarray, " dim"]
    words: Float[np.ndarray, "word dim"]
    states: Float[np.ndarray, "state dim"] | None = None
    offset: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class LayerWords:
    """Raw outputs of the last layers of a text tower for one text, earliest layer first, start to end token."""

    text: str
    layers: Float[np.ndarray, "layer word width"]
