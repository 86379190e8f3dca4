"""Whether and how an indexing run reads faces."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from vidret.errors import MissingExtraError, VidretError
from vidret.store.consent import allow, check_allowed
from vidret.store.store import Store

BUNDLED = "mtcnn+dlib"
MODEL = "people_model"  # the metadata key of its name, which an index has that reads faces
_PACKAGES = ("mtcnn", "lz4", "joblib", "face_recognition_models")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleOptions:
    """How faces are read.

    Attributes:
        model: ``mtcnn+dlib``, or a class with the members of ``FaceModel``, as ``package.module:Class``.
    """

    model: str = BUNDLED

    def check_installed(self) -> None:
        """Check that the packages are installed.

        Raises:
            MissingExtraError: The extra ``people`` is not installed.
        """
        if self.model == BUNDLED and not all(find_spec(name) is not None for name in _PACKAGES):
            raise MissingExtraError("reading faces", "people")


def choose_people(index: str | os.PathLike[str], people: bool | PeopleOptions | None) -> PeopleOptions | None:
    """Return how a run reads faces: None goes on as the index does, True starts to, False leaves them out.

    An index that was never asked for faces has none.

    Raises:
        VidretError: ``people`` is something else, or the index names a model that nobody allowed.
    """
    if isinstance(people, PeopleOptions):
        if people.model != BUNDLED:
            allow(index, people.model)
        return people
    if people not in (True, False, None):
        raise VidretError(f"people must be True, False, None or PeopleOptions, got {people!r}")
    known = _read_model(index)
    if people is False or (people is None and known is None):
        return None
    options = PeopleOptions() if known is None else PeopleOptions(model=known)
    if options.model != BUNDLED:
        check_allowed(index, options.model, option="--face-model")
    return options


def _read_model(index: str | os.PathLike[str]) -> str | None:
    """Return the name of the model by which faces of an index were read last; None if none was."""
    if not Store.exists(index):
        return None
    with Store.open(index) as store:
        name = store.metadata.get(MODEL)
    return None if name is None else str(name)
