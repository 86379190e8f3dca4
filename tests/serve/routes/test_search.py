"""Tests of search over HTTP: results are those of the engine, and errors are one sentence."""

import json
import os
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serve.conftest import BLUE, Serve, check_refusal, find_id
from vidret.client import RemoteEngine
from vidret.encode.families import starter
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.serve.routes.search import describe_results
from vidret.types import MAX_OFFSET, Filters, LocateOptions, Sequence


def names(answer: Any) -> list[str]:
    return [hit["title"] for hit in answer.json()["hits"]]


def test_hits_are_those_of_the_engine(client: TestClient, engine: Engine) -> None:
    answer = client.post("/api/search", json={"query": "red", "k": 2})
    hits = engine.search("red", 2)
    assert answer.status_code == 200
    assert [hit["score"] for hit in answer.json()["hits"]] == [hit.score for hit in hits]
    best, row = hits[0], answer.json()["hits"][0]
    assert (row["video"], row["path"], row["time"], row["why"]) == (best.video, best.path, best.time, dict(best.why))
    assert (row["segment"], row["start"], row["end"]) == (0, best.segment.start, best.segment.end)
    assert row["duration"] == pytest.approx(3.0)
    assert row["stream"] == f"/api/videos/{best.video}/stream"
    assert client.get(row["thumbnail"]).headers["content-type"] == "image/jpeg"
    assert answer.json()["query"] == "red"
    assert answer.json()["took_ms"] > 0


def test_results_say_how_likely_they_are_and_may_have_to_be_probable(client: TestClient, engine: Engine) -> None:
    for path, name, found in (
        ("/api/search", "hits", engine.search("red")),
        ("/api/locate", "moments", engine.locate("red")),
    ):
        answer, least = client.post(path, json={"query": "red"}).json(), found[0].probability
        assert [(row["probability"], row["likelihood"], row["weak"]) for row in answer[name]] == [
            (result.probability, result.likelihood, result.weak) for result in found
        ]
        assert answer["weak"] is False
        assert client.post(path, json={"query": "yellow"}).json()["weak"] is True
        assert client.post(path, json={"image": BLUE}).json()[name][0]["likelihood"] is None
        rows = client.post(path, json={"query": "red", "at_least": least}).json()[name]
        assert {row["probability"] for row in rows} == {least}
        for wrong in (-0.1, 1.1, True, "likely"):
            assert client.post(path, json={"query": "red", "at_least": wrong}).status_code == 422
        check_refusal(
            client.post(path, json={"image": BLUE, "at_least": 0.5}),
            422,
            "at_least must be 0 for an image or a vector, got 0.5",
        )


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_dates_without_a_time_zone_are_local(own_engine: Engine, serve: Serve) -> None:
    for video in own_engine.videos():
        os.utime(video.paths[0], (1_700_000_000, 1_700_000_000))  # 2023-11-14 22:13:20 in UTC
    own_engine.index([own_engine.path.parent / "films"])
    client = serve(own_engine)

    def count(before: str) -> int:
        return len(names(client.post("/api/search", json={"query": "red", "before": before})))

    assert [count("2023-11-14T22:13:21Z"), count("2023-11-14T22:13:20Z")] == [3, 0]
    assert [count("2023-11-15T07:13:21"), count("2023-11-15T07:13:20")] == [3, 0]
    assert [count("2023-11-16"), count("2023-11-15")] == [3, 0]


def test_moments_are_those_of_the_engine_in_all_videos_or_in_one(client: TestClient, engine: Engine) -> None:
    answer = client.post("/api/locate", json={"query": "green", "k": 1}).json()
    moment, row = engine.locate("green", 1)[0], answer["moments"][0]
    assert [row["start"], row["end"], row["score"]] == [moment.start, moment.end, moment.score]
    assert (row["title"], row["by"], answer["weak"]) == ("both", "curve", False)
    video_id = find_id(engine, "both.mp4")
    for body in ({"query": "blue"}, {"image": BLUE}):
        row = client.post("/api/locate", json={**body, "video": video_id, "k": 1}).json()["moments"][0]
        assert [row["start"], row["end"]] == pytest.approx([9, 16], abs=0.11)
    check_refusal(
        client.post("/api/locate", json={"query": "blue", "video": 99}), 404, "video must be one of this index, got 99"
    )


def test_invalid_requests_are_refused_in_one_sentence(client: TestClient) -> None:
    for body, sentence in (
        ([], "the body must be a JSON object, got []"),
        ({}, "query, image, both, or only events must be given"),
        ({"query": "red", "events": ["red"]}, "query, image, both, or only events must be given"),
        ({"query": ""}, "query must have at least 1 character, got ''"),
        ({"query": " "}, "query must contain a word, got ' '"),
        ({"query": "-red"}, "query must contain a positive word, got '-red'"),
        ({"query": "x" * 1001}, "query must have at most 1000 characters, got 'xxx"),
        ({"query": "red" + " -blue" * 17}, "query must exclude at most 16 words or phrases, got 'red -blue"),
        ({"query": "red", "k": 201}, "k must be at most 200, got 201"),
        ({"query": "red", "rerank": "/etc/passwd"}, "rerank must be 'auto', 'none', 'mean', 'ucofia' or 'glscl'"),
        ({"query": "red", "min_secs": 5}, "min_secs must not be given, got 5"),
        ({"query": "red", "after": "yesterday"}, "after must be a valid datetime or date, got 'yesterday'"),
        ({"query": "red", "after": 5.5}, "after must be a date in ISO 8601"),
        ({"query": "red", "filmed_after": "20260131"}, "filmed_after must be a date in ISO 8601"),
        ({"query": "red", "before": "9999-01-01"}, "before must be in the years 1700 to 2200, got '9999-01-01'"),
        ({"query": "\ud800"}, "query must be a valid string"),
        ({"query": "red", "folder": "\udcff"}, "folder must be a valid string"),
        ({"events": []}, "events must have at least 1 item, got []"),
        ({"query": "red", "gap": 3}, "gap must come with events"),
        ({"events": ["red", []]}, "events must be texts"),
        ({"events": ["red", " "]}, "events must be texts"),
        ({"events": ["red", "blue"], "gap": -1}, "gap must be at least 0, got -1"),
        ({"events": ["red"] * 9}, "events must have at most 8 items, got ["),
        ({"events": [["red"] * 5, ["blue"] * 5]}, "at most 8 events, got 10"),
        ({"events": ["red", "x" * 1001]}, "events.1 must have at most 1000 characters, got 'xxx"),
        ({"events": [["red", 5]]}, "events.0.1 must be a valid string, got 5"),
        ({"image": []}, "image must have at least 1 item, got []"),
        ({"image": ["a"] * 9}, "image must have at most 8 items, got ['a'"),
        ({"query": "red, then blue, no blue"}, "blue"),
        ({"unlike": [[1, 1.0]]}, "query, image, both, or only events must be given"),
        ({"query": "red", "like": [[1]]}, "like.0.1 must be given"),
        ({"query": "red", "like": [5]}, "like.0 must be a JSON array, got 5"),
        ({"query": "red", "like": [["a", 1]]}, "like.0.0 must be a valid integer"),
        ({"query": "red", "like": [[999, 1.0]]}, "like must name a video"),
    ):
        answer = client.post("/api/search", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        detail = problem.pop("detail")
        assert (sentence in detail, "\n" in detail) == (True, False), detail
        kind = "failure" if "like must name" in sentence else "usage"  # the index decides
        assert problem == {"type": "about:blank", "title": HTTPStatus(422).phrase, "status": 422, "kind": kind}


def test_removed_video_is_left_out(serve: Serve, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    client, hits = serve(engine), engine.search("red")
    monkeypatch.setattr(engine, "search_many", lambda queries, options: [hits for _ in queries])
    removed_id = find_id(engine, "red.mp4")
    find_video = type(engine).video
    monkeypatch.setattr(
        engine, "video", lambda video_id: find_video(engine, 99 if video_id == removed_id else video_id)
    )
    assert "red" not in names(client.post("/api/search", json={"query": "red"}))


def test_events_are_read_from_text_or_given_as_a_list(client: TestClient, engine: Engine) -> None:
    answer = client.post("/api/search", json={"query": "red, then blue, no yellow", "k": 1}).json()
    assert answer["interpretation"] == {
        "text": "looking for 1. red then 2. blue; excluding yellow",
        "steps": [{"events": ["red"], "gap_s": None}, {"events": ["blue"], "gap_s": None}],
        "excluded": ["yellow"],
    }
    listed = client.post("/api/search", json={"events": ["red", "blue"], "gap": 5, "k": 1}).json()
    hit = engine.search(Sequence(["red", "blue"], gap=5), 1)[0]
    assert listed["hits"][0]["video"] == hit.video
    assert [event["text"] for event in listed["hits"][0]["events"]] == ["red", "blue"]
    assert [event["start"] for event in listed["hits"][0]["events"]] == [event.start for event in hit.events]
    moments = client.post("/api/locate", json={"events": ["red", ["blue", "blue"]], "k": 1, "weak": True}).json()
    assert [event["text"] for event in moments["moments"][0]["events"]] == ["red", "blue", "blue"]
    assert moments["interpretation"]["steps"][1]["events"] == ["blue", "blue"]
    answer = client.post("/api/search", json={"query": "red"}).json()
    assert answer["interpretation"] == {"text": "", "steps": [{"events": ["red"], "gap_s": None}], "excluded": []}
    assert answer["hits"][0]["events"] == []
    note = client.post("/api/search", json={"query": "then red"}).json()["interpretation"]["text"]
    assert note == 'searching for plain words: "then" joins nothing'
    assert client.post("/api/search", json={"image": BLUE}).json()["interpretation"] is None


def test_pages_name_the_next(client: TestClient, engine: Engine) -> None:
    body = {"query": "red", "k": 2}
    first = client.post("/api/search", json=body).json()
    second = client.post("/api/search", json=body | {"offset": first["next_offset"]}).json()
    found = [hit["video"] for page in (first, second) for hit in page["hits"]]
    assert found == [hit.video for hit in engine.search("red")]
    assert (first["next_offset"], second["next_offset"]) == (2, None)
    every = engine.locate("red", 20, overlapping=True, weak=True)
    shown = {"query": "red", "overlapping": True, "weak": True, "k": 3, "offset": 2}
    page = client.post("/api/locate", json=shown).json()
    assert [row["start"] for row in page["moments"]] == [moment.start for moment in every[2:5]]
    assert page["next_offset"] == 5
    assert engine.locate("red", 3, offset=2, overlapping=True, weak=True) == every[2:5]
    for offset, following in ((MAX_OFFSET - 3, MAX_OFFSET), (MAX_OFFSET - 2, None)):  # a request may skip no more
        assert describe_results(every[:3], LocateOptions(k=3, offset=offset), 0.0)["next_offset"] == following
    with pytest.raises(VidretError, match="offset must be at least 0, got -1"):
        engine.search("red", offset=-1)


def test_what_a_search_logs_is_in_each_answer_and_logged_by_a_client(
    client: TestClient,
    remote: RemoteEngine,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, query = engine.encoder.name, "der Hund und die Katze"
    monkeypatch.setattr(starter, "_noted", {name})  # the log has said it
    notes = ["no video has the sound bark; the index has: none", starter.NOTE % (name, query)]
    for path, ask in (("/api/search", remote.search), ("/api/locate", remote.locate)):
        for asked, expected in (({"query": query, "heard": "bark"}, notes), ({"query": "red"}, [])):
            assert client.post(path, json=asked).json()["notes"] == expected
        assert client.post(path, json={"image": BLUE}).json()["notes"] == []
        for body in ({"events": ["red", query]}, {"image": BLUE, "query": query}):
            assert client.post(path, json=body).json()["notes"] == notes[1:]
        assert ask(query, filters=Filters(heard="bark")) == []
        assert list(remote.notes) == notes
        ask(f"{query} und das Pferd")
        logged = [record.getMessage() for record in caplog.records if record.name == "vidret.client.remote"]
        assert logged == notes, "once, as by an engine"
        with pytest.raises(VidretError):
            ask("")
        assert not remote.notes, "of the last search, which failed"


def test_results_that_were_judged_change_the_order(client: TestClient, engine: Engine) -> None:
    first, *_, last = engine.search("red", 10)
    like, seen = [[last.video, last.time]], [[first.video, first.time]]
    answer = client.post("/api/search", json={"query": "red", "like": like, "seen": seen})
    hits = engine.search("red", like=[(last.video, last.time)], seen=[(first.video, first.time)])
    assert [hit["score"] for hit in answer.json()["hits"]] == [hit.score for hit in hits]
    assert hits != engine.search("red")
    alike = client.post("/api/search", json={"like": like}).json()
    assert alike["hits"][0]["video"] == last.video
    assert (alike["query"], alike["interpretation"]) == (None, None)
