"""Engine: the rooms, in order, behind one door."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from vidret.align.baseline import UNRELATED, WEAK, unrelated_share
from vidret.align.similarity import score_frames
from vidret.encode.encoder import STARTER, Encoder, check_encoder, load_encoder
from vidret.errors import StoreError, VidretError
from vidret.ground.curve import find_spans
from vidret.indexing import IndexReport, Progress, index_files
from vidret.store.records import StoreInfo
from vidret.store.store import Store
from vidret.store.vectors import load_faiss
from vidret.types import Hit, Moment, Segment
from vidret.video.decode import Decoder
from vidret.video.scan import scan

logger = logging.getLogger(__name__)

CANDIDATES = 200  # segments whose frames are looked at for a query
BASELINE = "baseline"
BASELINE_DRIFT = 1.25  # an index that has grown by more is measured again


@dataclass(frozen=True, slots=True)
class RankedSegment:
    """A candidate segment after its frames were looked at: its score and the time of its best frame."""

    segment: Segment
    score: float
    time: float


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A query's similarity with every stored frame of one video, which is stored from ``start`` to ``end``.

    ``best`` is the score of its best segment, as a search gives it.
    """

    scores: Float[np.ndarray, " frame"]
    times: Float[np.ndarray, " frame"]
    start: float
    end: float
    best: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """The best scores of unrelated queries, as measured over ``segments`` and still held good at ``generation``."""

    generation: int
    segments: int
    best: list[float]


class Engine:
    """An index and the encoder it was made with: index, search, locate.

    Made by ``Engine.open``; a context manager. Any number of engines may search an index while one adds to it.
    """

    def __init__(self, path: str | os.PathLike[str], encoder: Encoder, *, device: str = "cpu") -> None:
        """Join an index folder, which need not exist yet, with an encoder; ``Engine.open`` finds the right encoder.

        Raises:
            StoreError: The index was made with another encoder.
        """
        self.path = Path(path)
        self.encoder = encoder
        self._device = device
        self._reader: Store | None = None
        self._baseline: Baseline | None = None
        if (self.path / "catalog.sqlite").exists():
            self._store.check_encoder(encoder.name, encoder.fingerprint)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: str | Encoder | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> Self:
        """Open an index folder, or name the folder of one to be made.

        Args:
            path: The folder.
            encoder: An encoder or a name for ``load_encoder``. Unless given it is the one that the index was made with,
                and ``starter`` for a new index.
            device: See ``load_encoder``.
            precision: See ``load_encoder``.

        Raises:
            StoreError: The index cannot be read, or was made with another encoder.
            EncoderError: The encoder cannot be loaded.
        """
        if encoder is None:
            encoder = STARTER
            if (Path(path) / "catalog.sqlite").exists():
                with Store.open(path) as store:
                    encoder = store.encoder_name
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, device=device, precision=precision)
        return cls(path, encoder, device=device)

    @property
    def _store(self) -> Store:
        if self._reader is None:
            on_gpu = self._device.startswith("cuda") and load_faiss().get_num_gpus() > 0
            self._reader = Store.open(self.path, device="cuda" if on_gpu else "cpu")
        return self._reader

    def close(self) -> None:
        """Close the index."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Adding

    def index(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        lanes: int | None = None,
        decoder: Decoder = "auto",
        timeout: float = 120.0,
        retry_failed: bool = False,
        prune: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> IndexReport:
        """Bring the index up to date with files, folders, globs or manifests.

        ``scan`` says what paths may be, ``index_files`` what the other arguments do.

        Raises:
            VidretError: A path does not exist, or the index cannot be written. Files that cannot be read raise nothing:
                they are in the report, and in the index with their reasons.
        """
        files = scan(os.fspath(path) for path in paths)
        load_faiss()  # a missing extra is told before the work, not after it
        check_encoder(self.encoder)
        encoder = self.encoder
        with Store.create(
            self.path, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
        ) as store:
            report = index_files(
                store,
                encoder,
                files,
                lanes=lanes,
                decoder=decoder,
                device="cuda" if self._device.startswith("cuda") else "cpu",
                timeout=timeout,
                retry_failed=retry_failed,
                prune=prune,
                on_progress=on_progress,
            )
            best = self._measure_baseline()
            if best is not None:
                store.set_meta(BASELINE, json.dumps({"segments": len(store), "best": best}))
        return report

    # Asking

    def search(self, query: str, k: int = 10, *, candidates: int = CANDIDATES) -> list[Hit]:
        """Find the videos that answer a query.

        Args:
            query: What to look for, in words.
            k: How many videos to give at most.
            candidates: How many segments of the coarse search have their frames looked at, at least; more are taken
                when these hold fewer than ``k`` videos.

        Returns:
            Hits, best first; a video is there once, with its best segment. A file that is gone is left out at once.

        Raises:
            VidretError: The query is empty, k is below 1, or there is no index.
        """
        sentence = self._encode_query(query, k)
        while True:
            ranked = self._rank(sentence, candidates)
            hits = self._as_hits(ranked, k)
            if len(hits) >= k or len(ranked) < candidates:
                return hits
            candidates *= 4

    def locate(
        self, query: str, k: int = 5, *, video: str | os.PathLike[str] | int | None = None, videos: int = 10
    ) -> list[Moment]:
        """Find the moments that answer a query, in one video or in all.

        Args:
            query: What to look for, in words.
            k: How many moments to give at most.
            video: The path or id of the one video to look into; all unless given.
            videos: Of all videos, how many of the best are looked into.

        Returns:
            Moments, best first. Where a moment of a video lies depends on that video alone.

        Raises:
            VidretError: The query is empty, k is below 1, or the video is not in the index.
        """
        sentence = self._encode_query(query, k)
        if video is None:
            chosen = [(hit.video, hit.path) for hit in self.search(query, videos)]
        else:
            number = self._find_video(video)
            paths = self._store.paths([number]).get(number, [])
            chosen = [(number, os.fspath(video) if isinstance(video, str | os.PathLike) else paths[0])]
        moments = []
        for number, path in chosen:
            curve = self._curve(sentence, number)
            if curve is None:
                continue
            weak = unrelated_share(self._baseline_scores(), curve.best) >= WEAK
            spans = find_spans(curve.scores, curve.times, start=curve.start, end=curve.end, k=k)
            moments += [Moment(number, path, span.start, span.end, span.score, weak) for span in spans]
        return sorted(moments, key=lambda moment: -moment.score)[:k]

    def curve(self, query: str, video: str | os.PathLike[str] | int) -> Curve:
        """Score a query against every stored frame of one video."""
        curve = self._curve(self._encode_query(query, 1), self._find_video(video))
        if curve is None:
            raise StoreError(f"{video}: nothing of it is stored yet")
        return curve

    def info(self) -> StoreInfo:
        """Describe the index in numbers."""
        return self._store.info()

    def failed(self) -> list[tuple[str, str]]:
        """List the files that could not be indexed, each with its reason."""
        return [(record.path, record.reason) for record in self._store.files(state="failed")]

    # The parts

    def _encode_query(self, query: str, k: int) -> Float[np.ndarray, " dim"]:
        if not query.strip():
            raise VidretError(f"query must hold a word, got {query!r}")
        if k < 1:
            raise VidretError(f"k must be at least 1, got {k}")
        return self.encoder.encode_text([query])[0].sentence

    def _rank(self, sentence: Float[np.ndarray, " dim"], candidates: int) -> list[RankedSegment]:
        """Let the vectors choose candidates, and order these by their frames."""
        _, found = self._store.search(sentence[None], candidates)
        ids = found[0][found[0] >= 0]
        frames = self._store.frames(ids)
        scores, best = score_frames(sentence, [vectors for vectors, _ in frames])
        segments = self._store.segments(ids)
        ranked = [
            RankedSegment(segment, float(score), float(times[index]))
            for segment, score, index, (_, times) in zip(segments, scores, best, frames, strict=True)
        ]
        return sorted(ranked, key=lambda each: -each.score)

    def _as_hits(self, ranked: Sequence[RankedSegment], k: int) -> list[Hit]:
        best: dict[int, RankedSegment] = {}
        for each in ranked:
            best.setdefault(each.segment.video, each)
        paths = self._store.paths(list(best))
        unrelated = self._baseline_scores()
        hits: list[Hit] = []
        # Equal scores stand in the order of their names, whichever was indexed first.
        for video, each in sorted(best.items(), key=lambda item: (-item[1].score, paths.get(item[0], []))):
            there = [path for path in paths.get(video, []) if os.path.exists(path)]  # noqa: PTH110
            if there:
                weak = unrelated_share(unrelated, each.score) >= WEAK
                hits.append(Hit(video, there[0], each.segment, each.time, each.score, weak, tuple(there[1:])))
            else:
                logger.warning("left out, its file is gone: %s", ", ".join(paths.get(video, [])))
            if len(hits) == k:
                break
        return hits

    def _find_video(self, video: str | os.PathLike[str] | int) -> int:
        if isinstance(video, int):
            return self._store.video(video).id
        record = self._store.file(os.path.abspath(video))  # noqa: PTH100  as scan names files: links stay links
        if record is None or record.video is None or not record.live:
            reason = f" ({record.reason})" if record is not None and record.reason else ""
            raise StoreError(f"{os.fspath(video)}: not in the index{reason}")
        return record.video

    def _curve(self, sentence: Float[np.ndarray, " dim"], video: int) -> Curve | None:
        ids = self._store.video_segments(video)
        if not ids:
            return None
        stored = self._store.frames(ids)
        segments = self._store.segments(ids)
        frames = [vectors for vectors, _ in stored]
        best = float(score_frames(sentence, frames)[0].max())
        times = np.concatenate([times for _, times in stored])
        return Curve(np.concatenate(frames) @ sentence, times, segments[0].start, segments[-1].end, best)

    # What a score is worth

    def _baseline_scores(self) -> list[float]:
        """Give the unrelated queries' best scores: as stored, or measured here when the index has grown since."""
        generation = self._store.generation
        if self._baseline is None or self._baseline.generation != generation:
            size = len(self._store)
            stored = self._store.get_meta(BASELINE)
            known: dict[str, Any] = json.loads(stored) if stored else {"segments": 0, "best": []}
            if self._baseline is not None and self._baseline.segments > known["segments"]:
                known = {"segments": self._baseline.segments, "best": self._baseline.best}
            if size > known["segments"] * BASELINE_DRIFT:
                known = {"segments": size, "best": self._measure_baseline() or []}
            self._baseline = Baseline(generation, known["segments"], known["best"])
        return self._baseline.best

    def _measure_baseline(self) -> list[float] | None:
        """Search for what has nothing to do with the index; None when the index is empty."""
        if not len(self._store):
            return None
        sentences = [each.sentence for each in self.encoder.encode_text(UNRELATED)]
        return [self._rank(sentence, min(CANDIDATES, len(self._store)))[0].score for sentence in sentences]
