"""Train what hears in vidret/channels/sounds/, and measure it on other sources.

    mkdir sounds && cd sounds && apt-get download PACKAGES && for deb in *.deb; do dpkg -x $deb ${deb%%_*}; done
    python tools/build_sounds.py sounds              # fits, writes the weights, and measures
    python tools/build_sounds.py sounds --measure    # measures the weights that are there
    python tools/build_sounds.py sounds --choose     # fits labels to fewer packages, and measures those on others

PACKAGES of Debian, whose licences their copyright files state, are named below. Only numbers that were fitted to their
sounds are kept. Noise is synthesised. Speech, music and other sounds are cut into stretches of 10 s, by themselves, one
after the other, and mixed: what is fitted to and what is measured share no package. What is in a folder of music is
music, and nothing else is, except that packages without such folders have their music in compressed files above 400 kB.
Other compressed files of that size are left out, since they may have music.

Sounds by example are measured with ten kinds of synthesised sounds, five clips of each. 60 films of 40 s have speech,
music and other sounds behind up to three events of 2 to 5 s, from 4 dB softer to 26 dB louder. Average precision is the
mean over kinds, of films by their best window, and of windows of 2 s: those that an event fills by half count, those
that it only touches are left out.
"""

import functools
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from harness import make_parser, print_json
from jaxtyping import Float, Float32
from safetensors.numpy import save_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from vidret.align.gda import ranking_precision
from vidret.channels.sounds.channel import UsualWindows, rate_windows
from vidret.channels.sounds.encoder import (
    LABEL_WEIGHTS,
    LEARNT,
    NUM_LAYERS,
    STEP_S,
    WINDOW_S,
    WINDOW_STEPS,
    WINDOW_WEIGHTS,
    describe,
    describe_windows,
    load_sound_encoder,
    measure_levels,
    summarise_sound,
)
from vidret.channels.sounds.reading import CHUNK_S, HEARD, LABELS, SoundReader, score_chunk
from vidret.channels.speech import SAMPLE_RATE
from vidret.errors import DecodeError
from vidret.types import SoundWindows
from vidret.video.audio import read_audio

Audio = Float32[np.ndarray, " sample"]
MUSIC_FOLDERS = {"music", "musics", "tunes", "moh"}
MUSIC_BYTES = 400_000  # of a compressed file at least, in a package without such folders
MAX_PIECES = 9  # of 10 s, of a file
SIZE = round(CHUNK_S * SAMPLE_RATE)
STEPS = round(CHUNK_S / STEP_S)
MASKED_DB = 15.0  # below the total, from which it is not held against a label whether it is found
SPEECH = {
    "train": [*(f"asterisk-core-sounds-{language}-wav" for language in ("en", "es", "fr")), "klettres-data"],
    "choose": ["asterisk-core-sounds-it-wav", "asterisk-core-sounds-ru-wav", "ktuberling-data", "hedgewars-data"],
    "test": ["tuxpaint-stamps-default"],
}
MUSIC = {
    "train": [
        *("asterisk-moh-opsound-wav", "tuxmath-data", "lincity-ng-data", "ardentryst", "asc-music", "supertux-data"),
        *("marsshooter-data", "krank", "mu-cade-data", "tumiki-fighters-data", "parsec47-data", "gunroar-data"),
        *("torus-trooper-data", "enigma-data", "btanks-data", "wesnoth-1.18-music", "warzone2100-music"),
        *("hyperrogue-music", "trackballs-data", "warmux-data", "drascula-music", "noiz2sa-data", "wizznic-data"),
        *("amoebax-data", "planetblupi-music-ogg", "zaz-data", "scorched3d-data", "pathological", "lomiri-sounds"),
    ],
    "choose": ["hedgewars-data", "colobot-common-sounds", "starfighter-data", "flare-game"],
    "test": ["extremetuxracer-data", "singularity-music", "xmoto-data", "frozen-bubble-data"],
}
OTHERS = {
    "train": [
        *("lincity-ng-data", "ardentryst", "libreoffice-common", "supertux-data", "krank", "enigma-data"),
        *("wesnoth-1.18-data", "marsshooter-data", "btanks-data", "trackballs-data", "scorched3d-data"),
        *("cdogs-sdl-data", "hyperrogue-music", "pekka-kana-2-data", "bzflag-data"),
    ],
    "choose": ["hedgewars-data", "colobot-common-sounds", "starfighter-data", "teeworlds-data"],
    "test": ["tuxpaint-stamps-default", "extremetuxracer-data", "pingus-data"],
}
FEATURED = ("animals", "household", "vehicles", "naturalforces", "newyears")  # stamps that are heard, not described
EFFECTS = [
    *("lmms-common", "marsshooter-data", "btanks-data", "fillets-ng-data", "mu-cade-data", "gunroar-data"),
    *("tumiki-fighters-data", "torus-trooper-data", "parsec47-data", "tuxmath-data", "sound-theme-freedesktop"),
]
KINDS = ("s", "s", "m", "m", "o", "o", "sm", "so", "mo", "cut", "cut")  # what is heard: the loudest first
MIXED = ("sm", "sm", "sm", "ms", "so")  # of further stretches to fit to, since music hides behind speech
UNMUSICAL = ("o", "so", "o", "so", "mo")  # likewise, since effects pass for music
# Seeds of the draws to fit to, each of so many stretches.
DRAWN = 250
DRAWS = {"train": ((KINDS, range(3)), (MIXED, (50,)), (UNMUSICAL, (60,))), "choose": ((KINDS, (100,)),)}
EFFECT_SEEDS = range(11, 17)
MEASURED = {1: 480, 1234: 400}  # stretches of the draws that are measured, by their seed
EPOCHS, BATCH, TEMPERATURE = 6, 128, 0.1
NUM_FILMS, FILM_STRETCHES, NUM_EXAMPLES, EXAMPLE_S = 60, 4, 5, 3.0
Weights = dict[str, np.ndarray]


class Sources(NamedTuple):
    """The files of a split, by what is heard in them."""

    speech: list[Path]
    music: list[Path]
    others: list[Path]

    @classmethod
    def find(cls, root: Path, split: str) -> "Sources":
        """Return the files of the packages that were unpacked below a folder."""
        return cls(
            speech=[path for path in list_files(root, *SPEECH[split]) if is_speech(path)],
            music=[path for name in MUSIC[split] for path in find_music(root, name)],
            others=[path for name in OTHERS[split] for path in find_effects(root, name)],
        )


def is_speech(path: Path) -> bool:
    """Return whether a file of a package with speech is of it."""
    if "hedgewars" in path.parts:
        return "voices" in path.parts
    return "stamps" not in path.parts or "_desc" in path.name


def find_music(root: Path, package: str) -> list[Path]:
    """Return the files in folders of music; of a package without any, those that are compressed and large."""
    paths = list_files(root, package)
    music = [path for path in paths if {folder.lower() for folder in path.relative_to(root).parts[:-1]} & MUSIC_FOLDERS]
    return music or [path for path in paths if is_long(path)]


def find_effects(root: Path, package: str) -> list[Path]:
    """Return the files that are neither music nor speech, nor so long that they may have music."""
    music = {*find_music(root, package)}
    return [
        path
        for path in list_files(root, package)
        if path not in music
        and not is_long(path)
        and "voices" not in path.parts
        and ("stamps" not in path.parts or ({*FEATURED} & {*path.parts} and "_desc" not in path.name))
    ]


def is_long(path: Path) -> bool:
    """Return whether a file is compressed and large."""
    return path.suffix != ".wav" and path.stat().st_size > MUSIC_BYTES


def list_files(root: Path, *packages: str) -> list[Path]:
    """Return the files of packages that may be heard."""
    suffixes = (".wav", ".ogg", ".oga", ".opus", ".mp3", ".flac", ".wv")
    return sorted(path for name in packages for path in (root / name).rglob("*") if path.suffix in suffixes)


@functools.cache
def load(path: Path) -> Audio:
    """Return the first minutes of a file, mono at 16 kHz; nothing of one that cannot be read."""
    try:
        return np.concatenate([samples for _, samples in islice(read_audio(str(path), SAMPLE_RATE), MAX_PIECES)])
    except DecodeError:
        return np.zeros(0, np.float32)


class Mixer:
    """Draws stretches of 10 s with what is heard in each half second of them."""

    def __init__(self, sources: Sources, seed: int) -> None:
        self._sources, self._random, self._numpy = sources, Random(seed), np.random.default_rng(seed)

    def draw(self, kinds: Sequence[str] = KINDS) -> tuple[Audio, Float[np.ndarray, "step label"]]:
        """Return a stretch and, for each of ``LEARNT``, 1 where it is heard, 0 where not, NaN where nobody can tell."""
        kind = self._random.choice(kinds)
        level = self._random.uniform(-42, -12)
        if kind == "cut":
            before, after = self._random.sample("smo", 2)
            at = self._random.randrange(4, STEPS - 4) * SIZE // STEPS
            parts = [(part, self.make(part, level)) for part in (before, after)]
            parts[0][1][at:] = 0.0
            parts[1][1][:at] = 0.0
        else:
            below = [0.0 if index == 0 else self._random.uniform(0, 12) for index in range(len(kind))]
            parts = [(part, self.make(part, level - less)) for part, less in zip(kind, below, strict=True)]
        audio = sum((samples for _, samples in parts), np.zeros(SIZE, np.float32))
        audio = audio + self._numpy.standard_normal(SIZE) * 10 ** (self._random.uniform(-95, -68) / 20)
        return audio.clip(-1, 1).astype(np.float32), self._label(audio, parts)

    def _label(self, audio: Audio, parts: Sequence[tuple[str, Audio]]) -> Float[np.ndarray, "step label"]:
        total = measure_levels(audio, step_s=STEP_S)
        labels = np.zeros((STEPS, len(LEARNT)))
        for part, samples in parts:
            if part == "o":
                continue
            column = LEARNT.index("music" if part == "m" else "speech")
            levels = measure_levels(samples, step_s=STEP_S)
            near = np.lib.stride_tricks.sliding_window_view(np.pad(levels, 2, constant_values=-120.0), 5).max(axis=1)
            heard, hidden = levels > max(-60.0, levels.max() - 25), near > -70.0
            labels[:, column] = np.where(heard, 1.0, np.where(hidden, np.nan, 0.0))
            labels[heard & (levels < total - MASKED_DB), column] = np.nan
        return labels

    def draw_effects(self, effects: Sequence[Path]) -> tuple[Audio, list[tuple[int, float]]]:
        """Return a stretch with effects, and the index and the start of each in seconds."""
        level, choice = self._random.uniform(-32, -14), self._random.random()
        if choice < 0.25:
            audio = self._numpy.standard_normal(SIZE).astype(np.float32) * to_gain(-70)
        else:
            part = self._random.choice("smo" if choice < 0.9 else "s")
            audio = self.make(part, level - self._random.uniform(0, 22))
        events = []
        for place in range(3):
            effect, duration_s = self._random.randrange(len(effects)), self._random.uniform(1.6, 2.6)
            effect_audio = self._play_effect(load(effects[effect]), round(SAMPLE_RATE * duration_s))
            start_s = 0.4 + 3.2 * place + self._random.uniform(0, 0.4)
            if effect_audio is not None:
                at = round(SAMPLE_RATE * start_s)
                effect_audio = effect_audio[: SIZE - at] * to_gain(level + self._random.uniform(-4, 4))
                audio[at : at + len(effect_audio)] += effect_audio
                middle_s = start_s + (duration_s - WINDOW_S) / 2 + self._random.uniform(-0.4, 0.4)
                events.append((effect, max(0.0, middle_s)))
        return audio.clip(-1, 1), events

    def _play_effect(self, audio: Audio, size: int) -> Audio | None:
        """Return an effect, again and again, at another speed and with another tilt; None for silence."""
        if len(audio) < SAMPLE_RATE // 20 or not audio.any():
            return None
        loud = np.flatnonzero(np.abs(audio) > 0.02 * np.abs(audio).max())
        audio = audio[loud[0] : loud[-1] + 1]
        places = np.arange(0, max(len(audio) - 1, 1), self._random.uniform(0.85, 1.18))
        audio = np.interp(places, np.arange(len(audio)), audio).astype(np.float32)
        if len(audio) < size:
            pause = np.zeros(round(SAMPLE_RATE * self._random.uniform(0, 0.3)), np.float32)
            audio = np.tile(np.concatenate([audio, pause]), -(-size // (len(audio) + len(pause))))
        start = self._random.randrange(len(audio) - size + 1)
        audio = audio[start : start + size]
        audio = audio + np.float32(self._random.uniform(-0.5, 0.5)) * np.concatenate([audio[:1] * 0, audio[:-1]])
        return audio / np.float32(np.sqrt((audio**2).mean()) + 1e-9)

    def make(self, part: str, level_dbfs: float) -> Audio:
        """Return a stretch of speech, of music, or of other sounds, at a level."""
        if part == "s":
            audio = self._string_together(self._sources.speech, pause_s=(0.05, 0.4))
        elif part == "m":
            while not len(audio := load(self._random.choice(self._sources.music))):
                pass
            audio = self._cut(audio)
        elif self._random.random() < 0.5:
            audio = make_noise(self._random, self._numpy)
        else:
            audio = self._string_together(self._sources.others, pause_s=(0.0, 1.0))
        return audio * np.float32(10 ** (level_dbfs / 20) / (math.sqrt(float((audio**2).mean())) + 1e-9))

    def _string_together(self, paths: Sequence[Path], pause_s: tuple[float, float]) -> Audio:
        pieces, length = list[Audio](), 0.0
        while length < SIZE:
            audio = load(self._random.choice(paths))[: 8 * SAMPLE_RATE]
            if len(audio) > SAMPLE_RATE // 10:
                pieces += [audio, np.zeros(round(SAMPLE_RATE * self._random.uniform(*pause_s)), np.float32)]
                length += len(audio) + len(pieces[-1])
        return self._cut(np.concatenate(pieces))

    def _cut(self, audio: Audio) -> Audio:
        audio = np.tile(audio, -(-SIZE // len(audio)))
        start = self._random.randrange(len(audio) - SIZE + 1)
        return audio[start : start + SIZE].copy()


def to_gain(level_db: float) -> np.float32:
    """Return the factor of a level."""
    return np.float32(10 ** (level_db / 20))


NOISES = ("white", "pink", "brown", "hum", "wind", "rain", "crackle", "engine", "clicks", "beeps", "siren")


def make_noise(random: Random, rng: np.random.Generator) -> Audio:
    """Return a noise of any kind, with drawn parameters."""
    kind, times, white = random.choice(NOISES), np.arange(SIZE) / SAMPLE_RATE, rng.standard_normal(SIZE)
    frequencies = np.fft.rfftfreq(SIZE, 1 / SAMPLE_RATE).clip(20)
    pink, brown = (np.fft.irfft(np.fft.rfft(white) / frequencies**power, SIZE) for power in (0.5, 1.0))
    pink, brown = pink / pink.std(), brown / brown.std()
    match kind:
        case "pink":
            noise = pink
        case "brown":
            noise = brown
        case "hum":
            base = random.choice([50, 60, 100, 120])
            noise = sum(np.sin(2 * np.pi * base * h * times + h) / h for h in range(1, 8)) + 0.1 * white
        case "wind":
            noise = brown * (1 + 0.8 * np.sin(2 * np.pi * random.uniform(0.1, 0.5) * times + random.uniform(0, 6)))
        case "rain":
            noise = np.diff(white, prepend=0) * (0.5 + 0.5 * rng.random(SIZE))
        case "crackle":
            noise = (rng.random(SIZE) < random.uniform(0.0005, 0.01)) * white * 5 + 0.05 * pink
        case "engine":
            speed = random.uniform(20, 90) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.05, 0.4) * times))
            phase = turn(speed)
            noise = sum(np.sin(h * phase + h * h) / h**0.7 for h in range(1, 12)) + 0.3 * pink
        case "clicks":
            noise, period = 0.01 * white, round(SAMPLE_RATE * random.uniform(0.15, 1.2))
            for start in range(random.randrange(period), SIZE - 800, period):
                noise[start : start + 800] += white[start : start + 800] * np.exp(-np.arange(800) / 100)
        case "beeps":
            beat_s = random.uniform(0.3, 1.5)
            tone = np.sin(2 * np.pi * random.uniform(400, 3000) * times)
            noise = tone * (times % beat_s < beat_s * random.uniform(0.2, 0.6)) + 0.01 * white
        case "siren":
            sweep = np.sin(2 * np.pi * random.uniform(0.2, 4) * times)
            speed = random.uniform(500, 1000) + random.uniform(100, 400) * sweep
            noise = np.sin(turn(speed)) + 0.02 * white
        case _:
            noise = white
    return np.asarray(noise, np.float32)


def draw_labels(root: Path, splits: Sequence[str]) -> tuple[Float32[np.ndarray, "step feature"], Any]:
    """Return the features of the half seconds of drawn stretches, and their labels."""
    features, labels = list[Float32[np.ndarray, "step feature"]](), list[Float[np.ndarray, "step label"]]()
    for split in splits:
        sources = Sources.find(root, split)
        for kinds, seeds in DRAWS[split]:
            for mixer in (Mixer(sources, seed) for seed in seeds):
                for audio, heard in (mixer.draw(kinds) for _ in range(DRAWN)):
                    features.append(describe(summarise_sound(load_sound_encoder().encode(audio))))
                    labels.append(heard)
    return np.concatenate(features), np.concatenate(labels)


def fit_labels(features: Float32[np.ndarray, "step feature"], labels: Float[np.ndarray, "step label"]) -> Weights:
    """Return a network with one hidden layer that tells labels; NaN are not held against it."""
    inputs, mean, deviation = standardise(features)
    targets = torch.from_numpy(labels).float()
    known = ~torch.isnan(targets)
    network = make_network(inputs.shape[1], 32, len(LEARNT))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(inputs)), 256):
            is_known = known[rows]
            loss = binary_cross_entropy_with_logits(network(inputs[rows])[is_known], targets[rows][is_known])
            step(optimizer, loss)
    return export(network, mean, deviation)


def draw_effects(sources: Sources, effects: Sequence[Path]) -> tuple[Float32[np.ndarray, "event feature"], list[Path]]:
    """Return the features of drawn effects over other sounds, and of which file each is.

    Each stretch of 10 s has up to three, each louder or hardly louder than what goes on behind them.
    """
    features, owners = list[Float32[np.ndarray, " feature"]](), list[Path]()
    for mixer in (Mixer(sources, seed) for seed in EFFECT_SEEDS):
        for audio, events in (mixer.draw_effects(effects) for _ in range(DRAWN)):
            steps = summarise_sound(load_sound_encoder().encode(audio))
            for effect, start_s in events:
                first = min(round(start_s / STEP_S), STEPS - WINDOW_STEPS)
                features.append(describe_windows(steps[first : first + WINDOW_STEPS])[0])
                owners.append(effects[effect])
    return np.array(features), owners


def fit_windows(features: Float32[np.ndarray, "event feature"], owners: Sequence[Path]) -> Weights:
    """Return a network whose outputs for a sound over other sounds are near one another, by InfoNCE."""
    inputs, mean, deviation = standardise(features)
    by_effect: dict[Path, list[int]] = {}
    for row, effect in enumerate(owners):
        by_effect.setdefault(effect, []).append(row)
    several = [rows for rows in by_effect.values() if len(rows) > 1]
    network, rng = make_network(inputs.shape[1], 256, 128), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.02)
    for _ in range(61):
        order = rng.permutation(len(several))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            pairs = np.array([rng.choice(several[effect], 2, replace=False) for effect in order[first : first + BATCH]])
            one, other = (normalize(network(inputs[column]), dim=1) for column in pairs.T)
            logits, answers = one @ other.T / TEMPERATURE, torch.arange(len(pairs))
            step(optimizer, (cross_entropy(logits, answers) + cross_entropy(logits.T, answers)) / 2)
    weights = export(network, mean, deviation)
    del weights["output_bias"]  # the mean of an index is taken from vectors anyway
    return weights


def standardise(rows: Float32[np.ndarray, "row feature"]) -> tuple[torch.Tensor, Any, Any]:
    """Return rows with the mean 0 and the deviation 1, and what these were."""
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    return torch.from_numpy((rows - mean) / deviation), mean, deviation


def make_network(num_inputs: int, num_hidden: int, num_outputs: int) -> torch.nn.Sequential:
    """Return an untrained network."""
    torch.manual_seed(0)
    hidden, output = torch.nn.Linear(num_inputs, num_hidden), torch.nn.Linear(num_hidden, num_outputs)
    return torch.nn.Sequential(torch.nn.Dropout(0.2), hidden, torch.nn.ReLU(), torch.nn.Dropout(0.2), output)


def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Lower a loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def export(network: torch.nn.Sequential, mean: Any, deviation: Any) -> Weights:
    """Return the weights of a network as they are stored."""
    names = ("hidden", "hidden_bias", "output", "output_bias")
    half = {
        name: weight.detach().numpy().astype(np.float16)
        for name, weight in zip(names, network.parameters(), strict=True)
    }
    return {"mean": mean, "deviation": deviation, **half}


def measure_labels(mixer: Mixer, number: int) -> dict[str, dict[str, float]]:
    """Return precision, recall and F1 of the half seconds of drawn stretches, by label."""
    counts = {label: np.zeros(3) for label in LEARNT}  # right, found, there
    for _ in range(number):
        audio, heard = mixer.draw()
        found = score_chunk(audio)[0] > HEARD
        for column, label in enumerate(LEARNT):
            is_known, is_found = ~np.isnan(heard[:, column]), found[:, LABELS.index(label)]
            is_there = heard[:, column] == 1
            counts[label] += (is_found & is_there)[is_known].sum(), is_found[is_known].sum(), is_there[is_known].sum()
    return {
        label: {name: round(value, 4) for name, value in shares.items()}
        for label, (right, found, there) in counts.items()
        for shares in [{"precision": right / found, "recall": right / there, "F1": 2 * right / (found + there)}]
    }


def turn(frequency: Any) -> Any:
    """Return the phase of a frequency that changes."""
    return 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE


# Sounds by example


def decay(times: np.ndarray, starts: Sequence[float] | np.ndarray, seconds: float) -> Any:
    """Return a decay from each start on, cut off at the next."""
    places = np.searchsorted(starts, times, side="right") - 1
    since = times - np.array([*starts, np.inf])[places]
    return np.where(places >= 0, np.exp(-since / seconds), 0.0)


EVENTS = ("bark", "bell", "whistle", "siren", "rain", "engine", "clock", "knock", "phone", "applause")


def synthesise(kind: str, random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    """Return a sound of a kind, with drawn parameters, at any level."""

    def noise(size: int = len(times)) -> np.ndarray:
        return rng.standard_normal(size)

    match kind:
        case "bark":
            starts = np.cumsum(rng.uniform(0.25, 0.6, 20)) - 0.2
            since = np.log(1 / decay(times, starts, 1.0).clip(1e-9))
            pitch = random.uniform(300, 700) * (1 + 0.5 * np.exp(-since / 0.05))
            return (np.sign(np.sin(turn(pitch))) + 0.5 * noise()) * np.exp(-((since - 0.06) ** 2) / 0.004)
        case "bell":
            base, every = random.uniform(400, 1300), random.uniform(0.6, 1.5)
            starts = np.arange(0, times[-1], every)
            return sum(
                weight * np.sin(2 * np.pi * base * ratio * times) * decay(times, starts, 0.7 / ratio)
                for ratio, weight in [(1.0, 1.0), (2.0, 0.6), (2.42, 0.5), (3.0, 0.3), (4.51, 0.2)]
            )
        case "whistle":
            glide = random.uniform(1000, 2600) * (1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.3, 1.2) * times))
            tone = np.sin(turn(glide + 30 * np.sin(2 * np.pi * 5 * times)))
            return (tone + 0.05 * noise()) * (times % random.uniform(0.7, 1.4) > 0.15)
        case "siren":
            middle, depth = random.uniform(700, 1000), random.uniform(200, 400)
            phase = turn(middle + depth * np.sin(2 * np.pi * random.uniform(0.3, 2) * times))
            return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)
        case "rain":
            drops = (rng.random(len(times)) < random.uniform(0.002, 0.02)) * noise() * 6
            return np.diff(noise(), prepend=0) + np.convolve(drops, np.exp(-np.arange(60) / 12), "same")
        case "engine":
            speed = random.uniform(25, 80) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.1, 0.4) * times))
            phase = turn(speed + 2 * noise())
            return sum(np.sin(h * phase + h * h) / h**0.6 for h in range(1, 20)) + 0.3 * noise()
        case "clock":
            every, pitch = random.uniform(0.25, 0.5), random.uniform(1500, 3500)
            starts = np.arange(0.05, times[-1], every)
            tick = np.sin(2 * np.pi * pitch * times) * decay(times, starts, 0.008)
            return tick + 0.6 * noise() * decay(times, starts, 0.002)
        case "knock":
            every, pitch = random.uniform(0.18, 0.3), random.uniform(120, 280)
            starts = np.array([t for t in np.arange(0, times[-1], every) if t % (6 * every) < 3.5 * every])
            knock = np.sin(2 * np.pi * pitch * times) * decay(times, starts, 0.03)
            return knock + 0.4 * noise() * decay(times, starts, 0.006)
        case "phone":
            low, rate = random.uniform(900, 1400), random.uniform(15, 25)
            tone = np.where(np.sin(2 * np.pi * rate * times) > 0, low, 1.25 * low)
            return np.sign(np.sin(turn(tone))) * (times % 1.5 < 1.0)
        case _:
            claps = (rng.random(len(times)) < random.uniform(30, 90) / SAMPLE_RATE) * rng.uniform(0.3, 1, len(times))
            return np.convolve(claps, noise(400) * np.exp(-np.arange(400) / 60), "same") + 0.02 * noise()


def make_event(kind: str, seconds: float, random: Random, rng: np.random.Generator) -> Audio:
    """Return a sound of a kind with a root mean square of 1."""
    audio = synthesise(kind, random, rng, np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    event: Audio = (audio / np.sqrt((audio**2).mean())).astype(np.float32)
    return event


def listen(audio: Audio) -> SoundWindows:
    """Return the windows of audio as indexing makes them."""
    reader = SoundReader()
    reader.read(audio)
    return reader.finish_windows()


class Films:
    """Windows of films with the events in them, and examples of each kind."""

    def __init__(self, sources: Sources, seed: int) -> None:
        random, rng, mixer = Random(seed), np.random.default_rng(seed), Mixer(sources, seed)
        self.windows: list[SoundWindows] = []
        self.events: list[list[tuple[str, float, float]]] = []
        for _ in range(NUM_FILMS):
            level = random.uniform(-32, -14)
            audio = np.concatenate(
                [mixer.make(random.choice("smo"), level - random.uniform(0, 22)) for _ in range(FILM_STRETCHES)]
            )
            events = []
            for place in range(random.randrange(4)):
                kind, seconds = random.choice(EVENTS), random.uniform(2, 5)
                start_s = 13 * place + random.uniform(0.5, 7)
                event_audio = make_event(kind, seconds, random, rng) * to_gain(level + random.uniform(-4, 4))
                at = round(start_s * SAMPLE_RATE)
                event_audio = event_audio[: FILM_STRETCHES * SIZE - at]
                audio[at : at + len(event_audio)] += event_audio
                events.append((kind, start_s, start_s + len(event_audio) / SAMPLE_RATE))
            self.windows.append(listen(audio.clip(-1, 1)))
            self.events.append(events)
        self.examples = {kind: [self._make_example(kind, random, rng) for _ in range(NUM_EXAMPLES)] for kind in EVENTS}

    def _make_example(self, kind: str, random: Random, rng: np.random.Generator) -> Float32[np.ndarray, " dim"]:
        event_audio = make_event(kind, EXAMPLE_S, random, rng) * to_gain(random.uniform(-30, -14))
        noise = rng.standard_normal(len(event_audio)).astype(np.float32) * to_gain(-65)
        mean = listen((event_audio + noise).clip(-1, 1)).vectors.astype(np.float32).mean(axis=0)
        unit: Float32[np.ndarray, " dim"] = mean / np.linalg.norm(mean)
        return unit

    def find_overlaps(self, kind: str, film: int) -> Float[np.ndarray, " window"]:
        """Return how many seconds of each window of a film an event of a kind fills."""
        windows = self.windows[film]
        spans = [(start, end) for event_kind, start, end in self.events[film] if event_kind == kind]
        overlaps = [(np.minimum(windows.ends, end) - np.maximum(windows.starts, start)).clip(0) for start, end in spans]
        total: Float[np.ndarray, " window"] = np.sum([np.zeros(len(windows)), *overlaps], axis=0)
        return total


def measure_examples(films: Films) -> dict[str, dict[str, float]]:
    """Return the average precision of films and of windows in percent, by kind and on average."""
    vectors = np.concatenate([film_windows.vectors for film_windows in films.windows]).astype(np.float32)
    usual, edges = UsualWindows.of(vectors), np.cumsum([len(film_windows) for film_windows in films.windows])[:-1]
    by_film, by_window = dict[str, float](), dict[str, float]()
    for kind in EVENTS:
        scores = rate_windows(vectors, np.stack(films.examples[kind]), usual)  # as searches have it
        best = np.array([film_scores.max(initial=-np.inf) for film_scores in np.split(scores, edges)])
        has_kind = np.array([any(event_kind == kind for event_kind, *_ in events) for events in films.events])
        by_film[kind] = 100 * ranking_precision(best, has_kind)
        seconds = np.concatenate([films.find_overlaps(kind, film) for film in range(NUM_FILMS)])
        kept = (seconds == 0) | (seconds >= 1.0)
        by_window[kind] = 100 * ranking_precision(scores[kept], seconds[kept] > 0)
    results = {"films": by_film, "windows": by_window}
    return {
        name: {**precisions, "mean": float(np.mean(list(precisions.values())))} for name, precisions in results.items()
    }


def main() -> None:
    """Fit and measure."""
    parser = make_parser(__doc__, "root", measure=False, choose=False)
    given = parser.parse_args()
    splits = ("train",) if given.choose else ("train", "choose")
    packages = [*(name for split in splits for names in (SPEECH, MUSIC, OTHERS) for name in names[split]), *EFFECTS]
    provenance = {
        "tool": "tools/build_sounds.py",
        "features": f"Whisper tiny.en, layer {NUM_LAYERS}",
        "packages": " ".join(dict.fromkeys(packages)),
    }
    if not given.measure:
        save_file(fit_labels(*draw_labels(given.root, splits)), LABEL_WEIGHTS, metadata=provenance)
    if given.choose:
        print_json({"labels": measure_labels(Mixer(Sources.find(given.root, "choose"), seed=100), DRAWN)})
        return
    if not given.measure:
        sources = Sources.find(given.root, "train")
        effects = [*sources.others, *(path for name in EFFECTS for path in find_effects(given.root, name))]
        save_file(fit_windows(*draw_effects(sources, effects)), WINDOW_WEIGHTS, metadata=provenance)
    sources = Sources.find(given.root, "test")
    labels = {seed: measure_labels(Mixer(sources, seed), num_stretches) for seed, num_stretches in MEASURED.items()}
    print_json({"labels": labels, "examples": [measure_examples(Films(sources, seed)) for seed in (1, 2)]})


if __name__ == "__main__":
    main()
