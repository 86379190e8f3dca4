"""Preparation of an index for searches: its scales, its calibration, and the features of a grounding head."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vidret.channels.picture.calibration import (
    Calibration,
    check_calibration,
    extend_calibration,
    forget_calibration,
    load_calibration,
    measure_calibration,
    save_calibration,
)
from vidret.channels.picture.channel import PictureChannel
from vidret.channels.picture.query_bank import QueryBank
from vidret.channels.picture.ranking import AUTO, NONE, Ranker
from vidret.channels.texts.channel import is_background_current, save_background
from vidret.encode.text_cache import encode_once
from vidret.errors import DecodeError, VidretError, check_list
from vidret.search.curves import choose_path, describe_video
from vidret.search.heads.prepared import PreparedHead
from vidret.store.records import UNCALIBRATED
from vidret.store.store import Store
from vidret.store.texts.store import TextStore
from vidret.text import strip_query

logger = logging.getLogger(__name__)

GROWTH = 1.5


def save_scales(store: Store, pictures: PictureChannel) -> None:
    """Measure and store the scores of unrelated queries in an index open for writing, unless nothing changed."""
    for name in {pictures.ranker.name, NONE}:  # of segments, and of frames
        pictures.scales.save(store, pictures.get_ranker(name))


def save_text_background(store: Store) -> None:
    """Measure and store the background of the words of an index, if it has any, unless nothing changed."""
    path = store.path
    if not TextStore.exists(path):
        return
    with TextStore.open(path) as texts:
        if is_background_current(texts):
            return
    with TextStore.open(path, write=True) as texts:
        save_background(texts)


def calibrate_index(
    pictures: PictureChannel,
    bank: Sequence[str],
    *,
    name: str,
    rerank: str | None,
    temperature: float | None,
    is_automatic: bool = False,
    on_progress: Callable[[int, int], None] | None,
) -> Calibration:
    """Measure the hubness correction of an index on a bank of queries, and store it; see ``Engine.calibrate``."""
    check_list("bank", bank)
    texts = [text for text in bank if text.strip()]
    if not texts:
        raise VidretError("bank must hold a query, got none")
    ranker = pictures.get_ranker(rerank)
    check_calibration(pictures.store, ranker, temperature)
    embeddings = encode_once(pictures.encoder, texts) if is_automatic else pictures.encoder.encode_text(texts)
    with Store.open(pictures.store.path, write=True) as store:
        calibration = measure_calibration(
            store,
            ranker,
            embeddings,
            bank=name,
            read=lambda ids: pictures.score_segments(ranker, embeddings, ids),
            temperature=temperature,
            on_progress=on_progress,
        )
        calibration = replace(calibration, texts=tuple(texts), is_automatic=is_automatic)
        save_calibration(store, ranker, calibration, _measure_scale(store, pictures, ranker, calibration))
        if store.metadata.get(UNCALIBRATED):
            store.metadata.set(UNCALIBRATED, "")
    return calibration


def leave_uncalibrated(pictures: PictureChannel, rerank: str | None) -> None:
    """Delete the calibration of an index for a ranker, and keep later runs from making one automatically."""
    ranker = pictures.get_ranker(rerank)
    with Store.open(pictures.store.path, write=True) as store:
        scale = _measure_scale(store, pictures, ranker, None)
        forget_calibration(store, ranker, {**scale, UNCALIBRATED: "yes"})


def _measure_scale(
    store: Store, pictures: PictureChannel, ranker: Ranker, calibration: Calibration | None
) -> dict[str, str]:
    """Return the metadata of the scores of unrelated queries, corrected by a calibration."""
    with pictures.calibrations.override(ranker, calibration):
        return pictures.scales.measure(store, ranker)


def calibrate_with_bank(pictures: PictureChannel, bank: QueryBank | None) -> None:
    """Calibrate an index with its model's bank, if it has new segments; a calibration with another bank is kept.

    New segments are added to the calibration until the index has ``GROWTH`` times as many as when it was measured.
    """
    ids, ranker = pictures.store.searchable(), pictures.ranker
    if pictures.store.metadata.get(UNCALIBRATED):
        return
    known = load_calibration(pictures.store, ranker)
    if not len(ids) or (known is not None and not len(known.find_unknown(ids))):
        return
    has_other_bank = known is not None and (bank is None or known.bank != bank.name)
    if bank is not None and not has_other_bank and (known is None or len(ids) > GROWTH * known.num_measured):
        settings: Any = {"name": bank.name, "temperature": bank.temperature, "is_automatic": True}
        try:
            calibrate_index(pictures, bank.queries, rerank=AUTO, on_progress=None, **settings)
        except VidretError as error:  # the run itself is done
            logger.warning("not calibrated: %s", error)
        return
    if known is None:
        return
    texts = encode_once(pictures.encoder, known.texts)
    extended = extend_calibration(
        known, known.find_unknown(ids), lambda part: pictures.score_segments(ranker, texts, part)
    )
    with Store.open(pictures.store.path, write=True) as store:
        save_calibration(store, ranker, extended, _measure_scale(store, pictures, ranker, extended))


def prepare_videos(
    pictures: PictureChannel, grounder: PreparedHead, *, timeout: float, on_progress: Callable[[int, int], None] | None
) -> None:
    """Compute and keep the files of a grounding head for every video; see ``Engine.prepare_moments``.

    Videos that were indexed without the head are counted, and unreadable ones are logged.
    """
    on_prepared = on_progress or (lambda _done, _total: None)
    store = pictures.store
    fingerprints = store.videos.fingerprints()
    contents = {fingerprints[video.id]: video.id for video in store.videos.find() if video.id in fingerprints}
    if num_missing := sum(not grounder.files.is_kept(content) for content in contents):
        logger.warning(
            "%d of %d videos were indexed without this head: they take one more pass", num_missing, len(contents)
        )
    for done, video_id in enumerate(contents.values()):
        on_prepared(done, len(contents))
        path = choose_path(store, video_id)
        try:
            grounder.prepare(describe_video(pictures, video_id, path), keep=True, timeout=timeout)
        except DecodeError as error:
            logger.warning("%s: no moments prepared: %s", strip_query(path), error.reason)
    on_prepared(len(contents), len(contents))
