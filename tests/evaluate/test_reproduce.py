"""docs/reproduce.md: every command exists, with valid options and names."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from vidret.cli.app import load_commands
from vidret.cli.train_head import head_app
from vidret.data.benchmarks.registry import DATASETS, RECIPES
from vidret.encode.weights import SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
TEXT = PAGE.read_text("utf-8").replace("\\\n", " ")
COMMANDS = re.findall(r"^vidret .*$", TEXT, re.MULTILINE) + re.findall(r"`(vidret [^`]*--[^`]*)`", TEXT)


@pytest.mark.parametrize("line", COMMANDS)
def test_documented_command_is_valid(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: Any = load_commands()[words[0]]
    words = words[1:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    if words[:1] == ["head"]:  # of vidret train, which hands its options on
        command, words = typer.main.get_command(head_app), words[1:]
    known = {name for each in command.params for name in each.opts}
    options = dict(zip(words, [*words[1:], ""], strict=True))
    for name in (word for word in words if word.startswith("--")):
        assert name in known, f"{name} of {line}"
    if "--data" in options:
        assert any(
            options["--data"] in (name, f"{name}-{split}") for name, each in DATASETS.items() for split in each.splits
        )
    if "--calibrate" in options:
        assert options["--calibrate"] in DATASETS[options["--data"]].splits
    assert options.get("--from", "r2tuning") in (*SOURCES, "r2tuning")
    assert options.get("--recipe", "tvsum") in RECIPES


def test_page_covers_each_method_and_marks_unverified_results() -> None:
    assert len(COMMANDS) > 12
    for source in (*SOURCES, "r2tuning"):
        assert f"--from {source}" in TEXT
    assert TEXT.count("unverified") >= 6
