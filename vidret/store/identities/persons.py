"""The persons of an index: their names, and their tracks by clustering and by the user's decisions.

The user's decisions are final: a person keeps the tracks that the user assigned, and never regains a rejected one.
"""

import base64
import json
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vidret.errors import OptionError, VidretError
from vidret.store.catalog.database import remove_database
from vidret.store.catalog.schema import IN_IDS, ids_to_json
from vidret.store.identities.grouping import NO_ROWS, PairOffer, find_overlaps, find_pairs, group_tracks, score_tracks
from vidret.store.identities.store import ADD_PERSON, FILE, OF_KIND, IdentityStore
from vidret.store.identities.tracks import IDENTITY_KINDS, MODEL_SETTINGS, IdentityKind, IdentityModel
from vidret.store.records import CONCEPT
from vidret.store.store import Store
from vidret.text import MENTION_NAME, make_handle
from vidret.types import Person, PersonTrack

MIN_TRACKS = 2  # minimum of a listed person without a name
UNNAMED = re.compile(r"person-\d+")
MAX_BEST = 12  # tracks that are shown of a person
MAX_UNDONE = 50  # changes that can be undone
TABLES_OF_PERSONS = {"persons": "id", "assignments": "person", "rejections": "person"}


class Persons:
    """The persons of one index. Each method opens the identities, so any thread or process may call it."""

    def __init__(self, index: str | os.PathLike[str]) -> None:
        self._index = Path(index)

    def list_persons(self, kind: IdentityKind | None = None, *, hidden: bool = False) -> list[Person]:
        """Return the persons who are seen or heard, those with a name first, then by their time in videos.

        Persons without a name are listed from ``MIN_TRACKS`` tracks on, and hidden ones only if ``hidden``.
        """
        if not IdentityStore.exists(self._index):
            return []
        with IdentityStore.open(self._index) as identities:
            columns = identities.columns(kind=kind)
            rows = identities.database.rows("SELECT id, name, hidden FROM persons")
        order = np.lexsort((-columns.qualities, columns.persons))
        held, firsts = np.unique(columns.persons[order], return_index=True)
        rows_by_person = dict(zip(held.tolist(), np.split(order, firsts[1:]), strict=True)) if len(held) else {}
        persons = [
            Person(
                id=key,
                name=name,
                handle=make_handle(name) or f"person-{key}",
                hidden=bool(is_hidden),
                tracks=len(tracks),
                videos=len(np.unique(columns.contents[tracks])),
                seconds=float((columns.ends - columns.starts)[tracks].sum()),
                best_tracks=tuple(columns.ids[tracks[:MAX_BEST]].tolist()),
            )
            for key, name, is_hidden in rows
            if len(tracks := rows_by_person.get(key, NO_ROWS)) >= (1 if name else MIN_TRACKS)
            and (hidden or not is_hidden)
        ]
        return sorted(persons, key=lambda person: (not person.name, -person.seconds, person.id))

    def list_tracks(self, person: str | int, kind: IdentityKind) -> list[PersonTrack]:
        """Return the tracks of a person, those most distant from the person's others first."""
        key = self.find(person)
        with self._open() as identities:
            columns = identities.columns(person=key, kind=kind)
        return self.read_tracks(columns.ids[np.argsort(-columns.scores, kind="stable")].tolist())

    def read_tracks(self, ids: Sequence[int]) -> list[PersonTrack]:
        """Return tracks by their ids, without those whose video no longer has a file."""
        sql = f"""SELECT id, content, start_s, end_s, ifnull(by_user, 0) FROM tracks LEFT JOIN assignments ON track = id
            WHERE id IN {IN_IDS}"""
        with self._open() as identities, Store.open(self._index) as store:
            rows = {row[0]: row for row in identities.database.rows(sql, ids_to_json(ids))}
            videos = store.find_contents({row[1] for row in rows.values()})
            paths = store.files.paths_of(list(videos.values()))
        return [
            PersonTrack(id=key, video=video, path=paths[video][0], start=start, end=end, by_user=bool(said))
            for key, content, start, end, said in (rows[track_id] for track_id in ids if track_id in rows)
            if paths.get(video := videos.get(content, 0))
        ]

    def find(self, name: str | int) -> int:
        """Return the id of a person by id, name or handle.

        Raises:
            VidretError: There is no such person.
        """
        text = str(name).removeprefix("@")
        with self._open() as identities:
            person_id = list_handles(identities).get(f"person-{text}" if text.isdigit() else make_handle(text))
        if person_id is None:
            raise VidretError(f"{name}: must be the number or the name of a person; to list them: vidret people")
        return person_id

    def rename(self, person: str | int, name: str) -> None:
        """Name a person; an empty name removes the present one.

        Raises:
            VidretError: The name is invalid, or that of another person or of a taught concept.
        """
        key, handle = self.find(person), make_handle(name)
        if name and (not re.fullmatch(MENTION_NAME, handle) or UNNAMED.fullmatch(handle)):
            rule = (
                "words of letters, digits, _ or -, up to 64 characters, the first one a letter, and not person-NUMBER"
            )
            raise OptionError(f"name must be {rule}, got {name!r}")
        with Store.open(self._index) as store:
            if handle and store.metadata.get(f"{CONCEPT}.{handle}"):
                raise VidretError(
                    f"@{handle} is a taught concept: name the person otherwise, or vidret forget {handle}"
                )
        with self._change([key], "name", person, name) as identities:
            if handle and list_handles(identities).get(handle, key) != key:
                raise VidretError(f"@{handle} is another person: vidret people merge {handle} {key} makes them one")
            identities.database.run("UPDATE persons SET name = ? WHERE id = ?", " ".join(name.split()), key)

    def hide(self, person: str | int, *, hidden: bool = True) -> None:
        """Hide a person from lists, or show it again."""
        key = self.find(person)
        with self._change([key], "hide", person, *(() if hidden else ("--show",))) as identities:
            identities.database.run("UPDATE persons SET hidden = ? WHERE id = ?", hidden, key)

    def merge(self, person: str | int, others: Sequence[str | int]) -> None:
        """Merge persons into one, who keeps the id of the first, and the first name among them."""
        keys = list(dict.fromkeys([self.find(person), *map(self.find, others)]))
        if len(keys) == 1:
            raise VidretError(f"persons to merge must be several, got {person} alone")
        kept, gone = keys[0], ids_to_json(keys[1:])
        with self._change(keys, "merge", person, *others) as identities:
            database = identities.database
            names = dict(database.rows(f"SELECT id, name FROM persons WHERE id IN {IN_IDS}", ids_to_json(keys)))
            database.run(f"UPDATE assignments SET person = ? WHERE person IN {IN_IDS}", kept, gone)
            database.run(f"UPDATE OR IGNORE rejections SET person = ? WHERE person IN {IN_IDS}", kept, gone)
            database.run(f"DELETE FROM persons WHERE id IN {IN_IDS}", gone)
            database.run("UPDATE persons SET name = ? WHERE id = ?", next(filter(None, map(names.get, keys)), ""), kept)
            person_tracks = "SELECT track FROM assignments WHERE person = ?1"
            database.run(f"DELETE FROM rejections WHERE person = ?1 AND track IN ({person_tracks})", kept)

    def split(self, person: str | int, tracks: Collection[int]) -> int:
        """Move tracks of a person to a new person, and return its id; neither ever gets a track of the other again."""
        key = self.find(person)
        with self._change([key], "split", person, *tracks) as identities:
            database, moved = identities.database, self._check_own(identities, key, tracks)
            new = int(database.value(ADD_PERSON, "", 0))
            sql = f"UPDATE assignments SET person = ?, by_user = 1, score = 0 WHERE track IN {IN_IDS}"
            database.run(sql, new, moved)
            for holder, other in ((key, new), (new, key)):
                tracks_of = "SELECT track, ? FROM assignments WHERE person = ?"
                database.run(f"INSERT OR IGNORE INTO rejections {tracks_of}", other, holder)
        return new

    def reject(self, person: str | int, tracks: Collection[int]) -> None:
        """Take tracks from a person for good, and also tracks that are then no longer close to its others."""
        key = self.find(person)
        with self._change([key], "not", person, *tracks) as identities:
            database, moved = identities.database, self._check_own(identities, key, tracks)
            database.run(f"DELETE FROM assignments WHERE track IN {IN_IDS}", moved)
            database.run_many("INSERT OR IGNORE INTO rejections VALUES (?, ?)", [(track, key) for track in tracks])
            for model in identities.models():
                columns = identities.columns(model=model.digest)
                person_rows = np.flatnonzero(columns.persons == key)
                vectors = identities.vectors(columns.ids[person_rows])
                if len(person_rows) < MIN_TRACKS:
                    continue  # no other track is left to compare with
                lost = [
                    track
                    for row, track in enumerate(columns.ids[person_rows].tolist())
                    if not columns.by_user[person_rows[row]]
                    and score_tracks(vectors[row : row + 1], np.delete(vectors, row, 0))[0] >= model.link_distance
                ]
                database.run(f"DELETE FROM assignments WHERE track IN {IN_IDS}", ids_to_json(lost))
        self.group()

    def undo(self) -> str:
        """Undo the last change by the user, and return it as a command, such as ``merge 3 7``; '' if there is none."""
        with self._open(write=True) as identities, identities.change():
            database = identities.database
            last = database.rows("SELECT id, before FROM changes ORDER BY id DESC LIMIT 1")
            if not last:
                return ""
            before = json.loads(last[0][1])
            database.run("DELETE FROM changes WHERE id = ?", last[0][0])
            concerned = ids_to_json(before["concerned"])
            for table in ("assignments", "rejections"):
                database.run(f"DELETE FROM {table} WHERE person IN {IN_IDS}", concerned)
            for table in TABLES_OF_PERSONS:
                for row in before[table]:
                    exists = "" if table == "persons" else "WHERE ?1 IN (SELECT id FROM tracks)"
                    marks = ", ".join(f"?{column + 1}" for column in range(len(row)))
                    database.run(f"INSERT OR REPLACE INTO {table} SELECT {marks} {exists}", *row)
            identities.drop_empty_persons(named=False)
        self.group()
        return str(before.get("command", "a change"))

    def forget(self, person: str | int) -> int:
        """Erase all stored data of a person; return the number of tracks."""
        key = self.find(person)
        with self._open(write=True) as identities:
            rows = identities.database.rows("SELECT track FROM assignments WHERE person = ?", key)
            return identities.erase([track for (track,) in rows])

    def forget_video(self, content: str, kind: IdentityKind) -> int:
        """Erase the data of a video, by its fingerprint, which is not read again; return the number of tracks."""
        with self._open(write=True) as identities:
            return identities.erase(identities.list_ids(content, kind))

    def forget_all(self, kind: IdentityKind) -> int:
        """Delete all tracks of a kind, and the file if there are no others; return the number of tracks.

        Later runs read the kind only if it is requested again.
        """
        with Store.open(self._index, write=True) as store:
            store.metadata.set(MODEL_SETTINGS[kind], "")
        with self._open(write=True) as identities:
            with identities.change():
                identities.database.run("DELETE FROM readings WHERE kind = ?", kind)
            rows = identities.database.rows(f"SELECT id FROM tracks WHERE {OF_KIND}", kind)  # including damaged ones
            num_tracks = identities.erase([track for (track,) in rows])
            is_empty = not identities.readings()
        if is_empty:
            remove_database(self._index / FILE)
        return num_tracks

    def export(self, person: str | int) -> dict[str, Any]:
        """Return all stored data of a person as JSON types; videos are given by their fingerprints."""
        key = self.find(person)
        with self._open() as identities:
            columns = identities.columns(person=key)
            name, hidden = identities.database.rows("SELECT name, hidden FROM persons WHERE id = ?", key)[0]
            said_by_user = dict(zip(columns.ids.tolist(), columns.by_user.tolist(), strict=True))
            rows = [
                {
                    "content": content,
                    "kind": kind,
                    "start": track.start_s,
                    "end": track.end_s,
                    "quality": track.quality,
                    "by_user": said_by_user[track_id],
                    "vector": track.vector.tolist(),
                    "boxes": [] if track.boxes is None else track.boxes.tolist(),
                    "jpeg": base64.b64encode(track.thumbnail or b"").decode(),
                }
                for content in np.unique(columns.contents).tolist()
                for kind in IDENTITY_KINDS
                for track_id, track in identities.tracks(content, kind).items()
                if track_id in said_by_user
            ]
        return {"id": key, "name": name, "hidden": bool(hidden), "tracks": rows}

    def offer_pairs(self) -> list[PairOffer]:
        """Return faces and voices that occur together more often than by chance, as candidates for ``merge``."""
        if not IdentityStore.exists(self._index):
            return []
        with self._open() as identities, Store.open(self._index) as store:
            faces, voices = identities.columns(kind="face"), identities.columns(kind="voice")
            videos = store.find_contents({*voices.contents.tolist()})
            durations = {content: store.videos.get(video).duration for content, video in videos.items()}
        return find_pairs(faces, voices, durations)

    def thumbnail(self, track_id: int) -> bytes | None:
        """Return the best crop of a track as JPEG, None if it has none."""
        with self._open() as identities:
            return identities.thumbnail(track_id)

    def group(self) -> None:
        """Assign the tracks that have no person yet; a second call changes nothing."""
        if not IdentityStore.exists(self._index):
            return
        with self._open(write=True) as identities:
            if identities.database.value("SELECT value FROM meta WHERE key = 'grouped'") == identities.generation:
                return
            for model in identities.models():
                while not _group_model(identities, model):
                    pass
            identities.database.run("REPLACE INTO meta (key, value) VALUES ('grouped', ?)", identities.generation)

    def _open(self, *, write: bool = False) -> IdentityStore:
        return IdentityStore.open(self._index, write=write)

    @contextmanager
    def _change(self, persons: Sequence[int], *command: object) -> Iterator[IdentityStore]:
        """Commit the block's changes of persons, all or none; their previous state and the command serve ``undo``."""
        with self._open(write=True) as identities, identities.change():
            database, keys = identities.database, ids_to_json(persons)
            before: dict[str, Any] = {
                table: database.rows(f"SELECT * FROM {table} WHERE {column} IN {IN_IDS}", keys)
                for table, column in TABLES_OF_PERSONS.items()
            }
            last = database.value("SELECT max(id) FROM persons")
            yield identities
            new = [key for (key,) in database.rows("SELECT id FROM persons WHERE id > ?", last)]
            before |= {"concerned": [*persons, *new], "command": shlex.join(map(str, command))}
            database.run("INSERT INTO changes (before) VALUES (?)", json.dumps(before))
            database.run("DELETE FROM changes WHERE id <= (SELECT max(id) FROM changes) - ?", MAX_UNDONE)

    def _check_own(self, identities: IdentityStore, person: int, tracks: Collection[int]) -> str:
        person_tracks = identities.columns(person=person).ids.tolist()
        if not tracks or not set(tracks) <= set(person_tracks):
            listed = ", ".join(map(str, person_tracks[:MAX_BEST])) + ", ..." * (len(person_tracks) > MAX_BEST)
            got = ", ".join(map(str, sorted(tracks)))
            raise VidretError(f"tracks must be among {listed or 'none'}, those of the person, got {got or 'none'}")
        return ids_to_json(sorted(tracks))


def list_handles(identities: IdentityStore) -> dict[str, int]:
    """Return the persons by their handles, which follow an @: ``person-7``, and one made from the name."""
    rows = identities.database.rows("SELECT id, name FROM persons")
    return {f"person-{key}": key for key, _ in rows} | {make_handle(name): key for key, name in rows if name}


def check_no_person(index: Path, handle: str) -> None:
    """Check that no person of an index has, or can have, the handle of a new concept.

    Raises:
        VidretError: A person has it, or can have it.
    """
    if UNNAMED.fullmatch(handle):
        raise VidretError(f"@{handle} is a person by its number: name the concept otherwise")
    if IdentityStore.exists(index):
        with IdentityStore.open(index) as identities:
            if handle in list_handles(identities):
                raise VidretError(
                    f"@{handle} is a person: name the concept otherwise, or vidret people name {handle} ''"
                )


def _group_model(identities: IdentityStore, model: IdentityModel) -> bool:
    """Assign the tracks of one model that have no person yet; return False if another process wrote first."""
    generation, columns = identities.generation, identities.columns(model=model.digest)
    places = {track: row for row, track in enumerate(columns.ids.tolist())}
    rejected = identities.database.rows("SELECT track, person FROM rejections")
    vectors = identities.vectors(columns.ids)
    labels = group_tracks(
        vectors,
        columns.persons,
        # Two faces in one frame are two people; voices may be heard in one stretch.
        find_overlaps(columns.contents, columns.starts, columns.ends)
        if model.kind == "face"
        else NO_ROWS.reshape(0, 2),
        {(places[track], person) for track, person in rejected if track in places},
        model.link_distance,
    )
    joined = np.flatnonzero(labels != columns.persons)
    if not len(joined):
        return True
    with identities.change():
        if identities.generation != generation:
            return False
        for label in np.unique(labels[joined])[::-1].tolist():
            person, rows = label, joined[labels[joined] == label]
            if label < 0:
                person = int(identities.database.value(ADD_PERSON, "", 0))
            scores = np.linalg.norm(vectors[rows] - vectors[labels == label].mean(0), axis=1)
            values = [
                (track, person, 0, score)
                for track, score in zip(columns.ids[rows].tolist(), scores.tolist(), strict=True)
            ]
            identities.database.run_many("INSERT INTO assignments VALUES (?, ?, ?, ?)", values)
    return True
