"""Description of a folder: the phrases that set its videos apart from others (VisDiff's ranking over an index).

Reference: Dunlap et al. 2024, "Describing Differences in Image Sets with Natural Language".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float

from vidret.corpus.phrases import Phrase, PhraseKind, list_bank, propose_phrases, score_video_words
from vidret.corpus.significance import ALPHA, PhraseDifference, can_be_significant, count_needed, rank_phrases
from vidret.corpus.vectors import IndexVectors, encode_phrases, read_index_vectors
from vidret.encode.text_cache import TextEncoder
from vidret.errors import VidretError
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.text import format_count
from vidret.types import Filters, Shown, show_property
from vidret.video.files import choose_existing

NUM_EXAMPLES = 3


class NoComparisonError(VidretError):
    """Sets of videos that cannot be compared: one is empty, or they are too small for a significant result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleFrame:
    """A frame that a phrase fits: the path of its video, and its time in seconds."""

    path: Annotated[str, Shown(holds="path")]
    time: float

    @classmethod
    def of(cls, video: StoredVideo, time_s: float) -> "ExampleFrame":
        """Return a frame of a video, at the first of its paths where there is a file."""
        return cls(path=choose_existing(video.paths), time=time_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPhrase:
    """A compared phrase, how well it separates the two sets, and frames of the set that it fits better.

    The numbers are those of ``PhraseDifference``.
    """

    phrase: str
    kind: PhraseKind
    auroc: float
    mean: float
    mean_of_others: float
    p: float
    adjusted_p: float
    examples: tuple[ExampleFrame, ...]

    @property
    @show_property(Shown())
    def significant(self) -> bool:
        """Whether the difference is significant after correction for the number of phrases."""
        return self.adjusted_p < ALPHA


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderDescription:
    """The phrases that fit a set of videos better than the others, and those that fit it worse, best first.

    ``num_phrases`` is the number of compared phrases, which the correction takes into account.
    """

    num_videos: int
    num_others: int
    num_phrases: int
    more: tuple[RankedPhrase, ...]
    less: tuple[RankedPhrase, ...]


def describe_folder(
    store: Store,
    encoder: TextEncoder,
    folder: str,
    *,
    against: str | None = None,
    phrases: Sequence[str] | None = None,
    k: int = 10,
) -> FolderDescription:
    """Return the phrases that set the videos of a folder apart.

    They are compared with the videos of the folder ``against``, by default with all others of the index. At most ``k``
    phrases are returned in each direction. Visual phrases are scored by the mean vector of each video, speech and
    screen text by the stored words. Each video counts once. ``phrases`` are visual; without them, those of
    ``list_bank`` that fit the videos are compared, and words too.

    Raises:
        NoComparisonError: There is no other video, or the sets are too small for a significant result.
        VidretError: A folder is not in the index, or the folders share videos.
    """
    vectors = read_index_vectors(store)
    ours, theirs, videos = _split_videos(store, vectors, folder, against)
    members = ours | theirs
    bank = list(dict.fromkeys(list_bank() if phrases is None else phrases))
    _check_sizes(folder, ours, theirs, 1)
    texts = encode_phrases(encoder, bank)
    proposed = propose_phrases(texts, vectors.means[members])
    seen = [Phrase(bank[index], "seen") for index in proposed]
    word_times: dict[Phrase, dict[int, float]] = {}
    scores = (texts[proposed] @ vectors.means[members].T).astype(np.float64)
    if phrases is None:
        words = score_video_words(
            store, {video_id: videos[video_id].duration for video_id in vectors.video_ids[members].tolist()}
        )
        word_times = dict(zip(words.phrases, words.times, strict=True))
        seen, scores = [*seen, *words.phrases], np.concatenate([scores, words.scores])
    _check_sizes(folder, ours, theirs, len(seen))
    ranked = rank_phrases(scores[:, ours[members]], scores[:, theirs[members]])
    by_phrase = dict(zip((bank[row] for row in proposed), texts[proposed], strict=True))
    finder = _ExampleFinder(store, vectors, videos, by_phrase, word_times)

    def choose(order: Sequence[PhraseDifference], mask: Bool[np.ndarray, " video"]) -> tuple[RankedPhrase, ...]:
        video_ids = vectors.video_ids[mask]
        return tuple(
            RankedPhrase(
                phrase=seen[difference.index].text,
                kind=seen[difference.index].kind,
                auroc=difference.auroc,
                mean=difference.mean_a,
                mean_of_others=difference.mean_b,
                p=difference.p_value,
                adjusted_p=difference.adjusted_p,
                examples=finder.find(seen[difference.index], video_ids),
            )
            for difference in order[:k]
        )

    return FolderDescription(
        num_videos=int(ours.sum()),
        num_others=int(theirs.sum()),
        num_phrases=len(seen),
        more=choose([phrase for phrase in ranked if phrase.auroc > 0.5], ours),
        less=choose([phrase for phrase in reversed(ranked) if phrase.auroc < 0.5], theirs),
    )


def _split_videos(
    store: Store, vectors: IndexVectors, folder: str, against: str | None
) -> tuple[Bool[np.ndarray, " video"], Bool[np.ndarray, " video"], dict[int, StoredVideo]]:
    """Return masks of the videos in the folder and of those compared with it, and all by id, with their paths there."""
    folder_videos, other_videos = (
        {video.id: video for video in store.videos.find(Filters(folder=name))} for name in (folder, against)
    )
    ours, theirs = (np.isin(vectors.video_ids, list(videos)) for videos in (folder_videos, other_videos))
    if against is None:
        theirs &= ~ours
    elif not theirs.any():
        raise VidretError(f"{against}: not in the index; index it first")
    if not ours.any():
        raise VidretError(f"{folder}: not in the index; index it first")
    if num_shared := int((ours & theirs).sum()):
        raise VidretError(f"{folder} and {against} must have no video in common, got {num_shared}")
    if not theirs.any():
        raise NoComparisonError(
            f"{folder}: has all videos of the index, so there is none to compare it with; use --against"
        )
    return ours, theirs, other_videos | folder_videos


def _check_sizes(
    folder: str, ours: Bool[np.ndarray, " video"], theirs: Bool[np.ndarray, " video"], num_phrases: int
) -> None:
    """Check that a perfect separation would be significant."""
    num_ours, num_theirs = int(ours.sum()), int(theirs.sum())
    if not can_be_significant(num_ours, num_theirs, num_phrases):
        advice = "; fewer phrases (--phrases FILE) need fewer" if num_phrases > 1 else ""
        raise NoComparisonError(
            f"{folder}: {format_count(num_ours, 'video')} and {num_theirs} to compare with are too few for a claim "
            f"about {format_count(num_phrases, 'phrase')}: {count_needed(num_phrases)} in each set are enough{advice}"
        )


class _ExampleFinder:
    """Finds frames that phrases fit."""

    def __init__(
        self,
        store: Store,
        vectors: IndexVectors,
        videos: Mapping[int, StoredVideo],
        texts: dict[str, Float[np.ndarray, " dim"]],
        word_times: dict[Phrase, dict[int, float]],
    ) -> None:
        self._store, self._vectors, self._videos = store, vectors, videos
        self._texts, self._word_times = texts, word_times

    def find(self, phrase: Phrase, video_ids: np.ndarray) -> tuple[ExampleFrame, ...]:
        """Return the best frame of each of the best videos; for words, of the first videos that have them."""
        if phrase.kind != "seen":
            times = self._word_times[phrase]
            having = [int(video_id) for video_id in video_ids if int(video_id) in times][:NUM_EXAMPLES]
            return tuple(ExampleFrame.of(self._videos[video_id], times[video_id]) for video_id in having)
        text, vectors = self._texts[phrase.text], self._vectors
        rows = np.searchsorted(vectors.video_ids, video_ids)
        best = video_ids[np.argsort(-(vectors.means[rows] @ text), kind="stable")[:NUM_EXAMPLES]]
        return tuple(self._find_frame(int(video_id), text) for video_id in best)

    def _find_frame(self, video_id: int, text: Float[np.ndarray, " dim"]) -> ExampleFrame:
        segment_rows = np.flatnonzero(self._vectors.owners == video_id)
        segment = segment_rows[np.argmax(self._vectors.segments[segment_rows].astype(np.float32) @ text)]
        ((frames, times),) = self._store.features.read_frames([int(self._vectors.segment_ids[segment])])
        time = times[np.argmax(frames.astype(np.float32) @ text)] if len(frames) else 0.0
        return ExampleFrame.of(self._videos[video_id], float(time))
