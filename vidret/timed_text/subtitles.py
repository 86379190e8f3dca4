"""Subtitle files and tracks to timed text: SubRip, WebVTT, ASS and SSA, read by pysubs2."""

import codecs
import re
import warnings
from dataclasses import dataclass, field
from html import unescape
from importlib.util import find_spec

from vidret.errors import MissingExtraError, VidretError
from vidret.types import TimedText

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
MAX_BYTES = 64 << 20
MAX_ENTRIES = 200_000
_SNIFFED_BYTES = 4096
_TIMES = re.compile(r"^\s*(\d+:)?\d+:\d+[.,]\d+\s*-->\s*(\d+:)?\d+:\d+[.,]\d+")
_TAGS = re.compile(r"\{\\[^}]*\}|</?[A-Za-z][^>]*>|<[\d:.]+>")  # of ASS, HTML and WebVTT
_LANGUAGE = re.compile(r"\.([a-z]{2,3})(-[A-Za-z]{2,4})?(\.(sdh|cc|forced|hi))?\.\w+$")


@dataclass(frozen=True, slots=True)
class Subtitles:
    """The entries of a subtitle file, and the problems that were found in it, one sentence each."""

    texts: list[TimedText]
    problems: list[str] = field(default_factory=list)


def parse_subtitles(data: bytes, suffix: str, *, language: str = "") -> Subtitles:
    """Parse a subtitle file; what cannot be read is named by its line, and the rest is used.

    Args:
        data: The file's bytes, in UTF-8, UTF-16, or else in Windows-1252.
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
        content, malformed = drop_malformed(content, ends_at_blank=suffix == ".vtt")
        problems += malformed
    try:
        with warnings.catch_warnings():
            # pysubs2 1.9 warns of a time within an entry, as in karaoke; drop_malformed names what has no valid times.
            warnings.simplefilter("ignore")
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


def drop_malformed(content: str, *, ends_at_blank: bool) -> tuple[str, list[str]]:
    """Return a SubRip or WebVTT file without entries whose times are malformed, and a sentence for each of them.

    In WebVTT a blank line ends an entry (``ends_at_blank``): notes, styles and names of entries are left out.
    """
    kept: list[str] = []
    problems = []
    is_dropped = is_entry = False
    for number, line in enumerate(content.split("\n"), 1):
        if _TIMES.match(line):
            is_entry, is_dropped = True, False
        elif not line.strip():
            is_entry = is_dropped = False
        elif "-->" in line and not is_entry:
            problems.append(f"line {number} has no valid times: {line.strip()[:60]!r}")
            is_dropped = True
            if kept and kept[-1].strip().isdigit():
                kept.pop()
        if not is_dropped and (is_entry or number == 1 or not ends_at_blank):
            kept.append(line)
    return "\n".join(kept), problems


def decode_text(data: bytes) -> tuple[str, list[str]]:
    """Return a file's text, its lines ending in a line feed, and a note where its encoding had to be guessed."""
    content, problems = _decode(data)
    return content.replace("\r\n", "\n").replace("\r", "\n"), problems


def _decode(data: bytes) -> tuple[str, list[str]]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").removeprefix("\ufeff"), []
    if 4 * data[:_SNIFFED_BYTES].count(0) > len(data[:_SNIFFED_BYTES]):  # UTF-16 of Latin text: half of it
        codec = "utf-16-be" if data[:_SNIFFED_BYTES:2].count(0) > data[1:_SNIFFED_BYTES:2].count(0) else "utf-16-le"
        return data.decode(codec, errors="replace"), ["without a byte order mark: read as UTF-16"]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return data.decode("cp1252", errors="replace"), [f"line {line} is not UTF-8: read as Windows-1252"]


def clean(text: str) -> str:
    r"""Return the words of an entry without formatting.

    >>> clean("{\\an8}<i>Fish</i> &amp; chips: 2 < 3")
    'Fish & chips: 2 < 3'
    """
    plain = _TAGS.sub("", text.replace("\\N", " ").replace("\\n", " ").replace("\\h", " "))
    return " ".join(unescape(plain).split())


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
