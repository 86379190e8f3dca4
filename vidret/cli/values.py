"""Rules for the values of options, checked before a command begins, and parsers of these values and of query files.

A rule holds for an option wherever it occurs. A metavar such as ``on|off`` lists the values that are allowed.
"""

import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from vidret.encode.names import RECOMMENDED, STARTER
from vidret.errors import DecodeError, OptionError, VidretError, read_fault
from vidret.text import parse_json
from vidret.types import RERANKERS, SOURCES
from vidret.types import Sequence as EventSequence

if TYPE_CHECKING:
    from vidret.types import Picture

Name = TypeVar("Name", bound=str)
T = TypeVar("T")
LARGEST = 10**18  # an index can store it, and the sum of two
SMALLEST_BANK = 10  # queries; fewer do not represent other queries
CHOICES = re.compile(r"[a-z0-9]+(\|[a-z0-9]+)+")
CLOCK = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")  # a time, as 1:30
# For shell completion: words of options whose metavar does not list them.
COMPLETED = {
    "--device": "auto cpu cuda mps xpu",
    "--head": "auto none",
    "--in": " ".join(SOURCES),
    "--model": " ".join((STARTER, *RECOMMENDED)),
    "--rerank": " ".join(("auto", *RERANKERS)),
    "--store": "faiss milvus://",
}
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def list_values(param: Any) -> list[str]:
    """Return the words to offer for an option in shell completion; it may accept others."""
    metavar = param.metavar or ""
    words = [word for word in metavar.split("|") if word.islower()] if "|" in metavar else []
    return words or COMPLETED.get(param.opts[0], "").split()


def check_values(ctx: Any, params: list[Any]) -> None:
    """Check the values of a command's options, unless shell completion parses an unfinished line."""
    if not ctx.resilient_parsing:
        for param in params:
            check_value(ctx, param, ctx.params.get(param.name))


def check_value(ctx: Any, param: Any, value: Any) -> None:
    """Check the value of an option or argument."""
    flag, metavar = param.opts[0], param.metavar or ""
    if value is None or isinstance(value, bool):
        return
    try:
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST:
                raise VidretError(f"must be at most {LARGEST}, got {number}")
            if isinstance(number, float) and not math.isfinite(number):
                raise VidretError(f"must be finite, got {number}")
        if CHOICES.fullmatch(metavar):
            if str(value) not in (allowed := metavar.split("|")):
                raise VidretError(f"must be one of {', '.join(allowed)}, got {value}")
        elif rule := RULES.get(flag):
            rule(str(value))
    except VidretError as error:
        raise typer.BadParameter(str(error), ctx=ctx, param_hint=flag) from error


def require_file(words: tuple[str, ...], what: str) -> Callable[[str], None]:
    """Return a rule for values that are one of some words, or a file."""

    def check(value: str) -> None:
        if value not in words and not Path(value).is_file():
            raise VidretError(f"must be {', '.join(words)} or the file of {what}, got {value}")

    return check


def check_image_name(value: str) -> None:
    """Refuse a file name without the suffix of an image format."""
    if Path(value).suffix.lower() not in IMAGES:
        raise VidretError(f"must end with {', '.join(IMAGES)}, got {value}")


def require(module: str, name: str, *others: object) -> Callable[[str], None]:
    """Return a rule that calls a function with the value; its module is imported with the first value."""
    return lambda value: getattr(import_module(module), name)(value, *others)


RULES: dict[str, Callable[[str], None]] = {
    "--device": require("vidret.devices", "parse_device"),  # the device need not exist
    "--rerank": require_file(("auto", *RERANKERS), "an aligner"),
    "--head": require_file(("auto", "none"), "a head"),
    "--sheet": check_image_name,
    "--curve": check_image_name,
    "--server": require("vidret.client.server", "Server", None, 1.0),  # checks the URL without a request
    "--store": require("vidret.store.vectors.registry", "normalise_address", Path()),
    "--webhook": require("vidret.endpoints.transport", "check_webhook"),
}


def parse_names(
    text: str, allowed: Sequence[Name], *, option: str, rule: str = "must list some of"
) -> tuple[Name, ...]:
    """Return the names in a list such as ``speech,screen``, in the order of ``allowed``."""
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in allowed:
            raise typer.BadParameter(f"{rule} {', '.join(allowed)}, got {name!r}", param_hint=option)
    return tuple(name for name in allowed if name in chosen)


def read_image_file(path: Path) -> "Picture":
    """Return an image file as uint8 RGB of shape (height, width, 3); see ``vidret.video.images.read_image``."""
    from vidret.video.images import read_image_at

    try:
        return read_image_at(str(path))
    except DecodeError as error:
        raise VidretError(f"{path}: cannot be read as an image: {error.reason}") from error


def parse_clock(text: str) -> float:
    """Return a time in seconds, written as it is printed or as seconds.

    >>> parse_clock("1:02:03.5"), parse_clock("90")
    (3723.5, 90.0)
    """
    match = CLOCK.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be a time, such as 1:30 or 90")
    hours, minutes, seconds = (float(unit or 0) for unit in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def parse_memory(text: str) -> int:
    """Return a size such as 8GB, 500 MB or 4GiB in bytes, or 0 for ``none``."""
    if text.strip().lower() == "none":
        return 0
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmgt])(i?)b", text.strip(), re.IGNORECASE)
    size_bytes = 0
    if match:
        amount, unit, binary = match.groups()
        size_bytes = round(float(amount) * (1024 if binary else 1000) ** ("kmgt".index(unit.lower()) + 1))
    if not 1 <= size_bytes < 2**63:  # which the index stores
        rule = "must be a number with KB, MB, GB or TB (or KiB, MiB, GiB, TiB), or none"
        raise typer.BadParameter(f"{rule}, got {text!r}", param_hint="--memory")
    return size_bytes


def read_bank(path: Path) -> list[str]:
    """Return the queries of a bank: lines of text, or JSON objects (.jsonl) with "query", "caption" or "captions"."""
    if path.suffix.lower() in (".csv", ".tsv", ".json"):  # their lines hold more than a text
        raise VidretError(f"{path}: queries must be lines of text or .jsonl, got {path.suffix}")
    queries = read_texts(path)
    if len(queries) < SMALLEST_BANK:
        raise VidretError(f"{path}: a bank must hold at least {SMALLEST_BANK} queries, got {len(queries)}")
    return queries


def sample_evenly(items: Sequence[T], limit: int) -> Sequence[T]:
    """Return at most ``limit`` items, evenly spread over all of them.

    >>> sample_evenly("abcde", 2), sample_evenly("abc", 5)
    (['a', 'c'], 'abc')
    """
    return items if len(items) <= limit else [items[i * len(items) // limit] for i in range(limit)]


def read_texts(path: Path) -> list[str]:
    """Return the queries of a file as ``read_bank`` does, without a minimum number."""
    if path.suffix != ".jsonl":
        return [line for _, line in _number_lines(path)]
    texts = [text for line_number, line in _number_lines(path) for text in _read_texts(path, line_number, line)]
    return [text for text in texts if text.strip()]


def _read_texts(path: Path, line_number: int, line: str) -> list[str]:
    row = _parse_json(line)
    value = row.get("query") or row.get("caption") or row.get("captions") if isinstance(row, dict) else None
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise VidretError(f'{path}: line {line_number} must have "query", "caption" or "captions", got {line:.80}')
    return texts


def iterate_queries(path: Path) -> "Iterator[tuple[dict[str, Any], str | EventSequence]]":
    """Yield the objects of a JSONL file, or of stdin for ``-``, each with its query.

    Raises:
        VidretError: It cannot be read, or a line has no query or one that is invalid for any index.
    """
    from vidret.search.query.planning import check_query

    for line_number, line in _number_lines(path):
        row = _parse_json(line)
        try:
            if isinstance(row, dict) and isinstance(row.get("query"), str):
                query: str | EventSequence = row["query"]
            elif isinstance(row, dict) and isinstance(row.get("events"), list):
                query = EventSequence(row["events"], row.get("gap"))
            else:
                raise VidretError(f'{path}: line {line_number} must be an object with "query", got {line:.200}')
            check_query(query)
        except OptionError as error:  # of the file, not of the command line
            raise VidretError(f"{path}: line {line_number}: {error}") from error
        yield row, query


def _number_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file, or of stdin for ``-``, that are not blank, stripped, with their numbers from 1."""
    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8-sig") as lines:
            for line_number, line in enumerate(lines, start=1):
                if line.strip():
                    yield line_number, line.strip()
    except (OSError, ValueError) as error:
        raise VidretError(f"{path}: cannot be read: {read_fault(error)}") from error


def _parse_json(line: str) -> Any:
    """Return the value of a line of JSON, or None if it is not valid JSON."""
    try:
        return parse_json(line)
    except ValueError:
        return None
