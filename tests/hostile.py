"""The torture set: about 300 files that try to break an indexing run, written from a seed.

``python -m tests.hostile FOLDER`` writes them for trying things by hand. What may come of each stands beside it:
``indexed`` (it is sound, however odd its name), ``refused`` (it is no video) or ``either`` (it was damaged, and the run
must either index what is left or name the reason).
"""

import io
import os
import random
import socket
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np

Outcome = Literal["indexed", "refused", "either"]

NUM_FRAMES = 50
RATE = 25
SIZE = (64, 48)
# Name of the container, its suffix, codec and options of the muxer.
CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mp4": (".mp4", "libx264", {}),
    "faststart": (".mp4", "libx264", {"movflags": "faststart"}),
    "fragmented": (".mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "mov": (".mov", "libx264", {}),
    "matroska": (".mkv", "libx264", {}),
    "webm": (".webm", "libvpx", {}),
    "avi": (".avi", "mpeg4", {}),
    "mpegts": (".ts", "libx264", {}),
    "mpeg": (".mpg", "mpeg2video", {}),
    "flv": (".flv", "flv", {}),
    "asf": (".wmv", "wmv2", {}),
    "gif": (".gif", "gif", {}),
}
FORMATS = {"faststart": "mp4", "fragmented": "mp4"}
CUTS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99)
HEADER_BYTES = 600
# Tables of an MP4 file's index, whose counts and sizes a reader must not believe.
BOXES = (b"stts", b"stsz", b"stco", b"stsc", b"mvhd", b"mdhd", b"tkhd", b"avcC", b"stsd", b"hdlr", b"stss", b"ctts")
COUNTS = {"max": b"\xff" * 4, "zero": b"\0" * 4, "big": b"\x7f\xff\xff\xff"}
NAMES = ["new\nline", "quo'te\"", "<img src=x onerror=alert(1)>", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
NAMES += ["e\N{COMBINING ACUTE ACCENT}", "x" * 251, "-rf", "--index", " leading space", "trailing space ", "%s%n%00"]
NAMES += ["file:x", "concat:a|b", "http:127.0.0.1", "[glob]*", "\N{RIGHT-TO-LEFT OVERRIDE}gpj"]
NAMES += ["\N{CJK UNIFIED IDEOGRAPH-65E5}\N{CJK UNIFIED IDEOGRAPH-672C}\N{GRINNING FACE}", "\x1b[31mred", "tab\t"]
NAMES += [".", "$(touch x)", "CON", "\\back", "[bold]markup[red]"]
LINKS = {
    "loop1.mp4": "loop2.mp4",
    "loop2.mp4": "loop1.mp4",
    "self.mp4": "self.mp4",
    "dangling.mp4": "nowhere",
    "null.mp4": os.devnull,
    "zero.mp4": "/dev/zero",
    "passwd.mp4": "/etc/passwd",
}
SPARSE_BYTES = 4 << 30


@dataclass
class HostileFiles:
    """The files under one folder, and what may come of each; ``clips`` are the sound films they are made from."""

    folder: Path
    outcomes: dict[str, Outcome]
    clips: dict[str, bytes]
    seed: int

    def add(self, name: str | bytes, content: bytes | str, outcome: Outcome) -> None:
        """Write one file."""
        path = self.folder / os.fsdecode(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        self.outcomes[str(path)] = outcome


def write_hostile_files(folder: Path, *, seed: int = 7) -> HostileFiles:
    """Write the set into a new folder."""
    folder.mkdir(parents=True)
    paths = {kind: folder / f"sound_{kind}{suffix}" for kind, (suffix, _, _) in CONTAINERS.items()}
    clips = {kind: write_clip(path, kind) for kind, path in paths.items()}
    files = HostileFiles(folder, {str(path): "indexed" for path in paths.values()}, clips, seed)
    add_damaged(files)
    add_lying_boxes(files)
    add_lying_headers(files)
    add_impostors(files)
    add_playlists(files)
    add_names(files)
    add_special_files(files)
    return files


def write_clip(path: Path, kind: str) -> bytes:
    """Write a film of a moving line in one kind of container, and return its bytes."""
    _, codec, options = CONTAINERS[kind]
    with av.open(str(path), "w", format=FORMATS.get(kind, kind), options=options) as container:
        stream = cast(Any, container.add_stream(codec, rate=RATE))
        stream.width, stream.height = SIZE
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for index in range(NUM_FRAMES):
            picture = np.full((SIZE[1], SIZE[0], 3), 40 + 3 * index, dtype=np.uint8)
            picture[:, index % SIZE[0]] = 255
            picture[..., 0] = 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode())
    return path.read_bytes()


def add_damaged(files: HostileFiles) -> None:
    """Truncate each kind of file, and flip bits in its header and anywhere."""
    chance = random.Random(files.seed)
    for kind, (suffix, _, _) in CONTAINERS.items():
        content = files.clips[kind]
        for cut in CUTS:
            files.add(f"cut_{kind}_{cut}{suffix}", content[: max(1, int(len(content) * cut))], "either")
        for variant in range(4):
            damaged = bytearray(content)
            for _ in range(8):
                damaged[chance.randrange(min(HEADER_BYTES, len(damaged)))] = chance.randrange(256)
            files.add(f"header_{kind}_{variant}{suffix}", bytes(damaged), "either")
        for variant in range(3):
            damaged = bytearray(content)
            for _ in range(40):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            files.add(f"flipped_{kind}_{variant}{suffix}", bytes(damaged), "either")


def add_lying_boxes(files: HostileFiles) -> None:
    """Write MP4 files whose index claims absurd counts and sizes."""
    content = files.clips["faststart"]
    for box in BOXES:
        if box not in content:
            continue
        start = content.index(box)
        for name, count in COUNTS.items():
            files.add(f"box_{box.decode()}_{name}.mp4", replace(content, start + 8, count), "either")
        files.add(f"box_{box.decode()}_size.mp4", replace(content, start - 4, b"\xff" * 4), "either")


def add_lying_headers(files: HostileFiles) -> None:
    """Write files that claim absurd sizes, rates, clocks and durations."""
    mp4, avi, gif = files.clips["faststart"], files.clips["avi"], files.clips["gif"]
    huge = struct.pack(">HH", 32768, 32768)
    files.add("size_32768.mp4", replace(mp4, mp4.index(b"avc1") + 28, huge), "either")
    files.add("size_32768.gif", replace(gif, 6, struct.pack("<HH", 32768, 32768)), "either")
    files.add("delta_huge.mp4", replace(mp4, mp4.index(b"stts") + 16, b"\x7f\xff\xff\xff"), "either")
    for clock in (0, 1):
        files.add(f"clock_{clock}.mp4", replace(mp4, mp4.index(b"mdhd") + 16, struct.pack(">I", clock)), "either")
    stream = avi.index(b"strh")
    files.add("scale_0.avi", replace(avi, stream + 28, b"\0" * 4), "either")
    files.add("rate_0.avi", replace(avi, stream + 32, b"\0" * 4), "either")
    files.add("pace_0.avi", replace(avi, avi.index(b"avih") + 8, b"\0" * 4), "either")
    files.add("external_data.mp4", replace(mp4, mp4.index(b"url ") + 4, b"\0" * 4), "either")
    for name, last in (("days", 9_000_000), ("years", 2_000_000_000)):
        files.add(f"gap_of_{name}.mkv", write_gap(last), "indexed")
    files.add("clock_restarts.ts", files.clips["mpegts"] * 2, "indexed")


def write_gap(last_s: int) -> bytes:
    """Return a film whose last frame is stamped ``last_s`` seconds after the others."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = cast(Any, container.add_stream("libx264", rate=RATE))
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(NUM_FRAMES):
            picture = np.full((SIZE[1], SIZE[0], 3), (200, 40 + index, 40), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index if index < NUM_FRAMES - 1 else last_s * RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def add_impostors(files: HostileFiles) -> None:
    """Write files that are no videos at all."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a.mp4", files.clips["mp4"])
    subtitles = "1\n00:00:00,000 --> 00:00:02,000\nhello\n\n"
    impostors: dict[str, bytes | str] = {
        "empty.mp4": b"",
        "one_byte.mp4": b"x",
        "text.mp4": "hello\n" * 1000,
        "random.mp4": random.Random(files.seed).randbytes(200_000),
        "zeros.mp4": b"\0" * 1_000_000,
        "archive.mp4": archive.getvalue(),
        "picture.mp4": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        "subtitles.mp4": subtitles,
        "vector.mp4": '<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/x"/></svg>',
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "sound.mp4": write_sound(),
    }
    for name, content in impostors.items():
        files.add(name, content, "refused")


def write_sound() -> bytes:
    """Return a file that holds sound alone."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = cast(Any, container.add_stream("aac", rate=16000))
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for index in range(20):
            frame.pts = index * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def add_playlists(files: HostileFiles) -> None:
    """Write playlists that lead to other files and to the network; one segment is a pipe that would hang its reader."""
    pipe = files.folder / "segment.fifo"
    os.mkfifo(pipe)
    targets = {
        "file": "file:///etc/passwd",
        "http": "http://127.0.0.1:9/segment.ts",
        "concat": "concat:/etc/passwd|http://127.0.0.1:9/x",
        "subfile": "subfile,,start,0,end,100,,:/etc/passwd",
        "tcp": "tcp://127.0.0.1:9",
        "data": "data:text/plain,hello",
        "pipe": "pipe:0",
        "fifo": pipe.name,
    }
    for name, target in targets.items():
        playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"
        for suffix in (".mp4", ".ts"):
            files.add(f"playlist_{name}{suffix}", playlist, "refused")
    files.add("list.mp4", "ffconcat version 1.0\nfile 'sound_mp4.mp4'\n", "refused")
    dash = '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period/></MPD>'
    files.add("dash.mp4", dash, "refused")


def add_names(files: HostileFiles) -> None:
    """Write sound films under names that shells, terminals, pages and libraries stumble over, and one far down."""
    for name_index, name in enumerate(NAMES):
        files.add(f"{name}.mp4", make_distinct(files, name_index), "indexed")
    files.add(b"inv\xff\xfealid.mp4", make_distinct(files, len(NAMES)), "indexed")
    deep = files.folder.joinpath("deep", *(f"d{level}" for level in range(100)))
    deep.mkdir(parents=True)
    files.add(os.path.relpath(deep / "deep.mp4", files.folder), make_distinct(files, len(NAMES) + 1), "indexed")


def make_distinct(files: HostileFiles, number: int) -> bytes:
    """Return the film with another content: a box that readers skip."""
    label = b"free%012d" % number
    return files.clips["mp4"] + struct.pack(">I", 4 + len(label)) + label


def add_special_files(files: HostileFiles) -> None:
    """Write links, pipes, sockets, folders that are named like films, and a sparse file of 4 GiB."""
    for name, target in LINKS.items():
        (files.folder / name).symlink_to(target)
        files.outcomes[str(files.folder / name)] = "refused"
    (files.folder / "loop_folder").mkdir()
    (files.folder / "loop_folder" / "up").symlink_to("..")
    os.mkfifo(files.folder / "pipe.mp4")
    files.outcomes[str(files.folder / "pipe.mp4")] = "refused"
    (files.folder / "folder.mp4").mkdir()
    with bind_socket(files.folder / "socket.mp4"):
        files.outcomes[str(files.folder / "socket.mp4")] = "refused"
    files.add("sparse.mp4", b"", "refused")
    os.truncate(files.folder / "sparse.mp4", SPARSE_BYTES)


def bind_socket(path: Path) -> socket.socket:
    """Bind a socket to a path as short as the system allows; the file stays when it is closed."""
    bound = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    try:
        os.chdir(path.parent)
        bound.bind(path.name)
    finally:
        os.chdir(here)
    return bound


def replace(content: bytes, start: int, value: bytes) -> bytes:
    """Return ``content`` with ``value`` written over it at ``start``."""
    return content[:start] + value + content[start + len(value) :]


def list_outcomes(files: HostileFiles) -> Iterator[str]:
    """Return a line for each file: what may come of it, and its name."""
    for path, outcome in sorted(files.outcomes.items()):
        yield f"{outcome:8} {os.path.relpath(path, files.folder)!r}"


if __name__ == "__main__":
    written = write_hostile_files(Path(sys.argv[1]))
    print("\n".join(list_outcomes(written)))
    print(len(written.outcomes), "files")
