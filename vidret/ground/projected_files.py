"""One video's projected tokens in one file: each window is written as it comes, and read when it is asked for.

The file is a zip that compresses nothing, with one safetensors file a window: its check sums tell damage.
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
# What reading a file raises that is gone, torn, or whose bytes have changed: its flags, too.
DAMAGE = (OSError, BadZipFile, SafetensorError, ValueError, EOFError, RuntimeError, zlib.error)


def save_projected(path: Path, parts: Iterable[tuple[Window, ProjectedVideos]]) -> None:
    """Write the windows of one video, holding one at a time; the file is there whole, or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    # A name of our own: another process or thread may be at work on the same video.
    waiting = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ZipFile(waiting, "w") as archive:
            archive.comment = MARK
            for window, projected in parts:
                archive.writestr(f"{window.first}-{window.last}", save(_name_tensors(projected)))
        waiting.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            waiting.unlink()


def load_projected(path: Path, *, device: torch.device) -> Iterator[tuple[Window, ProjectedVideos]]:
    """Read one window at a time, in order; dropping the file meanwhile does no harm.

    Raises:
        StoreError: The file is gone or damaged, or holds something else.
    """
    try:
        with ZipFile(path) as archive:
            if archive.comment != MARK:
                raise StoreError(f"{path}: must hold {MARK.decode()}, got something else")
            for name in archive.namelist():
                first, last = name.split("-")
                yield Window(int(first), int(last)), _read_tensors(load(archive.read(name)), device)
    except DAMAGE as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error


def _name_tensors(projected: ProjectedVideos) -> dict[str, Tensor]:
    return {
        f"{kind}.{layer}": each.contiguous()
        for kind, part in zip(KINDS, projected[:3], strict=True)
        for layer, each in enumerate(part)
        if each is not None
    }


def _read_tensors(tensors: dict[str, Tensor], device: torch.device) -> ProjectedVideos:
    num_layers = sum(name.startswith("layers.") for name in tensors)
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    scales, biases = (tuple(placed.get(f"{kind}.{layer}") for layer in range(num_layers)) for kind in KINDS[1:])
    return ProjectedVideos(tuple(placed[f"layers.{layer}"] for layer in range(num_layers)), scales, biases)
