"""Tests of the commands that ask a language model: vidret ask and vidret search --judge."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.chatting import Reply, run_chat, say
from tests.cli.runner import Runner
from tests.language.causal import write_causal_model
from vidret.encode.model_hub import hide_progress

pytestmark = pytest.mark.usefixtures("index")


def test_context_is_printed_and_nobody_is_asked(run: Runner, tmp_path: Path) -> None:
    question = ("ask", "when do we see red?", "--context")
    assert "red.mp4 00:00-00:0" in run.out(*question, "--images", tmp_path / "images")
    assert len(list((tmp_path / "images").iterdir())) >= 2
    assert Path(run.json(*question)["moments"][0]["path"]).name == "red.mp4"


def test_answer_is_printed_with_the_moments_it_cites(run: Runner) -> None:
    with run_chat(lambda _: say("It is red [1][44].")) as chat:
        question = ("ask", "what is red?", "--llm", chat.url, "--llm-model", "small")
        code, out, err = run(*question)
        assert (code, chat.requests[0]["model"]) == (0, "small")
        assert out.startswith("It is red [1].\n[1] red.mp4 00:00-00:0")
        assert "note: removed citations of moments that were not retrieved: 44" in err
        assert run.json(*question)["cited"][0]["number"] == 1


def test_model_writes_queries_unless_told_not_to(run: Runner) -> None:
    with run_chat(lambda request_index: say("[1]" if request_index else '["something red"]')) as chat:
        options = ("--llm", chat.url, "--llm-model", "small")
        code, _, err = run("ask", "what is red?", *options)
        assert (code, err, len(chat.requests)) == (0, "", 2)
        run.out("ask", "what is red?", *options)
        assert len(chat.requests) == 3  # the queries are kept in the index
        run.out("ask", "what is blue?", *options, "--no-llm-queries")
        assert len(chat.requests) == 4
        err = run.err("ask", "what is blue?", *options)
        assert "note: the queries are those of the rules only: small: must write a JSON list" in err


def test_endpoint_reorders_with_reasons(run: Runner) -> None:
    names = [Path(hit["path"]).name for hit in run.json("search", "red")]
    with run_chat(lambda _: say("[2] it is better\n[1] it is worse")) as chat:
        command = ("search", "red", "--judge", chat.url, "--llm-model", "small")
        hits = run.json(*command)
        assert [hit["old_rank"] for hit in hits[:2]] == [2, 1]
        assert [Path(hit["path"]).name for hit in hits[:2]] == [names[1], names[0]]
        code, out, err = run(*command, "--explain")
        assert (code, err, len(chat.requests)) == (0, "", 1)  # the index keeps the answer
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["rank", "was", "match"]
    assert lines[1].split()[:2] == ["1", "2"]
    assert "judged: it is better" in lines[2]


def test_failing_judge_keeps_the_order_with_a_note(run: Runner, index: Path) -> None:
    plain = run.out("search", "red")
    with run_chat(lambda _: Reply(b"", 404)) as chat:
        for judge, note in (
            (chat.url, "note: small judged nothing, so results keep the order of the search: "),
            (index / "no-model", "note: nothing was judged"),
        ):
            code, out, err = run("search", "red", "--judge", judge, "--llm-model", "small")
            assert (code, out, note in err) == (0, plain, True)


@pytest.mark.parametrize("by", ["icr", "first"])
def test_local_model_judges(run: Runner, tmp_path: Path, by: str) -> None:
    with hide_progress():
        model = write_causal_model(tmp_path / "model")
    code, out, err = run("search", "red", "--judge", model, "--judge-by", by, "--json")
    assert (code, "note" in err, "Loading" in err) == (0, False, False)
    ranks = [hit["old_rank"] for hit in json.loads(out)]
    assert sorted(ranks) == list(range(1, len(ranks) + 1))


def test_options_that_do_not_fit_are_refused(run: Runner, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    url = "--judge http://127.0.0.1:1/v1"
    for command, code, sentence in (
        ("ask what?", 2, "must be given, or --context to ask no model, or --server"),
        ("ask what? --llm http://127.0.0.1:1", 2, "--llm-model"),
        ("ask ... --context", 2, "question must contain a word"),
        ("ask red? /no.mp4 --context", 1, "/no.mp4: not in the index"),
        ("ask red? --images x", 2, "needs --context"),
        (f"search red {url}", 2, "--llm-model"),
        (f"search red {url} --llm-model m --judge-by icr", 2, "must be list, pair, got icr"),
        (f"search red {url} --llm-model m --offset 1", 2, "needs --by video without --offset"),
        (f"search --image red.png {url}", 1, "red.png: cannot be read as an image"),
        (f"search --like red.mp4@1 {url} --queries a.jsonl", 2, "needs a QUERY of words only, got none"),
        (f"search --like red.mp4@1 {url}", 2, "needs a QUERY of words only, got none"),
        (f"search red --image {picture} {url}", 2, "needs a QUERY of words only, got --image"),
        ("search red --judge folder --judge-frames 2", 2, "needs --judge URL, got a local model"),
    ):
        run.check_refusal(command, code, sentence)
