"""Tests of ``vidret ask``: the bundle, a model's answer with citations, refusals."""

import json
from pathlib import Path

import pytest

from tests.chatting import run_chat, say
from tests.cli.runner import Runner
from tests.fakes import ColourEncoder
from vidret.engine import Engine
from vidret.language.endpoint import ChatEndpoint


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIDRET_LLM", "VIDRET_LLM_MODEL", "VIDRET_LLM_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_context_is_printed_and_nobody_is_asked(run: Runner, index: Path, tmp_path: Path) -> None:
    code, out, _ = run("ask", "when do we see red?", "--index", index, "--context", "--images", tmp_path / "images")
    assert code == 0
    assert "red.mp4 00:00-00:0" in out
    assert len(list((tmp_path / "images").iterdir())) >= 2
    code, out, _ = run("ask", "when do we see red?", "--index", index, "--context", "--json")
    assert Path(json.loads(out)["moments"][0]["path"]).name == "red.mp4"


def test_answer_is_printed_with_the_moments_it_cites(run: Runner, index: Path) -> None:
    with run_chat(lambda _: say("It is red [1][44].")) as chat:
        options = ["--index", index, "--llm", chat.url, "--llm-model", "small"]
        code, out, err = run("ask", "what is red?", *options)
        assert code == 0
        assert out.startswith("It is red [1].\n[1] red.mp4 00:00-00:0")
        assert "note: removed citations of moments that were not retrieved: 44" in err
        assert chat.requests[0]["model"] == "small"
        code, out, _ = run("ask", "what is red?", *options, "--json")
        assert json.loads(out)["cited"][0]["number"] == 1
        with Engine(index, ColourEncoder()) as engine:
            answer = engine.ask("what is red?", ChatEndpoint(url=chat.url, model="small"))
    assert answer.text == "It is red [1]."


def test_model_writes_queries_unless_told_not_to(run: Runner, index: Path) -> None:
    with run_chat(lambda number: say("[1]" if number else '["something red"]')) as chat:
        options = ["--index", index, "--llm", chat.url, "--llm-model", "small"]
        code, _, err = run("ask", "what is red?", *options)
        assert (code, err, len(chat.requests)) == (0, "", 2)
        assert run("ask", "what is red?", *options)[0] == 0
        assert len(chat.requests) == 3  # the queries are kept in the index
        assert run("ask", "what is blue?", *options, "--no-llm-queries")[0] == 0
        assert len(chat.requests) == 4
        _, _, err = run("ask", "what is blue?", *options)
        assert "note: the queries are those of the rules only: small: must write a JSON list" in err


def test_missing_options_are_refused(run: Runner, index: Path) -> None:
    run.check_refusal(["ask", "what?", "--index", index], 2, "must be given, or --context to ask no model, or --server")
    run.check_refusal(["ask", "what?", "--index", index, "--llm", "http://127.0.0.1:1"], 2, "--llm-model")
    run.check_refusal(["ask", "...", "--index", index, "--context"], 1, "question must contain a word")
    run.check_refusal(["ask", "red?", "/no.mp4", "--index", index, "--context"], 1, "/no.mp4: not in the index")
    run.check_refusal(["ask", "red?", "--index", index, "--images", "x"], 2, "needs --context")
