"""TempMe, Prompt Switch and UCoFiA in one: towers that merge tokens and exchange prompts, and an aligner over them.

Class tokens and prompts never merge; the aligner compares all tokens left after merging, weighted by their sizes. Mean
frames are trained as well, since searches use them to find the candidates of the aligner. Prompt Switch's captioner
predicts words of the batch's vocabulary only: a softmax over CLIP's 49,408 word pieces would take most of a step in
small training.

References: ``tempme``, ``promptswitch`` and ``ucofia`` in this folder.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from vidret.align.batches import TextBatch, VideoBatch, take_rows
from vidret.align.ucofia import Aligner
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card
from vidret.errors import VidretError
from vidret.train import optim
from vidret.train.captioner import caption_loss, read_tokens, restrict_vocabulary, start_captioner
from vidret.train.losses import Terms, find_same_videos, pair_loss, retrieval_loss
from vidret.train.methods import Load, Method
from vidret.train.methods.ucofia import start_aligner
from vidret.train.model import RetrievalModel, gather_pairs, same_videos


def _rule(name: str, *, lr: float = 6e-4) -> optim.Setting | None:
    """Train low-rank updates and temporal positions at TempMe's rate, with CLIP and the scale of cosines frozen.

    Prompts and their aggregation have their own rate: Prompt Switch trains them together with all of CLIP, at a rate
    that hardly moves them while CLIP is frozen. The aligner and the captioner have UCoFiA's rate for new weights;
    biases do not decay.
    """
    if ".lora." in name:
        return optim.Setting("lora", lr)
    if name.startswith("encoder.vision.temporal."):
        return optim.Setting("temporal", lr)
    if name.startswith("encoder.vision.prompts."):
        return optim.Setting("prompts", lr * 0.5)
    if name.startswith("encoder.") or name.endswith("logit_scale"):
        return None
    is_bias = "bias" in name
    return optim.Setting("new bias", lr / 6, 0.0) if is_bias else optim.Setting("new", lr / 6)


@dataclass(frozen=True, slots=True)
class Joint:
    """Merging towers with prompts, the coarse-to-fine aligner, and a captioner while training.

    Attributes:
        num_words: Text length of the mixing matrices.
        captions: Whether to train the captioner.
        align_weight: Weight of the aligner's contrast; mean frames have a weight of 1.
        align_size: Number of consecutive pairs of a process's batch that the aligner contrasts with each other; the
            cost grows with its square. 0 for all pairs of all processes.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(_rule, optim.adamw_optimizer)
    num_words: int = 32
    captions: bool = True
    align_weight: float = 1.0
    align_size: int = 0

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers, and add an aligner and a captioner, which uses the token embedding as its head.

        Tokens are scaled to unit length, unlike UCoFiA's, so that the three levels have one temperature.

        Raises:
            VidretError: The card has no merging or no prompts.
        """
        if card.merging is None or card.prompts is None:
            raise VidretError(f"joint must have merging and prompts, got {card.merging} and {card.prompts}")
        encoder = load(replace(card, prompts=replace(card.prompts, spread=True)))
        captioner = start_captioner(encoder, own_head=False) if self.captions else None
        aligner = start_aligner(encoder, self.num_words, unit_tokens=True)
        return RetrievalModel(encoder, aligner=aligner, captioner=captioner, with_tokens=True)

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrasts of mean frames and of the aligner's scores, and the caption loss."""
        terms = {"contrast": pair_loss(*gather_pairs(texts, videos), model.logit_scale, same=same_videos(batch))}
        terms["align"] = self.align_weight * self._contrast(model, batch, texts, videos)
        if model.captioner is not None:
            frequent, end = read_tokens()
            small = restrict_vocabulary(batch.ids, end=end, frequent=frequent)
            logits = model.captioner(
                small.ids, videos.frames, model.encoder.text, memory_mask=videos.frame_mask, vocabulary=small.vocabulary
            )
            terms["caption"] = caption_loss(logits, small.labels, end=small.end, frequent=small.frequent)
        return terms

    def _contrast(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Tensor:
        """Return the contrast of the mean of the three levels, over all pairs or within groups of ``align_size``."""
        aligner = cast(Aligner, model.aligner)
        with torch.autocast(batch.videos.device.type, enabled=False):  # a temperature of 0.01 needs full precision
            if not self.align_size:
                texts, videos = model.gather(texts, videos)
                return retrieval_loss(aligner(texts, aligner.prepare(videos)).mean, same=same_videos(batch))
            texts, prepared, total = texts.to(model.head_dtype), aligner.prepare(videos.to(model.head_dtype)), []
            for rows in torch.split(torch.arange(len(batch.videos), device=batch.videos.device), self.align_size):
                scores = aligner(take_rows(texts, rows), take_rows(prepared, rows)).mean
                total.append(retrieval_loss(scores, same=find_same_videos(batch.videos[rows])) * len(rows))
            return torch.stack(total).sum() / len(batch.videos)


METHOD: type[Method] = Joint
