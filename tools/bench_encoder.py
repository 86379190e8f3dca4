"""Measure encoders by turns in one process on one thread; print one JSON object.

    python tools/bench_encoder.py [--only PART ...] [--repeats 5] [--backbone ViT-B-32 ...] [--family clip ...]

Weights are random: speed does not depend on them. ``against_X`` is X's median CPU time to the row's: 2 is twice
as fast. The parts:

- ``towers``: open_clip itself, our plain tower, Prompt Switch, TempMe at several schedules, and bfloat16 weights.
- ``precision``: models in fp32, bf16 and int8, by number of frames in a call; cosines are with the vectors of fp32.
- ``families``: ``encode_frames`` against the library's own processor and one batched forward, and only that forward on
  pixels that are ready: towers of width 384 at 224 pixels, and two models of open_clip, one that vidret runs by its own
  tower and one that open_clip runs. The script stops if the vectors differ.
- ``start``: from the start of Python to the vector of a query, by vidret and by open_clip, from a file of weights.
"""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from einops import rearrange
from harness import compare, copy_samples, load_tiny_models, make_parser, run_parts, take_turns
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from vidret.encode.clip.model import ClipModel, measure_cost
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.weights import from_open_clip
from vidret.encode.families.clip import derive_card
from vidret.encode.families.registry import load_encoder
from vidret.encode.families.transformers_models import MODEL_TYPES
from vidret.encode.model_hub import hide_progress
from vidret.encode.names import STARTER
from vidret.types import Frames, Sampling
from vidret.video.probe import probe
from vidret.video.reader import read_frames

transformers: Any = importlib.import_module("transformers")
NUM_FRAMES = 12
MERGED = {"ViT-B-32": (2,), "ViT-B-16": (2, 10, 16)}  # r of TempMe; the last has 49 % of the multiply-adds
PRECISIONS = {STARTER: ("fp32", "bf16"), "ViT-B-32/random": ("fp32", "bf16", "int8")}
LENGTHS = (1, 4, 12)  # frames in a call
SIDE, PATCH, WIDTH, HEADS, LAYERS = 224, 16, 384, 6, 4
VIDEO_FRAMES = 8  # in a segment of a model of videos
MADE_FAMILIES = ("clip", "siglip", "siglip2", "xclip")  # whose models are made here
OPEN_CLIP = {"open_clip, own tower": "ViT-B-32", "open_clip, foreign tower": "PE-Core-T-16-384"}

STARTED = ("ViT-B-32", "ViT-L-14")
STARTS = {
    "vidret": "from vidret.encode.families.registry import load_encoder\n"
    "load_encoder(f'{sys.argv[1]}/{sys.argv[2]}', device='cpu', precision='fp32').encode_text(['a dog'])",
    "open_clip": "import open_clip\nmodel = open_clip.create_model(sys.argv[1], pretrained=sys.argv[2]).eval()\n"
    "model.encode_text(open_clip.get_tokenizer(sys.argv[1])(['a dog']))",
}


# Towers


def measure_towers(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Time all variants of backbones; what a method adds starts as it does in training."""
    return {backbone: measure_backbone(backbone, given.repeats, given.videos) for backbone in given.backbone}


def measure_backbone(backbone: str, repeats: int, num_videos: int) -> dict[str, Any]:
    """Time all variants of a backbone."""
    torch.manual_seed(0)
    other: Any = open_clip.create_model(backbone, pretrained=None).eval()
    card = derive_card(backbone, open_clip.get_model_config(backbone), {})
    assert card is not None
    state = from_open_clip(other.state_dict(), card).state_dict()
    pixels = torch.randn(num_videos * NUM_FRAMES, 3, card.vision.image_size, card.vision.image_size)
    runs: dict[str, Callable[[], Any]] = {"open_clip": lambda: other.encode_image(pixels)}
    variants = {"plain": card, "Prompt Switch": replace(card, prompts=PromptShape())}
    variants |= {f"TempMe r={r}": replace(card, merging=MergeSchedule(r=r)) for r in MERGED[backbone]}
    for name, variant in variants.items():
        for dtype in (torch.float32, torch.bfloat16):
            if dtype == torch.float32 or name in ("plain", "TempMe r=2"):
                model = ClipModel(variant)
                model.load_state_dict(state, strict=False)
                vision = model.eval().to(dtype).vision
                key = name if dtype == torch.float32 else f"{name}, bf16"
                runs[key] = partial(vision, pixels.to(dtype), num_frames=NUM_FRAMES)
    with torch.inference_mode():
        rows = compare(take_turns(runs, repeats), "open_clip")
    for name, variant in variants.items():
        rows[name]["tokens"] = measure_cost(replace(variant, sampling=Sampling(NUM_FRAMES))).output_tokens
    return rows


# Precision


def measure_precision(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time each precision of each model, and compare its vectors."""
    report, files = dict[str, Any](), copy_samples(scratch, 1)
    for model, precisions in PRECISIONS.items():
        encoders = {precision: load_encoder(model, device="cpu", precision=precision) for precision in precisions}
        resize, pixels = encoders["fp32"].resize, []
        for file in files:
            times = (np.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES * probe(file).duration
            pixels.append(read_frames(file, times=times, resize=resize).pixels)
        frames = np.concatenate(pixels)
        for length in LENGTHS:
            segment = Frames(frames[:length], np.arange(float(length)))
            runs = {name: partial(encoder.encode_frames, [segment]) for name, encoder in encoders.items()}
            report[f"{model}, {length} frames"] = compare(take_turns(runs, given.repeats), "fp32")
        sample = Frames(frames, np.arange(float(len(frames))))
        vectors = {name: encoder.encode_frames([sample])[0].frames for name, encoder in encoders.items()}
        report[f"{model}, least cosine"] = {
            name: float((rows * vectors["fp32"]).sum(axis=1).min()) for name, rows in vectors.items()
        }
    return report


# Families


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """An encoder of vidret, segments, and the library's own way to the same vectors.

    ``read`` returns the inputs of the library's model, made by its own processor; ``run`` returns from these the
    vectors of all frames or videos, (item, dim), not normalised.
    """

    encoder: Any
    segments: list[Frames]
    read: Callable[[], Any]
    run: Callable[[Any], torch.Tensor]


def make_config(family: str) -> Any:
    """Return the configuration of a family with a vision tower of realistic width and a tiny text tower."""
    config: Any = load_tiny_models().TINY[family].make_config()
    tower = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
    tower |= {"num_hidden_layers": LAYERS, "patch_size": PATCH}
    sizes = {"num_patches": (SIDE // PATCH) ** 2} if family == "siglip2" else {"image_size": SIDE}
    config.vision_config.update({**tower, **sizes})
    if family == "xclip":
        mit = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 1}
        config.vision_config.update({f"mit_{key}": value for key, value in mit.items()} | {"num_frames": VIDEO_FRAMES})
        config.projection_dim = 512
    return config


def make_processor(family: str) -> Any:
    """Return the family's own processor of frames."""
    size, half = {"height": SIDE, "width": SIDE}, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if family == "siglip":
        return transformers.SiglipImageProcessor(size=size, **half)
    if family == "siglip2":
        return transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=(SIDE // PATCH) ** 2, **half)
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)


def save_model(family: str, folder: Path) -> None:
    """Write a random model of a family with its tokenizer and processor."""
    torch.manual_seed(0)
    with hide_progress():
        transformers.AutoModel.from_config(make_config(family)).save_pretrained(folder)
    load_tiny_models().make_tokenizer(16).save_pretrained(folder)
    make_processor(family).save_pretrained(folder)


def draw_segments(side: int, num_frames: int) -> list[Frames]:
    """Return two segments of random frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, num_frames, side, side, 3), dtype=np.uint8)
    return [Frames(frames, np.arange(float(num_frames))) for frames in pixels]


def match_transformers(family: str, folder: Path) -> Contest:
    """Return what runs for a family of transformers."""
    save_model(family, folder)
    encoder: Any = load_encoder(f"hf:{folder}", device="cpu", precision="fp32")
    is_video = MODEL_TYPES[family].num_frames is not None
    segments = draw_segments(SIDE, VIDEO_FRAMES if is_video else NUM_FRAMES)
    images = [image for segment in segments for image in segment.pixels]
    model, processor = encoder._model, make_processor(family)

    def read() -> dict[str, torch.Tensor]:  # the frames have the model's size
        inputs = dict(processor(images=images, return_tensors="pt", do_resize=False))
        if is_video:
            pixels = inputs["pixel_values"]
            return {"pixel_values": rearrange(pixels, "(video frame) c y x -> video frame c y x", video=len(segments))}
        return inputs

    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        output = (model.get_video_features if is_video else model.get_image_features)(**inputs)
        vectors: torch.Tensor = output.pooler_output
        return vectors.reshape(len(segments) if is_video else len(images), -1)

    return Contest(encoder=encoder, segments=segments, read=read, run=run)


def match_open_clip(architecture: str) -> Contest:
    """Return what runs for a model of open_clip, which prepares images one by one."""
    encoder: Any = load_encoder(f"{architecture}/random", device="cpu", precision="fp32")
    segments = draw_segments(encoder.resize.crop, NUM_FRAMES)
    torch.manual_seed(0)
    created: Any = open_clip.create_model_and_transforms(architecture, pretrained=None)
    model, preprocess = created[0].eval(), created[2]

    def read() -> torch.Tensor:
        return torch.stack([preprocess(Image.fromarray(image)) for segment in segments for image in segment.pixels])

    return Contest(encoder=encoder, segments=segments, read=read, run=model.encode_image)


def check_vectors(family: str, contest: Contest) -> None:
    """Stop if vidret and the library differ: then they would not do the same work."""
    embeddings = contest.encoder.encode_frames(contest.segments)
    theirs = functional.normalize(contest.run(contest.read()).float(), dim=-1).numpy()
    is_whole = len(theirs) == len(contest.segments)
    ours = [embedding.video[None] if is_whole else embedding.frames for embedding in embeddings]
    difference = float(np.abs(np.concatenate(ours) - theirs).max())
    if difference > 1e-4:
        raise SystemExit(f"{family}: vectors must be those of the library, got a difference of {difference:.2g}")


def measure_families(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time encoding through vidret, the library, and only the library's forward."""
    report: dict[str, Any] = {}
    for family in given.family:
        with torch.inference_mode():
            if family in OPEN_CLIP:
                own = match_open_clip(OPEN_CLIP[family])
            else:
                own = match_transformers(family, scratch / family)
            check_vectors(family, own)
            runs: dict[str, Callable[[], Any]] = {
                "vidret": partial(own.encoder.encode_frames, own.segments),
                "library": lambda own=own: own.run(own.read()),  # type: ignore[misc]
                "forward": partial(own.run, own.read()),
            }
            costs = take_turns(runs, given.repeats)
            report[family] = compare(costs, "library")["vidret"] | compare(costs, "forward")["vidret"]
    return report


def measure_start(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Load models and encode one text by turns, each time in a process of its own."""
    report: dict[str, Any] = {}
    for architecture in STARTED:
        path = scratch / f"{architecture}.safetensors"
        save_file(open_clip.create_model(architecture).state_dict(), path)
        runs = {
            name: partial(subprocess.run, [sys.executable, "-c", f"import sys\n{code}", architecture, path], check=True)
            for name, code in STARTS.items()
        }
        report[architecture] = compare(take_turns(runs, given.repeats), "open_clip")
        path.unlink()
    return report


def main() -> None:
    """Measure and print."""
    families = [*MADE_FAMILIES, *OPEN_CLIP]
    parser = make_parser(__doc__, repeats=5, videos=1)
    parser.add_argument("--backbone", nargs="+", choices=MERGED, default=[*MERGED])
    parser.add_argument("--family", nargs="+", choices=families, default=families)
    parts = {"towers": measure_towers, "precision": measure_precision, "families": measure_families}
    run_parts(parser, {**parts, "start": measure_start})


if __name__ == "__main__":
    main()
