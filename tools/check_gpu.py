"""Run every path that uses a GPU, there and on the CPU, and print whether they agree; exit with 1 if one does not.

    python tools/check_gpu.py [VIDEOS] [--device auto] [--only TEXT] [--tiny] [--page check_gpu.md]

VIDEOS is a folder of real videos, of which eight are decoded and indexed beside made ones. Each path runs in a process
of its own: one that crashes costs its own row. ``difference`` is in the unit of the path: grey levels for decoding,
1 - cosine for encoding and indexing, the share of other results for FAISS, relative for gradients. Models have random
weights: what is compared is the arithmetic. A path whose library is missing, such as Decord or FAISS without GPU code,
is listed as not run. With ``--device cpu`` every path is compared with itself. Ten minutes are enough. ``--page`` is
one page with the machine, the versions and the numbers of each path, to send back; it names no file and no user.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from harness import draw_batch, load_tiny_models, make_parser, measure, measure_call, write_film
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from vidret.align.batches import TextBatch, VideoBatch, move_batch
from vidret.align.glscl import ConceptAligner
from vidret.align.ucofia import Aligner
from vidret.data.benchmarks.registry import RECIPES
from vidret.data.grounding import GroundingBatch
from vidret.devices import CPU, choose_device, cuda_index
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.encode.families.registry import load_encoder
from vidret.encode.names import STARTER
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.evaluate.report import list_versions
from vidret.ground.checkpoint import HeadCard, load_head, save_head
from vidret.ground.head import GroundingHead
from vidret.store.vectors.flat import MAX_SELECTION, Flat, IdFilter, choose_faiss_device, load_faiss
from vidret.store.vectors.ivf import Shard, build_shard
from vidret.train.gather import gather
from vidret.train.grounding import GroundingModule
from vidret.train.losses import find_same_videos, retrieval_loss
from vidret.train.retrieval import RetrievalModule
from vidret.types import Frames, Resize, Sampling
from vidret.video import reader
from vidret.video.decoders.registry import find_decoder
from vidret.video.decoders.torchcodec import load_torchcodec
from vidret.video.probe import probe
from vidret.video.scan import scan

LIMIT_S = 600.0
NUM_VIDEOS = 8
OK, DIFFERS, FAILED, NOT_RUN = "same", "DIFFERS", "FAILED", "not run"
NUM_FRAMES, FPS = 12, 10
NUM_PAIRS, TOWER_WIDTH = 8, 64  # of training in several processes
QWEN = "qwen3_vl"
METHODS: dict[str, dict[str, Any]] = {
    "clip": {},
    "tempme": {"merging": MergeSchedule(layers=(0, 1), factors=(2, 3), r=1)},
    "promptswitch": {"prompts": PromptShape(num_prompts=6, num_frames=6)},
}


class NotHereError(Exception):
    """The path cannot run on this machine; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What to run on: a device's full name, a folder to write to, real videos if any, and how large the input is."""

    device: str
    scratch: Path
    videos: Sequence[str] = ()
    tiny: bool = False

    @property
    def vision(self) -> VisionShape:
        """Return the vision tower: ViT-B/32, or a tiny one."""
        if self.tiny:
            return VisionShape(image_size=32, patch=8, width=32, layers=2, heads=2, dim=32)
        return VisionShape(image_size=224, patch=32, width=768, layers=12, heads=12, dim=512, quick_gelu=True)

    @property
    def text(self) -> TextShape:
        """Return the text tower that goes with it."""
        width, layers, heads, dim = (32, 2, 2, 32) if self.tiny else (512, 12, 8, 512)
        return TextShape(context=77, vocabulary=49408, width=width, layers=layers, heads=heads, dim=dim)

    @property
    def head(self) -> dict[str, int]:
        """Return the sizes of the grounding head over both."""
        sizes = {"dim": 32, "num_layers": 2} if self.tiny else {"dim": 256, "num_layers": 4}
        return {"width": self.vision.width, "text_width": self.text.width, **sizes}

    def draw_layers(self, num: int, num_frames: int, generator: torch.Generator) -> list[Tensor]:
        """Draw what the head reads of videos: the tokens of each layer."""
        shape = (num, num_frames, 1 + self.vision.num_patches, self.vision.width)
        return [torch.randn(shape, generator=generator) for _ in range(self.head["num_layers"])]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How long a path took on either, how far the results lie apart, and how far they may."""

    cpu_s: float
    device_s: float
    difference: float
    tolerance: float
    note: str = ""

    @property
    def is_same(self) -> bool:
        """Return whether the results agree; NaN does not."""
        return self.difference <= self.tolerance


def compare(
    setup: Setup, work: Callable[[str], Any], differ: Callable[[Any, Any], float], tolerance: float, note: str = ""
) -> Outcome:
    """Compare the results of ``work`` on the CPU and on the device, and the seconds that each took once warm."""
    if not setup.tiny:
        for device in (CPU, setup.device):
            work(device)  # libraries and kernels are loaded
    here, there = (measure_call(partial(work, device)) for device in (CPU, setup.device))
    return Outcome(here[1].wall_s, there[1].wall_s, differ(here[0], there[0]), tolerance, note)


def gap(one: Any, other: Any) -> float:
    """Return 1 - the least cosine of two arrays' rows."""
    units = [np.asarray(rows, np.float64).reshape(-1, np.shape(rows)[-1]) for rows in (one, other)]
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in units]
    return float(1 - (units[0] * units[1]).sum(axis=1).min())


# Decoding


def write_videos(setup: Setup) -> list[str]:
    """Write films of a moving pattern, with keyframes and B-frames; return their paths."""
    width, height, seconds = (64, 48, 3) if setup.tiny else (1280, 720, 20)
    rows, columns = np.mgrid[:height, :width]

    def draw(number: int, frame: int) -> np.ndarray:
        shift = frame * width // (seconds * FPS)
        grey = (columns + (2 + number) * rows // 2 + 3 * shift) * 255 // (width + 2 * height) % 256
        return np.stack([grey, 255 - grey, np.roll(grey, shift, axis=1)], axis=-1).astype(np.uint8)

    paths = [setup.scratch / f"film-{index}.mp4" for index in range(2)]
    for film_index, path in enumerate(paths):
        frames = (draw(film_index, frame) for frame in range(seconds * FPS))
        # BT.601 in H.273; GPUs do not decode untagged high definition
        write_film(path, frames, FPS, {"g": "25", "bf": "2", "preset": "ultrafast"}, colorspace=6)
    return list(map(str, paths))


def check_decoding(
    setup: Setup,
    paths: Sequence[str],
    decoder: Literal["decord", "torchcodec"] = "decord",
    resize: Resize | None = None,
) -> Outcome:
    """Compare frames: mean difference in grey levels of 255; 255 where a neighbour of the frame was decoded instead."""
    gpu = cuda_index(setup.device)
    if setup.device != CPU and (fault := "no decoder for it" if gpu is None else find_decoder(decoder).try_gpu(gpu)):
        raise NotHereError(f"decoding on {setup.device}: {fault}")
    settings: dict[str, Any] = {"device": setup.device, "gpu_decoders": (decoder,)}
    if setup.device == CPU and decoder == "torchcodec":
        try:
            load_torchcodec()
        except VidretError as error:
            raise NotHereError(str(error)) from error
        settings["decoder"] = decoder
    difference, costs, compared = 0.0, np.zeros(2), 0
    for path in paths:
        info = probe(path)
        with (
            reader.open_reader(info, resize=resize) as here,
            reader.open_reader(info, resize=resize, **settings) as there,
        ):
            if info.num_frames < 10 or (gpu is not None and not there.why.startswith("GPU")):
                continue
            chosen = np.linspace(1, info.num_frames - 2, 8).astype(int)
            exact, exact_cost = measure_call(lambda: read(here, chosen))  # noqa: B023
            found, found_cost = measure_call(lambda: read(there, chosen))  # noqa: B023
            near = [read(here, chosen + step) for step in (-1, 1)]
        if there.fallback or len(found) != len(exact):
            raise RuntimeError(f"{path}: {there.fallback or 'frames are missing'}")
        differences, *others = (np.abs(found - frames).mean(axis=(1, 2, 3)) for frames in (exact, *near))
        differences[np.min(others, axis=0) < differences - 0.5] = 255
        difference, compared = max(difference, float(differences.max())), compared + 1
        costs += exact_cost.wall_s, found_cost.wall_s
    if not compared:
        raise NotHereError(f"none of {len(paths)} videos is of the kind that {setup.device} decodes")
    left_out = f", {len(paths) - compared} of another kind left out" if compared < len(paths) else ""
    return Outcome(float(costs[0]), float(costs[1]), difference, 4.0, f"{compared} videos{left_out}")


def read(opened: reader.Reader, chosen: np.ndarray) -> np.ndarray:
    """Return frames to compare."""
    return opened.read(chosen).pixels.astype(np.float32)


def decode_real(setup: Setup) -> Outcome:
    """Compare frames of real videos."""
    if not setup.videos:
        raise NotHereError("no folder of videos was given")
    return check_decoding(setup, setup.videos)


def decode_small(setup: Setup) -> Outcome:
    """Compare frames that torchcodec decodes and that are resized where it does so."""
    side = 24 if setup.tiny else 224
    return check_decoding(setup, [*write_videos(setup), *setup.videos], "torchcodec", Resize(side, side))


# Encoding


def find_model(setup: Setup, kind: str) -> str:
    """Write a model with random weights, of transformers a tiny one whose speed says nothing; return its name."""
    if kind == STARTER:
        return kind
    if kind not in METHODS:
        try:
            models = load_tiny_models()
        except ImportError as error:
            raise NotHereError(f"models of transformers: {error}") from error
        folder = setup.scratch / kind
        if kind == QWEN:
            return f"hf:{models.save_tiny_qwen(folder)}#pixels=65536"
        return f"hf:{models.save_tiny(kind, folder)}"
    path = setup.scratch / f"{kind}.safetensors"
    torch.manual_seed(0)
    model = ClipModel(Card(kind, "random", setup.vision, setup.text, **METHODS[kind], sampling=Sampling(NUM_FRAMES)))
    with torch.no_grad():
        for weight in model.parameters():  # zeros, too, so that no part is switched off
            weight.add_(torch.randn_like(weight), alpha=0.02)
    save_model(model, path)
    return str(path)


def check_encoding(setup: Setup, kind: str, tolerance: float = 1e-3, precision: str = "fp32") -> Outcome:
    """Compare vectors of frames, of segments, with their sound where a model hears, and of texts."""
    name = find_model(setup, kind)
    encoders = {device: load_encoder(name, device=device, precision=precision) for device in (CPU, setup.device)}
    rng, side, num = np.random.default_rng(0), encoders[CPU].resize.crop, 1 if setup.tiny else 8
    coarse = rng.integers(0, 256, (num, NUM_FRAMES, 8, 8, 3), dtype=np.uint8)  # smooth pictures
    fine = coarse.repeat(-(-side // 8), axis=2).repeat(-(-side // 8), axis=3)[:, :, :side, :side]
    rate = encoders[CPU].sampling.sound_rate
    sound = (20_000 * np.sin(np.arange(rate * NUM_FRAMES) / 7)).astype(np.int16) if rate else None
    segments = [Frames(pixels, np.arange(NUM_FRAMES, dtype=np.float64), sound=sound) for pixels in fine]

    def encode(device: str) -> tuple[np.ndarray, ...]:
        has_frames = getattr(encoders[device], "has_frame_vectors", True)
        embeddings = encoders[device].encode_frames(segments, tokens=has_frames)
        texts = encoders[device].encode_text(["a dog on a beach", "two people play the piano", ""])
        frames = np.concatenate([embedding.frames for embedding in embeddings])
        return (
            frames,
            np.stack([embedding.video for embedding in embeddings]),
            np.stack([text.sentence for text in texts]),
        )

    return compare(setup, encode, lambda here, there: max(map(gap, here, there)), tolerance)


# FAISS


def check_faiss(setup: Setup, kind: str, *, filtered: bool = False, k: int = 10) -> Outcome:
    """Compare what is found: the share of results that differ; a filter must let no other through."""
    if choose_faiss_device(load_faiss(), setup.device) != setup.device:
        raise NotHereError(f"FAISS on {setup.device}: this build has no GPU code, or sees no such GPU")
    num, dim = (3000, 16) if setup.tiny else (100_000, 512)
    rng = np.random.default_rng(0)
    ids, vectors = np.arange(num, dtype=np.int64), rng.standard_normal((num, dim), np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    queries = rng.standard_normal((64, dim), np.float32)
    flags = ids % 50 == 0
    id_filter = IdFilter(np.packbits(flags, bitorder="little"), fraction=0.02) if filtered else None
    entry = build_shard(setup.scratch, kind, dim, ids, lambda part: (part, vectors[part])) if kind == "ivf" else None
    indexes: dict[str, Flat | Shard] = {}
    for device in (CPU, setup.device):
        if entry is not None:
            indexes[device] = Shard(setup.scratch, entry, dim, device=device)
        else:
            indexes[device] = flat = Flat(dim, device=device)
            flat.add(ids, vectors)

    def search(device: str) -> Any:
        return indexes[device].search(queries, k, id_filter)

    def count_others(here: Any, there: Any) -> float:
        pairs = [(set(one) - {-1}, set(other) - {-1}) for one, other in zip(here.ids, there.ids, strict=True)]
        if filtered and any(not flags[sorted(other)].all() for _, other in pairs):
            return 1.0
        return float(np.mean([len(one ^ other) / 2 / max(1, len(one)) for one, other in pairs]))

    note = "on the CPU in either case" if filtered or k > MAX_SELECTION else ""
    return compare(setup, search, count_others, 0.0 if note else 0.02, note)


# The head, and an engine from files to moments


def write_head(setup: Setup, backbone: str) -> Path:
    """Write a grounding head with random weights."""
    torch.manual_seed(1)
    head, path = GroundingHead(**setup.head).eval(), setup.scratch / "head.safetensors"  # type: ignore[arg-type]
    save_head(head, HeadCard.describe(head, backbone=backbone, **RECIPES["qvhighlights"]), path)
    return path


def check_head(setup: Setup) -> Outcome:
    """Compare a head's logits and saliency: the greatest difference."""
    path, generator = write_head(setup, "none"), torch.Generator().manual_seed(0)
    layers = setup.draw_layers(1, 20 if setup.tiny else 75, generator)
    query = torch.randn(1, len(layers), 9, setup.text.width, generator=generator)

    @torch.inference_mode()
    def ask(device: str) -> np.ndarray:
        head = load_head(path)[0].to(device).eval()
        projected = head.prepare([layer.to(device) for layer in layers])
        projected = projected._replace(layers=tuple(layer.half() for layer in projected.layers))
        output = head(projected, query.to(device))
        return np.concatenate([output.logits.cpu().numpy().ravel(), head.decode(output, fps=1.0)[0].saliency])

    return compare(setup, ask, lambda here, there: float(np.abs(here - there).max()), 0.01)


def check_aligner(setup: Setup, aligner: Aligner | ConceptAligner) -> Outcome:
    """Compare the scores of a bank of queries against videos."""
    num, dim, generator = (20, 32, torch.Generator().manual_seed(0)) if setup.tiny else (500, 512, torch.Generator())
    words = torch.randn(num, 20, dim, generator=generator)
    texts = TextBatch(words[:, 0], words)
    videos = VideoBatch(torch.randn(num, NUM_FRAMES, dim, generator=generator))

    def score(device: str) -> np.ndarray:
        device_aligner = aligner.to(device)
        prepared: Any = device_aligner.prepare(move_batch(videos, device))
        return cast(Any, device_aligner.score(move_batch(texts, device), prepared))[0].cpu().numpy()  # type: ignore[no-any-return]

    return compare(setup, score, lambda here, there: float(np.abs(here - there).max() / np.abs(here).max()), 1e-3)


def check_engine(setup: Setup) -> Outcome:
    """Index films, search, and ask a head: 1 - the least cosine of stored frames; 1 where another film comes first."""
    model = find_model(setup, "clip")
    head, films = write_head(setup, model), [*write_videos(setup), *setup.videos]

    def use(device: str) -> tuple[np.ndarray, list[str], np.ndarray]:
        index = Path(tempfile.mkdtemp(dir=setup.scratch))
        with Engine.open(index, encoder=model, head=head, device=device, precision="fp32") as engine:
            engine.index(films, words=False)
            best = [engine.search(query, 1)[0].path for query in ("a dog", "music", "something red")]
            saliency = engine.rate("a dog", films[0], np.arange(3.0))
            return engine.embeddings("frame").vectors, best, saliency

    def differ(here: Any, there: Any) -> float:
        return max(gap(here[0], there[0]), float(np.abs(here[2] - there[2]).max())) if here[1] == there[1] else 1.0

    return compare(setup, use, differ, 0.02, f"{len(films)} videos")


# Training


def compare_gradients(setup: Setup, make: Callable[[], Any], batch: Any, tolerance: float) -> Outcome:
    """Compare the gradients of one step: the length of their difference, relative."""

    def step(device: str) -> Tensor:
        torch.manual_seed(0)
        module = make().to(device).train()
        moved = module.transfer_batch_to_device(batch, torch.device(device), 0)
        torch.autograd.backward(module.training_step(moved, 0))
        return torch.cat([weight.grad.flatten().cpu() for weight in module.parameters() if weight.grad is not None])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning says that no trainer is attached
        return compare(setup, step, lambda here, there: float((here - there).norm() / here.norm()), tolerance)


def train_retrieval(setup: Setup, method: str, tolerance: float) -> Outcome:
    """Compare a training step for retrieval."""
    torch.manual_seed(0)
    batch = draw_batch(4, NUM_FRAMES, setup.vision.image_size, 8)
    shapes: dict[str, Any] = {"vision": setup.vision, "text": setup.text, "num_frames": NUM_FRAMES}
    make = partial(RetrievalModule, cast(Any, method), **shapes, **METHODS[method])
    return compare_gradients(setup, make, batch, tolerance)


def train_head(setup: Setup) -> Outcome:
    """Compare a training step of the head, without dropout."""
    num, num_frames, generator = 4, 20, torch.Generator().manual_seed(0)
    layers = setup.draw_layers(num, num_frames, generator)
    batch = GroundingBatch(
        layers=tuple(layer.half() for layer in layers),
        frame_mask=torch.ones(num, num_frames, dtype=torch.bool),
        token_masks=None,
        sizes=None,
        words=torch.randn(num, len(layers), 7, setup.text.width, generator=generator).half(),
        word_mask=torch.ones(num, 7, dtype=torch.bool),
        spans=torch.tensor([[[4.0, 16.0]]]).expand(num, 1, 2),
        span_mask=torch.ones(num, 1, dtype=torch.bool),
        saliency=torch.rand(num, num_frames, generator=generator),
        durations=torch.full((num,), 40.0),
        queries=torch.arange(num),
    )
    make = partial(GroundingModule, **setup.head, dropout=0.0, drop_path=0.0)  # type: ignore[arg-type]
    return compare_gradients(setup, make, batch, 0.01)


# Several processes


def step_together(device: str, rank: int, world: int) -> Tensor:
    """Return the gradients of one step, on the CPU; the processes' shares of the batch follow each other."""
    torch.manual_seed(0)
    layers = nn.Linear(TOWER_WIDTH, TOWER_WIDTH), nn.GELU(), nn.Linear(TOWER_WIDTH, 32)
    model: nn.Module = nn.Sequential(*layers).to(device)
    videos, texts = torch.randn(2, NUM_PAIRS, TOWER_WIDTH)
    pair_indices = torch.arange(NUM_PAIRS)[rank * NUM_PAIRS // world : (rank + 1) * NUM_PAIRS // world]
    if dist.is_initialized():
        model = DistributedDataParallel(model)
        rows = [torch.zeros(1, device=device) for _ in range(world)]
        dist.all_gather(rows, torch.ones(1, device=device))  # also where there is one process, which gathers nothing
    units = functional.normalize(model(torch.cat([videos[pair_indices], texts[pair_indices]]).to(device)), dim=-1)
    found, asked = map(gather, units.chunk(2))
    loss = retrieval_loss(20 * asked @ found.T, same=find_same_videos(gather(pair_indices.to(device))))
    torch.autograd.backward(loss)
    return torch.cat([weight.grad.flatten().cpu() for weight in model.parameters() if weight.grad is not None])


def run_rank(rank: int, backend: str, device: str, rendezvous: Path, world: int) -> None:
    """Join the other processes, step, and leave the gradients."""
    torch.set_num_threads(1)
    if cuda_index(device) is not None:
        device = f"cuda:{rank}" if backend == "nccl" and world > 1 else device
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        gradients = step_together(device, rank, world)
        if rank == 0:
            torch.save(gradients, rendezvous.with_suffix(".pt"))
        dist.barrier()  # nobody leaves while another still talks to it
    finally:
        dist.destroy_process_group()


def train_together(setup: Setup, backend: str) -> Outcome:
    """Compare the gradients of processes that share a batch with those of one process on the CPU.

    ``nccl`` wants a card for each process: with one card it is one process, which still gathers and reduces. ``gloo``
    lets two share a card.
    """
    gpu = cuda_index(setup.device)
    if setup.device != CPU and gpu is None:
        raise NotHereError(f"{backend} gathers on CPUs and CUDA")
    if backend == "nccl" and (gpu is None or not dist.is_nccl_available()):
        raise NotHereError("nccl is for CUDA")
    world, rendezvous = 2 if backend == "gloo" else min(2, torch.cuda.device_count()), setup.scratch / backend
    single, here = measure_call(partial(step_together, CPU, 0, 1))
    there = measure(partial(spawn, run_rank, (backend, setup.device, rendezvous, world), nprocs=world))
    together = torch.load(rendezvous.with_suffix(".pt"), weights_only=True)
    difference = float((single - together).norm() / single.norm())
    return Outcome(here.wall_s, there.wall_s, difference, 0.01, f"{world} processes of it, their start included")


PATHS: dict[str, Callable[[Setup], Outcome]] = {
    "decode, made videos": lambda setup: check_decoding(setup, write_videos(setup)),
    "decode, real videos": decode_real,
    "decode and resize, torchcodec": decode_small,
    "encode, CLIP": partial(check_encoding, kind="clip"),
    "encode, CLIP in the device's own precision": partial(
        check_encoding, kind="clip", tolerance=1e-2, precision="auto"
    ),
    "encode, TempMe": partial(check_encoding, kind="tempme", tolerance=1e-2),  # rounding decides nearly equal merges
    "encode, Prompt Switch": partial(check_encoding, kind="promptswitch"),
    "encode, starter": partial(check_encoding, kind=STARTER),
    "encode, VideoPrism": partial(check_encoding, kind="videoprism"),
    "encode, PE-AV with sound": partial(check_encoding, kind="pe_audio_video"),
    "encode, Qwen3-VL-Embedding": partial(check_encoding, kind=QWEN),
    "encode, Qwen3-VL-Embedding in the device's own precision": partial(
        check_encoding, kind=QWEN, tolerance=2e-2, precision="auto"
    ),
    "FAISS, flat": partial(check_faiss, kind="flat"),
    "FAISS, flat, filtered": partial(check_faiss, kind="flat", filtered=True),
    "FAISS, flat, 2,500 results": partial(check_faiss, kind="flat", k=2500),
    "FAISS, lists": partial(check_faiss, kind="ivf"),
    "FAISS, lists, filtered": partial(check_faiss, kind="ivf", filtered=True),
    "rerank, UCoFiA": lambda setup: check_aligner(setup, Aligner()),
    "rerank, GLSCL": lambda setup: check_aligner(setup, ConceptAligner()),
    "head": check_head,
    "index, search, locate": check_engine,
    "train, CLIP": partial(train_retrieval, method="clip", tolerance=0.01),
    "train, TempMe": partial(train_retrieval, method="tempme", tolerance=0.05),
    "train, head": train_head,
    "train in two processes, gloo": partial(train_together, backend="gloo"),
    "train in a process a card, nccl": partial(train_together, backend="nccl"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A path's line of the table; numbers are None where it did not come so far."""

    path: str
    verdict: str
    reason: str = ""
    cpu_s: float | None = None
    device_s: float | None = None
    difference: float | None = None
    tolerance: float | None = None


def run_path(name: str, device: str, scratch: Path, videos: Sequence[str], *, tiny: bool) -> Row:
    """Run one path in this process."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # else float32 is not compared
    try:
        outcome = PATHS[name](Setup(device, scratch, videos, tiny))
    except NotHereError as error:
        return Row(name, NOT_RUN, str(error))
    except Exception as error:
        return Row(name, FAILED, (f"{type(error).__name__}: {error}".splitlines())[0])
    numbers = asdict(outcome)
    return Row(name, OK if outcome.is_same else DIFFERS, numbers.pop("note"), **numbers)


def run_apart(name: str, command: Sequence[str], limit_s: float = LIMIT_S) -> Row:
    """Run a command that prints a path's row as JSON, and say how it ended if it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return Row(name, FAILED, f"no end after {limit_s:g} s")
    try:
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Row(name, FAILED, f"the process ended with {how}: {last}")


def describe(rows: Sequence[Row], device: str) -> str:
    """Return the page that is sent back: the machine, its card, the versions, and each path with its numbers."""
    index = cuda_index(device)
    card = "none" if index is None else str(torch.cuda.get_device_properties(index))
    facts = {"system": platform.platform(), "cores": os.cpu_count(), "device": device}
    facts |= {"card": card, "CUDA or ROCm": torch.version.cuda or torch.version.hip or "none", **list_versions()}
    lines = ["# vidret on this machine", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| path | CPU s | device s | difference | at most | verdict | note |", "|---|---|---|---|---|---|---|"]
    home = str(Path.home())
    for row in rows:
        numbers = [row.cpu_s, row.device_s, row.difference, row.tolerance]
        cells = ["" if value is None else f"{value:.3g}" for value in numbers]
        note = row.reason.replace(tempfile.gettempdir(), "TMP").replace(home, "HOME").replace("|", "/")
        lines.append(f"| {row.path} | {' | '.join(cells)} | {row.verdict} | {note} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the paths; return the exit status."""
    parser = make_parser(__doc__, tiny=False, page=Path)
    parser.add_argument("videos", nargs="?", help="A folder of real videos.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, xpu, xpu:N or mps.")
    parser.add_argument("--only", default="", help="Run only paths whose name holds this.")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # one path, in this process
    given = parser.parse_args(arguments)
    device = choose_device(given.device)
    videos = scan([given.videos])[:NUM_VIDEOS] if given.videos else []
    if given.run:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(asdict(run_path(given.run, device, Path(scratch), videos, tiny=given.tiny))))
        return 0
    command = [sys.executable, __file__, *([given.videos] if given.videos else []), "--device", device]
    command += ["--tiny"] if given.tiny else []
    rows = []
    for name in PATHS:
        if given.only.lower() in name.lower():
            print(f"{name} ...", file=sys.stderr)
            rows.append(run_apart(name, [*command, "--run", name]))
    page = describe(rows, device)
    print(page, end="")
    if given.page is not None:
        given.page.write_text(page, "utf-8")
        print(f"{given.page} has all of this: please send it with your report", file=sys.stderr)
    return int(any(row.verdict in (DIFFERS, FAILED) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
