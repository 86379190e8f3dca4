"""Composed retrieval: a frame of one video, and a text that says how what is looked for differs from it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from vidret.data.records import Caption, Split
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import describe_model
from vidret.evaluate.queries import find_contents
from vidret.evaluate.report import Gallery, Report
from vidret.language.judging import FileFrames
from vidret.metrics.retrieval import hits
from vidret.types import ComposedQuery, Picture, Query, SearchOptions
from vidret.video.images import read_image

CUTS = (1, 5, 10, 50)
WIDTH = 512  # of frames, in pixels
PROTOCOL = (
    "Each query is the frame in the middle of its source video with its text. Ranks are among the target videos of all "
    "queries, without the source itself. R@K: percentage of queries whose target is among the first K. The lines "
    "'text only' and 'frame only' answer the same queries by a part of them."
)


def evaluate_composed(
    engine: Engine,
    split: Split,
    gallery: Gallery,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Search for the target of every query by a frame with a text, by the text, and by the frame.

    Queries whose source or target is missing or unreadable are omitted, and the report lists these videos.

    Args:
        engine: An engine whose index contains the videos.
        split: Captions with sources.
        gallery: The videos that are available.
        on_progress: Called with the number of finished queries and of all queries.

    Raises:
        VidretError: No query is left, or a frame cannot be read.

    Reference:
        Ventura et al., CoVR: Learning Composed Video Retrieval from Web Video Captions (2024), section 4.
    """
    started = time.monotonic()
    contents = find_contents(engine, gallery)
    queries = [query for query in split.captions if query.video in contents and query.source in contents]
    if not queries:
        raise VidretError(f"{split.name}: must have at least one query with both of its videos, got none")
    targets = {contents[query.video] for query in queries}
    options = SearchOptions(k=engine.info().videos, sources=("picture",), copies="show")
    frames: dict[int, Picture] = {}
    ranks: dict[str, list[int]] = {"composed": [], "text": [], "image": []}
    with FileFrames() as drawer:
        for index, query in enumerate(queries):
            source = contents[query.source]
            if source not in frames:
                video = engine.video(source)
                frames[source] = read_image(drawer.draw(video, video.duration / 2, WIDTH))
            allowed = targets - {source}
            for kind, asked in _list_queries(frames[source], query).items():
                found = [hit.video for hit in engine.search_with(asked, options) if hit.video in allowed]
                ranks[kind].append(_find_rank(found, contents[query.video], len(allowed)))
            if on_progress is not None:
                on_progress(index + 1, len(queries))
    rows = [
        {"id": query.id, "text": query.text, "source": query.source, "video": query.video, "rank": rank}
        for query, rank in zip(queries, ranks["composed"], strict=True)
    ]
    results = {kind: score_ranks(np.array(own), len(targets)) for kind, own in ranks.items()}
    settings = {"protocol": PROTOCOL}
    seconds = {"searching": time.monotonic() - started}
    return Report("composed", split, gallery, describe_model(engine), settings, results, rows, seconds)


def score_ranks(ranks: Int[np.ndarray, " query"], gallery_size: int) -> dict[str, Any]:
    """Return recalls in percent, and their mean."""
    recalls = {f"R@{k}": 100 * float(hits(ranks.astype(np.float64), k).mean()) for k in CUTS}
    mean = sum(recalls.values()) / len(recalls)
    return {"num_queries": len(ranks), "gallery_size": gallery_size, **recalls, "mean": mean}


def _list_queries(frame: Picture, query: Caption) -> dict[str, Query]:
    return {"composed": ComposedQuery(images=(frame,), text=query.text), "text": query.text, "image": frame}


def _find_rank(found: list[int], target: int, num_allowed: int) -> int:
    """Return the rank of a video among those allowed, behind all that were not found."""
    return found.index(target) + 1 if target in found else num_allowed + 1
