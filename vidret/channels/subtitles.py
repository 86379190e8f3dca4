"""Subtitles: the text tracks of a video, decoded with PyAV, and the subtitle files beside it."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidret.channels.texts.kind import Heartbeat, TextKind, as_note
from vidret.channels.texts.subtitle_files import (
    MAX_BYTES,
    SUFFIXES,
    TWO_LETTERS,
    EntryLimits,
    Subtitles,
    drop_repeats,
    find_language,
    parse_subtitles,
)
from vidret.errors import VidretError
from vidret.text import compose, is_url
from vidret.types import TimedText

if TYPE_CHECKING:
    from vidret.video.probe import VideoInfo

MAX_PROBLEMS = 5  # in a note
MAX_TRACKS = 20
_UNKNOWN_DURATION_S = 3.0  # of an entry whose end the container does not state
_PICTURES = {"dvdsub", "dvd_subtitle", "pgssub", "hdmv_pgs_subtitle", "dvbsub", "dvb_subtitle", "xsub"}
_NAME_PART = re.compile(r"\.([a-z]{2,3}(-[a-z]{2,4})?|sdh|cc|forced|hi)$", re.IGNORECASE)


def read_subtitles(info: "VideoInfo", options: Mapping[str, Any], heartbeat: Heartbeat) -> tuple[list[TimedText], str]:
    """Read the text tracks of a video and the subtitle files in ``sidecars`` of the options; see ``TextKind.read``."""
    texts, problems = find_subtitles(info, options.get("sidecars", ()), heartbeat)
    more = f"and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
    return texts, "; ".join([*problems[:MAX_PROBLEMS], *([more] if more else [])])


def find_subtitles(
    info: "VideoInfo", sidecars: Sequence[str], heartbeat: Heartbeat
) -> tuple[list[TimedText], list[str]]:
    """Return the subtitles in a video and in the files beside it, by time, and the problems found."""
    from vidret.video.audio import find_sound_end
    from vidret.video.files import read_content

    end_s = info.duration
    if info.has_audio and not info.damage:  # the sound of a truncated file ends earlier than declared
        end_s = max(end_s, find_sound_end(info.path))
    embedded = read_tracks(info.path, heartbeat, video_end_s=end_s)
    texts, problems = embedded.texts, embedded.problems
    for path in sidecars:
        heartbeat()
        name = Path(path).name
        try:
            content, suffix = read_content(path, MAX_BYTES), Path(name).suffix.lower()
            parsed = parse_subtitles(content, suffix, language=find_language(name), video_end_s=end_s)
        except VidretError as error:
            problems.append(f"{name}: {as_note(error)}")
            continue
        texts = texts + parsed.texts
        problems += [f"{name}: {problem}" for problem in parsed.problems]
    # A file beside the video often repeats a track in the video.
    unique = {(text.text, round(text.start, 1), round(text.end, 1)): text for text in reversed(texts)}
    return sorted(unique.values(), key=lambda text: (text.start, text.end)), problems


def read_tracks(
    path: str, heartbeat: Callable[[], None] = lambda: None, *, video_end_s: float = float("inf")
) -> Subtitles:
    """Return the entries of the text subtitle tracks inside a file, by start, and the problems that were found.

    Times are those of a player's clock, as in ``probe``. Picture subtitles and tracks after the first ``MAX_TRACKS``
    are not read, and reported as problems. ``heartbeat`` is called for every packet. Raise DecodeError if the file
    cannot be opened.
    """
    from vidret.video.container import open_container, read_packets, read_start
    from vidret.video.files import open_file

    limits = EntryLimits(video_end_s)
    with open_file(path) as file, open_container(path, file) as container:
        chosen, problems = _choose_tracks(container)
        zero_s = read_start(container) or 0.0
        texts: list[TimedText] = []
        if chosen:
            for packet in read_packets(container, chosen):
                heartbeat()
                texts += _read_packet(packet, zero_s, limits)
        file.check()
    by_language = sorted(texts, key=lambda text: (text.language, text.start, text.end))
    kept = sorted(drop_repeats(by_language), key=lambda text: (text.start, text.end))
    return Subtitles(kept, problems + limits.describe())


def _choose_tracks(container: Any) -> tuple[list[Any], list[str]]:
    """Return the subtitle streams that can be read, and a note for each kind that cannot."""
    unread: defaultdict[str, int] = defaultdict(int)
    chosen: list[Any] = []
    for stream in container.streams.subtitles:
        context = stream.codec_context
        if context is None:
            unread["in an unknown format"] += 1
        elif context.name in _PICTURES:
            unread[f"of pictures ({context.name})"] += 1
        elif len(chosen) == MAX_TRACKS:
            unread[f"after the first {MAX_TRACKS}"] += 1
        else:
            chosen.append(stream)
    return chosen, [f"{count} subtitle track{'s' * (count > 1)} {which} not read" for which, count in unread.items()]


def _read_packet(packet: Any, zero_s: float, limits: EntryLimits) -> Iterator[TimedText]:
    """Yield the entries of a packet; one that cannot be decoded has none."""
    import av

    if packet.pts is None or packet.time_base is None:
        return
    start_s = float(packet.pts * packet.time_base) - zero_s
    end_s = start_s + (float(packet.duration * packet.time_base) if packet.duration else _UNKNOWN_DURATION_S)
    language = (packet.stream.language or "").lower()
    language = TWO_LETTERS.get(language, language)
    if end_s <= 0:
        return
    try:
        decoded = list(packet.decode())
    except (av.FFmpegError, OSError, ValueError):
        return
    for item in decoded:
        if ass := getattr(item, "ass", None):
            event = ass.decode("utf-8", "replace") if isinstance(ass, bytes) else ass
            raw = event.split(",", 8)[-1]  # FFmpeg converts every format to ASS, whose text comes after eight fields
            text = limits.make(max(start_s, 0.0), end_s, raw, language=language, track=packet.stream.index)
            yield from () if text is None else (text,)


class Sidecars:
    """The subtitle files beside local videos; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> list[str]:
        """Return the paths of the files that belong to a video, such as film.srt and film.en.vtt for film.mp4."""
        if is_url(path):
            return []
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = _list_subtitles(folder)
        stem = os.path.splitext(name)[0]  # noqa: PTH122  the name may not be valid text
        return self._folders[folder].get(compose(stem), [])


def digest_sidecars(paths: Iterable[str]) -> str:
    """Return a short digest of the names, sizes and modification times of files; empty if there are none."""
    lines = []
    for path in sorted(paths):
        try:
            stat = os.stat(path)  # noqa: PTH116
        except OSError:
            continue
        lines.append(f"{os.path.basename(path)}\0{stat.st_size}\0{stat.st_mtime_ns}")  # noqa: PTH119
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()[:12] if lines else ""


def _list_subtitles(folder: str) -> dict[str, list[str]]:
    """Return the subtitle files of a folder by the stems of the videos to which they may belong."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    try:
        names = sorted(entry.name for entry in os.scandir(folder or ".") if entry.name.lower().endswith(SUFFIXES))
    except OSError:
        return {}
    for name in names:
        stem = compose(Path(name).stem)
        files[stem].append(os.path.join(folder, name))  # noqa: PTH118
        for _ in range(2):  # film.en.forced.srt
            if (match := _NAME_PART.search(stem)) is None:
                break
            stem = stem[: match.start()]
            files[stem].append(os.path.join(folder, name))  # noqa: PTH118
    return dict(files)


KIND = TextKind(
    source="subtitles",
    name="subtitles",
    model="tracks",
    packages=("charset_normalizer",),
    read=read_subtitles,
    also_hinted_by="speech",
    is_spoken=True,
    join_nats=2.5,
)
