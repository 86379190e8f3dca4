"""The catalog: formats, rows of files, videos and segments, transactions, read-only access."""

from pathlib import Path

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.records import FileRecord, NewSegment, SegmentLocation
from vidret.types import SegmentEmbedding


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    facts: dict[str, str | int] = {"encoder_name": "tower", "encoder_fingerprint": "1", "dim": 4}
    return Catalog.create(tmp_path / "catalog.sqlite", facts)


def add(catalog: Catalog, video: int, segment_index: int, row: int = 0) -> int:
    embedding = SegmentEmbedding(np.zeros(4), np.zeros((2, 4)), np.array([0.25, 0.75]))
    return catalog.segments.add([(NewSegment(video, segment_index, 0.0, 1.0, embedding), location(row))])[0]


def location(row: int) -> SegmentLocation:
    return SegmentLocation(
        row, 2 * row, num_frames=2, token_byte=5 * row, num_bytes=5, row_sum=7, frames_sum=8, tokens_sum=9
    )


@pytest.mark.parametrize("damage", ["text", "header", "empty"])
def test_invalid_catalog_file_is_rejected_with_its_path(catalog: Catalog, damage: str) -> None:
    catalog.close()
    content = catalog.path.read_bytes()
    catalog.path.write_bytes({"text": b"hello " * 999, "header": b"\xff" * 50 + content[50:], "empty": b""}[damage])
    with pytest.raises(StoreError, match=r"catalog\.sqlite: "):
        Catalog(catalog.path, write=True)


def test_unfinished_catalog_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    assert not Catalog.exists(path)
    path.touch()  # as after a crash before the first commit
    assert not Catalog.exists(path)
    Catalog.create(path, {}).close()
    assert Catalog.exists(path)


ODD_PATHS = ["naïve 映画 🎬.mkv", "two\nlines\t.mp4", "not \udcff unicode\udc80", " ", "'; DROP TABLE files;--", "%_?"]


@pytest.mark.parametrize("path", ["/a/b.mp4", *ODD_PATHS])
def test_any_file_name_can_be_stored(catalog: Catalog, path: str) -> None:
    catalog.files.set(path, "failed", f"cannot read {path}", None, 12, 2**62)
    record = catalog.files.get(path)
    assert record is not None
    assert (record.path, record.state, record.num_bytes, record.mtime_ns) == (path, "failed", 12, 2**62)
    assert [r.path for r in catalog.files.find(state="failed")] == [path]
    assert catalog.files.find(state="done") == []


def test_none_leaves_values_unchanged(catalog: Catalog) -> None:
    video = catalog.videos.begin("f", 1.0, {}, 1)
    catalog.files.set("a", "pending", "", video, 5, 6)
    catalog.files.set("a", "failed", "broken", None, None, None)
    assert catalog.files.get("a") == FileRecord("a", "failed", "broken", video, 5, 6)


def test_generation_changes_only_with_search_results(catalog: Catalog) -> None:
    video = catalog.videos.begin("f", 1.0, {}, 2)
    generations = [catalog.tables.meta("generation")]

    def changed() -> bool:
        generations.append(catalog.tables.meta("generation"))
        return bool(generations[-1] != generations[-2])

    assert not changed()
    catalog.files.set("a", "pending", "", None, 1, 1)
    assert not changed()
    catalog.files.set("a", "running", "", video, None, None)
    assert changed()
    add(catalog, video, 0)
    assert changed()
    catalog.files.set("a", "done", "", None, None, None)
    catalog.videos.finish(video, "")
    assert not changed()
    catalog.files.set("a", "missing", "", None, None, None)
    assert changed()


def test_another_number_of_segments_starts_over(catalog: Catalog) -> None:
    video = catalog.videos.begin("f", 1.0, {"fps": 25}, 2)
    add(catalog, video, 0)
    catalog.videos.finish(video, "the end is torn")
    assert catalog.videos.begin("f", 1.0, {"fps": 25}, 2) == video == catalog.videos.find_complete("f")
    assert catalog.videos.begin("f", 2.0, {"fps": 30}, 3) == video
    assert catalog.segments.of_video(video) == {}
    record = catalog.videos.get(video)
    assert (record.complete, record.salvaged, record.facts, record.duration) == (False, "", {"fps": 30}, 2.0)
