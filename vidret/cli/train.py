"""vidret train: fit, validate and test from a YAML file, by Lightning's own command line."""

from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.errors import MissingExtraError


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="fit, validate or test; --help tells more.")] = "--help",
    device: Annotated[
        str | None,
        typer.Option(help="One device to train on: auto, cpu, cuda, cuda:N or mps; what the file says unless given."),
    ] = None,
) -> None:
    """Train a method from a YAML file: vidret train fit --config configs/msrvtt_tempme_b32.yaml --model.lr 1e-4."""
    try:
        from vidret.train.run import run
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("pytorch_lightning", "jsonargparse", "lightning"):
            raise MissingExtraError("training", "train") from None
        raise
    run([what, *context.args], device=device)
