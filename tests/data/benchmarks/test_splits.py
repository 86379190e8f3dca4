"""Splits by name, held-out validation splits, splits without unreadable videos, and errors for what does not exist."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.data.benchmarks.annotated import write
from tests.data.captioned import write_msvd
from vidret.data.benchmarks.registry import DATASETS, RECIPES
from vidret.data.benchmarks.splits import (
    SplitChoice,
    drop_unreadable,
    find_video_spans,
    hold_out,
    keep_domain,
    read_split,
    source_of,
)
from vidret.data.records import Caption, LabelledQuery, Split, VideoSpan
from vidret.errors import VidretError

MOMENT = json.dumps({"qid": 1, "query": "fog", "vid": "a", "duration": 9, "relevant_windows": [[1, 2]]})


def test_name_may_include_split(tmp_path: Path) -> None:
    for split_name in ("val", "train"):
        write(tmp_path / f"highlight_{split_name}_release.jsonl", MOMENT.replace("fog", split_name))
    assert read_split("qvhighlights", tmp_path).queries[0].text == "val"
    for split in (
        read_split("qvhighlights-train", tmp_path),
        read_split("qvhighlights", tmp_path, "train"),
        read_split("qvhighlights", str(tmp_path), split="train"),
    ):
        assert (split.name, split.queries[0].text) == ("qvhighlights-train", "train")


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, benchmark in DATASETS.items() for split in benchmark.splits]
)
def test_every_split_says_which_files_it_needs(name: str, split: str, tmp_path: Path) -> None:
    with pytest.raises(VidretError, match=rf"^{name}.* needs .*: not found in {tmp_path}$") as caught:
        read_split(name, tmp_path, split)
    assert all(file in str(caught.value) for file in DATASETS[name].splits[split].needed)


def test_recipes_of_benchmarks_exist() -> None:
    assert {benchmark.recipe for benchmark in DATASETS.values()} == {"", *RECIPES}


def test_unknown_names_and_splits_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    for name in ("imagenet", "msvd-holdout", "", "qvhighlights-", "val"):
        with pytest.raises(VidretError, match=rf"^name must be one of msrvtt-1k-a, .*, moments.*, got {name}$"):
            read_split(name, tmp_path)
    with pytest.raises(VidretError, match=r"^name must be one of .* got msvd-train$"):
        read_split("msvd-train", tmp_path, "train")
    with pytest.raises(
        VidretError, match=r"^split must be one of test, train-9k, train-7k for msrvtt-1k-a, got train$"
    ):
        read_split("msrvtt-1k-a", tmp_path, "train")


def test_files_are_found_in_folder_or_benchmark_subfolder(tmp_path: Path) -> None:
    below = write(tmp_path / "charades_sta" / "charades_sta_test.txt", "AB1CD 1.0 2.0##in its own folder.\n")
    assert read_split("charades-sta", tmp_path).files == (str(below),)
    assert read_split("charades-sta", tmp_path / "charades_sta").files == (str(below),)
    here = write(tmp_path / "charades_sta_test.txt", "AB1CD 1.0 2.0##here.\n")
    assert read_split("charades-sta", tmp_path).files == (str(here),)


def test_original_ground_truth_is_preferred_and_derived_one_noted(tmp_path: Path) -> None:
    derived = write(tmp_path / "charades_test_release.jsonl", MOMENT)
    split = read_split("charades-sta", tmp_path)
    assert (split.files, split.queries[0].duration) == ((str(derived),), 9.0)
    assert split.notes[0].startswith("read from charades_test_release.jsonl: derived by others")
    original = write(tmp_path / "charades_sta_test.txt", "AB1CD 1.0 2.0##a.\n")
    lengths = write(tmp_path / "Charades_v1_test.csv", "id,length\nAB1CD,30\n")
    split = read_split("charades-sta", tmp_path)
    assert (split.files, split.queries[0].duration) == ((str(original), str(lengths)), 30.0)
    assert read_split("charades-sta", derived).files == (str(derived),)


def test_file_path_is_read_under_any_name_with_list_beside_it(tmp_path: Path) -> None:
    captions = write(tmp_path / "renamed.json", json.dumps({"v1": ["a"], "v2": ["b"]}))
    with pytest.raises(VidretError, match=rf"^msvd-test needs test_list\.txt: not found in {tmp_path}$"):
        read_split("msvd", captions)
    listed = write(tmp_path / "test_list.txt", "v2\n")
    assert read_split("msvd", captions).files == (str(captions), str(listed))
    path = write(tmp_path / "holiday.jsonl", MOMENT)
    split = read_split("moments", path)
    assert (split.name, split.files) == ("moments", (str(path),))


def test_error_lists_missing_files_and_searched_folders(tmp_path: Path) -> None:
    (tmp_path / "msrvtt").mkdir()
    with pytest.raises(VidretError) as caught:
        read_split("msrvtt-1k-b", tmp_path)
    assert str(caught.value) == (
        "msrvtt-1k-b-test needs MSRVTT_data.json and test_list_1kB_miech.txt or test_list_miech.txt: "
        f"not found in {tmp_path}, {tmp_path / 'msrvtt'}"
    )
    nowhere = tmp_path / "nowhere.csv"
    with pytest.raises(
        VidretError, match=rf"^annotations must be .* that exists, got {nowhere} \(captions needs .*\)$"
    ):
        read_split("captions", nowhere)


def test_notes_of_the_benchmark_come_first(tmp_path: Path) -> None:
    video = {"duration": 9, "timestamps": [[1, 12]], "sentences": ["Fog."]}
    write(tmp_path / "val_2.json", json.dumps({"v_a": video}))
    notes = read_split("activitynet-moments-val_2", tmp_path).notes
    assert notes[0].startswith("the videos of val_2 are among those of val_1")
    assert notes[1] == "windows that extended past their video, clipped to it: 1"
    assert read_split("activitynet", tmp_path, "val_2").captions[0].text == "Fog."
    write(tmp_path / "MSRVTT_data.json", json.dumps({"sentences": [{"video_id": "video1", "caption": "fog"}]}))
    write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo1\n")
    assert "do not evaluate there" in read_split("msrvtt-1k-a", tmp_path, "train-9k").notes[0]


def make_split(videos: Sequence[str], captions: int = 2, name: str = "own") -> Split:
    rows = tuple(Caption(f"{video}_{n}", video, f"text {n}") for video in videos for n in range(captions))
    queries = tuple(LabelledQuery(video, video, "query", None, ((0.0, 1.0),)) for video in videos)
    return Split(name, ("file",), tuple(videos), rows, queries, ("a note",))


VIDEOS = [f"video{index}" for index in range(200)]


@pytest.mark.parametrize("share", [0.005, 0.05, 0.5, 0.99])
def test_share_of_videos_is_held_out_with_their_rows(share: float) -> None:
    whole = make_split(VIDEOS)
    both = train, val = hold_out(whole, share, seed=0)
    assert len(val.videos) == round(200 * share)
    assert sorted(train.videos + val.videos) == sorted(VIDEOS)
    for split in both:
        assert [row.video for row in split.captions] == [video for video in split.videos for _ in range(2)]
        assert tuple(row.video for row in split.queries) == split.videos
        assert list(split.videos) == sorted(split.videos, key=VIDEOS.index)
    assert [split.name for split in both] == ["own-rest", "own-held-out"]
    assert both[1].notes == ("a note", f"held out: {100 * share:g} % of own's videos, drawn with seed 0")


def test_choice_depends_on_seed_and_hardly_on_other_videos() -> None:
    held_out = [set(hold_out(make_split(VIDEOS), 0.1, seed)[1].videos) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    _, fewer = hold_out(make_split(VIDEOS[::-1][3:]), 0.1, 0)
    assert len(held_out[0] ^ set(fewer.videos)) <= 6


@pytest.mark.parametrize("suffix", ["", ".mp4"])
def test_clips_of_one_video_stay_together(suffix: str) -> None:
    names = [f"film{film}_{start}.0_{start + 150}.0{suffix}" for film in range(20) for start in (60, 210, 360)]
    assert source_of("1012_Film_00.05.16.065-00.05.21.941") == "1012_Film"
    assert [source_of(name) for name in ("s30-d41", "v_x_1")] == ["s30-d41", "v_x_1"]
    for seed in range(10):
        splits = hold_out(make_split(names), 0.2, seed)
        train, val = ({video.split("_")[0] for video in split.videos} for split in splits)
        assert not train & val
        assert len(splits[1].videos) == 12


def test_invalid_shares_are_refused() -> None:
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(VidretError, match="val_share must be between 0 and 1, or 0 for no validation, got"):
            hold_out(make_split(VIDEOS), share, 0)
    for names, share in ((["a_0_1", "a_1_2"], 0.5), (VIDEOS, 0.999)):
        drawn = f"a share of {share} of {len(names)} videos held out"
        with pytest.raises(VidretError, match=f"own must have videos of another source to train on, got {drawn}"):
            hold_out(make_split(names), share, 0)


def test_unreadable_videos_are_counted_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    whole = make_split(VIDEOS[:10])
    assert drop_unreadable(whole, {}) is whole
    assert drop_unreadable(whole, {"elsewhere": "is empty"}) is whole
    with caplog.at_level(logging.WARNING):
        kept = drop_unreadable(whole, {f"video{index}": f"reason {index}" for index in range(1, 8)})
    note = "videos omitted of 10 because they cannot be read: 7 (video1: reason 1, video2: reason 2, video3: reason 3, "
    note += "video4: reason 4, video5: reason 5, ...)"
    assert kept.notes == ("a note", note)
    assert caplog.messages == [f"own: {note}"]
    assert kept.videos == ("video0", "video8", "video9")
    assert {row.video for row in kept.captions} == {row.video for row in kept.queries} == set(kept.videos)
    with pytest.raises(VidretError, match=r"own must have at least one readable video, got none: 1 \(a: is empty\)"):
        drop_unreadable(make_split(["a"]), {"a": "is empty"})


def test_video_spans_have_files_and_described_times(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.webm"):
        (tmp_path / name).touch()
    rows = [Caption("0", "a", "text", 0.0, 31.0), Caption("1", "a", "other", 0.0, 31.0), Caption("2", "b", "text")]
    spans, missing = find_video_spans(Split("own", (), ("a", "b", "c"), tuple(rows)), tmp_path)
    assert spans == {"a": VideoSpan(str(tmp_path / "a.mp4"), 0.0, 31.0), "b": VideoSpan(str(tmp_path / "b.webm"))}
    assert missing == {"c": f"no file in {tmp_path}"}
    with pytest.raises(
        VidretError, match=r"captions of a must describe one part of it, got \(0\.0, 31\.0\) and \(5\.0, 9\.0\) s"
    ):
        find_video_spans(Split("own", (), ("a",), (rows[0], Caption("3", "a", "text", 5.0, 9.0))), tmp_path)


def test_validation_is_held_out_unless_a_split_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_msvd(tmp_path, train=VIDEOS[:50], val=VIDEOS[50:60], test=VIDEOS[60:])
    splits = SplitChoice("msvd", tmp_path, val_share=0.1).read()
    assert {role: split.name for role, split in splits.items()} == {
        "train": "msvd-train-rest",
        "val": "msvd-train-held-out",
    }
    assert {video for split in splits.values() for video in split.videos} == set(VIDEOS[:50])
    for name in ("msvd", "msvd-train"):
        whole = SplitChoice(name, tmp_path, val_share=0).read()
        assert {role: split.name for role, split in whole.items()} == {"train": "msvd-train"}
    named = SplitChoice("msvd", tmp_path, val_split="val").read()
    assert (named["train"].videos, named["val"].videos) == (tuple(VIDEOS[:50]), tuple(VIDEOS[50:60]))
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        SplitChoice("msvd", tmp_path, val_split="test").read()
    assert "validation uses msvd-test" in caplog.messages[0]


def test_validation_split_must_not_share_training_videos(tmp_path: Path) -> None:
    write_msvd(tmp_path, train=["a", "b", "c"], val=["c", "d"])
    with pytest.raises(VidretError, match=r"msvd-val must share no video with msvd-train, got 1 \(c\)"):
        SplitChoice("msvd", tmp_path, val_split="val").read()
    with pytest.raises(VidretError, match=r"msvd-train must share no video with msvd-train, got 3 \(a, b, c\)"):
        SplitChoice("msvd", tmp_path, val_split="train").read()


def test_a_domain_has_its_own_videos_only() -> None:
    rows = tuple(
        LabelledQuery(name, name, "a title", 4.0, domain=domain) for name, domain in (("a", "BK"), ("b", "VT"))
    )
    split = Split("tvsum-train", ("x",), ("a", "b", "c"), queries=rows)
    kept = keep_domain(split, "VT")
    assert (kept.name, kept.videos, kept.queries) == ("tvsum-train-VT", ("b",), rows[1:])
    with pytest.raises(VidretError, match="domain must be one of BK, VT for tvsum-train, got dog"):
        keep_domain(split, "dog")
