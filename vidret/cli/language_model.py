"""Options of the commands that ask a language model."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vidret.answers.endpoint import ChatEndpoint

LANGUAGE_MODEL = "Language model"
LlmModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", envvar="VIDRET_LLM_MODEL", help="Model of the endpoint.", rich_help_panel=LANGUAGE_MODEL
    ),
]
LlmTimeoutOption = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Maximum time of one request to the endpoint.",
        rich_help_panel=LANGUAGE_MODEL,
    ),
]


def make_endpoint(
    llm: str | None, model: str | None, timeout_s: float, *, name: str = "llm", hint: str = ""
) -> "ChatEndpoint":
    """Return the endpoint of the options ``--name`` and ``--name-model``; ``hint`` is what can be done without one.

    Raises:
        BadParameter: The URL or the model is missing.
    """
    from vidret.answers.endpoint import ChatEndpoint, read_key

    for option, value in ((f"--{name}", llm), (f"--{name}-model", model)):
        if not value:
            raise typer.BadParameter(f"must be given{hint}, got none", param_hint=option)
    return ChatEndpoint(url=llm or "", model=model or "", key=read_key(), timeout_s=timeout_s)
