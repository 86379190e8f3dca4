"""Print what a training step of retrieval keeps in memory on one GPU: a table in GB, without a GPU.

    python tools/measure_memory.py [CONFIG ...] [--markdown]

Activations are what autograd saves for the backward pass, each storage once, weights and their casts left out. A
forward pass of the real shapes on the CPU counts them, in the casts of CUDA's autocast, and keeps none. They are
proportional to the videos and texts that are encoded, without merging and prompts also to the frames, and grow with the
square of the pairs that the losses compare, which 8, 16 and 24 pairs show. ``as configured`` has the precision and the
``chunk_size`` of the file; the state is weights, their copies in bfloat16, gradients and the optimiser's two moments.
What a kernel needs for a moment, and what the allocator loses, come on top.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from harness import print_rows
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from vidret import layers
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.train.model import Vectors
from vidret.train.retrieval import RetrievalModule

GB = 1e9
TEXT = TextShape(context=77, vocabulary=49408, width=512, layers=12, heads=8, dim=512, quick_gelu=True)
PATCHES = {"ViT-B-32": 32, "ViT-B-16": 16}
NUM_PAIRS = (8, 16, 24)  # that losses are measured with


def read(path: Path) -> dict[str, Any]:
    """Return a configuration."""
    config: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return config


def build(config: dict[str, Any]) -> RetrievalModule:
    """Return the module of a configuration with random weights."""
    given = dict(config["model"]["init_args"])
    weights = given.pop("weights", None)
    if weights is not None:
        patch_size = PATCHES[weights.partition("-quickgelu")[0]]
        shape = {"width": 768, "layers": 12, "heads": 12, "dim": 512, "quick_gelu": True}
        given |= {"vision": VisionShape(image_size=224, patch=patch_size, **shape), "text": TEXT}  # type: ignore[arg-type]
    else:
        given |= {"vision": VisionShape(**given["vision"]), "text": TextShape(**given["text"])}
    if "merging" in given:
        lists: dict[str, Any] = {name: tuple(each) for name, each in given["merging"].items() if isinstance(each, list)}
        given["merging"] = MergeSchedule(**{**given["merging"], **lists})
    if "prompts" in given:
        given["prompts"] = PromptShape(**given["prompts"])
    return RetrievalModule(**{**given, "chunk_size": 0, "compiled": None})


@contextmanager
def like_cuda(half: bool) -> Iterator[None]:
    """Cast as CUDA does: autocast normalises in float32, and attention runs in one kernel."""

    def normalise(self: nn.LayerNorm, x: Tensor) -> Tensor:
        x = x.float() if half else x
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    with (
        patch.object(nn.LayerNorm, "forward", normalise),
        patch.object(layers, "SHORT", 0),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        yield


def count_saved(run: Callable[[], object], model: nn.Module, *, half: bool) -> int:
    """Return the bytes that autograd saves in a run, without weights."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    linear = [weight for name, weight in model.named_parameters() if not name.endswith("positions")]
    casts = {shape for weight in linear for shape in (weight.shape, weight.shape[::-1])}
    seen: dict[int, Any] = {}  # weak references to storages, by their addresses
    count = 0

    def drop(x: Tensor) -> Tensor:
        nonlocal count
        storage, pointer = x.untyped_storage(), x.untyped_storage().data_ptr()
        is_weight = pointer in own or (x.dtype == torch.bfloat16 and x.shape in casts)
        if not is_weight and (pointer not in seen or seen[pointer].expired()):
            seen[pointer] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            count += storage.nbytes()
        return x.new_empty(0)

    with torch.autograd.graph.saved_tensors_hooks(drop, lambda x: x), like_cuda(half):
        run()
    return count


def count_encoding(module: RetrievalModule, config: dict[str, Any], *, half: bool) -> int:
    """Return the bytes that the towers keep of one video and its text."""
    model, data = module.model, config["data"]["init_args"]
    card, num_frames = model.encoder.card, data.get("num_frames", 12)
    alone = card.merging is None and card.prompts is None  # frames are as good as one of them
    num, size = 1 if alone else num_frames, card.vision.image_size
    pixels, ids = torch.zeros(1, num, size, size, 3, dtype=torch.uint8), draw_ids(1, data.get("num_words", 32))
    videos = count_saved(lambda: model._see(pixels, None), model, half=half) * int(num_frames) // num
    return videos + count_saved(lambda: model._read(ids), model, half=half)


def draw_ids(num: int, num_words: int) -> Tensor:
    """Return texts that are as long as they may be."""
    ids = torch.randint(1, 40_000, (num, num_words))
    ids[:, 0], ids[:, -1] = 49406, 49407
    return ids


def count_losses(module: RetrievalModule, config: dict[str, Any], num: int, *, half: bool) -> float:
    """Return the bytes that the losses of ``num`` pairs keep."""
    data, model = config["data"]["init_args"], module.model
    num_frames, num_words, size = data.get("num_frames", 12), data.get("num_words", 32), 8
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        side = model.encoder.card.vision.image_size
        seen = model._see(torch.zeros(1, num_frames, side, side, 3, dtype=torch.uint8), None)
        read = model._read(draw_ids(1, num_words))

    def repeat(vectors: Vectors, rows: int) -> Vectors:
        whole = (None if x is None else x.expand(rows, *x.shape[1:]) for x in vectors)
        return tuple(x if x is None or not x.is_floating_point() else like(x) for x in whole)

    def like(x: Tensor) -> Tensor:
        return x.to(torch.bfloat16 if half else torch.float32, copy=True).requires_grad_()

    counts = []
    for rows in NUM_PAIRS:
        indices, ids = torch.arange(rows), draw_ids(rows, num_words)
        pixels = torch.zeros(rows, num_frames, size, size, 3, dtype=torch.uint8)
        mask = torch.ones(rows, num_frames, dtype=torch.bool)
        batch = RetrievalBatch(pixels, mask, ids, indices, indices, indices, ids)
        with (
            patch.object(model, "_see", lambda pixels, mask: repeat(seen, len(pixels))),
            patch.object(model, "_read", lambda ids: repeat(read, len(ids))),
        ):
            counts.append(count_saved(lambda: module.compute_terms(batch), model, half=half))  # noqa: B023
    return float(np.polyval(np.polyfit(NUM_PAIRS, counts, 2), num))


def count_state(module: nn.Module, *, half: bool) -> float:
    """Return the bytes of weights, gradients and moments in float32, and of the copies that autocast makes."""
    weights = sum(weight.numel() for weight in module.parameters())
    trained = sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
    return 4 * weights + 12 * trained + (2 * weights if half else 0)


def measure(config: dict[str, Any]) -> dict[str, float]:
    """Return bytes by column for a configuration of retrieval."""
    module = build(config)
    module.model.train()
    data, chunk = config["data"]["init_args"], config["model"]["init_args"].get("chunk_size", 0)
    batch, found = data["batch_size"], dict[str, float]()
    configured = str(config["trainer"]["precision"]).startswith("bf16")
    for half in (False, True):
        encoded = batch * count_encoding(module, config, half=half)
        losses, state = count_losses(module, config, batch, half=half), count_state(module, half=half)
        found["bf16-mixed" if half else "32-true"] = encoded + losses
        if half == configured:
            chunked = encoded * min(chunk or batch, batch) / batch + losses
            pixels = batch * data.get("num_frames", 12) * module.model.encoder.card.vision.image_size**2 * 3
            found |= {"as configured": chunked, "state": state, "total": chunked + state + pixels}
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure what training keeps in memory.")
    folder = Path(__file__).parents[1] / "configs"
    default = [
        *sorted(folder.glob("msrvtt_*.yaml")),
        *sorted(folder.glob("activitynet_*.yaml")),
    ]  # others cost the same
    parser.add_argument("configs", nargs="*", type=Path, default=default)
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["batch", "chunk", "precision", "32-true", "bf16-mixed", "as configured", "state", "total"]
    rows = []
    for path in given.configs:
        config = read(path)
        if "method" not in config["model"]["init_args"]:
            continue
        found = measure(config)
        own = (
            config["data"]["init_args"]["batch_size"],
            config["model"]["init_args"].get("chunk_size", 0) or "-",
            config["trainer"]["precision"],
        )
        rows.append([path.stem, *own, *(f"{found[name] / GB:.1f}" for name in columns[3:])])
        print(*rows[-1], flush=True)
    if given.markdown:
        for row in [["configuration", *columns], ["---"] * 9, *rows]:
            print("|", " | ".join(map(str, row)), "|")
    else:
        print_rows(["configuration", *columns], rows)


if __name__ == "__main__":
    main()
