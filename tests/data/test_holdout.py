"""Parts of a split: held out by seed and share, whole sources at a time; what cannot be read is told."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from vidret.data.frames import VideoSpan
from vidret.data.holdout import (
    default_train_split,
    drop_unreadable,
    find_video_spans,
    hold_out,
    read_train_val,
    source_of,
)
from vidret.data.records import Caption, LabelledQuery, Split
from vidret.errors import VidretError


def split(videos: Sequence[str], captions: int = 2, name: str = "own") -> Split:
    rows = tuple(Caption(f"{video}_{n}", video, f"text {n}") for video in videos for n in range(captions))
    queries = tuple(LabelledQuery(video, video, "query", None, ((0.0, 1.0),)) for video in videos)
    return Split(name, ("file",), tuple(videos), rows, queries, ("a note",))


VIDEOS = [f"video{number}" for number in range(200)]


@pytest.mark.parametrize("share", [0.005, 0.05, 0.5, 0.99])
def test_a_share_of_the_videos_is_held_out_with_their_rows(share: float) -> None:
    whole = split(VIDEOS)
    portions = hold_out(whole, share, seed=0)
    assert portions.val is not None
    parts = (portions.train, portions.val)
    assert len(portions.val.videos) == round(200 * share)
    assert sorted(portions.train.videos + portions.val.videos) == sorted(VIDEOS)
    for part in parts:
        assert [row.video for row in part.captions] == [video for video in part.videos for _ in range(2)]
        assert tuple(row.video for row in part.queries) == part.videos
        assert list(part.videos) == sorted(part.videos, key=VIDEOS.index)
    assert [part.name for part in parts] == ["own-rest", "own-held-out"]
    assert parts[1].notes == ("a note", f"held out: {100 * share:g} % of own's videos, drawn with seed 0")


def test_the_seed_decides_and_a_few_videos_more_change_little() -> None:
    held = [set((hold_out(split(VIDEOS), 0.1, seed).val or split([])).videos) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]
    less = hold_out(split(VIDEOS[::-1][3:]), 0.1, 0).val
    assert less is not None
    assert len(held[0] ^ set(less.videos)) <= 6


def test_what_was_cut_from_one_video_stays_together() -> None:
    names = [f"film{film}_{start}.0_{start + 150}.0" for film in range(20) for start in (60, 210, 360)]
    for seed in range(10):
        portions = hold_out(split(names), 0.2, seed)
        assert portions.val is not None
        train, val = ({source_of(video) for video in part.videos} for part in (portions.train, portions.val))
        assert not train & val
        assert len(portions.val.videos) == 12


def test_sources_are_what_names_tell() -> None:
    names = {
        "NUsG9BgSes0_210.0_360.0": "NUsG9BgSes0",
        "-4wsuPCjDBc_5_15": "-4wsuPCjDBc",
        "1012_Film_00.05.16.065-00.05.21.941": "1012_Film",
        "abc_000010_000020": "abc",
        "video7020": "video7020",
        "s30-d41": "s30-d41",
        "v_x_1": "v_x_1",
    }
    assert {name: source_of(name) for name in names} == names


def test_shares_that_leave_nothing_are_refused() -> None:
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(VidretError, match="val_share must be between 0 and 1, or 0 for no validation, got"):
            hold_out(split(VIDEOS), share, 0)
    with pytest.raises(VidretError, match="own must have videos of several sources to hold out, got 2 of one"):
        hold_out(split(["a_0_1", "a_1_2"]), 0.5, 0)


def test_videos_that_cannot_be_read_are_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    whole = split(VIDEOS[:10])
    assert drop_unreadable(whole, {}) is whole
    assert drop_unreadable(whole, {"elsewhere": "is empty"}) is whole
    with caplog.at_level(logging.WARNING):
        left = drop_unreadable(whole, {f"video{number}": f"reason {number}" for number in range(1, 8)})
    note = "videos omitted of 10 because they cannot be read: 7 (video1: reason 1, video2: reason 2, video3: reason 3, "
    note += "video4: reason 4, video5: reason 5, ...)"
    assert left.notes == ("a note", note)
    assert caplog.messages == [f"own: {note}"]
    assert left.videos == ("video0", "video8", "video9")
    assert {row.video for row in left.captions} == {row.video for row in left.queries} == set(left.videos)
    with pytest.raises(VidretError, match=r"own must have at least one readable video, got none: 1 \(a: is empty\)"):
        drop_unreadable(split(["a"]), {"a": "is empty"})


def test_files_are_found_and_so_is_the_part_that_captions_describe(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.webm"):
        (tmp_path / name).touch()
    rows = [Caption("0", "a", "text", 0.0, 31.0), Caption("1", "a", "other", 0.0, 31.0), Caption("2", "b", "text")]
    parts, missing = find_video_spans(Split("own", (), ("a", "b", "c"), tuple(rows)), tmp_path)
    assert parts == {"a": VideoSpan(str(tmp_path / "a.mp4"), 0.0, 31.0), "b": VideoSpan(str(tmp_path / "b.webm"))}
    assert missing == {"c": f"no file in {tmp_path}"}
    with pytest.raises(
        VidretError, match=r"captions of a must describe one part of it, got \(0\.0, 31\.0\) and \(5\.0, 9\.0\) s"
    ):
        find_video_spans(Split("own", (), ("a",), (rows[0], Caption("3", "a", "text", 5.0, 9.0))), tmp_path)


def write_msvd(folder: Path, **splits: Sequence[str]) -> Path:
    texts = {video: [f"about {video}"] for videos in splits.values() for video in videos}
    (folder / "captions_msvd.json").write_text(json.dumps(texts))
    for name, videos in splits.items():
        (folder / f"{name}_list.txt").write_text("\n".join(videos))
    return folder


def test_validation_comes_out_of_training_unless_a_split_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_msvd(tmp_path, train=VIDEOS[:50], val=VIDEOS[50:60], test=VIDEOS[60:])
    portions = read_train_val("msvd", tmp_path, val_share=0.1)
    assert portions.val is not None
    assert (portions.train.name, portions.val.name) == ("msvd-train-rest", "msvd-train-held-out")
    assert set(portions.train.videos) | set(portions.val.videos) == set(VIDEOS[:50])
    assert read_train_val("msvd", tmp_path, val_share=0).val is None
    named = read_train_val("msvd", tmp_path, val_split="val")
    assert named.val is not None
    assert (named.train.videos, named.val.videos) == (tuple(VIDEOS[:50]), tuple(VIDEOS[50:60]))
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        read_train_val("msvd", tmp_path, val_split="test")
    assert "validation uses msvd-test" in caplog.messages[0]


def test_nobody_validates_on_what_is_trained_on(tmp_path: Path) -> None:
    write_msvd(tmp_path, train=["a", "b", "c"], val=["c", "d"])
    with pytest.raises(VidretError, match=r"msvd-val must share no video with msvd-train, got 1 \(c\)"):
        read_train_val("msvd", tmp_path, val_split="val")
    with pytest.raises(VidretError, match=r"msvd-train must share no video with msvd-train, got 3 \(a, b, c\)"):
        read_train_val("msvd", tmp_path, val_split="train")


def test_the_split_made_for_training_is_trained_on() -> None:
    names = {"msrvtt-1k-a": "train-9k", "msvd": "train", "captions": None, "msrvtt-1k-a-train-7k": None}
    assert {name: default_train_split(name) for name in names} == names
