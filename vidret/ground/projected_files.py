"""Files of one video's projected tokens, written and read one window at a time.

A file is an uncompressed zip with one safetensors file per window; the checksums of the zip reveal damage.
"""

import contextlib
import os
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from vidret.errors import StoreError
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window

MARK = b"vidret mapped tokens, format 1"
KINDS = ("layers", "scales", "biases")
# The errors of reading a file that is missing, truncated or corrupt, in its data or its headers.
DAMAGE = (OSError, BadZipFile, SafetensorError, ValueError, EOFError, RuntimeError, zlib.error)


def save_projected(path: Path, windows: Iterable[tuple[Window, ProjectedVideos]]) -> None:
    """Write the windows of one video atomically, keeping one window in memory.

    Raises:
        StoreError: The file cannot be written.
    """
    tensors = ((f"{window.first}-{window.last}", _name_tensors(projected)) for window, projected in windows)
    write_archive(path, MARK, tensors)


def write_archive(path: Path, mark: bytes, entries: Iterable[tuple[str, dict[str, Tensor]]]) -> None:
    """Write entries of named tensors to a file atomically, keeping one entry in memory; ``mark`` names the format.

    Raises:
        StoreError: The file cannot be written.
    """
    # The name is unique, since another process or thread may write the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ZipFile(temporary, "w") as archive:
            archive.comment = mark
            for name, tensors in entries:
                archive.writestr(name, save(tensors))
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def load_projected(path: Path, *, device: torch.device) -> Iterator[tuple[Window, ProjectedVideos]]:
    """Yield the windows of a file in order, one at a time; the file may be deleted meanwhile.

    Raises:
        StoreError: The file is missing, damaged, or has another format.
    """
    try:
        for name, tensors in read_archive(path, MARK):
            first, last = name.split("-")
            yield Window(int(first), int(last)), _read_tensors(tensors, device)
    except ValueError as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error


def read_archive(path: Path, mark: bytes) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the entries of a file that ``write_archive`` wrote, in order, one at a time.

    Raises:
        StoreError: The file is missing, damaged, or has another format.
    """
    try:
        with ZipFile(path) as archive:
            if archive.comment != mark:
                raise StoreError(f"{path}: must have the comment {mark.decode()!r}, got {archive.comment[:40]!r}")
            for name in archive.namelist():
                yield name, load(archive.read(name))
    except DAMAGE as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error


def _name_tensors(projected: ProjectedVideos) -> dict[str, Tensor]:
    return {
        f"{kind}.{layer}": tensor.contiguous()
        for kind, tensors in zip(KINDS, projected[:3], strict=True)
        for layer, tensor in enumerate(tensors)
        if tensor is not None
    }


def _read_tensors(tensors: dict[str, Tensor], device: torch.device) -> ProjectedVideos:
    num_layers = sum(name.startswith("layers.") for name in tensors)
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    scales, biases = (tuple(placed.get(f"{kind}.{layer}") for layer in range(num_layers)) for kind in KINDS[1:])
    return ProjectedVideos(tuple(placed[f"layers.{layer}"] for layer in range(num_layers)), scales, biases)
