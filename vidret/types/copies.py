"""Footage that several videos share."""

from dataclasses import dataclass
from typing import Annotated

from vidret.types.results import Copies, VideoId, VideoPath
from vidret.types.rows import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedFootage:
    """A stretch of a video that shows the same footage as a clip.

    Attributes:
        video: Id of the video.
        path: Path of its file.
        start: Where the footage begins in the video, in seconds.
        end: Where it ends.
        clip_start: Where it begins in the clip, in seconds.
        clip_end: Where it ends.
        speed: Seconds of the video per second of the clip.
        similarity: Mean similarity of the frame vectors above that of unrelated frames.
        agreement: How well decoded frames agree in what moves, at most 1; None if they could not be compared.
        mirrored: Whether the pictures are mirrored left to right.
        moves: Whether enough moves to tell the footage from another recording of the same place.
        copies: Further paths of the same content.
    """

    video: VideoId
    path: VideoPath
    start: Annotated[float, Shown(example=25.0)]
    end: Annotated[float, Shown(example=31.5)]
    clip_start: Annotated[float, Shown(example=3.0)]
    clip_end: Annotated[float, Shown(example=8.0)]
    speed: Annotated[float, Shown(example=1.0)]
    similarity: Annotated[float, Shown(example=0.6)]
    agreement: Annotated[float | None, Shown(example=0.95)] = None
    mirrored: bool = False
    moves: bool = True
    copies: Copies = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFile:
    """A file of a group of copies, compared with the best file of the group.

    Attributes:
        video: Id of its video.
        path: Its path.
        width: Of the picture in pixels; 0 if unknown.
        height: The same.
        bit_rate: Bits per second of the whole file; 0 if unknown.
        duration: In seconds.
        start: Where the footage of the best file begins in this file, in seconds.
        end: Where it ends.
        best_start: Where the shared footage begins in the best file.
        speed: Seconds of this file per second of the best one.
        differs: How it differs: ``same content``, ``mirrored``, ``cropped``, ``bars``, ``faster``, ``slower``,
            ``part`` of the best file, ``longer`` by other footage, ``damaged``; empty if it only looks the same.
        agreement: How well decoded frames agree in what moves, at most 1; 1 for the best file and the same content.
        moves: False if too little moves to tell the footage from another recording of the same place.
    """

    video: VideoId
    path: VideoPath
    width: Annotated[int, Shown(example=1920)]
    height: Annotated[int, Shown(example=1080)]
    bit_rate: Annotated[int, Shown(example=4_000_000)]
    duration: Annotated[float, Shown(example=90.0)]
    start: Annotated[float, Shown(example=0.0)]
    end: Annotated[float, Shown(example=90.0)]
    best_start: Annotated[float, Shown(example=0.0)]
    speed: Annotated[float, Shown(example=1.0)] = 1.0
    differs: Annotated[tuple[str, ...], Shown(example=["mirrored"])] = ()
    agreement: Annotated[float, Shown(example=0.95)] = 1.0
    moves: bool = True


@dataclass(frozen=True, slots=True)
class CopyGroup:
    """Files that show the same footage, the best one first.

    Whole files are better than damaged ones, then long ones; then resolution and bit rate decide. A file
    that shows only a part of the best one is in the group as its ``part``, not as a copy.
    """

    files: tuple[CopiedFile, ...]

    @property
    def best(self) -> CopiedFile:
        """Of the undamaged files, and of the longest, that with the largest picture, and then the highest bit rate."""
        return self.files[0]
