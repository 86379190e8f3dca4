"""The report of ``vidret info --diversity``."""

import dataclasses
import json
from pathlib import Path

from vidret.cli.opening import open_engine, remember_phrases
from vidret.present.show import show_table
from vidret.present.terminal import print_message


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
