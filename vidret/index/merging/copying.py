"""Copy contents from one index to another as they are stored, without encoding anything again.

Contents are identified by their fingerprints and segments by their numbers, so that an interrupted copy can be
continued, and a repeated one adds nothing.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from vidret.errors import StoreError
from vidret.store.records import NewSegment, VideoRecord
from vidret.store.store import Store
from vidret.types import SegmentEmbedding

BATCH = 1024  # segments copied at once: about 100 MB if there are tokens


@dataclass(frozen=True, slots=True)
class CopyJob:
    """A content of an index that the target lacks, at least in part.

    ``complete`` and ``num_stored``, its number of stored segments, refer to the source.
    """

    source: Store
    video_id: int
    content: str
    complete: bool
    num_segments: int | None
    num_stored: int
    salvaged: str


class ContentCopier:
    """Copies contents into a target index.

    Attributes:
        video_ids: Ids of videos in the target, by content.
        copied: Contents that were copied or completed.
        damaged: Contents with damaged segments, and the reasons.
        counts: Numbers of ``known`` contents and of copied segments.
    """

    def __init__(self, target: Store, on_advance: Callable[[int], None]) -> None:
        """Set the target, and a function that is called with the number of segments of each finished batch."""
        self.target, self._on_advance = target, on_advance
        self.video_ids = {content: video_id for video_id, content in target.fingerprints().items()}
        self.copied: set[str] = set()
        self.damaged: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()

    def list_jobs(self, sources: Sequence[Store], wanted: Container[str]) -> list[CopyJob]:
        """Return the wanted contents that are not complete in the target; those complete in a source come first."""
        jobs = []
        for source in sources:
            for video_id, content in source.fingerprints().items():
                if content not in wanted:
                    continue
                if self.target.is_complete(content) is not None:
                    self.counts["known"] += 1
                    continue
                video = source.video(video_id)
                jobs.append(
                    CopyJob(
                        source=source,
                        video_id=video_id,
                        content=content,
                        complete=video.complete,
                        num_segments=None if video.open_ended else video.num_segments,
                        num_stored=len(source.stored_segments(video_id)),
                        salvaged=video.salvaged,
                    )
                )
        return sorted(jobs, key=lambda job: not job.complete)

    def copy(self, jobs: Iterable[CopyJob]) -> None:
        """Copy contents in batches, those of one source after another."""
        for source, own_jobs in groupby(jobs, attrgetter("source")):
            self._copy_from(source, own_jobs)

    def _copy_from(self, source: Store, jobs: Iterable[CopyJob]) -> None:
        batch: list[CopyJob] = []
        missing: dict[int, CopyJob] = {}  # by the ids of segments in the source
        for job in jobs:
            segment_ids = self._begin(job)
            if segment_ids is None:
                self.counts["known"] += 1
                self._on_advance(job.num_stored)
                continue
            batch.append(job)
            missing |= dict.fromkeys(segment_ids, job)
            if len(missing) + len(batch) >= BATCH:
                self._copy_batch(source, batch, missing)
                batch, missing = [], {}
        self._copy_batch(source, batch, missing)

    def _begin(self, job: CopyJob) -> list[int] | None:
        """Begin a video in the target, and return the ids in the source of the segments that are missing there.

        None if there is nothing to copy: the target is complete by now, or both are incomplete with different segments.
        """
        known_id = self.video_ids.get(job.content)
        if known_id is not None:
            known = self.target.video(known_id)
            if known.complete or not (job.complete or self._is_same_cut(job, known)):
                return None
        video = job.source.video(job.video_id)
        video_id = self.video_ids[job.content] = self.target.begin_video(
            job.content, duration=video.duration, facts=video.facts, num_segments=job.num_segments
        )
        ids = job.source.video_segments(job.video_id)
        if known_id is not None and (stored := self.target.stored_segments(video_id)):
            ids = [key for key, each in zip(ids, job.source.segments(ids), strict=True) if each.number not in stored]
        return ids

    def _is_same_cut(self, job: CopyJob, known: VideoRecord) -> bool:
        """Return whether both parts of an incomplete content are cut alike, so that one can complete the other."""
        if job.num_segments is not None:
            return known.num_segments == job.num_segments
        if not known.open_ended:
            return False
        own, other = (
            {each.number: (each.start, each.end) for each in store.segments(store.video_segments(video_id))}
            for store, video_id in ((self.target, known.id), (job.source, job.video_id))
        )
        return all(own[number] == other[number] for number in own.keys() & other.keys())

    def _copy_batch(self, source: Store, batch: Sequence[CopyJob], missing: Mapping[int, CopyJob]) -> None:
        """Copy the missing segments of contents, and finish the videos that are complete now."""
        ids, num_damaged = list(missing), len(self.damaged)
        for first in range(0, len(ids), BATCH):
            segments = self._read(source, ids[first : first + BATCH], missing)
            self.target.add_segments(segments)
            self.counts["num_segments"] += len(segments)
        damaged = {content for content, _ in self.damaged[num_damaged:]}
        complete = [job for job in batch if job.complete and job.content not in damaged]
        for job in complete:
            self.target.finish_video(self.video_ids[job.content], salvaged=job.salvaged)
        self.copied |= {job.content for job in (*missing.values(), *complete)}
        self._on_advance(sum(job.num_stored for job in batch))

    def _read(self, source: Store, ids: Sequence[int], jobs: Mapping[int, CopyJob]) -> list[NewSegment]:
        """Return segments as they are stored; damaged ones are left out and recorded."""
        try:
            rows = zip(
                source.segments(ids),
                source.vectors(ids),
                source.frames(ids),
                source.tokens(ids),
                source.segment_shots(ids),
                strict=True,
            )
        except StoreError as error:
            if len(ids) == 1:
                self.damaged.append((jobs[ids[0]].content, str(error)))
                return []
            half = len(ids) // 2
            return [*self._read(source, ids[:half], jobs), *self._read(source, ids[half:], jobs)]
        return [
            NewSegment(
                self.video_ids[jobs[key].content],
                segment.number,
                segment.start,
                segment.end,
                SegmentEmbedding(vector, frames, times),
                bytes(tokens),
                shots,
            )
            for key, (segment, vector, (frames, times), tokens, shots) in zip(ids, rows, strict=True)
        ]
