"""The Typer application: its commands with their groups and order in the help, and the modules that define them.

The modules of a command are imported when it runs, so that the help and shell completion stay fast.
"""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from vidret.cli.options import choose_index, option
from vidret.cli.values import check_values, list_values
from vidret.errors import read_rule
from vidret.present.terminal import LEVELS, set_log_format

Function = TypeVar("Function", bound=Callable[..., Any])
USAGE_ERROR: Any = typer.BadParameter.__base__  # click's class, or the copy of it in newer versions of typer
SEARCH, LOOK, TEACH, KEEP = "Index and search", "Look into videos", "Teach and watch", "Keep and cut"
OFFER, MODELS, MANAGE = "Serve", "Models", "Manage indexes"
# Modules of ``vidret.cli`` and their commands, except the modules ``commands.NAME`` that define only the command NAME.
MODULES = {
    "commands.collection": ("collection", "cut"),
    "commands.exchange": ("export", "import", "merge", "reindex", "store"),
    "commands.look": ("transcript", "shots", "duplicates", "describe"),
    "commands.people": ("people", "speakers"),
    "commands.serve": ("serve", "mcp", "token"),
    "commands.teach": ("teach", "classify", "concepts", "forget"),
    "evaluate.benchmarks": ("eval",),
    "evaluate.corpus": ("eval",),
    "evaluate.rate": ("eval",),
}
# The commands in the order of the help, each with its group there and the first paragraph of its docstring.
COMMANDS = {
    "index": (SEARCH, "Index videos: encode what is new or changed. Safe to interrupt and run again."),
    "search": (SEARCH, "Find the videos that match a query."),
    "locate": (SEARCH, "Find the moments that match a query, with start and end."),
    "serve": (OFFER, "Serve an index over HTTP, with a page to search it in the browser."),
    "ask": (SEARCH, "Answer a question by a language model, which cites the moments that a search finds."),
    "token": (OFFER, "Manage access tokens for vidret serve, and show what was changed through servers."),
    "mcp": (OFFER, "Offer an index to language models as tools to search and read it (Model Context Protocol)."),
    "transcript": (LOOK, "Print the words of a video with their times: what is said and shown in it."),
    "shots": (LOOK, "Print the shots of a video, and how each begins; draw a storyboard of them."),
    "duplicates": (LOOK, "Find files that show the same footage, and the best file of each group; nothing is deleted."),
    "describe": (
        LOOK,
        "Describe the videos of a folder: what is in it, and what sets it apart from others, with example frames.",
    ),
    "people": (LOOK, "List and name the people who are seen in videos."),
    "speakers": (LOOK, "List and name the people who are heard in videos."),
    "teach": (TEACH, "Teach a concept by examples: @NAME then stands for it in queries. Works from one example."),
    "classify": (TEACH, "Tag all videos of an index with one of some classes, from a few examples of each."),
    "concepts": (TEACH, "List the taught concepts with their examples."),
    "forget": (TEACH, "Forget a taught concept."),
    "watch": (TEACH, "Manage watches: queries that vidret index runs on every new video."),
    "collection": (KEEP, "Manage collections: saved searches, and lists of moments with notes."),
    "cut": (KEEP, "Cut a collection into files or one film (needs ffmpeg)."),
    "info": (
        MANAGE,
        "Show what an index holds, check it for damage, or measure its diversity or the recall of its search.",
    ),
    "export": (MANAGE, "Write the contents of an index for other programs."),
    "import": (
        MANAGE,
        "Index videos with vectors that another program made: files of vidret export, folders of clip-retrieval.",
    ),
    "merge": (MANAGE, "Merge indexes that were built separately into one. Safe to interrupt and run again."),
    "reindex": (
        MANAGE,
        "Move an index to another encoder. Searches keep their old answers until all new vectors are there.",
    ),
    "store": (MANAGE, "Manage where an index keeps its vectors."),
    "models": (
        MODELS,
        "List the models that --model accepts: installed, cached or to download, with what is known about them.",
    ),
    "eval": (MODELS, "Evaluate models on benchmarks or on your own videos, and compare reports."),
    "calibrate": (
        MODELS,
        "Lower the scores of videos that match every query (SK-norm), or fit probabilities to known answers.",
    ),
    "convert": (MODELS, "Convert a published checkpoint to a model that vidret loads, or join models to one file."),
    "train": (
        MODELS,
        "Train a method from a YAML file, such as: vidret train fit --config configs/msrvtt_tempme_b32.yaml.",
    ),
    "demo": (SEARCH, "Index sample videos, search them and locate a moment."),
    "doctor": (
        MANAGE,
        "Check packages, models, devices, disk and permissions, and say what to install. Exits with 1 if one is "
        "broken.",
    ),
}


def tidy(params: list[Any]) -> list[Any]:
    """Show flags without a type (``--json``, not ``--json <bool>``), and ``--help`` below the last options.

    A flag that is off by default has no opposite (``--no-json``).
    """
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
            if param.default is False:
                param.secondary_opts = []
        elif values := list_values(param):
            # Typer accepts this only where each option is declared.
            param._custom_shell_complete = partial(_complete, values)
        param.process_value = partial(convert, param)
    *others, last = params
    if others and "--help" in last.opts:
        last.rich_help_panel = getattr(others[-1], "rich_help_panel", None)
    return params


def convert(param: Any, ctx: Any, value: Any) -> Any:
    """Return the value of a parameter, converted to its type.

    Newer versions of typer load pydantic for each conversion, which is slow; most values have their type already.
    """
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    kind: Any = next(iter(get_args(annotation)), annotation)
    is_list = get_origin(annotation) is list
    values = () if value is None else value if is_list else (value,)
    if kind is Path:  # any text is a path; no option of vidret lets typer check it
        values = [Path(part) if isinstance(part, str) else part for part in values]
    is_typed = isinstance(kind, type) and is_list == (param.multiple or param.nargs == -1)
    if not is_typed or (param.required and not value) or not all(isinstance(part, kind) for part in values):
        try:
            return type(param).process_value(param, ctx, value)
        except typer.BadParameter as error:
            rule = read_rule(error.message or "")
            if rule.startswith("must "):
                rule = f"{rule}, got {' '.join(map(str, values))}"
                raise typer.BadParameter(rule, ctx=ctx, param=param) from error
            raise
    result = list(values) if is_list else next(iter(values), None)
    return param.callback(ctx, param, result) if param.callback else result


def _complete(values: list[str], _ctx: Any, _param: Any, incomplete: str) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


class _Checked:
    """The base of commands and command groups: a tidy help, and options that are checked before the command runs."""

    params: list[Any]

    def get_params(self, ctx: Any) -> list[Any]:
        return tidy(super().get_params(ctx))  # type: ignore[misc]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except USAGE_ERROR as error:
            error.ctx = error.ctx or ctx  # click leaves it out if an option has no value or too many
            raise
        check_values(ctx, self.params)
        return rest


class CommandGroup(_Checked, TyperGroup):
    """A group of commands."""


class Command(_Checked, TyperCommand):
    """A command. ``choose_index`` chooses its index while the arguments are parsed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse and check the arguments, and choose the index."""
        num_indexes = sum(text.partition("=")[0] == "--index" for text in args)
        rest = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            choose_index(ctx, num_indexes)
        return rest


class CommandApp(typer.Typer):
    """A Typer application whose commands have tidy help."""

    def command(
        self, name: str | None = None, *, cls: Any = Command, **settings: Any
    ) -> Callable[[Function], Function]:
        """Return a decorator that registers a function as a command, as ``typer.Typer.command`` does."""
        return super().command(name, cls=cls, **settings)


class UnloadedCommand(Command):
    """A command with only its line in the help, which imports its modules when it runs."""

    def __init__(self, name: str) -> None:
        panel, text = COMMANDS[name]
        super().__init__(name, help=text, rich_help_panel=panel)

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """Load the real command, which runs in place of this one, and return its context."""
        return load_command(str(self.name)).make_context(*arguments, **settings)


class ProgramGroup(CommandGroup):
    """The commands of ``vidret``, unloaded."""

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        super().__init__(commands={name: UnloadedCommand(name) for name in COMMANDS}, **settings)


app = CommandApp()  # imported commands register here
program = CommandApp(
    cls=ProgramGroup,
    help="Search videos by text: index a folder, find videos, locate moments.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@cache
def load_command(name: str) -> Any:
    """Import the modules of a command, and return it. Other commands of these modules are not built."""
    modules = [module for module, names in MODULES.items() if name in names]
    for module in modules or [f"commands.{name}"]:
        import_module(f"vidret.cli.{module}")
    command_app = CommandApp(add_completion=False)
    command_app.registered_commands = [info for info in app.registered_commands if info.name == name]
    command_app.registered_groups = [info for info in app.registered_groups if info.name == name]
    built: Any = typer.main.get_command(command_app)
    return built.commands[name] if command_app.registered_groups else built


def add_group(name: str, *, no_args_is_help: bool = True, **settings: Any) -> CommandApp:
    """Return a command that has subcommands, with its help."""
    group = CommandApp(cls=CommandGroup, help=COMMANDS[name][1], no_args_is_help=no_args_is_help, **settings)
    app.add_typer(group, name=name)
    return group


def print_version(asked: bool) -> None:
    """Print the version and exit, if ``asked`` is set."""
    if asked:
        from importlib import metadata

        print(f"vidret {metadata.version('vidret')}")
        raise typer.Exit


@program.callback()
def set_options(
    _version: bool = option(
        "Print the version.", default=False, flag="--version", is_eager=True, callback=print_version
    ),
    log_level: str = option(
        "Least important messages to print; info and debug also explain decisions.",
        metavar="|".join(LEVELS),
        default="warning",
        envvar="VIDRET_LOG_LEVEL",
    ),
    log_json: bool = option(
        "Print messages as lines of JSON, for log collectors.", default=False, envvar="VIDRET_LOG_JSON"
    ),
) -> None:
    """Search videos by text: index a folder, find videos, locate moments."""
    set_log_format(log_level, as_json=log_json)
