"""Feature files: bytes come back as they were written, and it is noticed when they do not."""

from pathlib import Path

import numpy as np
import pytest

from vidret.errors import StoreError
from vidret.store.features import Features, RowFile, feature_paths, half
from vidret.store.records import Place

DIM = 4


def rows(seed: int, num: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, DIM)).astype(np.float16)


def filled(folder: Path, num: int) -> tuple[Features, list[Place]]:
    features = Features(folder, DIM, 0, write=True)
    return features, [features.append(rows(k, 1), rows(k + 100, k % 3 + 1)) for k in range(num)]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_rows_come_back(tmp_path: Path) -> None:
    features, places = filled(tmp_path, 9)
    reader = Features(tmp_path, DIM, 0)
    for opened in (features, reader):
        for k, place in enumerate(places):
            np.testing.assert_array_equal(opened.read_video(place), rows(k, 1))
            np.testing.assert_array_equal(opened.read_frames(place), rows(k + 100, k % 3 + 1))


def test_reader_follows_a_growing_file(tmp_path: Path) -> None:
    features, places = filled(tmp_path, 1)
    reader = Features(tmp_path, DIM, 0)
    old = reader.read_video(places[0])
    later = features.append(rows(50, 1), rows(51, 2))
    np.testing.assert_array_equal(reader.read_frames(later), rows(51, 2))
    np.testing.assert_array_equal(old, rows(0, 1))


def test_views_outlive_their_file(tmp_path: Path) -> None:
    features, places = filled(tmp_path, 3)
    view = features.read_frames(places[2])
    features.close()
    features.close()
    for path in feature_paths(tmp_path, 0):
        path.unlink()
    np.testing.assert_array_equal(view, rows(102, 3))


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    _, places = filled(tmp_path, 3)
    video, frames = feature_paths(tmp_path, 0)
    place = places[1]
    for offset in range(DIM * 2):
        flip(video, place.row * DIM * 2 + offset)
        flip(frames, place.frame_row * DIM * 2 + offset)
        reader = Features(tmp_path, DIM, 0)
        with pytest.raises(StoreError, match=r"video\.f16: row 1 is damaged"):
            reader.read_video(place)
        with pytest.raises(StoreError, match=r"frames\.f16: rows from 1 are damaged"):
            reader.read_frames(place)
        reader.read_video(places[0])
        reader.read_frames(places[2])
        flip(video, place.row * DIM * 2 + offset)
        flip(frames, place.frame_row * DIM * 2 + offset)


@pytest.mark.parametrize("torn", [1, DIM * 2, DIM * 2 + 3])
def test_torn_tail_is_cut(tmp_path: Path, torn: int) -> None:
    features, places = filled(tmp_path, 4)
    features.close()
    sizes = [path.stat().st_size for path in feature_paths(tmp_path, 0)]
    for path in feature_paths(tmp_path, 0):
        path.write_bytes(path.read_bytes() + b"\x55" * torn)
    again = Features(tmp_path, DIM, 0, write=True)
    again.resume(*features.tail)
    assert [path.stat().st_size for path in feature_paths(tmp_path, 0)] == sizes
    later = again.append(rows(7, 1), rows(8, 2))
    np.testing.assert_array_equal(again.read_frames(later), rows(8, 2))
    np.testing.assert_array_equal(again.read_video(places[3]), rows(3, 1))


def test_lost_rows_are_named_then_damaged_but_never_reused(tmp_path: Path) -> None:
    features, places = filled(tmp_path, 4)
    video, _ = feature_paths(tmp_path, 0)
    video.write_bytes(video.read_bytes()[: 2 * DIM * 2 + 5])
    with pytest.raises(StoreError, match="row 3 is lost, the file ends after 2 rows"):
        Features(tmp_path, DIM, 0).read_video(places[3])
    again = Features(tmp_path, DIM, 0, write=True)
    again.resume(*features.tail)
    with pytest.raises(StoreError, match="row 3 is damaged"):
        again.read_video(places[3])
    assert again.append(rows(1, 1), rows(2, 1)).row == 4


def test_half_refuses_what_would_poison_a_search() -> None:
    np.testing.assert_array_equal(half("video", np.array([0.1, 1.0]), (2,)), np.array([0.1, 1.0], np.float16))
    for bad in (np.nan, np.inf, 1e6):
        with pytest.raises(StoreError, match=r"video must be finite, got"):
            half("video", np.array([0.0, bad]), (2,))
    with pytest.raises(StoreError, match=r"frames must have the shape \(2, 3\), got \(3, 2\)"):
        half("frames", np.zeros((3, 2)), (2, 3))


def test_full_disk_is_a_sentence(tmp_path: Path) -> None:
    file = RowFile(Path("/dev/full"), DIM, write=True)
    with pytest.raises(StoreError, match=r"/dev/full: cannot be written \(No space left"):
        file.write(0, rows(0, 1))
