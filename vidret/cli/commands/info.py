"""The command ``vidret info``, with the reports of ``--recall`` and ``--diversity``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.cli.app import app
from vidret.cli.opening import open_engine
from vidret.cli.options import DEFAULT_INDEX, JsonOption, argument, index_option, option
from vidret.cli.values import read_texts, sample_evenly
from vidret.errors import VidretError
from vidret.present.progress import show_count
from vidret.present.show import print_json, show_info, show_table
from vidret.present.terminal import print_message
from vidret.store.store import Store
from vidret.text import display_path, format_count, sanitize, show_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np

    from vidret.search.recall import Recall
    from vidret.store.lookup import MomentCounts
    from vidret.store.records import StoreInfo

WHAT, RECALL, DIVERSITY = "What to show", "Recall", "Diversity"


@app.command("info")
def info_command(
    prompt: str | None = argument(
        "Text for --diversity: measure only the segments that match it best.", "PROMPT", default=None
    ),
    index: Annotated[Path, index_option(WHAT)] = DEFAULT_INDEX,
    failed: bool = option(
        "List the files that failed or were read in part, and those whose words could not be read, with reasons.",
        WHAT,
        default=False,
    ),
    check: bool = option("Verify every stored byte against its checksum.", WHAT, default=False),
    repair: bool = option(
        "Like --check, and drop what is damaged, so that the next vidret index encodes it again.", WHAT, default=False
    ),
    diversity: bool = option(
        "Measure how many different segments there are (Vendi score), and how much of that texts explain.",
        DIVERSITY,
        default=False,
    ),
    recall: bool = option(
        "Measure how many of the nearest segments the search finds, compared with an exact search.",
        RECALL,
        default=False,
    ),
    queries: Path | None = option(
        "Queries for --recall, in a file as for vidret calibrate; default: a built-in list.",
        RECALL,
        "FILE",
        default=None,
    ),
    seed: int = option(
        "Seed of the sample of stored vectors for --recall and --diversity.", RECALL, "N", default=0, min=0
    ),
    as_json: JsonOption = False,
) -> None:
    """Show what an index holds, check it for damage, or measure its diversity or the recall of its search."""
    from vidret.channels.picture.calibration import list_calibrations
    from vidret.store.lookup import count_moments

    reports = {"--failed": failed, "--check or --repair": check or repair, "--diversity": diversity, "--recall": recall}
    if len(asked := [name for name, is_asked in reports.items() if is_asked]) > 1:
        raise typer.BadParameter(f"must be by itself, got {asked[0]} too", param_hint=asked[1])
    if prompt is not None and not diversity:
        raise typer.BadParameter("needs --diversity, got none", param_hint="PROMPT")
    if queries is not None and not recall:
        raise typer.BadParameter("needs --recall, got none", param_hint="--queries")
    if diversity:
        print_diversity(index, prompt, seed, as_json=as_json)
        return
    if recall:
        print_recall(index, queries, seed, as_json=as_json)
        return
    lost = [f"catalog: {reason}" for reason in Store.repair_catalog(index)] if repair else []
    if lost:
        if not as_json:
            print("\n".join(map(sanitize, lost)))
        print_message("The catalog was rebuilt from its intact rows: run vidret index again over the same videos.")
    with Store.open(index, write=repair) as store:
        if failed:
            print_failed(store, as_json=as_json)
            return
        if check or repair:
            damaged = []
            for reason in list_damage(store, index, repair=repair):
                damaged.append(sanitize(reason))
                if not as_json:
                    print(damaged[-1])
            if as_json:
                print_json([*lost, *damaged])
            num_damaged = len(damaged)
            mended = ", repaired: vidret index reads or encodes again what was lost" if repair and num_damaged else ""
            print_message(f"{format_count(num_damaged, 'damaged part')}{mended}")
            raise typer.Exit(1 if num_damaged and not repair else 0)
        facts, moments, calibrated = store.info(), count_moments(store), list_calibrations(store)
    print_facts(facts, index, moments, calibrated, as_json=as_json)


def print_facts(
    facts: "StoreInfo", index: Path, moments: "MomentCounts", calibrated: list[str], *, as_json: bool
) -> None:
    """Print the contents of an index as numbers, with its words and prepared moments if it has any."""
    from vidret.channels.texts.sentence_models import BUNDLED_SPACE, choose_sentence_space
    from vidret.store.identities.upkeep import count_identities
    from vidret.store.sounds import count_windows
    from vidret.store.texts.upkeep import count_texts

    words, identities, windows = count_texts(index), count_identities(index), count_windows(index)
    space = choose_sentence_space(index)
    sentence_model = "" if space == BUNDLED_SPACE else space.name
    if not as_json:
        show_info(facts, words, moments, identities, windows, calibrated, sentence_model)
        return
    row = {**dataclasses.asdict(facts), "files": dict(facts.files)}
    counted: dict[str, Sequence[Any]] = {"words": words, "identities": identities, "sound_windows": windows}
    row |= {name: [dataclasses.asdict(count) for count in counts] for name, counts in counted.items() if counts}
    if moments.videos:
        row["moments"] = {**dataclasses.asdict(moments), "bytes_per_hour": round(moments.bytes_per_hour)}
    row |= {"calibrated": calibrated} if calibrated else {}
    row |= {"sentence_model": sentence_model} if sentence_model else {}
    print_json(row)


def print_failed(store: "Store", *, as_json: bool) -> None:
    """Print the files that failed or were read in part, and those whose words could not be read, with reasons."""
    from vidret.store.texts.upkeep import list_notes
    from vidret.video.audio import NO_TRACK

    failed = [(record.path, record.reason) for record in store.files.find(state="failed")]
    failed += [(video.paths[0], video.salvaged) for video in store.videos.find() if video.salvaged]
    notes = list_notes(store)
    if as_json:
        rows = [{"path": show_path(path), "reason": reason} for path, reason in failed]
        rows += [{"path": show_path(note.path), "source": note.source, "reason": note.reason} for note in notes]
        print_json(rows)
        return
    lines = [("video", reason, display_path(path)) for path, reason in failed]
    lines += [(note.source, note.reason, display_path(note.path)) for note in notes if note.reason != NO_TRACK]
    show_table(("source", "reason", "file"), lines, "No files failed.")
    if mute := {note.path for note in notes if note.reason == NO_TRACK}:
        print_message(f"Without an audio track: {len(mute)}")


def list_damage(store: "Store", index: Path, *, repair: bool) -> "Iterator[str]":
    """Yield the damaged parts of an index; ``repair`` drops them, or builds them again from the others."""
    from vidret.channels.picture.calibration import find_damaged_calibrations
    from vidret.store.identities.upkeep import find_damaged_identities
    from vidret.store.rows_file import COLLECTIONS, WATCHES
    from vidret.store.sounds import find_damaged_sounds
    from vidret.store.texts.upkeep import find_damaged_texts, find_lost_texts

    for segment in store.upkeep.verify(repair=repair):
        yield f"segment {segment.number} of video {segment.video}: {segment.reason}"
    for file in store.upkeep.verify_vectors(repair=repair):
        yield f"{file.path}: {file.reason}"
    yield from find_damaged_calibrations(store, repair=repair)
    for reason in find_damaged_texts(index, repair=repair):
        yield f"words: {reason}"
    kept = (rows.find_damage(index, repair=repair) for rows in (WATCHES, COLLECTIONS))
    yield from filter(None, (find_lost_texts(store, repair=repair), *kept))
    for find_damaged in (find_damaged_identities, find_damaged_sounds):
        yield from find_damaged(index, repair=repair)


STORED_VECTORS, TEXT_QUERIES = "its own vectors", "queries in words"


def print_recall(index: Path, bank: Path | None, seed: int, *, as_json: bool) -> None:
    """Measure the recall of an index's candidate search and print it, with advice where it is low."""
    from vidret.channels.picture.query_bank import SENTENCES
    from vidret.search.recall import measure_recall, sample_vectors
    from vidret.types import CANDIDATES

    texts = SENTENCES if bank is None else read_texts(bank)
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
        print_json({"index": facts.path, "vectors": facts.vectors, "seed": seed, "recall": recall})
    else:
        show_recall(facts, results)


def encode_texts(index: Path, texts: "Sequence[str]") -> "np.ndarray":
    """Return query vectors of shape (query, dim), as a search computes them, for an even sample of the texts."""
    import numpy as np

    from vidret.search.query.planning import parse_query
    from vidret.search.recall import SAMPLE

    if not texts:
        raise VidretError("queries must not be empty, got none")
    with open_engine(index) as engine:
        embeddings = engine.encoder.encode_text([parse_query(text)[0] for text in sample_evenly(texts, SAMPLE)])
        return np.stack([embedding.sentence for embedding in embeddings])


def show_recall(facts: "StoreInfo", results: "dict[str, Recall]") -> None:
    """Print recall as a table and, where it is low, what to do about it."""
    first = next(iter(results.values()))
    rows = [("index", facts.path), ("vectors", facts.vectors), ("segments", str(first.num_segments))]
    show_table(("", ""), rows)
    candidates = format_count(min(first.candidates, first.num_segments), "candidate")
    columns = ("", "number", "recall@10", "top 10 only", f"among all {candidates}")
    lines = [
        (name, str(result.num_queries), *(f"{value:.3f}" for value in (result.searched, result.asked, result.within)))
        for name, result in results.items()
    ]
    show_table(columns, lines)
    if low := [name for name, result in results.items() if result.low]:
        worst = min((results[name] for name in low), key=lambda result: result.searched)
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
    from vidret.corpus.vectors import KeptSentences

    with open_engine(index) as engine, Store.open(index) as store:
        texts = KeptSentences(engine.encoder) if prompt is None else engine.encoder
        diversity = measure_index_diversity(store, texts, prompt, seed=seed)
    if as_json:
        print_json(dataclasses.asdict(diversity))
    else:
        parts = diversity.parts
        rows = [
            ("segments", f"{parts.num_samples} of {diversity.num_segments}"),
            (
                "different",
                f"{diversity.vendi:.1f} (Vendi score: as diverse as that many segments with nothing in common)",
            ),
        ]
        if prompt is None:
            rows.append(("by class names", f"{parts.by_text:.2f} (1 is none)"))
            rows.append(("beyond them", f"{parts.by_corpus:.2f}"))
            rows.append(("ridge", f"{parts.ridge:g} (predicts held-out segments best)"))
        else:  # a single prompt cannot explain any diversity
            rows.append(("beyond it", f"{parts.by_corpus:.2f} (1 is none)"))
        show_table(("", ""), rows)
    if diversity.parts.warning is not None:
        print_message(f"The parts mean little: {diversity.parts.warning}.", style="yellow")
