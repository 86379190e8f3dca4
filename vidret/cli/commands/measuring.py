"""The reports of ``vidret info --recall`` and ``vidret info --diversity``."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vidret.cli.inputs import read_texts
from vidret.cli.opening import open_engine, remember_phrases
from vidret.errors import VidretError
from vidret.present.progress import show_count
from vidret.present.show import show_table
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from vidret.search.recall import Recall
    from vidret.store.records import StoreInfo

STORED_VECTORS, TEXT_QUERIES = "its own vectors", "queries in words"


def print_recall(index: Path, bank: Path | None, seed: int, *, as_json: bool) -> None:
    """Measure the recall of an index's candidate search and print it, with advice where it is low."""
    from vidret.search.recall import QUERIES, measure_recall, sample_vectors
    from vidret.store.store import Store
    from vidret.types import CANDIDATES

    texts = QUERIES if bank is None else read_texts(bank)
    with Store.open(index) as store:
        queries = {STORED_VECTORS: sample_vectors(store, seed=seed)}
        try:
            queries[TEXT_QUERIES] = encode_texts(index, texts)
        except VidretError as error:
            if bank is not None:
                raise
            print_message(f"{TEXT_QUERIES} are not measured: {error}")
        with show_count("measuring", "queries and segments") as on_count:
            results = measure_recall(store, queries, candidates=CANDIDATES, on_progress=on_count)
        facts = store.info()
    if as_json:
        recall = {name: {**dataclasses.asdict(result), "low": result.low} for name, result in results.items()}
        print(json.dumps({"index": facts.path, "vectors": facts.vectors, "seed": seed, "recall": recall}, indent=2))
    else:
        show_recall(facts, results)


def encode_texts(index: Path, texts: "Sequence[str]") -> "np.ndarray":
    """Return query vectors of shape (query, dim), as a search computes them, for an even sample of the texts.

    Raises:
        VidretError: There are no texts, or the encoder of the index cannot be loaded.
    """
    import numpy as np

    from vidret.search.query.encoding import encode_queries
    from vidret.search.recall import SAMPLE

    if not texts:
        raise VidretError("queries must not be empty, got none")
    sample = texts if len(texts) <= SAMPLE else [texts[i * len(texts) // SAMPLE] for i in range(SAMPLE)]
    with open_engine(index, None, "auto", "auto", must_exist=True) as engine:
        return np.stack([query.positive.sentence for query in encode_queries(sample, engine.encoder)])


def show_recall(facts: "StoreInfo", results: "dict[str, Recall]") -> None:
    """Print recall as a table and, where it is low, what to do about it."""
    first = next(iter(results.values()))
    rows = [("index", facts.path), ("vectors", facts.vectors), ("segments", str(first.num_segments))]
    show_table(("", ""), rows)
    columns = ("", "number", "recall@10", "top 10 only", f"among all {first.candidates} candidates")
    lines = [
        (name, str(each.num_queries), *(f"{value:.3f}" for value in (each.searched, each.asked, each.within)))
        for name, each in results.items()
    ]
    show_table(columns, lines)
    if low := [name for name, each in results.items() if each.low]:
        worst = min((results[name] for name in low), key=lambda each: each.searched)
        print_message(
            f"Low for {' and '.join(low)}: {1 - worst.searched:.0%} of the nearest segments are missed, and "
            f"{1 - worst.within:.0%} are not even candidates, so no search finds them. The vectors of this index are "
            f"too close together for the way it is searched ({facts.vectors}): consider more candidates "
            "(an argument of Engine.search) and, if its vectors are compressed, a higher memory limit.",
            style="yellow",
        )


def print_diversity(index: Path, prompt: str | None, seed: int, *, as_json: bool) -> None:
    """Measure the diversity of an index, or of what matches a prompt, and print it."""
    from vidret.corpus.diversity import measure_index_diversity
    from vidret.store.store import Store

    with open_engine(index, None, "auto", "auto", must_exist=True) as engine, Store.open(index) as store:
        found = measure_index_diversity(store, remember_phrases(engine.encoder, index), prompt, seed=seed)
    if as_json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        parts = found.parts
        rows = [
            ("segments", f"{parts.num_samples} of {found.num_segments}"),
            ("different", f"{found.vendi:.1f}, the Vendi score: as many segments that share nothing are as diverse"),
        ]
        if prompt is None:
            rows.append(("by class names", f"{parts.by_text:.2f} (1 is none)"))
            rows.append(("beyond them", f"{parts.by_corpus:.2f}"))
            rows.append(("ridge", f"{parts.ridge:g}, which predicts held-out segments best"))
        else:  # one prompt is one state, so that it explains no diversity
            rows.append(("beyond it", f"{parts.by_corpus:.2f} (1 is none)"))
        show_table(("", ""), rows)
    if found.parts.warning is not None:
        print_message(f"The parts mean little: {found.parts.warning}.", style="yellow")
