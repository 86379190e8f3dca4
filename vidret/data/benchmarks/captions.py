"""Readers of the retrieval benchmarks other than MSR-VTT, and of custom captioned videos."""

from pathlib import Path

from vidret.data.benchmarks.files import (
    read_jsonl,
    read_named_objects,
    read_names,
    read_object,
    read_objects,
    read_tsv,
)
from vidret.data.benchmarks.msrvtt import number_captions
from vidret.data.records import Caption, Split
from vidret.errors import VidretError

LSMDC_COLUMNS = ("clip_id", "start_aligned", "end_aligned", "start_extracted", "end_extracted", "sentence")
DIDEMO_END_S = 31.0  # annotators described the first 30 s; the protocol also uses the frame at 30 s


def read_msvd(name: str, path: Path, list_path: Path) -> Split:
    """Read MSVD: one JSON object that maps each video to its captions. Every caption is a query."""
    root = read_object(path)
    videos = read_names(list_path)
    texts = {video_id: root.texts(video_id) for video_id in videos if video_id in root.values}
    return Split(name, (str(path), str(list_path)), videos, number_captions(texts, videos, list_path))


def read_lsmdc(name: str, path: Path) -> Split:
    """Read LSMDC: six tab-separated columns without a header, from clip id to sentence.

    The clips are separate files, so the times are ignored. In training a clip may have several sentences. The format
    follows public readers of these files; the files themselves are under a licence that forbids sharing them.
    """
    texts: dict[str, list[str]] = {}
    for row in read_tsv(path, LSMDC_COLUMNS):
        texts.setdefault(row.name("clip_id"), []).append(row.text("sentence"))
    if not texts:
        raise VidretError(f"{path}: must contain at least one sentence, got none")
    return Split(name, (str(path),), tuple(texts), number_captions(texts, tuple(texts), path))


def read_didemo(name: str, path: Path, list_path: Path) -> Split:
    """Read DiDeMo as paragraphs: the sentences of each listed video, joined in file order."""
    texts: dict[str, list[str]] = {}
    locations: dict[str, str] = {}
    for row in read_objects(path):
        row.check_unique("annotation_id", row.name("annotation_id"), locations)
        texts.setdefault(row.name("video"), []).append(row.text("description"))
    videos = read_names(list_path)
    paragraphs = {video_id: [" ".join(sentences)] for video_id, sentences in texts.items()}
    captions = tuple(
        Caption(id=row.video, video=row.video, text=row.text, start=0.0, end=DIDEMO_END_S)
        for row in number_captions(paragraphs, videos, list_path)
    )
    num_unlisted = len(texts) - len(videos)
    notes = (f"described videos omitted because the list does not include them: {num_unlisted}",)
    return Split(name, (str(path), str(list_path)), videos, captions, notes=notes if num_unlisted else ())


def read_activitynet(name: str, path: Path, unreadable: Path | None = None) -> Split:
    """Read ActivityNet Captions as paragraphs: the sentences of each video joined, leading blanks included.

    ``unreadable`` is a list of videos that the authors could not read (bad_vids.txt). It changes nothing but a note.
    """
    texts = {video_id: " ".join(row.texts("sentences")) for video_id, row in read_named_objects(path)}
    if not texts:
        raise VidretError(f"{path}: must contain at least one video, got none")
    captions = tuple(Caption(id=video_id, video=video_id, text=paragraph) for video_id, paragraph in texts.items())
    files, notes = [str(path)], []
    if unreadable is not None:
        files.append(str(unreadable))
        if kept := [video_id for video_id in read_names(unreadable) if video_id in texts]:
            notes.append(f"videos listed as unreadable in {unreadable.name}, kept in the gallery: {len(kept)}")
    return Split(name, tuple(files), tuple(texts), captions, notes=tuple(notes))


def read_vatex(name: str, path: Path, list_path: Path | None = None) -> Split:
    """Read VATEX: a JSON list of videos (videoID) with their English captions (enCap). Every caption is a query.

    A list restricts the videos: the retrieval protocol uses 1,500 of the 3,000 validation videos. The format follows
    the dataset's page; it has not been checked against the files.
    """
    locations: dict[str, str] = {}
    texts = {
        row.check_unique("videoID", row.name("videoID"), locations): row.texts("enCap") for row in read_objects(path)
    }
    if not texts:
        raise VidretError(f"{path}: must contain at least one video, got none")
    videos = tuple(texts) if list_path is None else read_names(list_path)
    files = (str(path),) if list_path is None else (str(path), str(list_path))
    return Split(name, files, videos, number_captions(texts, videos, list_path or path))


def read_captions(name: str, path: Path) -> Split:
    """Read custom captions: lines of JSON with ``video``, ``captions`` or ``caption``, and optionally ``kind``."""
    locations: dict[str, str] = {}
    captions: list[Caption] = []
    for row in read_jsonl(path):
        video_id = row.check_unique("video", row.text("video"), locations)
        domain = row.text("kind") if "kind" in row.values else ""
        captions += [
            Caption(id=f"{video_id}_{index}", video=video_id, text=text, domain=domain)
            for index, text in enumerate([row.text("caption")] if "caption" in row.values else row.texts("captions"))
        ]
    if not captions:
        raise VidretError(f"{path}: must contain at least one video, got none")
    return Split(name, (str(path),), tuple(locations), tuple(captions))
