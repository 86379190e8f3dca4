"""GLSCL: frames pooled by their similarity to the sentence, and concepts shared by texts and videos.

Reference: Zhang et al. 2025, GLSCL.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, cast

import torch

from vidret.align.attending import SoftmaxAttention
from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.glscl import ConceptAligner, ConceptFinder
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card
from vidret.train import optim
from vidret.train.losses import Terms, concept_losses
from vidret.train.methods import Load, Method
from vidret.train.model import RetrievalModel, same_videos, start_temporal

TEMPERATURE = 3.0  # temperature of the softmax over frames, as published


@dataclass(frozen=True, slots=True)
class Glscl:
    """Similarity by shared concepts.

    Attributes:
        num_concepts: Concepts that are found in every text and video; 12 for ActivityNet, as published.
        share: Weight of the agreement of concepts in a score.
        temperature: Temperature of the softmax over frames.
        diversity_weight: Weight of the diversity of concepts.
        beta: Weight of consistency, which depends on the batch size; the published text has 0.005, its script 0.02.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(
        partial(optim.clip4clip_rule, freeze_inputs=False), optim.bert_optimizer
    )
    num_concepts: int = 8
    share: float = 0.5
    temperature: float = TEMPERATURE
    diversity_weight: float = 1e-4
    beta: float = 0.005

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers, and add the aligner with its temporal transformer initialised from the text tower."""
        encoder, dim = load(card), card.vision.dim
        finder = ConceptFinder(dim, num_concepts=self.num_concepts, heads=max(1, dim // 64), hidden=4 * dim)
        temporal = start_temporal(encoder)
        attention = SoftmaxAttention(self.temperature)
        aligner = ConceptAligner(temporal=temporal, finder=finder, attention=attention, share=self.share)
        return RetrievalModel(encoder, aligner=aligner)

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrast of scores, the diversity of concepts, and their consistency."""
        texts, videos = model.gather(texts, videos)
        aligner, same = cast(ConceptAligner, model.aligner), same_videos(batch)
        with torch.autocast(same.device.type, enabled=False):  # scores times 100 need full precision
            prepared, queries = aligner.prepare(videos), aligner.prepare_texts(texts)
            scores = model.logit_scale.exp() * aligner(queries, prepared).total
            weights = {"diversity_weight": self.diversity_weight, "beta": self.beta}
            return concept_losses(scores, queries.concepts, prepared.concepts, same=same, **weights)


METHOD: type[Method] = Glscl
