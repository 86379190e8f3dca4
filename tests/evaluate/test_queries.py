"""vidret eval folder on queries by kind: the report, its page and its tables agree with what search and locate find."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.world import Answer, colour_encoder, load_colours, read, run, write_rows
from tests.fakes import write_film
from tests.metrics.naive import naive_overlap
from tests.spoken import NamedColours, add_all_words, fake_sentences, make_films, save_background
from vidret.channels.texts.options import WordsOptions
from vidret.data.records import find_videos
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.queries import evaluate_queries, read_queries_folder
from vidret.evaluate.report import Gallery, read_report
from vidret.evaluate.tables import make_tables
from vidret.language.judging import Candidate, Verdict

FILMS = {"red": (("red", 3),), "mixed": (("green", 5), ("red", 4), ("yellow", 7)), "blue": (("blue", 3),)}
QUERIES: tuple[tuple[str, str, str | None, list[list[float]]], ...] = (
    ("green", "plain", "mixed", [[0, 5]]),
    ("yellow", "plain", "mixed", [[9, 16]]),
    ("red & <more>", "plain", "red.mp4", [[0, 1], [0, 3]]),
    ("yellow green", "hard", "sub/blue.mp4", [[0, 3]]),
    ("purple", "absent", None, []),
    ("something else", "absent", None, []),
    ("black", "plain", "gone.mp4", [[0, 3]]),
)


def write_folder(folder: Path) -> Path:
    for name, scenes in FILMS.items():
        write_film(folder / "videos" / ("sub" if name == "blue" else "") / f"{name}.mp4", *scenes)
    write_film(folder / "videos" / "unasked.mp4", ("white", 2))
    rows = [{"query": text, "kind": kind, "file": file, "relevant_windows": w} for text, kind, file, w in QUERIES]
    write_rows(folder / "queries.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """Evaluate a folder of queries; return the folder and what was printed."""
    folder = write_folder(tmp_path_factory.mktemp("asked"))
    answer = run("eval", "folder", folder, "--out", folder / "out")
    assert answer.code == 0, answer.err
    return folder, answer


def test_report_equals_what_search_and_locate_find(answered: tuple[Path, Answer]) -> None:
    folder, _ = answered
    rows = {row["text"]: row for row in read(folder / "out" / "queries" / "report.json")["per_query"]}
    assert list(rows) == [text for text, _, file, _ in QUERIES if file != "gone.mp4"]
    with Engine(folder / "out" / "queries" / "index", colour_encoder()) as engine:
        for text, kind, file, windows in QUERIES[:-1]:
            hits, moments = engine.search(text), engine.locate(text, 10, videos=10, weak=True)
            row, found = rows[text], [Path(hit.path).stem for hit in hits]
            assert (row["kind"], row["video"], row["true"]) == (kind, file, windows)
            assert row["nothing"] == all(hit.weak for hit in hits)
            assert row["score"] == hits[0].score
            assert [Path(name).stem for name, _ in row["top"]] == found
            if file is None:
                assert "rank" not in row
                continue
            video_moments = [moment for moment in moments if Path(moment.path).stem == Path(file).stem]
            assert row["rank"] == found.index(Path(file).stem) + 1
            share = max(
                naive_overlap((video_moments[0].start, video_moments[0].end), (start, end)) for start, end in windows
            )
            assert row["best_overlap"] == pytest.approx(share)
            right = not row["nothing"] and share >= 0.5
            first = Path(moments[0].path).stem == Path(file).stem
            assert (row["correct"]["R1@0.5"], row["correct"]["hit@1"]) == (right, right and first)
    assert rows["green"]["correct"] == {"R@1": 1, "R@10": 1, "R1@0.5": 1, "hit@1": 1, "nothing": 0}
    assert rows["yellow green"]["correct"]["R@1"] == 0


def test_judge_is_measured_beside_the_search(answered: tuple[Path, Answer]) -> None:
    folder, _ = answered

    class Reversing:
        name = "reversing"

        def judge(self, query: str, candidates: Sequence[Candidate]) -> Verdict:
            if query == "yellow":
                raise VidretError("no")
            return Verdict(order=tuple(reversed(range(len(candidates)))), reasons={})

    split, videos = read_queries_folder(folder)
    with Engine(folder / "out" / "queries" / "index", colour_encoder()) as engine:
        gallery = Gallery(*find_videos(split.videos, videos), {})
        plain = evaluate_queries(Evaluation(engine, split, gallery)).to_dict()["results"]
        facts = evaluate_queries(Evaluation(engine, split, gallery), judge=Reversing()).to_dict()
    judged = facts["results"]
    assert judged["kinds_unjudged"] == plain["kinds"]
    assert judged["kinds"] != plain["kinds"]
    assert judged["num_judge_failed"] == 1
    titles = [title for title, _ in make_tables(facts)]
    assert titles == [
        "queries by kind, each in 4 videos, without a judge",
        "queries by kind, each in 4 videos, judged by reversing (1 not judged, since it failed)",
    ]


def test_report_round_trip_and_table_by_kind(answered: tuple[Path, Answer]) -> None:
    folder, answer = answered
    out = folder / "out"
    assert [path.name for path in out.iterdir()] == ["queries"]
    assert sorted(path.name for path in (out / "queries").iterdir()) == ["index", "report.html", "report.json"]
    facts = read_report(out / "queries" / "report.json")
    assert (facts["task"], facts["settings"]["by"]) == ("queries", "picture")
    assert (facts["data"]["num_queries"], facts["data"]["missing"]) == (7, ["gone.mp4"])
    assert (facts["data"]["num_videos"], facts["results"]["num_videos"]) == (5, 4), "also the video without a query"
    assert "1 video missing, omitted with their rows: gone.mp4" in answer.err
    kinds = facts["results"]["kinds"]
    assert [(row["kind"], row["num_queries"]) for row in kinds] == [("hard", 1), ("plain", 3), (None, 4), ("absent", 2)]
    lines = answer.out.splitlines()
    assert lines[0] == "queries by kind, each in 4 videos"
    assert lines[1].split() == ["kind", "queries", "R@1", "R@10", "R1@0.5", "hit@1", "nothing", "AUC"]
    plain, absent = (next(line.split() for line in lines if line.split()[:1] == [kind]) for kind in ("plain", "absent"))
    names = ("R@1", "R@10", "R1@0.5", "hit@1", "nothing")
    assert plain == ["plain", "3", *(f"{kinds[1][name]:.1f}" for name in names), f"{kinds[1]['AUC']:.3f}"]
    assert absent == ["absent", "2", f"{kinds[3]['nothing']:.1f}"]


def test_page_shows_the_kinds_and_the_worst_queries(answered: tuple[Path, Answer]) -> None:
    page = (answered[0] / "out" / "queries" / "report.html").read_text("utf-8")
    assert f"<h1>Queries on {answered[0].name}</h1>" in page
    assert "<h2>Queries by kind, each in 4 videos</h2>" in page
    articles = page.split("<article>")[1:]
    assert len(articles) == 6
    assert all("absent: answered, but no video is correct" in article for article in articles[:2])
    assert "<h3>yellow green</h3>" in articles[2], "the only one whose video is not the first"
    assert "its video: sub/blue.mp4" in articles[2]
    assert "red &amp; &lt;more&gt;" in page
    assert all(article.count("<img") >= 2 for article in articles)


def test_queries_without_their_videos_are_refused(tmp_path: Path) -> None:
    row = {"query": "red", "kind": "plain", "file": "gone.mp4", "relevant_windows": [[0, 1]]}
    write_film(tmp_path / "videos" / "red.mp4", ("red", 1))
    write_rows(tmp_path / "queries.jsonl", [row])
    answer = run("eval", "folder", tmp_path, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (1, "")
    assert "queries: must have at least one query with an available video or none, got none" in answer.err
    write_rows(tmp_path / "queries.jsonl", [row, {**row, "file": 3}])
    answer = run("eval", "folder", tmp_path, "--out", tmp_path / "other")
    assert f"{tmp_path / 'queries.jsonl'}:2: file must be a non-empty string, got 3" in answer.err
    assert not (tmp_path / "other").exists()
    write_rows(tmp_path / "captions.jsonl", [{"video": "red.mp4", "captions": ["red"]}])
    assert run("eval", "folder", tmp_path, "--out", tmp_path / "other").code == 1
    write_rows(tmp_path / "queries.jsonl", [{**row, "file": "red.mp4"}])
    assert run("eval", "folder", tmp_path, "--out", tmp_path / "other", "--words", "smell").code == 2
    assert not (tmp_path / "other").exists(), "nothing is indexed before all is checked"


def test_words_are_read_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def stop(self: Engine, paths: object, *, words: object, **_: object) -> None:
        asked.append(words)
        raise VidretError("stopped")

    monkeypatch.setattr(Engine, "index", stop)
    write_film(tmp_path / "videos" / "red.mp4", ("red", 1))
    write_rows(tmp_path / "queries.jsonl", [{"query": "red", "kind": "absent", "file": None}])
    for words in ((), ("--words", "speech"), ("--words", "on")):
        assert run("eval", "folder", tmp_path, "--out", tmp_path / "out", *words, load=load_colours).code == 1
    assert asked == [False, WordsOptions(sources=("speech",)), WordsOptions()]
    answer = run("eval", "folder", tmp_path, "--out", tmp_path / "out", "--words", "smell")
    assert (answer.code, answer.out) == (2, "")
    assert "must be auto, on, off or some of" in answer.err


def test_words_answer_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_films(tmp_path)
    add_all_words(index)
    fake_sentences(monkeypatch)
    save_background(index)
    rows = [
        {"query": "good morning captain", "kind": "said", "file": "blue.mp4", "relevant_windows": [[5, 7]]},
        {"query": "platform nine", "kind": "shown", "file": "red.mp4", "relevant_windows": [[0, 4]]},
    ]
    write_rows(tmp_path / "queries.jsonl", rows)
    split, videos = read_queries_folder(tmp_path)
    assert videos == tmp_path, "there is no videos/"
    assert split.videos == ("blue.mp4", "red.mp4", "films/back.mp4", "films/turn.mp4", "films/white.mp4")
    gallery = Gallery(*find_videos(split.videos, tmp_path), {})
    done: list[tuple[int, int]] = []
    with Engine(index, NamedColours()) as engine:
        report = evaluate_queries(Evaluation(engine, split, gallery, lambda *count: done.append(count)))
    assert done == [(1, 2), (2, 2)]
    assert sorted(report.settings["by"].split(", ")) == ["picture", "screen", "speech", "subtitles"]
    for row in report.results["kinds"]:
        assert (row["R@1"], row["R1@0.5"], row["nothing"], row["AUC"]) == (100, 100, 0, None)
    write_film(tmp_path / "films" / "late.mp4", ("blue", 1))
    split, _ = read_queries_folder(tmp_path)
    gallery = Gallery(*find_videos(split.videos, tmp_path), {})
    with Engine(index, NamedColours()) as engine, pytest.raises(VidretError, match=r"late\.mp4: must be in the index"):
        evaluate_queries(Evaluation(engine, split, gallery))
