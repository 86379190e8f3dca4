"""The command line of training: LightningCLI with vidret's modules, and the export of the best weights."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI

from vidret.devices import choose_device
from vidret.errors import DeviceError
from vidret.present.terminal import print_message


class ExportBest(Callback):
    """Export the best weights by validation, or else the last ones, to the module's ``out`` when fitting ends."""

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Load the best checkpoint, if there is one, and export it."""
        out = getattr(module, "out", None)
        if out is None or not trainer.is_global_zero:
            return
        checkpoints = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]  # type: ignore[attr-defined]
        best = checkpoints[0].best_model_path if checkpoints else ""
        if best:
            state = torch.load(best, map_location="cpu", weights_only=True)
            module.load_state_dict(state["state_dict"])
        module.export(Path(out))
        print_message(f"written: {out} (from {best or 'the last step'})")


def device_arguments(device: str) -> list[str]:
    """Return the arguments that make a trainer use one device; see ``choose_device`` for names."""
    chosen = choose_device(device)
    kind, _, index = chosen.partition(":")
    if kind == "xpu":
        raise DeviceError(f"device must be cpu, cuda or mps to train on, got {chosen}")
    return [f"--trainer.accelerator={kind}", f"--trainer.devices={f'[{index}]' if index else 1}"]


def run(arguments: Sequence[str], *, device: str | None = None) -> None:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        arguments: Arguments of LightningCLI, above all ``--config FILE``.
        device: One device to use, in place of the configured accelerator and devices.
    """
    if device is not None:
        arguments = [*arguments, *device_arguments(device)]
    # Lightning compares what it is given with sys.argv, which has the command's name before it.
    warnings.filterwarnings("ignore", message=r"LightningCLI's args parameter")
    LightningCLI(
        lightning.LightningModule,
        lightning.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [ExportBest()]},
        args=list(arguments),
    )
