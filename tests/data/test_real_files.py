"""Original benchmark files, in the folder ``VIDRET_DATA``; their licences forbid including them here."""

import json
import os
from functools import cache
from pathlib import Path

import pytest

from vidret.data.benchmarks.files import read_names
from vidret.data.benchmarks.splits import read_split
from vidret.data.records import Caption, LabelledQuery, find_videos

DATA = Path(os.environ.get("VIDRET_DATA", "/nowhere"))
with_data = pytest.mark.skipif("VIDRET_DATA" not in os.environ, reason="VIDRET_DATA is not set")

read = cache(read_split)  # several tests use the same split

# name: videos, captions, queries
COUNTS = {
    "msrvtt-1k-a-test": (1_000, 1_000, 0),
    "msvd-test": (670, 27_763, 0),
    "msvd-val": (100, 4_290, 0),
    "msvd-train": (1_200, 48_774, 0),
    "didemo-test": (1_004, 1_004, 0),
    "activitynet-val_1": (4_917, 4_917, 0),
    "activitynet-moments-val_1": (4_917, 0, 17_505),
    "qvhighlights-train": (7_100, 0, 7_218),
    "qvhighlights-val": (1_519, 0, 1_550),
    "qvhighlights-test": (1_529, 0, 1_542),
    "charades-sta-train": (5_338, 0, 12_408),
    "charades-sta-test": (1_334, 0, 3_720),
    "tacos-test": (25, 0, 4_001),
    "youtube-highlights-val": (152, 0, 152),
    "tvsum-train": (40, 0, 40),
    "tvsum-val": (10, 0, 10),
}
LISTS = {
    "msrvtt-1k-a-train-9k": 9_000,
    "msrvtt-1k-a-train-7k": 7_010,
    "msrvtt-1k-b-train": 6_656,
    "msrvtt-1k-b-test": 1_000,
    "msrvtt-full-train": 6_513,
    "msrvtt-full-val": 497,
    "msrvtt-full-test": 2_990,
}


@with_data
@pytest.mark.parametrize("name", COUNTS)
def test_counts_match_the_specification(name: str) -> None:
    split = read(name, DATA)
    assert (len(split.videos), len(split.captions), len(split.queries)) == COUNTS[name]
    rows: list[Caption | LabelledQuery] = [*split.captions, *split.queries]
    assert len({row.id for row in rows}) == len(rows)
    assert {row.video for row in rows} == set(split.videos)


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the real lists and made-up captions; the real captions are not available."""
    folder = tmp_path_factory.mktemp("msrvtt")
    (folder / "msrvtt").symlink_to(DATA / "msrvtt")
    sentences = [{"video_id": f"video{n}", "caption": f"caption {k} of {n}"} for n in range(10_000) for k in range(2)]
    (folder / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}), "utf-8")
    return folder


@with_data
def test_msrvtt_lists_and_their_overlaps(msrvtt: Path) -> None:
    splits = {name: read(name, msrvtt) for name in LISTS}
    assert {name: len(split.videos) for name, split in splits.items()} == LISTS
    videos = {name: set(split.videos) for name, split in splits.items()}
    assert len(splits["msrvtt-full-test"].captions) == 2 * 2_990
    assert len(splits["msrvtt-1k-b-test"].captions) == 1_000
    one_k_a = set(read("msrvtt-1k-a", DATA).videos)
    assert not one_k_a & (videos["msrvtt-1k-a-train-9k"] | videos["msrvtt-1k-a-train-7k"])
    assert len(videos["msrvtt-1k-a-train-9k"] & videos["msrvtt-full-test"]) == 1_990
    assert not videos["msrvtt-1k-a-train-7k"] & videos["msrvtt-full-test"]
    assert len(one_k_a & videos["msrvtt-1k-b-test"]) == 296


@with_data
def test_didemo_paragraphs_cover_the_listed_videos() -> None:
    split = read("didemo", DATA)
    rows = json.loads((DATA / "didemo" / "test_data.json").read_text("utf-8"))
    assert len({row["video"] for row in rows}) == 1_037
    assert split.notes == ("described videos omitted because the list does not include them: 33",)
    listed = set(split.videos)
    texts: dict[str, str] = {}
    for row in rows:
        if row["video"] in listed:
            texts[row["video"]] = " ".join(filter(None, (texts.get(row["video"]), row["description"])))
    assert {caption.video: caption.text for caption in split.captions} == texts
    assert sum(row["video"] in listed for row in rows) == 3_932
    for name, count in (("train", 8_392), ("val", 1_065)):
        others = set(read_names(DATA / "didemo" / f"{name}_list.txt"))
        assert len(others) == count
        assert not others & listed


@with_data
def test_five_activitynet_windows_extend_past_their_video() -> None:
    split = read("activitynet-moments", DATA)
    assert split.notes[1:] == ("windows that extended past their video, clipped to it: 5",)
    assert all(0 <= start < end <= (query.duration or 0) for query in split.queries for start, end in query.spans)
    paragraphs = {caption.video: caption.text for caption in read("activitynet", DATA).captions}
    joined: dict[str, list[str]] = {}
    for query in split.queries:
        joined.setdefault(query.video, []).append(query.text)
    assert {video: " ".join(texts) for video, texts in joined.items()} == paragraphs
    assert read("activitynet", DATA).notes == ("videos listed as unreadable in bad_vids.txt, kept in the gallery: 1",)


@with_data
def test_both_tacos_formats_agree() -> None:
    frames = read("tacos", DATA)
    seconds = read("tacos", DATA / "tacos" / "tacos_test_release.jsonl")
    assert frames.notes == ("windows that extended past their video, clipped to it: 5",)
    by_id = {query.id: query for query in seconds.queries}
    assert by_id.keys() == {query.id for query in frames.queries}
    for query in frames.queries:
        other = by_id[query.id]
        assert (query.video, query.text) == (other.video, other.text)
        assert (query.duration, *query.spans[0]) == pytest.approx((other.duration, *other.spans[0]), abs=1e-9)


@with_data
def test_every_file_is_read(msrvtt: Path) -> None:
    splits = [read(name, DATA) for name in COUNTS] + [read(name, msrvtt) for name in LISTS]
    derived = ("charades-sta/charades_sta/charades_test_release.jsonl", "tacos/tacos/tacos_test_release.jsonl")
    splits += [read(name, DATA / path) for name, _, path in (text.partition("/") for text in derived)]
    seen = {Path(file).resolve() for split in splits for file in split.files}
    unused = {DATA / "didemo" / f"{name}_list.txt" for name in ("train", "val")}  # their captions are not available
    files = {path.resolve() for path in DATA.rglob("*") if path.is_file() and "LICENSE" not in path.name}
    assert files - seen - {path.resolve() for path in unused} == set()


@pytest.mark.skipif("VIDRET_REALSET" not in os.environ, reason="VIDRET_REALSET is not set")
def test_custom_captions_and_moments_match_video_files() -> None:
    folder = Path(os.environ.get("VIDRET_REALSET", "/nowhere"))
    captions, moments = read("captions", folder), read("moments", folder)
    assert (len(captions.videos), len(captions.captions)) == (156, 412)
    assert sum(caption.domain == "real" and caption.id.endswith("_0") for caption in captions.captions) == 135
    assert (len(moments.videos), len(moments.queries), moments.notes) == (16, 148, ())
    assert {query.domain for query in moments.queries} == {"concat", "real"}
    for split in (captions, moments):
        found, missing = find_videos(split.videos, folder)
        assert (len(found), missing) == (len(split.videos), [])
