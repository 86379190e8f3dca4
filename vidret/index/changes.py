"""Changes of files below folders, told by the operating system through watchfiles."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidret.errors import MissingExtraError, VidretError
from vidret.text import absolute_path, is_url, show_path
from vidret.video.scan import is_below

SETTLE_MS = 2000  # a file that is being copied changes more often than this
BEGIN_MS = 500  # without a change in this time, the files are watched
LONGEST_MS = 10_000  # changes are told after this time even if they go on, such as those of an index that is searched


def check_watchable(paths: Sequence[str]) -> list[str]:
    """Return the absolute paths of folders and files to watch; raise VidretError if one is neither, such as a URL.

    Raise MissingExtraError if the extra ``watch`` is not installed.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise MissingExtraError("--watch", "watch")
    for path in paths:
        if is_url(path) or not Path(path).expanduser().exists():
            raise VidretError(f"must be existing folders or files to watch, got {show_path(path)}")
    return [absolute_path(os.path.expanduser(path)) for path in paths]  # noqa: PTH111  a path may hold any bytes


def iterate_changes(paths: Sequence[str], ignored: str | os.PathLike[str]) -> Iterator[None]:
    """Yield once files and folders, at any depth, are watched, and whenever some changed and have since kept still.

    What changes while the caller is busy is told afterwards. The files of the folder ``ignored``, such as that of the
    index, do not count. Ctrl-C ends it.
    """
    from watchfiles import watch

    hidden = absolute_path(ignored)

    def is_wanted(_change: Any, path: str) -> bool:
        return path != hidden and not is_below(path, hidden)

    settings: dict[str, Any] = {"debounce": LONGEST_MS, "step": SETTLE_MS, "rust_timeout": BEGIN_MS}
    watching = watch(*paths, watch_filter=is_wanted, yield_on_timeout=True, **settings)
    with contextlib.suppress(KeyboardInterrupt):  # with raise_interrupt=False, watchfiles would log a warning
        for number, changes in enumerate(watching):
            if changes or not number:
                yield
