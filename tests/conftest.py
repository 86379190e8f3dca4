"""What holds in every test: one thread, no network, no words, checked shapes, decoding processes that are reused.

Tests of words ask for words. Without a browser there is a loud skip. Temporary files are in memory where it has room.
"""

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.temporary import make_temporary_folder

os.environ["TMPDIR"] = make_temporary_folder()
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that tests start would compile vidret again
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["VIDRET_WORDS"] = "off"
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="vidret-state-")  # not that of who runs the tests
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="vidret-cache-")

import pytest
from hypothesis import settings

from tests.shapes import install, test

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32

    from vidret.encode.sentences import SentenceEncoder

sys.dont_write_bytecode = False
gc.disable()  # until everything is collected: half of that time would go to looking for garbage among imports
install()  # before vidret is imported, which nothing does at the top of this file
settings.register_profile("vidret", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("vidret")


def pytest_configure(config: pytest.Config) -> None:
    """Use one thread where tests run; the process that hands them out to others starts them sooner without torch."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        import torch

        torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Check shapes, except in the tests marked ``wrong_shapes`` or ``compiles``."""
    test.begin(is_checked={"wrong_shapes", "compiles"}.isdisjoint(item.keywords))
    return (yield)


@pytest.fixture(scope="session", autouse=True)
def state() -> Iterator[None]:
    """Remove what the tests have allowed indexes to use, and the vectors of texts."""
    folders = [os.environ["XDG_STATE_HOME"], os.environ["XDG_CACHE_HOME"]]
    yield
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture(scope="session", autouse=True)
def spare_processes() -> Iterator[None]:
    """Keep decoding processes from test to test; ``fresh_processes`` is for tests of the processes themselves."""
    from tests.decoders import SpareProcess, use_processes
    from tests.forking import ForkedPopen

    with use_processes(SpareProcess, ForkedPopen):
        yield
    SpareProcess.end_spare()


@pytest.fixture(scope="session", autouse=True)
def sentence_vectors() -> Iterator[None]:
    """Encode equal lists of sentences once: every new index with words encodes the same ones, for a second."""
    from vidret.encode.sentences import SentenceEncoder

    encode, cache = SentenceEncoder.encode, dict[tuple[str, ...], "np.ndarray"]()

    def remember(encoder: "SentenceEncoder", texts: Sequence[str]) -> 'Float32[np.ndarray, "text dim"]':
        if (key := tuple(texts)) not in cache:
            cache[key] = encode(encoder, texts)
        return cache[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SentenceEncoder, "encode", remember)
        yield


@pytest.fixture(scope="module")
def fresh_processes() -> Iterator[None]:
    """Start and end decoding processes with their pools, as outside of tests."""
    import subprocess

    from tests.decoders import use_processes
    from vidret.video.workers.process import Process

    with use_processes(Process, subprocess.Popen):
        yield


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """Return the path of ffmpeg; skip what needs one where there is none."""
    from vidret.errors import VidretError
    from vidret.present.ffmpeg import find_ffmpeg

    try:
        return find_ffmpeg()
    except VidretError:
        pytest.skip("needs ffmpeg: the machine's, or the package imageio-ffmpeg")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip the tests marked ``browser`` where there is none, unless one is required."""
    from tests.browser import HOW_TO_INSTALL, find_browser, is_required

    marked = [item for item in items if "browser" in item.keywords]
    if not marked or find_browser() is not None:
        return
    if is_required():
        raise pytest.UsageError(f"VIDRET_REQUIRE_BROWSER is set, but there is no browser: {HOW_TO_INSTALL}")
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="there is no browser"))


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among what was imported."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """End with one line about the tests that were skipped because there is no browser."""
    reports = terminalreporter.stats.get("skipped", [])
    # A whole module that is skipped leaves a report of the collection, which has no keywords.
    skipped = [report for report in reports if "browser" in getattr(report, "keywords", ())]
    if skipped:
        from tests.browser import HOW_TO_INSTALL

        terminalreporter.write_line(
            f"NOT TESTED: the page of vidret serve ({len(skipped)} tests), for want of a browser: {HOW_TO_INSTALL}.",
            red=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the films ``red``, ``blue`` and ``both``, and their index, which no test changes."""
    from tests.fakes import write_coloured

    return write_coloured(tmp_path_factory.mktemp("coloured"))


@pytest.fixture(scope="session")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of three films, which must not be changed."""
    from tests.fakes import write_mosaics

    return write_mosaics(tmp_path_factory.mktemp("mosaics"), (3, 6, 9))


@pytest.fixture(scope="session")
def indexed_mosaics(mosaics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of ``mosaics``, which must not be changed; ``index`` is a copy that a test may change."""
    from tests.fakes import PatchEncoder
    from vidret.engine import Engine

    index = tmp_path_factory.mktemp("indexed") / "index"
    Engine(index, PatchEncoder(), rerank="ucofia").index([mosaics], shots=False)
    return index


@pytest.fixture
def index(indexed_mosaics: Path, tmp_path: Path) -> Path:
    return shutil.copytree(indexed_mosaics, tmp_path / "index")
