"""Moment benchmarks with a form of their own: Charades-STA, ActivityNet Captions, TACoS, Ego4D-NLQ."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from vidret.data.benchmarks.files import read_csv, read_lines, read_named, read_object
from vidret.data.benchmarks.qvhighlights import ROUNDING, as_split
from vidret.data.benchmarks.rows import AnnotationRow
from vidret.data.records import LabelledQuery, Split, Times
from vidret.data.videos import video_stem
from vidret.errors import VidretError

CHARADES = re.compile(r"(?P<video>\S+) (?P<start>\d+(\.\d+)?) (?P<end>\d+(\.\d+)?)##(?P<text>.*)")


def read_charades(name: str, path: Path, lengths: Path | None = None) -> Split:
    """Read Charades-STA from its original text files: ``video start end##sentence``.

    A window that ends before it starts is turned round: four in training do, and both times are plausible. Windows are
    never cut at the video's end, as some later versions of the ground truth are; lengths come from Charades_v1_*.csv.
    """
    counts: Counter[str] = Counter()
    known = None if lengths is None else _read_lengths(lengths)
    queries, turned = [], 0
    for place, line in read_lines(path):
        match = CHARADES.fullmatch(line.rstrip())
        if match is None:
            raise VidretError(f"{place}: must be `video start end##sentence`, got {line[:60]!r}")
        row = AnnotationRow(place, {"text": match["text"]})
        times = [float(match["start"]), float(match["end"])]
        turned += times[0] > times[1]
        video = match["video"]
        if known is not None and video not in known:
            raise row.refuse(f"{video} must be one of the videos in {lengths}")
        queries.append(
            LabelledQuery(
                id=f"{video}_{counts[video]}",
                video=video,
                text=row.text("text"),
                duration=None if known is None else known[video],
                spans=(row.check_times("the window", sorted(times)),),
            )
        )
        counts[video] += 1
    notes: tuple[str, ...] = () if known is not None else ("the lengths of the videos are not known from these files",)
    if turned:
        notes += (f"windows that ended before they started, turned round: {turned}",)
    return as_split(name, (path,) if lengths is None else (path, lengths), queries, notes)


def _read_lengths(path: Path) -> dict[str, float]:
    lengths = {}
    for row in read_csv(path, ("id", "length")):
        try:
            lengths[row.name("id")] = row.check_number("length", float(row.text("length")))
        except ValueError as error:
            raise row.refuse(f"length must be a number, got {row.text('length')}") from error
    return lengths


def read_timed(name: str, path: Path) -> Split:
    """Read ActivityNet Captions or TACoS: a JSON object of videos with ``timestamps`` and ``sentences``.

    Times are seconds, with the ``duration`` (ActivityNet), or frames, with ``fps`` and ``num_frames`` (TACoS, as 2D-TAN
    publishes it). As in 2D-TAN's protocol, windows are cut at the ends of the video, and a sentence whose window then
    does not end after it starts is left out. Both are counted in notes.
    """
    queries, num_cut, num_empty = [], 0, 0
    for full_name, row in read_named(path):
        video = video_stem(full_name)
        rate = row.number("fps") if "fps" in row.values else 1.0
        if rate <= 0:
            raise row.refuse(f"fps must be above 0, got {rate:g}")
        duration = row.number("num_frames") / rate if "fps" in row.values else row.number("duration")
        if duration <= 0:
            raise row.refuse(f"duration must be above 0, got {duration:g}")
        windows, texts = row.items("timestamps"), row.texts("sentences")
        if len(windows) != len(texts):
            raise row.refuse(f"timestamps and sentences must be as many, got {len(windows)} and {len(texts)}")
        for number, (window, text) in enumerate(zip(windows, texts, strict=True)):
            start, end = _read_window(row, f"timestamps[{number}]", window, rate)
            span = (max(start, 0.0), min(end, duration))
            if span[0] >= span[1]:
                num_empty += 1
                continue
            num_cut += max(-start, end - duration) > 0.005  # less is how the two were rounded
            queries.append(LabelledQuery(f"{video}_{number}", video, text, duration, (span,)))
    notes = []
    if num_cut:
        notes.append(f"windows that passed their video, cut at its ends: {num_cut}")
    if num_empty:
        notes.append(f"sentences left out, since their window does not end after it starts: {num_empty}")
    return as_split(name, (path,), queries, tuple(notes))


def _read_window(row: AnnotationRow, name: str, window: object, rate: float) -> Times:
    """Give the start and the end of a window that may pass its video, be empty or reversed."""
    if not isinstance(window, list) or len(window) != 2:
        raise row.refuse(f"{name} must be a start and an end, got {window!r}")
    start, end = (row.check_number(name, time) / rate for time in window)
    return start, end


def read_ego4d(name: str, path: Path) -> Split:
    """Read Ego4D natural language queries: videos hold clips, which hold annotations, which hold queries.

    A clip (``clip_uid``, about 8 minutes) is what is searched, and times count from its start. A query is named by its
    clip, its annotation and its number there, as the challenge does. Queries without a text are left out, as the
    challenge's own reader does; windows of no length, which no prediction can hit, stay and count as misses, as they
    do in its evaluation. The test file has no windows. The form is known from the challenge's public code; a licence
    keeps the files from being at hand.
    """
    queries = []
    num_silent = num_empty = 0
    for own, uid, duration, row in _walk_ego4d(read_object(path)):
        if not row.values.get("query"):
            num_silent += 1
            continue
        spans = _read_ego4d_window(row)
        num_empty += any(start == end for start, end in spans)
        queries.append(LabelledQuery(own, uid, row.text("query"), duration, spans))
    notes = []
    if num_silent:
        notes.append(f"queries left out, since they have no text: {num_silent}")
    if num_empty:
        notes.append(f"queries whose window has no length, so that nothing can hit them: {num_empty}")
    return as_split(name, (path,), queries, tuple(notes))


def _walk_ego4d(root: AnnotationRow) -> Iterator[tuple[str, str, float, AnnotationRow]]:
    """Give each query with its name, its clip's name and its clip's length."""
    clips: dict[str, str] = {}
    names: dict[str, str] = {}
    for video in root.rows("videos"):
        for clip in video.rows("clips"):
            uid = clip.once("clip_uid", clip.name("clip_uid"), clips)
            duration = clip.number("video_end_sec") - clip.number("video_start_sec")
            if duration <= 0:
                raise clip.refuse(f"video_end_sec must be above video_start_sec, got a length of {duration:g} s")
            for annotation in clip.rows("annotations"):
                own = annotation.once("annotation_uid", f"{uid}_{annotation.name('annotation_uid')}", names)
                for number, row in enumerate(annotation.rows("language_queries")):
                    yield f"{own}_{number}", uid, duration, row


def _read_ego4d_window(row: AnnotationRow) -> tuple[Times, ...]:
    given = [row.values.get(name) for name in ("clip_start_sec", "clip_end_sec")]
    if given == [None, None]:
        return ()
    start, end = row.number("clip_start_sec"), row.number("clip_end_sec")
    if -ROUNDING < start < 0:
        start = 0.0
    return (row.check_times("the window", [start, end], may_be_empty=True),)
