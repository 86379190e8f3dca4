"""Tests of queries by a language model: they join those by rules, are bounded and kept, and may fail."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chatting import Reply, run_chat, say
from vidret.errors import VidretError
from vidret.language.endpoint import ChatEndpoint, ReplyCache
from vidret.language.questions import (
    MAX_QUERY,
    MAX_WRITTEN,
    RetrievalQuery,
    plan_queries,
    plan_with_model,
    read_written_queries,
)

QUESTION = "Who opens the door, and when?"


def test_queries_of_the_model_join_those_of_the_rules(tmp_path: Path) -> None:
    with run_chat(lambda _: say('["a man at a door", "Opens the door"]')) as chat:
        llm = ChatEndpoint(url=chat.url, model="m")
        plan = plan_with_model(QUESTION, llm, ReplyCache(tmp_path))
        assert plan == plan_with_model(QUESTION, llm, ReplyCache(tmp_path))
        assert len(chat.requests) == 1  # the answer is kept
        assert chat.requests[0]["messages"][1]["content"] == QUESTION
        plan_with_model("Who closes it?", llm, ReplyCache(tmp_path))
        assert len(chat.requests) == 2
    assert plan.queries == (*plan_queries(QUESTION), RetrievalQuery("a man at a door"))
    assert plan.notes == ()


@pytest.mark.parametrize("reply", [Reply(b"", 503), say("I cannot."), say("[1, 2]"), say("[[[")])
def test_rules_stay_if_the_model_fails(reply: Reply, tmp_path: Path) -> None:
    with run_chat(lambda _: reply) as chat:
        llm = ChatEndpoint(url=chat.url, model="m", key="secret-key")
        plan = plan_with_model(QUESTION, llm, ReplyCache(tmp_path))
        assert len(chat.requests) == 1  # not repeated
    assert plan.queries == tuple(plan_queries(QUESTION))
    (note,) = plan.notes
    assert note.startswith("the queries are those of the rules only: ")
    assert "secret-key" not in note
    assert list(tmp_path.iterdir()) == []  # a failure is not kept


def test_invalid_question_is_sent_to_nobody() -> None:
    with run_chat(lambda _: say('["a door"]')) as chat:
        with pytest.raises(VidretError, match="question must contain a word"):
            plan_with_model("...", ChatEndpoint(url=chat.url, model="m"))
        assert chat.requests == []


@pytest.mark.parametrize(
    ("reply", "queries"),
    [
        ('<think>["no"]</think>```json\n["yes"]\n```', ["yes"]),
        ('[1] is not a list of texts, but ["a", "a", "b"] is', ["a", "b"]),
        ('["two\\nlines", "..."]', ["two lines"]),
        ('[["a"]]', ["a"]),
        ("[" * 5000, []),
    ],
)
def test_list_is_found_in_a_reply(reply: str, queries: list[str]) -> None:
    assert read_written_queries(reply) == queries


@given(st.lists(st.text(max_size=MAX_QUERY + 9) | st.integers(), max_size=9).map(str) | st.text(max_size=60))
def test_queries_are_few_and_short(reply: str) -> None:
    queries = read_written_queries(reply)
    assert len(queries) <= MAX_WRITTEN
    assert all(0 < len(query) <= MAX_QUERY and query.isprintable() for query in queries)
