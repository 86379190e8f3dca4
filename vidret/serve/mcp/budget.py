"""Limits of one answer: characters and images. What does not fit is on the next page."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vidret.errors import VidretError
from vidret.text import sanitize

MIN_CHARACTERS = 4_000  # one row of any tool fits, however many of its characters are escaped
MAX_OFFSET = 10_000  # as in ``OffsetField``
NEXT = "next_offset"
LARGEST = 10**18  # no offset takes more characters
SCANNED = 4  # times the limit: white space beyond this is not removed to make room


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one answer may hold.

    Attributes:
        characters: Maximum characters of text.
        images: Maximum number of images.
        image_bytes: Maximum size of each image.
        width: Maximum width of each image in pixels.
    """

    characters: int = 20_000
    images: int = 8
    image_bytes: int = 256 << 10
    width: int = 768

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            VidretError: An answer could hold nothing.
        """
        if self.characters < MIN_CHARACTERS:
            raise VidretError(f"characters must be at least {MIN_CHARACTERS}, got {self.characters}")
        if self.images < 0:
            raise VidretError(f"images must be at least 0, got {self.images}")


def compact_json(answer: Mapping[str, Any]) -> str:
    """Return compact JSON; letters of all languages stay as they are."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def shorten(text: str, limit: int) -> str:
    """Return printable text of at most ``limit`` characters; an ellipsis marks what was cut.

    >>> shorten("a lighthouse", 5), shorten("a sign", 6)
    ('a li…', 'a sign')
    """
    words = " ".join(text[: limit * SCANNED].split())
    clean = sanitize(words[: limit + 1])
    return clean if len(clean) <= limit and len(text) <= limit * SCANNED else clean[: limit - 1] + "…"


def fit_page(
    head: Mapping[str, Any],
    name: str,
    rows: Iterable[Mapping[str, Any]],
    characters: int,
    *,
    offset: int,
    more: bool,
    last: int | None = None,
) -> str:
    """Return the JSON of an answer with as many rows as fit.

    Args:
        head: What the answer says besides.
        name: Name of the list of rows.
        rows: Rows, made as they are needed, that begin at ``offset`` of the whole list.
        characters: Maximum length of the JSON.
        offset: Number of rows before these.
        more: Whether there may be rows after these.
        last: Largest offset that can be asked for; None for any.
    """
    left = characters - len(compact_json({**head, name: [], NEXT: LARGEST}))
    page = []
    for row in rows:
        left -= len(compact_json(row)) + 1
        if left < 0:
            more = True
            break
        page.append(row)
    following = offset + len(page) if more else None
    if following is not None and last is not None and following > last:
        following = None
    return compact_json({**head, name: page, NEXT: following})
