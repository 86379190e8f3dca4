"""Measure taught concepts, images with words, and refinement on captioned videos; print tables.

    python tools/measure_concepts.py DATA [--index INDEX] [--draws N]

DATA holds captions.jsonl (video, captions; files under videos/). A video is of the first category of ``CATEGORIES``
with a word in its captions. Concepts: examples are drawn from a category, and the others are to be found among all
other videos, by only the text, by only the examples, and by both as ``vidret teach`` weighs them. Classes: examples of
all categories are drawn, and each is to be found among all other videos, by ``vidret classify`` and by a search for the
concept that it saves. Images with words:
the videos of a category whose captions name a detail are to be found, by the frame of another video of the category and
the detail. Refinement: the videos of the category of a frame are to be found. All numbers are means of
the average precision, if not stated otherwise. Sorting: the rank correlation of an attribute of colours in the results
of a category, and of the colourfulness of a frame (Hasler and Süsstrunk 2003), the mean over categories.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import PREFIX, make_parser, print_json, read_rows
from scipy.stats import spearmanr

from vidret import Engine
from vidret.align.gda import ranking_precision, soften
from vidret.search.concepts.classifying import classify_videos, name_concepts, save_classes
from vidret.search.concepts.encoder import find_direction
from vidret.search.concepts.storage import TaughtConcept
from vidret.search.concepts.teaching import choose_share, read_examples
from vidret.types import ComposedQuery, Concept, Picture, Resize
from vidret.video.probe import probe
from vidret.video.reader import read_frames

# What only text asks for, and words of captions.
CATEGORIES = {
    "food being cooked": r"meat|soup|cookies|cakes?|sushi|sausages?|noodles?|dessert|dough|chocolate|strawberries|pie"
    r"|herbs|parsley|wine|pasta|spices|chef|raspberries|fruit|kitchen",
    "animals": r"dogs?|cats?|kitten|puppy|snake|chimpanzee|elephant|tigers?|dolphins?|turtle|tortoises?|lion|rhino"
    r"|fish|butterflies|donkey|horse|birds?|bunny|rabbit|squirrel|animals?",
    "sport": r"soccer|football|basketball|volleyball|rugby|golf|baseball|skateboarder|surfer|kayak|dumbbells|climber"
    r"|canoe|exercise|cyclist|boat",
    "cars and trucks": r"cars?|jeep|convertible|trucks?|pickup|vehicles?|buggy|motorcycle|freeway|highway",
    "a workshop": r"drill|lathe|weld\w*|circuit|cobbler|shoemaker|cnc|clay|light fixture|lighting|electronics|factory"
    r"|conveyor|connector|bolts",
    "a landscape": r"mountains?|hills?|hillside|lake|river|stream|sea|ocean|forest|valley|waves?|reeds|sunset|moss|sky"
    r"|lava|field|desert|beach",
    "people indoors": r"men|man|woman|women|people|person|students|presenter|comedian|dancers|shoppers|customers",
}
# What words beside an image ask for, as a caption may say it.
DETAILS = "red white black blue green snow desert sky city dark sea sand hands table".split()  # noqa: SIM905
MIN_TARGETS = 2
SHOTS = (1, 2, 3, 5, 10)
Rank = Callable[..., np.ndarray]  # the scores of all videos in a search


def read_videos(data: Path, engine: Engine) -> tuple[list[dict[str, Any]], list[str]]:
    """Read the captions of the videos that are indexed, and their paths."""
    known = {path for video in engine.videos() for path in video.paths}
    rows = read_rows(data / "captions.jsonl")
    kept = [(row, path) for row in rows if (path := str((data / "videos" / row["video"]).absolute())) in known]
    return [row for row, _ in kept], [path for _, path in kept]


def find_category(row: dict[str, Any]) -> str | None:
    """Return the first category that the captions of a video name."""
    text = " ".join(row["captions"])
    return next((name for name, words in CATEGORIES.items() if re.search(rf"\b(?:{words})\b", text)), None)


def rank_videos(engine: Engine, paths: list[str], query: Any, **options: Any) -> np.ndarray:
    """Return the score of each video in a search; videos that it does not find score lowest."""
    hits = engine.search(query, k=1000, candidates=100_000, **options)
    scores = {path: hit.score for hit in hits for path in (hit.path, *hit.copies)}
    return np.array([scores.get(path, -np.inf) for path in paths])


def measure_taught(
    engine: Engine, rank: Rank, labels: np.ndarray, paths: list[str], num_draws: int
) -> dict[int, dict[str, float]]:
    """Return the average precision by number of examples and by what is ranked with, the mean over categories."""
    encoder = engine._index.encoder
    composer = encoder.composer
    report: dict[int, dict[str, float]] = {}
    for shots in SHOTS:
        results = defaultdict[str, list[float]](list)
        for name in CATEGORIES:
            rng = np.random.default_rng(shots)
            members = np.flatnonzero(labels == name)
            if len(members) <= shots:
                continue
            text = encoder.encode_text([name])[0].sentence
            by_text = rank(text)
            for _ in range(num_draws):
                shown = rng.choice(members, shots, replace=False)
                rest = np.setdiff1d(np.arange(len(paths)), shown)
                examples = read_examples(engine._index.store, encoder, [paths[index] for index in shown])
                none = np.empty((0, engine.encoder.dim), np.float32)
                sample = composer.sample
                known = np.isin(sample.owners, list(examples.video_ids))
                share = choose_share(text, examples.vectors, none, sample, sample.vectors[~known])
                concept = Concept(name="taught", text=name, share=share, yes=examples.examples)
                taught = TaughtConcept(concept=concept, yes=examples.vectors, no=none)
                direction = find_direction(taught.yes, taught.no, sample)
                both, _ = encoder.compose_concepts([(taught, text)])
                for key, scores in (
                    ("text", by_text),
                    ("examples", rank(direction.astype(np.float32))),
                    ("both", rank(both)),
                ):
                    results[key].append(ranking_precision(scores[rest], labels[rest] == name))
        report[shots] = average(results)
    return report


def measure_classes(
    engine: Engine, rank: Rank, labels: np.ndarray, paths: list[str], num_draws: int
) -> dict[int, dict[str, float]]:
    """Return by number of examples how well categories are found, as means over draws, and how often a tag is right."""
    video_rows = {path: row for row, path in enumerate(paths)}
    report: dict[int, dict[str, float]] = {}
    for shots in SHOTS:
        results = defaultdict[str, list[float]](list)
        rng = np.random.default_rng(shots)
        for _ in range(num_draws):
            drawn = {name: rng.choice(np.flatnonzero(labels == name), shots, replace=False) for name in CATEGORIES}
            classes = {name: [paths[row] for row in rows] for name, rows in drawn.items()}
            rest = np.setdiff1d(np.arange(len(paths)), np.concatenate(list(drawn.values())))
            found = classify_videos(engine._index.store, engine.encoder, classes)
            order = [video_rows[engine.video(key).paths[0]] for key in found.video_ids.tolist()]
            logits = np.empty_like(found.logits)
            logits[order] = found.logits
            known = np.intersect1d(rest, np.flatnonzero(labels != None))  # noqa: E711
            is_right = np.array(found.names, dtype=object)[logits.argmax(axis=1)] == labels
            results["right tags"].append(100 * is_right[known].mean())
            results["probability of tags"].append(100 * soften(logits).max(axis=1)[known].mean())
            save_classes(engine._index.store, engine._index.encoder.composer, found, "measured")
            for name, scores, concept in zip(
                found.names, logits.T, name_concepts("measured", found.names), strict=True
            ):
                relevant = labels[rest] == name
                results["classify"].append(ranking_precision(scores[rest], relevant))
                results["search"].append(ranking_precision(rank(f"@{concept}")[rest], relevant))
                engine.forget(concept)
        report[shots] = average(results)
    return report


def measure_composed(rank: Rank, rows: list[dict[str, Any]], labels: np.ndarray, paths: list[str]) -> dict[str, float]:
    """Return how well the videos of a category with a detail are found, by an image of the category without it.

    The numbers are means of the average precision.
    """
    captions = [" ".join(row["captions"]) for row in rows]
    results = defaultdict[str, list[float]](list)
    for name in CATEGORIES:
        for detail in DETAILS:
            has_detail = np.array([re.search(rf"\b{detail}\b", caption) is not None for caption in captions])
            targets = (labels == name) & has_detail
            if targets.sum() < MIN_TARGETS:
                continue
            by_words = rank(detail, rerank=None)
            for reference in np.flatnonzero((labels == name) & ~has_detail)[:4]:
                image = read_middle_frame(paths[reference])
                rest = np.arange(len(paths)) != reference
                for key, scores in (
                    ("image", rank(image)),
                    ("words", by_words),
                    ("image and words", rank(ComposedQuery(images=(image,), text=detail))),
                ):
                    results[key].append(ranking_precision(scores[rest], targets[rest]))
    return {"queries": len(results["image"])} | average(results)


@cache
def read_middle_frame(path: str) -> Picture:
    """Return the frame in the middle of a video."""
    time_s = np.array([probe(path).duration / 2])
    picture: Picture = read_frames(path, times=time_s, resize=Resize(shorter=256, crop=256)).pixels[0]
    return picture


def measure_refined(rank: Rank, labels: np.ndarray, paths: list[str]) -> dict[str, dict[str, float]]:
    """Return how well frames find their category and their own video."""
    results = defaultdict[str, dict[str, list[float]]](lambda: defaultdict(list))
    for refine in (False, True):
        key = "refined" if refine else "not refined"
        for index, path in enumerate(paths):
            scores = rank(read_middle_frame(path), refine=refine)
            results[key]["own video R@1"].append(100.0 * bool(scores.argmax() == index))
            if labels[index] is not None:
                rest = np.arange(len(paths)) != index
                relevant = (labels == labels[index])[rest]
                results[key]["category by image, AP"].append(ranking_precision(scores[rest], relevant))
    return {key: average(values) for key, values in results.items()}


def average(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean of each list."""
    return {key: float(np.mean(own)) for key, own in values.items()}


def rate_colours(picture: Picture) -> float:
    """Return the colourfulness of a picture: the spread and the mean of its opponent colours."""
    red, green, blue = picture.astype(np.float64).reshape(-1, 3).T
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    return float(np.linalg.norm(opponents.std(axis=1)) + 0.3 * np.linalg.norm(opponents.mean(axis=1)))


def measure_sorted(engine: Engine, paths: list[str]) -> dict[str, float]:
    """Return by attribute how well its values agree with colourfulness in the results of a category."""
    report = {}
    for attribute in ("colourful/grey", "colorful/gray", "vivid/dull"):
        name, correlations = attribute.partition("/")[0], []
        for category in CATEGORIES:
            hits = engine.search(category, k=len(paths), sort_by=attribute, copies="show")
            rated = [hit for hit in hits if name in hit.why]
            values = [hit.why[name] for hit in rated], [rate_colours(read_middle_frame(hit.path)) for hit in rated]
            correlations.append(float(spearmanr(*values).statistic))
        report[attribute] = float(np.mean(correlations))
    return report


def main() -> None:
    """Index the videos if need be, measure everything, print the numbers."""
    parser = make_parser(__doc__, draws=12)
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, default=None, help="of the videos; default: a new one")
    arguments = parser.parse_args()
    with Engine.open(arguments.index or tempfile.mkdtemp(prefix=PREFIX)) as engine:
        engine.index([arguments.data / "videos"], words=False)
        rows, paths = read_videos(arguments.data, engine)
        labels = np.array([find_category(row) for row in rows], dtype=object)
        rank = partial(rank_videos, engine, paths)
        report = {
            "videos by category": {name: int((labels == name).sum()) for name in CATEGORIES},
            "concepts by number of examples, AP": measure_taught(engine, rank, labels, paths, arguments.draws),
            "classes by number of examples, AP": measure_classes(engine, rank, labels, paths, arguments.draws),
            "images with words": measure_composed(rank, rows, labels, paths),
            "refinement": measure_refined(rank, labels, paths),
            "sorting, rank correlation": measure_sorted(engine, paths),
        }
    print_json(report)


if __name__ == "__main__":
    main()
