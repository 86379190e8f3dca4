"""Names in annotations -> video files."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from vidret.errors import VidretError
from vidret.video.scan import VIDEO_SUFFIXES, scan


def video_stem(name: str) -> str:
    """Take the suffix of a video file off a name; other dots stay, since some benchmarks have times in their names.

    >>> video_stem("s30-d41.avi"), video_stem("NUsG9BgSes0_210.0_360.0"), video_stem("7585070382_5762149bfc.")
    ('s30-d41', 'NUsG9BgSes0_210.0_360.0', '7585070382_5762149bfc')
    """
    head, dot, suffix = name.rpartition(".")
    return head if dot and (not suffix or f".{suffix.lower()}" in VIDEO_SUFFIXES) else name


def find_videos(videos: Sequence[str], folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """Find the file of each video: by its path below the folder, else its file name, else its name without a suffix.

    Subfolders are walked; capitals count, since many benchmarks name videos by case-sensitive keys.

    Args:
        videos: Names as the annotations have them, with or without a suffix; the suffix of the file may differ.
        folder: Where the videos are.

    Returns:
        The file of each video found, and the names that have none, both in the order asked for.

    Raises:
        VidretError: There is no such folder, several files fit one name, or one file fits two names.
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
    found: dict[str, Path] = {}
    missing: list[str] = []
    taken: dict[Path, str] = {}
    for name in videos:
        fits = by_path.get(name) or by_name.get(name) or by_stem.get(video_stem(name)) or []
        if len(fits) > 1:
            raise VidretError(f"{name} must be one video, got {', '.join(map(str, fits[:3]))} ({len(fits)} files fit)")
        if not fits:
            missing.append(name)
            continue
        if fits[0] in taken:
            raise VidretError(f"{fits[0]} must be one video, but both {taken[fits[0]]} and {name} name it")
        taken[fits[0]] = name
        found[name] = fits[0]
    return found, missing
