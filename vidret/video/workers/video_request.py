"""The answer of a decoding process to the request of a video: its segments, on a grid or by shots, and its words."""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import Protocol

import numpy as np

from vidret.errors import DecodeError
from vidret.text import format_count
from vidret.types import Picture, Resize, Sampling, ShotChange
from vidret.video.audio import SoundCutter
from vidret.video.container import NOT_DECODED
from vidret.video.decoders.base import StreamedFrame
from vidret.video.probe import VideoInfo, probe
from vidret.video.reader import Reader, open_reader
from vidret.video.sampling import Cut, cut_segments, nearest, sample_again
from vidret.video.shots.segments import WARM_UP_S, DecodedSegment, SegmentReader
from vidret.video.workers import messages
from vidret.video.workers.messages import Parent


class WordsReader(Protocol):
    """Reads the words of one video while it is decoded, and sends them."""

    @property
    def first_segment(self) -> tuple[int, float] | None:
        """The index and the start of a segment at or before the time to read from; None if none is known."""

    def wants_frames(self, end_s: float) -> bool:
        """Return whether the frames of a segment that ends at ``end_s`` seconds are to be read."""

    def observe(self, index: int, image: Picture) -> None:
        """Read a full-size frame, given its index in the video."""

    def ignore_from(self, end_s: float) -> AbstractContextManager[None]:
        """Ignore frames from ``end_s`` seconds on, within the context."""

    def read_stored(self, reader: Reader, indices: Sequence[int]) -> None:
        """Decode the frames of a segment that is needed only for its text."""

    def end_segment(self, end_s: float, shots: Sequence[ShotChange] | None) -> None:
        """Send the texts that end with a segment; ``shots`` are the changes found in it, None if not detected."""

    def finish_frames(self) -> None:
        """Send the remaining texts of frames."""

    def fail_frames(self, error: Exception) -> None:
        """Stop reading from frames because of an error; raise the error if its cause is not the reading."""

    def read_rest(self) -> None:
        """Read the requested sources that are not read from frames."""


def answer_video(parent: Parent, request: messages.Header, path: str) -> None:
    """Send the segments of a video, and its words if they are requested.

    Raise DecodeError if the file is not a readable video.
    """
    info = probe(path, heartbeat=parent.send_heartbeat)
    sampling = Sampling(**request["sampling"])
    resize = Resize(**request["resize"]) if request["resize"] else None
    follows_shots = request["shot_sampling"] is not None and not sampling.whole
    num_threads = request["num_threads"] if follows_shots else 1
    with (
        open_reader(
            info,
            decoder=request["decoder"],
            device=request["device"],
            gpu_decoders=request["gpu_decoders"],
            resize=None if follows_shots else resize,
            heartbeat=parent.send_heartbeat,
            mode=request["shot_sampling"] if follows_shots else "exact",
            num_threads=num_threads,
            for_streaming=follows_shots,
        ) as reader,
        ThreadPoolExecutor(num_threads) as executor,
    ):
        answer = _Answer(parent, info, reader, sampling)
        if follows_shots:
            others = executor if num_threads > 1 else None
            _send_by_shots(answer, partial(SegmentReader, info, sampling, resize, executor=others))
        else:
            _send_on_grid(answer)
    if answer.words is not None:
        answer.words.read_rest()
        parent.send({"kind": "end"})


class _Answer:
    """Sends the messages about one video; ``words`` is set once it is opened, if words are requested."""

    def __init__(self, parent: Parent, info: VideoInfo, reader: Reader, sampling: Sampling) -> None:
        self._parent, self.info, self.reader, self.sampling = parent, info, reader, sampling
        self.cuts = cut_segments(info.duration, info.times, sampling, start=info.start, rate=info.mean_rate)
        self._sound = (
            SoundCutter(info.path, sampling.sound_rate, parent.send_heartbeat, info.section_offsets_s)
            if sampling.sound_rate
            else None
        )
        self.words: WordsReader | None = None

    def send_opened(self, cuts: Iterable[Cut]) -> messages.Header:
        """Send the facts of the video; return the reply."""
        opened = {"decoder": self.reader.decoder, "facts": self.info.facts(), "num_expected": len(self.cuts)}
        placed = [(cut.number, cut.start, cut.end) for cut in cuts]
        self._parent.send({"kind": "opened", "video": opened, "cuts": placed})
        reply = self._parent.next_request()[0]
        if reply.get("words"):
            module, _, name = reply["words_reader"].partition(":")
            open_words: Callable[..., WordsReader] = getattr(importlib.import_module(module), name)
            self.words = open_words(
                self.info, reply["words"], send=self._parent.send, heartbeat=self._parent.send_heartbeat
            )
        return reply

    def send_segment(self, segment: DecodedSegment) -> None:
        """Send a segment, with its sound if the encoder uses sound."""
        header = {
            "kind": "segment",
            "number": segment.number,
            "start": segment.start,
            "end": segment.end,
            "sample_times": segment.frames.times.tolist(),
            "rows": segment.frames.rows.tolist(),
            "shots": [(shot.start, shot.end, shot.kind) for shot in segment.shots],
        }
        pictures = segment.frames.pictures
        if self._sound is not None:
            pictures = replace(pictures, sound=self._sound.cut(segment.start, segment.end))
        self._parent.send_frames(header, pictures)

    def send_finished(self, lost: str, note: str = "") -> None:
        """Send the remaining texts of frames, and the end of the video with a description of lost frames."""
        if self.words is not None:
            self.words.finish_frames()
        finished = {
            "kind": "finished",
            "salvaged": self.info.damage or lost,
            "fallback": self.reader.fallback,
            "note": "; ".join(filter(None, [note, "" if self._sound is None else self._sound.fault])),
        }
        self._parent.send(finished)


def _send_on_grid(answer: _Answer) -> None:
    """Send the segments of a fixed grid that the parent does not skip."""
    reply, info, reader = answer.send_opened(answer.cuts), answer.info, answer.reader
    skip, words = set(reply["skip"]), answer.words
    reader.observe = None if words is None else words.observe
    num_wanted = num_read = 0
    for cut in answer.cuts:
        wants_text = words is not None and words.wants_frames(cut.end)
        if cut.number in skip and not wants_text:
            continue
        chosen = nearest(info.times, np.array(cut.times))
        wanted = np.unique(chosen).tolist()
        if cut.number not in skip:
            frames = reader.read(wanted)
            num_wanted, num_read = num_wanted + len(wanted), num_read + len(frames)
            if len(frames):
                sampled = sample_again(frames, info.times[chosen], answer.sampling)
                answer.send_segment(DecodedSegment(cut.number, cut.start, cut.end, sampled))
        elif words is not None:
            words.read_stored(reader, wanted)
        if words is not None and wants_text:
            words.end_segment(cut.end, None)
    if num_wanted and not num_read:
        raise DecodeError(info.path, NOT_DECODED)
    answer.send_finished(
        f"{num_read} of {num_wanted} chosen frames could be read: damaged" if num_read < num_wanted else ""
    )


def _send_by_shots(answer: _Answer, open_segments: Callable[..., SegmentReader]) -> None:
    """Send the segments that follow shots, from the first that the parent requests."""
    reply, info, reader, words = answer.send_opened([]), answer.info, answer.reader, answer.words
    segment_index, start_s = reply["start"] if reply["start"] is not None else (0, info.duration)
    if words is not None and words.wants_frames(start_s):
        _read_text_before(start_s, answer, words, open_segments)
    if reply["start"] is None:
        answer.send_finished("")
        return
    num_frames_read = num_sent = 0

    def count(frames: Iterable[StreamedFrame]) -> Iterator[StreamedFrame]:
        nonlocal num_frames_read
        for frame in frames:
            num_frames_read += 1
            yield frame

    observe = None if words is None else words.observe
    segments = open_segments(start_s=start_s, first_number=segment_index, observe=observe)
    first = int(np.searchsorted(info.times, start_s - WARM_UP_S))
    for segment in segments.read(count(reader.stream(first))):
        answer.send_segment(segment)
        num_sent += 1
        if words is not None:
            words.end_segment(segment.end, segment.shots)
    if not (num_sent or segment_index):
        raise DecodeError(info.path, NOT_DECODED)
    num_expected = info.num_frames - first
    lost = ""
    if reader.reads_all and num_frames_read < num_expected:
        lost = f"{num_frames_read} of {num_expected} frames could be read: damaged"
    elif segments.num_lost:
        lost = f"{format_count(segments.num_lost, 'chosen frame')} could not be read: damaged"
    answer.send_finished(lost, segments.note)


def _read_text_before(
    until_s: float, answer: _Answer, words: WordsReader, open_segments: Callable[..., SegmentReader]
) -> None:
    """Read the on-screen text of the segments that the parent already has, from the frames sampled for them."""
    segment_index, start_s = words.first_segment or (0, answer.info.start)
    first = int(np.searchsorted(answer.info.times, start_s - WARM_UP_S))
    # Whether a shot ends at ``until_s`` is seen from the frames after it.
    frames = takewhile(lambda frame: frame.time_s < until_s + WARM_UP_S, answer.reader.stream(first))
    segments = open_segments(start_s=start_s, first_number=segment_index, observe=words.observe)
    try:
        with words.ignore_from(until_s):
            for segment in segments.read(frames):
                words.end_segment(segment.end, segment.shots)
    except Exception as error:
        words.fail_frames(error)
