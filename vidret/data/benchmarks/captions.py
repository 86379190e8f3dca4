"""Readers of caption benchmarks: MSR-VTT and its splits, MSVD, LSMDC, DiDeMo, ActivityNet, VATEX, custom captions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vidret.data.benchmarks.files import (
    AnnotationRow,
    annotation_row,
    note_counts,
    read_csv,
    read_jsonl,
    read_named_objects,
    read_names,
    read_object,
    read_object_or_objects,
    read_objects,
    read_pickled_texts,
    read_tsv,
)
from vidret.data.records import Caption, Split
from vidret.errors import VidretError

OFFICIAL_SPLITS = {"train": "train", "val": "validate", "test": "test"}  # our names -> the dataset's
LSMDC_COLUMNS = ("clip_id", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
DIDEMO_END_S = 31.0  # annotators described the first 30 s; the protocol also uses the frame at 30 s
TextsOfVideos = Mapping[str, Sequence[str]]


def make_caption_split(
    name: str, files: Iterable[Path], captions: Sequence[Caption], *, notes: Sequence[str] = ()
) -> Split:
    """Return a split of captions, with their videos in order, and the sources of composed queries.

    Raises:
        VidretError: There is no caption.
    """
    paths = tuple(map(str, files))
    if not captions:
        raise VidretError(f"{paths[0]}: must contain at least one caption, got none")
    videos = [caption.video for caption in captions] + [caption.source for caption in captions if caption.source]
    return Split(name, paths, tuple(dict.fromkeys(videos)), tuple(captions), notes=tuple(notes))


def number_captions(texts: TextsOfVideos, videos: Iterable[str], list_path: Path) -> list[Caption]:
    """Return the captions of the listed videos, with ids ``video_index``."""
    listed = list(videos)
    if missing := [video_id for video_id in listed if not texts.get(video_id)]:
        raise VidretError(
            f"{list_path}: must list videos with captions, none for {', '.join(missing[:3])} ({len(missing)} in all)"
        )
    return [
        Caption(id=f"{video_id}_{index}", video=video_id, text=text)
        for video_id in listed
        for index, text in enumerate(texts[video_id])
    ]


def make_texts_split(
    name: str, files: Sequence[Path], texts: TextsOfVideos, videos: Iterable[str] | None = None
) -> Split:
    """Return a split of the texts of videos, all of them or only the listed ones."""
    return make_caption_split(name, files, number_captions(texts, texts if videos is None else videos, files[-1]))


def group_texts(rows: Iterable[AnnotationRow], video: str, text: str) -> dict[str, list[str]]:
    """Return the texts of each video, given the names of the fields for video and text."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row.name(video), []).append(row.text(text))
    return texts


def read_1k_a(name: str, path: Path) -> Split:
    """Read the 1k-A test split: MSRVTT_JSFUSION_test.csv pairs each video with its one query."""
    locations: dict[str, str] = {}
    captions = [
        Caption(row.check_unique("query", row.name("key"), locations), row.name("video_id"), row.text("sentence"))
        for row in read_csv(path, ("key", "video_id", "sentence"))
    ]
    return make_caption_split(name, [path], captions)


def read_composed(name: str, path: Path) -> Split:
    """Read WebVid-CoVR: each row has a source video, a text that modifies it, and the target video.

    Videos are paths without a suffix; those of WebVid end in .mp4.
    """
    captions = [
        Caption(str(row_index), f"{row.name('pth2')}.mp4", row.text("edit"), source=f"{row.name('pth1')}.mp4")
        for row_index, row in enumerate(read_csv(path, ("pth1", "pth2", "edit")))
    ]
    return make_caption_split(name, [path], captions)


def read_listed(name: str, sentences_path: Path, list_path: Path) -> Split:
    """Read all captions of the listed videos from MSRVTT_data.json."""
    return make_texts_split(name, (sentences_path, list_path), read_sentences(sentences_path), read_names(list_path))


def read_first(name: str, sentences_path: Path, list_path: Path) -> Split:
    """Read the first caption of each listed video: the 1k-B test split, after Miech's protocol."""
    first = {video_id: texts[:1] for video_id, texts in read_sentences(sentences_path).items()}
    split = make_texts_split(name, (sentences_path, list_path), first, read_names(list_path))
    return replace(split, notes=("the query for each video is its first caption",))


def read_official(name: str, sentences_path: Path, list_path: Path | None, *, split: str) -> Split:
    """Read an official split, from a list if there is one, else from the ``split`` fields of MSRVTT_data.json."""
    if list_path is not None:
        return read_listed(name, sentences_path, list_path)
    locations: dict[str, str] = {}
    split_of_video = {
        row.check_unique("video", row.name("video_id"), locations): row.text("split")
        for row in read_object(sentences_path).rows("videos")
    }
    official = OFFICIAL_SPLITS[split]
    videos = [video_id for video_id, its_split in split_of_video.items() if its_split == official]
    if not videos:
        raise VidretError(f"{sentences_path}: must contain videos of the split {official}, got none")
    return make_texts_split(name, [sentences_path], read_sentences(sentences_path), videos)


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Return the captions of each video, in the order of MSRVTT_data.json or of a challenge's videodatainfo file."""
    return group_texts(read_object(path).rows("sentences"), "video_id", "caption")


def read_msvd(name: str, path: Path, list_path: Path) -> Split:
    """Read MSVD: one object that maps each video to its captions. Every caption is a query.

    The object is JSON, or the pickle of lists of words that the papers' own code reads (raw-captions.pkl).
    """
    root, videos = read_pickled_texts(path) if path.suffix == ".pkl" else read_object(path), read_names(list_path)
    texts = {video_id: root.texts(video_id) for video_id in videos if video_id in root.values}
    return make_texts_split(name, (path, list_path), texts, videos)


def read_lsmdc(name: str, path: Path) -> Split:
    """Read LSMDC: six tab-separated columns without a header, from clip id to sentence.

    The clips are separate files, so the times are ignored. In training a clip may have several sentences. The format
    follows public readers of these files; the licence of the files forbids sharing them.
    """
    return make_texts_split(name, [path], group_texts(read_tsv(path, LSMDC_COLUMNS), "clip_id", "sentence"))


def read_didemo(name: str, path: Path, list_path: Path) -> Split:
    """Read DiDeMo as paragraphs: the sentences of each listed video, joined in file order."""
    rows, locations = list(read_objects(path)), dict[str, str]()
    for row in rows:
        row.check_unique("annotation_id", row.name("annotation_id"), locations)
    texts, videos = group_texts(rows, "video", "description"), read_names(list_path)
    paragraphs = {video_id: [" ".join(sentences)] for video_id, sentences in texts.items()}
    captions = [
        Caption(id=row.video, video=row.video, text=row.text, start=0.0, end=DIDEMO_END_S)
        for row in number_captions(paragraphs, videos, list_path)
    ]
    num_unlisted = len(texts) - len(videos)
    notes = note_counts({"described videos omitted because the list does not include them": num_unlisted})
    return make_caption_split(name, (path, list_path), captions, notes=notes)


def read_activitynet(name: str, path: Path, unreadable: Path | None = None) -> Split:
    """Read ActivityNet Captions as paragraphs: the sentences of each video joined, leading blanks included.

    ``unreadable`` is a list of videos that the authors could not read (bad_vids.txt). It only adds a note.
    """
    captions = [
        Caption(id=video_id, video=video_id, text=" ".join(row.texts("sentences")))
        for video_id, row in read_named_objects(path)
    ]
    if unreadable is None:
        return make_caption_split(name, [path], captions)
    num_kept = len({caption.video for caption in captions} & set(read_names(unreadable)))
    notes = note_counts({f"videos listed as unreadable in {unreadable.name}, kept in the gallery": num_kept})
    return make_caption_split(name, (path, unreadable), captions, notes=notes)


def read_vatex(name: str, path: Path, list_path: Path | None = None) -> Split:
    """Read VATEX: a JSON list of videos (videoID) with their English captions (enCap). Every caption is a query.

    A list restricts the videos: the retrieval protocol uses 1,500 of the 3,000 validation videos. Public retrieval code
    reads one object of all videos by id instead, with ``enCap`` or only the captions, and needs a list. The formats
    follow the dataset's page and that code; they have not been checked against the files.

    Raises:
        VidretError: The file has the videos of all splits, and there is no list.
    """
    content, locations = read_object_or_objects(path), dict[str, str]()
    if isinstance(content, AnnotationRow):
        if list_path is None:
            raise content.error(f"has the videos of all splits, so {name} needs a list of its own, got none")
        texts = {
            video_id: annotation_row(f"{path}[{video_id}]", entry).texts("enCap")
            if isinstance(entry, dict)
            else content.texts(video_id)
            for video_id, entry in content.values.items()
        }
    else:
        texts = {row.check_unique("videoID", row.name("videoID"), locations): row.texts("enCap") for row in content}
    if list_path is None:
        return make_texts_split(name, [path], texts)
    return make_texts_split(name, (path, list_path), texts, read_names(list_path))


def read_captions(name: str, path: Path) -> Split:
    """Read custom captions: lines of JSON with ``video``, ``captions`` or ``caption``, and optionally ``kind``.

    A .csv has the columns ``video`` and ``caption``, and a row for each caption.
    """
    if path.suffix == ".csv":
        return make_texts_split(name, [path], group_texts(read_csv(path, ("video", "caption")), "video", "caption"))
    locations: dict[str, str] = {}
    captions: list[Caption] = []
    for row in read_jsonl(path):
        video_id = row.check_unique("video", row.text("video"), locations)
        domain = row.text("kind") if "kind" in row.values else ""
        if "caption" in row.values and "captions" in row.values:
            raise row.error("must have captions or caption, got both")
        captions += [
            Caption(id=f"{video_id}_{index}", video=video_id, text=text, domain=domain)
            for index, text in enumerate([row.text("caption")] if "caption" in row.values else row.texts("captions"))
        ]
    return make_caption_split(name, [path], captions)
