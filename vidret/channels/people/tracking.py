"""Follow faces from frame to frame through a shot, by where they are, and keep what shows it best."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8

from vidret.channels.people.faces import Box, Face, measure_sharpness

MIN_OVERLAP = 0.3  # intersection over union of the boxes of a face in two frames
MAX_SHIFT = 0.5  # of the width of its box, as far as its centre may move otherwise
MAX_GAP_S = 1.5  # frames about a second apart follow one another
SHARP = 100.0  # variance of the Laplacian from which on a crop is sharp enough


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A face in a frame.

    Attributes:
        time_s: When the frame begins, in seconds.
        face: The face.
        chip: Its aligned image, None if it is too small or turned too far to be described.
        quality: How well the image shows the face.
        vector: What describes the image; None if it is not described yet.
    """

    time_s: float
    face: Face
    chip: UInt8[np.ndarray, "side side 3"] | None = None
    quality: float = 0.0
    vector: Float32[np.ndarray, " dim"] | None = None


@dataclass(slots=True, eq=False)
class FaceTrack:
    """A face that is followed: times with boxes, the highest score of a crop, the last vector, and the best crop.

    A mean of several crops is closer to all strangers than a crop is, so that one limit could not serve tracks of many
    crops and of few.
    """

    boxes: list[tuple[float, Box]] = field(default_factory=list)
    score: float = 0.0
    vector: Float32[np.ndarray, " dim"] | None = None
    best: Sighting | None = None

    def add(self, sighting: Sighting) -> None:
        """Add the face in the next frame."""
        self.boxes.append((sighting.time_s, sighting.face.box))
        if sighting.chip is not None:
            self.score = max(self.score, sighting.face.score)
            self.vector = sighting.vector
            self.best = max(self.best or sighting, sighting, key=lambda own: own.quality)

    def compare(self, sighting: Sighting, max_distance: float) -> float:
        """Return how close a face in the next frame is, in 0..1; 0 if it is not this one."""
        vectors = (self.vector, sighting.vector)
        if vectors[0] is not None and vectors[1] is not None and np.linalg.norm(vectors[0] - vectors[1]) > max_distance:
            return 0.0
        return compare_boxes(self.boxes[-1][1], sighting.face.box)


class FaceTracker:
    """The faces that are followed at one moment of one video."""

    def __init__(self, max_distance: float) -> None:
        """Start with none; the vectors of a face in consecutive frames are at most so far apart."""
        self._max_distance = max_distance
        self._tracks: list[FaceTrack] = []

    def add(self, time_s: float, sightings: Sequence[Sighting], *, starts_shot: bool) -> list[FaceTrack]:
        """Add the faces of the next frame, and return the tracks that are over.

        A face continues the track that it overlaps most, the closest pairs first; a new shot ends all tracks.
        """
        over = [track for track in self._tracks if starts_shot or time_s - track.boxes[-1][0] > MAX_GAP_S]
        self._tracks = [track for track in self._tracks if track not in over]
        pairs = [
            (closeness, row, column)
            for row, track in enumerate(self._tracks)
            for column, sighting in enumerate(sightings)
            if (closeness := track.compare(sighting, self._max_distance)) > 0
        ]
        known: dict[int, int] = {}
        for _, row, column in sorted(pairs, reverse=True):
            if column not in known and row not in known.values():
                known[column] = row
        for column, sighting in enumerate(sightings):
            if column not in known:
                self._tracks.append(FaceTrack())
            self._tracks[known.get(column, -1)].add(sighting)
        return over

    def finish(self) -> list[FaceTrack]:
        """Return the remaining tracks."""
        tracks, self._tracks = self._tracks, []
        return tracks


def compare_boxes(one: Box, other: Box) -> float:
    """Return how close two boxes are, in 0..1; 0 if they cannot be of one face in consecutive frames."""
    first, second = np.array(one).reshape(2, 2), np.array(other).reshape(2, 2)
    shared = np.prod(np.maximum(np.minimum(first[1], second[1]) - np.maximum(first[0], second[0]), 0))
    areas = [np.prod(box[1] - box[0]) for box in (first, second)]
    overlap = float(shared / max(sum(areas) - shared, 1e-9))
    distance = np.hypot(*(first.mean(axis=0) - second.mean(axis=0)))
    is_near = distance < MAX_SHIFT * (first[1] - first[0])[0] and max(areas) < 4 * min(areas)
    return overlap if overlap >= MIN_OVERLAP or is_near else 0.0


def rate_face(face: Face, chip: UInt8[np.ndarray, "side side 3"], misfit: float) -> float:
    """Return how well a face is shown: large, from the front, sharp, and surely a face.

    ``misfit`` is 0 for a face from the front, and 1 for one that is turned too far to be described.
    """
    left, top, right, bottom = face.box
    area = max(0.0, right - left) * max(0.0, bottom - top)
    sharpness = min(measure_sharpness(chip) / SHARP, 1.0)
    return float(np.sqrt(area) * (1 - misfit / 2) * sharpness * face.score)
