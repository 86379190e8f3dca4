"""The store: search results when files are added, moved, changed or deleted, locking, and validation."""

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.catalog.schema import FORMAT
from vidret.store.folder import CATALOG, FEATURES, check_entries
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS, SEGMENTS, NewSegment, StoredVideo
from vidret.store.store import Store
from vidret.types import ALL_VIDEOS, NO_TIME, Filters, Segment, SegmentEmbedding

from .samples import (
    DIM,
    NUM_SEGMENTS,
    add_clip,
    add_segment,
    add_video,
    create,
    damage,
    embedding,
    index_all,
    seeds,
    tokens,
)


def stored(num_videos: int) -> dict[int, SegmentEmbedding]:
    return {seed: embedding(seed) for v in range(num_videos) for seed in range(100 * v, 100 * v + 4)}


def test_everything_is_read_as_stored(tmp_path: Path) -> None:
    with create(tmp_path / "index") as store:
        index_all(store, 5)
    with Store.open(tmp_path / "index") as store:
        assert (store.encoder_name, store.encoder_fingerprint, store.dim, len(store)) == ("tower", "tower-1", DIM, 20)
        for v in range(5):
            video = store.videos.find_complete(f"v{v}")
            assert video is not None
            record = store.videos.get(video)
            assert (record.fingerprint, record.duration, record.facts) == (f"v{v}", 40.0, {"codec": "grey"})
            ids = store.segments.ids_of_video(video)
            assert store.segments.get(ids) == [Segment(video, n, 10.0 * n, 10.0 * n + 10) for n in range(4)]
            for index, (frames, times) in enumerate(store.features.read_frames(ids)):
                expected = embedding(100 * v + index)
                assert frames.dtype == np.float16
                np.testing.assert_array_equal(frames, expected.frames.astype(np.float16).astype(np.float16))
                np.testing.assert_array_equal(times, expected.times)
            assert store.features.read_tokens(ids) == [tokens(100 * v + index) for index in range(4)]
        vectors = np.stack([content.video.astype(np.float16) for content in stored(5).values()])
        np.testing.assert_array_equal(store.features.intact_vectors(store.searchable())[1], vectors)
    with Store.open(tmp_path / "index") as store:
        kept = store.features.read_tokens([3, 4])
    assert kept == [tokens(2), tokens(3)]  # still readable


def test_segments_are_read_in_the_order_of_ids_and_damage_is_reported(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        ids = store.segments.ids_of_video(add_video(store, "v0", seed=0))
        contents = [2, 0, 2, 3]
        asked = [ids[content] for content in contents]
        for (frames, times), content in zip(store.features.read_frames(asked), contents, strict=True):
            np.testing.assert_array_equal(frames, embedding(content).frames.astype(np.float16))
            np.testing.assert_array_equal(times, embedding(content).times)
        packed = [tokens(content) for content in contents]
        assert packed == store.features.read_tokens(asked) == store.features.read_tokens(np.array(asked))
        expected = np.stack([embedding(content).video for content in contents]).astype(np.float16)
        np.testing.assert_array_equal(store.features.read_vectors(asked), expected)
        for read in (store.features.read_frames, store.features.read_tokens, store.features.read_vectors):
            assert len(read([])) == 0
            for unknown in (-1, 99):
                with pytest.raises(StoreError, match=f"segment {unknown} is not in the index"):
                    read([ids[0], unknown])
    damage(tmp_path / "features" / "video.f16", 2 * DIM * 2)
    with Store.open(tmp_path) as store, pytest.raises(StoreError, match="row 2 is damaged"):
        store.features.read_vectors([1, 2, 3])


def test_segments_of_an_incomplete_video_are_searchable(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = store.writer.begin_video("v3", duration=40.0, facts={}, num_segments=4)
        store.writer.set_file("a.mp4", state="running", video=video)
        key = add_segment(store, video, 2, 20.0, 30.0, embedding(302))
        assert seeds(store) == [302]
        assert add_segment(store, video, 2, 20.0, 30.0, embedding(999)) == key  # already stored: unchanged
        np.testing.assert_allclose(store.features.read_frames([key])[0][0], embedding(302).frames, atol=1e-3)
        assert store.segments.stored_indices(video) == {2}
        assert store.videos.find_complete("v3") is None
        with pytest.raises(StoreError, match="salvaged must describe the loss when 1 of 4 segments are stored"):
            store.writer.finish_video(video)
        store.writer.finish_video(video, salvaged="30 s to 40 s are missing")
        assert store.videos.find_complete("v3") == video
        assert store.videos.get(video).salvaged == "30 s to 40 s are missing"


def test_second_writer_is_rejected_while_readers_continue(tmp_path: Path) -> None:
    with create(tmp_path) as writer:
        index_all(writer, 1)
        with pytest.raises(StoreError, match=f"process {os.getpid()} is writing this index"):
            create(tmp_path)
        with pytest.raises(StoreError, match=f"process {os.getpid()} is writing this index"):
            Store.open(tmp_path, write=True)
        with Store.open(tmp_path) as reader:
            assert seeds(reader) == [0, 1, 2, 3]
    with Store.open(tmp_path, write=True) as again:
        assert seeds(again) == [0, 1, 2, 3]


def test_an_index_is_not_written_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(tmp_path).close()
    with monkeypatch.context() as full:
        full.setattr("vidret.store.folder.write_at", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\)"):
            Store.open(tmp_path, write=True)
    Store.open(tmp_path, write=True).close()


def test_other_encoder_is_rejected_and_the_lock_released(tmp_path: Path) -> None:
    create(tmp_path).close()
    again = f"to encode its videos again: vidret reindex --index {tmp_path} --model tower"
    with pytest.raises(StoreError, match=f"^{tmp_path} was built with other weights of tower; {again}$"):
        create(tmp_path, fingerprint="tower-2")
    with (
        create(tmp_path) as store,
        pytest.raises(StoreError, match=r"must be tower \(tower-1\).*, got spire \(spire-1\)"),
    ):
        store.check_encoder("spire", "spire-1")
    with create(tmp_path) as store:
        store.check_encoder("tower", "tower-1")


@pytest.mark.parametrize("address", ["s3://bucket/index", "https://host/a//b", "file:///index"])
def test_urls_are_rejected_as_index_folders(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (address, Path(address)):
        for method in (
            Store.exists,
            Store.open,
            lambda path: Store.create(path, encoder_name="", encoder_fingerprint="", dim=3),
        ):
            with pytest.raises(StoreError, match="index must be a folder of a file system, got") as caught:
                method(path)
            assert f", got {address.partition('//')[0]}//" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    for odd in ("a:b", "C:/index", "s3:"):
        assert not Store.exists(odd)
    (tmp_path / "s3:").mkdir()
    assert not Store.exists("s3:/index"), "such a folder exists"


def test_mtime_that_marks_a_content_is_not_a_time(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        add_video(store, "v1", seed=1)
        for mark in (NO_TIME, NO_TIME - 5):
            store.writer.set_file("/videos/v1.mp4", state="done", mtime_ns=mark)
            assert store.videos.find()[0].changed is None
            assert store.videos.find(Filters(after=0)) == store.videos.find(Filters(before=2e9)) == []
            record = store.files.get("/videos/v1.mp4")
            assert record is not None
            assert record.mtime_ns == mark


def test_missing_index_is_rejected(tmp_path: Path) -> None:
    for write in (False, True):
        with pytest.raises(StoreError, match="there is no index here"):
            Store.open(tmp_path / "nowhere", write=write)
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="index must be a folder, got the file"):
        create(tmp_path / "file")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "features").touch()
    with pytest.raises(StoreError, match="features: cannot be written"):
        create(tmp_path / "odd")


@pytest.mark.skipif(not hasattr(os, "setresuid") or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("locked", ["", FEATURES, CATALOG])
def test_index_that_may_not_be_read_is_told_from_none(locked: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        index = Path(folder) / "index"
        create(index).close()
        (index / locked).chmod(0)
        os.setresuid(65534, 65534, 0)
        try:
            with pytest.raises(
                StoreError, match=rf"^{re.escape(str(index / locked))}: cannot be read \(Permission denied"
            ):
                Store.open(index)
        finally:
            os.setresuid(0, 0, 0)


def test_an_index_on_a_disk_that_is_gone_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StoreError, match=r"cannot be read \(Input/output error\)"):
        check_entries(tmp_path)


def test_a_new_thread_does_not_read_the_index_that_took_the_place_of_an_open_one(tmp_path: Path) -> None:
    for name, num_videos in (("index", 2), ("other", 1)):
        with create(tmp_path / name) as made:
            index_all(made, num_videos)
    with Store.open(tmp_path / "index") as store, ThreadPoolExecutor(1) as threads:
        (tmp_path / "index").rename(tmp_path / "away")
        (tmp_path / "other").rename(tmp_path / "index")
        with pytest.raises(StoreError, match="index: another index has taken its place"):
            threads.submit(store.select).result()
        assert store.select().num_videos == 2


def test_adding_many_segments_is_the_same_as_adding_each(tmp_path: Path) -> None:
    with create(tmp_path / "one") as one, create(tmp_path / "many") as many:
        index_all(one, 3)
        segments = []
        for seed in range(3):
            video = many.writer.begin_video(
                f"v{seed}", duration=40.0, facts={"codec": "grey"}, num_segments=NUM_SEGMENTS
            )
            many.writer.set_file(f"/videos/v{seed}.mp4", state="done", video=video)
            for index in range(NUM_SEGMENTS):
                content, start = 100 * seed + index, 10.0 * index
                segments.append(NewSegment(video, index, start, start + 10, embedding(content), tokens(content)))
        assert many.writer.add_segments(segments) == list(range(1, 13))
        assert many.segments.get(range(1, 13)) == one.segments.get(range(1, 13))
        assert many.features.read_tokens(range(1, 13)) == one.features.read_tokens(range(1, 13))
        for path in (tmp_path / "one" / "features").iterdir():
            assert path.read_bytes() == (tmp_path / "many" / "features" / path.name).read_bytes()
        assert seeds(many) == seeds(one)
        assert many.upkeep.verify() == []
        assert many.writer.add_segments([]) == []


def test_first_of_duplicate_segments_is_stored(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = store.writer.begin_video("v3", duration=40.0, facts={}, num_segments=4)
        store.writer.set_file("a.mp4", state="running", video=video)
        first = add_segment(store, video, 2, 0.0, 1.0, embedding(302))
        before = store.generation
        ids = store.writer.add_segments(
            [NewSegment(video, n, 0.0, 1.0, embedding(s)) for n, s in ((2, 7), (0, 300), (0, 8))]
        )
        assert ids == [first, first + 1, first + 1]
        assert store.generation == before + 1
        assert seeds(store) == [300, 302]
        np.testing.assert_array_equal(
            store.features.read_frames(ids[1:2])[0][0], embedding(300).frames.astype(np.float16)
        )


@pytest.mark.wrong_shapes
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"video": np.full(DIM, np.nan, np.float32)}, "video must be finite, got nan"),
        ({"video": np.full(DIM, 1e6, np.float32)}, "video must be finite, got "),
        ({"video": np.zeros(DIM + 1, np.float32)}, r"video must have the shape \(8,\), got \(9,\)"),
        ({"frames": np.zeros((2, DIM), np.float32)}, r"frames must have the shape \(1, 8\), got \(2, 8\)"),
        ({"frames": np.full((1, DIM), np.inf, np.float32)}, "frames must be finite, got inf"),
        ({"times": np.array([np.nan])}, "times must be finite"),
        ({"number": 4}, r"number must be in 0\.\.3, got 4"),
        ({"end": -1.0}, r"start and end must be finite and ascending, got 0\.0 and -1\.0"),
        ({"id": 77}, "video must be one of this index, got 77"),
    ],
)
def test_invalid_segment_among_many_rejects_all(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    good = embedding(0)
    values = {"video": good.video, "frames": good.frames, "times": good.times, "number": 0, "end": 1.0, **change}
    with create(tmp_path) as store:
        video = store.writer.begin_video("v0", duration=1.0, facts={}, num_segments=4)
        bad = SegmentEmbedding(values["video"], values["frames"], values["times"])
        segment = NewSegment(values.get("id", video), values["number"], 0.0, values["end"], bad, b"6")
        with pytest.raises(StoreError, match=rule):
            store.writer.add_segments([NewSegment(video, 1, 0.0, 1.0, good), segment])
        assert store.segments.stored_indices(video) == set()
        assert [path.stat().st_size for path in (tmp_path / "features").iterdir()] == [0, 0, 0]


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        zeros = np.zeros((1, DIM), np.float32)
        with pytest.raises(StoreError, match=r"queries must have the shape \(query, 8\), got \(1, 9\)"):
            store.search(np.zeros((1, 9)), 1)
        with pytest.raises(StoreError, match="queries must be finite, got inf"):
            store.search(zeros + np.inf, 1)
        with pytest.raises(StoreError, match="k must be at least 1, got 0"):
            store.search(zeros, 0)
        with pytest.raises(StoreError, match=r"state must be one of pending, running, .*, got 'lost'"):
            store.writer.set_file("a", state="lost")  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="num_segments must be at least 1, got 0"):
            store.writer.begin_video("f", duration=1.0, facts={}, num_segments=0)
        with pytest.raises(StoreError, match="duration must be finite and not negative, got nan"):
            store.writer.begin_video("f", duration=float("nan"), facts={}, num_segments=1)


def test_metadata_of_users_is_separate_from_that_of_the_store(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        store.metadata.set("dim", "wide")
        store.metadata.set("scores", b"\x00\xff")
        assert [store.metadata.get(key) for key in ("dim", "scores", "other")] == ["wide", b"\x00\xff", None]
        store.metadata.set_many(dict.fromkeys(("kind.b", "kind_", "kind.a"), "x"))
        assert store.metadata.keys("kind.") == ["kind.a", "kind.b"]
        assert store.metadata.keys("") == ["dim", "kind.a", "kind.b", "kind_", "scores"]
    with Store.open(tmp_path) as store:
        assert (store.dim, store.metadata.get("dim")) == (DIM, "wide")


def test_info_counts(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 3)
        store.writer.set_file("x.mp4", state="failed", reason="broken")
        store.writer.set_file("/videos/v2.mp4", state="missing")
        assert store.info().segment_rule == FIXED_GRID, "of an index that says nothing"
        store.metadata.set(SEGMENTS, FOLLOW_SHOTS)
        info = store.info()
        assert info.segment_rule == FOLLOW_SHOTS
        assert info.files == {"done": 2, "failed": 1, "missing": 1}
        assert (info.videos, info.complete_videos, info.segments, info.searchable) == (3, 3, 12, 8)
        assert (info.frames, info.seconds, info.vectors, info.format) == (30, 120.0, "flat", FORMAT)
        assert info.with_tokens == sum(tokens(seed) != b"" for seed in stored(3)) == 10
        assert info.num_bytes > 42 * DIM * 2 + sum(len(tokens(seed)) for seed in stored(3))


def test_threads_write_and_search_side_by_side(tmp_path: Path) -> None:
    """A search of a reader finds what was stored before it began."""
    stored_ids = list[int]()
    with create(tmp_path) as store, Store.open(tmp_path) as reader, ThreadPoolExecutor(14) as pool:
        videos = [store.writer.begin_video(f"v{v}", duration=1.0, facts={}, num_segments=10) for v in range(4)]
        for video in videos:
            store.writer.set_file(f"{video}.mp4", state="running", video=video)

        def write(video: int) -> None:
            for index in range(10):
                content = 100 * (video - 1) + index
                key = add_segment(store, video, index, 0.0, 1.0, embedding(content), tokens=tokens(content))
                stored_ids.append(key)

        def read(opened: Store) -> None:
            for _ in range(20):
                before = set(stored_ids)
                _, ids = opened.search(np.ones((1, DIM), np.float32), 50)
                found = ids[0][ids[0] >= 0].tolist()
                assert before <= set(found)
                assert len(found) == len(set(found))
                contents = [100 * (segment.video - 1) + segment.number for segment in opened.segments.get(found)]
                assert opened.features.read_tokens(found) == [tokens(content) for content in contents]

        jobs = [pool.submit(write, video) for video in videos * 2]
        for job in [*jobs, *(pool.submit(read, opened) for opened in (store, reader) * 3)]:
            job.result()
        assert seeds(store) == [100 * v + n for v in range(4) for n in range(10)]
        assert store.upkeep.verify() == []


FILES = {  # path: duration and modification time in seconds
    "/films/cats/a.mp4": (10.0, 100),
    "/films/cats/old/b.mp4": (20.0, 200),
    "/films/cats2/c.mp4": (30.0, 300),
    "/films/%_/d.mp4": (40.0, 400),
}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with create(tmp_path_factory.mktemp("filmed")) as store:
        for seed, (path, (seconds, changed)) in enumerate(FILES.items()):
            add_clip(store, seed, {path: changed * 10**9}, seconds=seconds, facts={"width": 64})
        yield store


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (ALL_VIDEOS, "dabc"),
        (Filters(folder="/films/cats"), "ab"),
        (Filters(folder="/films/cats/"), "ab"),
        (Filters(folder="/films/cats/a.mp4"), "a"),
        (Filters(folder="/"), "dabc"),
        (Filters(folder="/films/%"), ""),
        (Filters(folder="/films/%_"), "d"),
        (Filters(min_seconds=20, max_seconds=30), "bc"),
        (Filters(after=200, before=400), "bc"),
        (Filters(folder="/films/cats", after=150), "b"),
    ],
)
def test_filters_select_by_folder_duration_and_date(filmed: Store, filters: Filters, names: str) -> None:
    found = filmed.videos.find(filters)
    assert "".join(Path(video.paths[0]).stem for video in found) == names
    _, ids = filmed.search(np.ones((1, DIM)), 9, filmed.select(filters))
    searched = {segment.video for segment in filmed.segments.get(ids[ids >= 0])}
    assert searched == {video.id for video in found}
    assert {video for video, paths in filmed.files.paths_of(range(1, 5), filters).items() if paths} == searched


def test_video_has_the_paths_of_its_copies(tmp_path: Path) -> None:
    with create(tmp_path / "index") as store:
        video = add_video(store, "v1", seed=1)
        store.writer.set_file("/videos/a.mp4", state="done", video=video, num_bytes=1, mtime_ns=5 * 10**9)
        store.writer.set_file("/videos/gone.mp4", state="missing", video=video)
        expected = StoredVideo(
            video, ("/videos/a.mp4", "/videos/v1.mp4"), 40.0, {"codec": "grey"}, True, "", NUM_SEGMENTS, 5.0
        )
        assert store.videos.find() == store.videos.find(ids=[video]) == [expected]
        for filters in (Filters(folder="/videos/v1.mp4"), Filters(before=5), Filters(filmed_before=5)):
            assert store.videos.find(filters)[0].paths == ("/videos/v1.mp4",)
            assert store.files.paths_of([video, 9], filters) == {video: ["/videos/v1.mp4"], 9: []}
        assert store.videos.find(ids=[video + 1]) == []


def test_of_a_video_that_is_unknown_nothing_is_stored(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        video = add_video(store, "v1", seed=1)
        sizes = store.read_sizes([video, 99])
        assert [sizes[video][1:], sizes[99][1:]] == [(40.0, NUM_SEGMENTS, NUM_SEGMENTS - 1), (0.0, 0, -1)]


def test_segments_are_found_in_the_order_asked_for(tmp_path: Path) -> None:
    with create(tmp_path / "index") as store:
        videos = [add_video(store, f"v{seed}", seed=seed) for seed in range(2)]
        pairs = [(videos[1], 3), (videos[0], 0), (99, 0), (videos[0], 77), (videos[1], 0), (videos[1], 3)]
        found = store.segments.get(list(store.segments.find_many(pairs).values()))
        assert [(segment.video, segment.number) for segment in found] == [pairs[0], pairs[1], pairs[4]], "each once"
