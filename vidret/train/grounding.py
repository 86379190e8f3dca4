"""Training for grounding: R2-Tuning's head on a frozen encoder's layers, its losses, and the recall it is chosen by."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from vidret.data.grounding import GroundingBatch
from vidret.errors import VidretError
from vidret.ground.checkpoint import RECIPES, HeadCard, HeadRecipe, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.spans import overlap
from vidret.train import optim
from vidret.train.gather import gather_objects
from vidret.train.grounding_losses import grounding_loss
from vidret.train.targets import draw_positive, find_targets

THRESHOLDS = (0.3, 0.5, 0.7)


class GroundingModel(nn.Module):
    """The head, under the name that the recipe knows it by."""

    def __init__(self, head: GroundingHead) -> None:
        super().__init__()
        self.head = head


class GroundingModule(lightning.LightningModule):
    """R2-Tuning in training; ``val/R1@0.5`` is what a checkpoint is chosen by."""

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
        as_published: bool = False,
        recipe: Literal["qvhighlights", "charades", "ego4d", "tacos", "youtube", "tvsum"] = "qvhighlights",
        fps: float | None = None,
        unit: float | None = None,
        lr: float = 5e-4,
        drop_at: int | None = None,
        warm_up: int = 500,
        saliency_weight: float = 0.1,
        across_samples: bool = True,
        seed: int = 0,
        out: str | None = None,
    ) -> None:
        """Build the head.

        Args:
            backbone: The encoder whose layers it reads; for the card.
            width: Of the vision tower's layers.
            text_width: Of the text tower's layers.
            dim: Of the head.
            num_layers: How many of the encoder's last layers it walks.
            heads: Of its attention over time.
            strides: Its levels.
            tef: Tell tokens when their frame is.
            boundaries: Find spans, not highlights alone.
            dropout: See ``GroundingHead``.
            drop_path: See ``GroundingHead``.
            as_published: See ``GroundingHead``.
            recipe: The benchmark whose frame rate, rounding and suppression the result is used with.
            fps: Another frame rate than the recipe's.
            unit: Another rounding; 0 for none.
            lr: The rate.
            drop_at: The epoch from which on the rate is a tenth; the trainer must know how many there will be.
            warm_up: Steps in which it rises.
            saliency_weight: Of the saliency loss: 0.1, for Charades-STA 0.01, for TACoS 0.05.
            across_samples: Whether that loss also compares samples; off for YouTube Highlights and TVSum.
            seed: Of the frames drawn.
            out: Where the chosen head is written at the end, as a .safetensors file with its card.
        """
        super().__init__()
        self.model = GroundingModel(
            GroundingHead(
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
                as_published=as_published,
            )
        )
        chosen: HeadRecipe = {**RECIPES[recipe]}
        chosen["fps"] = fps if fps is not None else chosen.get("fps")
        if unit is not None:
            chosen["unit"] = unit or None
        self.card = HeadCard.describe(self.model.head, backbone=backbone, **chosen)
        self.fps, self.out = self.card.fps or 0.5, out
        self._lr, self._drop_at, self._warm_up = lr, drop_at, warm_up
        self._saliency_weight, self._across = saliency_weight, across_samples
        self._generator = torch.Generator().manual_seed(seed)
        self._overlaps: list[float] = []

    def _ask(self, batch: GroundingBatch) -> Any:
        mapped = self.model.head.prepare(
            batch.layers, mask=batch.frame_mask, token_masks=batch.token_masks, sizes=batch.sizes
        )
        return self.model.head(mapped, batch.words, word_mask=batch.word_mask)

    def training_step(self, batch: GroundingBatch, _number: int) -> Tensor:
        """Give the loss of a batch."""
        output = self._ask(batch)
        targets = None
        if output.distances is not None:
            num_frames = batch.frame_mask.sum(dim=1)
            targets = find_targets(output.points, batch.spans, batch.span_mask, num_frames, fps=self.fps)
        positive = draw_positive(batch.saliency.cpu(), batch.frame_mask.cpu(), self._generator).to(self.device)
        losses = grounding_loss(
            output,
            targets=targets,
            saliency=batch.saliency,
            positive=positive,
            saliency_weight=self._saliency_weight,
            across_samples=self._across,
        )
        terms = {f"loss/{name}": term.detach() for name, term in losses._asdict().items()}
        self.log_dict(terms, batch_size=len(batch.queries))
        self.log("loss", losses.total.detach(), prog_bar=True, batch_size=len(batch.queries))
        return losses.total

    def configure_optimizers(self) -> Any:
        """Give the recipe's optimiser and schedule.

        Raises:
            VidretError: The rate drops at an epoch, and how many there are is not given.
        """
        epochs = self.trainer.max_epochs or -1
        if self._drop_at is not None and epochs < 1:
            raise VidretError(f"max_epochs must be given where drop_at is, got drop_at {self._drop_at} alone")
        steps = int(self.trainer.estimated_stepping_batches)
        drop_at = None if self._drop_at is None else steps * self._drop_at // epochs

        def rule(name: str) -> optim.Setting | None:
            return optim.r2_tuning_rule(name, lr=self._lr)

        optimizer, schedule = optim.r2_optimizer(self.model, drop_at=drop_at, rule=rule, warm_up=self._warm_up)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, batch: GroundingBatch, _number: int) -> None:
        """Keep how far the first span of each query overlaps the best true one; highlights: whether the best hits."""
        output = self._ask(batch)
        for row, answer in enumerate(self.model.head.decode(output, fps=self.fps)):
            if output.distances is None:
                self._overlaps.append(float(batch.saliency[row, int(np.argmax(answer.saliency))] > 0))
                continue
            spans = postprocess_spans(answer, self.card, duration=float(batch.durations[row]))
            true = batch.spans[row, batch.span_mask[row]].cpu().numpy()
            best = 0.0
            if spans and len(true):
                best = float(overlap(true[:, 0], true[:, 1], spans[0].start, spans[0].end).max())
            self._overlaps.append(best)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log recalls and the mean overlap."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """Log recalls and the mean overlap."""
        self._measure("test")

    def _measure(self, stage: str) -> None:
        overlaps = gather_objects(self._overlaps)
        self._overlaps = []
        if overlaps:
            array = np.array(overlaps)
            numbers = {f"{stage}/R1@{limit}": 100 * float((array >= limit).mean()) for limit in THRESHOLDS}
            self.log_dict(numbers | {f"{stage}/mIoU": 100 * float(array.mean())}, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of what is drawn, too, so that a resumed run draws the same."""
        checkpoint["generator"] = self._generator.get_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on drawing where the run stopped."""
        self._generator.set_state(checkpoint["generator"].cpu())

    def export(self, path: Path) -> None:
        """Write the head as ``vidret locate --head`` takes it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_head(self.model.head, self.card, path)
