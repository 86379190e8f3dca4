"""What is in a video: frames, segments, shots, and texts with their times."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from jaxtyping import Float64, UInt8

from vidret.types.rows import Shown, show_property

Interpolation = Literal["bilinear", "bicubic"]
TextSource = Literal["speech", "screen", "subtitles", "generated"]  # the last one are descriptions by a model
Source = Literal["picture", TextSource]
ShotKind = Literal["cut", "fade", "dissolve"]
SOURCES: tuple[Source, ...] = get_args(Source)
TEXT_SOURCES: tuple[TextSource, ...] = get_args(TextSource)
SHOT_KINDS: tuple[ShotKind, ...] = get_args(ShotKind)
Picture = UInt8[np.ndarray, "height width 3"]  # RGB
NO_TIME = -(1 << 62)  # an ``mtime_ns`` of this or less is not a time: it marks a content, or is unknown


@dataclass(frozen=True, slots=True)
class Resize:
    """How a frame becomes the input of an encoder: resize the shorter side to ``shorter``, then crop a square.

    The square has side ``crop`` and lies in the centre. With ``squash`` both sides become ``shorter`` and the aspect
    ratio is lost, as in SigLIP's training. The decoding processes apply it, so that only small images are sent between
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
    number: Annotated[int, Shown(example=2)]
    start: Annotated[float, Shown(told=True, digits=2, example=24.0)]
    end: Annotated[float, Shown(told=True, digits=2, example=36.0)]


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


@dataclass(frozen=True, slots=True)
class Shot:
    """A stretch of a video between two shot changes; gradual changes belong to neither shot.

    Attributes:
        start: In seconds.
        end: In seconds.
        begins_with: The change that it begins with; None for a shot that begins with the video.
    """

    start: Annotated[float, Shown(told=True, column=1, digits=2, example=12.48)]
    end: Annotated[float, Shown(told=True, column=2, digits=2, example=15.0)]
    begins_with: Annotated[ShotKind | None, Shown(column=4, example="cut")]

    @property
    @show_property(Shown(everywhere=False, column=3))
    def length(self) -> float:
        """Its duration in seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class TimedText:
    """Words that are said or shown in a video, or that a model generated to describe it.

    Attributes:
        start: In seconds.
        end: In seconds.
        text: The words.
        source: Where they come from.
        confidence: Of the model, in 0..1; 1 for subtitles.
        language: ISO 639-1 code, empty if unknown.
    """

    start: Annotated[float, Shown(told=True, digits=2, example=12.5)]
    end: Annotated[float, Shown(told=True, digits=2, example=15.0)]
    text: Annotated[str, Shown(told=True, limit=600, example="Welcome to the beach.")]
    source: Annotated[TextSource, Shown(told=True)]
    confidence: Annotated[float, Shown(example=0.9)] = 1.0
    language: Annotated[str, Shown(example="en")] = ""
