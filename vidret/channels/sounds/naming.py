"""Sounds by name: audio windows of a model that the user names, their tags, and the evidence of windows for a text.

Cosines of CLAP are low and depend on the film. Those of a text are therefore compared with those of unrelated names of
sounds in the same film: evidence begins above their best windows.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vidret.encode.families.sound import SoundModel, SoundTagger
from vidret.types import SoundWindows, TimedText
from vidret.video.audio import FULL_SCALE, SoundCutter

SILENCE_DBFS = -60.0
_UNRELATED = (
    "silence, background noise, a person speaking, people talking in a crowd, music, a song, footsteps, wind, "
    "rain, waves on a shore, a car passing by, an engine, a train, an aircraft, a siren, a bell, "
    "a dog barking, a cat meowing, birds singing, an insect buzzing, applause, laughter, a baby crying, "
    "a door closing, dishes clattering, a phone ringing, typing on a keyboard, a gunshot, glass breaking, "
    "hammering, water running, a machine humming"
)
UNRELATED = _UNRELATED.split(", ")
USUAL = 0.75  # share of the unrelated names whose best score in a film is not evidence
SLOPE = 2.5  # nats for each standard deviation above it
MIN_LOG_ODDS = float(np.log(0.3 / 0.7))  # of PE-A-Frame, above which its authors count a sound as heard


TAGGED = 0.3  # probability above which a class of a tagger is heard
MAX_TAG_S = 60.0  # longer sounds become several texts, so that an interrupted run repeats little


class WindowCutter:
    """Cuts the sound of one video into the windows of a model, which may overlap, and encodes them in order."""

    def __init__(
        self, model: SoundModel | SoundTagger, path: str, start_s: float, section_offsets_s: Sequence[float] = ()
    ) -> None:
        """Begin at the first window that may reach beyond ``start_s``; nothing is read yet.

        ``next_s`` is the start of the next window.
        """
        self._model = model
        self._cutter = SoundCutter(path, model.sample_rate, lambda: None, section_offsets_s)
        overlap_s = model.window_s - model.hop_s
        self.next_s = max(0.0, start_s - overlap_s) // model.hop_s * model.hop_s

    def read(self, end_s: float, *, is_end: bool) -> list[SoundWindows]:
        """Return the next windows that end by ``end_s``; at the end of the video, also those that it cuts off."""
        found = []
        while self.next_s + (0.0 if is_end else self._model.window_s) < end_s + (0.0 if is_end else 1e-6):
            stop_s = min(self.next_s + self._model.window_s, end_s)
            sound = self._cutter.cut(self.next_s, stop_s).astype(np.float32) / FULL_SCALE
            if len(sound) and (sound.astype(np.float64) ** 2).mean() >= 10 ** (SILENCE_DBFS / 10):
                vectors = self._model.encode_sounds([sound])[0]
                starts = self.next_s + np.arange(len(vectors)) * self._model.step_s
                ends = np.append(starts[1:], stop_s)
                found.append(SoundWindows(starts=starts, ends=ends, vectors=vectors.astype(np.float16)))
            self.next_s += self._model.hop_s
        return found


class Tags:
    """Turns the classes that a tagger hears in a video's consecutive windows into texts, one while a class continues.

    ``open_s`` is the time up to which all texts were returned.
    """

    def __init__(self, labels: Sequence[str], start_s: float) -> None:
        """Begin a video, or resume where an interrupted run ended."""
        self._labels, self.open_s = labels, start_s
        self._open: dict[str, tuple[float, float, list[float]]] = {}  # start, end, and probabilities

    def read(self, windows: Iterable[SoundWindows], end_s: float) -> list[TimedText]:
        """Return the finished texts, given the windows since the last call; the next window begins at ``end_s``.

        An infinite ``end_s`` ends the video.
        """
        texts = []
        for window in windows:
            start_s, stop_s, rated = float(window.starts[0]), float(window.ends[0]), window.vectors[0].tolist()
            texts += self._close(start_s)
            for label, probability in zip(self._labels, rated, strict=True):
                if probability > TAGGED:
                    begin_s, _, heard = self._open.get(label, (start_s, stop_s, []))
                    self._open[label] = begin_s, stop_s, [*heard, probability]
        texts += self._close(end_s)
        self.open_s = min([end_s, *(begin_s for begin_s, _, _ in self._open.values())])
        return texts

    def _close(self, time_s: float) -> list[TimedText]:
        """Return the texts of classes that end before a time, or have lasted for ``MAX_TAG_S``."""
        held, self._open, texts = self._open, {}, []
        for label, (begin_s, stop_s, heard) in held.items():
            if stop_s < time_s - 1e-6 or stop_s - begin_s >= MAX_TAG_S:
                texts.append(TimedText(begin_s, stop_s, label, "sound", float(np.mean(heard))))
            else:
                self._open[label] = begin_s, stop_s, heard
        return texts


class Names:
    """Rates windows for names of sounds, relative to the scores of unrelated names in each film."""

    def __init__(
        self, model: SoundModel, vectors: Float32[np.ndarray, "window dim"], owners: Int64[np.ndarray, " window"]
    ) -> None:
        """Score unrelated names in all windows; those of a film must be consecutive."""
        self._model, self._vectors, self._owners = model, vectors, owners
        self._levels, self._deviations = np.zeros((2, len(vectors)))
        if not model.is_calibrated:
            unrelated = model.encode_texts(UNRELATED).T
            _, firsts, counts = np.unique(owners, return_index=True, return_counts=True)
            for first, count in zip(firsts.tolist(), counts.tolist(), strict=True):
                film_rows = slice(first, first + count)
                scores = vectors[film_rows] @ unrelated
                self._levels[film_rows] = np.quantile(scores.max(axis=0), USUAL)
                self._deviations[film_rows] = scores.std()

    def rate(self, text: str) -> Float64[np.ndarray, " window"]:
        """Return the evidence, in nats, that each window sounds like a text."""
        scores: Float64[np.ndarray, " window"] = (self._vectors @ self._model.encode_texts([text])[0]).astype(float)
        if self._model.is_calibrated:
            scores -= MIN_LOG_ODDS
            return scores
        return SLOPE * (scores - self._levels) / np.maximum(self._deviations, 1e-6)


def find_heard(
    starts: Float64[np.ndarray, " window"],
    ends: Float64[np.ndarray, " window"],
    owners: Int64[np.ndarray, " window"],
    evidence: Float64[np.ndarray, " window"],
) -> list[tuple[int, float, float, float]]:
    """Return the stretches in which a sound is heard: film, start and end in seconds, and best evidence, best first.

    A stretch is wherever all windows that cover it are evidence for the sound; or a whole window with evidence that
    others contradict everywhere; or the best window of a film without either.
    """
    if not len(starts):
        return []
    length_s = 2.0 ** np.ceil(np.log2(ends.max() + 1))  # films one after the other, without rounding
    begins, stops = starts + owners * length_s, ends + owners * length_s
    borders = np.unique(np.concatenate([begins, stops]))
    firsts, lasts = np.searchsorted(borders, begins), np.searchsorted(borders, stops)
    low, high = np.full(len(borders), np.inf), np.full(len(borders), -np.inf)  # of the stretch after each border
    for step in range(int((lasts - firsts).max())):
        covers = firsts + step < lasts
        np.minimum.at(low, firsts[covers] + step, evidence[covers])
        np.maximum.at(high, firsts[covers] + step, evidence[covers])
    is_heard = (low > 0) & (high > -np.inf)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_heard, [False]]))).reshape(-1, 2).tolist()
    found = [(borders[first], borders[last], high[first:last].max()) for first, last in edges]
    counts = np.concatenate([[0], np.cumsum(is_heard)])
    is_alone = (evidence > 0) & (counts[lasts] == counts[firsts])
    has_any = np.zeros(int(owners.max()) + 1, bool)
    has_any[owners[evidence > 0]] = True
    order = np.argsort(-evidence, kind="stable")
    _, best = np.unique(owners[order], return_index=True)
    rows = [*np.flatnonzero(is_alone), *(row for row in order[best] if not has_any[owners[row]])]
    found += [(begins[row], stops[row], evidence[row]) for row in rows]
    films = [(int(begin // length_s), begin % length_s, end, float(nats)) for begin, end, nats in found]
    spans = [(film, float(start), float(end - film * length_s), nats) for film, start, end, nats in films]
    return sorted(spans, key=lambda span: -span[3])
