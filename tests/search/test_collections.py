"""Saved searches and lists of moments: what they keep when videos move, are removed, or are indexed again."""

import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes import ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import ConflictError, StoreError, VidretError
from vidret.search import collections
from vidret.store.rows_file import COLLECTIONS
from vidret.types import Filters, Hit, ListedMoment, LocateOptions, Moment, SavedCollection, SearchOptions, Sequence


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    write_film(tmp_path / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "films" / "blue.mp4", ("blue", 3))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"])
        yield engine


def list_spans(kept: SavedCollection) -> list[tuple[str, float, float, str]]:
    return [(Path(moment.path).name, moment.start, moment.end, moment.note) for moment in kept.moments]


def test_a_saved_search_is_run_again_with_its_options(engine: Engine, tmp_path: Path) -> None:
    options = SearchOptions(k=1, filters=Filters(max_seconds=4.0), sources=("picture",))
    engine.save_collection(SavedCollection.of_search("reds", "red", options))
    engine.save_collection(SavedCollection.of_search("spans", "red -blue", LocateOptions(weak=True)))
    kept = engine.collection("reds")
    assert (kept.query, kept.finds, kept.read_options()) == ("red", "videos", options)
    assert dict(kept.options) == {"k": 1, "max_seconds": 4.0, "sources": ["picture"]}
    assert [Path(hit.path).name for hit in engine.collect("reds")] == ["blue.mp4"]
    write_film(tmp_path / "films" / "rose.mp4", ("red", 2))
    engine.index([tmp_path / "films"])
    (hit,) = engine.collect("reds")
    assert isinstance(hit, Hit)
    assert Path(hit.path).name == "rose.mp4", "it is live"
    assert engine.collect("spans") == engine.locate("red -blue", weak=True)
    assert [kept.name for kept in engine.collections()] == ["reds", "spans"]
    engine.save_collection(SavedCollection.of_search("events", "red, then black", LocateOptions()))
    assert engine.collect("events") == engine.locate(Sequence(["red", "black"])), "not text"


def test_a_list_keeps_its_order_its_notes_and_its_spans(engine: Engine) -> None:
    hit, moment = engine.search("blue", 1)[0], engine.locate("red", 1)[0]
    assert not list(engine.path.glob("collections*"))
    engine.add_to_list("best of 2024", [hit])
    kept = engine.add_to_list("best of 2024", [replace(moment, note="use this take")])
    spans = [
        ("blue.mp4", hit.segment.start, hit.segment.end, ""),
        ("red.mp4", moment.start, moment.end, "use this take"),
    ]
    assert list_spans(kept) == spans
    changed = engine.save_collection(replace(kept, moments=kept.moments[::-1]))
    assert (list_spans(changed), changed.revision) == (spans[::-1], kept.revision + 1)
    first, second = engine.collect("best of 2024")
    assert isinstance(first, Moment)
    assert (first.video, first.by, first.note, second.video) == (moment.video, "list", "use this take", hit.video)


def test_a_change_of_what_was_changed_meanwhile_is_refused(engine: Engine) -> None:
    first = engine.add_to_list("best", engine.locate("red", 1))
    engine.save_collection(replace(first, moments=()))
    with pytest.raises(ConflictError, match="best was changed meanwhile: revision must be 2, got 1"):
        engine.save_collection(first)
    with pytest.raises(ConflictError, match="name must be new, got best"):
        engine.save_collection(SavedCollection.of_search("best", "red", SearchOptions()))
    assert engine.collection("best").moments == ()


def test_moments_follow_their_videos_and_wait_for_those_that_are_gone(engine: Engine, tmp_path: Path) -> None:
    films = tmp_path / "films"
    engine.add_to_list("best", [*engine.locate("red", 1), *engine.locate("blue", 1)])
    (films / "new").mkdir()
    (films / "red.mp4").rename(films / "new" / "rose.mp4")
    engine.index([films])
    assert [Path(moment.path).name for moment in engine.collection("best").moments] == ["rose.mp4", "blue.mp4"]
    shutil.move(films / "blue.mp4", tmp_path / "blue.mp4")
    engine.index([films], prune=True)
    kept = engine.collection("best")
    assert [moment.video is None for moment in kept.moments] == [False, True]
    assert Path(kept.moments[1].path).name == "blue.mp4", "it is said, not lost"
    assert len(engine.collect("best")) == 1
    noted = engine.save_collection(replace(kept, moments=tuple(replace(moment, note="x") for moment in kept.moments)))
    assert [moment.note for moment in noted.moments] == ["x", "x"], "what is missing can be changed"
    shutil.move(tmp_path / "blue.mp4", films / "azure.mp4")
    engine.index([films])
    assert list_spans(engine.collection("best"))[1][0] == "azure.mp4"
    assert len(engine.collect("best")) == 2


INVALID: tuple[tuple[dict[str, object], str], ...] = (
    ({"name": "a/b"}, "name must be up to 64 letters"),
    ({"name": "x" * 65}, "name must be up to 64 letters"),
    ({"name": "end "}, "name must be up to 64 letters"),
    ({"finds": "videos", "query": " "}, "must contain a word"),
    ({"finds": "videos", "query": "@nobody"}, "@nobody"),
    ({"finds": "videos", "query": "red", "options": {"snap": True}}, "options must be those of a search for videos"),
    ({"finds": "videos", "query": "red", "options": {"like": [[1, 2.0]]}}, "teach a concept"),
    ({"finds": "video", "query": "red"}, "finds must be videos or moments, or empty for a list, got video"),
    ({"finds": "videos", "query": "red", "options": {"k": "ten"}}, "k must be an integer, got 'ten'"),
    ({"finds": "videos", "query": "red", "options": {"k": None}}, "k must be an integer, got None"),
    ({"finds": "moments", "query": "red", "options": {"sources": ["smell"]}}, "sources must be one of"),
    ({"finds": "moments", "query": "red", "options": {"videos": 0}}, "videos must be at least 1, got 0"),
    ({"moments": (ListedMoment(content="", path="", start=3, end=3, video=1),)}, "0 <= start < end"),
    ({"moments": (ListedMoment(content="", path="", start=0, end=float("nan"), video=1),)}, "0 <= start < end"),
    (
        {"moments": (ListedMoment(content="", path="", start=2, end=60, video=1),)},
        "be within their video, which ends at .* 2 to 60",
    ),
    ({"moments": (ListedMoment(content="?", path="/a.mp4", start=0, end=3),)}, "videos of the index, got one of"),
    ({"moments": (ListedMoment(content="", path="", start=0, end=3, video=1, note="x" * 2001),)}, "at most 2000"),
)


def test_what_is_invalid_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, rule in INVALID:
        with pytest.raises(VidretError, match=rule):
            engine.save_collection(replace(SavedCollection(name="best"), **change))  # type: ignore[arg-type]
    assert engine.collections() == []
    monkeypatch.setattr(collections, "MAX_MOMENTS", 2)
    moments = engine.locate("red", 1)
    engine.add_to_list("best", moments * 2)
    with pytest.raises(VidretError, match="at most 2 moments, got 3"):
        engine.add_to_list("best", moments)


def test_names_are_those_of_collections(engine: Engine) -> None:
    engine.save_collection(SavedCollection.of_search("reds", "red", SearchOptions()))
    for call in (engine.collection, engine.collect, engine.remove_collection):
        with pytest.raises(VidretError, match="name must be that of a collection, got blues"):
            call("blues")
    with pytest.raises(VidretError, match="got reds, which is a saved search"):
        engine.add_to_list("reds", engine.locate("red", 1))
    engine.remove_collection("reds")
    assert engine.collections() == []
    for name in ("दिन", "สุดา ในทะเล", "مهر\u200cنوش"):
        engine.add_to_list(name, engine.locate("red", 1))
        assert engine.collection(name).name == name


def test_a_damaged_file_is_reported_not_replaced(engine: Engine) -> None:
    engine.add_to_list("best", engine.locate("red", 1))
    path = COLLECTIONS.path(engine.path)
    path.write_text(path.read_text().replace('"best"', '"rest"'))
    for call in (engine.collections, lambda: engine.add_to_list("best", [])):
        with pytest.raises(StoreError, match="cannot be read as collections: the checksum does not match"):
            call()


def test_rows_of_an_index_from_elsewhere_are_checked(engine: Engine) -> None:
    damaged = {"content": "a", "path": "/a", "start": 0, "end": 1}
    changes: tuple[dict[str, object], ...] = (
        {"name": 7},
        {"finds": "all"},
        {"finds": "videos", "options": 3},
        {"moments": [{}]},
        {"moments": [damaged | {"path": []}]},
        {"moments": [damaged | {"start": float("nan")}]},
        {"moments": [damaged | {"end": float("inf")}]},
        {"colour": "red"},
    )
    for change in changes:
        row = {"name": "best", "finds": "", "query": "", "options": {}, "moments": [], "revision": 1} | change
        checksum = zlib.crc32(json.dumps([row], sort_keys=True).encode())
        COLLECTIONS.path(engine.path).write_text(json.dumps({"checksum": checksum, "collections": [row]}))
        with pytest.raises(StoreError, match="cannot be read as collections"):
            engine.collections()
        assert COLLECTIONS.find_damage(engine.path, repair=True)
        assert engine.collections() == []
    COLLECTIONS.path(engine.path).mkdir()
    for repair in (True, False):
        assert "Is a directory" in COLLECTIONS.find_damage(engine.path, repair=repair), "what is no damage stays"
