"""Queries that name persons: who must be there, who must not, in order, with and without a description."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import ColourEncoder, write_film
from tests.made_identities import make_track, make_voice, store_people
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.search.collections import add_watch
from vidret.search.people import KnownPersons, PersonSpans, Presence
from vidret.search.query.grammar import interpret
from vidret.serve.mcp.tools import result_to_tool
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import FILE
from vidret.store.identities.tracks import Track
from vidret.store.store import Store
from vidret.types import ComposedQuery, Filters, Hit, Moment, Query, TextEmbedding
from vidret.types import Sequence as EventSequence

MUM, DAD = 0, 1


class ListeningEncoder(ColourEncoder):
    """Colours, and a record of all texts that were encoded."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        self.texts += texts
        return super().encode_text(texts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an index of three films: mum in red and dad in blue; dad in black; mum and dad in blue."""
    folder = tmp_path_factory.mktemp("people")
    write_film(folder / "films" / "both.mp4", ("red", 12), ("blue", 12), ("green", 12))
    write_film(folder / "films" / "dad.mp4", ("red", 12), ("black", 12))
    write_film(folder / "films" / "blue.mp4", ("blue", 12), ("white", 12))
    with Engine(folder / "index", ColourEncoder()) as engine:
        engine.index([folder / "films"], words=False)
    tracks: dict[str, list[Track]] = {
        "both": [make_track(MUM, 2, 10), replace(make_track(DAD, 13, 22), quality=5.0)],
        "dad": [make_track(DAD, 14, 16), make_voice(MUM, 3, 5), make_voice(MUM, 6, 7)],
        "blue": [make_track(MUM, 1, 4), make_track(DAD, 2, 9)],
    }
    store_people(folder / "index", tracks, "Mum", "Dad Joe")
    return folder


@pytest.fixture
def encoder() -> ListeningEncoder:
    return ListeningEncoder()


@pytest.fixture
def engine(folder: Path, encoder: ListeningEncoder) -> Iterator[Engine]:
    with Engine(folder / "index", encoder) as opened:
        yield opened
    assert not any(name in text.casefold() for text in encoder.texts for name in ("mum", "joe", "@", "person-"))


def name_film(result: Hit | Moment) -> str:
    return Path(result.path).stem


def find(engine: Engine, query: object, **options: object) -> list[tuple[str, float]]:
    moments = engine.locate(query, videos=10, **options)  # type: ignore[arg-type]
    return [(name_film(moment), moment.score) for moment in moments]


def test_a_person_in_a_description_leads_and_what_the_detector_missed_is_found_below(engine: Engine) -> None:
    hits = engine.search("@mum in blue")
    plain = {name_film(hit): hit.score for hit in engine.search("a person in blue")}
    assert name_film(hits[0]) == "blue"
    assert hits[0].score == pytest.approx(plain["blue"], abs=1e-3)
    named, plain = (
        {name_film(hit): hit.score for hit in engine.search(query)} for query in ("@mum red", "a person red")
    )
    assert next(iter(named)) == "both"
    assert set(named) == {"both", "dad", "blue"}
    assert named["both"] > named["dad"]
    assert plain["both"] == pytest.approx(plain["dad"], abs=0.2)


def test_evidence_says_who_is_seen_and_when(engine: Engine) -> None:
    hit = next(hit for hit in engine.search("@mum red") if name_film(hit) == "both")
    assert [(evidence.person, evidence.source, evidence.start, evidence.end) for evidence in hit.evidence] == [
        ("mum", "picture", 2, 10)
    ]
    assert engine.locate("@mum red")[0].evidence[0].person == "mum"
    assert engine.search("red")[0].evidence == ()


@pytest.mark.parametrize(("begin", "end"), [('"', '"'), ("\u201c", "\u201d")])
def test_a_name_in_quotes_stays_as_it_is(begin: str, end: str, folder: Path) -> None:
    with Store.open(folder / "index") as store:
        named = KnownPersons(store).name_handles(f"{begin}hello @Dad Joe{end} by @Dad Joe")
    assert named == '"hello @Dad Joe" by @dad-joe'


def test_quotes_become_straight_but_in_what_is_compared_as_it_is_written(folder: Path) -> None:
    curly, straight = "\u201ca dog\u201d barks", '"a dog" barks'
    with Store.open(folder / "index") as store:
        name = KnownPersons(store).name_handles
        assert name(curly) == straight
        for verbatim, text in ((False, straight), (True, curly)):
            assert name(EventSequence((curly, (curly,)), verbatim=verbatim)).events == (text, (text,))
            assert name(ComposedQuery(images=(), text=curly, verbatim=verbatim)).text == text


def test_only_a_name_lists_the_tracks(engine: Engine) -> None:
    moments = engine.locate("@mum")
    assert {name_film(moment) for moment in moments} == {"both", "blue"}
    for moment in moments:
        start, end = (2, 10) if name_film(moment) == "both" else (1, 4)
        assert abs(moment.start - start) <= 1.5
        assert abs(moment.end - end) <= 1.5
        assert moment.likelihood == "likely"
    for query, film, time_s in (
        ("@Dad Joe", "both", 17.5),  # in the middle of his best track
        ("@mum", "blue", 2.5),
        ("@mum and @dad joe", "blue", 3.0),  # while both are there
        ("@mum -@dad joe", "both", 6.0),
    ):
        hit = engine.search(query, k=1)[0]
        assert (name_film(hit), hit.time) == (film, time_s), query
        assert hit.segment.start <= hit.time <= hit.segment.end


def test_two_persons_must_be_together(engine: Engine) -> None:
    for query in ("@mum and @dad joe", "@mum @dad-joe", "@MUM with @Dad  Joe"):
        assert name_film(engine.search(query)[0]) == "blue"
    moment = engine.locate("@mum and @dad joe")[0]
    assert name_film(moment) == "blue"
    assert abs(moment.start - 2) <= 1
    assert abs(moment.end - 4) <= 1


def test_filters_hold_for_queries_that_name_only_persons(engine: Engine) -> None:
    assert find(engine, "@mum", filters=Filters(orientation="portrait")) == []
    assert find(engine, "@mum", filters=Filters(orientation="landscape")) == find(engine, "@mum")


def test_a_person_can_be_excluded(engine: Engine) -> None:
    assert name_film(engine.search("@mum -@dad-joe")[0]) == "both"
    for query in ('@mum -"@dad joe"', "@mum -\u201c@dad joe\u201d"):
        assert name_film(engine.search(query)[0]) == "both"
    assert name_film(engine.search("red -@mum")[0]) == "dad"
    assert engine.search('blue -"@dad joe in red"'), "whose name the encoder does not read"
    for query in ("@mum -@mum", "-@mum"):
        with pytest.raises(VidretError):
            engine.search(query)


def test_events_in_order(engine: Engine) -> None:
    moment = engine.locate("@mum in red, then @dad joe in blue")[0]
    assert name_film(moment) == "both"
    assert [event.text for event in moment.events] == ["@mum in red", "@dad-joe in blue"]
    assert moment.events[0].end <= moment.events[1].start
    ordered = engine.locate(EventSequence(events=("@mum", "@dad joe")))[0]
    assert name_film(ordered) == "both"
    assert abs(ordered.events[0].start - 2) <= 1
    assert abs(ordered.events[1].end - 22) <= 1


def test_the_option_adds_a_person_to_any_query(engine: Engine) -> None:
    assert find(engine, "in blue", person="mum") == find(engine, "in blue", person="person-1")
    assert find(engine, "in blue", person="Mum")[0][0] == "blue"
    image = np.full((40, 40, 3), (0, 0, 255), np.uint8)
    assert find(engine, image, person="mum,dad joe")[0][0] == "blue"
    assert find(engine, ComposedQuery(images=(image,), text="@mum"))[0][0] == "blue"
    assert name_film(engine.search(ComposedQuery(images=(image,), text="-@dad joe"))[0]) == "dad"
    assert engine.search(ComposedQuery(images=(image,), text='-"@dad joe in red"'))
    with pytest.raises(VidretError, match="must not exclude what it looks for, got @mum for both"):
        engine.search(ComposedQuery(images=(image,), text="-@mum"), person="mum")
    with pytest.raises(VidretError, match="person must be one of the index"):
        engine.search("in blue", person="uncle")


def test_a_voice_is_a_presence_too(engine: Engine) -> None:
    hit = engine.search("@person-3 in red")[0]
    assert name_film(hit) == "dad"
    assert {(piece.person, piece.source) for piece in hit.evidence} == {("person-3", "speech")}


def test_filters_hold(engine: Engine, folder: Path) -> None:
    only = Filters(folder=str(folder / "films" / "dad.mp4"))
    assert [name_film(hit) for hit in engine.search("@mum in blue", filters=only)] == ["dad"]
    assert [name_film(hit) for hit in engine.search("@dad-joe", filters=only)] == ["dad"]


def test_unknown_names_and_curves(engine: Engine, folder: Path) -> None:
    with pytest.raises(VidretError, match="@uncle: must be the name of a person or of a taught concept"):
        engine.search("@uncle in red")
    images = (np.full((8, 8, 3), (255, 0, 0), np.uint8),)
    without: tuple[Query, ...] = ("red -blue -@mum", 'red -"@Dad Joe" -blue', "red -blue, no @mum", '"red" -blue')
    alike: dict[Query, tuple[Query, ...]] = {
        "a person in red": ("@mum in red", EventSequence(["@mum in red"], verbatim=True)),
        "red -blue": without,
        ComposedQuery(images=images): (ComposedQuery(images=images, text="@mum"),),
        ComposedQuery(images=images, text="-blue"): (ComposedQuery(images=images, text="-@mum -blue"),),
    }
    for plain, queries in alike.items():
        expected, times = engine.curve(plain, film := folder / "films" / "both.mp4"), np.arange(0.0, 30.0)
        for query in queries:
            np.testing.assert_array_equal(engine.curve(query, film).scores, expected.scores)
            np.testing.assert_array_equal(engine.rate(query, film, times), engine.rate(plain, film, times))


def test_several_indexes_know_the_persons_of_each(folder: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "other.mp4", ("blue", 6))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=False)
    store_people(tmp_path / "index", {"other": [make_track(5, 0, 2), make_track(5, 3, 5)]}, "mum")
    with Engine([folder / "index", tmp_path / "index"], ColourEncoder()) as both:
        found = [name_film(hit) for hit in both.search("@mum in blue")[:2]]
    assert sorted(found) == ["blue", "other"]


def test_a_new_name_is_known_at_once(engine: Engine, folder: Path) -> None:
    persons = Persons(folder / "index")
    with pytest.raises(VidretError):
        engine.search("@uncle-bob")
    persons.rename("mum", "Uncle Bob")
    assert len(engine.search("@Uncle Bob")) == 2
    persons.undo()
    with pytest.raises(VidretError):
        engine.search("@uncle-bob")
    assert len(engine.search("@mum")) == 2


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), min_size=1, max_size=5)


@given(tracks=spans, asked=spans, cuts=st.lists(st.integers(0, 50), max_size=4, unique=True))
def test_presence_equals_loops(tracks: list[tuple[int, int]], asked: list[tuple[int, int]], cuts: list[int]) -> None:
    video_tracks = np.array([(start, start + length, 0.5, 0) for start, length in tracks], np.float64)
    none = np.zeros(0, np.int64)
    elsewhere = np.array([[0.0, 60.0, 1.0, 0]])
    videos, tracks_of_all = (
        np.array([6, *[7] * len(video_tracks), 9]),
        np.concatenate([elsewhere, video_tracks, elsewhere]),
    )
    person = PersonSpans(handle="mum", videos=videos, tracks=tracks_of_all, segments=none, qualities=np.zeros(0))
    starts = np.array([start for start, _ in asked], np.float64)
    ends = starts + np.array([length for _, length in asked])
    cuts_of = {6: (3.0, 30.0), 7: sorted(map(float, cuts))}
    asked_of = np.array([6, *[7] * len(starts), 8])  # a span of another video, and one where nobody is
    (before, *presence, after), (_, *quality, _) = person.rate(
        asked_of, np.array([5.0, *starts, 5.0]), np.array([6.0, *ends, 6.0]), lambda video: cuts_of.get(video, ())
    )
    assert (before, after) == (1.0, 0.0)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        best = 0.0
        for first, last, *_ in video_tracks.tolist():
            gap = max(0.0, first - end, start - last)
            middle = (start + end) / 2
            apart = [cut for cut in cuts if (middle < cut <= first) or (last < cut <= middle)]
            best = max(best, 1.0 if gap <= 0.5 else 0.5 if gap <= 5 or not apart else 0.0)
        assert presence[row] == best
        assert quality[row] == (0.5 if best == 1 else 0)


def test_persons_who_are_never_together_are_shown_one_at_a_time() -> None:
    none, videos = np.zeros(0, np.int64), np.zeros(1, np.int64)
    mum, dad = (
        PersonSpans(handle=handle, videos=videos, tracks=np.array([track]), segments=none, qualities=np.zeros(0))
        for handle, track in (("mum", [2.0, 4.0, 1.0, 0]), ("dad", [8.0, 10.0, 1.0, 0]))
    )
    presence = Presence(
        wanted=((mum, dad),), speakers=((),), bare=(True,), unwanted=(), find_cuts=lambda _: (3.5, 5.0, 7.0)
    )
    assert [presence.find_middle(0, time_s) for time_s in (0.0, 6.5)] == [3.0, 9.0]


def test_a_watch_may_name_a_person(folder: Path, tmp_path: Path) -> None:
    index = shutil.copytree(folder / "index", tmp_path / "index")
    with Store.open(index) as store:
        assert add_watch(store, "dad", "@Dad Joe in blue").query == "@dad-joe in blue"
        with pytest.raises(VidretError, match="@uncle"):
            add_watch(store, "uncle", "@uncle in blue")


def test_clauses_may_begin_with_a_name() -> None:
    events = "@mum opens a door", "@dad laughs at her"
    assert interpret(" before ".join(events)).events == events
    assert interpret("@mum and @dad dance").events == ("@mum and @dad dance",)


def test_damaged_identities_hinder_only_queries_for_people(folder: Path, tmp_path: Path) -> None:
    index = shutil.copytree(folder / "index", tmp_path / "index")
    (index / FILE).write_bytes(b"no database" * 1000)
    with Engine(index, ColourEncoder()) as engine:
        assert len(engine.search("red")) == 3
        for query, person in (("@mum in red", None), ("red", "mum")):
            with pytest.raises(StoreError, match="info --repair"):
                engine.search(query, person=person)


def test_language_models_are_not_told_who_is_seen(engine: Engine) -> None:
    moment = engine.locate("@mum in red")[0]
    assert moment.evidence[0].person == "mum"
    assert "mum" not in str(result_to_tool(moment)).casefold()
