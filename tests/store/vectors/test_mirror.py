"""Change tracking: exactly the changes that affect a video in the collection mark it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.store.store import Store
from vidret.store.vectors.milvus_rows import UNKNOWN_TIME, CollectionRows, to_milvus_filter
from vidret.store.vectors.mirror import Mirror, PushTask
from vidret.types import ALL_VIDEOS, Filters

from ..samples import add_clip, add_segment, add_video, create, damage, embedding, index_all


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create(tmp_path) as store:
        index_all(store, 3)
        yield store


@pytest.fixture
def mirror(store: Store) -> Mirror:
    mirror = CollectionRows(store._catalog, "a1", path_bytes=60).mirror
    mirror.begin()
    push(mirror)
    return mirror


def push(mirror: Mirror) -> list[PushTask]:
    """Record all tasks as acknowledged by the collection."""
    tasks = mirror.next_tasks(1000)
    mirror.record(tasks, np.array([key for task in tasks for key in task.ids], np.int64))
    assert mirror.count()[0] == 0
    return tasks


def summarise(tasks: list[PushTask]) -> dict[int, tuple[bool, int]]:
    return {task.video: (task.whole, len(task.ids)) for task in tasks}


def test_all_videos_are_pushed_at_first_and_none_twice(store: Store) -> None:
    mirror = CollectionRows(store._catalog, "a1", path_bytes=60).mirror
    mirror.begin()
    assert mirror.find_stale().ids.tolist() == list(range(1, 13))
    assert summarise(push(mirror)) == dict.fromkeys((1, 2, 3), (True, 4))
    mirror.begin()
    assert mirror.next_tasks(9) == []
    assert mirror.count_expected() == ([], 12)
    mirror.restart()
    assert summarise(push(mirror)) == dict.fromkeys((1, 2, 3), (True, 4))


def test_only_new_segments_of_a_growing_video_are_pushed(store: Store, mirror: Mirror) -> None:
    video = store.writer.begin_video("v9", duration=30.0, facts={}, num_segments=3)
    store.writer.set_file("long.mp4", state="running", video=video)
    add_segment(store, video, 0, 0.0, 10.0, embedding(900))
    assert summarise(push(mirror)) == {video: (True, 1)}
    add_segment(store, video, 1, 10.0, 20.0, embedding(901))
    store.writer.set_file("long.mp4", state="pending")
    assert mirror.find_stale().videos == ()
    assert len(mirror.find_stale().ids) == 1
    assert summarise(push(mirror)) == {video: (False, 1)}
    assert mirror.count_expected() == ([], 14)


def cut_again(store: Store) -> None:
    store.writer.begin_video("v0", duration=40.0, facts={}, num_segments=9)


def damage_vectors(store: Store) -> None:
    damage(store.path / "features" / "video.f16", 0)
    store.upkeep.verify(repair=True)


def set_files(*changes: tuple[str, dict[str, Any]]) -> Callable[[Store], None]:
    """Return a change of the states of files."""

    def change(store: Store) -> None:
        for name, facts in changes:
            store.writer.set_file(f"/videos/{name}.mp4", **{"state": "done", **facts})

    return change


CHANGES: dict[str, tuple[Callable[[Store], object], dict[int, tuple[bool, int]]]] = {
    "file gone": (set_files(("v0", {"state": "missing"})), {1: (True, 0)}),
    "file renamed": (set_files(("v0", {"state": "missing"}), ("v0 new", {"video": 1})), {1: (True, 4)}),
    "file touched": (set_files(("v0", {"mtime_ns": 77})), {1: (True, 4)}),
    "other content under the same path": (set_files(("v0", {"video": 2})), {1: (True, 0), 2: (True, 4)}),
    "copy": (set_files(("a copy", {"video": 1})), {1: (True, 4)}),
    "cut again": (cut_again, {1: (True, 0)}),
    "damage": (damage_vectors, {1: (True, 3)}),
    "duration": (
        lambda store: store._catalog.database.run("UPDATE videos SET duration = 41 WHERE id = 1"),
        {1: (True, 4)},
    ),
    "state of a live file": (set_files(("v0", {"state": "pending"})), {}),
    "a file without video": (set_files(("new", {"state": "pending", "mtime_ns": 3}), ("new", {"state": "failed"})), {}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_mark_their_videos(store: Store, mirror: Mirror, change: str) -> None:
    act, marked = CHANGES[change]
    act(store)
    assert summarise(push(mirror)) == marked


def test_pruning_a_dead_file_marks_its_video_once(store: Store, mirror: Mirror) -> None:
    store.writer.set_file("/videos/v0.mp4", state="missing")
    push(mirror)
    store.upkeep.prune()
    assert summarise(push(mirror)) == {1: (True, 0)}  # its segments were deleted
    assert summarise(push(mirror)) == {}


def test_change_during_a_push_stays_marked(store: Store, mirror: Mirror) -> None:
    store.writer.set_file("/videos/v0.mp4", state="done", mtime_ns=7)
    tasks = mirror.next_tasks(9)
    store.writer.set_file("/videos/v0.mp4", state="done", mtime_ns=8)
    mirror.record(tasks, np.array(tasks[0].ids, np.int64))
    again = mirror.next_tasks(9)
    assert summarise(again) == {1: (True, 4)}
    assert again[0].about == {"seconds": 40.0, "path": "/videos/v0.mp4", "changed": 8}


def test_task_after_a_killed_push_is_marked_as_pushed(store: Store, mirror: Mirror) -> None:
    video = add_video(store, "v7", seed=7)
    assert [task.pushed for task in mirror.next_tasks(9)] == [False]
    assert [(task.video, task.pushed) for task in mirror.next_tasks(9)] == [(video, True)]  # the first was not recorded


def test_copies_and_long_paths_are_matched_by_id(store: Store, mirror: Mirror) -> None:
    store.writer.set_file("/videos/a copy.mp4", state="done", video=1)
    add_clip(store, 8, {f"/{'x' * 80}.mp4": None})
    tasks = {task.video: task for task in push(mirror)}
    assert [task.by_id for task in tasks.values()] == [True, True]
    assert [str((task.about or {})["path"])[:18] for task in tasks.values()] == ["/videos/a%20copy.m", "/" + "x" * 17]
    assert mirror.find_by_id(store.snapshot().everything.bits) == [1, 4]
    assert mirror.find_by_id(store.snapshot().select(Filters(folder="/videos")).bits) == [1]
    store.writer.set_file("/videos/a copy.mp4", state="missing")
    push(mirror)
    assert mirror.find_by_id(store.snapshot().everything.bits) == [4]


def test_two_mirrors_of_an_index_are_independent(store: Store, mirror: Mirror) -> None:
    other = CollectionRows(store._catalog, "b2", path_bytes=60).mirror
    other.begin()
    assert mirror.count() == (0, 3)
    assert other.count() == (3, 3)
    mirror.end()
    add_video(store, "v7", seed=7)
    assert other.count() == (4, 4)
    other.end()
    add_video(store, "v8", seed=8)
    assert store._catalog.database.rows("SELECT name FROM sqlite_master WHERE name LIKE 'mirror%'") == []


@pytest.mark.parametrize(
    ("filters", "by_id", "without", "expression"),
    [
        (ALL_VIDEOS, [3], [], ""),
        (ALL_VIDEOS, [], [1, 2], "video not in [1, 2]"),
        (Filters(folder="/a b/"), [], [], '((path == "/a%20b" or (path >= "/a%20b/" and path < "/a%20b0")))'),
        (Filters(folder="/"), [], [], '((path == "/" or (path >= "/" and path < "0")))'),
        (Filters(min_seconds=1, max_seconds=2.5), [4], [], "((seconds >= 1.0 and seconds <= 2.5) or video in [4])"),
        (Filters(after=1, before=2), [], [9], f"(changed >= {10**9} and changed < {2 * 10**9}"
         f" and changed > {UNKNOWN_TIME}) and video not in [9]"),
        (Filters(max_seconds=float("inf"), min_seconds=float("nan")), [], [], "(seconds <= 1e+300)"),
    ],
)  # fmt: skip
def test_filters_become_expressions(filters: Filters, by_id: list[int], without: list[int], expression: str) -> None:
    assert to_milvus_filter(filters, by_id, without) == expression
