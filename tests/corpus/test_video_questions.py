"""Alignment by questions, asked of an endpoint on this machine."""

from pathlib import Path

import pytest

import vidret.encode.families.registry
from tests.chatting import run_chat, say
from tests.evaluate.world import run
from tests.fakes import ColourEncoder, write_film
from vidret.corpus.prompt_alignment import score_by_questions, write_questions
from vidret.endpoints.transport import EndpointError
from vidret.language.endpoint import ChatEndpoint

WRITTEN = """<think>entity | Is this a thought? | yes</think>
1. Entity | Is there a car? | yes
- attribute | What colour is it? A) red B) blue C) white | B
relation | Does it move left? | yes
nonsense | ignored | yes
entity | Is there a car? | yes"""
REPLIES = (
    WRITTEN,
    "<think>Planes do.</think>Cars do not fly.",
    "I first thought [NO]. It is there. [YES]",
    "It is white. [C]",
    "<think>[YES]</think> I cannot tell.",
    "[yes]",
    "[b]",
    "It moves right: [NO]",
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make two videos of one prompt."""
    folder = tmp_path_factory.mktemp("asked")
    names = ("one", "two")
    return {str(write_film(folder / f"{name}.mp4", ("red", 4), salt=row)): "a car" for row, name in enumerate(names)}


def test_every_question_about_every_video_counts(videos: dict[str, str]) -> None:
    with run_chat(lambda n: say(REPLIES[n])) as chat:
        found = score_by_questions(ChatEndpoint(url=chat.url, model="sees"), videos)
    assert len(chat.requests) == len(REPLIES)  # questions and knowledge are asked once for a prompt
    assert found["etva"] == pytest.approx(100 * 2 / 4)  # yes, no answer, yes, no
    assert found["t2vscore_a"] == pytest.approx((100 / 3 + 200 / 3) / 2)
    assert found["by_kind"] == {"entity": 100.0, "attribute": 50.0, "relation": 0.0}
    assert (found["num_questions"], found["num_unanswered"]) == (6, 1)
    worst = found["videos"][0]
    assert Path(worst["path"]).name == "one.mp4"
    assert [question["answer"] for question in worst["questions"]] == ["yes", "c", None]
    assert len(worst["times"]) == 8
    content = chat.requests[2]["messages"][1]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 8 + ["text"]
    assert "What else holds: Cars do not fly." in content[-1]["text"]
    assert "[YES] or [NO]" in chat.requests[2]["messages"][0]["content"]
    assert "[A], [B] or [C]" in chat.requests[3]["messages"][0]["content"]


def test_an_answer_without_questions_is_refused() -> None:
    with run_chat(lambda _: say("I would rather not.")) as chat:
        endpoint = ChatEndpoint(url=chat.url, model="sees")
        with pytest.raises(EndpointError, match=r"sees: must write questions as KIND .* got none for 'a car'"):
            write_questions(endpoint, "a car")


def test_the_command_adds_the_scores(videos: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vidret.encode.families.registry, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    folder = Path(next(iter(videos))).parent
    lines = [f'{{"prompt": "a car", "video": "{Path(path).name}"}}\n' for path in videos]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    common = ("eval", "generated", "--prompts", tmp_path / "prompts.jsonl", "--videos", folder)
    with run_chat(lambda request_index: say(REPLIES[request_index])) as chat:
        answered = run(*common, "--llm", chat.url, "--llm-model", "sees", "--html", tmp_path / "page.html")
    assert answered.code == 0, answered.err
    assert "50.0 %, questions that were answered with yes" in answered.out
    assert "1 of 6 questions, which count as wrong" in answered.out
    assert "Does it move left? no, not yes" in (tmp_path / "page.html").read_text()
    refused = run(*common, "--llm", "http://127.0.0.1:9/v1")
    assert (refused.code, "--llm-model: must be given" in refused.err) == (2, True)
