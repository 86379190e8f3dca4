"""Measure how often the right moment is in the context of a question; print a table.

    python tools/measure_ask.py DATA --index INDEX [--questions 60] [--seed 0] [--seeds 1]

DATA has films.jsonl, the timeline of every film: a line has ``file`` and ``events`` with ``type`` (speech, text or
picture), ``id``, ``text`` and ``window``. Questions are made from events that are in one film only, a third of each
type. The right moment is found if one in the context, of at most 12 s, is in the right film and covers half of the
window (of 12 s, for a longer window).
"""

import argparse
import json
import random
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vidret import Engine
from vidret.answers.retrieval import ContextOptions, QuestionContext, gather_context

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


def main() -> None:
    """Make the questions, gather their contexts, print the recall by type and number of moments."""
    parser = argparse.ArgumentParser(description="Measure the context recall of questions.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seeds", type=int, default=1, help="Unite the questions of this many seeds (docs/measured.md: 4)."
    )
    parser.add_argument("--show", action="store_true", help="Print the questions that miss at 5 moments.")
    arguments = parser.parse_args()
    films = [json.loads(line) for line in (arguments.data / "films.jsonl").read_text("utf-8").splitlines()]
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    drawn = [each for seed in seeds for each in make_questions(films, arguments.questions, seed)]
    asked = list(dict.fromkeys(drawn))
    found: Counter[tuple[str, int]] = Counter()
    took = []
    with Engine.open(arguments.index) as engine:
        for each in asked:
            for size in SIZES:
                started = time.process_time()
                context = gather_context(engine, each.question, (), ContextOptions(moments=size))
                took.append(time.process_time() - started)
                hit = is_found(context, each, ContextOptions().max_s)
                found[each.kind, size] += hit
                if arguments.show and size == 5 and not hit:
                    print("missed:", each, [query.text for query in context.queries][:1])
    for kind in TEMPLATES:
        total = sum(each.kind == kind for each in asked)
        print(f"{kind:8} {total:3}", *(f"@{size}: {100 * found[kind, size] / total:5.1f}" for size in SIZES))
    rows = (f"@{size}: {100 * sum(found[kind, size] for kind in TEMPLATES) / len(asked):5.1f}" for size in SIZES)
    print(f"{'all':8} {len(asked):3}", *rows)
    print(f"CPU seconds of a context, p50: {sorted(took)[len(took) // 2]:.3f}")


if __name__ == "__main__":
    main()
