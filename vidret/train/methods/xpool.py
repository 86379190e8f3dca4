"""X-Pool: text-conditioned pooling of a video's frames by attention, or of the top-k frames most similar to the text.

Prompt Switch compares its mean pooling with both.

Reference: Gorti et al. 2022, "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval".
"""

from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from vidret.align.attending import DROPOUT, FrameAttention, TopFrames
from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.glscl import ConceptAligner
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card
from vidret.train import optim
from vidret.train.losses import Terms, retrieval_loss
from vidret.train.methods import Load, Method
from vidret.train.model import RetrievalModel, same_videos


def _rule(name: str, *, lr: float = 1e-5) -> optim.Setting:
    """Train all weights, CLIP at a tenth of the rate of the attention."""
    return optim.Setting("new", lr) if name.startswith("aligner.") else optim.Setting("clip", lr / 10)


@dataclass(frozen=True, slots=True)
class XPool:
    """Text-conditioned pooling of frames.

    Attributes:
        top: Number of frames most similar to the text whose directions are averaged; 0 for X-Pool's attention.
        dropout: Dropout of the layer after the attention.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(_rule, optim.adamw_optimizer)
    top: int = 0
    dropout: float = DROPOUT

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers, and add the pooling; top-k pooling has no weights."""
        attention = TopFrames(self.top) if self.top else FrameAttention(card.vision.dim, dropout=self.dropout)
        return RetrievalModel(load(card), aligner=ConceptAligner(attention=attention))

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrast of texts and the videos pooled for them."""
        texts, videos = model.gather(texts, videos)
        aligner, same = cast(ConceptAligner, model.aligner), same_videos(batch)
        with torch.autocast(same.device.type, enabled=False):  # scores times 100 need full precision
            scores = aligner(aligner.prepare_texts(texts), aligner.prepare(videos)).pooled
            return {"contrast": retrieval_loss(model.logit_scale.exp() * scores, same=same)}


METHOD: type[Method] = XPool
