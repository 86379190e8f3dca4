"""The form of QVHighlights, one query a line, which many have taken over; and TVSum and YouTube Highlights in it."""

from collections.abc import Iterator
from pathlib import Path

from vidret.data.benchmarks.files import read_jsonl
from vidret.data.benchmarks.rows import AnnotationRow
from vidret.data.records import LabelledQuery, Split, Times
from vidret.errors import VidretError

ROUNDING = 0.02  # seconds by which a time may pass the end of its video: the two are often rounded apart


def read_labelled(name: str, path: Path, *, notes: tuple[str, ...] = ()) -> Split:
    """Read queries and their windows; one's own moments have this form too.

    A row has ``qid``, ``query``, ``vid`` and ``duration``, and where they are given ``relevant_windows`` in seconds,
    ``relevant_clip_ids`` of clips of 2 s with their ``saliency_scores``, and ``kind``, which becomes the domain.
    """
    return as_split(name, (path,), [_read_query(row) for row in _read_rows(path)], notes)


def _read_query(row: AnnotationRow) -> LabelledQuery:
    given = row.values.get
    windows = [] if given("relevant_windows") is None else row.items("relevant_windows")
    clips: tuple[int, ...] = ()
    saliency: tuple[tuple[float, ...], ...] = ()
    duration = read_duration(row)
    if given("relevant_clip_ids") is not None:
        clips = _read_clips(row, duration)
        saliency = row.check_marks("saliency_scores", row.take("saliency_scores"), len(clips))
    return LabelledQuery(
        id=row.name("qid"),
        video=row.name("vid"),
        text=row.text("query"),
        duration=duration,
        spans=tuple(row.check_times(f"relevant_windows[{number}]", window) for number, window in enumerate(windows)),
        clips=clips,
        saliency=saliency,
        domain=row.text("kind") if "kind" in row.values else "",
    )


def _read_clips(row: AnnotationRow, duration: float, seconds: float = 2.0) -> tuple[int, ...]:
    clips = row.items("relevant_clip_ids")
    for clip in clips:
        if type(clip) is not int or not 0 <= clip * seconds < duration:
            raise row.refuse(f"relevant_clip_ids must number clips of {seconds:g} s in {duration:g} s, got {clip!r}")
    if len(set(clips)) != len(clips):
        raise row.refuse("relevant_clip_ids must name each clip once")
    return tuple(clips)


def read_tvsum(name: str, path: Path) -> Split:
    """Read TVSum: the title of a video is its query, and 20 people marked each clip of 2 s from 1 to 5.

    The file's ``duration`` counts these clips, not seconds; the last part of a clip is not in it.
    """
    queries = []
    for row in _read_rows(path):
        num_clips = len(row.items("label"))
        if row.number("duration") != num_clips:
            raise row.refuse(f"duration must count the {num_clips} clips of label, got {row.number('duration'):g}")
        queries.append(_read_marked(row, num_clips * 2.0))
    return as_split(name, (path,), queries)


def read_youtube(name: str, path: Path) -> Split:
    """Read YouTube Highlights: a domain is the query, and each clip is a highlight (1) or not (0).

    Clips have about 100 frames and begin about every 50: ``clip`` holds the first frame and the end of each.
    """
    queries = []
    for row in _read_rows(path):
        rate = row.number("fps")
        if rate <= 0:
            raise row.refuse(f"fps must be above 0, got {rate:g}")
        frames = [row.check_times(f"clip[{number}]", pair) for number, pair in enumerate(row.items("clip"))]
        if len(frames) != len(row.items("label")):
            raise row.refuse(f"clip and label must be as many, got {len(frames)} and {len(row.items('label'))}")
        spans = tuple((first / rate, end / rate) for first, end in frames)
        queries.append(_read_marked(row, read_duration(row), spans))
    return as_split(name, (path,), queries)


def _read_marked(row: AnnotationRow, duration: float, clip_spans: tuple[Times, ...] = ()) -> LabelledQuery:
    marks = row.check_marks("label", row.take("label"), len(row.items("label")))
    if not marks:
        raise row.refuse("label must hold a clip, got none")
    return LabelledQuery(
        id=row.name("qid"),
        video=row.name("vid"),
        text=row.text("query"),
        duration=duration,
        clips=tuple(range(len(marks))),
        saliency=marks,
        clip_spans=clip_spans,
        domain=row.text("domain"),
    )


def _read_rows(path: Path) -> Iterator[AnnotationRow]:
    seen: dict[str, str] = {}
    for row in read_jsonl(path):
        row.once("qid", row.name("qid"), seen)
        yield row


def read_duration(row: AnnotationRow) -> float:
    """Give the length of a video, which must be above 0."""
    duration = row.number("duration")
    if duration <= 0:
        raise row.refuse(f"duration must be above 0, got {duration:g}")
    return duration


def as_split(name: str, files: tuple[Path, ...], queries: list[LabelledQuery], notes: tuple[str, ...] = ()) -> Split:
    """Make a split of queries; windows that end after their video are told in a note and stay as they are."""
    if not queries:
        raise VidretError(f"{files[0]}: must hold a query, got none")
    beyond = sum(
        end > query.duration + ROUNDING for query in queries if query.duration is not None for _, end in query.spans
    )
    if beyond:
        notes += (f"windows that end after their video, kept as they are: {beyond}",)
    videos = tuple(dict.fromkeys(query.video for query in queries))
    return Split(name, tuple(map(str, files)), videos, queries=tuple(queries), notes=notes)
