"""What is computed ahead of searches and stored in the index: scales, a calibration, moments."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vidret.channels.picture.calibration import (
    Calibration,
    extend_calibration,
    forget_calibration,
    load_calibration,
    measure_calibration,
    save_calibration,
)
from vidret.channels.picture.joint import QueryBank
from vidret.channels.picture.ranking import AUTO, NONE
from vidret.channels.picture.segments import Searcher
from vidret.errors import DecodeError, VidretError
from vidret.search.fusion import FusedSearcher
from vidret.search.heads.layers import Grounder
from vidret.search.locating import choose_path, describe_video
from vidret.store.records import UNCALIBRATED
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.text import strip_query

logger = logging.getLogger(__name__)

GROWTH = 1.5


def save_scales(store: Store, searcher: Searcher) -> None:
    """Measure and store what unrelated queries score in an index open for writing, unless nothing changed."""
    for name in {searcher.ranker.name, NONE}:  # of segments, and of frames
        searcher.scales.save(store, searcher.get_ranker(name))


def save_text_background(searcher: Searcher) -> None:
    """Measure and store what the words of an index have in common, if it has any, unless nothing changed."""
    path = searcher.store.path
    if not TextStore.exists(path):
        return
    with TextStore.open(path) as texts:
        is_current = FusedSearcher(searcher, texts).has_stored_background()
    if not is_current:
        with TextStore.open(path, write=True) as texts:
            FusedSearcher(searcher, texts).save_background()


def calibrate_index(
    searcher: Searcher,
    bank: Sequence[str],
    *,
    name: str,
    rerank: str | None,
    temperature: float | None,
    levels: Sequence[str] | None = None,
    is_automatic: bool = False,
    on_progress: Callable[[int, int], None] | None,
) -> Calibration:
    """Measure the hubness correction of an index on a bank of queries, and store it; see ``Engine.calibrate``.

    Raises:
        VidretError: The bank or the index is empty, or both together are too large.
    """
    texts = [text for text in bank if text.strip()]
    if not texts:
        raise VidretError("bank must hold a query, got none")
    ranker = searcher.get_ranker(rerank)
    embeddings = searcher.encoder.encode_text(texts)
    with Store.open(searcher.store.path, write=True) as store:
        calibration = measure_calibration(
            store,
            ranker,
            embeddings,
            bank=name,
            read=lambda ids: searcher.reranker.score(ranker, embeddings, ids),
            temperature=temperature,
            levels=levels,
            on_progress=on_progress,
        )
        calibration = replace(calibration, texts=tuple(texts), is_automatic=is_automatic)
        with searcher.calibrations.override(ranker, calibration):
            scale = searcher.scales.measure(store, ranker)
        save_calibration(store, ranker, calibration, scale)
        if store.metadata.get(UNCALIBRATED):
            store.metadata.set(UNCALIBRATED, "")
    return calibration


def leave_uncalibrated(searcher: Searcher, rerank: str | None) -> None:
    """Forget the calibration of an index for a ranker, and let later runs make none by themselves."""
    ranker = searcher.get_ranker(rerank)
    with Store.open(searcher.store.path, write=True) as store:
        with searcher.calibrations.override(ranker, None):
            scale = searcher.scales.measure(store, ranker)
        forget_calibration(store, ranker, {**scale, UNCALIBRATED: "yes"})


def calibrate_with_bank(searcher: Searcher, bank: QueryBank | None) -> None:
    """Calibrate an index with the bank of its model, if segments came since; a calibration with another bank stays.

    New segments are added to the calibration until the index has ``GROWTH`` times as many as when it was measured.
    """
    ids, ranker = searcher.store.searchable(), searcher.ranker
    if searcher.store.metadata.get(UNCALIBRATED):
        return
    known = load_calibration(searcher.store, ranker)
    if not len(ids) or (known is not None and not known.count_unknown(ids)):
        return
    is_own = known is not None and (bank is None or known.bank != bank.name)
    if bank is not None and not is_own and (known is None or len(ids) > GROWTH * known.num_measured):
        settings: Any = {"temperature": bank.temperature, "levels": bank.levels, "is_automatic": True}
        try:
            calibrate_index(searcher, bank.queries, name=bank.name, rerank=AUTO, on_progress=None, **settings)
        except VidretError as error:  # the run itself is done
            logger.warning("not calibrated: %s", error)
        return
    if known is None:
        return
    texts = searcher.encoder.encode_text(list(known.texts))
    extended = extend_calibration(
        known, ranker, known.find_unknown(ids), lambda part: searcher.reranker.score(ranker, texts, part)
    )
    with Store.open(searcher.store.path, write=True) as store:
        with searcher.calibrations.override(ranker, extended):
            scale = searcher.scales.measure(store, ranker)
        save_calibration(store, ranker, extended, scale)


def prepare_videos(
    searcher: Searcher, grounder: Grounder, *, timeout: float, on_progress: Callable[[int, int], None] | None
) -> None:
    """Compute and keep what a grounding head needs of every video; see ``Engine.prepare_moments``.

    Videos that were indexed without the head are counted, and unreadable ones are logged.
    """
    on_prepared = on_progress or (lambda _done, _total: None)
    store = searcher.store
    contents = store.videos.contents()
    if num_missing := sum(not grounder.is_kept(content) for content in contents):
        logger.warning(
            "%d of %d videos were indexed without this head: they take one more pass", num_missing, len(contents)
        )
    for done, video_id in enumerate(contents.values()):
        on_prepared(done, len(contents))
        path = choose_path(store, video_id)
        try:
            grounder.prepare(describe_video(searcher, video_id, path), keep=True, timeout=timeout)
        except DecodeError as error:
            logger.warning("%s: no moments prepared: %s", strip_query(path), error.reason)
    on_prepared(len(contents), len(contents))
