"""Measure whether a search tells films apart that differ in the order of two events alone.

    python tools/measure_order.py OUT [--pairs 60] [--seconds 6] [--encoder NAME]

OUT gets films of the synthetic world in pairs: the same two shots, in both orders. Each film is asked for by captions
of its own ("first a red ring spins, then a blue star grows"), and is right if it ranks above its twin. Two kinds are
reported apart: pairs of two objects, which single frames can tell apart, and pairs in which one object does two things,
which only motion tells apart. Besides, the events of each caption are compared with both shots: whether each fits its
own better than the other. Where they do not, no search by these vectors can know the order.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from vidret import Engine
from vidret.data.synthetic.captions import write_captions
from vidret.data.synthetic.generation import draw_order
from vidret.data.synthetic.scenes import Scene
from vidret.data.synthetic.world import write_scenes
from vidret.search.query.grammar import interpret

FPS = 4
SIZE = 96
SEED = 0
CAPTIONS = 2  # of each film


def draw_film_pairs(num_pairs: int, seconds: float) -> list[tuple[Scene, Scene]]:
    """Draw pairs of films of two shots of some seconds, in both orders."""
    pairs = []
    for number in range(num_pairs):
        random = np.random.default_rng((SEED, number))
        background = int(random.integers(1 << 32))
        one, other = draw_order(random, "test", 2 * round(seconds * FPS))
        pairs.append((Scene(one, background), Scene(other, background)))
    return pairs


def name_kind(scene: Scene) -> str:
    """Return what tells the two shots of a film apart."""
    first, second = scene.statements
    is_one_object = (first.appearance, first.num_objects) == (second.appearance, second.num_objects)
    return "one object, two actions" if is_one_object else "two objects"


def fit_events(engine: Engine, caption: str, path: str, cut_s: float) -> bool:
    """Return whether the two events of a caption fit the shots of their film better in this order than in the other."""
    gain = 0.0
    for event, sign in zip(interpret(caption).events, (1, -1), strict=True):
        curve = engine.curve(event, path)
        early = curve.times < cut_s
        gain += sign * float(curve.scores[early].mean() - curve.scores[~early].mean())
    return gain > 0


def measure(engine: Engine, pairs: list[tuple[Scene, Scene]], paths: list[tuple[str, str]], cut_s: float) -> None:
    """Ask for each film by its captions, and print the shares by kind."""
    counts = Counter[tuple[str, str]]()
    for number, (pair, own) in enumerate(zip(pairs, paths, strict=True)):
        for side, scene in enumerate(pair):
            kind = name_kind(scene)
            for caption in write_captions(scene.statements, (SEED, number), CAPTIONS):
                ranked = [hit.path for hit in engine.search(caption, 2 * len(pairs)) if hit.path in own]
                counts[kind, "asked"] += 1
                counts[kind, "right"] += ranked[:1] == [own[side]]
                if len(interpret(caption).events) == 2:
                    counts[kind, "read"] += 1
                    counts[kind, "fit"] += fit_events(engine, caption, own[side], cut_s)
    for kind in sorted({kind for kind, _ in counts}):
        asked, right, read, fit = (counts[kind, name] for name in ("asked", "right", "read", "fit"))
        shares = f"right one first {right / asked:.3f}, events fit their own shots {fit / max(read, 1):.3f}"
        print(f"{kind}: {asked} captions, {read} read as two events, {shares}")


def main() -> None:
    """Write the films, index them, ask for each."""
    parser = argparse.ArgumentParser(description="Measure whether a search tells the order of events.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=6.0, help="duration of each of the two shots")
    parser.add_argument("--encoder", default="starter")
    arguments = parser.parse_args()
    others = {path.name for path in arguments.out.glob("*")} - {"films", "index"}
    if others:
        parser.error(f"OUT must be a new folder, or one of this tool, got {arguments.out} with {min(others)}")
    pairs = draw_film_pairs(arguments.pairs, arguments.seconds)
    films = arguments.out.absolute() / "films"
    paths = [(films / f"{number}-a.mp4", films / f"{number}-b.mp4") for number in range(len(pairs))]
    scenes = [
        (path, scene) for own, pair in zip(paths, pairs, strict=True) for path, scene in zip(own, pair, strict=True)
    ]
    write_scenes(scenes, size=SIZE, fps=FPS)
    with Engine.open(arguments.out / "index", encoder=arguments.encoder, rerank="none") as engine:
        engine.index([films], words=False)
        measure(engine, pairs, [(str(one), str(other)) for one, other in paths], arguments.seconds)


if __name__ == "__main__":
    main()
