"""The MCP server of the tools and resources, by the official SDK: over stdio, and as an ASGI app (streamable HTTP)."""

import base64
import re
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp

from vidret.errors import VidretError
from vidret.serve.access import MAX_BYTES, AccessMiddleware
from vidret.serve.mcp.arguments import DescribeArguments, FramesArguments, TranscriptArguments, shorten, write_schema
from vidret.serve.mcp.tools import CARDS, INSTRUCTIONS, TITLE_LENGTH, ToolBox, ToolReply
from vidret.serve.rows import title

PAGE_SIZE = 100
VIDEO_TEMPLATE = "vidret://videos/{video}"
MOMENT_TEMPLATE = "vidret://videos/{video}/moments/{start}-{end}"
_VIDEO = re.compile(r"vidret://videos/(\d{1,18})")
_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_MOMENT = re.compile(rf"vidret://videos/(\d{{1,18}})/moments/({_NUMBER})-({_NUMBER})")


def list_links(tools: ToolBox, cursor: str | None) -> tuple[dict[str, str], str | None]:
    """Return the titles of a page of videos by their URIs, and the cursor of the next page, None on the last."""
    if cursor is not None and not re.fullmatch(r"\d{1,18}", cursor):
        raise VidretError(f"cursor must be one of an earlier page, got {shorten(cursor, 60)}")
    offset = int(cursor or 0)
    videos = tools.engine.videos()
    page = videos[offset : offset + PAGE_SIZE]
    titles = {VIDEO_TEMPLATE.format(video=video.id): shorten(title(video.paths[0]), TITLE_LENGTH) for video in page}
    following = offset + len(page)
    return titles, str(following) if following < len(videos) else None


def read_link(tools: ToolBox, uri: str) -> ToolReply:
    """Return the content of a resource."""
    if match := _VIDEO.fullmatch(uri):
        return tools.describe(DescribeArguments(video=int(match[1])))
    if match := _MOMENT.fullmatch(uri):
        video, start, end = int(match[1]), float(match[2]), float(match[3])
        words = tools.read_words(TranscriptArguments(video=video, start=start, end=end))
        images: tuple[bytes, ...] = ()
        if tools.budget.images:
            images = tools.look_at(FramesArguments(video=video, times=[(start + end) / 2])).images
        return ToolReply(words.text, images)
    raise VidretError(f"uri must be like {VIDEO_TEMPLATE} or {MOMENT_TEMPLATE}, got {shorten(uri, 100)}")


PATH = "/mcp"
MAX_WAITING_CALLS = 64
T = TypeVar("T")


class ToolProtocol:
    """Handlers of the protocol's requests. One call at a time uses the index; others wait, up to a limit."""

    def __init__(self, tools: ToolBox) -> None:
        self._tools = tools
        self._limiter: anyio.CapacityLimiter | None = None
        self._num_waiting = 0

    async def list_tools(self, _context: Any, _params: Any) -> types.ListToolsResult:
        """Return the tools with the schemas of their arguments."""
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    title=card.heading,
                    description=card.description,
                    input_schema=write_schema(card.arguments),
                    annotations=types.ToolAnnotations(
                        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
                    ),
                )
                for name, card in CARDS.items()
            ]
        )

    async def call_tool(self, _context: Any, params: Any) -> types.CallToolResult:
        """Run a tool; an expected failure is returned as one sentence, so that the model can correct its call."""
        try:
            reply = await self._run(partial(self._tools.call, params.name, params.arguments or {}))
        except VidretError as error:
            return types.CallToolResult(content=[types.TextContent(text=str(error))], is_error=True)
        images = [
            types.ImageContent(data=base64.b64encode(image).decode(), mime_type="image/jpeg") for image in reply.images
        ]
        return types.CallToolResult(content=[types.TextContent(text=reply.text), *images])

    async def list_resources(self, _context: Any, params: Any) -> types.ListResourcesResult:
        """Return a page of the videos."""
        cursor = None if params is None else params.cursor
        titles, following = await self._read(partial(list_links, self._tools, cursor))
        resources = [types.Resource(uri=uri, name=name, mime_type="application/json") for uri, name in titles.items()]
        return types.ListResourcesResult(resources=resources, next_cursor=following)

    async def list_templates(self, _context: Any, _params: Any) -> types.ListResourceTemplatesResult:
        """Return the URI templates of the resources."""
        templates = {
            "video": (VIDEO_TEMPLATE, "Duration, size, sources of words and shots of a video."),
            "moment": (MOMENT_TEMPLATE, "Words between two times in seconds, and the frame in the middle."),
        }
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(name=name, uri_template=uri, description=text)
                for name, (uri, text) in templates.items()
            ]
        )

    async def read_resource(self, _context: Any, params: Any) -> types.ReadResourceResult:
        """Return a video or a moment."""
        uri = str(params.uri)
        reply = await self._read(partial(read_link, self._tools, uri))
        contents: list[Any] = [types.TextResourceContents(uri=uri, mime_type="application/json", text=reply.text)]
        contents += [
            types.BlobResourceContents(uri=uri, mime_type="image/jpeg", blob=base64.b64encode(image).decode())
            for image in reply.images
        ]
        return types.ReadResourceResult(contents=contents)

    async def _read(self, function: Callable[[], T]) -> T:
        try:
            return await self._run(function)
        except VidretError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error

    async def _run(self, function: Callable[[], T]) -> T:
        if self._limiter is None:  # created here, since it belongs to the running event loop
            self._limiter = anyio.CapacityLimiter(1)
        if self._num_waiting >= MAX_WAITING_CALLS:
            raise VidretError(f"the server is busy: {MAX_WAITING_CALLS} calls are waiting; try again later")
        self._num_waiting += 1
        try:
            return await anyio.to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._num_waiting -= 1


def create_protocol_server(tools: ToolBox) -> Any:
    """Return the SDK's server of some tools."""
    protocol = ToolProtocol(tools)
    return Server(
        "vidret",
        version=metadata.version("vidret"),
        title="vidret",
        instructions=INSTRUCTIONS,
        on_list_tools=protocol.list_tools,
        on_call_tool=protocol.call_tool,
        on_list_resources=protocol.list_resources,
        on_list_resource_templates=protocol.list_templates,
        on_read_resource=protocol.read_resource,
    )


def serve_stdio(tools: ToolBox) -> None:
    """Answer requests from stdin on stdout, until either is closed.

    Raises:
        VidretError: stdin is closed from the start.
    """
    if sys.stdin is None:
        raise VidretError("stdin must be open for --transport stdio, got one that is closed")

    async def serve() -> None:
        server = create_protocol_server(tools)
        async with stdio_server() as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())

    for signal_number in (signal.SIGINT, signal.SIGTERM):  # no exception ends the thread that reads stdin
        signal.signal(signal_number, signal.SIG_DFL)
    try:
        anyio.run(serve)
    except* BrokenPipeError:  # the client has gone
        pass


def create_protocol_app(tools: ToolBox, *, host: str, token: str | None, index: Path | None = None) -> ASGIApp:
    """Return the ASGI app at ``/mcp``, with the access rules of ``vidret serve``.

    Raises:
        VidretError: Other machines can connect and there is no token, or the token is malformed.
    """
    app = create_protocol_server(tools).streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, max_request_body_size=MAX_BYTES, host=host
    )
    return AccessMiddleware(app, host=host, token=token, index=index, whole=True)
