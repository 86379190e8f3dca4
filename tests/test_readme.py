"""The README's Python sample runs, and what the README and docs/ name exists: commands, options, files and pages."""

import contextlib
import functools
import io
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.runner import load_commands
from vidret.cli.commands.demo import sample_videos
from vidret.cli.commands.train import head_app
from vidret.data.benchmarks.captions import read_captions
from vidret.data.benchmarks.moments import read_labelled
from vidret.data.benchmarks.registry import DATASETS, RECIPES
from vidret.encode.clip.weights import SOURCES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
SCREEN_AND_A_HALF = 100  # lines of the README
NOT_COMMANDS = {"--version", "--install-completion", "--help", "--log-level", "COMMAND"}


list_commands = functools.cache(load_commands)  # builds every command: half a second


def read(page: Path) -> str:
    return page.read_text("utf-8")


def find_commands(text: str) -> list[str]:
    """Return the lines of blocks that begin with vidret, and what is marked as a command in text."""
    text = text.replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = re.findall(r"(?:^\$? ?|&& )(vidret [^\n]*)", blocks, re.MULTILINE)
    return lines + [" ".join(command.split()) for command in re.findall(r"`(vidret [^`]*)`", outside)]


def check_command(line: str) -> None:
    words = shlex.split(line.replace("\\|", "|").replace("[", "").replace("]", ""), comments=True)[1:]
    if words[0] in NOT_COMMANDS:
        return
    commands = list_commands()
    assert words[0] in commands, line
    command: Any = commands[words[0]]
    words = words[1:]
    while hasattr(command, "commands") and words and words[0] != "..." and not words[0].startswith("--"):
        assert words[0] in command.commands, line
        command, words = command.commands[words[0]], words[1:]
    if line.startswith("vidret train") and words[:1] != ["head"]:
        return  # options are those of Lightning and of the configuration
    if words[:1] == ["head"]:  # of vidret train, which hands its options on
        command, words = typer.main.get_command(head_app), words[1:]
    known_options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    for name in (word.split("=")[0] for word in words if word.startswith("--")):
        assert name in known_options, f"{name} of {line}"
    check_values(dict(zip(words, [*words[1:], ""], strict=False)), line)


def check_values(options: dict[str, str], line: str) -> None:
    data = options.get("--data")
    names = {name: [name, *(f"{name}-{split}" for split in dataset.splits)] for name, dataset in DATASETS.items()}
    assert data in (None, "my-folder", "queries") or any(data in accepted for accepted in names.values()), line
    if data and "--calibrate" in options:
        assert options["--calibrate"] in DATASETS[data].splits, line
    if not re.match(r"[\d.]+$|METHOD$", source := options.get("--from", "r2tuning")):
        assert source in (*SOURCES, "r2tuning", "universalvtg", "videoprism", "vidret"), line
    assert options.get("--recipe", "tvsum") in RECIPES, line


def find_anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_sample_runs_and_finds_the_right_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = re.findall(r"```python\n(.*?)```", read(README), re.DOTALL)
    assert len(samples) == 1
    assert len(samples[0].strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(sample_videos(), target_is_directory=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(samples[0], str(README), "exec"), {})
    lines = printed.getvalue().splitlines()
    assert lines[0] == "4 videos, 0 failed"
    assert "bikes.mp4" in lines[1]
    assert "bigbuckbunny.mp4" in lines[4]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    text = read(page)
    for line in find_commands(text):
        check_command(line)
    for name in re.findall(r"^(vidret/\w+/)", text, re.MULTILINE):
        assert (ROOT / name / "__init__.py").is_file(), name
    for name in re.findall(r"`((?:vidret|tools|examples|configs)/[\w/]+\.\w+)`", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (ROOT / "tools" / name).is_file(), name
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        linked = (page.parent / target).resolve() if target else page
        assert linked.is_file(), target
        assert not anchor or anchor in find_anchors(read(linked)), anchor


def test_every_command_is_in_the_reference_and_every_page_in_the_site() -> None:
    described = {line.split()[1] for line in find_commands(read(ROOT / "docs/commands.md"))}
    assert set(list_commands()) <= described
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert [page for page in PAGES[1:] if f": {page.relative_to(ROOT / 'docs').as_posix()}\n" not in site] == []


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= SCREEN_AND_A_HALF


def test_the_rows_of_the_evaluation_guide_can_be_read(tmp_path: Path) -> None:
    rows = re.findall(r"^\{.*\}$", read(ROOT / "docs" / "guides" / "evaluation.md"), re.MULTILINE)
    for name, reader, num_rows in (("captions", read_captions, 3), ("moments", read_labelled, 1)):
        key = {"captions": '"video"', "moments": '"vid"'}[name]
        (tmp_path / name).write_text("\n".join(row for row in rows if key in row))
        split = reader(name, tmp_path / name)
        assert len(split.captions or split.queries) == num_rows


def test_installing_says_what_takes_minutes_and_compiles_it() -> None:
    """Of ``make demo``; pip speaks, and so does the step after it."""
    command = ["make", "--dry-run", "--always-make", ".venv/demo"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.splitlines()
    pip = next(line_index for line_index, line in enumerate(lines) if "-m pip install" in line)
    assert "Installing vidret[cpu,starter,demo,words] into .venv" in lines[pip - 1]
    assert "quiet" not in lines[pip]
    assert "-m compileall" in lines[pip + 2]
