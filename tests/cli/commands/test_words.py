"""Searching words on the command line: sources, evidence below results, and explanations."""

import json
from pathlib import Path

import pytest

import vidret.engine
from tests.cli.runner import Runner
from tests.spoken import NamedColours, add_all_words, fake_sentences, make_films, save_background


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index with words, which must not be changed."""
    index = make_films(tmp_path_factory.mktemp("spoken"))
    add_all_words(index)
    with pytest.MonkeyPatch.context() as patch:
        fake_sentences(patch)
        save_background(index)
    return index


@pytest.fixture
def run_worded(run: Runner, worded: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    fake_sentences(monkeypatch)
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: NamedColours())
    monkeypatch.setenv("VIDRET_INDEX", str(worded))
    return run


def test_words_stand_below_the_results(run_worded: Runner) -> None:
    code, out, _ = run_worded("search", "platform nine")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].endswith("red.mp4")
    assert 'on screen: "*platform* *nine*"' in lines[2]
    code, out, err = run_worded("locate", "platform nine")
    assert code == 0
    assert 'on screen: "*platform* *nine*"' in out
    assert "located by pictures and words together" in err


@pytest.mark.parametrize(
    ("command", "query", "channels"),
    [
        (("search", "-k", 1), "platform nine", "on screen"),
        (("search", "-k", 1), "white", "seen"),
        (("locate", "-k", 1), "someone says sand the door lightly", "said"),
        (("locate", "-k", 1), "yellow", "seen"),
        (("search", "--by", "moment", "-k", 1), "white", "seen"),
    ],
)
def test_each_result_says_in_which_channel_it_was_found(
    run_worded: Runner, command: tuple[object, ...], query: str, channels: str
) -> None:
    name, *options = command
    header, *rows = run_worded(name, query, *options)[1].splitlines()
    assert ("found" in header.split()) is ("--by" not in options), "moments below their video have it in their line"
    assert channels in "".join(rows[:2])
    (row,) = json.loads(run_worded(name, query, *options, "--json")[1])
    assert row.get("evidence", row.get("moments", [{}])[0].get("evidence"))


def test_explain_shows_the_score_of_each_source(run_worded: Runner) -> None:
    out = run_worded("search", "red line, captain, platform", "--explain")[1]
    assert {"picture", "speech", "screen", "subtitles"} <= set(out.splitlines()[0].split())
    out = run_worded("search", "red platform nine", "--explain")[1]
    assert {"picture", "screen"} <= set(out.splitlines()[0].split())
    assert not {"speech", "subtitles"} & set(out.splitlines()[0].split()), "they say nothing about it"
    assert " % seen" in out
    assert " % on screen" in out


def test_unknown_sources_are_refused(run_worded: Runner) -> None:
    for command in ("search", "locate"):
        for names in ("speech,nonsense", "", "speech,"):
            run_worded.check_refusal((command, "red", "--in", names), 2, "must list some of picture, speech")
