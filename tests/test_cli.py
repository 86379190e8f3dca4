"""The command line: what goes to stdout, what to stderr, and the exit codes."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vidret.engine
from tests.colours import ColourEncoder, write_film
from vidret import cli
from vidret.store.store import Store


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Runner":
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: ColourEncoder())
    return Runner(monkeypatch, capsys)


class Runner:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        """Run a command line in this process; give its exit code, stdout and stderr."""
        self.monkeypatch.setattr(sys, "argv", ["vidret", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = self.capsys.readouterr()
        return int(ended.value.code or 0), out, " ".join(err.split())


@pytest.fixture
def films(tmp_path: Path) -> Path:
    write_film(tmp_path / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(tmp_path / "films" / "blue.mp4", ("blue", 3))
    (tmp_path / "films" / "bad.mp4").write_text("no video")
    return tmp_path / "films"


@pytest.fixture
def index(run: Runner, films: Path, tmp_path: Path) -> Path:
    assert run("index", films, "--index", tmp_path / "index")[0] == 0
    return tmp_path / "index"


def test_index_sums_up_on_stderr_and_lists_failures(run: Runner, films: Path, tmp_path: Path) -> None:
    code, out, err = run("index", films, "--index", tmp_path / "index")
    assert (code, out) == (0, "")
    assert "2 encoded" in err
    assert "1 failed" in err
    assert "bad.mp4" in err
    assert run("index", films, "--index", tmp_path / "index", "--fail-on-error")[0] == 1


def test_index_in_json(run: Runner, films: Path, tmp_path: Path) -> None:
    _, out, _ = run("index", films, "--index", tmp_path / "index", "--json")
    report = json.loads(out)
    assert report["encoded"] == 2
    assert [Path(path).name for path, _ in report["failed"]] == ["bad.mp4"]


def test_search_prints_a_table(run: Runner, index: Path) -> None:
    code, out, _ = run("search", "red", "--index", index)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["rank", "score", "best", "at", "video"]
    assert lines[1].endswith("red.mp4")
    assert len(lines) == 3


def test_search_in_json_and_in_lines(run: Runner, index: Path, tmp_path: Path) -> None:
    hits = json.loads(run("search", "blue", "--index", index, "-k", 1, "--json")[1])
    assert [Path(hit["path"]).name for hit in hits] == ["blue.mp4"]
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"qid": 7, "query": "red"}\n\n{"qid": 8, "query": "blue"}\n')
    rows = [json.loads(line) for line in run("search", "--queries", queries, "--index", index)[1].splitlines()]
    assert [(row["qid"], Path(row["hits"][0]["path"]).name) for row in rows] == [(7, "red.mp4"), (8, "blue.mp4")]


def test_bad_queries_name_the_line(run: Runner, index: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "red"}\n{"text": "blue"}\n')
    code, _, err = run("search", "--queries", queries, "--index", index)
    assert code == 1
    assert "line 2 must be an object" in err


def test_locate_one_video(run: Runner, index: Path, films: Path) -> None:
    _, out, _ = run("locate", "red", films / "red.mp4", "--index", index, "--json", "-k", 1)
    moment = json.loads(out)[0]
    assert [moment["start"], moment["end"]] == pytest.approx([0, 3], abs=0.3)
    assert run("locate", "red", "--index", index)[1].splitlines()[1].endswith("red.mp4")


def test_weak_answers_say_so(run: Runner, index: Path) -> None:
    assert "Nothing in this index looks much like that" in run("search", "yellow", "--index", index)[2]
    assert "Nothing" not in run("search", "red", "--index", index)[2]


def test_sheets_show_the_frames(run: Runner, index: Path, tmp_path: Path) -> None:
    _, _, err = run("search", "red", "--index", index, "--sheet", tmp_path / "new" / "hits.png")
    assert "contact sheet:" in err
    with Image.open(tmp_path / "new" / "hits.png") as sheet:
        first = sheet.getpixel((168, 130))
        width = sheet.width
    assert isinstance(first, tuple)
    assert first[0] > 150
    assert max(first[1:3]) < 80, "the first tile is red"
    run("locate", "blue", "--index", index, "-k", 1, "--sheet", tmp_path / "moments.jpg")
    with Image.open(tmp_path / "moments.jpg") as sheet:
        assert sheet.width == width
    code, _, err = run("search", "red", "--index", index, "--sheet", tmp_path / "hits.unknown")
    assert code == 1
    assert "hits.unknown: cannot be written" in err


def test_info(run: Runner, index: Path) -> None:
    assert "2 done, 1 failed" in " ".join(run("info", "--index", index)[1].split())
    assert json.loads(run("info", "--index", index, "--json")[1])["videos"] == 2
    assert "bad.mp4" in run("info", "--index", index, "--failed")[1]
    failed = json.loads(run("info", "--index", index, "--failed", "--json")[1])
    assert [Path(row["path"]).name for row in failed] == ["bad.mp4"]


def test_damage_is_found_and_repaired(run: Runner, index: Path, films: Path) -> None:
    assert run("info", "--index", index, "--check")[0] == 0
    features = index / "features" / "frames.f16"
    damaged = bytearray(features.read_bytes())
    damaged[3] ^= 0x40
    features.write_bytes(damaged)
    code, out, _ = run("info", "--index", index, "--check")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert run("info", "--index", index, "--repair")[0] == 0
    run("index", films, "--index", index)
    assert run("info", "--index", index, "--check")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("search", "red", "--index", "nowhere"), 1, "there is no index here; make one with"),
        (("index", "nowhere.mp4"), 1, "no such file"),
        (("search",), 2, "give either a query or --queries"),
        (("index",), 2, "Missing argument"),
        (("index", ".", "--decoder", "magic"), 2, "must be auto, decord or pyav"),
        (("search", "red", "-k", "0"), 2, "-k"),
    ],
)
def test_wrong_use_gets_one_sentence_and_a_code(
    run: Runner, arguments: tuple[str, ...], code: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err


def test_the_program_starts_without_torch() -> None:
    import subprocess

    code = "import sys, vidret.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("source", "options"), [("tempme", ()), ("promptswitch", ("--clip-frames", "6"))])
def test_a_converted_checkpoint_is_a_model(
    source: str,
    options: tuple[str, ...],
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = load_file(Path(__file__).parent / "goldens" / source / "case_a" / "state_dict.safetensors")
    run = Runner(monkeypatch, capsys)
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "model.safetensors"
    save_file(weights, checkpoint)
    assert run("convert", checkpoint, out, "--from", source, *options)[0] == 0
    code, _, err = run("index", films, "--index", tmp_path / "index", "--model", out)
    assert code == 1
    assert "vocabulary must be CLIP's 49408 word pieces, got 512" in err

    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    weights[name] = torch.randn(49408, weights[name].shape[1], generator=torch.Generator().manual_seed(0))
    weights = {key: weight for key, weight in weights.items() if not key.startswith("caption_head")}
    save_file(weights, checkpoint)
    assert run("convert", checkpoint, out, "--from", source, *options)[0] == 0
    assert run("index", films, "--index", tmp_path / "index", "--model", out)[0] == 0
    with Store.open(tmp_path / "index") as store:
        assert store.encoder_name == str(out)
        assert store.info().searchable == 2
    code, _, err = run("convert", checkpoint, out, "--from", "ucofia")
    assert code == 1
    assert "weights unknown" in err
