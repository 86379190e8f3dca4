"""The exceptions that vidret raises for expected failures; ``VidretError`` is the base of them all."""

import errno
import os
import re
from collections.abc import Iterable, Set
from pathlib import Path


class VidretError(Exception):
    """An expected failure, described in one sentence: a rule and the value that broke it, or a path and the reason."""


class OptionError(VidretError):
    """A query or the value of an option that is invalid for any index and any file."""


def check_list(name: str, values: object) -> None:
    """Raise OptionError unless ``values`` is a list of paths; a single path would be read as a list of its letters."""
    if isinstance(values, str | os.PathLike) or not isinstance(values, Iterable):
        raise OptionError(f"{name} must be a list, got {values!r:.60}")


# The last one is that of a write-ahead log without room for its shared memory.
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, "SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"}


def is_disk_full(error: BaseException) -> bool:
    """Return whether the cause of an error, of the system or of SQLite, is a full disk or an exhausted quota."""
    return _has_code(error, FULL_DISK)


def is_out_of_files(error: BaseException) -> bool:
    """Return whether the cause of an error is that this process, or the system, may open no more files."""
    return _has_code(error, {errno.EMFILE, errno.ENFILE})


def _has_code(error: BaseException, wanted: Set[object]) -> bool:
    """Return whether an error or one of its causes has one of these codes, of the system or of SQLite."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and all(cause is not seen for seen in causes):  # some libraries make a circle of causes
        codes = (getattr(cause, "errno", None), getattr(cause, "sqlite_errorname", None))
        if not wanted.isdisjoint(codes):
            return True
        causes.append(cause)
        cause = cause.__cause__
    return False


def is_memory_short(error: BaseException) -> bool:
    """Return whether an error reports a lack of memory for an array, a mapped file or a library."""
    is_unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    return is_unmapped or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM


class DecodeError(VidretError):
    """A file that cannot be read as video."""

    def __init__(self, path: str, reason: str) -> None:
        """Store the path and the reason separately, so that a report can show each."""
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        """Return "path: reason". The query string of a URL is left out, since it may hold a signature."""
        return f"{self.path.partition('?')[0] if '://' in self.path else self.path}: {self.reason}"


class UnreachableError(DecodeError):
    """A file at a URL that could not be fetched now, although it may exist."""

    def __init__(self, path: str, reason: str, *, answered: bool = True) -> None:
        super().__init__(path, reason)
        self.answered = answered


class DecoderFailedError(DecodeError):
    """A decoder that failed in an unforeseen way; the file need not be the cause."""


class ChangedError(DecodeError):
    """A file whose content has changed since it was identified."""


class EncoderError(VidretError):
    """An encoder that cannot be loaded or trusted."""


class UnknownEncoderError(EncoderError):
    """A name that no encoder has."""


class DeviceError(VidretError):
    """A device that does not exist or cannot be used."""


class AlignerError(VidretError):
    """An aligner that cannot be loaded."""


class StoreError(VidretError):
    """An index that cannot be opened, read or written."""


class MissingIndexError(StoreError):
    """A folder without an index."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        """Return "path: there is no index here"."""
        return f"{self.path}: there is no index here"


class NotFoundError(StoreError):
    """Something that an index does not have."""


class MissingVideoError(NotFoundError):
    """A video that an index does not have, or whose files are all missing."""


class MovedError(StoreError):
    """An index that another process has moved to another encoder; ``Engine.reopen`` loads that one."""


class ConflictError(VidretError):
    """A conflict: somebody else changed the same thing first."""


class MissingExtraError(VidretError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs the extra "{extra}": pip install "vidret[{extra}]"')
        self.extra = extra


def read_fault(error: BaseException) -> str:
    """Return the first line of an error's message, its type without a message, or the reason of a system error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]


PYDANTIC_WORDS = {
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "Field required": "must be given",
    "Extra inputs are not permitted": "must not be given",
    "a valid dictionary or object to extract fields from": "a JSON object",
    "a valid tuple": "a JSON array",
    "a valid list": "a JSON array",
    "JSON decode error": "must be JSON",
}


def read_rule(message: str) -> str:
    """Return a message of pydantic in vidret's words; a message that is not a known rule stays unchanged.

    >>> read_rule("Input should be greater than or equal to 1"), read_rule("Extra inputs are not permitted")
    ('must be at least 1', 'must not be given')
    """
    rule = re.sub(r"^\w+ should ", "must ", message.removeprefix("Value error, "))
    rule = re.sub(r"(?: after validation)?, (?:unable|input|not) .*", "", rule)
    for pydantic_word, word in PYDANTIC_WORDS.items():
        rule = rule.replace(pydantic_word, word)
    return rule
