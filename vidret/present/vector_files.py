"""Stored vectors as files for other programs: NumPy, Parquet and safetensors."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from vidret.errors import MissingExtraError, VidretError
from vidret.text import strip_query
from vidret.types import Embeddings

VECTOR_FORMATS = ("npy", "parquet", "safetensors")


def check_vector_format(form: str) -> None:
    """Check that a format can be written here.

    Raises:
        MissingExtraError: It needs the extra ``parquet``.
    """
    if form == "parquet":
        _import_parquet()


def write_embeddings(embeddings: Embeddings, out: Path, form: str) -> list[Path]:
    """Write vectors to a file, and return the paths of what was written.

    ``npy`` is a float32 array (row, dim), beside a .csv file with the path, start and end of each row. ``parquet`` has
    the columns path, video, start, end and embedding. ``safetensors`` has the tensors embeddings, videos and times
    (row, 2), and the paths as JSON in its metadata. Times are in seconds. URLs are written without their query strings.

    Raises:
        MissingExtraError: The format needs the extra ``parquet``.
        VidretError: The file cannot be written.
    """
    writers = {"npy": _write_npy, "parquet": _write_parquet, "safetensors": _write_safetensors}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return writers[form](embeddings, [strip_query(path) for path in embeddings.paths], out)
    except OSError as error:
        raise VidretError(f"{out}: cannot be written: {error}") from error


def _write_npy(embeddings: Embeddings, paths: list[str], out: Path) -> list[Path]:
    table = out.with_suffix(".csv")
    with out.open("wb") as stream:
        np.save(stream, embeddings.vectors)
    with table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("path", "start", "end"))
        writer.writerows((path, *times) for path, times in zip(paths, embeddings.times.tolist(), strict=True))
    return [out, table]


def _write_parquet(embeddings: Embeddings, paths: list[str], out: Path) -> list[Path]:
    pyarrow, parquet = _import_parquet()
    flat = pyarrow.array(embeddings.vectors.ravel())
    columns = {
        "path": [path.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for path in paths],
        "video": embeddings.videos,
        "start": embeddings.times[:, 0],
        "end": embeddings.times[:, 1],
        "embedding": pyarrow.FixedSizeListArray.from_arrays(flat, embeddings.vectors.shape[1]),
    }
    parquet.write_table(pyarrow.table(columns), out)
    return [out]


def _write_safetensors(embeddings: Embeddings, paths: list[str], out: Path) -> list[Path]:
    from safetensors.numpy import save_file

    tensors = {"embeddings": embeddings.vectors, "videos": embeddings.videos, "times": embeddings.times}
    save_file(tensors, out, metadata={"paths": json.dumps(paths)})
    return [out]


def _import_parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("--format parquet", "parquet") from None
    return pyarrow, parquet
