"""TempMe: towers that merge tokens over time; only low-rank updates and temporal positions are trained.

Reference: Shen et al. 2025, "TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval".
"""

from dataclasses import dataclass

from vidret.train import optim
from vidret.train.methods import Method
from vidret.train.methods.clip import Clip4Clip

TEMPORAL = "encoder.vision.temporal."


def _rule(name: str, *, lr: float = 6e-4) -> optim.Setting | None:
    """Train low-rank updates and temporal positions; CLIP is frozen, including its logit scale."""
    if ".lora." in name:
        return optim.Setting("lora", lr)
    return optim.Setting("temporal", lr) if name.startswith(TEMPORAL) else None


def _full_rule(name: str, *, lr: float = 1e-4) -> optim.Setting | None:
    """Train temporal positions at ``lr`` and all of CLIP at a thousandth of it, as CLIP4Clip does."""
    return optim.Setting("temporal", lr) if name.startswith(TEMPORAL) else optim.clip4clip_rule(name, lr=lr)


@dataclass(frozen=True, slots=True)
class TempMe(Clip4Clip):
    """Token merging, with the losses and scores of mean pooling.

    The towers define the merging schedule and the rank of the updates.

    Attributes:
        full: Whether to train all weights, at two rates. The paper reports this variant without its rates.
    """

    full: bool = False

    @property
    def recipe(self) -> optim.Recipe:  # type: ignore[override]
        """How each weight is trained."""
        return optim.Recipe(_full_rule if self.full else _rule, optim.adamw_optimizer)


METHOD: type[Method] = TempMe
