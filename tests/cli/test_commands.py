"""The command line: what goes to stdout, what to stderr, and the exit codes."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vidret.engine
from tests.colours import ColourEncoder, write_film
from tests.goldens import check_close, find_cases
from tests.grounded import make_encoder, write_head, write_numbers
from tests.search.test_ranking import PatchEncoder, make_ranker, published
from tests.served import CURVE, HIT, MOMENT, VIDEO, Reply, Served, problem, serve
from vidret import cli
from vidret.cli.options import parse_memory
from vidret.engine import Engine
from vidret.ground.checkpoint import RECIPES, load_head, read_head_card
from vidret.present.export import find_ffmpeg
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


def test_what_was_not_pruned_is_told(run: Runner, films: Path, tmp_path: Path) -> None:
    drive, index = tmp_path / "drive", tmp_path / "index"
    for name in ("c", "d"):
        write_film(drive / f"{name}.mp4", ("green", 1), salt=ord(name))
    assert run("index", films, drive, "--index", index)[0] == 0
    drive.rename(tmp_path / "away")
    code, _, err = run("index", films, "--index", index, "--prune")
    assert code == 0
    assert "pruned 0 files" in err
    assert f"not pruned: {drive / 'c.mp4'} and 1 more: gone, but not from a folder of this run" in err
    assert json.loads(run("index", films, "--index", index, "--prune", "--json")[1])["unpruned"] == [
        str(drive / "c.mp4"),
        str(drive / "d.mp4"),
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--runner", "spark"], "must be local or ray, got spark"),
        (["--address", "auto"], "needs --runner ray, got --runner local"),
        (["--num-gpus-per-worker", "1"], "needs --runner ray, got --runner local"),
    ],
)
def test_options_of_ray_need_ray(options: list[str], told: str, run: Runner, films: Path, tmp_path: Path) -> None:
    code, _, err = run("index", films, "--index", tmp_path / "index", *options)
    assert code == 2
    assert told in err.replace("│ ", "")
    assert not (tmp_path / "index").exists()


def test_without_ray_its_extra_is_named(
    run: Runner, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("vidret.index.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("index", films, "--index", tmp_path / "index", "--runner", "ray")
    assert code == 1
    assert 'indexing on Ray needs the extra "ray": pip install "vidret[ray]"' in err


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


def test_moments_are_shown_once_and_weak_ones_on_request(run: Runner, films: Path, tmp_path: Path) -> None:
    film, index = write_film(tmp_path / "whole" / "red.mp4", ("red", 24)), tmp_path / "index"
    run("index", film, films, "--index", index)
    command = ("locate", "red", film, "--index", index)
    assert [line.split()[:4] for line in run(*command)[1].splitlines()] == [
        ["rank", "similarity", "start", "end"],
        ["1", "1.000", "0:00.0", "0:24.0"],
    ]
    events = [line.split() for line in run(*command, "--format", "edl")[1].splitlines() if line[:3].isdigit()]
    assert [event[-1] for event in events] == ["00:00:24:00"], "an edit is no longer than the film"
    assert run(*command, "--format", "chapters")[1].count("[CHAPTER]") == 1
    assert len(run(*command, "--overlapping")[1].splitlines()) > 2
    code, _, err = run(*command, "--overlapping", "--weak", "-k", 50, "--format", "chapters")
    assert (code, "chapters must not overlap" in err) == (1, True)
    code, out, err = run("locate", "green blue", film, "--index", index)
    assert (code, out) == (0, "")
    assert "most unrelated queries score as high. --weak shows the nearest moments." in err
    for form in ("edl", "chapters", "csv", "json"):
        assert "red.mp4" not in run("locate", "green blue", film, "--index", index, "--format", form)[1]
    _, out, err = run("locate", "green blue", film, "--index", index, "--weak")
    assert len(out.splitlines()) > 1
    assert "score as high. The nearest are:" in err
    assert "no such videos" in run("locate", "red", "--folder", tmp_path / "none", "--index", index)[2]


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


def test_a_damaged_catalog_is_named_and_repaired(run: Runner, index: Path, films: Path) -> None:
    with Store.open(index, write=True) as store:
        store._catalog.run("UPDATE videos SET facts = '{' WHERE id = 1")
    for command in (("info", "--check"), ("index", films)):
        code, _, err = run(*command, "--index", index)
        assert code == 1
        assert "catalog.sqlite: the row of " in err
        assert "is damaged (checksum); run vidret info --repair" in err
    code, out, err = run("info", "--index", index, "--repair")
    assert (code, out) == (0, "catalog: the row of 1 in videos is damaged (checksum)\n")
    assert "run vidret index again over the same videos" in err
    assert "1 encoded" in run("index", films, "--index", index)[2]
    assert run("info", "--index", index, "--check")[0] == 0
    assert len(json.loads(run("search", "red", "--index", index, "--json")[1])) == 2


def test_damaged_vectors_are_found_and_dropped(run: Runner, index: Path) -> None:
    (file,) = (index / "vectors").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    code, out, _ = run("info", "--index", index, "--check")
    assert code == 1
    assert out.startswith(f"{file}: it has not the ")
    _, _, err = run("info", "--index", index, "--repair")
    assert "1 damaged files of vectors, dropped, to be built anew" in err
    assert run("info", "--index", index, "--check")[0] == 0
    assert run("search", "red", "--index", index)[0] == 0


def test_memory_is_told_and_remembered(run: Runner, films: Path, index: Path) -> None:
    assert run("index", films, "--index", index, "--memory", "1.5GiB")[0] == 0
    assert json.loads(run("info", "--index", index, "--json")[1])["memory"] == 1.5 * 2**30
    run("index", films, "--index", index)
    assert "flat, to fit 1.61 GB" in " ".join(run("info", "--index", index)[1].split())
    run("index", films, "--index", index, "--memory", "none")
    assert json.loads(run("info", "--index", index, "--json")[1])["memory"] is None


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("8GB", 8 * 10**9), ("500 kb", 500_000), ("1.5MiB", 3 * 2**19), ("2tib", 2**41), ("none", 0)],
)
def test_sizes_are_read(text: str, num_bytes: int) -> None:
    assert parse_memory(text) == num_bytes


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "0GB", "8G", "8 gigs", "1e3MB", "", "nan GB"])
def test_a_size_that_is_none_is_refused_in_a_sentence(run: Runner, films: Path, tmp_path: Path, text: str) -> None:
    code, _, err = run("index", films, "--index", tmp_path / "index", f"--memory={text}")
    assert code == 2
    assert "must be a number with KB, MB, GB or TB" in err
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("search", "red", "--index", "nowhere"), 1, "there is no index here; make one with"),
        (("index", "nowhere.mp4"), 1, "no such file"),
        (("search",), 2, "give either a query, --image FILE or --queries FILE"),
        (("search", "red", "--image", "red.png"), 2, "give either a query, --image FILE or --queries FILE"),
        (("search", "--image", "nowhere.png"), 1, "nowhere.png: cannot be read as a picture"),
        (("search", "red", "--after", "tomorrow"), 2, "--after"),
        (("locate", "red", "--min-seconds", "-1"), 2, "--min-seconds"),
        (("search", "red", "--server", "here:80"), 1, "url must be like http://127.0.0.1:8000, got here:80"),
        (("search", "red", "--token", "T"), 2, "needs --server URL, got none"),
        (("search", "red", "--server", "http://here", "--index", "a"), 2, "--index: is for an index of this machine"),
        (("search", "red", "--server", "http://here", "--device", "cpu"), 2, "--device: is for an index of this"),
        (("search", "red", "--server", "http://here", "--sheet", "a.png"), 2, "--sheet: is for an index of this"),
        (("locate", "red", "--server", "http://here", "--head", "none"), 2, "--head: is for an index of this"),
        (("locate", "red", "--server", "http://here", "--export", "a"), 2, "--export: is for an index of this"),
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
    code = "import sys, vidret.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What is asked for, and where.


def names(out: str) -> list[str]:
    return [Path(row["path"]).name for row in json.loads(out)]


def test_a_picture_finds_what_looks_like_it(run: Runner, index: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (40, 30), (30, 30, 200, 255)).save(tmp_path / "blue.png")
    code, out, _ = run("search", "--image", tmp_path / "blue.png", "--index", index, "--json")
    assert (code, names(out)[0]) == (0, "blue.mp4")
    command = ("search", "--image", tmp_path / "blue.png", "--index", index, "--sheet", tmp_path / "hits.png")
    assert "contact sheet:" in run(*command)[2]


def test_filters_say_which_videos(run: Runner, index: Path, films: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(films.parent)
    (films / "old").mkdir()
    (films / "blue.mp4").rename(films / "old" / "blue.mp4")
    changed = datetime(2026, 1, 31, 12).timestamp()
    os.utime(films / "old" / "blue.mp4", (changed, changed))
    run("index", films, "--index", index)
    both, red, blue = {"red.mp4", "blue.mp4"}, {"red.mp4"}, {"blue.mp4"}
    for options, found in (
        (("--folder", "films"), both),
        (("--folder", "films/old/"), blue),
        (("--folder", "fil"), set()),
        (("--min-seconds", 4), red),
        (("--max-seconds", 4), blue),
        (("--after", "2026-01-31", "--before", "2026-02-01"), blue),
        (("--after", "2026-01-31T12:00:01"), red),
        (("--before", "2026-01-31"), set()),
    ):
        for command in ("search", "locate"):
            weak = ("--weak",) if command == "locate" else ()
            code, out, _ = run(command, "red", "--index", index, "--json", *weak, *options)
            assert (code, set(names(out))) == (0, found), (command, options)


def test_a_query_may_begin_with_what_must_not_fit(run: Runner, index: Path) -> None:
    for command in ("search", "locate"):
        assert names(run(command, "--index", index, "--json", "--", "-red blue")[1])[0] == "blue.mp4"
        assert "-- '-beach dog'" in run(command, "--help")[1]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    """Run a server where there is no index."""
    monkeypatch.chdir(tmp_path)
    with serve() as served:
        yield served


def test_a_server_is_asked_in_place_of_an_index(
    run: Runner, server: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.replies = [Reply({"hits": [HIT]})]
    code, out, _ = run("search", "dog", "--server", server.url, "-k", 3, "--rerank", "none", "--after", "2026-01-31")
    assert (code, out.splitlines()[1].split()) == (0, ["1", "0.750", "0:30.5", "/films/red.mp4"])
    body = server.asked[0].body
    assert (body["query"], body["k"], body["rerank"]) == ("dog", 3, "none")
    assert datetime.fromisoformat(body["after"]) == datetime(2026, 1, 31).astimezone()
    monkeypatch.setenv("VIDRET_TOKEN", "secret")
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "nowhere"))
    Image.new("RGB", (4, 3)).save(tmp_path / "black.png")
    hit = json.loads(run("search", "--image", "black.png", "--server", server.url, "--json")[1])[0]
    assert (hit["segment"]["number"], hit["copies"], hit["why"]) == (2, ["/films/copy.mp4"], {"frames": 0.75})
    assert server.asked[1].headers["authorization"] == "Bearer secret"
    assert list(server.asked[1].body) == ["image", "k", "rerank"]
    (tmp_path / "queries.jsonl").write_text('{"query": "red"}\n{"query": "blue"}\n')
    assert len(run("search", "--queries", "queries.jsonl", "--server", server.url)[1].splitlines()) == 2


def test_a_server_locates_moments(run: Runner, server: Served, tmp_path: Path) -> None:
    server.replies = [Reply({"videos": [VIDEO]}), Reply({"moments": [MOMENT]}), Reply(CURVE)]
    command = ("locate", "dog", "/films/red.mp4", "--server", server.url, "--json", "--curve", "curve.png")
    code, out, err = run(*command)
    assert code == 0
    assert json.loads(out) == [{name: MOMENT[name] for name in json.loads(out)[0]}]
    assert "score curve:" in err
    with Image.open(tmp_path / "curve.png") as chart:
        assert min(chart.size) > 100
    server.replies = [problem(401, "a token is needed")]
    code, out, err = run("locate", "dog", "--server", server.url)
    assert (code, out) == (1, "")
    assert "wants the token it was started with, got none" in err


@pytest.mark.parametrize("command", [("search", "dog"), ("locate", "dog", "--curve", "curve.png")])
def test_a_server_is_asked_without_torch(server: Served, tmp_path: Path, command: tuple[str, ...]) -> None:
    server.replies = [Reply({"hits": [HIT], "moments": [MOMENT]}), Reply(CURVE)]
    arguments = ["vidret", *command, "--server", server.url]
    code = f"import sys; from vidret import cli; sys.argv = {arguments}; cli.app(standalone_mode=False)"
    code += "; sys.exit(3 * ('torch' in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, "/films/red.mp4" in ran.stdout) == (0, True), ran.stderr


# Checkpoints.


@pytest.mark.parametrize(("source", "options"), [("tempme", ()), ("promptswitch", ("--clip-frames", "6"))])
def test_a_converted_checkpoint_is_a_model(
    source: str,
    options: tuple[str, ...],
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = load_file(Path(__file__).parents[1] / "goldens" / source / "case_a" / "state_dict.safetensors")
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


# The second look.


@pytest.fixture
def encoder(run: Runner, monkeypatch: pytest.MonkeyPatch) -> PatchEncoder:
    """Give the encoder that every command finds."""
    encoder = PatchEncoder()
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: encoder)
    return encoder


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an index made for UCoFiA, and beside it its films; ``patched`` is a copy to do as one likes with."""
    folder = tmp_path_factory.mktemp("indexed")
    write_film(folder / "films" / "red.mp4", ("red", 3), ("black", 3))
    write_film(folder / "films" / "blue.mp4", ("blue", 3))
    Engine(folder / "index", PatchEncoder(), rerank="ucofia").index([folder / "films"])
    return folder / "index"


@pytest.fixture
def patched(indexed: Path, encoder: PatchEncoder, tmp_path: Path) -> Path:
    return shutil.copytree(indexed, tmp_path / "patched")


def test_explain_shows_what_json_holds(run: Runner, patched: Path, tmp_path: Path) -> None:
    hits = json.loads(run("search", "a dog", "--index", patched, "--json")[1])
    assert [list(hit["why"]) for hit in hits] == [["segment", "frames", "words"]] * 2
    for hit in hits:
        assert hit["score"] == pytest.approx(sum(hit["why"].values()) / 3, abs=1e-6)
    lines = run("search", "a dog", "--index", patched, "--explain")[1].splitlines()
    assert lines[0].split() == ["rank", "score", "segment", "frames", "words", "best", "at", "video"]
    for rank, (line, hit) in enumerate(zip(lines[1:], hits, strict=True), start=1):
        numbers = [str(rank), *(f"{value:.3f}" for value in (hit["score"], *hit["why"].values()))]
        assert line.split()[:5] == numbers
    plain = run("search", "a dog", "--index", patched)[1].splitlines()
    assert plain[0].split() == ["rank", "score", "best", "at", "video"]
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "a dog"}\n')
    assert json.loads(run("search", "--queries", queries, "--index", patched)[1])["hits"] == hits


def test_what_orders_can_be_chosen_for_a_search(run: Runner, patched: Path) -> None:
    for rerank, levels in (("none", ["frames"]), ("mean", ["segment"]), ("glscl", ["pooled"])):
        hits = json.loads(run("search", "a dog", "--index", patched, "--rerank", rerank, "--json")[1])
        assert [list(hit["why"]) for hit in hits] == [levels] * 2
        assert run("search", "a dog", "--index", patched, "--rerank", rerank, "--explain")[1].split()[2] == levels[0]


def test_an_index_is_made_for_what_was_asked(run: Runner, encoder: PatchEncoder, films: Path, tmp_path: Path) -> None:
    patched = tmp_path / "index"
    code, _, err = run("index", films, "--index", patched, "--rerank", "ucofia", "--tokens", "float16")
    assert (code, "2 encoded" in err) == (0, True)
    assert json.loads(run("info", "--index", patched, "--json")[1])["with_tokens"] == 3
    assert "tokens of 3 segments" in " ".join(run("info", "--index", patched)[1].split())
    assert list(json.loads(run("search", "a dog", "--index", patched, "--json")[1])[0]["why"])[-1] == "words"


def test_a_calibrated_index_answers_by_what_it_learned(
    run: Runner, encoder: PatchEncoder, patched: Path, tmp_path: Path
) -> None:
    def ask() -> list[float]:
        return [hit["score"] for hit in json.loads(run("search", "rain", "--index", patched, "--json")[1])]

    before = ask()
    lines, rows = tmp_path / "bank.txt", tmp_path / "bank.jsonl"
    lines.write_text("\ufeffa dog\n\n  a cat \nthe sea\u2028at night\ncartoon", encoding="utf-8")
    rows.write_text(
        '{"query": "a dog"}\n\n{"caption": "a cat", "video": 3}\n{"captions": ["the sea\u2028at night", "cartoon"]}\n',
        encoding="utf-8",
    )
    found = []
    for bank in (lines, rows):
        encoder.asked.clear()
        code, out, err = run("calibrate", "--bank", bank, "--index", patched)
        assert (code, out) == (0, "")
        assert f"3 segments calibrated with 4 queries of {bank.name}, temperature 0.05" in err
        assert encoder.asked[:4] == ["a dog", "a cat", "the sea\u2028at night", "cartoon"]
        found.append(ask())
    assert found[0] == found[1] != before
    assert "temperature 0.2" in run("calibrate", "--bank", lines, "--index", patched, "--temperature", "0.2")[2]
    assert ask() not in (found[0], before)


@pytest.mark.parametrize(("limit", "taken"), [(1, [0]), (3, [0, 3, 6]), (4, [0, 2, 5, 7]), (10, list(range(10)))])
def test_a_limit_takes_queries_evenly(
    run: Runner, encoder: PatchEncoder, patched: Path, tmp_path: Path, limit: int, taken: list[int]
) -> None:
    bank = tmp_path / "bank.txt"
    bank.write_text("\n".join(f"query {number}" for number in range(10)))
    encoder.asked.clear()
    _, _, err = run("calibrate", "--bank", bank, "--index", patched, "--limit", limit)
    assert encoder.asked[: len(taken)] == [f"query {number}" for number in taken]
    assert (f"with {limit} queries (of 10; --limit takes more) of" in err) == (limit < 10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"query": "red"}\n\n{"text": "blue"}\n', 'line 3 must have "query", "caption" or "captions", got {"text": '),
        ('\n{"query": "red"\n', 'line 2 must have "query", "caption" or "captions", got {"query": "red"'),
        ('["red"]\n', "line 1 must have"),
        ('{"query": 3}\n', "line 1 must have"),
        ('{"captions": ["red", 3]}\n', "line 1 must have"),
        ('{"captions": []}\n', "line 1 must have"),
        ("", "bank must hold a query, got none"),
        ('{"query": " "}\n', "bank must hold a query, got none"),
    ],
)
def test_a_bad_bank_names_the_line(run: Runner, patched: Path, tmp_path: Path, text: str, sentence: str) -> None:
    bank = tmp_path / "bank.jsonl"
    bank.write_text(text)
    code, out, err = run("calibrate", "--bank", bank, "--index", patched)
    assert (code, out) == (1, "")
    assert sentence in err
    assert "Traceback" not in err


def test_a_bad_line_of_queries_is_named_whatever_is_wrong_with_it(run: Runner, patched: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"query": "red"}\n{"query": \n')
    code, _, err = run("search", "--queries", queries, "--index", patched)
    assert code == 1
    assert 'line 2 must be an object with "query", got {"query":' in err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("index", "films", "--rerank", "glscl"), 1, "patched: made with --rerank ucofia, cannot go on with glscl"),
        (
            ("index", "films", "--rerank", "colbert"),
            1,
            "rerank must be auto, none, mean, ucofia, glscl or the file of an",
        ),
        (
            ("index", "films", "--index", "new", "--rerank", "none", "--tokens", "int4"),
            1,
            "tokens must be int8 or float16",
        ),
        (
            ("index", "films", "--index", "new", "--rerank", "odd.safetensors"),
            1,
            "odd.safetensors: not an aligner that",
        ),
        (("search", "rain", "--rerank", "colbert"), 1, "or the file of an aligner, got colbert"),
        (("search", "rain", "--rerank", "glscl.safetensors"), 1, "glscl.safetensors: the index must be made with this"),
        (("calibrate", "--bank", "bank.txt", "--rerank", "colbert"), 1, "got colbert"),
        (("calibrate", "--bank", "bank.txt", "--temperature", "0"), 1, "temperature must be at least 1e-06 and finite"),
        (("calibrate", "--bank", "bank.txt", "--index", "nowhere"), 1, "there is no index here"),
        (("calibrate", "--bank", "nothing.txt"), 1, "nothing.txt: cannot be read: "),
        (("calibrate", "--bank", "bank.txt", "--limit", "0"), 2, "--limit"),
        (("calibrate",), 2, "--bank"),
    ],
)
def test_wrong_use_of_the_second_look(
    run: Runner,
    patched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDRET_INDEX", str(patched))
    make_ranker("trained glscl", tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "odd.safetensors")
    (tmp_path / "bank.txt").write_text("a dog\n")
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", ["ucofia", "glscl"])
def test_a_converted_checkpoint_has_its_aligner_beside_it(
    method: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Runner(monkeypatch, capsys)
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "model.safetensors"
    weights = published(method)
    save_file({**weights, "extra.weight": torch.ones(1)}, checkpoint)
    code, _, err = run("convert", checkpoint, out, "--from", method)
    assert code == 1
    assert "published.safetensors: " in err
    assert "1 weights unknown: extra.weight" in err
    assert not out.exists(), "all is well, or nothing is written"
    save_file(weights, checkpoint)
    code, _, err = run("convert", checkpoint, out, "--from", method)
    assert code == 0
    assert f"{tmp_path / 'model.aligner.safetensors'}: its aligner, taken with the model" in err
    run("index", films, "--index", tmp_path / "index", "--model", out)
    levels = {"ucofia": ["segment", "frames", "words"], "glscl": ["pooled", "concepts"]}[method]
    hits = json.loads(run("search", "a dog", "--index", tmp_path / "index", "--json")[1])
    assert [list(hit["why"]) for hit in hits] == [levels] * 2
    code, _, err = run("index", films, "--index", tmp_path / "index", "--model", out, "--rerank", "none")
    assert code == 1
    assert "model.aligner.safetensors, cannot go on with none" in err


# Trained moments.


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give films, a head for a tiny CLIP, and an index that was made with both."""
    folder = tmp_path_factory.mktemp("shelf")
    write_numbers(folder / "films" / "first.mp4", range(16))
    write_numbers(folder / "films" / "second.mp4", range(100, 130))
    head = write_head(folder / "head.safetensors")
    with Engine(folder / "index", make_encoder(), head=head) as engine:
        engine.index([folder / "films"])
        engine.prepare_moments()
    return folder


@pytest.fixture
def ask(run: Runner, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: make_encoder())
    monkeypatch.setenv("VIDRET_INDEX", str(shelf / "index"))
    return run


def test_moments_are_prepared_when_asked_for(ask: Runner, shelf: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    head = write_head(tmp_path / "head.safetensors")
    code, out, err = ask("index", shelf / "films", "--index", index, "--head", head, "--prepare-moments")
    assert (code, out) == (0, "")
    assert "2 encoded" in err
    kept = list(index.glob("moments/*/kept/*"))
    assert len(kept) == 2
    assert ask("locate", "rain", "--weak", "--index", index)[0] == 0
    assert sorted(index.glob("moments/*/*/*")) == sorted(kept), "nothing is left to compute"
    _, out, _ = ask("index", shelf / "films", "--index", index, "--prepare-moments", "--json")
    assert json.loads(out)["unchanged"] == 2


def test_a_table_says_who_found_the_moments(ask: Runner) -> None:
    code, out, err = ask("locate", "rain", "--weak", "-k", 4)
    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "score", "start", "end", "video"]
    assert len(out.splitlines()) == 5
    assert "found by the trained grounding head; scores are probabilities" in err
    _, out, err = ask("locate", "rain", "--weak", "--head", "none", "-k", 4)
    assert len(out.splitlines()) == 5
    assert "found by the curve of similarity (no trained head)" in err


def test_moments_in_every_form(ask: Runner, shelf: Path) -> None:
    code, out, _ = ask("locate", "rain", "--weak", "--json", "-k", 3)
    rows = json.loads(out)
    assert (code, len(rows)) == (0, 3)
    assert {row["by"] for row in rows} == {"head"}
    assert ask("locate", "rain", "--weak", "--format", "json", "-k", 3)[1] == out
    _, text, _ = ask("locate", "rain", "--weak", "--format", "csv", "-k", 3)
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(row["path"], row["by"], row["query"]) for row in table] == [(row["path"], "head", "rain") for row in rows]
    starts = [row["start"] for row in rows]
    assert [float(row["start"]) for row in table] == pytest.approx(starts, abs=1e-6)
    _, text, _ = ask("locate", "rain", "--weak", "--format", "edl", "--fps", 50, "-k", 3)
    assert text.startswith("TITLE: rain\nFCM: NON-DROP FRAME\n")
    codes = [line.split()[4] for line in text.splitlines() if line[:3].isdigit()]
    clocks = [[int(part) for part in code.split(":")] for code in codes]
    seconds = [60 * minute + second + frame / 50 for _, minute, second, frame in clocks]
    assert seconds == pytest.approx(starts, abs=0.011)
    _, text, _ = ask("locate", "rain", "--weak", shelf / "films" / "first.mp4", "--format", "chapters", "-k", 3)
    assert text.startswith(";FFMETADATA1\n")
    assert [line for line in text.splitlines() if "title" in line] == [f"title=rain ({n})" for n in (1, 2, 3)]


def test_a_name_that_is_no_text_goes_out_as_it_is(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copy(shelf / "films" / "first.mp4", odd)
    with Engine(tmp_path / "index", make_encoder(), head=shelf / "head.safetensors") as engine:
        engine.index([odd])
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_args, **_kwargs: make_encoder())
    monkeypatch.setenv("VIDRET_INDEX", str(tmp_path / "index"))
    monkeypatch.setattr(sys, "argv", ["vidret", "locate", "rain", "--weak", "--format", "csv"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert b"caf\xe9.mp4" in capsysbinary.readouterr().out


def test_fewer_videos_are_looked_into_when_asked(ask: Runner) -> None:
    for count in (1, 2):
        rows = json.loads(ask("locate", "rain", "--weak", "--videos", count, "-k", 100, "--json")[1])
        assert len({row["path"] for row in rows}) == count


def test_the_curve_is_drawn(ask: Runner, tmp_path: Path) -> None:
    plain = ask("locate", "rain", "--weak", "--json")[1]
    for options in ((), ("--head", "none")):
        picture = tmp_path / "new" / "curve.png"
        code, out, err = ask("locate", "rain", "--weak", "--json", "--curve", picture, *options)
        assert code == 0
        assert (out == plain) == (not options), "data alone"
        assert "score curve:" in err
        with Image.open(picture) as chart:
            assert min(chart.size) > 100
        picture.unlink()
    code, out, err = ask("locate", "rain", "--weak", "--curve", tmp_path / "curve.unknown")
    assert code == 1
    assert "curve.unknown: cannot be written" in err


def test_moments_are_cut_out(ask: Runner, shelf: Path, tmp_path: Path) -> None:
    try:
        find_ffmpeg()
    except vidret.errors.VidretError:
        pytest.skip("needs ffmpeg: the machine's, or the package imageio-ffmpeg")
    command = (
        "locate",
        "rain",
        "--weak",
        shelf / "films" / "first.mp4",
        "-k",
        2,
        "--json",
        "--export",
        tmp_path / "pieces",
    )
    code, out, err = ask(*command)
    assert code == 0
    assert len(json.loads(out)) == 2
    assert "2 pieces in" in err
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert [piece.name[:8] for piece in pieces] == ["01_first", "02_first"]
    code, _, err = ask(*command)
    assert code == 1
    assert "is there already" in err
    assert ask(*command, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("locate", "rain", "--weak", "--format", "xml"), 2, "must be one of table, json, csv, edl"),
        (("locate", "rain", "--weak", "--videos", "0"), 2, "--videos"),
        (("locate", "rain", "--weak", "--format", "edl", "--fps", "23.5"), 1, "fps must be a whole number in 1..100"),
        (("locate", "rain", "--weak", "--format", "chapters", "-k", "100"), 1, "chapters must be of one video, got 2"),
        (("locate", "rain", "--weak", "nowhere.mp4"), 1, "not in the index"),
        (("locate", "rain", "--weak", "--head", "gone.safetensors"), 1, "gone.safetensors: "),
        (("locate", "rain", "--weak", "--head", "text.txt"), 1, "text.txt: "),
        (("index", "films", "--index", "new", "--head", "gone.safetensors"), 1, "gone.safetensors: "),
        (("index", "films", "--index", "new", "--prepare-moments"), 2, "needs a --head, got none"),
        (("convert", "text.txt", "out.pt", "--from", "r2tuning"), 2, "must end in .safetensors, got out.pt"),
        (("convert", "text.txt", "out.safetensors", "--from", "r2tuning", "--recipe", "msrvtt"), 2, "got msrvtt"),
        (("convert", "text.txt", "out.safetensors", "--from", "r2tuning"), 1, "text.txt: "),
    ],
)
def test_wrong_use_of_moments(
    ask: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    (tmp_path / "text.txt").write_text("nothing of ours")
    found, out, err = ask(*arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()


def test_an_encoder_without_layers_takes_no_head(run: Runner, index: Path, films: Path, tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors")
    for command in (("index", films), ("locate", "red")):
        code, out, err = run(*command, "--index", index, "--head", head)
        assert (code, out) == (1, "")
        assert "head.safetensors: must have a CLIP model of ours as encoder, got colours" in err


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_converted_head_is_used_as_its_benchmark_does(run: Runner, tmp_path: Path, recipe: str) -> None:
    weights = find_cases("r2tuning")[0].weights
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "head.safetensors"
    save_file(weights, checkpoint)
    code, data, err = run(
        "convert", checkpoint, out, "--from", "r2tuning", "--recipe", recipe, "--backbone", "tiny/random"
    )
    assert (code, data) == (0, "")
    assert "head.safetensors: a grounding head for tiny/random; use it as --head" in err
    card = read_head_card(out)
    assert card.backbone == "tiny/random"
    facts = {name: getattr(card, name) for name in ("fps", "suppression", "threshold", "unit")}
    assert facts == {"fps": None, "suppression": None, "threshold": None, "unit": None} | RECIPES[recipe]
    check_close(load_head(out)[0].block.gates, weights["adapter.gate"].flatten())
    save_file({**weights, "extra.weight": torch.ones(1)}, checkpoint)
    code, _, err = run("convert", checkpoint, tmp_path / "no.safetensors", "--from", "r2tuning")
    assert code == 1
    assert "1 weights unknown: extra.weight" in err
    assert not (tmp_path / "no.safetensors").exists()
