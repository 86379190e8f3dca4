"""Moving an index to another encoder: the new vectors are built inside the index, and then replace the old ones.

Until then, searches use the old vectors. Words, watches and settings stay. The next run continues a killed one.
"""

import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vidret.channels.picture.calibration import is_calibrated_by_user
from vidret.channels.picture.ranking import NONE
from vidret.encode.encoder import Encoder
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.errors import VidretError
from vidret.index.options import IndexReport, Progress
from vidret.search.concepts.classifying import split_class
from vidret.search.concepts.storage import list_concepts, load_concept, save_concept
from vidret.search.concepts.teaching import read_examples
from vidret.search.models import allow_encoder
from vidret.store.identities.tracks import MODEL_SETTINGS
from vidret.store.records import FOLLOW_SHOTS, HAS_TEXTS, HEAD, MOMENTS, PROBABILITIES, SAMPLING, SEGMENTS, UNCALIBRATED
from vidret.store.rows_file import WATCHES
from vidret.store.store import Store
from vidret.store.vectors.base import FAISS
from vidret.text import has_file
from vidret.types import Concept
from vidret.video.decoders.base import choose_mode

logger = logging.getLogger(__name__)

FOLDER = "reindex"  # in the index, until the switch
SPARE = 1.2  # free space needed, relative to the expected size of the new vectors, since a catalog is added


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexReport:
    """The result of moving an index to another encoder.

    Attributes:
        encoder: Name of the encoder.
        switched: Whether the index has the new vectors now, not the old ones.
        videos: Number of its videos.
        lost: Files that were searchable and that the new encoder could not encode, with reasons.
        concepts: Names of the concepts that were taught again from their examples.
        to_teach: Names of concepts that could not be taught again, with reasons.
        to_redo: Data that do not fit the new encoder, with the command that makes them again.
        interrupted: Whether Ctrl-C ended the run.
    """

    encoder: str
    switched: bool
    videos: int = 0
    lost: tuple[tuple[str, str], ...] = ()
    concepts: tuple[str, ...] = ()
    to_teach: tuple[tuple[str, str], ...] = ()
    to_redo: tuple[str, ...] = ()
    interrupted: bool = False


def reindex(
    index: Path,
    model: str | Encoder,
    *,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    allow_loss: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> ReindexReport:
    """Move an index to another encoder; see ``vidret reindex``.

    Args:
        index: Folder of the index.
        model: The encoder, or a name for ``load_encoder``.
        device: See ``load_encoder``.
        precision: See ``load_encoder``.
        workers: See ``Engine.index``.
        allow_loss: Whether to switch even if some searchable videos cannot be encoded, and are lost.
        on_progress: See ``Engine.index``.

    Raises:
        VidretError: There is no index, the encoder cannot be loaded, the disk is too small, or another process writes.
    """
    encoder = load_encoder(model, device=device, precision=precision) if isinstance(model, str) else model
    folder = index / FOLDER
    allow_encoder(index, encoder.name)
    with Store.open(index) as store:
        if store.encoder_fingerprint == encoder.fingerprint:
            return _finish(index, folder, encoder)  # the last run was killed after the switch
        _prepare_folder(index, folder, encoder, store)
        settings, files = _read_settings(store, encoder), _list_files(store)

    def build(paths: Sequence[str]) -> IndexReport:
        with Engine(folder, encoder, device=device) as engine:
            return engine.index(
                paths, words=False, people=False, speakers=False, workers=workers, on_progress=on_progress, **settings
            )

    if build(files).interrupted:
        return ReindexReport(encoder=encoder.name, switched=False, interrupted=True)
    with Store.open(index, write=True) as store:
        if build(_list_files(store)).interrupted:  # files added during the first run
            return ReindexReport(encoder=encoder.name, switched=False, interrupted=True)
        lost = _find_lost(store, folder)
        if lost and not allow_loss:
            return ReindexReport(encoder=encoder.name, switched=False, lost=lost)
        with Engine(folder, encoder, device=device) as engine:
            concepts, to_teach = _teach_again(store, engine)
        to_redo = _find_stale(store, index)
        _keep_facts(store, folder)
        _move_watches(store, index, folder)
        (folder / MOMENTS).mkdir(exist_ok=True)
        store.upkeep.take_over(folder)  # up to here, answers stay the same
    report = _finish(index, folder, encoder)
    return replace(report, lost=lost, concepts=concepts, to_teach=to_teach, to_redo=to_redo)


def _prepare_folder(index: Path, folder: Path, encoder: Encoder, store: Store) -> None:
    """Create the new index, or continue an unfinished one of the same encoder; check the disk space first."""
    if store.home != FAISS:
        command = f"vidret store move {store.home} {FAISS} --index {index}"
        raise VidretError(f"{index}: store must be {FAISS} to change the encoder, got {store.home}; first: {command}")
    if Store.exists(folder):
        with Store.open(folder) as begun:
            name, is_same = begun.encoder_name, begun.encoder_fingerprint == encoder.fingerprint
        if not is_same:
            logger.warning("%s: an unfinished move to %s is discarded", index, name)
            shutil.rmtree(folder)
    old_bytes = sum(path.stat().st_size for path in (index / "features").iterdir())
    done_bytes = sum(path.stat().st_size for path in folder.glob("features/*"))
    needed = max(0, round(SPARE * old_bytes * encoder.dim / store.dim) - done_bytes)
    free = shutil.disk_usage(index).free
    if needed > free:
        raise VidretError(f"{index}: free disk space must be about {needed / 1e9:.2f} GB, got {free / 1e9:.2f} GB")
    logger.info("%s: about %.2f GB more until the switch", index, needed / 1e9)
    with Store.create(
        folder, encoder_name=encoder.name, encoder_fingerprint=encoder.fingerprint, dim=encoder.dim
    ) as begun:
        begun.upkeep.continue_ids(index)
        # Before its next run, which would calibrate it.
        begun.metadata.set(UNCALIBRATED, store.metadata.get(UNCALIBRATED) or "")


def _read_settings(store: Store, encoder: Encoder) -> dict[str, Any]:
    """Return the settings of an index that its new content inherits, as arguments of ``Engine.index``."""
    follows_shots = store.metadata.get(SEGMENTS) == FOLLOW_SHOTS
    if encoder.sampling.whole:
        return {"memory": store.info().memory}
    mode = choose_mode(store.metadata.get(SAMPLING)) if follows_shots else None
    return {"shots": follows_shots, "sampling": mode, "memory": store.info().memory}


def _list_files(store: Store) -> list[str]:
    """Return the URLs and existing files of an index; frames from memory have none."""
    paths = [record.path for record in store.files.find() if record.state != "missing" and has_file(record.path)]
    return [path for path in paths if "://" in path or os.path.exists(path)]  # noqa: PTH110


def _find_lost(store: Store, folder: Path) -> tuple[tuple[str, str], ...]:
    """Return the files whose videos are in the index but not in the new one, with reasons."""
    complete = {video.id for video in store.videos.find() if video.complete}
    contents, lost = store.videos.fingerprints(), []
    with Store.open(folder) as new:
        names, done = new.videos.fingerprints(), {record.path: record for record in new.files.find(state="done")}
        kept = {names[record.video] for record in done.values() if record.video is not None}
        for record in store.files.find():
            if record.video not in complete or not record.live or record.path in done or contents[record.video] in kept:
                continue
            new_record = new.files.get(record.path)
            if not has_file(record.path):
                lost.append((record.path, "it was indexed from memory, and has no file"))
            else:
                lost.append(
                    (record.path, "the file is gone" if new_record is None else new_record.reason or new_record.state)
                )
    return tuple(lost)


def _teach_again(store: Store, engine: Engine) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Teach the concepts of an index to another one from their examples; return the taught and the failed ones."""
    taught, failed = list[str](), list[tuple[str, str]]()
    classes = defaultdict[str, dict[str, Concept]](dict)
    for concept in list_concepts(store):
        known = load_concept(store, concept.name)
        if known is not None and known.heard is not None:  # sounds do not depend on the encoder of pictures
            with Store.open(engine.path, write=True) as writer:
                save_concept(writer, known)
            taught.append(concept.name)
            continue
        if known is not None and known.direction is not None:  # its direction depends on the other classes
            prefix, label = split_class(concept)
            classes[prefix][label] = concept
            continue
        try:
            engine.teach(concept.name, concept.yes, concept.no, text=concept.text, replace=True)
            taught.append(concept.name)
        except VidretError as error:
            failed.append((concept.name, str(error)))
    for prefix, concepts in classes.items():
        lost = _classify_again(engine, prefix, concepts)
        taught += [concept.name for concept in concepts.values() if concept.name not in lost]
        failed += lost.items()
    return tuple(taught), tuple(failed)


def _classify_again(engine: Engine, prefix: str, classes: Mapping[str, Concept]) -> dict[str, str]:
    """Teach classes to an engine if their examples can be read; return the others by name, with reasons."""
    lost, teachable = dict[str, str](), dict[str, Concept]()
    with Store.open(engine.path) as store:
        for label, concept in classes.items():
            try:
                read_examples(store, engine.encoder, concept.yes)
                teachable[label] = concept
            except VidretError as error:
                lost[concept.name] = str(error)
    try:
        if len(teachable) > 1:
            engine.classify({label: concept.yes for label, concept in teachable.items()}, save=prefix)
        for concept in teachable.values() if len(teachable) == 1 else ():  # a single class has no others
            engine.teach(concept.name, concept.yes, text=concept.text, replace=True)
    except VidretError as error:
        lost |= {concept.name: str(error) for concept in teachable.values()}
    return lost


def _find_stale(store: Store, index: Path) -> tuple[str, ...]:
    """Return the data of an index that were made for its old encoder and must be made again."""
    stale = []
    if is_calibrated_by_user(store):
        stale.append(f"its calibration: vidret calibrate --bank FILE --index {index}")
    if store.metadata.get(PROBABILITIES):
        stale.append(f"its probabilities: vidret calibrate --answers FILE --index {index}")
    if (store.metadata.get(HEAD) or NONE) != NONE:
        stale.append(f"its grounding head: vidret train head --index {index} --moments FILE, or --head FILE")
    return tuple(stale)


def _keep_facts(store: Store, folder: Path) -> None:
    """Copy the settings of faces and voices to the new content, for later runs; words stay, too."""
    keys = (HAS_TEXTS, *MODEL_SETTINGS.values())
    with Store.open(folder, write=True) as new:
        new.metadata.set_many({key: fact for key in keys if (fact := store.metadata.get(key)) is not None})


def _move_watches(store: Store, index: Path, folder: Path) -> None:
    """Write the watches with the video ids of the new content to its folder, for ``_take_watches``."""
    with Store.open(folder) as new:
        contents, target = (
            {key: video for video, key in opened.videos.fingerprints().items()} for opened in (store, new)
        )
    WATCHES.write(folder, [watch.move(contents, target) for watch in WATCHES.read(index)])


def _take_watches(index: Path, folder: Path) -> None:
    """Replace the watches of an index by those of its new content, which have the same reported videos, once."""
    moved = {(watch.name, watch.query): watch for watch in WATCHES.read(folder)}
    with WATCHES.change(index) as watches:
        watches[:] = [moved.get((watch.name, watch.query), watch) for watch in watches]
    WATCHES.write(folder, [])


def _finish(index: Path, folder: Path, encoder: Encoder) -> ReindexReport:
    """Complete an index that has the new vectors with the data derived from them, and with the features for a head."""
    if Store.exists(folder):
        with Store.open(folder) as new:
            is_same = new.encoder_fingerprint == encoder.fingerprint
        if is_same:
            _take_watches(index, folder)
            if (folder / MOMENTS).is_dir():  # else a killed run has moved them
                shutil.rmtree(index / MOMENTS, ignore_errors=True)
                (folder / MOMENTS).rename(index / MOMENTS)
    with Engine(index, encoder) as engine:
        # This saves the vectors, and the statistics of all of them.
        engine.index([], words=False, people=False, speakers=False)
        num_videos = len(engine.videos())
    shutil.rmtree(folder, ignore_errors=True)
    return ReindexReport(encoder=encoder.name, switched=True, videos=num_videos)
