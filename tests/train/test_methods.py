"""Tests of the contract of training methods, and of adding a method as one file."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

import vidret.train.methods
from tests.train.small import METHODS, draw_captioned, ignores_lightning, make_module, make_trainer, open_data
from vidret.align.batches import TextBatch, take_rows
from vidret.align.ucofia_selection import KEPT
from vidret.data.dataset import RetrievalBatch
from vidret.errors import VidretError
from vidret.train.losses import add_terms
from vidret.train.methods import list_methods, load_method
from vidret.train.optim import parameter_groups

NUM_PAIRS = 3


@pytest.mark.parametrize("train_all", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_method_fulfils_its_contract(name: str, train_all: bool) -> None:
    settings = {"lora_rank": 2} if name in ("tempme", "joint") and not train_all else {}
    module, batch = make_module(name, train_all=train_all, **settings), draw_captioned(NUM_PAIRS)
    method, model = module.method, module.model
    terms = module.train().compute_terms(batch)
    assert terms
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    torch.autograd.backward(add_terms(terms))
    weights = dict(model.named_parameters())
    trained = {name for name, weight in weights.items() if weight.requires_grad}
    groups = parameter_groups(model, module._recipe.rule)
    assert trained == {name for group in groups for name in group["names"]}
    assert len({group["name"] for group in groups}) == len(groups), "Lightning's LearningRateMonitor needs a name each"
    assert trained == weights.keys() - method.recipe.unused or not train_all
    with_gradient = {name for name, weight in weights.items() if weight.grad is not None}
    assert with_gradient == trained, "a trained weight without a gradient would block DDP"

    texts, videos = model.eval().encode(batch)
    assert texts.mask is not None
    first = TextBatch(texts.sentences[:1], texts.words[:1], texts.mask[:1])
    with torch.no_grad():
        prepared = model.prepare(videos)
        whole, alone = model.score(texts, prepared), model.score(first, prepared)
    assert whole.shape == (NUM_PAIRS, NUM_PAIRS)
    torch.testing.assert_close(alone[0], whole[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in METHODS), ("ucofia", {"options": {"selection": False}})]
)
def test_padding_frames_have_no_effect(name: str, options: dict[str, Any]) -> None:
    module, batch = make_module(name, **options).eval(), draw_captioned(3)
    with torch.no_grad():
        for weight in module.model.parameters():  # identities and zeros would hide an effect
            weight.add_(torch.randn_like(weight), alpha=0.05)
    mask, black = batch.frame_mask.clone(), batch.pixels.clone()
    mask[1:, 7:], black[1:, 7:] = False, 0
    terms = [module.compute_terms(batch._replace(pixels=pixels, frame_mask=mask)) for pixels in (batch.pixels, black)]
    assert terms[0] == terms[1]


@pytest.mark.parametrize("name", METHODS)
def test_biases_norms_and_scales_trained_from_scratch_do_not_decay(name: str) -> None:
    module = make_module(name)
    groups = parameter_groups(module.model, module._recipe.rule)
    norms = [path for path, part in module.model.named_modules() if isinstance(part, nn.LayerNorm)]
    exempt = {f"{path}.weight" for path in norms}
    for group in groups:
        for weight in group["names"]:
            decays = not (weight in exempt or weight.endswith(("bias", "logit_scale")))
            assert (group["weight_decay"] > 0) == decays, weight


@pytest.mark.parametrize("name", METHODS)
def test_validation_keeps_what_scores_need_and_scores_batches_as_one(name: str) -> None:
    module, batch = make_module(name).eval(), draw_captioned(4)
    for rows in (slice(0, 3), slice(3, 4)):
        module.validation_step(take_rows(batch, rows), 0)
    with torch.no_grad():
        texts, videos = module.model.encode(batch)
        expected = module.model.score(texts, module.model.prepare(videos))
    scores, truth = module.score(module._evaluated)
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=1e-4)
    assert truth.tolist() == [0, 1, 2, 3]
    if name == "ucofia":
        kept = module._evaluated[0]["prepared"].tokens.shape
        assert kept == (3, 12 * (1 + KEPT), 32), "a video of 64 frames has 6 MB of tokens"


def test_options_are_passed_to_their_method() -> None:
    assert load_method("glscl", {"beta": 0.02}) == replace(cast(Any, load_method("glscl", {})), beta=0.02)
    with pytest.raises(VidretError, match=r"options of glscl must be of beta, .*, num_concepts, .*, got betta"):
        load_method("glscl", {"betta": 0.02})
    with pytest.raises(VidretError, match="options of clip must be of none, got beta"):
        load_method("clip", {"beta": 0.02})
    with pytest.raises(VidretError, match=r"method must be one of .*clip, glscl, .*xpool.*, got clap"):
        make_module("clap")


@pytest.mark.parametrize(
    ("method", "options", "rule"),
    [
        ("glscl", {"num_concepts": 0}, "num_concepts must be a whole number of at least 1, got 0"),
        ("glscl", {"num_concepts": 2.5}, "num_concepts must be a whole number of at least 1, got 2.5"),
        ("glscl", {"beta": "x"}, "beta must be a finite number of at least 0, got x"),
        ("glscl", {"share": float("nan")}, "share must be a finite number of at least 0, got nan"),
        ("joint", {"align_size": -1}, "align_size must be a whole number of at least 0, got -1"),
        ("longclip", {"stretch": 0}, "stretch must be a whole number of at least 1, got 0"),
        ("promptswitch", {"caption_weight": -1.0}, "caption_weight must be a finite number of at least 0, got -1.0"),
        ("tempme", {"full": "no"}, "full must be true or false, got no"),
        ("ucofia", {"selection": None}, "selection must be true or false, got None"),
        ("xpool", {"top": True}, "top must be a whole number of at least 0, got True"),
    ],
)
def test_impossible_options_are_refused(method: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(VidretError, match=f"^{rule}$"):
        load_method(method, options)


def test_options_may_be_0_where_that_turns_them_off() -> None:
    for method, options in (("glscl", {"share": 0}), ("xpool", {"top": 0}), ("longclip", {"stretch": None})):
        load_method(method, options)


NEW = '''
from dataclasses import dataclass
from typing import ClassVar

from vidret.train import optim
from vidret.train.methods.clip import Clip4Clip


@dataclass(frozen=True, slots=True)
class Warm:
    """Mean pooling with scaled cosines."""

    warmth: float = 1.0
    recipe: ClassVar[optim.Recipe] = optim.Recipe(optim.clip4clip_rule, optim.adamw_optimizer)

    def build(self, card, load):
        return Clip4Clip().build(card, load)

    def losses(self, model, batch, texts, videos):
        return {"warm": self.warmth * Clip4Clip().losses(model, batch, texts, videos)["contrast"]}


METHOD = Warm
'''


@ignores_lightning
def test_new_method_is_one_file(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "warm.py").write_text(NEW)
    monkeypatch.setattr(vidret.train.methods, "__path__", [*vidret.train.methods.__path__, str(tmp_path / "methods")])
    assert "warm" in list_methods()
    module = make_module("warm", options={"warmth": 2.0}, train_all=False, lr=None)
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=1, val_check_interval=1)
    trainer.fit(module, datamodule=open_data(world))
    assert float(trainer.callback_metrics["loss"]) == float(trainer.callback_metrics["loss/warm"])
    assert 0 <= float(trainer.callback_metrics["val/R@1"]) <= 100
    module.export(tmp_path / "warm.safetensors")
    assert module.model.encoder.card.method == "warm"


def test_joint_trains_prompts_and_positions_at_their_own_rates() -> None:
    module = make_module("joint", train_all=False, lora_rank=2, lr=None)
    groups = {group["name"]: group for group in parameter_groups(module.model, module.method.recipe.rule)}
    rates = {name: group["lr"] for name, group in groups.items()}
    assert rates == pytest.approx({"lora": 6e-4, "temporal": 6e-4, "prompts": 3e-4, "new": 1e-4, "new bias": 1e-4})
    assert all(name.startswith("encoder.vision.prompts.") for name in groups["prompts"]["names"])
    frozen = {name for name, weight in module.model.named_parameters() if not weight.requires_grad}
    assert {"encoder.logit_scale", "aligner.logit_scale", "encoder.text.proj"} <= frozen
    aligner: Any = module.model.aligner
    text = module.model.encoder.text
    assert torch.equal(aligner.temporal.positions, text.positions), "initialised from the text tower, with updates too"


def test_joint_aligns_within_groups_as_each_group_alone() -> None:
    whole = make_module("joint", options={"captions": False, "align_size": 2})
    batch, single = (
        draw_captioned(NUM_PAIRS)._replace(first_sentences=None),
        make_module("joint", options={"captions": False}),
    )
    with torch.no_grad():
        grouped, alone = (module.eval().compute_terms(batch) for module in (whole, single))
        tensors = [x for x in batch if x is not None]
        groups = [RetrievalBatch(*(x[group] for x in tensors)) for group in (slice(0, 2), slice(2, 3))]
        parts = [single.compute_terms(group)["align"] for group in groups]
    assert "caption" not in grouped
    torch.testing.assert_close(grouped["align"], (2 * parts[0] + parts[1]) / 3)
    torch.testing.assert_close(grouped["contrast"], alone["contrast"], msg="mean frames have all negatives")


def test_joint_needs_merging_and_prompts() -> None:
    with pytest.raises(VidretError, match="joint must have merging and prompts, got None and PromptShape"):
        make_module("joint", merging=None)
