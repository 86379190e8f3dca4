"""MSR-VTT: 10,000 videos with 20 captions each, and the splits that people made of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vidret.data.benchmarks.files import read_csv, read_names, read_object
from vidret.data.records import Caption, Split
from vidret.errors import VidretError

# The dataset's own words for its splits.
OFFICIAL = {"train": "train", "val": "validate", "test": "test"}
Texts = Mapping[str, Sequence[str]]


def read_1k_a(name: str, path: Path) -> Split:
    """Read the 1k-A test split: MSRVTT_JSFUSION_test.csv names a video and the one caption it is looked for by."""
    seen: dict[str, str] = {}
    captions = [
        Caption(row.once("the query", row.name("key"), seen), row.name("video_id"), row.text("sentence"))
        for row in read_csv(path, ("key", "video_id", "sentence"))
    ]
    if not captions:
        raise VidretError(f"{path}: must hold a query in each line, got none")
    return Split(name, (str(path),), tuple(dict.fromkeys(caption.video for caption in captions)), tuple(captions))


def read_listed(name: str, sentences: Path, listed: Path) -> Split:
    """Read all captions, from MSRVTT_data.json, of the videos that a list names."""
    videos = read_names(listed)
    captions = number_captions(read_sentences(sentences), videos, listed)
    return Split(name, (str(sentences), str(listed)), videos, captions)


def read_first(name: str, sentences: Path, listed: Path) -> Split:
    """Read the first caption of each video that a list names: the 1k-B test split, after Miech's protocol."""
    videos = read_names(listed)
    first = {video: texts[:1] for video, texts in read_sentences(sentences).items()}
    captions = number_captions(first, videos, listed)
    notes = ("the query of a video is the first of its captions",)
    return Split(name, (str(sentences), str(listed)), videos, captions, notes=notes)


def read_official(name: str, sentences: Path, listed: Path | None, *, split: str) -> Split:
    """Read a split of the dataset itself: from a list where there is one, else by what MSRVTT_data.json says."""
    if listed is not None:
        return read_listed(name, sentences, listed)
    seen: dict[str, str] = {}
    rows = read_object(sentences).rows("videos")
    by_video = {row.once("the video", row.name("video_id"), seen): row.text("split") for row in rows}
    videos = tuple(video for video, own in by_video.items() if own == OFFICIAL[split])
    if not videos:
        raise VidretError(f"{sentences}: must hold videos of the split {OFFICIAL[split]}, got none")
    return Split(name, (str(sentences),), videos, number_captions(read_sentences(sentences), videos, sentences))


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Read the captions of each video in the order of MSRVTT_data.json, or of the challenge's videodatainfo files."""
    captions: dict[str, list[str]] = {}
    for row in read_object(path).rows("sentences"):
        captions.setdefault(row.name("video_id"), []).append(row.text("caption"))
    return captions


def number_captions(texts: Texts, videos: Sequence[str], listed: Path) -> tuple[Caption, ...]:
    """Give the captions of the videos that a list names, numbered; a video without one is refused."""
    if unknown := [video for video in videos if not texts.get(video)]:
        raise VidretError(
            f"{listed}: names videos that no caption is of: {', '.join(unknown[:3])} ({len(unknown)} in all)"
        )
    return tuple(
        Caption(f"{video}_{number}", video, text) for video in videos for number, text in enumerate(texts[video])
    )
