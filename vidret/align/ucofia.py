"""UCoFiA, the precise aligner: coarse-to-fine scores of queries for candidates, the video side computed once."""

import math
from functools import partial
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vidret.align.batches import TextBatch, VideoBatch, fill_mask, take_rows
from vidret.align.prepared import PreparedVideos, plan_blocks, run_tasks, trim
from vidret.align.ucofia_levels import LevelScores, Mixing, score_frames, score_words
from vidret.align.ucofia_selection import PatchSelector
from vidret.layers import TemporalTransformer, pool_frames, zero_padding

CLIP_SCALE = math.log(100)


class Aligner(nn.Module):
    """Scores of texts for videos at three levels, and their mean (UCoFiA).

    By default it is training-free: no temporal transformer, no mixing matrices, equal weights of words, and all tokens,
    of unit length, in addition to the frames. The modules of a trained head are passed in. A trained head (``trained``)
    takes vectors with the norms that the encoder gave them, and words that include the start and end tokens. There may
    be any number of frames, words and tokens; see ``resize_mixing`` for numbers other than the trained ones.

    Padding has no effect at any level. Without padding, the scores are those of the published code, which has no masks.

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
        """Compose an aligner of trained parts; without a selector, and for merged tokens, all patches are kept.

        ``unit_tokens`` normalizes tokens and multiplies the third level by the learned scale like the other two. The
        published heads were trained without either: the norms of their tokens carry information.
        """
        super().__init__()
        self.temporal, self.selector, self.mixing, self.unit_tokens = temporal, selector, mixing, unit_tokens
        self.logit_scale = nn.Parameter(torch.tensor(CLIP_SCALE))

    @property
    def trained(self) -> bool:
        """Whether there is a trained head, which takes raw vectors."""
        return self.mixing is not None

    def describe(self) -> dict[str, Any]:
        """Return the settings that do not follow from the weights and differ from the published ones."""
        return {"unit_tokens": True} if self.trained and self.unit_tokens else {}

    def prepare(self, videos: VideoBatch, *, noise: Float[Tensor, "item draw patch"] | None = None) -> PreparedVideos:
        """Compute the part of the scores that does not depend on the query; differentiable.

        Args:
            videos: Encoded videos; for a trained head not scaled to unit length.
            noise: Noise for the selection of patches, as in ``PatchSelector``.

        Raises:
            ValueError: Frames have unequal numbers of tokens, and the tokens have no sizes, which merged tokens have.
        """
        frames = zero_padding(videos.frames, videos.frame_mask)
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
        """Score all texts for all videos at once, with gradients; memory grows with texts x words x tokens."""
        return self._compare(self._prepare_texts(texts), videos.unpacked())

    @torch.no_grad()
    def score(self, texts: TextBatch, videos: PreparedVideos) -> LevelScores:
        """Score all texts for all videos, block by block, so that working memory hardly grows with their numbers.

        The number of threads does not change a score.
        """
        shape, device = (len(texts.sentences), len(videos.videos)), videos.videos.device
        coarse, middle, fine = (videos.videos.new_empty(shape) for _ in range(3))
        scores = LevelScores(coarse, middle, fine, torch.empty(shape, dtype=torch.long, device=device))
        per_text, per_video = plan_blocks(texts, videos)
        # Texts of similar length share a block, which is padded to its longest.
        lengths = torch.zeros(len(texts.sentences)) if texts.mask is None else texts.mask.sum(dim=1)
        blocks = torch.split(lengths.argsort(stable=True), per_text)
        queries: dict[int, TextBatch] = {}

        def prepare(index: int) -> None:
            queries[index] = self._prepare_texts(take_rows(texts, blocks[index]))

        def score_columns(columns: slice) -> None:
            block = take_rows(videos, columns)
            if len(blocks) > 1:  # unpack once, not in each product
                block = block.unpacked()
            block = block.trimmed()
            for index, rows in enumerate(blocks):
                for full, values in zip(scores, self._compare(queries[index], block), strict=True):
                    full[rows, columns] = values

        run_tasks([partial(prepare, index) for index in range(len(blocks))], device)
        starts = range(0, len(videos.videos), per_video)
        run_tasks([partial(score_columns, slice(start, start + per_video)) for start in starts], device)
        return scores

    def _gather_tokens(
        self, videos: VideoBatch, noise: Tensor | None
    ) -> tuple[Tensor, Bool[Tensor, "video token"] | None, Float[Tensor, "video token"] | None]:
        """Return the tokens to compare with words, their mask and sizes: class tokens, and selected or all patches."""
        frames, frame_mask = videos.frames, videos.frame_mask
        if videos.tokens is None:
            return frames, frame_mask, None
        tokens = zero_padding(videos.tokens, videos.token_mask)
        if self.selector is None or videos.sizes is not None:
            mask = sizes = None
            if frame_mask is not None or videos.token_mask is not None:
                mask = torch.cat([fill_mask(frame_mask, frames), fill_mask(videos.token_mask, tokens)], dim=1)
            if videos.sizes is not None:
                sizes = torch.cat([torch.ones_like(frames[..., 0]), videos.sizes], dim=1)
                sizes = sizes if mask is None else sizes.masked_fill(~mask, 1)
            return move_padding_last(torch.cat([frames, tokens], dim=1), mask, sizes)
        num_frames = frames.shape[1]
        if tokens.shape[1] % num_frames:
            raise ValueError(f"number of tokens must be a multiple of the {num_frames} frames, got {tokens.shape[1]}")
        patches = rearrange(tokens, "video (frame patch) dim -> (video frame) patch dim", frame=num_frames)
        classes = rearrange(frames, "video frame dim -> (video frame) 1 dim")
        real = rearrange(fill_mask(videos.token_mask, tokens), "video (frame p) -> (video frame) p", frame=num_frames)
        selected, kept = self.selector(torch.cat([classes, patches], dim=1), real, noise=noise)
        selected = rearrange(selected, "(video frame) kept dim -> video (frame kept) dim", frame=num_frames)
        if frame_mask is None and videos.token_mask is None:
            return selected, None, None
        frame_real = rearrange(fill_mask(frame_mask, frames), "video frame -> (video frame) 1")
        mask = torch.cat([frame_real, kept & frame_real], dim=1)
        mask = rearrange(mask, "(video frame) kept -> video (frame kept)", frame=num_frames)
        return zero_padding(selected, mask), mask, None

    def _prepare_texts(self, texts: TextBatch) -> TextBatch:
        """Return texts of unit length, without columns of padding, with words multiplied by their mixing matrix."""
        length, mask = trim(texts.mask)
        words = functional.normalize(zero_padding(texts.words[:, :length], mask), dim=-1)
        sentences = functional.normalize(texts.sentences, dim=-1)
        return TextBatch(sentences, words if self.mixing is None else words @ self.mixing.word, mask)

    def _compare(self, texts: TextBatch, videos: PreparedVideos) -> LevelScores:
        """Return the scores of prepared texts for prepared videos."""
        scale, mixing = self.logit_scale.exp(), self.mixing
        sentences = texts.sentences if mixing is None else texts.sentences @ mixing.sentence
        coarse = sentences @ videos.videos.T
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


def move_padding_last(
    tokens: Float[Tensor, "video token dim"], mask: Tensor | None, sizes: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return tokens, mask and sizes with padding last, so that positions do not depend on the padding of frames."""
    if mask is None:
        return tokens, mask, sizes
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return tokens, mask.gather(1, order), None if sizes is None else sizes.gather(1, order)
