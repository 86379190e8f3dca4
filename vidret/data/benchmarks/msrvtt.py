"""Readers of MSR-VTT and its splits: 10,000 videos with 20 captions each."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidret.data.benchmarks.files import read_csv, read_names, read_object
from vidret.data.records import Caption, Split
from vidret.errors import VidretError

OFFICIAL_SPLITS = {"train": "train", "val": "validate", "test": "test"}  # our names -> the dataset's
TextsOfVideos = Mapping[str, Sequence[str]]


def read_1k_a(name: str, path: Path) -> Split:
    """Read the 1k-A test split: MSRVTT_JSFUSION_test.csv pairs each video with its one query."""
    locations: dict[str, str] = {}
    captions = [
        Caption(
            id=row.check_unique("query", row.name("key"), locations),
            video=row.name("video_id"),
            text=row.text("sentence"),
        )
        for row in read_csv(path, ("key", "video_id", "sentence"))
    ]
    if not captions:
        raise VidretError(f"{path}: must contain at least one query, got none")
    return Split(name, (str(path),), tuple(dict.fromkeys(caption.video for caption in captions)), tuple(captions))


def read_listed(name: str, sentences_path: Path, list_path: Path) -> Split:
    """Read all captions of the listed videos from MSRVTT_data.json."""
    videos = read_names(list_path)
    captions = number_captions(read_sentences(sentences_path), videos, list_path)
    return Split(name, (str(sentences_path), str(list_path)), videos, captions)


def read_first(name: str, sentences_path: Path, list_path: Path) -> Split:
    """Read the first caption of each listed video: the 1k-B test split, after Miech's protocol."""
    videos = read_names(list_path)
    first = {video_id: texts[:1] for video_id, texts in read_sentences(sentences_path).items()}
    captions = number_captions(first, videos, list_path)
    notes = ("the query for each video is its first caption",)
    return Split(name, (str(sentences_path), str(list_path)), videos, captions, notes=notes)


def read_official(name: str, sentences_path: Path, list_path: Path | None, *, split: str) -> Split:
    """Read an official split, from a list where there is one, else from the ``split`` fields of MSRVTT_data.json."""
    if list_path is not None:
        return read_listed(name, sentences_path, list_path)
    locations: dict[str, str] = {}
    split_of_video = {
        row.check_unique("video", row.name("video_id"), locations): row.text("split")
        for row in read_object(sentences_path).rows("videos")
    }
    official = OFFICIAL_SPLITS[split]
    videos = tuple(video_id for video_id, its_split in split_of_video.items() if its_split == official)
    if not videos:
        raise VidretError(f"{sentences_path}: must contain videos of the split {official}, got none")
    captions = number_captions(read_sentences(sentences_path), videos, sentences_path)
    return Split(name, (str(sentences_path),), videos, captions)


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Return the captions of each video, in the order of MSRVTT_data.json or of a challenge's videodatainfo file."""
    captions: dict[str, list[str]] = {}
    for row in read_object(path).rows("sentences"):
        captions.setdefault(row.name("video_id"), []).append(row.text("caption"))
    return captions


def number_captions(texts: TextsOfVideos, videos: Sequence[str], list_path: Path) -> tuple[Caption, ...]:
    """Return the captions of the listed videos, with ids ``video_index``.

    Raises:
        VidretError: A listed video has no caption.
    """
    if missing := [video_id for video_id in videos if not texts.get(video_id)]:
        raise VidretError(
            f"{list_path}: must list videos with captions, none for {', '.join(missing[:3])} ({len(missing)} in all)"
        )
    return tuple(
        Caption(id=f"{video_id}_{index}", video=video_id, text=text)
        for video_id in videos
        for index, text in enumerate(texts[video_id])
    )
