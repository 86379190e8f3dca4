"""Bytes of a text file to text: UTF-8 and UTF-16 as they are, other encodings guessed by charset-normalizer."""

import codecs
import re
from importlib.util import find_spec

from vidret.errors import MissingExtraError

_SNIFFED_BYTES = 4096
_SEARCHED_BYTES, _EVIDENCE_BYTES = 1 << 20, 1 << 16
_WESTERN = "cp1252"
_NAMES = {
    "cp1251": "Windows-1251", "koi8_r": "KOI8-R", "cp1253": "Windows-1253", "cp1255": "Windows-1255",
    "cp1256": "Windows-1256", "cp874": "Windows-874", "cp932": "Shift JIS", "euc_jp": "EUC-JP",
    "gb18030": "GB 18030", "big5": "Big5", "euc_kr": "EUC-KR",
}  # fmt: skip
# Latin letters differ too little between these to be guessed: a file's language decides.
_LATIN = dict.fromkeys(("pl", "cs", "sk", "hu", "hr", "sl", "ro"), "cp1250") | {
    **dict.fromkeys(("tr", "az"), "cp1254"),
    **dict.fromkeys(("et", "lv", "lt"), "cp1257"),
    "vi": "cp1258",
}
_FOREIGN = re.compile(rb"[\x80-\xff]+")


def decode_text(data: bytes, language: str = "") -> tuple[str, list[str]]:
    """Return a file's text, its lines ending in a line feed, and a sentence if it is not plain UTF-8 or UTF-16.

    Args:
        data: The bytes.
        language: ISO 639-1 code of the language, where it is known.

    Raises:
        MissingExtraError: The encoding must be guessed, and the extra ``words`` is not installed.
    """
    content, problems = _decode(data, language)
    return content.replace("\r\n", "\n").replace("\r", "\n"), problems


def _decode(data: bytes, language: str) -> tuple[str, list[str]]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace").removeprefix("\ufeff"), []
    if 4 * data[:_SNIFFED_BYTES].count(0) > len(data[:_SNIFFED_BYTES]):  # UTF-16 of Latin text: half of it
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

    In languages with Latin letters, single bytes beyond ASCII stand between letters; in others, they come in runs.

    Raises:
        MissingExtraError: The extra ``words`` is not installed.
    """
    lines = [line for line in data[:_SEARCHED_BYTES].split(b"\n") if not line.isascii()]
    evidence = b"\n".join(lines)[:_EVIDENCE_BYTES]
    runs = _FOREIGN.findall(evidence)
    if sum(map(len, runs)) < 2 * len(runs):
        return _LATIN.get(language, _WESTERN)
    if find_spec("charset_normalizer") is None:
        raise MissingExtraError("reading subtitles that are not UTF-8", "words")
    from charset_normalizer import from_bytes

    best = from_bytes(evidence, cp_isolation=list(_NAMES)).best()
    return best.encoding if best is not None and best.encoding in _NAMES else _WESTERN
