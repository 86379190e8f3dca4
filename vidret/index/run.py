"""Index files with threads of this process: see what changed, decode, encode, store; stop and resume at any time.

There is one worker per core. A worker takes a file, has a process of its own decode it ahead, encodes each segment on
one thread and commits it. So decoding and encoding share the cores as their loads require, and there is no queue to
tune. An accelerator is faster with many segments at once: one thread encodes the segments that all workers have ready.
"""

import contextlib
import os
from collections.abc import Sequence
from functools import partial

import torch

from vidret.channels.texts.run import open_words
from vidret.devices import CPU
from vidret.encode.encoder import Encoder
from vidret.index.options import IndexOptions
from vidret.index.progress import IndexReport
from vidret.index.run_state import RunState
from vidret.index.stages import Encode, EncodingThread, encode_segments, open_decoders
from vidret.index.workers import WorkerThreads
from vidret.store.store import Store

MAX_WORKERS = 16


def index_files(store: Store, encoder: Encoder, files: Sequence[str], options: IndexOptions) -> IndexReport:
    """Index the files that are new or changed.

    A file that cannot be read is recorded with its reason and does not stop the run. An interrupt (Ctrl-C) ends the run
    after the segments in progress. However a run ends, committed segments stay, and the next run continues from there.

    Args:
        store: The index, open for writing.
        encoder: The encoder of the index.
        files: Absolute paths and URLs without duplicates, as returned by ``scan``.
        options: The options of the run.

    Raises:
        VidretError: The index cannot be written, or the decoder fails on each of several files for the same unexpected
            reason. Single files that fail raise nothing.
    """
    with open_words(store, options.words, retry_failed=options.retry_failed) as words:
        return _run(RunState(store, retry_failed=options.retry_failed, words=words), encoder, files, options)


def _run(run_state: RunState, encoder: Encoder, files: Sequence[str], options: IndexOptions) -> IndexReport:
    run_state.plan(files)
    if not run_state.jobs:
        return run_state.close(prune_below=options.prune_below)
    if options.check is not None and not all(job.is_stored for job in run_state.jobs):
        options.check()
    if run_state.words is not None:
        run_state.words.check_models()
    num_workers = max(1, min(options.workers or count_cores(), MAX_WORKERS, len(run_state.jobs)))
    num_layers = 0 if options.moments is None else options.moments.num_layers
    encode: Encode = partial(encode_segments, encoder, pack=options.pack, tokens=options.tokens, num_layers=num_layers)
    num_threads = torch.get_num_threads()
    with (
        open_decoders(
            num_workers,
            encoder.resize,
            encoder.sampling,
            decoder=options.decoder,
            device=options.device,
            timeout=options.timeout,
            shot_sampling=options.shot_sampling,
            num_threads=max(1, count_cores() // num_workers),
        ) as pool,
        EncodingThread(encode) if options.device != CPU else contextlib.nullcontext() as encoding,
    ):
        try:
            workers = WorkerThreads(
                run_state, encode, pool, pack=options.pack, moments=options.moments, encoding=encoding
            )
            run_state.watch(workers.make(num_workers), options.on_progress)
        finally:
            torch.set_num_threads(num_threads)
    return run_state.close(prune_below=options.prune_below)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
