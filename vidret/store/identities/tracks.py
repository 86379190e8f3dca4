"""Tracks of the identities of an index: stretches of a video with one face or one voice, and how they are matched."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from vidret.errors import StoreError

IdentityKind = Literal["face", "voice"]
IDENTITY_KINDS: tuple[IdentityKind, ...] = get_args(IdentityKind)
# The metadata keys of the model's name, in an index that reads a kind.
MODEL_SETTINGS: Mapping[IdentityKind, str] = {"face": "people_model", "voice": "speakers_model"}
SAME_TRACK = 0.5  # intersection over union, in time and of boxes


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityModel:
    """The model of track vectors, by a digest of its weights and settings; vectors of two models are never compared.

    ``link_distance`` is the Euclidean distance of vectors below which two tracks are of one person.
    """

    kind: IdentityKind
    digest: str
    link_distance: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """One face or one voice over a stretch of a video.

    Attributes:
        start_s, end_s: In seconds.
        vector: Vector for comparisons by Euclidean distance; of unit length if the model compares cosines.
        quality: Quality of the track as a view of the person; higher is better.
        thumbnail: The best crop as JPEG; None for a voice.
        boxes: For a face, rows of time in seconds, x, y, width and height relative to the frame, by time.
    """

    start_s: float
    end_s: float
    vector: Float32[np.ndarray, " dim"]
    quality: float = 1.0
    thumbnail: bytes | None = None
    boxes: Float32[np.ndarray, "box 5"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrackColumns:
    """Stored tracks as columns; their ids are never reused.

    ``contents`` are the fingerprints of their videos, times are in seconds, ``persons`` 0 for none. ``by_user`` is
    True if the user assigned one, and ``scores`` the distance from the person at the assignment, 0 otherwise.
    """

    ids: Int64[np.ndarray, " track"]
    contents: np.ndarray
    starts: Float64[np.ndarray, " track"]
    ends: Float64[np.ndarray, " track"]
    qualities: Float64[np.ndarray, " track"]
    persons: Int64[np.ndarray, " track"]
    by_user: Bool[np.ndarray, " track"]
    scores: Float64[np.ndarray, " track"]


def check_track(track: Track, kind: IdentityKind) -> None:
    """Check that a track can be stored.

    Raises:
        StoreError: A time or value is not finite, a shape is wrong, or a voice has a picture.
    """
    if not 0 <= track.start_s <= track.end_s < np.inf:
        raise StoreError(f"a track must end after it starts, got {track.start_s} to {track.end_s}")
    if track.vector.ndim != 1 or not len(track.vector) or not np.isfinite(track.vector).all():
        raise StoreError(f"vector must be one row of finite values, got shape {track.vector.shape}")
    if not np.isfinite(track.quality):
        raise StoreError(f"quality must be finite, got {track.quality}")
    if track.boxes is not None and (track.boxes.ndim != 2 or track.boxes.shape[1] != 5):
        raise StoreError(f"boxes must have the shape (box, 5), got {track.boxes.shape}")
    if kind == "voice" and not (track.thumbnail is None and track.boxes is None):
        raise StoreError("a track of a voice must have no thumbnail and no boxes, got one")


def pack_track(track: Track) -> dict[str, Any]:
    """Return a track as JSON types."""
    boxes = np.zeros((0, 5), np.float32) if track.boxes is None else track.boxes
    return {
        "start_s": track.start_s,
        "end_s": track.end_s,
        "quality": track.quality,
        "vector": track.vector.astype(float).tolist(),
        "thumbnail": base64.b64encode(track.thumbnail or b"").decode(),
        "boxes": boxes.astype(float).tolist(),
    }


def unpack_track(row: Mapping[str, Any]) -> Track:
    """Return the track of ``pack_track``."""
    return Track(
        start_s=row["start_s"],
        end_s=row["end_s"],
        quality=row["quality"],
        vector=np.array(row["vector"], np.float32),
        thumbnail=base64.b64decode(row["thumbnail"]) or None,
        boxes=np.array(row["boxes"], np.float32) if row["boxes"] else None,
    )


def match_tracks(old: Sequence[Track], new: Sequence[Track]) -> dict[int, int]:
    """Return, for each old track, the row of the new one that overlaps it most, in time and in the frame."""
    overlaps = [
        (overlap, i, j)
        for i, one in enumerate(old)
        for j, other in enumerate(new)
        if (overlap := _overlap_in_time(one, other)) >= SAME_TRACK and _overlap_in_frame(one, other) >= SAME_TRACK
    ]
    matches, taken = dict[int, int](), set[int]()
    for _, i, j in sorted(overlaps, reverse=True):
        if i not in matches and j not in taken:
            matches[i] = j
            taken.add(j)
    return matches


def _overlap_in_time(one: Track, other: Track) -> float:
    """Return the intersection over union of two stretches of time."""
    shared = min(one.end_s, other.end_s) - max(one.start_s, other.start_s)
    union = max(one.end_s, other.end_s) - min(one.start_s, other.start_s)
    return shared / union if union > 0 else float(shared == 0)


def _overlap_in_frame(one: Track, other: Track) -> float:
    """Return the mean intersection over union of the boxes of one track with those nearest in time; 1 without boxes."""
    if one.boxes is None or other.boxes is None or not len(one.boxes) or not len(other.boxes):
        return 1.0
    nearest = np.abs(one.boxes[:, None, 0] - other.boxes[None, :, 0]).argmin(1)
    first, second = one.boxes[:, 1:], other.boxes[nearest, 1:]
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    union = first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared
    return float((shared / np.maximum(union, 1e-12)).mean())
