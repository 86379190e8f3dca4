"""The command line of training: LightningCLI with vidret's modules, and the export of the best weights."""

import logging
import re
import signal
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from vidret.devices import choose_device
from vidret.disk import replacing
from vidret.errors import DeviceError, OptionError, VidretError, read_fault
from vidret.present.terminal import print_error, print_message
from vidret.train.module import EXPORT, write_model

DESCRIPTION = (
    "Train a method from a YAML file, such as configs/msrvtt_tempme_b32.yaml, or measure what was trained. --device "
    "DEVICE uses one device. Besides the commands below there are export, which writes the model of a checkpoint, "
    "head, which trains a grounding head on an index, and captions, which rewords captions: vidret train export --help."
)
# jsonargparse reports nested reasons why a value fits no type; after the first ones the type is None.
UNION = re.compile(r"Does not validate against any of the Union subtypes Subtypes: .*? Errors: - ")
# Lightning's messages on sys.argv, which has the command's name before the arguments, and on its own internals.
_IGNORED = (
    "LightningCLI's args parameter",
    r"Starting from v1\.9\.0, `tensorboardX`",
    r"`isinstance\(treespec, LeafSpec\)`",
    r"Precision \S+ is not supported by the model summary",
    "The dirpath has changed from",
    r"The number of training batches \(\d+\) is smaller than the logging interval",
)
INTERRUPTIONS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Return whether a message of Lightning is not an advertisement."""
    return "Tip: For seamless" not in record.getMessage()


class CheckpointFiles(TorchCheckpointIO):
    """Checkpoints that are drafted beside the earlier one, which they replace when they are complete.

    Lightning drafts them in the system's folder of temporary files. If that is on another disk, it copies them over the
    earlier one, of which nothing is left then if the run is killed or the disk is full.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint to a path or a URL."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()  # torch.save tells no reason why it cannot write a file
        torch.save(checkpoint, content)
        with replacing(Path(path), durable=True) as draft:
            draft.write_bytes(content.getbuffer())


class SaveLast(ModelCheckpoint):
    """A callback that writes ``last.ckpt`` after each epoch and each validation, and when a run is interrupted.

    Lightning's ``save_last`` does that only if validation has improved, and its checkpoints leave out the end of an
    epoch if validations are not at the end of each epoch. Ctrl-C, SIGTERM and SIGHUP wait for the end of a step, from
    the reading of its batch on: a run that was interrupted before would resume with the next batch, though this one was
    not trained on.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Set the folder; default: that of the trainer's log."""
        super().__init__(folder, filename="last", save_on_exception=True, enable_version_counter=False)
        self._handlers: dict[int, Any] = {}  # of the signals that wait now
        self._waiting: list[int] = []
        self._has_begun = False

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        """Set how the trainer writes checkpoints."""
        super().setup(trainer, module, stage)
        trainer.strategy.checkpoint_io = CheckpointFiles()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Let signals wait."""
        self._hold()

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        """Note that a step has begun."""
        self._has_begun = True

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *arguments: Any) -> None:
        """Handle the signals of the step."""
        super().on_train_batch_end(trainer, module, *arguments)
        self._release()
        self._hold()

    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Let no signal wait for a validation."""
        self._release()

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save, and let signals wait again."""
        super().on_validation_end(trainer, module)
        if self._has_begun:  # not after a validation without training
            self._hold()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Save at the end of the epoch, regardless of when validations run."""
        self._release()
        self._save_on_train_epoch_end = True
        super().on_train_epoch_end(trainer, module)
        self._save_on_train_epoch_end = None

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Save, once a step has begun; before it, a resumed run may be restored only in part."""
        if self._has_begun:
            super().on_exception(trainer, module, exception)

    def _hold(self) -> None:
        """Let signals wait that are not ignored."""
        if not self._handlers:
            heeded = [number for number in INTERRUPTIONS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
            self._handlers = {number: signal.signal(number, self._note) for number in heeded}

    def _release(self) -> None:
        """Handle signals that waited, and those to come at once."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        while self._waiting:
            signal.raise_signal(self._waiting.pop())

    def _note(self, number: int, _frame: Any) -> None:
        if number in self._waiting:
            raise KeyboardInterrupt  # the user insists
        self._waiting.append(number)


class ExportBest(Callback):
    """A callback that exports the best weights by validation, or else the last ones, to the module's ``out``.

    It runs when fitting ends: by its length, its time limit, Ctrl-C, or the SIGTERM of a scheduler.
    """

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the best checkpoint so far, which Lightning forgets if a run is resumed in another folder."""
        for callback in _find_checkpointing(trainer):
            state = checkpoint["callbacks"].get(callback.state_key)
            if state is not None and Path(state["best_model_path"]).is_file():
                state["dirpath"] = callback.dirpath

    def on_fit_start(self, trainer: lightning.Trainer, module: Any) -> None:
        """Refuse an output file that cannot be written, before days of training."""
        out = getattr(module, "out", None)
        if out is None or not trainer.is_global_zero:
            return
        folder = Path(out).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OptionError(f"out must be a file that can be written, got {out} ({error.strerror})") from error
        if Path(out).is_dir():
            raise OptionError(f"out must be a file, got the folder {out}")

    def on_fit_end(self, trainer: lightning.Trainer, module: Any) -> None:
        """Load the best checkpoint, if there is one, and export it."""
        out = getattr(module, "out", None)
        if out is None or not trainer.is_global_zero:
            return
        best = [saved for saved in _find_checkpointing(trainer) if saved.monitor and saved.best_model_path]
        chosen = next((saved for saved in best if Path(saved.best_model_path).is_file()), None)
        if chosen is None:
            module.export(Path(out))
            print_message(f"written: {out} (from the last step)")
            return
        export_checkpoint(Path(chosen.best_model_path), Path(out))
        score = f"{chosen.monitor} {chosen.best_model_score:.1f}"
        print_message(f"written: {out} (from {chosen.best_model_path}, {score})")

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:
        """Export the weights of a run that was interrupted; if that fails, the last checkpoint is still written."""
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)):
            try:
                self.on_fit_end(trainer, module)
            except VidretError as error:
                print_error(str(error))


def _find_checkpointing(trainer: lightning.Trainer) -> list[ModelCheckpoint]:
    return [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of ``vidret train fit``.

    Raises:
        VidretError: It cannot be read, or is not from ``vidret train fit``.
    """
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no exceptions, and a corrupt file can raise any
        is_known = isinstance(error, OSError | RuntimeError)
        reason = read_fault(error) if is_known else "it is no file of plain data that PyTorch wrote"
        raise VidretError(f"{path}: cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or EXPORT not in checkpoint:
        raise VidretError(f"{path}: must be a checkpoint of vidret train fit, got another one")
    return checkpoint


def export_checkpoint(path: Path, out: Path | None = None) -> Path:
    """Write the model in a checkpoint to a file, and return its path.

    Args:
        path: The checkpoint.
        out: The file; defaults to the output path of the run.

    Raises:
        VidretError: It cannot be read, is not one of vidret, or ``out`` is missing.
    """
    checkpoint = read_checkpoint(path)
    described = checkpoint[EXPORT]
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


class TrainingCLI(LightningCLI):
    """LightningCLI as ``vidret train``, without the commands that vidret's modules do not support."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the commands, all but ``predict``, with their arguments that are not options."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def init_parser(self, **settings: Any) -> Any:
        """Return a parser that raises ArgumentError; others print all options and exit."""
        return super().init_parser(exit_on_error=False, **settings)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse the arguments; refuse a file that is not a checkpoint with one sentence."""
        super().parse_arguments(parser, args)
        path = self.config[self.config.subcommand].ckpt_path
        if path not in (None, "best", "last", "hpc") and "://" not in str(path):
            read_checkpoint(Path(path))

    def instantiate_trainer(self, **settings: Any) -> lightning.Trainer:
        """Return the trainer, and create its folder now, so that no concurrent run takes the same one.

        Lightning chooses the number of the folder before it prepares the data, which may take hours, and creates the
        folder afterwards.
        """
        if self.config[self.subcommand].trainer.enable_checkpointing is not False:
            self.trainer_defaults["callbacks"].append(SaveLast())
        try:
            trainer = super().instantiate_trainer(**settings)
        except ValueError as error:
            raise MisconfigurationException(str(error)) from error
        is_on_disk = isinstance(trainer.logger, CSVLogger | TensorBoardLogger) and "://" not in trainer.logger.log_dir
        if is_on_disk and trainer.is_global_zero:
            Path(str(trainer.log_dir)).mkdir(parents=True, exist_ok=True)
        return trainer

    def before_validate(self) -> None:
        """Print a message if the weights to validate are untrained."""
        if self.config[self.subcommand].ckpt_path is None:
            print_message("No --ckpt_path is given: the weights that training begins with are measured.")

    before_test = before_validate


def run(arguments: Sequence[str], *, device: str | None = None) -> None:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        arguments: Arguments of LightningCLI, above all ``--config FILE``.
        device: One device to use, in place of the configured accelerator and devices.

    Raises:
        OptionError: An argument, or a value in a configuration file, is invalid.
    """
    if device is not None:
        arguments = [*arguments, *device_arguments(device)]
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, which is more precise than bf16-mixed
    for message in _IGNORED:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_tip)
    try:
        TrainingCLI(
            lightning.LightningModule,
            lightning.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={"prog": "vidret train", "description": DESCRIPTION},
            trainer_defaults={"callbacks": [ExportBest()]},
            args=list(arguments),
        )
    except ArgumentError as error:
        reason = re.sub(r'^Parser key "([\w.]+)":', r"--\1:", " ".join(str(error).split()))
        reason = UNION.sub("", reason).partition(" - Expected a <class 'NoneType'>")[0]
        raise OptionError(f"{reason} (options follow --config: vidret train fit --help)") from error
    except MisconfigurationException as error:
        raise OptionError(" ".join(str(error).split())) from error
    except ValueError as error:
        # jsonargparse wraps the errors that a module or its data raise on construction.
        if isinstance(error.__cause__, VidretError):
            raise error.__cause__ from None
        if "is not in bounds" in str(error):
            raise OptionError(f"--seed_everything: {error}") from error
        if str(error).startswith("Does not validate"):
            raise OptionError(str(error.__cause__)) from error
        raise
