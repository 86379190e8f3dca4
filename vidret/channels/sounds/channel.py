"""The channel of an index's audio windows: those that sound like the examples of a taught sound, or like a text.

A linear discriminant separates examples from the windows of the index. It lowers the directions in which windows differ
anyway, such as the speaker. Evidence is linear in its standard score. ``tools/build_sounds.py`` measures it. Texts are
compared by a model that the user named (``naming.py``).

Reference: Hariharan et al. 2012, "Discriminative Decorrelation for Clustering and Classification".
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from vidret.channels.base import ChannelQuery, Match, VideoTexts
from vidret.channels.sounds.reading import KIND, join_windows
from vidret.errors import VidretError
from vidret.store.consent import check_allowed
from vidret.store.snapshots.snapshot import Selection
from vidret.store.sounds import SoundStore, is_chosen
from vidret.store.store import Store
from vidret.types import SoundWindows

if TYPE_CHECKING:
    from vidret.channels.sounds.naming import Names  # imports torch, which other searches do not need

logger = logging.getLogger(__name__)

SLOPE, USUAL_SCORE = 2.0, 2.4  # nats per standard deviation, and the standard score without evidence
SHRINKAGE, PRIOR_WINDOWS = 0.5, 300  # of the covariance of windows, by their mean variance
PRIOR_SCORES = 50  # of the variance of scores, likewise
NEAREST = 2  # examples
MIN_EVIDENCE = -2.0  # of windows that are returned
MAX_MATCHES = 40  # of a video and a clause
Found = tuple[str, float, float, float]  # content, start, end, evidence


@dataclass(frozen=True, slots=True, eq=False)
class UsualWindows:
    """Statistics of window vectors: their number, mean and covariance, and their mean variance along an axis."""

    num_windows: int
    mean: Float64[np.ndarray, " dim"]
    covariance: Float64[np.ndarray, "dim dim"]
    variance: float

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "window dim"]) -> "UsualWindows":
        """Measure some windows."""
        num_windows = max(len(vectors), 1)
        mean = vectors.sum(axis=0, dtype=np.float64) / num_windows
        covariance = (vectors.T @ vectors).astype(np.float64) / num_windows - np.outer(mean, mean)
        return cls(num_windows, mean, covariance, max(float(covariance.trace()) / max(len(mean), 1), 1e-6))

    def spread(self, share: float, prior: int) -> Float64[np.ndarray, "dim dim"]:
        """Return the covariance with a share of the mean variance in all directions, and more if windows are few."""
        return self.covariance + self.variance * (share + prior / self.num_windows) * np.eye(len(self.mean))


@dataclass(frozen=True, eq=False)
class _Windows:
    """All windows of an index that one model made; ``owners`` are indices into ``contents``."""

    contents: list[str]
    owners: Int64[np.ndarray, " window"]
    starts: Float64[np.ndarray, " window"]
    ends: Float64[np.ndarray, " window"]
    vectors: Float32[np.ndarray, "window dim"]

    @cached_property
    def usual(self) -> "UsualWindows":
        """The statistics of the windows."""
        return UsualWindows.of(self.vectors)


class SoundChannel:
    """The windows of one index, or of several joined ones, open for reading."""

    def __init__(self, sounds: Sequence[SoundStore], pictures: Store) -> None:
        """Set the windows, and the index whose videos they are of."""
        self._sounds, self._pictures = sounds, pictures
        self._state: tuple[object, ...] = ()  # for which the attributes below are valid
        self._models: list[str] = []  # that users named
        self._known: dict[str, _Windows] = {}
        self._names: dict[str, Names | None] = {}

    def find(self, query: ChannelQuery) -> dict[int, VideoTexts]:
        """Return the best windows of each clause by video."""
        return self._rate(query, query.within)

    def score(self, query: ChannelQuery, video_ids: Sequence[int]) -> dict[int, VideoTexts]:
        """Return the best windows of some videos, regardless of the filters."""
        rated = self._rate(query)
        return {video_id: rated[video_id] for video_id in video_ids if video_id in rated}

    def _rate(self, query: ChannelQuery, within: Selection | None = None) -> dict[int, VideoTexts]:
        if "sound" not in query.sources:
            return {}
        rated: dict[int, VideoTexts] = {}
        for index, clause in enumerate(query.clauses):
            found: list[Found] = []
            if query.examples and len(query.examples[index]):
                found = [*self._find_alike(query.examples[index])]
            elif clause.source == "sound":
                found = [*self._find_named(clause.text)]
            video_ids = self._pictures.find_contents({content for content, *_ in found}, within) if found else {}
            for content, start, end, nats in found:
                video_id = video_ids.get(content)
                if video_id is not None:
                    matches = rated.setdefault(video_id, [[] for _ in query.clauses])[index]
                    if len(matches) < MAX_MATCHES:
                        matches.append(Match(video_id, "sound", start, end, nats, clause.text, cover=1.0))
        return rated

    def _find_alike(self, examples: Float32[np.ndarray, "example dim"]) -> Iterable[Found]:
        """Yield the windows that sound like examples, best first."""
        windows = self._read(KIND.model)
        if len(windows.starts):
            evidence = rate_windows(windows.vectors, examples, windows.usual)
            for row in np.argsort(-evidence, kind="stable")[: int((evidence > MIN_EVIDENCE).sum())].tolist():
                content = windows.contents[windows.owners[row]]
                yield content, float(windows.starts[row]), float(windows.ends[row]), float(evidence[row])

    def _find_named(self, text: str) -> Iterable[Found]:
        """Yield the stretches in which a model that the user named hears the sound that a text names, best first."""
        self._refresh()
        for model in self._models:
            windows, names = self._read(model), self._load_names(model)
            if names is not None:
                from vidret.channels.sounds.naming import find_heard

                evidence = names.rate(text)
                for owner, start, end, nats in find_heard(windows.starts, windows.ends, windows.owners, evidence):
                    if nats > MIN_EVIDENCE:
                        yield windows.contents[owner], start, end, nats

    def _refresh(self) -> None:
        """Drop cached windows if the stored ones have changed."""
        state = tuple(sounds.read_state(sounds.path.parent) for sounds in self._sounds)
        if state != self._state:
            self._state, self._known, self._names = state, {}, {}
            self._models = sorted(
                {model for sounds in self._sounds for _, model in sounds.list_models() if is_chosen(model)}
            )

    def _read(self, model: str) -> _Windows:
        self._refresh()
        known = self._known  # another thread may replace it
        if model not in known:
            read: dict[str, SoundWindows] = {}
            for sounds in self._sounds:
                read |= sounds.read(model)
            known[model] = _stack(read)
        return known[model]

    def _load_names(self, model: str) -> "Names | None":
        """Return the rater of a model's windows; None, with a warning, if the model cannot or may not be loaded."""
        loaded_names = self._names  # another thread may replace it
        if model not in loaded_names:
            from vidret.channels.sounds.naming import Names
            from vidret.encode.families.sound import SoundTagger, load_sound_model

            try:
                for sounds in self._sounds:
                    check_allowed(sounds.path.parent, model, option="--sound-model")
                windows = self._read(model)
                loaded = load_sound_model(model)
                if isinstance(loaded, SoundTagger):  # the folder had another model when its windows were made
                    raise VidretError(f"{model}: must compare sounds with texts, got a model that tags them")
                loaded_names[model] = Names(loaded, windows.vectors, windows.owners)
            except VidretError as error:
                loaded_names[model] = None
                logger.warning("sounds are not found by name: %s", error)
        return loaded_names[model]


def open_sounds(store: Store) -> SoundChannel | None:
    """Open the windows of an index, or of several joined ones; None if there are none."""
    sounds = [SoundStore.open(index.path) for index in store.parts.values() if SoundStore.exists(index.path)]
    return SoundChannel(sounds, store) if sounds else None


def rate_windows(
    vectors: Float32[np.ndarray, "window dim"], examples: Float32[np.ndarray, "example dim"], usual: UsualWindows
) -> Float64[np.ndarray, " window"]:
    """Return the evidence of windows for a sound, given some examples of it and the statistics of all windows.

    It is the mean of the scores by the examples that a window is most like.
    """
    directions = np.linalg.solve(usual.spread(SHRINKAGE, PRIOR_WINDOWS), (examples - usual.mean).T)
    variances = (directions * (usual.spread(0.0, PRIOR_SCORES) @ directions)).sum(axis=0)
    directions /= np.sqrt(variances).clip(1e-9)
    scores = (vectors @ directions.astype(np.float32)).astype(np.float64) - usual.mean @ directions
    standard = np.sort(scores, axis=1)[:, -NEAREST:].mean(axis=1)
    rated: Float64[np.ndarray, " window"] = SLOPE * (standard - USUAL_SCORE)
    return rated


def join_evidence(texts: Mapping[int, VideoTexts], sounds: Mapping[int, VideoTexts]) -> dict[int, VideoTexts]:
    """Return the matches of texts and of sounds by video, best first."""
    joined = dict(texts)
    for video_id, video_sounds in sounds.items():
        pairs = zip(video_sounds, texts.get(video_id, [[] for _ in video_sounds]), strict=True)
        joined[video_id] = [sorted([*heard, *said], key=lambda match: -match.evidence) for heard, said in pairs]
    return joined


def _stack(read: Mapping[str, SoundWindows]) -> _Windows:
    joined, counts = join_windows([*read.values()]), [len(windows) for windows in read.values()]
    return _Windows(
        contents=list(read),
        owners=np.repeat(np.arange(len(read)), counts),
        starts=joined.starts,
        ends=joined.ends,
        vectors=joined.vectors.astype(np.float32),
    )
