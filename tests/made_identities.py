"""Made tracks of faces and voices: people are points far apart, each of their tracks is near its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tests.indexed_texts import find_content
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.identities.tracks import IdentityModel, Track

DIM = 16
FACES = IdentityModel(kind="face", digest="faces-1", link_distance=0.5)
OTHER_FACES = IdentityModel(kind="face", digest="faces-2", link_distance=0.5)
VOICES = IdentityModel(kind="voice", digest="voices-1", link_distance=0.5)


def place_person(number: int) -> Float32[np.ndarray, " dim"]:
    """Return the vector of a person; those of two are at a distance of 1.4."""
    vector: Float32[np.ndarray, " dim"] = np.eye(DIM, dtype=np.float32)[number]
    return vector


def make_track(person: int, start_s: float, end_s: float, *, seed: int = 0, spread: float = 0.02) -> Track:
    """Return a track of a face that is near the vector of a person."""
    noise = np.random.default_rng((person, seed, int(start_s * 100))).normal(0, spread, DIM).astype(np.float32)
    times = np.arange(start_s, end_s + 0.01, 1.0, dtype=np.float32)
    boxes = np.column_stack([times, *np.repeat([[0.1 + person / 10], [0.2], [0.08], [0.2]], len(times), 1)])
    return Track(
        start_s=start_s,
        end_s=end_s,
        vector=place_person(person) + noise,
        quality=1.0 + person,
        thumbnail=b"\xff\xd8 a face %d at %d" % (person, int(start_s)),
        boxes=boxes.astype(np.float32),
    )


def make_voice(person: int, start_s: float, end_s: float, *, spread: float = 0.02) -> Track:
    """Return a track of a voice that is near the vector of a person."""
    return Track(start_s=start_s, end_s=end_s, vector=make_track(person, start_s, end_s, spread=spread).vector)


def make_tracks(people: Sequence[int], *, length_s: float = 2.0) -> list[Track]:
    """Return tracks of people who are seen one after another."""
    return [make_track(person, 3.0 * row, 3.0 * row + length_s) for row, person in enumerate(people)]


def store_people(index: Path, tracks: Mapping[str, Sequence[Track]], *names: str) -> None:
    """Store tracks of faces and voices in the films of these names, and name the persons whom they show."""
    with IdentityStore.create(index) as identities:
        for film, film_tracks in tracks.items():
            for model in (FACES, VOICES):
                chosen = [track for track in film_tracks if (track.boxes is None) == (model is VOICES)]
                identities.write_tracks(find_content(index, f"{film}.mp4"), model, chosen)
    persons = Persons(index)
    persons.group()
    for person_id, name in enumerate(names, start=1):
        persons.rename(person_id, name)
