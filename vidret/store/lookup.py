"""Lookup of the videos of an index by path, or by the end of one."""

import os
from collections.abc import Callable, Iterable

from vidret.errors import StoreError, VidretError
from vidret.store.records import StoredVideo
from vidret.store.store import Store
from vidret.text import absolute_path, compose, strip_query
from vidret.types import Filters, VideoName

MAX_NAMED = 3  # paths in a message


def look_up_video(store: Store, video: str | os.PathLike[str] | int) -> int:
    """Return the id of a video by its id, its path, or a unique ending of its path.

    Raises:
        StoreError: The index does not have it, or its file is missing.
        VidretError: Several videos have paths with that ending.
    """
    if isinstance(video, int):
        return store.videos.get(video).id
    record = store.files.get(absolute_path(video))
    if record is not None and record.video is not None and record.live:
        return record.video
    if record is None and (found := find_by_ending(store.find_named(video), video)) is not None:
        return found.id
    reason = f" ({record.reason})" if record is not None and record.reason else ""
    raise StoreError(f"{strip_query(os.fspath(video))}: not in the index{reason}")


def find_by_ending(videos: Iterable[StoredVideo], ending: str | os.PathLike[str]) -> StoredVideo | None:
    """Return the video with a path that ends with these parts, such as ``trip/a.mp4``; None if there is none.

    Letters may be in another Unicode form than those of the path, unless a path has them just so.

    Raises:
        VidretError: Several videos have such paths.
    """
    typed = strip_query(os.fspath(ending))
    paths = [(strip_query(path), video) for video in videos for path in video.paths]
    found = {video.id: (path, video) for path, video in paths if _names(typed, path)} or {
        video.id: (path, video) for path, video in paths if _names(compose(typed), compose(path))
    }
    if len(found) > 1:
        named = ", ".join(path for path, _ in list(found.values())[:MAX_NAMED])
        raise VidretError(f"{typed}: must be the end of one video's path, got {len(found)}: {named}")
    return next((video for _, video in found.values()), None)


def _names(typed: str, path: str) -> bool:
    """Return whether a path is what was typed, or ends with it after a slash."""
    return path == typed or path.endswith("/" + typed)  # an absolute path ends no other


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
        folder = absolute_path(path)
        found = list_videos(Filters(folder=folder))
        if not found:
            videos, inside = list_videos(Filters()), compose(folder).rstrip("/") + "/"
            named = find_by_ending(videos, path)
            found = (
                [named]
                if named is not None
                else [video for video in videos if any(compose(each).startswith(inside) for each in video.paths)]
            )
    if not found:
        name = path if isinstance(path, int) else strip_query(os.fspath(path))
        raise StoreError(f"{name}: not in the index; index it first")
    return found
