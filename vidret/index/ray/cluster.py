"""Connecting to a Ray cluster, or starting Ray on this machine; and Ray's errors as one sentence."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any

import ray
from ray.exceptions import UnserializableException

from vidret.devices import CPU, cuda_index
from vidret.errors import VidretError, read_fault
from vidret.index.stages import count_cores

CONNECT_TIMEOUT_S = 10.0
CUDA_VISIBLE = "CUDA_VISIBLE_DEVICES"
OBJECT_STORE_BYTES = 1 << 30  # on this machine, for decoded segments that wait for encoding
# Environment variables for the nodes of a cluster; workers on this machine inherit them.
FORWARDED_VARIABLES = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", "TORCH_HOME")


@contextlib.contextmanager
def join_cluster(address: str | None, device: str = CPU) -> Iterator[None]:
    """Connect to the Ray cluster at an address, or start Ray on this machine, for the duration of the block.

    An existing connection of this process is used and kept. The address is ``auto``, ``HOST:PORT``, or None to start
    Ray on this machine, for ``cuda:N`` with that GPU only. Raise VidretError if there is no cluster at the address, or
    Ray cannot start.
    """
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    try:
        with _silence_stderr():
            _start(address, device)
    except Exception as error:  # Ray also raises plain exceptions
        ray.shutdown()
        problem = f"{address}: cannot be reached" if address else "Ray cannot start on this machine"
        raise VidretError(f"{problem} ({read_fault(error)})") from error
    # No public option keeps Ray from writing to stdout, or from starting again for a thread that outlives the run after
    # a second interrupt.
    ray._private.worker._worker_logs_enabled = False
    ray._private.auto_init_hook.enable_auto_connect = False
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
            except Exception:  # sometimes its processes take longer to start than Ray waits for them
                ray.shutdown()
                start()
    else:
        _check_port(address)
        variables = {name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ}
        ray.init(address, runtime_env={"env_vars": variables}, **quiet)


@contextlib.contextmanager
def _show_one_gpu(gpu: int | None) -> Iterator[None]:
    """Show only one GPU, by its index in this process, to processes started in the block; None changes nothing."""
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
    """Raise an error at once if nothing listens at an address; Ray itself retries for minutes."""
    host, _, port = address.rpartition(":")
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


def find_cause(error: BaseException) -> BaseException:
    """Return the innermost cause of an error from Ray."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    return error


def describe_ray_error(error: BaseException) -> str:
    """Return the innermost cause of an error from Ray, in one sentence."""
    error = find_cause(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    if isinstance(error, UnserializableException):  # its message is a traceback with the error in the last line
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}"
