"""Tracks of faces from the frames of one video, in its decoding process; and loading of face models by name.

Faces are tracked from frame to frame through a shot, by their boxes, and the best crop of each is kept.
"""

import io
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int16, UInt8
from PIL import Image

from vidret.channels.identities import TRACK_KINDS
from vidret.channels.people.faces import Box, Face, FaceModel, align, measure_misfit, measure_outside, measure_sharpness
from vidret.encode.families.registry import is_class_name, make_custom
from vidret.encode.sentences import scale_to_unit
from vidret.errors import VidretError
from vidret.store.identities.tracks import Track
from vidret.types import Picture, ShotChange

MIN_OVERLAP = 0.3  # intersection over union of the boxes of a face in two frames
MAX_SHIFT = 0.5  # of the width of its box, by which its centre may move otherwise
MAX_GAP_S = 1.5  # frames about a second apart follow one another
SHARP = 100.0  # variance of the Laplacian from which on a crop is sharp enough
MIN_SIZE = 40  # pixels of a face that is described
SEEN_SIZE, SEEN_SHARE = 46, 1 / 28  # of a face that is searched for: pixels, and share of the frame's longer side
MIN_SCORE = 0.98  # of the most certain face of a track that can be described,
SEEN_SCORE = 0.8  # and of all others
MAX_MISFIT = 0.048  # of the side of an aligned face that is described: more is a profile, and profiles look alike
MAX_OUTSIDE = 0.2  # of an aligned face that is described, beyond the edges of the frame: cut-off faces look alike, too
STILL = 12  # of 255: mean difference to the last frame, below which a frame counts as unchanged
MIN_STEP_S = 0.75  # between two such frames: short videos are sampled more often than once a second
MAX_HALF_STEP_S = MAX_GAP_S / 2  # by which a track begins before its first frame, and ends after its last
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True, eq=False)
class Sighting:
    """A face in a frame.

    Attributes:
        time_s: Start of the frame in seconds.
        face: The face.
        chip: Its aligned image, None if it is too small or turned too far to be described.
        quality: Quality of the image of the face.
        vector: Vector of the image; None if it is not computed yet.
    """

    time_s: float
    face: Face
    chip: UInt8[np.ndarray, "side side 3"] | None = None
    quality: float = 0.0
    vector: Float32[np.ndarray, " dim"] | None = None


@dataclass(slots=True, eq=False)
class FaceTrack:
    """A tracked face: times with boxes, the highest score of a crop, the last vector, and the best crop.

    The vector of one crop is kept, not a mean: a mean of several crops is closer to all strangers than a single crop
    is, so one limit would not suit tracks of many crops and of few.
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
            self.best = max(self.best or sighting, sighting, key=lambda candidate: candidate.quality)

    def compare(self, sighting: Sighting, max_distance: float) -> float:
        """Return the similarity of a face in the next frame, in 0..1; 0 if it is another one."""
        vectors = (self.vector, sighting.vector)
        if vectors[0] is not None and vectors[1] is not None and np.linalg.norm(vectors[0] - vectors[1]) > max_distance:
            return 0.0
        return compare_boxes(self.boxes[-1][1], sighting.face.box)


class FaceTracker:
    """The tracker of the faces in one video."""

    def __init__(self, max_distance: float) -> None:
        """Start without faces; ``max_distance`` limits the distance of a face's vectors in consecutive frames."""
        self._max_distance = max_distance
        self._tracks: list[FaceTrack] = []

    def add(self, time_s: float, sightings: Sequence[Sighting], *, starts_shot: bool) -> list[FaceTrack]:
        """Add the faces of the next frame, and return the finished tracks.

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
        track_rows: dict[int, int] = {}
        for _, row, column in sorted(pairs, reverse=True):
            if column not in track_rows and row not in track_rows.values():
                track_rows[column] = row
        for column, sighting in enumerate(sightings):
            if column not in track_rows:
                self._tracks.append(FaceTrack())
            self._tracks[track_rows.get(column, -1)].add(sighting)
        return over

    def finish(self) -> list[FaceTrack]:
        """Return the remaining tracks."""
        tracks, self._tracks = self._tracks, []
        return tracks


def compare_boxes(one: Box, other: Box) -> float:
    """Return the closeness of two boxes, in 0..1; 0 if they cannot be of one face in consecutive frames."""
    first, second = np.array(one).reshape(2, 2), np.array(other).reshape(2, 2)
    shared = np.prod(np.maximum(np.minimum(first[1], second[1]) - np.maximum(first[0], second[0]), 0))
    areas = [np.prod(box[1] - box[0]) for box in (first, second)]
    overlap = float(shared / max(sum(areas) - shared, 1e-9))
    distance = np.hypot(*(first.mean(axis=0) - second.mean(axis=0)))
    is_near = distance < MAX_SHIFT * (first[1] - first[0])[0] and max(areas) < 4 * min(areas)
    return overlap if overlap >= MIN_OVERLAP or is_near else 0.0


def rate_face(face: Face, chip: UInt8[np.ndarray, "side side 3"], misfit: float) -> float:
    """Return the quality of a face: higher if it is large, frontal, sharp, and of high confidence.

    ``misfit`` is 0 for a face from the front, and 1 for one that is turned too far to be described.
    """
    left, top, right, bottom = face.box
    area = max(0.0, right - left) * max(0.0, bottom - top)
    sharpness = min(measure_sharpness(chip) / SHARP, 1.0)
    return float(np.sqrt(area) * (1 - misfit / 2) * sharpness * face.score)


class FaceReader:
    """Finds faces in frames and follows them through shots, in one video at a time.

    Attributes:
        note: Reason why not everything was read; always empty.
    """

    note = ""

    def __init__(self, model: FaceModel) -> None:
        self._model = model
        self.start()

    def start(self, _start_s: float = 0.0) -> None:
        """Begin another video."""
        self._tracker = FaceTracker(self._model.maybe_distance)
        self._waiting: list[tuple[float, list[Sighting]]] = []  # frames whose shot is not known yet
        self._times_s, self._shot_starts_s = list[float](), list[float]()
        self._last_s = -1.0
        self._size = (1, 1)
        self._seen: tuple[float, Int16[np.ndarray, "height width 3"]] | None = None  # the last frame that was searched
        self._may_skip = False  # since it has no faces

    def read(self, image: Picture, time_s: float) -> None:
        """Find the faces of the next frame."""
        height, width = image.shape[:2]
        self._size = width, height
        small = image[:: max(1, height // 24), :: max(1, width // 32)].astype(np.int16)
        if self._seen is not None and np.abs(small - self._seen[1]).mean() < STILL:
            if time_s - self._seen[0] < MIN_STEP_S:
                return
            if self._may_skip:
                self._waiting.append((time_s, []))
                self._times_s.append(time_s)
                self._may_skip = False  # at most every other frame
                return
        self._times_s.append(time_s)
        faces = self._model.find(image, min_size=max(SEEN_SIZE, SEEN_SHARE * max(height, width)))
        seen = [face for face in faces if face.score >= SEEN_SCORE]
        self._waiting.append((time_s, [self._look_at(image, face, time_s) for face in seen]))
        self._seen, self._may_skip = (time_s, small), not seen

    def _look_at(self, image: Picture, face: Face, time_s: float) -> Sighting:
        """Return a face, with its aligned image if it is large enough, frontal, and not cut off."""
        template, side = self._model.template, self._model.side
        misfit = measure_misfit(face.points, template) / (MAX_MISFIT * side)
        outside = measure_outside(face.points, template, side, (image.shape[1], image.shape[0]))
        if face.size < MIN_SIZE or misfit > 1 or outside > MAX_OUTSIDE:
            return Sighting(time_s, face)
        chip = align(image, face.points, template, side)
        return Sighting(time_s, face, chip, rate_face(face, chip, misfit))

    def _describe(self, sightings: Sequence[Sighting]) -> list[Sighting]:
        """Return faces, those that have an image with their vectors.

        Vectors are scaled to unit length: those of blurred faces are shorter, which alone would make strangers close.
        """
        chips = {
            row: sighting.chip
            for row, sighting in enumerate(sightings)
            if sighting.chip is not None and sighting.vector is None
        }
        vectors = scale_to_unit(self._model.describe(np.stack(list(chips.values())))) if chips else ()
        new = dict(zip(chips, vectors, strict=True))
        return [
            replace(sighting, vector=new[row]) if row in new else sighting for row, sighting in enumerate(sightings)
        ]

    def take(self, end_s: float, shots: Sequence[ShotChange] | None) -> tuple[float, list[Track]]:
        """Track faces through the frames before ``end_s``, up to which all shot changes are known.

        Without ``shots``, faces are also compared by their vectors, which takes longer.

        Returns:
            The time up to which frames were read, and the finished tracks.
        """
        self._shot_starts_s = sorted([*self._shot_starts_s, *(shot.end for shot in shots or ())])
        ready = [frame for frame in self._waiting if frame[0] < end_s]
        self._waiting = self._waiting[len(ready) :]
        over: list[FaceTrack] = []
        for time_s, sightings in ready:
            starts_shot = bisect_right(self._shot_starts_s, time_s) > bisect_right(self._shot_starts_s, self._last_s)
            described = sightings if shots is not None else self._describe(sightings)
            over += self._tracker.add(time_s, described, starts_shot=starts_shot)
            self._last_s = time_s
        return max(self._last_s, 0.0), self._make_tracks(over)

    def finish(self, end_s: float) -> list[Track]:
        """Return the remaining tracks."""
        _, tracks = self.take(np.inf, ())
        self._shot_starts_s.append(end_s)
        tracks += self._make_tracks(self._tracker.finish())
        self.start()
        return tracks

    def _make_tracks(self, tracks: Sequence[FaceTrack]) -> list[Track]:
        """Return the tracks that are certainly of faces and have a crop to describe."""
        known = [(track, track.best) for track in tracks if track.best is not None and track.score >= MIN_SCORE]
        described = self._describe([best for _, best in known])
        return [self._make_track(track, best) for (track, _), best in zip(known, described, strict=True)]

    def _make_track(self, track: FaceTrack, best: Sighting) -> Track:
        """Return the track to store, with its best crop and the vector of that."""
        assert best.chip is not None
        assert best.vector is not None
        scale = np.array((*self._size, *self._size))
        rows = [(time_s, left, top, right - left, bottom - top) for time_s, (left, top, right, bottom) in track.boxes]
        boxes = np.array(rows, np.float64)
        boxes[:, 1:] /= scale
        start_s, end_s = self._bound(rows[0][0], rows[-1][0])
        jpeg = io.BytesIO()
        Image.fromarray(best.chip).save(jpeg, "JPEG", quality=_JPEG_QUALITY)
        return Track(
            start_s=start_s,
            end_s=end_s,
            vector=best.vector,
            quality=best.quality,
            thumbnail=jpeg.getvalue(),
            boxes=boxes.astype(np.float32),
        )

    def _bound(self, first_s: float, last_s: float) -> tuple[float, float]:
        """Return the start and end of a track: halfway to the frames around it, within its shot."""
        times_s, shot_starts_s = self._times_s, self._shot_starts_s
        before, after = bisect_left(times_s, first_s), bisect_right(times_s, last_s)
        start_s = (times_s[before - 1] + first_s) / 2 if before else 0.0
        end_s = (times_s[after] + last_s) / 2 if after < len(times_s) else np.inf
        shot, next_shot = bisect_right(shot_starts_s, first_s), bisect_right(shot_starts_s, last_s)
        starts_s = (start_s, first_s - MAX_HALF_STEP_S, *shot_starts_s[:shot][-1:])
        ends_s = (end_s, last_s + MAX_HALF_STEP_S, *shot_starts_s[next_shot : next_shot + 1])
        return max(starts_s), min(ends_s)


@lru_cache(maxsize=1)
def load_face_model(name: str = TRACK_KINDS["face"].bundled) -> FaceModel:
    """Load a model of faces: the one of the extra ``people``, or a user's class, as ``package.module:Class``.

    Raise VidretError if the name is unknown, or the model cannot be loaded.
    """
    if name == (bundled := TRACK_KINDS["face"].bundled):
        from vidret.channels.people.models import BundledFaces  # imports torch, which a user's class may not need

        return BundledFaces()
    if not is_class_name(name):
        raise VidretError(f"a face model must be {bundled} or package.module:Class, got {name}")
    model: FaceModel = make_custom(name, "face model", FaceModel)
    return model
