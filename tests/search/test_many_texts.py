"""Filters, sources and excluded words in an index where more texts match than a search looks at."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from tests.fakes import unit
from tests.noting import note_calls
from tests.spoken import FakeSentences, NamedColours, fake_sentences, open_texts
from vidret.engine import Engine
from vidret.search import fusion
from vidret.search.query.clauses import AnalysedQuery
from vidret.search.query.planning import plan
from vidret.store.catalog.texts import TextTables
from vidret.store.records import NewSegment
from vidret.store.store import Store
from vidret.store.texts.index import TextIndex
from vidret.store.texts.store import TextStore
from vidret.types import Filters, Hit, SearchOptions, SegmentEmbedding, TextSource, TimedText

pytestmark = pytest.mark.usefixtures("sentences")

NUM_OTHERS = 260  # more than a search reads of one kind
NUM_HARBOURS = 200
GREETING = "good morning everyone"


def build(folder: Path, videos: Sequence[tuple[str, TextSource, str]]) -> Path:
    """Make an index of videos of two frames, each with a path, a source and a text; '' for none."""
    encoder, rng = NamedColours(), np.random.default_rng(0)
    index = folder / "index"
    with (
        Store.create(
            index, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
        ) as store,
        open_texts(index) as texts,
    ):
        for video_index, (name, source, text) in enumerate(videos):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            video = store.writer.begin_video(f"v{video_index}", duration=12.0, facts={}, num_segments=1)
            frames = unit(rng.standard_normal((2, encoder.dim))).astype(np.float32)
            embedding = SegmentEmbedding(unit(frames.mean(axis=0)), frames, np.array([2.0, 9.0]))
            store.writer.add_segments([NewSegment(video, 0, 0.0, 12.0, embedding)])
            store.writer.finish_video(video)
            store.writer.set_file(str(path), state="done", video=video, num_bytes=0, mtime_ns=video_index)
            if text:
                track = texts.begin(f"v{video_index}", source, "model", duration_s=12.0)
                timed = [TimedText(1.0, 3.0, text, source, 0.9, "en")]
                texts.add(track, timed, FakeSentences().encode([text]), until_s=12.0)
                texts.finish(track)
        store.upkeep.save_vectors()
        texts.save()
    return index


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Most videos greet on the screen; three in a folder of their own say the same and more."""
    others: list[tuple[str, TextSource, str]] = [(f"others/{i}.mp4", "screen", GREETING) for i in range(NUM_OTHERS)]
    mine: list[tuple[str, TextSource, str]] = [(f"mine/{i}.mp4", "speech", f"{GREETING} welcome") for i in range(3)]
    rare: list[tuple[str, TextSource, str]] = [(f"rare/{i}.mp4", "speech", "mind the zebra crossing") for i in range(2)]
    silent: list[tuple[str, TextSource, str]] = [(f"silent/{i}.mp4", "speech", "") for i in range(30)]
    with Engine(
        build(tmp_path_factory.mktemp("many"), [*others, *mine, *rare, *silent]), NamedColours(), device="cpu"
    ) as engine:
        with pytest.MonkeyPatch.context() as patch:
            fake_sentences(patch)
            engine.search("anything")
        yield engine


def folders(hits: Sequence[Hit]) -> list[str]:
    return [Path(hit.path).parent.name for hit in hits]


@pytest.mark.parametrize("query", [f'"{GREETING}"', GREETING, "welcome"])
@pytest.mark.parametrize("sources", [None, ("speech",), ("speech", "screen")])
def test_filters_apply_before_the_best_texts_are_chosen(
    engine: Engine, query: str, sources: tuple[TextSource, ...] | None
) -> None:
    folder = Filters(folder=str(engine.path.parent / "mine"))
    hits = engine.search(query, 10, filters=folder, sources=sources)
    assert folders(hits) == ["mine"] * 3
    assert all(hit.evidence[0].source == "speech" for hit in hits)
    moments = engine.locate(query, 10, filters=folder, sources=sources, weak=True)
    assert {moment.video for moment in moments} == {hit.video for hit in hits}
    assert any(moment.by == "words" for moment in moments)


@pytest.mark.parametrize("query", [f'"{GREETING}"', GREETING])
def test_sources_apply_before_the_best_texts_are_chosen(engine: Engine, query: str) -> None:
    assert folders(engine.search(query, 10, sources=("speech",)))[:3] == ["mine"] * 3
    assert folders(engine.search(f"{query} -welcome", 10, sources=("speech",))).count("mine") == 0


def test_excluded_words_read_no_texts_and_take_no_places(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all texts hold the excluded word."""
    num_read = note_calls(monkeypatch, TextTables, "read_words", lambda _, ids: len(ids))
    hits = engine.search("a red dog -morning", 32)
    assert sorted(set(folders(hits))) == ["rare", "silent"]
    assert len(hits) == 32
    assert 0 < sum(num_read) <= 3 * 32 + 150, "those of the candidates, not of all texts"


def test_a_phrase_of_few_videos_is_searched_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = note_calls(monkeypatch, Store, "search", lambda store, *_: store)
    for query in ('"zebra crossing"', '"zebra crossing", then a red dog', '"zebra crossing" while a red dog'):
        searched.clear()
        assert folders(engine.search(query, 10)) == ["rare"] * 2
        assert searched.count(engine._index.store) <= 1, query


def test_texts_of_videos_that_are_gone_take_no_places(tmp_path: Path) -> None:
    videos: list[tuple[str, TextSource, str]] = [(f"gone/{i}.mp4", "speech", GREETING) for i in range(200)]
    index = build(tmp_path, [*videos, ("left.mp4", "speech", f"{GREETING} welcome")])
    with Store.open(index, write=True) as store:
        for video_index in range(200):
            store.writer.set_file(str(tmp_path / f"gone/{video_index}.mp4"), state="missing")
    with Engine(index, NamedColours(), device="cpu") as engine:
        assert [Path(hit.path).name for hit in engine.search(f'"{GREETING}"', 10)] == ["left.mp4"]


def test_words_of_a_new_video_are_found_by_an_open_engine(tmp_path: Path) -> None:
    index = build(tmp_path, [("a.mp4", "speech", "press the red button"), ("b.mp4", "speech", "mind the gap")])
    folder = Filters(folder=str(tmp_path))
    with Engine(index, NamedColours(), device="cpu") as engine:
        assert len(engine.search('"red button"', 10, filters=folder)) == 1
        with TextStore.open(index, write=True) as texts, Store.open(index, write=True) as store:
            video = store.writer.begin_video("new", duration=12.0, facts={}, num_segments=1)
            track = texts.begin("new", "speech", "model", duration_s=12.0)  # its words are read first
            timed = [TimedText(1.0, 3.0, "a red button", "speech", 0.9, "en")]
            texts.add(track, timed, FakeSentences().encode(["a red button"]), until_s=12.0)
            assert len(engine.search('"red button"', 10, filters=folder)) == 1
            (tmp_path / "new.mp4").touch()
            store.writer.set_file(str(tmp_path / "new.mp4"), state="done", video=video)
            assert len(engine.search('"red button"', 10, filters=folder)) == 2
            assert len(engine.search('"red button"', 10)) == 2
            texts.remove(texts.tracks("v0"))
            assert len(engine.search('"red button"', 10)) == 1


@pytest.fixture(scope="module")
def harbours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Three videos in which more texts say the same than a search finds, and one something else after the 150th."""
    index = build(tmp_path_factory.mktemp("harbours"), [(f"{name}.mp4", "speech", "") for name in "abc"])
    said = [TimedText(10.0 * row, 10.0 * row + 2, "the harbour", "speech", 0.9, "en") for row in range(NUM_HARBOURS)]
    said.append(TimedText(1503.5, 1505.0, "quarterly budget", "speech", 0.9, "en"))
    with TextStore.open(index, write=True) as texts:
        for video_index in range(3):
            track = texts.begin(f"v{video_index}", "speech", "model", duration_s=12.0)
            texts.add(track, said, FakeSentences().encode([text.text for text in said]), until_s=2000.0)
            texts.finish(track)
        texts.save()
    with Engine(index, NamedColours(), device="cpu") as engine:
        yield engine


@pytest.mark.parametrize(
    ("query", "starts"),
    [
        ("the harbour, then within 3 seconds quarterly budget", [1500.0, 1503.5]),
        ("quarterly budget, then within 6 seconds the harbour", [1503.5, 1510.0]),
        ("quarterly budget, then the harbour", [1503.5, 1510.0]),
    ],
)
@pytest.mark.parametrize("sources", [None, ("speech",)])
def test_events_are_placed_on_texts_that_others_hide(
    harbours: Engine, query: str, starts: list[float], sources: tuple[TextSource, ...] | None
) -> None:
    hits = harbours.search(query, 3, sources=sources)
    assert [[event.start for event in hit.events] for hit in hits] == [starts] * 3
    moments = harbours.locate(query, 3, sources=sources)
    assert [[event.start for event in moment.events] for moment in moments] == [starts] * 3
    alone = harbours.locate(query, 1, video=moments[0].video, sources=sources)
    assert alone[0].score == pytest.approx(moments[0].score)
    assert hits[0].score == pytest.approx(moments[0].score)


def test_all_texts_of_several_videos_are_located(harbours: Engine) -> None:
    found = harbours.locate("the harbour", 3 * NUM_HARBOURS, sources=("speech",))
    assert Counter(moment.video for moment in found) == dict.fromkeys((1, 2, 3), NUM_HARBOURS)


def test_texts_of_too_many_videos_are_not_completed_which_is_logged(
    harbours: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fusion, "MAX_COMPLETED_TEXTS", 2 * NUM_HARBOURS + 2)
    fusion._note_bound.cache_clear()
    with caplog.at_level("INFO", "vidret"):
        hits = harbours.search("the harbour, then within 3 seconds quarterly budget", 3, sources=("speech",))
    assert len(hits) == 2
    assert [record.getMessage().count("all texts of the best 2 videos") for record in caplog.records] == [1]


@pytest.mark.parametrize("name", ["find", "make_question"])
def test_a_query_keeps_its_own_results_wherever_another_interrupts_it(engine: Engine, name: str) -> None:
    """Another query runs at each line, as one of another thread may."""
    index = engine._index
    mine, other = (plan(index, query) for query in ("welcome -morning", '"zebra crossing" -welcome'))

    def ask(query: AnalysedQuery) -> object:
        question = fusion.make_question(index, query, SearchOptions())
        return question.texts, question.asked.within.ids().tolist()

    expected, interrupted = ask(mine), list[int]()
    ask(other)

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            sys.settrace(None)
            ask(other)
            interrupted.append(frame.f_lineno)
            sys.settrace(trace)
        return trace if frame.f_code.co_name == name else None

    tracer = sys.gettrace()
    sys.settrace(trace)
    try:
        found = ask(mine)
    finally:
        sys.settrace(tracer)
    assert len(set(interrupted)) > 2
    assert str(found) == str(expected)


def test_threads_search_the_full_text_side_by_side(tmp_path: Path) -> None:
    with closing(TextIndex(tmp_path / "a.sqlite", write=True)) as index:
        index.add((text_id, f"word{text_id % 7} and more") for text_id in range(500))
    meeting = threading.Barrier(2)
    with closing(TextIndex(tmp_path / "a.sqlite", write=False)) as index, ThreadPoolExecutor(2) as pool:

        def search(word: int) -> list[int]:
            with index._database.access():
                meeting.wait(20)  # breaks if one waits for the other
            return sorted(index.search([f"word{word}"], 500).tolist())

        futures = [pool.submit(search, word) for word in (1, 2)]
        assert [future.result() for future in futures] == [list(range(word, 500, 7)) for word in (1, 2)]
