"""Subtitles: the text tracks of a video, and the subtitle files beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidret.channels.texts.kind import Heartbeat, Listen, SendTexts, TextKind, as_note
from vidret.channels.texts.subtitle_files import MAX_BYTES, find_language, parse_subtitles
from vidret.errors import VidretError
from vidret.types import TimedText

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo

MAX_PROBLEMS = 5  # in a note


def read_subtitles(
    info: "VideoInfo", options: Mapping[str, Any], send: SendTexts, heartbeat: Heartbeat, _listen: Listen = iter
) -> str:
    """Read the text tracks of a video and the subtitle files in ``sidecars`` of the options; see ``TextKind.read``."""
    texts, problems = find_subtitles(info, options.get("sidecars", ()), heartbeat)
    send(info.duration, texts)
    more = f"and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return "; ".join([*problems[:MAX_PROBLEMS], *([more] if more else [])])


def find_subtitles(
    info: "VideoInfo", sidecars: Sequence[str], heartbeat: Heartbeat
) -> tuple[list[TimedText], list[str]]:
    """Return the subtitles in a video and in the files beside it, by time, and the problems that were met."""
    from vidret.channels.texts.subtitle_tracks import read_tracks
    from vidret.video.files import read_content

    found = read_tracks(info.path, heartbeat, video_end_s=info.duration)
    texts, problems = found.texts, found.problems
    for path in sidecars:
        heartbeat()
        name = Path(path).name
        try:
            content, suffix = read_content(path, MAX_BYTES), Path(name).suffix.lower()
            parsed = parse_subtitles(content, suffix, language=find_language(name), video_end_s=info.duration)
        except VidretError as error:
            problems.append(f"{name}: {as_note(error)}")
            continue
        texts = texts + parsed.texts
        problems += [f"{name}: {problem}" for problem in parsed.problems]
    # A file beside the video often repeats a track inside it.
    unique = {(text.text, round(text.start, 1), round(text.end, 1)): text for text in reversed(texts)}
    return sorted(unique.values(), key=lambda text: (text.start, text.end)), problems


KIND = TextKind(
    source="subtitles",
    name="subtitles",
    label="subtitle",
    model="tracks",
    package="charset_normalizer",
    read=read_subtitles,
    also_hinted_by="speech",
    is_spoken=True,
    join_nats=2.5,
)
