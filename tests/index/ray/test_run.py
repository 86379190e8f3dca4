"""Indexing on Ray: the index that threads make, whatever is lost, interrupted or killed; GPUs of workers."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.fakes import ColourEncoder, write_film, write_mosaic
from tests.index.ray import conftest
from tests.index.ray.conftest import PATIENCE, Nodes, call_after, on_ray
from tests.index.samples import make_hostile_files, read_contents, read_index, read_states
from vidret.cli.opening import FIRST_START
from vidret.encode.clip.encoder import ClipEncoder
from vidret.engine import Engine
from vidret.errors import DecodeError, MissingExtraError, StoreError, VidretError
from vidret.index.options import Progress
from vidret.index.run_state import RunState
from vidret.store.writing import Writer
from vidret.video.shots.segments import DecodedSegment


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a long film and several short ones: 15 + 12 x 2 segments."""
    folder = tmp_path_factory.mktemp("films")
    write_mosaic(folder / "long.mp4", 60, seed=99)
    for seed in range(12):
        write_mosaic(folder / f"{seed}.mp4", 6 + seed % 3, seed)
    return folder


@pytest.fixture(scope="module")
def whole(films: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of the films that was made on threads."""
    index = tmp_path_factory.mktemp("whole") / "index"
    report = open_engine(index, model).index([films])
    assert report.encoded == 13
    assert report.num_segments >= 30
    return index


open_engine = partial(conftest.open_engine, rerank="ucofia")


def test_index_made_on_two_nodes_equals_that_made_on_threads(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path
) -> None:
    reports: list[Progress] = []
    engine = open_engine(tmp_path / "index", model)
    report = engine.index([films], run=on_ray(nodes), on_progress=reports.append)
    assert (report.encoded, report.failed, report.interrupted) == (13, [], False)
    assert read_index(tmp_path / "index") == read_index(whole)
    shares = [progress.share for progress in reports]
    assert shares == sorted(shares)
    assert len(report.speeds) == 4
    assert all(rate > 0 for rate in report.speeds.values())
    assert engine.search("rain") == [hit for hit in engine.search("rain") if hit.path.startswith(str(films))], (
        "stored segments can be searched"
    )

    again = engine.index([films], run=on_ray(nodes))
    assert (again.unchanged, again.encoded, again.num_segments) == (13, 0, 0)
    assert read_index(tmp_path / "index") == read_index(whole)


def test_lost_node_loses_nothing(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call_after(monkeypatch, RunState, "add", 1, nodes.lose_one)
    report = open_engine(tmp_path / "index", model).index([films], run=on_ray(nodes))
    assert (report.encoded, report.failed) == (13, [])
    assert read_index(tmp_path / "index") == read_index(whole)


def test_killed_workers_lose_nothing(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []

    def kill() -> None:
        for pid, name in nodes.workers().items():
            if name.startswith("ray::RemoteEncoder") or "decode_file" in name:
                killed.append(name)
                os.kill(pid, signal.SIGKILL)

    call_after(monkeypatch, RunState, "add", 1, kill)
    report = open_engine(tmp_path / "index", model).index([films], run=on_ray(nodes))
    assert any(name.startswith("ray::RemoteEncoder") for name in killed), "at least one encoder"
    assert (report.encoded, report.failed) == (13, [])
    assert read_index(tmp_path / "index") == read_index(whole)


def test_decoder_lost_between_a_segment_and_its_frames_loses_nothing(
    nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidret.index.ray import run

    decode, marker = run.decode_file, tmp_path / "killed"

    def decode_and_die(*arguments: Any) -> Iterator[Any]:
        for sent in decode(*arguments):
            yield sent
            if isinstance(sent, tuple) and isinstance(sent[0], DecodedSegment) and not marker.exists():
                marker.touch()
                time.sleep(2)  # until the segment has arrived
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(run, "decode_file", decode_and_die)
    report = open_engine(tmp_path / "index", model).index([films / "long.mp4"], run=on_ray(nodes))
    assert marker.exists()
    assert (report.encoded, report.failed) == (1, [])
    contents, known = read_contents(tmp_path / "index"), read_contents(whole)
    (film,) = {content for content, _ in contents}
    assert contents == {key: segment for key, segment in known.items() if key[0] == film}


def test_no_thread_uses_ray_while_it_is_shut_down(
    nodes: Nodes, films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray frees memory then that its calls still use."""
    import ray

    from vidret.index.ray import run

    class SlowEncoder(run.RemoteEncoder):
        def encode(self, *segments: Any) -> Any:
            time.sleep(3)
            return super().encode(*segments)

    alive, shutdown = list[str](), ray.shutdown

    def note_and_shut_down() -> None:
        alive.extend(thread.name for thread in threading.enumerate() if thread.name in ("encode", "worker"))
        shutdown()

    monkeypatch.setattr(run, "RemoteEncoder", SlowEncoder)
    monkeypatch.setattr(Writer, "add_segments", Mock(side_effect=StoreError("the disk is full")))
    monkeypatch.setattr(ray, "shutdown", note_and_shut_down)
    with pytest.raises(StoreError, match="the disk is full"):
        open_engine(tmp_path / "index", model).index([films / "long.mp4"], run=on_ray(nodes))
    assert alive == []


# Index on a local Ray, and send a signal after some commits. Arguments: index, films, model, signal, number of commits.
SCRIPT = """
import os, signal, sys
from functools import partial
from vidret.engine import Engine
from vidret.index.run_state import RunState
from vidret.index.ray.run import index_on_ray
index, films, model, what, after = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
add, calls = RunState.add, []
def add_and_die(self, job, segment):
    add(self, job, segment)
    calls.append(segment)
    if len(calls) == int(after):
        os.kill(0 if what == "SIGINT" else os.getpid(), getattr(signal, what))  # a terminal signals the whole group
RunState.add = add_and_die
engine = Engine.open(index, encoder=model, rerank="ucofia", device="cpu", precision="fp32")
report = engine.index([films], run=partial(index_on_ray, precision="fp32"))
print(report.interrupted, report.num_segments)
"""


def run_script(index: Path, films: Path, model: Path, what: str, after: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", SCRIPT, str(index), str(films), str(model), what, str(after)]
    return subprocess.run(
        command, capture_output=True, text=True, start_new_session=True, check=False, timeout=PATIENCE
    )


def test_run_of_a_killed_driver_is_resumed(nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path) -> None:
    assert run_script(tmp_path / "index", films, model, "SIGKILL", 3).returncode == -signal.SIGKILL
    stored = len(read_contents(tmp_path / "index"))
    assert 3 <= stored < len(read_contents(whole))
    report = open_engine(tmp_path / "index", model).index([films], run=on_ray(nodes))
    assert report.num_segments == len(read_contents(whole)) - stored, "no segment twice"
    assert read_index(tmp_path / "index") == read_index(whole)


def test_interrupted_run_commits_segments(nodes: Nodes, films: Path, whole: Path, model: Path, tmp_path: Path) -> None:
    ended = run_script(tmp_path / "index", films, model, "SIGINT", 1)
    assert ended.returncode == 0
    assert ended.stderr.startswith("interrupted: finishing the segments in progress")
    interrupted, num_segments = ended.stdout.split()
    assert interrupted == "True"
    stored = len(read_contents(tmp_path / "index"))
    assert int(num_segments) == stored
    assert 0 < stored < len(read_contents(whole))
    report = open_engine(tmp_path / "index", model).index([films], run=on_ray(nodes))
    assert report.num_segments == len(read_contents(whole)) - stored
    assert read_index(tmp_path / "index") == read_index(whole)


def test_hostile_files_and_copies_are_as_on_threads(nodes: Nodes, films: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    good = shutil.copy(films / "0.mp4", folder / "good.mp4")
    make_hostile_files(folder, Path(good))
    for copy_index in range(3):
        shutil.copy(good, folder / f"copy {copy_index}.mp4")
        shutil.copy(folder / "text.mp4", folder / f"text {copy_index}.mp4")
    (folder / "not utf-8 \udce9.mp4").write_bytes((films / "1.mp4").read_bytes())
    expected = open_engine(tmp_path / "whole", model).index([folder])
    report = open_engine(tmp_path / "index", model).index([folder], run=on_ray(nodes))
    assert report.failed == expected.failed
    assert report.salvaged == expected.salvaged
    assert (report.encoded, report.linked) == (expected.encoded, expected.linked) == (2, 3)
    assert read_contents(tmp_path / "index") == read_contents(tmp_path / "whole")
    assert read_states(tmp_path / "index") == read_states(tmp_path / "whole")

    shutil.move(good, folder / "moved.mp4")
    report = open_engine(tmp_path / "index", model).index([folder], run=on_ray(nodes), prune=True)
    assert (report.linked, report.missing, report.encoded, report.num_segments) == (1, 0, 0, 0)


def test_errors_that_end_a_run_are_one_sentence(
    nodes: Nodes, films: Path, model: Path, encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder.fingerprint = "another"
    with pytest.raises(VidretError, match=r"must have the fingerprint another, got \w+ on .*same model's files$"):
        Engine(tmp_path / "other", encoder).index([films / "0.mp4"], run=on_ray(nodes))
    encoder.name = str(tmp_path / "gone.safetensors")
    with pytest.raises(VidretError, match=r"gone.safetensors.*every node must reach the model's files"):
        Engine(tmp_path / "gone", encoder).index([films / "0.mp4"], run=on_ray(nodes))
    with pytest.raises(VidretError, match=r"num_gpus_per_worker must be at most what the cluster has \(0\), got 1"):
        Engine(tmp_path / "gpu", encoder).index([films / "0.mp4"], run=on_ray(nodes, num_gpus_per_worker=1))
    monkeypatch.setattr(Writer, "add_segments", Mock(side_effect=StoreError("the disk is full")))
    with pytest.raises(StoreError, match="the disk is full"):
        open_engine(tmp_path / "full", model).index([films / "0.mp4"], run=on_ray(nodes))


def test_command_starts_a_local_ray_without_output_of_its_own(films: Path, model: Path, tmp_path: Path) -> None:
    program = "from vidret.cli import main; main()"
    options = ["--runner", "ray", "--model", str(model), "--precision", "fp32", "--json", "--progress-json"]
    command = [sys.executable, "-c", program, "index", str(films / "0.mp4"), *options, "--index"]
    run = partial(subprocess.run, capture_output=True, text=True, check=False, timeout=PATIENCE)
    completed = run([*command, str(tmp_path / "index")])
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["encoded"] == 1
    for line in completed.stderr.replace(f"{FIRST_START}\n", "").splitlines():  # which a slow machine says
        assert set(json.loads(line)) == {"share", "done", "files", "file", "failed", "elapsed", "left"}
    failed = run([*command, str(tmp_path / "none"), "--address", "127.0.0.1:1"])
    assert failed.returncode == 1
    message = failed.stderr.replace(f"{FIRST_START}\n", "")
    assert message.startswith("error: 127.0.0.1:1: cannot be reached (")
    assert len(message.splitlines()) == 1


def test_what_a_node_lacks_is_said_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from vidret.index.ray import run

    def fail(reason: VidretError) -> Callable[..., Any]:
        def identify(_path: str) -> Any:
            raise reason

        return identify

    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    monkeypatch.setattr(run, "identify", fail(MissingExtraError("reading s3://", "remote")))
    found = pickle.loads(pickle.dumps(run.identify_file("s3://films/a.mp4")))
    assert str(found) == 'node-7: reading s3:// needs the extra "remote": pip install "vidret[remote]"'
    monkeypatch.setattr(run, "identify", fail(DecodeError("a.mp4", "is no video")))
    found = pickle.loads(pickle.dumps(run.identify_file("a.mp4")))
    assert isinstance(found, DecodeError)
    assert str(found) == "a.mp4: is no video"


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
