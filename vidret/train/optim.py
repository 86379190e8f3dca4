"""Each recipe's optimiser: which weights it trains and how fast, the step it makes, and the schedule of its rate.

A rule says of a weight, by its name, how it is trained: None is frozen. Names are those of a module whose parts are
called ``encoder`` (a ``ClipModel``), ``aligner``, ``captioner`` and ``head``, as far as it has them. The gradient's
norm is limited by whoever steps: to 1 for all recipes but R2-Tuning's, which has 35.

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

PARTS = ("encoder", "aligner", "captioner", "head")
MAX_SCALE = 100.0
HALF_LR = 1e-4  # below this rate a step is less than a half-precision weight's last digit: 6e-5 at 0.01
FROM_NOTHING = (0.9, 0.98)  # the betas of CLIP's own training (Radford et al. 2021, table 18)
# What turns pixels and ids into tokens: the first layers, which CLIP4Clip and UCoFiA leave as CLIP made them.
INPUTS = re.compile(r"encoder\.(text\.(embedding|positions)|vision\.(class_embedding|positions|patches|ln_pre))\b")


class Setting(NamedTuple):
    """How a group of weights is trained; the decay is per unit of the rate."""

    group: str
    lr: float
    weight_decay: float


Rule = Callable[[str], Setting | None]


def clip4clip_rule(
    name: str,
    *,
    lr: float = 1e-4,
    clip_factor: float = 1e-3,
    weight_decay: float = 0.2,
    freeze_inputs: bool = True,
) -> Setting | None:
    """Train what is new, and CLIP a thousand times slower but for its first layers; biases do not decay."""
    if freeze_inputs and INPUTS.match(name):
        return None
    is_clip, is_bias = name.startswith("encoder.") or name.endswith("logit_scale"), "bias" in name
    group = ("clip" if is_clip else "new") + (" bias" if is_bias else "")
    return Setting(group, lr * clip_factor if is_clip else lr, 0.0 if is_bias else weight_decay)


def r2_tuning_rule(name: str, *, lr: float = 5e-4, weight_decay: float = 1e-4) -> Setting | None:
    """Train R2-Tuning's head alone."""
    return Setting("head", lr, weight_decay) if name.startswith("head.") else None


class Recipe(NamedTuple):
    """How a method is trained: the rule of its weights, and what makes its optimiser and schedule.

    ``unused`` names weights that its losses do not depend on, which no training may wait for.
    """

    rule: Callable[..., Setting | None]
    optimizer: Callable[..., tuple[Optimizer, LambdaLR]]
    unused: frozenset[str] = frozenset()

    def at_rate(self, lr: float | None) -> "Recipe":
        """Return the recipe at another rate; None leaves it its own."""
        return self if lr is None else self._replace(rule=partial(self.rule, lr=lr))

    def for_all(self, lr: float | None) -> "Recipe":
        """Return a recipe that trains every weight at one rate, for towers trained from scratch."""
        return self._replace(
            rule=partial(_train_all, lr=lr or 5e-4, unused=self.unused),
            optimizer=partial(adamw_optimizer, betas=FROM_NOTHING),
        )


def _train_all(name: str, *, lr: float, unused: frozenset[str]) -> Setting | None:
    """Train every weight that the losses depend on at one rate; biases, norms and scales do not decay."""
    if name in unused:
        return None
    decays = not (".ln_" in name or name.endswith(("bias", "logit_scale")))
    return Setting("all", lr, 0.05 if decays else 0.0)


def freeze(model: nn.Module, rule: Rule) -> None:
    """Freeze the weights that a rule leaves out, and thaw all others.

    Data-parallel training waits for a gradient of every weight that was thawed when the model was wrapped: freeze
    before that, not when the optimiser is made.

    Raises:
        ValueError: A weight is of a part that no recipe knows, or nothing is left to train.
    """
    settings = {}
    for name, weight in model.named_parameters():
        if name.split(".")[0] not in PARTS:
            raise ValueError(f"weights must be of a part called {', '.join(PARTS)}, got {name}")
        settings[name] = rule(name)
        weight.requires_grad_(settings[name] is not None)
    if not any(settings.values()):
        raise ValueError("model must have weights that the recipe trains, got none")


def parameter_groups(model: nn.Module, rule: Rule) -> list[dict[str, Any]]:
    """Freeze what a rule leaves out, and group the rest, for an optimiser to take.

    Returns:
        Groups in the order in which they come up, with ``name``, ``names``, ``params``, ``lr`` and ``weight_decay``.

    Raises:
        ValueError: A weight is of a part that no recipe knows, or nothing is left to train.
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
    """Refuse weights of half precision, which most steps of a low rate leave as they are.

    Raises:
        ValueError: A weight is neither float32 nor float64.
    """
    for weight in weights:
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"weights must be float32 or float64, got {weight.dtype}: a small step would be lost; precision "
                "bf16-mixed keeps them in float32"
            )


class BertAdam(Optimizer):
    """Adam as BERT was trained with: no correction of the first steps, decay apart, each weight's gradient limited.

    mean <- b1 mean + (1 - b1) gradient, square <- b2 square + (1 - b2) gradient^2,
    weight <- weight - lr (mean / (sqrt(square) + eps) + weight_decay weight).

    Reference: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", without the bias correction.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        *,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        max_norm: float = 1.0,
    ) -> None:
        """Take groups; what they do not say themselves is the same for all.

        Args:
            params: From ``parameter_groups``.
            lr: Rate, before a schedule.
            betas: How much of mean and square stays at each step.
            eps: Added to the root of the square.
            weight_decay: Share of a weight that is taken off, times the rate.
            max_norm: Limit of the norm of each weight's gradient by itself; inf for none.

        Raises:
            ValueError: A number breaks its rule, or a weight is of half precision.
        """
        if not (lr >= 0 and eps > 0 and weight_decay >= 0 and max_norm > 0 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(
                "lr and weight_decay must be at least 0, eps and max_norm above 0, betas in 0..1, got "
                f"{lr}, {weight_decay}, {eps}, {max_norm} and {betas}"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take a group whose weights are precise enough for small steps: autocast needs no half weights."""
        super().add_param_group(param_group)
        refuse_half(self.param_groups[-1]["params"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change all weights that have a gradient; gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        first, second = group["betas"]
        grad = grad * (group["max_norm"] / (torch.linalg.vector_norm(grad) + 1e-6)).clamp(max=1)
        state["mean"].lerp_(grad, 1 - first)
        state["square"].mul_(second).addcmul_(grad, grad, value=1 - second)
        change = state["mean"] / state["square"].sqrt().add_(group["eps"])
        weight.add_(change.add_(weight, alpha=group["weight_decay"]), alpha=-group["lr"])


def warm_then_cosine(step: int, *, num_steps: int, warm_up: float = 0.1, rescaled: bool) -> float:
    """Rise linearly over the share ``warm_up`` of all steps, then fall along half a cosine to 0.

    The cosine starts where warming up ends (``rescaled``), or has run from the first step on: then the rate drops at
    that point, to 0.976 after a tenth.
    """
    done = min(step / num_steps, 1.0)
    if done < warm_up:
        return done / warm_up
    if rescaled:
        done = (done - warm_up) / (1 - warm_up)
    return (1 + math.cos(math.pi * done)) / 2


def warm_then_drop(step: int, *, warm_up: int, drop_at: int | None, start: float = 0.001, factor: float = 0.1) -> float:
    """Rise linearly from ``start`` over ``warm_up`` steps; from step ``drop_at`` on multiply by ``factor``."""
    risen = 1.0 if step >= warm_up else 1 - (1 - step / warm_up) * (1 - start)
    return risen * (factor if drop_at is not None and step >= drop_at else 1.0)


def adamw_optimizer(
    model: nn.Module, rule: Rule, *, num_steps: int, warm_up: float = 0.1, betas: tuple[float, float] = (0.9, 0.999)
) -> tuple[Optimizer, LambdaLR]:
    """Return AdamW and a schedule over all steps: TempMe's and Prompt Switch's.

    Raises:
        ValueError: A weight is of half precision, and its rate is too low for that.
    """
    groups = parameter_groups(model, rule)
    for group in groups:
        if group["lr"] < HALF_LR:
            refuse_half(group["params"])
    # Not fused: a fused step unscales gradients itself, so that under autocast their norm cannot be limited before.
    optimizer = AdamW(groups, betas=betas, eps=1e-6)
    return optimizer, _cosine(optimizer, num_steps, warm_up, rescaled=True)


def bert_optimizer(model: nn.Module, rule: Rule, *, num_steps: int, warm_up: float = 0.1) -> tuple[Optimizer, LambdaLR]:
    """Return BertAdam and a schedule over all steps: CLIP4Clip's, UCoFiA's and GLSCL's."""
    optimizer = BertAdam(parameter_groups(model, rule))
    return optimizer, _cosine(optimizer, num_steps, warm_up, rescaled=False)


def r2_optimizer(
    model: nn.Module, *, drop_at: int | None, rule: Rule = r2_tuning_rule, warm_up: int = 500
) -> tuple[Optimizer, LambdaLR]:
    """Give R2-Tuning's AdamW and its schedule; ``drop_at`` is the step at which the rate falls to a tenth.

    Raises:
        ValueError: A weight is of half precision: then Lightning's batches are, too, and with them the spans' seconds.
    """
    refuse_half(model.parameters())
    optimizer = AdamW(parameter_groups(model, rule))
    return optimizer, LambdaLR(optimizer, partial(warm_then_drop, warm_up=warm_up, drop_at=drop_at))


def _cosine(optimizer: Optimizer, num_steps: int, warm_up: float, *, rescaled: bool) -> LambdaLR:
    if num_steps < 1 or not 0 <= warm_up < 1:
        raise ValueError(f"num_steps must be at least 1 and warm_up in 0..1, got {num_steps} and {warm_up}")
    factor = partial(warm_then_cosine, num_steps=num_steps, warm_up=warm_up, rescaled=rescaled)
    return LambdaLR(optimizer, factor)


@torch.no_grad()
def clamp_scale(logit_scale: Tensor) -> None:
    """Keep a learned scale at most 100, as all recipes do after each step that may have changed it."""
    logit_scale.clamp_(max=math.log(MAX_SCALE))
