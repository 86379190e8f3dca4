"""Layer outputs of the towers, against open_clip and the published code, and which token is whose."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.encode.tiny import HARSH, MERGING, TEXT, VISION, make_images, make_open_clip, recorded, silence, stir
from tests.goldens import Case, check_close, find_cases
from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.outputs import FrameTokens, Trunk
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextTower
from vidret.encode.clip.vision import VisionTower
from vidret.encode.clip.weights import convert_state_dict, from_open_clip
from vidret.encode.encoder import LayeredEncoder
from vidret.encode.families.clip import derive_card
from vidret.encode.families.open_clip import OpenClipEncoder
from vidret.errors import EncoderError
from vidret.types import Frames, LayerTokens, Sampling

CPU = torch.device("cpu")
NAME = "vidret-layers"
TEXTS = ["a dog on a beach", "", "two people ride bikes past a parked car", "Dog!"]
METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "merging": {"merging": MERGING},
    "prompts": {"prompts": PromptShape(2, 4)},
    "merging and prompts": {"merging": MERGING, "prompts": PromptShape(2, 4)},
    "merging in frames": {"merging": MergeSchedule(layers=(), factors=(), r=2)},
    "shift": {"token_shift": True},
}
each_method = pytest.mark.parametrize("method", METHODS)


def watch(blocks: Iterable[Any], run: Callable[[], Any]) -> list[Tensor]:
    """Run an open_clip model and record the outputs of some blocks."""
    captured: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, output: captured.append(output)) for block in blocks
    ]
    run()
    for handle in handles:
        handle.remove()
    return captured


def naive_view(trunk: Trunk, joined: int, per_video: int, num_frames: int, back: int) -> list[FrameTokens]:
    """Return the tokens of each frame of each video, one by one, after ``joined`` frames became one sequence."""
    stop, views = trunk.x.shape[1] - back, []
    for start in range(0, len(trunk.x), per_video):
        for frame in range(num_frames):
            row, own = start + frame // joined, frame % joined
            order = [own, *(token for token in range(stop) if token != own)]
            mask = torch.tensor([trunk.mask is None or bool(trunk.mask[row, token]) for token in order])
            sizes = [1.0 if trunk.sizes is None else float(trunk.sizes[row, token]) for token in order]
            views.append(
                FrameTokens(torch.stack([trunk.x[row, token] for token in order]), torch.tensor(sizes) * mask, mask)
            )
    return views


def make_tower(**settings: Any) -> VisionTower:
    tower = VisionTower(VISION, **settings).eval()
    stir(tower)
    return tower


def frame_tokens(
    tower: VisionTower, images: Tensor, num_frames: int, num_layers: int = 6, **more: Any
) -> list[FrameTokens]:
    actual = tower.layers(images, num_frames=num_frames, num_layers=num_layers, **more)
    return [layer.by_frame() for layer in actual]


def sample(num_frames: int, seed: int = 0) -> Frames:
    """Return read-only frames, as shared memory provides them."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    return Frames(pixels, np.arange(num_frames) / 2)


@cache
def make_tokenizer() -> Any:
    return open_clip.SimpleTokenizer(context_length=77)


def make_encoder(method: str, *, batch_size: int = 64, dtype: torch.dtype = torch.float32) -> ClipEncoder:
    """Return an encoder with random weights; the aggregation of prompts is zero, so that frames are class tokens."""
    torch.manual_seed(1)
    text = replace(TEXT, context=77, vocabulary=49408)
    model = ClipModel(Card(method, "tiny", VISION, text, sampling=Sampling(12), **METHODS[method]))
    stir(model)
    if model.vision.prompts is not None:
        nn.init.zeros_(model.vision.prompts.aggregation.out_proj.weight)
        nn.init.zeros_(model.vision.prompts.aggregation.out_proj.bias)
    return ClipEncoder(method, model, make_tokenizer(), device=CPU, dtype=dtype, batch_size=batch_size)


# Against open_clip.


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an open_clip model with random weights."""
    name = f"{NAME}-{'quick' if request.param else 'plain'}"
    folder, text = tmp_path_factory.mktemp("architectures"), {"context_length": 77, "vocab_size": 49408}
    return make_open_clip(name, folder, layers=(5, 4), text=text, quick_gelu=request.param)


def take(other: Any, *, batch_size: int = 64) -> ClipEncoder:
    """Return a ``ClipEncoder`` with the weights of an open_clip model."""
    card = derive_card(other, NAME)
    assert card is not None
    model = from_open_clip(other.state_dict(), card)
    return ClipEncoder(NAME, model, make_tokenizer(), device=CPU, dtype=torch.float32, batch_size=batch_size)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 4, 5])
def test_vision_layers_equal_open_clip(other: Any, num_layers: int) -> None:
    encoder, images = take(other), make_images(6)
    expected = watch(other.visual.transformer.resblocks[-num_layers:], lambda: other.encode_image(images))
    for num_frames in (1, 3):
        actual = frame_tokens(encoder._model.vision, images, num_frames, num_layers)
        assert len(actual) == len(expected) == num_layers
        for layer, own in zip(actual, expected, strict=True):
            assert layer.tokens.shape == (6 // num_frames, num_frames, 17, 48)
            check_close(layer.tokens.flatten(0, 1), own)
            assert layer.mask.all()
            assert (layer.sizes == 1).all()
    assert max(float(layer.abs().max()) for layer in expected) > 1, "not normalised"


@torch.no_grad()
def test_encoder_layers_equal_open_clip(other: Any) -> None:
    frames, encoder = sample(5), take(other, batch_size=2)
    pixels = torch.tensor(frames.pixels).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(each)[:, None, None] for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    expected = watch(other.visual.transformer.resblocks[-4:], lambda: other.encode_image((pixels - mean) / std))
    actual = encoder.encode_layers(frames, 4)
    assert actual.times is frames.times
    assert actual.sizes is None
    assert actual.masks is None
    for layer, own in zip(actual.layers, expected, strict=True):
        assert layer.dtype == np.float32
        check_close(torch.from_numpy(layer), own)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 3, 4])
def test_text_layers_equal_open_clip(other: Any, num_layers: int) -> None:
    ids = make_tokenizer()(TEXTS)
    expected = watch(other.transformer.resblocks[-num_layers:], lambda: other.encode_text(ids))
    actual = take(other, batch_size=3).encode_text_layers(TEXTS, num_layers)
    assert [each.text for each in actual] == TEXTS
    assert [each.layers.shape[1] for each in actual] == [7, 2, 10, 4], "start and end token included"
    for index, each in enumerate(actual):
        assert each.layers.dtype == np.float32
        length = each.layers.shape[1]
        check_close(torch.from_numpy(each.layers), torch.stack([layer[index, :length] for layer in expected]))


# Which token belongs to which frame.


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [12, 16])
@pytest.mark.parametrize("schedule", [MERGING, HARSH, replace(MERGING, layers=(2, 4), factors=(3, 2)), None])
@pytest.mark.parametrize("prompts", [PromptShape(2, 4), None])
def test_by_frame_equals_loops(schedule: MergeSchedule | None, prompts: PromptShape | None, num_frames: int) -> None:
    tower, images = make_tower(merging=schedule, prompts=prompts), make_images(2 * num_frames)
    mask = torch.ones(2, num_frames, dtype=torch.bool)
    mask[1, [2, num_frames - 1]] = False
    factors = dict(zip(schedule.layers, schedule.factors, strict=True)) if schedule else {}
    padded = schedule.padded(num_frames) if schedule else num_frames
    for given in (None, mask):
        with recorded(tower) as trunks:
            actual = frame_tokens(tower, images, num_frames, mask=given)
        for layer, (trunk, view) in enumerate(zip(trunks, actual, strict=True)):
            joined = prod(factor for at, factor in factors.items() if at <= layer)
            back = 2 * joined if prompts else 0
            expected = naive_view(trunk, joined, padded // joined, num_frames, back)
            assert view.tokens.shape[:2] == (2, num_frames)
            for index, own in enumerate(expected):
                for tensor, right in zip(view, own, strict=True):
                    assert torch.equal(tensor.flatten(0, 1)[index], right)


@torch.no_grad()
@each_method
@pytest.mark.parametrize("num_frames", [4, 8, 12])
def test_frames_are_projected_last_class_tokens(method: str, num_frames: int) -> None:
    tower, images = make_encoder(method)._model.vision, make_images(2 * num_frames)
    mask = torch.arange(2 * num_frames).view(2, -1) % 7 != 3
    for given in (None, mask):
        real = torch.ones_like(mask) if given is None else mask
        classes = frame_tokens(tower, images, num_frames, 1, mask=given)[0].tokens[:, :, 0]
        frames = tower(images, num_frames=num_frames, mask=given).frames
        check_close((tower.ln_post(classes) @ tower.proj)[real], frames[real])


@torch.no_grad()
@pytest.mark.parametrize("schedule", [MERGING, HARSH, None], ids=["mild", "harsh", "none"])
@pytest.mark.parametrize("num_frames", [1, 7, 12, 13])
def test_sizes_sum_to_the_tokens_of_joined_frames(schedule: MergeSchedule | None, num_frames: int) -> None:
    tower = make_tower(merging=schedule)
    mask = torch.arange(2 * num_frames).view(2, -1) % 5 != 4
    factors = dict(zip(schedule.layers, schedule.factors, strict=True)) if schedule else {}
    for given in (None, mask):
        real = torch.ones_like(mask) if given is None else mask
        for layer, view in enumerate(frame_tokens(tower, make_images(2 * num_frames), num_frames, mask=given)):
            joined = prod(factor for at, factor in factors.items() if at <= layer)
            for video, frame in real.nonzero().tolist():
                start = frame // joined * joined
                count = int(real[video, start : start + joined].sum())
                sizes = view.sizes[video, frame]
                assert float(sizes.sum()) == 17 * count
                assert float(sizes[0]) == 1, "a class token never merges"
                assert torch.equal(sizes > 0, view.mask[video, frame])


@torch.no_grad()
def test_tokens_are_means_over_joined_frames() -> None:
    tower, images = make_tower(merging=MERGING), make_images(24)
    silence(tower)  # tokens only merge, so the weighted sum of a sequence is constant
    before = tower._embed(images, 12, 12, None, trace=False).x.view(2, 12, 17, 32)
    for view, joined in zip(frame_tokens(tower, images, 12), [1, 1, 2, 4, 12, 12], strict=True):
        held = (view.tokens * view.sizes[..., None]).sum(dim=2)
        for frame in range(12):
            start = frame // joined * joined
            check_close(held[:, frame], before[:, start : start + joined].sum(dim=(1, 2)), 1e-4)


@torch.no_grad()
def test_a_frames_own_class_token_comes_first() -> None:
    tower = make_tower(merging=MERGING)
    view = frame_tokens(tower, make_images(12), 12, 1)[0].tokens[0]
    classes = view[:, 0]
    for frame in range(12):
        others = [other for other in range(12) if other != frame]
        assert torch.equal(view[frame, 1:12], classes[others]), "the others keep their order"
        assert torch.equal(view[frame, 12:], view[0, 12:]), "patches are shared"
    assert (torch.cdist(classes, classes) + torch.eye(12)).min() > 1e-3


@torch.no_grad()
@each_method
def test_padding_frames_do_not_affect_others(method: str) -> None:
    tower = make_tower(**METHODS[method])
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, [1, 4, 9, 10, 11]] = False
    mask[1, 1:] = False
    images = make_images(24)
    changed = torch.where(mask.flatten()[:, None, None, None], images, 3 * make_images(24, seed=5))
    for one, two in zip(*(frame_tokens(tower, each, 12, mask=mask) for each in (images, changed)), strict=True):
        assert torch.equal(one.mask[mask], two.mask[mask])
        assert torch.equal(one.sizes[mask], two.sizes[mask])
        assert one.tokens.isfinite().all()
        check_close(one.tokens[mask][one.mask[mask]], two.tokens[mask][two.mask[mask]], 2e-6)


@torch.no_grad()
def test_internal_padding_equals_masked_frames() -> None:
    tower, images = make_tower(merging=MERGING), make_images(14)
    filled = torch.cat([images.view(2, 7, 3, 32, 32), torch.randn(2, 5, 3, 32, 32)], dim=1).flatten(0, 1)
    given = frame_tokens(tower, filled, 12, mask=torch.arange(12).expand(2, 12) < 7)
    for view, padded in zip(frame_tokens(tower, images, 7), given, strict=True):
        assert torch.equal(view.mask, padded.mask[:, :7])
        assert torch.equal(view.sizes, padded.sizes[:, :7])
        check_close(view.tokens[view.mask], padded.tokens[:, :7][view.mask], 2e-6)


@torch.no_grad()
def test_layers_are_the_last_in_order() -> None:
    tower, text = make_tower(merging=MERGING), TextTower(TEXT).eval()
    stir(text)
    images, ids = make_images(12), torch.tensor([[38, 5, 6, 39, 0], [38, 39, 0, 0, 0]])
    whole = frame_tokens(tower, images, 12, 6)
    assert [view.tokens.shape[2] for view in whole] == [step.left for step in tower.plan(12)]
    for num_layers in (1, 3):
        for view, again in zip(whole[-num_layers:], frame_tokens(tower, images, 12, num_layers), strict=True):
            assert torch.equal(view.tokens, again.tokens)
        assert torch.equal(text.layers(ids, num_layers=2)[-1], text.layers(ids, num_layers=1)[0])


def test_gradients_reach_every_block() -> None:
    tower, text = make_tower(merging=MERGING), TextTower(TEXT)
    loss = sum(view.tokens.square().mean() for view in frame_tokens(tower, make_images(24), 12, 3))
    words = text.layers(torch.tensor([[38, 5, 6, 39, 0]]), num_layers=2)
    (loss + words.square().mean()).backward()  # type: ignore[no-untyped-call]
    for name, weight in [*tower.blocks.named_parameters(), *text.blocks.named_parameters()]:
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name


def test_num_layers_out_of_range_is_rejected() -> None:
    tower, text, encoder = make_tower(), TextTower(TEXT), make_encoder("plain")
    for num_layers in (0, 7):
        with pytest.raises(ValueError, match=f"num_layers must be in 1..6, got {num_layers}"):
            tower.layers(make_images(2), num_frames=1, num_layers=num_layers)
        with pytest.raises(ValueError, match=f"num_layers must be in 1..2, got {num_layers}"):
            text.layers(torch.tensor([[38, 39]]), num_layers=num_layers)
        with pytest.raises(EncoderError, match=f"num_layers must be in 1..6 for plain, got {num_layers}"):
            encoder.encode_layers(sample(2), num_layers)
        with pytest.raises(EncoderError, match=f"num_layers must be in 1..2 for plain, got {num_layers}"):
            encoder.encode_text_layers(["a dog"], num_layers)
    with pytest.raises(ValueError, match="images must be whole videos of 4 frames, got 6"):
        tower.layers(make_images(6), num_frames=4, num_layers=1)


# Through ClipEncoder.


def unit(vectors: Tensor) -> np.ndarray:
    return np.asarray(functional.normalize(vectors, dim=-1).numpy())


@torch.no_grad()
@each_method
@pytest.mark.parametrize("num_frames", [1, 5, 12])
def test_encoded_frames_are_last_class_tokens(method: str, num_frames: int) -> None:
    encoder, frames = make_encoder(method, batch_size=4), sample(num_frames)
    actual = encoder.encode_layers(frames, 4)
    assert len(actual.layers) == 4
    assert all(layer.shape[0] == num_frames and layer.dtype == np.float32 for layer in actual.layers)
    vision = encoder._model.vision
    classes = vision.ln_post(torch.from_numpy(actual.layers[-1][:, 0])) @ vision.proj
    np.testing.assert_allclose(unit(classes), encoder.encode_frames([frames])[0].frames, atol=1e-5)


@each_method
@pytest.mark.parametrize("num_frames", [1, 5, 12])
def test_sizes_and_masks_exist_where_tokens_merge(method: str, num_frames: int) -> None:
    actual = make_encoder(method).encode_layers(sample(num_frames), 5)
    if "merging" not in method:
        assert actual.sizes is None
        assert actual.masks is None
        assert {layer.shape for layer in actual.layers} == {(num_frames, 17, 32)}, "prompts are left out"
        return
    assert actual.sizes is not None
    assert actual.masks is not None
    fed = {"merging": num_frames, "merging in frames": 1}.get(method, -(-num_frames // 4) * 4)
    for layer, sizes, mask in zip(actual.layers, actual.sizes, actual.masks, strict=True):
        assert layer.shape[:2] == sizes.shape == mask.shape
        assert mask.dtype == np.bool_
        np.testing.assert_array_equal(mask, sizes > 0)
    np.testing.assert_array_equal(actual.sizes[0].sum(axis=1), 17, err_msg="layer 1 is before the first join")
    np.testing.assert_array_equal(actual.sizes[-1].sum(axis=1), 17 * fed, err_msg="what joins is one sequence")


@each_method
@pytest.mark.parametrize("tokens", [False, True])
def test_layers_of_the_pass_that_encodes_are_those_of_a_pass_of_their_own(method: str, *, tokens: bool) -> None:
    encoder, frames = make_encoder(method), sample(17)
    parts = [Frames(frames.pixels[part], frames.times[part]) for part in (slice(12), slice(12, 17))]
    together = encoder.encode_frames(parts, tokens=tokens, num_layers=3)
    for part, one in zip(parts, together, strict=True):
        assert one.layers is not None
        own = encoder.encode_layers(part, 3)
        for layer, again in zip(one.layers.layers, own.layers, strict=True):
            np.testing.assert_allclose(layer, again, rtol=1e-6, atol=1e-6 * np.abs(again).max())
        for arrays, others in ((one.layers.sizes, own.sizes), (one.layers.masks, own.masks)):
            assert (arrays is None) == (others is None)
            for array, other in zip(arrays or (), others or (), strict=True):
                np.testing.assert_array_equal(array, other)
    for one, plain in zip(together, encoder.encode_frames(parts, tokens=tokens), strict=True):
        assert plain.layers is None
        np.testing.assert_allclose(one.frames, plain.frames, atol=1e-6)
        np.testing.assert_allclose(one.video, plain.video, atol=1e-6)
        assert (one.tokens is None) == (plain.tokens is None) == (not tokens)
    with pytest.raises(EncoderError, match="num_layers must be in"):
        encoder.encode_frames(parts, num_layers=99)


@each_method
def test_a_batch_equals_single_calls(method: str) -> None:
    frames = sample(10)
    whole, single = (make_encoder(method, batch_size=size).encode_layers(frames, 3) for size in (64, 3))
    check_same(whole, single)
    if method != "plain":
        return
    encoder = make_encoder(method)
    for index in range(10):
        alone = encoder.encode_layers(Frames(frames.pixels[[index]], frames.times[[index]]), 3)
        for one, other in zip(whole.layers, alone.layers, strict=True):
            np.testing.assert_allclose(one[[index]], other, atol=1e-5)


def check_same(one: LayerTokens, other: LayerTokens) -> None:
    for layer, again in zip(one.layers, other.layers, strict=True):
        np.testing.assert_allclose(layer, again, atol=1e-5)
    for arrays, others in ((one.sizes, other.sizes), (one.masks, other.masks)):
        assert (arrays is None) == (others is None)
        for array, same in zip(arrays or (), others or (), strict=True):
            np.testing.assert_array_equal(array, same)


@torch.no_grad()
def test_words_are_projected_last_states() -> None:
    encoder = make_encoder("plain", batch_size=3)
    text = encoder._model.text
    for layers, embedding in zip(encoder.encode_text_layers(TEXTS, 2), encoder.encode_text(TEXTS), strict=True):
        states = unit(text.ln_final(torch.from_numpy(layers.layers[-1])) @ text.proj)
        np.testing.assert_allclose(states[-1], embedding.sentence, atol=1e-5)
        words = states[1:-1] if len(states) > 2 else states[1:]
        np.testing.assert_allclose(words, embedding.words, atol=1e-5)
    assert encoder.encode_text_layers([], 2) == []


def test_a_text_is_independent_of_its_batch() -> None:
    encoder = make_encoder("plain")
    for text, together in zip(TEXTS, encoder.encode_text_layers(TEXTS, 2), strict=True):
        (alone,) = encoder.encode_text_layers([text], 2)
        assert together.layers.base is None, "a copy, not a view of the batch"
        np.testing.assert_allclose(together.layers, alone.layers, atol=1e-5)


def test_a_long_text_is_truncated_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vidret"):
        long, short = make_encoder("plain").encode_text_layers(["word " * 200, "word"], 1)
    assert (long.layers.shape, short.layers.shape) == ((1, 77, 24), (1, 3, 24))
    (record,) = [record for record in caplog.records if record.name.startswith("vidret")]
    assert record.getMessage().startswith("only the first 75 tokens are read of: word word")


def test_bfloat16_is_close_to_float32() -> None:
    exact, rough = (make_encoder("plain", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(*(each.encode_layers(sample(3), 2).layers for each in (exact, rough)), strict=True):
        assert other.dtype == np.float32
        assert functional.cosine_similarity(torch.from_numpy(one), torch.from_numpy(other), dim=-1).min() > 0.999
    words, others = (each.encode_text_layers(TEXTS, 2)[0].layers for each in (exact, rough))
    assert others.dtype == np.float32
    assert functional.cosine_similarity(torch.from_numpy(words), torch.from_numpy(others), dim=-1).min() > 0.999


def test_only_clip_encoders_are_layered(other: Any) -> None:
    assert isinstance(make_encoder("merging"), LayeredEncoder)
    foreign = OpenClipEncoder("other", other, make_tokenizer(), device=CPU, dtype=torch.float32)
    assert not isinstance(foreign, LayeredEncoder)


# Against the published code.


def read_schedule(settings: dict[str, Any]) -> MergeSchedule:
    layers, factors, percents = (
        tuple(int(number) for number in settings[name].split("-"))
        for name in ("merge_layer", "merge_frame_num", "merge_token_proportion")
    )
    return MergeSchedule(layers, factors, settings["tome_r"], percents[0] / 100, percents[1] / 100)


@torch.no_grad()
@pytest.mark.parametrize("case", find_cases("tempme"), ids=lambda case: case.folder.name)
def test_merged_layers_equal_the_published_ones(case: Case) -> None:
    heads = (case.config["vision"]["heads"], case.config["text"]["heads"])
    tower = convert_state_dict(
        case.weights, "tempme", schedule=read_schedule(case.config["tempme"]), heads=heads
    ).vision
    num_frames, golden = case.config["frames"], case.outputs
    actual = tower.layers(case.pictures, num_frames=num_frames, num_layers=tower.shape.layers)
    num_videos = len(case.pictures) // num_frames
    for layer, each in enumerate(actual):
        classes = golden[f"block{layer:02}.cls_out"].reshape(num_videos, -1, tower.shape.width)[:, :num_frames]
        check_close(each.by_frame().tokens[:, :, 0], classes)
        assert torch.equal(each.sizes, golden[f"block{layer:02}.token_size"])
        full = golden.get(f"block{layer:02}.full_out_video0")
        if full is not None:
            check_close(each.tokens[: len(full)], full)


@torch.no_grad()
@pytest.mark.parametrize("case", find_cases("promptswitch"), ids=lambda case: case.folder.name)
def test_prompt_switch_layers_equal_the_published_ones(case: Case) -> None:
    config, golden = case.config, case.outputs
    shape = PromptShape(config["num_prompts"], config["num_frames"])
    tower = convert_state_dict(case.weights, "promptswitch", prompts=shape, heads=(config["vh"], config["th"])).vision
    actual = frame_tokens(tower, case.pictures, config["frames"], tower.shape.layers)
    for layer, view in enumerate(actual):
        check_close(view.tokens[:, :, 0].flatten(0, 1), golden[f"layer{layer:02}.cls_out"])
    check_close(actual[-1].tokens[0], golden["last_hidden_video0"][:, : -shape.num_prompts])


@torch.no_grad()
@pytest.mark.parametrize("case", find_cases("ucofia"), ids=lambda case: case.folder.name)
def test_shifted_layers_and_words_equal_the_published_ones(case: Case) -> None:
    heads = (1, case.weights["clip.text_projection"].shape[0] // 64 or 1)
    model, video = convert_state_dict(case.weights, "ucofia", heads=heads), case.inputs["video"].float()
    tower, text = model.vision, model.text
    (view,) = frame_tokens(tower, video.reshape(-1, *video.shape[-3:]), video.shape[1], 1)
    check_close(tower.ln_post(view.tokens) @ tower.proj, case.outputs["patch_tokens_all"])
    words = text.layers(case.inputs["input_ids"].long(), num_layers=1)[0]
    check_close(text.ln_final(words) @ text.proj, case.outputs["word_hidden"][:, : words.shape[1]])
