"""Locating moments in chosen videos: by a trained head where there is one, else by the curve of a query's scores."""

import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vidret.align.similarity import score_top_frames
from vidret.errors import DecodeError, StoreError
from vidret.ground.curve import find_moments, mean_inside
from vidret.ground.spans import Span, drop_overlapping
from vidret.search.grounding import Grounder
from vidret.search.queries import Wanted
from vidret.search.ranking import FrameRanker
from vidret.search.searcher import Searcher
from vidret.text import strip_query
from vidret.types import Curve, Moment
from vidret.video.timeline import LONGEST_STILL_S

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.5  # of the probability of a video's best span


class Chosen(NamedTuple):
    """A video to look into, with its score and weakness where a search gave them."""

    video: int
    path: str
    score: float
    weak: bool | None


class Locator:
    """One index open for reading, and a trained head or none."""

    def __init__(self, searcher: Searcher, grounder: Grounder | None) -> None:
        """Join them."""
        self._searcher, self._grounder = searcher, grounder

    def locate(
        self, wanted: Wanted, chosen: Sequence[Chosen], k: int, *, overlapping: bool, weak: bool
    ) -> list[Moment]:
        """Find the k best moments in videos: by the head, which knows no pictures, or by curves.

        ``overlapping`` and ``weak`` add what people are not shown unless they ask: see ``Engine.locate``.
        """
        if self._grounder is not None and not wanted.wordless:
            moments = self.ask_head(wanted, chosen, overlapping=overlapping, weak=weak)
        else:
            moments = self.read_curves(wanted, chosen, k, overlapping=overlapping, weak=weak)
        return sorted(moments, key=lambda moment: -moment.score)[:k]

    def read_curves(
        self, wanted: Wanted, chosen: Sequence[Chosen], k: int, *, overlapping: bool, weak: bool
    ) -> list[Moment]:
        """Find moments without training: where a query's scores stand out."""
        moments = []
        for each in chosen:
            curve = self.curve(wanted, each.video)
            if curve is None:
                continue
            is_weak = not wanted.wordless and self._searcher.is_weak(curve.best, FrameRanker())
            if is_weak and not weak:
                continue
            for span in find_moments(curve, k=k, overlapping=overlapping, weak=weak):
                similarity = mean_inside(curve, span)
                moments.append(Moment(each.video, each.path, *span, is_weak, similarity=similarity))
        return moments

    def ask_head(self, wanted: Wanted, chosen: Sequence[Chosen], *, overlapping: bool, weak: bool) -> list[Moment]:
        """Find moments with the trained head.

        Its scores are probabilities within a video. Across videos each is multiplied by the video's own: a softmax of
        the videos' scores, so that the best moments of a doubtful video do not come before those of a sure one. What
        must not fit has its say in which videos are chosen, not here.
        """
        grounder = self._grounder
        assert grounder is not None
        words = grounder.read(wanted.text.text)
        scores = np.array([each.score for each in chosen]) / self._searcher.ranker.temperature
        shares = np.exp(scores - scores.max(initial=-np.inf))
        moments = []
        for each, share in zip(chosen, shares / shares.sum(), strict=True):
            try:
                record = self._searcher.store.video(each.video)  # another process may have pruned it meanwhile
                spans = grounder.answer(
                    words, each.path, record.fingerprint, start=record.start, duration=record.duration
                )
            except (DecodeError, StoreError) as error:
                logger.warning("left out: %s", error)
                continue
            is_weak = self._is_weak(wanted, each.video) if each.weak is None else each.weak
            if is_weak and not weak:
                continue
            moments += [
                Moment(each.video, each.path, span.start, span.end, float(share) * span.score, is_weak, "head")
                for span in choose_spans(spans, overlapping=overlapping, weak=weak)
            ]
        return moments

    def rate(self, wanted: Wanted, video: Chosen, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """Say how well a video fits a query at certain times: as the head rates its frames, else by the curve.

        Raises:
            DecodeError: The head has not seen the video, and it cannot be read.
            StoreError: Nothing of the video is stored.
        """
        if self._grounder is not None and not wanted.wordless:
            record = self._searcher.store.video(video.video)
            words = self._grounder.read(wanted.text.text)
            scores = self._grounder.rate_frames(words, video.path, record.fingerprint)
            places = record.start + (np.arange(len(scores)) + 0.5) / self._grounder.fps
        else:
            curve = self.curve(wanted, video.video)
            if curve is None:
                raise StoreError(f"{strip_query(video.path)}: nothing of it is stored yet")
            scores, places = curve.scores, curve.times
        found: Float[np.ndarray, " time"] = np.interp(times, places, scores)
        return found

    def _is_weak(self, wanted: Wanted, video: int) -> bool:
        curve = self.curve(wanted, video)
        return curve is not None and self._searcher.is_weak(curve.best, FrameRanker())

    def curve(self, wanted: Wanted, video: int) -> Curve | None:
        """Score a query against every stored frame of one video; None when nothing of it is stored yet.

        What must not fit takes away where it fits better than on average.
        """
        ids = self._searcher.store.video_segments(video)
        stored = self._searcher.read(FrameRanker(), ids)
        segments, frames = stored.segments, stored.frames
        if not segments:
            return None
        rows = np.concatenate(frames)
        scores = rows @ wanted.text.sentence
        for text in wanted.unwanted:
            fits = rows @ text.sentence
            scores = scores - np.maximum(0, fits - fits.mean())
        best = float(score_top_frames(wanted.text.sentence, frames)[0].max())
        typical = None if wanted.wordless else self._searcher.typical_score()
        gaps = tuple(
            (before.end, after.start)
            for before, after in pairwise(segments)
            if after.start - before.end > LONGEST_STILL_S
        )
        return Curve(scores, np.concatenate(stored.times), segments[0].start, segments[-1].end, best, typical, gaps)


def choose_spans(spans: Sequence[Span], *, overlapping: bool, weak: bool) -> list[Span]:
    """Return the spans of a head that people are shown, best first."""
    kept = list(spans) if overlapping else drop_overlapping(spans)
    return kept if weak else [span for span in kept if span.score >= LEAST_SHARE * kept[0].score]
