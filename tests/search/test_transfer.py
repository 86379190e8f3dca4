"""Evidence of pictures means the same with every encoder: what cosines another has, and how far apart they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import make_text, write_mosaics
from vidret.channels.picture.query_bank import UNRELATED
from vidret.channels.picture.ranking import FrameRanker
from vidret.encode.encoder import Encoder
from vidret.engine import Engine
from vidret.types import Frames, Hit, Moment, Resize, Sampling, SegmentEmbedding, TextEmbedding

DIM = 64


class SignEncoder:
    """Random vectors of signs, which float16 holds exactly, so that scores have no rounding to tell them apart.

    Vectors have parts that all share and parts that only texts or only frames have, so that cosines are those of the
    signs, scaled and shifted.

    Args:
        name: Its name.
        scale: What to multiply vectors of signs by; its square scales their cosines. A power of two.
        shared: What all vectors share, by dimension; its square shifts all cosines.
        own: What texts, and what frames, have besides to be of length 1.
    """

    resize = Resize(shorter=32, crop=32, interpolation="bilinear")
    sampling = Sampling(num_frames=4, fps=1.0)

    def __init__(self, name: str, scale: float = 1.0, shared: Sequence[float] = (), own: Sequence[float] = ()) -> None:
        """Set how cosines are related to those of the signs."""
        self.name, self.fingerprint = name, f"{name}-1"
        self._scale, self._shared, self._own = scale, tuple(shared), tuple(own)
        self.dim = DIM + len(shared) + 2 * len(own)
        assert scale**2 + sum(weight**2 for weight in (*shared, *own)) == 1

    def _widen(self, signs: np.ndarray, *, is_text: bool) -> np.ndarray:
        unshared, none = self._own, (0.0,) * len(self._own)
        parts = (*self._shared, *((*unshared, *none) if is_text else (*none, *unshared)))
        rows = np.concatenate([signs * self._scale / DIM**0.5, np.tile(parts, (len(signs), 1))], axis=1)
        return rows.astype(np.float32)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        random = np.random.default_rng(0).standard_normal((3 * 16, DIM))
        embeddings = []
        for frames in batch:
            blocks = frames.pixels.reshape(len(frames), 4, 8, 4, 8, 3).mean(axis=(2, 4)) - 128
            rows = self._widen(np.where(blocks.reshape(len(frames), -1) @ random > 0, 1.0, -1.0), is_text=False)
            embeddings.append(SegmentEmbedding(rows[0], rows, frames.times))
        return embeddings

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        signs = np.stack([np.where(make_text(text).sentence > 0, 1.0, -1.0) for text in texts])
        rows = self._widen(signs, is_text=True)
        return [TextEmbedding(text, row, row[None]) for text, row in zip(texts, rows, strict=True)]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mosaics(tmp_path_factory.mktemp("films"), (3, 3, 3, 3, 9))


def make_index(encoder: Encoder, films: Path, folder: Path) -> Engine:
    engine = Engine(folder / encoder.name, encoder)
    engine.index([films], words=False, shots=False, workers=1)
    return engine


def list_hits(hits: Sequence[Hit]) -> list[tuple[float | None, ...]]:
    return [(hit.video, hit.time, hit.score, hit.probability, hit.weak) for hit in hits]


def list_moments(moments: Sequence[Moment]) -> list[tuple[float | None, ...]]:
    """Return what does not depend on the unit of the curve, which is that of the scores."""
    return [(moment.video, moment.start, moment.end, moment.probability, moment.weak) for moment in moments]


def test_encoder_with_scaled_and_shifted_scores_gives_the_same_results(films: Path, tmp_path: Path) -> None:
    narrow = SignEncoder("narrow", 0.25, shared=(0.875, 0.25), own=(0.25, 0.125, 0.125, 0.125))
    with make_index(SignEncoder("signs"), films, tmp_path) as one, make_index(narrow, films, tmp_path) as other:
        scales = [engine._index.pictures.find_scale(FrameRanker()) for engine in (one, other)]
        assert scales[1].deviation == pytest.approx(scales[0].deviation / 16, rel=1e-4)
        assert abs(scales[1].mean - scales[0].mean) > 0.2
        for query in ("a dog", "rain -dog", "a cat and then the sea", "red", *UNRELATED[:8]):
            found, expected = (list_hits(engine.search(query)) for engine in (other, one))
            assert len(found) == 5
            assert np.array(found, np.float64) == pytest.approx(np.array(expected, np.float64), abs=1e-6)
            places, wanted = (list_moments(engine.locate(query, video="4.mp4")) for engine in (other, one))
            assert np.array(places, np.float64) == pytest.approx(np.array(wanted, np.float64), abs=1e-6)
