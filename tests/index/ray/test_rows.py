"""Rows between stages: values with bytes beside them, distributed so that no task gets all the large ones."""

import numpy as np
import pytest

from vidret.types import Frames
from vidret.video.sampling import SampledFrames

pytest.importorskip("ray")
rows = pytest.importorskip("vidret.index.ray.rows")


def test_frames_are_unpacked_as_they_were_packed_without_a_copy() -> None:
    rng = np.random.default_rng(0)
    frames = Frames(rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8), np.array([0.0, 0.5, 1.0]), "a frame is lost")
    sampled = SampledFrames(frames, np.array([0.0, 0.5, 0.75, 1.0]), np.array([0, 1, 1, 2]))
    table = rows.to_table([("first", b"12345"), rows.DecodedRow.pack(None, sampled)])
    [(row, pixels)] = rows.read_rows(table.slice(1))
    repeated = row.unpack(pixels)
    assert np.array_equal(repeated.times, sampled.times)
    assert np.array_equal(repeated.rows, sampled.rows)
    unpacked = repeated.pictures
    assert np.array_equal(unpacked.pixels, frames.pixels)
    assert np.array_equal(unpacked.times, frames.times)
    assert unpacked.salvaged == frames.salvaged
    assert unpacked.pixels.__array_interface__["data"][0] == table["payload"].chunk(0).buffers()[2].address + 5


def test_a_path_that_is_not_utf_8_is_kept() -> None:
    [(task, payload)] = rows.read_rows(rows.to_table([(rows.FingerprintTask(3, "films/\udce9.mp4"), b"")]))
    assert (task, bytes(payload)) == (rows.FingerprintTask(3, "films/\udce9.mp4"), b"")
    assert list(rows.read_rows(rows.to_table([]))) == []


@pytest.mark.parametrize(("num", "num_tables"), [(10, 3), (3, 3), (2, 5)])
def test_values_are_distributed_in_turn(num: int, num_tables: int) -> None:
    shares = [[value for value, _ in rows.read_rows(table)] for table in rows.distribute(list(range(num)), num_tables)]
    assert shares == [list(range(start, num, num_tables)) for start in range(min(num, num_tables))]
