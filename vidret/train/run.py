"""The command line of training: LightningCLI with vidret's modules, and the export of the best weights."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vidret.devices import choose_device
from vidret.errors import DeviceError, VidretError, read_fault
from vidret.present.terminal import print_message
from vidret.train.module import EXPORT, write_model


class ExportBest(Callback):
    """Export the best weights by validation, or else the last ones, to the module's ``out``.

    That is done when fitting ends, be it by its length, its time, Ctrl-C, or the SIGTERM of a scheduler.
    """

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Load the best checkpoint, if there is one, and export it."""
        out = getattr(module, "out", None)
        if out is None or not trainer.is_global_zero:
            return
        checkpoints = [callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint)]  # type: ignore[attr-defined]
        monitored = bool(checkpoints) and checkpoints[0].monitor is not None
        best = checkpoints[0].best_model_path if monitored else ""
        if best:
            export_checkpoint(Path(best), Path(out))
        else:
            module.export(Path(out))
        print_message(f"written: {out} (from {best or 'the last step'})")

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Export what a run has learned that was asked to end."""
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)):
            self.on_fit_end(trainer, module)


def export_checkpoint(path: Path, out: Path | None = None) -> Path:
    """Write the model in a checkpoint to a file, and return its path.

    Args:
        path: The checkpoint.
        out: The file; default: where its run would have written it.

    Raises:
        VidretError: It cannot be read, is not one of vidret, or ``out`` is missing.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise VidretError(f"{path}: cannot be read as a checkpoint: {read_fault(error)}") from error
    described = checkpoint.get(EXPORT) if isinstance(checkpoint, dict) else None
    if described is None:
        raise VidretError(f"{path}: must be a checkpoint of vidret train fit, got another one")
    if out is None and described["out"] is None:
        raise VidretError(f"{path}: out must be given, since its run had none")
    out = Path(described["out"]) if out is None else out
    write_model(described, checkpoint["state_dict"], out)
    return out


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
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, which is more precise than bf16-mixed
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
