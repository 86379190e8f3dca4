"""Change tracking for a Milvus collection that mirrors the index: which videos must be pushed.

Triggers of SQLite maintain a table in the catalog: every transaction that changes the searchable segments of a video,
or a field of filters, counts the change. Once the collection has acknowledged a push, the changes that were read before
it are subtracted. A kill at any time therefore leaves too many changes counted, never too few; nothing has to be
scanned; and a reader knows exactly which videos are out of date in the collection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from vidret.store.catalog.catalog import Catalog
from vidret.store.catalog.matching import IN_IDS, LIVE, MATCHING, Ids, filter_values, ids_to_json
from vidret.store.records import DEAD_STATES
from vidret.types import Filters

UNKNOWN_TIME = -(2**63 - 1)  # the modification time of a file where it is unknown
SECONDS_BOUND = 1e300  # filter expressions cannot contain infinity
# added: segments added since the last push; changed: other changes since then; upto: the last segment pushed, 0 if
# none; num: number of pushed rows; by_id: filters select the video by id, since its row in Milvus has only one path.
COLUMNS = "video INTEGER PRIMARY KEY, " + ", ".join(
    f"{name} INTEGER NOT NULL DEFAULT 0" for name in ("added", "changed", "upto", "num", "by_id")
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
    about: dict[str, object] | None
    by_id: bool

    @property
    def whole(self) -> bool:
        """Whether all segments must be pushed, not only new ones."""
        return self.changed > 0


@dataclass(frozen=True, slots=True)
class StaleRows:
    """What is out of date in a collection: all rows of ``videos``; the segments ``ids`` may be missing."""

    videos: tuple[int, ...]
    ids: Ids


class Mirror:
    """The change tracking of one collection; during a move an index has two, with different names."""

    def __init__(self, catalog: Catalog, name: str, path_bytes: int) -> None:
        """Use the table of the collection ``name``, whose paths have at most ``path_bytes`` bytes."""
        self._catalog = catalog
        self._table = f"mirror_{name}"
        self._path_bytes = path_bytes

    def begin(self) -> None:
        """Start tracking, unless already started, with all videos marked as changed."""
        with self._catalog.database.transaction(durable=True):
            if self._catalog.database.value("SELECT count(*) FROM sqlite_master WHERE name = ?", self._table):
                return
            table = self._table
            self._catalog.database.run(f"CREATE TABLE {table} ({COLUMNS})")
            self._catalog.database.run(f"CREATE INDEX {table}_stale ON {table} (video) WHERE {STALE}")
            self._catalog.database.run(f"CREATE INDEX {table}_by_id ON {table} (video) WHERE by_id")
            for name, (event, videos, column) in TRIGGERS.items():
                statements = " ".join(_count_change(table, video, column) for video in videos)
                self._catalog.database.run(f"CREATE TRIGGER {table}_{name} {event} BEGIN {statements} END")
            self._mark_all()

    def restart(self) -> None:
        """Mark all videos as changed, since the collection is empty."""
        with self._catalog.database.transaction(durable=True):
            self._catalog.database.run(f"DELETE FROM {self._table}")
            self._mark_all()

    def end(self) -> None:
        """Stop tracking."""
        with self._catalog.database.transaction(durable=True):
            for name in TRIGGERS:
                self._catalog.database.run(f"DROP TRIGGER IF EXISTS {self._table}_{name}")
            self._catalog.database.run(f"DROP TABLE IF EXISTS {self._table}")

    # Writing

    def count(self) -> tuple[int, int]:
        """Return the number of changed videos and of all videos."""
        stale = self._catalog.database.value(f"SELECT count(*) FROM {self._table} WHERE {STALE}")
        return int(stale), int(self._catalog.database.value(f"SELECT count(*) FROM {self._table}"))

    def count_expected(self) -> tuple[list[int], int]:
        """Return the changed videos, and the number of rows that the collection must have of all others."""
        with self._catalog.database.transaction():
            stale = [row[0] for row in self._catalog.database.rows(f"SELECT video FROM {self._table} WHERE {STALE}")]
            num_rows = self._catalog.database.value(
                f"SELECT coalesce(sum(num), 0) FROM {self._table} WHERE NOT ({STALE})"
            )
            return stale, int(num_rows)

    def next_tasks(self, limit: int) -> list[PushTask]:
        """Return tasks for the next changed videos; from now on the collection may have rows of them."""
        catalog, table = self._catalog, self._table
        with catalog.database.transaction():  # a consistent snapshot
            sql = f"SELECT video, added, changed, upto FROM {table} WHERE {STALE} ORDER BY video LIMIT ?"
            marks = catalog.database.rows(sql, limit)
            videos = ids_to_json([row[0] for row in marks])
            files = catalog.database.rows(
                "SELECT video, path, mtime_ns, duration FROM files JOIN videos ON videos.id = video"
                f" WHERE {LIVE} AND video IN {IN_IDS} ORDER BY path",
                videos,
            )
            segments = catalog.database.rows(
                f"SELECT segments.video, id FROM segments JOIN {table} mirror ON mirror.video = segments.video"
                f" WHERE segments.video IN {IN_IDS} AND (changed > 0 OR id > upto) ORDER BY id",
                videos,
            )
            catalog.database.run(f"UPDATE {table} SET upto = -1 WHERE upto = 0 AND video IN {IN_IDS}", videos)
        about: dict[int, dict[str, object]] = {}
        by_id = set()
        for video, path, changed, seconds in files:
            quoted = quote(path)
            if video in about or len(quoted) > self._path_bytes:
                by_id.add(video)
            mtime_ns = UNKNOWN_TIME if changed is None else changed
            about.setdefault(video, {"seconds": seconds, "path": quoted[: self._path_bytes], "changed": mtime_ns})
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
        with self._catalog.database.transaction():
            self._catalog.database.run_many(
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
            gone = ids_to_json([task.video for task in tasks if task.about is None])
            self._catalog.database.run(f"DELETE FROM {table} WHERE NOT ({STALE}) AND video IN {IN_IDS}", gone)

    # Reading

    def find_stale(self, filters: Filters) -> StaleRows:
        """Return what is out of date in the collection, of videos that match."""
        matching = f"EXISTS (SELECT 1 {MATCHING} AND files.video = mirror.video)"
        rows = self._catalog.database.rows(  # a single statement, for a consistent snapshot
            f"SELECT mirror.video, changed, segments.id FROM {self._table} mirror"
            " LEFT JOIN segments ON segments.video = mirror.video AND (changed > 0 OR segments.id > upto)"
            f" AND {matching} WHERE {STALE}",
            *filter_values(filters),
        )
        videos = sorted({video for video, changed, _ in rows if changed})
        return StaleRows(tuple(videos), np.array(sorted(key for *_, key in rows if key is not None), np.int64))

    def matched_by_id(self, filters: Filters) -> list[int]:
        """Return the matching videos whose match may be due to a path that the collection does not have."""
        matching = f"EXISTS (SELECT 1 {MATCHING} AND files.video = mirror.video)"
        rows = self._catalog.database.rows(
            f"SELECT video FROM {self._table} mirror WHERE by_id AND {matching}", *filter_values(filters)
        )
        return [row[0] for row in rows]

    def keep_searchable(self, ids: Ids, filters: Filters) -> Ids:
        """Return the searchable ids that match, ascending."""
        matching = f"EXISTS (SELECT 1 {MATCHING} AND files.video = segments.video)"
        sql = f"SELECT id FROM segments WHERE id IN (SELECT value FROM json_each(?7)) AND {matching} ORDER BY id"
        rows = self._catalog.database.rows(sql, *filter_values(filters), ids_to_json(ids))
        return np.array([row[0] for row in rows], np.int64)

    def _mark_all(self) -> None:
        live = f"SELECT video FROM files WHERE video IS NOT NULL AND {LIVE}"
        self._catalog.database.run(f"INSERT INTO {self._table} (video, changed) SELECT DISTINCT video, 1 FROM ({live})")


def to_milvus_filter(filters: Filters, by_id: Sequence[int], without: Sequence[int]) -> str:
    """Return filters as an expression of Milvus on the fields of ``PushTask.about``, '' for no condition.

    Args:
        filters: Filters.
        by_id: Videos that match regardless of their fields.
        without: Videos to exclude.
    """
    folder, inside, min_seconds, max_seconds, after, before = filter_values(filters)
    conditions = []
    if folder is not None and inside is not None:
        # Every byte except letters, digits and / - . _ ~ is quoted, and 0 follows /: the range is a prefix search.
        first = quote(inside)
        conditions.append(f'(path == "{quote(folder)}" or (path >= "{first}" and path < "{first[:-1]}0"))')
    for sign, bound in ((">=", min_seconds), ("<=", max_seconds)):
        if bound is not None and not np.isnan(bound):  # NaN means no bound, as NULL does in SQLite
            conditions.append(f"seconds {sign} {float(np.clip(bound, -SECONDS_BOUND, SECONDS_BOUND))!r}")
    if after is not None:
        conditions.append(f"changed >= {after}")
    if before is not None:
        conditions.append(f"changed < {before} and changed > {UNKNOWN_TIME}")
    matching = f"({' and '.join(conditions)})"
    if conditions and by_id:
        matching = f"({matching} or video in {list(by_id)})"
    return " and ".join([*([matching] if conditions else []), *([f"video not in {list(without)}"] if without else [])])


def _count_change(table: str, video: str, column: str) -> str:
    """Return statements that count a change of a video, if not NULL; an upsert would inherit an outer REPLACE."""
    insert = f"INSERT INTO {table} (video) SELECT {video} WHERE {video} IS NOT NULL"
    return (
        f"{insert} AND NOT EXISTS (SELECT 1 FROM {table} WHERE video = {video});"
        f" UPDATE {table} SET {column} = {column} + 1 WHERE video = {video};"
    )
