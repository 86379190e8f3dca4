"""The synthetic world on disk: read by the benchmarks' readers, decoded by the decoder, the same from the same seed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidret.data.benchmarks.splits import read_split
from vidret.data.records import LabelledQuery
from vidret.data.synthetic import world
from vidret.data.synthetic.annotations import mark_clips
from vidret.data.synthetic.generation import PAIR_KINDS, draw_films, draw_pairs
from vidret.data.synthetic.render import render
from vidret.data.videos import find_videos
from vidret.errors import VidretError
from vidret.metrics.grounding import score_moments
from vidret.metrics.highlight import score_highlights
from vidret.metrics.predictions import Prediction
from vidret.video.decode import read_frames
from vidret.video.probe import probe

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


def test_the_readers_of_msrvtt_read_it(short: Path) -> None:
    test, train = read_split("msrvtt-1k-a", short), read_split("msrvtt-1k-a-train-9k", short)
    assert test.videos == tuple(f"test{number}" for number in range(20))
    assert train.videos == tuple(f"train{number}" for number in range(12))
    assert (len(test.captions), len(train.captions)) == (20, 48)
    full = {split: read_split("msrvtt-full", short, split) for split in ("train", "val", "test")}
    assert full["train"].captions == train.captions
    assert full["val"].videos == tuple(f"val{number}" for number in range(6))
    assert [caption.text for caption in full["test"].captions[::4]] == [caption.text for caption in test.captions]
    found, missing = find_videos([*test.videos, *train.videos, *full["val"].videos], short / "videos")
    assert (len(found), missing) == (38, [])
    own = read_split("captions", short)
    assert own.videos == test.videos
    assert [caption.domain for caption in own.captions[::8]] == [*PAIR_KINDS, *PAIR_KINDS]


def test_videos_show_the_scenes_that_were_drawn(short: Path) -> None:
    for number, pair in enumerate(draw_pairs("test", 10, seed=3)):
        for half, scene in enumerate(pair.scenes):
            path = short / "videos" / f"test{2 * number + half}.mp4"
            info = probe(path)
            assert (info.width, info.height, info.num_frames) == (48, 48, 12)
            assert info.duration == pytest.approx(4.0)
            assert info.times == pytest.approx(np.arange(12) / 3)
            frames = read_frames(str(path), indices=range(12)).pixels.astype(float)
            error = np.abs(frames - render(scene, 48)).mean(axis=(1, 2, 3))
            assert error.max() < 6  # half of the colours are thrown away by 4:2:0, and grain by h264
            other = render(pair.scenes[1 - half], 48)
            assert np.abs(frames - other).mean() > np.abs(frames - render(scene, 48)).mean()


def test_pairs_are_those_of_the_test_split(short: Path) -> None:
    pairs = world.read_pairs(short)
    texts = {caption.video: caption.text for caption in read_split("msrvtt-1k-a", short).captions}
    assert [pair.kind for pair in pairs] == [*PAIR_KINDS, *PAIR_KINDS]
    assert [video for pair in pairs for video in pair.videos] == list(texts)
    assert [caption for pair in pairs for caption in pair.captions] == list(texts.values())


def test_pairs_of_val_are_apart(short: Path) -> None:
    shown = [video for pair in world.read_pairs(short, "val") for video in pair.videos]
    assert shown == list(read_split("msrvtt-full-val", short).videos)


def test_decoded_frames_tell_neither_direction_nor_order_unless_their_own_order_is_known(short: Path) -> None:
    """So a model that forgets the order of frames is at chance there, bit for bit, and not elsewhere."""
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


def test_the_same_seed_gives_the_same_files_byte_by_byte(short: Path, films: Path, tmp_path: Path) -> None:
    world.write_retrieval_world(tmp_path / "short", **SHORT)
    world.write_grounding_world(tmp_path / "films", **FILMS)
    assert hash_files(tmp_path / "short") == hash_files(short)
    assert hash_files(tmp_path / "films") == hash_files(films)
    world.write_retrieval_world(tmp_path / "other", **{**SHORT, "seed": 4})
    other = hash_files(tmp_path / "other")
    assert not set(other.values()) & set(hash_files(short).values()) - {other["MSRVTT_train.9k.csv"]}


def test_what_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    small = {**SHORT, "num_train": 4, "num_val": 2, "num_test": 4}
    assert world.write_retrieval_world(tmp_path, **small, progress=lambda *call: calls.append(call)) == 10
    assert calls == [(number, 10) for number in range(1, 11)]
    before = hash_files(tmp_path)
    assert world.write_retrieval_world(tmp_path, **small) == 0
    videos = tmp_path / "videos"
    (videos / "train1.mp4").unlink()
    (videos / "val0.mp4").write_bytes((videos / "val0.mp4").read_bytes()[:900])
    (videos / "test2.mp4").write_bytes((videos / "test3.mp4").read_bytes())
    (videos / "test0.mp4.part").write_bytes(b"begun")
    assert world.write_retrieval_world(tmp_path, **small) == 3
    (videos / "test0.mp4.part").unlink()
    assert hash_files(tmp_path) == before
    assert world.write_retrieval_world(tmp_path, **{**small, "num_train": 8, "num_test": 6}) == 6
    assert all(hash_files(tmp_path)[name] == value for name, value in before.items() if name.endswith(".mp4"))
    assert world.write_retrieval_world(tmp_path, **{**small, "size": 32}) == 10


def stop_at(number: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return progress


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    small = {**SHORT, "num_train": 4, "num_val": 2, "num_test": 4}
    with pytest.raises(KeyboardInterrupt):
        world.write_retrieval_world(tmp_path, **small, progress=stop_at(3))
    assert not list(tmp_path.glob("*.csv"))
    assert world.write_retrieval_world(tmp_path, **small) == 7


def test_the_readers_of_qvhighlights_read_it(films: Path) -> None:
    splits = {split: read_split("qvhighlights", films, split) for split in ("train", "val", "test")}
    labelled = read_split("moments", films)
    assert {split: len(found.videos) for split, found in splits.items()} == {"train": 3, "val": 2, "test": 3}
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
    again = [query for query in labelled.queries if len(query.spans) > 1]
    assert len(several) + len(again) > 0


def find_events(film_queries: list[LabelledQuery], num_frames: int) -> np.ndarray:
    """Say of each frame whether a window holds it, at 2 frames a second."""
    inside = np.zeros(num_frames, dtype=bool)
    for query in film_queries:
        for start, end in query.spans:
            assert not inside[round(2 * start) : round(2 * end)].any()
            inside[round(2 * start) : round(2 * end)] = True
    return inside


def test_windows_are_exact_to_the_frame(films: Path) -> None:
    queries = read_split("moments", films).queries
    edges, smallest, stillest = 0, np.inf, 0.0
    for video in dict.fromkeys(query.video for query in queries):
        info = probe(films / "videos" / f"{video}.mp4")
        frames = read_frames(info.path, indices=range(info.num_frames)).pixels.astype(float)
        blocks = frames.reshape(len(frames), 8, 4, 8, 4, 3).mean(axis=(2, 4))
        changes = np.abs(np.diff(blocks, axis=0)).max(axis=(1, 2, 3))
        inside = find_events([query for query in queries if query.video == video], info.num_frames)
        at_edge = np.diff(inside)
        smallest = min(smallest, changes[at_edge].min())
        stillest = max(stillest, changes[~inside[1:] & ~inside[:-1]].max())
        edges += at_edge.sum()
    assert edges > 10
    assert stillest == 0
    assert smallest > 10


def test_saliency_follows_what_can_be_seen() -> None:
    film = [shot for scene in draw_films("train", 40, seed=0, fps=2) for shot in scene.shots if shot.things]
    shots = {shot.action.verb: shot for shot in film if shot.num_frames >= 20}
    random = np.random.default_rng(0)
    table = {verb: np.array(mark_clips(shot, 4, random)) for verb, shot in shots.items()}
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
        assert max(marks[0] for marks in mark_clips(replace(shot, num_frames=12), 4, random)) == 4, verb


def test_a_perfect_answer_is_scored_as_one(films: Path) -> None:
    queries = read_split("moments", films).queries
    answers = []
    for query in queries:
        saliency = np.zeros(round((query.duration or 0) / 2))
        saliency[list(query.clips)] = [sum(marks) for marks in query.saliency]
        answers.append(Prediction(query.id, np.array([(*span, 1.0) for span in query.spans]), saliency))
    moments = score_moments(queries, answers).full
    assert (moments.mean_average_precision, moments.recall(0.7), moments.mean_overlap) == (100, 100, 100)
    assert score_highlights(queries, answers).hit_rate() == 100


def test_wordings_multiply_queries_and_nothing_else(tmp_path: Path) -> None:
    counts: dict[str, Any] = {"num_train": 1, "num_val": 1, "num_test": 2, "size": 32}
    world.write_grounding_world(tmp_path, seed=1, **counts)
    once = read_split("moments", tmp_path).queries
    assert world.write_grounding_world(tmp_path, seed=1, num_wordings=2, **counts) == 0
    twice = read_split("moments", tmp_path).queries
    assert len(twice) == 2 * len(once)
    assert [query.text for query in twice[::2]] == [query.text for query in once]
    assert all(a.text != b.text and a.spans == b.spans for a, b in zip(twice[::2], twice[1::2], strict=True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_train": 3}, "num_train must be even and at least 2, got 3"),
        ({"num_test": 0}, "num_test must be even and at least 2, got 0"),
        ({"num_frames": 7}, "num_frames even and at least 4, got 4 and 7"),
        ({"num_captions": 0}, "num_captions must be at least 1"),
        ({"size": 47}, "size must be even and at least 32, got 47"),
        ({"fps": 0}, "fps must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_numbers_that_break_their_rule_are_named(tmp_path: Path, change: dict[str, int], sentence: str) -> None:
    with pytest.raises(VidretError, match=sentence):
        world.write_retrieval_world(tmp_path, **{**SHORT, **change})
    assert not list(tmp_path.iterdir())


def test_films_refuse_numbers_too_and_folders_that_are_files(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"must be at least 1, got \(3, 0, 3, 1\)"):
        world.write_grounding_world(tmp_path, **{**FILMS, "num_val": 0})
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(VidretError, match=r"train0\.mp4: cannot be written: "):
        world.write_grounding_world(tmp_path / "taken", **FILMS)


def test_broken_pairs_are_named_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=r"pairs\.jsonl: cannot be read"):
        world.read_pairs(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"kind": "order", "videos": ["a"], "captions": ["x", "y"]}))
    with pytest.raises(VidretError, match=r"pairs\.jsonl:1: videos and captions must be two each, got 1 and 2"):
        world.read_pairs(tmp_path)
