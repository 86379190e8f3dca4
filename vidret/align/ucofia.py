"""The aligner: the coarse-to-fine score of queries against candidates, the video's part of it computed once."""

import math
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.blocks import flushed_denormals, plan_blocks, slices
from vidret.align.prepared import PreparedVideos, trim
from vidret.align.ucofia_levels import LevelScores, Mixing, score_frames, score_videos, score_words
from vidret.align.ucofia_selection import PatchSelector
from vidret.align.ucofia_temporal import TemporalTransformer, pool_frames

CLIP_SCALE = math.log(100)
MEMORY = 256 << 20


class Aligner(nn.Module):
    """Score texts against videos at three levels and take the mean (UCoFiA).

    Training-free as it is: no temporal transformer, no matrices, all words alike, tokens of unit length, all of them
    beside the frames. The parts of a trained head are passed in; ``trained`` says that it wants vectors as the encoder
    gave them, not scaled to unit length, and a text's markers among its words. Frames, words and tokens come in any
    number; how a trained matrix fits another number than its own is ``resize_mixing``'s business, and the trained
    number is left untouched.

    Padding changes nothing, at any level: with all masks True the scores are the published code's, which has none.

    Reference: Wang et al. 2023, "Unified Coarse-to-Fine Alignment for Video-Text Retrieval".
    """

    kind: ClassVar[str] = "ucofia"

    def __init__(
        self,
        *,
        temporal: TemporalTransformer | None = None,
        selector: PatchSelector | None = None,
        mixing: Mixing | None = None,
        unit_tokens: bool = True,
    ) -> None:
        """Compose an aligner.

        Args:
            temporal: Lets frames see each other before they become the video's vector.
            selector: Keeps some patches of each frame; all are kept without, and whenever tokens come merged.
            mixing: Trained matrices.
            unit_tokens: Scale tokens to unit length, and level three by the learned scale as the other two. A published
                head was trained without: the length of its tokens means something.
        """
        super().__init__()
        self.temporal, self.selector, self.mixing, self.unit_tokens = temporal, selector, mixing, unit_tokens
        self.logit_scale = nn.Parameter(torch.tensor(CLIP_SCALE))

    @property
    def trained(self) -> bool:
        """Say whether there is a trained head, which reads raw vectors."""
        return self.mixing is not None

    def describe(self) -> dict[str, Any]:
        """Return the settings that no weight tells: none."""
        return {}

    def prepare(self, videos: VideoBatch, *, noise: Float[Tensor, "item draw patch"] | None = None) -> PreparedVideos:
        """Compute what does not depend on the query; differentiable.

        Args:
            videos: As the encoder gives them; for a trained head not scaled to unit length.
            noise: What perturbs the choice of patches, as in ``PatchSelector``.

        Raises:
            ValueError: The tokens are not as many for each frame, and have no sizes to say that they are merged.
        """
        frames = hide(videos.frames, videos.frame_mask)
        seen = frames if self.temporal is None else self.temporal(frames, videos.frame_mask)
        whole = pool_frames(seen, videos.frame_mask)
        tokens, token_mask, sizes = self._gather_tokens(videos._replace(frames=frames), noise)
        if self.unit_tokens:
            tokens = functional.normalize(tokens, dim=-1)
        if self.mixing is not None:
            whole, tokens = whole @ self.mixing.video, tokens @ self.mixing.token
        units = functional.normalize(frames, dim=-1)
        return PreparedVideos(whole, units, tokens, videos.frame_mask, token_mask, sizes)

    def forward(self, texts: TextBatch, videos: PreparedVideos) -> LevelScores:
        """Score all texts against all videos at once, with gradients; memory grows with texts x words x tokens."""
        return self._compare(self._prepare_texts(texts), videos.unpacked())

    @torch.no_grad()
    def score(self, texts: TextBatch, videos: PreparedVideos, *, memory: int = MEMORY) -> LevelScores:
        """Score all texts against all videos within a bound on working memory.

        The inputs' shape alone decides the blocks that are computed at once; ``memory`` decides how many videos are
        kept unpacked at a time. So the scores are the same, bit for bit, whatever the bound.

        Args:
            texts: Queries.
            videos: Candidates.
            memory: Bytes beyond the inputs and the scores.

        Raises:
            ValueError: The bound is too small for one block.
        """
        num_texts, num_videos = len(texts.sentences), len(videos.videos)
        plan = plan_blocks(texts, videos, memory)
        # Texts of like length together: a block is as wide as its longest.
        lengths = torch.full((num_texts,), 0) if texts.mask is None else texts.mask.sum(dim=1)
        order = lengths.argsort(stable=True)
        levels = [videos.videos.new_empty(num_texts, num_videos) for _ in range(3)]
        best = torch.empty(num_texts, num_videos, dtype=torch.long, device=levels[0].device)
        with flushed_denormals():
            for tile in slices(num_videos, plan.tile):
                taken = videos.take(tile)
                if num_texts > plan.texts:  # looked at again and again: unpacked once; else in passing
                    taken = taken.unpacked()
                blocks = [(part, taken.take(part).trimmed()) for part in slices(len(taken.videos), plan.videos)]
                for rows in torch.split(order, plan.texts) if num_texts else ():
                    queries = self._prepare_texts(take_texts(texts, rows))
                    for part, block in blocks:
                        columns = slice(tile.start + part.start, tile.start + part.stop)
                        for whole, scores in zip([*levels, best], self._compare(queries, block), strict=True):
                            whole[rows, columns] = scores
        return LevelScores(levels[0], levels[1], levels[2], best)

    def _gather_tokens(
        self, videos: VideoBatch, noise: Tensor | None
    ) -> tuple[Tensor, Bool[Tensor, "video token"] | None, Float[Tensor, "video token"] | None]:
        """Give the tokens to compare with words: class tokens, and the chosen of each frame or all that there are."""
        frames, frame_mask = videos.frames, videos.frame_mask
        if videos.tokens is None:
            return frames, frame_mask, None
        tokens = hide(videos.tokens, videos.token_mask)
        if self.selector is None or videos.sizes is not None:
            mask = sizes = None
            if frame_mask is not None or videos.token_mask is not None:
                mask = torch.cat([_real(frame_mask, frames), _real(videos.token_mask, tokens)], dim=1)
            if videos.sizes is not None:
                sizes = torch.cat([torch.ones_like(frames[..., 0]), videos.sizes], dim=1)
                sizes = sizes if mask is None else sizes.masked_fill(~mask, 1)
            return real_first(torch.cat([frames, tokens], dim=1), mask, sizes)
        num_frames = frames.shape[1]
        if tokens.shape[1] % num_frames:
            raise ValueError(f"tokens must be as many for each of {num_frames} frames, got {tokens.shape[1]}")
        patches = rearrange(tokens, "video (frame patch) dim -> (video frame) patch dim", frame=num_frames)
        classes = rearrange(frames, "video frame dim -> (video frame) 1 dim")
        real = rearrange(_real(videos.token_mask, tokens), "video (frame p) -> (video frame) p", frame=num_frames)
        chosen, kept = self.selector(torch.cat([classes, patches], dim=1), real, noise=noise)
        chosen = rearrange(chosen, "(video frame) kept dim -> video (frame kept) dim", frame=num_frames)
        if frame_mask is None and videos.token_mask is None:
            return chosen, None, None
        frame_real = rearrange(_real(frame_mask, frames), "video frame -> (video frame) 1")
        mask = torch.cat([frame_real, kept & frame_real], dim=1)
        mask = rearrange(mask, "(video frame) kept -> video (frame kept)", frame=num_frames)
        return hide(chosen, mask), mask, None

    def _prepare_texts(self, texts: TextBatch) -> TextBatch:
        """Scale to unit length, drop columns of padding, and mix."""
        length, mask = trim(texts.mask)
        words = functional.normalize(hide(texts.words[:, :length], mask), dim=-1)
        sentences = functional.normalize(texts.sentences, dim=-1)
        return TextBatch(sentences, words if self.mixing is None else words @ self.mixing.word, mask)

    def _compare(self, texts: TextBatch, videos: PreparedVideos) -> LevelScores:
        """Compare prepared texts with prepared videos."""
        scale, mixing = self.logit_scale.exp(), self.mixing
        sentences = texts.sentences if mixing is None else texts.sentences @ mixing.sentence
        coarse = score_videos(sentences, videos.videos)
        middle, best = score_frames(
            texts.sentences, videos.frames, mixing=None if mixing is None else mixing.frames, mask=videos.frame_mask
        )
        fine = score_words(
            texts.words,
            videos.tokens,
            mixing=mixing,
            word_mask=texts.mask,
            token_mask=videos.token_mask,
            sizes=videos.sizes,
            scales=videos.token_scales,
        )
        return LevelScores(scale * coarse, scale * middle, scale * fine if self.unit_tokens else fine, best)


def take_texts(texts: TextBatch, rows: Tensor) -> TextBatch:
    """Give some of the texts."""
    return TextBatch(texts.sentences[rows], texts.words[rows], None if texts.mask is None else texts.mask[rows])


def hide(x: Float[Tensor, "item n dim"], mask: Bool[Tensor, "item n"] | None) -> Float[Tensor, "item n dim"]:
    """Zero what is padding, whatever it held."""
    return x if mask is None else x.masked_fill(~mask[..., None], 0)


def real_first(
    tokens: Float[Tensor, "video token dim"], mask: Tensor | None, sizes: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Move padding behind what is real: a token's place must not depend on how far frames are padded before it."""
    if mask is None:
        return tokens, mask, sizes
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return tokens, mask.gather(1, order), None if sizes is None else sizes.gather(1, order)


def _real(mask: Tensor | None, x: Tensor) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
