"""Moving an index to another encoder: what stays, what readers see, kills at every step."""

import asyncio
import json
import shutil
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

import vidret.reindex
from tests.cli.runner import Runner
from tests.fake_faces import ColouredFaces, write_people
from tests.fakes import ColourEncoder, unit, write_film
from tests.forking import run_code
from vidret.channels.texts.options import WordsOptions
from vidret.engine import Engine
from vidret.errors import EncoderError, StoreError, VidretError
from vidret.reindex import FOLDER, reindex
from vidret.search.collections import add_watch
from vidret.search.probability import UNFITTED, ProbabilityModel, load_probabilities, save_probabilities
from vidret.serve.mcp.arguments import Budget
from vidret.serve.mcp.tools import ToolBox, open_frames
from vidret.serve.worker import Worker
from vidret.store.identities.tracks import MODEL_SETTINGS
from vidret.store.records import CALIBRATION, MOMENTS, UNCALIBRATED
from vidret.store.rows_file import WATCHES
from vidret.store.store import Store
from vidret.store.texts.upkeep import find_lost_texts
from vidret.types import SOURCES, Frames, Moment, Sampling, SearchOptions, SegmentEmbedding, TextEmbedding

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "blue", "green")


class WideEncoder(ColourEncoder):
    """Another encoder of colours, whose vectors have another dimension."""

    name = f"{__name__}:WideEncoder"
    dim = 6

    def __init__(self) -> None:
        super().__init__("wide-1")

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        return [
            SegmentEmbedding(widen(segment.video), widen(segment.frames), segment.times)
            for segment in super().encode_frames(batch)
        ]

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return [
            TextEmbedding(text.text, widen(text.sentence), widen(text.words)) for text in super().encode_text(texts)
        ]


def widen(vectors: np.ndarray) -> np.ndarray:
    """Return vectors with their values twice, of unit length again."""
    return unit(np.concatenate([vectors, vectors], axis=-1))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Make an index of three films, with a concept and a watch."""
    for colour in COLOURS:
        write_film(tmp_path / f"films/{colour}.mp4", (colour, 2))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], workers=1, memory=10**9)
        engine.teach("bright", [tmp_path / "films/red.mp4"])
        add_watch(engine._index.store, "alarm", "red")
    return tmp_path / "index"


def find_best(engine: Engine) -> list[str]:
    return [Path(engine.search(colour, 1)[0].path).stem for colour in COLOURS]


def test_an_index_moves_and_keeps_what_does_not_depend_on_the_encoder(index: Path) -> None:
    with Engine(index, ColourEncoder()) as old:
        assert find_best(old) == list(COLOURS)
        old_ids = {video.id for video in old.videos()}
        report = reindex(index, WideEncoder(), workers=1)
        assert (report.switched, report.videos, report.lost, report.to_teach) == (True, 3, (), ())
        assert report.concepts == ("bright",)
        with pytest.raises(StoreError, match=r"has moved to the encoder tests.test_reindex:WideEncoder; open it again"):
            old.search("red", 1)
    with Engine(index, WideEncoder()) as engine:
        assert find_best(engine) == list(COLOURS)
        assert Path(engine.search("@bright", 1)[0].path).stem == "red"
        videos = engine.videos()
        assert not old_ids & {video.id for video in videos}, "ids only grow"
        info = engine.info()
        assert (info.dim, info.memory, info.segments) == (6, 10**9, 3)
    (watch,) = WATCHES.read(index)
    assert not any(watch.is_new(video.id) for video in videos)
    with Store.open(index) as store:
        assert (store.upkeep.verify(), store.upkeep.verify_vectors()) == ([], [])
    names = sorted(path.name for path in (index / "features").iterdir())
    assert names == ["frames.1.f16", "tokens.1.bin", "video.1.f16"]
    assert not (index / FOLDER).exists()
    assert reindex(index, WideEncoder()).switched, "which changes nothing"
    with pytest.raises(StoreError, match="encoder must be"):
        Engine(index, ColourEncoder())
    assert reindex(index, ColourEncoder(), workers=1).videos == 3, "and back"


def test_faces_are_read_after_a_move_as_before(index: Path, tmp_path: Path) -> None:
    model = f"{ColouredFaces.__module__}:{ColouredFaces.__name__}"
    with Engine(index, ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=WordsOptions(sources=("subtitles",)), people=model)
    assert reindex(index, WideEncoder(), workers=1).switched
    write_people(tmp_path / "films/ann.mp4", (200, {"ann": 5}, 3))
    with Engine(index, WideEncoder()) as engine:
        assert engine.index([tmp_path / "films"], words=False).tracks == {"face": 1}
    shutil.rmtree(index / "words")
    with Store.open(index) as store:
        assert "is missing" in find_lost_texts(store, repair=False)


def test_faces_that_were_forgotten_are_forgotten_after_a_move(index: Path) -> None:
    with Store.open(index, write=True) as store:
        store.metadata.set(MODEL_SETTINGS["face"], "")
    assert reindex(index, WideEncoder(), workers=1).switched
    with Store.open(index) as store:
        assert store.metadata.get(MODEL_SETTINGS["face"]) == ""


def test_classes_are_told_apart_after_a_move_as_by_the_new_encoder(index: Path, tmp_path: Path) -> None:
    classes = {"Warm": [tmp_path / "films/red.mp4"], "rather cold": [tmp_path / "films/blue.mp4"]}
    with Engine(index, ColourEncoder()) as engine:
        engine.classify(classes, save="kind")
    report = reindex(index, WideEncoder(), workers=1)
    assert (report.concepts, report.to_teach) == (("bright", "kind-rather-cold", "kind-warm"), ())
    with Engine(index, WideEncoder()) as engine:
        moved = [(hit.path, hit.score) for hit in engine.search("@kind-warm")]
        engine.classify(classes, save="kind")  # in place of those
        assert moved == [(hit.path, hit.score) for hit in engine.search("@kind-warm")]


@pytest.mark.parametrize("is_forgotten", [False, True])
def test_classes_stay_if_another_one_cannot_be_taught_again(index: Path, tmp_path: Path, is_forgotten: bool) -> None:
    image = tmp_path / "green.png"
    Image.new("RGB", (64, 48), "green").save(image)
    classes = {"warm": [tmp_path / "films/red.mp4"], "cold": [tmp_path / "films/blue.mp4"], "wet": [image]}
    with Engine(index, ColourEncoder()) as engine:
        engine.classify(classes, save="kind")
        if is_forgotten:
            engine.forget("kind-cold")
    image.unlink()
    report = reindex(index, WideEncoder(), workers=1)
    kept = ("bright", "kind-warm") if is_forgotten else ("bright", "kind-cold", "kind-warm")
    assert (report.concepts, [name for name, _ in report.to_teach]) == (kept, ["kind-wet"])
    with Engine(index, WideEncoder()) as engine:
        assert tuple(concept.name for concept in engine.concepts()) == kept


def test_the_limit_of_memory_stays_with_an_encoder_of_whole_videos(index: Path) -> None:
    encoder = WideEncoder()
    encoder.sampling = Sampling(4, 1.0, whole=True)
    assert reindex(index, encoder, workers=1).switched
    with Store.open(index) as store:
        assert store.info().memory == 10**9


def test_probabilities_are_those_of_no_answers_after_a_move(index: Path) -> None:
    with Store.open(index, write=True) as store:
        save_probabilities(store, ProbabilityModel(index_weights=(0.1, 0.2, 0.3)))
    assert reindex(index, WideEncoder(), workers=1).to_redo == (
        f"its probabilities: vidret calibrate --answers FILE --index {index}",
    )
    with Store.open(index) as store:
        assert load_probabilities(store, SOURCES) == UNFITTED
    assert reindex(index, ColourEncoder(), workers=1).to_redo == ()


def test_an_index_that_must_not_calibrate_by_itself_must_not_after_a_move(index: Path) -> None:
    with Engine(index, ColourEncoder()) as engine:
        engine.forget_calibration()
    assert reindex(index, WideEncoder(), workers=1).switched
    with Store.open(index) as store:
        assert store.metadata.get(UNCALIBRATED) == "yes"


def test_a_move_that_goes_on_follows_a_calibration_made_meanwhile(index: Path) -> None:
    (index.parent / "films/red.mp4").unlink()
    for fact, allow_loss in (("yes", False), ("", True)):
        with Store.open(index, write=True) as store:
            store.metadata.set(UNCALIBRATED, fact)
        assert reindex(index, WideEncoder(), workers=1, allow_loss=allow_loss).switched == allow_loss
    with Store.open(index) as store:
        assert not store.metadata.get(UNCALIBRATED)


@pytest.mark.parametrize("is_automatic", [True, False])
def test_only_a_calibration_that_was_asked_for_is_to_be_made_again(index: Path, is_automatic: bool) -> None:
    with Store.open(index, write=True) as store:
        store.metadata.set(f"{CALIBRATION}.none", json.dumps({"is_automatic": is_automatic}))
        store.metadata.set(f"{CALIBRATION}.none.edition", "e")
    to_redo = () if is_automatic else (f"its calibration: vidret calibrate --bank FILE --index {index}",)
    assert reindex(index, WideEncoder(), workers=1).to_redo == to_redo


def find_unreported(index: Path) -> list[str]:
    """Return the names of the videos that the watch of an index has still to report."""
    (watch,) = WATCHES.read(index)
    with Store.open(index) as store:
        return sorted(Path(video.paths[0]).stem for video in store.videos.find() if watch.is_new(video.id))


def test_moments_stay_if_a_move_is_killed_after_they_were_moved(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = vidret.reindex._move_watches

    def move_and_ground(store: Store, index: Path, folder: Path) -> None:
        move(store, index, folder)
        (folder / MOMENTS).mkdir()
        (folder / MOMENTS / "a").touch()

    monkeypatch.setattr(vidret.reindex, "_move_watches", move_and_ground)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "videos", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reindex(index, WideEncoder(), workers=1)
    assert reindex(index, WideEncoder(), workers=1).switched
    assert (index / MOMENTS / "a").exists()


def test_a_watch_still_reports_after_the_move_what_it_had_not(index: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "films/rose.mp4", ("red", 2), salt=1)
    with Engine(index, ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], workers=1)
    write_film(tmp_path / "films/blue.mp4", ("blue", 2), salt=2)  # another content, which the move finds
    assert find_unreported(index) == ["rose"]
    assert reindex(index, WideEncoder(), workers=1).switched
    assert find_unreported(index) == ["blue", "rose"]


def test_a_server_goes_on_with_the_new_encoder(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(index, ColourEncoder()) as engine:
        worker = Worker(engine)
        worker.start()

        def locate(colour: str, engine: Engine) -> list[Moment]:
            return engine.locate(colour, 1)

        async def ask() -> tuple[list[str], list[str]]:
            hits = await asyncio.gather(*(worker.search(colour, SearchOptions(k=1)) for colour in COLOURS))
            moments = await asyncio.gather(*(worker.call(partial(locate, colour)) for colour in COLOURS))
            return [Path(found[0].path).stem for found in hits], [Path(found[0].path).stem for found in moments]

        before = asyncio.run(ask())
        assert before == (list(COLOURS), list(COLOURS))
        assert reindex(index, WideEncoder(), workers=1).switched
        assert asyncio.run(ask()) == before
        assert (engine.encoder.name, engine.info().dim) == (WideEncoder.name, 6)
        assert [Path(hit.path).stem for hit in engine.search("@bright", 1)] == ["red"]
        assert f"has moved to the encoder {WideEncoder.name}: loading it" in caplog.text
        worker.close()


def test_tools_of_a_language_model_go_on_with_the_new_encoder(index: Path) -> None:
    with Engine(index, ColourEncoder()) as engine, open_frames(engine) as draw:
        tools = ToolBox(engine, draw, Budget())
        before = {name: read_titles(tools, name) for name in ("search", "locate")}
        assert before["search"][0] == before["locate"][0] == "red"
        assert reindex(index, WideEncoder(), workers=1).switched
        assert {name: read_titles(tools, name) for name in before} == before
        assert engine.encoder.name == WideEncoder.name


def read_titles(tools: ToolBox, name: str) -> list[str]:
    """Return the titles of what a tool finds for red, best first."""
    (rows,) = [found for found in json.loads(tools.call(name, {"query": "red"}).text).values() if found]
    return [row["title"] for row in rows]


def test_a_reopened_engine_says_how_to_load_an_encoder_without_a_name(index: Path) -> None:
    encoder = WideEncoder()
    encoder.name = "mine"
    with Engine(index, ColourEncoder()) as engine:
        assert reindex(index, encoder, workers=1).switched
        with pytest.raises(EncoderError, match="was made with an encoder mine, which has no name to load it by"):
            engine.reopen()


def test_a_thread_that_asks_while_an_engine_reopens_gets_the_new_encoder(index: Path) -> None:
    class Interrupted(Engine):
        """An engine of which another thread asks as soon as nothing is open."""

        def __setattr__(self, name: str, value: object) -> None:
            is_asked = name == "_opened" and value is None and getattr(self, "_opened", None) is not None
            super().__setattr__(name, value)
            if is_asked and not self._is_closed:
                _ = self._index

    with Interrupted(index, ColourEncoder()) as engine:
        assert find_best(engine) == list(COLOURS)
        assert reindex(index, WideEncoder(), workers=1).switched
        engine.reopen()
        assert find_best(engine) == list(COLOURS)


def test_an_index_of_another_encoder_in_the_place_of_an_open_one_is_searched_with_that(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRET_ALLOW", WideEncoder.name)
    with Engine(index.parent / "other", WideEncoder()) as other:
        other.index([index.parent / "films/red.mp4"])
    with Engine(index, ColourEncoder()) as engine:
        assert find_best(engine) == list(COLOURS)
        index.rename(index.parent / "away")
        (index.parent / "other").rename(index)
        assert find_best(engine) == ["red"] * 3
        assert engine.encoder.name == WideEncoder.name


def test_a_video_is_not_lost_with_one_of_its_files(index: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(tmp_path / "films/red.mp4", tmp_path / "films/copy.mp4"))
    with Engine(index, ColourEncoder()) as engine:
        engine.index([tmp_path / "films"])
    copy.unlink()
    report = reindex(index, WideEncoder(), workers=1)
    assert (report.switched, report.lost) == (True, ())


def test_videos_that_would_be_lost_prevent_the_switch(index: Path) -> None:
    (index.parent / "films/blue.mp4").unlink()
    with Engine(index, ColourEncoder()) as engine:
        engine.index_frames("camera", np.full((4, 8, 8, 3), (255, 0, 0), np.uint8), np.arange(4.0))
    report = reindex(index, WideEncoder(), workers=1)
    assert (report.switched, [Path(path).name for path, _ in report.lost]) == (False, ["blue.mp4", "camera"])
    assert report.lost[1] == ("frames://camera", "it was indexed from memory, and has no file")
    with Engine(index, ColourEncoder()) as engine:
        assert (len(engine.videos()), find_best(engine)[2]) == (4, "green")
    report = reindex(index, WideEncoder(), workers=1, allow_loss=True)
    assert (report.switched, report.videos, len(report.lost)) == (True, 2, 2)


def test_a_full_disk_is_refused_and_an_unfinished_move_to_another_encoder_discarded(
    index: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        with pytest.raises(VidretError, match="free disk space must be about"):
            reindex(index, WideEncoder())
    assert not (index / FOLDER).exists(), "nothing is encoded"
    with Engine(index / FOLDER, ColourEncoder("other")) as engine:
        engine.index([index.parent / "films"], workers=1)
    assert reindex(index, WideEncoder(), workers=1).videos == 3
    assert "an unfinished move to colours is discarded" in caplog.text


def test_the_command_says_what_it_did(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Runner(monkeypatch, capsys)
    run.check_refusal(["reindex", "--index", index, "--model", "nope"], 2, "--model: must be starter, small, good")
    monkeypatch.setattr("vidret.reindex.load_encoder", lambda *_args, **_options: WideEncoder())
    run.check_refusal(["reindex", "--index", index], 2, "must be given, or VIDRET_MODEL, got neither")
    gone = index.parent / "films/red.mp4"
    gone.rename(index.parent / "red.mp4")
    code, _, err = run("reindex", "--index", index, "--model", "wide")
    assert (code, "1 of its videos cannot be encoded" in err, f"not encoded: {gone}: the file is gone" in err) == (
        1,
        True,
        True,
    )
    code, out, _ = run("reindex", "--index", index, "--model", "wide", "--allow-loss", "--json")
    report = json.loads(out)
    assert (code, report["videos"], [name for name, _ in report["to_teach"]]) == (0, 2, ["bright"])
    assert "has the vectors of" in run("reindex", "--index", index, "--model", "wide")[2]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_reindex import WideEncoder
from vidret import reindex as module
from vidret.store.catalog.database import Database
from vidret.store.writing import Writer
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def kill_at_second(method):
    calls = []
    def call(*arguments, **options):
        calls.append(1)
        return method(*arguments, **options) if len(calls) < 2 else kill()
    return call
match sys.argv[2]:
    case "segment": Writer.add_segments = kill_at_second(Writer.add_segments)
    case "link": os.link = kill
    case "replace": Database.replace = kill_at_second(Database.replace)
    case "finish": module._finish = kill
module.reindex(Path(sys.argv[1]), WideEncoder(), workers=1)
"""


@pytest.mark.parametrize(
    ("point", "is_switched"),
    [
        ("segment", False),
        pytest.param("link", False, marks=pytest.mark.slow),
        ("replace", False),
        pytest.param("finish", True, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_changes_no_answer_and_is_continued(index: Path, point: str, is_switched: bool) -> None:
    assert run_code(KILLED, index, point).returncode == -signal.SIGKILL
    with Engine(index, WideEncoder() if is_switched else ColourEncoder()) as engine:
        assert find_best(engine) == list(COLOURS)
    encoder = WideEncoder()
    assert reindex(index, encoder, workers=1).videos == 3
    if point != "segment":
        assert encoder.num_frames <= 4, "nothing is encoded again but the check of the encoder"
    with Engine(index, WideEncoder()) as engine:
        assert find_best(engine) == list(COLOURS)
        assert Path(engine.search("@bright", 1)[0].path).stem == "red"
    assert find_unreported(index) == []
    with Store.open(index) as store:
        assert store.upkeep.verify() == []
