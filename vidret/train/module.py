"""The base of vidret's Lightning modules: seeded steps, metrics, and the export of the trained model."""

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NotRequired, TypedDict

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor

from vidret.channels.picture.joint import join_files
from vidret.data.benchmarks.splits import list_some
from vidret.data.records import video_stem
from vidret.data.stages import SplitData
from vidret.encode.families.clip import load_towers
from vidret.errors import VidretError
from vidret.model_files import Part, TrainedOn, save_joint
from vidret.train.gather import gather_objects
from vidret.train.losses import Terms, add_terms

logger = logging.getLogger(__name__)
EXPORT = "export"  # key of the description in a checkpoint


class ModelDescription(TypedDict):
    """The description of a trained model in its file besides the weights, as JSON.

    Attributes:
        card: Card of the model.
        weights: Prefix of its weights in the state of the module.
        parts: Cards of other parts, whose weights have ``model.`` and their name as prefix.
        backbone: File that the model is joined to in a copy; left out if the model has its own file.
        kept: The towers before training, and the share of their weights in the file; left out for none.
        trained_on: See ``TrainedOn``; left out before training.
    """

    card: Mapping[str, Any]
    weights: str
    parts: Mapping[str, Mapping[str, Any]]
    backbone: NotRequired[str]
    kept: NotRequired[tuple[str, float]]
    trained_on: NotRequired[list[Any]]


class TrainedModule(lightning.LightningModule):
    """A module that is exported as a model file, with steps seeded by the number of the batch.

    Dropout and noise depend on the seed and the batch only, not on earlier draws, so that a checkpoint need not hold
    the states of generators. Evaluation steps append to ``_evaluated``, which ``summarize`` turns into metrics.

    Attributes:
        out: Path of the exported model; None if it is not written.
    """

    def __init__(self, *, seed: int, out: str | None) -> None:
        """Set the seed of all random draws, and the path of the model."""
        super().__init__()
        if seed < 0:
            raise VidretError(f"seed must be at least 0, got {seed}")
        self.out = out
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._trained_before: TrainedOn | None = None  # the training data of the initial weights
        self._evaluated: list[Any] = []

    @abstractmethod
    def summarize(self, evaluated: list[Any]) -> dict[str, float]:
        """Return metrics by name, given the results of the evaluation steps of all processes."""

    @abstractmethod
    def describe(self) -> ModelDescription:
        """Return the description of the trained model."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed PyTorch's generators, in each process differently, and the generator that all processes share."""
        batch_index = max(0, self.trainer.fit_loop.total_batch_idx)
        torch.manual_seed(_mix(self._seed, batch_index, 1 + self.global_rank))
        self._generator.manual_seed(_mix(self._seed, batch_index, 0))

    def log_terms(self, terms: Terms, batch_size: int) -> Tensor:
        """Log the terms of a loss, and return their sum."""
        loss = add_terms(terms)
        self.log_dict({f"loss/{name}": term.detach() for name, term in terms.items()}, batch_size=batch_size)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=batch_size)
        return loss

    def on_validation_start(self) -> None:
        """Drop what a failed evaluation left, and log a warning if the weights were trained on videos to validate."""
        self._evaluated = []
        if self.trainer.validating:
            self._check_unseen("val")

    def on_test_start(self) -> None:
        """Drop what a failed evaluation left, and log a warning if the weights were trained on videos of the test."""
        self._evaluated = []
        self._check_unseen("test")

    def _check_unseen(self, role: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if self._trained_before is None or not isinstance(data, SplitData):
            return
        split = data.test if role == "test" else data.val
        if seen := self._trained_before.find(map(video_stem, split.videos)):
            trained = f"the model was trained on {self._trained_before.split}, with videos of these names"
            logger.warning("%s: %s: %s", split.name, trained, list_some(seen))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of validation."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of a test."""
        self._log_metrics("test")

    def _log_metrics(self, stage: str) -> None:
        evaluated = gather_objects(self._evaluated)
        self._evaluated = []  # training goes on without them in memory
        if evaluated:
            metrics = {f"{stage}/{name}": value for name, value in self.summarize(evaluated).items()}
            self.log_dict(metrics, sync_dist=True)  # equal in all processes

    def count_steps(self) -> int:
        """Return the number of steps of the trainer's whole run.

        Raises:
            VidretError: The run has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if steps == math.inf:
            raise VidretError("max_epochs or max_steps must be given, since rates fall over all steps, got neither")
        return int(steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the description that an export of the checkpoint needs."""
        checkpoint[EXPORT] = {"out": self.out, **self._describe_trained()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another model, and keep the record of their training data."""
        model_shapes, saved_shapes = (
            {name: weight.shape for name, weight in state.items()}
            for state in (self.state_dict(), checkpoint["state_dict"])
        )
        if unlike := sorted(
            name for name in model_shapes | saved_shapes if model_shapes.get(name) != saved_shapes.get(name)
        ):
            raise VidretError(
                f"checkpoint must have the weights of the configured model, got others at {len(unlike)}: {unlike[0]}"
            )
        known = checkpoint.get(EXPORT, {}).get("trained_on")
        self._trained_before = TrainedOn.join([self._trained_before, None if known is None else TrainedOn(*known)])

    def export(self, path: Path) -> None:
        """Write the trained model and its card, for ``--model`` or ``--head``."""
        write_model(self._describe_trained(), self.state_dict(), path)

    def _describe_trained(self) -> ModelDescription:
        """Return the model's description, with the videos of the trainer's data, if any, and of earlier training."""
        data, description = getattr(self._trainer, "datamodule", None), self.describe()
        known = [self._trained_before]
        if isinstance(data, SplitData) and data.has_train:
            known.append(TrainedOn.describe(data.train.name, map(video_stem, data.train.videos)))
        if (trained_on := TrainedOn.join(known)) is not None:
            description["trained_on"] = list(trained_on)
        return description


def check_rates(**rates: float | None) -> None:
    """Raise VidretError unless all given learning rates are positive and finite."""
    for name, rate in rates.items():
        if rate is not None and not 0 < rate < math.inf:
            raise VidretError(f"{name} must be positive and finite, got {rate:g}")


def write_model(description: ModelDescription, state: Mapping[str, Tensor], path: Path) -> None:
    """Write the model of a module to a file.

    Args:
        description: Description of the model.
        state: Weights of the module.
        path: The file, which is replaced; its folder is created if needed.
    """
    weights = _take(state, description["weights"])
    if "kept" in description:
        name, share = description["kept"]
        for key, start in load_towers(name).state_dict().items():
            weights[key] = torch.lerp(weights[key].float().cpu(), start, share)
    model = Part(description["card"], weights)
    parts = {name: Part(card, _take(state, f"model.{name}.")) for name, card in description["parts"].items()}
    trained_on = TrainedOn(*description["trained_on"]) if "trained_on" in description else None
    if "backbone" not in description:
        save_joint(path, model, parts, trained_on)
        return
    with TemporaryDirectory() as folder:
        part_path = Path(folder) / "part.safetensors"
        save_joint(part_path, model, parts, trained_on)
        join_files(Path(description["backbone"]), [part_path], path)


def _take(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}


def _mix(*numbers: int) -> int:
    """Return a seed that depends on all numbers."""
    return int(np.random.default_rng(numbers).integers(2**62))
