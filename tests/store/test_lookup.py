"""Videos by the ending of their path, their shots, and counts of what the filters by facts find."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidret.errors import StoreError, VidretError
from vidret.store.lookup import count_facets, find_below, find_by_ending, list_shots, read_shots
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, Filters, Shot, ShotChange

from .recorded import FACT_FILTERS, FACTS
from .samples import add_clip, add_segment, add_video, create, embedding


def make_video(video_id: int, *paths: str) -> StoredVideo:
    return StoredVideo(video_id, paths, 1.0, {}, complete=True, salvaged="", num_segments=1, changed=None)


VIDEOS = [
    make_video(1, "/films/2024/trip/a.mp4", "/copies/a.mp4"),
    make_video(2, "/films/2025/trip/a.mp4"),
    make_video(3, "/films/2025/ba.mp4"),
    make_video(4, "s3://bucket/c.mp4?signature=5f"),
]


@pytest.mark.parametrize(
    ("ending", "video_id"),
    [
        ("ba.mp4", 3),
        ("2025/ba.mp4", 3),
        ("c.mp4", 4),
        ("copies/a.mp4", 1),
        ("2024/trip/a.mp4", 1),
        ("mp4", None),
        ("/trip/a.mp4", None),
        ("d.mp4", None),
        ("", None),
    ],
)
def test_whole_parts_of_a_path_name_its_video(ending: str, video_id: int | None) -> None:
    found = find_by_ending(VIDEOS, ending)
    assert (found.id if found else None) == video_id


def test_an_ending_of_several_videos_is_refused_with_their_paths() -> None:
    with pytest.raises(VidretError, match=r"^trip/a.mp4: must be the end of one video's path, got 2: /films/2024"):
        find_by_ending(VIDEOS, "trip/a.mp4")
    assert find_by_ending(VIDEOS[:1], "a.mp4") == VIDEOS[0]  # two copies of one video


APART, WHOLE = "e\N{COMBINING ACUTE ACCENT}t", "\N{LATIN SMALL LETTER E WITH ACUTE}t"


@pytest.mark.parametrize("typed", [f"{WHOLE}.mp4", f"{WHOLE}s/{WHOLE}.mp4", f"/films/{WHOLE}s/{WHOLE}.mp4"])
def test_names_are_found_in_another_unicode_form(typed: str) -> None:
    videos = [*VIDEOS, make_video(5, f"/films/{APART}s/{APART}.mp4")]
    found = find_by_ending(videos, typed)
    assert found is not None
    assert found.id == 5
    exact = make_video(6, f"/films/{WHOLE}s/{WHOLE}.mp4")
    assert find_by_ending([*videos, exact], typed) == exact


def test_folders_are_found_in_another_unicode_form() -> None:
    video = make_video(5, f"/films/{APART}s/a.mp4")

    def list_videos(filters: Filters) -> list[StoredVideo]:
        return [] if filters.folder else [*VIDEOS, video]

    assert find_below(list_videos, f"/films/{WHOLE}s") == [video]
    with pytest.raises(VidretError, match="not in the index"):
        find_below(list_videos, f"/films/{WHOLE}")


CUT, DISSOLVE, FADE_IN = ShotChange(4.0, 4.0, "cut"), ShotChange(6.0, 7.5, "dissolve"), ShotChange(0.0, 1.0, "fade")
TIMES = st.integers(0, 30).map(float)


@pytest.mark.parametrize(
    ("changes", "shots"),
    [
        ([], [(0.0, 10.0, None)]),
        ([CUT, DISSOLVE], [(0.0, 4.0, None), (4.0, 6.0, "cut"), (7.5, 10.0, "dissolve")]),
        ([FADE_IN, CUT], [(1.0, 4.0, "fade"), (4.0, 10.0, "cut")]),
        ([ShotChange(3.0, 6.0, "dissolve"), CUT], [(0.0, 3.0, None), (6.0, 10.0, "dissolve")]),
        ([ShotChange(8.0, 10.0, "fade")], [(0.0, 8.0, None)]),
        ([ShotChange(12.0, 12.0, "cut")], [(0.0, 10.0, None)]),
    ],
    ids=["none", "cut and dissolve", "fade in", "cut within a dissolve", "fade out", "after the end"],
)
def test_shots_lie_between_changes(changes: list[ShotChange], shots: list[tuple[float, float, str | None]]) -> None:
    assert [(shot.start, shot.end, shot.begins_with) for shot in list_shots(changes, 0.0, 10.0)] == shots


@given(st.lists(st.tuples(TIMES, TIMES), max_size=6), TIMES, st.integers(1, 10))
def test_shots_are_the_times_outside_changes(spans: list[tuple[float, float]], start: float, length_s: int) -> None:
    ordered = sorted((min(span), max(span)) for span in spans)
    changes = [ShotChange(first, last, "cut" if first == last else "dissolve") for first, last in ordered]
    shots = list_shots(changes, start, start + length_s)
    for half in range(2 * length_s):  # the middle of each half second, which no change begins or ends in
        time = start + half / 2 + 0.25
        is_outside = not any(change.start <= time <= change.end for change in changes)
        assert sum(shot.start <= time <= shot.end for shot in shots) == is_outside
    assert all(shot.start < shot.end for shot in shots)
    gradual = [change for change in changes if change.kind == "dissolve"]
    cuts = {change.start for change in changes if change.kind == "cut" and start < change.start < start + length_s}
    cuts = {cut for cut in cuts if not any(change.start <= cut <= change.end for change in gradual)}
    assert {(cut, "cut") for cut in cuts} <= {(shot.start, shot.begins_with) for shot in shots}


def test_shots_of_a_video_end_where_it_is_stored_so_far(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = store.writer.begin_video("v1", duration=40.0, facts={}, num_segments=None)
        assert read_shots(store, video) == []
        add_segment(store, video, 0, 0.0, 10.0, embedding(0), shots=[CUT])
        assert read_shots(store, video) == [Shot(0.0, 4.0, None), Shot(4.0, 10.0, "cut")]
        other = add_video(store, "v2", seed=2)
        assert read_shots(store, other) == [], "indexed without shots, as far as the store knows"
        with pytest.raises(StoreError, match="video must be one of this index, got 9"):
            read_shots(store, 9)


DAY_S = 86400.0


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with create(tmp_path_factory.mktemp("facets")) as store:
        for content, facts in enumerate(FACTS):
            changed_ns = None if content == 5 else int(content * 1.5 * DAY_S) * 10**9
            folder = ("/a", "/b", "/a/b", "/ab")[content % 4]
            add_clip(store, content, {f"{folder}/{content}.mp4": changed_ns}, facts=facts)
        yield store


@pytest.mark.parametrize("filters", [ALL_VIDEOS, Filters(folder="/a"), *FACT_FILTERS])
def test_each_count_is_what_its_filter_finds(filmed: Store, filters: Filters) -> None:
    facets = count_facets(filmed.snapshot(), filters)
    fixed: list[tuple[dict[str, Any], int]] = [({"min_height": int(px)}, count) for px, count in facets.heights.items()]
    fixed += [({"sound": name == "on"}, count) for name, count in facets.sound.items()]
    fixed += [({"orientation": shape}, count) for shape, count in facets.orientations.items()]
    listed: list[tuple[dict[str, Any], int]] = [({"camera": camera}, count) for camera, count in facets.cameras.items()]
    listed += [({"folder": folder}, count) for folder, count in facets.folders.items()]
    listed += [({"language": code}, count) for code, count in facets.languages.items()]
    listed += [({"heard": name}, count) for name, count in facets.heard.items()]
    for day, count in facets.days.items():
        start = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        listed.append(({"filmed_after": start, "filmed_before": start + DAY_S}, count))
    for asked, count in [*fixed, *listed]:
        assert filmed.select(replace(filters, **asked)).num_videos == count, asked
    assert all(count > 0 for _, count in listed)


def test_days_are_local(filmed: Store) -> None:
    snapshot = filmed.snapshot()
    assert sum(count_facets(snapshot, ALL_VIDEOS).days.values()) == len(FACTS) - 1, "one is not known"
    east, west = (count_facets(snapshot, ALL_VIDEOS, utc_offset_s=offset).days for offset in (3600, -3600))
    assert east["1970-01-01"] == 2
    assert west["1969-12-31"] == 2


def test_a_video_counts_once_however_many_files_it_has(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        add_clip(store, 0, {"/a/1.mp4": None, "/b/1.mp4": None}, facts={"has_audio": True})
        facets = count_facets(store.snapshot(), ALL_VIDEOS)
        assert (facets.sound, sum(facets.folders.values())) == ({"on": 1, "off": 0}, 1)


def test_a_video_counts_with_its_first_path(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        day_ns = int(DAY_S) * 10**9
        add_clip(store, 0, {"/a/copy.mp4": 0, "/b/c.mp4": day_ns, "s3://a/c": 2 * day_ns})
        facets = count_facets(store.snapshot(), ALL_VIDEOS)
        assert (facets.folders, facets.days) == ({"/b": 1}, {"1970-01-02": 1})
        assert count_facets(store.snapshot(), Filters(folder="/a")).days == {"1970-01-01": 1}
