"""What a snapshot answers, by SQL over all rows."""

from vidret.store import Store
from vidret.store.catalog.tables import LIVE, MATCHING, filter_values
from vidret.types import ALL_VIDEOS, Filters


def matching(store: Store, filters: Filters = ALL_VIDEOS) -> list[int]:
    """Return the ids of the searchable segments of videos that match, ascending."""
    sql = f"SELECT id FROM segments WHERE video IN (SELECT files.video {MATCHING}) ORDER BY id"
    return [row[0] for row in store._catalog.database.rows(sql, *filter_values(filters))]


def count_videos(store: Store, filters: Filters = ALL_VIDEOS) -> int:
    """Return the number of matching videos with a stored segment."""
    stored = "EXISTS (SELECT 1 FROM segments WHERE segments.video = videos.id)"
    sql = f"SELECT count(*) FROM videos WHERE id IN (SELECT files.video {MATCHING}) AND {stored}"
    return int(store._catalog.database.value(sql, *filter_values(filters)))


def owners(store: Store) -> dict[int, int]:
    """Return the video of every stored segment."""
    return dict(store._catalog.database.rows("SELECT id, video FROM segments"))


def overlapping(store: Store, video: int, start: float, end: float) -> list[int]:
    """Return the segments of a video that overlap a span."""
    sql = 'SELECT id FROM segments WHERE video = ? AND start <= ? AND "end" >= ? ORDER BY id'
    return [row[0] for row in store._catalog.database.rows(sql, video, end, start)]


def contents(store: Store) -> dict[str, int]:
    """Return the videos with a live path by fingerprint."""
    return dict(
        store._catalog.database.rows(
            f"SELECT fingerprint, id FROM videos WHERE id IN (SELECT video FROM files WHERE {LIVE})"
        )
    )


def describe(store: Store) -> dict[str, object]:
    """Return the counts of ``StoreInfo``."""
    rows, value = store._catalog.database.rows, store._catalog.database.value
    videos, complete, seconds = rows("SELECT count(*), coalesce(sum(complete), 0), total(duration) FROM videos")[0]
    sums = "count(*), coalesce(sum(num_frames), 0), coalesce(sum(num_bytes > 0), 0)"
    segments, frames, with_tokens = rows(f"SELECT {sums} FROM segments")[0]
    return {
        "files": dict(rows("SELECT state, count(*) FROM files GROUP BY state ORDER BY state")),
        "videos": videos,
        "complete_videos": complete,
        "seconds": seconds,
        "segments": segments,
        "frames": frames,
        "with_tokens": with_tokens,
        "searchable": len(matching(store)),
        "imported": value("SELECT count(*) FROM videos WHERE facts LIKE '%\"imported\": true%'"),
    }
