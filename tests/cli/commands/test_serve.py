"""Tests of vidret token, and of the options of vidret mcp; the servers are tested in ``tests/serve``."""

import json
import sys
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.index_server import serve_index
from vidret.client import RemoteEngine, RemoteError
from vidret.store.tokens import TOKENS, find_token


def test_tokens_are_made_listed_used_and_revoked(run: Runner, index: Path) -> None:
    token = run.out("token", "add", "ann", "--right", "change").strip()
    assert find_token(TOKENS.read(index), token) is not None
    run.out("collection", "add", "best", "red.mp4")
    run.out("token", "add", "ben", "--collection", "best")
    rows = run.json("token", "list")
    listed = [(row["name"], row["right"], row["collection"]) for row in rows]
    assert listed == [("ann", "change", ""), ("ben", "read", "best")]
    assert "all of the index" in run.out("token", "list")
    assert token not in json.dumps(rows)
    with serve_index(index) as url:
        for given in (None, "A" * 43):
            with RemoteEngine(url, given) as remote, pytest.raises(RemoteError, match="token must be"):
                remote.collections()
        with RemoteEngine(url, token) as remote:
            remote.add_to_list("best", [])
            run.out("token", "revoke", "ann")
            with pytest.raises(RemoteError, match="token must be"):
                remote.collections()
    assert "Servers still need one" in run.err("token", "revoke", "ben")
    rows = run.json("token", "log")
    whats = ["token add", "token add", "POST /api/collections/best/moments", "token revoke", "token revoke"]
    assert [row["what"] for row in rows] == whats
    assert [row["who"] == "ann" for row in rows] == [False, False, True, False, False]
    last = run.out("token", "log", "-k", 1).splitlines()
    assert (last[0].split(), last[1].endswith("token revoke  name=ben")) == (["when", "who", "what", "with"], True)


@pytest.mark.usefixtures("index")
def test_wrong_tokens_are_refused(run: Runner) -> None:
    for command, code, sentence in (
        ("token add ann --collection x", 1, "that of a collection, got x"),
        ("token add ann --index /no/such", 1, "there is no index here"),
        ("token revoke ann", 1, "name must be that of a token, got ann"),
    ):
        run.check_refusal(command, code, sentence)
    assert "There are no tokens. To add one: vidret token add NAME" in run.err("token", "list")
    assert "Nothing was changed." in run.err("token", "log")


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("command", "ours", "missing", "feature"),
    [
        ("serve", "vidret.serve.access", "starlette", "serving"),  # which FastAPI brings
        ("mcp", "vidret.serve.mcp", "mcp", "the MCP server"),
    ],
)
def test_a_command_without_its_extra_fails_in_one_sentence(
    run: Runner, monkeypatch: pytest.MonkeyPatch, command: str, ours: str, missing: str, feature: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(ours):
            monkeypatch.delitem(sys.modules, name)
        elif name.split(".")[0].removesuffix("_types") == missing:
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, missing, None)
    run.check_refusal(command, 1, f'error: {feature} needs the extra "{command}": pip install "vidret[{command}]"')


@pytest.mark.usefixtures("index")
def test_invalid_settings_are_refused(run: Runner) -> None:
    pytest.importorskip("mcp", reason="needs the extra mcp")
    for command, code, sentence in (
        ("mcp --index /no/such", 1, "/no/such: there is no index here"),
        ("mcp --max-characters 10", 2, "--max-characters"),
        ("mcp --index /no/such --server http://127.0.0.1:1", 2, "needs a local index"),
        ("mcp --transport http --host 0.0.0.0", 2, "token must be given to listen on 0.0.0.0"),
    ):
        run.check_refusal(command, code, sentence)
