"""Engine: the rooms, in order, behind one door."""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from jaxtyping import Float, Float32

from vidret.align.baseline import WEAK
from vidret.devices import AUTO as AUTO_DEVICE
from vidret.devices import CPU, choose_device, cuda_index
from vidret.encode.encoder import STARTER, Encoder, check_encoder
from vidret.encode.load import load_encoder
from vidret.errors import DecodeError, StoreError, VidretError
from vidret.index.options import IndexOptions
from vidret.index.progress import IndexReport, Progress
from vidret.index.run import index_files
from vidret.search.calibration import Calibration, measure_calibration, save_calibration
from vidret.search.grounding import Grounder, forget_others
from vidret.search.locating import Locator, RankedVideo
from vidret.search.queries import EncodedQuery, encode_queries
from vidret.search.ranking import AUTO, NONE, Ranker, check_ranker, load_ranker
from vidret.search.searcher import Searcher
from vidret.store.gpu import choose_faiss_device
from vidret.store.records import HEAD, MOMENTS, RANKER, FileRecord, StoredVideo, StoreInfo
from vidret.store.store import Store
from vidret.store.vectors import load_faiss
from vidret.text import absolute_path, as_path, strip_query
from vidret.types import ALL_VIDEOS, CANDIDATES, Curve, Filters, Hit, Moment, Query, SearchOptions
from vidret.video.decode import Decoder
from vidret.video.files import may_exist
from vidret.video.scan import list_videos

logger = logging.getLogger(__name__)

IndexRunner = Callable[[Store, Encoder, Sequence[str], IndexOptions], IndexReport]


class Engine:
    """An index and the encoder it was made with: index, search, locate.

    Made by ``Engine.open``; a context manager. Any number of engines may search an index while one adds to it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encoder: Encoder,
        *,
        rerank: str = AUTO,
        tokens: str = "int8",
        head: str | os.PathLike[str] = AUTO,
        device: str = AUTO_DEVICE,
        store: str | None = None,
    ) -> None:
        """Join an index folder, which need not exist yet, with an encoder; ``Engine.open`` finds the right encoder.

        Raises:
            DeviceError: There is no such device.
            StoreError: The index was made with another encoder or for another aligner.
        """
        self._device_named = device != AUTO_DEVICE
        self.device = choose_device(device if self._device_named else getattr(encoder, "device", CPU))
        self.path = Path(path)
        self.encoder = encoder
        self._vectors = store
        self._opened: Searcher | None = None
        made: dict[str, str] = {}
        known_head = NONE
        if Store.exists(self.path):
            with Store.open(self.path) as opened:
                opened.check_encoder(encoder.name, encoder.fingerprint)
                made = json.loads(opened.get_meta(RANKER) or "{}")
                known_head = str(opened.get_meta(HEAD) or NONE)
        if made:  # how tokens are stored is settled, whatever is asked now
            rerank, tokens = made["name"] if rerank == AUTO else rerank, made["tokens"]
        self.ranker = load_ranker(rerank, encoder, tokens=tokens)
        self._tokens = tokens
        if made:
            self._check_made(made)
        self._told_head = head != AUTO
        self._head = os.fspath(head) if self._told_head else known_head
        if self._told_head:
            _ = self.grounder  # a wrong file is told at once; one that only the index knows must not stop a search

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        encoder: str | Encoder | None = None,
        rerank: str = AUTO,
        tokens: str = "int8",
        head: str | os.PathLike[str] = AUTO,
        device: str = "auto",
        precision: str = "auto",
        store: str | None = None,
    ) -> Self:
        """Open an index folder, or name the folder of one to be made.

        Args:
            path: The folder.
            encoder: An encoder or a name for ``load_encoder``. Unless given it is the one that the index was made with,
                and ``starter`` for a new index.
            rerank: What a new index is prepared for, and orders the candidates of a search: ``none``, ``ucofia`` or
                ``glscl`` (training-free), the file of a trained aligner, or ``auto``: the aligner that lies beside the
                model's file, ``ucofia`` for the starter, else none.
            tokens: How tokens are stored, for UCoFiA in a new index and for a grounding head: ``int8`` or ``float16``.
            head: The file of a trained grounding head, which then locates moments; ``none``, or ``auto``: the one that
                the index was prepared for.
            device: Where the encoder, a head, decoding and FAISS run; see ``load_encoder`` for its names. Decoding and
                FAISS run on the CPU where the device is not CUDA, or where their builds have no GPU code. An encoder
                that is loaded already runs where it is, which ``auto`` then means.
            precision: See ``load_encoder``.
            store: Where the vectors of a new index go: ``faiss``, which is embedded and taken unless given, or the
                address of a Milvus, ``milvus://...``. The index remembers it, and refuses to be given another.

        Raises:
            DeviceError: There is no such device; nothing is loaded before that is known.
            StoreError: The index cannot be read, or was made with another encoder.
            EncoderError: The encoder cannot be loaded.
        """
        chosen = choose_device(device)
        if encoder is None:
            encoder = STARTER
            if Store.exists(path):
                with Store.open(path) as opened:
                    encoder = opened.encoder_name
        if isinstance(encoder, str):
            encoder = load_encoder(encoder, device=chosen, precision=precision)
        return cls(path, encoder, rerank=rerank, tokens=tokens, head=head, device=device, store=store)

    @cached_property
    def grounder(self) -> Grounder | None:
        """The trained grounding head, loaded when it is first needed; None when there is none.

        Raises:
            VidretError: Its file is gone or cannot be read, or it is not for the encoder.
        """
        if self._head == NONE:
            return None
        folder = self.path / MOMENTS
        return Grounder(Path(self._head), self.encoder, folder, tokens=self._tokens, device=self.device)

    @property
    def _searcher(self) -> Searcher:
        if self._opened is None:
            store = Store.open(self.path, device=self._choose_faiss_device())
            self._opened = Searcher(store, self.encoder, self.ranker, tokens=self._tokens)
        return self._opened

    def _choose_faiss_device(self) -> str:
        if cuda_index(self.device) is None:
            return CPU
        chosen = choose_faiss_device(load_faiss(), self.device)
        if chosen != self.device:  # with auto it is no surprise: the extra "cpu" has no GPU code
            level = logging.WARNING if self._device_named else logging.INFO
            logger.log(level, "FAISS does not see %s, so it searches on the CPU", self.device)
        return chosen

    @property
    def _store(self) -> Store:
        return self._searcher.store

    def close(self) -> None:
        """Close the index."""
        if self._opened is not None:
            self._opened.store.close()
            self._opened = None

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
        workers: int | None = None,
        decoder: Decoder = "auto",
        timeout: float = 120.0,
        retry_failed: bool = False,
        prune: bool = False,
        memory: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        run: IndexRunner = index_files,
    ) -> IndexReport:
        """Bring the index up to date with files, folders, globs or manifests, at paths or at addresses.

        Args:
            paths: See ``list_videos``.
            workers: See ``IndexOptions``.
            decoder: See ``IndexOptions``.
            timeout: See ``IndexOptions``.
            retry_failed: See ``IndexOptions``.
            prune: Remove missing files below the listed folders from the index.
            memory: See ``Store.set_memory``; None leaves it unchanged.
            on_progress: See ``IndexOptions``.
            run: ``index_files`` for threads of this process, or ``index_on_ray`` with its own arguments bound.

        Raises:
            VidretError: A path does not exist, or the index cannot be written. Files that cannot be read raise nothing:
                they are in the report, and in the index with their reasons.
        """
        listing = list_videos(os.fspath(path) for path in paths)
        exists = Store.exists(self.path)
        if not exists:
            self._check_models()
        encoder = self.encoder
        with Store.create(
            self.path,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            vectors=self._vectors,
        ) as store:
            known = store.get_meta(RANKER)
            if known is not None:  # another engine may have made it since this one was
                self._check_made(json.loads(known))
            made = {"name": self.ranker.name, "fingerprint": self.ranker.fingerprint, "tokens": self._tokens}
            store.set_meta(RANKER, json.dumps(made) if known is None else known)
            if memory is not None:
                store.set_memory(memory)
            options = IndexOptions(
                pack=self.ranker.pack if self.ranker.fingerprint else None,
                tokens=self.ranker.wants_tokens,
                workers=workers,
                decoder=decoder,
                device=self.device,
                timeout=timeout,
                retry_failed=retry_failed,
                prune_below=listing.folders if prune else None,
                check=self._check_models if exists else None,
                on_progress=on_progress,
            )
            report = run(store, encoder, listing.files, options)
            for name in {self.ranker.name, NONE}:  # what orders hits, and what weighs moments
                self._searcher.baselines.save(store, self._searcher.get_ranker(name))
            if self._told_head:
                store.set_meta(HEAD, NONE if self.grounder is None else str(self.grounder.path))
        if report.pruned is not None:
            forget_others(self.path / MOMENTS, set(self._store.fingerprints().values()))
        return report

    def prepare_moments(self, *, timeout: float = 120.0, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Compute what the grounding head needs of every video, and keep it; what is there already stays.

        Without this, the first query that looks into a video does it, and the result is kept up to a size limit.

        Args:
            timeout: Seconds a decoder may stay silent.
            on_progress: Called with the number of videos done and of all.

        Raises:
            VidretError: The engine has no head. Videos that cannot be read are logged.
        """
        if self.grounder is None:
            raise VidretError("head must be given to prepare moments, got none")
        on_prepared = on_progress or (lambda _done, _total: None)
        contents = self._store.contents()
        for done, (content, video) in enumerate(contents.items()):
            on_prepared(done, len(contents))
            path = self._choose_path(video)
            try:
                self.grounder.prepare(path, content, keep=True, timeout=timeout)
            except DecodeError as error:
                logger.warning("%s: no moments prepared: %s", strip_query(path), error.reason)
        on_prepared(len(contents), len(contents))

    def calibrate(
        self,
        bank: Sequence[str],
        *,
        name: str = "bank",
        rerank: str | None = AUTO,
        temperature: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Calibration:
        """Learn from a bank of queries which segments answer everything, and correct searches for it (SK-norm).

        The correction is one number a segment and level, kept in the index: a single query needs no other queries.

        Args:
            bank: Queries such as people ask; training captions in the published protocol.
            name: What to call the bank in reports.
            rerank: Whose scores are corrected, as in ``search``.
            temperature: The smaller, the more strongly segments are held to equal shares; the ranker's own unless
                given.
            on_progress: Called with the number of segments done and of all.

        Raises:
            VidretError: The bank or the index is empty, or too large together.
        """
        texts = [text for text in bank if text.strip()]
        if not texts:
            raise VidretError("bank must hold a query, got none")
        searcher = self._searcher
        ranker = searcher.get_ranker(rerank)
        embeddings = self.encoder.encode_text(texts)
        with Store.open(self.path, write=True) as store:
            calibration = measure_calibration(
                store,
                ranker,
                embeddings,
                bank=name,
                read=lambda ids: searcher.reranker.score(ranker, embeddings, ids),
                temperature=temperature,
                on_progress=on_progress,
            )
            with searcher.calibrations.override(ranker, calibration):
                baseline = searcher.baselines.measure(store, ranker)
            save_calibration(store, ranker, calibration, baseline)
        return calibration

    # Asking

    def choose_ranker(self, rerank: str | None = AUTO) -> Ranker:
        """Give what orders candidates, by the name that ``search`` takes."""
        return self._searcher.get_ranker(rerank)

    def search(
        self,
        query: Query,
        k: int = 10,
        *,
        candidates: int = CANDIDATES,
        rerank: str | None = AUTO,
        filters: Filters = ALL_VIDEOS,
    ) -> list[Hit]:
        """Find the videos that answer a query.

        Args:
            query: What to look for: words, of which ``-word`` and ``-"some words"`` must not fit; or a picture, uint8
                (height, width, 3), for videos with a frame like it; or a vector of the encoder's, of any length.
            k: How many videos to give at most.
            candidates: Number of nearest segments that are reranked. Where these hold fewer than ``k`` videos, the best
                few segments of each further video are added.
            rerank: What orders them: ``ucofia``, ``glscl``, None for the best frames alone, or what the index was made
                for. What comes without words is answered by the best frames whatever this says.
            filters: Which videos the search is about.

        Returns:
            Hits, best first; a video is there once, with its best segment. A file that is gone is left out at once. How
            weak a hit is says the part of the query that is wanted; without words hits are never called weak, since
            there is nothing to compare them with.

        Raises:
            VidretError: The query is empty, k is below 1, or there is no index.
        """
        return self.search_many([query], [SearchOptions(k=k, rerank=rerank, filters=filters, candidates=candidates)])[0]

    def search_many(self, queries: Sequence[Query], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        """Return the hits of several searches, which is faster than one by one and gives the same.

        Args:
            queries: As in ``search``.
            options: The options of each query.

        Raises:
            VidretError: As in ``search``; one invalid search fails all.
        """
        for each in options:
            if each.k < 1 or each.candidates < 1:
                raise VidretError(f"k and candidates must be at least 1, got {each.k} and {each.candidates}")
        if len(queries) != len(options):
            raise VidretError(f"queries and options must have equal length, got {len(queries)} and {len(options)}")
        return self._searcher.search(encode_queries(queries, self.encoder), options)

    def score_videos(
        self,
        queries: Sequence[str],
        videos: Sequence[str | os.PathLike[str] | int],
        *,
        rerank: str | None = AUTO,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Float32[np.ndarray, "text video"]]:
        """Score queries against videos, all with all: for evaluation.

        Args:
            queries: In words.
            videos: Paths or ids.
            rerank: As in ``search``.
            on_progress: Called with the number of segments done and of all.

        Returns:
            A matrix for each level, and ``total``, which is what ``search`` would order by, uncorrected by any bank.
        """
        searcher = self._searcher
        numbers = [self._find_video(video) for video in videos]
        texts = self.encoder.encode_text(list(queries))
        return searcher.reranker.score_videos(texts, numbers, searcher.get_ranker(rerank), on_progress=on_progress)

    def locate(
        self,
        query: Query,
        k: int = 5,
        *,
        video: str | os.PathLike[str] | int | None = None,
        videos: int = 10,
        filters: Filters = ALL_VIDEOS,
        overlapping: bool = False,
        weak: bool = False,
    ) -> list[Moment]:
        """Find the moments that answer a query, in one video or in all.

        Args:
            query: As in ``search``.
            k: How many moments to give at most.
            video: The path or id of the one video to look into; all unless given.
            videos: Of all videos, how many of the best are looked into.
            filters: Which of all videos.
            overlapping: Also return moments that overlap better ones: the ranked list that benchmarks count.
            weak: Also return moments of videos in which most unrelated queries score as high, and those that stand out
                less than half as much as the best of their video.

        Returns:
            Moments, best first; each says whether the curve or a trained head found it. A video whose whole curve is
            above what few unrelated queries reach is one moment, unless ``overlapping``.

        Raises:
            VidretError: The query is empty, k is below 1, or the video is not in the index.
        """
        encoded = self._encode_query(query, k)
        if video is None:
            hits = self._searcher.search([encoded], [SearchOptions(k=videos, filters=filters)])[0]
            ranked = [RankedVideo(video_id=hit.video, path=hit.path, score=hit.score, weak=hit.weak) for hit in hits]
        else:
            ranked = [self._choose_video(video)]
        return Locator(self._searcher, self.grounder).locate(encoded, ranked, k, overlapping=overlapping, weak=weak)

    def rate(
        self, query: Query, video: str | os.PathLike[str] | int, times: Float[np.ndarray, " time"]
    ) -> Float[np.ndarray, " time"]:
        """Say how well a video fits a query at certain times, in seconds: its saliency, by the head or the curve."""
        locator = Locator(self._searcher, self.grounder)
        return locator.rate(self._encode_query(query, 1), self._choose_video(video), times)

    def curve(self, query: Query, video: str | os.PathLike[str] | int) -> Curve:
        """Score a query against every stored frame of one video."""
        locator, number = Locator(self._searcher, self.grounder), self._find_video(video)
        curve = locator.curve(self._encode_query(query, 1), number)
        if curve is None:
            raise StoreError(f"{strip_query(str(video))}: nothing of it is stored yet")
        return curve

    def typical_score(self, share: float = 1 - WEAK) -> float | None:
        """Give the score of best frames that only this share of unrelated queries reach; None in an empty index."""
        return self._searcher.typical_score(share)

    # What there is

    def videos(self, filters: Filters = ALL_VIDEOS) -> list[StoredVideo]:
        """List the videos that a search may find, in the order of their paths."""
        return self._store.videos(filters)

    def video(self, video: int) -> StoredVideo:
        """Give one of them by its id.

        Raises:
            StoreError: There is no such video, or none of its files is there any more.
        """
        found = self._store.videos(video=video)
        if not found:
            raise StoreError(f"video must be one of this index, got {video}")
        return found[0]

    def file(self, path: str) -> FileRecord | None:
        """Return what the index recorded of a file, None where it does not name it."""
        return self._store.file(path)

    def info(self) -> StoreInfo:
        """Describe the index in numbers."""
        return self._store.info()

    def failed(self) -> list[tuple[str, str]]:
        """List the files that could not be indexed, each with its reason."""
        return [(record.path, record.reason) for record in self._store.files(state="failed")]

    # The parts

    def _check_models(self) -> None:
        """Refuse an encoder or a ranker that does not do what it should."""
        check_encoder(self.encoder)
        check_ranker(self.ranker, self.encoder)

    def _check_made(self, made: Mapping[str, str]) -> None:
        if made["fingerprint"] != self.ranker.fingerprint or made["tokens"] != self._tokens:
            raise StoreError(f"{self.path}: made with --rerank {made['name']}, cannot go on with {self.ranker.name}")

    def _encode_query(self, query: Query, k: int) -> EncodedQuery:
        if k < 1:
            raise VidretError(f"k must be at least 1, got {k}")
        return encode_queries([query], self.encoder)[0]

    def _choose_video(self, video: str | os.PathLike[str] | int) -> RankedVideo:
        number = self._find_video(video)
        path = as_path(os.fspath(video)) if isinstance(video, str | os.PathLike) else self._choose_path(number)
        return RankedVideo(video_id=number, path=path)

    def _choose_path(self, video: int) -> str:
        """Give a video's first path that is there; where none is, the first, for an error to name."""
        paths = self._store.paths([video])[video]
        if not paths:
            raise StoreError(f"video must have a file that is there, got {video}, whose files are all gone")
        return next((path for path in paths if may_exist(path)), paths[0])

    def _find_video(self, video: str | os.PathLike[str] | int) -> int:
        if isinstance(video, int):
            return self._store.video(video).id
        record = self._store.file(absolute_path(video))
        if record is None or record.video is None or not record.live:
            reason = f" ({record.reason})" if record is not None and record.reason else ""
            raise StoreError(f"{strip_query(os.fspath(video))}: not in the index{reason}")
        return record.video
