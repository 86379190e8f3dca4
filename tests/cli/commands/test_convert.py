"""Tests of vidret convert, and of --merge: an index remembers it, and nothing mixes vectors of different merging."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.cli.runner import Runner
from tests.goldens import check_close, find_cases
from tests.ground.universalvtg_samples import make_head, make_inputs
from tests.grounded import write_head
from tests.published_checkpoints import SMALL, make_checkpoint
from tests.rankers import make_published_weights
from tests.train.small import make_module
from vidret.cli.opening import choose_merge
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.clip.model import read_card
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.names import parse_model_name, resolve_name
from vidret.ground.checkpoint import load_head, read_head_card
from vidret.ground.universalvtg import is_universal, load_universal
from vidret.ground.windows import LENGTH
from vidret.model_files import read_part_cards
from vidret.store.store import Store


@pytest.mark.parametrize(("source", "options"), [("tempme", ()), ("promptswitch", ("--clip-frames", "12"))])
def test_converted_checkpoint_is_a_model(
    source: str, options: tuple[str, ...], films: Path, real_run: Runner, tmp_path: Path
) -> None:
    weights = load_file(Path(__file__).parents[2] / "goldens" / source / "case_a" / "state_dict.safetensors")
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "model.safetensors"
    convert, index = ("convert", checkpoint, out, "--from", source, *options), ("index", films, "--model", out)
    save_file(weights, checkpoint)
    real_run.out(*convert)
    real_run.check_refusal(index, 1, "vocabulary must be CLIP's 49408 word pieces, got 512")

    name = next(name for name in weights if name.endswith("token_embedding.weight"))
    weights[name] = torch.randn(49408, weights[name].shape[1], generator=torch.Generator().manual_seed(0))
    save_file({key: weight for key, weight in weights.items() if not key.startswith("caption_head")}, checkpoint)
    real_run.out(*convert)
    card = read_card(out)
    assert card is not None
    assert card.prompts == (PromptShape(6, 12) if source == "promptswitch" else None)
    real_run.out(*index)
    with Store.open(tmp_path / "index") as store:
        assert (store.encoder_name, store.info().searchable) == (str(out), 2)
    real_run.check_refusal(("convert", checkpoint, out, "--from", "ucofia"), 1, "weights unknown")
    real_run.check_refusal(("convert", checkpoint, out, "--from", "clip4clip"), 2, "must be one of tempme, ")


@pytest.mark.parametrize("method", ["ucofia", "glscl"])
def test_converted_checkpoint_has_its_aligner(method: str, films: Path, real_run: Runner, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "model.safetensors"
    weights = make_published_weights(method)
    convert = ("convert", checkpoint, out, "--from", method)
    save_file({**weights, "extra.weight": torch.ones(1)}, checkpoint)
    real_run.check_refusal(convert, 1, "1 weight unknown: extra.weight")
    assert not out.exists(), "all is well, or nothing is written"
    save_file(weights, checkpoint)
    assert f"model.safetensors: {method} with its aligner on" in real_run.err(*convert)
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.safetensors"], "one file"
    real_run.out("index", films, "--model", out)
    levels = {"ucofia": ["segment", "frames", "words"], "glscl": ["pooled", "concepts"]}[method]
    assert [list(hit["why"]) for hit in real_run.json("search", "a dog")] == [["picture", *levels]] * 2
    rule = "model.safetensors, which the index was built with, got none"
    real_run.check_refusal(("index", films, "--model", out, "--rerank", "none"), 1, rule)


@pytest.mark.parametrize("recipe", RECIPES)
def test_converted_head_has_the_settings_of_its_benchmark(run: Runner, tmp_path: Path, recipe: str) -> None:
    weights = find_cases("r2tuning")[0].weights
    checkpoint, out = tmp_path / "published.safetensors", tmp_path / "head.safetensors"
    convert = ("convert", checkpoint, out, "--from", "r2tuning", "--recipe", recipe, "--backbone", "tiny/random")
    save_file(weights, checkpoint)
    assert "head.safetensors: a grounding head for tiny/random; use it as --head" in run.err(*convert)
    card = read_head_card(out)
    plain = {"fps": None, "suppression": None, "threshold": None, "unit": None, "window": LENGTH}
    facts = {name: getattr(card, name) for name in ("backbone", *plain)}
    assert facts == {"backbone": "tiny/random"} | plain | RECIPES[recipe]
    check_close(load_head(out)[0].block.gates, weights["adapter.gate"].flatten())
    again = ("convert", out, tmp_path / "again.safetensors", "--from", "r2tuning")
    run.check_refusal(
        again, 1, "head.safetensors: must be a published checkpoint, got a head of vidret: use it as --head"
    )


def test_models_are_joined_to_one_file(run: Runner, tmp_path: Path) -> None:
    base, bank, out = tmp_path / "base.safetensors", tmp_path / "queries.txt", tmp_path / "joint.safetensors"
    make_module("ucofia").export(base)
    bank.write_text("\n".join(f"query {query_index}" for query_index in range(700)))
    head = write_head(tmp_path / "head.safetensors", width=32, text_width=32, num_layers=1)
    err = run.err("convert", base, out, "--from", "vidret", "--with", head, "--with", bank)
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
        save_file({name: weight + 1 for name, weight in weights.items()}, after, metadata=file.metadata())
    for options, share in (((), 0.5), (("--weight", "0.25"), 0.25)):
        err = run.err("convert", before, out, "--from", "vidret", "--average", after, *options)
        assert f"{share:g} of {after}" in err
        assert read_card(out) == read_card(after)
        for name, weight in load_file(out).items():
            torch.testing.assert_close(weight, weights[name] + share)


def test_what_cannot_be_averaged_or_joined_is_refused(run: Runner, tmp_path: Path) -> None:
    base, other, plain, out = (tmp_path / f"{name}.safetensors" for name in ("base", "other", "plain", "out"))
    make_module("clip").export(base)
    make_module("promptswitch").export(other)
    save_file(load_file(base), plain)
    empty, wide = tmp_path / "empty.txt", write_head(tmp_path / "head.safetensors")
    empty.write_text("\n")
    for options, code, reason in (
        (("vidret", "--average", other), 1, "must have the weights of"),
        (("vidret", "--average", plain), 1, "must be a model of vidret"),
        (("vidret", "--average", tmp_path / "gone.safetensors"), 1, "gone.safetensors"),
        (("vidret", "--average", base, "--weight", "2"), 2, "weight must be from 0 to 1, got 2"),
        (("tempme", "--average", base), 2, "needs --from vidret, without --with and --merge"),
        (("vidret",), 2, "must name a part to add"),
        (("tempme", "--with", wide), 2, "needs --from vidret, got tempme"),
        (("vidret", "--with", wide), 1, "the head must read layers of 32"),
        (("vidret", "--with", empty), 1, "a bank must hold at least 10 queries, got 0"),
        (("vidret", "--with", empty, "--with", empty), 1, "a model must have one bank of queries, got 2"),
    ):
        run.check_refusal(("convert", base, out, "--from", *options), code, reason)
        assert not out.exists()


def test_what_is_no_checkpoint_is_refused(run: Runner, tmp_path: Path) -> None:
    bank, out = tmp_path / "bank.txt", tmp_path / "out.safetensors"
    bank.write_text("a dog\n")
    rule = "must be a readable file of nothing but named tensors: neither PyTorch nor safetensors wrote it"
    for method in ("tempme", "r2tuning", "universalvtg"):
        run.check_refusal(("convert", bank, out, "--from", method), 1, f"error: {bank}: {rule}")
    prism = ("convert", tmp_path / "lvt.npz", tmp_path / "out", "--from", "videoprism")
    run.check_refusal(prism, 2, "must be the vocabulary of VideoPrism")
    run.check_refusal((*prism, "--with", tmp_path / "spiece.model"), 1, "lvt.npz: must be an .npz of arrays")
    save_file({**find_cases("r2tuning")[0].weights, "extra.weight": torch.ones(1)}, tmp_path / "odd.safetensors")
    odd = ("convert", tmp_path / "odd.safetensors", out, "--from", "r2tuning")
    run.check_refusal(odd, 1, "1 weight unknown: extra.weight")
    assert not out.exists()


def test_attention_of_tempme_may_ignore_the_sizes_of_tokens(real_run: Runner, tmp_path: Path) -> None:
    published, out = tmp_path / "published.safetensors", tmp_path / "model.safetensors"
    save_file(make_checkpoint("tempme", SMALL), published)
    for options, proportional in (((), True), (("--not-proportional",), False)):
        real_run.out("convert", published, out, "--from", "tempme", *options)
        card = read_card(out)
        assert card is not None
        assert card.merging == MergeSchedule(proportional=proportional)


def test_universalvtg_is_converted_from_its_averaged_weights(run: Runner, tmp_path: Path) -> None:
    head, checkpoint, out = make_head().float(), tmp_path / "best.pth", tmp_path / "head.safetensors"
    torch.save({"model": make_head(seed=1).state_dict(), "model_ema": head.state_dict(), "epoch": 7}, checkpoint)
    assert "use it as --head" in run.err("convert", checkpoint, out, "--from", "universalvtg")
    loaded, backbone = load_universal(out)
    assert backbone == "PE-Core-L-14-336/meta"
    frames, words = (tensor.float() for tensor in make_inputs(20, 3))
    with torch.no_grad():
        torch.testing.assert_close(loaded(frames, words)[0], head(frames, words)[0])
    assert is_universal(out)
    assert not is_universal(checkpoint)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers") / "clip.safetensors"
    make_module("clip").export(path)
    return path


def test_an_index_and_a_converted_model_remember_how_tokens_merge(
    real_run: Runner, films: Path, model: Path, tmp_path: Path
) -> None:
    real_run.out("index", films, "--model", model, "--merge", "gentle")
    assert real_run.json("info")["encoder_name"] == f"{model}#merge=gentle"
    real_run.out("search", "red")
    real_run.out("index", films, "--merge", "gentle")
    code, _, err = real_run("index", films, "--merge", "off")
    assert (code, "merge must be gentle, which the index was built with, got off" in err) == (1, True)
    assert "vidret reindex" in err
    assert real_run("index", films, "--model", model)[0] == 1
    real_run.out("reindex", "--merge", "off")
    assert real_run.json("info")["encoder_name"] == str(model)
    out = tmp_path / "merged.safetensors"
    real_run.out("convert", model, out, "--from", "vidret", "--merge", "gentle")
    card = read_card(out)
    assert card is not None
    assert card.merging is not None
    assert card.merging.layers == ()


def test_a_short_name_that_merges_can_do_without(tmp_path: Path) -> None:
    full = "ViT-B-32/laion2b_s34b_b79k"
    assert str(resolve_name(parse_model_name("small"))) == f"{full}#merge=gentle"
    assert str(resolve_name(parse_model_name("small#merge=half"))) == f"{full}#merge=half"
    assert choose_merge("off", "small", tmp_path / "index") == full
    assert choose_merge(None, full, tmp_path / "index") == full
