"""Tests of vidret index."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.runner import Runner
from tests.fake_faces import write_people
from tests.fakes import ColourEncoder, PatchEncoder, write_film
from tests.grounded import write_head
from vidret.cli.values import parse_memory


def test_summary_goes_to_stderr_and_lists_failures(run: Runner, films: Path, tmp_path: Path) -> None:
    code, out, err = run("index", films, "--index", tmp_path / "index")
    assert (code, out) == (0, "")
    assert "2 encoded" in err
    assert "1 failed" in err
    assert "bad.mp4" in err
    assert run("index", films, "--index", tmp_path / "index", "--fail-on-error")[0] == 1


def test_the_pipeline_is_one_line(run: Runner, films: Path, tmp_path: Path) -> None:
    """A correction by another bank, or none, is what the index has, not what a new one would get."""
    index = tmp_path / "index"
    line = "Pipeline: colours; merging off; rerank none; hubness correction {}; head none"
    assert line.format("none") in run("index", films, "--index", index)[2]
    (tmp_path / "bank.txt").write_text("\n".join(f"query {number}" for number in range(12)))
    assert run("calibrate", "--index", index, "--bank", tmp_path / "bank.txt")[0] == 0
    assert line.format("by 12 queries (bank.txt)") in run("index", films, "--index", index)[2]
    assert run("calibrate", "--index", index, "--bank", "none")[0] == 0
    assert line.format("none") in run("index", films, "--index", index)[2]


def test_a_run_that_can_use_no_file_fails(run: Runner, films: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    code, _, err = run("index", tmp_path / "notes.txt", "--index", tmp_path / "index")
    assert (code, "notes.txt: is not a video" in err, "real time" in err) == (1, True, False)
    assert run("index", films, "--index", tmp_path / "index")[0] == 0
    assert run("index", films, "--index", tmp_path / "index")[0] == 0, "the other files are there already"
    assert run("index", tmp_path / "notes.txt", "--index", tmp_path / "index")[0] == 1


def test_moved_and_missing_files_are_named(run: Runner, films: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    run("index", films, "--index", index)
    (films / "red.mp4").rename(films / "new.mp4")
    (films / "blue.mp4").unlink()
    _, _, err = run("index", films, "--index", index)
    assert "1 moved or copied, 0 unchanged, 1 missing" in err
    assert f"moved: {films / 'red.mp4'}: now {films / 'new.mp4'}" in err
    assert f"missing: {films / 'blue.mp4'}: not at any other path" in err


def test_what_is_left_out_is_told(run: Runner, films: Path, tmp_path: Path) -> None:
    for folder in ("@eaDir", "proxies"):
        shutil.copytree(films, tmp_path / "drive" / folder)
    command = ("index", tmp_path / "drive", films, "--index", tmp_path / "index", "--exclude", "prox*")
    code, _, err = run(*command)
    assert code == 0
    assert " 0 moved or copied" in err
    assert f"left out: {tmp_path / 'drive' / '@eaDir'}: thumbnails, deleted files or the like." in err
    assert json.loads(run(*command, "--json")[1])["junk"] == [str(tmp_path / "drive" / "@eaDir")]


def test_files_that_are_not_pruned_are_listed(run: Runner, films: Path, tmp_path: Path) -> None:
    drive, index = tmp_path / "drive", tmp_path / "index"
    for name in ("c", "d"):
        write_film(drive / f"{name}.mp4", ("green", 1), salt=ord(name))
    assert run("index", films, drive, "--index", index)[0] == 0
    drive.rename(tmp_path / "away")
    code, _, err = run("index", films, "--index", index, "--prune")
    assert code == 0
    assert "pruned 0 files" in err
    assert f"not pruned: {drive / 'c.mp4'} and 1 more: missing, but not from a folder of this run" in err
    assert json.loads(run("index", films, "--index", index, "--prune", "--json")[1])["unpruned"] == [
        str(drive / "c.mp4"),
        str(drive / "d.mp4"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runner", "spark"], "must be one of local, ray, got spark"),
        (["--address", "auto"], "needs --runner ray, got --runner local"),
        (["--num-gpus-per-worker", "1"], "needs --runner ray, got --runner local"),
    ],
)
def test_ray_options_need_the_ray_runner(
    options: list[str], message: str, run: Runner, films: Path, tmp_path: Path
) -> None:
    code, _, err = run("index", films, "--index", tmp_path / "index", *options)
    assert code == 2
    assert message in err.replace("│ ", "")
    assert not (tmp_path / "index").exists()


def test_missing_ray_names_the_extra(run: Runner, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("vidret.index.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    run.check_refusal(
        ("index", films, "--index", tmp_path / "index", "--runner", "ray"),
        1,
        'indexing on Ray needs the extra "ray": pip install "vidret[ray]"',
    )


def test_report_in_json(run: Runner, films: Path, tmp_path: Path) -> None:
    _, out, _ = run("index", films, "--index", tmp_path / "index", "--json")
    report = json.loads(out)
    assert report["encoded"] == 2
    assert [Path(path).name for path, _ in report["failed"]] == ["bad.mp4"]


def test_memory_limit_is_stored(run: Runner, films: Path, index: Path) -> None:
    assert run("index", films, "--index", index, "--memory", "1.5GiB")[0] == 0
    assert json.loads(run("info", "--index", index, "--json")[1])["memory"] == 1.5 * 2**30
    run("index", films, "--index", index)
    assert "flat, memory limit 1.61 GB" in " ".join(run("info", "--index", index)[1].split())
    run("index", films, "--index", index, "--memory", "none")
    assert json.loads(run("info", "--index", index, "--json")[1])["memory"] is None


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("8GB", 8 * 10**9), ("500 kb", 500_000), ("1.5MiB", 3 * 2**19), ("2tib", 2**41), ("none", 0)],
)
def test_sizes_are_parsed(text: str, size_bytes: int) -> None:
    assert parse_memory(text) == size_bytes


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "0GB", "8G", "8 gigs", "1e3MB", "", "nan GB"])
def test_invalid_size_is_refused(run: Runner, films: Path, tmp_path: Path, text: str) -> None:
    run.check_refusal(
        ("index", films, "--index", tmp_path / "index", f"--memory={text}"), 2, "must be a number with KB, MB, GB or TB"
    )
    assert not (tmp_path / "index").exists()


def test_index_is_prepared_for_its_reranker(run: Runner, encoder: PatchEncoder, films: Path, tmp_path: Path) -> None:
    patched = tmp_path / "index"
    code, _, err = run("index", films, "--index", patched, "--rerank", "ucofia", "--tokens", "float16")
    assert (code, "2 encoded" in err) == (0, True)
    assert json.loads(run("info", "--index", patched, "--json")[1])["with_tokens"] == 3
    assert "tokens of 3 segments" in " ".join(run("info", "--index", patched)[1].split())
    assert list(json.loads(run("search", "a dog", "--index", patched, "--json")[1])[0]["why"])[-1] == "words"


def test_prepare_moments_leaves_nothing_to_compute(run_grounded: Runner, grounded: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    head = write_head(tmp_path / "head.safetensors")
    code, out, err = run_grounded("index", grounded / "films", "--index", index, "--head", head, "--prepare-moments")
    assert (code, out) == (0, "")
    assert "2 encoded" in err
    kept = list(index.glob("moments/*/kept/*"))
    assert len(kept) == 2
    assert run_grounded("locate", "rain", "--weak", "--index", index)[0] == 0
    assert sorted(index.glob("moments/*/*/*")) == sorted(kept), "nothing is left to compute"
    _, out, _ = run_grounded("index", grounded / "films", "--index", index, "--prepare-moments", "--json")
    assert json.loads(out)["unchanged"] == 2


def test_words_are_chosen(run: Runner, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index"
    run.check_refusal(
        ("index", films, "--index", index, "--words", "subtitles,music"),
        2,
        "must be auto, on, off or some of speech, screen, subtitles",
    )
    (films / "red.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGood morning.\n")
    code, _, err = run("index", films, "--index", index, "--words", "subtitles")
    assert (code, "texts read: 1 of subtitles." in err) == (0, True)
    (films / "blue.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGood night.\n")
    assert "texts read: 1 of subtitles." in run("index", films, "--index", index, "--words", "auto")[2]
    monkeypatch.setattr("vidret.channels.texts.options.find_spec", lambda _name: None)
    _, _, err = run("index", films, "--index", tmp_path / "new", "--words", "auto")
    assert 'no words (speech, on-screen text, subtitles) are read: that needs the extra "words"' in " ".join(
        err.split()
    )
    assert not (tmp_path / "new" / "words").exists()
    run.check_refusal(("index", films, "--index", tmp_path / "third", "--words", "on"), 1, 'needs the extra "words"')


def test_the_first_run_without_a_model_says_what_a_good_one_brings(
    run: Runner, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = "--model good also finds actions and relations: a download of 1.8 GB"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert note in run("index", films, "--index", tmp_path / "a")[2]
    assert note not in run("index", films, "--index", tmp_path / "a")[2]
    assert note not in run("index", films, "--index", tmp_path / "b", "--model", "starter")[2]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert note not in run("index", films, "--index", tmp_path / "c")[2]


def test_the_environment_names_the_model_of_new_indexes_alone(
    run: Runner, films: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setenv("VIDRET_MODEL", "small")

    def load(name: str, **_settings: str) -> ColourEncoder:
        names.append(name)
        return ColourEncoder()

    monkeypatch.setattr("vidret.engine.load_encoder", load)
    for target, model in ((tmp_path / "new", []), (index, []), (tmp_path / "other", ["--model", "good"])):
        assert run("index", films, "--index", target, *model)[0] == 0
    assert names == ["small", "colours", "good"]


def test_faces_are_read_if_they_are_asked_for(run: Runner, tmp_path: Path, index: Path) -> None:
    film = write_people(tmp_path / "people" / "a.mp4", (150, {"ann": 30}, 2))
    fake = "tests.fake_faces:ColouredFaces"
    assert "faces" not in run("index", film, "--index", index)[2]
    code, _, err = run("index", film, "--index", index, "--people", "on", "--face-model", fake)
    assert code == 0
    assert "tracks read: 1 of faces" in err
    assert run("index", film, "--index", index, "--people", "auto", "--json")[0] == 0
    assert run("index", film, "--index", index, "--people", "on", "--face-model", "arcface")[0] == 1
    for people in (("--face-model", fake), ("--people", "off", "--face-model", fake), ("--people", "yes")):
        assert run("index", film, "--index", index, *people)[0] == 2
