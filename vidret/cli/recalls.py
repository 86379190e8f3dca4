"""What vidret info --recall measures, and what it says of it."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.cli.options import open_engine, read_bank
from vidret.errors import VidretError
from vidret.present.show import show_count, show_table
from vidret.present.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from vidret.search.recall import Recall
    from vidret.store.records import StoreInfo

OWN, WORDS = "its own vectors", "queries in words"


def tell_recall(index: Path, bank: Path | None, seed: int, *, as_json: bool) -> None:
    """Measure the recall of an index's search for candidates, and print it with a verdict."""
    from vidret.search.recall import QUERIES, measure_recall, sample_vectors
    from vidret.search.searcher import CANDIDATES
    from vidret.store.store import Store

    texts = QUERIES if bank is None else read_bank(bank)
    with Store.open(index) as store:
        queries = {OWN: sample_vectors(store, seed=seed)}
        try:
            queries[WORDS] = encode(index, texts)
        except VidretError as error:
            if bank is not None:
                raise
            say(f"queries in words are not measured: {error}")
        with show_count("measuring", "queries and segments") as count:
            found = measure_recall(store, queries, candidates=CANDIDATES, on_progress=count)
        facts = store.info()
    if as_json:
        recall = {name: {**dataclasses.asdict(each), "low": each.low} for name, each in found.items()}
        print(json.dumps({"index": facts.path, "vectors": facts.vectors, "seed": seed, "recall": recall}, indent=2))
    else:
        show_recall(facts, found)


def encode(index: Path, texts: "list[str] | tuple[str, ...]") -> "np.ndarray":
    """Turn queries into vectors as a search in the index does; of many, take some, evenly spread."""
    import numpy as np

    from vidret.search.queries import encode_queries
    from vidret.search.recall import SAMPLE

    if not texts:
        raise VidretError("queries must hold one, got none")
    taken = texts if len(texts) <= SAMPLE else [texts[i * len(texts) // SAMPLE] for i in range(SAMPLE)]
    with open_engine(index, None, "auto", "auto", must_exist=True) as engine:
        return np.stack([wanted.text.sentence for wanted in encode_queries(taken, engine.encoder)])


def show_recall(facts: "StoreInfo", found: "dict[str, Recall]") -> None:
    """Print how much a search finds, and where it is low what to do about it."""
    first = next(iter(found.values()))
    rows = [("index", facts.path), ("vectors", facts.vectors), ("segments", str(first.num_segments))]
    show_table(("", ""), rows)
    columns = ("", "number", "recall@10", "asked for 10 alone", f"among all {first.candidates} candidates")
    lines = [
        (name, str(each.num_queries), *(f"{share:.3f}" for share in (each.searched, each.asked, each.within)))
        for name, each in found.items()
    ]
    show_table(columns, lines)
    if low := [name for name, each in found.items() if each.low]:
        worst = min((found[name] for name in low), key=lambda each: each.searched)
        say(
            f"Low for {' and '.join(low)}: {1 - worst.searched:.0%} of the nearest segments are missed, and "
            f"{1 - worst.within:.0%} are not even candidates, so that no search finds them. The vectors of this index "
            f"are too close together for how it is searched ({facts.vectors}): look at more candidates "
            "(Engine.search takes their number) and, where its vectors are compressed, let it have more memory.",
            style="yellow",
        )
