"""Tests of distributed training: two processes train every recipe without deadlock, and end with equal weights."""

import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import multiprocessing
from torch.utils.data import DataLoader

from tests.train.small import METHODS, draw_moments, make_head_module, make_module, make_trainer, open_data, write_world

NUM_PROCESSES = 2
RECIPES: dict[str, dict[str, Any]] = {
    **{
        f"{method}, {'all' if train_all else 'recipe'}": {"train_all": train_all}
        for method in METHODS
        for train_all in (False, True)
    },
    "tempme, recipe": {"train_all": False, "lora_rank": 2},
    "clip, mixed": {"train_all": False, "mixup_weight": 0.5},
}
HEADS: dict[str, dict[str, Any]] = {"r2": {}, "r2, highlights": {"boundaries": False, "strides": (1,)}}


def fit(folder: Path, recipe: str) -> dict[str, Any]:
    """Train two steps and validate; return the final weights, the names of changed ones, and the recall."""
    if recipe in HEADS:
        module: Any = make_head_module(**HEADS[recipe])
        loaders = [DataLoader([draw_moments(seed) for seed in range(2)], batch_size=None) for _ in range(2)]  # type: ignore[var-annotated, arg-type]
        data: dict[str, Any] = {"train_dataloaders": loaders[0], "val_dataloaders": loaders[1]}
    else:
        module, data = make_module(recipe.split(",")[0], lr=2e-3, **RECIPES[recipe]), {"datamodule": open_data(folder)}
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    trainer = make_trainer(
        folder,
        max_steps=2,
        val_check_interval=2,
        devices=NUM_PROCESSES,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
    )
    trainer.fit(module, **data)
    after = {name: weight.detach() for name, weight in module.named_parameters()}
    return {
        "weights": after,
        "trained": {name for name, weight in module.named_parameters() if weight.requires_grad},
        "changed": {name for name in after if not torch.equal(after[name], before[name])},
        "recall": {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")},
    }


def work(rank: int, folder: str, recipes: list[str]) -> None:
    """Run one of two processes, and save the result of each recipe."""
    settings: dict[str, Any] = {"init_method": f"file://{folder}/rendezvous", "timeout": timedelta(seconds=180)}
    # LOCAL_RANK tells Lightning that the processes exist already.
    with warnings.catch_warnings(), mock.patch.dict(os.environ, LOCAL_RANK=str(rank)):
        warnings.simplefilter("ignore")  # Lightning's own, of its use of torch
        dist.init_process_group("gloo", rank=rank, world_size=NUM_PROCESSES, **settings)
        try:
            torch.save({recipe: fit(Path(folder), recipe) for recipe in recipes}, f"{folder}/{rank}.pt")
        finally:
            dist.destroy_process_group()


def train_together(folder: Path, recipes: list[str]) -> list[dict[str, Any]]:
    """Train recipes in this process and another, and return the results of both."""
    write_world(folder)
    other = multiprocessing.get_context("spawn").Process(target=work, args=(1, str(folder), recipes))
    other.start()
    try:
        work(0, str(folder), recipes)
    finally:
        other.join(30)
        other.kill()
        other.join()
    assert other.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(NUM_PROCESSES)]


def check(results: list[dict[str, Any]], recipes: list[str]) -> None:
    for recipe in recipes:
        first, second = (result[recipe] for result in results)
        assert first["recall"] == second["recall"], recipe
        for name, weight in first["weights"].items():
            assert torch.equal(weight, second["weights"][name]), f"{recipe}: {name}"
        assert first["changed"] <= first["trained"], f"{recipe}: frozen weights do not change"
        assert first["changed"], recipe


def test_frozen_weights_do_not_block_training(tmp_path: Path) -> None:
    recipes = ["clip, recipe", "ucofia, all"]
    check(train_together(tmp_path, recipes), recipes)


@pytest.mark.slow
def test_every_recipe_trains_in_two_processes(tmp_path: Path) -> None:
    recipes = [*RECIPES, *HEADS]
    check(train_together(tmp_path, recipes), recipes)
