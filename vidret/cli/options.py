"""Options that several commands share, and the index of a command without ``--index``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from vidret.present.terminal import print_message

HERE = "vidret-index"


def choose_index(ctx: Any) -> None:
    """Let a command that was given no index use the user's own, unless the current folder has one.

    The choice is printed. A command with ``--server`` needs no index.
    """
    source = ctx.get_parameter_source("index")
    if source is None or source.name != "DEFAULT" or ctx.params["index"] != Path(HERE):
        return
    if Path(HERE).exists() or ctx.params.get("server") is not None:
        return
    ctx.params["index"] = find_own_index()
    print_message(f"Index: {ctx.params['index']}")


def find_own_index() -> Path:
    """Return the folder of the user's own index, such as ``~/.local/share/vidret/index`` on Linux."""
    import platformdirs

    return Path(platformdirs.user_data_path("vidret")) / "index"


DEFAULT_INDEX = HERE
# The panels of the help.
SCOPE, FILTERS, OUTPUT, MODEL, ADVANCED = "What to search", "Filters", "Output", "Model", "Advanced"
QUERY_HELP = (
    "Text to search for. A minus excludes a word or a quoted phrase: 'dog -beach -\"hot dog\"'. "
    "A query that starts with a minus goes last, after --: vidret search -- '-beach dog'."
)


def index_option(panel: str | None = None, *, text: str = "Index folder.") -> Any:
    """Return the option ``--index`` for a panel of the help."""
    default = "vidret-index here, if there is one, or else your own, which is then named."
    return typer.Option(
        "--index",
        metavar="DIR",
        envvar="VIDRET_INDEX",
        help=f"{text.removesuffix('.')}; default: {default}",
        show_default=False,
        rich_help_panel=panel,
    )


IndexOption = Annotated[Path, index_option(SCOPE)]
IndexedVideoArgument = Annotated[
    str, typer.Argument(metavar="VIDEO", help="One indexed video, by its path or a unique ending of it.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FILE",
        help="Encoder of a new index: starter (the default), a recommended one (small, good, best or multilingual), an "
        "open_clip name such as ViT-B-32/laion2b_s34b_b79k, hf-hub:ORG/NAME, a model of transformers (hf:ORG/NAME or "
        "hf:FOLDER), package.module:Class, endpoint:URL?model=NAME (an embeddings endpoint), or a .safetensors or .pt "
        "file. The index remembers it. VIDRET_MODEL sets another default.",
        rich_help_panel=MODEL,
    ),
]
TrustedModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The encoder of the index, to be named once for an index from elsewhere whose encoder is not part of it.",
        rich_help_panel=MODEL,
    ),
]
ProbedModelOption = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="Encoder, as for vidret index.", rich_help_panel=MODEL)
]
MergeOption = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="off|gentle|half",
        help="Merge tokens within each frame of a CLIP ViT until 75 % (gentle) or 50 % (half) of the multiply-adds are "
        "left: faster, with less precise vectors. Default: as the model's name has it, which is off.",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto (the accelerator, if there is one), cpu, cuda, cuda:N, xpu, xpu:N or mps.",
        rich_help_panel=MODEL,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16|fp16|int8",
        help="Numerical precision; auto is bf16 for CLIP on hardware that supports it, else fp16 on Apple's chips and "
        "int8 on CPUs with int8 instructions. The starter is fp32 or bf16.",
        rich_help_panel=MODEL,
    ),
]
HeadOption = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Grounding head: the file of a trained head (see vidret convert), none, or auto (the one that the index "
        "was prepared for, or in the model file). Without a head, moments come from the similarity curve.",
        rich_help_panel=MODEL,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=OUTPUT)]
SheetOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a contact sheet of the results (.jpg or .png).", rich_help_panel=OUTPUT),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Ask a running vidret serve, such as http://127.0.0.1:8000, instead of opening an index.",
        rich_help_panel=SCOPE,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="TOKEN", envvar="VIDRET_TOKEN", help="Access token of the server.", rich_help_panel=SCOPE
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Files decoded at once; default: one per core.", rich_help_panel=ADVANCED),
]
