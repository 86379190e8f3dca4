"""Opening an index, or a client of a server, for a command."""

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import typer

from vidret.cli.options import Loading, Place, Places
from vidret.errors import DeviceError, MissingExtraError, MissingIndexError, UnknownEncoderError, VidretError
from vidret.present.terminal import show_status
from vidret.search.query.grammar import Interpretation, interpret
from vidret.types import Searchable, Source
from vidret.types import Sequence as EventSequence

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.store.store import Store

T = TypeVar("T")
AUTO = Loading()
MODEL_VARIABLE = "VIDRET_MODEL"
FIRST_START = (
    "Still loading. The first start after an installation compiles Python's packages and reads models from the disk, "
    "which may take a minute; later ones take seconds."
)
# Options that need the index or the videos on this machine.
LOCAL_ONLY = ("index", "model", "device", "precision", "head", "sheet", "export")


def open_engine(
    index: Path | Sequence[Path],
    loading: Loading = AUTO,
    *,
    model: str | None = None,
    rerank: str = "auto",
    tokens: str = "int8",
    head: str = "auto",
    store: str | None = None,
    may_be_new: bool = False,
) -> "Engine":
    """Open an index, or several as one, with a status line while the encoder loads."""
    from vidret.store.store import Store

    indexes = [index] if isinstance(index, Path) else index
    model = choose_model(model, indexes[0])
    if may_be_new and model is not None and Store.exists(indexes[0]):
        refuse_other_model(indexes[0], model)
    for path in () if may_be_new else indexes:
        check_index(path)
    with show_status("loading the encoder", slow=FIRST_START):
        with pause_collection():
            from vidret.engine import Engine

        try:
            return Engine.open(
                indexes,
                encoder=model,
                rerank=rerank,
                tokens=tokens,
                head=head,
                device=loading.device,
                precision=loading.precision,
                store=store,
            )
        except DeviceError as error:
            raise typer.BadParameter(str(error), param_hint="--device") from error
        except UnknownEncoderError as error:
            if model is None:  # the index names it
                raise
            raise typer.BadParameter(str(error).removeprefix("model "), param_hint="--model") from error


def check_index(index: Path) -> None:
    """Check that there is an index, for commands that use one of its files without opening it."""
    from vidret.store.store import Store

    if not Store.exists(index):
        raise MissingIndexError(index)


def choose_model(model: str | None, index: Path | None = None) -> str | None:
    """Return the given model, else that of the environment for a new index, else None."""
    from vidret.store.store import Store

    if model is not None or (index is not None and Store.exists(index)):
        return model
    return os.environ.get(MODEL_VARIABLE) or None


def refuse_other_model(index: Path, model: str) -> None:
    """Refuse another model for an index of the starter before it is downloaded. Other indexes compare fingerprints."""
    from vidret.encode.names import STARTER, parse_model_name
    from vidret.store.store import Store

    with Store.open(index) as store:
        is_starter = store.encoder_name == STARTER
    if is_starter and ":" not in model and parse_model_name(model).base != STARTER:
        remedy = f"name another --index, or move it: vidret reindex --model {model}"
        raise typer.BadParameter(f"{index} was made with {STARTER}, got {model}; {remedy}", param_hint="--model")


def choose_merge(merge: str | None, model: str | None, index: Path) -> str | None:
    """Return the model of an index, new or not, with the merging of ``--merge`` in its name."""
    if merge is None:
        return model
    from vidret.encode.names import STARTER, MergeLevel, parse_model_name, resolve_name, set_merge
    from vidret.search.models import read_encoder_name
    from vidret.store.store import Store

    level = cast(MergeLevel, merge)
    name = choose_model(model, index)
    if name is not None or not Store.exists(index):
        full = resolve_name(parse_model_name(name or STARTER))  # a short name may imply merging
        return set_merge(str(full), level)
    recorded = read_encoder_name(index)
    if level != (index_merge := parse_model_name(recorded).merge):
        change = f"vidret reindex --index {index} --merge {level}"
        raise VidretError(
            f"{index}: merge must be {index_merge}, which the index was built with, got {level}; change it: {change}"
        )
    return None  # the index names it


@contextmanager
def pause_collection() -> Iterator[None]:
    """Disable garbage collection during imports, and exclude the imported objects from it afterwards.

    PyTorch creates hundreds of thousands of objects, nearly all of them permanent. Walking them takes 0.2 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def open_engine_or_client(
    place: Place | Places, loading: Loading = AUTO, *, head: str = "auto", model: str | None = None
) -> "Engine | RemoteEngine":
    """Open an index, or a client if a server is given; it closes when the command ends. A client loads no model."""
    context = place.context
    if place.server is None:
        refuse_options(context, ("token",), "needs --server URL, got none")
        return context.with_resource(open_engine(place.index, loading, model=model, head=head))
    refuse_options(context, LOCAL_ONLY, "needs a local index, got --server URL")
    from vidret.client import RemoteEngine

    return context.with_resource(RemoteEngine(place.server, place.token))


def ask_store_or_client(
    place: Place,
    ask_store: "Callable[[Store], T]",
    ask_client: "Callable[[Engine | RemoteEngine], T]",
    *,
    write: bool = False,
) -> T:
    """Return the answer of an index, or of a server if one is given. Neither loads a model."""
    if place.server is None and not is_on_command_line(place.context, "token"):
        from vidret.store.store import Store

        with Store.open(place.index, write=write) as store:
            return ask_store(store)
    return ask_client(open_engine_or_client(place))


def interpret_query(engine: Searchable, query: str | EventSequence, sources: Sequence[Source] | None) -> Interpretation:
    """Return the interpretation of a query by an index; a client has none, and interprets by the grammar only."""
    engine_interpret: Callable[..., Interpretation] | None = getattr(engine, "interpret", None)
    return interpret(query) if engine_interpret is None else engine_interpret(query, sources=sources)


@contextmanager
def needing(extra: str, feature: str) -> Iterator[None]:
    """Raise ``MissingExtraError`` with the extra of a feature if an import in the block misses a package."""
    try:
        yield
    except ImportError as error:
        if error.name and error.name.split(".")[0] != "vidret":
            raise MissingExtraError(feature, extra) from None
        raise


def is_on_command_line(context: typer.Context, name: str) -> bool:
    """Return whether an option was given on the command line, rather than by the environment or by default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_options(context: typer.Context, names: Iterable[str], rule: str) -> None:
    """Refuse options that were given on the command line."""
    for name in names:
        if is_on_command_line(context, name):
            raise typer.BadParameter(rule, param_hint=f"--{name}")
