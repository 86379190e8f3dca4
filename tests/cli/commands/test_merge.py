"""Tests of vidret merge."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, write_film
from tests.spoken import FakeSentences, fake_sentences, say
from vidret.channels.texts import channel
from vidret.channels.texts.channel import is_background_current
from vidret.engine import Engine
from vidret.errors import EncoderError
from vidret.index import merging
from vidret.search.query import planning
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import TextEmbedding


@pytest.fixture
def sources(run: Runner, tmp_path: Path) -> tuple[Path, Path]:
    write_film(tmp_path / "a" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "b" / "blue.mp4", ("blue", 3))
    (tmp_path / "b" / "bad.mp4").write_text("no video")
    for name in ("a", "b"):
        assert run("index", tmp_path / name, "--index", tmp_path / f"index-{name}", "--rerank", "none")[0] == 0
    return tmp_path / "index-a", tmp_path / "index-b"


def test_indexes_are_merged(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, err = run("merge", *sources, "--index", tmp_path / "all")
    assert (code, out) == (0, "")
    assert "2 videos copied, 0 completed, 0 already present; 3 segments, 3 files added, 0 changed" in err
    for colour in ("red", "blue"):
        hits = json.loads(run("search", colour, "--index", tmp_path / "all", "-k", 1, "--json")[1])
        assert [Path(hit["path"]).name for hit in hits] == [f"{colour}.mp4"]
    assert "bad.mp4" in run("info", "--failed", "--index", tmp_path / "all")[1]


def add_speech(sources: Sequence[Path]) -> None:
    """Add two sentences to the film of each index."""
    for index, name in zip(sources, ("red", "blue"), strict=True):
        say(index, name, "speech", [(0, 1, f"the {name} line"), (1, 2, "and more")])


def test_words_are_merged(
    run: Runner, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sentences(monkeypatch)
    assert "texts" not in run("merge", sources[0], "--index", tmp_path / "without")[2]
    add_speech(sources)
    assert "0 prepared moments, 4 texts, in " in run("merge", *sources, "--index", tmp_path / "all")[2]
    (words,) = json.loads(run("info", "--index", tmp_path / "all", "--json")[1])["words"]
    assert words == {"source": "speech", "texts": 4, "tracks": 2, "complete": 2}


def test_report_in_json(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    report = json.loads(run("merge", *sources, "--index", tmp_path / "all", "--json")[1])
    assert (report["copied"], report["num_segments"], report["damaged"], report["interrupted"]) == (2, 3, [], False)


def test_first_search_after_a_merge_encodes_its_query_only(
    run: Runner, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sentences(monkeypatch)
    add_speech(sources)
    assert run("merge", *sources, "--index", tmp_path / "all")[0] == 0
    encoded: list[str] = []

    class NotingEncoder(ColourEncoder):
        def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
            encoded.extend(texts)
            return super().encode_text(texts)

    class NotingSentences(FakeSentences):
        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "text dim"]:
            encoded.extend(texts)
            return super().encode(texts)

    for module in (planning, channel):
        monkeypatch.setattr(module, "load_sentence_encoder", NotingSentences)
    with Engine(tmp_path / "all", NotingEncoder()) as engine:
        (hit,) = engine.search("blue", 1)
    assert Path(hit.path).name == "blue.mp4"
    assert set(encoded) == {"blue"}, "of pictures, and of words"


def test_merged_index_is_prepared_as_by_a_run(
    run: Runner, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_sentences(monkeypatch)
    add_speech(sources)
    run("merge", *sources, "--index", tmp_path / "all")
    prepared = read_preparation(tmp_path / "all")
    with Engine(tmp_path / "all", ColourEncoder()) as engine:
        engine.index([])
    assert read_preparation(tmp_path / "all") == prepared
    assert prepared[1] == 3, "segments of both"
    assert prepared[2], "the background of words"


def read_preparation(index: Path) -> tuple[object, int, bool]:
    with Store.open(index) as store, TextStore.open(index) as texts:
        stored = json.loads(str(store.metadata.get("scale.none")))
        return stored["scale"], stored["segments"], is_background_current(texts)


def test_merge_without_the_encoder_says_what_the_first_search_does(
    run: Runner, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise EncoderError("no such file")

    monkeypatch.setattr(vidret.engine, "load_encoder", refuse)
    code, _, err = run("merge", *sources, "--index", tmp_path / "all")
    assert code == 0
    assert "2 videos copied" in err
    assert "its first search measures what unrelated queries score: no such file" in err


def test_damage_is_reported_with_what_to_do(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    path = sources[0] / "features" / "frames.f16"
    path.write_bytes(bytes(8) + path.read_bytes()[8:])
    code, _, err = run("merge", *sources, "--index", tmp_path / "all")
    assert code == 0
    assert "red.mp4: " in err
    assert "are damaged (checksum)" in err
    assert f"To encode again what was not copied: vidret index PATH... --index {tmp_path / 'all'}" in err
    assert "1 encoded" in run("index", tmp_path / "a", "--index", tmp_path / "all")[2]


def test_interrupted_merge_continues(
    run: Runner, sources: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging.Merge, "_write_paths", interrupt)
        code, _, err = run("merge", *sources, "--index", tmp_path / "all")
    assert code == 1
    assert "Interrupted" in err
    assert "run the same command again" in err
    assert "2 already present" in run("merge", *sources, "--index", tmp_path / "all")[2]


def test_wrong_use_is_refused(run: Runner, sources: tuple[Path, Path], tmp_path: Path) -> None:
    assert run("merge", "--index", tmp_path / "all")[0] == 2
    run.check_refusal(("merge", *sources, "--index", sources[0]), 1, "out must not be one of the indexes")
    assert not (tmp_path / "all").exists()
