"""The commands ``vidret collection ...`` and ``vidret cut``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from vidret.cli.app import add_group, app
from vidret.cli.commands.locate import MomentFormat, print_moments, warn_of_changes
from vidret.cli.opening import check_index, open_engine
from vidret.cli.options import (
    DEFAULT_INDEX,
    OUTPUT,
    IndexedVideoArgument,
    IndexOption,
    JsonOption,
    argument,
    option,
    with_fields,
)
from vidret.cli.values import parse_clock
from vidret.errors import VidretError
from vidret.present.progress import show_count
from vidret.present.show import explain_nothing, print_json, show_hits, show_table
from vidret.present.terminal import print_message
from vidret.search.collections import extend_list, list_collections, store_collection
from vidret.store.lookup import look_up_video
from vidret.store.rows_file import COLLECTIONS, pick_collection
from vidret.store.store import Store
from vidret.text import display_path, format_count, format_time, show_path
from vidret.types import Hit, ListedMoment, LocateOptions, Moment, SavedCollection, as_moments, to_row

group = add_group("collection")

NameArgument = Annotated[str, argument("Name of the collection.", "NAME")]
StartOption = Annotated[float | None, option("Start of the moment.", metavar="TIME", flag="--from", parser=parse_clock)]
EndOption = Annotated[float | None, option("End of the moment.", metavar="TIME", flag="--to", parser=parse_clock)]
NoteOption = Annotated[str | None, option("Note on the moment.", metavar="TEXT")]


@group.command("list")
def list_kept_command(index: IndexOption = DEFAULT_INDEX, as_json: JsonOption = False) -> None:
    """List the saved searches (vidret search --save and vidret locate --save) and the lists of moments."""
    collections = _read_all(index)
    if as_json:
        print_json(collections)
        return
    rows = [
        (one.name, f"search for {one.finds}" if one.finds else format_count(len(one.moments), "moment"), one.query)
        for one in collections
    ]
    nothing = "There are no collections. To save a search: vidret search QUERY --save NAME"
    show_table(("name", "what", "query"), rows, nothing)


@group.command("show")
@with_fields()
def show_kept_command(*, name: NameArgument, index: IndexOption = DEFAULT_INDEX, shape: MomentFormat) -> None:
    """Show a collection, or write it for other programs. A saved search is run again."""
    shape.check()
    collection, results = _collect(index, name)
    options = collection.read_options() if collection.finds else LocateOptions()
    first_rank, nothing = options.offset + 1, explain_nothing(options)
    if shape.form == "table" and not collection.finds:
        show_list(collection)
    elif shape.form == "table" and collection.finds == "videos":
        show_hits([result for result in results if isinstance(result, Hit)], first_rank=first_rank, empty=nothing)
    else:
        if collection.finds and not results:
            print_message(nothing)
        title = collection.query if collection.finds and shape.form in ("csv", "json") else name
        moments = as_moments(results)
        if shape.form == "json":
            rows = [to_row(moment, "json", show_path) for moment in moments]
            print_json([{"rank": rank, "query": title, **row} for rank, row in enumerate(rows, start=first_rank)])
        else:
            print_moments(moments, title, shape, first_rank=first_rank)


@group.command("add")
def add_moment_command(
    name: NameArgument,
    video: IndexedVideoArgument,
    start: StartOption = None,
    end: EndOption = None,
    note: NoteOption = None,
    index: IndexOption = DEFAULT_INDEX,
) -> None:
    """Add a moment of a video, or the whole video, to the end of a list, which is created if needed."""
    with Store.open(index) as store:
        record = store.videos.get(look_up_video(store, video))
        stop = record.duration if end is None else end
        moment = Moment(record.id, video, start or 0.0, stop, 0.0, note=note or "")
        extend_list(store, index, name, [moment])
    print_message(f"added to {name}: {describe_place(moment)}")


@group.command("edit")
def edit_moment_command(
    name: NameArgument,
    number: int = argument("Position of the moment in the list, from 1.", "N", min=1),
    start: StartOption = None,
    end: EndOption = None,
    note: NoteOption = None,
    place: int | None = option("New position in the list, from 1.", default=None, metavar="N", min=1),
    index: IndexOption = DEFAULT_INDEX,
) -> None:
    """Change a moment of a list: its start, end, note or position."""
    changes = {"start": start, "end": end, "note": note}
    with _taking_out(index, name, number, place or number) as (moment, others):
        changed = replace(moment, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]
        others.insert((place or number) - 1, changed)
    print_message(f"changed in {name}: {describe_place(changed)}")


@group.command("remove")
def remove_kept_command(
    name: NameArgument,
    number: int | None = argument(
        "Position of the moment to remove; default: the whole collection.", "N", default=None, min=1
    ),
    index: IndexOption = DEFAULT_INDEX,
) -> None:
    """Remove a moment of a list, or a whole collection; videos stay."""
    if number is None:
        check_index(index)
        COLLECTIONS.remove(index, name, "a collection")
        print_message(f"{name} is removed; videos stay")
    else:
        with _taking_out(index, name, number) as (moment, _):
            pass  # not put back, so it is removed
        print_message(f"removed from {name}: {describe_place(moment)}")


@app.command("cut")
def cut_command(
    name: NameArgument,
    out: Path = argument(
        "Folder for one file per moment, or the name of one film, which ends in .mp4.", "DIR|FILE.mp4"
    ),
    index: IndexOption = DEFAULT_INDEX,
    encode: bool = option("Encode all frames again, even where they could be copied.", OUTPUT, default=False),
    overwrite: bool = option("Replace existing files.", OUTPUT, default=False),
) -> None:
    """Cut a collection into files or one film (needs ffmpeg)."""
    from vidret.present.cutting import cut_moments, find_copies
    from vidret.present.film import cut_film
    from vidret.video.scan import VIDEO_SUFFIXES

    moments = as_moments(_collect(index, name)[1])
    copies = [None] * len(moments) if encode else find_copies(moments)
    with show_count("cutting", "moments") as on_count:
        if out.suffix.lower() in VIDEO_SUFFIXES:
            is_copied = cut_film(moments, out, copies=copies, overwrite=overwrite, on_progress=on_count)
            how = "copied as it is" if is_copied else "encoded again"
            print_message(f"{out}: {how}, {format_count(len(moments), 'moment')}")
            return
        clips = cut_moments(moments, out, copies=copies, overwrite=overwrite, on_progress=on_count)
    for clip, frames in zip(clips, copies, strict=True):
        print_message(f"{clip.name}: {'encoded again' if frames is None else 'copied as it is'}")
    print_message(f"{format_count(len(clips), 'clip')} in {out}")


def describe_place(moment: Moment | ListedMoment) -> str:
    """Return the span of a moment as text."""
    return f"{display_path(moment.path)} {format_time(moment.start)} to {format_time(moment.end)}"


def show_list(kept: SavedCollection) -> None:
    """Print the moments of a list with their notes, and which videos the index does not have."""
    rows = []
    for rank, moment in enumerate(kept.moments, start=1):
        path = display_path(moment.path) + ("" if moment.video is not None else "  (not in the index)")
        rows.append((str(rank), format_time(moment.start), format_time(moment.end), path))
        rows += [("", "", "", f"  {moment.note}")] if moment.note else []
    show_table(("rank", "start", "end", "video"), rows, "The list is empty.")


def _read_all(index: Path) -> list[SavedCollection]:
    with Store.open(index) as store:
        return list_collections(store, index)


def _collect(index: Path, name: str) -> tuple[SavedCollection, Sequence[Hit | Moment]]:
    """Return a collection and its hits or moments now; print how many moments are missing."""
    collection = pick_collection(_read_all(index), name)
    if collection.finds:
        with open_engine(index) as engine:
            results = engine.collect(name)
            warn_of_changes(engine.file, as_moments(results))
            return collection, results
    moments = collection.list_moments()
    with Store.open(index) as store:
        warn_of_changes(store.files.get, moments)
    if num_missing := len(collection.moments) - len(moments):
        missing = format_count(num_missing, "moment")
        print_message(f"left out: {missing} of {name}, whose videos are not in the index")
    return collection, moments


@contextmanager
def _taking_out(index: Path, name: str, *places: int) -> Iterator[tuple[ListedMoment, list[ListedMoment]]]:
    """Yield a moment of a list, at the first of some places, and the list of the others; save the latter on exit."""
    with Store.open(index) as store:
        collection = pick_collection(list_collections(store, index), name)
        moments = list(collection.moments)
        if max(places) > len(moments):
            raise VidretError(
                f"N must be a position in {name}, which has {format_count(len(moments), 'moment')}, got {max(places)}"
            )
        yield moments.pop(places[0] - 1), moments
        store_collection(store, index, replace(collection, moments=tuple(moments)))
