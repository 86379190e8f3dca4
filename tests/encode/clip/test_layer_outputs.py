"""Layer outputs of the towers, against open_clip, and which token is whose."""

import json
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

from tests.encode.tiny import (
    CARD,
    HARSH,
    MERGING,
    METHODS,
    VISION,
    assert_same_embeddings,
    draw_frames,
    make_images,
    recorded,
    stir,
)
from tests.goldens import check_close
from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import ClipModel
from vidret.encode.clip.outputs import FrameTokens, Trunk
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.vision import VisionTower
from vidret.encode.clip.weights import from_open_clip
from vidret.encode.encoder import LayeredEncoder
from vidret.encode.families.clip import derive_card
from vidret.encode.families.open_clip import OpenClipEncoder
from vidret.encode.long_text import BATCH
from vidret.errors import EncoderError
from vidret.types import Frames, LayerTokens

CPU = torch.device("cpu")
NAME = "vidret-layers"
TEXTS = ["a dog on a beach", "", "two people ride bikes past a parked car", "Dog!"]
each_method = pytest.mark.parametrize("method", METHODS)


def watch(blocks: Iterable[Any], run: Callable[[], Any]) -> list[Tensor]:
    """Run an open_clip model and record the outputs of some blocks."""
    captured: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _block, _inputs, out: captured.append(out)) for block in blocks]
    run()
    for handle in handles:
        handle.remove()
    return captured


def naive_view(trunk: Trunk, joined: int, per_video: int, num_frames: int, back: int) -> list[FrameTokens]:
    """Return the tokens of each frame of each video, one by one, after ``joined`` frames became one sequence."""
    stop, views = trunk.x.shape[1] - back, []
    for start in range(0, len(trunk.x), per_video):
        for frame in range(num_frames):
            row, class_token = start + frame // joined, frame % joined
            order = [class_token, *(token for token in range(stop) if token != class_token)]
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
    return list(tower(images, num_frames=num_frames, num_layers=num_layers, **more).layers)


@cache
def make_tokenizer() -> Any:
    return open_clip.SimpleTokenizer(context_length=77)


@cache
def make_encoder(
    method: str, *, batch_size: int = 64, dtype: torch.dtype = torch.float32, cuts_texts: bool = False
) -> ClipEncoder:
    """Return an encoder with random weights; the aggregation of prompts is zero, so that frames are class tokens."""
    torch.manual_seed(1)
    model = ClipModel(replace(CARD, **METHODS[method]))
    stir(model)
    if model.vision.prompts is not None:
        nn.init.zeros_(model.vision.prompts.aggregation.out_proj.weight)
        nn.init.zeros_(model.vision.prompts.aggregation.out_proj.bias)
    options: dict[str, Any] = {"dtype": dtype, "batch_size": batch_size, "cuts_texts": cuts_texts}
    return ClipEncoder(method, model, make_tokenizer(), device=CPU, **options)


# Against open_clip.


@pytest.fixture(scope="module", params=[False, True], ids=["gelu", "quick_gelu"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an open_clip model with random weights."""
    name, folder = f"{NAME}-{request.param}", tmp_path_factory.mktemp("architectures")
    vision = {"image_size": 32, "layers": 5, "width": 48, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 36, "heads": 3, "layers": 4}
    config = {"embed_dim": 28, "vision_cfg": vision, "text_cfg": text, "quick_gelu": request.param}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(3)
    model = open_clip.create_model(name).eval()
    stir(model)
    return model


def take(other: Any, *, batch_size: int = 64) -> ClipEncoder:
    """Return a ``ClipEncoder`` with the weights of an open_clip model."""
    quick = isinstance(other.visual.transformer.resblocks[0].mlp.gelu, open_clip.transformer.QuickGELU)
    card = derive_card(NAME, open_clip.get_model_config(f"{NAME}-{quick}"), {})
    assert card is not None
    model = from_open_clip(other.state_dict(), card)
    return ClipEncoder(NAME, model, make_tokenizer(), device=CPU, dtype=torch.float32, batch_size=batch_size)


@torch.no_grad()
def test_encoder_layers_equal_open_clip(other: Any) -> None:
    frames, encoder = draw_frames(5), take(other, batch_size=2)
    pixels = torch.tensor(frames.pixels).permute(0, 3, 1, 2) / 255
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    expected = watch(other.visual.transformer.resblocks[-4:], lambda: other.encode_image((pixels - mean) / std))
    actual = encoder.encode_layers(frames, 4)
    np.testing.assert_array_equal(actual.times, frames.times)
    assert actual.sizes is None
    assert actual.masks is None
    for layer, wanted in zip(actual.layers, expected, strict=True):
        assert layer.dtype == np.float32
        check_close(torch.from_numpy(layer), wanted)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 4])
def test_text_layers_equal_open_clip(other: Any, num_layers: int) -> None:
    ids = make_tokenizer()(TEXTS)
    expected = watch(other.transformer.resblocks[-num_layers:], lambda: other.encode_text(ids))
    actual = take(other, batch_size=3).encode_text_layers(TEXTS, num_layers)
    assert [words.text for words in actual] == TEXTS
    assert [words.layers.shape[1] for words in actual] == [7, 2, 10, 4], "start and end token included"
    for index, words in enumerate(actual):
        assert words.layers.dtype == np.float32
        length = words.layers.shape[1]
        check_close(torch.from_numpy(words.layers), torch.stack([layer[index, :length] for layer in expected]))


# Which token belongs to which frame.


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [12, 16])
@pytest.mark.parametrize("schedule", [MERGING, HARSH, replace(MERGING, layers=(2, 4), factors=(3, 2)), None])
@pytest.mark.parametrize("prompts", [PromptShape(2, 4), None])
def test_tokens_equal_loops(schedule: MergeSchedule | None, prompts: PromptShape | None, num_frames: int) -> None:
    tower, images = make_tower(merging=schedule, prompts=prompts), make_images(2 * num_frames)
    mask = torch.ones(2, num_frames, dtype=torch.bool)
    mask[1, [2, num_frames - 1]] = False
    factors = dict(zip(schedule.layers, schedule.factors, strict=True)) if schedule else {}
    padded = schedule.padded(num_frames) if schedule else num_frames
    for frame_mask in (None, mask):
        with recorded(tower) as trunks:
            actual = frame_tokens(tower, images, num_frames, mask=frame_mask)
        for layer, (trunk, view) in enumerate(zip(trunks, actual, strict=True)):
            joined = prod(factor for at, factor in factors.items() if at <= layer)
            back = 2 * joined if prompts else 0
            expected = naive_view(trunk, joined, padded // joined, num_frames, back)
            assert view.tokens.shape[:2] == (2, num_frames)
            for index, naive_tokens in enumerate(expected):
                for tensor, right in zip(view, naive_tokens, strict=True):
                    assert torch.equal(tensor.flatten(0, 1)[index], right)


def test_num_layers_out_of_range_is_rejected() -> None:
    encoder = make_encoder("plain")
    for num_layers in (0, 7):
        with pytest.raises(EncoderError, match=f"num_layers must be in 1..6 for plain, got {num_layers}"):
            encoder.encode_layers(draw_frames(2), num_layers)
        with pytest.raises(EncoderError, match=f"num_layers must be in 1..2 for plain, got {num_layers}"):
            encoder.encode_text_layers(["a dog"], num_layers)
    with pytest.raises(EncoderError, match=r"num_layers must be in 1\.\.6 for plain, got 7"):
        encoder.encode_frames([draw_frames(2)], num_layers=7)


# Through ClipEncoder.


def unit(vectors: Tensor) -> np.ndarray:
    return np.asarray(functional.normalize(vectors, dim=-1).numpy())


@torch.no_grad()
@each_method
@pytest.mark.parametrize("num_frames", [1, 5, 12])
def test_encoded_frames_are_last_class_tokens(method: str, num_frames: int) -> None:
    encoder, frames = make_encoder(method, batch_size=4), draw_frames(num_frames)
    actual = encoder.encode_layers(frames, 4)
    assert len(actual.layers) == 4
    assert all(layer.shape[0] == num_frames and layer.dtype == np.float32 for layer in actual.layers)
    vision = encoder._model.vision
    classes = vision.ln_post(torch.from_numpy(actual.layers[-1][:, 0])) @ vision.proj
    np.testing.assert_allclose(unit(classes), encoder.encode_frames([frames])[0].frames, atol=1e-5)


@each_method
@pytest.mark.parametrize("num_frames", [1, 5, 12])
def test_sizes_and_masks_exist_where_tokens_merge(method: str, num_frames: int) -> None:
    actual = make_encoder(method).encode_layers(draw_frames(num_frames), 5)
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
def test_layers_come_with_the_vectors_whatever_the_batch(method: str, *, tokens: bool) -> None:
    encoder, frames = make_encoder(method), draw_frames(17)
    parts = [Frames(frames.pixels[rows], frames.times[rows]) for rows in (slice(12), slice(12, 17))]
    together = encoder.encode_frames(parts, tokens=tokens, num_layers=3)
    for part, one in zip(parts, together, strict=True):
        assert one.layers is not None
        check_same(one.layers, make_encoder(method, batch_size=3).encode_layers(part, 3))
    plain = encoder.encode_frames(parts, tokens=tokens)
    assert all(embedding.layers is None for embedding in plain)
    assert_same_embeddings(together, plain, atol=1e-6)


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
        assert layers.layers.base is None, "a copy, not a view of the batch"
        np.testing.assert_allclose(states[-1], embedding.sentence, atol=1e-5)
        words = states[1:-1] if len(states) > 2 else states[1:]
        np.testing.assert_allclose(words, embedding.words, atol=1e-5)
    assert encoder.encode_text_layers([], 2) == []


def test_a_long_text_is_truncated_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "vidret"):
        long, _, short = make_encoder("plain").encode_text_layers(["word " * 200, "text " * 99, "word"], 1)
    assert (long.layers.shape, short.layers.shape) == ((1, 77, 24), (1, 3, 24))
    (record,) = [record for record in caplog.records if record.name.startswith("vidret")]
    assert record.getMessage().startswith("only the first 75 tokens are read of: word word")
    assert record.getMessage().endswith("... (and 1 other text)")


def test_a_text_that_just_fits_is_read_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    encoder, text = make_encoder("plain"), "word " * 75
    with caplog.at_level(logging.WARNING, "vidret"):
        (split,), (cut,) = encoder.encode_text([text]), make_encoder("plain", cuts_texts=True).encode_text([text])
        (layers,) = encoder.encode_text_layers([text], 1)
    np.testing.assert_array_equal(split.sentence, cut.sentence)
    assert (len(split.words), layers.layers.shape[1]) == (75, 77)
    assert not caplog.records
    encoder.encode_text([text + "word"])
    assert "a text is split into 2 parts" in caplog.text


@pytest.mark.parametrize("call", ["encode_text", "encode_text_layers"])
def test_truncated_texts_of_several_batches_are_one_warning(caplog: pytest.LogCaptureFixture, call: str) -> None:
    encoder = make_encoder("plain", batch_size=1, cuts_texts=True)
    texts = [f"word {index} " * 40 for index in range(BATCH + 2)]
    with caplog.at_level(logging.WARNING, "vidret"):
        getattr(encoder, call)(texts, *([1] if call == "encode_text_layers" else []))
    (record,) = [record for record in caplog.records if record.name.startswith("vidret")]
    assert record.getMessage().startswith("only the first 75 tokens are read of: word 0 word 0")
    assert record.getMessage().endswith(f"... (and {BATCH + 1} other texts)")


def test_bfloat16_is_close_to_float32() -> None:
    exact, rough = (make_encoder("plain", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(
        *(encoder.encode_layers(draw_frames(3), 2).layers for encoder in (exact, rough)), strict=True
    ):
        assert other.dtype == np.float32
        assert functional.cosine_similarity(torch.from_numpy(one), torch.from_numpy(other), dim=-1).min() > 0.999
    words, others = (encoder.encode_text_layers(TEXTS, 2)[0].layers for encoder in (exact, rough))
    assert others.dtype == np.float32
    assert functional.cosine_similarity(torch.from_numpy(words), torch.from_numpy(others), dim=-1).min() > 0.999


def test_only_clip_encoders_are_layered(other: Any) -> None:
    assert isinstance(make_encoder("merging"), LayeredEncoder)
    foreign = OpenClipEncoder("other", other, make_tokenizer(), device=CPU, dtype=torch.float32)
    assert not isinstance(foreign, LayeredEncoder)
