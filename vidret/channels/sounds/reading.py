"""Sounds of a video as timed texts: silence, loud noise, music and speech in its audio, and those that captions name.

Audio is encoded in chunks. Each half second gets a score for each label, and runs of half seconds become texts.
Unfinished runs are held back, so that a resumed run finds their beginning.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32

from vidret.channels.sounds.encoder import (
    HOP_S,
    LEARNT,
    STEP_S,
    WINDOW_S,
    describe,
    embed_windows,
    load_sound_encoder,
    measure_levels,
    rate_labels,
    summarise_sound,
)
from vidret.channels.speech import SAMPLE_RATE
from vidret.channels.subtitles import find_subtitles
from vidret.channels.texts.kind import Heartbeat, TextKind
from vidret.types import SoundWindows, TimedText

if TYPE_CHECKING:
    from vidret.channels.sounds.naming import Tags, WindowCutter
    from vidret.video.probe import VideoInfo

CHUNK_S = 10.0
STEPS = round(CHUNK_S / STEP_S)
SILENCE_DBFS = -60.0
LEVEL_S = 0.1  # step of the levels
PEAK_DB, MIN_PEAK_DBFS = 12.0, -30.0  # of loud noise: above the usual level of its chunk, and at least
USUAL = 0.75  # quantile of the audible levels of a chunk that is its usual level
LABELS = ("silence", "loud noise", *LEARNT)
# Gap below which runs are joined, and minimum length of a run, in steps, by label.
CLOSE_GAPS = {"silence": 1, "loud noise": 2, "music": 4, "speech": 4}
MIN_LENGTHS = {"silence": 2, "loud noise": 1, "music": 4, "speech": 2}
MAX_SPAN_S = 60.0  # longer sounds become several texts, so that an interrupted run repeats little
HEARD = 0.4  # score above which a label is heard
MAX_CHARACTERS = 60  # of a caption; longer brackets are asides
_NOTES = re.compile("[♪♫♩♬]")
_BRACKETS = re.compile(r"\[([^\[\]]+)\]|\(([^()]+)\)|\*([^*]+)\*")
_WORD = re.compile(r"[^\W\d_]{2}")


class SoundReader:
    """Finds the sounds in one video at a time, with Whisper's encoder."""

    note = ""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            MissingExtraError: The extra ``words`` is not installed.
        """
        load_sound_encoder()
        self.start(0.0, {})

    def start(self, start_s: float, options: Mapping[str, Any], _heartbeat: Heartbeat = lambda: None) -> float:
        """Begin another video, or where an interrupted run ended; return the time from which audio is needed."""
        self._sidecars: Sequence[str] = options.get("sidecars", ())
        self._resumed_s = start_s  # texts that end before it were returned
        self._begin_s = start_s // CHUNK_S * CHUNK_S  # of the scores
        self._scores: Float32[np.ndarray, "step label"] = np.zeros((0, len(LABELS)), np.float32)
        self._taken_s = dict.fromkeys(LABELS, start_s)  # time up to which texts of each label were returned
        self._pending: list[Float32[np.ndarray, " sample"]] = []
        self._read_s = self._begin_s  # time up to which chunks were scored
        self._windows: list[SoundWindows] = []
        self._named: list[SoundWindows] = []
        self._named_model = str(options.get("sound_model", ""))
        self._cutter: WindowCutter | None = None
        self._tags: Tags | None = None
        self._tagged: list[TimedText] = []
        if self._named_model:
            self._cutter, self._tags = _open_cutter(self._named_model, options["video"], self._begin_s)
        return self._begin_s

    def read(self, samples: Float32[np.ndarray, " sample"]) -> None:
        """Read the next samples."""
        self._pending.append(samples)
        size = round(CHUNK_S * SAMPLE_RATE)
        if sum(map(len, self._pending)) >= size:
            audio = np.concatenate(self._pending)
            for start in range(0, len(audio) - size + 1, size):
                self._score(audio[start : start + size])
                self._cut()
            self._pending = [audio[len(audio) // size * size :]]

    def take(self) -> tuple[float, list[TimedText]]:
        """Return the time up to which all texts were returned, and the texts since the last call."""
        texts, open_s = self._find_texts(is_end=False)
        num_chunks = int((open_s - self._begin_s) // CHUNK_S)
        self._scores = self._scores[num_chunks * STEPS :]
        self._begin_s += num_chunks * CHUNK_S
        tagged, self._tagged = self._tagged, []
        return open_s if self._tags is None else min(open_s, self._tags.open_s), _sort([*texts, *tagged])

    def take_windows(self) -> dict[str, SoundWindows]:
        """Return the windows of audio since the last call, by the model that made them."""
        windows = {KIND.model: join_windows(self._windows), self._named_model: join_windows(self._named)}
        self._windows, self._named = [], []
        return {model: model_windows for model, model_windows in windows.items() if len(model_windows)}

    def _score(self, audio: Float32[np.ndarray, " sample"]) -> None:
        scores, windows = score_chunk(audio, self._read_s)
        self._scores = np.concatenate([self._scores, scores])
        self._windows.append(windows)
        self._read_s += len(audio) / SAMPLE_RATE

    def _cut(self, *, is_end: bool = False) -> None:
        """Cut and encode the next windows for the model that the user named, at its own rate."""
        if self._cutter is not None:
            windows = self._cutter.read(self._read_s, is_end=is_end)
            if self._tags is None:
                self._named += windows
            else:
                tagged = self._tags.read(windows, np.inf if is_end else self._cutter.next_s)
                self._tagged += [text for text in tagged if text.text not in LABELS and text.end > self._resumed_s]

    def finish(self, info: "VideoInfo", heartbeat: Heartbeat) -> list[TimedText]:
        """Return the remaining sounds of a video, and those that its captions name."""
        self._score_rest()
        texts, _ = self._find_texts(is_end=True)
        captions = find_captions(find_subtitles(info, self._sidecars, heartbeat)[0])
        return _sort([*texts, *self._tagged, *captions])

    def finish_windows(self) -> SoundWindows:
        """Return the remaining windows of a clip, without texts."""
        self._score_rest()
        return join_windows(self._windows)

    def _score_rest(self) -> None:
        audio = np.concatenate([np.zeros(0, np.float32), *self._pending])
        if len(audio) >= STEP_S * SAMPLE_RATE:
            self._score(audio)
        self._cut(is_end=True)
        self._pending = []

    def _find_texts(self, *, is_end: bool) -> tuple[list[TimedText], float]:
        """Return the finished texts, and the start of the first unfinished one."""
        end = len(self._scores)
        open_s, texts = self._begin_s + end * STEP_S, list[TimedText]()
        for label, scores in zip(LABELS, self._scores.T, strict=True):
            first = round((self._taken_s[label] - self._begin_s) / STEP_S)
            heard = np.where(np.arange(end) >= first, scores, 0.0)
            gap = CLOSE_GAPS[label]
            for start, stop in find_runs(heard, gap):
                goes_on = not is_end and stop + gap > end
                if goes_on and (stop - start) * STEP_S < MAX_SPAN_S:
                    open_s = min(open_s, self._begin_s + start * STEP_S)
                    continue
                self._taken_s[label] = self._begin_s + stop * STEP_S
                if stop - start >= MIN_LENGTHS[label]:
                    confidence = float(heard[start:stop].mean())
                    times = self._begin_s + start * STEP_S, self._begin_s + stop * STEP_S
                    texts.append(TimedText(*times, label, "sound", confidence))
        return texts, open_s


def _sort(texts: Iterable[TimedText]) -> list[TimedText]:
    return sorted(texts, key=lambda text: (text.start, text.end))


def find_runs(scores: Float[np.ndarray, " step"], gap: int) -> list[tuple[int, int]]:
    """Return the runs of steps that score above ``HEARD``, as their first step and the one after the last.

    Runs with fewer than ``gap`` steps between them become one.
    """
    is_heard = np.concatenate([[False], scores > HEARD, [False]])
    runs: list[tuple[int, int]] = []
    for start, end in np.flatnonzero(np.diff(is_heard)).reshape(-1, 2).tolist():
        if runs and start - runs[-1][1] < gap:
            runs[-1] = runs[-1][0], end
        else:
            runs.append((start, end))
    return runs


def score_chunk(
    audio: Float32[np.ndarray, " sample"], start_s: float = 0.0
) -> tuple[Float32[np.ndarray, "step label"], SoundWindows]:
    """Return the score in 0..1 of each label in each half second of up to 10 s of mono sound at 16 kHz, and windows.

    Windows without a half second above ``SILENCE_DBFS`` are left out.
    """
    num_steps = int(len(audio) / (STEP_S * SAMPLE_RATE))
    audio = audio[: round(num_steps * STEP_S * SAMPLE_RATE)]
    levels = measure_levels(audio, step_s=LEVEL_S).reshape(num_steps, -1)
    scores = np.zeros((num_steps, len(LABELS)), np.float32)
    scores[:, 0] = (levels < SILENCE_DBFS).all(axis=1)
    audible = levels[levels >= SILENCE_DBFS]
    usual = float(np.quantile(audible, USUAL)) if len(audible) else 0.0
    scores[:, 1] = levels.max(axis=1) >= max(usual + PEAK_DB, MIN_PEAK_DBFS)
    if scores[:, 0].all():
        return scores, join_windows([])
    steps = summarise_sound(load_sound_encoder().encode(audio))
    scores[:, 2:] = rate_labels(describe(steps)) * (1 - scores[:, :1])
    return scores, make_windows(steps, start_s, is_silent=scores[:, 0] > 0)


def make_windows(
    steps: Float32[np.ndarray, "step 1088"], start_s: float, *, is_silent: Bool[np.ndarray, " step"]
) -> SoundWindows:
    """Return the windows of audio that begins at ``start_s``, without silent ones."""
    vectors = embed_windows(steps)
    starts = np.arange(len(vectors)) * HOP_S
    ends = np.minimum(starts + WINDOW_S, len(is_silent) * STEP_S)
    spans = [slice(round(start / STEP_S), round(end / STEP_S)) for start, end in zip(starts, ends, strict=True)]
    kept = np.array([not is_silent[span].all() for span in spans])
    return SoundWindows(
        starts=start_s + starts[kept], ends=start_s + ends[kept], vectors=vectors[kept].astype(np.float16)
    )


def join_windows(windows: Sequence[SoundWindows]) -> SoundWindows:
    """Return windows one after the other."""
    if not windows:
        return SoundWindows(starts=np.zeros(0), ends=np.zeros(0), vectors=np.zeros((0, 0), np.float16))
    return SoundWindows(
        starts=np.concatenate([batch.starts for batch in windows]),
        ends=np.concatenate([batch.ends for batch in windows]),
        vectors=np.concatenate([batch.vectors for batch in windows if len(batch)] or [windows[0].vectors]),
    )


def find_captions(texts: Iterable[TimedText]) -> list[TimedText]:
    """Return the sounds that subtitles name, with their times; notes without words in brackets are music.

    >>> [caption.text for caption in find_captions([TimedText(1.0, 2.0, "[dog barks] Down!", "subtitles")])]
    ['dog barks']
    """
    captions = []
    for text in texts:
        named = [
            " ".join(_NOTES.sub(" ", next(filter(None, groups))).split()) for groups in _BRACKETS.findall(text.text)
        ]
        heard = [name.lower() for name in named if len(name) <= MAX_CHARACTERS and _WORD.search(name)]
        if not heard and _NOTES.search(text.text):
            heard = ["music"]
        captions += [
            TimedText(text.start, text.end, name, "sound", text.confidence, text.language)
            for name in dict.fromkeys(heard)
        ]
    return captions


def _open_cutter(name: str, info: "VideoInfo", start_s: float) -> "tuple[WindowCutter, Tags | None]":
    """Return the cutter of a video's windows for a model, and the maker of texts from its tags if it is a tagger."""
    from vidret.channels.sounds.naming import Tags, WindowCutter  # imports torch, which other readers do not need
    from vidret.encode.families.sound import SoundTagger, load_sound_model

    model = load_sound_model(name)
    cutter = WindowCutter(model, info.path, start_s, info.section_offsets_s)
    return cutter, Tags(model.labels, cutter.next_s) if isinstance(model, SoundTagger) else None


@functools.lru_cache(maxsize=1)
def _load_reader() -> SoundReader:
    return SoundReader()


# Words for sounds, which are heard rather than seen or said.
_HINT = re.compile(
    r"\b(sounds?|noises?|nois[yi]\w*|music\w*|songs?|melod\w+|soundtrack|silence|loud\w*|applau\w+|clapping"
    r"|cheer(?:s|ing)|laugh(?:s|ter|ing)|chuckl\w+|giggl\w+|bark(?:s|ing)|meow\w*|chirp\w*|birdsong|siren\w*|alarms?"
    r"|gunshots?|explosions?|thunder|bells?|ringing|knock(?:s|ing)?|whistl\w+|scream\w*|sing(?:s|ing)|hum(?:s|ming)"
    r"|buzz\w*|beep\w*|footsteps|thud|bangs?|crash(?:es|ing)?|sobbing|crying|sighs?|cough\w*)\b",
    re.IGNORECASE,
)
KIND = TextKind(
    source="sound",
    name="sounds",
    model="whisper-tiny.en-5",
    packages=("faster_whisper",),
    load_audio_reader=lambda: _load_reader(),
    hint=_HINT,
    is_hint_needed=True,
    join_nats=2.5,
)
