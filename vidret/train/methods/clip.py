"""CLIP4Clip's mean pooling (meanP): a contrastive loss between sentence vectors and mean frame vectors.

Reference: Luo et al. 2021, "CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval".
"""

from dataclasses import dataclass
from typing import ClassVar

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card
from vidret.train import optim
from vidret.train.losses import Terms, pair_loss
from vidret.train.methods import Load, Method
from vidret.train.model import RetrievalModel, gather_pairs, same_videos


@dataclass(frozen=True, slots=True)
class Clip4Clip:
    """Mean pooling of frames."""

    recipe: ClassVar[optim.Recipe] = optim.Recipe(optim.clip4clip_rule, optim.bert_optimizer)

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers; no module is added."""
        return RetrievalModel(load(card))

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrast of texts and videos."""
        return {"contrast": pair_loss(*gather_pairs(texts, videos), model.logit_scale, same=same_videos(batch))}


METHOD: type[Method] = Clip4Clip
