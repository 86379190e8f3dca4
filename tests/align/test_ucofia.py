"""UCoFiA's aligner: equality with loops, padding, blocks, training and storage."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.align.naive import make_mixing, naive_aggregate, naive_frames
from vidret.align import prepared
from vidret.align.batches import TextBatch, VideoBatch, collate_segments, collate_texts, take_rows, unpack_stacked
from vidret.align.prepared import pack_video, unpack_videos
from vidret.align.stacking import pack_arrays
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import LevelScores
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.errors import AlignerError
from vidret.layers import TemporalTransformer
from vidret.types import SegmentEmbedding, TextEmbedding

DIM, FRAMES, PATCHES = 16, 4, 6


def make_head() -> Aligner:
    """Return a head for 4 frames and 5 words, in evaluation mode."""
    aligner = Aligner(
        temporal=TemporalTransformer(DIM, layers=2, heads=2),
        selector=PatchSelector(ScoreNet(DIM)),
        mixing=make_mixing(DIM, num_frames=FRAMES, num_words=5, num_tokens=4 * FRAMES),
        unit_tokens=False,
    )
    return aligner.eval()


def make_texts(num: int = 5, num_words: int = 5) -> TextBatch:
    mask = torch.arange(num_words) < torch.tensor([[1 + text % num_words] for text in range(num)])
    return TextBatch(torch.randn(num, DIM), torch.randn(num, num_words, DIM), mask)


def make_videos(num: int = 6, frames: int = FRAMES) -> VideoBatch:
    mask = torch.arange(frames) < torch.tensor([[1 + video % frames] for video in range(num)])
    return VideoBatch(
        torch.randn(num, frames, DIM), torch.randn(num, frames * PATCHES, DIM), mask, mask.repeat_interleave(PATCHES, 1)
    )


def make_merged(num: int = 6) -> VideoBatch:
    videos = make_videos(num)
    assert videos.tokens is not None
    assert videos.token_mask is not None
    tokens, mask = videos.tokens[:, :11], torch.arange(11) < torch.tensor([[11 - video] for video in range(num)])
    return videos._replace(tokens=tokens, token_mask=mask, sizes=torch.randint(1, 5, (num, 11)) * mask)


CASES = [(make_head, make_videos), (Aligner, make_videos), (Aligner, make_merged), (make_head, make_merged)]
each_kind = pytest.mark.parametrize(("build", "make"), CASES, ids=["head", "plain", "merged", "head-merged"])


def check_same(found: LevelScores, expected: LevelScores) -> None:
    for name in ("video_sentence", "frame_sentence", "patch_word"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-5, msg=name)
    assert torch.equal(found.best_frame, expected.best_frame)


# Equality with loops.


@torch.no_grad()
def test_training_free_scores_equal_loops() -> None:
    texts, videos = make_texts(), make_videos()
    aligner = Aligner()
    scores = aligner.score(texts, aligner.prepare(videos))
    assert texts.mask is not None
    assert videos.frame_mask is not None
    assert videos.tokens is not None
    for text in range(5):
        sentence = functional.normalize(texts.sentences[text], dim=0)
        words = functional.normalize(texts.words[text, texts.mask[text]], dim=-1)
        for video in range(6):
            real = int(videos.frame_mask[video].sum())
            frames = [frame / frame.norm() for frame in videos.frames[video, :real]]
            tokens = [*frames, *(token / token.norm() for token in videos.tokens[video, : real * PATCHES])]
            mean = torch.stack(frames).mean(dim=0)
            middle, best = naive_frames(sentence, torch.stack(frames), None)
            word_scores = [naive_aggregate((torch.stack(tokens) @ word).tolist()) for word in words]
            fine = sum(word_scores) / len(word_scores)
            expected = [100 * float(sentence @ mean / mean.norm()), 100 * middle, 100 * fine]
            found = [float(level[text, video]) for level in scores[:3]]
            assert found == pytest.approx(expected, abs=1e-3)
            assert scores.best_frame[text, video] == best
            assert float(scores.mean[text, video]) == pytest.approx(sum(expected) / 3, abs=1e-3)


# Invariances.


@torch.no_grad()
@each_kind
def test_padding_has_no_effect(build: Any, make: Any) -> None:
    """Compare with the scores of each pair without padding, and with NaN in the padding."""
    aligner, texts, videos = build(), make_texts(), make()
    scores = aligner.score(texts, aligner.prepare(videos))
    assert texts.mask is not None
    words, frames, tokens = (
        vectors.masked_fill(~mask[..., None], float("nan"))
        for vectors, mask in (
            (texts.words, texts.mask),
            (videos.frames, videos.frame_mask),
            (videos.tokens, videos.token_mask),
        )
    )
    again = aligner.score(texts._replace(words=words), aligner.prepare(videos._replace(frames=frames, tokens=tokens)))
    for one, other in zip(scores, again, strict=True):
        assert torch.equal(one, other)
    for text in range(5):
        alone = TextBatch(texts.sentences[text : text + 1], texts.words[text : text + 1, texts.mask[text]])
        for video in range(6):
            row = slice(video, video + 1)
            real, kept = videos.frame_mask[video], videos.token_mask[video]
            bare = VideoBatch(
                videos.frames[row, real],
                videos.tokens[row, kept],
                sizes=None if videos.sizes is None else videos.sizes[row, kept],
            )
            pair_scores = LevelScores(*(level[[text]][:, [video]] for level in scores))
            check_same(aligner.score(alone, aligner.prepare(bare)), pair_scores)


# Blocks.


@torch.no_grad()
@each_kind
def test_scores_do_not_depend_on_the_size_of_blocks(build: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    aligner, texts = build(), make_texts(23)
    videos = aligner.prepare(make(37) if make is make_videos else make_merged(9)).packed(torch.int8)
    whole = aligner.score(texts, videos)
    monkeypatch.setattr(prepared, "BLOCK", 900)
    per_text, per_video = prepared.plan_blocks(texts, videos)
    assert per_text < 23
    assert per_video < len(videos.videos)
    check_same(aligner.score(texts, videos), whole)
    check_same(aligner(texts, videos), whole)


def test_no_texts_or_videos_give_empty_scores() -> None:
    aligner, texts, videos = Aligner(), make_texts(), Aligner().prepare(make_videos())
    none = TextBatch(texts.sentences[:0], texts.words[:0])
    for score in (aligner.score, aligner):
        assert score(texts, take_rows(videos, slice(0, 0))).mean.shape == (5, 0)
        assert score(none, videos).mean.shape == (0, 6)


# Training and storage.


def test_gradients_reach_every_weight_and_are_finite() -> None:
    aligner = make_head().train()
    aligner.logit_scale.data.fill_(1.0)
    for matrix in aligner.mixing.parameters() if aligner.mixing is not None else []:
        matrix.data.mul_(0.05)  # soft, unlike trained heads: a hard maximum has no gradient
    texts, videos = make_texts(), make_videos()
    scores = aligner(texts, aligner.prepare(videos)).mean
    loss = functional.cross_entropy(scores[:5, :5], torch.arange(5))
    loss.backward()  # type: ignore[no-untyped-call]
    for name, weight in aligner.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "loss"), [(torch.float16, 0.02), (torch.int8, 1.0)])
def test_packed_tokens_change_scores_little(dtype: torch.dtype, loss: float) -> None:
    aligner, texts = Aligner(), make_texts()
    videos = aligner.prepare(make_videos())
    packed = videos.packed(dtype)
    assert packed.tokens.dtype == dtype
    assert packed.unpacked().tokens.dtype == torch.float32
    assert (packed.unpacked().tokens - videos.tokens).abs().max() <= (1 / 254 + 1e-6 if dtype == torch.int8 else 1e-3)
    found, expected = aligner.score(texts, packed), aligner.score(texts, videos)
    assert (found.patch_word - expected.patch_word).abs().max() < loss
    assert torch.equal(found.frame_sentence, expected.frame_sentence)
    assert not take_rows(packed.packed(torch.int8), slice(0, 0)).tokens.numel()


def test_selector_needs_equally_many_patches_per_frame() -> None:
    aligner = Aligner(selector=PatchSelector())
    videos = VideoBatch(torch.randn(2, 4, DIM), torch.randn(2, 23, DIM))
    with pytest.raises(ValueError, match="must be a multiple of the 4 frames, got 23"):
        aligner.prepare(videos)
    assert aligner.eval().prepare(videos._replace(tokens=torch.randn(2, 24, DIM))).tokens.shape == (2, 16, DIM)
    assert aligner.prepare(VideoBatch(videos.frames)).tokens.shape == (2, 4, DIM)


def make_segment(num_frames: int, num_tokens: int | None, *, sizes: bool = False) -> SegmentEmbedding:
    rng = np.random.default_rng(num_frames)
    frames = rng.standard_normal((num_frames, DIM)).astype(np.float32)
    tokens = None if num_tokens is None else rng.standard_normal((num_tokens, DIM)).astype(np.float32)
    counts = None if num_tokens is None else np.full(num_tokens, 2 if sizes else 1, np.float32)
    return SegmentEmbedding(frames[0], frames, np.arange(num_frames, dtype=np.float64), tokens, counts)


def test_collating_pads_to_the_longest() -> None:
    videos = collate_segments([make_segment(3, 7, sizes=True), make_segment(1, 2)])
    assert videos.tokens is not None
    assert videos.frame_mask is not None
    assert videos.token_mask is not None
    assert videos.sizes is not None
    assert videos.frames.shape == (2, 3, DIM)
    assert videos.frame_mask.tolist() == [[True] * 3, [True, False, False]]
    assert videos.token_mask.sum(dim=1).tolist() == [7, 2]
    assert videos.sizes.tolist() == [[2] * 7, [1] * 7]
    assert (videos.tokens[1, 2:] == 0).all()
    equal = collate_segments([make_segment(3, 6), make_segment(3, 6)])
    assert (equal.frame_mask, equal.token_mask, equal.sizes) == (None, None, None)
    assert collate_segments([make_segment(3, 6), make_segment(3, None)]).tokens is None
    rows = [np.ones((count, DIM), np.float32) for count in (2, 4)]
    texts = collate_texts([TextEmbedding("", row[0], row) for row in rows])
    assert texts.words.shape == (2, 4, DIM)
    assert texts.mask is not None
    assert texts.mask.sum(dim=1).tolist() == [2, 4]


def test_raw_vectors_have_their_original_lengths_and_all_states() -> None:
    whole = make_segment(3, 6)
    with pytest.raises(AlignerError, match="encoder of a trained aligner must be"):
        collate_segments([whole], raw=True)
    with_lengths = dataclasses.replace(
        whole, frame_lengths=np.array([1, 2, 3], np.float32), token_lengths=np.arange(6, dtype=np.float32)
    )
    videos = collate_segments([with_lengths], raw=True)
    assert videos.tokens is not None
    torch.testing.assert_close(videos.frames[0, 2], 3 * torch.from_numpy(whole.frames[2]))
    assert (videos.tokens[0, 0] == 0).all()
    row = np.ones((2, DIM), np.float32)
    with pytest.raises(AlignerError, match="encoder of a trained aligner must be"):
        collate_texts([TextEmbedding("", row[0], row)], raw=True)
    texts = collate_texts([TextEmbedding("", row[0], row, np.concatenate([row, 5 * row]))], raw=True)
    assert texts.words.shape == (1, 4, DIM)
    assert (texts.sentences == 5).all()


@torch.no_grad()
@each_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.int8])
def test_packing_round_trip(build: Any, make: Any, dtype: torch.dtype) -> None:
    aligner, texts = build(), make_texts()
    videos = aligner.prepare(make()).packed(dtype)
    whole = build is make_head
    packed = [pack_video(take_rows(videos, slice(row, row + 1)), whole=whole) for row in range(6)]
    frames = [
        videos.frames[row] if videos.frame_mask is None else videos.frames[row, videos.frame_mask[row]]
        for row in range(6)
    ]
    again = unpack_videos(packed, [rows.numpy() for rows in frames])
    found, expected = aligner.score(texts, again), aligner.score(texts, videos)
    assert torch.equal(found.patch_word, expected.patch_word)
    assert torch.equal(found.best_frame, expected.best_frame)
    torch.testing.assert_close(found.video_sentence, expected.video_sentence, atol=0.2 if whole else 1e-4, rtol=0)


def test_packing_arrays_round_trip_and_rejection_of_other_formats() -> None:
    arrays = [np.arange(7, dtype=np.int8).reshape(7, 1), np.ones((2, 3), "<f2"), np.zeros((0, 4), "<f4")]
    again = [stack[0].numpy() for stack, _ in unpack_stacked([pack_arrays(arrays)])]
    for one, other in zip(arrays, again, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    for data in (b"", b"\x09\x01\0\0", b"\x09"):
        with pytest.raises(AlignerError, match="stored tokens must have format 1"):
            unpack_stacked([data])
