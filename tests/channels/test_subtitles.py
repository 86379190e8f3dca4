"""Tests of subtitle tracks inside videos and of subtitle files beside them."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.video.films import write_video
from tests.word_films import SUBTITLES, write_worded
from vidret.channels import subtitles
from vidret.channels.subtitles import MAX_TRACKS, Sidecars, digest_sidecars, find_subtitles, read_tracks
from vidret.video.probe import probe


def test_a_track_is_read_without_formatting(tmp_path: Path) -> None:
    found = read_tracks(str(write_worded(tmp_path / "a.mkv", ("", 4.0), subtitles=SUBTITLES)))
    assert [(text.start, text.end, text.text) for text in found.texts] == [
        (0.5, 1.5, "Where is the lighthouse?"),
        (2.0, 3.0, "Behind the hill."),
    ]
    assert found.problems == []
    assert read_tracks(str(write_worded(tmp_path / "b.mp4", ("", 1.0)))).texts == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_entries_after_the_last_frame_are_read_while_there_is_sound(tmp_path: Path, suffix: str) -> None:
    info = probe(write_video(tmp_path / f"a.{suffix}", range(25), audio=True, sound_start=16_000))
    (tmp_path / "a.srt").write_text(
        "1\n00:00:01,400 --> 00:00:09,000\nGood night.\n\n2\n00:00:03,000 --> 00:00:04,000\nNo.\n"
    )
    texts, problems = find_subtitles(info, [str(tmp_path / "a.srt")], lambda: None)
    assert [(text.start, round(text.end), text.text) for text in texts] == [(1.4, 2, "Good night.")]
    assert problems == ["a.srt: entries that begin after the end of the video are left out: 1"]
    texts, _ = find_subtitles(replace(info, damage="truncated"), [str(tmp_path / "a.srt")], lambda: None)
    assert texts == []


def test_tracks_that_are_not_read_are_named() -> None:
    def track(name: str | None) -> Any:
        return SimpleNamespace(codec_context=None if name is None else SimpleNamespace(name=name))

    streams = [track("pgssub"), track("pgssub"), track(None), *[track("srt") for _ in range(100)]]
    container = SimpleNamespace(streams=SimpleNamespace(subtitles=streams))
    chosen, problems = subtitles._choose_tracks(cast(Any, container))
    assert len(chosen) == MAX_TRACKS
    assert problems == [
        "2 subtitle tracks of pictures (pgssub) not read",
        "1 subtitle track in an unknown format not read",
        "80 subtitle tracks after the first 20 not read",
    ]


def test_sidecars_are_found_by_name(tmp_path: Path) -> None:
    names = ["film.srt", "film.en.srt", "film.de.forced.ass", "film.VTT", "film.2.srt", "filming.srt", "other.en.srt"]
    for name in [*names, "film.mp4", "film.txt"]:
        (tmp_path / name).write_text(name)
    found = [Path(path).name for path in Sidecars().find(str(tmp_path / "film.mp4"))]
    assert found == ["film.VTT", "film.de.forced.ass", "film.en.srt", "film.srt"]
    composed, decomposed = "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "cafe\N{COMBINING ACUTE ACCENT}"
    (tmp_path / f"{decomposed}.fr.srt").touch()
    assert [Path(path).name for path in Sidecars().find(str(tmp_path / f"{composed}.mp4"))] == [f"{decomposed}.fr.srt"]
    assert Sidecars().find("https://example.com/film.mp4") == []
    assert Sidecars().find(str(tmp_path / "nowhere" / "film.mp4")) == []


def test_the_digest_changes_with_a_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "film.srt"
    path.write_text("a")
    first = digest_sidecars([str(path)])
    assert first == digest_sidecars([str(path), str(tmp_path / "gone.srt")])
    os.utime(path, ns=(0, 1))
    assert digest_sidecars([str(path)]) != first
    assert digest_sidecars([]) == ""
