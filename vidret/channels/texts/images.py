"""Comparison of frames and parts of them as small images, and the boxes of texts in frames."""

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vidret.types import Picture

READING_SIDE = 1280  # pixels; the longer side of the image from which text is read
_CHANGED_LEVEL, _CHANGED_SHARE = 10, 0.001  # of 255, and of all points
_MOVING_SHARE = 0.25
_CUT_LEVEL, _CUT_SHARE = 40, 0.5
_STROKE = 9  # pixels
_BLOB_STEP = 32  # pixels; the sides of images in which text is looked for are multiples
_HALF_LEVEL = 127.5
_STRIP_HEIGHT, _MIN_STRIP_WIDTH = 48, 160  # pixels; narrower texts are read with an empty margin
_UPRIGHT = 1.5  # height relative to width from which a text is read upwards
_MIN_PROBABILITY, _MIN_MEAN = 0.3, 0.5  # of the points of a text, and of all in its box
_MIN_SIDE = 3  # pixels
_GROWTH = 1.6  # of the narrow boxes in which a detector finds texts: area times this, over the length of the outline
_MAX_FOUND = 1000

Box = Float[np.ndarray, "corner 2"]  # relative to the frame
Extent = tuple[float, float, float, float]  # left, top, right and bottom, relative to the frame


def fit_image(image: Picture, side: int = READING_SIDE) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Return a frame with its longer side at most ``side`` pixels."""
    import cv2

    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def make_blob(image: Picture) -> Float32[np.ndarray, "1 3 new_height new_width"]:
    """Return the input of the text detector for an image: blue, green and red from -1 to 1."""
    import cv2

    height, width = image.shape[:2]
    size = [max(1, round(side / _BLOB_STEP)) * _BLOB_STEP for side in (width, height)]
    return _to_blob(cv2.resize(image, size))


def _to_blob(image: Picture) -> Float32[np.ndarray, "1 3 height width"]:
    """Return an image with blue, green and red from -1 to 1."""
    import cv2

    blob = cv2.dnn.blobFromImage(image, 1 / _HALF_LEVEL, mean=(_HALF_LEVEL,) * 3, swapRB=True)
    return np.asarray(blob, np.float32)


def find_boxes(probabilities: Float32[np.ndarray, "height width"]) -> list[Box]:
    """Return the corners of texts, given a detector's probability of a text's middle at each point."""
    import cv2

    size = np.array(probabilities.shape[::-1], np.float32)
    is_text = cv2.dilate((probabilities > _MIN_PROBABILITY).astype(np.uint8), np.ones((2, 2), np.uint8))
    outlines, _ = cv2.findContours(is_text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = list[Box]()
    for outline in outlines[:_MAX_FOUND]:
        middle, (width, height), angle = cv2.minAreaRect(outline)
        if min(width, height) < _MIN_SIDE:
            continue
        if _average_inside(probabilities, cv2.boxPoints((middle, (width, height), angle))) < _MIN_MEAN:
            continue
        margin = _GROWTH * width * height / (width + height)
        corners = cv2.boxPoints((middle, (width + margin, height + margin), angle))
        boxes.append(_sort_corners(corners.clip(0, size - 1) / size))
    return boxes


def _average_inside(values: Float32[np.ndarray, "height width"], corners: Float[np.ndarray, "4 2"]) -> float:
    """Return the mean of the values within four corners."""
    import cv2

    last = np.array(values.shape[::-1]) - 1
    low = np.floor(corners.min(axis=0)).astype(int).clip(0, last)
    high = np.ceil(corners.max(axis=0)).astype(int).clip(0, last)
    mask = np.zeros((high - low + 1)[::-1], np.uint8)
    cv2.fillPoly(mask, [(corners - low).astype(np.int32)], 1)
    return float(cv2.mean(values[low[1] : high[1] + 1, low[0] : high[0] + 1], mask)[0])


def _sort_corners(corners: Box) -> Box:
    """Return four corners clockwise from the upper left."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (side[np.argsort(side[:, 1], kind="stable")] for side in (by_x[:2], by_x[2:]))
    return np.stack([left[0], right[0], right[1], left[1]])


def crop_box(image: Picture, box: Box) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Return the part of an image in a box, upright, and turned to the right if it is much higher than wide."""
    import cv2

    corners = np.asarray(box * np.array(image.shape[1::-1]), np.float32)
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    width, height = max(1, int(max(sides[0], sides[2]))), max(1, int(max(sides[1], sides[3])))
    target = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    turn = cv2.getPerspectiveTransform(corners, target)
    crop = cv2.warpPerspective(image, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.rot90(crop) if height >= _UPRIGHT * width else crop


def make_strip(image: Picture) -> Float32[np.ndarray, "1 3 48 new_width"]:
    """Return the recogniser's input for a line of text: blue, green and red from -1 to 1, and 0 in the margin."""
    import cv2

    height, width = image.shape[:2]
    blob = _to_blob(cv2.resize(image, (int(np.ceil(_STRIP_HEIGHT * width / height)), _STRIP_HEIGHT)))
    return np.pad(blob, ((0, 0), (0, 0), (0, 0), (0, max(0, _MIN_STRIP_WIDTH - blob.shape[3]))))


def shrink(image: Picture, shape: tuple[int, int]) -> UInt8[np.ndarray, "new_height new_width"]:
    """Return an image in grey, resized to (height, width)."""
    import cv2

    small = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def is_unchanged(before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether two small grey images differ in so few points that no text can have come or gone."""
    return _find_changed(before, after, _CHANGED_LEVEL) < _CHANGED_SHARE


def is_moving(before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether two small grey images differ in more points than by a text that comes or goes."""
    return _find_changed(before, after, _CHANGED_LEVEL) > _MOVING_SHARE


def is_cut(before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "height width"]) -> bool:
    """Return whether two small grey images differ in so many points that another scene has begun."""
    return _find_changed(before, after, _CUT_LEVEL) > _CUT_SHARE


def _find_changed(
    before: UInt8[np.ndarray, "height width"], after: UInt8[np.ndarray, "height width"], level: int
) -> float:
    """Return the share of points that differ by more than a level."""
    return float((np.abs(before.astype(np.int16) - after) > level).mean())


def bound(box: Box) -> Extent:
    """Return the extent of a box: its left, top, right and bottom."""
    low, high = box.min(axis=0), box.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def cut(image: Picture, extent: Extent) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Return a part of an image, at least one pixel large."""
    height, width = image.shape[:2]
    left, top = min(max(0, int(extent[0] * width)), width - 1), min(max(0, int(extent[1] * height)), height - 1)
    right, bottom = max(left + 1, round(extent[2] * width)), max(top + 1, round(extent[3] * height))
    return image[top:bottom, left:right]


def likeness(one: UInt8[np.ndarray, "height width"], other: UInt8[np.ndarray, "height width"]) -> float:
    """Return the correlation of the strokes in two small grey images of equal size, in -1..1."""
    first, second = _strokes(one), _strokes(other)
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm else float(np.array_equal(one, other))


def _strokes(image: UInt8[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
    """Return an image without its background, everything larger than the strokes of letters."""
    import cv2

    bright = image.astype(np.float32)
    return np.asarray(bright - cv2.blur(bright, (_STROKE, _STROKE)), np.float32)


def overlap_boxes(one: Extent, other: Extent) -> float:
    """Return the intersection over union of two extents (left, top, right, bottom)."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(extent[2] - extent[0]) * (extent[3] - extent[1]) for extent in (one, other)]
    return width * height / (sum(areas) - width * height)
