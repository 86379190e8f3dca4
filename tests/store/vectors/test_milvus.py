"""Vectors in Milvus: the same results as FAISS, also after kills, losses and moves; errors of connections."""

import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forking import run_code, start_code
from vidret.errors import MissingExtraError, StoreError
from vidret.store.folder import MILVUS_FILE
from vidret.store.records import NewSegment
from vidret.store.snapshots.bitmap import make_bitmap
from vidret.store.store import Store
from vidret.store.vectors.flat import Flat, IdFilter
from vidret.store.vectors.milvus import MilvusVectors
from vidret.store.vectors.milvus_collection import _lite
from vidret.types import Filters, SegmentEmbedding

from .. import samples
from ..naive import matching
from ..samples import DIM, NUM_SEGMENTS, add_video, embedding, index_all, lose, of, seeds

pytestmark = pytest.mark.scale
QUERY = np.ones((1, DIM), np.float32)


def create(folder: Path, vectors: str | None = "milvus://", *, dim: int = DIM) -> Store:
    return samples.create(folder, dim=dim, vectors=vectors)


def open_vectors(store: Store) -> MilvusVectors:
    assert isinstance(store._vectors.index, MilvusVectors)
    return store._vectors.index


def count(store: Store, expression: str = "") -> int:
    """Return the number of rows in Milvus."""
    return open_vectors(store)._open().count(expression)


def test_a_store_that_is_dropped_open_releases_its_file(tmp_path: Path) -> None:
    with create(tmp_path) as made:
        index_all(made, 1)
        made.upkeep.save_vectors()
    store = Store.open(tmp_path)
    assert len(seeds(store)) == NUM_SEGMENTS
    del store  # as an engine drops an index that was replaced
    assert not _lite._users[tmp_path / MILVUS_FILE]


# Results


def fill(store: Store, vectors: np.ndarray) -> None:
    """Store vectors as videos of ten segments."""
    for video_index in range(len(vectors) // 10):
        path = f"/films/{video_index % 7}/{video_index}.mp4"
        video = store.writer.begin_video(path, duration=1.0, facts={}, num_segments=10)
        store.writer.set_file(path, state="done", video=video)
        indexed_vectors = enumerate(vectors[10 * video_index : 10 * video_index + 10])
        parts = [(n, SegmentEmbedding(vector, vector[None], np.zeros(1))) for n, vector in indexed_vectors]
        store.writer.add_segments([NewSegment(video, n, 0.0, 1.0, vector) for n, vector in parts])


def test_results_are_those_of_faiss(tmp_path: Path) -> None:
    """With vectors near one direction, as those of encoders, for which exact results are hardest."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 64)) * np.linspace(0.1, 1, 64) + 3 * rng.standard_normal(64)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    queries = vectors[::4000].astype(np.float32) + 0.1 * rng.standard_normal((5, 64)).astype(np.float32)
    flat = Flat(64)
    flat.add(np.arange(1, 20_001), vectors)
    with create(tmp_path, dim=64) as store:
        fill(store, vectors)
        store.upkeep.save_vectors()
        assert count(store) == 20_000
        scores, ids = store.search(queries, 100)
        expected_scores, expected = flat.search(queries, 100)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
        differ = ids != expected
        assert (np.abs(scores - expected_scores)[differ] < 1e-6).all()  # only ties are in another order
        assert [set(row) for row in ids.tolist()] == [set(row) for row in expected.tolist()]
        inside = Filters(folder="/films/3")
        within = IdFilter(make_bitmap(np.array(matching(store, inside), np.int64)), fraction=0.1)
        assert set(store.search(queries, 100, store.select(inside))[1][0]) == set(
            flat.search(queries, 100, within)[1][0]
        )
        with pytest.raises(StoreError, match="k must be at most 16384 with vectors in Milvus, got 16385"):
            store.search(queries, 16_385)
        assert len(np.unique(store.search(queries[:1], 16_384)[1])) == 16_384


# Synchronisation


def test_changes_are_pushed_periodically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.store.vectors.milvus.EVERY", 6)
    with create(tmp_path) as store:
        add_video(store, "v0", seed=0)  # six changes: two of the file, four segments
        assert count(store) == 4
        monkeypatch.setattr("vidret.store.vectors.milvus.EVERY", 10**6)
        add_video(store, "v1", seed=1)
        assert count(store) == 4
        monkeypatch.setattr("vidret.store.vectors.milvus.SECONDS", 0.0)
        lose(store, 0)
        assert count(store) == 4
        assert seeds(store) == [100, 101, 102, 103]


KILLED_WRITER = """
import sys
from pathlib import Path
from tests.store.samples import add_video, kill_at, lose
from tests.store.vectors.test_milvus import create
from vidret.store.vectors import milvus
owner, method = sys.argv[2].split(".")
milvus.ROWS, milvus.EVERY = 8, 10
kill_at(getattr(milvus, owner), method, int(sys.argv[3]), after=owner == "Collection")
store = create(Path(sys.argv[1]))
for seed in range(5):
    add_video(store, f"v{seed}", seed=seed)
lose(store, 0)
add_video(store, "v1", seed=1, path="/videos/v1 moved.mp4")
lose(store, 1)
store.upkeep.save_vectors()
store.writer.begin_video("v3", duration=9.0, facts={}, num_segments=2)
add_video(store, "v3", seed=3, num_segments=2)
store.upkeep.save_vectors()
raise SystemExit("not killed")
"""


CUT_FILE = "No data left in file"  # NumPy's sentence, by which milvus-lite reports a file of its own that is cut short


@pytest.mark.parametrize(
    ("method", "count_calls"),
    [
        *(("Collection.upsert", num_calls) for num_calls in (1, 3)),
        *(("MilvusVectors._record", num_calls) for num_calls in (3, 4, 5, 8)),
        ("Collection.delete", 1),
        ("Collection.flush", 2),
    ],
)
def test_run_after_a_killed_writer_leaves_no_duplicates(tmp_path: Path, method: str, count_calls: int) -> None:
    assert run_code(KILLED_WRITER, tmp_path, method, count_calls).returncode == -signal.SIGKILL
    try:
        check_after_kill(tmp_path)
    except StoreError as error:
        if CUT_FILE not in str(error):
            raise
        pytest.skip(f"the kill cut a file that milvus-lite was writing in place: {error}")


def check_after_kill(index: Path) -> None:
    """Check that readers see what is stored, and that the next writer completes it."""
    with Store.open(index) as reader:
        searchable_ids = reader.searchable().tolist()
        assert sorted(key for key in reader.search(QUERY, 99)[1][0].tolist() if key >= 0) == searchable_ids
    with create(index, None) as store:
        index_all(store, 5)
        lose(store, 2)
        store.upkeep.save_vectors()
        searchable = store.searchable()
        assert count(store) == len(searchable)
        assert count(store, f"id in {searchable.tolist()}") == len(searchable)
        assert seeds(store) == of(0, 1, 3, 4)


def test_dropped_collection_is_reported_to_readers_and_refilled_by_the_next_writer(tmp_path: Path) -> None:
    with create(tmp_path) as store, Store.open(tmp_path) as reader:
        index_all(store, 3)
        assert len(seeds(reader)) == 12
        open_vectors(store)._open().drop()
        message = "^milvus://: the collection vidret_[0-9a-f]{16} of this index does not exist"
        with pytest.raises(StoreError, match=message):
            reader.search(QUERY, 1)
    with Store.open(tmp_path) as reader, pytest.raises(StoreError, match=message):
        reader.search(QUERY, 1)
    with create(tmp_path, None) as store:
        assert len(seeds(store)) == 12
        store.upkeep.save_vectors()
        assert count(store) == 12


def test_outdated_rows_in_the_collection_are_not_returned(tmp_path: Path) -> None:
    """Even if there are more outdated rows than requested results."""
    with create(tmp_path) as store:
        index_all(store, 3)
        best = embedding(0).video.astype(np.float32)
        rows = [{"id": 1000 + row, "video": 99} for row in range(50)]
        open_vectors(store)._open().upsert(rows, np.repeat(best[None], 50, axis=0))
        scores, ids = store.search(best[None], 3)
        assert ids[0, 0] == 1
        assert (ids < 13).all()
        assert np.isfinite(scores).all()


# Other processes, and moves


HOLDER = """
import sys
from pathlib import Path
from tests.store.vectors.test_milvus import create
create(Path(sys.argv[1]) / "held", "milvus://" + sys.argv[1] + "/shared.db")
print("ready", flush=True)
sys.stdin.read()
"""


def test_file_open_in_another_process_is_rejected(tmp_path: Path) -> None:
    reason, address = "open in another process", f"milvus://{tmp_path}/shared.db"
    with start_code(HOLDER, tmp_path) as (holder, _, _), Store.open(tmp_path / "held") as reader:
        assert len(reader) == 0  # the catalog needs no Milvus
        assert reader.info().store == address
        with pytest.raises(StoreError, match=f"^{address}: {reason}"):
            reader.search(QUERY, 1)
        with pytest.raises(StoreError, match=reason):
            create(tmp_path / "other", address)
        assert not Store.exists(tmp_path / "other")
        holder.kill()
        holder.wait()
        assert seeds(reader) == []
    with create(tmp_path / "other", address) as store:  # collections of one process share it
        index_all(store, 1)
        with create(tmp_path / "held", None) as held:
            index_all(held, 2)
        assert count(store) == 4
    with Store.open(tmp_path / "held") as held:
        assert len(seeds(held)) == 8


def test_indexes_share_a_server_and_move_there_and_back(tmp_path: Path, server: str) -> None:
    normalised = server.replace("://", "://http://")
    with create(tmp_path / "a", server) as first, create(tmp_path / "b", server) as second:
        index_all(first, 3)
        index_all(second, 1)
        assert (count(first), count(second)) == (12, 4)
        assert (first.home, len(seeds(second))) == (normalised, 4)
        with Store.open(tmp_path / "a") as reader:
            for source, target in itertools.pairwise((server, "milvus://", "faiss", "milvus://", server, "faiss")):
                calls: list[tuple[int, int]] = []
                first.upkeep.move_vectors(source, target, on_progress=lambda *call: calls.append(call))  # noqa: B023
                assert first.info().store == reader.info().store == target.replace(server, normalised)
                assert seeds(first) == seeds(reader) == of(0, 1, 2)
                assert calls == ([] if target == "faiss" else [(0, 3), (3, 3)])
                assert (tmp_path / "a" / "vectors.milvus.db").exists() == (target == "milvus://")
                assert (tmp_path / "a" / "vectors").exists() == (target == "faiss")
        assert first._catalog.database.rows("SELECT key FROM meta WHERE key LIKE 'milvus.%'") == []
        assert open_vectors(second)._open()._client.list_collections() == [open_vectors(second)._name]


def test_wrong_locations_of_vectors_are_rejected(tmp_path: Path) -> None:
    create(tmp_path).close()
    create(tmp_path).close()
    with pytest.raises(
        StoreError, match="store must be milvus://, got faiss; to move the vectors: vidret store move milvus:// faiss"
    ):
        create(tmp_path, "faiss")
    with create(tmp_path, None) as store:
        with pytest.raises(StoreError, match="cannot be reached"):
            store.upkeep.move_vectors("milvus://", "milvus://127.0.0.1:9")
        assert seeds(store) == []


KILLED_MOVER = """
import sys
from tests.store.samples import kill_at
from vidret.store.store import Store
from vidret.store.vectors import milvus
owner, method = sys.argv[2].split(".")
milvus.ROWS = 8
kill_at(getattr(milvus, owner), method, int(sys.argv[3]))
Store.open(sys.argv[1], write=True).upkeep.move_vectors("faiss", "milvus://")
"""


@pytest.mark.parametrize(
    ("method", "count_calls"), [("Collection.upsert", 2), ("MilvusVectors._record", 4), ("Collection.flush", 1)]
)
def test_killed_move_is_resumed(tmp_path: Path, method: str, count_calls: int) -> None:
    with create(tmp_path, "faiss") as store:
        index_all(store, 5)
    assert run_code(KILLED_MOVER, tmp_path, method, count_calls).returncode == -signal.SIGKILL
    with Store.open(tmp_path) as reader:
        assert (reader.home, len(seeds(reader))) == ("faiss", 20)
    with create(tmp_path, None) as store:  # a run in between is kept
        lose(store, 0)
        add_video(store, "v7", seed=7)
        store.upkeep.save_vectors()
        expected = seeds(store)
        calls: list[tuple[int, int]] = []
        store.upkeep.move_vectors("faiss", "milvus://", on_progress=lambda *call: calls.append(call))
        assert calls[0][0] >= 1  # it does not start over
        assert store.home == "milvus://"
        assert seeds(store) == expected
        assert count(store) == len(expected)


def test_collection_is_refilled_after_a_repair_of_the_catalog(tmp_path: Path) -> None:
    with create(tmp_path) as store:
        index_all(store, 3)
        expected = seeds(store)
        assert store._catalog.database.run("UPDATE segments SET start = start + 1 WHERE id = 6") == 1
    assert Store.repair_catalog(tmp_path) == ["the row of 6 in segments is damaged (checksum)"]
    with create(tmp_path) as store:
        assert store.home == "milvus://"
        assert store.upkeep.verify() == []
        assert seeds(store) == sorted(set(expected) - {101})
        index_all(store, 3)
        assert seeds(store) == expected
        assert count(store) == len(expected)


# Errors


@pytest.mark.parametrize("existing", [False, True])
def test_unreachable_server_is_reported_and_creates_no_index(
    tmp_path: Path,
    existing: bool,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("VIDRET_ALLOW", "milvus://http://127.0.0.1:9")
    address, started = server if existing else "milvus://127.0.0.1:9", time.monotonic()
    if existing:
        with create(tmp_path / "index", address) as store:
            index_all(store, 1)
            catalog = store._catalog
            catalog.tables.set_meta("store", catalog.tables.meta("store").replace(address[9:], "127.0.0.1:9"))
    with pytest.raises(StoreError, match=r"^milvus://http://127.0.0.1:9: cannot be reached \(.*\)$"):
        create(tmp_path / "index", None if existing else address)
    if existing:
        with Store.open(tmp_path / "index") as store, pytest.raises(StoreError, match="cannot be reached"):
            store.search(QUERY, 1)
    assert Store.exists(tmp_path / "index") == existing
    assert time.monotonic() - started < 60
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_rejected_token_is_reported_but_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    grpc = pytest.importorskip("grpc")
    tokens: list[Any] = []

    class RejectAll(grpc.GenericRpcHandler):  # type: ignore[misc,name-defined]
        def service(self, call: Any) -> Any:
            tokens.extend(value for key, value in call.invocation_metadata if key == "authorization")

            def refuse(_request: bytes, context: Any) -> None:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure")

            return grpc.unary_unary_rpc_method_handler(refuse)

    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("MILVUS_TOKEN", "hunter2")
    serving = grpc.server(ThreadPoolExecutor(1))
    serving.add_generic_rpc_handlers((RejectAll(),))
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    with pytest.raises(StoreError, match=r"the token in MILVUS_TOKEN was rejected \(auth check failure\)$") as raised:
        create(tmp_path, f"milvus://127.0.0.1:{port}")
    serving.stop(grace=None).wait()
    assert len(tokens) == 1
    assert "hunter2" not in f"{raised.value}{capfd.readouterr()}"


def test_token_is_not_stored(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILVUS_TOKEN", "hunter2")
    with create(tmp_path / "index", server) as store:
        index_all(store, 1)
        assert "hunter2" not in repr(store.info())
    assert all(b"hunter2" not in file.read_bytes() for file in (tmp_path / "index").rglob("*") if file.is_file())


def test_missing_pymilvus_is_reported_before_an_index_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match='a store in Milvus needs the extra "milvus"'):
        create(tmp_path / "index")
    assert not Store.exists(tmp_path / "index")
    assert os.listdir(tmp_path / "index") in ([], ["writer.lock"])  # noqa: PTH208
