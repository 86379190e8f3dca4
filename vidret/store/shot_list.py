"""The shots of an indexed video, from the shot changes that are stored."""

from collections.abc import Iterable
from itertools import takewhile

from vidret.store.store import Store
from vidret.types import Shot, ShotChange, ShotKind


def read_shots(store: Store, video_id: int) -> list[Shot]:
    """Return the shots of the stored part of a video, by time; none if it was indexed without shots.

    Raises:
        StoreError: There is no such video.
    """
    segments = list(store.intact_segments(store.video_segments(video_id)).values())
    if not (store.video(video_id).follows_shots and segments):
        return []
    start, end = min(each.start for each in segments), max(each.end for each in segments)
    return list_shots(store.shots(video_id), start, end)


def list_shots(changes: Iterable[ShotChange], start: float, end: float) -> list[Shot]:
    """Return the shots between changes of shot, which ascend, in a video from ``start`` to ``end`` seconds."""
    shots = []
    begins_with: ShotKind | None = None
    for change in takewhile(lambda change: change.start < end, changes):
        if start < change.start:
            shots.append(Shot(start, change.start, begins_with))
        if change.end >= start:  # not if a longer change covers it
            start, begins_with = change.end, change.kind
    return [*shots, Shot(start, end, begins_with)] if start < end else shots
