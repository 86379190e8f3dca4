"""The nouns that travel between rooms: frozen values, arrays in numpy, times in seconds.

Inside an ``nn.Module`` plain tensors travel; the doors (``Encoder``, ``Store``) are where one becomes the other.
Nothing here imports torch, so that decoding processes start quickly and stay small.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, UInt8

Interpolation = Literal["bilinear", "bicubic"]


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
    """How many frames of a video an encoder looks at: segments of ``num_frames`` frames at ``fps`` frames a second."""

    num_frames: int = 12
    fps: float = 1.0


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

    ``tokens`` is None unless they were asked for; ``sizes`` says of how many original ones each is the mean.
    """

    video: Float[np.ndarray, " dim"]
    frames: Float[np.ndarray, "frame dim"]
    times: Float64[np.ndarray, " frame"]
    tokens: Float[np.ndarray, "token dim"] | None = None
    sizes: Float[np.ndarray, " token"] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TextEmbedding:
    """One text's vectors, of unit length: the whole sentence, and its words with the padding already gone."""

    text: str
    sentence: Float[np.ndarray, " dim"]
    words: Float[np.ndarray, "word dim"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A video that answers a query: its best segment, the time of its best frame, the score (higher is better).

    ``weak`` says that most unrelated queries score as high in this index. ``copies`` are further paths of the content.
    """

    video: int
    path: str
    segment: Segment
    time: float
    score: float
    weak: bool = False
    copies: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of a video that answers a query: ``start`` < ``end`` in seconds, score (higher is better)."""

    video: int
    path: str
    start: float
    end: float
    score: float
    weak: bool = False
