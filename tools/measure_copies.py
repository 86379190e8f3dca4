"""Measure how well copies of videos are found among look-alikes.

    python tools/measure_copies.py REALSET [--work FOLDER]
    python tools/measure_copies.py --work FOLDER --clips 60
    python tools/measure_copies.py --work FOLDER --fold

REALSET is a folder with captions.jsonl and videos/. Of 30 of its videos, chosen at random, ffmpeg makes copies of ten
kinds. Other videos are cut into disjoint clips: look-alikes that show the same place and people, but share no footage.
The rest are bystanders. A pair of files is a copy if they share footage that fills half of the shorter one.
``--clips N`` looks for the footage of N of the copies of an indexed corpus, and prints what it finds and costs.
``--fold`` folds all videos of an indexed corpus as results of one search, and prints which copies of a source are one
result with it, and which pairs are that share no footage.
"""

import argparse
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import count_cpu_s, read_rows

from vidret import Engine
from vidret.copies.folding import CopyFolder, FoundSpan
from vidret.present.ffmpeg import find_ffmpeg
from vidret.store.store import Store
from vidret.types import CopyGroup

SEED = 21
NUM_SOURCES, NUM_PADDING, NUM_LOOK_ALIKES = 30, 12, 300
SHORTEST_S, LONGEST_S = 3.0, 30.0  # of a source
LEAST_SHARE = 0.5
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


def run_ffmpeg(*arguments: str) -> None:
    """Run ffmpeg; its error output is raised."""
    command = [find_ffmpeg(), "-nostdin", "-v", "error", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


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


def make_corpus(realset: Path, out: Path) -> list[MadeFile]:
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
    return files


@dataclass(frozen=True, slots=True)
class Score:
    """What was found: copies by kind, files listed with a group that do not belong there, and errors of offsets."""

    found: Counter[str]
    total: Counter[str]
    num_listed: int
    wrong: list[tuple[str, str]]
    errors_s: list[float]


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


def score_groups(groups: Sequence[CopyGroup], files: Mapping[str, MadeFile]) -> Score:
    """Compare groups of copies with the list of made files."""
    total = Counter(file.kind for file in files.values() if file.kind not in ("source", "look-alike", "bystander"))
    found: set[str] = set()  # a film that shows several sources is in a group of each
    wrong, errors, num_listed = [], [], 0
    for group in groups:
        best = files[Path(group.best.path).name]
        names = [Path(file.path).name for file in group.files]
        for listed in group.files[1:]:
            file, num_listed = files[Path(listed.path).name], num_listed + 1
            if share_footage(best, file) < LEAST_SHARE - 0.1:
                wrong.append((best.name, file.name))
            elif (expected := map_time(listed.best_start, best, file)) is not None:
                errors.append(abs(listed.start - expected))
        for name in names:
            file = files[name]
            has_source = any(files[other].kind == "source" and share_footage(file, files[other]) > 0 for other in names)
            if file.kind in total and has_source:
                found.add(name)
    return Score(Counter(files[name].kind for name in found), total, num_listed, wrong, errors)


def print_score(score: Score) -> None:
    """Print recall by kind, precision and the accuracy of offsets."""
    for kind in sorted(score.total):
        print(f"{kind:12s} {score.found[kind]:3d} of {score.total[kind]}")
    errors = np.array(score.errors_s)
    precision = 1 - len(score.wrong) / max(score.num_listed, 1)
    print(
        f"recall {score.found.total() / score.total.total():.3f}, precision {precision:.3f} of {score.num_listed} files"
    )
    print(f"offset within 0.2 s: {(errors <= 0.2).mean():.3f}, median {np.median(errors):.3f} s")
    for one, other in score.wrong:
        print(f"wrong: {one} {other}")


def read_truth(path: Path) -> dict[str, MadeFile]:
    """Return the files of a corpus by name."""
    rows = json.loads(path.read_text())
    return {row["name"]: MadeFile(**row | {"spans": tuple(Span(**span) for span in row["spans"])}) for row in rows}


def measure_copies(realset: Path, work: Path) -> None:
    """Make the corpus unless it is there, index it, look for copies, print the score and the CPU seconds."""
    corpus = work / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    truth = corpus / "truth.json"
    if not truth.exists():
        make_corpus(realset, corpus)
    files = read_truth(truth)
    with Engine.open(work / "index") as engine:
        engine.index([corpus], words=False)
        before, started = count_cpu_s(), time.perf_counter()
        groups = engine.duplicates()
        print(f"{count_cpu_s() - before:.0f} s of CPU, {time.perf_counter() - started:.0f} s")
    print_score(score_groups(groups, files))


def measure_clips(work: Path, num_clips: int) -> None:
    """Look for the footage of some copies; print how many of their other copies are found, and what a search costs."""
    files = read_truth(work / "corpus" / "truth.json")
    copies = [file for file in files.values() if file.kind not in ("source", "look-alike", "bystander", "exact")]
    chosen = random.Random(SEED).sample(copies, num_clips)
    num_true = num_found = num_wrong = num_sources = 0
    waited: list[float] = []
    before = count_cpu_s()
    with Engine.open(work / "index") as engine:
        for file in chosen:
            started = time.perf_counter()
            found = engine.find_footage(work / "corpus" / file.name, 20)
            waited.append(time.perf_counter() - started)
            names = {Path(path).name for footage in found for path in (footage.path, *footage.copies)} - {file.name}
            true = {other.name for other in files.values() if share_footage(file, other) >= LEAST_SHARE} - {file.name}
            num_true, num_found = num_true + len(true), num_found + len(true & names)
            num_wrong += sum(share_footage(file, files[name]) == 0 for name in names)
            num_sources += any(span.source in names for span in file.spans)
    spent = (count_cpu_s() - before) / num_clips
    print(f"{num_sources} of {num_clips} sources found, {num_found} of {num_true} copies, {num_wrong} others")
    print(f"{spent:.2f} s of CPU each, with the start of the decoders; p50 {np.median(waited):.3f} s")


def measure_folding(work: Path) -> None:
    """Fold each two videos of the corpus; print which copies of a source are folded, and what else is."""
    files = read_truth(work / "corpus" / "truth.json")
    total, found = Counter[str](), Counter[str]()
    wrong: list[tuple[str, str]] = []
    with Store.open(work / "index") as store:
        videos = store.videos.find()
        videos.sort(key=lambda video: all(files[Path(path).name].kind != "source" for path in video.paths))
        names = [min(Path(path).name for path in video.paths) for video in videos]
        spans = [FoundSpan(video.id, 0.0, video.duration) for video in videos]
        leaders = CopyFolder(store).fold(spans, whole=True)
    for index, leader in enumerate(leaders):
        file, first = files[names[index]], files[names[leader]]
        if leader != index and share_footage(file, first) == 0:
            wrong.append((file.name, first.name))
        if file.kind not in ("source", "exact", "look-alike", "bystander"):
            total[file.kind] += 1
            found[file.kind] += leader != index
    for kind in sorted(total):
        print(f"{kind:12s} {found[kind]:3d} of {total[kind]}")
    print(f"{len(wrong)} of {len(leaders)} results are folded that share nothing: {wrong[:5]}")


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description="Measure how well copies of videos are found.")
    parser.add_argument("realset", type=Path, nargs="?", default=None)
    parser.add_argument(
        "--work", type=Path, default=None, help="Folder for the corpus and its index; default: a new one."
    )
    parser.add_argument("--clips", type=int, default=None, metavar="N", help="Only look for N clips, in --work.")
    parser.add_argument("--fold", action="store_true", help="Only fold the videos, in --work.")
    arguments = parser.parse_args()
    if arguments.fold and arguments.work is not None:
        measure_folding(arguments.work)
    elif arguments.clips is not None and arguments.work is not None:
        measure_clips(arguments.work, arguments.clips)
    elif arguments.realset is not None:
        measure_copies(arguments.realset, arguments.work or Path(tempfile.mkdtemp(prefix="vidret-copies-")))
    else:
        parser.error("give a REALSET, or --work FOLDER --clips N")


if __name__ == "__main__":
    main()
