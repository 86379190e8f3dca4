"""A run over the torture set ends, indexes every sound film, and names every other file with a reason."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import ColourEncoder
from tests.hostile import NUM_FRAMES, HostileFiles, write_hostile_files
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.types import Frames, SegmentEmbedding


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
