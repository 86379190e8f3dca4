"""Answers of language models on disk, so that nothing is asked twice."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

MAX_REPLIES = 10_000
MARGIN = 0.9  # of the replies are left when the oldest are removed


class ReplyCache:
    """A folder of answers by key. Processes may share it; what cannot be written is not kept."""

    def __init__(self, folder: str | os.PathLike[str], *, max_replies: int = MAX_REPLIES) -> None:
        """Open the cache; the folder is created with the first answer."""
        self._folder, self._max_replies = Path(folder), max_replies

    def get(self, key: str) -> str | None:
        """Return an answer; None if there is none."""
        try:
            return self._find(key).read_text("utf-8") or None
        except (OSError, ValueError):
            return None

    def put(self, key: str, reply: str) -> None:
        """Keep an answer, and remove the oldest ones if there are too many."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, delete=False, encoding="utf-8") as file:
                file.write(reply)
            Path(file.name).replace(self._find(key))
            self._shrink()

    def _find(self, key: str) -> Path:
        return self._folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.txt"

    def _shrink(self) -> None:
        kept = list(self._folder.glob(f"{'[0-9a-f]' * 32}.txt"))
        if len(kept) > self._max_replies:
            oldest = sorted(kept, key=lambda path: path.stat().st_mtime_ns)
            for path in oldest[: len(kept) - int(MARGIN * self._max_replies)]:
                path.unlink(missing_ok=True)
