"""Parsing of subtitle files to timed text: SubRip, WebVTT, ASS and SSA, in UTF-8, UTF-16 or a guessed encoding.

Files are untrusted: every expression takes time linear in the text, and the video's length limits the entries.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import unescape
from importlib.util import find_spec

from vidret.errors import MissingExtraError, VidretError
from vidret.types import TimedText

SUFFIXES = (".srt", ".vtt", ".ass", ".ssa")
MAX_BYTES = 64 << 20
MAX_ENTRIES = 200_000
MAX_PER_SECOND = 20  # entries that begin in one second of the video
MAX_CHARACTERS = 2000  # of an entry
MAX_NAMED = 3  # problems of one kind
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?!\d)")
_ASS_TIME = re.compile(_TIME)
_ASS_FIELDS = ("layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text")
# Of ASS, HTML and WebVTT. A tag has no opening bracket: else a text of only those would take quadratic time.
_DRAWING = r"(?<!\\)\{(?=[^{}]*\\p[1-9])[^{}]*\}[^{]*"  # the lines of a shape, after {\p1}
_TAGS = re.compile(_DRAWING + r"|(?<!\\)\{[^{}]*\}|</?[A-Za-z][^<>]*>|<[\d:.]+>")
# Containers and some file names state three letters, of which some languages have two sets (ISO 639-2).
TWO_LETTERS = {
    "eng": "en", "deu": "de", "ger": "de", "fra": "fr", "fre": "fr", "spa": "es", "ita": "it", "por": "pt",
    "nld": "nl", "dut": "nl", "rus": "ru", "pol": "pl", "ces": "cs", "cze": "cs", "swe": "sv", "dan": "da",
    "nor": "no", "fin": "fi", "tur": "tr", "ell": "el", "gre": "el", "ara": "ar", "heb": "he", "hin": "hi",
    "jpn": "ja", "kor": "ko", "zho": "zh", "chi": "zh", "ukr": "uk", "hun": "hu", "ron": "ro", "rum": "ro",
    "slk": "sk", "slo": "sk", "hrv": "hr", "slv": "sl", "aze": "az", "est": "et", "lav": "lv", "lit": "lt",
    "tha": "th", "vie": "vi", "ind": "id", "fil": "fil", "und": "",
}  # fmt: skip
_LANGUAGE = re.compile(r"\.(?!(?:sdh|cc)\.)([a-z]{2,3})(-[A-Za-z]{2,4})?(\.(sdh|cc|forced|hi))?\.\w+$")

_SNIFFED_BYTES = 4096
_SEARCHED_BYTES, _EVIDENCE_BYTES = 1 << 20, 1 << 16
_WESTERN = "cp1252"
_NAMES = {
    "cp1251": "Windows-1251", "koi8_r": "KOI8-R", "cp1253": "Windows-1253", "cp1255": "Windows-1255",
    "cp1256": "Windows-1256", "cp874": "Windows-874", "cp932": "Shift JIS", "euc_jp": "EUC-JP",
    "gb18030": "GB 18030", "big5": "Big5", "euc_kr": "EUC-KR",
}  # fmt: skip
# These encodings differ too little in Latin letters to be guessed; the language of a file decides.
_LATIN = dict.fromkeys(("pl", "cs", "sk", "hu", "hr", "sl", "ro"), "cp1250") | {
    **dict.fromkeys(("tr", "az"), "cp1254"),
    **dict.fromkeys(("et", "lv", "lt"), "cp1257"),
    "vi": "cp1258",
}
_FOREIGN = re.compile(rb"[\x80-\xff]+")

Entry = tuple[float, float, str]  # start and end in seconds, and the text with its formatting


@dataclass(frozen=True, slots=True)
class Subtitles:
    """The entries of a subtitle file, and the problems found in it, one sentence each."""

    texts: list[TimedText]
    problems: list[str] = field(default_factory=list)


def parse_subtitles(data: bytes, suffix: str, *, language: str = "", video_end_s: float = float("inf")) -> Subtitles:
    """Parse a subtitle file, whose suffix gives the format; unreadable entries are reported by their line.

    Entries that begin after ``video_end_s`` are left out. ``language`` is its ISO 639-1 code, where it is known.

    Raises:
        MissingExtraError: The encoding must be guessed, and the extra ``words`` is not installed.
        VidretError: The file is too large.
    """
    if len(data) > MAX_BYTES:
        raise VidretError(f"subtitles must be at most {MAX_BYTES >> 20} MiB, got {len(data) / 2**20:.0f} MiB")
    content, problems = decode_text(data, language)
    faults, limits = Faults(), EntryLimits(video_end_s)
    is_ass = suffix in (".ass", ".ssa")
    entries = read_dialogue(content, faults) if is_ass else read_cues(content, faults, ends_at_blank=suffix == ".vtt")
    texts: list[TimedText] = []
    for start_s, end_s, raw in entries:
        if end_s < start_s:
            faults.add("an entry", "ends before it starts", clean(raw))
        elif (text := limits.make(start_s, end_s, raw, language=language)) is not None:
            texts.append(text)
    problems += [*faults.describe(), *limits.describe()]
    if not texts and content.strip() and not limits.num_late:
        problems.append("no entry could be read")
    return Subtitles(drop_repeats(sorted(texts, key=lambda text: (text.start, text.end))), problems)


class Faults:
    """A collection of malformed entries: the first of each kind by name, and the number of others."""

    def __init__(self) -> None:
        self._named: list[str] = []
        self._counts: Counter[str] = Counter()

    def add(self, entry: str, fault: str, text: str) -> None:
        """Record an entry, its fault, and its text."""
        if self._counts[fault] < MAX_NAMED:
            self._named.append(f"{entry} {fault}: {text.strip()[:60]!r}")
        self._counts[fault] += 1

    def describe(self) -> list[str]:
        """Return a sentence for each named entry, and one for the others of its kind."""
        more = {fault: count - MAX_NAMED for fault, count in self._counts.items() if count > MAX_NAMED}
        return self._named + [f"each of {count} more {fault}" for fault, count in more.items()]


class EntryLimits:
    """Makes the timed texts of one video's subtitles: none after its end, nor more or longer ones than people read.

    ``num_late`` counts the entries that begin after its end.
    """

    def __init__(self, video_end_s: float) -> None:
        """Start before the first entry of a video that ends at ``video_end_s``."""
        self._video_end_s = video_end_s
        self._in_second: Counter[tuple[int, int]] = Counter()
        self.num_late = self._num_made = self._num_crowded = self._num_long = 0

    def make(self, start_s: float, end_s: float, raw: str, *, language: str, track: int = 0) -> TimedText | None:
        """Return an entry without its formatting; None if it has no words or is beyond a limit."""
        if start_s >= self._video_end_s:
            self.num_late += 1
            return None
        second = track, int(start_s)
        if self._in_second[second] == MAX_PER_SECOND or self._num_made == MAX_ENTRIES:
            self._num_crowded += 1
            return None
        words = clean(raw)
        if not words:
            return None
        self._in_second[second] += 1
        self._num_made += 1
        self._num_long += len(words) > MAX_CHARACTERS
        end_s = min(end_s, self._video_end_s)
        return TimedText(start_s, end_s, words[:MAX_CHARACTERS], "subtitles", 1.0, language)

    def describe(self) -> list[str]:
        """Return a sentence for each limit that was reached."""
        limits = f"at most {MAX_PER_SECOND} are read in a second and {MAX_ENTRIES} in a file"
        met = {
            "entries that begin after the end of the video are left out": self.num_late,
            f"entries are left out, since {limits}": self._num_crowded,
            f"entries are cut after {MAX_CHARACTERS} characters": self._num_long,
        }
        return [f"{what}: {count}" for what, count in met.items() if count]


def read_cues(content: str, faults: Faults, *, ends_at_blank: bool) -> Iterator[Entry]:
    """Yield the entries of a SubRip or WebVTT file; those with malformed times are left out.

    In WebVTT a blank line ends an entry (``ends_at_blank``): notes, styles and names of entries are left out.
    """
    times: tuple[float, float] | None = None
    lines: list[str] = []
    follows_times = False
    for line_number, line in enumerate(content.split("\n"), 1):
        match = _TIMES.match(line) if "-->" in line else None
        is_malformed = match is None and "-->" in line and not follows_times
        if match is not None or is_malformed:
            if lines and lines[-1].strip().isdecimal() and not ends_at_blank:
                lines.pop()  # the number of this entry
            if times is not None:
                yield *times, "\n".join(lines)
            times, lines, follows_times = None, [], match is not None
        if match is not None:
            times = _to_seconds(*match.groups()[:4]), _to_seconds(*match.groups()[4:])
        elif is_malformed:
            faults.add(f"line {line_number}", "has no valid times", line)
        elif line.strip() and times is not None:
            lines.append(line)
        elif not line.strip():
            follows_times = False
            if times is not None and ends_at_blank:
                yield *times, "\n".join(lines)
                times, lines = None, []
    if times is not None:
        yield *times, "\n".join(lines)


def read_dialogue(content: str, faults: Faults) -> Iterator[Entry]:
    """Yield the entries of an ASS or SSA file, without its comments."""
    fields: tuple[str, ...] = _ASS_FIELDS
    for line_number, line in enumerate(content.split("\n"), 1):
        kind, _, rest = line.strip().partition(":")
        if kind == "Format":
            names = tuple(name.strip().lower() for name in rest.split(",", len(_ASS_FIELDS)))
            fields = names if {"start", "end", "text"} <= set(names) else fields
        elif kind == "Dialogue":
            values = dict(zip(fields, rest.split(",", len(fields) - 1), strict=False))
            start, end = (_ASS_TIME.fullmatch(values.get(name, "").strip()) for name in ("start", "end"))
            if start is None or end is None or "text" not in values:
                faults.add(f"line {line_number}", "has no valid times", line)
            else:
                yield _to_seconds(*start.groups()), _to_seconds(*end.groups()), values["text"]


def _to_seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000


def clean(text: str) -> str:
    r"""Return the words of an entry without formatting; an entry that is far too long is cut.

    >>> clean("{\\an8}<i>Fish</i> &amp; chips: 2 < 3")
    'Fish & chips: 2 < 3'
    """
    plain = _TAGS.sub("", text.replace("\\N", " ").replace("\\n", " ").replace("\\h", " "))
    return " ".join(unescape(" ".join(plain.split())[: 2 * MAX_CHARACTERS]).split())


def drop_repeats(texts: list[TimedText]) -> list[TimedText]:
    """Return entries by start, without those that repeat the words of the previous one at the same time.

    Entries may be of several languages, one after the other.
    """
    kept: list[TimedText] = []
    for text in texts:
        is_same = bool(kept) and (kept[-1].text, kept[-1].language) == (text.text, text.language)
        if is_same and text.start <= kept[-1].end:
            last = kept.pop()
            text = TimedText(last.start, max(last.end, text.end), text.text, "subtitles", 1.0, text.language)
        kept.append(text)
    return kept


def find_language(name: str) -> str:
    """Return the language that a file name states, as in "film.en.srt" or "film.eng.srt"; empty without one.

    Three letters must be a known code, since many are the last word of a title.
    """
    match = _LANGUAGE.search(name.lower())
    return TWO_LETTERS.get(match[1], match[1] if len(match[1]) == 2 else "") if match else ""


def decode_text(data: bytes, language: str = "") -> tuple[str, list[str]]:
    """Return a file's text, its lines ending in a line feed, and a sentence if it is not plain UTF-8 or UTF-16.

    Raises:
        MissingExtraError: The encoding must be guessed, and the extra ``words`` is not installed.
    """
    content, problems = _decode(data, language)
    return content.replace("\r\n", "\n").replace("\r", "\n"), problems


def _decode(data: bytes, language: str) -> tuple[str, list[str]]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").removeprefix("\ufeff"), []
    if 4 * data[:_SNIFFED_BYTES].count(0) > len(data[:_SNIFFED_BYTES]):  # half of UTF-16 text in Latin letters is 0
        codec = "utf-16-be" if data[:_SNIFFED_BYTES:2].count(0) > data[1:_SNIFFED_BYTES:2].count(0) else "utf-16-le"
        return data.decode(codec, errors="replace"), ["without a byte order mark: read as UTF-16"]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
    repaired = data.decode("utf-8-sig", errors="replace")
    num_damaged = repaired.count("\ufffd")
    num_foreign = len(repaired) - len(repaired.encode("ascii", errors="ignore"))
    if 10 * num_damaged < num_foreign:  # text in another encoding has few valid sequences
        return repaired, [f"line {line} is not UTF-8: damaged characters are replaced: {num_damaged}"]
    codec = guess_encoding(data, language)
    return data.decode(codec, errors="replace"), [
        f"line {line} is not UTF-8: read as {_NAMES.get(codec, codec.replace('cp', 'Windows-'))}"
    ]


def guess_encoding(data: bytes, language: str = "") -> str:
    """Return the codec of text that is neither UTF-8 nor UTF-16.

    In languages with Latin letters, bytes beyond ASCII stand singly between letters; in others, they come in runs.

    Raises:
        MissingExtraError: The extra ``words`` is not installed.
    """
    lines = [line for line in data[:_SEARCHED_BYTES].split(b"\n") if not line.isascii()]
    evidence = b"\n".join(lines)[:_EVIDENCE_BYTES]
    runs, western = _FOREIGN.findall(evidence), _LATIN.get(language, _WESTERN)
    if sum(map(len, runs)) < 2 * len(runs):
        return western
    if find_spec("charset_normalizer") is None:
        raise MissingExtraError("reading subtitles that are not UTF-8", "words")
    from charset_normalizer import from_bytes

    best = from_bytes(evidence, cp_isolation=list(_NAMES)).best()
    return best.encoding if best is not None and best.encoding in _NAMES else western
