"""What an indexing run does whoever does the work: which files need it, its two stages, what is stored, and the report.

A run on threads (``indexing``) and a run on Ray (``scale``) differ in where the stages run and in nothing else: both
decode and encode by the functions here, and both keep this book, which is the only one that writes to the store.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidret.errors import ChangedError, DecodeError, DecoderFailedError, UnreachableError, VidretError
from vidret.index.progress import IndexReport, Progress, Workload
from vidret.store.records import FileRecord, FileState, NewSegment
from vidret.store.store import Store
from vidret.types import NO_TIME, Frames, Resize, Sampling, SegmentEmbedding
from vidret.video.decode import Decoder
from vidret.video.files import count_disk_bytes, find_missing, stat_files
from vidret.video.identity import legacy_fingerprint
from vidret.video.pool import DecodePool, OpenedVideo
from vidret.video.scan import lies_below

if TYPE_CHECKING:  # a process that only decodes shall not wait for torch
    from vidret.encode.encoder import Encoder

SEGMENTS_AT_ONCE = 32  # through an encoder on an accelerator; on a core each alone, which is as fast
POLL = 0.1  # seconds between looks at the progress

Pack = Callable[[SegmentEmbedding], bytes]


@dataclass(frozen=True, slots=True)
class FileJob:
    """A file to look into, and what the file system says of it."""

    path: str
    num_bytes: int
    mtime_ns: int
    disk_bytes: int = 0


def open_decoders(
    num_workers: int, resize: Resize, sampling: Sampling, *, decoder: Decoder, device: str, timeout: float
) -> DecodePool:
    """Prepare the first stage: processes that decode what an encoder looks at."""
    return DecodePool(
        num_workers,
        decoder=decoder,
        device=device,
        resize=resize,
        num_frames=sampling.num_frames,
        fps=sampling.fps,
        whole=sampling.whole,
        timeout=timeout,
    )


def encode_segments(
    encoder: "Encoder", segments: Sequence[Frames], *, pack: Pack | None, tokens: bool
) -> list[SegmentEmbedding]:
    """Do the second stage: encode segments, with the tokens that ``pack`` reads of each if it wants any."""
    return encoder.encode_frames(segments, tokens=tokens and pack is not None)


class RunState:
    """One run's jobs, what came of them, and the requests to end it; threads share it under one lock."""

    def __init__(self, store: Store, *, retry_failed: bool) -> None:
        """Begin a run; ``started`` is now."""
        self.store, self.retry_failed = store, retry_failed
        self.jobs: list[FileJob] = []
        self.interrupted = False
        self.stop = threading.Event()
        self.started = time.monotonic()
        self._broken: BaseException | None = None
        self._lock = threading.Lock()
        self._sampled: dict[tuple[int | None, int | None], set[int]] = defaultdict(set)
        self._counts: dict[str, int] = defaultdict(int)
        self._failed: list[tuple[str, str]] = []
        self._undecoded: list[tuple[FileJob, DecodeError]] = []
        self._salvaged: list[tuple[str, str]] = []
        self._work = Workload()
        self._seconds = 0.0

    # What is to be done

    def plan(self, files: Sequence[str]) -> None:
        """Sort the files into jobs and such that need none; the largest come first, so that the work ends together."""
        self._note_missing(set(files))
        known = {record.path: record for record in self.store.files()}
        self._note_sampled(known.values())
        for path, about in stat_files(files):
            record = known.get(path)
            if isinstance(about, UnreachableError) and record is not None:
                self._failed.append((path, about.reason))  # what is known of it stays, and the next run looks again
                continue
            if isinstance(about, DecodeError):
                self.fail(path, about)
                continue
            job = FileJob(path, about.st_size, about.st_mtime_ns, count_disk_bytes(about))
            if record is None or (record.num_bytes, record.mtime_ns) != (job.num_bytes, job.mtime_ns):
                self._plan(job)
            else:
                self._plan_unchanged(job, record)
        self.jobs.sort(key=lambda job: -job.disk_bytes)

    def _plan_unchanged(self, job: FileJob, record: FileRecord) -> None:
        whole = record.video is not None and self.store.video(record.video).complete
        if record.state in ("done", "missing") and whole:
            self._counts["unchanged"] += 1
            if record.state == "missing":  # it came back
                self.store.set_file(job.path, state="done")
        elif record.state == "failed" and not self.retry_failed:
            self._failed.append((job.path, record.reason))
        else:
            self._plan(job)

    def _plan(self, job: FileJob) -> None:
        self.jobs.append(job)
        self._work.add(job.path, job.disk_bytes)
        self.store.set_file(job.path, state="pending")

    def _note_missing(self, listed: set[str]) -> None:
        """Mark the files that the index knows and the disk no longer has; one that is back is found by its scan."""
        others = [record for record in self.store.files() if record.path not in listed]
        gone = find_missing(record.path for record in others)
        for record in others:
            if record.path in gone:
                self._counts["missing"] += 1
                if record.state != "missing":
                    self.store.set_file(record.path, state="missing", reason="the file is gone")

    # What came of it

    def find_stored(self, job: FileJob, name: str) -> int | None:
        """Return the video that holds all of a file's content by its fingerprint, or None."""
        video = self.store.is_complete(name)
        if video is not None:
            return video
        for earlier in self._sampled.get((job.num_bytes, job.mtime_ns), ()):
            record = self.store.video(earlier)
            if record.complete and not record.salvaged and record.fingerprint == legacy_fingerprint(job.path):
                return earlier
        return None

    def _note_sampled(self, records: Iterable[FileRecord]) -> None:
        """Note the contents that an earlier version named by a sample alone, by size and modification time.

        A moved file keeps these. With them the sample is proof enough, without them it is not.
        """
        names = self.store.fingerprints()
        for record in records:
            if record.video is not None and "-" not in names[record.video]:
                self._sampled[record.num_bytes, record.mtime_ns].add(record.video)

    def begin(self, job: FileJob | None, name: str, opened: OpenedVideo) -> int:
        """Begin to store a content by its fingerprint, or go on with it, and return the video's id.

        The file may be None: one that failed in the meantime stays so.
        """
        facts = {**opened.info_facts, "decoder": opened.decoder}
        video = self.store.begin_video(name, duration=opened.duration, facts=facts, num_segments=len(opened.cuts))
        if job is not None:
            self.store.set_file(job.path, state="running", video=video)
            num_left = len(opened.cuts) - len(self.store.stored_segments(video))
            with self._lock:
                self._work.open(job.path, len(opened.cuts), num_left)
        return video

    def add(self, found: Sequence[tuple[FileJob, NewSegment]]) -> None:
        """Store segments in one transaction, each with the file it is of."""
        self.store.add_segments([segment for _, segment in found])
        with self._lock:
            for job, segment in found:
                self._counts["segments"] += 1
                self._seconds += segment.end - segment.start
                self._work.advance(job.path)

    def link(self, job: FileJob, video: int, *, encoded: bool) -> None:
        """Note that all of a file's content is stored: ``encoded`` in this run from this file, or known before."""
        self.store.set_file(
            job.path, state="done", reason="", video=video, num_bytes=job.num_bytes, mtime_ns=job.mtime_ns
        )
        salvaged = self.store.video(video).salvaged
        with self._lock:
            self._counts["encoded" if encoded else "linked"] += 1
            self._work.finish(job.path)
            if salvaged:
                self._salvaged.append((job.path, salvaged))

    def fail(self, path: str, error: DecodeError, job: FileJob | None = None) -> None:
        """Keep a file's failure, with what it looked like, so that it is tried again only once it changed.

        One that could not be looked at or reached, or changed during this run, is tried again in any case.
        """
        if job is not None:
            with self._lock:
                self._counts["failed"] += 1
                self._work.finish(path)
        if isinstance(error, DecoderFailedError) and job is not None:
            with self._lock:
                self._undecoded.append((job, error))  # ``close`` decides whether that was the file's fault
            return
        known = job is not None and not isinstance(error, ChangedError)
        num_bytes, mtime_ns = (job.num_bytes, job.mtime_ns) if job and known else (-1, NO_TIME)
        state: FileState = "pending" if isinstance(error, UnreachableError) else "failed"
        self.store.set_file(path, state=state, reason=error.reason, num_bytes=num_bytes, mtime_ns=mtime_ns)
        with self._lock:
            self._failed.append((path, error.reason))

    # How it ends

    def end(self, error: BaseException) -> None:
        """End the run for what no next file would mend: the disk is full, the model broke."""
        self._broken = self._broken or error
        self.stop.set()

    def watch(self, threads: Sequence[threading.Thread], on_progress: Callable[[Progress], None] | None) -> None:
        """Run threads to their end, telling the progress; an interrupt sets ``stop``, a second one is raised.

        Raises:
            BaseException: What ended the run.
        """
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                try:
                    time.sleep(POLL)
                    if on_progress is not None:
                        on_progress(self._progress())
                except KeyboardInterrupt:
                    if self.interrupted:
                        raise
                    self.interrupted = True
                    self.stop.set()
        finally:
            self.stop.set()
        if self._broken is not None:
            raise self._broken

    def _settle_undecoded(self) -> None:
        """Note the files at which the decoder itself failed, unless it fails at every file.

        Raises:
            VidretError: It does: nothing was decoded, and several files failed for one and the same reason.
        """
        undecoded, self._undecoded = self._undecoded, []
        reasons = {error.reason.replace(job.path, "") for job, error in undecoded}
        if len(undecoded) > 1 and len(reasons) == 1 and not (self._counts["encoded"] or self._counts["segments"]):
            found = f"none of {len(undecoded)} files could be decoded: {undecoded[0][1].reason}"
            raise VidretError(f"{found}; the installation of the decoder seems broken")
        for job, error in undecoded:
            self.fail(job.path, DecodeError(job.path, error.reason), job)

    def close(self, *, prune_below: Sequence[str] | None = None) -> IndexReport:
        """Save what a search needs, and sum the run up.

        Raises:
            VidretError: The decoder failed at every file, or the index cannot be written.
        """
        self._settle_undecoded()
        pruned, unpruned = None, list[str]()
        if prune_below is not None and not self.interrupted:
            gone = [record.path for record in self.store.files(state="missing")]
            unpruned = [path for path in gone if not any(lies_below(path, folder) for folder in prune_below)]
            pruned = self.store.prune(set(gone).difference(unpruned))
        self.store.save_vectors()
        return IndexReport(
            encoded=self._counts["encoded"],
            linked=self._counts["linked"],
            unchanged=self._counts["unchanged"],
            missing=self._counts["missing"],
            failed=sorted(self._failed),
            salvaged=sorted(self._salvaged),
            num_segments=self._counts["segments"],
            seconds=self._seconds,
            elapsed=time.monotonic() - self.started,
            interrupted=self.interrupted,
            pruned=pruned,
            unpruned=unpruned,
        )

    def _progress(self) -> Progress:
        with self._lock:
            return Progress(
                num_files=len(self.jobs),
                done=self._counts["encoded"] + self._counts["linked"],
                failed=self._counts["failed"],
                num_segments=self._counts["segments"],
                seconds=self._seconds,
                share=self._work.share(),
                elapsed=time.monotonic() - self.started,
            )
