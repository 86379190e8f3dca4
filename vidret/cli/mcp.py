"""The command ``vidret mcp``."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import is_on_command_line, open_engine
from vidret.cli.options import (
    ADVANCED,
    DEFAULT_INDEX,
    DeviceOption,
    PrecisionOption,
    ServerOption,
    TrustedModelOption,
    index_option,
)
from vidret.cli.serve import ACCESS, WHAT, HostOption, PortOption, listen, page_url
from vidret.errors import MissingExtraError
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine

TRANSPORTS = ("stdio", "http")
NEEDED = ("mcp", "mcp_types", "fastapi", "starlette", "uvicorn", "pydantic", "anyio")
TransportOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(TRANSPORTS),
        help="stdio, for a client that starts this command, or http: streamable HTTP at /mcp.",
        rich_help_panel=ACCESS,
    ),
]
SharedTokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        envvar="VIDRET_TOKEN",
        help="Access token that requests over HTTP must send, and that of the --server.",
        rich_help_panel=ACCESS,
    ),
]
CharactersOption = Annotated[
    int,
    typer.Option(metavar="N", min=4000, help="Maximum number of characters in one answer.", rich_help_panel=ADVANCED),
]
ImagesOption = Annotated[
    int, typer.Option(metavar="N", min=0, help="Maximum number of images in one answer.", rich_help_panel=ADVANCED)
]


@app.command("mcp")
def mcp_command(
    context: typer.Context,
    index: Annotated[Path, index_option(WHAT)] = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    transport: TransportOption = "stdio",
    host: HostOption = "127.0.0.1",
    port: PortOption = 8001,
    token: SharedTokenOption = None,
    model: TrustedModelOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    max_characters: CharactersOption = 20_000,
    max_images: ImagesOption = 8,
) -> None:
    """Offer an index to language models as tools to search and read it (Model Context Protocol)."""
    try:
        from vidret.serve.access import check_access
        from vidret.serve.connections import make_server
        from vidret.serve.mcp.budget import Budget
        from vidret.serve.mcp.library import open_frames
        from vidret.serve.mcp.protocol import PATH, create_protocol_app, serve_stdio
        from vidret.serve.mcp.tools import ToolBox
    except ImportError as error:
        if error.name and error.name.split(".")[0] in NEEDED:
            raise MissingExtraError("the MCP server", "mcp") from None
        raise
    budget = Budget(characters=max_characters, images=max_images)
    if transport == "http":
        check_access(host, token)  # before the model is loaded, which takes a while
    engine: Engine | RemoteEngine
    if server is None:
        engine = open_engine(index, model, device, precision, must_exist=True)
    else:
        engine = open_client(context, server, token)
    with engine, contextlib.closing(open_frames(engine)) as frames:
        tools = ToolBox(engine, frames, budget)
        if transport == "stdio":
            with contextlib.suppress(KeyboardInterrupt):
                serve_stdio(tools)
            return
        with listen(host, port) as listener:
            served = create_protocol_app(tools, host=host, token=token)
            url = page_url(listener, None).rstrip("/") + PATH
            print_message(f"{server or index} is offered at {url} (press Ctrl-C to stop)")
            with contextlib.suppress(KeyboardInterrupt):
                make_server(served).run(sockets=[listener])


def open_client(context: typer.Context, server: str, token: str | None) -> "RemoteEngine":
    """Return a client of a server.

    Raises:
        BadParameter: An option was given that needs a local index.
    """
    for name in ("index", "model", "device", "precision"):
        if is_on_command_line(context, name):
            raise typer.BadParameter("needs a local index, got --server URL", param_hint=f"--{name}")
    from vidret.client import RemoteEngine

    return RemoteEngine(server, token)
