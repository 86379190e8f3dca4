"""Measure concepts, images with words, and copies among captioned clips; print one JSON object.

    python tools/measure_clips.py DATA [--only PART ...] [--work measure-clips] [--draws 12] [--clips 40]

DATA has captions.jsonl (``video``, ``captions``, ``kind``, ``duration``) and videos/, whose index stays in --work. A
video is of the first category of ``CATEGORIES`` with a word in its captions. Numbers are means of the average
precision, if not stated otherwise.

- ``concepts``: examples are drawn from a category, and the others are to be found among all other videos, by only the
  text, by only the examples, and by both as ``vidret teach`` weighs them.
- ``classes``: examples of all categories are drawn, and each is to be found among all other videos, by ``vidret
  classify`` and by a search for the concept that it saves.
- ``composed``: the videos of a category whose captions name a detail are to be found, by the frame of another video of
  the category and the detail.
- ``refined``: the videos of the category of a frame are to be found, and the frame's own.
- ``sorted``: the rank correlation of an attribute of colours in the results of a category, and of the colourfulness of
  a frame (Hasler and Süsstrunk 2003), the mean over categories.
- ``copies``: of 30 videos, chosen at random, ffmpeg makes copies of ten kinds. Others are cut into disjoint clips:
  look-alikes that show the same place and people, but share no footage. The rest are bystanders. A pair of files is a
  copy if they share footage that fills half of the shorter one. The corpus stays in --work; the next two need it.
- ``clips``: the footage of some copies of that corpus is looked for.
- ``fold``: all videos of that corpus are folded as results of one search: which copies of a source are one result with
  it, and which pairs are that share no footage.
"""

import argparse
import json
import random
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from harness import Cost, describe_ms, make_parser, measure_call, percent, read_rows, run_ffmpeg, run_parts
from scipy.stats import spearmanr

from vidret import Engine
from vidret.align.gda import ranking_precision, soften
from vidret.copies.folding import CopyFolder, FoundSpan
from vidret.search.concepts.classifying import classify_videos, name_concepts, save_classes
from vidret.search.concepts.encoder import find_direction
from vidret.search.concepts.storage import TaughtConcept
from vidret.search.concepts.teaching import choose_share, read_examples
from vidret.store.store import Store
from vidret.types import ComposedQuery, Concept, CopyGroup, Picture, Resize
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
ATTRIBUTES = ("colourful/grey", "colorful/gray", "vivid/dull")
SEED = 21
NUM_SOURCES, NUM_PADDING, NUM_LOOK_ALIKES = 30, 12, 300
SHORTEST_S, LONGEST_S = 3.0, 30.0  # of a source
LEAST_SHARE = 0.5
ORIGINALS = ("source", "look-alike", "bystander")
ENCODE = ("-an", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1")
SMALL = "scale=320:-2"


class Clips(NamedTuple):
    """An open index of clips, their paths, and their captions and categories, None for none."""

    engine: Engine
    paths: list[str]
    captions: list[str]
    labels: np.ndarray

    def rank(self, query: Any, **options: Any) -> np.ndarray:
        """Return the score of each video in a search; videos that it does not find score lowest."""
        hits = self.engine.search(query, k=1000, candidates=100_000, **options)
        scores = {path: hit.score for hit in hits for path in (hit.path, *hit.copies)}
        return np.array([scores.get(path, -np.inf) for path in self.paths])

    def drop(self, rows: Any) -> np.ndarray:
        """Return the rows of all videos but some."""
        return np.setdiff1d(np.arange(len(self.paths)), rows)


@contextmanager
def open_clips(given: argparse.Namespace) -> Iterator[Clips]:
    """Index the videos if need be, and read their captions."""
    with Engine.open(given.work / "index") as engine:
        engine.index([given.data / "videos"], words=False)
        indexed_paths = {path for video in engine.videos() for path in video.paths}
        captions = {
            str((given.data / "videos" / row["video"]).absolute()): " ".join(row["captions"])
            for row in read_rows(given.data / "captions.jsonl")
        }
        captions = {path: caption for path, caption in captions.items() if path in indexed_paths}
        labels = np.array([find_category(caption) for caption in captions.values()], dtype=object)
        yield Clips(engine, [*captions], [*captions.values()], labels)


def find_category(caption: str) -> str | None:
    """Return the first category that the captions of a video name."""
    return next((name for name, words in CATEGORIES.items() if re.search(rf"\b(?:{words})\b", caption)), None)


def average(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean of each list."""
    return {key: float(np.mean(samples)) for key, samples in values.items()}


def measure_concepts(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Return the average precision by number of examples and by what is ranked with, the mean over categories."""
    report: dict[str, Any] = {}
    with open_clips(given) as clips:
        for shots in SHOTS:
            results = defaultdict[str, list[float]](list)
            for name in CATEGORIES:
                rng, members = np.random.default_rng(shots), np.flatnonzero(clips.labels == name)
                if len(members) <= shots:
                    continue
                text = clips.engine.encoder.encode_text([name])[0].sentence
                by_text = clips.rank(text)
                for _draw in range(given.draws):
                    shown = rng.choice(members, shots, replace=False)
                    by_examples, by_both = map(clips.rank, teach(clips, name, text, shown))
                    rest = clips.drop(shown)
                    for key, scores in (("text", by_text), ("examples", by_examples), ("both", by_both)):
                        results[key].append(ranking_precision(scores[rest], clips.labels[rest] == name))
            report[f"{shots} examples"] = average(results)
    return report


def teach(clips: Clips, name: str, text: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a concept by examples, and by these and its name, as ``vidret teach`` weighs them."""
    encoder = clips.engine._index.encoder
    sample, none = encoder.composer.sample, np.empty((0, encoder.dim), np.float32)
    examples = read_examples(clips.engine._index.store, encoder, [clips.paths[row] for row in shown])
    others = sample.vectors[~np.isin(sample.owners, list(examples.video_ids))]
    share = choose_share(text, examples.vectors, none, sample, others)
    concept = Concept(name="taught", text=name, share=share, yes=examples.examples)
    both, _ = encoder.compose_concepts([(TaughtConcept(concept=concept, yes=examples.vectors, no=none), text)])
    return find_direction(examples.vectors, none, sample).astype(np.float32), both


def measure_classes(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Return by number of examples how well categories are found, as means over draws, and how often a tag is right."""
    report: dict[str, Any] = {}
    with open_clips(given) as clips:
        engine, paths, labels = clips.engine, clips.paths, clips.labels
        store, composer = engine._index.store, engine._index.encoder.composer
        for shots in SHOTS:
            results, rng = defaultdict[str, list[float]](list), np.random.default_rng(shots)
            for _draw in range(given.draws):
                drawn = {name: rng.choice(np.flatnonzero(labels == name), shots, replace=False) for name in CATEGORIES}
                rest = clips.drop(np.concatenate([*drawn.values()]))
                classes = {name: [paths[row] for row in rows] for name, rows in drawn.items()}
                classified = classify_videos(store, engine.encoder, classes)
                logits = np.empty_like(classified.logits)
                logits[[paths.index(engine.video(key).paths[0]) for key in classified.video_ids.tolist()]] = (
                    classified.logits
                )
                labelled = [row for row in rest if labels[row] is not None]
                is_right = np.array(classified.names, dtype=object)[logits.argmax(axis=1)] == labels
                results["right tags"].append(100 * is_right[labelled].mean())
                results["probability of tags"].append(100 * soften(logits).max(axis=1)[labelled].mean())
                save_classes(store, composer, classified, "measured")
                concepts = name_concepts("measured", classified.names)
                for name, scores, concept in zip(classified.names, logits.T, concepts, strict=True):
                    for key, class_scores in (("classify", scores), ("search", clips.rank(f"@{concept}"))):
                        results[key].append(ranking_precision(class_scores[rest], labels[rest] == name))
            report[f"{shots} examples"] = average(results)
    return report


def measure_composed(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Return how well the videos of a category with a detail are found, by an image of the category without it."""
    results = defaultdict[str, list[float]](list)
    with open_clips(given) as clips:
        for name in CATEGORIES:
            for detail in DETAILS:
                has_detail = np.array([re.search(rf"\b{detail}\b", caption) is not None for caption in clips.captions])
                targets = (clips.labels == name) & has_detail
                if targets.sum() < MIN_TARGETS:
                    continue
                by_words = clips.rank(detail, rerank=None)
                for reference in np.flatnonzero((clips.labels == name) & ~has_detail)[:4]:
                    image, rest = read_middle_frame(clips.paths[reference]), clips.drop(reference)
                    composed = clips.rank(ComposedQuery(images=(image,), text=detail))
                    for key, scores in (("image", clips.rank(image)), ("words", by_words), ("both", composed)):
                        results[key].append(ranking_precision(scores[rest], targets[rest]))
    return {"queries": len(results["image"])} | average(results)


def measure_refined(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Return how well frames find their category and their own video."""
    report: dict[str, Any] = {}
    with open_clips(given) as clips:
        for key, refine in (("not refined", False), ("refined", True)):
            results = defaultdict[str, list[float]](list)
            for row, path in enumerate(clips.paths):
                scores, rest = clips.rank(read_middle_frame(path), refine=refine), clips.drop(row)
                results["own video R@1"].append(100.0 * bool(scores.argmax() == row))
                if (label := clips.labels[row]) is not None:
                    precision = ranking_precision(scores[rest], clips.labels[rest] == label)
                    results["category by image, AP"].append(precision)
            report[key] = average(results)
    return report


@cache
def read_middle_frame(path: str) -> Picture:
    """Return the frame in the middle of a video."""
    time_s = np.array([probe(path).duration / 2])
    picture: Picture = read_frames(path, times=time_s, resize=Resize(shorter=256, crop=256)).pixels[0]
    return picture


def rate_colours(picture: Picture) -> float:
    """Return the colourfulness of a picture: the spread and the mean of its opponent colours."""
    red, green, blue = picture.astype(np.float64).reshape(-1, 3).T
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    return float(np.linalg.norm(opponents.std(axis=1)) + 0.3 * np.linalg.norm(opponents.mean(axis=1)))


def measure_sorted(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Return by attribute how well its values agree with colourfulness in the results of a category."""
    correlations = defaultdict[str, list[float]](list)
    with open_clips(given) as clips:
        for attribute in ATTRIBUTES:
            name = attribute.partition("/")[0]
            for category in CATEGORIES:
                hits = clips.engine.search(category, k=len(clips.paths), sort_by=attribute, copies="show")
                rated = [(hit.why[name], rate_colours(read_middle_frame(hit.path))) for hit in hits if name in hit.why]
                correlations[attribute].append(float(spearmanr(*zip(*rated, strict=True)).statistic))
    return average(correlations)


# Copies


@dataclass(frozen=True, slots=True)
class Span:
    """Footage of a source, from ``start`` to ``end`` seconds of it, shown from ``at`` seconds on at a speed."""

    source: str
    start: float
    end: float
    at: float = 0.0
    speed: float = 1.0


@dataclass(frozen=True, slots=True)
class MadeFile:
    """A file of the corpus: its kind, its length in seconds, and the footage that it shows."""

    name: str
    kind: str
    length_s: float
    spans: tuple[Span, ...]


def describe_filters(rng: random.Random, length_s: float) -> dict[str, tuple[str, float, float, float]]:
    """Return the filter of each kind with the start and end of its footage, and its speed."""
    whole = (0.0, length_s, 1.0)
    kept, left, top = rng.uniform(0.7, 0.85), rng.random(), rng.random()
    start, end = rng.uniform(0.1, 0.3) * length_s, rng.uniform(0.75, 0.9) * length_s
    speed = rng.choice((0.8, 1.25, 1.5))
    changed = ("hue=s=0", "hue=h=60:s=1.6", "eq=brightness=0.08:contrast=1.25:saturation=0.5", "eq=gamma=1.6")
    colour = rng.choice(changed)
    box = f"x=iw*{rng.uniform(0.02, 0.6):.3f}:y=ih*{rng.uniform(0.02, 0.8):.3f}:w=iw*0.36:h=ih*0.16"
    crop = f"crop=iw*{kept:.3f}:ih*{kept:.3f}:(iw-ow)*{left:.3f}:(ih-oh)*{top:.3f}"
    return {
        "re-encoded": (f"{SMALL},fps=20", *whole),
        "trimmed": (SMALL, start, end, 1.0),
        "cropped": (f"{crop},{SMALL}", *whole),
        "mirrored": (f"hflip,{SMALL}", *whole),
        "recoloured": (f"{colour},{SMALL}", *whole),
        "watermarked": (f"{SMALL},drawbox={box}:color=white@0.8:t=fill", *whole),
        "sped up": (f"setpts=PTS/{speed},fps=25,{SMALL}", 0.0, length_s, speed),
        "letterboxed": (f"{SMALL},pad=iw:ceil(iw*0.75/2)*2:0:(oh-ih)/2,fps=15", *whole),
    }


def cut_clip(path: Path, start: float, length: float, filters: str, quality: int, target: Path) -> None:
    """Write part of a video, filtered and encoded anew."""
    cut = ("-ss", f"{start}", "-t", f"{length}", "-i", str(path), "-vf", filters)
    run_ffmpeg(*cut, *ENCODE, "-crf", str(quality), str(target))


def copy_source(path: Path, lengths: Mapping[str, float], padding: Sequence[str], out: Path) -> Iterator[MadeFile]:
    """Make the ten copies of a source."""
    rng, name, stem, length_s = random.Random(f"{SEED}{path.name}"), path.name, path.stem, lengths[path.name]
    shutil.copyfile(path, out / f"{stem}.exact.mp4")
    yield MadeFile(f"{stem}.exact.mp4", "exact", length_s, (Span(name, 0.0, length_s),))
    for kind, (filters, start, end, speed) in describe_filters(rng, length_s).items():
        target = f"{stem}.{kind.replace(' ', '_')}.mp4"
        cut_clip(path, start, end - start, filters, 36 if kind == "re-encoded" else 28, out / target)
        yield MadeFile(target, kind, (end - start) / speed, (Span(name, start, end, 0.0, speed),))
    before, after = rng.sample(padding, 2)
    fit = "scale=320:180:force_original_aspect_ratio=decrease,pad=320:180:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=25"
    chains = ";".join(f"[{index}:v]{fit}[v{index}]" for index in range(3))
    joined = ("-filter_complex", f"{chains};[v0][v1][v2]concat=n=3:v=1:a=0[v]", "-map", "[v]")
    inputs = (argument for name in (before, path.name, after) for argument in ("-i", str(path.with_name(name))))
    run_ffmpeg(*inputs, *joined, *ENCODE, "-crf", "28", str(out / f"{stem}.embedded.mp4"))
    spans, at = [], 0.0
    for name in (before, path.name, after):
        spans.append(Span(name, 0.0, lengths[name], at))
        at += lengths[name]
    yield MadeFile(f"{stem}.embedded.mp4", "embedded", at, tuple(spans))


def cut_look_alikes(path: Path, length_s: float, out: Path) -> Iterator[MadeFile]:
    """Cut a video into disjoint clips."""
    rng, at, clip_index = random.Random(f"{SEED}{path.name}"), 0.0, 0
    while at + 2.5 <= length_s:
        clip_s, target = min(rng.uniform(2.5, 5.0), length_s - at), f"{path.stem}.part{clip_index}.mp4"
        cut_clip(path, at, clip_s, SMALL, 26, out / target)
        yield MadeFile(target, "look-alike", clip_s, (Span(path.name, at, at + clip_s),))
        at, clip_index = at + clip_s + 0.5, clip_index + 1


def make_corpus(data: Path, out: Path) -> None:
    """Make the files of the corpus in a folder, and a list of them in truth.json."""
    rng, rows, videos = random.Random(SEED), read_rows(data / "captions.jsonl"), data / "videos"
    lengths = {row["video"]: float(row["duration"]) for row in rows}
    real = [row["video"] for row in rows if row["kind"] == "real" and SHORTEST_S <= lengths[row["video"]] <= LONGEST_S]
    rng.shuffle(real)
    sources, padding = real[:NUM_SOURCES], real[NUM_SOURCES : NUM_SOURCES + NUM_PADDING]
    long = [name for name in sorted(lengths) if lengths[name] >= 6.0 and name not in {*sources, *padding}]
    with ThreadPoolExecutor(2) as threads:
        copies = threads.map(lambda name: list(copy_source(videos / name, lengths, padding, out)), sources)
        cuts = threads.map(lambda name: list(cut_look_alikes(videos / name, lengths[name], out)), long)
        files, look_alikes = ([file for made_files in made for file in made_files] for made in (copies, cuts))
    for extra in look_alikes[NUM_LOOK_ALIKES:]:
        (out / extra.name).unlink()
    files += look_alikes[:NUM_LOOK_ALIKES]
    for name in sorted(set(lengths) - {*padding, *long}):
        shutil.copyfile(videos / name, out / name)
        kind = "source" if name in sources else "bystander"
        files.append(MadeFile(name, kind, lengths[name], (Span(name, 0.0, lengths[name]),)))
    (out / "truth.json").write_text(json.dumps([asdict(file) for file in files]))


def share_footage(one: MadeFile, other: MadeFile) -> float:
    """Return the share of the shorter file that shows the same footage as the other one."""
    shorter, longer = sorted((one, other), key=lambda file: file.length_s)
    shared = 0.0
    for span in shorter.spans:
        for other_span in longer.spans:
            if span.source == other_span.source:
                shared += max(0.0, min(span.end, other_span.end) - max(span.start, other_span.start)) / span.speed
    return shared / shorter.length_s


def map_time(time_s: float, one: MadeFile, other: MadeFile) -> float | None:
    """Return when another file shows what a file shows at a time; None if they share no source."""
    for span in one.spans:
        for other_span in other.spans:
            source_s = (time_s - span.at) * span.speed + span.start
            if span.source == other_span.source and span.start - 1 <= source_s <= span.end + 1:
                return other_span.at + (source_s - other_span.start) / other_span.speed
    return None


def score_groups(groups: Sequence[CopyGroup], files: Mapping[str, MadeFile]) -> dict[str, Any]:
    """Return recall by kind, precision and the accuracy of offsets of groups of copies."""
    found, num_listed = set[str](), 0  # a film that shows several sources is in a group of each
    wrong, errors_s = list[tuple[str, str]](), list[float]()
    for group in groups:
        best, group_files = files[Path(group.best.path).name], [files[Path(file.path).name] for file in group.files]
        for listed, file in zip(group.files[1:], group_files[1:], strict=True):
            num_listed += 1
            if share_footage(best, file) < LEAST_SHARE - 0.1:
                wrong.append((best.name, file.name))
            elif (expected := map_time(listed.best_start, best, file)) is not None:
                errors_s.append(abs(listed.start - expected))
        sources = [file for file in group_files if file.kind == "source"]
        found |= {file.name for file in group_files if any(share_footage(file, source) > 0 for source in sources)}
    return {
        **count_by_kind(files, found),
        "precision": round(1 - len(wrong) / max(num_listed, 1), 3),
        "listed": num_listed,
        "offset within 0.2 s": percent(np.array(errors_s) <= 0.2),
        "wrong": wrong,
    }


def count_by_kind(files: Mapping[str, MadeFile], found: Collection[str]) -> dict[str, Any]:
    """Return how many copies are found and there, by kind, and how many of all in percent."""
    kinds = defaultdict[str, list[bool]](list)
    for file in files.values():
        if file.kind not in ORIGINALS:
            kinds[file.kind].append(file.name in found)
    counts = {kind: f"{sum(flags)} of {len(flags)}" for kind, flags in sorted(kinds.items())}
    return {"found": counts, "recall": percent([flag for flags in kinds.values() for flag in flags])}


def read_truth(work: Path) -> dict[str, MadeFile]:
    """Return the files of a corpus by name."""
    path = work / "corpus" / "truth.json"
    if not path.exists():
        raise SystemExit(f"--only must include copies, which makes the corpus, if there is no {path}")
    rows = json.loads(path.read_text())
    return {row["name"]: MadeFile(**row | {"spans": tuple(Span(**span) for span in row["spans"])}) for row in rows}


def measure_copies(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Make the corpus unless it is there, index it, and look for copies."""
    corpus = given.work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    if not (corpus / "truth.json").exists():
        make_corpus(given.data, corpus)
    with Engine.open(given.work / "corpus-index") as engine:
        engine.index([corpus], words=False)
        groups, cost = measure_call(engine.duplicates)
    return {"cost": cost} | score_groups(groups, read_truth(given.work))


def measure_clips(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Look for the footage of some copies; return how many of their other copies are found, and what a search costs."""
    files = read_truth(given.work)
    copies = [file for file in files.values() if file.kind not in (*ORIGINALS, "exact")]
    counts, costs = Counter[str](), list[Cost]()
    with Engine.open(given.work / "corpus-index") as engine:
        for file in random.Random(SEED).sample(copies, given.clips):
            path = given.work / "corpus" / file.name
            found, cost = measure_call(lambda: engine.find_footage(path, 20))  # noqa: B023
            costs.append(cost)
            names = {Path(path).name for footage in found for path in (footage.path, *footage.copies)} - {file.name}
            true = {other.name for other in files.values() if share_footage(file, other) >= LEAST_SHARE} - {file.name}
            counts += Counter({"copies": len(true), "copies found": len(true & names)})
            counts["others found"] += sum(share_footage(file, files[name]) == 0 for name in names)
            counts["sources found"] += any(span.source in names for span in file.spans)
    cpu_s = sum(cost.cpu_s for cost in costs) / len(costs)  # with the start of the decoders
    return {**counts, "clips": given.clips, "cpu_s": round(cpu_s, 2), "p50_ms": describe_ms(costs)["p50_ms"]}


def measure_fold(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Fold each two videos of the corpus; return which copies of a source are folded, and what else is."""
    files = read_truth(given.work)
    with Store.open(given.work / "corpus-index") as store:
        videos = store.videos.find()
        videos.sort(key=lambda video: all(files[Path(path).name].kind != "source" for path in video.paths))
        names = [min(Path(path).name for path in video.paths) for video in videos]
        spans = [FoundSpan(video.id, 0.0, video.duration) for video in videos]
        leaders = CopyFolder(store).fold(spans, whole=True)
    folded = {names[index]: names[leader] for index, leader in enumerate(leaders) if leader != index}
    wrong = [pair for pair in folded.items() if share_footage(files[pair[0]], files[pair[1]]) == 0]
    compared = {name: file for name, file in files.items() if name in names and file.kind != "exact"}
    return {**count_by_kind(compared, folded), "results": len(leaders), "wrong": wrong}


def main() -> None:
    """Measure what the arguments say."""
    parser = make_parser(__doc__, "data", draws=12, clips=40, work=Path("measure-clips"))
    searches = [measure_concepts, measure_classes, measure_composed, measure_refined, measure_sorted]
    run_parts(parser, [*searches, measure_copies, measure_clips, measure_fold])


if __name__ == "__main__":
    main()
