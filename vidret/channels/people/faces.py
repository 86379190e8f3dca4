"""A face in an image, and what a model of faces offers."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vidret.types import Picture

Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels; it may reach beyond the image
Points = Float[np.ndarray, "5 2"]  # left eye, right eye, nose, left and right corner of the mouth, as seen; pixels


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A face in an image.

    Attributes:
        box: Where it is.
        points: Where its eyes, nose and corners of the mouth are.
        score: How sure the detector is, in 0..1.
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
        name: Its name, which promises the same vectors of the same images; vectors of two names are never compared.
        template: Where the five points of a face are in an aligned image, in pixels.
        side: Side of an aligned image, in pixels.
        link_distance: Euclidean distance of vectors below which two faces are of one person.
        maybe_distance: Distance below which they may be; at least ``link_distance``.
    """

    name: str
    template: Points
    side: int
    link_distance: float
    maybe_distance: float

    def find(self, image: Picture, *, min_size: float) -> list[Face]:
        """Return the faces of an image that are at least ``min_size`` pixels large."""
        ...

    def describe(self, chips: UInt8[np.ndarray, "face side side 3"]) -> Float32[np.ndarray, "face dim"]:
        """Return the vectors of aligned images."""
        ...
