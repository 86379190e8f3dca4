"""The three similarities of a text and a video, coarse to fine: video-sentence, frame-sentence, patch-word."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from vidret.align.ucofia_aggregation import aggregate, aggregate_both_ways

RUN = 256  # packed tokens multiplied at once: half a MB of float32


class LevelScores(NamedTuple):
    """The scores of texts against videos, level by level, higher is better, and the frame that fits each text best."""

    video_sentence: Float[Tensor, "text video"]
    frame_sentence: Float[Tensor, "text video"]
    patch_word: Float[Tensor, "text video"]
    best_frame: Int[Tensor, "text video"]

    @property
    def mean(self) -> Float[Tensor, "text video"]:
        """Give the mean of the three levels: the score."""
        return (self.video_sentence + self.frame_sentence + self.patch_word) / 3


class Mixing(nn.Module):
    """The square matrices of a trained head, each the identity before it is trained; used as row vector @ matrix."""

    def __init__(self, dim: int, *, num_frames: int, num_words: int, num_tokens: int) -> None:
        """Fix the trained sizes; ``num_tokens`` counts those kept of a whole video."""
        super().__init__()
        self.sentence, self.video = _identity(dim), _identity(dim)
        self.frames = _identity(num_frames)
        self.word, self.token = _identity(dim), _identity(dim)
        self.words_first, self.tokens_second = _identity(num_words), _identity(num_tokens)
        self.tokens_first, self.words_second = _identity(num_tokens), _identity(num_words)


def _identity(size: int) -> nn.Parameter:
    return nn.Parameter(torch.eye(size))


def score_videos(
    sentences: Float[Tensor, "text dim"], videos: Float[Tensor, "video dim"]
) -> Float[Tensor, "text video"]:
    """Compare sentences with whole videos."""
    return sentences @ videos.T


def score_frames(
    sentences: Float[Tensor, "text dim"],
    frames: Float[Tensor, "video frame dim"],
    *,
    mixing: Float[Tensor, "n n"] | None = None,
    mask: Bool[Tensor, "video frame"] | None = None,
) -> tuple[Float[Tensor, "text video"], Int[Tensor, "text video"]]:
    """Compare sentences with each frame and aggregate (ISA).

    Returns:
        The scores, and the index of the frame that is most similar to each text.
    """
    flat = sentences @ rearrange(frames, "video frame dim -> dim (video frame)")
    similarities = rearrange(flat, "text (video frame) -> text video frame", frame=frames.shape[1])
    real = similarities if mask is None else similarities.masked_fill(~mask, -torch.inf)
    return aggregate(similarities, -1, mixing=mixing, mask=mask), real.argmax(dim=-1)


def compare_words(
    words: Float[Tensor, "text word dim"],
    tokens: Shaped[Tensor, "video token dim"],
    scales: Float[Tensor, "video token"] | None = None,
) -> Float[Tensor, "text word video token"]:
    """Compare every word with every token.

    Packed tokens are unpacked in passing, as many at a time as a core's cache holds: a query against 200 videos takes
    two thirds of the time (measured) that it takes to unpack all and then to multiply.
    """
    texts, rows = rearrange(words, "t w d -> (t w) d"), rearrange(tokens, "v p d -> (v p) d")
    parts = [rows] if rows.dtype == texts.dtype else torch.split(rows, RUN)
    products = torch.cat([texts @ part.to(texts.dtype).T for part in parts], dim=1)
    if scales is not None:
        products = products * rearrange(scales, "v p -> (v p)")
    return rearrange(products, "(t w) (v p) -> t w v p", t=len(words), v=len(tokens))


def score_words(
    words: Float[Tensor, "text word dim"],
    tokens: Shaped[Tensor, "video token dim"],
    *,
    mixing: Mixing | None = None,
    word_mask: Bool[Tensor, "text word"] | None = None,
    token_mask: Bool[Tensor, "video token"] | None = None,
    sizes: Float[Tensor, "video token"] | None = None,
    scales: Float[Tensor, "video token"] | None = None,
) -> Float[Tensor, "text video"]:
    """Compare every word with every token, and aggregate.

    With trained matrices both ways (Bi-ISA). Without any, each word finds its tokens and all words count alike: Bi-ISA
    lets the best word decide alone, which takes training to be worth something (measured: on the starter the word level
    alone falls from R@1 40 to 31, and takes the mean of the levels down with it).
    """
    similarities = compare_words(words, tokens, scales)
    if mixing is None:
        found = aggregate(similarities, -1, mask=token_mask, sizes=sizes)
        if word_mask is None:
            return found.mean(dim=1)
        real = word_mask[..., None]
        return found.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return aggregate_both_ways(
        similarities,
        words_then=(mixing.words_first, mixing.tokens_second),
        tokens_then=(mixing.tokens_first, mixing.words_second),
        word_mask=word_mask,
        token_mask=token_mask,
        sizes=sizes,
    )
