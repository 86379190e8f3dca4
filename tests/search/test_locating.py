"""Moments of several videos: the order of a head's probabilities and a search's scores, and weak moments."""

import math
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import PatchEncoder
from tests.grounded import make_encoder, write_head, write_numbers
from tests.video.films import write_scenes
from vidret.engine import Engine
from vidret.errors import DecodeError, StoreError
from vidret.ground.postprocess import weigh_by_similarity
from vidret.ground.spans import Span
from vidret.search.curves import describe_video
from vidret.search.probability import PICTURES_ONLY
from vidret.store.lookup import look_up_video
from vidret.store.records import StoredSegments
from vidret.store.store import Store
from vidret.types import UNLIKELY, LocateOptions, Moment, TextEmbedding
from vidret.video.reader import read_frames

pytestmark = pytest.mark.usefixtures("pools")

ALL: dict[str, Any] = {"overlapping": True, "weak": True}  # the complete ranked list
QUERIES = ("a dog on a beach", "two people ride bikes", "rain")
FIRSTS = {"a.mp4": 0, "b.mp4": 60, "c.mp4": 120, "d.mp4": 180}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make films, heads and an index prepared for one of the heads."""
    folder = tmp_path_factory.mktemp("made")
    for name, first in FIRSTS.items():
        write_numbers(folder / "films" / name, range(first, first + 25))
    write_head(folder / "head.safetensors")
    write_head(folder / "highlights.safetensors", "tvsum", boundaries=False)
    with Engine(folder / "index", make_encoder(), head=folder / "head.safetensors") as engine:
        assert engine.index([folder / "films"]).encoded == len(FIRSTS)
        engine.prepare_moments()
    return folder


@pytest.fixture
def engine(made: Path) -> Iterator[Engine]:
    with Engine(made / "index", make_encoder()) as engine:
        yield engine


def select(moments: list[Moment], path: str) -> list[Moment]:
    return [moment for moment in moments if moment.path == path]


@pytest.mark.parametrize("query", QUERIES)
def test_spans_of_a_head_score_below_their_video_by_their_probability(engine: Engine, query: str) -> None:
    hits = {hit.path: hit for hit in engine.search(query, 3)}
    moments = engine.locate(query, 1000, videos=3, **ALL)
    assert {moment.path for moment in moments} == set(hits)
    grounder = engine.grounder
    assert grounder is not None
    for path, hit in hits.items():
        among, alone = select(moments, path), engine.locate(query, 1000, video=path, **ALL)
        among_spans, alone_spans = ([(m.start, m.end) for m in listed] for listed in (among, alone))
        np.testing.assert_allclose(among_spans, alone_spans, atol=1e-4)  # videos go through the head together
        np.testing.assert_allclose([m.score for m in among], [m.score for m in alone], atol=1e-2)
        grounded = describe_video(engine._index.pictures, hit.video, path)
        (found,) = grounder.answer_many(grounder.read(query), [grounded])
        spans = {(span.start, span.end): span.score for span in found or []}
        best = max(spans.values())
        assert len(alone) == len(spans)
        for moment in alone:
            (probability,) = (p for edges, p in spans.items() if edges == pytest.approx((moment.start, moment.end)))
            assert moment.score == pytest.approx(hit.score + math.log(probability / best), abs=1e-3)
        assert {moment.by for moment in (*alone, *among)} == {"head"}
    scores = [moment.score for moment in moments]
    assert scores == sorted(scores, reverse=True)


def test_k_limits_moments_and_videos_limits_videos(engine: Engine) -> None:
    everything = engine.locate("rain", 1000, **ALL)
    assert len({moment.path for moment in everything}) == len(FIRSTS)
    assert engine.locate("rain", 7, **ALL) == everything[:7]
    assert len({moment.path for moment in engine.locate("rain", 1000, videos=1, **ALL)}) == 1


def test_similarity_weighs_the_spans_of_a_head_if_its_card_says_so(engine: Engine, made: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors", similarity_weight=2.0)
    with Engine(made / "index", make_encoder(), head=head) as weighing:
        for query, film in product(QUERIES, FIRSTS):
            path = made / "films" / film
            plain = [Span(m.start, m.end, m.score) for m in engine.locate(query, 1000, video=path, **ALL)]
            weighed = [Span(m.start, m.end, m.score) for m in weighing.locate(query, 1000, video=path, **ALL)]
            odds = [span._replace(score=math.exp(span.score)) for span in plain]
            expected = weigh_by_similarity(odds, engine.curve(query, path), 2.0)
            logs = np.log([span.score for span in expected])
            assert [span[:2] for span in expected] != [span[:2] for span in plain] or not np.allclose(
                logs, [s.score for s in plain]
            )
            np.testing.assert_allclose([span[:2] for span in weighed], [span[:2] for span in expected], rtol=1e-4)
            below = np.array([span.score for span in weighed]) - weighed[0].score
            np.testing.assert_allclose(below, logs - logs[0], rtol=1e-3, atol=1e-4)
        moments = weighing.locate("rain, and then a dog", 3, weak=True)
        assert {moment.by for moment in moments} == {"head"}
        assert all(len(moment.events) == 2 for moment in moments)


def test_moments_of_the_curve_are_ordered_by_the_scores_of_their_videos(made: Path) -> None:
    """Contrast orders the moments of one video; a video that matches throughout has none, and may match best."""
    with Engine(made / "index", make_encoder(), head="none") as engine:
        assert engine.grounder is None
        for query in QUERIES:
            hits = {hit.path: hit for hit in engine.search(query)}
            moments = engine.locate(query, 1000, **ALL)
            scores = [moment.score for moment in moments]
            assert scores == sorted(scores, reverse=True)
            assert {moment.by for moment in moments} == {"curve"}
            for path, hit in hits.items():
                among = select(moments, path)
                assert among[0].score == pytest.approx(hit.score, abs=1e-4)
                alone = engine.locate(query, 1000, video=path, **ALL)
                assert [(m.start, m.end, m.by) for m in alone] == [(m.start, m.end, "curve") for m in among]


def test_moments_begin_at_cuts_unless_told_not_to(tmp_path: Path) -> None:
    film = write_scenes(tmp_path / "a.mp4", [85, 102, 75])
    with Engine(tmp_path / "index", PatchEncoder(), rerank="none") as engine:
        engine.index([film])
        cuts = [shot.start for shot in engine.shots(film)][1:]
        image = read_frames(str(film), times=[5.0]).pixels[0]
        frames = engine.curve(image, film).times
        snapped, free = (engine.locate(image, 1, video=film, snap=snap, **ALL)[0] for snap in (True, False))
    assert [snapped.start, snapped.end] == pytest.approx(cuts)
    midways = (frames[1:] + frames[:-1]) / 2
    assert [min(abs(midways - edge)) for edge in (free.start, free.end)] == pytest.approx([0, 0])
    assert (free.start, free.end) != (snapped.start, snapped.end)


def test_the_best_moment_has_the_probability_of_its_video_and_others_less(engine: Engine, made: Path) -> None:
    store, path = engine._index.store, str(made / "films" / "b.mp4")
    video_id = look_up_video(store, path)
    hits = {hit.path: hit for hit in engine.search("rain")}
    moments = engine.locate("rain", 50, **ALL)
    assert {moment.path for moment in moments} == {*hits}
    for moment in moments:
        hit = hits[moment.path]
        assert moment.weak == hit.weak or moment.score < hit.score
        assert moment.likelihood == "unlikely" or not moment.weak
        assert (moment.score == hit.score) == (moment.probability == hit.probability)
    probabilities = [moment.probability or 0 for moment in moments]
    assert len(moments) > len(hits)
    assert probabilities == sorted(probabilities, reverse=True), "no result is more probable than one above it"
    num_segments = len(store.segments.ids_of_video(video_id))
    expected = PICTURES_ONLY.index(hits[path].score, num_segments)
    alone = engine.locate("rain", 50, video=path, **ALL)
    assert [m.probability for m in alone] == pytest.approx(
        [PICTURES_ONLY.index(m.score, num_segments) for m in alone], abs=1e-6
    )
    assert alone[0].probability == pytest.approx(expected, abs=1e-6)
    assert [m.weak for m in alone] == [(m.probability or 0) < UNLIKELY for m in alone]


def test_unreadable_video_is_skipped_with_a_warning(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made / "films", tmp_path / "films")
    with Engine(tmp_path / "index", make_encoder(), head="none") as engine:
        engine.index([tmp_path / "films"])
    with Engine(tmp_path / "index", make_encoder(), head=made / "head.safetensors") as engine:
        (tmp_path / "films" / "b.mp4").write_text("no video any more")
        moments = engine.locate("rain", 1000, **ALL)
        assert {Path(moment.path).name for moment in moments} == {"a.mp4", "c.mp4", "d.mp4"}
        assert f"left out: {tmp_path / 'films' / 'b.mp4'}: " in caplog.text
        caplog.clear()
        engine.prepare_moments()
        assert f"{tmp_path / 'films' / 'b.mp4'}: no moments prepared: " in caplog.text
        with pytest.raises(DecodeError, match=r"b\.mp4"):
            engine.rate("rain", tmp_path / "films" / "b.mp4", np.array([1.0]))
        with pytest.raises(StoreError, match="not in the index"):
            engine.rate("rain", tmp_path / "nowhere.mp4", np.array([1.0]))
        (tmp_path / "films" / "b.mp4").unlink()
        (tmp_path / "films" / "a.mp4").unlink()
        names = {Path(moment.path).name for moment in engine.locate("rain", 1000, **ALL)}
        assert names == {"c.mp4", "d.mp4"}, "missing videos are not searched, though their tokens are kept"
        assert engine.locate("rain", 3, video=tmp_path / "films" / "a.mp4", **ALL), (
            "a missing video is located by its path"
        )


def test_saliency_is_interpolated_between_frames(engine: Engine, made: Path) -> None:
    path = made / "films" / "a.mp4"
    grounder = engine.grounder
    assert grounder is not None
    searcher = engine._index.pictures
    grounded = describe_video(searcher, look_up_video(searcher.store, path), str(path))
    frames = grounder.rate_frames(grounder.read("rain"), grounded)
    assert len(frames) == 25
    saliency = engine.rate("rain", path, np.array([0.0, 0.5, 1.5, 2.0, 24.5, 99.0]))
    expected = [frames[0], frames[0], frames[1], (frames[1] + frames[2]) / 2, frames[24], frames[24]]
    np.testing.assert_allclose(saliency, expected, rtol=1e-6)
    with Engine(made / "index", make_encoder(), head="none") as plain:
        curve = plain.curve("rain", path)
        np.testing.assert_allclose(plain.rate("rain", path, curve.times), curve.scores, rtol=1e-6)


@pytest.mark.parametrize("head", ["none", "head", "highlights"])
def test_times_agree_with_a_player_if_sound_starts_first(made: Path, tmp_path: Path, head: str) -> None:
    write_numbers(tmp_path / "films" / "early.mp4", range(25), shift=0, audio=True)
    write_numbers(tmp_path / "films" / "late.mp4", range(25), shift=7, audio=True)
    chosen = head if head == "none" else made / f"{head}.safetensors"
    with Engine(tmp_path / "index", make_encoder(), head=chosen) as engine:
        engine.index([tmp_path / "films"])
        films = [tmp_path / "films" / f"{name}.mp4" for name in ("early", "late")]
        early, late = (engine.locate("rain", 1000, video=film, **ALL) for film in films)
        assert early
        np.testing.assert_allclose([(m.start, m.end) for m in late], [(7 + m.start, 7 + m.end) for m in early])
        np.testing.assert_allclose([m.score for m in late], [m.score for m in early], rtol=1e-5)
        times = np.array([0.5, 3.25, 24.5])
        np.testing.assert_allclose(
            engine.rate("rain", films[1], 7 + times), engine.rate("rain", films[0], times), rtol=1e-5
        )


@pytest.mark.parametrize("head", ["none", "head"])
def test_no_moment_crosses_a_gap(made: Path, tmp_path: Path, head: str, caplog: pytest.LogCaptureFixture) -> None:
    stamps = [*range(25), *range(5_000_000, 5_000_025)]
    film = write_numbers(tmp_path / "films" / "gap.mkv", range(50), pts=stamps)
    chosen = head if head == "none" else made / f"{head}.safetensors"
    with Engine(tmp_path / "index", make_encoder(), head=chosen) as engine:
        report = engine.index([film])
        assert report.num_segments <= 6
        assert report.salvaged == [(str(film), "shows no new frame from 24 s to 5000000 s")]
        moments = engine.locate("rain", 1000, video=film, **ALL)
    assert all(moment.end - moment.start < 40 for moment in moments)
    assert any(moment.end <= 36 for moment in moments)
    assert any(moment.start >= 4_999_980 for moment in moments) == (head == "none")
    assert ("the head uses only the part before the first gap" in caplog.text) == (head == "head")


def test_a_video_of_which_nothing_is_stored_yet_is_named_by_its_path(tmp_path: Path) -> None:
    film, encoder = write_numbers(tmp_path / "films" / "a.mp4", range(25)), make_encoder()
    with Engine(tmp_path / "index", encoder) as engine:
        engine.index([film])
        with Store.open(engine.path, write=True) as store:  # as a run has it that has begun the video
            video = store.writer.begin_video("new", duration=1.0, facts={}, num_segments=1)
            store.writer.set_file(str(film), state="done", video=video)
        for name in (video, film):
            with pytest.raises(StoreError, match=f"^{film}: no segment is stored yet"):
                engine.curve("rain", name)


def test_many_queries_in_many_videos_are_those_of_one_by_one(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, encoder = [*QUERIES, "a dog -rain", f"{QUERIES[1]}, then {QUERIES[2]}"], make_encoder()
    with Engine(made / "index", encoder) as engine:
        ids = [video.id for video in engine.videos()]
        single = [[engine.locate(query, 2, video=video, weak=True) for video in ids] for query in queries]
        texts, reads = list[str](), list[int]()
        encode, read = encoder.encode_text, engine._index.store.features.read

        def count_texts(batch: Sequence[str]) -> list[TextEmbedding]:
            texts.extend(batch)
            return encode(batch)

        def count_reads(rows: Sequence[int], **options: Any) -> StoredSegments:
            reads.append(len(rows))
            return read(rows, **options)

        monkeypatch.setattr(encoder, "encode_text", count_texts)
        monkeypatch.setattr(engine._index.store.features, "read", count_reads)
        assert engine.locate_many(queries, ids, LocateOptions(k=2, weak=True)) == single
    asked = [*QUERIES, "a dog", "rain", *QUERIES[1:]]
    assert sorted(texts) == sorted(asked), "each query is encoded once"
    assert len(reads) == len(ids), "each video is read once"
