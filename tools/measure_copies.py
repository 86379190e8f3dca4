"""Measure how well copies of videos are found among look-alikes; print one JSON object.

    python tools/measure_copies.py REALSET [--work measure-copies] [--only PART ...] [--clips 40]

REALSET is a folder with captions.jsonl and videos/, which the first part needs. The parts:

- ``copies``: of 30 videos, chosen at random, ffmpeg makes copies of ten kinds. Others are cut into disjoint clips:
  look-alikes that show the same place and people, but share no footage. The rest are bystanders. A pair of files is a
  copy if they share footage that fills half of the shorter one. The corpus and its index stay in --work.
- ``clips``: the footage of some copies of that corpus is looked for.
- ``fold``: all videos of that corpus are folded as results of one search: which copies of a source are one result with
  it, and which pairs are that share no footage.
"""

import argparse
import json
import random
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Cost, describe_ms, make_parser, measure, percent, read_rows, run_ffmpeg, run_parts

from vidret import Engine
from vidret.copies.folding import CopyFolder, FoundSpan
from vidret.store.store import Store
from vidret.types import CopyGroup, SharedFootage

SEED = 21
NUM_SOURCES, NUM_PADDING, NUM_LOOK_ALIKES = 30, 12, 300
SHORTEST_S, LONGEST_S = 3.0, 30.0  # of a source
LEAST_SHARE = 0.5
ORIGINALS = ("source", "look-alike", "bystander")
ENCODE = ("-an", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1")
SMALL = "scale=320:-2"


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
    start = rng.uniform(0.1, 0.3) * length_s
    end = rng.uniform(0.75, 0.9) * length_s
    speed = rng.choice((0.8, 1.25, 1.5))
    colour = rng.choice(
        ("hue=s=0", "hue=h=60:s=1.6", "eq=brightness=0.08:contrast=1.25:saturation=0.5", "eq=gamma=1.6")
    )
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


def copy_source(
    rng: random.Random, path: Path, length_s: float, padding: list[tuple[Path, float]], out: Path
) -> Iterator[MadeFile]:
    """Make the ten copies of a source."""
    name, stem = path.name, path.stem
    shutil.copyfile(path, out / f"{stem}.exact.mp4")
    yield MadeFile(f"{stem}.exact.mp4", "exact", length_s, (Span(name, 0.0, length_s),))
    for kind, (filters, start, end, speed) in describe_filters(rng, length_s).items():
        target = f"{stem}.{kind.replace(' ', '_')}.mp4"
        quality = "36" if kind == "re-encoded" else "28"
        cut = ("-ss", f"{start}", "-t", f"{end - start}", "-i", str(path), "-vf", filters)
        run_ffmpeg(*cut, *ENCODE, "-crf", quality, str(out / target))
        yield MadeFile(target, kind, (end - start) / speed, (Span(name, start, end, 0.0, speed),))
    before, after = rng.sample(padding, 2)
    target = f"{stem}.embedded.mp4"
    inputs = [before, (path, length_s), after]
    fit = "scale=320:180:force_original_aspect_ratio=decrease,pad=320:180:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=25"
    chains = ";".join(f"[{index}:v]{fit}[v{index}]" for index in range(3))
    joined = ("-filter_complex", f"{chains};[v0][v1][v2]concat=n=3:v=1:a=0[v]", "-map", "[v]")
    given = (part for path, _ in inputs for part in ("-i", str(path)))
    run_ffmpeg(*given, *joined, *ENCODE, "-crf", "28", str(out / target))
    spans, at = [], 0.0
    for path, each_s in inputs:
        spans.append(Span(path.name, 0.0, each_s, at))
        at += each_s
    yield MadeFile(target, "embedded", at, tuple(spans))


def cut_look_alikes(rng: random.Random, path: Path, length_s: float, out: Path) -> Iterator[MadeFile]:
    """Cut a video into disjoint clips."""
    at, number = 0.0, 0
    while at + 2.5 <= length_s:
        clip_s = min(rng.uniform(2.5, 5.0), length_s - at)
        target = f"{path.stem}.part{number}.mp4"
        cut = ("-ss", f"{at}", "-t", f"{clip_s}", "-i", str(path), "-vf", SMALL)
        run_ffmpeg(*cut, *ENCODE, "-crf", "26", str(out / target))
        yield MadeFile(target, "look-alike", clip_s, (Span(path.name, at, at + clip_s),))
        at, number = at + clip_s + 0.5, number + 1


def make_corpus(realset: Path, out: Path) -> None:
    """Make the files of the corpus in a folder, and a list of them in truth.json."""
    rng = random.Random(SEED)
    rows = read_rows(realset / "captions.jsonl")
    lengths = {row["video"]: float(row["duration"]) for row in rows}
    real = [row["video"] for row in rows if row["kind"] == "real" and SHORTEST_S <= lengths[row["video"]] <= LONGEST_S]
    rng.shuffle(real)
    sources, padding = real[:NUM_SOURCES], real[NUM_SOURCES : NUM_SOURCES + NUM_PADDING]
    long = [name for name in sorted(lengths) if lengths[name] >= 6.0 and name not in {*sources, *padding}]
    jobs: list[Any] = []
    for name in sources:
        made = random.Random(f"{SEED}{name}")
        pads = [(realset / "videos" / name, lengths[name]) for name in padding]
        jobs.append((copy_source, made, realset / "videos" / name, lengths[name], pads, out))
    for name in long:
        made = random.Random(f"{SEED}{name}")
        jobs.append((cut_look_alikes, made, realset / "videos" / name, lengths[name], out))
    with ThreadPoolExecutor(2) as threads:
        files = [file for made in threads.map(lambda job: list(job[0](*job[1:])), jobs) for file in made]
    look_alikes = [file for file in files if file.kind == "look-alike"]
    for extra in look_alikes[NUM_LOOK_ALIKES:]:
        (out / extra.name).unlink()
        files.remove(extra)
    for name in sorted(set(lengths) - {*padding, *long}):
        shutil.copyfile(realset / "videos" / name, out / name)
        kind = "source" if name in sources else "bystander"
        files.append(MadeFile(name, kind, lengths[name], (Span(name, 0.0, lengths[name]),)))
    (out / "truth.json").write_text(json.dumps([asdict(file) for file in files]))


def share_footage(one: MadeFile, other: MadeFile) -> float:
    """Return the share of the shorter file that shows the same footage as the other one."""
    shorter, longer = sorted((one, other), key=lambda file: file.length_s)
    shared = 0.0
    for span in shorter.spans:
        for part in longer.spans:
            if span.source == part.source:
                shared += max(0.0, min(span.end, part.end) - max(span.start, part.start)) / span.speed
    return shared / shorter.length_s


def map_time(time_s: float, one: MadeFile, other: MadeFile) -> float | None:
    """Return when another file shows what a file shows at a time; None if they share no source."""
    for span in one.spans:
        for part in other.spans:
            source_s = (time_s - span.at) * span.speed + span.start
            if span.source == part.source and span.start - 1 <= source_s <= span.end + 1:
                return part.at + (source_s - part.start) / part.speed
    return None


def score_groups(groups: Sequence[CopyGroup], files: Mapping[str, MadeFile]) -> dict[str, Any]:
    """Return recall by kind, precision and the accuracy of offsets of groups of copies."""
    found: set[str] = set()  # a film that shows several sources is in a group of each
    wrong, errors_s, num_listed = list[tuple[str, str]](), list[float](), 0
    for group in groups:
        best = files[Path(group.best.path).name]
        own = [files[Path(file.path).name] for file in group.files]
        for listed, file in zip(group.files[1:], own[1:], strict=True):
            num_listed += 1
            if share_footage(best, file) < LEAST_SHARE - 0.1:
                wrong.append((best.name, file.name))
            elif (expected := map_time(listed.best_start, best, file)) is not None:
                errors_s.append(abs(listed.start - expected))
        sources = [file for file in own if file.kind == "source"]
        found |= {file.name for file in own if any(share_footage(file, source) > 0 for source in sources)}
    return {
        **count_by_kind(files, found),
        "precision": round(1 - len(wrong) / max(num_listed, 1), 3),
        "listed": num_listed,
        "offset within 0.2 s": percent(np.array(errors_s) <= 0.2),
        "wrong": wrong,
    }


def count_by_kind(files: Mapping[str, MadeFile], found: Collection[str]) -> dict[str, Any]:
    """Return how many copies are found and there, by kind, and how many of all in percent."""
    copies = [file for file in files.values() if file.kind not in ORIGINALS]
    kinds = {
        kind: [file.name in found for file in copies if file.kind == kind] for kind in {file.kind for file in copies}
    }
    counts = {kind: f"{sum(own)} of {len(own)}" for kind, own in sorted(kinds.items())}
    return {"found": counts, "recall": percent([file.name in found for file in copies])}


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
        if given.realset is None:
            raise SystemExit(f"REALSET must be given, since {corpus} has no videos yet")
        make_corpus(given.realset, corpus)
    groups = list[CopyGroup]()
    with Engine.open(given.work / "index") as engine:
        engine.index([corpus], words=False)
        cost = measure(lambda: groups.extend(engine.duplicates()))
    return cost.to_dict(1) | score_groups(groups, read_truth(given.work))


def measure_clips(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Look for the footage of some copies; return how many of their other copies are found, and what a search costs."""
    files = read_truth(given.work)
    copies = [file for file in files.values() if file.kind not in (*ORIGINALS, "exact")]
    counts, costs = Counter[str](), list[Cost]()
    with Engine.open(given.work / "index") as engine:
        for file in random.Random(SEED).sample(copies, given.clips):
            found = list[SharedFootage]()
            path = given.work / "corpus" / file.name
            costs.append(measure(lambda path=path, found=found: found.extend(engine.find_footage(path, 20))))  # type: ignore[misc]
            names = {Path(path).name for footage in found for path in (footage.path, *footage.copies)} - {file.name}
            true = {other.name for other in files.values() if share_footage(file, other) >= LEAST_SHARE} - {file.name}
            counts += Counter({"copies": len(true), "copies found": len(true & names)})
            counts["others found"] += sum(share_footage(file, files[name]) == 0 for name in names)
            counts["sources found"] += any(span.source in names for span in file.spans)
    cpu_s = sum(cost.cpu_s for cost in costs) / len(costs)  # with the start of the decoders
    return {**counts, "clips": given.clips, "cpu_s": round(cpu_s, 2), "p50_ms": describe_ms(costs)["p50_ms"]}


def measure_folding(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Fold each two videos of the corpus; return which copies of a source are folded, and what else is."""
    files = read_truth(given.work)
    with Store.open(given.work / "index") as store:
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
    parser = make_parser(__doc__, clips=40)
    parser.add_argument("realset", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=Path("measure-copies"))
    run_parts(parser, {"copies": measure_copies, "clips": measure_clips, "fold": measure_folding}, ["copies"])


if __name__ == "__main__":
    main()
