"""Ray itself: start it quietly on this machine, or join a cluster, and leave either as it was found."""

import contextlib
import logging
import os
from collections.abc import Iterator

from vidret.errors import MissingExtraError, VidretError
from vidret.indexing import count_cores

# Read while Ray is imported. What a run has to say, it says itself; nobody is told that it ran.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_enable_metrics_collection": "0",
}
os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
try:
    import ray
except ModuleNotFoundError:
    raise MissingExtraError("indexing on Ray", "ray") from None

STORE_BYTES = 1 << 30  # decoded segments that wait for an encoder, where the machine is ours
# What a node of a cluster must be told; a worker on this machine inherits it.
TOLD = ("PYTHONPATH", "HF_HUB_OFFLINE", "HF_HOME", "TORCH_HOME")


@contextlib.contextmanager
def join_cluster(address: str | None) -> Iterator[None]:
    """Be connected to Ray: to what runs at ``address`` or, unless one is given, to a Ray of this machine's own.

    Where this process is connected already, that stays; a Ray that was started here ends with the block.

    Raises:
        VidretError: There is no cluster at the address.
    """
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        yield
        return
    try:
        if address is None:
            ray.init(
                "local",
                num_cpus=count_cores(),
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
            )
        else:
            told = {name: os.environ[name] for name in TOLD if name in os.environ}
            ray.init(address, runtime_env={"env_vars": told}, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        reason = str(error).splitlines()[0]
        raise VidretError(
            f"{address or 'Ray'}: {'cannot be reached' if address else 'cannot start'} ({reason})"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def tell_error(error: BaseException) -> str:
    """Say in one sentence what Ray wraps in many: what went wrong first, where a worker ran our code."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None and cause is not error:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
