"""Moving the vectors of an index to another location, resumably: fill the new copy, switch, delete the old one.

The catalog stores the location that searches use, and switches in one transaction. It also stores what a killed move
leaves behind: ``moving`` is an incomplete copy, ``leaving`` a copy to be deleted.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vidret.errors import StoreError, VidretError
from vidret.store.address import FAISS, normalise_address
from vidret.store.catalog import Catalog
from vidret.store.consent import allow_address
from vidret.store.milvus import Collection
from vidret.store.vector_index import VectorIndex, VectorLocation
from vidret.store.vectors import load_faiss

logger = logging.getLogger(__name__)

HOME, MOVING, LEAVING = "store", "moving", "leaving"  # metadata keys of locations
CAME_FROM = "came_from"  # metadata key of the source address of the last move
OnProgress = Callable[[int, int], None]


class OpenVectors(Protocol):
    """A function that opens the vectors at a location."""

    def __call__(self, location: VectorLocation, on_progress: OnProgress | None = None) -> VectorIndex:
        """Open them; ``on_progress`` receives the number of videos copied and the total."""


def check_address(address: str, folder: Path, dim: int) -> None:
    """Check that vectors can be stored at an address, before an index is created.

    Raises:
        VidretError: Milvus cannot be reached, or a dependency is not installed.
    """
    if address == FAISS:
        load_faiss()
    else:
        Collection(address, "", dim, folder).close()


def move_store(
    folder: Path, catalog: Catalog, open_vectors: OpenVectors, source: str, target: str, on_progress: OnProgress | None
) -> None:
    """Move the vectors; see ``Store.move_vectors``."""
    source, target = normalise_address(source, folder), normalise_address(target, folder)
    for address in (source, target):
        allow_address(folder, address)
    current, leaving = VectorLocation.from_json(catalog.meta(HOME)), catalog.meta(LEAVING)
    came_from = VectorLocation.from_json(leaving).address if leaving else catalog.meta(CAME_FROM)
    if leaving:
        _delete_copy(catalog, open_vectors, LEAVING)
    if source != target and (came_from, current.address) == (source, target):
        return  # the same move again, which had already switched
    if source != current.address:
        raise StoreError(f"{folder}: source must be {current.address}, where the vectors are, got {source}")
    if target == source:
        raise StoreError(f"{folder}: target must differ from source, got {target} twice")
    unfinished = catalog.meta(MOVING)
    if unfinished and VectorLocation.from_json(unfinished).address != target:
        _delete_copy(catalog, open_vectors, MOVING)  # an abandoned move to another location
        unfinished = None
    new = VectorLocation.from_json(unfinished) if unfinished else VectorLocation.create(target)
    with catalog.transaction(durable=True):
        catalog.set_meta(MOVING, new.to_json())
    vectors = open_vectors(new, on_progress)
    try:
        vectors.prepare()
        vectors.save()
    finally:
        vectors.close()
    with catalog.transaction(durable=True):
        catalog.set_meta(HOME, new.to_json())
        catalog.set_meta(LEAVING, current.to_json())
        catalog.set_meta(CAME_FROM, current.address)
        catalog.run("DELETE FROM meta WHERE key = ?", MOVING)
    _delete_copy(catalog, open_vectors, LEAVING)


def _delete_copy(catalog: Catalog, open_vectors: OpenVectors, key: str) -> None:
    """Delete an unused copy; one that cannot be reached is kept, with a warning."""
    location = VectorLocation.from_json(catalog.meta(key))
    vectors = open_vectors(location)
    try:
        vectors.drop()
    except VidretError as error:
        logger.warning("%s: cannot delete the vectors of %s: %s", location.address, location.name, error)
    finally:
        vectors.close()
    catalog.run("DELETE FROM meta WHERE key = ?", key)
