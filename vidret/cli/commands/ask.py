"""The command ``vidret ask``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vidret.cli.app import app
from vidret.cli.language_model import LANGUAGE_MODEL, LlmModelOption, LlmTimeoutOption, make_endpoint, open_frames_of
from vidret.cli.opening import open_engine_or_client
from vidret.cli.options import OUTPUT, SCOPE, JsonOption, Loading, Place, argument, option, with_fields
from vidret.present.terminal import print_message, write_stdout

if TYPE_CHECKING:
    from vidret.language.answers import CitedAnswer


NO_MODEL = ", or --context to ask no model, or --server URL of one that asks"


@app.command("ask")
@with_fields()
def ask_command(
    *,
    question: str = argument("A question about the videos.", "QUESTION"),
    videos: list[str] | None = argument("Indexed videos to look in; default: all of them.", "VIDEO", default=None),
    place: Place,
    llm: str | None = option(
        "Chat endpoint in OpenAI's style, such as http://127.0.0.1:11434/v1. It gets the question, and frames, "
        "words and names of the videos found. Its key is read from VIDRET_LLM_KEY.",
        LANGUAGE_MODEL,
        "URL",
        default=None,
        envvar="VIDRET_LLM",
    ),
    llm_model: LlmModelOption = None,
    llm_timeout: LlmTimeoutOption = 120.0,
    llm_queries: bool = option(
        "Also let the model write queries, in one more request, and others if these find no answer.",
        LANGUAGE_MODEL,
        default=True,
        flag="--llm-queries/--no-llm-queries",
    ),
    only_context: bool = option(
        "Print the retrieved moments, without asking a model.", OUTPUT, default=False, flag="--context"
    ),
    images: Path | None = option("Write the frames of --context into this folder.", OUTPUT, "DIR", default=None),
    moments: int = option("Maximum number of moments.", SCOPE, "N", default=5, min=1, max=50),
    frames: int = option("Number of frames of each moment.", SCOPE, "N", default=2, min=0, max=8),
    as_json: JsonOption = False,
    loading: Loading,
) -> None:
    """Answer a question by a language model, which cites the moments that a search finds."""
    from vidret.language.answers import context_to_text, write_images
    from vidret.language.retrieval import ContextOptions, gather_context

    if images is not None and not only_context:
        raise typer.BadParameter("needs --context, got none", param_hint="--images")
    num_frames = frames if not only_context or images is not None else 0
    options = ContextOptions(moments=moments, frames=num_frames, llm_queries=llm_queries)
    ask_here = llm is not None or place.server is None
    endpoint = make_endpoint(llm, llm_model, llm_timeout, hint=NO_MODEL) if ask_here and not only_context else None
    engine = open_engine_or_client(place, loading)
    if not only_context:
        show_answer(engine.ask(question, endpoint, videos=videos or (), options=options), as_json=as_json)
        return
    with open_frames_of(engine) as draw:
        question_context = gather_context(engine, question, videos or (), options, draw=draw)
    paths = {} if images is None else write_images(question_context, images)
    write_stdout(context_to_text(question_context, "json" if as_json else "md", paths))


def show_answer(answer: "CitedAnswer", *, as_json: bool) -> None:
    """Print an answer and the moments that it cites; what was removed from it is noted on stderr."""
    from vidret.language.answers import describe_citation
    from vidret.text import show_path
    from vidret.types import to_row

    for note in answer.notes:
        print_message(f"note: {note}")
    if not as_json:
        write_stdout("\n".join([answer.text, *map(describe_citation, answer.cited)]) + "\n")
        return
    cited = [to_row(moment, "json", show_path, digits=2) for moment in answer.cited]
    for row in cited:
        del row["lines"]  # included in "text"
    shown = {"answer": answer.text, "shown": answer.is_shown, "cited": cited, "notes": answer.notes}
    write_stdout(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")
