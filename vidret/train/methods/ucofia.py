"""UCoFiA: videos, frames and patches compared with sentences and words, at three levels.

Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval".
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import torch

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import KEPT, PatchSelector, ScoreNet
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.model import Card, ClipModel
from vidret.train import optim
from vidret.train.losses import Terms, retrieval_loss
from vidret.train.methods import Load, Method
from vidret.train.model import RetrievalModel, same_videos, start_temporal

SCALE = "encoder.logit_scale"  # unused: the aligner has its own copy


@dataclass(frozen=True, slots=True)
class Ucofia:
    """The coarse-to-fine aligner.

    Attributes:
        num_words: Text length of the mixing matrices.
        selection: Whether words are compared with selected patches of frames, not with all.
    """

    recipe: ClassVar[optim.Recipe] = optim.Recipe(
        partial(optim.clip4clip_rule, unused=SCALE), optim.bert_optimizer, unused=frozenset({SCALE})
    )
    num_words: int = 32
    selection: bool = True

    def build(self, card: Card, load: Load) -> RetrievalModel:
        """Load the towers, and add the aligner.

        Its temporal transformer is initialised from the text tower, its mixing matrices with the identity. Towers shift
        tokens in time, as published, unless they merge tokens or have prompts.
        """
        encoder = load(replace(card, token_shift=card.merging is None and card.prompts is None))
        aligner = start_aligner(encoder, self.num_words, selection=self.selection)
        return RetrievalModel(encoder, aligner=aligner, with_tokens=True, own_scale=True)

    def losses(self, model: RetrievalModel, batch: RetrievalBatch, texts: TextBatch, videos: VideoBatch) -> Terms:
        """Return the contrast of the mean of the three levels."""
        texts, videos = model.gather(texts, videos)
        aligner, same = cast(Aligner, model.aligner), same_videos(batch)
        with torch.autocast(same.device.type, enabled=False):  # a temperature of 0.01 needs full precision
            return {"contrast": retrieval_loss(aligner(texts, aligner.prepare(videos)).mean, same=same)}


def start_aligner(encoder: ClipModel, num_words: int, *, unit_tokens: bool = False, selection: bool = True) -> Aligner:
    """Return an aligner for towers, initialised as published, without a selection if tokens are merged."""
    card = encoder.card
    dim, num_frames, selects = card.vision.dim, card.sampling.num_frames, selection and card.merging is None
    num_tokens = num_frames + (num_frames * KEPT if selects else _count_tokens(encoder))
    aligner = Aligner(
        temporal=start_temporal(encoder),
        selector=PatchSelector(ScoreNet(dim)) if selects else None,
        mixing=Mixing(dim, num_frames=num_frames, num_words=num_words, num_tokens=num_tokens),
        unit_tokens=unit_tokens,
    )
    with torch.no_grad():
        aligner.logit_scale.copy_(encoder.logit_scale)
    return aligner


@torch.no_grad()
def _count_tokens(encoder: ClipModel) -> int:
    """Return the number of tokens of a video after any merging, by encoding a black video."""
    size, num_frames = encoder.card.vision.image_size, encoder.card.sampling.num_frames
    encoded = encoder.vision(torch.zeros(num_frames, 3, size, size), num_frames=num_frames, tokens=True)
    assert encoded.tokens is not None
    return int(encoded.tokens.shape[1])


METHOD: type[Method] = Ucofia
