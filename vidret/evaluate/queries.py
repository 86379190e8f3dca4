"""Evaluation of queries over all videos, by kind of query: each is searched and located like a user's query."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vidret.data.benchmarks.moments import read_queries
from vidret.data.records import CorpusQuery, LabelledQuery, Split, find_videos
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.report import Report
from vidret.language.judging import DEFAULT_JUDGING, Judge, JudgeOptions, judge_hits
from vidret.metrics.corpus_moments import QueryOutcome, score_kinds
from vidret.metrics.grounding import temporal_iou
from vidret.search.query.planning import check_query
from vidret.store.texts.upkeep import count_texts
from vidret.types import Hit, Moment
from vidret.video.scan import scan

NUM_HITS = NUM_MOMENTS = NUM_VIDEOS = 10  # results per query
PROTOCOL = (
    "Each query is answered over all videos. R@K: percentage of queries whose video is among the first K. R1@0.5: the "
    "best moment in the correct video has an intersection over union of 0.5 or more with a true window. hit@1: that "
    "moment is also the first of all. nothing: percentage answered with 'nothing matches well', which is right for "
    "absent queries, and counts as a miss for all others. AUC: how often the score of the first video is above that "
    "of an absent query."
)


@dataclass(frozen=True, slots=True)
class AnsweredQuery:
    """The first hits and moments of a query, and how long the search took in seconds."""

    hits: Sequence[Hit]
    moments: Sequence[Moment]
    search_s: float

    @property
    def is_nothing(self) -> bool:
        """Whether the answer is that nothing matches well."""
        return all(hit.weak for hit in self.hits)


def evaluate_queries(
    evaluation: Evaluation, *, judge: Judge | None = None, judging: JudgeOptions = DEFAULT_JUDGING
) -> Report:
    """Answer every query over all videos of the index, and compute the measures of each kind.

    Videos are compared by content, so that any copy of the correct video counts. A ``judge`` reranks the hits of each
    query; the report then has the measures with and without it.

    Raises:
        VidretError: No query is left, or a video is not in the index.
    """
    engine, split, contents = evaluation.engine, evaluation.split, evaluation.find_contents()
    queries = [query for query in split.corpus_queries if query.video is None or query.video in contents]
    if not queries:
        raise VidretError(f"{split.name}: must have at least one query with an available video or none, got none")
    names = {content: video_id for video_id, content in reversed(contents.items())}
    outcomes, unjudged, rows, seconds = [], [], [], []
    num_failed = 0
    for query in evaluation.track(queries):
        content = None if query.video is None else contents[query.video]
        answered = answer_query(engine, query.text)
        if judge is not None:
            unjudged.append(judge_answer(query, answered, content))
            hits = engine.search(query.text, max(NUM_HITS, judging.top), copies="show")
            judged = judge_hits(engine, query.text, hits, judge, judging)
            answered = replace(answered, hits=[hit.hit for hit in judged.hits[:NUM_HITS]])
            num_failed += bool(judged.note)
        outcomes.append(judge_answer(query, answered, content))
        rows.append(_describe_answer(query, answered, outcomes[-1], names))
        seconds.append(answered.search_s)
    sources = ("picture", *(count.source for count in count_texts(engine.path)))
    return evaluation.report(
        "queries",
        settings={
            "by": ", ".join(sources),
            "num_hits": NUM_HITS,
            "num_moments": NUM_MOMENTS,
            "protocol": PROTOCOL,
            **({} if judge is None else {"judge": judge.name, "judging": asdict(judging)}),
        },
        results={
            "kinds": score_kinds(outcomes),
            "num_videos": engine.info().videos,
            "search_p50_ms": 1000 * float(np.median(seconds)),
            **({} if judge is None else {"kinds_unjudged": score_kinds(unjudged), "num_judge_failed": num_failed}),
        },
        per_query=rows,
    )


def read_queries_folder(folder: Path, annotations: Path | None = None) -> tuple[Split, Path]:
    """Return the queries of a folder as a split with all of its videos, and their folder: videos/ if it exists.

    The queries may be in another folder, ``annotations``. Videos without a query are included by their path, since a
    search may find them by mistake.

    Raises:
        VidretError: queries.jsonl or a query in it is invalid, or several files match one name.
    """
    split = read_queries("queries", (annotations or folder) / "queries.jsonl")
    check_typed(split.corpus_queries)
    videos = folder / "videos" if (folder / "videos").is_dir() else folder
    files = set(find_videos(split.videos, videos)[0].values())
    others = [os.path.relpath(path, videos) for path in scan([str(videos)]) if Path(path) not in files]
    return replace(split, videos=(*split.videos, *(Path(path).as_posix() for path in others))), videos


def check_typed(queries: Sequence[LabelledQuery | CorpusQuery]) -> None:
    """Check queries that are parsed as typed, before videos are indexed: some are invalid for any index.

    Raises:
        VidretError: A query has no positive term, or excludes a term that it asks for.
    """
    for query in queries:
        try:
            check_query(query.text)
        except VidretError as error:
            raise VidretError(f"query {query.id}: {error}") from error


def answer_query(engine: Engine, text: str) -> AnsweredQuery:
    """Return the first hits and moments of a query among all videos."""
    started = time.perf_counter()
    hits = engine.search(text, NUM_HITS, copies="show")
    search_s = time.perf_counter() - started
    return AnsweredQuery(hits, engine.locate(text, NUM_MOMENTS, videos=NUM_VIDEOS, weak=True), search_s)


def judge_answer(query: CorpusQuery, answered: AnsweredQuery, content: int | None) -> QueryOutcome:
    """Return the outcome of a query, given the id of its video in the index, None if it has no video."""
    nothing, hits = answered.is_nothing, answered.hits
    score = hits[0].score if hits else -np.inf
    if content is None:
        return QueryOutcome(kind=query.kind, answerable=False, nothing=nothing, score=score)
    ranking = [hit.video for hit in hits]
    video_moment = next((moment for moment in answered.moments if moment.video == content), None)
    truths = np.array(query.spans, np.float64).reshape(-1, 2)
    return QueryOutcome(
        kind=query.kind,
        answerable=True,
        nothing=nothing,
        score=score,
        rank=ranking.index(content) + 1 if content in ranking else 0,
        overlap=0.0
        if video_moment is None
        else float(temporal_iou(np.array([[video_moment.start, video_moment.end]]), truths).max()),
        is_first=video_moment is not None and video_moment is answered.moments[0],
    )


def _describe_answer(
    query: CorpusQuery, answered: AnsweredQuery, outcome: QueryOutcome, names: Mapping[int, str]
) -> dict[str, Any]:
    """Return a query's row for the report."""

    def name(result: Hit | Moment) -> str:
        return names.get(result.video, result.path)  # the index may hold videos of other folders

    row: dict[str, Any] = {
        "id": query.id,
        "text": query.text,
        "kind": query.kind,
        "video": query.video,
        "true": [list(span) for span in query.spans],
        "nothing": outcome.nothing,
        "score": outcome.score if answered.hits else None,
        "top": [[name(hit), hit.score] for hit in answered.hits],
        "moments": [[name(moment), moment.start, moment.end, moment.score] for moment in answered.moments],
    }
    if query.video is not None:
        row |= {"rank": outcome.rank, "best_overlap": outcome.overlap, "correct": outcome.measure()}
    return row
