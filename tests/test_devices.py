"""Device names, and that every component of an engine uses the chosen device."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, ClassVar

import pytest
import torch

import vidret.engine
from tests.fakes import ColourEncoder, write_film
from tests.gpus import gpu_faiss, pretend_cuda
from tests.index.samples import read_contents
from vidret.cli import main
from vidret.devices import choose_device, choose_devices, cuda_index, one_blas_thread, set_blas_threads
from vidret.encode.encoder import Encoder
from vidret.engine import Engine
from vidret.errors import DeviceError, VidretError
from vidret.index.options import IndexOptions, IndexReport
from vidret.index.run import index_files
from vidret.search.heads.base import one_torch_thread
from vidret.store.store import Store
from vidret.store.vectors.flat import choose_search_device
from vidret.types import Frames, SegmentEmbedding


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    if kind != "mtia":
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda: 1)


def test_invalid_and_missing_devices_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == choose_device("cpu:0") == "cpu"
    for name in ("banana", "meta", "cuda:x", "cuda:", "cuda:-1", "cuda:²", "CUDA", "", "1"):
        with pytest.raises(
            DeviceError, match=f"device must be auto, cpu, cuda, cuda:N, xpu, xpu:N or mps, got {name}$"
        ):
            choose_device(name)
    for kind in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, kind), "device_count", lambda: 0)
        with pytest.raises(DeviceError, match=f"must exist, got {kind} on a machine with 0 {kind.upper()} devices"):
            choose_device(kind)
    pretend_cuda(monkeypatch)
    assert [choose_device(name) for name in ("cuda", "cuda:0", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(DeviceError, match="got cuda:2 on a machine with 2"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    ("kind", "chosen"), [("cuda", "cuda:0"), ("xpu", "xpu:0"), ("mps", "mps"), ("mtia", "cpu")], ids=str
)
def test_auto_selects_the_accelerator(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, chosen: str
) -> None:
    pretend(monkeypatch, kind)
    assert choose_device() == choose_device("auto") == chosen
    notes = {record.message for record in caplog.records}
    note = "the CPU is used: PyTorch finds mtia, and vidret knows cuda, xpu, mps only"
    assert notes == ({note} if kind == "mtia" else set())
    assert choose_device(chosen) == chosen, "a full name is unchanged"


def test_auto_is_the_cpu_without_an_accelerator_and_only_cuda_has_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("cuda", "cuda:0", "cuda:1", "cpu", "mps", "xpu:1")
    assert [cuda_index(name) for name in names] == [0, 0, 1, None, None, None]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert choose_device("auto") == "cpu"


class OnDevice(ColourEncoder):
    """An encoder that records its device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device


@pytest.mark.parametrize(("asked", "wanted"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_every_component_of_an_engine_gets_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str, wanted: str
) -> None:
    write_film(tmp_path / "films" / "red.mp4", ("red", 2))
    pretend_cuda(monkeypatch)
    got: dict[str, Any] = {}

    def load(_name: str, *, device: str, precision: str) -> OnDevice:
        got["encoder"] = device
        return OnDevice(device)

    def run(store: Store, encoder: Encoder, files: Sequence[str], options: IndexOptions) -> IndexReport:
        got["decoder"] = options.device
        return index_files(store, encoder, files, replace(options, device="cpu"))

    def ground(_path: Path, _models: Any, _encoder: Any, device: str) -> None:
        got["head"] = device

    monkeypatch.setattr(vidret.engine, "load_encoder", load)
    monkeypatch.setattr(vidret.engine, "load_moment_head", ground)
    head = tmp_path / "head.safetensors"
    head.touch()
    with gpu_faiss() as faiss, Engine.open(tmp_path / "index", device=asked, head=str(head)) as engine:
        assert engine.device == wanted
        engine.index([tmp_path / "films"], run=run)
        assert len(engine.search("red")) == 1
    assert got == {"encoder": wanted, "decoder": wanted, "head": wanted}
    assert faiss.copied_to
    assert set(faiss.copied_to) == {cuda_index(wanted)}


def test_a_loaded_encoder_determines_the_device_and_a_missing_one_is_reported_before_loading(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend_cuda(monkeypatch)
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_, **__: pytest.fail("a model was loaded"))
    for name in ("cuda:2", "banana"):
        with pytest.raises(DeviceError, match=f"got {name}"):
            Engine.open(tmp_path / "index", device=name)
    assert Engine.open(tmp_path / "index", encoder=OnDevice("cuda:1")).device == "cuda:1"
    assert Engine.open(tmp_path / "index", encoder=ColourEncoder()).device == "cpu"
    assert Engine(tmp_path / "index", OnDevice("cuda")).device == "cuda:0"
    assert Engine(tmp_path / "index", OnDevice("cuda"), device="cpu").device == "cpu"


@pytest.mark.parametrize(("asked", "level"), [("auto", logging.INFO), ("cuda", logging.WARNING)])
def test_faiss_without_gpu_support_falls_back_to_the_cpu_with_a_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: str, level: int
) -> None:
    pretend_cuda(monkeypatch)
    write_film(tmp_path / "films" / "red.mp4", ("red", 2))
    Engine(tmp_path / "index", ColourEncoder()).index([tmp_path / "films"])
    monkeypatch.setattr(vidret.engine, "load_encoder", lambda *_, device, **__: OnDevice(device))
    with gpu_faiss(0), caplog.at_level(logging.INFO), Engine.open(tmp_path / "index", device=asked) as engine:
        assert len(engine.search("red")) == 1
        assert len(engine.search("red")) == 1
    (record,) = [record for record in caplog.records if "FAISS" in record.message]
    assert (record.levelno, record.message) == (level, "FAISS does not see cuda:0, so it searches on the CPU")
    for device in ("cpu", "mps", "xpu:0"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert choose_search_device(device, is_given=level == logging.WARNING) == "cpu"
        assert [record.levelno for record in caplog.records] == ([] if device == "cpu" else [level])


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", ("cpu", "1")), ("cuda", ("cuda", "[0]")), ("cuda:1", ("cuda", "[1]")), ("auto", ("cuda", "[0]"))],
)
def test_training_gets_the_device(monkeypatch: pytest.MonkeyPatch, device: str, expected: tuple[str, str]) -> None:
    from vidret.train import run

    pretend_cuda(monkeypatch)
    got: list[str] = []
    monkeypatch.setattr(run, "TrainingCLI", lambda *_, args, **__: got.extend(args))
    monkeypatch.setattr("sys.argv", ["vidret", "train", "fit", "--config", "a.yaml", "--device", device])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    accelerator, devices = expected
    assert got == ["fit", "--config", "a.yaml", f"--trainer.accelerator={accelerator}", f"--trainer.devices={devices}"]


def test_training_rejects_unsupported_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from vidret.train.run import device_arguments

    pretend(monkeypatch, "mps")
    assert device_arguments("mps") == ["--trainer.accelerator=mps", "--trainer.devices=1"]
    pretend(monkeypatch, "xpu")
    with pytest.raises(DeviceError, match="device must be cpu, cuda or mps to train on, got xpu:0"):
        device_arguments("auto")


class SharingEncoder(ColourEncoder):
    """Waits until two of its kind encode at once, but for a single frame, as in the check before a run."""

    used: ClassVar[set[int]] = set()
    barrier = Barrier(2, timeout=30)

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        if len(batch[0]) > 1:
            self.barrier.wait()
            self.used.add(id(self))
        return super().encode_frames(batch, tokens=tokens)


def test_several_devices_encode_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidret.index.stages.count_cores", lambda: 1)
    film = write_film(tmp_path / "films" / "film.mp4", *((colour, 4) for colour in ("red", "blue", "green", "white")))
    name = f"{__name__}:{SharingEncoder.__name__}"
    with Engine.open(tmp_path / "several", encoder=name, device="cpu,cpu") as engine:
        assert engine.device == "cpu"
        assert engine.index([film]).num_segments == 4
        assert len(SharingEncoder.used) == 2
    with Engine(tmp_path / "one", ColourEncoder()) as engine:
        engine.index([film])
    assert read_contents(tmp_path / "several") == read_contents(tmp_path / "one")


def test_several_devices_are_of_one_kind_for_a_named_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "xpu")
    assert choose_devices("cpu,cpu:0") == ["cpu", "cpu"]
    for names in ("cpu,xpu", "xpu,", "cpu,banana"):
        with pytest.raises(DeviceError):
            choose_devices(names)
    with pytest.raises(DeviceError, match="one for an encoder that is loaded, got cpu,cpu"):
        Engine.open(tmp_path / "index", encoder=ColourEncoder(), device="cpu,cpu")
    film = write_film(tmp_path / "red.mp4", ("red", 2))
    name = f"tests.fakes:{ColourEncoder.__name__}"
    with (
        Engine.open(tmp_path / "index", encoder=name, device="cpu,cpu") as engine,
        pytest.raises(VidretError, match="one for another runner, got 2"),
    ):
        engine.index([film], run=index_files)


def test_numpy_gets_its_threads_back_when_the_last_query_has_ended() -> None:
    def count() -> int:
        num_threads = set_blas_threads(1)
        set_blas_threads(num_threads)
        return num_threads

    before = set_blas_threads(2)
    if count() != 2:
        pytest.skip("NumPy has no OpenBLAS here")
    try:
        with ExitStack() as second:
            with one_blas_thread():
                second.enter_context(one_blas_thread())
                assert count() == 1
            assert count() == 1
        assert count() == 2
    finally:
        set_blas_threads(before)


def test_torch_gets_its_threads_back_on_each_thread_that_asked_a_head() -> None:
    """One that comes first while another asks must not take the single thread of that one for its own number."""
    before, meeting = torch.get_num_threads(), Barrier(2, timeout=30)

    def ask(is_first: bool) -> list[int]:
        if not is_first:
            meeting.wait()
        with one_torch_thread():
            numbers = [torch.get_num_threads()]
            if is_first:
                meeting.wait()
            meeting.wait()
            if not is_first:
                meeting.wait()
        if is_first:
            meeting.wait()
        return [*numbers, torch.get_num_threads()]

    torch.set_num_threads(3)
    try:
        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(ask, (True, False))) == [[1, 3]] * 2
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
