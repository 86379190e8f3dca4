"""Files of projected tokens: round trips, one window in memory, atomic writes, and detection of damage."""

import weakref
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidret.errors import StoreError
from vidret.ground.pieces import load_projected, save_projected
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window

CPU = torch.device("cpu")
Windows = list[tuple[Window, ProjectedVideos]]


def make_projected(
    num_frames: int = 4, dtype: torch.dtype = torch.int8, *, biases: bool = True, seed: int = 0
) -> ProjectedVideos:
    """Return two random layers, of which the second has fewer tokens and some padding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((1, num_frames, 3), (1, num_frames, 2))
    rows = tuple((100 * torch.randn(*shape, 8, generator=generator)).to(dtype) for shape in shapes)
    scales = tuple(torch.rand(shape, generator=generator) if dtype == torch.int8 else None for shape in shapes)
    bias = torch.rand(shapes[1], generator=generator)
    bias[..., 1] = -torch.inf
    return ProjectedVideos(rows, scales, (None, bias if biases else None))


def make_windows(num_windows: int = 3) -> Windows:
    return [(Window(2 * index, 2 * index + 4), make_projected(seed=index)) for index in range(num_windows)]


def is_same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.dtype == other.dtype and torch.equal(one, other)


def are_same(actual: Windows, expected: Windows) -> bool:
    if [window for window, _ in actual] != [window for window, _ in expected]:
        return False
    pairs = ((one, other) for (_, one), (_, other) in zip(actual, expected, strict=True))
    flat = (zip(chain(*one[:3]), chain(*other[:3]), strict=True) for one, other in pairs)
    return all(is_same(*tensors) for tensors in chain.from_iterable(flat))


def read(path: Path) -> Windows:
    return list(load_projected(path, device=CPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("biases", [False, True])
def test_files_round_trip(tmp_path: Path, dtype: torch.dtype, *, biases: bool) -> None:
    windows = [
        (Window(0, 4), make_projected(4, dtype, biases=biases)),
        (Window(3, 8), make_projected(5, dtype, seed=1)),
    ]
    save_projected(tmp_path / "new" / "folder" / "a.zip", windows)
    actual = read(tmp_path / "new" / "folder" / "a.zip")
    assert are_same(actual, windows)
    assert all(projected.mask is None for _, projected in actual)


def test_a_view_is_written_without_its_base(tmp_path: Path) -> None:
    whole = make_projected(40)
    layers = tuple(layer[:, 10:14] for layer in whole.layers)
    view = ProjectedVideos(layers, (None, None), (None, None))
    save_projected(tmp_path / "a.zip", [(Window(10, 14), view)])
    assert are_same(read(tmp_path / "a.zip"), [(Window(10, 14), view)])
    assert (tmp_path / "a.zip").stat().st_size < 1000


def test_one_window_is_in_memory_at_a_time(tmp_path: Path) -> None:
    written: list[weakref.ref[Tensor]] = []

    def draw() -> Iterator[tuple[Window, ProjectedVideos]]:
        for index in range(6):
            assert sum(ref() is not None for ref in written) <= 1, "earlier windows are freed"
            projected = make_projected(seed=index)
            written.append(weakref.ref(projected.layers[0]))
            yield Window(index, index + 4), projected
            del projected

    save_projected(tmp_path / "a.zip", draw())
    read_back: list[weakref.ref[Tensor]] = []
    for _, projected in load_projected(tmp_path / "a.zip", device=CPU):
        read_back.append(weakref.ref(projected.layers[0]))
        assert sum(ref() is not None for ref in read_back) <= 2
    assert len(written) == len(read_back) == 6


def test_writes_are_atomic(tmp_path: Path) -> None:
    path, windows = tmp_path / "a.zip", make_windows()

    def break_off() -> Iterator[tuple[Window, ProjectedVideos]]:
        yield windows[0]
        raise RuntimeError("the decoder crashed")

    with pytest.raises(RuntimeError, match="the decoder crashed"):
        save_projected(path, break_off())
    assert list(tmp_path.iterdir()) == []
    save_projected(path, windows)
    with pytest.raises(RuntimeError, match="the decoder crashed"):
        save_projected(path, break_off())
    assert are_same(read(path), windows), "the old file is kept"
    assert list(tmp_path.iterdir()) == [path]
    save_projected(path, windows[:1])
    assert are_same(read(path), windows[:1])


def test_deleting_a_file_while_reading(tmp_path: Path) -> None:
    path, windows = tmp_path / "a.zip", make_windows()
    save_projected(path, windows)
    reading = load_projected(path, device=CPU)
    first = next(reading)
    path.unlink()
    assert are_same([first, *reading], windows)


def test_truncated_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    save_projected(path, make_windows())
    data = path.read_bytes()
    for length in [*range(0, len(data), 31), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(StoreError, match=r"a\.zip: (cannot be read|must have the comment)"):
            read(path)


def test_changed_bytes_are_detected(tmp_path: Path) -> None:
    """Flip a bit in every byte: reading fails or is unaffected (a date in the zip, say)."""
    path, windows = tmp_path / "a.zip", make_windows(1)
    save_projected(path, windows)
    data = path.read_bytes()
    messages = []
    for offset in range(len(data)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :])
        try:
            assert are_same(read(path), windows)
        except StoreError as error:
            messages.append(str(error))
    assert len(messages) > 0.8 * len(data)
    assert all(sentence.startswith(f"{path}: ") for sentence in messages)


def test_other_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with pytest.raises(StoreError, match=r"a\.zip: cannot be read .*No such file"):
        read(path)
    for content in (b"", b"something else", bytes(5000)):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"a\.zip: cannot be read"):
            read(path)
    for comment in (b"", b"vidret mapped tokens, format 2"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = comment
            archive.writestr("0-4", b"")
        with pytest.raises(StoreError, match=r"a\.zip: must have the comment .vidret mapped tokens, format 1., got b"):
            read(path)
