"""The command ``vidret calibrate``."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import read_bank
from vidret.cli.opening import open_engine
from vidret.cli.options import (
    DEFAULT_INDEX,
    DeviceOption,
    PrecisionOption,
    index_option,
)
from vidret.cli.search_options import make_option
from vidret.present.progress import show_count
from vidret.present.terminal import print_message
from vidret.types import SearchOptions, list_options

CALIBRATION = "Calibration"
NONE = "none"
RERANK = next(each for each in list_options(SearchOptions) if each.name == "rerank")


@app.command("calibrate")
def calibrate_command(
    bank: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Bank of typical queries: a text file with one per line, or a .jsonl file with query, caption or "
            "captions; or none, to take the correction back. A run corrects a new starter index with sentences of its "
            "own.",
            rich_help_panel=CALIBRATION,
        ),
    ],
    index: Annotated[Path, index_option(CALIBRATION)] = Path(DEFAULT_INDEX),
    limit: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Maximum number of queries; if there are more, an even sample is used.",
            rich_help_panel=CALIBRATION,
        ),
    ] = 2000,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Softmax temperature: the lower, the stronger the correction. Default: that of the reranker.",
            rich_help_panel=CALIBRATION,
        ),
    ] = None,
    rerank: Annotated[str, make_option(RERANK)] = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
) -> None:
    """Lower the scores of videos that match every query (hubness correction, SK-norm)."""
    if str(bank) == NONE:
        open_engine(index, None, device, precision, must_exist=True).forget_calibration(rerank=rerank)
        print_message(f"{index}: scores are not corrected, and later runs of vidret index leave it so.")
        return
    queries = read_bank(bank)
    sample = queries if len(queries) <= limit else [queries[i * len(queries) // limit] for i in range(limit)]
    engine = open_engine(index, None, device, precision, must_exist=True)
    with show_count("calibrating", "segments") as on_count:
        calibration = engine.calibrate(
            sample, name=bank.name, rerank=rerank, temperature=temperature, on_progress=on_count
        )
    of_all = f" (of {len(queries)}; --limit sets how many)" if len(sample) < len(queries) else ""
    print_message(
        f"{index}: calibrated {len(calibration.ids)} segments with {calibration.num_queries} queries{of_all} of "
        f"{bank.name}, temperature {calibration.temperature:g}. Segments that are indexed later are corrected too."
    )
