"""Collections over HTTP, their export, and that the client agrees with the engine."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for
from starlette.testclient import TestClient

from tests.serve.conftest import check_refusal, find_id
from vidret.client import RemoteEngine, RemoteError
from vidret.engine import Engine
from vidret.errors import ConflictError
from vidret.present.export import format_moments
from vidret.serve.routes import collections
from vidret.types import Filters, LocateOptions, Moment, SavedCollection, SearchOptions


def test_lists_are_kept_changed_and_removed(client: TestClient, engine: Engine) -> None:
    red, blue = find_id(engine, "red.mp4"), find_id(engine, "blue.mp4")
    added = client.post("/api/collections/my list/moments", json={"moments": [{"video": red, "start": 0.5, "end": 2}]})
    row = added.json()
    assert (added.status_code, row["revision"], row["moments"][0]["video"]) == (200, 1, red)
    body: dict[str, Any] = {
        "moments": [{"video": blue, "start": 0, "end": 1, "note": "first"}, *row["moments"]],
        "revision": 1,
    }
    del body["moments"][1]["path"]
    row = client.put("/api/collections/my list", json=body).json()
    assert [(moment["video"], moment["note"]) for moment in row["moments"]] == [(blue, "first"), (red, "")]
    answer = client.put("/api/collections/my list", json=body)
    assert (answer.status_code, "my list was changed meanwhile: revision must be 2" in answer.json()["detail"]) == (
        409,
        True,
    )
    assert client.get("/api/collections").json() == {"collections": [row]}
    assert client.get("/api/collections/my list").json() == row
    assert client.delete("/api/collections/my list").json() == {"collections": []}
    assert client.get("/api/collections/my list").status_code == 404
    assert client.delete("/api/collections/my list").status_code == 404


def test_wrong_collections_are_refused(client: TestClient) -> None:
    for body, status, detail in (
        ({"finds": "videos", "query": "red", "options": {"colour": 1}}, 422, "colour must not be given"),
        ({"finds": "videos", "query": "red", "options": {"k": 0}}, 422, "k must be at least 1, got 0"),
        ({"finds": "moments", "query": "red", "options": {"like": [[1, 2]]}}, 422, "like"),
        ({"finds": "videos", "query": "red", "options": {"like": [[1, 2]]}}, 422, "teach a concept"),
        ({"finds": "videos", "query": ""}, 422, "query"),
        ({"moments": [{"video": 99, "start": 0, "end": 1}]}, 404, "99"),
        ({"moments": [{"content": "x", "start": 0, "end": 1}]}, 422, "videos of the index"),
        ({"moments": [{"start": 0, "end": 1, "video": True}]}, 422, "must be a number"),
    ):
        check_refusal(client.put("/api/collections/best", json=body), status, detail)
        assert client.get("/api/collections").json() == {"collections": []}


def test_an_export_is_that_of_the_command(client: TestClient, engine: Engine) -> None:
    moment = {"video": find_id(engine, "red.mp4"), "start": 0.5, "end": 2, "note": "n"}
    client.post("/api/collections/x y/moments", json={"moments": [moment]})
    moments = [moment for moment in engine.collect("x y") if isinstance(moment, Moment)]
    described = client.get("/openapi.json").json()["paths"]["/api/collections/{name}/export"]["get"]["responses"]["200"]
    for form in ("csv", "json", "edl", "markers", "html", "srt"):
        answer = client.get("/api/collections/x y/export", params={"format": form})
        assert answer.status_code == 200
        assert answer.text == format_moments(moments, form, query="x y")
        schema = described["content"][answer.headers["Content-Type"].partition(";")[0]]["schema"]
        assert validator_for(schema).is_valid(answer.json() if form == "json" else answer.text)
        suffix = {"markers": "edl"}.get(form, form)
        assert answer.headers["Content-Disposition"].endswith(f"filename*=UTF-8''x%20y.{suffix}")
        if form == "html":
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_exports_that_are_asked_for_at_once_wait_for_each_other(client: TestClient, engine: Engine) -> None:
    engine.add_to_list("best", engine.locate("red", 1))
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(client.get, ["/api/collections/best/export?format=csv"] * 3))
    assert [answer.status_code for answer in answers] == [200] * 3


def test_an_export_runs_no_code_of_the_current_folder(
    client: TestClient, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('not numpy')")
    monkeypatch.chdir(tmp_path)
    moment = {"video": find_id(engine, "red.mp4"), "start": 0.5, "end": 2}
    client.post("/api/collections/x/moments", json={"moments": [moment]})
    assert client.get("/api/collections/x/export?format=csv").status_code == 200


def test_a_saved_search_is_run_for_its_export(client: TestClient, engine: Engine) -> None:
    body = {"finds": "videos", "query": "red", "options": {"k": 1}}
    assert client.put("/api/collections/reds", json=body).status_code == 200
    (row,) = json.loads(client.get("/api/collections/reds/export?format=json").text)
    hit = engine.search("red", 1)[0]
    assert (row["rank"], row["path"], row["start"]) == (1, hit.path, hit.segment.start)
    assert client.put("/api/collections/rest", json=body | {"options": {"k": 1, "offset": 1}}).status_code == 200
    (row,) = json.loads(client.get("/api/collections/rest/export?format=json").text)
    assert row["rank"] == 2, "as the command numbers them"


def test_failed_exports_say_why(client: TestClient, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [{"video": find_id(engine, name), "start": 0, "end": 1} for name in ("red.mp4", "blue.mp4")]
    client.post("/api/collections/best/moments", json={"moments": moments})
    export = "/api/collections/best/export?format="
    answer = client.get(f"{export}srt")
    assert (answer.status_code, answer.json()["detail"][:24]) == (422, "srt must be of one video")
    assert client.get(f"{export}pdf").status_code == 422
    assert client.get("/api/collections/rest/export?format=csv").status_code == 404
    monkeypatch.setattr(collections, "EXPORT_S", 0.01)
    assert client.get(f"{export}csv").json()["detail"] == "the export takes longer than 0.01 s"


def test_files_that_may_not_be_read_are_left_out_of_formats_that_read_them(
    own_engine: Engine, serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(own_engine)
    moments = [{"video": find_id(own_engine, name), "start": 0, "end": 1} for name in ("red.mp4", "blue.mp4")]
    client.post("/api/collections/best/moments", json={"moments": moments})
    red = Path(own_engine.video(moments[0]["video"]).paths[0])
    secret = red.rename(tmp_path / "secret.mp4")
    secret.write_bytes(secret.read_bytes() + b"0")
    red.symlink_to(secret)
    for form, has_red in (("csv", True), ("html", False), ("edl", False)):
        text = client.get(f"/api/collections/best/export?format={form}").text
        assert ("red.mp4" in text, "blue.mp4" in text) == (has_red, True)
    assert caplog.messages == ["best: 1 moment left out of the export, whose files may not be read now"] * 2


def test_client_and_engine_agree(remote: RemoteEngine, engine: Engine) -> None:
    options = SearchOptions(k=2, rerank=None, filters=Filters(filmed_after=1_700_000_000.5, sound=False))
    saved = remote.save_collection(SavedCollection.of_search("reds", "red", options))
    assert saved.read_options() == replace(options, rerank="none")
    remote.save_collection(SavedCollection.of_search("spans", "blue", LocateOptions(weak=True)))
    kept = remote.add_to_list("best", [*engine.search("red", 1), *engine.locate("blue", 1)])
    assert remote.collections() == engine.collections() == [kept, saved, engine.collection("spans")]
    changed = remote.save_collection(replace(kept, moments=kept.moments[::-1]))
    assert engine.collection("best") == remote.collection("best") == changed
    for name in ("best", "reds", "spans"):
        assert remote.collect(name) == engine.collect(name)
    with pytest.raises(ConflictError, match="best was changed meanwhile: revision must be 2, got 1"):
        remote.save_collection(kept)
    with pytest.raises(RemoteError, match="finds must be"):
        remote.save_collection(SavedCollection(name="new", finds="video", query="red"))  # type: ignore[arg-type]
    remote.remove_collection("best")
    with pytest.raises(RemoteError, match="name must be that of a collection, got best"):
        remote.remove_collection("best")
