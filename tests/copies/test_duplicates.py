"""Copies are found with their offsets, look-alikes are not, and files that cannot be read are left out."""

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.copies.films import crop, draw_footage, fade, mirror, write_frames
from tests.fakes import PatchEncoder
from tests.noting import note_calls
from vidret.copies import duplicates, pairs
from vidret.copies.candidates import find_partners, find_video_pairs, read_frame_table
from vidret.copies.checking import FootageGuess, FootageReader, FootageVerdict
from vidret.engine import Engine
from vidret.errors import StoreError, VidretError
from vidret.store.records import StoredVideo
from vidret.types import CopiedFile, CopyGroup, Filters, Sampling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a film with copies, a look-alike that shares its place, and others."""
    root = tmp_path_factory.mktemp("copies") / "films"
    film = draw_footage(1, 10)
    write_frames(root / "film.mp4", film)
    shutil.copyfile(root / "film.mp4", root / "twin.mp4")
    write_frames(root / "mirrored.mp4", film, change=mirror)
    write_frames(root / "cropped.mp4", film, change=crop)
    write_frames(root / "grey.mp4", film[20:80], change=fade)
    write_frames(root / "fast.mp4", draw_footage(1, 6.6, speed=1.5))
    write_frames(root / "long.mp4", [*draw_footage(8, 7), *film, *draw_footage(9, 8)])
    write_frames(root / "alike.mp4", draw_footage(2, 10, place=1))
    for seed in (3, 4, 5):
        write_frames(root / f"other{seed}.mp4", draw_footage(seed, 9))
    Engine(root.parent / "index", PatchEncoder()).index([root])
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(folder.parent / "index", PatchEncoder()) as engine:
        yield engine


@pytest.fixture(scope="module")
def groups(engine: Engine) -> list[CopyGroup]:
    return engine.duplicates()


@pytest.fixture(scope="module")
def files(groups: list[CopyGroup]) -> dict[str, CopiedFile]:
    (group,) = groups
    return {Path(file.path).stem: file for file in group.files}


def test_all_copies_are_one_group_without_look_alikes_and_their_differences_are_named(
    groups: list[CopyGroup], files: dict[str, CopiedFile]
) -> None:
    assert set(files) == {"film", "twin", "mirrored", "cropped", "grey", "fast", "long"}
    best = files["long"]
    assert groups[0].best is groups[0].files[0] is best, "it shows most"
    others = {name: set(file.differs) for name, file in files.items() if file.differs != ("same content",)}
    assert len(others) == 6
    assert ("mirrored" in others["mirrored"]) != ("mirrored" in others["cropped"])
    assert "cropped" in others["cropped"]
    assert "faster" in others["fast"]
    assert all(("part" in differs) == (files[name] is not best) for name, differs in others.items())
    assert not any("longer" in differs for differs in others.values())


def test_interruption_ends_the_checks_in_progress(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    numbers, busy, outcomes = itertools.count(), threading.Event(), list[str]()

    def judge(guess: FootageGuess, reader: FootageReader) -> FootageVerdict | None:
        if next(numbers) == 0:
            busy.wait(30)
            return None
        busy.set()
        outcomes.append("begun")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            reader.forget()
            reader.read(guess.clip_path, 0, 1)
        outcomes.append("ended by itself")
        return None

    def interrupt(done: int, _total: int) -> None:
        if done:
            raise KeyboardInterrupt

    monkeypatch.setattr(pairs, "judge_footage", judge)
    with pytest.raises(KeyboardInterrupt):
        engine.duplicates(on_progress=interrupt)
    assert set(outcomes) == {"begun"}
    assert not caplog.records, "no file is at fault"


def test_offsets_and_speeds_are_those_of_the_copies(files: dict[str, CopiedFile]) -> None:
    film = files["film"]

    def at(name: str, film_s: float) -> float:
        best_s = (film_s - film.start) / film.speed + film.best_start
        return files[name].start + (best_s - files[name].best_start) * files[name].speed

    for film_s in (3.0, 6.0):
        expected = {"mirrored": film_s, "cropped": film_s, "grey": film_s - 2, "long": film_s + 7, "fast": film_s / 1.5}
        assert {name: at(name, film_s) for name in expected} == pytest.approx(expected, abs=0.2)


def test_copies_of_several_films_are_told_apart_and_the_best_is_first(tmp_path: Path) -> None:
    """Whole before damaged, long before large, large before as long; films that share clips are no copies."""

    def write(name: str, *parts: Sequence[np.ndarray], **options: Any) -> Path:
        return write_frames(tmp_path / f"films/{name}.mp4", [frame for part in parts for frame in part], **options)

    def draw(*seeds: int, length_s: float = 6) -> list[list[np.ndarray]]:
        return [draw_footage(seed, length_s) for seed in seeds]

    whole, small, other, film = draw_footage(1, 8), draw_footage(3, 8), draw_footage(2, 20), draw_footage(4, 24)
    content = write("whole", whole, faststart=True).read_bytes()
    (tmp_path / "films/truncated.mp4").write_bytes(content[: len(content) * 3 // 10])
    write("other", other, change=crop)
    write("large", other[:120])
    write("small", small, change=crop)
    write("trimmed", small[:76])
    write("film", film)
    write("cut", film[:70], film[85:])
    clips, scenes, frame = draw(20, 21, length_s=5), draw(11, 12, 13, 14, 15), draw(22, 16, 17, 23)
    write("one", scenes[0], clips[0], scenes[1][:40], clips[1], scenes[2][:30])
    write("two", clips[0], scenes[3][:59], clips[1], scenes[4][:20])
    write("episode1", frame[0], frame[1], frame[3])
    write("episode2", frame[0], frame[2], frame[3])
    with Engine(tmp_path / "index", PatchEncoder()) as engine:
        engine.index([tmp_path / "films"])
        groups = [{Path(file.path).stem: file for file in group.files} for group in engine.duplicates()]
    best = {tuple(files) for files in groups}
    assert best == {("whole", "truncated"), ("other", "large"), ("trimmed", "small"), ("film", "cut")}
    files = {name: file for group in groups for name, file in group.items()}
    assert files["truncated"].differs == ("part", "damaged")
    assert "part" in files["large"].differs
    assert files["cut"].speed == pytest.approx(1.0, abs=0.02)
    assert files["cut"].start - files["cut"].best_start == pytest.approx(-1.5, abs=0.15)
    assert files["cut"].differs == ("part", "longer")


def test_a_link_is_no_copy_and_a_copied_film_with_a_part_is_one_group(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = note_calls(monkeypatch, duplicates, "may_exist", str)
    film = draw_footage(1, 12)
    write_frames(tmp_path / "films/film.mp4", film)
    write_frames(tmp_path / "films/part.mp4", film[20:60])
    shutil.copyfile(tmp_path / "films/film.mp4", tmp_path / "films/twin.mp4")
    write_frames(tmp_path / "films/other.mp4", draw_footage(2, 9))
    (tmp_path / "films/a link.mp4").symlink_to("film.mp4")
    (tmp_path / "films/another link.mp4").symlink_to("other.mp4")
    with Engine(tmp_path / "index", PatchEncoder()) as engine:
        engine.index([tmp_path / "films"])
        (group,) = engine.duplicates()
        assert [Path(file.path).name for file in group.files] == ["film.mp4", "twin.mp4", "part.mp4"]
        (tmp_path / "films/film.mp4").unlink()
        (tmp_path / "films/part.mp4").unlink()
        asked.clear()
        assert engine.duplicates() == [], "of what was deleted since, one file is left"
        assert len(asked) == len({*asked}) == 6, "each file is looked at once"
    (record,) = caplog.records
    assert record.getMessage().startswith("left out, 3 files are gone: "), "the link points nowhere now"


def test_a_copy_begins_with_its_first_frame() -> None:
    video = StoredVideo(
        id=1,
        paths=("/a.ts", "/b.ts"),
        duration=9.0,
        facts={"start": 1.5},
        complete=True,
        salvaged="",
        num_segments=1,
        changed=None,
    )
    (group,) = duplicates.group_copies([], {1: video}, None)
    assert [(file.start, file.end) for file in group.files] == [(1.5, 9.0), (1.5, 9.0)]


def test_paths_choose_whose_copies_are_listed(engine: Engine, folder: Path, groups: list[CopyGroup]) -> None:
    assert engine.duplicates([folder / "other3.mp4"]) == []
    found = engine.duplicates([folder / "fast.mp4"])
    assert {"fast.mp4"} < {Path(file.path).name for file in found[0].files}
    with pytest.raises(StoreError, match="nowhere: not in the index"):
        engine.duplicates([folder / "nowhere"])


def test_only_pairs_of_wanted_videos_are_aligned(engine: Engine) -> None:
    table = read_frame_table(engine._index.store)
    wanted = find_video_pairs(table)[0].clip
    wanted_pairs = find_video_pairs(table, {wanted})
    assert wanted_pairs
    assert all(wanted in (pair.clip, pair.film) for pair in wanted_pairs)


def test_a_film_that_alternates_between_two_views_does_not_hide_its_copy() -> None:
    """All its frames of a view are more alike than a frame and its copy."""
    rng = np.random.default_rng(0)
    views = np.tile(rng.standard_normal((2, 64)), (120, 1)).repeat(3, axis=0)
    film = views + 0.05 * rng.standard_normal(views.shape)
    others = rng.standard_normal((300, 64))
    frames = np.concatenate([film, others[:200], film + 0.15 * rng.standard_normal(64), others[200:]])
    vectors = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).astype(np.float32)
    bounds = np.cumsum([0, len(film), 200, len(film), 100])
    assert find_partners(vectors, bounds, 0.5) == [(0, 2)]


def test_a_clip_is_found_where_it_is_shown(engine: Engine, folder: Path, tmp_path: Path) -> None:
    clip = write_frames(tmp_path / "clip.mp4", draw_footage(1, 10)[30:80], change=mirror)
    found = {Path(showing.path).stem: showing for showing in engine.find_footage(clip)}
    assert set(found) >= {"film", "mirrored", "long"}
    assert not set(found) & {"alike", "other3", "other4", "other5"}
    assert found["film"].mirrored
    assert not found["mirrored"].mirrored
    assert found["long"].start - found["long"].clip_start * found["long"].speed == pytest.approx(10, abs=0.2)
    part = engine.find_footage(clip, start=1.0, end=4.0, video=folder / "long.mp4", repeated=True)
    assert [Path(showing.path).stem for showing in part] == ["long"]
    assert (part[0].start, part[0].end) == pytest.approx((11, 14), abs=0.25)


def test_a_stretch_of_a_stored_video_is_no_find_of_itself(engine: Engine, folder: Path) -> None:
    found = engine.find_footage(folder / "long.mp4", start=9.0, end=15.0)
    assert "long.mp4" not in {Path(showing.path).name for showing in found}
    film = next(showing for showing in found if showing.path.endswith("film.mp4"))
    assert film.start == pytest.approx(2, abs=0.2)
    assert [Path(path).name for path in film.copies] == ["twin.mp4"]


def test_of_a_video_whose_file_is_gone_no_footage_is_looked_for(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    film, mirrored = (shutil.copyfile(folder / name, tmp_path / name) for name in ("film.mp4", "mirrored.mp4"))
    with Engine(tmp_path / "index", PatchEncoder()) as engine:
        engine.index([film, mirrored])
        film.unlink()
        with pytest.raises(VidretError, match=r"film.mp4: does not exist"):
            engine.find_footage(film)
    assert not caplog.records


def test_clips_that_cannot_be_used_and_whole_videos_are_refused(
    engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    film = folder / "film.mp4"
    for clip, options, sentence in (
        (broken, {}, "broken.mp4: "),
        (film, {"start": 50.0, "end": 60.0}, "film.mp4: ends at 10.0 s, before the clip begins at 50.0 s"),
        (film, {"start": 5.0, "end": 5.0}, "start must be less than end, got 5 and 5"),
        (film, {"start": -1.0}, "start must be at least 0, got -1"),
        (film, {"end": "1"}, "end must be at least 0, got '1'"),
        (film, {"end": -1.0}, "end must be at least 0, got -1"),
        (film, {"filters": Filters(min_seconds=-1.0)}, "min_seconds must be between 0 and 1000000000, got -1.0"),
        (film, {"k": 0}, "k must be at least 1, got 0"),
        (film, {"k": 2.5}, "k must be an integer, got 2.5"),
        (film, {"video": tmp_path / "none.mp4"}, "none.mp4: not in the index"),
    ):
        with pytest.raises(VidretError, match=sentence):
            engine.find_footage(clip, **options)
    monkeypatch.setattr(engine.encoder, "sampling", Sampling(whole=True))
    for call in (engine.duplicates, lambda: engine.find_footage("a.mp4")):
        with pytest.raises(VidretError, match="which sees whole videos"):
            call()


def test_a_file_that_became_rubbish_is_left_out(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine(tmp_path / "empty", PatchEncoder()) as engine:
        engine.index([])
        assert engine.duplicates() == []
        assert engine.find_footage(folder / "film.mp4") == []
    for name in ("film.mp4", "mirrored.mp4"):
        shutil.copyfile(folder / name, tmp_path / name)
    with Engine(tmp_path / "index", PatchEncoder()) as engine:
        engine.index([tmp_path / "film.mp4", tmp_path / "mirrored.mp4"])
        (tmp_path / "mirrored.mp4").write_text("no video")
        with caplog.at_level(logging.WARNING):
            assert engine.duplicates() == []
    assert [record.getMessage().split(": ")[0] for record in caplog.records] == ["left out"]
