"""The interface of vector indexes, which find the nearest segments of a query, and where an index keeps its own."""

import json
import re
import secrets
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Float32, Int64

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.vectors.address import FAISS
from vidret.store.vectors.faiss import FaissVectors
from vidret.store.vectors.milvus import MilvusVectors
from vidret.types import Filters


class VectorIndex(Protocol):
    """A searchable copy of the vectors in the feature files, synchronised with the catalog."""

    @property
    def kind(self) -> str:
        """The kind of index, ``none`` before anything is saved."""

    @property
    def max_k(self) -> int | None:
        """The maximum ``k`` of ``search``, None for no limit."""

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters, excluded: Set[int] = frozenset()
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Return scores and ids of the k best searchable segments per query, from videos that match.

        Those of ``excluded`` videos are left out before the k best are chosen.
        """

    def prepare(self) -> None:
        """Check, before a writer starts, that saving will be possible."""

    def note_changes(self, num_changes: int = 1) -> None:
        """Handle changes that have just been made to the catalog."""

    def save(self) -> None:
        """Save all changes, so that opening the index is fast."""

    def drop(self) -> None:
        """Delete the saved vectors."""

    def close(self) -> None:
        """Release all resources."""


@dataclass(frozen=True, slots=True)
class VectorLocation:
    """Where an index keeps its vectors: a normalised address, and the name of its collection there."""

    address: str = FAISS
    name: str = ""

    @classmethod
    def create(cls, address: str) -> Self:
        """Return a location with a unique name, so that many indexes can share a server."""
        return cls(address, "" if address == FAISS else secrets.token_hex(8))

    @classmethod
    def from_json(cls, text: Any) -> Self:
        """Parse the result of ``to_json``; None means FAISS.

        Raises:
            StoreError: It is something else.
        """
        try:
            location = cls(**json.loads(text)) if text else cls()
            if re.fullmatch("[0-9a-f]*", location.name):  # it becomes a part of SQL
                return location
        except (ValueError, TypeError):
            pass
        raise StoreError(f"store must be an address and the name of a collection, got {text!r}")

    def to_json(self) -> str:
        """Return the location as JSON for the catalog."""
        return json.dumps({"address": self.address, "name": self.name})


def open_vectors(
    location: VectorLocation,
    folder: Path,
    dim: int,
    catalog: Catalog,
    epochs: Epochs,
    *,
    device: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> VectorIndex:
    """Open the vectors of an index; nothing is loaded or connected before it is needed."""
    if location.address == FAISS:
        return FaissVectors(folder, dim, catalog, epochs, device=device)
    return MilvusVectors(location.address, location.name, folder, dim, catalog, epochs, on_progress=on_progress)
