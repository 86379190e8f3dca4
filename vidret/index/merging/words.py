"""Copy the timed texts of indexes into a merged index, track by track.

Each source of a content (its speech, its on-screen text, its subtitles) is taken from one index: the first in which it
is complete, or else the first that has it. An interrupted copy can be continued, and a repeated one adds nothing.
"""

from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from vidret.channels.texts.run import OPTIONS
from vidret.store.catalog.texts import TextTrack
from vidret.store.texts.store import TextStore
from vidret.types import TimedText

BATCH = 4096  # texts copied at once

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
        for start in range(0, len(rows) or 1, BATCH):
            found = _read(job.source, rows[start : start + BATCH])
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
