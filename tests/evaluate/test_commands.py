"""vidret eval on a custom folder, its curves and rates, and its errors for invalid names and paths."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.world import Answer, read, run
from tests.fakes import ColourEncoder
from vidret.data.records import Split
from vidret.encode.encoder import REPEATS, measure_speed
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
    out = tmp_path / "eval" / f"folder-{world.name}-starter"
    assert sorted(path.name for path in out.iterdir()) == ["captions", "moments"]
    assert sorted(path.name for path in (out / "moments").iterdir()) == ["index", "predictions.jsonl", "report.json"]
    assert answer.out.startswith("search: 8 captions, 5 videos\n")
    assert "\n\nmoments, each in its own video\n" in answer.out
    retrieval, moments = (read(out / name / "report.json") for name in ("captions", "moments"))
    assert retrieval["per_query"] == read(searched[0] / "report.json")["per_query"]
    # Which pictures go on from one another depends on what unrelated queries score in the index.
    alone, among = (report["results"]["moments"]["full"] for report in (moments, read(located[0] / "report.json")))
    assert alone["num_queries"] == among["num_queries"]
    assert alone["R1"]["0.5"] == among["R1"]["0.5"]
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
        ("retrieval --videos nowhere", 1, "got nowhere (captions needs captions.jsonl or captions.csv)"),
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
        ("score --pred none.jsonl --truth nowhere", 1, "got nowhere (moments needs moments.jsonl)"),
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


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("moments", {"qid": 7, "query": "-dog", "vid": "red.mp4", "duration": 9, "relevant_windows": [[0, 3]]}),
        ("queries", {"qid": 7, "query": "-dog", "kind": "absent", "file": None}),
    ],
)
def test_queries_that_cannot_be_asked_are_refused_before_anything_is_indexed(
    tmp_path: Path, name: str, row: dict[str, object]
) -> None:
    (tmp_path / "captions.jsonl").write_text('{"video": "red.mp4", "caption": "red"}\n')
    (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    answer = run("eval", "folder", tmp_path, "--out", tmp_path / "out")
    assert (answer.code, answer.out) == (1, "")
    assert "query 7: query must contain a positive word, got '-dog'" in answer.err


def test_report_round_trip(searched: tuple[Path, Answer], tmp_path: Path) -> None:
    assert read_report(searched[0] / "report.json") == read(searched[0] / "report.json")
    split = Split("moments", ("moments.jsonl",), ("a",))
    report = Report("moments", split, Gallery({}, ["a"], {}), {}, {}, {}, [], {"scoring": 1.23456})
    report.save(tmp_path / "new" / "report.json")
    assert read_report(tmp_path / "new" / "report.json") == json.loads(json.dumps(report.to_dict()))
    assert report.to_dict()["seconds"] == {"scoring": 1.235}
    with pytest.raises(VidretError, match=r"report\.json/x: cannot be written"):
        report.save(tmp_path / "new" / "report.json" / "x")


def test_models_are_rated_side_by_side(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run("eval", "rate", "starter", "good", "starter", "--data", world, "--out", "out", "--workers", 1)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split()[:3] == ["model", "frames", "side"]
    assert len(lines) == 4, "two models and one comparison: a repeated name counts once"
    assert "may be chance" in lines[3], "both names are the same encoder here"
    assert "Of ties, the mean rank counts" in answer.err
    rating = read(tmp_path / "out/rating.json")
    single = read(tmp_path / "out/model-good/report.json")
    first, second = rating["models"]
    assert first["results"] == second["results"]
    assert first["results"]["t2v"]["R@1"] == single["results"]["rows"][0]["R@1"]
    assert first["results"]["t2v"]["num_queries"] == 8
    assert rating["comparisons"][0]["difference"] == 0
    assert (
        json.loads(run("eval", "rate", "starter", "--data", world, "--out", "out", "--json").out)["comparisons"] == []
    )


def test_a_benchmark_needs_its_videos() -> None:
    answer = run("eval", "rate", "starter", "--data", "msrvtt-1k-a")
    assert (answer.code, "must be given for a benchmark, got none" in answer.err) == (2, True)


def test_speed_is_the_best_of_the_runs_and_size_follows_from_the_vectors() -> None:
    encoder, asked = ColourEncoder(), list[str]()
    encode_text = encoder.encode_text
    encoder.encode_text = lambda texts: asked.extend(texts) or encode_text(texts)  # type: ignore[method-assign,func-returns-value]
    speed = measure_speed(encoder)
    assert encoder.num_frames == (1 + REPEATS) * 4, "one run to warm up"
    assert len(set(asked)) == 1 + REPEATS, "an encoder may remember its last texts, as the starter does"
    assert min(speed.frame_ms, speed.query_ms) > 0
    np.testing.assert_allclose(speed.mb_per_hour, (3600 + 900) * 3 * 2 / 1e6)  # a vector a frame and one a segment


def test_recall_by_size_in_text_and_json(world: Path, searched: tuple[Path, Answer]) -> None:
    common = ("eval", "curves", "--videos", world, "--index", searched[0] / "index", "--draws", 50)
    answer = run(*common)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[0].split()[0] == "videos"
    found = json.loads(run(*common, "--size", 2, "--size", 5, "--json").out)
    assert [(row["size"], row["k"]) for row in found] == [(size, k) for size in (2, 5) for k in (1, 5, 10)]
    full = {row["k"]: row for row in found if row["size"] == 5}
    assert full[1]["low"] == full[1]["high"] == full[1]["mean"]
    assert full[1]["mean"] <= found[0]["mean"] + 1e-9
    report = json.loads((searched[0] / "report.json").read_text())
    assert full[1]["mean"] == report["results"]["rows"][0]["R@1"]
    refused = run(*common, "--size", 9)
    assert (refused.code, refused.out) == (1, "")
    assert "sizes must be between 2 and the 5 videos, got 9" in " ".join(refused.err.split())
