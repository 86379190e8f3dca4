"""vidret eval on a custom folder, and its errors for invalid names and paths."""

import json
from pathlib import Path

import pytest

from tests.evaluate.world import Answer, read, run
from vidret.data.records import Split
from vidret.errors import VidretError
from vidret.evaluate.report import Gallery, Report, read_report


def test_custom_folder_is_evaluated_with_one_command(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    searched: tuple[Path, Answer],
    located: tuple[Path, Answer],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDRET_DATA", str(tmp_path / "elsewhere"))
    answer = run("eval", "folder", world, "--no-html")
    assert answer.code == 0, answer.err
    out = tmp_path / "eval" / f"{world.name}-starter"
    assert sorted(path.name for path in out.iterdir()) == ["captions", "moments"]
    assert sorted(path.name for path in (out / "moments").iterdir()) == ["index", "predictions.jsonl", "report.json"]
    assert answer.out.startswith("search: 8 captions, 5 videos\n")
    assert "\n\nmoments, each in its own video\n" in answer.out
    retrieval, moments = (read(out / name / "report.json") for name in ("captions", "moments"))
    assert retrieval["per_query"] == read(searched[0] / "report.json")["per_query"]
    # Which pictures go on from one another depends on what unrelated queries score in the index.
    own, among = (report["results"]["moments"]["full"] for report in (moments, read(located[0] / "report.json")))
    assert own["num_queries"] == among["num_queries"]
    assert own["R1"]["0.5"] == among["R1"]["0.5"]
    assert moments["model"]["num_segments"] < retrieval["model"]["num_segments"], "its own videos only"


def test_environment_variable_locates_benchmarks(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: tuple[Path, Answer]
) -> None:
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\nret0,msr0,red,red\n")
    monkeypatch.setenv("VIDRET_DATA", str(tmp_path))
    index = ("--index", searched[0] / "index", "--out", tmp_path / "out")
    answer = run("eval", "retrieval", "--data", "msrvtt-1k-a", "--videos", world, *index)
    assert answer.code == 0, answer.err
    assert read(tmp_path / "out" / "report.json")["data"]["files"] == [str(tmp_path / "MSRVTT_JSFUSION_test.csv")]
    assert run("eval", "retrieval", "--videos", world, *index).code == 0, (
        "custom annotations are in the folder of the videos"
    )
    assert read(tmp_path / "out" / "report.json")["data"]["files"] == [str(world / "captions.jsonl")]


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ("retrieval --videos nowhere", 1, "captions needs captions.jsonl or captions.csv: not found in nowhere"),
        ("retrieval --videos VIDEOS --annotations WORLD", 1, "VIDEOS: no such folder of videos"),
        ("retrieval --videos WORLD --data msrvt", 2, "must be one of msrvtt-1k-a, "),
        ("retrieval --videos WORLD --data moments", 1, "moments: must have captions of its videos, got none"),
        ("moments --videos WORLD --data captions", 1, "captions: must have queries into its videos, got captions only"),
        ("highlights --videos WORLD --data captions", 1, "captions: must have queries into its videos, got captions"),
        ("retrieval --videos WORLD --data didemo", 1, "didemo-test needs test_data.json and test_list.txt"),
        ("retrieval --videos WORLD --segments whale", 2, "must be one of auto, whole, cut, got whale"),
        ("retrieval --videos WORLD --calibrate none.txt", 2, "a file of queries or a split, got none.txt"),
        ("retrieval --videos WORLD --rerank colbert", 2, "ucofia, glscl or the file of an aligner, got colbert"),
        ("retrieval", 2, "Missing option"),
        ("moments --videos WORLD --data tacos", 1, "tacos-test needs test.json or tacos_test_release.jsonl"),
        ("moments --videos WORLD --head none.safetensors", 2, "none.safetensors"),
        ("highlights --videos WORLD", 1, "qvhighlights-val needs highlight_val_release.jsonl"),
        ("folder nowhere", 1, "nowhere: must contain captions.jsonl, moments.jsonl or queries.jsonl, got none of them"),
        ("score --pred none.jsonl --truth WORLD", 1, "none.jsonl: cannot be read"),
        ("score --pred none.jsonl --truth nowhere", 1, "moments needs moments.jsonl: not found in nowhere"),
        ("compare none.json none.json", 1, "none.json: cannot be read"),
    ],
)
def test_invalid_arguments_exit_with_an_error(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDRET_DATA", raising=False)
    answer = run("eval", *(world if argument == "WORLD" else argument for argument in arguments.split()))
    assert (answer.code, answer.out) == (code, "")
    assert reason in answer.err
    assert "Traceback" not in answer.err
    assert list(tmp_path.iterdir()) == []


def test_report_round_trip(searched: tuple[Path, Answer], tmp_path: Path) -> None:
    facts = read_report(searched[0] / "report.json")
    assert facts == read(searched[0] / "report.json")
    report = Report(
        "moments",
        Split("moments", ("moments.jsonl",), ("a",)),
        Gallery({}, ["a"], {}),
        {},
        {},
        {},
        [],
        {"scoring": 1.23456},
    )
    report.save(tmp_path / "new" / "report.json")
    assert read_report(tmp_path / "new" / "report.json") == json.loads(json.dumps(report.to_dict()))
    assert report.to_dict()["seconds"] == {"scoring": 1.235}
    with pytest.raises(VidretError, match=r"report\.json/x: cannot be written"):
        report.save(tmp_path / "new" / "report.json" / "x")
