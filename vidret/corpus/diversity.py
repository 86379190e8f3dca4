"""Diversity of vectors: the Vendi score, and the parts of it that texts explain and that the videos add.

References:
    Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning".
    Ospanov et al. 2024, "Dissecting CLIP: Decomposition with a Schur Complement-based Approach" (SCE).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vidret.corpus.phrases import list_bank, list_class_names
from vidret.corpus.vectors import encode_phrases, read_index_vectors
from vidret.encode.text_cache import TextEncoder
from vidret.errors import VidretError
from vidret.store.store import Store

FLOOR = 1e-10  # least eigenvalue, as published
CUTOFF = float(np.finfo(np.float32).eps)  # of singular values per dimension, relative to the largest, as published
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
MIN_RATIO = 2  # samples per dimension below which the estimate degenerates


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityParts:
    """The diversity of vectors given the text of each.

    Attributes:
        by_text: Diversity that the texts explain, 1 for none.
        by_corpus: Diversity that the vectors have beyond their texts, 1 for none.
        num_samples: Number of pairs.
        dim: Number of dimensions of the texts' features that vary.
        ridge: Ridge of the regression of vectors on texts.
        warning: The reason why the parts mean little, or None.
    """

    by_text: float
    by_corpus: float
    num_samples: int
    dim: int
    ridge: float
    warning: str | None


def compute_vendi(vectors: Float[np.ndarray, "sample dim"]) -> float:
    """Return the Vendi score of vectors under the cosine kernel: the effective number of different ones.

    It is the exponential of the entropy of the eigenvalues of the kernel divided by the number of samples. The
    covariance of the unit vectors has the same non-zero eigenvalues. Raise VidretError if there is no vector, or one is
    0 or not finite.
    """
    unit = _normalise(vectors)
    kernel = _covary(unit, unit) if len(unit) > unit.shape[1] else unit @ unit.T / len(unit)
    return compute_vendi_of_kernel(kernel)


def compute_vendi_of_kernel(kernel: Float[np.ndarray, "sample sample"]) -> float:
    """Return the Vendi score of a symmetric matrix with trace 1, such as a kernel divided by its number of samples."""
    values = np.maximum(np.linalg.eigvalsh(kernel.astype(np.float64)), FLOOR)
    return math.exp(-float((values * np.log(values)).sum()))


def split_diversity(
    texts: Float[np.ndarray, "sample text_dim"], vectors: Float[np.ndarray, "sample dim"], ridge: float | None = None
) -> DiversityParts:
    """Split the diversity of vectors into what their texts explain and what they add (SCE).

    With the uncentred covariances C, the explained part is E = Cyx (Cxx + ridge I)^-1 Cxy and the rest R = Cyy - E, the
    Schur complement. The diversity of a matrix with the eigenvalues l and their sum t is exp(-sum l log(l / t)).
    Features of texts and samples should have a length of about 1.

    By default, the ridge is the one of ``RIDGES`` with the least error on a held-out fifth. The published code has
    1e-12, which regularises nothing: with more dimensions than samples the rest vanishes. Raise VidretError if there
    are fewer than two pairs, or a value is not finite.
    """
    x, y = _check_finite(texts, "texts"), _check_finite(vectors, "vectors")
    if len(x) < 2:
        raise VidretError(f"diversity needs at least 2 pairs of text and video, got {len(x)}")
    chosen = choose_ridge(x, y) if ridge is None else ridge
    cxx, cxy, cyy = _covary(x, x), _covary(x, y), _covary(y, y)
    values, basis = np.linalg.eigh(cxx + chosen * np.eye(len(cxx)))
    kept = values > len(values) * CUTOFF * values[-1]
    projected = (basis[:, kept] / np.sqrt(values[kept])).T @ cxy
    explained = projected.T @ projected
    dim = int(np.linalg.matrix_rank(cxx, tol=len(cxx) * CUTOFF * float(values[-1]), hermitian=True))
    return DiversityParts(
        by_text=measure_spread(np.linalg.eigvalsh(explained)),
        by_corpus=measure_spread(np.linalg.eigvalsh(cyy - explained)),
        num_samples=len(x),
        dim=dim,
        ridge=chosen,
        warning=_warn(len(x), dim),
    )


def split_by_direction(
    vectors: Float[np.ndarray, "sample dim"], directions: Float[np.ndarray, "text dim"]
) -> DiversityParts:
    """Split the diversity of vectors into that along the directions of texts, and the rest.

    This is the split for a query. The text is the same for all samples, so its direction is removed without a
    regression.
    """
    y = _normalise(vectors)
    basis = np.linalg.svd(_check_finite(directions, "texts"), full_matrices=False)[2][: len(directions)]
    along = y @ basis.T
    rest = y - along @ basis
    return DiversityParts(
        by_text=measure_spread(np.linalg.eigvalsh(_covary(along, along))),
        by_corpus=measure_spread(np.linalg.eigvalsh(_covary(rest, rest))),
        num_samples=len(y),
        dim=len(basis),
        ridge=0.0,
        warning=_warn_few(*y.shape),
    )


def measure_spread(eigenvalues: Float[np.ndarray, " dim"]) -> float:
    """Return exp(-sum l log(l / t)) of eigenvalues l with the sum t: exp(t times the entropy of l / t)."""
    values = np.maximum(eigenvalues.astype(np.float64), FLOOR)
    return math.exp(-float((values * np.log(values / values.sum())).sum()))


def choose_ridge(texts: Float[np.ndarray, "sample text_dim"], vectors: Float[np.ndarray, "sample dim"]) -> float:
    """Return the ridge that predicts the vectors of a held-out fifth best from their texts; the largest on a tie."""
    held_out = np.arange(len(texts)) % 5 == 1
    values, basis = np.linalg.eigh(_covary(texts[~held_out], texts[~held_out]))
    projected = basis.T @ _covary(texts[~held_out], vectors[~held_out])
    inputs, wanted = texts[held_out] @ basis, vectors[held_out]
    inner, outer = inputs.T @ inputs, inputs.T @ wanted
    errors = {}
    for ridge in RIDGES:
        weights = projected / (np.maximum(values, 0) + ridge)[:, None]
        errors[ridge] = float(((inner @ weights - 2 * outer) * weights).sum())  # plus a constant
    return min(sorted(errors, reverse=True), key=errors.__getitem__)


def _covary(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the uncentred covariance."""
    covariance: np.ndarray = x.T @ y / len(x)
    return covariance


def _normalise(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as float64 with the length 1."""
    exact = _check_finite(vectors, "vectors")
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if not len(exact) or not lengths.all():
        zeros = np.count_nonzero(lengths == 0)
        raise VidretError(f"vectors must be one or more that are not 0, got {len(exact)}, {zeros} of them 0")
    unit: np.ndarray = exact / lengths
    return unit


def _check_finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return values as float64, if all are finite."""
    if not np.isfinite(values).all():
        num_rows = np.count_nonzero(~np.isfinite(values).all(axis=1))
        raise VidretError(f"{name} must be finite, got NaN or infinity in {num_rows} of {len(values)}")
    return values.astype(np.float64)


def _warn_few(num_samples: int, dim: int) -> str | None:
    """Return a warning if the number of samples bounds the diversity, else None."""
    if num_samples >= dim:
        return None
    return f"{num_samples} samples of {dim} dimensions have a diversity of at most {num_samples}: more may raise it"


def _warn(num_samples: int, dim: int) -> str | None:
    """Return a warning if a split of this many samples means little, else None."""
    if num_samples >= MIN_RATIO * dim:
        return None
    return (
        f"{num_samples} samples are too few for {dim} dimensions of text, which then explain almost anything: "
        f"{MIN_RATIO * dim} are needed"
    )


MAX_SAMPLES = 20_000  # segments of an index, drawn at random where it has more
MATCHES = 1000  # segments that a prompt matches


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDiversity:
    """Diversity of an index or of what matches a prompt: the effective number of different segments (Vendi score).

    Its parts are the diversity that the direction of the prompt explains, and the rest; without a prompt, the
    best-fitting class name of each segment explains the first part.
    """

    prompt: str | None
    num_segments: int
    vendi: float
    parts: DiversityParts


def measure_index_diversity(
    store: Store, encoder: TextEncoder, prompt: str | None = None, *, seed: int = 0
) -> IndexDiversity:
    """Measure the diversity of an index, or of the segments that match a prompt best.

    Raise VidretError if there are fewer than two segments, or a vector is not finite.
    """
    vectors = read_index_vectors(store)
    num_segments = len(vectors.segments)
    if num_segments < 2:
        raise VidretError(f"{store.path}: diversity needs at least 2 segments, got {num_segments}")
    if prompt is not None:
        text = encode_phrases(encoder, [prompt])
        scores = vectors.segments.astype(np.float32) @ text[0]
        chosen = vectors.segments[np.argsort(-scores, kind="stable")[:MATCHES]].astype(np.float32)
        parts = split_by_direction(chosen, text)
    else:
        drawn = np.random.default_rng(seed).permutation(num_segments)[:MAX_SAMPLES]
        chosen = vectors.segments[np.sort(drawn)].astype(np.float32)
        # Those of the class names, which come first: descriptions encode the whole list, and it is cached once.
        texts = encode_phrases(encoder, list_bank())[: len(list_class_names())]
        parts = split_diversity(texts[(chosen @ texts.T).argmax(axis=1)], chosen)
    return IndexDiversity(prompt=prompt, num_segments=num_segments, vendi=compute_vendi(chosen), parts=parts)
