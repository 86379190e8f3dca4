"""Every script of examples/ runs, on one index of films of plain colours."""

import json
import runpy
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import vidret.engine
from tests.fakes import ColourEncoder, write_film
from tests.index_server import serve_index
from vidret.channels.people.reading import load_face_model
from vidret.engine import Engine
from vidret.errors import VidretError

EXAMPLES = Path(__file__).parents[1] / "examples"
MODULES = {"colour_encoder", "opencv_faces"}  # that others import, or --face-model names
SCRIPTS = {  # with the arguments of each, and something that it prints
    "index_and_search": ("FILMS NEW red", "4 videos indexed, 0 failed\nvideo   FOLDER/films/warm/red.mp4  "),
    "own_encoder": ("FILMS OWN red", "FOLDER/films/warm/red.mp4  "),
    "combined_sources": ("INDEX red", "by pictures alone: FOLDER/films/warm/red.mp4, "),
    "evaluate_search": ("INDEX CAPTIONS", "R@1: 50.0%\nR@5: 50.0%\nR@10: 50.0%\nnot found: green"),
    "train_classifier": ("INDEX", "2 classes, "),
    "few_shot": ("INDEX scarlet warm/red.mp4", "@scarlet: weight of the examples "),
    "http_client": ("URL red", "4 videos\nFOLDER/films/warm/red.mp4"),
    "alike_segments": ("INDEX", "cosine "),
    "cutting_list": ("INDEX red OUT.edl", " moments in OUT.edl"),
    "report": ("INDEX OUT.html red blue", " moments in OUT.html"),
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
    assert {path.stem for path in EXAMPLES.glob("*.py")} == MODULES | SCRIPTS.keys()


@pytest.mark.parametrize("name", SCRIPTS)
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
    line, expected = SCRIPTS[name]
    arguments = [str(places.get(word, word)) for word in line.split()]
    with serve_index(folder / "index") if "URL" in arguments else nullcontext("") as url:
        monkeypatch.setattr(sys, "argv", [name, *(url if argument == "URL" else argument for argument in arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out.replace(str(folder), "FOLDER")
    assert expected in printed, printed


class StubNet:
    """YuNet and SFace as OpenCV offers them: a face in BGR of one colour, which is its vector."""

    def __init__(self, *_: object, **__: object) -> None:
        self._size = (0, 0)

    create = classmethod(lambda cls, *arguments, **options: cls(*arguments, **options))

    def setInputSize(self, size: tuple[int, int]) -> None:  # noqa: N802  its name in OpenCV
        self._size = size

    def detect(self, image: np.ndarray) -> tuple[int, np.ndarray | None]:
        assert self._size == image.shape[1::-1]
        points = [12, 14, 28, 14, 20, 20, 14, 30, 26, 30]
        small = [60, 10, 8, 8, *points, 0.95]
        return 1, np.array([[10, 5, 20, 30, *points, 0.9], small], np.float32) if image.any() else None

    def feature(self, chip: np.ndarray) -> np.ndarray:
        mean: np.ndarray = chip.mean(axis=(0, 1), keepdims=True)[0].astype(np.float32)
        return mean


def test_faces_of_opencv_are_those_of_a_face_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delenv("YUNET", raising=False)
    with pytest.raises(VidretError, match="YUNET and SFACE must name files"):
        load_face_model("opencv_faces:OpenCVFaces")
    for name in ("YUNET", "SFACE"):
        (tmp_path / name).write_bytes(name.encode())
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(cv2, "FaceDetectorYN", StubNet)
    monkeypatch.setattr(cv2, "FaceRecognizerSF", StubNet)
    model = load_face_model("opencv_faces:OpenCVFaces")
    (face,) = model.find(np.full((60, 80, 3), 9, np.uint8), min_size=20)
    assert (face.box, face.points[:2].tolist()) == ((10, 5, 30, 35), [[12, 14], [28, 14]])
    assert face.score == pytest.approx(0.98)
    assert model.find(np.zeros((60, 80, 3), np.uint8), min_size=20) == []
    chips = np.full((2, 112, 112, 3), (1, 2, 3), np.uint8)
    assert model.describe(chips).tolist() == [[3, 2, 1]] * 2, "the order of OpenCV is BGR"
