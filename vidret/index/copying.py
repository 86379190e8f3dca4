"""Copy contents and their timed texts from one index to another as they are stored, without encoding anything again.

Contents are identified by their fingerprints and segments by their numbers, so that an interrupted copy can be
continued, and a repeated one adds nothing. Each source of a content (its speech, its on-screen text, its subtitles) is
taken from one index: the first in which it is complete, or else the first that has it.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vidret.channels.texts.run import OPTIONS
from vidret.errors import StoreError
from vidret.store.catalog.texts import TextTrack
from vidret.store.records import CONCEPT, NewSegment, VideoRecord
from vidret.store.rows_file import COLLECTIONS, WATCHES
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import SegmentEmbedding, TimedText

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
    with WATCHES.change(target.path) as watches:
        origins = {watch.name: (target.path, watch.query) for watch in watches}
        num_known = len(watches)
        for source in sources:
            contents = {content: video_id for video_id, content in source.videos.fingerprints().items()}
            shared = {content: video_ids[content] for content in contents.keys() & video_ids.keys()}
            for watch in WATCHES.read(source.path):
                rival, query = origins.setdefault(watch.name, (source.path, watch.query))
                if rival == source.path:
                    watches.append(replace(watch.move(contents, shared), last_video=last))
                elif query != watch.query:
                    note = f"its watch {watch.name} is not copied: {rival} has another of that name"
                    notes.append(f"{source.path}: {note}")
    return len(watches) - num_known, notes


def copy_collections(target: Store, sources: Sequence[Store]) -> tuple[int, list[str]]:
    """Copy the saved searches and lists of moments that the target lacks; they name videos by their content.

    Returns:
        How many were copied, and a note for each that is not: another collection has its name.
    """
    notes = list[str]()
    with COLLECTIONS.change(target.path) as kept:
        known = {each.name: (target.path, each) for each in kept}
        num_known = len(kept)
        for source in sources:
            for each in COLLECTIONS.read(source.path):
                rival, other = known.setdefault(each.name, (source.path, each))
                if rival == source.path:
                    kept.append(each)
                elif replace(other, revision=each.revision) != each:
                    notes.append(
                        f"{source.path}: its collection {each.name} is not copied: {rival} has another of that name"
                    )
    return len(kept) - num_known, notes


TEXTS_AT_ONCE = 4096  # texts copied at once

TextRow = tuple[TimedText, Float32[np.ndarray, " dim"]]


@dataclass(frozen=True, slots=True)
class TrackCopyJob:
    """A track of an index that the target lacks, or has only in part."""

    source: TextStore
    track: TextTrack


class TextMerge:
    """Copies tracks of indexes into a target index.

    Attributes:
        jobs: The tracks to copy, after ``plan``.
        num_texts: Number of copied texts.
        damaged: Contents with damaged texts, and the reasons.
        notes: Sources whose texts cannot be copied, with reasons.
    """

    def __init__(self, target: Path, sources: Sequence[TextStore], on_advance: Callable[[int], None]) -> None:
        """Set the folder of the target index, the texts to copy, and a function that is called after each track."""
        self._target, self._sources, self._on_advance = target, sources, on_advance
        self.jobs: list[TrackCopyJob] = []
        self.num_texts = 0
        self.damaged: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def plan(self, wanted: Container[str]) -> None:
        """Choose the index to take each track of the wanted contents from."""
        with ExitStack() as stack:
            own = [stack.enter_context(TextStore.open(self._target))] if TextStore.exists(self._target) else []
            best: dict[tuple[str, str], TrackCopyJob] = {}
            for texts in self._select_comparable([*own, *self._sources]):
                for track in texts.tracks():
                    key = track.fingerprint, track.source
                    if track.fingerprint in wanted and (key not in best or _is_better(track, best[key].track)):
                        best[key] = TrackCopyJob(texts, track)
            self.jobs = [job for job in best.values() if job.source not in own]

    def run(self) -> None:
        """Copy the chosen tracks, and save the texts of the target."""
        if not self.jobs:
            return
        store = self.jobs[0].source.store
        with TextStore.create(
            self._target, encoder=store.encoder_name, fingerprint=store.encoder_fingerprint, dim=store.dim
        ) as target:
            self._copy_options(target)
            for job in self.jobs:
                self._copy(target, job)
                self._on_advance(1)
            target.save()

    def _select_comparable(self, indexes: Sequence[TextStore]) -> list[TextStore]:
        """Return the texts whose vectors are comparable with those of the first index; note the others."""
        encoders = [(texts.store.encoder_fingerprint, texts.store.encoder_name) for texts in indexes]
        for texts, (fingerprint, name) in zip(indexes, encoders, strict=True):
            if fingerprint != encoders[0][0]:
                self.notes.append(
                    f"{texts.store.path.parent}: its words are not copied: "
                    f"they have vectors of {name}, and the merged index has vectors of {encoders[0][1]}"
                )
        return [texts for texts, encoder in zip(indexes, encoders, strict=True) if encoder[0] == encoders[0][0]]

    def _copy_options(self, target: TextStore) -> None:
        """Let the next run read further words as those of the first index were read; note the others."""
        indexes = [target, *dict.fromkeys(job.source for job in self.jobs)]
        options = [(texts, str(known)) for texts in indexes if (known := texts.store.metadata.get(OPTIONS)) is not None]
        if not options:
            return
        (first, chosen), *others = options
        if first is not target:
            target.store.metadata.set(OPTIONS, chosen)
        self.notes += [
            f"{texts.store.path.parent}: its words were read with other options than those of "
            f"{first.store.path.parent}, which the merged index has"
            for texts, other in others
            if other != chosen
        ]

    def _copy(self, target: TextStore, job: TrackCopyJob) -> None:
        """Copy a track; one with damaged texts is left for the next indexing run to read again."""
        track, rows = job.track, job.source.store.segments.ids_of_video(job.track.id)
        copy = self._begin(target, job)
        num_copied = 0
        for start in range(0, len(rows) or 1, TEXTS_AT_ONCE):
            found = _read(job.source, rows[start : start + TEXTS_AT_ONCE])
            num_copied += len(found)
            is_whole = num_copied == len(rows)
            vectors = np.array([vector for _, vector in found], np.float32).reshape(-1, target.store.dim)
            target.add(copy, [text for text, _ in found], vectors, until_s=track.until_s if is_whole else 0.0)
        self.num_texts += max(0, num_copied - copy.num_texts)
        if num_copied < len(rows):
            reason = f"{len(rows) - num_copied} of {len(rows)} texts of its {track.source} are damaged"
            self.damaged.append((track.fingerprint, reason))
            target.restart(copy)
        elif track.complete:
            target.finish(copy, note=track.note)

    def _begin(self, target: TextStore, job: TrackCopyJob) -> TextTrack:
        """Begin a track in the target. What the target has of it stays if it is part of the same reading."""
        track = job.track
        duration_s = job.source.store.videos.get(track.id).duration
        copy = target.begin(track.fingerprint, track.source, track.model, duration_s=duration_s)
        if copy.num_texts:
            known = {stored.text for stored in target.transcript(copy)}
            if not known <= {stored.text for stored in job.source.transcript(track)}:
                target.remove([copy])
                copy = target.begin(track.fingerprint, track.source, track.model, duration_s=duration_s)
        return copy


def _is_better(new: TextTrack, old: TextTrack) -> bool:
    """Return whether to take ``new``; of incomplete readings by the same model, the one that got further is taken."""
    if new.complete or old.complete:
        return new.complete and not old.complete
    return new.model == old.model and new.until_s > old.until_s


def _read(source: TextStore, rows: Sequence[int]) -> list[TextRow]:
    """Return texts with their vectors, without damaged ones."""
    stored = source.read_segments(rows)
    vectors = source.intact_vectors([row.id for row in stored])
    return [(row.text, vectors[row.id]) for row in stored if row.id in vectors]
