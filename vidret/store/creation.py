"""The folder of an index: its validation, creation, and the files in it."""

import os
import re
from pathlib import Path

from vidret.errors import StoreError
from vidret.store import moving
from vidret.store.catalog import Catalog
from vidret.store.vector_index import VectorLocation

CATALOG, FEATURES, VECTORS, LOCK = "catalog.sqlite", "features", "vectors", "writer.lock"
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")  # a Path keeps one of two slashes


def check_folder(path: str | os.PathLike[str]) -> Path:
    """Return the path of an index folder.

    Raises:
        StoreError: It is a URL; SQLite and memory-mapped files need a file system.
    """
    folder = Path(path)
    if ADDRESS.match(str(folder)) and not Path(folder.parts[0]).exists():
        url = ADDRESS.sub(lambda match: match[0].rstrip("/") + "//", str(folder), count=1)
        raise StoreError(f"index must be a folder of a file system, got {url}")
    return folder


def create_folder(folder: Path) -> None:
    """Create the folder of an index, if it does not exist.

    Raises:
        StoreError: It cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be created ({error.strerror})") from error


def create_catalog(folder: Path, *, encoder_name: str, encoder_fingerprint: str, dim: int, address: str | None) -> None:
    """Create the catalog of an index whose vectors are at a normalised address, if it does not exist."""
    if Catalog.exists(folder / CATALOG):
        return
    metadata: dict[str, str | int] = {
        "encoder_name": encoder_name,
        "encoder_fingerprint": encoder_fingerprint,
        "dim": dim,
    }
    if address is not None:
        moving.check_address(address, folder, dim)
        metadata[moving.HOME] = VectorLocation.create(address).to_json()
    Catalog.create(folder / CATALOG, metadata).close()
