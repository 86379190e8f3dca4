"""Footage that several videos share."""

from dataclasses import dataclass


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

    video: int
    path: str
    start: float
    end: float
    clip_start: float
    clip_end: float
    speed: float
    similarity: float
    agreement: float | None = None
    mirrored: bool = False
    moves: bool = True
    copies: tuple[str, ...] = ()


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

    video: int
    path: str
    width: int
    height: int
    bit_rate: int
    duration: float
    start: float
    end: float
    best_start: float
    speed: float = 1.0
    differs: tuple[str, ...] = ()
    agreement: float = 1.0
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
