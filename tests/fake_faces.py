"""A model of faces for tests: a face is a block of one strong colour, and the colour is its vector."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from tests.fakes import write_pictures
from vidret.channels.people.faces import Face
from vidret.types import Picture

NAME = "tests.fake_faces:ColouredFaces"
PEOPLE = {"ann": (255, 0, 0), "bob": (0, 0, 255), "eve": (0, 255, 0)}
TEMPLATE = np.array([(10.0, 10.0), (30.0, 10.0), (20.0, 20.0), (12.0, 30.0), (28.0, 30.0)])


class ColouredFaces:
    """Finds red, blue and green blocks."""

    name, template, side = "coloured faces 1", TEMPLATE, 40
    link_distance, maybe_distance = 0.5, 0.6

    def find(self, image: Picture, *, min_size: float) -> list[Face]:
        faces = []
        for colour in PEOPLE.values():
            rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(axis=2))
            if len(rows) and np.ptp(columns) >= min_size / 2:
                box = tuple(float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
                scale = (box[2] - box[0]) / self.side
                faces.append(Face((box[0], box[1], box[2], box[3]), TEMPLATE * scale + box[:2], 0.99))
        return faces

    def describe(self, chips: UInt8[np.ndarray, "face side side 3"]) -> Float32[np.ndarray, "face 3"]:
        vectors: Float32[np.ndarray, "face 3"] = (chips.mean(axis=(1, 2)) / 255).astype(np.float32)
        return vectors


class BrokenFaces(ColouredFaces):
    """Fails at every frame."""

    name = "broken faces"

    def find(self, image: Picture, *, min_size: float) -> list[Face]:
        raise RuntimeError("no face today")


def write_people(path: Path, *scenes: tuple[int, dict[str, int], int]) -> Path:
    """Write scenes of a grey background, people with the place of their left edge, and seconds; 160 x 120 at 8 fps."""
    images = []
    for grey, people, seconds in scenes:
        for step in range(8 * seconds):
            image = np.full((120, 160, 3), grey, np.uint8)
            for name, left in people.items():
                image[40:90, left + step // 8 :][:, :48] = PEOPLE[name]
            images.append(image)
    return write_pictures(path, images, 8)
