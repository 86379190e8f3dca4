"""Token shift against UCoFiA's towers: every token of every frame, and every word."""

import pytest
import torch

from tests.goldens import Case, check_close, find_cases
from vidret.encode.clip.weights import convert_state_dict

CASES = find_cases("ucofia")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_shifted_towers_equal_the_published_ones(case: Case) -> None:
    weights = case.weights
    heads = (1, weights["clip.text_projection"].shape[0] // 64 or 1)
    model = convert_state_dict(weights, "ucofia", heads=heads)
    video = case.inputs["video"].float()
    num_videos, num_frames = video.shape[:2]
    images = video.reshape(-1, *video.shape[-3:])
    output = model.vision(images, num_frames=num_frames, tokens=True)
    assert output.tokens is not None
    expected = case.outputs["patch_tokens_all"]
    check_close(output.frames, expected[:, :, 0])
    check_close(output.tokens.reshape(num_videos, num_frames, -1, expected.shape[-1]), expected[:, :, 1:])
    check_close(model.vision(images, num_frames=num_frames).frames, case.outputs["frame_cls"])
    ids = case.inputs["input_ids"].long()
    sentences, words = model.text(ids)
    check_close(sentences, case.outputs["sentence_hidden"][:, 0])
    check_close(words, case.outputs["word_hidden"][:, : words.shape[1]])


@torch.no_grad()
def test_the_shift_matters() -> None:
    case = CASES[0]
    model = convert_state_dict(case.weights, "ucofia", heads=(1, 1))
    model.vision.token_shift = False
    video = case.inputs["video"].float()
    output = model.vision(video.reshape(-1, *video.shape[-3:]), num_frames=video.shape[1])
    assert (output.frames - case.outputs["frame_cls"]).abs().max() > 0.01
