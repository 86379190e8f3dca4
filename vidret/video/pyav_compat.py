"""Arguments that differ between PyAV 16 and 19."""

from typing import Any

import av

_MAJOR = int(av.__version__.split(".")[0])

# Metadata need not be valid text. PyAV 19 always replaces invalid bytes, and no longer has this argument.
LENIENT_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if _MAJOR < 19 else {}

# PyAV 17 converts colours in its own threads, which hang in a forked process and compete with other workers.
ONE_THREAD: dict[str, Any] = {"threads": 1} if _MAJOR >= 17 else {}
