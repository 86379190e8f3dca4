"""The scripts under tools/: their indexes are as said, and they measure what they say."""

import json
import sys
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


def test_an_index_has_filters_of_a_half_and_a_thousandth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_tool("made_index")
    index, rng = tmp_path / "index", np.random.default_rng(0)
    made.make_pictures(index, 2000, lambda num, _: rng.standard_normal((num, 8)).astype(np.float32), 8, per_video=2)
    folders = [str(made.find_files(index) / name) for name in ("even", "even/0")]
    with Store.open(index) as store:
        assert [store.select(Filters(folder=folder)).num_videos for folder in folders] == [500, 1]
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
    timings = harness.time_in_turn(asks, ["a", "b"], num_warm=1)
    assert calls == [(name, query) for query in ("a", "a", "b") for name in ("old", "new")]
    assert {key for times in timings.values() for key in times} == {"p50_ms", "p99_ms", "p50_cpu_ms"}
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
    found = tool.predict(capacity, [tool.Workers(*group) for group in workers])
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


def test_odds_of_phonemes_are_counted_on_the_best_alignments() -> None:
    tool = load_tool("build_phonemes")
    symbols = tool.SYMBOLS
    substitution, gap = 3.5 * np.eye(len(symbols)) - 1.5, np.full(len(symbols), -2.0)
    said, heard = ([symbols.index(symbol) for symbol in text] for text in ("ABCDE", "AXCE"))
    pairs = sorted(tool.align(said, heard, substitution, gap), key=str)
    spelt = {tuple("-" if code is None else symbols[code] for code in pair) for pair in pairs}
    assert spelt == {("A", "A"), ("B", "X"), ("C", "C"), ("D", "-"), ("E", "E")}
    odds = tool.count_odds([("ABCDE", "AXCE"), ("BB", "XX")] * 20)
    a, b, d, x = (symbols.index(symbol) for symbol in "ABDX")
    assert odds["substitution"][a, a] > 0 < odds["substitution"][b, x] == odds["substitution"][x, b]
    assert odds["substitution"][a, x] < 0 > odds["gap"][a]
    assert odds["gap"][d] == odds["gap"].max()


sounds = load_tool("build_sounds")
LARGE = 2 * sounds.MUSIC_BYTES


def write_empty(root: Path, name: str, size: int) -> Path:
    """Write a file of so many zeros."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_folders_tell_music_from_effects(tmp_path: Path) -> None:
    jingle, song = (
        write_empty(tmp_path, "game/Music/jingle.ogg", 5),
        write_empty(tmp_path, "game/Music/song.ogg", LARGE),
    )
    slide, shot = (
        write_empty(tmp_path, "game/sounds/slide.wav", LARGE),
        write_empty(tmp_path, "game/sounds/shot.ogg", 5),
    )
    for neither in ("sounds/rain.ogg", "sounds/menu.opus"):
        write_empty(tmp_path, f"game/{neither}", LARGE)
    write_empty(tmp_path, "game/sounds/voices/hello.ogg", 5)
    assert sounds.find_music(tmp_path, "game") == [jingle, song]
    assert sounds.find_effects(tmp_path, "game") == [shot, slide]


def test_where_no_folder_tells_large_compressed_files_are_music(tmp_path: Path) -> None:
    song, shot = write_empty(tmp_path, "game/song.ogg", LARGE), write_empty(tmp_path, "game/shot.ogg", 5)
    roar = write_empty(tmp_path, "game/roar.wav", LARGE)
    assert sounds.find_music(tmp_path, "game") == [song]
    assert sounds.find_effects(tmp_path, "game") == [roar, shot]


def test_no_package_is_fitted_to_and_measured() -> None:
    packages = {
        split: {*sounds.SPEECH[split], *sounds.MUSIC[split], *sounds.OTHERS[split]}
        for split in ("train", "choose", "test")
    }
    assert not (packages["train"] | packages["choose"] | {*sounds.EFFECTS}) & packages["test"]
    assert not packages["train"] & packages["choose"]


TRACKED = ["vidret/a.py", "vidret/serve/page/main.js", "tests/test_a.py", "pyproject.toml"]
GOOD = ["vidret/a.py", "vidret/serve/page/main.js", "vidret-0.1.dist-info/METADATA"]


def test_wheel_has_the_files_of_the_package_and_no_others() -> None:
    check = load_tool("check_package").check_files
    assert check(GOOD, TRACKED) == []
    assert check(GOOD[:1] + GOOD[2:], TRACKED) == ["the wheel lacks vidret/serve/page/main.js"]
    assert check([*GOOD, "tests/test_a.py", "vidret/old.py"], TRACKED) == [
        "the wheel has tests/test_a.py",
        "the wheel has vidret/old.py",
    ]


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_tool("pipeline")


def append(tool: Any, name: str, output: Path, code: int = 0, needs: Path | None = None) -> Any:
    script = f"open({str(output)!r}, 'a').write('x'); print('why'); raise SystemExit({code})"
    return tool.Step(name, [sys.executable, "-c", script], output, needs=needs)


def test_a_step_that_is_done_is_skipped_until_its_command_changes(tool: Any, tmp_path: Path) -> None:
    output, logs = tmp_path / "made", tmp_path / "logs"
    for _ in range(2):
        assert tool.run_steps([append(tool, "a", output)], logs) == []
    assert output.read_text() == "x"
    other = append(tool, "a", output)
    other.command.append("changed")
    assert tool.run_steps([other], logs) == []
    assert output.read_text() == "xx"


def test_a_failed_step_is_named_with_its_reason_and_tried_again_and_others_go_on(tool: Any, tmp_path: Path) -> None:
    bad, good, logs = tmp_path / "bad", tmp_path / "good", tmp_path / "logs"
    steps = [
        append(tool, "bad", bad, code=3),
        append(tool, "after", tmp_path / "after", needs=tmp_path / "none"),
        append(tool, "good", good),
    ]
    for times in (1, 2):
        failed = tool.run_steps(steps, logs)
        assert [line.split(":")[0] for line in failed] == ["bad", "after"]
        assert "why" in failed[0]
        assert bad.read_text() == "x" * times
    assert good.read_text() == "x"
    assert not (tmp_path / "after").exists()


def test_methods_train_in_equal_shares_of_the_time_and_a_resumed_run_keeps_its_plan(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"clip": 1.0, "tempme": 0.5}
    monkeypatch.setattr(tool, "time_step", lambda path: seconds.get(path.stem.removeprefix("synthetic_"), 2.0))
    steps = tool.count_steps(tmp_path, 40.0, (0, 1))
    share_s = (0.7 * 40 * 60 / 2 / (5 + 1 / 3) - tool.START_S) / tool.OVERHEAD
    assert steps == {"clip": int(share_s), "tempme": int(2 * share_s)} | dict.fromkeys(
        ("promptswitch", "ucofia", "joint"), int(share_s / 2)
    )
    monkeypatch.setattr(tool, "time_step", lambda path: 100.0)
    assert tool.count_steps(tmp_path, 40.0, (0, 1)) == steps
    with pytest.raises(SystemExit, match=r"must have been begun with .*20\.0.*, got .*40\.0.*: choose another folder"):
        tool.count_steps(tmp_path, 20.0, (0, 1))
    assert set(tool.count_steps(tmp_path / "other", 20.0, (0, 1)).values()) == {4}


@pytest.mark.parametrize("method", ["ucofia", "joint"])
def test_a_step_of_training_is_timed(tool: Any, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "NUM_TIMED", 1)
    text = (tool.CONFIGS / f"synthetic_{method}.yaml").read_text("utf-8")
    small = tmp_path / "small.yaml"
    small.write_text(text.replace("batch_size: 64", "batch_size: 2").replace("align_size: 32", "align_size: 2"))
    assert 0 < tool.time_step(small) < 60


def test_the_interval_is_of_student(tool: Any) -> None:
    values = [60.0, 62.0, 67.0]
    half = 4.302653 * np.std(values, ddof=1) / 3**0.5  # t of 2 degrees of freedom, from a table
    assert tool.describe_mean(values) == f"63.0 ± {half:.1f}"
    assert tool.describe_mean([60.0]) == "60.0"


def test_every_compared_row_has_every_seed_and_outputs_differ(tool: Any, tmp_path: Path) -> None:
    plan = tool.Plan(tmp_path, (0, 1, 2), 0.01)
    steps = list(tool.plan_steps(plan))
    assert len({step.output for step in steps}) == len(steps) == len({step.name for step in steps})
    outputs = {step.output for step in steps}
    for name in (*tool.METHODS, tool.AFTER, *tool.AVERAGED, *map(tool.on_b, tool.AVERAGED), "curve", "head"):
        assert {plan.report(name, seed) for seed in plan.seeds} <= outputs


def test_the_page_shows_what_there_is(tool: Any, tmp_path: Path) -> None:
    plan = tool.Plan(tmp_path, (0, 1), 1.0)
    for seed, recall in enumerate((40.0, 50.0)):
        path = plan.report("clip", seed)
        path.parent.mkdir(parents=True)
        row = {"direction": "t2v", "R@1": recall, "R@5": 80.0, "R@10": 90.0, "MnR": 5.0}
        path.write_text(json.dumps({"results": {"rows": [row]}}))
    page = tool.write_page(plan, ["train joint: <why>"], 1.0).read_text()
    assert "45.0 ± 63.5" in page  # t of 1 degree of freedom is 12.706
    assert "&lt;why&gt;" in page
    assert "joint</td>" not in page
