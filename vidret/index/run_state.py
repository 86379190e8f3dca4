"""The state of an indexing run: its jobs, their results, and the report.

Runs on threads (``index.run``) and on Ray (``index.ray``) differ only in their ``Stages``.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from vidret.channels.texts.run import WordsRun, open_words, prune_words
from vidret.errors import ChangedError, DecodeError, DecoderFailedError, UnreachableError, VidretError
from vidret.index.copying import change_sentence_model
from vidret.index.options import FileJob, IndexOptions, IndexReport, Progress, Workload
from vidret.index.tracks import TracksRun, open_tracks
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.records import FileRecord, FileState, NewSegment
from vidret.store.store import Store
from vidret.text import is_below
from vidret.types import NO_TIME
from vidret.video.files import count_disk_bytes, find_missing, has_changed, is_same_disk, read_mtime_ns, stat_files
from vidret.video.workers.messages import OpenedVideo

logger = logging.getLogger(__name__)
END_INTERVAL_S = 0.01
POLL_INTERVAL_S = 0.1
_SHORTEST_S = 1e-3


@contextmanager
def open_run(store: Store, options: IndexOptions) -> "Iterator[RunState]":
    """Begin a run on an open store, with the readers of words, faces and voices."""
    if options.words is not None and options.words.sentence_model:
        change_sentence_model(store.path, options.words.sentence_model)
    with (
        open_words(store, options.words, retry_failed=options.retry_failed) as words,
        open_tracks(store, options.tracks) as tracks,
    ):
        yield RunState(store, retry_failed=options.retry_failed, words=words, tracks=tracks)


class RunState:
    """The jobs of a run, their results, and requests to stop it. Threads may share it."""

    def __init__(
        self, store: Store, *, retry_failed: bool, words: WordsRun | None = None, tracks: TracksRun | None = None
    ) -> None:
        """Start a run on an open store; ``words`` and ``tracks`` are read besides the pictures."""
        self.store, self.retry_failed, self.words, self.tracks = store, retry_failed, words, tracks
        self.jobs: list[FileJob] = []
        self.interrupted = False
        self.workers = ""
        self.stop = threading.Event()
        self.started = time.monotonic()
        self._broken: BaseException | None = None
        self._lock, self._storing = threading.Lock(), threading.Lock()
        self._waiting: list[NewSegment] = []
        self._unwritable: BaseException | None = None
        self.storing_s = 0.0
        self._counts: dict[str, int] = defaultdict(int)
        self._newly_missing: set[str] = set()
        self._found = set[str]()  # paths without a file, or with another content, at the last run
        self._may_be_touched = dict[str, int | None]()  # the former contents of files with another size or time
        self._failed: list[tuple[str, str]] = []
        self._undecoded: list[tuple[FileJob, DecodeError]] = []
        self._salvaged: list[tuple[str, str]] = []
        self._work = Workload()
        self._segments_per_second: dict[str, float] = defaultdict(float)
        self._seconds = 0.0

    # Plan

    def plan(self, files: Sequence[str]) -> None:
        """Set ``jobs`` to the new and changed files, largest first, so that workers finish together."""
        records = {record.path: record for record in self.store.files.find()}
        listed = set(files)
        self._mark_missing([record for path, record in records.items() if path not in listed])
        unchanged = list[FileJob]()
        for path, result in stat_files(files):
            record = records.get(path)
            if isinstance(result, UnreachableError) and record is not None:
                self._failed.append((path, result.reason))  # its record stays unchanged until the next run
                continue
            if isinstance(result, DecodeError):
                self.fail(path, result)
                continue
            job = FileJob(path, result.st_size, read_mtime_ns(result), count_disk_bytes(result))
            if record is None or (record.num_bytes, record.mtime_ns) != (job.num_bytes, job.mtime_ns):
                if record is not None and record.state in ("done", "pending"):  # pending: from an interrupted run
                    self._may_be_touched[path] = record.video
                self._add_job(job)
            else:
                self._plan_unchanged(job, record)
                unchanged.append(job)
        if self.words or self.tracks:
            self._plan_words(unchanged)
        self.jobs.sort(key=lambda job: -job.disk_bytes)

    def prepare(self, files: Sequence[str], check: Callable[[], None] | None) -> bool:
        """Plan a run and check that it can be carried out; return whether there is anything to do."""
        self.plan(files)
        if check is not None and not all(job.is_stored for job in self.jobs):
            check()
        if self.jobs and self.words is not None:
            self.words.check_models()
        return bool(self.jobs)

    def _plan_unchanged(self, job: FileJob, record: FileRecord) -> None:
        if self._restore(record):
            self._counts["unchanged"] += 1
        elif record.state == "failed" and not self.retry_failed:
            self._failed.append((job.path, record.reason))
        else:
            self._add_job(job)

    def _restore(self, record: FileRecord) -> bool:
        """Return whether the video of an unchanged file is complete; mark the file as done if it was missing."""
        if record.state not in ("done", "missing") or record.video is None:
            return False
        is_complete = self.store.videos.get(record.video).complete
        if record.state == "missing" and is_complete:
            self._found.add(record.path)
            self.store.writer.set_file(record.path, state="done")
        return is_complete

    def _plan_words(self, unchanged: Iterable[FileJob]) -> None:
        """Add a job for each unchanged file with words, faces or voices still to be read."""
        fingerprints, paths = self.store.videos.fingerprints(), defaultdict[int, list[str]](list)
        complete = {video.id for video in self.store.videos.find() if video.complete}
        for record in self.store.files.find(state="done"):
            if record.video is not None and record.video in complete:
                paths[record.video].append(record.path)
        jobs = {job.path: job for job in unchanged}
        for video, copies in paths.items():
            listed = [jobs[path] for path in copies if path in jobs]
            if listed and self.is_more_wanted(fingerprints[video], copies):
                for job in listed:
                    self._add_job(replace(job, is_stored=True))

    def is_more_wanted(self, fingerprint: str, paths: Iterable[str]) -> bool:
        """Return whether words, faces or voices of a content with these paths are still to be read."""
        if self.tracks is not None and self.tracks.list_wanted(fingerprint):
            return True
        return self.words is not None and self.words.are_wanted(fingerprint, paths)

    def _add_job(self, job: FileJob) -> None:
        self.jobs.append(job)
        self._work.add(job.path, job.disk_bytes)
        if not job.is_stored:
            self.store.writer.set_file(job.path, state="pending")

    def _mark_missing(self, others: Sequence[FileRecord]) -> None:
        """Mark the files that no longer exist, and those that exist again."""
        missing = find_missing(record.path for record in others)
        lost = {record.path: record for record in others if record.state == "missing" and record.path not in missing}
        for path, result in stat_files(list(lost)):
            record = lost[path]
            if not isinstance(result, DecodeError) and not has_changed(result, record.num_bytes, record.mtime_ns):
                self._restore(record)
        for record in others:
            if record.path in missing and record.state != "missing":
                self._newly_missing.add(record.path)
                # If a file comes back, its size identifies it only if it was done; otherwise it may hold another video.
                num_bytes = None if record.state == "done" else -1
                self.store.writer.set_file(record.path, state="missing", reason="the file is gone", num_bytes=num_bytes)

    def _sort_missing(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]:
        """Return the moved files with their new paths, the deleted ones with paths of copies, and the missing ones."""
        missing = list(self.store.files.find(state="missing"))
        done = self.store.files.find(state="done") if missing else ()
        places = {record.video: record.path for record in sorted(done, key=lambda record: record.path in self._found)}
        # The contents with a path at the last run.
        known = {record.video for record in done if record.path not in self._found}
        known |= {record.video for record in missing if record.path in self._newly_missing}
        new = sorted(
            (record.path, places[record.video])
            for record in missing
            if record.video in places and (record.path in self._newly_missing or record.video not in known)
        )
        moved = [pair for pair in new if pair[1] in self._found]
        copies = [pair for pair in new if pair[1] not in self._found]
        return moved, copies, sorted(record.path for record in missing if record.video not in places)

    # Record

    def begin(self, job: FileJob, fingerprint: str, opened: OpenedVideo) -> int:
        """Begin or continue a video in the store, and return its id; ``job`` is the file being decoded."""
        facts = {**opened.facts, "decoder": opened.decoder}
        video_id = self.store.writer.begin_video(
            fingerprint, duration=opened.duration, facts=facts, num_segments=len(opened.cuts) or None
        )
        self.store.writer.set_file(job.path, state="running", video=video_id)
        num_expected, shown_s = opened.num_expected, max(opened.duration - opened.start, _SHORTEST_S)
        if opened.cuts:
            share_stored = len(self.store.segments.stored_indices(video_id)) / len(opened.cuts)
        else:
            _, end_s = self.store.segments.resume_point(video_id)
            share_stored = 0.0 if end_s is None else min(1.0, (end_s - opened.start) / shown_s)
        num_remaining = num_expected * (1 - share_stored)
        num_remaining += 0 if self.words is None else self.words.weigh(num_expected)
        with self._lock:
            self._work.open(job.path, num_expected, num_remaining)
            self._segments_per_second[job.path] = num_expected / shown_s
        return video_id

    def add(self, job: FileJob, segment: NewSegment) -> None:
        """Store a segment of a file, in one transaction with other waiting segments.

        Raise VidretError if the index cannot be written; no later call succeeds then.
        """
        with self._lock:
            self._waiting.append(segment)
        with self._storing:  # the first thread stores all waiting segments
            since = time.monotonic()
            with self._lock:
                waiting, self._waiting = self._waiting, []
            if self._unwritable is not None:  # the failed write may have had this segment
                raise self._unwritable
            try:
                if waiting:
                    self.store.writer.add_segments(waiting)
            except BaseException as error:
                self._unwritable = error
                raise
            self.storing_s += time.monotonic() - since
        with self._lock:
            self._counts["segments"] += 1
            self._seconds += segment.end - segment.start
            self._work.advance(job.path, (segment.end - segment.start) * self._segments_per_second[job.path])

    def link(self, job: FileJob, video_id: int, *, encoded: bool) -> None:
        """Mark a file as done: its video was ``encoded`` from it in this run, or stored before."""
        self.store.writer.set_file(
            job.path, state="done", reason="", video=video_id, num_bytes=job.num_bytes, mtime_ns=job.mtime_ns
        )
        salvaged = self.store.videos.get(video_id).salvaged
        is_touched = not encoded and self._may_be_touched.get(job.path) == video_id
        with self._lock:
            self._counts["encoded" if encoded else "touched" if is_touched else "linked"] += 1
            if not is_touched:
                self._found.add(job.path)
            self._work.finish(job.path)
            if salvaged:
                self._salvaged.append((job.path, salvaged))

    def end_words(self, job: FileJob, error: DecodeError | None = None) -> None:
        """Count a file of which only words were read, or report why they could not be read; its pictures stay."""
        with self._lock:
            self._work.finish(job.path)
            self._counts["words" if error is None else "failed"] += 1
            if error is not None:
                what = "words" if self.tracks is None else "words, faces or voices"
                self._failed.append((job.path, f"its {what} could not be read: {error.reason}"))

    def fail(self, path: str, error: DecodeError, job: FileJob | None = None) -> None:
        """Mark a file as failed, with its size and time, so that it is retried only after a change.

        A file without a job, at an unreachable URL, without permission to read it, or changed during this run is always
        retried.
        """
        if job is not None:
            with self._lock:
                self._counts["failed"] += 1
                self._work.finish(path)
        if isinstance(error, DecoderFailedError) and job is not None:
            with self._lock:
                self._undecoded.append((job, error))  # ``close`` decides whether the file is the cause
            return
        num_bytes, mtime_ns = -1, NO_TIME
        if job is not None and not isinstance(error, ChangedError) and not isinstance(error.__cause__, OSError):
            num_bytes, mtime_ns = job.num_bytes, job.mtime_ns
        state: FileState = "pending" if isinstance(error, UnreachableError) else "failed"
        self.store.writer.set_file(path, state=state, reason=error.reason, num_bytes=num_bytes, mtime_ns=mtime_ns)
        with self._lock:
            self._failed.append((path, error.reason))

    # End

    def end(self, error: BaseException) -> None:
        """Stop the run because of an error that no file causes, such as a full disk; ``watch`` raises it."""
        self._broken = self._broken or error
        self.stop.set()

    def watch(self, threads: Sequence[threading.Thread], on_progress: Callable[[Progress], None] | None) -> None:
        """Run threads to their end and report progress; an interrupt sets ``stop``, and a second one is raised.

        Progress is reported before the first thread starts, so that a short run is reported, too. Raise the error
        passed to ``end``, if there is one.
        """
        report, waiting = on_progress or (lambda _progress: None), list(threads)
        try:
            while waiting or are_running(threads):
                try:
                    if waiting:
                        report(self._progress())
                    while waiting:
                        waiting.pop().start()
                    if joinable := [thread for thread in threads if thread.is_alive()]:
                        joinable[0].join(POLL_INTERVAL_S)
                    else:
                        time.sleep(END_INTERVAL_S)
                    report(self._progress())
                except KeyboardInterrupt:
                    if self.interrupted:
                        raise
                    self.interrupted = True
                    self.stop.set()
                    logger.warning("interrupted: finishing the segments in progress; interrupt again to stop at once")
        finally:
            self.stop.set()
        if self._broken is not None:
            raise self._broken

    def _settle_undecoded(self) -> None:
        """Mark the files on which the decoder itself failed."""
        undecoded, self._undecoded = self._undecoded, []
        reasons = {error.reason.replace(job.path, "") for job, error in undecoded}
        if len(undecoded) > 1 and len(reasons) == 1 and not (self._counts["encoded"] or self._counts["segments"]):
            failure = f"none of {len(undecoded)} files could be decoded: {undecoded[0][1].reason}"
            raise VidretError(f"{failure}; the installation of the decoder seems broken")
        for job, error in undecoded:
            self.fail(job.path, DecodeError(job.path, error.reason), job)

    def close(self, *, prune_below: Sequence[str] | None = None) -> IndexReport:
        """Save the vectors for search, and return the report of the run.

        Missing files that were never read are removed from the index, and with ``prune_below``, all missing files below
        these folders. Raise VidretError if the decoder failed on every file, or the index cannot be written.
        """
        self._settle_undecoded()
        self.store.upkeep.forget_files(
            record.path for record in self.store.files.find(state="missing") if record.video is None
        )
        moved, deleted_copies, gone = self._sort_missing()
        self.store.upkeep.forget_files(old for old, new in moved if is_same_disk(old, new))
        pruned, unpruned = None, list[str]()
        if prune_below is not None and not self.interrupted:
            missing = [record.path for record in self.store.files.find(state="missing")]
            unpruned = [path for path in missing if not any(is_below(path, folder) for folder in prune_below)]
            pruned = self.store.upkeep.prune(set(missing).difference(unpruned))
            prune_words(self.store, self.words)
            IdentityStore.prune_index(self.store.path, self.store.videos.fingerprints().values())
        Persons(self.store.path).group()
        self.store.upkeep.save_vectors()
        return IndexReport(
            encoded=self._counts["encoded"],
            linked=self._counts["linked"],
            unchanged=self._counts["unchanged"] + self._counts["touched"],
            moved=moved,
            deleted_copies=deleted_copies,
            missing=len(gone),
            gone=gone,
            failed=sorted(self._failed),
            salvaged=sorted(self._salvaged),
            num_segments=self._counts["segments"],
            seconds=self._seconds,
            elapsed=time.monotonic() - self.started,
            interrupted=self.interrupted,
            pruned=pruned,
            unpruned=unpruned,
            texts={} if self.words is None else self.words.counts(),
            tracks={} if self.tracks is None else self.tracks.counts,
            workers=self.workers,
        )

    def _progress(self) -> Progress:
        with self._lock:
            return Progress(
                num_files=len(self.jobs),
                done=sum(self._counts[how] for how in ("encoded", "linked", "touched", "words")),
                failed=self._counts["failed"],
                num_segments=self._counts["segments"],
                seconds=self._seconds,
                share=self._work.share(),
                elapsed=time.monotonic() - self.started,
                interrupted=self.interrupted,
                file=self._work.file,
            )


def are_running(threads: Iterable[threading.Thread]) -> bool:
    """Return whether any of the threads is still running.

    Python 3.11 reports a running thread as dead if an interrupt has ended a call of its ``join``.
    """
    return not set(threads).isdisjoint(threading.enumerate())
