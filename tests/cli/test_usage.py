"""Tests of wrong use, exit codes and one sentence on stderr, and of the help, which describes all there is."""

import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import IO, Any
from unittest.mock import Mock

import pytest
import typer

import vidret.engine
from tests.cli.runner import ENDING, Runner, load_commands, run_without
from vidret import cli
from vidret.channels.picture.ranking import AUTO
from vidret.cli.app import COMMANDS, program
from vidret.cli.commands.people import KINDS
from vidret.encode.names import RECOMMENDED
from vidret.engine import Engine
from vidret.errors import StoreError
from vidret.store.catalog.database import as_store_error
from vidret.store.store import Store
from vidret.store.vectors.registry import STORES
from vidret.types import RERANKERS, SOURCES


@pytest.mark.parametrize("where", ["the index", "a file", "SQLite", "damage"])
def test_a_full_disk_is_explained(where: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_arguments: object, **_options: object) -> None:
        full = OSError(errno.EIO if where == "damage" else errno.ENOSPC, "No space left on device")
        if where == "a file":
            raise full
        if where == "SQLite":
            with as_store_error(tmp_path / "catalog.sqlite"), closing(sqlite3.connect(":memory:")) as connection:
                connection.execute("PRAGMA max_page_count = 1")
                connection.execute("CREATE TABLE full (row)")
        raise StoreError("features/1.f16: cannot be written") from full

    monkeypatch.setattr(Engine, "index", fill)
    code, _, err = run("index", tmp_path, "--index", tmp_path / "index")
    assert (code, "The disk is full. Free some space" in err) == (1, where != "damage")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory"), ImportError("a.so: failed to map segment")],
)
def test_too_little_memory_is_explained(
    error: Exception, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "open", Mock(side_effect=error))
    run.check_refusal(("index", tmp_path, "--index", tmp_path / "index"), 1, "there is too little memory")


def test_a_name_that_the_system_refuses_is_told_with_the_reason(run: Runner) -> None:
    name = "a" * 5000
    for command in (("import", name), ("eval", "compare", name, name)):
        run.check_refusal(command, 1, f"{name}: File name too long")


def test_a_misspelt_option_and_one_without_its_value_or_with_one_too_many_are_refused(run: Runner) -> None:
    for command in (("search", "red", "--shet", "a.png"), ("info", "-x"), ("ask", "who?", "-k", "3")):
        code, _, err = run(*command)
        assert (code, "No such option" in err, "after --" in err) == (2, True, False)
    for arguments, sentence in (
        (("search", "red", "-k"), "Option '-k' requires an argument"),
        (("search", "red", "--in"), "Option '--in' requires an argument"),
        (("search", "red", "--json=yes"), "Option '--json' does not take a value"),
        (("token", "add", "ann", "--right"), "Option '--right' requires an argument"),
        (("--log-level",), "Option '--log-level' requires an argument"),
    ):
        code, _, err = run(*arguments)
        assert (code, sentence in err, "--help" in err) == (2, True, True), err


def test_training_has_a_help_without_its_extra(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    monkeypatch.delitem(sys.modules, "vidret.train.run", raising=False)
    for arguments in (("train", "--help"), ("train",), ("train", "fit", "--help")):
        code, out, err = run(*arguments)
        assert (code, "Train a method from a YAML file" in out) == (0, True)
        assert 'pip install "vidret[train]"' in err
    run.check_refusal(("train", "fit", "--config", "a.yaml"), 1, 'pip install "vidret[train]"')


def test_wrong_use_exits_with_code_and_sentence(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "films").mkdir()
    (tmp_path / "films/link.mp4").symlink_to("film.mp4")
    (tmp_path / "file").touch()
    for command, code, sentence in (
        ("index empty", 1, "no videos found in empty"),
        ("index films --index file", 1, "index must be a folder, got the file file"),
        ("search red --index file", 1, "index must be a folder, got the file file"),
        ("search red --index films", 1, "films: there is no index here; make one with"),
        ("search red --index nowhere", 1, "there is no index here; make one with"),
        ("index nowhere.mp4", 1, "no such file"),
        *(
            (f"{command} --index nowhere", 1, "nowhere: there is no index here; make one with: vidret index PATH... --")
            for command in ("watch list", "watch remove x", "token list", "token revoke x", "token log", "info")
        ),
        ("collection remove x --index nowhere", 1, "nowhere: there is no index here"),
        ("search", 2, "give a query, --image FILE, both, or only --clip FILE, --queries FILE or --like FILE@TIME"),
        ("search red --queries red.jsonl", 2, "give a query, --image FILE, both, or only --clip FILE"),
        ("search --image nowhere.png", 1, "nowhere.png: cannot be read as an image"),
        ("search red --after tomorrow", 2, "'--after': must be a valid datetime or date, got tomorrow"),
        ("locate red --min-seconds -1", 2, "'--min-seconds': must be at least 0, got -1"),
        ("search red --server here:80", 2, "--server: url must be like http://127.0.0.1:8000, got here:80"),
        ("search red --token T", 2, "needs --server URL, got none"),
        ("search red --server http://here --index a", 2, "--index: needs a local index, got --server URL"),
        ("search red --server http://here --device cpu", 2, "--device: needs a local index, got --server URL"),
        ("search red --server http://here --sheet a.png", 2, "--sheet: needs a local index, got --server URL"),
        ("locate red --server http://here --head none", 2, "--head: needs a local index, got --server URL"),
        ("locate red --server http://here --export a", 2, "--export: needs a local index, got --server URL"),
        ("index", 2, "Missing argument"),
        ("index . --decoder magic", 2, "must be one of auto, decord, pyav, "),
        ("search red -k 0", 2, "'-k': must be at least 1, got 0"),
        ("locate red --format edl --handles inf", 2, "--handles: must be finite, got inf"),
        ("info --recall --seed -1", 2, "'--seed': must be at least 0, got -1"),
        ("search red -k many", 2, "'-k': must be a valid integer, got many"),
        ("search red -k 9999999999999999999", 2, "-k: must be at most 1000000000000000000, got 9999999999999999999"),
        ("people split ann 9999999999999999999", 2, "tracks: must be at most 1000000000000000000"),
        ("search red --folder nowhere", 2, "--folder: must be an existing folder, got /"),
        ("search -dog", 2, "A query that starts with a minus goes last, after --: vidret search -- -dog"),
        ("locate a dog runs", 2, 'A query of several words goes in quotes: vidret locate "A DOG RUNS"'),
        ("locate '-a dog'", 2, "after --: vidret locate -- '-a dog'"),
        ("serve --allow-index nowhere --index new", 2, "--allow-index: must be an existing folder, got nowhere"),
        ("calibrate --bank nowhere.txt", 1, "nowhere.txt: cannot be read: No such file or directory"),
        ("ask '-\"hot dog\"?' --context", 2, "after --: vidret ask -- '-\"hot dog\"?'"),
    ):
        run.check_refusal(command, code, sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "films"], "no index is left"


WRONG_VALUES = {
    **dict.fromkeys(("--sheet", "--curve"), "nonsense.txt"),
    **dict.fromkeys(("--device", "--rerank", "--head", "--server", "--store", "--webhook"), "nonsense"),
}


def list_wrong_values(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield a command line with each option of a command that has a rule, and a value that breaks it."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from list_wrong_values(inner, (*path, name))
    required_words = [word for param in command.params if param.required for word in (*param.opts[:1], "x")]
    required_words = [word for word in required_words if word == "x" or word.startswith("-")]
    for param in command.params:
        if "|" in (param.metavar or "") and param.metavar == param.metavar.lower():
            yield (*path, *required_words, param.opts[0], "nonsense")
        elif param.opts[0] in WRONG_VALUES:
            yield (*path, *required_words, param.opts[0], WRONG_VALUES[param.opts[0]])


def test_a_wrong_value_is_refused_before_a_model_is_loaded(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_arguments: object, **_options: object) -> None:
        pytest.fail("a model is loaded")

    monkeypatch.setattr(vidret.engine, "load_encoder", load)
    commands = {name: loaded for name, loaded in load_commands().items() if name != "train"}
    lines = [line for name, command in commands.items() for line in list_wrong_values(command, (name,))]
    assert len(lines) > 60
    for line in lines:
        code, out, err = run(*line)
        assert (code, out) == (2, ""), line
        assert f"{line[-2]}: " in err, line
        assert "nonsense" in err, line


def test_version(run: Runner) -> None:
    assert run("--version") == (0, f"vidret {metadata.version('vidret')}\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_signal_ends_a_command_without_a_traceback(
    run: Runner, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Store, "exists", lambda _path: os.kill(os.getpid(), number))
    default_handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    ignored = signal.signal(number, default_handler)  # in a test run in the background, by nohup
    try:
        run.check_refusal(("search", "red", "--index", tmp_path), 130, "interrupted")
    finally:
        signal.signal(number, ignored)


def test_an_interruption_while_modules_are_imported_is_told_in_one_line() -> None:
    code = """
import sys, _signal
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            _signal.raise_signal(_signal.SIGINT)
_signal.signal(_signal.SIGINT, _signal.default_int_handler)
sys.meta_path.insert(0, Finder())
from vidret.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])  # written at the end, or at once
def test_a_reader_that_is_gone_is_no_error(index: Path, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        assert print_info(index, stdout, unbuffered) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_of_stdout_is_explained(index: Path, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as stdout:
        code, message = print_info(index, stdout, unbuffered)
    assert (code, message.splitlines()[0]) == (1, "error: No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("streams", "code", "out", "err"),
    [
        (">&-", 0, "", "message\n"),
        ("2>&-", 0, "ready ?\n", ""),
        (">&- 2>&- <&-", 0, "", ""),
        ("2>/dev/full", 0, "ready ?\n", ""),
        ("2> >(exit)", 0, "ready ?\n", ""),
        (">/dev/full 2>/dev/full", 1, "", ""),
    ],
)
def test_streams_that_cannot_be_written_end_no_work(streams: str, code: int, out: str, err: str) -> None:
    script = """
import time
from vidret import cli
from vidret.cli import app
from vidret.present.terminal import print_message

def program(**_options):
    time.sleep(0.2)  # until a reader that exits is gone
    print_message("message")
    print("ready \u2713")

app.program = program
cli.main()
"""
    command = ["bash", "-c", f'"$@" {streams}', "bash", sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONUNBUFFERED": "", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def print_info(index: Path, stdout: IO[bytes], unbuffered: str) -> tuple[int, str]:
    """Print what an index holds to a stream; return the exit code and what is printed to stderr."""
    command = [sys.executable, "-m", "vidret", "info", "--index", str(index), "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, check=False, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)
    return done.returncode, done.stderr


def test_messages_can_be_lines_of_json(run: Runner, films: Path, tmp_path: Path) -> None:
    code, out, err = run.run_raw("--log-json", "--log-level", "info", "index", films, "--index", tmp_path / "index")
    rows = [json.loads(line) for line in err.splitlines()]
    assert (code, out) == (0, "")
    assert {*rows[-1]} == {"time", "level", "logger", "message"}
    assert any("2 encoded" in row["message"] for row in rows)
    _, _, err = run.run_raw("--log-json", "search", "red", "--index", "nowhere")
    assert json.loads(err)["level"] == "error"
    run.check_refusal(("--log-level", "loud", "info"), 2, "--log-level: must be one of debug, info, warning, error")
    assert run("search", "red", "--index", "nowhere")[2].startswith("error: "), "the format is that of one command"


# Help


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
    pattern = r'(?:@app\.command\(\s*|= add_group\()"(\w+)"'
    names = [name for source in sources for name in re.findall(pattern, source, re.MULTILINE)]
    assert sorted([*names, *KINDS]) == sorted(COMMANDS)


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
