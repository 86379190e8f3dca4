"""The interface of vector stores, which find the nearest segments of a query, and the location of the vectors."""

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.feature_epochs import Epochs
from vidret.store.snapshots.snapshot import Selection

FAISS = "faiss"  # the address of the vector store that is part of every installation


Queries = Float32[np.ndarray, "query dim"]


class SearchResult(NamedTuple):
    """The best ids per query, best first; id -1 and score -inf if there are fewer than k."""

    scores: Float32[np.ndarray, "query k"]
    ids: Int64[np.ndarray, "query k"]


class VectorIndex(Protocol):
    """A searchable copy of the vectors in the feature files, synchronised with the catalog."""

    @property
    def kind(self) -> str:
        """The kind of index, ``none`` before anything is saved."""

    @property
    def max_k(self) -> int | None:
        """The maximum ``k`` of ``search_within``, None for no limit."""

    def search_within(self, queries: Queries, k: int, within: Selection) -> SearchResult:
        """Return scores and ids of the k best segments per query, within a selection of a snapshot.

        The selection is applied before the k best are chosen.
        """

    def search_words(self, terms: Sequence[str], k: int, within: Selection) -> "FoundWords | None":
        """Return the k texts of a selection with the best bm25 for any of these stems; None if it has no full text."""

    def prepare(self) -> None:
        """Check that saving will be possible, before a writer starts."""

    def note_changes(self, num_changes: int = 1) -> None:
        """Note changes that have just been made to the catalog."""

    def save(self) -> None:
        """Save all changes, so that opening the index is fast."""

    def drop(self) -> None:
        """Delete the saved vectors."""

    def close(self) -> None:
        """Release all resources."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundWords:
    """Texts that a full-text search found, best first, and the tracks whose texts it may have missed."""

    ids: Int64[np.ndarray, " id"]
    missed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VectorLocation:
    """The location of an index's vectors: a normalised address, and the name of its collection there."""

    address: str = FAISS
    name: str = ""

    @classmethod
    def create(cls, address: str) -> Self:
        """Return a location with a unique name, so that many indexes can share a server."""
        return cls(address, "" if address == FAISS else secrets.token_hex(8))

    @classmethod
    def from_json(cls, text: Any) -> Self:
        """Parse the result of ``to_json``; None means FAISS."""
        try:
            location = cls(**json.loads(text)) if text else cls()
            if re.fullmatch("[0-9a-f]*", location.name):  # the name becomes a part of SQL
                return location
        except (ValueError, TypeError):
            pass
        raise StoreError(f"store must be an address and the name of a collection, got {text!r}")

    def to_json(self) -> str:
        """Return the location as JSON for the catalog."""
        return json.dumps({"address": self.address, "name": self.name})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class VectorOptions:
    """The arguments for opening a vector store: an index in a folder, its catalog, and the ``epochs`` of its vectors.

    ``device`` is the device to search on, if the store can choose. ``on_progress`` receives the number of videos saved
    and the total.
    """

    folder: Path
    dim: int
    catalog: Catalog
    epochs: Epochs
    device: str = "cpu"
    on_progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStore:
    """A kind of vector store, registered in ``registry``.

    Attributes:
        forms: Forms of its addresses, for messages; the first one is an address that suits any index.
        normalise: Returns an address in the form that an index in a folder stores; None if it is of another store.
        is_part: Returns whether the data at a normalised address is part of the index, so that users need not allow it.
        check: Raises a ``VidretError`` if vectors of a dimension cannot be stored at an address.
        open: Opens the vectors at a location; nothing is loaded or connected before it is needed.
    """

    forms: tuple[str, ...]
    normalise: Callable[[str, Path], str | None]
    is_part: Callable[[str], bool]
    check: Callable[[str, Path, int], None]
    open: Callable[[VectorLocation, VectorOptions], VectorIndex]
