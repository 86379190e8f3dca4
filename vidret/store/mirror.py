"""What a collection elsewhere holds of an index, video by video, and what it has yet to be told.

One table of the catalog, which SQLite's own triggers keep: whatever changes what a search may return of a video, or
what filters ask of it, marks the video in the very transaction that changes it. A video is unmarked after the
collection has acknowledged it, by as many changes as were read before. So a kill at any moment leaves a mark too many,
never one too few, nothing is ever looked through for changes, and a reader knows exactly which videos it must not ask
elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from vidret.store.catalog import Catalog
from vidret.store.matching import ASKED, LIVE, MATCHING, Ids, as_json, as_values
from vidret.store.records import DEAD_STATES
from vidret.types import Filters

UNKNOWN = -(2**63 - 1)  # when a file changed, if nobody knows
SECONDS_BOUND = 1e300  # infinity cannot be written down
# added: segments since the last push; changed: anything else since; upto: the last segment pushed, 0 where none ever
# was; num: rows that were pushed; by_id: filters match it by its number, since one path does not tell.
COLUMNS = "video INTEGER PRIMARY KEY, " + ", ".join(
    f"{name} INTEGER NOT NULL DEFAULT 0" for name in ("added", "changed", "upto", "num", "by_id")
)
STALE = "added + changed > 0"
SHOWN = f"CASE WHEN {{0}}state NOT IN {DEAD_STATES} THEN {{0}}video END"  # the video that a path makes searchable
OLD, NEW = SHOWN.format("OLD."), SHOWN.format("NEW.")
BEFORE = f"(SELECT {SHOWN.format('')} FROM files WHERE path = NEW.path)"
BEFORE_TIME = "(SELECT mtime_ns FROM files WHERE path = NEW.path)"
# When a trigger fires, which videos it marks, and for what; REPLACE fires no trigger for the row it throws out.
TRIGGERS = {
    "segment_added": ("AFTER INSERT ON segments", ["NEW.video"], "added"),
    "segment_gone": ("AFTER DELETE ON segments", ["OLD.video"], "changed"),
    "video_set": ("AFTER UPDATE OF duration ON videos WHEN NEW.duration IS NOT OLD.duration", ["NEW.id"], "changed"),
    "file_put": (
        f"BEFORE INSERT ON files WHEN {BEFORE} IS NOT {NEW} OR {BEFORE_TIME} IS NOT NEW.mtime_ns",
        [BEFORE, NEW],
        "changed",
    ),
    "file_set": (
        f"AFTER UPDATE ON files WHEN {OLD} IS NOT {NEW} OR OLD.mtime_ns IS NOT NEW.mtime_ns",
        [OLD, NEW],
        "changed",
    ),
    "file_gone": ("AFTER DELETE ON files", [OLD], "changed"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A marked video as it is now: what it was marked for, which of its segments are to be pushed, and with what.

    ``whole`` ones are pushed from the first segment to the last; ``pushed`` says that rows of it may be there.
    ``about`` is None for a video that is searchable no more.
    """

    video: int
    added: int
    changed: int
    pushed: bool
    ids: tuple[int, ...]
    about: dict[str, object] | None
    by_id: bool

    @property
    def whole(self) -> bool:
        """Say whether more than new segments is to be told."""
        return self.changed > 0


@dataclass(frozen=True, slots=True)
class Behind:
    """What a collection cannot answer now: rows of ``videos`` are out of date, and ``ids`` may not be there."""

    videos: tuple[int, ...]
    ids: Ids


class Mirror:
    """The marks of one collection; its name keeps them apart from those of another that an index is moving to."""

    def __init__(self, catalog: Catalog, name: str, path_bytes: int) -> None:
        """Name the collection, and the longest path that it can hold."""
        self._catalog = catalog
        self._table = f"mirror_{name}"
        self._path_bytes = path_bytes

    def begin(self) -> None:
        """Start to follow the catalog, unless that was done; everything is yet to be told."""
        with self._catalog.transaction(durable=True):
            if self._catalog.value("SELECT count(*) FROM sqlite_master WHERE name = ?", self._table):
                return
            table = self._table
            self._catalog.run(f"CREATE TABLE {table} ({COLUMNS})")
            self._catalog.run(f"CREATE INDEX {table}_stale ON {table} (video) WHERE {STALE}")
            self._catalog.run(f"CREATE INDEX {table}_by_id ON {table} (video) WHERE by_id")
            for name, (event, videos, column) in TRIGGERS.items():
                marks = " ".join(_mark(table, video, column) for video in videos)
                self._catalog.run(f"CREATE TRIGGER {table}_{name} {event} BEGIN {marks} END")
            self._mark_all()

    def restart(self) -> None:
        """Know that the collection is empty."""
        with self._catalog.transaction(durable=True):
            self._catalog.run(f"DELETE FROM {self._table}")
            self._mark_all()

    def end(self) -> None:
        """Follow the catalog no more."""
        with self._catalog.transaction(durable=True):
            for name in TRIGGERS:
                self._catalog.run(f"DROP TRIGGER IF EXISTS {self._table}_{name}")
            self._catalog.run(f"DROP TABLE IF EXISTS {self._table}")

    # The writer's part

    def count(self) -> tuple[int, int]:
        """Count the marked videos, and all that the collection knows or is to know."""
        stale = self._catalog.value(f"SELECT count(*) FROM {self._table} WHERE {STALE}")
        return int(stale), int(self._catalog.value(f"SELECT count(*) FROM {self._table}"))

    def expect(self) -> tuple[list[int], int]:
        """List the marked videos, and count the rows that the collection must hold of all others."""
        with self._catalog.transaction():
            stale = [row[0] for row in self._catalog.rows(f"SELECT video FROM {self._table} WHERE {STALE}")]
            num = self._catalog.value(f"SELECT coalesce(sum(num), 0) FROM {self._table} WHERE NOT ({STALE})")
            return stale, int(num)

    def take(self, most: int) -> list[Task]:
        """Read what is to be told of the next marked videos, and note that rows of them may be there from now on."""
        catalog, table = self._catalog, self._table
        with catalog.transaction():  # one moment in time
            sql = f"SELECT video, added, changed, upto FROM {table} WHERE {STALE} ORDER BY video LIMIT ?"
            marks = catalog.rows(sql, most)
            videos = as_json([row[0] for row in marks])
            files = catalog.rows(
                "SELECT video, path, mtime_ns, duration FROM files JOIN videos ON videos.id = video"
                f" WHERE {LIVE} AND video IN {ASKED} ORDER BY path",
                videos,
            )
            segments = catalog.rows(
                f"SELECT segments.video, id FROM segments JOIN {table} mirror ON mirror.video = segments.video"
                f" WHERE segments.video IN {ASKED} AND (changed > 0 OR id > upto) ORDER BY id",
                videos,
            )
            catalog.run(f"UPDATE {table} SET upto = -1 WHERE upto = 0 AND video IN {ASKED}", videos)
        about: dict[int, dict[str, object]] = {}
        by_id = set()
        for video, path, changed, seconds in files:
            text = quote(path)
            if video in about or len(text) > self._path_bytes:
                by_id.add(video)
            when = UNKNOWN if changed is None else changed
            about.setdefault(video, {"seconds": seconds, "path": text[: self._path_bytes], "changed": when})
        ids: dict[int, list[int]] = {}
        for video, key in segments:
            ids.setdefault(video, []).append(key)
        return [
            Task(
                video,
                added,
                changed,
                upto != 0,
                tuple(ids.get(video, ())) if video in about else (),
                about.get(video),
                video in by_id,
            )
            for video, added, changed, upto in marks
        ]

    def record(self, tasks: Sequence[Task], pushed: Ids) -> None:
        """Unmark videos that the collection has acknowledged; ``pushed`` are the rows that were written."""
        written = set(pushed.tolist())
        table = self._table
        with self._catalog.transaction():
            self._catalog.run_many(
                f"UPDATE {table} SET added = added - ?, changed = changed - ?, upto = max(upto, ?),"
                " num = ? + CASE WHEN ? THEN 0 ELSE num END, by_id = ? WHERE video = ?",
                (
                    (
                        task.added,
                        task.changed,
                        max(task.ids, default=-1),
                        len(written.intersection(task.ids)),
                        task.whole,
                        task.by_id,
                        task.video,
                    )
                    for task in tasks
                ),
            )
            gone = as_json([task.video for task in tasks if task.about is None])
            self._catalog.run(f"DELETE FROM {table} WHERE NOT ({STALE}) AND video IN {ASKED}", gone)

    # The reader's part

    def behind(self, filters: Filters) -> Behind:
        """Find out what of the matching videos must not be asked elsewhere now."""
        matching = f"EXISTS (SELECT 1 {MATCHING} AND files.video = mirror.video)"
        rows = self._catalog.rows(  # one statement: one moment in time
            f"SELECT mirror.video, changed, segments.id FROM {self._table} mirror"
            " LEFT JOIN segments ON segments.video = mirror.video AND (changed > 0 OR segments.id > upto)"
            f" AND {matching} WHERE {STALE}",
            *as_values(filters),
        )
        videos = sorted({video for video, changed, _ in rows if changed})
        return Behind(tuple(videos), np.array(sorted(key for *_, key in rows if key is not None), np.int64))

    def matched_by_id(self, filters: Filters) -> list[int]:
        """List the videos that match, but may do so by another path than the one that the collection knows."""
        matching = f"EXISTS (SELECT 1 {MATCHING} AND files.video = mirror.video)"
        rows = self._catalog.rows(
            f"SELECT video FROM {self._table} mirror WHERE by_id AND {matching}", *as_values(filters)
        )
        return [row[0] for row in rows]

    def still(self, ids: Ids, filters: Filters) -> Ids:
        """Keep of some ids those that a search may return, rising."""
        matching = f"EXISTS (SELECT 1 {MATCHING} AND files.video = segments.video)"
        sql = f"SELECT id FROM segments WHERE id IN (SELECT value FROM json_each(?7)) AND {matching} ORDER BY id"
        rows = self._catalog.rows(sql, *as_values(filters), as_json(ids))
        return np.array([row[0] for row in rows], np.int64)

    def _mark_all(self) -> None:
        live = f"SELECT video FROM files WHERE video IS NOT NULL AND {LIVE}"
        self._catalog.run(f"INSERT INTO {self._table} (video, changed) SELECT DISTINCT video, 1 FROM ({live})")


def express(filters: Filters, by_id: Sequence[int], without: Sequence[int]) -> str:
    """Write filters as Milvus reads them, for rows as ``Mirror.take`` describes videos; '' where nothing is asked."""
    folder, inside, least, most, after, before = as_values(filters)
    asked = []
    if folder is not None and inside is not None:
        # Every byte but letters, digits and / - . _ ~ is quoted, and 0 comes after /: a range is a prefix.
        first = quote(inside)
        asked.append(f'(path == "{quote(folder)}" or (path >= "{first}" and path < "{first[:-1]}0"))')
    for sign, bound in ((">=", least), ("<=", most)):
        if bound is not None and not np.isnan(bound):  # SQLite reads NaN as NULL
            asked.append(f"seconds {sign} {float(np.clip(bound, -SECONDS_BOUND, SECONDS_BOUND))!r}")
    if after is not None:
        asked.append(f"changed >= {after}")
    if before is not None:
        asked.append(f"changed < {before} and changed > {UNKNOWN}")
    matching = f"({' and '.join(asked)})"
    if asked and by_id:
        matching = f"({matching} or video in {list(by_id)})"
    return " and ".join([*([matching] if asked else []), *([f"video not in {list(without)}"] if without else [])])


def _mark(table: str, video: str, column: str) -> str:
    """Write the statements that mark a video, if there is one; an upsert would do what the outer REPLACE does."""
    fresh = f"INSERT INTO {table} (video) SELECT {video} WHERE {video} IS NOT NULL"
    return (
        f"{fresh} AND NOT EXISTS (SELECT 1 FROM {table} WHERE video = {video});"
        f" UPDATE {table} SET {column} = {column} + 1 WHERE video = {video};"
    )
