"""The timed texts of joined indexes."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from typing_extensions import override

from vidret.errors import StoreError
from vidret.store.catalog.texts import StoredText, TextTrack
from vidret.store.joined import STRIDE, JoinedSelection, JoinedStore, SearchedTogether
from vidret.store.snapshots.bitmap import Ids
from vidret.store.snapshots.snapshot import Selection
from vidret.store.store import Store
from vidret.store.texts.index import Term, TextIndex
from vidret.store.texts.postings import MAX_TEXTS
from vidret.store.texts.store import FoundText, TextStore
from vidret.types import SOURCES, Source, TextSource


def open_texts(store: Store) -> TextStore | None:
    """Open the texts of an index, or of several joined ones; None if there are none.

    Raises:
        StoreError: They cannot be read, or have vectors of different encoders.
    """
    with ExitStack() as stack:
        paths = {
            index_number: index.path for index_number, index in store.parts.items() if TextStore.exists(index.path)
        }
        texts = {index_number: stack.enter_context(TextStore.open(path)) for index_number, path in paths.items()}
        opened = next(iter(texts.values()), None)
        if opened is not None and isinstance(store, JoinedStore):
            opened = JoinedTextStore(texts, store)
        stack.pop_all()  # it closes them
    return opened


class JoinedTextStore(SearchedTogether, TextStore):
    """The texts of several indexes by their numbers; ids of tracks and segments are as in ``JoinedIds``.

    Texts of one content in several indexes are returned once.
    """

    def __init__(self, texts: Mapping[int, TextStore], pictures: JoinedStore) -> None:
        """Use open texts, which ``close`` closes, and the indexes of their videos."""
        self._texts, self._pictures = texts, pictures
        try:
            joined = JoinedStore({index_number: text_store.store for index_number, text_store in texts.items()})
        except StoreError as error:
            raise StoreError(f"{error}; vidret index --sentence-model changes it") from error
        self.store, self._ids = joined, joined.ids
        self._known: tuple[int, JoinedTextIndex] | None = None  # with the generation for which it is valid

    @override
    def close(self) -> None:
        for text_store in self._texts.values():
            text_store.close()

    @property
    @override
    def index(self) -> TextIndex:
        generation, known = self.store.generation, self._known
        if known is None or known[0] != generation:
            again = [key for key, keys in self._ids.copies.items() if key != keys[0]]
            copies = {index_number: np.sort(ids).tolist() for index_number, _, ids in self._ids.group(again)}
            indexes = {index_number: text_store.index for index_number, text_store in self._texts.items()}
            self._known = known = generation, JoinedTextIndex(indexes, copies)
        return known[1]

    @override
    def select(self, pictures: Store, within: Selection, sources: Sequence[Source] = SOURCES) -> Selection:
        assert isinstance(within, JoinedSelection)
        return JoinedSelection.join(
            {key: texts.select(pictures.parts[key], within.parts[key], sources) for key, texts in self._texts.items()}
        )

    @override
    def list_texts(self, pictures: Store, video_ids: Sequence[int], sources: Sequence[Source] = SOURCES) -> Ids:
        listed = self._pictures.ids.list_copies(video_ids)
        ids = [
            text_store.list_texts(pictures.parts[index_number], listed[index_number], sources) + index_number * STRIDE
            for index_number, text_store in self._texts.items()
        ]
        return np.concatenate(ids)

    @override
    def find_contents(self, tracks: Sequence[int] | Ids) -> set[str]:
        return {
            content
            for index_number, _, local_ids in self._ids.group(tracks)
            for content in self._texts[index_number].find_contents(local_ids)
        }

    @override
    def tracks(self, fingerprint: str | None = None) -> list[TextTrack]:
        best: dict[tuple[str, TextSource], TextTrack] = {}
        for index_number, text_store in self._texts.items():
            for track in text_store.tracks(fingerprint):
                previous = best.get((track.fingerprint, track.source))
                if previous is None or track.complete > previous.complete:
                    best[track.fingerprint, track.source] = replace(track, id=track.id + index_number * STRIDE)
        return list(best.values())

    @override
    def read_segments(self, ids: Sequence[int] | Ids) -> list[StoredText]:
        distinct: dict[object, StoredText] = {}
        for index_number, _, local_ids in self._ids.group(ids):
            for stored in self._texts[index_number].read_segments(local_ids):
                distinct.setdefault(
                    (stored.fingerprint, stored.text), replace(stored, id=stored.id + index_number * STRIDE)
                )
        return list(distinct.values())

    @override
    def read_found(self, ids: Ids) -> tuple[list[FoundText], Float32[np.ndarray, "text dim"]]:
        distinct: dict[object, tuple[FoundText, np.ndarray]] = {}
        for index_number, _, local_ids in self._ids.group(ids):
            texts, vectors = self._texts[index_number].read_found(local_ids)
            tracks = np.array([stored.track for stored in texts], np.int64) + index_number * STRIDE
            owners, sources = self.find_owners(self._pictures, tracks)
            for stored, owner, source, row in zip(texts, owners.tolist(), sources.tolist(), vectors, strict=True):
                moved = stored._replace(
                    id=stored.id + index_number * STRIDE, track=stored.track + index_number * STRIDE
                )
                distinct.setdefault((owner, source, stored.start, stored.end, stored.text), (moved, row))
        rows = np.array([row for _, row in distinct.values()], np.float32).reshape(-1, self._ids.dim)
        return [stored for stored, _ in distinct.values()], rows

    @override
    def find_owners(self, pictures: Store, tracks: Ids) -> tuple[Ids, UInt8[np.ndarray, " text"]]:
        video_ids, sources, name = (
            np.full(len(tracks), -1, np.int64),
            np.zeros(len(tracks), np.uint8),
            self._pictures.ids.names(),
        )
        for index_number, _, local_ids in self._ids.group(tracks):
            in_index = tracks // STRIDE == index_number
            videos, sources[in_index] = self._texts[index_number].find_owners(pictures.parts[index_number], local_ids)
            video_ids[in_index] = [name(index_number, video) if video >= 0 else -1 for video in videos.tolist()]
        return video_ids, sources

    @override
    def search(self, vectors: Float32[np.ndarray, "query dim"], k: int, within: Selection | None = None) -> list[Ids]:
        results = self._ask(within, lambda text_store, part: text_store.search(vectors, k, part))
        return [np.concatenate(ids) for ids in zip(*results, strict=True)]

    @override
    def search_words(self, terms: Sequence[str], k: int, within: Selection | None = None) -> Ids:
        results = self._ask(within, lambda text_store, part: [text_store.search_words(terms, k, part)])
        return np.concatenate([ids for (ids,) in results])

    @override
    def find_phrase(self, phrase: str, k: int, within: Selection | None = None) -> Ids:
        results = self._ask(within, lambda text_store, part: [text_store.find_phrase(phrase, k, part)])
        return np.concatenate([ids for (ids,) in results])

    @override
    def search_spoken(self, phonemes: str, k: int, within: Selection | None = None) -> Ids:
        results = self._ask(within, lambda text_store, part: [text_store.search_spoken(phonemes, k, part)])
        return np.concatenate([ids for (ids,) in results])

    def _ask(
        self, within: Selection | None, find: Callable[[TextStore, Selection | None], list[Ids]]
    ) -> list[list[Ids]]:
        """Return the results of each index, from each as many as from a merged one, since their ranks differ."""
        parts = within.parts if isinstance(within, JoinedSelection) else dict.fromkeys(self._texts)
        return [
            [ids + index_number * STRIDE for ids in find(text_store, parts[index_number])]
            for index_number, text_store in self._texts.items()
        ]


class JoinedTextIndex(SearchedTogether, TextIndex):
    """The full-text indexes of several indexes as one."""

    def __init__(self, indexes: Mapping[int, TextIndex], copies: Mapping[int, Sequence[int]]) -> None:
        """Set the indexes, and the tracks in each that another one also has, whose texts are not counted again."""
        self._indexes, self._first = indexes, next(iter(indexes.values()))
        self._flags = {
            index_number: np.isin(np.arange(track_ids[-1] + 1), track_ids).astype(np.uint8).tobytes()
            for index_number, track_ids in copies.items()
            if track_ids
        }
        self._counts = {}

    @override
    def stems(self, texts: Sequence[str]) -> list[list[str]]:
        return self._first.stems(texts)

    @override
    def find_words(self, text: str, stems: Collection[str]) -> tuple[tuple[int, int], ...]:
        return self._first.find_words(text, stems)

    @override
    def terms(self, text: str, silent: Collection[str] = ()) -> list[Term]:
        index_terms = [index.terms(text, silent) for index in self._indexes.values()]
        near = {
            same[0].stem: {stem: likeness for term in same for stem, likeness in term.similar.items()}
            for same in zip(*index_terms, strict=True)
        }
        return self._make_terms(near, silent)

    @override
    def _count(self, term: str) -> int:
        if term not in self._counts:
            again = (
                len(self._indexes[index_number].search([term], MAX_TEXTS, flags))
                for index_number, flags in self._flags.items()
            )
            self._counts[term] = sum(index._count(term) for index in self._indexes.values()) - sum(again)
        return self._counts[term]

    @override
    def find_tracks(self, phrase: str) -> Int64[np.ndarray, " track"]:
        return np.concatenate(
            [index.find_tracks(phrase) + index_number * STRIDE for index_number, index in self._indexes.items()]
        )
