"""docs/reproduce.md: every line runs, with random checkpoints and three videos."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.cli.runner import Runner
from tests.evaluate.world import read
from tests.made_benchmarks import TEST, TRAIN, VAL, describe, write_benchmarks
from tests.published_checkpoints import FULL, SMALL, Size, save_checkpoint
from tests.train.small import shrink_config
from vidret.encode.clip.model import ClipModel, save_model
from vidret.encode.clip.weights import SOURCES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
GUIDE = (ROOT / "docs" / "guides" / "training.md").read_text("utf-8")
OPEN_CLIP = re.compile(r"ViT-B-(32|16)-quickgelu/openai")
QUICK_TRAINED = ("msrvtt_promptswitch_b32", "msvd_ucofia_b32", "msrvtt_xpool_b32", "lsmdc_glscl_b32", "tacos_r2_b32")
SLOW_CONVERTED = ("r2_charades", "r2_tacos", "r2_ego4d")  # as r2_qvhighlights, with settings that test_convert compares


def list_lines() -> list[list[str]]:
    """Return the words of every command about the papers' results."""
    section = TEXT[TEXT.index("## Retrieval") : TEXT.index("## Trained from scratch")].replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("vidret ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


LINES = list_lines()
MAKERS = {
    line[2] if line[0] == "convert" else f"models/{Path(line[3]).stem}.safetensors": line
    for line in LINES
    if line[0] in ("convert", "train")
}
EVALUATIONS = [line for line in LINES if line[0] == "eval" and line[1] != "score"]


def find_maker(line: list[str]) -> list[str] | None:
    """Return the line that makes the model or the head of an evaluation; None for CLIP itself."""
    return next((MAKERS[word] for word in reversed(line) if word in MAKERS), None)


def name_case(line: list[str]) -> str:
    """Return what an evaluation is of."""
    made = [Path(word).stem for word in line if word in MAKERS]
    return made[-1] if made else "-".join(word.replace("/", "-") for word in line[1:] if word[0] not in "$-")


def test_page_covers_each_method_and_marks_unverified_results() -> None:
    for source in (*SOURCES, "r2tuning"):
        assert any(line[0] == "convert" and source in line for line in LINES)
    assert TEXT.count("unverified") >= 6
    used = {word for line in EVALUATIONS for word in line if word in MAKERS}
    assert used == set(MAKERS), "what is trained or converted is evaluated"
    assert {line[3] for line in LINES if line[0] == "train"} <= {
        f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")
    }


def list_cases() -> list[Any]:
    """Return every evaluation with its size: full shapes, most of what is trained and some heads are slow."""
    cases = []
    distinct = {OPEN_CLIP.sub("", " ".join(line)): line for line in EVALUATIONS}  # one model stands for those of OpenAI
    for line in distinct.values():
        maker, name = find_maker(line), name_case(line)
        trained = maker is not None and maker[0] == "train"
        is_slow = name not in QUICK_TRAINED if trained else name in SLOW_CONVERTED
        marks = pytest.mark.slow if is_slow else ()
        cases.append(pytest.param(line, SMALL, id=name, marks=marks))
        if not trained:
            cases.append(pytest.param(line, FULL, id=f"{name}-full", marks=pytest.mark.slow))
    return cases


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduced")


@pytest.fixture
def folder(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder, which is empty, and one for all tests: decoding processes are reused in it only."""
    monkeypatch.chdir(shared)
    yield shared
    for path in shared.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize(("line", "size"), list_cases())
def test_a_line_evaluates_what_another_makes(
    line: list[str],
    size: Size,
    benchmarks: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("VIDRET_DATA", raising=False)
    run, maker = Runner(monkeypatch, capsys), find_maker(line)
    towers = folder / "towers.safetensors"
    save_model(ClipModel(size.card), towers)
    videos = str(benchmarks / "videos")
    places = {"$VIDEOS": videos, "$DATA": str(benchmarks), "$TRAINING_VIDEOS": videos}

    def place(words: list[str]) -> list[str]:
        return [OPEN_CLIP.sub(str(towers), places.get(word, word)) for word in words]

    if maker is not None and maker[0] == "convert":
        save_checkpoint(maker[4], size, folder / maker[1])
        code, _, err = run(*place(maker))
        assert code == 0, err
    elif maker is not None:
        config = shrink_config(yaml.safe_load((ROOT / maker[3]).read_text("utf-8")), benchmarks, folder / "models")
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        model["out"] = f"models/{Path(maker[3]).stem}.safetensors"
        if "backbone" in model:
            marks = data["encoder"].partition(".safetensors")[2]
            data["encoder"] = f"{towers}{marks}"
            model |= {"backbone": str(towers), "width": size.vision.width, "text_width": size.text.width}
        (folder / "small.yaml").write_text(yaml.safe_dump(config))
        code, _, err = run("train", "fit", "--config", folder / "small.yaml", *place(maker[4:]))
        assert code == 0, err
    code, _, err = run(*place(line), "--out", "out", "--workers", 1, "--device", "cpu", "--precision", "fp32")
    assert code == 0, err
    report = read(folder / "out" / "report.json")
    assert (report["data"]["num_found"], report["data"]["missing"]) == (3, [])
    if "retrieval" in line or "msrvtt" in line:
        sampling = report["model"]["card"]["sampling"]
        assert sampling["whole"]
        assert sampling["until_s"] == (31.0 if "didemo" in line else None)


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_the_guide_trains_on_own_captions_and_measures_others(
    benchmarks: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = GUIDE[GUIDE.index("## Your own captions") :].replace("\\\n", " ")
    train, measure = (shlex.split(line)[1:] for line in section.split("```\n")[1].splitlines())
    shutil.copytree(benchmarks / "videos", folder / "my" / "videos")
    for name, videos in (("captions", [*TRAIN, *VAL]), ("test", TEST)):
        rows = [f"{video},{text}\n" for video in videos for text in describe(video)]
        (folder / "my" / f"{name}.csv").write_text("".join(["video,caption\n", *rows]))
    config = shrink_config(yaml.safe_load((ROOT / train[3]).read_text("utf-8")), benchmarks, folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    run = Runner(monkeypatch, capsys)
    run.err("train", "fit", "--config", folder / "small.yaml", *train[4:])
    run.err(*measure, "--out", "out", "--workers", 1, "--device", "cpu", "--precision", "fp32")
    report = read(folder / "out" / "report.json")
    assert (report["data"]["num_captions"], report["data"]["num_found"], report["data"]["notes"]) == (6, 3, [])
    assert (report["model"]["segments"], report["settings"]["rerank"]) == ("one per video", "mean")


def test_predictions_of_another_model_are_scored(
    benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in LINES if line[:2] == ["eval", "score"]]
    rows = [{"qid": index, "query": "", "vid": "", "pred_relevant_windows": [[0, 4, 1.0]]} for index in range(3)]
    (tmp_path / "hl_val_submission.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = Runner(monkeypatch, capsys)(*(word.replace("$DATA", str(benchmarks)) for word in line))
    assert code == 0, err
    assert "100.0" in out
