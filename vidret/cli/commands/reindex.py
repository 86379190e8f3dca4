"""The command ``vidret reindex``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import app
from vidret.cli.inputs import parse_choice
from vidret.cli.opening import choose_model
from vidret.cli.options import (
    DEFAULT_INDEX,
    MODEL,
    DeviceOption,
    JsonOption,
    MergeOption,
    PrecisionOption,
    WorkersOption,
    index_option,
    option,
)
from vidret.errors import VidretError
from vidret.present.progress import show_progress
from vidret.present.show import run_to_dict
from vidret.present.terminal import print_message
from vidret.text import display_path

if TYPE_CHECKING:
    from vidret.reindex import ReindexReport

NUM_LISTED = 5
NewModelOption = Annotated[
    str | None, option("The new encoder, as for vidret index. VIDRET_MODEL sets the default.", MODEL, "NAME|FILE")
]
AllowLossOption = Annotated[
    bool, option("Switch even if videos that can be found now are lost, such as gone files.", flag="--allow-loss")
]


@app.command("reindex")
def reindex_command(
    index: Annotated[Path, index_option()] = Path(DEFAULT_INDEX),
    allow_loss: AllowLossOption = False,
    model: NewModelOption = None,
    merge: MergeOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    as_json: JsonOption = False,
    workers: WorkersOption = None,
) -> None:
    """Move an index to another encoder. Searches keep their old answers until all new vectors are there.

    Safe to interrupt and run again. Words, watches and settings stay; concepts are taught again from their examples.
    """
    from vidret.encode.names import MERGE_LEVELS, set_merge
    from vidret.reindex import reindex
    from vidret.search.models import read_encoder_name

    name = choose_model(model)
    if merge is not None:
        level = parse_choice(merge, MERGE_LEVELS, option="--merge")
        name = set_merge(name or read_encoder_name(index), level)
    if name is None:
        raise VidretError("model must be given by --model or VIDRET_MODEL, got none")
    with show_progress() as on_progress:
        report = reindex(
            index,
            name,
            device=device,
            precision=precision,
            workers=workers,
            allow_loss=allow_loss,
            on_progress=on_progress,
        )
    if as_json:
        print(json.dumps(run_to_dict(report), indent=2))
    else:
        print_reindex_summary(report, index)
    if not report.switched:
        raise typer.Exit(1)


def print_reindex_summary(report: "ReindexReport", index: Path) -> None:
    """Print what moving an index to another encoder did, and what is left to do."""
    if report.interrupted:
        print_message("Interrupted: the index has its old vectors. Run the same command again to continue.")
        return
    if report.switched:
        print_message(f"{index} has moved to {report.encoder}: {report.videos} videos")
    else:
        print_message(
            f"{index} keeps its old vectors, since {len(report.lost)} of its videos cannot be encoded; bring the files "
            "back and run the same command again, or lose them with --allow-loss"
        )
    for path, reason in report.lost[:NUM_LISTED]:
        print_message(f"  {'lost' if report.switched else 'not encoded'}: {display_path(path)}: {reason}")
    if len(report.lost) > NUM_LISTED:
        print_message(f"  and {len(report.lost) - NUM_LISTED} more; --json lists them all")
    if report.concepts:
        print_message(f"  taught again: {', '.join(f'@{name}' for name in report.concepts)}")
    for name, reason in report.to_teach:
        print_message(f"  must be taught again: @{name}: {reason}")
    for what in report.to_redo:
        print_message(f"  does not fit the new encoder: {what}")
