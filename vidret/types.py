"""The nouns that travel between rooms: frozen values, arrays in numpy, times in seconds.

Inside an ``nn.Module`` plain tensors travel; the doors (``Encoder``, ``Store``) are where one becomes the other.
Nothing here imports torch, so that decoding processes start quickly and stay small.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

Interpolation = Literal["bilinear", "bicubic"]
Picture = UInt8[np.ndarray, "height width 3"]  # RGB
Vector = Float[np.ndarray, " dim"]
NO_TIME = -(1 << 62)  # an ``mtime_ns`` of this or less is no time: it marks a content, or says nothing
# Words, in which -word and -"some words" must not fit; what a video should look like; or a vector of the encoder's.
Query = str | Picture | Vector


@dataclass(frozen=True, slots=True)
class Resize:
    """How a frame becomes an encoder's picture: the shorter side to ``shorter``, then the central ``crop`` square.

    With ``squash`` both sides become ``crop`` and the shape of the picture is lost, as SigLIP's training did.

    A value of the encoder that the decoding processes apply, so that only small pictures travel between processes.
    """

    shorter: int
    crop: int
    interpolation: Interpolation = "bicubic"
    squash: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many frames of a video an encoder looks at: segments of ``num_frames`` frames at ``fps`` frames a second.

    With ``whole`` a video is one segment, however long: what benchmarks of retrieval do.
    """

    num_frames: int = 12
    fps: float = 1.0
    whole: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decoded frames of one stretch of one video.

    ``pixels`` is RGB in 0..255; ``times`` are presentation times in seconds, rising; ``salvaged`` is empty when every
    frame asked for was read, else it says what was lost.
    """

    pixels: UInt8[np.ndarray, "frame height width 3"]
    times: Float64[np.ndarray, " frame"]
    salvaged: str = ""

    def __len__(self) -> int:
        """Count the frames."""
        return len(self.times)


@dataclass(frozen=True, slots=True)
class Segment:
    """The stretch of a video that is encoded as one: the ``number``-th, ``start`` to ``end`` in seconds."""

    video: int
    number: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class SegmentEmbedding:
    """One segment's vectors, coarse to fine; all of unit length.

    ``tokens`` is None unless they were asked for; ``sizes`` says of how many original ones each is the mean. The
    lengths are what frames and tokens had before they were scaled: trained aligners read that; None where an encoder
    has none to tell.
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
    """One text's vectors, of unit length: the whole sentence, and its words with padding and markers already gone.

    ``states`` are what a trained aligner reads: all of a text tower's states from start to end token, the last of them
    the sentence, not scaled to unit length; None where an encoder has none.
    """

    text: str
    sentence: Float[np.ndarray, " dim"]
    words: Float[np.ndarray, "word dim"]
    states: Float[np.ndarray, "state dim"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LayerTokens:
    """What the last layers of a vision tower hold of frames: raw, earliest first, so that -1 is the last layer.

    In each layer every frame has its own class token first, then the others that it sees; their number may differ by
    layer. Where tokens merge, frames share them: ``sizes`` then says how many original tokens each stands for, and
    ``masks`` (True = real) which are padding. Both are None when each token is one and real.
    """

    layers: tuple[Float[np.ndarray, "frame token width"], ...]
    times: Float64[np.ndarray, " frame"]
    sizes: tuple[Float[np.ndarray, "frame token"], ...] | None = None
    masks: tuple[Bool[np.ndarray, "frame token"], ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LayerWords:
    """What the last layers of a text tower hold of one text: raw, earliest first, from start token to end token."""

    text: str
    layers: Float[np.ndarray, "layer word width"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A video that answers a query: its best segment, the time of its best frame, the score (higher is better).

    ``weak`` says that most unrelated queries score as high in this index. ``copies`` are further paths of the content.
    ``why`` gives the score of each level that the score is made of, by name, coarse to fine.
    """

    video: int
    path: str
    segment: Segment
    time: float
    score: float
    weak: bool = False
    copies: tuple[str, ...] = field(default=())
    why: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of a video that answers a query: ``start`` < ``end`` in seconds, score (higher is better).

    ``by`` says who found it: ``curve`` (no training) or ``head`` (a trained one, whose score is a probability). The
    score of a curve's moment counts its contrast with what is around it, and orders moments. ``similarity`` is the mean
    of the curve inside; None where a head found it.
    """

    video: int
    path: str
    start: float
    end: float
    score: float
    weak: bool = False
    by: str = "curve"
    similarity: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A query's similarity with every stored frame of one video, which is stored from ``start`` to ``end``.

    ``best`` is the score of its best segment, as a search gives it; ``typical`` the score that fewer than a quarter of
    unrelated queries reach in their best video, None where that is not known: of queries without words. ``gaps`` are
    the stretches, from one time to the other in seconds, in which the video shows no new frame for so long that no
    segment is of them.
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
    """Which videos a search is about; None asks for nothing.

    ``folder`` holds a file of the video, at any depth, ``min_seconds`` and ``max_seconds`` bound its duration, and that
    file was changed at ``after`` or later and before ``before``, in seconds since 1970.
    """

    folder: str | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    after: float | None = None
    before: float | None = None


ALL_VIDEOS = Filters()


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One search of several that are answered together; see ``Engine.search`` for what each means."""

    query: Query
    k: int = 10
    rerank: str | None = "auto"
    filters: Filters = ALL_VIDEOS
    candidates: int = 200
