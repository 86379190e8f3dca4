"""Tests of vidret search."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.cli.runner import Runner
from tests.fakes import write_film
from tests.rankers import make_ranker
from vidret.text import format_probability


def test_table(run: Runner, index: Path) -> None:
    code, out, _ = run("search", "red", "--index", index)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["rank", "match", "best", "at", "video"]
    assert lines[1].endswith("red.mp4")
    assert len(lines) == 3
    hits = json.loads(run("search", "red", "--index", index, "--json")[1])
    for line, hit in zip(lines[1:], hits, strict=True):
        assert line.split()[1:4] == [*format_probability(hit["probability"]).split(), hit["likelihood"]]


def test_several_indexes_are_searched_as_one(
    run: Runner, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_film(tmp_path / "green.mp4", ("green", 4))
    run("index", tmp_path / "green.mp4", "--index", tmp_path / "more", "--model", "tests.fakes:ColourEncoder")
    for command in ("search", "locate"):
        rows = json.loads(run(command, "green", "--index", index, "--index", tmp_path / "more", "--json")[1])
        assert Path(rows[0]["path"]).name == "green.mp4"
        assert {Path(row["path"]).name for row in rows} >= {"green.mp4", "red.mp4", "blue.mp4"}
        monkeypatch.setenv("VIDRET_INDEX", f"{index}{os.pathsep}{tmp_path / 'more'}")
        assert json.loads(run(command, "green", "--json")[1]) == rows
    run.check_refusal(
        ("search", "green", "--index", index, "--index", tmp_path / "none"),
        1,
        f"{tmp_path / 'none'}: there is no index here",
    )


def test_a_query_needs_no_quotes(run: Runner, index: Path) -> None:
    assert run("search", "red", "or", "blue", "--index", index) == run("search", "red or blue", "--index", index)


def test_json_and_json_lines(run: Runner, index: Path, tmp_path: Path) -> None:
    hits = json.loads(run("search", "blue", "--index", index, "-k", 1, "--json")[1])
    assert [Path(hit["path"]).name for hit in hits] == ["blue.mp4"]
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"qid": 7, "query": "red"}\n\n{"qid": 8, "query": "blue"}\n')
    rows = [json.loads(line) for line in run("search", "--queries", queries, "--index", index)[1].splitlines()]
    assert [(row["qid"], Path(row["hits"][0]["path"]).name) for row in rows] == [(7, "red.mp4"), (8, "blue.mp4")]


def test_line_without_a_query_is_named(run: Runner, index: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "red"}\n{"text": "blue"}\n')
    code, _, err = run("search", "--queries", queries, "--index", index)
    assert (code, "line 2 must be an object" in err) == (1, True)


def test_that_nothing_matches_well_is_said_above_what_is_nearest(run: Runner, index: Path) -> None:
    for command in (("search",), ("search", "--by", "moment"), ("locate",)):
        _, out, err = run(*command, "yellow", "--index", index)
        assert "Nothing matches well. The nearest are:" in err
        assert "red.mp4" in out
        assert "unlikely" in out
        assert "Nothing matches well" not in run(*command, "red", "--index", index)[2]


def test_results_may_have_to_be_probable(run: Runner, index: Path) -> None:
    hits = json.loads(run("search", "red", "--index", index, "--json")[1])
    least = hits[0]["probability"]
    assert json.loads(run("search", "red", "--index", index, "--json", "--at-least", least)[1]) == hits[:1]
    for command in (("search",), ("search", "--by", "moment"), ("locate",)):
        code, out, err = run(*command, "red", "--index", index, "--at-least", 0.999)
        assert (code, out) == (0, "")
        assert "No match has a probability of >99 % or more." in err
    run.check_refusal(
        ("search", "red", "--index", index, "--at-least", 2), 1, "at_least must be between 0 and 1, got 2.0"
    )


def test_an_image_has_scores_and_no_probability(run: Runner, index: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (30, 30, 200)).save(tmp_path / "blue.png")
    command = ("search", "--image", tmp_path / "blue.png", "--index", index)
    assert run(*command)[1].splitlines()[0].split() == ["rank", "score", "best", "at", "video"]
    hits = json.loads(run(*command, "--json")[1])
    assert {(hit["probability"], hit["likelihood"], hit["weak"]) for hit in hits} == {(None, None, False)}
    code, _, err = run(*command, "--at-least", 0.5)
    assert (code, "at_least must be 0 for an image or a vector, got 0.5" in " ".join(err.split())) == (1, True)


def read_names(out: str) -> list[str]:
    return [Path(row["path"]).name for row in json.loads(out)]


def test_image_query_finds_similar_videos(run: Runner, index: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (40, 30), (30, 30, 200, 255)).save(tmp_path / "blue.png")
    code, out, _ = run("search", "--image", tmp_path / "blue.png", "--index", index, "--json")
    assert (code, read_names(out)[0]) == (0, "blue.mp4")
    command = ("search", "--image", tmp_path / "blue.png", "--index", index, "--sheet", tmp_path / "hits.png")
    assert "contact sheet:" in run(*command)[2]


def test_image_above_the_pixel_limit_is_refused(run: Runner, index: Path, tmp_path: Path) -> None:
    Image.new("1", (8000, 5001)).save(tmp_path / "large.png")
    run.check_refusal(
        ("search", "--image", tmp_path / "large.png", "--index", index),
        1,
        "large.png: cannot be read as an image: image must have at most 40 megapixels",
    )


def test_a_folder_is_found_in_another_unicode_form(run: Runner, tmp_path: Path) -> None:
    films = tmp_path / "vide\N{COMBINING ACUTE ACCENT}os"
    write_film(films / "red.mp4", ("red", 2))
    index = tmp_path / "index"
    assert run("index", films, "--index", index)[0] == 0
    typed = tmp_path / "vid\N{LATIN SMALL LETTER E WITH ACUTE}os"
    code, out, _ = run("search", "red", "--folder", typed, "--index", index, "--json")
    assert code == 0
    assert [row["path"] for row in json.loads(out)] == [str(films / "red.mp4")]


def test_query_may_start_with_a_negative_term(run: Runner, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("search", "locate"):
        assert read_names(run(command, "--index", index, "--json", "--", "-red blue")[1])[0] == "blue.mp4"
        monkeypatch.setenv("COLUMNS", "250")
        assert "-- '-beach dog'" in run(command, "--help")[1]


def test_explain_shows_the_scores_of_the_json(run: Runner, patched: Path, tmp_path: Path) -> None:
    hits = json.loads(run("search", "a dog", "--index", patched, "--json")[1])
    assert [list(hit["why"]) for hit in hits] == [["picture", "segment", "frames", "words"]] * 2
    for hit in hits:
        assert hit["score"] == pytest.approx(hit["why"]["picture"], abs=1e-6)
    lines = run("search", "a dog", "--index", patched, "--explain")[1].splitlines()
    assert lines[0].split() == ["rank", "match", "score", *hits[0]["why"], "best", "at", "video"]
    for rank, (line, hit) in enumerate(zip(lines[1:], hits, strict=True), start=1):
        numbers = [f"{value:.3f}" for value in (hit["score"], *hit["why"].values())]
        assert line.split()[0] == str(rank)
        assert line.split()[4:9] == numbers
    plain = run("search", "a dog", "--index", patched)[1].splitlines()
    assert plain[0].split() == ["rank", "match", "best", "at", "video"]
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "a dog"}\n')
    assert json.loads(run("search", "--queries", queries, "--index", patched)[1])["hits"] == hits


def test_reranker_is_selectable(run: Runner, patched: Path) -> None:
    for rerank, levels in (("none", ["frames"]), ("mean", ["segment"]), ("glscl", ["pooled"])):
        hits = json.loads(run("search", "a dog", "--index", patched, "--rerank", rerank, "--json")[1])
        assert [list(hit["why"]) for hit in hits] == [["picture", *levels]] * 2
        heads = run("search", "a dog", "--index", patched, "--rerank", rerank, "--explain")[1].split()
        assert heads[2:5] == ["score", "picture", levels[0]]


def test_line_of_invalid_json_is_named(run: Runner, patched: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "red"}\n{"query": \n')
    code, _, err = run("search", "--queries", queries, "--index", patched)
    assert code == 1
    assert 'line 2 must be an object with "query", got {"query":' in err


def test_wrong_rerank_settings_are_refused(
    run: Runner, patched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDRET_INDEX", str(patched))
    make_ranker("trained glscl", tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "odd.safetensors")
    (tmp_path / "bank.txt").write_text("a dog\n" * 10)
    for command, code, sentence in (
        ("index films --rerank glscl", 1, "patched: rerank must be ucofia, which the index was built with, got glscl"),
        ("index films --rerank colbert", 2, "--rerank: must be auto, none, mean, ucofia, glscl or the file of an"),
        ("index films --index new --rerank none --tokens int4", 2, "--tokens: must be one of int8, float16"),
        ("index films --index new --rerank odd.safetensors", 1, "odd.safetensors: not an aligner that"),
        ("search rain --rerank colbert", 2, "or the file of an aligner, got colbert"),
        ("search rain --rerank glscl.safetensors", 1, "glscl.safetensors: the index must be made with this"),
        ("calibrate --bank bank.txt --rerank colbert", 2, "got colbert"),
        ("calibrate --bank bank.txt --index nowhere", 1, "there is no index here"),
        ("calibrate --bank nothing.txt", 1, "nothing.txt: cannot be read: "),
        ("calibrate --bank bank.txt --limit 0", 2, "--limit"),
        ("calibrate", 2, "--bank"),
    ):
        run.check_refusal(command, code, sentence)
    assert not (tmp_path / "new").exists()


def test_events_are_shown_with_their_interpretation(run: Runner, index: Path, tmp_path: Path) -> None:
    _, out, err = run("search", "red, then blue", "--index", index)
    assert "looking for 1. red then 2. blue" in err
    assert "1. red" in out
    assert "2. blue" in out
    hit = json.loads(run("search", "red, then blue", "--index", index, "--json")[1])[0]
    assert [event["text"] for event in hit["events"]] == ["red", "blue"]
    assert "events" not in json.loads(run("search", "red", "--index", index, "--json")[1])[0]
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"events": ["red", "blue"], "gap": 2}\n')
    row = json.loads(run("search", "--queries", queries, "--index", index)[1])
    assert row["interpretation"] == "looking for 1. red then within 2 s 2. blue"
    assert [event["text"] for event in row["hits"][0]["events"]] == ["red", "blue"]


def test_events_of_moments_are_shown(run: Runner, index: Path) -> None:
    _, out, err = run("locate", "red, then blue", "--index", index, "--weak", "-k", 1)
    assert "looking for 1. red then 2. blue" in err
    assert [line.split()[-1] for line in out.splitlines()[2:4]] == ["red", "blue"]


def test_moments_are_grouped_by_video(run: Runner, index: Path) -> None:
    code, out, _ = run("search", "red", "--by", "moment", "--index", index)
    lines = out.splitlines()
    assert code == 0
    assert lines[1].endswith("red.mp4")
    assert lines[2].split()[0] == "1"
    videos = json.loads(run("search", "red", "--by", "moment", "--index", index, "--json")[1])
    assert Path(videos[0]["path"]).name == "red.mp4"
    assert videos[0]["score"] == videos[0]["moments"][0]["score"]
    assert lines[0].split() == ["rank", "match", "score", "start", "end", "video"]
    assert lines[1].split()[:3] == [*format_probability(videos[0]["probability"]).split(), videos[0]["likelihood"]]
    assert "looking for 1. red" in run("search", "red, then black", "--by", "moment", "--index", index)[2]
    assert run("search", "red", "--by", "scene", "--index", index)[0] == 2
    assert run("search", "red", "--by", "moment", "--rerank", "none", "--index", index)[0] == 2
    assert run("search", "--queries", "-", "--by", "moment", "--index", index)[0] == 2


def test_results_are_judged_by_file_and_time(run: Runner, index: Path) -> None:
    plain = json.loads(run("search", "red", "--index", index, "--json")[1])
    last = plain[-1]
    name = Path(last["path"]).name
    liked = json.loads(run("search", "red", "--like", f"{name}@0:01", "--index", index, "--json")[1])
    assert liked == json.loads(run("search", "red", "--like", f"{last['video']}@1", "--index", index, "--json")[1])
    scores = [next(hit["score"] for hit in hits if hit["video"] == last["video"]) for hits in (plain, liked)]
    assert scores[1] > scores[0]
    alike = json.loads(run("search", "--like", f"{name}@1", "--index", index, "--json")[1])
    assert alike[0]["video"] == last["video"]
    for arguments in (
        ["red", "--like", name],
        ["--unlike", f"{name}@1"],
        ["red", "--like", f"{name}@1", "--by", "moment"],
    ):
        assert run("search", *arguments, "--index", index)[0] == 2
    assert run("search", "red", "--like", "none.mp4@1", "--index", index)[0] == 1
    assert len(json.loads(run("search", "red", "--display", "diverse", "--index", index, "--json")[1])) == len(plain)
