"""Synthetic benchmarks on disk: written by the tool, readable by the readers, decodable and reproducible."""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tool_loading import load_tool
from vidret.data.benchmarks.splits import read_split
from vidret.data.records import LabelledQuery, find_videos
from vidret.data.synthetic.generation import PAIR_KINDS, draw_pairs
from vidret.data.synthetic.render import render
from vidret.errors import VidretError
from vidret.video.probe import probe
from vidret.video.reader import read_frames

world = load_tool("make_synthetic")
SHORT: dict[str, Any] = {"seed": 3, "num_train": 12, "num_val": 6, "num_test": 20, "size": 48}
FILMS: dict[str, Any] = {"seed": 3, "num_train": 3, "num_val": 2, "num_test": 3, "size": 32}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    assert world.write_retrieval_world(folder, **SHORT) == 38
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    assert world.write_grounding_world(folder, **FILMS) == 8
    return folder


def test_msrvtt_readers_read_the_files(short: Path) -> None:
    test, train = read_split("msrvtt-1k-a", short), read_split("msrvtt-1k-a-train-9k", short)
    assert test.videos == tuple(f"test{index}" for index in range(20))
    assert train.videos == tuple(f"train{index}" for index in range(12))
    assert (len(test.captions), len(train.captions)) == (20, 48)
    full = {split: read_split("msrvtt-full", short, split) for split in ("train", "val", "test")}
    assert full["train"].captions == train.captions
    assert full["val"].videos == tuple(f"val{index}" for index in range(6))
    assert [caption.text for caption in full["test"].captions[::4]] == [caption.text for caption in test.captions]
    paths, missing = find_videos([*test.videos, *train.videos, *full["val"].videos], short / "videos")
    assert (len(paths), missing) == (38, [])
    custom = read_split("captions", short)
    assert custom.videos == test.videos
    assert [caption.domain for caption in custom.captions[::8]] == [*PAIR_KINDS, *PAIR_KINDS]


def test_videos_show_their_scenes(short: Path) -> None:
    for pair_index, pair in enumerate(draw_pairs("test", 10, seed=3)):
        for half, scene in enumerate(pair.scenes):
            path = short / "videos" / f"test{2 * pair_index + half}.mp4"
            info = probe(path)
            assert (info.width, info.height, info.num_frames) == (48, 48, 12)
            assert info.duration == pytest.approx(4.0)
            assert info.times == pytest.approx(np.arange(12) / 3)
            frames = read_frames(str(path), indices=range(12)).pixels.astype(float)
            error = np.abs(frames - render(scene, 48)).mean(axis=(1, 2, 3))
            assert error.max() < 6  # 4:2:0 subsampling and H.264 lose colour and grain
            other = render(pair.scenes[1 - half], 48)
            assert np.abs(frames - other).mean() > np.abs(frames - render(scene, 48)).mean()


def test_pairs_match_the_test_split(short: Path) -> None:
    pairs = world.read_pairs(short)
    texts = {caption.video: caption.text for caption in read_split("msrvtt-1k-a", short).captions}
    assert [pair.kind for pair in pairs] == [*PAIR_KINDS, *PAIR_KINDS]
    assert [video for pair in pairs for video in pair.videos] == list(texts)
    assert [caption for pair in pairs for caption in pair.captions] == list(texts.values())
    val = [video for pair in world.read_pairs(short, "val") for video in pair.videos]
    assert val == list(read_split("msrvtt-full-val", short).videos)


def test_decoded_direction_and_order_pairs_differ_in_frame_order_only(short: Path) -> None:
    """A model that ignores the order of frames is at chance on these pairs, and only on these."""
    for pair in world.read_pairs(short):
        one, two = (
            read_frames(str(short / "videos" / f"{video}.mp4"), indices=range(12)).pixels for video in pair.videos
        )
        same = sorted(frame.tobytes() for frame in one) == sorted(frame.tobytes() for frame in two)
        assert same == (pair.kind in ("direction", "order"))
        assert not np.array_equal(one, two)


def hash_files(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_seeds_give_identical_files(short: Path, films: Path, tmp_path: Path) -> None:
    world.write_retrieval_world(tmp_path / "short", **SHORT)
    world.write_grounding_world(tmp_path / "films", **FILMS)
    assert hash_files(tmp_path / "short") == hash_files(short)
    assert hash_files(tmp_path / "films") == hash_files(films)
    world.write_retrieval_world(tmp_path / "other", **{**SHORT, "seed": 4})
    other = hash_files(tmp_path / "other")
    assert not set(other.values()) & set(hash_files(short).values()) - {other["MSRVTT_train.9k.csv"]}


def test_existing_videos_are_not_rendered_again(tmp_path: Path) -> None:
    small = {**SHORT, "num_train": 4, "num_val": 2, "num_test": 4}
    assert world.write_retrieval_world(tmp_path, **small) == 10
    before = hash_files(tmp_path)
    assert world.write_retrieval_world(tmp_path, **small) == 0
    videos = tmp_path / "videos"
    (videos / "train1.mp4").unlink()
    (videos / "val0.mp4").write_bytes((videos / "val0.mp4").read_bytes()[:900])
    (videos / "test2.mp4").write_bytes((videos / "test3.mp4").read_bytes())
    assert world.write_retrieval_world(tmp_path, **small) == 3
    assert hash_files(tmp_path) == before
    assert world.write_retrieval_world(tmp_path, **{**small, "num_train": 8, "num_test": 6}) == 6
    assert all(hash_files(tmp_path)[name] == value for name, value in before.items() if name.endswith(".mp4"))
    assert world.write_retrieval_world(tmp_path, **{**small, "size": 32}) == 10


def test_qvhighlights_readers_read_the_files(films: Path) -> None:
    splits = {split: read_split("qvhighlights", films, split) for split in ("train", "val", "test")}
    labelled = read_split("moments", films)
    assert {split: len(its_split.videos) for split, its_split in splits.items()} == {"train": 3, "val": 2, "test": 3}
    assert not any(query.spans or query.clips for query in splits["test"].queries)
    assert [query.id for query in labelled.queries] == [query.id for query in splits["test"].queries]
    ids = [query.id for split in splits.values() for query in split.queries]
    assert len(set(ids)) == len(ids)
    assert not splits["val"].notes
    assert not labelled.notes
    for query in (*splits["train"].queries, *splits["val"].queries, *labelled.queries):
        info = probe(films / "videos" / f"{query.video}.mp4")
        assert query.duration == pytest.approx(info.duration)
        assert 40 <= info.duration <= 90
        covered = [clip for start, end in query.spans for clip in range(round(start / 2), round(end / 2))]
        assert list(query.clips) == covered
        assert all(len(marks) == 3 and 0 <= min(marks) <= max(marks) <= 4 for marks in query.saliency)
        assert max(marks[0] for marks in query.saliency) == 4
    several = [query for split in splits.values() for query in split.queries if len(query.spans) > 1]
    assert several or any(len(query.spans) > 1 for query in labelled.queries)


def find_events(film_queries: list[LabelledQuery], num_frames: int) -> np.ndarray:
    """Return whether each frame, at 2 frames per second, is in a window."""
    inside = np.zeros(num_frames, dtype=bool)
    for query in film_queries:
        for start, end in query.spans:
            assert not inside[round(2 * start) : round(2 * end)].any()
            inside[round(2 * start) : round(2 * end)] = True
    return inside


def test_windows_are_exact_to_the_frame(films: Path) -> None:
    queries = read_split("moments", films).queries
    num_edges, min_edge_change, max_still_change = 0, np.inf, 0.0
    for video in dict.fromkeys(query.video for query in queries):
        info = probe(films / "videos" / f"{video}.mp4")
        frames = read_frames(info.path, indices=range(info.num_frames)).pixels.astype(float)
        blocks = frames.reshape(len(frames), 8, 4, 8, 4, 3).mean(axis=(2, 4))
        changes = np.abs(np.diff(blocks, axis=0)).max(axis=(1, 2, 3))
        inside = find_events([query for query in queries if query.video == video], info.num_frames)
        at_edge = np.diff(inside)
        min_edge_change = min(min_edge_change, changes[at_edge].min())
        max_still_change = max(max_still_change, changes[~inside[1:] & ~inside[:-1]].max())
        num_edges += at_edge.sum()
    assert num_edges > 10
    assert max_still_change == 0
    assert min_edge_change > 10


def test_saliency_follows_visibility() -> None:
    film = [shot for scene in world.draw_films("train", 40, seed=0, fps=2) for shot in scene.shots if shot.objects]
    shots = {shot.action.verb: shot for shot in film if shot.num_frames >= 20}
    random = np.random.default_rng(0)
    table = {verb: np.array(world.score_clips(shot, 4, random)) for verb, shot in shots.items()}
    assert set(table) > {"moves left", "spins", "appears", "disappears", "grows", "shrinks"}
    for verb, marks in table.items():
        exact = marks[:, :1]
        assert ((exact - marks == 0) | (exact - marks == 1)).all()
        assert exact.max() == 4
        if verb in ("appears", "grows"):
            assert (np.diff(exact[:, 0]) >= 0).all()
            assert exact[0] < 3
        elif verb in ("disappears", "shrinks"):
            assert (np.diff(exact[:, 0]) <= 0).all()
            assert exact[-1] < 3
        else:
            assert exact.min() == 4
    assert len({tuple(marks[0]) for marks in table.values()}) > 2
    for verb, shot in shots.items():
        assert max(marks[0] for marks in world.score_clips(replace(shot, num_frames=12), 4, random)) == 4, verb


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_test": 0}, "num_test must be even and at least 2, got 0"),
        ({"num_frames": 7}, "num_frames even and at least 4, got 4 and 7"),
        ({"num_captions": 0}, "num_captions must be at least 1"),
        ({"size": 47}, "size must be even and at least 32, got 47"),
        ({"fps": 0}, "fps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_invalid_numbers_are_refused(tmp_path: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(VidretError, match=message):
        world.write_retrieval_world(tmp_path, **{**SHORT, **change})
    assert not list(tmp_path.iterdir())


def test_grounding_world_refuses_invalid_numbers_and_unwritable_folders(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"must be at least 1, got \(3, 0, 3\)"):
        world.write_grounding_world(tmp_path, **{**FILMS, "num_val": 0})
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(VidretError, match=r"train0\.mp4: cannot be written"):
        world.write_grounding_world(tmp_path / "taken", **FILMS)


def test_tool_writes_both_worlds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = ["--short", "2", "2", "4", "--films", "1", "1", "2", "--size", "48", "32", "--seed", "6"]
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", str(tmp_path), *counts])
    world.main()
    output = capsys.readouterr()
    assert "short videos: 8, drawn now 8 in" in output.err
    assert "films: 4, drawn now 4 in" in output.err
    assert len(world.read_pairs(tmp_path / "msrvtt")) > 0
    assert len(read_split("moments", tmp_path / "qvhighlights").queries) > 0


def test_tool_exits_with_message_on_invalid_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", str(tmp_path), "--short", "3", "2", "4"])
    with pytest.raises(SystemExit, match="num_train must be even and at least 2, got 3"):
        world.main()
