"""An indexing run whose stages are on Ray Data: name contents, decode, encode; what comes of it is stored here.

Feature rows travel back to the driver, which is the one writer of the index. That is a deliberate difference from
workers that write files of their own: rows are small (a thousandth of their video), and one durable writer is what
makes "exactly once" simple. A segment is stored when its transaction is committed, by content, number and encoder;
whatever comes late or again changes nothing. So a lost worker or node costs the work it had in hand, which Ray Data
does again elsewhere, however often, and a lost driver costs what it had not committed, which the next run does.

Two data sets run after each other. The first names every file's content, so that copies are decoded once and nothing
that is stored is decoded again. The second decodes (tasks, each with a decoding process that its worker keeps) and
encodes (actors, each with a model). Segments pass from one to the other as they are decoded, and decoders wait when
too many lie in the object store: a long film never lies there whole.
"""

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
import ray.data

from vidret.devices import CPU, cuda_index
from vidret.encode.encoder import Encoder
from vidret.errors import VidretError
from vidret.index.progress import IndexReport, Progress
from vidret.index.ray.arrivals import Arrivals
from vidret.index.ray.cluster import join_cluster, tell_error
from vidret.index.ray.rows import Content, Encoded, FingerprintTask, distribute, read_rows
from vidret.index.ray.workers import Decoding, EncodeStage, StopFlag, decode_contents, name_contents
from vidret.index.run_state import SEGMENTS_AT_ONCE, Pack, RunState
from vidret.store.store import Store
from vidret.video.decode import Decoder

logger = logging.getLogger(__name__)

# Shares of a core, for Ray to count with. Together they fill a core, and where nodes are lost the actors that come back
# on the others leave room for decoding: the operating system shares the cores, as it does between workers.
DECODER_CPUS = 0.5
ENCODER_CPUS = 0.1
BLOCK_BYTES = 8 << 20  # segments that leave a decoder together
START = "seconds until Ray and the encoders were ready"
FILES_A_TASK = 32  # at most: what a lost worker has done is done again


def index_on_ray(
    store: Store,
    encoder: Encoder,
    files: Sequence[str],
    *,
    pack: Pack | None = None,
    tokens: bool = True,
    workers: int | None = None,
    decoder: Decoder = "auto",
    device: str = CPU,
    timeout: float = 120.0,
    retry_failed: bool = False,
    prune_below: Sequence[str] | None = None,
    check: Callable[[], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    address: str | None = None,
    num_gpus_per_worker: float | None = None,
    precision: str = "auto",
) -> IndexReport:
    """Bring an index up to date with files, as ``index_files`` does, its stages on Ray.

    Every node must see the files and the model under the same names, and have this version of vidret. Workers load the
    encoder by its name. An interrupt lets what was begun come to its end, segment by segment; a second one does not.

    Args:
        store: See ``index_files``, as for all that is not here.
        encoder: Its name is what workers load; what they get must have its fingerprint.
        files: See ``index_files``.
        pack: It travels to the workers.
        tokens: See ``index_files``.
        workers: Files decoded at once, and on CPUs models that encode; the number of the cluster's cores unless given.
        decoder: See ``index_files``.
        device: Where the engine computes. With ``cuda:N`` a Ray of this machine's own has that GPU alone; on a cluster
            Ray deals its GPUs out.
        timeout: See ``index_files``.
        retry_failed: See ``index_files``.
        prune_below: See ``index_files``.
        check: See ``index_files``.
        on_progress: See ``index_files``.
        address: Of a Ray cluster: ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``; unless given, Ray is started on this
            machine and ended again.
        num_gpus_per_worker: GPUs of each model that encodes, such as 1 or 0.5; 0 encodes on CPUs. Unless given, 1 where
            the device is CUDA and the cluster has a GPU, else 0.
        precision: See ``load_encoder``.

    Raises:
        VidretError: The index cannot be written, the cluster cannot be reached or lacks what is asked for, or a worker
            cannot encode as the index needs it. Files that fail raise nothing.
    """
    run_state = RunState(store, retry_failed=retry_failed)
    run_state.plan(files)
    if not run_state.jobs:
        return run_state.close(prune_below=prune_below)
    if check is not None:
        check()
    began = time.monotonic()
    if device != CPU and cuda_index(device) is None:
        logger.warning("Ray's workers cannot use %s, so they encode on the CPU", device)
    with join_cluster(address, device):
        run = RayRun(run_state, began, workers=workers, device=device, num_gpus_per_worker=num_gpus_per_worker)
        stage = {"pack": pack, "tokens": tokens, "precision": precision}
        decoding = Decoding(encoder.resize, encoder.sampling, decoder, timeout)
        run.work(encoder, decoding, stage, on_progress)
    return replace(run_state.close(prune_below=prune_below), speeds=run.speeds())


class RayRun:
    """One run: a thread of its own takes what comes from Ray and stores it, so that an interrupt disturbs neither."""

    def __init__(
        self, run_state: RunState, began: float, *, workers: int | None, device: str, num_gpus_per_worker: float | None
    ) -> None:
        """FingerprintTask at what the cluster has; Ray began to start at ``began``.

        Raises:
            VidretError: It is less than what is asked for.
        """
        self._run_state = run_state
        has = ray.cluster_resources()
        num_cores, num_gpus = int(has.get("CPU", 0)), has.get("GPU", 0.0)
        if num_gpus_per_worker is None:
            num_gpus_per_worker = 1.0 if cuda_index(device) is not None and num_gpus >= 1 else 0.0
        if num_gpus_per_worker > num_gpus:
            raise VidretError(
                f"num_gpus_per_worker must be at most what the cluster has ({num_gpus:g}), got {num_gpus_per_worker:g}"
            )
        self._gpus = num_gpus_per_worker
        self._num_decoders = max(1, workers or num_cores)
        self._num_encoders = int(num_gpus / num_gpus_per_worker) if num_gpus_per_worker else self._num_decoders
        # Where its node is lost it begins again elsewhere, and is set again.
        self._stop_flag = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(StopFlag).remote()
        self._left = threading.Event()
        self._contents: list[Content] = []
        self._spent: dict[str, float] = {"start": time.monotonic() - began}

    def work(
        self,
        encoder: Encoder,
        decoding: Decoding,
        stage: dict[str, Any],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Run to the end; see ``RunState.watch`` for how else it ends."""

        def follow() -> None:
            try:
                self._name()
                if self._contents and not self._run_state.stop.is_set():
                    self._index(encoder, decoding, stage)
            except ray.exceptions.RayError as error:
                if not self._left.is_set():
                    self._run_state.end(VidretError(f"Ray ended the run: {tell_error(error)}"))
            except BaseException as error:
                self._run_state.end(error)

        def tell(progress: Progress) -> None:
            if self._run_state.stop.is_set():
                self._stop_flag.set.remote()
            if on_progress is not None:
                on_progress(progress)

        try:
            self._run_state.watch([threading.Thread(target=follow, daemon=True)], tell)
        finally:
            self._left.set()

    def speeds(self) -> dict[str, float]:
        """Say how fast each stage was on what it ran on."""
        spent = self._spent
        rates = {
            "video seconds decoded, a second of a decoder": ("video", "decode"),
            "segments encoded, a second of an encoder": ("segments", "encode"),
            "segments stored, a second of the driver": ("segments", "store"),
        }
        told = {name: spent[what] / spent[by] for name, (what, by) in rates.items() if spent.get(by)}
        return told | {START: spent["start"]}

    # The two data sets

    def _name(self) -> None:
        """Sort the jobs by content; what is stored already is linked, what cannot be read fails."""
        jobs, store = self._run_state.jobs, self._run_state.store
        looks = [FingerprintTask(number, job.path) for number, job in enumerate(jobs)]
        tables = distribute(looks, max(min(self._num_decoders, len(looks)), len(looks) // FILES_A_TASK))
        names = _quietly(ray.data.from_arrow(tables)).map_batches(
            name_contents,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODER_CPUS,
            fn_kwargs={"stop_flag": self._stop_flag},
        )
        by_name: defaultdict[str, list[int]] = defaultdict(list)
        stamps: dict[int, tuple[int, ...]] = {}
        for row in self._rows(names):
            if row.error is not None:
                self._run_state.fail(jobs[row.file].path, row.error, jobs[row.file])
            else:
                by_name[row.identity.fingerprint].append(row.file)
                stamps[row.file] = row.identity.stamp
        begun = store.contents()
        for name, numbers in sorted(by_name.items(), key=lambda item: min(item[1])):
            numbers.sort()
            if (video := self._run_state.find_stored(jobs[numbers[0]], name)) is not None:
                for number in numbers:
                    self._run_state.link(jobs[number], video, encoded=False)
                continue
            content = Content(
                len(self._contents),
                name,
                tuple((number, jobs[number].path) for number in numbers),
                tuple(stamps[number] for number in numbers),
            )
            if (video := begun.get(name)) is not None:
                stored, planned = frozenset(store.stored_segments(video)), store.video(video).num_segments
                content = replace(content, stored=stored, num_segments=planned)
            self._contents.append(content)

    def _index(self, encoder: Encoder, decoding: Decoding, stage: dict[str, Any]) -> None:
        """Decode and encode the contents, and store what comes."""
        num = len(self._contents)
        tables = distribute(self._contents, max(min(num, 16 * self._num_decoders), num // FILES_A_TASK))
        kind = "cuda" if self._gpus else CPU  # Ray shows an actor its own GPU alone
        data = (
            _quietly(ray.data.from_arrow(tables))
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
                compute=ray.data.ActorPoolStrategy(size=min(self._num_encoders, num), max_tasks_in_flight_per_actor=2),
                num_cpus=ENCODER_CPUS,
                num_gpus=self._gpus or None,
                fn_constructor_args=(encoder.name, encoder.fingerprint),
                fn_constructor_kwargs={**stage, "device": kind},
            )
        )
        arrivals = Arrivals(self._run_state, self._contents)
        try:
            for rows in self._batches(data):
                arrivals.take(rows)
        finally:
            self._spent = {**arrivals.spent, "start": self._spent["start"]}

    def _rows(self, data: Any) -> Iterator[Any]:
        for rows in self._batches(data):
            yield from (about for about, _ in rows)

    def _batches(self, data: Any) -> Iterator[list[tuple[Any, Any]]]:
        """Give rows as they come, those of a block together."""
        began, first = time.monotonic(), True
        with contextlib.closing(iter(data.iter_batches(batch_size=None, batch_format="pyarrow"))) as tables:
            for table in tables:
                if self._left.is_set():
                    return
                rows = list(read_rows(table))
                if first:  # what its own rows took was work already
                    work = sum(about.part.seconds + about.seconds for about, _ in rows if isinstance(about, Encoded))
                    self._spent["start"] += time.monotonic() - began - work
                first = False
                yield rows


def _quietly(data: Any) -> Any:
    """Have a data set make blocks of our size, and keep its bars and news to itself."""
    context = data.context
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.wait_for_min_actors_s = 600  # so that decoders do not fill the memory while models load
    return data
