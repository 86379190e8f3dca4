"""Measure shot detection on films whose cuts are known; print tables.

    python tools/measure_shots.py DATA [--index INDEX] [--seen SEEN.jsonl]

DATA holds films.jsonl, a row per film with ``file`` and ``events``, and videos/, which are indexed unless INDEX has
them. Windows of type "picture" are clips, and a cut is where one starts. A text that covers the whole picture hides the
cuts under it, and is a shot of its own. SEEN.jsonl has rows of ``file`` and ``frames``, cuts inside the clips that
somebody saw. A second table counts them as true. A cut is right within one frame, and every true cut answers for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from harness import PREFIX, make_parser, print_rows, read_rows

from vidret.engine import Engine
from vidret.video.probe import probe

TOLERANCE = 1  # frames


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found in a film: the first frames of shots, how many come gradually, and its frames and their length."""

    cuts: list[int]
    num_gradual: int
    num_frames: int
    frame_s: float


def find_visible_cuts(events: Sequence[dict[str, Any]], duration_s: float) -> list[float]:
    """Return the times at which a clip or a text that covers the picture starts or ends, where that can be seen."""
    covers = [event["window"] for event in events if event["type"] == "text" and event.get("cover")]
    clips = [event["window"][0] for event in events if event["type"] == "picture"]
    seen = {clip for clip in clips if not any(start < clip < end for start, end in covers)}
    return sorted(seen | {edge for window in covers for edge in window if edge < duration_s})


def read_shots(engine: Engine, path: Path) -> Measured:
    """Return what indexing found in a film."""
    info = probe(str(path))
    frame_s = info.shown_seconds / info.num_frames
    changes = [shot for shot in engine.shots(path) if shot.begins_with is not None]
    cuts = [round(shot.start / frame_s) for shot in changes if shot.begins_with == "cut"]
    return Measured(cuts, len(changes) - len(cuts), info.num_frames, frame_s)


def to_frames(cuts_s: Sequence[float], film: Measured) -> list[int]:
    """Return the nearest frames of cuts, without those at the film's ends; neighbours are one cut."""
    frames: list[int] = []
    for cut_s in sorted(cuts_s):
        frame = round(cut_s / film.frame_s)
        if TOLERANCE < frame < film.num_frames - TOLERANCE and (not frames or frame - frames[-1] > TOLERANCE):
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
    shares = [f"{share:.3f}" for share in (precision, recall, f1)]
    print_rows(("true", "found", "precision", "recall", "F1"), [(num_true, num_found, *shares)])


def main() -> None:
    """Measure every film and print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--index", type=Path, default=None)
    parser.add_argument("--seen", type=Path, default=None)
    given = parser.parse_args()
    rows = read_rows(given.data / "films.jsonl")
    with Engine.open(given.index or mkdtemp(prefix=PREFIX)) as engine:
        engine.index([given.data / "videos"], words=False)
        films = [read_shots(engine, given.data / "videos" / row["file"]) for row in rows]
    cuts_s = [find_visible_cuts(row["events"], row["duration"]) for row in rows]
    truths = [to_frames(own, film) for own, film in zip(cuts_s, films, strict=True)]
    show(films, truths)
    print(f"gradual transitions: {sum(film.num_gradual for film in films)}")
    if given.seen:
        seen_rows = read_rows(given.seen)
        seen = [[cut for own in seen_rows if own["file"] == row["file"] for cut in own["frames"]] for row in rows]
        print(f"\nwith {sum(map(len, seen))} cuts seen inside the clips:")
        show(films, [sorted({*true, *more}) for true, more in zip(truths, seen, strict=True)])


if __name__ == "__main__":
    main()
