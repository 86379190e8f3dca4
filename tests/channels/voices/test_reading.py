"""Voices of a video, read from pieces of its audio."""

from collections.abc import Sequence

import numpy as np
import pytest
from jaxtyping import Float32

from vidret.channels.speech import SAMPLE_RATE
from vidret.channels.voices import reading
from vidret.channels.voices.reading import VoiceReader

Samples = Float32[np.ndarray, " sample"]


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
        own = (times >= start_s) & (times < end_s)
        audio[own] = 0.3 * np.sin(2 * np.pi * pitch * times[own])
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
    assert np.allclose([own[:2] for own in found], [own[:2] for own in TURNS], atol=0.02)
    assert [pitch for *_, pitch in found] == [0, 2, 2, 0, 2]


def test_turns_of_a_speaker_share_a_vector_and_tell_how_long_they_are() -> None:
    reader = VoiceReader(PitchEncoder())
    reader.read(make_film(TURNS, 150.0))
    tracks = reader.finish(None, lambda: None)  # type: ignore[arg-type]
    assert np.array_equal(tracks[0].vector, tracks[3].vector)
    assert not np.array_equal(tracks[0].vector, tracks[1].vector)
    assert tracks[4].quality == pytest.approx(10.0, abs=0.05)


def test_silence_has_no_turns() -> None:
    assert read_in_pieces(np.zeros(16_000, np.float32), 16_000) == []
    assert read_in_pieces(np.zeros(0, np.float32), 1) == []


def test_a_reader_forgets_the_last_video() -> None:
    reader, film = VoiceReader(PitchEncoder()), make_film(TURNS[:2], 10.0)
    first = read_in_pieces(film, 16_000, reader)
    reader.read(make_film([(0.0, 9.0, 300.0)], 9.0))
    assert read_in_pieces(film, 16_000, reader) == first
