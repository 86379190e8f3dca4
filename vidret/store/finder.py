"""What finds the segments nearest a query, for a Store that does not care where the vectors are."""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from jaxtyping import Float32, Int64

from vidret.store.address import FAISS
from vidret.store.candidates import Candidates
from vidret.store.catalog import Catalog
from vidret.store.epochs import Epochs
from vidret.store.mirrored import Mirrored
from vidret.types import Filters


class Finder(Protocol):
    """Vectors that follow a catalog and its feature files: made of these, and never more than a copy."""

    @property
    def kind(self) -> str:
        """Say how a search goes, ``none`` where nothing is there yet."""

    @property
    def max_k(self) -> int | None:
        """The largest ``k`` that ``search`` takes, None for no limit."""

    def search(
        self, queries: Float32[np.ndarray, "query dim"], k: int, filters: Filters
    ) -> tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]:
        """Find the k best segments per query among those searchable now, of videos that match."""

    def prepare(self) -> None:
        """Tell a writer now what would fail after its work."""

    def keep_up(self, num_changes: int = 1) -> None:
        """Hear that the catalog has just been changed."""

    def save(self) -> None:
        """Take in all that changed, so that the next to open need not."""

    def drop(self) -> None:
        """Delete the copy."""

    def close(self) -> None:
        """Give everything back."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where an index has its vectors: a settled address, and the name of what is theirs there."""

    address: str = FAISS
    name: str = ""

    @classmethod
    def new(cls, address: str) -> Self:
        """Choose a name that no other index has, so that many share a server."""
        return cls(address, "" if address == FAISS else secrets.token_hex(8))

    @classmethod
    def read(cls, text: Any) -> Self:
        """Read what ``write`` wrote; without, an index is of a time when there was FAISS alone."""
        return cls(**json.loads(text)) if text else cls()

    def write(self) -> str:
        """Give what a catalog can keep."""
        return json.dumps({"address": self.address, "name": self.name})


def open_finder(
    home: Home,
    folder: Path,
    dim: int,
    catalog: Catalog,
    epochs: Epochs,
    *,
    device: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> Finder:
    """Open what finds the vectors of an index; nothing is loaded or connected before it is needed."""
    if home.address == FAISS:
        return Candidates(folder, dim, catalog, epochs, device=device)
    return Mirrored(home.address, home.name, folder, dim, catalog, epochs, on_progress=on_progress)
