"""vidret serve: the engine over HTTP, and its page."""

import contextlib
import os
import socket
import sys
import webbrowser
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from vidret.cli.app import app
from vidret.cli.options import DEFAULT_INDEX, DeviceOption, IndexOption, PrecisionOption, open_engine
from vidret.errors import MissingExtraError, VidretError
from vidret.present.terminal import console, say


@app.command()
def serve(
    index: IndexOption = Path(DEFAULT_INDEX),
    host: Annotated[
        str, typer.Option(help="Where to listen. Others reach it only elsewhere than on this one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="VIDRET_TOKEN", help="What requests must show; a must where others can ask.")
    ] = None,
    allow_index: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Let the page index what lies under it; may be repeated."),
    ] = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Searches that may wait, and other questions; further ones must come back.")
    ] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may wait for its answer.")] = 30.0,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
) -> None:
    """Serve an index to browsers and programs."""
    try:
        from vidret.serve.app import create_app
        from vidret.serve.connections import make_server
        from vidret.serve.indexing import Indexer
        from vidret.serve.safety import check_door
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("fastapi", "uvicorn", "prometheus_client"):
            raise MissingExtraError("serving", "serve") from None
        raise
    from vidret.store.store import Store

    roots = allow_index or []
    for root in roots:
        if not root.is_dir():
            raise VidretError(f"{root}: must be a folder to be indexed from, got none")
    check_door(host, token)  # told before a model is loaded
    options = ["--index", str(index), "--device", device, "--precision", precision]
    with listen(host, port) as listening, open_engine(index, None, device, precision, must_exist=not roots) as engine:
        if not Store.exists(index):
            engine.index([])  # the page begins with an empty one
        served = create_app(engine, Indexer(options, roots), host=host, token=token, queue=queue, timeout=timeout)
        url = address(listening, token)
        say(f"{index} is served at {url} (Ctrl-C ends it)")
        if open_page and has_screen():
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            make_server(served).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Raises:
        VidretError: It is taken already, or not to be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
        # What it accepts inherits this; without, each answer of two parts waits 40 ms for the other side's nod.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise VidretError(f"{host}:{port}: cannot be listened on: {error.strerror}") from error


def address(listening: socket.socket, token: str | None) -> str:
    """Give the page's address, as it can be opened."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # everywhere: under its name others find it, too
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def has_screen() -> bool:
    """Say whether somebody sits here who could look at a page."""
    desktop = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return desktop and console.is_terminal
