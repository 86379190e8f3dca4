"""The folder of an index: its validation, creation, and the files in it."""

import contextlib
import os
import re
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.vectors.base import VectorLocation
from vidret.store.vectors.current import HOME
from vidret.store.vectors.milvus_collection import DEFAULT_FILE
from vidret.store.vectors.registry import check_address

CATALOG, FEATURES, VECTORS, LOCK = "catalog.sqlite", "features", "vectors", "writer.lock"
TEXTS = "words"  # the folder in an index with its texts
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


def check_entries(folder: Path) -> None:
    """Check that a folder holds only files and folders, before any of them is written or deleted.

    An index from elsewhere could otherwise lead out of its folder, by a link, or wait for ever, by a pipe.

    Raises:
        StoreError: It holds something else.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != DEFAULT_FILE:  # Milvus has its own files
                    check_entries(Path(entry))
            elif not entry.is_file(follow_symlinks=False) and os.path.lexists(entry):
                kind = "a link" if entry.is_symlink() else "a special file"
                raise StoreError(f"{entry.path}: must be a file or a folder of the index itself, got {kind}")


def find_pictures(folder: Path) -> Path | None:
    """Return the catalog of the index whose texts a folder holds; None if it holds an index of pictures."""
    folder = folder.absolute()
    catalog = folder.parent / CATALOG
    return catalog if folder.name == TEXTS and catalog.is_file() else None


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
        check_address(address, folder, dim)
        metadata[HOME] = VectorLocation.create(address).to_json()
    Catalog.create(folder / CATALOG, metadata).close()
