"""Qwen3-VL-Embedding, tiny and random: the authors' sampling and pooling, and the libraries' own vectors."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tests.encode.hf_models import load_theirs, save_tiny_qwen, transformers
from tests.fakes import write_film
from vidret.encode.encoder import check_encoder
from vidret.encode.families.qwen3_vl import QUERY, pool_last, thin_frames
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.errors import EncoderError
from vidret.types import Frames, Resize
from vidret.video.geometry import fit_budget

TEXTS = ["a dog", "two cats run, and then they sleep.", ""]
DOCUMENT = "Represent the user's input."
PIXELS = 64 * 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    return load_encoder(f"hf:{folder}#pixels={PIXELS}", device="cpu", precision="fp32")


def draw(num: int, height: int = 64, width: int = 32, seed: int = 0, step_s: float = 1.0) -> Frames:
    pixels = np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8)
    return Frames(pixels, 30 + step_s * (np.arange(num) + 0.5))


def turn(instruction: str, *content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message as QwenLM/Qwen3-VL-Embedding 8ce3aab has it, by "format_model_input"."""
    system = {"role": "system", "content": [{"type": "text", "text": instruction}]}
    return [system, {"role": "user", "content": list(content)}]


@pytest.mark.parametrize(
    ("num_frames", "rate", "first", "count"),
    [
        (1, 1.0, [0], 1),
        (15, 1.0, list(range(15)), 15),
        (64, 1.0, list(range(64)), 64),
        (65, 1.0, [0, 1, 2, 3], 64),
        (100, 25.0, [0, 33, 66, 99], 4),
        (100, 1.0, [0, 2, 3, 5], 64),
        (2000, 25.0, [0, 32, 63, 95], 64),
    ],
)
def test_frames_are_those_of_the_library(num_frames: int, rate: float, first: list[int], count: int) -> None:
    processor = transformers.Qwen3VLVideoProcessor(max_frames=64)
    metadata = transformers.video_utils.VideoMetadata(total_num_frames=num_frames, fps=rate)
    chosen = thin_frames(num_frames, rate).tolist()
    assert chosen == processor.sample_frames(metadata, fps=1.0).tolist()
    assert chosen[: len(first)] == first
    assert len(chosen) == count


@given(
    height=st.integers(32, 2200), width=st.integers(32, 2200), budget=st.sampled_from([786_432, 245_760, 131_072, 4096])
)
def test_frames_fit_the_budget_as_the_library_has_it(height: int, width: int, budget: int) -> None:
    smart_resize = transformers.models.qwen2_vl.image_processing_qwen2_vl.smart_resize
    limits: dict[str, Any] = {"min_pixels": min(131_072, budget), "max_pixels": budget}
    size = fit_budget(height, width, Resize(32, 32, multiple=32, **limits))
    assert size == smart_resize(height, width, factor=32, **limits)


def test_the_last_token_before_the_padding_is_pooled() -> None:
    states = torch.arange(24.0).reshape(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]])
    assert pool_last(states, mask).tolist() == [[6, 7], [8, 9], [20, 21]]


# The same vectors as the libraries.


@torch.no_grad()
def embed(folder: Path, message: list[dict[str, Any]], frames: Frames | None = None) -> np.ndarray:
    """Return the library's vector of one message, a video at one frame a second if there is one."""
    model, processor = load_theirs(folder), transformers.AutoProcessor.from_pretrained(folder)
    videos: dict[str, Any] = {}
    if frames is not None:
        metadata = {"total_num_frames": len(frames), "fps": 1.0, "frames_indices": list(range(len(frames)))}
        videos = {"videos": [frames.pixels], "video_metadata": [metadata], "do_resize": False}
        videos |= {"do_sample_frames": False, "cap_pixels_per_frame": True}
    text = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], return_tensors="pt", **videos)
    inputs.pop("video_metadata", None)
    return functional.normalize(model(**inputs).last_hidden_state[0, -1], dim=-1).numpy()


def test_texts_and_videos_equal_those_of_the_library(folder: Path, encoder: Any) -> None:
    """In a batch as well: padding on the right and other videos change nothing."""
    texts = encoder.encode_text(TEXTS)
    for text, embedding in zip(TEXTS, texts, strict=True):
        content = {"type": "text", "text": text or "NULL"}
        np.testing.assert_allclose(embedding.sentence, embed(folder, turn(QUERY, content)), atol=1e-5)
    batch = [draw(5), draw(1, seed=1), draw(4, 32, 96, seed=2), draw(16, seed=3)]
    for frames, found in zip(batch, encoder.encode_frames(batch), strict=True):
        item = {"type": "video", "video": "any"}
        np.testing.assert_allclose(found.video, embed(folder, turn(DOCUMENT, item), frames), atol=1e-5)
        assert found.frames.shape == (len(frames), encoder.dim)
    first, second = (segment.video for segment in encoder.encode_frames(batch[:2]))
    assert not np.allclose(first, second, atol=1e-3)


def test_vectors_equal_those_of_sentence_transformers(folder: Path, encoder: Any) -> None:
    library: Any = pytest.importorskip("sentence_transformers", minversion="6.2")
    modules = importlib.import_module("sentence_transformers.sentence_transformer.modules")
    transformer = modules.Transformer(str(folder))
    pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    model = library.SentenceTransformer(modules=[transformer, pooling, modules.Normalize()], device="cpu")
    frames = draw(6)
    metadata = {"total_num_frames": 6, "fps": 1.0, "frames_indices": list(range(6))}
    video = {"array": frames.pixels, "video_metadata": metadata}
    options = {"do_sample_frames": False, "do_resize": False, "cap_pixels_per_frame": False}
    settings = {"video": options, "chat_template": {"add_generation_prompt": True}}
    library_vector = model.encode([video], prompt=DOCUMENT, processing_kwargs=settings)[0]
    st_encoder = load_encoder(f"st:{folder}#pixels={PIXELS}", device="cpu", precision="fp32")
    np.testing.assert_allclose(st_encoder.encode_frames([frames])[0].video, library_vector, atol=1e-5)
    texts = model.encode(TEXTS[:2], prompt=QUERY, processing_kwargs=settings)
    np.testing.assert_allclose(np.stack([text.sentence for text in encoder.encode_text(TEXTS[:2])]), texts, atol=1e-5)


def test_times_are_counted_from_the_first_frame(encoder: Any) -> None:
    """A segment is a video of its own: where it is in its film does not matter, how fast it is does."""
    early, late, slow = draw(8), draw(8), draw(8, step_s=2.0)
    late = Frames(late.pixels, late.times + 1000)
    first, second, third = encoder.encode_frames([early, late, slow])
    np.testing.assert_allclose(first.video, second.video, atol=1e-6)
    assert not np.allclose(first.video, third.video, atol=1e-4)


def test_matryoshka_vectors_are_cut_and_scaled(folder: Path, encoder: Any) -> None:
    cut = load_encoder(f"hf:{folder}#dims=8#pixels={PIXELS}", device="cpu", precision="fp32")
    assert (cut.dim, encoder.dim) == (8, 32)
    assert cut.fingerprint != encoder.fingerprint
    whole = encoder.encode_frames([draw(4)])[0].video[:8]
    np.testing.assert_allclose(cut.encode_frames([draw(4)])[0].video, whole / np.linalg.norm(whole), atol=1e-5)
    with pytest.raises(EncoderError, match=r"dims must be at most 32 for hf:.*, got 64"):
        load_encoder(f"hf:{folder}#dims=64", device="cpu")
    with pytest.raises(EncoderError, match="dims must not be given for starter, which is not a Qwen3-VL-Embedding"):
        load_encoder("starter#dims=8", device="cpu")


def test_the_budget_and_the_segments(folder: Path) -> None:
    segments: Any = load_encoder(f"hf:{folder}", device="cpu")
    whole = load_encoder(f"hf:{folder}#whole", device="cpu")
    assert (segments.sampling.num_frames, segments.resize.max_pixels) == (16, 768 * 32 * 32)
    assert (whole.sampling.num_frames, whole.resize.max_pixels) == (64, 2 * 7_864_320 // 64)
    assert segments.prompts == {"query": QUERY, "document": DOCUMENT}


def test_an_index_searches_and_a_broken_file_fails(folder: Path, tmp_path: Path) -> None:
    """The authors' code would embed the word NULL for the file that cannot be read."""
    film = write_film(tmp_path / "films/a.mp4", ("red", 5), ("blue", 5))
    (tmp_path / "films/b.mp4").write_bytes(b"no video" * 99)
    with Engine.open(tmp_path / "index", encoder=f"st:{folder}#pixels={PIXELS}", device="cpu") as engine:
        report = engine.index([tmp_path / "films"], workers=1)
        assert [Path(path).name for path, _ in report.failed] == ["b.mp4"]
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        assert [hit.path for hit in engine.search("a dog")] == [str(film)]
        assert engine.locate("a dog", video=film, weak=True)[0].end <= 10.1
        assert engine.encoder.resize.max_pixels == PIXELS


def test_what_cannot_be_encoded_is_refused(encoder: Any, folder: Path, tmp_path: Path) -> None:
    none = Frames(np.empty((0, 32, 32, 3), np.uint8), np.empty(0))
    with pytest.raises(EncoderError, match="a video must have at least one frame, got none"):
        encoder.encode_frames([none])
    with pytest.raises(EncoderError, match="tokens must come from a model with patches, got hf:"):
        encoder.encode_frames([draw(4)], tokens=True)
    check_encoder(encoder)
    plain = save_tiny_qwen(tmp_path / "plain", chat_template=None)
    with pytest.raises(EncoderError, match="the processor must have a chat template, got none"):
        load_encoder(f"hf:{plain}", device="cpu")
