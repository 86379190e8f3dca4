"""The tables of segments, with their times and the locations of their vectors, and of shot changes."""

import json
from collections.abc import Iterable, Sequence

import numpy as np

from vidret.errors import StoreError
from vidret.store.catalog.schema import (
    COLUMNS,
    IN_IDS,
    INTACT,
    LOCATION,
    SEGMENT_ROW,
    CheckedTables,
    ids_to_json,
    last_segment,
)
from vidret.store.catalog.texts import TextTables
from vidret.store.records import NewSegment, SegmentLocation, StoredRow
from vidret.store.snapshots.bitmap import Ids
from vidret.types import SHOT_KINDS, Segment, ShotChange

EPOCH = "(SELECT value FROM meta WHERE key = 'epoch')"  # a subquery, so that it is read in the same statement


class Segments:
    """The table ``segments`` of a catalog; ``shots`` is the table of the shot changes in them."""

    def __init__(self, tables: CheckedTables, texts: TextTables) -> None:
        self._tables, self._database, self._texts = tables, tables.database, texts
        self.shots = ShotChanges(tables)

    def add(self, stored: Sequence[tuple[NewSegment, SegmentLocation]]) -> list[int]:
        """Add segments whose vectors are stored, with shot changes and texts, in one transaction; return their ids."""
        if not stored:
            return []
        with self._database.transaction():
            first = 1 + max(last_segment(self._database), self._database.value("SELECT max(id) FROM segments") or 0)
            ids = list(range(first, first + len(stored)))
            rows = [
                (key, int(new.video), int(new.number), float(new.start), float(new.end), *location, times.tobytes())
                for key, (new, location) in zip(ids, stored, strict=True)
                for times in [new.embedding.times]
            ]
            marks = ", ".join("?" * len(rows[0]))
            self._database.run_many(f"INSERT INTO segments ({COLUMNS['segments']}) VALUES ({marks})", rows)
            self._tables.update_checksums("segments", "id >= ?", first)
            self.shots.add([(key, new.shots) for key, (new, _) in zip(ids, stored, strict=True) if new.shots])
            texts = [(key, new.text) for key, (new, _) in zip(ids, stored, strict=True) if new.text is not None]
            self._texts.add(texts)
            _, last = stored[-1]
            self._tables.set_tail(last.row + 1, last.frame_row + last.num_frames, last.token_byte + last.num_bytes)
            self._tables.increment_generation()
        return ids

    def of_video(self, video: int) -> dict[int, int]:
        """Return the ids of a video's stored segments by index, in time order."""
        return dict(self._database.rows("SELECT number, id FROM segments WHERE video = ? ORDER BY number", int(video)))

    def stored_indices(self, video: int) -> set[int]:
        """Return the indices of a video's stored segments."""
        return set(self.of_video(video))

    def resume_point(self, video: int) -> tuple[int, float | None]:
        """Return the number of segments stored without a gap from a video's start, and the last one's end in seconds.

        The end is None if the first is not stored.

        Raises:
            StoreError: A row is damaged.
        """
        columns = f'number, "end", id, {INTACT["segments"]}'
        rows = self._database.rows(f"SELECT {columns} FROM segments WHERE video = ? ORDER BY number", int(video))
        num_segments, end_s = 0, None
        for segment_index, end, segment_id, intact in rows:
            if not intact:
                raise self._tables.damage_error(f"the row of segment {segment_id}")
            if segment_index != num_segments:
                break
            num_segments, end_s = segment_index + 1, float(end)
        return num_segments, end_s

    def ids_of_video(self, video: int) -> list[int]:
        """Return the ids of a video's segments, in time order."""
        return list(self.of_video(video).values())

    def find_many(self, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
        """Return the ids of the stored segments by (video, index), each once and in the given order."""
        sql = (
            "SELECT video, number, segments.id FROM json_each(?) AS pair CROSS JOIN segments"
            " ON video = json_extract(pair.value, '$[0]') AND number = json_extract(pair.value, '$[1]')"
            " ORDER BY pair.key"
        )
        rows = self._database.rows(sql, json.dumps([[int(video), int(index)] for video, index in pairs]))
        return {(video, segment_index): key for video, segment_index, key in rows}

    def get(self, ids: Sequence[int] | Ids) -> list[Segment]:
        """Return segments in the order of ``ids``."""
        return [row.segment for row in self.read_all(ids)[1]]

    def read(self, ids: Sequence[int] | Ids) -> tuple[int, dict[int, StoredRow | None]]:
        """Return the rows of the segments that exist, None for a damaged row, read in one statement.

        Returns:
            The epoch of the feature files, and the rows by id.
        """
        sql = f"SELECT {SEGMENT_ROW.columns}, {EPOCH} FROM segments WHERE id IN {IN_IDS}"
        rows = self._database.rows(sql, ids_to_json(ids))
        segments: dict[int, StoredRow | None] = {}
        for row in rows:
            segments[row[0]] = None
            if SEGMENT_ROW.is_intact(row):
                key, video, segment_index, *location, _, start, end, times, _, _ = row
                segments[key] = StoredRow(
                    segment=Segment(video, segment_index, start, end),
                    times=np.frombuffer(times, np.float64),
                    location=SegmentLocation(*location),
                )
        return (rows[0][-1] if rows else self._tables.fact("epoch")), segments

    def read_all(self, ids: Sequence[int] | Ids) -> tuple[int, list[StoredRow]]:
        """Return the epoch of the feature files, and the rows of segments in the order of ``ids``.

        Raises:
            StoreError: A segment does not exist, or its row is damaged.
        """
        epoch, rows = self.read(ids)
        intact = {key: row for key, row in rows.items() if row is not None}
        for key in rows.keys() - intact.keys():
            raise self._tables.damage_error(f"the row of segment {key}")
        for key in map(int, ids):
            if key not in intact:
                raise StoreError(f"segment {key} is not in the index")
        return epoch, [intact[int(key)] for key in ids]

    def locations(self, ids: Sequence[int] | Ids | None = None) -> tuple[int, dict[int, SegmentLocation]]:
        """Return the epoch of the feature files, and the locations of segments by id; by default all, in id order."""
        condition = "" if ids is None else f" WHERE id IN {IN_IDS}"
        values = () if ids is None else (ids_to_json(ids),)
        rows = self._database.rows(f"SELECT {EPOCH}, id, {LOCATION} FROM segments{condition} ORDER BY id", *values)
        return (rows[0][0] if rows else self._tables.fact("epoch")), {row[1]: SegmentLocation(*row[2:]) for row in rows}

    def relocate(self, locations: Iterable[tuple[int, int, int, int]]) -> None:
        """Set new locations: segment row, frame row, token byte, and id of each; damaged rows stay unchanged."""
        sql = "UPDATE segments SET row = ?, frame_row = ?, token_byte = ?, checksum = NULL WHERE id = ?"
        self._database.run_many(f"{sql} AND {INTACT['segments']}", locations)
        self._tables.update_checksums("segments", "checksum IS NULL")


class ShotChanges:
    """The table ``shots`` of a catalog."""

    def __init__(self, tables: CheckedTables) -> None:
        self._tables, self._database = tables, tables.database

    def add(self, shots: Sequence[tuple[int, Sequence[ShotChange]]]) -> None:
        """Add the shot changes of new segments, given with ascending ids, within the caller's transaction."""
        if shots:
            rows = [
                (key, json.dumps([[shot.start, shot.end, shot.kind] for shot in changes])) for key, changes in shots
            ]
            self._database.run_many("INSERT INTO shots (segment, changes) VALUES (?, ?)", rows)
            self._tables.update_checksums("shots", "segment >= ?", shots[0][0])

    def of_video(self, video: int) -> list[ShotChange]:
        """Return the shot changes of the stored part of a video, in time order; none from an index made without them.

        A change stored with two segments, since a run was stopped between them, is returned once. A damaged row is
        skipped with one warning.
        """
        rows = self._read("segment IN (SELECT id FROM segments WHERE video = ?)", int(video))
        kept = self._tables.drop_damaged("shots", rows)
        return _sort({shot for _, changes, _ in kept for shot in _unpack(changes)})

    def of_segments(self, ids: Sequence[int] | Ids) -> list[tuple[ShotChange, ...]]:
        """Return the shot changes of segments, in the order of ``ids``.

        Raises:
            StoreError: A row is damaged.
        """
        shots = {}
        for segment_id, changes, intact in self._read(f"segment IN {IN_IDS}", ids_to_json(ids)):
            if not intact:
                raise self._tables.damage_error(f"the row of the shot changes of segment {segment_id}")
            shots[segment_id] = _unpack(changes)
        return [shots.get(int(segment_id), ()) for segment_id in ids]

    def _read(self, where: str, value: object) -> list[tuple[int, str, int]]:
        return self._database.rows(f"SELECT segment, changes, {INTACT['shots']} FROM shots WHERE {where}", value)


def check_shots(shots: Sequence[ShotChange]) -> tuple[ShotChange, ...]:
    """Check the shot changes of a segment, and return them as stored: each once, in time order."""
    for shot in shots:
        if shot.kind not in SHOT_KINDS:
            raise StoreError(f"kind must be one of {', '.join(SHOT_KINDS)}, got {shot.kind!r}")
        if not (np.isfinite([shot.start, shot.end]).all() and shot.start <= shot.end):
            raise StoreError(f"times of a shot change must be finite and ascending, got {shot.start} and {shot.end}")
    return tuple(_sort({ShotChange(float(shot.start), float(shot.end), shot.kind) for shot in shots}))


def _sort(shots: Iterable[ShotChange]) -> list[ShotChange]:
    return sorted(shots, key=lambda shot: (shot.start, shot.end, shot.kind))


def _unpack(changes: str) -> tuple[ShotChange, ...]:
    return tuple(ShotChange(*change) for change in json.loads(changes))
