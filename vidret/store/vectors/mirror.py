"""Change tracking for a Milvus collection that mirrors the index: which videos must be pushed.

Triggers of SQLite maintain a table in the catalog: every transaction that changes the searchable segments of a video,
or a field of filters, counts the change. Once the collection has acknowledged a push, the changes that were read before
it are subtracted. A kill at any time therefore leaves too many changes counted, never too few; nothing has to be
scanned; and a reader knows exactly which videos are out of date in the collection.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from vidret.store.catalog.database import Database
from vidret.store.catalog.schema import IN_IDS, LIVE, Ids, ids_to_json
from vidret.store.records import DEAD_STATES
from vidret.store.snapshots.bitmap import Bits, contains

# added: segments added since the last push; changed: other changes since then; upto: the last segment pushed, 0 if
# none; num: number of pushed rows; by_id: filters select the video by id, since its row in Milvus has only one path;
# content: the video of pictures that its row has, 0 if none.
COLUMNS = "video INTEGER PRIMARY KEY, " + ", ".join(
    f"{name} INTEGER NOT NULL DEFAULT 0" for name in ("added", "changed", "upto", "num", "by_id", "content")
)
STALE = "added + changed > 0"
LIVE_VIDEO = f"CASE WHEN {{0}}state NOT IN {DEAD_STATES} THEN {{0}}video END"  # the video that a path makes searchable
OLD, NEW = LIVE_VIDEO.format("OLD."), LIVE_VIDEO.format("NEW.")
BEFORE = f"(SELECT {LIVE_VIDEO.format('')} FROM files WHERE path = NEW.path)"
BEFORE_TIME = "(SELECT mtime_ns FROM files WHERE path = NEW.path)"
# Event, videos and counter of each trigger. REPLACE fires no trigger for the row that it removes.
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
OF_FIELDS = ("video_set", "file_put", "file_set", "file_gone")  # the triggers for what filters use
Fields = dict[str, object]
Describe = Callable[[Sequence[int]], tuple[dict[int, Fields], set[int]]]


@dataclass(frozen=True, slots=True)
class PushTask:
    """A changed video: its counters, the ids of segments to push, and their common fields ``about``.

    If ``whole``, all segments are pushed. ``pushed`` is True if the collection may already have rows of the video.
    ``about`` is None if the video is no longer searchable.
    """

    video: int
    added: int
    changed: int
    pushed: bool
    ids: tuple[int, ...]
    about: Fields | None
    by_id: bool

    @property
    def whole(self) -> bool:
        """Whether all segments must be pushed, not only new ones."""
        return self.changed > 0


@dataclass(frozen=True, slots=True)
class StaleRows:
    """What is out of date in a collection: all rows of ``videos``; the segments ``ids`` may be missing.

    ``owners`` are the videos of these segments.
    """

    videos: tuple[int, ...]
    ids: Ids
    owners: tuple[int, ...]


class Mirror:
    """The change tracking of one collection; during a move an index has two, with different names."""

    def __init__(
        self,
        database: Database,
        name: str,
        describe: Describe | None = None,
        triggers: Collection[str] = tuple(TRIGGERS),
    ) -> None:
        """Use the table of the collection ``name`` in the database of a catalog.

        ``describe`` returns the fields of each searchable video, by id, and the videos that filters select by id. It
        may be missing where only some ``triggers`` count changes of fields.
        """
        self._database, self._describe, self._triggers = database, describe, triggers
        self._table = f"mirror_{name}"

    def begin(self) -> None:
        """Start tracking, unless already started, with all videos marked as changed."""
        with self._database.transaction(durable=True):
            if self.exists():
                return
            table = self._table
            self._database.run(f"CREATE TABLE {table} ({COLUMNS})")
            self._database.run(f"CREATE INDEX {table}_stale ON {table} (video) WHERE {STALE}")
            self._database.run(f"CREATE INDEX {table}_by_id ON {table} (video) WHERE by_id")
            self._database.run(f"CREATE INDEX {table}_content ON {table} (content) WHERE content > 0")
            for name in self._triggers:
                event, videos, column = TRIGGERS[name]
                statements = " ".join(_count_change(table, video, column) for video in videos)
                self._database.run(f"CREATE TRIGGER {table}_{name} {event} BEGIN {statements} END")
            self._mark_all()

    def exists(self) -> bool:
        """Return whether tracking has started; a repair of the catalog ends it."""
        return bool(self._database.value("SELECT count(*) FROM sqlite_master WHERE name = ?", self._table))

    def restart(self) -> None:
        """Mark all videos as changed, since the collection is empty."""
        with self._database.transaction(durable=True):
            self._database.run(f"DELETE FROM {self._table}")
            self._mark_all()

    def end(self) -> None:
        """Stop tracking."""
        with self._database.transaction(durable=True):
            for name in TRIGGERS:
                self._database.run(f"DROP TRIGGER IF EXISTS {self._table}_{name}")
            self._database.run(f"DROP TABLE IF EXISTS {self._table}")

    # Writing

    def count(self) -> tuple[int, int]:
        """Return the number of changed videos and of all videos."""
        stale = self._database.value(f"SELECT count(*) FROM {self._table} WHERE {STALE}")
        return int(stale), int(self._database.value(f"SELECT count(*) FROM {self._table}"))

    def changes(self, limit: int = -1) -> list[tuple[int, int]]:
        """Return the changed videos, all or the first ones, and the number of changes of each."""
        sql = f"SELECT video, added + changed FROM {self._table} WHERE {STALE} ORDER BY video LIMIT ?"
        return self._database.rows(sql, limit)

    def forget(self, changes: Sequence[tuple[int, int]]) -> None:
        """Subtract changes of fields that are marked elsewhere now."""
        with self._database.transaction():
            values = [(num, video) for video, num in changes]
            self._database.run_many(f"UPDATE {self._table} SET changed = changed - ? WHERE video = ?", values)

    def mark(self, videos: Sequence[int]) -> None:
        """Count a change of videos that the collection may have."""
        self._database.run(
            f"UPDATE {self._table} SET changed = changed + 1 WHERE video IN {IN_IDS}", ids_to_json(videos)
        )

    def count_expected(self) -> tuple[list[int], int]:
        """Return the changed videos, and the number of rows that the collection must have of all others."""
        with self._database.transaction():
            stale = [row[0] for row in self._database.rows(f"SELECT video FROM {self._table} WHERE {STALE}")]
            num_rows = self._database.value(f"SELECT coalesce(sum(num), 0) FROM {self._table} WHERE NOT ({STALE})")
            return stale, int(num_rows)

    def next_tasks(self, limit: int) -> list[PushTask]:
        """Return tasks for the next changed videos; from now on the collection may have rows of them."""
        table, database = self._table, self._database
        assert self._describe is not None
        with database.transaction():  # a consistent snapshot
            sql = f"SELECT video, added, changed, upto FROM {table} WHERE {STALE} ORDER BY video LIMIT ?"
            marks = database.rows(sql, limit)
            about, by_id = self._describe([row[0] for row in marks])
            videos = ids_to_json([row[0] for row in marks])
            segments = database.rows(
                f"SELECT segments.video, id FROM segments JOIN {table} mirror ON mirror.video = segments.video"
                f" WHERE segments.video IN {IN_IDS} AND (changed > 0 OR id > upto) ORDER BY id",
                videos,
            )
            database.run(f"UPDATE {table} SET upto = -1 WHERE upto = 0 AND video IN {IN_IDS}", videos)
        ids: dict[int, list[int]] = {}
        for video, key in segments:
            ids.setdefault(video, []).append(key)
        return [
            PushTask(
                video=video,
                added=added,
                changed=changed,
                pushed=upto != 0,
                ids=tuple(ids.get(video, ())) if video in about else (),
                about=about.get(video),
                by_id=video in by_id,
            )
            for video, added, changed, upto in marks
        ]

    def record(self, tasks: Sequence[PushTask], pushed: Ids) -> None:
        """Subtract the changes of tasks that the collection has acknowledged; ``pushed`` are ids of written rows."""
        written = set(pushed.tolist())
        table = self._table
        with self._database.transaction():
            self._database.run_many(
                f"UPDATE {table} SET added = added - ?, changed = changed - ?, upto = max(upto, ?),"
                " num = ? + CASE WHEN ? THEN 0 ELSE num END, by_id = ?, content = ? WHERE video = ?",
                (
                    (
                        task.added,
                        task.changed,
                        max(task.ids, default=-1),
                        len(written.intersection(task.ids)),
                        task.whole,
                        task.by_id,
                        (task.about or {}).get("content", 0),
                        task.video,
                    )
                    for task in tasks
                ),
            )
            gone = ids_to_json([task.video for task in tasks if task.about is None])
            self._database.run(f"DELETE FROM {table} WHERE NOT ({STALE}) AND video IN {IN_IDS}", gone)

    # Reading

    def find_stale(self, others: Collection[int] = ()) -> StaleRows:
        """Return what is out of date in the collection, with all of some other videos."""
        rows = self._database.rows(  # a single statement, for a consistent snapshot
            f"SELECT mirror.video, changed, segments.id FROM {self._table} mirror"
            " LEFT JOIN segments ON segments.video = mirror.video AND (changed > 0 OR segments.id > upto)"
            f" WHERE {STALE}"
        )
        if others:
            sql = f"SELECT video, 1, id FROM segments WHERE video IN {IN_IDS}"
            rows += self._database.rows(sql, ids_to_json(sorted(others)))
        videos = {video for video, changed, _ in rows if changed}.union(others)
        ids = np.unique(np.array([key for *_, key in rows if key is not None], np.int64))
        return StaleRows(tuple(sorted(videos)), ids, tuple(sorted({row[0] for row in rows}.union(others))))

    def find_by_id(self, within: Bits) -> list[int]:
        """Return the videos with segments in a bitmap that may match by a path that the collection does not have."""
        first = "(SELECT id FROM segments WHERE segments.video = mirror.video ORDER BY number LIMIT 1)"
        rows = self._database.rows(f"SELECT video, {first} FROM {self._table} mirror WHERE by_id")
        segments = np.array([-1 if key is None else key for _, key in rows], np.int64)
        return [row[0] for row, is_in in zip(rows, contains(within, segments), strict=True) if is_in]

    def find_pushed(self, contents: Sequence[int]) -> list[int]:
        """Return the videos whose rows have one of these videos of pictures."""
        sql = f"SELECT video FROM {self._table} WHERE content > 0 AND content IN {IN_IDS}"
        return [row[0] for row in self._database.rows(sql, ids_to_json(contents))]

    def _mark_all(self) -> None:
        live = f"SELECT video FROM files WHERE video IS NOT NULL AND {LIVE}"
        self._database.run(f"INSERT INTO {self._table} (video, changed) SELECT DISTINCT video, 1 FROM ({live})")


def _count_change(table: str, video: str, column: str) -> str:
    """Return statements that count a change of a video, if not NULL; an upsert would inherit an outer REPLACE."""
    insert = f"INSERT INTO {table} (video) SELECT {video} WHERE {video} IS NOT NULL"
    return (
        f"{insert} AND NOT EXISTS (SELECT 1 FROM {table} WHERE video = {video});"
        f" UPDATE {table} SET {column} = {column} + 1 WHERE video = {video};"
    )
