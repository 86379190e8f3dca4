"""TempMe: towers that merge tokens over time; only low-rank updates and temporal positions are trained.

Reference: Shen et al. 2025, "TempMe: Video Temporal Token Merging for Efficient Text-Video Retrieval".
"""

from dataclasses import dataclass
from typing import ClassVar

from vidret.train import optim
from vidret.train.methods import Method
from vidret.train.methods.clip import Clip4Clip


def _rule(name: str, *, lr: float = 6e-4, weight_decay: float = 0.2) -> optim.Setting | None:
    """Train low-rank updates and temporal positions; CLIP is frozen, including its logit scale."""
    if ".lora." in name:
        return optim.Setting("lora", lr, weight_decay)
    return optim.Setting("temporal", lr, weight_decay) if name.startswith("encoder.vision.temporal.") else None


@dataclass(frozen=True, slots=True)
class TempMe(Clip4Clip):
    """Token merging, with the losses and scores of mean pooling.

    The towers define the merging schedule and the rank of the updates.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(_rule, optim.adamw_optimizer)


METHOD: type[Method] = TempMe
