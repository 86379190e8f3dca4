"""Tests of vidret transcript."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner, run_without_torch
from tests.indexed_texts import add_words, find_content
from tests.made_identities import VOICES, make_voice
from tests.scripted_server import TEXT, VIDEO, Reply, serve
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore


@pytest.fixture
def worded(index: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an index with words of one of its two videos, and go to its films."""
    monkeypatch.chdir(films)
    monkeypatch.setenv("VIDRET_INDEX", str(index))
    add_words(index, find_content(index, "red.mp4"), ["one red apple", "two pears"])
    add_words(index, find_content(index, "red.mp4"), ["EXIT"], source="screen")
    return index


@pytest.mark.usefixtures("worded")
def test_words_are_printed_by_time(run: Runner) -> None:
    lines = ["0:00.0  speech  one red apple", "0:00.0  screen  EXIT", "0:02.0  speech  two pears"]
    assert run("transcript", "red.mp4") == (0, "\n".join(lines) + "\n", "")
    assert run("transcript", "red.mp4", "--source", "screen")[1] == "0:00.0  EXIT\n"
    assert len(json.loads(run("transcript", "red.mp4", "--source", "speech,subtitles", "--format", "json")[1])) == 2
    assert run("transcript", "red.mp4", "--format", "vtt")[1].startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")


def test_speakers_are_named_and_others_told_apart_only_if_asked(run: Runner, worded: Path) -> None:
    with IdentityStore.create(worded) as identities:
        voices = [make_voice(who, at, at + 1.0) for who, at in ((0, 0.0), (1, 2.0), (0, 4.0), (1, 6.0))]
        identities.write_tracks(find_content(worded, "red.mp4"), VOICES, voices)
    Persons(worded).group()
    first = min(person.id for person in Persons(worded).list_persons("voice"))
    Persons(worded).rename(first, "Anna Lee")
    asked = ("transcript", "red.mp4", "--source", "speech")
    assert run(*asked)[1] == "0:00.0  Anna Lee: one red apple\n0:02.0  two pears\n"
    assert run(*asked, "--speakers")[1].endswith(f"person-{first + 1}: two pears\n")


@pytest.mark.usefixtures("worded")
def test_what_there_is_not_is_said(run: Runner) -> None:
    for command, code, sentence in (
        (("blue.mp4",), 1, "blue.mp4: the index has no words of this video"),
        (("red.mp4", "--source", "subtitles"), 1, "red.mp4: the index has no words of this video from subtitles"),
        (("bad.mp4",), 1, "bad.mp4: not in the index ("),
        (
            ("red.mp4", "--source", "smell"),
            2,
            "must list some of speech, screen, subtitles, generated, sound, got",
        ),
        (("red.mp4", "--format", "doc"), 2, "must be one of txt, srt, vtt, json, got doc"),
        (("red.mp4", "--token", "secret"), 2, "needs --server URL"),
    ):
        status, out, err = run("transcript", *command)
        assert (status, out) == (code, "")
        assert sentence in err


def test_an_index_without_words(run: Runner, index: Path, films: Path) -> None:
    run.check_refusal(("transcript", films / "red.mp4", "--index", index), 1, "the index has no words of this video")


def test_a_server_is_asked(run: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with serve() as server:
        server.replies = [Reply({"videos": [VIDEO], "next": None}), Reply({"texts": [TEXT]})]
        code, out, _ = run("transcript", "/films/red.mp4", "--server", server.url, "--source", "speech")
        server.replies = [Reply({"videos": [VIDEO], "next": None}), Reply({"texts": [TEXT]})]
        run("transcript", "/films/red.mp4", "--server", server.url, "--speakers")
    assert (code, out) == (0, "0:12.5  Welcome.\n")
    assert server.asked[1].line == "GET /api/videos/7/transcript?sources=speech"
    assert server.asked[3].line == "GET /api/videos/7/transcript?unnamed=true"


def test_no_model_is_loaded(worded: Path, films: Path) -> None:
    out = run_without_torch("transcript", films / "red.mp4", "--index", worded)
    assert out.splitlines()[-1:] == ["0:02.0  speech  two pears"]
