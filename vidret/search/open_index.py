"""An index open for queries: its pictures, texts and sounds, what encodes queries, and the persons that these name."""

import threading
from collections.abc import Iterator
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
        encoder: What encodes queries, with the concepts of the index.
        pictures: Its pictures.
        people: Its persons.
        segments: The space of its vectors, for likes and kinds.
        told_missing: Paths of missing files that the log has named.
    """

    def __init__(self, store: Store, encoder: Encoder, models: Models) -> None:
        self.store, self.encoder = store, ConceptEncoder(encoder, store)
        self.pictures = PictureChannel(store, self.encoder, models.ranker, tokens=models.tokens)
        self.people, self.segments = KnownPersons(store), SegmentSpace(store)
        self.told_missing = set[str]()
        self._texts: TextChannel | None = None
        self._sounds: SoundChannel | None = None
        self._refiner: EdgeRefiner | None = None
        self._opening = threading.RLock()

    @property
    def texts(self) -> TextChannel | None:
        """The texts; None without any. A run may add them meanwhile."""
        with self._opening:
            if self._texts is None and (texts := open_texts(self.store)) is not None:
                self._texts = TextChannel(texts, self.store)
            return self._texts

    @property
    def sounds(self) -> SoundChannel | None:
        """The windows of sounds, as the texts."""
        with self._opening:
            self._sounds = self._sounds or open_sounds(self.store)
            return self._sounds

    @property
    def refiner(self) -> "EdgeRefiner":
        """What makes the edges of moments precise."""
        from vidret.search.edges import EdgeRefiner

        with self._opening:
            self._refiner = self._refiner or EdgeRefiner(self.encoder)
            return self._refiner

    @cached_property
    def explorer(self) -> "Explorer":
        """What is in the index, without a query."""
        from vidret.search.browsing import Explorer

        return Explorer(self.store)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let this thread see the index and its texts as they are now, for a query; NumPy starts no others."""
        texts = self.texts
        words = nullcontext() if texts is None else texts.texts.store.hold()
        with one_blas_thread(), self.store.hold(), words:
            yield

    def close(self) -> None:
        """Close the index, its words and sounds, and end the process that decodes frames for edges."""
        if self._texts is not None:
            self._texts.texts.close()
        for opened in (self._sounds, self._refiner, self.store):
            if opened is not None:
                opened.close()
