"""Results of the same footage are one, those of look-alikes are not, and folding changes no other result."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float64

from tests.copies.films import draw_footage, fade, write_frames
from tests.fakes import PatchEncoder
from tests.noting import note_calls
from tests.store.samples import add_segment, create, embedding
from vidret.copies import folding
from vidret.copies.candidates import FEW_VIDEOS, Whitening, fit_projection, whiten_index
from vidret.copies.folding import (
    ORDER_OF_WHOLE,
    WHITENING,
    CopyFolder,
    FoundSpan,
    VideoFrames,
    find_part,
    measure_order,
    save_whitening,
)
from vidret.engine import Engine
from vidret.store.store import Store
from vidret.types import Hit, LocateOptions, Moment, SearchOptions, SegmentEmbedding


class FrameEncoder(PatchEncoder):
    encodes_frames_alone = True


class PlacedEncoder(PatchEncoder):
    """Vectors also depend on the place of a frame in its segment, as with positions in time."""

    encodes_frames_alone = False

    def encode_frames(self, batch: Any, *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = []
        for segment in super().encode_frames(batch, tokens=tokens):
            places = np.random.default_rng(0).standard_normal((99, self.dim))[: len(segment.frames)]
            frames = segment.frames + places
            frames /= np.linalg.norm(frames, axis=1, keepdims=True)
            embeddings.append(replace(segment, frames=frames.astype(np.float32)))
        return embeddings


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Index a film with a faded copy, a second take of its place and length, a still, and others."""
    root = tmp_path_factory.mktemp("folding") / "films"
    film = draw_footage(1, 16)
    write_frames(root / "film.mp4", film)
    write_frames(root / "faded.mp4", film, change=fade)
    write_frames(root / "take.mp4", draw_footage(2, 16, place=1))
    for seed in (3, 4):
        write_frames(root / f"other{seed}.mp4", draw_footage(seed, 9))
    write_frames(root / "still1.mp4", film[:1] * 90)
    write_frames(root / "still2.mp4", film[:1] * 90, change=fade)
    with Engine(root.parent / "index", FrameEncoder()) as engine:
        engine.index([root])
        yield engine


def query(engine: Engine) -> Float64[np.ndarray, " dim"]:
    """Return the vector of a moment of the film."""
    found = engine.embeddings("segment")
    row = next(row for row, path in enumerate(found.paths) if "film.mp4" in path)
    return np.asarray(found.vectors[row], np.float64)


def name(result: Hit | Moment) -> str:
    return Path(result.path).stem


def test_a_copy_is_folded_and_another_take_is_not(engine: Engine) -> None:
    shown = engine.search(query(engine), copies="show")
    assert len(shown) == 7
    assert not any(hit.near_copies for hit in shown)
    folded = engine.search(query(engine))
    names = {name(hit): [Path(copy.path).stem for copy in hit.near_copies] for hit in folded}
    first = "film" if "film" in names else "faded"
    second = {"film": "faded", "faded": "film"}[first]
    assert names == {stem: [second] if stem == first else [] for stem in map(name, shown) if stem != second}
    assert [hit.score for hit in folded] == [hit.score for hit in shown if name(hit) != second]
    (copy,) = next(hit for hit in folded if hit.near_copies).near_copies
    shown_hit = next(hit for hit in shown if hit.video == copy.video)
    assert (copy.path, copy.time) == (shown_hit.path, shown_hit.time)


def test_vectors_that_depend_on_the_place_of_a_frame_are_no_evidence(tmp_path: Path) -> None:
    for seed in range(3):
        write_frames(tmp_path / "films" / f"{seed}.mp4", draw_footage(seed, 9))
    with Engine(tmp_path / "index", PlacedEncoder(num_frames=12)) as engine:
        engine.index([tmp_path / "films"])
        assert len(engine.search(np.asarray(engine.embeddings("segment").vectors[0], np.float64))) == 3


def test_other_results_take_the_place_of_copies(engine: Engine) -> None:
    every = [name(hit) for hit in engine.search(query(engine))]
    for k, offset in itertools.product((1, 2, 3), (0, 1, 2)):
        page = engine.search_with(query(engine), SearchOptions(k=k, offset=offset))
        assert [name(hit) for hit in page] == every[offset : offset + k]


def test_moments_are_folded_where_they_show_the_same(engine: Engine) -> None:
    shown = engine.locate_with(query(engine), LocateOptions(k=20, copies="show"))
    folded = engine.locate_with(query(engine), LocateOptions(k=20))
    copies = [copy for moment in folded for copy in moment.near_copies]
    assert copies
    assert {Path(copy.path).stem for copy in copies} <= {"film", "faded"}
    for moment in (moment for moment in folded if moment.near_copies):
        for copy in moment.near_copies:
            video_moments = [other for other in shown if other.video == copy.video]
            assert any(other.start <= moment.end and moment.start <= other.end for other in video_moments)
    assert {name(moment) for moment in shown} - {"film", "faded"} == {name(m) for m in folded} - {"film", "faded"}
    assert not any(moment.near_copies for moment in engine.locate(query(engine), video=copies[0].video))


def test_videos_have_one_whitening_while_the_index_grows(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = engine.search(query(engine), copies="show")
    dim = len(query(engine))
    fitted = (Whitening(np.zeros(dim, np.float32), np.eye(dim, dtype=np.float32)[:, -size:]) for size in range(2, dim))
    monkeypatch.setattr(folding, "whiten_index", lambda *_: next(fitted))
    with Store.open(engine.path) as store:
        CopyFolder(store).fold_results(shown)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create(tmp_path / "index") as store:
        yield store


def add_take(store: Store, name: str, seeds: Sequence[int], *, num_segments: int | None = None) -> int:
    """Store a video with a segment of ten frames for each seed, and perhaps room for more."""
    num_segments = num_segments or len(seeds)
    video = store.writer.begin_video(name, duration=10.0 * num_segments, facts={}, num_segments=num_segments)
    store.writer.set_file(f"/films/{name}.mp4", state="running", video=video)
    for segment_index in sorted(set(range(len(seeds))) - store.segments.stored_indices(video)):
        vectors = embedding(seeds[segment_index], num_frames=10)
        add_segment(store, video, segment_index, 10.0 * segment_index, 10.0 * segment_index + 10, vectors)
    return video


def test_verdicts_hold_until_one_of_the_videos_changes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = note_calls(monkeypatch, folding, "measure_order", lambda _one, _other, offset_s: offset_s)
    videos = add_take(store, "film", [1, 2], num_segments=3), add_take(store, "copy", [1, 2], num_segments=3)
    spans = [FoundSpan(video, 0.0, 0.0) for video in videos]
    folder = CopyFolder(store)
    assert folder.fold(spans, whole=True) == [0, 0]
    assert judged
    judged.clear()
    add_take(store, "other", [5])
    assert folder.fold(spans, whole=True) == [0, 0]
    assert not judged
    add_take(store, "copy", [1, 2, 7], num_segments=3)
    folder.fold(spans, whole=True)
    assert judged


def test_the_whitening_holds_until_the_index_has_drifted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = note_calls(monkeypatch, folding, "whiten_index", lambda store, _: len(store))
    folder, spans = CopyFolder(store), [FoundSpan(add_take(store, name, range(4)), 0.0, 0.0) for name in ("a", "b")]

    def fold_with(name: str, seeds: Sequence[int]) -> list[int]:
        spans.append(FoundSpan(add_take(store, name, seeds), 0.0, 0.0))
        folder.fold(spans, whole=True)
        return fitted

    assert fold_with("c", range(4)) == [12]
    assert fold_with("d", range(3)) == [12]
    assert fold_with("e", range(3)) == [12, 18]
    store.writer.set_file("/films/a.mp4", state="missing")
    assert fold_with("f", [0]) == [12, 18]
    for name in "cd":
        store.writer.set_file(f"/films/{name}.mp4", state="missing")
    assert fold_with("g", [0, 1, 2]) == [12, 18, 11]


def test_the_whitening_of_a_large_index_is_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = [add_take(store, f"film{seed}", range(2 * seed, 2 * seed + 2)) for seed in range(FEW_VIDEOS)]
    store.close()
    with Store.open(store.path) as reader:
        save_whitening(reader)
        assert reader.metadata.get(WHITENING) is None  # of too few videos
    with Store.open(store.path, write=True) as writer:
        spans = [FoundSpan(video, 0.0, 0.0) for video in (videos[0], add_take(writer, "copy", range(2)))]
    fitted: list[Whitening] = []

    def whiten(store: Store, fit: Callable[..., Whitening]) -> Whitening:
        fitted.append(whiten_index(store, fit))
        return fitted[-1]

    def fold() -> int:
        with Store.open(store.path) as reader:
            folder = CopyFolder(reader)
            assert folder.fold(spans, whole=True) == [0, 0]
            assert folder._fitted is not None
            used.append(folder._fitted[1])
        return len(fitted)

    used: list[Whitening] = []
    monkeypatch.setattr(folding, "whiten_index", whiten)
    assert fold() == 1
    with Store.open(store.path) as reader:
        save_whitening(reader)
        save_whitening(reader)  # which holds already
        stored = reader.metadata.get(WHITENING)
    assert fold() == 2
    np.testing.assert_array_equal(used[0].mean, used[1].mean)
    np.testing.assert_array_equal(used[0].projection, used[1].projection)
    assert isinstance(stored, bytes)
    with Store.open(store.path, write=True) as writer:
        writer.metadata.set(WHITENING, stored[:-1])
    assert fold() == 3
    with Store.open(store.path, write=True) as writer:
        writer.metadata.set(WHITENING, stored)
        add_take(writer, "long", range(100, 124))
    assert fold() == 4  # the index has drifted


def test_only_folding_does_without_the_level(store: Store) -> None:
    for seed in range(3):
        add_take(store, f"film{seed}", range(4 * seed, 4 * seed + 4))
    assert whiten_index(store).level != 0.0
    assert whiten_index(store, fit_projection).level == 0.0


# The measure

RNG = np.random.default_rng(0)
Frames = Float64[np.ndarray, "frame 24"]


def draw_video(num_frames: int) -> Frames:
    """Return frames of one place in which things change."""
    place = RNG.normal(size=24)
    return normalize(4 * place / np.linalg.norm(place) + 0.3 * RNG.normal(size=(num_frames, 24)))


def normalize(rows: Frames) -> Frames:
    unit: Frames = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def as_video(vectors: Frames, segments: Sequence[int] = ()) -> VideoFrames:
    return VideoFrames(vectors, np.arange(len(vectors), dtype=np.float64), np.array(segments or [0] * len(vectors)))


def measure(one: Frames, other: Frames, segments: Sequence[int] = ()) -> tuple[float, float]:
    return measure_order(as_video(one, segments), as_video(other), 0.0)


def test_the_measure_is_that_of_all_orders() -> None:
    one, other = draw_video(6), draw_video(6)
    line = np.stack([np.ones(6), np.arange(6)], axis=1)
    ours, theirs = (rows - line @ np.linalg.lstsq(line, rows, rcond=None)[0] for rows in (one, other))
    totals = [
        sum(float(ours[row] @ theirs[column]) for row, column in enumerate(order))
        for order in itertools.permutations(range(6))
    ]
    order, agreement = measure(one, other)
    total = sum(float(ours[row] @ theirs[row]) for row in range(6))
    # The trend takes one degree of freedom more than the mean, which is all that permutations know of.
    assert order == pytest.approx(total / np.std(totals) * np.sqrt(4 / 5), abs=1e-6)
    assert agreement == pytest.approx(total / np.sqrt((ours**2).sum() * (theirs**2).sum()))


def test_only_the_right_order_counts() -> None:
    film = draw_video(20)
    copy = film + 0.03 * RNG.normal(size=film.shape)
    assert measure(film, copy)[0] > ORDER_OF_WHOLE
    assert abs(measure(film, copy[::-1])[0]) < 3
    assert abs(measure(film, draw_video(20))[0]) < 3
    still = np.repeat(film[:1], 20, axis=0)
    assert measure(still, still) == (0.0, 0.0)
    assert measure(film[:5], copy[:5]) == (0.0, 0.0)  # too few frames


def test_neither_dusk_nor_a_schedule_of_places_makes_a_copy() -> None:
    drift = np.outer(np.arange(30) / 30, RNG.normal(size=24))
    assert abs(measure(draw_video(30) + drift, draw_video(30) + drift)[0]) < 3
    segments = [row // 10 for row in range(30)]
    places = 3 * RNG.normal(size=(3, 24))[segments]
    one, other = (normalize(places + 0.3 * RNG.normal(size=(30, 24))) for _ in range(2))
    assert measure(one, other)[0] > ORDER_OF_WHOLE
    assert abs(measure(one, other, segments)[0]) < 3


def test_a_part_is_found_between_frames() -> None:
    film = normalize(np.cumsum(RNG.normal(size=(40, 24)), axis=0))
    between = np.arange(12.25, 36)
    shares = (between % 1)[:, None]
    part = normalize((1 - shares) * film[between.astype(int)] + shares * film[between.astype(int) + 1])
    assert find_part(as_video(part), as_video(film), 16.25) == 12.25
    assert find_part(as_video(part[::-1]), as_video(film), 16.25) is None
