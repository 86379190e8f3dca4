"""A benchmark's videos into an index: found by name, encoded where that was not done yet, the rest counted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidret.data.records import Split
from vidret.data.videos import find_videos
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.report import Gallery
from vidret.index.progress import Progress


def index_gallery(
    engine: Engine,
    split: Split,
    folder: Path,
    *,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Gallery, float]:
    """Bring a benchmark's videos into an engine's index; what is there already is not encoded again.

    Returns:
        Which videos take part, and the seconds it took.

    Raises:
        VidretError: No video is there, or the run was interrupted: the same command goes on from there.
    """
    started = time.monotonic()
    files, missing = find_videos(split.videos, folder)
    if not files:
        raise VidretError(f"{folder}: must hold the videos of {split.name}, got none of {len(split.videos)}")
    report = engine.index(sorted(map(str, files.values())), workers=workers, on_progress=on_progress)
    if report.interrupted:
        raise VidretError("interrupted while encoding: the same command goes on from there")
    reasons = dict(report.failed)
    failed = {name: reasons[str(path.absolute())] for name, path in files.items() if str(path.absolute()) in reasons}
    return Gallery(files, missing, failed), time.monotonic() - started


def describe_model(engine: Engine) -> Mapping[str, Any]:
    """Give the model's card for a report."""
    encoder, info = engine.encoder, engine.info()
    card, sampling = getattr(encoder, "card", None), encoder.sampling
    return {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "method": getattr(card, "method", encoder.name),
        "card": asdict(card) if card is not None else None,
        "num_frames": sampling.num_frames,
        "fps": sampling.fps,
        "segments": "one a video" if sampling.whole else f"of {sampling.num_frames / sampling.fps:g} s",
        "index_made_for": engine.ranker.name,
        "num_segments": info.searchable,
        "num_with_tokens": info.with_tokens,
        "head": str(engine.grounder.path) if engine.grounder is not None else None,
    }
