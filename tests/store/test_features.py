"""Feature files: what is written can be read, and every damage is detected."""

from pathlib import Path

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.features import Bytes, Features, RowFile, Rows, feature_paths
from vidret.store.records import SegmentLocation

from .samples import damage

DIM = 4


def rows(seed: int, num: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, DIM)).astype(np.float16)


def packed(seed: int, num: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(seed).bytes(num), np.uint8).reshape(-1, 1)


def some_tokens(k: int) -> np.ndarray:
    """Return the tokens of segment k, of 5, 0, 13, 3, 0, 11, ... bytes."""
    return packed(k, (5, 0, 13, 3, 0, 11)[k % 6])


def append(features: Features, video: Rows, frames: Rows, tokens: Bytes) -> SegmentLocation:
    """Write one segment."""
    return features.append_all([(video, frames, tokens)])[0]


def filled(folder: Path, num: int) -> tuple[Features, list[SegmentLocation]]:
    features = Features(folder, DIM, 0, write=True)
    return features, [append(features, rows(k, 1), rows(k + 100, k % 3 + 1), some_tokens(k)) for k in range(num)]


def test_rows_are_read_as_written(tmp_path: Path) -> None:
    features, locations = filled(tmp_path, 9)
    reader = Features(tmp_path, DIM, 0)
    for opened in (features, reader):
        for k, location in enumerate(locations):
            np.testing.assert_array_equal(opened.read_video(location), rows(k, 1))
            np.testing.assert_array_equal(opened.read_frames(location), rows(k + 100, k % 3 + 1))
            tokens = opened.read_tokens(location)
            assert (bytes(tokens), tokens.format, tokens.readonly) == (some_tokens(k).tobytes(), "B", True)
    places = [(location.token_byte, location.num_bytes) for location in locations[:4]]
    assert places == [(0, 5), (5, 0), (5, 13), (18, 3)]
    assert features.num_bytes == sum(path.stat().st_size for path in feature_paths(tmp_path, 0))


class Contested(RowFile):
    """A file whose map is always replaced at once by the empty map of another thread."""

    @property
    def _mapped(self) -> np.ndarray:
        return np.empty((0, DIM), np.float16)

    @_mapped.setter
    def _mapped(self, rows: np.ndarray) -> None:
        assert rows.shape[1] == DIM


def test_threads_can_map_the_same_file(tmp_path: Path) -> None:
    file = Contested(tmp_path / "rows.f16", DIM, write=True)
    file.write(0, rows(0, 3))
    np.testing.assert_array_equal(file.view(1, 3), rows(0, 3)[1:])


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    _, locations = filled(tmp_path, 4)
    video, frames, packed_tokens = feature_paths(tmp_path, 0)
    location, row_bytes = locations[2], DIM * 2
    for path, start, num_bytes, rule in (
        (video, location.row * row_bytes, row_bytes, "row 2 is damaged"),
        (frames, location.frame_row * row_bytes, 3 * row_bytes, "rows from 3 are damaged"),
        (packed_tokens, location.token_byte, location.num_bytes, "bytes from 5 are damaged"),
    ):
        for bit in range(8 * num_bytes):
            damage(path, start + bit // 8, bits=1 << bit % 8)
            reader = Features(tmp_path, DIM, 0)
            reads = {video: reader.read_video, frames: reader.read_frames, packed_tokens: reader.read_tokens}
            with pytest.raises(StoreError, match=rf"^{path}: {rule} \(checksum\); run vidret info --repair"):
                reads[path](location)
            for other, read in reads.items():
                for k in (0, 1, 3) if other == path else range(4):
                    read(locations[k])
            damage(path, start + bit // 8, bits=1 << bit % 8)


@pytest.mark.parametrize("torn", [1, DIM * 2, DIM * 2 + 3])
def test_torn_tail_is_truncated(tmp_path: Path, torn: int) -> None:
    features, locations = filled(tmp_path, 4)
    features.close()
    sizes = [path.stat().st_size for path in feature_paths(tmp_path, 0)]
    for path in feature_paths(tmp_path, 0):
        path.write_bytes(path.read_bytes() + b"\x55" * torn)
    again = Features(tmp_path, DIM, 0, write=True)
    again.resume(features.tail)
    assert [path.stat().st_size for path in feature_paths(tmp_path, 0)] == sizes
    later = append(again, rows(7, 1), rows(8, 2), packed(9, 6))
    np.testing.assert_array_equal(again.read_frames(later), rows(8, 2))
    assert again.read_tokens(later) == packed(9, 6).tobytes()
    np.testing.assert_array_equal(again.read_video(locations[3]), rows(3, 1))
    assert again.read_tokens(locations[3]) == some_tokens(3).tobytes()


def test_full_disk_raises_store_error() -> None:
    file = RowFile(Path("/dev/full"), DIM, write=True)
    with pytest.raises(StoreError, match=r"/dev/full: cannot be written \(No space left"):
        file.write(0, rows(0, 1))
