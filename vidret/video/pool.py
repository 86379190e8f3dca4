"""Decode many files at once, each in a process of its own that may crash, hang or swell: that costs one file only."""

import contextlib
import logging
import os
import queue
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import strip_query
from vidret.types import Frames, Resize
from vidret.video import wire
from vidret.video.decode import Decoder
from vidret.video.gpu import NUM_PROCESSES, can_decode_on
from vidret.video.process import Process, ProcessGoneError

_log = logging.getLogger(__name__)

_FILES_PER_PROCESS = 200
_GIBIBYTE = 1 << 30


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """What a file is, and how it will be cut: (number, start, end) of every segment, in seconds."""

    info_facts: dict[str, str | int | float | bool]
    duration: float
    cuts: list[tuple[int, float, float]]
    decoder: str
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class DecodedSegment:
    """One segment's frames."""

    number: int
    start: float
    end: float
    frames: Frames


@dataclass(frozen=True, slots=True)
class Finished:
    """The file is done; ``salvaged`` is empty, or says what could not be read, ``fallback`` which decoder gave up."""

    salvaged: str
    fallback: str = ""


class DecodePool:
    """Decoding processes, started as they are needed and used again from file to file.

    Several threads may stream at once, each gets a process of its own and waits for one when all are busy. Use as a
    context, or ``close`` it.
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
        timeout: float = 120.0,
        memory: int = 8 * _GIBIBYTE,
    ) -> None:
        """Prepare the pool; nothing is started yet.

        Args:
            num_workers: How many processes at most, so how many files at once.
            decoder: See ``open_reader``.
            device: With ``cuda:N`` two of the processes decode on that GPU what ``open_reader`` decodes there, and the
                others, all of them where Decord cannot use the GPU, on the CPU; the latter with a warning.
            resize: What to make of the frames before they travel; None keeps them full-sized.
            num_frames: Frames of a whole segment.
            fps: Frames per second inside a long video's segments.
            whole: A video is one segment; see ``cut_segments``.
            timeout: Seconds a decoder may stay silent.
            memory: Bytes a decoder on the CPU may take; 0 sets no limit. A GPU's driver maps too much for one.
        """
        numbers = {"num_workers": num_workers, "num_frames": num_frames, "fps": fps, "timeout": timeout}
        for name, value in numbers.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        gpu = None if decoder == "pyav" else cuda_index(device)
        num_on_gpu = 0 if gpu is None or not can_decode_on(gpu) else min(num_workers, NUM_PROCESSES)
        self._timeout, self._has_warned = timeout, False
        self._request: wire.Header = {
            "decoder": decoder,
            "resize": asdict(resize) if resize else None,
            "num_frames": num_frames,
            "fps": fps,
            "whole": whole,
        }
        self._processes = [Process(memory) for _ in range(num_workers - num_on_gpu)]
        self._processes += [Process(0, device=device) for _ in range(num_on_gpu)]
        self._idle: queue.LifoQueue[Process] = queue.LifoQueue()  # whose last is taken first
        for process in self._processes:
            self._idle.put(process)
        self._closed = False

    def stream(
        self, path: str | os.PathLike[str], *, skip: Callable[[OpenedVideo], Collection[int]] | None = None
    ) -> Iterator[OpenedVideo | DecodedSegment | Finished]:
        """Decode a file: first ``OpenedVideo``, then its segments in order, then ``Finished``.

        The decoder works at most about one segment ahead of the caller. Dropping the iterator ends the work.

        Args:
            path: The file's path or address.
            skip: Given ``OpenedVideo``, the numbers of the segments not to decode.

        Raises:
            DecodeError: The file is no readable video, or its decoder crashed or fell silent; an ``UnreachableError``
                where the store of an address gives nothing for now.
        """
        name = os.fspath(path)
        process, clean = self._idle.get(), False
        try:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if process.num_files >= _FILES_PER_PROCESS:
                process.end()  # native libraries leak a little
            process.ensure()
            process.num_files += 1
            process.send(self._request | {"device": process.device}, os.fsencode(name))
            while True:
                header, payload = process.receive(self._timeout)
                match header["kind"]:
                    case "opened":
                        opened = _read_opened(header)
                        process.send({"skip": sorted(skip(opened)) if skip else []})
                        yield opened
                    case "segment":
                        frames = wire.unpack_frames(header, payload)
                        yield DecodedSegment(header["number"], header["start"], header["end"], frames)
                    case "finished":
                        clean = True
                        if process.device != CPU:
                            self._note_fallback(name, header["fallback"])
                        yield Finished(header["salvaged"], header["fallback"])
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
        """Warn of the first file that should have been decoded on the GPU and was not."""
        if fallback and not self._has_warned:
            self._has_warned = True
            _log.warning("%s: %s (further files are not named)", strip_query(path), fallback)

    def pids(self) -> list[int]:
        """Give the ids of the processes that run."""
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        """End all processes; streams under way fail."""
        self._closed = True
        for process in self._processes:
            process.retire()
        for _ in self._processes:
            with contextlib.suppress(queue.Empty):
                self._idle.get_nowait().end()  # one in use is cleared away by the thread that uses it
        self._idle.put(Process(0))  # wakes a thread that waits for one

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_opened(header: wire.Header) -> OpenedVideo:
    facts = header["facts"]
    cuts = [(number, start, end) for number, start, end in header["cuts"]]
    return OpenedVideo(facts, facts["duration"], cuts, header["decoder"], header["why"])
