"""Import of vectors from another program into an index, video by video, each complete or not at all.

The vectors are in files that ``vidret export embeddings`` writes, or in a folder of clip-retrieval
(https://github.com/rom1504/clip-retrieval), which holds ``img_emb/img_emb_0.npy``, float16 (row, dim), with
``metadata/metadata_0.parquet`` beside it, a table of the same rows, and so on for each part.
"""

import contextlib
import csv
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from vidret.errors import DecodeError, MissingExtraError, VidretError, read_fault
from vidret.store.records import IMPORTED, NewSegment
from vidret.store.store import Store
from vidret.text import absolute_path, has_file, show_path
from vidret.types import NO_TIME, Embeddings, Sampling, SegmentEmbedding
from vidret.video.files import read_mtime_ns, stat_file
from vidret.video.identity import fingerprint
from vidret.video.workers.image_pool import ImagePool

_UNIT_TOLERANCE = 0.01
_SHORTEST_VECTOR = 1e-6
_END_TOLERANCE_S = 1.0
PROBE_TIMEOUT_S = 600.0  # reading all packets of a film takes long


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The result of an import.

    Attributes:
        imported: Videos that are new in the index.
        known: Videos whose content was in the index already; it keeps its vectors.
        num_segments: Segments that were stored.
        num_rescaled: Vectors that were not of unit length, and were normalised.
        failed: Paths whose vectors were not stored, with reasons.
    """

    imported: int = 0
    known: int = 0
    num_segments: int = 0
    num_rescaled: int = 0
    failed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Film:
    """A video to store: its path, content, duration in seconds, facts, size, and modification time."""

    path: str
    content: str
    duration: float
    facts: Mapping[str, object]
    num_bytes: int | None = None
    mtime_ns: int = NO_TIME


def check_embeddings(embeddings: Embeddings, dim: int) -> tuple[Embeddings, int]:
    """Return embeddings as unit vectors with absolute paths, and the number of vectors that were not of unit length.

    Raise VidretError if a vector is not finite, zero or of another dimension, or a time is invalid.
    """
    vectors, times = np.asarray(embeddings.vectors, np.float32), np.asarray(embeddings.times, np.float64)
    num_rows = len(embeddings.paths)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise VidretError(f"vectors must have {dim} values, as those of the encoder, got the shape {vectors.shape}")
    if len(vectors) != num_rows or times.shape != (num_rows, 2):
        got = f"{len(vectors)} vectors and times of shape {times.shape}"
        raise VidretError(f"there must be a vector and two times for each of {num_rows} paths, got {got}")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > _SHORTEST_VECTOR)))
    if len(bad):
        raise VidretError(
            f"vectors must be finite and not zero, got the length {lengths[bad[0]]:g} for "
            f"{show_path(embeddings.paths[bad[0]])}, row {bad[0]}"
        )
    is_timed = ~np.isnan(times).all(axis=1)
    is_valid = np.isfinite(times).all(axis=1) & (times[:, 0] >= 0) & (times[:, 0] <= times[:, 1])
    bad = np.flatnonzero(is_timed & ~is_valid)
    if len(bad):
        path, (start, end) = show_path(embeddings.paths[bad[0]]), times[bad[0]].tolist()
        raise VidretError(f"times must be finite, not negative and ascending, got {start:g} and {end:g} for {path}")
    paths = tuple(absolute_path(path) if has_file(path) else path for path in embeddings.paths)
    unit = Embeddings(paths=paths, videos=embeddings.videos, times=times, vectors=vectors / lengths[:, None])
    return unit, int((np.abs(lengths - 1) > _UNIT_TOLERANCE).sum())


def import_videos(
    store: Store,
    sampling: Sampling,
    embeddings: Embeddings,
    *,
    num_rescaled: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Store the vectors of every video, checked by ``check_embeddings``; the same call continues a killed import."""
    rows = defaultdict[str, list[int]](list)
    for row, path in enumerate(embeddings.paths):
        rows[path].append(row)
    failed, counts = list[tuple[str, str]](), {"imported": 0, "known": 0, "num_segments": 0}
    with contextlib.closing(ImagePool(1, timeout_s=PROBE_TIMEOUT_S)) as pool:
        for done, (path, path_rows) in enumerate(rows.items()):
            if on_progress is not None:
                on_progress(done, len(rows))
            order = sorted(path_rows, key=lambda row: tuple(embeddings.times[row]))
            try:
                film, times = _inspect(path, embeddings.times[order], embeddings.vectors[order], pool)
            except DecodeError as error:
                failed.append((path, error.reason))
                continue
            added = _store_film(store, film, _cut(film, times, embeddings.vectors[order], sampling))
            counts["imported" if added else "known"] += 1
            counts["num_segments"] += added
    return ImportReport(**counts, num_rescaled=num_rescaled, failed=tuple(failed))


def _inspect(
    path: str, times: Float64[np.ndarray, "row 2"], vectors: Float32[np.ndarray, "row dim"], pool: ImagePool
) -> tuple[_Film, Float64[np.ndarray, "row 2"]]:
    """Return a video to store, and the times of its rows; one row without times is the whole video."""
    is_whole = bool(np.isnan(times).any())
    if is_whole and len(times) > 1:
        raise DecodeError(path, f"has {len(times)} vectors, and not all have start_s and end_s")
    if not has_file(path):
        if is_whole:
            raise DecodeError(path, "has no file, so start_s and end_s must be given")
        content = hashlib.sha256(times.tobytes() + vectors.tobytes()).hexdigest()
        film = _Film(
            path, f"{IMPORTED}-{content}", float(times.max()), {"path": path, "decoder": "none", IMPORTED: True}
        )
        return film, times
    stat = stat_file(path)
    facts = pool.read_facts(path, stat)  # in another process, since the file may be malicious
    start, duration = float(facts["start"]), float(facts["duration"])
    if not is_whole and times.max() > duration + _END_TOLERANCE_S:
        raise DecodeError(path, f"ends at {duration:g} s, before its vectors, at {times.max():g} s")
    facts |= {"decoder": "none", IMPORTED: True}
    film = _Film(path, fingerprint(path), duration, facts, stat.st_size, read_mtime_ns(stat))
    return film, np.array([[start, duration]]) if is_whole else times


def _cut(
    film: _Film, times: Float64[np.ndarray, "row 2"], vectors: Float32[np.ndarray, "row dim"], sampling: Sampling
) -> Iterator[tuple[float, float, SegmentEmbedding]]:
    """Yield the start, end and vectors of each segment; frames are grouped into segments as long as the encoder's."""
    if (times[:, 0] < times[:, 1]).any() or len(times) == 1:
        for (start, end), vector in zip(times.tolist(), vectors, strict=True):
            yield start, end, SegmentEmbedding(vector, vector[None], np.array([(start + end) / 2]))
        return
    at, step = times[:, 0], len(times) if sampling.whole else sampling.num_frames
    for first in range(0, len(at), step):
        rows = slice(first, first + step)
        end = at[first + step] if first + step < len(at) else max(film.duration, at[-1])
        yield float(at[first]), float(end), SegmentEmbedding(_mean(vectors[rows]), vectors[rows], at[rows])


def _mean(vectors: Float[np.ndarray, "row dim"]) -> Float[np.ndarray, " dim"]:
    """Return the mean direction of vectors, or the first vector if they cancel out."""
    mean = np.asarray(vectors.mean(axis=0))
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if length > _SHORTEST_VECTOR else vectors[0])


def _store_film(store: Store, film: _Film, cuts: Iterator[tuple[float, float, SegmentEmbedding]]) -> int:
    """Store a video unless its content is complete, link its path, and return the number of new segments."""
    video_id, num_new = store.videos.find_complete(film.content), 0
    if video_id is None:
        segments = list(cuts)
        num_new = len(segments)
        video_id = store.writer.begin_video(
            film.content, duration=film.duration, facts=film.facts, num_segments=num_new
        )
        store.writer.add_segments(
            [NewSegment(video_id, segment_index, *segment) for segment_index, segment in enumerate(segments)]
        )
        store.writer.finish_video(video_id)
    store.writer.set_file(film.path, state="done", video=video_id, num_bytes=film.num_bytes, mtime_ns=film.mtime_ns)
    return num_new


PATH_COLUMNS, START_COLUMNS, END_COLUMNS = ("path", "video_path", "image_path"), ("start_s", "start"), ("end_s", "end")
VECTORS, METADATA, EMBEDDING = "img_emb", "metadata", "embedding"
_PART = re.compile(r"_(\d+)$")
Columns = Mapping[str, Sequence[Any]]


def read_vectors(source: Path) -> Embeddings:
    """Read vectors with their paths and times in seconds, NaN where the source has no times.

    The source is a .npy file beside a .csv of the same name, a .parquet or .safetensors file, or a folder of
    clip-retrieval. Paths are in a column path, video_path or image_path, times in start_s and end_s, or start and end.
    Raise MissingExtraError if the extra ``parquet`` is missing, or VidretError if the source cannot be read, or vectors
    and rows differ in number.
    """
    readers = {".npy": _read_npy, ".parquet": _read_parquet, ".safetensors": _read_safetensors}
    if not source.exists():
        raise VidretError(f"{source}: does not exist")
    if source.is_dir():
        return _read_folder(source)
    if source.suffix not in readers:
        raise VidretError(f"{source}: must be a folder or end in {', '.join(readers)}")
    return readers[source.suffix](source)


def _read_folder(folder: Path) -> Embeddings:
    vectors, tables = _find_parts(folder / VECTORS, ".npy"), _find_parts(folder / METADATA, ".parquet")
    if not vectors:
        raise VidretError(f"{folder}: must hold {VECTORS}/*.npy and {METADATA}/*.parquet, got no vectors")
    if vectors.keys() != tables.keys():
        part = min(vectors.keys() ^ tables.keys())
        found, missing = (vectors, METADATA) if part in vectors else (tables, VECTORS)
        raise VidretError(f"{found[part]}: must have its part {part} in {folder / missing}, got none")
    parts = [_make(_read_table(tables[part]), _load_array(vectors[part]), tables[part]) for part in sorted(vectors)]
    return Embeddings(
        paths=tuple(path for part in parts for path in part.paths),
        videos=np.concatenate([part.videos for part in parts]),
        times=np.concatenate([part.times for part in parts]),
        vectors=_join([part.vectors for part in parts], folder),
    )


def _find_parts(folder: Path, suffix: str) -> dict[int, Path]:
    """Return the files of a folder by the number at the end of their names; 0 for one without a number."""
    return {int(part[1]) if (part := _PART.search(path.stem)) else 0: path for path in folder.glob(f"*{suffix}")}


def _join(arrays: Sequence[Float[np.ndarray, "_row _dim"]], source: Path) -> Float[np.ndarray, "row dim"]:
    if len({array.shape[1] for array in arrays}) > 1:
        raise VidretError(f"{source}: vectors must have one dimension, got {sorted({a.shape[1] for a in arrays})}")
    return np.concatenate(arrays)


def _read_npy(source: Path) -> Embeddings:
    table = source.with_suffix(".csv")
    vectors = _load_array(source)
    try:
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            header, *rows = csv.reader(lines)
        columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    except (OSError, ValueError, csv.Error) as error:
        raise VidretError(f"{table}: cannot be read as a table of paths and times: {error}") from error
    return _make(columns, vectors, table)


def _load_array(source: Path) -> Float[np.ndarray, "row dim"]:
    try:
        array = np.load(source, allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python, so a damaged one raises errors of any kind
        raise VidretError(f"{source}: cannot be read as an array: {read_fault(error)}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise VidretError(f"{source}: must be an array (row, dim) of floating-point numbers")
    with np.errstate(over="ignore"):  # infinite values are refused later
        return array.astype(np.float32)


def _read_parquet(source: Path) -> Embeddings:
    columns = _read_table(source)
    if EMBEDDING not in columns:
        raise VidretError(f"{source}: must have a column {EMBEDDING}, got {', '.join(columns)}")
    return _make(columns, _stack(columns[EMBEDDING], source), source)


def _stack(rows: Sequence[Any], source: Path) -> Float[np.ndarray, "row dim"]:
    try:
        return np.array(rows, np.float32).reshape(len(rows), -1)
    except (TypeError, ValueError):
        raise VidretError(f"{source}: {EMBEDDING} must hold lists of numbers of one length") from None


def _read_table(source: Path) -> Columns:
    """Return the columns of a Parquet file that an index can use."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(str(source), "parquet") from None
    try:
        names = [name for name in parquet.read_schema(source).names if name in USED_COLUMNS]
        columns: Columns = parquet.read_table(source, columns=names).to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's own errors are among them
        raise VidretError(f"{source}: cannot be read as Parquet: {read_fault(error)}") from error
    return columns


USED_COLUMNS = {*PATH_COLUMNS, *START_COLUMNS, *END_COLUMNS, EMBEDDING}


def _read_safetensors(source: Path) -> Embeddings:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, "np") as stored:
            vectors, times = stored.get_tensor("embeddings"), stored.get_tensor("times")
            paths = list(json.loads((stored.metadata() or {})["paths"]))
        columns = {"path": paths, "start": times[:, 0], "end": times[:, 1]}
    except (OSError, SafetensorError, LookupError, ValueError, TypeError, RecursionError) as error:
        raise VidretError(f"{source}: must have the tensors embeddings and times, and paths: {error}") from error
    return _make(columns, vectors.astype(np.float32), source)


def _make(columns: Columns, vectors: Float[np.ndarray, "row dim"], source: Path) -> Embeddings:
    """Return embeddings from a table and its vectors; raise VidretError if they differ in number."""
    name = _find_column(columns, PATH_COLUMNS)
    if name is None:
        raise VidretError(f"{source}: must have a column {', '.join(PATH_COLUMNS)}, got {', '.join(columns)}")
    paths = tuple(map(str, columns[name]))
    if len(paths) != len(vectors):
        raise VidretError(f"{source}: must have a row for each of {len(vectors)} vectors, got {len(paths)}")
    return Embeddings(
        paths=paths,
        videos=np.zeros(len(paths), np.int64),
        times=_read_times(columns, len(paths), source),
        vectors=vectors,
    )


def _find_column(columns: Columns, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _read_times(columns: Columns, num_rows: int, source: Path) -> Float64[np.ndarray, "row 2"]:
    start, end = _find_column(columns, START_COLUMNS), _find_column(columns, END_COLUMNS)
    if start is None and end is None:
        return np.full((num_rows, 2), np.nan)
    if start is None or end is None:
        raise VidretError(f"{source}: must have both start_s and end_s, got only {start or end}")
    try:
        return np.array([columns[start], columns[end]], np.float64).T
    except (TypeError, ValueError) as error:
        raise VidretError(f"{source}: {start} and {end} must be seconds: {error}") from error
