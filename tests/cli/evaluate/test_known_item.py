"""The command vidret eval known-item."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vidret.engine
from tests.cli.runner import Runner
from tests.evaluate.world import read, write_rows
from tests.fakes import ColourEncoder, PatchEncoder, write_film
from vidret.cli.evaluate.steps import EvalRun
from vidret.errors import VidretError


def test_the_command_searches_captions_and_moments(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = {"colours": ColourEncoder, "patches": PatchEncoder}
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda name, **_: encoders[name]())
    for colour in ("red", "green", "blue"):
        write_film(tmp_path / f"{colour}.mp4", (colour, 3), ("black", 3))
    captions: list[dict[str, Any]] = [
        {"video": f"{colour}.mp4", "captions": [colour]} for colour in ("red", "green", "blue")
    ]
    write_rows(tmp_path / "captions.jsonl", captions)
    queries = [{"query": "green", "kind": "picture", "file": "green.mp4", "relevant_windows": [[0, 3]]}]
    (tmp_path / "notes").mkdir()
    for folder in (tmp_path, tmp_path / "notes"):
        write_rows(folder / "queries.jsonl", queries)
    models = ("--model", "colours", "--user-model", "patches")
    for data, notes in (("captions", None), ("queries", None), ("queries", tmp_path / "notes")):
        out = tmp_path / "out" / f"{data}-{notes is None}"
        annotations = ("--annotations", notes) if notes else ()
        if notes:
            (tmp_path / "queries.jsonl").unlink()
        given = ("--videos", tmp_path, "--data", data, *annotations)
        code, printed, err = run("eval", "known-item", *given, "--out", out, *models)
        assert code == 0, err
        assert printed.startswith("known items by the rank that the text leaves, each in 3 videos\n")
        assert read(out / "report.json")["results"]["known_items"][0]["num_tasks"] == (3 if data == "captions" else 1)


def test_each_folder_has_a_report_and_an_index_of_its_own(tmp_path: Path) -> None:
    for data in ("captions", "moments", "queries"):
        first, second = (EvalRun(videos=tmp_path / name, data=data).target for name in ("first", "second"))
        assert first != second
    run = EvalRun(videos=tmp_path / "first", data="msrvtt-1k-a", model="colours")
    assert run.target == Path("eval/msrvtt-1k-a-colours")
    models = (
        "ViT-B-32-quickgelu/openai",
        "ViT-B-16-quickgelu/openai",
        "runs/1/clip.safetensors",
        "runs/2/clip.safetensors",
        f"{'runs/' * 60}clip.safetensors",
    )
    targets = [replace(run, model=model).target.name for model in models]
    assert targets[0] == "msrvtt-1k-a-ViT-B-32-quickgelu-openai"
    assert len(set(targets)) == 5
    assert all(len(name) < 255 for name in targets), "which no file system has"


def test_its_report_does_not_take_the_place_of_another(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = {"colours": ColourEncoder, "patches": PatchEncoder}
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda name, **_: encoders[name]())
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "red.mp4", ("red", 3))
    write_rows(tmp_path / "captions.jsonl", [{"video": "red.mp4", "captions": ["red"]}])
    for task in ("retrieval", "known-item"):
        models = ("--model", "colours", *(("--user-model", "patches") if task == "known-item" else ()))
        code, _, err = run("eval", task, "--videos", tmp_path, "--data", "captions", *models)
        assert code == 0, err
    folder = f"{tmp_path.name}-captions-colours".replace("_", "-")
    assert sorted(path.parent.name for path in (tmp_path / "eval").glob("*/report.json")) == sorted(
        [f"retrieval-{folder}", f"known-item-{folder}"]
    )


def test_commands_on_the_same_data_have_folders_of_their_own(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Path, Path]] = []

    def refuse(evaluation: EvalRun, *_: object, **__: object) -> None:
        opened.append((evaluation.target, evaluation.index or evaluation.target / "index"))
        raise VidretError("not indexed")

    monkeypatch.setattr(EvalRun, "open_index", refuse)
    (tmp_path / "videos").mkdir()
    write_rows(tmp_path / "captions.jsonl", [{"video": "red.mp4", "captions": ["red"]}])
    row = {"qid": 1, "query": "red", "vid": "red", "duration": 3, "relevant_windows": [[0, 3]]}
    write_rows(tmp_path / "moments.jsonl", [row])
    commands = {
        "captions": ("retrieval", "msrvtt", "composed", "known-item"),
        "moments": ("moments", "highlights", "rated"),
    }
    for data, names in commands.items():
        for name in names:
            assert run("eval", name, "--videos", tmp_path, "--data", data, "--model", "starter")[0] == 1
    targets, indexes = zip(*opened, strict=True)
    assert len(set(targets)) == sum(map(len, commands.values()))
    assert indexes[-3] == indexes[-2], "moments and highlights index alike"
    opened.clear()
    run("eval", "highlights", "--videos", tmp_path, "--data", "moments", "--out", tmp_path / "out")
    assert opened == [(tmp_path / "out", tmp_path / "out/index")]
