"""Sounds by name: a model's windows are cut alike after an interruption, and heard where all of them agree."""

import wave
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.encode.hf_models import save_tiny_sound
from tests.store.samples import add_video, create
from vidret.channels.sounds import reading
from vidret.channels.sounds.naming import (
    MAX_TAG_S,
    MIN_LOG_ODDS,
    SLOPE,
    TAGGED,
    UNRELATED,
    USUAL,
    Names,
    Tags,
    WindowCutter,
    find_heard,
)
from vidret.channels.sounds.reading import KIND, LABELS
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.reading import VideoTextReader
from vidret.channels.texts.run import open_words
from vidret.encode.families.sound import load_sound_model
from vidret.encode.sentences import DIM
from vidret.store.lookup import count_facets
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.store.texts.upkeep import note_heard
from vidret.types import ALL_VIDEOS, Filters, SoundWindows, TimedText
from vidret.video.workers.messages import ReadTexts, read_found

RATE = 8000


class Loudness:
    """A model that hears how loud each of ten seconds is, and to which a text means that many of its first seconds."""

    sample_rate, window_s, hop_s, step_s, is_calibrated = RATE, 10.0, 5.0, 10.0, False

    def encode_sounds(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        padded = [np.pad(sound, (0, 10 * RATE - len(sound))).reshape(10, RATE) for sound in sounds]
        levels: np.ndarray = np.abs(np.array(padded)).max(axis=2)[:, None].astype(np.float32)
        return levels

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([np.arange(10) < len(text) % 7 for text in texts], np.float32)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file of 23 s, of which second n has a level of n / 100, but for silence from 5 to 15 s."""
    levels = np.arange(23) / 100
    levels[5:15] = 0
    path = tmp_path_factory.mktemp("sounds") / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((np.repeat(levels, RATE) * 32768).round().astype(np.int16).tobytes())
    return str(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return names of models with random weights."""
    return {kind: f"hf:{save_tiny_sound(kind, tmp_path_factory.mktemp(kind))}" for kind in ("clap", "ast")}


@pytest.mark.parametrize("start_s", [0.0, 20.0])
def test_windows_are_cut_as_a_video_is_read(sound: str, start_s: float) -> None:
    cutter = WindowCutter(Loudness(), sound, start_s)
    found = [cutter.read(end_s, is_end=False) for end_s in (start_s + 4.0, 20.0)]
    found.append(cutter.read(23.0, is_end=True))
    times = [[(float(windows.starts[0]), float(windows.ends[0])) for windows in batch] for batch in found]
    first = [[], [(0.0, 10.0), (10.0, 20.0)]] if start_s == 0 else [[], []]  # 5 to 15 s is silent
    assert times == [*first, [(15.0, 23.0), (20.0, 23.0)]]
    heard = found[2][0].vectors[0].astype(float)
    assert heard == pytest.approx([*np.arange(15, 23) / 100, 0, 0], abs=1e-3)


def test_the_shipped_encoder_and_a_named_model_read_the_same_audio(
    sound: str, tiny: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    name = tiny["clap"]
    request: Any = {"sound": {"start_s": 0.0, "sidecars": [], "sound_model": name}}
    monkeypatch.setattr(reading, "find_subtitles", lambda *_args: ([], []))
    info: Any = SimpleNamespace(path=sound, duration=23.0, section_offsets_s=[])
    VideoTextReader(info, request, send=sent.append, heartbeat=lambda: None).read_rest()
    found: dict[str, list[SoundWindows]] = {}
    for message in map(read_found, sent):
        if isinstance(message, ReadTexts) and message.windows is not None:
            found.setdefault(message.window_model, []).append(message.windows)
    assert found.keys() == {KIND.model, name}
    assert [start for windows in found[name] for start in windows.starts] == [0.0, 10.0, 15.0, 20.0]
    assert all(windows.vectors.shape[1] == 24 for windows in found[name])


def test_a_tagger_makes_texts(sound: str, tiny: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a run begins in the middle, as after an interruption; music is one of the shipped labels."""
    name = tiny["ast"]
    rated = np.array([[0.9, 0.9, 0.1], [0.2, 0.9, 0.6]], np.float32)  # up to a level of 0.05, and above
    monkeypatch.setattr(
        load_sound_model(name), "encode_sounds", lambda sounds: rated[None, [int(np.abs(sounds).max() > 0.05)]]
    )
    monkeypatch.setattr(reading, "find_subtitles", lambda *_args: ([], []))

    def read(start_s: float) -> tuple[list[tuple[str, float, float]], list[float]]:
        sent: list[dict[str, Any]] = []
        request: Any = {"sound": {"start_s": start_s, "sidecars": [], "sound_model": name}}
        info: Any = SimpleNamespace(path=sound, duration=23.0, section_offsets_s=[])
        VideoTextReader(info, request, send=sent.append, heartbeat=lambda: None).read_rest()
        messages = [message for message in map(read_found, sent) if isinstance(message, ReadTexts)]
        assert {message.window_model for message in messages if message.windows is not None} == {KIND.model}
        texts = [text for message in messages for text in message.texts if text.text not in LABELS]
        return [(text.text, round(text.start, 2), round(text.end, 1)) for text in texts], [
            message.until_s for message in messages if message.windows is None
        ]

    speaking = "child speech, kid speaking"
    found, until_s = read(0.0)
    assert found == [("dog", 0.0, 6.1), (speaking, 14.28, 23.0)]
    assert until_s == sorted(until_s)
    assert until_s[-2] <= 14.28 + 1e-6, "it goes on"
    assert read(20.0)[0] == [(speaking, 18.36, 23.0)]
    assert read(7.0)[0] == [(speaking, 14.28, 23.0)], "what ended before was returned then"


def test_another_model_replaces_what_the_last_one_heard(
    sound: str, tiny: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of CLAP give way to tags of AST, by which videos can be filtered, and the other way round."""
    monkeypatch.setattr(reading, "find_subtitles", lambda *_args: ([], []))
    window = SoundWindows(starts=np.zeros(1), ends=np.ones(1), vectors=np.ones((1, 2), np.float16))
    monkeypatch.setattr(reading, "score_chunk", lambda *_args: (np.zeros((20, len(LABELS)), np.float32), window))
    info: Any = SimpleNamespace(path=sound, duration=23.0, section_offsets_s=[])
    index = tmp_path / "index"

    def read(model: str) -> tuple[set[str], list[str], int]:
        """Return the models that have windows, what tags are heard, and in how many videos a dog is."""
        options, sent = WordsOptions(sources=("sound",), sound_model=model), list[dict[str, Any]]()
        with Store.open(index, write=True) as store, open_words(store, options, retry_failed=False) as run:
            assert run is not None
            words = run.begin("a", [], 23.0)
            request: Any = words.request()
            VideoTextReader(info, request, send=sent.append, heartbeat=lambda: None).read_rest()
            for message in map(read_found, sent):
                if isinstance(message, ReadTexts):
                    words.add(message, np.zeros((len(message.texts), DIM), np.float32))
            words.finish("sound", "")
        with Store.open(index) as store, SoundStore.open(index) as sounds:
            note_heard(store)
            tags = list(count_facets(store.snapshot(), ALL_VIDEOS).heard)
            return {listed for _, listed in sounds.list_models()}, tags, store.select(Filters(heard="Dog")).num_videos

    clap, ast = tiny["clap"], tiny["ast"]
    with create(index) as store:
        add_video(store, "a", seed=0)
    assert read(clap) == ({KIND.model, clap}, [], 0)
    assert read(ast) == ({KIND.model}, ["child speech, kid speaking", "dog"], 1)
    assert read(clap) == ({KIND.model, clap}, [], 0)
    assert read("") == ({KIND.model}, [], 0)


RATED = st.lists(st.lists(st.floats(0, 1, width=16), min_size=2, max_size=2), max_size=30)


@given(RATED, st.sets(st.integers(0, 30)))
def test_tags_agree_with_their_naive_twin(rated: list[list[float]], cuts: set[int]) -> None:
    """However many windows are read at a time; silent ones, of a probability of 0 here, are left out."""
    tags, found, first = Tags(("a", "b"), 0.0), list[TimedText](), 0
    for last in [*sorted(cut for cut in cuts if cut < len(rated)), len(rated)]:
        vectors = {row: np.array([rated[row]], np.float16) for row in range(first, last) if any(rated[row])}
        windows = [
            SoundWindows(starts=np.array([8.0 * row]), ends=np.array([8.0 * row + 8]), vectors=vector)
            for row, vector in vectors.items()
        ]
        found += tags.read(windows, np.inf if last == len(rated) else 8.0 * last)
        first = last
    expected = list[tuple[str, float, float]]()
    for label, heard in (
        ("a", [probabilities[0] > TAGGED for probabilities in rated]),
        ("b", [probabilities[1] > TAGGED for probabilities in rated]),
    ):
        begin = None
        for row, is_heard in enumerate([*heard, False]):
            if begin is not None and (not is_heard or 8 * (row - begin) >= MAX_TAG_S):
                expected.append((label, 8.0 * begin, 8.0 * row))
                begin = None
            if is_heard and begin is None:
                begin = row
    assert sorted((text.text, text.start, text.end) for text in found) == sorted(expected)


def test_evidence_is_what_is_above_unrelated_names_in_the_same_film() -> None:
    rng, model, owners = np.random.default_rng(0), Loudness(), np.array([0, 0, 0, 1, 1])
    vectors = rng.random((5, 10)).astype(np.float32)
    rated = Names(model, vectors, owners).rate("a bell")
    text, unrelated = model.encode_texts(["a bell"])[0], model.encode_texts(UNRELATED)
    for film in (0, 1):
        film_vectors = vectors[owners == film]
        scores = np.array([[float(window @ name) for name in unrelated] for window in film_vectors])
        level = np.quantile([max(column) for column in scores.T], USUAL)
        expected = [SLOPE * (float(window @ text) - level) / scores.std() for window in film_vectors]
        assert rated[owners == film] == pytest.approx(expected, rel=1e-4)
    model.is_calibrated = True
    assert Names(model, vectors, owners).rate("a bell") == pytest.approx(vectors @ text - MIN_LOG_ODDS, rel=1e-5)


FILM = st.lists(st.sampled_from([-5.0, -1.0, 0.5, 2.0, 3.0]), min_size=1, max_size=6)


@given(st.lists(FILM, min_size=1, max_size=3), st.booleans())
def test_sounds_are_heard_where_a_loop_finds_them(films: list[list[float]], overlapping: bool) -> None:
    step = 5.0 if overlapping else 10.0
    rows = [
        (film, n * step, n * step + 10.0, nats)
        for film, film_nats in enumerate(films)
        for n, nats in enumerate(film_nats)
    ]
    films_, starts, ends, evidence = (np.array(column) for column in zip(*rows, strict=True))
    expected: list[Any] = []
    for film in range(len(films)):
        film_rows: list[Any] = [row[1:] for row in rows if row[0] == film]
        spans: list[list[float]] = []
        for begin in np.arange(0, film_rows[-1][1], 5.0):
            over = [nats for start, end, nats in film_rows if start < begin + 5 and end > begin]
            if min(over) > 0:
                if spans and spans[-1][1] == begin:
                    spans[-1][1:] = [begin + 5, max(spans[-1][2], *over)]
                else:
                    spans.append([begin, begin + 5, max(over)])
        lone = [row for row in film_rows if row[2] > 0 and not any(row[0] < b and row[1] > a for a, b, _ in spans)]
        expected += [(film, *span) for span in [*spans, *lone] or [max(film_rows, key=lambda row: row[2])]]
    found = find_heard(starts, ends, films_, evidence)
    assert sorted(found) == sorted(expected)
    assert [nats for *_, nats in found] == sorted((nats for *_, nats in found), reverse=True)
