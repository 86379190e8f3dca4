"""The faces of an indexing run: which videos they are wanted of, and their tracks as they arrive."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

from vidret.channels.people.models import load_face_model
from vidret.channels.people.options import MODEL, PeopleOptions
from vidret.channels.people.track_rows import unpack_track
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import IdentityModel, Track
from vidret.store.store import Store
from vidret.video.workers.messages import ReadTracks

logger = logging.getLogger(__name__)
CONSENT = (
    "faces are read from now on: they are biometric data, so read them only of people who agree, or in private use; "
    "vectors and pictures of them stay in this index, and vidret people forget removes them"
)


@contextlib.contextmanager
def open_people(index: Store, options: PeopleOptions | None) -> "Iterator[PeopleRun | None]":
    """Open the identities of an index that is open for writing; None without options.

    An index that reads faces for the first time remembers it, and says what that means.
    """
    if options is None:
        yield None
        return
    known = index.metadata.get(MODEL)
    if known is None:
        logger.warning(CONSENT)
    if known != options.model:
        index.metadata.set(MODEL, options.model)
    with IdentityStore.create(index.path) as store:
        yield PeopleRun(store, options)


class PeopleRun:
    """The faces of one run. Threads may share it."""

    def __init__(self, store: IdentityStore, options: PeopleOptions) -> None:
        """Load the model, so that a fault of the installation ends the run before the first file.

        Raises:
            VidretError: The model is missing or damaged.
        """
        self._store, self._options, self._lock = store, options, threading.Lock()
        model = load_face_model(options.model)
        self._model = IdentityModel(
            kind="face", digest=model.name, link_distance=model.link_distance, maybe_distance=model.maybe_distance
        )
        self.num_tracks = 0

    def is_wanted(self, content: str) -> bool:
        """Return whether the faces of a content, given by its fingerprint, were not read by this model."""
        return not self._store.is_read(content, self._model)

    def request(self, start_s: float) -> dict[str, object]:
        """Return how ``DecodePool.stream`` shall read the faces of a video that starts at a time."""
        return {"start_s": start_s, "model": self._options.model}

    def write(self, content: str, tracks: Sequence[Track]) -> None:
        """Store all tracks of a content."""
        with self._lock:
            self._store.write_tracks(content, self._model, tracks)
            self.num_tracks += len(tracks)


class ContentFaces:
    """The faces of one content while they are read; they are stored once they are complete."""

    def __init__(self, run: PeopleRun, content: str, path: str) -> None:
        """Start with none."""
        self._run, self._content, self._path = run, content, path
        self._tracks: list[Track] = []

    def add(self, message: ReadTracks) -> None:
        """Add further tracks."""
        self._tracks += [unpack_track(row) for row in message.tracks]

    def finish(self, note: str) -> None:
        """Store the tracks, unless a note says why not all frames were read: then the next run tries again."""
        if note:
            logger.warning("%s: its faces could not be read: %s", self._path, note)
        else:
            self._run.write(self._content, self._tracks)
