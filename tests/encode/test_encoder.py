"""Encoder basics: device choice, the check of damaged weights, digests, pixel normalisation."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from vidret.encode.encoder import check_encoder, digest_weights, normalise_pixels
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.errors import DeviceError, EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.25, 0.27)


def naive_pixels(pixels: np.ndarray) -> np.ndarray:
    """Normalise pixel by pixel: scale to 0..1, subtract the mean, divide by the deviation."""
    num_frames, height, width, _ = pixels.shape
    out = np.zeros((num_frames, 3, height, width))
    for frame, row, column, channel in np.ndindex(pixels.shape):
        value = pixels[frame, row, column, channel] / 255
        out[frame, channel, row, column] = (value - MEAN[channel]) / STD[channel]
    return out


class MadeUpEncoder:
    """An encoder of mean colours, whose vectors ``spoil`` can damage."""

    name = "made-up"
    dim = 3
    fingerprint = "0"
    resize = Resize(32, 32)
    sampling = Sampling()

    def __init__(self, spoil: Callable[[np.ndarray], np.ndarray] = lambda vector: vector) -> None:
        self._spoil = spoil

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        assert all(frames.pixels.shape[1:] == (32, 32, 3) and frames.pixels.dtype == np.uint8 for frames in batch)
        means = [frames.pixels.mean((1, 2)).astype(np.float32) + 1 for frames in batch]
        units = [mean / np.linalg.norm(mean, axis=-1, keepdims=True) for mean in means]
        return [
            SegmentEmbedding(self._spoil(unit[0]), unit, frames.times)
            for unit, frames in zip(units, batch, strict=True)
        ]

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: np.eye(3, dtype=np.float32)[0], "must give different images different vectors"),
        (lambda vector: vector * np.nan, "must give finite vectors"),
        (lambda vector: vector * np.inf, "must give finite vectors"),
        (lambda vector: vector if vector[0] < 0.7 else vector * np.nan, "must give finite vectors"),
        pytest.param(
            lambda vector: vector[:2],
            "must give vectors of dimension 3, got shape \\(2,\\)",
            marks=pytest.mark.wrong_shapes,
        ),
        pytest.param(
            lambda vector: vector[None],
            "must give vectors of dimension 3, got shape \\(1, 3\\)",
            marks=pytest.mark.wrong_shapes,
        ),
        (lambda vector: vector * 0, "must give vectors of length 1, got 0"),
        (lambda vector: vector * 1.01, "must give vectors of length 1, got 1.01"),
    ],
)
def test_a_damaged_encoder_is_rejected(spoil: Callable[[np.ndarray], np.ndarray], reason: str) -> None:
    check_encoder(MadeUpEncoder())
    with pytest.raises(EncoderError, match=f"made-up {reason}"):
        check_encoder(MadeUpEncoder(spoil))


def test_pixels_are_normalised_as_in_loops() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    out = normalise_pixels(torch.from_numpy(pixels), MEAN, STD, torch.float32)
    np.testing.assert_allclose(out.numpy(), naive_pixels(pixels), atol=1e-5)
    assert out.is_contiguous()
    assert normalise_pixels(torch.from_numpy(pixels), MEAN, STD, torch.bfloat16).dtype == torch.bfloat16


def test_a_digest_depends_on_names_shapes_values_and_facts_only() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    digest = digest_weights([("w", weight)], "fact")
    assert digest == digest_weights([("w", weight.clone().requires_grad_())], "fact")
    others = {
        digest_weights([("v", weight)], "fact"),
        digest_weights([("w", weight.view(32, 128))], "fact"),
        digest_weights([("w", weight + 1e-6)], "fact"),
        digest_weights([("w", weight)], "other"),
        digest_weights([("w", weight), ("w", weight)], "fact"),
        digest_weights([]),
    }
    assert len(others | {digest}) == 7


def test_a_digest_accepts_unusual_weights() -> None:
    weights = [("scalar", torch.tensor(1.0)), ("count", torch.tensor(3)), ("none", torch.zeros(0))]
    assert len(digest_weights([*weights, ("half", torch.ones(3).half())])) == 32


def test_a_missing_device_is_reported_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in (STARTER, "ViT-B-32/random", "no model at all"):
        with pytest.raises(DeviceError, match="device must exist, got cuda:1 on a machine with 1 CUDA devices"):
            load_encoder(name, device="cuda:1")


@pytest.mark.parametrize("scheme", ["", "hf:", "st:", "hf-hub:", "local-dir:", "ViT-B-32/", "ViT-B-32//"])
def test_a_name_that_is_too_long_for_a_path_is_reported(scheme: str) -> None:
    if scheme in ("hf:", "st:"):
        pytest.importorskip({"hf:": "transformers", "st:": "sentence_transformers"}[scheme])
    # From Python 3.14 on, no path has such a name, and the rule of the scheme is told.
    with pytest.raises(EncoderError, match=r"name too long$| must be .*, got .*a{300}"):
        load_encoder(scheme + "a" * 300)
