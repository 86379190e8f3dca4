"""tools/check_gpu.py: every path agrees with itself; one that differs, crashes or is missing costs its row alone."""

import io
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tool_loading import load_tool
from vidret.video import reader

tool = load_tool("check_gpu")
TWO_PROCESSES = ("train in two processes, gloo",)  # each imports all that training needs


@pytest.fixture
def setup(tmp_path: Path) -> Any:
    return tool.Setup("cpu", tmp_path, tiny=True)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow if path in TWO_PROCESSES else ())
        for path in tool.PATHS
        if path not in ("decode, real videos", "train in a process a card, nccl")
    ],
)
def test_a_path_agrees_with_itself(setup: Any, path: str) -> None:
    try:
        outcome = tool.PATHS[path](setup)
    except tool.NotHereError as error:
        assert "torchcodec" in path
        pytest.skip(str(error))
    assert outcome.difference <= 1e-5
    assert outcome.is_same
    assert outcome.cpu_s > 0
    assert outcome.device_s > 0


def test_real_videos_are_decoded_where_they_are_given(setup: Any) -> None:
    outcome = tool.PATHS["decode, real videos"](replace(setup, videos=tool.write_videos(setup)))
    assert (outcome.difference, outcome.note) == (0, "2 videos")
    row = tool.run_path("decode, real videos", "cpu", setup.scratch, [], tiny=True)
    assert (row.verdict, row.reason) == ("not run", "no folder of videos was given")


@pytest.mark.parametrize(
    ("path", "device", "reason"),
    [
        ("decode, made videos", "cuda:0", "decoding on cuda:0: "),
        ("decode, made videos", "mps", "decoding on mps: no decoder for it"),
        ("decode and resize, torchcodec", "cuda:0", "decoding on cuda:0: "),
        ("FAISS, flat", "cuda:0", "FAISS on cuda:0: this build has no GPU code, or sees no such GPU"),
        ("train in a process a card, nccl", "cpu", "nccl is for CUDA"),
        ("train in two processes, gloo", "mps", "gloo gathers on CPUs and CUDA"),
    ],
)
def test_what_this_machine_lacks_is_listed(tmp_path: Path, path: str, device: str, reason: str) -> None:
    row = tool.run_path(path, device, tmp_path, [], tiny=True)
    assert row.verdict == "not run"
    assert row.reason.startswith(reason)


def test_frames_of_a_neighbour_are_found_out(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_reader = list[Any](), reader.open_reader

    def open_late(info: Any, **settings: Any) -> Any:
        opened.append(open_reader(info, **settings))
        if len(opened) == 2:  # the device's
            read = opened[1].read
            opened[1].read = lambda chosen: read(chosen + 1)
        return opened[-1]

    monkeypatch.setattr(reader, "open_reader", open_late)
    outcome = tool.check_decoding(setup, tool.write_videos(setup)[:1])
    assert outcome.difference == 255
    assert not outcome.is_same


def test_a_wrong_gradient_and_a_nan_differ() -> None:
    assert not tool.Outcome(1.0, 1.0, 0.02, 0.01).is_same
    assert not tool.Outcome(1.0, 1.0, float("nan"), 0.01).is_same


def test_a_path_that_fails_or_crashes_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(tool, "PATHS", {"a": fail})
    row = tool.run_path("a", "cpu", tmp_path, [], tiny=True)
    assert (row.verdict, row.reason) == ("FAILED", "RuntimeError: out of memory")
    row = tool.run_apart("b", [sys.executable, "-c", "import os; os.abort()"])
    assert (row.path, row.verdict) == ("b", "FAILED")
    assert row.reason.startswith("the process ended with signal 6")
    row = tool.run_apart("c", [sys.executable, "-c", "import time; time.sleep(60)"], 0.2)
    assert (row.verdict, row.reason) == ("FAILED", "no end after 0.2 s")


@pytest.mark.parametrize(("verdict", "status"), [("same", 0), ("not run", 0), ("DIFFERS", 1), ("FAILED", 1)])
def test_the_page_has_the_machine_and_every_path_and_the_status_says_whether_all_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, verdict: str, status: int
) -> None:
    rows = {"a": tool.Row("a", "same", "2 videos", 2.0, 0.5, 1e-6, 0.01)}
    rows["b"] = tool.Row("b", verdict, f"no file {Path.home()}/a|b")
    monkeypatch.setattr(tool, "PATHS", rows)
    monkeypatch.setattr(tool, "run_apart", lambda name, _command: rows[name])
    assert tool.main(["--device", "cpu", "--page", str(tmp_path / "page.md")]) == status
    page = (tmp_path / "page.md").read_text()
    assert page == capsys.readouterr().out
    assert "- device: cpu\n- card: none\n" in page
    assert f"- torch: {metadata.version('torch')}\n" in page
    assert page.splitlines()[-2:] == [
        "| a | 2 | 0.5 | 1e-06 | 0.01 | same | 2 videos |",
        f"| b |  |  |  |  | {verdict} | no file HOME/a/b |",
    ]


@pytest.mark.parametrize("is_apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_path_runs_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_apart: bool
) -> None:
    def run_here(command: list[str], **_: Any) -> "subprocess.CompletedProcess[str]":
        assert command[:2] == [sys.executable, tool.__file__]
        with redirect_stdout(io.StringIO()) as out:
            return subprocess.CompletedProcess(command, tool.main(command[2:]), out.getvalue(), "")

    if not is_apart:
        monkeypatch.setattr(tool.subprocess, "run", run_here)
    assert tool.main(["--device", "cpu", "--tiny", "--only", "flat, filtered"]) == 0
    shown = capsys.readouterr().out
    assert "FAISS, flat, filtered" in shown
    assert "same" in shown


@pytest.mark.gpu
def test_every_path_agrees_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    assert tool.main(["--device", "cuda", "--tiny"]) == 0
