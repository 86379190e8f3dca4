"""Copy contents from one index to another as they are stored, without encoding anything again.

Contents are identified by their fingerprints and segments by their numbers, so that an interrupted copy can be
continued, and a repeated one adds nothing.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from vidret.errors import StoreError
from vidret.store.records import CONCEPT, NewSegment, VideoRecord
from vidret.store.store import Store
from vidret.store.watch_list import change_watches, read_watches
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
        self.video_ids = {content: video_id for video_id, content in target.videos.fingerprints().items()}
        self.copied: set[str] = set()
        self.damaged: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()

    def list_jobs(self, sources: Sequence[Store], wanted: Container[str]) -> list[CopyJob]:
        """Return the wanted contents that are not complete in the target; those complete in a source come first."""
        jobs = []
        for source in sources:
            for video_id, content in source.videos.fingerprints().items():
                if content not in wanted:
                    continue
                if self.target.videos.find_complete(content) is not None:
                    self.counts["known"] += 1
                    continue
                video = source.videos.get(video_id)
                jobs.append(
                    CopyJob(
                        source=source,
                        video_id=video_id,
                        content=content,
                        complete=video.complete,
                        num_segments=None if video.open_ended else video.num_segments,
                        num_stored=len(source.segments.stored_indices(video_id)),
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
            known = self.target.videos.get(known_id)
            if known.complete or not (job.complete or self._is_same_cut(job, known)):
                return None
        video = job.source.videos.get(job.video_id)
        video_id = self.video_ids[job.content] = self.target.writer.begin_video(
            job.content, duration=video.duration, facts=video.facts, num_segments=job.num_segments
        )
        ids = job.source.segments.ids_of_video(job.video_id)
        if known_id is not None and (stored := self.target.segments.stored_indices(video_id)):
            ids = [
                key
                for key, segment in zip(ids, job.source.segments.get(ids), strict=True)
                if segment.number not in stored
            ]
        return ids

    def _is_same_cut(self, job: CopyJob, known: VideoRecord) -> bool:
        """Return whether both parts of an incomplete content are cut alike, so that one can complete the other."""
        if job.num_segments is not None:
            return known.num_segments == job.num_segments
        if not known.open_ended:
            return False
        own, other = (
            {
                segment.number: (segment.start, segment.end)
                for segment in store.segments.get(store.segments.ids_of_video(video_id))
            }
            for store, video_id in ((self.target, known.id), (job.source, job.video_id))
        )
        return all(own[number] == other[number] for number in own.keys() & other.keys())

    def _copy_batch(self, source: Store, batch: Sequence[CopyJob], missing: Mapping[int, CopyJob]) -> None:
        """Copy the missing segments of contents, and finish the videos that are complete now."""
        ids, num_damaged = list(missing), len(self.damaged)
        for first in range(0, len(ids), BATCH):
            segments = self._read(source, ids[first : first + BATCH], missing)
            self.target.writer.add_segments(segments)
            self.counts["num_segments"] += len(segments)
        damaged = {content for content, _ in self.damaged[num_damaged:]}
        complete = [job for job in batch if job.complete and job.content not in damaged]
        for job in complete:
            self.target.writer.finish_video(self.video_ids[job.content], salvaged=job.salvaged)
        self.copied |= {job.content for job in (*missing.values(), *complete)}
        self._on_advance(sum(job.num_stored for job in batch))

    def _read(self, source: Store, ids: Sequence[int], jobs: Mapping[int, CopyJob]) -> list[NewSegment]:
        """Return segments as they are stored; damaged ones are left out and recorded."""
        try:
            rows = zip(
                source.segments.get(ids),
                source.features.read_vectors(ids),
                source.features.read_frames(ids),
                source.features.read_tokens(ids),
                source.shots.of_segments(ids),
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


def copy_concepts(target: Store, sources: Sequence[Store]) -> tuple[int, list[str]]:
    """Copy the taught concepts that the target lacks, with the vectors of their examples.

    Returns:
        How many were copied, and a note for each that is not: another concept has its name.
    """
    num_copied, notes = 0, []
    origins: dict[str, Path] = {}
    for source in sources:
        for key in source.metadata.keys(f"{CONCEPT}."):
            concept, known = source.metadata.get(key), target.metadata.get(key)
            if not concept or concept == known:  # one that was forgotten is stored as empty
                continue
            if known:
                name = key.removeprefix(f"{CONCEPT}.")
                rival = origins.get(key, target.path)
                notes.append(f"{source.path}: its concept @{name} is not copied: {rival} has another of that name")
                continue
            target.metadata.set(key, concept)
            origins[key] = source.path
            num_copied += 1
    return num_copied, notes


def copy_watches(target: Store, sources: Sequence[Store], video_ids: Mapping[str, int]) -> tuple[int, list[str]]:
    """Copy the watches that the target lacks.

    A copied watch reports what is indexed later, and what it had not yet reported in its own index. Watches that the
    target has report copied videos at the next run, as all that are new to it.

    Args:
        target: The merged index, with the videos copied.
        sources: The indexes.
        video_ids: Ids of videos in the target, by content.

    Returns:
        How many were copied, and a note for each that is not: another watch has its name.
    """
    notes, last = list[str](), max(video_ids.values(), default=0)
    with change_watches(target.path) as watches:
        origins = {watch.name: (target.path, watch.query) for watch in watches}
        num_known = len(watches)
        for source in sources:
            contents = {content: video_id for video_id, content in source.videos.fingerprints().items()}
            shared = {content: video_ids[content] for content in contents.keys() & video_ids.keys()}
            for watch in read_watches(source.path):
                rival, query = origins.setdefault(watch.name, (source.path, watch.query))
                if rival == source.path:
                    watches.append(replace(watch.move(contents, shared), last_video=last))
                elif query != watch.query:
                    note = f"its watch {watch.name} is not copied: {rival} has another of that name"
                    notes.append(f"{source.path}: {note}")
    return len(watches) - num_known, notes
