"""Prompt Switch: against loops, its properties, and the published code."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.encode.tiny import MERGING, VISION, make_images, recorded, stir
from tests.goldens import Case, check_close, find_cases
from vidret.encode.clip.model import ClipModel
from vidret.encode.clip.prompt_switch import PromptCube, PromptShape, interleave, switch
from vidret.encode.clip.vision import VisionTower
from vidret.encode.clip.weights import convert_state_dict
from vidret.layers import Attention


def naive_switch(tokens: Tensor, num_prompts: int) -> Tensor:
    """Return prompts such that the f-th frame of a chunk has the f-th prompt of every frame of the chunk, in order."""
    out = tokens.clone()
    first = tokens.shape[1] - num_prompts
    for start in range(0, len(tokens), num_prompts):
        for frame in range(num_prompts):
            for slot in range(num_prompts):
                out[start + frame, first + slot] = tokens[start + slot, first + frame]
    return out


def naive_aggregate(attention: Attention, classes: Tensor, prompts: Tensor, clip: int) -> Tensor:
    """Attend from each frame to the prompts of its own clip, frame by frame and head by head."""
    width, size = classes.shape[1], classes.shape[1] // attention.heads
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    rows = []
    for frame, row in enumerate(classes):
        first = frame // clip * clip
        memory = [prompt for other in range(first, first + clip) for prompt in prompts[other]]
        query = weights[0] @ row + biases[0]
        keys, values = ([weights[n] @ prompt + biases[n] for prompt in memory] for n in (1, 2))
        seen = torch.zeros(width)
        for head in range(attention.heads):
            head_slice = slice(head * size, (head + 1) * size)
            logits = torch.stack([query[head_slice] @ key[head_slice] * size**-0.5 for key in keys])
            for weight, value in zip(torch.softmax(logits, dim=0), values, strict=True):
                seen[head_slice] += weight * value[head_slice]
        rows.append(row + attention.out_proj(seen))
    return torch.stack(rows)


@pytest.mark.parametrize("num_prompts", [1, 2, 3])
def test_the_switch_equals_loops_and_is_its_own_inverse(num_prompts: int) -> None:
    tokens = torch.randn(12, 7, 4)
    before = tokens.clone()
    switched = switch(tokens, num_prompts)
    assert torch.equal(switched, naive_switch(tokens, num_prompts))
    assert torch.equal(tokens, before), "the input is unchanged"
    assert torch.equal(switch(switched, num_prompts), tokens)
    assert torch.equal(switched[:, :-num_prompts], tokens[:, :-num_prompts])


@torch.no_grad()
@pytest.mark.parametrize("shape", [PromptShape(2, 2), PromptShape(2, 4)])
def test_the_aggregation_equals_loops_and_starts_as_identity(shape: PromptShape) -> None:
    cube = PromptCube(shape, 8, 2)
    classes, prompts = torch.randn(3, 4, 8), torch.randn(3, 4, 2, 8)
    assert torch.equal(cube.aggregate(classes, prompts), classes)
    stir(cube, 0.5)
    actual = cube.aggregate(classes, prompts)
    for index in range(3):
        expected = naive_aggregate(cube.aggregation, classes[index], prompts[index], shape.num_frames)
        torch.testing.assert_close(actual[index], expected)


def test_a_prompt_is_real_if_both_its_frames_are() -> None:
    mask = PromptCube(PromptShape(2, 2), 8, 2).mask(torch.tensor([[True, False, True, True]]))
    assert mask.tolist() == [[True, False], [False, False], [True, True], [True, True]]


@pytest.mark.parametrize(("num_prompts", "num_frames"), [(0, 6), (4, 6), (6, 0), (6, 3)])
def test_num_frames_must_be_a_multiple_of_num_prompts(num_prompts: int, num_frames: int) -> None:
    with pytest.raises(ValueError, match=f"num_frames must be a multiple of num_prompts, got {num_frames} and"):
        PromptShape(num_prompts, num_frames)


def test_partial_clips_and_padding_of_partial_chunks_are_rejected() -> None:
    tower = VisionTower(VISION, prompts=PromptShape(2, 4))
    with pytest.raises(ValueError, match="num_frames must be a multiple of 4, got 6"):
        tower(make_images(6), num_frames=6)
    tower = VisionTower(VISION, prompts=PromptShape(3, 3), merging=replace(MERGING, factors=(2, 2, 2)))
    with pytest.raises(ValueError, match=r"num_frames, padded .* must be a multiple of 3 prompts, got 6 padded to 8"):
        tower(make_images(6), num_frames=6)


def test_interleaved_clips_span_the_video() -> None:
    assert interleave(12, 6) == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert interleave(6, 6) == list(range(6))
    assert sorted(interleave(24, 6)) == list(range(24))
    with pytest.raises(ValueError, match="num_frames must be a multiple of 5, got 12"):
        interleave(12, 5)


def test_gradients_reach_cube_and_aggregation() -> None:
    tower = VisionTower(VISION, prompts=PromptShape(2, 4)).eval()
    stir(tower)
    assert tower.prompts is not None
    tower(make_images(4), num_frames=4).frames.square().sum().backward()
    for name, weight in tower.prompts.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name


# Against the published code.

each_case = pytest.mark.parametrize("case", find_cases("promptswitch"), ids=lambda case: case.folder.name)


def make_model(case: Case) -> ClipModel:
    config = case.config
    shape = PromptShape(config["num_prompts"], config["num_frames"])
    return convert_state_dict(case.weights, "promptswitch", prompts=shape, heads=(config["vh"], config["th"]))


def unit(x: Tensor) -> Tensor:
    return functional.normalize(x, dim=-1)


@torch.no_grad()
@each_case
def test_every_layer_equals_the_published_one(case: Case) -> None:
    model, config, golden = make_model(case), case.config, case.outputs
    tower, num_prompts = model.vision, config["num_prompts"]
    seen: list[Tensor] = []
    for block in tower.blocks:
        attention = block.attn
        assert isinstance(attention, nn.Module)
        attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -num_prompts:]))
    pooled: list[Tensor] = []
    tower.ln_post.register_forward_hook(lambda _module, _inputs, output: pooled.append(output))
    with recorded(tower) as trunks:
        frames = tower(case.pictures, num_frames=config["frames"], tokens=True).frames
    assert len(trunks) == config["vl"]
    assert [trunk.x.shape[1] for trunk in trunks] == golden["tokens_per_frame_per_layer"].tolist()
    for layer, trunk in enumerate(trunks):
        check_close(trunk.x[:, 0], golden[f"layer{layer:02}.cls_out"])
        check_close(trunk.x[:, -num_prompts:], golden[f"layer{layer:02}.prompt_out"])
    for layer in (0, 1):
        check_close(seen[layer], golden[f"layer{layer:02}.attn_input_prompts"])
    check_close(trunks[-1].x[: config["frames"]], golden["last_hidden_video0"])
    classes, _ = pooled  # the patches come second
    check_close(classes.flatten(0, 1), golden["vision_pooler_output"])
    check_close(frames, golden["frame_features_projected"])
    check_close(unit(model.text(case.inputs["text_ids"])[0]), golden["text_features_l2"])


@torch.no_grad()
@each_case
def test_ablations_equal_the_published_ones(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model, num_frames = make_model(case), case.config["frames"]
    assert model.vision.prompts is not None
    whole = case.outputs["frame_features_l2"]
    with monkeypatch.context() as patch:
        patch.setattr("vidret.encode.clip.vision.switch", lambda tokens, num_prompts, **_: tokens)
        actual = unit(model.vision(case.pictures, num_frames=num_frames).frames)
    check_close(actual, case.outputs["ablation.no_switch.frame_features_l2"])
    assert (actual - whole).abs().max() > 1e-4, "the ablated component matters"
    nn.init.zeros_(model.vision.prompts.aggregation.out_proj.weight)
    nn.init.zeros_(model.vision.prompts.aggregation.out_proj.bias)
    actual = unit(model.vision(case.pictures, num_frames=num_frames).frames)
    check_close(actual, case.outputs["ablation.zero_aggregation.frame_features_l2"])
    assert (actual - whole).abs().max() > 1e-4, "the ablated component matters"
