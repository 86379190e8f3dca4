"""``Engine``: index videos, search them, and locate moments in them.

Methods import modules that a search does not need, so that a search from the command line starts in half the time.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float, Float32, UInt8
from typing_extensions import override

from vidret.channels.picture.ranker_loading import check_ranker
from vidret.channels.picture.ranking import AUTO, Ranker
from vidret.devices import AUTO as AUTO_DEVICE
from vidret.devices import CPU, choose_device, choose_devices
from vidret.encode.encoder import Encoder, check_encoder
from vidret.encode.families.registry import load_encoder
from vidret.errors import (
    DeviceError,
    MovedError,
    NotFoundError,
    OptionError,
    StoreError,
    UnknownEncoderError,
    VidretError,
    check_list,
)
from vidret.search.concepts.storage import forget_concept, list_concepts
from vidret.search.curves import make_curve, rate_video
from vidret.search.hits import Result, search
from vidret.search.locating import locate, locate_many
from vidret.search.models import (
    Models,
    allow_encoder,
    check_models,
    check_store,
    choose_models,
    describe_pipeline,
    explain_unknown,
    load_moment_head,
    read_encoder_name,
    record_class,
    record_head,
    record_ranker,
)
from vidret.search.open_index import OpenIndex
from vidret.search.query.grammar import Interpretation
from vidret.search.query.planning import interpret_for
from vidret.store.folder import read_place
from vidret.store.identities.persons import Persons
from vidret.store.joined import ONE_INDEX, open_indexes
from vidret.store.lookup import (
    Facets,
    count_facets,
    find_below,
    find_by_ending,
    look_up_video,
    read_embeddings,
    read_shots,
    read_video_name,
)
from vidret.store.records import MOMENTS, FileRecord, StoredVideo, StoreInfo
from vidret.store.rows_file import COLLECTIONS, pick_collection
from vidret.store.store import Store
from vidret.store.texts.upkeep import read_transcript
from vidret.store.vectors.flat import choose_search_device
from vidret.store.vectors.registry import allow_address
from vidret.text import absolute_path, display_path, strip_query
from vidret.types import (
    ALL_VIDEOS,
    RERANKERS,
    SOURCES,
    Concept,
    ConceptExample,
    CopyGroup,
    Curve,
    EmbeddingLevel,
    Embeddings,
    ExampleLike,
    Filters,
    Hit,
    LocateOptions,
    Moment,
    Query,
    SavedCollection,
    SearchOptions,
    SharedFootage,
    Shot,
    Source,
    TaggedVideo,
    TextSource,
    TimedText,
    VideoLibrary,
    VideoName,
    check_options,
)
from vidret.types import Sequence as EventSequence
from vidret.video.files import may_exist

if TYPE_CHECKING:
    from vidret.channels.picture.calibration import Calibration
    from vidret.channels.texts.options import WordsOptions
    from vidret.copies.clips import Clip, ClipFinder
    from vidret.copies.folding import CopyFolder
    from vidret.index.importing import ImportReport
    from vidret.index.options import IndexOptions, IndexReport, Progress
    from vidret.language.answers import CitedAnswer
    from vidret.language.describing import DescribeOptions, DescribeReport
    from vidret.language.endpoint import ChatEndpoint
    from vidret.language.retrieval import ContextOptions
    from vidret.search.browsing import Explorer
    from vidret.search.heads.base import MomentHead
    from vidret.search.heads.layers import Grounder
    from vidret.search.probability_fitting import ProbabilityReport
    from vidret.video.decoders.base import SamplingMode
    from vidret.video.decoders.registry import Decoder

logger = logging.getLogger(__name__)

IndexRunner = Callable[[Store, Encoder, Sequence[str], "IndexOptions"], "IndexReport"]

DEFAULT_LOCATING = LocateOptions()


class Engine(VideoLibrary):
    """An index with its encoder: index, search, locate.

    Open it with ``Engine.open``; it is a context manager. Any number of engines can search an index while one adds
    videos.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        encoder: Encoder,
        *,
        rerank: str = AUTO,
        tokens: str = "int8",
        head: str | os.PathLike[str] = AUTO,
        device: str = AUTO_DEVICE,
        store: str | None = None,
    ) -> None:
        """Open an index folder, which need not exist yet, with an encoder; ``Engine.open`` finds the right encoder.

        Raises:
            DeviceError: The device does not exist.
            StoreError: The index, or one of several, was built with another encoder or for another aligner.
        """
        self._is_device_given = device != AUTO_DEVICE
        self.device = choose_device(device if self._is_device_given else getattr(encoder, "device", CPU))
        self.paths = list_paths(path)
        self.encoder = encoder
        self._precision, self._other_devices = "auto", list[str]()
        self._vectors = store
        self._models = choose_models(self.paths[0], encoder, rerank=rerank, tokens=tokens, head=head)
        self.ranker = self._models.ranker
        for other in self.paths[1:]:
            check_models(other, encoder, self._models)
        self._opened: OpenIndex | None = None
        self._clip_finder: ClipFinder | None = None
        self._copy_folder: CopyFolder | None = None
        self._is_closed = False
        self._opening = threading.RLock()  # for resources that one thread opens for all on first use
        if self._models.is_head_given:
            _ = self.grounder  # report an invalid file now; a recorded one must not prevent searches

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        encoder: str | Encoder | None = None,
        rerank: str = AUTO,
        tokens: str = "int8",
        head: str | os.PathLike[str] = AUTO,
        device: str = "auto",
        precision: str = "auto",
        store: str | None = None,
    ) -> Self:
        """Open an index folder, which need not exist yet.

        Args:
            path: Folder of the index. Several folders are searched as one index, as if they were merged, and not
                changed; they must exist, and have one encoder and aligner. The engine does nothing else with them.
            encoder: An encoder or a name for ``load_encoder``; defaults to the encoder of the index, and to ``starter``
                for a new index. An encoder of the index that runs code, downloads or calls an endpoint must be named
                here once, unless the index was built by this user.
            rerank: Aligner that a new index is prepared for and that reranks candidates: ``none``, ``ucofia`` or
                ``glscl`` (training-free), the file of a trained aligner, or ``auto``: the aligner in the model's file
                or next to it, ``ucofia`` for the starter, else none.
            tokens: Storage of tokens, for UCoFiA in a new index and for a grounding head: ``int8`` or ``float16``.
            head: File of a trained grounding head, which locates moments; ``none``, or ``auto`` for the head that the
                index was prepared for or that is in the model's file.
            device: Device of the encoder, the head, decoding and FAISS; see ``load_encoder``. Decoding and FAISS run on
                the CPU unless the device is CUDA and their builds support it. For a loaded encoder, ``auto`` is its
                device. Of several comma-separated devices, all encode and decode while videos are indexed, and the
                first does all other work.
            precision: See ``load_encoder``.
            store: Where a new index stores its vectors: ``faiss``, the embedded default, or the address of a Milvus,
                ``milvus://...``. An existing index rejects another one.

        Raises:
            DeviceError: The device does not exist; this is checked before anything is loaded. Or there are several for
                an encoder that is loaded.
            StoreError: The index cannot be read, or was built with another encoder.
            EncoderError: The encoder cannot be loaded.
        """
        (chosen, *others), first = choose_devices(device), list_paths(path)[0]
        if store is not None:
            allow_address(first, store)
        if encoder is None or isinstance(encoder, str):
            encoder = _load_encoder(first, encoder, device=chosen, precision=precision)
        elif others:
            raise DeviceError(f"device must be one for an encoder that is loaded, got {device}")
        engine_device = chosen if others else device
        engine = cls(path, encoder, rerank=rerank, tokens=tokens, head=head, device=engine_device, store=store)
        engine._precision, engine._other_devices = precision, others
        return engine

    def reopen(self) -> None:
        """Open the index again with its current encoder, after ``vidret reindex`` changed it.

        Until then, searches raise ``MovedError``. Its aligner and head are those of the index. Calls in progress in
        other threads finish with the old ones.

        Raises:
            VidretError: There is no index, it cannot be read, or its encoder cannot be loaded.
        """
        with self._opening:
            read_place(self.paths[0])
            encoder = _load_encoder(self.paths[0], device=self.device, precision=self._precision)
            self._open_with(encoder, choose_models(self.paths[0], encoder, rerank=AUTO, tokens="int8", head=AUTO))

    def _open_with(self, encoder: Encoder, models: Models) -> None:
        for other in self.paths[1:]:
            check_models(other, encoder, models)
        self.encoder, self._models, self.ranker = encoder, models, models.ranker
        self.__dict__.pop("grounder", None)  # a cached property
        self._open_again()

    def _open_again(self) -> None:
        """Let the next call open the index again; the open one stays open while calls in progress use it."""
        with self._opening:
            self._opened = self._clip_finder = self._copy_folder = None

    def _open_replaced(self) -> None:
        """Let the next call reopen the index if another program has replaced the open one."""
        head = self._models.head if self._models.is_head_given else AUTO
        try:
            models = choose_models(self.paths[0], self.encoder, rerank=self.ranker.name, tokens="int8", head=head)
        except StoreError:  # it has another encoder or aligner
            self.reopen()
        else:
            self._open_with(self.encoder, models)

    @cached_property
    def grounder(self) -> "MomentHead | None":
        """The trained grounding head, loaded on first use; None if there is none.

        Raises:
            VidretError: Its file cannot be read, or it does not match the encoder.
        """
        return load_moment_head(self.paths[0], self._models, self.encoder, self.device)

    @property
    def pipeline(self) -> str:
        """The steps of an indexing run besides encoding, in one line."""
        return describe_pipeline(self.path, self.encoder, self._models)

    @property
    def _index(self) -> OpenIndex:
        with self._opening:
            self._check_open()
            if self._opened is not None and self._opened.store.is_replaced():
                self._open_replaced()
            if self._opened is None:
                device = choose_search_device(self.device, is_given=self._is_device_given)
                store = open_indexes(self.paths, device=device)
                try:
                    for part in store.parts.values():
                        check_store(part, self.encoder, self._models)
                except StoreError as error:  # it was replaced after its models were chosen
                    store.close()
                    raise MovedError(str(error)) from error
                self._opened = OpenIndex(store, self.encoder, self._models)
            return self._opened

    @property
    def path(self) -> Path:
        """The folder of the index.

        Raises:
            StoreError: Several indexes are open.
        """
        if len(self.paths) > 1:
            raise StoreError(ONE_INDEX)
        return self.paths[0]

    @property
    def persons(self) -> Persons:
        """The people who are seen and heard in the index, with methods to list, name, correct and forget them."""
        return Persons(self.path)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreError("engine must be open, got a closed one")

    @override
    def close(self) -> None:
        with self._opening:  # files close with the last call that uses them
            self._is_closed = True
            self._open_again()

    # Indexing

    def index(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        workers: int | None = None,
        decoder: "Decoder" = "auto",
        timeout: float = 120.0,
        retry_failed: bool = False,
        prune: bool = False,
        exclude: str | Sequence[str] = (),
        memory: int | None = None,
        words: "bool | WordsOptions | None" = None,
        people: bool | str | None = None,
        speakers: bool | str | None = None,
        shots: bool | None = None,
        sampling: "SamplingMode | None" = None,
        on_progress: "Callable[[Progress], None] | None" = None,
        run: IndexRunner | None = None,
    ) -> "IndexReport":
        """Update the index with files, folders, globs or manifests, local or at URLs.

        Args:
            paths: One or several. A folder means its files with a video suffix, at any depth; a .jsonl or .csv file is
                a manifest with a column ``path``.
            workers: Number of files processed at once, and on Ray without GPUs, of models that encode; None for the
                number of usable cores.
            decoder: ``auto``, ``decord``, ``pyav`` or ``torchcodec``.
            timeout: Seconds that a decoder may stay silent before its file fails.
            retry_failed: Read failed files again even if they are unchanged, and words that could not be read.
            prune: Remove missing files below the listed folders from the index.
            exclude: One or several shell patterns of names, or of paths in a listed folder, that are left out. Files
                that are indexed already stay in the index.
            memory: Limit of the memory of vectors in bytes, 0 for none; None leaves it unchanged.
            words: Whether to read words besides the pictures, and which; None keeps the index's setting, and reads all
                of them for a new index if the extra ``words`` is installed, unless VIDRET_WORDS is set. An index stores
                the options.
            people: Whether to detect and track faces, for searches for people; None keeps the index's setting, which is
                off in a new index. A name selects the model. Faces are biometric data. An index stores the setting.
            speakers: Whether to find who speaks when, by their voices; otherwise as ``people``.
            shots: Whether segments follow shots or a fixed grid; None keeps the index's setting. A new index follows
                shots, unless the encoder sees whole videos, for which True is refused. It cannot be changed later.
            sampling: Which frames are decoded: ``exact`` all; ``balanced`` those that others refer to, without the loop
                filter; ``fast`` only keyframes, of videos with six or more. None keeps the index's setting, and means
                ``exact`` for a new one. ``decord`` and ``torchcodec`` decode all, so they are refused with the others.
            on_progress: Called from this thread a few times per second.
            run: None for ``index_files``, on threads of this process; or ``index_on_ray`` with its own arguments bound.

        Raises:
            VidretError: A path does not exist, or the index cannot be written. Unreadable files are not an error: the
                report and the index contain them with their reasons.
            MissingExtraError: The extra ``words`` is not installed, and words are to be read; ``people``, and
                faces; ``speakers``, and voices.
        """
        from vidret.channels.identities import choose_track_models
        from vidret.channels.texts.run import choose_words
        from vidret.index.options import IndexOptions, record_rule
        from vidret.index.run import choose_workers, index_files
        from vidret.video.scan import list_videos
        from vidret.video.workers.pool import start_processes

        paths = [paths] if isinstance(paths, str | os.PathLike) else paths
        exclude = [exclude] if isinstance(exclude, str) else exclude
        words = choose_words(self.path, words)
        if words is not None:
            words.check_installed()
        tracks = choose_track_models(self.path, {"face": people, "voice": speakers})
        listing = list_videos([os.fspath(path) for path in paths], exclude)
        exists = Store.exists(self.path)
        if paths and not listing.files and not exists:
            raise VidretError(f"no videos found in {', '.join(display_path(os.fspath(path)) for path in paths)}")
        if self._other_devices and run is not None:
            raise VidretError(
                f"device must be a single one for another runner, got {len(self._other_devices) + 1} devices"
            )
        started = None
        with ExitStack() as stack:
            if not exists:
                if run is None and self.device == CPU:  # decoding processes start while models are loaded
                    started = start_processes(choose_workers(workers, len(listing.files))[0])
                    stack.callback(started.close)
                self._check_models()
            store = stack.enter_context(self._write())
            whole = self.encoder.sampling.whole
            shot_sampling = record_rule(store, shots=shots, mode=sampling, whole=whole, decoder=decoder)
            if memory is not None:
                store.upkeep.set_memory(memory)
            options = IndexOptions(
                pack=self.ranker.pack if self.ranker.fingerprint else None,
                tokens=self.ranker.wants_tokens,
                workers=workers,
                decoder=decoder,
                device=self.device,
                others=self._load_others() if run is None else (),
                timeout=timeout,
                retry_failed=retry_failed,
                prune_below=listing.folders if prune else None,
                shot_sampling=shot_sampling,
                moments=self._choose_recorder(),
                words=words,
                tracks=tracks,
                started=started,
                check=self._check_models if exists else None,
                on_progress=on_progress,
            )
            report = replace((run or index_files)(store, self.encoder, listing.files, options), junk=listing.junk)
        if words is not None and words.sentence_model:  # it may have other vectors now
            self._open_again()
        self._prepare_searches(report)
        return report

    def index_frames(
        self,
        name: str,
        frames: UInt8[np.ndarray, "frame height width 3"],
        times_s: Float[np.ndarray, " frame"],
        *,
        duration_s: float | None = None,
    ) -> StoredVideo:
        """Index frames in memory as a video without a file, ``frames://name``.

        It is searched like other videos, and stays until it is removed. Thumbnails, clips, precise edges and moving
        the index to another encoder, which need a file, report that there is none. The identity of the video is its
        content: frames that are stored already are not encoded again, and others replace those of the same name.

        Args:
            name: Printable, without ``?`` and ``://``; may have parts, ``camera/3``.
            frames: RGB, as displayed.
            times_s: Start of each frame in seconds, ascending. Shots are detected best in frames close together.
            duration_s: End of the last frame in seconds; None for the median step between frames after its start.

        Raises:
            VidretError: An argument is invalid, or the index cannot be written.
        """
        from vidret.index.frame_arrays import check_frames, index_arrays
        from vidret.index.options import record_rule

        arrays = check_frames(name, np.asarray(frames), np.asarray(times_s), duration_s)
        self._check_models()
        with self._write() as store:
            whole = self.encoder.sampling.whole
            video_id = index_arrays(
                store,
                self.encoder,
                arrays,
                follow_shots=record_rule(store, shots=None, mode=None, whole=whole, decoder="auto") is not None,
                pack=self.ranker.pack if self.ranker.fingerprint else None,
                tokens=self.ranker.wants_tokens,
                moments=self._choose_recorder(),
            )
            store.upkeep.save_vectors()
        self._prepare_searches()
        return self.video(video_id)

    def import_embeddings(
        self, embeddings: Embeddings, *, on_progress: Callable[[int, int], None] | None = None
    ) -> "ImportReport":
        """Index videos with vectors that another program made; videos whose content is stored already are skipped.

        The vectors must be of the encoder of the index, which is not run; they are normalised. Files are read for their
        identity and facts. An interrupted call keeps the complete videos; the same call continues it.

        Args:
            embeddings: Rows of one path are the segments of a video, or frames if start and end are equal; a single
                row without times (NaN) is the whole video. ``videos`` is not read.
            on_progress: Called with the number of videos done and the total.

        Raises:
            VidretError: A vector or time is invalid, or the index cannot be written, or is prepared for a trained
                aligner, which needs more than vectors. Unreadable files are not an error: the report has their reasons.
        """
        from vidret.index.importing import check_embeddings, import_videos
        from vidret.index.options import record_rule

        if self.ranker.name not in RERANKERS:
            raise VidretError(f"rerank must be {', '.join(RERANKERS)} to import vectors, got {self.ranker.name}")
        unit, num_rescaled = check_embeddings(embeddings, self.encoder.dim)
        with self._write() as store:
            sampling = self.encoder.sampling
            record_rule(store, shots=None, mode=None, whole=sampling.whole, decoder="auto")
            report = import_videos(store, sampling, unit, num_rescaled=num_rescaled, on_progress=on_progress)
            store.upkeep.save_vectors()
        self._prepare_searches()
        return report

    def prepare_moments(self, *, timeout: float = 120.0, on_progress: Callable[[int, int], None] | None = None) -> None:
        """Compute and store the features of each video that the grounding head needs, unless stored already.

        Indexing with the head stores them in the pass that encodes the video. A video that was indexed without the head
        takes another pass, here or at its first query, whose result is cached up to a size limit.

        Args:
            timeout: Maximum time that a decoder may make no progress, in seconds.
            on_progress: Called with the number of videos done and the total.

        Raises:
            VidretError: The engine has no head. Unreadable videos are logged.
        """
        from vidret.search.heads.prepared import PreparedHead
        from vidret.search.preparation import prepare_videos

        if self.grounder is None:
            raise VidretError("head must be given to prepare moments, got none")
        if isinstance(self.grounder, PreparedHead):  # other heads read the vectors of the index
            prepare_videos(self._index.pictures, self.grounder, timeout=timeout, on_progress=on_progress)

    def prepare_searches(self) -> None:
        """Compute and store the statistics that searches use, as a run of ``index`` does at its end.

        These are the scores of unrelated queries, the background of texts and of frames, and the calibration by the
        model's own bank. A merged index lacks them, or has them for fewer videos; its next search would compute them.

        Raises:
            StoreError: There is no index, or another process is writing it.
        """
        with self._write():
            pass  # it measures the scales at its end
        self._update_derived()

    def calibrate(
        self,
        bank: Sequence[str],
        *,
        name: str = "bank",
        rerank: str | None = AUTO,
        temperature: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "Calibration":
        """Measure the hubness correction (SK-norm) of segments on a bank of queries, and apply it to searches.

        The correction is one number per segment and level, stored in the index, so that it works for single queries.

        Args:
            bank: Typical queries; training captions in the published protocol.
            name: Name of the bank in reports.
            rerank: Ranker whose scores are corrected, as in ``search``.
            temperature: Temperature of the Sinkhorn normalisation; lower values equalise the segments' total weights
                more. Defaults to the ranker's.
            on_progress: Called with the number of segments done and the total.

        Raises:
            VidretError: The bank or the index is empty, or both together are too large.
        """
        from vidret.search.preparation import calibrate_index

        return calibrate_index(
            self._index.pictures, bank, name=name, rerank=rerank, temperature=temperature, on_progress=on_progress
        )

    def forget_calibration(self, *, rerank: str | None = AUTO) -> None:
        """Remove the hubness correction of a ranker; later runs do not calibrate by themselves."""
        from vidret.search.preparation import leave_uncalibrated

        leave_uncalibrated(self._index.pictures, rerank)

    def calibrate_probabilities(
        self, answers: Mapping[str, Collection[VideoName]], *, on_progress: Callable[[int, int], None] | None = None
    ) -> "ProbabilityReport":
        """Fit the probabilities of results to queries with known answers, and store the fit in the index if it helps.

        Each query is searched once. The ranking of results does not change. The fit replaces an earlier one if it
        lowers the log loss of held-out answers; otherwise the earlier one stays.

        Args:
            answers: The videos that answer each query, paths or ids; none for a query that no video answers. There
                must be queries of both kinds, in realistic proportions.
            on_progress: Called with the number of queries done and the total.

        Raises:
            VidretError: There are too few queries, one is invalid, or the index does not have a video.
        """
        from vidret.search.probability import choose_default, save_probabilities
        from vidret.search.probability_fitting import choose_probabilities, score_answers

        index = self._index
        scored = score_answers(index, answers, on_progress)
        default = choose_default(("picture",) if index.texts is None else SOURCES)
        report = choose_probabilities(scored, default)
        if report.helps:
            with Store.open(self.path, write=True) as store:
                save_probabilities(store, report.model)
        return report

    def forget_probabilities(self) -> None:
        """Remove the fit of ``calibrate_probabilities``, so that the default probabilities apply."""
        from vidret.search.probability import UNFITTED, save_probabilities

        with Store.open(self.path, write=True) as store:
            save_probabilities(store, UNFITTED)

    # Searching

    def choose_ranker(self, rerank: str | None = AUTO) -> Ranker:
        """Return a ranker by its name, as in ``search``."""
        return self._index.pictures.get_ranker(rerank)

    def interpret(self, query: str | EventSequence, *, sources: Sequence[Source] | None = None) -> Interpretation:
        """Return the interpretation of a text query, or of a ``Sequence`` of events, in this index.

        A sentence that is said or shown word for word is searched as plain words, without its grammar.

        Raises:
            VidretError: The query is invalid.
        """
        index = self._index
        return interpret_for(index, index.people.name_handles(query), sources)

    def list_search_notes(self, query: Query, options: SearchOptions | LocateOptions) -> list[str]:
        """Return the notes on a search: conditions that no video meets, or a language that is not understood."""
        from vidret.search.hits import list_search_notes

        return list_search_notes(self._index, query, options)

    @override
    def search_with(self, query: Query, options: SearchOptions) -> list[Hit]:
        return self.search_many([query], [options])[0]

    def search_many(self, queries: Sequence[Query], options: Sequence[SearchOptions]) -> list[list[Hit]]:
        """Return the hits of several searches. It is faster than one search at a time, with the same results.

        Args:
            queries: As in ``search``.
            options: The options of each query.

        Raises:
            VidretError: As in ``search``; one invalid search fails all.
        """
        for option in options:
            check_options(option, OptionError)
        if len(queries) != len(options):
            raise VidretError(f"queries and options must have equal length, got {len(queries)} and {len(options)}")
        index = self._index
        with index.hold():
            return search(index, queries, options, fold=partial(self._fold, index))

    def score_videos(
        self,
        queries: Sequence[str],
        videos: Sequence[VideoName],
        *,
        rerank: str | None = AUTO,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Float32[np.ndarray, "text video"]]:
        """Score all queries against all videos, for evaluation.

        Args:
            queries: Texts.
            videos: Paths or ids.
            rerank: As in ``search``.
            on_progress: Called with the number of segments done and the total.

        Returns:
            A matrix per level, and ``total``, the score of ``search`` without hubness correction.
        """
        check_list("queries", queries)
        check_list("videos", videos)
        index = self._index
        pictures, store = index.pictures, index.store
        video_ids = [look_up_video(store, video) for video in videos]
        texts = self.encoder.encode_text(list(queries))
        return pictures.score_videos(texts, video_ids, pictures.get_ranker(rerank), on_progress=on_progress)

    @override
    def locate_with(self, query: Query, options: LocateOptions, *, video: VideoName | None = None) -> list[Moment]:
        check_options(options, OptionError)
        index = self._index
        with index.hold():
            return locate(index, query, options, video=video, grounder=self.grounder, fold=partial(self._fold, index))

    def locate_many(
        self,
        queries: Sequence[Query],
        videos: Sequence[VideoName],
        options: LocateOptions = DEFAULT_LOCATING,
        *,
        among_all: bool = False,
    ) -> list[list[list[Moment]]]:
        """Return the moments of each query in each video. It is faster than one at a time, with the same results.

        Args:
            queries: As in ``locate``.
            videos: Paths or ids.
            options: As in ``locate_with``.
            among_all: Whether the score of a moment is compared with chance scores in the whole index, as for watches
                of new videos, most of which match nothing. Otherwise it is compared with those in the video.

        Raises:
            VidretError: As in ``locate``; one invalid query fails all.
        """
        check_options(options, OptionError)
        index = self._index
        ids = [look_up_video(index.store, video) for video in videos]
        with index.hold():
            return locate_many(index, queries, ids, options, grounder=self.grounder, among_all=among_all)

    def rate(self, query: Query, video: VideoName, times: Float[np.ndarray, " time"]) -> Float[np.ndarray, " time"]:
        """Return the saliency of a video for a query at times in seconds, by the head or the curve."""
        return rate_video(self._index, query, video, times, grounder=self.grounder)

    @override
    def curve(self, query: Query, video: VideoName) -> Curve:
        index = self._index
        with index.hold():
            return make_curve(index, query, video)

    def ask(
        self,
        question: str,
        llm: "ChatEndpoint | None" = None,
        *,
        videos: Sequence[VideoName] = (),
        options: "ContextOptions | None" = None,
    ) -> "CitedAnswer":
        """Let a language model answer a question from the moments that a search finds, which it cites.

        Args:
            question: In English. Rules and the model turn it into one or several queries; others are tried once if the
                model says that their moments do not show the answer.
            llm: The endpoint that gets the frames, words and times of these moments. Only a ``RemoteEngine`` may omit
                it, and then asks the server, which may have one.
            videos: Paths or ids of the videos to look in; none for all.
            options: How much is retrieved; None for the defaults of ``ContextOptions``.

        Raises:
            VidretError: The question is invalid, a video is not in the index, or there is no endpoint.
            EndpointError: The endpoint does not answer.
        """
        from vidret.language.answers import answer_question
        from vidret.language.endpoint import ReplyCache
        from vidret.language.judging import FileFrames
        from vidret.language.questions import CACHE
        from vidret.language.retrieval import DEFAULT_CONTEXT, gather_context, make_rounds

        if llm is None:
            raise VidretError("llm must be a chat endpoint, got none")
        options, cache = options or DEFAULT_CONTEXT, ReplyCache(self.paths[0] / CACHE)
        with FileFrames() as frames:
            gather = partial(gather_context, self, question, videos, options, draw=frames.draw)
            context, find_more = make_rounds(question, options, llm, cache, gather)
            return answer_question(context, llm, find_more)

    def describe_segments(
        self,
        llm: "ChatEndpoint",
        options: "DescribeOptions | None" = None,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "DescribeReport":
        """Let a vision-language model describe the segments of all videos, as the source ``generated`` of timed text.

        Segments that it has described are skipped.

        Args:
            llm: The endpoint that gets frames of each segment.
            options: The budget, and the requests for a segment.
            on_progress: Called with the number of segments done and the total.

        Returns:
            What was described and what is left; a failure of the endpoint is in the report, too.

        Raises:
            StoreError: There is no index, or another process is writing its texts.
        """
        from vidret.language.describing import DEFAULT_DESCRIBING, describe_index
        from vidret.language.judging import FileFrames
        from vidret.search.preparation import save_text_background

        with FileFrames() as frames:
            report = describe_index(
                self._index.store,
                llm,
                frames.draw,
                options or DEFAULT_DESCRIBING,
                encoder=self.encoder,
                on_progress=on_progress,
            )
        save_text_background(self._index.store)
        return report

    # The same footage

    @override
    def find_footage(
        self,
        clip: VideoName,
        k: int = 10,
        *,
        start: float | None = None,
        end: float | None = None,
        video: VideoName | None = None,
        filters: Filters = ALL_VIDEOS,
        repeated: bool = False,
    ) -> list[SharedFootage]:
        self._check_frames()
        check_options(SearchOptions(k=k, filters=filters), OptionError)
        for name, time_s in (("start", start), ("end", end)):
            if time_s is not None and not (isinstance(time_s, int | float | np.number) and time_s >= 0):
                raise OptionError(f"{name} must be at least 0, got {time_s!r}")
        if start is not None and end is not None and not start < end:
            raise OptionError(f"start must be less than end, got {start:g} and {end:g}")
        finder = self._clips
        inside = None if video is None else look_up_video(finder.store, video)
        query = self._read_clip(finder.store, clip, start, end)
        if not len(query.times):
            name = strip_query(query.path)
            if query.end < query.start:
                raise VidretError(f"{name}: ends at {query.end:.1f} s, before the clip begins at {query.start:.1f} s")
            raise VidretError(f"{name}: has no frame between {query.start:.1f} and {query.end:.1f} s")
        return finder.find(query, k, video=inside, filters=filters, repeated=repeated)

    @override
    def duplicates(
        self, paths: Sequence[VideoName] = (), *, on_progress: Callable[[int, int], None] | None = None
    ) -> list[CopyGroup]:
        from vidret.copies.duplicates import find_duplicates

        check_list("paths", paths)
        self._check_frames()
        store = self._index.store
        wanted = {video.id for path in paths for video in find_below(store.videos.find, path)} if paths else None
        return find_duplicates(store, wanted, on_progress=on_progress)

    # Concepts

    @override
    def teach(
        self,
        name: str,
        yes: Sequence[ExampleLike],
        no: Sequence[ExampleLike] = (),
        *,
        text: str | None = None,
        replace: bool = False,
        add: bool = False,
    ) -> Concept:
        from vidret.search.concepts.teaching import teach_concept

        index = self._index
        return teach_concept(
            index.store,
            self.encoder,
            index.encoder.composer,
            name,
            yes=yes,
            no=no,
            text=text,
            replace_old=replace,
            add=add,
        )

    def teach_sound(
        self, name: str, sounds: Sequence[ConceptExample], *, replace: bool = False, add: bool = False
    ) -> Concept:
        """Teach a sound by examples: ``@name`` then finds similar sounds, and stands for its name in pictures.

        Args:
            name: Its name; a leading @ is ignored.
            sounds: Files with sound, of which the first minute is used, or spans of indexed videos.
            replace: Whether to replace a concept of that name.
            add: Whether to add the examples to those of a sound of that name.

        Raises:
            VidretError: There is no example, one cannot be read or is silent, or the name is invalid or taken.
            StoreError: A video has no sounds, or another process is writing the index.
        """
        from vidret.search.concepts.teaching import teach_sound

        return teach_sound(self._index.store, name, sounds, replace_old=replace, add=add)

    def classify(self, classes: Mapping[str, Sequence[ExampleLike]], *, save: str | None = None) -> list[TaggedVideo]:
        """Return the class of every video of the index, by a few examples of each class and its name.

        Args:
            classes: Two or more classes by name, with examples as in ``teach``. Every video gets one of them, so there
                should be one for videos that fit no other.
            save: Prefix of the concepts as which the index stores the classes: ``@save-class`` then stands for a class
                in any text query. Those of an earlier call are replaced.

        Raises:
            VidretError: There are fewer than two classes, one has no example, an example cannot be read, all examples
                are equal, the index is empty, or a name is invalid or taken.
            StoreError: Another process is writing the index.
        """
        from vidret.search.concepts.classifying import classify_videos, name_concepts, save_classes

        if save is not None:
            name_concepts(save, list(classes))
        index = self._index
        classified = classify_videos(index.store, self.encoder, classes)
        if save is not None:
            save_classes(index.store, index.encoder.composer, classified, save)
        return classified.tag(index.store)

    @override
    def concepts(self) -> list[Concept]:
        return list_concepts(self._index.store)

    @override
    def forget(self, name: str) -> None:
        with Store.open(self.path, write=True) as store:
            forget_concept(store, name)

    # Collections

    @override
    def collections(self) -> list[SavedCollection]:
        from vidret.search.collections import list_collections

        return list_collections(self._index.store, self.path)

    @override
    def collection(self, name: str) -> SavedCollection:
        return pick_collection(self.collections(), name)

    @override
    def save_collection(self, collection: SavedCollection) -> SavedCollection:
        from vidret.search.collections import store_collection

        store_collection(self._index.store, self.path, collection)
        return self.collection(collection.name)

    @override
    def add_to_list(self, name: str, results: Sequence[Hit | Moment]) -> SavedCollection:
        from vidret.search.collections import extend_list

        extend_list(self._index.store, self.path, name, results)
        return self.collection(name)

    @override
    def remove_collection(self, name: str) -> None:
        COLLECTIONS.remove(self.path, name, "a collection")

    # Contents

    @override
    def transcript(
        self, video: VideoName, sources: Sequence[TextSource] | None = None, *, unnamed: bool = False
    ) -> list[TimedText]:
        store = self._index.store
        return read_transcript(store, look_up_video(store, video), sources, unnamed=unnamed)

    @override
    def shots(self, video: VideoName) -> list[Shot]:
        store = self._index.store
        return read_shots(store, look_up_video(store, video))

    def videos(self, filters: Filters = ALL_VIDEOS) -> list[StoredVideo]:
        """Return the searchable videos that match, in the order of their paths."""
        check_options(filters, OptionError)
        return self._index.store.videos.find(filters)

    def list_page(
        self, filters: Filters = ALL_VIDEOS, *, after: str = "", limit: int = 100
    ) -> tuple[list[StoredVideo], str | None]:
        """Return the next searchable videos that match, in the order of their first matching path, from ``after`` on.

        Also return the value of ``after`` for the next page, None on the last page.
        """
        check_options(filters, OptionError)
        if limit < 1:
            raise OptionError(f"limit must be at least 1, got {limit}")
        return self._index.store.list_page(filters, after, limit)

    def count_videos(self, filters: Filters = ALL_VIDEOS) -> int:
        """Return the number of searchable videos that match."""
        check_options(filters, OptionError)
        return int(self._index.store.snapshot().select(filters).videos.sum())

    def facets(self, filters: Filters = ALL_VIDEOS, *, utc_offset_s: float = 0.0) -> Facets:
        """Return the number of matching videos with each fact that filters can ask for; see ``count_facets``."""
        check_options(filters, OptionError)
        return count_facets(self._index.store.snapshot(), filters, utc_offset_s=utc_offset_s)

    @property
    def explorer(self) -> "Explorer":
        """Methods to browse the index without a query."""
        return self._index.explorer

    def check_index(self) -> None:
        """Check that the index can be read, in constant time.

        Raises:
            VidretError: It cannot be read.
        """
        _ = self._index.store.generation

    def video(self, video: VideoName) -> StoredVideo:
        """Return a searchable video by its id, its path or a unique ending of its path.

        Raises:
            NotFoundError: There is no such video, or all of its files are missing.
        """
        return _find_video(self._index.store, video)

    def embeddings(self, level: EmbeddingLevel = "segment", filters: Filters = ALL_VIDEOS) -> Embeddings:
        """Return the stored vectors of segments or frames, with paths and times, as float32 of unit length."""
        check_options(filters, OptionError)
        return read_embeddings(self._index.store, level, filters)

    def file(self, path: str) -> FileRecord | None:
        """Return the record of a file, None if it is unknown."""
        return self._index.store.files.get(absolute_path(path))

    def info(self) -> StoreInfo:
        """Return statistics of the index."""
        return self._index.store.info()

    def failed(self) -> list[tuple[str, str]]:
        """Return the paths of files that could not be indexed, with reasons."""
        return [(record.path, record.reason) for record in self._index.store.files.find(state="failed")]

    def missing(self) -> list[str]:
        """Return the paths of indexed files that are missing."""
        return [record.path for record in self._index.store.files.find(state="missing")]

    # Internals

    @property
    def _clips(self) -> "ClipFinder":
        from vidret.copies.clips import ClipFinder

        with self._opening:
            store = self._index.store  # forgets the finder of an index that was replaced
            self._clip_finder = self._clip_finder or ClipFinder(store)
            return self._clip_finder

    def _fold(self, index: OpenIndex, results: list[Result]) -> list[Result]:
        """Return results without repeats of the same footage.

        Vectors of frames that were encoded together are no evidence: by their places in a segment, those of any two
        videos change at the same times.
        """
        from vidret.copies.folding import CopyFolder

        if not getattr(self.encoder, "encodes_frames_alone", False):
            return results
        with self._opening:
            is_current = index is self._opened
            folder = (self._copy_folder if is_current else None) or CopyFolder(index.store)
            if is_current:
                self._copy_folder = folder
        return folder.fold_results(results)

    def _read_clip(self, store: Store, clip: VideoName, start: float | None, end: float | None) -> "Clip":
        """Return a clip: for an indexed video from its stored vectors, for another file by encoding it."""
        from vidret.copies.clips import Clip, read_stored_clip
        from vidret.index.stages import encode_clip

        if not isinstance(clip, int | np.integer):
            typed = read_video_name(clip)
            path = absolute_path(typed)
            record = store.files.get(path)
            named = None if record is not None or may_exist(path) else find_by_ending(store.find_named(typed), typed)
            if named is not None:
                return read_stored_clip(store, named, start, end)
            if record is None or not record.live or record.video is None:
                vectors, times, begin, stop = encode_clip(self.encoder, path, start, end)
                return Clip(path=path, start=begin, end=stop, vectors=vectors, times=times)
            clip = record.video
        return read_stored_clip(store, _find_video(store, clip), start, end)

    def _check_frames(self) -> None:
        """Check that the index has a vector for about every second."""
        if self.encoder.sampling.whole:
            rule = "footage can be found only with an encoder that sees segments"
            raise VidretError(f"{rule}, got {self.encoder.name}, which sees whole videos")

    def _prepare_searches(self, report: "IndexReport | None" = None) -> None:
        """Update what searches use after a run, or log why not: the run is done, and another process may write now."""
        try:
            self._update_derived(report)
        except StoreError as error:
            logger.warning("searches are not prepared, which the next run does: %s", error)

    def _update_derived(self, report: "IndexReport | None" = None) -> None:
        """Update the statistics that depend on all segments, after a run."""
        from vidret.copies.folding import save_whitening
        from vidret.search.heads.prepared import forget_others
        from vidret.search.preparation import calibrate_with_bank, save_text_background
        from vidret.store.texts.upkeep import note_heard

        if report is None or not report.interrupted:
            calibrate_with_bank(self._index.pictures, self._models.bank)
        save_text_background(self._index.store)
        save_whitening(self._index.store)
        note_heard(self._index.store)
        if report is not None and report.pruned is not None:
            forget_others(self.path / MOMENTS, set(self._index.store.videos.fingerprints().values()))

    def _load_others(self) -> list[tuple[str, Encoder]]:
        """Return the other devices, each with the encoder loaded there."""
        name, precision = self.encoder.name, self._precision
        return [(device, load_encoder(name, device=device, precision=precision)) for device in self._other_devices]

    def _check_models(self) -> None:
        """Check that the encoder and the ranker work as specified."""
        check_encoder(self.encoder)
        check_ranker(self.ranker, self.encoder)

    def _choose_recorder(self) -> "Grounder | None":
        """Return the grounding head if it needs features of each video that indexing must store; else None.

        A recorded head that cannot be loaded does not prevent indexing.
        """
        try:
            grounder = self.grounder
        except VidretError as error:
            logger.warning("nothing is stored for the grounding head: %s", error)
            return None
        if grounder is None or self.encoder.sampling.whole:
            return None
        from vidret.search.heads.layers import Grounder

        return grounder if isinstance(grounder, Grounder) else None

    @contextmanager
    def _write(self) -> Iterator[Store]:
        """Open the index for writing, created if new; record its models, and at the end its scales."""
        from vidret.search.preparation import save_scales

        self._check_open()
        encoder = self.encoder
        with Store.create(
            self.path,
            encoder_name=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            vectors=self._vectors,
        ) as store:
            allow_encoder(self.path, encoder.name)
            record_ranker(store, self._models)
            record_class(store, encoder)
            yield store
            save_scales(store, self._index.pictures)
            record_head(store, self._models)


def _find_video(store: Store, video: VideoName) -> StoredVideo:
    """Return a searchable video of an index; see ``Engine.video``."""
    videos = store.videos.find(ids=[look_up_video(store, video)])
    if not videos:
        raise NotFoundError(f"video must be one of this index, got {video}")
    return videos[0]


def _load_encoder(path: Path, name: str | None = None, *, device: str, precision: str) -> Encoder:
    """Load an encoder by name, by default that of an index folder."""
    is_given, name = bool(name), name or read_encoder_name(path)
    try:
        encoder = load_encoder(name, device=device, precision=precision)
    except UnknownEncoderError as error:
        raise explain_unknown(path, name, error) from error
    if is_given:
        allow_encoder(path, encoder.name)
    return encoder


def list_paths(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the folders of one or several indexes as absolute paths, since a program may change the current folder."""
    given = [path] if isinstance(path, str | os.PathLike) else list(path)
    if not given or "" in given:  # "" would be the current folder
        raise VidretError(f"path must be the folder of an index, got {'an empty name' if given else 'none'}")
    return list(dict.fromkeys(Path(folder).absolute() for folder in given))
