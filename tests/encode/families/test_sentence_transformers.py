"""Models of sentence-transformers, tiny and random, against the library's own vectors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.encode.hf_models import save_tiny, save_tiny_sentences
from vidret.encode.families.registry import load_encoder
from vidret.errors import EncoderError
from vidret.types import Frames

PROMPTS = {"query": "find: ", "document": ""}


@pytest.fixture(scope="module", autouse=True)
def library() -> Any:
    """Return the library, which takes a second to import: only the process that runs these tests does."""
    return pytest.importorskip("sentence_transformers", minversion="6.2")


@pytest.fixture(scope="module", params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of a family, with a prompt for queries."""
    return save_tiny_sentences(request.param, tmp_path_factory.mktemp("model"), prompts=PROMPTS)


def test_vectors_are_those_of_the_library(library: Any, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder: Any = load_encoder(f"st:{folder}", device="cpu", precision="fp32")
    model = library.SentenceTransformer(str(folder), device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    assert (encoder.resize.crop, encoder.prompts) == (32, {"query": "find: "})
    batch = [Frames(pixels[:2], np.arange(2.0)), Frames(pixels[2:], np.arange(3.0))]
    frames = np.concatenate([segment.frames for segment in encoder.encode_frames(batch)])
    expected = model.encode([Image.fromarray(image) for image in pixels], normalize_embeddings=True)
    np.testing.assert_allclose(frames, expected, atol=1e-5)
    texts = ["a dog", "a cat"]
    found = np.stack([text.sentence for text in encoder.encode_text(texts)])
    np.testing.assert_allclose(found, model.encode_query(texts, normalize_embeddings=True), atol=1e-5)
    assert "split into" not in caplog.text
    encoder.encode_text(["a dog runs, then a cat jumps, then it rains"])
    assert "split into" in caplog.text
    with pytest.raises(EncoderError, match="tokens must come from a model with patches"):
        encoder.encode_frames(batch, tokens=True)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("st:nothing", "must be st:org/name or st: with an existing folder"),
        ("st:org/name", "its files are not on this machine and HF_HUB_OFFLINE is set"),
        ("st:{empty}", "must hold the modules.json or config.json of a model"),
        ("st:{texts}", "must encode text and images, got a model of text"),
    ],
)
def test_what_is_no_such_model_is_refused(name: str, rule: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    texts = save_tiny("xclip", tmp_path / "texts")
    with pytest.raises(EncoderError, match=rule):
        load_encoder(name.format(empty=tmp_path / "empty", texts=texts), device="cpu")
