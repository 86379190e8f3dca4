"""Tests of gathering: two processes give the values, gradients and training steps of one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, mixed_loss, pair_loss

ALL = slice(0, 8)
EVEN, UNEVEN = (slice(0, 4), slice(4, 8)), (slice(0, 3), slice(3, 8))
WAYS = {"even": EVEN, "uneven": UNEVEN}  # which rows each process has
NUM_STEPS = 3
VIDEOS = torch.tensor([0, 1, 2, 2, 3, 1, 4, 5])


def sample(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Towers(nn.Module):
    """Two linear maps and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.video = nn.Linear(6, 5).double(), nn.Linear(7, 5).double()
        self.logit_scale = nn.Parameter(torch.tensor(1.2, dtype=torch.float64))
        for seed, weight in enumerate(self.text.parameters()):
            weight.data = sample(*weight.shape, seed=seed)
        for seed, weight in enumerate(self.video.parameters(), start=10):
            weight.data = sample(*weight.shape, seed=seed)

    def forward(self, texts: Tensor, videos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.text(texts), self.video(videos), self.logit_scale * 1


def compute_loss(model: nn.Module, rows: slice) -> Tensor:
    """Return the loss of a process from its rows of the batch."""
    texts, videos, scale = model(sample(8, 6, seed=1)[rows], sample(8, 7, seed=2)[rows])
    same = find_same_videos(gather(VIDEOS[rows]))
    mixing_weights = gather(torch.linspace(0.1, 0.9, 8, dtype=torch.float64)[rows])
    pairs = gather(texts), gather(videos), scale
    return pair_loss(*pairs, same=same) + mixed_loss(*pairs, mixing_weights, same=same)


def train(model: nn.Module, rows: slice) -> dict[str, Any]:
    """Train a few steps; return the losses, the first gradients and the last weights."""
    losses, first = [], {}
    for step in range(NUM_STEPS):
        model.zero_grad()
        loss = compute_loss(model, rows)
        torch.autograd.backward(loss)
        losses.append(float(loss.detach()))
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            if step == 0:
                first[name] = weight.grad.clone()
            weight.data -= 0.1 * weight.grad
    return {"losses": losses, "gradients": first, "weights": {n: w.detach() for n, w in model.named_parameters()}}


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


def work(rank: int, folder: str) -> None:
    """Be one of two processes, and save its results to a file."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=len(EVEN))
    try:
        results: dict[str, Any] = {"kinds": gather_all_kinds(rank)}
        for way, rows in WAYS.items():
            result = train(DistributedDataParallel(Towers()), rows[rank])
            for kind in ("gradients", "weights"):
                result[kind] = {name.removeprefix("module."): value for name, value in result[kind].items()}
            results[way] = result
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    other = multiprocessing.get_context("spawn").Process(target=work, args=(1, str(folder)))
    other.start()
    try:
        work(0, str(folder))
    finally:
        other.join(180)
        other.kill()
        other.join()
    assert other.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(len(EVEN))]


def check(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        difference = (actual[name] - value).abs().max().item()
        assert difference < 1e-11, name


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_like_one(results: list[dict[str, Any]], way: str) -> None:
    expected = train(Towers(), ALL)
    assert all(gradient.abs().max() > 1e-3 for gradient in expected["gradients"].values())
    for result in results:
        check(result[way]["gradients"], expected["gradients"])
        check(result[way]["weights"], expected["weights"])
    for step, loss in enumerate(expected["losses"]):
        first, second = (result[way]["losses"][step] for result in results)
        assert (first + second) / 2 == pytest.approx(loss, abs=1e-11)
        assert first == second


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
