"""Readers of the QVHighlights format, one query per line, and of TVSum and YouTube Highlights in that format."""

from collections.abc import Iterator
from pathlib import Path

from vidret.data.benchmarks.files import AnnotationRow, read_jsonl, short_repr
from vidret.data.records import LabelledQuery, Split, Times
from vidret.errors import VidretError

ROUNDING_S = 0.02  # a window may end this much after its video: the two are often rounded separately


def read_labelled(name: str, path: Path, *, notes: tuple[str, ...] = ()) -> Split:
    """Read queries with windows, in the format of QVHighlights and of custom moments.

    A row has ``qid``, ``query``, ``vid`` and ``duration``. Optional are ``relevant_windows`` in seconds,
    ``relevant_clip_ids`` of 2 s clips with their ``saliency_scores``, and ``kind``, which becomes the domain.
    """
    return make_query_split(name, (path,), [_read_query(row) for row in _read_rows(path)], notes)


def _read_query(row: AnnotationRow) -> LabelledQuery:
    windows = [] if row.values.get("relevant_windows") is None else row.items("relevant_windows")
    clips: tuple[int, ...] = ()
    saliency: tuple[tuple[float, ...], ...] = ()
    duration_s = read_duration(row)
    if row.values.get("relevant_clip_ids") is not None:
        clips = _read_clips(row, duration_s)
        saliency = row.check_saliency("saliency_scores", row.value("saliency_scores"), len(clips))
    return LabelledQuery(
        id=row.name("qid"),
        video=row.name("vid"),
        text=row.text("query"),
        duration=duration_s,
        spans=tuple(row.check_span(f"relevant_windows[{index}]", window) for index, window in enumerate(windows)),
        clips=clips,
        saliency=saliency,
        domain=row.text("kind") if "kind" in row.values else "",
    )


def _read_clips(row: AnnotationRow, duration_s: float, clip_s: float = 2.0) -> tuple[int, ...]:
    clips = row.items("relevant_clip_ids")
    for clip in clips:
        if type(clip) is not int or not 0 <= clip * clip_s < duration_s:
            raise row.error(f"relevant_clip_ids must index {clip_s:g} s clips of {duration_s:g} s, got {clip!r}")
    if len(set(clips)) != len(clips):
        raise row.error(f"relevant_clip_ids must be unique, got {short_repr(clips)}")
    return tuple(clips)


def read_tvsum(name: str, path: Path) -> Split:
    """Read TVSum: the query is the video's title, and 20 annotators scored each 2 s clip from 1 to 5.

    ``duration`` in the file is the number of clips, not seconds. A last, shorter clip is not included.
    """
    queries = []
    for row in _read_rows(path):
        num_clips = len(row.items("label"))
        if row.number("duration") != num_clips:
            raise row.error(
                f"duration must be the number of clips in label, {num_clips}, got {row.number('duration'):g}"
            )
        queries.append(_read_clip_labels(row, num_clips * 2.0))
    return make_query_split(name, (path,), queries)


def read_youtube(name: str, path: Path) -> Split:
    """Read YouTube Highlights: the query is a domain, and each clip is labelled as a highlight (1) or not (0).

    Clips have about 100 frames and overlap by half. ``clip`` holds the first frame and the end frame of each.
    """
    queries = []
    for row in _read_rows(path):
        fps = row.number("fps")
        if fps <= 0:
            raise row.error(f"fps must be positive, got {fps:g}")
        frames = [row.check_span(f"clip[{index}]", pair) for index, pair in enumerate(row.items("clip"))]
        if len(frames) != len(row.items("label")):
            raise row.error(f"clip and label must have equal length, got {len(frames)} and {len(row.items('label'))}")
        spans = tuple((first / fps, end / fps) for first, end in frames)
        queries.append(_read_clip_labels(row, read_duration(row), spans))
    return make_query_split(name, (path,), queries)


def _read_clip_labels(row: AnnotationRow, duration_s: float, clip_spans: tuple[Times, ...] = ()) -> LabelledQuery:
    saliency = row.check_saliency("label", row.value("label"), len(row.items("label")))
    if not saliency:
        raise row.error("label must contain at least one clip, got none")
    return LabelledQuery(
        id=row.name("qid"),
        video=row.name("vid"),
        text=row.text("query"),
        duration=duration_s,
        clips=tuple(range(len(saliency))),
        saliency=saliency,
        clip_spans=clip_spans,
        domain=row.text("domain"),
    )


def _read_rows(path: Path) -> Iterator[AnnotationRow]:
    locations: dict[str, str] = {}
    for row in read_jsonl(path):
        row.check_unique("qid", row.name("qid"), locations)
        yield row


def read_duration(row: AnnotationRow) -> float:
    """Return the duration of a video in seconds."""
    duration_s = row.number("duration")
    if duration_s <= 0:
        raise row.error(f"duration must be positive, got {duration_s:g}")
    return duration_s


def make_query_split(
    name: str, files: tuple[Path, ...], queries: list[LabelledQuery], notes: tuple[str, ...] = ()
) -> Split:
    """Return a split of queries. Windows that end after their video are kept unchanged and counted in a note.

    Raises:
        VidretError: There is no query.
    """
    if not queries:
        raise VidretError(f"{files[0]}: must contain at least one query, got none")
    num_beyond = sum(
        end > query.duration + ROUNDING_S for query in queries if query.duration is not None for _, end in query.spans
    )
    if num_beyond:
        notes += (f"windows that end after their video, kept unchanged: {num_beyond}",)
    videos = tuple(dict.fromkeys(query.video for query in queries))
    return Split(name, tuple(map(str, files)), videos, queries=tuple(queries), notes=notes)
