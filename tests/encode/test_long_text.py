"""Long-CLIP's positions, equal to the published code, and texts that are split into clauses."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.encode.tiny import VISION, load_clip, save_clip
from tests.goldens import Case, check_close, find_cases
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.weights import OPEN_CLIP, convert_file, convert_state_dict
from vidret.encode.long_text import BATCH, encode_clauses, join_clauses, split_text
from vidret.errors import EncoderError
from vidret.types import TextEmbedding

CASES = find_cases("longclip")


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder.name)
def test_vectors_equal_the_published_code(case: Case) -> None:
    heads = (case.config["visual_heads"], case.config["text_heads"])
    model = convert_state_dict(case.weights, "longclip", heads=heads)
    assert (model.card.method, model.card.text.context) == ("longclip", 248)
    for kind in ("text_long", "text_short"):
        check_close(model.text(case.inputs[kind].long())[0], case.outputs[kind])
    check_close(model.vision(case.inputs["image"].float(), num_frames=1).frames[:, 0], case.outputs["image"])


def test_a_checkpoint_without_the_second_table_is_refused() -> None:
    weights = {name: weight for name, weight in CASES[0].weights.items() if name != "positional_embedding_res"}
    with pytest.raises(EncoderError, match="1 weight missing: positional_embedding_res"):
        convert_state_dict(weights, "longclip")


def test_a_converted_model_reads_248_tokens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    shape = TextShape(context=248, vocabulary=49408, width=64, layers=1, heads=1, dim=16, quick_gelu=True)
    state = ClipModel(Card("longclip", "ViT-32-8", VISION, shape)).state_dict()
    names = {name.replace("*", str(i)): key.replace("*", str(i)) for key, name in OPEN_CLIP.items() for i in range(9)}
    published = {names[name]: weight for name, weight in state.items()}
    published["positional_embedding_res"] = published["positional_embedding"].clone()
    torch.save({**published, "context_length": torch.tensor(248)}, tmp_path / "longclip-B.pt")
    model = convert_file(tmp_path / "longclip-B.pt", "longclip", schedule=MergeSchedule(), clip_frames=None)
    save_model(model, tmp_path / "long.safetensors")
    encoder = load_clip(tmp_path / "long.safetensors")
    with caplog.at_level(logging.WARNING):
        assert len(encoder.encode_text(["word " * 245])[0].words) == 245
        assert not caplog.records
        assert len(encoder.encode_text(["word " * 250])[0].words) == 250
        encoder.encode_text(["text " * 250, "words", "text " * 260, "text " * 270])
    first, second = (record.getMessage() for record in caplog.records)
    assert "reads 248 tokens, so a text is split into 2 parts: word word" in first
    assert second.endswith("... (and 2 other texts)"), "not one line a text"


@given(st.text("ab .,;\u4f60\u3002", max_size=60), st.integers(1, 12))
def test_parts_fit_and_nothing_is_lost(text: str, most: int) -> None:
    parts = split_text(text, lambda part: len(part) <= most)
    assert all(len(part) <= most for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_sentences_come_before_clauses_and_words() -> None:
    text = "A man opens a door. He looks in, then he leaves and locks it."
    assert split_text(text, lambda part: len(part) <= 42) == [
        "A man opens a door.",
        "He looks in, then he leaves and locks it.",
    ]
    parts = ["A man opens a door.", "He looks in,", "then he leaves", "and locks it."]
    assert split_text(text, lambda part: len(part) <= 22) == parts


def test_clauses_are_joined_by_their_lengths() -> None:
    rows = np.eye(2, dtype=np.float32)
    states = np.arange(4, dtype=np.float32).reshape(2, 2)
    clauses = [TextEmbedding("abc", rows[0], rows[:1], states), TextEmbedding("d", rows[1], rows[1:], states + 8)]
    joined = join_clauses("abc d", clauses)
    np.testing.assert_allclose(joined.sentence, np.array([3, 1]) / np.sqrt(10), atol=1e-6)
    assert len(joined.words) == 2
    assert joined.states is not None
    np.testing.assert_allclose(joined.states, [[0, 1], [8, 9], [4, 5]])
    assert join_clauses("abc d", [clauses[0], TextEmbedding("d", rows[1], rows[1:])]).states is None


def test_texts_are_encoded_in_batches_of_bounded_size() -> None:
    sizes = list[int]()

    def encode(texts: Sequence[str]) -> list[TextEmbedding]:
        sizes.append(len(texts))
        vectors = np.array([[len(text), 1.0] for text in texts], np.float32)
        return [TextEmbedding(text, row, row[None]) for text, row in zip(texts, vectors, strict=True)]

    texts = [" ".join([str(index)] * (1 + index % 3)) for index in range(200)]
    found = encode_clauses(texts, encode, lambda part: len(part.split()) < 3, context=5, name="small")
    assert [embedding.text for embedding in found] == texts
    assert max(sizes) == BATCH
    assert sum(sizes) == 200 + 66, "the longest are two clauses each"


def test_embeddings_of_a_batch_do_not_hold_each_other(tmp_path: Path) -> None:
    encoder = load_clip(save_clip(tmp_path / "clip.safetensors"))
    texts = [f"dog {index} " * (index % 7) for index in range(BATCH + 5)]
    for text, embedding in zip(texts, encoder.encode_text(texts), strict=True):
        (alone,) = encoder.encode_text([text])
        assert embedding.states is not None
        np.testing.assert_allclose(embedding.states, alone.states, atol=1e-5)  # type: ignore[arg-type]
        assert embedding.states.base is None, "a view of the padded batch would keep all of it"
