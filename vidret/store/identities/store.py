"""The identities of an index: tracks of faces and voices, and the persons to whom they are assigned, in one file.

The file exists only in an index in which people or speakers were read. Videos are named by the fingerprint of their
content, so that identities survive moved files and another encoder. Deleted data is overwritten with zeros.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float32, Int64
from typing_extensions import override

from vidret.errors import StoreError
from vidret.store.catalog.database import REPAIR
from vidret.store.catalog.schema import IN_IDS, ids_to_json
from vidret.store.identities.tracks import (
    IDENTITY_KINDS,
    IdentityKind,
    IdentityModel,
    Track,
    TrackColumns,
    check_track,
    match_tracks,
)
from vidret.store.side_database import SideDatabase

FILE = "identities.sqlite"
SECURE = ("PRAGMA secure_delete = ON",)
# A rejection is a track that the user took from a person. A change is the state before a user's change, for undo.
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    """CREATE TABLE models (
    digest TEXT PRIMARY KEY, kind TEXT NOT NULL, link_distance REAL NOT NULL)""",
    "CREATE TABLE readings (content TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, UNIQUE (content, kind))",
    """CREATE TABLE tracks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, content TEXT NOT NULL, model TEXT NOT NULL REFERENCES models,
    start_s REAL NOT NULL, end_s REAL NOT NULL, quality REAL NOT NULL, vector BLOB NOT NULL, thumbnail BLOB, boxes BLOB,
    checksum INTEGER NOT NULL)""",
    "CREATE INDEX tracks_by_content ON tracks (content)",
    """CREATE TABLE persons (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL DEFAULT '', hidden INTEGER NOT NULL DEFAULT 0)""",
    """CREATE TABLE assignments (
    track INTEGER PRIMARY KEY REFERENCES tracks ON DELETE CASCADE, person INTEGER NOT NULL REFERENCES persons
    ON DELETE CASCADE, by_user INTEGER NOT NULL, score REAL NOT NULL)""",
    "CREATE INDEX assignments_by_person ON assignments (person)",
    """CREATE TABLE rejections (
    track INTEGER NOT NULL REFERENCES tracks ON DELETE CASCADE, person INTEGER NOT NULL REFERENCES persons
    ON DELETE CASCADE, UNIQUE (track, person))""",
    "CREATE TABLE changes (id INTEGER PRIMARY KEY AUTOINCREMENT, before TEXT NOT NULL)",
)
TABLES = {statement: statement.split()[2] for statement in SCHEMA if statement.startswith("CREATE TABLE")}
CHECKSUM = """crc('qddd', id, start_s, end_s, quality, vector, ifnull(thumbnail, x''), ifnull(boxes, x''),
    CAST(content AS BLOB), CAST(model AS BLOB))"""
INTACT = f"ifnull(tracks.checksum = {CHECKSUM}, 0)"
ADD_PERSON = "INSERT INTO persons (name, hidden) VALUES (?, ?) RETURNING id"
OF_KIND = "model IN (SELECT digest FROM models WHERE kind = ?)"


class IdentityStore(SideDatabase):
    """The identities of one index."""

    FILE, SCHEMA, PREPARE = FILE, SCHEMA, SECURE
    CONTENTS = "SELECT content FROM readings UNION SELECT content FROM tracks"  # killed runs leave tracks only
    ABSENT = "no people or speakers were read in this index; to read them: vidret index PATH --people on --speakers on"

    @property
    def generation(self) -> int:
        """The number of changes so far."""
        return int(self.database.value("SELECT value FROM meta WHERE key = 'generation'") or 0)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Commit everything in the block, or nothing, as the next generation."""
        with self.database.transaction():
            yield
            self.database.run("REPLACE INTO meta VALUES ('generation', ?)", self.generation + 1)

    # Reading

    def models(self) -> list[IdentityModel]:
        """Return the models whose vectors are stored."""
        rows = self.database.rows("SELECT kind, digest, link_distance FROM models ORDER BY kind, digest")
        return [
            IdentityModel(kind=kind, digest=digest, link_distance=link)
            for kind, digest, link in rows
            if kind in IDENTITY_KINDS
        ]

    def readings(self) -> list[tuple[str, IdentityModel]]:
        """Return the contents that were read, each with its model, for each kind."""
        models = {model.digest: model for model in self.models()}
        rows = self.database.rows("SELECT content, model FROM readings ORDER BY content, kind")
        return [(content, models[digest]) for content, digest in rows if digest in models]

    def is_read(self, content: str, model: IdentityModel) -> bool:
        """Return whether a video was read with a model, even without a track."""
        sql = "SELECT 1 FROM readings WHERE content = ? AND kind = ? AND model = ?"
        return self.database.value(sql, content, model.kind, model.digest) is not None

    def columns(
        self,
        *,
        kind: IdentityKind | None = None,
        model: str | None = None,
        person: int | None = None,
        content: str | None = None,
    ) -> TrackColumns:
        """Return the intact tracks as columns: of one kind, one model by its digest, one person, one video, or all."""
        sql = f"""SELECT id, content, start_s, end_s, quality, ifnull(person, 0), ifnull(by_user, 0), ifnull(score, 0)
            FROM tracks LEFT JOIN assignments ON track = id WHERE {INTACT}"""
        conditions = {OF_KIND: kind, "model = ?": model, "person = ?": person, "content = ?": content}
        given = {condition: value for condition, value in conditions.items() if value is not None}
        where = "".join(f"AND {condition} " for condition in given)
        rows = self.database.rows(f"{sql} {where} ORDER BY id", *given.values())
        columns = tuple(zip(*rows, strict=True)) or ((),) * 8
        return TrackColumns(
            ids=np.array(columns[0], np.int64),
            contents=np.array(columns[1], str),
            starts=np.array(columns[2], np.float64),
            ends=np.array(columns[3], np.float64),
            qualities=np.array(columns[4], np.float64),
            persons=np.array(columns[5], np.int64),
            by_user=np.array(columns[6], bool),
            scores=np.array(columns[7], np.float64),
        )

    def vectors(self, ids: Sequence[int] | Int64[np.ndarray, " track"]) -> Float32[np.ndarray, "track dim"]:
        """Return the vectors of tracks of one model, in the order of ids.

        Raises:
            StoreError: A track does not exist, or they have different lengths.
        """
        rows = self.database.rows(f"SELECT id, vector FROM tracks WHERE id IN {IN_IDS}", ids_to_json(ids))
        vectors_by_id = {key: np.frombuffer(blob, np.float32) for key, blob in rows if len(blob) % 4 == 0}
        try:
            vectors = np.stack([vectors_by_id[int(key)] for key in ids]) if len(ids) else np.zeros((0, 0), np.float32)
        except (KeyError, ValueError) as error:
            raise StoreError(f"{self.path}: vectors of tracks cannot be read ({error}); {REPAIR}") from error
        return vectors

    def tracks(self, content: str, kind: IdentityKind) -> dict[int, Track]:
        """Return the tracks of a video with all their data, by id."""
        sql = f"""SELECT id, start_s, end_s, vector, quality, thumbnail, boxes FROM tracks
            WHERE content = ? AND {OF_KIND} AND {INTACT} ORDER BY id"""
        return {
            key: Track(
                start_s=start_s,
                end_s=end_s,
                vector=np.frombuffer(vector, np.float32),
                quality=quality,
                thumbnail=thumbnail,
                boxes=None if boxes is None else np.frombuffer(boxes, np.float32).reshape(-1, 5),
            )
            for key, start_s, end_s, vector, quality, thumbnail, boxes in self.database.rows(sql, content, kind)
        }

    def thumbnail(self, track_id: int) -> bytes | None:
        """Return the best crop of a track as JPEG, None if it has none."""
        thumbnail: bytes | None = self.database.value(
            f"SELECT thumbnail FROM tracks WHERE id = ? AND {INTACT}", track_id
        )
        return thumbnail

    # Writing

    def write_tracks(self, content: str, model: IdentityModel, tracks: Sequence[Track]) -> list[int]:
        """Store the tracks of a whole video by one model, replacing those of that kind; return the new ids.

        A track that replaces one at the same time and place keeps its person and the user's decisions. A call without
        tracks marks the video as read too.

        Raises:
            StoreError: A track is invalid, or the file cannot be written.
        """
        for track in tracks:
            check_track(track, model.kind)
        old = self.tracks(content, model.kind)
        with self.change():
            values = (model.digest, model.kind, model.link_distance)
            self.database.run("REPLACE INTO models (digest, kind, link_distance) VALUES (?, ?, ?)", *values)
            ids = [self._add(content, model, track) for track in tracks]
            old_ids = list(old)
            matches = match_tracks(list(old.values()), tracks)
            self._move_words_of_user({old_ids[row]: ids[new_row] for row, new_row in matches.items()})
            self.delete(set(self.list_ids(content, model.kind)).difference(ids))
            reading = (content, model.kind, model.digest)
            self.database.run("REPLACE INTO readings (content, kind, model) VALUES (?, ?, ?)", *reading)
            self._drop_unused_models()
            self.drop_empty_persons(named=False)
        return ids

    def _move_words_of_user(self, new_ids: Mapping[int, int]) -> None:
        """Replace old tracks by new ones in the user's decisions and in the changes to undo, within a change."""
        tables = ("assignments", "rejections")
        for table in tables:
            moved = [(new, old) for old, new in new_ids.items()]
            self.database.run_many(f"UPDATE {table} SET track = ? WHERE track = ?", moved)
        for key, text in self.database.rows("SELECT id, before FROM changes") if new_ids else ():
            before = json.loads(text)
            for table in tables:
                before[table] = [[new_ids.get(track, track), *others] for track, *others in before[table]]
            self.database.run("UPDATE changes SET before = ? WHERE id = ?", json.dumps(before), key)

    def _add(self, content: str, model: IdentityModel, track: Track) -> int:
        sql = """INSERT INTO tracks (content, model, start_s, end_s, quality, vector, thumbnail, boxes, checksum)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) RETURNING id"""
        vector = np.ascontiguousarray(track.vector, np.float32).tobytes()
        boxes = None if track.boxes is None else np.ascontiguousarray(track.boxes, np.float32).tobytes()
        times = (float(track.start_s), float(track.end_s), float(track.quality))
        track_id = int(self.database.value(sql, content, model.digest, *times, vector, track.thumbnail, boxes))
        self.database.run(f"UPDATE tracks SET checksum = {CHECKSUM} WHERE id = ?", track_id)
        return track_id

    def list_ids(self, content: str, *kinds: IdentityKind) -> list[int]:
        """Return the ids of a video's tracks, of all kinds unless some are given, including damaged ones."""
        rows = self.database.rows(
            "SELECT id, kind FROM tracks JOIN models ON digest = model WHERE content = ?", content
        )
        return [key for key, kind in rows if not kinds or kind in kinds]

    def delete(self, ids: Collection[int]) -> int:
        """Delete tracks, within a change, and return their number; see ``erase``."""
        return self.database.run(f"DELETE FROM tracks WHERE id IN {IN_IDS}", ids_to_json(sorted(ids)))

    def drop_empty_persons(self, *, named: bool) -> None:
        """Delete the persons without a track, within a change; those with a name only if ``named``."""
        condition = "" if named else "AND name = ''"
        self.database.run(f"DELETE FROM persons WHERE id NOT IN (SELECT person FROM assignments) {condition}")

    def _drop_unused_models(self) -> None:
        used = "SELECT model FROM readings UNION SELECT model FROM tracks"
        self.database.run(f"DELETE FROM models WHERE digest NOT IN ({used})")

    @override
    def delete_contents(self, contents: Sequence[str]) -> None:
        with self.change():
            self.database.run_many("DELETE FROM readings WHERE content = ?", [(content,) for content in contents])
        self.erase([key for content in contents for key in self.list_ids(content)])

    def erase(self, ids: Collection[int]) -> int:
        """Delete tracks, leaving no byte of them in the file or its log, and persons without a track.

        The changes to undo are deleted with them.

        Returns:
            The number of deleted tracks.

        Raises:
            StoreError: Another process is reading, so the log must stay.
        """
        with self.change():
            pass
        self._clear_log()  # of the empty change: with readers it fails before anything is deleted
        with self.change():
            num_tracks = self.delete(ids)
            self._drop_unused_models()
            self.drop_empty_persons(named=True)
            self.database.run("DELETE FROM changes")
        self.database.run("VACUUM")
        self._clear_log()
        return num_tracks

    def _clear_log(self) -> None:
        if self.database.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]:
            raise StoreError(
                f"{self.path}: another process reads it, and would keep deleted data in its log; try again"
            )
