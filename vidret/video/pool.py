"""A pool of decoding processes: a file that crashes, hangs or exhausts its decoder fails alone."""

import contextlib
import logging
import os
import queue
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import strip_query
from vidret.types import Resize, ShotChange, TextSource, TimedText
from vidret.video import wire
from vidret.video.decode import Decoder
from vidret.video.gpu import NUM_PROCESSES, find_gpu_decoders
from vidret.video.process import Process, ProcessGoneError
from vidret.video.sampled_frames import SampledFrames
from vidret.video.streaming import SamplingMode
from vidret.video.torchcodec_decoder import load_torchcodec

_log = logging.getLogger(__name__)

_FILES_PER_PROCESS = 200
_GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """A probed file.

    Attributes:
        info_facts: Its facts.
        duration: When it ends, in seconds.
        cuts: The segments of a grid as (index, start, end) in seconds; empty if segments follow shots, which are not
            known yet.
        num_expected: About how many segments there will be.
        decoder: The decoder in use.
        why: The reason for that choice.
    """

    info_facts: dict[str, str | int | float | bool]
    duration: float
    cuts: list[tuple[int, float, float]]
    num_expected: int
    decoder: str
    why: str

    @property
    def start(self) -> float:
        """When the first frame begins, in seconds."""
        return float(self.info_facts["start"])


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSegment:
    """The frames of one segment, which lasts from ``start`` to ``end`` in seconds, and the shot changes found in it."""

    number: int
    start: float
    end: float
    frames: SampledFrames
    shots: Sequence[ShotChange] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a file.

    ``salvaged`` describes what could not be read, and ``fallback`` which decoder gave up; both are empty otherwise.
    """

    salvaged: str
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class ReadTexts:
    """Further words of a file from one source, which was read up to ``until_s`` seconds."""

    source: TextSource
    until_s: float
    texts: list[TimedText]


@dataclass(frozen=True, slots=True)
class FinishedTexts:
    """The end of one source of words; ``note`` says why nothing or not everything was read, and is empty otherwise."""

    source: TextSource
    note: str


SegmentStart = tuple[int, float]
Message = OpenedVideo | DecodedSegment | Finished | ReadTexts | FinishedTexts
WordsRequest = Mapping[TextSource, Mapping[str, Any]]


class DecodePool:
    """Decoding processes that are started on demand and reused from file to file.

    Several threads may stream at once. Each gets its own process, and waits for one while all are busy. Use the pool as
    a context manager, or ``close`` it.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        decoder: Decoder = "auto",
        device: str = CPU,
        resize: Resize | None = None,
        num_frames: int = 12,
        fps: float = 1.0,
        whole: bool = False,
        shot_sampling: SamplingMode | None = None,
        num_threads: int = 1,
        timeout: float = 120.0,
        memory: int = 8 * _GIBIBYTE,
    ) -> None:
        """Create the pool without starting any process.

        Args:
            num_workers: Maximum number of processes, and so of files decoded at once.
            decoder: See ``open_reader``.
            device: With ``cuda:N``, two of the processes decode on that GPU where ``open_reader`` can, and the others
                decode on the CPU. If no decoder can use the device, all decode on the CPU, with a warning.
            resize: How frames are resized before they are sent; None keeps them full-sized.
            num_frames: Frames in a full segment.
            fps: Frames per second inside the segments of a long video.
            whole: Treat each video as one segment; see ``cut_segments``.
            shot_sampling: Which frames are decoded to cut segments at shots, unless ``whole``; see ``Segmenter``. None
                cuts them on a grid.
            num_threads: Threads of a decoder that follows shots.
            timeout: Seconds that a decoder may stay silent.
            memory: Maximum bytes of a decoder on the CPU; 0 sets no limit. A GPU process has none, because its driver
                maps more address space than any useful limit allows.

        Raises:
            ValueError: A number is not positive.
            VidretError: torchcodec is requested and cannot be loaded.
        """
        limits = {"num_workers": num_workers, "num_frames": num_frames, "fps": fps, "timeout": timeout}
        for name, value in limits.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if decoder == "torchcodec":
            load_torchcodec()
        gpu, gpu_decoders = cuda_index(device), find_gpu_decoders(device, decoder)
        num_on_gpu = min(num_workers, NUM_PROCESSES) if gpu_decoders else 0
        if num_on_gpu and shot_sampling in ("balanced", "fast") and not whole:
            note = "GPU %d decodes all frames of the files that it reads, although sampling is %s"
            _log.warning(note, gpu, shot_sampling)
        self._timeout, self._has_warned = timeout, False
        self._request: wire.Header = {
            "decoder": decoder,
            "gpu_decoders": gpu_decoders,
            "resize": asdict(resize) if resize else None,
            "num_frames": num_frames,
            "fps": fps,
            "whole": whole,
            "shot_sampling": shot_sampling,
            "num_threads": num_threads,
        }
        self._processes = [Process(memory) for _ in range(num_workers - num_on_gpu)]
        self._processes += [Process(0, device=device) for _ in range(num_on_gpu)]
        self._idle: queue.LifoQueue[Process] = queue.LifoQueue()  # prefers a process that runs already
        for process in self._processes:
            self._idle.put(process)
        self._closed = False

    def stream(
        self,
        path: str | os.PathLike[str],
        *,
        skip: Callable[[OpenedVideo], Collection[int]] | None = None,
        start: Callable[[OpenedVideo], SegmentStart | None] | None = None,
        words: Callable[[OpenedVideo], WordsRequest] | None = None,
    ) -> Iterator[Message]:
        """Yield an ``OpenedVideo``, then the segments of the file in order, then ``Finished``; and words, if wanted.

        On-screen texts come between the segments, speech and subtitles after ``Finished``. The decoder works at most
        about one segment ahead of the caller. Dropping the iterator stops it.

        Args:
            path: The path or URL of the file.
            skip: Returns the indices of the segments not to send, given the ``OpenedVideo``, on a grid.
            start: Returns the number and the start in seconds of the first segment to send where segments follow shots;
                None for no segments. By default all are sent.
            words: Called after ``skip``; returns the sources of words to read, each with its options: ``start_s``, the
                time in seconds from which it is read; ``segment`` for the screen, the number and the start in seconds
                of a segment at or before that time; ``model`` for speech; ``sidecars`` for subtitles, the paths of
                subtitle files.

        Raises:
            DecodeError: The file is not a readable video, or its decoder crashed or stopped answering. The error is an
                ``UnreachableError`` if the store behind a URL is unavailable.
        """
        name = os.fspath(path)
        process, clean = self._idle.get(), False
        request: WordsRequest = {}
        try:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if process.num_files >= _FILES_PER_PROCESS:
                process.end()  # native libraries leak memory
            process.ensure_running()
            process.num_files += 1
            process.send(self._request | {"device": process.device}, os.fsencode(name))
            while True:
                header, payload = process.receive(self._timeout)
                match header["kind"]:
                    case "opened":
                        opened = _read_opened(header)
                        reply: wire.Header = {"skip": [], "start": None}
                        if opened.cuts:
                            reply["skip"] = sorted(skip(opened)) if skip else []
                        else:
                            reply["start"] = start(opened) if start else (0, opened.start)
                        request = words(opened) if words else {}
                        process.send(reply | {"words": request})
                        yield opened
                    case "segment":
                        yield _read_segment(header, payload)
                    case "texts" | "texts_end":
                        yield _read_texts(header)
                    case "finished":
                        clean = not request
                        if header["note"]:
                            _log.warning("%s: %s", strip_query(name), header["note"])
                        if process.device != CPU:
                            self._note_fallback(name, header["fallback"])
                        yield Finished(header["salvaged"], header["fallback"])
                        if clean:
                            return
                    case "end":
                        clean = True
                        return
                    case "failed":
                        clean = True
                        raise wire.read_error(header, name)
        except ProcessGoneError as error:
            if self._closed:
                raise RuntimeError("the pool is closed") from error
            raise DecodeError(name, str(error)) from error
        finally:
            if not clean:
                process.end()
            self._idle.put(process)

    def _note_fallback(self, path: str, fallback: str) -> None:
        """Log a warning for the first file that fell back from the GPU to the CPU."""
        if fallback and not self._has_warned:
            self._has_warned = True
            _log.warning("%s: %s (further files are not reported)", strip_query(path), fallback)

    def pids(self) -> list[int]:
        """Return the ids of the running processes."""
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        """Stop all processes; streams in progress fail."""
        self._closed = True
        for process in self._processes:
            process.kill()
        for _ in self._processes:
            with contextlib.suppress(queue.Empty):
                self._idle.get_nowait().end()  # the thread that uses a busy process ends it
        self._idle.put(Process(0))  # wakes a waiting thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _read_segment(header: wire.Header, payload: memoryview) -> DecodedSegment:
    pictures = wire.unpack_frames(header, payload)
    frames = SampledFrames(pictures, np.array(header["sample_times"], np.float64), np.array(header["rows"], np.int64))
    shots = [ShotChange(start, end, kind) for start, end, kind in header["shots"]]
    return DecodedSegment(header["number"], header["start"], header["end"], frames, shots)


def _read_texts(header: wire.Header) -> ReadTexts | FinishedTexts:
    source: TextSource = header["source"]
    if header["kind"] == "texts_end":
        return FinishedTexts(source, header["note"])
    texts = [
        TimedText(start, end, text, source, confidence, language)
        for start, end, text, confidence, language in header["texts"]
    ]
    return ReadTexts(source, header["until_s"], texts)


def _read_opened(header: wire.Header) -> OpenedVideo:
    facts = header["facts"]
    return OpenedVideo(
        info_facts=facts,
        duration=facts["duration"],
        cuts=[(index, start, end) for index, start, end in header["cuts"]],
        num_expected=header["num_expected"],
        decoder=header["decoder"],
        why=header["why"],
    )
