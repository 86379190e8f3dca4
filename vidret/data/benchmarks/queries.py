"""Reader of custom queries over all videos of a folder, by kind, some of which no video answers."""

from pathlib import Path

from vidret.data.benchmarks.files import read_jsonl
from vidret.data.benchmarks.rows import AnnotationRow
from vidret.data.records import CorpusQuery, Split, Times
from vidret.errors import VidretError


def read_queries(name: str, path: Path) -> Split:
    """Read queries: one JSON object per line with ``query``, ``kind``, ``file`` and ``relevant_windows``.

    ``file`` is null if no video shows what is asked for; ``relevant_windows``, in seconds, is then empty, null or left
    out. An optional ``qid`` is the id of the query; it defaults to the number of the query, from 1.
    """
    locations: dict[str, str] = {}
    queries = []
    for index, row in enumerate(read_jsonl(path), start=1):
        query_id = row.check_unique("qid", row.name("qid") if "qid" in row.values else str(index), locations)
        video_id = None if row.value("file") is None else row.text("file")
        text, kind = row.text("query"), row.text("kind")
        queries.append(CorpusQuery(query_id, video_id, text, kind, _read_windows(row, has_video=video_id is not None)))
    if not queries:
        raise VidretError(f"{path}: must contain at least one query, got none")
    videos = tuple(dict.fromkeys(query.video for query in queries if query.video is not None))
    return Split(name, (str(path),), videos, corpus_queries=tuple(queries))


def _read_windows(row: AnnotationRow, *, has_video: bool) -> tuple[Times, ...]:
    windows = [] if row.values.get("relevant_windows") is None else row.items("relevant_windows")
    if has_video and not windows:
        raise row.error("relevant_windows must contain at least one window of the file, got none")
    if windows and not has_video:
        raise row.error(f"relevant_windows must be empty where file is null, got {len(windows)}")
    return tuple(row.check_span(f"relevant_windows[{index}]", window) for index, window in enumerate(windows))
