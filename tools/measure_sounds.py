"""Measures sounds by example: ten kinds of synthesised sounds, five clips of each, in films with other sounds.

    python tools/measure_sounds.py sounds      # the folder of tools/build_sounds.py

60 films of 40 s have speech, music and other sounds behind up to three events of 2 to 5 s, from 4 dB softer to 26 dB
louder. Nothing of the films was trained on. Average precision is the mean over kinds, of films by their best
window, and of windows of 2 s: those that an event fills by half count, those that it only touches are left out.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from build_sounds import SIZE, Audio, Mixer, Sources
from harness import average_precision, print_json
from jaxtyping import Float, Float32

from vidret.channels.sounds.channel import UsualWindows, rate_windows
from vidret.channels.sounds.reading import SoundReader
from vidret.channels.speech import SAMPLE_RATE
from vidret.types import SoundWindows

NUM_FILMS, FILM_STRETCHES, NUM_EXAMPLES, EXAMPLE_S = 60, 4, 5, 3.0
Synthesise = Callable[[Random, np.random.Generator, np.ndarray], Any]


def decay(times: np.ndarray, starts: list[float], seconds: float) -> Any:
    """Return a decay from each start on, cut off at the next."""
    places = np.searchsorted(starts, times, side="right") - 1
    since = times - np.array([*starts, np.inf])[places]
    return np.where(places >= 0, np.exp(-since / seconds), 0.0)


def _bark(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    starts = list(np.cumsum(rng.uniform(0.25, 0.6, 20)) - 0.2)
    since = np.log(1 / decay(times, starts, 1.0).clip(1e-9))
    pitch = random.uniform(300, 700) * (1 + 0.5 * np.exp(-since / 0.05))
    voice = np.sign(np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE)) + 0.5 * rng.standard_normal(len(times))
    return voice * np.exp(-((since - 0.06) ** 2) / 0.004)


def _bell(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    base, every = random.uniform(400, 1300), random.uniform(0.6, 1.5)
    starts = list(np.arange(0, times[-1], every))
    partials = [(1.0, 1.0), (2.0, 0.6), (2.42, 0.5), (3.0, 0.3), (4.51, 0.2)]
    return sum(
        weight * np.sin(2 * np.pi * base * ratio * times) * decay(times, starts, 0.7 / ratio)
        for ratio, weight in partials
    )


def _whistle(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    glide = random.uniform(1000, 2600) * (1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.3, 1.2) * times))
    tone = np.sin(2 * np.pi * np.cumsum(glide + 30 * np.sin(2 * np.pi * 5 * times)) / SAMPLE_RATE)
    return (tone + 0.05 * rng.standard_normal(len(times))) * (times % random.uniform(0.7, 1.4) > 0.15)


def _siren(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    speed = random.uniform(700, 1000) + random.uniform(200, 400) * np.sin(2 * np.pi * random.uniform(0.3, 2) * times)
    phase = 2 * np.pi * np.cumsum(speed) / SAMPLE_RATE
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)


def _rain(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    drops = (rng.random(len(times)) < random.uniform(0.002, 0.02)) * rng.standard_normal(len(times)) * 6
    return np.diff(rng.standard_normal(len(times)), prepend=0) + np.convolve(drops, np.exp(-np.arange(60) / 12), "same")


def _engine(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    speed = random.uniform(25, 80) * (1 + 0.1 * np.sin(2 * np.pi * random.uniform(0.1, 0.4) * times))
    phase = 2 * np.pi * np.cumsum(speed + 2 * rng.standard_normal(len(times))) / SAMPLE_RATE
    return sum(np.sin(h * phase + h * h) / h**0.6 for h in range(1, 20)) + 0.3 * rng.standard_normal(len(times))


def _clock(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    every, pitch = random.uniform(0.25, 0.5), random.uniform(1500, 3500)
    starts = list(np.arange(0.05, times[-1], every))
    return np.sin(2 * np.pi * pitch * times) * decay(times, starts, 0.008) + 0.6 * rng.standard_normal(
        len(times)
    ) * decay(times, starts, 0.002)


def _knock(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    every, pitch = random.uniform(0.18, 0.3), random.uniform(120, 280)
    starts = [start for start in np.arange(0, times[-1], every) if start % (6 * every) < 3.5 * every]
    return np.sin(2 * np.pi * pitch * times) * decay(times, starts, 0.03) + 0.4 * rng.standard_normal(
        len(times)
    ) * decay(times, starts, 0.006)


def _phone(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    low, rate = random.uniform(900, 1400), random.uniform(15, 25)
    tone = np.where(np.sin(2 * np.pi * rate * times) > 0, low, 1.25 * low)
    return np.sign(np.sin(2 * np.pi * np.cumsum(tone) / SAMPLE_RATE)) * (times % 1.5 < 1.0)


def _applause(random: Random, rng: np.random.Generator, times: np.ndarray) -> Any:
    claps = (rng.random(len(times)) < random.uniform(30, 90) / SAMPLE_RATE) * rng.uniform(0.3, 1, len(times))
    shape = rng.standard_normal(400) * np.exp(-np.arange(400) / 60)
    return np.convolve(claps, shape, "same") + 0.02 * rng.standard_normal(len(times))


KINDS: dict[str, Synthesise] = {
    synthesise.__name__[1:]: synthesise
    for synthesise in (_bark, _bell, _whistle, _siren, _rain, _engine, _clock, _knock, _phone, _applause)
}


def make_event(kind: str, seconds: float, random: Random, rng: np.random.Generator) -> Audio:
    """Return a sound of a kind with a root mean square of 1."""
    audio = KINDS[kind](random, rng, np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    event: Audio = (audio / np.sqrt((audio**2).mean())).astype(np.float32)
    return event


def listen(audio: Audio) -> SoundWindows:
    """Return the windows of audio as indexing makes them."""
    reader = SoundReader()
    reader.read(audio)
    return reader.finish_windows()


class Films:
    """Windows of films with the events in them, and examples of each kind."""

    def __init__(self, root: Path, seed: int) -> None:
        random, rng = Random(seed), np.random.default_rng(seed)
        mixer, kinds = Mixer(Sources.find(root, "test"), seed), list(KINDS)
        self.windows: list[SoundWindows] = []
        self.events: list[list[tuple[str, float, float]]] = []
        for _ in range(NUM_FILMS):
            level = random.uniform(-32, -14)
            audio = np.concatenate(
                [mixer._make(random.choice("smo"), level - random.uniform(0, 22)) for _ in range(FILM_STRETCHES)]
            )
            events = []
            for place in range(random.randrange(4)):
                kind, seconds, start_s = random.choice(kinds), random.uniform(2, 5), 13 * place + random.uniform(0.5, 7)
                own = make_event(kind, seconds, random, rng) * np.float32(10 ** ((level + random.uniform(-4, 4)) / 20))
                at = round(start_s * SAMPLE_RATE)
                own = own[: FILM_STRETCHES * SIZE - at]
                audio[at : at + len(own)] += own
                events.append((kind, start_s, start_s + len(own) / SAMPLE_RATE))
            self.windows.append(listen(audio.clip(-1, 1)))
            self.events.append(events)
        self.examples = {kind: [self._make_example(kind, random, rng) for _ in range(NUM_EXAMPLES)] for kind in kinds}

    def _make_example(self, kind: str, random: Random, rng: np.random.Generator) -> Float32[np.ndarray, " dim"]:
        own = make_event(kind, EXAMPLE_S, random, rng) * np.float32(10 ** (random.uniform(-30, -14) / 20))
        noise = rng.standard_normal(len(own)).astype(np.float32) * np.float32(10 ** (-65 / 20))
        mean = listen((own + noise).clip(-1, 1)).vectors.astype(np.float32).mean(axis=0)
        unit: Float32[np.ndarray, " dim"] = mean / np.linalg.norm(mean)
        return unit

    def find_overlaps(self, kind: str, film: int) -> Float[np.ndarray, " window"]:
        """Return how many seconds of each window of a film an event of a kind fills."""
        windows = self.windows[film]
        spans = [(start, end) for own, start, end in self.events[film] if own == kind]
        overlaps = [(np.minimum(windows.ends, end) - np.maximum(windows.starts, start)).clip(0) for start, end in spans]
        total: Float[np.ndarray, " window"] = np.sum([np.zeros(len(windows)), *overlaps], axis=0)
        return total


def rate(films: Films, kind: str) -> list[Float[np.ndarray, " window"]]:
    """Return the evidence of each window of each film, as searches have it."""
    vectors = np.concatenate([own.vectors for own in films.windows]).astype(np.float32)
    evidence = rate_windows(vectors, np.stack(films.examples[kind]), UsualWindows.of(vectors))
    return np.split(evidence, np.cumsum([len(own) for own in films.windows])[:-1])


def measure(
    films: Films, rate_kind: Callable[[Films, str], list[Float[np.ndarray, " window"]]]
) -> dict[str, dict[str, float]]:
    """Return the average precision of films and of windows in percent, by kind and on average."""
    by_film, by_window = dict[str, float](), dict[str, float]()
    for kind in KINDS:
        rated = rate_kind(films, kind)
        overlaps = [films.find_overlaps(kind, film) for film in range(NUM_FILMS)]
        best = np.array([own.max(initial=-np.inf) for own in rated])
        has_kind = np.array([any(own == kind for own, *_ in events) for events in films.events])
        by_film[kind] = 100 * average_precision(best, has_kind)
        seconds, scores = np.concatenate(overlaps), np.concatenate(rated)
        kept = (seconds == 0) | (seconds >= 1.0)
        by_window[kind] = 100 * average_precision(scores[kept], seconds[kept] > 0)
    results = {"films": by_film, "windows": by_window}
    return {name: {**own, "mean": float(np.mean(list(own.values())))} for name, own in results.items()}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder with a folder for each package")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    measured = measure(Films(options.root, options.seed), rate)
    print_json(measured)


if __name__ == "__main__":
    main()
