"""The sentence model that compares the texts of an index by meaning: the bundled one, or one of the user's.

Its name, fingerprint and dimension are stored with the texts.
"""

import os
from typing import NamedTuple

from vidret.encode.sentences import DIM, FINGERPRINT, NAME, SentenceModel, load_sentence_encoder
from vidret.errors import StoreError
from vidret.model_files import locate_model
from vidret.store.consent import check_allowed
from vidret.store.texts.store import TextStore

SCHEME = "st:"  # of the names of models of sentence-transformers


class SentenceSpace(NamedTuple):
    """The sentence model of an index's texts, as stored: name, fingerprint and dimension."""

    name: str
    fingerprint: str
    dim: int


BUNDLED_SPACE = SentenceSpace(NAME, FINGERPRINT, DIM)


def name_sentence_model(name: str) -> str:
    """Return the name under which an index stores a model, given a name or a folder; empty for none.

    >>> name_sentence_model("org/name"), name_sentence_model("all-MiniLM-L6-v2")
    ('st:org/name', 'all-MiniLM-L6-v2')
    """
    rest = name.removeprefix(SCHEME)
    return rest if rest in ("", NAME) else f"{SCHEME}{locate_model(rest)}"


def is_bundled(name: str) -> bool:
    """Return whether a model is the bundled one, which every index may load."""
    return not name.startswith(SCHEME)


def load_sentence_model(name: str) -> SentenceModel:
    """Load a model by the name under which indexes store it; raise VidretError if it cannot be loaded."""
    if is_bundled(name):
        return load_sentence_encoder()
    from vidret.encode.families.sentence_transformers import load_text_model  # with torch

    return load_text_model(name)


def choose_sentence_space(index: str | os.PathLike[str], name: str = "") -> SentenceSpace:
    """Return the sentence space for an index's texts: that of a named model, else that of the index.

    Raise VidretError if the model cannot be loaded.
    """
    if name:
        model = load_sentence_model(name)
        return SentenceSpace(name, model.fingerprint, model.dim)
    if TextStore.exists(index):
        with TextStore.open(index) as texts:
            if not is_bundled(texts.store.encoder_name):
                return read_space(texts)
    return BUNDLED_SPACE


def read_space(texts: TextStore) -> SentenceSpace:
    """Return the sentence space of stored texts."""
    return SentenceSpace(texts.store.encoder_name, texts.store.encoder_fingerprint, texts.store.dim)


def load_model_in(space: SentenceSpace) -> SentenceModel:
    """Load the model of a sentence space; raise VidretError if it cannot be loaded, or its weights have changed."""
    model = load_sentence_model(space.name)
    if not is_bundled(space.name) and model.fingerprint != space.fingerprint:
        raise StoreError(
            f"{space.name} has other weights than those that made the vectors of words; to compute these again: "
            f"vidret index --sentence-model {space.name}"
        )
    return model


def load_model_of(texts: TextStore) -> SentenceModel:
    """Return the sentence model of an index's texts.

    Raise VidretError if nobody has allowed it, it cannot be loaded, or its weights have changed.
    """
    space = read_space(texts)
    for part in () if is_bundled(space.name) else texts.store.parts.values():
        check_allowed(part.path.parent, space.name, option="--sentence-model")
    return load_model_in(space)
