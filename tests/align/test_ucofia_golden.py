"""Equality with UCoFiA's published code: all stages, the loss and its gradients, and the scores at test time."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from tests.goldens import Case, check_close, find_cases
from vidret.align.batches import TextBatch, VideoBatch
from vidret.align.files import UCOFIA, convert_aligner
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import LevelScores, aggregate, aggregate_both_ways, compare_words, score_words
from vidret.align.ucofia_selection import perturbed_top_k
from vidret.layers import pool_frames
from vidret.model_files import translate

LEVELS = ("video_sentence", "frame_sentence", "patch_word")
each_case = pytest.mark.parametrize("case", find_cases("ucofia"), ids=lambda case: case.folder.name)


def make_aligner(case: Case) -> Aligner:
    aligner = convert_aligner(case.weights)
    assert aligner.selector is not None
    assert aligner.selector.kept == case.config["topk"]
    assert (aligner.selector.sigma, aligner.selector.num_draws) == (case.config["sigma"], case.config["num_samples"])
    return aligner


def read_patches(case: Case) -> Tensor:
    """Return the tokens of each frame of all videos, its class token first."""
    return case.outputs["patch_tokens_all"].flatten(0, 1)


def draw_noise(case: Case) -> Tensor:
    """Return the published noise, drawn again from its seed if it is not stored."""
    if "topk_noise" in case.outputs:
        return case.outputs["topk_noise"]
    frames, tokens, _ = read_patches(case).shape
    generator = torch.Generator().manual_seed(case.config["noise_seed"])
    return torch.randn(frames, case.config["num_samples"], tokens - 1, generator=generator)


def read_texts(case: Case) -> TextBatch:
    return TextBatch(case.outputs["sentence_hidden"][:, 0], case.outputs["word_hidden"])


def prepare_as_published(aligner: Aligner, case: Case) -> PreparedVideos:
    """Return prepared videos with masks where the published code has them: temporal transformer and mean."""
    out = case.outputs
    videos, noise = VideoBatch(out["frame_cls"], out["patch_tokens_all"][:, :, 1:].flatten(1, 2)), draw_noise(case)
    masked = videos._replace(frame_mask=case.inputs["video_mask"].bool())
    return aligner.prepare(videos, noise=noise)._replace(videos=aligner.prepare(masked, noise=noise).videos)


@torch.no_grad()
@each_case
def test_scores_and_selection_of_patches_equal_published_code(case: Case) -> None:
    selector, out = make_aligner(case).selector, case.outputs
    assert selector is not None
    assert selector.score is not None
    scores, weights = selector.score(read_patches(case)), out["topk_indicator"].flatten(0, 1)
    check_close(scores, out["patch_scores"].flatten(0, 1))
    noise = draw_noise(case)
    # The last bit of a score may change the selection of a draw.
    check_close(perturbed_top_k(scores[:, 1:], noise, case.config["topk"]), weights, 1 / 500 + 1e-6)
    soft, _ = selector(read_patches(case), noise=noise)
    selected = out["patch_selected"].reshape(len(scores), -1, read_patches(case).shape[-1])
    check_close(weights @ read_patches(case)[:, 1:], selected[:, 1:])
    check_close(soft.reshape(out["patch_selected"].shape), out["patch_selected"])
    hard, _ = selector(read_patches(case))
    check_close(hard.reshape(out["patch_selected"].shape), out["patch_selected_zero_noise"])
    check_close(selector(read_patches(case), noise=torch.zeros_like(noise))[0], hard, 1e-5)


@torch.no_grad()
@each_case
def test_frames_equal_published_code(case: Case) -> None:
    aligner, out, mask = make_aligner(case), case.outputs, case.inputs["video_mask"].bool()
    assert aligner.temporal is not None
    frames = aligner.temporal(out["frame_cls"], mask)
    check_close(frames, out["frame_temporal"])
    check_close(pool_frames(frames, mask), out["video_vec"])
    check_close(prepare_as_published(aligner, case).frames, out["frame_norm"])


@torch.no_grad()
@each_case
def test_aggregation_equals_published_code(case: Case) -> None:
    mixing, out = make_aligner(case).mixing, case.outputs
    assert mixing is not None
    raw = compare_words(out["word_norm"] @ mixing.word, out["patch_selected"] @ mixing.token)
    check_close(raw, out["patch_word_raw"], 1e-4)
    by_token, by_word = aggregate(raw, 1, mixing=mixing.words_first), aggregate(raw, -1, mixing=mixing.tokens_first)
    check_close(by_token, out["biisa_word_to_patch"], 1e-4)
    check_close(by_word, out["biisa_patch_to_word"], 1e-4)
    check_close(aggregate(by_token, -1, mixing=mixing.tokens_second), out["biisa_dir1"], 1e-4)
    check_close(aggregate(by_word, 1, mixing=mixing.words_second), out["biisa_dir2"], 1e-4)
    check_close(aggregate_both_ways(raw, mixing), out["sim_patch_word"], 1e-4)


@each_case
def test_scores_loss_and_gradients_equal_published_code(case: Case) -> None:
    aligner, out = make_aligner(case), case.outputs
    prepared = prepare_as_published(aligner, case)
    scores = aligner(read_texts(case), prepared)
    masks = TextBatch(*read_texts(case)[:2], torch.ones_like(out["word_hidden"][..., 0], dtype=torch.bool))
    for found in (scores, aligner.score(read_texts(case), prepared), aligner.score(masks, prepared)):
        for name in LEVELS:
            check_close(getattr(found, name), out[f"sim_{name}"], 1e-4)
        check_close(found.mean, out["sim_total_train"], 1e-4)
    check_close(aligner.logit_scale.exp(), out["logit_scale"], 1e-4)
    targets = torch.arange(len(scores.mean))
    loss = (functional.cross_entropy(scores.mean, targets) + functional.cross_entropy(scores.mean.T, targets)) / 2
    check_close(loss[None], out["train_loss"], 1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters, gradients = dict(aligner.named_parameters()), load_file(case.folder / "grads.safetensors")
    assert len(gradients) >= 20
    for name, expected in gradients.items():
        found = parameters[translate(name.removeprefix("grad."), UCOFIA) or ""].grad
        assert found is not None, name
        torch.testing.assert_close(found.reshape(expected.shape), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@each_case
def test_scores_at_test_time_equal_published_code(case: Case) -> None:
    """Check the inputs of SK-norm. The published code omits the tokens' mixing matrix at test time, by mistake."""
    aligner, out, golden = make_aligner(case), case.outputs, load_file(case.folder / "outputs_testtime.safetensors")
    bank_texts = TextBatch(golden["bank_sentence_hidden"][:, 0], golden["bank_word_hidden"])

    def prepare(frames: Tensor, tokens: Tensor, mask: Tensor) -> PreparedVideos:
        whole = aligner.prepare(VideoBatch(frames, frame_mask=mask.bool())).videos
        return PreparedVideos(whole, functional.normalize(frames, dim=-1), tokens)

    test = prepare(out["frame_cls"], out["patch_selected"], case.inputs["video_mask"])
    bank = prepare(golden["bank_frame_cls"], golden["bank_patch_selected"], golden["bank_video_mask"])
    check(aligner.score(bank_texts, test), golden, "bank_text_vs_test_video")
    check(aligner.score(read_texts(case), bank), golden, "test_text_vs_bank_video")
    scores = aligner.score(read_texts(case), test)
    check(scores, golden, "test")
    check_close(scores.mean, golden["test.mean_no_sk"], 1e-4)
    assert aligner.mixing is not None
    words = functional.normalize(out["word_hidden"], dim=-1) @ aligner.mixing.word
    check_close(score_words(words, out["patch_selected"], mixing=aligner.mixing), golden["sim_patch_word_eval"], 1e-4)


def check(scores: LevelScores, golden: dict[str, Tensor], prefix: str) -> None:
    for name in LEVELS:
        check_close(getattr(scores, name), golden[f"{prefix}.{name}"], 1e-4)
