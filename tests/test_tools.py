"""The scripts under tools/: their indexes are as said, and they measure what they say."""

import json
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.tool_loading import load_tool
from vidret.channels.picture.ranker_loading import load_ranker
from vidret.store.records import RANKER
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import Filters, TextEmbedding


def test_a_searched_index_has_filters_that_keep_a_half_and_a_thousandth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_tool("made_index")
    index, rng = tmp_path / "index", np.random.default_rng(0)
    made.make_pictures(index, 2000, lambda num, _: rng.standard_normal((num, 8)).astype(np.float32), 8, per_video=2)
    folders = [str(made.find_files(index) / name) for name in ("even", "even/0")]
    with Store.open(index) as store:
        assert [store.snapshot().count_videos(Filters(folder=folder)) for folder in folders] == [500, 1]
        commits = made.commit_segments(index, 0.0)
        assert [next(commits), next(commits), len(store)] == [0, 1, 2002]
        commits.close()
    monkeypatch.setattr(made, "SENTENCES", ["a dog runs", "a car stops"])
    few = tmp_path / "few"
    made.make_pictures(few, 20, lambda num, _: rng.standard_normal((num, 8)).astype(np.float32), 8, per_video=2)
    made.make_texts(few, 15)  # for 10 videos
    with TextStore.open(few) as texts:
        assert len(texts) == 15


def test_alternatives_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, harness, calls = load_tool("bench_scale"), load_tool("harness"), list[tuple[str, str]]()
    asks = {name: partial(lambda name, query: calls.append((name, query)), name) for name in ("old", "new")}
    told = harness.time_in_turn(asks, ["a", "b"], num_warm=1)
    assert calls == [(name, query) for query in ("a", "a", "b") for name in ("old", "new")]
    assert {key for own in told.values() for key in own} == {"p50_ms", "p99_ms", "p50_cpu_ms"}
    monkeypatch.setattr(bench, "ROUNDS", 1)
    assert bench.measure_threads(time.sleep, [0.2]) > 1.2


def test_a_measured_index_is_as_the_starter_makes_one(tmp_path: Path) -> None:
    bench = load_tool("made_index")
    encoder = SimpleNamespace(name="starter", fingerprint="made", dim=16)
    bench.build_index(tmp_path, encoder, 60, 4)
    with Store.open(tmp_path) as store:
        facts, ids = store.info(), store.searchable()
        assert (facts.segments, facts.with_tokens, facts.videos) == (60, 60, 2)
        made = json.loads(str(store.metadata.get(RANKER)))
        ranker = load_ranker(made["name"], encoder, tokens=made["tokens"])
        assert (made["name"], made["fingerprint"]) == ("ucofia", ranker.fingerprint)
        frames, packed = store.features.read_frames(ids), store.features.read_tokens(ids)
    assert {len(rows) for rows, _ in frames} == {4}
    assert len(set(map(len, packed))) == 1
    words = np.eye(1, 16, dtype=np.float32)
    text = TextEmbedding("", words[0], words)
    found = ranker.score([text], packed, [rows.astype(np.float32) for rows, _ in frames])
    assert set(found.scores) == {"segment", "frames", "words"}
    assert all(np.isfinite(level).all() for level in found.scores.values())


@pytest.mark.parametrize(
    ("workers", "capacity", "segments_per_s"),
    [
        ([(1, {"cores": 1.0, "card": 2.0}, 1.0)], {"cores": 1, "card": 1}, 0.5),  # the card is slower
        ([(1, {"cores": 1.0, "card": 0.25}, 1.5)], {"cores": 4, "card": 1}, 1 / 1.5),  # a worker has one segment
        ([(3, {"cores": 1.0, "writer": 0.5}, 1.0)], {"cores": 2, "writer": 0.5}, 1.0),
        ([(1, {"cores": 0.5}, 0.5), (4, {"cores": 1.0}, 1.0)], {"cores": 2}, 3.0),  # the fast one first
    ],
)
def test_a_run_waits_for_the_slowest(workers: list[Any], capacity: dict[str, float], segments_per_s: float) -> None:
    tool = load_tool("model_throughput")
    found = tool.predict(capacity, [tool.Workers(*own) for own in workers])
    assert found.segments_per_s == pytest.approx(segments_per_s)
    assert max(found.utilisation.values()) == pytest.approx(1)


def test_the_peak_of_memory_is_that_during_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    harness, looked = load_tool("harness"), threading.Event()
    seen = iter([10.0, 60.0, 20.0])

    def look() -> float:
        value = next(seen, 5.0)
        if value == 5.0:
            looked.set()
        return value

    monkeypatch.setattr(harness, "sum_memory_mb", look)
    assert harness.find_peak_mb(lambda: looked.wait(30), step_s=0.001) == 60.0


def test_tools_say_what_is_wrong_with_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["build_weights.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        load_tool("build_weights").main()
    assert "python tools/build_weights.py starter [OUT]" in capsys.readouterr().out
    for part in ("clips", "fold"):
        monkeypatch.setattr("sys.argv", ["measure_clips.py", "data", "--only", part])
        with pytest.raises(SystemExit, match="--only must include copies, which makes the corpus"):
            load_tool("measure_clips").main()
    assert not list(tmp_path.iterdir())
