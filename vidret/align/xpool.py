"""X-Pool's pooling: a text attends to the frames of a video, which gives the video another vector for every text.

Reference: Gorti et al. 2022, "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval", section 4.3.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

DROPOUT = 0.3  # as published


class FrameAttention(nn.Module):
    """Cross-attention with a single head, and a layer after it; all projections start as identities, as published.

    Texts and frames keep the norms that the encoder gave them. Both are normalised by one layer norm.
    """

    def __init__(self, dim: int, *, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.norm, self.norm_pooled, self.norm_out = (nn.LayerNorm(dim) for _ in range(3))
        self.query, self.key, self.value, self.out, self.linear = (nn.Linear(dim, dim) for _ in range(5))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for layer in (self.query, self.key, self.value, self.out, self.linear):
                layer.weight.copy_(torch.eye(dim))
                layer.bias.zero_()

    def prepare(self, frames: Float[Tensor, "video frame dim"]) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of frames, each (video, frame, dim).

        Values are projected to the output here, not after they are summed: weights add up to 1.
        """
        normed = self.norm(frames)
        return self.key(normed), self.out(self.value(normed))

    def forward(
        self,
        sentences: Float[Tensor, "text dim"],
        keys: Float[Tensor, "video frame dim"],
        values: Float[Tensor, "video frame dim"],
        bias: Float[Tensor, "video frame"],
    ) -> tuple[Float[Tensor, "video text dim"], Float[Tensor, "video text frame"]]:
        """Return the vector of each video for each text, and the weights of its frames; ``bias`` excludes padding."""
        queries = self.query(self.norm(sentences))
        weights = (queries @ keys.mT / math.sqrt(keys.shape[-1]) + bias[:, None]).softmax(dim=-1)
        pooled = self.norm_pooled(weights @ values)
        return self.norm_out(pooled + self.dropout(self.linear(pooled))), weights
