"""Pairs of encoders: similarities that are means of both, names, consent, and an index that ranks by both."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import ColourEncoder, unit, write_film
from vidret.encode.encoder import check_encoder
from vidret.encode.families.pair import PairEncoder, resize_square
from vidret.encode.families.registry import is_elsewhere, load_encoder
from vidret.encode.names import parse_model_name
from vidret.engine import Engine
from vidret.errors import EncoderError
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

WARM, COLD = {"red": 1.0, "green": -1.0, "blue": -1.0}, {"red": -1.0, "green": -1.0, "blue": 1.0}


class OneColour(ColourEncoder):
    """An encoder that tells one colour from the two others only, at a size of its own."""

    known: dict[str, float] = WARM
    channel = 0
    size = 24
    has_frame_vectors = True
    scale = 10.0

    def __init__(self, whole: bool = False) -> None:
        super().__init__(f"knows {self.channel}")
        self.dim, self.resize, self.sizes = 2, Resize(shorter=self.size, crop=self.size), set[int]()
        self.sampling = Sampling(num_frames=4, fps=1.0, whole=whole)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = []
        for frames in batch:
            self.sizes.add(frames.pixels.shape[1])
            means = frames.pixels.mean(axis=(1, 2)) / 255
            rows = unit(np.stack([2 * means[:, self.channel] - 1, np.full(len(means), 0.5)], axis=1))
            if not self.has_frame_vectors:
                rows = np.repeat(unit(rows.mean(axis=0, keepdims=True)), len(rows), axis=0)
            embeddings.append(SegmentEmbedding(unit(rows.mean(axis=0, keepdims=True))[0], rows, frames.times))
        return embeddings

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        values = [next((value for colour, value in self.known.items() if colour in text), 0.0) for text in texts]
        return [
            TextEmbedding(text, row, row[None])
            for text, row in zip(texts, unit(np.array([[value, 0.5] for value in values])), strict=True)
        ]


class Warm(OneColour):
    pass


class Cold(OneColour):
    known, channel, size, scale = COLD, 2, 32, 30.0


class SegmentCold(Cold):
    has_frame_vectors = False


NAME = f"{__name__}:Warm + {__name__}:Cold"


@pytest.fixture
def films(tmp_path: Path) -> Path:
    for colour in ("red", "green", "blue"):
        write_film(tmp_path / f"films/{colour}.mp4", (colour, 4))
    write_film(tmp_path / "films/all.mp4", ("green", 4), ("red", 4))
    return tmp_path / "films"


@pytest.mark.wrong_shapes
def test_a_similarity_is_the_mean_of_both_weighted_by_their_scales() -> None:
    first, second = Warm(), Cold()
    pair: Any = PairEncoder(first, second)
    check_encoder(pair)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    frames, small = (Frames(images, np.arange(3.0)) for images in (pixels, resize_square(pixels, 24)))
    embedding, text = pair.encode_frames([frames])[0], pair.encode_text(["something red"])[0]
    one = first.encode_frames([small])[0].frames @ first.encode_text(["red"])[0].sentence
    two = second.encode_frames([frames])[0].frames @ second.encode_text(["red"])[0].sentence
    weights = np.array([10, 30]) / np.hypot(10, 30) / np.sqrt(2)
    np.testing.assert_allclose(embedding.frames @ text.sentence, weights[0] * one + weights[1] * two, atol=1e-6)
    assert (pair.dim, pair.resize.crop, first.sizes, second.sizes) == (4, 32, {24}, {32})


@pytest.mark.wrong_shapes
def test_an_index_of_a_pair_tells_what_neither_tells(films: Path, tmp_path: Path) -> None:
    with Engine.open(tmp_path / "index", encoder=NAME) as engine:
        assert not engine.index([films], workers=1).failed
    with Engine.open(tmp_path / "index") as engine:
        assert engine.encoder.name == NAME
        for colour in ("red", "green", "blue"):
            assert Path(engine.search(f"something {colour}", 1)[0].path).stem in (colour, "all")
        hits = {Path(hit.path).stem: hit.score for hit in engine.search("green", 4)}
        assert min(hits["green"], hits["all"]) > max(hits["red"], hits["blue"])
        moment = engine.locate("red", 1, video=films / "all.mp4")[0]
        assert [moment.start, moment.end] == pytest.approx([4, 8], abs=0.6)


@pytest.mark.wrong_shapes
def test_moments_come_from_the_one_that_sees_frames(films: Path, tmp_path: Path) -> None:
    name = f"{__name__}:Warm + {__name__}:SegmentCold"
    with Engine.open(tmp_path / "index", encoder=name) as engine:
        assert not engine.index([films], workers=1).failed
        moment = engine.locate("red", 1, video=films / "all.mp4")[0]
        assert [moment.start, moment.end] == pytest.approx([4, 8], abs=0.6)
        assert Path(engine.search("blue", 1)[0].path).stem == "blue"


def test_names_of_pairs() -> None:
    name = "ViT-B-16/openai#merge=half + starter#whole"
    assert str(parse_model_name(name)) == name
    assert parse_model_name(name).whole
    whole: Any = load_encoder(f"{NAME}#whole")
    assert whole.name == f"{NAME}#whole"
    assert whole.sampling.whole
    assert is_elsewhere("starter + package.module:Class")
    assert not is_elsewhere("starter + ViT-B-32/random")
    with pytest.raises(EncoderError, match="a pair must have two models, got 3"):
        load_encoder("starter + starter + starter")
    with pytest.raises(EncoderError, match="must both see whole videos, or segments"):
        PairEncoder(Warm(), Cold(whole=True))


@pytest.mark.wrong_shapes
def test_what_a_pair_cannot_do_is_said(caplog: pytest.LogCaptureFixture) -> None:
    squashing = Cold()
    squashing.resize = Resize(shorter=32, crop=32, squash=True)
    with caplog.at_level(logging.WARNING):
        pair = PairEncoder(Warm(), squashing)
    assert "sees frames cut as for" in caplog.text
    with pytest.raises(EncoderError, match="rerank must be none or mean for a pair"):
        pair.encode_frames([], tokens=True)
    assert PairEncoder(Warm(), Cold()).fingerprint != PairEncoder(Cold(), Warm()).fingerprint
