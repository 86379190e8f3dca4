"""FAISS vectors: loading without listing ids, synchronisation with writers, and recovery from damage."""

import signal
from contextlib import closing
from pathlib import Path

import pytest

from tests.forking import run_code
from vidret.errors import OptionError, StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.store import Store
from vidret.store.vectors.faiss import FaissVectors
from vidret.store.vectors.ivf import Shard
from vidret.store.vectors.manifest import HELD_IDS, MANIFEST, ManifestEntry

from ..samples import add_video, create, damage, embedding, index_all, lose, of, seeds

IVF_FROM = 40


def sharded(store: Store) -> Store:
    """Make a store build shards of few vectors."""
    store._vectors.index = FaissVectors(store._vectors._options, ivf_from=IVF_FROM)
    return store


def names(path: Path) -> list[str]:
    return sorted(file.name.rsplit("-", 1)[0] for file in (path / "vectors").iterdir())


def assert_answers(store: Store, expected: list[int]) -> None:
    """Assert that a search finds exactly these segments, each by its vector."""
    assert seeds(store) == expected
    for seed in expected:
        (key,) = store.search(embedding(seed).video[None], 1)[1][0]
        segment = store.segments.get([int(key)])[0]
        assert (store.videos.get(segment.video).fingerprint, segment.number) == (f"v{seed // 100}", seed % 100)


def entries(store: Store) -> list[ManifestEntry]:
    vectors = store._vectors.index
    assert isinstance(vectors, FaissVectors)
    assert vectors._shards is not None
    return [shard.entry for shard in vectors._shards._held.shards]


def test_up_to_date_vectors_are_loaded_without_listing_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sharded(create(tmp_path)) as store:
        store.upkeep.set_memory(10**9)  # exact values, which are not read again
        index_all(store, 15)
        lose(store, 3)
        store.upkeep.save_vectors()
    with monkeypatch.context() as patched, sharded(Store.open(tmp_path)) as store:
        patched.setattr(Shard, "ids", property(lambda _: pytest.fail("listed")))
        patched.setattr(store._epochs, "intact_vectors", lambda _: pytest.fail("read"))
        assert seeds(store) == of(*range(3), *range(4, 15))
    with sharded(Store.open(tmp_path, write=True)) as store:
        before = {file: file.stat().st_mtime_ns for file in (tmp_path / "vectors").iterdir()}
        add_video(store, "v3", seed=3)  # reappears
        store.upkeep.save_vectors()
        assert {file: file.stat().st_mtime_ns for file in (tmp_path / "vectors").iterdir()} == before
        assert_answers(store, of(*range(15)))


def test_reader_loads_what_a_writer_saves(tmp_path: Path) -> None:
    with sharded(create(tmp_path)) as writer, sharded(Store.open(tmp_path)) as reader:
        for num in (3, 12, 20, 24):
            index_all(writer, num)
            assert_answers(reader, of(*range(num)))
        add_video(writer, "v30", seed=30)
        assert_answers(reader, of(*range(24), 30))
        assert entries(reader) == entries(writer)
        lose(writer, *range(22))
        writer.upkeep.prune()
        writer.upkeep.save_vectors()
        assert_answers(reader, of(22, 23, 30))
        assert names(tmp_path) == ["flat"]


@pytest.mark.parametrize("kind", ["ivf", "ivf-rabitq1"])  # at 8 dimensions 2 bits per value save nothing
def test_memory_limit_sets_the_kind_and_is_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    memory = {"ivf": 48 * 24, "ivf-rabitq1": 100}[kind]
    with sharded(create(tmp_path)) as store:
        store.upkeep.set_memory(memory)
        index_all(store, 12)
        assert (store.info().vectors, store.info().memory) == (kind, memory)
        assert_answers(store, of(*range(12)))
    assert ("memory must be at least" in caplog.text) == (memory == 100)
    with sharded(create(tmp_path)) as store:
        index_all(store, 22)
        store.upkeep.set_memory(0)
        assert store.info().memory is None
        store.upkeep.save_vectors()
        assert store.info().vectors == "ivf-rabitq2"
        with pytest.raises(StoreError, match="memory must not be negative, got -1"):
            store.upkeep.set_memory(-1)
        with pytest.raises(OptionError, match="memory must be a number of bytes, got '1 GB'"):
            store.upkeep.set_memory("1 GB")  # type: ignore[arg-type]


@pytest.mark.parametrize("damaged", ["flip", "head", "cut", "delete", "foreign", "no manifest", "no ids", "version"])
@pytest.mark.parametrize(("memory", "num"), [(0, 13), (900, 13), (0, 2)], ids=["2 bits", "1 bit", "flat"])
def test_damaged_files_do_not_change_results(tmp_path: Path, memory: int, num: int, damaged: str) -> None:
    """Saved vectors only save time: the results are always those of the feature files."""
    for name, first in {"index": 0, **({"other": 40} if damaged == "foreign" else {})}.items():
        with sharded(create(tmp_path / name)) as store:
            store.upkeep.set_memory(memory)
            for seed in range(first, first + num):
                add_video(store, f"v{seed}", seed=seed)
            store.upkeep.save_vectors()
    (path,) = (tmp_path / "index" / "vectors").iterdir()
    data = bytearray(path.read_bytes())
    if damaged == "delete":
        path.unlink()
    elif damaged in ("no manifest", "no ids", "version"):
        with closing(Catalog(tmp_path / "index" / "catalog.sqlite", write=True)) as catalog:
            catalog.tables.set_meta(MANIFEST, "{}" if damaged == "version" else catalog.tables.meta(MANIFEST))
            key = {"no manifest": MANIFEST, "no ids": HELD_IDS, "version": ""}[damaged]
            catalog.database.run("DELETE FROM meta WHERE key = ?", key)
    elif damaged == "foreign":
        (other,) = (tmp_path / "other" / "vectors").iterdir()
        path.write_bytes(other.read_bytes())
    else:
        offset = {"flip": len(data) - 5, "head": 90, "cut": 0}[damaged]
        data[offset] ^= 4
        path.write_bytes(data[:-1] if damaged == "cut" else data)
    with sharded(Store.open(tmp_path / "index", write=True)) as store:
        assert (store.info().vectors == "none") == (damaged in ("no manifest", "version"))
        assert_answers(store, of(*range(num)))
        store.upkeep.save_vectors()
        assert_answers(store, of(*range(num)))
        assert store.upkeep.verify_vectors() == []
        saved = [(file.name, file.stat().st_mtime_ns) for file in (tmp_path / "index" / "vectors").iterdir()]
        store.upkeep.save_vectors()
        assert [(file.name, file.stat().st_mtime_ns) for file in (tmp_path / "index" / "vectors").iterdir()] == saved


def test_verification_finds_damaged_files_and_repair_deletes_them(tmp_path: Path) -> None:
    with sharded(create(tmp_path)) as store, sharded(Store.open(tmp_path)) as reader:
        store.upkeep.set_memory(500)
        for seed in range(15):
            add_video(store, f"v{seed}", seed=seed)
            if seed == 11:
                store.upkeep.save_vectors()
        store.upkeep.save_vectors()
        assert names(tmp_path) == ["flat", "ivf-rabitq1"]
        assert reader.upkeep.verify_vectors() == []
        flat, shard = sorted((tmp_path / "vectors").iterdir())
        damage(flat, flat.stat().st_size // 2, bits=4)
        shard.unlink()
        bad = reader.upkeep.verify_vectors()
        assert [file.path for file in bad] == [str(shard), str(flat)]
        assert bad[0].reason == "No such file or directory"
        assert "checksum" in bad[1].reason
        with pytest.raises(StoreError, match="opened for reading, cannot be changed"):
            reader.upkeep.verify_vectors(repair=True)
        assert_answers(reader, of(*range(15)))
        assert store.upkeep.verify_vectors(repair=True) == bad
        assert store.upkeep.verify_vectors() == []
        assert_answers(store, of(*range(15)))
        assert_answers(reader, of(*range(15)))
        store.upkeep.save_vectors()
        assert names(tmp_path) == ["ivf-rabitq1"]


def test_reader_retries_during_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sharded(create(tmp_path)) as writer, sharded(Store.open(tmp_path)) as reader:
        writer.upkeep.set_memory(10**9)  # exact values, which are not read again
        index_all(writer, 12)
        read_manifest = reader._catalog.tables.derived
        stale = [read_manifest(MANIFEST, HELD_IDS), read_manifest(MANIFEST)]
        index_all(writer, 24)  # replaces the shard that the reader is about to open
        monkeypatch.setattr(
            reader._catalog.tables, "derived", lambda *keys: stale.pop() if stale else read_manifest(*keys)
        )
        monkeypatch.setattr(reader._epochs, "intact_vectors", lambda _: pytest.fail("read"))
        assert seeds(reader) == of(*range(24))


KILLED_WRITER = """
import os, sys
from pathlib import Path
from tests.store import samples
from tests.store.vectors.test_faiss import sharded
store = sharded(samples.create(Path(sys.argv[1])))
samples.index_all(store, 12)
for seed in range(12, 23):
    samples.add_video(store, f"v{seed}", seed=seed)
samples.kill_at(os, sys.argv[3], int(sys.argv[2]))
store.upkeep.save_vectors()
"""


@pytest.mark.parametrize(("count", "function"), [(1, "fsync"), (2, "fsync"), (1, "unlink")])
def test_writer_killed_while_saving_loses_nothing(tmp_path: Path, count: int, function: str) -> None:
    assert run_code(KILLED_WRITER, tmp_path, count, function).returncode == -signal.SIGKILL
    assert names(tmp_path) == ["ivf-rabitq2", "ivf-rabitq2"]
    with sharded(Store.open(tmp_path)) as reader:
        assert_answers(reader, of(*range(23)))
        assert reader.upkeep.verify_vectors() == []
    with sharded(create(tmp_path)) as store:
        store.upkeep.save_vectors()
        assert names(tmp_path) == ["ivf-rabitq2"]
        assert_answers(store, of(*range(23)))
