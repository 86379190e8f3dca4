"""Video files that belong to the names in annotations."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from vidret.errors import VidretError
from vidret.video.scan import VIDEO_SUFFIXES, scan


def video_stem(name: str) -> str:
    """Return a name without its video suffix. Other dots stay, since some benchmarks put times into names.

    >>> video_stem("s30-d41.avi"), video_stem("NUsG9BgSes0_210.0_360.0"), video_stem("7585070382_5762149bfc.")
    ('s30-d41', 'NUsG9BgSes0_210.0_360.0', '7585070382_5762149bfc')
    """
    head, dot, suffix = name.rpartition(".")
    return head if dot and (not suffix or f".{suffix.lower()}" in VIDEO_SUFFIXES) else name


def find_videos(videos: Sequence[str], folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """Return the file of each video, matched by path below the folder, else by file name, else by stem.

    Subfolders are searched. Matching is case-sensitive, since many benchmarks name videos by case-sensitive keys.

    Args:
        videos: Names from the annotations, with or without a suffix. The file's suffix may differ.
        folder: Folder that holds the videos.

    Returns:
        The path of each video that exists, and the names that match no file, both in the given order.

    Raises:
        VidretError: The folder does not exist, several files match one name, or one file matches two names.
    """
    if not Path(folder).is_dir():
        raise VidretError(f"{folder}: no such folder of videos")
    by_path: defaultdict[str, list[Path]] = defaultdict(list)
    by_name: defaultdict[str, list[Path]] = defaultdict(list)
    by_stem: defaultdict[str, list[Path]] = defaultdict(list)
    for path in map(Path, scan([str(folder)])):
        by_path[Path(os.path.relpath(path, folder)).as_posix()].append(path)
        by_name[path.name].append(path)
        by_stem[video_stem(path.name)].append(path)
    paths: dict[str, Path] = {}
    missing: list[str] = []
    name_of_path: dict[Path, str] = {}
    for name in videos:
        matches = by_path.get(name) or by_name.get(name) or by_stem.get(video_stem(name)) or []
        if len(matches) > 1:
            shown = ", ".join(map(str, matches[:3]))
            raise VidretError(f"{name} must match one file, got {shown} ({len(matches)} in all)")
        if not matches:
            missing.append(name)
            continue
        path = matches[0]
        if path in name_of_path:
            raise VidretError(f"{path} must match one name, got {name_of_path[path]} and {name}")
        name_of_path[path] = name
        paths[name] = path
    return paths, missing
