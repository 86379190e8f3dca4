"""Shot changes and open-ended videos: stored with their segments, deleted with them, continued after a stop."""

from pathlib import Path

import pytest

from vidret.errors import StoreError
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.types import ShotChange

from ..samples import DIM, add_segment, add_video, create, damage, embedding, index_all, shots

FADE = ShotChange(3.0, 3.5, "fade")


def begin(store: Store, name: str, num_segments: int | None = None) -> int:
    video = store.writer.begin_video(name, duration=40.0, facts={}, num_segments=num_segments)
    store.writer.set_file(f"/videos/{name}.mp4", state="running", video=video)
    return video


def add(store: Store, video: int, number: int) -> None:
    add_segment(store, video, number, 10.0 * number, 10.0 * number + 10, embedding(abs(number)))


def count_rows(store: Store) -> int:
    return int(store._catalog.database.value("SELECT count(*) FROM shots"))


def test_shots_come_back_in_time_order(tmp_path: Path) -> None:
    late, early = ShotChange(5.123456789, 6.0, "dissolve"), ShotChange(0.0, 0.0, "cut")
    with create(tmp_path) as store:
        video, other = begin(store, "v1"), begin(store, "v2")
        segments = [
            NewSegment(video, 1, 10.0, 20.0, embedding(1), shots=[ShotChange(10.0, 10.0, "cut")]),
            NewSegment(video, 0, 0.0, 10.0, embedding(2), shots=[late, FADE, early]),
            NewSegment(video, 2, 20.0, 30.0, embedding(3)),
            NewSegment(other, 0, 0.0, 10.0, embedding(4), shots=[FADE]),
            NewSegment(other, 1, 10.0, 20.0, embedding(5), shots=[FADE]),
        ]
        ids = store.writer.add_segments(segments)
    with Store.open(tmp_path) as store:
        assert store.shots.of_video(video) == [early, FADE, late, ShotChange(10.0, 10.0, "cut")]
        assert store.shots.of_video(other) == [FADE], "once, though a run that was continued has stored it twice"
        assert store.shots.of_video(99) == []
        assert store.shots.of_segments([ids[3], ids[2], ids[1]]) == [(FADE,), (), (early, FADE, late)]


@pytest.mark.parametrize(
    ("shot", "rule"),
    [
        (ShotChange(1.0, 1.0, "wipe"), "kind must be one of cut, fade, dissolve, got 'wipe'"),  # type: ignore[arg-type]
        (ShotChange(2.0, 1.0, "fade"), "must be finite and ascending, got 2.0 and 1.0"),
        (ShotChange(1.0, float("nan"), "fade"), "must be finite and ascending, got 1.0 and nan"),
    ],
)
def test_invalid_shots_are_refused_with_their_segment(tmp_path: Path, shot: ShotChange, rule: str) -> None:
    with create(tmp_path) as store:
        video = begin(store, "v1")
        with pytest.raises(StoreError, match=rule):
            add_segment(store, video, 0, 0.0, 10.0, embedding(1), shots=[FADE, shot])
        assert (store.segments.stored_indices(video), store.shots.of_video(video)) == (set(), [])


def test_shots_are_deleted_with_their_segments(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 4)
        assert count_rows(store) == 10
        begin(store, "v0", num_segments=9)  # starts over
        assert store.shots.of_video(1) == []
        store.writer.set_file("/videos/v1.mp4", state="missing")
        store.upkeep.prune()
        assert store.shots.of_video(2) == []
        assert count_rows(store) == 5
        lost = store.segments.ids_of_video(3)[0]
        row = store._catalog.segments.locations([lost])[1][lost].frame_row
    damage(next((tmp_path / "features").glob("frames*")), row * DIM * 2)
    with create(tmp_path) as store:
        assert [segment.id for segment in store.upkeep.verify(repair=True)] == [lost]
        assert store.shots.of_segments([lost]) == [()]
        assert count_rows(store) == 4
        assert store.upkeep.verify() == []
        add_video(store, "v2", seed=2)
        assert store.shots.of_video(3) == [change for n in range(4) for change in shots(200 + n, 10.0 * n)]


def test_damaged_row_is_left_out_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with create(tmp_path) as store:
        video = add_video(store, "v0", seed=0)
        bad = store.segments.ids_of_video(video)[2]
        store._catalog.database.run("UPDATE shots SET changes = replace(changes, 'cut', 'fad') WHERE segment = ?", bad)
    with Store.open(tmp_path) as store:
        for _ in range(2):
            assert store.shots.of_video(video) == [*shots(1, 10.0)]
        with pytest.raises(StoreError, match=rf"the shot changes of segment {bad} is damaged .*--repair"):
            store.shots.of_segments([bad])
    assert len(caplog.messages) == 1
    assert f"the row of {bad} in shots is damaged" in caplog.messages[0]


# Videos whose number of segments is not known before the end


def test_open_ended_video_is_finished_with_the_number_that_it_has(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = begin(store, "v1")
        record = store.videos.get(video)
        assert (record.num_segments, record.open_ended, record.complete) == (0, True, False)
        with pytest.raises(StoreError, match="num_segments must be at least 1 to finish an open-ended video, got 0"):
            store.writer.finish_video(video)
        for segment_index in range(3):
            add(store, video, segment_index)
            assert store.videos.find()[0].num_segments == segment_index + 1, "so far"
        with pytest.raises(StoreError, match="number must not be negative, got -1"):
            add(store, video, -1)
        assert (store.writer.begin_video("v1", duration=40.0, facts={}, num_segments=None), len(store)) == (video, 3)
        store.writer.finish_video(video, salvaged="the end is torn")
        record = store.videos.get(video)
        assert (record.num_segments, record.open_ended, record.complete) == (3, False, True)
        assert record.follows_shots
        assert record.salvaged == "the end is torn"
        with pytest.raises(StoreError, match=r"number must be in 0\.\.2, got 3"):
            add(store, video, 3)
        assert begin(store, "v1") == video
        assert store.videos.get(video) == record, "a complete video stays as it is"
        assert store.upkeep.verify() == []


def test_open_ended_video_keeps_segments_whatever_number_was_planned(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = begin(store, "v1", num_segments=2)
        add(store, video, 0)
        assert begin(store, "v1") == video
        assert (store.videos.get(video).num_segments, store.segments.stored_indices(video)) == (0, {0})
        assert store.videos.get(video).follows_shots
        add(store, video, 5)
        assert begin(store, "v1", num_segments=7) == video
        assert (store.videos.get(video).num_segments, store.segments.stored_indices(video)) == (7, set()), "starts over"
        assert not store.videos.get(video).follows_shots
        assert store.upkeep.verify() == []


def test_resume_point_is_the_end_of_the_segments_without_a_gap(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = begin(store, "v1")
        assert store.segments.resume_point(video) == (0, None)
        for segment_index, expected in ((1, (0, None)), (0, (2, 20.0)), (3, (2, 20.0)), (2, (4, 40.0))):
            add(store, video, segment_index)
            assert store.segments.resume_point(video) == expected
        store._catalog.database.run('UPDATE segments SET "end" = 17 WHERE number = 1')
        with pytest.raises(StoreError, match=r"the row of segment \d is damaged .*--repair"):
            store.segments.resume_point(video)


def test_lost_segment_of_a_finished_open_ended_video_is_found(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = begin(store, "v1")
        for segment_index in range(3):
            add(store, video, segment_index)
        store.writer.finish_video(video)
        store.writer.set_file("/videos/v1.mp4", state="done")
        store._catalog.database.run("UPDATE segments SET start = 5 WHERE number = 1")
    assert len(Store.repair_catalog(tmp_path)) == 1
    with create(tmp_path) as store:
        assert store.videos.find_complete("v1") is None
        assert [record.state for record in store.files.find()] == ["pending"]
        assert begin(store, "v1") == video
        assert store.segments.resume_point(video) == (1, 10.0)
        assert store.segments.stored_indices(video) == {0}, "the rest may be cut elsewhere now"
        for segment_index in (1, 2):
            add(store, video, segment_index)
        store.writer.finish_video(video)
        assert store.videos.get(video).num_segments == 3
