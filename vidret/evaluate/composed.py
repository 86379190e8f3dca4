"""Composed retrieval: the query is a frame of one video and a text that says how the target video differs from it."""

from typing import Any, Final

import numpy as np
from jaxtyping import Int

from vidret.errors import VidretError
from vidret.evaluate.gallery import Evaluation
from vidret.evaluate.report import Report
from vidret.language.judging import FileFrames
from vidret.metrics.retrieval import CUTS, summarise
from vidret.types import ComposedQuery, Picture, Query, SearchOptions
from vidret.types import Sequence as EventSequence
from vidret.video.images import read_image

WIDTH = 512  # of frames, in pixels
SOURCE: Final = "picture"
PROTOCOL = (
    "Each query is the frame in the middle of its source video with its text. Ranks are among the target videos of all "
    "queries, without the source itself. R@K: percentage of queries whose target is among the first K. The lines "
    "'text only' and 'frame only' answer the same queries by a part of them."
)


def evaluate_composed(evaluation: Evaluation) -> Report:
    """Search for the target of every query by frame and text, by the text alone, and by the frame alone.

    The split has captions with sources.

    Raises:
        VidretError: No query is left, or a frame cannot be read.

    Reference:
        Ventura et al., CoVR: Learning Composed Video Retrieval from Web Video Captions (2024), section 4.
    """
    engine, split, contents = evaluation.engine, evaluation.split, evaluation.find_contents()
    queries = [query for query in split.captions if query.video in contents and query.source in contents]
    if not queries:
        raise VidretError(f"{split.name}: must have at least one query with both of its videos, got none")
    targets = {contents[query.video] for query in queries}
    options = SearchOptions(k=engine.info().videos, sources=(SOURCE,), copies="show")
    frames: dict[int, Picture] = {}
    ranks: dict[str, list[int]] = {"composed": [], "text": [], "image": []}
    with FileFrames() as drawer:
        for query in evaluation.track(queries):
            source = contents[query.source]
            if source not in frames:
                video = engine.video(source)
                frames[source] = read_image(drawer.draw(video, video.duration / 2, WIDTH))
            frame, target, allowed = frames[source], contents[query.video], targets - {source}
            both = ComposedQuery(images=(frame,), text=query.text, verbatim=True)
            text = EventSequence([query.text], verbatim=True)
            asked: dict[str, Query] = {"composed": both, "text": text, "image": frame}
            for kind, asked_query in asked.items():
                ranking = [hit.video for hit in engine.search_with(asked_query, options) if hit.video in allowed]
                ranks[kind].append(ranking.index(target) + 1 if target in ranking else len(allowed) + 1)
    rows = [
        {"id": query.id, "text": query.text, "source": query.source, "video": query.video, "rank": rank}
        for query, rank in zip(queries, ranks["composed"], strict=True)
    ]
    results = {kind: score_ranks(np.array(kind_ranks), len(targets)) for kind, kind_ranks in ranks.items()}
    settings = {"by": SOURCE, "protocol": PROTOCOL}
    return evaluation.report("composed", settings=settings, results=results, per_query=rows, doing="searching")


def score_ranks(ranks: Int[np.ndarray, " query"], gallery_size: int) -> dict[str, Any]:
    """Return recalls in percent, and their mean."""
    summary = summarise(ranks.astype(np.float64))
    recalls = {name: summary[name] for name in (f"R@{k}" for k in CUTS)}
    mean = sum(recalls.values()) / len(recalls)
    return {"num_queries": len(ranks), "gallery_size": gallery_size, **recalls, "mean": mean}
