"""Measure encoding through vidret against each library's own batched forward; print one table, or JSON with --json.

    python tools/bench_families.py [--family clip --family siglip ...] [--repeats 7] [--layers 4]

Every family of transformers gets a model of random weights, on which speed does not depend: 4 layers of width 384 at
224 pixels. Two models of open_clip follow: one that vidret runs by its own tower, and one that open_clip runs. (Models
of sentence-transformers are run by the library itself.) All take the same decoded frames, in two segments: vidret by
``encode_frames``, the library by its own processor and one batched forward, and that forward alone on pixels that are
ready. The three run by turns in one process on one thread, in changing order. Seconds are medians; speeds are the
library's seconds to vidret's, so that more than 1 is faster than the library. The script stops if the vectors differ.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from einops import rearrange
from PIL import Image
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional

from vidret.encode.families.registry import load_encoder
from vidret.encode.families.transformers_loading import hide_progress
from vidret.encode.families.transformers_models import FAMILIES
from vidret.types import Frames

transformers: Any = importlib.import_module("transformers")
SIDE, PATCH, WIDTH, HEADS = 224, 16, 384, 6
IMAGE_FRAMES, VIDEO_FRAMES = 12, 8  # in a segment
WORDS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 8}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
OPEN_CLIP = {"open_clip, own tower": "ViT-B-32", "open_clip, foreign tower": "PE-Core-T-16-384"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One family: medians in milliseconds a frame, and how many times as fast as the library vidret is.

    Attributes:
        family: The type of model.
        ours_ms: CPU time of vidret.
        library_ms: CPU time of the library's processor and forward.
        forward_ms: CPU time of the forward alone.
        against_library: Speed relative to the library's processor and forward, by CPU time.
        against_forward: Speed relative to the forward alone, by CPU time.
        wall_against_library: As ``against_library``, by wall time.
        wall_against_forward: As ``against_forward``, by wall time.
    """

    family: str
    ours_ms: float
    library_ms: float
    forward_ms: float
    against_library: float
    against_forward: float
    wall_against_library: float
    wall_against_forward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """An encoder and its library's own way to the same vectors.

    Attributes:
        encoder: The encoder of vidret.
        segments: What is encoded.
        read: Returns the inputs of the library's model, made from the segments by its own processor.
        run: From these inputs to the vectors of all frames or videos, (item, dim), not normalised.
    """

    encoder: Any
    segments: list[Frames]
    read: Callable[[], Any]
    run: Callable[[Any], torch.Tensor]


def make_tokenizer() -> Any:
    """Return a tokenizer of a few words."""
    words = Tokenizer(
        models.WordLevel({word: row for row, word in enumerate(["<p>", "<u>", "<s>", "</s>", "a"])}, "<u>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<p>", unk_token="<u>", model_max_length=16, model_input_names=names
    )


def make_config(family: str, layers: int) -> Any:
    """Return the configuration of a family with a vision tower of realistic width and a tiny text tower."""
    tower: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS}
    tower["num_hidden_layers"] = layers
    image = {**tower, "image_size": SIDE, "patch_size": PATCH}
    words = {**WORDS, **SPECIAL, "max_position_embeddings": 64}
    both = {"text_config": words, "vision_config": image}
    match family:
        case "clip" | "metaclip_2" | "chinese_clip" | "siglip":
            return transformers.AutoConfig.for_model(family, **both)
        case "siglip2":
            vision = {**tower, "patch_size": PATCH, "num_patches": (SIDE // PATCH) ** 2}
            return transformers.Siglip2Config(text_config=words, vision_config=vision)
        case "altclip":
            text = {**words, "project_dim": 32, "max_position_embeddings": 90, "pooler_fn": "cls"}
            return transformers.AltCLIPConfig(text_config=text, vision_config=image)
        case "align":
            net: dict[str, Any] = {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280}  # B0
            text = {**words, "max_position_embeddings": 80}
            return transformers.AlignConfig(text_config=text, vision_config={**net, "image_size": SIDE})
        case "xclip":
            mit = {"mit_hidden_size": 512, "mit_intermediate_size": 2048, "mit_num_attention_heads": 8}
            vision = {**image, **mit, "mit_num_hidden_layers": 1, "num_frames": VIDEO_FRAMES}
            return transformers.XCLIPConfig(text_config=words, vision_config=vision, projection_dim=512)
        case "videoprism":
            depths = {"num_spatial_layers": layers, "num_temporal_layers": 2, "num_auxiliary_layers": 1}
            vision = {**tower, **depths, "image_size": SIDE, "tubelet_size": [1, 16, 16], "num_frames": VIDEO_FRAMES}
            return transformers.VideoPrismConfig(text_config={**words, "hidden_size": WIDTH}, vision_config=vision)
        case "pe_video" | "pe_audio_video":
            return make_pe_config(family, layers)
    raise SystemExit(f"{family} has no configuration in this script")


def make_pe_config(family: str, layers: int) -> Any:
    """Return a configuration of PE-Video or PE-AV: a timm trunk for frames and transformer layers over time."""
    trunk = {"img_size": SIDE, "embed_dim": WIDTH, "depth": layers, "num_heads": HEADS}
    vision = {"model_type": "timm_wrapper", "architecture": "vit_pe_core_small_patch16_384", "num_classes": 512}
    over_time = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "head_dim": 64}
    over_time |= {"num_attention_heads": HEADS}
    video = {**over_time, "vision_config": {**vision, "model_args": trunk}}
    text = {**WORDS, **SPECIAL, "model_type": "modernbert", "cls_token_id": 2, "sep_token_id": 3}
    if family == "pe_video":
        return transformers.PeVideoConfig(text_config=text, video_config=video)
    audio = {**over_time, "model_type": "pe_audio_encoder", "dac_config": {"model_type": "dac", "codebook_dim": 8}}
    both = {**over_time, "audio_config": audio, "video_config": {**video, "model_type": "pe_video_encoder"}}
    return transformers.PeAudioVideoConfig(text_config=text, audio_video_config=both)


def make_processor(family: str) -> Any:
    """Return the family's own processor of frames."""
    size, half = {"height": SIDE, "width": SIDE}, {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    match family:
        case "siglip":
            return transformers.SiglipImageProcessor(size=size, **half)
        case "siglip2":
            return transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=(SIDE // PATCH) ** 2, **half)
        case "align":
            return transformers.EfficientNetImageProcessor(size=size, crop_size=size, resample=2, **half)
        case "videoprism":
            return transformers.LlavaOnevisionVideoProcessor(size=size, do_normalize=False)
        case "pe_video" | "pe_audio_video":
            return transformers.PeVideoVideoProcessor(size=size, num_frames=VIDEO_FRAMES, **half)
    return transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)


def save_random(family: str, folder: Path, layers: int) -> None:
    """Write a random model of a family with its tokenizer and processor."""
    torch.manual_seed(0)
    with hide_progress():
        model = transformers.AutoModel.from_config(make_config(family, layers))
        model.save_pretrained(folder)
    tokenizer, processor = make_tokenizer(), make_processor(family)
    joined = {"videoprism": "VideoPrismProcessor", "pe_video": "PeVideoProcessor"}
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    if family in joined:
        getattr(transformers, joined[family])(processor, tokenizer).save_pretrained(folder)
    if family == "pe_audio_video":
        sound = transformers.PeAudioFeatureExtractor()
        transformers.PeAudioVideoProcessor(sound, processor, tokenizer).save_pretrained(folder)


def draw_segments(side: int, num_frames: int) -> list[Frames]:
    """Return two segments of random frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, num_frames, side, side, 3), dtype=np.uint8)
    return [Frames(each, np.arange(float(num_frames))) for each in pixels]


def match_transformers(family: str, folder: Path, layers: int) -> Contest:
    """Return what runs for a family of transformers."""
    save_random(family, folder, layers)
    encoder: Any = load_encoder(f"hf:{folder}", device="cpu", precision="fp32")
    is_video = FAMILIES[family].num_frames is not None
    segments = draw_segments(SIDE, VIDEO_FRAMES if is_video else IMAGE_FRAMES)
    images = [each for segment in segments for each in segment.pixels]
    model, processor = encoder._model, make_processor(family)
    options: dict[str, Any] = {"return_tensors": "pt", "do_resize": False}  # the frames have the model's size

    def read() -> dict[str, torch.Tensor]:
        if not is_video:
            return dict(processor(images=images, **options))
        if family == "xclip":
            pixels = processor(images=images, **options)["pixel_values"]
            return {"pixel_values": rearrange(pixels, "(video frame) c y x -> video frame c y x", video=len(segments))}
        return dict(processor(videos=[each.pixels for each in segments], do_sample_frames=False, **options))

    def run(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if family.startswith("pe_"):
            pooled: torch.Tensor = model.video_head(model.video_encoder(**inputs).pooler_output)
            return pooled
        output = (model.get_video_features if is_video else model.get_image_features)(**inputs)
        vectors: torch.Tensor = output.pooler_output
        return vectors.reshape(len(segments) if is_video else len(images), -1)

    return Contest(encoder=encoder, segments=segments, read=read, run=run)


def match_open_clip(architecture: str) -> Contest:
    """Return what runs for a model of open_clip, which prepares images one by one."""
    encoder: Any = load_encoder(f"{architecture}/random", device="cpu", precision="fp32")
    segments = draw_segments(encoder.resize.crop, IMAGE_FRAMES)
    torch.manual_seed(0)
    created: Any = open_clip.create_model_and_transforms(architecture, pretrained=None)
    model, preprocess = created[0].eval(), created[2]

    def read() -> torch.Tensor:
        return torch.stack([preprocess(Image.fromarray(each)) for segment in segments for each in segment.pixels])

    return Contest(encoder=encoder, segments=segments, read=read, run=model.encode_image)


def check_vectors(family: str, contest: Contest) -> None:
    """Stop if vidret and the library differ: then they would not do the same work."""
    embeddings = contest.encoder.encode_frames(contest.segments)
    theirs = functional.normalize(contest.run(contest.read()).float(), dim=-1).numpy()
    whole = len(theirs) == len(contest.segments)
    ours = np.stack([each.video for each in embeddings]) if whole else np.concatenate([e.frames for e in embeddings])
    difference = float(np.abs(ours - theirs).max())
    if difference > 1e-4:
        raise SystemExit(f"{family}: vectors must be those of the library, got a difference of {difference:.2g}")


def measure(family: str, contest: Contest, repeats: int) -> Row:
    """Time the three by turns, after one turn to warm up."""
    check_vectors(family, contest)
    ready = contest.read()
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: contest.encoder.encode_frames(contest.segments),
        "library": lambda: contest.run(contest.read()),
        "forward": lambda: contest.run(ready),
    }
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name in sorted(runs, reverse=turn % 2 == 0):
            started = time.process_time(), time.perf_counter()
            runs[name]()
            cpu[name].append(time.process_time() - started[0])
            wall[name].append(time.perf_counter() - started[1])
    cpu_s = {name: statistics.median(seconds) for name, seconds in cpu.items()}
    wall_s = {name: statistics.median(seconds) for name, seconds in wall.items()}
    per_frame = 1000 / sum(len(segment) for segment in contest.segments)
    return Row(
        family=family,
        ours_ms=cpu_s["ours"] * per_frame,
        library_ms=cpu_s["library"] * per_frame,
        forward_ms=cpu_s["forward"] * per_frame,
        against_library=cpu_s["library"] / cpu_s["ours"],
        against_forward=cpu_s["forward"] / cpu_s["ours"],
        wall_against_library=wall_s["library"] / wall_s["ours"],
        wall_against_forward=wall_s["forward"] / wall_s["ours"],
    )


def main() -> None:
    """Measure and print."""
    names = [*FAMILIES, *OPEN_CLIP]
    parser = argparse.ArgumentParser(description="Measure encoding against each library's own forward, on one thread.")
    parser.add_argument("--family", action="append", choices=names, help="the default is every family")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layers", type=int, default=4, help="of the vision towers of transformers")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for family in arguments.family or names:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            if family in OPEN_CLIP:
                contest = match_open_clip(OPEN_CLIP[family])
            else:
                contest = match_transformers(family, Path(folder), arguments.layers)
            rows.append(measure(family, contest, arguments.repeats))
        print(rows[-1], file=sys.stderr, flush=True)  # what is measured outlives an interruption
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    columns = ("vidret", "library", "forward", "x library", "x forward", "x library, wall", "x forward, wall")
    table = Table("family", *columns, title="CPU ms a frame, and the speed of vidret")
    for row in rows:
        speeds = (row.against_library, row.against_forward, row.wall_against_library, row.wall_against_forward)
        costs = (row.ours_ms, row.library_ms, row.forward_ms)
        table.add_row(row.family, *(f"{each:.1f}" for each in costs), *(f"{each:.2f}" for each in speeds))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
