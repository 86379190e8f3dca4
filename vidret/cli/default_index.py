"""The index of a command without ``--index``: one in the current folder, or else the user's own."""

from pathlib import Path
from typing import Any

from vidret.present.terminal import print_message

HERE = "vidret-index"


def choose_index(ctx: Any) -> None:
    """Let a command that was given no index use the user's own, unless the current folder has one.

    The choice is printed. A command with ``--server`` needs no index.
    """
    source = ctx.get_parameter_source("index")
    if source is None or source.name != "DEFAULT" or ctx.params["index"] != Path(HERE):
        return
    if Path(HERE).exists() or ctx.params.get("server") is not None:
        return
    ctx.params["index"] = find_own_index()
    print_message(f"Index: {ctx.params['index']}")


def find_own_index() -> Path:
    """Return the folder of the user's own index, such as ``~/.local/share/vidret/index`` on Linux."""
    import platformdirs

    return Path(platformdirs.user_data_path("vidret")) / "index"
