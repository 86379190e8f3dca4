"""Joint files: a round trip of every part, what an index made with one does by itself, and parts that do not fit."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.fakes import write_film
from tests.grounded import write_head
from tests.rankers import save_aligner
from tests.train.small import TEXT, VISION, make_module
from vidret.align.files import describe_aligner, load_aligner
from vidret.channels.picture.calibration import load_calibration
from vidret.channels.picture.joint import join_files
from vidret.channels.picture.query_bank import QueryBank, find_bank, find_model_parts
from vidret.encode.clip.model import ClipModel, describe_towers, load_model, read_card, save_model
from vidret.encode.families.clip import load_towers
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.ground.checkpoint import load_head, save_head
from vidret.ground.universalvtg import UniversalVtg, save_universal
from vidret.model_files import (
    ALIGNER,
    BANK,
    CARD,
    HEAD,
    TRAINED_ON,
    Part,
    TrainedOn,
    average_files,
    read_part,
    read_part_cards,
    save_joint,
)
from vidret.store.store import Store

COLOURS = QueryBank(name="colours", queries=("red", "blue", "a dog", "two green cars", "night"))
SIZES: dict[str, Any] = {"width": 32, "text_width": 32, "num_layers": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of towers with merging, prompts and low-rank updates, and an aligner."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    make_module("all", lora_rank=2, train_all=False).export(path)
    return path


@pytest.fixture(scope="module")
def joint(model: Path) -> Path:
    head = write_head(model.with_name("head.safetensors"), backbone="elsewhere", **SIZES)
    join_files(model, [head], model.with_name("joint.safetensors"), bank=COLOURS)
    return model.with_name("joint.safetensors")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "red.mp4", ("red", 3))
    write_film(folder / "blue.mp4", ("blue", 3))
    return folder


def make_plain(path: Path, **changes: Any) -> Path:
    """Write towers of the shapes of ``model`` with the weights of seed 0."""
    torch.manual_seed(0)
    card = replace(make_module("clip").model.encoder.card, **changes)
    torch.manual_seed(0)
    save_model(ClipModel(card), path)
    return path


def test_a_joint_file_round_trips(model: Path, joint: Path) -> None:
    card = read_card(joint)
    assert card is not None
    assert card == read_card(model)
    assert card.merging is not None
    assert card.prompts is not None
    assert card.lora_rank == 2
    model_weights, other = (load_model(path, card).state_dict() for path in (model, joint))
    assert all(torch.equal(model_weights[name], other[name]) for name in model_weights)
    one, two = load_aligner(model), load_aligner(joint)
    assert describe_aligner(one).card == describe_aligner(two).card
    assert all(torch.equal(*pair) for pair in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    head, head_card = load_head(joint)
    expected, expected_card = load_head(model.with_name("head.safetensors"))
    assert head_card == replace(expected_card, backbone=str(joint)), "its own towers are the backbone"
    assert all(torch.equal(head.state_dict()[name], weight) for name, weight in expected.state_dict().items())
    assert find_bank(f"{joint}#whole") == COLOURS
    assert list(read_part_cards(joint)) == [ALIGNER, HEAD, BANK]
    plain, together = (load_encoder(str(path), precision="fp32") for path in (model, joint))
    assert plain.fingerprint == together.fingerprint
    with safe_open(joint, "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [CARD]
    assert json.loads(metadata[CARD])["format"] == 2, "so that older versions refuse it"


def test_files_without_parts_are_as_before(tmp_path: Path) -> None:
    path = make_plain(tmp_path / "plain.safetensors")
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()[CARD])["format"] == 1
    assert read_part_cards(path) == {}
    assert read_part(path, ALIGNER) is None
    save_file({"weight": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={CARD: "no card"})
    assert read_part_cards(tmp_path / "other.safetensors") == {}
    assert find_model_parts("ViT-B-32/openai")[1] == {}
    assert find_bank(str(path)) is None


def test_an_index_uses_every_part_by_itself(joint: Path, films: Path, tmp_path: Path) -> None:
    with Engine.open(tmp_path / "index", encoder=str(joint), precision="fp32") as engine:
        engine.index([films / "red.mp4"])
        assert engine.ranker.name == str(joint)
        assert engine.grounder is not None
        assert engine.grounder.path == joint
        assert list(engine.search("red", 1)[0].why) == ["picture", "segment", "frames", "words"]
        assert engine.locate("red", 1, weak=True)[0].by == "head"
    with Store.open(tmp_path / "index") as store:
        first = load_calibration(store, engine.ranker)
    assert first is not None
    assert (first.bank, first.num_queries, len(first.ids)) == ("colours", 5, 1)
    with Engine.open(tmp_path / "index", precision="fp32") as engine:
        assert engine.grounder is not None, "the index remembers"
        engine.index([films])
        assert len(engine.calibrate(["my own query", "another"], name="mine").ids) == 2
        engine.index([films])
    with Store.open(tmp_path / "index") as store:
        kept = load_calibration(store, engine.ranker)
    assert kept is not None
    assert kept.bank == "mine", "a calibration with another bank stays"


def test_new_segments_are_calibrated_too(joint: Path, films: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "third.mp4", ("green", 3))
    with Engine.open(tmp_path / "index", encoder=str(joint), precision="fp32", head="none") as engine:
        engine.index([films / "red.mp4"])
        for paths, num_measured in (([films], 2), ([tmp_path / "third.mp4"], 2)):
            engine.index(paths)
            with Store.open(tmp_path / "index") as store:
                calibration = load_calibration(store, engine.ranker)
                assert calibration is not None
                assert not len(calibration.find_unknown(store.searchable()))
                assert calibration.num_measured == num_measured, "a third is added to two"
        assert engine.grounder is None
    with Engine.open(tmp_path / "index", precision="fp32") as engine:
        assert engine.grounder is None, "the index was made without a head"


def test_runs_calibrate_until_that_is_taken_back(
    joint: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Engine.open(tmp_path / "index", encoder=str(joint), precision="fp32", head="none") as engine:

        def find() -> tuple[str, int] | None:
            engine.index([films])
            found = load_calibration(engine._index.store, engine.ranker)
            return None if found is None else (found.bank, len(found.ids))

        assert find() == ("colours", 2)
        with monkeypatch.context() as patch:
            patch.setattr("vidret.search.preparation.calibrate_with_bank", lambda *_: None)  # as if interrupted
            write_film(tmp_path / "late.mp4", ("white", 2))
            engine.index([tmp_path / "late.mp4"])
        engine.search("a dog")
        assert "calibrat" not in caplog.text, "nobody asked for a calibration"
        engine.forget_calibration()
        assert find() is None
        engine.calibrate(["a dog"])
        assert find() == ("bank", 3)


def test_towers_take_merging_and_prompts_of_other_models(tmp_path: Path) -> None:
    base = make_plain(tmp_path / "base.safetensors")
    parts = []
    for name, added in (("tempme", {"lora_rank": 2}), ("promptswitch", {})):
        module = make_module(name, **added)
        if name == "tempme":  # as published: on the weights of the plain towers
            module.model.encoder.load_state_dict(load_file(base), strict=False)
        parts.append(tmp_path / f"{name}.safetensors")
        module.export(parts[-1])
    notes = join_files(base, parts, tmp_path / "joint.safetensors")
    assert "token merging, low-rank updates: of" in notes[1]
    assert "was trained on these weights" in notes[1]
    assert "prompts: of" in notes[2]
    assert "was trained on other weights: evaluate the result" in notes[2]
    card = read_card(tmp_path / "joint.safetensors")
    assert card is not None
    assert (card.method, card.lora_rank) == ("joint", 2)
    assert card.merging is not None
    assert card.prompts is not None
    weights, sources = load_file(tmp_path / "joint.safetensors"), [load_file(path) for path in (base, *parts)]
    assert all(torch.equal(weights[name], weight) for name, weight in sources[0].items())
    for name in weights.keys() - sources[0].keys():
        assert any(name in source and torch.equal(weights[name], source[name]) for source in sources[1:])
    load_encoder(str(tmp_path / "joint.safetensors"))


def test_a_file_that_is_joined_or_averaged_knows_what_each_was_trained_on(tmp_path: Path) -> None:
    towers, again, head, out = (tmp_path / f"{name}.safetensors" for name in ("towers", "again", "head", "out"))
    plain = make_plain(tmp_path / "plain.safetensors")
    part = describe_towers(load_towers(str(plain)))
    save_joint(towers, part, {}, TrainedOn.describe("clips", ["a", "b"]))
    save_joint(again, part, {}, TrainedOn.describe("clips", ["b", "c"]))
    loaded, card = load_head(write_head(tmp_path / "own.safetensors", backbone="elsewhere", **SIZES))
    save_joint(head, Part(json.loads(card.to_json()), loaded.state_dict()), {}, TrainedOn.describe("films", ["d"]))
    join_files(towers, [head], out)
    assert TrainedOn.read(out) == ("clips and films", sorted(TrainedOn.describe("", "abd").digests))
    assert TRAINED_ON not in read_part_cards(out)[HEAD]
    for first, second, videos in ((towers, again, "abc"), (plain, towers, "ab"), (towers, plain, "ab")):
        average_files(first, second, out)
        assert TrainedOn.read(out) == ("clips", sorted(TrainedOn.describe("", videos).digests))
        assert read_card(out) == read_card(second)


def test_a_model_is_replaced_and_not_written_in_place(tmp_path: Path) -> None:
    head, card = load_head(write_head(tmp_path / "head.safetensors", backbone="elsewhere", **SIZES))
    plain = make_plain(tmp_path / "plain.safetensors")
    part = describe_towers(load_towers(str(plain)))
    path, kept = tmp_path / "new" / "model.safetensors", tmp_path / "kept"
    writes: list[Callable[[], None]] = [
        lambda: save_joint(path, part, {}),
        lambda: average_files(plain, plain, path),
        lambda: save_head(head, card, path),
        lambda: save_universal(UniversalVtg(32, 32, 64), path),
    ]
    for write in writes:
        path.parent.mkdir(exist_ok=True)
        path.write_text("an old model, which is read meanwhile")
        kept.unlink(missing_ok=True)
        kept.hardlink_to(path)
        write()
        assert kept.read_text() == "an old model, which is read meanwhile"
        assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
        assert path.stat().st_size > 100


def test_a_head_that_reads_vectors_fits_by_their_dimension(films: Path, tmp_path: Path) -> None:
    base, out = make_plain(tmp_path / "base.safetensors"), tmp_path / "joint.safetensors"
    head = write_head(tmp_path / "head.safetensors", reads="vectors", **(SIZES | {"width": 34}))
    assert "fits vectors of 34 and 32" in join_files(base, [head], out)[-1]
    with Engine.open(tmp_path / "index", encoder=str(out), precision="fp32") as engine:
        engine.index([films / "red.mp4"])
        assert engine.locate("red", 1, weak=True)[0].by == "head"
    wide = write_head(tmp_path / "wide.safetensors", reads="vectors", **(SIZES | {"width": 42}))
    with pytest.raises(VidretError, match=r"must read vectors of 34 \(frames\) and 32 \(words\), got 42 and 32"):
        join_files(base, [wide], tmp_path / "out.safetensors")


WRONG: dict[str, tuple[str, Callable[[Path], object]]] = {
    "dim": ("the aligner must be for vectors of 32, got 8", lambda path: save_aligner(make_aligner(8), path)),
    "width": (
        r"the head must read layers of 32 \(frames\) and 32 \(words\), got 24 and 32",
        lambda path: write_head(path, **(SIZES | {"width": 24})),
    ),
    "plain": ("must have token merging, prompts or a part to add, got plain towers", make_plain),
    "noise": ("header", lambda path: path.write_bytes(b"noise")),
    "unknown": ("must have the card of a grounding head", lambda path: save_file({"weight": torch.zeros(1)}, path)),
}


def make_aligner(dim: int) -> Any:
    return make_module("ucofia", vision=replace(VISION, dim=dim), text=replace(TEXT, dim=dim)).model.aligner


@pytest.mark.parametrize("kind", WRONG)
def test_a_part_that_does_not_fit_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    reason, write = WRONG[kind]
    base, part = make_plain(tmp_path / "base.safetensors"), tmp_path / "part.safetensors"
    write(part)
    with pytest.raises(VidretError, match=reason) as caught:
        join_files(base, [part], tmp_path / "joint.safetensors")
    assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "joint.safetensors").exists()


def test_a_model_keeps_what_it_has(model: Path, joint: Path, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"has merging, and .*model.safetensors has its own already"):
        join_files(model, [joint], tmp_path / "out.safetensors")
    head = write_head(tmp_path / "head.safetensors", **SIZES)
    with pytest.raises(VidretError, match=r"joint.safetensors has the part head already"):
        join_files(joint, [head], tmp_path / "out.safetensors")
    with pytest.raises(VidretError, match=r"must be a model of vidret, as vidret convert writes, got a part of one"):
        join_files(head, [joint], tmp_path / "out.safetensors")
    other = make_plain(tmp_path / "other.safetensors", vision=replace(VISION, layers=3))
    with pytest.raises(VidretError, match="its towers must have the shapes of those of"):
        join_files(other, [model], tmp_path / "out.safetensors")
    shifting = make_plain(tmp_path / "shifting.safetensors", token_shift=True)
    with pytest.raises(VidretError, match=r"model.safetensors: does not fit .*: token_shift must come without"):
        join_files(shifting, [model], tmp_path / "out.safetensors")


def test_a_damaged_bank_is_refused(tmp_path: Path) -> None:
    towers = describe_towers(make_module("clip").model.encoder)
    save_joint(tmp_path / "model.safetensors", towers, {BANK: COLOURS.to_part()._replace(card={"name": "colours"})})
    with pytest.raises(VidretError, match=r"its bank must have a name, queries and a temperature, got \['name'\]"):
        find_bank(str(tmp_path / "model.safetensors"))
    with pytest.raises(VidretError, match=r"weights of the towers must not be called text\.\*, got text\."):
        save_joint(tmp_path / "model.safetensors", towers, {"text": COLOURS.to_part()})


def test_an_aligner_keeps_its_unit_tokens(tmp_path: Path) -> None:
    aligner: Any = make_module("ucofia").model.aligner
    aligner.unit_tokens = True
    save_aligner(aligner, tmp_path / "aligner.safetensors")
    loaded: Any = load_aligner(tmp_path / "aligner.safetensors")
    assert loaded.unit_tokens
