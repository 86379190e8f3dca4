"""Geodesic mixing: points between a text and its video on the sphere, which are harder negatives than either.

CLIP keeps texts and videos in two caps of the sphere, far from each other. What lies between the caps is close to
both, and pushing it away fills the gap.

Reference: Oh et al. 2023, "Geodesic Multi-Modal Mixup for Robust Fine-Tuning", section 4 (m2-Mix).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

NEAR = 1e-4  # 1 - cosine below which the arc is too short to divide by its sine
OPPOSITE = -1 + 1e-6  # the lowest cosine computed with: between opposite points no arc is the shortest


def mix(
    texts: Float[Tensor, "pair dim"], videos: Float[Tensor, "pair dim"], shares: Float[Tensor, " pair"]
) -> Float[Tensor, "pair dim"]:
    """Give the point of each pair's shortest arc at which the text has its share of the angle; of unit length.

    (sin(share angle) text + sin((1 - share) angle) video) / sin(angle): a share of 1 is the text, 0 the video. Between
    exactly opposite vectors there is no one shortest arc: what comes out then is finite and means nothing.

    Args:
        texts: Of any length but 0.
        videos: The same.
        shares: Within 0..1.

    Reference: equation 3; Shoemake 1985, "Animating Rotation with Quaternion Curves", section 3.3.
    """
    texts, videos = functional.normalize(texts, dim=-1), functional.normalize(videos, dim=-1)
    cosines = (texts * videos).sum(dim=-1)
    return weigh(shares, cosines)[:, None] * texts + weigh(1 - shares, cosines)[:, None] * videos


def weigh(shares: Float[Tensor, " pair"], cosines: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Give sin(share angle) / sin(angle) for the angle of a cosine.

    For short arcs from its series in angle^2 = 2 (1 - cosine), where neither it nor its slope divides by nothing.
    """
    is_near = cosines > 1 - NEAR
    angles = cosines.masked_fill(is_near, 0).clamp(min=OPPOSITE).acos()  # no slope at 1 may reach what is near
    series = shares * (1 + (1 - shares.square()) * (1 - cosines) / 3)
    return torch.where(is_near, series, (shares * angles).sin() / angles.sin())


def draw_shares(num_pairs: int, generator: torch.Generator, *, alpha: float = 0.5) -> Float[Tensor, " pair"]:
    """Draw the texts' shares from Beta(alpha, alpha): near 0 and 1 below 1, even at 1, near 1/2 above.

    Processes that mix the same gathered pairs must draw from the same seed.

    Raises:
        ValueError: ``alpha`` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, num_pairs)).float()
