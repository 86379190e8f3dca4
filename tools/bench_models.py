"""Measure models by turns in one process on one thread; print one JSON object.

    python tools/bench_models.py [--only PART ...] [--repeats 5] [--videos 1] [--pairs 128 256 512 1000]

Weights are random: speed does not depend on them. ``against_X`` is X's median CPU time to the row's: 2 is twice
as fast. The parts:

- ``towers``: open_clip itself, our plain tower, Prompt Switch, TempMe at several schedules, and bfloat16 weights, of
  --videos at once.
- ``precision``: models in fp32, bf16 and int8, by number of frames in a call; cosines are with the vectors of fp32.
- ``families``: ``encode_frames`` against the library's own processor and one batched forward, and only that forward on
  pixels that are ready: towers of width 384 at 224 pixels, and two models of open_clip, one that vidret runs by its own
  tower and one that open_clip runs. The script stops if the vectors differ.
- ``start``: from the start of Python to the vector of a query, by vidret and by open_clip, from a file of weights.
- ``matrix``: UCoFiA, trained and training-free, on as many texts as videos: microseconds of CPU a pair.
- ``rerank``: UCoFiA on 200 candidates drawn from a stored index.
- ``head``: R2-Tuning's head over CLIP ViT-B/32 on a video of 75 and of 600 clips, whose projected tokens exist.
- ``corpus``: ``locate`` by that head in an index of videos of 150 s.
"""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import made_index
import numpy as np
import open_clip
import torch
from einops import rearrange
from harness import (
    BACKBONE,
    HEAD_DIM,
    HEAD_LAYERS,
    TEXT_WIDTH,
    compare,
    copy_samples,
    load_tiny_models,
    make_head,
    make_parser,
    run_parts,
    take_turns,
    time_queries,
)
from made_index import SEGMENT_S, MadeVideo, unit
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from vidret.align.batches import TextBatch
from vidret.align.prepared import PreparedVideos
from vidret.align.ucofia import Aligner
from vidret.align.ucofia_levels import Mixing
from vidret.align.ucofia_selection import PatchSelector, ScoreNet
from vidret.channels.picture.aligner_rankers import UcofiaRanker
from vidret.channels.picture.query_bank import UNRELATED
from vidret.encode.clip.model import ClipModel, measure_cost
from vidret.encode.clip.prompt_switch import PromptShape
from vidret.encode.clip.tempme import MergeSchedule
from vidret.encode.clip.weights import from_open_clip
from vidret.encode.families.clip import derive_card
from vidret.encode.families.registry import load_encoder
from vidret.encode.families.transformers_models import MODEL_TYPES
from vidret.encode.model_hub import hide_progress
from vidret.encode.names import STARTER
from vidret.engine import Engine
from vidret.ground.checkpoint import save_head
from vidret.ground.pieces import save_projected
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, cut_windows, join_results
from vidret.layers import TemporalTransformer
from vidret.search.heads.layers import Grounder
from vidret.store.records import HEAD
from vidret.store.store import Store
from vidret.types import Frames, Sampling, TextEmbedding
from vidret.video.probe import probe
from vidret.video.reader import read_frames

transformers: Any = importlib.import_module("transformers")
NUM_FRAMES = 12
MERGED = {"ViT-B-32": (2,), "ViT-B-16": (2, 10, 16)}  # r of TempMe; the last has 49 % of the multiply-adds
PRECISIONS = {STARTER: ("fp32", "bf16"), "ViT-B-32/random": ("fp32", "bf16", "int8")}
LENGTHS = (1, 4, 12)  # frames in a call
SIDE, PATCH = 224, 16
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
ALIGNED_DIM, WORDS, QUERY_WORDS, KEPT = 512, 32, 12, 4 * NUM_FRAMES  # of UCoFiA: words of a caption, of a query
CANDIDATES = 200
CLIPS, NUM_TOKENS, NUM_WORDS, FPS = 75, 1 + made_index.REGIONS, 14, 0.5  # of a window, a clip, a query of the head


def measure_towers(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Time all variants of backbones; what a method adds starts as it does in training."""
    return {backbone: measure_backbone(backbone, given) for backbone in MERGED}


def measure_backbone(backbone: str, given: argparse.Namespace) -> dict[str, Any]:
    """Time all variants of a backbone."""
    torch.manual_seed(0)
    other: Any = open_clip.create_model(backbone, pretrained=None).eval()
    card = derive_card(backbone, open_clip.get_model_config(backbone), {})
    assert card is not None
    state = from_open_clip(other.state_dict(), card).state_dict()
    pixels = torch.randn(given.videos * NUM_FRAMES, 3, card.vision.image_size, card.vision.image_size)
    runs: dict[str, Callable[[], Any]] = {"open_clip": lambda: other.encode_image(pixels)}
    variants = {"plain": card, "Prompt Switch": replace(card, prompts=PromptShape())}
    variants |= {f"TempMe r={r}": replace(card, merging=MergeSchedule(r=r)) for r in MERGED[backbone]}
    for name, variant in variants.items():
        models = {name: torch.float32} | ({f"{name}, bf16": torch.bfloat16} if name in ("plain", "TempMe r=2") else {})
        for key, dtype in models.items():
            model = ClipModel(variant)
            model.load_state_dict(state, strict=False)
            runs[key] = partial(model.eval().to(dtype).vision, pixels.to(dtype), num_frames=NUM_FRAMES)
    with torch.inference_mode():
        rows = compare(take_turns(runs, given.repeats), "open_clip")
    for name, variant in variants.items():
        rows[name]["tokens"] = measure_cost(replace(variant, sampling=Sampling(NUM_FRAMES))).output_tokens
    return rows


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


class Contest(NamedTuple):
    """An encoder of vidret, segments, and the library's own way to the same vectors.

    ``read`` returns the inputs of the library's model, made by its own processor; ``run`` returns from these the
    vectors of all frames or videos, (item, dim), not normalised.
    """

    encoder: Any
    segments: list[Frames]
    read: Callable[[], Any]
    run: Callable[[Any], torch.Tensor]


def save_model(family: str, folder: Path) -> Any:
    """Write a random model of a family with a tower of realistic width; return its own processor of frames."""
    tiny, size, num_patches = load_tiny_models(), {"height": SIDE, "width": SIDE}, (SIDE // PATCH) ** 2
    config: Any = tiny.TINY[family].make_config()
    tower = {"hidden_size": 384, "intermediate_size": 4 * 384, "num_attention_heads": 6, "num_hidden_layers": 4}
    sizes = {"num_patches": num_patches} if family == "siglip2" else {"image_size": SIDE}
    config.vision_config.update({**tower, **sizes, "patch_size": PATCH})
    if family == "xclip":
        mit = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 1}
        config.vision_config.update({f"mit_{key}": value for key, value in mit.items()} | {"num_frames": VIDEO_FRAMES})
        config.projection_dim = 512
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if family == "siglip":
        processor = transformers.SiglipImageProcessor(size=size, **half)
    elif family == "siglip2":
        processor = transformers.Siglip2ImageProcessor(patch_size=PATCH, max_num_patches=num_patches, **half)
    else:
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    torch.manual_seed(0)
    with hide_progress():
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    tiny.make_tokenizer(16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor


def draw_segments(side: int, num_frames: int) -> list[Frames]:
    """Return two segments of random frames."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, num_frames, side, side, 3), dtype=np.uint8)
    return [Frames(frames, np.arange(float(num_frames))) for frames in pixels]


def match_transformers(family: str, folder: Path) -> Contest:
    """Return what runs for a family of transformers."""
    processor = save_model(family, folder)
    encoder: Any = load_encoder(f"hf:{folder}", device="cpu", precision="fp32")
    is_video = MODEL_TYPES[family].num_frames is not None
    segments = draw_segments(SIDE, VIDEO_FRAMES if is_video else NUM_FRAMES)
    images = [image for segment in segments for image in segment.pixels]
    model = encoder._model

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

    return Contest(encoder, segments, read, run)


def match_open_clip(architecture: str) -> Contest:
    """Return what runs for a model of open_clip, which prepares images one by one."""
    encoder: Any = load_encoder(f"{architecture}/random", device="cpu", precision="fp32")
    segments = draw_segments(encoder.resize.crop, NUM_FRAMES)
    torch.manual_seed(0)
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=None)

    def read() -> torch.Tensor:
        images = (Image.fromarray(image) for segment in segments for image in segment.pixels)
        return torch.stack([preprocess(image) for image in images])

    return Contest(encoder, segments, read, model.eval().encode_image)


def check_vectors(family: str, contest: Contest) -> None:
    """Stop if vidret and the library differ: then they would not do the same work."""
    embeddings = contest.encoder.encode_frames(contest.segments)
    theirs = functional.normalize(contest.run(contest.read()).float(), dim=-1).numpy()
    is_whole = len(theirs) == len(contest.segments)
    ours = [embedding.video[None] if is_whole else embedding.frames for embedding in embeddings]
    difference = float(np.abs(np.concatenate(ours) - theirs).max())
    if difference > 1e-4:
        raise SystemExit(f"{family}: vectors must be those of the library, got a difference of {difference:.2g}")


@torch.inference_mode()
def measure_families(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time encoding through vidret, the library, and only the library's forward."""
    makers = {family: partial(match_transformers, family, scratch / family) for family in MADE_FAMILIES}
    makers |= {family: partial(match_open_clip, architecture) for family, architecture in OPEN_CLIP.items()}
    report: dict[str, Any] = {}
    for family, make in makers.items():
        made = make()
        check_vectors(family, made)
        runs: dict[str, Callable[[], Any]] = {
            "vidret": partial(made.encoder.encode_frames, made.segments),
            "library": lambda made=made: made.run(made.read()),  # type: ignore[misc]
            "forward": partial(made.run, made.read()),
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


# UCoFiA


def build_aligners() -> dict[str, Aligner]:
    """Compose UCoFiA, with a head of random weights as trained ones are shaped and without."""
    torch.manual_seed(0)
    mixing = Mixing(ALIGNED_DIM, num_frames=NUM_FRAMES, num_words=WORDS, num_tokens=KEPT)
    for matrix in mixing.parameters():
        matrix.data.add_(0.02 * torch.randn_like(matrix))
    temporal, selector = TemporalTransformer(ALIGNED_DIM), PatchSelector(ScoreNet(ALIGNED_DIM))
    trained = Aligner(temporal=temporal, selector=selector, mixing=mixing, unit_tokens=False)
    return {"trained": trained.eval(), "training-free": Aligner(selector=PatchSelector()).eval()}


def measure_matrix(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Score as many texts as videos, all with all; return microseconds of CPU a pair by their number."""
    report, aligners = dict[str, Any](words=WORDS), build_aligners()
    for num in given.pairs:
        frames = functional.normalize(torch.randn(num, NUM_FRAMES, ALIGNED_DIM), dim=-1)
        tokens = functional.normalize(torch.randn(num, KEPT, ALIGNED_DIM), dim=-1)
        videos = PreparedVideos(frames[:, 0], frames, tokens)
        texts = TextBatch(torch.randn(num, ALIGNED_DIM), torch.randn(num, WORDS, ALIGNED_DIM))
        costs = take_turns(
            {kind: partial(aligner.score, texts, videos) for kind, aligner in aligners.items()}, given.repeats
        )
        report[num] = {kind: round(1e6 * cost.cpu_s / num**2, 1) for kind, cost in costs.items()}
    return report


def measure_rerank(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rerank candidates drawn at random, from stored tokens in int8, as the engine does."""
    random, encoder = np.random.default_rng(0), SimpleNamespace(name="made", fingerprint="made", dim=ALIGNED_DIM)
    report: dict[str, Any] = {"candidates": CANDIDATES, "words": QUERY_WORDS, "segments": given.segments}

    def draw_query(ids: np.ndarray) -> tuple[TextEmbedding, np.ndarray]:
        states = random.standard_normal((QUERY_WORDS + 2, ALIGNED_DIM), np.float32)  # with a start and an end token
        text = TextEmbedding("made", unit(states[-1]), unit(states[1:-1]), states)
        return text, random.choice(ids, min(CANDIDATES, len(ids)), replace=False)

    for kind, aligner in build_aligners().items():
        ranker = UcofiaRanker("made", aligner)
        made_index.build_index(folder / kind, encoder, given.segments, NUM_FRAMES, ranker=ranker)
        with Store.open(folder / kind) as store:

            def rerank(query: tuple[TextEmbedding, np.ndarray], store: Store = store, ranker: Any = ranker) -> None:
                text, ids = query
                frames = [rows for rows, _ in store.features.read_frames(ids)]
                ranker.score([text], store.features.read_tokens(ids), frames)

            ids = store.searchable()
            report[kind] = time_queries(rerank, [draw_query(ids) for _ in range(given.queries)])
    return report


# A grounding head


def make_projected(window: Window, seed: int) -> ProjectedVideos:
    """Draw the projected tokens of a window's clips."""
    generator, shape = torch.Generator().manual_seed(seed), (1, window.last - window.first, NUM_TOKENS)
    layers = range(HEAD_LAYERS)
    drawn = [torch.randint(-127, 128, (*shape, HEAD_DIM), generator=generator, dtype=torch.int8) for _ in layers]
    scales = [torch.rand(shape, generator=generator) / 100 for _ in layers]
    return ProjectedVideos(tuple(drawn), tuple(scales), (None,) * HEAD_LAYERS)


def measure_head(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Time a query with its tokens at hand, by number of clips."""
    head, card = make_head()
    query = torch.randn(1, HEAD_LAYERS, NUM_WORDS, TEXT_WIDTH)

    @torch.inference_mode()
    def ask(num_clips: int, parts: dict[Window, ProjectedVideos]) -> None:
        answers = [answer for projected in parts.values() for answer in head.decode(head(projected, query), fps=FPS)]
        postprocess_spans(join_results([*parts], answers, fps=FPS), card, duration=num_clips / FPS)

    runs = {}
    for num_clips in (CLIPS, 8 * CLIPS):
        parts = {window: make_projected(window, seed) for seed, window in enumerate(cut_windows(num_clips))}
        runs[f"{num_clips} clips"] = partial(ask, num_clips, parts)
    return take_turns(runs, given.repeats)


def measure_corpus(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Locate by the head in all of an index of made vectors and kept tokens."""
    encoder, index, head = load_encoder(BACKBONE, device="cpu", precision="fp32"), scratch / "index", scratch / "head"
    save_head(*make_head(), head)
    with Store.create(index, **made_index.describe_encoder(encoder)) as store:
        store.metadata.set(HEAD, str(head))
    with Engine(index, encoder) as engine:
        grounder = engine.grounder
        assert isinstance(grounder, Grounder)
        places = [grounder.files.locate(f"made-{row}", keep=True) for row in range(given.indexed)]
    random, centre = np.random.default_rng(0), np.zeros(encoder.dim, np.float32)
    edges, window = [*np.arange(0.0, CLIPS / FPS - SEGMENT_S, SEGMENT_S), CLIPS / FPS], Window(0, CLIPS)
    with Store.open(index, write=True) as store:
        for video_index, place in enumerate(places):
            vectors = [made_index.make_segment(centre, int(SEGMENT_S), random, start=start) for start in edges[:-1]]
            video = MadeVideo(place.stem, index / "files" / f"{video_index}.mp4", edges, vectors)
            made_index.add_videos(store, [video])
            save_projected(place, [(window, make_projected(window, video_index))])
        store.upkeep.save_vectors()
    with Engine(index, encoder) as engine:
        locate = partial(engine.locate, k=5, overlapping=True, weak=True)
        assert {moment.by for moment in locate("a warm start")} == {"head"}
        return {"videos": given.indexed, "locate": time_queries(locate, UNRELATED[: given.located])}


def main() -> None:
    """Measure and print."""
    made = {"segments": 5000, "queries": 100, "indexed": 300, "located": 20}
    parser = make_parser(__doc__, repeats=5, videos=1, pairs=[128, 256, 512, 1000], **made)
    encoders = [measure_towers, measure_precision, measure_families, measure_start]
    run_parts(parser, [*encoders, measure_matrix, measure_rerank, measure_head, measure_corpus])


if __name__ == "__main__":
    main()
