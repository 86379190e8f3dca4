"""Upkeep: pruning and compaction change no answer, and damage is found, named and repaired."""

from pathlib import Path

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store import Store
from vidret.store.features import Features

from .samples import DIM, add_video, create, embedding, index_all, seeds


def assert_stored(store: Store, wanted: list[int]) -> None:
    """Hold every vector against the one that was made for it."""
    assert seeds(store) == wanted
    assert store.verify() == []
    for seed in wanted:
        video = store.is_complete(f"v{seed // 100}")
        assert video is not None
        key = store.video_segments(video)[seed % 100]
        frames, times = store.frames([key])[0]
        np.testing.assert_array_equal(frames, embedding(seed).frames.astype(np.float16))
        np.testing.assert_array_equal(times, embedding(seed).times)
        assert store.search(embedding(seed).video[None], 1)[1][0, 0] == key


def of(*videos: int) -> list[int]:
    return [100 * video + number for video in videos for number in range(4)]


def files(path: Path) -> list[str]:
    return sorted(entry.name for entry in (path / "features").iterdir())


def test_prune_forgets_missing_files_and_what_only_they_held(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 6)
        add_video(store, "v0", seed=0, path="copy.mp4")
        store.set_file("/videos/v0.mp4", state="missing")  # the copy still holds it
        store.set_file("/videos/v1.mp4", state="missing")
        store.set_file("/videos/v2.mp4", state="failed", reason="unreadable now")  # may come back: kept, not found
        report = store.prune()
        assert (report.files, report.videos, report.segments, report.freed_bytes) == (2, 1, 4, 0)
        assert_stored(store, of(0, 3, 4, 5))
        assert store.is_complete("v1") is None
        assert store.is_complete("v2") is not None
        again = store.prune()
        assert (again.files, again.videos, again.segments) == (0, 0, 0)


def test_compaction_keeps_every_answer(tmp_path: Path) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 6)
        kept = reader.video_vectors()
        copy = kept.copy()
        for video in (0, 2, 3):
            store.set_file(f"/videos/v{video}.mp4", state="missing")
        report = store.prune()
        assert report.freed_bytes == 3 * (4 + 10) * DIM * 2
        assert files(tmp_path) == ["frames.1.f16", "video.1.f16"]
        assert_stored(store, of(1, 4, 5))
        assert_stored(reader, of(1, 4, 5))
        np.testing.assert_array_equal(kept, copy)  # arrays handed out earlier stay what they were
        add_video(store, "v8", seed=8)
        assert_stored(reader, of(1, 4, 5, 8))
        assert reader.video_vectors().shape == (16, DIM)
    with create(tmp_path) as store:
        assert_stored(store, of(1, 4, 5, 8))
        for video in (1, 4, 5, 8):
            store.set_file(f"/videos/v{video}.mp4", state="missing")
        assert store.prune().videos == 4
        assert files(tmp_path) == ["frames.2.f16", "video.2.f16"]
        add_video(store, "v9", seed=9)
        assert_stored(store, of(9))


@pytest.mark.parametrize("moment", ["before the switch", "after the switch"])
def test_interrupted_compaction_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    with create(tmp_path) as store:
        index_all(store, 4)
        for video in (0, 1):
            store.set_file(f"/videos/v{video}.mp4", state="missing")
        if moment == "before the switch":
            monkeypatch.setattr("vidret.store.upkeep._sync_folder", stop)
        else:
            monkeypatch.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            store.prune()
        monkeypatch.undo()
        assert len(files(tmp_path)) == 4
    with Store.open(tmp_path) as store:
        assert_stored(store, of(2, 3))
    with create(tmp_path) as store:
        sizes = [path.stat().st_size for path in sorted((tmp_path / "features").iterdir())]
        rows = (20, 8) if moment == "after the switch" else (40, 16)
        assert sizes == [num * DIM * 2 for num in rows]
        assert_stored(store, of(2, 3))
        add_video(store, "v5", seed=5)
        assert_stored(store, of(2, 3, 5))


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_damage_is_named_and_repaired(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 3)
    for name, row in (("frames.f16", 0), ("video.f16", 6)):
        path = tmp_path / "features" / name
        data = bytearray(path.read_bytes())
        data[row * DIM * 2 + 3] ^= 16
        path.write_bytes(data)
    with Store.open(tmp_path) as store:
        with pytest.raises(StoreError, match=r"frames\.f16: rows from 0 are damaged"):
            store.frames([1])
        found = store.verify()
        assert [(bad.id, bad.video, bad.number) for bad in found] == [(1, 1, 0), (7, 2, 2)]
        assert "frames.f16: rows from 0" in found[0].reason
        assert "video.f16: row 6" in found[1].reason
        with pytest.raises(StoreError, match="opened for reading"):
            store.verify(repair=True)
    with create(tmp_path) as store:
        assert store.verify(repair=True) == found
        assert store.verify() == []
        assert seeds(store) == sorted({*of(0, 1, 2)} - {0, 102})
        assert [record.path for record in store.files(state="pending")] == ["/videos/v0.mp4", "/videos/v1.mp4"]
        assert store.is_complete("v0") is None
        index_all(store, 3)  # the next run
        assert_stored(store, of(0, 1, 2))


def test_rows_lost_with_the_power_are_damage(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 2)
    path = tmp_path / "features" / "video.f16"
    path.write_bytes(path.read_bytes()[: 5 * DIM * 2])
    with create(tmp_path) as store:
        assert [bad.id for bad in store.verify(repair=True)] == [6, 7, 8]
        index_all(store, 2)
        assert_stored(store, of(0, 1))


def test_damaged_catalog_is_a_sentence(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 30)
    path = tmp_path / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    for page in range(3 * 4096, len(data), 4096):
        data[page : page + 200] = b"\xa5" * 200
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"catalog\.sqlite: "), Store.open(tmp_path) as store:
        store.verify()


def test_reader_that_meets_a_compaction_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 3)
        asked = reader._catalog.places
        answers = [(7, {}), asked([1])]  # at first an epoch whose files are gone
        monkeypatch.setattr(reader._catalog, "places", lambda _: answers.pop(0))
        features, places = reader._epochs.locate([1])
        assert isinstance(features, Features)
        assert list(places) == [1]
