"""Tests of words that decoding processes read: on-screen text, speech and subtitles."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.word_films import QUICK_OCR, SUBTITLES, shown, write_worded
from vidret.channels import screen, speech
from vidret.channels.texts import reading as words_module
from vidret.channels.texts.reading import MAX_BUDGET_S, READER, VideoTextReader
from vidret.types import Resize, Sampling, TimedText
from vidret.video import audio
from vidret.video.decoders.base import SamplingMode
from vidret.video.probe import probe
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers import process
from vidret.video.workers.messages import Finished, FinishedSource, OpenedVideo, ReadPlan, ReadTexts
from vidret.video.workers.pool import DecodePool

SCREEN: Any = {"screen": {"start_s": 0.0}}


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(1, sampling=Sampling(4)) as pool:
        yield pool


def read(pool: DecodePool, path: Path, request: Any, skip: bool = False) -> tuple[list[Any], list[Any]]:
    """Return the messages up to ``Finished`` and those after it."""

    def plan(opened: OpenedVideo) -> ReadPlan:
        return ReadPlan({cut_index for cut_index, _, _ in opened.cuts} if skip else (), words=request)

    messages = list(pool.stream(path, plan=plan, words_reader=READER))
    at = next(index for index, message in enumerate(messages) if isinstance(message, Finished))
    return messages[:at], messages[at + 1 :]


def texts_of(messages: list[Any]) -> list[TimedText]:
    return [text for message in messages if isinstance(message, ReadTexts) for text in message.texts]


def test_screen_text_comes_from_the_decoded_frames(pool: DecodePool, tmp_path: Path) -> None:
    film = write_worded(tmp_path / "a.mp4", ("lighthouse", 4.0), ("", 4.0), ("railway bridge", 2.0))
    before, after = read(pool, film, SCREEN)
    assert after == []
    assert len([message for message in before if isinstance(message, DecodedSegment)]) == 3
    texts = texts_of(before)
    assert shown(texts) == ["lighthouse", "railwaybridge"]
    assert [(text.start, text.end) for text in texts] == [(0.0, 4.0), (8.0, 10.0)]
    assert before[-1] == FinishedSource("screen", "")
    again, _ = read(pool, film, SCREEN, skip=True)
    assert not any(isinstance(message, DecodedSegment) for message in again)
    assert texts_of(again) == texts, "stored segments are decoded for their text"
    resumed, _ = read(pool, film, {"screen": {"start_s": 8.0}}, skip=True)
    assert [replace(text, confidence=texts[1].confidence) for text in texts_of(resumed)] == texts[1:]


def test_a_healthy_film_that_is_resumed_early_lost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_PROGRAM", QUICK_OCR)
    film = write_worded(tmp_path / "a.mp4", ("lighthouse", 2.0), ("railway bridge", 10.0))
    with DecodePool(1, resize=Resize(32, 32), shot_sampling="exact") as shots:
        messages = list(shots.stream(film, plan=lambda _: ReadPlan(start=(1, 2.0), words=SCREEN), words_reader=READER))
    (finished,) = (message for message in messages if isinstance(message, Finished))
    assert finished.salvaged == ""
    assert [round(text.start) for text in texts_of(messages)] == [0, 2]


@pytest.mark.parametrize("num_scenes", [9, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [None, "exact"])
def test_screen_text_has_the_same_times_after_a_resumption(
    mode: SamplingMode | None, num_scenes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", QUICK_OCR)
    lines = ["harbour", "railway bridge", "", "ox", "lighthouse keeper", "slow"]
    scenes = [(lines[scene_index % len(lines)], 1.25 + scene_index * 7 % 23 / 4) for scene_index in range(num_scenes)]
    film = write_worded(tmp_path / "a.mp4", *scenes, cuts=True)
    found, segments = list[TimedText](), list[tuple[int, float]]()

    def read_from(start_s: float, number: int, begin_s: float) -> list[Any]:
        request: Any = {
            "screen": {
                "start_s": start_s,
                "segment": max((segment for segment in segments if segment[1] <= start_s), default=None),
            }
        }

        def plan(opened: OpenedVideo) -> ReadPlan:
            return ReadPlan({known for known, _, _ in opened.cuts if known < number}, (number, begin_s), request)

        return list(decoders.stream(film, plan=plan, words_reader=READER))

    with DecodePool(1, shot_sampling=mode) as decoders:
        messages = read_from(0.0, 0, 0.0)
        whole = texts_of(messages)
        assert len(whole) >= 6
        resumptions = 0
        for message in messages:
            if isinstance(message, DecodedSegment):
                segments.append((message.number, message.start))
                end_s = message.end
            if isinstance(message, ReadTexts) and segments:
                found += message.texts
                resumed = texts_of(read_from(message.until_s, segments[-1][0] + 1, end_s))
                assert sorted({*found, *resumed}, key=repr) == sorted(whole, key=repr), message.until_s
                resumptions += 1
        assert resumptions >= 4


def test_silence_has_no_words_and_a_missing_track_is_named(pool: DecodePool, tmp_path: Path) -> None:
    request: Any = {"speech": {"model": "tiny.en", "start_s": 0.0}}
    before, after = read(pool, write_worded(tmp_path / "a.mp4", ("", 2.0), silence=True), request)
    assert len([message for message in before if isinstance(message, DecodedSegment)]) == 1
    assert (texts_of(after), after[-1]) == ([], FinishedSource("speech", ""))
    _, after = read(pool, write_worded(tmp_path / "b.mp4", ("", 1.0)), request)
    assert (texts_of(after), after[-1]) == ([], FinishedSource("speech", "has no audio track"))


def read_alone(film: Path, request: Any, num_frames: int = 0) -> list[dict[str, Any]]:
    """Return what is sent of some blank frames and of the rest of a film, read in this process."""
    sent: list[dict[str, Any]] = []
    reader = VideoTextReader(probe(film), request, send=sent.append, heartbeat=lambda: None)
    for index in range(num_frames):
        reader.observe(index, np.zeros((8, 8, 3), np.uint8))
    reader.finish_frames()
    reader.read_rest()
    return sent


def test_subtitles_of_tracks_and_files_are_joined(pool: DecodePool, tmp_path: Path) -> None:
    film = write_worded(tmp_path / "a.mkv", ("", 4.0), subtitles=SUBTITLES)
    (tmp_path / "a.srt").write_text(SUBTITLES)
    (tmp_path / "a.de.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGuten Tag\n")
    (tmp_path / "a.fr.srt").write_text("1\n00:xx --> 1\noh\n")
    sidecars = [str(tmp_path / name) for name in ("a.srt", "a.de.srt", "a.fr.srt", "gone.srt")]
    _, after = read(pool, film, {"subtitles": {"sidecars": sidecars}})
    found = [(text.start, text.text, text.language) for text in texts_of(after)]
    assert found == [(0.5, "Where is the lighthouse?", ""), (1.0, "Guten Tag", "de"), (2.0, "Behind the hill.", "")]
    note = after[-1].note
    assert "a.fr.srt: line 2 has no valid times" in note
    assert "gone.srt" in note


def test_subtitle_files_from_strangers_end_as_notes(pool: DecodePool, tmp_path: Path) -> None:
    film = write_worded(tmp_path / "a.mp4", ("", 2.0))
    os.mkfifo(tmp_path / "a.srt")
    (tmp_path / "a.en.srt").mkdir()
    (tmp_path / "a.de.srt").symlink_to("/dev/zero")
    (tmp_path / "a.fr.srt").write_text(
        "1\n00:00:01,000 --> 00:00:09,000\nOui\n\n2\n00:00:02,500 --> 00:00:03,000\nNon\n"
    )
    sidecars = [str(tmp_path / f"a{part}.srt") for part in ("", ".en", ".de", ".fr")]
    _, after = read(pool, film, {"subtitles": {"sidecars": sidecars}})
    assert [(text.start, text.end, text.text) for text in texts_of(after)] == [(1.0, 2.0, "Oui")]
    assert after[-1].note.split("; ") == [
        "a.srt: is not a regular file",
        "a.en.srt: is a directory",
        "a.de.srt: is not a regular file",
        "a.fr.srt: entries that begin after the end of the video are left out: 1",
    ]


def test_failures_become_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise ValueError("no engine")

    film = write_worded(tmp_path / "a.mp4", ("", 1.0), silence=True)
    for method in ("read", "finish"):
        monkeypatch.setattr(screen, "_load_reader", type("Broken", (Endless,), {method: fail}))
        sent = read_alone(film, {**SCREEN, "speech": {"model": "nowhere", "start_s": 0.0}}, num_frames=2)
        assert [(message["source"], message["note"]) for message in sent] == [
            ("screen", "failed: ValueError: no engine"),
            ("speech", "speech model must be tiny.en or a folder while HF_HUB_OFFLINE is set, got nowhere"),
        ]


def test_speech_starts_at_the_exact_sample_and_may_end_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[float, int]] = []

    class Recogniser:
        def transcribe(self, block: np.ndarray, start_s: float, _heartbeat: object) -> list[TimedText]:
            heard.append((start_s, len(block)))
            return []

    monkeypatch.setattr(speech, "load_recogniser", lambda _model: Recogniser())
    film = write_worded(tmp_path / "a.mp4", ("", 5.0), silence=True)
    request: Any = {start_s: {"speech": {"model": "tiny.en", "start_s": start_s}} for start_s in (0.0, 1.25)}
    assert [read_alone(film, request[start_s])[-1]["note"] for start_s in request] == ["", ""]
    (first_s, num_first), (second_s, num_second) = heard
    assert (first_s, second_s) == (0.0, 1.25)
    assert num_first - num_second == 1.25 * 16000
    monkeypatch.setattr(audio, "read_audio", lambda *_args, **_options: iter([(0.0, np.zeros(16000, np.float32))]))
    assert read_alone(film, request[0.0])[-1]["note"] == "only 1 s of 5 s of sound could be read"


class Endless:
    """Reads a text in every frame, and speech for ever but for its first block."""

    note = ""

    def start(self, *_args: object) -> None:
        pass

    def read(self, *_args: object) -> None:
        time.sleep(0.002)

    def finish(self, end_s: float) -> list[TimedText]:
        return [TimedText(0.0, end_s, "exit", "screen")]

    def transcribe(self, _block: object, start_s: float, heartbeat: Callable[[], None]) -> list[TimedText]:
        while start_s > 0:
            heartbeat()
        return [TimedText(0.0, 1.0, "well", "speech")]


def test_a_source_ends_with_its_budget_and_keeps_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_load_reader", Endless)
    monkeypatch.setattr(speech, "load_recogniser", lambda _model: Endless())
    monkeypatch.setattr(speech, "BLOCK_S", 30.0)
    monkeypatch.setattr(words_module, "MIN_BUDGET_S", 0.5)
    monkeypatch.setattr(words_module, "BUDGET_PER_S", 0.0)
    film = write_worded(tmp_path / "a.mp4", ("", 100.0), silence=True)
    request = {**SCREEN, "speech": {"model": "tiny.en", "start_s": 0.0}}
    sent = read_alone(film, request, num_frames=probe(film).num_frames)
    texts = [
        (message["source"], text[2]) for message in sent if message["kind"] == "texts" for text in message["texts"]
    ]
    assert texts == [("screen", "exit"), ("speech", "well")]
    notes = {message["source"]: message["note"] for message in sent if message["kind"] == "source_end"}
    reason = "it would take longer than the 0 s that a video of this length may"
    assert notes["screen"].startswith("only its first ")
    assert notes["screen"].endswith(reason)
    assert notes["speech"] == f"not all was read: {reason}"


def test_the_budget_grows_with_the_video_up_to_a_limit(tmp_path: Path) -> None:
    info = probe(write_worded(tmp_path / "a.mp4", ("", 1.0)))
    for duration, budget_s in ((10.0, 800.0), (2e9, MAX_BUDGET_S)):
        reader = VideoTextReader(replace(info, duration=duration), {}, send=print, heartbeat=lambda: None)
        assert reader._budget_s == budget_s
