"""The torture set of subtitles: files beside films of two seconds that try to hang, fill or mislead an indexing run.

``python -m tests.hostile_subtitles FOLDER`` writes them for trying things by hand.
"""

import gzip
import os
import random
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.hostile import write_clip

CUE = "1\n00:00:00,500 --> 00:00:01,500\n"
DIALOGUE = "Dialogue: 0,0:00:00.50,0:00:01.50,D,,0,0,0,,"
ASS = f"[Script Info]\n\n[Events]\n{DIALOGUE}"
SPARSE_BYTES = 40 << 30
CHANCE = random.Random(3)


@dataclass(frozen=True)
class HostileSubtitles:
    """A file beside a film: the ending of its name, and its content, or how it is made at a path.

    ``words`` are the entries that must be read of it, if they are known; ``note`` is a part of what must be said.
    """

    ending: str
    content: str | bytes | Callable[[Path], object]
    words: tuple[str, ...] | None = None
    note: str = ""


def write_cue(number: int, start_ms: int, words: str) -> str:
    """Return an entry of SubRip of two milliseconds."""
    minutes, milliseconds = divmod(start_ms, 60_000)
    start, end = (
        f"{minutes // 60:02}:{minutes % 60:02}:{time_ms // 1000:02},{time_ms % 1000:03}"
        for time_ms in (milliseconds, milliseconds + 2)
    )
    return f"{number}\n{start} --> {end}\n{words}\n\n"


def write_entries(path: Path) -> None:
    """Write a hundred thousand entries."""
    path.write_text("".join(write_cue(index, 2 * index, f"word {index}") for index in range(100_000)))


def write_sparse(path: Path) -> None:
    """Write a file that is far larger than the disk."""
    path.touch()
    os.truncate(path, SPARSE_BYTES)


TIMES = """1
99999999:00:00,000 --> 99999999:00:01,000
far future

2
00:00:01,500 --> 00:00:01,000
ends before

3
00:00:00,000 --> 00:00:00,000
no length

4
-00:00:01,000 --> 00:00:01,000
negative

5
00:00:01,000 --> 999999999999999999999:00:00,000
huge end
"""
ONE_INSTANT = ASS + f"\n{DIALOGUE}".join(map(str, range(50_000)))
REPEATED = "WEBVTT\n\n" + "00:00.000 --> 00:01.500\nsame <c.1>words</c>\n\n" * 50_000
SUBTITLES = {
    "good": HostileSubtitles(".srt", f"{CUE}a lighthouse\n", ("a lighthouse",)),
    "many_entries": HostileSubtitles(".srt", write_entries, None, "after the end"),
    "one_instant": HostileSubtitles(".ass", ONE_INSTANT, None, "left out"),
    "long_entry": HostileSubtitles(".srt", CUE + "gold river " * 500_000, None, "are cut"),
    "tags": HostileSubtitles(".srt", CUE + "<a" * 200_000, None, "are cut"),
    "braces": HostileSubtitles(".srt", CUE + "{\\" * 200_000, None, "are cut"),
    "formatting": HostileSubtitles(".ass", ASS + "{\\pos(1,1)\\t(0,9,\\fs9)}" * 100_000 + "visible", ("visible",)),
    "open_formatting": HostileSubtitles(".ass", ASS + "{\\b1" * 200_000, None, "are cut"),
    "digits": HostileSubtitles(".srt", CUE + "&#" + "9" * 200_000, ("\ufffd",)),
    "number_lines": HostileSubtitles(".srt", "1\n" * 500_000 + f"{CUE}after\n", ("after",)),
    "blank_lines": HostileSubtitles(".srt", "\n" * 1_000_000, ()),
    "arrows": HostileSubtitles(".srt", "-->\n" * 300_000, (), "has no valid times"),
    "colons": HostileSubtitles(".srt", "1:" * 500_000, (), "no entry"),
    "wide_times": HostileSubtitles(".srt", CUE.replace("1,500\n", "1,500" + " " * 1_000_000 + "\n") + "x\n", ("x",)),
    "repeated": HostileSubtitles(".vtt", REPEATED, ("same words",), "left out"),
    "times": HostileSubtitles(".srt", TIMES, ("no length",), "no valid times"),
    "fields": HostileSubtitles(".ass", "[Events]\nFormat: " + "start, end, text, " * 100_000 + f"\n{ASS}words", None),
    "utf_16": HostileSubtitles(".srt", f"{CUE}plain\n".encode("utf-16-le"), ("plain",), "read as UTF-16"),
    "cyrillic": HostileSubtitles(".srt", CUE.encode() + "\u0433\u0434\u0435".encode("cp1251"), None, "read as"),
    "nul": HostileSubtitles(".srt", CUE.encode() + b"nul\0byte\x1b[31mred\x07\xe2\x80\xaeevil\n"),
    "random": HostileSubtitles(".srt", CHANCE.randbytes(300_000)),
    "random_ass": HostileSubtitles(".ass", CHANCE.randbytes(300_000)),
    "zip": HostileSubtitles(".srt", gzip.compress(CUE.encode() * 1000), ()),
    "markup": HostileSubtitles(".srt", f"{CUE}<script>alert(1)</script>&lt;b&gt;\n", ("alert(1)<b>",)),
    "pipe": HostileSubtitles(".srt", os.mkfifo, (), "is not a regular file"),
    "folder": HostileSubtitles(".srt", os.mkdir, (), "is a directory"),
    "zero": HostileSubtitles(".srt", lambda path: path.symlink_to("/dev/zero"), (), "is not a regular file"),
    "loop": HostileSubtitles(".srt", lambda path: path.symlink_to(path.name), (), "cannot be read"),
    "sparse": HostileSubtitles(".srt", write_sparse, (), "must have at most"),
}  # fmt: skip


def write_hostile_subtitles(folder: Path) -> dict[str, Path]:
    """Write the set into a new folder, each beside a film of its own; return the films by name."""
    folder.mkdir(parents=True)
    clip = write_clip(folder / "without.mp4", "mp4")
    films = {name: folder / f"{name}.mp4" for name in SUBTITLES}
    for film_index, (name, film) in enumerate(films.items()):
        label = b"free%012d" % film_index  # a box that readers skip: each film is another content
        film.write_bytes(clip + struct.pack(">I", 4 + len(label)) + label)
        path, content = film.with_suffix(SUBTITLES[name].ending), SUBTITLES[name].content
        if isinstance(content, (str, bytes)):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            content(path)
    return films


if __name__ == "__main__":
    print(len(write_hostile_subtitles(Path(sys.argv[1]))), "files")
