"""The optimisers of the recipes: groups of weights with their learning rates, the update, and the schedule.

A rule maps the name of a weight of a ``RetrievalModel`` to its ``Setting``, or to None if it is frozen. The caller
clips the norm of the gradient: to 35 for R2-Tuning, to 1 for all other recipes.

    optimizer, schedule = bert_optimizer(model, clip4clip_rule, num_steps=7000)
    # after each step: schedule.step(); clamp_scale(model.encoder.logit_scale)
"""

import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from vidret.errors import VidretError

MAX_SCALE = 100.0
HALF_LR = 1e-4  # rates below this give steps below the resolution of a half-precision weight: 6e-5 at 0.01
FROM_SCRATCH = (0.9, 0.98)  # betas of CLIP's own training (Radford et al. 2021, table 18)
# Embeddings of pixels and token ids, which CLIP4Clip and UCoFiA freeze.
INPUTS = re.compile(r"encoder\.(text\.(embedding|positions)|vision\.(class_embedding|positions|patches|ln_pre))\b")
NORM = re.compile(r"\.(ln_|(pre)?norm)")  # in names of weights of layer norms


class Setting(NamedTuple):
    """The training settings of a group of weights. Weight decay is multiplied by the learning rate."""

    group: str
    lr: float
    weight_decay: float = 0.2


Rule = Callable[[str], Setting | None]


def clip4clip_rule(name: str, *, lr: float = 1e-4, freeze_inputs: bool = True, unused: str = "") -> Setting | None:
    """Train new weights at ``lr`` and CLIP at a thousandth of it, with frozen embeddings; biases do not decay."""
    if name == unused or (freeze_inputs and INPUTS.match(name)):
        return None
    is_clip, is_bias = name.startswith("encoder.") or name.endswith("logit_scale"), "bias" in name
    group = ("clip" if is_clip else "new") + (" bias" if is_bias else "")
    return Setting(group, lr * 1e-3 if is_clip else lr, 0.0 if is_bias else 0.2)


class Recipe(NamedTuple):
    """The published training settings of a method.

    Attributes:
        rule: Maps the name of a weight to its setting.
        optimizer: Builds the optimiser and the schedule.
        unused: Names of weights that the losses do not depend on; distributed training must not wait for them.
    """

    rule: Callable[..., Setting | None]
    optimizer: Callable[..., tuple[Optimizer, LambdaLR]]
    unused: frozenset[str] = frozenset()

    def at_rate(self, lr: float | None) -> "Recipe":
        """Return the recipe at another learning rate; None keeps its own."""
        return self if lr is None else self._replace(rule=partial(self.rule, lr=lr))

    def for_all(self, lr: float | None) -> "Recipe":
        """Return a recipe that trains every weight at one learning rate, for towers trained from scratch."""
        return self._replace(
            rule=partial(_train_all, lr=lr or 5e-4, unused=self.unused),
            optimizer=partial(adamw_optimizer, betas=FROM_SCRATCH),
        )


def _train_all(name: str, *, lr: float, unused: frozenset[str]) -> Setting | None:
    """Train every weight that the losses depend on at one learning rate; biases, norms and scales do not decay."""
    if name in unused:
        return None
    decays = not (NORM.search(name) or name.endswith(("bias", "logit_scale")))
    return Setting("all", lr, 0.05) if decays else Setting("all without decay", lr, 0.0)


def freeze(model: nn.Module, rule: Rule) -> None:
    """Freeze the weights that a rule excludes, and unfreeze all others.

    Distributed data-parallel training waits for a gradient of every weight that was not frozen when the model was
    wrapped, so freeze weights before that, not when the optimiser is built.

    Raises:
        ValueError: No weight is trained.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(rule(name) is not None)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError("model must have weights that the recipe trains, got none")


def parameter_groups(model: nn.Module, rule: Rule) -> list[dict[str, Any]]:
    """Freeze the weights that a rule excludes, and return the others as parameter groups of an optimiser.

    Returns:
        Groups in order of first use, with ``name``, ``names``, ``params``, ``lr`` and ``weight_decay``.
    """
    freeze(model, rule)
    groups: dict[Setting, dict[str, Any]] = {}
    for name, weight in model.named_parameters():
        setting = rule(name)
        if setting is None:
            continue
        empty = {"name": setting.group, "names": [], "params": []}
        group = groups.setdefault(setting, empty | {"lr": setting.lr, "weight_decay": setting.weight_decay})
        group["names"].append(name)
        group["params"].append(weight)
    return list(groups.values())


def refuse_half(weights: Iterable[Tensor]) -> None:
    """Refuse weights of half precision, in which most steps at a low learning rate are lost.

    Raises:
        VidretError: A weight is neither float32 nor float64.
    """
    for weight in weights:
        if weight.dtype not in (torch.float32, torch.float64):
            raise VidretError(
                f"weights must be float32 or float64, got {weight.dtype}: small steps would be lost; use precision "
                "bf16-mixed, which keeps them in float32"
            )


def compute_loss(closure: Callable[[], float] | None) -> float | None:
    """Return the loss of an optimiser step's closure, run with gradients, or None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class BertAdam(Optimizer):
    """BERT's Adam: no bias correction, decoupled weight decay, and gradients clipped per weight.

    mean <- b1 mean + (1 - b1) gradient, square <- b2 square + (1 - b2) gradient^2,
    weight <- weight - lr (mean / (sqrt(square) + eps) + weight_decay weight).

    Reference: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", without the bias correction.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        """Build the optimiser for groups from ``parameter_groups``; ``max_norm`` limits the gradient of each weight.

        Raises:
            VidretError: A weight has half precision.
        """
        super().__init__(groups, {"betas": (0.9, 0.98), "eps": 1e-6, "max_norm": 1.0})
        for group in self.param_groups:
            refuse_half(group["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all weights that have a gradient. Gradients are not changed."""
        loss = compute_loss(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, [weight.grad for weight in weights], group)
        return loss

    def _update(self, weights: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        """Update all weights in each operation, since hundreds of small operations would keep a GPU waiting."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] |= {"mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        means, squares = ([self.state[weight][name] for weight in weights] for name in ("mean", "square"))
        first, second = group["betas"]
        norms = torch.stack(torch._foreach_norm(grads))
        scales = (group["max_norm"] / (norms + 1e-6)).clamp(max=1)
        grads = list(torch._foreach_mul(grads, list(scales.unbind())))
        torch._foreach_lerp_(means, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - second)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        changes = torch._foreach_div(means, roots)
        torch._foreach_add_(changes, weights, alpha=group["weight_decay"])
        torch._foreach_add_(weights, changes, alpha=-group["lr"])


def warm_then_drop(step: int, *, warm_up: int, drop_at: int | None) -> float:
    """Return the factor of a rate: a linear warm-up from 0.001 over ``warm_up`` steps, a tenth from ``drop_at`` on."""
    warmed = 1.0 if step >= warm_up else 1 - (1 - step / warm_up) * (1 - 0.001)
    return warmed * (0.1 if drop_at is not None and step >= drop_at else 1.0)


def adamw_optimizer(
    model: nn.Module,
    rule: Rule,
    *,
    num_steps: int,
    warm_up: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
) -> tuple[Optimizer, LambdaLR]:
    """Return AdamW and a schedule over all steps, for TempMe, Prompt Switch and Long-CLIP.

    Raises:
        VidretError: A weight is float16, in which aligners' scores are not finite, or has half precision and a
            learning rate that is too low for it.
    """
    groups = parameter_groups(model, rule)
    for group in groups:
        params = group["params"]
        refuse_half(weight for weight in params if group["lr"] < HALF_LR or weight.dtype == torch.float16)
    # Not fused: a fused step unscales gradients itself, so that their norm cannot be clipped before under autocast.
    optimizer = AdamW(groups, betas=betas, eps=eps)
    return optimizer, falling_schedule(optimizer, num_steps, warm_up)


def bert_optimizer(model: nn.Module, rule: Rule, *, num_steps: int, warm_up: float = 0.1) -> tuple[Optimizer, LambdaLR]:
    """Return BertAdam and a schedule over all steps, for CLIP4Clip, UCoFiA and GLSCL."""
    optimizer = BertAdam(parameter_groups(model, rule))
    return optimizer, falling_schedule(optimizer, num_steps, warm_up, rescaled=False)


def r2_optimizer(head: nn.Module, *, lr: float, drop_at: int | None, warm_up: int) -> tuple[Optimizer, LambdaLR]:
    """Return R2-Tuning's AdamW and its schedule; at step ``drop_at`` the learning rate falls to a tenth.

    Raises:
        VidretError: A weight has half precision; Lightning would convert the spans in seconds as well.
    """
    refuse_half(head.parameters())
    optimizer = AdamW(head.parameters(), lr, weight_decay=1e-4)
    return optimizer, LambdaLR(optimizer, partial(warm_then_drop, warm_up=warm_up, drop_at=drop_at))


def falling_schedule(
    optimizer: Optimizer, num_steps: int, warm_up: float, *, cool_down: float | None = None, rescaled: bool = True
) -> LambdaLR:
    """Return a schedule in steps: a linear warm-up over a fraction of all, then a fall to 0.

    The fall is half a cosine from the end of the warm-up on. Unless ``rescaled`` it runs from the first step, so that
    the rate drops at the end of the warm-up: to 0.976 after a tenth of the steps. With ``cool_down`` the rate
    stays, and falls linearly over that last fraction.

    Raises:
        VidretError: A number is out of range.

    Reference: Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations".
    """
    if num_steps < 1:
        raise VidretError(f"num_steps must be at least 1, got {num_steps}")
    check_fractions(warm_up, cool_down)

    def find_factor(step: int) -> float:
        progress = min(step / num_steps, 1.0)
        if progress < warm_up:
            return progress / warm_up
        if cool_down is not None:
            return min(1.0, (1 - progress) / cool_down)
        if rescaled:
            progress = (progress - warm_up) / (1 - warm_up)
        return (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, find_factor)


def check_fractions(warm_up: float, cool_down: float | None) -> None:
    """Raise VidretError unless the fractions for warm-up and cool-down are in range."""
    if not 0 <= warm_up < 1:
        raise VidretError(f"warm_up must be from 0 to below 1, got {warm_up}")
    if cool_down is not None and not (cool_down > 0 and warm_up + cool_down <= 1):
        raise VidretError(f"cool_down must be positive and at most what warm_up leaves, got {cool_down}")


@torch.no_grad()
def clamp_scale(logit_scale: Tensor) -> None:
    """Clamp a learned scale to at most 100 in place, as all recipes do after each step."""
    logit_scale.clamp_(max=math.log(MAX_SCALE))
