"""The command ``vidret train``: Lightning's command line for the methods of vidret."""

from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.errors import MissingExtraError
from vidret.present.terminal import print_message


@app.command(
    "train",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train_command(
    context: typer.Context,
    subcommand: Annotated[
        str, typer.Argument(metavar="SUBCOMMAND", help="fit, validate or test, or head; --help lists their options.")
    ] = "--help",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="Train on one device: auto, cpu, cuda, cuda:N or mps; default: as configured."
        ),
    ] = None,
) -> None:
    """Train a method from a YAML file, such as: vidret train fit --config configs/msrvtt_tempme_b32.yaml.

    Or a grounding head for an index, from your own annotations: vidret train head --index DIR --moments FILE.
    """
    if subcommand == "head":
        from vidret.cli.train_head import run_train_head

        run_train_head([*context.args, *([] if device is None else ["--device", device])])
        return
    try:
        from vidret.train.run import run
    except ImportError as error:
        if error.name and error.name.split(".")[0] in ("pytorch_lightning", "jsonargparse", "lightning"):
            missing = MissingExtraError("training", "train")
            if {"--help", "-h"}.isdisjoint((subcommand, *context.args)):
                raise missing from None
            print(context.get_help())
            print_message(f"The options of fit, validate and test are listed once Lightning is there: {missing}")
            return
        raise
    run([subcommand, *context.args], device=device)
