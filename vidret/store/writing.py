"""Writing to an index: files, videos and segments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from vidret.errors import StoreError
from vidret.store.catalog import Catalog
from vidret.store.current_vectors import CurrentVectors
from vidret.store.epochs import Epochs
from vidret.store.features import Bytes, Rows, round_to_float16
from vidret.store.lock import WriteAccess
from vidret.store.records import FILE_STATES, FileState, NewSegment
from vidret.types import Segment, SegmentEmbedding


class Writer:
    """The methods of ``Store`` that add files, videos and segments."""

    def __init__(
        self, dim: int, catalog: Catalog, epochs: Epochs, vectors: CurrentVectors, access: WriteAccess
    ) -> None:
        """Write to an open index."""
        self._dim, self._catalog, self._epochs, self._vectors, self._access = dim, catalog, epochs, vectors, access

    def set_file(
        self,
        path: str,
        *,
        state: FileState,
        reason: str = "",
        video: int | None = None,
        num_bytes: int | None = None,
        mtime_ns: int | None = None,
    ) -> None:
        """Set the state and reason of a path; None leaves a value unchanged.

        A path has one video at a time: for a file with new content, set its new video.
        """
        self._access.check()
        if state not in FILE_STATES:
            raise StoreError(f"state must be one of {', '.join(FILE_STATES)}, got {state!r}")
        if video is not None:
            self._catalog.video(video)
        self._catalog.set_file(path, state, reason, video, num_bytes, mtime_ns)
        self._vectors.index.note_changes()

    def begin_video(self, fingerprint: str, *, duration: float, facts: Mapping[str, object], num_segments: int) -> int:
        """Return the id of a video, adding it if new; with another number of segments it starts over.

        ``duration`` is in seconds.
        """
        if not (np.isfinite(duration) and duration >= 0):
            raise StoreError(f"duration must be finite and not negative, got {duration}")
        if num_segments < 1:
            raise StoreError(f"num_segments must be at least 1, got {num_segments}")
        with self._access:
            return self._catalog.begin_video(fingerprint, float(duration), facts, int(num_segments))

    def add_segment(
        self, video: int, number: int, start: float, end: float, embedding: SegmentEmbedding, *, tokens: bytes = b""
    ) -> int:
        """Store a segment, which is searchable at once, and return its id; a stored segment stays unchanged.

        ``tokens`` are packed by an aligner and opaque to the store.

        Raises:
            StoreError: A value is invalid, or the disk is full or fails.
        """
        return self.add_segments([NewSegment(video, number, start, end, embedding, tokens)])[0]

    def add_segments(self, segments: Sequence[NewSegment]) -> list[int]:
        """Store many segments like ``add_segment``, but all or none, waiting only once for the disk.

        They may belong to several videos added by ``begin_video``, in any order. Of duplicates the first is stored.
        All are in memory together, so add a large corpus in batches of thousands.

        Returns:
            Their ids, in the same order.

        Raises:
            StoreError: A value is invalid, or the disk is full or fails; nothing is stored then.
        """
        self._access.check()
        checked = check_segments(self._catalog, segments, self._dim)
        with self._access:
            ids, num_new = write_segments(self._catalog, self._epochs, checked)
        self._vectors.index.note_changes(num_new)
        return [ids[int(segment.video), int(segment.number)] for segment in segments]

    def finish_video(self, video: int, *, salvaged: str = "") -> None:
        """Mark a video as complete; ``salvaged`` describes what was lost if it could not be read completely."""
        self._access.check()
        planned, stored = self._catalog.video(video).num_segments, len(self._catalog.segments.of_video(video))
        if stored < planned and not salvaged:
            raise StoreError(f"salvaged must describe the loss when {stored} of {planned} segments are stored, got ''")
        self._catalog.finish_video(video, salvaged)

    def end_video(self, video: int, *, note: str = "") -> None:
        """Mark a video as complete with the segments that it has; ``note`` says why there are not more."""
        self._access.check()
        self._catalog.finish_video(video, note, num_segments=len(self._catalog.segments.of_video(video)))


@dataclass(frozen=True, slots=True, eq=False)
class CheckedSegment:
    """A valid segment in the form in which it is stored: its vector, frame vectors, packed tokens and frame times."""

    segment: Segment
    vector: Rows
    frames: Rows
    tokens: Bytes
    times: Float64[np.ndarray, " frame"]


def check_segments(catalog: Catalog, segments: Sequence[NewSegment], dim: int) -> list[CheckedSegment]:
    """Convert segments for storage; of segments with the same video and index, only the first is returned.

    Raises:
        StoreError: A segment is invalid.
    """
    num_segments = {video: catalog.video(video).num_segments for video in {segment.video for segment in segments}}
    checked: dict[tuple[int, int], CheckedSegment] = {}
    for segment in segments:
        key = int(segment.video), int(segment.number)
        checked.setdefault(key, _check_segment(segment, num_segments[segment.video], dim))
    return list(checked.values())


def write_segments(
    catalog: Catalog, epochs: Epochs, segments: Sequence[CheckedSegment]
) -> tuple[dict[tuple[int, int], int], int]:
    """Store the segments that are not stored yet; return the ids of all by video and index, and the number stored."""
    keys = [(each.segment.video, each.segment.number) for each in segments]
    ids = {key: segment_id for key in keys if (segment_id := catalog.segments.find(*key)) is not None}
    new = [each for key, each in zip(keys, segments, strict=True) if key not in ids]
    locations = epochs.current().append_all([(each.vector, each.frames, each.tokens) for each in new])
    rows = [(each.segment, location, each.times) for each, location in zip(new, locations, strict=True)]
    new_keys = [(each.segment.video, each.segment.number) for each in new]
    return ids | dict(zip(new_keys, catalog.segments.add(rows), strict=True)), len(new)


def _check_segment(new: NewSegment, num_segments: int, dim: int) -> CheckedSegment:
    if not 0 <= new.number < num_segments:
        raise StoreError(f"number must be in 0..{num_segments - 1}, got {new.number}")
    if not (np.isfinite([new.start, new.end]).all() and new.start <= new.end):
        raise StoreError(f"start and end must be finite and ascending, got {new.start} and {new.end}")
    vector = round_to_float16("video", new.embedding.video, (dim,))[None]
    times = np.ascontiguousarray(new.embedding.times, np.float64)
    frames = round_to_float16("frames", new.embedding.frames, (len(times), dim))
    if not np.isfinite(times).all():
        raise StoreError(f"times must be finite, got {times}")
    return CheckedSegment(
        segment=Segment(int(new.video), int(new.number), float(new.start), float(new.end)),
        vector=vector,
        frames=frames,
        tokens=np.frombuffer(new.tokens, np.uint8).reshape(-1, 1),
        times=times,
    )
