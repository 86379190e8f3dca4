"""An evaluation of generated videos as one HTML page with frames."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidret.errors import DecodeError
from vidret.present.html import FrameImages, Table, escape_text, render_facts, render_table, write_document
from vidret.text import file_name, format_count, format_time
from vidret.video.probe import probe

NUM_WORST = 12  # prompts that are shown with frames
MAX_VIDEOS = 4  # of a prompt, the worst first
SHARES = (0.1, 0.37, 0.63, 0.9)  # of a video, at which its frames are shown
STREAM_NAMES = {
    "temporal": "STREAM-T, published exponent",
    "temporal_corrected": "STREAM-T, corrected exponent",
    "temporal_of_real_halves": "STREAM-T of two halves of the real videos",
    "fidelity": "STREAM-S, fidelity",
    "diversity": "STREAM-S, diversity",
}
STYLE = """
.shots { grid-template-columns: repeat(4, minmax(0, 1fr)); }
@media (max-width: 600px) { .shots { grid-template-columns: 1fr 1fr; } }
.prompts td:last-child { white-space: normal; min-width: 15rem; }
"""


def list_scores(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each score of all videos, in words."""
    yield "videos", f"{report['num_videos']}, of {report['num_prompts']} prompts"
    yield "alignment", f"{report['alignment']:.3f}, the cosine of frames and prompt"
    yield "own prompt fits best", f"{report['prompt_recall']:.1f} %"
    yield "temporal consistency", f"{report['consistency']:.3f}, the cosine of successive frames"
    for name, value in report.get("stream", {}).items():
        yield STREAM_NAMES[name], f"{value:.3f}"
    if (words := report.get("words")) is not None:
        yield (
            "with words",
            f"{words['alignment']:.2f} nats of evidence, {words['alignment_of_pictures']:.2f} by pictures only",
        )
        yield "own prompt fits best with words", f"{words['prompt_recall']:.1f} %"
        yield "words compared", f"{', '.join(words['sources'])}; {words['num_with_words']} videos have some"
    if (asked := report.get("questions")) is not None:
        if asked["etva"] is not None:
            yield "ETVA", f"{asked['etva']:.1f} %, questions that were answered with yes"
        yield "T2VScore-A", f"{asked['t2vscore_a']:.1f} %, right answers to the questions of a video"
        kinds = ", ".join(f"{kind} {value:.0f} %" for kind, value in asked["by_kind"].items())
        yield "by element", kinds
        if asked["num_unanswered"]:
            yield "unanswered", f"{asked['num_unanswered']} of {asked['num_questions']} questions, which count as wrong"


def tabulate_topics(report: Mapping[str, Any]) -> Table:
    """Return a line for each topic, the worst first."""
    lines = [
        [
            f"{row['alignment']:.3f}",
            "" if row["below"] is None else f"{row['below']:+.1f}",
            f"{row['consistency']:.3f}",
            f"{row['diversity']:.3f}",
            str(row["num_prompts"]),
            row["topic"],
        ]
        for row in report["topics"]
    ]
    return ["alignment", "below", "consistency", "diversity", "prompts", "topic"], lines


def tabulate_prompts(report: Mapping[str, Any], limit: int | None = None) -> Table:
    """Return a line for each prompt, the worst first."""
    names = ("alignment", "consistency", "diversity")
    lines = [
        [*(f"{row[name]:.3f}" for name in names), str(row["num_videos"]), row["prompt"]]
        for row in report["prompts"][:limit]
    ]
    return [*names, "videos", "prompt"], lines


def write_generated_page(report: Mapping[str, Any], out: Path) -> None:
    """Write a report as one self-contained HTML file; raise VidretError if it cannot be written."""
    sections = ["<h1>Generated videos</h1>", render_facts(list_scores(report))]
    if report["topics"]:
        about = "Below says how many standard errors the alignment is below that of all prompts."
        sections += ["<h2>Topics, the worst first</h2>", f'<p class="facts">{about}</p>']
        sections.append(render_table(tabulate_topics(report)))
    worst = report["prompts"][:NUM_WORST]
    images, remarks = FrameImages(), list_video_remarks(report)
    sections.append(f"<h2>The {format_count(len(worst), 'worst prompt')}</h2>")
    sections += [render_prompt(row, images, remarks) for row in worst]
    sections += ["<h2>All prompts</h2>", f'<div class="prompts">{render_table(tabulate_prompts(report))}</div>']
    write_document("Generated videos", sections, out, style=STYLE)


def list_video_remarks(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return for each path the texts that match its prompt, and the questions that were answered wrongly."""
    remarks = defaultdict[str, list[str]](list)
    for path, video in report.get("words", {"videos": {}})["videos"].items():
        both = f"with words {video['alignment']:.2f}, by pictures only {video['alignment_of_pictures']:.2f}"
        remarks[path].append(both)
        remarks[path] += [
            f"{text['source']} {format_time(text['start'])}: \N{LEFT DOUBLE QUOTATION MARK}{text['text']}"
            "\N{RIGHT DOUBLE QUOTATION MARK}"
            for text in video["texts"]
        ]
    for row in report.get("questions", {"videos": []})["videos"]:
        wrong = (question for question in row["questions"] if not question["is_right"])
        remarks[row["path"]] += [
            f"{question['question']} {question['answer'] or 'no answer'}, not {question['expected']}"
            for question in wrong
        ]
    return remarks


def render_prompt(row: Mapping[str, Any], images: FrameImages, remarks: Mapping[str, list[str]]) -> str:
    """Return a prompt with its scores and the frames of its videos."""
    names = ("alignment", "consistency", "diversity")
    facts = ", ".join(f"{name} {row[name]:.3f}" for name in names) + f", {format_count(row['num_videos'], 'video')}"
    shown = []
    for video in row["videos"][:MAX_VIDEOS]:
        items = "".join(f"<li>{escape_text(remark)}</li>" for remark in remarks.get(video["path"], ()))
        line = f"alignment {video['alignment']:.3f}"
        shots = "".join(
            images.render(video["path"], time_s, file_name(video["path"]), f"{format_time(time_s)}, {line}", "")
            for time_s in choose_times(video["path"])
        )
        shown.append(f'<div class="shots">{shots}</div>{f"<ul>{items}</ul>" if items else ""}')
    heading = f'<h3>{escape_text(row["prompt"])}</h3><p class="facts">{escape_text(facts)}</p>'
    return f"<article>{heading}{''.join(shown)}</article>"


def choose_times(path: str) -> list[float]:
    """Return the times in seconds at which a video is shown; its start if its length cannot be read."""
    try:
        info = probe(path)
    except DecodeError:
        return [0.0]
    return [info.start + share * info.shown_seconds for share in SHARES]
