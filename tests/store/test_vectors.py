"""Vectors: the same answers as numpy's exact search, whatever was added, removed, saved, damaged or trained."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vidret.errors import MissingExtraError, StoreError
from vidret.store.vectors import Vectors

DIM = 16


def naive_search(
    queries: np.ndarray, ids: np.ndarray, vectors: np.ndarray, k: int
) -> tuple[list[list[float]], list[list[int]]]:
    """Score every vector with every query, sort, cut: the definition."""
    scores, found = [], []
    for query in queries.astype(np.float64):
        products = [float(np.dot(query, vector.astype(np.float64))) for vector in vectors]
        best = sorted(range(len(ids)), key=lambda place: -products[place])[:k]
        short = k - len(best)
        scores.append([products[place] for place in best] + [-np.inf] * short)
        found.append([int(ids[place]) for place in best] + [-1] * short)
    return scores, found


def sample(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((num, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(rng.choice(10 * num, num, replace=False)).astype(np.int64) + 1, vectors.astype(np.float16)


def queries(num: int = 5) -> np.ndarray:
    return np.random.default_rng(99).standard_normal((num, DIM)).astype(np.float32)


def assert_exact(index: Vectors, ids: np.ndarray, vectors: np.ndarray, k: int = 10) -> None:
    scores, found = index.search(queries(), k)
    expected_scores, expected = naive_search(queries(), ids, vectors, k)
    assert found.tolist() == expected
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    assert index.ids.tolist() == ids.tolist()


@pytest.mark.parametrize(("num", "k"), [(0, 3), (1, 1), (5, 9), (200, 10), (200, 200)])
def test_flat_is_the_naive_search(num: int, k: int) -> None:
    ids, vectors = sample(num)
    index = Vectors(DIM)
    index.add(ids[: num // 2], vectors[: num // 2])
    index.add(ids[num // 2 :], vectors[num // 2 :])
    assert_exact(index, ids, vectors, k)
    assert index.search(queries(0), k)[1].shape == (0, k)


@pytest.mark.parametrize("ivf_from", [10_000, 300])
@pytest.mark.parametrize("num_within", [0, 1, 7, 150])
def test_a_search_within_some_ids_is_the_naive_search_among_them(ivf_from: int, num_within: int) -> None:
    ids, vectors = sample(600)
    index = Vectors(DIM, ivf_from=ivf_from)
    index.add(ids, vectors)
    assert index.train() == (ivf_from < 600)
    chosen = np.sort(np.random.default_rng(3).choice(600, num_within, replace=False))
    scores, found = index.search(queries(), 10, ids[chosen])
    expected_scores, expected = naive_search(queries(), ids[chosen], vectors[chosen], 10)
    assert found.tolist() == expected
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)


def test_removed_ids_are_gone_and_the_rest_stays() -> None:
    ids, vectors = sample(100)
    index = Vectors(DIM)
    index.add(ids, vectors)
    index.remove(ids[::3])
    kept = np.arange(100) % 3 != 0
    assert_exact(index, ids[kept], vectors[kept], 100)
    index.remove(ids[kept])
    assert_exact(index, ids[:0], vectors[:0])


def test_order_of_adding_changes_nothing() -> None:
    ids, vectors = sample(50)
    order = np.random.default_rng(1).permutation(50)
    index = Vectors(DIM)
    index.add(ids[order], vectors[order])
    assert_exact(index, ids, vectors)


def test_saved_is_loaded(tmp_path: Path) -> None:
    ids, vectors = sample(60)
    index = Vectors(DIM)
    index.add(ids, vectors)
    seal = index.save(tmp_path / "vectors.faiss")
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.faiss"]
    again = Vectors(DIM)
    assert again.load(tmp_path / "vectors.faiss", seal)
    assert_exact(again, ids, vectors)
    again.remove(ids[:10])
    assert_exact(again, ids[10:], vectors[10:])


def test_damaged_file_is_not_believed(tmp_path: Path) -> None:
    ids, vectors = sample(60)
    index, path = Vectors(DIM), tmp_path / "vectors.faiss"
    index.add(ids, vectors)
    seal = index.save(path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4  # FAISS loads this without a word
    for data in (bytes(flipped), whole[:-1], whole[:40], b"", whole + b"\0", b"x" * len(whole)):
        path.write_bytes(data)
        again = Vectors(DIM)
        assert not again.load(path, seal)
        assert_exact(again, ids[:0], vectors[:0])
    path.unlink()
    assert not Vectors(DIM).load(path, seal)


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    ids, vectors = sample(60)
    index, path = Vectors(DIM), tmp_path / "vectors.faiss"
    index.add(ids, vectors)
    seal = index.save(path)
    (tmp_path / "vectors.faiss.new").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"vectors\.faiss: cannot be written \(No space left"):
        index.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["vectors.faiss"]
    assert Vectors(DIM).load(path, seal)


def test_seal_must_agree_in_everything(tmp_path: Path) -> None:
    ids, vectors = sample(60)
    index, path = Vectors(DIM), tmp_path / "vectors.faiss"
    index.add(ids, vectors)
    seal = index.save(path)
    for wrong in (replace(seal, total=61), replace(seal, dim=DIM + 1), replace(seal, sha256="0" * 64)):
        assert not Vectors(DIM).load(path, wrong)
    assert not Vectors(DIM + 1).load(path, seal)
    assert Vectors(DIM).load(path, seal)


def clustered(num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((20, DIM))[rng.integers(0, 20, num)] + 0.3 * rng.standard_normal((num, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.arange(num, dtype=np.int64) * 2 + 1, vectors.astype(np.float16)


def test_lists_are_trained_when_due_and_keep_every_value(tmp_path: Path) -> None:
    ids, vectors = clustered(1500)
    index = Vectors(DIM, ivf_from=1000)
    index.add(ids[:900], vectors[:900])
    assert not index.train()
    index.add(ids[900:], vectors[900:])
    assert index.kind == "flat"
    assert index.train()
    assert index.kind == "ivf"
    assert not index.train()
    assert_exact(index, ids, vectors, 1500)  # k = all: every list is looked into, so it must be exact, scores included

    _, found = index.search(queries(), 10)
    _, exact = naive_search(queries(), ids, vectors, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact, strict=True)]) > 0.9

    again = Vectors(DIM, ivf_from=1000)
    assert again.load(tmp_path / "v", index.save(tmp_path / "v"))
    assert again.kind == "ivf"
    again.remove(ids[:300])
    again.add(ids[:100], vectors[:100])
    kept = np.r_[0:100, 300:1500]
    assert_exact(again, ids[kept], vectors[kept], 1300)


def test_lists_are_retrained_after_growth_and_given_up_after_shrinking() -> None:
    ids, vectors = clustered(1300)
    index = Vectors(DIM, ivf_from=300)
    index.add(ids[:300], vectors[:300])
    assert index.train()
    index.add(ids[300:1200], vectors[300:1200])
    assert not index.train()  # four times as many
    index.add(ids[1200:], vectors[1200:])
    assert index.train()
    assert_exact(index, ids, vectors, 1300)
    index.remove(ids[200:])
    assert not index.train()
    index.remove(ids[100:200])
    assert index.train()
    assert index.kind == "flat"
    assert_exact(index, ids[:100], vectors[:100])


def test_training_is_repeatable(tmp_path: Path) -> None:
    ids, vectors = clustered(600)
    seals = []
    for name in "ab":
        index = Vectors(DIM, ivf_from=500)
        index.add(ids, vectors)
        index.train()
        seals.append(index.save(tmp_path / name))
    assert seals[0] == seals[1]


def test_missing_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r'searching an index needs the extra "cpu"'):
        Vectors(DIM)


def test_gpu_is_refused_where_there_is_none() -> None:
    import faiss

    if faiss.get_num_gpus():
        pytest.skip("FAISS sees a GPU")
    with pytest.raises(StoreError, match=r"device must be 'cpu' where FAISS sees no GPU, got 'cuda'"):
        Vectors(DIM, device="cuda")
