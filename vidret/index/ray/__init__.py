"""Indexing on Ray, for collections that need more than one machine; see ``run.index_on_ray``."""

import os

from vidret.errors import MissingExtraError

# Ray reads these at import; they turn off its output.
QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_enable_metrics_collection": "0",
}
os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
try:
    import ray  # noqa: F401
except ModuleNotFoundError:
    raise MissingExtraError("indexing on Ray", "ray") from None
