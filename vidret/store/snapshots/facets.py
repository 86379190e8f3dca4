"""How many videos of an index have each fact that filters ask for: what can be chosen, before it is chosen."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from vidret.store.catalog.facts import ORIENTATIONS, to_seconds
from vidret.store.records import LANGUAGES
from vidret.store.snapshots.snapshot import Snapshot
from vidret.types import Filters

HEIGHTS = (2160, 1080, 720)
MAX_LISTED = 200  # cameras and folders, those with most videos
DAY_S = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """The numbers of videos that match some filters, by each fact; those of a fact regardless of its own filter.

    Attributes:
        days: By the day they were filmed, as year-month-day; for files that do not say it, modified.
        cameras: By make and model.
        heights: By minimum height in pixels.
        sound: With sound (``on``) and without (``off``).
        orientations: By shape.
        languages: By each language that is heard.
        folders: By the folder that has the file.
    """

    days: dict[str, int]
    cameras: dict[str, int]
    heights: dict[str, int]
    sound: dict[str, int]
    orientations: dict[str, int]
    languages: dict[str, int]
    folders: dict[str, int]


def count_facets(snapshot: Snapshot, filters: Filters, *, utc_offset_s: float = 0.0) -> Facets:
    """Return the facets of the videos that match; ``utc_offset_s`` is by how much local days begin before those of UTC.

    A video with several files counts once, with its first one.
    """
    known: dict[Filters, tuple[list[bytes], np.ndarray, Float64[np.ndarray, " video"]]] = {}

    def read(*own: str) -> tuple[list[bytes], np.ndarray, Float64[np.ndarray, " video"]]:
        others = replace(filters, **dict.fromkeys(own))
        if others not in known:
            rows = snapshot.first_files(others)
            facts = snapshot.videos.facts[snapshot.files.video_rows[rows]]
            changed_s = to_seconds(snapshot.files.mtimes_ns[rows])
            filmed_s = np.where(np.isnan(facts["filmed_s"]), changed_s, facts["filmed_s"])
            known[others] = [snapshot.files.paths[row] for row in rows.tolist()], facts, filmed_s
        return known[others]

    filmed_s = read("filmed_after", "filmed_before")[2]
    days, num_days = np.unique(np.floor((filmed_s[~np.isnan(filmed_s)] + utc_offset_s) / DAY_S), return_counts=True)
    cameras, num_cameras = np.unique(read("camera")[1]["camera"], return_counts=True)
    heights, sound, shapes = read("min_height")[1]["height"], read("sound")[1]["has_audio"], read("orientation")[1]
    signs = np.sign(shapes["width"] - shapes["height"])
    heard = Counter(code.decode() for codes in read("language")[1][LANGUAGES].tolist() for code in codes.split())
    folders = Counter(path.rpartition(b"/")[0] for path in read("folder")[0])
    return Facets(
        days=dict(zip(np.datetime_as_string(days.astype("datetime64[D]")).tolist(), num_days.tolist(), strict=True)),
        cameras=list_most(
            [name.decode(errors="replace") for name in cameras.tolist()], num_cameras.tolist(), leave_out=""
        ),
        heights={str(height): int((heights >= height).sum()) for height in HEIGHTS},
        sound={name: int((sound == value).sum()) for name, value in (("on", 1.0), ("off", 0.0))},
        orientations={name: int((signs == index - 1).sum()) for index, name in enumerate(ORIENTATIONS)},
        languages=dict(sorted(heard.items())),
        folders=list_most([os.fsdecode(folder) for folder in folders], list(folders.values())),
    )


def list_most(names: Sequence[str], counts: Sequence[int], *, leave_out: str | None = None) -> dict[str, int]:
    """Return the names with the highest counts, by name."""
    pairs = [(name, count) for name, count in zip(names, counts, strict=True) if name != leave_out]
    return dict(sorted(sorted(pairs, key=lambda pair: -pair[1])[:MAX_LISTED]))
