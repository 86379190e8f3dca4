"""Output of the contents of an index: concepts, copies, footage, shots, transcripts and vectors."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidret.disk import replacing, writing_tensors
from vidret.errors import MissingExtraError
from vidret.present.show import format_csv, show_table
from vidret.present.terminal import print_message
from vidret.text import cut_to_tenths, display_path, format_count, format_time, sanitize, show_path, strip_query
from vidret.types import Concept, ConceptExample, Shot, TimedText, list_row_fields, to_row

if TYPE_CHECKING:
    from vidret.types import CopiedFile, CopyGroup, Embeddings, SharedFootage

CONCEPT_COLUMNS = ("name", "yes", "no", "examples' weight", "text")
MAX_LISTED = 3  # examples per concept in the table


def show_concepts(concepts: Sequence[Concept]) -> None:
    """Print concepts to stdout, with their first examples below each."""
    rows = []
    for concept in concepts:
        rows.append(
            (f"@{concept.name}", str(len(concept.yes)), str(len(concept.no)), f"{concept.share:.2f}", concept.text)
        )
        rows += [("", "", "", "", f"  {describe_example(example)}") for example in concept.yes[:MAX_LISTED]]
        if len(concept.yes) > MAX_LISTED:
            rows.append(("", "", "", "", f"  and {len(concept.yes) - MAX_LISTED} more"))
    show_table(CONCEPT_COLUMNS, rows, "No concept is taught: vidret teach NAME --yes PATH")


def describe_example(example: ConceptExample) -> str:
    """Return the source of an example as text."""
    path = display_path(example.path)
    if example.start is None or example.end is None:
        return path
    start, end = format_time(example.start), format_time(example.end)
    return f"{path} at {start}" if start == end else f"{path} {start} to {end}"


def describe_concept(concept: Concept) -> str:
    """Return a sentence about a taught concept."""
    counts = f"{len(concept.yes)} yes, {len(concept.no)} no"
    return (
        f"@{concept.name} is taught from {counts}; its examples weigh {concept.share:.2f}, the text {concept.text!r} "
        f"{1 - concept.share:.2f}. Search for it: vidret search '@{concept.name}'"
    )


NO_COPIES = "No copies: no two files of this index show the same footage."
NO_FOOTAGE = "No other video of this index shows this footage."


def show_copies(groups: "Sequence[CopyGroup]") -> None:
    """Print groups of copies as a table, the best file of each first."""
    rows = []
    for group_number, group in enumerate(groups, start=1):
        for file in group.files:
            is_best = file is group.best
            rows.append(
                (
                    str(group_number) if is_best else "",
                    f"{file.width}x{file.height}" if file.width else "",
                    f"{file.bit_rate / 1000:.0f}" if file.bit_rate else "",
                    format_time(file.duration),
                    "" if is_best else format_time(file.start),
                    "" if is_best else format_time(file.best_start),
                    "best" if is_best else describe_differences(file),
                    display_path(file.path),
                )
            )
    show_table(("group", "pixels", "kbit/s", "length", "at", "best at", "what", "video"), rows, NO_COPIES)
    if rows:
        files, of = sum(len(group.files) for group in groups), format_count(len(groups), "group")
        print_message(f"{files} files in {of} of the same footage; nothing was changed.")


def describe_differences(file: "CopiedFile") -> str:
    """Return in words how a file differs from the best one of its group."""
    words = [f"{word} ({1 / file.speed:.2f}x)" if word in ("faster", "slower") else word for word in file.differs]
    return ", ".join([*(words or ["same footage"]), *([] if file.moves else ["still"])])


def show_footage(found: "Sequence[SharedFootage]") -> None:
    """Print the spans of videos that show the footage of a clip, best first."""
    rows: list[tuple[str, ...]] = []
    for rank, footage in enumerate(found, start=1):
        span = format_time(footage.start), format_time(footage.end), f"{footage.end - footage.start:.1f} s"
        rows.append(
            (
                str(rank),
                f"{footage.agreement:.2f}",
                *span,
                format_time(footage.clip_start),
                f"{footage.speed:.2f}x",
                "mirrored" if footage.mirrored else "",
                display_path(footage.path),
            )
        )
        rows += [("", "", "", "", "", "", "", "", f"= {display_path(copy)}") for copy in footage.copies]
    show_table(("rank", "agreement", "start", "end", "length", "clip at", "speed", "what", "video"), rows, NO_FOOTAGE)


SHOT_FORMATS = ("table", "csv", "json")


def format_shots(shots: Sequence[Shot], form: str) -> str:
    """Return shots as ``csv`` (RFC 4180) or ``json``, numbered from 1, with times in seconds."""
    rounded = [replace(shot, start=round(shot.start, 6), end=round(shot.end, 6)) for shot in shots]
    shown = [to_row(shot, "csv", show_path, digits=6) for shot in rounded]
    rows = [{"shot": shot_number, **row} for shot_number, row in enumerate(shown, start=1)]
    columns = ["shot", *(field.name for field in list_row_fields(Shot, "csv"))]
    return json.dumps(rows, indent=2) + "\n" if form == "json" else format_csv(columns, rows)


def show_shots(shots: Sequence[Shot]) -> None:
    """Print shots as a table; durations are the differences of the printed times."""
    rows = []
    for shot_number, shot in enumerate(shots, start=1):
        length_s = (cut_to_tenths(shot.end) - cut_to_tenths(shot.start)) / 10
        times = format_time(shot.start), format_time(shot.end)
        rows.append((str(shot_number), *times, f"{length_s:.1f} s", shot.begins_with or ""))
    show_table(("shot", "start", "end", "length", "begins with"), rows)


def check_vector_format(form: str) -> None:
    """Raise MissingExtraError if the extra of a format is not installed."""
    if form == "parquet":
        _import_parquet()


def write_embeddings(embeddings: "Embeddings", out: Path, form: str) -> list[Path]:
    """Write vectors to a file, and return the paths of the files written.

    ``npy`` is a float32 array (row, dim), beside a .csv file with the path, start and end of each row. ``parquet`` has
    the columns path, video, start, end and embedding. ``safetensors`` has the tensors embeddings, videos and times
    (row, 2), and the paths as JSON in its metadata. Times are in seconds. URLs are written without their query strings.

    Raises:
        MissingExtraError: The format needs the extra ``parquet``.
        StoreError: A file cannot be written; an existing one is kept.
    """
    paths, table = [strip_query(path) for path in embeddings.paths], out.with_suffix(".csv")
    if form == "npy":
        with replacing(table) as rows, replacing(out) as draft:
            _write_npy(embeddings, paths, draft, rows)
        return [out, table]
    with replacing(out) as draft:
        (_write_parquet if form == "parquet" else _write_safetensors)(embeddings, paths, draft)
    return [out]


def _write_npy(embeddings: "Embeddings", paths: list[str], out: Path, table: Path) -> None:
    import numpy as np

    vectors = np.ascontiguousarray(embeddings.vectors)
    with out.open("wb") as stream:  # np.save does not report why it cannot write
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(vectors))
        stream.write(vectors.data)
    with table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("path", "start", "end"))
        writer.writerows((path, *times) for path, times in zip(paths, embeddings.times.tolist(), strict=True))


def _write_parquet(embeddings: "Embeddings", paths: list[str], out: Path) -> None:
    pyarrow, parquet = _import_parquet()
    texts = [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in paths]
    if texts != paths:
        print_message("bytes of paths that are not UTF-8 are replaced, since Parquet cannot hold them; .npy keeps them")
    flat = pyarrow.array(embeddings.vectors.ravel())
    columns = {
        "path": texts,
        "video": embeddings.videos,
        "start": embeddings.times[:, 0],
        "end": embeddings.times[:, 1],
        "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, embeddings.vectors.shape[1]),
    }
    parquet.write_table(pyarrow.table(columns), out)


def _write_safetensors(embeddings: "Embeddings", paths: list[str], out: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {"embeddings": embeddings.vectors, "videos": embeddings.videos, "times": embeddings.times}
    with writing_tensors(out):
        save_file(tensors, out, metadata={"paths": json.dumps(paths)})


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("--format parquet", "parquet") from None
    return pyarrow, parquet


TRANSCRIPT_FORMATS = ("txt", "srt", "vtt", "json")
_OVERRIDE = re.compile(r"\{(?=\\)")  # {\an8} would move a text
# SubRip has no escapes: look-alike characters keep a text from being parsed as times or as a tag.
_SRT = str.maketrans("<>", "\u2039\u203a")
_VTT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})

GENERATED = "generated"
Lines = Sequence[tuple[TimedText, str]]


def to_transcript(texts: Sequence[TimedText], form: str) -> str:
    """Return a transcript in one of ``TRANSCRIPT_FORMATS``, by time, each text on one line.

    Speech begins with the name of the speaker, if it is known. Look-alike characters replace ``<`` and ``>`` in SubRip,
    which cannot represent them.
    """
    lines = [
        (text, line) for text in sorted(texts, key=lambda text: (text.start, text.end)) if (line := _clean(text.text))
    ]
    if form == "json":
        return json.dumps([to_row(text, "json", str) | {"text": line} for text, line in lines], indent=2) + "\n"
    spoken = [(text, f"{_clean(text.speaker)}: {line}" if text.speaker else line) for text, line in lines]
    return {"srt": _to_srt, "vtt": _to_vtt}.get(form, _to_txt)(spoken)


def _to_srt(lines: Lines) -> str:
    cues = [
        f"{cue_number}\n{_times(text, ',')}\n{_mark(text)}{_OVERRIDE.sub('{ ', line.translate(_SRT))}\n"
        for cue_number, (text, line) in enumerate(lines, start=1)
    ]
    return "\n".join(cues)


def _to_vtt(lines: Lines) -> str:
    return "\n".join(
        ["WEBVTT\n", *(f"{_times(text, '.')}\n{_mark(text)}{line.translate(_VTT)}\n" for text, line in lines)]
    )


def _to_txt(lines: Lines) -> str:
    """Return one line per text: its start, its source if there are several or it is generated, and its words."""
    sources = {text.source for text, _ in lines}
    are_named = len(sources) > 1 or GENERATED in sources
    width = max(map(len, sources), default=0)
    starts = [format_time(text.start) for text, _ in lines]
    start_width = max(map(len, starts), default=0)
    rows = []
    for start, (text, line) in zip(starts, lines, strict=True):
        source = f"{text.source.ljust(width)}  " if are_named else ""
        rows.append(f"{start.rjust(start_width)}  {source}{line}\n")
    return "".join(rows)


def _clean(text: str) -> str:
    return sanitize(" ".join(text.split()))


def _mark(text: TimedText) -> str:
    """Return the mark of a generated text in subtitles, which do not name sources."""
    return f"[{GENERATED}] " if text.source == GENERATED else ""


def _times(text: TimedText, point: str) -> str:
    """Return the timing line of a cue, which lasts at least a millisecond."""
    start_ms = max(0, round(text.start * 1000))
    end_ms = max(start_ms + 1, round(text.end * 1000))
    return f"{_stamp(start_ms, point)} --> {_stamp(end_ms, point)}"


def _stamp(time_ms: int, point: str) -> str:
    """Return a time of a cue.

    >>> _stamp(3_723_004, ",")
    '01:02:03,004'
    """
    seconds, milliseconds = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{milliseconds:03}"
