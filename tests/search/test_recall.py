"""Recall: a twin with loops, what it must be for an index that hides or finds everything, ties, and its bounds."""

from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float, Float32, Int64

from tests.store.samples import DIM, add_video, create, damage
from vidret.errors import StoreError
from vidret.search import recall
from vidret.search.recall import BEST, QUERIES, Recall, measure_recall, sample_vectors
from vidret.store import NewSegment, Store
from vidret.types import ALL_VIDEOS, Filters, SegmentEmbedding

Found = tuple[Float32[np.ndarray, "query k"], Int64[np.ndarray, "query k"]]


class HalfBlind(Store):
    """A store whose search does not find every second segment."""

    def search(self, queries: Float[np.ndarray, "query dim"], k: int, filters: Filters = ALL_VIDEOS) -> Found:
        scores, ids = super().search(queries, 4 * k, filters)
        kept_scores, kept_ids = np.full((len(ids), k), -np.inf, np.float32), np.full((len(ids), k), -1)
        for row, own in enumerate(ids):
            seen = own % 2 == 1
            num = min(k, seen.sum())
            kept_scores[row, :num], kept_ids[row, :num] = scores[row, seen][:num], own[seen][:num]
        return kept_scores, kept_ids


class Lazy(Store):
    """A store whose search looks further only when it is asked for much."""

    def search(self, queries: Float[np.ndarray, "query dim"], k: int, filters: Filters = ALL_VIDEOS) -> Found:
        if k <= BEST:
            return super().search(-np.asarray(queries, np.float32), k, filters)
        scores, ids = super().search(queries, k, filters)
        order = np.r_[BEST:k, :BEST] if k >= 2 * BEST else np.arange(k)
        return scores[:, order], ids[:, order]


def build(path: Path, rows: Float[np.ndarray, "segment dim"]) -> Path:
    with create(path) as store:
        video = store.begin_video("v", duration=1.0, facts={}, num_segments=len(rows))
        store.set_file("/v.mp4", state="done", video=video)
        store.add_segments(
            [
                NewSegment(video, number, 0.0, 1.0, SegmentEmbedding(row, row[None], np.zeros(1)))
                for number, row in enumerate(rows)
            ]
        )
        store.finish_video(video)
    return path


def unit(num: int, seed: int = 0) -> Float32[np.ndarray, "row dim"]:
    rows = np.random.default_rng(seed).standard_normal((num, DIM))
    scaled: Float32[np.ndarray, "row dim"] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def naive_recall(store: Store, queries: Float32[np.ndarray, "query dim"], k: int, within: int) -> float:
    """Sort all segments for each query, and look what of the best is among the first found."""
    ids = [int(key) for key in store.searchable()]
    shares = []
    for query in queries:
        scores = {}
        for key in ids:
            row = store.vectors([key])[0]
            scores[key] = sum(float(a) * float(b) for a, b in zip(query, row, strict=True))
        best = sorted(scores.values(), reverse=True)[:BEST]
        last = float(np.spacing(np.float16(abs(best[-1]))))
        found = [int(key) for key in store.search(query[None], k)[1][0][:within] if key >= 0]
        good = [key for key in found if scores[key] >= best[-1] - last / 2]
        shares.append(min(len(good), len(best)) / len(best))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("num", [1, 7, 10, 230])
def test_a_flat_index_finds_everything(tmp_path: Path, num: int) -> None:
    with Store.open(build(tmp_path, unit(num))) as store:
        queries = {"own": sample_vectors(store), "others": unit(20, seed=1)}
        found = measure_recall(store, queries, candidates=200)
    assert found == {
        "own": Recall(num, num, 200, 1.0, 1.0, 1.0),
        "others": Recall(20, num, 200, 1.0, 1.0, 1.0),
    }
    assert not found["own"].low


@pytest.mark.parametrize("kind", [HalfBlind, Lazy])
@pytest.mark.parametrize("block", [7, 64, 8192])
def test_it_is_what_loops_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Store], block: int) -> None:
    monkeypatch.setattr(recall, "BLOCK", block)
    monkeypatch.setattr(recall, "TOGETHER", 5)
    with kind.open(build(tmp_path, unit(80))) as store:
        queries = {"a": unit(4, seed=1), "b": unit(9, seed=2)}
        found = measure_recall(store, queries, candidates=30)
        for name, own in queries.items():
            assert found[name].searched == pytest.approx(naive_recall(store, own, 30, BEST))
            assert found[name].asked == pytest.approx(naive_recall(store, own, BEST, BEST))
            assert found[name].within == pytest.approx(naive_recall(store, own, 30, 30))
            assert found[name].low


def test_what_hides_half_finds_half_however_far_it_looks(tmp_path: Path) -> None:
    with HalfBlind.open(build(tmp_path, unit(400))) as store:
        found = measure_recall(store, {"a": unit(300, seed=1)}, candidates=200)["a"]
    assert found.searched == found.asked == found.within == pytest.approx(0.5, abs=0.03)


def test_what_was_asked_for_and_among_all_candidates_are_told_apart(tmp_path: Path) -> None:
    with Lazy.open(build(tmp_path, unit(100))) as store:
        found = measure_recall(store, {"a": unit(20, seed=1)}, candidates=40)["a"]
    assert (found.searched, found.within) == (0.0, 1.0), "the best come last, but are looked at again"
    assert found.asked < 0.1


def test_equally_near_segments_stand_for_each_other(tmp_path: Path) -> None:
    """Copies beyond the tenth place are as good as those before, nearly equal ones too, further ones are not."""
    query = np.eye(DIM, dtype=np.float32)[:1]
    for number, gap, expected in ((0, 0.0, 1.0), (1, 2.0**-12, 1.0), (2, 2.0**-7, 0.5)):
        rows = np.zeros((40, DIM), np.float32)
        rows[:, 0] = np.where(np.arange(1, 41) % 2 == 1, 0.75 - gap, 0.75)  # what is seen is lower, if by little
        rows[:10, 0] = 0.75  # five of these are seen
        with HalfBlind.open(build(tmp_path / str(number), rows)) as store:
            assert measure_recall(store, {"a": query}, candidates=20)["a"].searched == expected


def test_a_sample_is_the_seeds_and_of_searchable_segments(tmp_path: Path) -> None:
    with Store.open(build(tmp_path, unit(60))) as store:
        first = sample_vectors(store, num=20, seed=3)
        assert first.shape == (20, DIM)
        np.testing.assert_array_equal(first, sample_vectors(store, num=20, seed=3))
        assert not np.array_equal(first, sample_vectors(store, num=20, seed=4))
        stored = {row.tobytes() for row in store.video_vectors().astype(np.float32)}
        assert {row.tobytes() for row in first} <= stored
        assert len({row.tobytes() for row in first}) == 20, "each once"


def test_what_no_search_returns_is_no_miss(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        for seed in range(5):
            add_video(store, f"v{seed}", seed=seed)
        store.set_file("/videos/v2.mp4", state="missing")
        assert measure_recall(store, {"a": unit(9)}, candidates=200)["a"] == Recall(9, 16, 200, 1.0, 1.0, 1.0)


def test_progress_counts_to_its_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with Store.open(build(tmp_path, unit(50))) as store:
        measure_recall(store, {"a": unit(9)}, candidates=20, on_progress=lambda *told: seen.append(told))
    assert seen == sorted(seen)
    assert seen[-1] == (59, 59)


def test_an_empty_or_damaged_index_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "empty") as store, pytest.raises(StoreError, match="must be a segment to measure, got an"):
        measure_recall(store, {"a": unit(1)}, candidates=200)
    damage(build(tmp_path / "bad", unit(20)) / "features" / "video.f16", 3 * DIM * 2)
    with Store.open(tmp_path / "bad") as store, pytest.raises(StoreError, match="row 3 is damaged"):
        measure_recall(store, {"a": unit(1)}, candidates=200)


def test_the_built_in_queries_are_about_a_hundred_and_differ() -> None:
    assert len(set(QUERIES)) == len(QUERIES) >= 100
    assert all(3 <= len(query.split()) <= 12 for query in QUERIES)
