"""The JSON of requests to a server and of its answers."""

import base64
import io
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from vidret.errors import VidretError
from vidret.types import (
    ConceptExample,
    CopiedFile,
    CopyGroup,
    Filters,
    ListedMoment,
    LocateOptions,
    SavedCollection,
    SearchOptions,
    Sequence,
    flatten_options,
    from_row,
    list_options,
)

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
        VidretError: An image is not RGB with 8 bits per channel.
    """
    if isinstance(query, str):
        return {"query": query}
    if isinstance(query, Sequence):
        events = [event if isinstance(event, str) else list(event) for event in query.events]
        return {"events": events, **({} if query.gap is None else {"gap": query.gap})}
    from vidret.types import ComposedQuery  # and NumPy, which words do without

    if isinstance(query, ComposedQuery):
        fields = {"query": query.text} if query.text.strip() else {}
        return {**fields, "image": [encode_picture(image) for image in query.images]}
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
    """Return the fields of an example of a concept: of an image, or of a stretch of a video of the server."""
    if example.image is not None:
        return {"image": encode_picture(example.image), "name": example.path}
    span = {"start": example.start, "end": example.end}
    return {"video": video_id} | {name: value for name, value in span.items() if value is not None}


def encode_collection(collection: SavedCollection) -> dict[str, Any]:
    """Return the fields of a collection."""
    fields = {name: getattr(collection, name) for name in ("finds", "query", "revision")}
    options = encode_options(collection.read_options()) if collection.finds else {}
    return {**fields, "options": options, "moments": [encode_listed(moment) for moment in collection.moments]}


def encode_listed(moment: ListedMoment) -> dict[str, Any]:
    """Return the fields of a moment of a list, which names its video by the id, or by the content if it was removed."""
    fields = {name: getattr(moment, name) for name in ("start", "end", "note")}
    return fields | ({"content": moment.content} if moment.video is None else {"video": moment.video})


def encode_options(options: SearchOptions | LocateOptions | Filters) -> dict[str, Any]:
    """Return options as the fields of a request, with dates in ISO 8601.

    None is omitted where it is the default, and else written as ``none``. Times of videos are omitted by default too.
    """
    encoded: dict[str, Any] = {}
    values = flatten_options(options)
    for option in list_options(type(options)):
        value = values[option.name]
        if value is None:
            encoded |= {} if option.default is None else {option.name: "none"}
        elif option.option.holds == "times":
            encoded |= {} if value == option.default else {option.name: value}
        elif option.option.holds == "date":
            encoded[option.name] = datetime.fromtimestamp(value, UTC).isoformat()
        else:
            encoded[option.name] = value
    return encoded


def parse_rows(name: str, result_type: type[T]) -> Callable[[dict[str, Any]], list[T]]:
    """Return the function that returns the results in the list ``name`` of an answer."""
    return lambda answer: [from_row(result_type, row) for row in answer[name]]


def parse_groups(
    events: Iterable[tuple[str, Any]], on_progress: Callable[[int, int], None] | None = None
) -> list[CopyGroup]:
    """Return the groups of copies from the events of a server, by their names and data.

    Raises:
        ValueError: The events end before the groups.
    """
    for name, data in events:
        if name == "progress" and on_progress is not None:
            on_progress(data["checked"], data["total"])
        elif name == "groups":
            return [CopyGroup(tuple(from_row(CopiedFile, row) for row in group)) for group in data["groups"]]
    raise ValueError("the events must end with groups")


def parse_answer(events: Iterable[tuple[str, Any]]) -> "CitedAnswer":
    """Return the answer to a question from the events of a server; its moments are without frames.

    Raises:
        ValueError: The events end before the answer.
    """
    from vidret.language.answers import CitedAnswer
    from vidret.language.retrieval import ContextMoment, QuestionContext

    context: QuestionContext | None = None
    for name, data in events:
        if name == "moments":
            moments = tuple(from_row(ContextMoment, row) for row in data["moments"])
            notes = tuple(data["notes"])
            context = QuestionContext(question=data["question"], queries=(), moments=moments, notes=notes)
        elif name == "answer" and context is not None:
            cited = tuple(moment for moment in context.moments if moment.number in data["cited"])
            notes = tuple(data["notes"])
            return CitedAnswer(text=data["text"], is_shown=data["shown"], cited=cited, context=context, notes=notes)
    raise ValueError("the events must end with an answer")


def parse_video(row: dict[str, Any]) -> "StoredVideo":
    """Return a video of the index."""
    from vidret.store.records import TOLD_FACTS, StoredVideo

    return StoredVideo(
        id=row["id"],
        paths=(row["path"], *row["copies"]),
        duration=row["duration"],
        facts={name: row[field] for name, field in TOLD_FACTS.items() if row[field] is not None},
        complete=row["complete"],
        salvaged=row["salvaged"],
        num_segments=row["segments"],
        changed=None if row["changed"] is None else datetime.fromisoformat(row["changed"]).timestamp(),
    )


def parse_page(page: dict[str, Any]) -> "tuple[list[StoredVideo], str | None]":
    """Return a page of the videos of the index, and the cursor of the next one, None after the last."""
    return [parse_video(row) for row in page["videos"]], page["next"]
