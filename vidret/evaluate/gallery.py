"""The common steps of evaluations: indexing the videos, progress, and the report with a description of the model."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from vidret.channels.texts.options import WordsOptions
from vidret.data.benchmarks.splits import list_some
from vidret.data.records import Split, find_videos, video_stem
from vidret.encode.clip.model import measure_cost
from vidret.encode.names import PAIR, parse_model_name
from vidret.engine import Engine
from vidret.errors import DecodeError, VidretError
from vidret.evaluate.report import Gallery, Report
from vidret.index.options import Progress
from vidret.model_files import TrainedOn
from vidret.store.records import FOLLOW_SHOTS, StoreInfo
from vidret.store.store import Store
from vidret.text import absolute_path
from vidret.types import Sampling
from vidret.video.files import has_changed, stat_files

Item = TypeVar("Item")
LENGTH_TOLERANCE = 0.1  # annotated durations are often rounded


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A running evaluation: its engine, split and videos, and the time of its start.

    Attributes:
        engine: An engine whose index contains the videos.
        split: The split of the benchmark.
        gallery: The videos that are available. The report omits rows of other videos, and lists these videos.
        on_progress: Called with the number of finished queries and the total.
    """

    engine: Engine
    split: Split
    gallery: Gallery
    on_progress: Callable[[int, int], None] | None = None
    started: float = field(default_factory=time.monotonic)

    def track(self, items: Sequence[Item]) -> Iterator[Item]:
        """Yield items, and report each as finished when the next one is requested."""
        for num_done, item in enumerate(items, start=1):
            yield item
            if self.on_progress is not None:
                self.on_progress(num_done, len(items))

    def find_contents(self) -> dict[str, int]:
        """Return the ids in the index of the available videos, by their ids in the gallery.

        Raises:
            VidretError: A video is not in the index.
        """
        contents = {}
        for video_id, path in self.gallery.files.items():
            if video_id not in self.gallery.failed:
                record = self.engine.file(str(path.absolute()))
                if record is None or record.video is None:
                    raise VidretError(f"{path}: must be in the index {self.engine.path}, but is not")
                contents[video_id] = record.video
        return contents

    def report(
        self,
        task: str,
        *,
        settings: Mapping[str, Any],
        results: Mapping[str, Any],
        per_query: Sequence[Mapping[str, Any]],
        doing: str = "scoring",
    ) -> Report:
        """Return the report, with the time that ``doing`` took."""
        trained_on = note_trained_on(self.engine, self.split)
        return Report(
            task=task,
            split=replace(self.split, notes=(*self.split.notes, *self._note_lengths(), *trained_on)),
            gallery=self.gallery,
            model=describe_model(self.engine),
            settings=settings,
            results=results,
            per_query=per_query,
            seconds={doing: time.monotonic() - self.started},
        )

    def _note_lengths(self) -> Iterator[str]:
        """Yield a note on videos whose duration is not the annotated one, so that their true spans are displaced."""
        annotated = {query.video: query.duration for query in self.split.queries if query.duration}
        durations = {
            video_id: self.engine.video(path.absolute()).duration
            for video_id, path in self.gallery.files.items()
            if video_id in annotated and video_id not in self.gallery.failed
        }
        if differing := [
            name for name, long in durations.items() if abs(long / annotated[name] - 1) > LENGTH_TOLERANCE
        ]:
            yield f"videos more than a tenth longer or shorter than annotated: {list_some(differing)}"


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
    """Index the videos of a split in a folder; return the available ones and the duration in seconds.

    Videos that are indexed already are not indexed again. For the options see ``Engine.index``.

    Raises:
        VidretError: There is no video, or the run was interrupted; running it again resumes it.
    """
    started = time.monotonic()
    files, missing = find_videos(split.videos, folder)
    if not files:
        raise VidretError(f"{folder}: must contain the videos of {split.name}, got none of {len(split.videos)}")
    paths = sorted(map(str, files.values()))
    reasons = index_readable(engine, paths, workers=workers, words=words, shots=shots, on_progress=on_progress)
    absolute = {video_id: str(path.absolute()) for video_id, path in files.items()}
    failed = {video_id: reasons[path] for video_id, path in absolute.items() if path in reasons}
    return Gallery(files, missing, failed), time.monotonic() - started


def index_readable(
    engine: Engine,
    files: Sequence[str],
    *,
    workers: int | None = None,
    words: bool | WordsOptions | None = False,
    shots: bool | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Mapping[str, str]:
    """Index files; return the reasons for unreadable ones by path. For the options see ``Engine.index``.

    An index that has all of them is only read, so that it may be on a read-only disk.

    Raises:
        VidretError: The run was interrupted; running it again resumes it.
    """
    if words is False and (failed := find_failed(engine, files)) is not None:
        return failed
    report = engine.index(files, workers=workers, words=words, shots=shots, on_progress=on_progress)
    if report.interrupted:
        raise VidretError("interrupted while encoding; run the same command again to resume")
    return dict(report.failed)


def find_failed(engine: Engine, files: Sequence[str]) -> Mapping[str, str] | None:
    """Return the reasons for unreadable files by path; None if a file changed since it was indexed, or never was."""
    if not Store.exists(engine.path):
        return None
    complete = {video.id for video in engine.videos() if video.complete}
    failed = {}
    for path, found in stat_files([absolute_path(file) for file in files]):
        record = engine.file(path)
        if isinstance(found, DecodeError) or record is None:
            return None
        if has_changed(found, record.num_bytes, record.mtime_ns):
            return None
        if record.state == "failed":
            failed[path] = record.reason
        elif record.state != "done" or record.video not in complete:
            return None
    return failed


def note_trained_on(engine: Engine, split: Split) -> Iterator[str]:
    """Yield a note for each model file of the engine that names videos of the split as training data."""
    models = parse_model_name(engine.encoder.name).base.split(PAIR)
    files = [Path(parse_model_name(model).base) for model in models]
    files += [engine.grounder.path] if engine.grounder is not None else []
    for path in dict.fromkeys(files):
        trained_on = TrainedOn.read(path) if path.is_file() else None
        if trained_on is not None and (seen := trained_on.find(map(video_stem, split.videos))):
            yield f"{path.name} was trained on {trained_on.split}, with videos of these names: {list_some(seen)}"


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
    """Return how an index cuts videos into segments, as text to put after "segments"."""
    if sampling.whole:
        return "one per video"
    if info.segment_rule == FOLLOW_SHOTS:
        return "following shots"
    return f"of {sampling.num_frames / sampling.fps:g} s"
