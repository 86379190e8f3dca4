"""A small benchmark and one evaluation of it, shared by all tests since making them takes long."""

from pathlib import Path

import pytest

from tests.evaluate.world import Answer, run, write_rows, write_world

BANK = ("red", "white", "white clouds", "blue and green", "green")


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="package")
def bank(world: Path) -> Path:
    return write_rows(world / "bank.jsonl", ({"query": text} for text in BANK))


@pytest.fixture(scope="package")
def searched(world: Path, bank: Path) -> tuple[Path, Answer]:
    """Evaluate retrieval; return the output folder, whose index other tests use too, and what was printed."""
    out = world / "searched"
    answer = run("eval", "retrieval", "--videos", world, "--calibrate", bank, "--out", out, "--html", "--workers", 1)
    assert answer.code == 0, answer.err
    return out, answer


@pytest.fixture(scope="package")
def located(world: Path, searched: tuple[Path, Answer]) -> tuple[Path, Answer]:
    """Evaluate moments with the same index."""
    out = world / "located"
    index = searched[0] / "index"
    answer = run("eval", "moments", "--videos", world, "--index", index, "--corpus", "--html", "--out", out)
    assert answer.code == 0, answer.err
    return out, answer
