"""Measure how often the right moment is in the context of a question; print tables.

    python tools/measure_ask.py DATA --index INDEX [--written FILE | --questions 60 --seed 0 --seeds 1]

DATA has films.jsonl, the timeline of every film: a line has ``file`` and ``events`` with ``type`` (speech, text or
picture), ``id``, ``text`` and ``window``. Questions are made from events that are in one film only, a third of each
type, by as many seeds as --seeds says (docs/measured.md: 4); or read from FILE, such as ``ask_questions.jsonl``, whose
60 questions a person wrote (``is_new``: about an event that none of the questions of four seeds is about, which
retrieval was tuned on).

The right moment is found if one in the context, of at most 12 s, is in the right film and covers half of the window
(of 12 s, for a longer window).
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import Cost, describe_ms, make_parser, measure, percent, print_rows, read_rows

from vidret import Engine
from vidret.language.questions import QueryPlan
from vidret.language.retrieval import ContextOptions, QuestionContext, gather_context

SIZES = (1, 3, 5, 10)  # moments in the context
TEMPLATES = {
    "speech": ("What is said about {}?", "When does someone mention {}?", "Who talks about {}, and when?"),
    "text": ("What is written about {}?", "When does the screen show {}?", "Which sign says {}, and where?"),
    "picture": ("When do we see {}?", "What happens when {}?", "In which video is there {}, and when?"),
}
NUM_WORDS = 4
MIN_LETTERS = 4  # of a word of a topic: shorter ones are mostly articles, pronouns and prepositions


@dataclass(frozen=True)
class Asked:
    """A question and where its answer is."""

    question: str
    kind: str
    file: str
    window: tuple[float, float]
    is_new: bool = False


def make_questions(films: list[dict[str, object]], count: int, seed: int) -> list[Asked]:
    """Return questions, equally many of each type, drawn from the events that are in one film only."""
    rng = random.Random(seed)
    events = [(str(film["file"]), event) for film in films for event in film["events"]]  # type: ignore[attr-defined]
    films_of = Counter(event["id"] for _, event in events)
    asked = []
    for kind, templates in TEMPLATES.items():
        own = [(file, event) for file, event in events if event["type"] == kind and films_of[event["id"]] == 1]
        own = [(file, event) for file, event in own if event["visible"] and name_topic(kind, event["text"])]
        for index, (file, event) in enumerate(rng.sample(own, min(count // 3, len(own)))):
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
    words = [word for word in re.findall(r"[\w']+", text.lower()) if len(word) >= MIN_LETTERS]
    longest = sorted(dict.fromkeys(words), key=lambda word: -len(word))[:NUM_WORDS]
    return " ".join(word for word in dict.fromkeys(words) if word in longest)


def is_found(context: QuestionContext, asked: Asked, max_s: float) -> bool:
    """Return whether a moment of the context covers half of the window."""
    start, end = asked.window
    needed = min(end - start, max_s) / 2
    return any(
        Path(moment.path).name == asked.file and min(moment.end, end) - max(moment.start, start) >= needed
        for moment in context.moments
    )


def measure_sizes(engine: Engine, asked: Sequence[Asked]) -> None:
    """Print the recall by type and number of moments, and the time of a context."""
    found = defaultdict[str, list[list[bool]]](list)
    costs = list[Cost]()
    for question in asked:
        contexts = list[QuestionContext]()
        for size in SIZES:
            options = ContextOptions(moments=size)
            costs.append(measure(lambda: contexts.append(gather_context(engine, question.question, (), options))))  # noqa: B023
        hits = [is_found(context, question, ContextOptions().max_s) for context in contexts]
        for group in (question.kind, "all", *(["new"] if question.is_new else [])):
            found[group].append(hits)
    rows = ((group, len(hits), *map(percent, np.transpose(hits))) for group, hits in found.items())
    print_rows(("type", "questions", *(f"@{size}" for size in SIZES)), rows)
    print(f"CPU milliseconds of a context, p50: {describe_ms(costs)['p50_cpu_ms']}")


def measure_rounds(engine: Engine, asked: Sequence[Asked]) -> None:
    """Print the recall of two rounds of 5 moments by type, if a judge knows that the first does not show the answer."""
    found = defaultdict[str, list[bool]](list)
    for question in asked:
        context = gather_context(engine, question.question)
        if not (hit := is_found(context, question, ContextOptions().max_s)):
            plan = QueryPlan(queries=context.queries)
            context = gather_context(engine, question.question, plan=plan, known=context.moments)
            hit = is_found(context, question, ContextOptions().max_s)
        for group in (question.kind, "all"):
            found[group].append(hit)
    print("two rounds of 5:", *(f"{group} {percent(hits)}" for group, hits in found.items()))


def main() -> None:
    """Make or read the questions, gather their contexts, print the recall."""
    parser = make_parser(__doc__, questions=60, seed=0, seeds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--written", type=Path, default=None, help="file of questions, in place of made ones")
    given = parser.parse_args()
    if given.written is not None:
        asked = read_questions(given.written)
    else:
        films, seeds = read_rows(given.data / "films.jsonl"), range(given.seed, given.seed + given.seeds)
        asked = list(dict.fromkeys(own for seed in seeds for own in make_questions(films, given.questions, seed)))
    with Engine.open(given.index) as engine:
        measure_sizes(engine, asked)
        measure_rounds(engine, asked)


if __name__ == "__main__":
    main()
