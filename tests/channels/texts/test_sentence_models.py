"""Words that are matched by meaning with a model of sentence-transformers: tiny random ones beside the bundled one."""

import importlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.encode.hf_models import save_tiny_text_model
from tests.fakes import ColourEncoder, write_film
from tests.indexed_texts import search_words
from vidret.channels.picture.query_bank import SENTENCES, UNRELATED
from vidret.channels.texts.channel import (
    CLOSENESS_SPREAD,
    HUBNESS,
    MEAN_CLOSENESS,
    UNSCALED,
    fit_scale,
    load_background,
)
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.run import read_options
from vidret.channels.texts.sentence_models import BUNDLED_SPACE, load_model_of, load_sentence_model, read_space
from vidret.encode.families.sentence_transformers import load_text_model
from vidret.encode.families.starter import note_language
from vidret.encode.sentences import load_sentence_encoder
from vidret.engine import Engine
from vidret.errors import EncoderError, MovedError, StoreError, VidretError
from vidret.index.merging import merge_indexes
from vidret.store.texts.store import TextStore
from vidret.types import SearchOptions, TextEmbedding

LINES = ("the harbour is closed tonight", "please water the plants", "seven sheep crossed the road")


@pytest.fixture(autouse=True)
def words_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRET_WORDS", "auto")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model with prompts."""
    return save_tiny_text_model(tmp_path_factory.mktemp("model"), prompts={"query": "ask ", "document": "read "})


def write_subtitled(folder: Path, name: str = "film", shift: int = 0) -> Path:
    """Write a film with subtitles, and return it."""
    film = write_film(folder / f"{name}.mp4", ("red", 9), salt=shift)
    lines = [*LINES[shift:], *LINES[:shift]]
    cues = [f"{i + 1}\n00:00:0{3 * i},000 --> 00:00:0{3 * i + 2},000\n{line}\n" for i, line in enumerate(lines)]
    film.with_suffix(".srt").write_text("\n".join(cues))
    return film


def make_index(folder: Path, model: Path | str = "", name: str = "index", shift: int = 0) -> Path:
    """Index a film with a sentence model, and return the index."""
    film = write_subtitled(folder, name, shift)
    with Engine(folder / name, ColourEncoder()) as engine:
        engine.index([film], words=WordsOptions(sources=("subtitles",), sentence_model=str(model)))
    return folder / name


def list_folders(index: Path) -> list[str]:
    return sorted(path.name for path in index.iterdir() if path.is_dir())


def read_vectors(index: Path) -> dict[str, np.ndarray]:
    with TextStore.open(index) as texts:
        stored = texts.read_segments(texts.store.searchable())
        rows = texts.intact_vectors([stored_text.id for stored_text in stored])
        return {stored_text.text.text: rows[stored_text.id] for stored_text in stored}


def test_words_have_the_vectors_of_the_named_model(model: Path, tmp_path: Path) -> None:
    index = make_index(tmp_path, model)
    library: Any = importlib.import_module("sentence_transformers")
    library_model = library.SentenceTransformer(str(model), device="cpu")
    expected = library_model.encode_document([f'"{line}"' for line in LINES], normalize_embeddings=True)
    vectors = read_vectors(index)
    np.testing.assert_allclose([vectors[line] for line in LINES], expected, atol=2e-3)
    with TextStore.open(index) as texts:
        loaded = load_model_of(texts)
        assert read_space(texts) == (f"st:{model}", loaded.fingerprint, 16)
        background = load_background(texts)
    queries = ["is the port open", ""]
    np.testing.assert_allclose(
        loaded.encode_queries(queries), library_model.encode_query(queries, normalize_embeddings=True), atol=1e-5
    )
    assert loaded.encode([]).shape == (0, 16)
    assert background is not None
    assert background.scale == pytest.approx(
        fit_scale(*(encode([*SENTENCES, *UNRELATED]) for encode in (loaded.encode_queries, loaded.encode))), rel=1e-4
    )
    assert background.scale != UNSCALED
    assert read_options(index) == WordsOptions(sources=("subtitles",)), "the texts know their model"


def test_searches_and_later_runs_go_on_with_the_model_of_the_index(model: Path, tmp_path: Path) -> None:
    index = make_index(tmp_path, model)
    with Engine(index, ColourEncoder()) as engine:
        engine.index([write_subtitled(tmp_path, "second", 1)])
        assert len(read_vectors(index)) == 3
        for line in LINES:
            (first, *_) = engine.search(line, 1, sources=("subtitles",))
            assert first.evidence[0].text == line
    with TextStore.open(index) as texts:
        assert texts.store.dim == 16
        assert len(texts) == 6


def test_pictures_are_searched_without_the_sentence_model(model: Path, tmp_path: Path) -> None:
    gone = shutil.copytree(model, tmp_path / "gone")
    index, pictures = make_index(tmp_path, gone), dict[str, Any](sources=("picture",))
    with Engine(index, ColourEncoder()) as engine:
        expected = engine.search("red", 1, **pictures), engine.locate("red", 1, video="index.mp4", **pictures)
    shutil.rmtree(gone)
    load_text_model.cache_clear()
    with Engine(index, ColourEncoder()) as engine:
        assert engine.locate("red", 1, video="index.mp4", **pictures) == expected[1] != []
        assert engine.search("red", 1, **pictures) == expected[0] != []
        assert engine.search("red -sheep", 1, **pictures) == [], "which is said"
        with pytest.raises(VidretError, match="gone"):
            engine.search("red", 1)


def test_scale_of_the_bundled_model_is_one(tmp_path: Path) -> None:
    """Its numbers stay as they are; those of other models are compared with its own background."""
    vectors = load_sentence_encoder().encode([*SENTENCES, *UNRELATED])
    assert fit_scale(vectors, vectors) == pytest.approx((1.0, 0.0), abs=2e-3)
    index = make_index(tmp_path)
    with TextStore.open(index) as texts:
        background = load_background(texts)
        assert (read_space(texts), texts.store.metadata.get("words")) == (
            BUNDLED_SPACE,
            '{"sources": ["subtitles"], "speech_model": "tiny.en"}',
        )
        assert len(texts.store.metadata.get("background.typical") or b"") == 16 + 4 * 384
    assert background is not None
    assert background.scale is UNSCALED or tuple(background.scale) == (1.0, 0.0)


def test_scale_gives_other_models_the_mean_and_spread_of_the_bundled_one() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 12)) + 3  # of a narrow cone
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    scale, typical, scaled = fit_scale(vectors, vectors), vectors.mean(axis=0), []
    for i, query in enumerate(vectors):
        for j, text in enumerate(vectors):
            if i != j:
                closeness = float(query @ text - query @ typical - HUBNESS * (text @ typical))
                scaled.append(scale.factor * closeness + scale.shift)
    assert (np.mean(scaled), np.std(scaled)) == pytest.approx((MEAN_CLOSENESS, CLOSENESS_SPREAD), rel=1e-3)


def test_what_is_no_model_of_texts_is_refused(model: Path, tmp_path: Path) -> None:
    assert load_sentence_model("all-MiniLM-L6-v2") is load_sentence_encoder()
    for name in ("nothing", str(tmp_path), "org/name"):
        with pytest.raises(EncoderError, match=r"must be st:org/name|must hold the modules|HF_HUB_OFFLINE"):
            make_index(tmp_path / "films", name)
    assert not TextStore.exists(tmp_path / "films" / "index"), "the index can be made with another model"
    make_index(tmp_path / "films", model)


def test_a_model_that_an_index_names_must_be_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(tmp_path, model)
    index = index.rename(tmp_path / "sent by somebody")
    with Engine(index, ColourEncoder()) as engine, pytest.raises(StoreError, match="once, by --sentence-model st:/"):
        engine.search("a harbour")
    monkeypatch.setenv("VIDRET_ALLOW", f"st:{model}")
    with Engine(index, ColourEncoder()) as engine:
        engine.search("a harbour")


def test_indexes_with_different_models_are_not_compared(model: Path, tmp_path: Path) -> None:
    one, two = make_index(tmp_path, model), make_index(tmp_path, name="two", shift=1)
    with Engine([one, two], ColourEncoder()) as engine, pytest.raises(StoreError, match="encoder must be st:"):
        engine.search("a harbour")
    assert any("its words are not copied" in note for note in merge_indexes([one, two], tmp_path / "all").notes)
    with Engine(tmp_path / "all", ColourEncoder()) as engine:
        (hit,) = engine.search(LINES[0], 1, sources=("subtitles",))
    assert hit.evidence[0].text == LINES[0], "and the merged index may use the model that its parts may"


def test_another_model_embeds_stored_words_again(model: Path, tmp_path: Path) -> None:
    index = make_index(tmp_path)
    bundled = WordsOptions(sentence_model="all-MiniLM-L6-v2")
    expected = read_vectors(make_index(tmp_path / "other", model))
    with Engine(index, ColourEncoder()) as engine, Engine(index, ColourEncoder()) as reader:
        before = reader.search(LINES[0], 1, sources=("subtitles",))
        engine.index([], words=WordsOptions(sources=("subtitles",), sentence_model=str(model)))
        vectors = read_vectors(index)
        for line in LINES:
            np.testing.assert_array_equal(vectors[line], expected[line])
            (hit,) = engine.search(line, 1, sources=("subtitles",))
            assert hit.evidence[0].text == line
        with pytest.raises(MovedError):
            reader.search(LINES[0], 1, sources=("subtitles",))
        with TextStore.open(index) as texts:
            assert search_words(index, "harbour") == [LINES[0]]
            assert (texts.store.dim, list_folders(index)) == (16, list_folders(tmp_path / "other" / "index"))
        engine.index([], words=replace(bundled, sources=("subtitles",)))
        assert engine.search(LINES[0], 1, sources=("subtitles",)) == before, "back again, to the same numbers"


class EnglishColours(ColourEncoder):
    """An encoder that notes other languages, as the starter does."""

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        note_language("colours", texts)
        return super().encode_text(texts)


def test_language_is_noted_of_what_the_pictures_encoder_reads(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    query, words = "der Hafen und die Schafe", SearchOptions(sources=("subtitles",))
    with Engine(make_index(tmp_path, model), EnglishColours()) as engine:
        engine.search_with(query, words)
        assert "understands English only" not in caplog.text
        engine.search(query)
        assert "understands English only" in caplog.text
        assert engine.list_search_notes(query, words) == []
    with Engine(make_index(tmp_path / "bundled"), EnglishColours()) as engine:
        assert len(engine.list_search_notes(query, words)) == 1, "the bundled model reads English only as well"
