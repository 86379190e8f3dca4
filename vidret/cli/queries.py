"""The step of ``vidret eval folder`` that answers queries over all videos."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.evaluation import fill_index, finish, open_index
from vidret.cli.index import parse_words
from vidret.cli.judge import JudgeSettings, make_judge
from vidret.present.progress import show_count

QUERIES = "queries"
EvalWordsOption = Annotated[
    str,
    typer.Option(
        "--words",
        metavar="auto|on|off|LIST",
        envvar="VIDRET_WORDS",
        help="Words to read for queries.jsonl besides the pictures, as for vidret index.",
        rich_help_panel="Data",
    ),
]


def answer_queries(
    folder: Path,
    words: str,
    judge: JudgeSettings | None = None,
    *,
    model: str | None,
    out: Path,
    html: bool,
    device: str,
    precision: str,
) -> None:
    """Evaluate the queries.jsonl of a folder over all of its videos, with their words as ``vidret index`` reads them.

    Raises:
        VidretError: A row is invalid, or no video can be indexed.
    """
    from vidret.answers.judging import DEFAULT_JUDGING
    from vidret.evaluate.queries import evaluate_queries, read_queries_folder

    split, videos = read_queries_folder(folder)
    index = out / "index"
    chosen_judge, judging = (None, DEFAULT_JUDGING) if judge is None else make_judge(judge)
    chosen_words = parse_words(words, None, index)
    engine = open_index(index, model, device, precision)
    gallery, indexing_s = fill_index(engine, split, videos, None, chosen_words)
    with show_count("answering", "queries") as on_count:
        report = evaluate_queries(engine, split, gallery, judge=chosen_judge, judging=judging, on_progress=on_count)
    finish(report, out, indexing_s, html=html)
