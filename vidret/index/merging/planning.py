"""What is settled before indexes become one: whether they go together, and which of them to believe of each path."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from vidret.errors import StoreError
from vidret.store.records import HEAD, RANKER, FileRecord
from vidret.store.store import Store

# Of indexes that have seen the same content under a path, the one that got further with it knows better.
RANKS = {state: rank for rank, state in enumerate(("failed", "missing", "pending", "running", "done"))}


class Settled(NamedTuple):
    """What indexes that go together were made for, as the first that says it has it, and what else is to be told."""

    ranker: str
    head: str
    notes: list[str]


class Made(NamedTuple):
    """What an index was prepared for: the aligner, what names what it packs, and how tokens are stored."""

    name: str
    fingerprint: str
    tokens: str

    @classmethod
    def read(cls, fact: str) -> "Made":
        """Read it as an index keeps it."""
        return cls(**json.loads(fact)) if fact else cls("nothing", "", "none")

    def __str__(self) -> str:
        """Tell one from another."""
        return f"{self.name} ({self.fingerprint[:8] or 'no aligner'}, tokens {self.tokens})"


class Told(NamedTuple):
    """What an index says of a path; ``content`` is the fingerprint of what it holds, empty where that is not known."""

    origin: Store
    record: FileRecord
    content: str


def settle_making(indexes: Sequence[Store]) -> Settled:
    """Refuse indexes whose vectors or tokens do not go together, and say what else differs.

    Raises:
        StoreError: Their encoders differ, or what their tokens were packed for.
    """
    notes = []
    first, *others = indexes
    for other in others:
        if other.encoder_fingerprint != first.encoder_fingerprint:
            one, another = (f"{each.encoder_name} ({each.encoder_fingerprint})" for each in (first, other))
            raise StoreError(
                f"{other.path}: built with {another}, cannot be merged with {first.path}, built with {one}"
            )
        if other.encoder_name != first.encoder_name:
            notes.append(f"{other.path}: its encoder {other.encoder_name} is {first.encoder_name} in the merged index")
    ranker = next(filter(None, (get_fact(index, RANKER) for index in indexes)), "")
    # An index that nothing was put into yet, nor prepared, goes with all.
    made = [
        (each, Made.read(get_fact(each, RANKER))) for each in indexes if get_fact(each, RANKER) or each.fingerprints()
    ]
    for other, its in made[1:]:
        first, mine = made[0]
        if its[1:] != mine[1:]:
            raise StoreError(
                f"{other.path}: prepared for {its}, cannot be merged with {first.path}, prepared for {mine}"
            )
        if its.name != mine.name:
            notes.append(f"{other.path}: its aligner {its.name} is {mine.name} in the merged index")
    head = next(filter(None, (get_fact(index, HEAD) for index in indexes)), "")
    heads = [(index, get_fact(index, HEAD) or "none") for index in indexes if head]
    notes += [
        f"{each.path}: its grounding head {own} is {head} in the merged index" for each, own in heads if own != head
    ]
    return Settled(ranker, head, notes)


def knows_better(new: Told, old: Told) -> bool:
    """Say whether an index knows better what a path holds than another; where neither does, the first is believed.

    The same content: the one that got further with it. Else the file has changed, and the later change counts.
    """
    further = RANKS[new.record.state] > RANKS[old.record.state]
    if new.content == old.content and "failed" not in (new.record.state, old.record.state):
        return further
    return changed(new) > changed(old) or (changed(new) == changed(old) and further)


def contradict(new: Told, old: Told) -> bool:
    """Say whether two indexes have seen different things under one path."""
    if new.content and old.content and new.content != old.content:
        return True
    return {new.record.state, old.record.state} == {"done", "failed"}


def get_fact(index: Store, key: str) -> str:
    """Look up what an index was made for, empty where it does not say."""
    return str(index.get_meta(key) or "")


def changed(told: Told) -> int:
    """Say when a file had changed last, as far as its index knows."""
    return -1 if told.record.mtime_ns is None else told.record.mtime_ns
