"""Tests of the optimisers: parameter groups, the update and the schedules."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tests.train.small import sample
from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.errors import VidretError
from vidret.layers import TemporalTransformer
from vidret.train.captioner import Captioner
from vidret.train.methods.glscl import Glscl
from vidret.train.methods.promptswitch import PromptSwitch
from vidret.train.methods.tempme import TempMe
from vidret.train.methods.ucofia import Ucofia
from vidret.train.optim import (
    BertAdam,
    Rule,
    adamw_optimizer,
    bert_optimizer,
    clamp_scale,
    clip4clip_rule,
    falling_schedule,
    parameter_groups,
    r2_optimizer,
    warm_then_drop,
)

VISION = VisionShape(224, 32, 768, 12, 12, 512, quick_gelu=True)
TEXT = TextShape(77, 49408, 512, 12, 8, 512, quick_gelu=True)
PLAIN = 151_277_313  # all weights of CLIP ViT-B/32
INPUTS = {
    "encoder.text.embedding.weight": 49408 * 512,
    "encoder.text.positions": 77 * 512,
    "encoder.vision.class_embedding": 768,
    "encoder.vision.positions": 50 * 768,
    "encoder.vision.patches.weight": 768 * 3 * 32 * 32,
    "encoder.vision.ln_pre.weight": 768,
    "encoder.vision.ln_pre.bias": 768,
}


def build(**modules: Callable[[], nn.Module]) -> nn.ModuleDict:
    """Return a full-size model on the meta device, which takes no memory."""
    with torch.device("meta"):
        return nn.ModuleDict({name: make() for name, make in modules.items()})


def make_clip(**settings: Any) -> ClipModel:
    return ClipModel(Card("any", "ViT-B-32", VISION, TEXT, **settings))


def make_aligner() -> Aligner:
    return Aligner(
        temporal=TemporalTransformer(512),
        selector=PatchSelector(ScoreNet(512)),
        mixing=Mixing(512, num_frames=12, num_words=32, num_tokens=48),
        unit_tokens=False,
    )


class Grouped:
    """The groups of a model's weights: rate, decay and size of each, its names, and what is frozen."""

    def __init__(self, model: nn.Module, rule: Rule) -> None:
        groups, named = parameter_groups(model, rule), dict(model.named_parameters())
        listed = [pair for group in groups for pair in zip(group["names"], group["params"], strict=True)]
        assert len(listed) == len({name for name, _ in listed}), "each trained weight is in one group"
        assert all(named[name] is weight for name, weight in listed)
        assert {name for name, _ in listed} == {name for name, weight in named.items() if weight.requires_grad}
        self.names = {group["name"]: set(group["names"]) for group in groups}
        self.table = {
            group["name"]: (group["lr"], group["weight_decay"], sum(weight.numel() for weight in group["params"]))
            for group in groups
        }
        self.frozen = {name for name, weight in named.items() if not weight.requires_grad}
        self.num_frozen = sum(named[name].numel() for name in self.frozen)


def test_tempme_trains_half_a_million_weights() -> None:
    model = build(encoder=partial(make_clip, merging=MergeSchedule(), lora_rank=8))
    found = Grouped(model, TempMe().recipe.rule)
    assert found.table == {"temporal": (6e-4, 0.2, 16_128), "lora": (6e-4, 0.2, 294_912 + 196_608)}
    assert sum(size for _, _, size in found.table.values()) == 507_648
    assert "encoder.vision.temporal.8" in found.names["temporal"]
    assert {"encoder.vision.blocks.0.attn.lora.a", "encoder.text.blocks.11.attn.lora.b"} <= found.names["lora"]
    assert "encoder.logit_scale" in found.frozen
    assert found.num_frozen == PLAIN
    assert not Grouped(model, Glscl.recipe.rule).frozen, "another recipe unfreezes them"
    with pytest.raises(ValueError, match="model must have weights that the recipe trains, got none"):
        parameter_groups(build(encoder=make_clip), TempMe().recipe.rule)


def test_prompt_switch_trains_all_weights() -> None:
    model = build(
        encoder=partial(make_clip, prompts=PromptShape()), captioner=lambda: Captioner(torch.empty(49408, 512))
    )
    captioner = sum(weight.numel() for weight in model["captioner"].parameters())
    assert Grouped(model, PromptSwitch.recipe.rule).table == {
        "clip": (1e-6, 0.2, PLAIN),
        "new": (1e-5, 0.2, 27_648 + captioner),
        "aggregation": (1e-6, 0.2, 2_362_368),
    }


def test_ucofia_trains_new_weights_fast_and_clip_slowly() -> None:
    model = build(encoder=partial(make_clip, token_shift=True), aligner=make_aligner)
    found = Grouped(model, Ucofia.recipe.rule)
    table, groups = found.table, found.names
    assert {name: facts[:2] for name, facts in table.items()} == {
        "clip": (pytest.approx(1e-7), 0.2),
        "clip bias": (pytest.approx(1e-7), 0.0),
        "new": (1e-4, 0.2),
        "new bias": (1e-4, 0.0),
    }
    aligner = sum(weight.numel() for weight in model["aligner"].parameters())
    # The aligner's scale is in CLIP's group.
    assert table["new"][2] + table["new bias"][2] == aligner - 1
    assert table["clip"][2] + table["clip bias"][2] == PLAIN - sum(INPUTS.values())
    assert found.frozen == {*INPUTS, "encoder.logit_scale"}
    assert "aligner.logit_scale" in groups["clip"]
    assert "encoder.vision.blocks.0.attn.in_proj_bias" in groups["clip bias"]
    assert "encoder.vision.blocks.0.ln_1.weight" in groups["clip"], "norms decay, as published"
    assert {"aligner.temporal.positions", "aligner.mixing.frames"} <= groups["new"]
    assert all(name.endswith("bias") for name in groups["clip bias"] | groups["new bias"])
    assert not any("bias" in name for name in groups["clip"] | groups["new"])


def test_glscl_trains_embeddings_and_clip4clip_freezes_them() -> None:
    aligner = partial(ConceptAligner, temporal=TemporalTransformer(512), finder=ConceptFinder(512))
    glscl = Grouped(build(encoder=make_clip, aligner=aligner), Glscl.recipe.rule)
    assert glscl.table["clip"][2] + glscl.table["clip bias"][2] == PLAIN
    assert not glscl.frozen
    assert glscl.table["new"][:2] == (1e-4, 0.2)
    clip4clip = Grouped(build(encoder=make_clip), partial(clip4clip_rule, lr=2e-4))
    assert clip4clip.table.keys() == {"clip", "clip bias"}
    assert clip4clip.table["clip"][0] == pytest.approx(2e-7)
    assert clip4clip.frozen == INPUTS.keys()


# BertAdam's step.


def naive_steps(
    weight: list[float], grads: list[list[float]], *, lrs: list[float], weight_decay: float, max_norm: float
) -> list[float]:
    """Return a weight after several updates, computed element by element."""
    mean, square = [0.0] * len(weight), [0.0] * len(weight)
    for grad, lr in zip(grads, lrs, strict=True):
        norm = math.sqrt(sum(value * value for value in grad))
        scale = min(1.0, max_norm / (norm + 1e-6))
        for i, value in enumerate(grad):
            mean[i] = 0.9 * mean[i] + 0.1 * scale * value
            square[i] = 0.98 * square[i] + 0.02 * (scale * value) ** 2
            change = mean[i] / (math.sqrt(square[i]) + 1e-6) + weight_decay * weight[i]
            weight[i] -= lr * change
    return weight


@pytest.mark.parametrize("max_norm", [1.0, math.inf])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("size", [1e-7, 0.1, 3.0])
def test_updates_match_naive_version(size: float, weight_decay: float, max_norm: float) -> None:
    weights = [nn.Parameter(sample(2, 3, seed=seed)) for seed in (1, 2)]
    idle = nn.Parameter(sample(2, 3, seed=4))  # without a gradient
    before, grads = idle.tolist(), size * sample(5, 2, 2, 3, seed=3)
    expected = [
        naive_steps(
            weight.detach().flatten().tolist(),
            grads[:, index].flatten(1).tolist(),
            lrs=[0.1 / (step + 1) for step in range(5)],
            weight_decay=weight_decay,
            max_norm=max_norm,
        )
        for index, weight in enumerate(weights)
    ]
    settings = {"lr": 0.1, "weight_decay": weight_decay, "max_norm": max_norm}
    optimizer = BertAdam([{"params": [*weights, idle], **settings}])
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        for index, weight in enumerate(weights):
            weight.grad = grads[step, index].clone()
        optimizer.step()
        assert all(
            torch.equal(weight.grad, grads[step, n]) for n, weight in enumerate(weights) if weight.grad is not None
        )
    for weight, values in zip(weights, expected, strict=True):
        assert weight.flatten().tolist() == pytest.approx(values, abs=1e-12)
    assert idle.tolist() == before


@pytest.mark.parametrize("recipe", ["prompt switch", "clip4clip", "glscl", "r2"])
def test_recipes_with_small_steps_refuse_half_precision(recipe: str) -> None:
    with pytest.raises(VidretError, match=r"weights must be float32 or float64, got torch\.bfloat16: small steps"):
        RECIPES[recipe](Small().bfloat16())
    RECIPES["tempme"](Small().bfloat16())  # its learning rate is high enough
    with pytest.raises(VidretError, match=r"weights must be float32 or float64, got torch\.float16"):
        RECIPES["tempme"](Small().half())


# Schedules.


def make_schedule(num_steps: int = 1000, warm_up: float = 0.1, **more: Any) -> Callable[[int], float]:
    """Return the factor of the rate at a step."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
    return falling_schedule(optimizer, num_steps, warm_up, **more).lr_lambdas[0]


def test_bert_schedule_drops_at_the_end_of_the_warm_up() -> None:
    rate = make_schedule(rescaled=False)
    assert [rate(step) for step in (0, 50, 99)] == pytest.approx([0, 0.5, 0.99])
    for step in (100, 101, 500, 999, 1000):
        assert rate(step) == pytest.approx(0.5 * (1 + math.cos(math.pi * step / 1000)), abs=1e-12)
    assert rate(100) == pytest.approx(0.97553, abs=1e-5)
    assert rate(1001) == 0, "stays at 0 after the last step"


def test_other_schedules_are_continuous() -> None:
    rate = make_schedule()
    assert [rate(step) for step in (0, 50, 100, 550, 1000, 2000)] == pytest.approx([0, 0.5, 1, 0.5, 0, 0], abs=1e-12)
    assert max(abs(rate(step + 1) - rate(step)) for step in range(1000)) == pytest.approx(0.01)
    steps = [0, 50, 100, 600, 601, 800, 1000, 2000]
    cooled = make_schedule(cool_down=0.4)
    assert [cooled(step) for step in steps] == pytest.approx([0, 0.5, 1, 1, 0.9975, 0.5, 0, 0], abs=1e-12)
    for cool_down in (None, 1.0):
        assert make_schedule(10, 0.0, cool_down=cool_down)(0) == 1


def test_impossible_schedules_are_refused() -> None:
    for num_steps, warm_up, cool_down, rule in (
        (0, 0.1, None, "num_steps must be at least 1, got 0"),
        (5, 1.0, None, "warm_up must be from 0 to below 1, got 1.0"),
        (5, -0.1, 0.1, "warm_up must be from 0 to below 1, got -0.1"),
        (5, 0.1, 0.0, "cool_down must be positive and at most what warm_up leaves, got 0.0"),
        (5, 0.6, 0.5, "cool_down must be positive and at most what warm_up leaves, got 0.5"),
    ):
        with pytest.raises(VidretError, match=rule):
            make_schedule(num_steps, warm_up, cool_down=cool_down)


def test_r2_tuning_schedule() -> None:
    rate = partial(warm_then_drop, warm_up=500, drop_at=2000)
    steps = [0, 250, 499, 500, 1999, 2000, 9999]
    assert [rate(step) for step in steps] == pytest.approx([0.001, 0.5005, 0.998002, 1, 1, 0.1, 0.1])
    assert [warm_then_drop(step, warm_up=0, drop_at=None) for step in (0, 9999)] == [1, 1]
    assert warm_then_drop(10, warm_up=20, drop_at=5) == pytest.approx(0.1 * 0.5005)


def test_scale_is_clamped_at_100() -> None:
    scale = nn.Parameter(torch.tensor(5.0))
    clamp_scale(scale)
    assert scale.item() == pytest.approx(math.log(100))
    low = nn.Parameter(torch.tensor(-3.0))
    clamp_scale(low)
    assert low.item() == -3


# Whole recipes, on a model small enough to be stepped.


class Small(nn.Module):
    """One or two weights for each case of the rules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        shape = VisionShape(16, 8, 32, 2, 2, 16)
        card = Card(
            "tempme", "tiny", shape, TextShape(6, 20, 16, 1, 2, 16), merging=MergeSchedule((1,), (2,), r=0), lora_rank=2
        )
        self.encoder = ClipModel(card)
        self.head = nn.Linear(16, 16)


Recipe = Callable[[nn.Module], tuple[Optimizer, LambdaLR]]
RECIPES: dict[str, Recipe] = {
    "tempme": lambda model: adamw_optimizer(model, TempMe().recipe.rule, num_steps=6),
    "prompt switch": lambda model: adamw_optimizer(model, PromptSwitch.recipe.rule, num_steps=6),
    "clip4clip": lambda model: bert_optimizer(model, clip4clip_rule, num_steps=6, warm_up=0.3),
    "glscl": lambda model: bert_optimizer(model, Glscl.recipe.rule, num_steps=6, warm_up=0.3),
    "r2": lambda model: r2_optimizer(model, lr=5e-4, drop_at=4, warm_up=2),
}


def test_recipes_have_their_published_settings() -> None:
    adamw, _ = RECIPES["tempme"](Small())
    assert {(group["betas"], group["eps"], group["weight_decay"]) for group in adamw.param_groups} == {
        ((0.9, 0.999), 1e-6, 0.2)
    }
    bert, _ = RECIPES["glscl"](Small())
    settings = {(group["betas"], group["eps"], group["max_norm"]) for group in bert.param_groups}
    assert settings == {((0.9, 0.98), 1e-6, 1.0)}
    r2, schedule = RECIPES["r2"](Small())
    (group,) = r2.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 1e-4)
    assert schedule.get_last_lr() == pytest.approx([5e-4 * 0.001])
