"""Indexing runs: changed, missing and unreadable files, and interrupted, killed and resumed runs."""

import _thread
import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest

from tests.fakes import ColourEncoder, PatchEncoder, read_film, write_film, write_mosaic
from tests.index.samples import make_hostile_files, read_contents, read_states, read_tokens
from tests.noting import note_calls
from tests.rankers import make_ranker
from tests.store.samples import damage
from vidret.channels.texts.options import WordsOptions
from vidret.channels.texts.run import WordsRun
from vidret.engine import Engine
from vidret.errors import DecodeError, EncoderError, StoreError, VidretError
from vidret.index.options import Progress
from vidret.index.run import MAX_PENDING, choose_workers
from vidret.index.run_state import RunState
from vidret.index.stages import EncodingThreads, LocalStages, WorkerLostError
from vidret.store.catalog.videos import Files
from vidret.store.store import Store
from vidret.types import Frames, SegmentEmbedding
from vidret.video.files import LocalFile
from vidret.video.shots.segments import DecodedSegment
from vidret.video.workers.messages import Message
from vidret.video.workers.pool import DecodePool


@pytest.mark.parametrize(
    ("wanted", "num_jobs", "expected"),
    [
        (None, 100, "64 files at once: one for each of 64 cores"),
        (200, 300, "200 files at once: as requested"),
        (200, 1, "1 file at once: all that there are to read"),
        (1, 5, "1 file at once: as requested"),
    ],
)
def test_as_many_files_as_cores_or_as_requested_are_read_at_once(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, num_jobs: int, expected: str
) -> None:
    monkeypatch.setattr("vidret.index.run.count_cores", lambda: 64)
    assert choose_workers(wanted, num_jobs) == (int(expected.split()[0]), expected)


@pytest.mark.parametrize(("workers", "num_threads"), [(1, 5), (2, 2)])
def test_cores_that_files_leave_decode_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, num_threads: int
) -> None:
    chosen: list[int] = []
    stream, both = DecodePool.stream, threading.Barrier(workers)

    def watch(pool: DecodePool, path: str, **options: Any) -> Iterator[Message]:
        both.wait(30)
        chosen.append(options["num_threads"])
        return stream(pool, path, **options)

    monkeypatch.setattr(DecodePool, "stream", watch)
    monkeypatch.setattr("vidret.index.run.count_cores", lambda: 5)
    for name, colour in (("a", "red"), ("b", "blue")):
        write_film(tmp_path / "films" / f"{name}.mp4", (colour, 2))
    report = Engine(tmp_path / "index", ColourEncoder()).index([tmp_path / "films"], workers=workers)
    assert chosen == [num_threads, num_threads]
    assert report.workers.startswith(f"{workers} file")


def test_words_of_copies_are_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    for name in ("b", "c"):
        shutil.copy(tmp_path / "films" / "a.mp4", tmp_path / "films" / f"{name}.mp4")
    words = WordsOptions(sources=("subtitles",))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"], words=words, workers=1)
        asked = note_calls(monkeypatch, WordsRun, "are_wanted", lambda *_: None)
        assert engine.index([tmp_path / "films"], words=words).unchanged == 3
        assert len(asked) == 1
        (tmp_path / "films" / "b.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
        assert engine.index([tmp_path / "films"], words=words).texts == {"subtitles": 1}


def test_subtitles_beside_one_of_two_touched_copies_stay(tmp_path: Path) -> None:
    film = write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    copy = Path(shutil.copy(film, film.with_name("b.mp4")))
    copy.with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    words = WordsOptions(sources=("subtitles",))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        for _ in range(2):
            engine.index([film.parent], words=words, workers=1)
            assert [text.text for text in engine.transcript(film)] == ["hello"]
            film.touch()
            copy.touch()


def test_model_is_not_used_if_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mosaic(tmp_path / "films" / "a.mp4", 2, seed=0)
    Engine(tmp_path / "index", PatchEncoder(), rerank="ucofia").index([tmp_path / "films"])
    for name in ("encode_frames", "encode_text"):
        monkeypatch.setattr(PatchEncoder, name, Mock(side_effect=AssertionError("the model was used")))
    report = Engine(tmp_path / "index", PatchEncoder()).index([tmp_path / "films"])
    assert (report.unchanged, report.encoded, report.failed) == (1, 0, [])


def test_broken_encoder_is_rejected_before_it_adds_to_an_index(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "a.mp4", ("red", 2))

    class Broken(ColourEncoder):
        def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
            embeddings = super().encode_frames(batch, tokens=tokens)
            return [
                SegmentEmbedding(embeddings[0].video, embedding.frames, embedding.times) for embedding in embeddings
            ]

    with pytest.raises(EncoderError, match="must give different images different vectors"):
        Engine(tmp_path / "index", Broken()).index([tmp_path / "films"])
    assert not (tmp_path / "index").exists()
    Engine(tmp_path / "index", ColourEncoder()).index([tmp_path / "films"])
    write_film(tmp_path / "films" / "b.mp4", ("blue", 2))
    with pytest.raises(EncoderError, match="must give different images different vectors"):
        Engine(tmp_path / "index", Broken()).index([tmp_path / "films"])
    assert Engine(tmp_path / "index", ColourEncoder()).index([tmp_path / "films"]).encoded == 1


def test_a_deleted_copy_is_not_moved(tmp_path: Path) -> None:
    film, copy = write_film(tmp_path / "films" / "a.mp4", ("red", 2)), tmp_path / "films" / "b.mp4"
    shutil.copyfile(film, copy)
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([tmp_path / "films"])
    copy.unlink()
    report = engine.index([tmp_path / "films"])
    assert (report.deleted_copies, report.moved, report.missing) == ([(str(copy), str(film))], [], 0)
    film.rename(copy)
    report = engine.index([tmp_path / "films"])
    assert (report.deleted_copies, report.moved, report.missing) == ([], [(str(film), str(copy))], 0)


def test_the_files_of_a_video_are_not_listed_for_each_copy_if_no_words_are_read(tmp_path: Path) -> None:
    film = write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    shutil.copyfile(film, film.with_name("b.mp4"))
    with patch.object(Files, "of_video", side_effect=AssertionError):
        report = Engine(tmp_path / "index", ColourEncoder()).index([film.parent], words=False)
    assert (report.encoded, report.linked) == (1, 1)


def test_a_copy_that_was_deleted_before_does_not_move_with_the_other(tmp_path: Path) -> None:
    film, copy = write_film(tmp_path / "films" / "a.mp4", ("red", 2)), tmp_path / "films" / "b.mp4"
    shutil.copyfile(film, copy)
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([film.parent])
    copy.unlink()
    engine.index([film.parent])
    new = film.rename(film.with_name("c.mp4"))
    report = engine.index([film.parent])
    assert (report.moved, report.deleted_copies) == ([(str(film), str(new))], [])


def test_a_file_of_a_wrong_clock_is_as_others(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", ("red", 2))
    for seconds in (10**11, -(10**11)):  # neither of which SQLite could hold in nanoseconds
        os.utime(film, (seconds, seconds))
        engine = Engine(tmp_path / str(seconds), ColourEncoder())
        assert engine.index([film]).encoded == 1
        assert engine.index([film]).unchanged == 1
        assert len(engine.search("red")) == 1


def test_moved_changed_deleted_and_pruned_files(tmp_path: Path) -> None:
    films = tmp_path / "films"
    write_film(films / "a.mp4", ("red", 2))
    write_film(films / "b.mp4", ("blue", 2))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([films])

    (films / "deeper").mkdir()
    (films / "a.mp4").rename(films / "deeper" / "moved.mp4")
    report = engine.index([films])
    old, new = str(films / "a.mp4"), str(films / "deeper" / "moved.mp4")
    assert (report.linked, report.moved, report.missing, report.encoded) == (1, [(old, new)], 0, 0)
    report = engine.index([films])
    assert (report.linked, report.moved, report.missing) == (0, [], 0), "a moved file is not missing later either"
    assert [Path(hit.path).name for hit in engine.search("red", 1)] == ["moved.mp4"]
    assert read_states(tmp_path / "index") == {"b.mp4": "done", "moved.mp4": "done"}

    Path(new).touch()
    progress: list[Progress] = []
    report = engine.index([films], on_progress=progress.append)
    assert (report.linked, report.unchanged, progress[-1].done) == (0, 2, 1), "a touched file is read, not moved"

    write_film(films / "b.mp4", ("green", 2))
    report = engine.index([films])
    assert (report.encoded, report.unchanged) == (1, 1)
    assert [Path(hit.path).name for hit in engine.search("green", 1)] == ["b.mp4"]
    assert engine.search("blue", 1)[0].score < 0.9, "the old content is not returned"

    (films / "deeper" / "moved.mp4").unlink()
    report = engine.index([films])
    assert (report.missing, report.gone) == (1, [new]), "a moved file is missing once"
    report = engine.index([films], prune=True)
    assert report.pruned is not None
    assert (report.pruned.files, report.pruned.videos, report.pruned.segments) == (1, 2, 2)
    assert read_states(tmp_path / "index") == {"b.mp4": "done"}


def test_a_file_is_moved_also_if_an_earlier_run_did_not_find_it(tmp_path: Path) -> None:
    film, new = write_film(tmp_path / "a" / "a.mp4", ("red", 2)), tmp_path / "b" / "b.mp4"
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([film.parent])
    new.parent.mkdir()
    film.rename(new)
    report = engine.index([])
    assert (report.missing, report.moved) == (1, [])
    report = engine.index([new.parent])
    assert (report.missing, report.moved) == (0, [(str(film), str(new))])
    assert read_states(tmp_path / "index") == {"b.mp4": "done"}


def test_a_file_that_an_interrupted_run_did_not_get_to_is_unchanged(tmp_path: Path) -> None:
    film = write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    copy = Path(shutil.copyfile(film, film.with_name("b.mp4")))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([film.parent])
    film.touch()
    assert engine.index([film.parent], on_progress=Mock(side_effect=[KeyboardInterrupt, *[None] * 99])).interrupted
    copy.unlink()
    report = engine.index([film.parent])
    assert (report.unchanged, report.linked) == (1, 0)
    assert (report.moved, report.deleted_copies) == ([], [(str(copy), str(film))])


def test_what_was_moved_from_a_drive_is_known_when_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folders that are left are on another disk, which a test cannot mount."""
    drive, here = tmp_path / "drive", tmp_path / "here"
    film = write_film(drive / "a.mp4", ("red", 2))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([drive])
    shutil.copytree(drive, here)
    drive.rename(tmp_path / "away")
    monkeypatch.setattr("vidret.index.run_state.is_same_disk", lambda _missing, _path: False)
    assert engine.index([here]).moved == [(str(film), str(here / "a.mp4"))]
    shutil.copyfile(here / "a.mp4", here / "b.mp4")
    assert engine.index([here]).moved == [], "once"
    (here / "b.mp4").unlink()
    (tmp_path / "away").rename(drive)
    report = engine.index([drive, here])
    assert (report.unchanged, report.linked, report.encoded) == (2, 0, 0)


def test_a_run_is_done_if_another_process_writes_before_searches_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    other = list[Store]()
    monkeypatch.setattr(
        "vidret.search.preparation.calibrate_with_bank",
        lambda *_: other.append(Store.open(tmp_path / "index", write=True)),
    )
    monkeypatch.setattr("vidret.copies.folding.FEW_VIDEOS", 0)
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        assert engine.index([tmp_path / "films"]).encoded == 1
        (record,) = caplog.records
        assert record.getMessage().startswith("searches are not prepared, which the next run does: ")
        other.pop().close()
        with pytest.raises(StoreError, match="is writing this index"):
            engine.prepare_searches()
        other.pop().close()


def test_a_drive_that_is_back_is_found_again_while_another_folder_is_indexed(tmp_path: Path) -> None:
    here, drive = write_film(tmp_path / "here" / "a.mp4", ("red", 2)), tmp_path / "drive"
    for name, colour in (("b", "blue"), ("c", "green")):
        write_film(drive / f"{name}.mp4", (colour, 2))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([here, drive])
    drive.rename(tmp_path / "away")
    assert engine.index([here]).missing == 2
    (tmp_path / "away").rename(drive)
    write_film(drive / "c.mp4", ("white", 3))
    report = engine.index([here])
    assert (report.gone, report.unchanged) == ([str(drive / "c.mp4")], 1), "c is another video now"
    assert [Path(hit.path).name for hit in engine.search("blue", 1)] == ["b.mp4"]


def test_pruning_keeps_the_files_of_an_unmounted_drive(tmp_path: Path) -> None:
    here, drive = tmp_path / "here", tmp_path / "drive"
    for name in ("a", "b"):
        write_film(here / f"{name}.mp4", ("red", 2), salt=ord(name))
    write_film(drive / "c.mp4", ("blue", 2))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([here, drive])
    drive.rename(tmp_path / "away")
    (here / "b.mp4").unlink()
    report = engine.index([here], prune=True)
    assert report.pruned is not None
    assert (report.pruned.files, report.unpruned) == (1, [str(drive / "c.mp4")])
    drive.mkdir()  # its mount point
    write_film(tmp_path / "here2" / "d.mp4", ("white", 2))
    report = engine.index([here, drive, tmp_path / "her*2", here / "a.mp4"], prune=True)
    assert report.pruned is not None
    assert (report.pruned.files, report.unpruned) == (0, [str(drive / "c.mp4")])
    (here / "a.mp4").rename(here / "e.mp4")
    report = engine.index([here / "e.mp4"], prune=True)  # no folder
    assert report.unpruned == [str(drive / "c.mp4")]
    drive.rmdir()
    (tmp_path / "away").rename(drive)
    report = engine.index([here, drive], prune=True)
    assert (report.unchanged, report.linked, report.encoded, report.unpruned) == (2, 0, 0, [])
    assert read_states(tmp_path / "index") == {"c.mp4": "done", "d.mp4": "done", "e.mp4": "done"}


def test_a_file_that_failed_and_is_gone_is_not_missing(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    (tmp_path / "films" / "b.mp4").write_text("no video")
    engine = Engine(tmp_path / "index", ColourEncoder())
    assert len(engine.index([tmp_path / "films", tmp_path / "films" / "b.mp4"]).failed) == 1
    (tmp_path / "films" / "b.mp4").unlink()
    report = engine.index([tmp_path / "films"])
    assert (report.missing, report.failed, engine.info().files) == (0, [], {"done": 1})


def test_file_that_exists_again_is_read_only_if_it_failed_meanwhile(tmp_path: Path) -> None:
    films = tmp_path / "films"
    film, away, manifest = write_film(films / "a.mp4", ("red", 2)), tmp_path / "away.mp4", tmp_path / "all.csv"
    manifest.write_text("path\nfilms/a.mp4\n")
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([films])
    film.rename(away)
    assert engine.index([films]).missing == 1
    assert engine.search("red") == []
    away.rename(film)
    report = engine.index([films])
    assert (report.unchanged, report.encoded, report.linked) == (1, 0, 0)
    assert len(engine.search("red")) == 1
    film.rename(away)
    assert engine.index([manifest]).failed == [(str(film), "does not exist")]
    away.rename(film)
    report = engine.index([manifest])
    assert (report.linked, report.encoded, report.failed) == (1, 0, [])
    with pytest.raises(VidretError, match="no such file"):
        Engine(tmp_path / "none", ColourEncoder()).index([tmp_path / "nowhere"])
    assert not (tmp_path / "none").exists()


def test_a_file_that_failed_and_comes_back_has_not_the_video_that_it_had_before(tmp_path: Path) -> None:
    film, away = write_film(tmp_path / "films" / "a.mp4", ("red", 2)), tmp_path / "away.mp4"
    write_film(tmp_path / "films" / "b.mp4", ("blue", 2))
    engine = Engine(tmp_path / "index", ColourEncoder())
    engine.index([film.parent])
    film.write_text("no video")
    failed = engine.index([film.parent]).failed
    film.rename(away)
    engine.index([film.parent])
    away.rename(film)
    assert engine.index([film.parent]).failed == failed
    assert [Path(hit.path).name for hit in engine.search("red")] == ["b.mp4"]


# Contents of files


def pad(path: Path, num_bytes: int) -> None:
    """Append an MP4 box of zeros that players ignore."""
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", num_bytes, b"free").ljust(num_bytes, b"\0"))


class CallingEncoder(ColourEncoder):
    """An encoder that calls a function once, at the first segment of a file."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__()
        self._call: Callable[[], object] | None = call

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        embeddings = super().encode_frames(batch, tokens=tokens)
        if self._call is not None and len(batch) == 1:  # the start-up check has two
            self._call()
            self._call = None
        return embeddings


def test_file_replaced_while_it_is_read_is_not_stored(tmp_path: Path) -> None:
    red = write_film(tmp_path / "films" / "a.mp4", ("red", 30))
    blue = write_film(tmp_path / "blue.mp4", ("blue", 30))
    size = max(red.stat().st_size, blue.stat().st_size) + 8
    for film in (red, blue):
        pad(film, size - film.stat().st_size)
    shutil.copystat(red, blue)  # same size and modification time

    report = Engine(tmp_path / "index", CallingEncoder(lambda: blue.replace(red))).index([tmp_path / "films"])
    assert (report.encoded, report.failed) == (0, [(str(red), "changed while it was read")])
    with Store.open(tmp_path / "index") as store:
        (name,) = store.videos.fingerprints().values()
        assert store.videos.find_complete(name) is None
    engine = Engine(tmp_path / "index", ColourEncoder())
    assert engine.search("red") == []
    assert (engine.index([tmp_path / "films"]).encoded, engine.index([tmp_path / "films"]).unchanged) == (1, 1)
    assert engine.search("blue", 1)[0].score > 0.99
    assert engine.search("red", 1)[0].score < 0.9


def test_file_touched_while_it_is_read_is_stored(tmp_path: Path) -> None:
    red = write_film(tmp_path / "films" / "a.mp4", ("red", 30))
    report = Engine(tmp_path / "index", CallingEncoder(red.touch)).index([tmp_path / "films"])
    assert (report.encoded, report.failed) == (1, [])


# Unreadable files


def test_hostile_files_fail_until_they_change_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    good = write_film(folder / "good.mp4", ("red", 2))
    write_film(folder / "x" / "one frame.mp4", ("blue", 1 / 5))
    expected = make_hostile_files(folder, good)
    engine = Engine(tmp_path / "index", ColourEncoder())
    report = engine.index([folder])
    assert report.encoded == 2
    reasons = {Path(path).name: reason for path, reason in report.failed}
    assert set(reasons) == set(expected)
    for name, word in expected.items():
        assert word in reasons[name], f"{name}: {reasons[name]}"
        assert reasons[name].strip()
    assert dict(engine.failed()) == dict(report.failed), "stored"

    again = engine.index([folder])
    assert (again.encoded, again.unchanged) == (0, 2)
    assert again.failed == engine.index([folder], retry_failed=True).failed == report.failed
    write_film(folder / "text.mp4", ("green", 2))
    changed = engine.index([folder])
    assert (changed.encoded, len(changed.failed)) == (1, len(report.failed) - 1)


def test_a_file_that_the_system_refuses_to_read_is_tried_again(tmp_path: Path) -> None:
    write_film(tmp_path / "films" / "a.mp4", ("red", 2))
    engine = Engine(tmp_path / "index", ColourEncoder())

    def refuse(_file: LocalFile, path: str) -> None:
        raise DecodeError(path, "may not be read: permission denied") from PermissionError(13, "Permission denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalFile, "__init__", refuse)
        assert len(engine.index([tmp_path / "films"]).failed) == 1
    report = engine.index([tmp_path / "films"])
    assert (report.encoded, report.failed) == (1, [])


BROKEN_PYAV = """
import av
original = av.open
def fail(file, *arguments, **options):
    if {part!r} in str(getattr(file, "name", file)):
        raise TypeError("open() got an unexpected keyword argument 'metadata_errors'")
    return original(file, *arguments, **options)
av.open = fail
"""


def break_decoders(monkeypatch: pytest.MonkeyPatch, folder: Path, part: str) -> None:
    """Make decoding processes fail on files whose paths contain a part."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BROKEN_PYAV.format(part=part))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))


def test_decoder_that_fails_on_every_file_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for film_index in range(3):
        write_film(tmp_path / "films" / f"{film_index}.mp4", ("red", 1), salt=film_index)
    (tmp_path / "films" / "empty.mp4").touch()
    engine = Engine(tmp_path / "index", ColourEncoder())
    with monkeypatch.context() as broken:
        break_decoders(broken, tmp_path / "broken", "films")
        with pytest.raises(
            VidretError, match=r"^none of 3 files could be decoded: the decoder failed: TypeError: open"
        ):
            engine.index([tmp_path / "films"])
    assert engine.failed() == [(str(tmp_path / "films" / "empty.mp4"), "is empty")]
    assert engine.index([tmp_path / "films"]).encoded == 3


def test_decoder_that_fails_on_some_files_fails_those(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("odd 1", "odd 2", "good"):
        write_film(tmp_path / "films" / f"{name}.mp4", ("red", 1), salt=ord(name[-1]))
    engine = Engine(tmp_path / "index", ColourEncoder())
    break_decoders(monkeypatch, tmp_path / "broken", "odd")
    report = engine.index([tmp_path / "films"])
    assert report.encoded == 1
    assert [(Path(path).name, reason[:31]) for path, reason in report.failed] == [
        ("odd 1.mp4", "the decoder failed: TypeError: "),
        ("odd 2.mp4", "the decoder failed: TypeError: "),
    ]
    assert engine.index([tmp_path / "films"]).failed == report.failed
    assert dict(engine.failed()) == dict(report.failed)


def test_truncated_film_is_salvaged_and_reported(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mkv", *[("red", 3), ("blue", 3), ("green", 3)] * 3)
    films = tmp_path / "films"
    films.mkdir()
    (films / "half.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    engine = Engine(tmp_path / "index", ColourEncoder())
    report = engine.index([films])
    assert report.encoded == 1
    assert len(report.salvaged) == 1
    assert report.salvaged[0][1]
    moment = engine.locate("red", 1)[0]
    assert moment.end - moment.start == pytest.approx(3, abs=0.2)


class SlowEncoder(PatchEncoder):
    """An encoder that takes 50 ms per batch."""

    def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
        time.sleep(0.05)
        return super().encode_frames(batch, tokens=tokens)


def test_interrupted_run_leaves_a_valid_index_and_is_resumed(tmp_path: Path) -> None:
    write_mosaic(tmp_path / "films" / "long.mp4", 240, seed=0)
    whole = Engine(tmp_path / "whole", PatchEncoder(), rerank="ucofia", tokens="float16")
    num_segments = whole.index([tmp_path / "films"]).num_segments

    pressed: list[str] = []

    def interrupt(progress: Progress) -> None:
        if progress.num_segments and not pressed:
            pressed.append("Ctrl-C")
            raise KeyboardInterrupt

    begun = Engine(tmp_path / "index", SlowEncoder(), rerank="ucofia", tokens="float16")
    first = begun.index([tmp_path / "films"], on_progress=interrupt)
    assert first.interrupted
    assert 0 < first.num_segments < num_segments
    engine = Engine(tmp_path / "index", PatchEncoder())
    assert engine.search("rain"), "stored segments can be searched"
    second = engine.index([tmp_path / "films"])
    assert first.num_segments + second.num_segments == num_segments, "resumed within the film"
    assert read_contents(tmp_path / "index") == read_contents(tmp_path / "whole")
    assert [hit.score for hit in engine.search("rain")] == [hit.score for hit in whole.search("rain")]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a film of many scenes, and its index."""
    folder = tmp_path_factory.mktemp("long")
    film = write_film(folder / "long.mp4", *[("red", 3), ("blue", 3)] * 10)
    Engine(folder / "whole", ColourEncoder()).index([film])
    return folder


@pytest.mark.parametrize(("num_messages", "num_losses"), [(4, 2), (1, 3), (1, 4)])
def test_lost_workers_cost_what_was_not_stored(
    long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_messages: int, num_losses: int
) -> None:
    film, expected = long / "long.mp4", read_contents(long / "whole")
    stream, numbers = LocalStages.stream, list[int]()

    def lose(stages: LocalStages, *arguments: Any) -> Iterator[Message]:
        is_lost = num_losses > len(numbers)
        numbers.append(0)
        for message in islice(stream(stages, *arguments), num_messages if is_lost else None):
            numbers[-1] += isinstance(message, DecodedSegment)
            yield message
        if is_lost:
            raise WorkerLostError("its node died")

    monkeypatch.setattr(LocalStages, "stream", lose)
    monkeypatch.setattr("vidret.index.run.LOSS_PAUSE_S", 0.0)
    monkeypatch.setattr("vidret.index.run.MAX_LOSSES", most := 3)
    engine = Engine(tmp_path / "index", ColourEncoder())
    if num_losses > most:  # without a segment
        with pytest.raises(VidretError, match="the workers of the run are gone: its node died"):
            engine.index([film])
        return
    report = engine.index([film])
    assert (report.encoded, report.failed, report.num_segments) == (1, [], len(expected))
    assert len(numbers) == num_losses + 1
    assert sum(numbers) <= len(expected) + MAX_PENDING * num_losses
    assert read_contents(tmp_path / "index") == expected


def test_a_run_that_fails_waits_for_its_encoder(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would abort if it ended while a native library encodes."""
    is_encoding, is_closing, calls = threading.Event(), threading.Event(), list[int]()

    class Late(ColourEncoder):
        def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
            calls.extend([0] * (len(batch[0]) > 1))  # not the check at the start
            if len(calls) > 1:
                is_encoding.set()
                is_closing.wait(30)
            return super().encode_frames(batch, tokens=tokens)

    def fail(*_: object) -> None:
        is_encoding.wait(30)
        raise StoreError("the disk is full")

    def end(threads: EncodingThreads, *error: object) -> None:
        end_encoding(threads, *error)
        is_closing.set()

    end_encoding = EncodingThreads.__exit__
    monkeypatch.setattr(EncodingThreads, "__exit__", end)
    monkeypatch.setattr(RunState, "add", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        Engine(tmp_path / "index", Late()).index([long / "long.mp4"])
    assert "encode" not in {thread.name for thread in threading.enumerate()}


def test_copies_in_one_run_are_stored_once(tmp_path: Path) -> None:
    film = write_film(tmp_path / "films" / "0.mp4", ("red", 8))
    for film_index in range(1, 6):
        shutil.copy(film, tmp_path / "films" / f"{film_index}.mp4")
    report = Engine(tmp_path / "index", ColourEncoder()).index([tmp_path / "films"], workers=4)
    assert (report.encoded, report.linked) == (1, 5)
    assert len(read_contents(tmp_path / "index")) == 2


def test_progress_counts_segments_and_not_bytes(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for film_index in range(6):
        write_film(films / f"{film_index}.mp4", ("red", 2 + film_index / 5))
    with (films / "junk.mp4").open("wb") as file:
        file.write(b"junk")
        file.truncate(64 << 20)
    seen: list[Progress] = []
    report = Engine(tmp_path / "index", SlowEncoder()).index([films], workers=1, on_progress=seen.append)
    assert (report.encoded, len(report.failed)) == (6, 1)
    assert any(progress.done < 6 for progress in seen)
    assert [progress.share for progress in seen] == sorted(progress.share for progress in seen)
    for progress in seen:
        finished = progress.done + progress.failed
        assert finished / 7 <= progress.share <= (finished + 1) / 7
        assert progress.num_files == 7


# Packed tokens.


@pytest.mark.parametrize("kind", ["ucofia", "trained ucofia", "trained glscl"])
def test_tokens_of_every_segment_are_those_the_ranker_packs(kind: str, tmp_path: Path) -> None:
    films, encoder, ranker = tmp_path / "films", PatchEncoder(), make_ranker(kind, tmp_path)
    for seed, duration_s in enumerate((2, 9)):
        write_mosaic(films / f"{seed}.mp4", duration_s, seed)
    Engine(tmp_path / "index", encoder, rerank=ranker.name, tokens="float16").index([films], shots=False)
    expected = {}
    for path in films.iterdir():
        for segment_index, embedding in enumerate(encoder.encode_frames(read_film(path, encoder), tokens=True)):
            expected[path.name, segment_index] = ranker.pack(embedding)
    stored = read_tokens(tmp_path / "index")
    assert stored == expected
    assert len(stored) == 4
    assert all(stored.values())


@pytest.mark.parametrize("rerank", ["none", "glscl"])
def test_no_tokens_are_computed_for_a_ranker_that_packs_none(rerank: str, tmp_path: Path) -> None:
    write_mosaic(tmp_path / "films" / "0.mp4", 6, seed=0)

    class Thrifty(PatchEncoder):
        def encode_frames(self, batch: Sequence[Frames], *, tokens: bool = False) -> list[SegmentEmbedding]:
            assert not tokens
            return super().encode_frames(batch)

    engine = Engine(tmp_path / "index", Thrifty(), rerank=rerank)
    assert engine.index([tmp_path / "films"], shots=False).encoded == 1
    assert engine.info().with_tokens == 0
    assert set(read_tokens(tmp_path / "index").values()) == {b""}


def test_damaged_tokens_are_detected_and_packed_again(tmp_path: Path) -> None:
    write_mosaic(tmp_path / "films" / "0.mp4", 6, seed=0)
    engine = Engine(tmp_path / "index", PatchEncoder(), rerank="ucofia")
    engine.index([tmp_path / "films"], shots=False)
    before = read_tokens(tmp_path / "index")
    damage(tmp_path / "index" / "features" / "tokens.bin", 40)
    with Store.open(tmp_path / "index", write=True) as store:
        assert len(store.upkeep.verify(repair=True)) == 1
    assert engine.index([tmp_path / "films"], shots=False).num_segments == 1
    assert read_tokens(tmp_path / "index") == before


def test_a_file_that_exists_again_is_read_if_its_segments_were_lost_meanwhile(tmp_path: Path) -> None:
    film = write_film(tmp_path / "films" / "a.mp4", ("red", 3))
    write_film(tmp_path / "films" / "b.mp4", ("blue", 3))
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        engine.index([tmp_path / "films"])
    film.rename(tmp_path / "a.mp4")
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        assert engine.index([tmp_path / "films"]).missing == 1
    damage(tmp_path / "index" / "features" / "video.f16", 0)
    damage(tmp_path / "index" / "features" / "video.f16", -1)
    with Store.open(tmp_path / "index", write=True) as store:
        store.upkeep.verify(repair=True)
    (tmp_path / "a.mp4").rename(film)
    with Engine(tmp_path / "index", ColourEncoder()) as engine:
        assert engine.index([tmp_path / "films"]).encoded == 2
        assert len(engine.search("red", k=5)) == 2


def test_run_ends_after_its_threads_when_it_is_interrupted(tmp_path: Path) -> None:
    """Python 3.11 takes a thread for ended once an interrupt has ended a call of its ``join``."""
    ended = list[bool]()

    def work() -> None:
        time.sleep(0.1)  # until it is waited for
        _thread.interrupt_main()
        while not run_state.interrupted:
            time.sleep(0.01)
        time.sleep(0.2)
        ended.append(True)

    Engine(tmp_path / "index", ColourEncoder()).index([write_film(tmp_path / "red.mp4", ("red", 2))])
    with Store.open(tmp_path / "index", write=True) as store:
        run_state = RunState(store, retry_failed=False)
        ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # in a test run in the background, by nohup
        try:
            run_state.watch([threading.Thread(target=work, daemon=True)], None)
        finally:
            signal.signal(signal.SIGINT, ignored)
    assert run_state.interrupted
    assert ended
