"""Subtitle files and tracks to timed text: SubRip, WebVTT, ASS and SSA, read by pysubs2."""

import codecs
import re
from dataclasses import dataclass, field
from importlib.util import find_spec

from vidret.errors import MissingExtraError, VidretError
from vidret.types import TimedText

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
MAX_BYTES = 64 << 20
MAX_ENTRIES = 200_000
_TIMES = re.compile(r"^\s*(\d+:)?\d+:\d+[.,]\d+\s*-->\s*(\d+:)?\d+:\d+[.,]\d+")
_TAGS = re.compile(r"\{[^}]*\}|<[^>]*>")
_LANGUAGE = re.compile(r"\.([a-z]{2,3})(-[A-Za-z]{2,4})?(\.(sdh|cc|forced|hi))?\.\w+$")


@dataclass(frozen=True, slots=True)
class Subtitles:
    """The entries of a subtitle file, and the problems that were found in it, one sentence each."""

    texts: list[TimedText]
    problems: list[str] = field(default_factory=list)


def parse_subtitles(data: bytes, suffix: str, *, language: str = "") -> Subtitles:
    """Parse a subtitle file; what cannot be read is named by its line, and the rest is used.

    Args:
        data: The file's bytes, in UTF-8, UTF-16 with a byte order mark, or else in Windows-1252.
        suffix: The file name's suffix, which gives the format.
        language: The language, where it is known.

    Raises:
        MissingExtraError: The extra ``words`` is not installed.
        VidretError: The file is too large, or nothing of it can be read.
    """
    if len(data) > MAX_BYTES:
        raise VidretError(f"subtitles must be at most {MAX_BYTES >> 20} MiB, got {len(data) / 2**20:.0f} MiB")
    if find_spec("pysubs2") is None:
        raise MissingExtraError("reading subtitles", "words")
    import pysubs2

    content, problems = decode_text(data)
    if suffix in (".srt", ".vtt"):
        problems += [
            f"line {number} has no valid times: {line.strip()[:60]!r}"
            for number, line in enumerate(content.splitlines(), 1)
            if "-->" in line and _TIMES.match(line) is None
        ]
    try:
        parsed = pysubs2.SSAFile.from_string(content, format_={".ssa": "ssa"}.get(suffix, suffix.lstrip(".")))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VidretError(f"subtitles cannot be read: {reason}") from error
    texts = []
    for event in parsed.events:
        words = clean(event.plaintext)
        if event.is_comment or not words:
            continue
        if not 0 <= event.start <= event.end:
            problems.append(f"an entry ends before it starts: {words[:60]!r}")
            continue
        texts.append(TimedText(event.start / 1000, event.end / 1000, words, "subtitles", 1.0, language))
    if len(texts) > MAX_ENTRIES:
        problems.append(f"only the first {MAX_ENTRIES} of {len(texts)} entries are used")
    if not texts and content.strip():
        problems.append("no entry could be read")
    return Subtitles(drop_repeats(sorted(texts, key=lambda text: (text.start, text.end)))[:MAX_ENTRIES], problems)


def decode_text(data: bytes) -> tuple[str, list[str]]:
    """Return a file's text, and a note where its encoding had to be guessed."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), []
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return data.decode("cp1252", errors="replace"), [f"line {line} is not UTF-8: read as Windows-1252"]


def clean(text: str) -> str:
    """Return the words of an entry without formatting."""
    return " ".join(_TAGS.sub("", text.replace("\\N", " ").replace("\\n", " ").replace("\\h", " ")).split())


def drop_repeats(texts: list[TimedText]) -> list[TimedText]:
    """Return entries by start, without those that repeat the words of the one before at the same time."""
    kept: list[TimedText] = []
    for text in texts:
        if kept and kept[-1].text == text.text and text.start <= kept[-1].end:
            last = kept.pop()
            text = TimedText(last.start, max(last.end, text.end), text.text, "subtitles", 1.0, text.language)
        kept.append(text)
    return kept


def find_language(name: str) -> str:
    """Return the language that a file name states, as in "film.en.srt"; empty without one."""
    match = _LANGUAGE.search(name.lower())
    return match[1] if match else ""
