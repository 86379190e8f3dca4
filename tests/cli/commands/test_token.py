"""Tests of vidret token."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.index_server import serve_index
from vidret.client import RemoteEngine, RemoteError
from vidret.store.tokens import TOKENS, find_token


def test_tokens_are_made_listed_used_and_revoked(run: Runner, index: Path) -> None:
    code, out, _ = run("token", "add", "ann", "--right", "change", "--index", index)
    token = out.strip()
    assert (code, find_token(TOKENS.read(index), token) is not None) == (0, True)
    run("collection", "add", "best", "red.mp4", "--index", index)
    assert run("token", "add", "ben", "--collection", "best", "--index", index)[0] == 0
    rows = json.loads(run("token", "list", "--index", index, "--json")[1])
    assert [(row["name"], row["right"], row["collection"]) for row in rows] == [
        ("ann", "change", ""),
        ("ben", "read", "best"),
    ]
    assert token not in json.dumps(rows)
    with serve_index(index) as url:
        for given in (None, "A" * 43):
            with RemoteEngine(url, given) as remote, pytest.raises(RemoteError, match="token must be"):
                remote.collections()
        with RemoteEngine(url, token) as remote:
            remote.add_to_list("best", [])
            assert run("token", "revoke", "ann", "--index", index)[0] == 0
            with pytest.raises(RemoteError, match="token must be"):
                remote.collections()
    code, out, err = run("token", "revoke", "ben", "--index", index)
    assert (code, "Servers still need one" in err) == (0, True)
    rows = json.loads(run("token", "log", "--index", index, "--json")[1])
    whats = ["token add", "token add", "POST /api/collections/best/moments", "token revoke", "token revoke"]
    assert [row["what"] for row in rows] == whats
    assert [row["who"] == "ann" for row in rows] == [False, False, True, False, False]
    last = run("token", "log", "--index", index, "-k", 1)[1].splitlines()
    assert (len(last), last[1].endswith("token revoke  name=ben")) == (2, True)


def test_wrong_tokens_are_refused(run: Runner, index: Path, tmp_path: Path) -> None:
    run.check_refusal(("token", "add", "ann", "--right", "all", "--index", index), 2, "read")
    run.check_refusal(("token", "add", "ann", "--collection", "x", "--index", index), 1, "that of a collection, got x")
    run.check_refusal(("token", "add", "ann", "--index", tmp_path / "none"), 1, "there is no index here")
    run.check_refusal(("token", "revoke", "ann", "--index", index), 1, "name must be that of a token, got ann")
    assert "There are no tokens." in run("token", "list", "--index", index)[2]
    assert "Nothing was changed." in run("token", "log", "--index", index)[2]
