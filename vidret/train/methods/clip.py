"""CLIP4Clip's mean pooling (meanP): a contrastive loss between sentence vectors and mean frame vectors.

Reference: Luo et al. 2021, "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card, ClipModel
from vidret.train import optim
from vidret.train.losses import Terms
from vidret.train.methods import Method
from vidret.train.model import RetrievalModel, pair_terms


@dataclass(frozen=True, slots=True)
class Clip4Clip:
    """Mean pooling of frames.

    Attributes:
        mixup_weight: Weight of geodesic mixtures as hard negatives (m2-Mix); 0 for none.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(optim.clip4clip_rule, optim.bert_optimizer)
    mixup_weight: float = 0.0

    def build(self, card: Card, load: Callable[[Card], ClipModel]) -> RetrievalModel:
        """Load the towers; no module is added."""
        return RetrievalModel(load(card))

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, generator: torch.Generator) -> Terms:
        """Return the contrast of texts and videos, and of their mixtures if they have a weight."""
        texts, videos = model.encode(batch)
        return pair_terms(model, batch, texts, videos, mixup_weight=self.mixup_weight, generator=generator)


METHOD: type[Method] = Clip4Clip
