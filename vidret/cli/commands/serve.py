"""The commands ``vidret serve`` and ``vidret mcp``, and ``vidret token``, which manages access to their servers."""

import contextlib
import getpass
import os
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import quote

import typer

from vidret.cli.app import add_group, app
from vidret.cli.language_model import LANGUAGE_MODEL, LlmModelOption, LlmTimeoutOption, make_endpoint
from vidret.cli.opening import LOCAL_ONLY, check_index, needing, open_engine, pause_collection, refuse_options
from vidret.cli.options import (
    ADVANCED,
    DEFAULT_INDEX,
    IndexOption,
    JsonOption,
    Loading,
    ServerOption,
    TrustedModelOption,
    argument,
    index_option,
    option,
    with_fields,
)
from vidret.errors import MissingExtraError, VidretError
from vidret.present.show import print_json, show_table
from vidret.present.terminal import load_console, print_message
from vidret.store.rows_file import COLLECTIONS, pick_collection
from vidret.store.store import Store
from vidret.store.tokens import RIGHTS, TOKENS, TokenRight, make_token, read_record, record_change
from vidret.store.vectors.flat import load_faiss

WHAT, ACCESS = "What to serve", "Access"
HostOption = Annotated[str, option("Bind address; the default accepts local connections only.", ACCESS, "HOST")]
PortOption = Annotated[int, option("Port; 0 selects a free one.", ACCESS, "PORT", min=0, max=65535)]


@app.command("serve")
@with_fields()
def serve_command(
    *,
    index: Annotated[Path, index_option(WHAT)] = DEFAULT_INDEX,
    open_page: bool = option("Open the page in a browser.", WHAT, default=True, flag="--open/--no-open"),
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: str | None = option(
        "Access token with all rights. If other machines can connect, this or a token of vidret token add is required.",
        ACCESS,
        "TOKEN",
        default=None,
        envvar="VIDRET_TOKEN",
    ),
    allow_index: list[Path] | None = option(
        "Folder whose videos the page may add to the index; may be repeated.", ACCESS, "FOLDER", default=None
    ),
    model: TrustedModelOption = None,
    loading: Loading,
    timeout: float = option(
        "Maximum time that a request waits for others.", ADVANCED, "SECONDS", default=30.0, min=0.1
    ),
    # No environment variable: a server sends frames and words to an endpoint only if this command names it.
    llm: str | None = option(
        "Chat endpoint in OpenAI's style that answers questions (/api/ask, and on the page). It gets frames, "
        "words and names of the videos found. Its key is read from VIDRET_LLM_KEY.",
        LANGUAGE_MODEL,
        "URL",
        default=None,
    ),
    llm_model: LlmModelOption = None,
    llm_timeout: LlmTimeoutOption = 120.0,
) -> None:
    """Serve an index over HTTP, with a page to search it in the browser."""
    with needing("serve", "serving"):
        from vidret.serve.access import check_access
        from vidret.serve.app import create_app
        from vidret.serve.connections import make_server
        from vidret.serve.routes.indexing import Indexer

    roots = allow_index or []
    for root in roots:
        if not root.is_dir():
            raise typer.BadParameter(f"must be an existing folder, got {root}", param_hint="--allow-index")
    endpoint = None if llm is None else make_endpoint(llm, llm_model, llm_timeout)
    check_access(host, token, index)  # before the model is loaded, which takes a while
    options = ["--index", str(index), "--device", loading.device, "--precision", loading.precision]
    with listen(host, port) as listener, open_engine(index, loading, model=model, may_be_new=bool(roots)) as engine:
        if not Store.exists(index):
            engine.index([])  # creates an empty index, to which the page can add videos
        indexer = Indexer(options, roots)
        # Excludes the long-lived objects from garbage collection: a full one takes 11 ms, in one of 30 queries.
        with pause_collection():
            with contextlib.suppress(MissingExtraError):  # if the vectors are in another store
                load_faiss()
            served = create_app(engine, indexer, host=host, token=token, timeout=timeout, llm=endpoint)
        url = page_url(listener, token)
        print_message(f"{index} is served at {url} (press Ctrl-C to stop)")
        if open_page and has_display():
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            make_server(served).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
        # Accepted connections inherit it. Without it, the second part of a response waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise VidretError(f"{host}:{port}: cannot listen here: {error.strerror}") from error


def page_url(listener: socket.socket, token: str | None) -> str:
    """Return the URL of the page, with the token in it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # all interfaces: other machines reach this one by its host name
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def has_display() -> bool:
    """Return whether a browser can be opened: a desktop is there, and stderr is a terminal."""
    desktop = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return desktop and load_console().is_terminal


TRANSPORTS = ("stdio", "http")


@app.command("mcp")
@with_fields()
def mcp_command(
    *,
    context: typer.Context,
    index: Annotated[Path, index_option(WHAT)] = DEFAULT_INDEX,
    server: ServerOption = None,
    transport: str = option(
        "stdio, for a client that starts this command, or http: streamable HTTP at /mcp.",
        ACCESS,
        "|".join(TRANSPORTS),
        default="stdio",
    ),
    host: HostOption = "127.0.0.1",
    port: PortOption = 8001,
    token: str | None = option(
        "Access token that requests over HTTP must send, and that of the --server.",
        ACCESS,
        "TOKEN",
        default=None,
        envvar="VIDRET_TOKEN",
    ),
    model: TrustedModelOption = None,
    loading: Loading,
    max_characters: int = option(
        "Maximum number of characters in one answer.", ADVANCED, "N", default=20_000, min=4000
    ),
    max_images: int = option("Maximum number of images in one answer.", ADVANCED, "N", default=8, min=0),
) -> None:
    """Offer an index to language models as tools to search and read it (Model Context Protocol)."""
    with needing("mcp", "the MCP server"):
        from vidret.client import RemoteEngine
        from vidret.serve.access import check_access
        from vidret.serve.connections import make_server
        from vidret.serve.mcp.arguments import Budget
        from vidret.serve.mcp.protocol import PATH, create_protocol_app, serve_stdio
        from vidret.serve.mcp.tools import ToolBox, open_frames
    budget = Budget(characters=max_characters, images=max_images)
    if transport == "http":
        check_access(host, token, None if server else index)  # before the model is loaded, which takes a while
    if server is not None:
        refuse_options(context, LOCAL_ONLY, "needs a local index, got --server URL")
    engine = open_engine(index, loading, model=model) if server is None else RemoteEngine(server, token)
    with engine, open_frames(engine) as draw:
        tools = ToolBox(engine, draw, budget)
        if transport == "stdio":
            serve_stdio(tools)
            return
        with listen(host, port) as listener:
            served = create_protocol_app(tools, host=host, token=token, index=None if server else index)
            url = page_url(listener, None).rstrip("/") + PATH
            print_message(f"{server or index} is offered at {url} (press Ctrl-C to stop)")
            with contextlib.suppress(KeyboardInterrupt):
                make_server(served).run(sockets=[listener])


group = add_group("token")

HolderArgument = Annotated[str, argument("Name of the holder of the token.", "NAME")]


@group.command("add")
def add_token_command(
    name: HolderArgument,
    right: str = option(
        "read: search and watch; change: also index, name, teach and change collections.",
        default="read",
        metavar="|".join(RIGHTS),
    ),
    collection: str | None = option(
        "Restrict the token to this collection, with its frames and clips.", default=None, metavar="NAME"
    ),
    index: IndexOption = DEFAULT_INDEX,
) -> None:
    """Make a token for an index and print it once: the index keeps only its hash. Running servers accept it."""
    check_index(index)
    if collection is not None:
        pick_collection(COLLECTIONS.read(index), collection)
    token = make_token(index, name, cast(TokenRight, right), collection=collection or "")
    _record(index, "token add", name=name, right=right, collection=collection or "")
    print(token)
    print_message(f"{name} opens the page with /?token=..., programs send it as Authorization: Bearer ...")


@group.command("list")
def list_tokens_command(index: IndexOption = DEFAULT_INDEX, as_json: JsonOption = False) -> None:
    """List the tokens with their holders and rights."""
    check_index(index)
    tokens = TOKENS.read(index)
    if as_json:
        names = ("name", "right", "collection", "made")
        print_json([{name: getattr(token, name) for name in names} for token in tokens])
        return
    rows = [(token.name, token.right, token.collection or "all of the index", token.made) for token in tokens]
    show_table(("name", "right", "collection", "made"), rows, "There are no tokens. To add one: vidret token add NAME")


@group.command("revoke")
def revoke_command(name: HolderArgument, index: IndexOption = DEFAULT_INDEX) -> None:
    """Revoke a token: servers refuse it from now on, even those that are already running."""
    check_index(index)
    TOKENS.remove(index, name, "a token")
    _record(index, "token revoke", name=name)
    if not TOKENS.read(index):
        print_message(f"No token is left. Servers still need one: delete {TOKENS.path(index)} to need none.")


@group.command("log")
def log_command(
    k: int = option("Maximum number of changes, the latest ones.", default=100, metavar="N", flag="-k", min=1),
    index: IndexOption = DEFAULT_INDEX,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what and when through a server, and who made and revoked tokens."""
    check_index(index)
    rows = read_record(index, k)
    if as_json:
        print_json(rows)
        return
    lines = [(row["when"], row["who"], row["what"], describe_details(row)) for row in rows]
    show_table(("when", "who", "what", "with"), lines, "Nothing was changed.")


def describe_details(row: dict[str, object]) -> str:
    """Return the details of a change on one line."""
    given = row.get("with") or {name: value for name, value in row.items() if name not in ("when", "who", "what")}
    assert isinstance(given, dict)
    return ", ".join(f"{name}={value}" for name, value in given.items() if value not in ("", None))


def _record(index: Path, what: str, **details: str) -> None:
    record_change(index, f"{getpass.getuser()} on this machine", what, **details)
