"""Tests of vidret convert."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.runner import Runner
from tests.goldens import check_close, find_cases
from tests.ground.universalvtg.samples import make_head, make_inputs
from tests.grounded import write_head
from tests.published_checkpoints import SMALL, make_checkpoint
from tests.rankers import make_published_weights
from tests.train.small import make_module
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.clip.model import read_card
from vidret.encode.clip.tempme import MergeSchedule
from vidret.ground.checkpoint import load_head, read_head_card
from vidret.ground.universalvtg.network import is_universal, load_universal
from vidret.model_files import read_part_cards
from vidret.store.store import Store


@pytest.mark.parametrize(("source", "options"), [("tempme", ()), ("promptswitch", ("--clip-frames", "6"))])
def test_converted_checkpoint_is_a_model(
    source: str,
    options: tuple[str, ...],
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = load_file(Path(__file__).parents[2] / "goldens" / source / "case_a" / "state_dict.safetensors")
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


@pytest.mark.parametrize("method", ["ucofia", "glscl"])
def test_converted_checkpoint_comes_with_its_aligner(
    method: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Runner(monkeypatch, capsys)
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "model.safetensors"
    weights = make_published_weights(method)
    save_file({**weights, "extra.weight": torch.ones(1)}, checkpoint)
    code, _, err = run("convert", checkpoint, out, "--from", method)
    assert code == 1
    assert "published.safetensors: " in err
    assert "1 weights unknown: extra.weight" in err
    assert not out.exists(), "all is well, or nothing is written"
    save_file(weights, checkpoint)
    code, _, err = run("convert", checkpoint, out, "--from", method)
    assert code == 0
    assert f"model.safetensors: {method} with its aligner on" in err
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.safetensors"], "one file"
    run("index", films, "--index", tmp_path / "index", "--model", out)
    levels = {"ucofia": ["segment", "frames", "words"], "glscl": ["pooled", "concepts"]}[method]
    hits = json.loads(run("search", "a dog", "--index", tmp_path / "index", "--json")[1])
    assert [list(hit["why"]) for hit in hits] == [["picture", *levels]] * 2
    code, _, err = run("index", films, "--index", tmp_path / "index", "--model", out, "--rerank", "none")
    assert code == 1
    assert "model.safetensors, which the index was built with, got none" in err


@pytest.mark.parametrize("recipe", RECIPES)
def test_converted_head_has_the_settings_of_its_benchmark(run: Runner, tmp_path: Path, recipe: str) -> None:
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
    run.check_refusal(
        ("convert", checkpoint, tmp_path / "no.safetensors", "--from", "r2tuning"), 1, "1 weights unknown: extra.weight"
    )
    assert not (tmp_path / "no.safetensors").exists()


def test_models_are_joined_to_one_file(run: Runner, tmp_path: Path) -> None:
    base, bank, out = tmp_path / "base.safetensors", tmp_path / "queries.txt", tmp_path / "joint.safetensors"
    make_module("ucofia").export(base)
    bank.write_text("\n".join(f"query {number}" for number in range(700)))
    head = write_head(tmp_path / "head.safetensors", width=32, text_width=32, num_layers=1)
    code, data, err = run("convert", base, out, "--from", "vidret", "--with", head, "--with", bank)
    assert (code, data) == (0, "")
    assert "towers: ucofia on own, of" in err
    assert "trained on tiny; fits layers of 32 and 32" in err
    assert "bank: 500 queries of queries.txt, with which every index is calibrated" in err
    assert f"{out}: use it as --model {out}" in err
    assert list(read_part_cards(out)) == ["aligner", "head", "bank"]
    assert read_part_cards(out)["bank"]["queries"][-1] == "query 698", "an even sample"


def test_weights_of_two_models_are_averaged(run: Runner, tmp_path: Path) -> None:
    before, after, out = (tmp_path / f"{name}.safetensors" for name in ("before", "after", "out"))
    make_module("clip").export(before)
    weights = load_file(before)
    with safe_open(before, "pt") as file:
        metadata = file.metadata()
    changed = {name: weight + 1 for name, weight in weights.items()}
    save_file(changed, after, metadata=metadata)
    for options, share in (((), 0.5), (("--weight", "0.25"), 0.25)):
        code, _, err = run("convert", before, out, "--from", "vidret", "--average", after, *options)
        assert code == 0, err
        assert f"{share:g} of {after}" in err
        assert read_card(out) == read_card(after)
        for name, weight in load_file(out).items():
            torch.testing.assert_close(weight, weights[name] + share)


def test_what_cannot_be_averaged_is_refused(run: Runner, tmp_path: Path) -> None:
    model, other, plain, out = (tmp_path / f"{name}.safetensors" for name in ("model", "other", "plain", "out"))
    make_module("clip").export(model)
    make_module("promptswitch").export(other)
    save_file(load_file(model), plain)
    average = ("convert", model, out, "--from", "vidret", "--average")
    run.check_refusal((*average, other), 1, "must have the weights of")
    run.check_refusal((*average, plain), 1, "must be a model of vidret")
    run.check_refusal((*average, tmp_path / "gone.safetensors"), 1, "gone.safetensors")
    run.check_refusal((*average, model, "--weight", "2"), 1, "weight must be from 0 to 1, got 2")
    tempme = ("convert", model, out, "--from", "tempme", "--average", model)
    run.check_refusal(tempme, 2, "needs --from vidret, without --with and --merge")
    assert not out.exists()


def test_a_text_is_no_checkpoint(run: Runner, tmp_path: Path) -> None:
    (tmp_path / "bank.txt").write_text("a dog\n")
    code, _, err = run("convert", tmp_path / "bank.txt", tmp_path / "out.safetensors", "--from", "tempme")
    assert code == 1
    rule = "must be a readable file of nothing but named tensors: neither PyTorch nor safetensors wrote it"
    assert f"bank.txt: {rule}" in err


def test_what_cannot_be_joined_is_refused(run: Runner, tmp_path: Path) -> None:
    base, out, empty = tmp_path / "base.safetensors", tmp_path / "joint.safetensors", tmp_path / "empty.txt"
    make_module("clip").export(base)
    empty.write_text("\n")
    wide = write_head(tmp_path / "head.safetensors")
    for options, reason in (
        (("vidret",), "must name a part to add"),
        (("tempme", "--with", wide), "needs --from vidret, got tempme"),
        (("vidret", "--with", wide), "the head must read layers of 32"),
        (("vidret", "--with", empty), "a bank must hold at least 10 queries, got 0"),
        (("vidret", "--with", empty, "--with", empty), "a model must have one bank of queries, got 2"),
    ):
        code, _, err = run("convert", base, out, "--from", *options)
        assert code != 0
        assert reason in " ".join(err.replace("│", " ").split())
        assert not out.exists()


def test_attention_of_tempme_may_ignore_the_sizes_of_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(make_checkpoint("tempme", SMALL), tmp_path / "published.safetensors")
    for options, proportional in (((), True), (("--not-proportional",), False)):
        out = tmp_path / "model.safetensors"
        convert = ("convert", tmp_path / "published.safetensors", out, "--from", "tempme", *options)
        assert Runner(monkeypatch, capsys)(*convert)[0] == 0
        card = read_card(out)
        assert card is not None
        assert card.merging == MergeSchedule(proportional=proportional)


def test_universalvtg_is_converted_from_its_averaged_weights(run: Runner, tmp_path: Path) -> None:
    head, checkpoint, out = make_head().float(), tmp_path / "best.pth", tmp_path / "head.safetensors"
    other = make_head(seed=1).state_dict()
    torch.save({"model": other, "model_ema": head.state_dict(), "epoch": 7}, checkpoint)
    code, _, err = run("convert", checkpoint, out, "--from", "universalvtg")
    assert (code, "use it as --head" in err) == (0, True)
    loaded, backbone = load_universal(out)
    assert backbone == "PE-Core-L-14-336/meta"
    frames, words = (tensor.float() for tensor in make_inputs(20, 3))
    with torch.no_grad():
        torch.testing.assert_close(loaded(frames, words)[0], head(frames, words)[0])
    assert is_universal(out)
    assert not is_universal(checkpoint)


def test_videoprism_needs_its_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Runner(monkeypatch, capsys)
    code, _, err = run("convert", tmp_path / "lvt.npz", tmp_path / "out", "--from", "videoprism")
    assert code == 2
    assert "must be the vocabulary of VideoPrism" in err
    code, _, err = run(
        "convert", tmp_path / "lvt.npz", tmp_path / "out", "--from", "videoprism", "--with", tmp_path / "spiece.model"
    )
    assert code == 1
    assert "lvt.npz: must be an .npz of arrays" in err
