"""The arguments of the tools, checked before anything is read."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from vidret.serve import fields
from vidret.serve.mcp.budget import MAX_OFFSET
from vidret.types import Source, TextSource

MAX_RESULTS = 200
MAX_TIMES = 50
MIN_FRAME_WIDTH, MAX_FRAME_WIDTH = 64, 1280

VideoField = Annotated[int, Field(ge=0, le=fields.MAX_ID, description="Id of a video, as in results.")]
OffsetArgument = Annotated[
    int, Field(ge=0, le=MAX_OFFSET, description="Results to skip: next_offset of the page before.")
]
SourcesArgument = Annotated[
    list[Source] | None, Field(description="What to compare the query with; default: all that the index has.")
]
AtLeastArgument = Annotated[
    float, Field(ge=0, le=1, allow_inf_nan=False, description="Only results of this probability or more; 0: all.")
]
CountField = Annotated[int, Field(ge=1, le=MAX_RESULTS, description="Maximum number of results.")]
TimeField = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


class ToolArguments(BaseModel):
    """Arguments of a tool; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")


class SearchArguments(ToolArguments):
    """Arguments of ``search``."""

    query: Annotated[fields.QueryText, Field(description="What is seen, said or written; -word excludes.")]
    k: CountField = 10
    offset: OffsetArgument = 0
    at_least: AtLeastArgument = 0.0
    sources: SourcesArgument = None


class LocateArguments(SearchArguments):
    """Arguments of ``locate``."""

    video: Annotated[VideoField | None, Field(description="Id of the only video to look in; default: all.")] = None
    weak: Annotated[bool, Field(description="Include moments that stand out much less than the best ones.")] = False


class TranscriptArguments(ToolArguments):
    """Arguments of ``transcript``."""

    video: VideoField
    start: Annotated[TimeField, Field(description="Earliest time in seconds.")] = 0.0
    end: Annotated[TimeField | None, Field(description="Latest time in seconds; default: the end.")] = None
    sources: Annotated[list[TextSource] | None, Field(description="Default: all.")] = None
    offset: Annotated[int, Field(ge=0, le=fields.MAX_ID, description="Lines to skip: next_offset.")] = 0


class FramesArguments(ToolArguments):
    """Arguments of ``frames``."""

    video: VideoField
    times: Annotated[list[TimeField], Field(min_length=1, max_length=MAX_TIMES, description="Times in seconds.")]
    width: Annotated[
        int, Field(ge=MIN_FRAME_WIDTH, le=MAX_FRAME_WIDTH, description="Maximum width of an image in pixels.")
    ] = 512


class DescribeArguments(ToolArguments):
    """Arguments of ``describe_video``."""

    video: VideoField
    offset: Annotated[int, Field(ge=0, le=fields.MAX_ID, description="Shots to skip: next_offset.")] = 0


class ListArguments(ToolArguments):
    """Arguments of ``list_videos``."""

    contains: Annotated[str, Field(max_length=200, description="Only videos whose path contains this.")] = ""
    limit: CountField = 50
    offset: Annotated[int, Field(ge=0, le=fields.MAX_ID, description="Videos to skip: next_offset.")] = 0


def write_schema(arguments: type[ToolArguments]) -> dict[str, Any]:
    """Return the JSON Schema of arguments, without the titles that pydantic makes of names."""
    schema: dict[str, Any] = _drop_titles(arguments.model_json_schema())
    del schema["description"]
    return schema


def _drop_titles(node: Any) -> Any:
    if isinstance(node, list):
        return [_drop_titles(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {name: _drop_titles(each) for name, each in node.items() if not (name == "title" and isinstance(each, str))}
