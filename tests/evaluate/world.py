"""A benchmark of films of plain colours with a copy, an invalid and a missing file; and a way to run commands."""

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vidret.engine
from tests.fakes import ColourEncoder, write_film
from vidret import cli
from vidret.encode.encoder import Encoder
from vidret.encode.names import WHOLE, parse_model_name
from vidret.types import Sampling

SCENES: dict[str, tuple[tuple[str, float], ...]] = {
    "red": (("red", 3),),
    "blue": (("blue", 3),),
    "mixed": (("green", 5), ("red", 4), ("yellow", 7)),
    "white": (("white", 2),),
}
CAPTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("red.mp4", "real", ("red", "a red thing & <more>")),
    ("blue.mp4", "real", ("blue",)),
    ("mixed.mp4", "drawn", ("green", "red then yellow", "yellow before green")),
    ("white.mp4", "drawn", ("white",)),
    ("twin.mp4", "drawn", ("white again",)),
    ("bad.mp4", "real", ("black",)),
    ("gone.mp4", "real", ("purple",)),
)
MOMENTS: tuple[tuple[int, str, str, float, tuple[float, float], str], ...] = (
    (1, "green", "mixed", 16, (0, 5), "scenes"),
    (2, "red", "mixed", 16, (5, 9), "scenes"),
    (3, "yellow", "mixed", 16, (9, 16), "scenes"),
    (4, "red & <blue>", "red", 3, (0, 2), "single"),
    (5, "white", "white", 2, (0, 2), "single"),
    (6, "white again", "twin", 2, (0, 2), "single"),
    (7, "black", "bad", 4, (0, 2), "single"),
    (8, "purple", "gone", 4, (0, 2), "single"),
)
HERE = ("red.mp4", "blue.mp4", "mixed.mp4", "white.mp4", "twin.mp4")


class Answer(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


def write_world(folder: Path) -> Path:
    """Write films to videos/, and annotations of captions and moments; return the folder."""
    videos = folder / "videos"
    for name, scenes in SCENES.items():
        write_film(videos / f"{name}.mp4", *scenes)
    shutil.copy(videos / "white.mp4", videos / "twin.mp4")
    (videos / "bad.mp4").write_text("no video")
    write_rows(
        folder / "captions.jsonl",
        ({"video": video, "captions": list(texts), "kind": kind} for video, kind, texts in CAPTIONS),
    )
    write_rows(folder / "moments.jsonl", map(as_row, MOMENTS))
    return folder


def as_row(moment: tuple[int, str, str, float, tuple[float, float], str]) -> dict[str, Any]:
    qid, query, video, duration, window, kind = moment
    named = {"qid": qid, "query": query, "vid": video, "duration": duration, "kind": kind}
    return {**named, "relevant_windows": [list(window)]}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load_colours(name: str = "starter", **_: Any) -> Encoder:
    """Return the encoder of colours for any name, with the marks of the name."""
    parsed = replace(parse_model_name(name), base="colours")
    encoder = colour_encoder(whole=parsed.whole)
    encoder.sampling, encoder.name = parsed.sample(encoder.sampling), str(parsed)
    return encoder


def colour_encoder(*, whole: bool = False) -> ColourEncoder:
    encoder = ColourEncoder(f"colours-{'whole' if whole else 'cut'}")
    encoder.name = "colours" + (WHOLE if whole else "")
    encoder.sampling = Sampling(num_frames=4, fps=1.0, whole=whole)
    return encoder


def run(*arguments: object, load: Callable[..., Encoder] = load_colours) -> Answer:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(vidret.engine, "load_encoder", load)
        patch.setattr(sys, "argv", ["vidret", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return Answer(int(ended.value.code or 0), out.getvalue(), " ".join(err.getvalue().split()))


def read(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts
