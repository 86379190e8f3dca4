"""The contents of a video: segments, shots and timed texts; and the sampling and resizing of its frames."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from vidret.types.rows import Shown, show_property

Interpolation = Literal["bilinear", "bicubic"]
# ``generated`` means descriptions by a model.
TextSource = Literal["speech", "screen", "subtitles", "generated", "sound"]
Source = Literal["picture", TextSource]
ShotKind = Literal["cut", "fade", "dissolve"]
EmbeddingLevel = Literal["segment", "frame"]
SOURCES: tuple[Source, ...] = get_args(Source)
TEXT_SOURCES: tuple[TextSource, ...] = get_args(TextSource)
SOURCE_LABELS: Mapping[Source, str] = {  # labels for people
    "picture": "seen",
    "speech": "said",
    "screen": "on screen",
    "subtitles": "subtitle",
    "generated": "generated description",
    "sound": "heard",
}
SHOT_KINDS: tuple[ShotKind, ...] = get_args(ShotKind)
FrameRule = Literal["seconds", "clip4clip", "tempme", "segments", "mmeb", "mteb"]  # see ``Sampling``
FRAME_RULES: tuple[FrameRule, ...] = get_args(FrameRule)
NO_TIME = -(1 << 62)  # an ``mtime_ns`` up to this is not a time: it marks a content, or is unknown


def list_settings(settings: Any, always: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, and those named in ``always``."""
    return {
        field.name: getattr(settings, field.name)
        for field in fields(settings)
        if field.name in always or getattr(settings, field.name) != field.default
    }


@dataclass(frozen=True, slots=True, repr=False)
class Resize:
    """The resizing of frames for an encoder: the shorter side to ``shorter``, then a crop to a square.

    The square has side ``crop`` and is in the centre. With ``squash`` both sides become ``shorter`` and the aspect
    ratio is lost, as in SigLIP's training. With ``multiple`` the aspect ratio stays and nothing is cropped: both sides
    become multiples of it, near those of the frame, with a product from ``min_pixels`` to ``max_pixels``; ``crop`` is
    then the side of a square frame at most. Workers apply it, so that only small images are sent between processes.
    """

    shorter: int
    crop: int
    interpolation: Interpolation = "bicubic"
    squash: bool = False
    multiple: int = 0
    min_pixels: int = 0
    max_pixels: int = 0

    def __repr__(self) -> str:
        """Return the first four fields, and others if set. Fingerprints of encoders depend on this text."""
        always = ("shorter", "crop", "interpolation", "squash")
        return f"Resize({', '.join(f'{name}={value!r}' for name, value in list_settings(self, always).items())})"


@dataclass(frozen=True, slots=True, repr=False)
class Sampling:
    """The choice of frames for an encoder: segments of ``num_frames`` frames at ``fps`` frames per second.

    Attributes:
        num_frames: Frames of a segment, at most or exactly.
        fps: Frames per second.
        whole: Whether a video is one segment, however long, as in retrieval benchmarks.
        rule: Which frames of a whole video. ``seconds`` takes the frame closest to the start of every ``1 / fps``
            seconds, and thins them to ``num_frames``. The others count frames: ``clip4clip`` takes one per second,
            thinned likewise, so that a short video has fewer; ``tempme`` spreads ``num_frames`` over a short video;
            ``segments`` takes equally many from each of ``num_segments`` equal parts (Prompt Switch); ``mmeb`` spreads
            ``num_frames`` over all, and ``mteb`` takes every n-th, which may leave out the end of a long video.
        num_segments: Parts of a video, for ``segments``.
        until_s: Where a whole video ends; None for its own end.
        sound_rate: Samples per second of the sound that the encoder hears with a segment; 0 if it hears none.
    """

    num_frames: int = 12
    fps: float = 1.0
    whole: bool = False
    rule: FrameRule = "seconds"
    num_segments: int = 6
    until_s: float | None = None
    sound_rate: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, without those added in later versions if they have their defaults."""
        return list_settings(self, always=("num_frames", "fps", "whole"))

    def __repr__(self) -> str:
        """Return the fields of ``to_dict``. Fingerprints of encoders depend on this text."""
        return f"Sampling({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"


@dataclass(frozen=True, slots=True)
class Segment:
    """A span of a video that is encoded as a whole.

    Attributes:
        video: Id of the video.
        number: Index of the segment in the video, from 0.
        start: Start in seconds.
        end: End in seconds.
    """

    video: int
    number: Annotated[int, Shown(example=2)]
    start: Annotated[float, Shown(mcp=True, digits=2, example=24.0)]
    end: Annotated[float, Shown(mcp=True, digits=2, example=36.0)]


@dataclass(frozen=True, slots=True)
class ShotChange:
    """The boundary between two shots of a video: a cut or a gradual change.

    Attributes:
        start: Start in seconds; for a cut, the time of the first frame of the new shot.
        end: End in seconds; equal to ``start`` for a cut.
        kind: How the shots are joined.
    """

    start: float
    end: float
    kind: ShotKind


@dataclass(frozen=True, slots=True)
class Shot:
    """A span of a video between two shot changes; gradual changes belong to neither shot.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        begins_with: The change before the shot; None for the first shot of a video.
    """

    start: Annotated[float, Shown(mcp=True, column=1, digits=2, example=12.48)]
    end: Annotated[float, Shown(mcp=True, column=2, digits=2, example=15.0)]
    begins_with: Annotated[ShotKind | None, Shown(column=4, example="cut")]

    @property
    @show_property(Shown(everywhere=False, column=3))
    def length(self) -> float:
        """The duration in seconds."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class TimedText:
    """Words that are said or shown in a video, or that a model generated to describe it.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        text: The words.
        source: The source of the words.
        confidence: Confidence of the model that read them, from 0 to 1; 1 for subtitles.
        language: ISO 639-1 code of the language; empty if unknown.
        speaker: Name of the speaker; empty if unknown.
    """

    start: Annotated[float, Shown(mcp=True, digits=2, example=12.5)]
    end: Annotated[float, Shown(mcp=True, digits=2, example=15.0)]
    text: Annotated[str, Shown(mcp=True, limit=600, example="Welcome to the beach.")]
    source: Annotated[TextSource, Shown(mcp=True)]
    confidence: Annotated[float, Shown(example=0.9)] = 1.0
    language: Annotated[str, Shown(example="en")] = ""
    speaker: Annotated[str, Shown(mcp=True, example="Anna")] = ""
