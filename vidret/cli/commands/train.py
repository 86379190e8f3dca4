"""The command ``vidret train``: Lightning's command line for the methods of vidret, and other subcommands."""

from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import CommandApp, app
from vidret.cli.language_model import LlmModelOption, LlmTimeoutOption, make_endpoint
from vidret.cli.opening import needing, open_engine
from vidret.cli.options import DEFAULT_INDEX, DeviceOption, Loading, argument, index_option, option
from vidret.errors import MissingExtraError, VidretError
from vidret.present.progress import show_count
from vidret.present.show import show_table
from vidret.present.terminal import print_message
from vidret.text import format_count


@app.command(
    "train",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def train_command(
    context: typer.Context,
    subcommand: str = argument(
        "fit, validate or test, or export, head or captions; --help lists their options.",
        "SUBCOMMAND",
        default="--help",
    ),
    device: str | None = option(
        "Train on one device: auto, cpu, cuda, cuda:N or mps; default: as configured.", None, "DEVICE", default=None
    ),
) -> None:
    """Train a method from a YAML file, such as: vidret train fit --config configs/msrvtt_tempme_b32.yaml.

    Or export the model in one of its checkpoints: vidret train export last.ckpt. Or train a grounding head for an
    index, from your own annotations: vidret train head --index DIR --moments FILE. Or let a language model reword the
    captions to train on: vidret train captions OUT --llm URL.
    """
    below = {"head": head_app, "export": export_app, "captions": captions_app}
    if subcommand in below:
        device_arguments = [] if device is None else ["--device", device]
        code = below[subcommand](
            [*context.args, *device_arguments], standalone_mode=False, prog_name=f"vidret train {subcommand}"
        )
        if code:
            raise typer.Exit(int(code))
        return
    try:
        with needing("train", "training"):
            from vidret.train.run import run
    except MissingExtraError as missing:
        if {"--help", "-h"}.isdisjoint((subcommand, *context.args)):
            raise
        print(context.get_help())
        print_message(f"The options of fit, validate and test are listed once Lightning is installed: {missing}")
        return
    run([subcommand, *context.args], device=device)


export_app = CommandApp(add_completion=False, pretty_exceptions_enable=False)
ModelOption = Annotated[
    Path | None, option("File of the model (.safetensors); default: that of the run.", None, "FILE", flag="--out")
]


@export_app.command()
def train_export_command(
    checkpoint: Path = argument("Checkpoint of vidret train fit, such as last.ckpt.", "CKPT"), out: ModelOption = None
) -> None:
    """Write the model in a checkpoint to a file, for vidret index --model, or --head."""
    with needing("train", "training"):
        from vidret.train.run import export_checkpoint
    print_message(f"Written: {export_checkpoint(checkpoint, out)}")


captions_app = CommandApp(add_completion=False, pretty_exceptions_enable=False)


@captions_app.command()
def train_captions_command(
    out: Path = argument("File to write or to continue (.jsonl).", "OUT"),
    annotations: Path = option("Folder or file of the annotations.", None, "PATH"),
    llm: str | None = option(
        "Chat endpoint in OpenAI's style, which gets the captions.", None, "URL", default=None, envvar="VIDRET_LLM"
    ),
    llm_model: LlmModelOption = None,
    data: str = option(
        "Benchmark and split, such as msrvtt-1k-a-train-9k, or captions.", None, "NAME", default="captions"
    ),
    variants: int = option("Number of other wordings of a caption.", None, "N", default=3, min=1, max=20),
    index: Path | None = option(
        "Index of the videos, made with --describe, whose descriptions are joined with captions.",
        None,
        "DIR",
        default=None,
    ),
    llm_timeout: LlmTimeoutOption = 120.0,
) -> None:
    """Let a language model reword captions, for --data.init_args.rewritten OUT of vidret train fit.

    Captions that are already in OUT are not requested again.
    """
    from vidret.data.benchmarks.splits import read_split
    from vidret.store.store import Store
    from vidret.train.rewriting import read_seen, rewrite_captions

    captions, seen = read_split(data, annotations).captions, None
    if index is not None:
        with Store.open(index) as store:
            seen = read_seen(store, captions)
    endpoint = make_endpoint(llm, llm_model, llm_timeout)
    with show_count("rewriting", "captions") as on_count:
        num_left = rewrite_captions(captions, endpoint, out, variants=variants, seen=seen, on_progress=on_count)
    done = f"{len(captions) - num_left} of {format_count(len(captions), 'caption')}"
    print_message(f"{out}: {done} in other words; use it as --data.init_args.rewritten {out}")
    if num_left:
        raise typer.Exit(1)


head_app = CommandApp(add_completion=False, pretty_exceptions_enable=False)
OutOption = Annotated[
    Path | None, option("File of the head (.safetensors); default: head.safetensors in the index.", None, "FILE")
]


@head_app.command()
def train_head_command(
    moments: Path = option(
        "Annotations: JSON lines with qid, query, vid, duration and relevant_windows in seconds.", None, "FILE"
    ),
    index: Annotated[Path, index_option(None)] = DEFAULT_INDEX,
    out: OutOption = None,
    held_out: float = option(
        "Share of the annotated videos to hold out for the comparison with the curve, from 0 to 1.",
        None,
        "SHARE",
        default=0.2,
    ),
    steps: int = option("Number of training steps.", None, "N", default=1500, min=1),
    seed: int = option("Seed of the held-out videos and of training.", None, "N", default=0, min=0),
    device: DeviceOption = "auto",
) -> None:
    """Train a head that locates moments, on the stored vectors of an index.

    It replaces the curve only if its moments overlap those of held-out videos more.
    """
    from vidret.data.benchmarks.splits import read_split
    from vidret.ground.checkpoint import save_head
    from vidret.store.records import HEAD
    from vidret.store.store import Store
    from vidret.train.own_head import try_head

    if not moments.is_file():
        raise VidretError(f"{moments}: there is no such file")
    split = read_split("moments", moments)
    target = (out or index / "head.safetensors").absolute()
    engine = open_engine(index, Loading(device=device))
    with engine, show_count("training", "steps") as on_count:
        trial = try_head(engine, split, share=held_out, num_steps=steps, seed=seed, on_progress=on_count)
    ways = {"the curve": trial.by_curve, "the head": trial.by_head, "the head, weighed by similarity": trial.by_weighed}
    rows = [
        (name, *(f"{value:.1f}" for value in (way.recall(0.5), way.recall(0.7), way.mean_overlap)))
        for name, way in ways.items()
    ]
    print_message(
        f"Trained on {format_count(trial.num_trained, 'query')}, tried on {trial.num_held_out} of other videos:"
    )
    show_table(("", "R1@0.5", "R1@0.7", "mIoU"), rows)
    if not trial.wins:
        print_message("The head does not win against the curve on the held-out queries (mIoU), so it is not kept.")
        raise typer.Exit(1)
    save_head(trial.head, trial.card, target)
    with Store.open(index, write=True) as store:
        store.metadata.set(HEAD, str(target))
    print_message(f"Written: {target}. vidret locate uses it for this index from now on.")
