"""Measure a trained grounding head; print one JSON object.

    python tools/bench_grounding.py [--videos 300] [--queries 20] [--repeats 9] [--index DIR]

Sizes are those of the published head over CLIP ViT-B/32, weights and tokens random (speed does not depend on them), and
queries have 14 tokens. Of one video of 75 and of 600 clips: a query whose projected tokens exist, window by window, on
one thread, and the memory of a query over ten hours. Of many videos: ``locate`` over an index of made vectors and kept
tokens of videos of 150 s, ten of them asked, by the head and by the curve. DIR keeps that index (4 MB a video) for the
next time.
"""

import argparse
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import PREFIX, measure_rise_mb, print_json, run_in_new_process, take_turns, time_queries
from made_index import make_segment

from vidret.channels.picture.query_bank import UNRELATED
from vidret.data.benchmarks.registry import RECIPES
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.ground.checkpoint import HeadCard, save_head
from vidret.ground.head import GroundingHead
from vidret.ground.pieces import load_projected, save_projected
from vidret.ground.postprocess import postprocess_spans
from vidret.ground.projected import ProjectedVideos
from vidret.ground.windows import Window, cut_windows, join_results
from vidret.search.heads.layers import Grounder
from vidret.store.records import HEAD, NewSegment
from vidret.store.store import Store

BACKBONE = "ViT-B-32-quickgelu/random"
NUM_LAYERS, NUM_TOKENS, WIDTH, TEXT_WIDTH, DIM = 4, 50, 768, 512, 256
FPS, CLIPS, NUM_WORDS = 0.5, 75, 14
SEGMENT = 12  # seconds, and frames of it that are stored
TEN_HOURS = 6000 * 3  # clips


def make_head() -> tuple[GroundingHead, HeadCard]:
    """Return a head whose every part counts, and its card."""
    torch.manual_seed(0)
    head = GroundingHead(WIDTH, TEXT_WIDTH, DIM, num_layers=NUM_LAYERS).eval()
    with torch.no_grad():
        head.block.scales.normal_()
        head.block.gates.normal_()
    return head, HeadCard.describe(head, backbone=BACKBONE, **RECIPES["qvhighlights"])


def make_projected(window: Window, seed: int = 0) -> ProjectedVideos:
    """Draw the projected tokens of a window's clips."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, window.last - window.first, NUM_TOKENS)
    drawn = [torch.randint(-127, 128, (*shape, DIM), generator=generator, dtype=torch.int8) for _ in range(NUM_LAYERS)]
    scales = [torch.rand(shape, generator=generator) / 100 for _ in range(NUM_LAYERS)]
    return ProjectedVideos(tuple(drawn), tuple(scales), (None,) * NUM_LAYERS)


@torch.inference_mode()
def ask(head: GroundingHead, card: HeadCard, parts: Any, num_clips: int) -> int:
    """Answer a query from windows and their tokens; return the number of spans."""
    query = torch.randn(1, NUM_LAYERS, NUM_WORDS, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    windows, answers = [], []
    for window, projected in parts:
        windows.append(window)
        answers += head.decode(head(projected, query), fps=FPS)
    return len(postprocess_spans(join_results(windows, answers, fps=FPS), card, duration=num_clips / FPS))


def measure_queries(repeats: int) -> dict[str, dict[str, float]]:
    """Time a query with its tokens at hand, by number of clips."""
    head, card = make_head()
    runs = {}
    for num_clips in (CLIPS, 8 * CLIPS):
        parts = [(window, make_projected(window, seed)) for seed, window in enumerate(cut_windows(num_clips))]
        runs[f"{num_clips} clips"] = partial(ask, head, card, parts, num_clips)
    return {name: cost.to_dict() for name, cost in take_turns(runs, repeats).items()}


def measure_memory_mb() -> float:
    """Return how much memory a query over ten hours takes: to be called in a process of its own."""
    torch.set_num_threads(1)
    head, card = make_head()
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        path = Path(folder, "tokens.zip")
        save_projected(path, ((window, make_projected(window)) for window in cut_windows(TEN_HOURS)))
        return measure_rise_mb(lambda: ask(head, card, load_projected(path, device=torch.device("cpu")), TEN_HOURS))


def build(path: Path, encoder: Encoder, num_videos: int) -> None:
    """Store made vectors of videos of 150 s as an index run would, and keep made tokens for its head."""
    head, card = make_head()
    with Store.create(
        path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as store:
        save_head(head, card, path / "head.safetensors")
        store.metadata.set(HEAD, str((path / "head.safetensors").absolute()))
    with Engine(path, encoder) as engine:
        grounder = engine.grounder
        assert isinstance(grounder, Grounder)
        places = [grounder.files.locate(f"made-{number}", keep=True) for number in range(num_videos)]
    random = np.random.default_rng(0)
    bounds = [*np.arange(0.0, CLIPS / FPS - SEGMENT, SEGMENT), CLIPS / FPS]
    with Store.open(path, write=True) as store:
        for number, place in enumerate(places):
            file = path / "files" / f"{number}.mp4"
            file.parent.mkdir(exist_ok=True)
            file.touch()
            video = store.writer.begin_video(place.stem, duration=CLIPS / FPS, facts={}, num_segments=len(bounds) - 1)
            for segment, (start, end) in enumerate(pairwise(bounds)):
                vectors = make_segment(np.zeros(encoder.dim, np.float32), SEGMENT, random, start=float(start))
                store.writer.add_segments([NewSegment(video, segment, float(start), float(end), vectors)])
            store.writer.finish_video(video)
            store.writer.set_file(str(file), state="done", video=video, num_bytes=0, mtime_ns=0)
            save_projected(place, [(Window(0, CLIPS), make_projected(Window(0, CLIPS), number))])
        store.upkeep.save_vectors()


def measure_corpus(index: Path, encoder: Encoder, num_queries: int) -> dict[str, Any]:
    """Locate in all of an index, by the head, and for comparison by the curve."""
    found: dict[str, Any] = {}
    for name, head in (("head", "auto"), ("curve", "none")):
        with Engine(index, encoder, head=head) as engine:
            moments = engine.locate("a warm start", 5, overlapping=True, weak=True)
            assert {moment.by for moment in moments} == {name}
            found[name] = time_queries(
                lambda query, engine=engine: engine.locate(query, 5, overlapping=True, weak=True),  # type: ignore[misc]
                UNRELATED[:num_queries],
            )
            found["videos"] = engine.info().videos
    return found


def main() -> None:
    """Measure one video, then many, on one thread; print."""
    parser = argparse.ArgumentParser(description="Measure a trained grounding head.")
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--index", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "query": measure_queries(arguments.repeats),
        "ten_hours_memory_mb": round(run_in_new_process(measure_memory_mb)),
    }
    encoder = load_encoder(BACKBONE, device="cpu", precision="fp32")
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        index = arguments.index or Path(folder, "index")
        if not Store.exists(index):
            build(index, encoder, arguments.videos)
        report["corpus"] = measure_corpus(index, encoder, arguments.queries)
    print_json(report)


if __name__ == "__main__":
    main()
