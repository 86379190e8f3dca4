"""Tests of the protocol: the client of the official SDK over stdio and HTTP, and the schemas of the tools."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="needs the extra mcp")

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from PIL import Image
from starlette.types import ASGIApp

from tests.index_server import COLOURED, run_app, serve_engine
from tests.serve.conftest import find_id
from vidret.client import RemoteEngine
from vidret.engine import Engine
from vidret.serve.mcp.arguments import Budget
from vidret.serve.mcp.protocol import create_protocol_app
from vidret.serve.mcp.tools import ToolBox, open_frames

ROOT = Path(__file__).parents[3]
SNAPSHOT = Path(__file__).parent / "schemas.json"
TOKEN = "long-enough-token"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def drive(make_target: Callable[[], Any], use: Callable[[Any], Awaitable[None]]) -> None:
    """Connect the SDK's client and use it."""

    async def run() -> None:
        async with Client(make_target()) as client:
            await use(client)

    anyio.run(run)


async def check_everything(client: Any) -> None:
    """Use each tool and each resource of the library."""
    assert client.server_info.name == "vidret"
    tools = (await client.list_tools()).tools
    assert all(tool.annotations.read_only_hint for tool in tools)
    names = {"search", "locate", "transcript", "frames", "describe_video", "list_videos"}
    assert {tool.name for tool in tools} == names
    listed = json.loads((await client.call_tool("list_videos", {})).content[0].text)
    both = next(row["video"] for row in listed["videos"] if row["title"] == "both")
    found = json.loads((await client.call_tool("search", {"query": "blue"})).content[0].text)
    assert found["videos"][0]["title"] == "blue"
    moments = json.loads((await client.call_tool("locate", {"query": "red", "video": both})).content[0].text)["moments"]
    assert 4 < moments[0]["start"] < moments[0]["end"] < 10
    frames = await client.call_tool("frames", {"video": both, "times": [7, 12]})
    assert [block.type for block in frames.content] == ["text", "image", "image"]
    red, blue = (draw_pixel(block.data) for block in frames.content[1:])
    assert red[0] > 150 > red[2]
    assert blue[2] > 150 > blue[0]
    assert json.loads((await client.call_tool("transcript", {"video": both})).content[0].text)["lines"] == []
    assert json.loads((await client.call_tool("describe_video", {"video": both})).content[0].text)["width"] == 64
    wrong = await client.call_tool("search", {"query": ""})
    assert wrong.is_error
    assert "query" in wrong.content[0].text
    assert [link.name for link in (await client.list_resources()).resources] == ["blue", "both", "red"]
    assert len((await client.list_resource_templates()).resource_templates) == 2
    moment = await client.read_resource(f"vidret://videos/{both}/moments/6-8")
    assert [part.mime_type for part in moment.contents] == ["application/json", "image/jpeg"]
    with pytest.raises(MCPError, match="uri must be like"):
        await client.read_resource("vidret://files/etc/passwd")


def draw_pixel(data: str) -> tuple[int, ...]:
    """Return the pixel in the middle of an image."""
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    pixel = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(pixel, tuple)
    return tuple(int(value) for value in pixel)


def test_client_drives_the_command_over_stdio(engine: Engine) -> None:
    arguments = ["-c", COLOURED, "mcp", "--index", str(engine.path)]
    drive(
        lambda: StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT, env=ENVIRONMENT),
        check_everything,
    )


def test_a_closed_stdin_or_stdout_ends_the_command_without_a_traceback(engine: Engine) -> None:
    command = ["bash", "-c", '"$@" <&-', "bash", sys.executable, "-c", COLOURED, "mcp", "--index", str(engine.path)]
    closed = subprocess.run(command, capture_output=True, cwd=ROOT, env=ENVIRONMENT, check=False)
    assert (closed.returncode, b"Traceback" in closed.stderr) == (1, False)
    assert b"error: stdin must be open" in closed.stderr
    read_end, write_end = os.pipe()
    os.close(read_end)  # as of a client that has gone
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n"
    ended = subprocess.run(
        command[4:], input=asked, stdout=write_end, stderr=subprocess.PIPE, cwd=ROOT, env=ENVIRONMENT, check=False
    )
    os.close(write_end)
    assert (ended.returncode, ended.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_while_stdin_is_open(engine: Engine, number: signal.Signals) -> None:
    command = [sys.executable, "-c", COLOURED, "mcp", "--index", str(engine.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT, env=ENVIRONMENT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        process.stdin.flush()
        assert b'"id":1' in process.stdout.readline()
        process.send_signal(number)
        try:
            assert process.wait(timeout=30) == -number
        finally:
            process.kill()


@pytest.fixture
def app(engine: Engine) -> Iterator[ASGIApp]:
    with open_frames(engine) as draw:
        yield create_protocol_app(ToolBox(engine, draw, Budget()), host="127.0.0.1", token=TOKEN)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Any]:
    """Connect to an app with its token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http,
        streamable_http_client(f"{url}/mcp", http_client=http) as streams,
    ):
        yield streams


def test_client_drives_the_app_over_http(app: ASGIApp) -> None:
    with run_app(app) as url:
        drive(lambda: connect(url), check_everything)


def test_http_has_the_access_rules_of_serve(app: ASGIApp) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    kinds = {"Accept": "application/json, text/event-stream"}
    with run_app(app) as url, httpx2.Client() as client:
        for token in (None, "another-long-token"):
            headers = kinds | ({} if token is None else {"Authorization": f"Bearer {token}"})
            assert client.post(f"{url}/mcp", json=body, headers=headers).status_code == 401
        bearer = kinds | {"Authorization": f"Bearer {TOKEN}"}
        assert client.post(f"{url}/mcp", json=body, headers=bearer | {"Host": "evil.example"}).status_code == 421
        assert client.post(f"{url}/mcp", json=body, headers=bearer | {"Origin": "http://evil"}).status_code == 403


def test_tools_read_a_running_server(engine: Engine) -> None:
    with serve_engine(engine) as url, RemoteEngine(url) as remote, open_frames(remote) as draw:
        tools = ToolBox(remote, draw, Budget())
        assert json.loads(tools.call("search", {"query": "red", "k": 1}).text)["videos"][0]["title"] == "red"
        reply = tools.call("frames", {"video": find_id(engine, "both.mp4"), "times": [7]})
        assert draw_pixel(base64.b64encode(reply.images[0]).decode())[0] > 150
        film = Path(engine.video(find_id(engine, "red.mp4")).paths[0])
        hidden = film.rename(film.with_suffix(".hidden"))
        try:
            lost = tools.call("frames", {"video": find_id(engine, "red.mp4"), "times": [1]})
        finally:
            hidden.rename(film)
        assert "its file is gone" in lost.text


def test_schemas_are_those_of_the_snapshot(app: ASGIApp) -> None:
    """A changed schema changes what clients know."""
    schemas: dict[str, Any] = {}

    async def read(client: Any) -> None:
        for tool in (await client.list_tools()).tools:
            schemas[tool.name] = {"description": tool.description, "arguments": tool.input_schema}

    with run_app(app) as url:
        drive(lambda: connect(url), read)
    if os.environ.get("VIDRET_RENEW"):
        SNAPSHOT.write_text(json.dumps(schemas, indent=2) + "\n", "utf-8")
    assert schemas == json.loads(SNAPSHOT.read_text("utf-8")), "renew the snapshot with VIDRET_RENEW=1 if that is meant"
