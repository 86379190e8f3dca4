"""The command ``vidret convert``."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import typer

from vidret.cli.app import app
from vidret.cli.options import MergeOption, argument, option
from vidret.cli.values import read_bank, sample_evenly
from vidret.errors import VidretError
from vidret.present.terminal import print_message

if TYPE_CHECKING:
    from vidret.align.glscl import ConceptAligner
    from vidret.align.ucofia import Aligner
    from vidret.encode.clip.tempme import MergeSchedule
    from vidret.encode.names import MergeLevel

T = TypeVar("T")
TEMPME, PROMPT_SWITCH, GLSCL, R2_TUNING = "TempMe", "Prompt Switch", "GLSCL", "R2-Tuning"
JOIN = "Joining models"
METHODS = ("tempme", "promptswitch", "ucofia", "glscl", "longclip", "videoprism", "r2tuning", "universalvtg", "vidret")
BANK_SUFFIXES = (".txt", ".jsonl")
BANK_SIZE = 500  # queries of a bank; more change potentials little and take longer in every index run


@app.command("convert")
def convert_command(
    checkpoint: Path = argument(
        "Published checkpoint: .pt, .pth, .bin or .safetensors, or VideoPrism's .npz; or a model of vidret, with "
        "--from vidret.",
        "CHECKPOINT",
    ),
    out: Path = argument("File to write (.safetensors), for --model or --head; for VideoPrism a folder.", "OUT"),
    source: str = option(
        f"Method of the checkpoint: {', '.join(METHODS[:-2])} or {METHODS[-2]}; or {METHODS[-1]}, to join models.",
        None,
        "METHOD",
        flag="--from",
    ),
    others: list[Path] | None = option(
        "Part to add to the model, with --from vidret: a model with merging, prompts or an aligner, an aligner, a "
        "head, or a bank of typical queries (.txt or .jsonl), with which every index is calibrated. May be "
        "repeated. With --from videoprism: its vocabulary, a SentencePiece model.",
        JOIN,
        "FILE",
        default=None,
        flag="--with",
    ),
    average: Path | None = option(
        "Model to average the weights with, with --from vidret, so that a model that was trained further keeps much of "
        "what it knew.",
        JOIN,
        "FILE",
        default=None,
    ),
    weight: float = option("Weight of the --average model, from 0 to 1.", JOIN, "SHARE", default=0.5),
    merge: MergeOption = None,
    layers: str = option("Layers that merge clips.", TEMPME, "N-N-N", default="8-9-10"),
    factors: str = option("Number of clips merged by each of these layers.", TEMPME, "N-N-N", default="2-2-3"),
    r: int = option("Tokens merged per frame in each earlier layer.", TEMPME, "N", default=2),
    shares: str = option("Percentage of tokens merged across clips and within clips.", TEMPME, "N-N", default="30-10"),
    proportional: bool = option(
        "Whether attention counts the sizes of merged tokens (tome_propattn).",
        TEMPME,
        default=True,
        flag="--proportional/--not-proportional",
    ),
    clip_frames: int | None = option("Frames that are aggregated together.", PROMPT_SWITCH, "N", default=None),
    shared_queries: bool | None = option(
        "Whether frames and words share their queries (query_share). Default: shared if the decoder is.",
        GLSCL,
        default=None,
        flag="--shared-queries/--separate-queries",
    ),
    recipe: str = option(
        "Benchmark that the head was trained for: qvhighlights, charades, ego4d, tacos, youtube or tvsum. It "
        "decides the frame rate, rounding and suppression.",
        R2_TUNING,
        "NAME",
        default="qvhighlights",
    ),
    backbone: str = option(
        "Encoder whose layers the head reads.", R2_TUNING, "NAME", default="ViT-B-32-quickgelu/openai"
    ),
) -> None:
    """Convert a published checkpoint to a model that vidret loads, or join models to one file.

    Code in the checkpoint is never run.
    """
    from vidret.encode.names import OFF

    if source not in METHODS:
        raise typer.BadParameter(f"must be one of {', '.join(METHODS)}, got {source}", param_hint="--from")
    level, parts = cast("MergeLevel", merge or OFF), others or []
    if source == "videoprism":
        convert_videoprism_file(checkpoint, out, parts)
        return
    if out.suffix != ".safetensors":
        raise typer.BadParameter(f"must end in .safetensors, got {out}", param_hint="OUT")
    if average is not None and (source != "vidret" or parts or level != OFF):
        raise typer.BadParameter("needs --from vidret, without --with and --merge", param_hint="--average")
    if parts and source != "vidret":
        raise typer.BadParameter(
            f"needs --from vidret, got {source}: convert the checkpoint first", param_hint="--with"
        )
    match source:
        case "vidret" if average is not None:
            average_model_files(checkpoint, average, out, weight)
        case "vidret":
            join_model_files(checkpoint, out, parts, level)
        case "r2tuning":
            convert_head_file(checkpoint, out, recipe, backbone)
        case "universalvtg":
            convert_universal_file(checkpoint, out)
        case _:
            schedule = parse_schedule(layers, factors, r, shares, proportional=proportional)
            convert_model_file(checkpoint, out, source, level, schedule, clip_frames, shared_queries)


def convert_model_file(
    checkpoint: Path,
    out: Path,
    source: str,
    merge: "MergeLevel",
    schedule: "MergeSchedule",
    clip_frames: int | None,
    shared_queries: bool | None,
) -> None:
    """Convert the checkpoint of a method, with its aligner if it has one, and print how to use it."""
    from vidret.align.files import describe_aligner
    from vidret.encode.clip.model import describe_towers, merge_tokens
    from vidret.encode.clip.weights import convert_file
    from vidret.model_files import ALIGNER, save_joint

    model = convert_file(checkpoint, source, schedule=schedule, clip_frames=clip_frames)
    model = merge_tokens(model, merge, name=str(checkpoint))
    aligner = convert_aligner_of(checkpoint, source, shared_queries)
    save_joint(out, describe_towers(model), {} if aligner is None else {ALIGNER: describe_aligner(aligner)})
    what = model.card.method if aligner is None else f"{model.card.method} with its aligner"
    print_message(f"{out}: {what} on {model.card.backbone}; use it as --model {out}")


def average_model_files(model: Path, other: Path, out: Path, weight: float) -> None:
    """Average the weights of two models, and print how to use the mean."""
    from vidret.model_files import average_files

    average_files(model, other, out, weight)
    print_message(f"{out}: {1 - weight:g} of {model} and {weight:g} of {other}; use it as --model {out}")


def join_model_files(model: Path, out: Path, others: list[Path], merge: "MergeLevel") -> None:
    """Add parts and merging to a model of vidret, and print which weights fit."""
    from vidret.channels.picture.joint import join_files
    from vidret.channels.picture.query_bank import QueryBank
    from vidret.encode.names import OFF

    files, bank = [path for path in others if path.suffix not in BANK_SUFFIXES], None
    if not others and merge == OFF:
        raise typer.BadParameter("must name a part to add with --from vidret, got none", param_hint="--with")
    if len(others) - len(files) > 1:
        raise VidretError(f"a model must have one bank of queries, got {len(others) - len(files)}")
    for path in others:
        if path not in files:
            bank = QueryBank(name=path.name, queries=tuple(sample_evenly(read_bank(path), BANK_SIZE)))
    for note in join_files(model, files, out, bank=bank, merge=merge):
        print_message(note)
    print_message(f"{out}: use it as --model {out}")


def parse_schedule(layers: str, factors: str, r: int, shares: str, *, proportional: bool) -> "MergeSchedule":
    """Return the schedule that TempMe's options describe."""
    from vidret.encode.clip.tempme import MergeSchedule

    try:
        joins, times, (cross, intra) = (tuple(map(int, text.split("-"))) for text in (layers, factors, shares))
        return MergeSchedule(joins, times, r, cross / 100, intra / 100, proportional)
    except ValueError as error:
        raise typer.BadParameter(f"--layers, --factors, --r, --shares: {error}") from error


def convert_head_file(checkpoint: Path, out: Path, recipe: str, backbone: str) -> None:
    """Convert the checkpoint of a grounding head, and print how to use it."""
    from vidret.data.benchmarks.registry import RECIPES
    from vidret.ground.checkpoint import HeadCard, convert_head, save_head

    if recipe not in RECIPES:
        raise typer.BadParameter(f"must be one of {', '.join(RECIPES)}, got {recipe}", param_hint="--recipe")
    head = convert_weights(checkpoint, convert_head)
    save_head(head, HeadCard.describe(head, backbone=backbone, **RECIPES[recipe]), out)
    print_message(f"{out}: a grounding head for {backbone}; use it as --head {out} with an index of that model")


def convert_videoprism_file(checkpoint: Path, out: Path, others: list[Path]) -> None:
    """Convert VideoPrism's weights and vocabulary to a folder, and print how to use it."""
    from vidret.encode.families.videoprism import convert_videoprism

    if len(others) != 1:
        rule = "must be the vocabulary of VideoPrism, T5's spiece.model"
        raise typer.BadParameter(f"{rule}, got {len(others)} files", param_hint="--with")
    convert_videoprism(checkpoint, others[0], out)
    print_message(f"{out}: VideoPrism-LvT; use it as --model hf:{out}")


def convert_universal_file(checkpoint: Path, out: Path) -> None:
    """Convert the checkpoint of UniversalVTG, and print how to use it."""
    from vidret.ground.universalvtg import BACKBONE, build_universal, save_universal

    save_universal(convert_weights(checkpoint, build_universal), out)
    print_message(f"{out}: a grounding head over {BACKBONE}; use it as --head {out} with an index of any model")


def convert_aligner_of(checkpoint: Path, source: str, shared_queries: bool | None) -> "Aligner | ConceptAligner | None":
    """Return the aligner in a checkpoint, or None if its method has no aligner."""
    from vidret.align.files import convert_aligner, convert_concepts
    from vidret.align.glscl import ConceptAligner
    from vidret.align.ucofia import Aligner

    converters: dict[str, Callable[[Any], Aligner | ConceptAligner]] = {
        Aligner.kind: convert_aligner,
        ConceptAligner.kind: partial(convert_concepts, shared_queries=shared_queries),
    }
    return convert_weights(checkpoint, converters[source]) if source in converters else None


def convert_weights(checkpoint: Path, convert: Callable[[Any], T]) -> T:
    """Return the result of ``convert`` on the weights of a checkpoint; errors name the file."""
    from vidret.encode.clip.weights import read_weights

    weights = read_weights(checkpoint)
    try:
        return convert(weights)
    except VidretError as error:
        raise VidretError(f"{checkpoint}: {error}") from error
