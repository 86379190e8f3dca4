"""Voices of a video, read from pieces of its audio: windows, clusters and turns of speech."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

from vidret.channels.speech import SAMPLE_RATE
from vidret.channels.voices import reading
from vidret.channels.voices.reading import Span, Turn, VoiceReader, cluster_windows, find_turns, place_windows

Samples = Float32[np.ndarray, " sample"]
Rows = Float32[np.ndarray, "row dim"]


class PitchEncoder:
    """Whose voice it is by the pitch: a vector of the four loudest of eight bands."""

    digest, same_in_film, same_voice = "pitch", 0.5, 0.6

    def encode(self, windows: Sequence[Float32[np.ndarray, " _sample"]]) -> Float32[np.ndarray, "window dim"]:
        vectors = np.stack([self._describe(window) for window in windows])
        unit: Float32[np.ndarray, "window dim"] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def _describe(self, window: Samples) -> Samples:
        bands = np.array_split(np.abs(np.fft.rfft(window))[: len(window) // 8], 8)
        return np.array([band.max() for band in bands], np.float32)


def make_film(turns: Sequence[tuple[float, float, float]], length_s: float) -> Samples:
    """Return a film in which tones are heard: start, end and pitch of each."""
    times = np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE
    audio = np.zeros(len(times), np.float32)
    for start_s, end_s, pitch in turns:
        in_turn = (times >= start_s) & (times < end_s)
        audio[in_turn] = 0.3 * np.sin(2 * np.pi * pitch * times[in_turn])
    return audio


@pytest.fixture(autouse=True)
def _loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_loud(audio: Samples) -> list[tuple[float, float]]:
        step = SAMPLE_RATE // 100
        loud = np.abs(audio[: len(audio) // step * step]).reshape(-1, step).max(1) > 0.1
        edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(int))) / 100
        return [(float(start), float(end)) for start, end in edges.reshape(-1, 2)]

    monkeypatch.setattr(reading, "find_speech", find_loud)


def read_in_pieces(audio: Samples, piece: int, reader: VoiceReader | None = None) -> list[tuple[float, float, int]]:
    reader = reader or VoiceReader(PitchEncoder())
    assert reader.start(7.0, {}) == 0.0, "all of it is needed"
    for start in range(0, len(audio), piece):
        reader.read(audio[start : start + piece])
    tracks = reader.finish(None, lambda: None)  # type: ignore[arg-type]
    assert all(np.linalg.norm(track.vector) == pytest.approx(1, abs=1e-3) for track in tracks)
    pitches = [int(track.vector.argmax()) for track in tracks]
    return [(track.start_s, track.end_s, pitch) for track, pitch in zip(tracks, pitches, strict=True)]


TURNS = [(1.0, 4.0, 100.0), (5.0, 9.0, 700.0), (50.0, 53.0, 700.0), (70.0, 75.0, 100.0), (130.0, 140.0, 700.0)]


@pytest.mark.parametrize("piece", [16_000, 160_000, 3_000_000])
def test_turns_are_found_across_blocks_in_pieces_of_any_length(piece: int) -> None:
    found = read_in_pieces(make_film(TURNS, 150.0), piece)
    assert np.allclose([turn[:2] for turn in found], [turn[:2] for turn in TURNS], atol=0.02)
    assert [pitch for *_, pitch in found] == [0, 2, 2, 0, 2]


def test_a_reader_tells_turns_of_one_video_at_a_time() -> None:
    reader, film = VoiceReader(PitchEncoder()), make_film(TURNS, 150.0)
    first = read_in_pieces(film, 160_000, reader)
    reader.read(make_film([(0.0, 9.0, 300.0)], 9.0))
    assert read_in_pieces(film, 160_000, reader) == first, "what was read before is forgotten"
    reader.read(film)
    tracks = reader.finish(None, lambda: None)  # type: ignore[arg-type]
    assert np.array_equal(tracks[0].vector, tracks[3].vector), "of one speaker"
    assert tracks[4].quality == pytest.approx(10.0, abs=0.05)
    for silence in (16_000, 0):
        assert read_in_pieces(np.zeros(silence, np.float32), 16_000) == []


def draw_vectors(seed: int, num_rows: int, num_people: int = 3, spread: float = 0.3) -> Rows:
    drawn = np.random.default_rng(seed)
    people = drawn.standard_normal((num_people, 8))
    vectors = people[drawn.integers(num_people, size=num_rows)] + spread * drawn.standard_normal((num_rows, 8))
    unit: Rows = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def cluster_naively(vectors: Rows, same: float) -> list[set[int]]:
    """Merge the two groups with the highest mean cosine of all pairs, until it is lower than ``same``."""
    groups = [{row} for row in range(len(vectors))]
    while True:
        best, pair = -2.0, (0, 0)
        for i, one in enumerate(groups):
            for j, other in enumerate(groups[:i]):
                mean = float(np.mean([np.dot(vectors[a].astype(float), vectors[b]) for a in one for b in other]))
                if mean > best:
                    best, pair = mean, (i, j)
        if best < same:
            return sorted(groups, key=min)
        i, j = pair
        groups[j] |= groups.pop(i)


def as_groups(labels: np.ndarray) -> list[set[int]]:
    return sorted(({*np.flatnonzero(labels == label).tolist()} for label in set(labels.tolist())), key=min)


@given(seed=st.integers(0, 10_000), num_rows=st.integers(1, 14), same=st.floats(-0.5, 0.95))
def test_clusters_are_those_of_average_linkage(seed: int, num_rows: int, same: float) -> None:
    vectors = draw_vectors(seed, num_rows, spread=0.6)
    assert as_groups(cluster_windows(vectors, same)) == cluster_naively(vectors, same)


@given(st.lists(st.sampled_from([(1, 0), (0, 1), (-1, 0), (0.6, 0.8)]), min_size=1, max_size=12), st.floats(0.01, 0.95))
def test_tied_windows_are_clustered_by_average_linkage(rows: list[tuple[float, float]], same: float) -> None:
    vectors = np.array(rows, np.float32)
    labels = cluster_windows(vectors, same)
    assert as_groups(labels) == cluster_naively(vectors, same)


def test_long_films_are_clustered_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = draw_vectors(1, 90, spread=0.1)
    whole = as_groups(cluster_windows(vectors, 0.6))
    assert len(whole) == 3
    monkeypatch.setattr(reading, "BLOCK", 20)
    assert as_groups(cluster_windows(vectors, 0.6)) == whole


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.2, 9)), max_size=5))
def test_windows_cover_speech_and_nothing_else(parts: list[tuple[float, float]]) -> None:
    speech: list[Span] = []
    time_s = 0.0
    for pause_s, length_s in parts:
        speech.append((time_s + pause_s, time_s + pause_s + length_s))
        time_s = speech[-1][1]
    windows = place_windows(speech)
    for start_s, end_s in speech:
        span_windows = [(begin, end) for begin, end in windows if begin >= start_s - 1e-6 and end <= end_s + 1e-6]
        assert span_windows[0][0] == start_s
        assert span_windows[-1][1] == pytest.approx(end_s)
        assert all(later[0] - earlier[0] <= 1.0 + 1e-6 for earlier, later in pairwise(span_windows))
    assert all(0.2 - 1e-6 <= end - begin <= 1.5 + 1e-6 for begin, end in windows)


def place_voices(windows: list[Span], spoken: list[tuple[float, float, int]]) -> Rows:
    """Return a vector for each window: a mixture of who speaks in it."""
    people = np.eye(8, dtype=np.float32)
    vectors = np.stack(
        [
            sum(max(0.0, min(end, last) - max(begin, first)) * people[who] for first, last, who in spoken)
            + 0.02 * np.random.default_rng(round(begin * 1000)).standard_normal(8)
            for begin, end in windows
        ]
    )
    unit: Rows = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_turns_change_where_the_speaker_does_within_a_stretch_of_speech() -> None:
    speech = [(1.0, 10.0), (12.0, 16.0)]
    windows = place_windows(speech)
    vectors = place_voices(windows, [(1.0, 6.0, 5), (6.0, 10.0, 2), (12.0, 16.0, 5)])
    turns, means = find_turns(speech, windows, vectors, 0.5)
    assert [turn.speaker for turn in turns] == [0, 1, 0]
    assert [turn.start_s for turn in turns] == pytest.approx([1.0, 6.0, 12.0], abs=0.4)
    assert [turn.end_s for turn in turns] == pytest.approx([6.0, 10.0, 16.0], abs=0.4)
    assert means.shape == (2, 8)
    assert means[0, 5] > 0.95
    assert means[1, 2] > 0.95


def test_who_says_little_is_taken_for_the_speaker_most_like_him() -> None:
    speech = [(0.0, 6.0), (7.0, 13.0), (14.0, 14.8)]
    windows = place_windows(speech)
    vectors = place_voices(windows, [(0.0, 6.0, 0), (7.0, 13.0, 1)])
    vectors[-1] = 0.6 * np.eye(8)[1] + 0.8 * np.eye(8)[7]
    assert [turn.speaker for turn in find_turns(speech, windows, vectors, 0.7)[0]] == [0, 1, 1]


def test_a_film_with_a_single_short_utterance_has_a_speaker() -> None:
    speech = [(2.0, 2.5)]
    turns, means = find_turns(speech, place_windows(speech), draw_vectors(0, 1), 0.5)
    assert turns == [Turn(2.0, 2.5, 0)]
    assert means.shape == (1, 8)
    assert find_turns([], [], np.zeros((0, 8), np.float32), 0.5)[0] == []
