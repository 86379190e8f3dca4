"""Loading of splits by name, and the errors for what does not exist."""

import json
from pathlib import Path

import pytest

from tests.data.benchmarks.annotated import write
from vidret.data.benchmarks.registry import DATASETS, RECIPES
from vidret.data.benchmarks.splits import read_split
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
    for name in ("imagenet", "msvd-holdout", "", "qvhighlights-"):
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
    own = write(tmp_path / "holiday.jsonl", MOMENT)
    split = read_split("moments", own)
    assert (split.name, split.files) == ("moments", (str(own),))


def test_error_lists_missing_files_and_searched_folders(tmp_path: Path) -> None:
    (tmp_path / "msrvtt").mkdir()
    with pytest.raises(VidretError) as caught:
        read_split("msrvtt-1k-b", tmp_path)
    assert str(caught.value) == (
        "msrvtt-1k-b-test needs MSRVTT_data.json and test_list_1kB_miech.txt or test_list_miech.txt: "
        f"not found in {tmp_path}, {tmp_path / 'msrvtt'}"
    )
    with pytest.raises(VidretError, match=r"^tvsum-val needs .*: not found in .*nowhere, which is not a folder$"):
        read_split("tvsum", tmp_path / "nowhere")


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
