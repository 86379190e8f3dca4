"""The command ``vidret calibrate``."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.opening import open_engine, refuse_options
from vidret.cli.options import DEFAULT_INDEX, Loading, index_option, option, with_fields
from vidret.cli.search_options import make_option
from vidret.cli.values import iterate_queries, read_bank, sample_evenly
from vidret.errors import VidretError
from vidret.present.progress import show_count
from vidret.present.terminal import print_message
from vidret.text import format_count
from vidret.types import SearchOptions, list_options

if TYPE_CHECKING:
    from vidret.engine import Engine
    from vidret.search.probability_fitting import HeldOutFit

CALIBRATION = "Calibration"
NONE = "none"
RERANK = next(choice for choice in list_options(SearchOptions) if choice.name == "rerank")


@app.command("calibrate")
@with_fields()
def calibrate_command(
    *,
    context: typer.Context,
    bank: Path | None = option(
        "Bank of typical queries: a text file with one per line, or a .jsonl file with query, caption or captions; or "
        "none, to take the correction back. A run corrects an index by itself only if its model's file has a bank.",
        CALIBRATION,
        "FILE",
        default=None,
    ),
    answers: Path | None = option(
        "Queries whose answers you know, to which the probabilities of results are fitted: a .jsonl file with "
        "query and file (null if no video answers it) or files; or none, to take the fit back.",
        CALIBRATION,
        "FILE",
        default=None,
    ),
    index: Annotated[Path, index_option(CALIBRATION)] = DEFAULT_INDEX,
    limit: int = option(
        "Maximum number of queries of a bank; if there are more, an even sample is used.",
        CALIBRATION,
        "N",
        default=2000,
        min=1,
    ),
    rerank: Annotated[str, make_option(RERANK)] = "auto",
    loading: Loading,
) -> None:
    """Lower the scores of videos that match every query (SK-norm), or fit probabilities to known answers."""
    if (bank is None) == (answers is None):
        got = "neither" if bank is None else "both"
        raise typer.BadParameter(f"exactly one of them must be given, got {got}", param_hint="--bank, --answers")
    if answers is not None:
        refuse_options(context, ("limit", "rerank"), "needs --bank, got --answers")
        known = None if str(answers) == NONE else read_answers(answers)
        engine = open_engine(index, loading)
        if known is not None:
            _fit(engine, index, answers.name, known)
        else:
            engine.forget_probabilities()
            print_message(f"{index}: probabilities are those of an index without known answers.")
        return
    assert bank is not None
    if str(bank) == NONE:
        open_engine(index, loading).forget_calibration(rerank=rerank)
        print_message(f"{index}: scores are not corrected, and later runs of vidret index leave it so.")
        return
    queries = read_bank(bank)
    sample = sample_evenly(queries, limit)
    engine = open_engine(index, loading)
    with show_count("calibrating", "segments") as on_count:
        calibration = engine.calibrate(sample, name=bank.name, rerank=rerank, on_progress=on_count)
    of_all = f" (of {len(queries)}; --limit sets how many)" if len(sample) < len(queries) else ""
    print_message(
        f"{index}: calibrated {format_count(len(calibration.ids), 'segment')} with "
        f"{format_count(calibration.num_queries, 'query')}{of_all} of {bank.name}, "
        f"temperature {calibration.temperature:g}. Segments that are indexed later are corrected too."
    )


def read_answers(path: Path) -> dict[str, set[str]]:
    """Return the files that answer each query of a JSONL file; lines of the same query are joined."""
    answers: dict[str, set[str]] = {}
    for row, query in iterate_queries(path):
        if not isinstance(query, str) or ("file" in row) == ("files" in row):
            raise VidretError(f'{path}: a line must have "query", and "file" or "files", got {row!s:.200}')
        files = row["files"] if "files" in row else [] if row["file"] is None else [row["file"]]
        if not isinstance(files, list) or not all(isinstance(file, str) and file for file in files):
            raise VidretError(f'{path}: "file" must be a path or null, "files" a list of paths, got {row!s:.200}')
        if query in answers and bool(answers[query]) != bool(files):
            raise VidretError(f"{path}: a query must have an answer or none, got both for {query:.200}")
        answers.setdefault(query, set()).update(files)
    return answers


def _fit(engine: "Engine", index: Path, name: str, answers: Mapping[str, Collection[str]]) -> None:
    """Fit the probabilities of an index to known answers, and print the result."""
    with show_count("searching", "queries") as on_count:
        report = engine.calibrate_probabilities(answers, on_progress=on_count)
    print_message(
        f"{index}: {format_count(report.num_answered + report.num_absent, 'query')} of {name}, "
        f"{report.num_absent} of them without an answer. By cross-validation over two halves:"
    )
    print_message(f"whether the index has an answer: {_describe_fit(report.index)}")
    print_message(f"whether a result is an answer: {_describe_fit(report.videos)}")
    print_message(
        "Stored what helps. The ranking stays as it is. --answers none takes it back."
        if report.helps
        else "Nothing was stored: probabilities stay as they were."
    )


def _describe_fit(fit: "HeldOutFit") -> str:
    return (
        f"log loss {fit.loss_before:.3f} to {fit.loss_after:.3f}, calibration error {fit.error_before:.3f} to "
        f"{fit.error_after:.3f}{'' if fit.helps else ', which does not help'}"
    )
