"""Words on Ray: read in the same pass, equal to those of a run on threads, and resumed."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.encode.hf_models import save_tiny_text_model
from tests.index.ray.conftest import PATIENCE, Nodes, call_after, on_ray, open_engine
from tests.index.samples import read_contents
from tests.word_films import SUBTITLES, shown, write_worded
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.run import ContentWords
from vidret.store.texts.store import TextStore
from vidret.types import TimedText


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a long film of shown words, two short ones, silence, and subtitles inside and beside."""
    folder = tmp_path_factory.mktemp("films")
    scenes = [(text, 5.0) for text in ("lighthouse", "", "railway bridge", "", "harbour", "", "orchard", "")]
    write_worded(folder / "long.mkv", *scenes, silence=True, subtitles=SUBTITLES)
    write_worded(folder / "market.mp4", ("market", 3.0), salt=1)
    write_worded(folder / "quiet.mp4", ("", 2.0), salt=2)
    (folder / "market.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGood morning.\n")
    return folder


def read_words(index: Path) -> dict[str, tuple[bool, str, list[TimedText], bytes]]:
    """Return the tracks of an index: whether they are complete, their notes, texts and vectors."""
    tracks = {}
    with TextStore.open(index) as store:
        for track in store.tracks():
            texts = store.transcript(track)
            vectors = store.store.features.intact_vectors(np.array([text.id for text in texts], np.int64))[1].tobytes()
            key = f"{track.fingerprint} {track.source} {track.model}"
            tracks[key] = track.complete, track.note, [text.text for text in texts], vectors
    return tracks


@pytest.fixture(scope="module")
def whole(films: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of the films and their words that was made on threads."""
    index = tmp_path_factory.mktemp("whole") / "index"
    report = open_engine(index, model).index([films], words=True)
    assert report.texts == {"screen": 5, "speech": 0, "subtitles": 3, "sound": 1}
    return index


def test_words_of_two_nodes_equal_those_of_threads(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path
) -> None:
    report = open_engine(tmp_path / "index", model).index([films], words=True, run=on_ray(nodes))
    assert (report.encoded, report.failed) == (3, [])
    assert report.texts == {"screen": 5, "speech": 0, "subtitles": 3, "sound": 1}
    assert read_words(tmp_path / "index") == read_words(whole)
    assert read_contents(tmp_path / "index") == read_contents(whole)
    assert open_engine(tmp_path / "index", model).index([films], run=on_ray(nodes)).texts == {}


def test_workers_use_the_sentence_model_of_the_index(nodes: Nodes, films: Path, model: Path, tmp_path: Path) -> None:
    named = WordsOptions(sources=("subtitles",), sentence_model=str(save_tiny_text_model(tmp_path / "sentences")))
    open_engine(tmp_path / "threads", model).index([films], words=named)
    open_engine(tmp_path / "index", model).index([films], words=named, run=on_ray(nodes))
    with TextStore.open(tmp_path / "index") as texts:
        assert (texts.store.encoder_name, texts.store.dim) == (f"st:{named.sentence_model}", 16)
    assert read_words(tmp_path / "index") == read_words(tmp_path / "threads")


def test_words_are_added_on_ray_without_encoding_again(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path
) -> None:
    open_engine(tmp_path / "index", model).index([films], words=False)
    assert not TextStore.exists(tmp_path / "index")
    report = open_engine(tmp_path / "index", model).index([films], words=True, run=on_ray(nodes))
    assert (report.unchanged, report.encoded, report.num_segments) == (3, 0, 0)
    assert report.texts == {"screen": 5, "speech": 0, "subtitles": 3, "sound": 1}
    assert read_words(tmp_path / "index") == read_words(whole)


def test_lost_node_loses_no_words(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_after(monkeypatch, ContentWords, "add", 1, nodes.lose_one)
    report = open_engine(tmp_path / "index", model).index([films], words=True, run=on_ray(nodes))
    assert (report.encoded, report.failed) == (3, [])
    assert read_words(tmp_path / "index") == read_words(whole)
    assert read_contents(tmp_path / "index") == read_contents(whole)


# Index on a local Ray, and die after some messages of words were stored. Arguments: index, films, model, messages.
SCRIPT = """
import os, signal, sys
from functools import partial
from vidret.engine import Engine
from vidret.index.ray.run import index_on_ray
from vidret.channels.texts.run import ContentWords
index, films, model, after = sys.argv[1:]
add, calls = ContentWords.add, []
def add_and_die(self, message, vectors=None):
    add(self, message, vectors)
    calls.extend(message.texts)
    if len(calls) >= int(after):
        os.kill(os.getpid(), signal.SIGKILL)
ContentWords.add = add_and_die
engine = Engine.open(index, encoder=model, device="cpu", precision="fp32")
engine.index([films], words=True, run=partial(index_on_ray, precision="fp32"))
"""


def test_words_of_a_killed_driver_are_resumed(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIDRET_WORDS")  # the index goes on as it began
    index = tmp_path / "index"
    command = [sys.executable, "-c", SCRIPT, str(index), str(films / "long.mkv"), str(model), "2"]
    ended = subprocess.run(command, start_new_session=True, check=False, timeout=PATIENCE)
    assert ended.returncode == -signal.SIGKILL
    [(key, (is_complete, _, texts, _))] = [item for item in read_words(index).items() if " screen " in item[0]]
    assert not is_complete
    assert shown(texts) == ["lighthouse", "railwaybridge"]
    assert texts == read_words(whole)[key][2][:2]
    assert open_engine(index, model).index([films], run=on_ray(nodes)).texts["screen"] == 3, "two of five were stored"
    assert read_words(index) == read_words(whole)
    assert read_contents(index) == read_contents(whole)
