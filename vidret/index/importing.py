"""Put vectors that another program made into an index: each video in turn, complete or not at all."""

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

from vidret.errors import DecodeError, VidretError
from vidret.store.records import IMPORTED, NewSegment
from vidret.store.store import Store
from vidret.text import absolute_path, has_file
from vidret.types import NO_TIME, Embeddings, Sampling, SegmentEmbedding
from vidret.video.files import stat_file
from vidret.video.identity import fingerprint
from vidret.video.workers.image_pool import ImagePool

_UNIT_TOLERANCE = 0.01
_SHORTEST_VECTOR = 1e-6
_END_TOLERANCE_S = 1.0
PROBE_TIMEOUT_S = 600.0  # all packets of a film are read


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        imported: Videos that are new in the index.
        known: Videos whose content was in the index, with the vectors that it had.
        num_segments: Segments that were stored.
        num_rescaled: Vectors that were not of unit length, and were normalised.
        failed: Paths whose vectors were not taken, with reasons.
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
    """Return embeddings as unit vectors with absolute paths, and how many vectors were of another length.

    Raises:
        VidretError: A vector is not finite, zero or of another dimension, or a time is invalid.
    """
    vectors, times = np.asarray(embeddings.vectors, np.float32), np.asarray(embeddings.times, np.float64)
    num_rows = len(embeddings.paths)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise VidretError(f"vectors must have {dim} values, as those of the encoder, got the shape {vectors.shape}")
    if len(vectors) != num_rows or times.shape != (num_rows, 2):
        raise VidretError(f"there must be a vector and two times for each of {num_rows} paths, got other numbers")
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > _SHORTEST_VECTOR)))
    if len(bad):
        raise VidretError(
            f"vectors must be finite and not zero, got another for {embeddings.paths[bad[0]]}, row {bad[0]}"
        )
    is_timed = ~np.isnan(times).all(axis=1)
    is_valid = np.isfinite(times).all(axis=1) & (times[:, 0] >= 0) & (times[:, 0] <= times[:, 1])
    bad = np.flatnonzero(is_timed & ~is_valid)
    if len(bad):
        path, (start, end) = embeddings.paths[bad[0]], times[bad[0]].tolist()
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
    """Store the vectors of every video; a killed import is continued by the same call.

    Args:
        store: The index, open for writing.
        sampling: That of the encoder of the index, which is not run.
        embeddings: As returned by ``check_embeddings``.
        num_rescaled: For the report.
        on_progress: Called with the number of videos done and the total.
    """
    rows = defaultdict[str, list[int]](list)
    for row, path in enumerate(embeddings.paths):
        rows[path].append(row)
    failed, counts = list[tuple[str, str]](), {"imported": 0, "known": 0, "num_segments": 0}
    with contextlib.closing(ImagePool(1, timeout_s=PROBE_TIMEOUT_S)) as pool:
        for done, (path, own) in enumerate(rows.items()):
            if on_progress is not None:
                on_progress(done, len(rows))
            order = sorted(own, key=lambda row: tuple(embeddings.times[row]))
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
    """Return what an index stores of a video, and the times of its rows; one row without times is the whole video."""
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
    facts = pool.read_facts(path, stat)  # in another process, since the file may be hostile
    start, duration = float(facts["start"]), float(facts["duration"])
    if not is_whole and times.max() > duration + _END_TOLERANCE_S:
        raise DecodeError(path, f"ends at {duration:g} s, before its vectors, at {times.max():g} s")
    facts |= {"decoder": "none", IMPORTED: True}
    film = _Film(path, fingerprint(path), duration, facts, stat.st_size, stat.st_mtime_ns)
    return film, np.array([[start, duration]]) if is_whole else times


def _cut(
    film: _Film, times: Float64[np.ndarray, "row 2"], vectors: Float32[np.ndarray, "row dim"], sampling: Sampling
) -> Iterator[tuple[float, float, SegmentEmbedding]]:
    """Yield the start, end and vectors of each segment; frames are joined to segments of as many as the encoder's."""
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
    """Return the mean direction of vectors; the first of vectors that cancel out."""
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
        store.writer.add_segments([NewSegment(video_id, number, *segment) for number, segment in enumerate(segments)])
        store.writer.finish_video(video_id)
    store.writer.set_file(film.path, state="done", video=video_id, num_bytes=film.num_bytes, mtime_ns=film.mtime_ns)
    return num_new
