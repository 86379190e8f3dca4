"""tools/pipeline.py: what is done is not done again, what fails is said, and intervals are Student's."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tool_loading import load_tool


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
