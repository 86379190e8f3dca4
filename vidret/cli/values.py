"""What the values of options must be, checked before a command begins and loads a model.

A rule holds for an option wherever it occurs. A metavar such as ``on|off`` lists the values that are allowed.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from vidret.errors import VidretError

CHOICES = re.compile(r"[a-z0-9]+(\|[a-z0-9]+)+")
RERANKERS = ("auto", "none", "mean", "ucofia", "glscl")
# For the completion of the shell: words of options whose metavar does not list them.
COMPLETED = {
    "--device": "auto cpu cuda mps xpu",
    "--head": "auto none",
    "--in": "picture speech screen subtitles generated sound",
    "--model": "starter small good best video multilingual",
    "--rerank": " ".join(RERANKERS),
    "--store": "faiss milvus://",
}
IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def list_values(param: Any) -> list[str]:
    """Return the words that an option takes, for the completion of the shell; others may be allowed besides."""
    metavar = param.metavar or ""
    words = [word for word in metavar.split("|") if word.islower()] if "|" in metavar else []
    return words or COMPLETED.get(param.opts[0], "").split()


def check_values(ctx: Any, params: list[Any]) -> None:
    """Check the values of a command's options, unless the completion of the shell reads a line that has no end yet."""
    if not ctx.resilient_parsing:
        for param in params:
            check_value(ctx, param, ctx.params.get(param.name))


def check_value(ctx: Any, param: Any, value: Any) -> None:
    """Check the value of an option or argument."""
    flag, metavar = param.opts[0], param.metavar or ""
    if value is None or isinstance(value, bool):
        return
    try:
        if CHOICES.fullmatch(metavar):
            check_choice(str(value), metavar.split("|"))
        elif rule := RULES.get(flag):
            rule(str(value))
    except VidretError as error:
        raise typer.BadParameter(str(error), ctx=ctx, param_hint=flag) from error


def check_choice(value: str, allowed: list[str]) -> None:
    """Refuse a value that is not in a list."""
    if value not in allowed:
        raise VidretError(f"must be one of {', '.join(allowed)}, got {value}")


def check_reranker(value: str) -> None:
    """Refuse what is neither the name of a reranker nor a file."""
    if value not in RERANKERS and not Path(value).is_file():
        raise VidretError(f"must be {', '.join(RERANKERS)} or the file of an aligner, got {value}")


def check_head(value: str) -> None:
    """Refuse what is neither a word of ``--head`` nor a file."""
    if value not in ("auto", "none") and not Path(value).is_file():
        raise VidretError(f"must be auto, none or the file of a head, got {value}")


def check_image_name(value: str) -> None:
    """Refuse the name of a file that no image can have."""
    if Path(value).suffix.lower() not in IMAGES:
        raise VidretError(f"must end with {', '.join(IMAGES)}, got {value}")


def check_server(value: str) -> None:
    """Refuse what is not the URL of a server."""
    from vidret.client.server import Server

    Server(value, None, timeout=1.0)  # contacted by the first request


def check_store(value: str) -> None:
    """Refuse what is not the address of a vector store."""
    from vidret.store.vectors.registry import normalise_address

    normalise_address(value, Path())


def check_hook(value: str) -> None:
    """Refuse what is not the URL of a webhook."""
    from vidret.endpoints.transport import check_webhook

    check_webhook(value)


def check_device(value: str) -> None:
    """Refuse what is not the name of a device, whether or not there is such a device."""
    from vidret.devices import parse_device

    parse_device(value)


RULES: dict[str, Callable[[str], None]] = {
    "--device": check_device,
    "--rerank": check_reranker,
    "--head": check_head,
    "--sheet": check_image_name,
    "--curve": check_image_name,
    "--server": check_server,
    "--store": check_store,
    "--webhook": check_hook,
}
