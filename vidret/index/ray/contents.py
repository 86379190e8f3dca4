"""Group fingerprinted files by content, and plan what to read of each: copies and stored contents once."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from vidret.index.ray.rows import ContentTask, Fingerprinted, WordsTask
from vidret.index.run_state import RunState


def plan_contents(run_state: RunState, fingerprinted: Iterable[Fingerprinted]) -> list[ContentTask]:
    """Return the contents to read; link the files whose content is stored, and fail those that cannot be read."""
    jobs = run_state.jobs
    by_fingerprint: defaultdict[str, list[int]] = defaultdict(list)
    stamps: dict[int, tuple[int, ...]] = {}
    for row in fingerprinted:
        if row.identity is not None:
            by_fingerprint[row.identity.fingerprint].append(row.job_index)
            stamps[row.job_index] = row.identity.stamp
        elif row.error is not None and jobs[row.job_index].is_stored:
            run_state.end_words(jobs[row.job_index], row.error)
        elif row.error is not None:
            run_state.fail(jobs[row.job_index].path, row.error, jobs[row.job_index])
    contents: list[ContentTask] = []
    video_ids = run_state.store.videos.contents()
    for fingerprint, indices in sorted(by_fingerprint.items(), key=lambda item: min(item[1])):
        indices.sort()
        stored_id = run_state.store.videos.find_complete(fingerprint)
        words = _plan_words(run_state, fingerprint if stored_id is None else stored_id, indices)
        if stored_id is not None:
            _link_stored(run_state, stored_id, indices, wants_words=words is not None)
            if words is None:
                continue
        content = ContentTask(
            content_index=len(contents),
            fingerprint=fingerprint,
            files=tuple((index, jobs[index].path) for index in indices),
            stamps=tuple(stamps[index] for index in indices),
            has_pictures=stored_id is not None,
            words=words,
        )
        contents.append(_resume(run_state, content, video_ids.get(fingerprint)))
    return contents


def _plan_words(run_state: RunState, content: str | int, indices: Sequence[int]) -> WordsTask | None:
    """Return which words to read of files, given their fingerprint, or the id of their video if it is stored."""
    words, store = run_state.words, run_state.store
    if words is None:
        return None
    paths = {run_state.jobs[index].path for index in indices}
    if isinstance(content, int):
        paths.update(store.files.paths_of([content])[content])
        content = store.videos.get(content).fingerprint
    request = words.plan(content, sorted(paths))
    return WordsTask(content, tuple(sorted(paths)), request) if request else None


def _link_stored(run_state: RunState, video_id: int, indices: Sequence[int], *, wants_words: bool) -> None:
    """Link files whose pictures are stored, and count those of which nothing else is wanted."""
    for index in indices:
        job = run_state.jobs[index]
        if not job.is_stored:
            run_state.link(job, video_id, encoded=False)
        elif not wants_words:
            run_state.end_words(job)


def _resume(run_state: RunState, content: ContentTask, video_id: int | None) -> ContentTask:
    """Return a task without the segments that are stored."""
    if video_id is None or content.has_pictures:
        return content
    store = run_state.store
    num_stored, end_s = store.segments.resume_point(video_id)
    return replace(
        content,
        stored=frozenset(store.segments.stored_indices(video_id)),
        num_segments=store.videos.get(video_id).num_segments,
        start=None if end_s is None else (num_stored, end_s),
    )
