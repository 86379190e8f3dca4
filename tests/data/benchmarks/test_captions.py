"""Readers of the retrieval benchmarks, on small files in their formats; see ``test_refusals`` for invalid ones."""

import pickle
from pathlib import Path

from tests.data.benchmarks.annotated import write
from vidret.data.benchmarks import captions
from vidret.data.benchmarks.splits import read_split
from vidret.data.records import Caption, Split


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
    text = "key,vid_key,video_id,sentence\nret0,m8,video8,a fox waits\nret1,m2,video2,tea\n"
    path = write(tmp_path / "q.csv", text)
    split = captions.read_1k_a("a", path)
    assert texts_of(split) == [("ret0", "video8", "a fox waits"), ("ret1", "video2", "tea")]
    assert (split.name, split.files, split.videos, split.notes) == ("a", (str(path),), ("video8", "video2"), ())


def test_composed_queries_have_a_video_and_the_one_that_is_changed(tmp_path: Path) -> None:
    split = captions.read_composed("c", write(tmp_path / "c.csv", "pth1,pth2,edit\na/1,b/2,make it snow\nb/2,c,rain\n"))
    assert split.captions[0] == Caption("0", "b/2.mp4", "make it snow", source="a/1.mp4")
    assert split.videos == ("b/2.mp4", "c.mp4", "a/1.mp4")


def test_lists_select_and_order_videos_and_captions_keep_file_order(tmp_path: Path) -> None:
    sentences = write(tmp_path / "d.json", SENTENCES)
    listed = write(tmp_path / "l.csv", "video_id\nvideo3\nvideo0\n")
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
    sentences = write(tmp_path / "d.json", SENTENCES)
    videos = {
        split: captions.read_official("o", sentences, None, split=split).videos for split in captions.OFFICIAL_SPLITS
    }
    assert videos == {"train": ("video0",), "val": ("video1",), "test": ("video2", "video3")}
    listed = write(tmp_path / "l.csv", "video_id\nvideo3\n")
    split = captions.read_official("o", sentences, listed, split="test")
    assert (split.videos, split.files) == (("video3",), (str(sentences), str(listed)))


def test_msvd_and_lsmdc_have_several_captions_per_video(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"-a_1_5": ["an egg", "an egg", "a pan"], "b_0_9": ["a kite"], "c_2_3": ["x"]})
    split = captions.read_msvd("msvd", path, write(tmp_path / "l.txt", "b_0_9\n-a_1_5\n"))
    assert split.videos == ("b_0_9", "-a_1_5")
    assert [caption.text for caption in split.captions] == ["a kite", "an egg", "an egg", "a pan"]
    assert len({caption.id for caption in split.captions}) == 4
    clip, times = "9001_MADE_UP_FILM_00.01.02.003-00.01.05.006", "00.01.02\t00.01.05\t00.01.01\t00.01.06"
    rows = f'{clip}\t{times}\t"Wait," he says.\n{clip}x\t{times}\tRain.\n{clip}\t{times}\tDusk.\n'
    split = captions.read_lsmdc("lsmdc", write(tmp_path / "l.csv", rows))
    assert split.videos == (clip, f"{clip}x")
    assert texts_of(split) == [
        (f"{clip}_0", clip, '"Wait," he says.'),
        (f"{clip}_1", clip, "Dusk."),
        (f"{clip}x_0", f"{clip}x", "Rain."),
    ]


def test_msvd_is_read_from_the_words_that_the_papers_code_pickled(tmp_path: Path) -> None:
    texts = {"-a_1_5": ["an egg", "a pan"], "b_0_9": ["a kite"]}
    listed, plain = write(tmp_path / "test_list.txt", "b_0_9\n-a_1_5\n"), write(tmp_path / "c.json", texts)
    pickled = tmp_path / "raw-captions.pkl"
    for protocol in (0, 2, 4):
        pickled.write_bytes(
            pickle.dumps(
                {video: [text.split() for text in video_texts] for video, video_texts in texts.items()}, protocol
            )
        )
        split = captions.read_msvd("msvd", pickled, listed)
        assert split.captions == captions.read_msvd("msvd", plain, listed).captions
        assert split.files == (str(pickled), str(listed))
    assert read_split("msvd", tmp_path).captions == split.captions


def test_didemo_joins_sentences_of_listed_videos(tmp_path: Path) -> None:
    texts = (("b.mov", "a boat "), ("a.", "a pier"), ("b.mov", "waves"), ("c", "x"))
    rows = [{"annotation_id": n, "video": video, "description": text} for n, (video, text) in enumerate(texts)]
    path = write(tmp_path / "d.json", rows)
    split = captions.read_didemo("didemo", path, write(tmp_path / "l.txt", "a.\nb.mov\n"))
    assert split.captions == (
        Caption("a.", "a.", "a pier", 0.0, 31.0),
        Caption("b.mov", "b.mov", "a boat  waves", 0.0, 31.0),
    )
    assert split.notes == ("described videos omitted because the list does not include them: 1",)
    assert captions.read_didemo("didemo", path, write(tmp_path / "l.txt", "a.\nb.mov\nc\n")).notes == ()


def test_activitynet_joins_sentences_with_their_blanks(tmp_path: Path) -> None:
    content = {"v_b": {"duration": 9, "sentences": ["One.", " Two."]}, "v_a": {"sentences": ["Three."]}}
    path = write(tmp_path / "v.json", content)
    split = captions.read_activitynet("a", path)
    assert split.captions == (Caption("v_b", "v_b", "One.  Two."), Caption("v_a", "v_a", "Three."))
    assert (split.videos, split.notes) == (("v_b", "v_a"), ())
    bad = write(tmp_path / "bad_vids.txt", "v_a\nv_elsewhere\n")
    noted = captions.read_activitynet("a", path, bad)
    assert noted.captions == split.captions
    assert noted.notes == ("videos listed as unreadable in bad_vids.txt, kept in the gallery: 1",)
    assert noted.files == (str(path), str(bad))


def test_vatex_uses_english_captions(tmp_path: Path) -> None:
    rows = [{"videoID": f"{v}_000001_000011", "enCap": [f"{v} one", f"{v} two"], "chCap": ["一"]} for v in "abc"]
    path = write(tmp_path / "v.json", rows)
    split = captions.read_vatex("vatex", path)
    assert (len(split.videos), len(split.captions), split.captions[1].text) == (3, 6, "a two")
    listed = captions.read_vatex("vatex", path, write(tmp_path / "l.txt", "c_000001_000011\n"))
    assert [caption.text for caption in listed.captions] == ["c one", "c two"]


def test_vatex_is_read_from_objects_that_hold_all_splits(tmp_path: Path) -> None:
    texts = {f"{v}_000001_000011": [f"{v} one", f"{v} two"] for v in "abc"}
    write(tmp_path / "train_list.txt", "a_000001_000011\n")
    write(tmp_path / "test_list.txt", "c_000001_000011\n")
    for name, content in (
        ("ref_captions.json", texts),
        ("vatex_data.json", {video: {"enCap": video_texts, "chCap": ["一"]} for video, video_texts in texts.items()}),
    ):
        path = write(tmp_path / name, content)
        for split, letter in (("train", "a"), ("test-1500", "c")):
            found = read_split("vatex", tmp_path, split)
            assert [caption.text for caption in found.captions] == [f"{letter} one", f"{letter} two"]
            assert found.files == (str(path), str(tmp_path / f"{split[:5].rstrip('-')}_list.txt"))


def test_custom_captions_are_one_or_several(tmp_path: Path) -> None:
    rows = (
        {"video": "trips/lake.mp4", "captions": ["a lake", "still water"], "kind": "real"},
        {"video": "b.mkv", "caption": "fog"},
    )
    assert captions.read_captions("captions", write(tmp_path / "captions.jsonl", rows)).captions == (
        Caption("trips/lake.mp4_0", "trips/lake.mp4", "a lake", domain="real"),
        Caption("trips/lake.mp4_1", "trips/lake.mp4", "still water", domain="real"),
        Caption("b.mkv_0", "b.mkv", "fog"),
    )


def test_custom_captions_may_be_a_table_with_a_row_for_each(tmp_path: Path) -> None:
    text = 'id,video,caption\n1,b.mkv,"fog, thick"\n2,trips/lake.mp4,a lake\n3,b.mkv,rain\n'
    path = write(tmp_path / "captions.csv", text)
    split = read_split("captions", tmp_path)
    assert (split.files, split.videos) == ((str(path),), ("b.mkv", "trips/lake.mp4"))
    assert texts_of(split) == [
        ("b.mkv_0", "b.mkv", "fog, thick"),
        ("b.mkv_1", "b.mkv", "rain"),
        ("trips/lake.mp4_0", "trips/lake.mp4", "a lake"),
    ]
