"""The watches of an index: queries that it keeps, to report which videos added later match them."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vidret.errors import StoreError

FILE = "watches.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A query that is asked of every new video.

    Attributes:
        name: Its name.
        query: Text.
        last_video: The greatest id of a video that needs no report; ids only grow.
    """

    name: str
    query: str
    last_video: int


def read_watches(index: Path) -> list[Watch]:
    """Return the watches of an index, in the order in which they were added.

    Raises:
        StoreError: Their file cannot be read.
    """
    path = index / FILE
    if not path.exists():
        return []
    try:
        return [Watch(**row) for row in json.loads(path.read_text("utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read as watches: {error}") from error


def write_watches(index: Path, watches: Sequence[Watch]) -> None:
    """Replace the watches of an index.

    Raises:
        StoreError: Their file cannot be written; the old one stays.
    """
    path = index / FILE
    draft = path.with_suffix(".tmp")
    try:
        draft.write_text(json.dumps([asdict(each) for each in watches], indent=1, ensure_ascii=False), "utf-8")
        os.replace(draft, path)  # noqa: PTH105  a run that is killed leaves the old file
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}") from error
