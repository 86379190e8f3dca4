"""vidret train: Lightning's own command line over our modules, and the chosen weights written as a model at the end."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI

from vidret.devices import choose_device
from vidret.errors import DeviceError

logger = logging.getLogger(__name__)


class ExportBest(Callback):
    """Write the chosen weights to the module's ``out`` when fitting ends: the best by validation, else the last."""

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Load the best checkpoint, where one was kept, and write it."""
        out = getattr(module, "out", None)
        if out is None or not trainer.is_global_zero:
            return
        best = next((each.best_model_path for each in trainer.callbacks if isinstance(each, ModelCheckpoint)), "")  # type: ignore[attr-defined]
        if best:
            state = torch.load(best, map_location="cpu", weights_only=True)
            module.load_state_dict(state["state_dict"])
        module.export(Path(out))
        logger.warning("written: %s (from %s)", out, best or "the last step")


def device_arguments(device: str) -> list[str]:
    """Return what tells a trainer to compute on one device, by the name that ``choose_device`` takes.

    Raises:
        DeviceError: There is no such device, or training does not run on its kind.
    """
    chosen = choose_device(device)
    kind, _, number = chosen.partition(":")
    if kind == "xpu":
        raise DeviceError(f"device must be cpu, cuda or mps to train on, got {chosen}")
    return [f"--trainer.accelerator={kind}", f"--trainer.devices={f'[{number}]' if number else 1}"]


def run(arguments: Sequence[str], *, device: str | None = None) -> None:
    """Run ``fit``, ``validate`` or ``test`` with the arguments of LightningCLI; ``--config FILE`` first of all.

    Args:
        arguments: LightningCLI's.
        device: One device to compute on, whatever the file says of accelerator and devices.
    """
    if device is not None:
        arguments = [*arguments, *device_arguments(device)]
    LightningCLI(
        lightning.LightningModule,
        lightning.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [ExportBest()]},
        args=list(arguments),
    )
