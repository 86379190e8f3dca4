"""Runs over the torture sets of films and subtitles end, index what is sound, and name the rest with a reason."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import ColourEncoder
from tests.hostile import NUM_FRAMES, HostileFiles, write_hostile_files
from tests.hostile_subtitles import SUBTITLES, write_hostile_subtitles
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.subtitle_files import MAX_CHARACTERS, MAX_PER_SECOND
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.store.texts.upkeep import list_notes
from vidret.types import Frames, SegmentEmbedding, TimedText


class SteadyEncoder(ColourEncoder):
    """Also takes what damage leaves of a picture: plain grey, which has no direction."""

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        reddened = [Frames(frames.pixels | np.array([128, 0, 0], np.uint8), frames.times) for frames in batch]
        return super().encode_frames(reddened, tokens=tokens)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> HostileFiles:
    return write_hostile_files(tmp_path_factory.mktemp("torture") / "files")


def check_run(hostile: HostileFiles, paths: list[str], index: Path) -> None:
    """Index files, and hold what became of each against what may."""
    with Engine(index, SteadyEncoder()) as engine:
        report = engine.index(paths, timeout=20)
        assert not report.interrupted
        reasons = dict(report.failed)
    with Store.open(index) as store:
        states = {record.path: record.state for record in store.files.find()}
        assert store.info().segments < len(paths) * NUM_FRAMES, "a segment needs a frame of its own"
        assert not store.upkeep.verify()
    for path in paths:
        outcome, state = hostile.outcomes[path], states.get(path)
        if outcome == "indexed":
            assert state == "done", f"{path!r}: {state}, {reasons.get(path)}"
        elif outcome == "refused":
            assert reasons.get(path), f"{path!r}: {state}"
        else:
            assert state == "done" or reasons.get(path), f"{path!r}: {state}"
    for path, reason in reasons.items():
        assert not re.search(r"[A-Za-z]+Error|Traceback|NoneType", reason), f"{path!r}: {reason}"


def test_the_torture_set(hostile: HostileFiles, tmp_path: Path) -> None:
    assert len(hostile.outcomes) >= 200
    started = time.monotonic()
    check_run(hostile, sorted(hostile.outcomes), tmp_path / "index")
    assert time.monotonic() - started < 300


pytest.importorskip("charset_normalizer", reason='the extra "words" is not installed')

FILM_S = 2.0


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[TimedText]], dict[str, str]]:
    """Index the set; return the texts and the notes by name."""
    folder = tmp_path_factory.mktemp("torture")
    films = write_hostile_subtitles(folder / "films")
    started = time.monotonic()
    with Engine(folder / "index", ColourEncoder()) as engine:
        report = engine.index([folder / "films"], words=WordsOptions(sources=("subtitles",)), timeout=60)
        assert (report.encoded, report.failed) == (len(films) + 1, [])
        texts = {name: engine.transcript(film) for name, film in films.items()}
    assert time.monotonic() - started < 240
    with Store.open(folder / "index") as store:
        notes = {Path(note.path).stem: note.reason for note in list_notes(store)}
    return texts, notes


@pytest.mark.parametrize("name", SUBTITLES)
def test_hostile_subtitles(name: str, read: tuple[dict[str, list[TimedText]], dict[str, str]]) -> None:
    texts, note, expected = read[0][name], read[1].get(name, ""), SUBTITLES[name]
    if expected.words is not None:
        assert tuple(text.text for text in texts) == expected.words
    assert expected.note in note
    assert len(note) < 2000
    assert not re.search(r"[A-Za-z]+Error|Traceback|NoneType", note), note
    assert len(texts) <= MAX_PER_SECOND * (FILM_S + 1)
    for text in texts:
        assert 0 <= text.start <= text.end <= FILM_S
        assert len(text.text) <= MAX_CHARACTERS
