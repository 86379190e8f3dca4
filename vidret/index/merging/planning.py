"""The plan of a merge: whether indexes are compatible, and which index to believe about each path."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from vidret.errors import StoreError
from vidret.store.records import HEAD, RANKER, FileRecord
from vidret.store.store import Store

# Of indexes that have seen the same content at a path, the one with the highest state is believed.
STATE_RANKS = {state: rank for rank, state in enumerate(("failed", "missing", "pending", "running", "done"))}


@dataclass(frozen=True, slots=True)
class IndexMergePlan:
    """The aligner and the grounding head of the merged index, empty if no index has one, and notes for the report."""

    ranker: str
    head: str
    notes: list[str]


@dataclass(frozen=True, slots=True)
class AlignerSettings:
    """What an index was prepared for: the name and fingerprint of its aligner, and the format of its tokens."""

    name: str = "nothing"
    fingerprint: str = ""
    tokens: str = "none"

    @classmethod
    def read(cls, fact: str) -> "AlignerSettings":
        """Return the settings stored in an index, the defaults if the string is empty."""
        return cls(**json.loads(fact)) if fact else cls()

    def is_compatible(self, other: "AlignerSettings") -> bool:
        """Return whether tokens packed with both settings can be used together; names may differ."""
        return (self.fingerprint, self.tokens) == (other.fingerprint, other.tokens)

    def __str__(self) -> str:
        """Return a short description."""
        return f"{self.name} ({self.fingerprint[:8] or 'no aligner'}, tokens {self.tokens})"


@dataclass(frozen=True, slots=True)
class FileClaim:
    """What an index says about a path; ``content`` is the fingerprint of the file, empty if it is unknown."""

    origin: Store
    record: FileRecord
    content: str

    @property
    def mtime_ns(self) -> int:
        """Return when the file was last modified according to the index, -1 if it is unknown."""
        return -1 if self.record.mtime_ns is None else self.record.mtime_ns

    @property
    def state_rank(self) -> int:
        """Return how far the index got with the file."""
        return STATE_RANKS[self.record.state]


def plan_index_merge(indexes: Sequence[Store]) -> IndexMergePlan:
    """Check that indexes can be merged, and choose the aligner and head: those of the first index that has one.

    Raises:
        StoreError: Two indexes have different encoders, or tokens that were packed for different aligners.
    """
    first, *others = indexes
    notes = []
    for other in others:
        if other.encoder_fingerprint != first.encoder_fingerprint:
            one, another = (f"{store.encoder_name} ({store.encoder_fingerprint})" for store in (first, other))
            raise StoreError(
                f"{other.path}: built with {another}, cannot be merged with {first.path}, built with {one}"
            )
        if other.encoder_name != first.encoder_name:
            notes.append(f"{other.path}: its encoder {other.encoder_name} is {first.encoder_name} in the merged index")
    notes += _compare_aligners(indexes)
    ranker = next(filter(None, (get_fact(index, RANKER) for index in indexes)), "")
    head = next(filter(None, (get_fact(index, HEAD) for index in indexes)), "")
    heads = [(index, get_fact(index, HEAD) or "none") for index in indexes if head]
    notes += [
        f"{index.path}: its grounding head {own} is {head} in the merged index" for index, own in heads if own != head
    ]
    return IndexMergePlan(ranker=ranker, head=head, notes=notes)


def _compare_aligners(indexes: Sequence[Store]) -> list[str]:
    """Return notes on aligners with different names."""
    # An empty index that was not prepared for an aligner is compatible with all.
    settings = [
        (index, AlignerSettings.read(get_fact(index, RANKER)))
        for index in indexes
        if get_fact(index, RANKER) or index.videos.fingerprints()
    ]
    notes = []
    for index, aligner in settings[1:]:
        first, first_aligner = settings[0]
        if not aligner.is_compatible(first_aligner):
            conflict = f"cannot be merged with {first.path}, prepared for {first_aligner}"
            raise StoreError(f"{index.path}: prepared for {aligner}, {conflict}")
        if aligner.name != first_aligner.name:
            notes.append(f"{index.path}: its aligner {aligner.name} is {first_aligner.name} in the merged index")
    return notes


def is_more_reliable(new: FileClaim, old: FileClaim) -> bool:
    """Return whether to believe ``new`` rather than ``old``; if neither is more reliable, the older claim stays.

    For the same content, the index that got further with it is believed. Otherwise the file has changed, and the claim
    with the later modification time is believed.
    """
    is_further = new.state_rank > old.state_rank
    if new.content == old.content and "failed" not in (new.record.state, old.record.state):
        return is_further
    return new.mtime_ns > old.mtime_ns or (new.mtime_ns == old.mtime_ns and is_further)


def contradict(new: FileClaim, old: FileClaim) -> bool:
    """Return whether two indexes have seen different contents, or a success and a failure, at the same path."""
    if new.content and old.content and new.content != old.content:
        return True
    return {new.record.state, old.record.state} == {"done", "failed"}


def get_fact(index: Store, key: str) -> str:
    """Return a fact about an index, empty if it is not set."""
    return str(index.metadata.get(key) or "")
