"""Lookup of the videos of an index by path, or by the end of one."""

import os
from collections.abc import Callable, Iterable

from vidret.errors import StoreError, VidretError
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.text import absolute_path, strip_query
from vidret.types import Filters, VideoName

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


def find_below(list_videos: Callable[[Filters], list[StoredVideo]], path: VideoName) -> list[StoredVideo]:
    """Return the videos of an index with a path, those below it, or the one with an id or a path that ends so.

    Args:
        list_videos: Returns the videos of the index that match filters.
        path: A file or a folder, the unique ending of a path, or an id.

    Raises:
        StoreError: The index has none.
        VidretError: Several videos have paths with that ending.
    """
    if isinstance(path, int):
        found = [video for video in list_videos(Filters()) if video.id == path]
    else:
        found = list_videos(Filters(folder=absolute_path(path)))
        if not found and (named := find_by_ending(list_videos(Filters()), path)) is not None:
            found = [named]
    if not found:
        name = path if isinstance(path, int) else strip_query(os.fspath(path))
        raise StoreError(f"{name}: not in the index; index it first")
    return found
