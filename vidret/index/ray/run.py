"""An indexing run with stages on Ray: workers fingerprint, decode and encode, and the driver stores the results.

As in a run on threads, the driver has a thread per decoder. Frames go from the worker that decodes them to the one that
encodes them; only embeddings go to the driver, the only writer of the index. It knows which segments are stored, so
that a file is resumed from there after the loss of a worker, and by the next run after the loss of the driver.
"""

import asyncio
import logging
import random
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from threading import Event, Lock, Thread, current_thread
from typing import Any
from uuid import uuid4

import numpy as np
import ray
from jaxtyping import Float32
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vidret.channels.identities import TRACK_KINDS
from vidret.channels.texts.sentence_models import SentenceSpace
from vidret.devices import CPU, cuda_index
from vidret.encode.encoder import Encoder
from vidret.errors import DecodeError, VidretError
from vidret.index.options import IndexOptions, IndexReport, Pack
from vidret.index.ray.cluster import describe_ray_error, find_cause, join_cluster
from vidret.index.run import StopRun, run_workers
from vidret.index.run_state import END_INTERVAL_S, are_running, open_run
from vidret.index.stages import (
    SEGMENTS_AT_ONCE,
    EncodingThreads,
    WorkerLostError,
    encode_segments,
    open_decoders,
    stream_unchanged,
)
from vidret.store.store import Store
from vidret.types import Resize, Sampling, SegmentEmbedding
from vidret.video.identity import Identity, identify
from vidret.video.sampling import SampledFrames
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Message, OpenedVideo, ReadPlan, ReadTexts
from vidret.video.workers.pool import DecodePool

logger = logging.getLogger(__name__)

# Fractions of a core for Ray's scheduler. Their sum is below 1, so that actors which restart on other nodes after the
# loss of some leave room for decoders. The operating system divides the cores by load.
DECODER_CPUS = 0.5
ENCODER_CPUS = 0.1
START = "seconds until Ray and the encoders were ready"
OBJECTS_AHEAD = 4  # objects from a decoder not yet taken by the driver: two segments, each with its frames
POLL_S = 0.5
START_TIMEOUT_S = 600.0  # until all encoders are loaded


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

    Every node must have this version of vidret, and access to the files and the model by the same names. The first
    interrupt ends the run after the segments in progress, a second one at once.

    Workers load the encoder by name, with the ``precision`` of ``load_encoder``, and must get the same fingerprint. The
    address of the cluster is ``auto`` or ``HOST:PORT``; None starts Ray on this machine for the duration of the run.
    ``num_gpus_per_worker`` is the number of GPUs per encoder, such as 1 or 0.5; 0 encodes on CPUs. By default it is 1
    if the device is CUDA and the cluster has a GPU, else 0.

    Raises:
        VidretError: The index cannot be written, the cluster cannot be reached or has too few GPUs, or a worker cannot
            load the encoder. Single files that fail raise nothing.
    """
    if options.moments is not None:
        logger.warning("Ray's workers store nothing for a grounding head: --prepare-moments takes another pass")
    options = replace(options, moments=None)
    with open_run(store, options) as run_state:
        if not run_state.prepare(files, options.check):
            return run_state.close(prune_below=options.prune_below)
        began = time.monotonic()
        if options.device != CPU and cuda_index(options.device) is None:
            logger.warning("Ray's workers cannot use %s, so they encode on the CPU", options.device)
        try:
            with join_cluster(address, options.device):
                num_gpus = choose_gpus(num_gpus_per_worker, options.device)
                with RayStages(encoder, options, num_gpus, precision, len(run_state.jobs)) as stages:
                    started_s = time.monotonic() - began
                    run_workers(run_state, stages, stages.num_decoders, options)
        except RayError as error:
            raise VidretError(f"Ray ended the run: {describe_ray_error(error)}") from error
        return replace(
            run_state.close(prune_below=options.prune_below),
            speeds=stages.speeds(run_state.storing_s) | {START: started_s},
        )


def choose_gpus(wanted: float | None, device: str) -> float:
    """Return the number of GPUs per encoder, which the cluster must have; see ``index_on_ray``."""
    num_gpus = ray.cluster_resources().get("GPU", 0.0)
    if wanted is None:
        return 1.0 if cuda_index(device) is not None and num_gpus >= 1 else 0.0
    if wanted > num_gpus:
        raise VidretError(f"num_gpus_per_worker must be at most what the cluster has ({num_gpus:g}), got {wanted:g}")
    return wanted


class RayStages:
    """Stages on the nodes of a cluster; see ``Stages``. Use them as a context manager."""

    def __init__(self, encoder: Encoder, options: IndexOptions, num_gpus: float, precision: str, num_jobs: int) -> None:
        """Start the encoders, with ``num_gpus`` each, and wait for them.

        Raise VidretError if one cannot be loaded, or has another fingerprint.
        """
        resources = ray.cluster_resources()
        num_cores = max(1, options.workers or int(resources.get("CPU", 0)))
        self.num_decoders = min(num_cores, num_jobs)
        num_encoders = min(int(resources.get("GPU", 0.0) / num_gpus) if num_gpus else num_cores, num_jobs)
        self.pack: Pack | None = _get_packed
        # Tasks get these by reference, so that they are sent once.
        self._decoding = ray.put(
            (encoder.resize, encoder.sampling, replace(options, pack=None, check=None, on_progress=None))
        )
        tasks = {"num_cpus": DECODER_CPUS, "scheduling_strategy": "SPREAD"}
        self._identify = ray.remote(max_retries=-1, **tasks)(identify_file)
        streaming = {"num_returns": "streaming", "_generator_backpressure_num_objects": OBJECTS_AHEAD}
        self._decode = ray.remote(max_retries=0, **streaming, **tasks)(decode_file)  # the driver itself retries
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._plans = ray.remote(num_cpus=0, scheduling_strategy=here)(Plans).remote()
        start = ray.remote(
            num_cpus=ENCODER_CPUS, num_gpus=num_gpus, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD"
        )(RemoteEncoder).remote
        # An actor sees only the GPU that Ray assigns to it.
        device = "cuda" if num_gpus else CPU
        self._actors = [
            start(encoder.name, encoder.fingerprint, device, precision, options.pack, tokens=options.tokens)
            for _ in range(num_encoders)
        ]
        self._lock, self._spent = Lock(), defaultdict[str, float](float)
        self._is_closed, self._threads = Event(), set[Thread]()
        self._streams: dict[str, Any] = {}  # messages from decoders, by the key of their plan
        checks = [actor.check.remote() for actor in self._actors]
        if len(ray.wait(checks, num_returns=len(checks), timeout=START_TIMEOUT_S)[0]) < len(checks):
            raise VidretError(f"the {num_encoders} encoders must start within {START_TIMEOUT_S:g} s, got fewer")
        for check in checks:
            self._get(check)
        # While an actor encodes a batch on a GPU, the next one is sent.
        encoders = [partial(self._encode, actor) for actor in self._actors] * (2 if num_gpus else 1)
        self._encoding = EncodingThreads(encoders, at_once=SEGMENTS_AT_ONCE if num_gpus else 1)
        self.encode: Callable[[SampledFrames], Future[SegmentEmbedding]] = self._encoding.submit

    def identify(self, path: str, heartbeat: Callable[[], None]) -> Identity:
        """See ``Stages``."""
        self._threads.add(current_thread())
        identity: Identity = self._get(self._identify.remote(path), heartbeat)
        return identity

    def stream(
        self, path: str, identity: Identity, plan: Callable[[OpenedVideo], ReadPlan], num_threads: int
    ) -> Iterator[Message]:
        """See ``Stages``; a decoder has one thread. The frames of a segment are a Ray reference."""
        self._threads.add(current_thread())
        key = uuid4().hex
        self._streams[key] = sent = self._decode.remote(path, identity, self._decoding, self._plans, key)
        try:
            while True:
                message, seconds = self._get(self._take_next(sent))
                if message is None:
                    del self._streams[key]
                    return
                if isinstance(message, DecodedSegment):
                    self._count(decode=seconds, video=message.end - message.start)
                    message = replace(message, frames=self._take_next(sent))
                yield message
                if isinstance(message, OpenedVideo):
                    self._plans.put.remote(key, plan(message))
        finally:
            self._cancel(key)

    def _take_next(self, sent: Any) -> Any:
        """Return the next reference from a decoder that has not sent its end.

        If the decoder is lost, one reference is an error, possibly in place of frames, and no others follow.
        """
        self._wait(sent)
        for reference in sent:
            return reference
        raise WorkerLostError("a decoder is gone")

    def _cancel(self, key: str) -> None:
        sent = self._streams.pop(key, None)
        if sent is not None:
            ray.cancel(sent)

    def embed(self, message: ReadTexts, space: SentenceSpace) -> Float32[np.ndarray, "text dim"]:
        """See ``Stages``."""
        vectors: Float32[np.ndarray, "text dim"] = self._get(random.choice(self._actors).embed.remote(message, space))
        return vectors

    def speeds(self, storing_s: float) -> dict[str, float]:
        """Return the throughput of each stage per process, by a description of its unit."""
        spent = {**self._spent, "store": storing_s}
        rates = {
            "video seconds decoded, a second of a decoder": ("video", "decode"),
            "segments encoded, a second of an encoder": ("segments", "encode"),
            "segments stored, a second of the driver": ("segments", "store"),
        }
        return {
            name: spent[output] / spent[stage]
            for name, (output, stage) in rates.items()
            if spent.get(output) and spent.get(stage)  # empty if only words were read
        }

    def _encode(self, actor: Any, references: Sequence[Any]) -> list[SegmentEmbedding]:
        embeddings, seconds = self._get(actor.encode.remote(*references))
        self._count(encode=seconds, segments=len(embeddings))
        return list(embeddings)

    def _count(self, **spent: float) -> None:
        with self._lock:
            for name, amount in spent.items():
                self._spent[name] += amount

    def __enter__(self) -> "RayStages":
        self._encoding.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for all threads that use Ray, since shutting it down during a call crashes the process."""
        self._is_closed.set()
        self._encoding.__exit__(*error)
        self._encoding.join()
        while are_running(self._threads):  # after a second interrupt
            time.sleep(END_INTERVAL_S)
        for key in list(self._streams):
            self._cancel(key)

    def _wait(self, reference: Any, heartbeat: Callable[[], None] | None = None) -> None:
        """Wait until a reference is available: remote code has returned it, or a decoder has sent it.

        Raise StopRun if these stages are closed.
        """
        while not self._is_closed.is_set():
            if ray.wait([reference], timeout=POLL_S, fetch_local=False)[0]:
                return
            if heartbeat is not None:
                heartbeat()
        raise StopRun

    def _get(self, reference: Any, heartbeat: Callable[[], None] | None = None) -> Any:
        """Return the result of remote code, or raise the ``VidretError`` that it returned as its result.

        Raises:
            VidretError: It failed in another way.
            WorkerLostError: The process or node with the result is lost.
            StopRun: These stages are closed.
        """
        self._wait(reference, heartbeat)
        try:
            value = ray.get(reference)
        except RayError as error:
            cause = find_cause(error)
            if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
                raise WorkerLostError(describe_ray_error(error)) from error
            raise VidretError(f"Ray ended the run: {describe_ray_error(error)}") from error
        if isinstance(value, VidretError):
            raise value
        return value


# Code that runs on workers


class Plans:
    """An actor that passes the driver's answers to decoders."""

    def __init__(self) -> None:
        self._plans = defaultdict[str, "asyncio.Future[ReadPlan]"](asyncio.Future)

    async def put(self, key: str, plan: ReadPlan) -> None:
        """Answer a decoder."""
        self._plans[key].set_result(plan)

    async def take(self, key: str) -> ReadPlan:
        """Wait for the answer to a decoder."""
        plan = await self._plans[key]
        del self._plans[key]
        return plan


def identify_file(path: str) -> Identity | VidretError:
    """Return the identity of a file, or the error if it cannot be read."""
    try:
        return identify(path)
    except VidretError as error:
        return _name_host(error)


def decode_file(
    path: str, identity: Identity, decoding: tuple[Resize, Sampling, IndexOptions], plans: Any, key: str
) -> Iterator[Any]:
    """Yield the messages about a file with their durations in seconds, each segment before its frames, or an error.

    None in place of a message marks the end.
    """
    since = time.monotonic()
    try:
        pool = _open_pool(*decoding)
        for message in stream_unchanged(pool, path, identity, plan=lambda _opened: ray.get(plans.take.remote(key))):
            seconds = time.monotonic() - since
            if isinstance(message, DecodedSegment):
                yield replace(message, frames=None), seconds  # type: ignore[arg-type]
                yield message.frames
            else:
                yield message, seconds
            since = time.monotonic()
        yield None, 0.0
    except VidretError as error:
        yield _name_host(error)


def _name_host(error: Exception) -> VidretError:
    """Return an error of a file unchanged, and any other with the name of this machine."""
    if isinstance(error, DecodeError):
        return error
    reason = str(error) if isinstance(error, VidretError) else f"{type(error).__name__}: {error}"
    return VidretError(f"{socket.gethostname()}: {reason}")


_pools: dict[object, DecodePool] = {}


def _open_pool(resize: Resize, sampling: Sampling, options: IndexOptions) -> DecodePool:
    """Return the decoding process of this worker, which ends with the worker."""
    key = repr((resize, sampling, options))
    if key not in _pools:
        if options.words is not None:
            options.words.check_installed()
            options.words.check_models()
        for kind, model in options.tracks.items():
            TRACK_KINDS[kind].check_installed(model)
        _pools[key] = open_decoders(1, resize, sampling, options, [CPU])
    return _pools[key]


class RemoteEncoder:
    """An actor with an encoder that encodes segments of any videos."""

    def __init__(
        self, name: str, fingerprint: str, device: str, precision: str, pack: Pack | None, *, tokens: bool
    ) -> None:
        """Load an encoder by name; if that fails or the fingerprint differs, every call returns the error."""
        import torch

        from vidret.encode.families.registry import load_encoder

        torch.set_num_threads(1)  # one actor per core
        self._pack, self._tokens, self._failure = pack, tokens, ""
        host = socket.gethostname()
        try:
            self._encoder = load_encoder(name, device=device, precision=precision)
        except VidretError as error:
            self._failure = f"{host}: {error}; every node must reach the model's files under the same name"
            return
        if self._encoder.fingerprint != fingerprint:
            actual = f"got {self._encoder.fingerprint} on {host}; every node must have the same model's files"
            self._failure = f"{name} must have the fingerprint {fingerprint}, {actual}"

    def check(self) -> VidretError | None:
        """Return the error if the encoder cannot be used, else None."""
        return VidretError(self._failure) if self._failure else None

    def encode(self, *segments: SampledFrames) -> "tuple[list[PackedEmbedding], float] | VidretError":
        """Return the embeddings of segments, and the duration in seconds."""
        if self._failure:
            return VidretError(self._failure)
        since = time.monotonic()
        try:
            embeddings = encode_segments(self._encoder, segments, pack=self._pack, tokens=self._tokens)
            packed = [_pack_embedding(embedding, self._pack) for embedding in embeddings]
        except Exception as error:  # out of memory or a broken model; other segments would fail, too
            reason = f"the encoder broke: {type(error).__name__}: {error}".splitlines()[0]
            return VidretError(f"{socket.gethostname()}: {reason}")
        return packed, time.monotonic() - since

    def embed(self, message: ReadTexts, space: SentenceSpace) -> "Float32[np.ndarray, 'text dim'] | VidretError":
        """Return the vectors of texts in the space of a sentence model."""
        from vidret.channels.texts.run import embed_texts
        from vidret.channels.texts.sentence_models import load_model_in

        try:
            return embed_texts(load_model_in(space), message.texts)
        except Exception as error:  # as in ``encode``
            return _name_host(error)


@dataclass(frozen=True, slots=True, eq=False)
class PackedEmbedding(SegmentEmbedding):
    """Only the stored parts of an embedding, as half floats, so that less is sent."""

    packed: bytes = b""


def _pack_embedding(embedding: SegmentEmbedding, pack: Pack | None) -> PackedEmbedding:
    with np.errstate(over="ignore"):  # the store reports values that overflow
        video, frames = embedding.video.astype(np.float16), embedding.frames.astype(np.float16)
    return PackedEmbedding(video, frames, embedding.times, packed=b"" if pack is None else pack(embedding))


def _get_packed(embedding: SegmentEmbedding) -> bytes:
    return embedding.packed if isinstance(embedding, PackedEmbedding) else b""
