"""The default bank: what it holds, whom it is for, and that a run applies it until it is taken back."""

from pathlib import Path

import pytest

from tests.fakes import PatchEncoder, write_film
from vidret.channels.picture.calibration import load_calibration
from vidret.channels.picture.query_bank import LEVELS, NAME, SENTENCES, choose_bank
from vidret.encode.names import STARTER
from vidret.engine import Engine


def test_the_bank_is_for_what_it_was_measured_with() -> None:
    assert len(SENTENCES) == len({sentence.casefold() for sentence in SENTENCES}) > 300
    assert all(3 <= len(sentence.split()) <= 12 for sentence in SENTENCES)
    assert choose_bank(STARTER, "ucofia") == choose_bank(f"{STARTER}#whole", "ucofia")
    assert choose_bank(STARTER, "none") is None
    assert choose_bank("ViT-B-32/openai", "ucofia") is None


def test_a_run_calibrates_a_starter_index_until_that_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, films = PatchEncoder(), tmp_path / "films"
    monkeypatch.setattr(encoder, "name", STARTER)
    write_film(films / "a.mp4", ("red", 2))
    with Engine(tmp_path / "index", encoder) as engine:

        def find() -> tuple[str, int, list[str]] | None:
            engine.index([films])
            found = load_calibration(engine._index.store, engine.ranker)
            return None if found is None else (found.bank, len(found.ids), list(found.potentials))

        assert find() == (NAME, 1, list(LEVELS))
        write_film(films / "b.mp4", ("blue", 2))
        assert find() == (NAME, 2, list(LEVELS))
        monkeypatch.setattr("vidret.search.preparation.calibrate_with_bank", lambda *_: None)  # as if interrupted
        write_film(films / "late.mp4", ("white", 2))
        engine.index([films])
        engine.search("a dog")
        assert "calibrat" not in caplog.text, "nobody asked for a calibration"
        monkeypatch.undo()
        monkeypatch.setattr(encoder, "name", STARTER)
        engine.forget_calibration()
        write_film(films / "c.mp4", ("green", 2))
        assert find() is None
        engine.calibrate(["a dog"])
        assert find() == ("bank", 4, list(engine.ranker.weights))
