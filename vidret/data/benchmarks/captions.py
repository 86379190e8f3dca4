"""Retrieval benchmarks other than MSR-VTT, and one's own captioned videos."""

from pathlib import Path

from vidret.data.benchmarks.files import read_jsonl, read_named, read_names, read_object, read_objects, read_tabs
from vidret.data.benchmarks.msrvtt import number_captions
from vidret.data.records import Caption, Split
from vidret.errors import VidretError

LSMDC = ("clip_id", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
DIDEMO_SECONDS = 31.0  # people described the first 30 s; the protocol looks at second 30 too


def read_msvd(name: str, path: Path, listed: Path) -> Split:
    """Read MSVD: one JSON object, each video's captions under its name; many captions a video, each one a query."""
    root = read_object(path)
    videos = read_names(listed)
    texts = {video: root.texts(video) for video in videos if video in root.values}
    return Split(name, (str(path), str(listed)), videos, number_captions(texts, videos, listed))


def read_lsmdc(name: str, path: Path) -> Split:
    """Read LSMDC: six columns between tabs, no heading, the first a clip and the last its sentence.

    The videos are cut already, so the times are of no use here. The form is known from public readers of these files,
    which a licence keeps from being at hand; in training a clip may have several sentences.
    """
    texts: dict[str, list[str]] = {}
    for row in read_tabs(path, LSMDC):
        texts.setdefault(row.name("clip_id"), []).append(row.text("sentence"))
    if not texts:
        raise VidretError(f"{path}: must hold a sentence in each line, got none")
    return Split(name, (str(path),), tuple(texts), number_captions(texts, tuple(texts), path))


def read_didemo(name: str, path: Path, listed: Path) -> Split:
    """Read DiDeMo as paragraphs: a video's sentences joined in the file's order; a list says which videos count."""
    texts: dict[str, list[str]] = {}
    seen: dict[str, str] = {}
    for row in read_objects(path):
        row.once("annotation_id", row.name("annotation_id"), seen)
        texts.setdefault(row.name("video"), []).append(row.text("description"))
    videos = read_names(listed)
    paragraphs = {video: [" ".join(sentences)] for video, sentences in texts.items()}
    chosen = number_captions(paragraphs, videos, listed)
    captions = tuple(Caption(row.video, row.video, row.text, 0.0, DIDEMO_SECONDS) for row in chosen)
    left_out = len(texts) - len(videos)
    notes = (f"described videos that are left out, since the list does not name them: {left_out}",) if left_out else ()
    return Split(name, (str(path), str(listed)), videos, captions, notes=notes)


def read_activitynet(name: str, path: Path, unreadable: Path | None = None) -> Split:
    """Read ActivityNet Captions as paragraphs: the sentences of a video joined, with the blanks that they begin with.

    A list of videos that people could not read (bad_vids.txt) changes nothing here: it is told in a note.
    """
    texts = {video: [" ".join(row.texts("sentences"))] for video, row in read_named(path)}
    if not texts:
        raise VidretError(f"{path}: must hold a video, got none")
    captions = tuple(Caption(video, video, paragraph) for video, (paragraph,) in texts.items())
    files, notes = [str(path)], []
    if unreadable is not None:
        files.append(str(unreadable))
        if bad := [video for video in read_names(unreadable) if video in texts]:
            notes.append(f"videos that {unreadable.name} calls unreadable and that stay in the gallery: {len(bad)}")
    return Split(name, tuple(files), tuple(texts), captions, notes=tuple(notes))


def read_vatex(name: str, path: Path, listed: Path | None = None) -> Split:
    """Read VATEX: a JSON list of videos (videoID) with their English captions (enCap), each one a query.

    A list says which videos count: retrieval is measured on 1,500 of the 3,000 validation videos. The form is known
    from the dataset's own page; the files are not at hand.
    """
    seen: dict[str, str] = {}
    texts = {row.once("videoID", row.name("videoID"), seen): row.texts("enCap") for row in read_objects(path)}
    if not texts:
        raise VidretError(f"{path}: must hold a video, got none")
    videos = tuple(texts) if listed is None else read_names(listed)
    files = (str(path),) if listed is None else (str(path), str(listed))
    return Split(name, files, videos, number_captions(texts, videos, listed or path))


def read_captions(name: str, path: Path) -> Split:
    """Read one's own captions: a JSON object a line with ``video``, its ``captions``, and perhaps its ``kind``."""
    seen: dict[str, str] = {}
    captions = []
    for row in read_jsonl(path):
        video = row.once("the video", row.text("video"), seen)
        kind = row.text("kind") if "kind" in row.values else ""
        captions += [
            Caption(f"{video}_{number}", video, text, domain=kind) for number, text in enumerate(row.texts("captions"))
        ]
    if not captions:
        raise VidretError(f"{path}: must hold a video in each line, got none")
    return Split(name, (str(path),), tuple(seen), tuple(captions))
