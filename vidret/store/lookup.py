"""Lookup of the videos of an index by path, or by the end of one."""

import os
from collections.abc import Iterable

from vidret.errors import StoreError, VidretError
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.text import absolute_path, strip_query

MAX_NAMED = 3  # paths in a message


def look_up_video(store: Store, video: str | os.PathLike[str] | int) -> int:
    """Return the id of a video by its id, its path, or a unique ending of its path.

    Raises:
        StoreError: The index does not have it, or its file is missing.
        VidretError: Several videos have paths with that ending.
    """
    if isinstance(video, int):
        return store.video(video).id
    record = store.file(absolute_path(video))
    if record is not None and record.video is not None and record.live:
        return record.video
    if record is None and (found := find_by_ending(store.videos(), video)) is not None:
        return found.id
    reason = f" ({record.reason})" if record is not None and record.reason else ""
    raise StoreError(f"{strip_query(os.fspath(video))}: not in the index{reason}")


def find_by_ending(videos: Iterable[StoredVideo], ending: str | os.PathLike[str]) -> StoredVideo | None:
    """Return the video with a path that ends with these parts, such as ``trip/a.mp4``; None if there is none.

    Raises:
        VidretError: Several videos have such paths.
    """
    wanted = "/" + strip_query(os.fspath(ending))  # the ending of no path, if it is absolute
    paths = [(strip_query(path), video) for video in videos for path in video.paths]
    found = {video.id: (path, video) for path, video in paths if path.endswith(wanted)}
    if len(found) > 1:
        named = ", ".join(path for path, _ in list(found.values())[:MAX_NAMED])
        raise VidretError(f"{ending}: must be the end of one video's path, got {len(found)}: {named}")
    return next((video for _, video in found.values()), None)
