"""Records of annotations, the scoring rules of a benchmark, and matching of the named videos with files."""

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from vidret.errors import VidretError
from vidret.store.records import StoredVideo
from vidret.text import file_name
from vidret.video.scan import VIDEO_SUFFIXES, scan

# Length ranges of true spans in seconds: exclusive minimum, inclusive maximum.
Lengths = Mapping[str, tuple[float, float]]
QVHIGHLIGHTS_LENGTHS: Lengths = {"short": (0, 10), "middle": (10, 30), "long": (30, 150)}
OPEN_LENGTHS: Lengths = {"short": (0, 10), "middle": (10, 30), "long": (30, math.inf)}

File = TypeVar("File")
SaliencyMetric = Literal["levels", "top-5", "all-clips"]


@dataclass(frozen=True, slots=True)
class Scoring:
    """The scoring rules of a benchmark.

    Attributes:
        lengths: Length ranges of true spans that are reported separately.
        saliency: Metric of saliency: mAP and HIT@1 by rating level (QVHighlights), mAP of the five best clips
            (TVSum), or mAP of all clips (YouTube Highlights). ``vidret.metrics.highlight`` implements them.
    """

    lengths: Lengths = field(default_factory=lambda: OPEN_LENGTHS, hash=False)
    saliency: SaliencyMetric = "levels"


DEFAULT_SCORING = Scoring()
CLIP_SECONDS = 2.0  # of QVHighlights and its format
Times = tuple[float, float]  # start and end


@dataclass(frozen=True, slots=True)
class Caption:
    """A text that describes a video, or the part of it from ``start`` to ``end``.

    Attributes:
        id: The benchmark's id of the row, unique in its split. Where the benchmark has none, the video id and the
            row's index among the rows of that video, from 0: ``video7020_0``.
        video: The benchmark's id of the video.
        text: The caption.
        start: Start of the described part in seconds; None for the start of the video.
        end: End of the described part in seconds; None for the end of the video.
        domain: Kind of video, to group results by; used by custom captions.
        source: Id of the video that the text modifies, with ``video`` as the target; empty for a description.
    """

    id: str
    video: str
    text: str
    start: float | None = None
    end: float | None = None
    domain: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """A query for a moment of one video, with its ground truth.

    Attributes:
        id: As in ``Caption``.
        video: As in ``Caption``.
        text: The query.
        duration: Duration of the video in seconds; None if the annotations do not give it.
        spans: Ground-truth (start, end) spans; empty if labels are per clip only, or withheld.
        clips: Indices of the labelled clips. Clip n lasts from n to n + 1 times ``CLIP_SECONDS``, unless ``clip_spans``
            is set.
        saliency: One tuple per labelled clip, with one score per annotator.
        clip_spans: The (start, end) of each of ``clips``, for clips of unequal duration.
        domain: Topic, for benchmarks that average over topics.
    """

    id: str
    video: str
    text: str
    duration: float | None
    spans: tuple[Times, ...] = ()
    clips: tuple[int, ...] = ()
    saliency: tuple[tuple[float, ...], ...] = ()
    clip_spans: tuple[Times, ...] = ()
    domain: str = ""

    @property
    def clip_times(self) -> tuple[Times, ...]:
        """Return the (start, end) of each of ``clips``."""
        return self.clip_spans or tuple((clip * CLIP_SECONDS, (clip + 1) * CLIP_SECONDS) for clip in self.clips)

    def count_from(self, start_s: float) -> "LabelledQuery":
        """Return the query with times relative to ``start_s``, such as that of the first frame of its video."""
        spans, clip_spans = (
            tuple((start - start_s, end - start_s) for start, end in times) for times in (self.spans, self.clip_times)
        )
        return replace(self, spans=spans, clip_spans=clip_spans)


@dataclass(frozen=True, slots=True)
class CorpusQuery:
    """A query over all videos, with its ground truth.

    Attributes:
        id: Id of the query, unique in its split.
        video: Id of the only video that matches; None if no video does.
        text: The query.
        kind: Kind of query, to group results by.
        spans: Ground-truth (start, end) spans in the video; empty without one.
    """

    id: str
    video: str | None
    text: str
    kind: str
    spans: tuple[Times, ...] = ()


@dataclass(frozen=True, slots=True)
class RatedMoment:
    """A span of a video, in seconds, and its relevance to a query, from 0 for irrelevant."""

    video: str
    start: float
    end: float
    relevance: float


@dataclass(frozen=True, slots=True)
class RatedQuery:
    """A query over all videos, and the moments rated for it."""

    id: str
    text: str
    moments: tuple[RatedMoment, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a benchmark.

    Attributes:
        name: Benchmark and split: ``msvd-test``.
        files: Paths of the files it was read from.
        videos: Ids of the gallery's videos, in the benchmark's order. A video may have no row.
        captions: Rows of a retrieval benchmark.
        queries: Rows of a moment or highlight benchmark.
        corpus_queries: Queries over all videos.
        rated_queries: Queries over all videos, with rated moments.
        notes: Facts that every report must repeat, such as rows that were corrected or omitted, and why.
        scoring: The benchmark's scoring rules for predicted spans and saliency.
    """

    name: str
    files: tuple[str, ...]
    videos: tuple[str, ...]
    captions: tuple[Caption, ...] = ()
    queries: tuple[LabelledQuery, ...] = ()
    notes: tuple[str, ...] = ()
    scoring: Scoring = DEFAULT_SCORING
    corpus_queries: tuple[CorpusQuery, ...] = ()
    rated_queries: tuple[RatedQuery, ...] = ()


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """A video file, or its frames from ``start`` to before ``end``, in seconds."""

    path: str
    start: float = 0.0
    end: float = math.inf

    def __str__(self) -> str:
        """Return the path, followed by the times unless the span is the whole file."""
        return self.path if (self.start, self.end) == (0.0, math.inf) else f"{self.path} {self.start:g}..{self.end:g} s"


def video_stem(name: str) -> str:
    """Return a name without its video suffix. Other dots stay, since some benchmarks put times into names.

    >>> video_stem("s30-d41.avi"), video_stem("NUsG9BgSes0_210.0_360.0"), video_stem("7585070382_5762149bfc.")
    ('s30-d41', 'NUsG9BgSes0_210.0_360.0', '7585070382_5762149bfc')
    """
    head, dot, suffix = name.rpartition(".")
    return head if dot and (not suffix or f".{suffix.lower()}" in VIDEO_SUFFIXES) else name


def match_names(names: Iterable[str], files: Iterable[tuple[str, File]]) -> dict[str, list[File]]:
    """Return the matching files of each name, given files by path: by path, else by file name, else by stem."""
    by_path, by_name, by_stem = defaultdict(list), defaultdict(list), defaultdict(list)
    for path, file in files:
        by_path[path].append(file)
        by_name[file_name(path)].append(file)
        by_stem[video_stem(file_name(path))].append(file)
    return {name: by_path.get(name) or by_name.get(name) or by_stem.get(video_stem(name)) or [] for name in names}


def match_stored(names: Iterable[str], videos: Iterable[StoredVideo]) -> dict[str, int]:
    """Return the ids of the indexed videos that annotations name, by these names; folders are ignored.

    Raises:
        VidretError: A name matches several videos.
    """
    bare = {name: file_name(name) for name in names}
    matches = match_names(bare.values(), ((path, video.id) for video in videos for path in video.paths))
    matching_ids = {name: set(matches[bare_name]) for name, bare_name in bare.items()}
    for name, ids in matching_ids.items():
        if len(ids) > 1:
            raise VidretError(f"{name} must match one video of the index, got {len(ids)}")
    return {name: ids.pop() for name, ids in matching_ids.items() if ids}


def find_videos(videos: Sequence[str], folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """Return the file of each video, matched by path below the folder, else by file name, else by stem.

    Subfolders are searched. Matching is case-sensitive, since many benchmarks name videos by case-sensitive keys.

    Args:
        videos: Names from the annotations, with or without a suffix. The file's suffix may differ.
        folder: Folder that holds the videos.

    Returns:
        The path of each video that exists, and the names that match no file, both in the given order.

    Raises:
        VidretError: The folder does not exist, several files match one name, or one file matches two names.
    """
    if not Path(folder).is_dir():
        raise VidretError(f"{folder}: no such folder of videos")
    files = {Path(os.path.relpath(path, folder)).as_posix(): Path(path) for path in scan([str(folder)])}
    paths: dict[str, Path] = {}
    missing: list[str] = []
    name_of_path: dict[Path, str] = {}
    for name, matches in match_names(videos, files.items()).items():
        if len(matches) > 1:
            shown = ", ".join(map(str, matches[:3]))
            raise VidretError(f"{name} must match one file, got {shown} ({len(matches)} in all)")
        if not matches:
            missing.append(name)
            continue
        path = matches[0]
        if path in name_of_path:
            raise VidretError(f"{path} must match one name, got {name_of_path[path]} and {name}")
        name_of_path[path] = name
        paths[name] = path
    return paths, missing
