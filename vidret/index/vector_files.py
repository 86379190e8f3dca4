"""Files of vectors: those that ``vidret export embeddings`` writes, and the folders of clip-retrieval.

clip-retrieval (https://github.com/rom1504/clip-retrieval) writes ``img_emb/img_emb_0.npy``, float16 (row, dim), with
``metadata/metadata_0.parquet`` beside it, a table of the same rows, and so on for each part.
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from vidret.errors import MissingExtraError, VidretError
from vidret.types import Embeddings

PATH_COLUMNS, START_COLUMNS, END_COLUMNS = ("path", "video_path", "image_path"), ("start_s", "start"), ("end_s", "end")
VECTORS, METADATA, EMBEDDING = "img_emb", "metadata", "embedding"
_PART = re.compile(r"_(\d+)$")
Columns = Mapping[str, Sequence[Any]]


def read_vectors(source: Path) -> Embeddings:
    """Read vectors with their paths and times in seconds, NaN where the source has no times.

    Args:
        source: A .npy file beside a .csv of the same name, a .parquet or .safetensors file, or a folder of
            clip-retrieval. Paths are in a column path, video_path or image_path, times in start_s and end_s, or start
            and end.

    Raises:
        MissingExtraError: It needs the extra ``parquet``.
        VidretError: It cannot be read, or vectors and rows differ in number.
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
    except (OSError, ValueError, EOFError, MemoryError) as error:  # the header may claim any shape
        raise VidretError(f"{source}: cannot be read as an array: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        raise VidretError(f"{source}: must be an array (row, dim) of floating-point numbers")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
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
        raise VidretError(f"{source}: cannot be read as Parquet: {error}") from error
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
    """Return a table as embeddings, after a check that there are as many paths and times as vectors."""
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
