"""Indexes that were built apart become one: what they hold is copied as it is, and nothing is encoded again.

First it is settled which index to believe of each path, then the contents that these paths hold are copied, then the
paths are written. Contents are known by their fingerprints and segments by their numbers: a merge that was cut short
goes on where it was, and one that is done again adds nothing.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, cast

from vidret.errors import StoreError
from vidret.index.merging.planning import Settled, Told, changed, contradict, get_fact, knows_better, settle_making
from vidret.store.records import CALIBRATION, HEAD, KEPT, MOMENTS, PROJECTED, RANKER, FileRecord, FileState, NewSegment
from vidret.store.store import Store
from vidret.types import SegmentEmbedding

BATCH = 1024  # segments copied at a time: about 100 MB where there are tokens


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What a merge did.

    Contents were ``copied``, ``completed`` where a part of them was there, or ``known``: there whole when they came
    (again). Paths were ``added`` or ``changed``. ``damaged`` names what could not be copied, by path and reason;
    ``disagreed`` the paths that indexes tell differently, and which index is believed; ``notes`` say what else is not
    as it was in the indexes. ``moments`` counts files of what grounding heads were asked to keep.
    """

    copied: int = 0
    completed: int = 0
    known: int = 0
    num_segments: int = 0
    added: int = 0
    changed: int = 0
    moments: int = 0
    damaged: list[tuple[str, str]] = field(default_factory=list)
    disagreed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    elapsed: float = 0.0
    interrupted: bool = False


class CopyJob(NamedTuple):
    """A content of an index, to be copied as far as it is not there; ``complete`` as the index has it."""

    source: Store
    video: int
    content: str
    complete: bool
    num_segments: int
    salvaged: str


def merge_indexes(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Copy what indexes hold into another, which need not exist yet and may have content.

    Vectors, times, tokens and what grounding heads were asked to keep are copied bit for bit. The candidates' vectors
    are made anew; baselines are measured anew by whoever indexes or searches; calibrations are lost, and the report
    says so. An interrupt (Ctrl-C) ends the run, and the next one goes on from there.

    Args:
        sources: The folders of the indexes, which are only read.
        out: The folder of the index that they go into.
        on_progress: Called with the number of segments, paths and kept moments done, and of all.

    Raises:
        StoreError: They were not made with one encoder and for one aligner, or ``out`` is one of them, and nothing was
            written; or an index cannot be read or written. Damaged segments raise nothing.
    """
    started = time.monotonic()
    if not sources:
        raise StoreError("indexes must be at least one, got none")
    for source in sources:
        if Path(source).resolve() == Path(out).resolve():
            raise StoreError(f"{out}: must not be one of the indexes that go into it, got itself")
    with ExitStack() as stack:
        opened = [stack.enter_context(Store.open(source)) for source in sources]
        if Store.exists(out):
            with Store.open(out) as known:
                settled = settle_making([known, *opened])
        else:
            settled = settle_making(opened)
        name, fingerprint, dim = opened[0].encoder_name, opened[0].encoder_fingerprint, opened[0].dim
        target = stack.enter_context(Store.create(out, encoder_name=name, encoder_fingerprint=fingerprint, dim=dim))
        merge = Merge(target, opened, on_progress or (lambda _done, _total: None))
        interrupted = False
        try:
            merge.run(settled)
            target.save_vectors()
        except KeyboardInterrupt:
            interrupted = True
        return merge.report(settled.notes, time.monotonic() - started, interrupted=interrupted)


class Merge:
    """One merge: what it decided of each path, and what it has counted so far."""

    def __init__(self, target: Store, sources: Sequence[Store], on_progress: Callable[[int, int], None]) -> None:
        self.target, self.sources, self.on_progress = target, sources, on_progress
        self._own = {record.path: record for record in target.files()}
        self._numbers = {content: number for number, content in target.fingerprints().items()}
        self._there = frozenset(self._numbers)  # whole or in part, before anything came
        self._told: dict[str, Told] = {}
        self._disagreed: dict[str, str] = {}
        self._copied: set[str] = set()
        self._damaged: list[tuple[str, str]] = []  # contents, and why a segment of theirs could not be read
        self._counts: Counter[str] = Counter()
        self._done = self._total = 0

    def run(self, settled: Settled) -> None:
        """Do it all, but for the candidates' vectors."""
        for key, fact in ((RANKER, settled.ranker), (HEAD, settled.head)):
            if fact and not get_fact(self.target, key):
                self.target.set_meta(key, fact)
        self._settle_paths()
        wanted = {told.content for told in self._told.values() if told.content}
        jobs, moments = self._list_jobs(wanted), self._list_moments(wanted)
        self._total = sum(job.num_segments for job in jobs) + len(self._told) + len(moments)
        for source, own in groupby(jobs, attrgetter("source")):
            self._copy_contents(source, own)
        self._write_paths()
        self._copy_moments(moments)

    def report(self, notes: Sequence[str], elapsed: float, *, interrupted: bool) -> MergeReport:
        """Sum the merge up."""
        names = {told.content: path for path, told in self._told.items()}
        return MergeReport(
            copied=len(self._copied - self._there),
            completed=len(self._copied & self._there),
            **self._counts,
            damaged=[(names[content], reason) for content, reason in self._damaged],
            disagreed=sorted(self._disagreed.items()),
            notes=[*notes, *self._tell_calibrations()],
            elapsed=elapsed,
            interrupted=interrupted,
        )

    # What is to be done

    def _settle_paths(self) -> None:
        """Decide which index to believe of each path."""
        for index in (self.target, *self.sources):
            contents = index.fingerprints()
            for record in index.files():
                new = Told(index, record, "" if record.video is None else contents.get(record.video, ""))
                old = self._told.setdefault(record.path, new)
                better, worse = (new, old) if knows_better(new, old) else (old, new)
                self._told[record.path] = better
                if contradict(new, old):
                    why = "its file changed later" if changed(better) > changed(worse) else "it was named first"
                    self._disagreed[record.path] = f"{better.origin.path} is believed, not {worse.origin.path}: {why}"

    def _list_jobs(self, wanted: Container[str]) -> list[CopyJob]:
        """List the contents that the target has not whole, those that an index has whole first."""
        jobs = []
        for source in self.sources:
            for number, content in source.fingerprints().items():
                if content not in wanted:
                    continue
                if self.target.is_complete(content) is not None:
                    self._counts["known"] += 1
                    continue
                video = source.video(number)
                jobs.append(CopyJob(source, number, content, video.complete, video.num_segments, video.salvaged))
        return sorted(jobs, key=lambda job: not job.complete)

    def _list_moments(self, wanted: Container[str]) -> list[tuple[Path, Path]]:
        """List what heads were asked to keep of contents, and where it goes, unless it is there."""
        found: dict[Path, Path] = {}
        for source in self.sources:
            folder = source.path / MOMENTS
            for path in folder.glob(f"*/{KEPT}/*{PROJECTED}"):
                place = self.target.path / MOMENTS / path.relative_to(folder)
                if path.stem in wanted and not place.exists():
                    found.setdefault(place, path)
        return [(path, place) for place, path in found.items()]

    # Doing it

    def _copy_contents(self, source: Store, jobs: Iterable[CopyJob]) -> None:
        """Copy contents of one index, as many together as make a batch."""
        begun: list[CopyJob] = []
        missing: dict[int, CopyJob] = {}
        for job in jobs:
            ids = self._begin(job)
            if ids is None:
                self._counts["known"] += 1
                self._advance(job.num_segments)
                continue
            begun.append(job)
            missing |= dict.fromkeys(ids, job)
            if len(missing) + len(begun) >= BATCH:
                self._copy_batch(source, begun, missing)
                begun, missing = [], {}
        self._copy_batch(source, begun, missing)

    def _begin(self, job: CopyJob) -> list[int] | None:
        """Make a place for a content, and list the segments that are missing there, by the ids of their index.

        None where nothing is to be done: it is whole by now, or was cut differently and is whole in neither.
        """
        known = self._numbers.get(job.content)
        if known is not None:
            there = self.target.video(known)
            if there.complete or (not job.complete and there.num_segments != job.num_segments):
                return None
        about = job.source.video(job.video)
        number = self._numbers[job.content] = self.target.begin_video(
            job.content, duration=about.duration, facts=about.facts, num_segments=job.num_segments
        )
        ids = job.source.video_segments(job.video)
        if known is not None and (stored := self.target.stored_segments(number)):
            ids = [key for key, each in zip(ids, job.source.segments(ids), strict=True) if each.number not in stored]
        return ids

    def _copy_batch(self, source: Store, begun: Sequence[CopyJob], missing: Mapping[int, CopyJob]) -> None:
        """Copy the missing segments of contents, and mark those as whole that are so now."""
        ids, num_damaged = list(missing), len(self._damaged)
        for first in range(0, len(ids), BATCH):
            segments = self._read(source, ids[first : first + BATCH], missing)
            self.target.add_segments(segments)
            self._counts["num_segments"] += len(segments)
        hurt = {content for content, _ in self._damaged[num_damaged:]}
        whole = [job for job in begun if job.complete and job.content not in hurt]
        for job in whole:
            self.target.finish_video(self._numbers[job.content], salvaged=job.salvaged)
        self._copied |= {job.content for job in (*missing.values(), *whole)}
        self._advance(sum(job.num_segments for job in begun))

    def _read(self, source: Store, ids: Sequence[int], jobs: Mapping[int, CopyJob]) -> list[NewSegment]:
        """Read segments as they are stored; those that are damaged are left out, and noted."""
        try:
            read = zip(source.segments(ids), source.vectors(ids), source.frames(ids), source.tokens(ids), strict=True)
        except StoreError as error:
            if len(ids) == 1:
                self._damaged.append((jobs[ids[0]].content, str(error)))
                return []
            half = len(ids) // 2
            return [*self._read(source, ids[:half], jobs), *self._read(source, ids[half:], jobs)]
        return [
            NewSegment(
                self._numbers[jobs[key].content],
                segment.number,
                segment.start,
                segment.end,
                SegmentEmbedding(vector, frames, times),
                bytes(tokens),
            )
            for key, (segment, vector, (frames, times), tokens) in zip(ids, read, strict=True)
        ]

    def _write_paths(self) -> None:
        """Write what is believed of each path, where the target does not have it so."""
        for path, told in self._told.items():
            new, old = told.record, self._own.get(path, FileRecord(path, ""))
            number = self._numbers.get(told.content)
            wanted = FileRecord(
                path,
                self._settle_state(new.state, told.content),
                new.reason,
                old.video if number is None else number,
                old.num_bytes if new.num_bytes is None else new.num_bytes,
                old.mtime_ns if new.mtime_ns is None else new.mtime_ns,
            )
            if wanted != old:
                self._counts["changed" if path in self._own else "added"] += 1
                self.target.set_file(
                    path,
                    state=cast(FileState, wanted.state),
                    reason=wanted.reason,
                    video=wanted.video,
                    num_bytes=wanted.num_bytes,
                    mtime_ns=wanted.mtime_ns,
                )
            self._advance(1)

    def _settle_state(self, state: str, content: str) -> str:
        """Give the state of a path that holds a content: what is not whole is to be encoded by the next run over it."""
        if state in ("failed", "missing") or not content:
            return state
        if self.target.is_complete(content) is not None:
            return "done"
        return "pending"

    def _copy_moments(self, moments: Iterable[tuple[Path, Path]]) -> None:
        """Copy files of projected tokens; each is there whole or not at all."""
        for path, place in moments:
            waiting = place.with_name(f"{place.name}.{os.getpid()}.part")
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, waiting)
                waiting.replace(place)
            except OSError as error:
                raise StoreError(f"{place}: cannot be copied from {path} ({error.strerror})") from error
            finally:
                waiting.unlink(missing_ok=True)
            self._counts["moments"] += 1
            self._advance(1)

    def _tell_calibrations(self) -> list[str]:
        """Name the indexes whose calibration is of no use any more."""
        again = "run vidret calibrate again"
        lost = [
            f"{each.path}: its calibration is not taken over: {again}" for each in self.sources if _calibrated(each)
        ]
        if self._counts["num_segments"] and _calibrated(self.target):
            lost.append(f"{self.target.path}: its calibration does not know the new segments: {again}")
        return lost

    def _advance(self, steps: int) -> None:
        self._done += steps
        self.on_progress(self._done, self._total)


def _calibrated(index: Store) -> bool:
    """Say whether there is a calibration; one that was dropped is empty."""
    keys = index.meta_keys(f"{CALIBRATION}.")
    return any(index.get_meta(key) for key in keys if not key.endswith(".edition"))
