"""What is pushed to Milvus, with a fake collection that may fail at any moment: searches are always right."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.store.store import Store
from vidret.store.vectors import milvus
from vidret.types import Filters

from .. import samples
from ..naive import matching
from ..samples import DIM, add_video, damage, lose

QUERY = np.ones((1, DIM), np.float32)


class FakeCollection:
    """Rows of collections by name; the one whose turn it is when ``left`` is 0 fails, before or after its work."""

    rows: dict[str, dict[int, tuple[int, np.ndarray]]]
    left, late = -1, False
    has_words = False

    def __init__(self, _address: str, name: str, *_: object) -> None:
        self.name = name

    def exists(self) -> bool:
        return self.name in self.rows

    def create(self, **_: object) -> None:
        self.rows[self.name] = {}

    def drop(self) -> None:
        self.rows.pop(self.name, None)

    def _list(self, expression: str) -> list[tuple[int, np.ndarray]]:
        stored = self.rows[self.name].items()
        return [(key, row) for key, (video, row) in stored if eval(expression or "True", {"id": key, "video": video})]

    def count(self, expression: str) -> int:
        return len(self._list(expression))

    def search(self, queries: np.ndarray, k: int, expression: str) -> list[np.ndarray]:
        found = self._list(expression)
        best = [sorted(found, key=lambda item: -float(item[1] @ query))[:k] for query in queries]
        return [np.array([key for key, _ in pairs], np.int64) for pairs in best]

    def upsert(self, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        new = {row["id"]: (row["video"], vector) for row, vector in zip(rows, vectors, strict=True)}
        self._work(lambda: self.rows[self.name].update(new))

    def delete(self, expression: str) -> None:
        self._work(lambda: [self.rows[self.name].pop(key) for key, _ in self._list(expression)])

    def flush(self) -> None:
        self._work(lambda: None)

    def close(self) -> None:
        pass

    @classmethod
    def _work(cls, work: Callable[[], object]) -> None:
        cls.left -= 1
        if cls.left or cls.late:
            work()
        if not cls.left:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCollection, "rows", {}, raising=False)
    monkeypatch.setattr(FakeCollection, "left", -1)
    monkeypatch.setattr(milvus, "Collection", FakeCollection)
    monkeypatch.setattr(milvus, "ROWS", 5)


create = partial(samples.create, vectors="milvus://")


def pushed(store: Store) -> list[int]:
    """Return the ids in the collection."""
    assert isinstance(store._vectors.index, milvus.MilvusVectors)
    return sorted(FakeCollection.rows[store._vectors.index._name])


def check(store: Store) -> None:
    """Check searches with and without filters, to half and to all of the depth."""
    for filters in (Filters(), Filters(folder="/a"), Filters(folder="/b"), Filters(folder="/none")):
        expected = matching(store, filters)
        scores, ids = store.search(QUERY, 99, store.select(filters))
        assert sorted(ids[ids >= 0].tolist()) == expected
        half = 1 + len(expected) // 2
        np.testing.assert_array_equal(store.search(QUERY, half, store.select(filters))[0], scores[:, :half])


def change(store: Store, rng: random.Random) -> None:
    name = f"v{rng.randrange(6)}"
    path = f"/{rng.choice('ab')}/{name}.mp4"
    match rng.randrange(4):
        case 0 | 1:
            add_video(store, name, seed=int(name[1:]), path=path, num_segments=rng.choice([4, 4, 2]))
        case 2:
            store.writer.set_file(path, state=rng.choice(["missing", "done"]))
        case 3:
            store.upkeep.prune()


@pytest.mark.parametrize("seed", range(8))
def test_searches_are_right_after_any_changes_and_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """No failure costs more than a push of what was not pushed."""
    rng = random.Random(seed)
    for _ in range(3):
        monkeypatch.setattr(FakeCollection, "left", rng.randrange(1, 6))
        monkeypatch.setattr(FakeCollection, "late", rng.random() < 0.5)
        try:
            with create(tmp_path) as store:
                for _ in range(4):
                    change(store, rng)
                    check(store)
                store.upkeep.save_vectors()
                assert pushed(store) == store.searchable().tolist()
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(FakeCollection, "left", -1)
        with Store.open(tmp_path) as reader:
            check(reader)
    with create(tmp_path) as store:
        store.upkeep.save_vectors()
        check(store)
        assert pushed(store) == store.searchable().tolist()
    assert "filling a new one" not in caplog.text


def test_only_new_segments_are_pushed_and_a_path_needs_no_push(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        for seed in range(3):
            add_video(store, f"v{seed}", seed=seed, path=f"/a/{seed}.mp4")
        store.upkeep.save_vectors()
        kept = dict(FakeCollection.rows[next(iter(FakeCollection.rows))])
        store.writer.set_file("/b/0.mp4", state="done", video=1, mtime_ns=5)
        store.writer.set_file("/a/0.mp4", state="missing")
        add_video(store, "v3", seed=3)
        check(store)
        store.upkeep.save_vectors()
        (rows,) = FakeCollection.rows.values()
        assert len(rows) == 16
        assert all(rows[key] is row for key, row in kept.items())


def test_rows_that_were_lost_or_added_by_others_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with create(tmp_path) as store:
        add_video(store, "v0", seed=0)
        store.upkeep.save_vectors()
    for num_rows in (3, 5):
        rows = next(iter(FakeCollection.rows.values()))
        rows[99] = 1, QUERY[0]
        for key in (2, 99) if num_rows == 3 else ():
            del rows[key]
        with create(tmp_path) as store:
            assert f"the collection must have 4 vectors, got {num_rows}; filling a new one" in caplog.text
            store.upkeep.save_vectors()
            assert pushed(store) == [1, 2, 3, 4]


def test_damaged_vectors_are_not_pushed_and_what_is_not_known_is_filled_again(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        add_video(store, "v0", seed=0)
        damage(store._epochs.current().video.path, -1)
        store.upkeep.save_vectors()
        assert pushed(store) == [1, 2, 3]
        store._catalog.database.run("UPDATE meta SET checksum = 0 WHERE key LIKE 'milvus.%'")
        assert sorted(store.search(QUERY, 3)[1][0].tolist()) == [1, 2, 3]
    with create(tmp_path) as store:
        assert pushed(store) == []
        store.upkeep.save_vectors()
        assert pushed(store) == [1, 2, 3]


def test_an_emptied_index_is_searched_while_its_next_video_begins(tmp_path: Path) -> None:
    """The collection still has rows, of which the catalog knows no segment."""
    with create(tmp_path) as store:
        add_video(store, "v0", seed=0)
        store.upkeep.save_vectors()
        lose(store, 0)
        store.upkeep.prune()
        video = store.writer.begin_video("/a/v1.mp4", duration=1.0, facts={}, num_segments=4)
        store.writer.set_file("/a/v1.mp4", state="pending", video=video)
    with Store.open(tmp_path) as reader:
        check(reader)
