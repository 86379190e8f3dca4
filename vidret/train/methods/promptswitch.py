"""Prompt Switch: prompts that exchange information between frames, and an auxiliary captioner.

Reference: Deng et al. 2023, "Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from vidret.align.batches import TextBatch, VideoBatch
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.text import clip_pieces
from vidret.train import optim
from vidret.train.captioner import Captioner, caption_loss, frequent_ids
from vidret.train.methods import Method
from vidret.train.model import RetrievalModel, pair_terms, score_pairs


def _rule(
    name: str,
    *,
    lr: float = 1e-5,
    clip_lr: float = 1e-6,
    aggregation_lr: float = 1e-6,
    weight_decay: float = 0.2,
) -> optim.Setting | None:
    """Train all weights, CLIP at a lower rate; the new aggregation of prompts has CLIP's rate, as published."""
    if name.startswith("encoder.vision.prompts.aggregation."):
        return optim.Setting("aggregation", aggregation_lr, weight_decay)
    if name.startswith(("encoder.vision.prompts.", "captioner.")):
        return optim.Setting("new", lr, weight_decay)
    return optim.Setting("clip", clip_lr, weight_decay)


@dataclass(frozen=True, slots=True)
class PromptSwitch:
    """Prompts and captioning. The towers define the shape of the prompts.

    Attributes:
        captions: Whether to train the captioner.
        caption_weight: Weight of the caption loss.
        caption_layers: Layers of the captioner.
        mixup_weight: Weight of geodesic mixtures as hard negatives (m2-Mix); 0 for none.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(_rule, optim.adamw_optimizer)
    captions: bool = True
    caption_weight: float = 0.5
    caption_layers: int = 2
    mixup_weight: float = 0.0

    def build(self, card: Card, load: Callable[[Card], ClipModel]) -> RetrievalModel:
        """Load the towers, and add the captioner with its head initialised from the token embedding.

        Raises:
            ValueError: The width of the text tower is not that of the joint space.
        """
        encoder = load(card)
        captioner = start_captioner(encoder, num_layers=self.caption_layers) if self.captions else None
        return RetrievalModel(encoder, captioner=captioner)

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the contrast of texts and videos, and the caption loss on the frames of each video's first clip."""
        texts, videos = model.encode(batch)
        terms = pair_terms(model, batch, texts, videos, mixup_weight=self.mixup_weight, generator=generator)
        if model.captioner is not None:
            prompts = model.encoder.card.prompts
            memory = videos.frames if prompts is None else videos.frames[:, : prompts.num_frames]
            frequent, end = read_tokens()
            logits = model.captioner(batch.ids, memory, model.encoder.text)
            terms["caption"] = caption_loss(logits, batch.ids, end=end, frequent=frequent, weight=self.caption_weight)
        return terms

    def score(self, model: RetrievalModel, texts: TextBatch, videos: VideoBatch) -> Tensor:
        """Return the cosines of sentences and mean frames."""
        return score_pairs(texts, videos)


def start_captioner(encoder: ClipModel, *, num_layers: int = 2, own_head: bool = True) -> Captioner:
    """Return a captioner for towers; see ``Captioner``.

    Raises:
        ValueError: The width of the text tower is not that of the joint space.
    """
    width = encoder.card.text.width
    if width != encoder.card.vision.dim:
        raise ValueError(f"text width must be the joint dim for a captioner, got {width} and {encoder.card.vision.dim}")
    embedding = encoder.text.embedding.weight.detach()
    heads, hidden = max(1, width // 64), 4 * width
    return Captioner(embedding, num_layers=num_layers, heads=heads, hidden=hidden, own_head=own_head)


@cache
def read_tokens() -> tuple[list[int], int]:
    """Return the frequent tokens and the end token of CLIP's vocabulary."""
    encode, start, end = clip_pieces()
    return frequent_ids(encode, start=start, end=end), end


METHOD: type[Method] = PromptSwitch
