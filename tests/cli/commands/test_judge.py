"""Tests of ``vidret search --judge`` with an endpoint and with a model of transformers."""

import json
from pathlib import Path

import pytest

from tests.chatting import Reply, run_chat, say
from tests.cli.runner import Runner
from tests.language.causal import write_causal_model
from vidret.encode.families.transformers_loading import hide_progress


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIDRET_LLM", "VIDRET_LLM_MODEL", "VIDRET_LLM_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_endpoint_reorders_with_reasons(run: Runner, index: Path) -> None:
    _, plain, _ = run("search", "red", "--index", index, "--json")
    names = [Path(hit["path"]).name for hit in json.loads(plain)]
    with run_chat(lambda _: say("[2] it is better\n[1] it is worse")) as chat:
        options = ["--index", index, "--judge", chat.url, "--llm-model", "small"]
        code, out, _ = run("search", "red", *options, "--json")
        hits = json.loads(out)
        assert (code, [hit["old_rank"] for hit in hits[:2]]) == (0, [2, 1])
        assert [Path(hit["path"]).name for hit in hits[:2]] == [names[1], names[0]]
        code, out, err = run("search", "red", *options, "--explain")
        assert len(chat.requests) == 1  # the index keeps the answer
    assert out.splitlines()[0].split()[:3] == ["rank", "was", "match"]
    assert out.splitlines()[1].split()[:2] == ["1", "2"]
    assert "judged: it is better" in out.splitlines()[2]
    assert err == ""


def test_failing_judge_keeps_the_order_with_a_note(run: Runner, index: Path) -> None:
    _, plain, _ = run("search", "red", "--index", index)
    with run_chat(lambda _: Reply(b"", 404)) as chat:
        code, out, err = run("search", "red", "--index", index, "--judge", chat.url, "--llm-model", "small")
    assert (code, out) == (0, plain)
    assert "note: small judged nothing, so results keep the order of the search: " in err
    code, out, err = run("search", "red", "--index", index, "--judge", index / "no-model")
    assert (code, out) == (0, plain)
    assert "note: nothing was judged" in err


@pytest.mark.parametrize("by", ["icr", "first"])
def test_local_model_judges(run: Runner, index: Path, tmp_path: Path, by: str) -> None:
    with hide_progress():
        model = write_causal_model(tmp_path / "model")
    code, out, err = run("search", "red", "--index", index, "--judge", model, "--judge-by", by, "--json")
    assert (code, "note" in err, "Loading" in err) == (0, False, False)
    ranks = [hit["old_rank"] for hit in json.loads(out)]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))


def test_options_that_do_not_fit_are_refused(run: Runner, index: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    run.check_refusal(["search", "red", "--index", index, "--judge", url], 2, "--llm-model")
    by_icr = ["search", "red", "--index", index, "--judge", url, "--llm-model", "m", "--judge-by", "icr"]
    run.check_refusal(by_icr, 2, "must be list, pair, got icr")
    page = ["search", "red", "--index", index, "--judge", url, "--llm-model", "m", "--offset", "1"]
    run.check_refusal(page, 2, "needs --by video without --offset")
