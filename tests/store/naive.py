"""What a snapshot answers, by SQL over all rows and loops over them."""

import json
import math
import os
from datetime import datetime
from typing import Any

import numpy as np

from vidret.store.catalog.schema import LIVE, MATCHING, filter_values
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, Filters


def find_videos(store: Store, filters: Filters = ALL_VIDEOS) -> set[int]:
    """Return the videos with a live path that matches, by loops over the files."""
    sql = f"SELECT files.video, mtime_ns, facts, path {MATCHING}"
    rows = store._catalog.database.rows(sql, *filter_values(filters))
    return {
        video
        for video, mtime_ns, facts, path in rows
        if has_facts(json.loads(facts), mtime_ns, filters)
        and all(word in os.fsdecode(path).lower() for word in (filters.name or "").lower().split())
    }


def has_facts(facts: dict[str, Any], mtime_ns: int | None, filters: Filters) -> bool:
    """Return whether a file's video was filmed when, where and as filters ask."""
    filmed = None if mtime_ns is None else mtime_ns / 1e9
    if facts.get("filmed"):
        filmed = datetime.fromisoformat(facts["filmed"]).timestamp()
    if filters.filmed_after is not None and (filmed is None or filmed < filters.filmed_after):
        return False
    if filters.filmed_before is not None and (filmed is None or filmed >= filters.filmed_before):
        return False
    if filters.camera is not None and filters.camera.lower() not in facts.get("camera", "").lower():
        return False
    if filters.language is not None and filters.language.lower() not in facts.get("languages", "").split():
        return False
    if filters.heard is not None and filters.heard.strip().lower() not in facts.get("heard", "").lower().splitlines():
        return False
    if filters.near is not None:
        if "latitude" not in facts:
            return False
        latitude, longitude, km = map(float, filters.near.split(","))
        here, there = (
            np.array([math.cos(b) * math.cos(a), math.cos(b) * math.sin(a), math.sin(b)])
            for b, a in (
                (math.radians(latitude), math.radians(longitude)),
                (math.radians(facts["latitude"]), math.radians(facts["longitude"])),
            )
        )
        if math.degrees(math.acos(min(1.0, float(here @ there)))) * 111.2 > km:
            return False
    width, height = facts.get("width", 0), facts.get("height", -1)
    shapes = {"landscape": width > height, "portrait": width < height, "square": width == height}
    return (
        (filters.min_height is None or height >= filters.min_height)
        and (filters.min_fps is None or facts.get("average_rate", -1) >= filters.min_fps)
        and (filters.sound is None or facts.get("has_audio") == filters.sound)
        and (filters.hdr is None or facts.get("hdr") == filters.hdr)
        and (filters.orientation is None or ("width" in facts and shapes[filters.orientation]))
    )


def matching(store: Store, filters: Filters = ALL_VIDEOS) -> list[int]:
    """Return the ids of the searchable segments of videos that match, ascending."""
    videos = find_videos(store, filters)
    return [segment for segment, video in sorted(owners(store).items()) if video in videos]


def count_videos(store: Store, filters: Filters = ALL_VIDEOS) -> int:
    """Return the number of matching videos with a stored segment."""
    return len(find_videos(store, filters) & set(owners(store).values()))


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
