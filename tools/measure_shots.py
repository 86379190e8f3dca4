"""Measure shot detection on films whose cuts are known; print tables.

    python tools/measure_shots.py DATA [--seen SEEN.jsonl] [--limit N]

DATA holds films.jsonl and videos/, or moments.jsonl whose rows of kind "concat" are windows of joined clips.

- films.jsonl: a row per film with ``file`` and ``events``. Windows of type "picture" are clips, and a cut is where one
  starts. A text that covers the whole picture hides the cuts under it, and is a shot of its own.
- moments.jsonl: ``file`` and ``relevant_windows``; a cut is where a window starts or ends.
- SEEN.jsonl: ``file`` and ``frames``, cuts inside the clips that somebody saw. A second table counts them as true.

A cut is right within one frame, and every true cut answers for one. Cost is CPU time over that of decoding.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from harness import make_parser, print_rows, read_rows

from vidret.video.grey import Grey, grey_from_luma
from vidret.video.shots.cuts import ShotDetector

TOLERANCE = 1  # frames
AT_ONCE = 32  # frames, as indexing adds them to the detector


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found in a film: the times of its frames, the first frames of shots, and CPU seconds."""

    times_s: list[float]
    cuts: list[int]
    num_gradual: int
    decoding_s: float
    detecting_s: float


def read_cuts(data: Path) -> dict[Path, list[float]]:
    """Return the times of the true cuts of each film of a folder, in seconds."""
    if (data / "films.jsonl").exists():
        rows = read_rows(data / "films.jsonl")
        return {data / "videos" / row["file"]: find_visible_cuts(row["events"], row["duration"]) for row in rows}
    edges: defaultdict[Path, set[float]] = defaultdict(set)
    for row in read_rows(data / "moments.jsonl"):
        if row["kind"] == "concat":
            edges[data / row["file"]].update(edge for window in row["relevant_windows"] for edge in window)
    return {path: sorted(own) for path, own in edges.items()}


def find_visible_cuts(events: Sequence[dict[str, Any]], duration_s: float) -> list[float]:
    """Return the times at which a clip or a text that covers the picture starts or ends, where that can be seen."""
    covers = [event["window"] for event in events if event["type"] == "text" and event.get("cover")]
    clips = [event["window"][0] for event in events if event["type"] == "picture"]
    seen = {clip for clip in clips if not any(start < clip < end for start, end in covers)}
    return sorted(seen | {edge for window in covers for edge in window if edge < duration_s})


def measure(path: Path) -> Measured:
    """Decode a film on one thread, and pass all frames to the detector."""
    detector, transitions, times_s = ShotDetector(), [], []
    greys: list[Grey] = []
    decoding_s = detecting_s = 0.0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames: Any = container.decode(stream)
        while True:
            started = time.process_time()
            frame = next(frames, None)
            decoded = time.process_time()
            decoding_s += decoded - started
            if frame is not None:
                plane = frame.planes[0]
                luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
                greys.append(grey_from_luma(luma))
                times_s.append(frame.time)
            if greys and (frame is None or len(greys) == AT_ONCE):
                for _, own in detector.add(np.stack(greys), times_s[-len(greys) :]):
                    transitions += own
                greys = []
            detecting_s += time.process_time() - decoded
            if frame is None:
                break
    transitions += detector.finish()
    cuts = [transition.frame for transition in transitions if transition.kind == "cut"]
    return Measured(times_s, cuts, len(transitions) - len(cuts), decoding_s, detecting_s)


def to_frames(cuts_s: Sequence[float], times_s: Sequence[float]) -> list[int]:
    """Return the nearest frames of cuts, without those at the film's ends; neighbours are one cut."""
    frames: list[int] = []
    for cut_s in sorted(cuts_s):
        frame = int(np.argmin(np.abs(np.asarray(times_s) - cut_s)))
        if TOLERANCE < frame < len(times_s) - TOLERANCE and (not frames or frame - frames[-1] > TOLERANCE):
            frames.append(frame)
    return frames


def count_right(true: Sequence[int], found: Sequence[int]) -> int:
    """Return how many found cuts are right."""
    left, right = list(true), 0
    for cut in sorted(found):
        near = [frame for frame in left if abs(frame - cut) <= TOLERANCE]
        if near:
            left.remove(min(near, key=lambda frame: abs(frame - cut)))
            right += 1
    return right


def show(films: Sequence[Measured], truths: Sequence[Sequence[int]]) -> None:
    """Print a table."""
    right = sum(count_right(true, film.cuts) for film, true in zip(films, truths, strict=True))
    num_true, num_found = sum(map(len, truths)), sum(len(film.cuts) for film in films)
    precision, recall = right / max(num_found, 1), right / max(num_true, 1)
    f1 = 2 * right / max(num_true + num_found, 1)
    cost = sum(film.detecting_s for film in films) / sum(film.decoding_s for film in films)
    shares = [f"{share:.3f}" for share in (precision, recall, f1, cost)]
    print_rows(("true", "found", "precision", "recall", "F1", "CPU / decoding"), [(num_true, num_found, *shares)])


def main() -> None:
    """Measure every film and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seen", type=Path, default=None)
    parser.add_argument("--limit", type=int, default=None, help="number of films")
    options = parser.parse_args()
    cuts_s = dict(list(read_cuts(options.data).items())[: options.limit])
    films = [measure(path) for path in cuts_s]
    truths = [to_frames(own, film.times_s) for own, film in zip(cuts_s.values(), films, strict=True)]
    show(films, truths)
    print(f"gradual transitions: {sum(film.num_gradual for film in films)}")
    if options.seen:
        rows = read_rows(options.seen)
        seen = [[cut for row in rows if row["file"] == path.name for cut in row["frames"]] for path in cuts_s]
        print(f"\nwith {sum(map(len, seen))} cuts seen inside the clips:")
        show(films, [sorted({*true, *more}) for true, more in zip(truths, seen, strict=True)])


if __name__ == "__main__":
    main()
