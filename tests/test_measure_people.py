"""What measures people: errors of speakers, and films in which it is known who speaks."""

import itertools
import random
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tool_loading import load_tool
from vidret.video.audio import read_audio

tool = load_tool("measure_people")
Spans = list[tuple[int, int, str]]  # in tenths of a second


def measure_naively(true: Spans, found: Spans, collar: int) -> tuple[float, ...]:
    """Count the errors of each tenth of a second, for every assignment of speakers."""
    best: tuple[float, ...] = ()
    speakers, others = sorted({span[2] for span in true}), sorted({span[2] for span in found})
    others += [f"nobody {index}" for index in range(len(speakers))]
    for partners in itertools.permutations(others, len(speakers)):
        names = dict(zip(partners, speakers, strict=True))
        counts = [0, 0, 0, 0]
        for moment in range(100):
            if collar and any(-collar <= moment - time < collar for span in true for time in span[:2]):
                continue
            speaking = {who for start, end, who in true if start <= moment < end}
            heard = {who for start, end, who in found if start <= moment < end}
            counts[0] += max(0, len(speaking) - len(heard))
            counts[1] += max(0, len(heard) - len(speaking))
            counts[2] += min(len(speaking), len(heard)) - len(speaking & {names.get(who, who) for who in heard})
            counts[3] += len(speaking)
        best = min(best or (1e9,), tuple(counts), key=lambda counts: sum(counts[:3]))
    return tuple(count / 10 for count in best)


def draw_spans(names: str) -> st.SearchStrategy[Spans]:
    spans = st.tuples(st.integers(0, 60), st.integers(1, 30), st.sampled_from(names))
    return st.lists(spans.map(lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[2])), min_size=1, max_size=5)


@settings(max_examples=60)
@given(true=draw_spans("ABC"), found=draw_spans("xyz"), collar=st.integers(0, 3))
def test_errors_are_the_naive_ones(true: Spans, found: Spans, collar: int) -> None:
    def scale(spans: Spans) -> Sequence[object]:
        return [tool.Spoken(start / 10, end / 10, who) for start, end, who in spans]

    measured = tool.measure_errors(scale(true), scale(found), collar / 10)
    naive = measure_naively(true, found, collar)
    assert sum(measured[:3]) == pytest.approx(sum(naive[:3]))
    assert (measured.missed, measured.invented, measured.speech) == pytest.approx((naive[0], naive[1], naive[3]))


def test_films_hold_what_is_said_of_them(tmp_path: Path) -> None:
    voices = {}
    for speaker_index, name in enumerate(("a", "b")):
        path = tmp_path / f"{name}.wav"
        tone = 0.3 * np.sin(np.arange(16_000) * (0.1 + 0.2 * speaker_index))
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            silence = np.zeros(8_000)
            file.writeframes((32767 * np.concatenate([silence, tone, silence])).astype(np.int16).tobytes())
        voices[name] = [path]
    audio, spoken = tool.make_sound(random.Random(1), voices, 6.0)
    assert {turn.speaker for turn in spoken} == {"a", "b"}
    film = tmp_path / "film.mp4"
    tool.write_film(film, [np.full((48, 64, 3), 40, np.uint8)] * int(5 * len(audio) / 16_000), 5, audio=audio)
    heard = np.concatenate([samples for _, samples in read_audio(str(film), 16_000)])
    assert len(heard) == pytest.approx(len(audio), abs=2_048)
    for start_s, end_s, speaker in spoken:
        assert end_s - start_s == pytest.approx(1.0, abs=0.02)
        middle = heard[round((start_s + 0.3) * 16_000) :][:4_096]
        step = np.abs(np.fft.rfft(middle * np.hanning(4_096))).argmax() * 2 * np.pi / 4_096
        assert step == pytest.approx({"a": 0.1, "b": 0.3}[speaker], abs=0.01)
    between = heard[round((spoken[0].end_s + 0.03) * 16_000) : round((spoken[1].start_s - 0.03) * 16_000)]
    assert np.abs(between).max() < 0.05
