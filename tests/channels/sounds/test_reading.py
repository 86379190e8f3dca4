"""Reading sounds: runs of half seconds become texts, whatever the pieces and wherever a run was interrupted."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.word_films import write_worded
from vidret.channels.sounds import reading
from vidret.channels.sounds.encoder import CONTEXT_STEPS, EncodedAudio, describe, describe_windows, summarise_sound
from vidret.channels.sounds.reading import (
    CHUNK_S,
    HEARD,
    LABELS,
    MAX_SPAN_S,
    SoundReader,
    find_captions,
    find_runs,
    join_windows,
    make_windows,
    score_chunk,
)
from vidret.channels.speech import SAMPLE_RATE
from vidret.types import TimedText
from vidret.video.probe import VideoInfo, probe

STEP = SAMPLE_RATE // 2


@pytest.fixture(scope="module", autouse=True)
def quick_encoder() -> Iterator[None]:
    """Music is a sample of 0.1, speech one of 0.2."""
    with pytest.MonkeyPatch.context() as patch:
        encoder = SimpleNamespace(encode=lambda audio: audio[:: SAMPLE_RATE // 50, None])
        patch.setattr(reading, "load_sound_encoder", lambda: encoder)
        patch.setattr(reading, "find_subtitles", lambda *_args: ([], []))
        patch.setattr(SoundReader, "_score", score_only)
        patch.setattr(reading, "summarise_sound", lambda states: states[::25])
        patch.setattr(reading, "describe", lambda steps: steps)
        patch.setattr(reading, "rate_labels", lambda rows: np.isclose(rows, [0.1, 0.2]).astype(np.float32))
        yield


def score_only(reader: SoundReader, audio: np.ndarray) -> None:
    """Score a chunk without its windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "make_windows", lambda *_args, **_options: join_windows([]))
        reader._scores = np.concatenate([reader._scores, score_chunk(audio)[0]])


@pytest.fixture(scope="module")
def info(tmp_path_factory: pytest.TempPathFactory) -> VideoInfo:
    return probe(write_worded(tmp_path_factory.mktemp("films") / "a.mp4", ("", 1.0)))


def make_audio(heard: list[int]) -> np.ndarray:
    """Return half seconds of silence (0), music (1), speech (2) or noise (3)."""
    return np.repeat(np.array([0.0, 0.1, 0.2, 0.3], np.float32)[heard], STEP)


def keys(texts: list[TimedText]) -> list[tuple[str, float, float]]:
    return sorted((text.text, text.start, text.end) for text in texts if text.text != "loud noise")


def read(reader: SoundReader, audio: np.ndarray, sizes: list[int], info: VideoInfo) -> list[TimedText]:
    texts, position = [], 0
    for size in sizes:
        reader.read(audio[position : position + size])
        texts += reader.take()[1]
        position += size
    reader.read(audio[position:])
    return texts + reader.finish(info, lambda: None)


AUDIO = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=1, max_size=12).map(
    lambda runs: [kind for kind, length in runs for _ in range(length)]
)
SIZES = st.lists(st.integers(0, 12 * SAMPLE_RATE), max_size=8)


@given(AUDIO, SIZES)
def test_texts_do_not_depend_on_the_pieces(info: VideoInfo, heard: list[int], sizes: list[int]) -> None:
    audio = make_audio(heard)
    assert keys(read(SoundReader(), audio, sizes, info)) == keys(read(SoundReader(), audio, [], info))


@given(AUDIO, SIZES)
def test_a_resumed_run_finds_what_is_left(info: VideoInfo, heard: list[int], sizes: list[int]) -> None:
    audio, reader = make_audio(heard), SoundReader()
    whole, position, until_s = keys(read(SoundReader(), audio, [], info)), 0, 0.0
    found: list[TimedText] = []
    for size in sizes:
        reader.read(audio[position : position + size])
        until_s, texts = reader.take()
        found, position = found + texts, position + size
    begin_s = SoundReader.start(reader, until_s, {})
    assert begin_s % CHUNK_S == 0
    found += read(reader, audio[round(begin_s * SAMPLE_RATE) :], [], info)
    assert keys(found) == whole


def test_half_seconds_become_texts(info: VideoInfo) -> None:
    texts = read(SoundReader(), make_audio([0] * 4 + [1] * 6 + [3, 3] + [1] * 3 + [2] * 4 + [0]), [], info)
    assert keys(texts) == [("music", 2.0, 7.5), ("silence", 0.0, 2.0), ("speech", 7.5, 9.5)]
    assert all(text.source == "sound" and HEARD < text.confidence <= 1 for text in texts)


def test_long_sounds_become_several_texts(info: VideoInfo) -> None:
    texts = keys(read(SoundReader(), make_audio([1] * 400), [10 * SAMPLE_RATE] * 20, info))
    assert [start for _, start, _ in texts] == [0.0, *(end for _, _, end in texts[:-1])]
    assert texts[-1][2] == 200.0
    assert all(end - start == MAX_SPAN_S for _, start, end in texts[:-1])


def test_a_bang_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "make_windows", lambda *_args, **_options: join_windows([]))
    rng = np.random.default_rng(0)
    audio = 0.003 * rng.standard_normal(10 * SAMPLE_RATE).astype(np.float32)
    audio[3 * SAMPLE_RATE : 3 * SAMPLE_RATE + 3200] *= 100
    assert np.flatnonzero(score_chunk(audio)[0][:, LABELS.index("loud noise")]).tolist() == [6]
    assert not score_chunk(audio * 0 + 0.1)[0][:, LABELS.index("loud noise")].any()


def test_captions_are_read_where_there_is_no_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidret.channels.subtitles import find_subtitles
    from vidret.channels.texts.reading import VideoTextReader

    monkeypatch.setattr(reading, "find_subtitles", find_subtitles)
    film = write_worded(tmp_path / "a.mp4", ("", 4.0))
    sent: list[dict[str, Any]] = []
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\n[applause] Thank you.\n")
    request: Any = {"sound": {"start_s": 0.0, "sidecars": [str(tmp_path / "a.srt")]}}
    VideoTextReader(probe(film), request, send=sent.append, heartbeat=lambda: None).read_rest()
    assert [row[2] for message in sent for row in message.get("texts", [])] == ["applause"]
    assert sent[-1] == {"kind": "source_end", "source": "sound", "note": "has no audio track"}


def describe_one(states: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Return the features of some half seconds."""
    halves = np.split(mel, len(mel) // 50)
    moves, softest = (
        [np.abs(np.diff(half, axis=0)).mean(axis=0) for half in halves],
        [half.min(axis=0) for half in halves],
    )
    pooled = [part for features in (states, mel) for part in (features.mean(axis=0), features.std(axis=0))]
    return np.concatenate([*pooled, np.mean(moves, axis=0), np.mean(softest, axis=0)])


@given(st.integers(1, 12), st.integers(0, 9))
def test_half_seconds_are_described_as_by_a_loop(num_steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    states, mel = rng.standard_normal((25 * num_steps + 7, 384)), rng.standard_normal((50 * num_steps + 14, 80))
    halves = [(states[25 * step : 25 * step + 25], mel[50 * step : 50 * step + 50]) for step in range(num_steps)]
    softest = np.mean([half_mel.min(axis=0) for _, half_mel in halves], axis=0)
    rows = []
    for step in range(num_steps):
        near = [
            [halves[min(max(other, 0), num_steps - 1)] for other in range(step - size // 2, step + size // 2 + 1)]
            for size in CONTEXT_STEPS
        ]
        pooled = [describe_one(*(np.concatenate(part) for part in zip(*stretch, strict=True))) for stretch in near]
        rows.append(np.concatenate([*pooled, softest]))
    encoded = EncodedAudio(states.astype(np.float32), mel.astype(np.float32))
    np.testing.assert_allclose(describe(summarise_sound(encoded)), rows, atol=1e-4)


@pytest.mark.parametrize("num_steps", [1, 3, 4, 5, 20])
def test_windows_are_described_as_by_a_loop(num_steps: int) -> None:
    rng = np.random.default_rng(0)
    states, mel = rng.standard_normal((25 * num_steps, 384)), rng.standard_normal((50 * num_steps, 80))
    starts = range(0, max(num_steps - 4, 0) + 1, 2)
    rows = [describe_one(states[25 * start : 25 * start + 100], mel[50 * start : 50 * start + 200]) for start in starts]
    encoded = EncodedAudio(states.astype(np.float32), mel.astype(np.float32))
    np.testing.assert_allclose(describe_windows(summarise_sound(encoded)), rows, atol=1e-4)


def test_windows_of_a_chunk_have_times_and_unit_vectors() -> None:
    rng = np.random.default_rng(0)
    states, mel = rng.standard_normal((500, 384), np.float32), rng.standard_normal((1000, 80), np.float32)
    silent = np.zeros(20, bool)
    silent[:6] = True
    windows = make_windows(summarise_sound(EncodedAudio(states, mel)), 30.0, is_silent=silent)
    assert windows.starts.tolist() == [32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0]
    assert windows.ends.tolist() == [34.0, 35.0, 36.0, 37.0, 38.0, 39.0, 40.0]
    assert np.linalg.norm(windows.vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-3)
    clip = make_windows(summarise_sound(EncodedAudio(states[:25], mel[:50])), 0.0, is_silent=silent[-1:])
    assert (clip.starts.tolist(), clip.ends.tolist()) == ([0.0], [0.5])


@given(st.lists(st.sampled_from([0.0, 0.3, HEARD, 0.5, 0.9]), max_size=40), st.integers(0, 4))
def test_runs_are_those_of_a_loop(scores: list[float], gap: int) -> None:
    runs: list[list[int]] = []
    for step in [step for step, score in enumerate(scores) if score > HEARD]:
        if runs and step - runs[-1][-1] - 1 < max(gap, 1):
            runs[-1].append(step)
        else:
            runs.append([step])
    assert find_runs(np.array(scores), gap) == [(run[0], run[-1] + 1) for run in runs]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("[applause]", ["applause"]),
        ("(Laughter)", ["laughter"]),
        ("- [door creaks] Who is there? [door creaks]", ["door creaks"]),
        ("♪ We will meet again ♪", ["music"]),
        ("[♪♪♪]", ["music"]),
        ("[♪ tense music ♪]", ["tense music"]),
        ("*thunder*", ["thunder"]),
        ("(1984)", []),
        ("Good morning.", []),
        ("(" + "a long aside " * 10 + ")", []),
    ],
)
def test_captions_are_found(words: str, expected: list[str]) -> None:
    captions = find_captions([TimedText(1.0, 3.0, words, "subtitles", 1.0, "en")])
    assert captions == [TimedText(1.0, 3.0, text, "sound", 1.0, "en") for text in expected]
