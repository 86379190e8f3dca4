"""Writing to an index: files, videos and segments."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vidret.errors import StoreError
from vidret.store.catalog.catalog import Catalog
from vidret.store.catalog.segments import check_shots
from vidret.store.feature_epochs import Epochs
from vidret.store.features import round_to_float16
from vidret.store.folder import WriteAccess
from vidret.store.records import FILE_STATES, FileState, NewSegment, VideoRecord
from vidret.store.vectors.current import CurrentVectors
from vidret.types import SegmentEmbedding


class Writer:
    """The methods of ``Store`` that add files, videos and segments."""

    def __init__(
        self, dim: int, catalog: Catalog, epochs: Epochs, vectors: CurrentVectors, access: WriteAccess
    ) -> None:
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
            self._catalog.videos.get(video)
        self._catalog.files.set(path, state, reason, video, num_bytes, mtime_ns)
        self._vectors.index.note_changes()

    def begin_video(
        self, fingerprint: str, *, duration: float, facts: Mapping[str, object], num_segments: int | None
    ) -> int:
        """Return the id of a video, adding it if new; with another number of segments it starts over.

        If ``num_segments`` is None, the video is open-ended until ``finish_video``. Stored segments stay, even with
        another planned number, but then only those before the first that is lost. ``duration`` is in seconds.
        """
        if not (np.isfinite(duration) and duration >= 0):
            raise StoreError(f"duration must be finite and not negative, got {duration}")
        if num_segments is not None and num_segments < 1:
            raise StoreError(f"num_segments must be at least 1, got {num_segments}")
        with self._access:
            return self._catalog.videos.begin(fingerprint, float(duration), facts, num_segments)

    def add_segments(self, segments: Sequence[NewSegment]) -> list[int]:
        """Store segments, all or none, which are searchable at once, and return their ids in the same order.

        They may belong to several videos added by ``begin_video``. A segment that is stored already stays unchanged; of
        duplicates, the first is stored. All are in memory together, so add a large corpus in batches of thousands.

        Raises:
            StoreError: A value is invalid, or the disk is full or fails; nothing is stored then.
        """
        self._access.check()
        keys = [(int(segment.video), int(segment.number)) for segment in segments]
        videos = {video: self._catalog.videos.get(video) for video in {segment.video for segment in segments}}
        checked: dict[tuple[int, int], NewSegment] = {}
        for key, segment in zip(keys, segments, strict=True):
            checked.setdefault(key, _check_segment(segment, videos[segment.video], self._dim))
        with self._access:
            ids = self._catalog.segments.find_many(checked)
            new = {key: valid for key, valid in checked.items() if key not in ids}
            arrays = [
                (
                    valid.embedding.video[None],
                    valid.embedding.frames,
                    np.frombuffer(valid.tokens, np.uint8).reshape(-1, 1),
                )
                for valid in new.values()
            ]
            locations = self._epochs.current().append_all(arrays)
            ids |= zip(new, self._catalog.segments.add(list(zip(new.values(), locations, strict=True))), strict=True)
        self._vectors.index.note_changes(len(new))
        return [ids[key] for key in keys]

    def finish_video(self, video: int, *, salvaged: str = "") -> None:
        """Mark a video as complete; ``salvaged`` describes the losses if it could not be read completely.

        The stored segments of an open-ended video are then all of its segments.

        Raises:
            StoreError: Segments are missing, and ``salvaged`` is empty; or none is stored of an open-ended video.
        """
        self._access.check()
        record, stored = self._catalog.videos.get(video), len(self._catalog.segments.of_video(video))
        if record.open_ended and not stored:
            raise StoreError("num_segments must be at least 1 to finish an open-ended video, got 0")
        planned = stored if record.open_ended else record.num_segments
        if stored < planned and not salvaged:
            raise StoreError(f"salvaged must describe the loss when {stored} of {planned} segments are stored, got ''")
        self._catalog.videos.finish(video, salvaged, num_segments=planned)

    def end_video(self, video: int, *, note: str = "") -> None:
        """Mark a video as complete with the segments that it has; ``note`` is the reason why there are no more."""
        self._access.check()
        self._catalog.videos.finish(video, note, num_segments=len(self._catalog.segments.of_video(video)))


def _check_segment(new: NewSegment, video: VideoRecord, dim: int) -> NewSegment:
    """Check a segment; return it as stored: with float16 values, float64 times, and shot changes in time order."""
    if not 0 <= new.number < (math.inf if video.open_ended else video.num_segments):
        rule = "not be negative" if video.open_ended else f"be in 0..{video.num_segments - 1}"
        raise StoreError(f"number must {rule}, got {new.number}")
    if not -math.inf < new.start <= new.end < math.inf:
        raise StoreError(f"start and end must be finite and ascending, got {new.start} and {new.end}")
    vector = round_to_float16("video", new.embedding.video, (dim,))
    times = np.ascontiguousarray(new.embedding.times, np.float64)
    frames = round_to_float16("frames", new.embedding.frames, (len(times), dim))
    if not np.isfinite(times).all():
        raise StoreError(f"times must be finite, got {times}")
    return replace(new, embedding=SegmentEmbedding(vector, frames, times), shots=check_shots(new.shots))
