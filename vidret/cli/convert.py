"""vidret convert: other people's checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidret.cli.app import app
from vidret.present.terminal import say

if TYPE_CHECKING:
    from vidret.align.glscl import ConceptAligner
    from vidret.align.ucofia import Aligner


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A published checkpoint: .pt, .pth, .bin or .safetensors.")],
    out: Annotated[Path, typer.Argument(help="The file to write (.safetensors); it is then a --model.")],
    source: Annotated[
        str, typer.Option("--from", help="Whose names it has: tempme, promptswitch, ucofia, glscl or r2tuning.")
    ],
    layers: Annotated[str, typer.Option(help="TempMe: the layers that join clips.")] = "8-9-10",
    factors: Annotated[str, typer.Option(help="TempMe: how many clips each of them joins.")] = "2-2-3",
    r: Annotated[int, typer.Option(help="TempMe: tokens merged in a frame by each layer before.")] = 2,
    shares: Annotated[str, typer.Option(help="TempMe: percent merged across and within clips.")] = "30-10",
    clip_frames: Annotated[int | None, typer.Option(help="Prompt Switch: frames aggregated together.")] = None,
    shared_queries: Annotated[
        bool | None,
        typer.Option(
            "--shared-queries/--separate-queries",
            help="GLSCL: whether the queries of frames serve words, too (query_share); as the decoder unless given.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="R2-Tuning: the benchmark it was trained for, which decides frame rate, rounding and suppression: "
            "qvhighlights, charades, ego4d, tacos, youtube or tvsum."
        ),
    ] = "qvhighlights",
    backbone: Annotated[
        str, typer.Option(help="R2-Tuning: the encoder whose layers it reads.")
    ] = "ViT-B-32-quickgelu/openai",
) -> None:
    """Convert a published checkpoint to one file of weights and card; nothing that the checkpoint holds is run."""
    from vidret.encode.model import save_model
    from vidret.encode.tempme import MergeSchedule
    from vidret.encode.weights import convert_file

    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"must end in .safetensors, got {out}", param_hint="OUT")
    if source == "r2tuning":
        convert_grounding(checkpoint, out, recipe, backbone)
        return
    try:
        joins, times, (cross, intra) = (tuple(map(int, text.split("-"))) for text in (layers, factors, shares))
        schedule = MergeSchedule(joins, times, r, cross / 100, intra / 100)
    except ValueError as error:
        raise typer.BadParameter(f"--layers, --factors, --r, --shares: {error}") from error
    model = convert_file(checkpoint, source, schedule=schedule, clip_frames=clip_frames)
    aligner = convert_aligner_of(checkpoint, source, shared_queries)
    save_model(model, out)
    card = model.card
    say(f"{out}: {card.method} on {card.backbone}; use it as --model {out}")
    if aligner is not None:
        from vidret.align.files import save_aligner
        from vidret.search.ranking import BESIDE

        beside = out.with_suffix(BESIDE)
        save_aligner(aligner, beside)
        say(f"{beside}: its aligner, taken with the model when it lies beside it")


def convert_grounding(checkpoint: Path, out: Path, recipe: str, backbone: str) -> None:
    """Convert a grounding head, and say how to use it."""
    from vidret.encode.weights import read_weights
    from vidret.errors import VidretError
    from vidret.ground.checkpoint import RECIPES, HeadCard, convert_head, save_head

    if recipe not in RECIPES:
        raise typer.BadParameter(f"must be one of {', '.join(RECIPES)}, got {recipe}", param_hint="--recipe")
    try:
        head = convert_head(read_weights(checkpoint))
    except VidretError as error:
        raise VidretError(f"{checkpoint}: {error}") from error
    save_head(head, HeadCard.describe(head, backbone=backbone, **RECIPES[recipe]), out)
    say(f"{out}: a grounding head for {backbone}; use it as --head {out} with an index of that model")


def convert_aligner_of(checkpoint: Path, source: str, shared_queries: bool | None) -> "Aligner | ConceptAligner | None":
    """Convert the aligner that a checkpoint of a whole model holds, if its method has one."""
    from vidret.align.glscl import ConceptAligner
    from vidret.align.glscl_checkpoint import convert_concepts
    from vidret.align.ucofia import Aligner
    from vidret.align.ucofia_checkpoint import convert_aligner
    from vidret.encode.weights import read_weights
    from vidret.errors import AlignerError

    converters: dict[str, Callable[[Any], Aligner | ConceptAligner]] = {
        Aligner.kind: convert_aligner,
        ConceptAligner.kind: partial(convert_concepts, shared_queries=shared_queries),
    }
    try:
        return converters[source](read_weights(checkpoint)) if source in converters else None
    except AlignerError as error:
        raise AlignerError(f"{checkpoint}: {error}") from error
