"""Maintenance: pruning and compaction keep results, and damage is found, reported and repaired."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store import upkeep
from vidret.store.catalog.catalog import find_bad_rows
from vidret.store.catalog.database import Database
from vidret.store.store import Store

from .samples import DIM, add_clip, add_video, create, damage, embedding, index_all, interrupt, lose, of, seeds, tokens


def assert_stored(store: Store, expected: list[int]) -> None:
    """Assert that exactly these segments are stored, with all of their data."""
    assert seeds(store) == expected
    assert store.upkeep.verify() == []
    for seed in expected:
        video = store.videos.find_complete(f"v{seed // 100}")
        assert video is not None
        key = store.segments.ids_of_video(video)[seed % 100]
        frames, times = store.features.read_frames([key])[0]
        np.testing.assert_array_equal(frames, embedding(seed).frames.astype(np.float16))
        np.testing.assert_array_equal(times, embedding(seed).times)
        assert store.features.read_tokens([key]) == [tokens(seed)]
        assert store.search(embedding(seed).video[None], 1)[1][0, 0] == key


def num_bytes(seeds: list[int]) -> int:
    """Return the size of the segments' vectors and tokens."""
    return sum((1 + len(embedding(seed).frames)) * DIM * 2 + len(tokens(seed)) for seed in seeds)


def files(path: Path) -> list[str]:
    return sorted(entry.name for entry in (path / "features").iterdir())


def test_prune_deletes_missing_files_and_their_videos(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 6)
        add_video(store, "v0", seed=0, path="copy.mp4")
        store.writer.set_file("/videos/v0.mp4", state="missing")  # there is still a copy
        lose(store, 1)
        store.writer.set_file("/videos/v2.mp4", state="failed", reason="unreadable now")  # kept, but not searchable
        report = store.upkeep.prune()
        assert (report.files, report.videos, report.segments, report.freed_bytes) == (2, 1, 4, 0)
        assert_stored(store, of(0, 3, 4, 5))
        assert store.videos.find_complete("v1") is None
        assert store.videos.find_complete("v2") is not None
        again = store.upkeep.prune()
        assert (again.files, again.videos, again.segments) == (0, 0, 0)


def test_compaction_keeps_all_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.upkeep.BATCH", 3)
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 6)
        kept = reader.features.current().video.view(0, 24)
        copy = kept.copy()
        old_tokens = reader.features.read_tokens(range(1, 25))
        lose(store, 0, 2, 3)
        report = store.upkeep.prune()
        assert report.freed_bytes == num_bytes(of(0, 2, 3)) == 3 * (4 + 10) * DIM * 2 + 13 * (0 + 1 + 2 + 3 + 4 * 6)
        assert files(tmp_path) == ["frames.1.f16", "tokens.1.bin", "video.1.f16"]
        sizes = [(tmp_path / "features" / name).stat().st_size for name in files(tmp_path)]
        assert sum(sizes) == num_bytes(of(1, 4, 5))
        assert_stored(store, of(1, 4, 5))
        assert_stored(reader, of(1, 4, 5))
        np.testing.assert_array_equal(kept, copy)  # arrays returned earlier stay unchanged
        assert old_tokens == [tokens(seed) for seed in of(0, 1, 2, 3, 4, 5)]
        add_video(store, "v8", seed=8)
        assert_stored(reader, of(1, 4, 5, 8))
        assert len(reader.features.intact_vectors(reader.searchable())[1]) == 16
    with create(tmp_path) as store:
        assert_stored(store, of(1, 4, 5, 8))
        lose(store, 1, 4, 5, 8)
        assert store.upkeep.prune().videos == 4
        assert files(tmp_path) == ["frames.2.f16", "tokens.2.bin", "video.2.f16"]
        add_video(store, "v9", seed=9)
        assert_stored(store, of(9))


@pytest.mark.parametrize("moment", ["before the switch", "after the switch"])
def test_interrupted_compaction_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    with create(tmp_path) as store:
        index_all(store, 4)
        lose(store, 0, 1)
        if moment == "before the switch":
            monkeypatch.setattr("vidret.store.upkeep.sync_folder", interrupt)
        else:
            monkeypatch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.upkeep.prune()
        monkeypatch.undo()
        assert len(files(tmp_path)) == 6
    with Store.open(tmp_path) as store:
        assert_stored(store, of(2, 3))
    with create(tmp_path) as store:
        sizes = [path.stat().st_size for path in sorted((tmp_path / "features").iterdir())]
        live = of(2, 3) if moment == "after the switch" else of(0, 1, 2, 3)
        frames, packed = sum(len(embedding(seed).frames) for seed in live), sum(len(tokens(seed)) for seed in live)
        assert sizes == [frames * DIM * 2, packed, len(live) * DIM * 2]
        assert_stored(store, of(2, 3))
        add_video(store, "v5", seed=5)
        assert_stored(store, of(2, 3, 5))


def test_damage_is_reported_and_repaired(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 3)
    damage(tmp_path / "features" / "frames.f16", 3, bits=16)
    damage(tmp_path / "features" / "video.f16", 6 * DIM * 2 + 3, bits=16)
    token_byte = sum(len(tokens(seed)) for seed in of(0, 1)) + len(tokens(200))
    damage(tmp_path / "features" / "tokens.bin", token_byte + 7, bits=16)
    with Store.open(tmp_path) as store:
        with pytest.raises(StoreError, match=r"frames\.f16: rows from 0 are damaged"):
            store.features.read_frames([1])
        with pytest.raises(StoreError, match=rf"^{tmp_path}/features/tokens\.bin: bytes from {token_byte} are damaged"):
            store.features.read_tokens([9, 10, 11])
        store.features.read_frames([10])  # only its tokens are damaged
        found = store.upkeep.verify()
        assert [(bad.id, bad.video, bad.number) for bad in found] == [(1, 1, 0), (7, 2, 2), (10, 3, 1)]
        assert "frames.f16: rows from 0" in found[0].reason
        assert "video.f16: row 6" in found[1].reason
        assert f"tokens.bin: bytes from {token_byte}" in found[2].reason
        with pytest.raises(StoreError, match="opened for reading"):
            store.upkeep.verify(repair=True)
    with create(tmp_path) as store:
        assert store.upkeep.verify(repair=True) == found
        assert store.upkeep.verify() == []
        assert seeds(store) == sorted({*of(0, 1, 2)} - {0, 102, 201})
        assert [record.path for record in store.files.find(state="pending")] == [f"/videos/v{v}.mp4" for v in range(3)]
        assert store.videos.find_complete("v0") is None
        index_all(store, 3)  # the next run
        assert_stored(store, of(0, 1, 2))


@pytest.mark.parametrize(
    ("name", "left", "damaged"),
    [
        ("video.f16", 5 * DIM * 2, [6, 7, 8]),
        ("tokens.bin", 100, [5, 6, 7, 8]),
        ("tokens.bin", 0, [2, 3, 4, 5, 6, 7, 8]),  # segment 1 has no tokens
        ("tokens.bin", None, [2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_what_a_power_failure_loses_is_damage(tmp_path: Path, name: str, left: int | None, damaged: list[int]) -> None:
    with create(tmp_path) as store:
        index_all(store, 2)
    path = tmp_path / "features" / name
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
        with Store.open(tmp_path) as store:
            found = store.upkeep.verify()
            assert [bad.id for bad in found] == damaged
            assert all(bad.reason.startswith(f"{path}: must have at least ") for bad in found)
    with create(tmp_path) as store:
        assert [bad.id for bad in store.upkeep.verify(repair=True)] == damaged
        index_all(store, 2)
        assert_stored(store, of(0, 1))
        assert store._epochs.current().tail[0] == 8 + len(damaged), "lost rows are not used again"


def test_dead_tokens_alone_cause_a_compaction(tmp_path: Path) -> None:
    """A tenth of the vectors is dead, but nearly all bytes are."""
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        for seed in range(10):
            add_clip(store, seed, {f"{seed}.mp4": None}, packed=bytes([seed]) * (9000 if seed == 4 else seed))
        store.writer.set_file("4.mp4", state="missing")
        assert store.upkeep.prune().freed_bytes == (1 + len(embedding(4).frames)) * DIM * 2 + 9000
        remaining = [seed for seed in range(10) if seed != 4]
        assert reader.features.read_tokens(reader.searchable()) == [bytes([seed]) * seed for seed in remaining]
        assert store.upkeep.verify() == []
        with pytest.raises(StoreError, match="segment 5 is not in the index"):
            reader.features.read_tokens([5])


def test_verify_during_a_compaction_finds_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 4)
        lose(store, 0, 1)

        def check_while_compacting(database: Database) -> list[str]:
            assert store.upkeep.prune().freed_bytes == num_bytes(of(0, 1))
            return find_bad_rows(database)

        monkeypatch.setattr(upkeep, "find_bad_rows", check_while_compacting)
        assert reader.upkeep.verify() == []
        assert files(tmp_path) == ["frames.1.f16", "tokens.1.bin", "video.1.f16"]


def test_a_folder_deleted_while_sizes_are_added_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "going").mkdir()
    (tmp_path / "a").write_bytes(b"four")
    scan = os.scandir

    def delete_first(path: Path) -> Any:
        if str(path).endswith("going"):
            (tmp_path / "going").rmdir()
        return scan(path)

    monkeypatch.setattr(os, "scandir", delete_first)
    assert upkeep.folder_size(tmp_path) == 4


def test_token_file_deleted_while_open_raises_store_error(tmp_path: Path) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 3)
        lose(store, 2)
        store.upkeep.prune()
        (tmp_path / "features" / "tokens.1.bin").unlink()
        with pytest.raises(StoreError, match=f"^{tmp_path}/features: the feature files of epoch 1 are missing"):
            reader.features.read_tokens([1])
