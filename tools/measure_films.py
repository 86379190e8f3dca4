"""Measure answers to questions and shot detection on films whose timelines are known; print one JSON object.

    python tools/measure_films.py DATA [--only PART ...] [--index INDEX] [--seeds 4 | --written FILE] [--seen FILE]

DATA has videos/, which are indexed unless INDEX has them, and films.jsonl: a line has ``file``, ``duration`` and
``events`` with ``type`` (speech, text or picture), ``id``, ``text`` and ``window``.

- ``questions``: how often the right moment is in the context of a question, in percent by the number of moments.
  Questions are made from events that are in one film only, 60 a seed, a third of each type; or read from a file, such
  as ``ask_questions.jsonl``, whose 60 questions a person wrote (``is_new``: about an event that none of the questions
  of four seeds is about, which retrieval was tuned on). The right moment is found if one in the context, of at most
  12 s, is in the right film and covers half of the window (of 12 s, for a longer window).
- ``cuts``: windows of type "picture" are clips, and a cut is where one starts. A text that covers the whole picture
  hides the cuts under it, and is a shot of its own. --seen has rows of ``file`` and ``frames``, cuts inside the clips
  that somebody saw, which then count as true. A cut is right within one frame, and every true cut answers for one.
"""

import argparse
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Cost, describe_ms, make_parser, measure_call, percent, read_rows, run_parts

from vidret import Engine
from vidret.language.questions import QueryPlan
from vidret.language.retrieval import ContextOptions, QuestionContext, gather_context
from vidret.video.probe import probe

SIZES = (1, 3, 5, 10)  # moments in the context
TEMPLATES = {
    "speech": ("What is said about {}?", "When does someone mention {}?", "Who talks about {}, and when?"),
    "text": ("What is written about {}?", "When does the screen show {}?", "Which sign says {}, and where?"),
    "picture": ("When do we see {}?", "What happens when {}?", "In which video is there {}, and when?"),
}
NUM_WORDS = 4
MIN_LETTERS = 4  # of a word of a topic: shorter ones are mostly articles, pronouns and prepositions
TOLERANCE = 1  # frames


@dataclass(frozen=True)
class Asked:
    """A question and where its answer is."""

    question: str
    kind: str
    file: str
    window: tuple[float, float]
    is_new: bool = False


def make_questions(films: Sequence[dict[str, Any]], count: int, seed: int) -> list[Asked]:
    """Return questions, equally many of each type, drawn from the events that are in one film only."""
    rng, asked = random.Random(seed), list[Asked]()
    events = [(film["file"], event) for film in films for event in film["events"]]
    films_of = Counter(event["id"] for _, event in events)
    for kind, templates in TEMPLATES.items():
        kind_events = [(file, event) for file, event in events if event["type"] == kind and films_of[event["id"]] == 1]
        kind_events = [
            (file, event) for file, event in kind_events if event["visible"] and name_topic(kind, event["text"])
        ]
        for index, (file, event) in enumerate(rng.sample(kind_events, min(count // 3, len(kind_events)))):
            question = templates[index % len(templates)].format(name_topic(kind, event["text"]))
            asked.append(Asked(question, kind, file, tuple(event["window"])))
    return asked


def read_questions(path: Path) -> list[Asked]:
    """Return the questions of a file of JSON lines."""
    return [Asked(**{**row, "window": tuple(row["window"])}) for row in read_rows(path)]


def name_topic(kind: str, text: str) -> str:
    """Return what a question is about: a caption, or the longest words of what is said or shown, in their order."""
    if kind == "picture":
        return text
    words = dict.fromkeys(word for word in re.findall(r"[\w']+", text.lower()) if len(word) >= MIN_LETTERS)
    longest = sorted(words, key=lambda word: -len(word))[:NUM_WORDS]
    return " ".join(word for word in words if word in longest)


def is_found(context: QuestionContext, asked: Asked) -> bool:
    """Return whether a moment of the context covers half of the window, or of the longest moment."""
    start, end = asked.window
    needed = min(end - start, ContextOptions().max_s) / 2
    return any(
        Path(moment.path).name == asked.file and min(moment.end, end) - max(moment.start, start) >= needed
        for moment in context.moments
    )


def measure_questions(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return the recall by type and number of moments, of two rounds if the first is known to fail, and the time."""
    if given.written:
        asked = read_questions(given.written)
    else:
        films = read_rows(given.data / "films.jsonl")
        made = [drawn for seed in range(given.seeds) for drawn in make_questions(films, given.questions, seed)]
        asked = list(dict.fromkeys(made))
    found, costs = defaultdict[str, list[list[bool]]](list), list[Cost]()
    with Engine.open(given.index or scratch) as engine:
        engine.index([given.data / "videos"], words=True)
        for question in asked:
            hits = list[bool]()
            for size in SIZES:
                options = ContextOptions(moments=size)
                context, cost = measure_call(lambda: gather_context(engine, question.question, (), options))  # noqa: B023
                hits.append(is_found(context, question))
                costs.append(cost)
            hits.append(is_found_in_two_rounds(engine, question))
            for group in (question.kind, "all", *(["new"] if question.is_new else [])):
                found[group].append(hits)
    columns = [*(f"@{size}" for size in SIZES), "two rounds of 5"]
    report: dict[str, Any] = {
        group: {"questions": len(rows), **dict(zip(columns, map(percent, np.transpose(rows)), strict=True))}
        for group, rows in found.items()
    }
    return {**report, "cpu_ms_of_a_context": describe_ms(costs)["p50_cpu_ms"]}


def is_found_in_two_rounds(engine: Engine, asked: Asked) -> bool:
    """Return whether the first moments have the answer, or the next ones, if a judge knows that the first do not."""
    first = gather_context(engine, asked.question)
    if is_found(first, asked):
        return True
    plan = QueryPlan(queries=first.queries)
    return is_found(gather_context(engine, asked.question, plan=plan, known=first.moments), asked)


# Cuts


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found in a film: the first frames of shots, how many come gradually, and its frames and their length."""

    cuts: list[int]
    num_gradual: int
    num_frames: int
    frame_s: float


def find_visible_cuts(events: Sequence[dict[str, Any]], duration_s: float) -> list[float]:
    """Return the times at which a clip or a text that covers the picture starts or ends, where that can be seen."""
    covers = [event["window"] for event in events if event["type"] == "text" and event.get("cover")]
    clips = [event["window"][0] for event in events if event["type"] == "picture"]
    seen = {clip for clip in clips if not any(start < clip < end for start, end in covers)}
    return sorted(seen | {edge for window in covers for edge in window if edge < duration_s})


def read_shots(engine: Engine, path: Path) -> Measured:
    """Return what indexing found in a film."""
    info = probe(str(path))
    frame_s = info.shown_seconds / info.num_frames
    changes = [shot for shot in engine.shots(path) if shot.begins_with is not None]
    cuts = [round(shot.start / frame_s) for shot in changes if shot.begins_with == "cut"]
    return Measured(cuts, len(changes) - len(cuts), info.num_frames, frame_s)


def to_frames(cuts_s: Sequence[float], film: Measured) -> list[int]:
    """Return the nearest frames of cuts, without those at the film's ends; neighbours are one cut."""
    frames = list[int]()
    for cut_s in sorted(cuts_s):
        frame = round(cut_s / film.frame_s)
        if TOLERANCE < frame < film.num_frames - TOLERANCE and (not frames or frame - frames[-1] > TOLERANCE):
            frames.append(frame)
    return frames


def count_right(true: Sequence[int], found: Sequence[int]) -> int:
    """Return how many found cuts are right."""
    remaining, right = list(true), 0
    for cut in sorted(found):
        near = [frame for frame in remaining if abs(frame - cut) <= TOLERANCE]
        if near:
            remaining.remove(min(near, key=lambda frame: abs(frame - cut)))
            right += 1
    return right


def measure_cuts(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Return precision and recall of the cuts of all films, without and with those that were seen."""
    rows = read_rows(given.data / "films.jsonl")
    with Engine.open(given.index or scratch) as engine:
        engine.index([given.data / "videos"], words=False)
        films = [read_shots(engine, given.data / "videos" / row["file"]) for row in rows]
    cuts_s = [find_visible_cuts(row["events"], row["duration"]) for row in rows]
    truths = {"known": [to_frames(film_cuts_s, film) for film_cuts_s, film in zip(cuts_s, films, strict=True)]}
    if given.seen:
        seen = defaultdict[str, list[int]](list)
        for row in read_rows(given.seen):
            seen[row["file"]] += row["frames"]
        truths["known or seen"] = [
            sorted({*known, *seen[row["file"]]}) for row, known in zip(rows, truths["known"], strict=True)
        ]
    report: dict[str, Any] = {"gradual transitions": sum(film.num_gradual for film in films)}
    for name, truth in truths.items():
        num_right = sum(count_right(true, film.cuts) for film, true in zip(films, truth, strict=True))
        num_true, num_found = sum(map(len, truth)), sum(len(film.cuts) for film in films)
        shares = {"precision": num_right / max(num_found, 1), "recall": num_right / max(num_true, 1)}
        report[name] = {"true": num_true, "found": num_found, **{key: round(share, 3) for key, share in shares.items()}}
    return report


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__, "data", index=Path, questions=60, seeds=4, written=Path, seen=Path)
    run_parts(parser, [measure_questions, measure_cuts])


if __name__ == "__main__":
    main()
