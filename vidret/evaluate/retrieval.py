"""Text-video retrieval of one split: all captions against all videos, in both directions."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from vidret.align.calibration import qb_norm, sk_norm
from vidret.data.records import Caption, Split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import describe_model
from vidret.evaluate.report import Gallery, Report
from vidret.metrics.corrected import evaluate_calibrated, evaluate_dual_softmax
from vidret.metrics.ranks import rank_matrix
from vidret.metrics.retrieval import CUTS, Row, evaluate, make_row
from vidret.search.ranking import Ranker
from vidret.search.reranking import TOTAL, sum_levels

SCALE = 100.0  # CLIP's: cosines become the logits that the dual softmax was published for
TOP = 10
MEMORY = 16 << 30  # bytes of scores, and what corrections make of them
AT_ONCE = 4096  # texts whose embeddings are held at a time

Levels = Mapping[str, Float32[np.ndarray, "text video"]]
BankLevels = Mapping[str, Float32[np.ndarray, "bank_text video"]]


@dataclass(frozen=True, slots=True)
class Bank:
    """Queries that correct scores, and what to call them in the report."""

    name: str
    texts: Sequence[str]

    def describe(self, asked: Set[str]) -> str:
        """Name the bank, and say how much of the test it holds."""
        shared = sum(text in asked for text in self.texts)
        return f"{len(self.texts)} queries of {self.name}" + (f", {shared} of them of the test itself" * bool(shared))


def evaluate_retrieval(
    engine: Engine,
    split: Split,
    gallery: Gallery,
    *,
    rerank: str | None,
    bank: Bank | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score every caption against every video that is there, and count.

    Captions of videos that are missing or unreadable are left out, and the report names these videos: the gallery is
    smaller then, and the numbers are not the benchmark's.

    Args:
        engine: Whose index holds the videos.
        split: The benchmark's.
        gallery: Which videos are there.
        rerank: What scores, as in ``Engine.search``.
        bank: Adds rows corrected by it (SK-norm, QB-norm); a dual softmax, whose bank is the test itself, is always
            there, labelled as such.
        on_progress: Called with the number of segments scored and of all, each once for every few thousand texts.

    Raises:
        VidretError: No caption is left, the bank is empty, or the matrix does not fit into memory.
    """
    started = time.monotonic()
    names = [name for name in split.videos if name in gallery.files and name not in gallery.failed]
    column = {name: number for number, name in enumerate(names)}
    captions = [caption for caption in split.captions if caption.video in column]
    if not captions:
        raise VidretError(f"{split.name}: must have a caption of a video that is there, got none")
    if bank is not None and not bank.texts:
        raise VidretError(f"{bank.name}: the bank must hold a query, got none")
    ranker = engine.choose_ranker(rerank)
    texts = [caption.text for caption in captions] + list(bank.texts if bank is not None else ())
    scores = score_texts(engine, texts, [gallery.files[name] for name in names], rerank, on_progress)
    truth = np.array([column[caption.video] for caption in captions])
    own = {name: level[: len(captions)] for name, level in scores.items()}
    rows = list(evaluate(own[TOTAL], truth))
    if bank is not None:
        of_bank = {name: level[len(captions) :] for name, level in scores.items()}
        label = bank.describe({caption.text for caption in captions})
        rows += correct(ranker, own, of_bank, truth, label)
    rows += [evaluate_dual_softmax(way, SCALE * own[TOTAL], truth) for way in ("t2v", "v2t")]
    results: dict[str, Any] = {
        "rows": [_drop_queries(row) for row in rows],
        "video_ranks": {names[number]: rank for number, rank in _list_ranks(rows[1])},
    }
    if domains := _by_domain(captions, own[TOTAL], truth):
        results["domains"] = domains
    return Report(
        task="retrieval",
        split=note_parts(split, captions),
        gallery=gallery,
        model=describe_model(engine),
        settings={
            "rerank": ranker.name,
            "levels": dict(ranker.weights),
            "bank": bank.name if bank is not None else None,
            "num_bank": len(bank.texts) if bank is not None else 0,
            "dual_softmax_scale": SCALE,
        },
        results=results,
        per_query=_list_queries(captions, names, own[TOTAL], rows[0]),
        seconds={"scoring": time.monotonic() - started},
    )


def score_texts(
    engine: Engine,
    texts: Sequence[str],
    paths: Sequence[Path],
    rerank: str | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Float32[np.ndarray, "text video"]]:
    """Score texts against videos, some at a time: the embeddings of a training split do not fit into memory at once."""
    ranker = engine.choose_ranker(rerank)
    need = 4 * 2 * (len(ranker.weights) + 1) * len(texts) * len(paths)
    if need > MEMORY:
        raise VidretError(f"scores must fit into {MEMORY >> 30} GiB, got {len(texts)} texts and {len(paths)} videos")
    scores = {name: np.empty((len(texts), len(paths)), np.float32) for name in (*ranker.weights, TOTAL)}
    parts = [slice(start, start + AT_ONCE) for start in range(0, len(texts), AT_ONCE)]
    for number, part in enumerate(parts):

        def advance(done: int, total: int, passed: int = number) -> None:
            if on_progress is not None:
                on_progress(passed * total + done, len(parts) * total)

        for name, level in engine.score_videos(texts[part], paths, rerank=rerank, on_progress=advance).items():
            scores[name][part] = level
    return scores


def correct(
    ranker: Ranker, scores: Levels, of_bank: BankLevels, truth: Int64[np.ndarray, " text"], label: str
) -> list[Row]:
    """Give the rows that a bank corrects: SK-norm at each level, as a calibrated search has it; QB-norm in all."""
    levels = {}
    for name in ranker.weights:
        calibration = sk_norm(torch.from_numpy(of_bank[name]), temperature=ranker.temperature)
        levels[name] = calibration.correct(torch.from_numpy(scores[name])).numpy()
    both = rank_matrix(sum_levels(levels, ranker), truth)
    pairs = [(scores[TOTAL], of_bank[TOTAL])]
    return [
        make_row("SK-norm", "t2v", both, CUTS, label),
        evaluate_calibrated("QB-norm", "t2v", pairs, qb_norm, truth, bank=label),
    ]


def note_parts(split: Split, captions: Sequence[Caption]) -> Split:
    """Say so where captions are of a part of their video, for all of it is searched."""
    num = sum(caption.end is not None for caption in captions)
    if not num:
        return split
    note = f"captions that describe a part of their video, of which all is looked at: {num}"
    return replace(split, notes=(*split.notes, note))


def _by_domain(
    captions: Sequence[Caption], scores: Float32[np.ndarray, "text video"], truth: Int64[np.ndarray, " text"]
) -> dict[str, list[dict[str, Any]]]:
    """Measure each domain by itself, among its own videos; nothing where there is but one."""
    by_domain: defaultdict[str, list[int]] = defaultdict(list)
    for number, caption in enumerate(captions):
        by_domain[caption.domain].append(number)
    if len(by_domain) < 2:
        return {}
    found = {}
    for domain, numbers in sorted(by_domain.items()):
        columns, own = np.unique(truth[numbers], return_inverse=True)
        found[domain or "other"] = [_drop_queries(row) for row in evaluate(scores[numbers][:, columns], own)]
    return found


def _drop_queries(row: Row) -> dict[str, Any]:
    facts = row.to_dict()
    return {name: value for name, value in facts.items() if name not in ("queries", "ranks")}


def _list_ranks(row: Row) -> Iterator[tuple[int, float]]:
    return zip(row.metrics.ranks.queries.tolist(), row.metrics.ranks.mean.tolist(), strict=True)


def _list_queries(
    captions: Sequence[Caption], names: Sequence[str], scores: Float32[np.ndarray, "text video"], row: Row
) -> list[dict[str, Any]]:
    """Give each caption with its rank, its video's score and what came first."""
    ranks = dict(_list_ranks(row))
    column = {name: number for number, name in enumerate(names)}
    found = []
    for number, caption in enumerate(captions):
        best = np.argsort(-scores[number], kind="stable")[:TOP]
        found.append(
            {
                "id": caption.id,
                "text": caption.text,
                "video": caption.video,
                "domain": caption.domain,
                "rank": ranks[number],
                "score": round(float(scores[number, column[caption.video]]), 5),
                "top": [[names[place], round(float(scores[number, place]), 5)] for place in best],
            }
        )
    return found
