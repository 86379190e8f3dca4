"""vidret eval moments, highlights and score: spans match the colours, results equal the metrics; rated moments."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.evaluate.world import MOMENTS, Answer, as_row, colour_encoder, read, run, write_rows
from tests.fakes import write_film
from tests.metrics.naive import naive_overlap
from tests.noting import note_calls
from tests.spoken import NamedColours, add_all_words, fake_sentences, make_films, save_background
from vidret.data.benchmarks.moments import read_labelled
from vidret.data.benchmarks.registry import DATASETS, Benchmark, SplitSource
from vidret.data.benchmarks.splits import read_split
from vidret.data.records import OPEN_LENGTHS, QVHIGHLIGHTS_LENGTHS, LabelledQuery, Scoring, Split, find_videos
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.moments import CORPUS, evaluate_highlights, evaluate_moments, group_domains, score_predictions
from vidret.evaluate.report import Gallery
from vidret.evaluate.tables import make_tables
from vidret.metrics.corpus_moments import RetrievedMoment, score_corpus, score_partially_relevant, score_rated
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import score_highlights, score_tvsum, score_youtube
from vidret.metrics.predictions import Prediction, read_predictions
from vidret.types import Sequence

Located = tuple[Path, Answer]
AVAILABLE = MOMENTS[:6]


@pytest.fixture(scope="module")
def report(located: Located) -> dict[str, Any]:
    return read(located[0] / "report.json")


@pytest.fixture(scope="module")
def predictions(located: Located) -> list[Prediction]:
    return read_predictions(located[0] / "predictions.jsonl")


@pytest.fixture
def engine(searched: tuple[Path, Answer]) -> Engine:
    return Engine(searched[0] / "index", colour_encoder())


def queries_of(world: Path) -> list[LabelledQuery]:
    return [query for query in read_split("moments", world).queries if int(query.id) <= len(AVAILABLE)]


def as_json(facts: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(facts))
    return content


def test_moments_match_the_colours(report: dict[str, Any]) -> None:
    rows = {row["id"]: row for row in report["per_query"]}
    assert list(rows) == [str(moment[0]) for moment in AVAILABLE]
    for qid, query, video, duration, window, kind in AVAILABLE:
        row = rows[str(qid)]
        assert (row["text"], row["video"], row["domain"], row["duration"]) == (query, video, kind, duration)
        assert row["true"] == [list(window)]
        assert row["overlap"] == pytest.approx(naive_overlap(row["found"][:2], window), abs=1e-9)
    assert [rows[str(qid)]["overlap"] > 0.9 for qid in (1, 2, 3)] == [True] * 3


def test_results_equal_the_metrics_of_the_predictions(
    report: dict[str, Any], predictions: list[Prediction], world: Path
) -> None:
    queries = queries_of(world)
    results = report["results"]
    assert results["moments"] == as_json(score_moments(queries, predictions, lengths=OPEN_LENGTHS).to_dict())
    for domain in ("scenes", "single"):
        in_domain = [query for query in queries if query.domain == domain]
        domain_predictions = [
            prediction for prediction in predictions if prediction.id in {query.id for query in in_domain}
        ]
        assert results["domains"][domain] == as_json(
            score_moments(in_domain, domain_predictions, lengths=OPEN_LENGTHS).to_dict()
        )
    assert results["domains"].keys() == {"scenes", "single"}


def test_corpus_search_treats_copies_as_one_video(report: dict[str, Any], engine: Engine, world: Path) -> None:
    names = {"twin.mp4": "white"}  # the same content
    found = {}
    for query in queries_of(world):
        moments = engine.locate(query.text, 100, videos=100, overlapping=True, weak=True)
        found[query.id] = [
            RetrievedMoment(names.get(Path(m.path).name, Path(m.path).stem), m.start, m.end) for m in moments
        ]
    queries = [
        q if q.video != "twin" else LabelledQuery(q.id, "white", q.text, 2.0, q.spans) for q in queries_of(world)
    ]
    expected = as_json(score_corpus(queries, found).to_dict())
    ranks = {}
    for query in queries:
        hits = [Path(hit.path).stem for hit in engine.search(query.text, 100, copies="show")]
        ranks[query.id] = [{"twin": "white"}.get(name, name) for name in hits].index(query.video) + 1
    searched = {"PRVR": score_partially_relevant(np.array(list(ranks.values())))}
    assert report["results"]["corpus"] == {"num_videos": 4, **expected, **searched}
    scored = score_corpus(queries, found).moments.tolist()
    assert [row["corpus"] for row in report["per_query"]] == [
        {"VCMR, IoU 0.5": one, "VCMR, IoU 0.7": other, "PRVR": ranks[query.id]}
        for query, (one, other) in zip(queries, scored, strict=True)
    ]
    by_kind = report["results"]["corpus_domains"]
    assert by_kind.keys() == {"scenes", "single"}
    domains = {query.id: query.domain for query in queries_of(world)}
    for kind, facts in by_kind.items():
        kind_queries = [query for query in queries if domains[query.id] == kind]
        searched = {"PRVR": score_partially_relevant(np.array([ranks[query.id] for query in kind_queries]))}
        assert facts == as_json(score_corpus(kind_queries, found).to_dict()) | searched
    assert report["settings"]["corpus_videos"] == 100


def test_corpus_search_finds_a_video_in_which_a_head_finds_nothing(
    engine: Engine, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "locate", lambda *_, **__: [])
    split = replace(read_split("moments", world), queries=tuple(queries_of(world)))
    files, missing = find_videos(split.videos, world)
    evaluation = Evaluation(engine, split, Gallery(files, missing, {"bad": "no video"}))
    searched = evaluate_moments(evaluation, corpus=True)[0].results["corpus"]
    assert searched["num_queries"] == len(AVAILABLE)
    assert (searched["PRVR"]["R100"], searched["VR"]["R100"]) == (100.0, 100.0)


def test_predictions_have_the_format_of_submissions(
    predictions: list[Prediction], located: Located, engine: Engine, world: Path
) -> None:
    rows = [json.loads(line) for line in (located[0] / "predictions.jsonl").read_text().splitlines()]
    assert [row["qid"] for row in rows] == [moment[0] for moment in AVAILABLE]
    assert [(row["query"], row["vid"]) for row in rows] == [moment[1:3] for moment in AVAILABLE]
    for row, prediction in zip(rows, predictions, strict=True):
        assert prediction.spans is not None
        moments = engine.locate(
            row["query"], 50, video=world / "videos" / f"{row['vid']}.mp4", overlapping=True, weak=True
        )
        assert prediction.spans.tolist() == [[m.start, m.end, m.score] for m in moments]


def test_report_names_the_words_that_moments_are_found_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_films(tmp_path)
    add_all_words(index)
    fake_sentences(monkeypatch)
    save_background(index)
    query = LabelledQuery("1", "blue.mp4", "good morning captain", 8.0, ((5.0, 7.0),))
    split = Split("moments", (), ("blue.mp4",), queries=(query,))
    with Engine(index, NamedColours()) as engine:
        report, _ = evaluate_moments(Evaluation(engine, split, Gallery(*find_videos(split.videos, tmp_path), {})))
    assert report.settings["by"] == "the similarity curve, speech, screen, subtitles"


def test_report_describes_data_model_and_settings(report: dict[str, Any], located: Located) -> None:
    data = report["data"]
    assert (data["num_queries"], data["num_videos"], data["num_found"]) == (8, 6, 4)
    assert (data["missing"], list(data["failed"])) == (["gone"], ["bad"])
    assert report["settings"]["by"] == "the similarity curve"
    assert "intersection over union" in report["settings"]["protocol"]
    assert report["seconds"].keys() == {"indexing", "scoring"}
    out, err = located[1].out, located[1].err
    assert "\ncorrect video (VR) " in out, "text begins at the left"
    assert "8 queries, 4 of 6 videos" in err
    assert "1 video missing, omitted with their rows: gone" in err
    assert "1 video unreadable, omitted with their rows: bad" in err
    assert "written to" in err
    assert "report.json, predictions.jsonl, report.html" in err
    titles = [section.splitlines()[0] for section in out.split("\n\n")]
    assert titles == [
        "moments, each in its own video",
        "moments, scenes only",
        "moments, single only",
        "moments, each in 4 videos",
        "moments, scenes only, each in 4 videos",
        "moments, single only, each in 4 videos",
    ]
    assert " ".join(out.splitlines()[1].split()) == (
        "true spans queries R1@0.3 R1@0.5 R1@0.7 R5@0.5 mIoU mAP@0.5 mAP@0.75 mAP"
    )
    assert out.splitlines()[2].split()[:2] == ["all", "6"]


def test_sentences_of_benchmarks_are_one_event_and_your_own_as_typed(
    engine: Engine, world: Path, tmp_path: Path
) -> None:
    text, film = "green then yellow, no red", world / "videos" / "mixed.mp4"
    row = as_row((1, text, "mixed", 16, (0, 16), "any"))
    for name, asked in (("qvhighlights", Sequence([text], verbatim=True)), ("moments", text)):
        benchmark = DATASETS[name]
        write_rows(tmp_path / benchmark.splits[benchmark.default].needed[0], [row])
        split = read_split(name, tmp_path)
        evaluation = Evaluation(engine, split, Gallery(*find_videos(split.videos, world), {}))
        report, (prediction,) = evaluate_moments(evaluation, corpus=True)
        moments = engine.locate(asked, 50, video=film, overlapping=True, weak=True)
        assert prediction.spans is not None
        assert prediction.spans.tolist() == [[moment.start, moment.end, moment.score] for moment in moments]
        everywhere = [
            RetrievedMoment(Path(moment.path).stem, moment.start, moment.end)
            for moment in engine.locate_with(asked, CORPUS)
        ]
        expected = as_json(score_corpus(split.queries, {"1": everywhere}).to_dict())
        assert {name: report.results["corpus"][name] for name in expected} == expected
    whole, placed = (engine.locate(asked, video=film, weak=True)[0] for asked in (Sequence([text]), text))
    assert [len(moment.events) for moment in (whole, placed)] == [0, 2], "the sentence is one that searches split"


def test_sentences_of_benchmarks_are_encoded_as_they_are(
    world: Path, tmp_path: Path, searched: tuple[Path, Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = colour_encoder()
    asked = note_calls(monkeypatch, encoder, "encode_text", lambda texts: [*texts])
    sentence, rating = ' A sign  with the words "red eye" is green.', {"relevant_clip_ids": [0]}
    row = as_row((1, sentence, "mixed", 16, (0, 16), "any")) | rating | {"saliency_scores": [[4, 4, 4]]}
    write_rows(tmp_path / "highlight_val_release.jsonl", [row])
    split = read_split("qvhighlights", tmp_path)
    with Engine(searched[0] / "index", encoder) as engine:
        gallery = Gallery(*find_videos(split.videos, world), {})
        _, (prediction,) = evaluate_moments(Evaluation(engine, split, gallery), corpus=True)
        assert {text for texts in asked for text in texts if "sign" in text} == {sentence}
        _, (rated,) = evaluate_highlights(Evaluation(engine, split, gallery))
    assert prediction.saliency is not None
    assert rated.saliency is not None
    assert prediction.saliency.tolist() == rated.saliency.tolist()
    assert {text for texts in asked for text in texts if "sign" in text} == {sentence}


def test_score_command_equals_the_report(report: dict[str, Any], located: Located, world: Path, tmp_path: Path) -> None:
    truth = write_rows(tmp_path / "kept.jsonl", map(as_row, AVAILABLE))
    pred = ("--pred", located[0] / "predictions.jsonl")
    answer = run("eval", "score", *pred, "--truth", truth, "--json")
    scored = json.loads(answer.out)
    assert scored.pop("data") == {"name": "moments", "files": [str(truth)], "notes": [], "num_queries": len(AVAILABLE)}
    assert scored == {name: report["results"][name] for name in ("moments", "domains")}
    table = run("eval", "score", *pred, "--truth", truth)
    assert table.out.strip() == located[1].out.split("\n\nmoments, each in 4")[0]
    assert f"moments ({truth}): {len(AVAILABLE)} queries" in table.err
    answer = run("eval", "score", *pred, "--truth", world)
    assert (answer.code, answer.out) == (1, "")
    assert "predictions must include every query, but lack 2 of 8, first 7" in answer.err


# Saliency


def write_rated(folder: Path) -> None:
    """Write ratings in QVHighlights' format for the film of green (to 5 s), red (to 9 s) and yellow."""
    rows = []
    for qid, query, clips in ((1, "green", (0, 1)), (2, "red", (3,)), (3, "yellow", (5, 6, 7))):
        row = as_row((qid, query, "mixed", 16, (clips[0] * 2, clips[-1] * 2 + 2), "any"))
        rows.append({**row, "relevant_clip_ids": list(clips), "saliency_scores": [[4, 3, 4] for _ in clips]})
    write_rows(folder / "highlight_val_release.jsonl", rows)


def test_highlights_match_the_colours(searched: tuple[Path, Answer], world: Path, tmp_path: Path) -> None:
    write_rated(tmp_path)
    shared = ("--videos", world, "--annotations", tmp_path, "--index", searched[0] / "index", "--out", tmp_path / "out")
    answer = run("eval", "highlights", *shared)
    assert answer.code == 0, answer.err
    facts = read(tmp_path / "out" / "report.json")
    queries, found = (
        read_split("qvhighlights", tmp_path).queries,
        read_predictions(tmp_path / "out" / "predictions.jsonl"),
    )
    assert [prediction.spans for prediction in found] == [None] * 3
    best = [int(prediction.saliency.argmax()) for prediction in found if prediction.saliency is not None]
    assert [best[0] in (0, 1), best[1] == 3, best[2] in (5, 6, 7)] == [True] * 3
    scored = score_highlights(queries, found)
    assert facts["results"]["highlights"] == as_json(scored.to_dict())
    assert facts["results"]["highlights"]["Good"]["mAP"] == 100
    assert [row["precision"] for row in facts["per_query"]] == scored.average_precision[:, -1].mean(axis=1).tolist()
    assert answer.out.splitlines()[0] == "highlights"
    assert [line.split()[0] for line in answer.out.splitlines()[1:]] == ["level", "Fair", "Good", "VeryGood"]

    answer = run("eval", "moments", "--data", "qvhighlights-val", *shared)
    both = read(tmp_path / "out" / "report.json")["results"]
    assert both["highlights"] == facts["results"]["highlights"]
    assert both["moments"]["lengths"] == {name: list(ends) for name, ends in QVHIGHLIGHTS_LENGTHS.items()}
    score = ("eval", "score", "--pred", tmp_path / "out" / "predictions.jsonl", "--truth", tmp_path)
    again = json.loads(run(*score, "--data", "qvhighlights-val", "--json").out)
    assert again.pop("data")["name"] == "qvhighlights-val"
    assert again == both


def test_saliency_is_scored_without_windows(tmp_path: Path) -> None:
    write_rated(tmp_path)
    scores = [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0]]
    pred = write_rows(
        tmp_path / "pred.jsonl",
        ({"qid": qid, "pred_saliency_scores": score} for qid, score in enumerate(scores, start=1)),
    )
    command = ("eval", "score", "--pred", pred, "--truth", tmp_path, "--data", "qvhighlights-val")
    table = run(*command).out.splitlines()
    assert table[2].split()[:3] == ["Fair", f"{(100 + 100 + 37.5) / 3:.1f}", "66.7"]
    write_rows(tmp_path / "moments.jsonl", map(as_row, MOMENTS[:3]))
    answer = run("eval", "score", "--pred", pred, "--truth", tmp_path)
    assert answer.code == 1
    assert "pred.jsonl: must have, for each query, what moments has labels for: windows or saliency" in answer.err


def test_clips_are_rated_at_their_middle(engine: Engine, world: Path, tmp_path: Path) -> None:
    ratings = [[1, 5], [2, 4], [5, 1], [3, 3], [1, 1], [2, 2], [4, 4], [1, 2]]
    tvsum = {"qid": 1, "query": "red", "vid": "mixed", "duration": 8, "label": ratings, "domain": "VT"}
    write_rows(tmp_path / "tvsum_val_release.jsonl", [tvsum])
    youtube = {"qid": 1, "query": "green", "vid": "mixed", "duration": 16, "fps": 25, "domain": "dog"}
    youtube |= {"clip": [[0, 100], [50, 150], [200, 300]], "label": [[1], [1], [-1]]}
    write_rows(tmp_path / "youtube_highlight_val_release.jsonl", [youtube])
    curve = {query: engine.curve(query, world / "videos" / "mixed.mp4") for query in ("red", "green")}
    for name, query, times, score in (
        ("tvsum", "red", [1, 3, 5, 7, 9, 11, 13, 15], score_tvsum),
        ("youtube-highlights", "green", [2, 4, 10], score_youtube),
    ):
        split = read_split(name, tmp_path)
        gallery = Gallery(*find_videos(split.videos, world), {})
        report, found = evaluate_highlights(Evaluation(engine, split, gallery))
        expected = np.interp(times, curve[query].times, curve[query].scores)
        assert found[0].saliency is not None
        np.testing.assert_allclose(found[0].saliency, expected, atol=1e-6)
        scores = score(split.queries, [Prediction("1", None, expected)])
        assert report.results["highlights"] == as_json(scores.to_dict())
        assert report.per_query[0]["precision"] == scores.average_precision[0]


def test_new_benchmark_needs_only_a_reader_and_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SplitSource(read_labelled, "parks.jsonl")
    scoring = Scoring(lengths={"brief": (0, 3), "rest": (3, math.inf)}, saliency="top-5")
    benchmark = Benchmark("moments", (), {"val": source}, scoring=scoring)
    monkeypatch.setitem(cast(dict[str, Benchmark], DATASETS), "parks", benchmark)
    row = {"qid": 1, "query": "fog", "vid": "a", "duration": 4, "relevant_windows": [[0, 2]]}
    write_rows(tmp_path / "parks.jsonl", [{**row, "relevant_clip_ids": [0, 1], "saliency_scores": [[1], [3]]}])
    prediction = {"qid": 1, "pred_relevant_windows": [[0, 2, 0.5]], "pred_saliency_scores": [0.1, 0.9]}
    path = write_rows(tmp_path / "predictions.jsonl", [prediction])
    results = score_predictions(path, read_split("parks", tmp_path))
    assert results["moments"]["lengths"] == {"brief": [0, 3], "rest": [3, None]}
    assert results["highlights"]["mAP"]["average"] == 100, "the domain metric, not that of rating levels"


# Missing labels


def test_without_labels_predictions_are_written_but_not_scored(
    searched: tuple[Path, Answer], world: Path, tmp_path: Path
) -> None:
    rows = [{"qid": 9, "query": "red", "vid": "mixed", "duration": 16}]
    write_rows(tmp_path / "highlight_test_release.jsonl", rows)
    shared = ("--videos", world, "--annotations", tmp_path, "--index", searched[0] / "index", "--out", tmp_path / "out")
    answer = run("eval", "moments", "--data", "qvhighlights-test", "--corpus", "--html", *shared)
    assert (answer.code, answer.out) == (0, "")
    (prediction,) = read_predictions(tmp_path / "out" / "predictions.jsonl")
    assert prediction.spans is not None
    assert prediction.saliency is not None
    assert prediction.spans[0, :2].tolist() == pytest.approx([5, 9], abs=0.6)
    assert prediction.saliency.argmax() == 3
    facts = read(tmp_path / "out" / "report.json")
    assert facts["results"] == {}
    assert "overlap" not in facts["per_query"][0]
    note = "note: this file has no labels, as those of test splits that withhold them: nothing can be scored"
    assert note in answer.err
    command = ("eval", "score", "--pred", tmp_path / "out" / "predictions.jsonl", "--truth", tmp_path)
    answer = run(*command, "--data", "qvhighlights-test")
    assert "qvhighlights-test must have labels to score predictions, got none for query 9" in answer.err
    write_rows(tmp_path / "highlight_test_release.jsonl", [{**rows[0], "relevant_windows": [[4, 8]]}])
    answer = run(*command, "--data", "qvhighlights-test")
    assert (answer.code, "note: " in answer.err) == (0, False)
    write_rows(tmp_path / "captions.jsonl", [{"video": "mixed", "caption": "red"}])
    answer = run(*command, "--data", "captions")
    assert "captions must have queries into videos to score predictions, got none" in answer.err


def test_videos_of_another_length_than_annotated_are_noted(
    searched: tuple[Path, Answer], world: Path, tmp_path: Path
) -> None:
    rows = [as_row(MOMENTS[0]), {**as_row(MOMENTS[3]), "duration": 3.4}]
    write_rows(tmp_path / "moments.jsonl", rows)
    shared = ("--videos", world, "--annotations", tmp_path, "--index", searched[0] / "index", "--out", tmp_path / "out")
    assert run("eval", "moments", *shared).code == 0
    notes = read(tmp_path / "out" / "report.json")["data"]["notes"]
    assert notes == ["videos more than a tenth longer or shorter than annotated: 1 (red)"]


def test_labels_for_some_queries_only_are_rejected(engine: Engine, world: Path, tmp_path: Path) -> None:
    bare = {name: value for name, value in as_row(MOMENTS[1]).items() if name != "relevant_windows"}
    write_rows(tmp_path / "moments.jsonl", [as_row(MOMENTS[0]), bare])
    split = read_split("moments", tmp_path)
    gallery = Gallery(*find_videos(split.videos, world), {})
    with pytest.raises(VidretError, match="queries must all have true spans or none, got 1 without, first 2"):
        evaluate_moments(Evaluation(engine, split, gallery))
    with pytest.raises(VidretError, match="moments: queries must have ratings to score highlights, got none for 1"):
        evaluate_highlights(Evaluation(engine, split, gallery))
    with pytest.raises(VidretError, match="moments: must have at least one query into an available video, got none"):
        evaluate_moments(Evaluation(engine, split, Gallery({}, ["mixed"], {})))
    with pytest.raises(VidretError, match="moments: must have at least one query into an available video, got none"):
        evaluate_moments(Evaluation(engine, split, Gallery(gallery.files, [], {"mixed": "no frame could be decoded"})))


RATED: dict[int, tuple[str, list[tuple[str, float, float, float]]]] = {
    1: ("red", [("one", 4.0, 8.0, 4), ("two", 0.0, 4.0, 3.5), ("gone", 0.0, 2.0, 4)]),
    2: ("blue", [("two", 4.0, 8.0, 2), ("one", 0.0, 4.0, 0)]),
    3: ("white", [("gone", 0.0, 2.0, 4), ("one", 0.0, 4.0, 0)]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rated")
    write_film(folder / "videos/one.mp4", ("green", 4), ("red", 4))
    write_film(folder / "videos/two.mp4", ("red", 4), ("blue", 4))
    write_film(folder / "videos/other.mp4", ("yellow", 4))
    rows = [
        {
            "query_id": query_id,
            "query": text,
            "relevant_moment": [
                {"video_name": video, "timestamp": [start, end], "relevance": relevance, "duration": 8.0}
                for video, start, end, relevance in moments
            ],
        }
        for query_id, (text, moments) in RATED.items()
    ]
    (folder / "test.json").write_text(json.dumps(rows))
    (folder / "video_corpus.json").write_text(json.dumps(dict.fromkeys(("one", "two", "other", "gone"), 8.0)))
    return folder


def test_moments_of_all_videos_are_scored(data: Path) -> None:
    split = read_split("tvr-ranking", data)
    assert split.videos == ("one", "two", "other", "gone")
    answer = run("eval", "rated", "--videos", data / "videos", "--annotations", data, "--out", data / "out")
    assert answer.code == 0, answer.err
    report = read(data / "out" / "report.json")
    assert [row["id"] for row in report["per_query"]] == ["1", "2"]  # nothing relevant is left of the third
    assert (report["data"]["num_queries"], report["data"]["missing"]) == (3, ["gone"])
    found = {}
    with Engine(data / "out" / "index", colour_encoder()) as engine:
        for row in report["per_query"]:
            moments = engine.locate_with(row["text"], CORPUS)
            found[row["id"]] = [RetrievedMoment(Path(one.path).stem, one.start, one.end) for one in moments]
    kept = [query for query in split.rated_queries if query.id != "3"]
    kept = [replace(query, moments=tuple(one for one in query.moments if one.video != "gone")) for query in kept]
    assert report["results"]["rated"] == score_rated(kept, found) | {"num_videos": 3}
    assert report["results"]["rated"]["nDCG"]["0.7"]["nDCG@10"] > 90
    (title, (columns, lines)) = next(make_tables(report))
    assert title == "rated moments: 2 queries, each in 3 videos"
    assert columns == ["minimum IoU", "nDCG@10", "nDCG@20", "nDCG@40"]
    assert [line[0] for line in lines] == ["0.3", "0.5", "0.7"]
    assert "minimum IoU" in answer.out
    assert "found by the similarity curve" in answer.err


def test_without_a_corpus_the_rated_videos_are_searched(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "test.json", tmp_path)
    split = read_split("tvr-ranking", tmp_path)
    assert split.videos == ("one", "two", "gone")
    assert split.notes == ("only videos with rated moments are searched",)


def test_queries_without_a_kind_are_those_of_the_kind_other() -> None:
    queries = [LabelledQuery(str(row), "a", "", 9.0, domain=kind) for row, kind in enumerate(("other", "", "red"))]
    grouped = group_domains(queries)
    assert {kind: [query.id for query in kind_queries] for kind, kind_queries in grouped.items()} == {
        "other": ["0", "1"],
        "red": ["2"],
    }
    assert group_domains(queries[:2]) == {}
