"""CLIP4Clip's mean pooling (meanP): a contrastive loss between sentence vectors and mean frame vectors.

Reference: Luo et al. 2021, "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card, ClipModel
from vidret.train import optim
from vidret.train.methods import Method
from vidret.train.model import RetrievalModel, pair_terms, score_pairs


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

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the contrast of texts and videos, and of their mixtures if they have a weight."""
        texts, videos = model.encode(batch)
        return pair_terms(model, batch, texts, videos, mixup_weight=self.mixup_weight, generator=generator)

    def score(self, model: RetrievalModel, texts: TextBatch, videos: VideoBatch) -> Tensor:
        """Return the cosines of sentences and mean frames."""
        return score_pairs(texts, videos)


METHOD: type[Method] = Clip4Clip
