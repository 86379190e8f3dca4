"""The windows of audio of an index as a channel: which sound like the examples of a taught sound.

Vectors are compared after the mean of the index is taken from them, which removes what all windows share. Evidence is
linear in the standard score of the cosine over the index; the constants were fitted with ``tools/build_sounds.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vidret.channels.base import ChannelQuery, Match
from vidret.channels.sounds.reading import KIND
from vidret.channels.texts.channel import VideoTexts
from vidret.store.sounds import SoundStore
from vidret.store.store import Store
from vidret.types import SoundWindows

SLOPE, USUAL_SCORE = 2.5, 2.2  # nats for each standard deviation above so many
PRIOR_WINDOWS, PRIOR_DEVIATION = 50, 0.2  # that cosines count for, beside those of the index
MIN_EVIDENCE = -2.0  # of windows that are worth a look
MAX_MATCHES = 40  # of a video and a clause


@dataclass(frozen=True, slots=True, eq=False)
class _Windows:
    """All windows of an index, centred, and the content of each by its place in ``contents``."""

    state: tuple[object, ...]
    contents: list[str]
    owners: Int64[np.ndarray, " window"]
    starts: Float64[np.ndarray, " window"]
    ends: Float64[np.ndarray, " window"]
    vectors: Float32[np.ndarray, "window dim"]
    mean: Float32[np.ndarray, " dim"]


class SoundChannel:
    """The windows of one index, or of several that are searched as one, open for reading."""

    def __init__(self, sounds: Sequence[SoundStore], pictures: Store) -> None:
        """Set the windows, and the index whose videos they are of."""
        self._sounds, self._pictures = sounds, pictures
        self._known: _Windows | None = None

    def __len__(self) -> int:
        """Return the number of windows that a query is compared with."""
        return len(self._windows.starts)

    def close(self) -> None:
        """Close the windows."""
        for sounds in self._sounds:
            sounds.close()

    def find(self, query: ChannelQuery) -> dict[int, VideoTexts]:
        """Return the best windows of each clause by video."""
        found = self._rate(query)
        paths = self._pictures.files.paths_of(sorted(found), query.options.filters)
        return {
            video_id: own for video_id, own in found.items() if paths.get(video_id) and video_id not in query.excluded
        }

    def score(self, query: ChannelQuery, video_ids: Sequence[int]) -> dict[int, VideoTexts]:
        """Return the best windows of some videos, whatever the filters are."""
        found = self._rate(query)
        return {video_id: found[video_id] for video_id in video_ids if video_id in found}

    @property
    def _windows(self) -> _Windows:
        state = tuple(sounds.state for sounds in self._sounds)
        if self._known is None or self._known.state != state:
            read: dict[str, SoundWindows] = {}
            for sounds in self._sounds:
                read |= sounds.read(KIND.model)
            self._known = _centre(state, read)
        return self._known

    def _rate(self, query: ChannelQuery) -> dict[int, VideoTexts]:
        if "sound" not in query.sources or not any(len(examples) for examples in query.examples):
            return {}
        windows = self._windows
        video_ids = self._pictures.find_contents(windows.contents)
        rated: dict[int, VideoTexts] = {}
        for index, examples in enumerate(query.examples):
            if len(examples) and len(windows.starts):
                evidence = rate_windows(windows.vectors, examples - windows.mean)
                for row in np.argsort(-evidence, kind="stable")[: int((evidence > MIN_EVIDENCE).sum())].tolist():
                    video_id = video_ids.get(windows.contents[windows.owners[row]])
                    if video_id is not None:
                        own = rated.setdefault(video_id, VideoTexts([[] for _ in query.clauses])).matches[index]
                        if len(own) < MAX_MATCHES:
                            start, end = float(windows.starts[row]), float(windows.ends[row])
                            nats, text = float(evidence[row]), query.clauses[index].text
                            own.append(Match(video_id, "sound", start, end, nats, text, cover=1.0))
        return rated


def open_sounds(store: Store) -> SoundChannel | None:
    """Open the windows of an index, or of several that are searched as one; None if there are none."""
    sounds = [SoundStore.open(index.path) for index in store.parts.values() if SoundStore.exists(index.path)]
    return SoundChannel(sounds, store) if sounds else None


def rate_windows(
    vectors: Float32[np.ndarray, "window dim"], examples: Float32[np.ndarray, "example dim"]
) -> Float64[np.ndarray, " window"]:
    """Return the evidence of windows for a sound, given some examples of it; all without the mean of the index."""
    direction = examples.mean(axis=0)
    cosines = (vectors @ direction).astype(np.float64) / max(float(np.linalg.norm(direction)), 1e-9)
    mean = cosines.sum() / (len(cosines) + PRIOR_WINDOWS)
    variance = ((cosines - mean) ** 2).sum() + PRIOR_WINDOWS * PRIOR_DEVIATION**2
    standard = (cosines - mean) / np.sqrt(variance / (len(cosines) + PRIOR_WINDOWS))
    rated: Float64[np.ndarray, " window"] = SLOPE * (standard - USUAL_SCORE)
    return rated


def join_evidence(texts: Mapping[int, VideoTexts], sounds: Mapping[int, VideoTexts]) -> dict[int, VideoTexts]:
    """Return the matches of texts and of sounds by video, best first."""
    joined = dict(texts)
    for video_id, own in sounds.items():
        others = texts[video_id].matches if video_id in texts else [[] for _ in own.matches]
        pairs = zip(own.matches, others, strict=True)
        joined[video_id] = VideoTexts(
            [sorted([*heard, *said], key=lambda match: -match.evidence) for heard, said in pairs]
        )
    return joined


def _centre(state: tuple[object, ...], read: Mapping[str, SoundWindows]) -> _Windows:
    contents = list(read)
    counts = [len(windows) for windows in read.values()]
    vectors = np.concatenate([own.vectors for own in read.values()] or [np.zeros((0, 0))]).astype(np.float32)
    mean = vectors.mean(axis=0) if len(vectors) else vectors.sum(axis=0)
    centred = vectors - mean
    centred /= np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-9)
    return _Windows(
        state=state,
        contents=contents,
        owners=np.repeat(np.arange(len(contents)), counts),
        starts=np.concatenate([np.zeros(0), *(own.starts for own in read.values())]),
        ends=np.concatenate([np.zeros(0), *(own.ends for own in read.values())]),
        vectors=centred,
        mean=mean.astype(np.float32),
    )
