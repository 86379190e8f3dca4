"""An indexing run whose stages are on Ray Data: fingerprint files, decode, encode; the driver stores the results.

Embeddings travel back to the driver, which is the only writer of the index. They are small (a thousandth of their
video), and a single durable writer makes "exactly once" simple: a segment is stored when its transaction is committed,
by content, number and encoder, and late or repeated results change nothing. So a lost worker or node costs only the
work in progress there, which Ray Data repeats elsewhere, and a lost driver costs only what it had not committed, which
the next run repeats. Words are read in the same pass, and stored in the order in which they were read.

Two datasets run one after the other. The first fingerprints every file, so that copies are decoded once and stored
contents not at all. The second decodes (tasks, each with a decoding process that its worker keeps) and encodes (actors,
each with a model). Segments are passed on as they are decoded, and decoders wait while too many are in the object
store: a long film is never there as a whole.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.data
from ray.exceptions import UnserializableException

from vidret.channels.identities.kinds import TRACK_KINDS
from vidret.channels.texts.run import open_words
from vidret.devices import CPU, cuda_index
from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.index.options import IndexOptions, IndexReport, Progress
from vidret.index.ray.driver import ResultWriter, plan_contents
from vidret.index.ray.rows import ContentTask, EncodedRow, Fingerprinted, FingerprintTask, distribute, read_rows
from vidret.index.ray.workers import Decoding, EncodeStage, StopFlag, decode_contents, fingerprint_files
from vidret.index.run import count_cores
from vidret.index.run_state import RunState
from vidret.index.stages import SEGMENTS_AT_ONCE
from vidret.store.store import Store

logger = logging.getLogger(__name__)

# Fractions of a core for Ray's scheduler. Together they stay below a core, so that after the loss of nodes the actors
# that restart on others leave room for decoders. The operating system divides the cores according to the load.
DECODER_CPUS = 0.5
ENCODER_CPUS = 0.1
BLOCK_BYTES = 8 << 20  # of segments that leave a decoder together
START = "seconds until Ray and the encoders were ready"
FILES_PER_TASK = 32  # at most, since the work of a lost task is repeated


def index_on_ray(
    store: Store,
    encoder: Encoder,
    files: Sequence[str],
    options: IndexOptions,
    *,
    address: str | None = None,
    num_gpus_per_worker: float | None = None,
    precision: str = "auto",
) -> IndexReport:
    """Index the files that are new or changed, as ``index_files`` does, with the stages on Ray.

    Every node must have this version of vidret, and reach the files and the model under the same names. The first
    interrupt ends the run after the segments in progress, a second one at once.

    Args:
        store: See ``index_files``.
        encoder: Workers load the encoder by its name, and must get one with the same fingerprint.
        files: See ``index_files``.
        options: The options of the run.
        address: Ray cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None starts Ray on this machine for the
            duration of the run.
        num_gpus_per_worker: GPUs for each model that encodes, such as 1 or 0.5; 0 encodes on CPUs. By default 1 if the
            device is CUDA and the cluster has a GPU, else 0.
        precision: See ``load_encoder``.

    Raises:
        VidretError: The index cannot be written, the cluster cannot be reached or has too few GPUs, or a worker cannot
            load the encoder. Single files that fail raise nothing.
    """
    for kind in map(TRACK_KINDS.__getitem__, options.tracks):
        rule = f"{kind.name} must be read without Ray; index on Ray with --{kind.argument} off first"
        raise VidretError(f"{store.path}: {rule}")
    if options.moments is not None:
        logger.warning("Ray's workers store nothing for a grounding head: --prepare-moments takes another pass")
    with open_words(store, options.words, retry_failed=options.retry_failed) as words:
        run_state = RunState(store, retry_failed=options.retry_failed, words=words)
        if not run_state.prepare(files, options.check):
            return run_state.close(prune_below=options.prune_below)
        began = time.monotonic()
        if options.device != CPU and cuda_index(options.device) is None:
            logger.warning("Ray's workers cannot use %s, so they encode on the CPU", options.device)
        with join_cluster(address, options.device):
            run = RayRun(run_state, began, options, num_gpus_per_worker=num_gpus_per_worker)
            run.work(encoder, precision)
        return replace(run_state.close(prune_below=options.prune_below), speeds=run.speeds())


class RayRun:
    """One run. A separate thread receives and stores the results, so that an interrupt does not disturb it."""

    def __init__(
        self, run_state: RunState, began: float, options: IndexOptions, *, num_gpus_per_worker: float | None
    ) -> None:
        """Divide the resources of the cluster; ``began`` is when Ray was started.

        Raises:
            VidretError: The cluster has too few GPUs.
        """
        self._run_state, self._options = run_state, options
        resources = ray.cluster_resources()
        num_cores, num_gpus = int(resources.get("CPU", 0)), resources.get("GPU", 0.0)
        if num_gpus_per_worker is None:
            num_gpus_per_worker = 1.0 if cuda_index(options.device) is not None and num_gpus >= 1 else 0.0
        if num_gpus_per_worker > num_gpus:
            raise VidretError(
                f"num_gpus_per_worker must be at most what the cluster has ({num_gpus:g}), got {num_gpus_per_worker:g}"
            )
        self._gpus = num_gpus_per_worker
        self._num_decoders = max(1, options.workers or num_cores)
        self._num_encoders = int(num_gpus / num_gpus_per_worker) if num_gpus_per_worker else self._num_decoders
        # After the loss of its node the actor restarts unset, and is set again by the next progress report.
        self._stop_flag = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(StopFlag).remote()
        self._abandoned = threading.Event()
        self._contents: list[ContentTask] = []
        self._spent: dict[str, float] = {"start": time.monotonic() - began}

    def work(self, encoder: Encoder, precision: str) -> None:
        """Run to the end or to an interrupt; see ``RunState.watch``."""

        def receive() -> None:
            try:
                self._contents = plan_contents(self._run_state, self._fingerprint_jobs())
                if self._contents and not self._run_state.stop.is_set():
                    self._index(encoder, precision)
            except ray.exceptions.RayError as error:
                if not self._abandoned.is_set():
                    self._run_state.end(VidretError(f"Ray ended the run: {describe_ray_error(error)}"))
            except BaseException as error:
                self._run_state.end(error)

        def report(progress: Progress) -> None:
            if self._run_state.stop.is_set():
                self._stop_flag.set.remote()
            if self._options.on_progress is not None:
                self._options.on_progress(progress)

        try:
            self._run_state.watch([threading.Thread(target=receive, daemon=True)], report)
        finally:
            self._abandoned.set()

    def speeds(self) -> dict[str, float]:
        """Return the throughput of each stage per process, by a description of its unit."""
        spent = self._spent
        rates = {
            "video seconds decoded, a second of a decoder": ("video", "decode"),
            "segments encoded, a second of an encoder": ("segments", "encode"),
            "segments stored, a second of the driver": ("segments", "store"),
        }
        speeds = {
            name: spent[output] / spent[stage]
            for name, (output, stage) in rates.items()
            if spent.get(output) and spent.get(stage)  # none if only words were read
        }
        return speeds | {START: spent["start"]}

    # The two datasets

    def _fingerprint_jobs(self) -> Iterator[Fingerprinted]:
        tasks = [FingerprintTask(index, job.path) for index, job in enumerate(self._run_state.jobs)]
        tables = distribute(tasks, max(min(self._num_decoders, len(tasks)), len(tasks) // FILES_PER_TASK))
        data = _configure(ray.data.from_arrow(tables)).map_batches(
            fingerprint_files,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODER_CPUS,
            fn_kwargs={"stop_flag": self._stop_flag},
        )
        for rows in self._iterate(data):
            yield from (value for value, _ in rows)

    def _index(self, encoder: Encoder, precision: str) -> None:
        """Decode and encode the contents, and store the results."""
        options, num_contents = self._options, len(self._contents)
        decoding = Decoding(
            resize=encoder.resize,
            sampling=encoder.sampling,
            decoder=options.decoder,
            timeout=options.timeout,
            shot_sampling=options.shot_sampling,
            words=options.words,
        )
        stage = {"pack": options.pack, "tokens": options.tokens, "precision": precision}
        num_tables = max(min(num_contents, 16 * self._num_decoders), num_contents // FILES_PER_TASK)
        tables = distribute(self._contents, num_tables)
        device = "cuda" if self._gpus else CPU  # an actor sees only the GPU that Ray assigns to it
        num_encoders = min(self._num_encoders, num_contents)
        data = (
            _configure(ray.data.from_arrow(tables))
            .map_batches(
                decode_contents,
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.TaskPoolStrategy(min(self._num_decoders, len(tables))),
                num_cpus=DECODER_CPUS,
                fn_kwargs={"decoding": decoding, "stop_flag": self._stop_flag},
            )
            .map_batches(
                EncodeStage,
                batch_size=SEGMENTS_AT_ONCE if self._gpus else None,  # None: blocks as they come
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=num_encoders, max_tasks_in_flight_per_actor=2),
                num_cpus=ENCODER_CPUS,
                num_gpus=self._gpus or None,
                fn_constructor_args=(encoder.name, encoder.fingerprint),
                fn_constructor_kwargs={**stage, "device": device},
            )
        )
        writer = ResultWriter(self._run_state, self._contents)
        try:
            for rows in self._iterate(data):
                writer.write(rows)
        finally:
            self._spent = {**writer.spent, "start": self._spent["start"]}

    def _iterate(self, data: Any) -> Iterator[list[tuple[Any, Any]]]:
        """Yield the rows of each block as it comes, and measure how long the first one took to start."""
        began, is_first = time.monotonic(), True
        with contextlib.closing(iter(data.iter_batches(batch_size=None, batch_format="pyarrow"))) as tables:
            for table in tables:
                if self._abandoned.is_set():
                    return
                rows = list(read_rows(table))
                if is_first:  # without the work on its own rows
                    work = sum(row.segment.seconds + row.seconds for row, _ in rows if isinstance(row, EncodedRow))
                    self._spent["start"] += time.monotonic() - began - work
                is_first = False
                yield rows


def _configure(data: Any) -> Any:
    """Set the block size of a dataset, and turn its progress output off."""
    context = data.context
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = 600  # so that decoders do not fill the memory while models load
    return data


CONNECT_TIMEOUT_S = 10.0
CUDA_VISIBLE = "CUDA_VISIBLE_DEVICES"
OBJECT_STORE_BYTES = 1 << 30  # on this machine, for decoded segments that wait for an encoder
# Environment variables that the nodes of a cluster need; workers on this machine inherit them.
FORWARDED_VARIABLES = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", "TORCH_HOME")


@contextlib.contextmanager
def join_cluster(address: str | None, device: str = CPU) -> Iterator[None]:
    """Connect to the Ray cluster at an address, or start Ray on this machine, for the duration of the block.

    An existing connection of this process is used and kept.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; None starts Ray on this machine.
        device: With ``cuda:N``, a Ray started here has that GPU and no other.

    Raises:
        VidretError: There is no cluster at the address, or Ray cannot start.
    """
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data\.")  # advice to programmers
    try:
        with _silence_stderr():
            _start(address, device)
    except Exception as error:  # Ray also raises plain exceptions
        ray.shutdown()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        problem = f"{address}: cannot be reached" if address else "Ray cannot start on this machine"
        raise VidretError(f"{problem} ({reason})") from error
    ray._private.worker._worker_logs_enabled = False  # there is no public way to keep it from writing to stdout
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str | None, device: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        resources: dict[str, Any] = {"num_cpus": count_cores(), "object_store_memory": OBJECT_STORE_BYTES}
        if cuda_index(device) is not None:
            resources["num_gpus"] = 1
        with _show_one_gpu(cuda_index(device)):
            start = partial(ray.init, "local", include_dashboard=False, **resources, **quiet)
            try:
                start()
            except Exception:  # now and then its processes take longer to start than it waits for them
                ray.shutdown()
                start()
    else:
        _check_port(address)
        variables = {name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ}
        ray.init(address, runtime_env={"env_vars": variables}, **quiet)


@contextlib.contextmanager
def _show_one_gpu(gpu: int | None) -> Iterator[None]:
    """Make a single GPU, given by its index in this process, visible to processes started inside; None does nothing."""
    before = os.environ.get(CUDA_VISIBLE)
    if gpu is not None:
        os.environ[CUDA_VISIBLE] = before.split(",")[gpu].strip() if before else str(gpu)
    try:
        yield
    finally:
        if before is not None:
            os.environ[CUDA_VISIBLE] = before
        elif gpu is not None:
            del os.environ[CUDA_VISIBLE]


def _check_port(address: str) -> None:
    """Raise an error soon if nothing listens at an address; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


@contextlib.contextmanager
def _silence_stderr() -> Iterator[None]:
    """Discard what native code writes to stderr, such as a notice that its log level was lowered."""
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def describe_ray_error(error: BaseException) -> str:
    """Return the innermost cause of an error from Ray, in one sentence."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if isinstance(error, UnserializableException):  # a traceback with the error in its last line
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}"
