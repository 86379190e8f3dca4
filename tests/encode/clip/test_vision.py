"""The vision tower: token shift, merging and padding, against loops and TempMe's published code."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.encode.tiny import HARSH, MERGING, METHODS, TEXT, VISION, make_images, recorded, stir
from tests.goldens import Case, check_close, find_cases
from vidret.encode.clip.model import Card, ClipModel, Undrawn
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergePlan, MergeSchedule, plan_merge
from vidret.encode.clip.text import TextTower
from vidret.encode.clip.vision import VisionTower, shift_tokens
from vidret.encode.clip.weights import convert_state_dict
from vidret.types import Sampling

NO_MERGING = MergeSchedule(layers=(), factors=(), r=0)


def naive_shift(x: Tensor, num_frames: int, mask: list[bool] | None = None) -> Tensor:
    """Shift by loops: tokens 1, 1 + fold, ... come from the previous frame, 4, 4 + fold, ... from the next."""
    out = x.clone()
    fold = x.shape[1] // 7
    for start in range(0, len(x), num_frames):
        for frame in range(start, start + num_frames):
            for first, other in ((1, frame - 1), (4, frame + 1)):
                if not start <= other < start + num_frames:
                    continue
                if mask is not None and not mask[other]:
                    other = frame
                for token in range(first, x.shape[1], fold):
                    out[frame, token] = x[other, token]
    return out


@contextmanager
def noted_plans() -> Iterator[list[MergePlan]]:
    """Collect the merge plans that are made in the block."""
    plans: list[MergePlan] = []

    def plan_and_note(*args: Any, **settings: Any) -> MergePlan:
        plans.append(plan_merge(*args, **settings))
        return plans[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidret.encode.clip.outputs.plan_merge", plan_and_note)
        yield plans


def make_tower(schedule: MergeSchedule | None = MERGING, *, num_frames: int = 12, **settings: Any) -> VisionTower:
    tower = VisionTower(VISION, merging=schedule, num_frames=num_frames, **settings).eval()
    stir(tower)
    return tower


def make_texts() -> Tensor:
    """Return texts of several lengths: 38 is the start token, 39 the end token, 0 padding."""
    rows = [[38, 5, 6, 7, 39], [38, 39], [38, *range(1, 11), 39], [38, 9, 39]]
    return torch.tensor([[*row, *[0] * (12 - len(row))] for row in rows])


@torch.no_grad()
def test_ids_after_the_end_token_do_not_matter() -> None:
    tower = TextTower(TEXT).eval()
    stir(tower)
    texts = make_texts()
    sentences, words = tower(texts)
    other = texts.clone()
    other[0, 5:], other[3, 3:] = 17, 39  # as some tokenizers pad: with the end token
    again, more = tower(other)
    check_close(again, sentences, 1e-6)
    check_close(more[0, :5], words[0, :5], 1e-6)
    short, few = tower(texts[:2])
    assert few.shape[1] == 5, "states after the last end token are not computed"
    check_close(short, sentences[:2], 1e-6)


def test_partial_videos_are_rejected() -> None:
    with pytest.raises(ValueError, match="images must be whole videos of 4 frames, got 6"):
        make_tower(None)(make_images(6), num_frames=4)


# Token shift.


@pytest.mark.parametrize("num_tokens", [50, 17, 10])
def test_the_shift_equals_loops(num_tokens: int) -> None:
    x = torch.randn(6, num_tokens, 3)
    assert torch.equal(shift_tokens(x, 3), naive_shift(x, 3))
    assert torch.equal(shift_tokens(x, 1), x)
    mask = [True, True, False, True, False, True]
    assert torch.equal(shift_tokens(x, 3, torch.tensor(mask))[mask], naive_shift(x, 3, mask)[mask])
    assert torch.equal(shift_tokens(x, 3, torch.ones(6, dtype=torch.bool)), naive_shift(x, 3))


@pytest.mark.parametrize("more", [{"merging": MERGING}, {"prompts": PromptShape(2, 2)}])
def test_the_shift_excludes_merging_and_prompts(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token_shift must come without merging and prompts"):
        VisionTower(VISION, token_shift=True, **more)


def test_the_shift_needs_a_seventh_of_the_tokens() -> None:
    small = replace(VISION, image_size=2 * VISION.patch)
    with pytest.raises(ValueError, match="token_shift must have at least 6 patches, got 4"):
        VisionTower(small, token_shift=True)


@torch.no_grad()
@pytest.mark.parametrize("case", find_cases("ucofia"), ids=lambda case: case.folder.name)
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
    model.vision.token_shift = False
    still = model.vision(images, num_frames=num_frames).frames
    assert (still - case.outputs["frame_cls"]).abs().max() > 0.01, "the shift matters"
    sentences, words = model.text(case.inputs["input_ids"].long())
    check_close(sentences, case.outputs["sentence_hidden"][:, 0])
    check_close(words, case.outputs["word_hidden"][:, : words.shape[1]])


# Merging.


SETTINGS = {
    **METHODS,
    "harsh": {"merging": HARSH},
    "not proportional": {"merging": replace(MERGING, proportional=False)},
    "low rank": {"merging": MERGING, "lora_rank": 4},
}


@torch.no_grad()
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_padding_frames_do_not_affect_others(settings: dict[str, Any]) -> None:
    tower, images = VisionTower(VISION, **settings).eval(), make_images(24)
    stir(tower)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, [1, 4, 9, 10, 11]] = False
    mask[1, 1:] = False
    other = torch.where(mask.flatten()[:, None, None, None], images, 3 * make_images(24, seed=5))
    one, two = (tower(pixels, num_frames=12, mask=mask, tokens=True, num_layers=6) for pixels in (images, other))
    check_close(one.frames[mask], two.frames[mask], 2e-6)
    check_close(tower(images, num_frames=12, mask=mask).frames[mask], one.frames[mask], 2e-6)
    assert torch.equal(one.mask, two.mask)
    check_close(one.tokens[one.mask], two.tokens[one.mask], 2e-6)
    assert torch.equal(one.sizes[one.mask], two.sizes[one.mask])
    assert (one.sizes * one.mask).sum(1).tolist() == [16.0 * 7, 16.0]
    for first, second in zip(one.layers, two.layers, strict=True):
        assert first.tokens.isfinite().all()
        assert torch.equal(first.mask[mask], second.mask[mask])
        assert torch.equal(first.sizes[mask], second.sizes[mask])
        check_close(first.tokens[mask][first.mask[mask]], second.tokens[mask][second.mask[mask]], 2e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    ("schedule", "prompts"),
    [(MERGING, None), (HARSH, None), (MERGING, PromptShape(3, 3, spread=True))],
    ids=["mild", "harsh", "joint"],
)
@pytest.mark.parametrize("num_frames", [1, 7, 10, 13])
def test_any_number_of_frames_works(schedule: MergeSchedule, prompts: PromptShape | None, num_frames: int) -> None:
    tower = make_tower(schedule, prompts=prompts)
    tables = {name: tuple(table.shape) for name, table in tower.temporal.items()}
    images = make_images(2 * num_frames)
    out = tower(images, num_frames=num_frames, tokens=True)
    assert out.frames.shape == (2, num_frames, VISION.dim)
    assert all(tensor.isfinite().all() for tensor in out[:-1])
    assert (out.sizes * out.mask).sum(1).tolist() == [16.0 * num_frames] * 2
    assert (
        {name: tuple(table.shape) for name, table in tower.temporal.items()}
        == tables
        == {"2": (12, 32), "3": (6, 32), "4": (3, 32)}
    )
    for length in (length for length in (11, 12) if length > num_frames):  # internal padding equals masked frames
        more = torch.randn(2, length - num_frames, 3, 32, 32)
        filled = torch.cat([images.view(2, num_frames, 3, 32, 32), more], dim=1)
        mask = torch.arange(length).expand(2, length) < num_frames
        masked = tower(filled.flatten(0, 1), num_frames=length, mask=mask, tokens=True)
        check_close(masked.frames[:, :num_frames], out.frames, 2e-6)
        check_close(masked.tokens[masked.mask], out.tokens[out.mask], 2e-6)


@torch.no_grad()
def test_temporal_positions_are_interpolated() -> None:
    tower = make_tower()
    table = tower.temporal["2"]
    stretched = tower._positions_in_time(2, 24)
    check_close(stretched[[0, 23]], table[[0, 11]], 1e-6)
    for row in range(24):
        position = row * 11 / 23
        low = min(int(position), 10)
        check_close(stretched[row], table[low] + (position - low) * (table[low + 1] - table[low]), 1e-5)
    assert tower._positions_in_time(2, 12) is table


@torch.no_grad()
def test_folding_keeps_the_output() -> None:
    card = Card("tempme", "tiny", VISION, TEXT, merging=MERGING, lora_rank=4)
    model = ClipModel(card).eval()
    stir(model)
    images, texts = make_images(24), make_texts()
    before, sentences = model.vision(images, num_frames=12).frames, model.text(texts)[0]
    folded = model.folded()
    assert folded is model
    assert model.card == replace(card, lora_rank=0)
    assert not [name for name in model.state_dict() if "lora" in name]
    check_close(model.vision(images, num_frames=12).frames, before)
    check_close(model.text(texts)[0], sentences)


def test_gradients_reach_only_trained_weights() -> None:
    model = ClipModel(Card("tempme", "tiny", VISION, TEXT, merging=MERGING, lora_rank=4))
    stir(model)
    trained = {name for name, _ in model.named_parameters() if "lora" in name or "temporal" in name}
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in trained)
    with noted_plans() as plans:
        frames = model.vision(make_images(24), num_frames=12).frames
    (frames.mean(dim=1) @ model.text(make_texts())[0].T).square().sum().backward()
    assert len(trained) == 2 * (6 + 2) + 3
    for name, weight in model.named_parameters():
        if name not in trained:
            assert weight.grad is None, name
        else:
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().sum() > 0, name
    assert not any(tensor.requires_grad for plan in plans for tensor in (plan.src, plan.dst, plan.kept))


# Against TempMe's published code.

each_case = pytest.mark.parametrize("case", find_cases("tempme"), ids=lambda case: case.folder.name)


def read_schedule(settings: dict[str, Any]) -> MergeSchedule:
    layers, factors, percents = (
        [int(value) for value in settings[name].split("-")]
        for name in ("merge_layer", "merge_frame_num", "merge_token_proportion")
    )
    return MergeSchedule(
        tuple(layers),
        tuple(factors),
        r=settings["tome_r"],
        cross=percents[0] / 100,
        intra=percents[1] / 100,
        proportional=settings["tome_propattn"],
    )


def make_model(case: Case) -> ClipModel:
    config = case.config
    heads = (config["vision"]["heads"], config["text"]["heads"])
    model = convert_state_dict(case.weights, "tempme", schedule=read_schedule(config["tempme"]), heads=heads)
    assert model.card.lora_rank == config["tempme"]["lora_dim"]
    assert model.card.sampling == Sampling(num_frames=config["frames"], rule="tempme")
    return model


def rebuild(model: ClipModel, schedule: MergeSchedule) -> VisionTower:
    """Return the vision tower with another schedule and the same weights."""
    with Undrawn():
        other = ClipModel(replace(model.card, merging=schedule)).eval().vision
    names = other.state_dict().keys()
    other.load_state_dict({name: weight for name, weight in model.vision.state_dict().items() if name in names})
    return other


def encode_video(tower: VisionTower, case: Case) -> Tensor:
    """Return the mean over real frames; padding takes part in everything before, as in the published code."""
    frames = functional.normalize(tower(case.pictures, num_frames=case.config["frames"]).frames, dim=-1)
    mask = case.inputs["video_mask"].float()
    return (frames * mask[..., None]).sum(1) / mask.sum(1).clamp(min=1)[:, None]


@torch.no_grad()
@each_case
def test_every_merge_layer_and_feature_equals_the_published_one(case: Case) -> None:
    model, golden = make_model(case), case.outputs
    num_frames, steps = case.config["frames"], model.vision.plan(case.config["frames"])
    for name, attribute in (("tokens", "left"), ("cls", "front"), ("clips", "clips")):
        assert [getattr(step, attribute) for step in steps] == golden[f"{name}_after_block"].tolist()
    with noted_plans() as plans, recorded(model.vision) as trunks:
        frames = model.vision(case.pictures, num_frames=num_frames, tokens=True).frames
    assert len(plans) == len(case.config["merges"])
    for index, (plan, merge) in enumerate(zip(plans, case.config["merges"], strict=True)):
        assert (plan.length, plan.front, *plan.src.shape) == (merge["n_in"], merge["cls"], merge["batch"], merge["r"])
        src, order = plan.src.sort(dim=1)
        assert torch.equal(src, golden[f"merge{index:02}.src_idx"].long())
        assert torch.equal(plan.dst.gather(1, order), golden[f"merge{index:02}.dst_idx"].long())
        assert torch.equal(plan.kept, golden[f"merge{index:02}.unm_idx"].long())
    for layer, (trunk, step) in enumerate(zip(trunks, steps, strict=True)):
        check_close(trunk.x[:, : step.front], golden[f"block{layer:02}.cls_out"])
        assert trunk.sizes is not None
        assert torch.equal(trunk.sizes, golden[f"block{layer:02}.token_size"])
        if f"block{layer:02}.full_out_video0" in golden:
            check_close(trunk.x[: step.clips], golden[f"block{layer:02}.full_out_video0"])
    check_close(functional.normalize(frames, dim=-1), golden["frame_feat"])
    check_close(encode_video(model.vision, case), golden["video_feat"])
    check_close(model.text(case.inputs["text_ids"])[0], golden["text_feat"])


@torch.no_grad()
@each_case
def test_ablations_equal_the_published_ones(case: Case) -> None:
    model, golden = make_model(case), case.outputs
    assert model.card.merging is not None
    bare = rebuild(model, replace(model.card.merging, proportional=False))
    check_close(encode_video(bare, case), golden["ablation.no_prop_attn.video_feat"])
    timeless = rebuild(model, model.card.merging)
    for table in timeless.temporal.values():
        nn.init.zeros_(table)
    check_close(encode_video(timeless, case), golden["ablation.no_temporal_pos.video_feat"])
    unmerged = rebuild(model, NO_MERGING)
    check_close(encode_video(unmerged, case), golden["ablation.no_merging.video_feat"])
    for name, weight in unmerged.named_parameters():
        if ".lora." in name:
            nn.init.zeros_(weight)
    check_close(encode_video(unmerged, case), golden["ablation.plain_clip_meanpool.video_feat"])
