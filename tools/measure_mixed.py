"""Measure searches of mixed libraries, clips without words beside films with them: does joining evidence help.

    python tools/measure_mixed.py CLIPS FILMS [--index INDEX] [--sizes 1 10 40 150] [--libraries N] [--seed N]

CLIPS has ``captions.jsonl`` (``video``, ``captions``), FILMS ``queries.jsonl`` and ``films.jsonl``, as ``vidret eval
folder`` reads them. Libraries of each size are drawn from all videos. For each kind of query the table shows R@1 with
everything joined and with pictures only, how often an answer that is there is called absent, and how often one that is
not there is; then how often results of each probability are right.
"""

import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import PREFIX, make_parser, percent, print_rows, read_rows

from vidret import Engine
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.types import Hit

K = 10
NOUNS = frozenset(
    """car truck city forest mountain ocean kitchen street dog river lake snow desert beach soccer cat rabbit airplane
    basketball drone garage dough microphone stage noodles turtle highway motorcycle bicycle tractor train boat bridge
    bird horse tree flower cake guitar lava rocket skateboard waterfall fish""".split()  # noqa: SIM905
)
EDGES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0001)  # of the reliability table


@dataclass(frozen=True, slots=True)
class AskedQuery:
    """A query, its kind, and the names of the files that answer it."""

    text: str
    kind: str
    answers: frozenset[str]


class Tally(NamedTuple):
    """What the searches of one kind and size of library found."""

    joined: list[bool]
    pictures: list[bool]
    wrongly_absent: list[bool]
    rightly_absent: list[bool]


def read_queries(clips: Path, films: Path) -> list[AskedQuery]:
    """Return the captions of clips, the queries of films, and single nouns of the captions.

    A film that shows a clip for a second answers its captions too, and a clip answers the query for it in films.
    """
    captions = {Path(row["video"]).stem: row for row in read_rows(clips / "captions.jsonl")}
    words = {stem: set(re.findall("[a-z]+", " ".join(row["captions"]).lower())) for stem, row in captions.items()}
    files = {stem: {Path(row["video"]).name} for stem, row in captions.items()}
    spoken = defaultdict[str, set[str]](set)
    for film in read_rows(films / "films.jsonl"):
        for event in film["events"]:
            if event["type"] != "picture":
                for word in re.findall("[a-z]{5,}", event["text"].lower()):
                    spoken[word].add(film["file"])
            elif event["id"] in files and sum(end - start for start, end in event["visible"]) > 1:
                files[event["id"]].add(film["file"])
    queries = [
        AskedQuery(caption, f"caption {caption_index}", frozenset(files[stem]))
        for stem, row in captions.items()
        if row["kind"] == "real"
        for caption_index, caption in enumerate(row["captions"][:2], start=1)
    ]
    for noun in sorted(NOUNS):
        noun_files = (files[stem] for stem in words if words[stem] & {noun, f"{noun}s"})
        queries.append(AskedQuery(noun, "noun", frozenset[str]().union(*noun_files)))
    only = sorted(word for word in set(spoken).difference(*words.values()) if len(spoken[word]) == 1)
    queries += [AskedQuery(word, "word said or shown", frozenset(spoken[word])) for word in only[::4]]
    for row in read_rows(films / "queries.jsonl"):
        answers = {row["file"]} if row.get("file") else set()
        clip = files.get(row.get("clip", ""), set()) if row["kind"] == "picture" else set()
        queries.append(AskedQuery(row["query"], row["kind"], frozenset(answers | clip)))
    return queries


def draw_library(index: Path, size: int, random: np.random.Generator, folder: Path) -> tuple[Path, set[str]]:
    """Copy an index, remove all videos but some, as if these were all, and return the copy with their names."""
    library = Path(shutil.copytree(index, folder / "library"))
    with Store.open(library, write=True) as store:
        paths = sorted(record.path for record in store.files.find(state="done"))
        kept = {paths[row] for row in random.choice(len(paths), min(size, len(paths)), replace=False)}
        for path in set(paths) - kept:
            store.writer.set_file(path, state="missing")
        store.upkeep.prune()
        measured = store.metadata.keys("calibration.")
        store.metadata.set_many(dict.fromkeys(measured, ""))
        with TextStore.open(library, write=True) as texts:
            texts.prune(store.find_contents(store.videos.fingerprints().values()))
            texts.save()
    with Engine.open(library) as engine:
        engine.index([])  # measures again what depends on all videos
    return library, {Path(path).name for path in kept}


def ask_all(
    engine: Engine, queries: Sequence[AskedQuery], names: set[str], tallies: dict[str, Tally]
) -> list[tuple[float, bool]]:
    """Ask all queries of a library; return the probability of each result and whether it is right."""
    rated = []
    for query in queries:
        hits, tally = engine.search(query.text, K), tallies[query.kind]
        present = query.answers & names
        rated += [(hit.probability or 0.0, Path(hit.path).name in present) for hit in hits]
        is_absent = all(hit.weak for hit in hits)
        if present:
            tally.joined.append(is_first(hits, present))
            tally.pictures.append(is_first(engine.search(query.text, 1, sources=["picture"]), present))
            tally.wrongly_absent.append(is_absent)
        else:
            tally.rightly_absent.append(is_absent)
    return rated


def is_first(hits: Sequence[Hit], names: set[str] | frozenset[str]) -> bool:
    """Return whether the first hit is one of some files."""
    return bool(hits) and Path(hits[0].path).name in names


def main() -> None:
    """Index the videos if need be, ask libraries of each size, print the tables."""
    parser = make_parser(__doc__, "clips", "films", sizes=[1, 10, 40, 150], libraries=3, seed=0, index=Path)
    given = parser.parse_args()
    queries, index = read_queries(given.clips, given.films), given.index or Path(tempfile.mkdtemp(prefix=PREFIX))
    with Engine.open(index) as engine:
        engine.index([given.clips / "videos", given.films / "videos"], words=True)
    random, rated = np.random.default_rng(given.seed), list[tuple[float, bool]]()
    for size in [*given.sizes, sys.maxsize]:
        tallies = defaultdict[str, Tally](lambda: Tally([], [], [], []))
        for _ in range(1 if size == sys.maxsize else given.libraries * max(1, 30 // size)):
            with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
                library, names = draw_library(index, size, random, Path(folder))
                with Engine.open(library) as engine:
                    rated += ask_all(engine, queries, names, tallies)
        print(f"\n{'all' if size == sys.maxsize else size} videos")
        rows = (
            (kind, *(f"{percent(flags)} of {len(flags)}" if flags else "-" for flags in tally))
            for kind, tally in tallies.items()
        )
        print_rows(("", "joined", "pictures only", "wrongly absent", "rightly absent"), rows)
    print_reliability(rated)


def print_reliability(rated: Sequence[tuple[float, bool]]) -> None:
    """Print how often results of each probability are right."""
    print("\nprobability of a result: how many, how many are right")
    error = 0.0
    for low, high in pairwise(EDGES):
        in_bin = [(probability, right) for probability, right in rated if low <= probability < high]
        if in_bin:
            mean, right = np.mean(in_bin, axis=0)
            error += abs(mean - right) * len(in_bin) / len(rated)
            print(f"  {low:4.2f} to {min(high, 1):4.2f}: {len(in_bin):6d}  mean {mean:.2f}  right {right:.2f}")
    print(f"expected calibration error: {error:.3f}")


if __name__ == "__main__":
    main()
