"""Tests of how a training run ends: with a model, however it ends, and one from any of its checkpoints."""

import os
import re
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from tests.train.small import (
    TEXT,
    draw_moments,
    ignores_lightning,
    make_head_module,
    make_module,
    make_trainer,
    open_data,
)
from vidret.channels.picture.ranker_loading import choose_ranker, load_ranker
from vidret.data.module import RetrievalData
from vidret.data.sampler import TrainBatches
from vidret.encode.families.registry import load_encoder
from vidret.errors import OptionError, VidretError
from vidret.ground.checkpoint import load_head
from vidret.model_files import TrainedOn
from vidret.train.run import ExportBest, SaveLast, export_checkpoint, read_checkpoint, run

pytestmark = ignores_lightning


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    """Lightning ignores Ctrl-C after the first one."""
    before = {ending: signal.getsignal(ending) for ending in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signal_number, handler in before.items():
        signal.signal(signal_number, handler)


class End(lightning.Callback):
    """Ends a run after a step, by default the second."""

    def __init__(self, by: str, step: int = 2) -> None:
        self.by, self.step = by, step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            if self.by == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                raise {"Ctrl-C": KeyboardInterrupt, "error": ValueError}[self.by]


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM", "error"])
def test_run_that_is_interrupted_leaves_a_model_and_a_checkpoint(
    by: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, saved = tmp_path / "models" / "clip.safetensors", tmp_path / "saved"
    module = make_module("clip", out=str(out))
    callbacks = [End(by), SaveLast(saved), ExportBest()]
    trainer = make_trainer(tmp_path, max_steps=20, limit_val_batches=0, enable_checkpointing=True, callbacks=callbacks)
    with pytest.raises(ValueError if by == "error" else SystemExit):
        trainer.fit(module, datamodule=open_data(world))
    assert (saved / "last.ckpt").is_file()
    if by == "error":
        assert not out.exists(), "weights of a broken run are not exported unasked"
        return
    weights = load_file(out)
    for name, weight in module.model.encoder.state_dict().items():
        assert torch.equal(weights[name], weight), name
    assert f"written: {out} (from " in capsys.readouterr().err


def test_a_model_that_cannot_be_written_does_not_cost_the_checkpoint(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Block(End):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            out.mkdir(exist_ok=True)
            super().on_train_batch_end(trainer)

    out = tmp_path / "clip.safetensors"
    settings: dict[str, Any] = {"limit_val_batches": 0, "enable_checkpointing": True}
    trainer = make_trainer(tmp_path, callbacks=[Block("Ctrl-C"), SaveLast(tmp_path), ExportBest()], **settings)
    with pytest.raises(SystemExit):
        trainer.fit(make_module("clip", out=str(out)), datamodule=open_data(world))
    assert f"{out}: cannot be written (" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 2


class SignalInStep(lightning.Callback):
    """Sends a signal once, within the second step."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number

    def on_before_optimizer_step(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == 1:
            os.kill(os.getpid(), self.signal_number)


@pytest.mark.parametrize(
    ("signal_number", "is_reading"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_run_that_is_interrupted_within_a_step_resumes_without_losing_it(
    signal_number: int, is_reading: bool, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance(batches: TrainBatches, original: Callable[[TrainBatches], None] = TrainBatches.advance) -> None:
        original(batches)
        if is_reading and batches.position == 2:
            os.kill(os.getpid(), signal_number)

    def train(*callbacks: lightning.Callback, last: Path | None = None) -> dict[str, torch.Tensor]:
        module, settings = make_module("clip"), {"enable_checkpointing": True, "limit_val_batches": 0}
        trainer = make_trainer(tmp_path, max_steps=3, callbacks=[*callbacks, SaveLast(tmp_path)], **settings)
        trainer.fit(module, datamodule=open_data(world), ckpt_path=last)
        return module.state_dict()

    expected = train()
    signal.signal(signal_number, signal.default_int_handler)  # as the command does; a shell may have SIGINT ignored
    monkeypatch.setattr(TrainBatches, "advance", advance)
    with pytest.raises(SystemExit):
        train(*([] if is_reading else [SignalInStep(signal_number)]))
    monkeypatch.undo()
    resumed = train(last=tmp_path / "last.ckpt")
    assert [name for name, weight in expected.items() if not torch.equal(weight, resumed[name])] == []


def test_ignored_signals_do_not_end_a_step(world: Path, tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for jobs in the background
    callbacks = [SignalInStep(signal.SIGINT), SignalInStep(signal.SIGINT), SaveLast(tmp_path)]
    trainer = make_trainer(tmp_path, max_steps=3, callbacks=callbacks, enable_checkpointing=True, limit_val_batches=0)
    trainer.fit(make_module("clip"), datamodule=open_data(world))
    assert trainer.global_step == 3


def test_run_that_goes_on_elsewhere_exports_the_best_of_both_parts(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, last = tmp_path / "clip.safetensors", None
    for name, num_epochs, recalls in (("first", 2, iter((90.0, 20.0))), ("second", 3, iter((10.0,)))):
        module = make_module("clip", out=str(out))
        module.summarize = lambda _evaluated, recalls=recalls: {"R@1": next(recalls)}  # type: ignore[method-assign,misc]
        callbacks = [ModelCheckpoint(monitor="val/R@1", mode="max"), SaveLast(), ExportBest()]
        settings: dict[str, Any] = {"max_epochs": num_epochs, "enable_checkpointing": True, "limit_train_batches": 2}
        trainer = make_trainer(tmp_path / name, callbacks=callbacks, **settings)
        trainer.fit(module, datamodule=open_data(world), ckpt_path=last)
        last = tmp_path / name / "checkpoints" / "last.ckpt"
        assert read_checkpoint(last)["global_step"] == 2 * num_epochs, "also where validation is worse than before"
    (best,) = (path for path in (tmp_path / "first" / "checkpoints").iterdir() if path.name != "last.ckpt")
    assert export_checkpoint(best, tmp_path / "again.safetensors").read_bytes() == out.read_bytes()
    assert capsys.readouterr().err.count(f"(from {best}, val/R@1 90.0)") == 2
    best.unlink()
    callbacks = [End("Ctrl-C", 7), ModelCheckpoint(monitor="val/R@1", mode="max"), SaveLast(), ExportBest()]
    trainer = make_trainer(tmp_path / "third", max_epochs=4, enable_checkpointing=True, callbacks=callbacks)
    with pytest.raises(SystemExit):
        trainer.fit(make_module("clip", out=str(out)), datamodule=open_data(world), ckpt_path=last)
    assert "(from the last step)" in capsys.readouterr().err, "the best one was removed"
    assert (tmp_path / "third" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("validation", [{"val_check_interval": 2}, {"check_val_every_n_epoch": 2}], ids=str)
def test_last_weights_are_kept_whenever_validation_is(validation: dict[str, int], world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 3, "enable_checkpointing": True}
    trainer = make_trainer(tmp_path, callbacks=[SaveLast(tmp_path)], **settings, **validation)
    trainer.fit(make_module("clip"), datamodule=open_data(world))
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3


def test_run_that_fails_before_its_first_step_leaves_no_checkpoint(world: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[SaveLast(tmp_path)], max_epochs=3, enable_checkpointing=True)
    trainer.fit(make_module("clip"), datamodule=open_data(world))
    settings: dict[str, Any] = {"callbacks": [SaveLast(tmp_path / "later")], "enable_checkpointing": True}
    trainer = make_trainer(tmp_path, max_epochs=1, **settings)
    with pytest.raises(MisconfigurationException, match="max_epochs=1"):
        trainer.fit(make_module("clip"), datamodule=open_data(world), ckpt_path=tmp_path / "last.ckpt")
    assert not (tmp_path / "later" / "last.ckpt").exists(), "its optimizers were not restored"


def test_checkpoints_need_no_room_for_temporary_files(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    trainer = make_trainer(tmp_path, callbacks=[SaveLast(tmp_path)], max_steps=1, enable_checkpointing=True)
    trainer.fit(make_module("clip"), datamodule=open_data(world))
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 1
    with pytest.raises(VidretError, match=r"test_run.py/last\.ckpt: cannot be written \("):
        trainer.save_checkpoint(Path(__file__) / "last.ckpt")


def test_checkpoint_of_another_model_is_refused(world: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(make_module("clip"), datamodule=open_data(world))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer = make_trainer(tmp_path, max_steps=2, limit_val_batches=0)
    with pytest.raises(
        VidretError, match=r"checkpoint must have the weights of the configured model, got others at \d+"
    ):
        trainer.fit(make_module("tempme"), datamodule=open_data(world), ckpt_path=str(tmp_path / "a.ckpt"))


def test_runs_that_start_while_others_prepare_their_data_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folders: list[str | None] = []

    def prepare(data: RetrievalData) -> None:
        assert data.trainer is not None
        folders.append(data.trainer.log_dir)
        raise VidretError("enough")

    monkeypatch.setattr(RetrievalData, "prepare_data", prepare)
    config = Path(__file__).parents[2] / "configs" / "synthetic_clip.yaml"
    without_checkpoints = ("--trainer.enable_checkpointing", "false", "--trainer.callbacks", "null")
    for stage, *more in (("fit",), ("fit", *without_checkpoints), ("test",)):
        with pytest.raises(VidretError, match="enough"):
            run([stage, "--config", str(config), "--trainer.default_root_dir", str(tmp_path), *more])
    assert folders == [str(tmp_path / "lightning_logs" / f"version_{version}") for version in range(3)]
    assert "GPU available" in caplog.text
    assert "Tip" not in caplog.text, "Lightning advertises"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["predict"], "invalid choice: 'predict'"),
        (
            ["fit", "--confg", "a.yaml"],
            "unrecognized arguments: --confg a.yaml (options follow --config: vidret train fit ",
        ),
        (["fit", "--data.init_args.batch_size", "2", "--config", "CONFIG"], "(options follow --config: vidret train"),
        (["test", "--config", "CONFIG", "--ckpt_path", "none.ckpt"], "none.ckpt: cannot be read as a checkpoint"),
        (["test", "--config", "CONFIG", "--ckpt_path", "CONFIG"], ".yaml: cannot be read as a checkpoint"),
        (["fit", "--config", "CONFIG", "--model.init_args.method", "clop"], "method must be one of clip, "),
        (["fit", "--config", "CONFIG", "--model.init_args.weights", "none.safetensors"], "none.safetensors: "),
        (["fit", "--config", "CONFIG", "--seed_everything", "-1"], "--seed_everything: -1 is not in bounds"),
        (["fit", "--config", "CONFIG", "--model.init_args.vision.width", "97"], "heads must divide width 97, got 3"),
        (["fit", "--config", "CONFIG", "--model.init_args.lr", "low"], "key \"lr\": Expected a <class 'float'> (opt"),
        (["fit", "--config", "CONFIG", "--model.init_args.vision.widht", "3"], "Option 'widht' is not accepted (opt"),
        (["fit", "--config", "CONFIG", "--trainer.max_epochs", "-3"], "`max_epochs` must be a non-negative integer"),
        (["fit", "--config", "CONFIG", "--trainer.strategy", "dpp"], "invalid strategy name: `strategy='dpp'`"),
        (["fit", "--config", "CONFIG", "--data.init_args.num_words", "2"], "num_words must be at least 3"),
        (["fit", "--config", "CONFIG", "--data.init_args.batch_sise", "2"], "Option 'batch_sise' is not accepted (opt"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(Path(__file__).parents[2] / "configs" / "synthetic_clip.yaml")
    with pytest.raises(VidretError) as refused:
        run([config if argument == "CONFIG" else argument for argument in arguments])
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "usage" not in capsys.readouterr().err


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    assert {"fit", "validate", "test", "export", "head", "captions", "--device"} <= set(
        re.findall(r"[\w-]+", capsys.readouterr().out)
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "--config: File does not exist: "),
        ("a: [", "Problems parsing config"),
        ("trainer:\n  max_stepz: 3", "does not accept option 'trainer.max_stepz'"),
        ("trainer:\n  max_steps: many", "trainer.max_steps"),
    ],
)
def test_a_wrong_configuration_is_refused_with_one_sentence(content: str | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OptionError) as refused:
        run(["fit", "--config", str(path)])
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert content is not None or str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x02}q\x00(X", {"state_dict": {}}, None])
def test_what_is_no_checkpoint_is_refused_with_one_sentence(content: Any, tmp_path: Path) -> None:
    path, reason = tmp_path / "a.ckpt", "cannot be read as a checkpoint: "
    if isinstance(content, bytes):
        path.write_bytes(content)
        reason += "it is no file of plain data"
    elif content is not None:
        torch.save(content, path)
        reason = "must be a checkpoint of vidret train fit"
    with pytest.raises(VidretError, match=rf"a\.ckpt: {reason}"):
        export_checkpoint(path, tmp_path / "out.safetensors")


def test_run_that_reaches_its_time_leaves_a_model(world: Path, tmp_path: Path) -> None:
    module = make_module("clip", out=str(tmp_path / "clip.safetensors"))
    settings: dict[str, Any] = {"max_time": {"seconds": 0.2}, "max_steps": 10**6, "limit_val_batches": 0}
    make_trainer(tmp_path, callbacks=[ExportBest()], **settings).fit(module, datamodule=open_data(world))
    load_encoder(str(tmp_path / "clip.safetensors"))


@pytest.mark.parametrize(("out", "reason"), [("a/clip.safetensors", "that can be written, got .*"), ("b", ", got the")])
def test_run_whose_model_cannot_be_written_does_not_begin(out: str, reason: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir()
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0, callbacks=[ExportBest()])
    with pytest.raises(VidretError, match=f"out must be a file *{reason}"):
        trainer.fit(make_module("clip", out=str(tmp_path / out)), datamodule=open_data(world))
    assert trainer.global_step == 0


def test_schedule_needs_an_end(world: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=-1, limit_val_batches=0)
    with pytest.raises(
        VidretError, match="max_epochs or max_steps must be given, since rates fall over all steps, got"
    ):
        trainer.fit(make_module("clip"), datamodule=open_data(world))


def test_what_is_kept_is_averaged_into_the_exported_towers(world: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    make_module("clip").export(start)
    module = make_module("tempme", weights=str(start), keep=0.25, vision=None, text=None)
    trainer = make_trainer(tmp_path, max_steps=3, limit_val_batches=0)
    trainer.fit(module, datamodule=open_data(world))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module.export(tmp_path / "kept.safetensors")
    before, kept = load_file(start), load_file(tmp_path / "kept.safetensors")
    trained = module.model.encoder.state_dict()
    assert any(not torch.equal(trained[name], weight) for name, weight in before.items())
    for name, weight in kept.items():
        expected = 0.75 * trained[name] + 0.25 * before[name] if name in before else trained[name]
        torch.testing.assert_close(weight, expected)
    again = export_checkpoint(tmp_path / "a.ckpt", tmp_path / "again.safetensors")
    assert again.read_bytes() == (tmp_path / "kept.safetensors").read_bytes()
    for wrong in ({"keep": 0.5}, {"keep": 1.0, "weights": str(start)}, {"keep": 0.5, "weights": "x", "lora_rank": 2}):
        with pytest.raises(VidretError, match="keep must be from 0 to below 1, with weights and without lora_rank"):
            make_module("clip", **wrong)


def test_stretched_positions_are_not_averaged_with_those_before(tmp_path: Path) -> None:
    make_module("clip", text=replace(TEXT, context=77)).export(tmp_path / "start.safetensors")
    settings = {"weights": str(tmp_path / "start.safetensors"), "keep": 0.25, "vision": None, "text": None}
    with pytest.raises(VidretError, match="keep needs as many positions of words as the weights have, 77, got 248"):
        make_module("longclip", **settings)
    make_module("longclip", options={"stretch": 1}, **settings).export(tmp_path / "kept.safetensors")


@pytest.mark.parametrize("method", ["ucofia", "longclip"])
def test_checkpoint_exports_as_its_run(
    method: str, world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = make_module(method, out=str(tmp_path / "told.safetensors"))
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, datamodule=open_data(world))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module.export(tmp_path / "whole.safetensors")
    assert export_checkpoint(tmp_path / "a.ckpt", tmp_path / "new" / "again.safetensors").is_file()
    assert export_checkpoint(tmp_path / "a.ckpt") == tmp_path / "told.safetensors"
    for name in ("new/again", "told"):
        assert (tmp_path / f"{name}.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    trained_on, data = TrainedOn.read(tmp_path / "told.safetensors"), trainer.datamodule  # type: ignore[attr-defined]
    assert trained_on is not None
    assert trained_on.split == "msrvtt-1k-a-train-9k-rest"
    assert (trained_on.find(data.train.videos), trained_on.find(data.val.videos)) == (list(data.train.videos), [])
    assert TrainedOn.read(tmp_path / "a.ckpt") is None
    make_module("clip", weights=str(tmp_path / "told.safetensors"), vision=None, text=None).export(
        tmp_path / "on.safetensors"
    )
    assert TrainedOn.read(tmp_path / "on.safetensors") == trained_on, "training that goes on keeps what it knew"
    went_on = make_module(method, weights=str(tmp_path / "told.safetensors"), vision=None, text=None).model
    for name, weight in module.model.state_dict().items():
        assert torch.equal(went_on.state_dict()[name], weight), name
    assert "starts anew" not in caplog.text
    make_module("glscl", weights=str(tmp_path / "told.safetensors"), vision=None, text=None)
    assert ("told.safetensors: its aligner, ucofia, does not fit that of glscl, which starts anew" in caplog.text) == (
        method == "ucofia"
    )
    encoder = load_encoder(str(tmp_path / "told.safetensors"))
    assert (load_ranker(choose_ranker(encoder), encoder).name == encoder.name) == (method == "ucofia")


def test_a_checkpoint_that_is_measured_on_what_it_was_trained_on_says_so(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=1)
    trainer.fit(make_module("clip"), datamodule=open_data(world))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    ckpt = str(tmp_path / "a.ckpt")
    make_trainer(tmp_path).validate(make_module("clip"), open_data(world), ckpt, verbose=False)
    make_trainer(tmp_path).test(make_module("clip"), open_data(world, test_split="test"), ckpt, verbose=False)
    assert "was trained on" not in caplog.text
    others = open_data(world, seed=7)
    make_trainer(tmp_path).validate(make_module("clip"), others, ckpt, verbose=False)
    trained = set(trainer.datamodule.train.videos)  # type: ignore[attr-defined]
    num_seen = len(trained & set(others.val.videos))
    message = f"the model was trained on msrvtt-1k-a-train-9k-rest, with videos of these names: {num_seen} ("
    assert [message in record.getMessage() for record in caplog.records].count(True) == 1


def test_checkpoint_of_a_head_is_exported_like_the_head(tmp_path: Path) -> None:
    module, batches = make_head_module(), [draw_moments()]
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    head, card = load_head(export_checkpoint(tmp_path / "a.ckpt", tmp_path / "head.safetensors"))
    assert card == module.card
    for name, weight in module.head.state_dict().items():
        assert torch.equal(head.state_dict()[name], weight), name
    with pytest.raises(VidretError, match=r"a\.ckpt: out must be given, since its run had none"):
        export_checkpoint(tmp_path / "a.ckpt")
