"""A face in an image, the protocol of face models, and the alignment of a face to a model's template."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from vidret.types import Picture

Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels; it may reach beyond the image
Points = Float[np.ndarray, "5 2"]  # left eye, right eye, nose, left and right corner of the mouth, as seen; pixels


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face in an image.

    Attributes:
        box: Its bounding box.
        points: Its eyes, nose and corners of the mouth.
        score: Confidence of the detector, in 0..1; see ``MIN_SCORE`` and ``SEEN_SCORE`` of the reader.
    """

    box: Box
    points: Points
    score: float

    @property
    def size(self) -> float:
        """The longer side of its box, in pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


class FaceModel(Protocol):
    """Finds faces and describes them by vectors that are close for the same person.

    Attributes:
        name: Its name. One name always gives the same vectors of an image; vectors of two names are never compared.
        template: The five points of a face in an aligned image, in pixels.
        side: Side of an aligned image, in pixels.
        link_distance: Euclidean distance of vectors of unit length below which two faces are of one person.
        maybe_distance: Distance below which they may be; at least ``link_distance``.
    """

    name: str
    template: Points
    side: int
    link_distance: float
    maybe_distance: float

    def find(self, image: Picture, *, min_size: float) -> list[Face]:
        """Return the faces of an image that are at least ``min_size`` pixels large."""

    def describe(self, chips: UInt8[np.ndarray, "face side side 3"]) -> Float32[np.ndarray, "face dim"]:
        """Return the vectors of aligned images, which are scaled to unit length before they are compared."""


def fit_similarity(
    source: Float[np.ndarray, "point 2"], target: Float[np.ndarray, "point 2"]
) -> Float[np.ndarray, "2 3"]:
    """Return the rotation, scale and shift that map points closest to others, in least squares.

    Mirroring is not allowed. Reference: Umeyama 1991, "Least-squares estimation of transformation parameters between
    two point patterns". Raise ValueError if all points of the source are the same.
    """
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    variance = (centred**2).sum(axis=1).mean()
    if not variance > 0:
        raise ValueError("source must have different points, got one")
    left, values, right = np.linalg.svd((target - target_mean).T @ centred / len(source))
    signs = np.array((1.0, 1.0 if np.linalg.det(left) * np.linalg.det(right) > 0 else -1.0))
    turn = (left * signs) @ right * ((values * signs).sum() / variance)
    return np.column_stack((turn, target_mean - turn @ source_mean))


def measure_misfit(points: Points, template: Points) -> float:
    """Return the root mean square distance of a face's points from a template after alignment, in its pixels.

    It is small for a frontal face, and large in profile.
    """
    matrix = fit_similarity(points, template)
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(((placed - template) ** 2).sum(axis=1).mean()))


def measure_outside(points: Points, template: Points, side: int, size: tuple[int, int]) -> float:
    """Return the share of an aligned image that is outside of the image of this width and height, to a hundredth."""
    matrix = fit_similarity(points, template)
    middles = (np.arange(10) + 0.5) * side / 10
    grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
    positions = (grid - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return float(((positions < 0) | (positions >= size)).any(axis=1).mean())


def align(image: Picture, points: Points, template: Points, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Return the part of an image in which the points of a face are as close as possible to those of a template.

    Parts outside the image are black. Positions are of the centres of pixels, the first of which is at 0.
    """
    matrix = fit_similarity(points, template)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    factor = max(1, int(1 / scale))  # a larger face is averaged first, since bilinear filtering skips pixels
    turn = np.linalg.inv(matrix[:, :2])
    # Pillow counts positions from the corner of the first pixel.
    shift = -turn @ (matrix[:, 2] + 0.5) + 0.5
    corners = np.array([(0, 0), (side, 0), (0, side), (side, side)]) @ turn.T + shift
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(corners.min(axis=0)).astype(int) - factor, 0, (width - 1, height - 1)).tolist()
    right, bottom = np.clip(np.ceil(corners.max(axis=0)).astype(int) + factor, (left + 1, top + 1), (width, height))
    crop = Image.fromarray(image[top:bottom, left:right]).reduce(factor)
    (a, b), (d, e) = (turn / factor).tolist()
    c, f = ((shift - (left, top)) / factor).tolist()
    chip = crop.transform((side, side), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR)
    return np.asarray(chip)


def measure_sharpness(chip: UInt8[np.ndarray, "side side 3"]) -> float:
    """Return the variance of the Laplacian of an image in grey."""
    grey = chip.mean(axis=2)
    middle = grey[1:-1, 1:-1]
    return float((grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle).var())
