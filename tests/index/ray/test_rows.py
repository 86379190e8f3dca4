"""What travels between stages: values with bytes beside them, dealt so that no task gets all that is large."""

import numpy as np
import pytest

from vidret.types import Frames

pytestmark = pytest.mark.scale
pytest.importorskip("ray")
rows = pytest.importorskip("vidret.index.ray.rows")


def test_frames_come_out_as_they_went_in_without_a_copy() -> None:
    rng = np.random.default_rng(0)
    frames = Frames(rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8), np.array([0.0, 0.5, 1.0]), "a frame is lost")
    table = rows.to_table([("first", b"12345"), rows.Decoded.of(None, frames)])
    [(decoded, pixels)] = rows.read_rows(table.slice(1))
    found = decoded.frames(pixels)
    assert np.array_equal(found.pixels, frames.pixels)
    assert np.array_equal(found.times, frames.times)
    assert found.salvaged == frames.salvaged
    assert found.pixels.__array_interface__["data"][0] == table["payload"].chunk(0).buffers()[2].address + 5


def test_a_name_that_is_no_text_travels() -> None:
    [(look, beside)] = rows.read_rows(rows.to_table([(rows.FingerprintTask(3, "films/\udce9.mp4"), b"")]))
    assert (look, bytes(beside)) == (rows.FingerprintTask(3, "films/\udce9.mp4"), b"")
    assert list(rows.read_rows(rows.to_table([]))) == []


@pytest.mark.parametrize(("num", "num_tables"), [(10, 3), (3, 3), (2, 5)])
def test_values_are_dealt_like_cards(num: int, num_tables: int) -> None:
    hands = [[value for value, _ in rows.read_rows(table)] for table in rows.distribute(list(range(num)), num_tables)]
    assert hands == [list(range(start, num, num_tables)) for start in range(min(num, num_tables))]
