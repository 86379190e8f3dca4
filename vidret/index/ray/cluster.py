"""Ray itself: start it quietly on this machine, or join a cluster, and leave either as it was found."""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import UnserializableException

from vidret.devices import CPU, cuda_index
from vidret.errors import VidretError
from vidret.index.run import count_cores

CONNECT_SECONDS = 10.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
STORE_BYTES = 1 << 30  # decoded segments that wait for an encoder, where the machine is ours
# What a node of a cluster must be told; a worker on this machine inherits it.
TOLD = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", "TORCH_HOME")


@contextlib.contextmanager
def join_cluster(address: str | None, device: str = CPU) -> Iterator[None]:
    """Be connected to Ray: to what runs at ``address`` or, unless one is given, to a Ray of this machine's own.

    With the device ``cuda:N`` the latter has that GPU and no other.

    Where this process is connected already, that stays; a Ray that was started here ends with the block.

    Raises:
        VidretError: There is no cluster at the address.
    """
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data\.")  # advice on sizes, to programmers
    try:
        with _silent():
            _start(address, device)
    except Exception as error:  # Ray raises plain ones, too
        ray.shutdown()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        what = f"{address}: cannot be reached" if address else "Ray cannot start on this machine"
        raise VidretError(f"{what} ({reason})") from error
    ray._private.worker._worker_logs_enabled = False  # no public switch keeps it from writing to our stdout
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str | None, device: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        own: dict[str, Any] = {"num_cpus": count_cores(), "object_store_memory": STORE_BYTES}
        if cuda_index(device) is not None:
            own["num_gpus"] = 1
        with _showing(cuda_index(device)):
            ray.init("local", include_dashboard=False, **own, **quiet)
    else:
        _knock(address)
        told = {name: os.environ[name] for name in TOLD if name in os.environ}
        ray.init(address, runtime_env={"env_vars": told}, **quiet)


@contextlib.contextmanager
def _showing(gpu: int | None) -> Iterator[None]:
    """Let processes that start inside see one GPU alone, of which this process has the number; None changes nothing."""
    before = os.environ.get(VISIBLE)
    if gpu is not None:
        os.environ[VISIBLE] = before.split(",")[gpu].strip() if before else str(gpu)
    try:
        yield
    finally:
        if before is not None:
            os.environ[VISIBLE] = before
        elif gpu is not None:
            del os.environ[VISIBLE]


def _knock(address: str) -> None:
    """Tell soon where nobody answers: Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what native code writes off stderr: among it is a line which says that it was told to write less."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def tell_error(error: BaseException) -> str:
    """Say in one sentence what Ray wraps in many: what went wrong first, where a worker ran our code."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if isinstance(error, UnserializableException):  # a traceback, whose last line says it
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}"
