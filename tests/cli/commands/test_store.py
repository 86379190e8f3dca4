"""Tests of --store and vidret store move, with vectors in milvus-lite."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fakes import write_film
from tests.indexed_texts import add_words, find_content
from vidret.store.store import Store
from vidret.store.texts.store import TextStore

pytestmark = pytest.mark.scale


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_film(tmp_path / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "films" / "old" / "blue.mp4", ("blue", 3))
    return tmp_path / "films"


def test_index_in_milvus_behaves_like_one_in_faiss(run: Runner, films: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    code, out, err = run("index", films, "--index", index, "--store", "milvus://")
    assert (code, out) == (0, "")
    assert "2 encoded" in err
    assert "WARNING" not in err
    assert "vectors   milvus://" in run("info", "--index", index)[1]
    assert json.loads(run("info", "--index", index, "--json")[1])["store"] == "milvus://"

    def search(*options: object) -> list[str]:
        hits = json.loads(run("search", "blue", "--index", index, "--json", *options)[1])
        return [Path(hit["path"]).name for hit in hits]

    assert search() == ["blue.mp4", "red.mp4"]
    assert search("--folder", films / "old") == ["blue.mp4"]
    assert search("--min-seconds", 5) == ["red.mp4"]
    assert json.loads(run("locate", "red", films / "red.mp4", "--index", index, "--json", "-k", 1)[1])[0]["start"] < 0.3
    (films / "old" / "blue.mp4").rename(films / "sky.mp4")
    write_film(films / "green.mp4", ("green", 3))
    assert "1 encoded, 1 moved or copied" in run("index", films, "--index", index)[2]
    assert search("--folder", films) == ["sky.mp4", "red.mp4", "green.mp4"]
    assert search("--folder", films / "old") == []
    run.check_refusal(
        ("index", films, "--index", index, "--store", "faiss"), 1, f"vidret store move milvus:// faiss --index {index}"
    )

    for source, target in (("milvus://", "faiss"), ("faiss", f"milvus://{tmp_path}/v.db")):
        for _ in range(2):  # the second does nothing: as after a kill that came too late
            code, out, err = run("store", "move", source, target, "--index", index)
            assert (code, out) == (0, "")
            assert f"are in {target}." in err
        assert search("--folder", films) == ["sky.mp4", "red.mp4", "green.mp4"]
    assert list(index.glob("vectors*")) == []


def test_texts_move_with_the_pictures(run: Runner, films: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run("index", films, "--index", index, "--words", "off")
    add_words(index, find_content(index, "red.mp4"), ["a red square"])
    for source, target in (("faiss", "milvus://"), ("milvus://", "faiss")):
        for _ in range(2):
            assert run("store", "move", source, target, "--index", index)[0] == 0
            with TextStore.open(index) as texts:
                assert texts.store.home == target


def test_wrong_stores_are_refused(run: Runner, films: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    code, out, err = run("index", films, "--index", index, "--store", "milvus://127.0.0.1:9")
    assert (code, out) == (1, "")
    assert "error: milvus://http://127.0.0.1:9: cannot be reached" in err
    assert "Traceback" not in err
    assert not Store.exists(index)
    assert "store must be faiss, " in run("index", films, "--index", index, "--store", "elsewhere")[2]
    run("index", films, "--index", index)
    error = run("store", "move", "milvus://", "faiss", "--index", index)[2]
    assert "source must be faiss, where the vectors are, got milvus://" in error
    assert "there is no index here" in run("store", "move", "milvus://", "faiss", "--index", tmp_path / "no")[2]
