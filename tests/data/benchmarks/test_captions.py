"""Readers of the retrieval benchmarks, on small files in their formats."""

import json
from pathlib import Path

import pytest

from vidret.data.benchmarks import captions
from vidret.data.records import Caption, Split
from vidret.errors import VidretError


def write(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def texts_of(split: Split) -> list[tuple[str, str, str]]:
    return [(caption.id, caption.video, caption.text) for caption in split.captions]


SENTENCES = {
    "info": {"year": "2016"},
    "videos": [
        {"video_id": f"video{n}", "split": split} for n, split in enumerate(("train", "validate", "test", "test"))
    ],
    "sentences": [
        {"sen_id": 9, "video_id": "video3", "caption": "a fox waits"},
        {"sen_id": 3, "video_id": "video2", "caption": "rain on a tent"},
        {"sen_id": 5, "video_id": "video3", "caption": "a fox runs"},
        {"sen_id": 1, "video_id": "video0", "caption": "tea is poured"},
        {"sen_id": 0, "video_id": "video1", "caption": "a bell rings"},
    ],
}


def test_1k_a_reads_one_query_per_row(tmp_path: Path) -> None:
    path = write(tmp_path, "q.csv", "key,vid_key,video_id,sentence\nret0,m8,video8,a fox waits\nret1,m2,video2,tea\n")
    split = captions.read_1k_a("a", path)
    assert texts_of(split) == [("ret0", "video8", "a fox waits"), ("ret1", "video2", "tea")]
    assert (split.name, split.files, split.videos, split.notes) == ("a", (str(path),), ("video8", "video2"), ())


def test_invalid_1k_a_queries_are_refused(tmp_path: Path) -> None:
    head = "key,vid_key,video_id,sentence\n"
    for rows, message in (
        ("ret0,m8,video8,a\nret0,m9,video9,b\n", r":3: query ret0 must be unique, but is already at .*:2"),
        ("ret0,m8,video8, \n", r":2: sentence must be a non-empty string"),
        ("ret0,m8,video8\n", r":2: must have 4 columns, got 3"),
        ("", r"must contain at least one caption, got none"),
    ):
        with pytest.raises(VidretError, match=message):
            captions.read_1k_a("a", write(tmp_path, "q.csv", head + rows))


def test_lists_select_and_order_videos_and_captions_keep_file_order(tmp_path: Path) -> None:
    sentences, listed = write(tmp_path, "d.json", SENTENCES), write(tmp_path, "l.csv", "video_id\nvideo3\nvideo0\n")
    split = captions.read_listed("train-9k", sentences, listed)
    assert split.videos == ("video3", "video0")
    assert texts_of(split) == [
        ("video3_0", "video3", "a fox waits"),
        ("video3_1", "video3", "a fox runs"),
        ("video0_0", "video0", "tea is poured"),
    ]
    assert split.files == (str(sentences), str(listed))
    first = captions.read_first("1k-b", sentences, listed)
    assert texts_of(first) == [("video3_0", "video3", "a fox waits"), ("video0_0", "video0", "tea is poured")]
    assert first.notes == ("the query for each video is its first caption",)


def test_official_splits_come_from_list_or_split_field(tmp_path: Path) -> None:
    sentences = write(tmp_path, "d.json", SENTENCES)
    videos = {
        split: captions.read_official("o", sentences, None, split=split).videos for split in captions.OFFICIAL_SPLITS
    }
    assert videos == {"train": ("video0",), "val": ("video1",), "test": ("video2", "video3")}
    listed = write(tmp_path, "l.csv", "video_id\nvideo3\n")
    split = captions.read_official("o", sentences, listed, split="test")
    assert (split.videos, split.files) == (("video3",), (str(sentences), str(listed)))


def test_videos_without_captions_and_splits_without_videos_are_refused(tmp_path: Path) -> None:
    sentences, listed = write(tmp_path, "d.json", SENTENCES), write(tmp_path, "l.txt", "video3\nvideo7\nvideo8\n")
    for read in (captions.read_listed, captions.read_first):
        with pytest.raises(
            VidretError, match=r"l\.txt: must list videos with captions, none for video7, video8 \(2 in all\)"
        ):
            read("a", sentences, listed)
    bare = write(tmp_path, "e.json", {"videos": [], "sentences": []})
    with pytest.raises(VidretError, match=r"e\.json: must contain videos of the split validate, got none"):
        captions.read_official("o", bare, None, split="val")
    twice = write(tmp_path, "f.json", {**SENTENCES, "videos": [{"video_id": "v", "split": "test"}] * 2})
    with pytest.raises(
        VidretError, match=r"f\.json\[videos\]\[1\]: video v must be unique, but is already at .*\[videos\]\[0\]"
    ):
        captions.read_official("o", twice, None, split="test")
    odd = write(tmp_path, "g.json", {"sentences": [{"video_id": "video3", "caption": ""}]})
    with pytest.raises(VidretError, match=r"g\.json\[sentences\]\[0\]: caption must be a non-empty string"):
        captions.read_listed("a", odd, listed)


def test_msvd_has_many_captions_per_video(tmp_path: Path) -> None:
    path = write(tmp_path, "c.json", {"-a_1_5": ["an egg", "an egg", "a pan"], "b_0_9": ["a kite"], "c_2_3": ["x"]})
    split = captions.read_msvd("msvd", path, write(tmp_path, "l.txt", "b_0_9\n-a_1_5\n"))
    assert split.videos == ("b_0_9", "-a_1_5")
    assert [caption.text for caption in split.captions] == ["a kite", "an egg", "an egg", "a pan"]
    assert len({caption.id for caption in split.captions}) == 4
    with pytest.raises(VidretError, match=r"l\.txt: must list videos with captions, none for d_1_2 \(1 in all\)"):
        captions.read_msvd("msvd", path, write(tmp_path, "l.txt", "b_0_9\nd_1_2\n"))
    with pytest.raises(VidretError, match=r"c\.json: b_0_9\[1\] must be a non-empty string, got ''"):
        captions.read_msvd("m", write(tmp_path, "c.json", {"b_0_9": ["a", ""]}), write(tmp_path, "l.txt", "b_0_9"))


def test_lsmdc_is_tab_separated_with_several_sentences_per_clip(tmp_path: Path) -> None:
    clip = "9001_MADE_UP_FILM_00.01.02.003-00.01.05.006"
    times = "00.01.02\t00.01.05\t00.01.01\t00.01.06"
    path = write(
        tmp_path, "l.csv", f'{clip}\t{times}\t"Wait," he says.\n{clip}x\t{times}\tRain.\n{clip}\t{times}\tDusk.\n'
    )
    split = captions.read_lsmdc("lsmdc", path)
    assert split.videos == (clip, f"{clip}x")
    assert texts_of(split) == [
        (f"{clip}_0", clip, '"Wait," he says.'),
        (f"{clip}_1", clip, "Dusk."),
        (f"{clip}x_0", f"{clip}x", "Rain."),
    ]
    with pytest.raises(VidretError, match=r"l\.csv:1: must have 6 columns, got 5"):
        captions.read_lsmdc("lsmdc", write(tmp_path, "l.csv", f"{clip}\t{times}\n"))
    with pytest.raises(VidretError, match="must contain at least one caption, got none"):
        captions.read_lsmdc("lsmdc", write(tmp_path, "l.csv", "\n"))


def didemo_row(video: str, number: int, text: str) -> dict[str, object]:
    return {"annotation_id": number, "video": video, "description": text, "times": [[0, 1]] * 4, "num_segments": 6}


def test_didemo_joins_sentences_of_listed_videos(tmp_path: Path) -> None:
    rows = [
        didemo_row("b.mov", 7, "a boat "),
        didemo_row("a.", 3, "a pier"),
        didemo_row("b.mov", 1, "waves"),
        didemo_row("c", 2, "x"),
    ]
    path, listed = write(tmp_path, "d.json", rows), write(tmp_path, "l.txt", "a.\nb.mov\n")
    split = captions.read_didemo("didemo", path, listed)
    assert split.captions == (
        Caption("a.", "a.", "a pier", 0.0, 31.0),
        Caption("b.mov", "b.mov", "a boat  waves", 0.0, 31.0),
    )
    assert split.notes == ("described videos omitted because the list does not include them: 1",)
    complete = captions.read_didemo("didemo", path, write(tmp_path, "l.txt", "a.\nb.mov\nc\n"))
    assert complete.notes == ()
    with pytest.raises(VidretError, match=r"d\.json\[1\]: annotation_id 7 must be unique, but is already at .*\[0\]"):
        captions.read_didemo(
            "didemo", write(tmp_path, "d.json", [didemo_row("a", 7, "x"), didemo_row("b", 7, "y")]), listed
        )
    with pytest.raises(VidretError, match=r"must list videos with captions, none for b\.mov"):
        captions.read_didemo("didemo", write(tmp_path, "d.json", rows[1:2]), write(tmp_path, "l.txt", "a.\nb.mov"))


def test_activitynet_joins_sentences_with_their_blanks(tmp_path: Path) -> None:
    path = write(
        tmp_path, "v.json", {"v_b": {"duration": 9, "sentences": ["One.", " Two."]}, "v_a": {"sentences": ["Three."]}}
    )
    split = captions.read_activitynet("a", path)
    assert split.captions == (Caption("v_b", "v_b", "One.  Two."), Caption("v_a", "v_a", "Three."))
    assert (split.videos, split.notes) == (("v_b", "v_a"), ())
    bad = write(tmp_path, "bad_vids.txt", "v_a\nv_elsewhere\n")
    noted = captions.read_activitynet("a", path, bad)
    assert noted.captions == split.captions
    assert noted.notes == ("videos listed as unreadable in bad_vids.txt, kept in the gallery: 1",)
    assert noted.files == (str(path), str(bad))
    with pytest.raises(VidretError, match=r"v\.json\[v_a\]: sentences must contain at least one string, got none"):
        captions.read_activitynet("a", write(tmp_path, "v.json", {"v_a": {"sentences": []}}))
    with pytest.raises(VidretError, match="must contain at least one caption, got none"):
        captions.read_activitynet("a", write(tmp_path, "v.json", {}))


def test_vatex_uses_english_captions(tmp_path: Path) -> None:
    rows = [{"videoID": f"{v}_000001_000011", "enCap": [f"{v} one", f"{v} two"], "chCap": ["一"]} for v in "abc"]
    path = write(tmp_path, "v.json", rows)
    split = captions.read_vatex("vatex", path)
    assert (len(split.videos), len(split.captions), split.captions[1].text) == (3, 6, "a two")
    listed = captions.read_vatex("vatex", path, write(tmp_path, "l.txt", "c_000001_000011\n"))
    assert [caption.text for caption in listed.captions] == ["c one", "c two"]
    with pytest.raises(
        VidretError, match=r"v\.json\[1\]: videoID a_000001_000011 must be unique, but is already at .*\[0\]"
    ):
        captions.read_vatex("vatex", write(tmp_path, "v.json", [rows[0], rows[0]]))
    with pytest.raises(VidretError, match=r"v\.json\[0\]: enCap is missing"):
        captions.read_vatex("vatex", write(tmp_path, "v.json", [{"videoID": "a"}]))
    with pytest.raises(VidretError, match="must contain at least one caption, got none"):
        captions.read_vatex("vatex", write(tmp_path, "v.json", []))


def test_custom_captions_may_be_one_caption(tmp_path: Path) -> None:
    rows = '{"video": "a", "caption": "red"}\n{"video": "b", "captions": ["green"]}\n'
    split = captions.read_captions("captions", write(tmp_path, "captions.jsonl", rows))
    assert texts_of(split) == [("a_0", "a", "red"), ("b_0", "b", "green")]
    with pytest.raises(VidretError, match=r":1: caption must be a non-empty string, got 3"):
        captions.read_captions("captions", write(tmp_path, "captions.jsonl", '{"video": "a", "caption": 3}'))


def test_custom_captions_need_video_and_captions(tmp_path: Path) -> None:
    first = {"video": "trips/lake.mp4", "captions": ["a lake", "still water"], "kind": "real"}
    path = write(
        tmp_path, "captions.jsonl", "\n".join(map(json.dumps, (first, {"video": "b.mkv", "captions": ["fog"]})))
    )
    split = captions.read_captions("captions", path)
    assert split.captions == (
        Caption("trips/lake.mp4_0", "trips/lake.mp4", "a lake", domain="real"),
        Caption("trips/lake.mp4_1", "trips/lake.mp4", "still water", domain="real"),
        Caption("b.mkv_0", "b.mkv", "fog"),
    )
    for text, message in (
        (
            json.dumps(first) + "\n" + json.dumps(first),
            r":2: video trips/lake\.mp4 must be unique, but is already at .*:1",
        ),
        ('{"video": "a.mp4"}', r":1: captions is missing"),
        ('{"video": "a.mp4", "captions": "fog"}', r":1: captions must be a list, got 'fog'"),
        ('{"captions": ["fog"]}', r":1: video is missing"),
        ("\n", "must contain at least one caption, got none"),
    ):
        with pytest.raises(VidretError, match=message):
            captions.read_captions("captions", write(tmp_path, "captions.jsonl", text))
