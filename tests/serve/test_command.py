"""Tests of ``vidret serve``: its refusals, its messages, and the server over real sockets."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder
from tests.index_server import COLOURED
from vidret.cli.commands.serve import has_display, listen, page_url
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.store.store import Store

ROOT = Path(__file__).parents[2]

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``vidret serve`` without serving, and returns its exit code and stderr."""
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    monkeypatch.setattr(uvicorn.Server, "run", lambda _server, sockets: None)
    monkeypatch.delenv("VIDRET_TOKEN", raising=False)

    def call(*arguments: object) -> tuple[int, str]:
        code, _, err = Runner(monkeypatch, capsys)("serve", "--port", "0", *arguments)
        return code, err

    return call


def test_the_printed_url_contains_the_token(run: Run, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    code, message = run("--index", engine.path)
    assert code == 0
    assert re.search(rf"{engine.path} is served at http://127.0.0.1:\d+/ \(press Ctrl-C to stop\)", message)
    assert "/?token=a%2Btoken%2F " in run("--index", engine.path, "--token", "a+token/")[1]
    monkeypatch.setenv("VIDRET_TOKEN", "from-the-environment")
    assert "/?token=from-the-environment " in run("--index", engine.path)[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "token must be given to listen on 0.0.0.0, which other machines can reach, or made by"),
        (["--token", "short"], "token must be 8 or more letters"),
        (["--index", "/no/such/index"], "/no/such/index: there is no index here"),
        (["--host", "no.such.host.invalid", "--token", "long-enough"], "no.such.host.invalid:0: cannot listen here"),
    ],
)
def test_invalid_settings_are_refused_in_one_sentence(
    run: Run, engine: Engine, arguments: list[str], sentence: str
) -> None:
    index = [] if "--index" in arguments else ["--index", engine.path]
    code, message = run(*index, *arguments)
    assert code == (2 if sentence.startswith("token") else 1)
    assert message.startswith(f"error: {sentence}")


def test_new_index_is_created_empty(run: Run, tmp_path: Path) -> None:
    assert run("--index", tmp_path / "new", "--allow-index", tmp_path)[0] == 0
    assert Store.exists(tmp_path / "new")


def test_a_listener_says_its_url_and_a_port_in_use_is_reported() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        assert page_url(listening, None) == f"http://127.0.0.1:{port}/"
        assert page_url(listening, "a/b=") == f"http://127.0.0.1:{port}/?token=a%2Fb%3D"
        with pytest.raises(VidretError, match="cannot listen here: Address already in use"):
            listen("127.0.0.1", port)
    with listen("0.0.0.0", 0) as everywhere:
        assert page_url(everywhere, None).startswith(f"http://{socket.gethostname()}:")
    assert not has_display(), "tests have none"


def ask(url: str) -> Any:
    body = json.dumps({"query": "red"}).encode()
    request = urllib.request.Request(f"{url}/api/search", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_command_serves_and_stops(engine: Engine) -> None:
    command = [sys.executable, "-c", COLOURED, "serve", "--index", str(engine.path), "--port", "0", "--no-open"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        match = re.search(r"http://\S+:\d+", line)
        assert match is not None, line
        assert ask(match[0])["hits"][0]["title"] == "red"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
