"""UCoFiA's three levels of similarity, coarse to fine: video-sentence, frame-sentence, patch-word."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from vidret.align.ucofia_aggregation import aggregate, aggregate_both_ways

CHUNK = 256  # packed tokens multiplied at once: 0.5 MB of float32


class LevelScores(NamedTuple):
    """Scores of texts for videos by level, higher is better, and the index of the frame most similar to each text."""

    video_sentence: Float[Tensor, "text video"]
    frame_sentence: Float[Tensor, "text video"]
    patch_word: Float[Tensor, "text video"]
    best_frame: Int[Tensor, "text video"]

    @property
    def mean(self) -> Float[Tensor, "text video"]:
        """Return the mean of the three levels, which is the final score."""
        return (self.video_sentence + self.frame_sentence + self.patch_word) / 3


class Mixing(nn.Module):
    """The mixing matrices of a trained head, square and initialised to the identity; used as row vector @ matrix."""

    def __init__(self, dim: int, *, num_frames: int, num_words: int, num_tokens: int) -> None:
        """Create identity matrices; ``num_tokens`` is the number of tokens kept per video."""
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
    """Return the similarities of sentences and videos."""
    return sentences @ videos.T


def score_frames(
    sentences: Float[Tensor, "text dim"],
    frames: Float[Tensor, "video frame dim"],
    *,
    mixing: Float[Tensor, "n n"] | None = None,
    mask: Bool[Tensor, "video frame"] | None = None,
) -> tuple[Float[Tensor, "text video"], Int[Tensor, "text video"]]:
    """Return the aggregated similarities (ISA) of sentences and frames, and the index of the most similar frame."""
    flat = sentences @ rearrange(frames, "video frame dim -> dim (video frame)")
    similarities = rearrange(flat, "text (video frame) -> text video frame", frame=frames.shape[1])
    real = similarities if mask is None else similarities.masked_fill(~mask, -torch.inf)
    return aggregate(similarities, -1, mixing=mixing, mask=mask), real.argmax(dim=-1)


def compare_words(
    words: Float[Tensor, "text word dim"],
    tokens: Shaped[Tensor, "video token dim"],
    scales: Float[Tensor, "video token"] | None = None,
) -> Float[Tensor, "text word video token"]:
    """Return the similarity of every word and every token.

    Packed tokens are unpacked in chunks that fit a core's cache: one query for 200 videos takes two thirds of the time
    of unpacking all tokens first (measured).
    """
    texts, rows = rearrange(words, "t w d -> (t w) d"), rearrange(tokens, "v p d -> (v p) d")
    chunks = [rows] if rows.dtype == texts.dtype else torch.split(rows, CHUNK)
    products = torch.cat([texts @ chunk.to(texts.dtype).T for chunk in chunks], dim=1)
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
    """Return the aggregated similarities of words and tokens.

    Trained matrices aggregate in both orders (Bi-ISA). Without them, tokens are aggregated for each word, and words
    have equal weights: in Bi-ISA the best word dominates, which only helps after training (measured with the starter:
    R@1 of the word level falls from 40 to 31, and lowers the mean of the levels too).
    """
    similarities = compare_words(words, tokens, scales)
    if mixing is None:
        by_word = aggregate(similarities, -1, mask=token_mask, sizes=sizes)
        if word_mask is None:
            return by_word.mean(dim=1)
        real = word_mask[..., None]
        return by_word.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
    return aggregate_both_ways(
        similarities,
        words_then=(mixing.words_first, mixing.tokens_second),
        tokens_then=(mixing.tokens_first, mixing.words_second),
        word_mask=word_mask,
        token_mask=token_mask,
        sizes=sizes,
    )
