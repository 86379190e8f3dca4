"""What holds for every encoder of images: valid vectors, which depend on nothing else that is encoded."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from tests.encode.hf_models import save_tiny, save_tiny_sentences
from tests.encode.tiny import add_rows_tower, assert_same_embeddings, draw_frames, save_clip
from tests.spoken import NamedColours
from vidret.encode.encoder import Encoder, check_encoder
from vidret.encode.families.registry import Family, find_family, load_encoder
from vidret.encode.names import PAIR, WHOLE, parse_model_name
from vidret.types import Frames, Sampling

TEXTS = ["a dog on a beach", "", "bikes", "two people ride bikes past a parked car while it snows in the mountains"]


FAMILIES: Mapping[str, Family] = {
    "starter": "starter",
    "clip": "clip",
    "clip, merged": "clip",
    "open_clip": "clip",
    "transformers": "hf",
    "sentence-transformers": "st",
    "pair": "pair",
    "custom": "custom",
}


class Custom(NamedColours):
    """An encoder from outside vidret, which may see whole videos."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        self.sampling, self.fingerprint = Sampling(whole=whole), f"custom, whole: {whole}"


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of an encoder of each family, of random weights but for the starter."""
    folder = tmp_path_factory.mktemp("model")
    match request.param:
        case "clip" | "clip, merged":
            path = save_clip(folder / "tiny.safetensors")
            return f"{path}#merge=half" if request.param == "clip, merged" else str(path)
        case "open_clip":  # the encoder for foreign towers
            return add_rows_tower(folder)
        case "transformers":
            return f"hf:{save_tiny('siglip', folder / 'tiny')}"
        case "sentence-transformers":
            return f"st:{save_tiny_sentences('clip', folder)}"
        case "pair":
            return f"starter + {save_clip(folder / 'tiny.safetensors')}"
        case "custom":
            return f"{__name__}:{Custom.__name__}"
    return str(request.param)


@pytest.fixture(scope="module")
def encoder(name: str) -> Encoder:
    return load_encoder(name, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def has_tokens(name: str) -> bool:
    return not name.startswith(("st:", "vidret-rows", __name__)) and PAIR not in name


def assert_unit(vectors: np.ndarray | None) -> None:
    assert vectors is not None
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_every_family_is_tested() -> None:
    """An endpoint computes its vectors elsewhere, so that its tests are of what it is asked."""
    assert {*FAMILIES.values(), "endpoint"} == {*get_args(Family)}


def test_its_name_is_of_its_family(name: str, request: pytest.FixtureRequest) -> None:
    assert find_family(parse_model_name(name)) == FAMILIES[request.node.callspec.params["name"]]


def test_it_is_valid_and_known_again(name: str, encoder: Encoder) -> None:
    check_encoder(encoder)
    torch.manual_seed(7)
    again = load_encoder(name, device="cpu", precision="fp32")
    assert torch.initial_seed() == 7, "random weights are drawn by a seed of their own"
    assert (again.name, again.dim, again.fingerprint) == (encoder.name, encoder.dim, encoder.fingerprint)


def test_whole_videos_have_a_name_and_a_fingerprint_of_their_own(name: str, encoder: Encoder) -> None:
    whole = load_encoder(f"{name}{WHOLE}", device="cpu", precision="fp32")
    assert (encoder.name, whole.name) == (name, f"{name}#whole")
    assert whole.sampling == replace(encoder.sampling, whole=True)
    assert whole.fingerprint != encoder.fingerprint, "an index cannot mix the two"
    assert (whole.dim, whole.resize) == (encoder.dim, encoder.resize)


def test_vectors_are_float32_of_unit_length_even_for_blank_frames(encoder: Encoder, has_tokens: bool) -> None:
    blank = np.zeros_like(draw_frames(side=encoder.resize.crop, num=2).pixels)
    blank[1] = 255
    for frames in (draw_frames(side=encoder.resize.crop, num=3), Frames(blank, np.arange(2.0))):
        (embedding,) = encoder.encode_frames([frames], tokens=has_tokens)
        assert embedding.times is frames.times
        assert embedding.frames.shape == (len(frames), encoder.dim)
        assert_unit(embedding.video)
        assert_unit(embedding.frames)
        if has_tokens:
            assert_unit(embedding.tokens)
        mean = embedding.frames.mean(axis=0)
        np.testing.assert_allclose(embedding.video, mean / np.linalg.norm(mean), atol=1e-5)
    for text, embedded in zip(TEXTS, encoder.encode_text(TEXTS), strict=True):
        assert embedded.text == text
        assert_unit(embedded.sentence)
        assert_unit(embedded.words)


def test_a_frame_is_independent_of_its_batch(encoder: Encoder, has_tokens: bool) -> None:
    batch = [draw_frames(side=encoder.resize.crop, num=length, seed=length) for length in (1, 7, 2)]
    together = encoder.encode_frames(batch, tokens=has_tokens)
    assert_same_embeddings(together, [encoder.encode_frames([frames], tokens=has_tokens)[0] for frames in batch])
    assert all(embedding.tokens is None for embedding in encoder.encode_frames(batch))
    (frame,) = encoder.encode_frames([Frames(batch[1].pixels[2:3], np.zeros(1))])
    np.testing.assert_allclose(frame.frames[0], together[1].frames[2], atol=1e-5)


def test_a_text_is_independent_of_its_batch_and_of_other_threads(encoder: Encoder) -> None:
    texts = [*TEXTS, "longer " * 200, *TEXTS]
    together = encoder.encode_text(texts)
    with ThreadPoolExecutor(4) as pool:
        singles = list(pool.map(lambda text: encoder.encode_text([text])[0], texts))
    for one, other in zip(together, singles, strict=True):
        assert one.words.shape == other.words.shape
        np.testing.assert_allclose(one.sentence, other.sentence, atol=1e-5)
        np.testing.assert_allclose(one.words, other.words, atol=1e-4)
    assert encoder.encode_text([]) == []
