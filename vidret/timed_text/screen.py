"""On-screen text to timed text, with PP-OCR models on ONNX Runtime (rapidocr).

Only frames that changed are read, and in them only boxes whose image changed. A text is followed from frame to frame
and becomes one entry with a start and an end; lines that appear and disappear together become one entry.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from vidret.errors import MissingExtraError
from vidret.types import Picture, TimedText

MODEL = "pp-ocrv6"
DETECTION_SIDE = 640  # pixels; the longer side of the image in which text is looked for
RECOGNITION_SIDE = 1280  # pixels; the longer side of the image from which text is read
MIN_SCORE = 0.6
MIN_SHORT_SCORE = 0.8  # for up to three characters: most false readings on texture are that short
MIN_OVERLAP = 0.5  # intersection over union of a text's boxes in consecutive frames
MIN_LIKENESS = 0.9  # correlation of the images of a box that need not be read again
MIN_SAME_TEXT = 0.7  # similarity of two readings of one text
MAX_TRACK_S = 60.0  # longer texts become several entries, so that an interrupted run repeats little
MAX_MISSED = 1  # consecutive frames in which a text may go undetected
_GRID = (90, 160)
_CHANGED_LEVEL = 10  # of 255
_CHANGED_SHARE = 0.001

Box = Float32[np.ndarray, "corner 2"]


@dataclass(slots=True)
class _Track:
    """A text that is followed: its extent (left, top, right, bottom) relative to the frame, and when it was seen."""

    extent: tuple[float, float, float, float]
    text: str
    score: float
    start_s: float
    last_s: float
    crop: UInt8[np.ndarray, "height width"]
    end_s: float = 0.0
    missed: int = 0


class ScreenReader:
    """An OCR engine on one CPU thread, and the texts that it follows through one video at a time."""

    def __init__(self) -> None:
        """Load the models.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
        """
        if find_spec("rapidocr") is None:
            raise MissingExtraError("reading on-screen text", "words")
        from rapidocr import RapidOCR

        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        self._engine: Any = RapidOCR(
            params={
                "Global.use_cls": False,
                "Global.log_level": "critical",
                "Det.limit_type": "max",
                "Det.limit_side_len": DETECTION_SIDE,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )
        self.start()

    def start(self) -> None:
        """Begin another video."""
        self._tracks: list[_Track] = []
        self._closed: list[_Track] = []
        self._grid: UInt8[np.ndarray, "height width"] | None = None
        self._last_s: float | None = None

    def read(self, image: Picture, time_s: float) -> None:
        """Read the next frame."""
        previous_s = self._last_s
        self._last_s = time_s
        middle_s = max(0.0, time_s - 0.5) if previous_s is None else (previous_s + time_s) / 2
        grid = shrink(image, _GRID)
        if self._grid is not None and is_unchanged(self._grid, grid):
            for track in self._tracks:
                track.last_s = time_s
            self._close(middle_s, lambda track: time_s - track.start_s > MAX_TRACK_S)
            return
        self._grid = grid
        seen = [self._follow(image, box, time_s, middle_s) for box in self._detect(image)]
        self._tracks += [track for track in seen if track is not None and track not in self._tracks]
        for track in self._tracks:
            track.missed = 0 if track.last_s == time_s else track.missed + 1
        for track in self._tracks:
            if track.missed == 1:
                track.end_s = middle_s
        self._close(middle_s, lambda track: track.missed > MAX_MISSED or time_s - track.start_s > MAX_TRACK_S)

    def take(self) -> tuple[float, list[TimedText]]:
        """Return the time up to which all texts were returned, and the entries since the last call."""
        horizon_s = min((track.start_s for track in self._tracks), default=self._last_s or 0.0)
        ready = [track for track in self._closed if track.end_s < (self._last_s or 0.0) - 2.5]
        self._closed = [track for track in self._closed if track not in ready]
        return min([horizon_s, *(track.start_s for track in self._closed)]), join_lines(ready)

    def finish(self, end_s: float) -> list[TimedText]:
        """Return the remaining entries of a video that ends at ``end_s``."""
        for track in self._tracks:
            track.end_s = track.end_s if track.missed else end_s
        texts = join_lines([*self._closed, *self._tracks])
        self.start()
        return texts

    def _detect(self, image: Picture) -> list[Box]:
        height, width = image.shape[:2]
        found = self._engine(image[..., ::-1], use_det=True, use_cls=False, use_rec=False)
        boxes = [] if getattr(found, "boxes", None) is None else found.boxes
        return [np.asarray(box, np.float32) / (width, height) for box in boxes]

    def _follow(self, image: Picture, box: Box, time_s: float, middle_s: float) -> _Track | None:
        """Return the track to which a box belongs, a new one if none fits, None if there is no text in it."""
        low, high = box.min(axis=0), box.max(axis=0)
        extent = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        crop = shrink(cut(image, extent), (16, 96))
        near = max(self._tracks, key=lambda track: overlap_boxes(track.extent, extent), default=None)
        if near is not None and overlap_boxes(near.extent, extent) < MIN_OVERLAP:
            near = None
        if near is not None and near.last_s < time_s and likeness(near.crop, crop) >= MIN_LIKENESS:
            near.last_s, near.crop, near.extent = time_s, crop, extent
            return near
        text, score = self._recognise(image, box)
        if not is_text(text, score):
            return None
        same = [track for track in self._tracks if track.last_s < time_s and similar(track.text, text)]
        known = near if near in same else max(same, key=lambda track: overlap_boxes(track.extent, extent), default=None)
        if known is None:
            return _Track(extent, text, score, middle_s, time_s, crop)
        if score > known.score:
            known.text, known.score = text, score
        known.last_s, known.crop, known.extent = time_s, crop, extent
        return known

    def _recognise(self, image: Picture, box: Box) -> tuple[str, float]:
        from rapidocr.utils.process_img import get_rotate_crop_image

        height, width = image.shape[:2]
        corners = np.ascontiguousarray(box * np.array((width, height)), np.float32)
        crop = get_rotate_crop_image(np.ascontiguousarray(image[..., ::-1]), corners)
        found = self._engine(crop, use_det=False, use_cls=False, use_rec=True)
        texts, scores = getattr(found, "txts", None), getattr(found, "scores", None)
        return (str(texts[0]).strip(), float(scores[0])) if texts and scores else ("", 0.0)

    def _close(self, middle_s: float, is_over: Any) -> None:
        for track in [track for track in self._tracks if is_over(track)]:
            track.end_s = track.end_s if track.missed else middle_s
            self._closed.append(track)
            self._tracks.remove(track)


def fit_image(image: Picture) -> Picture:
    """Return a frame with its longer side at most ``RECOGNITION_SIDE`` pixels."""
    import cv2

    height, width = image.shape[:2]
    scale = RECOGNITION_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def shrink(image: Picture, shape: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """Return an image in grey, resized to (height, width)."""
    import cv2

    small = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def is_unchanged(before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether so few points of two small grey images differ that no text can have come or gone."""
    changed = np.abs(before.astype(np.int16) - after) > _CHANGED_LEVEL
    return bool(changed.mean() < _CHANGED_SHARE)


def cut(image: Picture, extent: tuple[float, float, float, float]) -> Picture:
    """Return a part of an image, at least one pixel large."""
    height, width = image.shape[:2]
    left, top = min(int(extent[0] * width), width - 1), min(int(extent[1] * height), height - 1)
    right, bottom = max(left + 1, round(extent[2] * width)), max(top + 1, round(extent[3] * height))
    return image[max(0, top) : bottom, max(0, left) : right]


def likeness(one: UInt8[np.ndarray, "height width"], other: UInt8[np.ndarray, "height width"]) -> float:
    """Return the correlation of two small grey images of equal size, in -1..1."""
    first, second = one.astype(np.float32) - one.mean(), other.astype(np.float32) - other.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm else float(np.array_equal(one, other))


def overlap_boxes(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Return the intersection over union of two extents (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(extent[2] - extent[0]) * (extent[3] - extent[1]) for extent in (one, other)]
    return width * height / (sum(areas) - width * height)


def is_text(text: str, score: float) -> bool:
    """Return whether a reading is worth keeping: texture is often read as single characters with a low score."""
    letters = re.sub(r"\W|_", "", text)
    if len(letters) < 2:
        return False
    return score >= (MIN_SHORT_SCORE if len(letters) <= 3 else MIN_SCORE)


def similar(one: str, other: str) -> bool:
    """Return whether two readings are of the same text."""
    first, second = (re.sub(r"\W", "", text.lower()) for text in (one, other))
    return first == second or SequenceMatcher(None, first, second, autojunk=False).ratio() >= MIN_SAME_TEXT


def join_lines(tracks: Sequence[_Track]) -> list[TimedText]:
    """Turn tracks into entries, those of lines below one another that come and go together into one; by start."""
    groups: list[list[_Track]] = []
    for track in sorted(tracks, key=lambda track: (track.extent[1], track.extent[0])):
        group = next((group for group in groups if _continues(group[-1], track)), None)
        if group is None:
            groups.append([track])
        else:
            group.append(track)
    return sorted((_as_text(group) for group in groups), key=lambda text: (text.start, text.end))


def _continues(above: _Track, below: _Track) -> bool:
    if abs(above.start_s - below.start_s) > 1.2 or abs(above.end_s - below.end_s) > 1.2:
        return False
    height = max(above.extent[3] - above.extent[1], below.extent[3] - below.extent[1])
    shared = min(above.extent[2], below.extent[2]) - max(above.extent[0], below.extent[0])
    return below.extent[1] - above.extent[3] < 1.5 * height and shared > 0


def _as_text(group: Sequence[_Track]) -> TimedText:
    start_s, end_s = min(track.start_s for track in group), max(track.end_s for track in group)
    score = float(np.mean([track.score for track in group]))
    return TimedText(start_s, max(end_s, start_s), " ".join(track.text for track in group), "screen", score)
