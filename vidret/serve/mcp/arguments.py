"""The arguments of the MCP tools, which are checked before a tool runs, and the size limits of their answers."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from pydantic.json_schema import GenerateJsonSchema

from vidret.errors import VidretError
from vidret.serve.fields import MAX_ID, Id, QueryText, Seconds, refuse_bool, with_options
from vidret.text import sanitize
from vidret.types import LocateOptions, SearchOptions, TextSource

MIN_CHARACTERS = 4_000  # enough for one row of any tool, even with all its characters escaped
NEXT = "next_offset"
LARGEST = 10**18  # the offset with the most characters
SCANNED = 4  # times the limit: later text is dropped before white space is removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The size limits of one answer.

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
        if self.characters < MIN_CHARACTERS:
            raise VidretError(f"characters must be at least {MIN_CHARACTERS}, got {self.characters}")
        if self.images < 0:
            raise VidretError(f"images must be at least 0, got {self.images}")


def compact_json(answer: Mapping[str, Any]) -> str:
    """Return compact JSON; non-ASCII letters are not escaped."""
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
    """Return an answer as JSON of at most ``characters``, with as many rows in its list ``name`` as fit.

    ``offset`` is the number of rows before these, ``more`` whether others may follow, and ``last`` the largest offset
    that a request may have, None for any.
    """
    num_left = characters - len(compact_json({**head, name: [], NEXT: LARGEST}))
    page = []
    for row in rows:
        num_left -= len(compact_json(row)) + 1
        if num_left < 0:
            more = True
            break
        page.append(row)
    following = offset + len(page) if more else None
    if following is not None and last is not None and following > last:
        following = None
    return compact_json({**head, name: page, NEXT: following})


MAX_TIMES = 50
MIN_FRAME_WIDTH, MAX_FRAME_WIDTH = 64, 1280

CountField = Annotated[int, Field(ge=1, le=200, description="Maximum number of results."), BeforeValidator(refuse_bool)]


class ToolArguments(BaseModel, extra="forbid"):
    """Arguments of a tool; unknown ones are refused."""


class QueryArguments(ToolArguments):
    """Arguments of the search tools, besides the options marked ``mcp``."""

    query: Annotated[
        QueryText,
        Field(description='What is seen, said or written; "some words" must be said or written, -word excludes.'),
    ]


@with_options(SearchOptions, mcp_only=True)
class SearchArguments(QueryArguments):
    """Arguments of ``search``."""


@with_options(LocateOptions, mcp_only=True)
class LocateArguments(QueryArguments):
    """Arguments of ``locate``."""

    video: Annotated[Id | None, Field(description="Id of the only video to look in; default: the best videos.")] = None


class TranscriptArguments(ToolArguments):
    """Arguments of ``transcript``."""

    video: Id
    start: Annotated[Seconds, Field(description="Start of the part to read, in seconds.")] = 0.0
    end: Annotated[Seconds | None, Field(description="End of the part, in seconds; default: end of the video.")] = None
    sources: Annotated[list[TextSource] | None, Field(description="Sources to read; default: all but sounds.")] = None
    offset: Annotated[int, Field(ge=0, le=MAX_ID, description="Number of lines to skip, as in next_offset.")] = 0


class FramesArguments(ToolArguments):
    """Arguments of ``frames``."""

    video: Id
    times: Annotated[
        list[Seconds], Field(min_length=1, max_length=MAX_TIMES, description="Times of the frames in seconds.")
    ]
    width: Annotated[
        int, Field(ge=MIN_FRAME_WIDTH, le=MAX_FRAME_WIDTH, description="Maximum width of an image in pixels.")
    ] = 512


class DescribeArguments(ToolArguments):
    """Arguments of ``describe_video``."""

    video: Id
    offset: Annotated[int, Field(ge=0, le=MAX_ID, description="Number of shots to skip, as in next_offset.")] = 0


class ListArguments(ToolArguments):
    """Arguments of ``list_videos``."""

    contains: Annotated[
        str, Field(max_length=200, description="Only videos whose path contains this text; case is ignored.")
    ] = ""
    limit: CountField = 50
    offset: Annotated[int, Field(ge=0, le=MAX_ID, description="Number of videos to skip, as in next_offset.")] = 0


class _Untitled(GenerateJsonSchema):
    """A schema generator that adds no titles."""

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def write_schema(arguments: type[ToolArguments]) -> dict[str, Any]:
    """Return the JSON Schema of arguments, without titles."""
    schema = arguments.model_json_schema(schema_generator=_Untitled)
    del schema["description"], schema["title"]
    return schema
