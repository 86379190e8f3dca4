"""Index, search and locate in films of plain colours, whose correct results are known."""

import gc
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from tests.fakes import ColourEncoder, PatchEncoder, read_film, write_film, write_mosaic
from tests.forking import popen_code
from tests.grounded import make_encoder, write_head, write_numbers
from tests.noting import note_calls
from tests.rankers import convert_golden, make_published_weights, make_ranker, save_aligner, score_directly
from tests.spoken import NamedColours
from vidret.channels.picture.ranking import Ranker
from vidret.encode.clip.model import save_model
from vidret.encode.clip.weights import convert_state_dict
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.errors import AlignerError, MovedError, NotFoundError, OptionError, StoreError, VidretError
from vidret.search.open_index import OpenIndex
from vidret.store.joined import open_indexes
from vidret.store.records import HEAD
from vidret.store.store import Store
from vidret.types import Filters, Hit, Moment, Query, SearchOptions, TextEmbedding


@pytest.fixture
def films(coloured: Path) -> Path:
    return coloured / "films"


@pytest.fixture
def engine(coloured: Path) -> Iterator[Engine]:
    with Engine(coloured / "index", ColourEncoder()) as engine:
        yield engine


@pytest.fixture
def library(films: Path, tmp_path: Path) -> Path:
    """Return films of ``own``, which may be changed."""
    return shutil.copytree(films, tmp_path / "films")


@pytest.fixture
def own(library: Path, tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([library])
        yield engine


def names(engine: Engine, query: str, k: int = 10) -> list[str]:
    return [Path(hit.path).name for hit in engine.search(query, k)]


def test_search_puts_the_right_video_first_with_its_best_segment_and_frame(engine: Engine) -> None:
    assert names(engine, "red")[0] == "red.mp4"
    assert names(engine, "blue") == ["blue.mp4", "both.mp4", "red.mp4"], "ties in the order of their names"
    assert names(engine, "green")[0] == "both.mp4"
    assert sorted(names(engine, "red")) == ["blue.mp4", "both.mp4", "red.mp4"], "each video once"
    scores = [hit.score for hit in engine.search("red")]
    assert scores == sorted(scores, reverse=True)
    hit = next(hit for hit in engine.search("green") if hit.path.endswith("both.mp4"))
    assert (hit.segment.number, hit.segment.start, hit.segment.end) == (0, 0.0, 4.0)
    assert 0 <= hit.time < 4
    assert len(engine.search("red", 2)) == 2
    assert len(engine.search("red", 3, candidates=1)) == 3


def test_locate_finds_exact_scene_boundaries_in_one_video_or_in_all(engine: Engine, films: Path) -> None:
    for query, start, end in (("green", 0.0, 5.0), ("red", 5.0, 9.0), ("blue", 9.0, 16.0)):
        moment = engine.locate(query, 1, video=films / "both.mp4")[0]
        assert [moment.start, moment.end] == pytest.approx([start, end], abs=0.11)
    (named,) = engine.locate("blue", 1, video="films/both.mp4")
    assert named.path == str(films / "both.mp4"), "a video that is named by an ending has its path"
    best = engine.locate("green", 1)[0]
    assert Path(best.path).name == "both.mp4"
    assert best.start < best.end
    found = list(dict.fromkeys(Path(moment.path).name for moment in engine.locate("red", 9)))
    assert set(found[:2]) == {"red.mp4", "both.mp4"}


def test_best_moment_does_not_depend_on_other_videos(engine: Engine, films: Path, tmp_path: Path) -> None:
    alone = Engine(tmp_path / "alone", ColourEncoder())
    alone.index([films / "both.mp4"])
    for query in ("red", "blue", "yellow", "something else"):
        among, by_itself = (index.locate(query, video=films / "both.mp4")[0] for index in (engine, alone))
        assert (among.start, among.end) == (by_itself.start, by_itself.end)
        assert among.similarity == pytest.approx(by_itself.similarity)


def test_copies_are_one_hit_deleted_files_none_and_a_reader_sees_what_is_added(
    own: Engine, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = Engine(own.path, ColourEncoder())
    assert "new.mp4" not in names(reader, "yellow")
    write_film(library / "new.mp4", ("yellow", 2))
    shutil.copy(library / "red.mp4", library / "a copy.mp4")
    report = own.index([library])
    assert (report.encoded, report.linked) == (1, 1)
    assert names(reader, "yellow")[0] == "new.mp4"
    hit = own.search("red", 1)[0]
    assert {Path(path).name for path in (hit.path, *hit.copies)} == {"red.mp4", "a copy.mp4"}
    (library / "blue.mp4").unlink()
    assert "blue.mp4" not in names(own, "blue")
    assert "its file is gone" in caplog.text


def test_film_of_one_colour_is_one_moment(tmp_path: Path) -> None:
    films = write_film(tmp_path / "films" / "red.mp4", ("red", 24)).parent
    write_film(films / "both.mp4", ("red", 4), ("blue", 12), ("red", 4))
    with Engine(tmp_path / "index", NamedColours()) as engine:
        engine.index([films])
        curve = engine.curve("red", films / "red.mp4")
        assert curve.typical == engine._index.pictures.typical_score()
        assert curve.typical is not None
        assert curve.scores.min() >= curve.typical
        (whole,) = engine.locate("red", video=films / "red.mp4")
        assert [whole.start, whole.end] == pytest.approx([0, 24])
        assert whole.similarity == pytest.approx(curve.scores.mean())
        found = engine.locate("red", video=films / "both.mp4")
        assert sorted([m.start, m.end] for m in found) == pytest.approx(np.array([[0, 4], [16, 20]]), abs=0.11)
        assert len(engine.locate("red", 20, video=films / "both.mp4", overlapping=True, weak=True)) > 2


def test_negative_terms_lower_scores(own: Engine, library: Path) -> None:
    own.index([write_film(library / "sea.mp4", ("blue", 2), ("red", 2))])
    plain, without = own.search("blue"), own.search("blue -red")
    assert Path(without[0].path).name == "blue.mp4"
    gap = {hit.path: hit.score - {plain_hit.path: plain_hit.score for plain_hit in plain}[hit.path] for hit in without}
    assert gap[str(library / "sea.mp4")] < -0.1
    assert gap[str(library / "blue.mp4")] == pytest.approx(0, abs=1e-5), "no penalty without the negative term"
    slope = own._index.pictures.find_scale(own.ranker).slope
    for hit in without:
        assert slope * hit.why["unwanted"] == pytest.approx(gap[hit.path], abs=1e-5)
    assert own.locate("red -blue", video=library / "sea.mp4", weak=True)[0].start == pytest.approx(2, abs=0.5)


@pytest.mark.wrong_shapes
def test_image_query_finds_similar_frames(engine: Engine, films: Path) -> None:
    picture = np.full((30, 50, 3), (20, 20, 190), np.uint8)
    hits = engine.search(picture, 2)
    assert [Path(hit.path).name for hit in hits] == ["blue.mp4", "both.mp4"]
    assert not any(hit.weak for hit in hits)
    moment = engine.locate(picture, video=films / "both.mp4")[0]
    assert (moment.start, moment.end) == pytest.approx((9, 16), abs=0.5)
    assert engine.curve(picture, films / "both.mp4").best == pytest.approx(hits[1].why["frames"])
    assert [hit.probability for hit in hits] == [None, None]
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(VidretError, match=r"image must be uint8 \(height, width, 3\), got"):
            engine.search(wrong)
    with pytest.raises(VidretError, match=r"query must be text, .* or a vector, got PosixPath\('a.jpg'\)"):
        engine.search(Path("a.jpg"))  # type: ignore[arg-type]


def test_of_identical_files_the_one_with_the_shortest_path_leads(tmp_path: Path) -> None:
    original = write_film(tmp_path / "films" / "unimog.mp4", ("red", 2))
    copies = [original.with_name(f"{name}.mp4") for name in ("copy of unimog", "unimog (copy)")]
    for copy in copies:
        shutil.copy(original, copy)
    os.utime(original, (0, 1000))
    other = write_film(tmp_path / "films" / "d.mp4", ("blue", 2))
    with Engine(tmp_path / "index", ColourEncoder()) as engine, Engine(tmp_path / "more", ColourEncoder()) as more:
        engine.index([tmp_path / "films"])
        more.index([copies[0]])
        with Engine([more.path, engine.path], ColourEncoder()) as together:
            for searched in (engine, together):
                paths = (str(original), *map(str, sorted(copies, key=lambda path: len(str(path)))))
                (hit,) = searched.search("red", 1)
                assert (hit.path, *hit.copies) == paths
                assert searched.locate("red", 1)[0].path == str(original)
                videos = searched.videos()
                assert [video.paths for video in videos] == [paths, (str(other),)], "by the least path of each"
        assert videos[0].paths[0] == str(original)
        assert engine.videos()[0].changed == 1000
        page, after = engine.list_page(limit=1)
        assert [video.paths for video in page] == [paths]
        assert [video.paths for video in engine.list_page(after=after or "", limit=1)[0]] == [(str(other),)]


def test_vector_query(engine: Engine) -> None:
    blue = engine.encoder.encode_text(["blue"])[0].sentence
    found, expected = engine.search(7 * blue, 3), engine.search("blue", 3, rerank=None)
    assert [(hit.path, hit.time) for hit in found] == [(hit.path, hit.time) for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected])
    for wrong in (blue[:2], 0 * blue, np.full(3, np.nan)):
        with pytest.raises(VidretError, match="vector must have 3 numbers and a finite length above 0, got"):
            engine.search(wrong)


def test_filters_select_videos(own: Engine, library: Path) -> None:
    own.index([write_film(library / "more" / "long.mp4", ("red", 8))])
    shutil.copy(library / "red.mp4", library / "more" / "copy.mp4")
    own.index([library])

    def found(**filters: object) -> list[str]:
        hits = own.search("red", filters=Filters(**filters))  # type: ignore[arg-type]
        return [Path(hit.path).name for hit in hits]

    assert sorted(found(folder=str(library / "more"))) == ["copy.mp4", "long.mp4"], "the matching path is returned"
    assert found(name="COPY more") == ["copy.mp4"], "its other path is red.mp4"
    assert sorted(found(min_seconds=5)) == ["both.mp4", "long.mp4"]
    assert found(max_seconds=1) == []
    os.utime(library / "both.mp4", (0, 1000))
    own.index([library])
    assert found(before=2000) == ["both.mp4"]
    moments = own.locate("red", filters=Filters(folder=str(library / "more")))
    assert {Path(moment.path).name for moment in moments} == {"copy.mp4", "long.mp4"}
    assert [Path(video.paths[0]).name for video in own.videos()] == ["blue.mp4", "both.mp4", "red.mp4", "long.mp4"]
    video = own.videos(Filters(before=2000))[0]
    assert (video, video.changed) == (own.video(video.id), 1000)
    assert own.video("both.mp4") == video
    for ask in (own.video, own.shots):
        with pytest.raises(NotFoundError, match="video must be one of this index, got 99"):
            ask(99)
        with pytest.raises(NotFoundError, match="video must be one of this index, got 9223372036854775808"):
            ask(1 << 63)
        with pytest.raises(OptionError, match="video must be an id, a path or the end of one, got None"):
            ask(None)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="video must be an id, a path or the end of one, got ''"):
            ask("")
    for listed in (own.videos, own.count_videos, own.facets, own.list_page, partial(own.embeddings, "segment")):
        with pytest.raises(OptionError, match="after must be a number, got '2020'"):
            listed(Filters(after="2020"))  # type: ignore[arg-type]
    for limit in (0, -1):
        with pytest.raises(OptionError, match=f"limit must be at least 1, got {limit}"):
            own.list_page(limit=limit)
    with pytest.raises(OptionError, match=r"queries must be a list, got 'red'"):
        own.score_videos("red", [video.id])
    with pytest.raises(OptionError, match="level must be segment or frame, got frames"):
        own.embeddings("frames")  # type: ignore[arg-type]
    assert own.index(library, exclude="*.mp4").unchanged == 0


def test_ids_may_be_those_of_numpy(engine: Engine) -> None:
    video = engine.embeddings().videos[0]
    for ask in (engine.video, engine.shots, engine.find_footage, lambda key: engine.locate("red", video=key)):
        assert ask(video) == ask(int(video))
    assert engine.search("red", like=[(video, 0.5)]) == engine.search("red", like=[(int(video), 0.5)])
    assert engine.duplicates([video]) == []


def test_many_searches_have_the_results_of_each(engine: Engine) -> None:
    image = np.full((30, 50, 3), 220, np.uint8)
    searches: list[tuple[Query, SearchOptions]] = [
        ("red", SearchOptions(k=2)),
        (image, SearchOptions(k=1)),
        ("blue -green", SearchOptions(k=3, rerank=None)),
        ("green", SearchOptions(k=3, rerank="glscl", filters=Filters(min_seconds=5))),
        ("white", SearchOptions(k=3, filters=Filters(max_seconds=1))),
        ("blue", SearchOptions(k=3, candidates=1)),
        *((f"thing {index}", SearchOptions()) for index in range(20)),
    ]
    together = engine.search_many([query for query, _ in searches], [options for _, options in searches])
    for (query, search_options), hits in zip(searches, together, strict=True):
        alone = engine.search(
            query,
            search_options.k,
            candidates=search_options.candidates,
            rerank=search_options.rerank,
            filters=search_options.filters,
        )
        assert [(h.video, h.path, h.weak, h.time) for h in hits] == [(h.video, h.path, h.weak, h.time) for h in alone]
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in alone], rtol=1e-5)
    assert [len(hits) for hits in together[:6]] == [2, 1, 3, 1, 0, 3]
    assert engine.search_many([], []) == []
    with pytest.raises(VidretError, match="equal length, got 1 and 2"):
        engine.search_many(["red"], [SearchOptions()] * 2)


def test_threads_open_an_index_once(coloured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[OpenIndex]()

    class SlowIndex(OpenIndex):
        def __init__(self, *parts: Any) -> None:
            opened.append(self)
            time.sleep(0.05)
            super().__init__(*parts)

    monkeypatch.setattr("vidret.engine.OpenIndex", SlowIndex)
    with Engine(coloured / "index", ColourEncoder()) as engine, ThreadPoolExecutor(4) as threads:
        hits = list(threads.map(engine.search, ["red"] * 4))
    assert len(opened) == 1
    assert all(thread_hits == hits[0] for thread_hits in hits)


def test_other_encoders_and_invalid_queries_are_rejected(engine: Engine, films: Path, tmp_path: Path) -> None:
    other = ColourEncoder("colours-2")
    with pytest.raises(StoreError, match="was built with other weights of colours"):
        Engine(engine.path, other)
    with pytest.raises(StoreError, match="was built with other weights of colours"):
        Engine.open(engine.path, encoder=other)
    with pytest.raises(VidretError, match="head must be auto, none or the file of a head, got odd"):
        Engine(engine.path, ColourEncoder(), head="odd")
    for name, rule in (("rerank", "auto, none, "), ("head", "auto, none or "), ("device", "auto, cpu, ")):
        options: dict[str, Any] = {name: None}
        with pytest.raises(VidretError, match=f"^{name} must be {rule}.*, got None$"):
            Engine(tmp_path / "new", other, **options)
    for query in (" ", "...", '""', "@", "->"):
        with pytest.raises(VidretError, match="query must contain a word, got "):
            engine.search(query)
    with pytest.raises(VidretError, match="k must be at least 1, got 0"):
        engine.locate("red", 0)
    with pytest.raises(VidretError, match="videos must be at least 1, got -1"):
        engine.locate("red", videos=-1)
    with pytest.raises(VidretError, match="candidates must be at least 1, got 0"):
        engine.search("red", candidates=0)
    for search in (engine.search, engine.locate):
        with pytest.raises(VidretError, match="sources must be a list, got 'speech'"):
            search("red", sources="speech")  # type: ignore[arg-type]
    with pytest.raises(VidretError, match="like must be pairs of a video and a time in seconds, got 5"):
        engine.search("red", like=5)  # type: ignore[arg-type]
    with pytest.raises(VidretError, match="display must be best or diverse, got worst"):
        engine.search("red", display="worst")
    with pytest.raises(VidretError, match="copies must be fold or show, got hide"):
        engine.locate("red", copies="hide")
    with pytest.raises(StoreError, match="not in the index"):
        engine.locate("red", video=films / "nowhere.mp4")
    with pytest.raises(StoreError, match="there is no index here"):
        Engine(tmp_path / "nothing", ColourEncoder()).search("red")
    with pytest.raises(VidretError, match="head must be given to prepare moments, got none"):
        engine.prepare_moments()


def test_relative_index_stays_where_it_is(coloured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(coloured)
    with Engine("index", ColourEncoder()) as engine:
        monkeypatch.chdir(tmp_path)
        assert names(engine, "red")[0] == "red.mp4"
        assert engine.path == coloured / "index"


def test_closed_engine_is_not_opened_again(own: Engine, library: Path) -> None:
    own.search("red")
    own.close()
    own.close()
    for use in (own.info, lambda: own.search("red"), lambda: own.index([library]), own.prepare_searches):
        with pytest.raises(StoreError, match="engine must be open, got a closed one"):
            use()


def test_another_index_in_the_place_of_an_open_one_is_searched(own: Engine, films: Path, tmp_path: Path) -> None:
    with Engine(tmp_path / "other", ColourEncoder()) as other:
        other.index([films / "blue.mp4"])
    both = ["blue.mp4", "both.mp4", "red.mp4"]
    assert names(own, "blue") == both
    own.path.rename(tmp_path / "away")
    with pytest.raises(StoreError, match="index: there is no index here"):
        own.check_index()
    (tmp_path / "away").rename(own.path)
    assert names(own, "blue") == both
    own.path.rename(tmp_path / "away")
    (tmp_path / "other").rename(own.path)
    assert names(own, "red") == ["blue.mp4"]
    assert own.count_videos() == 1


def test_an_index_in_the_place_of_an_open_one_has_its_own_head(own: Engine, films: Path, tmp_path: Path) -> None:
    with Engine(tmp_path / "other", ColourEncoder()) as other:
        other.index([films / "blue.mp4"])
    with Store.open(tmp_path / "other", write=True) as store:
        store.metadata.set(HEAD, str(tmp_path / "head.safetensors"))
    assert own.locate("blue")
    own.path.rename(tmp_path / "away")
    (tmp_path / "other").rename(own.path)
    with pytest.raises(VidretError, match=r"head\.safetensors: .*No such file"):
        own.locate("blue")


def test_index_of_another_encoder_is_not_searched_with_the_first_one(films: Path, tmp_path: Path) -> None:
    for name, encoder in (("index", ColourEncoder()), ("other", ColourEncoder("colours-2"))):
        with Engine(tmp_path / name, encoder) as made:
            made.index([films / "blue.mp4"])
    with Engine(tmp_path / "index", ColourEncoder()) as engine:  # replaced before its first search
        (tmp_path / "index").rename(tmp_path / "away")
        (tmp_path / "other").rename(tmp_path / "index")
        with pytest.raises(MovedError, match="was built with other weights of colours"):
            engine.search("blue")


def test_search_ends_with_the_index_it_began_with(own: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = own.encoder.encode_text

    def move_away(texts: Sequence[str]) -> list[TextEmbedding]:
        own.path.rename(tmp_path / "away")
        return encode(texts)

    assert own.search("green")
    own._open_again()
    monkeypatch.setattr(own.encoder, "encode_text", move_away)
    assert names(own, "red")[0] == "red.mp4"


@pytest.mark.parametrize("call", [Engine.search, Engine.locate])
def test_calls_in_progress_finish_when_the_engine_is_closed(
    own: Engine, monkeypatch: pytest.MonkeyPatch, call: Callable[[Engine, str], Sequence[Hit | Moment]]
) -> None:
    encode = own.encoder.encode_text

    def close_before(texts: Sequence[str]) -> list[TextEmbedding]:
        own.close()
        return encode(texts)

    monkeypatch.setattr(own.encoder, "encode_text", close_before)
    assert Path(call(own, "red")[0].path).name == "red.mp4"
    with pytest.raises(StoreError, match="engine must be open"):
        call(own, "red")


def test_an_index_that_is_opened_while_its_engine_is_closed_is_closed(
    own: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = Thread(target=own.close)
    open_index = open_indexes

    def close_meanwhile(*paths: Any, **options: Any) -> Store:
        closing.start()
        closing.join(0.1)  # a close that does not wait is over by then
        return open_index(*paths, **options)

    own._open_again()
    monkeypatch.setattr("vidret.engine.open_indexes", close_meanwhile)
    with suppress(StoreError):
        own.search("red")
    closing.join()
    assert own._opened is None


def test_what_was_open_is_closed_with_the_last_call_that_uses_it(own: Engine, library: Path) -> None:
    red = library / "red.mp4"
    gc.disable()  # it would close what is in a cycle, some time
    try:
        assert own.search("red")
        assert own.locate("red")
        assert own.curve("red", red)
        assert own.explorer.list_kinds()
        own.find_footage(red)
        used = own._index
        old = weakref.ref(used.store)
        own._open_again()
        assert names(own, "red")[0] == "red.mp4"
        assert used.store.select().num_videos == 3
        del used
        assert old() is None
    finally:
        gc.enable()


def test_a_call_that_looks_videos_up_reads_one_index(
    own: Engine, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another index may take its place at any time."""
    red, blue = str(library / "red.mp4"), str(library / "blue.mp4")
    calls: dict[str, Callable[[], object]] = {
        "interpret": lambda: own.interpret("red"),
        "find_footage": lambda: own.find_footage(red, video=blue),
        "duplicates": lambda: own.duplicates([red, blue]),
        "teach": lambda: own.teach("warm", [red], [blue]),
        "classify": lambda: own.classify({"warm": [red], "cold": [blue]}, save="class"),
    }
    looked = note_calls(monkeypatch, Store, "is_replaced", lambda store: store.path)
    for name, call in calls.items():
        call()
        assert looked.count(own.path) <= 1, name
        looked.clear()


def test_a_search_that_is_asked_again_logs_its_notes_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([])
        assert [engine.search("red") for _ in range(3)] == [[]] * 3
    assert caplog.messages == ["the index has no videos yet"]


def test_an_index_whose_files_are_all_missing_is_not_called_empty(
    library: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([library])
        library.rename(tmp_path / "unmounted")
        library.mkdir()
        engine.index([library])
        assert engine.search("red") == []
    assert caplog.messages[-1] == "the files of the index are missing: index again once they are back"


def test_info_counts_and_an_empty_index_has_no_results(engine: Engine, tmp_path: Path) -> None:
    info = engine.info()
    assert info.files["done"] == info.videos == info.complete_videos == 3
    assert info.segments == info.searchable == 6
    assert info.seconds == pytest.approx(22.0, abs=0.5)
    assert engine.failed() == []
    with Engine(tmp_path / "empty", ColourEncoder()) as empty:
        assert empty.index([]).encoded == 0
        assert empty.search("red") == []
        assert empty.locate("red") == []


# Reranking

QUERIES = ("a dog", "two men ride red bicycles along the river", "cartoon")


def summarise(hits: list[Hit]) -> list[tuple[str, int, float, float]]:
    return [(Path(hit.path).name, hit.segment.number, hit.time, hit.score) for hit in hits]


def sum_levels(hit: Hit, ranker: Ranker) -> float:
    """Return the score that a ranker gives to the pictures of a hit."""
    return sum(weight * hit.why[name] for name, weight in ranker.weights.items())


def assert_same_hits(hits: list[Hit], others: list[Hit]) -> None:
    """Compare two results, whose scores may differ in the last bits, since blocks have other shapes."""
    assert [summary[:3] for summary in summarise(hits)] == [summary[:3] for summary in summarise(others)]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], abs=2e-6)


@pytest.mark.parametrize("method", ["ucofia", "glscl"])
def test_converted_model_ranks_as_its_aligner_does_without_an_index(method: str, mosaics: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_model(convert_state_dict(make_published_weights(method), method), model)
    save_aligner(convert_golden(method), tmp_path / "model.aligner.safetensors")
    encoder = load_encoder(str(model), device="cpu", precision="fp32")
    engine = Engine(tmp_path / "index", encoder, tokens="float16")
    assert engine.ranker.name == str(tmp_path / "model.aligner.safetensors")
    engine.index([mosaics], shots=False)
    films = {path.name: encoder.encode_frames(read_film(path, encoder), tokens=True) for path in mosaics.iterdir()}
    places = [(name, index) for name, segments in films.items() for index in range(len(segments))]
    segments = [films[name][index] for name, index in places]
    assert len(places) == engine.info().searchable == {"ucofia": 6, "glscl": 3}[method]  # 4 frames a segment, or 12
    levels, best = score_directly(f"trained {method}", encoder.encode_text(QUERIES), segments)
    weights = (1 / 3, 1 / 3, 1 / 3) if method == "ucofia" else (1.0, 0.5)
    totals = sum(weight * level for weight, level in zip(weights, levels, strict=True))
    for row, query in enumerate(QUERIES):
        expected: dict[str, tuple[str, int, float, float]] = {}
        for column in np.argsort(-np.asarray(totals)[row]):
            name, segment_index = places[column]
            time = float(segments[column].times[int(best[row, column])])
            expected.setdefault(name, (name, segment_index, time, float(np.asarray(totals)[row, column])))
        hits = engine.search(query, candidates=len(places))
        assert [summary[:3] for summary in summarise(hits)] == [wanted[:3] for wanted in expected.values()]
        found = [sum_levels(hit, engine.ranker) for hit in hits]
        assert found == pytest.approx([wanted[3] for wanted in expected.values()], abs=1e-4)
    assert engine.locate("cartoon", 1)[0].by == "curve", "moments need no aligner"


def test_index_records_its_aligner(indexed_mosaics: Path) -> None:
    with Engine(indexed_mosaics, PatchEncoder()) as engine:
        assert engine.ranker.name == "ucofia"
        assert engine.info().with_tokens == engine.info().segments == 6
        hits = {rerank: engine.search("a dog", rerank=rerank) for rerank in ("auto", "ucofia", None, "none", "glscl")}
    assert summarise(hits["auto"]) == summarise(hits["ucofia"])
    assert summarise(hits[None]) == summarise(hits["none"])
    assert [hit.score for hit in hits[None]] != [hit.score for hit in hits["ucofia"]]
    assert {name for hit in hits["glscl"] for name in hit.why} == {"picture", "pooled"}


def test_copies_and_moves_do_not_change_scores(indexed_mosaics: Path, mosaics: Path, tmp_path: Path) -> None:
    films, index = tmp_path / "films", tmp_path / "index"
    shutil.copytree(mosaics, films)
    shutil.copytree(indexed_mosaics, index)
    engine = Engine(index, PatchEncoder())
    before = {query: engine.search(query) for query in QUERIES}
    shutil.copy(films / "1.mp4", films / "9 a copy.mp4")
    engine.index([mosaics, films])
    for query, hits in before.items():
        found = engine.search(query)
        assert_same_hits(found, hits)
        assert sorted(len(hit.copies) for hit in found) == [1, 1, 2]
    alone = Engine(tmp_path / "alone", PatchEncoder(), rerank="ucofia")
    alone.index([films], shots=False)
    (films / "9 a copy.mp4").unlink()
    (films / "deeper").mkdir()
    for seed in (0, 2):
        (films / f"{seed}.mp4").rename(films / "deeper" / f"{seed}.mp4")
    assert alone.index([films]).encoded == 0
    for query, hits in before.items():
        assert_same_hits(alone.search(query), hits)


INDEX_SCRIPT = """
import sys
from tests.fakes import PatchEncoder
from vidret.engine import Engine
Engine(sys.argv[1], PatchEncoder()).index([sys.argv[2]], shots=False)
"""


def test_results_stay_correct_while_another_process_indexes(indexed_mosaics: Path, tmp_path: Path) -> None:
    films, index = tmp_path / "films", tmp_path / "index"
    shutil.copytree(indexed_mosaics, index)
    for seed in range(10, 13):
        write_mosaic(films / f"{seed}.mp4", 12, seed)
    with Engine(index, PatchEncoder()) as engine:
        before = engine.search("a dog", candidates=10)
        known = {hit.video: (*summarise([hit])[0][:3], sum_levels(hit, engine.ranker)) for hit in before}
        writer = popen_code(INDEX_SCRIPT, index, films)
        sizes = {engine.info().searchable}
        while writer.poll() is None:
            sizes.add(engine.info().searchable)
            time.sleep(0.01)  # leaves the machine to that process
            if len(sizes) == 1:
                continue
            hits = engine.search("a dog", 100)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            ranker = engine.ranker
            found = {h.video: (*summarise([h])[0][:3], sum_levels(h, ranker)) for h in hits if h.video in known}
            assert {video: summary[:3] for video, summary in found.items()} == {
                v: known_summary[:3] for v, known_summary in known.items()
            }
            assert [found[video][3] for video in known] == pytest.approx([known[v][3] for v in known], abs=2e-6)
        assert writer.returncode == 0
        assert len(sizes) > 1, "the index grew during the searches"
        assert engine.info().searchable == 6 + 3 * 3
        assert len(engine.search("a dog", 100)) == 3 + 3


# Wrong use of rerankers


def test_other_aligner_than_recorded_is_rejected(indexed_mosaics: Path, mosaics: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    Engine(plain, PatchEncoder(), rerank="none").index([mosaics / "0.mp4"], shots=False)
    for index, made in ((indexed_mosaics, "ucofia"), (plain, "none")):
        for other in {"none", "ucofia", "glscl"} - {made}:
            with pytest.raises(StoreError, match=f"rerank must be {made}, .*, got {other}$"):
                Engine(index, PatchEncoder(), rerank=other)
    trained = make_ranker("trained ucofia", tmp_path).name
    with pytest.raises(StoreError, match="plain: rerank must be none, "):
        Engine(plain, PatchEncoder(), rerank=trained)
    with Engine(plain, PatchEncoder()) as engine:
        with pytest.raises(AlignerError, match=r"ucofia\.safetensors: the index must be made with this aligner"):
            engine.search("a dog", rerank=trained)
        with pytest.raises(
            AlignerError, match=r"^rerank must be auto, none, .* or the file of an aligner, got colbert$"
        ):
            engine.search("a dog", rerank="colbert")
        assert engine.search("a dog", rerank="ucofia"), "training-free rerankers need no tokens"


def test_an_aligner_that_was_moved_ranks_the_index_that_takes_the_place_of_its_own(
    mosaics: Path, tmp_path: Path
) -> None:
    first = Path(make_ranker("trained ucofia", tmp_path).name)
    with Engine(tmp_path / "index", PatchEncoder(), rerank=str(first)) as made:
        made.index([mosaics / "0.mp4"], shots=False)
    moved = first.rename(tmp_path / "moved.safetensors")
    with Engine(tmp_path / "index", PatchEncoder(), rerank=str(moved)) as engine:
        hits = engine.search("a dog")
        shutil.copytree(tmp_path / "index", tmp_path / "other")
        (tmp_path / "index").rename(tmp_path / "away")
        (tmp_path / "other").rename(tmp_path / "index")
        assert engine.search("a dog") == hits


@pytest.mark.parametrize("kind", ["trained ucofia", "trained glscl"])
def test_trained_aligner_needs_a_clip_encoder(kind: str, mosaics: Path, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "index", PatchEncoder(raw=False), rerank=make_ranker(kind, tmp_path).name)
    with pytest.raises(AlignerError, match="encoder of a trained aligner must be a vidret CLIP model"):
        engine.index([mosaics / "0.mp4"], shots=False)
    assert not (tmp_path / "index").exists(), "a failed run creates no index"


def test_no_text_is_encoded_while_videos_are_read(mosaics: Path, tmp_path: Path) -> None:
    encoder, met = PatchEncoder(), list[str]()
    with Engine(tmp_path / "index", encoder, rerank="ucofia") as engine:
        engine.index([mosaics / "0.mp4"], shots=False, on_progress=lambda _: met.extend(encoder.encoded_texts))
    assert encoder.encoded_texts, "the scores of unrelated queries are measured at the end"
    assert not met


def test_index_keeps_its_token_format(mosaics: Path, tmp_path: Path) -> None:
    for name in ("index", "whole"):
        engine = Engine(tmp_path / name, PatchEncoder(), rerank="ucofia", tokens="float16")
        engine.index([mosaics / "0.mp4"] if name == "index" else [mosaics], shots=False)
    later = Engine(tmp_path / "index", PatchEncoder(), rerank="ucofia", tokens="int8")
    later.index([mosaics], shots=False)
    assert_same_hits(later.search("a dog"), engine.search("a dog"))


def test_first_engine_to_index_determines_the_aligner(mosaics: Path, tmp_path: Path) -> None:
    slow, quick = (Engine(tmp_path / "index", PatchEncoder(), rerank=rerank) for rerank in ("none", "ucofia"))
    quick.index([mosaics / "0.mp4"], shots=False)
    with pytest.raises(StoreError, match=r"rerank must be ucofia, .*, got none"):
        slow.index([mosaics], shots=False)
    assert quick.info().segments == 1


# Trained heads


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    folder = tmp_path / "numbered"
    write_numbers(folder / "first.mp4", range(14))
    write_numbers(folder / "second.mp4", range(100, 120))
    return folder


def test_index_records_its_head_until_another_is_given(numbered: Path, tmp_path: Path) -> None:
    head, other = write_head(tmp_path / "head.safetensors"), write_head(tmp_path / "other.safetensors", seed=3)
    index, film = tmp_path / "index", numbered / "first.mp4"

    def ask(**settings: Path | str) -> list[tuple[str, float]]:
        with Engine(index, make_encoder(), **settings) as engine:  # type: ignore[arg-type]
            return [(moment.by, moment.score) for moment in engine.locate("rain", 3, video=film, weak=True)]

    Engine(index, make_encoder()).index([numbered])
    by_curve = ask()
    assert {by for by, _ in by_curve} == {"curve"}
    by_head = ask(head=head)
    assert {by for by, _ in by_head} == {"head"}
    assert ask() == by_curve, "searching does not record the head"
    Engine(index, make_encoder(), head=head).index([numbered])
    assert ask() == by_head
    assert ask(head="none") == by_curve
    assert ask(head=other) not in (by_head, by_curve)
    Engine(index, make_encoder()).index([numbered])
    assert ask() == by_head
    Engine(index, make_encoder(), head=other).index([numbered])
    assert ask() == ask(head=other)
    Engine(index, make_encoder(), head="none").index([numbered])
    assert ask() == by_curve


def test_lost_head_affects_only_what_needs_it(numbered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head, index = write_head(tmp_path / "head.safetensors"), tmp_path / "index"
    Engine(index, make_encoder(), head=head).index([numbered])
    head.unlink()
    with Engine(index, make_encoder()) as engine:
        assert len(engine.search("rain")) == 2
        assert engine.index([numbered]).unchanged == 2
        assert "nothing is stored for the grounding head: " in caplog.text
        for ask in (lambda: engine.locate("rain"), engine.prepare_moments):
            with pytest.raises(VidretError, match=r"head\.safetensors: .*No such file"):
                ask()
    with Engine(index, make_encoder(), head="none") as engine:
        assert engine.locate("rain", weak=True)
    with pytest.raises(VidretError, match=r"head must be auto, none or the file of a head, got .*head\.safetensors"):
        Engine(tmp_path / "new", make_encoder(), head=head)
    with pytest.raises(VidretError, match="must have a CLIP model of ours as encoder, got colours"):
        Engine(tmp_path / "new", ColourEncoder(), head=write_head(head))
    assert not (tmp_path / "new").exists()
