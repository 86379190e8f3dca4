"""Indexing of a benchmark's videos, and the description of a model for reports."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidret.channels.texts.options import WordsOptions
from vidret.data.records import Split, find_videos
from vidret.encode.clip.model import measure_cost
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.report import Gallery
from vidret.index.options import Progress
from vidret.store.records import FOLLOW_SHOTS, StoreInfo
from vidret.types import Sampling
from vidret.video.scan import scan


def index_gallery(
    engine: Engine,
    split: Split,
    folder: Path,
    *,
    workers: int | None = None,
    words: bool | WordsOptions | None = False,
    shots: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Gallery, float]:
    """Index the videos of a split, except those that are indexed already.

    Args:
        engine: The engine whose index receives the videos.
        split: The split of the benchmark.
        folder: Folder of the videos.
        workers: Number of decoding processes.
        words: Words to read besides the pictures; see ``Engine.index``.
        shots: Whether segments follow shots; see ``Engine.index``.
        on_progress: Called with the progress of indexing.

    Returns:
        The available videos, and the seconds that it took.

    Raises:
        VidretError: There is no video, or the run was interrupted; running it again resumes it.
    """
    started = time.monotonic()
    files, missing = find_videos(split.videos, folder)
    if not files:
        raise VidretError(f"{folder}: must contain the videos of {split.name}, got none of {len(split.videos)}")
    reasons = _index(engine, sorted(map(str, files.values())), workers, words, on_progress, shots)
    paths = {video_id: str(path.absolute()) for video_id, path in files.items()}
    failed = {video_id: reasons[path] for video_id, path in paths.items() if path in reasons}
    return Gallery(files, missing, failed), time.monotonic() - started


def index_bank(
    engine: Engine,
    folder: Path,
    *,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[list[Path], Mapping[str, str]]:
    """Index all videos of a folder as a bank for video to text; return those that can be read, and why others cannot.

    Raises:
        VidretError: The folder does not exist, or the run was interrupted; running it again resumes it.
    """
    files = scan([str(folder.absolute())])
    reasons = _index(engine, files, workers, False, on_progress)
    return [Path(file) for file in files if file not in reasons], reasons


def _index(
    engine: Engine,
    files: Sequence[str],
    workers: int | None,
    words: bool | WordsOptions | None,
    on_progress: Callable[[Progress], None] | None,
    shots: bool | None = None,
) -> Mapping[str, str]:
    """Index files; return why some failed."""
    report = engine.index(files, workers=workers, words=words, shots=shots, on_progress=on_progress)
    if report.interrupted:
        raise VidretError("interrupted while encoding; run the same command again to resume")
    return dict(report.failed)


def describe_model(engine: Engine) -> Mapping[str, Any]:
    """Return the description of an engine's model and index for a report."""
    encoder, info = engine.encoder, engine.info()
    card, sampling = getattr(encoder, "card", None), encoder.sampling
    return {
        "name": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "method": getattr(card, "method", encoder.name),
        "card": asdict(card) if card is not None else None,
        "cost": asdict(measure_cost(card)) if card is not None else None,
        "num_frames": sampling.num_frames,
        "fps": sampling.fps,
        "segments": _describe_cuts(sampling, info),
        "index_made_for": engine.ranker.name,
        "num_segments": info.searchable,
        "num_with_tokens": info.with_tokens,
        "head": str(engine.grounder.path) if engine.grounder is not None else None,
    }


def _describe_cuts(sampling: Sampling, info: StoreInfo) -> str:
    """Return how an index cuts videos into segments, as words that follow "segments"."""
    if sampling.whole:
        return "one per video"
    if info.segment_rule == FOLLOW_SHOTS:
        return "following shots"
    return f"of {sampling.num_frames / sampling.fps:g} s"
