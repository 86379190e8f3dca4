"""Frames do not depend on how many threads decode them, whatever the file."""

from pathlib import Path

import numpy as np
import pytest

from tests.video.conftest import NAMES, Film
from tests.video.films import write_scenes
from vidret.video.decoders.base import SAMPLING_MODES, SamplingMode
from vidret.video.probe import probe
from vidret.video.reader import open_reader


def read(path: Path, num_threads: int, mode: SamplingMode = "exact", first: int = 0) -> list[tuple[int, bytes, bytes]]:
    """Return the index, the grey picture and the image of every frame."""
    with open_reader(probe(path), for_streaming=True, mode=mode, num_threads=num_threads) as reader:
        images = ((frame, frame.read_image()) for frame in reader.stream(first))
        return [
            (frame.index, frame.grey.tobytes(), b"" if image is None else image.tobytes()) for frame, image in images
        ]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_film_reads_the_same(films: dict[str, Film], name: str) -> None:
    path = films[name].path
    assert read(path, 3) == read(path, 1)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
def test_every_mode_reads_the_same(films: dict[str, Film], mode: SamplingMode) -> None:
    path = films["h264.mp4"].path
    assert read(path, 4, mode, first=37) == read(path, 1, mode, first=37)


@pytest.mark.parametrize("mode", SAMPLING_MODES)
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_film_reads_the_same(tmp_path: Path, seed: int, mode: SamplingMode) -> None:
    """What FFmpeg shows in place of what it cannot decode depends on which frames are decoded already."""
    path = write_scenes(tmp_path / "damaged.mp4", [60, 60, 60], options={"g": "30", "bf": "2"})
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    sound = read(path, 1, mode)
    for position in rng.integers(len(content) // 3, len(content) * 3 // 4, 12):
        content[position] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    damaged = read(path, 1, mode)
    assert damaged != sound
    for num_threads in (2, 4):
        assert read(path, num_threads, mode) == damaged
