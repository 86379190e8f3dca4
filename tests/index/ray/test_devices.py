"""Devices on Ray: the GPU of a local Ray, and the GPUs that workers use."""

import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import ColourEncoder, write_film
from vidret.engine import Engine
from vidret.errors import VidretError


@pytest.fixture
def ray() -> Any:
    """Return the module of Ray, whose import the quick tests do without."""
    return pytest.importorskip("ray")


@pytest.mark.parametrize(("visible", "seen"), [(None, "1"), ("4,7", "7")])
def test_ray_has_only_the_named_gpu(ray: Any, monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: str) -> None:
    from vidret.index.ray.cluster import join_cluster

    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with join_cluster(None, "cuda:1"):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible, "unchanged in this process"
        assert ray.cluster_resources()["GPU"] == 1
        task = ray.remote(num_gpus=1)(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        assert ray.get(task.remote()) == seen


@pytest.mark.parametrize("failures", [1, 2])
def test_local_ray_is_started_again_once(ray: Any, monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    from vidret.index.ray.cluster import join_cluster

    starts = list[str]()

    def start(address: str, **_: Any) -> None:
        starts.append(address)
        if len(starts) <= failures:
            raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", start)
    fails = pytest.raises(VidretError, match=r"Ray cannot start on this machine \(The current node timed out")
    with fails if failures == 2 else nullcontext(), join_cluster(None):
        pass
    assert starts == ["local", "local"]


@pytest.mark.parametrize(
    ("device", "asked", "taken"),
    [("cuda:1", None, 1), ("cuda:1", 0.5, 0.5), ("cuda:1", 0, 0), ("cpu", None, 0), ("mps", None, 0)],
)
def test_workers_use_a_gpu_as_the_engine_does_unless_set(
    ray: Any, monkeypatch: pytest.MonkeyPatch, device: str, asked: float | None, taken: float
) -> None:
    from vidret.index.ray.run import choose_gpus

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    assert choose_gpus(asked, device) == taken
    with pytest.raises(VidretError, match=r"num_gpus_per_worker must be at most what the cluster has \(1\), got 2"):
        choose_gpus(2, device)


@pytest.mark.usefixtures("ray")
def test_accelerator_that_ray_cannot_use_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from vidret.index.ray.run import index_on_ray

    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.device = "mps"
    film = write_film(tmp_path / "films" / "red.mp4", ("red", 2))
    with pytest.raises(VidretError, match=r"127.0.0.1:1: cannot be reached"):
        engine.index([film], run=partial(index_on_ray, address="127.0.0.1:1"))
    assert "Ray's workers cannot use mps, so they encode on the CPU" in caplog.text
