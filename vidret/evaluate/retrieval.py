"""Evaluation of text-video retrieval: all captions of a split for all its videos, in both directions."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from vidret.align.hubness import qb_norm, sk_norm
from vidret.channels.picture.ranking import MEAN, NONE, Ranker
from vidret.channels.picture.reranking import TOTAL, sum_levels
from vidret.data.records import Caption, Split, find_videos
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.published import CLASSIC, PROTOCOLS, count_rows
from vidret.evaluate.report import Gallery, Report
from vidret.metrics.ranks import rank_matrix
from vidret.metrics.retrieval import PLAIN, Direction, Row, calibrate_scores, evaluate, evaluate_dual_softmax, make_row
from vidret.video.scan import scan

SCALE = 100.0  # CLIP's logit scale: the dual softmax was published for logits, not cosines
TOP = 10
DIRECTIONS: tuple[Direction, ...] = ("t2v", "v2t")
MEMORY = 16 << 30  # limit in bytes for scores and the copies of them that corrections make
COPIES = 5  # of the largest matrix, made by a correction or a dual softmax besides its results; measured 4.7
AT_ONCE = 4096  # texts with embeddings in memory at a time

Levels = Mapping[str, Float32[np.ndarray, "text video"]]
BankLevels = Mapping[str, Float32[np.ndarray, "bank_text bank_video"]]


@dataclass(frozen=True, slots=True)
class Bank:
    """A bank for hubness correction: queries for text to video, files of videos for video to text.

    Raises:
        VidretError: The bank is empty.
    """

    name: str
    items: Sequence[str] | Sequence[Path]
    kind: Literal["query", "video"] = "query"

    def __post_init__(self) -> None:
        if not any(str(item).strip() for item in self.items):
            raise VidretError(f"{self.name}: the bank must contain at least one {self.kind}, got none")

    def describe(self, tested: Set[str] | Set[Path]) -> str:
        """Return the bank's name and size, and how many of its items are among those of the test set."""
        num_shared = sum(item in tested for item in self.items)
        overlap = f", {num_shared} of them in the test set" if num_shared else ""
        return f"{len(self.items)} {'queries' if self.kind == 'query' else 'videos'} of {self.name}{overlap}"


def evaluate_retrieval(
    evaluation: Evaluation,
    *,
    rerank: str | None,
    protocol: str = CLASSIC,
    bank: Bank | None = None,
    video_bank: Bank | None = None,
) -> Report:
    """Score every caption for every available video, and compute the metrics.

    Captions of missing or unreadable videos are omitted, so that the gallery is smaller than the benchmark's, and
    results are not comparable with it. Progress counts segments, once per batch of texts; with a ``video_bank``, it
    runs from 0 to the total twice.

    Args:
        evaluation: The evaluation, with captions.
        rerank: The reranker that computes the scores; see ``Engine.search``.
        protocol: Name of the protocol that the index was made for, one of ``PROTOCOLS``.
        bank: Adds rows of text to video with hubness correction by this bank (SK-norm, QB-norm). Rows with a dual
            softmax, whose bank is the test set itself, are always included and labelled as such.
        video_bank: Adds rows of video to text in the same way, by files in the engine's index.

    Raises:
        VidretError: No caption is left, or the scores do not fit into memory.
    """
    encoder: Any = evaluation.engine.encoder
    previous, wanted = getattr(encoder, "instruction", None), PROTOCOLS[protocol].instruction
    if previous is None or wanted is None:
        return _evaluate(evaluation, rerank, protocol, bank, video_bank)
    encoder.instruction = wanted
    try:
        return _evaluate(evaluation, rerank, protocol, bank, video_bank)
    finally:
        encoder.instruction = previous


def _evaluate(
    evaluation: Evaluation, rerank: str | None, protocol: str, bank: Bank | None, video_bank: Bank | None
) -> Report:
    """Return the report of ``evaluate_retrieval``; the encoder has the instruction of the protocol."""
    engine, split, gallery = evaluation.engine, evaluation.split, evaluation.gallery
    video_ids, captions = choose_captions(split, gallery)
    columns = {video_id: column for column, video_id in enumerate(video_ids)}
    truth = np.array([columns[caption.video] for caption in captions])
    texts, paths = [caption.text for caption in captions], [gallery.files[video_id] for video_id in video_ids]
    num_bank, num_bank_videos = (0 if one is None else len(one.items) for one in (bank, video_bank))
    check_memory(engine.choose_ranker(rerank), len(texts), len(paths), num_bank, num_bank_videos)
    started = time.perf_counter()
    asked = [*texts, *map(str, bank.items if bank is not None else ())]
    scores = score_texts(engine, asked, paths, rerank, evaluation.on_progress)
    pair_s = (time.perf_counter() - started) / (len(asked) * len(paths))
    test_scores, banked = (
        {name: level[text_rows] for name, level in scores.items()}
        for text_rows in (slice(len(texts)), slice(len(texts), None))
    )
    ranker, totals = engine.choose_ranker(rerank), test_scores[TOTAL]
    rows = [*evaluate(totals, truth), *rate_parts(engine, ranker, test_scores, truth, texts, paths)]
    if bank is not None:
        rows += correct(ranker, test_scores, banked, truth, bank.describe(set(texts)))
    if video_bank is not None:
        banked = score_texts(engine, texts, [*map(Path, video_bank.items)], rerank, evaluation.on_progress)
        label = video_bank.describe({path.absolute() for path in paths})
        rows += correct(ranker, test_scores, banked, truth, label, direction="v2t")
    rows += [evaluate_dual_softmax(direction, SCALE * totals, truth) for direction in DIRECTIONS]
    video_ranks = {video_ids[column]: rank for column, rank in _list_ranks(rows[1])}
    noted = note_differences(split, captions, engine.encoder.sampling.until_s, protocol)
    return replace(evaluation, split=noted).report(
        "retrieval",
        settings={
            **_describe_settings(ranker, bank, video_bank),
            **_describe_protocol(protocol, split, len(captions), engine),
            "seconds_per_pair": pair_s,
        },
        results={
            "rows": [row.to_dict() for row in rows],
            "video_ranks": video_ranks,
            **_evaluate_domains(captions, totals, truth),
        },
        per_query=_list_queries(captions, video_ids, totals, truth, rows[0]),
    )


def check_banks(ranker: Ranker, split: Split, videos: Path, *, bank: Bank | None, video_bank: Path | None) -> None:
    """Check the captions and banks of an evaluation before its videos are indexed, which takes hours.

    Raises:
        VidretError: The split has no captions, the bank of videos is empty or does not exist, or the scores of the
            split and its bank do not fit into memory.
    """
    if not split.captions:
        raise VidretError(f"{split.name}: must have captions of its videos, got none")
    files = find_videos(split.videos, videos)[0]
    num_texts = sum(caption.video in files for caption in split.captions)
    bank_videos = [] if video_bank is None else Bank(str(video_bank), scan([str(video_bank)]), "video").items
    check_memory(ranker, num_texts, len(files), 0 if bank is None else len(bank.items), len(bank_videos))


def check_memory(
    ranker: Ranker, num_texts: int, num_videos: int, num_bank_texts: int = 0, num_bank_videos: int = 0
) -> None:
    """Check that the scores of a test set and its banks, and the copies that corrections make, fit into memory.

    Raises:
        VidretError: They do not fit.
    """
    if measure_scores(ranker, num_texts, num_videos, num_bank_texts, num_bank_videos) > MEMORY:
        num_texts, num_videos = num_texts + num_bank_texts, num_videos + num_bank_videos
        raise VidretError(f"scores must fit into {MEMORY >> 30} GiB, got {num_texts} texts and {num_videos} videos")


def measure_scores(
    ranker: Ranker, num_texts: int, num_videos: int, num_bank_texts: int = 0, num_bank_videos: int = 0
) -> int:
    """Return the maximum bytes of an evaluation: all levels, the corrected ones, and copies of a matrix."""
    num_scores, num_levels = num_texts * num_videos, len(ranker.weights)
    banks = num_bank_texts * num_videos, num_texts * num_bank_videos
    stored = (num_levels + 1) * (num_scores + sum(banks))
    return int(4 * (stored + num_levels * num_scores + COPIES * max(num_scores, *banks)))


POOLINGS = (MEAN, NONE)  # rerankers without weights, reported beside an aligner


def rate_parts(
    engine: Engine,
    ranker: Ranker,
    scores: Levels,
    truth: Int64[np.ndarray, " text"],
    texts: Sequence[str],
    paths: Sequence[Path],
) -> list[Row]:
    """Return the plain rows of each level of a ranker by itself, and of poolings without the aligner."""
    levels = {f"level {name}": scores[name] for name in ranker.weights if len(ranker.weights) > 1}
    for name in POOLINGS:
        if ranker.name not in POOLINGS:
            levels[f"rerank {name}"] = score_texts(engine, texts, paths, name)[TOTAL]
    rows = []
    for name, level in levels.items():
        ranks = rank_matrix(level, truth)
        rows += [make_row(f"{PLAIN}, {name}", direction, ranks) for direction in DIRECTIONS]
    return rows


def choose_captions(split: Split, gallery: Gallery) -> tuple[list[str], list[Caption]]:
    """Return the ids of the available videos of a split, and their captions.

    Raises:
        VidretError: No caption is left.
    """
    video_ids = [video_id for video_id in split.videos if video_id in gallery.files and video_id not in gallery.failed]
    available = set(video_ids)
    captions = [caption for caption in split.captions if caption.video in available]
    if not captions:
        raise VidretError(f"{split.name}: must have at least one caption of an available video, got none")
    return video_ids, captions


def score_texts(
    engine: Engine,
    texts: Sequence[str],
    paths: Sequence[Path],
    rerank: str | None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Float32[np.ndarray, "text video"]]:
    """Return the scores of texts for videos, by level and in total.

    Texts are scored in batches, since the embeddings of all captions of a training split do not fit into memory. Equal
    texts are scored once: else rounding would break the ties of captions that videos share.
    """
    ranker = engine.choose_ranker(rerank)
    scores = {name: np.empty((len(texts), len(paths)), np.float32) for name in (*ranker.weights, TOTAL)}
    position_by_text = {text: position for position, text in enumerate(dict.fromkeys(texts))}
    distinct, positions = list(position_by_text), np.array([position_by_text[text] for text in texts], np.int64)
    batches = [slice(start, start + AT_ONCE) for start in range(0, len(distinct), AT_ONCE)]
    for index, batch in enumerate(batches):
        rows = np.flatnonzero(positions // AT_ONCE == index)

        def advance(num_done: int, num_segments: int, index: int = index) -> None:
            if on_progress is not None:
                on_progress(index * num_segments + num_done, len(batches) * num_segments)

        for name, level in engine.score_videos(distinct[batch], paths, rerank=rerank, on_progress=advance).items():
            scores[name][rows] = level[positions[rows] - batch.start]
    return scores


def correct(
    ranker: Ranker,
    scores: Levels,
    bank_scores: BankLevels,
    truth: Int64[np.ndarray, " text"],
    label: str,
    *,
    direction: Direction = "t2v",
) -> list[Row]:
    """Return the rows with hubness correction: SK-norm of each level, as in a calibrated search, and QB-norm of all.

    GLSCL's QB-norm has a beta of 70, and corrects videos (texts) that are the best of 3 (5) queries of the bank.

    Args:
        ranker: The ranker of the scores.
        scores: (text, video) by level, and in total.
        bank_scores: (bank text, video) for t2v, (text, bank video) for v2t.
        truth: Video of each text.
        label: Description of the bank.
        direction: "t2v" corrects videos, "v2t" texts.
    """
    balance = partial(sk_norm, temperature=ranker.temperature)
    glscl_qb_norm = partial(qb_norm, beta=70.0, min_queries=3 if direction == "t2v" else 5)
    levels = {name: calibrate_scores(direction, scores[name], bank_scores[name], balance) for name in ranker.weights}
    rows = [make_row("SK-norm", direction, rank_matrix(sum_levels(levels, ranker), truth), label)]
    for name, level in levels.items() if len(levels) > 1 else ():
        rows.append(make_row(f"SK-norm, level {name}", direction, rank_matrix(level, truth), label))
    for name, calibrate in (("QB-norm", qb_norm), ("QB-norm, as GLSCL has it", glscl_qb_norm)):
        corrected = calibrate_scores(direction, scores[TOTAL], bank_scores[TOTAL], calibrate)
        rows.append(make_row(name, direction, rank_matrix(corrected, truth), label))
    return rows


def note_differences(
    split: Split, captions: Sequence[Caption], until_s: float | None, protocol: str = CLASSIC
) -> Split:
    """Return the split with notes on deviations from the benchmark or the protocol.

    Captions may describe another part of their video than the scored one, which ends at ``until_s``, None for the whole
    video; or their number may be another.
    """
    notes = list(split.notes)
    if (wanted := count_rows(protocol, split)) != len(captions):
        total = "an unknown number of" if wanted is None else str(wanted)
        notes.append(f"not a result by the protocol {protocol}: {len(captions)} of {total} queries")
    if num_partial := sum(caption.end not in (None, until_s) for caption in captions):
        notes.append(f"captions that describe a part of their video, though the whole video is scored: {num_partial}")
    return replace(split, notes=tuple(notes))


def _describe_settings(ranker: Ranker, bank: Bank | None, video_bank: Bank | None) -> dict[str, Any]:
    banks = {"bank": bank, "video_bank": video_bank}
    return {
        "rerank": ranker.name,
        "levels": dict(ranker.weights),
        **{name: one.name if one is not None else None for name, one in banks.items()},
        **{f"num_{name}": len(one.items) if one is not None else 0 for name, one in banks.items()},
        "sk_norm_temperature": ranker.temperature,
        "dual_softmax_scale": SCALE,
    }


def _describe_protocol(protocol: str, split: Split, num_queries: int, engine: Engine) -> dict[str, Any]:
    """Return the settings that comparable results share: rows, frames, instructions and the main score."""
    wanted, sampling = count_rows(protocol, split), engine.encoder.sampling
    return {
        "protocol": protocol,
        "complete": num_queries == wanted,
        "rows": (num_queries, wanted),
        "frames": f"{sampling.rule}, at most {sampling.num_frames}",
        "instruction": getattr(engine.encoder, "instruction", None),
        "metric": PROTOCOLS[protocol].metric,
    }


def _evaluate_domains(
    captions: Sequence[Caption], scores: Float32[np.ndarray, "text video"], truth: Int64[np.ndarray, " text"]
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return the rows of each domain, with only its own videos as gallery; empty if there is only one domain."""
    rows_by_domain: defaultdict[str, list[int]] = defaultdict(list)
    for row, caption in enumerate(captions):
        rows_by_domain[caption.domain or "other"].append(row)
    if len(rows_by_domain) < 2:
        return {}
    results = {}
    for domain, rows in sorted(rows_by_domain.items()):
        columns, domain_truth = np.unique(truth[rows], return_inverse=True)
        results[domain] = [row.to_dict() for row in evaluate(scores[rows][:, columns], domain_truth)]
    return {"domains": results}


def _list_ranks(row: Row) -> Iterator[tuple[int, float]]:
    return zip(row.ranks.queries.tolist(), row.ranks.mean.tolist(), strict=True)


def _list_queries(
    captions: Sequence[Caption],
    video_ids: Sequence[str],
    scores: Float32[np.ndarray, "text video"],
    truth: Int64[np.ndarray, " text"],
    row: Row,
) -> list[dict[str, Any]]:
    """Return each caption with its rank, the score of its video, and the top videos."""
    queries = []
    for caption, (index, rank) in zip(captions, _list_ranks(row), strict=True):
        top = np.argsort(-scores[index], kind="stable")[:TOP]
        queries.append(
            {
                "id": caption.id,
                "text": caption.text,
                "video": caption.video,
                "domain": caption.domain,
                "rank": rank,
                "score": round(float(scores[index, truth[index]]), 5),
                "top": [[video_ids[column], round(float(scores[index, column]), 5)] for column in top],
            }
        )
    return queries
