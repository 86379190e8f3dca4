"""Types with arrays: frames, vectors, curves, and queries by image. The other types load without NumPy."""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Float64, Int16, Int64, UInt8

from vidret.types.queries import ConceptExample, Sequence
from vidret.types.results import CurveText, Hit, Moment

Picture = UInt8[np.ndarray, "height width 3"]  # RGB
Vector = Float[np.ndarray, " dim"]

HALF_BITS = np.int32(-0x70002000)  # the bits of a float16, moved to their positions in a float32
HALF_SCALE = np.float32(2.0**112)  # corrects for the difference of the exponent biases


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComposedQuery:
    """A query by images, with words that describe how the target differs from them.

    Attributes:
        images: One or more images.
        text: Words that it also matches; ``-word`` and ``-"some words"`` are negative terms. May be empty.
        verbatim: Whether the words are encoded as they are written, as papers do: none of them is a negative term.
    """

    images: tuple[Picture, ...]
    text: str = ""
    verbatim: bool = False


Query = str | Sequence | Picture | Vector | ComposedQuery
"""Text, in which -word and -"some words" are negative terms and @name is a taught concept; events in order; an image to
look like; images with words; or a vector of the encoder's space."""
QUERY_RULE = "query must be text, events, an image, images with words or a vector"


def list_query_texts(query: Query) -> list[str]:
    """Return the texts of a query: its words, its events, or the words with its images; empty for other queries."""
    if isinstance(query, Sequence):
        return [text for event in query.events for text in ([event] if isinstance(event, str) else event)]
    if isinstance(query, ComposedQuery):
        return [query.text]
    return [query] if isinstance(query, str) else []


# An example, or a value that is converted to one: the path of an image or an indexed video, an image, a result.
ExampleLike = ConceptExample | Hit | Moment | Picture | str | os.PathLike[str]


def as_example(example: ExampleLike) -> ConceptExample:
    """Return a value as a ``ConceptExample``; a hit is converted to its best segment."""
    if isinstance(example, ConceptExample):
        return example
    if isinstance(example, Hit):
        return ConceptExample(path=example.path, start=example.segment.start, end=example.segment.end)
    if isinstance(example, Moment):
        return ConceptExample(path=example.path, start=example.start, end=example.end)
    if isinstance(example, str | os.PathLike):
        return ConceptExample(path=os.fspath(example))
    return ConceptExample(path="an image", image=example)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decoded frames of one span of one video.

    Attributes:
        pixels: RGB, 0..255.
        times: Presentation times in seconds, ascending.
        salvaged: What could not be read, such as ``5 of 6 frames could be read: truncated``; empty if all was read.
        sound: Mono samples at the ``sound_rate`` of the encoder's sampling; None if there is no sound, or none was
            requested.
    """

    pixels: UInt8[np.ndarray, "frame height width 3"]
    times: Float64[np.ndarray, " frame"]
    salvaged: str = ""
    sound: Int16[np.ndarray, " sample"] | None = None

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SoundWindows:
    """Windows of audio.

    Attributes:
        starts: Start of each window in seconds.
        ends: End of each window in seconds.
        vectors: Vector of each window.
    """

    starts: Float64[np.ndarray, " window"]
    ends: Float64[np.ndarray, " window"]
    vectors: Float16[np.ndarray, "window dim"]

    def __len__(self) -> int:
        return len(self.starts)


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Stored vectors of an index, one row each, in the order of paths and times.

    Attributes:
        paths: Path of the video of each row.
        videos: Id of the video of each row.
        times: Start and end of each row in seconds; equal for a frame.
        vectors: Vector of each row, of unit length.
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
        sizes: Number of original tokens that each token stands for; None if no tokens are merged across frames.
        masks: False where a token is padding; None without padding.
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
        video: Vector of the whole segment.
        frames: Vector of each frame.
        times: Time of each frame in seconds.
        tokens: Vector of each token; None unless requested.
        sizes: Number of original tokens that each token is the mean of; None if tokens are not merged.
        frame_lengths: Lengths of the frame vectors before normalization, which trained aligners read; None if the
            encoder does not provide them.
        token_lengths: Lengths of the token vectors before normalization; None if the encoder does not provide them.
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
        sentence: Vector of the whole text.
        words: Vector of each word, without padding and special tokens.
        states: All states of the text tower, from the start token to the end token, which is the sentence; not
            normalized. Trained aligners read them. None if the encoder does not provide them.
        offset: Amount by which inner products with ``sentence`` are lower on average than those of a plain text; 0 for
            plain text.
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


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Similarity of a query to every stored frame of one video, and the texts that match it.

    Attributes:
        scores: Similarity of each frame to the query.
        times: Time of each frame in seconds.
        start: Start of the stored part of the video in seconds.
        end: End of the stored part of the video in seconds.
        best: Similarity of the best segment.
        typical: Similarity that few unrelated queries reach in a segment; None for queries that are not text.
        gaps: Start and end in seconds of spans that no segment covers, since the video shows no new frame there.
        cuts: Times in seconds at which a new shot begins, ascending; empty if shots are not known.
        texts: Matching texts, by time; empty for queries that are not text.
    """

    scores: Float[np.ndarray, " frame"]
    times: Float[np.ndarray, " frame"]
    start: float
    end: float
    best: float
    typical: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()
    cuts: tuple[float, ...] = ()
    texts: tuple[CurveText, ...] = ()


def widen_rows(vectors: Float[np.ndarray, "*any"]) -> Float32[np.ndarray, "*any"]:
    """Convert finite float16 vectors to float32 by their bits, in a sixth of the time of NumPy.

    Other types are converted by NumPy.
    """
    if vectors.dtype != np.float16:
        return vectors.astype(np.float32, copy=False)
    bits = np.ascontiguousarray(vectors).view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= HALF_BITS
    widened: np.ndarray = bits.view(np.float32)
    widened *= HALF_SCALE
    return widened
