"""Rankers: stored segments score as the aligners score the same vectors without storing them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.fakes import DIM, PatchEncoder, make_segment, make_text, normalize
from tests.goldens import find_cases
from tests.rankers import convert_golden, make_ranker, save_aligner, score_directly, score_stored, store_all
from vidret.align.ucofia import Aligner
from vidret.channels.picture.aligner_rankers import UcofiaRanker
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.picture.ranker_loading import FEW, UNTRAINED_UCOFIA, choose_ranker, load_ranker, make_untrained
from vidret.channels.picture.ranking import score_top_frames
from vidret.errors import AlignerError
from vidret.store.store import Store
from vidret.types import RERANKERS, SegmentEmbedding, TextEmbedding

KINDS = ("none", "mean", "ucofia", "glscl", "trained ucofia", "trained glscl")
LEVELS = {
    "none": ("frames",),
    "mean": ("segment",),
    "ucofia": ("segment", "frames", "words"),
    "glscl": ("pooled",),
    "trained ucofia": ("segment", "frames", "words"),
    "trained glscl": ("pooled", "concepts"),
}
# Tolerance of a level for unit vectors in float16, and for tokens in 8 bits.
FLOAT16, INT8 = 1e-4, 2e-3
LENGTHS = (1, 4, 12, 3, 7, 4)
TEXTS = (
    "a dog",
    "two men ride red bicycles along the river",
    "",
    "cartoon",
    "a dog and then a very long story of a cat",
)


def naive_frames(
    kind: str, texts: Sequence[TextEmbedding], segments: Sequence[SegmentEmbedding]
) -> tuple[list[Tensor], Tensor]:
    """Return the mean of each segment's four best frames, or the cosine with the mean of all, by loops."""
    scores, best = torch.zeros(len(texts), len(segments)), torch.zeros(len(texts), len(segments), dtype=torch.long)
    for row, text in enumerate(texts):
        for column, segment in enumerate(segments):
            cosines = [sum(float(a * b) for a, b in zip(text.sentence, frame, strict=True)) for frame in segment.frames]
            highest = sorted(cosines)[-4:]
            scores[row, column] = sum(highest) / len(highest)
            if kind == "mean":
                middle = sum(segment.frames) / len(segment.frames)
                scores[row, column] = sum(cosines) / len(cosines) / float(np.linalg.norm(middle))
            best[row, column] = cosines.index(max(cosines))
    return [scores], best


def make_all() -> tuple[list[TextEmbedding], list[SegmentEmbedding]]:
    return [make_text(text) for text in TEXTS], [make_segment(length, seed) for seed, length in enumerate(LENGTHS)]


def find_tolerances(kind: str, tokens: str) -> dict[str, float]:
    """Return the tolerance of each level of stored segments."""
    words = FLOAT16 if tokens == "float16" else INT8
    return dict.fromkeys(LEVELS[kind], FLOAT16) | {"words": words}


def test_every_training_free_ranker_is_tested() -> None:
    assert {kind for kind in LEVELS if not kind.startswith("trained")} == {*RERANKERS}


# Scores.


@pytest.mark.parametrize(
    ("kind", "tokens"), [*((kind, "int8") for kind in KINDS), ("ucofia", "float16"), ("trained ucofia", "float16")]
)
def test_stored_segments_score_as_the_aligner_scores_them(kind: str, tokens: str, tmp_path: Path) -> None:
    texts, segments = make_all()
    ranker = make_ranker(kind, tmp_path, tokens=tokens)
    ids = store_all(tmp_path / "index", segments, [ranker.pack(segment) for segment in segments])
    stored = score_stored(tmp_path / "index", ranker, texts, ids)
    levels, best = (
        naive_frames(kind, texts, segments) if kind in ("none", "mean") else score_directly(kind, texts, segments)
    )
    assert tuple(stored.scores) == tuple(ranker.weights) == LEVELS[kind]
    for (name, level), expected in zip(stored.scores.items(), levels, strict=True):
        np.testing.assert_allclose(level, expected.numpy(), atol=find_tolerances(kind, tokens)[name], rtol=0)
    assert np.array_equal(stored.best, best.numpy())


def test_half_precision_frames_and_no_frames_are_scored() -> None:
    texts, segments = make_all()
    sentences = np.stack([text.sentence for text in texts])
    halves = [segment.frames.astype(np.float16) for segment in segments]
    scores, _ = score_top_frames(sentences, [segment.frames for segment in segments])
    np.testing.assert_allclose(score_top_frames(sentences, halves)[0], scores, atol=5e-3)
    frames = sentences[[1, 0, 0, 0]] * np.array([[0.5], [1], [1 + 1e-7], [1]], np.float32)
    assert score_top_frames(sentences[:1], [frames])[1].tolist() == [[1]], "the first of equal frames is best"
    scores, best = score_top_frames(sentences, [])
    assert scores.shape == best.shape == (len(texts), 0)


@pytest.mark.parametrize("tokens", ["float16", "int8"])
def test_a_few_texts_score_without_torch_as_with_it(tokens: str, tmp_path: Path) -> None:
    texts, segments = make_all()
    ranker, twin = make_ranker("ucofia", tmp_path, tokens=tokens), UcofiaRanker("ucofia", Aligner(), tokens=tokens)
    assert ranker.fingerprint == twin.fingerprint == UNTRAINED_UCOFIA
    assert (ranker.temperature, ranker.weights) == (twin.temperature, twin.weights)
    packed, frames = [ranker.pack(segment) for segment in segments], [segment.frames for segment in segments]
    for packed_tokens in (packed, [b"", *packed[1:]]):
        few, many = ranker.score(texts[:FEW], packed_tokens, frames), twin.score(texts[:FEW], packed_tokens, frames)
        assert np.array_equal(few.best, many.best)
        for name, level in many.scores.items():
            np.testing.assert_allclose(few.scores[name], level, atol=2e-6, rtol=0)


def test_tokens_are_read_by_the_aligner_that_packed_them_alone(tmp_path: Path) -> None:
    _, segments = make_all()
    packer, other = make_ranker("ucofia", tmp_path), make_ranker("trained ucofia", tmp_path)
    packed = [packer.pack(segment) for segment in segments]
    ids = store_all(tmp_path / "index", segments, packed)
    with Store.open(tmp_path / "index") as store:
        pictures = PictureChannel(store, PatchEncoder(), packer, tokens="int8")
        assert [bytes(tokens) for tokens in pictures.read(packer, ids).tokens] == packed
        assert not any(pictures.read(other, ids).tokens)


def test_packing_is_reproducible_and_small(tmp_path: Path) -> None:
    _, segments = make_all()
    for kind in KINDS:
        ranker, again = make_ranker(kind, tmp_path), make_ranker(kind, tmp_path)
        assert [ranker.pack(segment) for segment in segments] == [again.pack(segment) for segment in segments]
    # The class token and three patches per frame, at 16 or 8 bits per number.
    sizes = {kind: len(make_ranker("ucofia", tmp_path, tokens=kind).pack(segments[2])) for kind in ("float16", "int8")}
    num_tokens = 4 * LENGTHS[2]
    assert sizes["float16"] == pytest.approx(2 * DIM * num_tokens, abs=64)
    assert sizes["int8"] == pytest.approx((DIM + 4) * num_tokens, abs=64)
    assert [len(make_ranker(kind, tmp_path).pack(segments[0])) for kind in ("none", "mean", "glscl")] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["ucofia", "glscl"])
def test_segments_without_tokens_use_frames_unless_the_aligner_is_trained(kind: str, tmp_path: Path) -> None:
    texts, segments = make_all()
    ids = store_all(tmp_path / "index", segments, [b""] * len(segments))
    stored = score_stored(tmp_path / "index", make_ranker(kind, tmp_path), texts, ids)
    bare = [replace(segment, tokens=None, token_lengths=None) for segment in segments]
    levels, best = score_directly(kind, texts, bare)
    for level, expected in zip(stored.scores.values(), levels, strict=True):
        np.testing.assert_allclose(level, expected.numpy(), atol=FLOAT16, rtol=0)
    assert np.array_equal(stored.best, best.numpy())
    trained = make_ranker(f"trained {kind}", tmp_path)
    with pytest.raises(
        AlignerError, match=r"safetensors: the index must be made with this aligner, got one without its tokens"
    ):
        score_stored(tmp_path / "index", trained, texts, ids)
    packed = trained.pack(segments[0])
    with pytest.raises(AlignerError, match="the index must be made with this aligner"):
        trained.score(texts, [packed, b""], [segments[0].frames, segments[1].frames])


def test_merged_tokens_are_all_packed_with_their_sizes(tmp_path: Path) -> None:
    texts, segments = make_all()
    rng, sizes = np.random.default_rng(0), np.array([1, 30, 2, 5, 1, 1, 20], np.float32)
    merged = []
    for cut in range(3):
        # Nearly equal, so that words weight tokens by the number of patches they are the mean of.
        segment = make_segment(1, cut)
        tokens = normalize(segment.frames[0] + 0.01 * rng.standard_normal((len(sizes) - cut, DIM)))[0]
        merged.append(replace(segment, tokens=tokens, sizes=sizes[cut:], token_lengths=None))
    ranker = make_ranker("ucofia", tmp_path)
    mixed = [*merged, segments[3]]
    ids = store_all(tmp_path / "index", mixed, [ranker.pack(segment) for segment in mixed])
    words = score_stored(tmp_path / "index", ranker, texts, ids).scores["words"]
    for column, segment in enumerate(mixed):
        levels, _ = score_directly("ucofia", texts, [segment])
        np.testing.assert_allclose(words[:, [column]], levels[2].numpy(), atol=FLOAT16, rtol=0)
    alike = [replace(segment, sizes=np.full(len(sizes) - cut, 2, np.float32)) for cut, segment in enumerate(merged)]
    levels, _ = score_directly("ucofia", texts, alike)
    assert np.abs(words[:, :3] - levels[2].numpy()).max(axis=0).min() > 5 * FLOAT16, "sizes matter"


# Loading.


def test_names_weights_and_temperatures_of_rankers(tmp_path: Path) -> None:
    rankers = {kind: make_ranker(kind, tmp_path) for kind in KINDS}
    assert [ranker.name for ranker in rankers.values()][:4] == ["none", "mean", "ucofia", "glscl"]
    assert rankers["trained ucofia"].name == str(tmp_path / "ucofia.safetensors")
    fingerprints = [ranker.fingerprint for ranker in rankers.values()]
    assert fingerprints[:2] == ["", ""], "nothing is packed"
    assert len(set(fingerprints)) == len(KINDS) - 1
    scale = find_cases("ucofia")[0].config["config"]["logit_scale"]
    assert rankers["trained ucofia"].temperature == pytest.approx(1 / np.exp(scale)), "1 of its logits"
    assert {rankers[kind].temperature for kind in KINDS if kind != "trained ucofia"} == {0.05}
    for kind in ("ucofia", "trained ucofia"):
        assert dict(rankers[kind].weights) == pytest.approx(dict.fromkeys(LEVELS[kind], 1 / 3))
    assert dict(rankers["trained glscl"].weights) == {"pooled": 1.0, "concepts": 0.5}, "as published"


def test_fingerprint_depends_only_on_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_ranker("trained ucofia", tmp_path)
    moved = tmp_path / "elsewhere.safetensors"
    (tmp_path / "ucofia.safetensors").rename(moved)
    assert load_ranker(str(moved), PatchEncoder(), tokens="int8").fingerprint == first.fingerprint
    monkeypatch.chdir(tmp_path)
    assert load_ranker(moved.name, PatchEncoder()).name == str(moved), "absolute"
    aligner = convert_golden("ucofia")
    assert isinstance(aligner, Aligner)
    assert aligner.temporal is not None
    with torch.no_grad():
        aligner.temporal.positions[0, 0] += 1
    save_aligner(aligner, moved)
    assert load_ranker(str(moved), PatchEncoder()).fingerprint != first.fingerprint


def test_new_index_uses_the_aligner_of_its_model(tmp_path: Path) -> None:
    model, plain = tmp_path / "model.v1.safetensors", PatchEncoder("ViT-B-32/laion2b_s34b_b79k")
    assert choose_ranker(PatchEncoder("starter")) == "ucofia"
    assert choose_ranker(plain) == choose_ranker(PatchEncoder(str(model))) == "none"
    aligner = tmp_path / "model.v1.aligner.safetensors"
    save_aligner(convert_golden("glscl"), aligner)
    assert choose_ranker(PatchEncoder(str(model))) == str(aligner)
    assert load_ranker("auto", PatchEncoder(str(model))).name == str(aligner)
    assert load_ranker("auto", plain).name == "none"


# Invalid arguments.


def test_invalid_names_are_rejected(tmp_path: Path) -> None:
    encoder = PatchEncoder()
    for name in ("colbert", "", str(tmp_path), str(tmp_path / "gone.safetensors")):
        with pytest.raises(AlignerError) as raised:
            load_ranker(name, encoder)
        assert (
            str(raised.value) == f"rerank must be auto, none, mean, ucofia, glscl or the file of an aligner, got {name}"
        )
    for name in ("none", "mean", "ucofia", "glscl"):
        with pytest.raises(AlignerError, match=r"^tokens must be int8 or float16, got int4$"):
            load_ranker(name, encoder, tokens="int4")
    with pytest.raises(AssertionError, match=r"^there must be a case for colbert, got none$"):
        make_untrained("colbert", encoder, "int8")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, other)
    with pytest.raises(AlignerError, match="not an aligner that this version of vidret supports"):
        load_ranker(str(other), encoder)


@pytest.mark.parametrize("kind", ["trained ucofia", "trained glscl"])
def test_trained_aligner_rejects_other_encoders(kind: str, tmp_path: Path) -> None:
    narrow = PatchEncoder("narrow")
    narrow.dim = 32
    with pytest.raises(AlignerError, match=r"safetensors: the encoder must have 64 dimensions, got narrow of 32$"):
        make_ranker(kind, tmp_path, encoder=narrow)
    ranker, segment = make_ranker(kind, tmp_path), make_segment(4)
    with pytest.raises(
        AlignerError, match="encoder of a trained aligner must be a vidret CLIP model, got one without lengths"
    ):
        ranker.pack(make_segment(4, raw=False))
    with pytest.raises(
        AlignerError, match="encoder of a trained aligner must be a vidret CLIP model, got one without raw"
    ):
        ranker.score([make_text("a dog", raw=False)], [ranker.pack(segment)], [segment.frames])
