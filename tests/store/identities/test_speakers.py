"""Who says what, by the voices that are heard meanwhile."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.indexed_texts import add_words, make_texts
from tests.made_identities import VOICES, make_voice
from tests.store.samples import add_video, create
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.store import Store
from vidret.store.texts.upkeep import name_speakers, read_transcript
from vidret.types import TimedText

Spans = list[tuple[int, float, float]]


def write_voices(index: Path, spans: Spans, content: str = "a") -> Persons:
    """Let people, by number, be heard in a video; the first of them is called Anna."""
    with IdentityStore.create(index) as identities:
        identities.write_tracks(content, VOICES, [make_voice(*span) for span in spans])
    persons = Persons(index)
    persons.group()
    first = min(persons.list_persons("voice"), key=lambda person: person.id)
    persons.rename(first.id, "Anna")
    return persons


@pytest.fixture
def index(tmp_path: Path) -> Path:
    with create(tmp_path / "index") as store:
        add_video(store, "a", seed=0)
    return tmp_path / "index"


TURNS: Spans = [(0, 0.0, 1.9), (1, 2.0, 3.4), (0, 3.4, 4.0), (0, 6.0, 7.0), (1, 8.0, 9.0)]


def test_a_text_is_said_by_who_is_heard_longest_meanwhile(index: Path) -> None:
    write_voices(index, TURNS)
    texts = make_texts(["apples", "pears", "figs"])  # of two seconds each
    named = name_speakers([index], "a", texts)
    assert [text.speaker for text in named] == ["Anna", "", ""]
    assert [text.text for text in named] == ["apples", "pears", "figs"]
    told_apart = name_speakers([index], "a", texts, unnamed=True)
    assert [text.speaker for text in told_apart] == ["Anna", "person-2", ""]
    shown = make_texts(["EXIT"], "screen")
    assert name_speakers([index], "a", shown, unnamed=True) == shown
    assert name_speakers([index], "another", texts, unnamed=True) == texts


def test_an_index_without_voices_names_nobody(index: Path) -> None:
    texts = make_texts(["apples"])
    assert name_speakers([index], "a", texts, unnamed=True) == texts
    assert sorted(path.name for path in index.iterdir() if "identities" in path.name) == []


@settings(max_examples=15, deadline=None)
@given(
    drawn=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=6),
    start=st.integers(0, 20),
    length=st.integers(1, 6),
)
def test_naming_is_as_by_counting_moments(
    drawn: list[tuple[int, int, int]], start: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    index = tmp_path_factory.mktemp("index")
    with IdentityStore.create(index) as identities:
        ids = identities.write_tracks("a", VOICES, [make_voice(who, at, at + num) for who, at, num in drawn])
        with identities.change():
            for name in ("Anna", "Bob", "Cem"):
                identities.database.run("INSERT INTO persons (name) VALUES (?)", name)
            values = [(track, who + 1, 0, 0.0) for track, (who, _, _) in zip(ids, drawn, strict=True)]
            identities.database.run_many("INSERT INTO assignments VALUES (?, ?, ?, ?)", values)
    counts = dict.fromkeys(("Anna", "Bob", "Cem"), 0)
    for second in range(start, start + length):
        for who, at, num in drawn:
            counts[list(counts)[who]] += at <= second < at + num
    (named,) = name_speakers([index], "a", [TimedText(start, start + length, "apples", "speech")])
    best = max(counts.values())
    assert named.speaker in ([name for name, count in counts.items() if count == best] if best else [""])


def test_a_transcript_has_the_names(index: Path) -> None:
    add_words(index, "a", ["apples", "pears"])
    write_voices(index, TURNS)
    with Store.open(index) as store:
        video = store.find_contents("a")["a"]
        assert [text.speaker for text in read_transcript(store, video)] == ["Anna", ""]
        assert [text.speaker for text in read_transcript(store, video, unnamed=True)] == ["Anna", "person-2"]
