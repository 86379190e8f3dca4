"""Tests of the options of ``vidret mcp``; the server itself is tested in ``tests/serve/mcp``."""

import sys
from pathlib import Path

import pytest

from tests.cli.runner import Runner


def test_command_without_its_package_fails_in_one_sentence(
    run: Runner, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("vidret.serve.mcp")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("mcp", "mcp_types"):
        monkeypatch.setitem(sys.modules, name, None)
    message = 'error: the MCP server needs the extra "mcp": pip install "vidret[mcp]"'
    run.check_refusal(["mcp", "--index", index], 1, message)


def test_invalid_settings_are_refused(run: Runner, index: Path) -> None:
    pytest.importorskip("mcp", reason="needs the extra mcp")
    run.check_refusal(["mcp", "--transport", "pigeon"], 2, "must be one of stdio, http, got pigeon")
    run.check_refusal(["mcp", "--index", "/no/such"], 1, "/no/such: there is no index here")
    run.check_refusal(["mcp", "--index", index, "--max-characters", 10], 2, "--max-characters")
    run.check_refusal(["mcp", "--index", index, "--server", "http://127.0.0.1:1"], 2, "needs a local index")
    refused = ["mcp", "--index", index, "--transport", "http", "--host", "0.0.0.0"]
    run.check_refusal(refused, 1, "token must be given to listen on 0.0.0.0")
