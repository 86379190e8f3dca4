"""Fixtures of the command line tests: a runner, films and indexes."""

import shutil
from pathlib import Path

import pytest

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder, PatchEncoder, write_film
from tests.grounded import make_encoder, write_head, write_numbers
from vidret.cli import options as default_index
from vidret.engine import Engine


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    monkeypatch.setattr(default_index, "find_own_index", lambda: Path("own-index"))  # not that of who runs the tests
    for name in ("VIDRET_LLM", "VIDRET_LLM_MODEL", "VIDRET_LLM_KEY"):
        monkeypatch.delenv(name, raising=False)
    return Runner(monkeypatch, capsys)


@pytest.fixture
def real_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Return a runner whose commands load the models that are named, and look in a new index."""
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "index"))
    return Runner(monkeypatch, capsys)


def write_films(folder: Path) -> Path:
    write_film(folder / "red.mp4", ("red", 3), ("black", 3))
    write_film(folder / "blue.mp4", ("blue", 3))
    (folder / "bad.mp4").write_text("no video")
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with films and their index, which no test changes."""
    folder = tmp_path_factory.mktemp("shared")
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([write_films(folder / "films")])
    return folder


@pytest.fixture
def films(shared: Path) -> Path:
    return shared / "films"


@pytest.fixture
def index(run: Runner, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an index of the films, which a test may change, and in which commands look by default."""
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "index"))
    return shutil.copytree(shared / "index", tmp_path / "index")


@pytest.fixture
def own_films(tmp_path: Path) -> Path:
    """Return films that a test may change."""
    return write_films(tmp_path / "films")


@pytest.fixture
def own_index(run: Runner, own_films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an index of films that a test may change, in which commands look by default."""
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "index"))
    run.out("index", own_films)
    return tmp_path / "index"


@pytest.fixture
def encoder(run: Runner, monkeypatch: pytest.MonkeyPatch) -> PatchEncoder:
    """Make every command load an encoder with patch tokens."""
    encoder = PatchEncoder()
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: encoder)
    return encoder


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index prepared for UCoFiA, beside the folder films; ``patched`` is a copy that a test may change."""
    folder = tmp_path_factory.mktemp("indexed")
    with Engine(folder / "index", PatchEncoder(), rerank="ucofia") as engine:
        engine.index([write_films(folder / "films")])
    return folder / "index"


@pytest.fixture
def patched(indexed: Path, encoder: PatchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "patched"))
    return shutil.copytree(indexed, tmp_path / "patched")


@pytest.fixture(scope="module")
def grounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with films, a head for a tiny CLIP, and an index prepared for it."""
    folder = tmp_path_factory.mktemp("grounded")
    write_numbers(folder / "films" / "first.mp4", range(16))
    write_numbers(folder / "films" / "second.mp4", range(100, 130))
    head = write_head(folder / "head.safetensors")
    with Engine(folder / "index", make_encoder(), head=head) as engine:
        engine.index([folder / "films"])
        engine.prepare_moments()
    return folder


@pytest.fixture
def run_grounded(run: Runner, grounded: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: make_encoder())
    monkeypatch.setenv("VIDRET_INDEX", str(grounded / "index"))
    return run
