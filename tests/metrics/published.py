"""Matrices of scores, and what published evaluators printed for them."""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.goldens import HERE

Metrics = dict[str, Any]
TIED = ("constant4", "zeros6", "anti3", "two_way_tie_diag", "tie_at_rank5_boundary")
PRINTED = 0.05 + 1e-9  # one decimal is printed
SINGLE = 1e-4  # computed in float32 there


class Golden:
    """A folder of published results, the embeddings that they were computed from, and the scores with ties."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: Metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        self.distinct, _ = self.read("n1000_embeddings_int16.npz")
        self.ties = np.round(self.distinct * 8) / 8
        self.small = {name: (np.array(case["sim"]), case["metrics"]) for name, case in self.metrics["small"].items()}
        self.tied = [(self.ties, self.metrics["n1000_ties"]["metrics"]), *(self.small[name] for name in TIED)]

    @cached_property
    def corrected(self) -> tuple[Any, Any]:
        """The cosines that were corrected, and those of the bank."""
        pairs, bank = np.load(self.folder / "n1000_embeddings_int16.npz"), np.load(self.folder / "qb_bank_int16.npz")
        text, video, bank = (
            rows / np.linalg.norm(rows, axis=1, keepdims=True)
            for rows in (vectors.astype(np.float64) for vectors in (pairs["text"], pairs["video"], bank["bank"]))
        )
        return text @ video.T, bank @ video.T

    def read(self, name: str) -> tuple[Any, Any]:
        """Return exact scores and the video of each text."""
        stored = np.load(self.folder / name)
        scores = stored["text"].astype(np.int64) @ stored["video"].astype(np.int64).T / 2**22
        counts = stored["captions_per_video"] if "captions_per_video" in stored else np.ones(scores.shape[1], int)
        return scores, np.repeat(np.arange(scores.shape[1]), counts)


def draw_scores(texts: int, videos: int, seed: int = 0, steps: float = 0.0) -> Any:
    """Return random scores; if rounded to multiples of 1 / steps, with ties."""
    scores = np.random.default_rng(seed).standard_normal((texts, videos))
    return np.round(scores * steps) / steps if steps else scores


def find_goldens() -> list[Path]:
    folders = [HERE / "eval" / "retrieval"]
    if elsewhere := os.environ.get("VIDRET_GOLDENS"):
        folders.append(Path(elsewhere) / "eval" / "retrieval")
    return folders


def check_published(found: Metrics, expected: Metrics, tolerance: float = 1e-6, lower_median: bool = False) -> None:
    """Check that every published number equals ours, whatever its name in that evaluator."""
    ours = {name.replace("@", ""): value for name, value in found.items()}
    ours |= {"MeanR": found["MnR"], "geometric_mean_R1-R5-R10": found["geometric_mean"]}
    ours |= dict.fromkeys(("MR", "MedR", "MedianR"), found["MdR_lower" if lower_median else "MdR"])
    checked = 0
    for name, value in expected.items():
        name = name.removesuffix("-t2v").removesuffix("-v2t")
        if name == "Std_Rank":  # not reported in papers
            continue
        assert ours[name] == pytest.approx(value, abs=tolerance), name
        checked += 1
    assert checked >= 6
