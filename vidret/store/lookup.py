"""Lookup of videos by id, path or the end of a path, and reading of their vectors, shots and counts of facts."""

import difflib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Annotated, get_args

import numpy as np
from jaxtyping import Float64, Int64

from vidret.errors import MissingVideoError, OptionError, StoreError, VidretError
from vidret.store.catalog.facts import ORIENTATIONS, to_seconds
from vidret.store.records import HEARD, KEPT, LANGUAGES, MOMENTS, PROJECTED, SEPARATORS, StoredVideo
from vidret.text import absolute_path, compose, display_path, file_name, is_below, strip_query, with_slashes
from vidret.types import ALL_VIDEOS, EmbeddingLevel, Embeddings, Filters, Shot, ShotChange, ShotKind, Shown, VideoName

if TYPE_CHECKING:  # a client has no store
    from vidret.store.snapshots.snapshot import Snapshot
    from vidret.store.store import Store

MAX_NAMED = 3  # paths in a message


def look_up_video(store: "Store", video: str | os.PathLike[str] | int) -> int:
    """Return the id of a video by its id, its path, or a unique ending of its path.

    Raises:
        NotFoundError: The index does not have it, or its file is missing.
        VidretError: Several videos have paths with that ending.
    """
    if isinstance(video, int | np.integer):  # ``Embeddings`` has NumPy's integers
        return store.videos.get(int(video)).id
    typed = read_video_name(video)
    record = store.files.get(absolute_path(typed))
    if record is not None and record.video is not None and record.live:
        return record.video
    if record is None and (stored_video := find_by_ending(store.find_named(typed), typed)) is not None:
        return stored_video.id
    reason = f" ({record.reason})" if record is not None and record.reason else ""
    hint = reason or suggest_paths(store.videos.find(), typed)
    raise MissingVideoError(f"{strip_query(typed)}: not in the index{hint}")


def read_video_name(video: object) -> str:
    """Return a path, or the end of one, with slashes; raise ``OptionError`` for any other value."""
    name = os.fspath(video) if isinstance(video, str | os.PathLike) else None
    if not isinstance(name, str) or not name:
        raise OptionError(f"video must be an id, a path or the end of one, got {video!r:.60}")
    return with_slashes(name)


def suggest_paths(videos: Iterable[StoredVideo], typed: str) -> str:
    """Return a hint for an error: the paths whose file names contain the typed one, or else are similar."""
    names = {path: compose(file_name(path)).casefold() for video in videos for path in video.paths}
    if any(is_below(path, absolute_path(typed)) for path in names):
        return ", since it is a folder, which vidret search and locate take by --folder"
    name = compose(file_name(typed)).casefold()
    meant = sorted((path for path in names if name and name in names[path]), key=lambda path: len(names[path]))
    if not meant:
        near = difflib.get_close_matches(name, names.values(), MAX_NAMED, cutoff=0.8)
        meant = [path for path in names if names[path] in near]
    return f"; did you mean {' or '.join(map(display_path, meant[:MAX_NAMED]))}?" if meant else ""


def find_by_ending(videos: Iterable[StoredVideo], ending: str) -> StoredVideo | None:
    """Return the video with a path that ends with these parts, such as ``trip/a.mp4``; None if there is none.

    A path in exactly this Unicode form is preferred to one in another form.

    Raises:
        VidretError: Several videos have such paths.
    """
    typed = strip_query(ending)
    paths = [(strip_query(path), video) for video in videos for path in video.paths]
    matches = {video.id: (path, video) for path, video in paths if _names(typed, path)} or {
        video.id: (path, video) for path, video in paths if _names(compose(typed), compose(path))
    }
    if len(matches) > 1:
        named = ", ".join(path for path, _ in list(matches.values())[:MAX_NAMED])
        raise VidretError(f"{typed}: must be the end of one video's path, got {len(matches)}: {named}")
    return next((video for _, video in matches.values()), None)


def _names(typed: str, path: str) -> bool:
    """Return whether a path equals the typed one, or ends with it after a slash."""
    return path == typed or path.endswith("/" + typed)  # an absolute path ends no other


def find_below(list_videos: Callable[[Filters], list[StoredVideo]], path: VideoName) -> list[StoredVideo]:
    """Return the videos at or below a path, or the one with an id or a path that ends with it.

    ``list_videos`` returns those that match filters.

    Raises:
        StoreError: There is no such video.
        VidretError: Several videos have paths with that ending.
    """
    if isinstance(path, int | np.integer):
        stored_videos = [video for video in list_videos(Filters()) if video.id == path]
    else:
        typed = read_video_name(path)
        folder = absolute_path(typed)
        stored_videos = list_videos(Filters(folder=folder))
        if not stored_videos:
            videos, inside = list_videos(Filters()), compose(folder).rstrip("/") + "/"
            named = find_by_ending(videos, typed)
            stored_videos = (
                [named]
                if named is not None
                else [video for video in videos if any(compose(known).startswith(inside) for known in video.paths)]
            )
    if not stored_videos:
        name = path if isinstance(path, int | np.integer) else strip_query(os.fspath(path))
        raise StoreError(f"{name}: not in the index; index it first")
    return stored_videos


BATCH = 4096  # segments that are read together


def read_embeddings(store: "Store", level: EmbeddingLevel = "segment", filters: Filters = ALL_VIDEOS) -> Embeddings:
    """Read the vectors of the searchable videos that match, in the order of their paths and times.

    A segment's vector is the mean of those of its frames. Damaged segments are left out, with a warning.
    """
    if level not in get_args(EmbeddingLevel):
        raise OptionError(f"level must be segment or frame, got {level}")
    paths = {video.id: video.paths[0] for video in store.videos.find(filters)}
    ids = np.array(
        [segment_id for video in sorted(paths) for segment_id in store.segments.ids_of_video(video)], np.int64
    )
    rows: list[tuple[str, float, float, int, np.ndarray]] = []
    for first in range(0, len(ids), BATCH):
        stored = store.features.read(ids[first : first + BATCH], tokens=False)
        for segment, frames, times in zip(stored.segments, stored.frames, stored.times, strict=True):
            path, vectors = paths[segment.video], np.asarray(frames, np.float32)
            if level == "segment":
                mean = vectors.mean(0)
                rows.append((path, segment.start, segment.end, segment.video, mean / np.linalg.norm(mean)))
            else:
                rows += [
                    (path, float(time), float(time), segment.video, vector)
                    for time, vector in zip(times, vectors, strict=True)
                ]
    rows.sort(key=lambda row: row[:2])
    return Embeddings(
        paths=tuple(row[0] for row in rows),
        videos=np.array([row[3] for row in rows], np.int64),
        times=np.array([row[1:3] for row in rows], np.float64).reshape(-1, 2),
        vectors=np.array([row[4] for row in rows], np.float32).reshape(-1, store.dim),
    )


def read_shots(store: "Store", video_id: int) -> list[Shot]:
    """Return the shots of the stored part of a video, by time; none if it was indexed without shots.

    Raises:
        StoreError: There is no such video.
    """
    segments = list(store.read_segments(store.segments.ids_of_video(video_id)).values())
    if not (store.videos.get(video_id).follows_shots and segments):
        return []
    start, end = min(segment.start for segment in segments), max(segment.end for segment in segments)
    return list_shots(store.shots.of_video(video_id), start, end)


def spread_evenly(num_rows: int, limit: int) -> Int64[np.ndarray, " row"]:
    """Return the indices of ``limit`` evenly spread rows, or of all rows if there are fewer."""
    return np.unique(np.linspace(0, max(num_rows - 1, 0), min(num_rows, limit)).astype(np.int64))


def find_middles(store: "Store", ids: Int64[np.ndarray, " segment"]) -> dict[int, tuple[int, float]]:
    """Return the video and the middle in seconds of each intact segment, by id."""
    segments = store.read_segments(ids)
    return {key: (segment.video, (segment.start + segment.end) / 2) for key, segment in segments.items()}


def find_cuts(store: "Store", video_id: int) -> tuple[float, ...]:
    """Return the ascending times of a video's shot changes in seconds; of a gradual change, its middle."""
    return tuple((change.start + change.end) / 2 for change in store.shots.of_video(video_id))


def list_shots(changes: Iterable[ShotChange], start: float, end: float) -> list[Shot]:
    """Return the shots between ascending shot changes, in a video from ``start`` to ``end`` seconds."""
    shots = []
    begins_with: ShotKind | None = None
    for change in takewhile(lambda change: change.start < end, changes):
        if start < change.start:
            shots.append(Shot(start, change.start, begins_with))
        if change.end >= start:  # not if a longer change covers it
            start, begins_with = change.end, change.kind
    return [*shots, Shot(start, end, begins_with)] if start < end else shots


@dataclass(frozen=True, slots=True)
class MomentCounts:
    """The videos that are prepared for grounding heads, each counted once per head, and the size of their files."""

    videos: int
    seconds: float
    num_bytes: int

    @property
    def bytes_per_hour(self) -> float:
        """Return the size of one head's files for an hour of video."""
        return 3600 * self.num_bytes / max(self.seconds, 1.0)


def count_moments(store: "Store") -> MomentCounts:
    """Count the videos of an index that are prepared for its grounding heads."""
    paths = list((store.path / MOMENTS).glob(f"*/{KEPT}/*{PROJECTED}"))
    contents = store.find_contents(path.stem for path in paths)
    num_videos, seconds, num_bytes = 0, 0.0, 0
    for path in paths:
        if path.stem in contents:
            video = store.videos.get(contents[path.stem])
            with suppress(FileNotFoundError):  # another process may have just deleted it
                num_bytes += path.stat().st_size
                num_videos += 1
                seconds += video.duration - video.start
    return MomentCounts(num_videos, seconds, num_bytes)


HEIGHTS = (2160, 1080, 720)
MAX_LISTED = 200  # cameras, sounds and folders, those with the most videos
DAY_S = 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class Facets:
    """Numbers of videos that pass some filters, by property; those of a property ignore the filter by it.

    Attributes:
        days: By day, as year-month-day: that of filming, or of the last change if the file does not state it.
        cameras: By make and model of the camera.
        heights: By minimum height in pixels.
        sound: With (``on``) and without (``off``) sound.
        orientations: By orientation: ``landscape``, ``portrait`` or ``square``.
        languages: By language that is heard, as ISO 639-1 code.
        heard: By name of a sound that is heard.
        folders: By folder that directly contains videos; those in its subfolders count too.
    """

    days: Annotated[dict[str, int], Shown(example={"2026-01-31": 3})]
    cameras: dict[str, int]
    heights: dict[str, int]
    sound: dict[str, int]
    orientations: dict[str, int]
    languages: dict[str, int]
    heard: Annotated[dict[str, int], Shown(example={"applause": 3})]
    folders: dict[str, int]


def count_facets(snapshot: "Snapshot", filters: Filters, *, utc_offset_s: float = 0.0) -> Facets:
    """Return the facets of the videos that match; local time is ``utc_offset_s`` ahead of UTC.

    A video with several files counts once, with its first one.
    """
    known: dict[Filters, tuple[list[bytes], np.ndarray, Float64[np.ndarray, " video"]]] = {}

    def read(*dropped: str) -> tuple[list[bytes], np.ndarray, Float64[np.ndarray, " video"]]:
        others = replace(filters, **dict.fromkeys(dropped))
        if others not in known:
            rows = snapshot.first_files(others)
            facts = snapshot.videos.facts[snapshot.files.video_rows[rows]]
            changed_s = to_seconds(snapshot.files.mtimes_ns[rows])
            filmed_s = np.where(np.isnan(facts["filmed_s"]), changed_s, facts["filmed_s"])
            known[others] = [snapshot.files.paths[row] for row in rows.tolist()], facts, filmed_s
        return known[others]

    filmed_s = read("filmed_after", "filmed_before")[2]
    days, num_days = np.unique(np.floor((filmed_s[~np.isnan(filmed_s)] + utc_offset_s) / DAY_S), return_counts=True)
    names, num_named = np.unique(read("camera")[1]["camera"], return_counts=True)
    named = zip(names.tolist(), num_named.tolist(), strict=True)
    cameras = Counter({name.decode(errors="replace"): count for name, count in named if name})
    heights, sound, shapes = read("min_height")[1]["height"], read("sound")[1]["has_audio"], read("orientation")[1]
    signs = np.sign(shapes["width"] - shapes["height"])
    listed = {
        name: Counter(
            entry
            for fact in read(option)[1][name].tolist()
            for entry in fact.decode(errors="replace").split(SEPARATORS[name])
            if entry
        )
        for option, name in (("language", LANGUAGES), ("heard", HEARD))
    }
    folders = _count_below(Counter(os.fsdecode(path.rpartition(b"/")[0]) for path in read("folder")[0]))
    return Facets(
        days=dict(zip(np.datetime_as_string(days.astype("datetime64[D]")).tolist(), num_days.tolist(), strict=True)),
        cameras=dict(sorted(cameras.most_common(MAX_LISTED))),
        heights={str(height): int((heights >= height).sum()) for height in HEIGHTS},
        sound={name: int((sound == value).sum()) for name, value in (("on", 1.0), ("off", 0.0))},
        orientations={name: int((signs == index - 1).sum()) for index, name in enumerate(ORIENTATIONS)},
        languages=dict(sorted(listed[LANGUAGES].items())),
        heard=dict(sorted(listed[HEARD].most_common(MAX_LISTED))),
        folders=dict(sorted(folders.most_common(MAX_LISTED))),
    )


def _count_below(folders: Mapping[str, int]) -> Counter[str]:
    """Return the number of videos of each folder, including the folders below it."""
    below = Counter[str]()
    for folder, num_videos in folders.items():
        parents = accumulate(folder.split("/"), "{}/{}".format)
        below.update({parent: num_videos for parent in parents if parent in folders})
    return below
