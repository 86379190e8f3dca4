"""Geodesic mixing: points on the sphere between a text and its video, which are harder negatives than either.

CLIP keeps texts and videos in two distant regions of the sphere. Points between the regions are close to both, and
pushing them away closes the gap.

Reference: Oh et al. 2023, "Geodesic Multi-Modal Mixup for Robust Fine-Tuning", section 4 (m2-Mix).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

NEAR = 1e-4  # 1 - cosine below which the series is used, since the sine of the angle is too small to divide by
OPPOSITE = -1 + 1e-6  # lowest cosine; opposite points have no unique shortest arc


def mix(
    texts: Float[Tensor, "pair dim"], videos: Float[Tensor, "pair dim"], mixing_weights: Float[Tensor, " pair"]
) -> Float[Tensor, "pair dim"]:
    """Interpolate between the text and the video of each pair along their shortest arc (slerp).

    (sin(w angle) text + sin((1 - w) angle) video) / sin(angle): a mixing weight w of 1 is the text, 0 the video. The
    result has unit length. For exactly opposite vectors it is finite but arbitrary, since no shortest arc is unique.

    Args:
        texts: Vectors of any length but 0.
        videos: Vectors of any length but 0.
        mixing_weights: Weight of the text in each pair, in 0..1.

    Reference: equation 3; Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3.3.
    """
    texts, videos = functional.normalize(texts, dim=-1), functional.normalize(videos, dim=-1)
    cosines = (texts * videos).sum(dim=-1)
    return (
        slerp_factor(mixing_weights, cosines)[:, None] * texts
        + slerp_factor(1 - mixing_weights, cosines)[:, None] * videos
    )


def slerp_factor(weights: Float[Tensor, " pair"], cosines: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Compute sin(weight angle) / sin(angle) for the angle of a cosine.

    Short arcs use the series in angle^2 = 2 (1 - cosine), in which neither the value nor its gradient divides by 0.
    """
    is_near = cosines > 1 - NEAR
    angles = cosines.masked_fill(is_near, 0).clamp(min=OPPOSITE).acos()  # the gradient of acos at 1 is infinite
    series = weights * (1 + (1 - weights.square()) * (1 - cosines) / 3)
    return torch.where(is_near, series, (weights * angles).sin() / angles.sin())


def draw_mixing_weights(num_pairs: int, generator: torch.Generator, *, alpha: float = 0.5) -> Float[Tensor, " pair"]:
    """Draw the weights of the texts from Beta(alpha, alpha).

    An ``alpha`` below 1 favours weights near 0 and 1, 1 is uniform, and above 1 favours weights near 1/2. Processes
    that mix the same gathered pairs must draw from the same seed.

    Raises:
        ValueError: ``alpha`` is not positive.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, num_pairs)).float()
