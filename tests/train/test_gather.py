"""Tests of two processes: they give the values, gradients and steps of one, and train every recipe without deadlock."""

import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, multiprocessing
from torch.utils.data import DataLoader

from tests.train.small import (
    METHODS,
    draw_captioned,
    draw_moments,
    make_head_module,
    make_module,
    make_trainer,
    open_data,
    sample,
    write_world,
)
from vidret.align.batches import take_rows
from vidret.train.gather import gather
from vidret.train.losses import add_terms

UNEVEN = slice(0, 3), slice(3, 8)  # rows of each process
HALVES = slice(0, 2), slice(2, 5)
RECIPES: dict[str, dict[str, Any]] = {
    **{
        f"{method}, {'all' if train_all else 'recipe'}": {"train_all": train_all}
        for method in METHODS
        for train_all in (False, True)
    },
    "tempme, recipe": {"train_all": False, "lora_rank": 2},
}
HEADS: dict[str, dict[str, Any]] = {"r2": {}, "r2, highlights": {"boundaries": False, "strides": (1,)}}


def gather_all_kinds(rank: int) -> dict[str, Any]:
    """Gather tensors whose numbers of rows and columns differ between processes."""
    rows, width = UNEVEN[rank], (4, 6)[rank]
    x = sample(8, 6, seed=3)[rows, :width].requires_grad_()
    gathered = gather(x)
    factors = sample(8, 6, seed=20 + rank)
    torch.autograd.backward((gathered * factors).sum())
    mask = torch.ones(len(x), width, dtype=torch.bool)
    ids = torch.arange(48).reshape(8, 6)[rows, :width]
    transposed = sample(6, 8, seed=4).T[rows]
    return {
        "values": gathered.detach(),
        "gradient": x.grad,
        "mask": gather(mask),
        "ids": gather(ids),
        "transposed": gather(transposed),
        "half": gather(x.detach().bfloat16()),
    }


def fit(folder: Path, recipe: str) -> dict[str, Any]:
    """Train two steps and validate; return the final weights, the names of changed ones, and the recall."""
    if recipe in HEADS:
        module: Any = make_head_module(**HEADS[recipe])
        loaders = [DataLoader([draw_moments(seed) for seed in range(2)], batch_size=None) for _ in range(2)]  # type: ignore[var-annotated, arg-type]
        data: dict[str, Any] = {"train_dataloaders": loaders[0], "val_dataloaders": loaders[1]}
    else:
        module, data = (
            make_module(recipe.split(",")[0], lr=2e-3, **RECIPES[recipe]),
            {"datamodule": open_data(folder)},
        )
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    trainer = make_trainer(
        folder,
        max_steps=2,
        val_check_interval=2,
        devices=2,
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


def compute_gradients(method: str, rows: slice) -> dict[str, Tensor]:
    """Return the mean over processes of the loss of a method and its gradients, each from its rows of a batch.

    Two pairs of different processes have the same video, which must not be negatives of each other.
    """
    module = make_module(method).eval()  # without dropout and noise, which differ between processes
    batch = draw_captioned(5)._replace(videos=torch.tensor([0, 1, 2, 1, 3]))
    loss = add_terms(module.compute_terms(take_rows(batch, rows)))
    torch.autograd.backward(loss)
    found = {"loss": gather(loss.detach()[None]).mean()}
    for name, weight in module.named_parameters():
        if weight.grad is not None:
            found[name] = gather(weight.grad[None]).mean(dim=0)
    return found


def work(rank: int, folder: str, recipes: list[str]) -> None:
    """Be one of two processes, and save the results."""
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"init_method": f"file://{folder}/rendezvous", "timeout": timedelta(seconds=180)}
    # LOCAL_RANK tells Lightning that the processes exist already.
    with warnings.catch_warnings(), mock.patch.dict(os.environ, LOCAL_RANK=str(rank)):
        warnings.simplefilter("ignore")  # Lightning's own, of its use of torch
        dist.init_process_group("gloo", rank=rank, world_size=2, **settings)
        try:
            results: dict[str, Any] = {"kinds": gather_all_kinds(rank)}
            results["methods"] = {method: compute_gradients(method, HALVES[rank]) for method in METHODS}
            results |= {recipe: fit(Path(folder), recipe) for recipe in recipes}
            torch.save(results, f"{folder}/{rank}.pt")
        finally:
            dist.destroy_process_group()


def work_together(folder: Path, recipes: list[str]) -> list[dict[str, Any]]:
    """Gather, and train recipes, in this process and another, and return the results of both.

    The other is forked where that is safe: to start it and import all that training needs takes longer than its work.
    """
    write_world(folder)
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    other = context.Process(target=work, args=(1, str(folder), recipes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of other threads of this process
        other.start()
    try:
        work(0, str(folder), recipes)
    finally:
        other.join(180)
        other.kill()
        other.join()
    assert other.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


QUICK = ["clip, recipe", "ucofia, all"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return work_together(tmp_path_factory.mktemp("processes"), QUICK)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_loss_and_the_gradients_of_one_process(results: list[dict[str, Any]], method: str) -> None:
    expected, actual = compute_gradients(method, slice(0, 5)), results[0]["methods"][method]
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((actual[name] - gradient).abs().max()) <= 1e-4 * float(gradient.abs().max()) + 1e-7, name


def test_rows_are_in_process_order_and_padded_with_zeros(results: list[dict[str, Any]]) -> None:
    values, real, ids = sample(8, 6, seed=3), torch.ones(8, 6, dtype=torch.bool), torch.arange(48).reshape(8, 6)
    real[:3, 4:] = False
    transposed = sample(6, 8, seed=4).T
    for kinds in (result["kinds"] for result in results):
        assert torch.equal(kinds["values"], values * real)
        assert torch.equal(kinds["mask"], real)
        assert torch.equal(kinds["ids"], ids * real)
        assert torch.equal(kinds["transposed"], transposed)
        assert torch.equal(kinds["half"], (values * real).bfloat16())


def test_gradient_is_the_sum_over_processes(results: list[dict[str, Any]]) -> None:
    gradient = sample(8, 6, seed=20) + sample(8, 6, seed=21)
    torch.testing.assert_close(results[0]["kinds"]["gradient"], gradient[:3, :4])
    torch.testing.assert_close(results[1]["kinds"]["gradient"], gradient[3:])


def test_single_process_returns_its_input() -> None:
    x = sample(3, 2)
    assert gather(x) is x


def check_recipes(results: list[dict[str, Any]], recipes: list[str]) -> None:
    for recipe in recipes:
        first, second = (result[recipe] for result in results)
        assert first["recall"] == second["recall"], recipe
        for name, weight in first["weights"].items():
            assert torch.equal(weight, second["weights"][name]), f"{recipe}: {name}"
        assert first["changed"] <= first["trained"], f"{recipe}: frozen weights do not change"
        assert first["changed"], recipe


def test_frozen_weights_do_not_block_training(results: list[dict[str, Any]]) -> None:
    check_recipes(results, QUICK)


@pytest.mark.slow
def test_every_recipe_trains_in_two_processes(tmp_path: Path) -> None:
    recipes = [*RECIPES, *HEADS]
    check_recipes(work_together(tmp_path, recipes), recipes)
