"""Addresses of vectors: normalisation, and rejection of passwords."""

from pathlib import Path

import pytest

from vidret.errors import StoreError
from vidret.store.vectors.milvus_collection import find_milvus_file, split_milvus_server
from vidret.store.vectors.registry import normalise_address


@pytest.mark.parametrize(
    ("address", "expected"),
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
def test_addresses_are_normalised(address: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("index")
    normalised = normalise_address(address, folder)
    assert normalised == expected.format(here=tmp_path)
    assert normalise_address(normalised, folder) == normalised


def test_address_is_parsed_as_file_or_server() -> None:
    folder = Path("/films/index")
    assert find_milvus_file("milvus://", folder) == folder / "vectors.milvus.db"
    assert find_milvus_file("milvus:///data/a.db", folder) == Path("/data/a.db")
    assert find_milvus_file("milvus://https://a.example.com/videos", folder) is None
    assert split_milvus_server("milvus://https://a.example.com/videos") == ("https://a.example.com", "videos")
    assert split_milvus_server("milvus://http://a.example.com:1") == ("http://a.example.com:1", "")


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("qdrant://host:1", "store must be faiss, .*, got qdrant://host:1"),
        ("milvus://somewhere", "store must be faiss, .*, got milvus://somewhere"),
        ("milvus://http://", "store must be faiss"),
        ("milvus://http://host/a/b", "store must be faiss, .*, got milvus://http://host/a/b"),
        ("milvus://http://host:99999", "store must be"),
        ("milvus://root:hunter2@host:19530", "store must be faiss"),
        ("milvus://http://root:hunter2@host:19530", "without a password.*MILVUS_TOKEN"),
        ("milvus://http://root:hunter2/@host:19530", "without a password"),
    ],
)
def test_invalid_addresses_and_passwords_are_rejected_without_showing_them(address: str, rule: str) -> None:
    with pytest.raises(StoreError, match=rule) as raised:
        normalise_address(address, Path("index"))
    assert "hunter2" not in str(raised.value)
