"""Indexing of frames in memory, as a video without a file."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.index.options import MomentRecorder, Pack
from vidret.index.stages import encode_segments, make_segment
from vidret.store.store import Store
from vidret.text import FRAMES_SCHEME
from vidret.types import NO_TIME, Frames, Resize, Sampling
from vidret.video.decoders.base import StreamedFrame
from vidret.video.geometry import resize_image
from vidret.video.grey import grey_from_luma
from vidret.video.sampling import cut_segments, nearest, sample_again
from vidret.video.shots.segments import DecodedSegment, SegmentReader

_HASHED_AT_ONCE = 64  # frames


@dataclass(frozen=True, slots=True, eq=False)
class FrameArrays:
    """Frames in memory, with their path in an index and the end of the last one in seconds."""

    path: str
    frames: Frames
    duration: float

    @property
    def shown_seconds(self) -> float:
        """Return the time from the start of the first frame to the end of the last, in seconds."""
        return self.duration - float(self.frames.times[0])

    @property
    def num_pixels(self) -> int:
        """Return the number of pixels of a frame."""
        return int(self.frames.pixels[0, :, :, 0].size)

    def fingerprint(self) -> str:
        """Return the identity of the content: SHA-256 of the shape, the duration, the times and the pixels."""
        pixels, times = self.frames.pixels, self.frames.times
        digest = hashlib.sha256(f"{pixels.shape} {self.duration!r}".encode() + times.tobytes())
        for first in range(0, len(pixels), _HASHED_AT_ONCE):
            digest.update(np.ascontiguousarray(pixels[first : first + _HASHED_AT_ONCE]).data)
        return f"frames-{digest.hexdigest()}"


def check_frames(name: str, frames: np.ndarray, times_s: np.ndarray, duration_s: float | None) -> FrameArrays:
    """Return the frames to index, see ``Engine.index_frames``; raise VidretError if an argument is invalid."""
    if not name or not name.isprintable() or "?" in name or "://" in name:
        raise VidretError(f"name must be printable, without ? and ://, got {name!r}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise VidretError(f"frames must be uint8 (n, height, width, 3), got {frames.dtype} {frames.shape}")
    times = np.ascontiguousarray(times_s, np.float64)
    if times.shape != (len(frames),):
        raise VidretError(f"times_s must have one time per frame, got {times.shape} for {len(frames)} frames")
    if not (np.isfinite(times).all() and times[0] >= 0 and (np.diff(times) > 0).all()):
        raise VidretError(f"times_s must be finite, not negative and ascending, got {times.tolist()!r:.60}")
    if duration_s is None:
        if len(times) == 1:
            raise VidretError("duration_s must be given for a single frame, got None")
        duration_s = float(times[-1] + np.median(np.diff(times)))
    if not (np.isfinite(duration_s) and duration_s > times[-1]):
        raise VidretError(f"duration_s must be after the last frame, at {times[-1]:g} s, got {duration_s:g}")
    return FrameArrays(f"{FRAMES_SCHEME}://{name}", Frames(frames, times), float(duration_s))


def index_arrays(
    store: Store,
    encoder: Encoder,
    arrays: FrameArrays,
    *,
    follow_shots: bool,
    pack: Pack | None,
    tokens: bool,
    moments: MomentRecorder | None,
) -> int:
    """Encode and store frames, unless their content is stored, and return the id of their video.

    An interrupted call stores nothing searchable; the next one starts again.
    """
    content, start_s = arrays.fingerprint(), float(arrays.frames.times[0])
    video_id = store.videos.find_complete(content)
    if video_id is None:
        if follow_shots:  # as for a decoded video
            reader = SegmentReader(arrays, encoder.sampling, encoder.resize, start_s=start_s)
            segments = list(reader.read(_stream(arrays.frames)))
        else:
            segments = list(_cut_grid(arrays, encoder.sampling, encoder.resize))
        video_id = store.writer.begin_video(
            content,
            duration=arrays.duration,
            facts=describe_arrays(arrays),
            num_segments=None if follow_shots else len(segments),
        )
        num_layers = 0 if moments is None else moments.num_layers
        new = []
        for segment in segments:
            (embedding,) = encode_segments(encoder, [segment.frames], pack=pack, tokens=tokens, num_layers=num_layers)
            new.append(
                make_segment(video_id, segment, embedding, content=content, start_s=start_s, pack=pack, moments=moments)
            )
        store.writer.add_segments(new)
        if moments is not None:
            moments.finish(
                arrays.path, content, store.segments.get(store.segments.ids_of_video(video_id)), first=start_s
            )
        store.writer.finish_video(video_id)
    num_bytes = arrays.frames.pixels.nbytes
    store.writer.set_file(arrays.path, state="done", reason="", video=video_id, num_bytes=num_bytes, mtime_ns=NO_TIME)
    return video_id


def describe_arrays(arrays: FrameArrays) -> dict[str, object]:
    """Return the facts about a video that frames in memory have."""
    num_frames, height, width, _ = arrays.frames.pixels.shape
    return {
        "path": arrays.path,
        "width": width,
        "height": height,
        "start": float(arrays.frames.times[0]),
        "duration": arrays.duration,
        "average_rate": num_frames / arrays.shown_seconds,
        "num_frames": num_frames,
        "has_audio": False,
        "decoder": "none",
    }


def _stream(frames: Frames) -> Iterator[StreamedFrame]:
    """Yield frames as a decoder does, with brightness in the video range, 16..235 (BT.601)."""
    for index, (picture, time_s) in enumerate(zip(frames.pixels, frames.times.tolist(), strict=True)):
        luma = picture.astype(np.float32) @ np.array([65.738, 129.057, 25.064], np.float32) / 256 + 16
        grey = grey_from_luma(np.rint(luma).astype(np.uint8))
        yield StreamedFrame(index, time_s, grey, partial(np.asarray, picture))


def _cut_grid(arrays: FrameArrays, sampling: Sampling, resize: Resize) -> Iterator[DecodedSegment]:
    """Yield the segments of a fixed grid, as for a decoded video."""
    frames = arrays.frames
    cuts = cut_segments(arrays.duration, frames.times, sampling, start=float(frames.times[0]))
    for cut in cuts:
        chosen = nearest(frames.times, np.array(cut.times))
        rows = np.unique(chosen)
        pixels = np.stack([resize_image(frames.pixels[row], resize) for row in rows])
        sampled = sample_again(Frames(pixels, frames.times[rows]), frames.times[chosen], sampling)
        yield DecodedSegment(cut.number, cut.start, cut.end, sampled)
