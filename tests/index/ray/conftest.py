"""Two Ray nodes on this machine, one core each, and a model that their workers can load by its name."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.encode.tiny import TEXT, VISION, load_clip, stir
from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.engine import Engine
from vidret.index.options import IndexReport
from vidret.types import Sampling

PATIENCE = 1200  # seconds: a busy machine starts a dozen processes slowly
RAY = ("DeprecationWarning:ray", "FutureWarning:ray", "UserWarning:ray")
IGNORED = (*RAY, "ResourceWarning", "pytest.PytestUnraisableExceptionWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder: they take minutes, and Ray warns of its own code."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("scale")
            for warning in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{warning}"))


class Nodes:
    """A cluster of the driver's node, which stays, and another node, which may be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False}
        self._cluster: Any = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self.address = str(self._cluster.address)
        self._other: Any = None

    def fill(self) -> None:
        """Start the second node again if it was lost."""
        if self._other is None:
            self._other = patiently(lambda: self._cluster.add_node(num_cpus=1))

    def lose_one(self) -> None:
        """Kill all processes of the second node."""
        self._cluster.remove_node(self._other, allow_graceful=False)
        self._other = None

    def workers(self) -> dict[int, str]:
        """Return what each worker process of both nodes does, by process id."""
        found = {}
        for node in (self._cluster.head_node, self._other):
            raylet = node.all_processes["raylet"][0].process.pid
            for task in Path(f"/proc/{raylet}/task").iterdir():
                for pid in map(int, (task / "children").read_text().split()):
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        return found

    def close(self) -> None:
        """Stop both nodes, even if a failed test left this process connected to them."""
        import ray

        ray.shutdown()
        self._cluster.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node, with more patience than Ray, which gives up after 30 s, too soon on a busy machine."""
    for _ in range(4):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def nodes(two_nodes: Nodes) -> Nodes:
    two_nodes.fill()
    return two_nodes


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a CLIP with random weights."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    torch.manual_seed(1)
    text = replace(TEXT, context=77, vocabulary=49408, layers=1)
    model = ClipModel(Card("tiny", "tiny", VISION, text, sampling=Sampling(num_frames=4)))
    stir(model)
    save_model(model, path)
    return path


def open_engine(index: Path, model: Path, **options: Any) -> Engine:
    return Engine.open(index, encoder=str(model), device="cpu", precision="fp32", **options)


def on_ray(nodes: Nodes, **options: Any) -> Callable[..., IndexReport]:
    from vidret.index.ray.run import index_on_ray

    return partial(index_on_ray, address=nodes.address, precision="fp32", **options)


@pytest.fixture
def encoder(model: Path) -> ClipEncoder:
    return load_clip(model)


def call_after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: int, call: Callable[[], None]) -> None:
    """Call a function right after the n-th call of a method."""
    method, calls = getattr(owner, name), itertools.count(1)

    def call_both(*arguments: Any, **options: Any) -> None:
        method(*arguments, **options)
        if next(calls) == number:
            call()

    monkeypatch.setattr(owner, name, call_both)
