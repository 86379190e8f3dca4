"""Lookup of the videos of an index by path."""

import os

from vidret.errors import StoreError
from vidret.store.store import Store
from vidret.text import absolute_path, strip_query


def look_up_video(store: Store, video: str | os.PathLike[str] | int) -> int:
    """Return the id of a video by its path or id.

    Raises:
        StoreError: The index does not have it, or its file is missing.
    """
    if isinstance(video, int):
        return store.video(video).id
    record = store.file(absolute_path(video))
    if record is None or record.video is None or not record.live:
        reason = f" ({record.reason})" if record is not None and record.reason else ""
        raise StoreError(f"{strip_query(os.fspath(video))}: not in the index{reason}")
    return record.video
