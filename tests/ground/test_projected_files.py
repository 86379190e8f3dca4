"""Projected tokens on disk: what goes in comes out, one window at a time, whole or not at all, and damage is told."""

import resource
import threading
import weakref
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from vidret.errors import StoreError
from vidret.ground.projected import ProjectedVideos
from vidret.ground.projected_files import load_projected, save_projected
from vidret.ground.windows import Window

CPU = torch.device("cpu")
Parts = list[tuple[Window, ProjectedVideos]]


def make_projected(
    num_frames: int = 4, dtype: torch.dtype = torch.int8, *, biases: bool = True, seed: int = 0
) -> ProjectedVideos:
    """Draw two layers of which the second has fewer tokens, and padding among them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, num_frames, 3), (1, num_frames, 2))
    rows = tuple((100 * torch.randn(*shape, 8, generator=generator)).to(dtype) for shape in shapes)
    scales = tuple(torch.rand(shape, generator=generator) if dtype == torch.int8 else None for shape in shapes)
    bias = torch.rand(shapes[1], generator=generator)
    bias[..., 1] = -torch.inf
    return ProjectedVideos(rows, scales, (None, bias if biases else None))


def make_parts(num_windows: int = 3) -> Parts:
    return [(Window(2 * number, 2 * number + 4), make_projected(seed=number)) for number in range(num_windows)]


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def are_same(found: Parts, expected: Parts) -> bool:
    if [window for window, _ in found] != [window for window, _ in expected]:
        return False
    pairs = ((one, other) for (_, one), (_, other) in zip(found, expected, strict=True))
    flat = (zip(chain(*one[:3]), chain(*other[:3]), strict=True) for one, other in pairs)
    return all(is_same(*tensors) for tensors in chain.from_iterable(flat))


def read(path: Path) -> Parts:
    return list(load_projected(path, device=CPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("biases", [False, True])
def test_what_goes_in_comes_out(tmp_path: Path, dtype: torch.dtype, *, biases: bool) -> None:
    parts = [(Window(0, 4), make_projected(4, dtype, biases=biases)), (Window(3, 8), make_projected(5, dtype, seed=1))]
    save_projected(tmp_path / "new" / "folder" / "a.zip", parts)
    found = read(tmp_path / "new" / "folder" / "a.zip")
    assert are_same(found, parts)
    assert all(projected.mask is None for _, projected in found)


def test_any_zip_and_safetensors_reader_reads_it(tmp_path: Path) -> None:
    parts = make_parts(2)
    save_projected(tmp_path / "a.zip", parts)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0-4", "2-6"]
        assert archive.testzip() is None
        tensors = load(archive.read("2-6"))
    projected = parts[1][1]
    assert set(tensors) == {"layers.0", "layers.1", "scales.0", "scales.1", "biases.1"}
    assert torch.equal(tensors["layers.1"], projected.layers[1])
    assert is_same(tensors["biases.1"], projected.biases[1])


def test_a_part_of_a_larger_tensor_is_written_alone(tmp_path: Path) -> None:
    whole = make_projected(40)
    layers = tuple(layer[:, 10:14] for layer in whole.layers)
    part = ProjectedVideos(layers, (None, None), (None, None))
    save_projected(tmp_path / "a.zip", [(Window(10, 14), part)])
    assert are_same(read(tmp_path / "a.zip"), [(Window(10, 14), part)])
    assert (tmp_path / "a.zip").stat().st_size < 1000


def test_one_window_is_held_at_a_time(tmp_path: Path) -> None:
    written: list[weakref.ref[Tensor]] = []

    def draw() -> Iterator[tuple[Window, ProjectedVideos]]:
        for number in range(6):
            assert sum(ref() is not None for ref in written) <= 1, "the one before goes when the next is there"
            projected = make_projected(seed=number)
            written.append(weakref.ref(projected.layers[0]))
            yield Window(number, number + 4), projected
            del projected

    save_projected(tmp_path / "a.zip", draw())
    read_back: list[weakref.ref[Tensor]] = []
    for _, projected in load_projected(tmp_path / "a.zip", device=CPU):
        read_back.append(weakref.ref(projected.layers[0]))
        assert sum(ref() is not None for ref in read_back) <= 2
    assert len(written) == len(read_back) == 6


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path, parts = tmp_path / "a.zip", make_parts()

    def break_off() -> Iterator[tuple[Window, ProjectedVideos]]:
        yield parts[0]
        raise RuntimeError("the decoder crashed")

    with pytest.raises(RuntimeError, match="the decoder crashed"):
        save_projected(path, break_off())
    assert list(tmp_path.iterdir()) == []
    save_projected(path, parts)
    with pytest.raises(RuntimeError, match="the decoder crashed"):
        save_projected(path, break_off())
    assert are_same(read(path), parts), "what was there stays"
    assert list(tmp_path.iterdir()) == [path]
    save_projected(path, parts[:1])
    assert are_same(read(path), parts[:1])


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(StoreError, match=r"a\.zip: cannot be written"):
            save_projected(tmp_path / "a.zip", make_parts(9))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"a\.zip: cannot be written"):
        save_projected(tmp_path / "file" / "a.zip", make_parts())


def test_many_may_write_one_file_at_once(tmp_path: Path) -> None:
    path, parts = tmp_path / "a.zip", make_parts(20)
    threads = [threading.Thread(target=save_projected, args=(path, parts)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert are_same(read(path), parts)
    assert list(tmp_path.iterdir()) == [path]


def test_dropping_a_file_that_is_being_read_does_no_harm(tmp_path: Path) -> None:
    path, parts = tmp_path / "a.zip", make_parts()
    save_projected(path, parts)
    reading = load_projected(path, device=CPU)
    first = next(reading)
    path.unlink()
    assert are_same([first, *reading], parts)


def test_every_torn_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save_projected(path, make_parts())
    data = path.read_bytes()
    for length in [*range(0, len(data), 31), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"a\.zip: (cannot be read|must have the comment)"):
            read(path)


def test_no_changed_byte_of_a_window_goes_unseen(tmp_path: Path) -> None:
    """Flip bits everywhere: either it is told, or it is nothing that is read (a date in the zip, say)."""
    path, parts = tmp_path / "a.zip", make_parts(1)
    save_projected(path, parts)
    data = path.read_bytes()
    told = []
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            assert are_same(read(path), parts)
        except StoreError as error:
            told.append(str(error))
    assert len(told) > 0.8 * len(data)
    assert all(sentence.startswith(f"{path}: ") for sentence in told)


@pytest.mark.parametrize("content", [b"", b"something else", bytes(5000)])
def test_what_is_something_else_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.zip"
    with pytest.raises(StoreError, match=r"a\.zip: cannot be read .*No such file"):
        read(path)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.zip: cannot be read"):
        read(path)


def test_another_zip_or_format_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for comment in (b"", b"vidret mapped tokens, format 2"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = comment
            archive.writestr("0-4", b"")
        with pytest.raises(StoreError, match=r"a\.zip: must have the comment .vidret mapped tokens, format 1., got b"):
            read(path)
