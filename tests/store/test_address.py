"""Addresses of vectors: one form for each, nothing secret in any."""

from pathlib import Path

import pytest

from vidret.errors import StoreError
from vidret.store.address import milvus_file, milvus_server, settle


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("faiss", "faiss"),
        ("milvus://", "milvus://"),
        ("milvus:///data/a.db", "milvus:///data/a.db"),
        ("milvus://a/../b.db", "milvus://{here}/b.db"),
        ("milvus://index/vectors.milvus.db", "milvus://"),
        ("milvus://localhost:19530", "milvus://http://localhost:19530"),
        ("milvus://localhost:19530/videos", "milvus://http://localhost:19530/videos"),
        ("milvus://http://10.0.0.1:19530/", "milvus://http://10.0.0.1:19530"),
        ("milvus://https://in01.example.com/videos", "milvus://https://in01.example.com/videos"),
        ("milvus://http://[::1]:19530", "milvus://http://[::1]:19530"),
    ],
)
def test_addresses_are_kept_in_one_form(given: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("index")
    settled = settle(given, folder)
    assert settled == kept.format(here=tmp_path)
    assert settle(settled, folder) == settled


def test_an_address_names_a_file_or_a_server() -> None:
    folder = Path("/films/index")
    assert milvus_file("milvus://", folder) == folder / "vectors.milvus.db"
    assert milvus_file("milvus:///data/a.db", folder) == Path("/data/a.db")
    assert milvus_file("milvus://https://a.example.com/videos", folder) is None
    assert milvus_server("milvus://https://a.example.com/videos") == ("https://a.example.com", "videos")
    assert milvus_server("milvus://http://a.example.com:1") == ("http://a.example.com:1", "")


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("qdrant://host:1", "store must be faiss, .*, got qdrant://host:1"),
        ("milvus://somewhere", "store must be faiss, .*, got milvus://somewhere"),
        ("milvus://http://", "store must be faiss"),
        ("milvus://http://host/a/b", "store must be faiss, .*, got milvus://http://host/a/b"),
        ("milvus://http://host:99999", "store must be"),
        ("milvus://root:hunter2@host:19530", "store must be faiss"),
        ("milvus://http://root:hunter2@host:19530", "without a password, which goes into the variable MILVUS_TOKEN"),
        ("milvus://http://root:hunter2/@host:19530", "without a password"),
    ],
)
def test_other_addresses_and_passwords_are_refused_and_not_told(address: str, rule: str) -> None:
    with pytest.raises(StoreError, match=rule) as refused:
        settle(address, Path("index"))
    assert "hunter2" not in str(refused.value)
