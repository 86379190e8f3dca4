"""A pool of decoding processes: a file that crashes, hangs or exhausts its decoder fails alone."""

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from typing import Self

from vidret.devices import CPU, cuda_index
from vidret.errors import DecodeError
from vidret.text import strip_query
from vidret.types import Resize, Sampling
from vidret.video.decoders.base import SamplingMode
from vidret.video.decoders.registry import Decoder, find_decoder, list_gpu_decoders
from vidret.video.decoders.torchcodec import load_torchcodec
from vidret.video.sampling import DEFAULT_SAMPLING, check_positive
from vidret.video.workers import messages
from vidret.video.workers.messages import Finished, Message, OpenedVideo, ReadPlan, ReadRequest
from vidret.video.workers.process import START_TIMEOUT_S, Process, ProcessGoneError, ProcessPool, make_command

_log = logging.getLogger(__name__)

_FILES_PER_PROCESS = 200
_MEMORY = 8 << 30  # bytes
NUM_PROCESSES = 2  # each needs a CUDA context of several hundred MB, and a card has few decoding units
_PROGRAM = """
import json, os, sys
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # native code prints, too
from vidret.video.decoders.registry import find_decoder
os.write(out, json.dumps(find_decoder(sys.argv[3]).try_gpu(int(sys.argv[2]))).encode())
"""


class DecodePool:
    """Decoding processes that are started on demand and reused from file to file.

    Several threads may stream at once, each from a separate process. ``start`` starts the processes before the first
    file. Use the pool as a context manager, or ``close`` it; streams in progress then fail.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        decoder: Decoder = "auto",
        devices: Sequence[str] = (CPU,),
        resize: Resize | None = None,
        sampling: Sampling = DEFAULT_SAMPLING,
        shot_sampling: SamplingMode | None = None,
        timeout: float = 120.0,
        memory: int = _MEMORY,
        started: ProcessPool | None = None,
    ) -> None:
        """Create a pool of ``num_workers`` processes, each for one file at a time, without starting any.

        For each device ``cuda:N``, two processes decode on that GPU the files that ``open_reader`` can decode there;
        the others decode on the CPU. A warning is logged if no decoder can use a device. Without ``resize`` frames are
        sent full-sized. ``sampling`` sets the frames of a segment and the rate of its sound; see ``cut_segments``.
        Unless videos are sampled as a whole, ``shot_sampling`` sets which frames are decoded to cut segments at shots,
        see ``Segmenter``; None cuts them on a grid.

        A decoder may stay silent for ``timeout`` seconds, and use ``memory`` bytes on the CPU, 0 for no limit. A GPU
        process has no limit, because its driver maps more address space than any useful one allows. ``started`` are
        processes from ``start_processes`` that replace new ones, without a GPU; they close with this pool. Raise
        ValueError if a number is not positive, or VidretError if torchcodec is requested and cannot be loaded.
        """
        check_positive(num_workers=num_workers, num_frames=sampling.num_frames, fps=sampling.fps, timeout=timeout)
        if decoder == "torchcodec":
            load_torchcodec()
        self._gpu_decoders = {device: find_gpu_decoders(device, decoder) for device in devices}
        gpus = [device for device in devices if self._gpu_decoders[device]]
        on_gpu = (gpus * NUM_PROCESSES)[:num_workers]
        if on_gpu and shot_sampling in ("balanced", "fast") and not sampling.whole:
            note = "GPU %s decodes all frames of the files that it reads, although sampling is %s"
            _log.warning(note, " and ".join(str(cuda_index(device)) for device in gpus), shot_sampling)
        self._timeout, self._has_warned = timeout, False
        self._request: messages.Header = {
            "decoder": decoder,
            "resize": asdict(resize) if resize else None,
            "sampling": asdict(sampling),
            "shot_sampling": shot_sampling,
        }
        self.processes = started or _make_processes(num_workers - len(on_gpu), memory, on_gpu)
        self.start = self.processes.start
        self.close = self.processes.close

    def stream(
        self,
        path: str | os.PathLike[str],
        *,
        plan: Callable[[OpenedVideo], ReadPlan] | None = None,
        words_reader: str = "",
        num_threads: int = 1,
    ) -> Iterator[Message]:
        """Yield an ``OpenedVideo``, the segments of the file in order, and ``Finished``; also the sources of the plan.

        On-screen texts come between the segments, speech and subtitles after ``Finished``. The decoder works at most
        about three segments ahead of the caller. Dropping the iterator stops it.

        ``plan`` is called with the ``OpenedVideo`` after it was yielded, and returns what to read; by default all
        segments. ``words_reader`` names the ``WordsReader`` of the decoding process, as "module:class". If segments
        follow shots, ``num_threads`` threads decode the file.

        Raises:
            DecodeError: The file is not a readable video, or its decoder crashed or stopped answering. The error is an
                ``UnreachableError`` if the store behind a URL is unavailable.
        """
        name = os.fspath(path)
        try:
            with self.processes.take() as process:
                yield from self._stream(process, name, plan, words_reader, num_threads)
        except ProcessGoneError as error:
            if self.processes.is_closed:
                raise RuntimeError("the pool is closed") from error
            raise DecodeError(name, str(error)) from error

    def _stream(
        self,
        process: Process,
        name: str,
        plan: Callable[[OpenedVideo], ReadPlan] | None,
        words_reader: str,
        num_threads: int,
    ) -> Iterator[Message]:
        request: ReadRequest = {}
        gpu_decoders = self._gpu_decoders.get(process.device, [])
        device_request = {"device": process.device, "gpu_decoders": gpu_decoders, "num_threads": num_threads}
        process.send(self._request | device_request, os.fsencode(name))
        while True:
            header, payload = process.receive(self._timeout)
            match header["kind"]:
                case "opened":
                    cuts = [(index, start, end) for index, start, end in header.pop("cuts")]
                    opened = OpenedVideo(**header["video"], cuts=cuts)
                    yield opened
                    wanted = plan(opened) if plan else ReadPlan(start=(0, opened.start))
                    request = wanted.words
                    reply = {"skip": sorted(wanted.skip), "start": wanted.start, "words": request}
                    process.send(reply | {"words_reader": words_reader})
                case "segment":
                    yield messages.read_decoded_segment(header, payload)
                case "texts" | "tracks" | "source_end":
                    yield messages.read_found(header)
                case "finished":
                    process.is_clean = not request
                    if header["note"]:
                        _log.warning("%s: %s", strip_query(name), header["note"])
                    if process.device != CPU:
                        self._note_fallback(name, header["fallback"])
                    yield Finished(header["salvaged"], header["fallback"])
                    if process.is_clean:
                        return
                case "end":
                    process.is_clean = True
                    return
                case "failed":
                    process.is_clean = True
                    raise messages.read_error(header, name)

    def _note_fallback(self, path: str, fallback: str) -> None:
        """Log a warning for the first file that fell back from the GPU to the CPU."""
        if fallback and not self._has_warned:
            self._has_warned = True
            _log.warning("%s: %s (further files are not reported)", strip_query(path), fallback)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def start_processes(num_workers: int) -> ProcessPool:
    """Start processes for a ``DecodePool`` on the CPU in the background, before the pool can be created."""
    processes = _make_processes(num_workers, _MEMORY)
    processes.start()
    return processes


def _make_processes(num_on_cpu: int, memory: int, gpus: Sequence[str] = ()) -> ProcessPool:
    """Create the processes of a pool without starting them: some on the CPU, and one for each entry of ``gpus``."""
    processes = [Process(memory) for _ in range(num_on_cpu)] + [Process(0, device=gpu) for gpu in gpus]
    return ProcessPool(processes, max_requests=_FILES_PER_PROCESS)


@cache
def find_gpu_decoders(device: str, decoder: Decoder) -> list[str]:
    """Return the allowed decoders that can use a device; if none can, log the reason once.

    ``auto`` allows Decord, and torchcodec if it is installed. For devices other than NVIDIA's, for which the CPU always
    decodes, it logs nothing.
    """
    gpu, wanted = cuda_index(device), list_gpu_decoders(decoder)
    if device == CPU or not wanted:
        return []
    if gpu is None:
        if decoder != "auto":
            _log.warning("%s can use only NVIDIA GPUs, so the CPU decodes for %s", find_decoder(decoder).title, device)
        return []
    faults = {name: _try_apart(gpu, name) for name in wanted}
    usable = [name for name, fault in faults.items() if not fault]
    if not usable:
        for name, fault in faults.items():
            _log.warning("%s cannot decode on GPU %d, so the CPU decodes: %s", find_decoder(name).title, gpu, fault)
    return usable


def _try_apart(gpu: int, decoder: str) -> str:
    """Return why a decoder cannot use the GPU with this CUDA index; empty if it can.

    A subprocess tries it, because the attempt may crash, and to end the CUDA context with it.
    """
    command = make_command(_PROGRAM, gpu, decoder)
    try:
        done = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer for {START_TIMEOUT_S:g} s"
    return str(json.loads(done.stdout)) if done.returncode == 0 else f"exit status {done.returncode}"
