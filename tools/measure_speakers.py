"""Measure who speaks when, and who is called what: on films made of voices, and on films whose speakers are known.

    python tools/measure_speakers.py VOICES [--films 20] [--seconds 75] [--known FOLDER] [--alike WORD] [--cost]

VOICES has a folder for each speaker, with sentences of the speaker in WAV files (16 bit, mono). Speakers are dealt to
two halves, and films of two to four speakers are made of each: constants may be chosen on the first half, and are
checked on the second. Sentences follow one another with pauses, a third of the films has pink noise 25 dB below, and
nobody interrupts. FOLDER has films.jsonl, whose events of type ``speech`` have a ``voice`` and a ``window``, and
videos/. ``--alike`` counts all speakers with a word in their names as one, such as accents of one synthetic voice.
``--cost`` compares indexing with words and speakers with words.

The diarisation error is the time of speech that is missed, of what is no speech, and of wrong speakers, relative to all
speech, at the best assignment of the found speakers to the true ones. A collar leaves out the time around each start
and end. Names are right if a sentence, in another film than that in which the speaker was named, has the right one.
"""

import itertools
import random
import tempfile
import wave
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
from harness import make_parser, measure, print_rows, read_rows, write_film
from jaxtyping import Float32
from scipy.optimize import linear_sum_assignment

from vidret import Engine
from vidret.channels.texts.options import WordsOptions
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.store import Store
from vidret.store.texts.upkeep import name_speakers
from vidret.types import TimedText

SAMPLE_RATE = 16_000
STEP_S = 0.01  # resolution of errors
COLLAR_S = 0.25
NOISE_DB, LEVEL_DB = -25.0, -20.0  # of noise relative to speech, of speech
FRAME_RATE, SIZE = 5, (48, 64)

Samples = Float32[np.ndarray, " sample"]


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
        return f"{total:.1f} ({', '.join(f'{part:.1f}' for part in parts)})"


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
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE, 1, 2):
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
    pieces: list[Samples] = [np.zeros(int(SAMPLE_RATE * rng.uniform(0.3, 2)), np.float32)]
    spoken, speaker = list[Spoken](), ""
    while sum(map(len, pieces)) < length_s * SAMPLE_RATE:
        if not speaker or rng.random() < 0.85:
            speaker = rng.choice([other for other in speakers if other != speaker])
        for _ in range(rng.choice([1, 1, 2])):
            start_s = sum(map(len, pieces)) / SAMPLE_RATE
            sentence = read_sentence(rng.choice(voices[speaker])) * np.float32(10 ** (rng.uniform(-2, 2) / 20))
            spoken.append(Spoken(start_s, start_s + len(sentence) / SAMPLE_RATE, speaker))
            pieces += [sentence, np.zeros(int(SAMPLE_RATE * rng.uniform(0.1, 0.8)), np.float32)]
    audio: Samples = np.concatenate(pieces)
    if rng.random() < 1 / 3:
        spectrum = np.fft.rfft(np.random.default_rng(rng.randrange(1 << 30)).standard_normal(len(audio)))
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + 1), len(audio))
        audio = (audio + noise / np.sqrt((noise**2).mean()) * 10 ** ((LEVEL_DB + NOISE_DB) / 20)).astype(np.float32)
    return np.clip(audio, -1, 1), spoken


def make_films(
    folder: Path, voices: dict[str, list[Path]], num_films: int, length_s: float, seed: int
) -> dict[str, list[Spoken]]:
    """Write films and return who speaks in each, by path."""
    rng, films = random.Random(seed), {}
    for number in range(num_films):
        audio, spoken = make_sound(rng, voices, length_s)
        path = folder / f"film{seed}-{number:02}.mp4"
        picture = np.full((*SIZE, 3), 5 * number % 256, np.uint8)
        write_film(path, [picture] * int(len(audio) / SAMPLE_RATE * FRAME_RATE), FRAME_RATE, audio)
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
        str(person) if person else f"voice {hash(own.tobytes())}"
        for person, own in zip(voices.persons.tolist(), vectors, strict=True)
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
    homes = {speaker: max(own, key=own.__getitem__) for speaker, own in said_s.items()}
    names = {speaker: f"Speaker {letter}" for speaker, letter in zip(homes, ascii_lowercase, strict=False)}
    for speaker, home in homes.items():
        texts = [TimedText(turn.start_s, turn.end_s, "", "speech") for turn in films[home] if turn.speaker == speaker]
        named = name_speakers([index], contents[home], texts, unnamed=True)
        handles = [text.speaker for text in named if text.speaker.startswith("person-")]
        if handles:
            persons.rename(max(set(handles), key=handles.count), names[speaker])
    num_right = num_all = 0
    for path, spoken in films.items():
        elsewhere = [turn for turn in spoken if homes[turn.speaker] != path]
        texts = [TimedText(turn.start_s, turn.end_s, "", "speech") for turn in elsewhere]
        named = name_speakers([index], contents[path], texts)
        num_right += sum(text.speaker == names[turn.speaker] for turn, text in zip(elsewhere, named, strict=True))
        num_all += len(elsewhere)
    return num_right, num_all


def index_films(films: dict[str, list[Spoken]], *, words: bool, speakers: bool) -> Path:
    """Index films, with their speech and their speakers if wanted, and return the index."""
    index = Path(tempfile.mkdtemp(prefix="vidret-speakers-"))
    with Engine.open(index) as engine:
        engine.index(sorted(films), words=WordsOptions(sources=("speech",)) if words else False, speakers=speakers)
    return index


def deal_voices(folder: Path) -> list[dict[str, list[Path]]]:
    """Return two halves of the speakers, with their sentences."""
    speakers = sorted(path for path in folder.iterdir() if path.is_dir())
    return [{path.name: sorted(path.glob("*.wav")) for path in speakers[half::2]} for half in (0, 1)]


def main() -> None:
    """Make the films, index them, and print a table."""
    parser = make_parser(__doc__, films=20, seconds=75.0, alike="")
    parser.add_argument("voices", type=Path)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--cost", action="store_true")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vidret-spoken-"))
    sets = {
        f"half {half}: {', '.join(voices)}": make_films(folder, voices, asked.films, asked.seconds, half)
        for half, voices in enumerate(deal_voices(asked.voices), 1)
    }
    sets |= {str(asked.known): read_known(asked.known)} if asked.known else {}
    rows, alike = [], asked.alike
    for name, spoken in sets.items():
        films = {
            path: [turn._replace(speaker=alike) if alike and alike in turn.speaker else turn for turn in own]
            for path, own in spoken.items()
        }
        index = index_films(films, words=False, speakers=True)
        errors = [sum_errors(index, films, collar_s).describe() for collar_s in (0.0, COLLAR_S)]
        num_right, num_all = count_right_names(index, films)
        rows.append((name, len(films), *errors, f"{100 * num_right / max(num_all, 1):.1f} of {num_all}"))
    print_rows(("set", "films", "error (missed, invented, confused)", f"with {COLLAR_S} s collar", "right names"), rows)
    if asked.cost:
        films = dict(itertools.islice(next(iter(sets.values())).items(), 6))
        costs = {on: measure(lambda on=on: index_films(films, words=True, speakers=on)) for on in (False, True)}  # type: ignore[misc]
        print(f"indexing with speakers, relative to words: {costs[True].cpu_s / costs[False].cpu_s:.2f}x of CPU")


if __name__ == "__main__":
    main()
