"""The table of shot changes: one row for each segment that has some, written and deleted with the segment."""

import json
from collections.abc import Iterable, Sequence

import numpy as np

from vidret.errors import StoreError
from vidret.store.matching import IN_IDS, Ids, ids_to_json
from vidret.store.schema import INTACT
from vidret.store.tables import CheckedTables
from vidret.types import SHOT_KINDS, ShotChange

FIRST_FORMAT = 3  # older catalogs have no such table


class ShotChanges:
    """The table ``shots`` of a catalog."""

    def __init__(self, tables: CheckedTables) -> None:
        """Use the database of a catalog."""
        self._tables, self._database = tables, tables.database

    def add(self, segment_id: int, shots: Sequence[ShotChange]) -> None:
        """Add the shot changes of a new segment, in a transaction of the caller."""
        if shots:
            changes = json.dumps([[shot.start, shot.end, shot.kind] for shot in shots])
            self._database.run("INSERT INTO shots (segment, changes) VALUES (?, ?)", segment_id, changes)
            self._tables.update_checksums("shots", "segment = ?", segment_id)

    def of_video(self, video: int) -> list[ShotChange]:
        """Return the shot changes of the stored part of a video, in time order; none from an index made without them.

        One that two segments have, because a run was stopped between them, is returned once. A damaged row is skipped
        with one warning.
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
        if self._tables.format < FIRST_FORMAT and not self._database.value(
            "SELECT count(*) FROM sqlite_master WHERE name = 'shots'"  # a writer may have upgraded it meanwhile
        ):
            return []
        rows: list[tuple[int, str, int]] = self._database.rows(
            f"SELECT segment, changes, {INTACT['shots']} FROM shots WHERE {where}", value
        )
        return rows


def check_shots(shots: Sequence[ShotChange]) -> tuple[ShotChange, ...]:
    """Return the shot changes of a segment as they are stored, in time order.

    Raises:
        StoreError: A shot change is invalid.
    """
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
