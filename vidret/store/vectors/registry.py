"""The registry of vector stores, which are found by the form of an address."""

from pathlib import Path

from vidret.errors import StoreError
from vidret.store.consent import allow
from vidret.store.vectors import faiss, milvus
from vidret.store.vectors.base import VectorIndex, VectorLocation, VectorOptions, VectorStore

STORES = (faiss.STORE, milvus.STORE)


def normalise_address(address: str, folder: Path) -> str:
    """Return an address in its normal form, which the index stores.

    Raises:
        StoreError: The address is invalid, or contains a password, which would be stored and displayed.
    """
    return _find(address, folder)[1]


def allow_address(index: Path, address: str) -> None:
    """Record that an index may keep its vectors at an address, since its user has named it.

    Raises:
        StoreError: The address is invalid.
    """
    store, normal = _find(address, index)
    if not store.is_part(normal):
        allow(index, normal)


def check_address(address: str, folder: Path, dim: int) -> None:
    """Check that vectors can be stored at an address, before an index is created.

    Raises:
        VidretError: It cannot be reached, or a dependency is not installed.
    """
    _find(address, folder)[0].check(address, folder, dim)


def open_vectors(location: VectorLocation, options: VectorOptions) -> VectorIndex:
    """Open the vectors of an index; nothing is loaded or connected before it is needed."""
    return _find(location.address, options.folder)[0].open(location, options)


def _find(address: str, folder: Path) -> tuple[VectorStore, str]:
    """Return the vector store of an address, and the address in its normal form."""
    for store in STORES:
        if (normal := store.normalise(address, folder)) is not None:
            return store, normal
    *forms, last = (form for store in STORES for form in store.forms)
    shown = f"{address.partition('://')[0]}://..." if "@" in address else address
    raise StoreError(f"store must be {', '.join(forms)} or {last}, got {shown}")
