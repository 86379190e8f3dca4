"""Long-CLIP's loss: whole texts against videos, and their first sentences against the videos' primary components.

Reference: Zhang et al. 2024, "Long-CLIP: Unlocking the Long-Text Capability of CLIP", section 3.3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from vidret.train.losses import promote_half, retrieval_loss

NUM_COMPONENTS, SMOOTHING = 32, 0.1


class PrimaryLosses(NamedTuple):
    """The loss of whole texts, and that of first sentences."""

    whole: Float[Tensor, ""]
    first: Float[Tensor, ""]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Return the loss to minimise."""
        return self.whole + self.first


def primary_losses(
    videos: Float[Tensor, "pair dim"],
    texts: Float[Tensor, "pair dim"],
    first_sentences: Float[Tensor, "pair dim"],
    logit_scale: Float[Tensor, ""],
    *,
    same: Bool[Tensor, "pair pair"] | None = None,
    num_components: int = NUM_COMPONENTS,
    smoothing: float = SMOOTHING,
) -> PrimaryLosses:
    """Contrast texts with videos, and first sentences with what few components keep of the videos.

    Args:
        videos: Vectors of any length but 0.
        texts: Vectors of the whole texts.
        first_sentences: Vectors of their first sentences.
        logit_scale: Logarithm of the factor of the cosines.
        same: See ``retrieval_loss``.
        num_components: Number of components.
        smoothing: See ``contrast_rows``.
    """
    with torch.autocast(videos.device.type, enabled=False):
        videos, texts, firsts = (
            functional.normalize(promote_half(vectors), dim=-1) for vectors in (videos, texts, first_sentences)
        )
        scale = promote_half(logit_scale).exp()
        reduced = keep_components(videos, num_components)
        return PrimaryLosses(
            retrieval_loss(scale * texts @ videos.T, same=same, smoothing=smoothing),
            retrieval_loss(scale * firsts @ reduced.T, same=same, smoothing=smoothing),
        )


def keep_components(vectors: Float[Tensor, "pair dim"], num_components: int) -> Float[Tensor, "pair dim"]:
    """Return what the first principal components of a batch keep of its vectors, whose lengths change a little.

    A batch of at most ``num_components`` + 1 vectors is returned as it is, since it has no further components.
    """
    if len(vectors) <= num_components + 1:
        return vectors
    mean = vectors.mean(dim=0)
    components: Tensor = torch.linalg.svd(vectors - mean, full_matrices=False).Vh[:num_components]
    return mean + (vectors - mean) @ components.T @ components
