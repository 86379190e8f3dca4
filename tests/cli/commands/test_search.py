"""Tests of vidret search."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import vidret.engine
from tests.cli.runner import Runner
from tests.fakes import write_film
from tests.rankers import make_ranker
from tests.spoken import NamedColours, fake_sentences, make_worded_films
from vidret.text import format_probability


def read_names(rows: list[dict[str, Any]]) -> list[str]:
    return [Path(row["path"]).name for row in rows]


@pytest.fixture
def blue(tmp_path: Path) -> Path:
    Image.new("RGBA", (40, 30), (30, 30, 200, 255)).save(tmp_path / "blue.png")
    return tmp_path / "blue.png"


@pytest.mark.usefixtures("index")
def test_table_and_json(run: Runner) -> None:
    head, *lines = run.out("search", "red").splitlines()
    hits = run.json("search", "red")
    assert head.split() == ["rank", "match", "best", "at", "video"]
    assert read_names(hits) == ["red.mp4", "blue.mp4"]
    for line, hit in zip(lines, hits, strict=True):
        assert line.split()[1:4] == [*format_probability(hit["probability"]).split(), hit["likelihood"]]
        assert line.endswith(Path(hit["path"]).name)
    assert run("search", "red", "or", "blue") == run("search", "red or blue"), "a query needs no quotes"
    assert read_names(run.json("search", "blue", "-k", 1)) == ["blue.mp4"]


def test_indexes_are_searched_as_one(run: Runner, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "green.mp4", ("green", 4))
    run("index", tmp_path / "green.mp4", "--index", tmp_path / "more", "--model", "tests.fakes:ColourEncoder")
    for command in ("search", "locate"):
        rows = run.json(command, "green", "--index", index, "--index", tmp_path / "more")
        assert read_names(rows)[0] == "green.mp4"
        assert {*read_names(rows)} >= {"green.mp4", "red.mp4", "blue.mp4"}
        monkeypatch.setenv("VIDRET_INDEX", f"{index}{os.pathsep}{tmp_path / 'more'}")
        assert run.json(command, "green") == rows
    missing = ("search", "green", "--index", index, "--index", tmp_path / "none")
    run.check_refusal(missing, 1, f"{tmp_path / 'none'}: there is no index here")


@pytest.mark.usefixtures("index")
def test_queries_of_a_file_are_answered_by_lines(run: Runner, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(
        '\ufeff{"qid": 7, "query": "red"}\n\n{"qid": 8, "query": "blue"}\n{"events": ["red", "blue"], "gap": 2}\n'
    )
    rows = [json.loads(line) for line in run.out("search", "--queries", queries).splitlines()]
    assert [(row.get("qid"), read_names(row["hits"])[0]) for row in rows[:2]] == [(7, "red.mp4"), (8, "blue.mp4")]
    assert rows[2]["interpretation"] == "looking for 1. red then within 2 s 2. blue"
    assert [event["text"] for event in rows[2]["hits"][0]["events"]] == ["red", "blue"]
    for line, rule in (
        ('{"query": " "}', "query must contain a word"),
        ('{"events": ["red"], "gap": -1}', "gap must be"),
        ('{"query": "red -red"}', "query must not exclude"),
    ):
        queries.write_text(f"\n{line}\n")
        run.check_refusal(("search", "--queries", queries), 1, f"queries.jsonl: line 2: {rule}")
    for line in ('{"text": "blue"}', '{"query": '):
        queries.write_text(f'{{"query": "red"}}\n{line}\n')
        code, _, err = run("search", "--queries", queries)
        assert (code, f'line 2 must be an object with "query", got {line.strip()}' in err) == (1, True)


@pytest.mark.usefixtures("index")
def test_results_that_are_improbable_are_told_or_left_out(run: Runner) -> None:
    for command in (("search",), ("search", "--by", "moment"), ("locate",)):
        _, out, err = run(*command, "yellow")
        assert err.endswith("Nothing matches well. The nearest are:")
        assert "red.mp4" in out
        assert "unlikely" in out
        assert "Nothing matches well" not in run.err(*command, "red")
        code, out, err = run(*command, "red", "--at-least", 0.999)
        assert (code, out) == (0, "")
        assert "No match has a probability of >99 % or more." in err
    for flag, what in (("--language", "language"), ("--heard", "sound")):
        assert f"no video has the {what} de; the index has: none" in run.err("search", "red", flag, "de")
    for verb in ("search", "locate"):
        assert "No results after the first 100." in run.err(verb, "red", "--offset", 100)
        assert "Nothing matches well" not in run.err(verb, "yellow", "--offset", 1), "it is said above the first page"
        _, first = run.out(verb, "red", "--offset", 1, "-k", 1).splitlines()
        assert first.split()[0] == "2"
    assert run.out("locate", "red", "--offset", 1, "-k", 1, "--format", "csv").splitlines()[1].startswith("2,red,")
    ranks = [line.split()[0] for line in run.out("search", "red", "--offset", 1).splitlines()]
    assert ranks[:2] == ["rank", "2"], "ranks go on from the page before"
    hits = run.json("search", "red")
    assert run.json("search", "red", "--at-least", hits[0]["probability"]) == hits[:1]
    run.check_refusal("search red --at-least 2", 2, "at_least must be between 0 and 1, got 2.0")
    run.check_refusal("search red --near 1", 2, "near must be LAT,LON")
    run.check_refusal("search red --sort-by /", 2, "sort_by must be two opposites")


@pytest.mark.usefixtures("index")
def test_an_image_finds_similar_videos_without_probabilities(run: Runner, blue: Path, tmp_path: Path) -> None:
    assert run.out("search", "--image", blue).splitlines()[0].split() == ["rank", "score", "best", "at", "video"]
    hits = run.json("search", "--image", blue)
    assert read_names(hits)[0] == "blue.mp4"
    assert {(hit["probability"], hit["likelihood"], hit["weak"]) for hit in hits} == {(None, None, False)}
    assert "contact sheet:" in run.err("search", "--image", blue, "--sheet", tmp_path / "hits.png")
    rule = "at_least must be 0 for an image or a vector, got 0.5"
    run.check_refusal(("search", "--image", blue, "--at-least", 0.5), 2, rule)
    Image.new("1", (8000, 5001)).save(tmp_path / "large.png")
    rule = "large.png: cannot be read as an image: image must have at most 40 megapixels"
    run.check_refusal(("search", "--image", tmp_path / "large.png"), 1, rule)
    both = run.json("search", "--image", blue, "--image", tmp_path / "blue.png", "red")
    words = run.json("search", "blue -red", "--image", blue)
    assert len({json.dumps([hit["score"] for hit in found]) for found in (hits, both, words)}) == 3


def test_a_folder_is_found_in_another_unicode_form(run: Runner, tmp_path: Path) -> None:
    films = tmp_path / "vide\N{COMBINING ACUTE ACCENT}os"
    write_film(films / "red.mp4", ("red", 2))
    run.out("index", films, "--index", tmp_path / "index")
    typed = tmp_path / "vid\N{LATIN SMALL LETTER E WITH ACUTE}os"
    rows = run.json("search", "red", "--folder", typed, "--index", tmp_path / "index")
    assert [row["path"] for row in rows] == [str(films / "red.mp4")]


@pytest.mark.usefixtures("index")
def test_query_may_start_with_a_negative_term(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    for command in ("search", "locate"):
        assert read_names(json.loads(run.out(command, "--json", "--", "-red blue")))[0] == "blue.mp4"
        assert "-- '-beach dog'" in run.out(command, "--help")


@pytest.mark.usefixtures("patched")
def test_explain_shows_the_scores_of_the_json(run: Runner, tmp_path: Path) -> None:
    hits = run.json("search", "a dog")
    assert [list(hit["why"]) for hit in hits] == [["picture", "segment", "frames", "words"]] * 2
    np.testing.assert_allclose([hit["score"] for hit in hits], [hit["why"]["picture"] for hit in hits], atol=1e-6)
    head, *lines = run.out("search", "a dog", "--explain").splitlines()
    assert head.split() == ["rank", "match", "score", *hits[0]["why"], "best", "at", "video"]
    for rank, (line, hit) in enumerate(zip(lines, hits, strict=True), start=1):
        numbers = [f"{value:.3f}" for value in (hit["score"], *hit["why"].values())]
        assert (line.split()[0], line.split()[4:9]) == (str(rank), numbers)
    (tmp_path / "queries.jsonl").write_text('{"query": "a dog"}\n')
    assert json.loads(run.out("search", "--queries", tmp_path / "queries.jsonl"))["hits"] == hits
    for rerank, levels in (("none", ["frames"]), ("mean", ["segment"]), ("glscl", ["pooled"])):
        hits = run.json("search", "a dog", "--rerank", rerank)
        assert [list(hit["why"]) for hit in hits] == [["picture", *levels]] * 2
        heads = run.out("search", "a dog", "--rerank", rerank, "--explain").split()
        assert heads[2:5] == ["score", "picture", levels[0]]


@pytest.mark.usefixtures("patched")
def test_wrong_rerank_settings_are_refused(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_ranker("trained glscl", tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "odd.safetensors")
    (tmp_path / "bank.txt").write_text("a dog\n" * 10)
    (tmp_path / "films").mkdir()
    for command, code, sentence in (
        ("index films --rerank glscl", 1, "patched: rerank must be ucofia, which the index was built with, got glscl"),
        ("index films --index new --rerank odd.safetensors", 1, "odd.safetensors: not an aligner that"),
        ("search rain --rerank colbert", 2, "or the file of an aligner, got colbert"),
        ("search rain --rerank glscl.safetensors", 1, "glscl.safetensors: the index must be made with this"),
        ("calibrate --bank bank.txt --rerank colbert", 2, "got colbert"),
        ("calibrate --bank bank.txt --index nowhere", 1, "there is no index here"),
        ("calibrate --bank bank.txt --limit 0", 2, "--limit"),
    ):
        run.check_refusal(command, code, sentence)
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("index")
def test_events_are_shown_with_their_interpretation(run: Runner) -> None:
    _, out, err = run("search", "red, then blue")
    assert "looking for 1. red then 2. blue" in err
    assert "1. red" in out
    assert "2. blue" in out
    assert [event["text"] for event in run.json("search", "red, then blue")[0]["events"]] == ["red", "blue"]
    assert "events" not in run.json("search", "red")[0]
    _, out, err = run("locate", "red, then blue", "--weak", "-k", 1)
    assert "looking for 1. red then 2. blue" in err
    assert [line.split()[-1] for line in out.splitlines()[2:4]] == ["red", "blue"]
    assert "looking for 1. red" in run.err("search", "red, then black", "--by", "moment")


@pytest.mark.usefixtures("index")
def test_moments_are_grouped_by_video(run: Runner, tmp_path: Path) -> None:
    by_moment = ("search", "red", "--by", "moment")
    head, video, moment, *_ = run.out(*by_moment, "--sheet", tmp_path / "moments.png").splitlines()
    found = run.json(*by_moment)[0]
    assert head.split() == ["rank", "match", "score", "start", "end", "video"]
    assert video.split()[:3] == [*format_probability(found["probability"]).split(), found["likelihood"]]
    assert (Path(video.split()[-1]).name, moment.split()[0]) == ("red.mp4", "1")
    assert (Path(found["path"]).name, found["score"]) == ("red.mp4", found["moments"][0]["score"])
    assert (tmp_path / "moments.png").is_file()


@pytest.mark.usefixtures("index")
def test_results_are_judged_by_file_and_time(run: Runner) -> None:
    plain = run.json("search", "red")
    last = plain[-1]
    name = Path(last["path"]).name
    liked = run.json("search", "red", "--like", f"{name}@0:01")
    assert liked == run.json("search", "red", "--like", f"{last['video']}@1")
    scores = [next(hit["score"] for hit in hits if hit["video"] == last["video"]) for hits in (plain, liked)]
    assert scores[1] > scores[0]
    assert run.json("search", "--like", f"{name}@1")[0]["video"] == last["video"]
    assert len(run.json("search", "red", "--display", "diverse")) == len(plain)


def test_an_index_without_videos_says_so(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "bad.mp4").write_bytes(b"no video")
    run("index", tmp_path / "films", "--index", tmp_path / "new")
    for verb in ("search", "locate"):
        assert "the index has no videos yet Nothing was found." in run.err(verb, "red", "--index", tmp_path / "new")


@pytest.mark.usefixtures("index")
def test_options_that_do_not_fit_are_refused(run: Runner) -> None:
    for command, code, sentence in (
        ("search red --by moment --rerank none", 2, "--rerank: needs --by video, got moment and none"),
        ("search --queries - --sheet a.png", 2, "--sheet: needs a single search, got --queries"),
        ("search --queries - --by moment", 2, "--queries: needs --by video, got moment"),
        ("search --queries - --explain", 2, "--explain: needs a single search, got --queries"),
        (
            "search red --by moment -k 99 --offset 2 --server http://a",
            2,
            "--by: with --server, moment needs -k plus --offset",
        ),
        ("search red --by moment --explain", 2, "--explain: needs --by video, got moment"),
        ("search --clip red.mp4 --explain", 2, "--clip: needs --by video without --explain"),
        ("search --clip red.mp4 --by moment", 2, "--clip: needs --by video without --explain"),
        ("search --clip red.mp4 --in speech", 2, "--clip: takes -k and filters only"),
        ("locate --clip red.mp4 --at-least 0.5", 2, "--clip: takes -k and filters only"),
        ("search red --judge-by pair", 2, "--judge: must be given with the options of a judge"),
        ("index . --describe-choices 3", 2, "--describe-choices: needs --describe URL, got none"),
        ("index . --words off --sounds off --sentence-model x", 2, "--sentence-model: needs --words on, got off"),
        ("search red --like red.mp4", 2, "--like: must be a file and a time"),
        ("search --unlike red.mp4@1", 2, "give a query, --image FILE"),
        ("search red --like red.mp4@1 --by moment", 2, "--like: needs --by video, got moment"),
        ("search red --sort-by crowded --by moment", 2, "--sort-by: needs --by video, got moment"),
        ("search red --display diverse --by moment", 2, "--display: needs --by video, got moment"),
        ("search red --person anna,", 1, "person must be one of the index, got anna"),
        ("search red --person ,", 1, "person must be one of the index, got an empty name"),
        ("search red --person anna --by moment", 1, "person must be one of the index, got anna"),
        ("search red --sort-by crowded --judge m", 2, "--judge: needs --by video without --offset and --sort-by"),
        ("search red --like none.mp4@1", 1, "none.mp4"),
        ("search red --like 9999999999999999999@1", 1, "9999999999999999999: not in the index"),
    ):
        run.check_refusal(command, code, sentence)


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index with words, which must not be changed."""
    return make_worded_films(tmp_path_factory.mktemp("spoken"))


@pytest.fixture
def run_worded(run: Runner, worded: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    fake_sentences(monkeypatch)
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: NamedColours())
    monkeypatch.setenv("VIDRET_INDEX", str(worded))
    return run


def test_words_stand_below_the_results(run_worded: Runner) -> None:
    lines = run_worded.out("search", "platform nine").splitlines()
    assert lines[1].endswith("red.mp4")
    assert 'on screen: "*platform* *nine*"' in lines[2]
    _, out, err = run_worded("locate", "platform nine")
    assert 'on screen: "*platform* *nine*"' in out
    assert "located by on-screen text, the similarity curve (no trained head)" in err.splitlines()
    for query, options, by in (
        ("sand the door lightly", ("--in", "speech"), "speech"),
        ("red", ("--in", "picture"), "the similarity curve (no trained head)"),
        ("red with sand the door lightly", (), "speech, the similarity curve (no trained head)"),
    ):
        assert f"located by {by}" in run_worded.err("locate", query, *options).splitlines(), query


def test_each_result_says_in_which_channel_it_was_found(run_worded: Runner) -> None:
    for command, query, channels in (
        (("search",), "platform nine", "on screen"),
        (("search",), "white", "seen"),
        (("locate",), "someone says sand the door lightly", "said"),
        (("locate",), "yellow", "seen"),
        (("search", "--by", "moment"), "white", "seen"),
    ):
        header, *rows = run_worded.out(*command, query, "-k", 1).splitlines()
        assert ("found" in header.split()) is ("--by" not in command), "below their video it is in the line"
        assert channels in "".join(rows[:2])
        (row,) = run_worded.json(*command, query, "-k", 1)
        assert row.get("evidence", row.get("moments", [{}])[0].get("evidence"))


def test_explain_shows_the_score_of_each_source(run_worded: Runner) -> None:
    heads = run_worded.out("search", "red line, captain, platform", "--explain").splitlines()[0].split()
    assert {"picture", "speech", "screen", "subtitles"} <= set(heads)
    out = run_worded.out("search", "platform nine", "--explain")
    heads = out.splitlines()[0].split()
    assert {"picture", "screen"} <= set(heads)
    assert not {"speech", "subtitles"} & set(heads), "they say nothing about it"
    assert " % seen" in out
    assert " % on screen" in out


def test_unknown_sources_are_refused(run_worded: Runner, blue: Path) -> None:
    for command in ("search", "locate"):
        for names in ("speech,nonsense", "", "speech,"):
            run_worded.check_refusal((command, "red", "--in", names), 2, "must list some of picture, speech")
    run_worded.check_refusal(("search", "--image", blue, "--in", "speech"), 2, "sources must include picture")
