"""Moments by video, so that the moments of one film are shown below it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidret.present.show import (
    NO_VIDEOS,
    describe_events,
    describe_evidence,
    describe_match,
    result_to_dict,
    show_table,
    warn_of_nothing,
)
from vidret.text import display_path, format_time

if TYPE_CHECKING:
    from vidret.types import Moment


def group_by_video(moments: "Sequence[Moment]") -> "list[list[Moment]]":
    """Return the moments of each video, best first, in the order of the best moment of each video."""
    groups: dict[int, list[Moment]] = {}
    for moment in moments:
        groups.setdefault(moment.video, []).append(moment)
    return list(groups.values())


def video_to_dict(moments: "Sequence[Moment]") -> dict[str, Any]:
    """Return a video with its moments as a dict that JSON can represent."""
    rows = [result_to_dict(moment) for moment in moments]
    shared = {name: rows[0][name] for name in ("video", "path", "probability", "likelihood")}
    own = [{name: value for name, value in row.items() if name not in shared} for row in rows]
    return {**shared, "score": rows[0]["score"], "moments": own}


def show_grouped_moments(moments: "Sequence[Moment]", *, first_rank: int = 1, empty: str = NO_VIDEOS) -> None:
    """Print moments below their videos, with their ranks among all moments, or the message ``empty``."""
    warn_of_nothing(moments)
    is_rated = any(moment.probability is not None for moment in moments)
    ranks = {id(moment): rank for rank, moment in enumerate(moments, start=first_rank)}
    rows: list[tuple[str, ...]] = []
    for group in group_by_video(moments):
        match = [describe_match(group[0])] if is_rated else []
        rows.append(("", *match, "", "", "", display_path(group[0].path)))
        no_match = [""] * len(match)
        for moment in group:
            words = describe_evidence(moment.evidence)
            text = words[0][1].strip() if words else ""
            times = format_time(moment.start), format_time(moment.end)
            rows.append((str(ranks[id(moment)]), *no_match, f"{moment.score:.3f}", *times, f"  {text}".rstrip()))
            rows += [
                ("", *no_match, "", format_time(event.start), format_time(event.end), f"  {line}")
                for event, line in describe_events(moment.events)
            ]
    match_column = ["match"] if is_rated else []
    show_table(("rank", *match_column, "score", "start", "end", "video"), rows, empty)
