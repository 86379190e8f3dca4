"""Storage of taught concepts in their index: ``@name`` in a query, from a few examples and the text of the name."""

import io
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from vidret.errors import NotFoundError, VidretError
from vidret.search.query.marks import check_concept_name, find_mentions
from vidret.store.catalog.schema import reading_metadata
from vidret.store.identities.persons import check_no_person
from vidret.store.records import CONCEPT
from vidret.store.store import Store
from vidret.types import Concept, ConceptExample, Query, Vector, list_query_texts


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TaughtConcept:
    """A concept with the vectors of its examples, each of unit length.

    Attributes:
        concept: The concept.
        yes: Vectors of examples that show it.
        no: Vectors of examples that do not.
        heard: Vectors of examples of a sound; None for a visual concept.
        direction: Direction of a class relative to the other classes; None for a concept taught alone.
    """

    concept: Concept
    yes: Float32[np.ndarray, "example dim"]
    no: Float32[np.ndarray, "counterexample dim"]
    direction: Float32[np.ndarray, " dim"] | None = None
    heard: Float32[np.ndarray, "_example _dim"] | None = None


def save_concept(store: Store, taught: TaughtConcept) -> None:
    """Store a concept in its index, which must be open for writing, in place of any of that name.

    Raises:
        VidretError: A person has the name.
    """
    check_no_person(store.path, taught.concept.name)
    file, facts = io.BytesIO(), asdict(taught.concept)
    for example in (*facts["yes"], *facts["no"]):
        del example["image"]
    arrays = {name: getattr(taught, name) for name in ("yes", "no", "direction", "heard")}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
    store.metadata.set(_key(taught.concept.name), file.getvalue())


def load_concept(store: Store, name: str) -> TaughtConcept | None:
    """Load a concept of an index, or of the first of several that has it; None if there is none of that name.

    Raises:
        StoreError: It cannot be read.
    """
    found = ((index.path, index.metadata.get(_key(name))) for index in store.parts.values())
    path, stored = next(((path, stored) for path, stored in found if isinstance(stored, bytes)), (None, b""))
    if path is None:
        return None
    with reading_metadata(path, f"the concept {name}"), np.load(io.BytesIO(stored)) as file:
        facts: dict[str, Any] = json.loads(str(file["facts"]))
        shown, hidden = (tuple(ConceptExample(**row) for row in facts.pop(side)) for side in ("yes", "no"))
        concept = Concept(**facts, yes=shown, no=hidden)
        direction, heard = file.get("direction"), file.get("heard")
        return TaughtConcept(concept=concept, yes=file["yes"], no=file["no"], direction=direction, heard=heard)


def list_concepts(store: Store) -> list[Concept]:
    """Return the concepts of an index, by name."""
    loaded = (load_concept(store, key.removeprefix(f"{CONCEPT}.")) for key in store.metadata.keys(f"{CONCEPT}."))
    return [taught.concept for taught in loaded if taught is not None]


def forget_concept(store: Store, name: str) -> None:
    """Remove a concept from its index, which must be open for writing.

    Raises:
        NotFoundError: There is none of that name.
    """
    name = check_concept_name(name)
    if load_concept(store, name) is None:
        raise NotFoundError(f"@{name}: must be the name of a taught concept ({_name_concepts(store)})")
    store.metadata.set(_key(name), "")


def check_mentions(store: Store, query: Query, people: Collection[str] = ()) -> None:
    """Check that a query mentions only concepts of an index, or persons by their handles, which errors do not list.

    Raises:
        VidretError: It mentions something else.
    """
    texts = (f" {text}".replace(" -@", " @") for text in list_query_texts(query))  # excluded terms mention concepts too
    for name in (name for text in texts for name in find_mentions(text) if name not in people):
        if load_concept(store, name) is None:
            persons = "a person or of " if people else ""
            rule = f"must be the name of {persons}a taught concept ({_name_concepts(store)})"
            raise VidretError(f"@{name}: {rule}; to teach it: vidret teach {name}")


def _name_concepts(store: Store) -> str:
    return ", ".join(f"@{concept.name}" for concept in list_concepts(store)) or "none"


def _key(name: str) -> str:
    return f"{CONCEPT}.{name}"


def stack_vectors(vectors: Sequence[Vector], dim: int) -> Float32[np.ndarray, "example dim"]:
    """Return vectors as one array; of shape (0, dim) if there are none."""
    return np.array(vectors, np.float32).reshape(-1, dim)
