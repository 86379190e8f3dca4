"""The definition of a kind of timed texts: how it is read, named and asked for; and the protocols of its readers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32

from vidret.errors import DecodeError, VidretError
from vidret.types import Picture, ShotChange, SoundWindows, TextSource, TimedText

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo  # loads PyAV, which searches do without

Heartbeat = Callable[[], None]
Piece = TypeVar("Piece")


class FrameReader(Protocol[Piece]):
    """Reads texts or tracks of faces from the frames of one video at a time, while it is decoded.

    Attributes:
        note: The reason why not everything was read of the last video; empty otherwise.
    """

    note: str

    def start(self, start_s: float = 0.0) -> None:
        """Begin another video, or where an interrupted run ended."""

    def read(self, image: Picture, time_s: float) -> None:
        """Read the next frame."""

    def take(self, end_s: float, shots: Sequence[ShotChange] | None) -> tuple[float, list[Piece]]:
        """Return the time up to which all texts were returned, and the texts since the last call.

        Args:
            end_s: End of the segment that was decoded last, in seconds.
            shots: The shot changes found in it; None if none are looked for.
        """

    def finish(self, end_s: float) -> list[Piece]:
        """Return the remaining texts of a video that ends at ``end_s``."""


class AudioReader(Protocol[Piece]):
    """Reads texts or tracks of voices from the audio of one video at a time, mono at 16 kHz, while it is decoded.

    Attributes:
        note: The reason why not everything was read of the last video; empty otherwise.
    """

    note: str

    def start(self, start_s: float, options: Mapping[str, Any], heartbeat: Heartbeat) -> float:
        """Begin another video, or where an interrupted run ended; return the time from which audio is needed."""

    def read(self, samples: Float32[np.ndarray, " sample"]) -> None:
        """Read the next samples."""

    def take(self) -> tuple[float, list[Piece]]:
        """Return the time up to which all texts were returned, and the texts since the last call."""

    def finish(self, info: "VideoInfo", heartbeat: Heartbeat) -> list[Piece]:
        """Return the remaining texts of a video, of which all audio was read."""


@runtime_checkable
class WindowReader(Protocol):
    """A reader that also makes vectors of audio windows."""

    def take_windows(self) -> Mapping[str, SoundWindows]:
        """Return the windows since the last call, by the model that made them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextKind:
    """A kind of timed texts.

    Attributes:
        source: Its name.
        name: Its name in a sentence.
        model: Name of its reader. One name always gives the same texts of a content; empty if no run reads it.
        packages: The packages that must be installed to read it.
        load_frame_reader: Loads its reader of frames, in the decoding process.
        load_audio_reader: Loads its reader of audio, in the decoding process.
        read: Reads it from the file in the decoding process, once the frames are decoded; returns the texts, and a note
            if not everything could be read.
        hint: Pattern of the words in a clause that ask for it.
        is_hint_needed: Whether only clauses that ask for it are compared with it by meaning; others by words.
        also_hinted_by: A source whose hints ask for this one too.
        is_spoken: Whether it is speech, embedded in quotes to separate it from descriptions of its subject.
        join_nats: Maximum difference in evidence of successive texts that answer a query together.
        is_same: Whether two texts are readings of the same text.
    """

    source: TextSource
    name: str
    model: str = ""
    packages: tuple[str, ...] = ()
    load_frame_reader: Callable[[], FrameReader[TimedText]] | None = None
    load_audio_reader: Callable[[], AudioReader[TimedText]] | None = None
    read: Callable[["VideoInfo", Mapping[str, Any], Heartbeat], tuple[list[TimedText], str]] | None = None
    hint: re.Pattern[str] | None = None
    is_hint_needed: bool = False
    also_hinted_by: TextSource | None = None
    is_spoken: bool = False
    join_nats: float = 0.5
    is_same: Callable[[str, str], bool] = str.__eq__


def as_note(error: Exception) -> str:
    """Return the reason of a failure in one line."""
    if isinstance(error, DecodeError):
        return error.reason
    if isinstance(error, MemoryError):
        return "needs more memory than a decoder may take"
    line = (str(error).splitlines() or [""])[0]
    return line if isinstance(error, VidretError) and line else f"failed: {type(error).__name__}: {line}"
