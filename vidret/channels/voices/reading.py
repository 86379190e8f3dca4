"""Voices of a video as tracks, from its audio while it is decoded: who speaks when, and a vector of each voice.

Speakers are clusters of the vectors of short windows.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from vidret.channels.speech import SAMPLE_RATE, AudioBlocks, find_speech
from vidret.channels.texts.kind import Heartbeat
from vidret.channels.voices.encoder import VoiceEncoder
from vidret.store.identities.tracks import Track

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo

WINDOW_S, HOP_S = 1.5, 1.0
MIN_WINDOWS_S = 3.0  # total of a speaker's overlapping windows; speakers with less are merged into others
MAX_PAUSE_S = 0.3  # within a turn
CELL_S = 0.1  # resolution of the change from one speaker to another
BLOCK = 500  # windows clustered at a time: six minutes of speech

Span = tuple[float, float]  # start and end in seconds


class VoiceReader:
    """Finds the turns of speakers in one video at a time. All turns of a speaker in a video have the same vector."""

    note = ""

    def __init__(self, encoder: VoiceEncoder) -> None:
        self._encoder = encoder
        self.start(0.0, {})

    def start(self, _start_s: float, _options: Mapping[str, Any], _heartbeat: Heartbeat = lambda: None) -> float:
        """Begin another video; return the time from which audio is needed, 0, since all its voices are compared."""
        self._begin_s, self._blocks = 0.0, AudioBlocks()
        self._speech, self._windows = list[Span](), list[Span]()
        self._vectors = list[Float32[np.ndarray, "window dim"]]()
        return 0.0

    def read(self, samples: Float32[np.ndarray, " sample"]) -> None:
        """Read the next samples."""
        for block in self._blocks.add(samples):
            self._encode(block)

    def take(self) -> tuple[float, list[Track]]:
        """Return no tracks: speakers are known only at the end."""
        return 0.0, []

    def finish(self, _info: "VideoInfo", _heartbeat: Heartbeat) -> list[Track]:
        """Return the turns of a video, of which all audio was read."""
        for block in self._blocks.finish():
            self._encode(block)
        vectors = np.concatenate(self._vectors) if self._windows else np.zeros((0, 1), np.float32)
        turns, means = find_turns(self._speech, self._windows, vectors, self._encoder.same_in_film)
        self.start(0.0, {})
        return [
            Track(start_s=turn.start_s, end_s=turn.end_s, vector=means[turn.speaker], quality=turn.end_s - turn.start_s)
            for turn in turns
        ]

    def _encode(self, audio: Float32[np.ndarray, " sample"]) -> None:
        """Encode the speech of a block that is cut in silence."""
        speech = find_speech(audio)
        windows = place_windows(speech)
        pieces = [audio[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)] for start_s, end_s in windows]
        if pieces:
            self._vectors.append(self._encoder.encode(pieces))
        for spans, new_spans in ((self._speech, speech), (self._windows, windows)):
            spans += [(self._begin_s + start_s, self._begin_s + end_s) for start_s, end_s in new_spans]
        self._begin_s += len(audio) / SAMPLE_RATE


class Turn(NamedTuple):
    """A stretch of speech by one speaker, who is numbered within the film."""

    start_s: float
    end_s: float
    speaker: int


def place_windows(speech: Sequence[Span]) -> list[Span]:
    """Return windows of at most 1.5 s that cover stretches of speech, spread evenly over each."""
    windows = []
    for start_s, end_s in speech:
        last_s = max(start_s, end_s - WINDOW_S)
        num_windows = 1 + int(np.ceil((last_s - start_s) / HOP_S))
        windows += [
            (begin, min(end_s, begin + WINDOW_S)) for begin in np.linspace(start_s, last_s, num_windows).tolist()
        ]
    return windows


def find_turns(
    speech: Sequence[Span], windows: Sequence[Span], vectors: Float32[np.ndarray, "window dim"], same: float
) -> tuple[list[Turn], Float32[np.ndarray, "speaker dim"]]:
    """Return the turns of a film by time, and a vector of unit length of each speaker.

    ``vectors`` are those of the windows of ``place_windows``, of unit length; groups with at least the mean cosine
    ``same`` are of one speaker.
    """
    if not len(windows):
        return [], vectors
    spans = np.array(windows)
    labels = cluster_windows(vectors, same)
    lengths_s = np.bincount(labels, weights=spans[:, 1] - spans[:, 0])
    kept = np.flatnonzero(lengths_s >= MIN_WINDOWS_S)
    kept = kept if len(kept) else np.array([lengths_s.argmax()])
    means = np.stack([vectors[labels == label].mean(0) for label in kept])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    turns = [turn for stretch in speech for turn in _split_stretch(stretch, spans, vectors @ means.T)]
    spoken = list(dict.fromkeys(turn.speaker for turn in turns))
    joined: list[Turn] = []
    for start_s, end_s, speaker in turns:
        turn = Turn(start_s, end_s, spoken.index(speaker))
        if joined and joined[-1].speaker == turn.speaker and start_s - joined[-1].end_s < MAX_PAUSE_S:
            turn = turn._replace(start_s=joined.pop().start_s)
        joined.append(turn)
    return joined, means[spoken].astype(np.float32)


def _split_stretch(
    stretch: Span, spans: Float[np.ndarray, "window 2"], cosines: Float[np.ndarray, "window speaker"]
) -> list[Turn]:
    """Split a stretch of speech where the speaker that fits best changes, by the mean of the windows at each time."""
    start_s, end_s = stretch
    is_within = (spans[:, 0] >= start_s - 1e-6) & (spans[:, 1] <= end_s + 1e-6)
    edges = np.linspace(start_s, end_s, 1 + max(1, round((end_s - start_s) / CELL_S)))
    middles = (edges[:-1] + edges[1:]) / 2
    covers = (spans[is_within, 0] <= middles[:, None]) & (middles[:, None] <= spans[is_within, 1])
    speakers = (covers.astype(float) @ cosines[is_within]).argmax(1)
    changes = [0, *(np.flatnonzero(np.diff(speakers)) + 1).tolist(), len(speakers)]
    return [Turn(float(edges[first]), float(edges[last]), int(speakers[first])) for first, last in pairwise(changes)]


def cluster_windows(vectors: Float32[np.ndarray, "window dim"], same: float) -> Int64[np.ndarray, " window"]:
    """Return the cluster of each vector: the two with the highest mean cosine are merged while it is at least ``same``.

    The mean cosine of all pairs of two clusters is the product of the means of their vectors (average linkage). A long
    film is clustered block by block, each block together with the clusters before it.
    """
    labels, sums, counts = np.arange(len(vectors)), vectors[:0].astype(np.float64), np.empty(0)
    clusters = np.empty(0, np.int64)  # the label of each
    for first in range(0, len(vectors), BLOCK):
        added = vectors[first : first + BLOCK]
        sums, counts = np.concatenate([sums, added]), np.concatenate([counts, np.ones(len(added))])
        clusters = np.concatenate([clusters, labels[first : first + BLOCK]])
        cosines = (sums @ sums.T) / np.outer(counts, counts)
        np.fill_diagonal(cosines, -np.inf)
        best, is_left = cosines.max(axis=1), np.ones(len(clusters), bool)  # best: at least the highest of each row
        while best.max() >= same:
            row = int(best.argmax())
            column = int(cosines[row].argmax())
            if cosines[row, column] < best[row]:
                best[row] = cosines[row, column]
                continue
            kept, gone = sorted((row, column))
            labels[labels == clusters[gone]] = clusters[kept]
            sums[kept] += sums[gone]
            counts[kept] += counts[gone]
            is_left[gone] = False
            merged = np.where(is_left, sums @ (sums[kept] / counts[kept]) / counts, -np.inf)
            merged[kept] = -np.inf
            cosines[gone] = cosines[:, gone] = -np.inf
            cosines[kept] = cosines[:, kept] = merged
            best = np.maximum(best, merged)
            best[kept] = merged.max()
        sums, counts, clusters = sums[is_left], counts[is_left], clusters[is_left]
    return np.unique(labels, return_inverse=True)[1]
