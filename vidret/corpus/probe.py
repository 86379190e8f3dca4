"""Probes of an encoder: what it distinguishes, what it tolerates, and whether it detects that nothing matches.

References:
    Schiappa et al. 2022, "Robustness Analysis of Video-Language Models Against Visual and Language Perturbations".
    Wang et al. 2024, "A Sober Look at the Robustness of CLIPs to Spurious Features" (CounterAnimal).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from vidret.channels.picture.query_bank import UNRELATED
from vidret.corpus.minimal_pairs import CORRUPTIONS, NUM_STRENGTHS, PROBE_KINDS, MinimalPair, ProbeKind, corrupt
from vidret.corpus.probe_world import ProbeWorld
from vidret.corpus.significance import (
    Accuracy,
    ReliabilityBin,
    measure_accuracy,
    measure_reliability,
    measure_separation,
)
from vidret.corpus.vectors import encode_phrases
from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.text import format_count
from vidret.types import Frames

BATCH = 16  # videos that are encoded together
MAX_CORRUPTED = 30  # videos
WEAK = 0.75  # share of unrelated queries from which on a hit is weak
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """How often the right text of minimal pairs of one kind or rule scored higher, with an example."""

    kind: ProbeKind
    rule: str | None
    accuracy: Accuracy
    example: MinimalPair


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptionResult:
    """The effect of a corruption at each strength.

    Attributes:
        name: The corruption.
        levels: The five strengths, in the unit of the corruption.
        found: Percentage of corrupted videos that are nearest to their own originals.
        text: Percentage of other videos that score lower than a caption's own video, which is corrupted; 50 is chance.
    """

    name: str
    levels: tuple[float, ...]
    found: tuple[float, ...]
    text: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsenceResult:
    """How well the best score of a query predicts whether its video is in the gallery.

    Attributes:
        num_queries: Number of queries; each was asked with its video in the gallery and without.
        auroc: Probability that a query whose video is there has a higher best score than one whose video is not.
        p_value: Of the AUROC, against chance.
        kept: Percentage of queries with an answer that are not called weak.
        refused: Percentage of queries without an answer that are called weak.
        bins: The share of unrelated queries with a lower best score, as a confidence, against the truth.
        calibration_error: The expected calibration error of that confidence.
    """

    num_queries: int
    auroc: float
    p_value: float
    kept: float
    refused: float
    bins: tuple[ReliabilityBin, ...]
    calibration_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """The results of all probes of an encoder on the videos of a world; ``absence`` is None with too few of them.

    ``text_score`` is the percentage of other videos that score lower than a caption's own video; 50 is chance. Minimal
    pairs are listed by kind and by rule, and ``missing`` are the kinds without a pair.
    """

    encoder: str
    world: str
    num_videos: int
    text_score: float
    kinds: tuple[PairResult, ...]
    rules: tuple[PairResult, ...]
    missing: tuple[ProbeKind, ...]
    num_corrupted: int
    corruptions: tuple[CorruptionResult, ...]
    absence: AbsenceResult | None
    notes: tuple[str, ...]


def probe_encoder(
    encoder: Encoder, world: ProbeWorld, *, seed: int = 0, on_progress: OnProgress | None = None
) -> ProbeReport:
    """Probe an encoder on videos with captions; raise VidretError if a vector is not finite."""
    num_videos = len(world.captions)
    order = np.random.default_rng(seed).permutation(num_videos)
    chosen = np.sort(order[:MAX_CORRUPTED])
    total = len(world.videos) + len(chosen) * len(CORRUPTIONS) * NUM_STRENGTHS
    count = _Counter(total, on_progress)
    vectors = encode_videos(encoder, world.videos, count)
    texts = encode_phrases(encoder, world.captions)
    gallery = vectors[:num_videos]
    rules = dict.fromkeys((pair.kind, pair.rule) for pair in world.pairs)
    margins = score_minimal_pairs(encoder, world.pairs, vectors)
    kinds = [kind for kind in PROBE_KINDS if any(pair.kind == kind for pair in world.pairs)]
    return ProbeReport(
        encoder=encoder.name,
        world=world.name,
        num_videos=num_videos,
        text_score=score_texts_by_rank(texts, gallery),
        kinds=tuple(_collect(world.pairs, margins, kind, None) for kind in kinds),
        rules=tuple(_collect(world.pairs, margins, kind, rule) for kind, rule in rules),
        missing=tuple(kind for kind in PROBE_KINDS if kind not in kinds),
        num_corrupted=len(chosen),
        corruptions=tuple(
            _corrupt_videos(encoder, [world.videos[row] for row in chosen], gallery[chosen], texts[chosen], name, count)
            for name in CORRUPTIONS
        ),
        absence=measure_absence(encoder, texts, gallery, order) if num_videos >= 4 else None,
        notes=world.notes,
    )


def encode_videos(
    encoder: Encoder, videos: Sequence[Frames], count: Callable[[int], None]
) -> Float32[np.ndarray, "video dim"]:
    """Return the vector of each video, as an index stores it; raise VidretError if one is not finite."""
    rows = []
    for first in range(0, len(videos), BATCH):
        batch = videos[first : first + BATCH]
        rows += [np.asarray(embedding.video, np.float32) for embedding in encoder.encode_frames(batch)]
        count(len(batch))
    vectors = np.stack(rows)
    if num_wrong := int((~np.isfinite(vectors).all(axis=1)).sum()):
        raise VidretError(
            f"{encoder.name}: vectors must be finite, got NaN or infinity for {format_count(num_wrong, 'video')}"
        )
    return vectors


def score_minimal_pairs(
    encoder: Encoder, pairs: Sequence[MinimalPair], vectors: Float32[np.ndarray, "video dim"]
) -> Float32[np.ndarray, " pair"]:
    """Return the score of the right text of each pair with its video less that of the wrong one."""
    listed = list(dict.fromkeys(text for pair in pairs for text in (pair.right, pair.wrong)))
    if not listed:
        return np.zeros(0, np.float32)
    texts, rows = encode_phrases(encoder, listed), {text: row for row, text in enumerate(listed)}
    right, wrong = (texts[[rows[getattr(pair, name)] for pair in pairs]] for name in ("right", "wrong"))
    video_vectors = vectors[[pair.video for pair in pairs]]
    # Each product by itself, so that equal vectors have equal scores.
    margins: Float32[np.ndarray, " pair"] = (video_vectors * right).sum(axis=1) - (video_vectors * wrong).sum(axis=1)
    return margins


def _collect(
    pairs: Sequence[MinimalPair], margins: Float32[np.ndarray, " pair"], kind: ProbeKind, rule: str | None
) -> PairResult:
    """Return the accuracy of the pairs of a kind, or of a rule. Pairs with the same two texts are one group."""
    rows = [row for row, pair in enumerate(pairs) if pair.kind == kind and rule in (None, pair.rule)]
    texts = [frozenset((pairs[row].right, pairs[row].wrong)) for row in rows]
    group_indices = {both: group_index for group_index, both in enumerate(dict.fromkeys(texts))}
    groups = np.array([group_indices[both] for both in texts])
    accuracy = measure_accuracy(margins[rows].astype(np.float64), groups)
    return PairResult(kind=kind, rule=rule, accuracy=accuracy, example=pairs[rows[0]])


def score_texts_by_rank(texts: Float32[np.ndarray, "video dim"], vectors: Float32[np.ndarray, "video dim"]) -> float:
    """Return the percentage of other videos that score lower than a text's own video; ties count half."""
    scores = texts @ vectors.T
    return _rank_among_others(np.diag(scores), scores)


def _rank_among_others(true_scores: Float32[np.ndarray, " video"], scores: Float32[np.ndarray, "video video"]) -> float:
    """Return the percentage of the scores of a text for other videos that are below its true one; ties count half."""
    others = ~np.eye(len(scores), dtype=bool)
    gaps = np.sign(true_scores[:, None] - scores)[others]
    return 50 + 50 * float(gaps.mean(dtype=np.float64))


def _corrupt_videos(
    encoder: Encoder,
    videos: Sequence[Frames],
    originals: Float32[np.ndarray, "video dim"],
    texts: Float32[np.ndarray, "video dim"],
    name: str,
    count: Callable[[int], None],
) -> CorruptionResult:
    """Return the effect of a corruption at each strength; the other videos of the gallery stay unchanged."""
    found, by_text = [], []
    for strength in range(1, NUM_STRENGTHS + 1):
        changed = [replace(video, pixels=corrupt(video.pixels, name, strength)) for video in videos]
        vectors = encode_videos(encoder, changed, count)
        found.append(100 * float(((vectors @ originals.T).argmax(axis=1) == np.arange(len(videos))).mean()))
        by_text.append(_rank_among_others((texts * vectors).sum(axis=1), texts @ originals.T))
    return CorruptionResult(name=name, levels=CORRUPTIONS[name].levels, found=tuple(found), text=tuple(by_text))


def measure_absence(
    encoder: Encoder,
    texts: Float32[np.ndarray, "video dim"],
    vectors: Float32[np.ndarray, "video dim"],
    order: np.ndarray,
) -> AbsenceResult:
    """Measure how well best scores separate queries whose video is in the gallery from those whose video is not.

    Each half of the gallery is searched with the captions of both halves. A best score is weak, as in a search, if
    ``WEAK`` of the unrelated queries reach it.
    """
    half = len(order) // 2
    unrelated = encode_phrases(encoder, UNRELATED)
    present: list[np.ndarray] = []
    absent: list[np.ndarray] = []
    for gallery_half, other_half in ((order[:half], order[half:]), (order[half:], order[:half])):
        reached = np.sort((unrelated @ vectors[gallery_half].T).max(axis=1))
        for rows, shares in ((gallery_half, present), (other_half, absent)):
            best = (texts[rows] @ vectors[gallery_half].T).max(axis=1)
            shares.append(np.column_stack([best, np.searchsorted(reached, best, side="left") / len(reached)]))
    there, gone = np.concatenate(present), np.concatenate(absent)
    (auroc,), (p_value,) = measure_separation(there[None, :, 0].astype(float), gone[None, :, 0].astype(float))
    lower = np.concatenate([there[:, 1], gone[:, 1]])
    is_there = np.arange(len(lower)) < len(there)
    bins, error = measure_reliability(lower, is_there)
    return AbsenceResult(
        num_queries=len(there),
        auroc=float(auroc),
        p_value=float(p_value),
        kept=100 * float((1 - there[:, 1] < WEAK).mean()),
        refused=100 * float((1 - gone[:, 1] >= WEAK).mean()),
        bins=bins,
        calibration_error=error,
    )


class _Counter:
    """Counts encoded videos, and reports them."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def __call__(self, num_more: int) -> None:
        self._done += num_more
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)
