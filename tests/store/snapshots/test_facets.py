"""Counts of facts are what the filters by these facts find."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vidret.store.lookup import count_facets
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, Filters

from ..recorded import FACT_FILTERS, FACTS
from ..samples import add_segment, create, embedding

DAY_S = 86400.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with create(tmp_path_factory.mktemp("facets")) as store:
        for content, facts in enumerate(FACTS):
            video = store.writer.begin_video(f"v{content}", duration=10.0, facts=facts, num_segments=1)
            changed_ns = None if content == 5 else int(content * 1.5 * DAY_S) * 10**9
            store.writer.set_file(f"/{'ab'[content % 2]}/{content}.mp4", state="done", video=video, mtime_ns=changed_ns)
            add_segment(store, video, 0, 0.0, 10.0, embedding(content), tokens=b"")
            store.writer.finish_video(video)
        yield store


@pytest.mark.parametrize("filters", [ALL_VIDEOS, Filters(folder="/a"), *FACT_FILTERS])
def test_each_count_is_what_its_filter_finds(store: Store, filters: Filters) -> None:
    facets = count_facets(store.snapshot(), filters)
    for height, count in facets.heights.items():
        assert store.count_videos(replace(filters, min_height=int(height))) == count
    for name, count in facets.sound.items():
        assert store.count_videos(replace(filters, sound=name == "on")) == count
    for shape, count in facets.orientations.items():
        assert store.count_videos(replace(filters, orientation=shape)) == count
    for camera, count in facets.cameras.items():
        assert store.count_videos(replace(filters, camera=camera)) == count > 0
    for folder, count in facets.folders.items():
        assert store.count_videos(replace(filters, folder=folder)) == count > 0
    for day, count in facets.days.items():
        start = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        found = store.count_videos(replace(filters, filmed_after=start, filmed_before=start + DAY_S))
        assert found == count > 0


def test_days_are_local(store: Store) -> None:
    snapshot = store.snapshot()
    assert sum(count_facets(snapshot, ALL_VIDEOS).days.values()) == len(FACTS) - 1, "one is not known"
    east, west = (count_facets(snapshot, ALL_VIDEOS, utc_offset_s=offset).days for offset in (3600, -3600))
    assert east["1970-01-01"] == 2
    assert west["1969-12-31"] == 2


def test_a_video_counts_once_however_many_files_it_has(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = store.writer.begin_video("v", duration=1.0, facts={"has_audio": True}, num_segments=1)
        for path in ("/a/1.mp4", "/b/1.mp4"):
            store.writer.set_file(path, state="done", video=video)
        add_segment(store, video, 0, 0.0, 1.0, embedding(0), tokens=b"")
        facets = count_facets(store.snapshot(), ALL_VIDEOS)
        assert (facets.sound, sum(facets.folders.values())) == ({"on": 1, "off": 0}, 1)
