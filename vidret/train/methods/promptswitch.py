"""Prompt Switch: prompts that exchange information between frames, and an auxiliary captioner.

Reference: Deng et al. 2023, "Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval".
"""

from dataclasses import dataclass
from typing import ClassVar

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card
from vidret.train import optim
from vidret.train.captioner import caption_loss, read_tokens, start_captioner
from vidret.train.losses import Terms, pair_loss
from vidret.train.methods import Load, Method
from vidret.train.model import RetrievalModel, gather_pairs, same_videos

CLIP_LR = 1e-6


def _rule(name: str, *, lr: float = 1e-5) -> optim.Setting:
    """Train all weights, CLIP at a lower rate; the new aggregation of prompts has CLIP's rate, as published."""
    if name.startswith("encoder.vision.prompts.aggregation."):
        return optim.Setting("aggregation", CLIP_LR)
    if name.startswith(("encoder.vision.prompts.", "captioner.")):
        return optim.Setting("new", lr)
    return optim.Setting("clip", CLIP_LR)


@dataclass(frozen=True, slots=True)
class PromptSwitch:
    """Prompts and captioning. The towers define the shape of the prompts.

    Attributes:
        captions: Whether to train the captioner.
        caption_weight: Weight of the caption loss.
        caption_layers: Layers of the captioner.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(_rule, optim.adamw_optimizer)
    captions: bool = True
    caption_weight: float = 0.5
    caption_layers: int = 2

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers, and add the captioner with its head initialised from the token embedding.

        Raises:
            ValueError: The width of the text tower is not that of the joint space.
        """
        encoder = load(card)
        captioner = start_captioner(encoder, num_layers=self.caption_layers) if self.captions else None
        return RetrievalModel(encoder, captioner=captioner)

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrast of texts and videos, and the caption loss on the frames of each video's first clip."""
        terms = {"contrast": pair_loss(*gather_pairs(texts, videos), model.logit_scale, same=same_videos(batch))}
        if model.captioner is not None:
            prompts = model.encoder.card.prompts
            clip = slice(None if prompts is None else prompts.num_frames)
            mask = None if videos.frame_mask is None else videos.frame_mask[:, clip]
            frequent, end = read_tokens()
            logits = model.captioner(batch.ids, videos.frames[:, clip], model.encoder.text, memory_mask=mask)
            terms["caption"] = caption_loss(logits, batch.ids, end=end, frequent=frequent, weight=self.caption_weight)
        return terms


METHOD: type[Method] = PromptSwitch
