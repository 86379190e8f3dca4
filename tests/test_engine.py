"""Index, search and locate on films of plain colours, whose right answers are known."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.colours import ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    films = tmp_path / "films"
    write_film(films / "red.mp4", ("red", 3))
    write_film(films / "blue.mp4", ("blue", 3))
    write_film(films / "both.mp4", ("green", 5), ("red", 4), ("blue", 7))
    return films


@pytest.fixture
def engine(tmp_path: Path, library: Path) -> Engine:
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([library])
    return engine


def names(engine: Engine, query: str, k: int = 10) -> list[str]:
    return [Path(hit.path).name for hit in engine.search(query, k)]


def test_search_puts_the_right_video_first(engine: Engine) -> None:
    assert names(engine, "red")[0] == "red.mp4"
    assert names(engine, "blue") == ["blue.mp4", "both.mp4", "red.mp4"], "the equal in the order of their names"
    assert names(engine, "green")[0] == "both.mp4"
    assert sorted(names(engine, "red")) == ["blue.mp4", "both.mp4", "red.mp4"], "each video once"
    scores = [hit.score for hit in engine.search("red")]
    assert scores == sorted(scores, reverse=True)


def test_a_hit_names_its_best_segment_and_frame(engine: Engine) -> None:
    hit = next(hit for hit in engine.search("green") if hit.path.endswith("both.mp4"))
    assert (hit.segment.number, hit.segment.start, hit.segment.end) == (0, 0.0, 4.0)
    assert 0 <= hit.time < 4


def test_k_limits_and_few_candidates_are_widened(engine: Engine) -> None:
    assert len(engine.search("red", 2)) == 2
    assert len(engine.search("red", 3, candidates=1)) == 3


def test_locate_finds_the_scene_to_the_frame(engine: Engine, library: Path) -> None:
    for query, start, end in (("green", 0.0, 5.0), ("red", 5.0, 9.0), ("blue", 9.0, 16.0)):
        moment = engine.locate(query, 1, video=library / "both.mp4")[0]
        assert [moment.start, moment.end] == pytest.approx([start, end], abs=0.11)


def test_locate_over_all_videos(engine: Engine) -> None:
    best = engine.locate("green", 1)[0]
    assert Path(best.path).name == "both.mp4"
    assert best.start < best.end
    moments = engine.locate("red", 5)
    assert {Path(moment.path).name for moment in moments[:2]} == {"red.mp4", "both.mp4"}


def test_boundaries_do_not_depend_on_what_else_is_indexed(engine: Engine, library: Path, tmp_path: Path) -> None:
    alone = Engine(tmp_path / "alone", ColourEncoder())
    alone.index([library / "both.mp4"])
    for query in ("red", "blue", "yellow", "something else"):
        among = [(m.start, m.end, m.score) for m in engine.locate(query, 9, video=library / "both.mp4")]
        assert among == [(m.start, m.end, m.score) for m in alone.locate(query, 9, video=library / "both.mp4")]


def test_curve_has_every_stored_frame(engine: Engine, library: Path) -> None:
    curve = engine.curve("red", library / "both.mp4")
    assert len(curve.scores) == len(curve.times) == 16
    assert [curve.start, curve.end] == pytest.approx([0.0, 16.0])
    assert set(np.argsort(-curve.scores)[:4]) == {5, 6, 7, 8}


def test_copies_are_one_hit_with_both_paths(engine: Engine, library: Path) -> None:
    shutil.copy(library / "red.mp4", library / "a copy.mp4")
    report = engine.index([library])
    assert (report.encoded, report.linked) == (0, 1)
    hit = engine.search("red", 1)[0]
    assert {Path(path).name for path in (hit.path, *hit.copies)} == {"red.mp4", "a copy.mp4"}


def test_a_deleted_file_is_not_returned_even_before_the_next_run(
    engine: Engine, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (library / "red.mp4").unlink()
    assert "red.mp4" not in names(engine, "red")
    assert "its file is gone" in caplog.text


def test_nothing_matches_well_is_said(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "red.mp4", ("red", 3))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([tmp_path / "films"])
    assert not engine.search("red")[0].weak
    assert not engine.locate("red")[0].weak
    assert engine.search("blue green")[0].weak, "the opposite of red is nearer to no unrelated query"
    assert engine.locate("blue green")[0].weak


def test_a_reader_sees_what_a_writer_adds(engine: Engine, library: Path, tmp_path: Path) -> None:
    reader = Engine(tmp_path / "index", ColourEncoder())
    assert "new.mp4" not in names(reader, "yellow")
    write_film(library / "new.mp4", ("yellow", 2))
    engine.index([library])
    assert names(reader, "yellow")[0] == "new.mp4"


def test_another_encoder_is_refused(engine: Engine, library: Path) -> None:
    other = ColourEncoder("colours-2")
    with pytest.raises(StoreError, match="built with colours"):
        Engine(engine.path, other)
    with pytest.raises(StoreError, match="built with colours"):
        Engine.open(engine.path, encoder=other)


def test_wrong_questions_get_one_sentence(engine: Engine, library: Path, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="query must hold a word, got ' '"):
        engine.search(" ")
    with pytest.raises(VidretError, match="k must be at least 1, got 0"):
        engine.locate("red", 0)
    with pytest.raises(StoreError, match="not in the index"):
        engine.locate("red", video=library / "nowhere.mp4")
    with pytest.raises(StoreError, match="there is no index here"):
        Engine(tmp_path / "nothing", ColourEncoder()).search("red")


def test_an_index_without_videos_answers_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    engine = Engine(tmp_path / "index", ColourEncoder())
    assert engine.index([tmp_path / "empty"]).encoded == 0
    assert engine.search("red") == []
    assert engine.locate("red") == []


def test_many_threads_may_ask_at_once(engine: Engine) -> None:
    expected = [(hit.path, hit.score) for hit in engine.search("red")]
    answers: list[list[tuple[str, float]]] = []

    def ask() -> None:
        answers.extend([(hit.path, hit.score) for hit in engine.search("red")] for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 40


def test_info_counts(engine: Engine) -> None:
    info = engine.info()
    assert info.files["done"] == info.videos == info.complete_videos == 3
    assert info.segments == info.searchable == 6
    assert info.seconds == pytest.approx(22.0, abs=0.5)
    assert engine.failed() == []


def test_any_file_name_can_be_indexed_and_found(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    odd = {
        folder / os.fsdecode(name)
        for name in (b"new\nline.mp4", b"\xe2\x98\x83 films.mp4", b"not \xff utf.mp4", b"-k 3.mp4")
    }
    for path in odd:
        shutil.copy(library / "red.mp4", path)
    engine = Engine(tmp_path / "odd-index", ColourEncoder())
    report = engine.index([folder])
    assert (report.failed, report.encoded + report.linked) == ([], 4)
    hit = engine.search("red")[0]
    assert {hit.path, *hit.copies} == {str(path) for path in odd}
