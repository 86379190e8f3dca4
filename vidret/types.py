"""Frozen values shared by all rooms: arrays in numpy, times in seconds.

Nothing here imports torch, so that decoding processes start quickly and stay small. Inside an ``nn.Module`` values are
plain tensors; ``Encoder`` and ``Store`` convert.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

Interpolation = Literal["bilinear", "bicubic"]
TextSource = Literal["speech", "screen", "subtitles"]
Source = Literal["picture", "speech", "screen", "subtitles"]
ShotKind = Literal["cut", "fade", "dissolve"]
SOURCES: tuple[Source, ...] = get_args(Source)
TEXT_SOURCES: tuple[TextSource, ...] = get_args(TextSource)
SHOT_KINDS: tuple[ShotKind, ...] = get_args(ShotKind)
Picture = UInt8[np.ndarray, "height width 3"]  # RGB
Vector = Float[np.ndarray, " dim"]
NO_TIME = -(1 << 62)  # an ``mtime_ns`` of this or less is not a time: it marks a content, or is unknown
CANDIDATES = 200  # nearest segments that a search reranks by default
# Text, in which -word and -"some words" are negative terms; an image to look like; or a vector of the encoder's space.
Query = str | Picture | Vector


@dataclass(frozen=True, slots=True)
class Resize:
    """How a frame becomes the input of an encoder: resize the shorter side to ``shorter``, then crop a square.

    The square has side ``crop`` and lies in the centre. With ``squash`` both sides become ``crop`` and the aspect ratio
    is lost, as in SigLIP's training. The decoding processes apply it, so that only small images are sent between
    processes.
    """

    shorter: int
    crop: int
    interpolation: Interpolation = "bicubic"
    squash: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames an encoder sees: segments of ``num_frames`` frames at ``fps`` frames per second.

    With ``whole`` a video is one segment, however long, as in retrieval benchmarks.
    """

    num_frames: int = 12
    fps: float = 1.0
    whole: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decoded frames of one stretch of one video.

    Attributes:
        pixels: RGB, 0..255.
        times: Presentation times in seconds, ascending.
        salvaged: What was lost; empty if every requested frame was read.
    """

    pixels: UInt8[np.ndarray, "frame height width 3"]
    times: Float64[np.ndarray, " frame"]
    salvaged: str = ""

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a video that is encoded as one.

    Attributes:
        video: Id of the video.
        number: Index of the segment in the video.
        start: In seconds.
        end: In seconds.
    """

    video: int
    number: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class ShotChange:
    """Where one shot of a video ends and the next begins.

    Attributes:
        start: In seconds; for a cut, the time of the first frame of the new shot.
        end: In seconds; equal to ``start`` for a cut.
        kind: How the shots are joined.
    """

    start: float
    end: float
    kind: ShotKind


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
    """

    video: Float[np.ndarray, " dim"]
    frames: Float[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]
    tokens: Float[np.ndarray, "token dim"] | None = None
    sizes: Float[np.ndarray, " token"] | None = None
    frame_lengths: Float[np.ndarray, " frame"] | None = None
    token_lengths: Float[np.ndarray, " token"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """The vectors of one text, of unit length.

    Attributes:
        text: The text.
        sentence: The whole text.
        words: Its words, without padding and special tokens.
        states: All states of the text tower from the start to the end token, which is the sentence; not normalized.
            Trained aligners read them. None if the encoder does not provide them.
    """

    text: str
    sentence: Float[np.ndarray, " dim"]
    words: Float[np.ndarray, "word dim"]
    states: Float[np.ndarray, "state dim"] | None = None


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


@dataclass(frozen=True, slots=True, eq=False)
class LayerWords:
    """Raw outputs of the last layers of a text tower for one text, earliest layer first, start to end token."""

    text: str
    layers: Float[np.ndarray, "layer word width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What of a video matches a query.

    Attributes:
        source: Where it was found.
        start: In seconds.
        end: In seconds.
        share: Its share of the score, in 0..1.
        text: The words; empty for a picture.
        matches: Start and end of the matching words in ``text``, in characters.
    """

    source: Source
    start: float
    end: float
    share: float
    text: str = ""
    matches: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        segment: Its best segment.
        time: Time of the best frame in seconds.
        score: Higher is better.
        weak: Whether most unrelated queries score as high in this index.
        copies: Further paths of the same content.
        why: Score of each level that the score is made of, by name, coarse to fine.
        evidence: What matches, best first; empty in an index without words.
    """

    video: int
    path: str
    segment: Segment
    time: float
    score: float
    weak: bool = False
    copies: tuple[str, ...] = field(default=())
    why: Mapping[str, float] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """A span of a video that matches a query.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: In seconds; less than ``end``.
        end: In seconds.
        score: Higher is better. In an index with words, in standard deviations. Otherwise a probability for ``head``;
            for ``curve`` it includes the contrast with the surroundings and only orders moments.
        weak: As in ``Hit``.
        by: ``curve`` (training-free), ``head`` (a trained grounding head) or ``words``.
        similarity: Mean of the curve inside the span; None for ``head``, and for text in an index with words.
        evidence: What matches, best first; empty in an index without words.
    """

    video: int
    path: str
    start: float
    end: float
    score: float
    weak: bool = False
    by: str = "curve"
    similarity: float | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Similarity of a query and every stored frame of one video.

    Attributes:
        scores: Similarities.
        times: Times of the frames in seconds.
        start: Start of the stored part in seconds.
        end: End of the stored part in seconds.
        best: Score of the best segment, as in a search.
        typical: Score that fewer than a quarter of unrelated queries reach in their best video; None for queries
            that are not text.
        gaps: Start and end in seconds of stretches without a new frame, too long to be covered by a segment.
    """

    scores: Float[np.ndarray, " frame"]
    times: Float[np.ndarray, " frame"]
    start: float
    end: float
    best: float
    typical: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Filters:
    """Which videos a search covers; None does not restrict it.

    Attributes:
        folder: A folder that has a file of the video, at any depth.
        min_seconds: Minimum duration.
        max_seconds: Maximum duration.
        after: Earliest modification time of that file, in seconds since 1970.
        before: Its modification time is earlier than this.
    """

    folder: str | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    after: float | None = None
    before: float | None = None


ALL_VIDEOS = Filters()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """Options of one search.

    Attributes:
        k: Maximum number of videos to return.
        rerank: Name of the ranker; ``auto`` for the one that the index was made for, None for the best frames alone.
        filters: Which videos the search covers.
        candidates: Number of nearest segments that are reranked.
        sources: What the query is compared with, in an index that has words; None for everything that it has.
    """

    k: int = 10
    rerank: str | None = "auto"
    filters: Filters = ALL_VIDEOS
    candidates: int = CANDIDATES
    sources: tuple[Source, ...] | None = None


@dataclass(frozen=True, slots=True)
class TimedText:
    """Words that are said or shown in a video.

    Attributes:
        start: In seconds.
        end: In seconds.
        text: The words.
        source: Where they come from.
        confidence: Of the model, in 0..1; 1 for subtitles.
        language: ISO 639-1 code, empty if unknown.
    """

    start: float
    end: float
    text: str
    source: TextSource
    confidence: float = 1.0
    language: str = ""
