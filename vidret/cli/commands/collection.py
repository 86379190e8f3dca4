"""The commands ``vidret collection ...`` and ``vidret cut``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from vidret.cli.app import CommandApp, CommandGroup, app
from vidret.cli.commands.locate import FormatOption, FpsOption, HandlesOption, check_export, print_moments
from vidret.cli.opening import open_engine_or_client, read_contents
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    IndexedVideoArgument,
    IndexOption,
    JsonOption,
    ServerOption,
    TokenOption,
    argument,
    option,
    with_fields,
)
from vidret.errors import VidretError
from vidret.present.progress import show_count
from vidret.present.show import show_hits, show_table
from vidret.present.terminal import print_message
from vidret.store.collections import pick_collection
from vidret.store.lookup import find_below
from vidret.text import display_path, format_time, show_path
from vidret.types import Filters, Hit, ListedMoment, Moment, SavedCollection, as_moments, to_row

if TYPE_CHECKING:
    from vidret.client import RemoteEngine
    from vidret.engine import Engine
    from vidret.store.records import StoredVideo
    from vidret.store.store import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Where:
    """The index whose collections a command is about: one of this machine, or that of a server."""

    index: IndexOption = Path(DEFAULT_INDEX)
    server: ServerOption = None
    token: TokenOption = None

    def read(
        self,
        context: typer.Context,
        read_store: "Callable[[Store], T]",
        ask_client: "Callable[[Engine | RemoteEngine], T]",
    ) -> T:
        """Return what an index holds, as ``read_contents`` does."""
        return read_contents(context, self.server, self.token, self.index, read_store, ask_client)

    def list_kept(self, context: typer.Context) -> list[SavedCollection]:
        """Return the collections."""
        from vidret.search.collections import list_collections

        return self.read(
            context, lambda store: list_collections(store, self.index), lambda engine: engine.collections()
        )

    def find_moment(self, context: typer.Context, name: str, number: int) -> tuple[SavedCollection, ListedMoment]:
        """Return a list and the moment at a place of it."""
        kept = pick_collection(self.list_kept(context), name)
        if number > len(kept.moments):
            raise VidretError(f"N must be a place in {name}, which has {len(kept.moments)} moments, got {number}")
        return kept, kept.moments[number - 1]

    def save(self, context: typer.Context, kept: SavedCollection, moments: Sequence[ListedMoment]) -> None:
        """Replace the moments of a list."""
        from vidret.search.collections import store_collection

        changed = replace(kept, moments=tuple(moments))
        self.read(
            context,
            lambda store: store_collection(store, self.index, changed),
            lambda engine: engine.save_collection(changed),
        )

    def collect(self, context: typer.Context, name: str) -> tuple[SavedCollection, Sequence[Hit | Moment]]:
        """Return a collection and what it holds now; say how many moments are missing."""
        kept = pick_collection(self.list_kept(context), name)
        if kept.finds:
            engine = open_engine_or_client(context, self.server, self.token, self.index, "auto", "auto")
            return kept, engine.collect(name)
        moments = kept.list_moments()
        if num_missing := len(kept.moments) - len(moments):
            print_message(f"{num_missing} moments of {name} are of videos that are not in the index, and left out")
        return kept, moments


group = CommandApp(cls=CommandGroup, help="Saved searches, and lists of moments with notes.", no_args_is_help=True)
app.add_typer(group, name="collection")

NameArgument = Annotated[str, argument("Name of the collection.", "NAME")]
PlaceArgument = Annotated[int, argument("Place of the moment in the list, from 1.", "N", min=1)]
StartOption = Annotated[float | None, option("Where the moment begins.", metavar="SECONDS", flag="--from", min=0)]
EndOption = Annotated[float | None, option("Where the moment ends.", metavar="SECONDS", flag="--to", min=0)]
NoteOption = Annotated[str | None, option("What to say about it.", metavar="TEXT")]
ToPlaceOption = Annotated[int | None, option("New place in the list.", metavar="N", flag="--place", min=1)]


@group.command("list")
@with_fields()
def list_kept_command(
    context: typer.Context,
    *,
    where: Where,
    as_json: JsonOption = False,
) -> None:
    """List the saved searches, which vidret search and vidret locate keep with --save, and the lists of moments."""
    kept = where.list_kept(context)
    if as_json:
        print(json.dumps([to_row(each, "json", show_path) for each in kept], indent=2))
        return
    rows = [(each.name, each.finds or f"{len(each.moments)} picked", each.query) for each in kept]
    show_table(("what", "found", ""), rows, "There are no collections.")


@group.command("show")
@with_fields()
def show_kept_command(
    context: typer.Context,
    name: NameArgument,
    *,
    where: Where,
    form: FormatOption = "table",
    fps: FpsOption = None,
    handles: HandlesOption = 0.0,
) -> None:
    """Show a collection, or write it for other programs: a saved search is run again."""
    check_export(form, fps, handles)
    kept, results = where.collect(context, name)
    if form != "table":
        print_moments(as_moments(results), name, form, fps, handles)
    elif not kept.finds:
        show_list(kept)
    elif kept.finds == "videos":
        show_hits([result for result in results if isinstance(result, Hit)])
    else:
        print_moments(as_moments(results), name, form, fps, handles)


@group.command("add")
@with_fields()
def add_moment_command(
    context: typer.Context,
    name: NameArgument,
    video: IndexedVideoArgument,
    start: StartOption = None,
    end: EndOption = None,
    note: NoteOption = None,
    *,
    where: Where,
) -> None:
    """Add a moment of a video, or all of it, to the end of a list, which is made if there is none."""
    from vidret.search.collections import extend_list

    def make_moment(list_videos: "Callable[[Filters], list[StoredVideo]]") -> list[Moment]:
        found = find_below(list_videos, video)
        if len(found) > 1:
            raise typer.BadParameter(f"must be one video, got {len(found)}", param_hint="VIDEO")
        stop = found[0].duration if end is None else end
        return [Moment(found[0].id, found[0].paths[0], start or 0.0, stop, 0.0, note=note or "")]

    where.read(
        context,
        lambda store: extend_list(store, where.index, name, make_moment(store.videos.find)),
        lambda engine: engine.add_to_list(name, make_moment(engine.videos)),
    )


@group.command("edit")
@with_fields()
def edit_moment_command(
    context: typer.Context,
    name: NameArgument,
    number: PlaceArgument,
    start: StartOption = None,
    end: EndOption = None,
    note: NoteOption = None,
    place: ToPlaceOption = None,
    *,
    where: Where,
) -> None:
    """Change a moment of a list: where it begins and ends, its note, its place."""
    kept, moment = where.find_moment(context, name, number)
    given = {"start": start, "end": end, "note": note}
    changed = replace(moment, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    others = [each for at, each in enumerate(kept.moments, start=1) if at != number]
    others.insert((place or number) - 1, changed)
    where.save(context, kept, others)


@group.command("remove")
@with_fields()
def remove_kept_command(
    context: typer.Context,
    name: NameArgument,
    number: Annotated[int | None, argument("Place of a moment to remove; default: all.", "N", min=1)] = None,
    *,
    where: Where,
) -> None:
    """Remove a moment of a list, or a whole collection; videos stay."""
    from vidret.search.collections import delete_collection

    if number is None:
        where.read(
            context,
            lambda _store: delete_collection(where.index, name),
            lambda engine: engine.remove_collection(name),
        )
        return
    kept, _ = where.find_moment(context, name, number)
    where.save(context, kept, [each for at, each in enumerate(kept.moments, start=1) if at != number])


@app.command("cut")
def cut_command(
    context: typer.Context,
    name: NameArgument,
    out: Annotated[Path, argument("Folder for a file per moment, or a film that ends in .mp4.", "DIR|FILE.mp4")],
    index: IndexOption = Path(DEFAULT_INDEX),
    encode: Annotated[
        bool, option("Encode all pictures again, also where they could be copied.", OUTPUT, flag="--encode")
    ] = False,
    overwrite: Annotated[bool, option("Replace existing files.", OUTPUT, flag="--overwrite")] = False,
) -> None:
    """Cut a collection into files or one film (needs ffmpeg)."""
    from vidret.present.cutting import cut_moments, find_copies
    from vidret.present.film import cut_film

    moments = as_moments(Where(index).collect(context, name)[1])
    copies = [None] * len(moments) if encode else find_copies(moments)
    with show_count("cutting", "moments") as on_count:
        if out.suffix.lower() == ".mp4":
            is_copied = cut_film(moments, out, copies=copies, overwrite=overwrite, on_progress=on_count)
            print_message(f"{out}: {'copied as it is' if is_copied else 'encoded again'}, {len(moments)} moments")
            return
        clips = cut_moments(moments, out, copies=copies, overwrite=overwrite, on_progress=on_count)
    for clip, frames in zip(clips, copies, strict=True):
        print_message(f"{clip.name}: {'encoded again' if frames is None else 'copied as it is'}")
    print_message(f"{len(clips)} clips in {out}")


def show_list(kept: SavedCollection) -> None:
    """Print the moments of a list with their notes, and say which videos the index does not have."""
    rows = []
    for number, moment in enumerate(kept.moments, start=1):
        path = display_path(moment.path) + ("" if moment.video is not None else "  (not in the index)")
        rows.append((str(number), format_time(moment.start), format_time(moment.end), path))
        rows += [("", "", "", f"  {moment.note}")] if moment.note else []
    show_table(("rank", "start", "end", "video"), rows, "The list is empty.")
