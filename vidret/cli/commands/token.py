"""The commands ``vidret token ...``."""

import getpass
from pathlib import Path
from typing import Annotated

from vidret.cli.app import CommandApp, CommandGroup, app
from vidret.cli.inputs import parse_choice
from vidret.cli.options import DEFAULT_INDEX, IndexOption, JsonOption, argument, option
from vidret.errors import VidretError
from vidret.present.show import print_json, show_table
from vidret.present.terminal import print_message
from vidret.store.rows_file import COLLECTIONS, pick_collection
from vidret.store.tokens import RIGHTS, TOKENS, make_token, read_record, record_change, revoke_token

HELP = "Tokens with rights for vidret serve, and the record of what was changed with them."
group = CommandApp(cls=CommandGroup, help=HELP, no_args_is_help=True)
app.add_typer(group, name="token")

HolderArgument = Annotated[str, argument("Who has the token.", "NAME")]
RightOption = Annotated[
    str,
    option("read: search and watch; change: also index, name, teach and change collections.", metavar="|".join(RIGHTS)),
]
OnlyOption = Annotated[
    str | None, option("Only this collection, its frames and its clips; not the rest of the index.", metavar="NAME")
]


@group.command("add")
def add_token_command(
    name: HolderArgument,
    right: RightOption = "read",
    collection: OnlyOption = None,
    index: IndexOption = Path(DEFAULT_INDEX),
) -> None:
    """Make a token for an index, and print it, once: the index keeps only its hash. A running server knows it."""
    from vidret.store.store import Store

    chosen = parse_choice(right, RIGHTS, option="--right")
    if not Store.exists(index):
        raise VidretError(f"{index}: there is no index here")
    if collection is not None:
        pick_collection(COLLECTIONS.read(index), collection)
    token = make_token(index, name, chosen, collection=collection or "")
    _record(index, "token add", name=name, right=right, collection=collection or "")
    print(token)
    print_message(f"{name} opens the page with /?token=..., programs send it as Authorization: Bearer ...")


@group.command("list")
def list_tokens_command(index: IndexOption = Path(DEFAULT_INDEX), as_json: JsonOption = False) -> None:
    """List who has a token, and its rights."""
    kept = TOKENS.read(index)
    if as_json:
        names = ("name", "right", "collection", "made")
        print_json([{name: getattr(token, name) for name in names} for token in kept])
        return
    rows = [(each.name, each.right, each.collection or "all of the index", each.made) for each in kept]
    show_table(("what", "right", "collection", "made"), rows, "There are no tokens.")


@group.command("revoke")
def revoke_command(name: HolderArgument, index: IndexOption = Path(DEFAULT_INDEX)) -> None:
    """Revoke a token: servers refuse it from now on, also those that are running."""
    revoke_token(index, name)
    _record(index, "token revoke", name=name)
    if not TOKENS.read(index):
        print_message(f"No token is left. Servers still need one: delete {TOKENS.path(index)} to need none.")


@group.command("log")
def log_command(
    k: Annotated[int, option("Number of changes, the last ones.", metavar="N", flag="-k", min=1)] = 100,
    index: IndexOption = Path(DEFAULT_INDEX),
    as_json: JsonOption = False,
) -> None:
    """Show who changed what and when through a server, and who made and revoked tokens."""
    rows = read_record(index, k)
    if as_json:
        print_json(rows)
        return
    lines = [(row["when"], row["who"], f"{row['what']}  {describe_details(row)}".strip()) for row in rows]
    show_table(("", "what", ""), lines, "Nothing was changed.")


def describe_details(row: dict[str, object]) -> str:
    """Return the details of a change on one line."""
    given = row.get("with") or {name: value for name, value in row.items() if name not in ("when", "who", "what")}
    assert isinstance(given, dict)
    return ", ".join(f"{name}={value}" for name, value in given.items() if value not in ("", None))


def _record(index: Path, what: str, **details: str) -> None:
    record_change(index, f"{getpass.getuser()} on this machine", what, **details)
