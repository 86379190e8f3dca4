"""Tracks of faces and voices as JSON holds them, in messages between processes."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from vidret.store.identities.tracks import Track


def pack_track(track: Track) -> dict[str, Any]:
    """Return a track as JSON can hold it."""
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
