"""Tests of training on a small synthetic world: every method learns, resumes, and exports a model that loads."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from tests.train.small import (
    METHODS,
    VISION,
    draw_captioned,
    draw_moments,
    ignores_lightning,
    make_head_module,
    make_module,
    make_trainer,
    open_data,
)
from vidret.channels.picture.ranker_loading import choose_ranker, load_ranker
from vidret.data.module import GroundingData
from vidret.encode.families.registry import load_encoder
from vidret.errors import VidretError
from vidret.ground.checkpoint import load_head
from vidret.model_files import read_part_cards
from vidret.train.muon import MATRIX
from vidret.train.retrieval import RetrievalModule

SAMPLE = ("clip", "all", "promptswitch")  # of the methods, where ``make slow`` takes every one


def sample_methods() -> list[Any]:
    """Return all methods, of which those beside ``SAMPLE`` are slow."""
    return [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize("method", METHODS)
@ignores_lightning
def test_method_trains_logs_metrics_and_exports_a_model(method: str, world: Path, tmp_path: Path) -> None:
    check_training(method, "32-true", world, tmp_path)


@pytest.mark.parametrize("method", sample_methods())
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@ignores_lightning
def test_method_trains_in_half_precision(method: str, precision: str, world: Path, tmp_path: Path) -> None:
    check_training(method, precision, world, tmp_path)


def check_training(method: str, precision: Any, world: Path, tmp_path: Path) -> None:
    module, dtypes = make_module(method), set()
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    if module.model.aligner is not None:
        module.model.aligner.register_forward_hook(lambda _, __, scores: dtypes.add(scores[0].dtype))
    trainer = make_trainer(tmp_path, max_steps=2, limit_val_batches=1.0, val_check_interval=2, precision=precision)
    trainer.fit(module, datamodule=open_data(world))
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert 0 <= float(trainer.callback_metrics["val/R@1"]) <= 100
    assert torch.bfloat16 not in dtypes or precision == "bf16-true", "autocast ends where the aligner begins"
    moved = {name for name, weight in module.named_parameters() if not torch.equal(weight, before[name].to(weight))}
    assert {name.split(".")[1] for name in moved} == {name.split(".")[1] for name in before}, "every part learns"
    module.export(tmp_path / "model.safetensors")
    encoder = load_encoder(str(tmp_path / "model.safetensors"))
    assert encoder.sampling.num_frames == 12
    ranker = load_ranker(choose_ranker(encoder), encoder)
    assert ranker.name == "none" if module.model.aligner is None else ranker.name == encoder.name


@ignores_lightning
def test_muon_trains_with_clipped_gradients_in_half_precision(world: Path, tmp_path: Path) -> None:
    module = make_module("joint", matrix_lr=0.02)
    before = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
    make_trainer(tmp_path, max_steps=2, limit_val_batches=0, precision="bf16-mixed").fit(
        module, datamodule=open_data(world)
    )
    assert all(weight.isfinite().all() for weight in module.model.parameters())
    still = {name for name, weight in module.model.named_parameters() if torch.equal(weight, before[name])}
    assert not any(MATRIX.match(name) for name in still)
    assert {name.split(".")[0] for name in before.keys() - still} == {"encoder", "aligner", "captioner"}


@ignores_lightning
def test_loss_falls_and_retrieval_beats_chance(world: Path, tmp_path: Path) -> None:
    module = make_module("clip", num_frames=6)
    data = open_data(world, num_frames=6, val_share=0.0, batch_size=20)
    losses: list[float] = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            losses.append(float(trainer.callback_metrics["loss"]))

    make_trainer(tmp_path, max_steps=50, limit_val_batches=0, callbacks=[Keep()]).fit(module, datamodule=data)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    module.eval()
    with torch.no_grad():
        for batch in data.train_dataloader():
            module.validation_step(batch, 0)
            break
        scores, truth = module.score(module._evaluated)
    found = scores.argmax(axis=1) == truth
    assert found.mean() > 5 / len(found), "five times what chance gives, on what was trained"


@pytest.mark.parametrize(
    "settings",
    [
        *(pytest.param({"method": method.values[0]}, marks=method.marks) for method in sample_methods()),
        {"method": "tempme", "lora_rank": 2, "train_all": False},
        {"method": "clip", "train_all": False},
        {"method": "clip", "matrix_lr": 0.02, "cool_down": 0.5},
        {"method": "head"},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
@ignores_lightning
def test_resumed_run_equals_uninterrupted_run(settings: dict[str, Any], world: Path, tmp_path: Path) -> None:
    def fit(steps: StopAt | None = None, resumed: bool = False) -> dict[str, Any]:
        callbacks: list[lightning.Callback] = [] if steps is None else [steps]
        trainer = make_trainer(tmp_path, max_steps=4, limit_val_batches=0, callbacks=callbacks)
        module: Any
        if settings["method"] == "head":
            batches: Any = [draw_moments(seed) for seed in (0, 1)]
            data: dict[str, Any] = {"train_dataloaders": DataLoader(batches, batch_size=None)}
            module = make_head_module(dropout=0.5)
        else:
            module, data = make_module(**settings), {"datamodule": open_data(world)}
        trainer.fit(module, **data, ckpt_path=str(tmp_path / "mid.ckpt") if resumed else None, weights_only=False)
        state: dict[str, Any] = module.state_dict()
        return state

    whole = fit()
    torch.manual_seed(1)
    fit(StopAt(2, tmp_path / "mid.ckpt"))
    torch.manual_seed(2)
    for (name, one), other in zip(whole.items(), fit(resumed=True).values(), strict=True):
        assert torch.equal(one, other), name


class StopAt(lightning.Callback):
    """Saves a checkpoint after some steps, and stops."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@ignores_lightning
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"num_frames": 6}, "num_frames of the model must be that of its data in validation, 6, got 12"),
        ({"eval_frames": 6}, "num_frames of the model must be that of its data in validation, 6, got 12"),
        ({"sampling": "clip4clip"}, "sampling and num_segments of the model must be those of its data"),
        ({"image_size": 48}, "image_size of the model must be that of its data, 48, got 32"),
        ({"num_words": 33}, "num_words of the data must be at most the context of the text tower, 32, got 33"),
    ],
)
def test_model_that_does_not_fit_its_data_is_refused_before_a_step(
    settings: dict[str, Any], reason: str, world: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    with pytest.raises(VidretError, match=reason):
        trainer.fit(make_module("clip"), datamodule=open_data(world, **settings))


@ignores_lightning
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"fps": 1.0}, "fps of the head must be that of its data, 1.0, got 0.5"),
        ({"num_layers": 3}, "num_layers of the head must be that of its data, 3, got 2"),
        ({"encoder": "other.safetensors#fps=0.5"}, "backbone of the head .* other.safetensors, got own.safetensors"),
    ],
)
def test_head_that_does_not_fit_its_data_is_refused_before_a_step(
    settings: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("prepare_data", "setup"):
        monkeypatch.setattr(GroundingData, name, lambda *_, **__: None)
    data: dict[str, Any] = {"num_layers": 2, "fps": 0.5, "encoder": "own.safetensors#fps=0.5"}
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    with pytest.raises(VidretError, match=reason):
        trainer.fit(
            make_head_module(backbone="own.safetensors"), datamodule=GroundingData("", "", "", "", **data | settings)
        )


def test_checkpointing_does_not_change_gradients() -> None:
    pixels = torch.randint(0, 255, (2, 6, 32, 32, 3), dtype=torch.uint8)
    found = []
    for checkpointing in (False, True):
        module = make_module("clip", num_frames=6, checkpointing=checkpointing).train()
        seen = module.model.encode_videos(pixels, torch.ones(2, 6, dtype=torch.bool))
        torch.autograd.backward(seen.frames.square().sum())
        found.append([weight.grad for weight in module.model.encoder.vision.parameters() if weight.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of what it traces
@pytest.mark.parametrize("method", ["clip", pytest.param("tempme", marks=pytest.mark.slow)])
def test_compiled_towers_give_and_save_the_same(method: str) -> None:
    pixels, mask = torch.randint(0, 255, (2, 6, 32, 32, 3), dtype=torch.uint8), torch.ones(2, 6, dtype=torch.bool)
    plain = make_module(method, num_frames=6).eval()
    compiled = make_module(method, num_frames=6, compiled="eager").eval()
    assert list(compiled.state_dict()) == list(plain.state_dict())
    ids = torch.tensor([[1, 5, 49407], [1, 49407, 0]])
    for one, other in zip(
        *((m.model.encode_videos(pixels, mask).frames, m.model.encode_texts(ids).words) for m in (plain, compiled)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@ignores_lightning
def test_head_trains_in_mixed_precision_logs_its_metrics_and_refuses_half_precision(tmp_path: Path) -> None:
    batches: Any = DataLoader([draw_moments()], batch_size=None)  # type: ignore[arg-type]
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=1, precision="bf16-mixed")
    trainer.fit(make_head_module(), batches, batches)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    metrics = {name for name in trainer.callback_metrics if name.startswith("val/")}
    assert metrics == {"val/R1@0.3", "val/R1@0.5", "val/R1@0.7", "val/mIoU"}
    trainer = make_trainer(tmp_path, max_steps=1, limit_val_batches=1)
    trainer.fit(make_head_module(boundaries=False, strides=(1,)), batches, batches)
    hits = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    assert set(hits) == {"val/hit@1"}
    assert hits["val/hit@1"] in (0.0, 50.0, 100.0)
    with pytest.raises(VidretError, match="weights must be float32 or float64"):  # seconds of spans would be rounded
        make_trainer(tmp_path, max_steps=1, precision="bf16-true").fit(make_head_module(), batches)


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match="weights, or both vision and text, must be given"):
        RetrievalModule("clip")
    for name in ("chunk_size", "seed"):
        with pytest.raises(VidretError, match=f"{name} must be at least 0, got -1"):
            make_module("clip", **{name: -1})
    for name in ("lr", "matrix_lr"):
        for rate in (-1.0, 0.0):
            with pytest.raises(VidretError, match=f"^{name} must be positive and finite, got {rate:g}$"):
                make_module("clip", **{name: rate})
    for name, rule in (("fps", "positive"), ("num_frames", "an integer of"), ("num_segments", "an integer of")):
        with pytest.raises(ValueError, match=f"^{name} must be {rule}"):  # else no search could load the model
            make_module("clip", **{name: 0})
    for wrong, rule in (({"warm_up": 1.5}, "warm_up"), ({"matrix_lr": 0.1, "cool_down": 1.0}, "cool_down")):
        with pytest.raises(VidretError, match=f"^{rule} must be "):
            make_module("clip", **wrong)
    with pytest.raises(ValueError, match="layers must be an integer of at least 1, got 0"):
        make_module("clip", vision=replace(VISION, layers=0))
    make_module("tempme").export(tmp_path / "towers.safetensors")
    make_module("tempme", weights=str(tmp_path / "towers.safetensors"))  # which have the shapes that it is given
    with pytest.raises(VidretError, match="vision must be the shape of the weights or null, got VisionShape"):
        make_module("tempme", weights=str(tmp_path / "towers.safetensors"), vision=replace(VISION, layers=9))
    with pytest.raises(VidretError, match=r"weights must fit num_frames, .*, got others: vision\.temporal\.0$"):
        make_module("tempme", weights=str(tmp_path / "towers.safetensors"), vision=None, text=None, num_frames=24)
    head = make_head_module(drop_at=3)
    head.trainer = make_trainer(tmp_path, max_steps=10)
    with pytest.raises(VidretError, match=r"max_epochs must be given .* got only drop_at 3"):
        head.configure_optimizers()
    with pytest.raises(VidretError, match=r"recipe must be one of qvhighlights, .*, got dreams"):
        make_head_module(recipe="dreams")
    with pytest.raises(VidretError, match=r"^lr must be positive and finite, got -1$"):
        make_head_module(lr=-1.0)
    for name, value in (("fps", 0.0), ("unit", -1.0), ("drop_at", 0), ("warm_up", -1), ("saliency_weight", -0.1)):
        with pytest.raises((ValueError, VidretError), match=f"^{name} must be "):
            make_head_module(**{name: value})
    for wrong in ({"similarity_weight": -1.0}, {"similarity_weight": 1.0, "boundaries": False}):
        with pytest.raises(VidretError, match="similarity_weight must be at least 0, and 0 without boundaries, got "):
            make_head_module(**wrong)


@ignores_lightning
def test_rate_falls_at_an_epoch_whatever_ends_the_run(tmp_path: Path) -> None:
    batches: Any = DataLoader([draw_moments(seed) for seed in range(3)], batch_size=None)  # type: ignore[arg-type]
    head = make_head_module(drop_at=2, lr=1e-3)
    make_trainer(tmp_path, max_epochs=10, max_steps=7, limit_val_batches=0).fit(head, batches)
    schedule: Any = head.trainer.lr_scheduler_configs[0].scheduler
    assert [schedule.lr_lambdas[0](step) for step in (5, 6)] == pytest.approx([1.0, 0.1])

    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from map(draw_moments, range(3))

    endless: Any = DataLoader(Endless(), batch_size=None)
    with pytest.raises(VidretError, match="training batches must have a number for drop_at"):
        make_trainer(tmp_path, max_epochs=10, max_steps=7, limit_val_batches=0).fit(
            make_head_module(drop_at=2), endless
        )


@ignores_lightning
@pytest.mark.parametrize("method", ["ucofia", pytest.param("glscl", marks=pytest.mark.slow)])
def test_averaged_weights_are_validated_as_they_are_saved(method: str, world: Path, tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, filename="averaged")
    trainer = make_trainer(
        tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=[EMAWeightAveraging(decay=0.9), saved]
    )
    trainer.fit(make_module(method, lr=5e-3), datamodule=open_data(world, val_share=0.4))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    path, data = tmp_path / "averaged.ckpt", open_data(world, val_share=0.4)
    again = make_trainer(tmp_path).validate(make_module(method), datamodule=data, ckpt_path=path, verbose=False)
    assert again == [logged]


def test_videos_without_a_text_give_no_metrics() -> None:
    module, batch = make_module("clip").eval(), draw_captioned(2)
    none = batch._replace(ids=batch.ids[:0], captions=batch.captions[:0], text_videos=batch.text_videos[:0])
    module.validation_step(none, 0)
    assert module.summarize(module._evaluated) == {}, "as the first batches, which a trainer checks before it starts"


@ignores_lightning
def test_a_validation_that_failed_leaves_nothing_for_the_next(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = make_module("clip"), open_data(world, eval_batch_size=3)
    (whole,) = make_trainer(tmp_path).validate(module, data, verbose=False)
    encode, calls = module.model.encode_videos, list[int]()

    def fail_once(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return encode(*arguments)

    monkeypatch.setattr(module.model, "encode_videos", fail_once)
    with pytest.raises(RuntimeError, match="out of memory"):
        make_trainer(tmp_path).validate(module, data, verbose=False)
    assert make_trainer(tmp_path).validate(module, data, verbose=False) == [whole]


def test_head_is_exported_into_a_copy_of_its_backbone(tmp_path: Path) -> None:
    backbone, out = tmp_path / "towers.safetensors", tmp_path / "models" / "joint.safetensors"
    make_module("ucofia").export(backbone)
    sizes = {"width": 32, "text_width": 32, "num_layers": 1}
    module = make_head_module(backbone=str(backbone), join=True, similarity_weight=1.0, **sizes)
    module.export(out)
    head, card = load_head(out)
    assert card == replace(module.card, backbone=str(out))
    assert card.similarity_weight == 1.0
    for name, weight in module.head.state_dict().items():
        assert torch.equal(head.state_dict()[name], weight), name
    assert load_encoder(str(out)).fingerprint == load_encoder(str(backbone)).fingerprint
    assert read_part_cards(out).keys() == {"aligner", "head"}
