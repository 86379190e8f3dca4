"""Precision: the choice of ``auto``, names that are refused, and towers in int8."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.encode.tiny import CARD, MERGING, VISION, add_rows_tower, draw_frames, load_clip, save_clip, stir
from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.vision import VisionShape, VisionTower
from vidret.encode.families.open_clip import OpenClipEncoder
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.encode.precision import MIN_COSINE, choose_precision, quantize_tower, sample_images
from vidret.errors import EncoderError
from vidret.layers import Int8Linear
from vidret.types import Frames

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
BF16, AMX, VNNI = "_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_vnni_supported"


def fake_cpu(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    for probe in (BF16, AMX, VNNI):
        monkeypatch.setattr(torch.cpu, probe, lambda answer=probe in features: answer, raising=False)


@pytest.mark.parametrize(
    ("features", "precision"),
    [((BF16, AMX, VNNI), "bf16"), ((BF16, VNNI), "bf16"), ((AMX, VNNI), "bf16"), ((VNNI,), "int8"), ((), "fp32")],
)
def test_auto_depends_on_the_cpu(features: tuple[str, ...], precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cpu(monkeypatch, *features)
    assert choose_precision("auto", CPU) == precision
    assert choose_precision("auto", MPS) == "fp16"
    for explicit in ("fp32", "bf16", "fp16", "int8"):
        assert choose_precision(explicit, CPU) == explicit
    for probe in (BF16, AMX, VNNI):  # which older versions of PyTorch lack
        monkeypatch.delattr(torch.cpu, probe)
    assert choose_precision("auto", CPU) == "fp32"


def test_a_gpu_that_only_emulates_bfloat16_keeps_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch reports bfloat16 as supported on a T4 (7.5), which only emulates it; each GPU is checked separately."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    capabilities = {torch.device("cuda:0"): (7, 5), torch.device("cuda:1"): (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    assert choose_precision("auto", torch.device("cuda:0")) == "fp32"
    assert choose_precision("auto", torch.device("cuda:1")) == "bf16"
    assert choose_precision("bf16", torch.device("cuda:0")) == "bf16", "an explicit precision is used"


def test_precisions_that_do_not_apply_are_refused_before_loading() -> None:
    for name in (STARTER, "ViT-B-32/random", "no model at all"):
        with pytest.raises(EncoderError, match="precision must be auto, fp32, bf16, fp16 or int8, got fp8"):
            load_encoder(name, precision="fp8")
    for precision in ("fp16", "int8"):
        with pytest.raises(EncoderError, match=f"precision of the starter must be .*, got {precision}"):
            load_encoder(STARTER, device="cpu", precision=precision)
    with pytest.raises(EncoderError, match="the device of precision int8 must be cpu, got cuda"):
        choose_precision("int8", CUDA)


def test_other_towers_are_never_in_int8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = add_rows_tower(tmp_path)
    with pytest.raises(EncoderError, match=f"a model in int8 must be a ViT with CLIP's standard blocks, got {name}"):
        load_encoder(name, device="cpu", precision="int8")
    fake_cpu(monkeypatch, VNNI)
    with caplog.at_level(logging.INFO, "vidret"):
        encoder = load_encoder(name, device="cpu")
    assert isinstance(encoder, OpenClipEncoder)
    assert encoder._dtype == torch.float32
    chosen, reason = (record.getMessage() for record in caplog.records if record.name.startswith("vidret"))
    assert chosen == "precision auto is int8 on cpu"
    assert reason.startswith(f"{name} is in fp32")


def make_tower(*, merging: bool = False) -> VisionTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = VisionTower(VISION, merging=MERGING if merging else None).eval()
        stir(tower, 0.05)
    return tower


@pytest.mark.parametrize("merging", [False, True])
@torch.inference_mode()
def test_a_close_tower_is_in_int8(merging: bool, caplog: pytest.LogCaptureFixture) -> None:
    tower = make_tower(merging=merging)
    with caplog.at_level(logging.INFO, "vidret"):
        rough = quantize_tower(tower, 0.9)
    (record,) = caplog.records
    assert record.getMessage().endswith("to fp32: int8 is used")
    layers = [module for module in rough.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 4 * VISION.layers, "input and output projection and the two layers of the MLP"
    assert not any(isinstance(module, Int8Linear) for module in tower.modules())


@torch.inference_mode()
def test_a_tower_that_int8_changes_stays_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    tower = make_tower()
    with caplog.at_level(logging.INFO, "vidret"):
        assert quantize_tower(tower, 1.1) is tower
    assert caplog.records[0].getMessage().endswith("to fp32: fp32 is used")
    assert not any(isinstance(module, Int8Linear) for module in tower.modules())


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Return smooth images, as films have them."""
    pixels = (sample_images(3, 224).permute(0, 2, 3, 1) * 50 + 128).clamp(0, 255).byte()
    return Frames(pixels.numpy(), np.arange(3.0))


@pytest.fixture(scope="module", params=["wide", pytest.param("ViT-B-32/random", marks=pytest.mark.slow)])
def exact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    """Load ViT-B/32, or two layers as wide with hardly any text tower, which takes seconds less."""
    if request.param != "wide":
        return load_clip(request.param)
    vision = VisionShape(image_size=224, patch=32, width=768, layers=2, heads=12, dim=512)
    path = tmp_path_factory.mktemp("wide") / "model.safetensors"
    return load_clip(save_clip(path, vision=vision, text=replace(CARD.text, dim=512)))


@pytest.mark.parametrize("precision", ["int8", pytest.param("bf16", marks=pytest.mark.slow)])
def test_vectors_of_a_real_size_are_close_to_float32(precision: str, exact: ClipEncoder, frames: Frames) -> None:
    rough = load_clip(exact.name, precision)
    assert rough.fingerprint == exact.fingerprint, "vectors of both may be compared"
    near, expected = (encoder.encode_frames([frames], tokens=True)[0] for encoder in (rough, exact))
    assert near.tokens is not None
    assert expected.tokens is not None
    assert near.frames.dtype == near.tokens.dtype == np.float32
    assert (near.frames * expected.frames).sum(-1).min() >= 0.999 > MIN_COSINE
    assert (near.tokens * expected.tokens).sum(-1).min() >= 0.998
    one, other = (encoder.encode_text(["a dog on a beach"])[0].sentence for encoder in (rough, exact))
    assert one @ other >= 0.999
    (single,) = rough.encode_frames([Frames(frames.pixels[1:2], np.zeros(1))])
    assert (single.frames[0] * near.frames[1]).sum() >= 0.9999, "a frame is independent of its batch"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_clip(tmp_path / "model.safetensors", std=0.1)


def test_only_frames_are_in_int8_and_only_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cpu(monkeypatch, VNNI)
    exact = load_clip(path)
    frames = draw_frames(2)
    for precision in ("int8", "auto"):
        rough = load_clip(path, precision)
        (text,), (expected,) = (encoder.encode_text(["a dog"]) for encoder in (rough, exact))
        np.testing.assert_array_equal(text.sentence, expected.sentence)
        assert not any(isinstance(module, Int8Linear) for module in rough._model.modules()), "texts need no int8"
        (near,), (again,), (vectors,) = (encoder.encode_frames([frames]) for encoder in (rough, rough, exact))
        np.testing.assert_array_equal(near.frames, again.frames)
        assert 0.98 < (near.frames * vectors.frames).sum(-1).min() < 1 - 1e-6
        assert rough.encode_layers(frames, 2).layers[0].shape == exact.encode_layers(frames, 2).layers[0].shape


def test_half_precision_of_apples_chips(path: Path) -> None:
    exact, rough = (load_clip(path, precision) for precision in ("fp32", "fp16"))
    frames = draw_frames(2)
    (near,), (vectors,) = (encoder.encode_frames([frames]) for encoder in (rough, exact))
    assert near.frames.dtype == np.float32
    assert (near.frames * vectors.frames).sum(-1).min() > 0.9999
