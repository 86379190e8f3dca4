"""UCoFiA's levels and their aggregation: equality with loops, sizes as copies, and resized matrices."""

import pytest
import torch

from tests.align.naive import make_mixing, naive_both_ways, naive_frames
from vidret.align.ucofia_levels import aggregate, aggregate_both_ways, resize_mixing, score_frames, score_words


def test_padding_only_gives_finite_scores_and_gradients() -> None:
    similarities = torch.zeros(2, 3, 2, 4, requires_grad=True)
    token_mask = torch.tensor([[True] * 4, [False] * 4])
    found = aggregate_both_ways(similarities, make_mixing(), word_mask=torch.zeros(2, 3).bool(), token_mask=token_mask)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.isfinite().all()
    assert similarities.grad is not None
    assert similarities.grad.isfinite().all()


def test_token_of_size_n_counts_as_n_equal_tokens() -> None:
    sizes = torch.tensor([[1.0, 3.0, 2.0, 1.0], [2.0, 1.0, 1.0, 3.0]]).double()
    for spread in (0.2, 0.01):  # 20 and one times the temperature
        similarities = spread * torch.randn(3, 5, 2, 4).double()
        found = aggregate(similarities, -1, sizes=sizes)
        for video in range(2):
            copies = similarities[:, :, video].repeat_interleave(sizes[video].long(), dim=-1)
            torch.testing.assert_close(found[:, :, video], aggregate(copies, -1))
    assert torch.equal(aggregate(similarities, -1, sizes=torch.ones_like(sizes)), aggregate(similarities, -1))


def test_resizing_keeps_trained_entries() -> None:
    matrix = torch.randn(5, 5)
    assert resize_mixing(matrix, 5) is matrix
    assert torch.equal(resize_mixing(matrix, 3), matrix[:3, :3])
    assert torch.equal(resize_mixing(matrix, 8)[:5, :5], matrix)
    assert resize_mixing(torch.tensor([[2.0, 1.0], [1.0, 4.0]]), 3).tolist() == [[2, 1, 1], [1, 4, 1], [1, 1, 3]]
    assert resize_mixing(torch.tensor([[2.0]]), 2).tolist() == [[2, 0], [0, 2]]


def test_resizing_keeps_symmetry_between_positions() -> None:
    for size in (2, 9):
        assert torch.equal(resize_mixing(torch.eye(4), size), torch.eye(size))
        symmetric = 2 * torch.eye(4) + 0.5
        torch.testing.assert_close(resize_mixing(symmetric, size), 2 * torch.eye(size) + 0.5)
        # A constant added to the matrix has no effect, since the outer softmax is invariant to it.
        values = 0.03 * torch.randn(3, size).double()
        torch.testing.assert_close(aggregate(values, -1, mixing=torch.eye(4).double() + 7), aggregate(values, -1))


@torch.no_grad()
def test_levels_equal_loops() -> None:
    sentences, words = 0.2 * torch.randn(3, 6).double(), 0.2 * torch.randn(3, 4, 6).double()
    frames, tokens = torch.randn(2, 3, 6).double(), torch.randn(2, 5, 6).double()
    mixing = make_mixing().double()
    fine = score_words(words, tokens, mixing=mixing)
    middle, best = score_frames(sentences, frames, mixing=mixing.frames)
    plain, plain_best = score_frames(sentences, frames)
    for text in range(3):
        for video in range(2):
            pair = (text, video)
            score, best_frame = naive_frames(sentences[text], frames[video], mixing.frames)
            torch.testing.assert_close(middle[pair], torch.tensor(score).double())
            assert best[pair] == plain_best[pair] == best_frame
            score, _ = naive_frames(sentences[text], frames[video], None)
            torch.testing.assert_close(plain[pair], torch.tensor(score).double())
            expected = naive_both_ways(words[text] @ tokens[video].T, mixing)
            torch.testing.assert_close(fine[pair], torch.tensor(expected).double())


def test_axis_in_between_is_rejected() -> None:
    with pytest.raises(ValueError, match="dim must be 1 or the last, got 2"):
        aggregate(torch.zeros(2, 3, 4, 5), 2, mixing=torch.eye(4))
