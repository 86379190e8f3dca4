"""Options that several commands share, and the index of a command without ``--index``."""

import contextlib
import functools
import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from vidret.disk import find_user_folder
from vidret.errors import StoreError
from vidret.present.terminal import print_message

DEFAULT_INDEX = Path("vidret-index")
# The parameters of a command in place of a dataclass, and a function from their values to the dataclass.
Expansion = tuple[list[inspect.Parameter], Callable[[dict[str, Any]], Any]]


def choose_index(ctx: Any, num_given: int = 1) -> None:
    """Set the index of a command without ``--index``: that of the current folder, else the user's own.

    The choice is printed. A command with ``--server`` needs no index.

    Raises:
        typer.BadParameter: ``VIDRET_INDEX`` or the options name several indexes, and the command takes one.
    """
    source, given = ctx.get_parameter_source("index"), ctx.params.get("index")
    if num_given > 1 and isinstance(given, Path):
        raise typer.BadParameter(f"must be one index for this command, got {num_given}", ctx=ctx, param_hint="--index")
    if source is not None and source.name == "ENVIRONMENT" and isinstance(given, Path):
        if os.pathsep in str(given) and not given.exists():
            message = f"must be one index for this command; VIDRET_INDEX names several, {given}"
            raise typer.BadParameter(message, ctx=ctx, param_hint="--index")
        return
    if source is None or source.name != "DEFAULT" or given not in (DEFAULT_INDEX, [DEFAULT_INDEX]):
        return
    if DEFAULT_INDEX.exists() or ctx.params.get("server") is not None:
        return
    user_index = find_own_index()
    ctx.params["index"] = user_index if given == DEFAULT_INDEX else [user_index]
    print_message(f"Index: {user_index}")


def find_own_index() -> Path:
    """Return the folder of the user's own index, such as ``~/.local/share/vidret/index`` on Linux.

    Raises:
        StoreError: The user has no home folder.
    """
    import platformdirs

    find_user_folder("XDG_DATA_HOME", "~")  # without a home folder, versions of platformdirs differ
    return Path(platformdirs.user_data_path("vidret")) / "index"


def name_index(index: Path) -> str:
    """Return the option that a command needs for this index, empty for the one that it takes by default."""
    with contextlib.suppress(StoreError):  # the user has no home folder
        if index.absolute() == (DEFAULT_INDEX if DEFAULT_INDEX.exists() else find_own_index()).absolute():
            return ""
    return f" --index {shlex.quote(str(index))}"


OPTION = "option"  # in the metadata of a field
# The panels of the help.
SCOPE, FILTERS, OUTPUT, MODEL, ADVANCED = "What to search", "Filters", "Output", "Model", "Advanced"
QUERY_HELP = (
    "Text to search for. A minus excludes a word or a quoted phrase: 'dog -beach -\"hot dog\"'. "
    "A query that starts with a minus goes last, after --: vidret search -- '-beach dog'."
)


def option(
    text: str,
    panel: str | None = None,
    metavar: str | None = None,
    *,
    default: Any = ...,
    flag: str | None = None,
    **settings: Any,
) -> Any:
    """Return an option with its help text, help panel and metavar; its flag is the name of its parameter.

    Use it as the default of a parameter, required without a ``default``, or to annotate a type for several commands.
    """
    flags = () if flag is None else (flag,)
    return typer.Option(default, *flags, help=text, rich_help_panel=panel, metavar=metavar, **settings)


def option_field(*described: str, default: Any = None, **settings: Any) -> Any:
    """Return an option as a dataclass field with a default; see ``option``."""
    return field(default=default, metadata={OPTION: option(*described, **settings)})


def argument(text: str, metavar: str, *, default: Any = ..., **settings: Any) -> Any:
    """Return an argument with its help text and metavar; see ``option``."""
    return typer.Argument(default, help=text, metavar=metavar, **settings)


def expand_fields(kind: Any, defaults: Mapping[str, Any]) -> Expansion:
    """Return the fields of a dataclass, made by ``option_field`` or annotated, as parameters of a command."""
    hints = get_type_hints(kind, include_extras=True)
    parameters = []
    for dataclass_field in fields(kind):
        default = inspect.Parameter.empty if dataclass_field.default is MISSING else dataclass_field.default
        if dataclass_field.default_factory is not MISSING:
            default = dataclass_field.default_factory()
        hint = (
            Annotated[hints[dataclass_field.name], dataclass_field.metadata[OPTION]]
            if OPTION in dataclass_field.metadata
            else hints[dataclass_field.name]
        )
        parameters.append(make_parameter(dataclass_field.name, defaults.get(dataclass_field.name, default), hint))
    return parameters, lambda given: kind(
        **{parameter.name: given[parameter.name] for parameter in parameters if parameter.name in given}
    )


def make_parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """Return a parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_fields(
    *, expand: Callable[[Any, Mapping[str, Any]], Expansion] = expand_fields, omit: Sequence[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator: a command gets one option per field in place of each parameter that is a dataclass.

    ``expand`` returns the parameters in place of a dataclass, and a function from their values to it. The fields in
    ``omit`` get no options; ``defaults`` replace those of the fields.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        listed: list[inspect.Parameter] = []
        builders: dict[str, Callable[[dict[str, Any]], Any]] = {}
        for parameter in inspect.signature(command).parameters.values():
            if is_dataclass(parameter.annotation):
                replaced, builders[parameter.name] = expand(parameter.annotation, defaults)
                listed += [replacement for replacement in replaced if replacement.name not in omit]
            else:
                listed.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        names = inspect.signature(command).parameters.keys()

        def run(**given: Any) -> None:
            built = {name: build(given) for name, build in builders.items()}
            command(**{name: value for name, value in given.items() if name in names}, **built)

        typed: Any = functools.wraps(command)(run)  # typer reads the annotations and the signature
        typed.__signature__ = inspect.Signature(listed)
        typed.__annotations__ = {parameter.name: parameter.annotation for parameter in listed}
        return run

    return decorate


def index_option(panel: str | None = None, *, text: str = "Index folder.") -> Any:
    """Return the option ``--index`` for a panel of the help."""
    text = (
        f"{text.removesuffix('.')}; default: vidret-index in the current folder if it exists, else your own, whose "
        "path is printed."
    )
    return option(text, panel, "DIR", flag="--index", envvar="VIDRET_INDEX", show_default=False)


IndexOption = Annotated[Path, index_option(SCOPE)]
OnlyIndexOption = Annotated[Path, index_option()]  # of a command without options on where to search
IndexesOption = Annotated[
    list[Path], index_option(SCOPE, text="Index folder. Repeatable: several are searched as if they were merged.")
]
IndexedVideoArgument = Annotated[str, argument("One indexed video, by its path or a unique ending of it.", "VIDEO")]
ModelOption = Annotated[
    str | None,
    option(
        "Encoder of a new index: starter (the default), a recommended one (small, good, best, video, multilingual), an "
        "open_clip name such as ViT-B-32/laion2b_s34b_b79k, hf-hub:ORG/NAME, a model of transformers (hf:ORG/NAME or "
        "hf:FOLDER), package.module:Class, endpoint:URL?model=NAME (an embeddings endpoint), a .safetensors or .pt "
        'file, or two of them as "A + B". The index remembers it. VIDRET_MODEL sets another default.',
        MODEL,
        "NAME|FILE",
    ),
]
TrustedModelOption = Annotated[
    str | None,
    option(
        "Encoder of the index. Must be named once for an index from elsewhere whose encoder runs code, is downloaded "
        "or is an endpoint.",
        MODEL,
        "NAME",
    ),
]
ProbedModelOption = Annotated[str | None, option("Encoder, as for vidret index.", MODEL, "NAME|FILE")]
MergeOption = Annotated[
    str | None,
    option(
        "Merge tokens within each frame of a CLIP ViT until 75 % (gentle) or 50 % (half) of the multiply-adds are "
        "left: faster, with less precise vectors. Default: what the model's name says, otherwise off.",
        MODEL,
        "off|gentle|half",
    ),
]
DeviceOption = Annotated[
    str,
    option(
        "auto (the accelerator, if there is one), cpu, cuda, cuda:N, xpu, xpu:N or mps. Indexing also takes several, "
        "separated by commas, such as cuda:0,cuda:1.",
        MODEL,
        "DEVICE",
    ),
]
PrecisionOption = Annotated[
    str,
    option(
        "Numerical precision; auto is bf16 for CLIP on hardware that supports it, else fp16 on Apple's chips and "
        "int8 on CPUs with int8 instructions. The starter is fp32 or bf16.",
        MODEL,
        "auto|fp32|bf16|fp16|int8",
    ),
]
HeadOption = Annotated[
    str,
    option(
        "Grounding head: the file of a trained head (see vidret convert), none, or auto (the one that the index "
        "was prepared for, or in the model file). Without a head, moments come from the similarity curve.",
        MODEL,
        "FILE",
    ),
]
JsonOption = Annotated[bool, option("Print JSON.", OUTPUT, flag="--json")]
SheetOption = Annotated[Path | None, option("Write a contact sheet of the results (.jpg or .png).", OUTPUT, "FILE")]
ServerOption = Annotated[
    str | None,
    option("Ask a running vidret serve, such as http://127.0.0.1:8000, instead of opening an index.", SCOPE, "URL"),
]
TokenOption = Annotated[str | None, option("Access token of the server.", SCOPE, "TOKEN", envvar="VIDRET_TOKEN")]
WorkersOption = Annotated[int | None, option("Files decoded at once; default: one per core.", ADVANCED, "N", min=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The options for the place to search: an index on this machine, or a server."""

    context: typer.Context
    index: IndexOption = DEFAULT_INDEX
    server: ServerOption = None
    token: TokenOption = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Places(Place):
    """The options for the place to search: one or several indexes on this machine, or a server."""

    index: IndexesOption = field(default_factory=lambda: [DEFAULT_INDEX])  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """The options for loading an encoder."""

    device: DeviceOption = "auto"
    precision: PrecisionOption = "auto"
