"""Encoding of requests to a server as JSON, and parsing of its answers."""

import base64
import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from vidret.errors import OptionError, VidretError
from vidret.types import (
    OPTIONS,
    ConceptExample,
    CopiedFile,
    CopyGroup,
    Filters,
    ListedMoment,
    LocateOptions,
    SavedCollection,
    SearchOptions,
    Sequence,
    check_options,
    flatten_options,
    list_options,
)
from vidret.types.rows import read_value

if TYPE_CHECKING:
    from vidret.language.answers import CitedAnswer
    from vidret.store.records import StoredVideo
    from vidret.types import Picture, Query, Vector

T = TypeVar("T")
LONGEST_SIDE = 1024  # of images in pixels; the server does not use more


def encode_fields(fields: dict[str, Any]) -> str:
    """Return fields as the query of a URL."""
    return urlencode(fields, errors="replace")  # surrogates of invalid file names


def encode_query(query: "Query") -> dict[str, Any]:
    """Return the fields of a query: text, events, or an image as a PNG in base64.

    Raises:
        VidretError: It is not a query, or an image is not RGB with 8 bits per channel.
    """
    if isinstance(query, str):
        return {"query": query}
    verbatim = {"verbatim": True} if getattr(query, "verbatim", False) else {}
    if isinstance(query, Sequence):
        return {"events": query.events, **verbatim, **({} if query.gap is None else {"gap": query.gap})}
    from vidret.types import QUERY_RULE, ComposedQuery  # imported here, since it imports NumPy, which texts do not need

    if isinstance(query, ComposedQuery):
        fields = {"query": query.text} if query.text.strip() else {}
        return {**fields, **verbatim, "image": [encode_picture(image) for image in query.images]}
    if not hasattr(query, "ndim"):
        raise OptionError(f"{QUERY_RULE}, got {query!r:.60}")
    return {"image": encode_picture(query)}


def encode_picture(query: "Picture | Vector") -> str:
    """Return an image as a PNG in base64.

    Raises:
        VidretError: It is not RGB with 8 bits per channel.
    """
    if query.ndim != 3 or query.shape[2] != 3 or query.dtype != "uint8" or not query.size:
        raise VidretError(f"image must be uint8 (height, width, 3), got {query.dtype} {query.shape}")
    from PIL import Image  # imported here, since texts do not need it

    buffer, image = io.BytesIO(), Image.fromarray(query)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def encode_example(example: ConceptExample, video_id: int | None) -> dict[str, Any]:
    """Return the fields of a concept's example: an image, or a span of a video on the server."""
    if example.image is not None:
        return {"image": encode_picture(example.image), "name": example.path}
    span = {"start": example.start, "end": example.end}
    return {"video": video_id} | {name: value for name, value in span.items() if value is not None}


def encode_collection(collection: SavedCollection) -> dict[str, Any]:
    """Return the fields of a collection."""
    fields = {name: getattr(collection, name) for name in ("finds", "query", "revision")}
    options = encode_options(collection.read_options()) if collection.finds in OPTIONS else {}
    return {**fields, "options": options, "moments": [encode_listed(moment) for moment in collection.moments]}


def encode_listed(moment: ListedMoment) -> dict[str, Any]:
    """Return the fields of a moment in a list. They name its video by id, or by content if the video was removed."""
    fields = {name: getattr(moment, name) for name in ("start", "end", "note")}
    return fields | ({"content": moment.content} if moment.video is None else {"video": moment.video})


def encode_options(options: SearchOptions | LocateOptions | Filters) -> dict[str, Any]:
    """Return options as the fields of a request, with dates in ISO 8601.

    None is omitted if it is the default, else written as ``none``. Default times of videos are omitted, too.

    Raises:
        OptionError: A value has the wrong type, is out of range, or is not one of the choices.
    """
    encoded: dict[str, Any] = {}
    check_options(options, OptionError)
    values = flatten_options(options)
    for option in list_options(type(options)):
        value = values[option.name]
        if value is None:
            encoded |= {} if option.default is None else {option.name: "none"}
        elif option.option.holds == "times":
            encoded |= {} if value == option.default else {option.name: value}
        elif option.option.holds == "date":
            try:
                encoded[option.name] = datetime.fromtimestamp(value, UTC).isoformat()
            except (ValueError, OverflowError, OSError):
                raise OptionError(
                    f"{option.name} must be seconds since 1970 in the years 1 to 9999, got {value}"
                ) from None
        else:
            encoded[option.name] = value
    return encoded


def parse_rows(name: str, result_type: type[T]) -> Callable[[dict[str, Any]], list[T]]:
    """Return a function that parses the results in the list ``name`` of an answer."""
    return lambda answer: list(read_values({name: tuple[result_type, ...]}, answer)[0])  # type: ignore[valid-type]


def parse_found(name: str, result_type: type[T]) -> Callable[[dict[str, Any]], tuple[list[T], tuple[str, ...]]]:
    """Return a function that parses the results of a search, as ``parse_rows`` does, and the server's notes."""
    parse = parse_rows(name, result_type)
    return lambda answer: (parse(answer), read_value("notes", tuple[str, ...], answer.get("notes", [])))


def parse_groups(
    events: Iterable[tuple[str, Any]], on_progress: Callable[[int, int], None] | None = None
) -> list[CopyGroup]:
    """Return the groups of copies from a server's events, given as names and data.

    Raises:
        ValueError: The events end before the groups.
    """
    for name, data in events:
        if name == "progress" and on_progress is not None:
            on_progress(*read_values({"checked": int, "total": int}, data))
        elif name == "groups":
            (groups,) = read_values({"groups": tuple[tuple[CopiedFile, ...], ...]}, data)
            return [CopyGroup(group) for group in groups]
    raise ValueError("the events must end with groups")


def parse_answer(events: Iterable[tuple[str, Any]]) -> "CitedAnswer":
    """Return the answer to a question from a server's events; its moments have no frames.

    Raises:
        ValueError: The events end before the answer.
    """
    from vidret.language.answers import CitedAnswer
    from vidret.language.retrieval import ContextMoment, QuestionContext

    context: QuestionContext | None = None
    for name, data in events:
        if name == "moments":
            context_kinds = {"question": str, "moments": tuple[ContextMoment, ...], "notes": tuple[str, ...]}
            question, moments, notes = read_values(context_kinds, data)
            context = QuestionContext(question=question, queries=(), moments=moments, notes=notes)
        elif name == "answer" and context is not None:
            kinds: dict[str, Any] = {"text": str, "shown": bool, "cited": tuple[int, ...], "notes": tuple[str, ...]}
            text, shown, numbers, notes = read_values(kinds, data)
            cited = tuple(moment for moment in context.moments if moment.number in numbers)
            return CitedAnswer(text=text, is_shown=shown, cited=cited, context=context, notes=notes)
    raise ValueError("the events must end with an answer")


VIDEO_KINDS: dict[str, Any] = {
    "id": int,
    "path": str,
    "copies": tuple[str, ...],
    "duration": float,
    "complete": bool,
    "salvaged": str,
    "segments": int,
    "changed": str | None,
}


def parse_video(row: dict[str, Any]) -> "StoredVideo":
    """Return the video that a row describes."""
    from vidret.store.records import SHOWN_FACTS, StoredVideo

    video_id, path, copies, duration, complete, salvaged, num_segments, changed = read_values(VIDEO_KINDS, row)
    facts = dict(zip(SHOWN_FACTS, read_values(dict.fromkeys(SHOWN_FACTS.values(), float | None), row), strict=True))
    return StoredVideo(
        id=video_id,
        paths=(path, *copies),
        duration=duration,
        facts={name: row[SHOWN_FACTS[name]] for name, value in facts.items() if value is not None},
        complete=complete,
        salvaged=salvaged,
        num_segments=num_segments,
        changed=None if changed is None else datetime.fromisoformat(changed).timestamp(),
    )


def parse_page(page: dict[str, Any]) -> "tuple[list[StoredVideo], str | None]":
    """Return the videos on a page of the index, and the cursor of the next page, None on the last."""
    rows, following = read_values({"videos": tuple[Any, ...], "next": str | None}, page)
    return [parse_video(row) for row in rows], following


def parse_failures(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the paths of files that could not be indexed, with reasons."""
    (rows,) = read_values({"failures": tuple[Any, ...]}, answer)
    return [read_values({"path": str, "reason": str}, row) for row in rows]


def read_values(kinds: dict[str, Any], row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the values of a row's fields with these names, and check their types.

    Raises:
        ValueError: It is not a row, or a field is missing or has another type.
    """
    read_value("answer", dict, row)
    if missing := next((name for name in kinds if name not in row), None):
        raise ValueError(f"{missing} must be given")
    return tuple(read_value(name, kind, row[name]) for name, kind in kinds.items())
