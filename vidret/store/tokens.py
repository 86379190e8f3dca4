"""The tokens of an index, which give rights to users of its server, and the record of the changes that users make.

Tokens are random, so a plain hash does not reveal them.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from vidret.errors import OptionError, StoreError, VidretError
from vidret.store.folder import check_entries
from vidret.store.rows_file import RowsFile
from vidret.text import MARKS, parse_json

TokenRight = Literal["read", "change"]
RIGHTS: tuple[TokenRight, ...] = ("read", "change")
RECORD = "changes.jsonl"
DAMAGED = {"when": "", "who": "", "what": "a damaged line"}
_NAME = re.compile(rf"\w[\w{MARKS}.@-]{{0,63}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token as stored in an index.

    Attributes:
        name: Name of its owner.
        digest: SHA-256 of the token, in hexadecimal.
        right: ``read``: search and watch; ``change``: also index, name, teach, and change collections.
        collection: The only collection that it gives access to; empty for the whole index.
        made: Time of its creation in ISO 8601.
    """

    name: str
    digest: str
    right: TokenRight
    collection: str = ""
    made: str = ""


TOKENS = RowsFile("tokens", StoredToken)


def make_token(index: Path, name: str, right: TokenRight, *, collection: str = "") -> str:
    """Make a token and return it; the index keeps only its hash.

    Raises:
        VidretError: The name is taken or invalid.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(f"name must be up to 64 letters, digits and any of . _ @ -, got {name!r}")
    token = secrets.token_urlsafe(32)
    with TOKENS.change(index) as kept:
        if any(stored.name == name for stored in kept):
            raise VidretError(f"name must be new, got {name}, who has a token")
        made = datetime.now(UTC).isoformat(timespec="seconds")
        kept.append(StoredToken(name=name, digest=_hash(token), right=right, collection=collection, made=made))
    return token


def find_token(kept: Sequence[StoredToken], token: str) -> StoredToken | None:
    """Return the stored token that a presented one matches, None without; all are compared in constant time."""
    digest = _hash(token).encode()
    matching = [stored for stored in kept if hmac.compare_digest(stored.digest.encode("utf-8", "replace"), digest)]
    return matching[0] if matching else None


def record_change(index: Path, who: str, what: str, **details: Any) -> None:
    """Add a line to the record of changes: when, who, and what.

    Raises:
        StoreError: The record cannot be written.
    """
    check_entries(index, deep=False)
    row = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "who": who, "what": what, **details}
    try:
        handle = os.open(index / RECORD, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "r+b") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            is_torn = file.read(1) not in (b"", b"\n")  # a full disk has cut the last line
            file.write(b"\n" * is_torn + json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise StoreError(f"{index / RECORD}: cannot be written: {error.strerror}") from error


def read_record(index: Path, limit: int) -> list[dict[str, Any]]:
    """Return the last recorded changes, oldest first; ``DAMAGED`` for each invalid line.

    Raises:
        StoreError: The record cannot be read.
    """
    check_entries(index, deep=False)
    path = index / RECORD
    try:
        with path.open("rb") as file:
            return [_read_change(line) for line in deque(file, limit)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error


def _read_change(line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError:
        return DAMAGED
    return row if isinstance(row, dict) and row.keys() >= DAMAGED.keys() else DAMAGED


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
