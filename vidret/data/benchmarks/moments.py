"""Readers of moment and highlight benchmarks: QVHighlights and its format, other formats, and custom queries."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from vidret.data.benchmarks.files import (
    AnnotationRow,
    note_counts,
    read_csv,
    read_jsonl,
    read_lines,
    read_named_objects,
    read_object,
    read_objects,
    short_repr,
)
from vidret.data.records import (
    CLIP_SECONDS,
    CorpusQuery,
    LabelledQuery,
    RatedMoment,
    RatedQuery,
    Split,
    Times,
    video_stem,
)
from vidret.errors import VidretError

ROUNDING_S = 0.02  # tolerance for windows that end after their video: the two are often rounded separately
CHARADES_LINE = re.compile(r"(?P<video>\S+) (?P<start>\d+(\.\d+)?) (?P<end>\d+(\.\d+)?)##(?P<text>.*)")


def make_query_split(
    name: str, files: Sequence[Path], queries: Sequence[LabelledQuery], notes: Sequence[str] = ()
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
    notes = (*notes, *note_counts({"windows that end after their video, kept unchanged": num_beyond}))
    videos = tuple(dict.fromkeys(query.video for query in queries))
    return Split(name, tuple(map(str, files)), videos, queries=tuple(queries), notes=notes)


def read_labelled(name: str, path: Path, *, notes: Sequence[str] = ()) -> Split:
    """Read queries with windows, in the format of QVHighlights and of custom moments.

    A row has ``qid``, ``query``, ``vid`` and ``duration``. Optional are ``relevant_windows`` in seconds,
    ``relevant_clip_ids`` of 2 s clips with their ``saliency_scores``, and ``kind``, which becomes the domain. A note is
    added if no row has labels.
    """
    queries = [_read_query(row) for row in _read_rows(path)]
    if not any(query.spans or query.saliency for query in queries):
        notes = (*notes, "this file has no labels, as those of test splits that withhold them: nothing can be scored")
    return make_query_split(name, (path,), queries, notes)


def _read_query(row: AnnotationRow) -> LabelledQuery:
    clips: tuple[int, ...] = ()
    saliency: tuple[tuple[float, ...], ...] = ()
    duration_s = row.positive("duration")
    if row.values.get("relevant_clip_ids") is not None:
        clips = _read_clips(row, duration_s)
        saliency = row.check_saliency("saliency_scores", row.value("saliency_scores"), len(clips))
    return LabelledQuery(
        id=row.name("qid"),
        video=row.name("vid"),
        text=row.text("query"),
        duration=duration_s,
        spans=_read_windows(row),
        clips=clips,
        saliency=saliency,
        domain=row.text("kind") if "kind" in row.values else "",
    )


def _read_clips(row: AnnotationRow, duration_s: float) -> tuple[int, ...]:
    clips = row.items("relevant_clip_ids")
    for clip in clips:
        if type(clip) is not int or not 0 <= clip < duration_s / CLIP_SECONDS:
            raise row.error(f"relevant_clip_ids must index 2 s clips of {duration_s:g} s, got {clip!r}")
    if len(set(clips)) != len(clips):
        raise row.error(f"relevant_clip_ids must be unique, got {short_repr(clips)}")
    return tuple(clips)


def _read_rows(path: Path) -> Iterator[AnnotationRow]:
    locations: dict[str, str] = {}
    for row in read_jsonl(path):
        row.check_unique("qid", row.name("qid"), locations)
        yield row


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
        queries.append(_read_clip_labels(row, num_clips * CLIP_SECONDS))
    return make_query_split(name, (path,), queries)


def read_youtube(name: str, path: Path) -> Split:
    """Read YouTube Highlights: the query is a domain, and each clip is labelled as a highlight (1) or not (0).

    Clips have about 100 frames and overlap by half. ``clip`` holds the first frame and the end frame of each.
    """
    queries = []
    for row in _read_rows(path):
        fps = row.positive("fps")
        frames = [row.check_span(f"clip[{index}]", pair) for index, pair in enumerate(row.items("clip"))]
        if len(frames) != len(row.items("label")):
            raise row.error(f"clip and label must have equal length, got {len(frames)} and {len(row.items('label'))}")
        spans = tuple((first / fps, end / fps) for first, end in frames)
        queries.append(_read_clip_labels(row, row.positive("duration"), spans))
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


def read_charades(name: str, path: Path, durations_path: Path | None = None) -> Split:
    """Read Charades-STA from its original text files: ``video start end##sentence``.

    If a window ends before it starts, the two times are swapped: four training windows do, and both of their times are
    plausible. Unlike in some later versions of the ground truth, windows are never clipped to the video. Durations come
    from Charades_v1_*.csv.
    """
    num_rows: Counter[str] = Counter()
    durations = None if durations_path is None else _read_durations(durations_path)
    queries, num_swapped = [], 0
    for location, line in read_lines(path):
        match = CHARADES_LINE.fullmatch(line.rstrip())
        if match is None:
            raise VidretError(f"{location}: must be `video start end##sentence`, got {line[:60]!r}")
        row = AnnotationRow(location, {"text": match["text"]})
        times = [float(match["start"]), float(match["end"])]
        num_swapped += times[0] > times[1]
        video_id = match["video"]
        if durations is not None and video_id not in durations:
            raise row.error(f"{video_id} must be one of the videos in {durations_path}")
        queries.append(
            LabelledQuery(
                id=f"{video_id}_{num_rows[video_id]}",
                video=video_id,
                text=row.text("text"),
                duration=None if durations is None else durations[video_id],
                spans=(row.check_span("window", sorted(times)),),
            )
        )
        num_rows[video_id] += 1
    notes = [] if durations is not None else ["these files do not give the durations of the videos"]
    notes += note_counts({"windows that ended before they started, start and end swapped": num_swapped})
    return make_query_split(name, (path,) if durations_path is None else (path, durations_path), queries, notes)


def _read_durations(path: Path) -> dict[str, float]:
    durations = {}
    for row in read_csv(path, ("id", "length")):
        try:
            durations[row.name("id")] = row.check_number("length", float(row.text("length")))
        except ValueError as error:
            raise row.error(f"length must be a number, got {row.text('length')}") from error
    return durations


def read_timed(name: str, path: Path) -> Split:
    """Read ActivityNet Captions or TACoS: a JSON object of videos with ``timestamps`` and ``sentences``.

    Timestamps are in seconds, with a ``duration`` (ActivityNet), or in frames, with ``fps`` and ``num_frames`` (TACoS,
    as published by 2D-TAN). As in 2D-TAN's protocol, windows are clipped to the video, and a sentence whose clipped
    window is empty or reversed is omitted. Notes count both.
    """
    queries, num_clipped, num_omitted = [], 0, 0
    for file_name, row in read_named_objects(path):
        video_id = video_stem(file_name)
        fps = row.positive("fps") if "fps" in row.values else 1.0
        duration_s = row.positive("num_frames") / fps if "fps" in row.values else row.positive("duration")
        windows, texts = row.items("timestamps"), row.texts("sentences")
        if len(windows) != len(texts):
            raise row.error(f"timestamps and sentences must have equal length, got {len(windows)} and {len(texts)}")
        for index, (window, text) in enumerate(zip(windows, texts, strict=True)):
            start_s, end_s = _read_window(row, f"timestamps[{index}]", window, fps)
            span = (max(start_s, 0.0), min(end_s, duration_s))
            if span[0] >= span[1]:
                num_omitted += 1
                continue
            num_clipped += max(-start_s, end_s - duration_s) > 0.005  # a smaller excess is due to rounding
            queries.append(LabelledQuery(f"{video_id}_{index}", video_id, text, duration_s, (span,)))
    counts = {
        "windows that extended past their video, clipped to it": num_clipped,
        "sentences omitted because their window is empty or reversed": num_omitted,
    }
    return make_query_split(name, (path,), queries, note_counts(counts))


def _read_window(row: AnnotationRow, name: str, window: object, fps: float) -> Times:
    """Return the start and end of a window in seconds. It may extend past its video, be empty or reversed."""
    if not isinstance(window, list) or len(window) != 2:
        raise row.error(f"{name} must be [start, end], got {window!r}")
    start_s, end_s = (row.check_number(name, time) / fps for time in window)
    return start_s, end_s


def read_ego4d(name: str, path: Path) -> Split:
    """Read Ego4D natural language queries: videos contain clips, clips annotations, and annotations queries.

    A clip (``clip_uid``, about 8 minutes) is the video of its queries, and times count from its start. A query's id has
    its clip, its annotation and its index there, as in the challenge. Queries without text are omitted, as in the
    challenge's reader. Zero-length windows, which no prediction can match, stay and count as misses, as in its
    evaluation. The test file has no windows. The format follows the challenge's public code; it has not been checked
    against the files.
    """
    queries = []
    num_without_text = num_empty = 0
    for query_id, clip_id, duration_s, row in _walk_ego4d(read_object(path)):
        if not row.values.get("query"):
            num_without_text += 1
            continue
        spans = _read_ego4d_window(row)
        num_empty += any(start == end for start, end in spans)
        queries.append(LabelledQuery(query_id, clip_id, row.text("query"), duration_s, spans))
    counts = {
        "queries omitted because they have no text": num_without_text,
        "queries with a zero-length window, which no prediction can match": num_empty,
    }
    return make_query_split(name, (path,), queries, note_counts(counts))


def _walk_ego4d(root: AnnotationRow) -> Iterator[tuple[str, str, float, AnnotationRow]]:
    """Yield the id, the clip id, the clip duration in seconds and the row of each query."""
    clip_locations: dict[str, str] = {}
    annotation_locations: dict[str, str] = {}
    for video in root.rows("videos"):
        for clip in video.rows("clips"):
            clip_id = clip.check_unique("clip_uid", clip.name("clip_uid"), clip_locations)
            duration_s = clip.number("video_end_sec") - clip.number("video_start_sec")
            if duration_s <= 0:
                raise clip.error(f"video_end_sec must be above video_start_sec, got a difference of {duration_s:g} s")
            for annotation in clip.rows("annotations"):
                annotation_id = f"{clip_id}_{annotation.name('annotation_uid')}"
                annotation.check_unique("annotation_uid", annotation_id, annotation_locations)
                for index, row in enumerate(annotation.rows("language_queries")):
                    yield f"{annotation_id}_{index}", clip_id, duration_s, row


def _read_ego4d_window(row: AnnotationRow) -> tuple[Times, ...]:
    if row.values.get("clip_start_sec") is None and row.values.get("clip_end_sec") is None:
        return ()
    start_s, end_s = row.number("clip_start_sec"), row.number("clip_end_sec")
    if -ROUNDING_S < start_s < 0:
        start_s = 0.0
    return (row.check_span("window", [start_s, end_s], may_be_empty=True),)


def read_rated(name: str, path: Path, corpus_path: Path | None = None) -> Split:
    """Read TVR-Ranking: each query has moments of several videos, rated from 0 to 4.

    The gallery is that of ``video_corpus.json``, an object with a key for each video; without it, the rated videos.
    """
    locations: dict[str, str] = {}
    queries = []
    for row in read_objects(path):
        moments = []
        for moment in row.rows("relevant_moment"):
            start, end = moment.check_span("timestamp", moment.value("timestamp"))
            moments.append(RatedMoment(moment.name("video_name"), start, end, moment.number("relevance")))
        query_id = row.check_unique("query_id", row.name("query_id"), locations)
        queries.append(RatedQuery(query_id, row.text("query"), tuple(moments)))
    if not any(moment.relevance > 0 for query in queries for moment in query.moments):
        raise VidretError(f"{path}: must contain at least one relevant moment, got none")
    rated = [moment.video for query in queries for moment in query.moments]
    corpus = [] if corpus_path is None else list(read_object(corpus_path).values)
    notes = () if corpus else ("only videos with rated moments are searched",)
    files = (str(path), *([] if corpus_path is None else [str(corpus_path)]))
    return Split(name, files, tuple(dict.fromkeys(corpus + rated)), notes=notes, rated_queries=tuple(queries))


def read_queries(name: str, path: Path) -> Split:
    """Read queries: one JSON object per line with ``query``, ``file`` and ``relevant_windows``.

    ``file`` is null if no video matches; ``relevant_windows``, in seconds, is then empty, null or left out. An optional
    ``qid`` is the id of the query; it defaults to the number of the query, from 1. An optional ``kind`` groups queries;
    it defaults to "absent" without a file, else to "other".
    """
    locations: dict[str, str] = {}
    queries = []
    for index, row in enumerate(read_jsonl(path), start=1):
        query_id = row.check_unique("qid", row.name("qid") if "qid" in row.values else str(index), locations)
        video_id = None if row.value("file") is None else row.text("file")
        windows = _read_windows(row)
        if video_id is not None and not windows:
            raise row.error("relevant_windows must contain at least one window of the file, got none")
        if video_id is None and windows:
            raise row.error(f"relevant_windows must be empty where file is null, got {len(windows)}")
        kind = row.text("kind") if "kind" in row.values else "absent" if video_id is None else "other"
        queries.append(CorpusQuery(query_id, video_id, row.text("query"), kind, windows))
    if not queries:
        raise VidretError(f"{path}: must contain at least one query, got none")
    videos = tuple(dict.fromkeys(query.video for query in queries if query.video is not None))
    return Split(name, (str(path),), videos, corpus_queries=tuple(queries))


def _read_windows(row: AnnotationRow) -> tuple[Times, ...]:
    windows = [] if row.values.get("relevant_windows") is None else row.items("relevant_windows")
    return tuple(row.check_span(f"relevant_windows[{index}]", window) for index, window in enumerate(windows))
