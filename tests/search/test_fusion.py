"""Search of pictures and words together, in films of plain colours in which known words are said."""

import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import write_film
from tests.noting import note_calls
from tests.spoken import (
    FILMS,
    WORDS,
    FakeSentences,
    NamedColours,
    make_films,
    make_worded_films,
    open_texts,
    save_background,
    say,
)
from tests.store.samples import damage
from vidret.channels.picture.evidence import HINTED, MIN_DEVIATION, PICTURE_OFFSET, PICTURE_SLOPE, REPORTED
from vidret.channels.picture.query_bank import SENTENCES, UNRELATED
from vidret.channels.picture.ranking import TOP_FRAMES
from vidret.channels.texts import channel, matching
from vidret.channels.texts.channel import (
    ADJACENT,
    HUBNESS,
    MATCHES_HINT,
    MATCHES_REPORT,
    MEANING_OFFSET,
    MEANING_SLOPE,
    PRIOR_TEXTS,
    SHORT_MEANING,
    SHORT_WORDS,
    SOUND_OFFSET,
    SOUND_SLOPE,
    WORDS_OFFSET,
    WORDS_SLOPE,
)
from vidret.channels.texts.matching import ENGLISH_TEXTS, MAX_PHONEMES, MIN_PHONEMES, STOP_STEMS, TYPICAL_WORDS
from vidret.encode.sentences import find_word_share
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.search.fusion import SAID
from vidret.search.query.clauses import make_clause
from vidret.search.query.planning import VERBATIM
from vidret.store.snapshots.columns import FILE_NAME
from vidret.store.texts.phonemes import align_phonemes, pronounce
from vidret.types import Frames, Hit, SegmentEmbedding, Source, TextEmbedding, TextSource, TimedText
from vidret.types import Sequence as EventSequence

pytestmark = pytest.mark.usefixtures("sentences")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films and an index of them with words; none must be changed."""
    folder = tmp_path_factory.mktemp("spoken")
    make_worded_films(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(folder / "index", NamedColours()) as engine:
        yield engine


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the index with words that a test may change."""
    return shutil.copytree(folder / "index", tmp_path / "index")


def names(hits: Sequence[Hit]) -> list[str]:
    return [Path(hit.path).stem for hit in hits]


def search(engine: Engine, query: str, k: int = 10, *sources: Source) -> list[str]:
    return names(engine.search(query, k, sources=sources or None))


def score(engine: Engine, query: str, name: str) -> float:
    return next(hit.score for hit in engine.search(query) if Path(hit.path).stem == name)


# One clause


def test_one_strong_source_is_enough(engine: Engine) -> None:
    assert search(engine, "red")[0] == "red", "only seen"
    assert search(engine, "good morning captain", 1) == ["blue"], "only in subtitles"
    assert search(engine, "platform nine", 1) == ["red"], "only on screen"
    assert set(search(engine, "sand the door lightly", 2)) == {"turn", "back"}, "only said"


def test_words_only_find_no_video_that_does_not_hold_all_events(index: Path) -> None:
    say(index, "white", "speech", [(2.0, 4.0, "mind the gap")])
    with Engine(index, NamedColours()) as engine:
        query = "mind the gap, then the line is busy"
        found = {hit.path for hit in engine.search(query, sources=["speech"])}
        assert {Path(path).stem for path in found} == {"red", "blue"}
        assert found == {moment.path for moment in engine.locate(query, 20, sources=["speech"])}


def test_words_only_find_no_video_that_lacks_one_of_two_events_at_once(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "TEXTS", 1)  # as if other videos had better texts
    say(index, "white", "speech", [(2.0, 4.0, "mind the gap")])
    query = "mind the gap while the line is busy"
    with Engine(index, NamedColours()) as engine:
        assert not [*engine.search(query, sources=["speech"]), *engine.locate(query, sources=["speech"])]


class CoarseColours(NamedColours):
    has_frame_vectors = False

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = super().encode_frames(batch)
        return [SegmentEmbedding(one.video, one.video[None], one.times.mean(keepdims=True)) for one in embeddings]


@pytest.mark.parametrize("query", ["red while mind the gap", 'red while "mind the gap"'])
def test_words_between_frames_are_heard_at_the_same_time(tmp_path: Path, query: str) -> None:
    write_film(tmp_path / "films/red.mp4", ("red", 12))
    with Engine(tmp_path / "index", CoarseColours()) as engine:
        engine.index([tmp_path / "films"])
        say(tmp_path / "index", "red", "speech", [(2.8, 3.3, "mind the gap")])
        (hit,), (moment,) = engine.search(query), engine.locate(query)
        assert (moment.start, moment.end) == (2.8, 3.3)
        assert hit.score == moment.score > 20


def test_no_moment_of_words_only_goes_on_after_the_video(index: Path) -> None:
    say(index, "white", "speech", [(2.0, 2.2, "mind the gap"), (11.8, 11.9, "over and out")])
    with Engine(index, NamedColours()) as engine:
        for query in ("over and out", "mind the gap, then over and out"):
            (hit,), (moment,) = engine.search(query, 1, sources=["speech"]), engine.locate(query, 1, sources=["speech"])
            assert {moment.end, *(event.end for event in (*moment.events[-1:], *hit.events[-1:]))} == {12.0}


def test_word_that_is_asked_of_words_only_is_likelier_where_a_text_holds_it(engine: Engine) -> None:
    joined, asked = engine.search("lightly", 1), engine.search("lightly", 1, sources=["speech"])
    assert names(joined) == names(asked)
    assert asked[0].why["speech"] > joined[0].why["speech"]


def test_hit_has_scores_and_evidence_of_its_sources(engine: Engine) -> None:
    hit = engine.search("platform nine", 1)[0]
    assert not hit.weak
    assert hit.why["screen"] == max(hit.why.values())
    best = hit.evidence[0]
    assert (best.source, best.text, best.start, best.end) == ("screen", "platform nine", 0, 4)
    assert [best.text[start:end] for start, end in best.matches] == ["platform", "nine"]
    assert 0.5 < best.share <= 1
    assert sum(evidence.share for evidence in hit.evidence) <= 1 + 1e-6
    assert hit.time == 0
    assert hit.segment.start <= hit.time <= hit.segment.end


def test_scores_agree_with_a_naive_twin(engine: Engine) -> None:
    queries = ("the line is busy", "blue", "someone says good morning", "a platform sign")
    for query, expected in zip(queries, score_naively(engine, queries), strict=True):
        hits = engine.search(query)
        assert {Path(hit.path).stem: hit.score for hit in hits} == pytest.approx(expected, abs=5e-3)
        assert len(hits) == len(FILMS)


def score_naively(engine: Engine, queries: Sequence[str]) -> list[dict[str, float]]:
    """Compute the score of each film for queries of one clause, with loops."""
    store = engine._index.store
    segments = {Path(video.paths[0]).stem: store.segments.ids_of_video(video.id) for video in engine.videos()}
    frames = {name: [store.features.read([key]).frames[0] for key in ids] for name, ids in segments.items()}

    def see(rows: np.ndarray, text: TextEmbedding) -> float:
        """Return the mean of the best frames of a segment."""
        return float(np.mean(sorted(float(row @ text.sentence) for row in rows)[-TOP_FRAMES:]))

    unrelated = engine.encoder.encode_text(UNRELATED)
    reached = [see(rows, embedding) for embedding in unrelated for frame_rows in frames.values() for rows in frame_rows]
    mean, deviation = float(np.mean(reached)), max(float(np.std(reached)), MIN_DEVIATION)
    totals = []
    for query in queries:
        clause, query_totals = make_clause(query), {}
        text = engine.encoder.encode_text([query])[0]
        for name, video_frames in frames.items():
            seen = max(see(rows, text) for rows in video_frames)
            scores = [PICTURE_SLOPE * (seen - mean) / deviation + PICTURE_OFFSET]
            if clause.source is not None:
                scores[0] -= HINTED
                if clause.content != clause.text and clause.source == "speech":
                    scores[0] -= REPORTED
            for source in ("speech", "screen", "subtitles"):
                text_scores = [rate_text_naively(query, row) for row in WORDS if row[:2] == (name, source)]
                # Texts that share no word with a query are silent, unless they mean it.
                scores += [max(text_scores)] if text_scores and max(text_scores) > 0 else []
            query_totals[name] = float(np.log(np.sum(np.exp(scores))))
        totals.append(query_totals)
    return totals


def stem(word: str) -> str:
    """Return the stem of a word of this test."""
    return {"busy": "busi", "please": "pleas", "lightly": "lightli", "tomorrow": "tomorrow"}.get(word, word)


def rate_text_naively(query: str, said: tuple[str, TextSource, float, float, str]) -> float:
    """Compute the evidence of one of ``WORDS`` for a query, word by word."""
    clause, encode, source = make_clause(query), FakeSentences().encode, said[1]
    vector, text = encode([clause.content])[0], encode([said[4]])[0]
    typical = encode([*SENTENCES, *UNRELATED]).mean(axis=0)
    vectors = [encode([row[4]])[0] for row in WORDS if row[1] == source]
    level = sum(float(text_vector @ vector) for text_vector in vectors) + PRIOR_TEXTS * float(typical @ vector)
    level /= len(vectors) + PRIOR_TEXTS
    asked, held = clause.content.split(), said[4].split()
    matched, total_weight, num_words = 0.0, 0.0, 0
    for word in asked:
        if stem(word) in STOP_STEMS:
            continue
        num_words += 1
        num_texts = sum(word in row[4].split() for row in WORDS)
        expected = 1 - (1 - find_word_share(word)) ** TYPICAL_WORDS
        others = max(num_texts - 1, 0) + ENGLISH_TEXTS * expected
        weight = -np.log(others / (len(WORDS) + ENGLISH_TEXTS))
        total_weight += weight
        matched += weight if word in held else 0.0
    neighbours = sum(pair in pairwise(held) for pair in set(pairwise(asked)))
    by_words = WORDS_OFFSET + matched / total_weight * (WORDS_SLOPE * matched + ADJACENT * neighbours)
    content, heard = pronounce([clause.content, said[4]])
    if source == "speech" and MIN_PHONEMES <= len(content) <= MAX_PHONEMES:
        by_words = max(by_words, SOUND_OFFSET + SOUND_SLOPE * float(align_phonemes(content, [heard])[0]))
    by_meaning = MEANING_OFFSET + MEANING_SLOPE * float(text @ vector - level - HUBNESS * (text @ typical))
    if clause.source == source or (clause.source, source) == ("speech", "subtitles"):
        by_meaning += MATCHES_HINT + (
            MATCHES_REPORT if clause.content != clause.text and clause.source == "speech" else 0
        )
    if clause.source is None:
        by_words, by_meaning = (by_words - SHORT_WORDS / num_words, by_meaning - SHORT_MEANING / num_words)
    return float(np.log(np.exp(by_words) + np.exp(by_meaning)))


# Two clauses


def test_then_prefers_the_video_with_this_order(engine: Engine) -> None:
    assert search(engine, "green, then yellow", 1) == ["turn"]
    assert search(engine, "yellow, then green", 1) == ["back"]
    said = 'someone says "{}", and then someone says "{}"'
    busy, call = "the line is busy", "please call again tomorrow"
    assert search(engine, said.format(busy, call).replace('"', ""), 1) == ["red"]
    assert search(engine, said.format(call, busy).replace('"', ""), 1) == ["blue"]


def test_together_prefers_the_video_in_which_both_hold_at_once(engine: Engine) -> None:
    assert search(engine, "green, while someone says sand the door lightly", 1) == ["turn"]
    assert search(engine, "yellow, while someone says sand the door lightly", 1) == ["back"]


def test_events_of_hits_are_in_order_and_do_not_overlap(engine: Engine) -> None:
    hit = engine.search("green, then yellow", 1)[0]
    assert [event.text for event in hit.events] == ["green", "yellow"]
    first, second = hit.events
    assert [first.start, first.end, second.end] == pytest.approx([0, 6, 12], abs=0.3)
    assert first.end <= second.start
    assert engine.search("green", 1)[0].events == ()


def test_sequences_are_searched_like_sentences(engine: Engine) -> None:
    by_sentence = engine.search("green, then yellow")
    by_sequence = engine.search(EventSequence(["green", "yellow"]))
    assert [(h.path, h.score, h.events) for h in by_sentence] == [(h.path, h.score, h.events) for h in by_sequence]
    busy, call = "someone says the line is busy", "someone says please call again tomorrow"
    assert names(engine.search(EventSequence([busy, call], gap=5), 1)) == ["red"]
    best = engine.search(EventSequence([busy, call], gap=1), 1)[0]
    assert best.events[1].start - best.events[0].end <= 1
    assert names(engine.search(EventSequence(["green", "yellow"]), 1, rerank=None)) == ["turn"]
    for verbatim in (False, True):
        with pytest.raises(VidretError, match="query must be text, an image or a vector here, got 2 events"):
            engine.curve(EventSequence(["green", "yellow"], verbatim=verbatim), by_sequence[0].path)


def test_phrases_of_one_event_do_not_restrict_others(engine: Engine) -> None:
    assert search(engine, '"line is busy", then "please call again"') == ["red"]
    assert search(engine, '"please call again" and then "line is busy"') == ["blue"]
    assert search(engine, 'red, then "please call again"', 1) == ["red"]


# What restricts a search


def test_negative_terms_exclude_what_is_said_or_shown(engine: Engine) -> None:
    assert "red" not in search(engine, "line -platform")
    assert search(engine, "line -captain -platform", 10, "speech")
    assert not {"red", "blue"} & set(search(engine, 'yellow -"line is busy"'))
    assert set(search(engine, 'yellow -"busy is line"')) == set(FILMS), "in this order"


def test_other_exclusions_lower_a_video_in_which_they_are_said(engine: Engine) -> None:
    assert set(search(engine, "line, no platform")) == set(FILMS)
    for name, loss in (("red", SAID), ("blue", 0.0)):
        lowered, whole = score(engine, "line, no platform", name), score(engine, "line", name)
        assert lowered == pytest.approx(whole - loss, abs=1e-3)
    moment = engine.locate("line, no platform", 1, video=engine.search("red", 1)[0].path, weak=True)[0]
    assert moment.score == pytest.approx(score(engine, "line, no platform", "red"), abs=1e-3)


@pytest.mark.parametrize("query", ["white -red", "white, no red"])
def test_negative_terms_lower_videos_that_show_nothing_else(engine: Engine, query: str) -> None:
    seen, less = ({Path(hit.path).stem: hit.why["picture"] for hit in engine.search(text)} for text in ("white", query))
    assert less["red"] < seen["red"] - 5
    assert seen["white"] - 2 < less["white"] <= seen["white"] + 1e-5


@pytest.mark.parametrize("said", ["no woman, no cry", "the kettle sings, no steam", "call me, then hang up"])
def test_what_is_said_word_for_word_wins_over_grammar(index: Path, said: str) -> None:
    with Engine(index, NamedColours()) as engine:
        assert "exactly this is said" not in engine.interpret(said).note
    say(index, "white", "speech", [(2, 4, f"well, {said}, my dear")])
    with Engine(index, NamedColours()) as engine:
        assert search(engine, said, 1) == ["white"]
        assert engine.search(said, 1)[0].events == ()
        if said != "no woman, no cry":  # which is plain words anyway
            assert engine.interpret(said).note == VERBATIM
            assert engine.interpret(said, sources=["picture"]).note == ""
            assert engine.interpret(f"{said} -captain").excluded == ("captain",)


def test_phrases_must_be_said_or_shown(engine: Engine) -> None:
    assert set(search(engine, '"line is busy"')) == {"red", "blue"}
    assert search(engine, '"platform nine"') == ["red"]
    assert search(engine, '"line busy" red') == []
    assert search(engine, 'blue "line is busy"', 1) == ["blue"]


def test_videos_with_a_phrase_score_as_their_best_moments(engine: Engine) -> None:
    hits = engine.search('green "sand the door"')
    assert names(hits) == ["turn", "back"]
    moments = [engine.locate('green "sand the door"', 1, video=hit.path)[0] for hit in hits]
    assert [moment.score for moment in moments] == pytest.approx([hit.score for hit in hits])


def test_sources_restrict_the_search(engine: Engine) -> None:
    assert search(engine, "platform nine", 10, "speech") != ["red"]
    assert search(engine, '"platform nine"', 10, "speech") == []
    assert search(engine, '"platform nine"', 10, "speech", "screen") == ["red"]
    hits = engine.search("good morning captain", sources=["subtitles"])
    assert names(hits) == ["blue"]
    assert {evidence.source for hit in hits for evidence in hit.evidence} == {"subtitles"}
    pictures = engine.search("red", sources=["picture"])
    assert names(pictures)[0] == "red"
    assert {evidence.source for hit in pictures for evidence in hit.evidence} == {"picture"}
    assert all(set(hit.why) == {"picture", "frames"} for hit in pictures)
    for wrong, rule in (([], "have at least 1 item"), (["smell"], "be one of 'picture', 'speech', 'screen', ")):
        with pytest.raises(VidretError, match=f"sources must {rule}"):
            engine.search("red", sources=wrong)  # type: ignore[arg-type]


# The index changes


def test_words_of_contents_that_the_index_lacks_are_not_found(index: Path) -> None:
    with open_texts(index) as store:
        track = store.begin("unknown", "speech", "model", duration_s=9.0)
        store.add(track, [TimedText(0, 2, "zebra crossing", "speech")], FakeSentences().encode(["zebra"]), until_s=9)
        store.finish(track)
    with Engine(index, NamedColours()) as engine:
        assert search(engine, '"zebra crossing"') == []
        assert len(search(engine, "zebra crossing")) == len(FILMS)


def test_index_with_empty_words_answers_by_pictures(tmp_path: Path) -> None:
    index = make_films(tmp_path)
    open_texts(index).close()
    with Engine(index, NamedColours()) as engine:
        assert search(engine, "red", 1) == ["red"]
        assert search(engine, "green, then yellow", 1) == ["turn"]
        assert search(engine, '"line is busy"') == []
        assert search(engine, "busy", 10, "speech") == []
        assert len(search(engine, "red -busy")) == len(FILMS)
        assert Path(engine.locate("green", 1)[0].path).stem in ("turn", "back")


def test_index_with_words_alone(tmp_path: Path) -> None:
    """An index from which all videos are gone answers with nothing."""
    with Engine(tmp_path / "index", NamedColours()) as engine:
        engine.index([])
        open_texts(tmp_path / "index").close()
        assert engine.search("red") == []
        assert engine.locate("red") == []


# The background


def test_background_is_measured_again_when_words_grow_by_a_quarter(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = note_calls(monkeypatch, channel, "measure_background", lambda *_: 1)
    for _ in range(2):
        with Engine(index, NamedColours()) as engine:
            engine.search("line")
    save_background(index)
    assert measured == [], "as large as it was"
    with Engine(index, NamedColours()) as engine:
        for count, expected in ((len(WORDS) // 4, 0), (1, 1), (0, 1)):
            texts = [(float(i), i + 0.5, f"word{i} of {count}") for i in range(count)]
            say(index, "white", "screen" if expected else "speech", texts)
            engine.search("word1")
            assert len(measured) == expected
    say(index, "white", "subtitles", [(1, 2, "one more")])
    save_background(index)
    assert len(measured) == 2


def test_an_open_engine_reads_a_background_that_was_stored_since(index: Path) -> None:
    with Engine(index, NamedColours()) as engine:
        engine.search("line")
        say(index, "white", "subtitles", [(1, 2, "a line of its own")])
        old = engine.search("line")
        save_background(index)
        with Engine(index, NamedColours()) as fresh:
            assert engine.search("line") == fresh.search("line") != old


def test_a_search_encodes_the_query_alone(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = NamedColours()
    encoded = note_calls(monkeypatch, encoder, "encode_text", lambda texts: [*texts])
    sentences = note_calls(monkeypatch, FakeSentences, "encode", lambda _, texts: list(texts))
    with Engine(index, encoder) as engine:
        engine.search("red line")
        engine.search("someone says red, no line")
    assert [*chain(*encoded)] == ["red line", "someone says red", "line"], (
        "unrelated queries and typical sentences are stored"
    )
    assert [*chain(*sentences)] == ["red line", "red", "someone says red"], "what is said, and how it is asked for"


# Damage


def test_damaged_texts_are_left_out_and_said_once(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(index / "words" / "features" / "video.f16", 4)  # the vector of the first text
    with contextlib.closing(sqlite3.connect(index / "words" / "catalog.sqlite")) as catalog, catalog:
        assert catalog.execute("UPDATE texts SET text = x'ff' WHERE segment = 2").rowcount == 1
    with Engine(index, NamedColours()) as engine:
        for _ in range(2):
            assert set(search(engine, '"call again"')) <= {"red", "blue"}
            assert len(search(engine, "the line is busy")) == len(FILMS)
            engine.locate("the line is busy")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings
    assert len(warnings) == len(set(warnings)) <= 4
    assert all("damaged" in warning for warning in warnings)


def test_damaged_segment_is_left_out(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(sqlite3.connect(index / "catalog.sqlite")) as catalog, catalog:
        catalog.execute("UPDATE segments SET start = start + 0.5")
    (index / FILE_NAME).unlink()  # it has what was in the rows
    with Engine(index, NamedColours()) as engine:
        assert search(engine, "platform nine", 1) == ["red"], "its words are intact"
        assert search(engine, '"line is busy", then red')
        engine.locate("platform nine")
    assert "damaged" in caplog.text


def test_words_of_a_damaged_video_are_left_out_and_said_once(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(sqlite3.connect(index / "catalog.sqlite")) as catalog, catalog:
        (video,) = catalog.execute("SELECT video FROM files WHERE CAST(path AS TEXT) LIKE '%red.mp4'").fetchone()
        catalog.execute("UPDATE videos SET duration = duration + 1 WHERE id = ?", (video,))
    with Engine(index, NamedColours()) as engine:
        for _ in range(2):
            assert search(engine, '"line is busy"') == ["blue"]
            assert search(engine, "red", 1) == ["red"], "its pictures are intact"
        moments = engine.locate("platform nine", video=engine.search("red", 1)[0].path, weak=True)
    assert moments
    assert all(evidence.source == "picture" for moment in moments for evidence in moment.evidence)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"the row of {video} in videos is damaged" in warnings[0]


def test_damaged_full_text_index_is_built_again_in_memory(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    (index / "words" / "texts.sqlite").write_bytes(b"no database" * 999)
    with Engine(index, NamedColours()) as engine:
        assert search(engine, '"platform nine"') == ["red"]
    assert "in memory" in caplog.text
