"""Tests of the help: every command, argument and option is described, and flags show no type."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.runner import Runner, load_commands, run_without
from vidret import cli
from vidret.channels.picture.ranking import AUTO
from vidret.cli.app import COMMANDS, program
from vidret.encode.names import RECOMMENDED
from vidret.store.vectors.registry import STORES
from vidret.types import RERANKERS, SOURCES


def list_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from list_commands(inner, (*path, name))


LOADED = load_commands()
DESCRIBED = [
    ((), typer.main.get_command(program)),
    *(path for name, command in LOADED.items() if name != "train" for path in list_commands(command, (name,))),
]


@pytest.mark.parametrize(("path", "command"), DESCRIBED, ids=[" ".join(path) or "vidret" for path, _ in DESCRIBED])
def test_help_describes_everything(
    path: tuple[str, ...], command: Any, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = run(*path, "--help")
    assert (code, err) == (0, "")
    assert "<bool>" not in out
    headings = re.findall(r"^╭─ ([^─]+) ─", out, re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert command.help.endswith(".")
    for param in command.params:
        assert param.help.endswith("."), param.name
        assert param.metavar is not None or param.is_flag, param.name
        assert param.opts[0] in out or param.metavar in out
        assert not re.search(r"^\[|\.\.\.$", param.metavar or "")  # Typer adds brackets and dots
        assert not re.search(r"\[[a-z]", param.help)  # Rich takes it for a style


def test_commands_are_described_in_the_order_of_their_use(run: Runner) -> None:
    assert list(COMMANDS)[:4] == ["index", "search", "locate", "serve"]
    _, out, _ = run("--help")
    assert [name for name in LOADED if f" {name} " not in out] == []
    for name, (_, text) in COMMANDS.items():
        assert text == " ".join(LOADED[name].help.split("\n\n")[0].split())


@pytest.mark.parametrize("name", ["collection", "eval", "store", "watch"])
def test_a_command_of_commands_lists_them(run: Runner, name: str) -> None:
    code, out, err = run(name)
    assert (code, f"Usage: vidret {name} " in out + err, "error" in err) == (2, True, False)


def test_the_shell_completes_values(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_VIDRET_COMPLETE", "complete_bash")
    for line, values in (
        ("vidret search dog --device ", {"auto", "cpu", "cuda", "mps", "xpu"}),
        ("vidret search dog --by m", {"moment"}),
        ("vidret search dog --in ", set(SOURCES)),
        ("vidret index films --words ", {"auto", "on", "off"}),
        ("vidret index films --model ", {"starter", *RECOMMENDED}),
        ("vidret index films --store ", {store.forms[0] for store in STORES}),
        ("vidret search dog --rerank ", {AUTO, *RERANKERS}),
        ("vidret locate dog --sheet ", set()),
    ):
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
        assert set(run()[1].split()) == values


def test_every_module_that_registers_a_command_is_in_the_table() -> None:
    sources = [path.read_text("utf-8") for path in Path(cli.__file__).parent.rglob("*.py")]
    pattern = r'(?:@app\.command\(\s*|= add_group\(|^add_identities\()"(\w+)"'
    names = [name for source in sources for name in re.findall(pattern, source, re.MULTILINE)]
    assert sorted(names) == sorted(COMMANDS)


def test_help_imports_no_command_and_no_numpy() -> None:
    """Counts modules, as time would fail on a busy machine: with 500, help took 0.6 s rather than 0.2 s."""
    code = "import sys; from vidret.cli.app import program; program(['--help'], standalone_mode=False); "
    code += "sys.exit(str([sum(name.startswith('vidret.cli.') for name in sys.modules), len(sys.modules),"
    code += " *{'numpy', 'jaxtyping', 'torch', 'rich.progress'} & {*sys.modules}]))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    num_own, num_modules, *heavy = json.loads(ran.stderr.replace("'", '"'))
    assert (num_own, heavy) == (3, [])
    assert num_modules < 400


def test_help_of_a_command_imports_no_torch_and_opens_no_index() -> None:
    assert "--rerank" in run_without("torch faiss av PIL sqlite3 vidret.engine", "search", "--help")
