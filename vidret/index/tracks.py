"""The faces and voices of an indexing run: which videos to read them from, and their tracks as they arrive."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence

from vidret.channels.identities import TRACK_KINDS
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import IdentityKind, IdentityModel, Track, unpack_track
from vidret.store.store import Store
from vidret.text import strip_query
from vidret.video.workers.messages import ReadTracks

logger = logging.getLogger(__name__)
CONSENT = (
    "%s are read from now on: they are biometric data, so read them only of people who agree, or in private use; "
    "vectors%s of them stay in this index, and vidret %s forget removes them"
)


@contextlib.contextmanager
def open_tracks(index: Store, models: Mapping[IdentityKind, str]) -> "Iterator[TracksRun | None]":
    """Open the identities of an index that is open for writing; None unless a model is named.

    The index records the models once they are loaded. If it has not read a kind before, a warning says that faces and
    voices are biometric data. Raise VidretError if a model is missing or damaged.
    """
    if not models:
        yield None
        return
    loaded = {kind: _load_model(kind, name) for kind, name in models.items()}
    for name, model in models.items():
        kind = TRACK_KINDS[name]
        index_model = index.metadata.get(kind.setting)
        if not index_model:
            logger.warning(CONSENT, kind.name, " and pictures" if name == "face" else "", kind.argument)
        if index_model != model:
            index.metadata.set(kind.setting, model)
    with IdentityStore.create(index.path) as store:
        yield TracksRun(store, models, loaded)


class TracksRun:
    """The faces and voices of one run, with the ``counts`` of tracks by kind. Threads may share it."""

    def __init__(
        self, store: IdentityStore, names: Mapping[IdentityKind, str], models: Mapping[IdentityKind, IdentityModel]
    ) -> None:
        """Set the store of identities, the names of the models, and their descriptions for the store."""
        self._store, self._names, self._models, self._lock = store, names, models, threading.Lock()
        self.counts: dict[IdentityKind, int] = dict.fromkeys(names, 0)

    def list_wanted(self, content: str) -> list[IdentityKind]:
        """Return the kinds that these models have not read of a content, given by its fingerprint."""
        return [kind for kind, model in self._models.items() if not self._store.is_read(content, model)]

    def describe_model(self, kind: IdentityKind) -> dict[str, object]:
        """Return the name of a model and its digest, which must be the same on all machines."""
        return {"model": self._names[kind], "digest": self._models[kind].digest}

    def write(self, content: str, kind: IdentityKind, tracks: Sequence[Track]) -> None:
        """Store all tracks of one kind of a content."""
        with self._lock:
            self._store.write_tracks(content, self._models[kind], tracks)
            self.counts[kind] += len(tracks)


def _load_model(kind: IdentityKind, name: str) -> IdentityModel:
    """Load a model, and return its stored description."""
    if kind == "face":
        from vidret.channels.people.reading import load_face_model

        faces = load_face_model(name)
        return IdentityModel(kind=kind, digest=faces.name, link_distance=faces.link_distance)
    from vidret.channels.voices.encoder import load_voice_encoder

    voices = load_voice_encoder(name)
    return IdentityModel(kind=kind, digest=voices.digest, link_distance=(2 - 2 * voices.same_voice) ** 0.5)


class ContentTracks:
    """The tracks of one content while it is read; those of a kind are stored once complete."""

    def __init__(self, run: TracksRun, content: str, path: str) -> None:
        """Start with the kinds still to be read of the content."""
        self._run, self._content, self._path = run, content, path
        self._tracks: dict[IdentityKind, list[Track]] = {kind: [] for kind in run.list_wanted(content)}

    @property
    def remaining(self) -> list[IdentityKind]:
        """The kinds that are not finished."""
        return list(self._tracks)

    def request(self, start_s: float) -> dict[IdentityKind, dict[str, object]]:
        """Return the request to ``DecodePool.stream``: the remaining kinds, again from the start of the video."""
        self._tracks = {kind: [] for kind in self._tracks}
        return {kind: {"start_s": start_s, **self._run.describe_model(kind)} for kind in self._tracks}

    def add(self, message: ReadTracks) -> None:
        """Add the tracks of a message."""
        if message.source in self._tracks:
            self._tracks[message.source] += [unpack_track(row) for row in message.tracks]

    def finish(self, kind: IdentityKind, note: str) -> None:
        """Store the tracks of a kind; if a note says why not all were read, log it, and let the next run try again."""
        tracks = self._tracks.pop(kind, None)
        if note:
            path, what = strip_query(self._path), TRACK_KINDS[kind].name
            logger.warning("%s: its %s could not be read: %s", path, what, note)
        elif tracks is not None:
            self._run.write(self._content, kind, tracks)
