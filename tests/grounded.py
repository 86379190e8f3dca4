"""A tiny CLIP, small grounding heads for it, films of numbered frames, and a naive twin of grounding."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import torch

import vidret.search.heads.prepared
from tests.encode.tiny import MERGING, TEXT, VISION, stir
from tests.ground.samples import pack
from tests.video.films import write_video
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.clip.encoder import ClipEncoder
from vidret.encode.clip.model import Card, ClipModel
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.ground.checkpoint import HeadCard, load_head, save_head
from vidret.ground.head import GroundingHead, GroundingResult
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window
from vidret.types import Frames, LayerTokens, Sampling
from vidret.video.probe import probe
from vidret.video.reader import open_reader
from vidret.video.sampling import nearest
from vidret.video.workers.pool import DecodePool

NAME = "tiny"
NUM_LAYERS = 3
AT_ONCE = 12


@cache
def make_encoder(*, merging: bool = False, prompts: PromptShape | None = None, seed: int = 1) -> ClipEncoder:
    """Return a CLIP with random weights; with ``merging`` it merges tokens across frames as TempMe does."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    text = replace(TEXT, context=77, vocabulary=49408, layers=NUM_LAYERS)
    over_time: dict[str, Any] = {"merging": MERGING if merging else None, "prompts": prompts}
    model = ClipModel(Card(NAME, NAME, VISION, text, **over_time, sampling=Sampling(AT_ONCE)))
    stir(model)
    torch.set_rng_state(state)
    tokenizer: Any = open_clip.SimpleTokenizer(context_length=77)
    return ClipEncoder(NAME, model, tokenizer, device=torch.device("cpu"), dtype=torch.float32)


def write_head(
    path: Path,
    recipe: str = "charades",
    *,
    boundaries: bool = True,
    seed: int = 0,
    width: int = VISION.width,
    text_width: int = TEXT.width,
    num_layers: int = NUM_LAYERS,
    backbone: str = NAME,
    **changes: Any,
) -> Path:
    """Write a head with random weights that all matter, for a benchmark's use; ``changes`` are of the recipe."""
    torch.manual_seed(seed)
    head = GroundingHead(
        width,
        text_width,
        16,
        num_layers=num_layers,
        heads=2,
        strides=(1, 2, 4) if boundaries else (1,),
        boundaries=boundaries,
        cosine=boundaries,
        tef=boundaries,
    ).eval()
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    facts: Any = {"fps": None, **RECIPES[recipe], **changes}
    save_head(head, HeadCard.describe(head, backbone=backbone, **facts), path)
    return path


def write_numbers(path: Path, numbers: Sequence[int], rate: int = 1, **how: Any) -> Path:
    """Write a film of numbered frames, ``rate`` a second; neighbours differ visibly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"g": "10"} | ({"preset": "ultrafast"} if how.get("codec", "libx264") == "libx264" else {})
    return write_video(path, [5 * frame_number % 251 for frame_number in numbers], rate=rate, options=options, **how)


@contextmanager
def lasting_pools() -> Iterator[None]:
    """Keep decoding processes for all videos inside the context, since starting one takes longer than its work."""
    pools: dict[str, DecodePool] = {}

    @contextmanager
    def lend(num_workers: int, **settings: Any) -> Iterator[DecodePool]:
        if str(settings) not in pools:
            pools[str(settings)] = DecodePool(num_workers, **settings)
        yield pools[str(settings)]

    with mock.patch.object(vidret.search.heads.prepared, "DecodePool", lend):
        yield
    for pool in pools.values():
        pool.close()


def look(path: Path, encoder: ClipEncoder, fps: float, picture_of: Callable[[int], int] = int) -> list[LayerTokens]:
    """Decode the frame in the middle of every 1 / fps seconds, and return the layers of batches of them.

    ``picture_of`` returns the index of the frame that is used as the n-th.
    """
    info = probe(path)
    num_frames = max(1, math.ceil(info.duration * fps - 0.5))
    pixels: dict[int, np.ndarray] = {}
    with open_reader(info, resize=encoder.resize) as reader:
        for frame_index in {picture_of(n): None for n in range(num_frames)}:
            time = (frame_index + 0.5) / fps if num_frames > 1 else min(info.duration, 1 / fps) / 2
            pixels[frame_index] = reader.read(nearest(info.times, np.array([time]))).pixels[0]
    at_once = encoder.sampling.num_frames
    groups = [range(first, min(first + at_once, num_frames)) for first in range(0, num_frames, at_once)]
    return [
        encoder.encode_layers(
            Frames(np.stack([pixels[picture_of(n)] for n in group]), np.array(group) + 0.0), NUM_LAYERS
        )
        for group in groups
    ]


def gather(parts: Sequence[LayerTokens], window: Window) -> tuple[list[Any], list[Any] | None, list[Any] | None]:
    """Return the tokens, masks and sizes of the frames of a window, padded to equal numbers of tokens."""
    rows = [(part, row) for part in parts for row in range(len(part.times))]
    layers, masks, sizes = [], [], []
    for layer in range(NUM_LAYERS):
        most = max(part.layers[layer].shape[1] for part in parts)
        tokens = np.zeros((1, window.last - window.first, most, VISION.width), np.float32)
        mask, size = np.zeros(tokens.shape[:3], bool), np.zeros(tokens.shape[:3], np.float32)
        for place, (part, row) in enumerate(rows[window.first : window.last]):
            frame_tokens = part.layers[layer][row]
            tokens[0, place, : len(frame_tokens)] = frame_tokens
            mask[0, place, : len(frame_tokens)] = True if part.masks is None else part.masks[layer][row]
            size[0, place, : len(frame_tokens)] = 1 if part.sizes is None else part.sizes[layer][row]
        layers.append(torch.from_numpy(tokens))
        masks.append(torch.from_numpy(mask))
        sizes.append(torch.from_numpy(size))
    plain = parts[0].masks is None
    return layers, None if plain else masks, None if plain else sizes


@torch.no_grad()
def project_directly(
    path: Path, head: Path, encoder: ClipEncoder, windows: Sequence[Window], dtype: torch.dtype | None
) -> list[ProjectedVideos]:
    """Return each window's projected tokens, projected at once; no file between."""
    module, card = load_head(head)
    parts = look(path, encoder, card.fps or 0.5)
    projected = []
    for window in windows:
        layers, masks, sizes = gather(parts, window)
        prepared = module.prepare(layers, token_masks=masks, sizes=sizes)
        projected.append(prepared if dtype is None else pack(prepared, dtype))
    return projected


@torch.no_grad()
def answer_directly(
    projected: Sequence[tuple[Window, ProjectedVideos]], query: str, head: Path, encoder: ClipEncoder
) -> GroundingResult:
    """Return the spans and saliency of a whole video given its windows, joined by loops."""
    module, card = load_head(head)
    fps = card.fps or 0.5
    words = torch.from_numpy(encoder.encode_text_layers([query], NUM_LAYERS)[0].layers)[None]
    spans = []
    said: dict[int, list[float]] = {}
    for window, tokens in projected:
        found = module.decode(module(tokens, words), fps=fps)[0]
        spans += [[start + window.first / fps, end + window.first / fps, score] for start, end, score in found.spans]
        for place, value in enumerate(found.saliency, start=window.first):
            said.setdefault(place, []).append(float(value))
    spans.sort(key=lambda span: -span[2])
    saliency = np.array([np.mean(said[place]) for place in sorted(said)], np.float32)
    return GroundingResult(np.array(spans, np.float32).reshape(-1, 3), saliency)
