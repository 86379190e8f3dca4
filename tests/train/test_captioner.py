"""Tests of the captioner: its loss against a naive version, causality, and numbers of the published code."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.goldens import Case, check_close, find_cases
from vidret.encode.clip.text import TextShape, TextTower, clip_pieces
from vidret.encode.clip.weights import convert_state_dict
from vidret.train.captioner import FREQUENT_WORDS, Captioner, caption_loss, read_tokens, restrict_vocabulary

CASES = find_cases("promptswitch")
PUBLISHED_NAMES = {"caption_prenorm.": "prenorm.", "caption_transformer.": "decoder.", "caption_head.": "head."}
VOCABULARY, START, END, WIDTH = 29, 27, 28, 16
FREQUENT = [1, 4, START, END]


def naive_loss(logits: Tensor, ids: Tensor, frequent: list[int], *, weight: float) -> float:
    """Compute the loss by loops over captions and tokens, up to the end token."""
    total = weights = 0.0
    for row, caption in zip(logits.tolist(), ids.tolist(), strict=True):
        for position, scores in enumerate(row):
            if caption[position] == END:
                break
            target = caption[position + 1]
            loss = math.log(sum(math.exp(score) for score in scores)) - scores[target]
            token_weight = 0.25 if target in frequent else 1.0
            total, weights = total + token_weight * loss, weights + token_weight
    return weight * total / weights if weights else 0.0


def make_captions(*lengths: int, width: int = 9, padding: int = END) -> Tensor:
    """Return random captions with the given numbers of words between start and end."""
    words = torch.Generator().manual_seed(len(lengths))
    ids = torch.full((len(lengths), width), padding)
    for row, length in zip(ids, lengths, strict=True):
        row[: length + 2] = torch.cat(
            [torch.tensor([START]), torch.randint(START, (length,), generator=words), torch.tensor([END])]
        )
    return ids


def compute_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return caption_loss(logits, ids, end=END, frequent=FREQUENT)


def load_published(weights: Mapping[str, Tensor], heads: int) -> Captioner:
    """Return the captioner of a checkpoint of the published code."""
    state = {
        ours + name.removeprefix(theirs): weight
        for name, weight in weights.items()
        for theirs, ours in PUBLISHED_NAMES.items()
        if name.startswith(theirs)
    }
    num_layers = len({name.split(".")[2] for name in state if name.startswith("decoder.layers.")})
    hidden = len(state["decoder.layers.0.linear1.weight"])
    captioner = Captioner(state["head.weight"], num_layers=num_layers, heads=heads, hidden=hidden)
    captioner.load_state_dict(state)
    return captioner


@pytest.fixture
def tower() -> TextTower:
    torch.manual_seed(0)
    return TextTower(TextShape(context=12, vocabulary=VOCABULARY, width=WIDTH, layers=1, heads=2, dim=WIDTH))


@pytest.fixture
def captioner(tower: TextTower) -> Captioner:
    torch.manual_seed(1)
    return Captioner(tower.embedding.weight, num_layers=2, heads=4, hidden=24)


@pytest.mark.parametrize("padding", [END, 0, 5])
@pytest.mark.parametrize(("frequent", "weight"), [(FREQUENT, 0.5), ([], 1.0)])
def test_loss_matches_naive_version(padding: int, frequent: list[int], weight: float) -> None:
    ids = make_captions(7, 3, 0, 5, padding=padding)
    logits = 3 * torch.randn(4, 8, VOCABULARY, generator=torch.Generator().manual_seed(0))
    got = caption_loss(logits, ids, end=END, frequent=frequent, weight=weight)
    expected = naive_loss(logits, ids, frequent, weight=weight)
    assert got.item() == pytest.approx(expected, abs=1e-5)
    inputs = (logits.double().requires_grad_(),)
    assert torch.autograd.gradcheck(lambda x: compute_loss(x, ids), inputs, fast_mode=True)


@pytest.mark.parametrize("ids", [torch.full((2, 4), END), torch.full((2, 1), START), torch.empty(0, 4).long()])
def test_loss_without_words_is_zero_with_a_gradient(ids: Tensor) -> None:
    logits = torch.randn(len(ids), ids.shape[1] - 1, VOCABULARY, requires_grad=True)
    loss = compute_loss(logits, ids)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("position", [1, 4, 7])
@torch.no_grad()
def test_later_words_do_not_affect_earlier_logits(captioner: Captioner, tower: TextTower, position: int) -> None:
    ids, memory = make_captions(7), torch.randn(1, 3, WIDTH)
    other = ids.clone()
    other[:, position] = (ids[:, position] + 1) % START
    before, after = captioner(ids, memory, tower), captioner(other, memory, tower)
    torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-6)
    assert (after[:, position:] - before[:, position:]).abs().amax(dim=-1).gt(1e-4).all()


@torch.no_grad()
def test_videos_are_independent_and_frame_order_has_no_effect(captioner: Captioner, tower: TextTower) -> None:
    ids, memory = make_captions(7, 3), torch.randn(2, 5, WIDTH)
    logits = captioner(ids, memory, tower)
    assert logits.shape == (2, 8, VOCABULARY)
    torch.testing.assert_close(captioner(ids[1:], memory[1:], tower), logits[1:])
    torch.testing.assert_close(captioner(ids, memory.flip(1), tower), logits)
    assert not torch.allclose(captioner(ids, memory.flip(0), tower), logits, atol=1e-2)


def test_gradients_reach_captioner_and_memory_but_not_the_text_tower(captioner: Captioner, tower: TextTower) -> None:
    ids, memory = make_captions(5, 3), torch.randn(2, 3, WIDTH, requires_grad=True)
    torch.autograd.backward(compute_loss(captioner(ids, memory, tower), ids))
    assert all(weight.grad is None for weight in tower.parameters())
    assert memory.grad is not None
    for grad in (memory.grad, *(weight.grad for weight in captioner.parameters())):
        assert grad is not None
        assert grad.isfinite().all()
        assert grad.any()


def test_head_is_initialised_with_a_copy_of_the_embedding(captioner: Captioner, tower: TextTower) -> None:
    assert captioner.head is not None
    assert torch.equal(captioner.head.weight, tower.embedding.weight)
    assert captioner.head.weight.data_ptr() != tower.embedding.weight.data_ptr()
    assert not captioner.head.bias.any()
    with pytest.raises(ValueError, match="heads must divide dim 16, got 3"):
        Captioner(tower.embedding.weight, heads=3)


def test_frequent_tokens_are_sorted_and_include_start_and_end() -> None:
    encode, start, end = clip_pieces()
    frequent, found_end = read_tokens()
    assert found_end == end
    assert frequent == sorted({start, end, *(piece for word in FREQUENT_WORDS.split() for piece in encode(word))})
    assert len(frequent) == 17 + 2


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.folder.parents[1].name}-{case.folder.name}")
@torch.no_grad()
def test_logits_weights_and_loss_match_published_code(case: Case) -> None:
    facts, ids = case.config, case.inputs["text_ids"].long()
    captioner = load_published(case.weights, facts["captioner"]["heads"])
    text = convert_state_dict(case.weights, "promptswitch", heads=(facts["vh"], facts["th"])).text
    logits = captioner(ids, case.outputs["frame_features_projected"][:, : facts["num_frames"]], text)
    check_close(logits, case.outputs["caption_logits"], atol=1e-4)
    settings = {"end": facts["eos_token_id"], "frequent": facts["frequent_token_ids"]}
    loss = caption_loss(logits, ids, **settings, weight=facts["caption_loss_mult"])
    check_close(loss, case.outputs["caption_loss_weighted"].squeeze())


def test_restricted_captions_give_the_loss_of_their_vocabulary(captioner: Captioner, tower: TextTower) -> None:
    ids, memory = make_captions(4, 2, 3, width=9, padding=0), torch.randn(3, 5, WIDTH)
    small = restrict_vocabulary(ids, end=END, frequent=FREQUENT)
    assert small.ids.shape == (3, 6), "up to the longest caption"
    assert torch.equal(small.vocabulary[small.labels], small.ids)
    assert int(small.vocabulary[small.end]) == END
    assert [int(small.vocabulary[place]) for place in small.frequent] == [
        token for token in FREQUENT if (ids == token).any()
    ]
    logits = captioner(small.ids, memory, tower, vocabulary=small.vocabulary)
    assert logits.shape == (3, 5, len(small.vocabulary))
    whole = captioner(ids, memory, tower)
    torch.testing.assert_close(logits, whole[:, :5, small.vocabulary])
    without = torch.full_like(whole, -1e9)
    without[..., small.vocabulary] = whole[..., small.vocabulary]
    loss = caption_loss(logits, small.labels, end=small.end, frequent=small.frequent)
    assert loss.item() == pytest.approx(naive_loss(without, ids, FREQUENT, weight=0.5), abs=1e-5)


def test_captioner_without_a_head_predicts_with_the_embedding_and_does_not_train_it(tower: TextTower) -> None:
    torch.manual_seed(1)
    captioner = Captioner(tower.embedding.weight, num_layers=1, heads=4, hidden=24, own_head=False)
    copied = Captioner(tower.embedding.weight, num_layers=1, heads=4, hidden=24)
    assert copied.load_state_dict(captioner.state_dict(), strict=False).unexpected_keys == []
    ids, memory = make_captions(4, 2), torch.randn(2, 3, WIDTH)
    logits = captioner(ids, memory, tower)
    torch.testing.assert_close(logits, copied(ids, memory, tower))
    torch.autograd.backward(logits.sum())
    assert tower.embedding.weight.grad is None
    assert all(weight.grad is not None for weight in captioner.parameters())
