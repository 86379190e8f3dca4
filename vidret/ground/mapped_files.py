"""One video's mapped tokens in one file: window after window, each read when it is asked for."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidret.errors import VidretError
from vidret.ground.mapped import MappedVideos
from vidret.ground.windows import Window

FORMAT = 1
KEY = "vidret-mapped"


def save_mapped(path: Path, parts: Iterable[tuple[Window, MappedVideos]]) -> None:
    """Write the windows of one video; the file is there whole, or not at all.

    Raises:
        VidretError: It cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    windows = []
    for number, (window, mapped) in enumerate(parts):
        windows.append([window.first, window.last])
        for name, part in zip(("layers", "scales", "biases"), mapped[:3], strict=True):
            tensors.update(
                {f"{number}.{name}.{layer}": each.contiguous() for layer, each in enumerate(part) if each is not None}
            )
    waiting = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, waiting, metadata={KEY: json.dumps({"format": FORMAT, "windows": windows})})
        waiting.replace(path)
    except (OSError, SafetensorError) as error:
        waiting.unlink(missing_ok=True)
        raise VidretError(f"{path}: cannot be written ({error})") from error


def load_windows(path: Path) -> list[Window]:
    """Say which windows a file holds.

    Raises:
        VidretError: The file cannot be read, or holds something else.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise VidretError(f"{path}: {error}") from error
    if facts.get("format") != FORMAT:
        raise VidretError(f"{path}: must be mapped tokens of format {FORMAT}, got {facts.get('format')}")
    return [Window(first, last) for first, last in facts["windows"]]


def load_mapped(path: Path, *, num_layers: int, device: torch.device) -> Iterator[MappedVideos]:
    """Read one window at a time, in order.

    Raises:
        VidretError: The file cannot be read.
    """
    for number in range(len(load_windows(path))):
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                names = set(file.keys())
                parts = (
                    tuple(
                        file.get_tensor(name) if (name := f"{number}.{kind}.{layer}") in names else None
                        for layer in range(num_layers)
                    )
                    for kind in ("layers", "scales", "biases")
                )
                layers, scales, biases = parts
        except (OSError, SafetensorError) as error:
            raise VidretError(f"{path}: {error}") from error
        whole = tuple(layer for layer in layers if layer is not None)
        yield MappedVideos(whole, scales, biases)
