"""The command ``vidret ask``."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import open_engine_or_client
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    SCOPE,
    DeviceOption,
    IndexOption,
    JsonOption,
    PrecisionOption,
    ServerOption,
    TokenOption,
)
from vidret.present.terminal import print_message, write_stdout

if TYPE_CHECKING:
    from vidret.answers.citations import CitedAnswer
    from vidret.answers.endpoint import ChatEndpoint

LLM = "Language model"
QuestionArgument = Annotated[str, typer.Argument(metavar="QUESTION", help="A question about the videos.")]
VideosArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[VIDEO]...", help="Indexed videos to look in; default: all of them.")
]
LlmOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="VIDRET_LLM",
        help="Chat endpoint in OpenAI's style, such as http://127.0.0.1:11434/v1. It gets the question, and frames, "
        "words and names of the videos found. Its key is read from VIDRET_LLM_KEY.",
        rich_help_panel=LLM,
    ),
]
LlmModelOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", envvar="VIDRET_LLM_MODEL", help="Model of the endpoint.", rich_help_panel=LLM),
]
LlmTimeoutOption = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=0.1, help="Maximum time of one request to the endpoint.", rich_help_panel=LLM),
]
ContextOption = Annotated[
    bool, typer.Option("--context", help="Print what was retrieved, and ask no model.", rich_help_panel=OUTPUT)
]
ImagesOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write the frames of --context into this folder.", rich_help_panel=OUTPUT),
]
MomentsOption = Annotated[
    int, typer.Option(metavar="N", min=1, max=50, help="Maximum number of moments.", rich_help_panel=SCOPE)
]
FramesOption = Annotated[
    int, typer.Option(metavar="N", min=0, max=8, help="Frames of each moment.", rich_help_panel=SCOPE)
]


@app.command("ask")
def ask_command(
    context: typer.Context,
    question: QuestionArgument,
    videos: VideosArgument = None,
    index: IndexOption = Path(DEFAULT_INDEX),
    server: ServerOption = None,
    token: TokenOption = None,
    llm: LlmOption = None,
    llm_model: LlmModelOption = None,
    llm_timeout: LlmTimeoutOption = 120.0,
    only_context: ContextOption = False,
    images: ImagesOption = None,
    moments: MomentsOption = 5,
    frames: FramesOption = 2,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Answer a question from the moments that a search finds, by a language model that cites them."""
    from vidret.answers.bundle import context_to_text, write_images
    from vidret.answers.citations import answer_question
    from vidret.answers.frames import FileFrames
    from vidret.answers.retrieval import ContextOptions, gather_context
    from vidret.client import RemoteEngine

    if images is not None and not only_context:
        raise typer.BadParameter("needs --context, got none", param_hint="--images")
    endpoint = None if only_context else make_endpoint(llm, llm_model, llm_timeout)
    wants_frames = frames > 0 and (not only_context or images is not None)
    options = ContextOptions(moments=moments, frames=frames if wants_frames else 0)
    engine = open_engine_or_client(context, server, token, index, device, precision)
    with ExitStack() as stack:
        if isinstance(engine, RemoteEngine):
            client = engine
            found = gather_context(
                client, question, videos or (), options, draw=lambda video, t, width: client.frame(video.id, t, width)
            )
        else:
            drawer = stack.enter_context(FileFrames())
            found = gather_context(engine, question, videos or (), options, draw=drawer.draw)
    if endpoint is None:
        paths = {} if images is None else write_images(found, images)
        write_stdout(context_to_text(found, "json" if as_json else "md", paths))
        return
    show_answer(answer_question(found, endpoint), as_json=as_json)


def make_endpoint(llm: str | None, model: str | None, timeout_s: float) -> "ChatEndpoint":
    """Return the endpoint of the options.

    Raises:
        BadParameter: The URL or the model is missing.
    """
    from vidret.answers.endpoint import ChatEndpoint, read_key

    for name, value in (("--llm", llm), ("--llm-model", model)):
        if not value:
            raise typer.BadParameter("must be given, or --context to ask no model, got none", param_hint=name)
    return ChatEndpoint(url=llm or "", model=model or "", key=read_key(), timeout_s=timeout_s)


def show_answer(answer: "CitedAnswer", *, as_json: bool) -> None:
    """Print an answer and the moments that it cites; what was removed goes to stderr."""
    from vidret.answers.citations import describe_citation
    from vidret.text import sanitize, strip_query

    for note in answer.notes:
        print_message(f"note: {note}")
    if not as_json:
        write_stdout("\n".join([answer.text, *map(describe_citation, answer.cited)]) + "\n")
        return
    cited = [
        {
            "number": moment.number,
            "video": moment.video,
            "path": sanitize(strip_query(moment.path)),
            "start": round(moment.start, 2),
            "end": round(moment.end, 2),
        }
        for moment in answer.cited
    ]
    shown = {"answer": answer.text, "shown": answer.is_shown, "cited": cited, "notes": answer.notes}
    write_stdout(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
