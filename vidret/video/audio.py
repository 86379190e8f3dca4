"""The audio track of a video as mono samples, decoded with PyAV piece by piece."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Float32, Int16

from vidret.errors import DecodeError
from vidret.video.container import decode_all, open_container, read_declared_end, read_start
from vidret.video.files import open_file
from vidret.video.timeline import LONGEST_STILL_S

NO_TRACK = "has no audio track"
MAX_SOUND_S = 30.0  # longest audio of a segment that an encoder gets, as in MTEB
_PIECE_S = 10.0
_MIN_GAP_S = 0.1  # less is jitter of the timestamps
_MAX_OVERLAP_S = 1.0  # more is a restart of the clock
_MAX_GAPS_S = 6 * 3600.0  # sum of all gaps of a file; more means broken timestamps
_JOINED, _JITTER_S = 16, 0.01  # most frames resampled in one call, and the tolerance of their times
_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}  # of sample formats
_MIN_MIXED = 0.02  # share of two channels' energy in their mix; less means opposite phase, as of a miswired microphone
_FORMAT, FULL_SCALE = "s16", 32768  # not floating point, where a mix of equal channels exceeds 1


def read_audio(
    path: str,
    sample_rate: int,
    *,
    start_s: float = 0.0,
    heartbeat: Callable[[], None] = lambda: None,
    section_offsets_s: Sequence[float] = (),
) -> Iterator[tuple[float, Float32[np.ndarray, " sample"]]]:
    """Yield the audio track from ``start_s`` on in consecutive pieces: time in seconds, mono samples in -1..1.

    Times are those of a player's clock, as in ``probe``. Gaps of the track are filled with silence, so that the samples
    of all pieces are consecutive. Packets that cannot be decoded leave a gap. ``heartbeat`` is called for every packet.
    ``section_offsets_s``, see ``VideoInfo``, keep the sound in time with the pictures where the clock restarts.

    Raise DecodeError if there is no audio track, its codec is unknown, or nothing of it can be decoded.
    """
    with open_file(path) as file, open_container(path, file) as container:
        stream = _choose_track(container)
        if stream is None:
            raise DecodeError(path, "its audio codec is unknown" if container.streams.audio else NO_TRACK)
        stream.codec_context.thread_count = 1
        zero_s = read_start(container) or 0.0
        is_empty = True
        for time_s, samples in _join(
            _resample(stream, container, sample_rate, heartbeat), sample_rate, zero_s, start_s, section_offsets_s
        ):
            is_empty = False
            yield time_s, samples
        file.check()
        if is_empty and start_s == 0.0:
            raise DecodeError(path, "no sound could be decoded")


def _choose_track(container: Any) -> Any:
    """Return the audio track that a player plays: its default, or else the first; None if none can be decoded."""
    decodable = [stream for stream in container.streams.audio if stream.codec_context is not None]
    return next(
        (stream for stream in decodable if stream.disposition & Disposition.default), next(iter(decodable), None)
    )


class SoundCutter:
    """Cuts the audio of a video into that of its segments, which must be read in order.

    ``fault`` is the reason why an audio track cannot be read; empty if it can, or there is none.
    """

    def __init__(
        self, path: str, sample_rate: int, heartbeat: Callable[[], None], section_offsets_s: Sequence[float] = ()
    ) -> None:
        """Open nothing yet: a segment may begin late in a file."""
        self.fault = ""
        self._path, self._rate, self._heartbeat = path, sample_rate, heartbeat
        self._offsets_s = section_offsets_s
        self._pieces: Iterator[tuple[float, Float32[np.ndarray, " sample"]]] | None = None
        self._kept, self._kept_from = np.empty(0, np.float32), 0  # read samples, and the position of the first

    def cut(self, start_s: float, end_s: float) -> Int16[np.ndarray, " sample"]:
        """Return the samples from ``start_s`` to ``end_s``, at most ``MAX_SOUND_S``; silence where there are none."""
        start, end = round(start_s * self._rate), round(min(end_s, start_s + MAX_SOUND_S) * self._rate)
        if self._pieces is None:
            self._pieces = read_audio(
                self._path, self._rate, start_s=start_s, heartbeat=self._heartbeat, section_offsets_s=self._offsets_s
            )
            self._kept_from = start
        while self._kept_from + len(self._kept) < end:
            try:
                time_s, samples = next(self._pieces, (0.0, None))
            except DecodeError as error:
                self.fault = "" if error.reason == NO_TRACK else f"sound: {error.reason}"
                samples = None
            if samples is None:
                self._kept = np.pad(self._kept, (0, end - self._kept_from - len(self._kept)))
                break
            gap = round(time_s * self._rate) - self._kept_from - len(self._kept)
            self._kept = np.concatenate([self._kept, np.zeros(max(gap, 0), np.float32), samples[max(-gap, 0) :]])
            behind = max(0, min(start - self._kept_from, len(self._kept)))
            self._kept, self._kept_from = self._kept[behind:], self._kept_from + behind
        first = start - self._kept_from
        stretch = self._kept[first : first + end - start]
        self._kept, self._kept_from = self._kept[first:], start
        return np.rint(stretch * FULL_SCALE).astype(np.int16)


def find_sound_end(path: str) -> float:
    """Return the declared end of the audio track, in seconds on a player's clock; 0 if unknown.

    Raise DecodeError if the file cannot be opened.
    """
    with open_file(path) as file, open_container(path, file) as container:
        stream = _choose_track(container)
        if stream is None:
            return 0.0
        end_s = read_declared_end(container, stream)
        if stream.duration is not None and stream.time_base is not None:
            end_s = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        return max(0.0, end_s - (read_start(container) or 0.0))


def _resample(stream: Any, container: Any, sample_rate: int, heartbeat: Callable[[], None]) -> Iterator[Any]:
    """Yield the resampled frames as (time in seconds or None, 16-bit samples)."""
    resampler, shape = None, None
    for frame in _join_frames(decode_all(container, stream, heartbeat)):
        if resampler is None or _read_shape(frame) != shape:  # a track may change its format in the middle
            resampler, shape = av.AudioResampler(_FORMAT, "mono", sample_rate), _read_shape(frame)
        time_s = frame.time
        try:
            resampled = resampler.resample(_keep_from_cancelling(frame))
        except (av.FFmpegError, OSError, ValueError):
            continue
        for part in resampled:
            plane: Any = part.planes[0]
            yield time_s, np.frombuffer(plane, np.int16, part.samples)  # quicker than to_ndarray
            time_s = None


def _join_frames(frames: Iterator[Any]) -> Iterator[Any]:
    """Yield frames with consecutive ones joined, since a call of the resampler costs the same for any length."""
    group: list[Any] = []
    end_s: float | None = None
    last_shape = ("", "", 0)
    for frame in frames:
        time_s, shape = frame.time, _read_shape(frame)
        follows = time_s is None or (end_s is not None and abs(time_s - end_s) <= _JITTER_S)
        if group and not (follows and len(group) < _JOINED and shape == last_shape):
            yield from _concatenate(group)
            group = []
        if not group:
            end_s, last_shape = time_s, shape
        group.append(frame)
        end_s = None if end_s is None else end_s + frame.samples / shape[2]
    yield from _concatenate(group)


def _concatenate(frames: list[Any]) -> list[Any]:
    """Return frames of one shape joined into one, or unchanged if PyAV cannot make that frame."""
    if len(frames) < 2:
        return frames
    dtype = _DTYPES.get(frames[0].format.name.removesuffix("p"))
    if dtype is None:
        return frames
    width = 1 if frames[0].format.is_planar else frames[0].layout.nb_channels
    planes = [  # quicker than to_ndarray
        np.concatenate([np.frombuffer(frame.planes[row], dtype, frame.samples * width) for frame in frames])
        for row in range(len(frames[0].planes))
    ]
    try:
        return [_make_frame(np.stack(planes), frames[0])]
    except ValueError:
        return frames


def _keep_from_cancelling(frame: Any) -> Any:
    """Return a stereo frame with its left channel on both sides if the two would cancel out; others unchanged."""
    if frame.layout.nb_channels != 2 or frame.format.name.removesuffix("p") not in _DTYPES:
        return frame
    planes = frame.to_ndarray()
    channels = planes if frame.format.is_planar else planes.reshape(-1, 2).T
    with np.errstate(over="ignore", invalid="ignore"):  # of damaged samples
        left, right = channels.astype(np.float32)
        is_cancelled = (left + right) @ (left + right) < 2 * _MIN_MIXED * (left @ left + right @ right)
    if is_cancelled:
        channels[1] = channels[0]
    return _make_frame(planes, frame) if is_cancelled else frame


def _make_frame(planes: Any, like: Any) -> Any:
    """Return a frame of these samples with the format and time of ``like``; ValueError if PyAV cannot make it."""
    frame = av.AudioFrame.from_ndarray(planes, like.format.name, like.layout.name)
    frame.sample_rate, frame.pts, frame.time_base = like.sample_rate, like.pts, like.time_base
    return frame


def _read_shape(frame: Any) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _join(
    frames: Iterator[Any], sample_rate: int, zero_s: float, start_s: float, offsets_s: Sequence[float] = ()
) -> Iterator[tuple[float, Float32[np.ndarray, " sample"]]]:
    """Yield chunks joined to pieces of about ``_PIECE_S`` seconds, from ``start_s`` on."""
    pending: list[Int16[np.ndarray, " sample"]] = []
    begin = end = 0  # samples from the player's zero
    first = int(start_s * sample_rate)
    for position, samples in _place(frames, sample_rate, zero_s, offsets_s):
        end = position + len(samples)
        if end <= first:
            continue
        if not pending:
            begin = max(position, first)
        pending.append(samples[max(first - position, 0) :])
        if end - begin >= _PIECE_S * sample_rate:
            yield begin / sample_rate, _scale(pending)
            pending = []
    if pending:
        yield begin / sample_rate, _scale(pending)


def _scale(pieces: list[Int16[np.ndarray, " _sample"]]) -> Float32[np.ndarray, " sample"]:
    return np.concatenate(pieces).astype(np.float32) / FULL_SCALE


def _place(
    frames: Iterator[Any], sample_rate: int, zero_s: float, offsets_s: Sequence[float] = ()
) -> Iterator[tuple[int, Int16[np.ndarray, " sample"]]]:
    """Yield consecutive chunks and the position of each, in samples from the player's zero.

    Silence fills gaps. Samples before zero, or that overlap earlier ones, are cut off. If the clock restarts, the
    samples go to the section of ``offsets_s`` that begins there; if there is none, they continue.
    """
    position: int | None = None  # of the next samples
    remaining = round(_MAX_GAPS_S * sample_rate)
    zero = round(zero_s * sample_rate)
    zeros = [zero - round(offset_s * sample_rate) for offset_s in offsets_s[1:]]  # of later sections
    for time_s, samples in frames:
        gap = 0
        if position is None:
            first = round((time_s or 0.0) * sample_rate) - zero
            position, gap = max(0, first), min(0, first)
        elif time_s is not None:
            time = round(time_s * sample_rate)
            gap = time - zero - position
            if skipped := _find_section([gap, *(time - later - position for later in zeros)], sample_rate):
                zero, zeros = zeros[skipped - 1], zeros[skipped:]
                gap = time - zero - position
            if not -_MAX_OVERLAP_S * sample_rate <= gap <= remaining:
                zero, gap = zero + gap, 0
            elif abs(gap) <= _MIN_GAP_S * sample_rate:
                gap = 0
        remaining -= max(gap, 0)
        while gap > 0:
            length = min(gap, round(_PIECE_S * sample_rate))
            yield position, np.zeros(length, np.int16)
            position, gap = position + length, gap - length
        kept = samples[-gap:]
        if len(kept):
            yield position, kept
            position += len(kept)


def _find_section(gaps: Sequence[int], sample_rate: int) -> int:
    """Return which section the next samples belong to, given their gap after the last ones in this and later sections.

    They stay in this one, 0, unless they overlap or are far ahead, as where the clock restarts.
    """
    gap, longest = gaps[0], LONGEST_STILL_S * sample_rate
    if -_MIN_GAP_S * sample_rate <= gap <= longest:
        return 0
    is_restart = gap < -_MAX_OVERLAP_S * sample_rate
    return next(
        (
            section
            for section, later in enumerate(gaps)
            if later <= longest and (abs(later) < abs(gap) or (is_restart and later > gap))
        ),
        0,
    )
