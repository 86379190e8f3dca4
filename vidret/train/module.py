"""What the Lightning modules of vidret share: random numbers that a resumed run draws again."""

from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch


class SeededModule(lightning.LightningModule):
    """A module whose steps draw from generators seeded by the number of the batch.

    Dropout, noise and mixtures then depend on the seed and the batch only, not on what was drawn before, so that a
    checkpoint need not hold the states of generators.
    """

    def __init__(self, seed: int) -> None:
        """Set the seed of all that training draws."""
        super().__init__()
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed PyTorch's generators, in each process differently, and the generator that all processes share."""
        number = max(0, self.trainer.fit_loop.total_batch_idx)
        torch.manual_seed(_mix(self._seed, number, 1 + self.global_rank))
        self._generator.manual_seed(_mix(self._seed, number, 0))


def _mix(*numbers: int) -> int:
    """Return a seed that depends on all numbers."""
    return int(np.random.default_rng(numbers).integers(2**62))
