"""The commands ``vidret people ...`` and ``vidret speakers ...``: the persons who are seen and heard in an index."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidret.cli.app import add_group
from vidret.cli.opening import refuse_options
from vidret.cli.options import DEFAULT_INDEX, JsonOption, OnlyIndexOption, argument, choose_index, option
from vidret.present.show import print_json, show_table
from vidret.present.terminal import print_message
from vidret.store.identities.persons import MIN_TRACKS, Persons
from vidret.store.identities.upkeep import count_identities
from vidret.store.lookup import look_up_video
from vidret.store.store import Store
from vidret.text import display_path, file_name, format_count, format_time, make_handle
from vidret.types import Person, PersonTrack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vidret.store.identities.tracks import IdentityKind

PersonArgument = Annotated[str, argument("Number or name of a person.", "PERSON")]
KINDS: "Mapping[str, IdentityKind]" = {"people": "face", "speakers": "voice"}  # of tracks, by the group of commands
TracksArgument = Annotated[list[int], argument("Numbers of tracks, as vidret people show prints them.", "TRACK")]
SheetOption = Annotated[Path | None, option("Also write a contact sheet.", metavar="FILE")]


def list_persons(
    context: typer.Context,
    index: OnlyIndexOption = DEFAULT_INDEX,
    hidden: bool = option("Also list those that were hidden.", default=False),
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the people who are seen or heard, and offer to join those who may be one."""
    group = str(context.info_name)
    if context.invoked_subcommand is not None:
        refuse_options(context, ("index", "hidden", "sheet", "as_json"), f"must follow {context.invoked_subcommand}")
        return
    choose_index(context)
    persons = open_persons(context.params["index"])
    listed = persons.list_persons(KINDS[group], hidden=hidden)
    if as_json:
        print_json(listed)
    else:
        empty = "" if listed else explain_nobody(context.params["index"], persons, group)
        show_table(("number", "name", "tracks", "videos", "time"), list(map(describe_person, listed)), empty)
        for offer in persons.offer_pairs():
            both, seen = f"{offer.face} {offer.voice}", f"{offer.num_seen} of {offer.num_turns}"
            why = f"{offer.face} is seen while {offer.voice} speaks, {seen} times, by chance {offer.expected:.1f}"
            print_message(f"One person? {why}: vidret people merge {both}")
    if sheet is not None and listed:
        titles = {person.best_tracks[0]: f"{person.id}. {person.name}" for person in listed}
        draw_tracks(persons, titles, group, sheet)


def explain_nobody(index: Path, persons: Persons, group: str) -> str:
    """Return why no persons are listed."""
    if persons.list_persons(KINDS[group], hidden=True):
        return f"All {group} are hidden. To list them: vidret {group} --hidden"
    counts = next((counts for counts in count_identities(index) if counts.kind == KINDS[group]), None)
    if counts is None:
        return f"This index was not read for {group}. To look for them: vidret index PATH --{group} on"
    videos = format_count(counts.videos, "video")
    if not counts.tracks:
        return f"No {group} were found in {videos}."
    found = f"{format_count(counts.tracks, 'track')} {'was' if counts.tracks == 1 else 'were'} found in {videos}"
    return f"{found}; a person without a name is listed from {MIN_TRACKS} tracks on."


def show_person(
    context: typer.Context,
    person: PersonArgument,
    index: OnlyIndexOption = DEFAULT_INDEX,
    sheet: SheetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the tracks of a person: where they are seen or heard, the least certain first."""
    group = read_group(context)
    persons = open_persons(index)
    tracks = persons.list_tracks(person, KINDS[group])
    if as_json:
        print_json(tracks)
    else:
        lines = [(str(track.id), display_path(track.path), *describe_span(track)) for track in tracks]
        show_table(("track", "file", "start", "end", "decided by"), lines)
    if sheet is not None:
        draw_tracks(persons, {track.id: str(track.id) for track in tracks}, f"{group}: {person}", sheet)


def forget_person(
    context: typer.Context,
    person: str | None = argument("Number or name of a person.", "PERSON", default=None),
    index: OnlyIndexOption = DEFAULT_INDEX,
    video: str | None = option("Forget everybody in this video instead.", default=None, metavar="VIDEO"),
    everybody: bool = option(
        "Forget everybody in the index instead; later runs look for nobody unless asked.", default=False, flag="--all"
    ),
) -> None:
    """Delete every vector, image and name of a person, of a video or of everybody, so that no byte is left."""
    if (person is not None) + (video is not None) + everybody != 1:
        raise typer.BadParameter("must be one of PERSON, --video and --all", param_hint="PERSON")
    persons, kind = open_persons(index), KINDS[read_group(context)]
    if person is not None:
        num_tracks = persons.forget(person)
    elif video is not None:
        with Store.open(index) as store:
            content = store.videos.get(look_up_video(store, video)).fingerprint
        num_tracks = persons.forget_video(content, kind)
    else:
        num_tracks = persons.forget_all(kind)
    print_message(f"{format_count(num_tracks, 'track')} deleted")


def read_group(context: typer.Context) -> str:
    """Return the group of a command, ``people`` or ``speakers``."""
    assert context.parent is not None
    return str(context.parent.info_name)


def name_person(
    person: PersonArgument,
    new_name: str = argument("New name; '' removes the name.", "NAME"),
    index: OnlyIndexOption = DEFAULT_INDEX,
) -> None:
    """Name a person: @NAME then stands for it in queries."""
    persons = open_persons(index)
    persons.rename(person, new_name)
    handle = make_handle(new_name)
    print_message(f"@{handle} stands for {new_name} in queries" if handle else f"{person} has no name")


def merge_persons(
    person: PersonArgument,
    others: list[str] = argument("Persons to merge into the first one.", "PERSON"),
    index: OnlyIndexOption = DEFAULT_INDEX,
) -> None:
    """Merge several persons into one."""
    open_persons(index).merge(person, others)
    print_message(f"{', '.join([person, *others])} are one person; to take it back: vidret people undo")


def split_person(person: PersonArgument, tracks: TracksArgument, index: OnlyIndexOption = DEFAULT_INDEX) -> None:
    """Move some tracks of a person to a new person."""
    print(open_persons(index).split(person, tracks))


def reject_tracks(person: PersonArgument, tracks: TracksArgument, index: OnlyIndexOption = DEFAULT_INDEX) -> None:
    """Remove tracks from a person that are somebody else's, for good."""
    open_persons(index).reject(person, tracks)


def hide_person(
    person: PersonArgument,
    index: OnlyIndexOption = DEFAULT_INDEX,
    show: bool = option("List the person again.", default=False),
) -> None:
    """Leave a person out of lists."""
    open_persons(index).hide(person, hidden=not show)


def undo_change(index: OnlyIndexOption = DEFAULT_INDEX) -> None:
    """Undo the last name, merge, split, not or hide."""
    undone = open_persons(index).undo()
    print_message(f"undone: {undone}" if undone else "there is nothing to undo")


def export_person(person: PersonArgument, index: OnlyIndexOption = DEFAULT_INDEX) -> None:
    """Print all that is stored of a person, as JSON."""
    print_json(open_persons(index).export(person))


def open_persons(index: Path) -> "Persons":
    """Return the persons of an index, which must exist."""
    Store.open(index).close()
    return Persons(index)


def describe_person(person: Person) -> tuple[str, ...]:
    """Return the row of a person in the table."""
    name = f"{person.name} (hidden)".strip() if person.hidden else person.name
    return str(person.id), name, str(person.tracks), str(person.videos), format_time(person.seconds)


def describe_span(track: PersonTrack) -> tuple[str, str, str]:
    """Return the start and end of a track, and whether the user assigned its person."""
    return format_time(track.start), format_time(track.end), "you" if track.by_user else ""


def draw_tracks(persons: "Persons", titles: "Mapping[int, str]", heading: str, out: Path) -> None:
    """Write a contact sheet of tracks with their titles, by id: the crop of a face, the frame at a voice."""
    from vidret.present.sheet import Tile, write_sheet

    tiles = [
        Tile(
            track.path,
            track.start,
            titles[track.id],
            " to ".join(describe_span(track)[:2]),
            file_name(track.path),
            jpeg=persons.thumbnail(track.id),
        )
        for track in persons.read_tracks(list(titles))
    ]
    write_sheet(tiles, heading, out)


COMMANDS: "Mapping[str, Callable[..., None]]" = {
    "show": show_person,
    "name": name_person,
    "merge": merge_persons,
    "split": split_person,
    "not": reject_tracks,
    "hide": hide_person,
    "undo": undo_change,
    "forget": forget_person,
    "export": export_person,
}
for name in KINDS:
    group = add_group(name, no_args_is_help=False, invoke_without_command=True)
    group.callback()(list_persons)
    for command, function in COMMANDS.items():
        group.command(command)(function)
