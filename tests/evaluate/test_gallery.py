"""Indexing for an evaluation: videos are encoded once, runs resume, whole and cut segments never mix."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import vidret.cli.evaluate.steps
from tests.encode.tiny import TEXT, VISION
from tests.evaluate.world import Answer, colour_encoder, load_colours, read, run, write_rows
from tests.fakes import ColourEncoder, PatchEncoder, write_film
from tests.train.small import make_head_module, make_module
from vidret.cli.evaluate.steps import EvalRun
from vidret.data.records import Split
from vidret.encode.clip.model import Card
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.gallery import describe_model, index_gallery, note_trained_on
from vidret.index.options import Progress
from vidret.model_files import Part, TrainedOn, save_joint
from vidret.store.records import FIXED_GRID, FOLLOW_SHOTS
from vidret.store.store import Store
from vidret.types import Frames, Sampling, SegmentEmbedding


def test_indexed_videos_are_not_encoded_again(searched: tuple[Path, Answer], world: Path) -> None:
    split = Split("two", ("here",), ("red", "gone", "bad"))
    encoder = colour_encoder()
    with Engine(searched[0] / "index", encoder) as engine:
        gallery, seconds = index_gallery(engine, split, world)
        read_before = encoder.num_frames
        assert index_gallery(engine, split, world)[0] == gallery
        assert encoder.num_frames == read_before, "the encoder is not checked either"
    assert gallery.files == {"red": world / "videos" / "red.mp4", "bad": world / "videos" / "bad.mp4"}
    assert (gallery.missing, list(gallery.failed)) == (["gone"], ["bad"])
    assert seconds > 0


def test_a_complete_index_on_a_read_only_disk_is_read(world: Path, tmp_path: Path) -> None:
    index, split = tmp_path / "index", Split("two", ("here",), ("red", "bad"))
    with Engine(index, colour_encoder()) as engine:
        gallery, _ = index_gallery(engine, split, world)
    (index / "writer.lock").unlink()
    (index / "writer.lock").mkdir()  # as on a read-only disk, it cannot be opened for writing
    with Engine(index, colour_encoder()) as engine:
        assert index_gallery(engine, split, world)[0] == gallery
        with pytest.raises(VidretError, match="cannot be written"):
            index_gallery(engine, Split("three", ("here",), ("red", "blue")), world)


def test_gallery_without_videos_is_rejected(world: Path, tmp_path: Path) -> None:
    engine = Engine(tmp_path / "index", colour_encoder())
    with pytest.raises(VidretError, match="must contain the videos of nobody's, got none of 2"):
        index_gallery(engine, Split("nobody's", (), ("a", "b")), world)
    assert not (tmp_path / "index").exists()


def test_videos_that_a_model_was_trained_on_are_noted(tmp_path: Path) -> None:
    trained_on, path = TrainedOn.describe("mine-rest", ["a", "b", "ü"]), tmp_path / "model.safetensors"
    save_joint(path, Part({"method": "clip"}, {"weight": torch.zeros(1)}), {}, trained_on)
    assert b"mine-rest" in path.read_bytes()
    for videos, noted in ((("c", "ü", "b.MP4"), ["2 (ü, b)"]), (("c", "A"), [])):
        for encoder, head in (
            (path, None),
            (tmp_path / "gone.safetensors", path),
            (f"{path}#merge=half + starter", None),
        ):
            grounder = head and SimpleNamespace(path=head)
            engine: Any = SimpleNamespace(encoder=SimpleNamespace(name=f"{encoder}#whole"), grounder=grounder)
            notes = list(note_trained_on(engine, Split("test", (), videos)))
            sentence = "model.safetensors was trained on mine-rest, with videos of these names"
            assert notes == [f"{sentence}: {names}" for names in noted]


class SlowEncoder(ColourEncoder):
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        time.sleep(0.1)
        return super().encode_frames(batch, tokens=tokens)


def test_interrupted_evaluation_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "videos" / "long.mp4", *[("red", 3), ("blue", 3)] * 8)
    write_rows(tmp_path / "captions.jsonl", [{"video": "long.mp4", "captions": ["red"]}])

    pressed: list[str] = []

    @contextlib.contextmanager
    def interrupt() -> Iterator[Callable[[Progress], None]]:
        def press(progress: Progress) -> None:
            if progress.num_segments and not pressed:
                pressed.append("Ctrl-C")
                raise KeyboardInterrupt

        yield press

    command = ("eval", "retrieval", "--videos", tmp_path, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(vidret.cli.evaluate.steps, "show_progress", interrupt)
        answer = run(*command, load=lambda *_, **__: SlowEncoder("colours-cut"))
    assert (answer.code, answer.out) == (1, "")
    assert "error: interrupted while encoding; run the same command again to resume" in answer.err
    assert not (tmp_path / "out" / "report.json").exists()
    with Store.open(tmp_path / "out" / "index") as store:
        stored = store.info().segments
    assert 0 < stored < 12
    encoder = colour_encoder()
    assert run(*command, load=lambda *_, **__: encoder).code == 0
    assert encoder.num_frames == 2 + (12 - stored) * 4, "the check of the encoder, and the remaining segments"
    assert read(tmp_path / "out" / "report.json")["model"]["num_segments"] == 12


def test_whole_videos_and_cut_segments_never_mix(searched: tuple[Path, Answer], world: Path, tmp_path: Path) -> None:
    out = tmp_path / "whole"
    command = ("eval", "retrieval", "--videos", world, "--segments", "whole")
    assert run(*command, "--out", out).code == 0
    model = read(out / "report.json")["model"]
    assert (model["name"], model["fingerprint"]) == ("colours#whole", "colours-whole")
    assert (model["segments"], model["num_segments"]) == ("one per video", 4)
    with Engine(out / "index", colour_encoder(whole=True)) as engine:
        assert engine.curve("red", world / "videos" / "mixed.mp4").times.tolist() == [0, 5, 10, 15]
        assert engine.curve("red", world / "videos" / "red.mp4").times.tolist() == [0, 1, 2]

    cut = searched[0] / "index"
    answer = run(*command, "--index", cut, "--out", tmp_path / "other")
    assert (answer.code, answer.out) == (1, "")
    assert f"{cut}: segments must be whole, got an index of cut segments" in answer.err
    answer = run(*command[:-1], "cut", "--index", out / "index", "--out", tmp_path / "other")
    assert f"{out / 'index'}: segments must be cut, got an index of whole videos" in answer.err
    answer = run(*command, "--model", "colours", "--index", cut, "--out", tmp_path / "other")
    assert answer.code == 1
    assert (
        "encoder must be colours (colours-cut), which built the index, got colours#whole (colours-whole)" in answer.err
    )
    assert run("eval", "retrieval", "--videos", world, "--index", out / "index", "--out", tmp_path / "other").code == 0
    assert read(tmp_path / "other" / "report.json")["model"]["segments"] == "one per video", "as in the index"


def test_retrieval_benchmarks_use_whole_videos(world: Path, tmp_path: Path) -> None:
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\nret0,msr0,red,red\nret1,msr1,blue,blue\n"
    )
    command = ("eval", "msrvtt", "--videos", world, "--annotations", tmp_path, "--out", tmp_path / "out", "--html")
    names: list[str] = []

    def load(name: str, **more: Any) -> ColourEncoder:
        names.append(name)
        encoder = load_colours(name, **more)
        assert isinstance(encoder, ColourEncoder)
        return encoder

    answer = run(*command, load=load)
    assert answer.code == 0, answer.err
    assert names == ["ViT-B-32-quickgelu/openai#whole"]
    facts = read(tmp_path / "out" / "report.json")
    assert (facts["data"]["name"], facts["settings"]["rerank"]) == ("msrvtt-1k-a-test", "mean")
    assert facts["results"]["rows"][0]["R@1"] == 100
    assert (tmp_path / "out" / "report.html").is_file()
    data = ("--data", "msrvtt-1k-a", "--model", names.pop().removesuffix("#whole"))
    answer = run("eval", "curves", *command[2:-1], *data, "--rerank", "mean", load=load)
    assert (answer.code, names) == (0, ["ViT-B-32-quickgelu/openai#whole"]), "the same index"


@pytest.mark.parametrize("method", ["clip", "ucofia", "glscl"])
def test_trained_aligner_is_used_with_its_model(method: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\nret0,msr0,red,red\nret1,msr1,blue,blue\n"
    )
    model, out = tmp_path / "model.safetensors", tmp_path / "out"
    make_module(method).export(model)
    command = ("eval", "msrvtt", "--videos", world, "--annotations", tmp_path, "--out", out, "--model", model)
    answer = run(*command, load=load_encoder)
    assert answer.code == 0, answer.err
    facts = read(out / "report.json")
    used = str(model) if method != "clip" else "mean"
    assert facts["settings"]["rerank"] == used
    assert f"scored by {used}" in answer.err
    if method == "ucofia":
        answer = run(*command, "--rerank", "mean", load=load_encoder)
        assert answer.code == 0, answer.err
        assert read(out / "report.json")["settings"]["rerank"] == "mean", "the given reranker takes precedence"


def test_index_is_prepared_for_the_reranker(tmp_path: Path) -> None:
    write_film(tmp_path / "red.mp4", ("red", 1))
    write_rows(tmp_path / "captions.jsonl", [{"video": "red.mp4", "captions": ["red"]}])
    for rerank, made_for, with_tokens in (("ucofia", "ucofia", 1), ("mean", "none", 0)):
        out = tmp_path / rerank
        command = ("eval", "retrieval", "--videos", tmp_path, "--rerank", rerank, "--out", out)
        answer = run(*command, load=lambda *_, **__: PatchEncoder())
        assert answer.code == 0, answer.err
        facts = read(out / "report.json")
        assert facts["settings"]["rerank"] == rerank
        assert facts["model"]["index_made_for"] == made_for
        assert facts["model"]["num_with_tokens"] == with_tokens


class CardedEncoder(ColourEncoder):
    card = Card("tiny", "odd", VISION, TEXT, sampling=Sampling(whole=True))


def test_report_contains_the_card_of_the_model(tmp_path: Path) -> None:
    encoder = CardedEncoder()
    index, made_with = tmp_path / "index", (encoder.name, encoder.fingerprint)
    Store.create(index, encoder_name=made_with[0], encoder_fingerprint=made_with[1], dim=encoder.dim).close()
    with Engine(index, encoder) as engine:
        description = json.loads(json.dumps(describe_model(engine)))
    assert description["method"] == "tiny"
    assert Card.from_json(json.dumps({"format": 1, **description["card"]})) == encoder.card


def test_report_says_how_videos_are_cut(tmp_path: Path) -> None:
    write_film(tmp_path / "red.mp4", ("red", 3))
    described = []
    for shots in (True, False):
        with Engine(tmp_path / f"{shots}", colour_encoder()) as engine:
            engine.index([tmp_path / "red.mp4"], shots=shots)
            described.append(describe_model(engine)["segments"])
    assert described == ["following shots", "of 4 s"]


def test_videos_of_didemo_end_where_its_captions_do(tmp_path: Path) -> None:
    write_film(tmp_path / "videos" / "late.mp4", ("red", 31), ("blue", 60))
    (tmp_path / "test_list.txt").write_text("late.mp4\n")
    (tmp_path / "test_data.json").write_text(
        json.dumps([{"annotation_id": 1, "video": "late.mp4", "description": "red"}])
    )
    out = tmp_path / "out"
    settings = ("--data", "didemo", "--annotations", tmp_path, "--out", out, "--frames", 8, "--workers", 1)
    answer = run("eval", "retrieval", "--videos", tmp_path / "videos", *settings)
    assert answer.code == 0, answer.err
    report = read(out / "report.json")
    assert (report["model"]["name"], report["model"]["num_frames"]) == ("colours#frames=8#until=31#whole", 8)
    assert report["data"]["notes"] == []
    assert report["per_query"][0]["score"] > 0.99, "no blue frame is among them"
    again = run("eval", "retrieval", "--videos", tmp_path / "videos", *settings[:-4], "--frames", 4)
    assert "frames must be those of the index, 8, got 4" in again.err


@pytest.mark.parametrize(("data", "head", "rate"), [("charades-sta", "head", 1.0), ("tacos", "head", 0.5)])
def test_heads_of_benchmarks_read_the_frames_of_its_recipe(data: str, head: str, rate: float, tmp_path: Path) -> None:
    write_film(tmp_path / "videos" / "film.mp4", ("red", 5), ("blue", 5))
    run_of = EvalRun(videos=tmp_path / "videos", data=data)
    assert (run_of.find_rate(head), run_of.find_rate("none"), run_of.find_rate("auto")) == (rate, None, None)
    assert EvalRun(videos=tmp_path, data="moments").find_rate(head) is None, "own moments have no recipe"
    make_head_module(fps=3.0).export(tmp_path / "fast.safetensors")
    assert run_of.find_rate(str(tmp_path / "fast.safetensors")) == 3.0, "the head was trained at another rate"
    make_module("clip").export(tmp_path / "towers.safetensors")
    sizes: dict[str, Any] = {"width": 32, "text_width": 32, "num_layers": 1, "fps": 3.0, "join": True}
    make_head_module(backbone=str(tmp_path / "towers.safetensors"), **sizes).export(tmp_path / "joint.safetensors")
    model = f"{tmp_path / 'joint.safetensors'}#merge=gentle"
    assert EvalRun(videos=tmp_path, data=data, model=model).find_rate("auto") == 3.0, "the head of the model"
    split = Split("one", ("here",), ("film",))
    for head_name, rule in ((head, FIXED_GRID), ("none", FOLLOW_SHOTS)):
        with Engine(tmp_path / head_name, colour_encoder()) as engine:
            run_of.fill_index(engine, split, head=head_name)
            assert engine.info().segment_rule == rule
