"""Training for grounding: R2-Tuning's head on the layers of a frozen encoder, as a Lightning module."""

import json
import math
from typing import Any

import numpy as np
from torch import Tensor

from vidret.data.benchmarks.registry import RECIPES
from vidret.data.grounding import GroundingBatch
from vidret.data.module import GroundingData
from vidret.errors import VidretError
from vidret.ground.checkpoint import HeadCard, HeadRecipe
from vidret.ground.head import GroundingHead
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.spans import overlap
from vidret.train.grounding_losses import find_positive, head_losses, predict
from vidret.train.module import ModelDescription, TrainedModule, check_rates
from vidret.train.optim import r2_optimizer

THRESHOLDS = (0.3, 0.5, 0.7)


class GroundingModule(TrainedModule):
    """R2-Tuning. Checkpoints are selected by ``val/R1@0.5``, or ``val/hit@1`` without boundaries.

    Args:
        backbone: Encoder whose layers the head reads; stored in the card.
        width: Width of the vision tower's layers.
        text_width: Width of the text tower's layers.
        dim: Width of the head.
        num_layers: Number of last encoder layers that the head reads.
        heads: Attention heads of the temporal layers.
        strides: Strides of the pyramid levels.
        tef: Whether tokens include the temporal endpoint feature.
        boundaries: Whether to predict spans, not highlights only.
        dropout: See ``GroundingHead``.
        drop_path: See ``GroundingHead``.
        motion: See ``GroundingHead``.
        recipe: Benchmark whose frame rate, rounding and suppression the exported head uses.
        fps: Frame rate instead of the recipe's.
        unit: Rounding in seconds instead of the recipe's; 0 for none.
        lr: Learning rate.
        drop_at: Epoch at which the rate falls to a tenth; needs ``max_epochs`` of the trainer.
        warm_up: Number of steps in which the rate rises.
        saliency_weight: Weight of the saliency loss: 0.1; 0.01 for Charades-STA and 0.05 for TACoS.
        across_samples: Whether the saliency loss also compares samples; off for YouTube Highlights and TVSum.
        seed: Seed of the positive frames and of dropout.
        similarity_weight: Weight of the backbone's similarity in the scores of the exported head's spans; 0 for none,
            as published. Validation is without it. See ``weigh_by_similarity``.
        join: Whether to export the backbone's file with the head in it, not only the head; the backbone must be a file
            of vidret.
        out: Path of the exported head (.safetensors), written at the end.
    """

    def __init__(
        self,
        *,
        backbone: str = "ViT-B-32-quickgelu/openai",
        width: int = 768,
        text_width: int = 512,
        dim: int = 256,
        num_layers: int = 4,
        heads: int = 8,
        strides: tuple[int, ...] = (1, 2, 4, 8),
        tef: bool = True,
        boundaries: bool = True,
        dropout: float = 0.5,
        drop_path: float = 0.1,
        motion: int = 0,
        recipe: str = "qvhighlights",
        fps: float | None = None,
        unit: float | None = None,
        lr: float = 5e-4,
        drop_at: int | None = None,
        warm_up: int = 500,
        saliency_weight: float = 0.1,
        across_samples: bool = True,
        seed: int = 0,
        similarity_weight: float = 0.0,
        join: bool = False,
        out: str | None = None,
    ) -> None:
        super().__init__(seed=seed, out=out)
        check_rates(lr=lr)
        self.head = GroundingHead(
            width,
            text_width,
            dim,
            num_layers=num_layers,
            heads=heads,
            strides=strides,
            tef=tef,
            boundaries=boundaries,
            dropout=dropout,
            drop_path=drop_path,
            motion=motion,
        )
        if recipe not in RECIPES:
            raise VidretError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe}")
        if not 0 <= similarity_weight < math.inf or (similarity_weight and not boundaries):
            raise VidretError(
                f"similarity_weight must be at least 0, and 0 without boundaries, got {similarity_weight}"
            )
        if drop_at is not None and drop_at < 1:
            raise VidretError(f"drop_at must be at least 1, got {drop_at}")
        for name, value in (("warm_up", warm_up), ("saliency_weight", saliency_weight)):
            if not 0 <= value < math.inf:
                raise VidretError(f"{name} must be at least 0, got {value}")
        settings = _adapt_recipe(RECIPES[recipe], fps=fps, unit=unit)
        self.card = HeadCard.describe(self.head, backbone=backbone, similarity_weight=similarity_weight, **settings)
        self.card.check()
        self.fps, self._join = self.card.fps or 0.5, join
        self._lr, self._drop_at, self._warm_up = lr, drop_at, warm_up
        self._saliency_weight, self._across = saliency_weight, across_samples

    def setup(self, stage: str) -> None:
        """Check that the data have the layers of the head's encoder, at its frame rate.

        Raises:
            VidretError: They do not.
        """
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, GroundingData):
            data.check_fit(fps=self.fps, num_layers=self.card.num_layers, backbone=self.card.backbone)

    def training_step(self, batch: GroundingBatch, _batch_index: int) -> Tensor:
        """Return the loss of a batch. Unlike in retrieval, it covers only the samples of this process."""
        weights = {"saliency_weight": self._saliency_weight, "across_samples": self._across}
        terms = head_losses(self.head, batch, self._generator, fps=self.fps, **weights)
        return self.log_terms(terms, len(batch.queries))

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimiser and schedule.

        Raises:
            VidretError: ``drop_at`` is given, but the trainer has no ``max_epochs``, or its loader no length.
        """
        epochs = self.trainer.max_epochs or -1
        if self._drop_at is not None and epochs < 1:
            raise VidretError(f"max_epochs must be given if drop_at is, got only drop_at {self._drop_at}")
        drop_at = None if self._drop_at is None else self._drop_at * self._count_epoch_steps()
        optimizer, schedule = r2_optimizer(self.head, lr=self._lr, drop_at=drop_at, warm_up=self._warm_up)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _count_epoch_steps(self) -> int:
        """Return the number of steps of a full epoch, even if the trainer's ``max_steps`` is lower."""
        self.count_steps()  # loads the batches
        if self.trainer.num_training_batches == math.inf:
            raise VidretError("training batches must have a number for drop_at, got a loader without a length")
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    def validation_step(self, batch: GroundingBatch, _batch_index: int) -> None:
        """Store the highest overlap of each query's first span with a labelled one.

        For a head for highlights only, store 1 or 0: whether the most salient frame is positive.
        """
        output = predict(self.head, batch)
        is_positive = find_positive(batch.saliency, batch.frame_mask, highlights=True)
        for row, result in enumerate(self.head.decode(output, fps=self.fps)):
            if output.distances is None:
                self._evaluated.append(float(is_positive[row, int(np.argmax(result.saliency))]))
                continue
            spans = postprocess_spans(result, self.card, duration=float(batch.durations[row]))
            labelled = batch.spans[row, batch.span_mask[row]].cpu().numpy()
            best = 0.0
            if spans and len(labelled):
                best = float(overlap(labelled[:, 0], labelled[:, 1], spans[0].start, spans[0].end).max())
            self._evaluated.append(best)

    test_step = validation_step

    def summarize(self, evaluated: list[float]) -> dict[str, float]:
        """Return recalls and the mean overlap in percent; for a head for highlights only, the rate of hits."""
        overlaps = np.array(evaluated)
        if self.head.boundaries is None:
            return {"hit@1": 100 * float(overlaps.mean())}
        recalls = {f"R1@{limit}": 100 * float((overlaps >= limit).mean()) for limit in THRESHOLDS}
        return recalls | {"mIoU": 100 * float(overlaps.mean())}

    def describe(self) -> ModelDescription:
        """Return the card of the head, for ``--head``, or of the head joined to its backbone, for ``--model``."""
        description: ModelDescription = {"card": json.loads(self.card.to_json()), "weights": "head.", "parts": {}}
        return {**description, "backbone": self.card.backbone} if self._join else description


def _adapt_recipe(recipe: HeadRecipe, *, fps: float | None, unit: float | None) -> HeadRecipe:
    """Return a recipe with another frame rate or rounding; a rounding of 0 means none."""
    adapted: HeadRecipe = {**recipe}
    adapted["fps"] = fps if fps is not None else recipe.get("fps")
    if unit is not None:
        adapted["unit"] = unit or None
    return adapted
