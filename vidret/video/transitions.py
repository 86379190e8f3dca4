"""The change from one shot of a film to the next."""

from dataclasses import dataclass

from vidret.types import ShotKind


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of shot: ``frame`` is the first frame of the new shot, by its position among the frames of a film.

    A gradual one lasts from frame ``start`` to ``frame``; a cut has both equal. A wipe is a dissolve.
    """

    start: int
    frame: int
    kind: ShotKind
