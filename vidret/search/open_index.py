"""An index open for queries: its channels, the encoder of queries, and the persons that queries can name."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

from vidret.channels.picture.channel import PictureChannel
from vidret.channels.sounds.channel import SoundChannel, open_sounds
from vidret.channels.texts.channel import TextChannel
from vidret.devices import one_blas_thread
from vidret.encode.encoder import Encoder
from vidret.search.concepts.encoder import ConceptEncoder
from vidret.search.feedback import SegmentSpace
from vidret.search.models import Models
from vidret.search.people import KnownPersons
from vidret.store.store import Store
from vidret.store.texts.joined import open_texts

if TYPE_CHECKING:
    from vidret.search.browsing import Explorer
    from vidret.search.edges import EdgeRefiner


class OpenIndex:
    """An index open for queries.

    Attributes:
        store: The index.
        encoder: The encoder of queries, with the concepts of the index.
        pictures: The channel of its pictures.
        people: Its persons.
        segments: The space of its vectors, for likes and kinds.
    """

    def __init__(self, store: Store, encoder: Encoder, models: Models) -> None:
        self.store, self.encoder = store, ConceptEncoder(encoder, store)
        self.pictures = PictureChannel(store, self.encoder, models.ranker, tokens=models.tokens)
        self.people, self.segments = KnownPersons(store), SegmentSpace(store)
        self._logged = set[str]()
        self._texts: TextChannel | None = None
        self._sounds: SoundChannel | None = None
        self._refiner: EdgeRefiner | None = None
        self._opening = threading.RLock()

    @property
    def texts(self) -> TextChannel | None:
        """The channel of texts; None without any. They are opened as soon as a run has added some."""
        with self._opening:
            if self._texts is None and (texts := open_texts(self.store)) is not None:
                self._texts = TextChannel(texts, self.store)
            return self._texts

    @property
    def sounds(self) -> SoundChannel | None:
        """The channel of sounds; None without any."""
        with self._opening:
            self._sounds = self._sounds or open_sounds(self.store)
            return self._sounds

    @property
    def refiner(self) -> "EdgeRefiner":
        """The refiner of the edges of moments."""
        from vidret.search.edges import EdgeRefiner

        with self._opening:
            self._refiner = self._refiner or EdgeRefiner(self.encoder)
            return self._refiner

    @cached_property
    def explorer(self) -> "Explorer":
        """The explorer of the index, for overviews without a query."""
        from vidret.search.browsing import Explorer

        return Explorer(self.store)

    def take_new_notes(self, notes: Iterable[str]) -> list[str]:
        """Return the notes not yet logged for this index: paths of missing files, or notes of searches."""
        new = [note for note in dict.fromkeys(notes) if note not in self._logged]
        self._logged.update(new)
        return new

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Pin this thread to the current snapshots of the index and its texts; NumPy runs on one thread inside."""
        texts = self.texts
        words = nullcontext() if texts is None else texts.texts.store.hold()
        with one_blas_thread(), self.store.hold(), words:
            yield
