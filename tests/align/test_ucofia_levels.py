"""UCoFiA's three levels: equality with loops over pairs, written from the paper."""

import torch
from torch import Tensor

from tests.align.naive import make_mixing, naive_both_ways, naive_frames
from vidret.align.ucofia_levels import score_frames, score_words


@torch.no_grad()
def test_levels_equal_loops() -> None:
    torch.manual_seed(1)
    sentences, words = 0.2 * torch.randn(3, 6).double(), 0.2 * torch.randn(3, 4, 6).double()
    frames, tokens = torch.randn(2, 3, 6).double(), torch.randn(2, 5, 6).double()
    mixing = make_mixing().double()
    fine = score_words(words, tokens, mixing=mixing)
    middle, best = score_frames(sentences, frames, mixing=mixing.frames)
    plain, plain_best = score_frames(sentences, frames)[0], score_frames(sentences, frames)[1]
    matrices: list[Tensor | None] = [
        mixing.words_first,
        mixing.tokens_second,
        mixing.tokens_first,
        mixing.words_second,
    ]
    for text in range(3):
        for video in range(2):
            pair = (text, video)
            score, best_frame = naive_frames(sentences[text], frames[video], mixing.frames)
            torch.testing.assert_close(middle[pair], torch.tensor(score).double())
            assert best[pair] == plain_best[pair] == best_frame
            score, _ = naive_frames(sentences[text], frames[video], None)
            torch.testing.assert_close(plain[pair], torch.tensor(score).double())
            expected = naive_both_ways(words[text] @ tokens[video].T, matrices, 0.01)
            torch.testing.assert_close(fine[pair], torch.tensor(expected).double())
