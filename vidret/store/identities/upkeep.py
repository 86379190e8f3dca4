"""Upkeep of the identities of an index: counts, copies into another index, verification and repair."""

from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR, Database, remove_database
from vidret.store.identities.store import ADD_PERSON, FILE, INTACT, SCHEMA, TABLES, IdentityStore
from vidret.store.identities.tracks import IDENTITY_KINDS, IdentityKind, match_tracks
from vidret.text import make_handle

# A person that the user named, hid or changed, which clustering alone would not restore.
SAID_BY_USER = """(name <> '' OR hidden OR id IN (SELECT person FROM assignments WHERE by_user)
    OR id IN (SELECT person FROM rejections))"""

# Rejections in the target, and assignments to persons that its user changed, stay.
ASSIGN = f"""INSERT INTO assignments (track, person, by_user, score) SELECT ?1, ?2, ?3, ?4
    WHERE NOT EXISTS (SELECT 1 FROM rejections WHERE track = ?1 AND person = ?2)
    ON CONFLICT (track) DO UPDATE SET person = excluded.person, by_user = excluded.by_user, score = excluded.score
    WHERE person NOT IN (SELECT id FROM persons WHERE {SAID_BY_USER})"""
REJECT = """INSERT OR IGNORE INTO rejections SELECT ?1, ?2
    WHERE NOT EXISTS (SELECT 1 FROM assignments WHERE track = ?1 AND person = ?2)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityCounts:
    """Counts of one kind: videos that were read, tracks in them, and persons with one."""

    kind: IdentityKind
    videos: int
    tracks: int
    persons: int


def count_identities(index: Path) -> list[IdentityCounts]:
    """Return the counts of each kind that was read; empty for an index without identities."""
    if not IdentityStore.exists(index):
        return []
    with IdentityStore.open(index) as identities:
        read = [model.kind for _, model in identities.readings()]
        columns = {kind: identities.columns(kind=kind) for kind in IDENTITY_KINDS if kind in read}
    return [
        IdentityCounts(
            kind=kind, videos=read.count(kind), tracks=len(tracks.ids), persons=len({*tracks.persons.tolist()} - {0})
        )
        for kind, tracks in columns.items()
    ]


def copy_identities(target: Path, sources: Sequence[Path], wanted: Container[str]) -> int:
    """Copy the identities of the wanted videos that the target lacks, and return the number of copied tracks.

    Persons whom the user named or changed are copied with them, also for tracks that the target has without a user's
    assignment; persons of one name are merged. Other persons are found again by clustering.
    """
    num_copied = 0
    for target_store, source in IdentityStore.pair(target, sources):
        known = {(content, model.kind) for content, model in target_store.readings()}
        ids = dict[int, int]()  # of tracks in the target, by those in the source
        for content, model in source.readings():
            if content not in wanted:
                continue
            tracks = source.tracks(content, model.kind)
            if (content, model.kind) in known:
                same = target_store.tracks(content, model.kind)
                source_ids, target_ids = list(tracks), list(same)
                matches = match_tracks(list(same.values()), list(tracks.values()))
                ids |= {source_ids[row]: target_ids[target_row] for target_row, row in matches.items()}
            else:
                written = target_store.write_tracks(content, model, list(tracks.values()))
                ids |= zip(tracks, written, strict=True)
                num_copied += len(written)
        _copy_persons(target_store, source, ids)
    return num_copied


def _copy_persons(target_store: IdentityStore, source: IdentityStore, ids: dict[int, int]) -> None:
    """Copy the persons whom the user named or changed, given the ids of tracks in the target."""
    people = {
        person: (name, hidden)
        for person, name, hidden in source.database.rows(f"SELECT id, name, hidden FROM persons WHERE {SAID_BY_USER}")
    }
    assigned = source.database.rows("SELECT track, person, by_user, score FROM assignments")
    rejected = source.database.rows("SELECT track, person FROM rejections")
    copied: dict[int, int] = {}
    with target_store.change():
        last = target_store.database.value("SELECT ifnull(max(id), 0) FROM persons")
        for track, person, by_user, score in assigned:
            if track in ids and person in people:
                if person not in copied:
                    copied[person] = _find_or_add(target_store, *people[person])
                values = (ids[track], copied[person], by_user, score)
                target_store.database.run(ASSIGN, *values)
        kept = [(ids[track], copied[person]) for track, person in rejected if track in ids and person in copied]
        target_store.database.run_many(REJECT, kept)
        target_store.drop_empty_persons(named=False)
        target_store.database.run(
            "DELETE FROM persons WHERE id > ? AND id NOT IN (SELECT person FROM assignments)", last
        )


def _find_or_add(identities: IdentityStore, name: str, hidden: int) -> int:
    """Return the person of a name, or a new one."""
    known = {
        make_handle(known_name): key for key, known_name in identities.database.rows("SELECT id, name FROM persons")
    }
    if name and (handle := make_handle(name)) in known:
        return int(known[handle])
    return int(identities.database.value(ADD_PERSON, name, hidden))


def find_damaged_identities(index: Path, *, repair: bool) -> list[str]:
    """Verify the identities of an index; return descriptions of the damage. ``repair`` keeps intact rows.

    Videos with a damaged track are read again by the next run. Nothing is kept of a file that SQLite cannot read.
    """
    path = index / FILE
    if not path.exists():
        return []
    try:
        with IdentityStore.open(index, write=repair) as identities:
            database = identities.database
            bad = [message for (message,) in database.rows("PRAGMA integrity_check") if message != "ok"]
            damaged = database.rows(f"SELECT id, content FROM tracks WHERE NOT {INTACT}")
            if repair and damaged and not bad:
                with identities.change():
                    identities.delete([key for key, _ in damaged])
                    database.run_many("DELETE FROM readings WHERE content = ?", [(content,) for _, content in damaged])
            reasons = [f"{path}: {message}" for message in bad[:1]]
            reasons += [f"{path}: track {key} of {content} is damaged (checksum)" for key, content in damaged]
    except StoreError as error:
        bad, reasons = [str(error)], [str(error).removesuffix(f"; {REPAIR}")]
    if bad and repair:
        _rebuild(path)
    return reasons


def _rebuild(path: Path) -> None:
    """Replace a damaged file by one with the rows that can be read. All videos are read again by the next run."""
    rows: dict[str, tuple[list[str], list[Any]]] = {}
    try:
        with closing(Database(path, write=False, lenient=True)) as old:
            intact = {sql for (sql,) in old.rows("SELECT sql FROM sqlite_master WHERE type = 'table'")}
            for table in (TABLES[statement] for statement in SCHEMA if statement in intact & TABLES.keys()):
                columns = old.rows(f"PRAGMA table_info({table})")
                names, condition = [row[1] for row in columns], INTACT if table == "tracks" else "1"
                values = old.rows(f"SELECT {', '.join(names)} FROM {table} WHERE {condition}")
                required = [place for place, column in enumerate(columns) if column[3]]  # SQLite takes them to be there
                rows[table] = names, [row for row in values if all(row[place] is not None for place in required)]
    except StoreError:
        rows = {}
    remove_database(path)
    with IdentityStore.create(path.parent) as fresh, fresh.change():
        fresh.database.run("PRAGMA defer_foreign_keys = ON")
        for table, (names, values) in rows.items():
            sql = f"REPLACE INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            fresh.database.run_many(sql, values)
        fresh.database.run("DELETE FROM readings")
        fresh.database.run("DELETE FROM tracks WHERE model NOT IN (SELECT digest FROM models)")
        for table in ("assignments", "rejections"):
            lost = "track NOT IN (SELECT id FROM tracks) OR person NOT IN (SELECT id FROM persons)"
            fresh.database.run(f"DELETE FROM {table} WHERE {lost}")
