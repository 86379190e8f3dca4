"""Every script of examples/ runs, on one index of films of plain colours."""

import json
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import vidret.engine
from tests.fakes import ColourEncoder, write_film
from tests.index_server import serve_index
from vidret.engine import Engine

EXAMPLES = Path(__file__).parents[1] / "examples"
MODULES = {"colour_encoder"}  # that others import
LINES = {
    "index_and_search": ("FILMS", "NEW", "red"),
    "own_encoder": ("FILMS", "OWN", "red"),
    "combined_sources": ("INDEX", "red"),
    "evaluate_search": ("INDEX", "CAPTIONS"),
    "train_classifier": ("INDEX",),
    "few_shot": ("INDEX", "scarlet", "warm/red.mp4"),
    "http_client": ("URL", "red"),
    "alike_segments": ("INDEX",),
    "cutting_list": ("INDEX", "red", "OUT.edl"),
    "report": ("INDEX", "OUT.html", "red", "blue"),
}
PRINTED = {
    "index_and_search": "4 videos indexed, 0 failed\nvideo   FOLDER/films/warm/red.mp4  ",
    "own_encoder": "FOLDER/films/warm/red.mp4  ",
    "combined_sources": "by pictures alone: FOLDER/films/warm/red.mp4, ",
    "evaluate_search": "R@1: 50.0%\nR@5: 50.0%\nR@10: 50.0%\nnot found: green",
    "train_classifier": "2 classes, ",
    "few_shot": "@scarlet: weight of the examples ",
    "http_client": "4 videos\nFOLDER/films/warm/red.mp4",
    "alike_segments": "cosine ",
    "cutting_list": " moments in OUT.edl",
    "report": " moments in OUT.html",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    for kind, colours in (("warm", ("red", "black")), ("cold", ("blue", "green"))):
        for colour in colours:
            write_film(folder / "films" / kind / f"{colour}.mp4", (colour, 2))
    Engine(folder / "index", ColourEncoder()).index([folder / "films"])
    rows = [{"video": "red.mp4", "caption": "red"}, {"video": "gone.mp4", "caption": "green"}]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == MODULES | LINES.keys()
    assert LINES.keys() == PRINTED.keys()


@pytest.mark.parametrize("name", LINES)
def test_example_runs(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    places = {
        "FILMS": folder / "films",
        "INDEX": folder / "index",
        "CAPTIONS": folder / "captions.jsonl",
        "NEW": tmp_path / "new",
        "OWN": tmp_path / "own",
    }
    arguments = [str(places.get(each, each)) for each in LINES[name]]
    with serve_index(folder / "index") if "URL" in arguments else nullcontext("") as url:
        monkeypatch.setattr(sys, "argv", [name, *(url if argument == "URL" else argument for argument in arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out.replace(str(folder), "FOLDER")
    assert PRINTED[name] in printed, printed
