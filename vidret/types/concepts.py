"""Concepts that a user teaches by examples."""

import os
from dataclasses import dataclass, field
from typing import Annotated

from vidret.types.media import Picture
from vidret.types.results import Hit, Moment
from vidret.types.rows import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptExample:
    """An image, or a stretch of an indexed video, that shows a concept or does not.

    Attributes:
        path: Path of the image or the video; a name for an image that is given.
        start: Start of the stretch in seconds; None for an image, and for a whole video.
        end: End of the stretch in seconds.
        image: The image, where it is not read from ``path``. It is not kept.
    """

    path: Annotated[str, Shown(holds="path", example="/videos/beach.mp4")]
    start: Annotated[float | None, Shown(example=24.0)] = None
    end: Annotated[float | None, Shown(example=36.0)] = None
    image: Annotated[Picture | None, Shown(everywhere=False)] = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A concept as an index keeps it; ``@name`` stands for it in queries.

    Attributes:
        name: Its name.
        text: What the encoder reads for it.
        share: Weight of the examples, 0..1; the rest is that of the text.
        yes: Examples that show it.
        no: Examples that do not.
    """

    name: Annotated[str, Shown(example="mascot")]
    text: Annotated[str, Shown(example="mascot")]
    share: Annotated[float, Shown(example=0.5)]
    yes: tuple[ConceptExample, ...]
    no: tuple[ConceptExample, ...] = ()


# An example, or anything that stands for one: the path of an image or of a video of the index, an image, a result.
ExampleLike = ConceptExample | Hit | Moment | Picture | str | os.PathLike[str]


def as_example(example: ExampleLike) -> ConceptExample:
    """Return anything that stands for an example as one; a hit stands for its best segment."""
    if isinstance(example, ConceptExample):
        return example
    if isinstance(example, Hit):
        return ConceptExample(path=example.path, start=example.segment.start, end=example.segment.end)
    if isinstance(example, Moment):
        return ConceptExample(path=example.path, start=example.start, end=example.end)
    if isinstance(example, str | os.PathLike):
        return ConceptExample(path=os.fspath(example))
    return ConceptExample(path="an image", image=example)
