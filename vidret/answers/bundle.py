"""What was retrieved for a question, written for people and other programs: Markdown or JSON, and image files."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidret.answers.prompt import format_clock, format_span
from vidret.answers.retrieval import ContextMoment, QuestionContext
from vidret.errors import VidretError
from vidret.text import sanitize, show_path

FORMATS_OF_CONTEXT = ("md", "json")
_MARKED = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]<>#|!"})


def write_images(context: QuestionContext, folder: str | os.PathLike[str]) -> dict[tuple[int, int], str]:
    """Write the frames of moments into a folder, created if needed; return the path of each by moment and index.

    Raises:
        VidretError: A file cannot be written.
    """
    paths = {}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for moment in context.moments:
            for index, (time_s, content) in enumerate(moment.frames):
                path = Path(folder) / f"{moment.number:02}_{index + 1}_{time_s:.2f}.jpg"
                path.write_bytes(content)
                paths[moment.number, index] = str(path)
    except OSError as error:
        raise VidretError(f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    return paths


def context_to_text(context: QuestionContext, form: str, images: dict[tuple[int, int], str]) -> str:
    """Return what was retrieved as ``md`` or ``json``."""
    return _to_markdown(context, images) if form == "md" else _to_json(context, images)


def _to_markdown(context: QuestionContext, images: dict[tuple[int, int], str]) -> str:
    """Return Markdown in which the words of videos and file names are escaped, so that they are only words."""
    lines = [f"# {_escape(context.question)}", ""]
    for moment in context.moments:
        match = f" ({moment.likelihood})" if moment.likelihood else ""
        lines += [f"## [{moment.number}] {_escape(moment.name)} {format_span(moment.start, moment.end)}{match}", ""]
        lines += [f"- {format_clock(line.start)} {line.source}: “{_escape(line.text)}”" for line in moment.lines]
        lines += [f"![{format_clock(time_s)}](<{path}>)" for time_s, path in _list_images(moment, images)]
        lines.append("")
    lines += [f"> {_escape(note)}" for note in context.notes]
    return "\n".join(lines).rstrip() + "\n"


def _to_json(context: QuestionContext, images: dict[tuple[int, int], str]) -> str:
    moments = [
        {
            "number": moment.number,
            "video": moment.video,
            "path": show_path(moment.path),
            "start": round(moment.start, 2),
            "end": round(moment.end, 2),
            "probability": moment.probability,
            "likelihood": moment.likelihood,
            "lines": [asdict(line) for line in moment.lines],
            "images": [{"time": round(time_s, 2), "path": path} for time_s, path in _list_images(moment, images)],
        }
        for moment in context.moments
    ]
    queries = [asdict(query) for query in context.queries]
    bundle: dict[str, Any] = {"question": context.question, "queries": queries, "moments": moments}
    return json.dumps(bundle | {"notes": context.notes}, indent=2, ensure_ascii=False) + "\n"


def _list_images(moment: ContextMoment, images: dict[tuple[int, int], str]) -> list[tuple[float, str]]:
    frames = [(time_s, images.get((moment.number, index))) for index, (time_s, _) in enumerate(moment.frames)]
    return [(time_s, path) for time_s, path in frames if path is not None]


def _escape(text: str) -> str:
    return sanitize(text).translate(_MARKED)
