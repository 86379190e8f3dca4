"""The segments of an index: where in their videos they are, where their vectors lie, and which may be found."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from vidret.store.matching import ASKED, LIVE_VIDEOS, MATCHING, Ids, as_json, as_values, in_order
from vidret.store.records import Place, StoredRow
from vidret.store.rows import Rows
from vidret.store.schema import PLACE
from vidret.types import Filters, Segment

EPOCH = "(SELECT value FROM meta WHERE key = 'epoch')"  # within a statement: of the same moment


class Segments:
    """The table ``segments`` of a catalog."""

    def __init__(self, shared: Rows) -> None:
        """Take what all tables share."""
        self._shared, self._database = shared, shared.database

    def add(self, stored: Sequence[tuple[Segment, Place, Float64[np.ndarray, " frame"]]]) -> list[int]:
        """Make stored segments visible, all at once; return their ids."""
        if not stored:
            return []
        ids = []
        with self._database.transaction():
            for segment, place, times in stored:
                where = astuple(place)
                found = self._database.value(
                    f'INSERT INTO segments (video, number, start, "end", {PLACE}, times)'
                    f" VALUES (?, ?, ?, ?, {', '.join('?' * len(where))}, ?) RETURNING id",
                    *(segment.video, segment.number, segment.start, segment.end, *where, times.tobytes()),
                )
                ids.append(int(found))
            self._shared.seal("segments", "id >= ?", ids[0])
            self._shared.set_tail(place.row + 1, place.frame_row + place.num_frames, place.token_byte + place.num_bytes)
            self._shared.bump()
        return ids

    def of_video(self, video: int) -> dict[int, int]:
        """Map the numbers of a video's stored segments to their ids, in time order."""
        return dict(self._database.rows("SELECT number, id FROM segments WHERE video = ? ORDER BY number", int(video)))

    def find(self, video: int, number: int) -> int | None:
        """Find a stored segment by its number in its video."""
        found: int | None = self._database.value(
            "SELECT id FROM segments WHERE video = ? AND number = ?", int(video), int(number)
        )
        return found

    def get(self, ids: Sequence[int] | Ids) -> list[Segment]:
        """Look up segments, in the order asked."""
        found = {row[0]: Segment(*row[1:]) for row in self._segment_rows('id, video, number, start, "end"', ids)}
        return in_order(found, ids)

    def owners(self, ids: Sequence[int] | Ids) -> dict[int, int]:
        """Map segments to their videos, as far as they are in the index."""
        return dict(self._database.rows(f"SELECT id, video FROM segments WHERE id IN {ASKED}", as_json(ids)))

    def read(self, ids: Sequence[int] | Ids) -> tuple[int, dict[int, StoredRow | None]]:
        """Look up, of one moment, all about those segments that are in the index, None for a damaged row.

        Returns:
            The epoch of the feature files that they are in, and the rows by id.
        """
        columns = f'{EPOCH}, id, {self._shared.whole("segments")}, video, number, start, "end", times, {PLACE}'
        rows = self._database.rows(f"SELECT {columns} FROM segments WHERE id IN {ASKED}", as_json(ids))
        found = {
            row[1]: StoredRow(Segment(*row[3:7]), np.frombuffer(row[7], np.float64), Place(*row[8:]))
            if row[2]
            else None
            for row in rows
        }
        return (rows[0][0] if rows else self._shared.fact("epoch")), found

    def _segment_rows(self, columns: str, ids: Sequence[int] | Ids) -> list[Any]:
        rows = self._database.rows(
            f"SELECT {columns}, {self._shared.whole('segments')} FROM segments WHERE id IN {ASKED}", as_json(ids)
        )
        for row in rows:
            if not row[-1]:
                raise self._shared.damaged(f"the row of segment {row[0]}")
        return [row[:-1] for row in rows]

    def searchable(self) -> Ids:
        """List the ids a search may return, rising."""
        sql = f"SELECT id FROM segments WHERE video IN {LIVE_VIDEOS}"
        return np.sort(self._database.read(lambda rows: np.fromiter((row[0] for row in rows), np.int64), sql))

    def matching(self, filters: Filters) -> Ids:
        """List the ids of the searchable segments of videos that match, rising."""
        sql = f"SELECT id FROM segments WHERE video IN (SELECT files.video {MATCHING}) ORDER BY id"
        return np.array([row[0] for row in self._database.rows(sql, *as_values(filters))], np.int64)

    def count(self) -> int:
        """Count the segments a search may return."""
        return int(self._database.value(f"SELECT count(*) FROM segments WHERE video IN {LIVE_VIDEOS}"))

    def places(self, ids: Sequence[int] | Ids | None = None) -> tuple[int, dict[int, Place]]:
        """Locate segments (all by default, in id order), with the epoch of the feature files they are in."""
        asked = "" if ids is None else f" WHERE id IN {ASKED}"
        rows = self._database.rows(
            f"SELECT {EPOCH}, id, {PLACE} FROM segments{asked} ORDER BY id", *(() if ids is None else (as_json(ids),))
        )
        return (rows[0][0] if rows else self._shared.fact("epoch")), {row[1]: Place(*row[2:]) for row in rows}

    def video_rows(self, ids: Ids) -> tuple[int, Int64[np.ndarray, "segment 3"]]:
        """Return segments' ids, video rows and their checksums, in id order, with the epoch; unknown ones are left out.

        What ``places`` does, for thousands of segments in milliseconds.
        """
        rows = self._database.rows(
            f"SELECT {EPOCH}, id, row, row_sum FROM segments WHERE id IN {ASKED} ORDER BY id", as_json(ids)
        )
        table = np.array(rows, np.int64).reshape(-1, 4)
        return (int(table[0, 0]) if len(table) else self._shared.fact("epoch")), table[:, 1:]

    def times(self, ids: Sequence[int] | Ids) -> list[Float64[np.ndarray, " _frame"]]:
        """Look up the times of segments' frames, in the order asked."""
        rows = self._segment_rows("id, times", ids)
        return in_order({key: np.frombuffer(times, np.float64) for key, times in rows}, ids)

    def move(self, places: Iterable[tuple[int, int, int, int]]) -> None:
        """Give segments other rows: video row, frame row, token byte and id of each; a damaged row stays as it is."""
        sql = "UPDATE segments SET row = ?, frame_row = ?, token_byte = ?, checksum = NULL WHERE id = ?"
        self._database.run_many(f"{sql} AND {self._shared.whole('segments')}", places)
        self._shared.seal("segments", "checksum IS NULL")
