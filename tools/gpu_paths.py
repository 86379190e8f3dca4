"""The paths of ``tools/check_gpu.py``: each on the CPU and on a device, with the same input.

A path returns how long each took and how far the results lie apart, or raises ``NotHereError`` where this machine lacks
what it needs. Models have random weights: what is compared is the arithmetic. Matrices are multiplied in full float32.

As a program, ``gpu_paths.py BACKEND DEVICE RENDEZVOUS RANK WORLD`` is one of several processes that train together: a
step of towers on its share of a batch. Process 0 leaves the gradients in RENDEZVOUS.pt.
"""

import importlib
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from vidret.align.batches import TextBatch, VideoBatch, move_batch
from vidret.align.glscl import ConceptAligner
from vidret.align.ucofia import Aligner
from vidret.devices import CPU, cuda_index
from vidret.encode.clip.model import Card, ClipModel, save_model
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.text import TextShape
from vidret.encode.clip.vision import VisionShape
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.errors import VidretError
from vidret.train.gather import gather
from vidret.train.losses import find_same_videos, retrieval_loss
from vidret.types import Frames, Resize, Sampling

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


def run_both(setup: Setup, work: Callable[[str], Any]) -> tuple[Any, Any, float, float]:
    """Return the results of ``work`` on the CPU and on the device, and the seconds that each took once warm."""
    results, seconds = [], []
    for device in (CPU, setup.device):
        if not setup.tiny:
            work(device)  # libraries and kernels are loaded
        since = time.perf_counter()
        results.append(work(device))
        seconds.append(time.perf_counter() - since)
    return results[0], results[1], seconds[0], seconds[1]


def gap(one: Any, other: Any) -> float:
    """Return 1 - the least cosine of two arrays' rows."""
    units = [np.asarray(rows, np.float64).reshape(-1, np.shape(rows)[-1]) for rows in (one, other)]
    units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in units]
    return float(1 - (units[0] * units[1]).sum(axis=1).min())


# Decoding


def write_videos(setup: Setup) -> list[str]:
    """Write films of a moving pattern, with keyframes and B-frames; return their paths."""
    paths = []
    width, height, seconds = (64, 48, 3) if setup.tiny else (1280, 720, 20)
    rows, columns = np.mgrid[:height, :width]
    for number in range(2):
        path = setup.scratch / f"film-{number}.mp4"
        with av.open(str(path), "w") as container:
            options = {"g": "25", "bf": "2", "preset": "ultrafast"}
            stream = cast(Any, container.add_stream("libx264", rate=FPS, options=options))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.colorspace = 6  # BT.601 in H.273; GPUs do not decode untagged high definition
            for frame in range(seconds * FPS):
                shift = frame * width // (seconds * FPS)
                grey = (columns + (2 + number) * rows // 2 + 3 * shift) * 255 // (width + 2 * height) % 256
                picture = np.stack([grey, 255 - grey, np.roll(grey, shift, axis=1)], axis=-1).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        paths.append(str(path))
    return paths


def check_decoding(
    setup: Setup,
    paths: Sequence[str],
    decoder: Literal["decord", "torchcodec"] = "decord",
    resize: Resize | None = None,
) -> Outcome:
    """Compare frames: mean difference in grey levels of 255; 255 where a neighbour of the frame was decoded instead."""
    from vidret.video.decoders.registry import find_decoder
    from vidret.video.decoders.torchcodec import load_torchcodec
    from vidret.video.probe import probe
    from vidret.video.reader import open_reader

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
    difference, cpu_s, device_s, skipped = 0.0, 0.0, 0.0, 0
    for path in paths:
        info = probe(path)
        chosen = np.linspace(1, info.num_frames - 2, 8).astype(int) if info.num_frames > 9 else np.arange(0)
        with open_reader(info, resize=resize) as here, open_reader(info, resize=resize, **settings) as there:
            if not len(chosen) or (gpu is not None and not there.why.startswith("GPU")):
                skipped += 1
                continue
            since = time.perf_counter()
            exact = here.read(chosen).pixels.astype(np.float32)
            between = time.perf_counter()
            found = there.read(chosen).pixels.astype(np.float32)
            cpu_s, device_s = cpu_s + between - since, device_s + time.perf_counter() - between
        if there.fallback or len(found) != len(exact):
            raise RuntimeError(f"{path}: {there.fallback or 'frames are missing'}")
        own = np.abs(found - exact).mean(axis=(1, 2, 3))
        with open_reader(info, resize=resize) as here:
            for step in (-1, 1):
                near = np.abs(found - here.read(chosen + step).pixels.astype(np.float32)).mean(axis=(1, 2, 3))
                own = np.where(near < own - 0.5, 255, own)
        difference = max(difference, float(own.max()))
    if skipped == len(paths):
        raise NotHereError(f"none of {len(paths)} videos is of the kind that {setup.device} decodes")
    note = f"{len(paths) - skipped} videos" + (f", {skipped} of another kind left out" if skipped else "")
    return Outcome(cpu_s, device_s, difference, 4.0, note)


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


def write_model(setup: Setup, method: str) -> str:
    """Write a model with random weights; return its path."""
    path = setup.scratch / f"{method}.safetensors"
    torch.manual_seed(0)
    model = ClipModel(
        Card(method, "random", setup.vision, setup.text, **METHODS[method], sampling=Sampling(NUM_FRAMES))
    )
    with torch.no_grad():
        for weight in model.parameters():  # zeros, too, so that no part is switched off
            weight.add_(torch.randn_like(weight), alpha=0.02)
    save_model(model, path)
    return str(path)


def make_segments(encoder: Encoder, num: int) -> list[Frames]:
    """Return segments of smooth random pictures."""
    rng, side = np.random.default_rng(0), encoder.resize.crop
    coarse = rng.integers(0, 256, (num, NUM_FRAMES, 8, 8, 3), dtype=np.uint8)
    fine = coarse.repeat(-(-side // 8), axis=2).repeat(-(-side // 8), axis=3)[:, :, :side, :side]
    return [Frames(pixels, np.arange(NUM_FRAMES, dtype=np.float64)) for pixels in fine]


def check_encoding(setup: Setup, name: str, tolerance: float, precision: str = "fp32") -> Outcome:
    """Compare vectors of frames, segments and texts: 1 - the least cosine."""
    encoders = {
        device: load_encoder(name, device=device, precision="fp32" if device == CPU else precision)
        for device in (CPU, setup.device)
    }

    segments = make_segments(encoders[CPU], 1 if setup.tiny else 8)

    def encode(device: str) -> tuple[np.ndarray, np.ndarray]:
        embeddings = encoders[device].encode_frames(segments, tokens=True)
        texts = encoders[device].encode_text(["a dog on a beach", "two people play the piano", ""])
        vectors = [embedding.frames for embedding in embeddings] + [
            np.stack([embedding.video for embedding in embeddings])
        ]
        return np.concatenate(vectors), np.stack([embedded.sentence for embedded in texts])

    here, there, cpu_s, device_s = run_both(setup, encode)
    return Outcome(cpu_s, device_s, max(gap(one, other) for one, other in zip(here, there, strict=True)), tolerance)


TINY_MODELS = "tests.encode.hf_models"  # random models of the kinds that transformers runs


def check_video_encoding(setup: Setup, kind: str, tolerance: float, precision: str = "fp32") -> Outcome:
    """Compare vectors of whole segments, with their sound where the model hears, and of texts: 1 - the least cosine."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        models = importlib.import_module(TINY_MODELS)
    except ImportError as error:
        raise NotHereError(f"models of transformers: {error}") from error
    folder = setup.scratch / f"{kind}-{precision}"
    name = (
        f"hf:{models.save_tiny_qwen(folder)}#pixels=65536" if kind == QWEN else f"hf:{models.save_tiny(kind, folder)}"
    )
    encoders = {
        device: load_encoder(name, device=device, precision="fp32" if device == CPU else precision)
        for device in (CPU, setup.device)
    }
    segments = make_segments(encoders[CPU], 1 if setup.tiny else 8)
    rate = encoders[CPU].sampling.sound_rate
    sound = (20_000 * np.sin(np.arange(rate * NUM_FRAMES) / 7)).astype(np.int16) if rate else None
    segments = [replace(frames, sound=sound) for frames in segments]

    def encode(device: str) -> tuple[np.ndarray, np.ndarray]:
        videos = [embedding.video for embedding in encoders[device].encode_frames(segments)]
        texts = [embedded.sentence for embedded in encoders[device].encode_text(["a dog", "two people"])]
        return np.stack(videos), np.stack(texts)

    here, there, cpu_s, device_s = run_both(setup, encode)
    apart = max(gap(one, other) for one, other in zip(here, there, strict=True))
    return Outcome(cpu_s, device_s, apart, tolerance, "a tiny model, whose speed says nothing")


# FAISS


def check_faiss(setup: Setup, kind: str, *, filtered: bool = False, k: int = 10) -> Outcome:
    """Compare what is found: the share of results that differ; a filter must let no other through."""
    from vidret.store.vectors.flat import MAX_SELECTION, Flat, IdFilter, choose_faiss_device, load_faiss
    from vidret.store.vectors.ivf import Shard, build_shard

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
            continue
        indexes[device] = flat = Flat(dim, device=device)
        flat.add(ids, vectors)
    here, there, cpu_s, device_s = run_both(setup, lambda device: indexes[device].search(queries, k, id_filter))
    pairs = [(set(one) - {-1}, set(other) - {-1}) for one, other in zip(here.ids, there.ids, strict=True)]
    missed = float(np.mean([len(one ^ other) / 2 / max(1, len(one)) for one, other in pairs]))
    if filtered and any(not flags[sorted(other)].all() for _, other in pairs):
        missed = 1.0
    note = "on the CPU in either case" if filtered or k > MAX_SELECTION else ""
    return Outcome(cpu_s, device_s, missed, 0.0 if note else 0.02, note)


# The head, and an engine from files to moments


def write_head(setup: Setup, backbone: str) -> Path:
    """Write a grounding head with random weights."""
    from vidret.data.benchmarks.registry import RECIPES
    from vidret.ground.checkpoint import HeadCard, save_head
    from vidret.ground.head import GroundingHead

    torch.manual_seed(1)
    dim, layers = (32, 2) if setup.tiny else (256, 4)
    head = GroundingHead(setup.vision.width, setup.text.width, dim, num_layers=layers).eval()
    path = setup.scratch / "head.safetensors"
    save_head(head, HeadCard.describe(head, backbone=backbone, **RECIPES["qvhighlights"]), path)
    return path


def check_head(setup: Setup) -> Outcome:
    """Compare a head's logits and saliency: the greatest difference."""
    from vidret.ground.checkpoint import load_head

    path = write_head(setup, "none")
    num_frames, num_layers = (20, 2) if setup.tiny else (75, 4)
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_frames, 1 + setup.vision.num_patches, setup.vision.width)
    layers = [torch.randn(shape, generator=generator) for _ in range(num_layers)]
    query = torch.randn(1, num_layers, 9, setup.text.width, generator=generator)

    @torch.inference_mode()
    def ask(device: str) -> np.ndarray:
        head = load_head(path)[0].to(device).eval()
        projected = head.prepare([layer.to(device) for layer in layers])
        projected = projected._replace(layers=tuple(layer.half() for layer in projected.layers))
        output = head(projected, query.to(device))
        return np.concatenate([output.logits.cpu().numpy().ravel(), head.decode(output, fps=1.0)[0].saliency])

    here, there, cpu_s, device_s = run_both(setup, ask)
    return Outcome(cpu_s, device_s, float(np.abs(here - there).max()), 0.01)


def check_aligner(setup: Setup, aligner: Aligner | ConceptAligner) -> Outcome:
    """Compare the scores of a bank of queries against videos."""
    num, dim, generator = (20, 32, torch.Generator().manual_seed(0)) if setup.tiny else (500, 512, torch.Generator())
    words = torch.randn(num, 20, dim, generator=generator)
    texts = TextBatch(words[:, 0], words)
    videos = VideoBatch(torch.randn(num, NUM_FRAMES, dim, generator=generator))

    def score(device: str) -> np.ndarray:
        own = aligner.to(device)
        prepared: Any = own.prepare(move_batch(videos, device))
        return cast(Any, own.score(move_batch(texts, device), prepared))[0].cpu().numpy()  # type: ignore[no-any-return]

    here, there, cpu_s, device_s = run_both(setup, score)
    return Outcome(cpu_s, device_s, float(np.abs(here - there).max() / np.abs(here).max()), 1e-3)


def check_engine(setup: Setup) -> Outcome:
    """Index films, search, and ask a head: 1 - the least cosine of stored frames; 1 where another film comes first."""
    from vidret.engine import Engine
    from vidret.store.store import Store

    model = write_model(setup, "clip")
    head, films = write_head(setup, model), [*write_videos(setup), *setup.videos]

    def use(device: str, name: str) -> tuple[np.ndarray, list[str], np.ndarray]:
        index = setup.scratch / f"index-{name}"
        with Engine.open(index, encoder=model, head=head, device=device, precision="fp32") as engine:
            engine.index(films, words=False)
            best = [engine.search(query, 1)[0].path for query in ("a dog", "music", "something red")]
            saliency = engine.rate("a dog", films[0], np.arange(3.0))
        with Store.open(index) as store:
            ids = store.searchable()
            names = [
                (store.files.paths_of([segment.video])[segment.video][0], segment.number)
                for segment in store.segments.get(ids)
            ]
            frames = [frames for frames, _ in store.features.read_frames(ids)]
        return (
            np.concatenate([frames[place] for place in np.lexsort(list(zip(*names, strict=True))[::-1])]),
            best,
            saliency,
        )

    since = time.perf_counter()
    here = use(CPU, "here")
    between = time.perf_counter()
    there = use(setup.device, "there")
    cpu_s, device_s = between - since, time.perf_counter() - between
    apart = max(gap(here[0], there[0]), float(np.abs(here[2] - there[2]).max()))
    return Outcome(cpu_s, device_s, apart if here[1] == there[1] else 1.0, 0.02, f"{len(films)} videos")


# Training


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from saying that no trainer is attached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare_gradients(setup: Setup, make: Callable[[], Any], batch: Any, tolerance: float) -> Outcome:
    """Compare the gradients of one step: the length of their difference, relative."""

    def step(device: str) -> Tensor:
        torch.manual_seed(0)
        module = make().to(device).train()
        moved = type(batch)(*(move(part, device) for part in batch))
        torch.autograd.backward(module.training_step(moved, 0))
        return torch.cat([weight.grad.flatten().cpu() for weight in module.parameters() if weight.grad is not None])

    with quiet():
        here, there, cpu_s, device_s = run_both(setup, step)
    return Outcome(cpu_s, device_s, float((here - there).norm() / here.norm()), tolerance)


def move(part: Any, device: str) -> Any:
    """Move tensors, and tuples of them."""
    if isinstance(part, tuple):
        return tuple(move(item, device) for item in part)
    return part.to(device) if isinstance(part, Tensor) else part


def train_retrieval(setup: Setup, method: str, tolerance: float) -> Outcome:
    """Compare a training step for retrieval."""
    from vidret.data.dataset import RetrievalBatch
    from vidret.train.retrieval import RetrievalModule

    num, side, generator = 4, setup.vision.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (num, NUM_FRAMES, side, side, 3), dtype=torch.uint8, generator=generator)
    ids = torch.randint(1, 40_000, (num, 8), generator=generator)
    ids[:, 0], ids[:, -1], numbers = 49406, 49407, torch.arange(num)
    mask = torch.ones(num, NUM_FRAMES, dtype=torch.bool)
    batch = RetrievalBatch(pixels, mask, ids, numbers, numbers, numbers)
    shapes: dict[str, Any] = {"vision": setup.vision, "text": setup.text, "num_frames": NUM_FRAMES}
    return compare_gradients(
        setup, lambda: RetrievalModule(cast(Any, method), **shapes, **METHODS[method]), batch, tolerance
    )


def train_head(setup: Setup) -> Outcome:
    """Compare a training step of the head, without dropout."""
    from vidret.data.grounding import GroundingBatch
    from vidret.train.grounding import GroundingModule

    num, num_frames, generator = 4, 20, torch.Generator().manual_seed(0)
    dim, layers = (32, 2) if setup.tiny else (256, 4)
    shape = (num, num_frames, 1 + setup.vision.num_patches, setup.vision.width)
    batch = GroundingBatch(
        tuple(torch.randn(shape, generator=generator).half() for _ in range(layers)),
        torch.ones(num, num_frames, dtype=torch.bool),
        None,
        None,
        torch.randn(num, layers, 7, setup.text.width, generator=generator).half(),
        torch.ones(num, 7, dtype=torch.bool),
        torch.tensor([[[4.0, 16.0]]]).expand(num, 1, 2),
        torch.ones(num, 1, dtype=torch.bool),
        torch.rand(num, num_frames, generator=generator),
        torch.full((num,), 40.0),
        torch.arange(num),
    )
    settings: dict[str, Any] = {"width": setup.vision.width, "text_width": setup.text.width, "dim": dim}
    settings |= {"num_layers": layers, "dropout": 0.0, "drop_path": 0.0}
    return compare_gradients(setup, lambda: GroundingModule(**settings), batch, 0.01)


# Several processes


class Towers(nn.Module):
    """A small tower for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.video, self.text = (
            nn.Sequential(nn.Linear(TOWER_WIDTH, TOWER_WIDTH), nn.GELU(), nn.Linear(TOWER_WIDTH, 32)) for _ in "vt"
        )

    def forward(self, videos: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors."""
        return functional.normalize(self.video(videos), dim=-1), functional.normalize(self.text(texts), dim=-1)


def step_together(device: str, rank: int, world: int) -> Tensor:
    """Return the gradients of one step, on the CPU; the processes' shares of the batch follow each other."""
    torch.manual_seed(0)
    model: nn.Module = Towers().to(device)
    videos, texts = torch.randn(2, NUM_PAIRS, TOWER_WIDTH)
    own = torch.arange(NUM_PAIRS)[rank * NUM_PAIRS // world : (rank + 1) * NUM_PAIRS // world]
    if dist.is_initialized():
        model = DistributedDataParallel(model)
        rows = [torch.zeros(1, device=device) for _ in range(world)]
        dist.all_gather(rows, torch.ones(1, device=device))  # also where there is one process, which gathers nothing
    found, asked = (gather(rows) for rows in model(videos[own].to(device), texts[own].to(device)))
    loss = retrieval_loss(20 * asked @ found.T, same=find_same_videos(gather(own.to(device))))
    torch.autograd.backward(loss)
    return torch.cat([weight.grad.flatten().cpu() for weight in model.parameters() if weight.grad is not None])


def run_rank() -> None:
    """Join the others, step, and leave the gradients."""
    backend, device, rendezvous, rank, world = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    gpu = cuda_index(device)
    if gpu is not None:
        device = f"cuda:{rank}" if backend == "nccl" and world > 1 else device
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    try:
        gradients = step_together(device, rank, world)
        if rank == 0:
            torch.save(gradients, f"{rendezvous}.pt")
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
    if backend == "nccl" and (gpu is None or not torch.distributed.is_nccl_available()):
        raise NotHereError("nccl is for CUDA")
    world = 2 if backend == "gloo" else min(2, torch.cuda.device_count())
    rendezvous = setup.scratch / f"rendezvous-{backend}"
    commands = [
        [sys.executable, __file__, backend, setup.device, str(rendezvous), str(rank), str(world)]
        for rank in range(world)
    ]
    since = time.perf_counter()
    alone = step_together(CPU, 0, 1)
    between = time.perf_counter()
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        told = [rank.communicate(timeout=300)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    device_s = time.perf_counter() - between
    for rank, text in zip(ranks, told, strict=True):
        if rank.returncode:
            raise RuntimeError((text.strip().splitlines() or [f"a process ended with {rank.returncode}"])[-1])
    together = torch.load(f"{rendezvous}.pt", weights_only=True)
    note = f"{world} processes of it, their start included"
    return Outcome(between - since, device_s, float((alone - together).norm() / alone.norm()), 0.01, note)


PATHS: dict[str, Callable[[Setup], Outcome]] = {
    "decode, made videos": lambda setup: check_decoding(setup, write_videos(setup)),
    "decode, real videos": decode_real,
    "decode and resize, torchcodec": decode_small,
    "encode, CLIP": lambda setup: check_encoding(setup, write_model(setup, "clip"), 1e-3),
    "encode, CLIP in the device's own precision": lambda setup: check_encoding(
        setup, write_model(setup, "clip"), 1e-2, "auto"
    ),
    # Where two scores of a merge are nearly equal, rounding decides.
    "encode, TempMe": lambda setup: check_encoding(setup, write_model(setup, "tempme"), 1e-2),
    "encode, Prompt Switch": lambda setup: check_encoding(setup, write_model(setup, "promptswitch"), 1e-3),
    "encode, starter": lambda setup: check_encoding(setup, "starter", 1e-3),
    "encode, VideoPrism": lambda setup: check_video_encoding(setup, "videoprism", 1e-3),
    "encode, PE-AV with sound": lambda setup: check_video_encoding(setup, "pe_audio_video", 1e-3),
    "encode, Qwen3-VL-Embedding": lambda setup: check_video_encoding(setup, QWEN, 1e-3),
    "encode, Qwen3-VL-Embedding in the device's own precision": lambda setup: check_video_encoding(
        setup, QWEN, 2e-2, "auto"
    ),
    "FAISS, flat": lambda setup: check_faiss(setup, "flat"),
    "FAISS, flat, filtered": lambda setup: check_faiss(setup, "flat", filtered=True),
    "FAISS, flat, 2,500 results": lambda setup: check_faiss(setup, "flat", k=2500),
    "FAISS, lists": lambda setup: check_faiss(setup, "ivf"),
    "FAISS, lists, filtered": lambda setup: check_faiss(setup, "ivf", filtered=True),
    "rerank, UCoFiA": lambda setup: check_aligner(setup, Aligner()),
    "rerank, GLSCL": lambda setup: check_aligner(setup, ConceptAligner()),
    "head": check_head,
    "index, search, locate": check_engine,
    "train, CLIP": lambda setup: train_retrieval(setup, "clip", 0.01),
    "train, TempMe": lambda setup: train_retrieval(setup, "tempme", 0.05),
    "train, head": train_head,
    "train in two processes, gloo": lambda setup: train_together(setup, "gloo"),
    "train in a process a card, nccl": lambda setup: train_together(setup, "nccl"),
}


if __name__ == "__main__":
    run_rank()
