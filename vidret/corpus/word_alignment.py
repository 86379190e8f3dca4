"""Alignment of generated videos with their prompts by pictures and words together, as a search scores both.

The videos are indexed in a temporary folder with what is said and shown in them, and each prompt is searched among all
of them. Scores are in standard deviations above what unrelated queries reach at best.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import Float64

from vidret.channels.texts.options import WordsOptions
from vidret.encode.encoder import Encoder
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.index.options import Progress
from vidret.search.query.clauses import check_exclusions, parse_structure
from vidret.types import Hit, SearchOptions

MAX_TEXTS = 3  # of a video in the report


@dataclass(frozen=True, slots=True, eq=False)
class PromptScores:
    """Scores of each video for each prompt, and the texts of a video that match a prompt, by row and column."""

    scores: Float64[np.ndarray, "video prompt"]
    pictures: Float64[np.ndarray, "video prompt"]
    texts: dict[tuple[int, int], list[dict[str, Any]]]


def score_with_words(
    encoder: Encoder,
    prompts: Mapping[str, str],
    words: WordsOptions,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Score generated videos by their pictures and words.

    Args:
        encoder: The encoder of frames and prompts.
        prompts: The prompt of each video, by path.
        words: Which words are read, and by what.
        on_progress: Called while the videos are indexed.

    Returns:
        ``sources``, which were compared; ``num_with_words``, videos in which something is said or shown; ``alignment``,
        the mean score of a video for its own prompt, and ``alignment_of_pictures``, the same by pictures only;
        ``prompt_recall``, the percentage of videos that fit their own prompt best; and ``videos`` by path, with both
        scores and the texts that match the prompt.

    Raises:
        MissingExtraError: The extra ``words`` is not installed.
        VidretError: A video cannot be read, or a prompt cannot be a query.
    """
    texts = list(dict.fromkeys(prompts.values()))
    check_prompts(texts)
    with TemporaryDirectory() as folder, Engine(Path(folder) / "index", encoder) as engine:
        report = engine.index(list(prompts), words=words, on_progress=on_progress)
        if report.failed:
            path, reason = report.failed[0]
            raise VidretError(f"{path}: {reason}")
        found = score_prompts(engine, texts, list(prompts))
        num_with_words = sum(bool(engine.transcript(path)) for path in prompts)
    own = np.array([texts.index(prompt) for prompt in prompts.values()])
    rows = np.arange(len(own))
    scores, pictures = found.scores[rows, own], found.pictures[rows, own]
    videos = {
        path: {
            "alignment": float(scores[row]),
            "alignment_of_pictures": float(pictures[row]),
            "texts": found.texts.get((row, int(own[row])), []),
        }
        for row, path in enumerate(prompts)
    }
    return {
        "sources": list(words.sources),
        "num_with_words": num_with_words,
        "alignment": float(scores.mean()),
        "alignment_of_pictures": float(pictures.mean()),
        "prompt_recall": 100 * float((scores >= found.scores.max(axis=1)).mean()),
        "videos": videos,
    }


def check_prompts(prompts: Sequence[str]) -> None:
    """Check that each prompt can be a query.

    Raises:
        VidretError: One excludes what it looks for, or has no word that it looks for.
    """
    for prompt in prompts:
        try:
            check_exclusions(parse_structure(prompt))
        except VidretError as error:
            raise VidretError(f"prompt {prompt!r} cannot be compared with words: {error}") from error


def score_prompts(engine: Engine, prompts: Sequence[str], paths: Sequence[str]) -> PromptScores:
    """Search each prompt among all videos. A video that a prompt excludes has the lowest score of all others."""
    rows = {path: row for row, path in enumerate(paths)}
    scores, pictures = (np.full((len(paths), len(prompts)), np.nan) for _ in range(2))
    texts: dict[tuple[int, int], list[dict[str, Any]]] = {}
    options = SearchOptions(k=len(paths), candidates=max(1, engine.info().segments))
    for column, prompt in enumerate(prompts):
        for hit in engine.search_with(prompt, options):
            for row in (rows[path] for path in (hit.path, *hit.copies) if path in rows):
                scores[row, column], pictures[row, column] = hit.score, hit.why.get("picture", np.nan)
                texts[row, column] = list_texts(hit)
    return PromptScores(_fill_lowest(scores), _fill_lowest(pictures), texts)


def _fill_lowest(scores: Float64[np.ndarray, "video prompt"]) -> Float64[np.ndarray, "video prompt"]:
    """Return scores in which those that are missing are the lowest of their column, or 0 in an empty one."""
    lowest = np.where(np.isnan(scores), np.inf, scores).min(axis=0)
    return np.where(np.isnan(scores), np.where(np.isfinite(lowest), lowest, 0.0), scores)


def list_texts(hit: Hit) -> list[dict[str, Any]]:
    """Return the texts that match, best first, with their source and start in seconds."""
    matching = [evidence for evidence in hit.evidence if evidence.text]
    return [
        {"source": evidence.source, "start": evidence.start, "text": evidence.text} for evidence in matching[:MAX_TEXTS]
    ]
