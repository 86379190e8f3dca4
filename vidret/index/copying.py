"""Copying of stored contents and their timed texts from one index to another.

Nothing is encoded again, except by ``change_sentence_model``.

Contents are identified by their fingerprints and segments by their numbers, so that an interrupted copy can be
continued, and a repeated one adds nothing. Each source of a content (its speech, its on-screen text, its subtitles) is
taken from one index: the first in which it is complete, or else the first that has it.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import numpy as np

from vidret.channels.texts.run import OPTIONS, embed_texts
from vidret.channels.texts.sentence_models import SentenceSpace, choose_sentence_space, load_model_in, read_space
from vidret.errors import StoreError
from vidret.store.catalog.texts import TextTrack
from vidret.store.records import CONCEPT, NewSegment, VideoRecord
from vidret.store.rows_file import COLLECTIONS, WATCHES
from vidret.store.store import Store
from vidret.store.texts.store import FOLDER, TextStore
from vidret.store.vectors.base import FAISS
from vidret.types import SegmentEmbedding

T = TypeVar("T")
logger = logging.getLogger(__name__)

BATCH = 1024  # segments copied at once: about 100 MB with tokens


@dataclass(frozen=True, slots=True)
class CopyJob:
    """A content of an index that the target lacks, at least in part, with the number of segments in the index."""

    source: Store
    video: VideoRecord
    num_stored: int


class ContentCopier:
    """Copies contents into a target index; ``video_ids`` are those of the target, by content.

    ``copied`` are the contents that were copied or completed, ``damaged`` those with damaged segments, with reasons.
    ``counts`` are the numbers of ``known`` contents and of copied segments.
    """

    def __init__(self, target: Store, on_advance: Callable[[int], None]) -> None:
        """Set the target, and a function that is called with the number of segments of each finished batch."""
        self.target, self._on_advance = target, on_advance
        self.video_ids = {content: video_id for video_id, content in target.videos.fingerprints().items()}
        self.copied: set[str] = set()
        self.damaged: list[tuple[str, str]] = []
        self.counts: Counter[str] = Counter()

    def list_jobs(self, sources: Sequence[Store], wanted: Container[str]) -> list[CopyJob]:
        """Return a job for each wanted content that is not complete in the target; those complete in a source first."""
        jobs = []
        for source in sources:
            for video_id, content in source.videos.fingerprints().items():
                if content not in wanted:
                    continue
                if self.target.videos.find_complete(content) is not None:
                    self.counts["known"] += 1
                    continue
                num_stored = len(source.segments.stored_indices(video_id))
                jobs.append(CopyJob(source, source.videos.get(video_id), num_stored))
        return sorted(jobs, key=lambda job: not job.video.complete)

    def copy(self, jobs: Iterable[CopyJob]) -> None:
        """Copy contents in batches, source by source."""
        for source, source_jobs in groupby(jobs, attrgetter("source")):
            self._copy_from(source, source_jobs)

    def _copy_from(self, source: Store, jobs: Iterable[CopyJob]) -> None:
        batch: list[CopyJob] = []
        missing: dict[int, CopyJob] = {}  # by segment id in the source
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
        """Begin a video in the target, and return the source ids of the segments that it lacks.

        Return None if there is nothing to copy: the target is complete, or both are incomplete with different segments.
        """
        video, content = job.video, job.video.fingerprint
        known_id = self.video_ids.get(content)
        if known_id is not None:
            target_record = self.target.videos.get(known_id)
            if target_record.complete or not (video.complete or self._is_same_cut(job, target_record)):
                return None
        num_segments = None if video.open_ended else video.num_segments
        video_id = self.video_ids[content] = self.target.writer.begin_video(
            content, duration=video.duration, facts=video.facts, num_segments=num_segments
        )
        ids = job.source.segments.ids_of_video(video.id)
        if known_id is not None and (stored := self.target.segments.stored_indices(video_id)):
            ids = [
                key
                for key, segment in zip(ids, job.source.segments.get(ids), strict=True)
                if segment.number not in stored
            ]
        return ids

    def _is_same_cut(self, job: CopyJob, known: VideoRecord) -> bool:
        """Return whether source and target cut an incomplete content alike, so that one can complete the other."""
        if not job.video.open_ended:
            return known.num_segments == job.video.num_segments
        if not known.open_ended:
            return False
        target_spans, source_spans = (
            {
                segment.number: (segment.start, segment.end)
                for segment in store.segments.get(store.segments.ids_of_video(video_id))
            }
            for store, video_id in ((self.target, known.id), (job.source, job.video.id))
        )
        return all(
            target_spans[segment_number] == source_spans[segment_number]
            for segment_number in target_spans.keys() & source_spans.keys()
        )

    def _copy_batch(self, source: Store, batch: Sequence[CopyJob], missing: Mapping[int, CopyJob]) -> None:
        """Copy the missing segments of contents, and finish the videos that this completes."""
        ids, num_damaged = list(missing), len(self.damaged)
        for first in range(0, len(ids), BATCH):
            segments = self._read(source, ids[first : first + BATCH], missing)
            self.target.writer.add_segments(segments)
            self.counts["num_segments"] += len(segments)
        damaged = {content for content, _ in self.damaged[num_damaged:]}
        complete = [job.video for job in batch if job.video.complete and job.video.fingerprint not in damaged]
        for video in complete:
            self.target.writer.finish_video(self.video_ids[video.fingerprint], salvaged=video.salvaged)
        self.copied |= {video.fingerprint for video in (*(job.video for job in missing.values()), *complete)}
        self._on_advance(sum(job.num_stored for job in batch))

    def _read(self, source: Store, ids: Sequence[int], jobs: Mapping[int, CopyJob]) -> list[NewSegment]:
        """Return stored segments; damaged ones are left out and recorded."""
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
                self.damaged.append((jobs[ids[0]].video.fingerprint, str(error)))
                return []
            half = len(ids) // 2
            return [*self._read(source, ids[:half], jobs), *self._read(source, ids[half:], jobs)]
        return [
            NewSegment(
                self.video_ids[jobs[key].video.fingerprint],
                segment.number,
                segment.start,
                segment.end,
                SegmentEmbedding(vector, frames, times),
                bytes(tokens),
                shots,
            )
            for key, (segment, vector, (frames, times), tokens, shots) in zip(ids, rows, strict=True)
        ]


def choose_named(
    what: str,
    target: Path,
    known: Iterable[tuple[str, T]],
    found: Iterable[tuple[Path, str, T]],
    compare: Callable[[T], object],
) -> tuple[list[tuple[Path, str, T]], list[str]]:
    """Return the named items that can be copied, and a note for each whose name another item has.

    ``target`` is the folder of the merged index, which has the ``known`` items. Two items of one name are the same if
    ``compare`` returns equal values for them.
    """
    origins = {name: (target, compare(thing)) for name, thing in known}
    new, notes = list[tuple[Path, str, T]](), list[str]()
    for path, name, thing in found:
        if name not in origins:
            origins[name] = path, compare(thing)
            new.append((path, name, thing))
        elif origins[name][1] != compare(thing):
            notes.append(f"{path}: its {what} {name} is not copied: {origins[name][0]} has another of that name")
    return new, notes


def copy_concepts(target: Store, sources: Sequence[Store]) -> tuple[int, list[str]]:
    """Copy the concepts that the target lacks; return the number copied, and the notes of ``choose_named``."""

    def read(index: Store) -> Iterator[tuple[str, str | bytes]]:
        for key in index.metadata.keys(f"{CONCEPT}."):
            if concept := index.metadata.get(key):  # a forgotten concept is stored as empty
                yield f"@{key.removeprefix(f'{CONCEPT}.')}", concept

    source_concepts = ((source.path, *named) for source in sources for named in read(source))
    new, notes = choose_named("concept", target.path, read(target), source_concepts, lambda concept: concept)
    for _, name, concept in new:
        target.metadata.set(f"{CONCEPT}.{name[1:]}", concept)
    return len(new), notes


def copy_watches(target: Store, sources: Sequence[Store], video_ids: Mapping[str, int]) -> tuple[int, list[str]]:
    """Copy the watches that the target lacks.

    A copied watch reports videos that are indexed later, and those that it had not yet reported in its own index.
    Watches of the target report copied videos at the next run, like all new ones. ``video_ids`` are those of the
    target, by content.

    Returns:
        The number copied, and the notes of ``choose_named``.
    """
    last = max(video_ids.values(), default=0)
    source_ids = {
        source.path: {content: video_id for video_id, content in source.videos.fingerprints().items()}
        for source in sources
    }
    with WATCHES.change(target.path) as watches:
        source_watches = ((source.path, watch.name, watch) for source in sources for watch in WATCHES.read(source.path))
        named_watches = [(watch.name, watch) for watch in watches]
        new, notes = choose_named("watch", target.path, named_watches, source_watches, attrgetter("query"))
        for path, _, watch in new:
            shared = {content: video_ids[content] for content in source_ids[path].keys() & video_ids.keys()}
            watches.append(replace(watch.move(source_ids[path], shared), last_video=last))
    return len(new), notes


def copy_collections(target: Store, sources: Sequence[Store]) -> tuple[int, list[str]]:
    """Copy the collections that the target lacks; return the number copied, and the notes of ``choose_named``."""
    with COLLECTIONS.change(target.path) as collections:
        source_collections = (
            (source.path, saved.name, saved) for source in sources for saved in COLLECTIONS.read(source.path)
        )
        named_collections = [(saved.name, saved) for saved in collections]
        new, notes = choose_named(
            "collection", target.path, named_collections, source_collections, partial(replace, revision=0)
        )
        collections += [saved for _, _, saved in new]
    return len(new), notes


TEXTS_AT_ONCE = 4096  # texts copied at once


@dataclass(frozen=True, slots=True)
class TrackCopyJob:
    """A track of an index that the target lacks, or has only in part."""

    source: TextStore
    track: TextTrack


class TextMerge:
    """Copies text tracks of indexes, the ``jobs`` after ``plan``, into a target index.

    ``damaged`` has the contents with damaged texts, and ``notes`` the sources whose texts cannot be copied, with
    reasons.
    """

    def __init__(
        self,
        target: Path,
        sources: Sequence[TextStore],
        on_advance: Callable[[int], None],
        space: SentenceSpace | None = None,
    ) -> None:
        """Set the folder of the target index, the texts to copy, and a function that is called after each track.

        The vectors are computed again in the given ``space``; None copies them.
        """
        self._target, self._sources, self._on_advance, self._space = target, sources, on_advance, space
        self.jobs: list[TrackCopyJob] = []
        self.num_texts = 0
        self.damaged: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def plan(self, wanted: Container[str]) -> None:
        """Choose the index from which to copy each track of the wanted contents."""
        with ExitStack() as stack:
            target_texts = [stack.enter_context(TextStore.open(self._target))] if TextStore.exists(self._target) else []
            best: dict[tuple[str, str], TrackCopyJob] = {}
            for texts in self._select_comparable([*target_texts, *self._sources]):
                for track in texts.tracks():
                    key = track.fingerprint, track.source
                    if track.fingerprint in wanted and (key not in best or _is_better(track, best[key].track)):
                        best[key] = TrackCopyJob(texts, track)
            self.jobs = [job for job in best.values() if job.source not in target_texts]

    def run(self) -> None:
        """Copy the chosen tracks, and save the texts of the target."""
        if not self.jobs:
            return
        name, fingerprint, dim = self._space or read_space(self.jobs[0].source)
        with TextStore.create(self._target, encoder=name, fingerprint=fingerprint, dim=dim) as target:
            self._copy_options(target)
            for job in self.jobs:
                self._copy(target, job)
                self._on_advance(1)
            target.save()

    def _select_comparable(self, indexes: Sequence[TextStore]) -> list[TextStore]:
        """Return the texts whose vectors are comparable with those of the first index; note the others."""
        encoders = [(texts.store.encoder_fingerprint, texts.store.encoder_name) for texts in indexes]
        comparable = list[TextStore]()
        for texts, (fingerprint, name) in zip(indexes, encoders, strict=True):
            if self._space is not None or fingerprint == encoders[0][0]:
                comparable.append(texts)
            else:
                self.notes.append(
                    f"{texts.store.path.parent}: its words are not copied: "
                    f"they have vectors of {name}, and the merged index has vectors of {encoders[0][1]}"
                )
        return comparable

    def _copy_options(self, target: TextStore) -> None:
        """Set the options of words in the target to those of the first index; note the others."""
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
            stored = job.source.read_segments(rows[start : start + TEXTS_AT_ONCE])
            intact = job.source.intact_vectors([row.id for row in stored])
            num_copied += len(intact)
            texts = [row.text for row in stored if row.id in intact]
            if self._space is None:
                vectors = np.array([intact[row.id] for row in stored if row.id in intact], np.float32)
            else:
                vectors = embed_texts(load_model_in(self._space), texts)
            until_s = track.until_s if num_copied == len(rows) else 0.0
            target.add(copy, texts, vectors.reshape(-1, target.store.dim), until_s=until_s)
        self.num_texts += max(0, num_copied - copy.num_texts)
        if num_copied < len(rows):
            reason = f"{len(rows) - num_copied} of {len(rows)} texts of its {track.source} are damaged"
            self.damaged.append((track.fingerprint, reason))
            target.restart(copy)
        elif track.complete:
            target.finish(copy, note=track.note)

    def _begin(self, target: TextStore, job: TrackCopyJob) -> TextTrack:
        """Begin a track in the target. Its texts in the target stay if they are part of the same reading."""
        track = job.track
        duration_s = job.source.store.videos.get(track.id).duration
        copy = target.begin(track.fingerprint, track.source, track.model, duration_s=duration_s)
        if copy.num_texts:
            target_texts = {stored.text for stored in target.transcript(copy)}
            if not target_texts <= {stored.text for stored in job.source.transcript(track)}:
                target.remove([copy])
                copy = target.begin(track.fingerprint, track.source, track.model, duration_s=duration_s)
        return copy


def _is_better(new: TextTrack, old: TextTrack) -> bool:
    """Return whether to take ``new``; of incomplete readings by the same model, the longer one is taken."""
    if new.complete or old.complete:
        return new.complete and not old.complete
    return new.model == old.model and new.until_s > old.until_s


MOVED = "sentences"  # folder in an index for its texts with new vectors
REPORT_EVERY_S = 60.0


def change_sentence_model(index: Path, name: str) -> None:
    """Compute the vectors of an index's texts again by the named model, unless they are by that model already.

    No video is read. Searches use the old vectors until the end; a killed run starts again. Raise VidretError if the
    model cannot be loaded, another process writes, or the vectors are not in FAISS.
    """
    if not TextStore.exists(index):
        return
    space, folder = choose_sentence_space(index, name), index / MOVED
    with ExitStack() as stack:
        texts = stack.enter_context(TextStore.open(index, write=True))
        if read_space(texts) == space:
            return
        if (home := texts.store.home) != FAISS:
            command = f"vidret store move {home} {FAISS} --index {index}"
            raise StoreError(
                f"{index}: store must be {FAISS} to change the sentence model, got {home}; first: {command}"
            )
        shutil.rmtree(folder, ignore_errors=True)  # from a killed run
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        logger.warning("%s: the vectors of %d texts are computed again, by %s", index, len(texts), space.name)
        with TextStore.create(folder, encoder=space.name, fingerprint=space.fingerprint, dim=space.dim) as begun:
            begun.store.upkeep.continue_ids(texts.store.path)
        reported_s = time.monotonic()

        def report(_num_tracks: int) -> None:
            nonlocal reported_s
            if time.monotonic() - reported_s > REPORT_EVERY_S:
                reported_s = time.monotonic()
                logger.warning("%s: %d of %d texts are done", index, merge.num_texts, len(texts))

        merge = TextMerge(folder, [texts], report, space)
        merge.plan({track.fingerprint for track in texts.tracks()})
        merge.run()
        texts.store.upkeep.take_over(folder / FOLDER)
    with TextStore.open(index, write=True) as texts:  # this rebuilds the full-text index
        texts.save()
