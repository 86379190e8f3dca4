"""Measure training on one thread: steps by turns in one process, and memory; print one JSON object.

    python tools/bench_train.py [--only PART ...] [--batch 4] [--repeats 3] [--configs FILE ...]

- ``tempme``: a step of TempMe against full fine-tuning of plain CLIP: ViT-B/32 and its text tower with random weights,
  12 frames at 224, 32 words; the peak of memory is that of a process of its own.
- ``small``: the small towers of configs/synthetic_*.yaml: a step of the joint model and of TempMe in bfloat16 against
  float32, and encoding videos by the joint model against TempMe, and with what reranking stores.
- ``memory``: what a step of each configuration keeps in memory on one GPU, in GB, counted without a GPU: what autograd
  saves in a forward pass of the real shapes, in the casts of CUDA's autocast, each storage once, weights and their
  casts left out. ``as configured`` has the precision and the ``chunk_size`` of the file; the state is weights, their
  copies in bfloat16, gradients and the optimiser's two moments. What a kernel needs for a moment comes on top.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from harness import draw_batch, make_parser, measure_rise_mb, run_in_new_process, run_parts, take_turns
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from vidret import layers
from vidret.align.ucofia import Aligner
from vidret.data.dataset import RetrievalBatch
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.train import optim
from vidret.train.losses import add_terms
from vidret.train.model import Vectors
from vidret.train.retrieval import RetrievalModule

CONFIGS = Path(__file__).parents[1] / "configs"
LARGE: dict[str, Any] = {"image_size": 224, "width": 768, "layers": 12, "heads": 12, "dim": 512, "quick_gelu": True}
LARGE_TEXT = TextShape(context=77, vocabulary=49408, width=512, layers=12, heads=8, dim=512, quick_gelu=True)
KINDS: dict[str, dict[str, Any]] = {
    "full": {"method": "clip"},
    "tempme": {"method": "tempme", "merging": MergeSchedule(), "lora_rank": 8},
}
SHAPES = {"vision": VisionShape, "text": TextShape, "merging": MergeSchedule, "prompts": PromptShape}
PATCHES = {"ViT-B-32": 32, "ViT-B-16": 16}
NUM_PAIRS = (8, 16, 24)  # that losses are measured with


def make_step(module: RetrievalModule, batch: RetrievalBatch, rule: Any, *, half: bool) -> Callable[[], None]:
    """Return what makes a training step, with weights and rates by a rule."""
    optimizer = torch.optim.AdamW(optim.parameter_groups(module.model, rule))

    def step() -> None:
        run_losses(module, batch, half=half)
        optimizer.step()
        optimizer.zero_grad()

    return step


def run_losses(module: RetrievalModule, batch: RetrievalBatch, *, half: bool) -> None:
    """Go forwards and backwards through a training step, without the optimiser's part."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = module.train().compute_terms(batch)
    torch.autograd.backward(add_terms(terms))


def make_large_step(kind: str, num_pairs: int) -> Callable[[], None]:
    """Return what makes a step of a kind."""
    torch.manual_seed(0)
    module = RetrievalModule(vision=VisionShape(patch=32, **LARGE), text=LARGE_TEXT, **KINDS[kind])
    return make_step(module, draw_batch(num_pairs, 12, 224, 32), module.method.recipe.rule, half=False)


def find_peak_mb(kind: str, num_pairs: int) -> float:
    """Return the peak of two steps: to be called in a process of its own."""
    torch.set_num_threads(1)

    def run_twice() -> None:
        step = make_large_step(kind, num_pairs)
        step()
        step()

    return measure_rise_mb(run_twice)


def measure_tempme(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Compare a step of TempMe with one of full fine-tuning."""
    peaks_mb = {kind: run_in_new_process(find_peak_mb, kind, given.batch) for kind in KINDS}
    costs = take_turns({kind: make_large_step(kind, given.batch) for kind in KINDS}, given.repeats)
    return {
        "seconds": costs,
        "peak_mb": {kind: round(peak) for kind, peak in peaks_mb.items()},
        "speed": round(costs["full"].cpu_s / costs["tempme"].cpu_s, 3),
        "memory": round(peaks_mb["tempme"] / peaks_mb["full"], 3),
    }


@torch.inference_mode()
def encode(module: RetrievalModule, batch: RetrievalBatch, *, packs: bool = False) -> None:
    """Encode videos, and prepare them for the aligner."""
    videos = module.model.eval().encode_videos(batch.pixels, batch.frame_mask)
    if packs:
        cast(Aligner, module.model.aligner).prepare(videos)


def measure_small(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Compare steps and encodings of small towers by CPU time."""
    tempme, joint = (RetrievalModule(**read_synthetic(method)) for method in ("tempme", "joint"))
    batch, ratios = draw_batch(64, 6, 64, 18), dict[str, float]()
    for method, module in (("tempme", tempme), ("joint", joint)):
        steps = {kind: partial(run_losses, module, batch, half=kind == "bf16") for kind in ("fp32", "bf16")}
        costs = take_turns(steps, given.repeats)
        ratios[f"step of {method}: bf16 / fp32"] = costs["bf16"].cpu_s / costs["fp32"].cpu_s
    encodings = {"tempme": partial(encode, tempme, batch), "joint": partial(encode, joint, batch)}
    encodings["joint, prepared for reranking"] = partial(encode, joint, batch, packs=True)
    costs = take_turns(encodings, given.repeats)
    base_s = costs.pop("tempme").cpu_s
    ratios |= {f"encoding: {name} / tempme": cost.cpu_s / base_s for name, cost in costs.items()}
    return {name: round(value, 2) for name, value in ratios.items()}


# Memory


def read_synthetic(method: str) -> dict[str, Any]:
    """Return the arguments of a module of the configuration of a method on the synthetic world."""
    return read_arguments(yaml.safe_load((CONFIGS / f"synthetic_{method}.yaml").read_text("utf-8")))


def read_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a module, with shapes in place of what a configuration says of them."""
    arguments = dict(config["model"]["init_args"])
    for name, shape in SHAPES.items():
        if name in arguments:
            lists = {key: tuple(value) for key, value in arguments[name].items() if isinstance(value, list)}
            arguments[name] = shape(**arguments[name] | lists)
    return arguments


def build(config: dict[str, Any]) -> RetrievalModule:
    """Return the module of a configuration with random weights."""
    arguments = read_arguments(config)
    weights = arguments.pop("weights", None)
    if weights is not None:
        arguments |= {
            "vision": VisionShape(patch=PATCHES[weights.partition("-quickgelu")[0]], **LARGE),
            "text": LARGE_TEXT,
        }
    return RetrievalModule(**{**arguments, "chunk_size": 0, "compiled": None})


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
    weight_pointers = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    linear = [weight for name, weight in model.named_parameters() if not name.endswith("positions")]
    casts = {shape for weight in linear for shape in (weight.shape, weight.shape[::-1])}
    seen: dict[int, Any] = {}  # weak references to storages, by their addresses
    count = 0

    def drop(x: Tensor) -> Tensor:
        nonlocal count
        storage, pointer = x.untyped_storage(), x.untyped_storage().data_ptr()
        is_weight = pointer in weight_pointers or (x.dtype == torch.bfloat16 and x.shape in casts)
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
    batch = draw_batch(1, 1 if alone else num_frames, card.vision.image_size, data.get("num_words", 32))
    videos = count_saved(lambda: model._see(batch.pixels, None), model, half=half) * (num_frames if alone else 1)
    return videos + count_saved(lambda: model._read(batch.ids), model, half=half)


def count_losses(module: RetrievalModule, config: dict[str, Any], num: int, *, half: bool) -> float:
    """Return the bytes that the losses of ``num`` pairs keep, which grow with the square of their number."""
    data, model = config["data"]["init_args"], module.model
    num_frames, num_words = data.get("num_frames", 12), data.get("num_words", 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        one = draw_batch(1, num_frames, model.encoder.card.vision.image_size, num_words)
        seen, read = model._see(one.pixels, None), model._read(one.ids)

    def repeat(vectors: Vectors, rows: int) -> Vectors:
        repeated = (None if x is None else x.expand(rows, *x.shape[1:]) for x in vectors)
        return tuple(x if x is None or not x.is_floating_point() else like(x) for x in repeated)

    def like(x: Tensor) -> Tensor:
        return x.to(torch.bfloat16 if half else torch.float32, copy=True).requires_grad_()

    counts = []
    for rows in NUM_PAIRS:
        batch = draw_batch(rows, num_frames, 8, num_words)
        batch = batch._replace(first_sentences=batch.ids)
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


def count(config: dict[str, Any]) -> dict[str, float]:
    """Return the bytes that a configuration of retrieval keeps, by what they are for."""
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


def measure_memory(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Return GB by configuration."""
    report: dict[str, Any] = {}
    for path in given.configs or [*CONFIGS.glob("msrvtt_*.yaml"), *CONFIGS.glob("activitynet_*.yaml")]:
        config = yaml.safe_load(path.read_text("utf-8"))
        if "method" in config["model"]["init_args"]:
            report[path.stem] = {name: round(num_bytes / 1e9, 1) for name, num_bytes in count(config).items()}
    return report


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__, batch=4, repeats=3)
    parser.add_argument("--configs", nargs="+", type=Path, help="default: of MSR-VTT and ActivityNet")
    run_parts(parser, [measure_tempme, measure_small, measure_memory], ["tempme", "small"])


if __name__ == "__main__":
    main()
