"""Arguments that differ between the versions of PyAV, 14 to 19."""

from typing import Any

import av

_MAJOR = int(av.__version__.split(".")[0])

# Metadata need not be valid text. From 19 on PyAV always replaces what is not, and has no such argument.
LENIENT_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if _MAJOR < 19 else {}

# From 17 on PyAV converts colours in threads of its own, which hang in a forked process and compete with other workers.
ONE_THREAD: dict[str, Any] = {"threads": 1} if _MAJOR >= 17 else {}
